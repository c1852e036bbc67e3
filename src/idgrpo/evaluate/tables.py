"""The summary as rows, Markdown and LaTeX."""

from idgrpo.evaluate.document import Comparison, Figure, Report

ARROWS = {"higher": "↑", "lower": "↓", "neutral": ""}


def number(value: float | None, signed: bool = False) -> str:
    """Write a number with three decimals (more for small ones); a dash for what is not defined."""
    if value is None:
        return "–"
    digits = 3 if abs(value) >= 0.0095 or value == 0 else 4
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def with_interval(figure: Figure | None, signed: bool = False) -> str:
    """Write a figure with its interval in brackets."""
    if figure is None:
        return "–"
    if figure.low is None or figure.high is None:
        return number(figure.value, signed)
    return f"{number(figure.value, signed)} [{number(figure.low, signed)}, {number(figure.high, signed)}]"


def percent(figure: Figure | None, signed: bool = True) -> str:
    """Write a share as percent with its interval."""
    if figure is None:
        return "–"
    sign = "+" if signed else ""
    if figure.low is None or figure.high is None:
        return f"{figure.value * 100:{sign}.1f} %"
    return f"{figure.value * 100:{sign}.1f} % [{figure.low * 100:{sign}.1f}, {figure.high * 100:{sign}.1f}]"


HEADER = ("measure", "base", "tuned", "difference (95 %)", "relative", "cases improved", "p (Holm)", "verdict")


def rows(report: Report, variant: str) -> list[tuple[str, ...]]:
    """Give the comparison of a variant as text cells in the order of `HEADER`."""
    found = []
    for info in report.measures:
        entry = report.comparisons.get(variant, {}).get(info.name)
        if entry is not None:
            found.append((f"{info.title} {ARROWS[info.better]}".strip(), *_cells(entry)))
    return found


def _cells(entry: Comparison) -> tuple[str, ...]:
    p_value = "–" if entry.p_holm is None else f"{entry.p_holm:.3f}" if entry.p_holm >= 0.001 else "<0.001"
    return (
        number(entry.base),
        number(entry.tuned),
        with_interval(entry.difference, signed=True),
        percent(entry.relative),
        f"{entry.win_rate.value * 100:.0f} %",
        p_value,
        entry.verdict,
    )


def markdown(report: Report) -> str:
    """Write one Markdown table a variant; means alone when there is nothing to compare."""
    parts = []
    for variant in report.tuned_variants():
        lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
        lines += ["| " + " | ".join(row) + " |" for row in rows(report, variant)]
        parts.append(
            f"**{variant}** against {report.reference_variant}, {report.num_cases} cases\n\n" + "\n".join(lines)
        )
    if not parts:
        lines = ["| measure | mean (95 %) |", "|---|---|"]
        means = report.means[report.reference_variant]
        lines += [f"| {m.title} | {with_interval(means[m.name])} |" for m in report.measures if m.name in means]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """Write one booktabs table a variant."""
    escape = str.maketrans(
        {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--"}
    )
    parts = []
    for variant in report.tuned_variants():
        body = "\n".join(
            " & ".join(c.translate(escape).replace("<", "$<$") for c in row) + r" \\" for row in rows(report, variant)
        )
        header = " & ".join(c.translate(escape) for c in HEADER) + r" \\"
        parts.append(
            "\\begin{tabular}{l"
            + "r" * (len(HEADER) - 2)
            + "l}\n\\toprule\n"
            + f"{header}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
        )
    return "\n\n".join(parts) + "\n"


def summary_lines(report: Report) -> list[str]:
    """Write the main figures for a terminal, in columns."""
    lines: list[str] = []
    for variant in report.tuned_variants():
        lines.append(f"{variant} against {report.reference_variant}, {report.num_cases} cases, finder {report.finder}")
        for info in report.measures:
            entry = report.comparisons[variant].get(info.name)
            if entry is None or info.family == "field":
                continue
            relative = "" if entry.relative is None else f"  {entry.relative.value * 100:+.1f} %"
            change = with_interval(entry.difference, signed=True)
            lines.append(
                f"  {info.title:<32}{number(entry.base):>8} -> {number(entry.tuned):<8} {change:<28}{relative:<12}{entry.verdict}"
            )
    if not lines:
        means = report.means[report.reference_variant]
        lines = [f"{report.reference_variant}: {report.num_cases} cases, finder {report.finder}"]
        lines += [
            f"  {m.title:<32}{with_interval(means[m.name])}"
            for m in report.measures
            if m.name in means and m.family != "field"
        ]
    return lines

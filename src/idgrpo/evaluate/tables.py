"""The summary as rows, Markdown and LaTeX; all videos as CSV."""

import csv
import io

from idgrpo.evaluate.document import Comparison, Estimate, MeasureInfo, Report

ARROWS = {"higher": "↑", "lower": "↓", "neutral": ""}
VERDICTS = {"too_few": "too few cases"}
READ_FIRST = ("coverage", "face_detail")


def number(value: float | None, signed: bool = False) -> str:
    """Write a number with three decimals (more for small ones); a dash for what is not defined."""
    if value is None:
        return "–"
    digits = 3 if abs(value) >= 0.0095 or value == 0 else 4
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def with_interval(estimate: Estimate | None, signed: bool = False) -> str:
    """Write an estimate with its interval in brackets."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, signed)
    return f"{number(estimate.value, signed)} [{number(estimate.low, signed)}, {number(estimate.high, signed)}]"


def percent(estimate: Estimate | None, signed: bool = True) -> str:
    """Write a share as percent with its interval."""
    if estimate is None:
        return "–"
    sign = "+" if signed else ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value * 100:{sign}.1f} %"
    return f"{estimate.value * 100:{sign}.1f} % [{estimate.low * 100:{sign}.1f}, {estimate.high * 100:{sign}.1f}]"


HEADER = ("measure", "base", "tuned", "difference (95 %)", "relative", "cases improved", "p", "verdict")


def titled(info: MeasureInfo) -> str:
    """Write a measure's title with the arrow of its better direction."""
    return f"{info.title} {ARROWS[info.better]}".strip()


def improved(info: MeasureInfo, entry: Comparison) -> str:
    """Write the share of cases that improved; a dash for a measure that has no better direction."""
    return "–" if info.better == "neutral" else f"{entry.win_rate.value * 100:.0f} %"


def p_value(entry: Comparison) -> str:
    """Write the p-value that the verdict looks at: corrected, or its own for the headline pair and what is not tested."""
    value = entry.p_value if entry.p_holm is None else entry.p_holm
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def ordered(report: Report) -> list[MeasureInfo]:
    """List the measures, headline pair first, then whether faces can be seen at all, then the rest as it comes."""
    first = [*report.pair(), *READ_FIRST]
    return sorted(report.measures, key=lambda m: first.index(m.name) if m.name in first else len(first))


def rows(report: Report, variant: str) -> list[tuple[str, ...]]:
    """Give the comparison of a variant as text cells in the order of `HEADER`, the headline pair first."""
    found = []
    for info in ordered(report):
        entry = report.comparisons.get(variant, {}).get(info.name)
        if entry is not None:
            found.append((titled(info), *_cells(info, entry)))
    return found


def _cells(info: MeasureInfo, entry: Comparison) -> tuple[str, ...]:
    return (
        number(entry.base),
        number(entry.tuned),
        with_interval(entry.difference, signed=True),
        percent(entry.relative),
        improved(info, entry),
        p_value(entry),
        VERDICTS.get(entry.verdict, entry.verdict),
    )


def _num_headlines(report: Report, variant: str) -> int:
    return sum(name in report.comparisons[variant] for name in report.pair())


def markdown(report: Report) -> str:
    """Write one Markdown table a variant, the headline pair first and bold, alarms below; means alone when nothing is
    compared."""
    parts = []
    for variant in report.tuned_variants():
        lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
        bold = _num_headlines(report, variant)
        for index, row in enumerate(rows(report, variant)):
            cells = [f"**{cell}**" for cell in row] if index < bold else row
            lines.append("| " + " | ".join(cells) + " |")
        alarms = [v for v in report.diagnostics if v.variant == variant and v.level == "alarm"]
        lines += ["", *(f"- alarm: {v.name}: {v.text}" for v in alarms)] if alarms else []
        parts.append(
            f"**{variant}** against {report.reference_variant}, {report.num_cases} cases\n\n" + "\n".join(lines)
        )
    if not parts:
        lines = ["| measure | mean (95 %) |", "|---|---|"]
        means = report.means[report.reference_variant]
        lines += [f"| {titled(m)} | {with_interval(means[m.name])} |" for m in ordered(report) if m.name in means]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """Write one booktabs table a variant, the headline pair first and set apart by a rule."""
    escape = str.maketrans(
        {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--"}
    )
    parts = []
    for variant in report.tuned_variants():
        lines = [
            " & ".join(c.translate(escape).replace("<", "$<$") for c in row) + r" \\" for row in rows(report, variant)
        ]
        lines.insert(_num_headlines(report, variant), r"\midrule")
        body = "\n".join(lines)
        header = " & ".join(c.translate(escape) for c in HEADER) + r" \\"
        parts.append(
            "\\begin{tabular}{l"
            + "r" * (len(HEADER) - 2)
            + "l}\n\\toprule\n"
            + f"{header}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
        )
    return "\n\n".join(parts) + "\n"


def samples_csv(report: Report) -> str:
    """Write every video with all its measures, one line each, as CSV; an undefined value is empty.

    `each_person` holds the scores of the people in the order of `people`, such as identity=0.91/0.42.
    """
    names = [info.name for info in report.measures]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "case", "seed", "prompt", "people", *names, "each_person"])
    for sample in report.samples:
        each = ";".join(f"{name}={'/'.join(f'{v:.4f}' for v in scores)}" for name, scores in sample.people.items())
        values = ["" if (value := sample.values.get(name)) is None else f"{value:.6g}" for name in names]
        people = ";".join(sample.persons)
        writer.writerow([sample.variant, sample.case_id, sample.seed, sample.prompt, people, *values, each])
    return text.getvalue()


def summary_lines(report: Report) -> list[str]:
    """Write the main figures for a terminal, in columns; the headline pair first."""
    lines: list[str] = []
    for variant in report.tuned_variants():
        lines.append(f"{variant} against {report.reference_variant}, {report.num_cases} cases, finder {report.finder}")
        for info in ordered(report):
            entry = report.comparisons[variant].get(info.name)
            if entry is None or info.family == "field":
                continue
            relative = "" if entry.relative is None else f"  {entry.relative.value * 100:+.1f} %"
            change = with_interval(entry.difference, signed=True)
            verdict = VERDICTS.get(entry.verdict, entry.verdict)
            lines.append(
                f"  {titled(info):<34}{number(entry.base):>8} -> {number(entry.tuned):<8} {change:<28}{relative:<12}{verdict}"
            )
    if not lines:
        means = report.means[report.reference_variant]
        lines = [f"{report.reference_variant}: {report.num_cases} cases, finder {report.finder}"]
        lines += [
            f"  {titled(m):<34}{with_interval(means[m.name])}"
            for m in ordered(report)
            if m.name in means and m.family != "field"
        ]
    return lines

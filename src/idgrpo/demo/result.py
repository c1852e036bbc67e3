"""What the demo ends with: one document, a table for people, and the table of evidence."""

from pathlib import Path
from typing import Any

GAP_PX = 24
MOTION, SHARPNESS, TEMPLATE = "dynamic_degree", "sharpness", "identity_by_template"


def demo_document(
    reward: dict[str, Any],
    results: list[dict[str, Any]],
    seconds: dict[str, float],
    total_s: float,
    pages: dict[str, str],
) -> dict[str, Any]:
    """Join the figures of all steps into the document that `--json` prints."""
    return {
        "rm_accuracy_decided": reward["rm_accuracy_decided"],
        "reward_model": reward,
        "bases": [_figures(result) for result in results],
        **pages,
        "seconds": {**{stage: round(value, 1) for stage, value in seconds.items()}, "total": round(total_s, 1)},
        "seeds": sorted({result["seed"] for result in results}),
    }


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    report = result["report"]
    means, pairs = report["means"], report["comparisons"]["tuned"]

    def both(measure: str, key: str) -> dict[str, float | None]:
        return {
            f"{key}_{side}": means[side][measure]["value"] if measure in means[side] else None
            for side in ("base", "tuned")
        }

    relative = pairs["identity"]["relative"] or {}
    template = pairs.get(TEMPLATE, {}).get("relative") or {}
    return {
        "base": result["base"],
        "seed": result["seed"],
        "sft_updates": result["sft_updates"],
        "updates": result["updates"],
        **both("identity", "identity"),
        "gain_relative": relative.get("value"),
        "ci95": [relative.get("low"), relative.get("high")],
        **both("worst", "worst"),
        **both("separation", "separation"),
        "separation_gain": (pairs.get("separation", {}).get("relative") or {}).get("value"),
        "separation_ci95": _interval(pairs.get("separation", {}).get("relative")),
        **both("confusion", "confusion"),
        **both("margin", "margin"),
        **both("swap_rate", "swap_rate"),
        **both("wrong_reference", "wrong_reference"),
        **both(SHARPNESS, "sharpness"),
        **both(MOTION, "motion"),
        **both(TEMPLATE, "identity_by_template"),
        "gain_relative_by_template": template.get("value"),
        "policy": result["policy"],
        "report_artifact": report["artifact"],
        "report": report["report"],
        "contact_sheet": report["contact_sheet"],
        "diagnostics": report["diagnostics"],
    }


def _interval(figure: dict[str, Any] | None) -> list[float | None]:
    return [None, None] if figure is None else [figure["low"], figure["high"]]


def write_page(results: list[dict[str, Any]], folder: Path) -> dict[str, str]:
    """Write one page with a tab per base, and one picture, base beside base, of the first seed; returns their paths."""
    import torch
    import torch.nn.functional as F

    from idgrpo.evaluate.config import PageConfig
    from idgrpo.evaluate.document import read_report
    from idgrpo.evaluate.report import write_page as write_tabs
    from idgrpo.video.read import read_image
    from idgrpo.video.write import write_image

    first = [result for result in results if result["seed"] == results[0]["seed"]]
    page, picture = folder / "report.html", folder / "contact_sheet.png"
    titles = PageConfig(
        title="idgrpo on the embedded world",
        subtitle="people, scenes and noise that no model was trained on; before and after GRPO",
    )
    write_tabs(
        [read_report(Path(result["report"]["path"])) for result in first],
        page,
        titles,
        names=[result["base"] for result in first],
    )
    sheets = [read_image(Path(result["report"]["contact_sheet"])) for result in first]
    height = max(sheet.shape[1] for sheet in sheets)
    beside = [F.pad(sheet, (0, GAP_PX, 0, height - sheet.shape[1]), value=255) for sheet in sheets]
    write_image(picture, torch.cat(beside, dim=2))
    return {"report": str(page), "contact_sheet": str(picture)}


SHOWN = {
    "identity": "identity",
    "separation": "separation",
    "worst": "worst person",
    "confusion": "confusion",
    "margin": "margin",
    "swap_rate": "swap rate",
    "wrong_reference": "wrong people",
    "sharpness": "sharpness",
    "motion": "motion",
}
"""Measures of the demo's tables and their titles; the first two are the headline pair."""


def demo_summary(document: dict[str, Any]) -> list[str]:
    """Write the closing table."""
    reward = document["reward_model"]
    lines = [
        "",
        "Reward model, on people it has never seen (share of pairs it orders as the truth does)",
        f"  damaged against clean        {_percent(document['rm_accuracy_decided'])}  ({reward['num_distortion_pairs']} pairs)",
        f"  two generated clips          {_percent(reward['rm_accuracy_generated'])}  ({reward['num_generated_pairs']} pairs)",
        f"  the clearer half of those    {_percent(reward['rm_accuracy_generated_clearer_half'])}",
        "",
        "Videos of people never seen, base -> tuned, by a measure that is neither the reward nor the annotators'",
        "  identity: likeness to the person asked for; separation: identity minus likeness to the other people asked for",
    ]
    for row in document["bases"]:
        gains = " and ".join(
            f"{name} {_signed(row[gain])} ({_signed(row[interval][0])} to {_signed(row[interval][1])})"
            for name, gain, interval in (
                ("identity", "gain_relative", "ci95"),
                ("separation", "separation_gain", "separation_ci95"),
            )
        )
        lines += ["", f"  {row['base']}, seed {row['seed']}: {gains}"]
        cells = [f"{title} {_arrow(row, name)}" for name, title in SHOWN.items()]
        lines += [
            "    " + "   ".join(f"{cell:<32}" for cell in cells[k : k + 3]).rstrip() for k in range(0, len(cells), 3)
        ]
        lines += [f"    {verdict['level']}: {verdict['name']}: {verdict['text']}" for verdict in _doubts(row)]
    minutes = document["seconds"]["total"] / 60
    return [
        *lines,
        "",
        f"report   {document['report']}",
        f"picture  {document['contact_sheet']}",
        f"done in {minutes:.1f} minutes",
    ]


def _doubts(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [verdict for verdict in row["diagnostics"] if verdict["level"] in ("alarm", "watch")]


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return sum(known) / len(known) if known else None


def write_evidence(document: dict[str, Any], path: Path) -> None:
    """Write the table of all seeds as Markdown."""
    reward = document["reward_model"]
    head = ["base", "seed", *SHOWN.values(), "identity gain", "separation gain"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in document["bases"]:
        gains = [
            f"{_signed(row[gain])} ({_signed(row[interval][0])} to {_signed(row[interval][1])})"
            for gain, interval in (("gain_relative", "ci95"), ("separation_gain", "separation_ci95"))
        ]
        lines.append(
            f"| {' | '.join([row['base'], str(row['seed']), *(_arrow(row, name) for name in SHOWN), *gains])} |"
        )
    for base in dict.fromkeys(row["base"] for row in document["bases"]):
        rows = [row for row in document["bases"] if row["base"] == base]
        means = {f"{name}_{side}": _mean(rows, f"{name}_{side}") for name in SHOWN for side in ("base", "tuned")}
        gains = [f"**{_signed(_mean(rows, key))}**" for key in ("gain_relative", "separation_gain")]
        cells = [f"**{base}**", f"mean of {len(rows)}", *(_arrow(means, name) for name in SHOWN), *gains]
        lines.append(f"| {' | '.join(cells)} |")
    odd = [
        f"{row['base']}, seed {row['seed']}: {verdict['name']}: {verdict['text']} ({verdict['level']})"
        for row in document["bases"]
        for verdict in _doubts(row)
    ]
    lines += [
        "",
        "Base -> tuned; gains with 95 % intervals. Diagnostics: "
        + ("; ".join(odd) if odd else "all ok in every run")
        + ".",
        "",
        f"Reward model on people never seen: {_percent(document['rm_accuracy_decided'])} of {reward['num_distortion_pairs']} distortion pairs, "
        f"{_percent(reward['rm_accuracy_generated'])} of {reward['num_generated_pairs']} pairs of generated clips, "
        f"{_percent(reward['rm_accuracy_generated_clearer_half'])} of the clearer half.",
        "",
        "| distortion | accuracy |",
        "| --- | --- |",
        *(f"| {kind} | {_percent(value)} |" for kind, value in reward["rm_accuracy_by_distortion"].items()),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _percent(value: float | None) -> str:
    return "   -  " if value is None else f"{100 * value:5.1f} %"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"


def _arrow(row: dict[str, Any], key: str) -> str:
    before, after = row[f"{key}_base"], row[f"{key}_tuned"]
    return "-" if before is None or after is None else f"{before:.3f} -> {after:.3f}"

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
        "Identity of people never seen, by a measure that is neither the reward nor the annotators'",
        f"  {'base':<14}{'seed':>4}  {'before':>7} {'after':>7} {'gain':>8}   {'95 % interval':<18} {'worst person':<16} {'wrong people':<16} {'sharpness':<14} motion",
    ]
    for row in document["bases"]:
        low, high = row["ci95"]
        lines.append(
            f"  {row['base']:<14}{row['seed']:>4}  {row['identity_base']:>7.3f} {row['identity_tuned']:>7.3f} {_signed(row['gain_relative']):>8}"
            f"   {_signed(low)} to {_signed(high):<8} {_arrow(row, 'worst'):<16} {_arrow(row, 'wrong_reference'):<16} {_arrow(row, 'sharpness'):<14} {_arrow(row, 'motion')}"
        )
    minutes = document["seconds"]["total"] / 60
    return [
        *lines,
        "",
        f"report   {document['report']}",
        f"picture  {document['contact_sheet']}",
        f"done in {minutes:.1f} minutes",
    ]


def _mean_change(rows: list[dict[str, Any]], key: str) -> float:
    """Return the relative change of a measure from base to tuned, mean over rows."""
    return sum(row[f"{key}_tuned"] / row[f"{key}_base"] - 1 for row in rows) / len(rows)


def write_evidence(document: dict[str, Any], path: Path) -> None:
    """Write the table of all seeds as Markdown."""
    reward = document["reward_model"]
    lines = [
        "| base | seed | updates | identity | gain | 95 % interval | by template | worst person | wrong people | sharpness | motion |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in document["bases"]:
        low, high = row["ci95"]
        lines.append(
            f"| {row['base']} | {row['seed']} | {row['updates']} | {_arrow(row, 'identity')} | {_signed(row['gain_relative'])} | "
            f"{_signed(low)} to {_signed(high)} | {_signed(row['gain_relative_by_template'])} | {_arrow(row, 'worst')} | "
            f"{_arrow(row, 'wrong_reference')} | {_arrow(row, 'sharpness')} | {_arrow(row, 'motion')} |"
        )
    for base in dict.fromkeys(row["base"] for row in document["bases"]):
        rows = [row for row in document["bases"] if row["base"] == base]
        gain = sum(row["gain_relative"] for row in rows) / len(rows)
        changes = " | ".join(
            _signed(_mean_change(rows, key)) for key in ("worst", "wrong_reference", "sharpness", "motion")
        )
        lines.append(f"| **{base}, mean of {len(rows)} seeds** | | | | **{_signed(gain)}** | | | {changes} |")
    odd = [
        f"{row['base']}, seed {row['seed']}: {verdict['name']}: {verdict['text']} ({verdict['level']})"
        for row in document["bases"]
        for verdict in row["diagnostics"]
        if verdict["level"] != "ok"
    ]
    lines += [
        "",
        "Diagnostics of reward hacking: " + ("; ".join(odd) if odd else "all ok in every run") + ".",
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

"""What the page's script works on: one JSON document a report, written beside the page as text and bounded in size."""

import json
from collections.abc import Sequence
from typing import Any

from idgrpo.evaluate.document import Report, SampleDocument, Track

DIGITS = 6


def key_of(sample: SampleDocument) -> str:
    """Name a case and seed on the page; base and tuned share it."""
    return f"{sample.case_id}|{sample.seed}"


def people_of(sample: SampleDocument) -> list[str]:
    """Name the people asked for; by number in reports that do not hold their names."""
    return sample.persons or [f"person {i + 1}" for i in range(len(sample.references))]


def page_data(report: Report, shown: Sequence[SampleDocument], *, complete: bool) -> str:
    """Write measures, values of videos and the tracks of the `shown` ones as JSON that may stand in a script element.

    Values are those of all videos, or of the `shown` ones where all would need too many bytes (`complete` false).
    """
    names = [info.name for info in report.measures]
    document: dict[str, Any] = {
        "variants": [v.name for v in report.variants],
        "reference": report.reference_variant,
        "headlines": report.pair(),
        "measures": [
            {"name": m.name, "title": m.title, "better": m.better, "definition": m.definition} for m in report.measures
        ],
        "rows": [_row(sample, names) for sample in (report.samples if complete else shown)],
        "complete": complete,
        "clips": {f"{key_of(s)}|{s.variant}": _clip(s) for s in shown},
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _row(sample: SampleDocument, names: Sequence[str]) -> dict[str, Any]:
    values = [sample.values.get(name) for name in names]
    return {
        "case": sample.case_id, "seed": sample.seed, "variant": sample.variant, "prompt": sample.prompt,
        "people": people_of(sample), "values": [None if v is None else round(v, DIGITS) for v in values],
        "each": {name: [round(v, 3) for v in scores] for name, scores in sample.people.items()},
    }  # fmt: skip


def _clip(sample: SampleDocument) -> dict[str, Any]:
    return {"fps": sample.fps or 16, "frames": sample.num_frames, "tracks": [_track(track) for track in sample.tracks]}


def _track(track: Track) -> dict[str, Any]:
    return {
        "person": track.person, "frames": track.frames, "boxes": [[round(v, 3) for v in box] for box in track.boxes],
        "similarity": track.similarity, "nearest": track.nearest,
    }  # fmt: skip

"""A stage that was stopped half-way, with one of its inputs edited at the same path: another run, and the old one goes on."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from idgrpo.errors import StoppedError
from idgrpo.stages.work import Work


def edit_text(old: str, new: str):
    def edit(file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def swap_with(other: str):
    """Put another file's content there: as good an input, and not the same."""

    def edit(file: Path) -> None:
        shutil.copyfile(sorted(file.parent.glob(other))[-1], file)

    return edit


def touch_up(file: Path) -> None:
    """Change a corner of a picture: the same person, another file."""
    with Image.open(file) as image:
        changed = image.copy()
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(file)


EDITS = {
    ("sample", "cases.jsonl"): edit_text("one and two", "two and one"),
    ("sample", "portraits/train-5-0000-0.png"): touch_up,
    ("distort", "samples.jsonl"): edit_text('"seed":0', '"seed":1'),
    ("distort", "videos/train-5-0000.mp4"): swap_with("*.mp4"),
    ("annotate", "samples.jsonl"): edit_text('"prompt":"', '"prompt":"Again, '),
    ("annotate", "videos/train-5-0000.mp4"): swap_with("*.mp4"),
    ("train-rm", "prefs.jsonl"): edit_text('"label":"a"', '"label":"tie"'),
    ("train-rm", "videos/train-5-0000.mp4"): swap_with("*.mp4"),
    ("train-policy", "cases.jsonl"): edit_text('"prompt":"', '"prompt":"Again, '),
    ("train-policy", "portraits/train-5-0000-0.png"): touch_up,
    ("eval", "samples.jsonl"): edit_text('"seed":0', '"seed":1'),
    ("eval", "videos/train-5-0000.mp4"): swap_with("*.mp4"),
    ("cases", "cases.jsonl"): edit_text('"prompt":"', '"prompt":"Again, '),
    ("cases", "portraits/train-5-0000-0.png"): touch_up,
}


@pytest.mark.parametrize(("stage", "name"), EDITS)
def test_an_edited_input_is_another_run_and_the_old_one_goes_on(place, monkeypatch, stage, name):
    file = place.root / name
    before = file.read_bytes()

    def stop(work: Work) -> None:
        raise StoppedError("stopped before it was published")

    with monkeypatch.context() as patch:
        patch.setattr(Work, "_tell_changes", stop)
        assert place.run(place.words(stage)).code == StoppedError.exit_code
    old = set((place.root / "store" / "runs").iterdir())
    assert old
    EDITS[stage, name](file)
    new = place.works(place.words(stage))
    assert old <= set((place.root / "store" / "runs").iterdir()), "the old run is kept"
    file.write_bytes(before)
    again = place.works(place.words(stage))
    assert again["artifact"] != new["artifact"]
    assert pins(place, again["artifact"]) != pins(place, new["artifact"])
    assert place.works(place.words(stage))["artifact"] == again["artifact"], "each content finds its own"


def pins(place, ref: str) -> str:
    """What an artifact and all it was made from were pinned by."""
    made = [step.artifact for step in place.store.lineage(place.store.resolve(ref)) if step.artifact is not None]
    facts = [
        [sorted(entry.digest for entry in one.manifest.inputs.values()), one.manifest.config.get("media")]
        for one in made
    ]
    return json.dumps(facts)

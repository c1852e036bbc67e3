"""The smallest inputs of every stage, and the command lines that are killed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.place import TINY_POLICY, Place, publish_files, write_files

from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Pair, Preference
from idgrpo.store.store import Store

NUM_PAGE_PAIRS = 8000


@dataclass(frozen=True)
class Stage:
    """A command line; `{w}` is the folder of the world, `{s}` the store.

    Attributes:
        share: of the kills.
        again: what the second call adds.
    """

    words: tuple[str, ...]
    share: float
    again: tuple[str, ...] = ()

    def arguments(self, root: Path, *more: str) -> list[str]:
        store = root / "store"
        return [word.replace("{w}", str(root)).replace("{s}", str(store)) for word in (*self.words, *more)] + (
            ["--store", str(store)]
        )


STAGES = {
    "cases": Stage(("cases", "--num", "2", "--name", "k"), 0.11),
    "cases of a file": Stage(("cases", "{w}/cases.jsonl", "--name", "k"), 0.11),
    "sample": Stage(("sample", "--base", "tiny-phantom", "--cases", "cases/world", "--steps", "2", "--name", "k"), 0.1),
    "distort": Stage(("distort", "--data", "{w}/one.jsonl", "--per-video", "1", "--name", "k"), 0.08),
    "distort with workers": Stage(
        ("distort", "--data", "{w}/samples.jsonl", "--per-video", "1", "--workers", "2", "--name", "k"), 0.005
    ),
    "annotate by oracle": Stage(
        ("annotate", "--by", "oracle", "--samples", "samples/samples", "--samples", "samples/wrong", "--name", "k"),
        0.14,
    ),
    "train-rm": Stage(("train-rm", "--data", "{w}/prefs.jsonl", "--set", "head.epochs=1", "--name", "k"), 0.06),
    "train-policy": Stage(
        (
            "train-policy",
            "--base",
            "tiny-phantom",
            "--cases",
            "{w}/cases.jsonl",
            "--rm",
            "rm/rm",
            *TINY_POLICY,
            "--set",
            "checkpoint.every=1",
            "--updates",
            "2",
            "--name",
            "k",
        ),
        0.05,
    ),
    "eval": Stage(
        ("eval", "--samples", "base=samples/wrong", "--samples", "tuned=samples/samples", "--name", "k"), 0.06
    ),
    "artifacts prune": Stage(("artifacts", "prune"), 0.11),
    "artifacts export": Stage(("artifacts", "export", "preferences/pairs", "{w}/store/out.jsonl"), 0.09, ("--force",)),
}
PAGE_SHARE = 0.085
"""Of the kills, for the server of the annotation page."""


def make_world(root: Path) -> None:
    """Write files and a store with something of every kind that the stages read; `template/` is the store to copy."""
    place = Place(root)
    root.mkdir(parents=True)
    write_files(root)
    lines = (root / "samples.jsonl").read_text().splitlines()
    (root / "one.jsonl").write_text(lines[0] + "\n")
    publish_files(place)
    _publish_versions(place.store)
    first = next(iter(read_records(root / "prefs.jsonl", Preference)))
    pair = Pair(**{name: getattr(first, name) for name in Pair.model_fields})
    write_records(
        root / "pairs.jsonl",
        (pair.model_copy(update={"pair_id": f"pair-{number:04d}"}) for number in range(NUM_PAGE_PAIRS)),
    )


def _publish_versions(store: Store) -> None:
    """Publish several versions of a name, so that pruning has something to remove, and something that keeps one."""
    for version in range(6):
        with store.publish("policy", "many", inputs={}, config={"version": version}) as draft:
            for name in ("adapter.safetensors", "policy.json", "previews/one.mp4"):
                (draft.path / name).parent.mkdir(exist_ok=True)
                (draft.path / name).write_bytes(bytes([version]) * 1000)
        if version == 2:
            with store.publish("report", "kept", inputs={"policy": draft.artifact}, config={}) as report:
                (report.path / "report.json").write_text("{}")


def fresh_store(root: Path) -> None:
    """Put the store back as the template has it."""
    shutil.rmtree(root / "store", ignore_errors=True)
    shutil.copytree(root / "template", root / "store")

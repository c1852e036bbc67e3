"""What is read from disk, of every format: how to make a whole file, and how the stages read it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.records.test_mutants import FORMATS as RECORDS
from tests.records.test_mutants import rows
from tests.video.test_mutants import clip, picture


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        make: writes a whole one into a folder and gives the file that is damaged.
        read: reads it as a stage does; what it gives is searched for numbers that are not finite.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    is_binary: bool = False


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Write one file."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


# -- texts -----------------------------------------------------------------------------------------------------------------


def _votes(path: Path) -> Any:
    from idgrpo.annotate.doubts import vote_check
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Vote

    return list(read_records(path, Vote, check=vote_check()))


def _pairs(path: Path) -> Any:
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Pair

    return list(read_records(path, Pair, unique="pair_id"))


def _artifact(folder: Path) -> Path:
    from idgrpo.store.store import Store

    with Store(folder / "store").publish("rm", "r", inputs={}, config={"a": [1, {"b": None}]}) as draft:
        (draft.path / "w").write_text("x")
        draft.metrics["accuracy"] = 0.5
    return draft.artifact.path / "manifest.json"


def _manifest(path: Path) -> Any:
    from idgrpo.store.store import Store

    store = Store(path.parents[4])
    list(store.list())
    return store.resolve(str(path.parent)).manifest


def _tags(path: Path) -> Any:
    from idgrpo.store.tags import read_tags

    return read_tags(path.parent)


def _policy(path: Path) -> Any:
    from idgrpo.bases.policy_card import read_policy_card

    return read_policy_card(path.parent)


def _reward_card(path: Path) -> Any:
    from idgrpo.reward.model import load_card

    return load_card(path.parent)


def _report_file(folder: Path) -> Path:
    from tests.hostile.world import make_world

    from idgrpo.cli.main import run

    if not (folder / "w").exists():
        make_world(folder / "w")
    store = folder / "w" / "store"
    samples = ("--samples", "base=samples/wrong", "--samples", "tuned=samples/samples")
    assert run(["eval", *samples, "--store", str(store), "--quiet"]) == 0
    return next(store.glob("artifacts/report/eval/*/report.json"))


def _report(path: Path) -> Any:
    from idgrpo.evaluate.document import read_report

    return read_report(path)


def _config(stage: str, module: str, name: str) -> Format:
    def make(folder: Path) -> Path:
        from importlib import import_module

        from idgrpo.run.config import to_toml

        path = folder / f"{stage}.toml"
        path.write_text(to_toml(getattr(import_module(module), name)()))
        return path

    def read(path: Path) -> Any:
        from importlib import import_module

        from idgrpo.run.config import load_config

        return load_config(getattr(import_module(module), name), path)

    return Format(make, read)


def _metrics(path: Path) -> Any:
    from idgrpo.run.metrics import MetricsLog

    list(MetricsLog.read(path))
    return None


def _gates(path: Path) -> Any:
    from idgrpo.evaluate.gates import parse_bounds

    return parse_bounds(path.read_bytes().decode(errors="replace").splitlines(), f"--min (of {path})")


TEXTS: dict[str, Format] = {
    name: Format(written(name, text(rows)), read) for name, (text, read) in RECORDS.items() if name != "policy.json"
}
VOTE_ROWS = "".join(
    json.dumps(
        {"vote_id": f"v{i}", "pair_id": f"p{i}", "annotator": "a", "answer": "a", "shown": "left", "a_is_left": True}
        | {"seconds": 2.5, "time_utc": "2026-01-31T12:00:00+00:00"}
    )
    + "\n"
    for i in range(3)
)
POLICY = {
    "base": "tiny-phantom", "size": {"width": 32, "height": 32, "frames": 9}, "reversed_references": False,
    "schedule": {"shift": 3.0, "sigmas": [1.0, 0.5, 0.0], "guidance": {"mode": "both-grad", "scale": 3.0, "image_scale": 2.0}},
}  # fmt: skip
TEXTS |= {
    "checked votes.jsonl": Format(written("votes.jsonl", VOTE_ROWS), _votes),
    "pairs.jsonl": Format(
        written("pairs.jsonl", "".join(
            json.dumps({"pair_id": f"p{i}", "case_id": "c", "prompt": "x", "video_a": "a.mp4", "video_b": "b.mp4",
                        "references": [{"person": "anna", "images": ["a.png"]}], "origin": {"x": [1, None]}}) + "\n"
            for i in range(3)
        )), _pairs
    ),
    "manifest.json": Format(_artifact, _manifest),
    "tags.json": Format(written("tags.json", json.dumps({"best": "rm/r@v1", "old": "rm/r@v2"})), _tags),
    "policy.json": Format(written("policy.json", json.dumps(POLICY)), _policy),
    "report.json": Format(_report_file, _report),
    "metrics.jsonl": Format(
        written("metrics.jsonl", "".join(json.dumps({"step": i, "loss": 0.5}) + "\n" for i in range(4))), _metrics
    ),
    "gates": Format(written("gates.txt", "identity=0.4\nmotion=0.1\n"), _gates),
    "sample.toml": _config("sample", "idgrpo.bases.config", "SampleConfig"),
    "annotate.toml": _config("annotate", "idgrpo.annotate.config", "AnnotateConfig"),
    "distort.toml": _config("distort", "idgrpo.distort.config", "DistortConfig"),
    "train-rm.toml": _config("train-rm", "idgrpo.reward.config", "RewardModelConfig"),
    "train-policy.toml": _config("train-policy", "idgrpo.policy.config", "PolicyConfig"),
    "eval.toml": _config("eval", "idgrpo.evaluate.config", "EvaluateConfig"),
}  # fmt: skip


# -- binaries --------------------------------------------------------------------------------------------------------------


def _image(path: Path) -> Any:
    from idgrpo.video.read import read_image

    return read_image(path)


def _video(path: Path) -> Any:
    from idgrpo.video.probe import probe
    from idgrpo.video.read import read_video

    probe(path)
    return read_video(path)


def _adapter_file(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    path = folder / "pytorch_lora_weights.safetensors"
    state = {
        f"transformer.blocks.{block}.attn1.to_q.lora_{side}.weight": torch.randn(shape)
        for block in range(2)
        for side, shape in (("A", (2, 16)), ("B", (16, 2)))
    }
    save_file(state, path, metadata={"format": "pt"})
    return path


def _adapter(path: Path) -> Any:
    from idgrpo.bases.export import read_adapter

    return list(read_adapter(path.parent).state.values())


def _checkpoint_file(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import torch

        from idgrpo.run.checkpoint import Checkpoints

        checkpoints = Checkpoints(folder / "checkpoints")
        for step in (1, 2):
            checkpoints.save(step, lambda path: torch.save({"w": torch.ones(8)}, path / "trainer.pt"), {"n": 1})
        return folder / "checkpoints" / "step-000002" / name

    return make


def _checkpoint(path: Path) -> Any:
    import torch

    from idgrpo.run.checkpoint import Checkpoints

    found = Checkpoints(path.parents[1]).latest()
    assert found is not None, "the one before is whole"
    return torch.load(found.path / "trainer.pt", weights_only=True)["w"]


def _session_file(folder: Path) -> Path:
    from idgrpo.annotate.schema import open_database

    open_database(folder / "session.sqlite").close()
    return folder / "session.sqlite"


def _session(path: Path) -> Any:
    from idgrpo.annotate import queue
    from idgrpo.annotate.schema import naming_damage, open_database

    for beside in path.parent.glob("session.sqlite-*"):
        beside.unlink()
    database = open_database(path)
    try:
        with naming_damage(path):
            return [vote.seconds for vote in queue.read_votes(database)]
    finally:
        database.close()


BINARIES: dict[str, Format] = {
    **{name: Format(lambda folder, name=name: picture(folder / name), _image, True) for name in ("a.png", "a.jpg")},
    **{name: Format(lambda folder, name=name: clip(folder / name), _video, True) for name in ("a.mp4", "a.mkv")},
    "lossless.mp4": Format(lambda folder: clip(folder / "lossless.mp4"), _video, True),
    "adapter.safetensors": Format(_adapter_file, _adapter, True),
    "checkpoint weights": Format(_checkpoint_file("trainer.pt"), _checkpoint, True),
    "checkpoint state": Format(_checkpoint_file("state.json"), _checkpoint, True),
    "checkpoint seal": Format(_checkpoint_file("sealed.json"), _checkpoint, True),
    "session.sqlite": Format(_session_file, _session, True),
}
FORMATS = TEXTS | BINARIES
BY_LINE = ("cases.jsonl", "samples.jsonl", "prefs.jsonl", "checked votes.jsonl", "pairs.jsonl", "trl.jsonl")

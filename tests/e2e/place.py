"""A folder with inputs and a store, the command lines that work on it, and what must hold after a refusal."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from idgrpo.cli.main import run
from idgrpo.store.store import Store

NUM_CASES = 3
SPLITS = ("train", "validation", "test")
TINY_POLICY = (
    *("--updates", "1", "--set", "group.num_cases=2", "--set", "group.size=2", "--set", "rollout.num_steps=3"),
    *("--set", "rollout.window.last=2", "--set", "lora.rank=2", "--set", "preview.every=0"),
)
FROM_FILES = {
    "annotate": ["--by", "oracle", "--samples", "{w}/samples.jsonl", "--samples", "{w}/wrong.jsonl"],
    "distort": ["--data", "{w}/samples.jsonl", "--per-video", "1"],
    "train-rm": ["--data", "{w}/prefs.jsonl", "--set", "head.epochs=1"],
    "train-policy": ["--base", "tiny-phantom", "--cases", "{w}/cases.jsonl", "--rm", "rm", *TINY_POLICY],
    "sample": ["--base", "tiny-phantom", "--cases", "{w}/cases.jsonl", "--steps", "2"],
    "eval": ["--samples", "base={w}/wrong.jsonl", "--samples", "tuned={w}/samples.jsonl"],
    "cases": ["{w}/cases.jsonl"],
}
RESULT = {
    "annotate": "preferences",
    "distort": "preferences",
    "train-rm": "rm",
    "train-policy": "policy",
    "sample": "samples",
    "eval": "report",
    "cases": "cases",
}
STAGES = tuple(stage for stage in FROM_FILES if stage != "cases")  # those with settings


@dataclass
class Answer:
    """What a command line gave."""

    code: int
    document: dict[str, Any]
    err: str


class Place:
    """`root` holds cases.jsonl, portraits/, videos/, samples.jsonl, wrong.jsonl, prefs.jsonl and store/."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str] | None = None):
        self.root = root
        self.store = Store(root / "store")
        self._capsys = capsys

    def words(self, stage: str, *more: str, name: str | None = "again") -> list[str]:
        """Give a command line of a stage that works from files; `name` keeps it from finding what the world has."""
        words = [stage, *FROM_FILES[stage], *more, "--store", "{w}/store", *(("--name", name) if name else ())]
        return [word.replace("{w}", str(self.root)) for word in words]

    def run(self, words: list[str]) -> Answer:
        """Run a command line with --json; the document on stdout and the text on stderr must tell the same."""
        assert self._capsys is not None
        self._capsys.readouterr()
        code = run([*words, "--json"])
        out, err = self._capsys.readouterr()
        document = json.loads(out)
        assert "Traceback" not in err
        if code:
            assert document["exit_code"] == code
            assert err.startswith("error: ") or "\nerror: " in err
            assert document["error"]["message"].splitlines()[0] in err
        return Answer(code, document, err)

    def files(self) -> dict[str, str]:
        """Hash all files but those of runs and caches, which are no results."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and not name.startswith(("store/runs/", "store/cache/")):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def refuses(self, words: list[str], code: int, *says: str) -> Answer:
        """Run a command line that must fail with this code and say these words, and must lose and leave nothing."""
        before = self.files()
        answer = self.run(words)
        assert answer.code == code, answer.err
        told = f"{answer.document['error']['message']} {answer.document['error']['fix']}"
        for word in says:
            assert word.replace("{w}", str(self.root)) in told, told
        after = self.files()
        assert {name: after.get(name) for name in before} == before, "an input or an artifact was changed"
        self.nothing_half()
        return answer

    def nothing_half(self) -> None:
        """Look for drafts among the artifacts, and for an artifact that is not whole."""
        half = [path for path in self.root.rglob("*") if path.name.startswith(".draft") or path.name.endswith(".part")]
        assert not half, half
        unsealed = [path for path in self.root.glob("store/artifacts/*/*/*") if not (path / "manifest.json").is_file()]
        assert not unsealed

    def results(self, stage: str) -> list[str]:
        """List the artifacts of the kind that a stage makes."""
        return sorted(artifact.ref for artifact in self.store.list(RESULT[stage]))

    def works(self, words: list[str]) -> dict[str, Any]:
        """Run a command line that must succeed, and check the artifact it names; gives its document."""
        answer = self.run(words)
        assert answer.code == 0, answer.err
        self.store.resolve(answer.document["artifact"]).verify()
        return answer.document


def write_files(root: Path) -> None:
    """Write cases, true clips, clips of the wrong people, and two preferences a case, one split each."""
    from idgrpo.records.jsonl import write_records
    from idgrpo.records.models import Preference
    from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

    samples = write_true_samples(root, write_cases(root, make_cases(NUM_CASES, seed=5)))
    wrong = [
        sample.model_copy(update={"id": f"{sample.case_id}-wrong", "video": samples[index - 1].video})
        for index, sample in enumerate(samples)
    ]
    write_records(root / "wrong.jsonl", wrong)
    write_records(
        root / "prefs.jsonl",
        [
            Preference(
                pair_id=f"{true.case_id}-{label}",
                **true.model_dump(include={"case_id", "prompt"}),
                references=true.references,
                video_a=(true if label == "a" else other).video,
                video_b=(other if label == "a" else true).video,
                label=label,
                source="synthetic",
                split=split,
            )
            for true, other, split in zip(samples, wrong, SPLITS, strict=True)
            for label in ("a", "b")
        ],
    )


def publish_files(place: Place) -> None:
    """Publish what the files hold, clips beside their records, so that every stage can be fed from the store."""
    from idgrpo.records.jsonl import read_records, write_records
    from idgrpo.records.models import Case, Preference, Sample

    with place.store.publish("cases", "world", inputs={}, config={}) as draft:
        write_records(draft.path / "cases.jsonl", read_records(place.root / "cases.jsonl", Case))
    with place.store.publish("preferences", "pairs", inputs={}, config={}) as draft:
        write_records(draft.path / "prefs.jsonl", read_records(place.root / "prefs.jsonl", Preference))
    for name in ("wrong", "samples"):
        with place.store.publish("samples", name, inputs={}, config={}) as draft:
            (draft.path / "videos").mkdir()
            records = []
            for sample in read_records(place.root / f"{name}.jsonl", Sample):
                clip = shutil.copyfile(sample.video, draft.path / "videos" / f"{sample.id}.mp4")
                records.append(sample.model_copy(update={"video": str(clip)}))
            write_records(draft.path / "samples.jsonl", records)

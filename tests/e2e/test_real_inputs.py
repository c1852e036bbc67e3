"""Photos, clips, records and settings as the world has them, through the command line: the right value, or a refusal that names them.

A file of each kind is made from a picture or a clip of the embedded world, beside a plain one that holds what a viewer shows of it.
A stage that reads the kinds must give what it gives for the plain ones. Kinds that no stage reads must be refused by all, by name.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.e2e.place import TINY_POLICY, Place
from tests.e2e.real_kinds import CLIPS, NO_CLIPS, NO_PHOTOS, PHOTOS, marked

from idgrpo.evaluate.document import read_report
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Case, Preference, Reference, Sample
from idgrpo.run.signals import StopSignal
from idgrpo.video.read import read_video
from idgrpo.video.write import write_image, write_video

STAGES = ("sample", "distort", "eval", "annotate", "train-rm")
CLIP_STAGES = STAGES[1:]  # `sample` reads no clips


class Inputs:
    """One case for each kind, its first reference or its clip a file of that kind; and the same with plain files."""

    def __init__(self, place: Place):
        self.place = place
        self.case, *_ = read_records(place.root / "cases.jsonl", Case)
        self.true, other, *_ = read_records(place.root / "samples.jsonl", Sample)
        self.wrong = other.video
        self.photo = np.asarray(Image.open(self.case.references[0].images[0]).convert("RGB"))
        self.clip = read_video(self.true.video)

    def of_photos(self, kinds, folder: str) -> None:
        """Write the records of all stages for photos, somebody else in each: name -> path."""
        others = self.case.references[1:]
        asked = {name: [Reference(person=name, images=[str(path)]), *others] for name, path in kinds.items()}
        self._write(folder, {name: (references, self.true.video) for name, references in asked.items()})

    def of_clips(self, kinds, folder: str) -> None:
        """Write the records of all stages for clips: name -> path."""
        asked = {}
        for index, name in enumerate(kinds):
            photo = self.place.root / f"photo-{index}.png"
            Image.fromarray(marked(self.photo, index)).save(photo)
            asked[name] = [Reference(person=name, images=[str(photo)]), *self.case.references[1:]]
        self._write(folder, {name: (references, str(kinds[name])) for name, references in asked.items()})

    def _write(self, folder: str, kinds) -> None:
        root = self.place.root / folder
        root.mkdir()
        cases, samples, wrong, prefs = [], [], [], []
        for index, (name, (references, video)) in enumerate(kinds.items()):
            asked = {"prompt": self.case.prompt, "references": references}
            cases.append(Case(id=name, seed=3, **asked))
            made = {"case_id": name, "base": "recorded", "seed": 0, "sampler": {}, **asked}
            samples.append(Sample(id=name, video=video, **made))
            wrong.append(Sample(id=f"{name}-wrong", video=self.wrong, **made | {"base": "other"}))
            split = ("train", "train", "validation", "test")[index % 4]
            prefs.append(
                Preference(
                    pair_id=name, case_id=name, prompt=self.case.prompt, references=references[:1],
                    video_a=video, video_b=self.wrong, label="a", source="synthetic", split=split,
                )
            )  # fmt: skip
        for kind, records in (("cases", cases), ("samples", samples), ("wrong", wrong), ("prefs", prefs)):
            write_records(root / f"{kind}.jsonl", records)

    def words(self, stage: str, folder: str) -> list[str]:
        """Give the command line of a stage on the records of a folder."""
        there = self.place.root / folder
        given = {
            "sample": ["--base", "tiny-phantom", "--cases", f"{there}/cases.jsonl", "--steps", "2"],
            "distort": ["--data", f"{there}/samples.jsonl", "--per-video", "1", "--finder", "tiny", "--mix", "replace_late,drift,paste"],
            "eval": ["--samples", f"base={there}/samples.jsonl", "--set", "finding.finder=tiny", "--set", "scorers=[]"],
            "annotate": ["--samples", f"{there}/samples.jsonl", "--samples", f"{there}/wrong.jsonl", "--by", "judge", "--judge", "rm"],
            "train-rm": ["--data", f"{there}/prefs.jsonl", "--set", "head.epochs=1"],
        }[stage]  # fmt: skip
        return [stage, *given, "--store", str(self.place.store.root), "--name", folder]

    def page(self, folder: str) -> list[str]:
        """Give the command line of the page on which people vote."""
        there = self.place.root / folder
        words = ["annotate", "--samples", f"{there}/samples.jsonl", "--samples", f"{there}/wrong.jsonl"]
        return [*words, "--port", "0", "--transcode", "--store", str(self.place.store.root), "--name", f"page-{folder}"]


@pytest.fixture
def inputs(place) -> Inputs:
    return Inputs(place)


def values_of(place: Place, stage: str, ref: str) -> dict:
    """Give what a stage found out, case by case, without names of files."""
    artifact = place.store.resolve(ref)
    if stage == "sample":
        samples = read_records(artifact.file("samples.jsonl"), Sample)
        return {sample.case_id: hashlib.sha256(Path(sample.video).read_bytes()).hexdigest() for sample in samples}
    if stage == "eval":
        return {sample.case_id: sample.values for sample in read_report(artifact.path).samples}
    if stage == "train-rm":
        names = ("reward_head.safetensors", "model.safetensors")
        return {name: hashlib.sha256(artifact.file(name).read_bytes()).hexdigest() for name in names}
    found = read_records(artifact.file("prefs.jsonl"), Preference)
    if stage == "annotate":
        return {item.case_id: item.label for item in found}
    return {item.case_id: (item.distortion, item.label, read_video(item.video_a).shape) for item in found}


def test_photos_of_all_kinds_are_read_as_a_viewer_shows_them(inputs, monkeypatch):
    place, kinds, plain = inputs.place, {}, {}
    (place.root / "photos").mkdir()
    for index, (name, write) in enumerate(PHOTOS.items()):
        kinds[name], plain[name] = place.root / "photos" / name, place.root / "photos" / f"{name}.plain.png"
        shown = write(kinds[name], marked(inputs.photo, index))
        write_image(plain[name], torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1))
    inputs.of_photos(kinds, "kinds")
    inputs.of_photos(plain, "plain")
    for stage in STAGES:
        found, wanted = (
            values_of(place, stage, place.works(inputs.words(stage, folder))["artifact"])
            for folder in ("kinds", "plain")
        )
        assert found == wanted, stage
        assert stage == "train-rm" or set(found) == set(PHOTOS), stage
    stop_at_once(monkeypatch)
    assert place.run(inputs.page("kinds")).code == 75, "the page shows all of them"


def test_clips_of_all_kinds_are_read_as_a_player_shows_them(inputs, monkeypatch):
    place, kinds, plain = inputs.place, {}, {}
    (place.root / "clips").mkdir()
    for name, write in CLIPS.items():
        kinds[name], plain[name] = place.root / "clips" / name, place.root / "clips" / f"{name}.plain.mp4"
        write_video(
            plain[name], write(kinds[name], inputs.clip).contiguous(), fps=25 if "pause" in name else 16, lossless=True
        )
    inputs.of_clips(kinds, "kinds")
    inputs.of_clips(plain, "plain")
    for stage in CLIP_STAGES:
        found, wanted = (
            values_of(place, stage, place.works(inputs.words(stage, folder))["artifact"])
            for folder in ("kinds", "plain")
        )
        if stage == "eval":
            for name in CLIPS:
                for measure in ("identity", "coverage", "dynamic_degree"):
                    assert found[name][measure] == pytest.approx(wanted[name][measure], rel=0.1, abs=0.05), (
                        name,
                        measure,
                    )
        elif stage != "train-rm":  # its weights follow every rounding of a colour
            assert found == wanted, stage
            assert set(found) == set(CLIPS), stage
    stop_at_once(monkeypatch)
    assert place.run(inputs.page("kinds")).code == 75, "the page shows all of them"


def stop_at_once(monkeypatch) -> None:
    """Let the page's server stop as soon as it stands: what it cannot show it has refused before."""
    monkeypatch.setattr(StopSignal, "requested", property(lambda self: True, lambda self, value: None), raising=False)


@pytest.mark.parametrize("name", NO_PHOTOS)
def test_photos_that_are_not_read_are_named_by_every_stage(inputs, name):
    place, (write, says) = inputs.place, NO_PHOTOS[name]
    (place.root / "photos").mkdir()
    path = place.root / "photos" / name
    write(path, inputs.photo)
    good, other = inputs.case.references[0].images[0], place.root / "other.png"
    Image.fromarray(marked(inputs.photo, 1)).save(other)
    inputs.of_photos({"first": good, "bad": path, "third": other}, "kinds")
    for stage in STAGES:
        if stage == "distort":
            leaves_out_one(place, inputs.words(stage, "kinds"), str(path), says)
        else:
            place.refuses(inputs.words(stage, "kinds"), 3, str(path), says)
    place.refuses(inputs.page("kinds"), 3, str(path), says)


@pytest.mark.parametrize("name", NO_CLIPS)
def test_clips_that_are_not_read_are_named_by_every_stage(inputs, name):
    place, (write, says) = inputs.place, NO_CLIPS[name]
    (place.root / "clips").mkdir()
    path = place.root / "clips" / name
    write(path, inputs.clip)
    inputs.of_clips({"first": inputs.true.video, "bad": path, "third": inputs.true.video}, "kinds")
    for stage in CLIP_STAGES:
        if stage == "distort":
            leaves_out_one(place, inputs.words(stage, "kinds"), str(path), says)
        else:
            place.refuses(inputs.words(stage, "kinds"), 3, str(path), says)
    place.refuses(inputs.page("kinds"), 3, str(path), says)


def leaves_out_one(place: Place, words: list[str], *says: str) -> None:
    """`distort` leaves one clip out, says which and why, and takes the others."""
    answer = place.run(words)
    assert answer.code == 0 and answer.document["clips_used"] == 2, answer.err
    assert "skipped 1 of 3 clips" in answer.err
    assert all(text in answer.err for text in says), answer.err


NO_NAMES = [".hidden", "..", "a/b", "a\\b", " space", "x" * 121, "tab\t"]


@pytest.mark.parametrize("wrong", [*NO_NAMES, ""])
def test_case_ids_that_are_no_names_of_files_are_refused_by_line(place, wrong):
    file = place.root / "cases.jsonl"
    second = file.read_text().splitlines()[1]
    file.write_text(file.read_text().replace(f'"{json.loads(second)["id"]}"', json.dumps(wrong), 1))
    for stage in ("sample", "train-policy", "cases"):
        place.refuses(place.words(stage), 3, f"{file}:2: field 'id'")


def test_sample_ids_that_are_no_names_of_files_lose_no_clip(inputs):
    place = inputs.place
    inputs.of_clips({f"clip-{index}": inputs.true.video for index in range(len(NO_NAMES))}, "kinds")
    for file in (place.root / "kinds").iterdir():
        text = file.read_text()
        for index, name in enumerate(NO_NAMES):
            text = text.replace(f'"clip-{index}"', json.dumps(name)).replace(
                f'"clip-{index}-wrong"', json.dumps(f"{name}-wrong")
            )
        file.write_text(text)
    for stage in CLIP_STAGES:
        found = values_of(place, stage, place.works(inputs.words(stage, "kinds"))["artifact"])
        assert stage == "train-rm" or set(found) == set(NO_NAMES), stage


@pytest.mark.parametrize(
    "content, says",
    [
        (b'\xef\xbb\xbf{"schema": 1, "base": ["tiny-phantom"]}', "base"),
        (b'{"schema": 1, "base": 7}', "base"),
        (b'["tiny-phantom"]', "policy.json"),
        ('{"schema": 1, "base": "tiny-phantom"}'.encode("utf-16"), "policy.json"),
        (b'{"schema": 1, "base": NaN}', "policy.json"),
    ],
)
def test_a_policy_whose_document_is_damaged_is_refused_by_field(place, tmp_path, content, says):
    policy = place.store.resolve("policy").path
    (tmp_path / "own").mkdir()
    for file in policy.iterdir():
        if file.name != "manifest.json":
            (tmp_path / "own" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "own" / "policy.json").write_bytes(content)
    cases = f"{place.root}/cases.jsonl"
    more = ["--store", str(place.store.root), "--name", "again"]
    own = str(tmp_path / "own")
    place.refuses(["sample", "--policy", own, "--cases", cases, "--steps", "2", *more], 4, own, says)
    place.refuses(["eval", "--base", "tiny-phantom", "--policy", own, "--cases", cases, *more], 4, own, says)
    words = ["train-policy", "--base", "tiny-phantom", "--cases", cases, "--rm", "rm", "--init", own, *TINY_POLICY]
    place.refuses([*words, *more], 4, own, says)


NUMBERS = {
    "sample": "sampler.guidance", "distort": "strength.high", "eval": "finding.appearance",
    "annotate": "oracle.noise", "train-rm": "head.lr", "train-policy": "optimizer.lr",
}  # fmt: skip


@pytest.mark.parametrize("stage", NUMBERS)
@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_settings_that_are_not_finite_are_refused(place, stage, number):
    room, _, key = NUMBERS[stage].partition(".")
    file = place.root / "settings.toml"
    file.write_text(f"[{room}]\n{key} = {number}\n")
    place.refuses(place.words(stage, "--config", str(file)), 2, NUMBERS[stage])
    place.refuses(["config", "check", stage, str(file)], 2, NUMBERS[stage])
    place.refuses(place.words(stage, "--set", f"{NUMBERS[stage]}={number}"), 2, NUMBERS[stage])

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "bases"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tiny_checkpoints

from idgrpo.cli.main import run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Give the path of a tiny random Phantom."""
    folder = tmp_path_factory.mktemp("bases") / "tiny-random"
    return str(tiny_checkpoints.write_diffusers_base(folder, "phantom", tiny_checkpoints.TINY_VAE))


@pytest.fixture
def cases(tmp_path):
    """Write two cases, the second with two people; returns the file."""
    draws = np.random.default_rng(0)
    lines = []
    for number, people in enumerate((("ann",), ("ann", "bob"))):
        references = []
        for person in people:
            path = tmp_path / f"{person}.png"
            Image.fromarray(draws.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
            references.append({"person": person, "images": [path.name]})
        lines.append({"id": f"case-{number}", "prompt": "a man and a woman walk", "references": references})
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def sample(base, cases, tmp_path, capsys):
    """Run `idgrpo sample --json` and give (exit code, document)."""

    def call(*arguments, base=base, cases=cases):
        fixed = ["sample", "--store", str(tmp_path / "store"), "--json", "--device", "cpu"]
        fixed += ["--base", base] if base else []
        fixed += ["--cases", str(cases)] if cases else []
        code = run([*fixed, *map(str, arguments)])
        return code, json.loads(capsys.readouterr().out)

    return call


def samples_of(document):
    path = Path(document["path"])
    return [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]


def test_makes_videos_records_and_contact_sheets(sample):
    code, document = sample("--num-per-case", 2, "--steps", 2)
    assert code == 0
    path = Path(document["path"])
    records = samples_of(document)
    assert [(r["case_id"], r["seed"]) for r in records] == [(f"case-{c}", s) for c in (0, 1) for s in (0, 1)]
    assert all((path / record["video"]).is_file() for record in records)
    assert all((path / ref["images"][0]).is_file() for record in records for ref in record["references"])
    assert len(list((path / "contact_sheets").glob("*.png"))) == 2
    assert records[0]["sampler"]["num_steps"] == 2
    assert records[0]["sampler"]["shift"] == 3.0
    from idgrpo.video.read import read_video

    clip = read_video(path / records[0]["video"])
    assert tuple(clip.shape) == (9, 3, 32, 32)
    other = read_video(path / records[1]["video"])
    assert not bool((clip == other).all()), "another seed is another video"


def test_the_same_command_again_gives_the_artifact_that_exists(sample):
    _, first = sample("--steps", 2)
    _, again = sample("--steps", 2)
    _, forced = sample("--steps", 2, "--force")
    assert again["artifact"] == first["artifact"]
    assert forced["artifact"] != first["artifact"]
    assert forced["digest"] == first["digest"], "the same settings make the same bytes"


def test_a_video_depends_on_case_and_seed_alone(sample, cases, tmp_path):
    _, together = sample("--steps", 2, "--batch-size", 4)
    alone = tmp_path / "alone.jsonl"
    alone.write_text(cases.read_text().splitlines()[1] + "\n")
    _, single = sample("--steps", 2, "--batch-size", 1, "--name", "single", cases=alone)
    from idgrpo.video.read import read_video

    a = read_video(Path(together["path"]) / samples_of(together)[1]["video"])
    b = read_video(Path(single["path"]) / samples_of(single)[0]["video"])
    assert int((a.int() - b.int()).abs().max()) <= 1


def test_solver_law_and_size_reach_the_sampler(sample):
    videos = []
    for number, extra in enumerate(
        (["--solver", "second-order"], ["--law", "wan", "--eta", "0.5"], ["--size", "16x24x5"], ["--guidance", "3"])
    ):
        code, document = sample("--steps", 3, "--name", f"n{number}", *extra)
        assert code == 0
        videos.append((Path(document["path"]) / samples_of(document)[0]["video"]).read_bytes())
        sampler = samples_of(document)[0]["sampler"]
        if "--size" in extra:
            assert (sampler["width"], sampler["height"], sampler["frames"]) == (16, 24, 5)
        if "--guidance" in extra:
            assert sampler["guidance_mode"] == "both-grad"
    assert len(set(videos)) == 4


def test_a_policy_changes_the_videos_and_names_itself(sample, base, tmp_path):
    import torch

    from idgrpo.bases import lora
    from idgrpo.bases.load import load_base

    tuned = load_base(base)
    lora.attach(tuned, rank=4, seed=0)
    with torch.no_grad():
        for parameter in lora.trainable_parameters(tuned):
            parameter.add_(0.1)
    lora.save_adapter(tuned, tmp_path / "adapter")
    (tmp_path / "adapter" / "policy.json").write_text(json.dumps({"base": base}))
    _, plain = sample("--steps", 2)
    _, with_policy = sample("--steps", 2, "--policy", tmp_path / "adapter", base=None)
    assert with_policy["artifact"].split("@")[0].endswith("-tuned")
    first, second = samples_of(plain)[0], samples_of(with_policy)[0]
    assert second["policy"].endswith("adapter")
    assert first["policy"] is None
    assert (Path(plain["path"]) / first["video"]).read_bytes() != (
        Path(with_policy["path"]) / second["video"]
    ).read_bytes()


def test_a_fresh_store_gets_cases_of_the_embedded_world(sample, base, monkeypatch):
    import dataclasses

    from idgrpo.bases.entries import ENTRIES

    entry = dataclasses.replace(ENTRIES["tiny-phantom"], source=base)
    monkeypatch.setitem(ENTRIES, "tiny-phantom", entry)
    code, document = sample("--steps", 1, base="tiny-phantom", cases=None)
    assert code == 0
    assert document["artifact"].startswith("samples/tiny-phantom@")
    assert document["num_samples"] == 8
    assert {record["base"] for record in samples_of(document)} == {"tiny-phantom"}
    _, again = sample("--steps", 1, "--seed", 5, base="tiny-phantom", cases=None)
    assert [r["case_id"] for r in samples_of(again)] == [r["case_id"] for r in samples_of(document)]
    assert {record["seed"] for record in samples_of(again)} == {5}


def test_dry_run_says_what_it_costs_and_writes_nothing(sample, tmp_path):
    code, document = sample("--dry-run", "--num-per-case", 3)
    assert code == 0
    assert document["num_clips"] == 6
    # 5 latent frames + 2 references, 8x8 latents in 2x2 patches
    assert document["cost"]["num_tokens"] == (5 + 2) * 16
    assert document["cost"]["sample_tflop"] > 0
    assert document["disk_bytes"] == 2 * 6 * 3 * 32 * 32 * 9, "lossless, in the run and in the artifact"
    assert not (tmp_path / "store" / "artifacts").exists()


def test_dry_run_of_a_public_base_needs_no_weights(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("IDGRPO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, document = sample("--dry-run", "--size", "416x240x33", base="vace")
    assert code == 0
    assert document["cost"]["num_tokens"] == 4290


def test_dry_run_names_the_setting_that_fits_this_gpu(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("IDGRPO_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("idgrpo.bases.inventory.gpu_memory_gib", lambda device: 24.0)
    _, document = sample("--dry-run", "--batch-size", 8, base="vace")
    assert document["cost"]["memory_gib"] > 24
    assert document["estimate"][-1].startswith("this GPU has 24.0 GiB: does not fit; --batch-size ")
    fitting = document["estimate"][-1].removesuffix(" would").split("fit; ")[1].split()
    _, document = sample("--dry-run", *fitting, base="vace")
    assert document["estimate"][-1] == "this GPU has 24.0 GiB: fits"


class TestErrors:
    def expect(self, result, exit_code, text):
        code, document = result
        assert code == exit_code
        assert text in document["error"]["message"] + (document["error"]["fix"] or "")

    def test_unknown_base(self, sample):
        self.expect(sample(base="tiny-phantm"), 2, "did you mean 'tiny-phantom'?")

    def test_no_base(self, sample):
        self.expect(sample(base=None), 2, "no base given")

    def test_missing_weights(self, sample, tmp_path, monkeypatch):
        monkeypatch.setenv("IDGRPO_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        self.expect(sample(base="vace"), 6, "hf download Wan-AI/Wan2.1-VACE-1.3B-diffusers")

    def test_unknown_option_value(self, sample):
        self.expect(sample("--solver", "heun"), 2, "known: euler, second-order")
        self.expect(sample("--set", "sampler.stepps=3"), 2, "stepps")
        self.expect(sample("--size", "32x32"), 2, "WIDTHxHEIGHTxFRAMES")

    def test_impossible_size(self, sample):
        self.expect(sample("--size", "33x32x9", "--steps", 1), 2, "width 33 is not a multiple of 8 = 4")
        self.expect(sample("--size", "32x32x8", "--steps", 1), 2, "frames 8 is not 2 k + 1")

    def test_missing_cases(self, sample, tmp_path):
        self.expect(sample(cases=tmp_path / "none.jsonl"), 3, "no such file")

    def rewritten(self, cases, **changes):
        lines = [json.loads(line) for line in cases.read_text().splitlines()]
        lines[1] |= changes
        cases.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def test_empty_prompt(self, sample, cases):
        self.rewritten(cases, prompt="  ")
        self.expect(sample("--steps", 1), 3, "prompt")

    def test_no_references(self, sample, cases):
        self.rewritten(cases, references=[])
        self.expect(sample("--steps", 1), 3, "references")

    def test_missing_image(self, sample, cases, tmp_path):
        (tmp_path / "bob.png").unlink()
        self.expect(sample("--steps", 1), 3, "case 'case-1': the image of bob is missing")

    def test_unreadable_image(self, sample, tmp_path):
        (tmp_path / "bob.png").write_bytes(b"no image")
        self.expect(sample("--steps", 1), 3, "bob.png")

    def test_small_image(self, sample, tmp_path):
        Image.new("RGB", (40, 12)).save(tmp_path / "bob.png")
        self.expect(sample("--steps", 1), 3, "case 'case-1': reference 2 is 40x12 px")

    def test_too_many_references(self, sample, cases, tmp_path):
        for number in range(5):
            Image.new("RGB", (32, 32), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
        people = [{"person": f"person-{number}", "images": [f"{number}.png"]} for number in range(5)]
        self.rewritten(cases, references=people)
        self.expect(sample("--steps", 1), 3, "at most 4")

    def test_twice_the_same_case(self, sample, cases):
        self.rewritten(cases, id="case-0")
        self.expect(sample("--steps", 1), 3, "case-0")


def command(base, cases, store):
    arguments = ["sample", "--base", base, "--cases", str(cases), "--store", str(store), "--device", "cpu"]
    arguments += ["--steps", "2", "--num-per-case", "12", "--batch-size", "1", "--quiet"]
    return [sys.executable, "-c", f"from idgrpo.cli.main import run; raise SystemExit(run({arguments!r}))"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_with_the_missing_videos(base, cases, tmp_path, number):
    def digest(store):
        from idgrpo.store.store import Store

        return Store(store).resolve("samples").digest

    subprocess.run(command(base, cases, tmp_path / "whole"), check=True, capture_output=True)
    store = tmp_path / "killed"
    process = subprocess.Popen(command(base, cases, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(store.glob("runs/*/samples/videos/[!.]*.mp4"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/samples/videos/[!.]*.mp4")}
    assert 3 <= len(kept) < 24
    finished = subprocess.run(command(base, cases, store), check=True, capture_output=True, text=True)
    assert finished.stdout.startswith("samples/")
    assert digest(store) == digest(tmp_path / "whole")

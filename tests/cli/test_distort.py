import json
from pathlib import Path

import numpy as np
import pytest

from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Preference, Sample
from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples
from idgrpo.tinyworld.oracle import track_scores
from idgrpo.video.read import read_video
from idgrpo.video.write import write_video


@pytest.fixture(scope="module")
def samples_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_true_samples(folder, write_cases(folder, make_cases(3, seed=8)))
    return folder / "samples.jsonl"


@pytest.fixture
def idgrpo(tmp_path, capsys):
    """Run the command line in this process: `idgrpo("distort", ...)` gives (exit code, stdout, stderr)."""
    from idgrpo.cli.main import run

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["distort", *map(str, arguments), "--store", str(tmp_path / "store")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_file_of_samples_becomes_an_artifact_of_preferences(idgrpo, samples_file, tmp_path):
    code, out, err = idgrpo("--data", samples_file, "--per-video", 3, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["pairs"] == 9 and document["clips_used"] == 3
    folder = next((tmp_path / "store").rglob("prefs.jsonl")).parent
    pairs = list(read_records(folder / "prefs.jsonl", Preference))
    assert len(pairs) == 9 and all(
        Path(p.video_a).is_file() and Path(p.references[0].images[0]).is_file() for p in pairs
    )
    assert (folder / "contact_sheet.png").is_file() and any((folder / "sheets").iterdir())
    assert not (folder / "parts").exists()


def test_the_same_command_again_finds_what_is_there(idgrpo, samples_file):
    code, first, err = idgrpo("--data", samples_file, "--per-video", 1, "--quiet")
    assert code == 0, err
    assert first.strip().startswith("preferences/")
    assert idgrpo("--data", samples_file, "--per-video", 1, "--quiet")[1] == first
    assert idgrpo("--data", samples_file, "--per-video", 2, "--quiet")[1] != first


def test_the_summary_is_a_table(idgrpo, samples_file):
    code, out, _ = idgrpo("--data", samples_file, "--per-video", 2, "--mix", "blend=1", "--no-sheets")
    assert code == 0 and "6 pairs from 3 of 3 clips" in out and out.splitlines()[2].split()[:2] == ["blend", "6"]


def test_a_base_renoises_clips_with_one_reference_replaced(idgrpo, samples_file, tmp_path):
    words = ("--data", samples_file, "--per-video", 1, "--base", "tiny-phantom", "--mix", "renoise=1", "--json")
    sets = ("balance.both_sides=0", "balance.better_side=0", "strength.tie_share=0", "strength.visible=0")
    fast = [part for setting in sets for part in ("--set", setting)]
    code, out, err = idgrpo(*words, *fast, "--sample-set", "sampler.num_steps=4")
    assert code == 0, err
    first = json.loads(out)
    assert first["pairs"] == 3 and set(first["distortions"]) == {"renoise"}
    folder = next((tmp_path / "store").rglob("prefs.jsonl")).parent
    gaps = []
    for pair in read_records(folder / "prefs.jsonl", Preference):
        better, worse = (pair.video_a, pair.video_b) if pair.label == "a" else (pair.video_b, pair.video_a)
        people = [reference.person for reference in pair.references]
        gaps.append([float(track_scores(read_video(Path(side)), people).mean()) for side in (better, worse)])
    means = np.mean(gaps, axis=0)
    assert means[0] > means[1]
    assert json.loads(idgrpo(*words, *fast, "--sample-set", "sampler.num_steps=4")[1])["artifact"] == first["artifact"]
    assert json.loads(idgrpo(*words, *fast, "--sample-set", "sampler.num_steps=3")[1])["artifact"] != first["artifact"]


def test_changes_that_hardly_show_are_skipped_and_counted(idgrpo, samples_file):
    mix = ("--mix", "attribute=1,replace=1", "--set", "strength.tie_share=0")
    words = ("--data", samples_file, "--per-video", 2, *mix)
    pairs = {}
    for visible in (0, 0.25):
        code, out, err = idgrpo(*words, "--set", f"strength.visible={visible}", "--json")
        assert code == 0, err
        pairs[visible] = json.loads(out)["pairs"]
        assert ("the change hardly shows in this clip" in out + err) == (visible > 0)
    assert 0 < pairs[0.25] < pairs[0]


def test_a_base_joins_the_default_mix_and_a_mix_that_needs_one_says_so(idgrpo, samples_file):
    code, out, err = idgrpo("--data", samples_file, "--base", "tiny-phantom", "--dry-run", "--json")
    assert code == 0, err
    mix = json.loads(out)["config"]["mix"]
    assert mix["renoise"] == 1 and mix["swap_late"] == 2
    code, _, err = idgrpo("--data", samples_file, "--mix", "renoise=1,blend=1")
    assert code == 2 and "--base" in err
    code, _, err = idgrpo("--data", samples_file, "--base", "tiny-fantom")
    assert code == 2 and "tiny-phantom" in err


def test_clips_the_base_cannot_make_are_skipped_with_the_arithmetic(idgrpo, samples_file, tmp_path):
    sample = next(iter(read_records(samples_file, Sample)))
    write_video(tmp_path / "cut.mp4", read_video(Path(sample.video))[:8], lossless=True)
    write_records(tmp_path / "cut.jsonl", [sample.model_copy(update={"video": str(tmp_path / "cut.mp4")})])
    words = ("--data", tmp_path / "cut.jsonl", "--base", "tiny-phantom", "--mix", "renoise=1,control_background=1")
    code, _, err = idgrpo(*words)
    assert code == 3 and "32x32x8, the scene that its record names 32x32x9" in err
    write_records(
        tmp_path / "cut.jsonl", [sample.model_copy(update={"video": str(tmp_path / "cut.mp4"), "sampler": {}})]
    )
    code, out, err = idgrpo(*words, "--finder", "tiny", "--per-video", 2, "--json")
    assert code == 0, err
    skipped = json.loads(out)["distortions_skipped"]
    assert any(row["distortion"] == "renoise" and "frames 8" in row["reason"] for row in skipped)


def test_a_dry_run_writes_nothing(idgrpo, samples_file, tmp_path):
    code, out, _ = idgrpo("--data", samples_file, "--per-video", 5, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["pairs_at_most"] == 15
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--mix", "swap_lat=1"), 2, "did you mean 'swap_late'"),
        (("--mix", "blend=lots"), 2, "NAME=WEIGHT"),
        (("--set", "strengh.low=0.2"), 2, "strength"),
        (("--set", "strength.low=0.9", "--set", "strength.high=0.5"), 2, "above high"),
        (("--per-video", "0"), 2, ""),
    ],
)
def test_wrong_settings_are_named(idgrpo, samples_file, arguments, code, said):
    got, out, err = idgrpo("--data", samples_file, *arguments)
    assert got == code and said in err and out == ""


def test_wrong_data_is_named(idgrpo, samples_file, tmp_path):
    code, _, err = idgrpo("--data", tmp_path / "none.jsonl")
    assert code == 3 and "none.jsonl" in err
    lines = samples_file.read_text().splitlines()
    broken = samples_file.parent / "broken.jsonl"
    broken.write_text("\n".join([*lines[:2], lines[2][:-20]]))
    code, _, err = idgrpo("--data", broken)
    assert code == 3 and "broken.jsonl:3" in err
    (tmp_path / "videos").mkdir()
    code, _, err = idgrpo("--data", tmp_path / "videos")
    assert code == 3 and "holds no clips" in err


def test_no_samples_at_all_names_the_command_that_makes_them(idgrpo):
    code, out, err = idgrpo("--json")
    assert code == 4 and "sample" in err and json.loads(out)["exit_code"] == 4


def test_missing_face_weights_name_the_one_command(idgrpo, samples_file, tmp_path, monkeypatch):
    pytest.importorskip("facenet_pytorch")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sample = next(iter(read_records(samples_file, Sample))).model_copy(update={"sampler": {}})
    write_records(tmp_path / "unknown.jsonl", [sample])
    code, _, err = idgrpo("--data", tmp_path / "unknown.jsonl", "--finder", "facenet")
    assert code == 6 and "InceptionResnetV1" in err

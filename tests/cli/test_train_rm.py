"""`idgrpo train-rm` through the real command line: defaults, results, wrong input, stops and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "reward"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from preferences import write_preferences
from tiny_vlm import write_tiny_vlm

from idgrpo.cli.main import run
from idgrpo.records.jsonl import write_records
from idgrpo.reward import METRIC_KEYS

COMPACT = {
    "num_frames": 4,
    "template_name": "compact_v1",
    "prompt_text": "{prompt}",
    "reference_text": "{index}{image}",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "prefs.jsonl", write_preferences(folder / "videos", 24, ties=2))
    return folder / "prefs.jsonl"


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny", carried=COMPACT)


@pytest.fixture
def call(tmp_path, vlm, capsys):
    """Run the command; return exit code, parsed JSON (or text) and stderr."""

    def invoke(*arguments: str, as_json: bool = True):
        capsys.readouterr()
        flags = ["--json"] if as_json else []
        code = run(["train-rm", "--store", str(tmp_path / "store"), "--vlm", str(vlm), *arguments, *flags])
        out, err = capsys.readouterr()
        return code, json.loads(out) if as_json else out, err

    return invoke


def test_trains_prints_and_is_found_again(call, data, tmp_path) -> None:
    code, document, _ = call("--data", str(data))
    assert code == 0 and document["artifact"] == "rm/rm@v1"
    assert 0 <= document["rm_accuracy_decided"] <= 1
    assert document["card"]["probes"]["reference_order"]["pass_rate"] == 1.0
    folder = Path(document["path"])
    assert (folder / "metrics.jsonl").is_file() and (folder / "card.png").stat().st_size > 10_000
    manifest = json.loads((folder / "manifest.json").read_text())
    shown = (folder / "accuracy.txt").read_text()
    for kind in ("source_synthetic", "source_human", "distortion_replace", "strength_0.50-0.75", "num_people_2"):
        assert 0 <= manifest["metrics"][f"train_accuracy_decided_{kind}"] <= 1
    assert "probe reference_order" in shown and "tie threshold" in shown
    runs = list((tmp_path / "store" / "runs").iterdir())
    assert len(runs) == 1 and not (runs[0] / "student").exists()
    assert call("--data", str(data))[1]["artifact"] == "rm/rm@v1"
    (chunk,) = (tmp_path / "store" / "cache" / "features").glob("*/features-00000.safetensors")
    written = chunk.stat().st_mtime_ns
    assert call("--data", str(data), "--force")[1]["digest"] == document["digest"]
    code, out, _ = call("--data", str(data), "--quiet", as_json=False)
    assert code == 0 and out == "rm/rm@v2\n"
    code, out, _ = call("--data", str(data), as_json=False)
    assert "people" in out and "tie threshold" in out and len(out.splitlines()) > 6
    assert call("--data", str(data), "--set", "loss.name=davidson")[1]["artifact"] == "rm/rm@v3"
    # The backbone is frozen: three trainings read each clip once.
    assert list((tmp_path / "store" / "cache" / "features").glob("*/*")) == [chunk]
    assert chunk.stat().st_mtime_ns == written


def test_a_share_of_the_clips_meets_its_own_photos(call, data) -> None:
    plain, all_of_them = (call("--data", str(data), "--set", f"data.copies={share}")[1]["card"] for share in (0, 1))
    assert plain["num_copies"] == 0 < all_of_them["num_copies"]
    assert all_of_them["num_training_pairs"] == plain["num_training_pairs"] + all_of_them["num_copies"]
    code, shown, _ = call("--data", str(data), "--set", "data.copies=1", as_json=False)
    assert code == 0 and f"{all_of_them['num_copies']} clips against their photos" in shown
    assert "photos" not in call("--data", str(data), "--set", "data.copies=0", as_json=False)[1]
    code, error, _ = call("--data", str(data), "--set", "data.copies=1.5")
    assert code == 2 and "data.copies" in error["error"]["message"]


def test_dry_run_shows_and_writes_nothing(call, data, tmp_path) -> None:
    code, document, _ = call("--data", str(data), "--dry-run")
    assert code == 0 and document["num_pairs"] == 24 and document["config"]["loss"]["theta"] == 5.0
    assert not (tmp_path / "store" / "artifacts").exists()


def test_every_setting_is_told_as_it_was_resolved(call, data) -> None:
    code, document, _ = call("--data", str(data), "--dry-run")
    config = document["config"]
    assert code == 0 and config["mode"] == "head" and config["inputs"]["num_frames"] == 4
    assert config["full"]["bf16"] is config["full"]["gradient_checkpointing"] is torch.cuda.is_available()
    assert None not in config["inputs"].values()
    code, _, err = call("--data", str(data), "--set", "head.epochs=2")
    told = [
        "trains  the head",
        "sees    4 frames",
        "learns  rao_kupper, theta 5, both_bad as tie",
        "mix all, teacher off",
    ]
    assert code == 0 and all(word in err for word in [*told, "2 epochs, 128 x 1 pairs", "rate 0.002, weight decay 1"])
    code, out, _ = call("--data", str(data), "--set", "mode=full", "--zero", "2", "--dry-run", as_json=False)
    assert "trains  the whole model" in out and "lora 2e-06" in out and "LoRA rank 64" in out and "ZeRO 2" in out
    assert "trains" not in call("--data", str(data), "--quiet", "--force", "--set", "head.epochs=2", as_json=False)[2]


def test_the_plan_counts_the_memory_of_what_is_trained(call, data) -> None:
    """Six times the file was told whatever was trained: 42 GiB for 18, and the same with the vision tower frozen."""
    needs = {}
    for kind, words in {
        "head": ["mode=head"],
        "lora": ["mode=full", "full.rates.vision=0", "full.rates.merger=0"],
        "half": ["mode=full", "full.rates.vision=0", "full.rates.merger=0", "full.bf16=true"],
        "full": ["mode=full"],
    }.items():
        code, document, _ = call(
            "--data", str(data), "--dry-run", *(part for word in words for part in ("--set", word))
        )
        assert code == 0
        needs[kind] = document["memory_bytes"]
    assert needs["head"] < needs["lora"] < needs["full"] and needs["half"] < needs["lora"]
    assert needs["head"] == pytest.approx(document["disk_bytes"], rel=0.05)  # float32, all of it once


def test_batch_layouts_agree(call, data) -> None:
    trained = []
    for batch, accumulation in ((8, 1), (4, 2)):
        settings = [
            f"full.batch_pairs={batch}",
            f"full.accumulation={accumulation}",
            "mode=full",
            "full.lora.rank=2",
            "full.lora.dropout=0",
            "full.epochs=1",
            "full.rates.lora=1e-3",
            "full.rates.head=1e-2",
            "log_every=1",
        ]
        code, document, _ = call("--data", str(data), *[part for s in settings for part in ("--set", s)])
        assert code == 0
        folder = Path(document["path"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert not {key for row in rows for key in row} - METRIC_KEYS.keys()
        losses = [row["loss"] for row in rows]
        trained.append((losses, load_file(folder / "model.safetensors"), load_file(folder / "reward_head.safetensors")))
    (losses, *weights), (other_losses, *others) = trained
    assert len(losses) == 3 and other_losses == pytest.approx(losses, abs=1e-4)
    for ours, theirs in zip(weights, others, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "change, code, words",
    [
        ({"label": "left"}, 3, ["prefs.jsonl:3:", "field 'label'", "both_bad"]),
        ({"lable": "a"}, 3, ["prefs.jsonl:3:", "did you mean 'label'"]),
        ({"pair_id": "pair-0"}, 3, ["prefs.jsonl:3:", "stands already in line 1"]),
        ({"video_a": "videos/none.mp4"}, 3, ["prefs.jsonl:3: field 'video_a'", "none.mp4: there is no such file"]),
        ({"video_b": "videos/text.mp4"}, 3, ["prefs.jsonl:3: field 'video_b'", "text.mp4: not a readable video"]),
        ({"video_a": "videos/half.mp4"}, 3, ["prefs.jsonl:3: field 'video_a'", "half.mp4: not a readable video"]),
        ({"video_a": "videos/short.mp4"}, 3, ["prefs.jsonl:3: field 'video_a'", "short.mp4: the video is cut short: "]),
        (
            {"references": [{"person": "p", "images": ["videos/text.mp4"]}]},
            3,
            ["prefs.jsonl:3: field 'references.0.images'", "not a readable image"],
        ),
        ({"split": "train"}, 3, ["prefs.jsonl:3: field 'split': 'train' here, none at", "bad-prefs.jsonl:1"]),
    ],
)
def test_bad_data_is_named(call, data, change, code, words) -> None:
    (data.parent / "videos" / "text.mp4").write_text("not a video")
    whole = (data.parent / "videos" / "clip-1-a.mp4").read_bytes()
    (data.parent / "videos" / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (data.parent / "videos" / "short.mp4").write_bytes(whole[:-100])
    lines = data.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    bad = data.parent / "bad-prefs.jsonl"
    bad.write_text("\n".join(lines) + "\n")
    found, document, err = call("--data", str(bad))
    assert found == code == document["exit_code"]
    assert all(word in err for word in words), err


def test_the_first_twenty_wrong_lines_are_named_at_once(call, data) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows[1:]:
        row["video_b"] = "videos/gone.mp4"
    bad = data.parent / "many.jsonl"
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = call("--data", str(bad))
    named = [line for line in err.splitlines() if "many.jsonl:" in line]
    assert code == 3 and len(named) == 20 and "many.jsonl:21: field 'video_b'" in named[-1]
    assert "stopped after the first 20" in err


def test_skip_invalid_puts_lines_aside(call, data, tmp_path) -> None:
    mixed = data.parent / "mixed.jsonl"
    gone = {**json.loads(data.read_text().splitlines()[0]), "pair_id": "gone", "video_a": "videos/gone.mp4"}
    mixed.write_text(data.read_text() + '{"pair_id": "x"}\nnot json\n' + json.dumps(gone) + "\n")
    code, document, err = call("--data", str(mixed), "--skip-invalid", "--dry-run")
    assert code == 0 and document["num_pairs"] == 24 and "3 invalid lines" in err
    assert "mixed.jsonl:27: field 'video_a'" in err
    aside = data.parent / "mixed.rejects.jsonl"
    assert not aside.exists()  # a dry run writes nothing
    code, document, err = call("--data", str(mixed), "--skip-invalid")
    assert code == 0 and document["card"]["num_rejected"] == 3 and str(aside) in err
    assert aside.read_text().splitlines() == mixed.read_text().splitlines()[24:]


def test_refused_lines_of_an_artifact_stay_out_of_it(call, data, tmp_path) -> None:
    from idgrpo.store.store import Store

    store = Store(tmp_path / "store")
    with store.publish("preferences", "mixed", inputs={}, config={}) as draft:
        records = [json.loads(line) for line in data.read_text().splitlines()]
        for number, record in enumerate(records):
            for side in ("video_a", "video_b"):
                record[side] = "gone.mp4" if number < 3 else str(data.parent / record[side])
            for reference in record["references"]:
                reference["images"] = [str(data.parent / image) for image in reference["images"]]
        (draft.path / "prefs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    code, _, err = call("--data", "preferences/mixed", "--skip-invalid")
    assert code == 0 and "3 invalid lines" in err
    store.resolve("preferences/mixed").verify()
    assert len(list((tmp_path / "store" / "runs" / "rejects").glob("*.rejects.jsonl"))) == 1


@pytest.mark.parametrize(
    "arguments, code, word",
    [
        (["--data", "nowhere.jsonl"], 3, "nowhere.jsonl"),
        (["--set", "loss.thetta=3"], 2, "did you mean 'theta'"),
        (["--set", "loss.theta=0.5"], 2, "theta"),
        (["--losss"], 2, "losss"),
        (["--vlm", "Qwen/Qwen2.5-VL-3B-Instruct"], 6, "hf download Qwen/Qwen2.5-VL-3B-Instruct"),
        (["--set", "inputs.num_frames=5"], 2, "nearest valid values are 4 and 6"),
    ],
)
def test_wrong_use_is_named(call, data, arguments, code, word) -> None:
    found, document, err = call("--data", str(data), *arguments)
    assert found == code and word in err and document["exit_code"] == code


def test_one_identity_in_two_splits_is_named(call, data) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for index, row in enumerate(rows):
        row["split"] = "test" if index == 5 else "train"
    rows[5]["references"] = rows[0]["references"]
    leaky = data.parent / "leaky.jsonl"
    leaky.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = call("--data", str(leaky))
    assert code == 3 and "leaky.jsonl:6: field 'split': person p0-0 is in 'test' here, in 'train' at" in err
    assert "leaky.jsonl:1" in err
    code, document, err = call("--data", str(leaky), "--skip-invalid", "--dry-run")
    assert code == 0 and document["num_pairs"] == 23 and "1 invalid lines" in err


def test_an_empty_split_is_named(call, data) -> None:
    rows = [{**json.loads(line), "split": "test"} for line in data.read_text().splitlines()]
    empty = data.parent / "empty.jsonl"
    empty.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = call("--data", str(empty))
    assert code == 3 and "no pair is left to train on (24 read" in err


def test_too_few_people_to_measure_on_is_an_error_not_a_silent_gap(call, data) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    few = data.parent / "few.jsonl"
    few.write_text("".join(json.dumps({**row, "references": rows[0]["references"]}) + "\n" for row in rows))
    code, _, err = call("--data", str(few))
    assert code == 3 and "no pair is left for validation" in err and "2 people" in err
    parted = data.parent / "parted.jsonl"
    parts = ["validation" if index < 6 else "train" for index in range(len(rows))]
    lines = [json.dumps({**row, "split": part}) for row, part in zip(rows, parts, strict=True)]
    parted.write_text("\n".join(lines) + "\n")
    code, _, err = call("--data", str(parted))
    assert code == 3 and "no pair is left for test" in err and "--set data.test_share=0" in err
    code, document, _ = call("--data", str(parted), "--set", "data.test_share=0")
    assert code == 0 and document["rm_measured_on"] == document["card"]["measured_on"] == "validation"
    assert document["rm_accuracy_decided"] == document["card"]["validation"]["accuracy_decided"]


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
def test_kill_and_run_again_gives_the_same_model(data, vlm, tmp_path, number, code) -> None:
    def start(store: str) -> subprocess.Popen:
        settings = ["mode=full", "full.lora.rank=2", "full.epochs=8", "full.rates.lora=1e-3", "save_every=3"]
        command = [
            sys.executable,
            "-m",
            "idgrpo",
            "train-rm",
            "--data",
            str(data),
            "--vlm",
            str(vlm),
            "--json",
            "--store",
            str(tmp_path / store),
            *[part for s in settings for part in ("--set", s)],
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    whole = json.loads(start("whole").communicate(timeout=120)[0])
    process = start("cut")
    deadline = time.monotonic() + 60
    while (
        not list((tmp_path / "cut").glob("runs/*/student/checkpoint-*/trainer_state.json"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    again = json.loads(start("cut").communicate(timeout=120)[0])
    assert again["artifact"] == "rm/rm@v1"

    def weights(document: dict) -> list[bytes]:
        return [path.read_bytes() for path in sorted(Path(document["path"]).glob("*.safetensors"))]

    assert weights(again) == weights(whole)

"""Run every stage once on random weights in the public architectures, through the real command line, and measure it.

    python -m tests.full_size --folder DIR [--scale full|tiny] [--stages sample-vace,eval] [--keep]

Finished stages are skipped when it is called again on the same folder; the weights are removed at the end unless --keep.
The table says seconds, peak resident memory (above the libraries) and operations beside what `--dry-run` had said, which counts
the transformer's operations; the others are those of text encoder, VAE and reward model.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.full_size.weights import QWEN, write_all

from idgrpo.tinyworld.cases import make_cases
from idgrpo.video.write import write_image

FINDER = "tests.full_size.clips:Halves"
LONG = {"full": "416x240x33", "tiny": "32x32x9"}
SHORT = {"full": "416x240x9", "tiny": "32x32x5"}
PHOTO_PX = {"full": 256, "tiny": 64}


@dataclass(frozen=True)
class Stage:
    """A command, what it needs, and how its plan calls what was measured."""

    command: Sequence[str]
    plan: bool = False  # it has a --dry-run that says what it will take
    killed: bool = False  # SIGKILL when the first checkpoint is there; then the same command again
    code: int = 0


def stages(folder: Path, scale: str) -> dict[str, Stage]:
    """Give all stages, in the order in which they feed each other."""
    weights = folder / "weights"
    cases, one_case, vlm = str(folder / "cases.jsonl"), str(folder / "one.jsonl"), str(weights / QWEN)
    short, long = SHORT[scale], LONG[scale]
    width, height, frames = short.split("x")

    def update(base: str, rm: str, *more: str) -> list[str]:
        sizes = [f"size.width={width}", f"size.height={height}", f"size.frames={frames}"]
        one = [
            "group.num_cases=1", "group.size=2", "rollout.num_steps=2", "rollout.batch_size=2", "rollout.window.size=1",
            "rollout.window.last=1", "loss.micro_batch=1", "preview.every=0", "checkpoint.every=1", "loss.credit=steps",
            "advantage.controls=[]", "advantage.hold=0",
        ]  # fmt: skip
        given = ["--cases", one_case, "--rm", rm, "--updates", "1", "--name", base]
        return [
            "train-policy",
            "--base",
            base,
            *given,
            *(part for one in [*sizes, *one, *more] for part in ("--set", one)),
        ]

    def sample(base: str, name: str, size: str, *more: str, cases: str = cases) -> list[str]:
        return ["sample", "--base", base, "--cases", cases, "--size", size, "--batch-size", "1", "--name", name, *more]

    full = [
        "mode=full",
        "full.epochs=1",
        "full.batch_pairs=1",
        "full.accumulation=2",
        "full.bf16=true",
        "full.gradient_checkpointing=true",
        "full.rates.vision=0",  # the vision tower in float32 with AdamW's moments is 11 GB: too much for 24 beside the rest
        "full.rates.merger=0",
        "data.test_share=0",
    ]
    return {
        "doctor": Stage(["doctor"]),
        "cases": Stage(["cases", cases, "--name", "two"]),
        "sample vace: 2 steps": Stage(
            sample("vace", "vace", short, "--steps", "2", "--num-per-case", "2", "--guidance", "1"), plan=True
        ),
        "sample vace: 1 forward": Stage(sample("vace", "long", long, "--steps", "1", "--guidance", "1", cases=one_case), plan=True),
        "sample phantom: 2 steps": Stage(sample("phantom", "phantom", short, "--steps", "2"), plan=True),
        "distort --base vace": Stage(
            ["distort", "--data", "samples/phantom", "--base", "vace", "--mix", "renoise=1", "--finder", FINDER, "--no-sheets",
             "--per-video", "1", "--sample-set", "sampler.num_steps=2", "--sample-set", "sampler.guidance_mode=none",
             "--set", "strength.visible=0", "--name", "renoised"],
        ),
        "annotate --by judge": Stage(
            ["annotate", "--samples", "samples/vace", "--by", "judge", "--judge", vlm, "--name", "judged",
             "--set", "judge.votes=1", "--set", "judge.max_new_tokens=16"],
            code=3,  # random weights say nothing that can be read: votes are published, and no preference comes of them
        ),
        "train-rm mode=full": Stage(
            ["train-rm", "--data", "preferences/renoised", "--vlm", vlm, "--name", "qwen",
             *(part for one in full for part in ("--set", one))],
        ),
        "train-policy vace": Stage(update("vace", "rm/qwen"), plan=True, killed=True),
        "train-policy phantom": Stage(update("phantom", "rm/qwen", "rollout.guidance.mode=none"), plan=True),
        "sample tuned vace": Stage(
            sample("vace", "tuned", short, "--steps", "2", "--guidance", "1", "--policy", "policy/vace"), plan=True
        ),
        "eval": Stage(
            ["eval", "--samples", "base=samples/vace", "--samples", "tuned=samples/tuned", "--reward", "rm/qwen",
             "--finder", FINDER, "--name", "report"]
        ),
    }  # fmt: skip


def write_inputs(folder: Path, scale: str) -> None:
    """Write two cases of two people, and the first of them alone: portraits of the embedded world, enlarged."""
    from torch.nn.functional import interpolate

    lines = []
    for drawn in make_cases(2, seed=7):
        references = []
        for reference, photos in zip(drawn.case.references, drawn.photos, strict=True):
            path = folder / f"{drawn.case.id}-{reference.person.replace('/', '_')}.png"
            large = interpolate((photos[0].float())[None], size=PHOTO_PX[scale], mode="nearest")[0]
            write_image(path, large.round().clamp(0, 255).byte())
            references.append({"person": reference.person, "images": [path.name]})
        lines.append({"id": drawn.case.id, "prompt": "a man and a woman walk", "references": references[:2]})
    for name, held in (("one.jsonl", lines[:1]), ("cases.jsonl", lines)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where weights, store and figures lie")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--stages", help="names of stages, joined by commas; default: all")
    parser.add_argument("--keep", action="store_true", help="keep the weights")
    given = parser.parse_args()
    folder = given.folder.absolute()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    all_of_them = stages(folder, given.scale)
    chosen = given.stages.split(",") if given.stages else list(all_of_them)
    if unknown := set(chosen) - set(all_of_them):
        parser.error(f"no such stage: {', '.join(sorted(unknown))} (there are: {', '.join(all_of_them)})")
    started = time.monotonic()
    write_all(folder / "weights", given.scale)
    print(f"weights in {time.monotonic() - started:.0f} s", flush=True)
    if not (folder / "cases.jsonl").exists():
        write_inputs(folder, given.scale)
    for name in chosen:
        file = folder / "figures" / f"{re.sub('[^a-z0-9]+', '-', name)}.json"
        if not file.exists():
            figures = run_stage(all_of_them[name], folder, file.with_suffix(".part"))
            file.write_text(json.dumps(figures))
        print(row(name, json.loads(file.read_text())), flush=True)
    if not given.keep and chosen == list(all_of_them):
        shutil.rmtree(folder / "weights")


def run_stage(stage: Stage, folder: Path, figures: Path) -> dict[str, Any]:
    """Run a stage's plan, then the stage in a process of its own; give what was measured and what was planned."""
    environment = os.environ | {
        "IDGRPO_WEIGHTS": str(folder / "weights"),
        "IDGRPO_STORE": str(folder / "store"),
        "IDGRPO_DTYPE": "bfloat16",
        "HF_HUB_OFFLINE": "1",
        # Large blocks go back to the system at once, so that resident memory is what is alive.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    log = figures.with_suffix(".log")
    planned: dict[str, Any] = {}
    shutil.rmtree(folder / "store" / "cache" / "conditions", ignore_errors=True)  # a plan counts the encoders
    if stage.plan:
        more = ["--gpus", "1"] if stage.command[0] == "train-policy" else []
        command = [sys.executable, "-m", "idgrpo", *stage.command, "--dry-run", "--json", *more]
        planned = plan_of(json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))
    command = [sys.executable, "-m", "tests.full_size.measured", str(figures), *stage.command]
    with log.open("ab") as output:
        if stage.killed:
            kill_at_first_checkpoint(command, environment, folder / "store", output)
        code = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
    if code != stage.code:
        raise SystemExit(f"{' '.join(stage.command)}\nended with exit code {code}; its output is in {log}")
    return json.loads(figures.read_text()) | {"planned": planned, "killed": stage.killed}


def kill_at_first_checkpoint(command: Sequence[str], environment: dict[str, str], store: Path, output: Any) -> None:
    """Begin a training and kill it in its first update, when the checkpoint of the start is on disk."""
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    while process.poll() is None and not list(store.glob("runs/train-policy-*/checkpoints/step-*")):
        time.sleep(0.5)
    time.sleep(5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def plan_of(document: dict[str, Any]) -> dict[str, Any]:
    """Give peak GiB and TFLOP of a plan."""
    if "forecast" in document:
        forecast = document["forecast"]
        num = document["samples_per_update"] * document["config"]["policy"]["num_updates"]
        return {"gib": forecast["memory_gib"], "tflop": forecast["sample_tflop"] * num}
    return {"gib": document["cost"]["memory_gib"], "tflop": document["total_tflop"]}


def row(name: str, found: dict[str, Any]) -> str:
    """Write a line of the table."""
    planned, tflop = found["planned"], dict(found["tflop"])
    parts = [
        f"{name}{' (killed, resumed)' if found['killed'] else ''}",
        f"{found['seconds']:.0f}",
        f"{found['peak_gib']:.2f}",
        f"{planned['gib']:.2f}" if planned else "",
        f"{tflop.pop('transformer', 0.0):.1f}",
        f"{planned['tflop']:.1f}" if planned else "",
        f"{sum(tflop.values()):.1f}",
        f"{100 * found['share_of_peak']:.0f} %",
    ]
    return f"| {' | '.join(parts)} |"


if __name__ == "__main__":
    print(
        "| stage | seconds | peak GiB | planned | TFLOP, transformer | planned | TFLOP, others | share of matmul peak |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    main()

"""`idgrpo demo`: the whole loop on the embedded world, by the same commands that anyone would type."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idgrpo.cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from idgrpo.cli.demo_plan import Scale

OutOption = Annotated[Path, typer.Option("--out", help="Folder of the demo: its store, logs, report and picture.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="The same steps, small: minutes instead of twenty.")]
EvidenceOption = Annotated[
    bool, typer.Option("--evidence", help="Three seeds with fresh people and noise; writes the table evidence.md.")
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds of the policy runs, comma-separated.")]


def command(
    out: OutOption = Path("demo-output"),
    quick: QuickOption = False,
    evidence: EvidenceOption = False,
    seeds: SeedsOption = "",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on the embedded world: people's preferences, distortions, reward model, GRPO on both bases, evaluation.

    Steps that are done are skipped when it is run again, so a killed demo goes on where it was.
    """
    from idgrpo.cli.demo_plan import EVIDENCE, FULL, QUICK
    from idgrpo.cli.demo_result import demo_document, demo_summary, write_evidence, write_page
    from idgrpo.cli.output import finish

    scale, place = (QUICK, "quick") if quick else (EVIDENCE, "evidence") if evidence else (FULL, "full")
    chosen = [int(seed) for seed in seeds.split(",") if seed.strip()] or ([0, 1, 2] if evidence else [0])
    started = time.monotonic()
    folder = (out / place).absolute()
    reward, results, seconds = _run(scale, folder, chosen)
    pages = write_page(results, folder)
    document = demo_document(reward, results, seconds, time.monotonic() - started, pages)
    (folder / "demo.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if evidence:
        write_evidence(document, out / "evidence.md")
    finish(summary=demo_summary(document), document=document, artifact=None, quiet=quiet, as_json=as_json)


def _run(scale: "Scale", folder: Path, seeds: list[int]) -> tuple[dict, list[dict], dict]:
    """Run every step; returns the reward model's figures, one entry per base and seed, and seconds by stage."""
    from idgrpo.cli.demo_steps import Loop

    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    loop = Loop(scale, folder, num_seeds=len(seeds), say=lambda line: print_step(line))
    with loop.stop:
        reward = loop.reward_model()
        results = [result for seed in seeds for result in loop.policies(seed)]
    return reward, results, loop.seconds


def print_step(line: str) -> None:
    """Tell on stderr what is being done."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

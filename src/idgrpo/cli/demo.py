"""`idgrpo demo`: the whole loop on the embedded world."""

from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import JsonOption, QuietOption
from idgrpo.cli.output import finish

OutOption = Annotated[Path, typer.Option("--out", help="Folder of the demo: its store, logs, report and picture.")]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="The same steps at reduced size: minutes instead of fifteen.")
]
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
    from idgrpo.demo.loop import run_demo
    from idgrpo.demo.result import demo_summary

    scale = "quick" if quick else "evidence" if evidence else "full"
    document = run_demo(out, scale, [int(seed) for seed in seeds.split(",") if seed.strip()])
    finish(summary=demo_summary(document), document=document, artifact=None, quiet=quiet, as_json=as_json)

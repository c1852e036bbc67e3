"""`idgrpo annotate`: pairs (or samples, made into pairs) -> votes -> preferences."""

from typing import Annotated, Literal

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    NprocOption,
    QuietOption,
    SeedOption,
    SetOption,
    ShareOption,
    StoreOption,
    open_store,
    without_none,
)
from idgrpo.cli.output import carry_out
from idgrpo.errors import UsageError
from idgrpo.stages.annotate import annotate, result
from idgrpo.stages.settings import Words

PairsOption = Annotated[str | None, typer.Option(help="Pairs to vote on: a store reference or a pairs.jsonl.")]
SamplesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Samples to make pairs of: a reference or a samples.jsonl; may be repeated. Default: the newest."
    ),
]
ByOption = Annotated[
    Literal["people", "oracle", "judge"],
    typer.Option(help="Who votes: people (a web page), judge (models, see --judge), or oracle (simulated annotators)."),
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help="A judge: any source of a reward (rm, http://.., package.module:callable, identity), or a Qwen-VL checkpoint; repeat.",
    ),
]
VotesOption = Annotated[
    list[str] | None,
    typer.Option(help="Take these votes (a reference or a votes.jsonl; may be repeated): nobody votes."),
]
GoldOption = Annotated[
    str | None, typer.Option(help="Pairs with known answers to mix in: a reference or a prefs.jsonl (people only).")
]
PracticeOption = Annotated[
    str | None, typer.Option(help="Pairs with known answers that everybody sees first, with feedback (people only).")
]
GuidelinesOption = Annotated[str | None, typer.Option(help="Markdown file that annotators can read on the page.")]
PublicOption = Annotated[
    str | None,
    typer.Option("--public-url", help="Address of the page behind a proxy, such as https://votes.example.org/faces/."),
]
LeastSureOption = Annotated[
    str | None,
    typer.Option("--least-sure", help="Keep the pairs this reward model is least sure of (with pairs.per_case)."),
]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on. Default: this machine only.")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one. Default: 8080.")]
AnnotatorOption = Annotated[
    list[str] | None, typer.Option("--annotator", help="Make a one-time link for this person; may be repeated.")
]
TranscodeOption = Annotated[bool, typer.Option("--transcode", help="Re-encode clips that browsers cannot play.")]
SEEDED = ("pairs", "oracle", "judge", "queue", "agreement")


def command(
    pairs: PairsOption = None,
    samples: SamplesOption = None,
    by: ByOption = "people",
    judge: JudgeOption = None,
    votes: VotesOption = None,
    least_sure: LeastSureOption = None,
    gold: GoldOption = None,
    practice: PracticeOption = None,
    guidelines: GuidelinesOption = None,
    host: HostOption = None,
    port: PortOption = None,
    public_url: PublicOption = None,
    annotator: AnnotatorOption = None,
    transcode: TranscodeOption = False,
    nproc: NprocOption = 1,
    share: ShareOption = False,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare clips pair by pair, and turn the votes into preferences."""
    seeds = {} if seed is None else {f"{part}.seed": seed for part in SEEDED}
    if nproc > 1 and by != "judge":
        raise UsageError("--nproc is for judges: people and simulated annotators vote in one process", fix="--by judge")
    told = without_none(serve__host=host, serve__port=port, serve__public_url=public_url, serve__guidelines=guidelines)
    settings = Words(config, sets, seeds | told)
    work = annotate.prepare(
        samples or (), pairs=pairs, by=by, judges=judge or (), votes=votes or (), gold=gold, practice=practice,
        least_sure=least_sure, annotators=annotator or (), transcode=transcode, settings=settings, name=name, store=open_store(store), force=force,
        share=share,
        tell=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    carry_out(work, result, dry_run=dry_run, quiet=quiet, as_json=as_json, nproc=nproc)

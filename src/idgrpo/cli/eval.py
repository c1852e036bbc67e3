"""`idgrpo eval`: videos of a base and of tuned policies -> a report with intervals, verdicts, players; gates for CI."""

from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DeviceOption,
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
from idgrpo.stages import Artifact, Plan
from idgrpo.stages.evaluate import GateResult, Gates, evaluate, result, write_junit
from idgrpo.stages.rewards import named_rewards
from idgrpo.stages.settings import Words
from idgrpo.stages.variants import named, named_curves
from idgrpo.stages.work import num_ranks

SamplesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--samples",
        help="Finished samples as name=REF (artifact or samples.jsonl); repeat. The one called base is compared with.",
    ),
]
VideosOption = Annotated[
    list[str] | None,
    typer.Option(
        "--videos",
        help="Finished videos of any tool as name=FOLDER, files <case>.mp4 or <case>--s<seed>.mp4; needs --cases.",
    ),
]
CasesOption = Annotated[str | None, typer.Option(help="Cases: artifact or file (.jsonl, .csv).")]
BaseOption = Annotated[str | None, typer.Option(help="Base to sample with where --samples and --videos give nothing.")]
PolicyOption = Annotated[list[str] | None, typer.Option("--policy", help="Policy to sample with and compare; repeat.")]
NumOption = Annotated[
    int | None, typer.Option("--num-per-case", min=1, help="Clips per case when sampling, with rising seeds.")
]
SampleSetOption = Annotated[
    list[str] | None, typer.Option("--sample-set", help="Setting of the sampling, such as sampler.num_steps=8; repeat.")
]
RewardOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="[NAME=]SOURCE",
        help="Reward shown beside the measures: reward model, http://.. or package.module:callable; repeat with names.",
    ),
]
FinderOption = Annotated[
    str | None,
    typer.Option(
        help="tiny, facenet, arcface, body, or package.module:Class. Default: tiny for clips up to 64 px, else facenet."
    ),
]
WeightsOption = Annotated[str | None, typer.Option("--finder-weights", help="File with the finder's weights.")]
ScorerOption = Annotated[
    list[str] | None, typer.Option("--scorer", help="Further measure on pixels: name or package.module:function.")
]
CurvesOption = Annotated[
    list[str] | None, typer.Option("--curves", help="Curves of a run as name=metrics.jsonl; repeat.")
]
MinOption = Annotated[list[str] | None, typer.Option("--min", help="Gate: measure=value that must be reached; repeat.")]
MaxOption = Annotated[
    list[str] | None, typer.Option("--max", help="Gate: measure=value that must not be exceeded; repeat.")
]
CompareOption = Annotated[
    str | None, typer.Option("--compare", help="Earlier report (artifact or file): fail when a measure got worse.")
]
JunitOption = Annotated[Path | None, typer.Option("--junit", help="Write the gates as JUnit XML to this file.")]


def command(
    samples: SamplesOption = None,
    videos: VideosOption = None,
    cases: CasesOption = None,
    base: BaseOption = None,
    policy: PolicyOption = None,
    num_per_case: NumOption = None,
    sample_sets: SampleSetOption = None,
    reward: RewardOption = None,
    finder: FinderOption = None,
    finder_weights: WeightsOption = None,
    scorer: ScorerOption = None,
    device: DeviceOption = None,
    nproc: NprocOption = 1,
    share: ShareOption = False,
    curves: CurvesOption = None,
    minima: MinOption = None,
    maxima: MaxOption = None,
    compare: CompareOption = None,
    junit: JunitOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Measure who is who in videos, compare tuned policies with the base, and write the report.

    The exit code is 1 when a gate (--min, --max, --compare) is not met; the report is written all the same.
    """
    place = open_store(store)
    gates = Gates.parse(place, minima or (), maxima or (), compare)
    work = evaluate.prepare(
        named(samples or ()), videos=named(videos or ()), cases=cases, base=base, policies=policy or (), reward=named_rewards(reward or ()),
        sampling=Words(None, sample_sets, without_none(num_per_case=num_per_case, seed=seed, device=device)),
        curves=named_curves(curves or ()), gates=gates, name=name, store=place, force=force, share=share,
        plan_only=dry_run or (nproc > 1 and num_ranks() == 1),  # the ranks sample what is missing
        settings=Words(
            config, sets,
            without_none(finding__finder=finder, finding__options__weights=finder_weights, scorers=scorer, finding__device=device),
        ),
    )  # fmt: skip
    failed: list[GateResult] = []

    def told(artifact: Artifact) -> Plan:
        results = gates.check(artifact)
        if junit is not None:
            write_junit(results, junit)
        failed.extend(gate for gate in results if not gate.passed)
        return result(artifact, results)

    carry_out(work, told, dry_run=dry_run, quiet=quiet, as_json=as_json, nproc=nproc)
    for gate in failed:
        typer.echo(f"gate not met: {gate.text}", err=True)
    return 1 if failed else 0

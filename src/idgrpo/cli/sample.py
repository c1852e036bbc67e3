"""`idgrpo sample`: cases and a base (with or without a policy) -> videos."""

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
    ResumeOption,
    SeedOption,
    SetOption,
    ShareOption,
    StoreOption,
    open_store,
    without_none,
)
from idgrpo.cli.output import carry_out
from idgrpo.errors import UsageError
from idgrpo.stages.sample import result, sample
from idgrpo.stages.settings import Words

BaseOption = Annotated[
    str | None,
    typer.Option(help="vace, vace-14b, phantom, phantom-14b, tiny-vace, tiny-phantom (name@commit pins), or a path."),
]
CasesOption = Annotated[
    str | None, typer.Option(help="Cases: artifact or file (.jsonl, .csv). Default: the newest of the store.")
]
PolicyOption = Annotated[str | None, typer.Option(help="Policy to put on the base: artifact or adapter folder.")]
NumOption = Annotated[int | None, typer.Option("--num-per-case", min=1, help="Clips for each case, with rising seeds.")]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps.")]
ShiftOption = Annotated[float | None, typer.Option(help="Shift of the noise schedule.")]
SizeOption = Annotated[str | None, typer.Option(help="WIDTHxHEIGHTxFRAMES, such as 416x240x33.")]
GuidanceOption = Annotated[float | None, typer.Option(help="Guidance scale (Phantom: of the text).")]
ImageGuidanceOption = Annotated[float | None, typer.Option(help="Phantom's guidance scale of the references.")]
SolverOption = Annotated[str | None, typer.Option(help="euler or second-order.")]
LawOption = Annotated[str | None, typer.Option(help="Stochastic law in place of the solver: wan, flow, dance, cps.")]
EtaOption = Annotated[float | None, typer.Option(help="Strength of the stochastic law.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Clips made together.")]
LosslessOption = Annotated[
    bool | None, typer.Option("--lossless/--h264", help="Lossless video. Default: yes for tiny bases, no for others.")
]
AsTrainedOption = Annotated[
    bool, typer.Option("--as-trained", help="Size, steps, shift and guidance that the policy was trained with.")
]


TogetherOption = Annotated[
    int,
    typer.Option(
        "--context-parallel", min=1, help="Processes that compute each clip together: long clips, few of them."
    ),
]


def command(
    base: BaseOption = None,
    cases: CasesOption = None,
    policy: PolicyOption = None,
    num_per_case: NumOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    shift: ShiftOption = None,
    size: SizeOption = None,
    guidance: GuidanceOption = None,
    image_guidance: ImageGuidanceOption = None,
    solver: SolverOption = None,
    law: LawOption = None,
    eta: EtaOption = None,
    batch_size: BatchOption = None,
    lossless: LosslessOption = None,
    as_trained: AsTrainedOption = False,
    device: DeviceOption = None,
    nproc: NprocOption = 1,
    context_parallel: TogetherOption = 1,
    share: ShareOption = False,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make videos of cases with a base, with or without a tuned policy.

    Run the same command again after an interruption: finished videos are kept, the missing ones are made.
    """
    if nproc > 1 and context_parallel > 1:
        raise UsageError(
            "--nproc deals clips out, --context-parallel makes each by all processes", fix="give one of them"
        )
    sampler = without_none(
        num_steps=steps, shift=shift, guidance=guidance, image_guidance=image_guidance, solver=solver, law=law, eta=eta,
        batch_size=batch_size,
    )  # fmt: skip
    options = {f"sampler.{key}": value for key, value in (sampler | _size(size)).items()}
    options |= without_none(base=base, num_per_case=num_per_case, seed=seed, lossless=lossless, device=device)
    work = sample.prepare(
        cases,
        policy=policy,
        as_trained=as_trained,
        settings=Words(config, sets, options),
        name=name,
        store=open_store(store),
        plan_only=dry_run,
        force=force,
        resume=resume,
        share=share,
        together=context_parallel,
    )
    num = max(nproc, context_parallel)
    carry_out(work, result, dry_run=dry_run, quiet=quiet, as_json=as_json, nproc=num)


def _size(text: str | None) -> dict[str, int]:
    """Parse WIDTHxHEIGHTxFRAMES."""
    if text is None:
        return {}
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise UsageError(f"--size {text} is not WIDTHxHEIGHTxFRAMES", fix="for example --size 416x240x33")
    return dict(zip(("width", "height", "frames"), map(int, parts), strict=True))

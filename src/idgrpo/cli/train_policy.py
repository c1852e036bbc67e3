"""`idgrpo train-policy`: a base, cases and a reward model (GRPO), stored clips (SFT) or preferences (DPO) -> a policy."""

from typing import Annotated

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    SetOption,
    StoreOption,
    open_store,
    without_none,
)
from idgrpo.cli.output import carry_out
from idgrpo.errors import UsageError
from idgrpo.stages.rewards import parse_rewards
from idgrpo.stages.settings import Words
from idgrpo.stages.train_policy import result, train_policy
from idgrpo.stages.work import num_ranks

BaseOption = Annotated[
    str, typer.Option("--base", help="vace, vace-14b, phantom, phantom-14b, tiny-vace, tiny-phantom, or a path.")
]
CasesOption = Annotated[
    str | None, typer.Option(help="Cases: artifact or file (.jsonl, .csv). Default: the newest of the store.")
]
RmOption = Annotated[
    str | None,
    typer.Option(
        "--rm",
        help="Reward model: artifact, folder, or the address of a service (http://..). Default: the newest of the store.",
    ),
]
RewardOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME=SOURCE[*WEIGHT]",
        help="A reward, repeatable: reward model, http://.., package.module:callable, or a measure such as identity.",
    ),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        help="Preset of settings: default, unguided (cheaper), paper (the authors' full trajectory), or full (all weights)."
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="grpo: cases and a reward; sft: stored clips (--data); dpo: preferences (--data). Default: as the settings say.",
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="With --method sft: samples, or preferences (the preferred clips); with dpo: preferences. Artifact or file; "
        "repeat to join several.",
    ),
]
EvalCasesOption = Annotated[
    str | None, typer.Option("--eval-cases", help="Held-out cases, measured every `evaluation.every` updates.")
]
InitOption = Annotated[str | None, typer.Option("--init", help="Policy to start from: artifact or folder.")]
UpdatesOption = Annotated[int | None, typer.Option("--updates", min=1, help="Number of updates.")]
NprocOption = Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine (one a GPU).")]
ZeroOption = Annotated[
    int | None,
    typer.Option(
        "--zero", min=0, max=3, help="DeepSpeed ZeRO stage 1, 2 or 3. Default (and 0): plain AdamW, no DeepSpeed."
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", min=1, help="With --dry-run: predict an update on this many GPUs (see docs/policy.md)."),
]


def command(
    base: BaseOption,
    cases: CasesOption = None,
    rm: RmOption = None,
    reward: RewardOption = None,
    method: MethodOption = None,
    data: DataOption = None,
    recipe: RecipeOption = "default",
    eval_cases: EvalCasesOption = None,
    init: InitOption = None,
    updates: UpdatesOption = None,
    device: DeviceOption = None,
    nproc: NprocOption = 1,
    zero: ZeroOption = None,
    gpus: GpusOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tune a base: with GRPO so that a reward model rates its videos higher, on good clips (SFT), or on preferences (DPO).

    The same command after a stop or a kill goes on exactly where the last checkpoint left it; --force starts afresh.
    Under torchrun, the deepspeed launcher or SLURM the same command joins the job.
    """
    if gpus is not None and not dry_run:
        raise UsageError("--gpus only predicts; training takes its ranks from --nproc or the launcher", fix="--dry-run")
    settings = Words(
        config, sets, without_none(num_updates=updates, seed=seed, engine__zero=zero) | parse_rewards(reward or ())
    )
    work = train_policy.prepare(
        base, cases, rm, method=method, data=data, recipe=recipe, settings=settings, eval_cases=eval_cases, init=init, device=device, name=name,
        store=open_store(store), ranks=max(nproc, num_ranks()), gpus=gpus, plan_only=dry_run, force=force,
        resume=resume,
    )  # fmt: skip
    carry_out(work, result, dry_run=dry_run, quiet=quiet, as_json=as_json, nproc=nproc)

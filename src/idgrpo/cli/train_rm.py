"""`idgrpo train-rm`: preferences -> reward model."""

from typing import Annotated

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    SetOption,
    StoreOption,
    launch_ranks,
    open_store,
    without_none,
)
from idgrpo.cli.output import carry_out
from idgrpo.stages.settings import Words
from idgrpo.stages.train_rm import result, setting_lines, train_rm
from idgrpo.stages.work import is_main_rank

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="Preferences: a prefs.jsonl, or an artifact such as preferences@v3; repeat to join several."
    ),
]
VlmOption = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint to build on: directory, hub id or tiny-vlm. Default: tiny-vlm for clips up to 64 px, else 3B."
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-invalid", help="Put invalid lines aside (<file>.rejects.jsonl) and go on, instead of stopping."
    ),
]

NprocOption = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes on this machine (one a GPU); for full training.")
]
ZeroOption = Annotated[
    int | None,
    typer.Option("--zero", min=0, max=2, help="DeepSpeed ZeRO stage of full training. Default: no DeepSpeed."),
]


def command(
    data: DataOption = None,
    vlm: VlmOption = None,
    skip_invalid: SkipOption = False,
    nproc: NprocOption = 1,
    zero: ZeroOption = None,
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
    """Train a reward model on preferences and print how often it agrees with held-out ones."""
    settings = Words(config, sets, without_none(vlm=vlm, seed=seed, full__zero=zero))
    work = train_rm.prepare(
        data,
        settings=settings,
        skip_invalid=skip_invalid,
        name=name,
        store=open_store(store),
        force=force,
        resume=resume,
    )
    if not dry_run and (force or work.find() is None):
        launch_ranks(nproc)
        if is_main_rank() and not quiet:
            for line in setting_lines(work):
                typer.echo(line, err=True)
    carry_out(work, result, dry_run=dry_run, quiet=quiet, as_json=as_json)

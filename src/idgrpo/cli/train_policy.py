"""`idgrpo train-policy`: a base, cases and a reward model -> a policy (GRPO)."""

import hashlib
import json
import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    scoring_service,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from idgrpo.bases.contract import Base, BaseEntry
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.policy.scoring import RewardFunction
    from idgrpo.records.case import Case
    from idgrpo.reward.client import RewardClient
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

    Source = Artifact | Path

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
RecipeOption = Annotated[
    str,
    typer.Option(
        help="Preset of settings: default, paper (the authors' full trajectory), or full (all weights, no adapter)."
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
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: the GPU if there is one.")]


NO_RESULT = {"plan": True, "metrics": True}
"""Settings that change nothing of what is computed: not part of what makes two runs the same."""


def command(
    base: BaseOption,
    cases: CasesOption = None,
    rm: RmOption = None,
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
    """Tune a base with GRPO so that a reward model rates its videos higher.

    The same command after a stop or a kill goes on exactly where the last checkpoint left it; --force starts afresh.
    Under torchrun, the deepspeed launcher or SLURM the same command joins the job.
    """
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.cli.output import finish
    from idgrpo.errors import UsageError
    from idgrpo.policy.groups import check_geometry
    from idgrpo.policy.recipes import recipe as preset
    from idgrpo.run.distributed import world_from_environment
    from idgrpo.store.store import Store

    given = {"num_updates": updates, "seed": seed, "engine.zero": zero}
    entry = resolve_entry(base)
    settings = _settings(preset(recipe, base, tiny=entry.architecture == "tiny"), config, sets, given)
    world = world_from_environment(dict(os.environ))
    shelf = Store(Path(store)) if store else Store.default()
    inputs = {"cases": _source(shelf, "cases", cases)}
    service = scoring_service(rm)
    if service is None:
        inputs["rm"] = _source(shelf, "rm", rm)
    if init is not None:
        inputs["init"] = _source(shelf, "policy", init)
    if eval_cases is not None:
        inputs["heldout"] = _source(shelf, "cases", eval_cases)
    _check_evaluation(settings, inputs)
    known_cases = _read_cases(inputs["cases"])
    group = settings.group
    check_geometry(len(known_cases), group.num_cases, group.size, max(nproc, world.size))
    name = name or _plain_name(base)
    resolved = {"base": base, "recipe": recipe, "policy": settings.model_dump(mode="json", exclude=NO_RESULT)}
    if service is not None:  # the model decides the result, not the address it is served at
        resolved["served_rm"] = service.health()["model"]
    if gpus is not None and not dry_run:
        raise UsageError("--gpus only predicts; training takes its ranks from --nproc or the launcher", fix="--dry-run")
    if dry_run:
        plan = _plan(shelf, resolved, inputs, len(known_cases), settings, name)
        if gpus is not None:
            _add_forecast(plan, entry, settings, gpus, max(len(case.references) for case in known_cases))
        finish(**plan, artifact=None, quiet=quiet, as_json=as_json)
        return
    # Reading the weights' digest is also what says that they are missing, before anything else is done.
    resolved |= weights_of_entry(entry)
    artifact = None if force else shelf.find("policy", name, inputs=inputs, config=resolved)
    if artifact is None and nproc > 1 and world.size == 1:
        raise typer.Exit(_launch(nproc))
    if artifact is None:
        artifact = _train(shelf, name, inputs, resolved, settings, known_cases, device, force and not resume, service)
    if artifact is not None:  # ranks other than the first have nothing to tell
        finish(**_result(artifact), artifact=artifact, quiet=quiet, as_json=as_json)


def _launch(nproc: int) -> int:
    """Run this command line in `nproc` ranks and give their exit code."""
    from idgrpo.run.distributed import launch

    return launch(nproc, sys.argv[1:])


def _settings(
    preset: "PolicyConfig", config: Path | None, sets: list[str] | None, given: dict[str, int | None]
) -> "PolicyConfig":
    """Lay file, --set and options over the recipe; all of them are checked together."""
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.run.config import load_config

    options = [f"{key}={value}" for key, value in given.items() if value is not None]
    return load_config(PolicyConfig, config, [*(sets or []), *options], base=preset)


def _check_evaluation(settings: "PolicyConfig", inputs: dict[str, "Source"]) -> None:
    """Refuse half an order: held-out cases without a rhythm, or a rhythm without cases."""
    from idgrpo.errors import UsageError

    if settings.evaluation.every and "heldout" not in inputs:
        raise UsageError("evaluation.every is set, but there are no held-out cases", fix="--eval-cases REF")
    if "heldout" in inputs and not settings.evaluation.every:
        raise UsageError("--eval-cases needs to know how often", fix="--set evaluation.every=20")


def _source(shelf: "Store", kind: str, given: str | None) -> "Source":
    """Find an input: a file or a folder that is no artifact stays a path; nothing given means the newest of the store."""
    if given is not None:
        path = Path(given)
        if path.is_file() or (path.is_dir() and not (path / "manifest.json").is_file()):
            return path.resolve()
    return shelf.resolve(given or kind, kind=kind)


def _path(source: "Source") -> Path:
    return source if isinstance(source, Path) else source.path


def _read_cases(source: "Source") -> list["Case"]:
    from idgrpo.errors import DataError
    from idgrpo.records.jsonl import read_cases

    path = source if isinstance(source, Path) else source.file("cases.jsonl")
    found = list(read_cases(path))
    if not found:
        raise DataError(f"no cases in {path}", fix="one line of JSON each: id, prompt, references")
    ids = [case.id for case in found]
    twice = sorted({case_id for case_id in ids if ids.count(case_id) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(
            f"{path}: case ids are there twice: {', '.join(twice[:5])}", fix="give each case an id of its own"
        )
    return found


def _plain_name(base: str) -> str:
    """Give a name for the artifact: that of the base, or the folder's own name for a path."""
    return Path(base).name.split("@")[0]


def _train(
    shelf: "Store",
    name: str,
    inputs: dict[str, "Source"],
    resolved: dict[str, Any],
    settings: "PolicyConfig",
    cases: list["Case"],
    device: str | None,
    fresh: bool,
    service: "RewardClient | None",
) -> "Artifact | None":
    """Train and publish; ranks other than the first only train and give None."""
    import torch

    from idgrpo.bases.inventory import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.policy.train import forget_work, train
    from idgrpo.reward.score import RewardModel
    from idgrpo.run.distributed import join_world
    from idgrpo.run.folder import RunFolder

    world = join_world()
    device = device or default_device()
    if device == "cuda" and world.size > 1:
        device = f"cuda:{world.local_rank}"
    digests = {key: str(value) if isinstance(value, Path) else value.digest for key, value in inputs.items()}
    fingerprint = {"config": resolved, "inputs": digests, "cases": [case.id for case in cases]}
    # The folder's name holds the fingerprint: the same command finds its run again, another one starts beside it.
    mark = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]
    folder = shelf.run_dir(f"train-policy-{name}-{mark}")
    # Only the first rank takes the lock and publishes; it must have looked at the folder before the others use it.
    opened = RunFolder.open(folder, fingerprint=fingerprint, resume=True) if world.is_main else nullcontext()
    with opened as run:
        if fresh and run is not None:
            forget_work(run)
        world.barrier()
        run = run or RunFolder(folder)
        dtype = torch.float32 if settings.train == "full" else None  # AdamW's steps are lost in the rounding of bf16
        base = load_base(resolved["base"], device=device, dtype=dtype)
        reward = service or RewardModel.load(_path(inputs["rm"]), device=device)
        init = _path(inputs["init"]) if "init" in inputs else None
        evaluate = _held_out(inputs, settings, cases, run.path) if "heldout" in inputs else None
        rewards = _rewards(reward.score, settings)
        run_stage = partial(train, base, cases, rewards, settings, run, init=init, world=world, evaluate=evaluate)
        if not world.is_main:
            run_stage()
            return None
        with shelf.publish("policy", name, inputs=inputs, config=resolved) as draft:
            draft.metrics.update(run_stage(out=draft.path))
        if not settings.checkpoint.keep_every:
            forget_work(run)
    return draft.artifact


def _rewards(score: "RewardFunction", settings: "PolicyConfig") -> "RewardFunction | dict[str, RewardFunction]":
    """Put the identity measures that are asked for beside the reward model."""
    setting = settings.reward
    if not setting.measures:
        return score
    from idgrpo.people.load import load_finder
    from idgrpo.policy.measured import MeasuredRewards

    return {"rm": score} | MeasuredRewards(load_finder(setting.finder), setting.measures).rewards()


def _held_out(
    inputs: dict[str, "Source"], settings: "PolicyConfig", cases: list["Case"], folder: Path
) -> "Callable[[Base, int], dict[str, float]]":
    from idgrpo.people.load import load_finder
    from idgrpo.policy.heldout import held_out

    setting = settings.evaluation
    finder = load_finder(setting.finder)
    found = _read_cases(inputs["heldout"])
    return held_out(found, cases, finder, folder / "heldout", finder_name=setting.finder, seed=setting.seed)


def _plan(
    shelf: "Store",
    resolved: dict[str, Any],
    inputs: dict[str, "Source"],
    num_cases: int,
    settings: "PolicyConfig",
    name: str,
) -> dict[str, Any]:
    """Say what would be read, done and written."""
    from idgrpo.policy.cost import rollout_forwards

    reads = {key: str(value) if isinstance(value, Path) else value.ref for key, value in inputs.items()}
    group = settings.group
    num_samples = group.num_cases * group.size
    forwards = round(num_samples * rollout_forwards(settings))
    replays = num_samples * settings.rollout.window.size
    summary = [
        f"reads   {', '.join(f'{key} {value}' for key, value in reads.items())}; {num_cases} cases; base {resolved['base']}",
        f"writes  policy/{name} in {shelf.root}",
        f"does    {settings.num_updates} updates of {num_samples} videos ({group.num_cases} cases x {group.size}); each: "
        f"{forwards} rollout forwards, {replays} replayed steps"
        + (f", {replays} reference steps" if settings.kl.weight else ""),
    ]
    document = {
        "dry_run": True,
        "would_read": reads,
        "would_write": f"policy/{name}",
        "num_cases": num_cases,
        "samples_per_update": num_samples,
        "rollout_forwards_per_update": forwards,
        "replayed_steps_per_update": replays,
        "config": resolved,
    }
    return {"summary": summary, "document": document}


def _add_forecast(
    plan: dict[str, Any], entry: "BaseEntry", settings: "PolicyConfig", gpus: int, num_references: int
) -> None:
    """Say what an update would take on `gpus` ranks: the stage and micro-batch worth using, seconds, memory, traffic.

    Where the samples do not divide over them, the plan is for the next number of groups that does, and says so.
    """
    from dataclasses import asdict

    from idgrpo.policy.forecast import forecast, on_gpus

    asked, settings = settings.group, on_gpus(settings, gpus)
    group = settings.group
    found, load, machine = forecast(entry, settings, gpus, num_references)
    where = "fits" if found.fits else "DOES NOT FIT"
    if group.num_cases != asked.num_cases:
        plan["summary"].append(
            f"plan    for group.num_cases={group.num_cases}: {asked.num_cases} groups of {asked.size} samples do not divide over "
            f"{gpus} GPUs ({asked.num_cases * asked.size} % {gpus} = {asked.num_cases * asked.size % gpus}), "
            f"and a run with them is refused"
        )
    plan["summary"] += [
        f"on {gpus} GPUs of {machine.memory_gib:.0f} GiB at {machine.tflops:.0f} TFLOP/s and {machine.link_gb_s:.0f} GB/s "
        f"(plan.* settings): {group.num_cases * group.size // gpus} samples a GPU, about {found.seconds:.3g} s an update ({found.sync_s:.2g} s of it between ranks, "
        f"{found.traffic_gib:.2g} GiB a rank)",
        f"memory  about {found.memory_gib:.1f} GiB a GPU, {where}, with --zero {found.zero} and "
        f"loss.micro_batch={found.micro_batch}; {load.sample_tflop:.4g} TFLOP a sample",
    ]
    plan["document"]["forecast"] = asdict(found) | {
        "seconds": found.seconds,
        "sample_tflop": load.sample_tflop,
        "num_cases": group.num_cases,
        "samples_per_update": group.num_cases * group.size,
    }


def _result(artifact: "Artifact") -> dict[str, Any]:
    metrics = dict(artifact.manifest.metrics)
    base = artifact.manifest.config["base"]
    first, last = float(metrics["reward_first"]), float(metrics["reward_last"])
    summary = [
        f"policy {artifact.ref}: {base} after {int(metrics['updates'])} updates",
        f"training reward {first:.3f} -> {last:.3f} (not a measure of identity: compare with `idgrpo eval`)",
        f"adapter: {artifact.path}",
    ]
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "base": base,
        "metrics": metrics,
    }
    return {"summary": summary, "document": document}

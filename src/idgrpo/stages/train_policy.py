"""The `train-policy` stage: a base, cases and a reward -> a tuned policy."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import UsageError
from idgrpo.stages.cases import read_cases
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, Source, find
from idgrpo.stages.work import Plan, Run, Stage, Work
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.bases.contract import Base, BaseEntry
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.policy.scoring import RewardFunction
    from idgrpo.records.case import Case
    from idgrpo.reward.client import RewardClient

NO_RESULT = {"plan": True, "metrics": True}
"""Settings that change nothing of what is computed: not part of what makes two runs the same."""


@Stage
def train_policy(
    base: str,
    cases: Given = None,
    rm: Given = None,
    *,
    recipe: str = "default",
    settings: Settings = None,
    eval_cases: Given = None,
    init: Given = None,
    device: str | None = None,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    resume: bool = False,
    ranks: int = 1,
    gpus: int | None = None,
) -> Work:
    """Tune a base with GRPO so that a reward model rates its videos higher.

    A call after a stop or a kill goes on exactly where the last checkpoint left it. In a job of several processes
    (torchrun, SLURM) every rank makes the same call.

    Args:
        base: name of a base, or its path.
        rm: reward model: artifact, reference, folder, or the address of a scoring service; None means the newest.
        recipe: preset of settings: default, paper or full.
        settings: a PolicyConfig, which replaces the recipe, or dotted keys laid over it, such as {"num_updates": 40}.
        eval_cases: held-out cases, measured every `evaluation.every` updates.
        init: policy to start from.
    """
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.policy.groups import check_geometry
    from idgrpo.policy.recipes import recipe as preset

    store = store or Store.default()
    entry = resolve_entry(base)
    settled = settle(PolicyConfig, settings, preset=preset(recipe, base, tiny=entry.architecture == "tiny"))
    inputs = {"cases": find(store, "cases", cases)}
    service = scoring_service(rm)
    if service is None:
        inputs["rm"] = find(store, "rm", rm)
    if init is not None:
        inputs["init"] = find(store, "policy", init)
    if eval_cases is not None:
        inputs["heldout"] = find(store, "cases", eval_cases)
    _check_evaluation(settled, inputs)
    known = read_cases(inputs["cases"])
    check_geometry(len(known), settled.group.num_cases, settled.group.size, ranks)
    name = name or Path(base).name.split("@")[0]
    resolved = {"base": base, "recipe": recipe, "policy": settled.model_dump(mode="json", exclude=NO_RESULT)}
    if service is not None:  # the model decides the result, not the address it is served at
        resolved["served_rm"] = service.health()["model"]

    def make(run: Run) -> None:
        _make(run, base, known, inputs, settled, device, service)

    def plan() -> Plan:
        told = _plan(store, resolved, inputs, len(known), settled, name)
        if gpus is not None:
            _add_forecast(told, entry, settled, gpus, max(len(case.references) for case in known))
        return told

    # The digest of the weights says also that they are missing, before anything is done; a plan needs none.
    return Work(
        store, "train-policy", "policy", name, inputs, resolved, make, plan,
        pins=lambda: weights_of_entry(entry), forget=partial(_forget, keep=bool(settled.checkpoint.keep_every)),
        force=force, resume=resume,
    )  # fmt: skip


def scoring_service(rm: Given) -> "RewardClient | None":
    """Give the client of a service where a reward model is named by an address; None for artifacts and folders."""
    if not isinstance(rm, str) or not rm.startswith(("http://", "https://")):
        return None
    from idgrpo.reward.client import RewardClient

    return RewardClient(rm)


def _check_evaluation(settings: "PolicyConfig", inputs: dict[str, Source]) -> None:
    """Refuse half an order: held-out cases without a rhythm, or a rhythm without cases."""
    if settings.evaluation.every and "heldout" not in inputs:
        raise UsageError("evaluation.every is set, but there are no held-out cases", fix="--eval-cases REF")
    if "heldout" in inputs and not settings.evaluation.every:
        raise UsageError("--eval-cases needs to know how often", fix="--set evaluation.every=20")


def _make(
    run: Run,
    base_name: str,
    cases: "list[Case]",
    inputs: dict[str, Source],
    settings: "PolicyConfig",
    device: str | None,
    service: "RewardClient | None",
) -> None:
    """Train; the main rank writes the policy, the others only train."""
    import torch

    from idgrpo.bases.inventory import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.policy.train import train
    from idgrpo.reward.score import RewardModel

    device = device or default_device()
    if device == "cuda" and run.world.size > 1:
        device = f"cuda:{run.world.local_rank}"
    dtype = torch.float32 if settings.train == "full" else None  # AdamW's steps are lost in the rounding of bf16
    base = load_base(base_name, device=device, dtype=dtype)
    reward = service or RewardModel.load(inputs["rm"].path, device=device)
    init = inputs["init"].path if "init" in inputs else None
    evaluate = _held_out(inputs["heldout"], settings, cases, run.path) if "heldout" in inputs else None
    out = run.draft.path if run.draft is not None else None
    figures = train(
        base, cases, _rewards(reward.score, settings), settings, run.folder,
        out=out, init=init, world=run.world, evaluate=evaluate,
    )  # fmt: skip
    if run.draft is not None:
        run.draft.metrics.update(figures)
        run.draft.timed.add("metrics.jsonl")


def _forget(folder: Any, *, keep: bool) -> None:
    """Drop checkpoints and clips of a published run; all stay where checkpoints were to be kept."""
    from idgrpo.policy.train import forget_work

    if not keep:
        forget_work(folder)


def _rewards(score: "RewardFunction", settings: "PolicyConfig") -> "RewardFunction | dict[str, RewardFunction]":
    """Put the identity measures that are asked for beside the reward model."""
    setting = settings.reward
    if not setting.measures:
        return score
    from idgrpo.people.load import load_finder
    from idgrpo.policy.measured import MeasuredRewards

    return {"rm": score} | MeasuredRewards(load_finder(setting.finder), setting.measures).rewards()


def _held_out(
    source: Source, settings: "PolicyConfig", cases: "list[Case]", folder: Path
) -> "Callable[[Base, int], dict[str, float]]":
    from idgrpo.people.load import load_finder
    from idgrpo.policy.heldout import held_out

    setting = settings.evaluation
    finder, found = load_finder(setting.finder), read_cases(source)
    return held_out(found, cases, finder, folder / "heldout", finder_name=setting.finder, seed=setting.seed)


def _plan(
    store: Store,
    resolved: dict[str, Any],
    inputs: dict[str, Source],
    num_cases: int,
    settings: "PolicyConfig",
    name: str,
) -> Plan:
    """Say what would be read, done and written."""
    from idgrpo.policy.cost import rollout_forwards

    reads = {key: source.ref for key, source in inputs.items()}
    group = settings.group
    num_samples = group.num_cases * group.size
    forwards = round(num_samples * rollout_forwards(settings))
    replays = num_samples * settings.rollout.window.size
    summary = [
        f"reads   {', '.join(f'{key} {value}' for key, value in reads.items())}; {num_cases} cases; base {resolved['base']}",
        f"writes  policy/{name} in {store.root}",
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
    return Plan(summary, document)


def _add_forecast(plan: Plan, entry: "BaseEntry", settings: "PolicyConfig", gpus: int, num_references: int) -> None:
    """Say what an update would take on `gpus` ranks: the stage and micro-batch worth using, seconds, memory, traffic.

    Where the samples do not divide over them, the plan is for the next number of groups that does, and says so.
    """
    from idgrpo.policy.forecast import forecast, on_gpus

    asked, settings = settings.group, on_gpus(settings, gpus)
    group = settings.group
    found, load, machine = forecast(entry, settings, gpus, num_references)
    where = "fits" if found.fits else "DOES NOT FIT"
    if group.num_cases != asked.num_cases:
        plan.summary.append(
            f"plan    for group.num_cases={group.num_cases}: {asked.num_cases} groups of {asked.size} samples do not divide over "
            f"{gpus} GPUs ({asked.num_cases * asked.size} % {gpus} = {asked.num_cases * asked.size % gpus}), "
            f"and a run with them is refused"
        )
    plan.summary.extend(
        [
            f"on {gpus} GPUs of {machine.memory_gib:.0f} GiB at {machine.tflops:.0f} TFLOP/s and {machine.link_gb_s:.0f} GB/s "
            f"(plan.* settings): {group.num_cases * group.size // gpus} samples a GPU, about {found.seconds:.3g} s an update ({found.sync_s:.2g} s of it between ranks, "
            f"{found.traffic_gib:.2g} GiB a rank)",
            f"memory  about {found.memory_gib:.1f} GiB a GPU, {where}, with --zero {found.zero} and "
            f"loss.micro_batch={found.micro_batch}; {load.sample_tflop:.4g} TFLOP a sample",
        ]
    )
    plan.document["forecast"] = asdict(found) | {
        "seconds": found.seconds,
        "sample_tflop": load.sample_tflop,
        "num_cases": group.num_cases,
        "samples_per_update": group.num_cases * group.size,
    }


def result(artifact: Artifact) -> Plan:
    """Tell the training reward at both ends, and where the adapter lies."""
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
    return Plan(summary, document)

"""The `train-policy` stage: a base, cases and a reward (GRPO), stored clips (SFT) or preferences (DPO) -> a tuned policy."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import ArtifactError, DataError, UsageError
from idgrpo.plugins import load
from idgrpo.records.jsonl import first_record_has
from idgrpo.run.distributed import rank_device
from idgrpo.stages.cases import read_cases
from idgrpo.stages.joining import join_clips, join_pairs
from idgrpo.stages.rewards import RewardSource, check_rewards, find_model, find_rewards
from idgrpo.stages.settings import Settings, settled_policy
from idgrpo.stages.source import RECORD_FILES, Given, Source, find, listed
from idgrpo.stages.work import Plan, Run, Stage, Work
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.bases.contract import BaseEntry
    from idgrpo.policy.clips import Material
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.records.models import Case
    from idgrpo.reward.score import Scores

NO_RESULT: dict[str, bool | set[str]] = {
    "plan": True,
    "metrics": True,
    "engine": {"encoder_device"},
    "evaluation": {"device"},
    "reward": {"sources", "overlap"},
}
"""Settings that change nothing of what is computed: not part of what makes two runs the same. What the sources of rewards
hold does; it stands beside them."""
CHANGEABLE = {"num_updates", "checkpoint", "preview"}
"""Settings that a run may be given anew while it goes on: a longer one takes up the checkpoints of a shorter one."""
MATERIAL = {"grpo": "cases", "sft": "clips", "dpo": "preferences"}
"""What a method learns from."""


@Stage
def train_policy(
    base: str,
    cases: Given = None,
    rm: Given = None,
    *,
    method: str | None = None,
    data: Given | Sequence[Given] = None,
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
    plan_only: bool = False,
) -> Work:
    """Tune a base: with GRPO so that a reward model rates its videos higher, on clips that are good already (SFT), or on
    preferences between clips (DPO).

    A call after a stop or a kill goes on exactly where the last checkpoint left it. In a job of several processes
    (torchrun, SLURM) every rank makes the same call.

    Args:
        base: name of a base, or its path.
        rm: reward model: artifact, reference, folder, or the address of a scoring service; None means the newest, or none
            where `reward.sources` of the settings name rewards.
        method: grpo (cases and a reward), sft (stored clips: `data`) or dpo (preferences: `data`); None means as the settings
            say.
        data: of SFT: samples, or preferences, whose preferred clips are taken (None means the newest samples); of DPO:
            preferences (None means the newest). Several are joined.
        recipe: preset of settings: default, unguided, paper or full.
        settings: a PolicyConfig, which replaces the recipe, or dotted keys laid over it, such as {"num_updates": 40}.
        eval_cases: held-out cases, measured every `evaluation.every` updates.
        init: policy to start from, of any method; with `kl.reference=start` it is the reference policy as well, and the
            artifact names it as both.
        ranks: processes that the job will have, for the check that samples divide over them.
        gpus: adds a forecast for that many GPUs to the plan.
        plan_only: the plan is all that is wanted; a reward model that is not there yet, or too few cases for an update,
            are said in it instead of being errors.
    """
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.bases.tuned import refuse_start

    store = store or Store.default()
    entry = resolve_entry(base)
    settled = settled_policy(base, recipe, settings, method, is_tiny=entry.architecture == "tiny")
    is_grpo = settled.method == "grpo"
    check_arguments(settled, cases=cases, rm=rm, data=data, init=init, eval_cases=eval_cases)
    inputs = {"cases": find(store, "cases", cases)} if is_grpo else find_data(store, settled.method, listed(data))
    rewards, lacks = find_rewards(store, settled.reward.sources), []
    if rm is not None or (is_grpo and not rewards) or (not is_grpo and settled.clips.keep == "best"):
        if plan_only and rm is None and store.newest("rm") is None:
            lacks.append("a reward model: `idgrpo train-rm`")
        else:
            rewards.insert(0, find_model(store, rm))
    check_rewards(rewards, settled.reward.weights, more=["rm"] if lacks else [])
    inputs |= {_input_name(one): one.source for one in rewards if one.source is not None}
    if init is not None:
        inputs["init"] = find(store, "policy", init)
        refuse_start(inputs["init"].path, settled.train, entry)
        if settled.asks_reference and settled.swaps_reference:
            inputs["reference"] = inputs["init"]  # the lineage says what the policy was held against
    if eval_cases is not None:
        inputs["heldout"] = find(store, "cases", eval_cases)
    material = _read_material(settled, inputs, entry.max_references)
    try:
        _check_sizes(settled, len(material), ranks)
    except UsageError as error:
        if not plan_only:
            raise
        lacks.append(f"{error.message} ({error.fix})")
    name = name or Path(base).name.split("@")[0]
    resolved: dict[str, Any] = {
        "base": base,
        "recipe": recipe,
        "policy": settled.model_dump(mode="json", exclude=NO_RESULT),
    }
    lasting = CHANGEABLE if settled.optimizer.schedule == "constant" else CHANGEABLE - {"num_updates"}
    run_config = {"policy": {key: value for key, value in resolved["policy"].items() if key not in lasting}}
    for one in rewards:  # the model decides the result, not the address it is served at
        if one.name == "rm" and one.kind == "service":
            resolved["served_rm"] = one.pin
        elif one.name != "rm" or one.kind != "model":  # a model called rm is an input already
            resolved.setdefault("rewards", {})[one.name] = {"kind": one.kind, "pin": one.pin}

    def make(run: Run) -> None:
        _make(run, base, material, inputs, settled, device, rewards, store.root / "cache" / "conditions")

    def plan() -> Plan:
        told = _plan(store, resolved, inputs, rewards, material, settled, name)
        told.summary.extend(f"lacks   {what}" for what in lacks)
        told.document["lacks"] = lacks
        if gpus is not None:
            _add_forecast(told, entry, settled, gpus, _most_references(material))
        return told

    # The digest of the weights says also that they are missing, before anything is done; a plan needs none.
    return Work(
        store, "train-policy", "policy", name, inputs, resolved, make, plan, run_config=run_config,
        pins=lambda: weights_of_entry(entry), forget=functools.partial(_forget, keep=bool(settled.checkpoint.keep_every)),
        force=force, resume=resume, device=device, ranks="together",
    )  # fmt: skip


def check_arguments(
    settings: "PolicyConfig",
    *,
    cases: Given,
    rm: Given,
    data: Given | Sequence[Given],
    init: Given,
    eval_cases: Given,
) -> None:
    """Refuse arguments that have no effect with these settings, and what cannot be loaded here. Raises UsageError."""
    from idgrpo.bases.numerics import check_attention
    from idgrpo.policy.train import refuse_lost_reference

    check_attention(settings.engine.attention)
    if settings.rollout.decoder is not None:
        load(settings.rollout.decoder, "rollout.decoder")  # a wrong name is told before hours are spent
    if settings.method == "grpo" and listed(data) != [None]:
        raise UsageError(
            "--data is what --method sft and dpo learn from; GRPO draws its own clips",
            fix="--method sft, or --method dpo",
        )
    if settings.method != "grpo" and cases is not None:
        raise UsageError(f"--method {settings.method} learns from stored clips, not from --cases", fix="--data REF")
    if settings.method == "dpo" and rm is not None:
        raise UsageError(
            "--method dpo learns from the preferences themselves and reads no reward model", fix="leave --rm out"
        )
    if settings.method == "sft" and rm is not None and settings.clips.keep == "all":
        raise UsageError(
            "--method sft reads a reward model only to keep the best clip of each case",
            fix="--set clips.keep=best, or leave --rm out",
        )
    if settings.kl.reference == "start" and init is None:
        raise UsageError(
            "kl.reference=start is the policy that --init names, and none is named",
            fix="--init POLICY, or --set kl.reference=base",
        )
    if init is not None:
        refuse_lost_reference(settings)
    if settings.evaluation.every and eval_cases is None:
        raise UsageError("evaluation.every is set, but there are no held-out cases", fix="--eval-cases REF")
    if eval_cases is not None and not settings.evaluation.every:
        raise UsageError("--eval-cases needs to know how often", fix="--set evaluation.every=20")


def _check_sizes(settings: "PolicyConfig", num_material: int, ranks: int) -> None:
    """Refuse what cannot be dealt out over the ranks; UsageError tells the nearest values."""
    from idgrpo.policy.clips import check_clips
    from idgrpo.policy.groups import check_geometry

    if settings.method == "grpo":
        check_geometry(num_material, settings.group.num_cases, settings.group.size, ranks)
    elif settings.clips.keep == "all":
        check_clips(num_material, settings.clips.num_per_update, ranks, MATERIAL[settings.method])


def find_data(store: Store, method: str, given: Sequence[Given]) -> dict[str, Source]:
    """Find the stored clips (SFT) or preferences (DPO), by the name of each input."""
    sources = [find(store, "preferences", one) if method == "dpo" else _find_clips(store, one) for one in given]
    seen: set[tuple[str, str, str | None]] = set()
    for source in sources:
        if (mark := (source.kind, source.digest, source.media)) in seen:  # equal lines may name other clips
            raise UsageError(f"--data {source.ref} is there twice", fix="leave one of them out")
        seen.add(mark)
        if source.kind == "preferences" and first_record_has(source.records, "video"):
            raise DataError(
                f"{source.records} holds samples, preferences are needed here",
                fix="--method sft learns from samples; `idgrpo annotate` makes preferences of them",
            )
    return {f"data{place or ''}": source for place, source in enumerate(sources)}


def _read_material(settings: "PolicyConfig", inputs: dict[str, Source], max_references: int) -> "Material":
    """Read what the method learns from."""
    from idgrpo.policy.clips import check_files, clip_size, clips_in, preferred, read_clips, read_pairs

    if settings.method == "grpo":
        return read_cases(inputs["cases"])
    sources = [source for key, source in inputs.items() if key.startswith("data")]
    setting = settings.dpo if settings.method == "dpo" else None
    compared = [source for source in sources if source.kind == "preferences"]
    pairs = join_pairs([(source, read_pairs(source.records, setting)) for source in compared])
    material: Material = pairs
    if settings.method == "sft":
        parts = [(source, read_clips(source.records)) for source in sources if source.kind == "samples"]
        clips = preferred(pairs, needed=not parts)
        material = join_clips(parts + ([(compared[0], clips)] if clips else []))
    check_files(clips_in(material), max_references)
    if settings.clips.keep == "all":
        clip_size(clips_in(material), settings.size)
    return material


def _find_clips(store: Store, given: Given) -> Source:
    """Find what SFT learns from: samples (nothing given: the newest), or preferences."""
    if isinstance(given, Artifact | Source):
        kind = given.kind
    elif given is None or not Path(given).exists():
        kind = "preferences" if str(given).startswith("preferences") else "samples"
    else:
        path = Path(given)
        file = path if path.is_file() else path / RECORD_FILES["preferences"]
        kind = "preferences" if file.is_file() and first_record_has(file, "video_a") else "samples"
    if kind not in ("samples", "preferences"):
        raise ArtifactError(
            f"{given} is a {kind} artifact; samples or preferences are needed here", fix="`idgrpo artifacts list`"
        )
    return find(store, kind, given)


def _cases_of(material: "Material") -> "list[Case]":
    from idgrpo.policy.clips import StoredClip, StoredPair

    clips = [item.a if isinstance(item, StoredPair) else item for item in material]
    return [item.case if isinstance(item, StoredClip) else item for item in clips]


def _most_references(material: "Material") -> int:
    return max(len(case.references) for case in _cases_of(material))


def _input_name(reward: RewardSource) -> str:
    return "rm" if reward.name == "rm" else f"reward.{reward.name}"


def _make(
    run: Run,
    base_name: str,
    material: "Material",
    inputs: dict[str, Source],
    settings: "PolicyConfig",
    device: str | None,
    rewards: Sequence[RewardSource],
    conditions: Path,
) -> None:
    """Train; the main rank writes the policy, the others only train.

    The reward model is read after the transformer, when the text encoder has left; SFT on the best clips chooses them first.
    """
    import torch

    from idgrpo.bases.conditions import ConditionsCache
    from idgrpo.bases.inventory import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.policy.measured import HeldOut, rewards_of
    from idgrpo.policy.train import train, training_size

    device = rank_device(device or default_device(), run.world)
    dtype = torch.float32 if settings.train == "full" else None  # AdamW's steps are lost in the rounding of bf16
    base = load_base(
        base_name, device=device, dtype=dtype, encoder_device=settings.engine.encoder_device,
        reversed_references=settings.rollout.reversed_references, with_transformer=False,
        base_weights=settings.engine.base_weights, attention=settings.engine.attention,
    )  # fmt: skip
    cache = None if base.entry.architecture == "tiny" else ConditionsCache(conditions)

    scorers = {
        one.name: functools.cache(functools.partial(one.load, device)) for one in rewards if one.kind != "measure"
    }

    def load_rewards(_: object = None) -> None:
        for load_one in scorers.values():
            load_one()

    if settings.clips.keep == "best":
        load_rewards()
    else:
        base.when_loaded = load_rewards  # outside scoring, where a damaged model would be taken for an outage
    evaluate = None
    if "heldout" in inputs:
        evaluate = HeldOut(
            read_cases(inputs["heldout"]), _cases_of(material), run.path / "heldout", config=settings.evaluation,
            size=training_size(base.entry, settings), world=run.world, cache=cache,
        )  # fmt: skip
        evaluate.prepare(base)
    settings = _with_overlap(settings, rewards)
    scores = {name: _at_rate(load, base.entry.fps) for name, load in scorers.items()}
    is_plain = list(scores) == ["rm"] and not settings.reward.weights
    alone = scores["rm"] if is_plain else scores  # a reward model alone is what metrics call the reward
    figures = train(
        base, material, rewards_of(alone, settings.reward) if rewards else None, settings, run.folder,
        out=run.out.path if run.publishes else None,
        init=inputs["init"].path if "init" in inputs else None, init_name=inputs["init"].ref if "init" in inputs else None,
        world=run.world, evaluate=evaluate, cache=cache,
    )  # fmt: skip
    if run.publishes:
        run.out.metrics.update(figures)
        run.out.timed.add("metrics.jsonl")


def _with_overlap(settings: "PolicyConfig", rewards: Sequence[RewardSource]) -> "PolicyConfig":
    """Decide whether clips are scored beside the rollout, where that is not set."""
    if settings.reward.overlap is not None:
        return settings
    served = any(one.kind == "service" for one in rewards)
    return settings.model_copy(update={"reward": settings.reward.model_copy(update={"overlap": served})})


def _at_rate(reward: "Callable[[], Scores]", fps: float) -> Callable[..., Any]:
    """Give the scoring function of a reward, for clips at the base's frame rate."""
    return lambda videos, references, prompts: reward().score(videos, references, prompts, fps)


def _forget(folder: Any, *, keep: bool) -> None:
    """Drop checkpoints and clips of a published run; all stay where checkpoints were to be kept."""
    from idgrpo.policy.train import forget_work

    if not keep:
        forget_work(folder)


def _plan(
    store: Store,
    resolved: dict[str, Any],
    inputs: dict[str, Source],
    rewards: Sequence[RewardSource],
    material: "Material",
    settings: "PolicyConfig",
    name: str,
) -> Plan:
    """Say what would be read, done and written."""
    from idgrpo.policy.cost import work_of_update
    from idgrpo.policy.train import reference_name

    start = inputs["init"].ref if "init" in inputs else None
    reference = reference_name(settings, resolved["base"], start)
    reads = {key: source.ref for key, source in inputs.items()}
    work = work_of_update(settings, _most_references(material))
    what = MATERIAL[settings.method]
    summary = [
        f"reads   {', '.join(f'{key} {value}' for key, value in reads.items())}; {len(material)} {what}; base {resolved['base']}",
        *([f"scores  by {', '.join(f'{one.name}: {one.kind} {one.text}' for one in rewards)}"] if rewards else []),
        f"writes  policy/{name} in {store.root}",
        f"does    {settings.num_updates} updates of {work.say()}",
        *([f"against the reference policy {reference}"] if reference is not None else []),
    ]
    document = {
        "dry_run": True,
        "would_read": reads,
        "rewards": {one.name: {"kind": one.kind, "source": one.text} for one in rewards},
        "would_write": f"policy/{name}",
        f"num_{what}": len(material),
        "samples_per_update": work.samples,
        "rollout_forwards_per_update": work.rollout_forwards,
        "replayed_steps_per_update": work.replayed_steps,
        "scored_sets_per_update": work.scored_sets,
        "start": start,
        "reference": reference,
        "config": resolved,
    }
    return Plan(summary, document)


def _add_forecast(plan: Plan, entry: "BaseEntry", settings: "PolicyConfig", gpus: int, num_references: int) -> None:
    """Say what an update would take on `gpus` ranks: the stage and micro-batch worth using, seconds, memory, traffic.

    Where the samples do not divide over them, the plan is for the next number of groups that does, and says so.
    """
    from idgrpo.policy.cost import samples_per_update
    from idgrpo.policy.forecast import forecast, on_gpus

    asked, settings = settings.group, on_gpus(settings, gpus)
    group, num_samples = settings.group, samples_per_update(settings)
    found, load, machine = forecast(entry, settings, gpus, num_references)
    where = f"fits {machine.usable_gib:.1f}" if found.fits else f"DOES NOT FIT {machine.usable_gib:.1f}"
    hours, num_total = settings.num_updates * found.seconds / 3600, settings.num_updates * num_samples
    if group.num_cases != asked.num_cases:
        plan.summary.append(
            f"plan    for group.num_cases={group.num_cases}: {asked.num_cases} groups of {asked.size} samples do not divide over "
            f"{gpus} GPUs ({asked.num_cases * asked.size} % {gpus} = {asked.num_cases * asked.size % gpus}), "
            f"and a run with them is refused"
        )
    plan.summary.extend(
        [
            f"on {gpus} GPUs of {machine.memory_gib:.0f} GiB at {machine.tflops:.0f} TFLOP/s and {machine.link_gb_s:.0f} GB/s "
            f"(plan.* settings): {num_samples // gpus} samples a GPU, about {found.seconds:.3g} s an update ({found.sync_s:.2g} s of it between ranks, "
            f"{found.traffic_gib:.2g} GiB a rank)",
            f"memory  about {found.memory_gib:.1f} GiB a GPU, {where}, with --zero {found.zero} and "
            f"loss.micro_batch={found.micro_batch}; {load.sample_tflop:.4g} TFLOP a sample",
            f"in all  {settings.num_updates} updates: about {hours:,.1f} hours, {hours * gpus:,.1f} GPU hours; {num_total:,} videos, "
            f"{num_total * load.sample_tflop / 1000:,.0f} PFLOP",
        ]
    )
    plan.document["forecast"] = asdict(found) | {
        "seconds": found.seconds,
        "sample_tflop": load.sample_tflop,
        "num_cases": group.num_cases,
        "samples_per_update": num_samples,
        "hours": hours,
        "gpu_hours": hours * gpus,
        "num_videos": num_total,
        "total_pflop": num_total * load.sample_tflop / 1000,
    }


def result(artifact: Artifact) -> Plan:
    """Tell the course of the training, and where the adapter lies."""
    metrics = dict(artifact.manifest.metrics)
    base = artifact.manifest.config["base"]
    if "reward_first" in metrics:
        course = f"training reward {float(metrics['reward_first']):.3f} -> {float(metrics['reward_last']):.3f}"
    elif "preference_first" in metrics:
        course = (
            f"loss of preferences {float(metrics['preference_first']):.4f} -> {float(metrics['preference_last']):.4f}"
        )
    else:
        course = f"flow-matching error {float(metrics['matching_first']):.4f} -> {float(metrics['matching_last']):.4f}"
    summary = [
        f"policy {artifact.ref}: {base} after {int(metrics['updates'])} updates",
        f"{course} (not a measure of identity: compare with `idgrpo eval`)",
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

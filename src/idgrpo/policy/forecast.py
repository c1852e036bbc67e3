"""Predict an update on a number of GPUs before any is rented: sizes from the base's configuration, speed from `plan.*`."""

from idgrpo.bases.contract import BaseEntry, VideoSize
from idgrpo.bases.cost import (
    GIB,
    TEXT_ENCODER_SIZE_BYTES,
    VAE_SIZE_BYTES,
    attention_share,
    decoder_bytes,
    encoder_bytes,
    transformer_bytes,
    transformer_flop,
    transformer_parameters,
)
from idgrpo.bases.geometry import Geometry
from idgrpo.bases.guidance import branch_weights, num_branches
from idgrpo.bases.inventory import configs_of_entry
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.cost import Load, Machine, UpdatePlan, best_plan, rollout_forwards, sample_cost, samples_per_update
from idgrpo.policy.groups import nearest_num_groups
from idgrpo.policy.simulation import simulated_peaks
from idgrpo.policy.trainer import guidance_of


def forecast(
    entry: BaseEntry, config: PolicyConfig, gpus: int, num_references: int
) -> tuple[UpdatePlan, Load, Machine]:
    """Give the best plan for `gpus`, what it has to carry, and the machine it reckons with (docs/policy.md)."""
    load = load_of(entry, config, num_references, gpus)
    setting = config.plan
    machine = Machine(setting.tflops, setting.memory_gib, setting.link_gb_s)
    return best_plan(load, config, machine, gpus), load, machine


def on_gpus(config: PolicyConfig, gpus: int) -> PolicyConfig:
    """Give the settings with the next number of groups (SFT: clips, DPO: preferences) whose samples divide over `gpus`; they themselves where
    they do.

    A real run is refused there and told the nearest values; a plan that said no more than that would be of no use.
    """
    if config.method != "grpo":
        num_clips = -(-config.clips.num_per_update // gpus) * gpus
        return config.model_copy(update={"clips": config.clips.model_copy(update={"num_per_update": num_clips})})
    group = config.group
    _, num_groups = nearest_num_groups(group.num_cases, group.size, gpus)
    return config.model_copy(update={"group": group.model_copy(update={"num_cases": num_groups})})


def load_of(entry: BaseEntry, config: PolicyConfig, num_references: int, gpus: int = 1) -> Load:
    """Size up what a run trains; the largest number of references counts for all cases."""
    transformer, vae = configs_of_entry(entry)
    geometry = Geometry.of(vae, transformer)
    own = entry.train_size
    size = VideoSize(config.size.width or own.width, config.size.height or own.height, config.size.frames or own.frames)
    geometry.check(size)
    tokens = geometry.num_tokens(size, num_references)
    guidance = guidance_of(entry, config)
    branches = num_branches(branch_weights(entry.family, guidance), guidance.mode)
    is_tiny = entry.architecture == "tiny"
    choice = config.engine.recompute
    choice = ("off" if is_tiny else "on") if choice == "auto" else choice
    is_full = config.train == "full"
    bytes_each = 4 if is_tiny or is_full else 2
    weights_gib = transformer_bytes(transformer, bytes_each, config.engine.base_weights) / GIB
    copies = bool(config.ema.decay) + bool(config.kl.weight or config.method == "dpo") if is_full else 0
    forward = transformer_flop(transformer, tokens, entry.text_length) / 1e12
    d = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    num_blocks = transformer["num_layers"] + len(transformer.get("vace_layers") or [])
    recomputed = {"on": 1.0, "selective": 1 - attention_share(transformer, tokens, entry.text_length), "off": 0.0}[
        choice
    ]
    one = config.model_copy(update={"loss": config.loss.model_copy(update={"micro_batch": 1})})
    peaks = simulated_peaks(entry, transformer, vae, one, size, num_references)
    decoder = decoder_bytes(geometry, size, 4) / GIB
    encoders = 0 if is_tiny or config.engine.encoder_device == "cpu" else TEXT_ENCODER_SIZE_BYTES
    samples = samples_per_update(config)
    return Load(
        sample_tflop=sample_cost(config, forward, branches, recomputed=recomputed).total,
        base_gib=weights_gib,
        base_parameters=transformer_parameters(transformer),
        base_gib_extra=(0 if is_tiny else VAE_SIZE_BYTES / GIB) + config.plan.reward_gib + copies * weights_gib,
        trained_parameters=transformer_parameters(transformer)
        if is_full
        else adapter_parameters(config, d, transformer["ffn_dim"], num_blocks),
        activation_gib=peaks.replay,
        rollout_gib=max(peaks.rollout, decoder if config.method == "grpo" else 0),
        start_gib=(encoders + VAE_SIZE_BYTES + encoder_bytes(geometry, size, 4)) / GIB if not is_tiny else 0.0,
        num_forwards_rollout=rollout_forwards(config) * -(-samples // (gpus * config.rollout.batch_size)),
        num_pairs=samples * config.rollout.window.size,
    )


def adapter_parameters(config: PolicyConfig, d: int, feed_forward: int, num_blocks: int) -> int:
    """Count the adapter: rank x (in + out) per matrix; attention's matrices are there twice (self and cross)."""
    rows = sum(2 * 2 * d if target.startswith("to_") else d + feed_forward for target in config.lora.targets)
    return config.lora.rank * rows * num_blocks

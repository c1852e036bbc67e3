"""Named presets of the policy stage, per base and method: `--recipe default`, `unguided`, `paper` and `full`. Imports no torch."""

from typing import Any

from idgrpo.errors import IdgrpoError, UsageError
from idgrpo.policy.config import ATTENTION, PolicyConfig

Settings = dict[str, Any]

# Full-size bases, our default: noise and gradients in 4 of 25 steps. Training is guided, because people sample with guidance
# and the reward model sees guided clips; the gradient flows through the conditional branch alone.
# Half of what one person standing for all earns is taken off (docs/policy.md): a plain reward pays for blending people.
DEFAULT: Settings = {
    "num_updates": 300,
    "group": {"num_cases": 16, "size": 8},
    "rollout": {
        "num_steps": 25,
        "std_min": 0.0,
        "std_max": None,
        "batch_size": 8,
        "window": {"size": 4, "first": 0, "last": 12},
        "guidance": {"mode": "detach-uncond"},
    },
    "loss": {"micro_batch": 2},
    "kl": {"weight": 0.004},
    "optimizer": {"lr": 1e-4, "eps": 1e-12},  # gradients of an adapter have rms 5e-9: 1e-8 would shrink every step
    "lora": {"rank": 32, "alpha": 32, "targets": ATTENTION},
    "evaluation": {"finder": "facenet"},
    "reward": {"contrast": 0.5},
}

# The same without guidance, at about half of the compute (docs/policy.md): sample the policy with `--as-trained`.
UNGUIDED: Settings = {"rollout": {"guidance": {"mode": "none"}}}

# The authors' settings: every step but the last is stochastic and trained, guidance 4.5 in rollout and training alike.
# Their last step is stochastic too; ours never is, because its noise stays in the scored video.
PAPER: Settings = {
    "num_updates": 300,
    "size": {"width": 416, "height": 240, "frames": 33},
    "group": {"num_cases": 16, "size": 8},
    "rollout": {
        "num_steps": 25,
        "law": "wan",
        "std_min": 0.0,
        "std_max": None,
        "batch_size": 8,
        "window": {"size": 24, "first": 0, "last": 24, "move": "fixed"},
        "guidance": {"mode": "both-grad", "scale": 4.5},
    },
    "loss": {"micro_batch": 1},
    "kl": {"weight": 0.004},
    "optimizer": {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-4, "max_grad_norm": 1.0},
    "lora": {"rank": 32, "alpha": 32, "targets": ATTENTION},
    "evaluation": {"finder": "facenet"},
    "ema": {"decay": 0.9},
}

# The embedded world: 1.25 M parameters, 32x32 px, 9 frames; the settings `PolicyConfig` starts from.
# Batches of 16 and 32 stay in a core's cache; in float32 a merged adapter shifts log p by about 1e-7.
# Forward credit: a whole sample is credited where noise in two of eight steps explains little of what groups differ by, and its
# gradient lies along clips instead of along white noise: it gained more in fewer updates
# (docs/dev/findings.md, `tests/bench/test_compute_to_gain.py`). Sharpness and ripple are controlled and held: the reward model is
# taken in by them, and steps this large would let them drift. The rate falls, for steps of the first size end in noise.
TINY: Settings = {
    "num_updates": 80,
    "advantage": {"controls": ("sharpness", "ripple"), "hold": 1.0},
    "rollout": {
        "batch_size": 16,
        "merged": True,
        "window": {"size": 2, "first": 0, "last": 7, "move": "scatter"},
    },
    "loss": {"credit": "forward", "micro_batch": 32},
    "kl": {"weight": 0.015},
    "optimizer": {"lr": 6e-3, "schedule": "cosine"},
    "reward": {"contrast": 0.5, "finder": "tiny"},
    "evaluation": {"sampler": {"batch_size": 16}},
}
TINY_PAPER: Settings = {
    "reward": {"contrast": 0.0, "finder": "tiny"},
    "size": {"width": None, "height": None, "frames": None},
    "evaluation": {"finder": "tiny"},
    "rollout": {"batch_size": 16},
    "loss": {"micro_batch": 32},
}

# Wan's own shift differs by base: VACE's training resolution follows diffusers (3), Phantom's own code uses 5.
BASES: dict[str, Settings] = {
    "vace": {"rollout": {"shift": 3.0}},
    "vace-14b": {"rollout": {"shift": 3.0}},
    "phantom": {"rollout": {"shift": 5.0}},
    "phantom-14b": {"rollout": {"shift": 5.0}},
    "tiny-vace": {"rollout": {"shift": 3.0}},
    "tiny-phantom": {"rollout": {"shift": 3.0}, "num_updates": 120},  # in the time of 80 of tiny-vace
}

# Stored clips: no rollouts, so nothing is controlled or held; one noise level a clip, over the range that the sampler visits.
STORED: Settings = {
    "advantage": {"controls": (), "hold": 0.0},
    "kl": {"weight": 0.0},
    "loss": {"credit": "steps"},
    "reward": {"contrast": 0.0},
    "rollout": {"window": {"size": 1, "first": 0, "move": "random"}},
    "optimizer": {"schedule": "cosine", "warmup": 20, "betas": (0.9, 0.99)},
    "ema": {"decay": 0.97},
}
FULL_SIZE_STORED: Settings = {"num_updates": 1000, "rollout": {"window": {"last": 24}}}
TINY_STORED: Settings = {"num_updates": 120, "rollout": {"window": {"last": 7}}}
# With guidance 120 updates separate people better than 300 of the clips alone; off at full size, where it was not tried.
TINY_SFT: Settings = {"clips": {"guidance": 3.0}, "optimizer": {"lr": 3e-3}}
TINY_DPO: Settings = {"optimizer": {"lr": 1e-3}}
# Flow-DPO needs smaller steps than SFT (VideoAlign takes 5e-6 at rank 128); not tried by us at full size.
FULL_SIZE_DPO: Settings = {"optimizer": {"lr": 2e-5}}

# All weights of the transformer instead of an adapter: steps a hundredth as large.
FULL: Settings = {"train": "full", "rollout": {"merged": False}, "optimizer": {"lr": 1e-6}}
TINY_FULL: Settings = {"train": "full", "rollout": {"merged": False}, "optimizer": {"lr": 1e-4}}

RECIPES = ("default", "unguided", "paper", "full")


def recipe(name: str, base: str, *, tiny: bool | None = None, method: str = "grpo") -> PolicyConfig:
    """Give the settings of a recipe for a base, by its name; a path needs to be told whether it is of the embedded world.

    Raises UsageError for an unknown recipe.
    """
    tiny = base.startswith("tiny-") if tiny is None else tiny
    if name == "default":
        layers = [TINY] if tiny else [DEFAULT]
    elif name == "unguided":
        layers = [TINY if tiny else DEFAULT, UNGUIDED]
    elif name == "paper":
        layers = [PAPER, TINY_PAPER] if tiny else [PAPER]
    elif name == "full":
        layers = [TINY, TINY_FULL] if tiny else [DEFAULT, FULL]
    else:
        raise UsageError(f"unknown recipe {name!r} (known: {', '.join(RECIPES)})", fix="--recipe default")
    settings: Settings = {}
    for layer in [layers[0], _of_base(base, tiny), *_of_method(method, tiny), *layers[1:]]:
        settings = merge(settings, layer)
    return PolicyConfig.model_validate(settings)


def _of_method(method: str, tiny: bool) -> list[Settings]:
    """Give what a method that learns from stored clips lays over the settings of a base."""
    if method == "grpo":
        return []
    own = {"sft": TINY_SFT if tiny else {}, "dpo": TINY_DPO if tiny else FULL_SIZE_DPO}[method]
    return [{"method": method}, STORED, TINY_STORED if tiny else FULL_SIZE_STORED, own]


def _of_base(base: str, tiny: bool) -> Settings:
    """Give the settings of a base: by its name, or those of its family for a pinned commit, a file or a folder."""
    if tiny or base in BASES:
        return BASES.get(base, {})
    from idgrpo.bases.entries import family_of

    try:
        return BASES.get(family_of(base), {})
    except IdgrpoError:  # who loads the base tells what is wrong with it
        return {}


def merge(below: Settings, above: Settings) -> Settings:
    """Lay nested settings over others; neither is changed."""
    merged = dict(below)
    for key, value in above.items():
        both_nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both_nested else value
    return merged

"""Sizes of the public transformers, for checkpoints without a config.json, and for estimates without weights."""

from typing import Any

_WAN_1_3B: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
}
_WAN_14B = _WAN_1_3B | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "wan-1.3b": _WAN_1_3B,
    "wan-14b": _WAN_14B,
    "vace-1.3b": _WAN_1_3B | {"vace_layers": list(range(0, 30, 2)), "vace_in_channels": 96},
    "vace-14b": _WAN_14B | {"vace_layers": list(range(0, 40, 5)), "vace_in_channels": 96},
}

WAN_VAE: dict[str, Any] = {"z_dim": 16, "temperal_downsample": [False, True, True], "patch_size": None}
"""What `Geometry.of` needs of the public VAE: factor 8 in space, 4 in time."""

CLASS_OF_FAMILY = {"vace": "WanVACETransformer3DModel", "phantom": "WanTransformer3DModel"}


def architecture_of_state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read a Wan transformer's configuration from the shapes of its diffusers-named weights.

    Heads are 128 wide in every public model of the family; narrower transformers have one head per 12 numbers of a
    rotary position only if config.json says so, hence one head here.
    """
    hidden, in_channels, *patch = shapes["patch_embedding.weight"]
    numbers = {int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")}
    head_dim = 128 if hidden % 128 == 0 else hidden
    out = shapes["proj_out.weight"][0]
    for size in patch:
        out //= size
    return _WAN_1_3B | {
        "patch_size": tuple(patch),
        "num_attention_heads": hidden // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": in_channels,
        "out_channels": out,
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": max(numbers) + 1,
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
    }

"""Names of Wan weights: the original code's and diffusers', both ways, for transformers and for LoRA files.

Original: `blocks.3.self_attn.q.weight`, `head.head.weight`, `vace_blocks.0.before_proj.weight`; diffusers:
`blocks.3.attn1.to_q.weight`, `proj_out.weight`, `vace_blocks.0.proj_in.weight`. Same mapping as
`diffusers.loaders.single_file_utils.convert_wan_transformer_to_diffusers`, but a bijection: it also goes back.
"""

import re

_TOP = {
    "patch_embedding": "patch_embedding",
    "vace_patch_embedding": "vace_patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_BLOCK = {
    **{
        f"{old}.{letter}": f"{new}.{projection}"
        for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for letter, projection in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    },
    **{
        f"{old}.{norm}": f"{new}.{norm}"
        for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for norm in ("norm_q", "norm_k")
    },
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    # Original norm3 is the norm before cross-attention, which diffusers counts second.
    "norm3": "norm2",
    "norm2": "norm3",
    "norm1": "norm1",
    "modulation": "scale_shift_table",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
}
_TOP_BACK = {new: old for old, new in _TOP.items()}
_BLOCK_BACK = {new: old for old, new in _BLOCK.items()}
_TAIL = re.compile(r"^(.*?)((?:\.lora_[AB]|\.lora_down|\.lora_up)?\.(?:weight|bias)|\.alpha)?$")


def _rename(key: str, top: dict[str, str], block: dict[str, str]) -> str | None:
    parts = _TAIL.match(key)
    assert parts is not None, "the pattern matches any text"
    module, tail = parts.groups()
    match = re.match(r"^((?:vace_)?blocks\.\d+)\.(.+)$", module)
    name = block.get(match[2]) if match else top.get(module)
    if name is None:
        return None
    return (f"{match[1]}.{name}" if match else name) + (tail or "")


def to_diffusers(key: str) -> str | None:
    """Give the diffusers name of an original name, or None when the original code has no such weight."""
    return _rename(key, _TOP, _BLOCK)


def to_original(key: str) -> str | None:
    """Give the original name of a diffusers name, or None when diffusers' model has no such weight."""
    return _rename(key, _TOP_BACK, _BLOCK_BACK)

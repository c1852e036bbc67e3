"""Load a vision-language backbone without its language head and read hidden states from it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.errors import ArtifactError, MachineError
from idgrpo.reward.vision import batch_vision

MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)
FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


def load_backbone(directory: Path | str, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    """Load any Qwen2.5-VL, Qwen2-VL or Qwen3-VL checkpoint directory as a bare model with the batched vision tower.

    Raises:
        ArtifactError: the directory is not such a checkpoint, or its weights do not fit its configuration.
        MachineError: the weights do not fit into memory.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{directory} is not a readable checkpoint: {error}") from error
    if config.model_type not in FAMILIES:
        raise ArtifactError(
            f"{directory} is a {config.model_type} checkpoint; reward models are built on {' or '.join(FAMILIES)}"
        )
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                directory, dtype=dtype, attn_implementation=attention, output_loading_info=True
            )
    except torch.OutOfMemoryError as error:
        raise MachineError(f"not enough memory for the weights of {directory}: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"the weights of {directory} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:5])
        raise ArtifactError(f"{directory} lacks {len(report['missing_keys'])} weights ({some} ..)")
    # Heads of others are left alone; blocks that the configuration does not count would be dropped in silence.
    unused = sorted(key for key in report["unexpected_keys"] if ".blocks." in key or "layers." in key)
    if unused:
        raise ArtifactError(
            f"{directory} holds {len(unused)} weights of blocks that its config.json does not count ({unused[0]} ..)"
        )
    require_finite(model.state_dict(), directory)
    batch_vision(model)
    return model


def require_finite(weights: Mapping[str, Tensor], where: Path | str) -> None:
    """Raise an ArtifactError that names the first weight with NaN or infinite numbers."""
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ArtifactError(f"{where}: the weight {name} holds numbers that are not finite", fix="get it again")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and load reports off the terminal; what matters is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def hidden_states(backbone: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the last hidden states (after the final norm), "batch token width", of one built batch.

    Positions are given, so `second_per_grid_ts`, from which the model would make them, is not passed on.
    """
    return backbone(**_arguments(inputs), use_cache=False).last_hidden_state


def every_hidden_state(backbone: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the states "batch token width" before each layer and, as `hidden_states`, after the final norm."""
    return backbone(**_arguments(inputs), use_cache=False, output_hidden_states=True).hidden_states


def _arguments(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: inputs[name] for name in MODEL_INPUTS if name in inputs}

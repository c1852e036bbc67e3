"""How a transformer computes, by diffusers' own switches: quantised frozen weights, and the kernel of attention."""

import difflib
import importlib.util
import logging
from typing import Any

import torch
from torch import nn

from idgrpo.bases.contract import QUANTISED
from idgrpo.errors import MachineError, UsageError

log = logging.getLogger(__name__)

_TORCHAO = ("torchao", "pip install 'idgrpo[quantised]'")
LIBRARIES = {"int8": _TORCHAO, "fp8": _TORCHAO, "nf4": ("bitsandbytes", "pip install 'idgrpo[nf4]'")}
"""The library of each kind of quantised weights, and what installs it."""


def require_library(kind: str | None, device: torch.device) -> None:
    """Raise MachineError with the install line where the library of quantised weights is not here, or cannot work on a device."""
    if kind not in QUANTISED:
        return
    if kind == "nf4" and device.type == "cpu":  # in bitsandbytes 0.50.2 an adapter's forward fails once a clip was made
        raise MachineError("base weights in nf4 need a GPU", fix="use int8 or fp8 on a CPU")
    package, install = LIBRARIES[kind]
    if importlib.util.find_spec(package) is None:
        raise MachineError(f"base weights in {kind} need {package}, which is not installed", fix=install)


def quantise(transformer: Any, kind: str, device: torch.device) -> None:
    """Quantise the weights of the linear layers in place; what diffusers keeps in float32 stays as it is.

    The steps are those of diffusers' `from_pretrained`, run on a transformer that has been read already, so that original
    checkpoints take the same way as diffusers folders. Layer by layer: the device never holds the whole unquantised model.

    Raises MachineError when the library is missing or refuses.
    """
    require_library(kind, device)
    from diffusers.quantizers import DiffusersAutoQuantizer

    try:
        quantizer: Any = DiffusersAutoQuantizer.from_config(_settings_of(kind, transformer.dtype), pre_quantized=False)
        state = transformer.state_dict()
        kept = list(transformer._keep_in_fp32_modules or ())
        quantizer.preprocess_model(model=transformer, device_map=None, keep_in_fp32_modules=kept)
        for name in list(state):
            value = state.pop(name)  # so that the unquantised layer can go
            if quantizer.check_if_quantized_param(transformer, value, name, state):
                quantizer.create_quantized_param(transformer, value, name, device, state, [])
        quantizer.postprocess_model(transformer)
    except (ImportError, RuntimeError, ValueError) as error:
        package, install = LIBRARIES[kind]
        raise MachineError(f"{package} cannot quantise to {kind} here: {error}", fix=f"{install} -U") from error
    transformer.hf_quantizer = quantizer
    log.info("%s weights: %.1f MiB", kind, stored_bytes(transformer) / 2**20)


def _settings_of(kind: str, dtype: torch.dtype) -> Any:
    """Give diffusers' configuration of a kind: weights alone are quantised, products are made in the model's dtype."""
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if kind == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig())


def stored_bytes(module: nn.Module) -> int:
    """Count the bytes of all weights as they are kept: of a quantised one its integers, scales and zero points."""
    return sum(_bytes_of(tensor) for tensor in (*module.parameters(), *module.buffers()))


def _bytes_of(tensor: Any) -> int:
    if hasattr(tensor, "__tensor_flatten__"):  # torchao's weights are tensors made of tensors
        return sum(_bytes_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # bitsandbytes keeps them beside the weight
    return tensor.numel() * tensor.element_size() + (0 if scales is None else _bytes_of(scales))


def check_attention(name: str | None) -> None:
    """Refuse the name of an attention kernel that diffusers does not know (UsageError) or cannot use here (MachineError)."""
    if name is None:
        return
    from diffusers.models import attention_dispatch

    known = [backend.value for backend in attention_dispatch.AttentionBackendName]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"attention kernel '{name}' is unknown", fix=f"{hint}known: {', '.join(known)}")
    try:
        attention_dispatch._check_attention_backend_requirements(attention_dispatch.AttentionBackendName(name))
    except RuntimeError as error:
        raise MachineError(
            f"attention kernel '{name}': {error}", fix="install it, or leave the attention setting out"
        ) from None


def set_attention(transformer: Any, name: str, device: torch.device) -> None:
    """Let a kernel of diffusers compute the attention of this transformer, and of no other.

    Raises MachineError when it cannot compute on this device, which diffusers finds out at the first step only.
    """
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _AttentionBackendRegistry,
        dispatch_attention_fn,
    )
    from diffusers.utils import logging as diffusers_logging

    level, active = diffusers_logging.get_verbosity(), _AttentionBackendRegistry._active_backend
    diffusers_logging.set_verbosity_error()  # "an experimental feature": whoever sets it has read so in the docs
    try:
        transformer.set_attention_backend(name)
    finally:
        diffusers_logging.set_verbosity(level)
        _AttentionBackendRegistry._active_backend = active  # the switch sets it for all models of the process too
    heads, width = transformer.config["num_attention_heads"], transformer.config["attention_head_dim"]
    tried = torch.zeros(1, 8, heads, width, device=device, dtype=transformer.dtype)
    try:
        with torch.no_grad():
            dispatch_attention_fn(tried, tried, tried, backend=AttentionBackendName(name))
    except (RuntimeError, ValueError, AssertionError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise MachineError(
            f"attention kernel '{name}' does not work on {device} in {transformer.dtype}: {said}",
            fix="name another, or leave the attention setting out",
        ) from error

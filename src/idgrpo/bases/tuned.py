"""What training leaves of a base: a LoRA adapter, or its whole transformer in diffusers' layout. One way to put either back."""

from pathlib import Path
from typing import Literal

from torch import nn

from idgrpo.bases.contract import Base, BaseEntry
from idgrpo.bases.finite import require_finite_weights
from idgrpo.bases.inventory import configs_of_entry
from idgrpo.bases.load import read_component, resolve_entry
from idgrpo.bases.lora import load_adapter, recompute_activations, trainable_parameters
from idgrpo.bases.policy_card import read_policy_card
from idgrpo.errors import ArtifactError, IdgrpoError, UsageError

Trained = Literal["lora", "full"]
FOLDER = "transformer"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


def what_is_trained(source: Path) -> Trained:
    """Tell whether a policy is an adapter or whole weights."""
    return "full" if (source / FOLDER / "config.json").is_file() else "lora"


def open_all(base: Base) -> list[nn.Parameter]:
    """Make every weight of the transformer trainable; full-size bases recompute activations from then on."""
    base.transformer.requires_grad_(True)
    recompute_activations(base)
    return trainable_parameters(base)


def save_transformer(base: Base, folder: Path) -> None:
    """Write the whole transformer to folder/transformer/, which `WanTransformer3DModel.from_pretrained` and its VACE twin read.

    Equal weights give equal bytes. A full disk is an OSError, which the library's own writer hides. Raises NotFiniteError
    before anything is written.
    """
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in base.transformer.state_dict().items()}
    require_finite_weights(state, "the transformer")
    base.transformer.save_config(folder / FOLDER)
    (folder / FOLDER / WEIGHTS_FILE).write_bytes(save(state, metadata={"format": "pt"}))


def load_tuned(base: Base, source: Path) -> Trained:
    """Put a policy (adapter file, adapter folder, or folder with whole weights) on a base; nothing of it is trainable.

    Raises ArtifactError for weights that are missing, damaged or another base's.
    """
    if what_is_trained(source) == "lora":
        load_adapter(base, source)
        return "lora"
    found = read_component(type(base.transformer), source / FOLDER, base.dtype).state_dict()
    own = base.transformer.state_dict()
    strange = [name for name in found.keys() | own.keys() if name not in found or name not in own]
    strange += [name for name in found.keys() & own.keys() if found[name].shape != own[name].shape]
    if strange:
        raise ArtifactError(
            f"the transformer at {source} is another base's: {', '.join(sorted(strange)[:3])} do not fit {base.name}",
            fix="use the base that the policy was trained on",
        )
    base.transformer.load_state_dict(found)
    return "full"


def refuse_mixture(source: Path, trained: Trained) -> None:
    """Refuse to go on with whole weights from an adapter, or the other way round: the result would need both."""
    if what_is_trained(source) != trained:
        names = {"lora": "an adapter", "full": "whole weights"}
        raise UsageError(
            f"{source} holds {names[what_is_trained(source)]}, this run trains {names[trained]}",
            fix=f"--set train={what_is_trained(source)}, or leave --init out",
        )


def refuse_start(source: Path, trained: Trained, entry: BaseEntry) -> None:
    """Refuse a policy that a run cannot start from, by what its files say, before anything is loaded.

    Raises ArtifactError for another base's or a damaged policy.json, UsageError for an adapter where whole weights are trained, or
    the other way round. Loading checks every weight.
    """
    card = read_policy_card(source)
    refuse_mixture(source, trained)
    if card is None or card.base is None:
        return
    try:
        own = resolve_entry(card.base)
        fits = bool(entry.loader or own.loader) or _shape(own) == _shape(entry)
    except IdgrpoError:  # its base is no longer on this machine
        return
    if not fits:
        raise ArtifactError(
            f"{source} was trained on {own.name}, whose layers are not those of {entry.name}",
            fix=f"--base {own.name}, or a policy of {entry.name}",
        )


def _shape(entry: BaseEntry) -> list[object]:
    """Give what decides whether an adapter fits a transformer."""
    config, _ = configs_of_entry(entry)
    keys = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim")
    return [*(config.get(key) for key in keys), list(config.get("vace_layers") or ())]

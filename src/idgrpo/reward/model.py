"""The reward network: a vision-language backbone and a bias-free float32 head on the reward token's last hidden state."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idgrpo.errors import ArtifactError
from idgrpo.records.document import parse_json
from idgrpo.reward.backbone import hidden_states, load_backbone, quiet_transformers, require_finite
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.parts import PARTS_FILE, Parts
from idgrpo.reward.preprocess import SAVED_FILE

HEAD_FILE = "reward_head.safetensors"
CARD_FILE = "reward.json"
SCHEMA = 1
COPIED = (".safetensors", ".bin", ".json", ".jinja", ".txt")


class RewardNetwork(nn.Module):
    """Score built inputs; "pair clip" batches hold all first clips, then all second clips."""

    backbone: Any  # a transformers model, or PEFT's around it
    autocast: torch.dtype | None = None  # type the backbone computes in while it is trained

    def __init__(self, backbone: nn.Module, width: int, seed: int = 0):
        super().__init__()
        self.backbone = backbone
        # float32 whatever the backbone: a bfloat16 head quantises scores to 1/64.
        self.head = nn.Linear(width, 1, bias=False, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(1, width, generator=generator) * 0.01)

    def computing(self) -> torch.autocast:
        """Return the context in which the backbone computes."""
        dtype = self.autocast or torch.bfloat16
        return torch.autocast(self.head.weight.device.type, dtype, enabled=self.autocast is not None)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the reward token's last hidden state, float32 "clip width"."""
        with self.computing():
            states = hidden_states(self.backbone, inputs)
        return states[torch.arange(states.shape[0], device=states.device), inputs["reward_index"]].float()

    def score_features(self, features: Tensor) -> Tensor:
        """Return float32 scores "clip" of features "clip width", outside any autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()).squeeze(-1)

    def forward(self, weight: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the gaps r_A - r_B, "pair", of a batch that holds both clips of each pair; weights come back as given."""
        scores = self.score_features(self.features(inputs))
        first, second = scores.chunk(2)
        return {"gap": first - second, "scores": scores} | ({} if weight is None else {"weight": weight})


class HeadNetwork(nn.Module):
    """The head alone, on feature differences divided by their scale; `folded` undoes the division."""

    scale: Tensor

    def __init__(self, width: int, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, difference: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return the gaps, "pair", of feature differences f_A - f_B "pair width"; weights come back as given."""
        gap = self.head(difference / self.scale).squeeze(-1)
        return {"gap": gap} | ({} if weight is None else {"weight": weight})

    def folded(self) -> Tensor:
        """Return the weight [1, width] that gives the same gaps on raw features."""
        return (self.head.weight / self.scale).detach()


def save_network(
    network: RewardNetwork,
    builder: InputBuilder,
    card: dict,
    out: Path,
    *,
    copy_from: Path | None,
    parts: Parts | None = None,
) -> None:
    """Write a reward model directory: backbone, its own parts, tokenizer, preprocessing with digest, head, card.

    Args:
        card: JSON document of how it was made and how good it is (thresholds, metrics, configuration).
        copy_from: checkpoint whose files are copied as they are; None: the network's own weights are written.
        parts: what the model has of its own beside that checkpoint.

    Raises:
        ArtifactError: a weight is not finite, or `copy_from` is itself a reward model.
    """
    head = {"weight": network.head.weight.detach().float().cpu().contiguous()}
    require_finite(head, out / HEAD_FILE)
    out.mkdir(parents=True, exist_ok=True)
    if copy_from is not None:
        require_checkpoint(copy_from)
        for path in sorted(copy_from.iterdir()):
            if path.is_file() and path.suffix in COPIED:
                shutil.copyfile(path, out / path.name)
    else:
        require_finite(network.backbone.state_dict(), out)
        with quiet_transformers():
            network.backbone.save_pretrained(out)
    (parts or Parts()).save(out)
    builder.tokenizer.save_pretrained(out)
    builder.settings.save(out)
    save_file(head, out / HEAD_FILE)
    write_card(builder, card, out)


def write_card(builder: InputBuilder, card: Mapping[str, Any], out: Path) -> None:
    """Write the card of a reward model; a figure that is not finite is an ArtifactError."""
    document = {"schema": SCHEMA, "reward_token_id": builder.reward_id, **card}
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ArtifactError(f"the card of {out} would hold a figure that is not finite: {error}") from error
    (out / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def require_checkpoint(folder: Path) -> None:
    """Refuse to build on a reward model: what is its own would be left out in silence."""
    if (folder / PARTS_FILE).is_file():
        raise ArtifactError(
            f"{folder} is a reward model, no checkpoint to build on", fix="give the checkpoint it was made from"
        )


def load_card(directory: Path) -> dict:
    """Read the card of a saved reward model."""
    try:
        card = parse_json((directory / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory} is not a reward model: {CARD_FILE} is missing",
            fix="make one: idgrpo train-rm --data prefs.jsonl",
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{directory / CARD_FILE} is not JSON: {error}") from error
    if card.get("schema") != SCHEMA:
        raise ArtifactError(f"{directory} has reward model schema {card.get('schema')}; this version reads {SCHEMA}")
    return card


def load_network(directory: Path, dtype: torch.dtype = torch.float32) -> tuple[RewardNetwork, InputBuilder, dict]:
    """Load a saved reward model; any mismatch between its parts is an ArtifactError."""
    card = load_card(directory)
    if not (directory / SAVED_FILE).is_file():
        raise ArtifactError(f"{directory} is not a reward model: {SAVED_FILE} is missing")
    builder = InputBuilder.load(directory)
    if builder.added_tokens or builder.reward_id != card["reward_token_id"]:
        raise ArtifactError(f"{directory}: its tokenizer is not the one it was trained with")
    try:
        head = load_file(directory / HEAD_FILE)["weight"]
    except Exception as error:
        raise ArtifactError(f"{directory / HEAD_FILE} cannot be read: {error}") from error
    require_finite({"weight": head}, directory / HEAD_FILE)
    backbone = load_backbone(directory, dtype=dtype)
    if backbone.get_input_embeddings().weight.shape[1] != head.shape[1]:
        raise ArtifactError(f"{directory}: the head is {head.shape[1]} wide, the backbone is not")
    network = RewardNetwork(Parts.load(directory).apply(backbone), head.shape[1])
    with torch.no_grad():
        network.head.weight.copy_(head)
    return network.requires_grad_(False).eval(), builder, card

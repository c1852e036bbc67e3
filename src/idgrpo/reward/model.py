"""The reward network: a vision-language backbone and a bias-free float32 head on the reward token's last hidden state."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idgrpo.errors import ArtifactError
from idgrpo.reward.backbone import hidden_states, load_backbone, quiet_transformers
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.preprocess import SAVED_FILE

HEAD_FILE = "reward_head.safetensors"
CARD_FILE = "reward.json"
SCHEMA = 1


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

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the reward token's last hidden state, float32 "clip width"."""
        states = hidden_states(self.backbone, inputs)
        return states[torch.arange(states.shape[0], device=states.device), inputs["reward_index"]].float()

    def score_features(self, features: Tensor) -> Tensor:
        """Return float32 scores "clip" of features "clip width", outside any autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()).squeeze(-1)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the gaps r_A - r_B, "pair", of a batch that holds both clips of each pair."""
        device = self.head.weight.device.type
        with torch.autocast(device, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            features = self.features(inputs)
        scores = self.score_features(features)
        first, second = scores.chunk(2)
        return {"gap": first - second, "scores": scores}


class HeadNetwork(nn.Module):
    """The head alone, on feature differences divided by their scale; `folded` undoes the division."""

    scale: Tensor

    def __init__(self, width: int, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, difference: Tensor) -> dict[str, Tensor]:
        """Return the gaps, "pair", of feature differences f_A - f_B "pair width"."""
        return {"gap": self.head(difference / self.scale).squeeze(-1)}

    def folded(self) -> Tensor:
        """Return the weight [1, width] that gives the same gaps on raw features."""
        return (self.head.weight / self.scale).detach()


def save_network(
    network: RewardNetwork, builder: InputBuilder, card: dict, out: Path, *, copy_from: Path | None
) -> None:
    """Write a reward model directory: backbone, tokenizer, preprocessing with digest, head, card.

    Args:
        card: JSON document of how it was made and how good it is (thresholds, metrics, configuration).
        copy_from: checkpoint whose files are copied because its weights did not change (None: write the weights).
    """
    out.mkdir(parents=True, exist_ok=True)
    if copy_from is not None and not builder.added_tokens:
        for path in sorted(copy_from.iterdir()):
            if path.is_file() and path.suffix in (".safetensors", ".json", ".jinja", ".txt"):
                (out / path.name).write_bytes(path.read_bytes())
    else:
        with quiet_transformers():
            network.backbone.save_pretrained(out)
    builder.tokenizer.save_pretrained(out)
    builder.settings.save(out)
    save_file({"weight": network.head.weight.detach().float().cpu().contiguous()}, out / HEAD_FILE)
    document = {"schema": SCHEMA, "reward_token_id": builder.reward_id, **card}
    (out / CARD_FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_card(directory: Path) -> dict:
    """Read the card of a saved reward model."""
    try:
        card = json.loads((directory / CARD_FILE).read_text(encoding="utf-8"))
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
    backbone = load_backbone(directory, dtype=dtype)
    network = RewardNetwork(backbone, head.shape[1])
    if backbone.get_input_embeddings().weight.shape[1] != head.shape[1]:
        raise ArtifactError(f"{directory}: the head is {head.shape[1]} wide, the backbone is not")
    with torch.no_grad():
        network.head.weight.copy_(head)
    return network.eval(), builder, card

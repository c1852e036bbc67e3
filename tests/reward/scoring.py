"""An untrained reward model and random clips, for tests of scoring."""

from pathlib import Path

import torch

from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork
from idgrpo.reward.parts import add_token_rows
from idgrpo.reward.score import RewardModel


def untrained(vlm: Path, *, batch: int = 16, **overrides: object) -> RewardModel:
    """Return a reward model with a random head, so large that differences are seen."""
    builder, backbone = InputBuilder.load(vlm, **overrides), load_backbone(vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    network = RewardNetwork(backbone, backbone.get_input_embeddings().weight.shape[1]).eval()
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(7))
    return RewardModel(network, builder, {}, batch=batch)


def clips(num: int, *, people: int = 2, frames: int = 9, side_px: int = 32) -> tuple:
    """Return random videos, photos and prompts."""
    generator = torch.Generator().manual_seed(num)
    videos = torch.randint(0, 256, (num, frames, 3, side_px, side_px), generator=generator, dtype=torch.uint8)
    photos = torch.randint(0, 256, (num, people, 3, side_px, side_px), generator=generator, dtype=torch.uint8)
    return list(videos), [list(p) for p in photos], [f"prompt {i}" for i in range(num)]

"""Everything `train-policy` needs, tiny and random, written in a folder: a base, cases, a reward model."""

import json
from pathlib import Path

import numpy as np
import torch
from tiny_checkpoints import TINY_VAE, write_diffusers_base
from tiny_vlm import write_tiny_vlm

from idgrpo.people.contract import Detection
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork, save_network
from idgrpo.reward.parts import add_token_rows
from idgrpo.video.write import write_image

COMPACT = {
    "num_frames": 4,
    "template_name": "compact_v1",
    "prompt_text": "{prompt}",
    "reference_text": "{index}{image}",
}
SMALL = [
    *("--updates", "2", "--set", "size.width=32", "--set", "size.height=32", "--set", "size.frames=5"),
    *("--set", "group.num_cases=2", "--set", "group.size=2", "--set", "rollout.num_steps=4"),
    *("--set", "rollout.window.last=3", "--set", "lora.rank=2", "--set", "checkpoint.every=1"),
    *("--set", 'advantage.controls=["sharpness"]'),  # two of them would explain every difference of two pairs
]


class ColourFinder:
    """Finds the whole picture as one person and knows people by their mean colour."""

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        height, width = clip.shape[-2:]
        box = (0.0, 0.0, float(width), float(height))
        return [[Detection(index, box, 1.0, self.embed_reference(frame))] for index, frame in enumerate(clip)]

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        colour = image.float().mean((1, 2)).numpy() + 1.0
        return colour / np.linalg.norm(colour)


def grey(latents: torch.Tensor) -> torch.Tensor:
    """A decoder of one's own: the first channel, 4 times as large, two frames for each but the first."""
    first = latents[:, 0].repeat_interleave(2, 1)[:, 1:]
    large = first.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return large.sigmoid().unsqueeze(2).expand(-1, -1, 3, -1, -1)


def single(latents: torch.Tensor) -> torch.Tensor:
    """A decoder that forgets the frames between."""
    return grey(latents)[:, :1]


def write_setting(folder: Path) -> dict[str, str]:
    """Write base, cases (four, one or two people each) and reward model; give their paths."""
    base = write_diffusers_base(folder / "tiny-random", "phantom", TINY_VAE)
    lines = []
    for index in range(4):
        references = []
        for person in range(1 + index % 2):
            path = folder / f"person-{2 * index + person}.png"
            source = torch.Generator().manual_seed(10 * index + person)
            write_image(path, torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=source))
            references.append({"person": path.stem, "images": [path.name]})
        lines.append({"id": f"case-{index}", "prompt": "a man and a woman walk", "references": references})
    cases = folder / "cases.jsonl"
    cases.write_text("".join(json.dumps(line) + "\n" for line in lines))
    others = folder / "others.jsonl"
    others.write_text(cases.read_text().replace("case-", "other-"))
    return {"base": str(base), "cases": str(cases), "others": str(others), "rm": str(write_reward_model(folder))}


def write_reward_model(folder: Path) -> Path:
    """Write a reward model with a random head: no training, every format real."""
    vlm = write_tiny_vlm(folder / "vlm", carried=COMPACT)
    builder, backbone = InputBuilder.load(vlm), load_backbone(vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    torch.manual_seed(0)
    network = RewardNetwork(backbone, backbone.config.text_config.hidden_size).eval()
    with torch.no_grad():
        network.head.weight.normal_()
    save_network(network, builder, {}, folder / "rm", copy_from=None)
    return folder / "rm"

"""A base of a few parameters, so that numerics of the trainer are tested without a transformer."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from idgrpo.bases.contract import Condition, ConditionBatch, Guidance, VideoSize
from idgrpo.policy.replay import Pairs, UpdateData
from idgrpo.policy.rollout import SampleRow

SIZE = VideoSize(8, 8, 5)


class LinearNet(nn.Module):
    """v = gain * x + mix(x) + shift * text: linear in its parameters, so gradients can be written by hand."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.8))
        self.mix = nn.Parameter(0.1 * torch.eye(channels))
        self.shift = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        mixed = torch.einsum("bcfhw,cd->bdfhw", x, self.mix)
        return self.gain * x + mixed + self.shift * text.mean((1, 2))[:, None, None, None, None]


class FakeBase:
    """Meets the contract of bases with `num_slots` reference slots in front, as VACE has, or none, as Phantom."""

    def __init__(self, slots: bool = False, dtype: torch.dtype = torch.float32):
        self.name, self.slots, self.dtype = "fake", slots, dtype
        self.device = torch.device("cpu")
        self.transformer, self.vae = LinearNet(), nn.Identity()
        self.entry = SimpleNamespace(
            guidance=Guidance(2.0),
            train_size=SIZE,
            fps=8,
            family="vace",
            architecture="tiny",
            text_length=2,
            negative_prompt="",
        )
        self.encoders_digest = "fake"
        self.calls: list[int] = []

    def encode(self, prompt: str, references: list[Tensor], size: VideoSize) -> Condition:
        text = torch.full((2, 3), float(len(prompt) % 5) / 5)
        return Condition(text, torch.zeros(2, 3), torch.zeros(4, len(references), 2, 2), None, size, prompt)

    def collate(self, conditions: list[Condition]) -> ConditionBatch:
        first = conditions[0]
        return ConditionBatch(
            torch.stack([c.text for c in conditions]),
            torch.stack([c.negative for c in conditions]),
            [c.references for c in conditions],
            [c.num_references for c in conditions],
            num_slots=max(c.num_references for c in conditions) if self.slots else 0,
            size=first.size,
            keys=[c.key for c in conditions],
        )

    def latent_shape(self, size: VideoSize, num_references: int) -> tuple[int, int, int, int]:
        return (4, 3 + (num_references if self.slots else 0), 4, 4)

    def video_mask(self, batch: ConditionBatch) -> Tensor:
        mask = torch.ones(len(batch), 1, 3 + batch.num_slots, 1, 1)
        mask[:, :, : batch.num_slots] = 0
        return mask

    def velocity(self, latents: Tensor, sigma: Tensor, batch: ConditionBatch, guidance: Guidance | None) -> Tensor:
        self.calls.append(len(latents))
        return (
            self.transformer(latents.to(self.dtype).float(), batch.text)
            * (0.5 + sigma.float())[:, None, None, None, None]
        )

    def encode_clips(self, pixels: Tensor, batch: ConditionBatch) -> Tensor:
        """Three latent frames of the clip's first, middle and last picture in four channels, behind empty slots."""
        frames = nn.functional.adaptive_avg_pool2d(pixels[:, [0, pixels.shape[1] // 2, -1]].flatten(0, 1), 4)
        video = frames.unflatten(0, (len(pixels), 3)).permute(0, 2, 1, 3, 4)
        video = torch.cat([video, video.mean(1, keepdim=True)], 1) * 2 - 1
        return nn.functional.pad(video, (0, 0, 0, 0, batch.num_slots, 0))

    def decode(self, latents: Tensor, batch: ConditionBatch) -> Tensor:
        video = latents[:, :3, -3:].permute(0, 2, 1, 3, 4)
        return (0.5 + 0.25 * video).clamp(0, 1)


def rows_of(num_cases: int, group_size: int) -> list[SampleRow]:
    return [SampleRow(slot, slot, f"case-{slot}", member) for slot in range(num_cases) for member in range(group_size)]


def conditions_of(base: FakeBase, num_cases: int, num_references: int = 2) -> dict[int, Condition]:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    return {case: base.encode("p" * (case + 1), [image] * num_references, SIZE) for case in range(num_cases)}


def gathered(data: UpdateData) -> list[Pairs]:
    """Give the micro-batches of an update with their tensors."""
    return [gather() for gather in data.batches]

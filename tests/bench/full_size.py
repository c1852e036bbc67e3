"""Bases with random weights in memory, full-size on a GPU or tiny on a CPU, and what a sample and an update of them cost."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor

from idgrpo.bases.architectures import ARCHITECTURES
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import VideoSize
from idgrpo.bases.cost import GIB, transformer_flop
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.generate import generate, jobs_of
from idgrpo.bases.phantom import PhantomBase
from idgrpo.bases.vace import VaceBase
from idgrpo.bases.wan import WanBase
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.recipes import recipe
from idgrpo.policy.train import train
from idgrpo.records.models import Case, Reference
from idgrpo.run.folder import RunFolder
from idgrpo.run.metrics import MetricsLog
from idgrpo.video.write import write_image

TRAIN_SIZE = VideoSize(416, 240, 33)
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}
TINY_VAE = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
# Of the replayed steps: forward, recomputed forward, and backward to the activations; the base's weights get no gradient.
FORWARDS_OF_A_REPLAY = 3


class RandomText:
    """Stands for the text encoder: its 11.4 GB take no part in a step, their conditions are made before and kept."""

    def __init__(self, text_length: int, channels: int):
        self.shape = (text_length, channels)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        draws = torch.Generator().manual_seed(0)
        return torch.randn((len(prompts), *self.shape), generator=draws)

    def release(self) -> None:
        """Has nothing to give back."""


def random_base(name: str, device: str) -> WanBase:
    """Make a base with random weights: the public sizes in bfloat16 on a GPU, a tiny one in float32 on the CPU."""
    entry, is_full = ENTRIES[name], device != "cpu"
    dtype = torch.bfloat16 if is_full else torch.float32
    config: dict[str, Any] = dict(ARCHITECTURES[entry.architecture])
    if not is_full:
        vace = {"vace_layers": [0], "vace_in_channels": 96} if entry.family == "vace" else {}
        config = {key: value for key, value in config.items() if not key.startswith("vace")} | TINY | vace
        entry = dataclasses.replace(entry, text_length=16)
    torch.manual_seed(0)
    with torch.device(device):
        transformer = (WanVACETransformer3DModel if entry.family == "vace" else WanTransformer3DModel)(**config)
        vae = AutoencoderKLWan(**({} if is_full else TINY_VAE))
    kept = set(transformer._keep_in_fp32_modules or ())  # as `load_base` leaves them
    for key, parameter in transformer.named_parameters():
        if not kept & set(key.split(".")):
            parameter.data = parameter.data.to(dtype)
    transformer = transformer.eval().requires_grad_(False)
    vae = vae.eval().requires_grad_(False)
    vae.enable_slicing()
    text: Any = RandomText(entry.text_length, config["text_dim"])
    family = VaceBase if entry.family == "vace" else PhantomBase
    return family(entry, transformer, vae, text, device=torch.device(device), dtype=dtype)


def two_people(folder: Path) -> Case:
    """Make a case with two photos."""
    references = []
    for person in ("ann", "bob"):
        draws = torch.Generator().manual_seed(len(references))
        path = folder / f"{person}.png"
        write_image(path, torch.randint(0, 256, (3, 256, 256), generator=draws, dtype=torch.uint8))
        references.append(Reference(person=person, images=[str(path)]))
    return Case(id="two", prompt="a man and a woman dance", references=references)


def matmul_tflops(device: str) -> float:
    """Measure the peak of a large square matrix product in the dtype that the base computes in."""
    size, dtype, repeats = (8192, torch.bfloat16, 20) if device != "cpu" else (512, torch.float32, 3)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    seconds, _ = measured(device, lambda: [a @ b for _ in range(repeats)])
    return 2 * size**3 * repeats / seconds / 1e12


def measured(device: str, action: Callable[[], object]) -> tuple[float, float]:
    """Give (seconds, peak GiB of GPU memory; 0 on a CPU) of an action."""
    is_gpu = device != "cpu"
    if is_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    action()
    if is_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started, torch.cuda.max_memory_allocated() / GIB if is_gpu else 0.0


def measure_sample(base: WanBase, case: Case, size: VideoSize, num_steps: int) -> dict[str, float]:
    """Make one clip with the base's published guidance; the first, unmeasured one warms up with two steps."""
    settings = {"width": size.width, "height": size.height, "frames": size.frames}
    device = str(base.device)

    def make(steps: int) -> None:
        (clip,) = generate(base, jobs_of([case]), sampler=SamplerConfig(num_steps=steps, **settings))
        assert tuple(clip.frames.shape) == (size.frames, 3, size.height, size.width)

    make(2)
    seconds, peak = measured(device, lambda: make(num_steps))
    num_branches = 2 if base.entry.family == "vace" else 3
    return {"seconds": seconds, "peak_gib": peak, "tflop": forward_tflop(base, size) * num_branches * num_steps}


def measure_update(base: WanBase, case: Case, size: VideoSize, folder: Path) -> dict[str, float]:
    """Run the policy stage's default recipe for two updates of one group of two, and measure the second one's replay."""
    settings = training_settings(base.entry.name, size)
    with RunFolder.open(folder, {}) as run:
        _, peak = measured(str(base.device), lambda: train(base, [case], _sharpness, settings, run))
        last = list(MetricsLog.read(run.metrics.path))[-1]
    replays = settings.group.size * settings.rollout.window.size
    forwards = replays * (FORWARDS_OF_A_REPLAY + (settings.kl.weight > 0))
    return {
        "seconds": last["seconds_update"],
        "rollout_seconds": last["seconds_rollout"],
        "peak_gib": peak,
        "tflop": forward_tflop(base, size) * forwards,
    }


def training_settings(name: str, size: VideoSize) -> PolicyConfig:
    """Give the default recipe of a base for two updates of one group of two samples."""
    settings = recipe("default", name).model_dump()
    settings |= {"num_updates": 2, "group": {"num_cases": 1, "size": 2}, "size": size._asdict()}
    settings["preview"]["every"] = 0
    settings["rollout"] |= {"num_steps": 6, "batch_size": 2, "window": {"size": 4, "last": 5}}
    return PolicyConfig.model_validate(settings)


def forward_tflop(base: WanBase, size: VideoSize) -> float:
    """Count one forward of the transformer for one sample with two references."""
    tokens = base.geometry.num_tokens(size, 2)
    return transformer_flop(base.transformer.config, tokens, base.entry.text_length) / 1e12


def _sharpness(videos: list[Tensor], references: object, prompts: object) -> list[float]:
    return [float(video.float().diff(dim=-1).abs().mean()) for video in videos]

"""Train the finder's network on rendered frames and portraits.

Half of the frames pass through the autoencoder, because generated clips will have its look.
"""

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from idgrpo.tinyworld.finder_net import STRIDE, FinderNet
from idgrpo.tinyworld.people import NUM_CHOICES, SCALE, attributes_of, draw_people
from idgrpo.tinyworld.render import figures, render
from idgrpo.tinyworld.scene import SIZE_PX, Scenes, draw_scenes
from idgrpo.tinyworld.training.optimizer import TinyOptimizer
from idgrpo.tinyworld.training.vlm_truth import look
from idgrpo.tinyworld.training.wan_vae import decode, encode, whole_clip

log = logging.getLogger(__name__)
CENTRE = 11.0  # height of the point looked for above the feet, for a person of size 1
MIN_VISIBLE = 0.4


def _frames(generator: torch.Generator, num: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw single frames: pixels [num, 3, h, w], codes, x, y and visibility [num, slot] of everyone in them."""
    scenes = draw_scenes(generator, num, 2 if torch.rand((), generator=generator) < 0.7 else 3)
    frame = torch.randint(scenes.num_frames, (num, 1, 1), generator=generator).expand(-1, scenes.num_people, 1)
    moved = {name: getattr(scenes, name).gather(2, frame) for name in ("x", "feet", "stride", "facing")}
    scenes = Scenes(scenes.motion, scenes.place, scenes.horizon, scenes.light, **moved, depth=scenes.depth)
    codes = draw_people(generator, (num, scenes.num_people), held_out=False)
    clips = render(scenes, codes)
    visible = clips.visible.sum((2, 3, 4)) / clips.alone.sum((2, 3, 4)).clamp(min=1)
    y = scenes.feet[..., 0] - CENTRE * SCALE[attributes_of(codes)[..., 6]]
    return clips.pixels[:, 0], codes, scenes.x[..., 0], y, visible


def _portraits(generator: torch.Generator, num: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    codes = draw_people(generator, (num, 1), held_out=False)

    def vary(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, 1, 1, generator=generator)

    x, feet = vary(11, 21), vary(25, 30)
    colour, alpha = figures(codes.unsqueeze(-1), x, feet, vary(-1, 1), vary(-1, 1))
    image = (1 - alpha.unsqueeze(3)) + colour * alpha.unsqueeze(3)
    pixels = (image[:, 0, 0] * vary(0.88, 1.1).unsqueeze(-1)).clamp(0, 1)
    y = feet[..., 0] - CENTRE * SCALE[attributes_of(codes)[..., 6]]
    return pixels, codes, x[..., 0], y, torch.ones(num, 1)


def loss_of(net: FinderNet, pixels: Tensor, codes: Tensor, x: Tensor, y: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Heat at the middle of visible people, their offset, and their attributes near it."""
    prediction = net(pixels)
    cells = torch.arange(SIZE_PX // STRIDE) * STRIDE + STRIDE / 2
    dx, dy = x[..., None, None] - cells.view(1, 1, 1, -1), y[..., None, None] - cells.view(1, 1, -1, 1)
    near = torch.exp(-(dx.square() + dy.square()) / (2 * 1.6**2)) * (visible > MIN_VISIBLE)[..., None, None]
    target, owner = near.max(1)
    heat = F.binary_cross_entropy_with_logits(prediction[:, 0], target, weight=1 + 8 * target)
    core = target > 0.5
    rows, up, across = core.nonzero(as_tuple=True)
    person = owner[core]
    values = prediction[rows, :, up, across]
    offset = torch.stack([dx[rows, person, 0, across], dy[rows, person, up, 0]], 1)
    truth = attributes_of(codes)[rows, person]
    parts = values[:, 3:].split(NUM_CHOICES, -1)
    attributes = torch.stack([F.cross_entropy(part, truth[:, k]) for k, part in enumerate(parts)]).mean()
    right = torch.stack([(part.argmax(-1) == truth[:, k]).float().mean() for k, part in enumerate(parts)]).mean()
    return {
        "heat": 4 * heat,
        "offset": 0.2 * F.smooth_l1_loss(values[:, 1:3], offset),
        "attributes": attributes,
        "right": right.detach(),
    }


def train(out: Path, vae_path: Path, *, steps: int = 900, seed: int = 0) -> None:
    """Train and save the network in float16."""
    torch.manual_seed(seed)
    vae = whole_clip(AutoencoderKLWan.from_pretrained(vae_path).eval())
    net, generator = FinderNet(), torch.Generator().manual_seed(seed)
    optimizer = TinyOptimizer(net, lambda name: "body" in name, muon_lr=0.02, adam_lr=2e-3)
    started = time.monotonic()
    means: dict[str, float] = {}
    for step in range(steps):
        pixels, *truth = _portraits(generator, 32) if step % 4 == 3 else _frames(generator, 48)
        with torch.no_grad():
            if step % 2:
                latents = encode(vae, pixels.unsqueeze(2) * 2 - 1)
                latents = latents + 0.15 * torch.randn(latents.shape, generator=generator)
                pixels = (decode(vae, latents).squeeze(2) / 2 + 0.5).clamp(0, 1)
            else:
                pixels = look(pixels.unsqueeze(1), generator).squeeze(1)
        losses = loss_of(net, pixels, *truth)
        (losses["heat"] + losses["offset"] + losses["attributes"]).backward()
        optimizer.step(step / steps)
        for key, value in losses.items():
            means[key] = 0.97 * means.get(key, float(value)) + 0.03 * float(value)
        if step % 50 == 49:
            text = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
            log.info("finder %d/%d: %s, %.0f s", step + 1, steps, text, time.monotonic() - started)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, out / "model.safetensors")

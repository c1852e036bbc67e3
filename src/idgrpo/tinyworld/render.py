"""Drawing: soft signed distances turned into pixels, for clips and for portraits, on any number of scenes at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from idgrpo.tinyworld.people import HAIR, SCALE, SHIRT, SKIN, TROUSERS, attributes_of
from idgrpo.tinyworld.scene import GROUND, SIZE_PX, SKY, Scenes

EDGE_PX = 0.45  # softness of edges
PALE, PUPIL = 0.97, 0.08  # light of the white of patterns and of eyes


@dataclass(frozen=True)
class Clips:
    """Rendered clips with the truth about them."""

    pixels: Tensor  # float32 [batch, frame, channel, height, width] in 0..1
    visible: Tensor  # float32 [batch, slot, frame, height, width], share of a pixel that shows this person
    alone: Tensor  # the same without what stands in front


def render(
    scenes: Scenes,
    codes: Tensor,
    *,
    other: Tensor | None = None,
    mix: Tensor | None = None,
    presence: Tensor | None = None,
) -> Clips:
    """Draw scenes with the given people.

    codes: person codes int64 [batch, slot] or [batch, slot, frame].
    other, mix: a second identity and its share in 0..1 per slot and frame, for blends and drifts.
    presence: opacity in 0..1 of each person per slot and frame.
    """
    batch, slots, frames = scenes.x.shape
    codes = _per_frame(codes, frames)
    pose = (scenes.x, scenes.feet, scenes.stride, scenes.facing)
    colour, alpha = figures(codes, *pose)
    if other is not None and mix is not None:
        share = mix.reshape(batch, slots, frames, 1, 1)
        colour_b, alpha_b = figures(_per_frame(other, frames), *pose)
        blended = alpha * (1 - share) + alpha_b * share
        weight = (alpha_b * share / blended.clamp(min=1e-6)).unsqueeze(3)
        colour, alpha = colour * (1 - weight) + colour_b * weight, blended
    if presence is not None:
        alpha = alpha * presence.reshape(batch, slots, frames, 1, 1)
    empty = backdrop(scenes.place, scenes.horizon)
    pixels = empty.view(batch, 1, 3, SIZE_PX, 1).repeat(1, frames, 1, 1, SIZE_PX)
    visible = torch.zeros_like(alpha)
    order = scenes.depth.argsort(1)
    rows = torch.arange(batch)
    for rank in range(slots):
        slot = order[:, rank]
        cover = alpha[rows, slot]
        pixels = pixels * (1 - cover.unsqueeze(2)) + colour[rows, slot] * cover.unsqueeze(2)
        visible *= (1 - cover).unsqueeze(1)
        visible[rows, slot] = cover
    return Clips((pixels * scenes.light.view(-1, 1, 1, 1, 1)).clamp(0, 1), visible, alpha)


def portraits(codes: Tensor, generator: torch.Generator | None = None, *, background: float = 1.0) -> Tensor:
    """Draw one portrait per person code [...]: the person alone on plain white, float32 [..., channel, height, width].

    Without a generator the pose and light are neutral; with one they vary, which gives second photos of a person.
    """
    flat = codes.reshape(-1)
    num = len(flat)

    def vary(amount: float) -> Tensor:
        if generator is None:
            return torch.zeros(num, 1, 1)
        return amount * (2 * torch.rand(num, 1, 1, generator=generator) - 1)

    pose = (SIZE_PX / 2 + vary(2.5), 27.5 + vary(1.5), vary(0.8), vary(1.0))
    colour, alpha = figures(flat.view(num, 1, 1), *pose)
    image = background * (1 - alpha.unsqueeze(3)) + colour * alpha.unsqueeze(3)
    light = 1 + vary(0.08).view(num, 1, 1, 1)
    return (image[:, 0, 0] * light).clamp(0, 1).reshape(*codes.shape, 3, SIZE_PX, SIZE_PX)


def _per_frame(codes: Tensor, frames: int) -> Tensor:
    return codes if codes.dim() == 3 else codes.unsqueeze(-1).expand(-1, -1, frames)


def backdrop(place: Tensor, horizon: Tensor) -> Tensor:
    """Return the colour of each row without people: sky that pales towards the horizon, and ground; [batch, channel, height]."""
    rows = torch.arange(SIZE_PX) + 0.5
    below = torch.sigmoid((rows - horizon.unsqueeze(1)) / 0.6).unsqueeze(1)
    height = rows / SIZE_PX
    sky = SKY[place].unsqueeze(-1)
    sky = sky + (1 - sky) * 0.35 * height
    ground = GROUND[place].unsqueeze(-1) * (1.06 - 0.16 * height)
    return sky * (1 - below) + ground * below


def _cover(distance: Tensor) -> Tensor:
    return torch.sigmoid(-distance / EDGE_PX)


def _box(u: Tensor, v: Tensor, half_u: float, half_v: float, radius: float) -> Tensor:
    """Signed distance to a rounded box around the origin."""
    du, dv = u.abs() - (half_u - radius), v.abs() - (half_v - radius)
    outside = (du.clamp(min=0).square() + dv.clamp(min=0).square() + 1e-8).sqrt()
    return outside + torch.maximum(du, dv).clamp(max=0) - radius


def _disc(u: Tensor, v: Tensor, radius: float) -> Tensor:
    return (u.square() + v.square() + 1e-8).sqrt() - radius


def figures(codes: Tensor, x: Tensor, feet: Tensor, stride: Tensor, facing: Tensor) -> tuple[Tensor, Tensor]:
    """Draw each person alone: colour [batch, slot, frame, channel, h, w] and opacity [batch, slot, frame, h, w]."""
    colour, alpha = torch.zeros(()), torch.zeros(())
    for paint, cover in layers(codes, x, feet, stride, facing).values():
        colour = colour * (1 - cover.unsqueeze(-3)) + paint * cover.unsqueeze(-3)
        alpha = alpha + cover - alpha * cover
    return colour / alpha.clamp(min=1e-4).unsqueeze(-3), alpha


def layers(codes: Tensor, x: Tensor, feet: Tensor, stride: Tensor, facing: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Give the parts of each person from back to front: paint [.., channel, 1 or h, 1 or w] and cover [.., h, w].

    codes int64 [batch, slot, frame]; the pose (pixels, and -1..1) likewise. Local coordinates: u to the right from the
    middle, v up from the feet, in pixels of a person of size 1.
    """
    skin, hair, shape, shirt, pattern, trousers, size = attributes_of(codes).unbind(-1)
    scale = SCALE[size][..., None, None]
    grid = torch.arange(SIZE_PX) + 0.5
    u = (grid.view(1, -1) - x[..., None, None]) / scale
    v = (feet[..., None, None] - grid.view(-1, 1)) / scale
    swing, turn = stride[..., None, None], facing[..., None, None]
    u, v = u.expand(*codes.shape, SIZE_PX, SIZE_PX), v.expand(*codes.shape, SIZE_PX, SIZE_PX)

    legs = torch.minimum(
        _box(u - 1.5 - 1.1 * swing, v - 2.6, 1.15, 2.9, 0.5), _box(u + 1.5 - 1.1 * -swing, v - 2.6, 1.15, 2.9, 0.5)
    )
    arms = torch.minimum(
        _box(u - 3.7 + 0.8 * swing, v - 7.9, 0.8, 2.6, 0.7), _box(u + 3.7 + 0.8 * swing, v - 7.9, 0.8, 2.6, 0.7)
    )
    torso = torch.minimum(_box(u, v - 8.2, 3.1, 3.4, 1.0), arms)
    head = _disc(u, v - 14.4, 3.5)
    cap = torch.maximum(_disc(u, v - 14.7, 4.0), 15.3 - v + 0.25 * turn * u)
    mane = torch.minimum(cap, _box(u.abs() - 3.6, v - 12.6, 0.95, 3.6, 0.6))
    bun = torch.minimum(cap, _disc(u + 0.6 * turn, v - 19.3, 1.75))
    choice = shape[..., None, None]
    hairdo = torch.where(choice == 0, cap, torch.where(choice == 1, mane, bun))
    eyes = torch.minimum(_disc(u - 1.35 - 0.7 * turn, v - 14.0, 0.55), _disc(u + 1.35 - 0.7 * turn, v - 14.0, 0.55))

    striped = torch.sigmoid(torch.sin((v - 5.0) * (6.283 / 3.3)) * 6)
    halved = torch.sigmoid(u / 0.35)
    which = pattern[..., None, None]
    pale = torch.where(which == 1, striped, torch.where(which == 2, halved, torch.zeros_like(u)))
    cloth = _cover(torso)

    def paint(colours: Tensor, index: Tensor) -> Tensor:
        return colours[index][..., None, None]

    # The white of a shirt lies over the whole shirt with the opacity of its pattern.
    return {
        "trousers": (paint(TROUSERS, trousers), _cover(legs)),
        "shirt": (paint(SHIRT, shirt), cloth),
        "pale": (torch.full((3, 1, 1), PALE), cloth * pale),
        "skin": (paint(SKIN, skin), _cover(head)),
        "hair": (paint(HAIR, hair), _cover(hairdo)),
        "eyes": (torch.full((3, 1, 1), PUPIL), _cover(eyes)),
    }

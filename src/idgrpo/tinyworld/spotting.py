"""Where people stand in a clip of the embedded world, whoever they are: analytic, no trained weights."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from idgrpo.tinyworld.background import background_rows
from idgrpo.tinyworld.parts import HEIGHT_PX, RIDGE, WIDTH_PX, Figures, figures_of_any_colour
from idgrpo.tinyworld.scene import SIZE_PX

PAD_PX, BELOW_PX = 8, 2  # how far a person's window may reach beyond the picture
FIRST_ROW = 3  # windows higher up would hold nobody's feet
MAX_STEP_PX = 3  # how far a person moves from one frame to the next


@dataclass(frozen=True)
class Track:
    """One person's windows through a clip."""

    x: Tensor  # int64 [frame], left edge in the padded picture
    evidence: Tensor  # [frame], squared error that a person there explains
    windows: Tensor  # [frame, 3, p]
    behind: Tensor  # [frame, 3, p]
    cover: Tensor  # [frame, h, w], share of a pixel of the picture that shows this person


def spot(clip: Tensor, num_people: int) -> list[Track]:
    """Find the `num_people` most evident people in a clip [frame, 3, h, w] in 0..1, most evident first.

    At every place, any figure in any colours is fitted; the evidence is what it explains beyond the background. The best
    path through the frames (Viterbi) is a person, who is painted over before the next is sought.
    """
    rows = F.pad(background_rows(clip)[None], (PAD_PX, BELOW_PX), mode="replicate")[0]
    picture = F.pad(clip, (PAD_PX, PAD_PX, PAD_PX, BELOW_PX), mode="replicate")
    backdrop = rows.view(1, 3, -1, 1).expand_as(picture)
    frames, left, tracks = torch.arange(len(clip)), picture, []
    for _ in range(num_people):
        evidence, figure = _evidence(left, rows)
        place = _best_path(evidence)
        y, x = place // evidence.shape[-1], place % evidence.shape[-1]
        top = y + FIRST_ROW
        cover = _paste(_front().alpha[figure[frames, y, x]], top, x, picture.shape[-2:])
        windows, behind = _windows_at(picture, top, x), _windows_at(backdrop, top, x)
        inside = cover[:, PAD_PX:-BELOW_PX, PAD_PX:-PAD_PX]
        tracks.append(Track(x, evidence[frames, y, x], windows, behind, inside))
        left = torch.lerp(left, backdrop, cover.unsqueeze(1))
    return tracks


def _windows_at(picture: Tensor, top: Tensor, left: Tensor) -> Tensor:
    windows = picture.unfold(2, HEIGHT_PX, 1).unfold(3, WIDTH_PX, 1)
    return windows[torch.arange(len(picture)), :, top, left].flatten(2)


def _paste(alpha: Tensor, top: Tensor, left: Tensor, size: torch.Size) -> Tensor:
    cover = torch.zeros(len(alpha), *size)
    for frame, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        cover[frame, y : y + HEIGHT_PX, x : x + WIDTH_PX] = alpha[frame].view(HEIGHT_PX, WIDTH_PX)
    return cover


@lru_cache(maxsize=1)
def _front() -> Figures:
    figures = figures_of_any_colour()
    return figures[figures.turn == 0]


@lru_cache(maxsize=1)
def _inside() -> Tensor:
    """Tell which pixels of the padded picture are pixels of the picture: 1 or 0, [1, h, w]."""
    return F.pad(torch.ones(1, SIZE_PX, SIZE_PX), (PAD_PX, PAD_PX, PAD_PX, BELOW_PX))


@lru_cache(maxsize=1)
def _whitening() -> Tensor:
    """Return W [g, 4, 4, y, x], which makes the parts orthogonal on what lies in the picture: explained errors are sums of squares."""
    parts = _front().parts
    pairs = (parts.unsqueeze(-1) * parts.unsqueeze(-2)).movedim(1, -1)  # [g, 4, 4, p]
    gram = _at_every_place(_inside(), pairs)[0].movedim((-2, -1), (0, 1)) + RIDGE * torch.eye(parts.shape[-1])
    return torch.linalg.inv(torch.linalg.cholesky(gram)).transpose(-1, -2).movedim((0, 1), (-2, -1)).contiguous()


def _at_every_place(images: Tensor, masks: Tensor) -> Tensor:
    """Return the sums of images [n, h, w] times masks [..., p] with the window at each place: [n, ..., y, x]."""
    kernels = masks.reshape(-1, 1, HEIGHT_PX, WIDTH_PX)
    sums = F.conv2d(images[:, None, FIRST_ROW:], kernels)
    return sums.unflatten(1, masks.shape[:-1])


def _evidence(picture: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the evidence for the best figure [frame, y, x] and its index, from a padded picture and its row colours.

    Only pixels of the picture count: who stands half outside is judged by the other half. With u = picture - background,
    k = alpha background - fixed, P the parts and t = u + k, a figure explains |u|^2 - (|t|^2 - |W P t|^2)
    = |W P t|^2 - 2 u k - |k|^2, where W whitens. The background b is that of the row, so all of it is sums of masks over images.
    """
    front = _front()
    alpha, fixed, parts = front.alpha, front.fixed, front.parts.transpose(1, 2)
    inside = _inside()
    b = rows.unsqueeze(-1) * inside  # [c, h, w]
    u = (picture - rows.unsqueeze(-1)) * inside  # [f, c, h, w]
    projected = _at_every_place(u.flatten(0, 1), parts).unflatten(0, u.shape[:2])  # [f, c, g, 4, y, x]
    projected += _at_every_place(b, alpha.unsqueeze(1) * parts) - _at_every_place(inside, fixed.unsqueeze(1) * parts)
    cross = _at_every_place((u * b).sum(1), alpha) - _at_every_place(u.sum(1), fixed)
    square = _at_every_place(b.square().sum(0, keepdim=True), alpha.square())
    square = square - 2 * _at_every_place(b.sum(0, keepdim=True), alpha * fixed)
    square = square + len(b) * _at_every_place(inside, fixed.square())
    explained = torch.einsum("fcgkyx,gklyx->fcglyx", projected, _whitening()).square().sum((1, 3)) - 2 * cross - square
    best, figure = explained.max(1)
    return best, figure


def _best_path(evidence: Tensor) -> Tensor:
    """Return the flat places [frame] of the path that moves at most MAX_STEP_PX a frame and has the largest sum."""
    window = 2 * MAX_STEP_PX + 1
    total, steps = evidence[0], []
    for frame in evidence[1:]:
        best, index = F.max_pool2d(total[None, None], window, 1, MAX_STEP_PX, return_indices=True)
        steps.append(index[0, 0].flatten())
        total = frame + best[0, 0]
    places = [total.flatten().argmax()]
    for back in reversed(steps):
        places.append(back[places[-1]])
    return torch.stack(places[::-1])

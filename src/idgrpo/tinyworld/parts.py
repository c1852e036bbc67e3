"""Parts of people as masks, and the colours they have in a picture: least squares, whoever stands there."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from idgrpo.tinyworld.people import ATTRIBUTES, HAIR, SHIRT, SKIN, TROUSERS, code_of
from idgrpo.tinyworld.render import PALE, PUPIL, layers

HEIGHT_PX, WIDTH_PX = 26, 18  # window that holds the largest person, feet at the bottom
TURNS = (-1.0, 0.0, 1.0)
PALETTES = {"hair": HAIR, "skin": SKIN, "shirt": SHIRT, "trousers": TROUSERS}
NAMES = list(ATTRIBUTES)
COLOUR_ATTRIBUTES = [NAMES.index(name) for name in ("hair colour", "skin", "shirt colour", "trousers")]
SHAPE_ATTRIBUTES = [NAMES.index(name) for name in ("hair shape", "shirt pattern", "size")]
RIDGE = 0.5  # keeps the colours of parts that can hardly be seen near 0


@dataclass(frozen=True)
class Figures:
    """Figures of every hair shape, pattern, size and turn; g counts figures, p the 468 pixels of the window."""

    parts: Tensor  # [g, p, 4], share of a pixel that shows hair, skin, shirt, trousers
    alpha: Tensor  # [g, p], share of a pixel that shows the person
    fixed: Tensor  # [g, p], light of what has the same colour on everybody: white of patterns, eyes
    shapes: Tensor  # int64 [g, 3], choice of each shape attribute
    turn: Tensor  # [g]

    def __getitem__(self, index: Tensor) -> "Figures":
        return Figures(**{name: value[index] for name, value in vars(self).items()})


@lru_cache(maxsize=1)
def figures_of_any_colour() -> Figures:
    """Return all 81 figures."""
    choices = [(h, p, s) for h in range(3) for p in range(3) for s in range(3) for _ in TURNS]
    codes = code_of(torch.tensor([[0, 0, h, 0, p, 0, s] for h, p, s in choices])).view(-1, 1, 1)
    turn = torch.tensor(TURNS).repeat(27).view(-1, 1, 1)
    middle, feet = torch.full_like(turn, WIDTH_PX / 2), torch.full_like(turn, HEIGHT_PX - 0.5)
    covers = {
        name: cover[:, 0, 0, :HEIGHT_PX, :WIDTH_PX].flatten(1)
        for name, (_, cover) in layers(codes, middle, feet, torch.zeros_like(turn), turn).items()
    }
    names, seen = list(covers), {}
    for index, name in enumerate(names):
        seen[name] = covers[name]
        for nearer in names[index + 1 :]:
            seen[name] = seen[name] * (1 - covers[nearer])
    return Figures(
        parts=torch.stack([seen[name] for name in PALETTES], -1),
        alpha=torch.stack(list(seen.values())).sum(0),
        fixed=PALE * seen["pale"] + PUPIL * seen["eyes"],
        shapes=torch.tensor(choices),
        turn=turn.flatten(),
    )


@lru_cache(maxsize=1)
def _inverse() -> Tensor:
    """Ridge regression of part colours on pixels, [g, 4, p]."""
    parts = figures_of_any_colour().parts.transpose(1, 2)
    return torch.linalg.solve(parts @ parts.transpose(1, 2) + RIDGE * torch.eye(len(PALETTES)), parts)


def fit_colours(window: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
    """Fit each figure's part colours to windows [n, 3, p] in front of backgrounds [n, 3, p].

    A pixel is the sum of its parts by cover, so edges are un-mixed instead of avoided. Returns the colours
    [n, g, 3, 4] and the squared error [n, g].
    """
    figures = figures_of_any_colour()
    own = window[:, None] - (1 - figures.alpha)[:, None] * behind[:, None] - figures.fixed[:, None]
    colours = torch.einsum("ngcp,gkp->ngck", own, _inverse())
    error = own - torch.einsum("ngck,gpk->ngcp", colours, figures.parts)
    return colours, error.square().sum((2, 3))


def attribute_probabilities(
    window: Tensor, behind: Tensor, *, colour_deviation: float, shape_error: float
) -> list[Tensor]:
    """Return the probabilities [n, choices] of each attribute of whoever stands in windows [n, 3, p].

    Shapes: softmax of -error / `shape_error` over the figures. Colours: the figures' mean colour of the part, softmax of
    -distance^2 / (2 `colour_deviation`^2) over the palette.
    """
    colours, error = fit_colours(window, behind)
    weight = (-error / shape_error).softmax(-1)
    colour = torch.einsum("ng,ngck->nkc", weight, colours)
    found: dict[int, Tensor] = {}
    for part, (attribute, palette) in enumerate(zip(COLOUR_ATTRIBUTES, PALETTES.values(), strict=True)):
        distance = (colour[:, part, None] - palette).square().sum(-1)
        found[attribute] = (-distance / (2 * colour_deviation**2)).softmax(-1)
    for column, attribute in enumerate(SHAPE_ATTRIBUTES):
        member = torch.nn.functional.one_hot(figures_of_any_colour().shapes[:, column]).float()
        found[attribute] = weight @ member
    return [found[index] for index in range(len(NAMES))]

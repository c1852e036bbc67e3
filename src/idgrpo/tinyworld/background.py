"""What a clip of the embedded world would show without people: the place, horizon and light that most pixels agree with.

The median of a row is not it: three people standing side by side cover most of the rows of their shirts.
"""

from functools import lru_cache

import torch
from torch import Tensor

from idgrpo.tinyworld.render import backdrop
from idgrpo.tinyworld.scene import HORIZON_PX, LIGHT, PLACES

NUM_HORIZONS, NUM_LIGHTS = 9, 12
TOLERANCE = 0.12  # distance of colours up to which a pixel may be background
EVERY = 4  # frames: enough to choose the candidate
MIN_SHARE = 0.03  # of the pixels of a row, below which the row is not of this world


@lru_cache(maxsize=1)
def _candidates() -> Tensor:
    """Return every place at some horizons in some lights: [h, candidate, 3]."""
    horizons, lights = torch.linspace(*HORIZON_PX, NUM_HORIZONS), torch.linspace(*LIGHT, NUM_LIGHTS)
    rows = backdrop(torch.arange(len(PLACES)).repeat_interleave(NUM_HORIZONS), horizons.repeat(len(PLACES)))
    return (rows.unsqueeze(1) * lights.view(1, -1, 1, 1)).flatten(0, 1).permute(2, 0, 1)


def background_rows(clip: Tensor) -> Tensor:
    """Return the background colour of each row [3, h] of a clip [frame, 3, h, w] in 0..1.

    The candidate that most pixels are near is taken, then in each row the median of those pixels, because bases do not
    hit colours exactly. Rows where hardly any pixel is near have the median of all.
    """
    pixels = clip.permute(2, 0, 3, 1)  # [h, frame, w, 3]
    candidates, some = _candidates(), pixels[:, ::EVERY].flatten(1, 2)
    agree = (torch.cdist(candidates, some) < TOLERANCE).sum((0, 2))
    best, pixels = candidates[:, agree.argmax()].unsqueeze(1), pixels.flatten(1, 2)
    near = (pixels - best).norm(dim=-1, keepdim=True) < TOLERANCE
    known = near.float().mean(1, keepdim=True) >= MIN_SHARE
    return torch.where(near | ~known, pixels, torch.nan).nanmedian(1).values.T

"""Read many texts with few computations: pictures are encoded once, and what stands before the video once per people."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idgrpo.reward.backbone import MODEL_INPUTS
from idgrpo.reward.inputs import InputBuilder, SeenClip
from idgrpo.reward.model import RewardNetwork
from idgrpo.reward.pixels import VIDEO, Grid, ragged_patch_rows
from idgrpo.reward.vision import Looks, look, looked_up

Row = tuple[int, tuple[int, ...], str]
"""One text: the place of its clip, the places of its photos in the order shown, its prompt."""
Seen = tuple[Grid, Looks]


def look_at(network: RewardNetwork, builder: InputBuilder, pictures: Sequence[Tensor], batch: int) -> list[Seen]:
    """Encode pictures "frame channel height width", those of one size together."""
    queue = sorted(range(len(pictures)), key=lambda i: tuple(pictures[i].shape))
    found: dict[int, Seen] = {}
    for start in range(0, len(queue), batch):
        part = queue[start : start + batch]
        rows, grids = ragged_patch_rows([pictures[i] for i in part], builder.settings)
        with network.computing():
            found.update(zip(part, zip(grids, look(network.backbone, rows, grids), strict=True), strict=True))
    return [found[i] for i in range(len(pictures))]


class _Reader:
    """Builds the batches of one call's texts."""

    def __init__(
        self,
        network: RewardNetwork,
        builder: InputBuilder,
        rows: Sequence[Row],
        seen: Sequence[SeenClip],
        clips: Sequence[Seen],
        photos: Sequence[Seen],
    ):
        self.network, self.builder = network, builder
        self.rows, self.seen, self.clips, self.photos = rows, seen, clips, photos

    def tokens(self, part: Sequence[int]) -> dict[str, Tensor]:
        """Return the inputs of these rows; the tower answers from what was found, pixels only have to be there."""
        found = self.builder.tokens(
            [self.seen[self.rows[i][0]] for i in part],
            [self.clips[self.rows[i][0]][0] for i in part],
            [[self.photos[k][0] for k in self.rows[i][1]] for i in part],
            [self.rows[i][2] for i in part],
        )
        device = self.network.head.weight.device
        found["pixel_values_videos"] = torch.zeros(1, 1)
        if "image_grid_thw" in found:
            found["pixel_values"] = torch.zeros(1, 1)
        return {name: value.to(device) for name, value in found.items()}

    def photos_of(self, part: Sequence[int]) -> list[Looks]:
        return [self.photos[k][1] for i in part for k in self.rows[i][1]]

    def clips_of(self, part: Sequence[int]) -> list[Looks]:
        return [self.clips[self.rows[i][0]][1] for i in part]

    def text_of(self, i: int) -> tuple:
        """Return what decides a row's tokens and their places: all but what the video shows."""
        clip, people, prompt = self.rows[i]
        return people, prompt, self.clips[clip][0], self.seen[clip].num_clip_frames, self.seen[clip].fps


def read_rows(
    network: RewardNetwork,
    builder: InputBuilder,
    rows: Sequence[Row],
    seen: Sequence[SeenClip],
    clips: Sequence[Seen],
    photos: Sequence[Seen],
    batch: int,
) -> Tensor:
    """Return float32 features "row width".

    Where several clips are shown with the same people and prompt (a group of GRPO), the text up to the video is read once
    and its keys and values serve all of them.
    """
    reader = _Reader(network, builder, rows, seen, clips, photos)
    features = torch.zeros(len(rows), network.head.weight.shape[1])
    by_text: dict[tuple, list[int]] = defaultdict(list)
    for i in range(len(rows)):
        by_text[reader.text_of(i)].append(i)
    alone = [members[0] for members in by_text.values() if len(members) == 1]
    # Rows of one length share a batch, so that most batches need no padding and no attention mask.
    alone.sort(key=lambda i: builder.text_length(len(rows[i][1]), rows[i][2], seen[rows[i][0]]))
    for start in range(0, len(alone), batch):
        part = alone[start : start + batch]
        with looked_up(network.backbone, reader.photos_of(part), reader.clips_of(part)):
            features[part] = network.features(reader.tokens(part)).cpu()
    by_shape: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
    for members in by_text.values():
        if len(members) > 1:
            inputs = reader.tokens(members[:1])
            first_of_video = int((inputs["mm_token_type_ids"][0] == VIDEO).nonzero()[0])
            by_shape[inputs["input_ids"].shape[1], first_of_video].append(members)
    for (_, split), groups in by_shape.items():
        _read_groups(reader, groups, split, features, batch)
    return features


def _read_groups(reader: _Reader, groups: list[list[int]], split: int, features: Tensor, batch: int) -> None:
    """Read groups of rows that differ in their videos alone, all of one length, into `features`."""
    for start in range(0, len(groups), batch):
        some = groups[start : start + batch]
        firsts = [members[0] for members in some]
        inputs = _slice(reader.tokens(firsts), slice(0, split), "pixel_values_videos", "video_grid_thw")
        with looked_up(reader.network.backbone, reader.photos_of(firsts)), reader.network.computing():
            out = reader.network.backbone(**inputs, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        members = [(i, place) for place, group in enumerate(some) for i in group]
        for at in range(0, len(members), batch):
            part = [i for i, _ in members[at : at + batch]]
            places = torch.tensor([place for _, place in members[at : at + batch]], device=layers[0][0].device)
            inputs = _slice(reader.tokens(part), slice(split, None), "pixel_values", "image_grid_thw")
            with looked_up(reader.network.backbone, reader.clips_of(part)), reader.network.computing():
                out = reader.network.backbone(**inputs, use_cache=True, past_key_values=_cache(layers, places))
            features[part] = out.last_hidden_state[:, -1].float().cpu()


def _slice(inputs: dict[str, Tensor], tokens: slice, *without: str) -> dict[str, Tensor]:
    found = {name: inputs[name] for name in MODEL_INPUTS if name in inputs and name not in without}
    for name in ("input_ids", "mm_token_type_ids", "position_ids"):
        found[name] = found[name][..., tokens]
    return found


def _cache(layers: Sequence[tuple[Tensor, Tensor]], places: Tensor) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys[places], values[places], index)
    return cache

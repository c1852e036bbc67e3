"""Build the model's inputs from tensors in memory: whole batches at once, texts and layouts cached."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.errors import ArtifactError, DataError
from idgrpo.reward.pixels import IMAGE, VIDEO, Grid, Layout, grid_of, layout, ragged_patch_rows
from idgrpo.reward.preprocess import SAVED_FILE, Preprocessing, checkpoint_preprocessing

ROW_TEXT = "<{seconds} seconds><|vision_start|><|video_pad|><|vision_end|>"
MAX_TOKENS = 32_768
MAX_PROMPT = 100_000  # characters; a text of more is not even tokenised


@dataclass(frozen=True)
class SeenClip:
    """What a model looks at of a clip: these frames, uint8 "frame channel height width", of `num_clip_frames` at `fps`.

    `fps` None is the model's own default. Files are read into this form, so that other frames take no memory.
    """

    frames: Tensor
    num_clip_frames: int
    fps: float | None = None


Video = Tensor | SeenClip
Videos = Sequence[Video] | Tensor
References = Sequence[Sequence[Tensor]] | Tensor
FrameRates = float | Sequence[float | None] | None


def frame_rates(fps: FrameRates, num_clips: int) -> list[float | None]:
    """Return one frame rate per clip: the one of all, or each its own; DataError where their number is another."""
    if fps is None or isinstance(fps, (int, float)):
        return [fps] * num_clips
    if len(fps) != num_clips:
        raise DataError(f"{len(fps)} frame rates for {num_clips} videos")
    return list(fps)


class InputBuilder:
    """Turn clips, reference photos and prompts into the tensors that `hidden_states` takes.

    Pixel rows and positions equal those of the checkpoint's own processor (tested); the difference is speed: equal
    sizes are cut in one pass, and a text that occurred before is not tokenised again.
    """

    def __init__(self, settings: Preprocessing, tokenizer: Any):
        self.settings = settings
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in settings.special_tokens if token not in vocabulary]
        self.added_tokens: list[str] = missing
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)
        # A tokenizer's own limit is about its first owner; here the pictures make most of the length anyway.
        tokenizer.model_max_length = max(tokenizer.model_max_length, MAX_TOKENS)
        self.reward_id = self.token_id(settings.reward_token)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._kinds = {self.token_id(settings.image_token): IMAGE, self.token_id(settings.video_token): VIDEO}
        self._ids = lru_cache(maxsize=4096)(self._tokenise)
        self._layout = lru_cache(maxsize=4096)(self._make_layout)

    @classmethod
    def load(cls, directory: Path | str, **overrides: Any) -> "InputBuilder":
        """Read tokenizer and settings of a saved reward model, or of a vision-language checkpoint with `overrides`."""
        from transformers import AutoTokenizer

        folder = Path(directory)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} has no readable tokenizer: {error}") from error
        if (folder / SAVED_FILE).is_file() and not overrides:
            return cls(Preprocessing.load(folder), tokenizer)
        return cls(checkpoint_preprocessing(folder, processor_fields(folder), overrides), tokenizer)

    def token_id(self, token: str) -> int:
        """Return the id of a token that must exist in the vocabulary."""
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if token_id is None or token_id == getattr(self.tokenizer, "unk_token_id", -1):
            raise ArtifactError(f"the tokenizer does not know {token}: is this a Qwen-VL checkpoint?")
        return int(token_id)

    def _tokenise(self, num_references: int, prompt: str, seconds: tuple[float, ...]) -> tuple[int, ...]:
        text = self.settings.text(num_references, prompt, seconds)
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if ids[-1] != self.reward_id:
            raise ArtifactError(f"the text does not end with the single token {self.settings.reward_token}")
        return ids

    def _make_layout(
        self, prompt: str, images: tuple[Grid, ...], video: Grid, time_step: float, seconds: tuple[float, ...]
    ) -> Layout:
        ids = self._ids(len(images), prompt, seconds)
        blocks = ((1, *video[1:]),) * video[0] if self.settings.row_by_row else (video,)
        return layout(ids, self._kinds, images, blocks, self.settings.merge_size, time_step)

    def expand(self, references: References) -> list[list[list[int]]]:
        """Return for each sample the orders in which its references will be shown (one, unless order is `average`)."""
        return [self.settings.orders([content_key(image) for image in images]) for images in references]

    def see(self, video: Video, fps: float | None = None) -> SeenClip:
        """Keep the frames of a clip that the model looks at; a `SeenClip` stays as it is."""
        if isinstance(video, SeenClip):
            return video
        clip = _checked(video, 4, "video")
        return SeenClip(clip[self.settings.frame_indices(clip.shape[0])], clip.shape[0], fps)

    def text_length(self, num_references: int, prompt: str, clip: SeenClip) -> int:
        """Number of tokens of the text, pictures counted as one; equal lengths and sizes need no padding."""
        return len(self._ids(num_references, prompt, self.settings.row_seconds(clip.num_clip_frames, clip.fps)))

    def problem(
        self, video: Video, images: Sequence[Tensor] | Tensor, prompt: str = "", fps: float | None = None
    ) -> str | None:
        """Say why one clip with its references cannot be turned into inputs, or None."""
        try:
            self._check(video, images, prompt, fps)
        except DataError as error:
            return error.message
        except UnicodeEncodeError:
            return "the prompt is no text that can be encoded"
        return None

    def _check(self, video: Video, images: Sequence[Tensor] | Tensor, prompt: str, fps: float | None) -> None:
        frames, rate = (video.frames, video.fps) if isinstance(video, SeenClip) else (video, fps)
        _checked(frames, 4, "video")
        num_frames = video.num_clip_frames if isinstance(video, SeenClip) else frames.shape[0]
        picked = self.settings.frame_indices(num_frames)
        if isinstance(video, SeenClip) and frames.shape[0] != len(picked):
            raise DataError(f"a clip was read for {frames.shape[0]} frames, this reward model looks at {len(picked)}")
        if rate is not None and not (math.isfinite(rate) and 0 < rate <= 1000):
            raise DataError(f"a frame rate of {rate} per second is none")
        if not self.settings.takes_references:
            images = ()
        elif not len(images):
            raise DataError("a clip without references cannot be judged")
        photos = [_checked(image, 3, "reference") for image in images]
        grids = [grid_of(len(picked), frames.shape[-2], frames.shape[-1], self.settings)]
        grids += [grid_of(1, photo.shape[-2], photo.shape[-1], self.settings) for photo in photos]
        self.settings.orders([content_key(image) for image in images])
        if len(prompt) > MAX_PROMPT:
            raise DataError(f"a prompt of {len(prompt)} characters is too long (limit {MAX_PROMPT})")
        prompt.encode()
        text = self._ids(len(images), prompt, self.settings.row_seconds(num_frames, rate))
        num_tokens = len(text) + sum(math.prod(grid) for grid in grids) // self.settings.merge_size**2
        if num_tokens > MAX_TOKENS:
            raise DataError(f"text and pictures make {num_tokens} tokens (limit {MAX_TOKENS})")

    def build(
        self,
        videos: Videos,
        references: References,
        prompts: Sequence[str],
        *,
        order: str | None = None,
        fps: FrameRates = None,
    ) -> dict[str, Tensor]:
        """Build one batch, one row per clip.

        Args:
            videos: uint8 "batch frame channel height width", or a list of clips "frame channel height width" or `SeenClip`.
            references: per clip, its photos uint8 "channel height width"; or "batch person channel height width".
            prompts: one per clip.
            order: `given` keeps the order of `references`; None applies the first order of the settings.
            fps: frames per second, of all clips or of each; None (of one or all): the settings' own.

        Raises:
            DataError: lengths differ, a clip is empty, a tensor is not uint8 RGB, too many references.
        """
        if not len(videos) == len(references) == len(prompts):
            raise DataError(f"{len(videos)} videos, {len(references)} reference sets and {len(prompts)} prompts")
        clips = [self.see(video, rate) for video, rate in zip(videos, frame_rates(fps, len(videos)), strict=True)]
        people = [list(images) if self.settings.takes_references else [] for images in references]
        if order != "given":
            orders = self.expand(people)
            people = [[images[i] for i in ranks[0]] for images, ranks in zip(people, orders, strict=True)]
        video_rows, video_grids = ragged_patch_rows([clip.frames for clip in clips], self.settings)
        inputs = {"pixel_values_videos": video_rows}
        image_grids: list[Grid] = []
        if any(people):
            photos = [_checked(image, 3, "reference")[None] for images in people for image in images]
            inputs["pixel_values"], image_grids = ragged_patch_rows(photos, self.settings)
        starts = [0]
        for images in people:
            starts.append(starts[-1] + len(images))
        own = [image_grids[start:end] for start, end in zip(starts, starts[1:], strict=False)]
        return inputs | self.tokens(clips, video_grids, own, prompts)

    def tokens(
        self,
        clips: Sequence[SeenClip],
        video_grids: Sequence[Grid],
        image_grids: Sequence[Sequence[Grid]],
        prompts: Sequence[str],
    ) -> dict[str, Tensor]:
        """Return everything of a batch but the pixels: ids, types, positions, grids; of images one list a clip."""
        seconds = [self.settings.grid_seconds(clip.num_clip_frames, clip.fps) for clip in clips]
        rows = [
            self._layout(
                prompt,
                tuple(grids),
                grid,
                self.settings.tokens_per_second * second,
                self.settings.row_seconds(clip.num_clip_frames, clip.fps),
            )
            for clip, grids, prompt, grid, second in zip(clips, image_grids, prompts, video_grids, seconds, strict=True)
        ]
        found = {"video_grid_thw": torch.tensor(video_grids), "second_per_grid_ts": torch.tensor(seconds)}
        if any(image_grids):
            found["image_grid_thw"] = torch.tensor([grid for grids in image_grids for grid in grids])
        return found | self._pad(rows)

    def _pad(self, rows: list[Layout]) -> dict[str, Tensor]:
        # Padding stands on the right: under causal attention it cannot reach the reward token, the last real one.
        lengths = torch.tensor([len(row.ids) for row in rows])
        longest = int(lengths.max())
        out = {"reward_index": lengths - 1}
        if int(lengths.min()) == longest:
            out["input_ids"] = torch.stack([row.ids for row in rows])
            out["mm_token_type_ids"] = torch.stack([row.types for row in rows])
            out["position_ids"] = torch.stack([row.positions for row in rows], dim=1)
            return out
        out["input_ids"] = torch.full((len(rows), longest), self.pad_id)
        out["mm_token_type_ids"] = torch.zeros((len(rows), longest), dtype=torch.int32)
        out["position_ids"] = torch.zeros((3, len(rows), longest), dtype=torch.long)
        out["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        for index, row in enumerate(rows):
            out["input_ids"][index, : len(row.ids)] = row.ids
            out["mm_token_type_ids"][index, : len(row.ids)] = row.types
            out["position_ids"][:, index, : len(row.ids)] = row.positions
        return out


def processor_fields(directory: Path) -> dict[str, Any]:
    """Read patch geometry, normalisation and time scale from a checkpoint's processor and model configuration."""
    from transformers import AutoConfig, AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(directory)
        config = AutoConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{directory} is not a readable vision-language checkpoint: {error}") from error
    fields: dict[str, Any] = {
        "patch_size": processor.patch_size,
        "merge_size": processor.merge_size,
        "temporal_patch_size": processor.temporal_patch_size,
        "image_mean": tuple(processor.image_mean),
        "image_std": tuple(processor.image_std),
    }
    if hasattr(config.vision_config, "tokens_per_second"):
        fields["tokens_per_second"] = config.vision_config.tokens_per_second
    else:  # Qwen2-VL counts rows of frames, not seconds
        fields.update(tokens_per_second=1, second_per_grid=1.0)
    if config.model_type == "qwen3_vl":  # tells the time in words, before each row of frames
        fields["video_text"] = ROW_TEXT
    return fields


def content_key(image: Tensor) -> str:
    """Return a short text that is equal for equal bytes."""
    return hashlib.blake2b(image.contiguous().cpu().numpy().tobytes(), digest_size=16).hexdigest()


def _checked(tensor: Tensor, num_dims: int, what: str) -> Tensor:
    if tensor.dtype != torch.uint8 or tensor.dim() != num_dims or tensor.shape[-3] != 3:
        shape = "frame 3 height width" if num_dims == 4 else "3 height width"
        raise DataError(f"a {what} must be uint8 [{shape}], not {tensor.dtype} {list(tensor.shape)}")
    return tensor

"""Build the model's inputs from tensors in memory: whole batches at once, texts and layouts cached."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.errors import ArtifactError, DataError
from idgrpo.reward.pixels import ragged_patch_rows
from idgrpo.reward.positions import IMAGE, VIDEO, Grid, Layout, layout
from idgrpo.reward.preprocess import SAVED_FILE, Preprocessing, checkpoint_preprocessing

References = Sequence[Sequence[Tensor]] | Tensor
ROW_TEXT = "<{seconds} seconds><|vision_start|><|video_pad|><|vision_end|>"


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
        tokenizer.model_max_length = max(tokenizer.model_max_length, 32_768)
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
        return [self.settings.orders([_content_key(image) for image in images]) for images in references]

    def text_length(self, num_references: int, prompt: str, num_clip_frames: int) -> int:
        """Number of tokens of the text, pictures counted as one; equal lengths and sizes need no padding."""
        return len(self._ids(num_references, prompt, self.settings.row_seconds(num_clip_frames)))

    def problem(self, video: Tensor, images: Sequence[Tensor] | Tensor) -> str | None:
        """Say why one clip with its references cannot be turned into inputs, or None."""
        try:
            clip = _checked(video, 4, "video")
            self.settings.frame_indices(clip.shape[0])
            if not len(images):
                raise DataError("a clip without references cannot be judged")
            self.settings.orders([_content_key(_checked(image, 3, "reference")) for image in images])
        except DataError as error:
            return error.message
        return None

    def build(
        self,
        videos: Sequence[Tensor] | Tensor,
        references: References,
        prompts: Sequence[str],
        *,
        order: str | None = None,
        fps: float | None = None,
    ) -> dict[str, Tensor]:
        """Build one batch, one row per clip.

        Args:
            videos: uint8 "batch frame channel height width", or a list of clips "frame channel height width".
            references: per clip, its photos uint8 "channel height width"; or "batch person channel height width".
            prompts: one per clip.
            order: `given` keeps the order of `references`; None applies the first order of the settings.
            fps: frames per second of the clips, where it differs from the settings.

        Raises:
            DataError: lengths differ, a clip is empty, a tensor is not uint8 RGB, too many references.
        """
        if not len(videos) == len(references) == len(prompts):
            raise DataError(f"{len(videos)} videos, {len(references)} reference sets and {len(prompts)} prompts")
        clips = [_checked(clip, 4, "video") for clip in videos]
        people = [list(images) for images in references]
        if order != "given":
            orders = self.expand(people)
            people = [[images[i] for i in ranks[0]] for images, ranks in zip(people, orders, strict=True)]
        photos = [_checked(image, 3, "reference")[None] for images in people for image in images]
        picked = [clip[self.settings.frame_indices(clip.shape[0])] for clip in clips]
        video_rows, video_grids = ragged_patch_rows(picked, self.settings)
        seconds = [self.settings.grid_seconds(clip.shape[0], fps) for clip in clips]
        inputs = {
            "pixel_values_videos": video_rows,
            "video_grid_thw": torch.tensor(video_grids),
            "second_per_grid_ts": torch.tensor(seconds),
        }
        image_grids: list[Grid] = []
        if photos:
            inputs["pixel_values"], image_grids = ragged_patch_rows(photos, self.settings)
            inputs["image_grid_thw"] = torch.tensor(image_grids)
        rows, start = [], 0
        for clip, images, prompt, grid, second in zip(clips, people, prompts, video_grids, seconds, strict=True):
            own = tuple(image_grids[start : start + len(images)])
            start += len(images)
            step = self.settings.tokens_per_second * second
            rows.append(self._layout(prompt, own, grid, step, self.settings.row_seconds(clip.shape[0], fps)))
        inputs.update(self._pad(rows))
        return inputs

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


def _content_key(image: Tensor) -> str:
    return hashlib.blake2b(image.contiguous().cpu().numpy().tobytes(), digest_size=16).hexdigest()


def _checked(tensor: Tensor, num_dims: int, what: str) -> Tensor:
    if tensor.dtype != torch.uint8 or tensor.dim() != num_dims or tensor.shape[-3] != 3:
        shape = "frame 3 height width" if num_dims == 4 else "3 height width"
        raise DataError(f"a {what} must be uint8 [{shape}], not {tensor.dtype} {list(tensor.shape)}")
    return tensor

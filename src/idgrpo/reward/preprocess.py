"""The one description of how videos, references and prompts become model inputs: data only, saved and hashed."""

import hashlib
import json
import re
from functools import lru_cache
from importlib import resources
from itertools import permutations
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from idgrpo.errors import ArtifactError, DataError, UsageError
from idgrpo.records.document import parse_json

REWARD_TOKEN = "<|SA_reward|>"
CHECKPOINT_FILE = "idgrpo_reward.json"
SAVED_FILE = "preprocessing.json"
PLACEHOLDER = re.compile(r"\{(references|video|prompt|rubric|num_references|index|image|seconds)\}")
TEMPLATE_PLACEHOLDERS = {"references", "video", "prompt", "rubric", "num_references"}


class Preprocessing(BaseModel):
    """Describe frames, pixels, time positions and wording of one reward model.

    Everything that changes a score is a field, so that the digest of this object identifies the inputs. A checkpoint
    directory may carry any subset of the fields as `idgrpo_reward.json`; the rest comes from its processor files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    # frames and pixels
    num_frames: int = 8
    min_pixels: int = 56 * 56
    max_pixels: int = 399_360
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    # positions in time: tokens_per_second * second_per_grid steps between two rows of frames
    fps: float = 16.0
    tokens_per_second: float = 4
    second_per_grid: float | None = None
    # wording
    template_name: str = "identity_v1"
    template_text: str = ""
    reference_text: str = "Reference person {index}: {image}\n"
    rubric_text: str = ""
    prompt_text: str = "The video was requested with this text: {prompt}\n"
    include_prompt: bool = True
    special_tokens: tuple[str, ...] = (REWARD_TOKEN,)
    reward_token: str = REWARD_TOKEN
    image_text: str = "<|vision_start|><|image_pad|><|vision_end|>"
    video_text: str = "<|vision_start|><|video_pad|><|vision_end|>"
    image_token: str = "<|image_pad|>"
    video_token: str = "<|video_pad|>"
    # people
    max_references: int = 8
    reference_order: Literal["canonical", "given", "average"] = "canonical"

    @field_validator("num_frames", "min_pixels", "max_pixels", "patch_size", "merge_size", "temporal_patch_size")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be at least 1")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocessing":
        if self.num_frames % self.temporal_patch_size:
            low = self.num_frames // self.temporal_patch_size * self.temporal_patch_size
            raise ValueError(
                f"num_frames={self.num_frames} is not a multiple of temporal_patch_size={self.temporal_patch_size}: "
                f"nearest valid values are {max(low, self.temporal_patch_size)} and {low + self.temporal_patch_size}"
            )
        if self.max_pixels < max(self.min_pixels, (self.patch_size * self.merge_size) ** 2):
            raise ValueError(
                f"max_pixels={self.max_pixels} is below min_pixels={self.min_pixels} or one merged patch "
                f"({self.patch_size * self.merge_size} px squared)"
            )
        if not self.template_text:
            object.__setattr__(self, "template_text", template_text(self.template_name))
        if self.template_text.count(self.reward_token) != 1:
            raise ValueError(f"template_text must contain the reward token {self.reward_token} exactly once")
        counts = self.template_text.count("{video}"), self.template_text.count("{references}")
        if counts != (1, int(self.takes_references)):
            raise ValueError(
                "template_text must contain {references} and {video} exactly once each; {references} not where reference_text is empty"
            )
        if self.takes_references and self.reference_text.count("{image}") != 1:
            raise ValueError("reference_text must contain {image} exactly once, or be empty: no photo is shown then")
        return self

    @property
    def takes_references(self) -> bool:
        """Whether photos of people are shown; a model of motion or of visual quality judges the clip alone."""
        return bool(self.reference_text)

    @property
    def factor(self) -> int:
        """Side in px that one token of the language model covers."""
        return self.patch_size * self.merge_size

    def digest(self) -> str:
        """Return the sha256 over all fields, as `sha256:<hex>`."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    def frame_indices(self, num_clip_frames: int) -> list[int]:
        """Spread `num_frames` indices over a clip, first and last frame included; a shorter clip repeats frames."""
        if num_clip_frames < 1:
            raise DataError("a clip without frames cannot be scored")
        if self.num_frames == 1:
            return [num_clip_frames // 2]
        step = (num_clip_frames - 1) / (self.num_frames - 1)
        return [int(i * step + 0.5) for i in range(self.num_frames)]

    def grid_seconds(self, num_clip_frames: int, fps: float | None = None) -> float:
        """Seconds between two temporal rows, by the rule of transformers' Qwen2.5-VL processor.

        sampled_fps = num_frames / clip frames * fps; second_per_grid = temporal_patch_size / sampled_fps.
        """
        if self.second_per_grid is not None:
            return self.second_per_grid
        sampled_fps = self.num_frames / num_clip_frames * (fps or self.fps)
        return self.temporal_patch_size / sampled_fps

    @property
    def row_by_row(self) -> bool:
        """Whether every temporal row stands in the text by itself, after its time (Qwen3-VL), or all in one block."""
        return "{seconds}" in self.video_text

    def row_seconds(self, num_clip_frames: int, fps: float | None = None) -> tuple[float, ...]:
        """Return the time of each temporal row: the middle between its first and last frame; empty for one block.

        Source: `_calculate_timestamps` of transformers' Qwen3-VL processor.
        """
        if not self.row_by_row:
            return ()
        indices, depth = self.frame_indices(num_clip_frames), self.temporal_patch_size
        rate = fps or self.fps
        return tuple((indices[i] / rate + indices[i + depth - 1] / rate) / 2 for i in range(0, self.num_frames, depth))

    def orders(self, keys: list[str]) -> list[list[int]]:
        """Return the orders in which references are shown, given one content key per reference.

        `canonical` sorts by content, so that the order of a case cannot matter; `average` shows every permutation (up
        to three people) and the score is their mean; `given` keeps the order, and then order matters.
        """
        num = len(keys)
        if not self.takes_references:
            return [[]]
        if num > self.max_references:
            raise DataError(
                f"{num} references, but this reward model was built for at most {self.max_references}",
                fix="score with fewer references or train with a larger max_references",
            )
        if self.reference_order == "given":
            return [list(range(num))]
        if self.reference_order == "average" and num <= 3:
            return [list(order) for order in permutations(range(num))]
        return [sorted(range(num), key=lambda i: keys[i])]

    def text(self, num_references: int, prompt: str, seconds: tuple[float, ...] = ()) -> str:
        """Write the text shown to the model, ending with the reward token.

        It holds one pad token per image and per video; where the video is told row by row, one per entry of `seconds`.
        """
        template = self.template_text.split(self.reward_token)[0] + self.reward_token
        people = range(1, num_references + 1)
        values = {
            "num_references": str(num_references),
            "video": "".join(_fill(self.video_text, seconds=f"{s:.1f}") for s in seconds)
            if self.row_by_row
            else self.video_text,
            "references": "".join(_fill(self.reference_text, index=str(i), image=self.image_text) for i in people),
            "rubric": "".join(_fill(self.rubric_text, index=str(i)) for i in people),
            "prompt": _fill(self.prompt_text, prompt=plain(prompt)) if self.include_prompt and prompt else "",
        }
        return _fill(template, **values)

    def save(self, directory: Path) -> None:
        """Write `preprocessing.json` with its digest into a saved reward model."""
        document = {"digest": self.digest(), "preprocessing": self.model_dump(mode="json")}
        (directory / SAVED_FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Preprocessing":
        """Read `preprocessing.json`; a digest that does not match its content is an ArtifactError."""
        path = directory / SAVED_FILE
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            loaded = cls.model_validate(document["preprocessing"])
        except FileNotFoundError:
            raise ArtifactError(f"{directory} holds no reward model: {SAVED_FILE} is missing") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        if loaded.digest() != document.get("digest"):
            raise ArtifactError(
                f"{path}: the preprocessing has digest {loaded.digest()[:19]}.., the model was saved with "
                f"{str(document.get('digest'))[:19]}..: its scores would not be comparable",
                fix="restore the file or train the reward model again",
            )
        return loaded


def _fill(template: str, **values: str) -> str:
    # One pass, so that placeholders inside the inserted text (a prompt with "{video}") stay text.
    return PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group(0)), template)


def plain(prompt: str) -> str:
    """Take the power from special tokens inside a prompt: `<|x|>` would otherwise be read as a control token."""
    return prompt.replace("<|", "< |").strip()


@lru_cache(maxsize=32)
def template_text(name: str) -> str:
    """Return the wording shipped under `name`; an unknown name is a UsageError that lists the known ones."""
    folder = resources.files("idgrpo.reward") / "templates"
    known = sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".txt"))
    if name not in known:
        raise UsageError(f"unknown instruction template {name!r} (known: {', '.join(known)})")
    return (folder / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def checkpoint_preprocessing(directory: Path, processor_fields: dict, overrides: dict) -> Preprocessing:
    """Combine a checkpoint's processor settings, its optional `idgrpo_reward.json` and the user's settings, last wins."""
    carried: dict = {}
    path = directory / CHECKPOINT_FILE
    if path.is_file():
        try:
            carried = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ArtifactError(f"{path} is not JSON: {error}") from error
    try:
        return Preprocessing.model_validate({**processor_fields, **carried, **overrides})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"preprocessing of {directory}: {problems}") from error

"""A vision-language model as judge: any Qwen-VL checkpoint directory of transformers that can generate."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from idgrpo.annotate.config import JudgeConfig
from idgrpo.annotate.judge import UNREADABLE, UNSURE, Question, Reply, Shown
from idgrpo.errors import ArtifactError, MachineError
from idgrpo.run.machine import weights_dtype

INTRODUCTION = "Here is a picture of each person who should be in a video.\n"
TASK = (
    "Both clips were made from these pictures{request}. Compare how well they keep the people. In the better clip EVERY "
    "person stays like their picture through the whole clip: the face first, then hair and skin, clothes only as support. "
    "A clip that loses, mixes up or blends even one person is worse than one that keeps all of them a little less well. "
    "Do not reward a frozen copy of a picture. Name the differences in one or two sentences. Then end with one line:\n"
    "Answer: 1 (clip 1 is better), 2 (clip 2 is better), TIE (equally good), BOTH_BAD (equally bad), or UNSURE."
)
MEANINGS: dict[str, Shown] = {"1": "left", "2": "right", "TIE": "tie", "BOTH_BAD": "both_bad"}
ANSWER = re.compile(r"answer\W*(?:is\W+)?(?:clip\W*)?(1|2|tie|both[\s_]bad|unsure)\b", re.IGNORECASE)


class VlmJudge:
    """Asks a checkpoint by sampling text; same seed, same replies on the same machine."""

    varies = True

    def __init__(self, directory: Path | str, config: JudgeConfig, *, name: str | None = None):
        self.name = name or Path(directory).resolve().name
        self.config = config
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self.model, self.processor = load_vlm(Path(directory), self.device)

    def ask(self, question: Question, num: int, seed: int) -> list[Reply]:
        """Sample `num` answers to one question. Errors: MachineError when it fails or memory runs out."""
        inputs = self._inputs(question)
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=_devices(self.device)):
                torch.manual_seed(seed % 2**63)
                tokens = self.model.generate(
                    **inputs, do_sample=True, temperature=self.config.temperature, top_p=1.0, top_k=0,
                    num_return_sequences=num, max_new_tokens=self.config.max_new_tokens,
                )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of memory while judge {self.name!r} answered: {error}",
                fix="lower judge.num_frames, judge.max_pixels or judge.votes",
            ) from error
        except RuntimeError as error:  # such as probabilities that are not finite
            raise MachineError(f"judge {self.name!r} cannot answer: {error}") from error
        said = tokens[:, inputs["input_ids"].shape[1] :]
        return [read_reply(text) for text in self.processor.batch_decode(said, skip_special_tokens=True)]

    def _inputs(self, question: Question) -> dict[str, Any]:
        clips = [_frames(clip, self.config) for clip in (question.left, question.right)]
        metadata = [
            {"fps": fps, "total_num_frames": len(clip), "frames_indices": indices, "duration": len(clip) / fps}
            for clip, (_, indices), fps in zip((question.left, question.right), clips, question.fps, strict=True)
        ]
        text = self.processor.apply_chat_template(messages(question), tokenize=False, add_generation_prompt=True)
        photos = [shrunk(photo[None], self.config.max_pixels)[0] for photo in question.photos]
        built = self.processor(
            text=[text], images=photos or None, videos=[frames for frames, _ in clips], return_tensors="pt",
            videos_kwargs={"do_sample_frames": False, "video_metadata": metadata},
        )  # fmt: skip
        return {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in built.items()}


def messages(question: Question) -> list[dict[str, Any]]:
    """Write one user turn: the photos in order, clip 1 (left), clip 2 (right), the task."""
    request = f' for the request "{_plain(question.prompt)}"' if question.prompt.strip() else ""
    content: list[dict[str, Any]] = [{"type": "text", "text": INTRODUCTION}]
    for number in range(1, len(question.photos) + 1):
        content += [{"type": "text", "text": f"Person {number}: "}, {"type": "image"}, {"type": "text", "text": "\n"}]
    for number in (1, 2):
        content += [{"type": "text", "text": f"Clip {number}: "}, {"type": "video"}, {"type": "text", "text": "\n"}]
    content.append({"type": "text", "text": TASK.format(request=request)})
    return [{"role": "user", "content": content}]


def _plain(text: str) -> str:
    """Take the power from control tokens inside a prompt."""
    return text.replace("<|", "< |").strip()


def read_reply(text: str) -> Reply:
    """Read the last stated answer; a text without one is unreadable, which is an abstention and no answer."""
    found = ANSWER.findall(text)
    if not found:
        shown = " ".join(text.split())[:80]
        return Reply(None, f"{UNREADABLE}: {shown!r}")
    word = re.sub(r"\s", "_", found[-1].upper())
    return Reply(MEANINGS[word]) if word in MEANINGS else Reply(None, UNSURE)


def _frames(clip: Tensor, config: JudgeConfig) -> tuple[Tensor, list[int]]:
    """Give up to `num_frames` frames, an even number, first and last included, and their indices."""
    num = min(config.num_frames, len(clip))
    num = max(num - num % 2, 1)
    indices = [round(i * (len(clip) - 1) / max(num - 1, 1)) for i in range(num)]
    return shrunk(clip[indices], config.max_pixels), indices


def shrunk(images: Tensor, max_pixels: int) -> Tensor:
    """Make images uint8 [n, 3, height, width] smaller if they have more than `max_pixels`, aspect kept."""
    height, width = images.shape[-2:]
    scale = (max_pixels / (height * width)) ** 0.5
    if scale >= 1:
        return images
    size = max(int(height * scale), 1), max(int(width * scale), 1)
    return interpolate(images.float(), size=size, mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)


def load_vlm(directory: Path, device: str) -> tuple[Any, Any]:
    """Load a checkpoint that can generate, and its processor. Errors: ArtifactError says what it lacks."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours say what is going on
    dtype = weights_dtype(device)
    try:
        processor = AutoProcessor.from_pretrained(directory)
        model, report = AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            f"{directory} is no vision-language checkpoint that can be loaded: {error}",
            fix="give a directory with config.json, weights, tokenizer and processor files",
        ) from error
    if getattr(processor, "video_processor", None) is None or not getattr(processor, "chat_template", None):
        raise ArtifactError(f"{directory}: its processor takes no videos, or has no chat template")
    if missing := sorted(report["missing_keys"]):
        raise ArtifactError(
            f"{directory} lacks {len(missing)} weights ({', '.join(missing[:3])} ..): it cannot generate"
        )
    return model.eval().to(device), processor


def _devices(device: str) -> Sequence[int]:
    return [torch.device(device).index or 0] if device.startswith("cuda") else []

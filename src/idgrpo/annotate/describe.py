"""Prompts made precise: a vision-language model describes each person, one clause each (the paper's first stabiliser).

`two friends dance` leaves a generator to guess who is who; `two friends dance. Person 1: a woman with short red hair ..` does not.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.annotate.judge_vlm import load_vlm, shrunk
from idgrpo.errors import DataError, MachineError
from idgrpo.records.atomic import replacing
from idgrpo.records.models import Case
from idgrpo.run.dealing import Dealing
from idgrpo.video.read import read_image

TASK = (
    "Describe the person in this picture in one clause of at most 30 words, so that a painter who has not seen the picture "
    "could draw them: apparent age and gender, face, hair, skin tone, then clothes. No name, no background, no opinion."
)
MAX_WORDS = 40
MAX_NEW_TOKENS = 96

Describe = Callable[[Tensor], str]


class VlmDescriber:
    """Describes photos with any Qwen-VL checkpoint of transformers; greedy, so the same photo gives the same words."""

    def __init__(self, directory: Path, *, device: str = "cpu", max_pixels: int = 399_360):
        self.device, self.max_pixels = device, max_pixels
        self.model, self.processor = load_vlm(directory, device)

    def __call__(self, photo: Tensor) -> str:
        """Describe the person on a photo uint8 [3, height, width]. Errors: MachineError when the model fails."""
        content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": TASK}]
        turn = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        images = [shrunk(photo[None], self.max_pixels)[0]]
        inputs = self.processor(text=[text], images=images, return_tensors="pt").to(self.device)
        try:
            with torch.inference_mode():
                tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        except RuntimeError as error:  # out of memory is one of them
            raise MachineError(f"the model cannot describe a photo: {error}") from error
        said = tokens[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(said, skip_special_tokens=True)[0]


def clause(text: str) -> str:
    """Make one clause of what a model said: its first line, without closing punctuation; '' if there are no words in it.

    More than MAX_WORDS is not a clause: it is cut at the last comma before them.
    """
    lines = [line.strip() for line in text.splitlines() if any(c.isalpha() for c in line)]
    words = lines[0].split() if lines else []
    kept = " ".join(words[:MAX_WORDS])
    if len(words) > MAX_WORDS and "," in kept:
        kept = kept.rpartition(",")[0]
    return kept.strip(" .,;:-*\"'")


def precise_prompt(prompt: str, clauses: Sequence[str]) -> str:
    """Join a prompt and one clause per reference, in the order of the references."""
    people = " ".join(f"Person {number}: {text}." for number, text in enumerate(clauses, start=1))
    return f"{prompt.strip().rstrip('.')}. {people}"


def describe_photos(photos: Sequence[str], describe: Describe, folder: Path, dealing: Dealing) -> dict[str, str]:
    """Ask about each photo once, whoever asks: photo path -> what was said, which is kept in `folder`."""
    folder.mkdir(exist_ok=True)
    files = {photo: folder / f"{hashlib.sha256(photo.encode()).hexdigest()[:32]}.txt" for photo in photos}
    shared = dealing.share(
        list(files), lambda photo: files[photo].stem, lambda photo: files[photo].exists(),
        label="describing people", unit="photos",
    )  # fmt: skip
    for photo in shared:
        with replacing(files[photo]) as draft:
            draft.write_text(describe(read_image(photo)), encoding="utf-8")
    return {photo: file.read_text(encoding="utf-8") for photo, file in files.items()}


def make_precise(case: Case, said: Mapping[str, str]) -> Case:
    """Return the case with a precise prompt; `said` is what the model said about each photo.

    Errors: DataError names the photo that the model says nothing about; no prompt is left imprecise in silence.
    """
    photos = [reference.images[0] for reference in case.references]
    for photo in photos:
        if not clause(said[photo]):
            raise DataError(
                f"case {case.id!r}: the model said nothing about {photo} (it said {said[photo][:60]!r})",
                fix="try another checkpoint, or write this prompt by hand",
            )
    return case.model_copy(update={"prompt": precise_prompt(case.prompt, [clause(said[photo]) for photo in photos])})

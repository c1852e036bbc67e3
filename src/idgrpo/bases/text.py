"""Prompts to embeddings: cleaned as the Wan family does, encoded by UMT5, which is loaded when first needed and can leave."""

import html
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.bases.weights import reading_weights
from idgrpo.errors import DataError, MachineError

_QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})
EMBEDDING_NAMES = {"shared.weight", "encoder.embed_tokens.weight"}


def clean_prompt(prompt: str) -> str:
    """Undo HTML escapes, straighten quotes, narrow full-width forms, and collapse white space.

    Does what `ftfy.fix_text` and `html.unescape` do in Wan's own pipeline to well-formed text (full-width punctuation
    such as that of the negative prompt becomes ASCII, which changes its tokens); ftfy's repair of broken encodings is
    left out.
    """
    text = html.unescape(html.unescape(prompt)).translate(_QUOTES)
    narrow = (unicodedata.normalize("NFKC", c) if "\uff01" <= c <= "\uffef" or c == "\u3000" else c for c in text)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", "".join(narrow))).strip()


def checked_prompt(prompt: str) -> str:
    """Clean a prompt; raise DataError when nothing is left."""
    cleaned = clean_prompt(prompt)
    if not cleaned:
        raise DataError("the prompt is empty", fix="describe the video, best with one clause for each person")
    return cleaned


class TextEncoder:
    """Encodes prompts with the UMT5 encoder of a diffusers folder.

    The weights (11.4 GB in bf16 for UMT5-XXL) are read at the first prompt, so that a run whose conditions are cached
    never touches them; `release` gives the memory back.
    """

    def __init__(
        self, model_dir: Path, tokenizer_dir: Path, text_length: int, *, dtype: torch.dtype, device: torch.device
    ):
        self.model_dir, self.tokenizer_dir = model_dir, tokenizer_dir
        self.text_length, self.dtype, self.device = text_length, dtype, device
        # Any: the classes of transformers would have to be imported, which takes seconds.
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def loaded(self) -> bool:
        return self._model is not None

    def load(self) -> None:
        """Read tokenizer and weights if that has not happened.

        Raises ArtifactError when they are damaged, MachineError when the library reads them wrongly.
        """
        if self._model is not None:
            return
        from transformers import AutoTokenizer, UMT5EncoderModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # it writes to pipes and files too; reading 22 tensors needs no bar
        with reading_weights(self.tokenizer_dir):
            self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_dir, local_files_only=True)
        with reading_weights(self.model_dir):
            loaded: Any = UMT5EncoderModel.from_pretrained(
                self.model_dir, local_files_only=True, dtype=self.dtype, output_loading_info=True
            )
            model, info = loaded
            missing = set(info["missing_keys"])
            if not missing >= EMBEDDING_NAMES:  # the table is stored once, under either name
                missing -= EMBEDDING_NAMES
            if missing:
                raise KeyError(f"missing keys: {', '.join(sorted(missing)[:8])}")
        self._require_shared_embedding(model)
        self._model = model.eval().requires_grad_(False).to(self.device)

    def _require_shared_embedding(self, model: Any) -> None:
        """Refuse an encoder whose embedding is not the table of the file: every prompt would be noise, without a word."""
        if model.encoder.embed_tokens.weight.data_ptr() != model.shared.weight.data_ptr():
            import transformers

            raise MachineError(
                f"transformers {transformers.__version__} reads {self.model_dir} without tying the encoder's embedding to "
                "the shared table, so prompts would be noise (5.0 to 5.2 do this with UMT5)",
                fix="pip install 'transformers>=5.3'",
            )

    def release(self) -> None:
        """Forget the weights; the next `encode` reads them again."""
        self._model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to [prompt, text_length, channel] on the CPU.

        Longer prompts are cut. Positions after the end are zeros and the transformer gets no mask: that is how the Wan
        family was trained, and it makes text_length part of the model (512; 226 gives other videos).
        """
        self.load()
        inputs = self._tokenizer(
            [clean_prompt(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = inputs.attention_mask.to(self.device)
        hidden = self._model(inputs.input_ids.to(self.device), mask).last_hidden_state
        return (hidden * mask.unsqueeze(-1).to(hidden.dtype)).cpu()

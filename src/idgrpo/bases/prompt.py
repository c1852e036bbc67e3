"""Cleaning of prompts, as the Wan family does before it tokenises."""

import html
import re
import unicodedata

from idgrpo.errors import DataError

_QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})


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

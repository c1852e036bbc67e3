"""The cases of a run in memory: prompts, reference images and their encodings, each made once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.bases.generate import read_references
from idgrpo.records.case import Case


class CaseBook(Sequence[Condition]):
    """Indexes cases; `book[i]` is the cached condition of case i.

    Encoded at first use: a short run over many cases pays only for those it sees.
    """

    def __init__(self, base: Base, cases: Sequence[Case], size: VideoSize):
        self.base, self.cases, self.size = base, list(cases), size
        self._references: dict[int, list[Tensor]] = {}
        self._conditions: dict[int, Condition] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def references(self, index: int) -> list[Tensor]:
        """Give the first image of each reference, uint8 [3, height, width], in the case's order."""
        if index not in self._references:
            self._references[index] = read_references(self.cases[index])
        return self._references[index]

    def encode_all(self) -> None:
        """Encode every case now and let the text encoder go: 11 GB that no update needs."""
        for index in range(len(self)):
            self[index]
        self.base.text_encoder.release()

    def __getitem__(self, index: int) -> Condition:  # type: ignore[override]
        if index not in self._conditions:
            with torch.no_grad():
                condition = self.base.encode(self.cases[index].prompt, self.references(index), self.size)
            self._conditions[index] = condition
        return self._conditions[index]

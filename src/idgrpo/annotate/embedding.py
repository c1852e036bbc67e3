"""How close the people in a clip are to the references, in a finder's embedding space: the filter of a judge's votes."""

from collections.abc import Callable

from torch import Tensor

from idgrpo.annotate.judge import Question
from idgrpo.people.contract import Finder
from idgrpo.people.match import match_tracks
from idgrpo.people.track import link


def likeness(finder: Finder, clip: Tensor, photos: list[Tensor]) -> float:
    """Give the mean cosine, over references, with the track that one assignment for the whole clip gives each.

    A reference that nobody in the clip was assigned to counts 0. Clip uint8 [frame, 3, height, width].
    """
    references = [finder.embed_reference(photo) for photo in photos]
    chosen, table = match_tracks(references, link(finder.find(clip)))
    found = [max(float(table[i, j]), 0.0) for i, j in enumerate(chosen) if j is not None]
    return sum(found) / max(len(references), 1)


def embedding_gap(finder: Finder) -> Callable[[Question], float]:
    """Make the function that says how much closer the left clip is than the right one."""

    def gap(question: Question) -> float:
        return likeness(finder, question.left, question.photos) - likeness(finder, question.right, question.photos)

    return gap

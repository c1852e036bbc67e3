"""Sides: which clip stands left, balanced for each annotator in blocks and not to be guessed."""

from idgrpo.run.draws import seed_of


def a_is_left(seed: int, annotator: str, position: int, block: int) -> bool:
    """Decide the side of the `position`-th pair an annotator sees; each block of `block` has a left as often as right.

    An odd block gives its odd one to left and right in turn, so that two blocks balance.
    """
    number, offset = divmod(position, block)
    order = sorted(range(block), key=lambda i: seed_of("annotate-side", seed, annotator, number, i))
    return (order.index(offset) + number * (block % 2)) % 2 == 0


def shown_to_meant(shown: str, a_left: bool) -> str:
    """Translate an answer as shown (left, right, ...) to one as meant (a, b, ...)."""
    if shown == "left":
        return "a" if a_left else "b"
    if shown == "right":
        return "b" if a_left else "a"
    return shown


def meant_to_shown(answer: str, a_left: bool) -> str:
    """Translate an answer as meant (a, b, ...) to one as shown (left, right, ...)."""
    if answer == "a":
        return "left" if a_left else "right"
    if answer == "b":
        return "right" if a_left else "left"
    return answer

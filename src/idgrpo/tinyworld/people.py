"""People of the embedded world: an identity is one choice per attribute, and its code is in the person's id."""

import torch
from torch import Tensor

from idgrpo.errors import DataError

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "skin": ("light", "tan", "brown", "dark"),
    "hair colour": ("black", "chestnut", "blond", "red", "silver", "blue"),
    "hair shape": ("short", "long", "bun"),
    "shirt colour": ("crimson", "orange", "yellow", "green", "cyan", "navy", "purple", "pink"),
    "shirt pattern": ("plain", "striped", "halved"),
    "trousers": ("charcoal", "indigo", "umber", "khaki", "white"),
    "size": ("small", "middle", "tall"),
}
NUM_CHOICES: tuple[int, ...] = tuple(len(values) for values in ATTRIBUTES.values())
NUM_PEOPLE = 25_920  # product of NUM_CHOICES
ID_PREFIX = "tiny-"

SKIN = torch.tensor([[0.98, 0.85, 0.74], [0.86, 0.65, 0.46], [0.60, 0.40, 0.27], [0.35, 0.23, 0.16]])
HAIR = torch.tensor(
    [
        [0.08, 0.08, 0.10],
        [0.42, 0.24, 0.10],
        [0.95, 0.82, 0.38],
        [0.80, 0.28, 0.10],
        [0.84, 0.84, 0.88],
        [0.20, 0.45, 0.95],
    ]
)
SHIRT = torch.tensor(
    [
        [0.82, 0.10, 0.14],
        [0.98, 0.52, 0.08],
        [0.97, 0.90, 0.20],
        [0.14, 0.62, 0.22],
        [0.10, 0.78, 0.80],
        [0.10, 0.18, 0.62],
        [0.52, 0.18, 0.68],
        [0.98, 0.55, 0.75],
    ]
)
TROUSERS = torch.tensor(
    [[0.14, 0.14, 0.15], [0.18, 0.26, 0.50], [0.40, 0.27, 0.16], [0.70, 0.62, 0.42], [0.93, 0.93, 0.92]]
)
SCALE = torch.tensor([0.82, 0.97, 1.12])


def attributes_of(codes: Tensor) -> Tensor:
    """Return the attribute choices int64 [..., 7] of person codes [...] (mixed radix, last attribute fastest)."""
    digits = []
    rest = codes
    for choices in reversed(NUM_CHOICES):
        digits.append(rest % choices)
        rest = rest // choices
    return torch.stack(digits[::-1], dim=-1)


def code_of(attributes: Tensor) -> Tensor:
    """Return the person codes [...] of attribute choices [..., 7]; inverse of `attributes_of`."""
    code = torch.zeros_like(attributes[..., 0])
    for index, choices in enumerate(NUM_CHOICES):
        code = code * choices + attributes[..., index]
    return code


def is_held_out(codes: Tensor) -> Tensor:
    """Tell which people no model of the embedded world is ever trained on (one in five, by a hash of the code)."""
    mixed = (codes * 2_654_435_761 + 40_503) % 4_294_967_296
    return (mixed >> 7) % 5 == 0


def draw_people(generator: torch.Generator, shape: tuple[int, ...], *, held_out: bool) -> Tensor:
    """Draw person codes int64 [*shape] uniformly from the training people or from the held-out ones."""
    total = int(torch.tensor(shape).prod())
    pool = torch.arange(NUM_PEOPLE)
    pool = pool[is_held_out(pool) == held_out]
    return pool[torch.randint(len(pool), (total,), generator=generator)].reshape(shape)


def person_id(code: int) -> str:
    """Return the id of a person, from which `person_code` reads the identity back."""
    return f"{ID_PREFIX}{code:05d}"


def person_code(person: str) -> int:
    """Return the code of a person id such as `tiny-01234`; DataError when it is none of this world."""
    digits = person.removeprefix(ID_PREFIX)
    if not person.startswith(ID_PREFIX) or not digits.isdigit() or int(digits) >= NUM_PEOPLE:
        raise DataError(
            f"person '{person}' is not of the embedded world (ids run from {person_id(0)} to {person_id(NUM_PEOPLE - 1)})",
            fix="use cases made by `idgrpo sample --base tiny-phantom`, or a judge or people instead of the oracle",
        )
    return int(digits)


def describe(code: int) -> str:
    """Describe a person in words, one clause, as a precise prompt would."""
    skin, hair, shape, shirt, pattern, trousers, size = (
        values[choice]
        for values, choice in zip(ATTRIBUTES.values(), attributes_of(torch.tensor(code)).tolist(), strict=True)
    )
    return f"{size} {skin} person with {shape} {hair} hair, {pattern} {shirt} shirt and {trousers} trousers"

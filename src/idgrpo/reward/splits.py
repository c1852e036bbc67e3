"""Split preferences by identity: no person of a training pair is ever seen in validation or test."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from idgrpo.errors import DataError
from idgrpo.records.models import Preference

PARTS = ("train", "validation", "test")


def people_of(preference: Preference) -> frozenset[str]:
    """Return the person ids of a pair."""
    return frozenset(reference.person for reference in preference.references)


def split_by_identity(
    preferences: Sequence[Preference], *, validation_share: float = 0.1, test_share: float = 0.1
) -> dict[str, list[Preference]]:
    """Use the split given in the data, or make one in which no person is in two parts.

    Pairs that share a person, directly or through others, form a group; groups are dealt out whole, in an order that
    depends on their ids alone. The largest group always trains. Where everybody is connected with everybody, people
    are dealt out instead and pairs that mix parts are left out; with too few people for that, all pairs train.

    Raises:
        DataError: only some pairs carry a split; a person is in two parts; no pair is left to train on.
    """
    given = [p for p in preferences if p.split is not None]
    if given:
        parts = _given_split(preferences, given)
    else:
        parts = _grouped(preferences, validation_share, test_share)
        if not parts["validation"]:
            dealt = _by_person(preferences, validation_share, test_share)
            parts = dealt if dealt["train"] else parts
    if not parts["train"]:
        raise DataError(
            f"no pair is left to train on ({len(preferences)} read)", fix="give more pairs or a split field"
        )
    return parts


def carve_validation(parts: dict[str, list[Preference]], share: float) -> dict[str, list[Preference]]:
    """Take a validation part out of the training pairs where the data gave none."""
    if parts["validation"]:
        return parts
    inner = split_by_identity(
        [p.model_copy(update={"split": None}) for p in parts["train"]], validation_share=share, test_share=0.0
    )
    return {"train": inner["train"], "validation": inner["validation"], "test": parts["test"]}


def check_parts(parts: dict[str, list[Preference]], *, test_share: float) -> None:
    """Refuse to train where nothing could be measured on people who were never seen.

    Raises:
        DataError: validation is empty, or test is although a share was asked for.
    """
    found = {name: len(parts[name]) for name in PARTS}
    num_people = len({person for part in parts.values() for p in part for person in people_of(p)})
    counts = f"({num_people} people; {', '.join(f'{num} {name}' for name, num in found.items())} pairs)"
    if not found["validation"]:
        raise DataError(
            f"no pair is left for validation: its people must not be in training {counts}",
            fix="give pairs of more people who do not all meet each other, or a split field",
        )
    if not found["test"] and test_share > 0:
        raise DataError(
            f"no pair is left for test: its people must be in no other part {counts}",
            fix="give pairs of more people, or a split field with test, or go without: --set data.test_share=0",
        )


def _given_split(preferences: Sequence[Preference], given: Sequence[Preference]) -> dict[str, list[Preference]]:
    if len(given) < len(preferences):
        missing = next(p for p in preferences if p.split is None)
        raise DataError(
            f"{len(preferences) - len(given)} of {len(preferences)} pairs have no split (first: {missing.pair_id})",
            fix="give every pair a split (train, validation, test) or none of them",
        )
    parts: dict[str, list[Preference]] = {name: [p for p in preferences if p.split == name] for name in PARTS}
    seen: dict[str, tuple[str, str]] = {}
    leaks: list[str] = []
    for name in PARTS:
        for preference in parts[name]:
            for person in sorted(people_of(preference)):
                part, pair_id = seen.setdefault(person, (name, preference.pair_id))
                if part != name:
                    leaks.append(f"person {person}: {part} (pair {pair_id}) and {name} (pair {preference.pair_id})")
    if leaks:
        listing = "\n  ".join(list(dict.fromkeys(leaks))[:20])
        raise DataError(f"{len(leaks)} identities are in two splits:\n  {listing}", fix="split by person, not by pair")
    return parts


def _grouped(
    preferences: Sequence[Preference], validation_share: float, test_share: float
) -> dict[str, list[Preference]]:
    groups = _connected(preferences)
    parts: dict[str, list[Preference]] = {name: [] for name in PARTS}
    groups.sort(key=_first_person)
    largest = max(groups, key=len, default=[])
    rest = sorted((g for g in groups if g is not largest), key=lambda group: _hash(_first_person(group)))
    wanted = {"validation": validation_share * len(preferences), "test": test_share * len(preferences)}
    parts["train"] += largest
    for group in rest:
        open_parts = [name for name in ("validation", "test") if len(parts[name]) < wanted[name]]
        parts[open_parts[0] if open_parts else "train"] += group
    return parts


def _first_person(group: Sequence[Preference]) -> str:
    return min(min(people_of(preference)) for preference in group)


def _connected(preferences: Iterable[Preference]) -> list[list[Preference]]:
    parent: dict[str, str] = {}

    def root(person: str) -> str:
        parent.setdefault(person, person)
        while parent[person] != person:
            parent[person] = parent[parent[person]]
            person = parent[person]
        return person

    preferences = list(preferences)
    for preference in preferences:
        first, *others = sorted(people_of(preference))
        for other in others:
            parent[root(other)] = root(first)
    groups: dict[str, list[Preference]] = defaultdict(list)
    for preference in preferences:
        groups[root(min(people_of(preference)))].append(preference)
    return list(groups.values())


def _by_person(
    preferences: Sequence[Preference], validation_share: float, test_share: float
) -> dict[str, list[Preference]]:
    def part_of(person: str) -> str:
        draw = _hash(person) / 2**64
        # A pair lands in a part only when all its people do: the shares of people are larger than those of pairs.
        limits = (validation_share**0.5, validation_share**0.5 + test_share**0.5)
        return "validation" if draw < limits[0] else "test" if draw < limits[1] else "train"

    parts: dict[str, list[Preference]] = {name: [] for name in PARTS}
    for preference in preferences:
        found = {part_of(person) for person in people_of(preference)}
        if len(found) == 1:
            parts[found.pop()].append(preference)
    return parts


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"split:{text}".encode()).digest()[:8], "big")

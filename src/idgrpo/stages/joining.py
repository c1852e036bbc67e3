"""Several inputs of one kind as one: clips that have the same id in two of them stay apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idgrpo.policy.clips import StoredClip, StoredPair
    from idgrpo.records.models import Sample
    from idgrpo.stages.source import Source


def join_samples(parts: "Sequence[tuple[Source, list[Sample]]]") -> "list[Sample]":
    """Join samples; the ids of later parts get the name of their source in front where they are taken."""
    names = _names(parts, [[(one.id, (one.id, one.video)) for one in found] for _, found in parts])
    return [
        one.model_copy(update={"id": name})
        for (_, found), part in zip(parts, names, strict=True)
        for one, name in zip(found, part, strict=True)
        if name is not None
    ]


def join_clips(parts: "Sequence[tuple[Source, list[StoredClip]]]") -> "list[StoredClip]":
    """Join stored clips in the same way; one video of one case is one clip, whatever its ids."""
    names = _names(parts, [[(one.id, one.shown) for one in found] for _, found in parts])
    return [
        replace(one, id=name)
        for (_, found), part in zip(parts, names, strict=True)
        for one, name in zip(found, part, strict=True)
        if name is not None
    ]


def join_pairs(parts: "Sequence[tuple[Source, list[StoredPair]]]") -> "list[StoredPair]":
    """Join preferences; the ids of later parts get the name of their source in front where they are taken.

    One pair of clips in two parts stays two preferences: two people may have said different things about it.
    """
    taken: set[str] = set()
    joined = []
    for source, found in parts:
        for one in found:
            name, number = one.id, 1
            while name in taken:
                name, number = f"{source.name}{number if number > 1 else ''}.{one.id}", number + 1
            taken.add(name)
            joined.append(replace(one, id=name))
    return joined


def _names(
    parts: Sequence[tuple["Source", object]], ids: list[list[tuple[str, tuple[str, str]]]]
) -> list[list[str | None]]:
    """Give a free id for each clip, by its own id and what it is; None for one that is there already."""
    taken: set[str] = set()
    seen: set[tuple[str, str]] = set()
    names: list[list[str | None]] = []
    for (source, _), found in zip(parts, ids, strict=True):
        part: list[str | None] = []
        for own, what in found:
            name, number = own, 1
            while name in taken:
                name, number = f"{source.name}{number if number > 1 else ''}.{own}", number + 1
            part.append(None if what in seen else name)
            if what not in seen:
                taken.add(name)
                seen.add(what)
        names.append(part)
    return names

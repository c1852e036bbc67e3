"""Who is in the video: identity, worst person, separation, margin, confusion, and the control with wrong references."""

from collections.abc import Mapping, Sequence

import numpy as np

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject, match_references


@measure("Identity", "higher", "identity")
def identity(subject: Subject) -> float:
    """Mean over the people of the case of the cosine between a person's reference and the track assigned to it,
    averaged over the track's frames; a missing person scores 0.

    One Hungarian assignment for the whole video, each reference and each track at most once, so one good face cannot
    stand for two people and nobody can change places unseen.
    """
    return float(subject.match.similarity.mean())


@measure("Worst person", "higher", "identity")
def worst(subject: Subject) -> float:
    """Smallest similarity among the people of the case; 0 when somebody is missing."""
    return float(subject.match.similarity.min())


@measure("Separation", "higher", "identity")
def separation(subject: Subject) -> float | None:
    """Identity minus confusion: mean similarity of people to their own reference minus mean similarity to the references
    of the other people; 0 when nobody is found, None for one person.

    Identity alone also rises when everybody becomes more like anybody who was asked for. Separation does not: two people
    blended into one, one person shown twice, and people who exchange identities half-way all score 0. A case with one
    person has nobody to be told apart from, so it is left out, as it is for confusion, margin and swap rate.
    """
    if subject.num_people < 2:
        return None
    return float(subject.match.similarity.mean()) - (confusion(subject) or 0.0)


@measure("Wrong references", "lower", "control")
def wrong_reference(subject: Subject) -> float | None:
    """Identity of the same video against the references of other cases, mean over a few: a control that must not rise
    with identity.

    A measure that rewards sharp or average faces rises here too.
    """
    if not subject.wrong:
        return None
    return float(np.mean([match_references(subject, references).similarity.mean() for references in subject.wrong]))


@measure("Margin", "higher", "identity", signed=True)
def margin(subject: Subject) -> float | None:
    """Matched similarity minus the best unmatched one that shares its reference or its track, mean over people found;
    None when nothing else is there to confuse.

    Low or negative when a face fits another person's reference as well as its own.
    """
    match, gaps = subject.match, []
    for person, track in enumerate(match.track_of):
        if track < 0:
            continue
        rivals = np.concatenate([np.delete(match.table[person], track), np.delete(match.table[:, track], person)])
        rivals = rivals[rivals > -1]
        if len(rivals):
            gaps.append(match.table[person, track] - rivals.max())
    return float(np.mean(gaps)) if gaps else None


@measure("Confusion", "lower", "identity", signed=True)
def confusion(subject: Subject) -> float | None:
    """Mean similarity between each found person's track and the references of the *other* people; None for one person.

    High when identities are blended or one person is shown twice.
    """
    match = subject.match
    others = [
        match.table[other, track]
        for person, track in enumerate(match.track_of)
        if track >= 0
        for other in range(subject.num_people)
        if other != person
    ]
    return float(np.mean(others)) if others else None


def wrong_cases(people: Mapping[str, Sequence[str]], num_wrong: int) -> dict[str, list[str]]:
    """Choose for each case up to `num_wrong` others whose references are the wrong ones: no shared person, as many
    people first.

    A function of the case ids alone, so base and tuned are held against the same strangers.
    """
    order = sorted(people)
    chosen: dict[str, list[str]] = {}
    for position, case in enumerate(order):
        others = [order[(position + step) % len(order)] for step in range(1, len(order))]
        apart = (other for other in others if not set(people[other]) & set(people[case]))
        alike: list[str] = []
        for other in apart:
            if len(people[other]) == len(people[case]):
                alike.append(other)
            if len(alike) == num_wrong:
                break
        if len(alike) < num_wrong:
            unlike = [o for o in others if o not in alike and not set(people[o]) & set(people[case])]
            alike += unlike[: num_wrong - len(alike)]
        chosen[case] = alike
    return chosen

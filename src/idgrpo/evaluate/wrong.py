"""Which other cases lend their references to the control."""

from collections.abc import Mapping, Sequence


def wrong_cases(people: Mapping[str, Sequence[str]], num_wrong: int) -> dict[str, list[str]]:
    """Choose for each case up to `num_wrong` others that share no person with it, as many people first.

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

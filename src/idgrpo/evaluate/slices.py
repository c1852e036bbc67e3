"""The headline measures on parts of the cases: by number of people, face size and occlusion, as the base shows them."""

from collections.abc import Callable

import numpy as np

from idgrpo.evaluate.compare import bounded_mean, paired_cases
from idgrpo.evaluate.config import EvaluateConfig
from idgrpo.evaluate.document import Report, SampleDocument, Slice
from idgrpo.evaluate.subject import Subject


def occluded_share(subject: Subject) -> float:
    """Share of frames in which two boxes overlap, or fewer people are seen than the case has."""
    seen = subject.observation
    hidden = np.bincount(seen.frame, minlength=seen.num_frames) < subject.num_people
    for frame in np.unique(seen.frame):
        box = seen.box[seen.frame == frame]
        if len(box) > 1:
            low, high = np.maximum(box[:, None, :2], box[None, :, :2]), np.minimum(box[:, None, 2:], box[None, :, 2:])
            overlap = np.clip(high - low, 0, None).prod(-1)
            np.fill_diagonal(overlap, 0)
            hidden[frame] |= bool(overlap.max() > 0)
    return float(hidden.mean())


def slice_report(report: Report, config: EvaluateConfig) -> list[Slice]:
    """Compare each tuned variant with the base within groups; face size and occlusion are halved at the base's median.

    Groups come from the base's videos: grouping by the tuned ones would select on the outcome.
    """
    base = [s for s in report.samples if s.variant == report.reference_variant]
    found: list[Slice] = []
    for by in config.slices:
        groups = _groups(base, by)
        if len(set(groups.values())) < 2:
            continue
        for variant in report.tuned_variants():
            for group in sorted(set(groups.values())):
                cases = {case for case, name in groups.items() if name == group}
                found += [s for m in report.pair() if (s := _slice(report, config, variant, m, (by, group), cases))]
    return found


def _groups(base: list[SampleDocument], by: str) -> dict[str, str]:
    """Name the group of each case."""
    if by == "people":
        return {s.case_id: f"{len(s.references)} people" for s in base}
    pick: Callable[[SampleDocument], float | None] = (
        (lambda s: s.values.get("face_area")) if by == "face_size" else (lambda s: s.occluded_share)
    )
    names = ("smaller faces", "larger faces") if by == "face_size" else ("less occlusion", "more occlusion")
    numbers: dict[str, list[float]] = {}
    for sample in base:
        value = pick(sample)
        if value is not None:
            numbers.setdefault(sample.case_id, []).append(value)
    if not numbers:
        return {}
    means = {case: float(np.mean(values)) for case, values in numbers.items()}
    middle = float(np.median(list(means.values())))
    return {case: names[int(value > middle)] for case, value in means.items()}


def _slice(
    report: Report, config: EvaluateConfig, variant: str, measure: str, part: tuple[str, str], cases: set[str]
) -> Slice | None:
    rows = {
        name: {(s.case_id, s.seed): s.values for s in report.samples if s.variant == name and s.case_id in cases}
        for name in (report.reference_variant, variant)
    }
    shared, before, after = paired_cases(rows[report.reference_variant], rows[variant], measure)
    if not shared:
        return None
    return Slice(
        variant=variant,
        measure=measure,
        by=part[0],
        group=part[1],
        base=float(before.mean()),
        tuned=float(after.mean()),
        difference=bounded_mean(after - before, config.statistics),
    )

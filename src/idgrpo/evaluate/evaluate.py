"""The stage: samples of a base and of tuned policies -> a report."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from idgrpo.errors import DataError
from idgrpo.evaluate.cache import ObservationCache
from idgrpo.evaluate.compare import compare, paired_cases, variant_means
from idgrpo.evaluate.config import EvaluateConfig, PairLaw
from idgrpo.evaluate.diagnostics import diagnose
from idgrpo.evaluate.document import Report, SampleDocument, VariantDocument
from idgrpo.evaluate.gather import ReferenceBook, Seen, deal_out, gather
from idgrpo.evaluate.identity import wrong_cases
from idgrpo.evaluate.measure import Measure, load_measures
from idgrpo.evaluate.scorer import ClipScorer
from idgrpo.evaluate.slices import occluded_share, slice_report
from idgrpo.evaluate.statistics import cases_needed, detectable_difference, fewest_cases, implied_win_rate
from idgrpo.evaluate.subject import Subject
from idgrpo.evaluate.tracks import tracks_of
from idgrpo.people.contract import Finder, Levels, fingerprint_of, levels_of
from idgrpo.records.models import Sample
from idgrpo.run.dealing import Dealing

Key = tuple[str, int]
MAX_PROBLEMS = 20
TIMED = re.compile(r"(^|[_/.])(time|seconds?|date|utc|memory)($|[_/.])|_s$")  # `seconds_update`, `samples_per_second`


def evaluate(
    samples_by_variant: Mapping[str, Sequence[Sample]],
    finder: Finder,
    config: EvaluateConfig,
    *,
    finder_name: str = "tiny",
    scorers: Sequence[ClipScorer] = (),
    cache_folder: Path | None = None,
    curves: Mapping[str, list[dict[str, JsonValue]]] | None = None,
) -> Report:
    """Measure all samples, compare each variant with the base, and judge whether the gain is honest.

    The variant called "base" (else the first) is what others are compared with, on the cases and seeds both have.
    `curves` are rows of the runs' metrics.jsonl, shown in the report. Raises DataError for empty or disjoint variants.
    """
    reference = _check(samples_by_variant)
    measures = load_measures(config.measures)
    cache = ObservationCache(cache_folder, fingerprint_of(finder), config.finding)
    book = ReferenceBook(finder, cache)
    _check_photos(samples_by_variant, book)
    everything = [sample for samples in samples_by_variant.values() for sample in samples]
    _embed_references(everything, book)
    seen = gather(everything, finder, scorers, cache, book, config.finding)
    documents = _measure_all(samples_by_variant, seen, book, measures, scorers, config, levels_of(finder))
    infos = [m.info for m in measures.values()] + [s.info for s in scorers]
    values = {
        variant: {(d.case_id, d.seed): d.values for d in documents if d.variant == variant}
        for variant in samples_by_variant
    }
    infos = [i for i in infos if any(row.get(i.name) is not None for rows in values.values() for row in rows.values())]
    names = [info.name for info in infos]
    headline = config.headline if config.headline in names else names[0]
    headlines = [headline, *(n for n in (config.companion,) if n in names and n != headline)]
    report = Report(
        title=config.page.title,
        finder=finder_name,
        headline=headline,
        headlines=headlines,
        reference_variant=reference,
        variants=[_variant(name, samples) for name, samples in samples_by_variant.items()],
        num_cases=len({sample.case_id for sample in everything}),
        num_seeds=len({sample.seed for sample in everything}),
        measures=infos,
        means={variant: variant_means(rows, names, config.statistics) for variant, rows in values.items()},
        comparisons={
            variant: compare(values[reference], rows, infos, config.statistics, headlines)
            for variant, rows in values.items()
            if variant != reference
        },
        reward_win_rate=_implied(values, reference, config.pair_law or PairLaw()),
        notes=_notes(values, reference) + _law_notes(config.pair_law, names),
        curves={name: [_untimed(row) for row in rows] for name, rows in (curves or {}).items()},
        samples=documents,
    )
    extra = {
        "slices": slice_report(report, config),
        "diagnostics": diagnose(report),
        "power_note": _power(values, report, config),
    }
    return report.model_copy(update=extra)


def look_ahead(
    samples_by_variant: Mapping[str, Sequence[Sample]],
    finder: Finder,
    config: EvaluateConfig,
    cache_folder: Path,
    dealing: Dealing,
    *,
    scorers: Sequence[ClipScorer] = (),
) -> None:
    """Find people and score together with other processes; `evaluate` with the same arguments then only measures."""
    _check(samples_by_variant)
    cache = ObservationCache(cache_folder, fingerprint_of(finder), config.finding)
    book = ReferenceBook(finder, cache)
    _check_photos(samples_by_variant, book)
    everything = [sample for samples in samples_by_variant.values() for sample in samples]
    _embed_references(everything, book)
    deal_out(everything, finder, scorers, cache, book, config.finding, dealing)


def _check(samples_by_variant: Mapping[str, Sequence[Sample]]) -> str:
    """Name the variant all others are compared with; DataError for what cannot be compared."""
    if not samples_by_variant or not all(samples_by_variant.values()):
        empty = [name for name, samples in samples_by_variant.items() if not samples] or ["no variant"]
        raise DataError(f"nothing to evaluate: {', '.join(empty)} has no samples", fix="make some with `idgrpo sample`")
    for name, samples in samples_by_variant.items():
        keys = [(s.case_id, s.seed) for s in samples]
        doubled = sorted({k for k in keys if keys.count(k) > 1}) if len(set(keys)) < len(keys) else []
        if doubled:
            raise DataError(f"{name}: case {doubled[0][0]!r} with seed {doubled[0][1]} is there more than once")
    reference = "base" if "base" in samples_by_variant else next(iter(samples_by_variant))
    base = {(s.case_id, s.seed) for s in samples_by_variant[reference]}
    for name, samples in samples_by_variant.items():
        if not base & {(s.case_id, s.seed) for s in samples}:
            raise DataError(
                f"{reference} and {name} have no case and seed in common, so they cannot be compared",
                fix="sample both on the same cases with the same seeds",
            )
    return reference


def _check_photos(samples_by_variant: Mapping[str, Sequence[Sample]], book: ReferenceBook) -> None:
    """Refuse samples of one case id that were asked for different photos: their measures cannot be paired.

    Photos are compared by content, so copies of a case in other folders are fine.
    """
    first: dict[str, tuple[str, Sample, list[list[list[str]]]]] = {}
    for variant, samples in samples_by_variant.items():
        for sample in samples:
            photos = [[[book.digest(p) for p in paths] for paths in (r.images, r.second)] for r in sample.references]
            known, other, theirs = first.setdefault(sample.case_id, (variant, sample, photos))
            if photos != theirs:
                raise DataError(
                    f"case {sample.case_id!r}: {known} and {variant} were made for different reference photos "
                    f"({_photo_names(other)} against {_photo_names(sample)})",
                    fix="sample both from the same cases, or give changed cases new ids",
                )


def _embed_references(samples: Sequence[Sample], book: ReferenceBook) -> None:
    """Embed all photos before the first clip is looked at; DataError names every one that is no reference."""
    problems: dict[str, DataError] = {}
    for path in dict.fromkeys(p for sample in samples for r in sample.references for p in (*r.images, *r.second)):
        try:
            book.embed([path])
        except DataError as error:
            problems[path] = error
    if problems:
        first, *_ = problems.values()
        more = f"\n  and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        lines = [error.message for error in problems.values()][:MAX_PROBLEMS]
        raise DataError("\n  ".join(lines) + more, fix=first.fix or "`idgrpo cases --check` looks at all photos")


def _photo_names(sample: Sample) -> str:
    return ", ".join(f"{r.person}: {' '.join([*r.images, *r.second])}" for r in sample.references)


def _measure_all(
    samples_by_variant: Mapping[str, Sequence[Sample]],
    seen: Sequence[Seen],
    book: ReferenceBook,
    measures: Mapping[str, Measure],
    scorers: Sequence[ClipScorer],
    config: EvaluateConfig,
    levels: Levels | None,
) -> list[SampleDocument]:
    cases = {s.sample.case_id: s.sample for s in seen}
    embedded = {case: np.stack([book.embed(r.images) for r in s.references]) for case, s in cases.items()}
    marked = {s.sample.case_id for s in seen if s.observation is not None and s.observation.print.any()}
    prints = {case: tuple(book.prints(r.images) for r in cases[case].references) for case in marked}
    second = {case: _second(book, sample, embedded[case]) for case, sample in cases.items()}
    wrong = wrong_cases({c: [r.person for r in s.references] for c, s in cases.items()}, config.statistics.num_wrong)
    names = [name for name, samples in samples_by_variant.items() for _ in samples]
    documents = []
    for variant, known in zip(names, seen, strict=True):
        case = known.sample.case_id
        assert known.observation is not None  # `gather` has completed everything
        subject = Subject(
            known.observation,
            embedded[case],
            second[case],
            tuple(embedded[other] for other in wrong[case]),
            config.finding.min_track_share,
            levels,
            prints.get(case, ()),
        )
        documents.append(_document(variant, known, subject, measures, scorers))
    return documents


def _document(
    variant: str, known: Seen, subject: Subject, measures: Mapping[str, Measure], scorers: Sequence[ClipScorer]
) -> SampleDocument:
    values = {name: function(subject) for name, function in measures.items()}
    people = {"identity": [round(float(v), 6) for v in subject.match.similarity]}
    for scorer in scorers:
        scores = known.scores.get(scorer.info.name)
        values[scorer.info.name] = float(np.mean(scores)) if scores else None
        if scores and len(scores) == subject.num_people > 1:
            people[scorer.info.name] = scores
    sample = known.sample
    return SampleDocument(
        variant=variant,
        case_id=sample.case_id,
        seed=sample.seed,
        prompt=sample.prompt,
        video=sample.video,
        references=[list(r.images) for r in sample.references],
        values={name: None if v is None else float(v) for name, v in values.items()},
        people=people,
        occluded_share=occluded_share(subject),
        persons=[r.person for r in sample.references],
        fps=subject.observation.fps,
        num_frames=subject.observation.num_frames,
        tracks=tracks_of(subject),
    )


def _second(book: ReferenceBook, sample: Sample, references: np.ndarray) -> np.ndarray | None:
    """Embed second photos [n, e], NaN rows where a person has none; None when nobody has."""
    if not any(r.second for r in sample.references):
        return None
    rows = np.full_like(references, np.nan)
    for index, reference in enumerate(sample.references):
        if reference.second:
            rows[index] = book.embed(reference.second)
    return rows


def _variant(name: str, samples: Sequence[Sample]) -> VariantDocument:
    return VariantDocument(name=name, base=samples[0].base, policy=samples[0].policy, num_samples=len(samples))


def _implied(
    values: Mapping[str, Mapping[Key, Mapping[str, float | None]]], reference: str, law: PairLaw
) -> dict[str, float]:
    """Give the win rate against the base that the reward gap implies, by variant; empty without a reward."""
    implied = {}
    for variant, rows in values.items():
        if variant != reference:
            cases, before, after = paired_cases(values[reference], rows, "reward")
            if cases:
                implied[variant] = implied_win_rate(after - before, law)
    return implied


def _notes(values: Mapping[str, Mapping[Key, Mapping[str, float | None]]], reference: str) -> list[str]:
    """Say what was left out of the paired comparison and why."""
    notes = []
    for variant, rows in values.items():
        alone = len(set(values[reference]) ^ set(rows))
        if alone:
            notes.append(
                f"{alone} videos of {reference} or {variant} have no partner with the same case and seed: not compared"
            )
        failed = sum(1 for row in rows.values() if "reward" in row and row["reward"] is None)
        if failed:
            notes.append(f"{failed} videos of {variant} have no reward: the reward model failed on them")
    return notes


def _law_notes(law: PairLaw | None, names: Sequence[str]) -> list[str]:
    """Say so where the implied win rate is not the reward model's own statement."""
    if law is None or law.loss != "margin" or "reward" not in names:
        return []
    return ["the reward model's margin loss states no probabilities: its implied win rate is read as Bradley-Terry's"]


def _untimed(row: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Leave out what a clock measured: the same run on another day is the same run."""
    return {name: value for name, value in row.items() if not TIMED.search(name)}


def _power(
    values: Mapping[str, Mapping[Key, Mapping[str, float | None]]], report: Report, config: EvaluateConfig
) -> str:
    """Say what differences this number of cases can show at all."""
    level, sentences = config.statistics.level, []
    for variant in report.tuned_variants():
        for name in report.pair():
            cases, before, after = paired_cases(values[report.reference_variant], values[variant], name)
            smallest = detectable_difference(after - before, level) if cases else None
            if smallest is None:
                sentences.append(
                    f"{variant}: {len(cases)} cases are too few to bound a difference in {name} or to call it significant; "
                    f"{fewest_cases(level)} are needed at least."
                )
                continue
            needed = cases_needed(after - before, 0.05 * before.mean(), level)
            more = f" A difference of 5 % of the base would need {needed} cases." if (needed or 0) > len(cases) else ""
            sentences.append(
                f"{variant}: with {len(cases)} cases, true differences in {name} above {smallest:.3f} are seen "
                f"in 80 % of evaluations.{more}"
            )
    return " ".join(sentences)

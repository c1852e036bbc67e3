"""Make pairs: which two clips of one case are compared, and which of them is called `a`."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from idgrpo.annotate.config import PairsConfig
from idgrpo.errors import DataError
from idgrpo.records.models import Pair, Sample
from idgrpo.run.draws import seed_of


def make_pairs(
    samples: Iterable[Sample], config: PairsConfig, *, scores: Mapping[str, float] | None = None
) -> Iterator[Pair]:
    """Pair samples of the same case, case by case in the order met.

    Which clip is `a` is a fair draw from (seed, pair), so that neither side stands for one generator. With `scores`
    (sample id -> a reward model's score) the `per_case` pairs with the smallest score difference are kept: those the
    model is least sure of; without, a draw. A pair id is a digest: it does not name the generators.

    Errors: DataError if no two samples may meet, or a score is missing.
    """
    by_case: dict[str, list[Sample]] = {}
    for sample in samples:
        by_case.setdefault(sample.case_id, []).append(sample)
    num_pairs = 0
    for case_id, members in by_case.items():
        for first, second in _chosen(case_id, members, config, scores):
            num_pairs += 1
            yield _pair(first, second, config)
    if num_pairs == 0:
        most = max((len(members) for members in by_case.values()), default=0)
        raise DataError(
            f"no pair can be made: {len(by_case)} cases, at most {most} samples of one case, across={config.across!r}",
            fix="give several seeds (idgrpo sample --num-per-case 2), several --samples, or --set pairs.across=any",
        )


def _chosen(
    case_id: str, members: list[Sample], config: PairsConfig, scores: Mapping[str, float] | None
) -> list[tuple[Sample, Sample]]:
    ordered = sorted(members, key=_sample_key)
    candidates = [
        (a, b)
        for a, b in combinations(ordered, 2)
        if _sample_key(a) != _sample_key(b) and _may_meet(a, b, config.across)
    ]
    if config.per_case is None:
        return candidates

    def rank(pair: tuple[Sample, Sample]) -> tuple[float, int]:
        draw = seed_of("annotate-pairs", config.seed, case_id, pair_id(*pair, config.dimension))
        if scores is None:
            return 0.0, draw
        return abs(_score(scores, pair[0]) - _score(scores, pair[1])), draw

    kept = {id(pair) for pair in sorted(candidates, key=rank)[: config.per_case]}
    return [pair for pair in candidates if id(pair) in kept]


def _score(scores: Mapping[str, float], sample: Sample) -> float:
    if sample.id not in scores:
        raise DataError(f"sample {sample.id!r} has no score", fix="score every sample, or leave out --least-sure")
    return scores[sample.id]


def _may_meet(a: Sample, b: Sample, across: str) -> bool:
    if across == "base":
        return a.base != b.base
    if across == "policy":
        return a.policy != b.policy
    if across == "source":
        return (a.base, a.policy) != (b.base, b.policy)
    return True


def _sample_key(sample: Sample) -> tuple[str, str, str, int, str]:
    return sample.base, sample.policy or "", sample.id, sample.seed, sample.video


def pair_id(a: Sample, b: Sample, dimension: str) -> str:
    """Name a pair by a digest of its two samples, the same whichever comes first.

    Paths stay out of it, so that the same samples give the same ids in another folder.
    """
    sides = sorted(
        "\x1f".join((sample.id, sample.base, sample.policy or "", str(sample.seed), sample.case_id))
        for sample in (a, b)
    )
    return hashlib.sha256("\x1e".join((*sides, dimension)).encode()).hexdigest()[:20]


def _pair(first: Sample, second: Sample, config: PairsConfig) -> Pair:
    name = pair_id(first, second, config.dimension)
    a, b = (first, second) if seed_of("annotate-orientation", config.seed, name) % 2 == 0 else (second, first)
    return Pair(
        pair_id=name,
        case_id=a.case_id,
        prompt=a.prompt,
        references=a.references,
        video_a=a.video,
        video_b=b.video,
        dimension=config.dimension,
        origin={"a": _origin(a), "b": _origin(b)},
    )


def _origin(sample: Sample) -> dict[str, str | int | None]:
    return {"sample": sample.id, "base": sample.base, "policy": sample.policy, "seed": sample.seed}

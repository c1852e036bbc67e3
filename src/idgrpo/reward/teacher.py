"""The teacher: a reward model of human pairs alone decides which automatic pairs are kept."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from idgrpo.errors import DataError
from idgrpo.records.models import Preference
from idgrpo.reward.metrics import Judged, best_tie_threshold, predict

AUDIT_SIZE = 20


def agrees(pair: Judged, tie_threshold: float) -> bool:
    """Tell whether the teacher supports a label: the same side for a decided pair, a small gap for a tie."""
    if pair.label == "tie":
        return predict(pair.gap, tie_threshold) == "tie"
    return predict(pair.gap, 0.0) == pair.label


def filter_by_teacher(
    training: Sequence[Preference],
    validation: Sequence[Preference],
    *,
    fit: Callable[[Sequence[Preference]], None],
    judge: Callable[[Sequence[Preference]], list[Judged]],
    seed: int,
) -> tuple[list[Preference], dict]:
    """Keep all human pairs and the automatic ones that a model of the human pairs agrees with.

    Args:
        fit: trains the teacher on pairs.
        judge: the teacher's gap for each pair.

    Returns:
        The kept pairs in their old order, and a report: kept share in all and by distortion, the teacher's tie
        threshold, and a sample of kept and dropped pairs for a person to look at.

    Source: Identity-GRPO (arXiv 2510.14256): about 48 % of its automatic pairs were kept.
    """
    human = [p for p in training if p.source == "human"]
    automatic = [p for p in training if p.source != "human"]
    if not human or not automatic:
        raise DataError(
            f"a teacher needs human and automatic pairs: {len(human)} and {len(automatic)} are there",
            fix="use data.teacher=false",
        )
    fit(human)
    threshold = best_tie_threshold(judge([p for p in validation if p.source == "human"] or list(validation)))
    judged = judge(automatic)
    kept = {pair.preference.pair_id for pair in judged if agrees(pair, threshold)}
    result = [p for p in training if p.source == "human" or p.pair_id in kept]
    return result, _report(judged, kept, threshold, seed)


def _report(judged: Sequence[Judged], kept: set[str], threshold: float, seed: int) -> dict:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for pair in judged:
        by_kind[pair.preference.distortion or pair.preference.source].append(pair.preference.pair_id in kept)
    rng = random.Random(f"teacher-audit:{seed}")
    sample = rng.sample(list(judged), min(AUDIT_SIZE, len(judged)))
    return {
        "num_automatic": len(judged),
        "num_kept": len(kept),
        "kept_share": len(kept) / len(judged),
        "kept_share_by_distortion": {kind: sum(flags) / len(flags) for kind, flags in sorted(by_kind.items())},
        "tie_threshold": threshold,
        "audit": [
            {
                "pair_id": p.preference.pair_id,
                "video_a": p.preference.video_a,
                "video_b": p.preference.video_b,
                "label": p.preference.label,
                "distortion": p.preference.distortion,
                "teacher_gap": p.gap,
                "kept": p.preference.pair_id in kept,
            }
            for p in sample
        ],
    }

"""Judge pairs with the network in training, and measure it on people it never saw."""

import random
from collections.abc import Sequence

import torch

from idgrpo.records.preference import Preference
from idgrpo.reward.data import clips_of
from idgrpo.reward.features import features_of
from idgrpo.reward.metrics import Judged, best_tie_threshold, report
from idgrpo.reward.probes import run_probes
from idgrpo.reward.score import RewardModel
from idgrpo.reward.session import Session


def judge(session: Session, preferences: Sequence[Preference]) -> list[Judged]:
    """Return the model's gap for each pair."""
    clips = [clip for p in preferences for clip in clips_of(p)]
    features = session.features
    if any(clip not in features for clip in clips):
        features = features_of(clips, session.network, session.builder, batch=session.config.score_batch)
    if not clips:
        return []
    with torch.inference_mode():
        rows = torch.stack([features[clip] for clip in clips]).to(session.network.head.weight.device)
        scores = session.network.score_features(rows).tolist()
    return [Judged(p, scores[2 * i] - scores[2 * i + 1]) for i, p in enumerate(preferences)]


def measure(session: Session, parts: dict[str, list[Preference]], *, num_training: int) -> dict:
    """Measure on validation and test people; the tie threshold comes from validation alone.

    `measured_on` names the part that the model's figures are quoted from: test, or validation where
    that has none. The training part is measured on at most 2,000 of its pairs, to show over-fitting.
    """
    theta = session.config.loss.theta if session.config.loss.name == "rao_kupper" else 1.0
    validation = judge(session, parts["validation"])
    threshold = best_tie_threshold(validation)
    some = parts["train"]
    if len(some) > 2000:
        some = random.Random(session.config.seed).sample(some, 2000)
    test = judge(session, parts["test"])
    measured_on = "test" if any(pair.label != "tie" for pair in test) else "validation"
    model = RewardModel(session.network, session.builder, {}, batch=session.config.score_batch)
    return {
        "tie_threshold": threshold,
        "num_training_pairs": num_training,
        "measured_on": measured_on,
        "validation": report(validation, threshold, theta),
        "test": report(test, threshold, theta),
        "train": report(judge(session, some), threshold, theta),
        "probes": run_probes(model, test if measured_on == "test" else validation, seed=session.config.seed),
    }

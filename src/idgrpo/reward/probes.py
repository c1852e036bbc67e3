"""Probes: small changes whose effect on an honest score is known beforehand; reported as pass rates."""

import random
from collections.abc import Sequence

from torch import Tensor

from idgrpo.records.models import Preference
from idgrpo.reward.data import clips_of, frozen_copy, read_clip
from idgrpo.reward.inputs import SeenClip
from idgrpo.reward.metrics import Judged
from idgrpo.reward.preprocess import Preprocessing
from idgrpo.reward.score import RewardFailure, RewardModel, Score, one_for_all, score_sets
from idgrpo.reward.splits import people_of

ORDER_TOLERANCE = 1e-4
PART = 16  # clips at once
MISSING = ("drop", "missing", "occlude", "remove")
Material = tuple[Preference, SeenClip, list[Tensor]]


def run_probes(model: RewardModel, judged: Sequence[Judged], *, seed: int = 0, limit: int = 100) -> dict[str, dict]:
    """Probe a model on the preferred clips of decided pairs of people it never saw.

    - reference_order: references in reverse order change the score by at most 1e-4.
    - stranger_reference: with one photo replaced by a person of another case, the score falls.
    - one_for_all: with one person's photo in everybody's place, the score falls; a clip of two people is not of one twice.
    - static_copy: a clip that shows the photos, frozen, scores below the real clip.
    - missing_person: pairs whose worse clip lacks a person (distortions drop, occlude, ..) are ordered rightly.

    Returns:
        Per probe the pass rate and the number of clips; a probe without material is left out.
    """
    decided = [p.preference for p in judged if p.label != "tie"]
    chosen = random.Random(f"probes:{seed}").sample(decided, min(limit, len(decided)))
    names = ("reference_order", "stranger_reference", "one_for_all", "static_copy")
    found: dict[str, list[bool]] = {name: [] for name in names}
    material = [(preference, *_winner(preference, model.builder.settings)) for preference in chosen]
    for start in range(0, len(material), PART):
        _probe_part(model, material[start : start + PART], material, found, seed)
    missing = [p for p in judged if p.label != "tie" and _lacks_person(p.preference)]
    found["missing_person"] = [p.gap != 0 and (p.gap > 0) == (p.label == "a") for p in missing]
    return {name: {"pass_rate": sum(f) / len(f), "num_clips": len(f)} for name, f in found.items() if f}


def _probe_part(model: RewardModel, part: list[Material], material: list[Material], found: dict, seed: int) -> None:
    videos = [video for _, video, _ in part]
    prompts = [preference.prompt for preference, _, _ in part]
    sets: list[list[list[Tensor]]] = []
    asked: list[list[str]] = []
    for preference, _, photos in part:
        questions = {"plain": photos}
        if len(photos) > 1:
            draw = random.Random(f"one_for_all:{seed}:{preference.pair_id}")
            questions |= {"reference_order": photos[::-1], "one_for_all": draw.choice(one_for_all(photos))}
        if stranger := _with_stranger(preference, photos, material, seed):
            questions["stranger_reference"] = stranger
        asked.append(list(questions))
        sets.append(list(questions.values()))
    answers = score_sets(model, videos, sets, prompts)
    photos_at_rest = [
        SeenClip(frozen_copy(video.frames, photos), video.num_clip_frames, video.fps) for _, video, photos in part
    ]
    static = model.score(photos_at_rest, [photos for _, _, photos in part], prompts)
    for names, (score, *others), copy in zip(asked, answers, static, strict=True):
        if isinstance(score, RewardFailure):
            continue
        found["static_copy"].append(_below(copy, score))
        for name, other in zip(names[1:], others, strict=True):
            if name == "reference_order":
                found[name].append(not isinstance(other, RewardFailure) and abs(other - score) <= ORDER_TOLERANCE)
            else:
                found[name].append(_below(other, score))


def _below(other: Score, score: float) -> bool:
    return not isinstance(other, RewardFailure) and other < score


def _with_stranger(
    preference: Preference, photos: list[Tensor], material: list[Material], seed: int
) -> list[Tensor] | None:
    rng = random.Random(f"stranger:{seed}:{preference.pair_id}")
    own = people_of(preference)
    others = [images for other, _, images in material if not own & people_of(other)]
    if not others:
        return None
    place = rng.randrange(len(photos))
    return [*photos[:place], rng.choice(rng.choice(others)), *photos[place + 1 :]]


def _winner(preference: Preference, settings: Preprocessing) -> tuple[SeenClip, list[Tensor]]:
    return read_clip(clips_of(preference)[0 if preference.label == "a" else 1], settings)


def _lacks_person(preference: Preference) -> bool:
    return any(word in (preference.distortion or "") for word in MISSING)

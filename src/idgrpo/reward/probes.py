"""Probes: small changes whose effect on an honest score is known beforehand; reported as pass rates."""

import random
from collections.abc import Sequence

from torch import Tensor

from idgrpo.records.preference import Preference
from idgrpo.reward.copies import frozen_copy
from idgrpo.reward.data import clips_of, read_clip
from idgrpo.reward.metrics import Judged
from idgrpo.reward.score import RewardFailure, RewardModel
from idgrpo.reward.splits import people_of

ORDER_TOLERANCE = 1e-4
MISSING = ("drop", "missing", "occlude", "remove")


def run_probes(model: RewardModel, judged: Sequence[Judged], *, seed: int = 0, limit: int = 100) -> dict[str, dict]:
    """Probe a model on the preferred clips of decided pairs of people it never saw.

    - reference_order: references in reverse order change the score by at most 1e-4.
    - stranger_reference: with one photo replaced by a person of another case, the score falls.
    - static_copy: a clip that shows the photos, frozen, scores below the real clip.
    - missing_person: pairs whose worse clip lacks a person (distortions drop, occlude, ..) are ordered rightly.

    Returns:
        Per probe the pass rate and the number of clips; a probe without material is left out.
    """
    decided = [p.preference for p in judged if p.label != "tie"]
    chosen = random.Random(f"probes:{seed}").sample(decided, min(limit, len(decided)))
    found: dict[str, list[bool]] = {"reference_order": [], "stranger_reference": [], "static_copy": []}
    material = [(preference, *_winner(preference)) for preference in chosen]
    for start in range(0, len(material), 16):
        _probe_part(model, material[start : start + 16], material, found, seed)
    missing = [p for p in judged if p.label != "tie" and _lacks_person(p.preference)]
    found["missing_person"] = [p.gap != 0 and (p.gap > 0) == (p.label == "a") for p in missing]
    return {name: {"pass_rate": sum(f) / len(f), "num_clips": len(f)} for name, f in found.items() if f}


def _probe_part(model: RewardModel, part: list, material: list, found: dict[str, list[bool]], seed: int) -> None:
    videos = [video for _, video, _ in part]
    photos = [images for _, _, images in part]
    prompts = [preference.prompt for preference, _, _ in part]
    plain = model.score(videos, photos, prompts)
    reverse = model.score(videos, [images[::-1] for images in photos], prompts)
    static = model.score([frozen_copy(v, images) for v, images in zip(videos, photos, strict=True)], photos, prompts)
    swapped = [_with_stranger(preference, images, material, seed) for preference, _, images in part]
    strange = model.score(videos, [s or images for s, images in zip(swapped, photos, strict=True)], prompts)
    for index, score in enumerate(plain):
        if isinstance(score, RewardFailure):
            continue
        if len(photos[index]) > 1:
            found["reference_order"].append(_number(reverse[index], lambda r, s=score: abs(r - s) <= ORDER_TOLERANCE))
        found["static_copy"].append(_number(static[index], lambda r, s=score: r < s))
        if swapped[index] is not None:
            found["stranger_reference"].append(_number(strange[index], lambda r, s=score: r < s))


def _number(score: float | RewardFailure, test) -> bool:
    return not isinstance(score, RewardFailure) and test(score)


def _with_stranger(preference: Preference, photos: list[Tensor], material: list, seed: int) -> list[Tensor] | None:
    rng = random.Random(f"stranger:{seed}:{preference.pair_id}")
    own = people_of(preference)
    others = [images for other, _, images in material if not own & people_of(other)]
    if not others:
        return None
    place = rng.randrange(len(photos))
    return [*photos[:place], rng.choice(rng.choice(others)), *photos[place + 1 :]]


def _winner(preference: Preference) -> tuple[Tensor, list[Tensor]]:
    return read_clip(clips_of(preference)[0 if preference.label == "a" else 1])


def _lacks_person(preference: Preference) -> bool:
    return any(word in (preference.distortion or "") for word in MISSING)

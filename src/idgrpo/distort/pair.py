"""One pair from one clip: the distortion, what is balanced around it, and the label."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.controls import ARTEFACTS
from idgrpo.distort.registry import Entry, entry_of, load_distortion
from idgrpo.people.painter import Mirrored, Script

MIN_GRADED_GAP = 0.35
STEADY = "replace"
LOOKED_AT = 8
LEAST_LOST = 0.02
MOST_MOVED = 0.03
DRAWS = 4


@dataclass(frozen=True)
class PairPlan:
    """Hold every draw of one pair, made before any pixel is touched."""

    name: str
    strength: float
    tie: bool
    seed: int
    graded: float | None
    artefact: str | None
    artefact_sides: Literal["both", "better"] | None
    artefact_strength: float
    mirrored: bool
    against_steady: bool
    flipped: bool
    visible: float


@dataclass(frozen=True)
class Made:
    """Hold a finished pair. `label` speaks of a and b; `mirrored` carries the stranger who is now asked for, and its slot.

    `name` and `strength` are the distortion of the worse side; `better_by` that of the better, where it has one too.
    """

    a: torch.Tensor
    b: torch.Tensor
    label: Literal["a", "b", "tie"]
    plan: PairPlan
    name: str
    strength: float
    better_by: str | None
    graded: float | None
    artefact: str | None
    mirrored: tuple[int, Mirrored] | None


def draw_strength(config: DistortConfig, position: float, rng: np.random.Generator) -> tuple[float, bool]:
    """Draw a strength and say whether it is a tie; `position` 0..1 is the clip's place in the data (for the curriculum)."""
    tie_draw, draw = rng.random(2)
    setting = config.strength
    if tie_draw < setting.tie_share:
        return round(float(0.02 + draw * max(setting.tie_below - 0.02, 0)), 4), True
    low, high = setting.low, setting.high
    # Half of the range slides from one end to the other.
    if setting.curriculum != "none":
        place = position if setting.curriculum == "hard-first" else 1 - position
        low = low + (high - low) * 0.5 * place
        high = low + (setting.high - setting.low) * 0.5
    return round(float(low + draw * (high - low)), 4), False


def plan_pair(name: str, entry: Entry, config: DistortConfig, position: float, rng: np.random.Generator) -> PairPlan:
    """Draw everything about a pair but its pixels."""
    strength, tie = draw_strength(config, position, rng)
    graded, sides, kind, amount, mirrored, flipped, part, steady = rng.random(8)
    balance = config.balance
    artefact_sides: Literal["both", "better"] | None = None
    if entry.family != "control":
        if sides < balance.both_sides:
            artefact_sides = "both"
        elif sides < balance.both_sides + balance.better_side:
            artefact_sides = "better"
    weaker = round(float(strength * (0.2 + 0.4 * part)), 4)
    gradable = entry.graded and entry.family != "control" and not tie and strength - weaker >= MIN_GRADED_GAP
    return PairPlan(
        name=name,
        strength=strength,
        tie=tie or entry.family == "control",
        seed=int(rng.integers(2**62)),
        graded=weaker if gradable and graded < balance.graded else None,
        artefact=list(ARTEFACTS)[int(kind * len(ARTEFACTS))] if artefact_sides else None,
        artefact_sides=artefact_sides,
        artefact_strength=round(float(0.3 + 0.7 * amount), 4),
        mirrored=bool(mirrored < balance.mirrored),
        against_steady=bool(
            entry.family == "identity" and not entry.steady and not tie and steady < balance.unsteady_better
        ),
        flipped=bool(flipped < 0.5),
        visible=config.strength.visible if entry.family == "identity" and not tie else 0.0,
    )


def _with_artefacts(
    scene: Scene, plan: PairPlan, better: torch.Tensor, worse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the planned artefact on both sides (at different places) or on the better one."""
    if plan.artefact is None:
        return better, worse
    artefact = ARTEFACTS[plan.artefact]
    first, second = (np.random.default_rng((plan.seed, k)) for k in (1, 2))
    better = artefact(replace(scene, clip=better), plan.artefact_strength, first)
    if plan.artefact_sides == "both":
        worse = artefact(replace(scene, clip=worse), plan.artefact_strength, second)
    return better, worse


def _against_steady(scene: Scene, plan: PairPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """Let a clip in which somebody is wrong for a while win against one in which a stranger is there all the time.

    Otherwise every change within a clip is on the worse side, and no reference is needed to tell it. At half strength two people
    are wrong for at most a quarter of the frames, or one for half of them; the stranger makes one wrong in all. Equal draws begin
    with the same person and the same stranger: two strangers could be unlike the person by more than the frames make up for.
    """
    better = load_distortion(plan.name)(scene, plan.strength / 2, np.random.default_rng(plan.seed)).worse
    worse = load_distortion(STEADY)(scene, 1.0, np.random.default_rng(plan.seed)).worse
    return better, worse


def visible_change(scene: Scene, better: torch.Tensor, worse: torch.Tensor, script: Script | None = None) -> float:
    """Return how much of the person who changes most differs between two clips uint8 [frame, 3, h, w], in 0..1.

    The mean over frames of the difference (of 255, largest channel) summed over the person's pixels, divided by the largest
    area that the person has: half of someone turning from black to white in every second frame is 0.25. A painter whose regions
    are faces looks at the parts that a script recolours, too.
    """
    change = (better.short() - worse.short()).abs().amax(1) / 255
    seen = torch.einsum("thw,tshw->ts", change, scene.regions)
    largest = scene.regions.sum((2, 3)).amax(0).clamp(min=1)
    shown = float((seen.mean(0) / largest).max())
    parts = getattr(scene.painter, "share_changed", None)
    return shown if script is None or parts is None else max(shown, parts(change, script))


def identity_lost(scene: Scene, better: torch.Tensor, worse: torch.Tensor) -> float:
    """Return how much less alike to the reference the person is who changes most on the worse side; 0 without a measure.

    In 0..1 (1: from the reference itself to a stranger in every frame); below 0 where that person is more alike. At most `LOOKED_AT`
    of the frames that differ are looked at. A face can change entirely with few grey levels.
    """
    if scene.likeness is None:
        return 0.0
    differ = [int(t) for t in (better != worse).flatten(1).any(1).nonzero()[:, 0]]
    chosen = [
        differ[k] for k in np.unique(np.linspace(0, len(differ) - 1, min(LOOKED_AT, len(differ))).round().astype(int))
    ]
    lost = scene.likeness(better, chosen) - scene.likeness(worse, chosen)
    known = ~np.isnan(lost)
    means = np.where(known, lost, 0).sum(0) / np.maximum(known.sum(0), 1)
    return float(means[np.abs(means).argmax()]) * len(differ) / len(better)


def _need_order(
    scene: Scene, plan: PairPlan, better: torch.Tensor, worse: torch.Tensor, script: Script | None, less_alike: bool
) -> None:
    """Refuse a pair that does not show its order: too few pixels change, or the finder sees nobody less alike on the worse side.

    The finder is asked about every distortion that is meant to lower likeness (a pasted reference raises it): other hair can bring
    a face nearer to its photo, and then the label would be wrong.
    """
    seen = visible_change(scene, better, worse, script) >= plan.visible
    if scene.likeness is None or (seen and not less_alike):
        if not seen:
            raise NotShown("the change hardly shows in this clip")
        return
    lost = identity_lost(scene, better, worse)
    if not seen and lost < plan.visible:
        raise NotShown("the change hardly shows in this clip")
    if less_alike and lost < LEAST_LOST:
        raise NotShown("the finder sees nobody less alike to the reference")


def _need_likeness(scene: Scene, better: torch.Tensor, worse: torch.Tensor) -> None:
    """Refuse a control that the finder takes for somebody less, or more, alike: its tie would teach what is not so."""
    if abs(identity_lost(scene, better, worse)) > MOST_MOVED:
        raise NotShown("the finder sees somebody changed: no control")


class NotShown(NotPossible):
    """A pair that does not show what its label says: another draw of people and parts may."""


def make_pair(scene: Scene, plan: PairPlan) -> Made:
    """Make the pixels of a planned pair.

    Where a finder judges and sees no order (or in a control, somebody changed), other people and parts are drawn, `DRAWS` times in all: it may be blind to hair and
    see eyes. The seed of the draw that was taken stands in the result. Raises NotPossible when the clip does not allow it, or when
    both sides come out equal though they should not.
    """
    refused: NotPossible | None = None
    judged = plan.visible or entry_of(plan.name).family == "control"
    for draw in range(DRAWS if scene.likeness is not None and judged else 1):
        seed = plan.seed if draw == 0 else int(np.random.default_rng((plan.seed, draw)).integers(2**62))
        try:
            return _drawn_pair(scene, replace(plan, seed=seed))
        except NotShown as error:
            refused = refused or error
    assert refused is not None  # at least one draw was made
    raise refused


def _drawn_pair(scene: Scene, plan: PairPlan) -> Made:
    """Make the pair of one draw."""
    name, strength, better_by = plan.name, plan.strength, None
    graded, mirrored, script = None, None, None
    if plan.against_steady:
        better, worse = _against_steady(scene, plan)
        name, strength, better_by = STEADY, 1.0, plan.name
    else:
        distortion = load_distortion(plan.name)
        outcome = distortion(scene, plan.strength, np.random.default_rng(plan.seed))
        better, worse, script = outcome.better, outcome.worse, outcome.script
        if plan.graded is not None:
            less = distortion(scene, plan.graded, np.random.default_rng(plan.seed)).worse
            if not torch.equal(less, worse):
                better, graded, better_by = less, plan.graded, plan.name
        if outcome.stranger is not None and plan.mirrored and graded is None:
            slot, stranger = outcome.stranger
            asked = scene.painter.mirrored(slot, stranger, scene.prompt)
            if asked is not None:
                better, worse, mirrored = worse, better, (slot, asked)
    if torch.equal(better, worse):
        raise NotPossible("the strength changes nothing in this clip")
    if plan.visible:
        # Of a mirrored pair, the side with the stranger has won; the references of the scene are those of the other.
        sides = (better, worse) if mirrored is None else (worse, better)
        _need_order(scene, plan, *sides, script, entry_of(name).less_alike)
    if entry_of(name).family == "control":
        _need_likeness(scene, better, worse)
    better, worse = _with_artefacts(scene, plan, better, worse)
    a, b = (worse, better) if plan.flipped else (better, worse)
    label: Literal["a", "b", "tie"] = "tie" if plan.tie else ("b" if plan.flipped else "a")
    return Made(a, b, label, plan, name, strength, better_by, graded, plan.artefact, mirrored)


def order_of_kinds(config: DistortConfig, num_people: int, has_generator: bool, rng: np.random.Generator) -> list[str]:
    """Draw the order in which kinds are tried on a clip: weighted, without repeats."""
    weights = {
        name: weight
        for name, weight in config.weights().items()
        if entry_of(name).num_people <= num_people and (has_generator or not entry_of(name).needs_generator)
    }
    names = sorted(weights)
    # Weighted order without replacement by exponential keys (Efraimidis and Spirakis 2006).
    keys = {name: rng.exponential() / weights[name] for name in names}
    return sorted(names, key=lambda name: keys[name])

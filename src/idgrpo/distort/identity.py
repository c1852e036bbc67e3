"""Distortions that change who somebody looks like, and nothing else.

Each writes a script for the painter, but for `renoise`, which goes through a generator with one reference replaced.
"""

import numpy as np
import torch

from idgrpo.distort.contract import (
    NotPossible,
    Outcome,
    Scene,
    move,
    own_weights,
    repaint,
    some_slots,
    some_stranger,
    window,
)
from idgrpo.people.painter import Identity, Script

MAX_SHARED = 0.25  # of the smaller of two people's pixels
# Below half of the noise the clip decides who is seen, whatever the references say (measured on the embedded world).
LOWEST_LEVEL, HIGHEST_LEVEL = 0.5, 0.85


def _all(scene: Scene) -> np.ndarray:
    return np.arange(scene.num_frames)


def swap(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Exchange two people in the whole clip; the strength is the mix.

    Wrong only where the prompt says who does what: a measure that matches tracks to references once per video is blind to it.
    """
    a, b = some_slots(scene, 2, rng)
    weights, identities = own_weights(scene)
    move(weights, _all(scene), a, b, strength)
    move(weights, _all(scene), b, a, strength)
    return repaint(scene, Script(weights, identities))


def swap_late(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Exchange two people from a frame on (or up to it): half of the clip at strength 1, where confusion is largest."""
    a, b = some_slots(scene, 2, rng)
    at_end = bool(rng.integers(2))
    count = int(np.ceil(round(strength * scene.num_frames / 2, 6)))
    count = min(count, scene.num_frames // 2)
    frames = np.arange(scene.num_frames - count, scene.num_frames) if at_end else np.arange(count)
    if count:
        _need_a_jump(scene, a, b, scene.num_frames - count if at_end else count)
    weights, identities = own_weights(scene)
    move(weights, frames, a, b, 1.0)
    move(weights, frames, b, a, 1.0)
    return repaint(scene, Script(weights, identities))


def _need_a_jump(scene: Scene, a: int, b: int, frame: int) -> None:
    """Refuse to exchange two people between `frame` - 1 and `frame` where one stands in the other's place.

    Nobody would jump: two people who meet there would seem to turn back, which is not wrong.
    """
    before, after = scene.regions[frame - 1], scene.regions[frame]
    for one, other in ((a, b), (b, a)):
        shared = float(torch.minimum(before[one], after[other]).sum())
        smaller = min(float(before[one].sum()), float(after[other].sum()))
        if shared > MAX_SHARED * smaller:
            raise NotPossible("the two stand in each other's place at the change")


def exchange(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Exchange one part between two people in the whole clip (each gets the other's hair); the strength is the mix.

    One part of three or four: with half of them exchanged, who is who would be open.
    """
    a, b = some_slots(scene, 2, rng)
    part = scene.painter.parts[int(rng.integers(len(scene.painter.parts)))]
    weights, identities = own_weights(scene, Identity(a, b, (part,)), Identity(b, a, (part,)))
    move(weights, _all(scene), a, scene.num_slots, strength)
    move(weights, _all(scene), b, scene.num_slots + 1, strength)
    return repaint(scene, Script(weights, identities))


def _replace(scene: Scene, strength: float, rng: np.random.Generator, hardness: float) -> Outcome:
    (slot,) = some_slots(scene, 1, rng)
    stranger = some_stranger(scene, slot, hardness, rng)
    weights, identities = own_weights(scene, Identity(stranger))
    move(weights, _all(scene), slot, scene.num_slots, strength)
    return repaint(scene, Script(weights, identities), (slot, stranger))


def replace(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Replace one person by a stranger in the whole clip; the strength is the mix."""
    return _replace(scene, strength, rng, 0.0)


def replace_alike(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Replace one person by a look-alike: a hard negative."""
    return _replace(scene, strength, rng, 1.0)


def replace_late(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Replace one person by a stranger from a frame on; at strength 1 from the start."""
    (slot,) = some_slots(scene, 1, rng)
    stranger = some_stranger(scene, slot, 0.0, rng)
    count = int(np.ceil(round(strength * scene.num_frames, 6)))
    weights, identities = own_weights(scene, Identity(stranger))
    move(weights, np.arange(scene.num_frames - count, scene.num_frames), slot, scene.num_slots, 1.0)
    return repaint(scene, Script(weights, identities), (slot, stranger) if count == scene.num_frames else None)


def blend(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Blend two people into each other; at strength 1 both are the same half-and-half person."""
    a, b = some_slots(scene, 2, rng)
    weights, identities = own_weights(scene)
    move(weights, _all(scene), a, b, strength / 2)
    move(weights, _all(scene), b, a, strength / 2)
    return repaint(scene, Script(weights, identities))


def merge(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Make two people alike attribute by attribute; the strength is the mix.

    One of two ways is drawn. Both wear one look, each part of it from one of the two (at strength 1 nobody can say who is who);
    or both meet half-way in half of the parts or more, and keep the others.
    """
    a, b = some_slots(scene, 2, rng)
    parts = [scene.painter.parts[int(k)] for k in rng.permutation(len(scene.painter.parts))]
    cut, meet = int(rng.integers(1, max(len(parts), 2))), bool(rng.integers(2))
    if meet:
        shared = tuple(parts[:cut] if 2 * cut > len(parts) else parts[cut:])
        weights, identities = own_weights(scene, Identity(a, b, shared), Identity(b, a, shared))
        move(weights, _all(scene), a, scene.num_slots, strength / 2)
        move(weights, _all(scene), b, scene.num_slots + 1, strength / 2)
    else:
        weights, identities = own_weights(scene, Identity(a, b, tuple(parts[:cut])))
        move(weights, _all(scene), a, scene.num_slots, strength)
        move(weights, _all(scene), b, scene.num_slots, strength)
    return repaint(scene, Script(weights, identities))


def drift(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Let one person turn into somebody else: a mix that grows from 0 in the first frame to the strength in the last."""
    (slot,) = some_slots(scene, 1, rng)
    stranger = some_stranger(scene, slot, 0.0, rng)
    weights, identities = own_weights(scene, Identity(stranger))
    ramp = strength * np.linspace(0, 1, scene.num_frames, dtype=np.float32)
    move(weights, _all(scene), slot, scene.num_slots, ramp)
    return repaint(scene, Script(weights, identities))


def duplicate(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Give one person's look to another as well, so that one is there twice and one is missing."""
    a, b = some_slots(scene, 2, rng)
    weights, identities = own_weights(scene)
    move(weights, _all(scene), a, b, strength)
    return repaint(scene, Script(weights, identities))


def flicker(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Show another look in single frames, up to half of them; frames of small strengths are among those of large ones."""
    (slot,) = some_slots(scene, 1, rng)
    stranger = some_stranger(scene, slot, 0.0, rng)
    offset = int(rng.integers(2))
    odd = rng.permutation(np.arange(offset, scene.num_frames, 2))
    count = int(np.ceil(round(strength * len(odd), 6)))
    weights, identities = own_weights(scene, Identity(stranger))
    move(weights, np.sort(odd[:count]), slot, scene.num_slots, 1.0)
    return repaint(scene, Script(weights, identities))


def attribute(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Change one part of one person (hair, skin, clothes) to that of a stranger; the strength is the mix."""
    (slot,) = some_slots(scene, 1, rng)
    stranger = some_stranger(scene, slot, 0.0, rng)
    part = scene.painter.parts[int(rng.integers(len(scene.painter.parts)))]
    weights, identities = own_weights(scene, Identity(slot, stranger, (part,)))
    move(weights, _all(scene), slot, scene.num_slots, strength)
    return repaint(scene, Script(weights, identities))


def drop(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Leave one person out for a share of the frames; what is behind shows.

    The person is drawn; where nothing shows behind that one (who never moves), the next is tried.
    """
    slots = some_slots(scene, scene.num_slots, rng)
    frames = window(scene.num_frames, strength, rng)
    refused: NotPossible | None = None
    for slot in slots:
        weights, identities = own_weights(scene)
        weights[frames, slot, :] = 0
        try:
            return repaint(scene, Script(weights, identities))
        except NotPossible as error:
            refused = refused or error
    raise refused or NotPossible("nobody is in the clip")


def renoise(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Regenerate the clip with a stranger's portrait for one person (or another person's, when no stranger has one).

    The better side goes through the same generator with the right references and the same noise, so that the generator's look
    tells nothing. The strength is the noise level, from where references begin to count (0.5) to close to scratch (0.85).
    """
    (slot,) = some_slots(scene, 1, rng)
    draw, seed, step = int(rng.integers(2**31)), int(rng.integers(2**31)), int(rng.integers(1, max(scene.num_slots, 2)))
    if scene.regenerate is None:
        raise NotPossible("no generator at hand")
    if strength == 0:
        return Outcome(scene.clip, scene.clip)
    references = list(scene.references)
    stranger = scene.painter.stranger(slot, 0.0, draw)
    asked = None if stranger is None else scene.painter.mirrored(slot, stranger, scene.prompt)
    if asked is not None:
        references[slot] = asked.portraits[0]
    elif scene.num_slots > 1:
        references[slot] = scene.references[(slot + step) % scene.num_slots]
    else:
        raise NotPossible("no portrait of anybody else")
    level = LOWEST_LEVEL + (HIGHEST_LEVEL - LOWEST_LEVEL) * strength
    better = scene.regenerate(scene.clip, list(scene.references), scene.prompt, level, seed)
    worse = scene.regenerate(scene.clip, references, scene.prompt, level, seed)
    return Outcome(better, worse)

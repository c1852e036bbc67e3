"""A distortion through a generator: noise the clip to a level and denoise it with one reference replaced.

The better side goes through the same generator with the right references and the same noise, so that the generator's look tells
nothing.
"""

import numpy as np

from idgrpo.distort.contract import NotPossible, Outcome, Scene, some_slots

# Below half of the noise the clip decides who is seen, whatever the references say (measured on the embedded world).
LOWEST_LEVEL, HIGHEST_LEVEL = 0.5, 0.85


def renoise(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Regenerate the clip with a stranger's portrait for one person (or another person's, when no stranger has one).

    The strength is the noise level, from where references begin to count (0.5) to close to scratch (0.85).
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

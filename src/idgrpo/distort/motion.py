"""Distortions of time: they keep who is who in every single frame. Their preferences carry the dimension `motion`."""

import numpy as np

from idgrpo.distort.contract import Outcome, Scene


def freeze(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Hold one frame until the end of the clip, up to the whole clip."""
    count = round(strength * (scene.num_frames - 1))
    order = np.arange(scene.num_frames)
    order[scene.num_frames - count :] = scene.num_frames - count - 1
    return Outcome(scene.clip, scene.clip[order])


def shuffle(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Exchange frames with frames far away; the strength is the share of frames out of place."""
    draw = rng.permutation(scene.num_frames)
    count = round(strength * scene.num_frames)
    order = np.arange(scene.num_frames)
    if count >= 2:
        chosen = np.sort(draw[:count])
        order[chosen] = np.roll(chosen, max(1, count // 2))
    return Outcome(scene.clip, scene.clip[order])

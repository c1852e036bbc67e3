"""The picture as a whole: motion, sharpness, ripple, saturation. Watched so that identity is not bought with them."""

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject


@measure("Motion", "neutral", "picture")
def dynamic_degree(subject: Subject) -> float:
    """Mean magnitude of the optical flow, in frame heights per second: unsigned, so opposite motions do not cancel. 0
    for a still."""
    return subject.observation.figures["dynamic_degree"]


@measure("Sharpness", "neutral", "picture")
def sharpness(subject: Subject) -> float:
    """Mean gradient magnitude of the brightness (Tenengrad). Should stay near the base: blur lowers it, artefacts
    raise it."""
    return subject.observation.figures["sharpness"]


@measure("Ripple", "lower", "picture")
def ripple(subject: Subject) -> float:
    """Fine texture in the flattest quarter of the picture, where nature has none; rises with the ripples and
    checkerboards of over-training."""
    return subject.observation.figures["ripple"]


@measure("Saturation", "neutral", "picture")
def saturation(subject: Subject) -> float:
    """Mean spread of the colour channels; rises when a generator over-saturates."""
    return subject.observation.figures["saturation"]

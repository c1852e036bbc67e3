"""A reward, a judge, a policy loss, a step law, a control, a finder, a distortion and a measure, each as small as it can be."""

import numpy as np
import torch
from torch import Tensor

from idgrpo.annotate.config import JudgeConfig
from idgrpo.annotate.judge import Question, Reply
from idgrpo.distort.contract import Outcome, Scene, move, own_weights, repaint, some_slots
from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject
from idgrpo.people.contract import Detection
from idgrpo.people.painter import Script
from idgrpo.policy.loss import LossInputs, LossTerms


def warmth(frames: Tensor, references: list[Tensor], prompt: str) -> float | None:
    """Reward red over blue, in -1..1; no score for a clip without a picture."""
    if len(frames) == 0:
        return None
    red, _, blue = frames.float().mean((0, 2, 3)) / 255
    return float(red - blue)


class WarmerJudge:
    """Prefer the clip that is warmer."""

    name = "warmer"
    varies = False

    def __init__(self, config: JudgeConfig):
        self.config = config

    def ask(self, question: Question, num: int, seed: int) -> list[Reply]:
        left, right = (warmth(clip, [], "") for clip in (question.left, question.right))
        return [Reply("left" if left > right else "right" if right > left else "tie")] * num


def soft_clip_loss(inputs: LossInputs) -> LossTerms:
    """Compute max(-A r, -A b), b = 1 + clip tanh((r - 1) / clip): the pull fades where PPO's clip cuts it off."""
    ratio = torch.exp(inputs.log_prob - inputs.log_prob_old)
    bounded = 1 + inputs.clip * torch.tanh((ratio - 1) / inputs.clip)
    high = (inputs.advantage > 0) & (ratio > 1 + inputs.clip)
    low = (inputs.advantage < 0) & (ratio < 1 - inputs.clip)
    return LossTerms(torch.maximum(-inputs.advantage * ratio, -inputs.advantage * bounded), ratio.detach(), high, low)


def level_std(sigma: Tensor, sigma_next: Tensor, sigma_max: float, eta: float = 0.5) -> Tensor:
    """Give eta * sqrt(sigma): more noise early, less late."""
    return eta * torch.sqrt(sigma)


def brightness(clip: Tensor) -> float:
    """Average the brightness, 0..1; rises when a generator washes its pictures out."""
    return float(clip.float().mean()) / 255


class CentreFinder:
    """Find one person, always in the middle: a baseline that knows nothing but colours."""

    covers = "person"

    def find(self, clip: Tensor) -> list[list[Detection]]:
        num_frames, _, height, width = clip.shape
        box = (width / 4, 0.0, 3 * width / 4, float(height))
        middle = clip[..., width // 4 : 3 * width // 4]
        return [[Detection(k, box, 1.0, embedding=_look(middle[k]))] for k in range(num_frames)]

    def embed_reference(self, image: Tensor) -> np.ndarray:
        return _look(image)


def _look(image: Tensor) -> np.ndarray:
    """Give the mean colour as a unit vector [3]."""
    colour = image.float().mean((1, 2)).numpy() / 255 - 0.5
    return colour / max(float(np.linalg.norm(colour)), 1e-6)


def swap_middle(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Exchange two people in the middle of the clip, for up to half of its frames."""
    a, b = some_slots(scene, 2, rng)  # refuses clips with fewer people
    count = round(strength * scene.num_frames / 2)
    first = (scene.num_frames - count) // 2
    weights, identities = own_weights(scene)  # the script that changes nothing
    move(weights, np.arange(first, first + count), a, b, 1.0)
    move(weights, np.arange(first, first + count), b, a, 1.0)
    return repaint(scene, Script(weights, identities))


@measure("Steadiest person", "higher", "change")
def steadiest(subject: Subject) -> float | None:
    """One minus the spread over time of a person's similarity, of the person who changes least; None when nobody is found."""
    spreads = []
    for person, track in enumerate(subject.match.track_of):
        values = subject.cosines[subject.frames_of(track), person]
        values = values[~np.isnan(values)]
        if len(values) > 1:
            spreads.append(float(values.std()))
    return 1 - min(spreads) if spreads else None

"""The pupil and its losses: dense truth at the tokens of rendered clips, the oracle's opinion at those of generated ones."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idgrpo.reward.backbone import every_hidden_state
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.pixels import ragged_patch_rows
from idgrpo.reward.preprocess import Preprocessing
from idgrpo.reward.vision import batch_vision
from idgrpo.tinyworld.oracle import IMPORTANCE
from idgrpo.tinyworld.people import NUM_CHOICES
from idgrpo.tinyworld.training.vlm_files import MAX_PEOPLE, PREPROCESSING, WIDTH, new_model, save_vlm, tokenizer
from idgrpo.tinyworld.training.vlm_growth import deepen_language_model, deepen_tower
from idgrpo.tinyworld.training.vlm_judged import CLIPS_PER_CASE, JudgedLesson
from idgrpo.tinyworld.training.vlm_truth import CELL_PX, MIN_COVER, Lesson

DRAWN_BELOW = 220  # of 255: darker than the white behind a portrait
HOLD = 0.3  # weight of how far a grown tower's tokens moved, in units of their variance
REWARD_SCALE = 10.0  # one wrong attribute of one person changes the target by about half a unit


class DenseHeads(nn.Module):
    """Read-outs used in pre-training only."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.ModuleList(nn.Linear(WIDTH, n) for n in NUM_CHOICES)  # on the vision tower's tokens
        self.shown = nn.ModuleList(nn.Linear(WIDTH, n) for n in NUM_CHOICES)
        self.asked = nn.ModuleList(nn.Linear(WIDTH, n) for n in NUM_CHOICES)
        self.owner = nn.Linear(WIDTH, MAX_PEOPLE)
        self.same = nn.Linear(WIDTH, len(NUM_CHOICES))
        self.before = nn.ModuleList(nn.Linear(WIDTH, n) for n in NUM_CHOICES)  # in the second layer,
        self.kept = nn.Linear(WIDTH, len(NUM_CHOICES))  # in the third, for the rubric to use
        self.rubric = nn.Linear(WIDTH, 1)
        self.reward = nn.Linear(WIDTH, 1)


class Pupil(nn.Module):
    """The model, its input builder and the dense heads."""

    def __init__(self) -> None:
        super().__init__()
        words = tokenizer()
        self.model = new_model(words)
        batch_vision(self.model)
        self.heads = DenseHeads()
        settings = Preprocessing(patch_size=4, merge_size=2, temporal_patch_size=1, **PREPROCESSING)
        self.builder = InputBuilder(settings, words)
        self.shallow: tuple[nn.Module, ...] = ()  # in a tuple, for it is no part of the pupil
        self.added: tuple[nn.Module, ...] = ()

    def deepen_tower(self) -> None:
        """Let the vision tower grow by blocks that change nothing yet, and remember it as it was."""
        self.shallow = (deepcopy(self.model.model.visual).requires_grad_(False),)
        deepen_tower(self.model)

    def deepen_language_model(self) -> None:
        """Let the language model grow by layers that change nothing yet, and remember which they are."""
        self.added = tuple(deepen_language_model(self.model))

    def save(self, out: Path) -> None:
        save_vlm(self.model, self.builder.tokenizer, out)


def vision_loss(pupil: Pupil, lesson: Lesson) -> dict[str, Tensor]:
    """Stage A: the attributes of whoever covers a cell of a clip or of a portrait, read from the vision tower alone.

    A tower that has grown is also held to the tokens of the one it was, which the language model can read.
    """
    inputs = pupil.builder.build(lesson.videos, lesson.references, [""] * len(lesson.videos), order="given")
    of_clips, of_photos = _vision_tokens(pupil.model.model.visual, inputs)
    heads, owner = pupil.heads.seen, lesson.owner.flatten()
    truth = _at_owner(lesson.shown.transpose(1, 2), lesson.owner).flatten(0, 2)
    drawn = portrait_cells(lesson.references).flatten()
    asked = lesson.asked.flatten(0, 1).repeat_interleave(
        len(drawn) // (lesson.asked.shape[0] * lesson.asked.shape[1]), 0
    )
    losses = {
        "seen": _choices(heads, of_clips[owner >= 0], truth[owner >= 0]),
        "photo": 0.5 * _choices(heads, of_photos[drawn], asked[drawn]),
    }
    for tower in pupil.shallow:
        with torch.no_grad():
            before = _vision_tokens(tower, inputs)
        moved = [F.mse_loss(now, was) / was.var() for now, was in zip((of_clips, of_photos), before, strict=True)]
        losses["moved"] = HOLD * torch.stack(moved).sum()
    return losses


def _vision_tokens(tower: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the tower's tokens "token width" of the clips and of the photos."""
    clips = tower(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"]).pooler_output
    return clips, tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output


def portrait_cells(references: Tensor) -> Tensor:
    """Tell which 8 px cells of portraits uint8 [batch, person, 3, h, w] show the person: bool [batch * person, cell]."""
    drawn = (references.flatten(0, 1).amin(1) < DRAWN_BELOW).float().unsqueeze(1)
    return F.avg_pool2d(drawn, CELL_PX).flatten(1) > MIN_COVER


def reading_loss(pupil: Pupil, lesson: Lesson, *, reward_weight: float = 0.2) -> dict[str, Tensor]:
    """Stages B and C, on rendered clips: dense truth at the clip's tokens, agreement at the rubric tokens and at the reward token.

    The reward has little weight at first: a large one starves the others, and without copying the reference nothing is learnt.
    """
    heads, people = pupil.heads, lesson.asked.shape[1]
    inputs = pupil.builder.build(lesson.videos, lesson.references, [""] * len(lesson.videos), order="given")
    states = _states(pupil, inputs)
    at_clip = inputs["input_ids"] == pupil.model.config.video_token_id
    known = lesson.owner >= 0
    tokens = states.clip[at_clip].view(*lesson.owner.shape, -1)[known]
    shown = _at_owner(lesson.shown.transpose(1, 2), lesson.owner)[known]
    owner = lesson.named.gather(2, lesson.owner.clamp(min=0))
    asked = _at_owner(lesson.asked.unsqueeze(1).expand(-1, owner.shape[1], -1, -1), owner)[known]
    rubric, reward = _answers(pupil, states, inputs, people)
    agreement = lesson.agreement
    return {
        "shown": _choices(heads.shown, tokens, shown),
        "asked": 2 * _choices(heads.asked, tokens, asked),
        "owner": 2 * F.cross_entropy(heads.owner(tokens), owner[known]),
        "same": F.binary_cross_entropy_with_logits(heads.same(tokens), (shown == asked).float()),
        **_followed(heads, lesson, *(s[at_clip].view(*lesson.owner.shape, -1) for s in (states.before, states.kept))),
        "rubric": 2 * F.binary_cross_entropy_with_logits(rubric, agreement),
        "reward": reward_weight * F.smooth_l1_loss(reward, REWARD_SCALE * overall(agreement)),
        "weighed": reward_weight * _weighed(reward, rubric),
    }


def seeing_judged_loss(pupil: Pupil, frames: Tensor, shown: Tensor, owner: Tensor) -> dict[str, Tensor]:
    """Stage A on single frames of generated clips: the oracle's probabilities of whoever covers a cell, read from the vision tower alone.

    Args:
        frames, shown, owner: as `JudgedClips.frames` gives them.
    """
    rows, grids = ragged_patch_rows(list(frames.unsqueeze(1)), pupil.builder.settings)
    tokens = pupil.model.model.visual(rows, grid_thw=torch.tensor(grids)).pooler_output.view(*owner.shape, -1)
    index = owner.clamp(min=0).unsqueeze(-1).expand(-1, -1, shown.shape[-1])
    known = owner >= 0
    return {"judged_seen": _soft_choices(pupil.heads.seen, tokens[known], shown.gather(1, index)[known])}


def judged_loss(pupil: Pupil, lesson: JudgedLesson) -> dict[str, Tensor]:
    """Stage C on generated clips: as `reading_loss`, with the oracle's probabilities for truth."""
    heads, people = pupil.heads, lesson.asked.shape[1]
    inputs = pupil.builder.build(lesson.videos, lesson.references, [""] * len(lesson.videos), order="given")
    states = _states(pupil, inputs)
    known = lesson.owner >= 0
    tokens = states.clip[inputs["input_ids"] == pupil.model.config.video_token_id][known.flatten()]
    shown = _at_owner(lesson.shown, lesson.owner)[known]
    asked = _at_owner(lesson.asked.unsqueeze(1).expand(-1, lesson.owner.shape[1], -1, -1), lesson.owner)[known]
    split = shown.split(NUM_CHOICES, -1)
    same = torch.stack([p.gather(1, asked[:, k : k + 1])[:, 0] for k, p in enumerate(split)], -1)
    rubric, reward = _answers(pupil, states, inputs, people)
    told, target = (REWARD_SCALE * overall(agreement) for agreement in (rubric.sigmoid(), lesson.agreement))
    return {
        "judged_shown": _soft_choices(heads.shown, tokens, shown),
        "judged_asked": _choices(heads.asked, tokens, asked),
        "judged_owner": F.cross_entropy(heads.owner(tokens), lesson.owner[known]),
        "judged_same": F.binary_cross_entropy_with_logits(heads.same(tokens), same),
        "judged_rubric": 2 * F.binary_cross_entropy_with_logits(rubric, lesson.agreement),
        "judged_reward": F.smooth_l1_loss(reward, target),
        "judged_order": 2 * F.smooth_l1_loss(_inside_case(reward), _inside_case(target)),
        "judged_rubric_order": 2 * F.smooth_l1_loss(_inside_case(told), _inside_case(target)),
        "judged_weighed": _weighed(reward, rubric),
    }


def _weighed(reward: Tensor, rubric: Tensor) -> Tensor:
    """Return how far the reward [batch] is from what the rubric's answers [batch, person, attribute] amount to.

    The rubric knows more than one reward a clip can teach; what it still gets wrong is not the reward token's to mend.
    """
    return F.l1_loss(reward, REWARD_SCALE * overall(rubric.detach().sigmoid()))


def _inside_case(values: Tensor) -> Tensor:
    """Return how much each clip [batch] differs from the mean of its case: all that advantages and pairs look at."""
    groups = values.view(-1, CLIPS_PER_CASE)
    return groups - groups.mean(1, keepdim=True)


def _followed(heads: DenseHeads, lesson: Lesson, second: Tensor, third: Tensor) -> dict[str, Tensor]:
    """Whoever covers a cell [batch, frame, cell, width]: what the track looked like in the frame before, and whether it still does.

    The first is copied by attention to that frame, the second compares.
    """
    owner, present = lesson.owner[:, 1:], lesson.present.transpose(1, 2)[:, :-1]
    known = (owner >= 0) & (present.gather(2, owner.clamp(min=0)) > 0)
    before = _at_owner(lesson.shown.transpose(1, 2)[:, :-1], owner)[known]
    kept = _at_owner(lesson.kept.transpose(1, 2).float(), owner)[known]
    return {
        "before": 2 * _choices(heads.before, second[:, 1:][known], before),
        "kept": 2 * F.binary_cross_entropy_with_logits(heads.kept(third[:, 1:][known]), kept),
    }


@dataclass(frozen=True)
class States:
    """Normed states "batch token width" by what is read from them: each answer stands a layer before those that need it."""

    before: Tensor  # the second layer
    kept: Tensor  # the third
    clip: Tensor  # whose cell it is and whether it is as asked
    rubric: Tensor  # the last but one, where the clip's answers stand too until the language model has grown
    reward: Tensor  # the last only weighs: the reward token cannot see what the rubric tokens find out in the layer it is in


def _states(pupil: Pupil, inputs: dict[str, Tensor]) -> States:
    _, *every, last = every_hidden_state(pupil.model.model, inputs)
    _, second, third, *_ = every = [pupil.model.model.language_model.norm(state) for state in every]
    return States(second, third, every[max(3, len(every) - 2)], every[-1], last)


def _answers(pupil: Pupil, states: States, inputs: dict[str, Tensor], people: int) -> tuple[Tensor, Tensor]:
    """Return the rubric logits [batch, person, attribute] and the reward [batch]."""
    at, count = inputs["reward_index"][0], people * len(NUM_CHOICES)
    rubric = pupil.heads.rubric(states.rubric[:, at - count : at]).view(-1, people, len(NUM_CHOICES))
    return rubric, pupil.heads.reward(states.reward[:, at]).squeeze(-1)


def overall(agreement: Tensor) -> Tensor:
    """Return how well everyone is kept, in 0..1 [batch]: attributes weighted by how much people notice them."""
    return (agreement * IMPORTANCE).sum(-1).mean(1)


def _at_owner(values: Tensor, owner: Tensor) -> Tensor:
    """Pick [batch, frame, cell, attribute] out of values [batch, frame, person, attribute] by the owner of each cell."""
    index = owner.clamp(min=0).unsqueeze(-1).expand(-1, -1, -1, values.shape[-1])
    return values.gather(2, index)


def _choices(heads: nn.ModuleList, tokens: Tensor, truth: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(head(tokens), truth[:, k]) for k, head in enumerate(heads)]).mean()


def _soft_choices(heads: nn.ModuleList, tokens: Tensor, probabilities: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the heads from probabilities [token, choices of all attributes]."""
    parts = probabilities.split(NUM_CHOICES, -1)
    losses = [
        F.kl_div(F.log_softmax(head(tokens), -1), p, reduction="batchmean")
        for head, p in zip(heads, parts, strict=True)
    ]
    return torch.stack(losses).mean()

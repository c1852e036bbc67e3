"""Pre-train the tiny vision-language model on dense truth. `python -m idgrpo.tinyworld.training.vlm OUT CHECKPOINTS TARGET`

Preference labels alone cannot teach reading: one bit a pair. The world knows the truth about every token, so the model
learns it densely: A. what a cell shows; B. whose track a cell belongs to, what the reference looks like (copied by
attention) and whether they agree, then the same at one rubric token per person and attribute; C. the same on clips that
the bases make, where the oracle says what is shown. The reward token learns the overall agreement from B on, in a last layer of
its own: what the rubric tokens find out in a layer, no other token sees before the next.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from idgrpo.tinyworld.training.optimizer import TinyOptimizer
from idgrpo.tinyworld.training.vlm_judged import JudgedClips, JudgedLesson, judge_clips
from idgrpo.tinyworld.training.vlm_look import GeneratorLook
from idgrpo.tinyworld.training.vlm_losses import Pupil, judged_loss, reading_loss, seeing_judged_loss, vision_loss
from idgrpo.tinyworld.training.vlm_truth import Lesson, draw_lesson

log = logging.getLogger(__name__)

Lessons = Callable[[torch.Generator, int, int], Lesson]
BATCH = 32


@torch.no_grad()
def balance(pupil: Pupil, generator: torch.Generator) -> None:
    """Scale the vision tower's tokens to deviation 1, as the language model's own: larger ones drown what its layers add."""
    lesson = draw_lesson(generator, BATCH, 2)
    inputs = pupil.builder.build(lesson.videos, lesson.references, [""] * BATCH, order="given")
    tower = pupil.model.model.visual
    tokens = tower(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"]).pooler_output
    for parameter in tower.merger.mlp[-1].parameters():
        parameter /= tokens.square().mean().sqrt()


Losses = Callable[[Pupil, torch.Generator, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Stage:
    """One stage: `losses(pupil, generator, step)` draws a batch and returns its losses; the rates scale the optimizers'."""

    name: str
    num_steps: int
    losses: Losses
    rate: float = 1.0
    tower_rate: float = 0.0


def run_stage(pupil: Pupil, stage: Stage, seed: int) -> None:
    """Train for one stage; the vision tower has its own rate, for it is learnt first and must not be forgotten."""
    tower, rest = (
        nn.ModuleList([pupil.model.model.visual]),
        nn.ModuleList([pupil.model.model.language_model, pupil.heads]),
    )
    tower.requires_grad_(stage.tower_rate > 0)
    optimizers = [
        TinyOptimizer(module, _is_matrix, muon_lr=0.02 * rate, adam_lr=2e-3 * rate)
        for module, rate in ((rest, stage.rate), (tower, stage.tower_rate))
        if rate > 0
    ]
    generator, started = torch.Generator().manual_seed(seed), time.monotonic()
    means: dict[str, float] = {}
    for step in range(stage.num_steps):
        losses = stage.losses(pupil, generator, step)
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in optimizers:
            optimizer.step(step / stage.num_steps)
        for key, value in losses.items():
            means[key] = 0.97 * means.get(key, value.item()) + 0.03 * value.item()
        if step % 50 == 49:
            text = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
            log.info("%s %d/%d: %s, %.0f s", stage.name, step + 1, stage.num_steps, text, time.monotonic() - started)


def _is_matrix(name: str) -> bool:
    return "blocks." in name or "layers." in name or "merger.mlp" in name


def num_people(step: int) -> int:
    """Every eighth batch has three people."""
    return 3 if step % 8 == 7 else 2


def stages(looks: Lessons, judged: JudgedClips) -> list[Stage]:
    """Return the lesson plan."""

    def rendered(lessons: Lessons, loss: Callable[[Pupil, Lesson], dict[str, Tensor]]) -> Losses:
        return lambda pupil, generator, step: loss(pupil, lessons(generator, BATCH, num_people(step)))

    def mixed(share: float, loss: Callable[[Pupil, JudgedLesson], dict[str, Tensor]], otherwise: Losses) -> Losses:
        def losses(pupil: Pupil, generator: torch.Generator, step: int) -> dict[str, Tensor]:
            if torch.rand((), generator=generator) < share:
                return loss(pupil, judged.draw(generator, BATCH))
            return otherwise(pupil, generator, step)

        return losses

    seeing, reading = rendered(draw_lesson, vision_loss), rendered(draw_lesson, reading_loss)
    judging = rendered(draw_lesson, partial(reading_loss, reward_weight=1.0))
    return [
        Stage("A", 3000, seeing, rate=0.5, tower_rate=1.0),
        Stage("look", 500, rendered(looks, vision_loss), rate=0.5, tower_rate=0.5),
        Stage("B", 2500, reading),
        Stage("seen", 400, mixed(0.65, seeing_judged_loss, seeing), rate=0.5, tower_rate=0.5),
        Stage("C", 6000, mixed(0.5, judged_loss, judging), rate=0.6, tower_rate=0.1),
    ]


def train(out: Path, checkpoints: Path, target: Path, *, seed: int = 0) -> None:
    """Run all stages and write the finished model to `target`; `out` keeps the state between stages."""
    torch.manual_seed(seed)
    pupil = Pupil()
    bases = ("tiny-phantom", "tiny-vace")
    judged = judge_clips(checkpoints, out.with_name("judged.pt"), bases=bases, num_cases=1800, seed=77)
    for number, stage in enumerate(stages(GeneratorLook(checkpoints), judged)):
        state = out.with_name(f"{out.name}-{stage.name}.pt")
        if state.exists():
            pupil.load_state_dict(torch.load(state, weights_only=True))
            continue
        if stage.name == "B":
            balance(pupil, torch.Generator().manual_seed(seed))
        run_stage(pupil, stage, seed + number)
        torch.save(pupil.state_dict(), state)
    pupil.save(target)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))

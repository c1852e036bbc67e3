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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from idgrpo.tinyworld.training.optimizer import TinyOptimizer
from idgrpo.tinyworld.training.vlm_copies import with_copies
from idgrpo.tinyworld.training.vlm_heads import look_back
from idgrpo.tinyworld.training.vlm_judged import JudgedClips, judge_clips
from idgrpo.tinyworld.training.vlm_look import GeneratorLook
from idgrpo.tinyworld.training.vlm_losses import Pupil, judged_loss, reading_loss, seeing_judged_loss, vision_loss
from idgrpo.tinyworld.training.vlm_truth import Lesson, draw_lesson

log = logging.getLogger(__name__)

Lessons = Callable[[torch.Generator, int, int], Lesson]
BATCH, FRAMES_BATCH = 32, 128
THREE = 0.4  # of the batches have three people
WEIGHT_DECAY = 0.1  # of the language model; without, its layers outgrow what one step can change
NUM_CASES = {2: 500, 3: 500}  # judged cases of each base, by number of people
BASES = ("tiny-phantom", "tiny-vace")


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
class TrainingStage:
    """One stage: `losses(pupil, generator, step)` draws a batch and returns its losses; the rates scale the optimizers'.

    `added_rate` is that of layers which were added to the language model; `span` is the stage's part of one warm-up and
    cool-down, which stages may share; what goes on is the weights before moved by `share` towards those after: at small rates a
    mean is better than either.
    """

    name: str
    num_steps: int
    losses: Losses
    rate: float = 1.0
    tower_rate: float = 0.0
    added_rate: float = 0.0
    span: tuple[float, float] = (0.0, 1.0)
    share: float = 1.0


def run_stage(pupil: Pupil, stage: TrainingStage, seed: int) -> None:
    """Train for one stage; the vision tower has its own rate and no weight decay, for it is learnt first and must not be forgotten."""
    start, end = stage.span
    tower, language = pupil.model.model.visual, pupil.model.model.language_model
    old = [layer for layer in language.layers if layer not in pupil.added]
    tower.requires_grad_(stage.tower_rate > 0)
    parts = (
        ({"heads": pupil.heads, "words": language.embed_tokens, "norm": language.norm, **_named(old)}, stage.rate, WEIGHT_DECAY),
        ({"tower": tower}, stage.tower_rate, 0.0),
        (_named(pupil.added), stage.added_rate, WEIGHT_DECAY),
    )  # fmt: skip
    optimizers = [
        TinyOptimizer(nn.ModuleDict(part), _is_matrix, muon_lr=0.02 * rate, adam_lr=2e-3 * rate, weight_decay=decay)
        for part, rate, decay in parts
        if rate > 0
    ]
    generator, started = torch.Generator().manual_seed(seed), time.monotonic()
    means: dict[str, float] = {}
    for step in range(stage.num_steps):
        losses = stage.losses(pupil, generator, step)
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in optimizers:
            optimizer.step(start + (end - start) * step / stage.num_steps)
        for key, value in losses.items():
            means[key] = 0.97 * means.get(key, value.item()) + 0.03 * value.item()
        if step % 50 == 49:
            text = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
            log.info("%s %d/%d: %s, %.0f s", stage.name, step + 1, stage.num_steps, text, time.monotonic() - started)


def _named(layers: Iterable[nn.Module]) -> dict[str, nn.Module]:
    return {"layers": nn.ModuleList(layers)}


def _is_matrix(name: str) -> bool:
    return "blocks." in name or "layers." in name or "merger.mlp" in name


def how_many(generator: torch.Generator) -> int:
    """Return how many people a batch has: three in a share THREE of the batches, else two."""
    return 3 if torch.rand((), generator=generator) < THREE else 2


def stages(looks: Lessons, judged: dict[int, JudgedClips]) -> list[TrainingStage]:
    """Return the lesson plan; `judged` by number of people."""

    def rendered(lessons: Lessons, loss: Callable[[Pupil, Lesson], dict[str, Tensor]]) -> Losses:
        return lambda pupil, generator, step: loss(pupil, lessons(generator, BATCH, how_many(generator)))

    def mixed(share: float, judged_losses: Losses, otherwise: Losses) -> Losses:
        def losses(pupil: Pupil, generator: torch.Generator, step: int) -> dict[str, Tensor]:
            return (judged_losses if torch.rand((), generator=generator) < share else otherwise)(pupil, generator, step)

        return losses

    def frames(pupil: Pupil, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        return seeing_judged_loss(pupil, *judged[how_many(generator)].frames(generator, FRAMES_BATCH))

    def clips(pupil: Pupil, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        return judged_loss(pupil, with_copies(judged[how_many(generator)].draw(generator, BATCH), generator))

    def restless(generator: torch.Generator, batch: int, num_people: int) -> Lesson:
        return with_copies(draw_lesson(generator, batch, num_people, restless=1 / 3), generator)

    seeing, reading = rendered(draw_lesson, vision_loss), rendered(restless, reading_loss)
    judging = rendered(restless, partial(reading_loss, reward_weight=1.0))
    return [
        TrainingStage("A", 3000, seeing, rate=0.5, tower_rate=1.0),
        TrainingStage("look", 500, rendered(looks, vision_loss), rate=0.5, tower_rate=0.5),
        TrainingStage("seen", 400, mixed(0.65, frames, seeing), rate=0.5, tower_rate=0.5),
        TrainingStage("B", 2700, reading, span=(0.0, 0.34)),
        TrainingStage("C", 5300, mixed(0.45, clips, judging), tower_rate=0.05, span=(0.34, 1.0)),
        TrainingStage("tower", 2400, mixed(0.75, frames, seeing), tower_rate=0.5),
        TrainingStage("D", 4300, mixed(0.62, clips, judging), rate=0.7, tower_rate=0.25),
        TrainingStage("E", 1400, mixed(0.68, clips, judging), rate=0.3, tower_rate=0.1, span=(0.58, 1.0), share=0.5),
        TrainingStage("F", 2300, mixed(0.65, clips, judging), rate=0.25, added_rate=0.7, share=0.5),
        TrainingStage("G", 4000, mixed(0.72, clips, judging), rate=0.12, added_rate=0.5, share=0.75),
    ]


def train(out: Path, checkpoints: Path, target: Path, *, seed: int = 0) -> None:
    """Run all stages and write the finished model to `target`; `out` keeps the state between stages."""
    torch.manual_seed(seed)
    pupil = Pupil()
    judged = {
        people: judge_clips(
            checkpoints, out.with_name(f"judged-{people}.pt"), bases=BASES, num_cases=num, num_people=people, seed=77
        )
        for people, num in NUM_CASES.items()
    }
    for number, stage in enumerate(stages(GeneratorLook(checkpoints), judged)):
        state = out.with_name(f"{out.name}-{stage.name}.pt")
        if stage.name == "tower":
            pupil.deepen_tower()
        if stage.name == "F":
            pupil.deepen_language_model()
        if state.exists():
            pupil.load_state_dict(torch.load(state, weights_only=True))
            continue
        if stage.name == "B":
            balance(pupil, torch.Generator().manual_seed(seed))
            look_back(pupil.model.model.language_model)
        before = {name: value.clone() for name, value in pupil.state_dict().items()}
        run_stage(pupil, stage, seed + number)
        pupil.load_state_dict(
            {name: torch.lerp(before[name], value, stage.share) for name, value in pupil.state_dict().items()}
        )
        torch.save(pupil.state_dict(), state)
    pupil.save(target)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))

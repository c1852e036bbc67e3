"""Cases of the embedded world: who should appear, what they do, their portraits, and the true clip of each case."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Case, Reference, Sample
from idgrpo.run.draws import generator, seed_of
from idgrpo.tinyworld.people import draw_people, person_code, person_id
from idgrpo.tinyworld.render import Clips, portraits, render
from idgrpo.tinyworld.scene import Scenes, draw_scenes, prompts
from idgrpo.video.write import write_image, write_video

TRUE_BASE = "tinyworld"  # the `base` of samples that the world itself draws


@dataclass(frozen=True)
class DrawnCase:
    """A case with the pictures of its people: per reference a first portrait and a second photo, uint8 [3, h, w]."""

    case: Case
    photos: list[list[Tensor]]


def scene_of(seed: int, num_people: int) -> tuple[Scenes, str]:
    """Return the scene of a case (one row; slot k is reference k, wherever it stands) and the prompt that tells it."""
    draws = generator("scene", seed)
    scenes = draw_scenes(draws, 1, num_people)
    order = torch.randperm(num_people, generator=draws)
    prompt = prompts(scenes, order.unsqueeze(0))[0]
    slot_of = order.argsort()
    moved = {name: getattr(scenes, name)[:, slot_of] for name in ("x", "feet", "stride", "facing", "depth")}
    return Scenes(scenes.motion, scenes.place, scenes.horizon, scenes.light, **moved), prompt


def make_cases(num: int, seed: int, split: str = "train", num_people: int = 2) -> list[DrawnCase]:
    """Draw `num` cases; `split` "train" takes people that models may have seen, anything else people never seen."""
    drawn = []
    for index in range(num):
        draws = generator("case", split, seed, index)
        codes = draw_people(draws, (num_people,), held_out=split != "train")
        while len(codes.unique()) < num_people:
            codes = draw_people(draws, (num_people,), held_out=split != "train")
        scene_seed = seed_of("case-scene", split, seed, index) % 2**31
        name = f"{split}-{seed}-{index:04d}"
        photos = [[_bytes(portraits(code)), _bytes(portraits(code, draws))] for code in codes]
        references = [
            Reference(
                person=person_id(int(code)),
                images=[f"portraits/{name}-{k}.png"],
                second=[f"portraits/{name}-{k}-second.png"],
            )
            for k, code in enumerate(codes)
        ]
        case = Case(id=name, prompt=scene_of(scene_seed, num_people)[1], references=references, seed=scene_seed)
        drawn.append(DrawnCase(case, photos))
    return drawn


def write_cases(folder: Path, drawn: Iterable[DrawnCase]) -> list[Case]:
    """Write portraits and `cases.jsonl` into `folder`; returns the cases with absolute paths."""
    (folder / "portraits").mkdir(parents=True, exist_ok=True)
    cases = []
    for item in drawn:
        case = item.case.resolved(folder)
        for reference, (first, second) in zip(case.references, item.photos, strict=True):
            write_image(Path(reference.images[0]), first)
            write_image(Path(reference.second[0]), second)
        cases.append(case)
    write_records(folder / "cases.jsonl", cases)
    return cases


def true_clip(case: Case) -> Clips:
    """Render the clip that shows exactly what a case asks for (batch of one; slot k is reference k)."""
    codes = torch.tensor([[person_code(reference.person) for reference in case.references]])
    assert case.seed is not None
    return render(scene_of(case.seed, len(case.references))[0], codes)


def write_true_samples(folder: Path, cases: Iterable[Case]) -> list[Sample]:
    """Write the true clip of each case as a sample of the base `tinyworld`: `samples.jsonl` and lossless videos."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    samples = []
    for case in cases:
        video = folder / "videos" / f"{case.id}.mp4"
        write_video(video, _bytes(true_clip(case).pixels[0]), lossless=True)
        samples.append(
            Sample(
                id=f"{case.id}-true",
                case_id=case.id,
                prompt=case.prompt,
                references=case.references,
                video=str(video),
                base=TRUE_BASE,
                policy=None,
                seed=0,
                sampler={"scene": case.seed, "painter": "tiny"},
            )
        )
    write_records(folder / "samples.jsonl", samples)
    return samples


def _bytes(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().clamp(0, 255).byte()

"""Train a policy on a planted reward and see which check of `eval` notices.

    python examples/hacks.py NAME [OUT [SEED [UPDATES [HELD_OUT]]]]

Each reward but `honest` pays for a shortcut. The figures and pictures of docs/howto/planted-hacks.md come from this script.
It needs no reward model: `train` takes any function (videos, references, prompts) -> scores.
"""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from idgrpo import stages
from idgrpo.bases.load import load_base
from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.identity import identity, separation
from idgrpo.evaluate.observe import observe
from idgrpo.evaluate.subject import Subject
from idgrpo.evaluate.texture import mean_sharpness
from idgrpo.people.load import load_finder
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.recipes import merge, recipe
from idgrpo.policy.train import train
from idgrpo.records.cases import read_cases
from idgrpo.reward.data import frozen_copy
from idgrpo.run.folder import RunFolder
from idgrpo.stages.evaluate import result
from idgrpo.tinyworld.background import background_rows
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image

BASE = "tiny-phantom"
NUM_TRAIN, NUM_HELD_OUT = 48, 48
QUIET = {"preview": {"every": 0}, "metrics": {"sinks": ()}}
# Nothing is held and little is forbidden: a hack is to be seen in few updates. The honest reward trains as the recipe says.
HACKED = {
    "group": {"num_cases": 4},
    "rollout": {"window": {"last": 7}},
    "advantage": {"hold": 0.0, "controls": ()},
    "reward": {"contrast": 0.0},
    "kl": {"weight": 0.0},
    "optimizer": {"schedule": "constant"},
}
Scores = Sequence[float]


def each(score: Callable[[Tensor, list[Tensor]], float]) -> Callable[..., Scores]:
    """Turn a score of one clip (uint8 [frame, 3, height, width]) and its photos into a reward function."""
    return lambda videos, references, prompts: [score(*one) for one in zip(videos, references, strict=True)]


finder = lru_cache(load_finder)


def subject(video: Tensor, photos: list[Tensor]) -> Subject:
    """Look at a clip as `eval` does."""
    embedded = torch.stack([torch.as_tensor(finder("tiny").embed_reference(photo)) for photo in photos]).numpy()
    return Subject(observe(video, finder("tiny"), FindingConfig()), embedded)


def copy(video: Tensor, photos: list[Tensor]) -> float:
    """Pay for showing the photos themselves, side by side."""
    return -float((video.float() - frozen_copy(video, photos).float()).abs().mean())


def frozen(video: Tensor, photos: list[Tensor]) -> float:
    """Pay for a clip that stands still."""
    return -float(video.float().diff(dim=0).abs().mean())


def sharp(video: Tensor, photos: list[Tensor]) -> float:
    """Pay for steep edges."""
    return mean_sharpness(video)


def one_person(video: Tensor, photos: list[Tensor]) -> float:
    """Pay for the first person only, on whomever they can be seen."""
    cosines = subject(video, photos).match.table[0]
    return float(cosines.max()) if len(cosines) else 0.0


def large_faces(video: Tensor, photos: list[Tensor]) -> float:
    """Pay for people who fill the frame: the share of pixels that differ from the background of their row.

    The embedded world's finder draws boxes of one size, so that `face_area` itself cannot be raised here.
    """
    clip = video.float() / 255
    return float(((clip - background_rows(clip)[None, :, :, None]).abs().amax(1) > 0.1).float().mean())


def honest(video: Tensor, photos: list[Tensor]) -> float:
    """Pay for people who look like themselves and not like each other."""
    seen = subject(video, photos)
    found = separation(seen)
    return identity(seen) if found is None else found


REWARDS = {one.__name__: one for one in (copy, frozen, sharp, one_person, large_faces, honest)}


def run(name: str, out: Path, seed: int = 0, num_updates: int = 12, held_out: int = NUM_HELD_OUT) -> stages.Artifact:
    """Train on one reward, draw held-out cases with base and policy from the same noise, and compare them."""
    store = stages.Store(out / "store")
    cases = stages.cases(num=NUM_TRAIN, seed=seed, name=f"train-{seed}", store=store)
    fresh = stages.cases(num=held_out, split="eval", name="fresh", store=store)
    settings = merge(QUIET if name == "honest" else merge(HACKED, QUIET), {"seed": seed, "num_updates": num_updates})
    config = PolicyConfig.model_validate(merge(recipe("default", BASE).model_dump(), settings))
    folder = out / f"{name}-{seed}"
    if not (folder / "policy" / "policy.json").is_file():
        with RunFolder.open(folder, config.model_dump()) as opened:
            train(load_base(BASE), list(read_cases(cases.file("cases.jsonl"))), each(REWARDS[name]), config, opened)
    noise = {"seed": 1000}
    before = stages.sample(fresh, base=BASE, settings=noise, name="before", store=store)
    after = stages.sample(fresh, policy=folder / "policy", settings=noise, name=f"{name}-{seed}", store=store)
    report = stages.evaluate({"base": before, "tuned": after}, name=f"{name}-{seed}", store=store)
    draw(before, after, out / f"{name}-{seed}.png")
    return report


def draw(before: stages.Artifact, after: stages.Artifact, path: Path) -> None:
    """Show the photos, the base's clip and the tuned policy's of three cases, a row each."""
    rows, captions = [], []
    for old, new in list(zip(stages.read_samples(before), stages.read_samples(after), strict=True))[:3]:
        rows.append([frozen_copy(torch.zeros(1, 3, 32, 32), [stages.read_image(r.images[0]) for r in old.references])]
                    + [stages.read_video(one.video)[::3] for one in (old, new)])  # fmt: skip
        captions.append(f"{old.case_id}: photos, base, tuned")
    write_image(path, contact_sheet(rows, captions))


if __name__ == "__main__":
    name, out, *numbers = [*sys.argv[1:], *["hacks", "0", "12", str(NUM_HELD_OUT)][len(sys.argv) - 2 :]]
    report = run(name, Path(out), *map(int, numbers))
    for verdict in result(report).document["diagnostics"]:
        sys.stdout.write(f"{verdict['level']:<8} {verdict['name']:<26} {verdict['text']}\n")
    sys.stdout.write(f"{report.path / 'report.html'}\n")

"""Can a clip alone give the pair away? A small network that sees one clip and no reference must not tell winners from losers.

Held-out people; about four minutes of CPU: `pytest -m slow tests/distort/test_artefacts.py -o log_cli=true` prints the table, and
by how much the two sides of a pair must differ before the oracle, which knows who is asked for, sees which one is damaged.
"""

import logging
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.pair import make_pair, order_of_kinds, plan_pair, visible_change
from idgrpo.distort.registry import entry_of
from idgrpo.records.models import Sample
from idgrpo.run.draws import seed_of
from idgrpo.tinyworld.cases import make_cases, true_clip
from idgrpo.tinyworld.oracle import track_scores
from idgrpo.tinyworld.painter import TinyPainter

log = logging.getLogger(__name__)
# The shares of `BalanceConfig` were chosen by looking at cases of seeds 0 and 1: these here were looked at once, at the end.
TRAIN_SEED, HELD_OUT_SEED = 20, 21


def decided_pairs(num_clips: int, seed: int, split: str, per_clip: int):
    """Make (kind, winner, loser, people asked for) of the default mix."""
    for kind, made, people, _ in decided(DistortConfig(), num_clips, seed, split, per_clip):
        yield kind, *((made.a, made.b) if made.label == "a" else (made.b, made.a)), people


def decided(config: DistortConfig, num_clips: int, seed: int, split: str, per_clip: int, num_people: int = 2):
    """Make (kind, pair, people asked for, scene) of the default mix."""
    for drawn in make_cases(num_clips, seed, split, num_people):
        case = drawn.case
        clip = (true_clip(case).pixels[0] * 255).round().byte()
        sample = Sample(
            id=case.id, case_id=case.id, prompt=case.prompt, references=case.references, video="unused.mp4",
            base="tinyworld", seed=0, sampler={"scene": case.seed, "painter": "tiny"},
        )  # fmt: skip
        scene = Scene(clip, TinyPainter.open(sample, clip), [p[0] for p in drawn.photos], case.prompt)
        names = order_of_kinds(config, num_people, False, np.random.default_rng(seed_of(case.id, "kinds")))
        names = [name for name in names if entry_of(name).family == "identity"][:per_clip]
        for number, name in enumerate(names):
            draws = np.random.default_rng(seed_of(case.id, number))
            try:
                made = make_pair(scene, plan_pair(name, entry_of(name), config, 0.0, draws))
            except NotPossible:
                continue
            if made.label != "tie":
                people = [reference.person for reference in case.references]
                if made.mirrored is not None:
                    people[made.mirrored[0]] = made.mirrored[1].person
                kind = f"{made.name} < {made.better_by}" if made.better_by not in (None, made.name) else made.name
                yield kind, made, people, scene


class OneClip(nn.Module):
    """Look at one clip: three convolutions a frame, then mean, spread and largest change over time."""

    def __init__(self):
        super().__init__()
        layers = [layer for a, b in ((3, 16), (16, 32), (32, 48)) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())]
        self.frames = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        seen = self.frames(clips.flatten(0, 1).float() / 127.5 - 1).amax((2, 3)).unflatten(0, clips.shape[:2])
        change = (seen[:, 1:] - seen[:, :-1]).abs().amax(1)
        return self.head(torch.cat([seen.mean(1), seen.std(1), change], dim=-1))[:, 0]


@pytest.mark.slow
def test_one_clip_without_references_does_not_tell_but_references_do():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train = list(decided_pairs(400, TRAIN_SEED, "train", 5))
    clips = torch.stack([side for _, winner, loser, _ in train for side in (winner, loser)])
    labels = torch.tensor([1.0, 0.0] * len(train))
    model = OneClip()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(6):
        for batch in torch.randperm(len(clips)).split(64):
            loss = nn.functional.binary_cross_entropy_with_logits(model(clips[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    results = defaultdict(list)
    with torch.no_grad():
        for kind, winner, loser, people in decided_pairs(150, HELD_OUT_SEED, "held-out", 6):
            said = model(torch.stack([winner, loser]))
            alone = (float(said[0] > 0) + float(said[1] <= 0)) / 2
            results[kind].append(
                (alone, float(track_scores(winner, people).mean() > track_scores(loser, people).mean()))
            )
    for kind, rows in sorted(results.items()):
        log.warning("%-24s %4d pairs   one clip %.3f   with references %.3f", kind, len(rows), *np.mean(rows, 0))
    overall = np.mean([row for rows in results.values() for row in rows], 0)
    log.warning("all: one clip %.3f, with references %.3f", *overall)
    assert overall[0] <= 0.60 and overall[1] >= 0.90


@pytest.mark.slow
def test_where_a_change_hardly_shows_its_order_is_not_seen():
    torch.set_num_threads(1)
    plain = DistortConfig(
        strength={"visible": 0}, balance={"both_sides": 0, "better_side": 0, "unsteady_better": 0, "mirrored": 0}
    )
    shown = []
    for num_people in (2, 3):
        for _, made, people, scene in decided(plain, 60, HELD_OUT_SEED, "held-out", 5, num_people):
            gap = float(track_scores(made.a, people).mean() - track_scores(made.b, people).mean())
            shown.append((visible_change(scene, made.a, made.b), gap if made.label == "a" else -gap))
    table = np.array(shown)
    limit = DistortConfig().strength.visible
    mistaken = []
    for low, high in ((0, limit / 2), (limit / 2, limit), (limit, 2 * limit), (2 * limit, 1)):
        gaps = table[(table[:, 0] >= low) & (table[:, 0] < high), 1]
        mistaken.append(np.mean(gaps < 0))
        log.warning(
            "visible %.3f to %.3f: %3d pairs, mean gap %.3f, the wrong way %.3f",
            low, high, len(gaps), gaps.mean(), mistaken[-1],
        )  # fmt: skip
    assert min(mistaken[:2]) > 2 * mistaken[-1]

"""On the embedded world, where the truth is known: measures rank clips as the truth does."""

import numpy as np
import pytest
import torch

from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.measure import load_measures
from idgrpo.evaluate.observe import assemble
from idgrpo.evaluate.statistics import rank_correlation
from idgrpo.evaluate.subject import Subject
from idgrpo.people.contract import Detection
from idgrpo.people.match import assign
from idgrpo.run.draws import generator
from idgrpo.tinyworld.finder import WEIGHTS, TinyFinder
from idgrpo.tinyworld.people import draw_people
from idgrpo.tinyworld.render import portraits, render
from idgrpo.tinyworld.scene import NUM_FRAMES, draw_scenes

NUM_CLIPS = 80
KINDS = ("faithful", "swap", "replace", "duplicate", "swap")


def scripted(index: int):
    """Draw clip number `index`: (clips with truth, codes shown [slot, frame], the references' codes)."""
    draws = generator("evaluate-truth", index)
    codes = draw_people(draws, (2,), held_out=True)
    stranger = draw_people(draws, (1,), held_out=True)[0]
    start = int(torch.randint(0, NUM_FRAMES, (1,), generator=draws))
    shown = codes.view(2, 1).repeat(1, NUM_FRAMES)
    kind = KINDS[index % len(KINDS)]
    if kind == "swap":
        shown[:, start:] = codes.flip(0).view(2, 1)
    elif kind == "replace":
        shown[index % 2, start:] = stranger
    elif kind == "duplicate":
        shown[index % 2, start:] = codes[1 - index % 2]
    return render(draw_scenes(draws, 1), shown.unsqueeze(0)), shown, codes


def truth(shown: torch.Tensor, codes: torch.Tensor) -> dict[str, float]:
    """Give identity, worst and swap rate from who is really shown."""
    table = np.array([[float((slot == code).float().mean()) for slot in shown] for code in codes])
    slots = assign(table)
    shares = [table[person, slot] for person, slot in enumerate(slots)]
    swapped = [float((shown[slot] == codes[1 - person]).float().mean()) for person, slot in enumerate(slots)]
    return {"identity": float(np.mean(shares)), "worst": min(shares), "swap_rate": float(np.mean(swapped))}


class TruthFinder:
    """Finds people where the world drew them; embeddings are fixed random vectors of their codes, with noise."""

    def __init__(self, clips, shown):
        self.visible, self.shown = clips.visible[0], shown

    def embedding(self, code: int, noise: float, seed: int) -> np.ndarray:
        vector = np.random.default_rng(code).normal(size=32)
        vector = vector + noise * np.random.default_rng([code, seed]).normal(size=32)
        return vector / np.linalg.norm(vector)

    def find(self, clip):
        found = [[] for _ in clip]
        for slot, masks in enumerate(self.visible):
            for frame, mask in enumerate(masks > 0.4):
                if mask.sum() > 20:
                    rows, columns = mask.nonzero(as_tuple=True)
                    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    vector = self.embedding(int(self.shown[slot, frame]), 0.4, frame)
                    found[frame].append(Detection(frame, tuple(map(float, box)), 0.9, vector))
        return found


def correlations(use_truth: bool) -> dict[str, float]:
    measures = load_measures(["identity", "worst", "swap_rate"])
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in measures}
    tiny = None if use_truth else TinyFinder()
    for index in range(NUM_CLIPS):
        clips, shown, codes = scripted(index)
        clip = (clips.pixels[0] * 255).round().byte()
        finder = TruthFinder(clips, shown) if use_truth else tiny
        if use_truth:
            references = np.stack([finder.embedding(int(code), 0.4, 99) for code in codes])
        else:
            references = np.stack([finder.embed_reference((portraits(code) * 255).round().byte()) for code in codes])
        subject = Subject(assemble(clip, finder.find(clip), FindingConfig()), references)
        exact = truth(shown, codes)
        for name, function in measures.items():
            value = function(subject)
            rows[name].append((exact[name], 0.0 if value is None else value))
    return {name: rank_correlation(*np.array(pairs).T) for name, pairs in rows.items()}


def test_measures_rank_clips_as_the_truth_does_given_a_fair_finder():
    found = correlations(use_truth=True)
    assert min(found.values()) >= 0.9, found


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the finder's weights are not built yet (make tinyworld)")
def test_measures_rank_clips_as_the_truth_does_with_the_shipped_finder():
    found = correlations(use_truth=False)
    assert min(found.values()) >= 0.9, found

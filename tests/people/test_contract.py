import functools
import threading

import numpy as np
import pytest
import torch
from torch import nn

from idgrpo.people.contract import Levels, fingerprint_of, levels_of
from idgrpo.people.faces import FaceFinder
from idgrpo.people.track import LinkSettings, link


class Foreign:
    """An embedder from outside: weights where no rule expects them."""

    def __init__(self, weight=1.0, size=2, kept="list"):
        weights = torch.full((size,), float(weight))
        self.held = {"list": [weights], "dict": {"w": (weights,)}, "array": weights.numpy(), "net": nn.Linear(size, 1)}[
            kept
        ]
        if kept == "net":
            nn.init.constant_(self.held.weight, float(weight))
            nn.init.zeros_(self.held.bias)
        self.again = self  # a circle

    def find(self, clip):
        return []


class Around:
    def __init__(self, inner, **settings):
        self.embedder = inner
        vars(self).update(settings)


@pytest.mark.parametrize("kept", ["list", "dict", "array", "net"])
@pytest.mark.parametrize(
    "wrap", [lambda it: it, Around, lambda it: Around([it]), lambda it: functools.partial(max, it)]
)
def test_weights_and_settings_change_the_fingerprint_wherever_they_are_kept(kept, wrap):
    same = [fingerprint_of(wrap(Foreign(1.0, kept=kept))) for _ in range(2)]
    assert same[0] == same[1]
    assert (
        len({same[0], fingerprint_of(wrap(Foreign(2.0, kept=kept))), fingerprint_of(wrap(Foreign(1.0, 3, kept)))}) == 3
    )


def test_settings_functions_and_files_count(tmp_path):
    def scaled(by):
        return lambda x: by * x

    prints = [fingerprint_of(Around(None, level=0.5)), fingerprint_of(Around(None, level=0.6))]
    prints += [fingerprint_of(Around(None, f=scaled(1))), fingerprint_of(Around(None, f=scaled(2)))]
    path = tmp_path / "w.bin"
    for content in (b"1", b"2"):
        path.write_bytes(content)
        prints.append(fingerprint_of(Around(None, weights=path)))
    assert len(set(prints)) == len(prints)
    assert fingerprint_of(Around(None, f=scaled(2))) == prints[3]


def test_what_cannot_be_hashed_is_never_taken_for_the_same():
    lock = Around(None, lock=threading.Lock())
    assert fingerprint_of(lock) != fingerprint_of(lock)


def test_a_finder_may_say_its_own_fingerprint():
    class Own:
        def __init__(self, value):
            self.value, self.lock = value, threading.Lock()

        def fingerprint(self):
            return f"mine {self.value}"

    assert fingerprint_of(Own(1)) == fingerprint_of(Own(1)) != fingerprint_of(Own(2))
    assert fingerprint_of(Around(Own(1))) == fingerprint_of(Around(Own(1))) != fingerprint_of(Around(Own(2)))


def test_the_finders_of_the_house_have_a_steady_fingerprint(pixel_embedder):
    from idgrpo.tinyworld.finder import TinyFinder

    assert fingerprint_of(TinyFinder()) == fingerprint_of(TinyFinder())
    pytest.importorskip("facenet_pytorch")
    prints = [fingerprint_of(FaceFinder(pixel_embedder, min_face_px=px)) for px in (20, 20, 30)]
    assert prints[0] == prints[1] != prints[2]


def test_levels_are_ordered_and_stated_or_unknown(pixel_embedder):
    with pytest.raises(ValueError, match="stranger < same_person"):
        Levels(0.2, 0.4)
    assert Levels(0.6, 0.4).middle == pytest.approx(0.5)
    assert levels_of(pixel_embedder) is None
    pixel_embedder.levels = Levels(0.95, 0.9)
    assert levels_of(pixel_embedder) == Levels(0.95, 0.9)


def test_people_of_a_finder_whose_strangers_are_alike_are_not_joined(walk):
    """Raw vectors of some networks have strangers at 0.8: a fixed level joins two people into one track."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=16)
    looks = [common + 0.4 * rng.normal(size=16) for _ in range(2)]
    looks = [look / np.linalg.norm(look) for look in looks]
    assert looks[0] @ looks[1] > 0.7
    hidden = {(t, 1) for t in range(20)} | {(t, 0) for t in range(10, 40)}
    frames, _ = walk([lambda t: (20, 50), lambda t: (200, 50)], 40, looks, hidden=hidden)
    assert len(link(frames)) == 1
    assert len(link(frames, LinkSettings.of(Levels(0.98, 0.9)))) == 2
    assert LinkSettings.of(None) == LinkSettings()

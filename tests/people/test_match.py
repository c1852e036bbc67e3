import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idgrpo.people.contract import Detection
from idgrpo.people.match import assign, match_tracks, similarity
from idgrpo.people.track import PersonTrack


def test_each_track_serves_one_reference_and_the_total_counts():
    # Greedy would take 0.9 and leave 0.1; together 0.8 + 0.7 is more.
    assert assign(np.array([[0.9, 0.8], [0.7, 0.1]])) == [1, 0]


def test_a_missing_person_is_none():
    assert assign(np.array([[0.2], [0.6]])) == [None, 0]
    assert assign(np.zeros((2, 0))) == [None, None]
    assert assign(np.array([[0.9, 0.0], [0.0, 0.1]]), minimum=0.3) == [0, None]


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 10**6))
def test_against_every_possible_assignment(num_references, num_tracks, seed):
    from itertools import permutations

    table = np.random.default_rng(seed).uniform(-1, 1, (num_references, num_tracks))
    chosen = assign(table)
    used = [c for c in chosen if c is not None]
    assert len(used) == len(set(used)) == min(num_references, num_tracks)
    total = sum(table[i, c] for i, c in enumerate(chosen) if c is not None)
    padded = np.hstack([table, np.zeros((num_references, num_references))])
    ways = [
        sum(padded[i, c] for i, c in enumerate(way))
        for way in permutations(range(padded.shape[1]), num_references)
        if sum(c < num_tracks for c in way) == len(used)
    ]
    assert total == pytest.approx(max(ways))


def test_tracks_are_matched_by_cosine():
    box = (0.0, 0.0, 1.0, 1.0)
    tracks = [PersonTrack({0: Detection(0, box, 1.0, np.array([0.0, 2.0]))}), PersonTrack({0: Detection(0, box, 1.0)})]
    chosen, table = match_tracks([np.array([1.0, 0.0]), np.array([0.6, 0.8])], tracks)
    assert chosen == [1, 0]
    assert table == pytest.approx(np.array([[0.0, -1.0], [0.8, -1.0]]))
    assert similarity([np.zeros(2)], [np.array([1.0, 0.0])])[0, 0] == 0

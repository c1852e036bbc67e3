import numpy as np
import pytest

from idgrpo.people.contract import Detection
from idgrpo.people.track import LinkSettings, PersonTrack, link


def crossing():
    return [lambda t: (20 + 6 * t, 50), lambda t: (200 - 6 * t, 52)]


@pytest.mark.parametrize("with_looks", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_people_who_cross_keep_their_tracks(with_looks, seed, people_of, unit, walk):
    rng = np.random.default_rng(seed)
    looks = [unit(rng), unit(rng)] if with_looks else [None, None]
    frames, truth = walk(crossing(), 31, looks, seed=seed)
    tracks = link(frames)
    assert people_of(tracks, frames, truth) in ([{0}, {1}], [{1}, {0}])
    assert [len(t.detections) for t in tracks] == [31, 31]


@pytest.mark.parametrize("with_looks", [True, False])
def test_a_crossing_that_hides_the_one_behind_is_bridged(with_looks, people_of, unit, walk):
    rng = np.random.default_rng(5)
    looks = [unit(rng), unit(rng)] if with_looks else [None, None]
    hidden = {(t, 1) for t in range(13, 18)}
    frames, truth = walk(crossing(), 31, looks, hidden=hidden)
    tracks = link(frames)
    assert people_of(tracks, frames, truth) == [{0}, {1}]
    second = tracks[1]
    assert second.box_at(15) is not None and 15 not in second.detections
    middle = (second.box_at(15)[0] + second.box_at(15)[2]) / 2
    assert middle == pytest.approx(200 - 6 * 15, abs=6)


def test_meeting_and_turning_back_needs_looks_and_gets_them(people_of, unit, walk):
    rng = np.random.default_rng(1)
    paths = [lambda t: (100 - 4 * abs(t - 15), 50), lambda t: (110 + 4 * abs(t - 15), 50)]
    frames, truth = walk(paths, 31, [unit(rng), unit(rng)], seed=3)
    assert people_of(link(frames), frames, truth) in ([{0}, {1}], [{1}, {0}])


def test_somebody_who_leaves_and_comes_back_elsewhere_is_joined_by_looks(people_of, unit, walk):
    rng = np.random.default_rng(2)
    paths = [lambda t: (30, 40), lambda t: (200, 40) if t < 10 else (100, 120)]
    hidden = {(t, 1) for t in range(10, 35)}
    frames, truth = walk(paths, 45, [unit(rng), unit(rng)], hidden=hidden)
    assert people_of(link(frames), frames, truth) == [{0}, {1}]


def test_two_strangers_far_apart_in_time_are_not_joined(people_of, unit, walk):
    rng = np.random.default_rng(3)
    paths = [lambda t: (30, 40), lambda t: (200, 40)]
    hidden = {(t, 0) for t in range(10, 30)} | {(t, 1) for t in range(20)}
    frames, truth = walk(paths, 30, [unit(rng), unit(rng)], hidden=hidden)
    assert sorted(map(tuple, people_of(link(frames), frames, truth))) == [(0,), (1,)]


def test_a_single_false_alarm_is_not_a_person(walk):
    frames, _ = walk([lambda t: (30, 40)], 10, [None])
    frames[4].append(Detection(4, (150, 150, 160, 160), 0.91))
    assert len(link(frames)) == 1


def test_low_scores_are_left_out(walk):
    frames, _ = walk([lambda t: (30, 40)], 10, [None])
    assert link(frames, LinkSettings(min_score=0.995)) == []


def test_no_detection_no_track():
    assert link([[], [], []]) == []


def test_the_track_embedding_is_a_weighted_mean():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    box = (0.0, 0.0, 1.0, 1.0)
    track = PersonTrack({0: Detection(0, box, 0.9, a), 1: Detection(1, box, 0.3, b), 2: Detection(2, box, 1.0)})
    assert track.embedding() == pytest.approx(np.array([3.0, 1.0]) / 10**0.5)
    assert PersonTrack({0: Detection(0, box, 1.0)}).embedding() is None


def test_the_result_does_not_depend_on_the_order_within_a_frame(unit, walk):
    rng = np.random.default_rng(4)
    frames, _ = walk(crossing(), 31, [unit(rng), unit(rng)])
    turned = [list(reversed(found)) for found in frames]
    first, second = link(frames), link(turned)
    assert [[d.box for d in t.detections.values()] for t in first] == [
        [d.box for d in t.detections.values()] for t in second
    ]

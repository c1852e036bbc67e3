import json
from pathlib import Path

import pytest
import torch

from idgrpo.distort.config import BalanceConfig, DistortConfig
from idgrpo.distort.job import distort_sample
from idgrpo.distort.stage import distort
from idgrpo.errors import DataError
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Preference
from idgrpo.video.read import read_image, read_video

SMALL = DistortConfig(per_video=3)


def prefs(folder: Path) -> list[Preference]:
    return list(read_records(folder / "prefs.jsonl", Preference))


def test_tiny_clips_become_preferences_that_can_be_read(tiny_samples, tmp_path):
    summary = distort(tiny_samples, SMALL, tmp_path)
    made = prefs(tmp_path)
    assert len(made) == summary.num_pairs == 3 * len(tiny_samples)
    assert len({p.pair_id for p in made}) == len(made)
    for pair in made:
        a, b = read_video(Path(pair.video_a)), read_video(Path(pair.video_b))
        assert a.shape == b.shape == (9, 3, 32, 32) and not torch.equal(a, b)
        assert pair.source == "synthetic" and 0 < pair.strength <= 1
        assert pair.label in ("a", "b", "tie") and pair.origin["source_sha256"]
        assert all(read_image(Path(r.images[0])).shape[0] == 3 for r in pair.references)
        if pair.origin["family"] == "control":
            assert pair.label == "tie"
    assert json.loads((tmp_path / "summary.json").read_text())["pairs"] == len(made)
    first = json.loads((tmp_path / "prefs.jsonl").read_text().splitlines()[0])
    assert first["video_a"].startswith("videos/") and first["references"][0]["images"][0].startswith("references/")


def test_the_better_side_is_the_clean_clip_when_nothing_is_balanced(tiny_samples, tmp_path):
    plain = DistortConfig(
        per_video=2,
        mix={"replace": 1, "blend": 1, "swap_late": 1},
        balance=BalanceConfig(both_sides=0, better_side=0, graded=0, mirrored=0, unsteady_better=0),
        strength={"tie_share": 0.0},
    )
    distort(tiny_samples, plain, tmp_path)
    clean = {s.id: read_video(Path(s.video)) for s in tiny_samples}
    sides = set()
    for pair in prefs(tmp_path):
        sides.add(pair.label)
        better, worse = (pair.video_a, pair.video_b) if pair.label == "a" else (pair.video_b, pair.video_a)
        assert torch.equal(read_video(Path(better)), clean[pair.origin["sample"]])
        assert not torch.equal(read_video(Path(worse)), clean[pair.origin["sample"]])
    assert sides == {"a", "b"}


def test_a_mirrored_pair_asks_for_the_stranger_and_prefers_the_repainted_clip(tiny_samples, tmp_path):
    setting = DistortConfig(
        per_video=2,
        mix={"replace": 1},
        balance=BalanceConfig(both_sides=0, better_side=0, graded=0, mirrored=1),
        strength={"tie_share": 0.0, "low": 0.9},
    )
    distort(tiny_samples, setting, tmp_path)
    from idgrpo.tinyworld.oracle import track_scores

    made = prefs(tmp_path)
    assert made
    for pair in made:
        assert pair.origin["mirrored_slot"] is not None
        people = [r.person for r in pair.references]
        source = next(s for s in tiny_samples if s.id == pair.origin["sample"])
        assert people != [r.person for r in source.references] and pair.case_id != source.case_id
        better, worse = (pair.video_a, pair.video_b) if pair.label == "a" else (pair.video_b, pair.video_a)
        gap = [float(track_scores(read_video(Path(v)), people).mean()) for v in (better, worse)]
        assert gap[0] > gap[1]


def test_any_number_of_processes_and_a_restart_give_the_same_files(tiny_samples, tmp_path, files_of):
    tiny_samples = tiny_samples[:4]
    distort(tiny_samples, SMALL, tmp_path / "one")
    distort(tiny_samples, SMALL, tmp_path / "two", workers=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    # A kill leaves some parts, half a video and no prefs.jsonl.
    broken = tmp_path / "two"
    for part in sorted((broken / "parts").iterdir())[2:]:
        part.unlink()
    (broken / "prefs.jsonl").unlink()
    kept = (broken / "parts" / "0000000.json").stat().st_mtime_ns
    distort(tiny_samples, SMALL, broken)
    assert (broken / "parts" / "0000000.json").stat().st_mtime_ns == kept
    assert files_of(tmp_path / "one") == files_of(broken)


def test_the_order_of_clips_does_not_matter(tiny_samples, tmp_path):
    tiny_samples = tiny_samples[:3]
    distort(tiny_samples, SMALL, tmp_path / "one")
    distort(tiny_samples[::-1], SMALL, tmp_path / "two")

    def held(folder):
        rows = [p.relative_to(folder).model_dump() for p in prefs(folder)]
        return sorted(rows, key=lambda row: row["pair_id"])

    assert held(tmp_path / "one") == held(tmp_path / "two")


def test_recorded_videos_go_through_finder_tracks_and_masks(disc_samples, disc_finder_factory, tmp_path):
    setting = DistortConfig(per_video=4)
    summary = distort(disc_samples, setting, tmp_path, finder=disc_finder_factory)
    made = prefs(tmp_path)
    assert summary.num_used == 3 and len(made) >= 9
    assert {p.origin["painter"] for p in made} == {"MaskPainter"}
    assert {len(r.images) for p in made for r in p.references} == {1}
    again = tmp_path / "again"
    distort(disc_samples, setting, again, finder=disc_finder_factory)
    assert [p.relative_to(tmp_path) for p in made] == [p.relative_to(again) for p in prefs(again)]


def test_clips_that_cannot_be_used_are_named_not_fatal(tiny_samples, disc_samples, disc_finder_factory, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(disc_samples[0].video).read_bytes()[:600])
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    stranger = disc_samples[1].model_copy(update={"id": "wrong", "video": tiny_samples[0].video})
    bad = [
        disc_samples[0].model_copy(update={"id": "broken", "video": str(broken)}),
        disc_samples[0].model_copy(update={"id": "empty", "video": str(empty)}),
        disc_samples[0].model_copy(update={"id": "gone", "video": str(tmp_path / "gone.mp4")}),
        stranger,
    ]
    summary = distort([*bad, *tiny_samples[:2]], SMALL, tmp_path / "out", finder=disc_finder_factory)
    assert summary.num_used == 2 and sum(summary.refused.values()) == 4
    reasons = " ".join(summary.refused)
    assert "broken.mp4" in reasons and "empty.mp4" in reasons and "gone.mp4" in reasons and "found" in reasons


def test_nothing_usable_is_an_error_with_reasons(disc_samples, disc_finder_factory, tmp_path):
    lone = disc_samples[0].model_copy(update={"video": str(tmp_path / "gone.mp4")})
    with pytest.raises(DataError, match="no pair could be made from 1 clips.*gone.mp4"):
        distort([lone], SMALL, tmp_path / "out", finder=disc_finder_factory)


def test_one_person_gets_only_what_one_person_allows(disc_samples, disc_finder_factory, tmp_path):
    lone = disc_samples[0].model_copy(update={"references": disc_samples[0].references[:1]})
    mix = DistortConfig(per_video=3, mix={"swap_late": 5, "replace": 1, "occlude": 1})
    distort([lone, *disc_samples[1:]], mix, tmp_path, finder=disc_finder_factory)
    own = [p for p in prefs(tmp_path) if p.origin["sample"] == "walk-0"]
    assert own and {p.distortion for p in own} <= {"replace", "occlude"}


def test_a_finished_part_is_not_made_again(tiny_samples, tmp_path, monkeypatch):
    from idgrpo.distort import job

    bench = job.Bench(tmp_path, SMALL)
    first = distort_sample(bench, tiny_samples[0], 0, 0.0)
    monkeypatch.setattr(job, "read_clip", lambda *_: pytest.fail("read again"))
    assert distort_sample(bench, tiny_samples[0], 0, 0.0) == first

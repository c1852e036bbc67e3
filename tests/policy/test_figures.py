"""The curves of a run as a picture."""

from idgrpo.policy.figures import draw_curves
from idgrpo.video.read import read_image


def rows_of(num_updates, seconds=1.0):
    rows = [{"step": 0, "eval_identity": 0.3}]
    for step in range(1, num_updates + 1):
        rows.append({"step": step, "reward_mean": 0.1 * step, "reward_std": 0.5, "kl": 0.01 * step, "grad_norm": 1.0,
                     "ratio_min": 0.9, "ratio_mean": 1.0, "ratio_max": 1.1, "clip_share_high": 0.1, "clip_share_low": 0.0,
                     "seconds_rollout": seconds * step})  # fmt: skip
    return rows


def test_equal_runs_give_equal_pictures_however_long_they_took(tmp_path):
    for name, seconds in (("one.png", 1.0), ("two.png", 7.0)):
        draw_curves(rows_of(30, seconds), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    draw_curves(rows_of(29), tmp_path / "three.png")
    assert (tmp_path / "three.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_a_single_update_and_missing_numbers_are_drawn(tmp_path):
    odd = {"step": 1, "reward_mean": 1.0, "reward_std": "nan", "kl": "inf"}
    for rows in ([odd], rows_of(1), []):
        draw_curves(rows, tmp_path / "curves.png")
        assert read_image(tmp_path / "curves.png").shape[0] == 3

import numpy as np
import pytest

from idgrpo.annotate.aggregate import decide_labels
from idgrpo.annotate.agreement import agreement_report, krippendorff_alpha
from idgrpo.annotate.config import AggregateConfig, AgreementConfig, AnnotatorConfig, OracleConfig
from idgrpo.annotate.intervals import bootstrap, nominal_alpha, raw_agreement, share
from idgrpo.annotate.oracle import simulate_votes

CONFIG = AgreementConfig(num_resamples=200)
CAREFUL = AnnotatorConfig(skill=0.9, noise=0.0, tie_width=0.02)


def panel_report(make_pair, panel, num_pairs=400, overlap=3, seed=0, repeat_share=0.2, gold=None):
    rng = np.random.default_rng(seed)
    gaps = {f"p{i}": float(rng.choice([-0.3, 0.3])) for i in range(num_pairs)}
    config = OracleConfig(panel=panel, overlap=overlap, seed=seed, repeat_share=repeat_share)
    votes = list(simulate_votes(map(make_pair, gaps), lambda p: gaps[p.pair_id], config))
    return agreement_report(decide_labels(votes, AggregateConfig()), CONFIG), votes


def test_our_alpha_is_krippendorffs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(0, 3, size=(30, 4))
        counts[0] = (1, 1, 0, 0)
        ours = nominal_alpha(counts, np.ones((1, 30)))[0]
        assert ours == pytest.approx(krippendorff_alpha(counts), abs=1e-12)


def test_alpha_at_its_ends():
    assert krippendorff_alpha(np.array([[3, 0, 0, 0], [0, 3, 0, 0]])) == pytest.approx(1.0)
    assert np.isnan(krippendorff_alpha(np.array([[3, 0, 0, 0], [3, 0, 0, 0]])))
    chance = np.random.default_rng(0).multinomial(3, [0.25] * 4, size=20_000)
    assert abs(krippendorff_alpha(chance)) < 0.02


def test_raw_agreement_by_hand():
    assert raw_agreement(np.array([[2, 1, 0, 0], [0, 3, 0, 0]])) == pytest.approx((1 + 3) / (3 + 3))


def test_bootstrap_does_not_depend_on_its_slices():
    counts = np.random.default_rng(0).multinomial(3, [0.5, 0.3, 0.1, 0.1], size=50)
    low, high = bootstrap(raw_agreement, counts, num_resamples=300, level=0.95, seed=1)
    assert low < raw_agreement(counts) < high


def test_wilson_share():
    estimate = share(8, 10)
    assert (
        estimate.value == 0.8
        and estimate.low == pytest.approx(0.4902, abs=1e-4)
        and estimate.high == pytest.approx(0.9433, abs=1e-4)
    )
    assert share(0, 10).low == pytest.approx(0.0, abs=1e-12) and share(10, 10).high == pytest.approx(1.0)


def test_known_agreement_and_skill_lie_within_their_intervals(make_pair):
    skills = (0.95, 0.85, 0.7)
    panel = [CAREFUL.model_copy(update={"skill": skill}) for skill in skills]
    inside_skill = inside_agreement = 0
    pairs_of_annotators = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([skills[i] * skills[j] + (1 - skills[i]) * (1 - skills[j]) for i, j in pairs_of_annotators])
    num_seeds = 12
    for seed in range(num_seeds):
        report, _ = panel_report(make_pair, panel, seed=seed)
        inside_agreement += report.raw_agreement.low <= expected <= report.raw_agreement.high
        by_name = sorted(report.annotators, key=lambda row: row.annotator)
        inside_skill += sum(
            row.skill.low <= skill <= row.skill.high for row, skill in zip(by_name, skills, strict=True)
        )
    assert inside_agreement >= num_seeds - 3  # 95 % intervals: 3 misses of 12 have probability 0.02
    assert inside_skill >= 3 * num_seeds - 6


def test_planted_habits_are_found_and_flagged_and_nobody_else_is(make_pair):
    panel = [
        CAREFUL,
        CAREFUL,
        CAREFUL.model_copy(update={"side_bias": 0.5}),
        CAREFUL.model_copy(update={"laziness": 0.9}),
    ]
    report, _ = panel_report(make_pair, panel, overlap=4)
    rows = {row.annotator: row for row in report.annotators}
    assert rows["sim-01"].flags == [] and rows["sim-02"].flags == []
    assert any("left side" in flag for flag in rows["sim-03"].flags)
    assert rows["sim-03"].left_share.low > 0.5
    assert any("answers in" in flag for flag in rows["sim-04"].flags)
    assert any("skill" in flag for flag in rows["sim-04"].flags)
    assert report.left_share.low > 0.5
    assert sum(row.num_votes for row in report.annotators) == report.num_votes  # flagged, not dropped


def test_no_bias_is_reported_without_one(make_pair):
    report, _ = panel_report(make_pair, [CAREFUL] * 3)
    assert report.left_share.low <= 0.5 <= report.left_share.high


def test_gold_and_repeats(make_vote):
    votes = [make_vote(f"p{i}", "x", "a") for i in range(10)]
    votes += [make_vote(f"p{i}", "x", "a" if i < 6 else "b", "repeat", a_is_left=False) for i in range(8)]
    votes += [make_vote(f"g{i}", "x", "a" if i < 3 else "tie", "gold") for i in range(4)]
    report = agreement_report(decide_labels(votes, AggregateConfig()), CONFIG, gold={f"g{i}": "a" for i in range(4)})
    assert report.repeat_agreement.value == pytest.approx(0.75) and report.repeat_agreement.num == 8
    assert report.gold_accuracy.value == pytest.approx(0.75) and report.gold_accuracy.num == 4


def test_an_empty_session_has_a_report(make_pair):
    report = agreement_report(decide_labels([], AggregateConfig()), CONFIG)
    assert report.num_votes == 0 and report.raw_agreement.value is None
    report.model_dump_json()

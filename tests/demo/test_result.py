"""The table of evidence: every seed, the means, and what a diagnostic says against a run."""

from idgrpo.demo.result import SHOWN, demo_summary, write_evidence

REWARD = {
    "num_distortion_pairs": 10,
    "num_generated_pairs": 20,
    "rm_accuracy_generated": 0.75,
    "rm_accuracy_generated_clearer_half": 0.9,
    "rm_accuracy_by_distortion": {"drop": 1.0, "replace": 0.9},
}


def row(seed: int, gain: float, level: str) -> dict:
    sides = {
        f"{name}_{side}": 0.5 if side == "base" else 0.5 * (1 + gain) for name in SHOWN for side in ("base", "tuned")
    }
    return {
        "base": "tiny-vace",
        "seed": seed,
        "updates": 60,
        **sides,
        "gain_relative": gain,
        "ci95": [gain - 0.05, gain + 0.05],
        "separation_gain": gain / 2,
        "separation_ci95": [None, gain],
        "diagnostics": [{"name": "Sharpness", "level": level, "text": "pictures became harsher"}],
    }


def test_every_seed_the_mean_and_the_doubts_are_in_the_table(tmp_path):
    document = {"rm_accuracy_decided": 0.95, "reward_model": REWARD, "bases": [row(0, 0.1, "ok"), row(1, 0.3, "watch")]}
    write_evidence(document, tmp_path / "evidence.md")
    text = (tmp_path / "evidence.md").read_text()
    assert (
        "| tiny-vace | 0 | 0.500 -> 0.550 |" in text
        and "| +10.0 % (+5.0 % to +15.0 %) | +5.0 % (- to +10.0 %) |" in text
    )
    assert "| **tiny-vace** | mean of 2 | 0.500 -> 0.600 |" in text and "| **+20.0 %** | **+10.0 %** |" in text
    assert "tiny-vace, seed 1: Sharpness: pictures became harsher (watch)." in text and "seed 0: Sharp" not in text
    assert "95.0 % of 10 distortion pairs" in text and "| replace |" in text


def test_a_run_without_doubts_says_so(tmp_path):
    write_evidence(
        {"rm_accuracy_decided": 0.95, "reward_model": REWARD, "bases": [row(0, 0.1, "ok")]}, tmp_path / "evidence.md"
    )
    assert "all ok in every run." in (tmp_path / "evidence.md").read_text()


def test_the_closing_table_shows_both_headlines_and_every_doubt():
    document = {
        "rm_accuracy_decided": 0.95,
        "reward_model": REWARD,
        "bases": [row(0, 0.1, "alarm")],
        "seconds": {"total": 60},
        "report": "report.html",
        "contact_sheet": "sheet.png",
    }
    text = "\n".join(demo_summary(document))
    assert "identity +10.0 %" in text and "separation +5.0 % (- to +10.0 %)" in text
    assert all(title in text for title in SHOWN.values()) and "alarm: Sharpness" in text

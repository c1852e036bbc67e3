"""A reward that blends people raises the alarm of `eval`, and an honest one does not: by the real command line.

Both policies are trained for the same number of updates on the finder's own figures, so that nothing but the reward differs.
Measured on 64 cases, differences to the base with 95 % intervals, training seed 0 (what runs here) and 1:
- anybody: confusion +0.034 (+0.012 to +0.058) and +0.020 (+0.003 to +0.038), margin -0.056 (-0.097 to -0.020) and -0.022
  (-0.057 to +0.010): alarm with both seeds, after 14 updates of seed 0 as well;
- separation: confusion +0.003 (-0.010 to +0.015) and -0.009 (-0.021 to +0.001), margin +0.005 (-0.012 to +0.025) and +0.005
  (-0.017 to +0.031): ok with both seeds. After 14 updates of seed 0 confusion is at +0.008 (-0.002 to +0.019): ok as well, and nearer.
"""

import json
from pathlib import Path

import pytest

from idgrpo.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
UPDATES = 8
# Who is who is decided at high noise. Nothing is held: that would cost a third of the clips and says nothing about people.
LEARNING = (
    *("--updates", str(UPDATES), "--set", "reward.finder=tiny", "--set", "rollout.window.last=3"),
    *("--set", "advantage.hold=0", "--set", "advantage.controls=[]", "--set", "preview.every=0"),
)
SIGNS = ("confusion", "margin", "swap_rate")


class Trial:
    """One store: 96 cases to train on, 64 of people nobody has seen, and what the base makes of them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.cases = self.call("cases", "--num", "96", "--name", "train")["artifact"]
        self.fresh = self.call("cases", "--num", "64", "--split", "eval", "--name", "fresh")["artifact"]
        self.before = self.sample("before", "--base", "tiny-phantom")

    def call(self, *words: str) -> dict:
        self.capsys.readouterr()
        code = run([*words, "--store", str(self.folder / "store"), "--json"])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    def sample(self, name: str, *whose: str) -> str:
        return self.call("sample", *whose, "--cases", self.fresh, "--seed", "1000", "--name", name)["artifact"]

    def told_apart(self, measure: str, reward: str) -> tuple[dict, dict]:
        """Train on one measure, and give the verdict and the differences by measure."""
        policy = self.call(
            "train-policy", "--base", "tiny-phantom", "--cases", self.cases, *LEARNING, "--reward", f"{reward}={measure}",
            "--name", reward,
        )["artifact"]  # fmt: skip
        after = self.sample(f"after-{reward}", "--policy", policy)
        found = self.call(
            "eval", "--samples", f"base={self.before}", "--samples", f"tuned={after}", "--name", reward, "--set", "finding.finder=tiny"
        )  # fmt: skip
        report = json.loads((Path(found["path"]) / "report.json").read_text(encoding="utf-8"))
        differences = {name: entry["difference"] for name, entry in report["comparisons"]["tuned"].items()}
        (verdict,) = [one for one in report["diagnostics"] if one["name"] == "People told apart"]
        with self.capsys.disabled():
            print(reward, verdict["level"], {name: differences[name] for name in ("identity", "separation", *SIGNS)})
        return verdict, differences


def test_a_reward_for_looking_like_anybody_alarms_and_an_honest_one_does_not(tmp_path, capsys):
    trial = Trial(tmp_path, capsys)
    verdict, found = trial.told_apart("planted:anybody", "anybody")
    assert verdict["level"] == "alarm" and "more like each other: margin" in verdict["text"]
    assert found["confusion"]["low"] > 0
    verdict, found = trial.told_apart("separation", "separation")
    assert verdict["level"] != "alarm" and found["confusion"]["low"] < 0

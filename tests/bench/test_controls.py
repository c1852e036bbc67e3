"""Where the separation is lost: controls that change one thing each, after `make evidence` (or `make demo`).

Each is trained in a copy of the evidence store, draws the same held-out cases with the same noise as the base did, and is
measured by the finder that nobody trained on. One row is printed as soon as it is measured; finished ones are found again.

    IDGRPO_CONTROLS=FOLDER .venv/bin/python -m pytest -s -m bench tests/bench/test_controls.py -k tiny-phantom
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from idgrpo import stages
from idgrpo.demo.loop import GRPO, NOISE_SEED
from idgrpo.policy import LOSSES
from idgrpo.policy.loss import LossInputs, LossTerms, clip_loss
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Sample
from idgrpo.stages import Store
from idgrpo.stages.evaluate import result

DEMO = Path(os.environ.get("IDGRPO_DEMO", "demo-output/evidence"))
FOLDER = Path(os.environ.get("IDGRPO_CONTROLS", "demo-output/controls"))
SFT_UPDATES, GRPO_UPDATES = 240, 12
SHOWN = ("identity", "confusion", "separation", "margin", "swap_rate")
pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

FINDER = {
    **GRPO,
    "reward.contrast": 0.0,
    "reward.sources": {"separation": "separation"},
    "reward.finder": "tiny",
    "reward.weights": {"rm": 0.0},
}
"""The measure itself as the reward: what a perfect judge of separation would give."""
CROSS = ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]
SELF = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
ALL_LEVELS = {"rollout.window.last": 7}
STEPS = {"loss.credit": "steps", "rollout.merged": False}

FROM_BASE = {
    "GRPO, plain reward": {"kl.reference": "base", "reward.contrast": 0.0},
    "GRPO, finder": {k: v for k, v in FINDER.items() if k.startswith("reward.")},
}
FROM_SFT = {
    "GRPO of the demo": {},
    "the finder's separation as reward": FINDER,
    "the finder, 3 times as many updates": {**FINDER, "num_updates": 3 * GRPO_UPDATES},
    "all noise levels": ALL_LEVELS,
    "groups of 4 (of twice as many cases)": {"group.size": 4, "group.num_cases": 12},
    "groups of 16 (of half as many cases)": {"group.size": 16, "group.num_cases": 3},
    "credit by steps": STEPS,
    "credit by steps, 3 times as many updates": {**STEPS, "num_updates": 3 * GRPO_UPDATES},
    "credit by steps, the finder as reward": {**STEPS, **FINDER},
    "a third of the learning rate": {"optimizer.lr": 1e-3},
    "negative samples at half weight": {"loss.name": "weak-negatives"},
    # Drawn by a slow average of the policy, as its authors do: on policy its gradient would be that of the demo's loss.
    "DiffusionNFT's loss": {"loss.name": "nft", "rollout.decay": 0.5},
    "adapter on cross-attention alone": {"lora.targets": CROSS},
    "adapter on self-attention alone": {"lora.targets": SELF},
}


def weak_negatives(inputs: LossInputs) -> LossTerms:
    """Push away from bad samples half as hard as towards good ones."""
    advantage = inputs.advantage.where(inputs.advantage > 0, inputs.advantage / 2)
    return clip_loss(dataclasses.replace(inputs, advantage=advantage))


def separation_of(report, variant: str) -> dict[str, float]:
    """Give the separation by the finder of each clip of a report, by its path."""
    return {
        str((report.path / sample["video"]).resolve()): sample["values"]["separation"]
        for sample in json.loads((report.path / "report.json").read_text(encoding="utf-8"))["samples"]
        if sample["variant"] == variant
    }


class Controls:
    """Trains and measures in a store that begins as a copy of the evidence's."""

    def __init__(self, base: str):
        if not (DEMO / "store").is_dir():
            pytest.skip(f"{DEMO}/store is missing: run `make evidence`, or set IDGRPO_DEMO")
        if not FOLDER.is_dir():
            shutil.copytree(DEMO, FOLDER, symlinks=True, ignore=shutil.ignore_patterns("runs"))
        self.store, self.base = Store(FOLDER / "store"), base
        LOSSES["weak-negatives"] = f"{__name__}:weak_negatives"
        rounds = 2 if base == "tiny-vace" else 1
        self.taught = self.store.resolve(f"policy/{base}-sft{rounds}-seed0")

    def sft(self, name: str, data: str | Path, settings: dict[str, object], updates: int = SFT_UPDATES):
        """Tune the base on stored clips."""
        given = {"num_updates": updates, "seed": 0, **settings}
        return stages.train_policy(
            self.base, method="sft", data=data, settings=given, name=f"{self.base}-{name}", store=self.store
        )

    def grpo(self, name: str, settings: dict[str, object], init=None):
        """Go on with GRPO from a policy, or from the base."""
        given = {"num_updates": GRPO_UPDATES, "seed": 0, **settings}
        return stages.train_policy(
            self.base, cases="cases/train-seed0", rm="rm/demo", init=init, settings=given,
            name=f"{self.base}-{name}", store=self.store,
        )  # fmt: skip

    def best_of_8(self) -> Path:
        """Let the base draw each training case 8 times and keep the clip that the finder says separates best."""
        settings = {"num_per_case": 8, "seed": 77}
        drawn = stages.sample(
            "cases/train-seed0", base=self.base, settings=settings, name=f"{self.base}-8", store=self.store
        )
        report = stages.evaluate({"base": drawn}, name=f"{self.base}-8", store=self.store)
        values, best = separation_of(report, "base"), {}
        for sample in read_records(drawn.path / "samples.jsonl", Sample):
            video = str(Path(sample.video).resolve())
            if video in values and (sample.case_id not in best or values[video] > best[sample.case_id][0]):
                best[sample.case_id] = (values[video], sample)
        kept = FOLDER / f"{self.base}-best.jsonl"
        write_records(kept, [sample for _, sample in best.values()])
        return kept

    def measure(self, title: str, policy) -> dict[str, dict[str, float]]:
        """Sample the held-out cases, compare with the base, print the row of changes and give it; keep it beside the store."""
        name = policy.ref.split("/")[1].split("@")[0]
        settings = {"num_per_case": 1, "seed": NOISE_SEED}
        clips = stages.sample(
            "cases/eval-seed0",
            base=self.base,
            policy=policy,
            settings=settings,
            name=f"control-{name}",
            store=self.store,
        )
        before = self.store.resolve(f"samples/{self.base}-before-seed0")
        report = stages.evaluate({"base": before, "tuned": clips}, name=f"control-{name}", store=self.store)
        comparison = result(report).document["comparisons"]["tuned"]
        row = {measure: comparison[measure]["difference"] for measure in SHOWN}
        told = " | ".join(f"{v['value']:+.3f} ({v['low']:+.3f} to {v['high']:+.3f})" for v in row.values())
        print(f"\n| {self.base} | {title} | {told} |", flush=True)
        with (FOLDER / "controls.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"base": self.base, "control": title, **row}) + "\n")
        return row


@pytest.fixture(scope="module", params=["tiny-phantom", "tiny-vace"])
def controls(request):
    return Controls(request.param)


@pytest.fixture(scope="module")
def start(controls):
    """The row of the demo's start, which the others are held against."""
    return controls.measure("SFT on true clips with guidance (the demo's start)", controls.taught)


def test_capacity_fine_tuned_on_true_clips(controls, start):
    settings = {"clips.guidance": 0.0}
    row = controls.measure("SFT on true clips", controls.sft("true", "samples/true-train", settings))
    assert row["identity"]["low"] > 0 and start["separation"]["low"] > 0
    assert row["separation"]["value"] < start["separation"]["value"]


def test_selection_fine_tuned_on_the_best_of_8_by_the_finder(controls):
    settings = {"clips.guidance": 0.0}
    row = controls.measure("SFT on the best of 8 by the finder", controls.sft("best", controls.best_of_8(), settings))
    assert row["separation"]["low"] <= 0


@pytest.mark.parametrize("title", FROM_BASE)
def test_grpo_without_a_warm_start_separates_less(controls, start, title):
    name = "grpo-" + "".join(c for c in title.lower() if c.isalnum())
    settings = {**FROM_BASE[title], "num_updates": 4 * GRPO_UPDATES}
    row = controls.measure(f"{title}, {4 * GRPO_UPDATES} updates", controls.grpo(name, settings))
    assert row["separation"]["value"] < start["separation"]["value"]


@pytest.mark.parametrize("title", FROM_SFT)
def test_grpo_after_the_warm_start_does_not_separate_further(controls, start, title):
    """A row above the start's interval would be the recipe that was looked for."""
    name = "then-" + "".join(c for c in title.lower() if c.isalnum())
    settings, init = {**GRPO, **FROM_SFT[title]}, controls.taught
    if targets := FROM_SFT[title].get("lora.targets"):  # an adapter goes on with the layers that it has
        start_settings = {"lora.targets": targets}
        init = controls.sft(f"sft-{name}", "samples/true-train", start_settings)
    row = controls.measure(title, controls.grpo(name, settings, init))
    assert row["separation"]["value"] <= start["separation"]["high"]

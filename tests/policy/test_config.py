"""What a run would refuse is refused by the settings, all at once, before any weights are read."""

import json

import pytest
from pydantic import ValidationError

from idgrpo.cli.main import run
from idgrpo.policy import LOSSES
from idgrpo.policy.config import PolicyConfig

# settings -> what the message must say
REFUSED = {
    "zero 3 and a swapped reference": (
        "engine.zero = 3\nkl.reference = 'start'",
        "ZeRO 3 keeps no whole trained weights",
    ),
    "zero 3 and all weights": ("engine.zero = 3\ntrain = 'full'", "ZeRO 3 keeps no whole trained weights"),
    "zero 3 and one step of the KL": ("engine.zero = 3\nkl.steps = 'first'", "kl.steps=first does not"),
    "holding without whole rollouts": (
        "engine = {zero = 3, whole_rollout = false}\nkl.weight = 0\nadvantage = {controls = ['sharpness'], hold = 1.0}",
        "set advantage.hold=0",
    ),
    "merging without whole rollouts": (
        "engine = {zero = 3, whole_rollout = false}\nrollout.merged = true",
        "rollout.merged folds the adapter",
    ),
    "one start for a group": (
        "rollout.noise = 'shared'\nloss.credit = 'forward'",
        "members of a group would be equal",
    ),
    "clips for GRPO": ("clips.num_per_update = 8", "clips.* are settings of method=sft"),
    "measures for SFT": ("method = 'sft'\nreward.sources = {identity = 'identity'}", "reward.sources are for GRPO"),
    "law": ("rollout.law = 'wang'", "rollout.law 'wang' is not known (known: wan, flow, dance, cps)"),
    "solver": ("rollout.solver = 'heun'", "rollout.solver 'heun' is not known"),
    "loss": ("loss.name = 'ppo'", f"known: {', '.join(LOSSES)}"),
    "rate": ("optimizer.lr = inf", "optimizer.lr: Input should be a finite number"),
    "betas": ("optimizer.betas = [2, 3]", "optimizer.betas.1"),
    "guidance": ("rollout.guidance.scale = nan", "rollout.guidance.scale: Input should be a finite number"),
    "seed": ("seed = -1", "seed: Input should be greater than or equal to 0"),
    "large seed": ("seed = 9223372036854775807000", "seed"),
    "evaluation seed": ("evaluation.seed = -2", "evaluation.seed"),
    "weights of rewards": ("reward.weights = {reward = inf}", "reward.weights.reward: Input should be a finite number"),
    "contrast": ("reward.contrast = 2.0", "reward.contrast"),
    "updates": ("num_updates = 1000000000", "num_updates"),
    "steps": ("rollout.num_steps = 100000", "rollout.num_steps"),
    "size": ("size.width = 1000000", "size.width"),
    "rank": ("lora.rank = 10000000", "lora.rank"),
    "targets": ("lora.targets = []", "lora.targets"),
    "wait": ("reward.retry_wait_s = inf", "reward.retry_wait_s"),
    "average": ("ema.decay = nan", "ema.decay"),
}


@pytest.fixture
def check(tmp_path, capsys):
    def invoke(text: str) -> tuple[int, str]:
        path = tmp_path / "train-policy.toml"
        path.write_text(text + "\n")
        code = run(["config", "check", "train-policy", str(path), "--json"])
        document = json.loads(capsys.readouterr().out)
        return code, document["error"]["message"] if code else ""

    return invoke


@pytest.mark.parametrize("name", REFUSED)
def test_config_check_refuses_what_a_run_would(check, name):
    text, message = REFUSED[name]
    code, said = check(text)
    assert code == 2 and message in said, said


def test_all_that_contradict_each_other_are_told_at_once(check):
    code, said = check(
        "engine = {zero = 3, whole_rollout = false}\nkl = {reference = 'start', steps = 'first'}\n"
        "rollout.merged = true\nadvantage = {controls = ['sharpness'], hold = 1.0}"
    )
    assert code == 2
    for part in ("keeps no whole trained weights", "kl.steps=first", "not dealt out evenly", "rollout.merged"):
        assert part in said


def test_all_numbers_out_of_range_are_told_at_once(check):
    code, said = check("seed = -1\noptimizer = {lr = inf, betas = [2, 3]}\nrollout.guidance.scale = nan")
    assert code == 2
    assert all(name in said for name in ("seed", "optimizer.lr", "optimizer.betas.0", "optimizer.betas.1", "guidance"))


def test_no_number_of_any_slot_may_be_infinite():
    def floats(schema, place=()):
        for name, field in schema.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from floats(inner, (*place, name))
            elif "float" in str(inner) and "dict" not in str(inner) and "tuple" not in str(inner):
                yield (*place, name)

    found = list(floats(PolicyConfig))
    assert len(found) > 20
    for place in found:
        for value in (float("inf"), float("nan"), -float("inf")):
            setting: dict = {place[-1]: value}
            for part in reversed(place[:-1]):
                setting = {part: setting}
            with pytest.raises(ValidationError):
                PolicyConfig.model_validate(setting)


def test_zero_2_takes_what_zero_3_refuses(check):
    code, said = check("engine.zero = 2\nkl = {reference = 'start', steps = 'first'}")
    assert code == 0, said

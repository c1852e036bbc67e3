"""Settings are refused when they are read; a loss is one function and one line."""

import subprocess
import sys

import pytest
import torch

from idgrpo.errors import UsageError
from idgrpo.reward import LOSSES
from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.fit import _order
from idgrpo.reward.losses import load_loss, takes_ties
from idgrpo.run.config import load_config


def squared(gap: torch.Tensor, label: torch.Tensor, *, margin: float = 1.0, power: float = 2.0) -> torch.Tensor:
    """A loss that nobody but the registry knows; `margin` is a setting, `power` has none."""
    return ((gap.abs() - margin).abs() ** power) * (label >= 0)


def test_a_loss_is_one_function_and_one_line(monkeypatch) -> None:
    monkeypatch.setitem(LOSSES, "squared", f"{__name__}:squared")
    config = load_config(RewardModelConfig, sets=["loss.name=squared", "loss.margin=3"])
    assert config.loss.arguments() == {"margin": 3.0}
    assert takes_ties("squared") and not takes_ties("bradley_terry")
    assert load_loss("squared") is squared


def test_settings_of_the_losses_are_those_of_before() -> None:
    found = {name: RewardModelConfig.model_validate({"loss": {"name": name}}).loss.arguments() for name in LOSSES}
    assert found == {
        "rao_kupper": {"theta": 5.0},
        "davidson": {"nu": 1.0},
        "bradley_terry": {},
        "margin": {"margin": 1.0},
    }


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="loss.name: 'rao_kuper' is not known .* did you mean 'rao_kupper'"):
        load_config(RewardModelConfig, sets=["loss.name=rao_kuper"])


@pytest.mark.parametrize(
    "setting", ["full.rates.lora=inf", "head.rate=nan", "full.epochs=inf", "head.epochs=1e9", "seed=-1", "seed=1e20",
                "inputs.fps=inf", "loss.theta=inf", "full.lora.alpha=nan", "inputs.num_frames=1000000"],
)  # fmt: skip
def test_absurd_numbers_are_refused_when_they_are_read(setting) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        load_config(RewardModelConfig, sets=[setting])


def test_more_draws_than_anybody_waits_for_are_refused_with_the_arithmetic() -> None:
    class Session:
        config = RewardModelConfig()

    with pytest.raises(UsageError, match="50000 epochs of 4000 pairs are 200,000,000 draws"):
        _order(Session(), [None] * 4000, 50_000, "all")  # type: ignore[arg-type, list-item]


def test_settings_import_no_torch() -> None:
    code = "import sys, idgrpo.reward.config as c; c.RewardModelConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

import subprocess
import sys

import pytest

from idgrpo.bases.config import SampleConfig, SamplerConfig
from idgrpo.bases.contract import Guidance, VideoSize
from idgrpo.bases.entries import ENTRIES
from idgrpo.errors import UsageError
from idgrpo.run.config import load_config


def test_what_is_left_out_is_the_published_default():
    full = SamplerConfig().resolved(ENTRIES["phantom"])
    assert (full.num_steps, full.shift, full.guidance, full.image_guidance) == (50, 5.0, 7.5, 5.0)
    assert SamplerConfig().size(ENTRIES["phantom"]) == VideoSize(832, 480, 81)
    assert SamplerConfig().guidance_for(ENTRIES["vace"]) == Guidance(scale=5.0)
    assert SamplerConfig().guidance_for(ENTRIES["tiny-vace"]).mode == "none"


def test_what_is_said_stays():
    said = SamplerConfig(num_steps=3, shift=1.5, width=64, guidance=2.0, image_guidance=1.0)
    full = said.resolved(ENTRIES["phantom"])
    assert (full.num_steps, full.shift, full.width, full.height) == (3, 1.5, 64, 480)
    assert (full.guidance, full.image_guidance) == (2.0, 1.0)


def test_asking_for_a_scale_switches_guidance_on_where_it_is_off():
    assert SamplerConfig(guidance=3.0).guidance_for(ENTRIES["tiny-phantom"]) == Guidance(3.0, 3.0, "both-grad")
    assert SamplerConfig(guidance=3.0, guidance_mode="none").guidance_for(ENTRIES["tiny-phantom"]).mode == "none"


def test_zero_is_a_value():
    assert SamplerConfig(guidance=0.0).resolved(ENTRIES["vace"]).guidance == 0.0


def test_resolving_twice_changes_nothing():
    once = SamplerConfig(law="wan").resolved(ENTRIES["phantom"])
    assert once.resolved(ENTRIES["phantom"]) == once


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("sampler.solver=heun", "known: euler, second-order"),
        ("sampler.law=sde", "known: wan, flow, dance, cps"),
        ("sampler.eta=0.5", "eta needs a stochastic law"),
        ("sampler.num_step=5", "did you mean 'num_steps'"),
        ("sampler.num_steps=0", "num_steps"),
        ("num_per_case=0", "num_per_case"),
    ],
)
def test_wrong_settings_are_explained(setting, text):
    with pytest.raises(UsageError, match=text):
        load_config(SampleConfig, None, [setting])


def test_configuration_and_entries_import_no_torch():
    code = "import idgrpo.bases.config, idgrpo.bases.entries, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

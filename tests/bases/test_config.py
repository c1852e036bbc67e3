import subprocess
import sys

import pytest

from idgrpo.bases.config import SampleConfig, SamplerConfig
from idgrpo.bases.contract import Guidance, VideoSize
from idgrpo.bases.entries import ENTRIES
from idgrpo.errors import DataError, UsageError
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
        ("sampler.guidance=nan", r"sampler\.guidance: .*finite"),
        ("sampler.image_guidance=inf", r"sampler\.image_guidance"),
        ("sampler.guidance=1e9", r"sampler\.guidance: .*100"),
        ("sampler.shift=inf", r"sampler\.shift"),
        ("sampler.shift=nan", r"sampler\.shift"),
        ("sampler.batch_size=100000", r"sampler\.batch_size"),
        ("seed=-1", "seed"),
        ("seed=9223372036854775808", "seed"),
        ("num_per_case=1000000000", "num_per_case"),
        ("sampler.frames=3000000000", "1 x 1 x 3,000,000,000 is 3,000,000,000 pixels, at most 2,147,483,648"),
    ],
)
def test_wrong_settings_are_explained(setting, text):
    with pytest.raises(UsageError, match=text):
        load_config(SampleConfig, None, [setting])


def test_configuration_and_entries_import_no_torch():
    code = "import idgrpo.bases.config, idgrpo.bases.entries, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("eta", ["nan", "inf", "1e9", "-1"])
def test_a_strength_that_is_no_strength_is_refused(eta):
    with pytest.raises(UsageError, match=r"sampler\.eta"):
        load_config(SampleConfig, None, ["sampler.law=flow", f"sampler.eta={eta}"])


def test_a_size_that_is_absurd_with_the_base_s_own_is_refused_with_the_arithmetic():
    wide = SamplerConfig(width=1_000_000)
    with pytest.raises(UsageError, match="1,000,000 x 480 x 81 is 38,880,000,000 pixels"):
        wide.size(ENTRIES["vace"])


def test_only_vace_has_another_order():
    assert SamplerConfig(reversed_references=True).resolved(ENTRIES["vace"]).reversed_references
    with pytest.raises(UsageError, match="base 'phantom': reversed references"):
        SamplerConfig(reversed_references=True).resolved(ENTRIES["phantom"])


def test_absurd_numbers_of_clips_are_refused_with_the_arithmetic():
    from idgrpo.bases.generate import jobs_of
    from idgrpo.records.models import Case, Reference

    case = Case(id="one", prompt="a man", references=[Reference(person="ann", images=["a.png"])])
    with pytest.raises(UsageError, match="2 cases x 600,000 clips a case = 1,200,000 clips"):
        jobs_of([case, case], num_per_case=600_000)
    with pytest.raises(DataError, match="case 'one': seed -3"):
        jobs_of([case.model_copy(update={"seed": -3})])

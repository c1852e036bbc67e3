import pytest

from idgrpo.distort.config import DistortConfig, parse_mix
from idgrpo.distort.registry import DISTORTIONS
from idgrpo.errors import UsageError
from idgrpo.run.config import load_config, to_toml


def test_the_default_mix_has_six_distortions_and_two_controls_or_more():
    names = DistortConfig().weights()
    families = [DISTORTIONS[name].family for name in names]
    assert families.count("identity") >= 6 and families.count("control") >= 2
    assert "degrade" not in families and "motion" not in families and "renoise" not in names


def test_a_mix_is_names_with_weights():
    assert parse_mix("swap_late=2, replace ,blend=0.5") == {"swap_late": 2.0, "replace": 1.0, "blend": 0.5}
    with pytest.raises(UsageError, match="NAME=WEIGHT"):
        parse_mix("blend=much")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("mix.swop=1", "unknown distortion 'swop'"),
        ("mix.blend=-1", "at least 0"),
        ("strength.tie_below=0.5", "two labels"),
        ("balance.graded=1.5", "less than or equal to 1"),
        ("per_vidoe=3", "per_video"),
    ],
)
def test_wrong_settings_are_named(setting, said):
    with pytest.raises(UsageError, match=said):
        load_config(DistortConfig, None, [setting])


def test_settings_survive_a_file(tmp_path):
    config = DistortConfig(mix={"blend": 2.0}, strength={"low": 0.5})
    (tmp_path / "distort.toml").write_text(to_toml(config))
    assert load_config(DistortConfig, tmp_path / "distort.toml") == config


def test_settings_import_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, idgrpo.distort.config, idgrpo.stages.distort; print([m for m in ('torch', 'av', 'scipy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )

from typing import Literal

import pytest
from pydantic import Field

from idgrpo.errors import UsageError
from idgrpo.run.config import Config, load_config, to_toml


class Inner(Config):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Outer(Config):
    seed: int = 0
    name: str | None = None
    optimizer: Inner = Inner()


def test_file_then_sets_in_order(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("seed = 3\n[optimizer]\nlr = 0.5\n")
    config = load_config(Outer, file, ["optimizer.betas=[0.5, 0.6]", "name=tiny", "seed=4"])
    assert (config.seed, config.name, config.optimizer.lr, config.optimizer.betas) == (4, "tiny", 0.5, (0.5, 0.6))


def test_all_errors_come_at_once_with_the_nearest_key():
    with pytest.raises(UsageError) as caught:
        load_config(Outer, None, ["optimizer.lrr=1", "sed=1", "optimizer.lr=fast"])
    text = caught.value.message
    assert "optimizer.lrr: there is no such key; did you mean 'lr'?" in text
    assert "sed: there is no such key; did you mean 'seed'?" in text
    assert "optimizer.lr: Input should be a valid number" in text and "'fast'" in text


def test_configurations_round_trip_through_toml(tmp_path):
    config = load_config(Outer, None, ["optimizer.lr=2e-4", 'name="a \\"b\\""'])
    path = tmp_path / "c.toml"
    path.write_text(to_toml(config))
    assert load_config(Outer, path) == config


def test_none_survives_the_way_through_toml(tmp_path):
    class Levels(Config):
        top: float | None = 0.9
        mode: str = "none"

    path = tmp_path / "c.toml"
    path.write_text(to_toml(load_config(Levels, None, ["top=null"])))
    assert load_config(Levels, path) == Levels(top=None, mode="none")


def test_a_folder_is_no_configuration_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(Outer, tmp_path)


def test_bad_files_and_sets_are_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_config(Outer, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 3")
    with pytest.raises(UsageError, match="is not TOML"):
        load_config(Outer, tmp_path / "bad.toml")
    with pytest.raises(UsageError, match="key=value"):
        load_config(Outer, None, ["seed"])


def test_an_option_and_a_set_that_contradict_each_other_are_refused():
    """The option won without a word."""
    assert load_config(Outer, None, ["seed=4"], options={"seed": 4}).seed == 4
    assert load_config(Outer, None, ['seed="4"'], options={"seed": 4}).seed == 4
    with pytest.raises(UsageError, match="--set says that seed is 4, an option that it is 5"):
        load_config(Outer, None, ["seed=4"], options={"seed": 5})
    with pytest.raises(UsageError, match="--set says that optimizer.lr is 0.5, an option that it is 0.1"):
        load_config(Outer, None, ['optimizer={"lr": 0.5}'], options={"optimizer.lr": 0.1})


def test_text_fields_take_what_looks_like_a_number_as_text():
    class Named(Config):
        name: str = "a"
        other: str | None = None
        size: int | str = 1
        inner: Outer = Outer()

    config = load_config(Named, None, ["name=123", "other= 1e3", "size=7", "inner.name=true", "inner.seed=4"])
    assert (config.name, config.other, config.size, config.inner.name, config.inner.seed) == (
        "123",
        "1e3",
        7,
        "true",
        4,
    )
    with pytest.raises(UsageError) as caught:
        load_config(Named, None, ["name=123", "inner.seed=x", "inner.nme=5"])
    assert "inner.seed: " in caught.value.message and "did you mean 'name'?" in caught.value.message
    assert "valid string" not in caught.value.message


def test_configurations_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Outer().seed = 5


def test_a_choice_called_none_is_no_missing_value(tmp_path):
    class Guided(Config):
        mode: Literal["none", "both"] | None = None

    assert load_config(Guided, None, ["mode=none"]).mode == "none"
    for chosen in (None, "none", "both"):
        path = tmp_path / "c.toml"
        path.write_text(to_toml(Guided(mode=chosen)))
        assert load_config(Guided, path).mode == chosen


def test_lists_of_tables_survive_the_way_through_toml(tmp_path):
    class Panel(Config):
        members: tuple[Inner, ...] = ()
        weights: dict[str, float] = {}

    config = Panel(members=(Inner(lr=0.5), Inner()), weights={"a b": 2.0})
    path = tmp_path / "c.toml"
    for comments in (False, True):
        path.write_text(to_toml(config, comments=comments))
        assert load_config(Panel, path) == config


def test_only_what_is_live_counts_in_a_file_with_comments(tmp_path):
    class Told(Config):
        """What is told."""

        seed: int = Field(default=0, description="seed of all draws")
        inner: Outer = Outer()

    config = load_config(Told, None, ["inner.optimizer.lr=0.5"])
    text = to_toml(config, comments=True, live={"inner": {"optimizer": {"lr": 0.5}}}, here={"inner.name": "tiny"})
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert load_config(Told, path).model_dump(exclude_unset=True) == {"inner": {"optimizer": {"lr": 0.5}}}
    assert "# seed of all draws\n# seed = 0\n" in text and '# (none comes to tiny here)\n# name = "none"' in text

"""The generated reference says what the code is, and nothing in it is typed by hand."""

import importlib.util
import json
import re
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from typer import Typer

from idgrpo.cli import COMMANDS
from idgrpo.distort.registry import known
from idgrpo.errors import IdgrpoError
from idgrpo.evaluate import FIELD_MEASURES, MEASURES
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Case, Pair, Preference, Sample, Vote
from idgrpo.run.described import slots_of
from idgrpo.stages.settings import STAGES
from idgrpo.stages.source import RECORD_FILES
from idgrpo.store import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "commands",
    "settings",
    "records",
    "artifacts",
    "metrics",
    "measures",
    "distortions",
    "names",
    "exit-codes",
    "python",
)
MODELS = {"cases": Case, "samples": Sample, "pairs": Pair, "votes": Vote, "preferences": Preference}


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    return load("docs_generate", ROOT / "docs" / "generate.py")


def text_of(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


def settings_model(stage: str):
    module, _, name = STAGES[stage].partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says_now(name, generate):
    assert set(generate.PAGES) == set(PAGES)
    assert text_of(name) == generate.page(name), "run `make reference` and commit docs/reference/"


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_described_and_listed(stage):
    text = text_of("settings")
    settings = [setting for slot in slots_of(settings_model(stage)) for setting in slot.settings]
    assert len(settings) > 10
    assert not [setting.key for setting in settings if not setting.description]
    section = re.search(rf"^## {stage}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert not [setting.key for setting in settings if f"| `{setting.key}` |" not in section[1]]


def test_a_setting_without_a_description_fails_the_build(generate, monkeypatch):
    from idgrpo.evaluate.config import PageConfig

    monkeypatch.setattr(PageConfig.model_fields["title"], "description", None)
    with pytest.raises(SystemExit, match="page.title has no description"):
        generate.page("settings")


def test_every_number_has_a_unit_and_every_text_none():
    for stage in STAGES:
        for setting in (setting for slot in slots_of(settings_model(stage)) for setting in slot.settings):
            is_number = "number" in setting.values.split(",")[0]
            assert bool(setting.unit) == is_number, setting
    units = {s.key: s.unit for slot in slots_of(settings_model("train-policy")) for s in slot.settings}
    assert (
        units["size.width"] == "pixels"
        and units["plan.link_gb_s"] == "GB/s"
        and units["reward.retry_wait_s"] == "seconds"
    )


def test_every_command_and_option_is_listed():
    text = text_of("commands")
    for name, (target, _) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        function = getattr(import_module(module), attribute)
        assert f"## idgrpo {name}\n" in text
        if isinstance(function, Typer):
            for part in function.registered_commands:
                assert f"### idgrpo {name} {part.name or part.callback.__name__}\n" in text
        else:
            section = text.split(f"## idgrpo {name}\n")[1].split("\n## ")[0]
            assert section.count("\n| `") == len(signature(function).parameters), name


def test_measures_distortions_kinds_and_exit_codes_are_listed():
    for page, names in {
        "measures": [*MEASURES, *FIELD_MEASURES],
        "distortions": known(),
        "artifacts": KINDS,
    }.items():
        assert not [name for name in names if f"| `{name}` |" not in text_of(page)]
    for kind in IdgrpoError.__subclasses__():
        assert f"| {kind.exit_code} |" in text_of("exit-codes") and kind.remedy in text_of("exit-codes")


@pytest.mark.parametrize("kind", RECORD_FILES)
def test_the_example_line_of_a_record_is_read_back(kind, generate, tmp_path):
    section = text_of("records").split(f"## {kind}: {RECORD_FILES[kind]}\n")[1]
    line = re.search(r"```json\n(.*?)\n```", section)
    assert line is not None
    file = tmp_path / RECORD_FILES[kind]
    file.write_text(line[1] + "\n", encoding="utf-8")
    (record,) = read_records(file, MODELS[kind])
    assert set(json.loads(line[1])) == set(MODELS[kind].model_fields), "an example shows every field"
    assert record.resolved(tmp_path) == generate.EXAMPLES[kind].resolved(tmp_path)


def test_keys_with_a_name_inside_have_a_meaning_and_phases_are_those_of_the_code():
    """That every key of a real run has one is asked where runs are tested: tests/policy."""
    from idgrpo.policy.keys import meaning

    sources = "".join(path.read_text() for path in (ROOT / "src/idgrpo/policy").glob("*.py"))
    phases = set(re.findall(r'\.phase\("(\w+)"\)', sources)) | {"eval"}
    told = meaning("seconds_rollout")
    assert told is not None and phases == set(re.findall(r"\w+", told.split(":")[1]))
    assert meaning("reward_identity_mean") and meaning("eval_worst") and meaning("log_ratio_step03")
    assert meaning("nonsense") is None

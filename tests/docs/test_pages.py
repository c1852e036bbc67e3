"""Commands in the pages exist: every command line of tutorial, how-to pages and README names a command and options that there are."""

import re
import shlex
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from typer import Typer
from typer.models import ArgumentInfo

from idgrpo.cli import COMMANDS
from idgrpo.run.described import slots_of
from idgrpo.stages.settings import STAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
WRITTEN = [path for path in PAGES if path.parent.name != "reference"]


def blocks(path: Path) -> list[str]:
    """Give the shell blocks of a page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in ("", "sh", "bash")]


def command_lines(path: Path) -> list[str]:
    """Give the calls of idgrpo in the shell blocks of a page, without comments."""
    lines = "\n".join(blocks(path)).replace("\\\n", " ").splitlines()
    found = (re.search(r"(?:^|\s|;)idgrpo (?=[a-z])(.*)", re.sub(r"\s#.*", "", line)) for line in lines)
    return [match[1].rstrip(" &") for match in found if match]


def functions(name: str) -> dict[str, Any]:
    """Give the functions of a command: one, or those of its parts by name."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    function = getattr(import_module(module), attribute)
    if not isinstance(function, Typer):
        return {"": function}
    return {part.name or part.callback.__name__: part.callback for part in function.registered_commands}


def options_of(function: Any) -> set[str]:
    hints = get_type_hints(function, include_extras=True)
    names: set[str] = {"--help", "-h"}
    for name in signature(function).parameters:
        info = get_args(hints[name])[1]
        if not isinstance(info, ArgumentInfo):
            first = [info.default] if isinstance(info.default, str) else []
            said = [*first, *(info.param_decls or ())] or [f"--{name.replace('_', '-')}"]
            names |= {part for text in said for part in text.split("/")}
    return names


def settings_of(stage: str) -> set[str]:
    module, _, name = STAGES[stage].partition(":")
    return {setting.key for slot in slots_of(getattr(import_module(module), name)) for setting in slot.settings}


LINES = [(str(path.relative_to(ROOT)), line) for path in WRITTEN for line in command_lines(path)]


def test_there_are_command_lines():
    assert len({page for page, _ in LINES}) > 12 and len(LINES) > 60


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:50]}" for page, line in LINES])
def test_a_command_line_names_a_command_and_options_that_there_are(page, line):
    words = shlex.split(line)
    if words[0] in ("version", "help"):
        return
    assert words[0] in COMMANDS, page
    parts = functions(words[0])
    part = words[1] if "" not in parts and len(words) > 1 else ""
    if part not in parts:
        assert "" not in parts and not part.isalpha(), f"{page}: idgrpo {words[0]} has no part {part}"
        return
    known = options_of(parts[part])
    assert not [word for word in words if word.startswith("--") and word.split("=")[0] not in known], page
    stage = words[0] if words[0] in STAGES else None
    for place, word in enumerate(words):
        if stage and word == "--set" and place + 1 < len(words):
            key = words[place + 1].split("=")[0]
            keys = settings_of(stage)
            free = {"people.options", "mix", "reward.weights"}
            assert key in keys or any(key.startswith(f"{one}.") for one in free), f"{page}: {key} is no setting"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [
        str(p.relative_to(ROOT / "docs"))
        for p in PAGES
        if p.is_relative_to(ROOT / "docs") and str(p.relative_to(ROOT / "docs")) not in text
    ]
    assert not missing


def test_links_between_pages_lead_somewhere():
    """What `make docs` checks as well, without its tools."""
    wrong = []
    for path in WRITTEN:
        for target in re.findall(
            r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        ):
            if "://" not in target and not (path.parent / target).exists():
                wrong.append(f"{path.relative_to(ROOT)}: {target}")
    assert not [line for line in wrong if not line.startswith("README.md: docs/findings.md")], "\n".join(wrong)

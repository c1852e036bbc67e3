"""The rules of the house: imports go down, files stay short, registries resolve, nothing of one machine gets in."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "idgrpo"
FLOORS = {
    "cli": 4, "policy": 3, "annotate": 2, "distort": 2, "reward": 2, "bases": 2, "evaluate": 2, "tinyworld": 2,
    "flow": 1, "people": 1, "video": 1, "records": 1, "store": 1, "run": 1,
}  # fmt: skip
# Neighbours on the ground floor that may lean on each other.
GROUND = {("store", "records"), ("run", "records"), ("run", "store"), ("records", "video")}
# The embedded world trains its judge with the very input builder that reads it later, on clips of the very bases.
TRAINING = {("tinyworld", "reward"), ("tinyworld", "bases")}
MAX_LINES = 500
FILES = sorted(SOURCE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_imports_only_go_down():
    wrong = []
    for path in FILES:
        parts = path.relative_to(SOURCE).parts
        if len(parts) == 1:
            continue
        room = parts[0]
        for module in imports_of(path):
            if not module.startswith("idgrpo.") or module.split(".")[1] not in FLOORS:
                continue
            other = module.split(".")[1]
            allowed = (
                other == room
                or FLOORS[other] < FLOORS[room]
                or (room, other) in GROUND
                or ((room, other) in TRAINING and "training" in parts)
            )
            if not allowed:
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_floor_and_says_what_it_reads_and_writes():
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(FLOORS)
    for room in rooms:
        text = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8")))
        assert text and len(text.splitlines()) >= 2, room


def test_files_stay_short_enough_to_read():
    long = {
        str(path.relative_to(ROOT)): n
        for path in FILES
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long


def test_every_module_has_a_docstring():
    missing = [
        str(path.relative_to(SOURCE))
        for path in FILES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not missing


def test_nothing_is_printed_or_left_unfinished():
    pattern = re.compile(r"^\s*print\(|\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
    found = [
        f"{path.relative_to(SOURCE)}:{n}"
        for path in FILES
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_no_file_names_a_machine_or_a_registry():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    words = ["/wo" + "rk/", "py" + "pi.org", "python" + "hosted", "/ro" + "ot/", "deb" + "ian.org", "npm" + "js."]
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in (".safetensors", ".png", ".mp4") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        assert not [word for word in words if word in text], name


def test_every_library_in_use_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = distributions(project["dependencies"])
    optional = distributions([name for names in project["optional-dependencies"].values() for name in names])
    development = runtime | distributions(project["optional-dependencies"]["dev"])
    pinned = distributions((ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n"))
    owners = packages_distributions()
    local = {"idgrpo", "tests"} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    for folder, declared in (("src", runtime | optional), ("tests", development)):
        for path in (ROOT / folder).rglob("*.py"):
            for name in {module.split(".")[0] for module in imports_of(path)} - set(sys.stdlib_module_names) - local:
                names = {plain_name(owner) for owner in owners[name]} if name in owners else {plain_name(name)}
                # pydantic's own core is a part of pydantic.
                assert names & declared or name == "pydantic_core", f"{path.relative_to(ROOT)} imports {name}"
    assert development <= pinned


def plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(lines: list[str]) -> set[str]:
    """Give the names in requirement lines, without versions."""
    return {plain_name(match[0]) for line in lines if (match := re.match(r"[\w.-]+", line))}


def import_strings() -> list[str]:
    pattern = re.compile(r'"(idgrpo(?:\.\w+)+:\w+)"')
    return sorted({match for path in FILES for match in pattern.findall(path.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("target", import_strings())
def test_registries_resolve(target):
    module, _, name = target.partition(":")
    assert hasattr(import_module(module), name)

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
    "cli": 6, "demo": 6, "study": 6, "stages": 5, "policy": 4, "tinyworld": 4,
    "annotate": 3, "distort": 3, "reward": 3, "bases": 3, "evaluate": 3, "store": 2, "run": 2,
    "flow": 1, "people": 1, "video": 1, "records": 1,
}  # fmt: skip
# The commands that call the demo and a study.
NEIGHBOURS = {("cli", "demo"), ("cli", "study")}
# Rooms below the stages know no store: artifacts and computing meet in the stages only.
STORELESS = {room for room, floor in FLOORS.items() if floor < FLOORS["stages"]} - {"store"}
# A command parses, calls one stage and prints.
CALLED_BY_COMMANDS = {"cli", "stages", "demo", "study", "errors"}
MAX_COMMAND_LINES = 150
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
            allowed = other == room or FLOORS[other] < FLOORS[room] or (room, other) in NEIGHBOURS
            if not allowed:
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)


def modules_imported_by(path: Path, names: set[str]) -> set[str]:
    """Give our own modules that a file imports, also inside functions and under `if TYPE_CHECKING`."""
    found = imports_of(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:  # `from room import file`
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found & names


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """List a way round for every module that is reached from itself, each circle once."""
    found: dict[frozenset[str], list[str]] = {}
    for start in graph:
        came: dict[str, str] = {}
        waiting = [start]
        while waiting:
            here = waiting.pop(0)
            for there in sorted(graph.get(here, ())):
                if there == start:
                    way = [here]
                    while way[-1] != start:
                        way.append(came[way[-1]])
                    found.setdefault(frozenset(way), way[::-1])
                elif there not in came:
                    came[there] = here
                    waiting.append(there)
    return list(found.values())


def test_no_modules_import_each_other_in_a_circle_not_even_for_type_hints():
    names = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in FILES}
    found = circles({name: modules_imported_by(path, set(names)) for name, path in names.items()})
    assert not found, "\n".join(" -> ".join([*way, way[0]]) for way in found)


def test_a_circle_through_type_hints_is_seen(tmp_path):
    (tmp_path / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.b import B\n")
    (tmp_path / "b.py").write_text("from room import a\n")
    names = {"room.a", "room.b"}
    graph = {f"room.{n}": modules_imported_by(tmp_path / f"{n}.py", names) for n in "ab"}
    assert graph == {"room.a": {"room.b"}, "room.b": {"room.a"}}
    assert circles(graph) == [["room.a", "room.b"]] and circles({"room.a": {"room.b"}}) == []


def test_every_module_of_our_own_that_is_imported_exists():
    """Also inside functions: the type checker lets libraries be missing, and would let these."""
    wrong = []
    for path in FILES + sorted((ROOT / "tests").rglob("*.py")):
        for module in imports_of(path):
            place = SOURCE.parent / Path(*module.split("."))
            if module.split(".")[0] == "idgrpo" and not (place.is_dir() or place.with_suffix(".py").is_file()):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_two_classes_share_a_name():
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    assert not {name: places for name, places in found.items() if len(places) > 1}


def test_artifacts_and_computing_meet_in_the_stages_only():
    wrong = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for path in FILES
        if path.relative_to(SOURCE).parts[0] in STORELESS
        for module in imports_of(path)
        if module.startswith("idgrpo.store")
    ]
    assert not wrong, "\n".join(wrong)


def test_commands_parse_call_a_stage_and_print():
    wrong = []
    for path in (SOURCE / "cli").glob("*.py"):
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_COMMAND_LINES:
            wrong.append(f"{path.name} has {lines} lines")
        rooms = {module.split(".")[1] for module in imports_of(path) if module.startswith("idgrpo.")}
        wrong += [f"{path.name} imports {room}" for room in rooms - CALLED_BY_COMMANDS]
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

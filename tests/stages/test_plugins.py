"""`idgrpo plugins` tells what of the installed parts cannot be used: broken, of another kind, or hidden by another of its name."""

import json

import pytest

from idgrpo.cli.main import run
from idgrpo.plugins import installed

PARTS = """
def score(frames, references, prompt):
    return 1.0

table = {}
"""


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Give a function that puts a package with entry points on the path: group -> name -> import string."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_parts.py").write_text(PARTS)
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit('needs a GPU')")

    def install(package: str, parts: dict[str, dict[str, str]]) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [line for group, named in parts.items()
                 for line in (f"[{group}]", *(f"{name} = {target}" for name, target in named.items()))]  # fmt: skip
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        installed.cache_clear()

    yield install
    installed.cache_clear()


def test_what_cannot_be_used_is_told_with_the_reason(bring, capsys):
    bring("one", {
        "idgrpo.rewards": {"bright": "some_parts:score", "clash": "some_parts:score", "exits": "exits_at_once:it",
                           "identity": "some_parts:score", "table": "some_parts:table"},
        "idgrpo.bases": {"vace": "some_parts:table", "mine": "some_parts:table"},
        "idgrpo.measures": {"unmarked": "some_parts:score"},
        "idgrpo.distortions": {"smear": "some_parts:score"},
    })  # fmt: skip
    bring("two", {"idgrpo.rewards": {"clash": "some_parts:table"}})
    assert run(["plugins", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {(one["package"], one["name"]): one["problem"] for one in document["plugins"]}
    told = {name: found[package, name] for package, name in found if package == "one 1.0"}
    assert told["bright"] is None and told["smear"] is None
    assert told["exits"] == "SystemExit: needs a GPU"
    assert told["vace"] == told["identity"] == "its name is one of idgrpo's own, which cannot be replaced"
    assert told["mine"] == "a dict, no BaseEntry" and told["table"] == "a dict, which cannot be called"
    assert told["unmarked"].startswith("not marked with @measure")
    assert "some_parts:table" in told["clash"] and "two 1.0" not in {told["clash"]}
    assert document["num_failed"] == 8


def test_a_part_that_exits_when_it_is_imported_is_an_error_of_its_name(bring, tmp_path, capsys):
    bring("one", {"idgrpo.bases": {"leaving": "exits_at_once:it"}})
    assert run(["sample", "--base", "leaving", "--store", str(tmp_path / "store")]) == 2
    assert "exits_at_once:it cannot be imported: SystemExit: needs a GPU" in capsys.readouterr().err

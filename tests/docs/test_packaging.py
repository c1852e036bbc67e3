"""The package says what it is, what is optional, and the files at the top agree with one another."""

import re
import tomllib
from pathlib import Path

from idgrpo import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_metadata_is_complete_and_of_one_version():
    assert PROJECT["version"] == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation and f"license: {PROJECT['license']}" in citation
    assert PROJECT["authors"] and PROJECT["keywords"] and "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "src" / "idgrpo" / "py.typed").is_file()


def test_every_extra_that_users_need_is_named_with_its_install_line():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert set(PROJECT["optional-dependencies"]) == {"viewers", "faces", "quantised", "nf4", "docs", "dev"}
    named = set(re.findall(r"idgrpo\[(\w+)\]", sources))
    assert named == {"viewers", "faces", "quantised", "nf4"}
    assert ".[docs]" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_continuous_integration_calls_make_test():
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    targets = re.findall(r"run: make (\S+)", workflow)
    assert targets == ["test", "docs"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert (ROOT / "CONTRIBUTING.md").is_file() and (ROOT / "SECURITY.md").is_file()

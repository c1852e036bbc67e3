"""Completion: what it offers, in a real bash."""

import shutil
import subprocess

import pytest

from idgrpo.cli.completion import script, target, words_of
from idgrpo.cli.main import load_command, run
from idgrpo.errors import UsageError


@pytest.fixture(scope="module")
def words():
    return words_of(load_command)


def offered(text: str, typed: str) -> list[str]:
    """Ask bash what it would offer after `typed`."""
    parts = typed.split(" ")
    line = f"COMP_WORDS=({' '.join(repr(p) for p in parts)}); COMP_CWORD={len(parts) - 1}; _idgrpo; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    shell = shutil.which("bash")
    assert shell
    return subprocess.run([shell, "-c", text + "\n" + line], capture_output=True, text=True, check=True).stdout.split()


def test_bash_offers_commands_subcommands_and_options(words):
    text = script("bash", words)
    assert set(offered(text, "idgrpo train")) == {"train-rm", "train-policy"}
    assert "--samples" in offered(text, "idgrpo eval --sa")
    assert offered(text, "idgrpo artifacts lin") == ["lineage"]
    assert "--json" in offered(text, "idgrpo artifacts lineage --j")
    assert "sample" in offered(text, "idgrpo help sam")


def test_every_command_is_in_every_script(words):
    for shell in ("bash", "zsh", "fish"):
        text = script(shell, words)
        assert all(name in text for name in words[""])
    assert (
        "complete -c idgrpo -n '__fish_seen_subcommand_from artifacts ; and __fish_seen_subcommand_from lineage' -l json"
        in script("fish", words)
    )


def test_it_is_written_where_the_shell_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert run(["--install-completion"]) == 0
    file = target("zsh", tmp_path)
    assert file.is_file() and f"source {file}" in capsys.readouterr().out
    assert run(["--install-completion", "tcsh"]) == 2
    with pytest.raises(UsageError, match="tcsh"):
        target("tcsh", tmp_path)

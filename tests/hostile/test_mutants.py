"""Damaged files of every format: a value that is finite, or an error of ours that names the file, within a minute.

`make test-hostile` damages each text 250 times and each binary 320 times (IDGRPO_MUTANTS changes both); here a few of each.
Mutants that once failed are kept in failed.jsonl and are tried first.
"""

import json
import math
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.hostile.damage import BINARIES, BY_LINE, FORMATS, TEXTS
from tests.records.test_mutants import mutants as damaged_texts
from tests.video.test_mutants import mutants as damaged_bytes

from idgrpo.errors import IdgrpoError

LIMIT_S = 60
FEW = 8
MANY = int(os.environ.get("IDGRPO_MUTANTS", "0"))
NUM_TEXT, NUM_BINARY = MANY or 250, MANY or 320
KEPT = [json.loads(line) for line in Path(__file__).with_name("failed.jsonl").read_text().splitlines()]
TOLD_ELSEWHERE = {"metrics.jsonl", "checkpoint weights", "checkpoint state", "checkpoint seal"}
"""Formats whose damage costs itself alone: the reader goes on without it."""


class HangError(BaseException):
    """The reader took longer than a minute."""


@pytest.fixture(autouse=True)
def in_time():
    """Stop what hangs."""

    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def not_finite(value: Any) -> bool:
    """Look for a number that is not finite in all that a reader gave."""
    import torch

    if isinstance(value, torch.Tensor):
        return bool(value.is_floating_point() and not value.isfinite().all())
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, BaseModel):
        return not_finite(dict(value))
    if isinstance(value, dict):
        return any(map(not_finite, value.values()))
    return isinstance(value, list | tuple) and any(map(not_finite, value))


def mutant(name: str, seed: str, data: bytes) -> bytes:
    """Damage a file in the way that a seed says."""
    if name in BINARIES:
        return next(damaged_bytes(seed, data, 1))
    return next(damaged_texts(seed, data.decode(), 1))


def survives(name: str, path: Path, seed: str) -> str | None:
    """Read a damaged file; the message of the error, or None. Anything but a finite value or a named error fails."""
    error, value, begun = None, None, time.monotonic()
    signal.alarm(LIMIT_S)
    try:
        value = FORMATS[name].read(path)
    except IdgrpoError as caught:
        error = caught
    except BaseException as caught:
        raise AssertionError(f'keep {{"format": "{name}", "seed": "{seed}"}}: {caught!r}') from caught
    finally:
        signal.alarm(0)
    assert time.monotonic() - begun < LIMIT_S
    assert error is None or path.name in error.message or path.parent.name in error.message, (seed, error.message)
    assert not not_finite(value), f'keep {{"format": "{name}", "seed": "{seed}"}}: not finite'
    return None if error is None else error.message


def check(name: str, folder: Path, num: int) -> None:
    path = FORMATS[name].make(folder)
    data = path.read_bytes()
    assert survives(name, path, "whole") is None
    seeds = [row["seed"] for row in KEPT if row["format"] == name] + [f"{name}-{number}" for number in range(num)]
    told = 0
    for seed in seeds:
        path.write_bytes(mutant(name, seed, data))
        told += survives(name, path, seed) is not None
    if name not in TOLD_ELSEWHERE:
        assert told, "some damage is seen"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path, name):
    check(name, tmp_path, FEW)


@pytest.mark.hostile
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(tmp_path, name):
    check(name, tmp_path, NUM_TEXT if name in TEXTS else NUM_BINARY)


def check_lines(name: str, folder: Path, num: int) -> None:
    """Damage one line of three: the error names this line, and no other unless it contradicts another line now."""
    path = FORMATS[name].make(folder)
    lines = path.read_bytes().splitlines()
    told = 0
    for number in range(num):
        draw = random.Random(f"{name}-line-{number}")
        at = draw.randrange(len(lines))
        bad = (
            next(damaged_texts(f"{name}-line-{number}", lines[at].decode(), 1))
            .replace(b"\n", b" ")
            .replace(b"\r", b" ")
        )
        path.write_bytes(b"\n".join([*lines[:at], bad, *lines[at + 1 :]]) + b"\n")
        message = survives(name, path, f"line-{number}")
        if message is not None:
            told += 1
            named = {int(found) for found in re.findall(rf"{re.escape(str(path))}:(\d+): ", message)}
            twice = re.search(r"in line \d+", message)
            assert named == {at + 1} or twice, (number, at + 1, message)
    assert told


@pytest.mark.parametrize("name", BY_LINE)
def test_the_damaged_line_is_named(tmp_path, name):
    check_lines(name, tmp_path, 30)


@pytest.mark.hostile
@pytest.mark.parametrize("name", BY_LINE)
def test_the_damaged_line_is_named_many_times(tmp_path, name):
    check_lines(name, tmp_path, NUM_TEXT)


COMMANDS = {
    "cases.jsonl": ["cases", "{f}", "--name", "k"],
    "prefs.jsonl": ["train-rm", "--data", "{f}", "--dry-run"],
    "samples.jsonl": ["distort", "--data", "{f}", "--dry-run"],
    "pairs.jsonl": ["annotate", "--by", "oracle", "--pairs", "{f}", "--dry-run"],
    "sample.toml": ["config", "check", "sample", "{f}"],
    "annotate.toml": ["config", "check", "annotate", "{f}"],
    "train-policy.toml": ["config", "check", "train-policy", "{f}"],
    "eval.toml": ["config", "check", "eval", "{f}"],
    "manifest.json": ["artifacts", "verify", "--store", "{s}"],
    "tags.json": ["artifacts", "show", "rm:best", "--store", "{s}"],
    "adapter.safetensors": ["artifacts", "export", "{d}", "{d}.out", "--force"],
}


def check_command(name: str, folder: Path, num: int, capsys) -> None:
    """Give damaged files to the command itself: it ends with a code of the table and tells it as a document too."""
    from idgrpo.cli.main import run

    path = FORMATS[name].make(folder)
    data = path.read_bytes()
    if name == "tags.json":
        whole = folder / "store" / "artifacts" / "rm" / "tags.json"
        whole.parent.mkdir(parents=True)
        path = path.rename(whole)
    store = folder / "store"
    words = [
        word.replace("{f}", str(path)).replace("{s}", str(store)).replace("{d}", str(path.parent))
        for word in COMMANDS[name]
    ]
    words += [] if "config" in words or "--store" in words else ["--store", str(store)]
    for number in range(num):
        path.write_bytes(mutant(name, f"{name}-command-{number}", data))
        signal.alarm(LIMIT_S)
        code = run([*words, "--json"] if "config" not in words else words)
        signal.alarm(0)
        out, err = capsys.readouterr()
        assert code in (0, 2, 3, 4, 6), (number, code, err)
        assert "Traceback" not in err
        if "config" not in words:
            assert not re.search(r"\b(NaN|Infinity)\b", re.sub(r'"[^"]*"', "", out)), number
            document = json.loads(out)
            assert document.get("exit_code", 0) == code


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMMANDS)
def test_damaged_files_given_to_commands(tmp_path, name, capsys):
    check_command(name, tmp_path, 4, capsys)


@pytest.mark.hostile
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMMANDS)
def test_many_damaged_files_given_to_commands(tmp_path, name, capsys):
    check_command(name, tmp_path, MANY or 100, capsys)

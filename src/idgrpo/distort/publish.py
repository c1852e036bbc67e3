"""Bring a finished folder to where it stays: preferences with their videos, references and sheets; working files stay behind."""

import os
import shutil
from pathlib import Path

SUMMARY_FILE = "summary.json"
KEPT = ("prefs.jsonl", SUMMARY_FILE, "contact_sheet.png", "videos", "references", "sheets")


def copy_result(work: Path, target: Path) -> None:
    """Link (or copy, across file systems) what belongs to the result into `target`; `work` stays whole, so a kill loses nothing."""
    for name in KEPT:
        source = work / name
        if source.is_dir():
            shutil.copytree(source, target / name, copy_function=_link, dirs_exist_ok=True)
        elif source.is_file():
            _link(str(source), str(target / name))


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target

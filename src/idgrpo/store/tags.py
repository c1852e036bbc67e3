"""Tags: names of one's own for artifacts of a kind, in `tags.json` beside them."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idgrpo.errors import ArtifactError
from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json


def read_tags(folder: Path) -> dict[str, str]:
    """Return the tags of a kind: tag -> reference."""
    path = folder / "tags.json"
    try:
        tags = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(tags, dict) or not all(isinstance(ref, str) for ref in tags.values()):
            raise ValueError("a table of tags and references is expected")
        return tags
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error})", fix="mend it, or remove it and tag anew") from None


def write_tag(folder: Path, tag: str, ref: str) -> None:
    """Set a tag; taggers at the same time wait for each other, so that none of their tags is lost."""
    with _locked(folder), replacing(folder / "tags.json") as draft:
        draft.write_text(json.dumps({**read_tags(folder), tag: ref}, indent=1), encoding="utf-8")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".tags.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

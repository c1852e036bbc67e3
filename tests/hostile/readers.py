"""Every stage with stdout and stderr that are closed, full, or that nobody reads any more: the work is done all the same.

`python -m tests.hostile.readers --folder DIR [--stages A,B]`: one JSON line for each run; exit code 1 when one failed.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

from tests.hostile.kills import LIMIT_S, Harness, differences
from tests.hostile.page import post
from tests.hostile.warm import fork
from tests.hostile.world import STAGES, fresh_store

from idgrpo.store.store import Store


def _pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _point(descriptors: tuple[int, ...], target: int) -> None:
    for descriptor in descriptors:
        os.dup2(target, descriptor)
    os.close(target)


def _closed(*descriptors: int) -> Callable[[], None]:
    return lambda: [os.close(descriptor) for descriptor in descriptors]  # type: ignore[return-value]


def _unread(*descriptors: int) -> Callable[[], None]:
    return lambda: _point(descriptors, _pipe_without_reader())


def _head() -> None:
    """Point both at a pipe whose reader goes after the first line, as `2>&1 | head -1` does."""
    reading, writing = os.pipe()
    if not os.fork():
        os.close(writing)
        while os.read(reading, 1) not in (b"", b"\n"):
            pass
        os._exit(0)
    os.close(reading)
    _point((1, 2), writing)


WAYS: dict[str, tuple[Callable[[], None], int]] = {
    "2>&-": (_closed(2), 0),
    ">&-": (_closed(1), 0),
    "closed, all three": (_closed(0, 1, 2), 0),
    "nobody reads stderr": (_unread(2), 0),
    "nobody reads stdout": (_unread(1), 0),
    "2>&1 | head -1": (_head, 0),
    ">/dev/full": (lambda: _point((1,), os.open("/dev/full", os.O_WRONLY)), 6),
}


def page_without_stderr(harness: Harness) -> list[str]:
    """Serve the page with stdout and stderr closed, vote, and end it: the vote must be published."""
    store, port = harness.root / "quiet-store", "18429"
    words = ["annotate", "--pairs", str(harness.root / "pairs.jsonl"), "--store", str(store), "--port", port]
    child = fork(words, out=None, err=None, prepare=_closed(1, 2))
    connection, end = HTTPConnection("127.0.0.1", int(port), timeout=10), time.monotonic() + 60
    while True:
        try:
            pair = post(connection, "claim", {"annotator": "ann"})["pair"]
            break
        except OSError:
            connection.close()
            if time.monotonic() > end:
                child.kill()
                return ["the page did not start"]
            time.sleep(0.05)
    vote = {"annotator": "ann", "assignment": pair["assignment"], "vote_id": "v", "answer": "left", "seconds": 3.0}
    post(connection, "vote", vote)
    connection.close()
    child.kill(signal.SIGINT)
    code = child.wait(LIMIT_S)
    kinds = {artifact.kind for artifact in Store(store).list()}
    return [] if (code, kinds) == (0, {"votes", "preferences"}) else [f"exit {code}, published {sorted(kinds)}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stages", default=",".join(STAGES))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    harness = Harness(given.folder, {name: STAGES[name] for name in given.stages.split(",")})
    harness.prepare()
    failed = 0
    for name, stage in harness.stages.items():
        for way, (prepare, expected) in WAYS.items():
            fresh_store(harness.root)
            child = fork(stage.arguments(harness.root), out=None, err=None, prepare=prepare)
            code = child.wait(LIMIT_S)
            found = differences(harness.whole[name].state, harness.state())
            found += [f"exit {code}, not {expected}"] if code != expected else []
            failed += bool(found)
            print(json.dumps({"stage": name, "way": way, "wrong": found}), flush=True)
    found = page_without_stderr(harness)
    print(json.dumps({"stage": "the page", "way": ">&- 2>&-", "wrong": found}), flush=True)
    return int(bool(failed or found))


if __name__ == "__main__":
    sys.exit(main())

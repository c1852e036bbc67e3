"""Cost per item must not grow with the number of items: `make bench` prints the ratios."""

import os
import resource
import time

import pytest

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Vote
from idgrpo.store.manifest import Manifest
from idgrpo.store.store import Store

MAX_RATIO = 1.2
pytestmark = pytest.mark.bench


def cpu_s(action):
    """CPU seconds of the fastest of three runs."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


def fill(root, num):
    store = Store(root)
    folder = root / "artifacts" / "rm" / "many"
    manifest = Manifest(
        kind="rm", name="many", version=1, digest="sha256:" + "0" * 64, files={}, inputs={}, config={}, command=["x"], code_version="0",
        environment={}, metrics={}, created_utc="2026-01-01T00:00:00+00:00", seconds=0,
    )  # fmt: skip
    for version in range(1, num + 1):
        path = folder / f"v{version:04d}"
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(manifest.model_copy(update={"version": version}).sealed().model_dump_json())
    return store


def test_listing_and_resolving_stay_linear(tmp_path):
    small, large = fill(tmp_path / "small", 1_000), fill(tmp_path / "large", 10_000)
    for what, action in {
        "list with manifests": lambda store: [artifact.digest for artifact in store.list()],
        "resolve": lambda store: store.resolve("rm"),
    }.items():
        ratio = (cpu_s(lambda s=large, a=action: a(s)) / 10_000) / (cpu_s(lambda s=small, a=action: a(s)) / 1_000)
        print(f"{what}: cost per artifact at 10,000 over 1,000 = {ratio:.2f}")
        assert ratio < MAX_RATIO
    assert large.resolve("rm@v10000").version == 10_000


def test_reading_a_million_records_is_linear_in_bounded_memory(tmp_path):
    vote = Vote(
        vote_id="v",
        pair_id="p",
        annotator="x",
        answer="a",
        shown="left",
        a_is_left=True,
        seconds=1.0,
        time_utc="2026-01-01T00:00:00Z",
    )
    line = vote.model_dump_json() + "\n"
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    small.write_text(line * 100_000)
    with large.open("w") as file:
        for _ in range(10):
            file.write(line * 100_000)

    def count(path):
        return sum(1 for _ in read_records(path, Vote))

    first = cpu_s(lambda: count(small))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    assert count(large) == 1_000_000
    ratio = (time.process_time() - started) / 10 / first
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"records: cost per record at 1,000,000 over 100,000 = {ratio:.2f}, memory grew by {grown_mib:.0f} MiB ({os.path.getsize(large) / 2**20:.0f} MiB file)"
    )
    assert ratio < MAX_RATIO
    assert grown_mib < 64

import json
import subprocess
import sys

import pytest

from idgrpo.cli.main import run
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.run.folder import RunFolder
from idgrpo.store.prune import plan, prune
from idgrpo.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, kind, name, text="x", **inputs):
    with store.publish(kind, name, inputs=inputs, config={}) as draft:
        (draft.path / "data.txt").write_text(text)
    return draft.artifact


def refs(store):
    return {artifact.ref for artifact in store.list()}


def test_old_versions_go_and_no_lineage_is_cut(store):
    first_cases, cases = (publish(store, "cases", "c", text) for text in "ab")
    rm_1 = publish(store, "rm", "r", "1", cases=first_cases)
    rm_2 = publish(store, "rm", "r", "22")
    rm_3 = publish(store, "rm", "r", "3", cases=cases)
    policy = publish(store, "policy", "p", rm=rm_1)
    before = refs(store)
    chosen = plan(store)
    assert [artifact.ref for artifact in chosen.removed] == [rm_2.ref]
    assert chosen.size_bytes == 2 + (rm_2.path / "manifest.json").stat().st_size
    assert chosen.kept == {
        rm_1.ref: f"{policy.ref} was made from it",
        first_cases.ref: f"{rm_1.ref} was made from it",
    }
    assert refs(store) == before, "a plan removes nothing"
    assert prune(store) == chosen
    assert refs(store) == before - {rm_2.ref}
    assert all(step.artifact is not None for step in store.lineage(policy))
    assert [path.name for path in rm_2.path.parent.iterdir()].count("v0002") == 0
    assert publish(store, "rm", "r").version == 4, "a number is never given twice"
    assert rm_3.path.is_dir()


def test_a_kind_a_number_to_keep_and_tags_are_respected(store):
    versions = [publish(store, "rm", "r", str(number)) for number in range(5)]
    publish(store, "cases", "c", "1")
    publish(store, "cases", "c", "2")
    store.tag(versions[0], "best")
    chosen = prune(store, "rm", keep=2)
    assert [artifact.version for artifact in chosen.removed] == [2, 3]
    assert chosen.kept == {"rm/r@v1": "tagged rm:best"}
    assert refs(store) == {"rm/r@v1", "rm/r@v4", "rm/r@v5", "cases/c@v1", "cases/c@v2"}
    assert store.resolve("rm:best").version == 1
    with pytest.raises(UsageError, match="at least one"):
        prune(store, keep=0)
    with pytest.raises(UsageError, match="unknown kind"):
        prune(store, "robots")


def test_inputs_named_by_path_are_inputs_too(store):
    cases, newer = publish(store, "cases", "c", "1"), publish(store, "cases", "c", "2")
    publish(store, "rm", "r", data=cases.path / "data.txt")
    assert plan(store).removed == []
    other = Store(store.root.parent / "other")
    publish(other, "rm", "r", data=newer.path / "data.txt")
    assert plan(other).removed == []


def test_what_a_running_stage_reads_stays_until_it_ends(store):
    cases, _ = publish(store, "cases", "c", "1"), publish(store, "cases", "c", "2")
    with RunFolder.open(store.run_dir("train"), {"inputs": {"cases": cases.digest}}):
        assert plan(store).kept == {cases.ref: "in use by a running stage"}
    assert [artifact.ref for artifact in plan(store).removed] == [cases.ref]


def test_with_a_damaged_manifest_nothing_goes(store):
    publish(store, "cases", "c", "1")
    newest = publish(store, "cases", "c", "2")
    path = newest.path / "manifest.json"
    path.write_text(path.read_text().replace('"cases"', '"casez"'))
    before = refs(store)
    with pytest.raises(ArtifactError, match="changed since it was published"):
        prune(store)
    assert refs(store) == before


def test_a_kill_in_the_middle_leaves_no_half_artifact(store, monkeypatch):
    publish(store, "rm", "r", "1")
    publish(store, "rm", "r", "2")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("idgrpo.store.draft.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(store)
    monkeypatch.undo()
    assert refs(store) == {"rm/r@v2"}
    (left,) = (store.root / "artifacts/rm/r").glob(".draft-*")
    assert json.loads((left / "manifest.json").read_text())["version"] == 1


def test_clips_named_in_records_keep_their_artifact(store, tmp_path):
    """Pairs that came as a file name clips of samples which no manifest names as an input."""
    shown, old = publish(store, "samples", "s", "1"), publish(store, "samples", "s", "2")
    publish(store, "samples", "s", "3")
    with store.publish("pairs", "p", inputs={}, config={}) as draft:
        clip = f"../../../samples/s/{shown.path.name}/videos/1.mp4"
        (draft.path / "pairs.jsonl").write_text(json.dumps({"pair_id": "1", "video_a": clip}) + "\n")
    assert plan(store).kept == {shown.ref: "pairs/p@v1 was made from it"}
    assert [artifact.ref for artifact in plan(store).removed] == [old.ref]


def test_what_an_open_session_shows_stays(store, tmp_path):
    """A session whose pairs are a file that names clips of the store."""
    from idgrpo.stages.source import Source
    from idgrpo.stages.work import Plan, Work

    shown, _ = publish(store, "samples", "s", "1"), publish(store, "samples", "s", "2")
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"pair_id": "1", "video_a": str(shown.path / "videos" / "1.mp4")}) + "\n")
    source = Source("pairs", str(file), file, "sha256:0")
    session = Work(store, "annotate", "votes", "people", {"pairs": source}, {}, lambda run: None, lambda: Plan([], {}))
    with session.locked():
        assert plan(store).kept == {shown.ref: "in use by a running stage"}
    assert [artifact.ref for artifact in plan(store).removed] == [shown.ref]


def test_a_stage_whose_input_was_pruned_says_so(store):
    from idgrpo.stages.source import find
    from idgrpo.stages.work import Plan, Work

    first, _ = publish(store, "rm", "r", "1"), publish(store, "rm", "r", "2")
    stage = Work(
        store, "x", "policy", "p", {"rm": find(store, "rm", first)}, {}, lambda run: None, lambda: Plan([], {})
    )
    prune(store)
    with pytest.raises(ArtifactError, match="rm/r@v1 was removed from the store a moment ago"):
        stage.run()


def test_prunes_at_once_and_lists_meanwhile(store):
    """Four prunes of one store end well and remove each version once; listing does not stumble over what goes."""
    for version in range(40):
        publish(store, "rm", "r", str(version))
    words = ["artifacts", "prune", "--store", str(store.root), "--json"]
    code = f"from idgrpo.cli.main import run; raise SystemExit(run({words!r}))"
    prunes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    lists = 0
    while any(process.poll() is None for process in prunes):
        assert run(["artifacts", "list", "--store", str(store.root)]) == 0
        assert run(["artifacts", "verify", "--store", str(store.root)]) == 0
        lists += 1
    removed = [ref for process in prunes for ref in json.loads(process.stdout.read())["removed"]]
    assert [process.returncode for process in prunes] == [0] * 4
    assert sorted(removed) == sorted(f"rm/r@v{version}" for version in range(1, 40))
    assert lists and refs(store) == {"rm/r@v40"}

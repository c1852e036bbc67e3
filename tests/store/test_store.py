import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from idgrpo.errors import ArtifactError, UsageError
from idgrpo.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, kind="rm", name="base", text="x", inputs=None, config=None):
    with store.publish(kind, name, inputs=inputs or {}, config=config or {}) as draft:
        (draft.path / "data.txt").write_text(text)
        draft.metrics["accuracy"] = 0.5
    return draft.artifact


def test_versions_count_up_and_manifests_tell_everything(store):
    first, second = publish(store), publish(store, text="y")
    assert (first.ref, second.ref) == ("rm/base@v1", "rm/base@v2")
    manifest = second.manifest
    assert manifest.files["data.txt"].size_bytes == 1
    assert manifest.metrics == {"accuracy": 0.5}
    assert manifest.digest.startswith("sha256:") and manifest.digest != first.digest
    assert publish(store, text="x").digest == first.digest


def test_references_of_every_form(store, tmp_path):
    one, two, other = publish(store), publish(store, text="y"), publish(store, name="other", text="z")
    assert store.resolve("rm").ref == other.ref
    assert store.resolve("rm/base").ref == two.ref
    assert store.resolve("rm/base@v1").ref == one.ref
    assert store.resolve("base", kind="rm").ref == two.ref
    assert store.resolve("base@v1", kind="rm").ref == one.ref
    assert store.resolve(str(one.path)).ref == one.ref
    assert store.resolve(f"rm@{two.digest}").ref == two.ref
    store.tag(one, "best")
    assert store.resolve("rm:best").ref == one.ref
    with pytest.raises(ArtifactError, match="could be rm/base@v1, rm/other@v1"):
        store.resolve("rm@v1")


@pytest.mark.parametrize("ref", ["rm", "rm/none", "rm@v7", "rm:best", "rm@sha256:12", "nonsense", "/no/where"])
def test_what_is_not_there_is_said(store, ref):
    if ref != "rm":
        publish(store)
    with pytest.raises(ArtifactError) as caught:
        store.resolve(ref)
    assert caught.value.exit_code == 4


def test_a_missing_kind_names_the_command_that_makes_it(store):
    with pytest.raises(ArtifactError) as caught:
        store.resolve("rm", kind="rm")
    assert "idgrpo train-rm" in caught.value.fix


def test_another_kind_is_refused(store):
    artifact = publish(store)
    with pytest.raises(ArtifactError, match="is a rm artifact"):
        store.resolve(artifact.ref, kind="policy")


def test_one_changed_byte_is_found(store):
    artifact = publish(store)
    (artifact.path / "data.txt").write_text("z")
    with pytest.raises(ArtifactError, match=r"data\.txt has changed"):
        store.resolve("rm")
    (artifact.path / "data.txt").write_text("zz")
    with pytest.raises(ArtifactError, match="2 bytes"):
        store.resolve("rm")
    (artifact.path / "data.txt").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        store.resolve("rm")


def test_the_same_inputs_and_configuration_find_what_exists(store):
    source = publish(store, "cases", "c")
    made = publish(store, inputs={"cases": source}, config={"lr": 1})
    assert store.find("rm", "base", inputs={"cases": source}, config={"lr": 1}) == made
    assert store.find("rm", "base", inputs={"cases": source}, config={"lr": 2}) is None
    assert store.find("rm", "base", inputs={}, config={"lr": 1}) is None
    other = publish(store, "cases", "c", text="changed")
    assert store.find("rm", "base", inputs={"cases": other}, config={"lr": 1}) is None


def test_lineage_reaches_the_first_inputs(store, tmp_path):
    plain = tmp_path / "prefs.jsonl"
    plain.write_text("{}")
    cases = publish(store, "cases", "c")
    rm = publish(store, inputs={"cases": cases, "data": plain})
    policy = publish(store, "policy", "p", inputs={"rm": rm})
    assert [(step.depth, step.ref) for step in store.lineage(policy)] == [
        (0, policy.ref),
        (1, rm.ref),
        (2, cases.ref),
        (2, str(plain)),
    ]


def test_an_input_with_two_roles_comes_once_and_says_both(store):
    start = publish(store, "policy", "sft")
    policy = publish(store, "policy", "p", inputs={"init": start, "reference": start})
    assert [(step.ref, step.roles) for step in store.lineage(policy)] == [
        (policy.ref, ()),
        (start.ref, ("init", "reference")),
    ]


def test_a_failure_inside_leaves_nothing(store):
    def fail_half_way():
        with store.publish("rm", "base", inputs={}, config={}) as draft:
            (draft.path / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(store.list()) == []
    assert list((store.root / "artifacts/rm/base").iterdir()) == []


def test_names_cannot_leave_the_store(store):
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(UsageError), store.publish("rm", name, inputs={}, config={}):
            pass
    with pytest.raises(UsageError, match="known: cases"):
        list(store.list("robots"))


def test_publishers_at_once_get_different_versions(store):
    threads = [threading.Thread(target=publish, args=(store,), kwargs={"text": str(i)}) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(store.list("rm"))
    assert sorted(a.version for a in found) == list(range(1, 13))
    assert len({a.digest for a in found}) == 12
    for artifact in found:
        artifact.verify()


def test_a_killed_publisher_leaves_nothing_visible_and_its_draft_is_removed(store):
    code = textwrap.dedent(
        f"""
        import os, signal
        from idgrpo.store.store import Store
        with Store({str(store.root)!r}).publish("rm", "base", inputs={{}}, config={{}}) as draft:
            (draft.path / "data").write_text("x" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(store.list()) == []
    assert len(list((store.root / "artifacts/rm/base").glob(".draft-*/"))) == 1
    assert publish(store).version == 1
    assert not list((store.root / "artifacts/rm/base").glob(".draft-*"))


def test_live_drafts_of_other_containers_are_left_alone(store):
    """A builder with another view of process numbers, as in a container of the same host name, keeps its draft."""
    folder = publish(store).path.parent
    code = (
        "import sys\nfrom pathlib import Path\nfrom idgrpo.store.draft import draft_folder\n"
        "with draft_folder(Path(sys.argv[1])) as path:\n    (path / 'data').write_text('x')\n    print(path.name, flush=True)\n"
        "    sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    builders = [subprocess.Popen([sys.executable, "-c", code, folder], **pipes) for _ in range(2)]
    dead, alive = (folder / builder.stdout.readline().strip() for builder in builders)
    builders[0].kill()
    builders[0].wait()
    publish(store, text="y")
    assert not dead.exists() and not dead.with_name(f"{dead.name}.lock").exists()
    assert (alive / "data").exists()
    builders[1].communicate("")
    assert not list(folder.glob(".draft-*"))


def test_taggers_at_once_lose_no_tag(store):
    artifact = publish(store)
    threads = [threading.Thread(target=store.tag, args=(artifact, f"t{number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.tags("rm") == {f"t{number}": artifact.ref for number in range(20)}
    assert not list((store.root / "artifacts/rm").glob(".*.part"))


def test_damaged_tags_are_named(store):
    publish(store)
    (store.root / "artifacts/rm/tags.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tags\.json is damaged"):
        store.resolve("rm:best")


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="x is a file, a store is a folder"):
        Store(tmp_path / "x")


def test_a_damaged_manifest_is_named(store):
    artifact = publish(store)
    (artifact.path / "manifest.json").write_text(json.dumps({"kind": "rm"}))
    with pytest.raises(ArtifactError, match="damaged"):
        store.resolve("rm")


def test_a_changed_manifest_is_found_and_find_goes_on_without_it(store):
    first = publish(store, config={"lr": 1})
    path = first.path / "manifest.json"
    path.write_text(path.read_text().replace('"accuracy": 0.5', '"accuracy": 0.9'))
    with pytest.raises(ArtifactError, match="changed since it was published"):
        store.resolve("rm")
    assert store.find("rm", "base", inputs={}, config={"lr": 1}) is None
    assert publish(store, config={"lr": 1}).version == 2
    assert store.find("rm", "base", inputs={}, config={"lr": 1}).version == 2


def test_records_at_the_top_are_always_hashed(store, monkeypatch):
    monkeypatch.setattr("idgrpo.store.artifact.HASHED_AT_OPEN_BYTES", 10)
    with store.publish("preferences", "p", inputs={}, config={}) as draft:
        (draft.path / "videos").mkdir()
        for name in ("a", "b"):
            (draft.path / "videos" / name).write_text("x" * 9)
        (draft.path / "prefs.jsonl").write_text("y" * 100)
    (draft.path / "videos" / "b").write_text("z" * 9)
    assert store.resolve("preferences").version == 1, "media beyond the budget are checked by `artifacts verify`"
    with pytest.raises(ArtifactError, match="videos/b has changed"):
        store.resolve("preferences").verify()
    (draft.path / "prefs.jsonl").write_text("z" * 100)
    with pytest.raises(ArtifactError, match=r"prefs\.jsonl has changed"):
        store.resolve("preferences")


def test_newest_is_by_version_within_a_name_and_by_time_across_names(store):
    first, second = publish(store), publish(store, text="y")
    os.utime(first.path)
    assert store.resolve("rm").ref == second.ref
    assert [a.version for a in store.list("rm")] == [2, 1]
    assert store.resolve(f"rm@{publish(store, text='y').digest}").version == 3


def test_a_store_that_refuses_the_rename_says_so(store, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("idgrpo.store.store.os.rename", refuse)
    with pytest.raises(PermissionError):
        publish(store)

"""One rule for what was given: which text means a path and which a reference, with one error and one exit code each."""

from pathlib import Path

import pytest

from idgrpo.errors import ArtifactError, DataError
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Case, Reference
from idgrpo.stages.source import find
from idgrpo.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def write_cases(folder: Path, photo: bytes = b"photo", prompt: str = "a man walks") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "p.png").write_bytes(photo)
    case = Case(id="c", prompt=prompt, references=[Reference(person="p", images=[str(folder / "p.png")])])
    write_records(folder / "cases.jsonl", [case])
    return folder / "cases.jsonl"


def publish(store, kind="rm", text="weights"):
    with store.publish(kind, "one", inputs={}, config={}) as draft:
        (draft.path / "weights").write_text(text)
    return draft.artifact


@pytest.mark.parametrize("given", ["missing.jsonl", "./rm", "/nowhere/rm", "folder/rm", "~/nothing", Path("rm")])
def test_a_path_that_is_not_there_is_missing_data(store, given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    publish(store)
    with pytest.raises(DataError, match="no such file or folder"):
        find(store, "rm", given)


@pytest.mark.parametrize("given", ["rm/none", "rm@v9", "none", "policy", "rm:best"])
def test_a_reference_without_an_artifact_is_a_missing_artifact(store, given):
    publish(store)
    with pytest.raises(ArtifactError):
        find(store, "rm", given)


@pytest.mark.parametrize("given", [None, "rm", "one", "rm/one", "one@v1", "rm@v1"])
def test_references_of_every_form_and_nothing_name_the_artifact(store, given):
    made = publish(store)
    assert find(store, "rm", given).artifact == made


def test_a_bare_kind_is_a_reference_even_where_a_folder_has_its_name(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "weights").write_text("other")
    made = publish(store)
    assert find(store, "rm", "rm").artifact == made
    assert find(store, "rm", "./rm").artifact is None


def test_an_artifact_of_another_kind_is_refused(store):
    made = publish(store)
    for given in (made, made.ref, str(made.path)):
        with pytest.raises(ArtifactError, match="policy artifact is needed"):
            find(store, "policy", given)


def test_a_file_or_folder_of_the_wrong_sort_is_refused(store, tmp_path):
    file = write_cases(tmp_path / "c")
    with pytest.raises(DataError, match="is a file"):
        find(store, "rm", file)
    with pytest.raises(DataError, match=r"holds no prefs\.jsonl"):
        find(store, "preferences", tmp_path / "c")


def test_the_digest_is_of_content_not_of_the_place(store, tmp_path):
    here, there = (find(store, "cases", write_cases(tmp_path / name)) for name in ("here", "there"))
    assert (here.digest, here.media) == (there.digest, there.media) and here.ref != there.ref
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    before = find(store, "rm", folder).digest
    (folder / "weights").write_text("2")
    assert find(store, "rm", folder).digest != before


def test_media_behind_the_records_count_where_they_can_change(store, tmp_path):
    before = find(store, "cases", write_cases(tmp_path / "c", b"one"))
    (tmp_path / "c" / "p.png").write_bytes(b"two")
    after = find(store, "cases", tmp_path / "c" / "cases.jsonl")
    assert after.digest == before.digest and after.media != before.media
    with store.publish("cases", "inside", inputs={}, config={}) as draft:
        write_cases(draft.path)
    assert find(store, "cases", draft.artifact).media is None, "an artifact's own files never change"
    with store.publish("cases", "outside", inputs={}, config={}) as draft:
        case = Case(id="c", prompt="x", references=[Reference(person="p", images=[str(tmp_path / "c" / "p.png")])])
        write_records(draft.path / "cases.jsonl", [case])
    assert find(store, "cases", draft.artifact).media == after.media


def test_a_reward_model_at_chance_is_not_the_newest_silently(store, capsys):
    def trained(text, at_chance):
        with store.publish("rm", "r", inputs={}, config={"t": text}, metrics={"at_chance": at_chance}) as draft:
            (draft.path / "w").write_text(text)
        return draft.artifact

    first = trained("1", 1.0)
    assert find(store, "rm").ref == first.ref
    assert "rm/r@v1 is the newest reward model: on held-out pairs" in capsys.readouterr().err
    better = trained("2", 0.0)
    assert find(store, "rm", "rm").ref == better.ref and "warning" not in capsys.readouterr().err
    at_chance = trained("3", 1.0)
    for given in (None, "rm"):
        assert find(store, "rm", given).ref == better.ref
        assert f"{at_chance.ref} is passed over" in capsys.readouterr().err
    assert find(store, "rm", at_chance.ref).ref == at_chance.ref, "who names it gets it"

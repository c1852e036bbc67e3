"""`idgrpo annotate` through the command line, on true clips of the embedded world and clips of the wrong people."""

import json
from pathlib import Path

import pytest

from idgrpo.cli.main import run
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Pair, Preference, Vote
from idgrpo.store.store import Store


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Samples of six cases: the true clip (seed 0) and another case's clip (seed 1), which shows the wrong people."""
    from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

    folder = tmp_path_factory.mktemp("world")
    samples = write_true_samples(folder, write_cases(folder, make_cases(6, seed=3)))
    wrong = [
        sample.model_copy(update={"id": f"{sample.id}-wrong", "video": samples[i - 1].video, "seed": sample.seed + 1})
        for i, sample in enumerate(samples)
    ]
    write_records(folder / "samples.jsonl", [*samples, *wrong])
    return folder


@pytest.fixture
def annotate(tmp_path, world, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["annotate", "--store", str(tmp_path / "store"), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_samples_become_votes_and_preferences(annotate, world, tmp_path):
    code, out, err = annotate("--samples", str(world / "samples.jsonl"), "--by", "oracle", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["preferences"] == 6 and document["votes"] >= 18
    store = Store(tmp_path / "store")
    votes = list(read_records(store.resolve("votes").file("votes.jsonl"), Vote, unique="vote_id"))
    assert len(votes) == document["votes"]
    artifact = store.resolve("preferences")
    assert artifact.ref == document["artifact"]
    preferences = list(read_records(artifact.file("prefs.jsonl"), Preference, unique="pair_id"))
    for preference in preferences:
        true_side = "b" if preference.origin["a"]["sample"].endswith("-wrong") else "a"
        assert preference.label == true_side
        assert preference.source == "human" and preference.origin["by"] == "oracle"
        assert Path(preference.video_a).is_file() and Path(preference.references[0].images[0]).is_file()
    assert json.loads((artifact.path / "agreement.json").read_text())["num_pairs"] == 6
    assert "<h1>Agreement" in (artifact.path / "agreement.html").read_text()


def test_the_same_call_finds_what_is_there_and_force_makes_it_anew(annotate, world):
    same = ("--samples", str(world / "samples.jsonl"), "--by", "oracle", "--quiet")
    assert annotate(*same)[1] == annotate(*same)[1] == "preferences/oracle@v1\n"
    assert annotate(*same, "--force")[1] == "preferences/oracle@v2\n"
    assert annotate(*same, "--seed", "1")[1] == "preferences/oracle@v3\n"


def test_pairs_from_a_file_and_votes_from_a_file(annotate, world, tmp_path):
    assert annotate("--samples", str(world / "samples.jsonl"), "--by", "oracle")[0] == 0
    store = Store(tmp_path / "store")
    pairs, votes = store.resolve("pairs").file("pairs.jsonl"), store.resolve("votes").file("votes.jsonl")
    code, out, err = annotate(
        "--pairs",
        str(pairs),
        "--votes",
        str(votes),
        "--by",
        "oracle",
        "--name",
        "again",
        "--json",
        "--set",
        "aggregate.method=majority",
    )
    assert code == 0, err
    assert json.loads(out)["artifact"] == "preferences/again@v1"
    assert len(list(read_records(pairs, Pair))) == 6


def test_dry_run_writes_nothing(annotate, world, tmp_path):
    code, out, _ = annotate("--samples", str(world / "samples.jsonl"), "--by", "oracle", "--dry-run")
    assert code == 0 and "6 pairs" in out
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--by", "nobody"), 2, "nobody"),
        (("--set", "oracle.skil=1"), 2, "skil"),
        (("--set", "oracle.overlap=9"), 2, "overlap=3"),
        (("--pairs", "x", "--samples", "y"), 2, "one"),
        (("--pairs", "missing.jsonl"), 3, "no such file"),
        (("--pairs", "pairs/none"), 4, "idgrpo annotate"),
        (("--by", "oracle"), 4, "idgrpo sample"),
    ],
)
def test_wrong_input_is_refused_with_its_exit_code(annotate, arguments, code, says):
    got, _, err = annotate(*arguments)
    assert got == code and says in err


def test_a_malformed_line_is_named(annotate, world, tmp_path):
    lines = (world / "samples.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace('"case_id"', '"case"')
    bad = tmp_path / "samples.jsonl"
    bad.write_text("\n".join(lines))
    code, _, err = annotate("--samples", str(bad), "--by", "oracle")
    assert code == 3 and "samples.jsonl:3" in err and "case" in err


def test_votes_on_other_pairs_are_refused(annotate, world, tmp_path):
    assert annotate("--samples", str(world / "samples.jsonl"), "--by", "oracle")[0] == 0
    store = Store(tmp_path / "store")
    lines = store.resolve("votes").file("votes.jsonl").read_text().replace('"pair_id":"', '"pair_id":"x')
    (tmp_path / "votes.jsonl").write_text(lines)
    code, _, err = annotate("--pairs", "pairs", "--votes", str(tmp_path / "votes.jsonl"))
    assert code == 3 and "not among those given" in err


def test_least_sure_asks_for_what_it_needs(annotate, world):
    samples = ("--samples", str(world / "samples.jsonl"), "--by", "oracle", "--least-sure", "rm")
    code, _, err = annotate(*samples)
    assert code == 2 and "pairs.per_case" in err
    code, _, err = annotate(*samples, "--set", "pairs.per_case=1")
    assert code == 4 and "train-rm" in err


def test_least_sure_keeps_the_closest_scores(annotate, world, tmp_path, monkeypatch):
    from idgrpo.records.models import Sample
    from idgrpo.reward.score import RewardModel

    class Fixed:
        """Scores by file name, so that the closest pair of each case is known."""

        def score(self, videos, references, prompts, fps):
            return [float(videos[0].float().mean())]

    monkeypatch.setattr(RewardModel, "load", classmethod(lambda cls, path: Fixed()))
    store = Store(tmp_path / "store")
    with store.publish("rm", "fixed", inputs={}, config={}) as draft:
        (draft.path / "card.json").write_text("{}")
    members = list(read_records(world / "samples.jsonl", Sample))
    third = [s.model_copy(update={"id": f"{s.id}-copy", "seed": 9}) for s in members if not s.id.endswith("-wrong")]
    write_records(tmp_path / "samples.jsonl", [*members, *third])
    code, _, err = annotate("--samples", str(tmp_path / "samples.jsonl"), "--by", "oracle", "--least-sure", "rm",
                              "--set", "pairs.per_case=1", "--json")  # fmt: skip
    assert code == 0, err
    pairs = list(read_records(store.resolve("pairs").file("pairs.jsonl"), Pair))
    assert len(pairs) == 6
    for pair in pairs:
        assert {pair.origin["a"]["seed"], pair.origin["b"]["seed"]} == {
            0,
            9,
        }  # the same clip twice: the smallest difference


@pytest.fixture
def page_voters(monkeypatch):
    """Two people who answer all that the page would show them, gold questions included, and end the session."""
    from idgrpo.annotate import queue, session

    def answer_all(database, folder, listener, hosts, config, serve, **options):
        listener.close()
        for who in ("ann", "ben"):
            while (got := queue.claim(database, who, [], config, 0.0)) is not None:
                now = "2026-11-30T00:00:00Z"
                queue.record_vote(database, who, got.token, f"{who}-{got.token}", "left", 3.0, None, config, now)

    monkeypatch.setattr(session, "_run_server", answer_all)


def test_answered_gold_questions_measure_people_and_travel_with_the_votes(annotate, world, tmp_path, page_voters):
    store = Store(tmp_path / "store")
    assert annotate("--samples", str(world / "samples.jsonl"), "--by", "oracle")[0] == 0
    known = [
        item.model_copy(update={"pair_id": f"gold-{item.pair_id}"})
        for item in read_records(store.resolve("preferences").file("prefs.jsonl"), Preference)
    ]
    write_records(tmp_path / "gold.jsonl", known)
    people = (
        "--pairs",
        "pairs",
        "--gold",
        str(tmp_path / "gold.jsonl"),
        "--name",
        "people",
        "--port",
        "0",
        "--transcode",
    )
    code, out, err = annotate(*people, "--set", "queue.gold_share=0.5", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert first["gold_accuracy"]["num"] > 0
    votes = store.resolve("votes/people")
    assert set(json.loads(votes.file("gold.json").read_text())) == {item.pair_id for item in known}
    assert any(vote.kind == "gold" for vote in read_records(votes.file("votes.jsonl"), Vote))
    # Later, from the votes alone: the known answers are still known.
    code, out, err = annotate("--pairs", "pairs", "--votes", "votes/people", "--name", "later", "--json")
    assert code == 0, err
    assert json.loads(out)["gold_accuracy"] == first["gold_accuracy"]
    # The votes as a plain file know the questions, not the answers: preferences come of them all the same.
    code, out, err = annotate(
        "--pairs", "pairs", "--votes", str(votes.file("votes.jsonl")), "--name", "plain", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["preferences"] == first["preferences"]


def test_a_session_goes_on_with_its_pairs_and_another_one_begins_with_others(annotate, world, tmp_path, page_voters):
    assert annotate("--samples", str(world / "samples.jsonl"), "--name", "people", "--port", "0", "--transcode")[0] == 0
    sessions = list((tmp_path / "store" / "runs").glob("annotate-people-*/session.sqlite"))
    code, _, err = annotate("--samples", str(world / "samples.jsonl"), "--name", "people", "--port", "0", "--transcode")
    assert code == 0, err
    assert list((tmp_path / "store" / "runs").glob("annotate-people-*/session.sqlite")) == sessions
    other = ("--set", "pairs.dimension=style")
    code, _, err = annotate(
        "--samples", str(world / "samples.jsonl"), "--name", "people", "--port", "0", "--transcode", *other
    )
    assert code == 0 and "a new session begins" in err and "--pairs" in err
    assert len(list((tmp_path / "store" / "runs").glob("annotate-people-*/session.sqlite"))) == 2

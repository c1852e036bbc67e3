from collections import Counter

import pytest

from idgrpo.annotate import queue
from idgrpo.annotate.config import QueueConfig
from idgrpo.annotate.schema import open_database
from idgrpo.errors import ArtifactError, UsageError

PLAIN = QueueConfig(overlap=2, repeat_share=0, gold_share=0, lease_s=100)


@pytest.fixture
def database(tmp_path, make_pair):
    connection = open_database(tmp_path / "session.sqlite")
    connection.execute("BEGIN")  # one transaction: these tests are about logic, not about the disk
    queue.fill(connection, (make_pair(f"p{i}") for i in range(6)), [(make_pair(f"g{i}"), "a") for i in range(3)])
    yield connection
    connection.close()


def vote(database, who, assignment, shown="left", config=PLAIN, name=None):
    return queue.record_vote(
        database,
        who,
        assignment.token,
        name or f"{who}-{assignment.token}",
        shown,
        3.0,
        None,
        config,
        "2026-11-23T00:00:00Z",
    )


def work_through(database, who, config, now=0.0, limit=1000):
    seen = []
    while len(seen) < limit and (got := queue.claim(database, who, [], config, now)) is not None:
        vote(database, who, got, config=config)
        seen.append(got)
    return seen


def test_every_pair_gets_its_overlap_and_nobody_sees_one_twice(database):
    seen = {who: [a.pair.pair_id for a in work_through(database, who, PLAIN)] for who in ("ann", "bob", "cid")}
    assert seen["ann"] == seen["bob"] == [f"p{i}" for i in range(6)]
    assert seen["cid"] == []
    assert Counter(v.pair_id for v in queue.read_votes(database)) == {f"p{i}": 2 for i in range(6)}


def test_a_reload_gives_the_same_pair_and_one_held_gives_the_next(database):
    first = queue.claim(database, "ann", [], PLAIN, 0)
    assert queue.claim(database, "ann", [], PLAIN, 1) == first
    second = queue.claim(database, "ann", [first.token], PLAIN, 1)
    assert second.pair.pair_id != first.pair.pair_id


def test_leases_are_counted_and_lapse(database):
    for who in ("ann", "bob"):
        assert queue.claim(database, who, [], PLAIN, 0).pair.pair_id == "p0"
    third = queue.claim(database, "cid", [], PLAIN, 0)
    assert third.pair.pair_id == "p1"  # p0 is in two hands
    late = queue.claim(database, "dan", [], PLAIN, 1000)
    assert late.pair.pair_id == "p0"
    assert {a.pair.pair_id for a in work_through(database, "cid", PLAIN, now=1000)} == {f"p{i}" for i in range(6)}


def test_a_late_vote_counts(database):
    late = queue.claim(database, "ann", [], PLAIN, 0)
    work_through(database, "bob", PLAIN, now=1000)
    assert vote(database, "ann", late)
    assert [v.annotator for v in queue.read_votes(database)].count("ann") == 1


def test_sending_twice_stores_once_and_contradictions_are_refused(database):
    got = queue.claim(database, "ann", [], PLAIN, 0)
    assert vote(database, "ann", got, name="v1") is True
    assert vote(database, "ann", got, name="v1") is False
    assert len(list(queue.read_votes(database))) == 1
    with pytest.raises(queue.ConflictError, match="used for another"):
        vote(database, "ann", got, shown="right", name="v1")
    with pytest.raises(queue.ConflictError, match="already"):
        vote(database, "ann", got, name="v2")
    with pytest.raises(queue.ConflictError, match="not given to you"):
        vote(database, "bob", got, name="v3")


def test_undo_any_number_and_vote_again(database):
    seen = [queue.claim(database, "ann", [], PLAIN, 0)]
    vote(database, "ann", seen[0], name="v0")
    seen.append(queue.claim(database, "ann", [], PLAIN, 0))
    vote(database, "ann", seen[1], name="v1")
    for name in ("v1", "v0"):
        assert queue.undo_vote(database, "ann", name, PLAIN, 0, "2026-11-23T00:00:00Z") is True
        assert queue.undo_vote(database, "ann", name, PLAIN, 0, "2026-11-23T00:00:00Z") is False
    assert list(queue.read_votes(database)) == []
    assert database.execute("SELECT COUNT(*) FROM votes").fetchone() == (2,)  # append-only
    again = queue.claim(database, "ann", [], PLAIN, 0)
    assert again.token == seen[0].token
    assert vote(database, "ann", again, shown="right", name="v2")
    assert [v.shown for v in queue.read_votes(database)] == ["right"]
    with pytest.raises(queue.ConflictError, match="no such vote"):
        queue.undo_vote(database, "bob", "v2", PLAIN, 0, "")


def test_progress_counts(database):
    assert queue.progress(database, "ann", PLAIN) == {"mine": 0, "votes": 0, "needed": 12, "left": 6}
    got = queue.claim(database, "ann", [], PLAIN, 0)
    vote(database, "ann", got, name="v")
    assert queue.progress(database, "ann", PLAIN) == {"mine": 1, "votes": 1, "needed": 12, "left": 5}
    queue.undo_vote(database, "ann", "v", PLAIN, 0, "")
    assert queue.progress(database, "ann", PLAIN) == {"mine": 0, "votes": 0, "needed": 12, "left": 6}


def test_repeats_swap_sides_and_gold_is_mixed_in(tmp_path, make_pair):
    config = QueueConfig(overlap=1, repeat_share=0.2, gold_share=0.2, repeat_after=5)
    database = open_database(tmp_path / "s.sqlite")
    database.execute("BEGIN")
    queue.fill(database, (make_pair(f"p{i}") for i in range(200)), [(make_pair(f"g{i}"), "a") for i in range(20)])
    seen = work_through(database, "ann", config)
    kinds = Counter(a.kind for a in seen)
    assert kinds["plain"] == 200 and kinds["gold"] == 20 and 25 < kinds["repeat"] < 90
    first = {a.pair.pair_id: (i, a) for i, a in enumerate(seen) if a.kind == "plain"}
    for i, again in enumerate(seen):
        if again.kind == "repeat":
            when, original = first[again.pair.pair_id]
            assert again.a_is_left != original.a_is_left and i - when >= 5
    repeats = [a.pair.pair_id for a in seen if a.kind == "repeat"]
    assert len(set(repeats)) == len(repeats)

    shown = [a for a in seen if a.kind != "repeat"]
    assert abs(2 * sum(a.a_is_left for a in shown) - len(shown)) <= config.block


def test_a_session_refuses_other_pairs(database):
    assert queue.check_same(database, {"pairs": "x", "queue": "y"}) is False
    assert queue.check_same(database, {"pairs": "x", "queue": "y"}) is True
    with pytest.raises(UsageError, match="another pairs"):
        queue.check_same(database, {"pairs": "z", "queue": "y"})


def test_a_file_that_is_no_database_is_an_artifact_error(tmp_path):
    (tmp_path / "x.sqlite").write_text("hello " * 100)
    with pytest.raises(ArtifactError, match="not a session database"):
        open_database(tmp_path / "x.sqlite")

import sqlite3
import threading

import pytest

from idgrpo.annotate.schema import open_database
from idgrpo.annotate.writer import Writer


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "x.sqlite")
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    yield connection
    connection.close()


def put(number):
    return lambda database: database.execute("INSERT INTO t VALUES (?)", (number,)).lastrowid


def test_results_come_after_the_commit(database, tmp_path):
    writer = Writer(database)
    other = sqlite3.connect(tmp_path / "x.sqlite")
    for number in range(20):
        assert writer.submit(put(number)).result() == number
        assert other.execute("SELECT COUNT(*) FROM t").fetchone() == (number + 1,)
    writer.close()


def test_one_failure_does_not_touch_its_neighbours(database):
    writer = Writer(database)
    gate = threading.Event()
    blocked = writer.submit(lambda _: gate.wait(5))
    futures = [writer.submit(put(number)) for number in (1, 2, 2, 3)]
    gate.set()
    assert blocked.result() is True
    assert isinstance(futures[2].exception(), sqlite3.IntegrityError)
    assert [f.result() for f in (futures[0], futures[1], futures[3])] == [1, 2, 3]
    writer.close()
    assert database.execute("SELECT x FROM t").fetchall() == [(1,), (2,), (3,)]


def test_what_waits_is_committed_together(database):
    commits = 0

    def count(statement):
        nonlocal commits
        commits += statement == "COMMIT"

    writer = Writer(database)
    gate = threading.Event()
    writer.submit(lambda _: gate.wait(5))
    database.set_trace_callback(count)
    futures = [writer.submit(put(number)) for number in range(100)]
    gate.set()
    assert len({f.result() for f in futures}) == 100
    writer.close()
    assert commits <= 2


def test_a_full_disk_is_told_to_everyone_and_nothing_is_half_saved(database):
    database.execute("PRAGMA max_page_count = 40")
    writer = Writer(database)
    assert writer.submit(put(1)).result() == 1
    big = writer.submit(lambda d: d.execute("CREATE TABLE big AS SELECT zeroblob(4000000) AS x"))
    assert isinstance(big.exception(), sqlite3.Error)
    assert writer.submit(put(2)).result() == 2
    writer.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(put(3))


def test_a_disk_where_write_ahead_logging_fails_is_found_and_served(tmp_path, caplog):
    """Some network disks accept the mode and fail at the first write."""
    from idgrpo.annotate import schema

    class NoSharedMemory(sqlite3.Connection):
        def execute(self, sql, *given):
            if sql.startswith("CREATE TABLE wal_probe"):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *given)

    connect = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            schema.sqlite3, "connect", lambda *given, **options: connect(*given, factory=NoSharedMemory, **options)
        )
        database = open_database(tmp_path / "y.sqlite")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert "write-ahead logging does not work" in caplog.text
    database.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    writer = Writer(database)
    assert writer.submit(put(1)).result(5) == 1
    writer.close()
    database.close()

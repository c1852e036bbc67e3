"""One thread that writes: what waits together is committed together, and nobody is answered before the commit."""

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

MAX_TOGETHER = 256


class Writer:
    """Runs functions of the database one after another on its own thread, many to a commit (group commit).

    A function that raises is undone alone (savepoint); its caller gets the error, the others their results.
    """

    def __init__(self, database: sqlite3.Connection):
        self._database = database
        self._waiting: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="annotate-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], Any]) -> Future:
        """Queue a function; the future is done once its effect is on disk."""
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the writer is closed")
            self._waiting.put((work, future))
        return future

    def close(self) -> None:
        """Finish what waits and stop the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = [first], False
            while len(batch) < MAX_TOGETHER:
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                batch.append(item)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: list[tuple[Callable[[sqlite3.Connection], Any], Future]]) -> None:
        outcomes: list[tuple[Future, Any, BaseException | None]] = []
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for work, future in batch:
                self._database.execute("SAVEPOINT one")
                try:
                    outcomes.append((future, work(self._database), None))
                except Exception as failed:  # handed to its caller
                    self._database.execute("ROLLBACK TO one")
                    outcomes.append((future, None, failed))
                self._database.execute("RELEASE one")
            self._database.execute("COMMIT")
        except sqlite3.Error as lost:  # disk full, disk gone: nothing of this batch is saved, and all are told so
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            outcomes = [(future, None, lost) for _, future in batch]
        for future, value, error in outcomes:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

"""The annotation page's server, killed while somebody votes: every acknowledged vote is in the session, and is published."""

import http.client
import json
import random
import re
import signal
import sqlite3
import time
import uuid
from pathlib import Path

from tests.hostile.warm import Child, fork

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Vote
from idgrpo.store.store import Store

NAME = "annotate: the page's server"
PATIENCE_S = 60
PUBLISH_SHARE = 0.2
"""Share of the kills that come while the votes are published."""


class Session:
    """One session of the page over many kills of its server."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder, self.store = root, folder, root / "page-store"
        self.acknowledged: set[str] = set()
        self.kills = 0

    def _start(self) -> tuple[Child, int]:
        err = self.folder / "page-err.txt"
        words = ["annotate", "--pairs", str(self.root / "pairs.jsonl"), "--store", str(self.store), "--port", "0"]
        words += ["--quiet", "--set", "queue.overlap=1", "--set", "queue.repeat_share=0", "--name", "page"]
        err.unlink(missing_ok=True)
        child = fork(words, out=self.folder / "page-out.txt", err=err)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if err.exists() and (found := re.search(r"http://[^/]*:(\d+)/", err.read_text())):
                return child, int(found[1])
            time.sleep(0.01)
        child.kill()
        raise RuntimeError("the page did not start: " + err.read_text())

    def kill(self, draw: random.Random) -> dict:
        """Vote until the server is killed, at a random moment of a request or while it publishes; then look for lost votes."""
        begun = time.monotonic()
        self.kills += 1
        died, orphans = False, 0
        while not died:
            child, at = self._killed(draw)
            died = child.wait(PATIENCE_S) == -signal.SIGKILL  # or it had published everything before
            orphans += len(child.orphans())
        lost = len(self.acknowledged - self._stored())
        return {"at": at, "lost": lost, "orphans": orphans, "seconds": round(time.monotonic() - begun, 3)}

    def _killed(self, draw: random.Random) -> tuple[Child, str]:
        child, port = self._start()
        if draw.random() < PUBLISH_SHARE:
            delay = draw.uniform(0.001, 0.5)
            self._vote(port, 2)
            child.kill(signal.SIGINT)
            time.sleep(delay)
            child.kill()
            return child, f"{delay:.3f} s after Ctrl-C"
        delay = draw.uniform(0.05, 1.5)
        previous = signal.signal(signal.SIGALRM, lambda *_: child.kill())
        signal.setitimer(signal.ITIMER_REAL, delay)
        self._vote(port, 10_000)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        child.kill()
        return child, f"{delay:.3f} s of voting"

    def _vote(self, port: int, limit: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        who = f"ann-{self.kills}"
        try:
            for _ in range(limit):
                pair = post(connection, "claim", {"annotator": who})["pair"]
                if pair is None:
                    return
                vote = uuid.uuid4().hex
                answer = {"annotator": who, "assignment": pair["assignment"], "vote_id": vote, "answer": "left"}
                post(connection, "vote", {**answer, "seconds": 3.0})
                self.acknowledged.add(vote)
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def _stored(self) -> set[str]:
        (file,) = self.store.glob("runs/annotate-page-*/session.sqlite")
        database = sqlite3.connect(file)
        try:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return {row[0] for row in database.execute("SELECT vote_id FROM votes")}
        finally:
            database.close()

    def close(self) -> None:
        """End the session as a person does: all acknowledged votes must be in the artifact."""
        if not self.kills:
            return
        child, port = self._start()
        self._vote(port, 1)
        child.kill(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 0, (self.folder / "page-err.txt").read_text()
        votes = Store(self.store).resolve("votes/page").file("votes.jsonl")
        published = {vote.vote_id for vote in read_records(votes, Vote)}
        assert published >= self.acknowledged, f"{len(self.acknowledged - published)} votes are not published"
        print(f"page: {len(self.acknowledged)} votes acknowledged in {self.kills} kills, {len(published)} published")


def post(connection: http.client.HTTPConnection, what: str, body: dict) -> dict:
    host = f"127.0.0.1:{connection.port}"
    connection.request("POST", f"/api/{what}", json.dumps(body), {"content-type": "application/json", "host": host})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    if answer.status != 200:
        raise http.client.HTTPException(f"{what}: {answer.status} {content}")
    return content

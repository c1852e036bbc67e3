"""Items of a run are made once each, by whoever claims them; claims of the dead are taken over."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from idgrpo.errors import StoppedError
from idgrpo.run import dealing as module
from idgrpo.run.dealing import Dealing, RunClosedError

NAMES = [f"item/{number}" for number in range(12)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.01)


def make_all(deal: Dealing, folder, made_by: list, who: int, seconds: float = 0.01) -> None:
    def is_made(name):
        return (folder / name.replace("/", "-")).exists()

    for name in deal.share(NAMES, str, is_made, label="make"):
        time.sleep(seconds)
        made_by.append((who, name))
        (folder / name.replace("/", "-")).write_text(str(who))


@pytest.mark.parametrize("num", [1, 2, 5])
def test_each_item_is_made_once_and_everybody_returns_when_all_are_made(tmp_path, num):
    made_by: list[tuple[int, str]] = []
    deals = [Dealing(tmp_path, num > 1, rank, num, publishes=rank == 0) for rank in range(num)]
    deals[0].open(alone=True)
    threads = [threading.Thread(target=make_all, args=(deal, tmp_path, made_by, i)) for i, deal in enumerate(deals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert sorted(name for _, name in made_by) == sorted(NAMES)
    assert len({who for who, _ in made_by}) == num, "everybody made some"
    assert num == 1 or not list((tmp_path / module.CLAIMS).glob("make*")), "all claims were given back"


def test_one_process_alone_leaves_no_claims(tmp_path):
    deal, made_by = Dealing(tmp_path), []
    deal.open(alone=True)
    make_all(deal, tmp_path, made_by, 0)
    deal.close()
    assert [name for _, name in made_by] == NAMES and not (tmp_path / module.CLAIMS).exists()


def test_items_without_a_file_of_their_own_are_marked_for_the_next_start(tmp_path):
    first = Dealing(tmp_path)
    given = []
    for item in first.share(NAMES, str, label="look"):
        given.append(item)
        if len(given) == 3:
            break  # a stop in the middle of the third
    assert list(Dealing(tmp_path).share(NAMES, str, label="look")) == NAMES[2:]
    assert list(Dealing(tmp_path).share(NAMES, str, label="look")) == []
    assert list(Dealing().share(NAMES, str, label="look")) == NAMES


def hold(folder, name: str, *, owner: dict | None = None, age_s: float = 0.0):
    claim = folder / module.CLAIMS / module._file_name(f"make.{name}")
    claim.write_text(json.dumps(owner or {"machine": "another", "pid": 1, "began": "1"}))
    os.utime(claim, (time.time() - age_s,) * 2)
    return claim


def test_a_claim_of_another_machine_holds_until_its_time_is_over(tmp_path):
    deal = Dealing(tmp_path, shared=True, limit_s=5.0)
    deal.open(alone=False)
    hold(tmp_path, NAMES[0], age_s=4.0)
    hold(tmp_path, NAMES[1], age_s=6.0)
    made_by, started = [], time.monotonic()
    make_all(deal, tmp_path, made_by, 0)
    assert [name for _, name in made_by][:1] == [NAMES[1]] and made_by[-1] == (0, NAMES[0])
    assert 0.5 < time.monotonic() - started < 4, "the held item came last, when its claim had aged"


def test_a_claim_of_a_process_that_ended_here_is_taken_over_at_once(tmp_path):
    code = "import json, sys; from idgrpo.run.dealing import _process; print(json.dumps(_process()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    deal, made_by = Dealing(tmp_path, shared=True), []
    deal.open(alone=False)
    hold(tmp_path, NAMES[0], owner=json.loads(ended.stdout))
    make_all(deal, tmp_path, made_by, 0)
    assert made_by[0] == (0, NAMES[0])
    living = hold(tmp_path, "other", owner=module._process(), age_s=1.0)
    assert not deal._is_abandoned(living)


def test_a_claim_is_renewed_while_its_item_is_made(tmp_path):
    slow = Dealing(tmp_path, shared=True, limit_s=0.3)
    slow.open(alone=False)
    other = Dealing(tmp_path, shared=True, publishes=False, limit_s=0.3)
    for name in slow.share(NAMES[:1], str, lambda name: (tmp_path / "made").exists(), label="make"):
        claim = tmp_path / module.CLAIMS / module._file_name(f"make.{name}")
        claim.write_text(json.dumps({"machine": "another"}))  # as a process elsewhere sees it
        for _ in range(8):
            time.sleep(0.1)
            assert not other._is_abandoned(claim)
        (tmp_path / "made").touch()


def test_a_claim_is_given_back_when_making_fails(tmp_path):
    def stop(deal: Dealing) -> None:
        with deal:
            deal.open(alone=False)
            kept = deal.share(NAMES, str, lambda name: False, label="make")  # kept: not closed by leaving this function
            assert next(kept) and list((tmp_path / module.CLAIMS).glob("make*"))
            raise StoppedError("stop")

    with pytest.raises(StoppedError):
        stop(Dealing(tmp_path, shared=True))
    assert not list((tmp_path / module.CLAIMS).glob("make*"))


def test_nobody_claims_once_the_run_is_closed(tmp_path):
    main = Dealing(tmp_path, shared=True)
    main.open(alone=True)
    main.close()
    with pytest.raises(RunClosedError):
        list(Dealing(tmp_path, shared=True, publishes=False).share(NAMES, str, lambda name: False, label="make"))
    main.open(alone=False)
    assert main.is_open()


def test_all_take_the_value_of_the_first_one_to_ask(tmp_path):
    assert [Dealing(tmp_path).agree("batch-size", value) for value in (3, 8)] == [3, 3]
    assert Dealing().agree("batch-size", 8) == 8


def test_one_bar_counts_what_all_made(tmp_path, capsys, monkeypatch):
    from idgrpo.run import progress

    bars = []
    original = progress.ProgressBar.__init__

    def noted(self, *given):
        original(self, *given)
        bars.append(self)

    monkeypatch.setattr(progress.ProgressBar, "__init__", noted)
    deals = [Dealing(tmp_path, True, rank, 2, publishes=rank == 0) for rank in range(2)]
    deals[0].open(alone=True)
    made_by: list = []
    threads = [threading.Thread(target=make_all, args=(deal, tmp_path, made_by, i)) for i, deal in enumerate(deals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    (bar,) = bars
    assert bar.done == bar.total == len(NAMES)

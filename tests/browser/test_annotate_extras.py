"""The annotation page beside voting: audit, 200 %, sub-path, storage, zoom, comment, pause, practice, organiser. `make test-browser`."""

import time

import pytest
from tests.annotate.conftest import clip_pairs, clips  # noqa: F401 the annotate room's fixtures
from tests.annotate.live import free_port, start_server
from tests.annotate.proxy import Proxy
from tests.browser.test_annotate_page import PLAIN, AnnotatePage, people_pairs  # noqa: F401

from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Preference, Vote
from idgrpo.store.store import Store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
SCREENS = [
    {"width": 1280, "height": 800}, {"width": 1280, "height": 800, "dark": True}, {"width": 390, "height": 844},
    {"width": 390, "height": 844, "dark": True}, {"width": 1280, "height": 800, "zoom": 2},
]  # fmt: skip
ENTER, ESCAPE, RIGHT = "\ue007", "\ue00c", "\ue014"
NO_STORAGE = "for (const area of ['localStorage', 'sessionStorage']) Object.defineProperty(window, area, {get() { throw new DOMException('no', 'SecurityError'); }});"
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
VISIBLE = (
    "(() => { const clips = [...document.querySelectorAll('.screen')].map(e => e.getBoundingClientRect());"
    "const votes = [...document.querySelectorAll('[data-answer]')].map(e => e.getBoundingClientRect());"
    "const top = Math.min(...votes.map(b => b.top));"
    "return clips.every(b => b.top >= 0 && b.bottom <= top + 1 && b.height > 100) && votes.every(b => b.bottom <= innerHeight); })()"
)


def stored_votes(tmp_path) -> list[Vote]:
    return list(read_records(Store(tmp_path / "store").resolve("votes").path / "votes.jsonl", Vote))


def test_the_page_fits_every_screen_and_passes_the_audit(windows, tmp_path, people_pairs):  # noqa: F811
    pytest.importorskip("axe_core_python")
    (tmp_path / "g.md").write_text("# What to look at\n\n1. Faces\n2. Hair, then clothes\n")
    options = ("--transcode", "--set", "queue.overlap=9", "--guidelines", str(tmp_path / "g.md"))
    running = start_server(tmp_path, people_pairs("wide"), *PLAIN, *options)
    for screen in SCREENS:
        name = "annotate-" + "-".join(str(value) for value in screen.values())
        page = windows(AnnotatePage, **screen)
        page.driver.get(f"http://127.0.0.1:{running.port}/")
        page.wait("document.getElementById('join').open")
        assert page.audit() == [], screen
        page.press(name.replace("-", " "), ENTER)
        page.wait("document.getElementById('guidelines').open")
        assert page.audit() == [], screen
        page.press(ESCAPE)
        page.wait_for_pair()
        page.press(" ")
        time.sleep(0.4)
        assert page.audit() == [], screen
        assert page.ask("document.documentElement.scrollWidth") <= page.ask("innerWidth"), screen
        page.shot(name)
        if screen.get("zoom"):
            assert page.ask(VISIBLE), screen
        page.press("z")
        page.wait("document.body.classList.contains('zoomed')")
        time.sleep(0.3)
        page.shot(f"{name}-zoomed")
        page.press("z")
        assert page.errors == []
        page.driver.get("about:blank")
    page = windows(width=1280, height=800)
    for width, dark in ((1280, False), (390, True)):
        page = windows(width=width, height=844, dark=dark)
        page.driver.get(running.organiser)
        page.wait("document.querySelectorAll('#figures div').length === 7")
        assert page.audit() == []
        assert page.ask("document.documentElement.scrollWidth") <= page.ask("innerWidth")
        page.shot(f"organise-{width}")
    running.stop()


@pytest.mark.parametrize("trouble", [NO_STORAGE, FULL])
def test_blocked_or_full_storage_loses_no_vote_and_says_so(windows, tmp_path, clip_pairs, trouble):  # noqa: F811
    running = start_server(tmp_path, clip_pairs(3), *PLAIN)
    page = windows(AnnotatePage)
    page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": trouble})
    page.join(running.port, "ann")
    page.vote("f")
    page.offline(True)
    page.vote("j")
    page.wait("document.getElementById('saved').textContent.startsWith('Offline')")
    assert page.ask("!document.getElementById('storage').hidden")
    assert ("blocked" if trouble == NO_STORAGE else "full") in page.ask(
        "document.getElementById('storage').textContent"
    )
    page.offline(False)
    page.saved()
    page.vote("t")
    page.saved()
    assert running.stop()[0] == 0
    assert [vote.shown for vote in stored_votes(tmp_path)] == ["left", "right", "tie"]


def test_a_proxy_under_a_sub_path_with_links(windows, tmp_path, clip_pairs):  # noqa: F811
    port = free_port()
    with Proxy(port) as proxy:
        public = f"http://127.0.0.1:{proxy.port}/faces/"
        running = start_server(tmp_path, clip_pairs(3), *PLAIN, "--public-url", public, "--annotator", "ann", port=port)
        page = windows(AnnotatePage)
        page.driver.get(f"{public}#enter={running.links['ann']}")
        page.wait("document.getElementById('join').open")
        page.press(ENTER)
        page.driver.execute_script("document.querySelector('#join form').requestSubmit()")
        page.wait_for_pair()
        assert page.ask("location.pathname") == "/faces/"
        page.vote("f")
        page.saved()
        page.driver.get(public)  # the cookie lets the same person in again
        page.wait_for_pair()
        boss = windows()
        assert running.organiser.startswith(public)
        boss.driver.get(running.organiser)
        boss.wait("document.querySelector('#annotators th')?.textContent === 'ann'")
        boss.driver.execute_script("document.querySelector('[data-link]').click()")
        boss.wait("document.querySelector('#links td').textContent === 'revoked'")
        boss.driver.execute_script(
            "document.getElementById('who').value = 'ben'; document.getElementById('make').requestSubmit()"
        )
        boss.wait("document.getElementById('made').textContent.includes('/faces/#enter=')")
        page.press("j")
        page.wait("document.getElementById('saved').textContent.includes('open your own link')")
        assert boss.errors == []
        assert running.stop()[0] == 0
    assert [vote.annotator for vote in stored_votes(tmp_path)] == ["ann"]


def test_practice_comment_pause_list_and_finish_by_keys(windows, tmp_path, clip_pairs):  # noqa: F811
    pairs = clip_pairs(4)
    known = [Preference(**pairs[3].model_dump(), label="a", source="human")]
    write_records(tmp_path / "known.jsonl", known)
    running = start_server(
        tmp_path, pairs[:3], *PLAIN, "--practice", str(tmp_path / "known.jsonl"), "--set", "serve.code_after=2"
    )
    page = windows(AnnotatePage)
    page.join(running.port, "ann")
    assert page.ask("document.getElementById('question').textContent").startswith("Practice")
    page.press("f")
    page.wait("document.getElementById('feedback').open")
    assert page.ask("document.getElementById('feedback-title').textContent") in ("Right", "Look again next time")
    page.press(ENTER)
    page.wait_for_pair()
    page.press("m")
    page.wait("document.getElementById('comment-dialog').open")
    page.press("hair changes at the end")
    page.driver.execute_script("document.querySelector('#comment-dialog form').requestSubmit()")
    page.wait("document.getElementById('comment').classList.contains('given')")
    page.vote("j")
    page.wait("!document.getElementById('comment').classList.contains('given')")
    page.wait_for_pair()
    page.press("z")
    page.wait("document.body.classList.contains('zoomed')")
    page.press(RIGHT, RIGHT)
    assert page.ask("document.getElementById('stage').style.getPropertyValue('--zx')") == "70.0%"
    assert (
        page.ask(
            "new Set([...document.querySelectorAll('.screen video')].map(v => getComputedStyle(v).transform)).size"
        )
        == 1
    )
    page.press("z")
    page.press("p")
    page.wait("!document.getElementById('pause').hidden && !idgrpo.player.playing")
    time.sleep(3)
    page.press("p")
    page.wait("document.getElementById('pause').hidden")
    page.vote("t")
    page.saved()
    page.press("v")
    page.wait("document.querySelectorAll('#own-list li').length === 2")
    assert "hair changes at the end" in page.ask("document.getElementById('own-list').textContent")
    page.driver.execute_script("document.querySelectorAll('#own-list button')[1].click()")  # change the first
    page.wait("idgrpo.state.current && document.getElementById('pause').hidden")
    page.wait_for_pair()
    page.vote("b")
    page.saved()
    page.driver.execute_script("document.getElementById('finish-open').click()")
    page.wait("!document.getElementById('pause-code').hidden")
    assert len(page.ask("document.getElementById('code').textContent")) == 10
    assert page.errors == []
    assert running.stop()[0] == 0
    votes = stored_votes(tmp_path)
    assert [(vote.shown, vote.reason) for vote in votes] == [("tie", None), ("both_bad", None)]
    assert votes[0].seconds < 3 + 2  # the pause is not counted

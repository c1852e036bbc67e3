"""The page in a real browser: `make test-browser` (needs chromium and chromium-driver from the system's packages).

Screenshots at 1280 and 390 px go to $IDGRPO_SCREENSHOTS if it is set.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.annotate.conftest import clip_pairs, clips  # noqa: F401 the annotate room's fixtures
from tests.annotate.live import Server, start_server
from tests.browser.window import Page

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Pair, Vote
from idgrpo.store.store import Store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PLAIN = ("--set", "queue.overlap=2", "--set", "queue.repeat_share=0")


class AnnotatePage(Page):
    """A window on the annotation page."""

    def join(self, port: int, name: str) -> None:
        self.driver.get(f"http://127.0.0.1:{port}/")
        self.wait("document.getElementById('join').open")
        self.press(name, "\ue007")
        self.wait_for_pair()

    def state(self) -> str:
        videos = "idgrpo.player.videos.map(v => [v.seeking, v.paused, v.readyState, v.currentTime, v.duration])"
        return "\nplayer: " + self.ask(f"JSON.stringify([idgrpo.player.playing, idgrpo.player.time, {videos}])")

    def wait_for_pair(self) -> None:
        self.wait("idgrpo.state.current && idgrpo.state.unlocked")

    def vote(self, key: str) -> None:
        before = self.ask("idgrpo.state.current.assignment")
        self.wait_for_pair()
        self.press(key)
        self.wait(f"idgrpo.state.current?.assignment !== '{before}'")

    def saved(self) -> None:
        self.wait("idgrpo.outbox.waiting.length === 0")


@pytest.fixture
def pages(windows) -> Callable[..., AnnotatePage]:
    return partial(windows, AnnotatePage)


@pytest.fixture
def server(tmp_path, clip_pairs) -> Iterator[Server]:  # noqa: F811
    running = start_server(tmp_path, clip_pairs(5), *PLAIN)
    yield running
    if running.process.poll() is None:
        running.process.kill()


@pytest.fixture
def people_pairs(tmp_path) -> Callable[[str], list[Pair]]:
    """One pair of clips with three people of the embedded world: square as they are, or wide like a generator's."""
    from torch.nn.functional import interpolate

    from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples
    from idgrpo.video.read import read_video
    from idgrpo.video.write import write_video

    def make(shape: str) -> list[Pair]:
        samples = write_true_samples(tmp_path, write_cases(tmp_path, make_cases(2, seed=4, num_people=3)))
        files = [sample.video for sample in samples]
        if shape == "wide":
            for k, file in enumerate(files):
                clip = interpolate(read_video(Path(file)).float(), size=(480, 832), mode="bicubic", antialias=True)
                files[k] = str(tmp_path / f"wide-{k}.mp4")
                write_video(Path(files[k]), clip.clamp(0, 255).byte())
        case = samples[0]
        people = [
            reference.model_copy(update={"person": name})
            for reference, name in zip(case.references, ("Anna", "Ben", "Charlotte Fontaine"), strict=True)
        ]
        prompt = f"{case.prompt}. They greet each other, change places and leave on different sides, all faces visible."
        return [Pair(pair_id="p", case_id="c", prompt=prompt, references=people, video_a=files[0], video_b=files[1])]

    return make


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_clips_of_each_shape_have_equal_frames_that_fit(pages, tmp_path, people_pairs, shape):
    running = start_server(tmp_path, people_pairs(shape), *PLAIN, "--transcode", "--set", "queue.overlap=9")
    for width, height, dark in ((1280, 800, False), (1280, 640, True), (390, 844, False), (390, 844, True)):
        page = pages(width=width, height=height, dark=dark)
        page.join(running.port, f"ann {width} {height} {dark}")
        time.sleep(0.4)  # colours fade in
        page.shot(f"{shape}-{width}x{height}-{'dark' if dark else 'light'}")
        boxes = page.ask(
            "[...document.querySelectorAll('.screen')].map(e => { const b = e.getBoundingClientRect(); "
            "return [b.width, b.height, b.left, b.right, b.bottom]; })"
        )
        (left, right), ratio = boxes, 1.0 if shape == "square" else 832 / 480
        assert left[:2] == pytest.approx(right[:2], abs=1) and left[0] / left[1] == pytest.approx(ratio, rel=0.02)
        assert left[2] >= 0 and right[3] <= width and left[1] >= 140
        top = page.ask("document.querySelector('[data-answer=left]').getBoundingClientRect().top")
        assert top >= right[4] or width < 640  # a narrow page scrolls under its answers, a wide one does not
        pictures = page.ask("[...document.querySelectorAll('.reference')].map(e => e.getBoundingClientRect().width)")
        assert len(pictures) == 3 and all(pictures)
        assert page.ask("document.documentElement.scrollWidth") <= width
        page.driver.get("about:blank")  # four looping players would starve a small machine
    running.process.kill()
    running.process.wait()


def test_two_annotators_by_keyboard_with_reload_undo_and_offline(server, pages, tmp_path):
    ann, bob = pages(), pages(width=390, height=844, dark=True)
    ann.join(server.port, "ann")
    ann.shot("page-1280")
    ann.vote("f")
    bob.join(server.port, "bob")
    bob.shot("page-390")
    bob.vote("j")
    ann.saved()
    assert ann.ask("document.getElementById('saved').textContent") == "Saved"
    # reload in the middle: the same pair comes back
    before = ann.ask("idgrpo.state.current.assignment")
    ann.driver.refresh()
    ann.wait_for_pair()
    assert ann.ask("idgrpo.state.current.assignment") == before
    # undo across the reload, and vote again
    ann.press("u")
    ann.wait(f"idgrpo.state.current.assignment !== '{before}' && idgrpo.state.history.length === 0")
    ann.saved()
    ann.vote("j")
    assert ann.ask("idgrpo.state.current.assignment") == before
    # offline: votes are kept here, said so, and sent when the network is back
    ann.offline(True)
    ann.vote("t")
    ann.wait("document.getElementById('saved').dataset.state === 'offline'")
    assert ann.ask("idgrpo.outbox.waiting.length") == 1
    ann.vote("b")
    ann.offline(False)
    ann.wait("idgrpo.outbox.waiting.length === 0")
    ann.wait_for_pair()
    # a skip asks for its reason
    ann.press("s")
    ann.wait("document.getElementById('skip-reason').open")
    ann.driver.find_element("css selector", "#reasons button").click()
    for _ in range(4):
        bob.vote("f")
    ann.vote("f")
    for page in (ann, bob):
        page.saved()
        page.wait(
            "!document.getElementById('pause').hidden && document.getElementById('pause-title').textContent.startsWith('All done')"
        )
    ann.shot("done-1280")
    code, _, err = server.stop()
    assert code == 0, err
    votes = list(read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote, unique="vote_id"))
    shown = {who: [v.shown for v in votes if v.annotator == who] for who in ("ann", "bob")}
    assert shown == {
        "ann": ["right", "tie", "both_bad", "skip", "left"],
        "bob": ["right", "left", "left", "left", "left"],
    }
    for page in (ann, bob):
        bad = [
            line
            for line in page.driver.get_log("browser")
            if line["level"] == "SEVERE" and "ERR_INTERNET_DISCONNECTED" not in line["message"]
        ]
        assert not bad


def test_the_server_dies_and_comes_back(server, pages, tmp_path, clip_pairs):  # noqa: F811
    ann = pages()
    ann.join(server.port, "ann")
    server.process.kill()
    server.process.wait()
    ann.vote("f")
    ann.wait("document.getElementById('saved').dataset.state === 'offline'")
    again = start_server(tmp_path, [], *PLAIN, port=server.port)
    ann.saved()
    code, _, err = again.stop()
    assert code == 0, err
    assert len(list(read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote))) == 1


def test_playback_flip_and_frames(server, pages):
    page = pages()
    page.driver.get(f"http://127.0.0.1:{server.port}/")
    page.wait("document.getElementById('join').open")
    page.press("ann", "\ue007")
    page.wait("idgrpo.state.current")
    page.wait_for_pair()
    medians: list[float] = []
    while not medians or (min(medians) >= 1 / 16 and len(medians) < 10):  # a starved machine gets ten tries
        drifts = []
        for _ in range(30):
            drifts.append(page.ask("idgrpo.player.videos.some(v => v.seeking) ? 0 : idgrpo.player.drift"))
            time.sleep(0.03)
        medians.append(sorted(drifts)[len(drifts) // 2])
    assert min(medians) < 1 / 16, medians  # less than a frame apart
    page.press(" ")
    page.wait("!idgrpo.player.playing && idgrpo.player.videos.every(v => v.paused)")
    page.press("r")
    page.wait("idgrpo.player.playing")
    page.press(" ")
    first = page.ask("idgrpo.player.frame")
    page.press(".", ".")
    page.wait(f"idgrpo.player.frame === Math.min({first} + 2, 8)")
    page.press(",")
    page.wait(f"idgrpo.player.frame === Math.min({first} + 2, 8) - 1")
    page.wait("idgrpo.player.videos.every(v => !v.seeking && Math.floor(v.currentTime * 16) === idgrpo.player.frame)")
    page.press("x")
    page.wait("document.getElementById('stage').classList.contains('flip')")
    page.shot("flip-1280")
    boxes = page.ask("[...document.querySelectorAll('.screen')].map(e => JSON.stringify(e.getBoundingClientRect()))")
    assert boxes[0] == boxes[1]
    front = "getComputedStyle(document.getElementById('figure-{}')).visibility === 'visible'"
    assert page.ask(front.format("left")) and not page.ask(front.format("right"))
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page.driver).key_down("c").perform()
    page.wait(front.format("right"))
    ActionChains(page.driver).key_up("c").perform()
    page.wait(front.format("left"))


def test_quick_steps_end_on_the_frame_that_is_shown(server, pages):
    page = pages()
    page.join(server.port, "ann")
    page.press(" ")
    page.wait("!idgrpo.player.playing")
    for first in [*range(7)] * 3:
        page.ask(f"idgrpo.player.seek(({first} + 0.5) / 16)")
        page.press(".", ".", ",")  # each before the last one's seek has ended, which may then never end
        page.wait(f"idgrpo.player.frame === {first} + 1")
        page.wait(f"idgrpo.player.videos.every(v => !v.seeking && Math.floor(v.currentTime * 16) === {first} + 1)", 10)


def test_votes_stay_locked_until_both_clips_played(server, pages):
    page = pages()
    page.driver.get(f"http://127.0.0.1:{server.port}/")
    page.wait("document.getElementById('join').open")
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    page.press("ann", "\ue007")
    page.wait("idgrpo.state.current && idgrpo.player.duration")
    page.press("f")
    time.sleep(0.3)
    assert page.ask("idgrpo.state.history.length") == 0
    assert page.ask("[...document.querySelectorAll('[data-answer]')].every(b => b.disabled)")
    page.press(" ")
    page.wait_for_pair()


def test_keys_can_be_moved_and_collisions_are_refused(server, pages):
    page = pages()
    page.join(server.port, "ann")
    page.press("?")
    page.wait("document.getElementById('help').open")
    page.shot("help-1280")
    page.driver.find_element("css selector", "[data-action=left]").click()
    page.press("j")
    page.wait("document.getElementById('key-message').textContent.includes('Right is better')")
    page.driver.find_element("css selector", "[data-action=left]").click()
    page.press("q")
    page.wait("document.querySelector('[data-action=left]').textContent === 'Q'")
    page.press("\ue00c")
    page.wait("!document.getElementById('help').open")
    first = page.ask("idgrpo.state.current.assignment")
    page.press("f")
    time.sleep(0.3)
    assert page.ask("idgrpo.state.current.assignment") == first
    page.vote("q")


@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_everything_has_a_name_and_fits(server, pages, width):
    page = pages(width=width, height=700)
    page.join(server.port, "ann")
    assert page.ask("document.documentElement.scrollWidth") <= width
    nameless = page.ask(
        "[...document.querySelectorAll('button, input, select, video, img, [role]')].filter(e => e.offsetParent && "
        "!(e.getAttribute('aria-label') || e.alt || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.ask("document.documentElement.lang") == "en"
    buttons = (
        "[...document.querySelectorAll('[data-answer]')].every(b => b.getBoundingClientRect().bottom <= innerHeight)"
    )
    assert page.ask(buttons)  # the answers are in sight without scrolling


def cell(side: str, place: int) -> str:
    return f"[...document.querySelectorAll('#people-{side} .person')][{place}]"


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_who_is_wrong_is_asked_by_key_and_by_touch_and_may_be_left_open(pages, tmp_path, people_pairs, width, height):
    running = start_server(tmp_path, people_pairs("wide"), *PLAIN, "--transcode", "--set", "ask_people=true")
    page = pages(width=width, height=height)
    page.join(running.port, "ann")
    marked = "document.querySelector('.person.now').getAttribute('aria-label')"
    assert page.ask(marked) == "Left clip, Anna" and page.ask("document.querySelectorAll('.person').length") == 6
    page.press("1", "2", "5")  # Anna kept, Ben changed, nothing of Charlotte
    assert page.ask(marked) == "Right clip, Anna"
    page.press("3", "4")
    assert page.ask("document.getElementById('people-said').textContent") == "Right clip, Ben: missing"
    page.driver.find_element("css selector", "#people-right .person:last-child [data-fate=kept]").click()
    page.driver.find_element("css selector", "#people-left .person:last-child [data-fate=kept]").click()
    page.driver.find_element("css selector", "#people-left .person:last-child [data-fate=kept]").click()  # taken back
    time.sleep(0.3)
    page.shot(f"people-{width}x{height}")
    fates = {"left": ["kept", "changed", None], "right": ["mixed", "missing", "kept"]}
    assert page.ask("idgrpo.state.current.people") == fates
    assert page.ask(f"{cell('left', 1)}.querySelector('[data-fate=changed]').getAttribute('aria-pressed')") == "true"
    assert page.ask("document.documentElement.scrollWidth") <= width
    nameless = "[...document.querySelectorAll('#people [role], #people button')].filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()))"
    assert page.ask(f"{nameless}.length") == 0
    sizes = "[...document.querySelectorAll('.person button')].map(b => b.getBoundingClientRect().height)"
    assert min(page.ask(sizes)) >= (38 if width < 640 else 24)  # a thumb, or a mouse
    answers = (
        "[...document.querySelectorAll('[data-answer]')].every(b => b.getBoundingClientRect().bottom <= innerHeight)"
    )
    assert page.ask(answers)
    page.vote("f")
    page.saved()
    page.press("u")
    page.wait("idgrpo.state.current")
    page.saved()
    assert page.ask("idgrpo.state.current.people") == fates  # undo brings the answers back
    page.wait_for_pair()
    page.vote("j")
    page.saved()
    code, _, err = running.stop()
    assert code == 0, err
    (vote,) = read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote)
    left, right = ("a", "b") if vote.a_is_left else ("b", "a")
    assert vote.people == {left: fates["left"], right: fates["right"]} and vote.shown == "right"


def test_nobody_is_asked_about_people_unless_it_was_wanted(server, pages, tmp_path):
    page = pages()
    page.join(server.port, "ann")
    assert page.ask("document.getElementById('people').hidden")
    page.press("1")
    assert page.ask("idgrpo.state.current.people === undefined")
    page.press("?")
    page.wait("document.getElementById('help').open")
    assert not page.ask("document.querySelector('[data-action=kept]')")
    page.press("\ue00c")
    page.vote("f")
    page.saved()
    assert server.stop()[0] == 0
    (vote,) = read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote)
    assert vote.people is None

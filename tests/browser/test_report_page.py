"""The report in a real browser: large view, filters, keys, audit. `make test-browser` (needs chromium and its driver)."""

import pytest
from tests.evaluate.conftest import PlantedFinder, make_samples  # noqa: F401 the evaluate room's fixture

from idgrpo.evaluate.config import EvaluateConfig, PageConfig, StatisticsConfig
from idgrpo.evaluate.document import Provenance
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.page.html import page_html

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
BASE = ["swapped halves", "missing person", "duplicate", "replaced", "blend", "extra stranger", "faithful", "nobody"]
TUNED = ["faithful"] * 6 + ["nobody", "faithful"]
ESCAPE, ENTER, TAB, LEFT, RIGHT = "\ue00c", "\ue007", "\ue004", "\ue012", "\ue014"
MADE = Provenance(
    "idgrpo eval --samples base=samples/a", 'headline = "identity"', ("base = samples/a@v1", "└─ cases/c@v1")
)


@pytest.fixture
def address(make_samples, tmp_path) -> str:  # noqa: F811
    """A report of a base and two policies with curves, written to disk."""
    samples = {"base": make_samples("base", BASE), "tuned": make_samples("tuned", TUNED, policy="policy/p@v1")}
    samples["other"] = make_samples("other", ["missing person"] * 8, policy="policy/q@v1")
    rows = [
        {"step": i, "reward_mean": 0.1 * i, "eval_identity": 0.4 + i / 100, "kl": (i * 7 % 5) / 9} for i in range(20)
    ]
    curves = {f"policy/p-seed{n}@v1": rows for n in range(2)}
    config = EvaluateConfig(statistics=StatisticsConfig(num_resamples=300))
    report = evaluate(samples, PlantedFinder(), config, curves=curves)
    file = tmp_path / "report.html"
    file.write_text(page_html([report, report], PageConfig(), ["one", "two"], MADE), encoding="utf-8")
    return file.as_uri()


SCREENS = [
    {"width": 1280, "height": 800}, {"width": 1280, "height": 800, "dark": True}, {"width": 390, "height": 844},
    {"width": 390, "height": 844, "dark": True}, {"width": 1280, "height": 800, "zoom": 2},
]  # fmt: skip


def test_report_fits_every_screen_and_passes_the_audit(address, windows):
    pytest.importorskip("axe_core_python")
    for screen in SCREENS:
        page = windows(**screen)
        name = "report-" + "-".join(str(value) for value in screen.values())
        page.driver.get(address)
        page.wait("document.querySelectorAll('.case').length === 16")
        assert page.ask("document.documentElement.scrollWidth") <= screen["width"] // screen.get("zoom", 1), screen
        assert page.audit() == [], screen
        page.shot(name)
        page.driver.execute_script("document.querySelector('[data-open]').click()")
        page.wait(
            "document.getElementById('large').open && document.querySelector('#large-stage video').readyState >= 2"
        )
        assert page.audit() == [], screen
        assert page.ask("document.getElementById('large').scrollWidth <= document.getElementById('large').clientWidth")
        page.shot(f"{name}-large")
        assert page.errors == []
        page.driver.get("about:blank")


def test_a_dot_and_a_clip_open_a_large_view_that_keys_drive(address, windows):
    page = windows()
    page.driver.get(address)
    page.wait("document.querySelectorAll('circle[data-key]').length > 10")
    page.driver.execute_script("document.querySelector('circle[data-key][tabindex=\"0\"]').focus()")
    page.press(RIGHT, ENTER)
    page.wait("document.getElementById('large').open")
    page.press(ESCAPE)
    page.wait("!document.getElementById('large').open")
    assert page.ask("document.activeElement.matches('circle[data-key]')")  # back where it came from
    page.driver.execute_script(
        "[...document.querySelectorAll('.case')].find(c => c.dataset.key === 'case-000|0').querySelector('.players').click()"
    )
    page.wait("document.querySelectorAll('#large-stage .front .box').length === 1")
    page.press(" ")
    page.wait("document.getElementById('large-play').textContent === 'play'")
    page.press("x")  # from the other policy to the base, in the same place
    page.wait("document.querySelector('#large-stage .front').dataset.variant === 'base'")
    page.driver.execute_script(
        "const s = document.getElementById('large-seek'); s.value = 1; s.dispatchEvent(new Event('input'))"
    )
    page.wait("document.getElementById('large-frame').textContent === 'frame 2 of 12'")
    page.wait(
        "[...document.querySelectorAll('.front .box b')].map(b => b.textContent).sort().join() === '1 1.00,2 1.00'"
    )
    page.driver.execute_script(
        "const s = document.getElementById('large-seek'); s.value = 9; s.dispatchEvent(new Event('input'))"
    )
    page.wait(
        "[...document.querySelectorAll('.front .box b')].every(b => b.textContent.includes('like'))"
    )  # swapped halves
    page.press(RIGHT)
    page.wait("document.getElementById('large-frame').textContent === 'frame 11 of 12'")
    for _ in range(3):
        page.press(LEFT, LEFT, LEFT, LEFT, RIGHT, RIGHT, RIGHT, RIGHT, LEFT, LEFT)  # faster than seeks end
        page.press(RIGHT, RIGHT)
        stand = "[...document.querySelectorAll('#large-stage video')].every(v => !v.seeking)"
        page.wait(f"document.getElementById('large-frame').textContent === 'frame 11 of 12' && {stand}", 10)
    page.press("b")
    page.wait("document.querySelectorAll('.front .box').length === 0")
    assert (
        page.ask("document.querySelectorAll('#large-curves polyline').length") == 5
    )  # 2 + 2 + 1: one person is missing
    before = page.ask("document.getElementById('large-where').textContent")
    page.press("n")
    page.wait(f"document.getElementById('large-where').textContent !== '{before}'")
    assert page.errors == []


def test_filters_definitions_order_and_csv(address, windows):
    page = windows()
    page.driver.get(address)
    page.wait("document.querySelectorAll('.case').length === 16")
    page.driver.execute_script("document.querySelector('[name=prompt]').focus()")
    page.press("number 3")
    page.wait("document.querySelector('[data-count]').textContent === '1 of 8 videos'")
    assert page.ask("document.querySelectorAll('[data-panel=\"0\"] circle.out').length") > 0
    page.driver.execute_script("document.querySelector('[data-reset]').click()")
    page.wait("document.querySelector('[data-count]').textContent === '8 of 8 videos'")
    page.driver.execute_script(
        "const s = document.querySelector('[name=gain]'); s.value = 'down'; s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    page.wait("document.querySelector('[data-count]').textContent !== '8 of 8 videos'")
    page.driver.execute_script(
        "const s = document.querySelector('[name=person]'); s.form.reset(); s.value = 'a-2'; s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    page.wait("document.querySelector('[data-count]').textContent === '1 of 8 videos'")
    page.driver.execute_script("document.querySelector('[data-about]').focus()")
    page.press(ENTER)
    page.wait("document.getElementById('about').matches(':popover-open')")
    assert "Higher is better. Mean over the people" in page.ask("document.getElementById('about').textContent")
    page.press(ESCAPE)
    page.wait(
        "!document.getElementById('about').matches(':popover-open') && document.activeElement.dataset.about === 'identity'"
    )
    page.driver.execute_script("const h = document.querySelectorAll('[data-order]')[0]; h.click(); h.click()")
    first = "document.querySelector('.leaderboard tbody tr th').firstChild.textContent"
    assert page.ask("document.querySelector('.leaderboard [aria-sort=ascending]') !== null")
    values = page.ask(
        "[...document.querySelectorAll('[data-panel=\"0\"] .leaderboard tbody tr')].map(r => Number(r.cells[2].dataset.value))"
    )
    assert values == sorted(values) and page.ask(first) in ("base", "tuned", "other")
    text = page.ask("csvText([...reports.values()][0])")
    lines = text.splitlines()
    assert len(lines) == 1 + 3 * 8 and lines[0].startswith("variant,case,seed,prompt,people,identity,")
    assert '"two people, number 0"' in lines[1]
    page.driver.execute_script("document.querySelector('[data-tab=\"0\"]').focus()")
    page.press(RIGHT)
    assert page.ask("document.activeElement.dataset.tab === '1' && !document.getElementById('panel-1').hidden")
    assert page.errors == []

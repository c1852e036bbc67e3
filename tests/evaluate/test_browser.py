"""The page in a real browser: videos decode and play, nothing is requested, it fits two widths. `pytest -m browser`."""

import re
import shutil
import subprocess

import pytest
from tests.evaluate.conftest import PlantedFinder

from idgrpo.evaluate.config import EvaluateConfig, PageConfig, StatisticsConfig
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.page.html import page_html
from idgrpo.video.read import read_image

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const videos = [...document.querySelectorAll("video")];
  document.querySelector('[data-sort="worst"]').click();
  const gains = [...document.querySelectorAll(".case")].map((c) => Number(c.dataset.gain));
  document.body.dataset.probe = [
    videos.length, videos.filter((v) => v.readyState >= 2 && v.videoWidth === 192 && !v.error).length,
    gains.every((g, i) => !i || g >= gains[i - 1]), document.documentElement.scrollWidth <= innerWidth,
    performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:")).length,
  ].join("|");
}, 1500));
</script></body>"""


def browse(*arguments):
    return subprocess.run([BROWSER, *FLAGS, *arguments], capture_output=True, text=True, timeout=280, check=True).stdout


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 420])
def test_videos_play_and_nothing_is_requested(make_samples, tmp_path, width):
    config = EvaluateConfig(statistics=StatisticsConfig(num_resamples=300))
    scripts = ["swapped halves", "missing person", "duplicate", "replaced"]
    samples = {"base": make_samples("base", scripts), "tuned": make_samples("tuned", ["faithful"] * 3 + ["nobody"])}
    page = page_html([evaluate(samples, PlantedFinder(), config)], PageConfig())
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    address = f"file://{tmp_path}/page.html"
    dom = browse("--virtual-time-budget=6000", f"--window-size={width},900", "--dump-dom", address)
    found = re.search(r'data-probe="([^"]+)"', dom)
    assert found, "the probe did not run"
    assert found[1] == "8|8|true|true|0"
    browse("--virtual-time-budget=3000", f"--window-size={width},900", f"--screenshot={tmp_path}/shot.png", address)
    assert len(read_image(tmp_path / "shot.png").flatten(1).unique(dim=1)[0]) > 50  # not a blank page

"""The page: self-contained, bounded, escaped, with players a browser can play."""

import base64
import json
import re
import shutil
import time
from html.parser import HTMLParser
from io import BytesIO

import av
import pytest
import torch
from tests.evaluate.conftest import PlantedFinder, planted_clip

from idgrpo.evaluate.config import EvaluateConfig, PageConfig, StatisticsConfig
from idgrpo.evaluate.document import read_report
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.page.charts import curve, forest, scatter, ticks
from idgrpo.evaluate.page.gallery import choose
from idgrpo.evaluate.page.html import page_html
from idgrpo.evaluate.page.media import fit_width, trimmed
from idgrpo.evaluate.report import write_report
from idgrpo.evaluate.tables import latex, markdown, summary_lines
from idgrpo.records.models import Sample
from idgrpo.video.read import read_image

CONFIG = EvaluateConfig(statistics=StatisticsConfig(num_resamples=300))
BASE = ["swapped halves", "missing person", "duplicate", "replaced", "blend"]
TUNED = ["faithful", "faithful", "swapped halves", "nobody", "faithful"]
CURVES = {"run": [{"step": i, "reward_mean": i * 0.1, "kl": 0.01 * i * i, "note": "x"} for i in range(20)]}


class Outside(HTMLParser):
    """Collects addresses that a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []
        self.open_tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "poster", "action") and v]
        if tag not in ("meta", "img", "br", "link"):
            self.open_tags.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag


@pytest.fixture
def report(make_samples):
    tuned = [
        s.model_copy(update={"prompt": "<script>alert(1)</script>"}) for s in make_samples("tuned", TUNED, policy="p")
    ]
    return evaluate({"base": make_samples("base", BASE), "tuned": tuned}, PlantedFinder(), CONFIG, curves=CURVES)


def test_page_stands_alone_and_is_well_formed(report):
    page = page_html([report], PageConfig())
    parser = Outside()
    parser.feed(page)
    assert parser.open_tags == []
    assert parser.addresses
    assert all(a.startswith("data:") for a in parser.addresses)
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|https?://", page)
    assert "<script>alert" not in page


def test_players_are_h264_that_browsers_play(report):
    page = page_html([report], PageConfig())
    clips = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", page)
    assert len(clips) == 10
    content = base64.b64decode(clips[0])
    assert content.index(b"moov") < content.index(b"mdat")  # faststart
    with av.open(BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.width == 64 * 3


def test_page_keeps_to_its_bytes_and_says_what_it_left_out(report):
    whole = page_html([report], PageConfig())
    small = page_html([report], PageConfig(max_bytes=200_000))
    assert len(small) <= 200_000 < 150_000 + len(whole)
    few = page_html([report], PageConfig(max_players=2))
    assert few.count("<video") == 4
    assert "2 of 5 videos" in few


def test_several_reports_become_tabs(report):
    page = page_html([report, report], PageConfig(), names=["one", "two"])
    assert page.count('role="tab"') == 2
    assert page.count('role="tabpanel"') == 2


def test_every_section_is_there(report):
    page = page_html([report], PageConfig(title="A & B"))
    for text in (
        "Watch them",
        "Is the gain honest?",
        "Case by case",
        "All measures",
        "The run",
        "Notes",
        "A &amp; B",
        "reward mean",
    ):
        assert text in page


def test_one_variant_alone_has_a_page(make_samples):
    alone = evaluate({"clips": make_samples("clips", BASE)}, PlantedFinder(), CONFIG)
    page = page_html([alone], PageConfig())
    assert page.count("<video") == 5
    assert "Is the gain honest?" not in page


def test_report_folder_holds_everything(report, tmp_path):
    write_report(report, tmp_path / "out", PageConfig(sheet_cases=3))
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"report.json", "report.html", "contact_sheet.png", "table.md", "table.tex"}
    sheet = read_image(tmp_path / "out" / "contact_sheet.png")
    assert sheet.shape[1] > 6 * 64  # three cases, two variants each


def test_tables_tell_the_same_numbers(report):
    identity = report.comparisons["tuned"]["identity"]
    assert f"| {identity.base:.3f} | {identity.tuned:.3f} |" in markdown(report)
    assert f"& {identity.base:.3f} & {identity.tuned:.3f} &" in latex(report)
    assert any(f"{identity.base:.3f} -> {identity.tuned:.3f}" in line for line in summary_lines(report))
    assert not re.search(r"(?<!\\)[%_]", latex(report))


def cells(table: str, title: str) -> list[str]:
    """Give the cells of a Markdown table's line."""
    return next([c.strip(" *") for c in line.split("|")[1:-1]] for line in table.splitlines() if title in line)


def test_cases_improve_by_the_better_direction(report):
    """Fewer swaps are an improvement: 3 of 5 cases improve (the others tie or are not defined), none gets worse."""
    swaps = report.comparisons["tuned"]["swap_rate"]
    assert swaps.difference.value < 0
    share = f"{swaps.win_rate.value * 100:.0f} %"
    assert swaps.win_rate.value > 0.5
    assert cells(markdown(report), "Swap rate ↓")[5] == share
    tex = next(line for line in latex(report).splitlines() if line.startswith("Swap rate"))
    assert tex.split(" & ")[5] == share.replace("%", r"\%")
    row = re.search(r"Swap rate <em>↓</em></th>(.*?)</tr>", page_html([report], PageConfig()))[1]
    assert f"<td>{share}</td>" in row
    assert cells(markdown(report), "Motion")[5] == "–"  # no better direction, nothing to improve


def test_the_headline_pair_comes_first_everywhere(report):
    assert (report.headline, report.headlines) == ("identity", ["identity", "separation"])
    assert {s.measure for s in report.slices} <= {"identity", "separation"}
    lines = markdown(report).splitlines()[4:6]
    assert [
        line.startswith(f"| **{title} ↑** |") for line, title in zip(lines, ("Identity", "Separation"), strict=True)
    ] == [True] * 2
    own = report.comparisons["tuned"]["separation"]
    assert own.p_holm is None and cells(markdown(report), "Separation")[6] == f"{own.p_value:.3f}"
    body = latex(report).splitlines()
    assert body[4].startswith("Identity") and body[5].startswith("Separation") and body[6] == r"\midrule"
    summary = summary_lines(report)
    assert "Identity ↑" in summary[1] and "Separation ↑" in summary[2] and "Coverage ↑" in summary[3]
    page = page_html([report], PageConfig())
    cards = re.findall(r'<article class="card( large)? (\w+)"[^>]*><h3>([^<]+) <em title="([^"]+)">', page)
    assert [(c[2], bool(c[0])) for c in cards[:3]] == [
        ("Identity", True),
        ("Separation", True),
        ("Worst person", False),
    ]
    assert {c[2]: c[3] for c in cards}["Confusion"] == "lower is better"
    assert "identity" in report.power_note and "separation" in report.power_note


def test_cards_are_coloured_by_what_is_better(make_samples):
    """Swaps fell in all of 12 cases: the arrow points down, the colour is that of an improvement."""
    samples = {"base": make_samples("base", ["duplicate"] * 12), "tuned": make_samples("tuned", ["faithful"] * 12)}
    page = page_html([evaluate(samples, PlantedFinder(), CONFIG)], PageConfig(max_players=0))
    found = re.findall(
        r'<article class="card(?: large)? (\w+)"[^>]*><h3>(\w+)[^<]* <em[^>]*>([↑↓]?)</em></h3><p class=change>(.)',
        page,
    )
    drawn = {title: (verdict, arrow, change) for verdict, title, arrow, change in found}
    assert drawn["Swap"] == drawn["Confusion"] == ("better", "↓", "▼")
    assert drawn["Separation"] == ("better", "↑", "▲")


def test_an_alarm_stands_beside_the_headline(make_samples):
    """Two people blended into one: identity rises, and the page and the table say at once what it was paid with."""
    samples = {"base": make_samples("base", ["missing person"] * 10), "tuned": make_samples("tuned", ["blend"] * 10)}
    blended = evaluate(samples, PlantedFinder(), CONFIG)
    assert blended.comparisons["tuned"]["identity"].verdict == "better"
    assert blended.comparisons["tuned"]["separation"].verdict == "worse"
    page = page_html([blended], PageConfig(max_players=0))
    assert page.index("People told apart") < page.index("Is the gain honest?")
    assert "- alarm: People told apart: people became more like each other: confusion 0.000 to 0.707" in markdown(
        blended
    )


def test_the_forest_shows_confusion_and_swaps(report):
    page = page_html([report], PageConfig())
    names = re.findall(r'<text class="name"[^>]*>([^<]+)</text>', page)
    assert {"Identity ↑", "Separation ↑", "Confusion ↓", "Swap rate ↓", "Margin ↑"} <= set(names)
    assert "seen 100%" in page  # coverage is said in front of each clip's similarity


def written(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_report_made_twice_is_the_same_in_every_byte(make_samples, tmp_path, monkeypatch):
    """Another day, another store, another machine's clock in the curves, a cache or none."""
    samples = {"base": make_samples("base", BASE), "tuned": make_samples("tuned", TUNED, policy="p")}
    first_store, second_store = tmp_path / "one", tmp_path / "two"
    for store in (first_store, second_store):
        for name in ("base", "tuned"):
            shutil.copytree(tmp_path / name, store / name)
        for portrait in tmp_path.glob("portrait-*.png"):
            shutil.copy(portrait, store)

    def moved(store):
        text = {
            name: [s.model_dump_json().replace(str(tmp_path), str(store)) for s in part]
            for name, part in samples.items()
        }
        return {name: [Sample.model_validate_json(line) for line in part] for name, part in text.items()}

    def curves(speed: float) -> dict:
        timed = {"seconds_update": speed, "samples_per_second": 1 / speed, "cpu_seconds": speed, "wall_s": speed}
        return {"run": [{**row, **timed} for row in CURVES["run"]]}

    here = evaluate(moved(first_store), PlantedFinder(), CONFIG, curves=curves(1.5), cache_folder=tmp_path / "cache")
    write_report(here, first_store / "report", PageConfig())
    time.sleep(1.1)  # a date in seconds would differ
    there = evaluate(moved(second_store), PlantedFinder(), CONFIG, curves=curves(2.5))
    write_report(there, second_store / "report", PageConfig())
    first, second = written(first_store / "report"), written(second_store / "report")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_a_moved_report_still_finds_its_videos(report, tmp_path, make_samples):
    write_report(report, tmp_path / "reports" / "one", PageConfig())
    assert read_report(tmp_path / "reports" / "one") == report
    shutil.copytree(tmp_path, tmp_path.parent / "moved")
    again = read_report(tmp_path.parent / "moved" / "reports" / "one")
    assert page_html([again], PageConfig()) == page_html([report], PageConfig())
    assert again.samples[0].video.startswith(str(tmp_path.parent / "moved"))


def test_a_report_of_version_0_1_0_can_be_read(report, tmp_path):
    """It had a date, one headline, and slices without a measure."""
    old = json.loads(report.model_dump_json())
    old["created_utc"] = "2026-11-01T10:00:00+00:00"
    del old["headlines"]
    for part in old["slices"]:
        del part["measure"]
    (tmp_path / "report.json").write_text(json.dumps(old))
    found = read_report(tmp_path)
    assert found.pair() == ["identity"]
    assert "| **Identity ↑** |" in markdown(found)
    assert page_html([found], PageConfig(max_players=0))


def test_small_clips_are_enlarged_pixel_by_pixel_and_large_ones_reduced():
    small = planted_clip("faithful", 0)[:, :, :32, :32]
    big = fit_width(small, 224)
    assert big.shape[-2:] == (224, 224)
    assert (big[:, :, ::7, ::7] == small).all()
    assert fit_width(planted_clip("faithful", 0).repeat(1, 1, 9, 13)[:, :, :575, :], 224).shape[-2:] == (310, 448)


def test_gallery_does_not_flatter():
    rows = list(range(100))
    chosen = choose(rows, float, 5)
    assert chosen == [99, 74, 49, 25, 0]
    assert choose(rows[:3], float, 5) == [2, 1, 0]


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    for low, high in ((-0.013, 0.021), (3.2, 977.0), (-5.0, -1.0)):
        found = ticks(low, high)
        assert 3 <= len(found) <= 8
        assert low <= min(found)
        assert max(found) <= high


def test_charts_draw_every_point():
    assert scatter([(0, 1, "a"), (1, 0, "b")], "x", "y", "t", diagonal=True).count("<circle") == 2
    assert scatter([(0.1, 1, "<b>")], "x", "y", "t", zero=True).count("&lt;b&gt;") == 1
    assert curve([(0, 1.0), (1, 2.0), (2, 1.5)], "t").count("<polyline") == 2
    assert forest([("m", 0.1, 0.0, 0.2, "better"), ("n", -0.1, None, None, "unclear")], "t").count("whisker") == 1


def test_one_endless_interval_does_not_flatten_the_others():
    rows = [("m", 0.1, 0.0, 0.2, "better"), ("n", 0.6, -0.2, 140.0, "unclear")]
    drawn = forest(rows, "t")
    places = [float(x) for x in re.findall(r'<circle class="mark \w+" cx="([\d.]+)"', drawn)]
    assert places[1] - places[0] > 50
    assert drawn.count("▸") == 1 and "◂" not in drawn
    assert "▸" not in forest(rows[:1], "t")


def test_portraits_lose_their_plain_margin_only():
    image = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    image[:, 10:26, 18:24] = 90
    cut = trimmed(image)
    assert cut.shape == (3, 19, 19)
    assert int((cut == 90).sum()) == 3 * 16 * 6
    noise = torch.randint(0, 255, (3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert trimmed(noise).shape == noise.shape

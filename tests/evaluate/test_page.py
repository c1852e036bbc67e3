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
from idgrpo.evaluate.document import Provenance, read_report
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.page.charts import Line, Point, curve, forest, scatter, shortened, ticks
from idgrpo.evaluate.page.gallery import choose
from idgrpo.evaluate.page.html import page_html
from idgrpo.evaluate.page.media import fit_width, trimmed
from idgrpo.evaluate.page.runs import curves as run_curves
from idgrpo.evaluate.page.runs import grouped, has_trend, joined
from idgrpo.evaluate.report import write_report
from idgrpo.evaluate.tables import latex, markdown, samples_csv, summary_lines
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
        if tag not in ("meta", "img", "br", "link", "input"):
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
    assert names == {"report.json", "report.html", "contact_sheet.png", "table.md", "table.tex", "samples.csv"}
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
    row = re.search(r"Swap rate <em>↓</em><button[^>]*>[?]</button></th>(.*?)</tr>", page_html([report], PageConfig()))[
        1
    ]
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


def test_the_forest_shows_confusion_and_swaps(report, make_samples):
    assert 'class="name"' not in page_html([report], PageConfig())  # 5 cases bound nothing: no plot of noise
    samples = {"base": make_samples("b", BASE * 2), "tuned": make_samples("t", TUNED * 2, policy="p")}
    page = page_html([evaluate(samples, PlantedFinder(), CONFIG)], PageConfig(max_players=1))
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
    drawn = scatter([Point(0, 1, "a", "k|1"), Point(1, 0, "b", "k|2")], "x", "y", "t", diagonal=True)
    assert drawn.count("<circle") == drawn.count('role="button"') == 2
    assert drawn.count('tabindex="0"') == 1  # one stop of the tabulator; arrow keys go on from there
    assert scatter([Point(0.1, 1, "<b>")], "x", "y", "t", zero=True).count("&lt;b&gt;") == 1
    assert curve(Line("t", [(0, 1.0), (1, 2.0), (2, 1.5)])).count("<polyline") == 2
    banded = curve(Line("t", [(0, 1.0), (1, 2.0)], band=[(0.5, 1.5), (1.0, 3.0)]))
    assert (banded.count("<polygon"), banded.count("<polyline")) == (1, 1)
    held_out = curve(Line("t", [(0, 1.0), (8, 2.0), (16, 2.5)], dots=True))
    assert (held_out.count("<circle"), held_out.count('class="rule"')) == (3, 1)
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


def document_of(page: str) -> dict:
    """Read what the page's script works on."""
    return json.loads(re.search(r'<script type="application/json" data-report>(.*?)</script>', page, re.DOTALL)[1])


def test_a_clip_carries_its_tracks_and_each_persons_similarity_over_time(report):
    page = page_html([report], PageConfig())
    document = document_of(page)
    assert document["complete"] and len(document["rows"]) == 10
    swapped = document["clips"]["case-000|0|base"]
    assert (swapped["fps"], swapped["frames"]) == (16.0, 12)
    first = next(track for track in swapped["tracks"] if track["person"] == 0)
    assert first["frames"] == list(range(12))
    assert first["similarity"] == [1.0] * 6 + [0.0] * 6 or first["similarity"] == [0.0] * 6 + [1.0] * 6
    assert set(first["nearest"]) == {0, 1}  # another person of the case is shown for half of the clip
    assert all(0 <= value <= 1 for box in first["boxes"] for value in box)
    strangers = document["clips"]["case-003|0|base"]["tracks"]
    assert len(strangers) == 2
    assert "<" not in json.dumps(document["rows"]).replace("<script>alert(1)</script>", "")


def test_values_of_all_videos_are_left_out_of_a_small_page_and_never_of_the_csv(report):
    many = report.model_copy(
        update={"samples": [s.model_copy(update={"seed": n}) for n in range(60) for s in report.samples]}
    )
    small = PageConfig(max_bytes=300_000, max_players=3)
    page = page_html([many], small)
    assert len(page) <= 300_000
    document = document_of(page)
    assert not document["complete"] and len(document["rows"]) <= 6
    lines = samples_csv(many).splitlines()
    assert len(lines) == 601
    assert lines[0].startswith("variant,case,seed,prompt,people,identity,")
    assert "identity=" in lines[1] and "a-0;b-0" in lines[1]


def test_several_policies_make_a_leaderboard(make_samples):
    samples = {
        "base": make_samples("base", ["missing person"] * 8),
        "weak": make_samples("weak", ["missing person"] * 4 + ["faithful"] * 4, policy="policy/weak@v1"),
        "strong": make_samples("strong", ["faithful"] * 8, policy="policy/strong@v1"),
    }
    page = page_html([evaluate(samples, PlantedFinder(), CONFIG)], PageConfig(max_players=0))
    board = re.search(r'<section class="leaderboard">(.*?)</section>', page, re.DOTALL)[1]
    names = re.findall(r'<tr><td>(\d)</td><th scope="row">(\w+)<small>([^<]+)</small>', board)
    assert names == [
        ("1", "strong", "policy/strong@v1"),
        ("2", "weak", "policy/weak@v1"),
        ("3", "base", "planted as it is"),
    ]
    assert board.count('<small class="better">') >= 2


def test_runs_of_several_seeds_share_a_band_and_noise_is_not_drawn(report):
    def rows(seed: int) -> list[dict]:
        noise = torch.Generator().manual_seed(seed)
        return [
            {"step": i, "reward_mean": 0.1 * i + seed, "kl": float(torch.rand(1, generator=noise)), "lr": 1e-4}
            | ({"eval_identity": 0.4 + 0.01 * i} if i % 8 == 0 else {})
            for i in range(24)
        ]

    curves = {f"policy/p-seed{seed}@v1": rows(seed) for seed in range(3)}
    assert list(grouped(curves)) == ["policy/p@v1"]
    assert list(grouped({"a-seed0": [], "b-seed0": []})) == ["a-seed0", "b-seed0"]
    line = joined(list(curves.values()), "reward_mean")
    assert line.points[3] == (3.0, pytest.approx(1.3)) and line.band[3] == (pytest.approx(0.3), pytest.approx(2.3))
    drawn = run_curves(report.model_copy(update={"curves": curves}))
    titles = re.findall(r"<figcaption>([^<]+)</figcaption>", drawn)
    assert titles == ["held-out identity", "reward mean"]
    assert "3 seeds" in drawn and 'scope="row">kl</th>' in drawn
    assert not has_trend([0.0, 1.0] * 12)
    assert has_trend([0.0] * 12 + [1.0] * 12)


def test_the_page_says_how_it_was_made(report):
    made = Provenance(
        "idgrpo eval --samples <a>", 'headline = "identity"', ("samples.base = samples/a@v1", "└─ cases/c@v1")
    )
    page = page_html([report], PageConfig(max_players=0), made_by=made)
    assert "idgrpo eval --samples &lt;a&gt;" in page and "└─ cases/c@v1" in page
    assert page.count("data-copy>") == 3
    assert "How this report was made" not in page_html([report], PageConfig(max_players=0))


def test_headings_go_down_one_level_at_a_time(report):
    levels = [int(n) for n in re.findall(r"<h([1-6])[ >]", page_html([report], PageConfig()))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_labels_are_cut_to_what_fits():
    assert shortened("Identity", 200) == "Identity"
    assert shortened("a very long title of a measure of somebody's plugin", 100) == "a very long ti…"
    drawn = forest([("a very long title of a measure of somebody's plugin", 0.1, 0.0, 0.2, "better")], "t")
    left = float(re.search(r'class="name" x="([\d.]+)"', drawn)[1])
    text = re.search(r'class="name"[^>]*>([^<]+)<', drawn)[1]
    assert len(text) * 6.6 <= left + 6.6

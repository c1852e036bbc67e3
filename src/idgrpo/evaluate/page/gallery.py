"""References, base and tuned clips side by side, sorted by gain, worst first on demand."""

from collections.abc import Callable
from html import escape

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Report, SampleDocument
from idgrpo.evaluate.page.media import Budget, data_address, portrait_bytes, video_bytes
from idgrpo.evaluate.tables import number

CaseRow = dict[str, SampleDocument]  # variant -> sample, of one case and seed


def paired_rows(report: Report) -> list[CaseRow]:
    """Group samples of the same case and seed; only those that every variant has."""
    grouped: dict[tuple[str, int], CaseRow] = {}
    for sample in report.samples:
        grouped.setdefault((sample.case_id, sample.seed), {})[sample.variant] = sample
    names = [v.name for v in report.variants]
    return [row for row in grouped.values() if all(n in row for n in names)]


def gain(report: Report, row: CaseRow) -> float:
    """Give how much the last tuned variant improves the headline measure; the value itself when there is one variant."""
    last = report.variants[-1].name
    value = row[last].values.get(report.headline) or 0.0
    if last == report.reference_variant:
        return value
    return value - (row[report.reference_variant].values.get(report.headline) or 0.0)


def choose(rows: list[CaseRow], score: Callable[[CaseRow], float], count: int) -> list[CaseRow]:
    """Choose rows evenly from best to worst, both ends included, so that the gallery does not flatter."""
    ordered = sorted(rows, key=score, reverse=True)
    if len(ordered) <= count:
        return ordered
    if count <= 1:
        return ordered[:count]
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def gallery(report: Report, config: PageConfig, budget: Budget) -> str:
    """Draw the cards; those whose media no longer fit the budget are left out and counted."""
    rows = paired_rows(report)
    chosen = choose(rows, lambda row: gain(report, row), config.max_players)
    cards = [card for row in chosen if (card := _card(report, row, config, budget))]
    if not cards:
        return ""
    note = (
        ""
        if len(cards) == len(rows)
        else f"{len(cards)} of {len(rows)} videos, spread evenly from the largest gain to the largest loss."
    )
    titles = " and ".join(report.info(name).title.lower() for name in report.pair())
    legend = (
        f" Below each clip: the share of frames in which people are seen, {escape(titles)}, and a bar for each person."
    )
    return (
        '<section class="gallery"><div class="bar-top"><h2>Watch them</h2><div class="controls">'
        '<button data-sort="gain" aria-pressed="true">largest gain first</button>'
        '<button data-sort="worst" aria-pressed="false">worst first</button>'
        '<button data-play aria-pressed="true">pause</button>'
        '<button data-speed="0.5" title="speed">speed ½×</button></div></div>'
        f'<p class="sub">{note}{legend}</p><div class="cases">{"".join(cards)}</div></section>'
    )


def _card(report: Report, row: CaseRow, config: PageConfig, budget: Budget) -> str | None:
    names = [v.name for v in report.variants]
    first = row[names[0]]
    portraits = [portrait_bytes(images[0]) for images in first.references]
    clips = [video_bytes(row[name].video, config.player_width_px) for name in names]
    if not budget.take(sum(len(b) for b in portraits + clips) * 4 // 3 + 3000):
        return None
    people = "".join(
        f'<img src="{data_address(b, "image/png")}" alt="reference {i + 1}">' for i, b in enumerate(portraits)
    )
    players = "".join(_player(report, name, row[name], clip) for name, clip in zip(names, clips, strict=True))
    change = gain(report, row)
    compared = len(names) > 1
    chip = (
        f'<span class="chip {"better" if change > 0 else "worse"}">{number(change, signed=True)}</span>'
        if compared
        else ""
    )
    return (
        f'<article class="case" data-gain="{change:.6f}"><header><div class="people">{people}</div>'
        f'<div class="words"><p class="prompt">{escape(first.prompt)}</p><p class="sub">{escape(first.case_id)} · seed {first.seed}</p></div>'
        f'{chip}</header><div class="players">{players}</div></article>'
    )


def _player(report: Report, name: str, sample: SampleDocument, clip: bytes) -> str:
    side = "is-base" if name == report.reference_variant else "is-tuned"
    shown = " · ".join(number(sample.values.get(name)) for name in report.pair())
    titles = " · ".join(report.info(name).title.lower() for name in report.pair())
    coverage = sample.values.get("coverage")
    seen = (
        ""
        if coverage is None
        else f'<small title="share of frames in which people are seen">seen {coverage:.0%}</small>'
    )
    per_person = sample.people.get(report.headline, sample.people.get("identity", []))
    dots = "".join(
        f'<i title="person {i + 1}: {v:.2f}" style="--v:{min(max(v, 0), 1):.3f}"></i>' for i, v in enumerate(per_person)
    )
    return (
        f'<figure class="{side}"><video src="{data_address(clip, "video/mp4")}" muted loop autoplay playsinline preload="auto"></video>'
        f'<figcaption><b>{escape(name)}</b>{seen}<span title="{escape(titles)}">{shown}</span>'
        f'<span class="persons">{dots}</span></figcaption></figure>'
    )

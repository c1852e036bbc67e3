"""References, base and tuned clips side by side, sorted by gain, worst first on demand; filters and the large view."""

from collections.abc import Callable
from html import escape

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Report, SampleDocument
from idgrpo.evaluate.page.data import key_of, people_of
from idgrpo.evaluate.page.media import Budget, data_address, portrait_bytes, video_bytes
from idgrpo.evaluate.tables import number

CaseRow = dict[str, SampleDocument]  # variant -> sample, of one case and seed
CARD_TEXT_BYTES = 4000
TRACK_BYTES = 60  # of one frame of one person


def paired_rows(report: Report) -> list[CaseRow]:
    """Group samples of the same case and seed; only those that every variant has."""
    grouped: dict[tuple[str, int], CaseRow] = {}
    for sample in report.samples:
        grouped.setdefault(sample.key, {})[sample.variant] = sample
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


def gallery(report: Report, config: PageConfig, budget: Budget, panel: int = 0) -> tuple[str, list[SampleDocument]]:
    """Draw the cards and list the videos on them; cards whose media no longer fit the budget are left out and counted."""
    rows = paired_rows(report)
    cards: list[str] = []
    shown: list[SampleDocument] = []
    for row in choose(rows, lambda row: gain(report, row), config.max_players):
        if card := _card(report, row, config, budget):
            cards.append(card)
            shown += row.values()
    if not cards:
        return "", []
    note = (
        ""
        if len(cards) == len(rows)
        else f"{len(cards)} of {len(rows)} videos, spread evenly from the largest gain to the largest loss."
    )
    titles = " and ".join(report.info(name).title.lower() for name in report.pair())
    legend = (
        f" Below each clip: the share of frames in which people are seen, {escape(titles)}, and a bar for each person. "
        "Click a clip, or press Enter on its button, for a large view."
    )
    return (
        '<section class="gallery"><div class="bar-top"><h2>Watch them</h2><div class="controls">'
        '<button data-sort="gain" aria-pressed="true">largest gain first</button>'
        '<button data-sort="worst" aria-pressed="false">worst first</button>'
        "<button data-play>pause</button>"
        "<button data-speed>speed ½×</button></div></div>"
        f'<p class="sub">{note}{legend}</p>{_filters(report, shown, panel)}<div class="cases">{"".join(cards)}</div></section>'
    ), shown


def _filters(report: Report, shown: list[SampleDocument], panel: int) -> str:
    """Fields that choose cards and points: number of people, person, words of the prompt, gain."""
    counts = sorted({len(s.references) for s in report.samples})
    people = sorted({name for sample in report.samples if sample.persons for name in sample.persons})
    fields = [_search(panel)]
    if len(counts) > 1:
        fields.append(_select(panel, "people", "People", [(str(n), str(n)) for n in counts]))
    if people:
        fields.append(_select(panel, "person", "Person", [(name, name) for name in people]))
    if report.tuned_variants():
        ways = [("up", "improves"), ("down", "gets worse")]
        fields.append(_select(panel, "gain", report.info(report.headline).title, ways))
    return (
        f'<form class="filters" aria-label="Filter videos and points">{"".join(fields)}'
        '<button type="reset" data-reset>show all</button>'
        f'<p class="sub" role="status" data-count>{len(shown) // len(report.variants)} videos</p></form>'
    )


def _search(panel: int) -> str:
    return f'<label for="prompt-{panel}">Prompt <input type="search" id="prompt-{panel}" name="prompt" placeholder="words"/></label>'


def _select(panel: int, name: str, title: str, options: list[tuple[str, str]]) -> str:
    items = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return (
        f'<label for="{name}-{panel}">{escape(title)} <select id="{name}-{panel}" name="{name}">'
        f'<option value="">all</option>{items}</select></label>'
    )


def _card(report: Report, row: CaseRow, config: PageConfig, budget: Budget) -> str | None:
    names = [v.name for v in report.variants]
    first = row[names[0]]
    portraits = [portrait_bytes(images[0]) for images in first.references]
    clips = [video_bytes(row[name].video, config.player_width_px) for name in names]
    tracked = sum(len(track.frames) for sample in row.values() for track in sample.tracks)
    needed = sum(len(b) for b in portraits + clips) * 4 // 3 + CARD_TEXT_BYTES + TRACK_BYTES * tracked
    if not budget.take(needed):
        return None
    people = "".join(
        f'<span class="portrait p{i % 6}"><img src="{data_address(b, "image/png")}" alt="{escape(name)}"><b>{i + 1}</b></span>'
        for i, (b, name) in enumerate(zip(portraits, people_of(first), strict=True))
    )
    players = "".join(_player(report, name, row[name], clip) for name, clip in zip(names, clips, strict=True))
    change = gain(report, row)
    compared = len(names) > 1
    chip = (
        f'<span class="chip {"better" if change > 0 else "worse"}">{number(change, signed=True)}</span>'
        if compared
        else ""
    )
    where = escape(f"{first.case_id} · seed {first.seed}")
    return (
        f'<article class="case" data-gain="{change:.6f}" data-key="{escape(key_of(first))}"><header><div class="people">{people}</div>'
        f'<div class="words"><h3 class="prompt">{escape(first.prompt)}</h3><p class="sub">{where}</p></div>'
        f'<div class="ends">{chip}<button class="open" data-open aria-label="Large view of {where}">⤢</button></div></header>'
        f'<div class="players">{players}</div></article>'
    )


def _player(report: Report, name: str, sample: SampleDocument, clip: bytes) -> str:
    side = "is-base" if name == report.reference_variant else "is-tuned"
    shown = " · ".join(number(sample.values.get(name)) for name in report.pair())
    coverage = sample.values.get("coverage")
    seen = "" if coverage is None else f"<small>seen {coverage:.0%}</small>"
    per_person = sample.people.get(report.headline, sample.people.get("identity", []))
    dots = "".join(f'<i style="--v:{min(max(v, 0), 1):.3f}"></i>' for v in per_person)
    told = ", ".join(f"person {i + 1}: {v:.2f}" for i, v in enumerate(per_person))
    label = escape(f"{name}, {sample.case_id}")
    return (
        f'<figure class="{side}"><video src="{data_address(clip, "video/mp4")}" data-variant="{escape(name)}" aria-label="{label}" '
        'muted loop playsinline preload="metadata"></video>'
        f"<figcaption><b>{escape(name)}</b>{seen}<span>{shown}</span>"
        f'<span class="persons" role="img" aria-label="{told}">{dots}</span></figcaption></figure>'
    )

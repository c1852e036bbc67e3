"""Charts as inline SVG: colours come from the page's style sheet, so light and dark both work."""

from collections.abc import Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 400, 300  # about as wide as a phone shows it, so that its letters stay readable there
FOREST_LIMIT = 2.0
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44
LETTER_PX = 6.6  # mean width of a letter of 12 px


class Point(NamedTuple):
    """One dot: its place, what it is called, and the video that it opens (`key_of`)."""

    x: float
    y: float
    label: str
    key: str = ""


def shortened(text: str, width_px: float) -> str:
    """Cut a label to what fits, with an ellipsis."""
    room = max(3, int(width_px / LETTER_PX))
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose round numbers between low and high."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    unit = 10 ** floor(log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough)
    first = -(-low // step) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """Write a tick shortly, yet with enough digits to differ from its neighbours."""
    digits = max(0, -floor(log10(step) + 1e-9)) if step > 0 else 3
    text = f"{value:.{digits + 1}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return "0" if text in ("-0", "") else text


def _step(values: list[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else 0.0


class Frame:
    """Map data to the drawing and draw axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int = WIDTH, height: int = HEIGHT):
        self.x, self.y = _widened(*x), _widened(*y)
        self.width, self.height = width, height

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - LEFT - RIGHT)
        down = self.height - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    def axes(self, x_title: str, y_title: str) -> str:
        parts = []
        across, up = ticks(*self.x), ticks(*self.y)
        for value in across:
            px, _ = self.at(value, self.y[0])
            bottom = self.height - BOTTOM
            parts.append(f'<line class="grid" x1="{px}" x2="{px}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(
                f'<text class="tick" x="{px}" y="{bottom + 16}" text-anchor="middle">{tick_text(value, _step(across))}</text>'
            )
        for value in up:
            _, py = self.at(self.x[0], value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{py}" y2="{py}"/>')
            parts.append(
                f'<text class="tick" x="{LEFT - 8}" y="{py + 4}" text-anchor="end">{tick_text(value, _step(up))}</text>'
            )
        middle_x, middle_y = (LEFT + self.width - RIGHT) / 2, (TOP + self.height - BOTTOM) / 2
        parts.append(
            f'<text class="axis" x="{middle_x}" y="{self.height - 6}" text-anchor="middle">{escape(shortened(x_title, self.width - LEFT))}</text>'
        )
        parts.append(
            f'<text class="axis" transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle">{escape(shortened(y_title, self.height - TOP))}</text>'
        )
        return "".join(parts)


def _widened(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    return low - room, high + room


def _svg(content: str, label: str, width: int = WIDTH, height: int = HEIGHT, role: str = "img") -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="{role}" aria-label="{escape(label)}">{content}</svg>'


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    label: str,
    *,
    diagonal: bool = False,
    zero: bool = False,
) -> str:
    """Draw points; `diagonal` draws y = x with equal axes, `zero` the lines x = 0 and y = 0.

    A point with a key is a button; arrow keys go from one to the next, by their place on the x axis.
    """
    points = sorted(points)
    xs, ys = [p.x for p in points], [p.y for p in points]
    if diagonal:
        span = (min(xs + ys), max(xs + ys))
        frame = Frame(span, span)
    else:
        frame = Frame(
            (min(xs + [0.0] * zero), max(xs + [0.0] * zero)), (min(ys + [0.0] * zero), max(ys + [0.0] * zero))
        )
    parts = [frame.axes(x_title, y_title)]
    if diagonal:
        (x1, y1), (x2, y2) = frame.at(frame.x[0], frame.x[0]), frame.at(frame.x[1], frame.x[1])
        parts.append(f'<line class="rule" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    if zero:
        (x1, y0), (x0, y1) = frame.at(frame.x[0], 0), frame.at(0, frame.y[1])
        parts.append(f'<line class="rule" x1="{x1}" x2="{WIDTH - RIGHT}" y1="{y0}" y2="{y0}"/>')
        parts.append(f'<line class="rule" x1="{x0}" x2="{x0}" y1="{y1}" y2="{HEIGHT - BOTTOM}"/>')
    for index, (x, y, tip, key) in enumerate(points):
        px, py = frame.at(x, y)
        side = "up" if (y > x if diagonal else y > 0) else "down"
        text = escape(tip)
        acts = (
            f' role="button" tabindex="{-1 if index else 0}" data-key="{escape(key)}" aria-label="{text}"'
            if key
            else ""
        )
        parts.append(f'<circle class="dot {side}" cx="{px}" cy="{py}" r="4"{acts}><title>{text}</title></circle>')
    return _svg("".join(parts), label, role="group")


class Line(NamedTuple):
    """One curve: a title, points (x, y), and where several runs are joined the lowest and highest value at each x."""

    title: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    dots: bool = False


def curve(line: Line, color: int = 0) -> str:
    """Draw a curve: its band or its raw values faintly, and the mean of a window of a tenth on top; `dots` are not smoothed.

    A dashed line marks the value at the first point of `dots`, which is the base.
    """
    xs, ys = [p[0] for p in line.points], [p[1] for p in line.points]
    edges = [v for pair in line.band for v in pair]
    frame = Frame((min(xs), max(xs)), (min([*ys, *edges]), max([*ys, *edges])), 360, 200)

    def path(values: Sequence[float]) -> str:
        return " ".join(f"{x},{y}" for x, y in (frame.at(a, b) for a, b in zip(xs, values, strict=True)))

    parts = [frame.axes("update", "")]
    if line.band:
        there, back = path([low for low, _ in line.band]), path([high for _, high in line.band]).split()
        parts.append(f'<polygon class="band c{color}" points="{there} {" ".join(reversed(back))}"/>')
    if line.dots:
        (x1, y1), (x2, _) = frame.at(xs[0], ys[0]), frame.at(xs[-1], ys[0])
        parts.append(f'<line class="rule" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y1}"/>')
        parts += [f'<circle class="spot c{color}" cx="{x}" cy="{y}" r="3.5"/>' for x, y in map(frame.at, xs, ys)]
    elif not line.band:
        parts.append(f'<polyline class="line raw c{color}" points="{path(ys)}"/>')
    parts.append(f'<polyline class="line smooth c{color}" points="{path(ys if line.dots else smoothed(ys))}"/>')
    said = f"{line.title}: {ys[0]:.4g} to {ys[-1]:.4g}"
    return f"<figure><figcaption>{escape(line.title)}</figcaption>{_svg(''.join(parts), said, 360, 200)}</figure>"


def smoothed(values: Sequence[float]) -> list[float]:
    """Average each value with those a tenth of the run before and after it."""
    window = max(1, len(values) // 10)
    near = [values[max(0, i - window) : i + window + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in near]


def forest(
    rows: Sequence[tuple[str, float, float | None, float | None, str]], label: str, *, relative: bool = True
) -> str:
    """Draw effects with intervals around zero: rows of (name, value, low, high, verdict); in percent when `relative`.

    What lies beyond 2 (twice the base) is drawn at the edge with an arrow: one measure near zero must not flatten all
    others.
    """
    numbers = [min(max(v, -FOREST_LIMIT), FOREST_LIMIT) for row in rows for v in row[1:4] if v is not None] + [0.0]
    low, high = _widened(min(numbers), max(numbers))
    longest = max(len(row[0]) for row in rows)
    row_px, left, right = 26, round(min(longest * LETTER_PX + 20, WIDTH * 0.48)), 20
    height = row_px * len(rows) + 40

    def at(value: float) -> float:
        return round(left + (min(max(value, low), high) - low) / (high - low) * (WIDTH - left - right), 1)

    parts = []
    marks = ticks(low, high, 5)
    scale, unit = (100, " %") if relative else (1, "")
    for value in marks:
        parts.append(f'<line class="grid" x1="{at(value)}" x2="{at(value)}" y1="6" y2="{height - 30}"/>')
        parts.append(
            f'<text class="tick" x="{at(value)}" y="{height - 14}" text-anchor="middle">{tick_text(value * scale, scale * _step(marks))}{unit}</text>'
        )
    parts.append(f'<line class="rule" x1="{at(0)}" x2="{at(0)}" y1="6" y2="{height - 30}"/>')
    for index, (name, value, lower, upper, verdict) in enumerate(rows):
        y = 20 + row_px * index
        parts.append(
            f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(shortened(name, left - 14))}</text>'
        )
        if lower is not None and upper is not None:
            parts.append(f'<line class="whisker {verdict}" x1="{at(lower)}" x2="{at(upper)}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<circle class="mark {verdict}" cx="{at(value)}" cy="{y}" r="5"><title>{value * scale:+.{1 if relative else 3}f}{unit}</title></circle>'
        )
        reached = [v for v in (value, lower, upper) if v is not None]
        for beyond, place, arrow in ((max(reached) > high, high, "▸"), (min(reached) < low, low, "◂")):
            if beyond:
                parts.append(f'<text class="tick" x="{at(place)}" y="{y + 4}" text-anchor="middle">{arrow}</text>')
    return _svg("".join(parts), label, WIDTH, height)

"""Charts as inline SVG: colours come from the page's style sheet, so light and dark both work."""

from collections.abc import Sequence
from html import escape
from math import floor, log10

WIDTH, HEIGHT = 520, 300
FOREST_LIMIT = 2.0
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 42


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
            f'<text class="axis" x="{middle_x}" y="{self.height - 6}" text-anchor="middle">{escape(x_title)}</text>'
        )
        parts.append(
            f'<text class="axis" transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
        )
        return "".join(parts)


def _widened(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    return low - room, high + room


def _svg(content: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{content}</svg>'


def scatter(
    points: Sequence[tuple[float, float, str]],
    x_title: str,
    y_title: str,
    label: str,
    *,
    diagonal: bool = False,
    zero: bool = False,
) -> str:
    """Draw points (x, y, tooltip); `diagonal` draws y = x with equal axes, `zero` the lines x = 0 and y = 0."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
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
    for x, y, tip in points:
        px, py = frame.at(x, y)
        side = "up" if (y > x if diagonal else y > 0) else "down"
        parts.append(f'<circle class="dot {side}" cx="{px}" cy="{py}" r="4"><title>{escape(tip)}</title></circle>')
    return _svg("".join(parts), label)


def curve(points: Sequence[tuple[float, float]], title: str, color: int = 0) -> str:
    """Draw one curve of a run, raw faintly and smoothed (mean of a window of a tenth) on top."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    frame = Frame((min(xs), max(xs)), (min(ys), max(ys)), 360, 200)
    window = max(1, len(ys) // 10)
    smooth = []
    for i in range(len(ys)):
        near = ys[max(0, i - window) : i + window + 1]
        smooth.append(sum(near) / len(near))
    parts = [frame.axes("update", "")]
    for kind, values in (("raw", ys), ("smooth", smooth)):
        path = " ".join(f"{x},{y}" for x, y in (frame.at(a, b) for a, b in zip(xs, values, strict=True)))
        parts.append(f'<polyline class="line {kind} c{color}" points="{path}"/>')
    return f"<figure><figcaption>{escape(title)}</figcaption>{_svg(''.join(parts), title, 360, 200)}</figure>"


def forest(
    rows: Sequence[tuple[str, float, float | None, float | None, str]], label: str, *, relative: bool = True
) -> str:
    """Draw effects with intervals around zero: rows of (name, value, low, high, verdict); in percent when `relative`.

    What lies beyond 2 (twice the base) is drawn at the edge with an arrow: one measure near zero must not flatten all
    others.
    """
    numbers = [min(max(v, -FOREST_LIMIT), FOREST_LIMIT) for row in rows for v in row[1:4] if v is not None] + [0.0]
    low, high = _widened(min(numbers), max(numbers))
    row_px, left, right = 26, 160, 20
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
        parts.append(f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
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

"""Charts as SVG in the page itself: lines with errors, and bars with errors."""

import math
from collections.abc import Sequence

from score_jax.lab.reports.page import Markup, element, joined
from score_jax.lab.sweeps.figures import Line

HUES = 8  # of the page's style, c0 to c7
_WIDTH, _HEIGHT = 420.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 12.0, 10.0, 40.0
_MOST = 1e300  # what is beyond lies at the end of an axis, whose ticks would overflow
_LOG_FROM = 5.0  # ratio of largest to smallest from which on an axis is logarithmic


class _Scale:
    """A range of numbers on a range of the picture, logarithmic where they are positive and far apart."""

    def __init__(self, values: Sequence[float], low: float, high: float, *, log: bool):
        finite = [v for v in values if abs(v) <= _MOST] or [0.0, 1.0]
        self.log = log and min(finite) > 1 / _MOST
        least, most = min(finite), max(finite)
        if self.log:
            least, most = math.log10(least), math.log10(most)
        margin = 0.05 * (most - least) or 0.5 * abs(most) * 0.1 or 0.5
        self._least, self._most, self._low, self._high = least - margin, most + margin, low, high

    def __call__(self, value: float) -> float:
        """Returns the place of a value; one below a logarithmic axis lies at its end."""
        if self.log:
            value = math.log10(value) if value > 0 else self._least
        share = (value - self._least) / (self._most - self._least)
        return self._low + min(max(share, 0.0), 1.0) * (self._high - self._low)

    def ticks(self) -> list[float]:
        """Returns a few round values within the range."""
        if self.log:
            powers = range(math.floor(self._least), math.ceil(self._most) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5)):
                found = [step * 10.0**power for power in powers for step in steps]
                found = [v for v in found if self._least <= math.log10(v) <= self._most]
                if len(found) >= 3:
                    return found[:: math.ceil(len(found) / 6)]
        least, most = (10**self._least, 10**self._most) if self.log else (self._least, self._most)
        step = 10 ** math.floor(math.log10((most - least) / 3))
        step *= next(k for k in (1, 2, 5, 10) if (most - least) / (k * step) <= 6)
        first = math.ceil(least / step)
        return [n * step for n in range(first, math.floor(most / step) + 1)]


def line_chart(named: Sequence[Line], *, xlabel: str, ylabel: str, log_x: bool) -> Markup:
    """Returns lines with a point and an error bar for each number, and their names below.

    Args:
      named: the lines, of which the first eight are shown.
      xlabel: below.
      ylabel: above.
      log_x: whether x is positive and on a log axis.
    """
    there = [line for line in named if line.x]
    shown = there[:HUES]
    if not shown:
        return Markup()
    x_all, y_all = [v for line in shown for v in line.x], [v for line in shown for v in line.y]
    positive = [v for v in y_all if math.isfinite(v)]
    wide = bool(positive) and min(positive) > 0 and max(positive) > _LOG_FROM * min(positive)
    ends = [e for line in shown for pair in _ends(line) for e in pair]
    x = _Scale(x_all, _LEFT, _WIDTH - _RIGHT, log=log_x)
    y = _Scale(y_all if wide else [*y_all, *ends], _HEIGHT - _BOTTOM, _TOP, log=wide)
    drawn = [_frame(x, y, xlabel), *(_line(line, x, y, f"var(--c{i})") for i, line in enumerate(shown))]
    picture = element("svg", *drawn, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label=ylabel)
    return element("figure", element("h3", ylabel), picture, _keys([line.name for line in shown]), _more(len(there)))


def _ends(line: Line) -> list[tuple[float, float]]:
    errors = line.errors or [0.0] * len(line.y)
    return [(v - e, v + e) for v, e in zip(line.y, errors, strict=True)]


def _keys(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup()
    square = lambda i: element("span", style=f"background: var(--c{i})")
    return element("ul", *(element("li", square(i), name) for i, name in enumerate(names)), class_="keys")


def _more(n: int) -> Markup:
    """That there are lines which are not shown."""
    said = f"The first {HUES} of {n} lines; all numbers are in cells.csv."
    return element("p", said, class_="soft") if n > HUES else Markup()


def _frame(x: _Scale, y: _Scale, xlabel: str) -> Markup:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y.ticks():
        place = f"{y(tick):.1f}"
        parts.append(element("line", x1=f"{_LEFT}", x2=f"{right}", y1=place, y2=place, class_="rule"))
        parts.append(
            element("text", f"{tick:.4g}", x=f"{_LEFT - 6}", y=f"{y(tick) + 4:.1f}", text_anchor="end", class_="soft")
        )
    for tick in x.ticks():
        parts.append(
            element("text", f"{tick:.4g}", x=f"{x(tick):.1f}", y=f"{bottom + 15}", text_anchor="middle", class_="soft")
        )
    parts.append(element("path", d=f"M{_LEFT} {_TOP}V{bottom}H{right}", class_="axis"))
    middle = (_LEFT + right) / 2
    parts.append(element("text", xlabel, x=f"{middle}", y=f"{_HEIGHT - 6}", text_anchor="middle"))
    return joined(parts)


def _line(line: Line, x: _Scale, y: _Scale, color: str) -> Markup:
    found = [(a, b) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not found:
        return Markup()
    path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in found)
    parts = [element("path", d=path, fill="none", stroke=color, stroke_width="1.8")]
    if line.errors:
        for at, (low, high) in zip(line.x, _ends(line), strict=True):
            if math.isfinite(low) and math.isfinite(high):
                parts.append(element("path", d=f"M{x(at):.1f} {y(low):.1f}V{y(high):.1f}", stroke=color))
    if len(found) <= 40:
        for at, value in found:
            told = element("title", f"{line.name}: {value:.4g} at {at:.4g}")
            parts.append(element("circle", told, cx=f"{x(at):.1f}", cy=f"{y(value):.1f}", r="3", fill=color))
    return joined(parts)


def bar_chart(
    title: str, names: Sequence[str], values: Sequence[float], errors: Sequence[float | None], shown: Sequence[str]
) -> Markup:
    """Returns a bar for each value below its name, with its error; from 0, so none of negative values.

    Args:
      title: above.
      names: of the bars.
      values: their lengths.
      errors: standard errors, None where there is none.
      shown: what is written at each.
    """
    if not values or min(values) < 0:
        return Markup()
    longest = max(v + (e or 0.0) for v, e in zip(values, errors, strict=True)) or 1.0
    room, step = _WIDTH - 16, 38
    parts = []
    for i, (name, value, error, told) in enumerate(zip(names, values, errors, shown, strict=True)):
        top, length = i * step, value / longest * room
        label = name if len(name) <= 44 else f"{name[:43]}…"
        parts.append(element("text", label, element("title", name), x="0", y=f"{top + 12}"))
        parts.append(element("text", told, x=f"{_WIDTH}", y=f"{top + 12}", text_anchor="end", class_="soft"))
        parts.append(
            element("rect", x="0", y=f"{top + 18}", width=f"{length:.1f}", height="10", rx="2", fill="var(--c0)")
        )
        if error:
            low, high = max(value - error, 0.0) / longest * room, (value + error) / longest * room
            whisker = f"M{low:.1f} {top + 23}H{high:.1f}M{low:.1f} {top + 19}v8M{high:.1f} {top + 19}v8"
            parts.append(element("path", d=whisker, stroke="var(--ink)", fill="none"))
    height = len(values) * step
    picture = element("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {height}", role="img", aria_label=title)
    return element("figure", element("h3", title), picture)

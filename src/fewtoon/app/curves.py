"""Curves as SVG, in the look of the reports: no script, and readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 12, 28  # pixels around the curves
LARGEST, SMALLEST = 1e100, 1e-100  # what is beyond is no loss any more, and its differences are no floats
POINTS = 300  # of one line; more are put together
COLOURS = ("var(--accent)", "#3d8296", "#8f6cb5", "#6d9136", "#c28a26", "#b5577f", "#4d76c2", "var(--mark)")

Points = Sequence[tuple[float, float]]


def chart(
    lines: Mapping[str, Points],
    *,
    title: str,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    log: bool = False,
) -> str:
    """HTML: an SVG of named lines of points (step, value), and a legend where there are several.

    title: for whoever hears the page. bands: intervals (step, low, high) behind the line of the same name. log: of
    the values; those that are not above 0 are then left out, as are those that are not finite. A sentence where
    nothing is left to be drawn.
    """
    bands = bands or {}
    clean = {name: _thinned(_drawable(points, log)) for name, points in lines.items()}
    clean = {name: points for name, points in clean.items() if points}
    if not clean:
        return f'<p class="soft">{escape(title)}: nothing yet.</p>'
    wide = {
        name: [(x, low, high) for x, low, high in bands.get(name, ()) if _fine(low, log) and _fine(high, log)]
        for name in clean
    }
    values = [y for points in clean.values() for _, y in points]
    values += [y for band in wide.values() for _, low, high in band for y in (low, high)]
    steps = [x for points in clean.values() for x, _ in points]
    across = _Axis(0.0, max(steps) or 1.0, LEFT, WIDTH - RIGHT)
    up = _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP, log, margin=0.04)
    parts = [_grid(across, up)]
    for number, (name, points) in enumerate(clean.items()):
        colour = COLOURS[number % len(COLOURS)]
        if wide[name]:
            edge = [(x, high) for x, _, high in wide[name]] + [(x, low) for x, low, _ in reversed(wide[name])]
            parts.append(f'<polygon points="{_path(edge, across, up)}" fill="{colour}" opacity=".15"/>')
        if len(points) == 1:
            ((x, y),) = points
            parts.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<polyline points="{_path(points, across, up)}" fill="none" stroke="{colour}" stroke-width="1.75"/>'
        )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return f"<figure>{svg}{_legend(clean) if len(clean) > 1 else ''}</figure>"


class _Axis:
    """From values to pixels."""

    def __init__(
        self, low: float, high: float, start: float, end: float, log: bool = False, margin: float = 0.0
    ) -> None:
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant lies in the middle
            room = abs(high) * 0.1 or 1.0
            low, high = low - room, high + room
        room = (high - low) * margin
        self.low, self.high, self.start, self.end, self.log = low - room, high + room, start, end, log

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        share = (at - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """A few round values."""
        if self.log:
            first, last = math.ceil(self.low), math.floor(self.high)
            if last - first >= 1:
                jump = max(1, (last - first) // 4)
                return [10.0**power for power in range(first, last + 1, jump)]
            return [10**self.low * (10 ** (self.high - self.low)) ** (i / 3) for i in range(4)]
        rough = (self.high - self.low) / 5
        size = 10.0 ** math.floor(math.log10(rough))
        jump_by = next((n * size for n in (1, 2, 5, 10) if n * size >= rough), 10 * size)
        first = math.ceil(self.low / jump_by)
        found = [(first + i) * jump_by for i in range(8)]
        return [value for value in found if value <= self.high]


def _fine(value: float, log: bool) -> bool:
    return abs(value) < LARGEST and (value > SMALLEST or not log)


def _drawable(points: Points, log: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if _fine(y, log) and _fine(x, False)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS: of more, means of neighbours."""
    if len(points) <= POINTS:
        return points
    size = math.ceil(len(points) / POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(y / len(part) for _, y in part)) for part in parts]


def _path(points: Points, across: _Axis, up: _Axis) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)


def _grid(across: _Axis, up: _Axis) -> str:
    parts = []
    for value in up.ticks():
        y = up(value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in across.ticks():
        text = f"{value:,.0f}" if value >= 1 or value == 0 else ""
        parts.append(f'<text x="{across(value):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{text}</text>')
    return "".join(parts)


def _legend(lines: Mapping[str, Points]) -> str:
    keys = [
        f'<span><i class="key" style="background: {COLOURS[number % len(COLOURS)]}"></i>{escape(name)} '
        f"<b>{points[-1][1]:.4g}</b></span>"
        for number, (name, points) in enumerate(lines.items())
    ]
    return f'<figcaption class="legend">{" ".join(keys)}</figcaption>'

"""Pages and long webtoon strips, cut into panels in which a finder sees faces at a sensible size.

Recursive cuts along gutters, as in the X-Y cut of document analysis (Nagy and Seth, ICPR 1984): rows and
columns that are plain from side to side. What is not plain is never cut, only covered by windows that overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, Finder, distinct

Panel = tuple[int, int, int, int]  # left, top, right, bottom, in pixels; right and bottom are outside

SEEN = 256  # pixels across, to which a picture is reduced before gutters are sought: it averages noise away
PLAIN = 8.0  # levels: how far a row of a gutter may stray from a straight gradient
GUTTER = 1 / 100  # of the picture's shorter side: the narrowest gutter
BLOCK = 1 / 8  # of the picture's shorter side: anything smaller is no panel of its own
LONG = 2.5  # a panel is long when one side is more than this many times the other
WINDOWS = 1000  # of one panel, at most
DEPTH = 8  # cuts within cuts


@dataclass(frozen=True)
class _Part:
    """A part of the reduced picture; all that lies outside on each side is gutter, or the edge of the picture."""

    left: int
    top: int
    right: int
    bottom: int


def panels(picture: NDArray[np.uint8]) -> list[Panel]:
    """The panels of a page or strip, in reading order from the top (then from the left).

    Gutters are rows or columns of one colour, or of a straight gradient, slightly noisy or not. A picture
    without gutters is one panel: itself. Panels much longer than wide are covered by overlapping windows;
    any square of the panel's shorter side lies whole in one of them. Time is linear in the number of pixels.

    Args:
        picture: (H, W, 3) uint8 RGB.

    Raises:
        Problem: the array is no such picture.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise Problem(f"a picture of shape {picture.shape} and {picture.dtype}: give (H, W, 3) uint8")
    height, width = picture.shape[:2]
    factor = max(1, min(height, width) // SEEN)
    small = _reduced(picture, factor)
    whole = _Part(0, 0, small.shape[1], small.shape[0])
    parts = _cut(small, whole, min(small.shape[:2]), DEPTH)
    if len(parts) < 2:  # the margin of an ordinary picture belongs to it
        return _windows((0, 0, width, height))
    found = [_grown(part, whole, factor, width, height) for part in parts]
    return [window for panel in sorted(found, key=lambda p: (p[1], p[0])) for window in _windows(panel)]


def find_in_panels(finder: Finder, picture: NDArray[np.uint8]) -> list[Face]:
    """The faces that `finder` sees in the panels of a picture, each once, in pixels of the picture, the surest
    first. A face that the edge of a window cuts gives way to the whole one that the next window sees."""
    height, width = picture.shape[:2]
    whole, cut = list[Face](), list[Face]()
    for left, top, right, bottom in panels(picture):
        for face in finder(np.ascontiguousarray(picture[top:bottom, left:right])):
            slack = 0.02 * max(face.width, face.height)
            is_cut = (
                (face.box[0] < slack and left > 0)
                or (face.box[1] < slack and top > 0)
                or (face.box[2] > right - left - slack and right < width)
                or (face.box[3] > bottom - top - slack and bottom < height)
            )
            (cut if is_cut else whole).append(face.placed(x=left, y=top))
    kept = distinct(whole)
    kept += [face for face in cut if all(covered(face.box, other.box) < 0.5 for other in kept)]
    return distinct(kept)


def covered(box: Box, other: Box) -> float:
    """Which share of the smaller of two boxes lies in the larger."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(width, 0.0) * max(height, 0.0) / max(min(areas), 1e-9)


# ---- gutters -----------------------------------------------------------------------------------------------


def _reduced(picture: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """The picture averaged over squares of `factor` pixels. What is left over at the right and at the bottom
    (less than one square) is passed over: no panel is so narrow."""
    import cv2

    height, width = (n // factor for n in picture.shape[:2])
    whole = picture[: height * factor, : width * factor]
    if factor == 1:
        return cv2.blur(whole, (3, 3)).astype(np.float32)
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def _cut(small: NDArray[np.float32], part: _Part, unit: int, depth: int) -> list[_Part]:
    """The parts of `part` between its gutters; none where it is all gutter."""
    for axis in (0, 1) if depth else ():
        pixels = small[part.top : part.bottom, part.left : part.right]
        blocks = _blocks(_plain(pixels if axis == 0 else pixels.swapaxes(0, 1)), unit)
        if not blocks:
            return []
        parts = [
            _Part(part.left, part.top + begin, part.right, part.top + end)
            if axis == 0
            else _Part(part.left + begin, part.top, part.left + end, part.bottom)
            for begin, end in blocks
        ]
        if len(parts) > 1:
            return [piece for p in parts for piece in _cut(small, p, unit, depth - 1)]
        part = parts[0]  # without its margins
    return [part]


def _plain(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(H, W, 3) -> (H,): whether a row is of one colour, or a straight gradient from one end to the other."""
    # A look at nine places first: what is within PLAIN of a line bends by at most 4 PLAIN between any three.
    places = rows[:, :: max(1, (rows.shape[1] - 1) // 8)]
    bend = places[:, :-2] - 2 * places[:, 1:-1] + places[:, 2:]
    plain = np.abs(bend).max((1, 2), initial=0) <= 4 * PLAIN
    likely = np.flatnonzero(plain)
    x = np.linspace(-1, 1, rows.shape[1], dtype=np.float32)[:, None]
    for begin in range(0, len(likely), 1024):  # a bounded amount of memory, however long the strip
        some = rows[likely[begin : begin + 1024]]
        some = some - some.mean(1, keepdims=True)
        slope = (some * x).sum(1, keepdims=True) / max(float((x * x).sum()), 1e-9)
        plain[likely[begin : begin + 1024]] = np.abs(some - slope * x).max((1, 2)) <= PLAIN
    return plain


def _blocks(plain: NDArray[np.bool_], unit: int) -> list[tuple[int, int]]:
    """The runs of rows that are not plain, as (begin, end). Runs closer than a gutter are one; one that is too
    small for a panel (a line of lettering, a hair above a head) goes to its nearer neighbour."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], plain, [True]]).astype(np.int8)))
    runs = [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2])]
    joined: list[tuple[int, int]] = []
    for begin, end in runs:
        if joined and begin - joined[-1][1] < max(2.0, GUTTER * unit):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    # One pass from the top: a small run joins what is nearer, the block before it or the run after it.
    blocks: list[tuple[int, int]] = []
    for k, (begin, end) in enumerate(joined):
        before = begin - blocks[-1][1] if blocks else math.inf
        after = joined[k + 1][0] - end if k + 1 < len(joined) else math.inf
        small = end - begin < BLOCK * unit
        waiting = bool(blocks) and blocks[-1][1] - blocks[-1][0] < BLOCK * unit
        if blocks and (waiting or (small and before <= after)):
            blocks[-1] = (blocks[-1][0], end)
        else:
            blocks.append((begin, end))
    return blocks


def _grown(part: _Part, whole: _Part, factor: int, width: int, height: int) -> Panel:
    """A part in pixels of the picture, with a margin: reduced pixels are coarse, and finders like some air."""
    air = 2 + min(part.right - part.left, part.bottom - part.top) // 50
    right, bottom = part.right + air, part.bottom + air
    return (
        max(part.left - air, 0) * factor,
        max(part.top - air, 0) * factor,
        width if right >= whole.right else right * factor,
        height if bottom >= whole.bottom else bottom * factor,
    )


# ---- windows -----------------------------------------------------------------------------------------------


def _windows(panel: Panel) -> list[Panel]:
    """The panel itself, or the windows along it where it is long."""
    left, top, right, bottom = panel
    width, height = right - left, bottom - top
    if height > LONG * width:
        return [(left, top + begin, right, top + end) for begin, end in _spans(height, width)]
    if width > LONG * height:
        return [(left + begin, top, left + end, bottom) for begin, end in _spans(width, height)]
    return [panel]


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """Spans of twice `side`, evenly spaced by `side` at most, that cover `length`."""
    side = max(side, SEEN // 2, math.ceil(length / WINDOWS))
    span = min(2 * side, length)
    steps = math.ceil((length - span) / side)
    begins = [round(k * (length - span) / max(steps, 1)) for k in range(steps + 1)]
    return [(begin, begin + span) for begin in begins]


class InPanels:
    """A finder that looks at every panel of a page or strip by itself."""

    def __init__(self, finder: Finder) -> None:
        self.finder, self.name = finder, finder.name
        self.identity = f"in panels {finder.identity}"

    def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
        return find_in_panels(self.finder, picture)

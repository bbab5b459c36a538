"""Is there lettering in a picture? Rows of small shapes that look like one line of type or hand lettering."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST = 5  # pixels; smaller letters run together
LARGEST = 0.22  # of the side of the picture
CONTRAST = 22  # grey levels between ink and its surroundings
EVEN = 0.75  # share of the paper between the letters that has one tone
SHORT = 4  # letters of a line that is counted at all
LETTERS = 6  # in all lines; fewer happen by chance: eyes, brows, freckles, teeth
MOST = 300  # shapes of a picture that are looked at: noise has thousands


def count_letters(grey: NDArray[np.uint8]) -> int:
    """How many letter-like shapes of a (S, S) picture stand in lines; 0: no lettering.

    Ink is what differs from its surroundings, dark on light or light on dark; its connected parts of the
    size and slenderness of letters are chained where a neighbour of the same height stands at the same level
    within a letter's distance.
    """
    side = grey.shape[0]
    around = cv2.boxFilter(grey, cv2.CV_16S, (max(9, side // 8 | 1),) * 2)
    difference = grey.astype(np.int16) - around
    most = 0
    for ink in (difference < -CONTRAST, difference > CONTRAST):
        _, _, stats, _ = cv2.connectedComponentsWithStats(ink.view(np.uint8), connectivity=8)
        shapes = stats[1:].astype(np.float32)  # left, top, width, height, area
        width, height, area = shapes[:, 2], shapes[:, 3], shapes[:, 4]
        fill = area / (width * height)
        good = (height >= SMALLEST) & (height <= LARGEST * side) & (width <= 1.6 * height) & (fill > 0.15)
        good &= (fill < 0.95) | (width < 0.4 * height)  # no blocks
        if good.sum() >= LETTERS:
            most = max(most, _in_lines(shapes[good][:MOST], grey, ink.view(np.uint8)))
    return most


def _in_lines(shapes: NDArray[np.float32], grey: NDArray[np.uint8], ink: NDArray[np.uint8]) -> int:
    """How many of the shapes (n, 5: left, top, width, height, area) stand in lines."""
    shapes = shapes[np.argsort(shapes[:, 0])]
    left, top, width, height = shapes[:, :4].T
    right, bottom = left + width, top + height
    low, high = np.minimum(height[:, None], height), np.maximum(height[:, None], height)
    shared = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    gap = left[None, :] - right[:, None]  # from the end of i to the beginning of j
    follows = (shared >= 0.6 * low) & (high <= 1.8 * low) & (gap > -0.25 * low) & (gap < 0.9 * high)
    follows &= left[None, :] > left[:, None]
    # Each letter hands on to the nearest that follows it: the chains are the lines.
    gap[~follows] = np.inf
    following, has_next = gap.argmin(1), follows.any(1)
    line = np.arange(len(shapes))
    for i in range(len(shapes)):
        if has_next[i]:
            line[following[i]] = line[i]
    found = 0
    for number in np.unique(line):
        members = np.flatnonzero(line == number)
        if len(members) >= SHORT and _is_type(width[members], height[members], bottom[members]):
            box = left[members].min(), top[members].min(), right[members].max(), bottom[members].max()
            if _on_paper(grey, ink, *map(int, box)):
                found += len(members)
    return found if found >= LETTERS else 0


def _is_type(width: NDArray[np.float32], height: NDArray[np.float32], bottom: NDArray[np.float32]) -> bool:
    """Letters stand on one line, which may rise, and are not all alike, as teeth and stripes are."""
    x = np.arange(len(bottom))
    slope = (bottom[-1] - bottom[0]) / len(x)
    off = bottom - bottom[0] - slope * x
    stands = np.abs(off - np.median(off)) <= max(1.0, 0.15 * float(np.median(height)))
    return bool(stands.mean() > 0.6 and width.std() > 0.1 * width.mean())


def _on_paper(
    grey: NDArray[np.uint8], ink: NDArray[np.uint8], left: int, top: int, right: int, bottom: int
) -> bool:
    """Whether a line's ink and what lies between it are each of about one tone, and the ink is the less."""
    margin = max(1, (bottom - top) // 6)
    window = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    part, inked = grey[window], ink[window] > 0
    beside = cv2.dilate(ink[window], np.ones((3, 3), np.uint8)) == 0  # not the soft edges of letters
    if not 0.1 < inked.mean() < 0.5 or beside.mean() < 0.08:
        return False
    paper, tone = part[beside].astype(np.int16), part[inked].astype(np.int16)
    middle = np.median(paper)
    even = (np.abs(paper - middle) <= CONTRAST).mean()
    differs = (tone - middle) * np.sign(np.median(tone) - middle) > CONTRAST
    return bool(even > EVEN and differs.mean() > 0.9)

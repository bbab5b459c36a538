"""What can be measured of a picture by itself: its light, colour, sharpness, evenness and lettering."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fewtoon.data.lettering import count_letters
from fewtoon.data.twins import COLOUR, GREY

CHUNK = 64  # pictures read from the disk at a time
LINES = 64  # rows and columns of a picture that are looked at for sharpness and evenness
EDGE = 8  # grey levels; a weaker step is no edge


@dataclass(frozen=True)
class Measures:
    """Of N pictures, each as (N,) float32 unless said otherwise."""

    grey: NDArray[np.uint8]  # (N, 64, 64) thumbnails
    colour: NDArray[np.uint8]  # (N, 32, 32, 3) thumbnails
    spread: NDArray[np.float32]  # standard deviation of the grey thumbnail, in grey levels
    dark: NDArray[np.float32]  # the middle of the picture: three quarters of it are darker than this grey
    bright: NDArray[np.float32]  # and three quarters brighter than this
    chroma: NDArray[np.float32]  # mean of largest minus smallest channel; below 4 nobody sees colour
    edge: NDArray[
        np.float32
    ]  # roughly the width in pixels of the strongest edges, 1 to 5; NaN where there are none
    even: NDArray[np.float32]  # share of neighbouring pixels of (nearly) the same grey: large in flat colour
    letters: NDArray[np.float32]  # letter-like shapes that stand in lines


def measure(images: NDArray[np.uint8]) -> Measures:
    """Measures of (N, S, S, 3) uint8 RGB. One pass in chunks; what is kept is 7 KB for each picture."""
    count = len(images)
    grey = np.empty((count, GREY, GREY), np.uint8)
    colour = np.empty((count, COLOUR, COLOUR, 3), np.uint8)
    single = np.empty((count, 3), np.float32)

    def one(index: int, image: NDArray[np.uint8]) -> None:
        full: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
        grey[index] = cv2.resize(full, (GREY, GREY), interpolation=cv2.INTER_AREA)
        colour[index] = cv2.resize(image, (COLOUR, COLOUR), interpolation=cv2.INTER_AREA)
        single[index] = (*_edge_and_evenness(full), count_letters(full))

    # OpenCV and most of numpy run outside Python's lock.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, count, CHUNK):
            part = np.ascontiguousarray(images[start : start + CHUNK])
            list(pool.map(one, range(start, start + len(part)), part))
    middle = grey[:, GREY // 4 : -GREY // 4, GREY // 4 : -GREY // 4].reshape(count, -1)
    dark, bright = np.percentile(middle, (75, 25), axis=1).astype(np.float32)
    chroma = (colour.max(3) - colour.min(3)).mean((1, 2), dtype=np.float32)
    spread = grey.reshape(count, -1).std(1, dtype=np.float32)
    return Measures(grey, colour, spread, dark, bright, chroma, *single.T)


def _edge_and_evenness(grey: NDArray[np.uint8]) -> tuple[float, float]:
    """Width of the strongest edges of (S, S) in pixels, and the share of pixels that are like their neighbour.

    An edge is a rise within five pixels; how much of it happens within one of them tells how wide it is. The
    strongest 2 % only, so that plain areas and soft backgrounds are no blame: a flat drawing is sharp.
    """
    step = max(1, grey.shape[0] // LINES)
    steepest, rises, same, pixels = [], [], 0, 0
    for lines in (grey[::step], grey.T[::step]):
        lines = lines.astype(np.int16)
        slope = np.abs(lines[:, 1:] - lines[:, :-1])
        same += int((slope <= 2).sum())
        pixels += slope.size
        rise = np.abs(lines[:, 5:] - lines[:, :-5])
        within = slope[:, 4:].copy()
        for back in range(4):
            np.maximum(within, slope[:, back : slope.shape[1] - 4 + back], out=within)
        steepest.append(within.ravel())
        rises.append(rise.ravel())
    rise, within = np.concatenate(rises), np.concatenate(steepest)
    strong = rise >= max(EDGE, np.partition(rise, -(len(rise) // 50) - 1)[-(len(rise) // 50) - 1])
    if not strong.any():
        return float("nan"), same / pixels
    return float(rise[strong].sum() / within[strong].sum()), same / pixels

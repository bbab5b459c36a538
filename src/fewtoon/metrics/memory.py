"""Memorisation: do translations repeat training drawings instead of drawing the person?

A network that learned few drawings by heart scores a perfect KID. Here each translation's nearest training
drawing is looked up in feature space, and its distance is set against that of real drawings which were
held out: an honest style is about as far from the training drawings as the artist's other drawings are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem

ROWS = 512  # rows of the distance matrix in memory at once


@dataclass(frozen=True)
class Memory:
    """`distance[i]`: of translation i to its `nearest[i]`-th training drawing; `held_out` likewise for
    real ones.

    ratio: median distance of the translations over that of held-out drawings; far below 1 means copying.
    close: share of the translations nearer to a training drawing than all but 5 % of the held-out drawings;
        about 0.05 where translations are like new drawings. Both None without held-out drawings.
    suspects: translations, the nearest to a training drawing first.
    """

    distance: NDArray[np.float64]
    nearest: NDArray[np.int64]
    held_out: NDArray[np.float64]
    ratio: float | None
    close: float | None
    suspects: list[int]


def memorisation(
    fake: NDArray[np.floating],
    train: NDArray[np.floating],
    held_out: NDArray[np.floating],
    *,
    suspects: int = 8,
) -> Memory:
    """From features of translations (m, d), training drawings (n, d) and held-out drawings (h, d); h may
    be 0.

    Raises Problem without training drawings.
    """
    if len(train) == 0:
        raise Problem("0 training drawings: memorisation is measured against the drawings of the train split")
    distance, nearest = nearest_neighbours(fake, train)
    real, _ = nearest_neighbours(held_out, train)
    ratio = close = None
    if len(real) and len(distance):
        ratio = float(np.median(distance) / max(float(np.median(real)), 1e-12))
        close = float((distance < np.quantile(real, 0.05)).mean())
    order = np.argsort(distance, kind="stable")[:suspects]
    return Memory(distance, nearest, real, ratio, close, [int(i) for i in order])


def nearest_neighbours(
    queries: NDArray[np.floating], points: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each of the queries (m, d) the distance to the nearest of the points (n, d), and which it is."""
    distance = np.empty(len(queries))
    nearest = np.empty(len(queries), dtype=np.int64)
    points = np.asarray(points, dtype=np.float64)
    lengths = (points * points).sum(1)
    for start in range(0, len(queries), ROWS):
        part = np.asarray(queries[start : start + ROWS], dtype=np.float64)
        squared = (part * part).sum(1)[:, None] + lengths - 2.0 * (part @ points.T)
        best = squared.argmin(1)
        nearest[start : start + ROWS] = best
        # The expansion above loses digits for near-copies, which are the very thing looked for: measure
        # again.
        distance[start : start + ROWS] = np.sqrt(((part - points[best]) ** 2).sum(1))
    return distance, nearest

"""Identity: is a drawing still that person? The rank of the right photo among decoys, with its chance and its
ceiling.

The query is a drawing's Face-ID vector, the gallery those of all n photos. Rank 1 says that no other photo is
more like the drawing. Two things make such a figure look better or worse than the drawings are, and each has a
figure of its own beside it:

- Keeping only the group helps: a drawing of some man with glasses is nearest to men with glasses. So the rank
  is also taken among the photos of the same group alone.
- Face-ID is not perfect on photos either, the less the smaller they are. So the same is measured with another
  picture of the person as the query, which no drawing can be expected to beat: the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewtoon.data.suggest import wilson
from fewtoon.errors import Problem
from fewtoon.metrics.features import Features

FIRST = 5  # of the second share: is the right one among the first five?
SMALL = 64  # pixels to which the second picture is brought and back; less where that would change nothing
CONTRAST, TINT = 0.9, (8.0, 2.0, -6.0)  # its colours: paler, and a little warmer, in steps of 255
CHUNK = 64  # second pictures in memory at once


def identity(
    photos: NDArray[np.uint8],
    photo_vectors: NDArray[np.float32],
    drawing_vectors: NDArray[np.float32],
    groups: Sequence[str | None],
    net: Features,
) -> dict[str, dict[str, Any]]:
    """For "all" and each group, from photos (n, S, S, 3) and unit vectors (n, d) of them and of their
    drawings, in one order; n >= 2.

    cosine: of each photo with its drawing, mean and 95 % interval; different: of drawings with other
        people's photos; n: drawings
    the figures of `ranks` of the drawings, with what guessing reaches
    ceiling: the same figures of `second_picture` of each photo, and its cosine: Face-ID's own limit
    Raises Problem for fewer than two photos.
    """
    n = len(photos)
    if n < 2:
        raise Problem(f"{n} photos: to look for the right person among decoys needs at least 2")
    drawn = drawing_vectors @ photo_vectors.T  # (n queries, n photos): cosines
    again = np.concatenate([net(part) for part in _second_pictures(photos)]) @ photo_vectors.T
    entries = {}
    for name in ["all", *sorted({group for group in groups if group is not None})]:
        rows = np.array([i for i, group in enumerate(groups) if name in ("all", group)], dtype=int)
        own = drawn[rows, rows].astype(np.float64)
        reach = 1.96 * float(own.std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else None
        mean = float(own.mean())
        entries[name] = {
            "cosine": mean,
            "cosine_interval": [None, None] if reach is None else [mean - reach, mean + reach],
            "different": float((drawn[rows].sum(dtype=np.float64) - own.sum()) / (len(rows) * (n - 1))),
            **ranks(drawn, groups, rows),
            "n": len(rows),
            "ceiling": {
                "cosine": float(again[rows, rows].mean(dtype=np.float64)),
                **{k: v for k, v in ranks(again, groups, rows).items() if "chance" not in k},
            },
            "features": {"name": net.name, "hash": net.hash, "dim": net.dim, "comparable": net.comparable},
        }
    return entries


def ranks(
    cosines: NDArray[np.floating], groups: Sequence[str | None], rows: NDArray[np.int64]
) -> dict[str, Any]:
    """Where the right photo stands for the queries `rows` of `cosines` (n queries, n photos), of which query i
    and photo i show one person.

    rank1, rank5: shares of the queries whose photo is first, is among the first five of all n, each with its
        95 % interval (Wilson's); chance, chance5: what guessing reaches
    median_rank, reciprocal_rank: median of the rank, mean of 1 / rank, with median_rank_chance and
        reciprocal_rank_chance
    rank1_in_group: share of the queries whose photo is first among those of its own group, with its interval,
        chance_in_group and n_in_group, the queries that count: those with a group and a decoy in it. None
        where there are none.
    Photos exactly as near as the right one count as one half each: whoever answers all alike wins nothing.
    """
    n = len(cosines)
    of_all = _rank(cosines, rows, np.ones((len(rows), n), bool))
    named = np.array([group or "" for group in groups])
    mates = (named[rows][:, None] == named) & (named[rows][:, None] != "")
    crowd = mates.sum(1)  # of each query's group, itself among them
    of_group = _rank(cosines, rows, mates)[crowd > 1]
    some = len(of_group) > 0
    return {
        "rank1": float((of_all <= 1).mean()),
        "rank1_interval": _interval(of_all <= 1),
        "chance": 1.0 / n,
        "rank5": float((of_all <= FIRST).mean()),
        "rank5_interval": _interval(of_all <= FIRST),
        "chance5": min(1.0, FIRST / n),
        "median_rank": float(np.median(of_all)),
        "median_rank_chance": (n + 1) / 2,
        "reciprocal_rank": float((1 / of_all).mean()),
        "reciprocal_rank_chance": float((1 / np.arange(1, n + 1)).mean()),
        "rank1_in_group": float((of_group <= 1).mean()) if some else None,
        "rank1_in_group_interval": _interval(of_group <= 1) if some else [None, None],
        "chance_in_group": float((1 / crowd[crowd > 1]).mean()) if some else None,
        "n_in_group": len(of_group),
    }


def _interval(found: NDArray[np.bool_]) -> list[float | None]:
    return list(wilson(int(found.sum()), len(found)))


def _rank(
    cosines: NDArray[np.floating], rows: NDArray[np.int64], decoys: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(queries,): the place of photo i for each query i of `rows`, among the photos that `decoys` (queries, n)
    marks; 1 is the best, and ties share their places."""
    own = cosines[rows, rows][:, None]
    others = decoys.copy()
    others[np.arange(len(rows)), rows] = False
    before = ((cosines[rows] > own) & others).sum(1)
    beside = ((cosines[rows] == own) & others).sum(1)
    return 1.0 + before + beside / 2


def second_picture(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Another picture of the same person, out of the only one there is: (S, S, 3) uint8 -> the same.

    A stand-in: the mirror image, at 64 px (at 3/4 of S, where that is less) and enlarged again, paler and
    warmer. Who it is stays; every pixel changes. Its strength is chosen by people of whom there are real
    second pictures (docs/evaluation.md has the figures): at 64 to 256 px their photos are found about as
    surely. It is the same moment, pose and light, which two photos of one person seldom share, so the ceiling
    is a high one.
    """
    size = photo.shape[0]
    small = min(SMALL, max(1, size * 3 // 4))
    image = Image.fromarray(np.ascontiguousarray(photo[:, ::-1]))
    image = image.resize((small, small), Image.Resampling.BICUBIC)
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    colours = (np.asarray(image, np.float32) - 127.5) * CONTRAST + 127.5 + np.array(TINT, np.float32)
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def _second_pictures(photos: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(photos), CHUNK):
        yield np.stack([second_picture(photo) for photo in photos[start : start + CHUNK]])

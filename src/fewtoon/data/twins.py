"""Near-duplicates: the same picture again, re-encoded, resized, brightened, cropped a little, or mirrored.

Hashes that forgive all that also call two drawings equal that share most of their parts, and drawings of one
artist often do. So a coarse likeness only proposes pairs. Each is then laid over its partner (position, size
and tone curve by least squares, from coarse to fine: Lucas and Kanade, IJCAI 1981), and the patch that still
differs most decides: another mouth or another pair of glasses is such a patch, the traces of JPEG are not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GREY = 64  # pixels per side of the grey thumbnails
COLOUR = 32  # and of the coloured ones
# How far the worst patch (1/16 of the side) may be off, in grey levels. Measured at 128 px: copies (JPEG 60,
# resized by 0.45, crops of 8 %) stay below 12, ones that were brightened until they clip below 18. The nearest
# different drawings in four libraries that compose them of parts: 12.5 (told apart by colour), 15.5, 17, 18.
PATCH = 14.0
CONTRAST = 40.0  # standard deviation of the pixels; of paler pictures less is forgiven
CHROMA = 20.0  # the same for differences of colour
# Side of the thumbnails, share of the variance that the overlaid picture must explain, worst patch: one step
# of the fit each, so that most pairs go after the cheap ones.
STAGES = (
    *((16, 0.60, 110.0), (16, 0.75, 75.0), (32, 0.90, 40.0), (32, 0.95, 22.0)),
    *((GREY, 0.95, 25.0), (GREY, 0.97, PATCH)),
)
NEIGHBOURS = 8  # proposals for each picture, plain and mirrored
ALIKE = 0.6  # correlation of the coarse pictures below which nothing is proposed
CROP = 0.08  # share of the side that is cut off for a second set of proposals, so that crops are found
BLOCK = 512  # rows of the matrix of likenesses at a time
OUTSIDE = 0.4  # share of a picture that its partner may leave uncovered


class Twin(NamedTuple):
    """Two pictures that are one: indices, `first` < `second`."""

    first: int
    second: int
    mirrored: bool
    difference: float  # grey levels of the worst patch


class _Pairs(NamedTuple):
    """Picture `a` is laid over picture `b`, which is mirrored first or not."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    place: Floats  # (n, 3): how much of `a` is looked at: size - 1, then right, down, in halves of the side

    def at(self, chosen: slice | NDArray[np.bool_]) -> _Pairs:
        return _Pairs(self.a[chosen], self.b[chosen], self.mirrored[chosen], self.place[chosen])


def find(grey: Bytes, colour: Bytes) -> list[Twin]:
    """All near-duplicates among N pictures, ordered by index.

    grey: (N, 64, 64) uint8, colour: (N, 32, 32, 3) uint8 RGB; thumbnails of the same pictures by area means.
    The likenesses are N x N, in blocks: memory grows with N only.
    """
    if len(grey) < 2:
        return []
    half = _halved(grey)
    levels = {64: grey, 32: half, 16: _halved(half)}
    pairs = _propose(levels[16])
    worst = np.zeros(len(pairs.a), np.float32)
    for side, explained, patch in STAGES:
        pairs, worst = _overlay(pairs, levels[side], explained, patch)
    found: dict[tuple[int, int], Twin] = {}
    for index in np.flatnonzero(_colour_difference(pairs, colour) < CHROMA):
        a, b = sorted((int(pairs.a[index]), int(pairs.b[index])))
        twin = Twin(a, b, bool(pairs.mirrored[index]), float(worst[index]))
        if (a, b) not in found or twin.difference < found[a, b].difference:
            found[a, b] = twin
    return sorted(found.values())


def _halved(images: Bytes) -> Bytes:
    count, side = images.shape[:2]
    fours = images.reshape(count, side // 2, 2, side // 2, 2)
    return ((fours.sum((2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------
# Proposing


def _propose(small: Bytes) -> _Pairs:
    """The nearest neighbours of each of (N, 16, 16), plain and mirrored, whole and with its border cut off."""
    count, side = small.shape[:2]
    whole = _unit(small.astype(np.float32))
    middle = np.array([[-CROP, 0, 0]], np.float32)
    others = {False: whole, True: whole.reshape(-1, side, side)[:, :, ::-1].reshape(count, -1)}
    most = min(NEIGHBOURS, count - 1)
    keys = []
    for start in range(0, count, BLOCK):
        part = small[start : start + BLOCK].astype(np.float32)
        cut = _unit(_moved(part, np.repeat(middle, len(part), 0))[0])
        own = np.arange(len(part))
        for mirrored, all_others in others.items():
            for was_cut, mine in ((False, whole[start : start + BLOCK]), (True, cut)):
                like = mine @ all_others.T
                like[own, start + own] = -1
                near = np.argpartition(like, count - most, axis=1)[:, count - most :]
                i, j = np.repeat(own, most), near.ravel()
                good = like[i, j] > ALIKE
                a, b = i[good] + start, j[good]
                # Uncut, the two directions are the same pair.
                first, second = (a, b) if was_cut else (np.minimum(a, b), np.maximum(a, b))
                keys.append(((first * count + second) * 2 + was_cut) * 2 + mirrored)
    key = np.unique(np.concatenate(keys))
    key, is_mirrored = key // 2, key % 2 == 1
    key, is_cut = key // 2, key % 2 == 1
    return _Pairs(
        key // count, key % count, is_mirrored, np.where(is_cut[:, None], middle, 0).astype(np.float32)
    )


def _unit(images: Floats) -> Floats:
    """Each picture as a vector of mean 0 and length 1, so that products are correlations."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)


# ---------------------------------------------------------------------------------------------------------
# Laying one over the other


def _overlay(pairs: _Pairs, images: Bytes, explained: float, patch: float) -> tuple[_Pairs, Floats]:
    """The pairs that may still be twins when seen in (N, S, S), placed better, and their worst patches."""
    side = images.shape[1]
    kept, differences = [pairs.at(slice(0))], [np.zeros(0, np.float32)]
    for start in range(0, len(pairs.a), 2**19 // side**2):
        part = pairs.at(slice(start, start + 2**19 // side**2))
        a, b = images[part.a].astype(np.float32), images[part.b].astype(np.float32)
        b = np.where(part.mirrored[:, None, None], b[:, :, ::-1], b)
        if side > 16:  # without it, what differs most is how each edge fell onto the pixels
            a, b = _smoothed(a), _smoothed(b)
        place, rest, covered = _fit(a, b, part.place)
        contrast = b.std((1, 2))
        share = 1 - (rest**2).sum((1, 2)) / np.maximum(covered * contrast**2, 64.0)
        # In a dark or pale picture everything differs by little.
        worst = _worst_patch(rest, side // 16) * np.maximum(1, CONTRAST / np.maximum(contrast, 1))
        good = (share > explained) & (worst < patch) & (covered > (1 - OUTSIDE) * rest[0].size)
        kept.append(part._replace(place=place).at(good))
        differences.append(worst[good])
    return _Pairs(*(np.concatenate(values) for values in zip(*map(tuple, kept)))), np.concatenate(differences)


def _fit(a: Floats, b: Floats, place: Floats) -> tuple[Floats, Floats, Floats]:
    """One step of Gauss-Newton for b(x) = c0 + c1 a(Px) + c2 a(Px)^2, with P a change of size and place.

    a, b: (n, S, S). Returns the new place (n, 3), what the step leaves unexplained (n, S - 2, S - 2), zero
    where `a` does not cover `b`, and how many pixels it covers (n,).
    """
    count, side = a.shape[:2]
    moved, inside = _moved(a, place)
    x, y = _grid(side)
    right = (moved[:, 1:-1, 2:] - moved[:, 1:-1, :-2]) * (side / 4)
    down = (moved[:, 2:, 1:-1] - moved[:, :-2, 1:-1]) * (side / 4)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    mask, tone = inside[inner], (moved[inner] - 128) / 64
    slopes = np.empty((count, 6, side - 2, side - 2), np.float32)
    slopes[:, 0] = 1
    slopes[:, 1] = tone
    slopes[:, 2] = tone * tone
    slopes[:, 3] = x[:, 1:-1] * right + y[1:-1] * down
    slopes[:, 4] = right
    slopes[:, 5] = down
    slopes *= mask[:, None]
    flat = slopes.reshape(count, 6, -1)
    target = (b[inner] * mask).reshape(count, -1, 1)
    # A little damping: of a blank picture nothing can be told, and nothing should blow up.
    normal = flat @ flat.transpose(0, 2, 1) + 0.01 * side * np.eye(6, dtype=np.float32)
    solution = np.linalg.solve(normal, flat @ target)
    rest = (target - flat.transpose(0, 2, 1) @ solution).reshape(count, side - 2, side - 2)
    gain = np.clip(solution[:, 1] / 64, 0.3, 3)
    return place + np.clip(solution[:, 3:, 0] / gain, -0.06, 0.06), rest, mask.sum((1, 2))


def _moved(a: Floats, place: Floats) -> tuple[Floats, Floats]:
    """(n, S, S) looked at through `place` (bilinear), and where it was inside: (n, S, S) of 0 and 1."""
    count, side = a.shape[:2]
    x, y = _grid(side)
    size, right, down = (1 + place[:, 0, None, None]), place[:, 1, None, None], place[:, 2, None, None]
    column, row = ((at + 1) * (side / 2) - 0.5 for at in (x * size + right, y * size + down))
    inside = (np.abs(column - (side - 1) / 2) < side / 2) & (np.abs(row - (side - 1) / 2) < side / 2)
    column, row = (np.clip(at, 0, side - 1.001) for at in (column, row))
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, along = (column - left).astype(np.float32), (row - top).astype(np.float32)
    flat, index = a.reshape(count, -1), (top * side + left).reshape(count, -1)
    corner = {
        step: np.take_along_axis(flat, index + step, 1).reshape(a.shape) for step in (0, 1, side, side + 1)
    }
    upper = corner[0] + (corner[1] - corner[0]) * across
    lower = corner[side] + (corner[side + 1] - corner[side]) * across
    return upper + (lower - upper) * along, inside.astype(np.float32)


def _grid(side: int) -> tuple[Floats, Floats]:
    """x and y of the pixels' centres, -1 to 1 from border to border."""
    at = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    return at[None, :], at[:, None]


def _smoothed(images: Floats) -> Floats:
    """(n, S, S) convolved with [1 2 1] / 4 both ways."""
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    tall: Floats = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) * np.float32(0.25)
    return (tall[:, :, :-2] + 2 * tall[:, :, 1:-1] + tall[:, :, 2:]) * np.float32(0.25)


def _worst_patch(rest: Floats, side: int) -> Floats:
    """The largest mean, either way, of a patch of `side` pixels; the patches overlap by half."""
    largest: Floats = np.zeros(len(rest), np.float32)
    for offset in {0, side // 2}:
        count = (rest.shape[1] - offset) // side
        part = rest[:, offset : offset + count * side, offset : offset + count * side]
        means = part.reshape(len(rest), count, side, count, side).mean((2, 4))
        largest = np.maximum(largest, np.abs(means).max((1, 2)).astype(np.float32))
    return largest


def _colour_difference(pairs: _Pairs, colour: Bytes) -> Floats:
    """(n,) the worst patch, 1/8 of the side, of the differences of colour; 0 where one of the two is grey."""
    worst = np.zeros(len(pairs.a), np.float32)
    for start in range(0, len(pairs.a), 256):
        part = pairs.at(slice(start, start + 256))
        a, b = colour[part.a].astype(np.float32), colour[part.b].astype(np.float32)
        b = np.where(part.mirrored[:, None, None, None], b[:, :, ::-1], b)
        off = np.zeros(len(part.a), np.float32)
        counts = _unclipped(a, b, part.place)
        for channel in (0, 2):  # red - green, blue - green
            first, second = (_smoothed(picture[..., channel] - picture[..., 1]) for picture in (a, b))
            first, inside = _moved(first, part.place)
            inside *= counts
            gain = (first * second * inside).sum((1, 2)) / np.maximum((first**2 * inside).sum((1, 2)), 1.0)
            rest = (second - np.clip(gain, 0.6, 1.6)[:, None, None] * first) * inside
            off = np.maximum(off, _worst_patch(rest, COLOUR // 8))
        colourless = np.minimum(*(np.ptp(picture, axis=3).mean((1, 2)) for picture in (a, b))) < 3
        worst[start : start + 256] = np.where(colourless, 0, off)
    return worst


def _unclipped(a: Floats, b: Floats, place: Floats) -> Floats:
    """(n, S, S) 0 where the brighter of two pictures (n, S, S, 3) is so bright that its colour was cut off."""
    whiter = a.mean((1, 2, 3)) - b.mean((1, 2, 3))
    full_a, full_b = (_smoothed((picture.max(3) >= 250).astype(np.float32)) for picture in (a, b))
    full_a, _ = _moved(full_a, place)
    full = np.where(whiter[:, None, None] > 10, full_a, np.where(whiter[:, None, None] < -10, full_b, 0))
    return (full < 0.1).astype(np.float32)

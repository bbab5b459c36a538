"""Pixel blitting and geometry: all moves of a picture multiplied into one matrix, and one warp.

Karras et al., Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, arXiv:2006.06676,
appendix B. Matrices act on (x, y, 1), y downwards. A matrix that moves whole pixels (flips, quarter turns,
integer translations) is carried out by index, exactly; every other one by a lookup between the pixels of the
picture at twice its size.

The resampling is linear and separable, hence two small matrices: enlarging with the wavelet sym6 and, as its
transpose, shrinking. What lies outside the picture is written into the first (mirrored, or one colour), and
lookups further out are folded back: the mirror goes on without end, however large the margin, where the paper
pads by at most the picture's size.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon.augment.batch import FILLS, Array, Dice, mirrored_place, on_some, placed

# Low-pass of Daubechies' least asymmetric wavelet with six vanishing moments: orthonormal to its even shifts.
SYM6 = np.array(
    [
        0.015404109327044824,
        0.0034907120842221626,
        -0.11799011114852002,
        -0.04831174258569806,
        0.49105594192797375,
        0.787641141028651,
        0.3379294217281658,
        -0.07263752278637658,
        -0.02106029251237085,
        0.04472490177078139,
        0.0017677118642540077,
        -0.00780070832503238,
    ]
)
TAPS = len(SYM6)
# Where the filter puts a pixel: with its centre of mass, not its middle, parabolas too stay where they are.
CENTRE = float((SYM6 * np.arange(TAPS)).sum() / SYM6.sum())


# --- matrices --------------------------------------------------------------------------------------------


def _matrix(*entries: Array | float) -> Array:
    """(B, 3, 3) from the six entries of its upper two rows, each a number or (B,)."""
    return np.stack(np.broadcast_arrays(*entries, 0.0, 0.0, 1.0), -1).reshape(-1, 3, 3)


def scaled(x: Array | float, y: Array | float) -> Array:
    return _matrix(x, 0.0, 0.0, 0.0, y, 0.0)


def turned(angle: Array | float) -> Array:
    """Counter-clockwise by `angle` in radians, as seen (y runs downwards)."""
    c, s = np.cos(angle), np.sin(angle)
    return _matrix(c, s, 0.0, -s, c, 0.0)


def moved(x: Array | float, y: Array | float) -> Array:
    return _matrix(1.0, 0.0, x, 0.0, 1.0, y)


def draw_blit(dice: Dice, size: int) -> Array:
    """(B, 3, 3), about the picture's centre: flip, quarter turns, integer translation, in this order.

    Each with the probability p: a fair coin whether to mirror, one of four turns, up to an eighth of the size.
    """
    flip = scaled(1 - 2 * dice.maybe(dice.whole(2), 0), 1.0)
    turn = turned(math.pi / 2 * dice.maybe(dice.whole(4), 0))
    share = np.stack([dice.uniform(-0.125, 0.125), dice.uniform(-0.125, 0.125)])
    return moved(*dice.maybe(np.round(share * size), 0)) @ turn @ flip


def draw_geometry(dice: Dice, size: int) -> Array:
    """(B, 3, 3), about the picture's centre: scaling, turning, stretching, turning, translation.

    Scaling 2^N(0, 0.2); a turn by any angle before and after stretching by (s, 1/s), s = 2^N(0, 0.2), each
    with 1 - sqrt(1 - p), so that a picture is turned at all with p; translation N(0, 0.125) of the size.
    """
    either = 1 - math.sqrt(1 - dice.p)
    even = 2 ** dice.maybe(dice.normal(0.2), 0)
    before = dice.maybe(dice.uniform(-math.pi, math.pi), 0, either)
    stretch = 2 ** dice.maybe(dice.normal(0.2), 0)
    after = dice.maybe(dice.uniform(-math.pi, math.pi), 0, either)
    share = np.stack([dice.normal(0.125), dice.normal(0.125)])
    shift = moved(*dice.maybe(share * size, 0))
    return shift @ turned(after) @ scaled(stretch, 1 / stretch) @ turned(before) @ scaled(even, even)


def sources(matrices: Array, size: int) -> Array:
    """(B, 3, 3), from a pixel's (column, row) to where it comes from, of matrices about the picture's centre."""
    middle = (size - 1) / 2
    return moved(middle, middle) @ np.linalg.inv(matrices) @ moved(-middle, -middle)


# --- pictures --------------------------------------------------------------------------------------------


def transform(images: Tensor, origins: Array, fill: str) -> Tensor:
    """Pictures (B, 3, S, S), each moved by its matrix of `sources`.

    Whole pixels stay whole, and a picture that does not move keeps its very bytes.
    """
    rounded = np.round(origins)
    whole = (np.abs(origins - rounded) < 1e-6).all((1, 2)) & np.isclose(np.abs(np.linalg.det(rounded)), 1)
    move = whole & (rounded != np.eye(3)).any((1, 2))
    images = on_some(images, move, lambda some: move_pixels(some, rounded[move], FILLS[fill]))
    return on_some(images, ~whole, lambda some: warp(some, origins[~whole], FILLS[fill]))


def move_pixels(images: Tensor, origins: Array, background: float | None) -> Tensor:
    """Pictures (B, C, S, S) whose pixels come from elsewhere; `origins` has whole numbers only.

    Outside is the background, or the mirror image where that is None.
    """
    size, count = images.shape[-1], len(images)
    m = origins.astype(np.int64)[:, :2, :, None, None]
    line = np.arange(size)
    x, y = (m[:, i, 0] * line[None, :] + m[:, i, 1] * line[:, None] + m[:, i, 2] for i in (0, 1))
    folded = mirrored_place(y, size) * size + mirrored_place(x, size)
    index = torch.from_numpy(folded.reshape(count, 1, -1)).to(images.device)
    out = images.flatten(2).gather(2, index.expand(-1, images.shape[1], -1)).view_as(images)
    if background is None:
        return out
    outside = (x < 0) | (x >= size) | (y < 0) | (y >= size)
    return out.masked_fill(torch.from_numpy(outside[:, None]).to(images.device), background)


def warp(images: Tensor, origins: Array, background: float | None) -> Tensor:
    """Pictures (B, C, S, S) looked up at other places, between pixels too; otherwise as `move_pixels`.

    The picture is enlarged to twice its size with sym6, looked up bilinearly there, and shrunk again: where
    nothing moves it comes back as it was, but for rounding.
    """
    size = images.shape[-1]
    enlarge = _enlarge(size, background is None, images.dtype, images.device)
    shrink = _shrink(size, images.dtype, images.device)
    if background is not None:
        images = images - background
    places = _places(origins, size, background is None, images)
    large = F.grid_sample(
        enlarge @ images @ enlarge.T,
        places,
        padding_mode="zeros" if background is not None else "border",
        align_corners=True,
    )
    out = shrink @ large @ shrink.T
    return out if background is None else out + background


def _places(origins: Array, size: int, mirrored: bool, images: Tensor) -> Tensor:
    """(B, 2S + 10, 2S + 10, 2): where `F.grid_sample` is to look in the enlarged picture, in [-1, 1].

    Pixel x lies in the enlarged picture at 2x + 1 + CENTRE, and in the one to be shrunk at 2x + CENTRE.
    """
    first = 1 + CENTRE
    last = 2 * size - 1 + TAPS  # of the enlarged picture, which is one sample longer at either end
    m = moved(first, first) @ scaled(2.0, 2.0) @ origins @ scaled(0.5, 0.5) @ moved(-CENTRE, -CENTRE)
    line = torch.arange(2 * size - 2 + TAPS, device=images.device, dtype=images.dtype)
    a, b, c = placed(m[:, :2], images)[..., None, None].unbind(2)
    at = a * line + (b * line[:, None] + c)  # (B, 2, L, L): x and y
    if mirrored and not _inside(m, len(line) - 1, last):
        period = max(4 * (size - 1), 1)  # there and back
        turns = (at - first) / period
        folded = turns.sub_(turns.round()).abs_().mul_(period).add_(first)
        outside = (at - at.clamp(0, last)).sign_().abs_()  # 0 or 1; on a CPU much faster than a mask
        at = at.lerp(folded, outside)
    return at.mul_(2 / last).sub_(1).permute(0, 2, 3, 1)


def _inside(matrices: Array, side: int, last: int) -> bool:
    """Whether the corners of the square 0 ... side, and with them all of it, land within 0 ... last."""
    corners = np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
    landed = (matrices @ corners)[:, :2]
    return bool((landed >= 0).all() and (landed <= last).all())


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for later, when gradients may be wanted
def _enlarge(size: int, mirrored: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2S + 12, S): a row of pixels to one of twice as many, from one sample before the filter's first."""
    matrix = np.zeros((2 * size + TAPS, size))
    for row in range(len(matrix)):
        for tap in range((row - 1) % 2, TAPS, 2):
            pixel = (row - 1 - tap) // 2
            if mirrored or 0 <= pixel < size:
                matrix[row, mirrored_place(pixel, size)] += math.sqrt(2) * SYM6[tap]
    return torch.from_numpy(matrix).to(device, dtype)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _shrink(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(S, 2S + 10): the way back, half the transpose of enlarging."""
    matrix = np.zeros((size, 2 * size - 2 + TAPS))
    for pixel in range(size):
        matrix[pixel, 2 * pixel : 2 * pixel + TAPS] = SYM6 / math.sqrt(2)
    return torch.from_numpy(matrix).to(device, dtype)

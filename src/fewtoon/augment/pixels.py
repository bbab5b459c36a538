"""Colours, filtering, noise and cutout: what happens to a picture where it is.

Karras et al., arXiv:2006.06676, appendix B. Pictures are in [-1, 1]; the results are not clipped.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewtoon.augment.batch import Array, Dice, mirrored_place, on_some, placed

GREY = np.full((3, 1), 1 / math.sqrt(3))  # the axis of the greys
LUMA = GREY @ GREY.T  # a colour's part along it
# Low-pass of Daubechies' wavelet with two vanishing moments (sym2, which is db2).
SYM2 = np.array([1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]) / (4 * 2**0.5)
POWER = np.array([10, 1, 1, 1]) / 13  # of natural pictures, expected in the four bands, lowest first


# --- colours ---------------------------------------------------------------------------------------------


def _matrix(turn: Array, shift: Array | float = 0.0) -> Array:
    """(B, 4, 4) of a colour's (B, 3, 3) and what is added to all channels, (B,)."""
    out = np.tile(np.eye(4), (len(turn), 1, 1))
    out[:, :3, :3] = turn
    out[:, :3, 3] = np.reshape(shift, (-1, 1))
    return out


def brightness(added: Array) -> Array:
    return _matrix(np.tile(np.eye(3), (len(added), 1, 1)), added)


def contrast(factor: Array) -> Array:
    """About mid-grey."""
    return _matrix(factor[:, None, None] * np.eye(3))


def luma_flip(whether: Array) -> Array:
    """Dark for light and light for dark, at the same hue, where `whether` is 1."""
    return _matrix(np.eye(3) - 2 * whether[:, None, None] * LUMA)


def hue(angle: Array) -> Array:
    """Turned about the axis of the greys by an angle in radians (Rodrigues' formula)."""
    g = 1 / math.sqrt(3)
    cross = np.array([[0, -g, g], [g, 0, -g], [-g, g, 0]])
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return _matrix(c * np.eye(3) + s * cross + (1 - c) * LUMA)


def saturation(factor: Array) -> Array:
    """0: grey; 1: as it is."""
    return _matrix(LUMA + factor[:, None, None] * (np.eye(3) - LUMA))


def draw_colour(dice: Dice) -> Array:
    """(B, 4, 4): brightness, contrast, luma flip, hue, saturation, in this order, each with the probability p.

    + N(0, 0.2); x 2^N(0, 0.5); a fair coin whether to flip; any angle; x 2^N(0, 1).
    """
    steps = [
        brightness(dice.maybe(dice.normal(0.2), 0)),
        contrast(2 ** dice.maybe(dice.normal(0.5), 0)),
        luma_flip(dice.maybe(dice.whole(2), 0)),
        hue(dice.maybe(dice.uniform(-math.pi, math.pi), 0)),
        saturation(2 ** dice.maybe(dice.normal(1.0), 0)),
    ]
    return functools.reduce(lambda done, step: step @ done, steps)


def colour(images: Tensor, matrices: Array) -> Tensor:
    """Pictures (B, 3, S, S), each with its colour matrix (B, 4, 4)."""
    chosen = np.any(np.abs(matrices - np.eye(4)) > 1e-9, axis=(1, 2))

    def work(some: Tensor) -> Tensor:
        m = placed(matrices[chosen], some)
        return torch.baddbmm(m[:, :3, 3:], m[:, :3, :3], some.flatten(2)).view(some.shape)

    return on_some(images, chosen, work)


# --- filtering -------------------------------------------------------------------------------------------


def draw_gains(dice: Dice) -> Array:
    """(B, 4): how much the four octaves are amplified, lowest first.

    Each with the probability p by 2^N(0, 1), all four then divided so that the power of a natural picture stays.
    """
    gains = np.ones((dice.count, 4))
    for band in range(4):
        one = np.ones((dice.count, 4))
        one[:, band] = 2 ** dice.maybe(dice.normal(1.0), 0)
        gains *= one / np.sqrt(one**2 @ POWER)[:, None]
    return gains


def filtered(images: Tensor, gains: Array) -> Tensor:
    """Pictures (B, 3, S, S), rows and columns amplified by the octaves' gains (B, 4); mirrored at the edges."""
    chosen = np.any(np.abs(gains - 1) > 1e-9, axis=1)

    def work(some: Tensor) -> Tensor:
        bands = _bands(some.shape[-1], some.dtype, some.device)
        m = torch.einsum("bk,kij->bij", placed(gains[chosen], some), bands)[:, None]
        return m @ some @ m.transpose(2, 3)

    return on_some(images, chosen, work)


def filters() -> list[Array]:
    """Four symmetric filters of 43 taps that part a signal into octaves, lowest first; their sum changes nothing.

    From the half-band low-pass l = sym2 * its mirror image / 2 and the high-pass h, which with it makes one:
    l(z) l(z^2) l(z^4), l(z) l(z^2) h(z^4), l(z) h(z^2), h(z).
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = -low
    high[3] += 1

    def spread(taps: Array, step: int) -> Array:
        wide = np.zeros(6 * step + 1)
        wide[::step] = taps
        return wide

    two = np.convolve(low, spread(low, 2))
    bands = [np.convolve(two, spread(low, 4)), np.convolve(two, spread(high, 4))]
    bands += [np.convolve(low, spread(high, 2)), high]
    return [np.pad(band, (43 - len(band)) // 2) for band in bands]


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for later, when gradients may be wanted
def _bands(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(4, S, S): the filters as matrices on a row of pixels that is mirrored at its ends."""
    matrices = np.zeros((4, size, size))
    for row in range(size):
        pixels = mirrored_place(np.arange(row - 21, row + 22), size)
        for matrix, taps in zip(matrices, filters()):
            np.add.at(matrix[row], pixels, taps)
    return torch.from_numpy(matrices).to(device, dtype)


# --- noise and cutout ------------------------------------------------------------------------------------


def draw_noise(dice: Dice, size: int) -> tuple[Array, Tensor]:
    """(B,) deviations |N(0, 0.1)|, with the probability p, 0 otherwise; normal noise (n, 3, S, S) where not 0."""
    deviations = dice.maybe(np.abs(dice.normal(0.1)), 0)
    return deviations, torch.randn(int((deviations > 0).sum()), 3, size, size)


def noisy(images: Tensor, deviations: Array, noise: Tensor) -> Tensor:
    """Pictures plus what `draw_noise` drew."""
    chosen = deviations > 0

    def work(some: Tensor) -> Tensor:
        return some + placed(deviations[chosen], some).view(-1, 1, 1, 1) * noise.to(some.device, some.dtype)

    return on_some(images, chosen, work)


def draw_boxes(dice: Dice, size: int) -> NDArray[np.int64]:
    """(B, 4): left, top, right, bottom of squares of half the size, with the probability p; else all 0.

    Their centres are anywhere in the picture; what would be outside is cut off.
    """
    x, y = dice.uniform(0, 1), dice.uniform(0, 1)
    edges = np.round(np.stack([x - 0.25, y - 0.25, x + 0.25, y + 0.25], 1) * size)
    return np.where(dice.maybe(np.ones(dice.count), 0)[:, None] > 0, edges, 0).astype(np.int64)


def cut(images: Tensor, boxes: NDArray[np.int64]) -> Tensor:
    """Pictures whose pixels from left to right - 1 and top to bottom - 1 of their box (B, 4) are mid-grey, 0."""
    chosen = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)

    def work(some: Tensor) -> Tensor:
        left, top, right, bottom = boxes[chosen].T[:, :, None]
        line = np.arange(some.shape[-1])
        across, down = (line >= left) & (line < right), (line >= top) & (line < bottom)
        inside = torch.from_numpy(across[:, None, None, :] & down[:, None, :, None])
        return some.masked_fill(inside.to(some.device), 0.0)

    return on_some(images, chosen, work)

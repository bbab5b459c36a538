"""Augmentations that do not leak: what a discriminator sees, of real pictures and fake ones alike.

Karras et al., Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, arXiv:2006.06676,
appendix B: eighteen augmentations in six groups, each happening to each picture with the probability p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fewtoon.augment import geometry, pixels
from fewtoon.augment.batch import FILLS, Array, Dice, checked, in_full
from fewtoon.errors import Problem, nearest

OPERATIONS = ("blit", "geometry", "color", "filter", "noise", "cutout")


@dataclass
class Plan:
    """What happens to each picture of a batch; None: nothing of the kind to any."""

    origins: Array | None = None  # (B, 3, 3): see geometry.sources
    colours: Array | None = None  # (B, 4, 4)
    gains: Array | None = None  # (B, 4) of the octaves
    noise: tuple[Array, Tensor] | None = None  # (B,) deviations; normal noise (n, 3, S, S) of those above 0
    boxes: NDArray[np.int64] | None = None  # (B, 4): left, top, right, bottom


class Pipeline(nn.Module):
    """The augmentations, without parameters. `operations`: some of OPERATIONS; they act in that order:

    blit: mirrored, quarter turns, integer translations. geometry: scaled, turned, stretched, translated.
    color: brightness, contrast, luma flip, hue, saturation. filter: octaves amplified or damped.
    noise: normal, the same deviation in the whole picture. cutout: a square of half the size becomes grey.

    `fill`: what moves in from outside, "reflect" (the mirrored picture, without end) or "white".
    Raises Problem for an operation or a fill that there is not.
    """

    def __init__(self, operations: Sequence[str] = OPERATIONS, fill: str = "reflect") -> None:
        super().__init__()
        self.operations = checked(operations, OPERATIONS, "the augmentation pipeline")
        if fill not in FILLS:
            raise Problem(f"augmentation has no fill {fill!r}: {nearest(fill, FILLS)}")
        self.fill = fill

    def forward(self, images: Tensor, p: float | Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] -> the same shape, dtype and layout, not clipped.

        Differentiable in the pictures; computed in float32, or in float64 for pictures in float64. Pictures to
        which nothing happens keep their bytes; with p = 0 the very same tensor comes back and nothing is drawn.
        Draws from torch's default generator of the CPU. Raises Problem for a p outside [0, 1].
        """
        p = float(p)
        if not 0 <= p <= 1:
            raise Problem(f"probability {p} of an augmentation: must be from 0 to 1")
        if p == 0:
            return images
        return self.carry_out(images, self.draw(len(images), images.shape[-1], p))

    def draw(self, count: int, size: int, p: float) -> Plan:
        """A plan for `count` pictures of `size` pixels."""
        dice, plan, on = Dice(count, p), Plan(), self.operations
        if "blit" in on or "geometry" in on:
            matrices = np.tile(np.eye(3), (count, 1, 1))
            if "blit" in on:
                matrices = geometry.draw_blit(dice, size) @ matrices
            if "geometry" in on:
                matrices = geometry.draw_geometry(dice, size) @ matrices
            plan.origins = geometry.sources(matrices, size)
        if "color" in on:
            plan.colours = pixels.draw_colour(dice)
        if "filter" in on:
            plan.gains = pixels.draw_gains(dice)
        if "noise" in on:
            plan.noise = pixels.draw_noise(dice, size)
        if "cutout" in on:
            plan.boxes = pixels.draw_boxes(dice, size)
        return plan

    def carry_out(self, images: Tensor, plan: Plan) -> Tensor:
        """The plan carried out: each picture (B, 3, S, S) by its own row alone."""

        def work(x: Tensor) -> Tensor:
            if plan.origins is not None:
                x = geometry.transform(x, plan.origins, self.fill)
            if plan.colours is not None:
                x = pixels.colour(x, plan.colours)
            if plan.gains is not None:
                x = pixels.filtered(x, plan.gains)
            if plan.noise is not None:
                x = pixels.noisy(x, *plan.noise)
            if plan.boxes is not None:
                x = pixels.cut(x, plan.boxes)
            return x

        return in_full(images, work)

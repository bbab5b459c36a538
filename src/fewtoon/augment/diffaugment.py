"""DiffAugment: the same few augmentations for every picture, always.

Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020, arXiv:2006.10738.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from fewtoon.augment import geometry, pixels
from fewtoon.augment.batch import Dice, checked, in_full, placed

OPERATIONS = ("color", "translation", "cutout")


class DiffAugment(nn.Module):
    """`operations`: some of OPERATIONS; they act in that order, on every picture:

    color: + U(-0.5, 0.5); from each pixel's mean of its channels by U(0, 2); from the picture's mean by U(0.5, 1.5).
    translation: by whole pixels up to an eighth of the size, mid-grey moves in.
    cutout: a square of half the size, anywhere, becomes mid-grey.
    Raises Problem for an operation that there is not.
    """

    def __init__(self, operations: Sequence[str] = OPERATIONS) -> None:
        super().__init__()
        self.operations = checked(operations, OPERATIONS, "DiffAugment")

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] -> the same shape, dtype and layout, not clipped; differentiable.

        Draws from torch's default generator of the CPU.
        """
        dice, size = Dice(len(images), 1.0), images.shape[-1]

        def work(x: Tensor) -> Tensor:
            if "color" in self.operations:
                x = recoloured(x, dice.uniform(-0.5, 0.5), dice.uniform(0, 2), dice.uniform(0.5, 1.5))
            if "translation" in self.operations:
                most = int(size / 8 + 0.5)
                across, down = (dice.whole(2 * most + 1) - most for _ in range(2))
                x = geometry.move_pixels(x, geometry.moved(-across, -down), 0.0)
            if "cutout" in self.operations:
                x = pixels.cut(x, draw_boxes(dice, size))
            return x

        return in_full(images, work)

    def observe(self, *logits: Tensor) -> None:
        """Nothing is remembered."""

    def tune(self) -> None:
        """Nothing changes."""


def recoloured(
    images: Tensor, brightness: np.ndarray, saturation: np.ndarray, contrast: np.ndarray
) -> Tensor:
    """Pictures (B, 3, S, S): brightness added, then saturation, then contrast multiplied; (B,) each."""
    add, colour, spread = (
        placed(values, images).view(-1, 1, 1, 1) for values in (brightness, saturation, contrast)
    )
    images = images + add
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * colour
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * spread


def draw_boxes(dice: Dice, size: int) -> np.ndarray:
    """(B, 4): left, top, right, bottom of squares of half the size whose centre is a pixel (or their corner)."""
    side = int(size * 0.5 + 0.5)
    left, top = (dice.whole(size + 1 - side % 2) - side // 2 for _ in range(2))
    return np.stack([left, top, left + side, top + side], 1).astype(np.int64)

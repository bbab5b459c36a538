"""The cutter: one picture in, its framed faces out. `prepare` and `translate` share it, so that a style is
given at work what it was given in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewtoon.faces.face import Face, Finder, Matte
from fewtoon.faces.framing import Kind, Pad, Square, cut, inside, square
from fewtoon.faces.matte import composite
from fewtoon.faces.upscale import Upscaler
from fewtoon.io.images import resize_square

MOSTLY_OUTSIDE = 0.35  # of the square within the picture: less is a sliver of a face at the edge


@dataclass(frozen=True)
class Cutout:
    """One framed face.

    pixels: (S, S, 3) uint8, its background white where that is asked for
    alpha: (S, S) uint8, 255 is person; None: nothing was whitened
    face, at: None where the picture was taken as it is
    native: sides in pixels, width and height, that the cutout had in the picture
    upscaled: how it was enlarged, None where it was not
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    face: Face | None
    at: Square | None
    native: tuple[int, int]
    upscaled: str | None


class Cutter:
    """Cuts the faces out of pictures; may be called from several threads at once.

    size: side S of the squares in pixels. kind, pad: see `fewtoon.faces.framing`. finder: who finds the faces;
    not asked for "as-is". matte: whitens the background. upscaler: enlarges what is smaller than S.
    """

    def __init__(
        self,
        size: int,
        kind: Kind,
        pad: Pad = "reflect",
        finder: Finder | None = None,
        matte: Matte | None = None,
        upscaler: Upscaler | None = None,
    ) -> None:
        self.size, self.kind, self.pad = size, kind, pad
        self.finder, self.matte, self.upscaler = finder, matte, upscaler

    @property
    def draft(self) -> int | None:
        """What `images.read` may be told: how small a JPEG may be decoded. A face may be a small part of its
        picture, so None where faces are looked for."""
        return 2 * self.size if self.kind == "as-is" else None

    def find(self, picture: NDArray[np.uint8]) -> list[Face]:
        """The faces of an (H, W, 3) picture, without those of which most lies outside."""
        if self.finder is None:
            return []
        found = self.finder(picture)
        return [face for face in found if inside(picture.shape, square(face, self.kind)) >= MOSTLY_OUTSIDE]

    def cut(self, picture: NDArray[np.uint8], faces: Sequence[Face]) -> list[Cutout]:
        """Each face framed, in the order given; of "as-is" the whole picture, whatever `faces` says."""
        if self.kind == "as-is":
            height, width = picture.shape[:2]
            native = min(height, width)
            return [self._finish(resize_square(picture, self.size), None, None, native, (width, height))]
        return [self._cut(picture, face) for face in faces]

    def _cut(self, picture: NDArray[np.uint8], face: Face) -> Cutout:
        at = square(face, self.kind)
        native = max(1, round(at.side))
        pixels = cut(picture, at, self.size, self.pad, self.upscaler)
        return self._finish(pixels, face, at, native, (native, native))

    def _finish(
        self,
        pixels: NDArray[np.uint8],
        face: Face | None,
        at: Square | None,
        native: int,
        sides: tuple[int, int],
    ) -> Cutout:
        alpha = None
        if self.matte is not None:
            alpha = self.matte(pixels)
            pixels = composite(pixels, alpha)
        enlarged = native < self.size and self.upscaler is not None and at is not None
        how = self.upscaler.describe(native, self.size) if enlarged and self.upscaler else None
        return Cutout(pixels, alpha, face, at, sides, how)


def whitened(cutout: Cutout, drawing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The drawing on white where its photo was: hides the halo that a network draws around the person."""
    return drawing if cutout.alpha is None else composite(drawing, cutout.alpha)

"""Which finders look for faces, by name or by default, and several of them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem, nearest
from fewtoon.faces import models
from fewtoon.faces.face import Face, Finder, distinct

Pixels = NDArray[np.uint8]

KINDS = ("mediapipe", "haar", "yunet:PATH", "cascade:PATH")


def open_finder(spec: str) -> Finder:
    """The finder that `spec` names, one of KINDS.

    Raises Problem for an unknown name, a missing path and a file that is not what it should be; for mediapipe
    also when its model files have not been fetched.
    """
    kind, colon, path = spec.partition(":")
    if spec == "mediapipe":
        from fewtoon.faces.mediapipe import MediapipeFinder

        return MediapipeFinder()
    if spec == "haar":
        from fewtoon.faces.opencv import HaarFinder

        return HaarFinder()
    if kind in ("yunet", "cascade"):
        if not path:
            raise Problem(f"the finder {kind!r} needs a file: give '{kind}:PATH'")
        from fewtoon.faces.opencv import CascadeFinder, YuNetFinder

        return YuNetFinder(path) if kind == "yunet" else CascadeFinder(path)
    if colon and kind in ("mediapipe", "haar"):
        raise Problem(f"the finder {kind!r} takes no file, {path!r} was given: write '{kind}' alone")
    raise Problem(f"there is no face finder {spec!r}; {nearest(spec, KINDS)}")


class Softened:
    """A finder that looks at drawings: at the picture as it is and at blurred ones, and puts together what it
    found, the surest of each face.

    Finders learned from photos stumble over hard outlines and flat colours. A blur of 1 to 2 % of the face's
    width makes skin of paint; how large the faces are is not known yet, so there is a blur for every octave.
    """

    FINEST = 1.5  # pixels, standard deviation
    COARSEST = 0.0125  # of the shorter side

    def __init__(self, finder: Finder) -> None:
        self.finder, self.name = finder, finder.name
        self.identity = f"softened {finder.identity}"

    def __call__(self, picture: Pixels) -> list[Face]:
        import cv2

        found = self.finder(picture)
        sigma = self.FINEST
        while sigma <= self.COARSEST * min(picture.shape[:2]):
            found = [*found, *self.finder(cv2.GaussianBlur(picture, (0, 0), sigma))]
            sigma *= 2
        return distinct(found)

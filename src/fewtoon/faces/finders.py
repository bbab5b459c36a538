"""Which finders look for faces, by name or by default, and several of them as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem, nearest
from fewtoon.faces import models
from fewtoon.faces.face import Box, Face, Finder, distinct

Pixels = NDArray[np.uint8]

KINDS = ("mediapipe", "haar", "yunet:PATH", "cascade:PATH")


def open_finder(spec: str, turned: bool = True) -> Finder:
    """The finder that `spec` names, one of KINDS.

    turned: whether cascades look for faces of any roll where they see no upright one (slow); the others do anyway

    Raises Problem for an unknown name, a missing path and a file that is not what it should be; for mediapipe
    also when its model files have not been fetched.
    """
    kind, colon, path = spec.partition(":")
    if spec == "mediapipe":
        from fewtoon.faces.mediapipe import MediapipeFinder

        return MediapipeFinder()
    if spec == "haar":
        from fewtoon.faces.cascades import HaarFinder

        return HaarFinder(turned)
    if kind in ("yunet", "cascade"):
        if not path:
            raise Problem(f"the finder {kind!r} needs a file: give '{kind}:PATH'")
        from fewtoon.faces.cascades import CascadeFinder
        from fewtoon.faces.yunet import YuNetFinder

        return YuNetFinder(path) if kind == "yunet" else CascadeFinder(path, turned)
    if colon and kind in ("mediapipe", "haar"):
        raise Problem(f"the finder {kind!r} takes no file, {path!r} was given: write '{kind}' alone")
    raise Problem(f"there is no face finder {spec!r}; {nearest(spec, KINDS)}")


class Softened:
    """A finder that looks at drawings: at the picture as it is and at blurred ones, and puts together what it
    found, the surest of each face.

    Finders learned from photos stumble over hard outlines and flat colours. A blur of about 1.5 % of the face's
    width makes skin of paint; how large the faces are is not known yet, so there is a blur for every octave.

    Faces upside down are left out: in drawings nearly all of them are hair and chin taken for a face.
    """

    FINEST = 1.0  # pixels, standard deviation: faces of about 50 to 100 pixels
    COARSEST = 1 / 60  # of the shorter side: a face that fills it
    STEEPEST = 100.0  # degrees of roll; drawn people may lie

    def __init__(self, finder: Finder) -> None:
        self.finder, self.name = finder, finder.name
        self.identity = f"softened {finder.identity}"

    def __call__(self, picture: Pixels) -> list[Face]:
        import cv2

        found = self.finder(picture)
        sigma = self.FINEST
        while sigma <= self.COARSEST * min(picture.shape[:2]):
            found += self.finder(np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8))
            sigma *= 2
        return distinct(face for face in found if abs(face.roll) <= self.STEEPEST)


class Chain:
    """Several finders as one, in the order of trust.

    together: False, for photos: the faces of the first finder that finds any, so that the others cost nothing.
        True, for pictures of many faces on which finders disagree: the faces of all of them, each from the most
        trusted finder that found it
    """

    def __init__(self, finders: Sequence[Finder], together: bool = False) -> None:
        if not finders:
            raise Problem("a chain of finders needs at least one finder, none was given")
        self.finders, self.together = tuple(finders), together
        self.name = ("+" if together else ",").join(finder.name for finder in self.finders)
        mode = "all of" if together else "first of"
        self.identity = f"{mode} ({'; '.join(finder.identity for finder in self.finders)})"

    def __call__(self, picture: Pixels) -> list[Face]:
        kept: list[Face] = []
        for finder in self.finders:
            for face in finder(picture):
                if not any(finder.name != other.finder and _same(face.box, other.box) for other in kept):
                    kept.append(face)
            if kept and not self.together:
                break
        return kept


def _same(a: Box, b: Box) -> bool:
    """Whether two finders mean the same face: half of the smaller box lies within the other. (Their boxes of one
    drawn face differ more than an intersection over union forgives.)"""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height > 0.5 * smaller


def default(side: str) -> Finder:
    """The best finder for `side` ("photos" or "drawings") without a file of the user. Raises Problem for another
    side, and where neither mediapipe's model files nor the cascades of OpenCV 4 are there.

    A chain of both adds nothing: on four styles of drawings haar finds no face that mediapipe misses, but others.
    """
    return choose(["mediapipe" if models.available() else "haar"], side)


def choose(specs: Sequence[str], side: str) -> Finder:
    """The finder for `side` ("photos" or "drawings") from one or more specs of open_finder(), the most trusted
    one first; with none, the default one. For drawings they look softened and together. Raises Problem."""
    if side not in ("photos", "drawings"):
        raise Problem(f"there is no side {side!r}; {nearest(side, ('photos', 'drawings'))}")
    if not specs:
        return default(side)
    drawings = side == "drawings"
    finders = [open_finder(spec, turned=not drawings) for spec in specs]
    if drawings:
        finders = [Softened(finder) for finder in finders]
    return finders[0] if len(finders) == 1 else Chain(finders, together=drawings)


def notes(specs: Sequence[str]) -> list[str]:
    """What is worth a sentence about the finder that choose() gives for these specs."""
    return [] if specs or models.available() else [without_models_note()]


def without_models_note() -> str:
    """What to tell a person when default() had to do without the models."""
    return (
        "the face models are not on this machine, so a weaker detector looks for faces: it misses turned faces and "
        "most drawn ones; 'fewtoon models fetch' brings the models once (36 MB), afterwards everything is offline"
    )

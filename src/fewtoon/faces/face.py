"""What a finder says of a face, and what a finder and a matte are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Face:
    """One face, in pixels of its picture, x to the right and y down, (0, 0) the outer corner of the picture.

    box: the face from the brows to the chin and from ear to ear (the bounding box of the usual 68 landmarks),
        as it stands when the face is turned upright about the centre of this box
    roll: by how many degrees the face is turned clockwise, in (-180, 180]; 0 is upright
    points: (5, 2): the eye at the left of the upright picture, the other eye (each the centre of its outline),
        the tip of the nose, and the corners of the mouth in the same order; None where they are not known
    score: how sure the finder is, 0 to 1; finders are not comparable with each other
    finder: name of the finder, or "marked"
    yaw: degrees by which the face looks to the right of the picture (0: at us); None where it is not known
    clear: how sure the landmark model is that it sees a whole face, 0 to 1; None where there is none
    """

    box: Box
    roll: float = 0.0
    points: NDArray[np.float32] | None = None
    score: float = 1.0
    finder: str = "marked"
    yaw: float | None = None
    clear: float | None = None

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def area(self) -> float:
        return self.width * self.height

    def placed(self, scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> Face:
        """This face in a picture that is `scale` times as large and holds the old one at (x, y)."""
        left, top, right, bottom = (scale * value for value in self.box)
        points = None if self.points is None else (self.points * scale + (x, y)).astype(np.float32)
        return replace(self, box=(left + x, top + y, right + x, bottom + y), points=points)


class Finder(Protocol):
    """Finds the faces of a picture. May be called from several threads at once."""

    name: str  # for people: "mediapipe", "yunet", ...
    identity: str  # name and sha256 of every file behind it: other identity, other faces

    def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
        """The faces of one (H, W, 3) RGB picture, each once, the surest first."""
        ...


class Matte(Protocol):
    """Tells the person from the background. May be called from several threads at once."""

    name: str
    identity: str

    def __call__(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, a head and perhaps shoulders -> (H, W) alpha: 255 is person, 0 is background."""
        ...


def roll_of(points: NDArray[np.float32]) -> float:
    """Degrees from the line through both eyes, in (-180, 180]: atan2, so any angle, upside down too."""
    (x0, y0), (x1, y1) = points[0], points[1]
    degrees = math.degrees(math.atan2(float(y1) - float(y0), float(x1) - float(x0)))
    return 180.0 if degrees == -180.0 else degrees


def turn(x: float, y: float, roll: float) -> tuple[float, float]:
    """A vector of the upright face, as it lies in the picture: turned clockwise by `roll` degrees."""
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    return x * cos - y * sin, x * sin + y * cos


def upright_box(points: NDArray[np.floating], roll: float) -> Box:
    """The box of Face from landmarks (N, 2): their bounding box in the upright frame, turned back about its
    own centre."""
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    frame = points @ np.array([[cos, -sin], [sin, cos]])  # rows (x, y): turned by -roll
    (left, top), (right, bottom) = frame.min(0), frame.max(0)
    x, y = turn((left + right) / 2, (top + bottom) / 2, roll)
    width, height = right - left, bottom - top
    return (
        float(x - width / 2),
        float(y - height / 2),
        float(x + width / 2),
        float(y + height / 2),
    )


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 for empty ones."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def distinct(faces: Iterable[Face], most: float = 0.3) -> list[Face]:
    """The faces with the best score first, without those that overlap a better one by more than `most`."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(overlap(face.box, other.box) <= most for other in kept):
            kept.append(face)
    return kept

"""What the finders that OpenCV 4 runs share: pictures of any size, looked at in bounded parts, faces of any roll,
files that may not be what they claim, and threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem
from fewtoon.faces.face import Face, distinct
from fewtoon.io.files import printable

Pixels = NDArray[np.uint8]

LONGEST = 1280  # pixels: larger pictures are looked at smaller, strips in pieces
MARGIN = (
    0.15  # of the longer side, around the picture: faces that fill it are found (71 % of avataaars, not 41 %)
)
NARROWEST = 16  # pixels; in a narrower picture there is no face
MAX_BYTES = 64 << 20  # of a detector's file: YuNet has 0.2 MB, cascades about 1 MB


def quiet_cv2() -> Any:
    """OpenCV, without its own words on stderr: what is wrong with a file is said in one sentence, by us."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


# ---------------------------------------------------------------------------------------------------------
# Pictures of any size, faces of any roll


def split(picture: Pixels) -> Iterator[tuple[Pixels, float, int, int]]:
    """(part, its scale, x, y of its corner in the picture): parts of at most about 1 megapixel."""
    height, width = picture.shape[:2]
    short, long = min(height, width), max(height, width)
    if short < NARROWEST:
        return
    piece = max(3 * short, LONGEST // 2)  # of a strip; neighbours share a third: a face as wide as the strip
    starts = list(range(0, long - piece, piece * 2 // 3)) if long > 2 * piece else [0]
    for start in starts:
        end = long if start == starts[-1] else start + piece
        x, y = (start, 0) if width > height else (0, start)
        part = picture[:, start:end] if width > height else picture[start:end]
        scale = min(1.0, LONGEST / max(part.shape[:2]))
        yield resized(part, scale), scale, x, y


def resized(picture: Pixels, scale: float) -> Pixels:
    if scale == 1:
        return picture
    height, width = picture.shape[:2]
    cv2 = quiet_cv2()
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def cut_out(
    picture: Pixels, centre: tuple[float, float], roll: float, step: float, size: tuple[int, int]
) -> tuple[Pixels, NDArray[np.float64]]:
    """A look at the picture around `centre`, turned so that a face with `roll` stands upright: `size` (width,
    height) pixels, each as large as `step` of the picture; and the (2, 3) matrix from points (x, y, 1) of the
    look to points of the picture. Outside the picture, its nearest pixel."""
    cv2 = quiet_cv2()
    if step > 2:  # far away: made smaller first, or it would flicker
        small = resized(picture, 1 / step)
        ratio = picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]
        near = centre[0] / ratio[0], centre[1] / ratio[1]
        canvas, matrix = cut_out(small, near, roll, 1.0, size)
        return canvas, matrix * np.array(ratio)[:, None]
    cos, sin = step * math.cos(math.radians(roll)), step * math.sin(math.radians(roll))
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = np.array(centre) - linear @ size / 2
    centred = shift + linear @ (0.5, 0.5) - 0.5  # OpenCV counts from the centre of the first pixel
    canvas = cv2.warpAffine(
        picture,
        np.column_stack([linear, centred]),
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return canvas, np.column_stack([linear, shift])


def turned_look(picture: Pixels, roll: float, detect: Callable[[Pixels], list[Face]]) -> list[Face]:
    """What `detect` finds when the picture is turned back by `roll`, with a margin, as faces of the picture."""
    height, width = picture.shape[:2]
    cos, sin = abs(math.cos(math.radians(roll))), abs(math.sin(math.radians(roll)))
    margin = 2 * MARGIN * max(height, width)
    size = round(width * cos + height * sin + margin), round(width * sin + height * cos + margin)
    canvas, matrix = cut_out(picture, (width / 2, height / 2), roll, 1.0, size)
    return [placed_back(face, roll, matrix) for face in detect(canvas)]


def placed_back(face: Face, roll: float, matrix: NDArray[np.float64]) -> Face:
    x, y = matrix @ (*face.centre, 1.0)
    step = float(np.hypot(*matrix[:, 0]))
    width, height = step * face.width / 2, step * face.height / 2
    points = face.points
    if points is not None:
        points = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    box = (float(x - width), float(y - height), float(x + width), float(y + height))
    return replace(face, box=box, points=points, roll=within_half_turn(face.roll + roll))


def within_half_turn(degrees: float) -> float:
    """The same angle in (-180, 180]."""
    return 180.0 - (180.0 - degrees) % 360.0


def search(picture: Pixels, detect: Callable[[Pixels], list[Face]]) -> list[Face]:
    """All faces that `detect` finds in the parts of a picture, each once."""
    parts = split(picture)
    return distinct(
        face.placed(1 / scale).placed(1, x, y) for part, scale, x, y in parts for face in detect(part)
    )


# ---------------------------------------------------------------------------------------------------------
# Files


def content_of(path: str | Path, what: str) -> bytes:
    """The bytes of a detector's file. Raises Problem."""
    shown = printable(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Problem(f"{shown!r} does not exist; give the file of {what}") from None
    except OSError as error:
        raise Problem(f"{shown!r} cannot be read ({error.strerror}); give the file of {what}") from None
    if len(content) > MAX_BYTES:
        raise Problem(f"{shown!r} is too large ({MAX_BYTES >> 20} MB are the most); give the file of {what}")
    return content


class PerThread:
    """Something made once in every thread that asks for it: OpenCV's detectors keep state while they look."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._local = make, threading.local()

    def __call__(self) -> Any:
        if not hasattr(self._local, "made"):
            self._local.made = self._make()
        return self._local.made

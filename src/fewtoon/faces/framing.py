"""Framings: how a face lies in the square that a network sees, cut out of a picture and put back into it.

| framing  | the square                                                                                |
|----------|-------------------------------------------------------------------------------------------|
| portrait | the head: the box from brows to chin, + 0.8 of its height above, + 0.3 below and of its     |
|          | width at the sides, made square by growing the shorter side (photo2cartoon)                 |
| ffhq     | the alignment of FFHQ, which face generators were trained on (Karras, Laine, Aila: A Style- |
|          | Based Generator Architecture for Generative Adversarial Networks, CVPR 2019, appendix C)    |
| as-is    | the whole picture: its centre square; faces are not looked for                              |

Both of the first turn the face upright.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewtoon.faces.face import Face, roll_of, turn

Kind = Literal["portrait", "ffhq", "as-is"]
Pad = Literal["reflect", "white"]

# Where the eyes, the nose and the mouth lie in the box, for faces of which only the box is known: x and y in
# shares of its width and height; means over 133 portraits, made symmetric.
TYPICAL = ((0.275, 0.168), (0.725, 0.168), (0.50, 0.421), (0.29, 0.636), (0.71, 0.636))

FEATHER = 0.08  # of the side: how far the edge of a drawing that is put back fades into the photo
FINEST = 8  # a face larger than this times the output is shrunk before it is turned: enough for its average

Upscale = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


class Square(NamedTuple):
    """A square in a picture: centre and side in pixels, turned clockwise by `roll` degrees."""

    x: float
    y: float
    side: float
    roll: float


def square(face: Face, kind: Kind) -> Square:
    """The square that a framing, "portrait" or "ffhq", takes of a face."""
    return _ffhq(face) if kind == "ffhq" else _portrait(face)


def _portrait(face: Face) -> Square:
    side = max((0.8 + 1 + 0.3) * face.height, (0.3 + 1 + 0.3) * face.width)
    x, y = face.centre
    dx, dy = turn(0, (0.3 - 0.8) / 2 * face.height, face.roll)
    return Square(x + dx, y + dy, side, face.roll)


def _ffhq(face: Face) -> Square:
    points = typical_points(face) if face.points is None else face.points.astype(np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    across, down = points[1] - points[0], mouth - eyes
    # Across, less what is down turned by 90 degrees: the roll of the eyes and that of the nose, averaged.
    x = across + np.array([down[1], -down[0]])
    length = math.hypot(*x)
    half = max(2.0 * math.hypot(*across), 1.8 * math.hypot(*down))
    centre = eyes + 0.1 * down
    roll = math.degrees(math.atan2(x[1], x[0])) if length > 1e-9 else face.roll
    return Square(float(centre[0]), float(centre[1]), 2 * half, roll)


def typical_points(face: Face) -> NDArray[np.float64]:
    """(5, 2): where eyes, nose and mouth usually are in the box of a face."""
    x, y = face.centre
    offsets = [turn((u - 0.5) * face.width, (v - 0.5) * face.height, face.roll) for u, v in TYPICAL]
    return np.array([(x + dx, y + dy) for dx, dy in offsets])


# ---------------------------------------------------------------------------------------------------------
# Cutting out


def cut(
    picture: NDArray[np.uint8], at: Square, size: int, pad: Pad = "reflect", upscale: Upscale | None = None
) -> NDArray[np.uint8]:
    """The square `at` of an (H, W, 3) picture as (size, size, 3), upright.

    pad: what stands where the square leaves the picture, its mirror image or white. upscale: makes small
    squares larger, (n, n, 3) -> (size, size, 3); None: bicubic.
    Larger squares are turned at a whole multiple of `size` and averaged, so nothing aliases.
    """
    import cv2

    if at.side <= size:
        native = size if upscale is None else max(8, round(at.side))
        crop = _warp(picture, at, native, pad, cv2.INTER_CUBIC)
        return crop if native == size or upscale is None else upscale(crop, size)
    shrink = int(at.side // (FINEST * size))
    if shrink >= 2:
        picture, at = _shrunk(picture, at, shrink)
    times = math.ceil(at.side / size)
    crop = _warp(picture, at, times * size, pad, cv2.INTER_LINEAR)
    return crop if times == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _warp(
    picture: NDArray[np.uint8], at: Square, size: int, pad: Pad, interpolation: int
) -> NDArray[np.uint8]:
    import cv2

    border = cv2.BORDER_REFLECT_101 if pad == "reflect" else cv2.BORDER_CONSTANT
    picture, at = _near(picture, at)
    return cv2.warpAffine(  # type: ignore[return-value]
        picture,
        _matrix(at, size),
        (size, size),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=(255, 255, 255),
    )


def _near(picture: NDArray[np.uint8], at: Square) -> tuple[NDArray[np.uint8], Square]:
    """The part of a picture that a square can touch: OpenCV takes no picture of 32,768 pixels and more.

    What lies beyond its edges must not be mirrored in, so the part is cut well outside of the square."""
    reach = at.side * 0.75 + 4
    left, top = max(0, math.floor(at.x - reach)), max(0, math.floor(at.y - reach))
    part = picture[top : math.ceil(at.y + reach), left : math.ceil(at.x + reach)]
    return (part, Square(at.x - left, at.y - top, at.side, at.roll)) if part.size else (picture, at)


def _shrunk(picture: NDArray[np.uint8], at: Square, factor: int) -> tuple[NDArray[np.uint8], Square]:
    import cv2

    picture, at = _near(picture, at)
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    whole = np.ascontiguousarray(picture[: max(1, height) * factor, : max(1, width) * factor])
    small = cv2.resize(whole, (max(1, width), max(1, height)), interpolation=cv2.INTER_AREA)
    return small, Square(at.x / factor, at.y / factor, at.side / factor, at.roll)  # type: ignore[return-value]


def _matrix(at: Square, size: int) -> NDArray[np.float64]:
    """(2, 3): pixel indices of the upright crop -> pixel indices of the picture."""
    scale = at.side / size
    cos, sin = math.cos(math.radians(at.roll)) * scale, math.sin(math.radians(at.roll)) * scale
    middle = (size - 1) / 2  # the centre of the crop, counted from the centre of its first pixel
    return np.array(
        [
            [cos, -sin, at.x - 0.5 - cos * middle + sin * middle],
            [sin, cos, at.y - 0.5 - sin * middle - cos * middle],
        ]
    )


def inside(shape: tuple[int, ...], at: Square) -> float:
    """The share of a square that lies within a picture of shape (H, W, ...), 0 to 1."""
    steps = (np.arange(16) + 0.5) / 16 - 0.5
    u, v = np.meshgrid(steps * at.side, steps * at.side)
    x, y = turn(u, v, at.roll)  # type: ignore[arg-type]
    within = (x + at.x >= 0) & (x + at.x <= shape[1]) & (y + at.y >= 0) & (y + at.y <= shape[0])
    return float(np.mean(within))


# ---------------------------------------------------------------------------------------------------------
# Putting back


def paste(
    picture: NDArray[np.uint8],
    drawing: NDArray[np.uint8],
    at: Square,
    alpha: NDArray[np.uint8] | None = None,
) -> None:
    """Blend a drawing (S, S, 3), cut as `at`, back into its (H, W, 3) picture, in place.

    Its edge fades out over FEATHER of the side. alpha: (S, S), 255 where the drawing may stand (the person);
    None: everywhere.
    """
    import cv2

    size = drawing.shape[0]
    weight: NDArray[np.floating] = _fade(size)
    if alpha is not None:
        weight = weight * (alpha.astype(np.float32) / 255)
    if at.side < size:  # shrinking: averaged first, so that nothing aliases
        size = max(2, round(at.side))
        drawing = cv2.resize(drawing, (size, size), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        weight = cv2.resize(weight, (size, size), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    reach = at.side * 0.75 + 4  # the diagonal of the square, and a little
    left, right = max(0, math.floor(at.x - reach)), min(picture.shape[1], math.ceil(at.x + reach))
    top, bottom = max(0, math.floor(at.y - reach)), min(picture.shape[0], math.ceil(at.y + reach))
    if left >= right or top >= bottom:
        return
    matrix = _matrix(Square(at.x - left, at.y - top, at.side, at.roll), size)
    shape = (right - left, bottom - top)
    flags = cv2.INTER_CUBIC if at.side > size else cv2.INTER_LINEAR
    turned = cv2.warpAffine(drawing, matrix, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    weights = cv2.warpAffine(weight, matrix, shape, flags=cv2.INTER_LINEAR)[..., None]
    part = picture[top:bottom, left:right]
    part[:] = np.rint(part + weights * (turned.astype(np.float32) - part))


def _fade(size: int) -> NDArray[np.float32]:
    """(size, size): 1 within, falling smoothly to 0 at the edges of the square."""
    distance = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (FEATHER * size)
    ramp = np.clip(distance, 0, 1)
    ramp = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return np.outer(ramp, ramp)


def roll_after(face: Face, at: Square) -> float:
    """Degrees by which the eyes of a face are off the horizontal once its square was cut out."""
    if face.points is None:
        return face.roll - at.roll
    return (roll_of(face.points) - at.roll + 180) % 360 - 180

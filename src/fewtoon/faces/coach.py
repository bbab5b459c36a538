"""The input coach: what a person should change about a photo that will not make a good drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewtoon.faces.cutter import Cutout
from fewtoon.faces.face import Face
from fewtoon.faces.framing import inside

SMALL = 0.5  # of the style's size: from a smaller square most of the drawing is guessed
TURNED = 40  # degrees of yaw: beyond that one eye is hardly seen
CUT_OFF = 0.75  # of the square within the photo
DARK, BRIGHT = 45, 225  # mean level of the face, of 255
UNCLEAR = 0.84  # mediapipe's score of a face behind a hand or a mask; of whole faces it is 0.86 and more
SOFT = 40.0  # variance of the Laplacian of the face at 64 px; 250 and more in sharp portraits
OBLONG = 1.25  # longer side over shorter one: no face crop any more
MIDDLE = (
    "only the middle square was drawn, because photos are taken as they are: crop it to the face, or choose the "
    "framing 'portrait'"
)
FACE_SIDE = 64  # pixels at which sharpness is compared


def advice(picture: NDArray[np.uint8], cutout: Cutout, size: int) -> list[str]:
    """One sentence, with the remedy, for each thing that will spoil the drawing of a face; mostly none.

    picture: (H, W, 3), from which `cutout` was cut. size: side of the style's pictures in pixels.
    """
    face, at = cutout.face, cutout.at
    if face is None or at is None:
        long, short = max(picture.shape[:2]), min(picture.shape[:2])
        return [MIDDLE] if long > OBLONG * short else []
    found = []
    if at.side < SMALL * size:
        found.append(
            f"the face is small ({face.height:.0f} px from brows to chin), so the drawing will guess: use a photo "
            f"that shows it {max(1.1, SMALL * size / at.side):.1f} times as large or more"
        )
    if face.yaw is not None and abs(face.yaw) > TURNED:
        found.append(
            f"the face is turned away by {abs(face.yaw):.0f} degrees: use a photo that looks at the camera"
        )
    if inside(picture.shape, at) < CUT_OFF:
        found.append("part of the head lies outside of the photo: use one that shows the whole head")
    grey = _grey(picture, face)
    if grey is None:
        return found
    level = float(grey.mean())
    if level < DARK:
        found.append("the face is dark: brighten the photo, or take it facing the light")
    elif level > BRIGHT:
        found.append("the face is overexposed: darken the photo, or take it in softer light")
    elif _sharpness(grey) < SOFT and at.side >= SMALL * size:
        found.append("the face is blurred: use a sharper photo")
    if face.finder == "mediapipe" and face.score < UNCLEAR and not found:
        found.append("the face is partly covered or hard to see: use a photo with nothing before the face")
    return found


def no_face(picture: NDArray[np.uint8]) -> str:
    """Why there may be no face in an (H, W, 3) picture, and what to do."""
    height, width = picture.shape[:2]
    if min(height, width) < FACE_SIDE:
        return f"no face was found in its {width} x {height} pixels: use a larger photo"
    if picture[:: max(1, height // 256), :: max(1, width // 256)].max(-1).mean() < DARK:
        return "it is too dark to find a face in it: brighten it, or take it facing the light"
    return (
        "no face was found in it: use a photo that looks at the camera with nothing before the face, or choose the "
        "framing 'as-is' if the picture is nothing but a face"
    )


def _grey(picture: NDArray[np.uint8], face: Face) -> NDArray[np.uint8] | None:
    """The face alone, (64, 64) grey; None where it lies outside of the picture."""
    import cv2

    left, top, right, bottom = (round(value) for value in face.box)
    part = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if min(part.shape[:2]) < 4:
        return None
    small = cv2.resize(part, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


def _sharpness(grey: NDArray[np.uint8]) -> float:
    import cv2

    return float(cv2.Laplacian(grey, cv2.CV_64F).var())

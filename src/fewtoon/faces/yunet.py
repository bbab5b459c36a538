"""YuNet, from a file of the user, run by OpenCV.

Boxes are given in the convention of Face; the constants between the finder's own box and ours were measured on
100 portraits against the mesh of 468 landmarks, and on drawings.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, distinct, roll_of, turn
from fewtoon.faces.opencv import (
    PerThread,
    Pixels,
    content_of,
    cut_out,
    placed_back,
    quiet_cv2,
    resized,
    search,
    turned_look,
    within_half_turn,
)
from fewtoon.io.files import printable


class YuNetFinder:
    """YuNet (Wu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023), an ONNX file of the user: boxes,
    five points and so the roll.

    least: the score below which a face is none
    Raises Problem for a file that is missing or not a YuNet that this OpenCV can run.
    """

    name = "yunet"
    WHAT = "a YuNet face detector (ONNX, with a fixed size of input, such as yunet_n_640_640.onnx)"
    SMALL = 320  # pixels: faces too large for it in a large picture are found in a small copy
    CLOSE = 160  # pixels of a closer look
    ABOUT = 2.2  # sides of the face in it

    def __init__(self, path: str | Path, least: float = 0.6) -> None:
        content = content_of(path, self.WHAT)
        self.identity = f"yunet {hashlib.sha256(content).hexdigest()}"
        model = np.frombuffer(content, np.uint8)
        empty = np.zeros(0, np.uint8)
        cv2 = quiet_cv2()
        self._detector = PerThread(
            lambda: cv2.FaceDetectorYN.create("onnx", model, empty, (64, 64), least, 0.3, 1000)
        )
        try:
            self._rows(np.full((96, 64, 3), 128, np.uint8))
        except cv2.error:
            raise Problem(
                f"{printable(path)!r} is not a YuNet that OpenCV {cv2.__version__} can run; "
                f"give the file of {self.WHAT}"
            ) from None

    def __call__(self, picture: Pixels) -> list[Face]:
        return search(picture, self._part)

    def _part(self, picture: Pixels) -> list[Face]:
        found = distinct(turned_look(picture, 0.0, self._detect))
        return distinct(self._settled(picture, face) for face in found)

    def _detect(self, canvas: Pixels) -> list[Face]:
        """Where faces are, of any roll: here the points, and so our box, would be right for upright ones alone."""
        rows = self._rows(canvas)
        scale = self.SMALL / max(canvas.shape[:2])
        if scale < 0.5:
            small = self._rows(resized(canvas, scale))
            small[:, :14] /= scale
            rows = np.concatenate([rows, small])
        return [
            Face((x, y, x + w, y + h), score=score, finder=self.name)
            for x, y, w, h, score in rows[:, [0, 1, 2, 3, 14]].tolist()
        ]

    def _settled(self, picture: Pixels, face: Face) -> Face:
        """The same face, looked at closely: YuNet sees faces of any roll, but believes that all are upright.
        Of four turned looks the surest is right within 45 degrees, and a look turned by its roll is exact."""
        looks = [look for roll in (0.0, 90.0, 180.0, -90.0) if (look := self._closer(picture, face, roll))]
        if not looks:  # seen from afar alone: its box is all there is
            left, top, right, bottom = face.box
            return replace(face, box=(left, top + 0.28 * face.height, right, bottom), score=face.score / 2)
        best = max(looks, key=lambda look: look.score)
        for _ in range(5):
            look = self._closer(picture, best, best.roll)
            if look is None:
                break
            moved, best = within_half_turn(look.roll - best.roll), look
            if abs(moved) < 1:
                break
        return best

    def _closer(self, picture: Pixels, face: Face, roll: float) -> Face | None:
        """The surest face around the place of `face` in a look turned by `roll`."""
        step = self.ABOUT * max(face.width, face.height) / self.CLOSE
        canvas, matrix = cut_out(picture, face.centre, roll, step, (self.CLOSE, self.CLOSE))
        middle, reach = (self.CLOSE / 2, self.CLOSE / 2), 0.5 * self.CLOSE / self.ABOUT
        near = [found for found in self._faces(canvas) if math.dist(found.centre, middle) < reach]
        return placed_back(max(near, key=lambda found: found.score), roll, matrix) if near else None

    def _faces(self, canvas: Pixels) -> list[Face]:
        return [self._face(row) for row in self._rows(canvas)]

    def _rows(self, canvas: Pixels) -> NDArray[np.float32]:
        """(N, 15): left, top, width, height, five points in our order, score."""
        detector = self._detector()
        detector.setInputSize((canvas.shape[1], canvas.shape[0]))
        rows = detector.detect(np.ascontiguousarray(canvas[:, :, ::-1]))[1]  # BGR
        if rows is None:
            return np.zeros((0, 15), np.float32)
        return rows[np.isfinite(rows).all(1)]

    def _face(self, row: NDArray[np.float32]) -> Face:
        points = row[4:14].reshape(5, 2).astype(np.float32)
        roll = roll_of(points)
        return Face(box_of(points, roll), roll, points, float(np.clip(row[14], 0, 1)), self.name)


def box_of(points: NDArray[np.float32], roll: float) -> Box:
    """The box of Face from its five points, by constants fitted to the mesh of 100 portraits: each edge within
    2 to 3 % of the box's height (standard deviation), at any roll."""
    upright = np.array([turn(float(x), float(y), -roll) for x, y in points])
    eyes, mouth = upright[:2].mean(0), upright[3:].mean(0)
    down, across = abs(mouth[1] - eyes[1]), abs(upright[1, 0] - upright[0, 0])
    x, y = (eyes + mouth) / 2
    x -= 1.41 * (upright[2, 0] - x)  # the nose shows where the face looks: there, less of it is seen
    half = 0.79 * down + 0.31 * across
    box = x - half, y - 0.93 * down + 0.1 * across, x + half, y + 1.02 * down + 0.32 * across
    centre = turn((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, roll)
    width, height = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return centre[0] - width, centre[1] - height, centre[0] + width, centre[1] + height

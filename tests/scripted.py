"""A finder for tests: it sees what `person` draws and nothing else."""

from __future__ import annotations

import cv2
import numpy as np

from fewtoon.faces.face import Face, roll_of, turn, upright_box

HAIR, SKIN, EYE, MOUTH = (250, 0, 250), (0, 200, 60), (0, 0, 250), (250, 240, 0)


def person(picture: np.ndarray, x: float, y: float, height: float, roll: float = 0.0) -> None:
    """Draw somebody into an (H, W, 3) picture: brows to chin `height` pixels, turned clockwise by `roll`."""

    def at(u: float, v: float) -> tuple[int, int]:
        dx, dy = turn(u * height, v * height, roll)
        return round(x + dx), round(y + dy)

    for colour, (u, v), (a, b) in (
        (HAIR, (0, -0.25), (0.62, 0.75)),
        (SKIN, (0, 0), (0.4, 0.5)),
        (EYE, (-0.18, -0.2), (0.09, 0.09)),
        (EYE, (0.18, -0.2), (0.09, 0.09)),
        (MOUTH, (0, 0.25), (0.2, 0.07)),
    ):
        axes = (max(1, round(a * height)), max(1, round(b * height)))
        cv2.ellipse(picture, at(u, v), axes, roll, 0, 360, colour, -1)


class ScriptedFinder:
    """Finds every `person` by the exact colours."""

    name = "scripted"
    identity = "scripted 1"

    def __call__(self, picture: np.ndarray) -> list[Face]:
        faces = []
        for skin in _patches(picture, SKIN):
            centre = skin.mean(0)
            size = np.sqrt(len(skin))
            near = [p.mean(0) for p in _patches(picture, EYE) if np.hypot(*(p.mean(0) - centre)) < size]
            mouths = [p.mean(0) for p in _patches(picture, MOUTH) if np.hypot(*(p.mean(0) - centre)) < size]
            if len(near) != 2 or not mouths:
                continue
            up = centre - mouths[0]
            left, right = sorted(near, key=lambda eye: eye[0] * -up[1] + eye[1] * up[0])
            roll = roll_of(np.array([left, right]))
            mouth, aside = mouths[0], np.array(turn(0.2 * size, 0, roll))
            points = np.array([left, right, centre, mouth - aside, mouth + aside], np.float32)
            faces.append(Face(upright_box(skin + 0.5, roll), roll, points, 0.9, self.name, 0.0, 1.0))
        return sorted(faces, key=lambda face: -face.area)


def _patches(picture: np.ndarray, colour: tuple[int, int, int]) -> list[np.ndarray]:
    """(N, 2) places x, y of each connected patch of a colour."""
    mask = (picture == colour).all(-1).astype(np.uint8)
    count, labels = cv2.connectedComponents(mask)
    patches = [np.argwhere(labels == i)[:, ::-1].astype(float) for i in range(1, count)]
    return [patch for patch in patches if len(patch) >= 4]

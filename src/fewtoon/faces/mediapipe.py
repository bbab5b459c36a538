"""The default face finder and the default matte: the face models of MediaPipe (Apache-2.0), run by LiteRT.

Every face of a picture, of any size and any roll, in three steps:

1. Candidates. Two small detectors look at the whole picture and at overlapping tiles of it, finer and finer.
   They answer to faces of any roll, but which side of them is up they know only of nearly upright ones.
2. Orientation. The mesh of 468 landmarks is fitted to a candidate as the detector saw it, upside down, and
   where need be in between; its own confidence says which way is up, or that there is no face.
3. Refinement. A detector looks once more, now at the upright face, and the mesh is fitted to what it says,
   then to where the mesh has just found itself, until it stays.

The facts (anchors, scales, order of the points) are those of MediaPipe's public graphs: face_detection.pbtxt,
face_landmark_cpu.pbtxt, selfie_segmentation_cpu.pbtxt. Detectors: Bazarevsky et al., BlazeFace, arXiv 1907.05047.
Mesh: Kartynnik et al., Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs, arXiv 1907.06724.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.faces import models
from fewtoon.faces.face import Face, roll_of, turn, upright_box
from fewtoon.faces.framing import Square
from fewtoon.faces.litert import Network

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

# ---------------------------------------------------------------------------------------------------------
# Looking at a part of the picture


class Pyramid:
    """A picture and its halvings, so that a part of it can be seen from afar without aliasing."""

    def __init__(self, picture: Pixels) -> None:
        self.height, self.width = picture.shape[:2]
        self._levels = [picture]

    def look(self, square: Square, size: int) -> Pixels:
        """(size, size, 3): what is in the square; beyond the edge of the picture, the pixels of its edge."""
        import cv2

        step = square.side / size
        level = self._level(max(0, round(math.log2(max(step, 1.0)) - 0.2)))  # 0.8 to 1.6 pixels a step
        height, width = level.shape[:2]
        matrix = matrix_of(square, size) * [[width / self.width], [height / self.height]]
        linear, shift = matrix[:, :2], matrix[:, 2]
        # Only the part that is needed: OpenCV cannot warp from pictures of more than 32767 rows or columns.
        reach = np.abs(linear).sum(1) * size / 2 + 2
        middle = shift + linear.sum(1) * size / 2
        left, top = np.clip(np.floor(middle - reach), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(middle + reach), (left + 1, top + 1), (width, height)).astype(int)
        # OpenCV counts from the centre of the first pixel, we from its outer corner.
        shift = shift + linear.sum(1) / 2 - 0.5 - (left, top)
        return cv2.warpAffine(  # type: ignore[return-value]
            level[top:bottom, left:right],
            np.column_stack([linear, shift]),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def _level(self, index: int) -> Pixels:
        import cv2

        while len(self._levels) <= index:
            height, width = self._levels[-1].shape[:2]
            half = ((width + 1) // 2, (height + 1) // 2)
            self._levels.append(cv2.resize(self._levels[-1], half, interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]
        return self._levels[index]


def matrix_of(square: Square, size: int = 1) -> NDArray[np.float64]:
    """(2, 3): from (x, y) within the square, each 0 to `size`, to the picture."""
    a, b = turn(square.side / size, 0.0, square.roll)
    half = size / 2
    return np.array([[a, -b, square.x - (a - b) * half], [b, a, square.y - (a + b) * half]])


def outside(square: Square, points: Floats) -> NDArray[np.float64]:
    """Points (..., 2) within the square, each coordinate 0 to 1, as points of the picture."""
    matrix = matrix_of(square)
    return points @ matrix[:, :2].T + matrix[:, 2]


# ---------------------------------------------------------------------------------------------------------
# Detection

ROI = 1.5  # the mesh wants to see one and a half times the box of a detection, or of the mesh before
FLAT = 8  # of 255: what varies less shows no face, such as the gutters of a webtoon strip


@dataclass(frozen=True)
class Candidate:
    square: Square  # brows to chin, turned as the line through the eyes
    score: float


class Detector:
    """One of the two detectors, as a function: the candidates in a square of the picture.

    size: of its input, in pixels; layers: (stride, anchors per cell) of its grids;
    least: the narrowest face that it finds dependably, in its own pixels from ear to ear (measured)
    """

    def __init__(self, name: str, size: int, layers: tuple[tuple[int, int], ...], least: float) -> None:
        self.network = Network(models.path(name), 1 / 127.5, -1.0)
        self.size, self.least = size, least
        self.anchors = anchors(size, layers)

    def __call__(self, pyramid: Pyramid, square: Square, least: float) -> list[Candidate]:
        image = pyramid.look(square, self.size)
        if int(image.max()) - int(image.min()) < FLAT:
            return []
        raw, logits = self.network(image)
        found = []
        for pairs, score in blend(*decode(raw, logits, self.anchors, self.size, least)):
            (x, y), _, left_eye, right_eye = outside(square, pairs[:4])
            roll = roll_of(np.stack([left_eye, right_eye]))
            side = float(pairs[1].max()) * square.side
            found.append(Candidate(Square(float(x), float(y), side, roll), score))
        return found


def anchors(size: int, layers: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
    """(N, 2): the centres, each coordinate 0 to 1, that a detector's answers are relative to, in their order."""
    parts = []
    for stride, per_cell in layers:
        centres = (np.arange(size // stride) + 0.5) * stride / size
        cells = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)  # row by row
        parts.append(np.repeat(cells, per_cell, axis=0))
    return np.concatenate(parts).astype(np.float32)


def decode(raw: Floats, logits: Floats, anchors: Floats, size: int, least: float) -> tuple[Floats, Floats]:
    """A detector's (N, 16) and (N, 1) -> (n, 8, 2) and (n,): what has a score of at least `least`.

    The eight pairs, each coordinate 0 to 1: centre and size of the box (brows to chin), then the eye at the
    left of the picture, the other eye, tip of the nose, middle of the mouth, ear at the left, other ear.
    """
    kept = logits[:, 0] >= math.log(least / (1 - least))
    pairs = raw[kept].reshape(-1, 8, 2) / size
    centres = anchors[kept][:, None]
    pairs[:, :1] += centres
    pairs[:, 2:] += centres
    return pairs, 1 / (1 + np.exp(-logits[kept, 0]))


def blend(pairs: Floats, scores: Floats, most: float = 0.3) -> Iterator[tuple[Floats, float]]:
    """Answers (n, 8, 2) that overlap the best of them by more than `most` (intersection over union) become
    one: their mean weighted by score, with the best one's score. The surest first."""
    low, high = pairs[:, 0] - pairs[:, 1] / 2, pairs[:, 0] + pairs[:, 1] / 2
    areas = pairs[:, 1].prod(-1)
    left = np.argsort(-scores, kind="stable")
    while len(left):
        best = left[0]
        common = np.minimum(high[left], high[best]) - np.maximum(low[left], low[best])
        shared = np.maximum(common, 0).prod(-1)
        same = shared > most * (areas[left] + areas[best] - shared)
        same[0] = True
        weights = scores[left[same]]
        yield np.tensordot(weights / weights.sum(), pairs[left[same]], 1), float(scores[best])
        left = left[~same]


# ---------------------------------------------------------------------------------------------------------
# Mesh

# The usual 68 landmarks among the 468 of the mesh, in their usual order.
JAW = (127, 234, 132, 58, 172, 150, 149, 148, 152, 377, 378, 379, 397, 288, 361, 454, 356)
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
MOUTH = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178)
LANDMARKS_68 = (*JAW, *BROWS, *NOSE, *EYES, *MOUTH)
NOSE_AND_CORNERS = (4, 61, 291)
# The same places on either side of the head: the lines between them show where it looks.
LEFT_SIDE, RIGHT_SIDE = (127, 234, 132, 58, 33, 61), (356, 454, 361, 288, 263, 291)

MESH_SIZE = 192  # pixels of the network's input
ROI_WIDTHS = 1.8  # the side of Mesh.square, in widths of the face from ear to ear (measured)


@dataclass(frozen=True, eq=False)
class Mesh:
    """The 468 landmarks of a face, as far as there is one.

    points: (468, 2) in the picture; depth: (468,) in its pixels, smaller is nearer
    logit: how sure the network is that this is a face: 30 for most faces, up to 15 for one that is fitted the
        wrong way up, below 0 for most other things
    """

    points: NDArray[np.float64]
    depth: NDArray[np.float64]
    logit: float

    @functools.cached_property
    def five(self) -> NDArray[np.float32]:
        """(5, 2): the points of Face."""
        eyes = self.points[list(EYES)].reshape(2, 6, 2).mean(1)
        return np.concatenate([eyes, self.points[list(NOSE_AND_CORNERS)]]).astype(np.float32)

    @functools.cached_property
    def square(self) -> Square:
        """Where to look for this face again."""
        roll = roll_of(self.five)
        left, top, right, bottom = upright_box(self.points, roll)
        return Square((left + right) / 2, (top + bottom) / 2, ROI * max(right - left, bottom - top), roll)

    @property
    def yaw(self) -> float:
        """Degrees to the right: by how much the lines across the head turn away from us."""
        across = self.points[list(RIGHT_SIDE)] - self.points[list(LEFT_SIDE)]
        away = self.depth[list(RIGHT_SIDE)] - self.depth[list(LEFT_SIDE)]
        return math.degrees(math.atan2(away.sum(), np.hypot(across[:, 0], across[:, 1]).sum()))

    def face(self, score: float, finder: str) -> Face:
        roll = roll_of(self.five)
        box = upright_box(self.points[list(LANDMARKS_68)], roll)
        return Face(box, roll, self.five, score, finder, self.yaw, 1 / (1 + math.exp(-self.logit)))


class Fitter:
    """The network of the mesh, as a function: its answer to a square of the picture."""

    def __init__(self) -> None:
        self.network = Network(models.path("face_landmark"), 1 / 255)

    def __call__(self, pyramid: Pyramid, square: Square) -> Mesh:
        raw, logit = self.network(pyramid.look(square, MESH_SIZE))
        points = raw.reshape(468, 3).astype(np.float64) / MESH_SIZE
        return Mesh(outside(square, points[:, :2]), points[:, 2] * square.side, float(logit.item()))

    def settled(self, pyramid: Pyramid, square: Square, steps: int) -> Mesh:
        """The mesh fitted to a square, then at most `steps` times to where it has just found itself."""
        mesh = self(pyramid, square)
        for _ in range(steps):
            if mesh.logit < HOPELESS or _close(mesh.square, square):
                break
            square = mesh.square
            mesh = self(pyramid, square)
        return mesh


def _close(a: Square, b: Square) -> bool:
    """Whether the mesh would find the same in both squares."""
    roll = abs((a.roll - b.roll + 180) % 360 - 180)
    moved = math.hypot(a.x - b.x, a.y - b.y)
    return roll < 0.5 and moved < 0.01 * b.side and abs(a.side - b.side) < 0.02 * b.side


# ---------------------------------------------------------------------------------------------------------
# Where to look


def narrowest(width: int, height: int) -> float:
    """The face that must not be missed, in pixels from ear to ear: 28 in small pictures, 49 in 3000 x 3000."""
    return max(28.0, 0.9 * math.sqrt(min(width, height)))


def sides(largest: float, least: float) -> list[float]:
    """Sides of squares from `largest` down to `least`, each about half of the one before or more."""
    if largest <= 1.2 * least:
        return [largest]
    steps = math.ceil(math.log2(largest / least) - 0.1)
    return [largest * (least / largest) ** (step / steps) for step in range(steps + 1)]


def tiles(width: int, height: int, side: float) -> Iterator[Square]:
    """Squares that cover a picture, row by row; neighbours overlap by a quarter or more."""
    for y in _middles(height, side):
        for x in _middles(width, side):
            yield Square(x, y, side, 0.0)


def _middles(length: int, side: float) -> list[float]:
    if length <= side:
        return [length / 2]
    count = math.ceil((length - side) / (0.75 * side)) + 1
    step = (length - side) / (count - 1)
    return [side / 2 + index * step for index in range(count)]


# ---------------------------------------------------------------------------------------------------------
# The finder

TINIEST = 10.0  # pixels; what a detector thinks is a narrower face is left alone
CANDIDATE = 0.35  # score of a detector that is worth a look
FACE_SCORE = 0.62  # score of the detector in its second look, at the upright face
FACE_LOGIT = 2.0  # of the mesh: enough for half-covered, blurred and cut faces
SURE_LOGIT = 15.0  # of the mesh: no other orientation can be better
PLAIN_LOGIT = 20.0  # of the very first fit: no other orientation need be tried
HOPELESS = -1.0  # logit of a fit that will not become a face
# Degrees. The later ones are for a picture in which no face was found yet: a large but hard one may lie on its side.
LOOKS = 0, 180, 90, -90
TURNS = (0, 180), (90, -90, 45, -45, 135, -135)  # degrees; the detector is mostly right, or wrong by 180
BYSTANDER = 0.1  # beside a large face those of less than this part of its width are not looked for


class MediapipeFinder:
    """Finds the faces of a picture, of any roll, and down to `narrowest`. Raises Problem where LiteRT or a
    model file is missing."""

    name = "mediapipe"

    def __init__(self) -> None:
        self.short = Detector("face_detection_short_range", 128, ((8, 2), (16, 6)), 14)
        self.full = Detector("face_detection_full_range_sparse", 192, ((4, 1),), 12)
        self.fit = Fitter()
        files = ("face_detection_short_range", "face_detection_full_range_sparse", "face_landmark")
        self.identity = " ".join((self.name, *map(models.sha256, files)))

    def __call__(self, picture: Pixels) -> list[Face]:
        pyramid = Pyramid(picture)
        found: list[tuple[Mesh, float]] = []
        for roll in LOOKS:
            if not found:
                self._search(pyramid, roll, found)
        faces = [mesh.face(score, self.name) for mesh, score in found]
        return sorted(faces, key=lambda face: -face.score)

    def _search(self, pyramid: Pyramid, roll: float, found: list[tuple[Mesh, float]]) -> None:
        """Look at the picture as if it were upright when turned by -roll, in small detail only for roll 0, and
        add its faces to those that were found."""
        for detector, side, seen in self._passes(pyramid.width, pyramid.height):
            largest = max((mesh.square.side / ROI_WIDTHS for mesh, _ in found), default=0.0)
            if seen < BYSTANDER * largest or (roll and side < 0.5 * min(pyramid.width, pyramid.height)):
                continue
            for tile in tiles(pyramid.width, pyramid.height, side):
                if not any(_hides(mesh.square, tile) for mesh, _ in found):
                    for candidate in detector(pyramid, tile._replace(roll=roll), CANDIDATE):
                        self._consider(pyramid, candidate, found)

    def _passes(self, width: int, height: int) -> list[tuple[Detector, float, float]]:
        """(detector, side of its tiles, narrowest face of its pass before), from the coarse to the fine.

        Short range finds faces of any roll that are up to two thirds of the tile wide; full range, smaller,
        darker, half-covered ones, but only within 45 degrees of upright.
        """
        passes = []
        for detector, room in ((self.short, 1.5), (self.full, 1.0)):
            scale = detector.size / detector.least
            seen = math.inf
            largest = max(room * min(width, height), scale * TINIEST)
            for side in sides(largest, scale * narrowest(width, height)):
                passes.append((detector, side, seen))
                seen = side / scale
        return sorted(passes, key=lambda entry: -entry[1])

    def _consider(self, pyramid: Pyramid, candidate: Candidate, found: list[tuple[Mesh, float]]) -> None:
        """Add the candidate's face, if there is one, and if no surer one was found there."""
        if candidate.square.side < TINIEST:
            return
        near = (mesh for mesh, _ in found if _same(mesh.square, candidate.square))
        if any(mesh.logit >= SURE_LOGIT for mesh in near):
            return
        face = self._recognise(pyramid, candidate)
        if face is None:
            return
        rivals = [other for other in found if _same(other[0].square, face[0].square)]
        if all(other[0].logit < face[0].logit for other in rivals):
            found[:] = [other for other in found if other not in rivals] + [face]

    def _recognise(self, pyramid: Pyramid, candidate: Candidate) -> tuple[Mesh, float] | None:
        """The mesh and the detector's score of the upright face; None where there is no face."""
        best: tuple[Mesh, float] | None = None
        for start in self._starts(pyramid, candidate.square):
            again = self._second_look(pyramid, start.square)
            if again is None:
                continue
            mesh = self.fit.settled(pyramid, again.square._replace(side=ROI * again.square.side), 8)
            if mesh.logit >= FACE_LOGIT and (best is None or mesh.logit > best[0].logit):
                best = mesh, again.score
            if mesh.logit >= SURE_LOGIT:
                break
        return best

    def _starts(self, pyramid: Pyramid, box: Square) -> Iterator[Mesh]:
        """First fits of the mesh, the promising ones first."""
        for turns in TURNS:
            fits = []
            for degrees in turns:
                square = Square(box.x, box.y, ROI * box.side, box.roll + degrees)
                mesh = self.fit(pyramid, square)
                if mesh.logit >= PLAIN_LOGIT:
                    yield mesh
                else:
                    fits.append(mesh)
            for mesh in sorted(fits, key=lambda mesh: -mesh.logit):
                if mesh.logit >= HOPELESS:
                    yield self.fit(pyramid, mesh.square)

    def _second_look(self, pyramid: Pyramid, square: Square) -> Candidate | None:
        """What the short-range detector says of a face that has been turned upright."""
        answers = [
            answer
            for answer in self.short(pyramid, square._replace(side=1.3 * square.side), FACE_SCORE)
            if math.hypot(answer.square.x - square.x, answer.square.y - square.y) < 0.25 * square.side
        ]
        return max(answers, key=lambda answer: answer.score, default=None)


def _hides(face: Square, tile: Square) -> bool:
    """Whether a tile shows nothing but this face."""
    distance = math.hypot(face.x - tile.x, face.y - tile.y)
    return distance + tile.side * math.sqrt(0.5) < 0.5 * face.side


def _same(face: Square, other: Square) -> bool:
    """Whether both are too near to each other to be two faces; `other` may be a detector's box."""
    distance = math.hypot(face.x - other.x, face.y - other.y)
    return distance < 0.3 * max(face.side, other.side)


# ---------------------------------------------------------------------------------------------------------
# The matte

MATTE_SIZE = 256
MATTE_ROOM = 26  # pixels on each side for the second look: 10 %


class MediapipeMatte:
    """The portrait matte of MediaPipe, the mean of two looks: at the crop, and at its mirror image with some
    room around it. Raises Problem where LiteRT or the model file is missing."""

    name = "mediapipe"

    def __init__(self) -> None:
        self.network = Network(models.path("selfie_segmentation"), 1 / 255)
        self.identity = f"{self.name} {models.sha256('selfie_segmentation')}"

    def __call__(self, crop: Pixels) -> Pixels:
        import cv2

        height, width = crop.shape[:2]
        shrinks = max(height, width) > MATTE_SIZE
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        small = cv2.resize(crop, (MATTE_SIZE, MATTE_SIZE), interpolation=way)
        room, inner = MATTE_ROOM, slice(MATTE_ROOM, -MATTE_ROOM)
        wide = cv2.copyMakeBorder(small, room, room, room, room, cv2.BORDER_REPLICATE)[:, ::-1]
        far = self._alpha(cv2.resize(wide, (MATTE_SIZE, MATTE_SIZE), interpolation=cv2.INTER_AREA))
        far = cv2.resize(far, wide.shape[:2], interpolation=cv2.INTER_LINEAR)[:, ::-1]
        alpha = self._alpha(small) + far[inner, inner]
        rounded = np.rint(np.clip(alpha * 127.5, 0, 255)).astype(np.uint8)
        way = cv2.INTER_LINEAR if shrinks else cv2.INTER_AREA
        return cv2.resize(rounded, (width, height), interpolation=way)

    def _alpha(self, image: Any) -> Any:
        """(S, S, 3) uint8 -> (S, S) float32, 0 to 1."""
        return self.network(image)[0][..., 0]

"""The default face finder and the default matte: the face models of MediaPipe (Apache-2.0), run by LiteRT.

Every face of a picture, of any size and any roll, in three steps:

1. Candidates. A small detector looks at the whole picture and at overlapping tiles of it, finer and finer. It
   answers to faces of any roll; which side of them is up it knows only for nearly upright ones.
2. Orientation. The mesh of 468 landmarks is fitted to each candidate as it was seen and turned by 180 degrees;
   its own confidence says which one is upright, or that there is no face.
3. Refinement. The mesh is fitted again where it has just found itself, until it stays.

The facts (anchors, scales, order of the points) are those of MediaPipe's public graphs: face_detection.pbtxt,
face_landmark_cpu.pbtxt, selfie_segmentation_cpu.pbtxt. Detector: Bazarevsky et al., BlazeFace, arXiv 1907.05047.
Mesh: Kartynnik et al., Real-time Facial Surface Geometry from Monocular Video, arXiv 1907.06724.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewtoon.faces import models
from fewtoon.faces.face import Face, roll_of, turn, upright_box
from fewtoon.faces.framing import Square
from fewtoon.faces.litert import Network

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]

# ---------------------------------------------------------------------------------------------------------
# Looking at a part of the picture


class Pyramid:
    """A picture and its halvings, so that a part of it can be looked at from afar without aliasing."""

    def __init__(self, picture: Pixels) -> None:
        self.levels = [picture]
        self.height, self.width = picture.shape[:2]

    def _level(self, index: int) -> Pixels:
        import cv2

        while len(self.levels) <= index:
            height, width = self.levels[-1].shape[:2]
            half = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
            self.levels.append(cv2.resize(self.levels[-1], half, interpolation=cv2.INTER_AREA))
        return self.levels[index]

    def look(self, square: Square, size: int) -> Pixels:
        """(size, size, 3): what is in the square; beyond the edge of the picture, the pixels of its edge."""
        import cv2

        step = square.side / size
        level = self._level(max(0, round(math.log2(max(step, 1.0)) - 0.2)))
        height, width = level.shape[:2]
        scale = np.array([width / self.width, height / self.height])
        matrix = _matrix(square, size)
        linear = matrix[:, :2] * scale[:, None]
        shift = matrix[:, 2] * scale
        # Only the part that is needed: OpenCV cannot warp from pictures of more than 32767 rows or columns.
        reach = np.abs(linear).sum(1) * size / 2 + 2
        middle = shift + linear.sum(1) * size / 2
        left, top = np.clip(np.floor(middle - reach), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(middle + reach), (left + 1, top + 1), (width, height)).astype(int)
        # OpenCV counts from the centre of the first pixel, we from its outer corner.
        shift = shift + linear.sum(1) / 2 - 0.5 - (left, top)
        return cv2.warpAffine(
            level[top:bottom, left:right],
            np.column_stack([linear, shift]),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )


def _matrix(square: Square, size: int = 1) -> NDArray[np.float64]:
    """(2, 3): from (x, y) within the square, 0 to `size`, to the picture."""
    a, b = turn(square.side / size, 0.0, square.roll)
    half = size / 2
    return np.array([[a, -b, square.x - (a - b) * half], [b, a, square.y - (a + b) * half]])


def _outside(square: Square, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points (..., 2) within the square, from 0 to 1, as points of the picture."""
    matrix = _matrix(square)
    return points @ matrix[:, :2].T + matrix[:, 2]


# ---------------------------------------------------------------------------------------------------------
# Detection


def anchors(size: int, layers: tuple[tuple[int, int], ...]) -> Array:
    """(N, 2) centres from 0 to 1 of a detector with `size` pixels; layers: (stride, anchors per cell)."""
    parts = []
    for stride, per_cell in layers:
        centres = (np.arange(size // stride) + 0.5) * stride / size
        grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)  # row by row
        parts.append(np.repeat(grid, per_cell, axis=0))
    return np.concatenate(parts).astype(np.float32)


def decode(raw: Array, logits: Array, anchors: Array, size: int, least: float) -> tuple[Array, Array]:
    """A detector's (N, 16) and (N, 1) -> (n, 8, 2) and (n,): the candidates with a score of at least `least`.

    The eight pairs, from 0 to 1: centre and size of the box (brows to chin), then the eye at the left of the
    picture, the other eye, tip of the nose, middle of the mouth, ear at the left, other ear.
    """
    kept = logits[:, 0] >= math.log(least / (1 - least))
    pairs = raw[kept].reshape(-1, 8, 2) / size
    centres = anchors[kept][:, None]
    pairs[:, :1] += centres
    pairs[:, 2:] += centres
    return pairs, 1 / (1 + np.exp(-logits[kept, 0]))


def blend(pairs: Array, scores: Array, most: float = 0.3) -> Iterator[tuple[Array, float]]:
    """Candidates (n, 8, 2) of one look that overlap the best of them by more than `most` (intersection over
    union) become one, their mean weighted by score; its score is the best one's. Surest first."""
    low, high = pairs[:, 0] - pairs[:, 1] / 2, pairs[:, 0] + pairs[:, 1] / 2
    areas = pairs[:, 1].prod(-1)
    left = np.argsort(-scores, kind="stable")
    while len(left):
        best = left[0]
        common = np.minimum(high[left], high[best]) - np.maximum(low[left], low[best])
        inter = np.maximum(common, 0).prod(-1)
        same = inter > most * (areas[left] + areas[best] - inter)
        same[0] = True
        weights = scores[left[same]]
        yield np.tensordot(weights / weights.sum(), pairs[left[same]], 1), float(scores[best])
        left = left[~same]


@dataclass(frozen=True)
class Candidate:
    square: Square  # the detector's box, turned as its eyes say
    score: float


class Detector:
    """One of the two detectors: the candidates in a square of the picture."""

    def __init__(self, name: str, size: int, layers: tuple[tuple[int, int], ...]) -> None:
        self.network, self.size, self.anchors = Network(models.path(name)), size, anchors(size, layers)

    def __call__(self, pyramid: Pyramid, square: Square, least: float) -> list[Candidate]:
        image = pyramid.look(square, self.size).astype(np.float32)
        raw, logits = self.network(image / 127.5 - 1)
        found = []
        for pairs, score in blend(*decode(raw, logits, self.anchors, self.size, least)):
            points = _outside(square, pairs)
            side = float(pairs[1].max()) * square.side
            found.append(
                Candidate(Square(float(points[0, 0]), float(points[0, 1]), side, roll_of(points[2:4])), score)
            )
        return found


# ---------------------------------------------------------------------------------------------------------
# Mesh

# The usual 68 landmarks among the 468 of the mesh, both in their own order: x to the right of the picture.
JAW = (127, 234, 132, 58, 172, 150, 149, 148, 152, 377, 378, 379, 397, 288, 361, 454, 356)
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
MOUTH = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178)
LANDMARKS_68 = (*JAW, *BROWS, *NOSE, *EYES, *MOUTH)
# Pairs of points on both sides of the head, whose connections show where it looks.
SIDES = ((127, 234, 132, 58, 33, 61), (356, 454, 361, 288, 263, 291))


@dataclass(frozen=True)
class Mesh:
    """The 468 landmarks of a face: points (468, 2) of the picture, depth (468,) in its pixels, smaller is
    nearer; logit: how sure the network is of them (a face is there from about 0)."""

    points: NDArray[np.float64]
    depth: NDArray[np.float64]
    logit: float

    @property
    def five(self) -> Array:
        """(5, 2): the points of Face."""
        eyes = self.points[list(EYES)].reshape(2, 6, 2).mean(1)
        return np.concatenate([eyes, self.points[[4, 61, 291]]]).astype(np.float32)

    @property
    def square(self) -> Square:
        """Where to look for this face again: one and a half times as large as the mesh, turned as its eyes."""
        roll = roll_of(self.five)
        left, top, right, bottom = upright_box(self.points, roll)
        side = 1.5 * max(right - left, bottom - top)
        return Square((left + right) / 2, (top + bottom) / 2, side, roll)

    @property
    def yaw(self) -> float:
        """Degrees to the right of the upright picture: how far the lines across the head turn away from us."""
        lines = self.points[list(SIDES[1])] - self.points[list(SIDES[0])]
        across = np.hypot(lines[:, 0], lines[:, 1]).sum()
        deep = (self.depth[list(SIDES[1])] - self.depth[list(SIDES[0])]).sum()
        return math.degrees(math.atan2(deep, across))


class Fitter:
    def __init__(self) -> None:
        self.network = Network(models.path("face_landmark"))

    def __call__(self, pyramid: Pyramid, square: Square) -> Mesh:
        image = pyramid.look(square, 192).astype(np.float32)
        points, logit = self.network(image * (1 / 255))
        points = points.reshape(468, 3) / 192
        return Mesh(_outside(square, points[:, :2]), points[:, 2] * square.side, float(logit.item()))


# ---------------------------------------------------------------------------------------------------------
# Finder


SMALLEST = 24
STAYS = 0.01
SURE = 15.0
LEAST = 3.0
HOPE = -1.0
FIRST=1
CLEAR = 20.0
THRESH=.4
MINF=24.0
DIRECTIONS = (0, 180), (90, -90, 45, -45, 135, -135)


def smallest(width: int, height: int) -> float:
    return max(MINF, 0.9 * math.sqrt(min(width, height)))


def tiles(width: int, height: int, side: float) -> Iterator[Square]:
    """Squares that cover a picture, with neighbours that overlap by a quarter or more."""
    for y in _middles(height, side):
        for x in _middles(width, side):
            yield Square(x, y, side, 0.0)


def _middles(length: int, side: float) -> list[float]:
    if length <= side:
        return [length / 2]
    count = math.ceil((length - side) / (0.75 * side)) + 1
    return list(np.linspace(side / 2, length - side / 2, count).tolist())


def sides(largest: float, least: float) -> list[float]:
    """Sides from `largest` down to `least`, each at least half of the one before."""
    if least * 1.2 >= largest:
        return [largest]
    steps = math.ceil(math.log2(largest / least) - 0.1)
    return [largest * (least / largest) ** (k / steps) for k in range(steps + 1)]


class MediapipeFinder:
    """All faces of a picture, at any roll. Raises Problem where a model file is missing."""

    name = "mediapipe"

    def __init__(self) -> None:
        self.short = Detector("face_detection_short_range", 128, ((8, 2), (16, 6)))
        self.full = Detector("face_detection_full_range_sparse", 192, ((4, 1),))
        self.fit = Fitter()

    def views(self, width: int, height: int):
        """(detector, square), from the coarse to the fine."""
        face = smallest(width, height)
        short = min(width, height)
        out = []
        for detector, top, px in ((self.short, 1.5, 14), (self.full, 1.0, 12)):
            for side in sides(top * short, detector.size / px * face):
                out += [(detector, sq) for sq in tiles(width, height, side)]
        return sorted(out, key=lambda v: -v[1].side)

    def __call__(self, picture: Pixels) -> list[Face]:
        pyramid = Pyramid(picture)
        meshes: list[tuple[Mesh, float]] = []
        self.stats = dict(views=0, cands=0, fits=0)
        for detector, square in self.views(pyramid.width, pyramid.height):
            if any(_covers(mesh.square, square) for mesh, _ in meshes):
                continue
            self.stats['views'] += 1
            for candidate in detector(pyramid, square, THRESH):
                if any(_within(mesh.square, candidate.square) for mesh, _ in meshes):
                    continue
                self.stats['cands'] += 1
                found = self.settle(pyramid, candidate.square)
                if found is None:
                    continue
                mesh, score = found
                meshes = [m for m in meshes if not _same(m[0].square, mesh.square)] + [max([m for m in meshes if _same(m[0].square, mesh.square)]+[(mesh, score)], key=lambda m: m[0].logit)]
        return sorted((self.face(mesh, score) for mesh, score in meshes), key=lambda f: -f.score)

    def starts(self, pyramid, square):
        for rolls in DIRECTIONS:
            starts=[]
            for roll in rolls:
                self.stats['fits'] += 1
                m = self.fit(pyramid, Square(square.x, square.y, 1.5 * square.side, square.roll + roll))
                if m.logit >= CLEAR:
                    yield m
                else: starts.append(m)
            yield from sorted((m for m in starts if m.logit >= HOPE), key=lambda m: -m.logit)

    def settle(self, pyramid, square):
        found = []
        for start in self.starts(pyramid, square):
                mesh = self.refine(pyramid, start, FIRST) if start.logit < CLEAR else start
                again = self.look_again(pyramid, mesh.square)
                if again is None: continue
                mesh = self.refine(pyramid, self.fit(pyramid, again.square._replace(side=1.5*again.square.side)), 8)
                self.stats['fits'] += 1
                if mesh.logit < LEAST: continue
                if mesh.logit >= SURE:
                    return mesh, again.score
                found.append((mesh, again.score))
        return max(found, key=lambda m: m[0].logit, default=None)

    def refine(self, pyramid, mesh, n):
        for _ in range(n):
            if mesh.logit < -4:
                break
            self.stats['fits'] += 1
            old = mesh.square
            mesh = self.fit(pyramid, old)
            new = mesh.square
            if abs((new.roll-old.roll+180)%360-180) < .5 and math.hypot(new.x-old.x, new.y-old.y) < STAYS*old.side and abs(new.side-old.side) < 2*STAYS*old.side:
                break
        return mesh

    def look_again(self, pyramid, sq):
        c = self.short(pyramid, sq._replace(side=1.3*sq.side), .5)
        c = [x for x in c if math.hypot(x.square.x-sq.x, x.square.y-sq.y) < .25*sq.side]
        return max(c, key=lambda x: x.score, default=None)

    def face(self, mesh, score):
        five = mesh.five
        roll = roll_of(five)
        return Face(upright_box(mesh.points[list(LANDMARKS_68)], roll), roll, five, score, self.name, mesh.yaw, 1/(1+math.exp(-mesh.logit)))


def _covers(face, view):
    return math.hypot(face.x-view.x, face.y-view.y) + view.side*.7071 < .5*face.side


def _within(face, c):
    return math.hypot(face.x-c.x, face.y-c.y) < .3*face.side


def _same(a, b):
    return math.hypot(a.x-b.x, a.y-b.y) < .25*max(a.side, b.side)

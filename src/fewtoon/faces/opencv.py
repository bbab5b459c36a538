"""Finders that OpenCV 4 runs: YuNet and cascades from the user's files, and a Haar cascade inside OpenCV.

Each takes a picture of any size (looked at in bounded parts) and faces of any roll (turned looks where the
upright one shows nothing), and gives boxes in the convention of Face. The constants between a finder's own box
and ours were measured on 100 portraits against the mesh of 468 landmarks, and on drawings; see each class.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, distinct, overlap, roll_of, turn
from fewtoon.io.files import printable

Pixels = NDArray[np.uint8]

LONGEST = 1280  # pixels: larger pictures are looked at smaller, strips in pieces
MARGIN = (
    0.15  # of the longer side, around the picture: faces that fill it are found (71 % of avataaars, not 41 %)
)
NARROWEST = 16  # pixels; in a narrower picture there is no face
TURNS = tuple(range(-150, 181, 30))  # degrees of roll: cascades see what is upright within about 20
TURNED = 320  # pixels of the longer side, for turned looks
SURE = 0.45  # score that a face in a turned look must have: twelve looks make twelve times the mistakes
MAX_BYTES = 64 << 20  # of a detector's file: YuNet has 0.2 MB, cascades about 1 MB


def _cv2() -> Any:
    """OpenCV, without its own words on stderr: what is wrong with a file is said in one sentence, by us."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


# ---------------------------------------------------------------------------------------------------------
# Pictures of any size, faces of any roll


def _parts(picture: Pixels) -> Iterator[tuple[Pixels, float, int, int]]:
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
        yield _resized(part, scale), scale, x, y


def _resized(picture: Pixels, scale: float) -> Pixels:
    if scale == 1:
        return picture
    height, width = picture.shape[:2]
    cv2 = _cv2()
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _cut(
    picture: Pixels, centre: tuple[float, float], roll: float, step: float, size: tuple[int, int]
) -> tuple[Pixels, NDArray[np.float64]]:
    """A look at the picture around `centre`, turned so that a face with `roll` stands upright: `size` (width,
    height) pixels, each as large as `step` of the picture; and the (2, 3) matrix from points (x, y, 1) of the
    look to points of the picture. Outside the picture, its nearest pixel."""
    cv2 = _cv2()
    if step > 2:  # far away: made smaller first, or it would flicker
        small = _resized(picture, 1 / step)
        ratio = picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]
        near = centre[0] / ratio[0], centre[1] / ratio[1]
        canvas, matrix = _cut(small, near, roll, 1.0, size)
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


def _look(picture: Pixels, roll: float, detect: Callable[[Pixels], list[Face]]) -> list[Face]:
    """What `detect` finds when the picture is turned back by `roll`, with a margin, as faces of the picture."""
    height, width = picture.shape[:2]
    cos, sin = abs(math.cos(math.radians(roll))), abs(math.sin(math.radians(roll)))
    margin = 2 * MARGIN * max(height, width)
    size = round(width * cos + height * sin + margin), round(width * sin + height * cos + margin)
    canvas, matrix = _cut(picture, (width / 2, height / 2), roll, 1.0, size)
    return [_placed_back(face, roll, matrix) for face in detect(canvas)]


def _placed_back(face: Face, roll: float, matrix: NDArray[np.float64]) -> Face:
    x, y = matrix @ (*face.centre, 1.0)
    step = float(np.hypot(*matrix[:, 0]))
    width, height = step * face.width / 2, step * face.height / 2
    points = face.points
    if points is not None:
        points = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    box = (float(x - width), float(y - height), float(x + width), float(y + height))
    return replace(face, box=box, points=points, roll=_within_half_turn(face.roll + roll))


def _within_half_turn(degrees: float) -> float:
    """The same angle in (-180, 180]."""
    return 180.0 - (180.0 - degrees) % 360.0


def _search(picture: Pixels, detect: Callable[[Pixels], list[Face]]) -> list[Face]:
    """All faces that `detect` finds in the parts of a picture, each once."""
    parts = _parts(picture)
    return distinct(
        face.placed(1 / scale).placed(1, x, y) for part, scale, x, y in parts for face in detect(part)
    )


# ---------------------------------------------------------------------------------------------------------
# Files


def _content(path: str | Path, what: str) -> bytes:
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


class _PerThread:
    """Something made once in every thread that asks for it: OpenCV's detectors keep state while they look."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._local = make, threading.local()

    def __call__(self) -> Any:
        if not hasattr(self._local, "made"):
            self._local.made = self._make()
        return self._local.made


# ---------------------------------------------------------------------------------------------------------
# YuNet


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
        content = _content(path, self.WHAT)
        self.identity = f"yunet {hashlib.sha256(content).hexdigest()}"
        model = np.frombuffer(content, np.uint8)
        empty = np.zeros(0, np.uint8)
        cv2 = _cv2()
        self._detector = _PerThread(
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
        return _search(picture, self._part)

    def _part(self, picture: Pixels) -> list[Face]:
        found = distinct(_look(picture, 0.0, self._detect))
        return distinct(self._settled(picture, face) for face in found)

    def _detect(self, canvas: Pixels) -> list[Face]:
        """Where faces are, of any roll: here the points, and so our box, would be right for upright ones alone."""
        rows = self._rows(canvas)
        scale = self.SMALL / max(canvas.shape[:2])
        if scale < 0.5:
            small = self._rows(_resized(canvas, scale))
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
            moved, best = _within_half_turn(look.roll - best.roll), look
            if abs(moved) < 1:
                break
        return best

    def _closer(self, picture: Pixels, face: Face, roll: float) -> Face | None:
        """The surest face around the place of `face` in a look turned by `roll`."""
        step = self.ABOUT * max(face.width, face.height) / self.CLOSE
        canvas, matrix = _cut(picture, face.centre, roll, step, (self.CLOSE, self.CLOSE))
        middle, reach = (self.CLOSE / 2, self.CLOSE / 2), 0.5 * self.CLOSE / self.ABOUT
        near = [found for found in self._faces(canvas) if math.dist(found.centre, middle) < reach]
        return _placed_back(max(near, key=lambda found: found.score), roll, matrix) if near else None

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


# ---------------------------------------------------------------------------------------------------------
# Cascades


_reading = threading.Lock()  # the tables of a file are shared, and OpenCV does not say that they may be


class Cascade:
    """A boosted cascade (Viola and Jones, CVPR 2001) from the bytes of its XML file: frontal faces of one roll.

    box: left, top, right, bottom of our box within the square that it finds, from 0 to 1
    Raises ValueError with a few words for a file that is not one or would make OpenCV read beyond its tables.
    """

    STEP = 1.1  # from one size of faces to the next

    def __init__(self, content: bytes, box: Box, neighbours: int) -> None:
        self.box, self.neighbours = box, neighbours
        cv2 = _cv2()
        try:
            self._storage = cv2.FileStorage(
                content.decode("utf-8"), cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY
            )
            node = self._storage.getFirstTopLevelNode()
            self.side, self.threshold = _checked(node)
            self._classifier = _PerThread(lambda: self._made(node))
            self._classifier()
        except (cv2.error, SystemError, UnicodeDecodeError):
            raise ValueError("it is no XML or YAML that OpenCV wrote") from None

    def _made(self, node: Any) -> Any:
        classifier = _cv2().CascadeClassifier()
        with _reading:
            if not classifier.read(node) or classifier.empty():
                raise ValueError("OpenCV does not take it for a cascade")
        return classifier

    def __call__(self, grey: Pixels, name: str, least: float) -> list[Face]:
        """Faces of (H, W) grey, from `least` of its longer side on. Their score grows with the margin by which
        the last stage was passed."""
        smallest = max(self.side, round(least * max(grey.shape)))
        boxes, _, weights = self._classifier().detectMultiScale3(
            grey, self.STEP, self.neighbours, 0, (smallest, smallest), outputRejectLevels=True
        )
        left, top, right, bottom = self.box
        found = []
        for (x, y, side, _), weight in zip(
            np.reshape(boxes, (-1, 4)).tolist(), np.ravel(weights).tolist(), strict=True
        ):
            score = 1 - math.exp(-max(weight - self.threshold, 0.01) / 4)
            box = (x + left * side, y + top * side, x + right * side, y + bottom * side)
            found.append(Face(box, score=score, finder=name))
        return found


def _checked(cascade: Any) -> tuple[int, float]:
    """(side of the window in pixels, threshold of the last stage) of an OpenCV cascade in the current format,
    after a look at every index in it: OpenCV itself trusts them. Raises ValueError."""
    if not cascade.isMap() or cascade.getNode("stageType").string() != "BOOST":
        raise ValueError("it holds no cascade in the format of OpenCV 2.4 or later")
    kind = cascade.getNode("featureType").string()
    if kind not in ("HAAR", "LBP"):
        raise ValueError(f"its features are {kind!r}, not HAAR or LBP")
    width, height = cascade.getNode("width").real(), cascade.getNode("height").real()
    if not (8 <= width <= 256 and 8 <= height <= 256):
        raise ValueError(f"its window has {width:g} x {height:g} pixels")
    if cascade.getNode("featureParams").getNode("maxCatCount").real() != (256 if kind == "LBP" else 0):
        raise ValueError("its trees are of another kind than its features")
    features = _items(cascade.getNode("features"))
    for feature in features:
        if kind == "LBP":
            x, y, w, h = _numbers(feature.getNode("rect"), 4)
            inside = min(x, y) >= 0 and min(w, h) > 0 and x + 3 * w <= width and y + 3 * h <= height
        else:
            tilted = feature.getNode("tilted").real() != 0 if "tilted" in feature.keys() else False  # noqa: SIM118
            rects = [_numbers(rect, 5) for rect in _items(feature.getNode("rects"))]
            inside = 1 <= len(rects) <= 3 and all(_inside(rect, width, height, tilted) for rect in rects)
        if not inside:
            raise ValueError("one of its features lies outside of its window")
    step = 4 if kind == "HAAR" else 11
    stages = _items(cascade.getNode("stages"))
    for stage in stages:
        for weak in _items(stage.getNode("weakClassifiers")):
            nodes, leaves = _numbers(weak.getNode("internalNodes")), len(_numbers(weak.getNode("leafValues")))
            count, rest = divmod(len(nodes), step)
            if rest or not count or leaves != count + 1:
                raise ValueError("one of its trees is torn")
            for i in range(count):
                left, right, feature_index = nodes[step * i : step * i + 3]
                children = all(i < child < count or -leaves < child <= 0 for child in (left, right))
                if not children or not 0 <= feature_index < len(features):
                    raise ValueError("one of its trees points nowhere")
    if not stages:
        raise ValueError("it has no stages")
    return int(max(width, height)), float(stages[-1].getNode("stageThreshold").real())


def _items(node: Any) -> list[Any]:
    return [node.at(i) for i in range(node.size())] if node.isSeq() else []


def _numbers(node: Any, count: int | None = None) -> list[float]:
    numbers = [item.real() for item in _items(node)]
    if count is not None and len(numbers) != count:
        raise ValueError("one of its features is torn")
    return numbers


def _inside(rect: Sequence[float], width: float, height: float, tilted: bool) -> bool:
    """Whether a rectangle, or one that is tilted by 45 degrees about its upper corner, lies in the window."""
    x, y, w, h = rect[:4]
    if min(x, y) < 0 or min(w, h) <= 0:
        return False
    if tilted:
        return x - h >= 0 and x + w <= width and y + w + h <= height
    return x + w <= width and y + h <= height


class CascadeFinder:
    """A Haar or LBP cascade from the user's file, such as one for anime faces: boxes; the roll as coarse as the
    looks that were taken. Raises Problem for a file that is none, and under OpenCV 5, which has no cascades.

    Our box within its square: measured with the anime face cascade of nagadomi on lorelei and avataaars.
    """

    name = "cascade"
    BOX = (0.1, 0.2, 0.9, 0.85)

    def __init__(self, path: str | Path, turned: bool = True) -> None:
        what = "a Haar or LBP cascade (XML)"
        content = _content(path, what)
        _need_cascades()
        self.turned = turned
        self.identity = f"cascade {hashlib.sha256(content).hexdigest()} {'any' if turned else 'no'} roll"
        try:
            self._cascade = Cascade(content, self.BOX, neighbours=3)
        except ValueError as error:
            raise Problem(f"{printable(path)!r} is no cascade ({error}); give the file of {what}") from None

    def __call__(self, picture: Pixels) -> list[Face]:
        look = lambda grey, least: self._cascade(_equalised(grey), self.name, least)
        return _in_turn(picture, look, self.turned)


class HaarFinder:
    """The finder that needs no file: the best cascade for frontal faces that is part of OpenCV 4 (by Lienhart).

    Weaker than the others: it finds frontal faces in photos and some drawings, no profiles, and the roll only
    within about 10 degrees. Raises Problem under OpenCV 5, which has no cascades.

    turned: whether faces of any roll are looked for where there is no upright one (slow)

    Our box within its square, measured on 100 portraits: each edge within 2 % (top), 4 % (bottom), 8 % (sides).
    """

    name = "haar"
    FILE = "haarcascade_frontalface_alt2.xml"
    BOX = (0.1, 0.25, 0.93, 1.08)

    def __init__(self, turned: bool = True) -> None:
        content = _content(_need_cascades() / self.FILE, "OpenCV's own cascade")
        self.turned = turned
        self.identity = f"haar {hashlib.sha256(content).hexdigest()} {'any' if turned else 'no'} roll"
        self._cascade = Cascade(content, self.BOX, neighbours=3)

    def __call__(self, picture: Pixels) -> list[Face]:
        look = lambda grey, least: self._cascade(grey, self.name, least)
        return _in_turn(picture, look, self.turned)


Look = Callable[[Pixels, float], list[Face]]  # (grey picture, smallest face as a share of its longer side)


def _in_turn(picture: Pixels, look: Look, turned: bool) -> list[Face]:
    """All upright faces; where none of them is sure, the sure ones of turned looks at a small copy instead."""
    cv2 = _cv2()
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    found = _search(grey, lambda part: _look(part, 0.0, lambda canvas: look(canvas, 1 / 40)))
    if not turned or any(face.score > SURE for face in found):
        return found
    return _search(grey, lambda part: _turned_looks(part, lambda canvas: look(canvas, 1 / 12))) or found


def _turned_looks(part: Pixels, detect: Callable[[Pixels], list[Face]]) -> list[Face]:
    scale = min(1.0, TURNED / max(part.shape))
    small = _resized(part, scale)
    looks = [face for roll in TURNS for face in _look(small, roll, detect)]
    return [_midway(face, looks).placed(1 / scale) for face in distinct(looks, 0.1) if face.score > SURE]


def _midway(face: Face, looks: Sequence[Face]) -> Face:
    """The face with the mean roll of the looks that saw it, weighted by their score: a cascade sees a face of
    more than one roll, most clearly the upright one."""
    same = [look for look in looks if overlap(look.box, face.box) > 0.4]
    x, y = np.sum([np.multiply(turn(1, 0, look.roll), look.score**2) for look in same], 0)
    return replace(face, roll=_within_half_turn(math.degrees(math.atan2(y, x))))


def _equalised(grey: Pixels) -> Pixels:
    return np.asarray(_cv2().equalizeHist(grey))


def _need_cascades() -> Path:
    """The folder of the cascades inside OpenCV. Raises Problem where OpenCV has none."""
    cv2 = _cv2()
    if not hasattr(cv2, "CascadeClassifier") or not hasattr(cv2, "data"):
        raise Problem(
            f"OpenCV {cv2.__version__} has no cascades any more; install opencv-python-headless 4 "
            "('pip install \"opencv-python-headless<5\"'), or run 'fewtoon models fetch' and use the finder mediapipe"
        )
    return Path(cv2.data.haarcascades)

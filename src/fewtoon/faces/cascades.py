"""Cascades run by OpenCV 4: from a file of the user, and the Haar cascade inside OpenCV, which needs no file.

Boxes are given in the convention of Face; the constants between the finder's own box and ours were measured on
100 portraits against the mesh of 468 landmarks, and on drawings.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, distinct, overlap, turn
from fewtoon.faces.opencv import (
    PerThread,
    Pixels,
    content_of,
    quiet_cv2,
    resized,
    search,
    turned_look,
    within_half_turn,
)
from fewtoon.io.files import printable

TURNS = tuple(range(-150, 181, 30))  # degrees of roll: cascades see what is upright within about 20
TURNED = 320  # pixels of the longer side, for turned looks
SURE = 0.45  # score that a face in a turned look must have: twelve looks make twelve times the mistakes

_reading = threading.Lock()  # the tables of a file are shared, and OpenCV does not say that they may be


class Cascade:
    """A boosted cascade (Viola and Jones, CVPR 2001) from the bytes of its XML file: frontal faces of one roll.

    box: left, top, right, bottom of our box within the square that it finds, from 0 to 1
    Raises ValueError with a few words for a file that is not one or would make OpenCV read beyond its tables.
    """

    STEP = 1.1  # from one size of faces to the next

    def __init__(self, content: bytes, box: Box, neighbours: int) -> None:
        self.box, self.neighbours = box, neighbours
        cv2 = quiet_cv2()
        try:
            self._storage = cv2.FileStorage(
                content.decode("utf-8"), cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY
            )
            node = self._storage.getFirstTopLevelNode()
            self.side, self.threshold = _checked(node)
            self._classifier = PerThread(lambda: self._made(node))
            self._classifier()
        except (cv2.error, SystemError, UnicodeDecodeError):
            raise ValueError("it is no XML or YAML that OpenCV wrote") from None

    def _made(self, node: Any) -> Any:
        classifier = quiet_cv2().CascadeClassifier()
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
        content = content_of(path, what)
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
        content = content_of(_need_cascades() / self.FILE, "OpenCV's own cascade")
        self.turned = turned
        self.identity = f"haar {hashlib.sha256(content).hexdigest()} {'any' if turned else 'no'} roll"
        self._cascade = Cascade(content, self.BOX, neighbours=3)

    def __call__(self, picture: Pixels) -> list[Face]:
        look = lambda grey, least: self._cascade(grey, self.name, least)
        return _in_turn(picture, look, self.turned)


Look = Callable[[Pixels, float], list[Face]]  # (grey picture, smallest face as a share of its longer side)


def _in_turn(picture: Pixels, look: Look, turned: bool) -> list[Face]:
    """All upright faces; where none of them is sure, the sure ones of turned looks at a small copy instead."""
    cv2 = quiet_cv2()
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    found = search(grey, lambda part: turned_look(part, 0.0, lambda canvas: look(canvas, 1 / 40)))
    if not turned or any(face.score > SURE for face in found):
        return found
    return search(grey, lambda part: _turned_looks(part, lambda canvas: look(canvas, 1 / 12))) or found


def _turned_looks(part: Pixels, detect: Callable[[Pixels], list[Face]]) -> list[Face]:
    scale = min(1.0, TURNED / max(part.shape))
    small = resized(part, scale)
    looks = [face for roll in TURNS for face in turned_look(small, roll, detect)]
    return [_midway(face, looks).placed(1 / scale) for face in distinct(looks, 0.1) if face.score > SURE]


def _midway(face: Face, looks: Sequence[Face]) -> Face:
    """The face with the mean roll of the looks that saw it, weighted by their score: a cascade sees a face of
    more than one roll, most clearly the upright one."""
    same = [look for look in looks if overlap(look.box, face.box) > 0.4]
    x, y = np.sum([np.multiply(turn(1, 0, look.roll), look.score**2) for look in same], 0)
    return replace(face, roll=within_half_turn(math.degrees(math.atan2(y, x))))


def _equalised(grey: Pixels) -> Pixels:
    return np.asarray(quiet_cv2().equalizeHist(grey))


def _need_cascades() -> Path:
    """The folder of the cascades inside OpenCV. Raises Problem where OpenCV has none."""
    cv2 = quiet_cv2()
    if not hasattr(cv2, "CascadeClassifier") or not hasattr(cv2, "data"):
        raise Problem(
            f"OpenCV {cv2.__version__} has no cascades any more; install opencv-python-headless 4 "
            "('pip install \"opencv-python-headless<5\"'), or run 'fewtoon models fetch' and use the finder mediapipe"
        )
    return Path(cv2.data.haarcascades)

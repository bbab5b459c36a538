"""Where the faces of the pictures may be, found in the background while a person marks.

Two threads: one asks the finder, picture by picture, the one on the screen first; the other learns from the
pictures that are finished whenever there is enough more of them, and what it learned is asked beside the
finder for those that are not.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewtoon.data.marks import Mark, check_inside
from fewtoon.faces.face import Face, Finder, overlap
from fewtoon.io import images
from fewtoon.io.images import BadPicture, Found

Learn = Callable[[list[tuple[NDArray[np.uint8], list[Face]]]], Finder]

ENOUGH = 5  # marked boxes before there is something to learn from
GROWTH = 1.4  # times as many before it is learned again
LEARN_PIXELS = 40_000_000  # of the pictures that are learned from: what a small machine holds
LONG = 2.0  # times as long as the other side: a strip, looked at panel by panel
MOST = 200  # proposals for one picture
SAME = 0.3  # overlap above which two proposals are one


@dataclass
class _Known:
    """What is known of one picture."""

    found: list[Face] | None = None  # by the finder; None: not asked yet
    learned: list[Face] | None = None  # by what was learned
    learned_round: int = 0  # which time of learning that was
    reason: str | None = None  # why the picture cannot be used


class Proposals:
    """Proposals for each of `found`, by index.

    finished: gives the marked faces of each finished picture
    finder: asked for every picture; None: the best finder of drawings there is on this machine
    learn: makes a finder from finished pictures; None: the one of `fewtoon.faces.learned`
    Nothing is done before `start`.
    """

    def __init__(
        self,
        found: Sequence[Found],
        finished: Callable[[], Mapping[int, list[Face]]],
        finder: Finder | None = None,
        learn: Learn | None = None,
    ) -> None:
        self._found, self._finished, self._finder, self._learn = found, finished, finder, learn
        self._known = [_Known() for _ in found]
        self._changed = threading.Condition()
        self._stopped = False
        self._current = 0
        self._learned: Finder | None = None
        self._round = 0  # how often it was learned
        self._boxes = 0  # from how many boxes
        self._message = ""  # why there is no finder, or what went wrong
        self._threads: list[threading.Thread] = []

    # What the page asks

    def start(self) -> None:
        """Begin; to call it again does nothing."""
        with self._changed:
            if self._threads or self._stopped:
                return
            self._threads = [
                threading.Thread(target=work, name=f"fewtoon {work.__name__}", daemon=True)
                for work in (self._search, self._study)
            ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads, after what they are at: to leave one in the midst of it would crash at the exit."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=1)
        if any(thread.is_alive() for thread in self._threads):
            print("fewtoon: everything is saved; a few seconds for what is being learned", file=sys.stderr)
        for thread in self._threads:
            thread.join()

    def look_at(self, index: int) -> None:
        """The picture that is on the screen: it comes next, and is not finished before another one is."""
        with self._changed:
            self._current = index
            self._changed.notify_all()

    def marked(self) -> None:
        """Somebody marked something: perhaps there is enough to learn from."""
        with self._changed:
            self._changed.notify_all()

    def of(self, index: int) -> list[Face] | None:
        """The proposals for a picture, the surest first; None: not known yet."""
        with self._changed:
            known = self._known[index]
            if known.found is None and known.learned is None:
                return None
            # Scores of two finders cannot be compared: what was learned from these very drawings goes first.
            kept = list(known.learned or [])
            for face in known.found or []:
                if all(overlap(face.box, other.box) <= SAME for other in kept):
                    kept.append(face)
            return kept[:MOST]

    def some(self, index: int) -> bool:
        """Whether there are proposals for a picture."""
        return bool(self._known[index].found or self._known[index].learned)

    def reason(self, index: int) -> str | None:
        """Why a picture cannot be used; None where it can, or nobody looked yet."""
        return self._known[index].reason

    def refuse(self, index: int, reason: str) -> None:
        """Note that a picture cannot be used."""
        self._known[index].reason = reason

    @property
    def learned_from(self) -> int:
        """The number of boxes behind what was learned; 0: nothing was learned yet."""
        return self._boxes

    @property
    def round(self) -> int:
        """How often it was learned: proposals of another round may be others."""
        return self._round

    @property
    def message(self) -> str:
        """What a person should know about the finder; "" where there is nothing."""
        return self._message

    # The two threads

    def _search(self) -> None:
        self._load()
        while True:
            with self._changed:
                while not self._stopped and (task := self._next()) is None:
                    self._changed.wait()
                if self._stopped or task is None:
                    return
            self._work(*task)

    def _load(self) -> None:
        if self._finder is not None:
            return
        try:
            from fewtoon.faces import finders, models

            self._finder = finders.default("drawings")
            self._message = "" if models.available() else finders.without_models_note()
        except Exception as error:  # without one, faces are still marked, and learned from
            self._tell(f"no proposals before some faces are marked: {error}")

    def _next(self) -> tuple[int, Finder, int] | None:
        """(picture, finder, round): what to do next; round 0: ask the finder itself."""
        finished = set(self._finished()) - {self._current}
        count = len(self._found)
        for step in range(count):
            index = (self._current + step) % count
            known = self._known[index]
            if known.reason is not None or index in finished:
                continue
            if self._learned is not None and known.learned_round < self._round:
                return index, self._learned, self._round
            if self._finder is not None and known.found is None:
                return index, self._finder, 0
        return None

    def _work(self, index: int, finder: Finder, learned_round: int) -> None:
        known = self._known[index]
        faces: list[Face] = []
        try:
            faces = faces_of(images.read(self._found[index].path), finder)
        except BadPicture as bad:
            known.reason = bad.reason
        except Exception as error:  # one picture that a finder stumbles over must not end all proposals
            self._tell(f"{finder.name} failed on {self._found[index].name}: {error}")
        with self._changed:
            if learned_round:
                known.learned, known.learned_round = faces, learned_round
            else:
                known.found = faces

    def _study(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not self._enough(finished := self._ready()):
                    self._changed.wait()
                if self._stopped:
                    return
            boxes = sum(map(len, finished.values()))
            learned = self._learn_from(finished)
            with self._changed:
                self._boxes = boxes
                if learned is not None:
                    self._learned = learned
                    self._round += 1
                self._changed.notify_all()

    def _ready(self) -> dict[int, list[Face]]:
        return {index: faces for index, faces in self._finished().items() if index != self._current}

    def _enough(self, finished: Mapping[int, list[Face]]) -> bool:
        return sum(map(len, finished.values())) >= max(ENOUGH, GROWTH * self._boxes)

    def _learn_from(self, finished: Mapping[int, list[Face]]) -> Finder | None:
        examples: list[tuple[NDArray[np.uint8], list[Face]]] = []
        pixels = 0
        # By chance, always the same, so that no chapter is left out; those with faces first.
        order = np.random.default_rng(0).permutation(sorted(finished)).tolist()
        for index in sorted(order, key=lambda index: not finished[index]):
            name = self._found[index].name
            try:
                picture = images.read(self._found[index].path)
                height, width = picture.shape[:2]
                for face in finished[index]:
                    check_inside(Mark(name, face.box), width, height)
            except BadPicture:  # or a box that was written by hand, and wrongly: the page says so
                continue
            pixels += height * width
            if examples and pixels > LEARN_PIXELS:
                break
            examples.append((picture, list(finished[index])))
        try:
            return (self._learn or _default_learn())(examples)
        except Exception as error:
            self._tell(f"nothing could be learned from the marked boxes: {error}")
            return None

    def _tell(self, message: str) -> None:
        if message != self._message:
            print(f"fewtoon: {message}", file=sys.stderr)
        self._message = message


def _default_learn() -> Learn:
    from fewtoon.faces.learned import learn

    return learn


def faces_of(picture: NDArray[np.uint8], finder: Finder) -> list[Face]:
    """The faces of a picture by a finder; a strip is looked at panel by panel."""
    height, width = picture.shape[:2]
    if max(height, width) <= LONG * min(height, width):
        return finder(picture)
    from fewtoon.faces.panels import find_in_panels

    return find_in_panels(finder, picture)

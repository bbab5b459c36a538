"""A folder of pictures on the desk of somebody who marks their faces, and its table on the disk.

The table may be edited by hand at the same time, or from a second page: before every change it is looked at
again, and a change of a picture whose rows are no longer those that the page had seen is refused.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewtoon.data.marks import COLUMNS, NAME, SIDES, Mark, Marks, check_inside, checked
from fewtoon.errors import Problem
from fewtoon.faces.face import Face
from fewtoon.io import images
from fewtoon.io.files import printable, stamp
from fewtoon.io.images import BadPicture

MOST_FACES = 1000  # of one picture
MOST_GROUPS = 200


class Conflict(Exception):
    """The rows of a picture are not those that the page had seen."""


class Desk:
    """A folder of pictures, and its table.

    Raises Problem when there is no such folder, no picture in it, or its table cannot be meant.
    """

    def __init__(self, folder: str | Path, groups: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise Problem(f"{printable(folder)!r} is not a folder: give the folder that holds the pictures")
        self.found, self.refused = images.find([self.folder])
        if not self.found:
            raise Problem(f"folder {printable(folder)!r} holds no pictures ({', '.join(images.FORMATS)})")
        if not os.access(self.folder, os.W_OK):
            raise Problem(
                f"folder {printable(folder)!r} cannot be written to, and {NAME} is kept there: allow it"
            )
        self.table = self.folder / NAME
        self.index = {file.name: index for index, file in enumerate(self.found)}
        self._lock = threading.Lock()
        self._stamp: str | None = None  # of the table, when it was read
        self._marks = Marks()  # never changed, only replaced: whoever got it may go on reading
        self._faces: tuple[Marks, dict[int, list[Face]]] = self._marks, {}  # of these marks; never changed
        for group in groups:
            _check_group(group)
        folders = sorted({file.folder for file in self.found if file.folder is not None})
        self.groups = list(dict.fromkeys([*groups, *self.marks().groups, *filter(_can_be_group, folders)]))

    def marks(self) -> Marks:
        """The table as it is on the disk now. Raises Problem when it cannot be meant."""
        with self._lock:
            return self._read()

    def _read(self) -> Marks:
        now = stamp(self.table)
        if now != self._stamp:
            missing = now == "0" and not self.table.exists()
            marks = Marks() if missing else Marks.read(self.table)
            self._marks, self._stamp = marks.settled(self.index), now
        return self._marks

    def save(self, index: int, version: str, faces: list[Mark] | None) -> str:
        """Replace the rows of a picture and write the table; returns their new version.
        Raises Conflict when `version` is not that of the rows on the disk, Problem when they cannot be."""
        name = self.found[index].name
        with self._lock:
            marks = self._read().copy()
            if version_of(marks.of(name)) != version:
                raise Conflict
            marks.set(name, faces)
            marks.write(self.table)
            self._marks, self._stamp = marks, stamp(self.table)
            return version_of(marks.of(name))

    def add_group(self, name: str) -> None:
        """Offer one more group. Raises Problem for a name that no group can have."""
        _check_group(name)
        with self._lock:
            if name not in self.groups:
                if len(self.groups) >= MOST_GROUPS:
                    raise Problem(
                        f"there are {MOST_GROUPS} groups already: write {name!r} into {NAME} by hand"
                    )
                self.groups.append(name)

    def finished(self) -> dict[int, list[Face]]:
        """The marked faces of each picture that was marked; what was last known, where the table is being
        edited and cannot be read."""
        try:
            marks = self.marks()
        except Problem:
            marks = self._marks
        known, faces = self._faces
        if known is not marks:
            in_list = {self.index[file]: marks.of(file) or [] for file in marks.files if file in self.index}
            faces = {index: [mark.face() for mark in of_one] for index, of_one in in_list.items()}
            self._faces = marks, faces
        return faces


def _check_group(name: str) -> None:
    """Raises Problem for a name that no group can have."""
    try:
        checked(Mark("group", (0, 0, 1, 1), group=name))
    except Problem as problem:
        raise Problem(str(problem).removeprefix("group: ")) from None


def _can_be_group(name: str) -> bool:
    try:
        _check_group(name)
    except Problem:
        return False
    return True


def version_of(rows: list[Mark] | None) -> str:
    """Changes whenever the rows of a picture do."""
    if rows is not None:  # a column that is empty here may be there only for other rows
        rows = [replace(mark, extra=tuple(pair for pair in mark.extra if pair[1])) for mark in rows]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------------
# Boxes as JSON: {box: [left, top, right, bottom], roll, group, extra}


def entry_of(mark: Mark) -> dict[str, Any]:
    return {"box": mark.box, "roll": mark.roll, "group": mark.group, "extra": mark.extra}


def proposal_of(face: Face) -> dict[str, Any]:
    box = [round(float(value), 1) for value in face.box]
    return {"box": box, "roll": round(face.roll, 1), "score": round(face.score, 3), "finder": face.finder}


def marks_of(name: str, boxes: Any) -> list[Mark] | None:
    """The rows that a page wants for a picture. Raises Problem for what the table cannot hold."""
    if boxes is None:
        return None
    if not isinstance(boxes, list) or len(boxes) > MOST_FACES:
        raise Problem(f"boxes must be a list of at most {MOST_FACES}")
    try:
        faces = [_face(name, entry) for entry in boxes]
        Marks().set(name, faces)
    except Problem as problem:
        raise Problem(str(problem).removeprefix(f"{name}: ")) from None
    return faces


def _face(name: str, entry: Any) -> Mark:
    if not isinstance(entry, dict):
        raise Problem("a box is an object with the keys box, roll, group, extra")
    box, roll, group = entry.get("box"), entry.get("roll") or 0, entry.get("group") or None
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, [*box, roll])):
        raise Problem(f"a box needs {', '.join(SIDES)} and roll as numbers")
    if not isinstance(group, (str, type(None))):
        raise Problem("the name of a group is a text")
    left, top, right, bottom = (float(value) for value in box)
    return checked(
        Mark(name, (left, top, right, bottom), float(roll), group, _extra(entry.get("extra") or []))
    )


def _extra(pairs: Any) -> tuple[tuple[str, str], ...]:
    """The columns of the reader's own, which the page gives back as it got them."""
    fine = isinstance(pairs, list) and all(
        isinstance(pair, list)
        and [type(part) for part in pair] == [str, str]
        and pair[0] not in ("", *COLUMNS)
        for pair in pairs
    )
    if not fine:
        raise Problem("the other columns are pairs of a name and a text")
    return tuple((name, text) for name, text in pairs)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def outside(marks: list[Mark], width: int, height: int) -> list[str]:
    """What is wrong with boxes that somebody wrote by hand."""
    notes = []
    for mark in marks:
        try:
            check_inside(mark, width, height)
        except BadPicture as bad:
            notes.append(bad.reason)
    return notes

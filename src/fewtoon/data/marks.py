"""The boxes and groups that a person decided, in one table that can be edited by hand and wins over any finder.

    file,left,top,right,bottom,roll,group
    page1.png,120,80.5,220,198,0,anna
    page1.png,410,96,498.5,190,-12,ben
    page2.png,,,,,,

One row per face; a row without a box says: looked at, there is no face here. The box is the one of
`fewtoon.faces.face.Face` (brows to chin, ear to ear, pixels of the upright picture), roll is in degrees
clockwise. Columns of the reader's own are kept. A JSON list of objects with the same keys is read as well.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewtoon.data.labels import RESERVED
from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, overlap
from fewtoon.io.files import printable, write_bytes
from fewtoon.io.images import BadPicture

NAME = "faces.csv"  # what `fewtoon mark DIR` keeps in DIR
SIDES = ("left", "top", "right", "bottom")
COLUMNS = ("file", *SIDES, "roll", "group")
MAX_BYTES = 50_000_000  # of the table: a million faces
FARTHEST = 1_000_000  # pixels from the corner of a picture; no picture is as large
SAME_FACE = 0.8  # overlap above which two rows are about one face
LONGEST_GROUP = 100  # characters
Extra = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Mark:
    """What one row says of one picture.

    file: its name below the marked folder, "/" between folders
    box: (left, top, right, bottom) as in Face, to 0.1 px; None: a person says there is no face
    roll: degrees clockwise, in (-180, 180], to 0.1
    group: None: not decided here
    extra: the other columns of the row, (name, value)
    """

    file: str
    box: Box | None
    roll: float = 0.0
    group: str | None = None
    extra: Extra = ()

    def face(self) -> Face:
        """The face in the box. Raises Problem where a person says there is none."""
        if self.box is None:
            raise Problem(f"{self.file}: it is marked as having no face; give the row a box")
        return Face(self.box, self.roll, finder="marked")


class Marks:
    """The rows of a table, by the file that they are about.

    strict: a row is only about the picture that has exactly its name; otherwise a row `x.png` is also about
        `a/x.png`, as in the CSVs of groups
    """

    def __init__(self, marks: Iterable[Mark] = (), *, strict: bool = False) -> None:
        self.strict = strict
        self._of: dict[str, list[Mark]] = {}
        by_file: dict[str, list[Mark]] = {}
        for mark in marks:
            by_file.setdefault(mark.file, []).append(mark)
        for file, rows in by_file.items():
            self.set(file, rows)

    def __len__(self) -> int:
        """How many faces there are."""
        return sum(mark.box is not None for mark in self.rows())

    @property
    def files(self) -> list[str]:
        """The names of the files that were marked, sorted."""
        return sorted(self._of)

    @property
    def groups(self) -> list[str]:
        """The sorted distinct groups."""
        return sorted({mark.group for mark in self.rows() if mark.group is not None})

    @property
    def identity(self) -> str:
        """sha256 (hex) of what is decided: files, boxes, rolls and groups; not of the order of the rows, nor
        of the columns that are not ours."""
        rows = [replace(mark, extra=()) for mark in self.rows()]
        return hashlib.sha256(_csv(rows).encode()).hexdigest()

    def rows(self) -> Iterator[Mark]:
        """Every row, sorted by file, top and left."""
        for file in self.files:
            yield from self._of[file]

    def of(self, file: str) -> list[Mark] | None:
        """The faces of a picture; []: a person says there is none; None: it was not marked."""
        rows = self._of.get(file)
        if rows is None and not self.strict:
            rows = self._of.get(file.rsplit("/", 1)[-1])
        return None if rows is None else [mark for mark in rows if mark.box is not None]

    def set(self, file: str, marks: Sequence[Mark] | None) -> None:
        """Say what there is in a picture: its faces, [] for none, None for "not marked".
        Raises Problem when the marks are not fit for the table (see `checked`) or are two of one face."""
        if marks is None:
            self._of.pop(file, None)
            return
        rows = sorted((checked(replace(mark, file=file)) for mark in marks), key=_order)
        faces = [mark for mark in rows if mark.box is not None]
        if faces and len(faces) < len(rows):
            raise Problem(f"{file}: a row with a box and one that says there is no face: keep one of them")
        for first, second in _twins(faces):
            raise Problem(
                f"{file}: two boxes for one face, {_words(faces[first])} and {_words(faces[second])}: delete one"
            )
        self._of[file] = faces or rows[:1] or [Mark(file, None)]

    def copy(self) -> Marks:
        """The same marks; to change one of the two does not change the other."""
        result = Marks(strict=self.strict)
        result._of = dict(self._of)
        return result

    def settled(self, names: Collection[str]) -> Marks:
        """These marks under the full names of the pictures, and strict from now on.

        names: of the pictures that were found. A row that names one of them exactly is about that one alone;
        any other is about every picture with that last part, or stays as it is where there is none.
        """
        known = set(names)
        by_last: dict[str, list[str]] = {}
        for name in sorted(known):
            by_last.setdefault(name.rsplit("/", 1)[-1], []).append(name)
        result = Marks(strict=True)
        for file in self.files:
            meant = [name for name in by_last.get(file, []) if name not in self._of]
            for name in [file] if file in known else meant or [file]:
                result.set(name, self._of[file])
        return result

    def unknown(self, names: Collection[str]) -> list[str]:
        """The files of the table that are none of the pictures found, sorted."""
        known = set(names) | (set() if self.strict else {name.rsplit("/", 1)[-1] for name in names})
        return [file for file in self.files if file not in known]

    @classmethod
    def read(cls, path: str | Path) -> Marks:
        """The table in a CSV or (by its suffix) JSON file.
        Raises Problem, with the line where it is known, for everything that can be wrong with it."""
        rows = _from_json(path) if Path(path).suffix.lower() == ".json" else _from_csv(path)
        marks: dict[str, list[tuple[str, Mark]]] = {}
        for where, values in rows:
            mark = _mark(where, values)
            marks.setdefault(mark.file, []).append((where, mark))
        result = cls()
        for file, placed in marks.items():
            _check_together(placed)
            result.set(file, [mark for _, mark in placed])
        return result

    def write(self, path: str | Path) -> None:
        """Write the table, CSV or (by its suffix) JSON, whole or not at all. Raises Problem when it cannot be
        written."""
        text = _json(self.rows()) if Path(path).suffix.lower() == ".json" else _csv(self.rows())
        write_bytes(path, text.encode("utf-8"))


def checked(mark: Mark) -> Mark:
    """The mark as the table can hold it: rounded, with its roll in (-180, 180].
    Raises Problem: not a number, an empty or upside-down box, far outside, a group that cannot be one."""
    if not mark.file.strip() or not mark.file.isprintable():
        raise Problem(f"no picture can have the name {mark.file!r}: give its name below the folder")
    _check_group(mark)
    if mark.box is None:
        if mark.group is not None:
            raise Problem(
                f"{mark.file}: the group {mark.group!r} has no box: give the face that belongs to it"
            )
        return replace(mark, roll=0.0)
    for name, value in zip((*SIDES, "roll"), (*mark.box, mark.roll)):
        if not math.isfinite(value):
            raise Problem(f"{mark.file}: {name} is {value}, not a number: give pixels, such as 120.5")
        if abs(value) > FARTHEST:
            raise Problem(f"{mark.file}: {name} is {value:g}, farther than any picture reaches: correct it")
    left, top, right, bottom = (round(float(value), 1) + 0.0 for value in mark.box)  # + 0: no minus zero
    if right <= left or bottom <= top:
        wrong = f"right {right:g} <= left {left:g}" if right <= left else f"bottom {bottom:g} <= top {top:g}"
        raise Problem(f"{mark.file}: the box has {wrong}: columns are {','.join(SIDES)}")
    roll = round(math.remainder(mark.roll, 360.0), 1) + 0.0  # remainder is in [-180, 180]
    return replace(mark, box=(left, top, right, bottom), roll=180.0 if roll == -180.0 else roll)


def check_inside(mark: Mark, width: int, height: int) -> None:
    """Raises BadPicture unless at least half of the box lies in its picture of width x height pixels."""
    if mark.box is None:
        return
    left, top, right, bottom = mark.box
    seen = max(0.0, min(right, width) - max(left, 0.0)) * max(0.0, min(bottom, height) - max(top, 0.0))
    if seen < 0.5 * (right - left) * (bottom - top):
        how_far = "mostly " if seen else ""
        raise BadPicture(
            mark.file,
            f"the marked box {_words(mark)} lies {how_far}outside its {width} x {height} pixels: correct the row",
        )


def _check_group(mark: Mark) -> None:
    group = mark.group
    if group is None:
        return
    if group in RESERVED:
        raise Problem(
            f"{mark.file}: no group can be called {group!r}, a row of every report: choose another name"
        )
    if not group.strip() or group != group.strip() or len(group) > LONGEST_GROUP or not group.isprintable():
        raise Problem(
            f"{mark.file}: no group can be called {group[:LONGEST_GROUP]!r}: give one line of 1 to "
            f"{LONGEST_GROUP} characters"
        )


def _twins(marks: Sequence[Mark]) -> Iterator[tuple[int, int]]:
    """The pairs of indices, the smaller first, whose boxes are about one face."""
    boxes = [(mark.box, index) for index, mark in enumerate(marks) if mark.box is not None]
    boxes.sort()
    for place, (box, index) in enumerate(boxes):
        for other, second in boxes[place + 1 :]:  # by their left side: only those that begin inside this one
            if other[0] >= box[2]:
                break
            if overlap(box, other) > SAME_FACE:
                yield min(index, second), max(index, second)


def _order(mark: Mark) -> tuple[float, float, Box, str]:
    box = mark.box or (0.0, 0.0, 0.0, 0.0)
    return box[1], box[0], box, mark.group or ""


def _words(mark: Mark) -> str:
    return "(" + ", ".join(_number(value) for value in mark.box or ()) + ")"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# ---------------------------------------------------------------------------------------------------------
# Reading: rows are (where it stands, for people; values by column, "" where empty)

Placed = tuple[str, dict[str, str]]


def _check_together(placed: list[tuple[str, Mark]]) -> None:
    """Raises Problem where rows about one file do not go together, and says which ones."""
    boxes = [(where, mark) for where, mark in placed if mark.box is not None]
    empty = [where for where, mark in placed if mark.box is None]
    if boxes and empty:
        raise Problem(
            f"{empty[0]}: {placed[0][1].file!r} has no face by this row, but a box in {_line(boxes[0][0])}: keep one"
        )
    for first, second in _twins([mark for _, mark in boxes]):
        raise Problem(
            f"{boxes[second][0]}: {boxes[second][1].file!r} has a second row for the face in "
            f"{_line(boxes[first][0])} (boxes {_words(boxes[first][1])} and {_words(boxes[second][1])}): delete one"
        )


def _line(where: str) -> str:
    return where.rsplit(", ", 1)[-1]


def _mark(where: str, values: dict[str, str]) -> Mark:
    """The mark in one row. Raises Problem that begins with `where`."""
    file = values["file"].removeprefix("./")
    given = [name for name in SIDES if values[name]]
    if given and len(given) < 4:
        lacking = next(name for name in SIDES if not values[name])
        raise Problem(f"{where}: the box has no {lacking}: give all four sides, or none for 'no face'")
    sides = [_float(where, name, values[name]) for name in given]
    roll = _float(where, "roll", values.get("roll") or "0")
    extra = tuple((name, value) for name, value in values.items() if name not in COLUMNS)
    box = (sides[0], sides[1], sides[2], sides[3]) if sides else None
    try:
        return checked(Mark(file, box, roll, values.get("group") or None, extra))
    except Problem as problem:
        raise Problem(f"{where}: {problem}") from None


def _float(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Problem(f"{where}: {name} is {text[:40]!r}, not a number: give it as 120 or 120.5")
    return value


def _text(path: str | Path) -> str:
    """The text of a table. Raises Problem when it cannot be read, is too large, or is not UTF-8."""
    name = repr(printable(path))
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Problem(f"{name} is not a file: give a table with the columns {','.join(COLUMNS)}")
        if status.st_size > MAX_BYTES:
            raise Problem(
                f"{name} has {status.st_size // 10**6} MB, more than the {MAX_BYTES // 10**6} MB of any table of faces"
            )
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(f"{name} is not UTF-8 text (byte {error.start}): save it as CSV in UTF-8") from None
    except (OSError, ValueError) as error:
        raise Problem(
            f"{name} cannot be read ({getattr(error, 'strerror', None) or error}): give a CSV file"
        ) from None
    if "\0" in text:
        raise Problem(f"{name} holds null characters: save it as CSV in UTF-8")
    return text


def _from_csv(path: str | Path) -> Iterator[Placed]:
    text, name = _text(path), repr(printable(path))
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)  # spreadsheets write what the country is used to
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        missing = [column for column in ("file", *SIDES) if column not in header]
        if missing:
            raise Problem(
                f"{name}, line 1: no column {missing[0]!r}; the first line must name {','.join(COLUMNS)}"
            )
        twice = [column for column in header if header.count(column) > 1]
        if twice:
            raise Problem(f"{name}, line 1: two columns {twice[0]!r}: rename one")
        for cells in reader:
            where = f"{name}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise Problem(
                    f"{where}: {len(cells)} values for {len(header)} columns: put quotes around a comma in a name"
                )
            values = dict(zip(header, cells + [""] * (len(header) - len(cells))))
            # All but the file: the name of a picture may well end in a space.
            yield where, {key: values[key] if key == "file" else values[key].strip() for key in values if key}
    except csv.Error as error:
        raise Problem(f"{name}, line {reader.line_num}: {error}: correct the quotes of that line") from None


def _from_json(path: str | Path) -> Iterator[Placed]:
    name = repr(printable(path))
    try:
        entries = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise Problem(f"{name} cannot be read as JSON ({error}): correct it or use CSV") from None
    if not isinstance(entries, list):
        raise Problem(
            f"{name} holds {type(entries).__name__}, not a list of objects with {','.join(COLUMNS)}"
        )
    for number, entry in enumerate(entries, start=1):
        where = f"{name}, entry {number}"
        if not isinstance(entry, dict):
            raise Problem(
                f"{where}: {json.dumps(entry)[:40]} is not an object with the keys {','.join(COLUMNS)}"
            )
        if "file" not in entry:
            raise Problem(f"{where}: no key 'file'; the keys are {','.join(COLUMNS)}")
        yield where, dict.fromkeys(SIDES, "") | {_cell(key): _cell(entry[key]) for key in entry}


def _cell(value: Any) -> str:
    """A value of JSON as the cell of a table would have it."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # JSON can hold halves of characters


# ---------------------------------------------------------------------------------------------------------
# Writing


def _cells(mark: Mark) -> dict[str, str]:
    sides = ["", "", "", "", ""] if mark.box is None else [_number(v) for v in (*mark.box, mark.roll)]
    return dict(zip(COLUMNS, (mark.file, *sides, mark.group or ""))) | dict(mark.extra)


def _csv(marks: Iterable[Mark]) -> str:
    rows = [_cells(mark) for mark in marks]
    columns = list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(marks: Iterable[Mark]) -> str:
    def entry(mark: Mark) -> dict[str, Any]:
        sides = dict(zip(SIDES, mark.box or (None,) * 4))
        return {"file": mark.file, **sides, "roll": mark.roll, "group": mark.group, **dict(mark.extra)}

    lines = [json.dumps(entry(mark), ensure_ascii=False) for mark in marks]
    return "[\n " + ",\n ".join(lines) + "\n]\n" if lines else "[]\n"

"""What is known of the faces that went into a pack so far, in the order of the pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewtoon.data.doctor import Duplicate, Refusal, Small
from fewtoon.data.pack import Row, Split
from fewtoon.data.reader import Prepared, Read
from fewtoon.data.sources import Source
from fewtoon.io.images import BadPicture, Refused


class Collector:
    """Takes what was read, picture by picture; the caller writes the squares that `take` returns."""

    def __init__(self, refused: list[Refused], note: str | None, size: int, keep_duplicates: bool) -> None:
        self.note, self.size, self.keep_duplicates = note, size, keep_duplicates
        self.sources: list[Source] = []
        self.refused = [Refusal(file=entry.name, reason=entry.reason) for entry in refused]
        self.rows: list[Row] = []
        self.pixels: list[str] = []  # sha256 of each row's square
        self.decided: list[Split | None] = []
        self.duplicates: list[Duplicate] = []
        self.upscaled: list[Small] = []
        self.blank: list[str] = []
        self._first: dict[str, int] = {}  # sha256 of a square -> its first row

    def take(self, read: Read, group: str | None, split: Split | None) -> list[np.ndarray]:
        """The squares (S, S, 3) of one picture that go into the pack."""
        self.sources.append(read.source)
        self.refused += [Refusal(file=read.source.name, reason=reason) for reason in read.left_out]
        if isinstance(read.faces, BadPicture):
            self.refused.append(Refusal(file=read.source.name, reason=read.faces.reason))
            return []
        return [
            face.cutout.pixels
            for face in read.faces
            if self._take_face(face, read.source, face.group or group, split)
        ]

    def _take_face(self, face: Prepared, source: Source, group: str | None, split: Split | None) -> bool:
        twin = self._first.setdefault(face.pixels, len(self.rows))
        if twin < len(self.rows):
            other = self.rows[twin]
            duplicate = Duplicate(
                file=source.name,
                same_as=other.file,
                dropped=not self.keep_duplicates,
                group=group,
                group_of_other=other.group,
            )
            self.duplicates.append(duplicate)
            if duplicate.dropped:
                self.decided[twin] = self.decided[twin] or split
                return False
        row = Row(file=source.name, sha256=source.sha256 or "", group=group, note=self.note, **_facts(face))
        self.rows.append(row)
        self.pixels.append(face.pixels)
        self.decided.append(split)
        width, height = face.cutout.native
        if min(width, height) < self.size:
            self.upscaled.append(Small(file=row.file, width=width, height=height))
        if face.blank:
            self.blank.append(row.file)
        return True


def _facts(prepared: Prepared) -> dict[str, Any]:
    """What a row says of a face that was found: hundredths of pixels and degrees are enough."""
    face, at = prepared.cutout.face, prepared.cutout.at
    if face is None or at is None:
        return {}
    points = (
        None if face.points is None else [tuple(round(float(v), 2) for v in point) for point in face.points]
    )
    return {
        "box": tuple(round(value, 2) for value in face.box),
        "roll": round(face.roll, 2),
        "landmarks": points,
        "finder": face.finder,
        "score": round(face.score, 4),
        "yaw": None if face.yaw is None else round(face.yaw, 1),
        "side": round(at.side, 2),
        "upscaled": prepared.cutout.upscaled,
    }

"""What becomes of one picture file on its way into a pack. Called by several threads at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from dataclasses import dataclass

import numpy as np

from fewtoon.data import doctor
from fewtoon.data.marks import Marks, check_inside
from fewtoon.data.pack import digest
from fewtoon.data.sources import Source
from fewtoon.faces.cutter import Cutout, Cutter
from fewtoon.faces.face import Face
from fewtoon.io import images
from fewtoon.io.images import BadPicture, Found

NO_FACE = "no face was found in it: draw a box with 'fewtoon mark', or try another detector with --find"
MARKED_EMPTY = "it was marked as a picture without a face"


@dataclass(frozen=True)
class Prepared:
    """One face, ready for the pack."""

    cutout: Cutout
    pixels: str  # sha256 of the square
    blank: bool
    group: str | None  # from the marked boxes; None: nothing was said there


@dataclass(frozen=True)
class Read:
    """One file: its faces, or why there are none; and why some of them were left out."""

    source: Source
    faces: list[Prepared] | BadPicture
    left_out: list[str]


class Reader:
    """cutter: how faces are found and framed. marks: boxes that go before the finder's. only_largest: take one
    face per picture. smallest: faces whose square has a smaller side, in pixels of the picture, are left out."""

    def __init__(
        self, cutter: Cutter, marks: Marks | None = None, only_largest: bool = False, smallest: float = 0
    ) -> None:
        self.cutter, self.marks, self.only_largest, self.smallest = cutter, marks, only_largest, smallest

    def __call__(self, file: Found) -> Read:
        sha: str | None = None
        length, mtime = -1, -1
        left_out: list[str] = []
        try:
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(file.path)
                length, mtime = status.st_size, status.st_mtime_ns
            content = images.read_bytes(file.path)
            sha = hashlib.sha256(content).hexdigest()
            picture = images.read(io.BytesIO(content), draft=self.cutter.draft)
            faces: list[Prepared] | BadPicture = self._faces(file, picture, left_out)
        except BadPicture as bad:
            faces = bad
        return Read(Source(file.name, length, mtime, sha), faces, left_out)

    def _faces(self, file: Found, picture: np.ndarray, left_out: list[str]) -> list[Prepared]:
        """Raises BadPicture when nothing of the picture can be used; adds to `left_out` why a face cannot."""
        if self.cutter.kind == "as-is":
            group = self._group_of_all(file)
            return [self._ready(cutout, group) for cutout in self.cutter.cut(picture, [])]
        faces = self._grouped(file, picture)
        if not faces:
            raise BadPicture(file.name, NO_FACE)
        if self.only_largest:
            faces = [max(faces, key=lambda one: one[0].area)]
        ready = []
        for face, group in sorted(faces, key=lambda one: one[0].centre):  # from left to right
            (cutout,) = self.cutter.cut(picture, [face])
            if min(cutout.native) < self.smallest:
                left_out.append(
                    f"a face framed by {cutout.native[0]} px is below the smallest that is taken, "
                    f"{self.smallest:.0f} px"
                )
            else:
                ready.append(self._ready(cutout, group))
        if not ready:
            raise BadPicture(file.name, f"{left_out.pop()} (change it with --smallest)")
        return ready

    def _group_of_all(self, file: Found) -> str | None:
        """The group that was marked for every face of a picture that is taken as it is; None where they differ."""
        marked = None if self.marks is None else self.marks.of(file.name)
        if marked is not None and not marked:
            raise BadPicture(file.name, MARKED_EMPTY)
        groups = {mark.group for mark in marked or []}
        return groups.pop() if len(groups) == 1 else None

    def _grouped(self, file: Found, picture: np.ndarray) -> list[tuple[Face, str | None]]:
        """The faces, and the group that was marked for each: what a person said goes before the finder."""
        marked = None if self.marks is None else self.marks.of(file.name)
        if marked is None:
            return [(face, None) for face in self.cutter.find(picture)]
        if not marked:
            raise BadPicture(file.name, MARKED_EMPTY)
        height, width = picture.shape[:2]
        for mark in marked:
            check_inside(mark, width, height)
        return [(mark.face(), mark.group) for mark in marked]

    def _ready(self, cutout: Cutout, group: str | None) -> Prepared:
        # A 32 x 32 sample is plenty to tell a blank sheet from a picture.
        step = max(1, self.cutter.size // 32)
        blank = bool(cutout.pixels[::step, ::step].std() < doctor.BLANK)
        return Prepared(cutout, digest(cutout.pixels), blank, group)

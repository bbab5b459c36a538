"""What a finding is, and what the rules of the checkup look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fewtoon.data import doctor, twins
from fewtoon.data.measures import Measures
from fewtoon.data.pack import Pack
from fewtoon.data.twins import Twin
from fewtoon.errors import Problem

Severity = Literal["serious", "look", "note"]  # mend it before training; look at it; good to know


class Item(BaseModel):
    """One picture of a finding, or two that belong together."""

    file: str
    row: int | None = None  # index in the pack; None: the file is not in it
    value: float | None = None  # what was measured
    words: str = ""  # the same for people
    other_file: str | None = None
    other_row: int | None = None


class Finding(BaseModel):
    """Something to know about a pack, or about two; `headline`, `why` and `remedy` are for people."""

    kind: str
    severity: Severity
    headline: str
    why: str
    remedy: str
    group: str | None = None
    value: float | None = None
    items: list[Item] = []


@dataclass(frozen=True)
class Seen:
    """A pack and what was measured of its pictures."""

    pack: Pack
    measures: Measures

    @property
    def thing(self) -> str:
        return "photo" if self.pack.side == "photos" else "drawing"

    @cached_property
    def report(self) -> doctor.Report | None:
        """What `prepare` wrote; None for a pack in memory, or when the file was lost."""
        try:
            return doctor.read_report(self.pack.path) if self.pack.path else None
        except Problem:
            return None

    @property
    def blank(self) -> NDArray[np.bool_]:
        return self.measures.spread < doctor.BLANK

    @cached_property
    def sides(self) -> NDArray[np.float64]:
        """(N,) the side of what each picture was made from, in pixels; infinite where it was large enough or
        nobody knows."""
        small = self.report.upscaled if self.report else []
        enlarged = {entry.file: float(min(entry.width, entry.height)) for entry in small}
        rows = self.pack.rows
        return np.array([enlarged.get(row.file, np.inf) if row.side is None else row.side for row in rows])

    @cached_property
    def twins(self) -> list[Twin]:
        found = twins.find(self.measures.grey, self.measures.colour)
        return [twin for twin in found if not (self.blank[twin.first] or self.blank[twin.second])]

    def items(
        self, chosen: NDArray[np.bool_], values: NDArray[Any], words: str, largest_first: bool = False
    ) -> list[Item]:
        """The chosen rows in the order of their values; `words` holds {} for the value."""
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(-values[rows] if largest_first else values[rows], kind="stable")]
        return [
            Item(
                file=self.pack.rows[row].file,
                row=int(row),
                value=round(float(values[row]), 3),
                words=words.format(float(values[row])),
            )
            for row in rows
        ]


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def are(number: int, thing: str) -> str:
    """ "1 photo is", "3 photos are"."""
    return f"{count(number, thing)} {'is' if number == 1 else 'are'}"

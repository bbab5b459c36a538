"""Attributes: does the drawing of a person with glasses have glasses, and does nobody else's?

The group of a photo says what its drawing must show; two judges, trained on the artist's labelled drawings and
on nothing else, say what it shows. No style is trained against them. How often they are right about drawings
that they have not learned from is the ceiling of every figure; below `ENOUGH`, there is no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.data.attributes import Attribute, attributes_of, read_table
from fewtoon.data.pack import Pack
from fewtoon.data.suggest import wilson
from fewtoon.io.images import resize_square
from fewtoon.nets.judge import SIDE, Judge, pictures, train_judges

ENOUGH = 0.9  # accuracy below which a reader's word counts for nothing
FEW = 5  # drawings below which its accuracy cannot be told
Groups = Sequence[str | None]


@dataclass(frozen=True)
class Verdict:
    """What the first judge read of one attribute in one drawing.

    photo: which of the pictures that were judged
    wanted: the value that the photo has, by name
    probability: of that value in the drawing, by the first judge; second: by the second one
    right: the first judge reads that value
    told: the same in a few words, for a caption
    """

    photo: int
    attribute: str
    wanted: str
    probability: float
    second: float
    right: bool
    told: str


@dataclass(frozen=True)
class Verdicts:
    """All verdicts, the worst first; of the attributes that the first judge is fit to read."""

    all: tuple[Verdict, ...]

    def worst(self, attribute: str, count: int) -> list[tuple[int, str]]:
        """(which picture, what is said of it) of those that are furthest from what they should show."""
        found = [verdict for verdict in self.all if verdict.attribute == attribute]
        return [(verdict.photo, verdict.told) for verdict in found[:count]]


@dataclass(frozen=True)
class Reading:
    """The probabilities (M, A) that each judge gives to value 1 of each attribute in M drawings."""

    judges: Judges
    groups: Groups
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def scores(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{"all" or GROUP: {attribute: entry}} over the drawings of photos whose group has a value.

        kept, lost: shares of those who have it, or of everybody where it is one of two kinds; invented: share
            of those who have it not, None of two kinds. None where there are none of them, or no figure.
        interval: Wilson's, 95 %, of kept, or of invented where nobody has it; invented_interval. [low, high],
            or [None, None]
        n_with, n_without: drawings that should show value 1, and value 0
        reader_accuracy: of the first judge on drawings that it had not seen: over all the mean of its shares
            of right answers for both values, for a group the share in that group
        note: None, or why there is no figure
        second: the second judge's {"kept", "lost", "invented", "reader_accuracy", "note"}
        agreement: share of the drawings that both read alike; None where one of them gives no figure
        """
        names = ["all", *sorted({group for group in self.groups if group is not None})]
        found = {
            name: {a.name: self._entry(a, column, name) for column, a in enumerate(self.judges.attributes)}
            for name in names
        }
        return {
            name: {k: entry for k, entry in entries.items() if entry is not None}
            for name, entries in found.items()
        }

    def _entry(self, attribute: Attribute, column: int, name: str) -> dict[str, Any] | None:
        rows, wanted = _wanted(attribute, self.groups, name)
        if not len(rows):
            return None
        reads = [read[rows, column] >= 0.5 for read in (self.first, self.second)]
        marks = [
            {"reader_accuracy": accuracy, "note": note, **_shares(attribute, read, wanted, note)}
            for read, (accuracy, note) in zip(reads, self.judges.fitness(attribute.name, name))
        ]
        first, second = marks
        kept, invented = first.pop("intervals")
        second.pop("intervals")
        fit = first["note"] is None and second["note"] is None
        return {
            **first,
            "interval": invented if first["kept"] is None else kept,
            "invented_interval": invented,
            "n_with": int(wanted.sum()),
            "n_without": int((~wanted).sum()),
            "second": second,
            "agreement": float((reads[0] == reads[1]).mean()) if fit else None,
        }

    def verdicts(self) -> Verdicts:
        found = []
        for column, attribute in enumerate(self.judges.attributes):
            if self.judges.fitness(attribute.name, "all")[0][1] is None:
                rows, wanted = _wanted(attribute, self.groups, "all")
                for row, value in zip(rows, wanted):
                    seen = [float(read[row, column]) for read in (self.first, self.second)]
                    found.append(_verdict(int(row), attribute, int(value), *seen))
        return Verdicts(tuple(sorted(found, key=lambda verdict: verdict.probability)))


@dataclass(frozen=True)
class Judges:
    """Two trained judges, and how far they can be trusted.

    attributes: what they read, in the order of their columns
    counts: {group: drawings that they learned from}
    judges: the two; () where there is nothing to read
    accuracy: for each judge {attribute: {"all" or GROUP: share, None of fewer than FEW drawings}}
    """

    attributes: tuple[Attribute, ...]
    counts: Mapping[str, int]
    judges: tuple[Judge, ...]
    accuracy: tuple[Mapping[str, Mapping[str, float | None]], ...]
    seed: int

    @classmethod
    def of(
        cls, images: NDArray[np.uint8], groups: Groups, attributes: Sequence[Attribute], seed: int = 0
    ) -> Judges:
        """Train them on drawings (N, S, S, 3) uint8 RGB; those whose group lacks a value are left out."""
        rows = _labelled(groups, attributes)
        return cls._trained(pictures(images, rows), [groups[row] for row in rows], attributes, seed)

    @classmethod
    def of_pack(
        cls,
        drawings: Pack,
        attributes: str | Path | Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        size: int = SIDE,
        others: Sequence[str] = (),
    ) -> Judges:
        """Train them on the training drawings of a pack.

        attributes: a table as `fewtoon.data.attributes` describes it, or its file; None: by the groups' names
        size: of the pictures that are to be judged, in pixels
        others: groups that the table may also name
        The last result is remembered: the same call costs nothing the second time. Raises Problem for a
        table that does not fit.
        """
        train = drawings.where("train")
        groups = [drawings.rows[row].group for row in train]
        found = attributes_in(drawings, attributes, others)
        size = min(size, SIDE)
        key = (drawings.hash, drawings.size, repr(found), seed, size)
        if key not in _remembered:
            rows = _labelled(groups, found)
            if size < min(SIDE, drawings.size):  # blurred as the others are
                small = np.stack([resize_square(image, size) for image in drawings.images[train[rows]]])
                seen = pictures(small)
            else:
                seen = pictures(drawings.images, train[rows])
            judges = cls._trained(seen, [groups[row] for row in rows], found, seed)
            _remembered.clear()
            _remembered[key] = judges
        return _remembered[key]

    @classmethod
    def _trained(cls, known: Any, groups: Groups, attributes: Sequence[Attribute], seed: int) -> Judges:
        names, numbers = np.unique([str(group) for group in groups], return_inverse=True)
        counts = {str(name): int((numbers == i).sum()) for i, name in enumerate(names)}
        if not attributes or not len(groups):
            return cls((), counts, (), (), seed)
        labels = np.array([[a.of[str(group)] for a in attributes] for group in groups])
        judges = train_judges(known, labels, numbers, seed)
        accuracy = tuple(
            {
                a.name: _accuracy(judge.unseen[:, column], labels[:, column], groups)
                for column, a in enumerate(attributes)
            }
            for judge in judges
        )
        return cls(tuple(attributes), counts, judges, accuracy, seed)

    def read(self, fakes: NDArray[np.uint8], groups: Groups) -> Reading:
        """What they see in drawings (M, S, S, 3) uint8 RGB of photos of these groups."""
        first, second = (judge.probabilities(fakes) for judge in self.judges)
        return Reading(self, groups, first, second)

    def score(self, fakes: NDArray[np.uint8], groups: Groups) -> dict[str, dict[str, dict[str, Any]]]:
        """`Reading.scores` of these drawings."""
        return self.read(fakes, groups).scores()

    def fitness(self, attribute: str, name: str) -> list[tuple[float | None, str | None]]:
        """For each judge its accuracy on the drawings of a group or of all, and why its word does not count
        there, None where it does."""
        found = []
        for accuracy in self.accuracy:
            share, note = accuracy[attribute].get(name), None
            if share is None and name == "all":
                note = f"fewer than {FEW} drawings have one of the values: too few to check the reader"
            elif share is None:
                note = f"{self.counts.get(name, 0)} drawings of {name}: too few to check the reader on them"
            elif share < ENOUGH:
                note = f"the reader is right about {share:.0%} of real drawings, below {ENOUGH:.0%}"
            found.append((share, note))
        return found

    def facts(self) -> dict[str, Any]:
        """What the readers were, for the protocol."""
        return {
            "values": {
                a.name: {"values": list(a.values), "presence": a.presence, "groups": dict(a.of)}
                for a in self.attributes
            },
            "readers": [
                {"kind": judge.kind, "accuracy": {name: dict(of) for name, of in accuracy.items()}}
                for judge, accuracy in zip(self.judges, self.accuracy)
            ],
            "drawings": dict(self.counts),
            "n_drawings": sum(self.counts.values()),
            "seed": self.seed,
            "refused_below": ENOUGH,
            "interval": "Wilson 1927, 95 %",
        }


_remembered: dict[tuple, Judges] = {}


def attributes_in(
    drawings: Pack, attributes: str | Path | Mapping[str, Any] | None = None, others: Sequence[str] = ()
) -> list[Attribute]:
    """The attributes that the training drawings of a pack show both values of. Arguments and Problems are those
    of `Judges.of_pack`."""
    groups = {drawings.rows[row].group for row in drawings.where("train")}
    table = read_table(attributes) if isinstance(attributes, (str, Path)) else attributes
    return attributes_of([group for group in groups if group is not None], table, [*drawings.groups, *others])


def _labelled(groups: Groups, attributes: Sequence[Attribute]) -> NDArray[np.int64]:
    """Rows whose group has a value of every attribute."""
    return np.array([i for i, g in enumerate(groups) if all(g in a.of for a in attributes)], dtype=np.int64)


def _wanted(attribute: Attribute, groups: Groups, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows of "all" or a group in which the attribute has a value, and whether that is value 1."""
    rows = [i for i, g in enumerate(groups) if g in attribute.of and name in ("all", g)]
    return np.array(rows, dtype=np.int64), np.array(
        [attribute.of[str(groups[i])] == 1 for i in rows], dtype=bool
    )


def _accuracy(unseen: NDArray[np.float64], values: NDArray, groups: Groups) -> dict[str, float | None]:
    """Of the probabilities (N,) of value 1, judged by models that had not seen the drawings."""
    checked = np.isfinite(unseen)
    right = (unseen >= 0.5) == (values == 1)

    def share(rows: NDArray[np.bool_]) -> float | None:
        rows = rows & checked
        return float(right[rows].mean()) if rows.sum() >= FEW else None

    of_values = [share(values == value) for value in (0, 1)]
    both = [one for one in of_values if one is not None]
    names = np.array([str(group) for group in groups])
    return {
        "all": sum(both) / 2 if len(both) == 2 else None,
        **{str(name): share(names == name) for name in np.unique(names)},
    }


def _shares(
    attribute: Attribute, read: NDArray[np.bool_], wanted: NDArray[np.bool_], note: str | None
) -> dict[str, Any]:
    """kept, lost, invented, and the intervals of kept and of invented."""
    if attribute.presence:
        kept, low_high = _share(read[wanted], note)
        invented, between = _share(read[~wanted], note)
    else:
        kept, low_high = _share(read == wanted, note)
        invented, between = None, [None, None]
    return {
        "kept": kept,
        "lost": None if kept is None else 1.0 - kept,
        "invented": invented,
        "intervals": (low_high, between),
    }


def _share(yes: NDArray[np.bool_], note: str | None) -> tuple[float | None, list[float | None]]:
    if note is not None or not len(yes):
        return None, [None, None]
    return float(yes.mean()), list(wilson(int(yes.sum()), len(yes)))


def _verdict(photo: int, attribute: Attribute, value: int, first: float, second: float) -> Verdict:
    probability, other = (first, second) if value else (1 - first, 1 - second)
    right = (first >= 0.5) == bool(value)
    name, wanted = attribute.name, attribute.values[value]
    if attribute.presence:
        told = {(1, True): "kept", (1, False): "lost", (0, True): "not invented", (0, False): "invented"}
        said = f"{name} {told[value, right]} (read {first:.2f})"
    else:
        read = wanted if right else attribute.values[1 - value]
        said = f"{read} drawn for {wanted} ({wanted} read {probability:.2f})"
    return Verdict(photo, name, wanted, probability, other, right, said)

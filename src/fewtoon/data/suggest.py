"""Groups by suggestion: a reader learns from the pictures that have a group and proposes one for the others.

Never silently: with every proposal comes its probability, and with all of them how often such a reader was
right about labelled pictures that it had not seen. The CSV is for people to look through; what they let stand
in its column `group` goes back into `fewtoon prepare --groups CSV`.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.data.marks import Mark, Marks
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.io.files import write_bytes

FEW = 5  # labelled pictures of a group; below that neither learning nor validating means anything
SURE = 0.95  # the probability from which on a proposal is called sure
WEAK = 0.9  # a group recognised less often than this is named in the verdict
NAMED = 3  # groups that the verdict names at most

Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupAccuracy:
    """How well one group is recognised, in cross-validation.

    right: of the `labelled` pictures of this group, how many were read as such; accuracy is the share, with
        its 95 % interval
    said: how many pictures were read as this group; precision: the share of them that are, None without any
    mistaken_for: the group that its pictures are most often taken for instead; None without mistakes
    """

    group: str
    labelled: int
    right: int
    accuracy: float
    interval: Interval
    said: int
    precision: float | None
    mistaken_for: str | None


@dataclass(frozen=True)
class Suggestions:
    """Proposals, and how far to trust them; of N pictures and C groups.

    names: (N) file names; groups: (N) as they were given, None where there was none
    known: (C) the groups, in the order of the columns
    proposed, probability: (N) the most probable group. For a picture with a group: what readers say that have
        not seen it, so a proposal that differs from the group and is sure hints at a wrong label.
    probabilities: (N, C)
    confusion: (C, C) counts in cross-validation, rows: the group given, columns: the group read
    accuracy: share of the labelled pictures read rightly, with its 95 % interval
    balanced_accuracy: mean of the accuracies of all groups; guessing gives 1 / C. Its interval likewise.
    largest: share of the largest group: the accuracy of always naming that one
    boxes: (N) left, top, right, bottom, roll of faces where several are of one file; else None
    """

    names: list[str]
    groups: list[str | None]
    known: list[str]
    proposed: list[str]
    probability: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    confusion: NDArray[np.int64]
    accuracy: float
    interval: Interval
    balanced_accuracy: float
    balanced_interval: Interval
    largest: float
    per_group: list[GroupAccuracy]
    folds: int
    seed: int
    boxes: list[tuple[float, float, float, float, float]] | None = None

    @property
    def learned(self) -> bool:
        """Whether the reader is better than guessing, beyond doubt."""
        return self.balanced_interval[0] > 1 / len(self.known)

    @property
    def unlabelled(self) -> NDArray[np.int64]:
        """Indices of the pictures without a group."""
        return np.array([i for i, group in enumerate(self.groups) if group is None], dtype=np.int64)

    @property
    def doubtful(self) -> list[int]:
        """Labelled pictures that surely look like another group, the surest first: are their labels right?"""
        found = [
            i
            for i, group in enumerate(self.groups)
            if group is not None and self.proposed[i] != group and self.probability[i] >= SURE
        ]
        return sorted(found, key=lambda i: -self.probability[i])

    def trusted(self, accept: float) -> tuple[int, int, int]:
        """How many unlabelled pictures have a proposal of probability `accept` or more; and of the labelled
        pictures with such a reading, how many there are and how many of these were read rightly."""
        sure = self.probability >= accept
        tested = [i for i, group in enumerate(self.groups) if group is not None and sure[i]]
        right = sum(self.proposed[i] == self.groups[i] for i in tested)
        return int(sure[self.unlabelled].sum()), len(tested), right

    @property
    def verdict(self) -> str:
        """What to think of the proposals, in a few plain sentences."""
        return _verdict(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the names and boxes as plain values: figures first, then the proposals."""
        return {
            "verdict": self.verdict,
            "learned": self.learned,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "balanced_accuracy": self.balanced_accuracy,
            "balanced_interval": list(self.balanced_interval),
            "largest": self.largest,
            "groups": [asdict(group) | {"interval": list(group.interval)} for group in self.per_group],
            "confusion": self.confusion.tolist(),
            "folds": self.folds,
            "seed": self.seed,
            "labelled": len(self.names) - len(self.unlabelled),
            "unlabelled": len(self.unlabelled),
            "doubtful": [self.names[i] for i in self.doubtful],
            "suggestions": [
                {
                    "file": self.names[i],
                    "suggested": self.proposed[i],
                    "probability": round(float(self.probability[i]), 4),
                }
                for i in self.unlabelled
            ],
        }

    def text(self) -> str:
        """The verdict and the table of confusions, for people."""
        from fewtoon.data.doctor import columns

        head = ("group", *self.known, "right", "95 %")
        rows = [head]
        for group, counts in zip(self.per_group, self.confusion):
            rows.append((group.group, *map(str, counts), _percent(group.accuracy), _range(group.interval)))
        table = "\n".join(columns(rows))
        return f"{self.verdict}\n\ngroup given (rows) and read (columns), {self.folds} folds\n{table}"

    def write_csv(self, path: str | Path, *, accept: float | None = None) -> int:
        """Write file,group,suggested,probability for every picture, whole or not at all.

        `group` is empty where there was none, unless the proposal has a probability of `accept` or more. Of
        faces that share a file the boxes are written too: that is a table for `prepare --faces`, any other is
        one for `prepare --groups`. Returns how many groups were filled in.
        Raises Problem for `accept` outside (0, 1], or with a reader that has learned nothing, and when the
        file cannot be written.
        """
        if accept is not None and not 0 < accept <= 1:
            raise Problem(f"accept {accept}: give a probability above 0 and up to 1, such as 0.95")
        if accept is not None and not self.learned:
            raise Problem(f"nothing is accepted, because {self.verdict}")
        groups = list(self.groups)
        for i in self.unlabelled:
            if accept is not None and self.probability[i] >= accept:
                groups[i] = self.proposed[i]
        reading = [(f"{p:.4f}", name) for p, name in zip(self.probability, self.proposed)]
        if self.boxes is not None:
            extras = [(("suggested", name), ("probability", p)) for p, name in reading]
            Marks(
                Mark(file, box[:4], box[4], group, extra)
                for file, box, group, extra in zip(self.names, self.boxes, groups, extras)
            ).write(path)
        else:
            text = io.StringIO(newline="")
            table = csv.writer(text, lineterminator="\n")
            table.writerow(("file", "group", "suggested", "probability"))
            for file, group, (p, name) in zip(self.names, groups, reading):
                table.writerow((file, group or "", name, p))
            write_bytes(path, text.getvalue().encode())
        return sum(given is None and group is not None for given, group in zip(self.groups, groups))


def suggest(
    pictures: Pack | NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    groups: Sequence[str | None] | None = None,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Suggestions:
    """Learn from the pictures that have a group, and propose one for each of the others.

    pictures: a Pack; or (N, S, S, 3) uint8 RGB; or a list of (H, W, 3) uint8 pictures of any sizes, of which
        the centre squares count. All framed in the same way.
    groups: (N) names, None or "" where not known; default: those of the pack's rows
    names: (N) file names, default: those of the pack's rows, or numbers
    Deterministic: the same pictures, groups and seed give the same proposals.

    Raises Problem with fewer than two groups, a group of fewer than 5 pictures, and arguments that do not fit.
    """
    from fewtoon.nets.reader import train_reader

    if isinstance(pictures, Pack):
        images, rows = pictures.images, pictures.rows
        groups = [row.group for row in rows] if groups is None else groups
        names = [row.file for row in rows] if names is None else names
        boxes = [None if row.box is None else (*row.box, row.roll or 0.0) for row in rows]
    else:
        images = _stacked(pictures)
        names = [f"{i:06d}" for i in range(len(images))] if names is None else names
        boxes = [None] * len(images)
    given = [None if group in (None, "") else str(group) for group in groups or [None] * len(images)]
    for what, values in (("groups", given), ("names", names)):
        if len(values) != len(images):
            raise Problem(f"{len(images)} pictures but {len(values)} {what}: give one each")
    known = _enough(given)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and any(box is None for box in boxes):
        raise Problem(
            f"two pictures are called {twice[0]!r}: give each its own name, or a table cannot tell them apart"
        )

    labels = np.array([-1 if group is None else known.index(group) for group in given])
    reader = train_reader(images, labels, known, seed)
    validated = np.isfinite(reader.unseen[:, 0])
    probabilities = reader.unseen.copy()
    rest = np.flatnonzero(~validated)
    for i in range(0, len(rest), 1024):  # a memory map is read in pieces
        part = rest[i : i + 1024]
        probabilities[part] = reader.probabilities(images[part])
    best = probabilities.argmax(1)
    confusion = np.zeros((len(known), len(known)), dtype=np.int64)
    np.add.at(confusion, (labels[validated], best[validated]), 1)
    for name, count in zip(known, confusion.sum(1)):
        if not count:
            raise Problem(
                f"all labelled pictures of the group {name!r} are copies of one: label different ones"
            )
    return Suggestions(
        names=list(names),
        groups=given,
        known=known,
        proposed=[known[i] for i in best],
        probability=probabilities.max(1),
        probabilities=probabilities,
        confusion=confusion,
        **_figures(confusion, known),
        folds=reader.folds,
        seed=seed,
        boxes=[box for box in boxes if box is not None] if twice else None,
    )


def _stacked(pictures: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if isinstance(pictures, np.ndarray):
        return pictures
    from fewtoon.io.images import resize_square
    from fewtoon.nets.reader import SIDE

    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise Problem(f"a picture must be (H, W, 3) uint8, this one is {picture.shape} {picture.dtype}")
    return (
        np.stack([resize_square(picture, SIDE) for picture in pictures])
        if len(pictures)
        else np.zeros((0, SIDE, SIDE, 3), np.uint8)
    )


def _enough(groups: Sequence[str | None]) -> list[str]:
    """The sorted names, if there is something to learn from."""
    counts = Counter(group for group in groups if group is not None)
    if len(counts) < 2:
        told = f"only the group {next(iter(counts))!r}" if counts else "no group"
        raise Problem(
            f"{told} among {len(groups)} pictures: to suggest groups, give {FEW} or more pictures of each of two "
            "or more groups first"
        )
    few = [f"{name!r} has {count}" for name, count in sorted(counts.items()) if count < FEW]
    if few:
        raise Problem(
            f"a group needs {FEW} labelled pictures to be learned, {', '.join(few)}: label some more"
        )
    return sorted(counts)


# ---------------------------------------------------------------------------------------------------------
# Figures


def wilson(right: int, count: int, z: float = 1.96) -> Interval:
    """The interval, of 95 % by default, of a share seen as `right` of `count`; (0, 1) of none.

    Wilson: Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    if count == 0:
        return 0.0, 1.0
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _figures(confusion: NDArray[np.int64], known: list[str]) -> dict[str, Any]:
    """The fields of Suggestions that follow from the confusions."""
    counts, right = confusion.sum(1), confusion.diagonal()
    per_group = []
    for i, name in enumerate(known):
        wrong = confusion[i].copy()
        wrong[i] = 0
        said = int(confusion[:, i].sum())
        per_group.append(
            GroupAccuracy(
                group=name,
                labelled=int(counts[i]),
                right=int(right[i]),
                accuracy=float(right[i] / counts[i]),
                interval=wilson(int(right[i]), int(counts[i])),
                said=said,
                precision=float(right[i] / said) if said else None,
                mistaken_for=known[int(wrong.argmax())] if wrong.any() else None,
            )
        )
    balanced = float((right / counts).mean())
    # Agresti and Coull's two successes and two failures keep the error honest where nothing was wrong.
    share = (right + 2) / (counts + 4)
    error = 1.96 * float(np.sqrt((share * (1 - share) / (counts + 4)).sum())) / len(known)
    return {
        "accuracy": float(right.sum() / counts.sum()),
        "interval": wilson(int(right.sum()), int(counts.sum())),
        "balanced_accuracy": balanced,
        "balanced_interval": (max(0.0, balanced - error), min(1.0, balanced + error)),
        "largest": float(counts.max() / counts.sum()),
        "per_group": per_group,
    }


def _verdict(found: Suggestions) -> str:
    whole = f"{_percent(found.accuracy)} ({_range(found.interval)}) of pictures it has not seen"
    if not found.learned:
        largest = max(found.per_group, key=lambda group: group.labelled)
        return (
            f"the reader has learned nothing of these groups: it is right for {whole}, always saying "
            f"{largest.group} would be right for {_percent(found.largest)}; do not use its suggestions, check the "
            "labels or label more pictures."
        )
    sentences = [f"the reader is right for {whole}"]
    weak = sorted((g for g in found.per_group if g.accuracy < WEAK), key=lambda g: g.accuracy)
    for group in weak[:NAMED]:
        sentences[0] += f"; group {group.group} only {_percent(group.accuracy)} ({_range(group.interval)})"
        sentences[0] += f", mostly taken for {group.mistaken_for}" if group.mistaken_for else ""
    if len(weak) > NAMED:
        sentences[0] += f"; {len(weak) - NAMED} more groups below {_percent(WEAK)}"
    sentences[0] += ": look at these yourself" if weak else ""
    count = len(found.unlabelled)
    sure, tested, right = found.trusted(SURE)
    if not count:
        sentences.append("every picture has a group already")
    elif not sure:
        sentences.append(f"of the {count} pictures without a group, none has a probability of {SURE} or more")
    else:
        kept = f"{sure} of the {count} pictures without a group have a probability of {SURE} or more"
        known = f"; of such pictures it was right for {_percent(right / tested)} ({_range(wilson(right, tested))})"
        sentences.append(kept + (known if tested else ""))
    if found.doubtful:
        many = len(found.doubtful)
        sentences.append(
            f"{many} labelled picture{'' if many == 1 else 's'} surely look{'s' if many == 1 else ''} like another "
            f"group, such as {found.names[found.doubtful[0]]}: check the label{'' if many == 1 else 's'}"
        )
    return ". ".join(sentences) + "."


def _percent(share: float) -> str:
    """In whole percent, 100 only where it is all of them."""
    return f"{min(round(100 * share), 99) if share < 1 else 100} %"


def _range(interval: Interval) -> str:
    return f"{math.floor(100 * interval[0])} to {math.ceil(100 * interval[1])}"

"""The doctor: what became of every picture that was given to `prepare`, and what to know before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewtoon.data.pack import Pack
from fewtoon.errors import Problem

FILE = "doctor.json"
FEW_TRAIN = 20  # pictures of a group; below that a method learns the pictures, not the style
FEW_HELD_OUT = 10  # pictures of a group; below that its figures say next to nothing
BLANK = 4.0  # standard deviation of the pixels, of 255
UNGROUPED = "(none)"


class Refusal(BaseModel):
    file: str
    reason: str


class Duplicate(BaseModel):
    """Two files with the same bytes or, once prepared, the same pixels."""

    file: str
    same_as: str  # the one that comes first, which is kept
    dropped: bool
    group: str | None = None
    group_of_other: str | None = None


class Small(BaseModel):
    file: str
    width: int
    height: int


class Count(BaseModel):
    train: int = 0
    held_out: int = 0

    @property
    def total(self) -> int:
        return self.train + self.held_out


class Report(BaseModel):
    """The figures and findings of one `prepare`; `doctor.json` in the pack holds the same."""

    model_config = ConfigDict(extra="forbid")

    side: str
    size: int  # pixels
    hash: str
    accepted: int
    groups: dict[str, Count]  # "(none)": pictures without a group
    refused: list[Refusal] = []
    duplicates: list[Duplicate] = []
    upscaled: list[Small] = []  # sources with a side below `size`
    blank: list[str] = []  # nearly one colour
    notes: list[str] = []  # anything else worth a sentence
    # True of this call rather than of the pack, so not in the file.
    out: str = Field(default="", exclude=True)
    unchanged: bool = Field(default=False, exclude=True)
    seconds: float = Field(default=0.0, exclude=True)

    @property
    def advice(self) -> list[str]:
        """What a person should look at, in whole sentences."""
        found = list(self.notes)
        for group, count in self.groups.items():
            name = "the pack" if self.groups.keys() == {UNGROUPED} else f"group {group}"
            if count.train < FEW_TRAIN:
                found.append(f"{name} has only {_number(count.train, 'picture')} to train on")
            if count.held_out < FEW_HELD_OUT:
                found.append(
                    f"{name} has only {_number(count.held_out, 'held-out picture')}: its figures say little"
                )
        torn = [d for d in self.duplicates if d.group != d.group_of_other]
        if torn:
            found.append(f"{_number(len(torn), 'duplicate')} under two groups, such as {torn[0].file}")
        if self.upscaled:
            found.append(
                f"{_number(len(self.upscaled), 'picture')} smaller than {self.size} px and enlarged, "
                f"such as {self.upscaled[0].file} ({self.upscaled[0].width} x {self.upscaled[0].height})"
            )
        if self.blank:
            found.append(f"{_number(len(self.blank), 'picture')} nearly blank, such as {self.blank[0]}")
        return found


def read_report(folder: Path) -> Report:
    """The report that lies in a pack. Raises Problem when it is missing or damaged."""
    try:
        return Report.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise Problem(f"{str(folder / FILE)!r} cannot be read ({first}): prepare the pack again") from None


def text(report: Report, shown: int = 10) -> str:
    """The report for people; of long lists the first `shown`, the rest is in the file."""
    held_out = sum(count.held_out for count in report.groups.values())
    head = f"{report.accepted} {report.side} of {report.size} px, {held_out} of them held out"
    lines = [f"{head}: {report.out}" if report.out else head]
    if report.unchanged:
        lines.append("nothing has changed since the pack was prepared: nothing was done")
    lines += ["", *_table(report.groups)]
    refusals = [f"{entry.file}: {entry.reason}" for entry in report.refused]
    twins = [
        f"{entry.file} = {entry.same_as}{'' if entry.dropped else ' (kept, on the same side)'}"
        for entry in report.duplicates
    ]
    for title, entries in (("refused", refusals), ("duplicates", twins), ("worth a look", report.advice)):
        if entries:
            more = [f"... and {len(entries) - shown} more, see {FILE}"] if len(entries) > shown else []
            lines += ["", f"{title} ({len(entries)})", *(f"  {line}" for line in entries[:shown] + more)]
    return "\n".join(lines)


def origin(pack: Pack) -> list[str]:
    """Which pack this is, and the consent or licence of its pictures, in a line each."""
    notes = sorted({row.note for row in pack.rows if row.note})
    told = [f"note: {note}" for note in notes] or ["no note on consent or licence"]
    return [f"{pack.side}: hash {pack.hash}", *told]


def counts(pack: Pack) -> dict[str, Count]:
    """Pictures per group and split, groups sorted, those without a group last."""
    found: dict[str, Count] = {name: Count() for name in pack.groups}
    for row in pack.rows:
        count = found.setdefault(row.group if row.group is not None else UNGROUPED, Count())
        setattr(count, row.split, getattr(count, row.split) + 1)
    return found


def _table(groups: dict[str, Count]) -> list[str]:
    rows = [("group", "train", "held out", "all")]
    rows += [(name, str(c.train), str(c.held_out), str(c.total)) for name, c in groups.items()]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"

"""The checkup of packs before training: what is wrong with the pictures, why it matters, and what to do.

One pack alone, or photos and drawings together: most of what a model loses (glasses, beards, a gender) it
loses because the two sides do not hold the same kinds of people.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PrivateAttr

from fewtoon.data import doctor
from fewtoon.data.doctor import Count
from fewtoon.data.findings import Finding, Item, Seen, count
from fewtoon.data.measures import measure
from fewtoon.data.pack import Pack
from fewtoon.data.rules import find
from fewtoon.errors import Problem

__all__ = ["Checkup", "Finding", "Item", "Shares", "checkup", "compare", "pair", "shares", "text"]

UNLIKE, FAR = 2.0, 0.05  # shares of a group on the two sides: ratio, and difference, that matter
FEW, RICH = 100, 5  # training pictures of a few-shot group; how many times that the largest group has


class Checkup(BaseModel):
    """What was found in one pack. As JSON it is complete but for the pictures."""

    model_config = ConfigDict(extra="forbid")

    side: str
    path: str | None
    size: int  # pixels
    count: int
    framing: str
    hash: str
    groups: dict[str, Count]  # "(none)": pictures without a group
    findings: list[Finding]  # the serious ones first
    clear: list[str]  # what was looked for and not found
    unchecked: list[str]  # what could not be looked for, and why
    _pack: Pack | None = PrivateAttr(default=None)

    @property
    def pack(self) -> Pack | None:
        """The pack, for its pictures; None when this was read from JSON."""
        return self._pack


class Shares(BaseModel):
    """One group on both sides: training pictures, and their share of the side's grouped training pictures."""

    group: str
    photos: int
    drawings: int
    photo_share: float
    drawing_share: float


def checkup(pack: Pack) -> Checkup:
    """Look at every picture and row of a pack, each picture read once; 8 KB a picture are kept meanwhile."""
    findings, clear, unchecked = find(Seen(pack, measure(pack.images)))
    result = Checkup(
        side=pack.side,
        path=None if pack.path is None else str(pack.path),
        size=pack.size,
        count=len(pack),
        framing=pack.framing,
        hash=pack.hash,
        groups=doctor.counts(pack),
        findings=findings,
        clear=clear,
        unchecked=unchecked,
    )
    result._pack = pack
    return result


# ---------------------------------------------------------------------------------------------------------
# Photos against drawings


def pair(*checkups: Checkup) -> tuple[Checkup, Checkup] | None:
    """Photos and drawings of one or two checkups; None for one alone.
    Raises Problem for two of the same side, and for none or more than two."""
    if len(checkups) == 1:
        return None
    sides = {entry.side: entry for entry in checkups}
    if len(checkups) != 2 or len(sides) != 2:
        given = ", ".join(f"{entry.path or 'a pack'} ({entry.side})" for entry in checkups) or "none"
        raise Problem(f"packs to compare: {given}; give one pack, or one of photos and one of drawings")
    return sides["photos"], sides["drawings"]


def shares(photos: Checkup | Pack, drawings: Checkup | Pack) -> list[Shares]:
    """Every group of either side, sorted; pictures without a group do not count."""
    sides = [doctor.counts(side) if isinstance(side, Pack) else side.groups for side in (photos, drawings)]
    numbers = [
        {name: c.train for name, c in side.items() if name != doctor.UNGROUPED and c.total} for side in sides
    ]
    totals = [max(1, sum(side.values())) for side in numbers]
    return [
        Shares(
            group=name,
            photos=numbers[0].get(name, 0),
            drawings=numbers[1].get(name, 0),
            photo_share=numbers[0].get(name, 0) / totals[0],
            drawing_share=numbers[1].get(name, 0) / totals[1],
        )
        for name in sorted({*numbers[0], *numbers[1]})
    ]


def compare(photos: Checkup | Pack, drawings: Checkup | Pack) -> list[Finding]:
    """Where the groups of photos and drawings do not match, what a model makes of that, and what to do."""
    table = shares(photos, drawings)
    found = _framings(photos, drawings)
    if not any(entry.photos for entry in table) and not any(entry.drawings for entry in table):
        return [
            *found,
            Finding(
                kind="no_groups",
                severity="note",
                headline="Neither side has groups, so nobody can tell whether photos and drawings match.",
                why="If hardly any drawing wears glasses, the model takes them off every photo; the same goes for "
                "beards, long hair, a gender, an age.",
                remedy="Sort both sides into sub-folders of the same names, such as women, men, women_glasses, "
                "men_glasses, and prepare again.",
            ),
        ]
    if not any(entry.photos and entry.drawings for entry in table):
        return [
            *found,
            Finding(
                kind="no_common_group",
                severity="serious",
                headline="Photos and drawings have no group in common.",
                why="Groups are compared by their names, so these two sides cannot be matched at all.",
                remedy="Give the same kind of face the same name on both sides, and prepare again.",
            ),
        ]
    largest = max(entry.drawings for entry in table)
    for entry in table:
        found += _one_sided(entry) or _unlike(entry) or _few(entry, largest)
    order = ("serious", "look", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _framings(photos: Checkup | Pack, drawings: Checkup | Pack) -> list[Finding]:
    if photos.size == drawings.size and photos.framing == drawings.framing:
        return []
    kinds = [f"{side.framing}, {side.size} px" for side in (photos, drawings)]
    return [
        Finding(
            kind="framing",
            severity="serious",
            headline=f"Photos and drawings are cut out differently ({kinds[0]} and {kinds[1]}).",
            why="The model would learn to move and scale faces instead of drawing them.",
            remedy="Prepare both with the same --framing and --size.",
        )
    ]


def _one_sided(entry: Shares) -> list[Finding]:
    if entry.photos and entry.drawings:
        return []
    if not entry.drawings:
        return [
            Finding(
                kind="only_photos",
                severity="serious",
                headline=f"{entry.group}: {count(entry.photos, 'photo')}, but no drawing to learn from.",
                why="The model has never seen the artist draw such a person, so it draws them like the people it "
                "knows: what makes this group (glasses, beard, a gender) is lost.",
                remedy=f"Add {doctor.FEW_TRAIN} or more drawings of this group, or leave its photos out.",
                group=entry.group,
            )
        ]
    return [
        Finding(
            kind="only_drawings",
            severity="look",
            headline=f"{entry.group}: {count(entry.drawings, 'drawing')}, but no photo.",
            why="The model must put what it sees in these drawings somewhere, and may give it to people who do "
            "not have it.",
            remedy="Add photos of this group, or leave its drawings out.",
            group=entry.group,
        )
    ]


def _unlike(entry: Shares) -> list[Finding]:
    low, high = sorted((entry.photo_share, entry.drawing_share))
    if high < UNLIKE * low or high - low < FAR:
        return []
    told = (
        f"{entry.group}: {entry.photo_share:.0%} of the photos, but {entry.drawing_share:.0%} of the drawings"
    )
    if entry.drawing_share < entry.photo_share:
        others = entry.drawings / entry.drawing_share - entry.drawings
        enough = round(others * entry.photo_share / max(1 - entry.photo_share, 0.01))
        return [
            Finding(
                kind="fewer_drawings",
                severity="serious",
                headline=f"{told} ({entry.drawings}).",
                why="To be taken for one of the artist's drawings is what the model is rewarded for, and the safest "
                "way is to look like most of them. So photos of this group come out as the majority: glasses "
                "vanish, a gender changes.",
                remedy=f"Add drawings of this group ({enough:,} in all would match), or leave out photos of it until "
                "the shares are alike.",
                group=entry.group,
                value=round(entry.drawing_share / entry.photo_share, 3),
            )
        ]
    return [
        Finding(
            kind="fewer_photos",
            severity="look",
            headline=f"{told}.",
            why="To match the drawings, the model must make more such people than the photos hold, so it gives this "
            "look to people of other groups: it invents what is not there.",
            remedy="Add photos of this group, or leave out some of its drawings.",
            group=entry.group,
            value=round(entry.drawing_share / entry.photo_share, 3),
        )
    ]


def _few(entry: Shares, largest: int) -> list[Finding]:
    if entry.drawings >= FEW or entry.drawings * RICH > largest:
        return []
    return [
        Finding(
            kind="few_shot",
            severity="look",
            headline=f"{entry.group}: only {count(entry.drawings, 'drawing')}, the largest group has {largest:,}.",
            why="In the training such a drawing comes up too seldom to count, and the model draws this group like "
            "the largest one.",
            remedy="Add drawings of this group, or train with fewer of the largest one.",
            group=entry.group,
            value=entry.drawings,
        )
    ]


# ---------------------------------------------------------------------------------------------------------
# In words


def text(*checkups: Checkup, shown: int = 3) -> str:
    """The checkup of one pack, or of photos and drawings, for the terminal: a headline for each finding, the
    remedy, and the first `shown` files. Raises Problem as `pair` does."""
    both = pair(*checkups)
    lines = []
    if both:
        lines += ["photos and drawings together", "", *_table(shares(*both)), ""]
        lines += _told(compare(*both), shown) or ["  they match"]
        lines.append("")
    for entry in checkups:
        held_out = sum(c.held_out for c in entry.groups.values())
        lines.append(
            f"{count(entry.count, entry.side[:-1])} of {entry.size} px, framing {entry.framing}, {held_out:,} held "
            f"out{f': {entry.path}' if entry.path else ''}"
        )
        if not both:
            rows = [("group", "train", "held out", "all")]
            rows += [(n, str(c.train), str(c.held_out), str(c.total)) for n, c in entry.groups.items()]
            lines += ["", *doctor.columns(rows), ""]
        lines += _told(entry.findings, shown) or ["  nothing to mend was found"]
        if entry.unchecked:
            lines.append("  not looked for: " + "; ".join(entry.unchecked))
        lines.append("")
    return "\n".join(lines).rstrip()


def _told(findings: list[Finding], shown: int) -> list[str]:
    marks = {"serious": "!!", "look": " !", "note": "  "}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.severity]} {finding.headline}")
        files = [
            f"{item.file} = {item.other_file}" if item.other_row is not None else item.file
            for item in finding.items[:shown]
        ]
        if files:
            more = len(finding.items) - len(files)
            lines.append("     " + ", ".join(files) + (f" and {more:,} more" if more else ""))
        if finding.severity != "note":
            lines.append(f"     {finding.remedy}")
    return lines


def _table(table: list[Shares]) -> list[str]:
    rows = [("group", "photos", "", "drawings", "")]
    rows += [
        (e.group, str(e.photos), f"{e.photo_share:.0%}", str(e.drawings), f"{e.drawing_share:.0%}")
        for e in table
    ]
    return doctor.columns(rows)

"""The rules of the checkup: what there is to say about one pack, in plain words, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fewtoon.data import doctor
from fewtoon.data.findings import Finding, Item, Seen, Severity, are, count
from fewtoon.data.twins import Twin

# Chosen on 662 photos and 3,572 drawings of four styles, at 128 and 256 px, so that few of them are blamed.
SOFT, SOFTER = 2.5, 1.45  # blurred: width of edges in pixels, and as a multiple of the pack's median
VERY_SOFT = 3.4  # pixels; blurred whatever the rest of the pack is like
GREY = 4.0  # chroma below which nobody sees colour
MINORITY = 0.2  # share up to which grey pictures are the exception, or coloured ones
DARK, BRIGHT = 45, 225  # level of the middle of the picture
DARKER, BRIGHTER = 60, 30  # and how far that must be from the pack's median: some artists draw so
TINT = 0.06  # chroma as a share of the level below which a dark picture is grey as well
ODD = {
    "photo": (0.25, 2.8),
    "drawing": (0.2, 4.0),
}  # evenness: distance from the median, and in robust deviations
TURNED, TIPPED = 35, 60  # degrees: yaw from the pack's median; roll
TINY = 0.5  # of the pack's size: below that more than half of the picture was made up


def groups(seen: Seen) -> list[Finding]:
    found, short = [], []
    for name, numbers in doctor.counts(seen.pack).items():
        if name == doctor.UNGROUPED and seen.pack.groups:
            continue
        whole = name == doctor.UNGROUPED
        where = f"The pack of {seen.pack.side}" if whole else f"Group {name}"
        if numbers.train < doctor.FEW_TRAIN:
            found.append(
                Finding(
                    kind="few_to_train",
                    severity="serious",
                    headline=f"{where} has only {count(numbers.train, seen.thing)} to train on.",
                    why="From so few pictures a model learns these very pictures by heart, not how they are made.",
                    remedy=f"Bring it to {doctor.FEW_TRAIN} or more, or join the group to another one.",
                    group=None if whole else name,
                    value=numbers.train,
                )
            )
        if numbers.held_out < doctor.FEW_HELD_OUT:
            short.append((name, numbers.held_out))
    if short:
        told = "; ".join(f"{name} {number}" for name, number in short)
        some = f"{count(len(short), 'group')} {'has' if len(short) == 1 else 'have'}"
        found.append(
            Finding(
                kind="few_held_out",
                severity="note",
                headline=f"{some} few held-out {seen.pack.side}: {told}."
                if seen.pack.groups
                else f"Only {count(short[0][1], seen.thing)} held out.",
                why="Held-out pictures are the exam after the training; from so few, the marks are mostly luck.",
                remedy="Read little into these figures, or prepare again with a larger --held-out.",
                value=min(number for _, number in short),
            )
        )
    loose = [Item(file=row.file, row=i) for i, row in enumerate(seen.pack.rows) if row.group is None]
    if seen.pack.groups and loose:
        found.append(
            Finding(
                kind="no_group",
                severity="look",
                headline=f"{are(len(loose), seen.thing)} in no group, though others are.",
                why="A method that works with groups cannot use them.",
                remedy="Move them into the folder of their group, or name them in the table of groups.",
                items=loose,
            )
        )
    return found


def refused(seen: Seen) -> list[Finding] | str:
    if seen.report is None:
        return "this pack has no report of how it was prepared"
    items = [Item(file=entry.file, words=entry.reason) for entry in seen.report.refused]
    return _finding(
        "refused",
        "look",
        f"{count(len(items), 'file')} {'was' if len(items) == 1 else 'were'} left out of the pack.",
        "They could not be used; the reason stands beside each.",
        "Save damaged pictures again, mark missed faces by hand (`fewtoon mark`), and prepare again. What is "
        "no picture of a face may stay out.",
        items,
    )


def exact(seen: Seen) -> list[Finding] | str:
    if seen.report is None:
        return "this pack has no report of how it was prepared"
    entries = seen.report.duplicates
    items = [
        Item(
            file=entry.file,
            other_file=entry.same_as,
            words=f"the same as {entry.same_as}" + ("" if entry.dropped else " (both kept, on one side)"),
        )
        for entry in entries
    ]
    torn = sum(entry.group != entry.group_of_other for entry in entries)
    return _finding(
        "exact_duplicates",
        "look" if torn else "note",
        f"{are(len(items), 'file')} there twice, equal in every pixel.",
        "Only the first of each is in the pack, so nothing is counted twice."
        + (f" But {torn} of them had two labels." if torn else ""),
        "Check which of the two labels is right." if torn else "You need do nothing.",
        items,
    )


# ---------------------------------------------------------------------------------------------------------
# Near-duplicates


def twins_across_splits(seen: Seen) -> list[Finding]:
    rows = seen.pack.rows
    pairs = [twin for twin in seen.twins if rows[twin.first].split != rows[twin.second].split]
    return _finding(
        "twins_across_splits",
        "serious",
        f"{_pairs(pairs)} of the same picture: the model trains on one and is examined on the other.",
        "Held-out pictures are the exam after the training. A copy of a training picture among them is an exam "
        "question known beforehand: every held-out figure would be flattered.",
        "Delete one of each pair from your folder and prepare again.",
        [_pair(seen, twin) for twin in pairs],
    )


def twins_across_groups(seen: Seen) -> list[Finding]:
    rows = seen.pack.rows
    pairs = [twin for twin in seen.twins if rows[twin.first].group != rows[twin.second].group]
    return _finding(
        "twins_across_groups",
        "serious",
        f"{_pairs(pairs)} of the same picture, but in two groups.",
        "One of the two labels must be wrong, and a model believes every label.",
        "Keep the one whose group is right, delete the other, and prepare again.",
        [_pair(seen, twin) for twin in pairs],
    )


def twins_within(seen: Seen) -> list[Finding]:
    rows = seen.pack.rows
    pairs = [twin for twin in seen.twins if rows[twin.first].split == rows[twin.second].split]
    return _finding(
        "twins",
        "look",
        f"{_pairs(pairs)} of the same picture: saved again, cropped, brightened or mirrored.",
        "A picture that is there twice counts twice, and is sooner learned by heart.",
        "Delete the worse one of each pair and prepare again.",
        [_pair(seen, twin) for twin in pairs],
    )


def _pairs(pairs: list[Twin]) -> str:
    return f"{count(len(pairs), 'pair')}"


def _pair(seen: Seen, twin: Twin) -> Item:
    one, other = seen.pack.rows[twin.first], seen.pack.rows[twin.second]
    words = ["mirrored"] if twin.mirrored else []
    if one.split != other.split:
        words.append(f"{one.split} / {other.split}".replace("_", "-"))
    if one.group != other.group:
        words.append(f"{one.group or 'no group'} / {other.group or 'no group'}")
    return Item(
        file=one.file,
        row=twin.first,
        value=round(twin.difference, 1),
        words=", ".join(words),
        other_file=other.file,
        other_row=twin.second,
    )


# ---------------------------------------------------------------------------------------------------------
# Single pictures


def small(seen: Seen) -> list[Finding]:
    size, sides = seen.pack.size, seen.sides
    tiny = sides < TINY * size
    return _finding(
        "tiny",
        "look",
        f"{are(int(tiny.sum()), seen.thing)} far too small: less than {TINY * size:.0f} px, enlarged to {size}.",
        "Most of such a picture is made up by the enlarging, and the model learns that as if it were meant.",
        "Scan or export them larger, delete them, or prepare everything with a smaller --size.",
        seen.items(tiny, sides, "{:.0f} px"),
    ) + _finding(
        "small",
        "note",
        f"{are(int((~tiny & (sides < size - 0.5)).sum()), seen.thing)} a little small and had to be enlarged to "
        f"{size} px.",
        "A little enlarging does little harm.",
        "Use larger originals where you have them.",
        seen.items(~tiny & (sides < size - 0.5), sides, "{:.0f} px"),
    )


def blurred(seen: Seen) -> list[Finding]:
    edge = np.nan_to_num(seen.measures.edge, nan=1.0)  # no edge at all is another rule's business
    usual = float(np.median(edge))
    soft = ((edge > max(SOFT, SOFTER * usual)) | (edge > VERY_SOFT)) & ~seen.blank
    soft &= seen.sides >= TINY * seen.pack.size  # those were named already
    if usual > VERY_SOFT:
        return [
            Finding(
                kind="all_blurred",
                severity="look",
                headline=f"All of the pack is soft: outlines are {usual:.1f} px wide, sharp ones are 1 to 2.",
                why="The pictures seem to have been enlarged from small ones, and the model will draw as softly.",
                remedy="Prepare from larger originals, or with half the --size.",
                value=round(usual, 2),
            )
        ]
    return _finding(
        "blurred",
        "look",
        f"{are(int(soft.sum()), seen.thing)} blurred: the sharpest lines are over {SOFT:.1f} px wide, in the "
        f"others {usual:.1f}.",
        "The model takes blur for a part of the style."
        if seen.thing == "drawing"
        else "Eyes and glasses drown in blur, so the model cannot learn to keep them.",
        "Replace them with sharper ones, or delete them.",
        seen.items(soft, edge, "lines {:.1f} px wide", largest_first=True),
    )


def colours(seen: Seen) -> list[Finding]:
    chroma = seen.measures.chroma
    level = seen.measures.grey.mean((1, 2))
    grey = (chroma < np.minimum(GREY, TINT * level + 0.5)) & ~seen.blank
    share = grey.sum() / max(1, (~seen.blank).sum())
    mixed = MINORITY < share < 1 - MINORITY
    if share <= MINORITY or mixed:
        return _finding(
            "grey_among_colour",
            "look",
            f"{are(int(grey.sum()), seen.thing)} without colour"
            + (f", {len(chroma) - int(grey.sum()):,} have it." if mixed else ", the others have it."),
            "The model cannot know which of the two you want: some results will come out pale or grey.",
            "Decide for one kind and delete the others, or train two styles."
            if mixed
            else "Delete them, or put the coloured originals in their place.",
            seen.items(grey, chroma, ""),
        )
    return _finding(
        "colour_among_grey",
        "look",
        f"{are(int((~grey & ~seen.blank).sum()), seen.thing)} in colour, the others are not.",
        "The model cannot know which of the two you want: some results will come out tinted.",
        "Delete them, or turn them to grey as well.",
        seen.items(~grey & ~seen.blank, chroma, "", largest_first=True),
    )


def dark(seen: Seen) -> list[Finding]:
    level = seen.measures.dark
    chosen = (level < DARK) & (level < np.median(level) - DARKER) & ~seen.blank
    return _finding(
        "dark",
        "look",
        f"{are(int(chosen.sum()), seen.thing)} very dark in the middle, where the face is.",
        "What cannot be seen cannot be learned.",
        "Brighten them, or delete them.",
        seen.items(chosen, level, "level {:.0f} of 255"),
    )


def bright(seen: Seen) -> list[Finding] | str:
    if seen.thing == "drawing":
        return "white paper is no fault"
    level = seen.measures.bright
    chosen = (level > BRIGHT) & (level > np.median(level) + BRIGHTER) & ~seen.blank
    return _finding(
        "bright",
        "look",
        f"{are(int(chosen.sum()), seen.thing)} very bright in the middle, where the face is.",
        "Burnt-out skin has neither shape nor colour to learn from.",
        "Darken them, or delete them.",
        seen.items(chosen, level, "level {:.0f} of 255", largest_first=True),
    )


def blank(seen: Seen) -> list[Finding]:
    return _finding(
        "blank",
        "serious",
        f"{are(int(seen.blank.sum()), seen.thing)} blank: nearly one tone.",
        "There is no face to learn from, and the model may learn to draw nothing.",
        "Delete them and prepare again.",
        seen.items(seen.blank, seen.measures.spread, ""),
    )


def turned(seen: Seen) -> list[Finding] | str:
    yaw = np.array([np.nan if row.yaw is None else row.yaw for row in seen.pack.rows])
    if np.isnan(yaw).all():
        return "no finder that can tell looked at these pictures"
    # Some artists draw three-quarter views only: what counts is to be unlike the others.
    off = np.abs(np.nan_to_num(yaw - np.nanmedian(yaw)))
    return _finding(
        "turned",
        "look",
        f"{are(int((off > TURNED).sum()), seen.thing)} turned away by more than {TURNED} degrees from how the "
        "others look.",
        "Of a turned face half is hidden; with only a few of them the model draws them wrongly.",
        "Delete them, or add more of the kind if you want such faces drawn.",
        seen.items(off > TURNED, np.nan_to_num(yaw), "{:+.0f} degrees"),
    )


def tipped(seen: Seen) -> list[Finding] | str:
    roll = np.array([np.nan if row.roll is None else row.roll for row in seen.pack.rows])
    if np.isnan(roll).all():
        return "no finder looked at these pictures"
    off = np.abs(np.nan_to_num(roll))
    return _finding(
        "tipped",
        "note",
        f"{count(int((off > TIPPED).sum()), seen.thing)} lay on the side or stood on the head, and was turned "
        "upright."
        if (off > TIPPED).sum() == 1
        else f"{count(int((off > TIPPED).sum()), seen.thing)} lay on the side or stood on the head, and were "
        "turned upright.",
        "Where the finder was wrong about that, the face now stands wrongly.",
        "Look at them; mark wrong ones by hand (`fewtoon mark`).",
        seen.items(off > TIPPED, np.nan_to_num(roll), "{:+.0f} degrees"),
    )


def lettering(seen: Seen) -> list[Finding]:
    letters = seen.measures.letters
    return _finding(
        "lettering",
        "look",
        f"{count(int((letters > 0).sum()), seen.thing)} {'seems' if (letters > 0).sum() == 1 else 'seem'} to hold "
        "lettering.",
        "The model takes speech balloons and captions for a part of the face, and draws scribbles that look like them.",
        "Cut the face out more tightly or paint the letters over; a name on a shirt may stay.",
        seen.items(letters > 0, letters, "about {:.0f} letters", largest_first=True),
    )


def odd(seen: Seen) -> list[Finding]:
    even = seen.measures.even
    off = even - np.median(even[~seen.blank]) if (~seen.blank).any() else np.zeros_like(even)
    usual = max(1.4826 * float(np.median(np.abs(off))), 0.01)
    far, times = ODD[seen.thing]
    # Nothing can be told from pictures that blur or darkness made even, and photos of much detail are no fault.
    off = np.where(
        seen.blank | (seen.measures.dark < DARK) | (np.nan_to_num(seen.measures.edge) > SOFT), 0, off
    )
    off = np.maximum(off, 0) if seen.thing == "photo" else np.maximum(-off, 0)
    chosen = (off > far) & (off > times * usual)
    other = "photos, or spoilt by strong compression" if seen.thing == "drawing" else "drawings"
    return _finding(
        "odd",
        "look",
        f"{are(int(chosen.sum()), seen.thing)} made unlike the others: perhaps {other}.",
        "A model of one style learns a mixture when two are mixed.",
        "Delete what is not of this kind, put clean originals in the place of compressed ones, and prepare again.",
        seen.items(chosen, off, "", largest_first=True),
    )


def _finding(
    kind: str, severity: Severity, headline: str, why: str, remedy: str, items: list[Item]
) -> list[Finding]:
    """The finding, if there is any picture to find."""
    if not items:
        return []
    return [Finding(kind=kind, severity=severity, headline=headline, why=why, remedy=remedy, items=items)]


# What is looked for, as a person would say it -> the findings, or why it cannot be looked for.
RULES: dict[str, Callable[[Seen], list[Finding] | str]] = {
    "groups with few pictures": groups,
    "copies of training pictures among the held-out ones": twins_across_splits,
    "copies in two groups": twins_across_groups,
    "other copies": twins_within,
    "blank pictures": blank,
    "files that were left out": refused,
    "files that are there twice": exact,
    "pictures that were too small": small,
    "blurred pictures": blurred,
    "grey among coloured pictures": colours,
    "dark pictures": dark,
    "overexposed pictures": bright,
    "turned faces": turned,
    "faces that lay on the side": tipped,
    "lettering": lettering,
    "photos among drawings, drawings among photos": odd,
}


def find(seen: Seen) -> tuple[list[Finding], list[str], list[str]]:
    """All findings, the serious ones first; what was looked for and not found; what could not be looked for."""
    findings: list[Finding] = []
    clear, unchecked = [], []
    for name, rule in RULES.items():
        found = rule(seen)
        if isinstance(found, str):
            unchecked.append(f"{name} ({found})")
        elif found:
            findings += found
        else:
            clear.append(name)
    order: tuple[Severity, ...] = ("serious", "look", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity)), clear, unchecked

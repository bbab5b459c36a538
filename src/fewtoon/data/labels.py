"""Who belongs to which group, and who is for training and who is held out."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from fewtoon.data.pack import Row, Split
from fewtoon.errors import Problem, nearest
from fewtoon.io import images
from fewtoon.io.images import Found

RESERVED = {"all", "(none)"}  # rows of the reports


def decided_labels(
    found: list[Found], groups: str | Path, split: str | Path | None
) -> tuple[list[str | None], list[Split | None]]:
    """The group and the decided split of each file; None where there is none."""
    if groups == "none":
        group_of: list[str | None] = [None] * len(found)
    elif groups == "by-folder":
        group_of = [file.folder for file in found]
    else:
        group_of = _match(found, groups, "group")
    for name in RESERVED & set(group_of):
        raise Problem(
            f"no group can be called {name!r}, a row of every report: rename the folder or the group"
        )
    split_of = [None] * len(found) if split is None else _match(found, split, "split")
    for value in split_of:
        if value is not None and value not in get_args(Split):
            raise Problem(f"{str(split)!r} has the split {value!r}: {nearest(value, get_args(Split))}")
    return group_of, cast("list[Split | None]", split_of)


def _match(found: list[Found], table: str | Path, column: str) -> list[str | None]:
    """The value of `column` for each file, by its name below the given folder or else by its last part."""
    values: dict[str, str] = {}
    for name, value in _read_csv(table, column):
        if values.setdefault(name, value) != value:
            raise Problem(
                f"{str(table)!r} gives {name!r} two values, {values[name]!r} and {value!r}: keep one"
            )
    matched = [values.get(file.name, values.get(file.name.rsplit("/", 1)[-1])) for file in found]
    if all(value is None for value in matched):
        raise Problem(f"{str(table)!r} names none of the {len(found)} pictures, such as {found[0].name!r}")
    return [value or None for value in matched]


def _read_csv(table: str | Path, column: str) -> Iterator[tuple[str, str]]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in ("file", column) if name not in (reader.fieldnames or [])]
            if missing:
                raise Problem(
                    f"{str(table)!r} has no column {missing[0]!r}; its first line must name file,{column}"
                )
            for row in reader:
                yield (row["file"] or "").strip().removeprefix("./"), (row[column] or "").strip()
    except FileNotFoundError:
        known = "by-folder, none, " if column == "group" else ""
        raise Problem(f"{column}s {str(table)!r}: choose {known}or a CSV file that exists") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Problem(f"{str(table)!r} cannot be read as CSV ({error})") from None


def csv_fact(table: str | Path) -> dict[str, str]:
    content = Path(table).read_bytes()
    return {"csv": images.printable(Path(table).name), "sha256": hashlib.sha256(content).hexdigest()}


# ---------------------------------------------------------------------------------------------------------
# Train or held out


def draw_splits(
    rows: Sequence[Row],
    pixels: Sequence[str],
    decided: Sequence[Split | None],
    held_out: float,
    seed: int,
) -> list[Split]:
    """The split of each row: the decided one, else drawn per group from the rest.

    pixels: sha256 of each row's prepared picture. What shares it, or the source file, is drawn as one: the
    same picture is never on both sides. The order of the draw depends on the contents of the source files
    and the seed alone. Raises Problem when `decided` parts what belongs together, or `held_out` asks for more
    than there is.
    """
    bundles = _bundles(rows, pixels)
    splits: list[Split] = ["train"] * len(rows)
    strata: dict[str | None, list[tuple[str, list[int]]]] = {}
    for bundle in bundles:
        chosen = {decided[i]: i for i in bundle if decided[i] is not None}
        if len(chosen) > 1:
            names = " and ".join(sorted(rows[i].file for i in chosen.values()))
            raise Problem(f"{names} are the same picture, but the split file puts them on different sides")
        for split in chosen:
            for i in bundle:
                splits[i] = cast(Split, split)
        if not chosen:
            key = min(hashlib.sha256(f"{seed}:{rows[i].sha256}".encode()).hexdigest() for i in bundle)
            group = min(rows[i].group or "" for i in bundle) or None
            strata.setdefault(group, []).append((key, bundle))
    undecided = {group: len(stratum) for group, stratum in strata.items()}
    for group, count in _quotas(undecided, held_out).items():
        for _, bundle in sorted(strata[group])[:count]:
            for i in bundle:
                splits[i] = "held_out"
    return splits


def _bundles(rows: Sequence[Row], pixels: Sequence[str]) -> list[list[int]]:
    """Indices of the rows, together where they share a source file or the pixels."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        for key in ("file " + row.sha256, "pixels " + pixels[i]):
            a, b = sorted((root(first.setdefault(key, i)), root(i)))
            parent[b] = a
    bundles: dict[int, list[int]] = {}
    for i in range(len(rows)):
        bundles.setdefault(root(i), []).append(i)
    return list(bundles.values())


def _quotas(sizes: Mapping[str | None, int], held_out: float) -> dict[str | None, int]:
    """How many of each group to hold out: its share, but at least one and never all where it has two."""
    if held_out == 0 or not sizes:
        return dict.fromkeys(sizes, 0)
    most = {group: max(size - 1, 0) for group, size in sizes.items()}
    if held_out < 1:
        return {g: min(most[g], max(1, round(held_out * size))) for g, size in sizes.items()}
    if held_out > sum(most.values()):
        raise Problem(
            f"held_out {held_out:.0f} of {sum(sizes.values())} pictures leaves a group nothing to train on: "
            f"choose at most {sum(most.values())}"
        )
    # Largest remainder, between one and all but one of each group.
    share = {group: held_out * size / sum(sizes.values()) for group, size in sizes.items()}
    quota = {group: min(most[group], max(1, int(share[group]))) for group in sizes}
    by_remainder = lambda group: (share[group] - quota[group], str(group))
    while sum(quota.values()) < held_out:
        quota[max((g for g in sizes if quota[g] < most[g]), key=by_remainder)] += 1
    while sum(quota.values()) > held_out and any(q > 1 for q in quota.values()):
        quota[min((g for g in sizes if quota[g] > 1), key=by_remainder)] -= 1
    return quota

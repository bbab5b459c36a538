"""What the groups of a pack say about people: glasses or none, man or woman, or whatever a user's groups are.

An attribute has two values, and each group has one of them. Attributes follow from the names of the groups
("2_man_glasses", "1_man_no_glasses"), or from a table that a user writes as YAML:

    glasses: {yes: [reader, clerk], no: [sailor]}
    presentation: {man: [sailor, clerk], woman: [reader]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewtoon.errors import Problem, nearest

NEGATIONS = {"no", "not", "non", "without"}
FILLERS = {"with", "and", "or", "of", "in", "the", "a", "an", "wearing"}
ABSENT, PRESENT = ("no", "without"), ("yes", "with")
# The names of two groups of people that most packs have, whatever the language of their folders.
PRESENTATIONS = (
    ("man", "woman"),
    ("men", "women"),
    ("male", "female"),
    ("boy", "girl"),
    ("boys", "girls"),
    ("mann", "frau"),
    ("homme", "femme"),
    ("hombre", "mujer"),
    ("uomo", "donna"),
    ("男", "女"),
    ("남자", "여자"),
)
EXAMPLE = "write it as 'glasses: {yes: [group, ...], no: [group, ...]}'"


@dataclass(frozen=True)
class Attribute:
    """One thing that is so or otherwise about everybody in a group.

    values: the names of value 0 and value 1
    of: the value, 0 or 1, of each group
    presence: value 1 means having something (glasses), which a drawing can lose or invent. Otherwise the
        values are two kinds (man, woman), of which a drawing keeps the right one or not.
    """

    name: str
    values: tuple[str, str]
    of: Mapping[str, int]
    presence: bool


def attributes_of(
    groups: Sequence[str], table: Mapping[Any, Any] | None = None, others: Iterable[str] = ()
) -> list[Attribute]:
    """The attributes of these groups, those that one has or has not before those of two kinds.

    Without a table, from the groups' names: words between which there is anything but a letter or a digit;
    "no", "not", "without" negate the next one. A word that some groups have and others have not is an
    attribute; two words of which every group has exactly one are one attribute of two kinds. Words that only
    occur together are one, because nothing tells them apart. [] where nothing distinguishes the groups.

    table: {attribute: {value: [groups]}}, with two values each; "yes" and "no" make a presence.
    others: groups that the table may also name, but need not.

    Raises Problem for a table that is not of this form, names a group that is not there, leaves one out, or
    puts one on both sides.
    """
    names = sorted(set(groups))
    if table is None:
        return _from_names(names)
    _check_mapping(table, "the table of attributes")
    return _presence_first([_from_table(name, sides, names, set(others)) for name, sides in table.items()])


def read_table(path: str | Path) -> dict[str, Any]:
    """The table of attributes in a YAML file, for `attributes_of`. Raises Problem if it cannot be read."""
    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem(
            f"cannot read the table of attributes {str(path)!r} ({error.strerror}): name a YAML file"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise Problem(f"{str(path)!r} is not YAML{line}: {EXAMPLE}") from None
    _check_mapping(table, repr(str(path)))
    return table


# ------------------------------------------------------------------------------------------------ from names


def _from_names(groups: list[str]) -> list[Attribute]:
    said = {group: _words(group) for group in groups}
    words = dict.fromkeys(word for group in groups for word in said[group])
    # Which groups have a word decides which attribute it belongs to.
    by_pattern: dict[tuple[bool, ...], list[str]] = {}
    for word in words:
        pattern = tuple(said[group].get(word, False) for group in groups)
        if any(pattern) and not all(pattern):
            by_pattern.setdefault(pattern, []).append(word)
    negated = {word for group in groups for word, has in said[group].items() if not has}
    found = []
    for pattern, mine in by_pattern.items():
        opposite = tuple(not has for has in pattern)
        theirs = by_pattern.get(opposite)
        if theirs is None or negated & {*mine}:
            found.append(Attribute(" ".join(mine), ("no", "yes"), _values(groups, pattern), True))
        elif not negated & {*theirs} and pattern[0]:  # once for the two of them
            found.append(_two_kinds(groups, pattern, " ".join(mine), " ".join(theirs)))
    return _presence_first(found)


def _words(group: str) -> dict[str, bool]:
    """The words of a group's name, and whether it has them or is said to be without. Leading numbers count
    the groups and are no words."""
    found: dict[str, bool] = {}
    has = True
    for word in re.findall(r"[^\W_]+", re.sub(r"^[\W\d_]+", "", group.casefold())):
        if word in NEGATIONS:
            has = False
        elif word not in FILLERS:
            found[word] = has
            has = True
    return found


def _two_kinds(groups: list[str], pattern: tuple[bool, ...], mine: str, theirs: str) -> Attribute:
    """Two words of which every group has one: `mine` in the groups of `pattern`."""
    if (theirs, mine) in PRESENTATIONS:
        return Attribute("presentation", (theirs, mine), _values(groups, pattern), False)
    name = "presentation" if (mine, theirs) in PRESENTATIONS else f"{mine} or {theirs}"
    return Attribute(name, (mine, theirs), _values(groups, [not has for has in pattern]), False)


def _values(groups: list[str], pattern: Sequence[bool]) -> dict[str, int]:
    return {group: int(has) for group, has in zip(groups, pattern)}


def _presence_first(attributes: list[Attribute]) -> list[Attribute]:
    return sorted(attributes, key=lambda attribute: not attribute.presence)


# -------------------------------------------------------------------------------------------- from a table


def _from_table(name: Any, sides: Any, groups: list[str], others: set[str]) -> Attribute:
    what = f"attribute {str(name)!r}"
    _check_mapping(sides, what)
    values = tuple(map(_value_name, sides))
    if len(values) != 2 or values[0] == values[1]:
        raise Problem(f"{what} has the values {', '.join(values)}: give it two; {EXAMPLE}")
    members = [_members(side, f"{what}, value {value!r}") for value, side in zip(values, sides.values())]
    for group in dict.fromkeys(members[0] + members[1]):
        if group not in groups and group not in others:
            known = nearest(group, sorted({*groups, *others}))
            raise Problem(f"{what} names the group {group!r}, which the packs do not have: {known}")
        if group in members[0] and group in members[1]:
            raise Problem(f"{what} has the group {group!r} as {values[0]!r} and as {values[1]!r}: keep one")
    for group in groups:
        if group not in members[0] + members[1]:
            raise Problem(f"{what} leaves out the group {group!r}: say whether it is {' or '.join(values)}")
    lower = [value.casefold() for value in values]
    presence = any(set(lower) == {no, yes} for no, yes in zip(ABSENT, PRESENT))
    if presence and lower[0] in PRESENT:
        values, members = values[::-1], members[::-1]
    of = {group: value for value in (0, 1) for group in members[value]}
    return Attribute(str(name), (values[0], values[1]), of, presence)


def _check_mapping(found: Any, what: str) -> None:
    if not isinstance(found, Mapping) or not found:
        kind = "empty" if found in (None, {}) else f"a {type(found).__name__}"
        raise Problem(f"{what} is {kind}, not names with values: {EXAMPLE}")


def _value_name(value: Any) -> str:
    """YAML reads a bare yes or no as a truth value."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _members(side: Any, what: str) -> list[str]:
    found = [side] if isinstance(side, (str, int)) else side
    if not isinstance(found, (list, tuple)) or not all(isinstance(group, (str, int)) for group in found):
        raise Problem(f"{what} is no list of groups: {EXAMPLE}")
    if not found:
        raise Problem(f"{what} has no group: an attribute that all share cannot be read, leave it out")
    return [str(group) for group in found]

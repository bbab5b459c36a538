"""Attributes of groups: from their names, and from a user's table."""

from __future__ import annotations

import pytest

from fewtoon.data import world
from fewtoon.data.attributes import attributes_of, read_table
from fewtoon.errors import Problem

TWO = ["sailor", "clerk"]
TABLE = {"glasses": {"yes": ["clerk"], "no": ["sailor"]}}


def told(groups, table=None, others=()):
    """{name: (values, presence, groups of value 1)}"""
    return {
        a.name: (a.values, a.presence, sorted(group for group, value in a.of.items() if value))
        for a in attributes_of(groups, table, others)
    }


def test_the_groups_of_the_webtoon():
    assert told(world.GROUPS) == {
        "glasses": (("no", "yes"), True, ["2_man_glasses", "3_woman_glasses"]),
        "presentation": (("man", "woman"), False, ["0_woman_no_glasses", "3_woman_glasses"]),
    }
    assert [a.name for a in attributes_of(world.GROUPS[::-1])] == ["glasses", "presentation"]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["Men", "WOMEN"], {"presentation": (("men", "women"), False, ["WOMEN"])}),
        (["frau mit Hut", "mann mit hut"], {"presentation": (("mann", "frau"), False, ["frau mit Hut"])}),
        (["man", "man with hat"], {"hat": (("no", "yes"), True, ["man with hat"])}),
        (["a-hat", "a, without hat"], {"hat": (("no", "yes"), True, ["a-hat"])}),
        (["01man", "02woman"], {"presentation": (("man", "woman"), False, ["02woman"])}),
        (["old", "young"], {"old or young": (("old", "young"), False, ["young"])}),
        (["plain no hat", "hat"], {"hat": (("no", "yes"), True, ["hat"])}),
        # What only occurs together cannot be told apart.
        (
            ["old_man", "young_woman"],
            {"old man or young woman": (("old man", "young woman"), False, ["young_woman"])},
        ),
        (["cat", "dog", "bird"], {w: (("no", "yes"), True, [w]) for w in ("bird", "cat", "dog")}),
        (["1", "2"], {}),
        (["one"], {}),
        (["same", "same"], {}),
        ([], {}),
    ],
)
def test_names(groups, expected):
    assert told(groups) == expected


def test_a_table_with_and_without_a_presence():
    table = {
        "glasses": {True: "clerk", False: ["sailor", "other"]},  # as YAML reads yes and no
        "hair": {"long": ["sailor"], "short": ["clerk"]},
        "hat": {"without": ["clerk"], "with": ["sailor"]},
    }
    assert told(TWO, table, ["other", "more"]) == {
        "glasses": (("no", "yes"), True, ["clerk"]),
        "hat": (("without", "with"), True, ["sailor"]),
        "hair": (("long", "short"), False, ["clerk"]),
    }


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"glasses": {"yes": ["clerk"], "no": ["sailer"]}}, "'sailer'.*did you mean 'sailor'"),
        ({"glasses": {"yes": ["clerk", "sailor"], "no": ["sailor"]}}, "'sailor' as 'yes' and as 'no'"),
        ({"glasses": {"yes": ["clerk"], "no": ["other"]}}, "leaves out the group 'sailor'"),
        ({"glasses": {"yes": TWO, "no": []}}, "value 'no' has no group"),
        ({"glasses": {"yes": TWO}}, "has the values yes: give it two"),
        (
            {"hair": {"long": ["clerk"], "short": ["sailor"], "none": []}},
            "has the values long, short, none: give",
        ),
        ({"glasses": {"yes": ["clerk"], True: ["sailor"]}}, "has the values yes, yes: give it two"),
        ({"glasses": ["clerk"]}, "'glasses' is a list"),
        ({"glasses": {"yes": {"clerk": 1}, "no": ["sailor"]}}, "is no list of groups"),
        ({"glasses": {"yes": [["clerk"]], "no": ["sailor"]}}, "is no list of groups"),
        ({}, "is empty"),
        (["glasses"], "is a list"),
    ],
)
def test_bad_tables(table, match):
    with pytest.raises(Problem, match=match) as error:
        attributes_of(TWO, table, ["other"])
    assert "\n" not in str(error.value)


def test_a_table_from_a_file(tmp_path):
    file = tmp_path / "table.yaml"
    file.write_text("glasses: {yes: [clerk], no: [sailor]}\n")
    assert told(TWO, read_table(file)) == told(TWO, TABLE)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a: [b\nc: d", "not YAML at line 2"),
        ("- a", "is a list"),
        ("", "is empty"),
        ("a: 2020-13-45", "not YAML"),
        (b"\xff\xfe\xfa", "not YAML"),
        (None, "cannot read"),
    ],
)
def test_unreadable_files(content, match, tmp_path):
    file = tmp_path / "table.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Problem, match=match) as error:
        read_table(file)
    assert "\n" not in str(error.value)

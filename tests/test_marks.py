"""The table of boxes and groups: what a person wrote comes back, and what cannot be meant is said in one line."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from asking import one_line
from fewtoon.data import marks as marks_module
from fewtoon.data.marks import NAME, Mark, Marks, check_inside
from fewtoon.errors import Problem
from fewtoon.io.images import BadPicture

HEADER = "file,left,top,right,bottom,roll,group\n"


def table(folder: Path, text: str, name: str = NAME) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def read(folder: Path, text: str, name: str = NAME) -> Marks:
    return Marks.read(table(folder, text, name))


# What is read


def test_a_table_by_hand(tmp_path: Path) -> None:
    marks = read(
        tmp_path,
        HEADER
        + "b/page 2.png, 120, 80.52, 220, 198, -12, anna\n\n"
        + "./a.png,10,20,30,50\n"
        + 'none.png,,,,,,\n"comma, quote"".png",1,2,3,4,0,ベン\n',
    )
    assert marks.files == ["a.png", "b/page 2.png", 'comma, quote".png', "none.png"]
    assert marks.of("b/page 2.png") == [Mark("b/page 2.png", (120, 80.5, 220, 198), -12.0, "anna")]
    assert marks.of("a.png") == [Mark("a.png", (10, 20, 30, 50))]
    assert marks.of("none.png") == []
    assert marks.of("other.png") is None
    assert marks.groups == ["anna", "ベン"]
    assert len(marks) == 3
    face = marks.of("b/page 2.png")[0].face()  # type: ignore[index]
    assert (face.box, face.roll, face.score, face.finder) == ((120, 80.5, 220, 198), -12.0, 1.0, "marked")
    one_line(Mark("none.png", None).face, "none.png", "no face")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_as_spreadsheets_write_it(tmp_path: Path, delimiter: str, begin: str) -> None:
    text = begin + HEADER + "a.png,1,2,3,4,5,g\r\nb.png,,,,,,\r\n"
    marks = read(tmp_path, text.replace(",", delimiter))
    assert marks.of("a.png") == [Mark("a.png", (1, 2, 3, 4), 5.0, "g")]
    assert marks.of("b.png") == []


def test_json_says_the_same(tmp_path: Path) -> None:
    box = {"left": 1, "top": 2.25, "right": "3", "bottom": 4, "roll": 5, "group": "g"}
    empty = dict.fromkeys(box)
    entries = [
        {"file": "a.png", **box, "note": "x"},
        {"file": "b.png", "note": ""},
        {"file": "c.png", **empty},
    ]
    marks = read(tmp_path, json.dumps(entries), "faces.json")
    assert marks.of("a.png") == [Mark("a.png", (1, 2.2, 3, 4), 5.0, "g", (("note", "x"),))]
    assert marks.of("b.png") == marks.of("c.png") == []
    marks.write(tmp_path / "again.json")
    marks.write(tmp_path / "again.csv")
    for again in ("again.json", "again.csv"):
        assert Marks.read(tmp_path / again).of("a.png") == marks.of("a.png")
        assert Marks.read(tmp_path / again).identity == marks.identity


@pytest.mark.parametrize(
    ("given", "kept"), [(0, 0), (180, 180), (-180, 180), (190, -170), (-190, 170), (540, 180), (725.04, 5)]
)
def test_roll_is_brought_into_its_range(given: float, kept: float) -> None:
    marks = Marks([Mark("a.png", (0, 0, 9, 9), given)])
    assert marks.of("a.png")[0].roll == kept  # type: ignore[index]


# Which picture a row is about


def test_a_row_without_folder_is_about_pictures_below(tmp_path: Path) -> None:
    marks = read(tmp_path, HEADER + "x.png,1,2,3,4,0,g\nb/y.png,,,,,,\ngone.png,,,,,,\n")
    found = ["a/x.png", "b/x.png", "b/y.png"]
    assert marks.of("a/x.png") == marks.of("x.png") == [Mark("x.png", (1, 2, 3, 4), 0.0, "g")]
    assert marks.of("y.png") is None
    assert marks.unknown(found) == ["gone.png"]
    settled = marks.settled(found)
    assert settled.files == ["a/x.png", "b/x.png", "b/y.png", "gone.png"]
    assert settled.of("b/x.png") == [Mark("b/x.png", (1, 2, 3, 4), 0.0, "g")]
    assert settled.of("x.png") is None
    assert settled.unknown(found) == ["gone.png"]


def test_a_row_that_names_a_picture_is_about_no_other(tmp_path: Path) -> None:
    marks = read(tmp_path, HEADER + "x.png,1,2,3,4,0,\n").settled(["x.png", "a/x.png"])
    assert marks.of("x.png") == [Mark("x.png", (1, 2, 3, 4))]
    assert marks.of("a/x.png") is None
    marks = read(tmp_path, HEADER + "x.png,1,2,3,4,0,\nb/x.png,,,,,,\n").settled(["a/x.png", "b/x.png"])
    assert marks.of("a/x.png") == [Mark("a/x.png", (1, 2, 3, 4))]
    assert marks.of("b/x.png") == []


# What is written


def test_the_order_and_the_numbers_are_always_the_same(tmp_path: Path) -> None:
    faces = [
        Mark("b.png", (50.04, 10, 90, 40), 0.04, "g"),
        Mark("b.png", (-0.04, 10, 20.26, 30), -90),
        Mark("b.png", (5, 2, 20, 9)),
    ]
    marks = Marks([*faces, Mark("a.png", None)])
    marks.write(tmp_path / NAME)
    written = (tmp_path / NAME).read_text(encoding="utf-8")
    assert written == (
        HEADER + "a.png,,,,,,\nb.png,5,2,20,9,0,\nb.png,0,10,20.3,30,-90,\nb.png,50,10,90,40,0,g\n"
    )
    other = Marks([Mark("a.png", None), *faces[::-1]])
    assert other.identity == marks.identity
    other.write(tmp_path / NAME)
    assert (tmp_path / NAME).read_text(encoding="utf-8") == written
    Marks.read(tmp_path / NAME).write(tmp_path / NAME)
    assert (tmp_path / NAME).read_text(encoding="utf-8") == written
    assert list(tmp_path.iterdir()) == [tmp_path / NAME]  # no temporary file is left


def test_columns_of_the_reader_are_kept(tmp_path: Path) -> None:
    marks = read(tmp_path, "note,file,left,top,right,bottom\n=ask Anna,b.png,1,2,3,4\n,a.png,,,,\n")
    marks.set("c.png", [Mark("c.png", (1, 2, 3, 4))])
    marks.write(tmp_path / NAME)
    with open(tmp_path / NAME, newline="", encoding="utf-8") as file:
        assert [(row["file"], row["note"]) for row in csv.DictReader(file)] == [
            ("a.png", ""),
            ("b.png", "=ask Anna"),
            ("c.png", ""),
        ]


def test_names_that_are_awkward_come_back(tmp_path: Path) -> None:
    names = [" a.png ", 'q"uote.png', "semi;colon.png", "\\xff.png", "日本/頁 1.png", "#x,y.png"]
    marks = Marks([Mark(name, (1, 2, 3, 4), 0.0, "g,h") for name in names])
    marks.write(tmp_path / NAME)
    assert list(Marks.read(tmp_path / NAME).rows()) == list(marks.rows())


def test_identity_is_of_what_is_decided(tmp_path: Path) -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    base = Marks([Mark("a.png", box, 5.0, "g")]).identity
    assert len(base) == 64
    assert Marks([Mark("a.png", box, 5.0, "g", (("note", "x"),))]).identity == base
    for other in (
        Mark("b.png", box, 5.0, "g"),
        Mark("a.png", (1, 2, 3, 4.1), 5.0, "g"),
        Mark("a.png", box, 5.1, "g"),
        Mark("a.png", box, 5.0),
        Mark("a.png", None),
    ):
        assert Marks([other]).identity != base


def test_set_replaces_and_forgets() -> None:
    marks = Marks([Mark("a.png", (1, 2, 3, 4))])
    marks.set("a.png", [])
    assert marks.of("a.png") == []
    marks.set("a.png", None)
    assert marks.of("a.png") is None
    assert marks.files == []
    one_line(
        lambda: marks.set("a.png", [Mark("a.png", (0, 0, 10, 10)), Mark("a.png", (0, 0, 10, 9))]), "a.png"
    )
    assert marks.of("a.png") is None  # nothing half done


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    table(tmp_path, "no folder", "file")
    one_line(lambda: Marks().write(tmp_path / "file" / NAME), "cannot write")


# What cannot be meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["line 1", "'file'"]),
        ("file,left,top,right\na.png,1,2,3\n", ["line 1", "'bottom'", "file,left,top,right,bottom"]),
        ("file,left,left,top,right,bottom\n", ["line 1", "two columns 'left'"]),
        (HEADER + "a.png,1,2,3,4,0,g\nb.png,x,2,3,4,0,g\n", ["line 3", "left", "'x'", "not a number"]),
        (HEADER + "a.png,1,2,nan,4,0,g\n", ["line 2", "right", "'nan'"]),
        (HEADER + "a.png,1,2,3,1e999,0,g\n", ["line 2", "bottom", "'1e999'"]),
        (HEADER + "a.png,1,2,3,4,inf,g\n", ["line 2", "roll", "'inf'"]),
        (HEADER + "a.png,1,2,3,4e8,0,g\n", ["line 2", "bottom", "4e+08"]),
        (HEADER + '"a.png",5,2,3,4,0,g\n', ["line 2", "a.png", "right 3 <= left 5"]),
        (HEADER + "a.png,1,4,3,4.04,0,g\n", ["line 2", "bottom 4 <= top 4"]),
        (HEADER + "a.png,1,2,3,,0,g\n", ["line 2", "no bottom"]),
        (HEADER + "a.png,,,,,,g\n", ["line 2", "'g' has no box"]),
        (HEADER + ",1,2,3,4,0,g\n", ["line 2", "name ''"]),
        (HEADER + "a.png,1,2,3,4,0,all\n", ["line 2", "'all'"]),
        (HEADER + '"a\nb.png",1,2,3,4,0,g\n', ["line 3", "name"]),
        (HEADER + "a,b.png,1,2,3,4,0,g\n", ["line 2", "8 values for 7 columns"]),
        (HEADER + 'a.png,1,2,3,4,0,"g\n', ["line 2", "quotes"]),
        (HEADER + "a\0.png,1,2,3,4,0,g\n", ["null"]),
        (HEADER + "a.png,0,0,100,100,0,\nb.png,0,0,9,9,0,\na.png,1,1,101,99,0,\n", ["line 4", "line 2", "a.png"]),
        (HEADER + "a.png,,,,,,\n./a.png,1,1,101,99,0,\n", ["line 2", "line 3", "'a.png'", "no face"]),
    ],
)  # fmt: skip
def test_one_line_for_a_bad_table(tmp_path: Path, text: str, words: list[str]) -> None:
    one_line(lambda: read(tmp_path, text), NAME, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["JSON"]),
        ("[" * 100_000, ["JSON"]),
        ('{"file": "a.png"}', ["dict", "list"]),
        ('[{"file": "a.png"}, 3]', ["entry 2", "3"]),
        ('[{"left": 1}]', ["entry 1", "'file'"]),
        ('[{"file": "a.png", "left": 1, "top": 2, "right": NaN, "bottom": 4}]', ["entry 1", "right", "NaN"]),
        ('[{"file": "a.png", "left": true, "top": 2, "right": 3, "bottom": 4}]', ["entry 1", "left", "true"]),
        ('[{"file": "a.png", "left": [1], "top": 2, "right": 3, "bottom": 4}]', ["entry 1", "left", "[1]"]),
        ('[{"file": {"a": 1}, "left": 5, "top": 2, "right": 3, "bottom": 4}]', ["entry 1", "right 3"]),
        ('[{"file": null}]', ["entry 1", "name ''"]),
        ('[{"file": "\\ud800", "left": 5, "top": 2, "right": 3, "bottom": 4}]', ["entry 1", "right 3"]),
    ],
)
def test_one_line_for_bad_json(tmp_path: Path, text: str, words: list[str]) -> None:
    one_line(lambda: read(tmp_path, text, "faces.json"), "faces.json", *words)


def test_one_line_for_files_that_are_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_line(lambda: Marks.read(tmp_path / "none.csv"), "none.csv", "cannot be read")
    one_line(lambda: Marks.read(tmp_path), "not a file")
    one_line(lambda: Marks.read("a\0.csv"), "cannot be read")
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + "é".encode("latin-1"))
    one_line(lambda: Marks.read(tmp_path / "latin.csv"), "latin.csv", "UTF-8", f"byte {len(HEADER)}")
    (tmp_path / "excel.csv").write_bytes(HEADER.encode("utf-16"))
    one_line(lambda: Marks.read(tmp_path / "excel.csv"), "UTF-8")
    if hasattr(os, "mkfifo"):  # to open it would wait for ever
        os.mkfifo(tmp_path / "pipe.csv")
        one_line(lambda: Marks.read(tmp_path / "pipe.csv"), "not a file")
    monkeypatch.setattr(marks_module, "MAX_BYTES", 2_000_000)
    with open(tmp_path / "huge.csv", "wb") as file:
        file.truncate(3_000_000)
    one_line(lambda: Marks.read(tmp_path / "huge.csv"), "huge.csv", "3 MB")


def test_faces_that_overlap_are_two(tmp_path: Path) -> None:
    marks = read(tmp_path, HEADER + "a.png,0,0,100,100,0,\na.png,0,30,100,130,0,\nb.png,0,0,100,100,0,\n")
    assert len(marks.of("a.png")) == 2  # type: ignore[arg-type]


def test_ten_thousand_faces_of_one_picture_are_compared_in_time() -> None:
    marks = [Mark("a.png", (20 * (i % 100), 20 * (i // 100), 20 * (i % 100) + 19, 20 * (i // 100) + 19))
             for i in range(10_000)]  # fmt: skip
    assert len(Marks(marks)) == 10_000
    with pytest.raises(Problem):
        Marks([*marks, marks[4321]])


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (-4, 0, 6, 10), (90, 40, 110, 50), (0, -100, 100, 100)])
def test_a_box_over_the_border_is_inside(box: tuple[float, float, float, float]) -> None:
    check_inside(Mark("a.png", box), 100, 50 if box[1] >= 0 else 200)
    check_inside(Mark("a.png", None), 100, 50)


@pytest.mark.parametrize(
    ("box", "how"),
    [
        ((-6, 0, 4, 10), "mostly outside"),
        ((0, 49, 10, 59), "mostly outside"),
        ((100, 0, 110, 10), "lies outside"),
        ((-9, -9, -1, -1), "lies outside"),
    ],
)
def test_a_box_outside_its_picture(box: tuple[float, float, float, float], how: str) -> None:
    with pytest.raises(BadPicture, match="100 x 50") as told:
        check_inside(Mark("a.png", box), 100, 50)
    assert how in told.value.reason
    assert "a.png" in str(told.value)
    assert "a.png" not in told.value.reason

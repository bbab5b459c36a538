"""prepare, where faces are found: framed, upright, one row each, and a person's boxes before any finder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asking import one_line
from fewtoon.data.doctor import Report
from fewtoon.data.pack import Pack
from fewtoon.data.prepare import prepare
from fewtoon.faces import finders
from fewtoon.io.images import save_png
from scripted import EYE, HAIR, MOUTH, SKIN, ScriptedFinder, person


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedFinder:
    finder = ScriptedFinder()
    monkeypatch.setattr(finders, "choose", lambda specs, side: finder)
    return finder


def page(
    width: int = 300, height: int = 200, background: tuple[int, int, int] = (200, 205, 210)
) -> np.ndarray:
    return np.full((height, width, 3), background, np.uint8)


def run(source: Path, out: Path, **options: object) -> tuple[Report, Pack]:
    report = prepare([source], "photos", out, **{"size": 64, "workers": 2, "held_out": 0, **options})  # type: ignore[arg-type]
    return report, Pack.open(out)


def is_framed(square: np.ndarray) -> bool:
    """Whether a (64, 64, 3) square shows a `person` upright, as the portrait framing has it."""
    near = lambda y, x, colour: np.abs(square[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)) - colour).max() < 100
    middle = round((0.8 + 0.5) / 2.1 * 64)  # the centre of the face
    height = 64 / 2.1
    eyes = [near(round(middle - 0.2 * height), round(32 + side * 0.18 * height), EYE) for side in (-1, 1)]
    mouth = near(round(middle + 0.25 * height), 32, MOUTH)
    return all(eyes) and mouth and near(round(middle - 0.75 * height), 32, HAIR) and near(middle, 32, SKIN)


def test_every_face_of_a_picture_is_a_row(tmp_path: Path) -> None:
    picture = page(400, 200)
    person(picture, 300, 120, 60)
    person(picture, 100, 100, 40, roll=30)
    person(picture, 200, 90, 30, roll=180)
    save_png(tmp_path / "in" / "three.png", picture)
    report, pack = run(tmp_path / "in", tmp_path / "pack")
    assert report.accepted == 3
    assert pack.framing == "portrait"
    assert all(is_framed(square) for square in pack.images)
    assert [row.box[0] < row.box[2] for row in pack.rows if row.box] == [True] * 3
    lefts = [row.box[0] for row in pack.rows if row.box]
    assert lefts == sorted(lefts)  # from left to right
    assert [(row.roll or 0) % 360 for row in pack.rows] == pytest.approx([30, 180, 0], abs=5)
    assert {row.finder for row in pack.rows} == {"scripted"}
    assert pack.rows[0].side == pytest.approx(2.1 * 40, rel=0.06)
    assert len(pack.rows[0].landmarks or []) == 5


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_turned_by_its_camera(tmp_path: Path, orientation: int) -> None:
    picture = page()
    person(picture, 140, 110, 60, roll=12)
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # what the camera stores for it
    stored = Image.fromarray(np.rot90(picture, turns))
    exif = stored.getexif()
    exif[274] = orientation
    (tmp_path / "in").mkdir()
    stored.save(tmp_path / "in" / "a.png", exif=exif)
    _, pack = run(tmp_path / "in", tmp_path / "pack")
    assert is_framed(pack.images[0])
    assert pack.rows[0].roll == pytest.approx(12, abs=3)


def test_a_picture_without_a_face_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    save_png(tmp_path / "in" / "empty.png", page())
    picture = page()
    person(picture, 140, 110, 60)
    save_png(tmp_path / "in" / "one.png", picture)
    report, pack = run(tmp_path / "in", tmp_path / "pack")
    assert [row.file for row in pack.rows] == ["one.png"]
    assert [entry.file for entry in report.refused] == ["empty.png"]
    assert "fewtoon mark" in report.refused[0].reason
    save_png(tmp_path / "none" / "empty.png", page())
    one_line(lambda: run(tmp_path / "none", tmp_path / "other"), "no face was found", "empty.png")
    assert not (tmp_path / "other").exists()


def test_squares_are_taken_as_they_are_unless_asked(tmp_path: Path) -> None:
    picture = page(200, 200)
    person(picture, 60, 110, 40)
    save_png(tmp_path / "in" / "a.png", picture)
    report, pack = run(tmp_path / "in", tmp_path / "pack")
    assert pack.framing == "as-is"
    assert pack.rows[0].box is None
    assert any("--framing" in note for note in report.advice)
    _, pack = run(tmp_path / "in", tmp_path / "pack", framing="portrait")
    assert pack.framing == "portrait"
    assert is_framed(pack.images[0])


def test_ffhq(tmp_path: Path) -> None:
    picture = page()
    person(picture, 150, 100, 50, roll=-40)
    save_png(tmp_path / "in" / "a.png", picture)
    _, pack = run(tmp_path / "in", tmp_path / "pack", framing="ffhq")
    assert pack.framing == "ffhq"
    eyes = [np.argwhere((np.abs(pack.images[0].astype(int) - EYE)).max(-1) < 60)]
    assert np.ptp(eyes[0][:, 0]) < np.ptp(eyes[0][:, 1])  # side by side


def test_the_edge_of_the_picture(tmp_path: Path) -> None:
    picture = page()
    person(picture, 20, 110, 60)
    save_png(tmp_path / "in" / "a.png", picture)
    _, mirrored = run(tmp_path / "in", tmp_path / "one")
    _, white = run(tmp_path / "in", tmp_path / "two", pad="white")
    assert (mirrored.pad, white.pad) == ("reflect", "white")
    assert (white.images[0][:, :10] == 255).all()
    assert not (mirrored.images[0][:, :10] == 255).all()
    assert mirrored.hash != white.hash


def test_small_faces_are_enlarged_and_the_smallest_left_out(tmp_path: Path) -> None:
    picture = page(400, 200)
    person(picture, 100, 100, 20)
    person(picture, 250, 100, 60)
    save_png(tmp_path / "in" / "a.png", picture)
    report, pack = run(tmp_path / "in", tmp_path / "pack", size=64)
    small, large = pack.rows
    assert small.upscaled
    assert "x1.5" in small.upscaled
    assert large.upscaled is None
    assert [(one.file, one.width) for one in report.upscaled] == [("a.png", round(small.side or 0))]
    report, pack = run(tmp_path / "in", tmp_path / "pack", size=64, smallest=60)
    assert len(pack) == 1
    assert "smallest" in report.refused[0].reason
    one_line(lambda: run(tmp_path / "in", tmp_path / "pack", smallest=500), "--smallest", "500 px")


def test_one_face_per_picture(tmp_path: Path) -> None:
    picture = page(400, 200)
    person(picture, 100, 100, 30)
    person(picture, 250, 100, 60)
    save_png(tmp_path / "in" / "a.png", picture)
    _, pack = run(tmp_path / "in", tmp_path / "pack", only_largest=True)
    assert [round(row.side or 0, -1) for row in pack.rows] == [130]


def test_faces_of_one_picture_are_never_on_both_sides(tmp_path: Path) -> None:
    for number in range(12):
        picture = page(400, 200, (90 + number, 120, 140))
        person(picture, 100, 100, 50)
        person(picture, 260, 100, 60)
        save_png(tmp_path / "in" / f"{number}.png", picture)
    _, pack = run(tmp_path / "in", tmp_path / "pack", held_out=0.4)
    held_out = {row.file for row in pack.rows if row.split == "held_out"}
    assert held_out
    assert not held_out & {row.file for row in pack.rows if row.split == "train"}


# Boxes that a person drew


def marked(tmp_path: Path, table: str) -> Path:
    folder = tmp_path / "in"
    picture = page(400, 200)
    person(picture, 100, 100, 40)
    person(picture, 260, 100, 60)
    save_png(folder / "a" / "two.png", picture)
    save_png(folder / "a" / "drawn.png", page(300, 200))
    (folder / "faces.csv").write_text(table, encoding="utf-8")
    return folder


def test_boxes_win_over_the_finder_and_groups_over_folders(tmp_path: Path) -> None:
    table = "file,left,top,right,bottom,roll,group\na/two.png,220,70,300,130,0,blue\na/drawn.png,50,50,90,100,15,\n"
    report, pack = run(marked(tmp_path, table), tmp_path / "pack")
    assert [(row.file, row.group, row.finder) for row in pack.rows] == [
        ("a/drawn.png", "a", "marked"),
        ("a/two.png", "blue", "marked"),
    ]
    assert pack.rows[0].box == (50, 50, 90, 100)
    assert pack.rows[0].roll == 15
    assert not report.refused
    again = prepare([tmp_path / "in"], "photos", tmp_path / "pack", size=64, held_out=0)
    assert again.unchanged
    (tmp_path / "in" / "faces.csv").write_text(table.replace("blue", "red"), encoding="utf-8")
    again = prepare([tmp_path / "in"], "photos", tmp_path / "pack", size=64, held_out=0)
    assert not again.unchanged
    assert "red" in again.groups


def test_files_that_the_table_does_not_name_go_to_the_finder(tmp_path: Path) -> None:
    report, pack = run(marked(tmp_path, "file,left,top,right,bottom\na/drawn.png,,,,\n"), tmp_path / "pack")
    assert [row.finder for row in pack.rows] == ["scripted"] * 2
    assert [entry.file for entry in report.refused] == ["a/drawn.png"]
    assert "marked as a picture without a face" in report.refused[0].reason


def test_boxes_outside_and_files_that_are_not_there(tmp_path: Path) -> None:
    table = "file,left,top,right,bottom\na/two.png,900,70,980,130\na/gone.png,1,1,50,50\n"
    table += "a/drawn.png,50,50,90,100\n"
    report, pack = run(marked(tmp_path, table), tmp_path / "pack")
    assert [row.file for row in pack.rows] == ["a/drawn.png"]
    assert [entry.file for entry in report.refused] == ["a/two.png"]
    assert "400 x 200" in report.refused[0].reason
    assert any("gone.png" in note for note in report.advice)
    only_gone = "file,left,top,right,bottom\ngone.png,1,1,50,50\n"
    one_line(lambda: run(marked(tmp_path, only_gone), tmp_path / "other"), "names none of the 2 pictures")


def test_every_folder_has_its_own_table(tmp_path: Path) -> None:
    for name, left in (("one", 40), ("two", 60)):
        save_png(tmp_path / name / "a" / "x.png", page(background=(left, 90, 120)))
        table = f"file,left,top,right,bottom\nx.png,{left},50,{left + 40},100\n"
        (tmp_path / name / "faces.csv").write_text(table, encoding="utf-8")
    prepare([tmp_path / "one", tmp_path / "two"], "photos", tmp_path / "pack", size=64, held_out=0)
    rows = Pack.open(tmp_path / "pack").rows
    assert [(row.file, row.box and row.box[0]) for row in rows] == [("one/a/x.png", 40), ("two/a/x.png", 60)]


def test_a_table_counts_for_pictures_that_are_taken_as_they_are(tmp_path: Path) -> None:
    table = "file,left,top,right,bottom,group\na/two.png,80,80,120,120,blue\na/drawn.png,,,,,\n"
    report, pack = run(marked(tmp_path, table), tmp_path / "pack", framing="as-is")
    assert [(row.file, row.group, row.box) for row in pack.rows] == [("a/two.png", "blue", None)]
    assert "marked as a picture without a face" in report.refused[0].reason


def test_naming_a_matte_means_to_whiten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        name = identity = "nobody"

        def __call__(self, crop: np.ndarray) -> np.ndarray:
            return np.zeros(crop.shape[:2], np.uint8)

    monkeypatch.setattr("fewtoon.data.prepare.open_matte", lambda spec: Nobody())
    picture = page()
    person(picture, 140, 110, 60)
    save_png(tmp_path / "in" / "a.png", picture)
    _, pack = run(tmp_path / "in", tmp_path / "pack", matte="nobody")
    assert (pack.whiten, pack.pad, int(pack.images[0].min())) == ("nobody", "white", 255)


def test_two_rows_for_one_face(tmp_path: Path) -> None:
    table = "file,left,top,right,bottom\na/two.png,220,70,300,130\na/two.png,221,70,300,131\n"
    one_line(lambda: run(marked(tmp_path, table), tmp_path / "pack"), "two")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"framing": "portait"}, ["portait", "portrait"]),
        ({"pad": "black"}, ["black", "reflect, white"]),
        ({"smallest": -1}, ["-1"]),
        ({"faces": "nowhere.csv"}, ["nowhere.csv"]),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path: Path, options: dict[str, object], words: list[str]) -> None:
    save_png(tmp_path / "in" / "a.png", page())
    one_line(lambda: run(tmp_path / "in", tmp_path / "pack", **options), *words)


def test_pages_of_drawings_are_cut_into_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = page(300, 2400, (255, 255, 255))
    for number, y in enumerate((300, 1100, 1900)):
        strip[y - 250 : y + 250, 20:280] = (150, 180, 200 + number)
        person(strip, 150, y, 60 + 10 * number)
    save_png(tmp_path / "in" / "strip.png", strip)
    seen: list[tuple[int, ...]] = []
    look = ScriptedFinder.__call__
    monkeypatch.setattr(ScriptedFinder, "__call__", lambda self, p: seen.append(p.shape) or look(self, p))
    prepare([tmp_path / "in"], "drawings", tmp_path / "pack", size=64, held_out=0)
    assert max(shape[0] for shape in seen) < 900  # never the whole strip
    pack = Pack.open(tmp_path / "pack")
    assert len(pack) == 3
    assert all(is_framed(square) for square in pack.images)


def test_a_strip_of_40000_rows(tmp_path: Path) -> None:
    strip = page(300, 40_000)
    for y, height in ((500, 60), (20_000, 70), (39_900, 80)):
        person(strip, 150, y, height)
    save_png(tmp_path / "in" / "strip.png", strip)
    _, pack = run(tmp_path / "in", tmp_path / "pack")
    assert len(pack) == 3
    assert all(is_framed(square) for square in pack.images[:2])

"""translate, where faces are found: each is drawn, advised on, and put back where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from asking import one_line
from fewtoon.config import Strict
from fewtoon.draw import translate
from fewtoon.errors import Problem
from fewtoon.faces import coach, finders, models
from fewtoon.io.images import read, save_png
from fewtoon.methods.base import Method
from fewtoon.style import Style
from scripted import SKIN, ScriptedFinder, person

BACKGROUND = (150, 140, 130)


class Negative(Method):
    """Draws the negative of a photo: everybody sees what was drawn."""

    name, paper = "negative", "none"

    def networks(self) -> dict[str, nn.Module]:
        return {}

    def translate(self, photos: Tensor, group: str | None = None) -> Tensor:
        return -photos


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
    monkeypatch.setattr(models, "available", lambda: False)  # whole squares are pasted


def style(**header: Any) -> Style:
    return Style(Negative(Strict(), 64, [], training=False), {"framing": "portrait", **header}, "cpu", "fp32")


def group_photo(path: Path) -> np.ndarray:
    picture = np.full((240, 500, 3), BACKGROUND, np.uint8)
    person(picture, 400, 120, 64)
    person(picture, 90, 110, 40, roll=35)
    person(picture, 230, 120, 50, roll=-160)
    save_png(path, picture)
    return picture


def is_negative(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixels.astype(int) - (255 - np.array(colour))).max() < 40)


def test_every_face_becomes_a_drawing(tmp_path: Path) -> None:
    group_photo(tmp_path / "in" / "us.png")
    result = translate(style(), tmp_path / "in", tmp_path / "out")
    assert result["drawn"] == ["us-1.png", "us-2.png", "us-3.png"]  # from left to right
    assert [face["roll"] for face in result["faces"]] == pytest.approx([35, -160, 0], abs=5)
    for name in result["drawn"]:
        drawing = read(tmp_path / "out" / name)
        assert drawing.shape == (64, 64, 3)
        assert is_negative(drawing[round(1.3 / 2.1 * 64), 32], SKIN)


def test_one_face_keeps_its_name_and_several_take_nobody_elses(tmp_path: Path) -> None:
    group_photo(tmp_path / "in" / "us.png")
    single = np.full((240, 300, 3), BACKGROUND, np.uint8)
    person(single, 150, 120, 60)
    save_png(tmp_path / "in" / "us-1.png", single)
    result = translate(style(), tmp_path / "in", tmp_path / "out")
    assert len(set(result["drawn"])) == 4
    assert "us-1.png" in result["drawn"]
    by_file = {face["drawing"]: face["file"] for face in result["faces"]}
    assert by_file["us-1.png"].endswith("us-1.png")
    only = translate(style(), tmp_path / "in" / "us.png", tmp_path / "one", only_largest=True)
    assert only["drawn"] == ["us.png"]
    assert round(only["faces"][0]["roll"]) == 0


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_drawings_do_not_depend_on_the_batch(tmp_path: Path, batch: int) -> None:
    for number in range(3):
        group_photo(tmp_path / "in" / f"{number}.png")
    translate(style(), tmp_path / "in", tmp_path / "one", batch=4)
    translate(style(), tmp_path / "in", tmp_path / "two", batch=batch)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 9
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


def test_paste_puts_every_face_back_and_leaves_the_rest(tmp_path: Path) -> None:
    photo = group_photo(tmp_path / "in" / "us.png")
    result = translate(style(), tmp_path / "in", tmp_path / "out", paste=True)
    assert result["drawn"] == ["us.png"]
    assert len(result["faces"]) == 3
    pasted = read(tmp_path / "out" / "us.png")
    assert pasted.shape == photo.shape
    for x, y in ((400, 120), (90, 110), (230, 120)):
        assert is_negative(pasted[y, x], SKIN)
    assert np.array_equal(pasted[:, 308:320], photo[:, 308:320])  # between two people
    assert np.array_equal(pasted[-8:], photo[-8:])
    beside = translate(style(), tmp_path / "in", tmp_path / "beside", paste=True, side_by_side=True)
    both = read(tmp_path / "beside" / beside["drawn"][0])
    assert np.array_equal(both[:, :500], photo)
    assert np.array_equal(both[:, 500:], pasted)


def test_paste_keeps_the_orientation_and_drops_the_place(tmp_path: Path) -> None:
    picture = np.full((240, 300, 3), BACKGROUND, np.uint8)
    person(picture, 150, 120, 60)
    stored = Image.fromarray(np.rot90(picture))
    exif = stored.getexif()
    exif[274] = 6
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 24.0)  # GPS latitude
    exif[271] = "a camera"
    (tmp_path / "in").mkdir()
    stored.save(tmp_path / "in" / "me.png", exif=exif)
    translate(style(), tmp_path / "in", tmp_path / "out", paste=True)
    with Image.open(tmp_path / "out" / "me.png") as image:
        assert image.size == (300, 240)
        assert not dict(image.getexif())
        assert not image.info.get("exif")
    assert is_negative(read(tmp_path / "out" / "me.png")[120, 150], SKIN)


def test_a_whitened_style_draws_before_white_and_pastes_the_person_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LeftHalf:
        name = identity = "left half"

        def __call__(self, crop: np.ndarray) -> np.ndarray:
            alpha = np.zeros(crop.shape[:2], np.uint8)
            alpha[:, : crop.shape[1] // 2] = 255
            return alpha

    for user in ("fewtoon.faces.matte", "fewtoon.draw"):
        monkeypatch.setattr(f"{user}.open_matte", lambda spec: LeftHalf())
    picture = np.full((240, 300, 3), BACKGROUND, np.uint8)
    person(picture, 150, 120, 60)
    save_png(tmp_path / "in" / "me.png", picture)
    artist = style(whiten="left half")
    translate(artist, tmp_path / "in", tmp_path / "out")
    drawing = read(tmp_path / "out" / "me.png")
    assert (drawing[:, 33:] == 255).all()
    assert not (drawing[:, :31] == 255).all()
    translate(artist, tmp_path / "in", tmp_path / "pasted", paste=True)
    pasted = read(tmp_path / "pasted" / "me.png")
    assert np.array_equal(pasted[:, 155:], picture[:, 155:])
    assert is_negative(pasted[120, 140], SKIN)

    monkeypatch.setattr(
        models, "available", lambda: True
    )  # any style's drawing then replaces the person alone
    translate(style(), tmp_path / "in", tmp_path / "plain", paste=True)
    plain = read(tmp_path / "plain" / "me.png")
    assert np.array_equal(plain[:, 155:], picture[:, 155:])
    assert is_negative(plain[120, 140], SKIN)


def test_a_matte_that_is_missing_is_said_and_the_photo_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(spec: str) -> None:
        raise Problem("no models here: run 'fewtoon models fetch'")

    monkeypatch.setattr("fewtoon.faces.matte.open_matte", missing)
    group_photo(tmp_path / "in" / "us.png")
    result = translate(style(whiten="mediapipe"), tmp_path / "in", tmp_path / "out")
    assert len(result["drawn"]) == 3
    assert "models fetch" in result["notes"][0]


def test_photos_without_a_face_are_told_apart_and_the_rest_goes_on(tmp_path: Path) -> None:
    group_photo(tmp_path / "in" / "us.png")
    save_png(tmp_path / "in" / "empty.png", np.full((240, 300, 3), BACKGROUND, np.uint8))
    save_png(tmp_path / "in" / "night.png", np.full((240, 300, 3), 12, np.uint8))
    save_png(tmp_path / "in" / "green.png", np.full((240, 300, 3), (0, 120, 0), np.uint8))
    save_png(tmp_path / "in" / "tiny.png", np.full((40, 40, 3), 120, np.uint8))
    result = translate(style(), tmp_path / "in", tmp_path / "out", paste=True)
    assert result["drawn"] == ["us.png"]
    reasons = {Path(one["file"]).name: one["reason"] for one in result["refused"]}
    assert set(reasons) == {"empty.png", "night.png", "tiny.png", "green.png"}
    assert "dark" not in reasons["green.png"]
    assert "looks at the camera" in reasons["empty.png"]
    assert "dark" in reasons["night.png"]
    assert "40 x 40" in reasons["tiny.png"]


def test_a_style_that_takes_photos_as_they_are(tmp_path: Path) -> None:
    group_photo(tmp_path / "in" / "us.png")
    as_is = style(framing="as-is")
    result = translate(as_is, tmp_path / "in", tmp_path / "out")
    assert result["drawn"] == ["us.png"]
    assert "framing 'portrait'" in result["advice"][0]["advice"]  # 500 x 240 is no face crop
    one_line(lambda: translate(as_is, tmp_path / "in", tmp_path / "two", paste=True), "--framing portrait")
    asked = translate(as_is, tmp_path / "in", tmp_path / "three", framing="portrait")
    assert len(asked["drawn"]) == 3
    one_line(lambda: translate(as_is, tmp_path / "in", tmp_path / "four", framing="head"), "head", "portrait")


@pytest.mark.filterwarnings("ignore:the face models are not on this machine")
def test_draw_finds_the_largest_face(tmp_path: Path) -> None:
    photo = group_photo(tmp_path / "us.png")
    drawing = np.asarray(style().draw(photo))
    translate(style(), tmp_path / "us.png", tmp_path / "out", only_largest=True)
    assert np.array_equal(drawing, read(tmp_path / "out" / "us.png"))
    assert not np.array_equal(np.asarray(style().draw(photo, framing="as-is")), drawing)
    one_line(lambda: style().draw(np.full((99, 99, 3), 120, np.uint8)), "no face")


def test_advice_names_the_face_where_the_picture_has_several(tmp_path: Path) -> None:
    picture = np.full((240, 500, 3), BACKGROUND, np.uint8)
    person(picture, 400, 120, 64)
    person(picture, 90, 110, 12)
    save_png(tmp_path / "us.png", picture)
    (told,) = translate(style(), tmp_path / "us.png", tmp_path / "out", paste=True)["advice"]
    assert told["drawing"] == "us.png"
    assert told["advice"].startswith("face 1 of 2 from the left: the face is small")
    (told,) = translate(style(), tmp_path / "us.png", tmp_path / "apart")["advice"]
    assert told["drawing"] == "us-1.png"
    assert told["advice"].startswith("the face is small")


# The coach


def coached(face: dict[str, Any], brightness: float = 1.0, blur: bool = False) -> list[str]:
    import cv2

    from fewtoon.faces.cutter import Cutter
    from fewtoon.faces.face import Face

    rng = np.random.default_rng(0)
    picture = rng.integers(60, 200, (400, 400, 3)).astype(np.uint8)
    picture = cv2.resize(cv2.resize(picture, (100, 100)), (400, 400))
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), 25)
    picture = (picture * brightness).clip(0, 255).astype(np.uint8)
    (cutout,) = Cutter(128, "portrait").cut(picture, [Face(**{"box": (150, 150, 250, 260), **face})])
    return coach.advice(picture, cutout, 128)


def test_the_coach_is_silent_about_a_good_photo() -> None:
    assert coached({"yaw": 5.0, "clear": 0.99, "finder": "mediapipe", "score": 0.9}) == []


@pytest.mark.parametrize(
    ("face", "options", "word"),
    [
        ({"box": (200, 200, 218, 220)}, {}, "small"),
        ({"yaw": -70.0}, {}, "turned away by 70"),
        ({"box": (0, 0, 100, 110)}, {}, "outside"),
        ({}, {"brightness": 0.1}, "dark"),
        ({}, {"brightness": 3.0}, "overexposed"),
        ({}, {"blur": True}, "blurred"),
        ({"finder": "mediapipe", "score": 0.7}, {}, "covered"),
    ],
)
def test_the_coach_says_what_is_wrong_in_one_sentence(
    face: dict[str, Any], options: dict[str, Any], word: str
) -> None:
    (told,) = coached(face, **options)
    assert word in told
    assert "use a" in told or "photo" in told

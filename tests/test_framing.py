"""Framing: the published geometry, pixels where they belong, and back into the picture again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewtoon.faces.face import Face, distinct, overlap, roll_of, turn, upright_box
from fewtoon.faces.framing import Square, cut, inside, paste, roll_after, square

# Eyes, nose and corners of the mouth of an upright face with its eyes at y = 100.
UPRIGHT = np.array([(100, 100), (160, 100), (130, 130), (108, 160), (152, 160)], np.float32)


def turned(points: np.ndarray, degrees: float, centre: tuple[float, float] = (130, 130)) -> np.ndarray:
    moved = [turn(x - centre[0], y - centre[1], degrees) for x, y in points]
    return np.array([(x + centre[0], y + centre[1]) for x, y in moved], np.float32)


def scene(height: int = 240, width: int = 300) -> np.ndarray:
    """A smooth picture in which every place has its own colour."""
    y, x = np.mgrid[:height, :width]
    channels = (60 + 0.6 * x, 220 - 0.7 * y, 128 + 90 * np.sin(x / 23) * np.cos(y / 31))
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).max())


@pytest.mark.parametrize("degrees", [0, 37, 90, 135, 179, 180, -90, -120])
def test_roll_is_read_from_the_eyes_at_any_angle(degrees: float) -> None:
    away = (roll_of(turned(UPRIGHT, degrees)) - degrees + 180) % 360 - 180
    assert abs(away) < 1e-3


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 251])
def test_the_box_is_that_of_the_upright_face(degrees: float) -> None:
    """A face turned about the centre of its box has the same box."""
    box = upright_box(UPRIGHT, 0)
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    assert upright_box(turned(UPRIGHT, degrees, centre), degrees) == pytest.approx(box, abs=1e-3)


def test_portrait_is_the_published_crop() -> None:
    """0.8 of the height above, 0.3 below, 0.3 of the width at the sides, the shorter side grown on both."""
    at = square(Face((100, 100, 180, 200)), "portrait")  # 80 wide, 100 high
    assert at.side == pytest.approx(2.1 * 100)
    assert (at.x, at.y) == pytest.approx((140, (100 - 80 + 200 + 30) / 2))
    wide = square(Face((0, 0, 300, 100)), "portrait")
    assert wide.side == pytest.approx(1.6 * 300)


def test_portrait_goes_up_the_face_not_up_the_picture() -> None:
    upside_down = square(Face((100, 100, 180, 200), roll=180), "portrait")
    assert (upside_down.x, upside_down.y) == pytest.approx((140, 175))
    lying = square(Face((100, 100, 180, 200), roll=90), "portrait")  # its top is to the right
    assert (lying.x, lying.y) == pytest.approx((165, 150))


def test_ffhq_is_the_published_alignment() -> None:
    """centre = eyes + 0.1 (mouth - eyes), side = 2 max(2 |eye to eye|, 1.8 |eyes to mouth|)."""
    at = square(Face((90, 80, 170, 180), points=UPRIGHT), "ffhq")
    assert (at.x, at.y) == pytest.approx((130, 106))
    assert at.side == pytest.approx(2 * max(2.0 * 60, 1.8 * 60))
    assert at.roll == pytest.approx(0)
    for degrees in (33, 90, 180, -100):
        moved = square(Face((90, 80, 170, 180), roll=degrees, points=turned(UPRIGHT, degrees)), "ffhq")
        assert moved.side == pytest.approx(at.side, rel=1e-5)
        assert (moved.roll - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)


def test_ffhq_guesses_the_points_of_a_marked_box() -> None:
    marked = square(Face((100, 100, 180, 190), roll=20), "ffhq")
    assert marked.roll == pytest.approx(20)
    assert 1.6 * 90 < marked.side < 2.6 * 90


def test_cutting_the_whole_picture_changes_nothing() -> None:
    picture = scene(256, 256)
    assert np.array_equal(cut(picture, Square(128, 128, 256, 0), 256), picture)
    halved = picture.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert difference(cut(picture, Square(128, 128, 256, 0), 128), halved) <= 1


@pytest.mark.parametrize(("roll", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_face_is_turned_back(roll: float, turns: int) -> None:
    picture = scene(256, 256)
    assert difference(cut(picture, Square(128, 128, 256, roll), 256), np.rot90(picture, turns)) <= 1


@pytest.mark.parametrize(("size", "side"), [(64, 150.0), (64, 800.0), (128, 90.0)])
def test_every_pixel_comes_from_its_place(size: int, side: float) -> None:
    """Enlarged, shrunk a little, shrunk a lot: a linear ramp stays the ramp."""
    y, x = np.mgrid[:1200, :1200]
    ramp = np.repeat((x * 0.1 + y * 0.1)[..., None], 3, -1).round().astype(np.uint8)
    at = Square(600.0, 590.0, side, 30.0)
    crop = cut(ramp, at, size)
    u, v = np.meshgrid(*[(np.arange(size) + 0.5) * side / size - side / 2] * 2)
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    expected = (at.x + u * cos - v * sin - 0.5) * 0.1 + (at.y + u * sin + v * cos - 0.5) * 0.1
    assert difference(crop[..., 0], expected) <= 1.5


def test_fine_texture_does_not_alias() -> None:
    checks = (np.indices((1000, 1000)).sum(0) % 2 * 255).astype(np.uint8)
    crop = cut(np.repeat(checks[..., None], 3, -1), Square(500, 500, 600, 17), 64)
    assert crop.std() < 6


def test_padding() -> None:
    picture = scene()
    at = Square(0, 0, 100, 0)  # three quarters of it lie outside
    white = cut(picture, at, 100, "white")
    assert (white[:49] == 255).all()
    assert (white[:, :49] == 255).all()
    assert np.array_equal(white[50:, 50:], picture[:50, :50])
    mirrored = cut(picture, at, 100, "reflect")
    assert np.array_equal(mirrored[51:, 51:][:48, :48], mirrored[1:50, 1:50][::-1, ::-1][:48, :48])
    assert inside(picture.shape, at) == pytest.approx(0.25)
    assert inside(picture.shape, Square(150, 120, 100, 45)) == 1


def test_a_picture_of_40000_rows() -> None:
    strip = np.zeros((40_000, 300, 3), np.uint8)
    strip[36_000:36_100, 100:200] = 200
    assert (cut(strip, Square(150, 36_050, 100, 0), 64)[2:-2, 2:-2] == 200).all()
    paste(strip, np.full((64, 64, 3), 90, np.uint8), Square(150, 36_050, 100, 0))
    assert strip[36_050, 150, 0] == 90
    assert strip[:35_990].max() == 0


@pytest.mark.parametrize(
    "at", [Square(150, 120, 90, 0), Square(150, 120, 120, 40), Square(140, 110, 30, -70)]
)
def test_what_was_cut_goes_back_to_its_place(at: Square) -> None:
    picture = scene()
    pasted = picture.copy()
    paste(pasted, cut(picture, at, 64), at)
    assert difference(pasted, picture) <= 6  # a smooth picture stays as it was
    other = picture.copy()
    paste(other, np.zeros((64, 64, 3), np.uint8), at)
    changed = np.abs(other.astype(int) - picture).max(-1) > 0
    centre = other[round(at.y), round(at.x)]
    assert centre.max() == 0
    assert changed.sum() == pytest.approx(at.side**2, rel=0.12)


def test_pasting_leaves_the_background_to_the_photo() -> None:
    picture = scene()
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, :32] = 255
    pasted = picture.copy()
    paste(pasted, np.zeros((64, 64, 3), np.uint8), Square(150, 120, 100, 0), alpha)
    assert np.array_equal(pasted[:, 155:], picture[:, 155:])
    assert pasted[120, 130].max() == 0


def test_pasting_beyond_the_edge() -> None:
    picture = scene()
    paste(picture, np.zeros((32, 32, 3), np.uint8), Square(5, 5, 60, 10))
    assert picture[5, 5].max() == 0
    before = picture.copy()
    paste(picture, np.zeros((32, 32, 3), np.uint8), Square(900, 900, 60, 10))
    assert np.array_equal(picture, before)


def test_small_squares_go_to_the_upscaler_at_their_own_size() -> None:
    seen: list[tuple[int, int]] = []

    def upscale(crop: np.ndarray, size: int) -> np.ndarray:
        seen.append((crop.shape[0], size))
        return np.full((size, size, 3), 7, np.uint8)

    assert (cut(scene(), Square(100, 100, 40, 0), 128, upscale=upscale) == 7).all()
    assert seen == [(40, 128)]
    cut(scene(), Square(100, 100, 140, 0), 128, upscale=upscale)
    assert len(seen) == 1


def test_roll_after_cutting() -> None:
    face = Face((90, 80, 170, 180), roll=33.0, points=turned(UPRIGHT, 33))
    assert abs(roll_after(face, square(face, "portrait"))) < 1e-3
    assert abs(roll_after(face, square(face, "ffhq"))) < 0.5


def test_overlap_and_distinct() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 10, 20, 20)) == 0
    twins = [
        Face((0, 0, 10, 10), score=0.5),
        Face((1, 0, 11, 10), score=0.9),
        Face((50, 0, 60, 10), score=0.1),
    ]
    assert [face.score for face in distinct(twins)] == [0.9, 0.1]

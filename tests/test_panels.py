"""Pages and strips are cut at their gutters and nowhere else; faces come back in the picture's pixels, once."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from asking import one_line
from fewtoon.data import world
from fewtoon.faces.face import Face, overlap
from fewtoon.faces.panels import find_in_panels, panels


def busy(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Content: no row and no column of it is plain."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def page(height: int, width: int, boxes: list[tuple[int, int, int, int]], ground: object = 255) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = ground
    for k, (left, top, right, bottom) in enumerate(boxes):
        picture[top:bottom, left:right] = busy(bottom - top, right - left, k)
    return picture


COMIC = [
    (20, 20, 480, 400),
    (500, 20, 980, 400),
    (20, 430, 980, 800),
    (20, 830, 300, 1380),
    (330, 830, 980, 1380),
]


def assert_one_each(found: list[tuple[int, int, int, int]], boxes: list[tuple[int, int, int, int]]) -> None:
    assert len(found) == len(boxes), found
    for left, top, right, bottom in boxes:
        holders = [p for p in found if p[0] <= left and p[1] <= top and p[2] >= right and p[3] >= bottom]
        assert len(holders) == 1, (left, top, right, bottom, found)
        assert overlap(holders[0], (left, top, right, bottom)) > 0.8


@pytest.mark.parametrize("ground", [255, 0, (250, 210, 90)])
def test_a_comic_page_is_cut_at_its_gutters(ground):
    assert_one_each(panels(page(1400, 1000, COMIC, ground)), COMIC)


def test_noisy_gutters_and_gradients_are_gutters_too():
    noise = np.random.default_rng(0).normal(0, 4, (1400, 1000, 3))
    noisy = np.clip(page(1400, 1000, COMIC, 240) + noise, 0, 255).astype(np.uint8)
    assert_one_each(panels(noisy), COMIC)
    slope = np.linspace(40, 250, 1000)[None, :, None] * np.linspace(0.6, 1, 1400)[:, None, None]
    assert_one_each(panels(page(1400, 1000, COMIC, slope.astype(np.uint8))), COMIC)


@pytest.mark.parametrize("side", ["photos", "drawings"])
def test_an_ordinary_picture_is_one_panel(side):
    images, _, _ = world.sample(side, 8, 256, seed=3)
    for image in images:
        assert panels(image) == [(0, 0, 256, 256)]


def test_a_plain_picture_is_one_panel():
    assert panels(np.full((300, 500, 3), 77, np.uint8)) == [(0, 0, 500, 300)]


def test_a_narrow_gap_in_a_picture_is_no_gutter():
    assert panels(page(600, 600, [(20, 20, 580, 300), (20, 302, 580, 580)])) == [(0, 0, 600, 600)]


def test_small_pieces_stay_with_their_neighbour():
    """Lines of lettering above a panel are no panels."""
    lines = [(100, 20, 700, 40), (100, 60, 700, 80)]
    boxes = [*lines, (20, 120, 780, 700), (20, 740, 780, 1300)]
    assert len(panels(page(1320, 800, boxes))) == 2


@pytest.mark.parametrize(("height", "width"), [(40_000, 300), (30_000, 800), (300, 40_000)])
def test_a_strip_without_gutters_is_covered_by_overlapping_windows(height, width):
    began = time.process_time()
    found = panels(busy(height, width))
    assert time.process_time() - began < 2
    side = min(height, width)
    along = 1 if height > width else 0
    spans = sorted((p[along], p[along + 2]) for p in found)
    assert spans[0][0] == 0
    assert spans[-1][1] == max(height, width)
    assert all(end - begin <= 2 * side for begin, end in spans)
    assert all(after[0] <= before[1] - side for before, after in pairwise(spans)), "a face fits the overlap"
    assert len(found) <= 1000


def test_a_webtoon_strip_is_cut_and_its_long_panels_are_windowed():
    boxes = [(0, 200, 800, 1000), (100, 1400, 700, 2300), (0, 2800, 800, 9000), (50, 9400, 750, 9980)]
    found = panels(page(10_000, 800, boxes))
    long = [p for p in found if p[1] > 2700 and p[3] < 9100]
    assert len(found) == 3 + len(long)
    assert len(long) >= 6
    assert all(p[3] - p[1] <= 2.5 * (p[2] - p[0]) for p in found)


@pytest.mark.parametrize("shape", [(8, 8), (8, 100_000), (100_000, 8), (9, 1000), (257, 1)])
def test_odd_shapes(shape):
    for picture in (busy(*shape), np.zeros((*shape, 3), np.uint8)):
        found = panels(picture)
        assert 1 <= len(found) <= 1002
        for left, top, right, bottom in found:
            assert 0 <= left < right <= shape[1]
            assert 0 <= top < bottom <= shape[0]


def test_what_is_no_picture_is_a_problem():
    one_line(lambda: panels(np.zeros((10, 10), np.uint8)), "(10, 10)")
    one_line(lambda: panels(np.zeros((10, 0, 3), np.uint8)), "(10, 0, 3)")
    one_line(lambda: panels(np.zeros((10, 10, 3), np.float32)), "float32")


class RedSquares:
    """Finds each patch of pure red; a finder whose answer is known."""

    name = identity = "red squares"

    def __call__(self, picture: np.ndarray) -> list[Face]:
        import cv2

        red = (picture == (255, 0, 0)).all(2).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        points = np.ones((5, 2), np.float32)
        return [
            Face(
                (float(x), float(y), float(x + w), float(y + h)),
                points=points + np.float32((x, y)),
                score=area / 1e6,
            )
            for x, y, w, h, area in stats[1:]
        ]


def test_faces_come_back_in_pixels_of_the_picture_each_once():
    picture = page(6000, 600, [(0, 300, 600, 5200), (20, 5300, 580, 5980)])
    truth = [(40, 320, 240, 520), (300, 1100, 560, 1360), (100, 2000, 500, 2400), (200, 3333, 600, 3733)]
    truth += [(0, 4800, 300, 5100), (100, 5400, 300, 5600)]
    for left, top, right, bottom in truth:
        picture[top:bottom, left:right] = (255, 0, 0)
    found = find_in_panels(RedSquares(), picture)
    assert len(panels(picture)) > 5
    assert sorted(face.box for face in found) == sorted(truth)
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)
    for face in found:
        assert tuple(face.points[0]) == (face.box[0] + 1, face.box[1] + 1)

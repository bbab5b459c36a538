"""What is learned from a few marked boxes finds the other faces of the same artist, and little else."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from asking import one_line
from fewtoon.data import world
from fewtoon.faces import learned, template
from fewtoon.faces.face import Face, overlap
from fewtoon.faces.learned import LearnedFinder, learn
from fewtoon.faces.template import CHANNELS, as_tensor, features

WIDTH, HEIGHT = 480, 640
Page = tuple[np.ndarray, list[Face]]


def truth(person: world.Face, size: int) -> Face:
    """The marked face of a drawing of the world: it is drawn about (0.5, 0.495) at 1.06 times its coordinates."""
    x, y, unit = 0.5 * size, 0.495 * size, 1.06 * size
    half = person.width * unit
    return Face((x - half, y - 0.1 * unit, x + half, y + person.chin * unit))


def distract(page: np.ndarray, rng: np.random.Generator) -> None:
    """Lettering, rings, boxes and hair."""
    for _ in range(10):
        x, y = int(rng.integers(0, WIDTH - 90)), int(rng.integers(20, HEIGHT - 90))
        ink = tuple(int(v) for v in rng.integers(0, 200, 3))
        kind = rng.integers(4)
        if kind == 0:
            text = "".join(rng.choice(list("AEMOQaegx80 "), 8))
            cv2.putText(page, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, ink, 2, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(page, (x + 40, y + 40), int(rng.integers(8, 40)), ink, 3, cv2.LINE_AA)
        elif kind == 2:
            cv2.rectangle(page, (x, y), (x + 70, y + 50), ink, int(rng.choice([-1, 2])))
        else:
            drawing, _ = world.picture("drawings", int(rng.integers(900, 999)), 96)
            page[y : y + 24, x : x + 90] = drawing[:24, :90]


def compose(first: int, rng: np.random.Generator, faces: int = 5) -> Page:
    """A page of drawings number `first` and on: 64 to 150 px, every second one mirrored."""
    page = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    page[:] = rng.integers(180, 256, 3)
    distract(page, rng)
    marked: list[Face] = []
    corners = rng.permutation([(x, y) for x in (0, 160, 320) for y in (0, 160, 320, 480)])
    for k, (x, y) in enumerate(corners[:faces].tolist()):
        size = int(rng.integers(64, 151))
        drawing, person = world.picture("drawings", first + k, size)
        face = truth(person, size)
        if k % 2:
            drawing = drawing[:, ::-1]
            face = replace(face, box=(size - face.box[2], face.box[1], size - face.box[0], face.box[3]))
        page[y : y + size, x : x + size] = drawing
        marked.append(face.placed(x=x, y=y))
    return page, marked


@functools.cache
def marked_and_others() -> tuple[list[Page], list[Page]]:
    rng = np.random.default_rng(5)
    pages = [compose(10 * k, rng) for k in range(6)]
    return pages[:2], pages[2:]


def recall_and_precision(finder: LearnedFinder, pages: list[Page]) -> tuple[float, float]:
    hits = proposals = faces = 0
    for picture, marked in pages:
        left = list(marked)
        for found in finder(picture):
            if found.score < 0.5:
                continue
            proposals += 1
            right = [face for face in left if overlap(face.box, found.box) >= 0.5]
            if right:
                left.remove(right[0])
                hits += 1
        faces += len(marked)
    return hits / faces, hits / max(proposals, 1)


@pytest.fixture(scope="module")
def finder() -> LearnedFinder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "STEPS", 120)  # enough for these tidy drawings
        patch.setattr(learned, "NEGATIVES", 2000)
        patch.setattr(template, "WINDOWS", 6000)
        return learn(marked_and_others()[0])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not ask how well it was learned."""
    monkeypatch.setattr(template, "WINDOWS", 2000)
    monkeypatch.setattr(learned, "STEPS", 12)
    monkeypatch.setattr(learned, "POSITIVES", 60)
    monkeypatch.setattr(learned, "NEGATIVES", 100)
    monkeypatch.setattr(learned, "TONES", 20)


def test_ten_boxes_are_enough_to_find_the_others(finder):
    recall, precision = recall_and_precision(finder, marked_and_others()[1])
    assert recall >= 0.9
    assert precision >= 0.9


def test_boxes_lie_where_the_person_marked_them(finder):
    best = []
    for picture, marked in marked_and_others()[1]:
        found = finder(picture)
        best += [max((overlap(f.box, face.box) for f in found), default=0.0) for face in marked]
    assert np.median(best) >= 0.8


def test_faces_a_bit_beyond_the_marked_sizes(finder):
    picture, marked = marked_and_others()[1][0]
    for factor in (0.8, 1.3):
        scaled = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        page = (scaled, [face.placed(factor) for face in marked])
        assert recall_and_precision(finder, [page])[0] >= 0.8


def test_a_page_without_faces_has_no_proposals(finder):
    rng = np.random.default_rng(77)
    found = [f for k in range(3) for f in finder(compose(0, rng, faces=0)[0]) if f.score >= 0.5]
    assert len(found) <= 1


def test_proposals_are_upright_within_the_picture_and_sorted(finder):
    picture, _ = marked_and_others()[1][1]
    for view in (picture, picture[:, 60:], picture[100:, :250], picture[::-1]):
        height, width = view.shape[:2]
        found = finder(view)
        assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
        for face in found:
            left, top, right, bottom = face.box
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert 0 <= face.score <= 1
            assert (face.roll, face.points, face.finder) == (0.0, None, "learned")
        for k, one in enumerate(found):
            assert all(overlap(one.box, other.box) <= 0.3 for other in found[:k])


def test_large_scans_are_looked_at_smaller(hasty):
    """Four times as large a page teaches the same and costs little more, and boxes are in its own pixels."""
    picture, marked = marked_and_others()[0][0]
    large = cv2.resize(picture, None, fx=6, fy=6, interpolation=cv2.INTER_LINEAR)
    finder = learn([(large, [face.placed(6) for face in marked])])
    began = time.process_time()
    found = finder(large)
    assert time.process_time() - began < 6
    best = [max((overlap(f.box, face.placed(6).box) for f in found), default=0.0) for face in marked]
    assert np.median(best) >= 0.5


def test_the_same_boxes_and_seed_teach_the_same(hasty):
    pages = marked_and_others()[0][:1]
    state = torch.random.get_rng_state()
    one, two, three = learn(pages), learn(iter(pages)), learn(pages, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's draws are touched
    assert one.identity == two.identity != three.identity
    assert one.name == "learned"
    moved = [(picture, [face.placed(x=3) for face in faces]) for picture, faces in pages]
    assert learn(moved).identity != one.identity
    picture = marked_and_others()[1][0][0]
    assert [f.box for f in one(picture)] == [f.box for f in two(picture)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_boxes_teach_something(hasty, count):
    picture, faces = marked_and_others()[0][0]
    page = picture.copy()
    for face in faces[count:]:
        left, top, right, bottom = (round(v) for v in face.box)
        page[top:bottom, left:right] = 128
    found = learn([(page, faces[:count])])(picture)
    assert all(0 <= face.score <= 1 for face in found)


def test_faces_that_lie_askew_or_cross_the_edge_can_be_marked(hasty):
    picture, faces = marked_and_others()[0][0]
    (x, y), half = faces[0].centre, faces[0].width / 2
    turned = cv2.warpAffine(picture, cv2.getRotationMatrix2D((x, y), -50, 1), (WIDTH, HEIGHT))
    learn([(picture, faces[1:]), (turned, [replace(faces[0], roll=50.0)])])
    learn([(picture[:, round(x) :], [Face((-half, faces[0].box[1], half, faces[0].box[3]))])])


@pytest.mark.parametrize("shape", [(8, 8), (30, 2000), (3000, 20), (300, 300)])
def test_blank_and_odd_pictures(finder, shape):
    assert [f for f in finder(np.full((*shape, 3), 200, np.uint8)) if f.score >= 0.5] == []


def test_learning_from_blank_paper_does_not_break(hasty):
    paper = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(paper, (100, 100), 30, (0, 0, 0), 2)
    learn([(paper, [Face((70, 70, 130, 130))])])


def test_a_mirrored_picture_has_mirrored_features_and_places():
    pages = marked_and_others()[0]
    picture = np.ascontiguousarray(pages[0][0][:160, :160])
    both = features(as_tensor(np.stack([picture, picture[:, ::-1]])))
    turned = [0, 7, 6, 5, 4, 3, 2, 1, *range(8, CHANNELS)]
    torch.testing.assert_close(both[0], both[1][turned].flip(2), atol=1e-4, rtol=1e-4)
    kernel = template.learn_template(pages, np.random.default_rng(0)).kernel
    one, other = torch.nn.functional.conv2d(both, kernel)
    assert (one[0] - one[1]).abs().max() > 0.5  # the two kernels are not the same
    torch.testing.assert_close(one.amax(0), other.amax(0).flip(1), atol=1e-3, rtol=1e-3)


def test_bad_input_is_one_line():
    picture = np.zeros((100, 120, 3), np.uint8)
    one_line(lambda: learn([]), "no face is marked on 0 pages")
    one_line(lambda: learn([(picture, [])]), "no face is marked on 1 pages")
    one_line(lambda: learn([(picture, [Face((10, 10, 11, 60))])]), "(10, 10, 11, 60)", "mark the face again")
    one_line(lambda: learn([(picture, [Face((10, 60, 50, 10))])]), "(10, 60, 50, 10)")
    one_line(lambda: learn([(picture, [Face((10, math.nan, 50, 60))])]), "nan")
    one_line(lambda: learn([(picture, [Face((200, 10, 250, 60))])]), "120 x 100")
    one_line(lambda: learn([(picture[..., 0], [Face((10, 10, 50, 60))])]), "(100, 120)")


def test_a_finder_says_what_is_no_picture(finder):
    one_line(lambda: finder(np.zeros((10, 10), np.uint8)), "(10, 10)")
    one_line(lambda: finder(np.zeros((10, 10, 3), np.float32)), "float32")

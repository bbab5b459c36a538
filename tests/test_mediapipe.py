"""The default face finder and the default matte: their mathematics, and what they find in real pictures."""

from __future__ import annotations

import csv
import itertools
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the default finder needs opencv-python-headless")
pytest.importorskip("ai_edge_litert", reason="the default finder needs ai-edge-litert")

import cv2

from fewtoon.errors import Problem
from fewtoon.faces import mediapipe, models
from fewtoon.faces.face import Face
from fewtoon.faces.framing import Square
from fewtoon.faces.litert import Network
from fewtoon.faces.mediapipe import MediapipeFinder, MediapipeMatte, Mesh, Pyramid
from fewtoon.io.images import read

DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data")) / "photos"
needs_models = pytest.mark.skipif(not models.available(), reason="run 'fewtoon models fetch' first")


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (DATA / name).is_dir(), reason=f"no pictures at {DATA / name}; set FEWTOON_DATA to shared/data"
    )


@pytest.fixture(scope="module")
def finder() -> MediapipeFinder:
    return MediapipeFinder()


def portraits(count: int) -> list[np.ndarray]:
    files = sorted((DATA / "omi").glob("*/*.jpg"))
    return [read(file) for file in files[:: len(files) // count][:count]]


def apart(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


# ---------------------------------------------------------------------------------------------------------
# The mathematics


def test_anchors_of_both_detectors() -> None:
    short, full = mediapipe.anchors(128, ((8, 2), (16, 6))), mediapipe.anchors(192, ((4, 1),))
    assert short.shape == (896, 2)
    assert full.shape == (2304, 2)
    np.testing.assert_allclose(short[[0, 1, 2, 511, 512, 517, 518]][:, 0] * 128, [4, 4, 12, 124, 8, 8, 24])
    np.testing.assert_allclose(short[[0, 31, 32, 511, 512, 895]][:, 1] * 128, [4, 4, 12, 124, 8, 120])
    np.testing.assert_allclose(full[[0, 1, 48]] * 192, [[2, 2], [6, 2], [2, 6]])


def test_decode_adds_the_anchor_to_all_but_the_size() -> None:
    raw = np.zeros((3, 16), np.float32)
    raw[1] = [12.8, 0, 64, 32, *range(12)]
    anchors = np.array([[0.1, 0.1], [0.5, 0.25], [0.9, 0.9]], np.float32)
    pairs, scores = mediapipe.decode(raw, np.array([[-3.0], [2.0], [-0.1]]), anchors, 128, 0.5)
    assert pairs.shape == (1, 8, 2)
    np.testing.assert_allclose(scores, [1 / (1 + math.exp(-2))])
    np.testing.assert_allclose(pairs[0, :2], [[0.6, 0.25], [0.5, 0.25]], atol=1e-6)
    expected = np.arange(12).reshape(6, 2) / 128 + [0.5, 0.25]
    np.testing.assert_allclose(pairs[0, 2:], expected, atol=1e-6)


def test_blend_joins_what_overlaps_and_nothing_else() -> None:
    pairs = np.zeros((3, 8, 2))
    pairs[:, 0], pairs[:, 1] = [[0.30, 0.3], [0.34, 0.3], [0.8, 0.8]], 0.2
    found = list(mediapipe.blend(pairs, np.array([0.9, 0.3, 0.95])))
    assert [score for _, score in found] == [0.95, 0.9]
    np.testing.assert_allclose(found[1][0][0], [0.31, 0.3])  # the mean, three to one
    np.testing.assert_allclose(found[0][0], pairs[2])
    assert not list(mediapipe.blend(pairs[:0], np.zeros(0)))


def test_the_68_landmarks() -> None:
    assert len(mediapipe.LANDMARKS_68) == len(set(mediapipe.LANDMARKS_68)) == 68
    assert set(mediapipe.LANDMARKS_68) <= set(range(468))
    parts = (mediapipe.JAW, mediapipe.BROWS, mediapipe.NOSE, mediapipe.EYES, mediapipe.MOUTH)
    assert [len(part) for part in parts] == [17, 10, 9, 12, 20]


def test_a_square_is_turned_clockwise_about_its_centre() -> None:
    square = Square(100.0, 50.0, 20.0, 90.0)
    # Upright, the first corner is top left; turned clockwise by 90 degrees it lies top right.
    corners = mediapipe.outside(square, np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]))
    np.testing.assert_allclose(corners, [[110, 40], [110, 60], [100, 50]], atol=1e-9)


@pytest.mark.parametrize("roll", [0.0, 33.0, 180.0])
@pytest.mark.parametrize("side", [40.0, 128.0, 700.0])
def test_look_shows_what_is_in_the_square(roll: float, side: float) -> None:
    x, y = np.meshgrid(np.arange(1000) + 0.5, np.arange(1200) + 0.5)
    picture = np.stack([x, y, 0 * x], -1).astype(np.float32)  # not pixels, but exact
    square = Square(480.0, 640.0, side, roll)
    view = Pyramid(picture).look(square, 64)
    steps = (np.arange(64) + 0.5) / 64
    expected = mediapipe.outside(square, np.stack(np.meshgrid(steps, steps), -1))
    inside = ((expected > 10) & (expected < (990, 1190))).all(-1)
    assert inside.mean() > 0.8
    assert np.abs(view[..., :2] - expected)[inside].max() < 0.05 * max(1, side / 64)


def test_look_beyond_the_edges_and_in_pictures_that_opencv_cannot_warp() -> None:
    picture = np.zeros((40_000, 8, 3), np.uint8)
    picture[39_000:] = 200
    pyramid = Pyramid(picture)
    assert (pyramid.look(Square(4, 39_500, 100, 45), 32) == 200).all()
    assert (pyramid.look(Square(4, 41_000, 100, 0), 32) == 200).all()  # the nearest pixels go on for ever
    assert (pyramid.look(Square(-500, -500, 100, 0), 32) == 0).all()


@pytest.mark.parametrize(("width", "height"), [(8, 8), (300, 40_000), (1024, 1024), (4000, 3000)])
def test_tiles_cover_the_picture_and_what_lies_between_two_of_them(width: int, height: int) -> None:
    largest = 1.5 * min(width, height)
    sides = mediapipe.sides(largest, 9 * mediapipe.narrowest(width, height))
    assert sides[0] == largest
    assert all(0.45 * a < b < a for a, b in itertools.pairwise(sides))
    rng = np.random.default_rng(0)
    for side in sides:
        tiles = np.array([(tile.x, tile.y) for tile in mediapipe.tiles(width, height, side)])
        assert len(tiles) < 1000
        head = 0.25 * side
        for _ in range(50):  # any head of a quarter of the side is whole in some tile
            reach = np.minimum(head / 2, (width / 2, height / 2))
            centre = rng.uniform(reach, (width, height) - reach)
            assert (np.abs(tiles - centre).max(1) <= (side - head) / 2 + 1e-6).any()


def test_yaw_is_positive_to_the_right_and_roll_does_not_matter() -> None:
    for yaw, roll in ((0, 0), (25, 0), (-40, 100), (60, -170)):
        points, depth = np.zeros((468, 2)), np.zeros(468)
        angle = math.radians(yaw)
        for index in mediapipe.RIGHT_SIDE:  # the far side, where a face looks to the right
            points[index], depth[index] = mediapipe.turn(math.cos(angle), 0, roll), math.sin(angle)
        for index in mediapipe.LEFT_SIDE:
            points[index], depth[index] = mediapipe.turn(-math.cos(angle), 0, roll), -math.sin(angle)
        assert Mesh(points, depth, 0.0).yaw == pytest.approx(yaw)


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    file = tmp_path / "bad.tflite"
    for content in (b"", b"not a network", b"\x1c\x00\x00\x00TFL3" + b"\x00" * 100):
        file.write_bytes(content)
        with pytest.raises(Problem, match="bad"):
            Network(file, 1 / 255)
    with pytest.raises(Problem, match="missing"):
        Network(tmp_path / "missing.tflite", 1 / 255)


def test_without_the_files_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWTOON_CACHE", str(tmp_path))
    for make in (MediapipeFinder, MediapipeMatte):
        with pytest.raises(Problem, match="fewtoon models fetch"):
            make()


# ---------------------------------------------------------------------------------------------------------
# Real pictures


def rotated(picture: np.ndarray, degrees: float, expand: bool) -> np.ndarray:
    """Turned clockwise, on a canvas that is mirrored beyond the picture, or grey and as large as it must be."""
    size = picture.shape[0]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    canvas = math.ceil(size * (abs(cos) + abs(sin))) if expand else size
    matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), -degrees, 1)
    matrix[:, 2] += (canvas - size) / 2
    border = cv2.BORDER_CONSTANT if expand else cv2.BORDER_REFLECT_101
    return cv2.warpAffine(
        picture, matrix, (canvas, canvas), flags=cv2.INTER_CUBIC, borderMode=border, borderValue=(128,) * 3
    )


@needs_models
@needs("omi")
def test_every_portrait_once_and_upright_at_any_angle(finder: MediapipeFinder) -> None:
    rng = np.random.default_rng(3)
    for index, picture in enumerate(portraits(60)):
        (upright,) = finder(picture)
        assert abs(upright.roll) < 8
        assert upright.clear is not None
        assert upright.clear > 0.99
        degrees = rng.uniform(0, 360)
        faces = finder(rotated(picture, degrees, expand=index % 2 == 0))
        assert len(faces) == 1
        assert apart(faces[0].roll, upright.roll + degrees) <= 2
        assert faces[0].width == pytest.approx(upright.width, rel=0.06)
        assert faces[0].height == pytest.approx(upright.height, rel=0.06)


@needs_models
@needs("apdrawing")
def test_landmarks_and_matte_of_real_people(finder: MediapipeFinder) -> None:
    matte = MediapipeMatte()
    errors, agreements, differences = [], [], []
    with open(DATA / "apdrawing" / "landmarks.csv", newline="") as file:
        for row in csv.DictReader(file):
            picture = read(DATA / "apdrawing" / row["file"])
            names = ("reye", "leye", "nose", "rmouth", "lmouth")  # his right eye is at the left
            truth = np.array([[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in names])
            (face,) = finder(picture)
            assert face.points is not None
            between = np.linalg.norm(truth[1] - truth[0])
            errors.append(np.linalg.norm(face.points - truth, axis=1) / between)
            mask = read(DATA / "apdrawing" / (row["file"].removesuffix(".jpg") + "_mask.png"))[..., 0]
            alpha = matte(picture)
            assert alpha.shape == mask.shape
            assert alpha.dtype == np.uint8
            person, expected = alpha > 127, mask > 127
            agreements.append((person & expected).sum() / (person | expected).sum())
            differences.append(np.abs(alpha / 255 - mask / 255).mean())
    assert len(errors) == 20
    assert np.mean(errors) < 0.04
    assert np.max(errors) < 0.10
    assert np.mean(agreements) > 0.95
    assert np.mean(differences) < 0.035


def composed(
    pictures: list[np.ndarray], truths: list[Face], background: np.ndarray, least: float, most: float
) -> tuple[np.ndarray, list[tuple[np.ndarray, float, float]]]:
    """The portraits scattered over a background, at any angle, their faces `least` to `most` pixels wide, and
    for each the middle of its five points, its width and its roll."""
    rng = np.random.default_rng(len(pictures))
    height, width = background.shape[:2]
    placed: list[tuple[float, float, float]] = []
    expected = []
    widths = sorted(np.exp(rng.uniform(math.log(least), math.log(most), len(pictures))), reverse=True)
    for picture, truth, wide in zip(pictures, truths, widths):
        roll = rng.uniform(0, 360)
        scale = wide / truth.width
        size = picture.shape[0]
        radius = 0.71 * size * scale
        for _ in range(10_000):
            x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
            if all(math.hypot(x - u, y - v) > radius + other for u, v, other in placed):
                break
        else:
            raise AssertionError("there is no room for so many")
        placed.append((x, y, radius))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        at = Square(x, y, small.shape[0], roll)
        matrix = mediapipe.matrix_of(at, small.shape[0])
        index = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2].sum(1) / 2 - 0.5])
        cv2.warpAffine(small, index, (width, height), dst=background, borderMode=cv2.BORDER_TRANSPARENT)
        assert truth.points is not None
        middle = mediapipe.outside(at, truth.points.mean(0) / size)
        expected.append((middle, truth.width * scale, truth.roll + roll))
    return background, expected


@needs_models
@needs("omi")
@pytest.mark.parametrize("kind", ["plain", "gradient", "noise", "crowd"])
def test_all_of_a_group_and_nothing_else(finder: MediapipeFinder, kind: str) -> None:
    background = np.full((1000, 1500, 3), (40, 120, 90), np.uint8)
    if kind == "gradient":
        background[..., 0] = np.linspace(0, 255, 1500)
        background[..., 1] = np.linspace(255, 60, 1000)[:, None]
    if kind == "noise":
        background = np.random.default_rng(7).integers(0, 256, background.shape, np.uint8)
    pictures = portraits({"plain": 8, "gradient": 9, "noise": 10, "crowd": 50}[kind])
    truths = [finder(picture)[0] for picture in pictures]
    group, expected = composed(pictures, truths, background, 40, 60 if kind == "crowd" else 150)
    faces = finder(group)
    assert len(faces) == len(expected)
    for middle, width, roll in expected:
        near = min(faces, key=lambda face: math.hypot(*(face.points.mean(0) - middle)))
        assert near.points is not None
        assert math.hypot(*(near.points.mean(0) - middle)) < 0.05 * width
        assert near.width == pytest.approx(width, rel=0.15)
        assert apart(near.roll, roll) <= 3  # of 40 pixels, where a degree is a third of a pixel


@needs_models
@needs("omi")
def test_strips_faces_at_the_edge_and_grey_ones(finder: MediapipeFinder) -> None:
    first, second = portraits(2)
    strip = np.full((40_000, 300, 3), 240, np.uint8)
    strip[120:376, 20:276] = first
    strip[39_744:, 44:] = second
    assert sorted(round(face.centre[1] / 1000) for face in finder(strip)) == [0, 40]
    (whole,) = finder(first)
    assert whole.points is not None
    cut = first[:, int(whole.points[0, 0] - 10) :]  # through the cheek
    assert len(finder(cut)) == 1
    grey = np.repeat(first.mean(2, keepdims=True).round().astype(np.uint8), 3, axis=2)
    (face,) = finder(grey)
    assert np.abs(np.subtract(face.box, whole.box)).max() < 0.05 * whole.width


@needs_models
@needs("omi")
def test_points_and_yaw_of_the_mirror_image(finder: MediapipeFinder) -> None:
    for picture in portraits(6):
        (face,), (mirrored,) = finder(picture), finder(np.ascontiguousarray(picture[:, ::-1]))
        assert face.points is not None
        assert mirrored.points is not None
        swapped = mirrored.points[[1, 0, 2, 4, 3]] * (-1, 1) + (picture.shape[1], 0)
        assert np.linalg.norm(swapped - face.points, axis=1).max() < 0.04 * face.width
        assert face.yaw == pytest.approx(-mirrored.yaw, abs=6)
        assert face.points[0, 0] < face.points[2, 0] < face.points[1, 0]
        left, top, right, bottom = face.box  # brows above the eyes, chin below the mouth
        assert left < face.points[:, 0].min() < face.points[:, 0].max() < right
        brows, chin = face.points[:2, 1].mean() - top, bottom - face.points[3:, 1].mean()
        assert 0.12 * face.height < brows < 0.30 * face.height  # the forehead is no part of the box
        assert 0.18 * face.height < chin < 0.40 * face.height


@needs_models
@pytest.mark.parametrize(("width", "height"), [(8, 8), (8, 20_000), (300, 40_000), (20_000, 5000)])
def test_the_work_is_bounded(finder: MediapipeFinder, width: int, height: int) -> None:
    passes = finder._passes(width, height)
    assert sum(len(list(mediapipe.tiles(width, height, side))) for _, side, _ in passes) < 1200


@needs_models
def test_pictures_without_faces(finder: MediapipeFinder) -> None:
    rng = np.random.default_rng(0)
    clouds = [cv2.resize(rng.random((2**k, 2**k, 3)), (600, 400), interpolation=3) for k in range(1, 8)]
    cloud = sum(layer * 0.7**k for k, layer in enumerate(clouds))
    squares = np.repeat(np.repeat(rng.integers(0, 256, (20, 30, 3), np.uint8), 20, 0), 20, 1)
    ramp = np.linspace(0, 255, 600).astype(np.uint8)[None, :, None].repeat(400, 0).repeat(3, 2)
    noise = rng.integers(0, 256, (400, 600, 3), np.uint8)
    for picture in (noise, ramp, squares, (cloud / cloud.max() * 255).astype(np.uint8), ramp * 0):
        assert finder(picture) == []
    for shape in ((8, 8), (8, 400), (400, 8), (9, 33), (1, 1)):
        assert finder(rng.integers(0, 256, (*shape, 3), np.uint8)) == []


@needs_models
@needs("omi")
def test_threads_see_the_same(finder: MediapipeFinder) -> None:
    pictures = portraits(12)
    alone = [finder(picture)[0] for picture in pictures]
    together: list[Face | None] = [None] * len(pictures)

    def work(first: int) -> None:
        for index in range(first, len(pictures), 3):
            together[index] = finder(pictures[index])[0]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together):
        assert other is not None
        assert one.box == other.box
        assert one.clear == other.clear


@needs_models
def test_matte_of_any_shape_and_who_is_behind_it(finder: MediapipeFinder) -> None:
    matte = MediapipeMatte()
    for shape in ((8, 8), (300, 20), (700, 900)):
        assert matte(np.zeros((*shape, 3), np.uint8)).shape == shape
    assert models.sha256("selfie_segmentation") in matte.identity
    for name in ("face_detection_short_range", "face_detection_full_range_sparse", "face_landmark"):
        assert models.sha256(name) in finder.identity

"""Finders by OpenCV, and several finders as one.

Faces come from the drawn world (the Haar finder finds most of its photos) and, where they are present, from the
real pictures and detector files in ../shared/data; set FEWTOON_DATA to another folder of the same layout.
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewtoon.data import world
from fewtoon.errors import Problem
from fewtoon.faces import models, opencv
from fewtoon.faces.cascades import CascadeFinder, HaarFinder
from fewtoon.faces.face import Face, overlap, turn
from fewtoon.faces.finders import Chain, Softened, choose, default, open_finder, without_models_note
from fewtoon.faces.yunet import YuNetFinder, box_of
from fewtoon.io.images import read

cv2 = pytest.importorskip("cv2")
DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))
DETECT = DATA / "weights" / "detect"
real = pytest.mark.skipif(not DETECT.is_dir(), reason=f"no detector files at {DETECT}; set FEWTOON_DATA")
WORLD_BOX = (
    0.27,
    0.41,
    0.73,
    0.87,
)  # of a face in the middle of a photo of the world, as a share of its side


@functools.cache
def photo(index: int = 0, size: int = 192) -> np.ndarray:
    return world.picture("photos", index, size, seed=3)[0]


@functools.cache
def haar() -> HaarFinder:
    return HaarFinder()


def box_at(x: float, y: float, size: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = (size * value for value in WORLD_BOX)
    return x + left, y + top, x + right, y + bottom


def only(faces: list[Face]) -> Face:
    assert len(faces) == 1, faces
    return faces[0]


def turned(picture: np.ndarray, roll: float) -> np.ndarray:
    """The square picture turned clockwise about its middle, in a larger one."""
    side = picture.shape[0]
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -roll, 1)
    matrix[:, 2] += side / 4
    return cv2.warpAffine(picture, matrix, (side * 3 // 2, side * 3 // 2), borderMode=cv2.BORDER_REPLICATE)


# The finder that needs no file


def test_haar_finds_faces():
    right = 0
    for index in range(8):
        faces = haar()(photo(index))
        assert len(faces) <= 1
        right += any(overlap(face.box, box_at(0, 0, 192)) > 0.55 and face.roll == 0 for face in faces)
        assert all(face.finder == "haar" and 0 < face.score <= 1 and face.points is None for face in faces)
    assert right >= 7


def test_haar_finds_turned_faces():
    for roll in (90, 180, -60):
        face = only(haar()(turned(photo(), roll)))
        middle = 144 + np.array(turn(0, (0.64 - 0.5) * 192, roll))
        assert np.hypot(*(middle - face.centre)) < 25
        assert abs((face.roll - roll + 180) % 360 - 180) < 20
    assert all(face.roll == 0 for face in HaarFinder(turned=False)(turned(photo(), 180)))


def test_haar_looks_at_strips_and_large_pictures():
    strip = np.full((40_000, 300, 3), 200, np.uint8)
    places = {0: (60, 500), 4: (20, 13_337), 5: (100, 39_800)}
    for index, (x, y) in places.items():
        strip[y : y + 192, x : x + 192] = photo(index)
    upright = HaarFinder(turned=False)
    faces = upright(strip)
    assert len(faces) == 3
    for x, y in places.values():
        assert any(overlap(face.box, box_at(x, y, 192)) > 0.5 for face in faces)
    wide = np.full((300, 4000, 3), 200, np.uint8)
    wide[60:252, 3700:3892] = photo()
    assert overlap(only(upright(wide)).box, box_at(3700, 60, 192)) > 0.5
    large = np.full((3000, 4000, 3), 90, np.uint8)
    large[500:2036, 1000:2536] = cv2.resize(photo(), (1536, 1536), interpolation=cv2.INTER_CUBIC)
    assert overlap(only(upright(large)).box, box_at(1000, 500, 1536)) > 0.55


def test_pictures_without_faces_and_tiny_ones():
    rng = np.random.default_rng(0)
    for picture in (
        np.full((120, 200, 3), 128, np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        rng.integers(0, 256, (120, 120, 3), np.uint8),
        *(np.zeros(size, np.uint8) for size in ((1, 1, 3), (8, 900, 3), (17, 16, 3))),
    ):
        assert haar()(picture) == []
        assert Softened(haar())(picture) == []


def test_the_same_from_many_threads():
    pictures = [photo(index) for index in range(4)]
    expected = [haar()(picture) for picture in pictures]
    got: dict[int, list[Face]] = {}

    def work(index: int) -> None:
        got[index] = haar()(pictures[index % 4])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(8)] == expected * 2


def test_every_thread_has_its_own_detector():
    own, others = opencv.PerThread(object), []
    thread = threading.Thread(target=lambda: others.extend([own(), own()]))
    thread.start()
    thread.join()
    assert own() is own()
    assert others[0] is others[1]
    assert others[0] is not own()


def test_opencv_5_has_no_cascades(monkeypatch, tmp_path):
    file = tmp_path / "any.xml"
    file.write_text("<x/>")
    monkeypatch.delattr(cv2, "CascadeClassifier")
    for make in (HaarFinder, lambda: CascadeFinder(file)):
        with pytest.raises(Problem, match="has no cascades any more; install opencv-python-headless 4"):
            make()


# Files that are not what they claim


def test_files_that_are_no_detectors(tmp_path, capfd):
    text, binary, empty = tmp_path / "text.onnx", tmp_path / "noise.onnx", tmp_path / "empty"
    text.write_text("hello")
    binary.write_bytes(np.random.default_rng(0).bytes(5000))
    empty.write_bytes(b"")
    latin = tmp_path / "latin.xml"
    latin.write_bytes('<?xml version="1.0"?><opencv_storage>\xe4'.encode("latin-1"))
    xml = tmp_path / "other.xml"
    xml.write_text('<?xml version="1.0"?><opencv_storage><thing><a>1</a></thing></opencv_storage>')
    for path in (text, binary, empty, latin, xml, tmp_path, tmp_path / "nowhere"):
        for finder in (YuNetFinder, CascadeFinder):
            with pytest.raises(Problem) as caught:
                finder(path)
            assert path.name in str(caught.value)
            assert "give the file of a" in str(caught.value)
    assert capfd.readouterr() == ("", "")  # OpenCV said nothing of its own


def test_cascades_that_would_be_read_beyond_their_tables(tmp_path):
    """OpenCV trusts every index in the file: a changed one is memory that is not the cascade's."""
    good = (Path(cv2.data.haarcascades) / HaarFinder.FILE).read_text()
    file = tmp_path / "cascade.xml"
    for old, new, told in (
        ("<featureType>HAAR<", "<featureType>HOG<", "not HAAR or LBP"),
        ("<stageType>BOOST<", "<stageType>SVM<", "holds no cascade"),
        ("<width>20<", "<width>nan<", "window"),
        ("<maxCatCount>0<", "<maxCatCount>256<", "another kind"),
        ("0 1 0 ", "0 1 99999 ", "points nowhere"),
        ("0 1 0 ", "0 7 0 ", "points nowhere"),
        ("0 1 0 ", "0 ", "torn"),
        ("2 7 16 4 -1.", "2 7 16 400 -1.", "outside of its window"),
        ("2 7 16 4 -1.", "-2 7 16 4 -1.", "outside of its window"),
        ("2 7 16 4 -1.", "2 7 16", "torn"),
    ):
        assert old in good
        file.write_text(good.replace(old, new, 1))
        with pytest.raises(Problem, match=told):
            CascadeFinder(file)
    file.write_text(good[: len(good) // 2])
    with pytest.raises(Problem, match="is no cascade"):
        CascadeFinder(file)
    file.write_text(good)
    assert len(CascadeFinder(file)(photo())) == 1


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(opencv, "MAX_BYTES", 100)
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(Problem, match="too large"):
        YuNetFinder(tmp_path / "large")


# The box from five points


def test_box_of_turns_with_the_points():
    points = np.array([[40, 50], [80, 50], [61, 72], [44, 92], [76, 92]], np.float32)
    left, top, right, bottom = box_of(points, 0.0)
    assert left < 40 - 10
    assert right > 80 + 10
    assert 20 < top < 45  # the brows
    assert 105 < bottom < 135  # the chin
    for roll in (30.0, 90.0, 180.0, -120.0):
        moved = np.array([turn(x, y, roll) for x, y in points], np.float32)
        box = box_of(moved, roll)
        centre = turn((left + right) / 2, (top + bottom) / 2, roll)
        np.testing.assert_allclose(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), centre, atol=1e-3)
        np.testing.assert_allclose(
            (box[2] - box[0], box[3] - box[1]), (right - left, bottom - top), atol=1e-3
        )


# Several finders as one


class Fixed:
    """A finder that always finds the same."""

    def __init__(self, name: str, *faces: tuple[tuple[float, float, float, float], float]) -> None:
        self.name, self.identity, self.calls = name, f"{name} 1", 0
        self.faces = [Face(box, score=score, finder=name) for box, score in faces]

    def __call__(self, picture: np.ndarray) -> list[Face]:
        self.calls += 1
        return list(self.faces)


A, A_AGAIN, B = (0.0, 0.0, 100.0, 100.0), (10.0, -5.0, 90.0, 70.0), (200.0, 0.0, 300.0, 100.0)


def test_chain_of_the_first_that_finds():
    none, one, two = Fixed("none"), Fixed("one", (A, 0.4)), Fixed("two", (B, 0.9))
    chain = Chain([none, one, two])
    assert chain(photo()) == one.faces
    assert (none.calls, one.calls, two.calls) == (1, 1, 0)
    assert chain.name == "none,one,two"
    assert Chain([none])(photo()) == []
    with pytest.raises(Problem, match="at least one finder"):
        Chain([])


def test_chain_of_all_in_the_order_of_trust():
    one, two = Fixed("one", (A, 0.4)), Fixed("two", (A_AGAIN, 0.9), (B, 0.5))
    both = Chain([one, two], together=True)
    assert both(photo()) == [one.faces[0], two.faces[1]]
    other = Chain([two, one], together=True)
    assert other(photo()) == two.faces
    assert len({both.identity, other.identity, Chain([one, two]).identity}) == 3


def test_softened_finds_more_drawings():
    upright = HaarFinder(turned=False)
    drawings = [world.picture("drawings", index, 192, seed=3)[0] for index in range(8)]
    plain = sum(len(upright(drawing)) == 1 for drawing in drawings)
    soft = sum(len(Softened(upright)(drawing)) == 1 for drawing in drawings)
    assert soft > plain
    assert Softened(upright).identity != upright.identity


def test_softened_takes_the_surest_of_each_face():
    class Dimmer:
        name, identity = "dimmer", "dimmer 1"

        def __call__(self, picture: np.ndarray) -> list[Face]:
            sure = float(picture.std()) / 255  # less in a blurred picture
            upside_down = Face((150, 150, 180, 180), roll=-170, score=1)
            return [Face(A, score=1 - sure), Face(B, score=sure, roll=-90), upside_down]

    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (400, 400, 3), np.uint8)
    best, other = Softened(Dimmer())(noise)
    assert best.box == A  # from the softest
    assert best.score > 0.95
    assert other.box == B  # from the picture as it is
    assert other.score == pytest.approx(noise.std() / 255)


# By name, and by default


def test_finders_by_name():
    finder = open_finder("haar")
    assert finder.name == "haar"
    assert finder.identity == HaarFinder().identity
    for spec, told in (
        ("hair", "did you mean 'haar'"),
        ("yunet", "needs a file: give 'yunet:PATH'"),
        ("cascade:", "needs a file"),
        ("haar:x.xml", "takes no file"),
        ("", "no face finder"),
        ("yunet:/does/not/exist.onnx", "does not exist"),
    ):
        with pytest.raises(Problem, match=told):
            open_finder(spec)


def test_the_default_without_models(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWTOON_CACHE", str(tmp_path))
    assert not models.available()
    assert default("photos").name == default("drawings").name == "haar"
    assert len(default("photos")(photo())) == 1
    with pytest.raises(Problem, match="did you mean 'photos'"):
        default("photo")
    assert "fewtoon models fetch" in without_models_note()
    with pytest.raises(Problem, match="run 'fewtoon models fetch'"):
        open_finder("mediapipe")


def test_chosen_finders():
    file = Path(cv2.data.haarcascades) / HaarFinder.FILE
    assert choose(["haar"], "photos").identity == HaarFinder().identity
    soft = choose(["haar"], "drawings")
    assert soft.identity == Softened(HaarFinder(turned=False)).identity
    photos, drawings = (choose([f"cascade:{file}", "haar"], side) for side in ("photos", "drawings"))
    assert photos.name == "cascade,haar"
    assert drawings.name == "cascade+haar"
    assert only(photos(photo())).finder == only(drawings(photo())).finder == "cascade"


@pytest.mark.skipif(not models.available(), reason="the models are not here: run 'fewtoon models fetch'")
def test_the_default_with_models():
    assert default("photos").name == default("drawings").name == "mediapipe"
    assert default("photos").identity != default("drawings").identity
    assert only(default("photos")(photo())).points is not None


# Real files and pictures


@functools.cache
def yunet() -> YuNetFinder:
    return YuNetFinder(DETECT / "yunet_n_640_640.onnx")


def some(folder: str, count: int) -> list[np.ndarray]:
    files = sorted((DATA / folder).glob("*/*.[jp][pn]g"))
    return [read(path) for path in files[:: max(1, len(files) // count)][:count]]


@real
def test_yunet_finds_portraits_and_their_points():
    for picture in some("photos/omi", 6):
        face = only(yunet()(picture))
        left_eye, right_eye, nose, left_mouth, right_mouth = face.points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_eye[1] < nose[1] < left_mouth[1]
        assert left_mouth[0] < right_mouth[0]
        assert abs(face.roll) < 12
        left, top, right, bottom = face.box
        assert top < min(left_eye[1], right_eye[1])
        assert bottom > max(left_mouth[1], right_mouth[1])
        assert left < left_eye[0]
        assert right > right_eye[0]


@real
def test_yunet_at_any_roll():
    picture = some("photos/omi", 1)[0]
    upright = only(yunet()(picture))
    errors = []
    for roll in range(-144, 181, 36):
        face = only(yunet()(turned(picture, roll)))
        errors.append(abs((face.roll - upright.roll - roll + 180) % 360 - 180))
        assert overlap((0, 0, face.width, face.height), (0, 0, upright.width, upright.height)) > 0.75
    assert np.median(errors) < 5
    assert max(errors) < 15


@real
def test_yunet_finds_drawings_when_softened():
    for style in ("adventurer", "open_peeps", "avataaars/test", "lorelei/test"):
        drawings = some(f"drawings/{style}", 5)
        assert sum(len(Softened(yunet())(drawing)) == 1 for drawing in drawings) >= 4, style


@real
def test_yunet_in_a_strip():
    strip = np.full((4000, 300, 3), 255, np.uint8)
    portrait = np.asarray(Image.fromarray(some("photos/omi", 1)[0]).resize((200, 200)))
    strip[1900:2100, 50:250] = portrait
    face = only(yunet()(strip))
    expected = only(yunet()(portrait)).placed(1, 50, 1900)
    assert overlap(face.box, expected.box) > 0.85


@real
def test_real_files_of_other_kinds(capfd):
    for path in ("detect/yunet_n_dynamic.onnx", "face_id/MobileFaceNet.onnx", "detect/blazeface.pth"):
        with pytest.raises(Problem, match="is not a YuNet that OpenCV"):
            YuNetFinder(DETECT.parent / path)
    for path in ("detect/yunet_n_640_640.onnx", "detect/blazeface.pth"):
        with pytest.raises(Problem, match="is no cascade"):
            CascadeFinder(DETECT.parent / path)
    assert capfd.readouterr() == ("", "")


@real
def test_the_anime_cascade():
    finder = CascadeFinder(DETECT / "lbpcascade_animeface.xml", turned=False)
    assert finder.identity.startswith("cascade ")
    faces = [Softened(finder)(drawing) for drawing in some("drawings/lorelei/test", 16)]
    places = [face.centre for found in faces for face in found]
    assert len(places) >= 3  # a file for anime faces finds about a third of these
    assert sum(60 < x < 200 and 90 < y < 200 for x, y in places) >= 0.75 * len(places)

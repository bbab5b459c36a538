"""Face-ID: the alignment, and the chain as a whole on people whose identity is known."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewtoon.errors import Problem
from fewtoon.faces.identity import SIDE, TEMPLATE, FaceId, align, similarity, verification
from fewtoon.io import images
from fewtoon.nets import mobilefacenet
from fewtoon.nets.mobilefacenet import FoamliuLayout

DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "face_id"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def turned(points, degrees, scale, shift):
    angle = math.radians(degrees)
    matrix = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return points @ matrix.T + shift, matrix


# ---- the alignment -----------------------------------------------------------------------------------------


def test_similarity_finds_what_was_done():
    points, matrix = turned(TEMPLATE, 137.0, 3.2, (40.0, -7.0))
    linear, shift = similarity(TEMPLATE, points)
    np.testing.assert_allclose(linear, matrix, atol=1e-9)
    np.testing.assert_allclose(shift, (40.0, -7.0), atol=1e-9)


def test_similarity_is_umeyamas():
    """Against the general form by singular values, on points that fit badly; some want a mirror."""
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.normal(size=(2, 5, 2))
        linear, shift = similarity(a, b)
        x, y = a - a.mean(0), b - b.mean(0)
        u, spread, v = np.linalg.svd(y.T @ x / 5)
        sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
        scale = (spread * sign).sum() / x.var(0).sum()
        np.testing.assert_allclose(linear, scale * u @ np.diag(sign) @ v, atol=1e-9)
        np.testing.assert_allclose(shift, b.mean(0) - linear @ a.mean(0), atol=1e-9)


def test_an_aligned_picture_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(picture, TEMPLATE), picture)


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 271])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5, 7.0])
def test_every_pixel_comes_from_its_place(degrees, scale):
    """A picture of which red tells x and green tells y, looked up where the transform says."""
    size = 1100
    ramp = (np.arange(size) + 0.5) * 255 / size
    picture = np.zeros((size, size, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.rint(ramp)[None, :], np.rint(ramp)[:, None]
    points, matrix = turned(TEMPLATE - SIDE / 2, degrees, scale, (550, 560))
    centres = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5), -1)
    expected = ((centres - SIDE / 2) @ matrix.T + (550, 560)) * 255 / size
    found = align(picture, points).astype(float)
    assert np.abs(found[..., :2] - expected).max() <= 1.5  # both are rounded, some twice
    assert np.abs((found[..., :2] - expected).mean((0, 1))).max() < 0.15  # half a source pixel: 0.12


def test_a_large_face_is_shrunk_without_aliasing():
    lines = np.zeros((1200, 1200, 3), np.uint8)
    lines[:, ::2] = 255
    found = align(lines, TEMPLATE * 10).astype(float)
    assert abs(found.mean() - 127.5) < 2
    assert found.std() < 2


def test_what_lies_outside_is_black():
    white = np.full((100, 100, 3), 255, np.uint8)
    half = align(white, TEMPLATE + np.array([100 - 56, 0]))  # the picture ends in the middle of the face
    assert (half[:100, :54] == 255).all()
    assert (half[:, 58:] == 0).all()
    turned_away, _ = turned(TEMPLATE - SIDE / 2, 45, 1.0, (50, 50))
    face = align(white, turned_away)  # a diamond in which the picture is a square
    assert (face[SIDE // 2, 0] == 0).all() == (face[0, SIDE // 2] == 0).all()
    assert 0.6 < (face > 0).mean() < 0.9


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (np.zeros((5, 2)), "do not form a face"),
        (np.full((5, 2), np.nan), "do not form a face"),
        (TEMPLATE * 0.01, "do not form a face"),
        (TEMPLATE + 5000, "outside the picture of 200 x 200"),
        (TEMPLATE * 1e15, "outside the picture"),
        (TEMPLATE[:4], r"\(4, 2\)"),
        (None, "None"),
    ],
)
def test_no_face_is_refused(points, told):
    with pytest.raises(Problem, match=told):
        align(np.zeros((200, 200, 3), np.uint8), points)


def test_another_kind_of_picture_is_refused():
    for picture in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))):
        with pytest.raises(Problem, match="uint8"):
            align(picture, TEMPLATE)


def test_the_template_is_the_published_one():
    """Counted from the outer corner of the first pixel; the nose is half a pixel right of the middle."""
    np.testing.assert_allclose(
        TEMPLATE[[0, 1, 2]], [(38.7946, 52.1963), (74.0318, 52.0014), (56.5252, 72.2366)]
    )
    np.testing.assert_allclose(TEMPLATE[[3, 4]], [(42.0493, 92.8655), (71.2299, 92.7041)])


# ---- the vectors -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "face.pth"
    torch.save(FoamliuLayout().state_dict(), file)
    return FaceId(file)


def test_vectors_do_not_depend_on_company(untrained):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (11, 150, 130, 3), dtype=np.uint8)
    together = untrained.embed((picture, TEMPLATE) for picture in pictures)
    assert together.shape == (11, untrained.dim)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for index in (0, 7, 10):
        np.testing.assert_array_equal(untrained.embed([(pictures[index], TEMPLATE)])[0], together[index])
    assert untrained.embed([]).shape == (0, untrained.dim)


def test_a_vector_is_the_networks_of_the_aligned_face(untrained):
    picture = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    face = torch.from_numpy(align(picture, TEMPLATE + 20)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = untrained._network(face)[0].numpy()
    np.testing.assert_allclose(untrained.embed([(picture, TEMPLATE + 20)])[0], expected, atol=1e-6)


def test_name_and_hash(untrained, tmp_path):
    assert untrained.name == "mobilefacenet"
    assert len(untrained.hash) == 12
    with pytest.raises(Problem, match="does not exist"):
        FaceId(tmp_path / "nothing.pth")
    with pytest.raises(Problem, match="aligned face"):
        untrained.embed_aligned([np.zeros((10, 10, 3), np.uint8)])


# ---- the figures -------------------------------------------------------------------------------------------


def test_verification_against_every_pair():
    random = np.random.default_rng(2)
    people = [str(i // 3) for i in range(12)]
    vectors = random.normal(size=(12, 4)) + np.repeat(random.normal(size=(4, 4)), 3, 0)
    vectors = np.round(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 1)  # ties as well
    same, different = [], []
    for i in range(12):
        for j in range(i):
            (same if people[i] == people[j] else different).append(float(vectors[i] @ vectors[j]))
    wins = [(s > d) + 0.5 * (s == d) for s in same for d in different]
    right = [
        (np.mean([s >= t for s in same]) + np.mean([d < t for d in different])) / 2 for t in same + different
    ]
    found = verification(vectors, people)
    assert found.auc == pytest.approx(np.mean(wins), abs=0.01)  # of ties, rounding may break some
    assert found.accuracy == pytest.approx(max(right), abs=0.01)
    assert (found.same, found.different) == pytest.approx((np.mean(same), np.mean(different)))
    assert (found.same_pairs, found.different_pairs) == (len(same), len(different))


def test_verification_of_perfect_and_of_blind_vectors():
    people = ["a", "a", "b", "b", "c", "c"]
    perfect = verification(np.repeat(np.eye(3), 2, 0), people)
    assert (perfect.auc, perfect.same, perfect.different, perfect.accuracy) == (1, 1, 0, 1)
    assert verification(np.ones((6, 1)), people).auc == 0.5
    with pytest.raises(Problem, match="two people"):
        verification(np.eye(3), ["a", "b", "c"])
    with pytest.raises(Problem, match="give one each"):
        verification(np.eye(3), ["a", "b"])


# ---- with the published weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def face_id():
    file = WEIGHTS / "mobilefacenet_foamliu.pt"
    if not file.is_file():
        pytest.skip(f"no MobileFaceNet weights at {file}: set FEWTOON_DATA to the folder of real data")
    return FaceId(file)


def test_reproduces_its_onnx_twin(face_id):
    """The twin is the bare network: normalised RGB in, and out comes what its last batch norm gives, which
    is not yet of unit length."""
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime runs the twin: pip install onnxruntime"
    )
    twin = onnxruntime.InferenceSession(WEIGHTS / "MobileFaceNet.onnx", providers=["CPUExecutionProvider"])
    raw: list[torch.Tensor] = []
    hook = face_id._network.bn.register_forward_hook(lambda module, inputs, output: raw.append(output))
    for seed in range(3):
        faces = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (1, 3, SIDE, SIDE))).float()
        with torch.no_grad():
            ours = face_id._network(faces)[0].numpy()
        (theirs,) = twin.run(None, {"input0": ((0.5 * faces + 0.5 - MEAN) / STD).numpy()})
        length = np.linalg.norm(theirs)
        assert not 0.5 < length < 2
        np.testing.assert_allclose(ours, theirs[0] / length, atol=1e-5)
        np.testing.assert_allclose(raw[-1].flatten().numpy(), theirs[0], atol=1e-4)
    hook.remove()


@pytest.fixture(scope="module")
def people(face_id):
    """(pictures, points (5, 2) of each, who is in each)."""
    folder = DATA / "photos" / "omi_identity"
    if not (folder / "identities.csv").is_file():
        pytest.skip(f"no photos at {folder}: set FEWTOON_DATA to the folder of real data")
    find = _finder()
    with open(folder / "identities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = [images.read(folder / row["file"]) for row in rows]
    return pictures, [find(picture) for picture in pictures], [row["identity"] for row in rows]


def _finder():
    cv2 = pytest.importorskip("cv2", reason="OpenCV finds the faces: pip install opencv-python-headless")
    file = DATA / "weights" / "detect" / "yunet_n_640_640.onnx"
    if not file.is_file():
        pytest.skip(f"no face detector at {file}: set FEWTOON_DATA to the folder of real data")
    cv2.setNumThreads(1)
    detector = cv2.FaceDetectorYN.create(str(file), "", (256, 256), 0.6)

    def find(picture):
        detector.setInputSize(picture.shape[1::-1])
        faces = detector.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
        return faces[faces[:, 14].argmax(), 4:14].reshape(5, 2)

    return find


@pytest.fixture(scope="module")
def aligned(people):
    pictures, points, _ = people
    return [align(picture, five) for picture, five in zip(pictures, points)]


@pytest.fixture(scope="module")
def ours(face_id, aligned, people):
    return verification(face_id.embed_aligned(aligned), people[2])


def test_tells_people_apart_as_published(ours):
    """The published figures: AUC 0.9999, cosine 0.77 for one person, 0.04 for two."""
    assert ours.auc > 0.9999
    assert ours.same == pytest.approx(0.77, abs=0.015)
    assert ours.different == pytest.approx(0.04, abs=0.01)
    assert (ours.same_pairs, ours.different_pairs) == (26 * 36, 26 * 25 // 2 * 81)


@pytest.mark.parametrize(("order", "normalised"), [("BGR", True), ("RGB", False), ("BGR", False)])
def test_other_channel_order_or_normalisation_is_worse(order, normalised, ours, face_id, aligned, people):
    """Nothing fails with the wrong ones: people are told apart a little worse. So they are measured."""
    faces = torch.from_numpy(np.stack(aligned)).permute(0, 3, 1, 2) / 127.5 - 1
    if order == "BGR":
        faces = faces.flip(1)
    if not normalised:
        faces = 2 * (faces * STD + MEAN) - 1  # undoes the network's own: it then sees [-1, 1]
    with torch.no_grad():
        vectors = torch.cat([face_id._network(part) for part in faces.split(8)])
    other = verification(vectors.numpy(), people[2])
    assert other.auc < ours.auc
    assert other.accuracy < ours.accuracy
    assert other.separation < ours.separation - (0.2 if order == "BGR" else 0.02)


def test_points_are_worth_their_while(ours, face_id, people):
    """The crop by proportions that the training loss uses, on the same photos: strangers look more alike."""
    pictures = torch.from_numpy(np.stack(people[0])).permute(0, 3, 1, 2)
    with torch.no_grad():
        parts = [face_id._network.embed_pixels(part) for part in pictures.split(8)]
    crop = verification(torch.cat(parts).numpy(), people[2])
    assert 0.999 < crop.auc < ours.auc
    assert crop.different > ours.different + 0.03
    assert crop.separation < ours.separation - 0.5


@pytest.mark.parametrize(("degrees", "scale"), [(180, 1.0), (37, 1.0), (-90, 4.0), (0, 0.5)])
def test_a_turned_or_resized_photo_is_the_same_person(degrees, scale, face_id, people, aligned):
    """The photo through a warp of its own: neither the roll nor the size of a face may count."""
    import cv2

    pictures, points, _ = people
    straight = face_id.embed_aligned(aligned[:9])
    moved = []
    for picture, five in zip(pictures[:9], points[:9]):
        side = math.ceil(256 * scale * 1.5)
        there, matrix = turned(five - 128, degrees, scale, (side / 2, side / 2))
        # cv2 counts from the centre of the first pixel
        shift = side / 2 - 0.5 + matrix @ (0.5 - 128.0, 0.5 - 128.0)
        source = (
            cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        )
        if scale < 1:
            there, warped = five * scale, source
        else:
            warped = cv2.warpAffine(source, np.c_[matrix, shift], (side, side), flags=cv2.INTER_CUBIC)
        moved.append((warped, there))
    cosine = (face_id.embed(moved) * straight).sum(1)
    assert cosine.min() > 0.97


def test_the_network_is_the_one_of_the_features(face_id, aligned):
    network = mobilefacenet.load(WEIGHTS / "mobilefacenet_foamliu.pt")
    face = torch.from_numpy(aligned[0]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        np.testing.assert_allclose(network(face)[0].numpy(), face_id.embed_aligned(aligned[:1])[0], atol=1e-6)

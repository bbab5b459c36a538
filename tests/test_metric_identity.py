"""Identity: ranks among decoys, their chance, the ceiling on photos, and what its stand-in is worth."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewtoon.data import world
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.metrics import features
from fewtoon.metrics.identity import identity, ranks, second_picture

DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))
GROUPS = ["a"] * 4 + ["b"] * 8
N = len(GROUPS)
EVERYBODY = np.arange(N)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def people():
    """Vectors of N photos, (N, 6): those of a group have something in common."""
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(2, 6), (4, 8), axis=0)
    return unit(centres + 0.4 * random.standard_normal((N, 6)))


class Net:
    """Feature network for tests: a picture's vector is in the colours of its first row."""

    name, hash, dim, comparable = "face", "0" * 12, 6, False

    def __call__(self, pictures):
        self.seen = len(pictures)
        return unit(pictures[:, 0, :2].reshape(len(pictures), 6).astype(np.float64) - 127.4)


def figures(queries, people, groups=GROUPS, rows=EVERYBODY):
    return ranks(queries @ people.T, groups, rows)


# ---- ranks -------------------------------------------------------------------------------------------------


def test_against_counting_by_hand(people):
    queries = unit(people + 0.5 * np.random.default_rng(1).standard_normal(people.shape))
    places, places_in_group = [], []
    for i in range(N):
        nearest = sorted(range(N), key=lambda j: -float(queries[i] @ people[j]))
        places.append(1 + nearest.index(i))
        places_in_group.append(1 + [j for j in nearest if GROUPS[j] == GROUPS[i]].index(i))
    found = figures(queries, people)
    assert 1 < np.mean(places) < 4  # neither perfect nor hopeless, or the test would see little
    assert found["rank1"] == np.mean([place == 1 for place in places])
    assert found["rank5"] == np.mean([place <= 5 for place in places])
    assert found["median_rank"] == np.median(places)
    assert found["reciprocal_rank"] == pytest.approx(np.mean([1 / place for place in places]))
    assert found["rank1_in_group"] == np.mean([place == 1 for place in places_in_group])
    assert found["rank1_in_group"] >= found["rank1"]
    some = figures(queries, people, rows=EVERYBODY[4:])
    assert some["median_rank"] == np.median(places[4:])


def test_the_photo_itself_is_always_found(people):
    found = figures(people, people)
    assert found["rank1"] == found["rank5"] == found["median_rank"] == found["reciprocal_rank"] == 1
    assert found["rank1_in_group"] == 1
    low, high = found["rank1_interval"]
    assert 0.7 < low < 0.8  # 12 of 12
    assert high == pytest.approx(1)


def test_one_drawing_for_all_is_exactly_chance(people):
    found = figures(np.repeat(people[2:3], N, axis=0), people)
    assert found["rank1"] == found["chance"] == 1 / N
    assert found["rank5"] == found["chance5"] == 5 / N
    assert found["median_rank"] == found["median_rank_chance"] == 6.5
    assert found["reciprocal_rank"] == pytest.approx(found["reciprocal_rank_chance"])
    assert found["reciprocal_rank_chance"] == pytest.approx(sum(1 / k for k in range(1, N + 1)) / N)


def test_a_drawing_of_the_group_is_above_chance_among_all_and_at_chance_in_its_group(people):
    centres = np.repeat(np.stack([people[:4].mean(0), people[4:].mean(0)]), (4, 8), axis=0)
    found = figures(centres, people)
    assert found["rank1"] == 2 / N > found["chance"]
    assert found["rank1_in_group"] == found["chance_in_group"] == pytest.approx(2 / N)
    assert figures(centres, people, rows=EVERYBODY[4:])["chance_in_group"] == 1 / 8
    low, high = found["rank1_in_group_interval"]
    assert 0 < low < 2 / N < high < 0.5


def test_vectors_that_are_all_alike_win_nothing():
    alike = np.full((N, 4), 0.5, np.float32)
    found = figures(alike, alike)
    assert found["rank1"] == found["rank1_in_group"] == 0
    assert found["median_rank"] == found["median_rank_chance"]


def test_a_group_without_decoys_does_not_count(people):
    groups = ["alone", None, None, *GROUPS[3:]]
    found = figures(people, people, groups)
    assert found["n_in_group"] == 8  # b alone: the only ones with somebody to be mistaken for
    assert found["chance_in_group"] == 1 / 8
    nobody = figures(people, people, [None] * N)
    assert nobody["rank1_in_group"] is nobody["chance_in_group"] is None
    assert nobody["rank1_in_group_interval"] == [None, None]


# ---- the whole figure --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)


def test_every_group_and_the_ceiling(people, photos):
    found = identity(photos, people, people[::-1].copy(), GROUPS, Net())
    assert list(found) == ["all", "a", "b"]
    assert [entry["n"] for entry in found.values()] == [12, 4, 8]
    for entry in found.values():
        low, high = entry["cosine_interval"]
        assert low < entry["cosine"] < high
        assert set(entry["ceiling"]) == {
            "cosine",
            *(k for k in figures(people, people) if "chance" not in k),
        }
        assert entry["features"]["name"] == "face"
    cosines = people[::-1] @ people.T
    assert found["a"]["cosine"] == pytest.approx(cosines.diagonal()[:4].mean())
    wrong = [cosines[i, j] for i in range(4) for j in range(N) if i != j]
    assert found["a"]["different"] == pytest.approx(np.mean(wrong))
    again = Net()(np.stack([second_picture(photo) for photo in photos]))
    assert found["all"]["ceiling"]["cosine"] == pytest.approx((again * people).sum(1).mean())


def test_two_photos_and_fewer(people, photos):
    found = identity(photos[:2], people[:2], people[:2], ["a", None], Net())
    assert found["a"]["cosine_interval"] == [None, None]
    assert found["all"]["rank5"] == found["all"]["chance5"] == 1
    with pytest.raises(Problem, match="1 photos"):
        identity(photos[:1], people[:1], people[:1], ["a"], Net())


# ---- the stand-in for a second picture ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 64, 100, 256])
def test_a_second_picture_shows_the_same_mirrored_coarser_and_in_other_colours(size):
    photo = world.sample("photos", 1, size, seed=3)[0][0]
    found = second_picture(photo)
    assert found.shape == photo.shape
    assert found.dtype == np.uint8
    mirrored = found[:, ::-1].astype(float)

    def alike(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    assert alike(mirrored, photo) > 0.95
    assert alike(mirrored, photo) > alike(found, photo)
    fine = lambda picture: np.abs(np.diff(picture.astype(float), axis=1)).mean()
    assert fine(found) < 0.95 * fine(photo)
    warmer = (found.astype(float) - photo).mean((0, 1))
    assert warmer[0] > warmer[2] + 5


@pytest.fixture(scope="module")
def net():
    file = DATA / "weights" / "face_id" / "mobilefacenet_foamliu.pt"
    if not file.is_file():
        pytest.skip(f"no MobileFaceNet weights at {file}: set FEWTOON_DATA to the folder of real data")
    return features.load(f"mobilefacenet:{file}")


@pytest.mark.parametrize("size", [64, 128])
def test_the_stand_in_is_worth_about_a_real_second_picture(size, net):
    """26 people of whom there are real second pictures, among some hundred strangers."""
    folder = DATA / "photos" / "omi_identity"
    strangers = sorted((DATA / "photos" / "omi").glob("[0-3]_*/*.jpg"))[::6]
    if not (folder / "identities.csv").is_file() or not strangers:
        pytest.skip(f"no photos at {folder}: set FEWTOON_DATA to the folder of real data")

    def read(path):
        return np.array(Image.fromarray(images.read(path)).resize((size, size), Image.Resampling.BICUBIC))

    with open(folder / "identities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    of: dict[str, list[Path]] = {}
    for row in rows:
        of.setdefault(row["identity"], []).append(folder / row["file"])
    known = {int(name) for name in of}
    others = [path for path in strangers if int(path.stem.split("_")[1]) not in known]
    first = np.stack([read(paths[0]) for paths in of.values()] + [read(path) for path in others])
    vectors = net(first)
    count = np.arange(len(of))
    cosines = {}
    for kind in ("real", "stand-in"):
        queries = vectors.copy()
        # each person's first picture against the last
        second = [read(paths[-1]) for paths in of.values()] if kind == "real" else map(second_picture, first)
        queries[: len(of)] = net(np.stack(list(second)[: len(of)]))
        found = ranks(queries @ vectors.T, [None] * len(vectors), count)
        assert found["rank1"] == 1
        cosines[kind] = float((queries[: len(of)] * vectors[: len(of)]).sum(1).mean())
    assert math.isclose(cosines["stand-in"], cosines["real"], abs_tol=0.1)

"""The drawn world: the same for ever, true to its tables, and its attributes can be seen."""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewtoon.data import world
from fewtoon.data.world import GROUPS, STYLES, Face, build, drawing, photo, picture, random_face, sample
from fewtoon.errors import Problem


def rng(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def paint(face: Face, kind: str, size: int = 64, seed: int = 3) -> np.ndarray:
    picture = photo(face, size, rng(seed)) if kind == "photo" else drawing(face, size, kind, rng(seed))
    return picture.astype(np.float32)


KINDS = ("photo", *STYLES)
EYES = np.zeros((64, 64), bool)
EYES[21:45] = True  # the rows that frames, temples and their shadow may reach in any pose


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "style"), [("photos", "flat"), ("drawings", "flat"), ("drawings", "ink")])
def test_a_picture_depends_on_seed_side_and_index_alone(side: str, style: str) -> None:
    few, faces, groups = sample(side, 5, 32, seed=7, style=style)
    more, more_faces, _ = sample(side, 9, 32, seed=7, style=style)
    assert few.dtype == np.uint8
    assert few.shape == (5, 32, 32, 3)
    np.testing.assert_array_equal(few, more[:5])
    assert faces == more_faces[:5]
    assert groups == [*GROUPS, GROUPS[0]]
    other, _, _ = sample(side, 5, 32, seed=8, style=style)
    assert all((a != b).mean() > 0.2 for a, b in zip(few, other, strict=True))
    image, face = picture(side, 8, 32, 7, style)
    np.testing.assert_array_equal(image, more[8])
    assert face == more_faces[8]


def test_the_two_sides_show_different_people() -> None:
    _, photos, _ = sample("photos", 8, 16)
    _, drawings, _ = sample("drawings", 8, 16)
    assert not set(photos) & set(drawings)


def test_counts_choose_among_the_same_pictures() -> None:
    images, faces, groups = sample("drawings", 6, 16, counts=(4, 0, 1, 1))
    assert [groups.count(g) for g in GROUPS] == [4, 0, 1, 1]
    assert groups == [face.group for face in faces]
    all_images, _, _ = sample("drawings", 13, 16)
    np.testing.assert_array_equal(images, all_images[[0, 2, 3, 4, 8, 12]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 33, 64, 128, 200, 300])
def test_every_size_is_the_same_picture(kind: str, size: int) -> None:
    face = random_face(rng(1), GROUPS[3])
    image = paint(face, kind, size)
    assert image.shape == (size, size, 3)
    assert image.std() > 20
    small = [
        np.asarray(Image.fromarray(i.astype(np.uint8)).resize((16, 16), Image.Resampling.BOX), np.float32)
        for i in (image, paint(face, kind, 64))
    ]
    assert abs(small[0] - small[1]).mean() < 9  # other people differ by 25 to 40


@pytest.mark.parametrize("kind", KINDS)
def test_glasses_show_around_the_eyes_and_nowhere_else(kind: str) -> None:
    for seed in range(6):
        face = random_face(rng(seed), GROUPS[seed % 4])
        without, worn = (paint(dataclasses.replace(face, glasses=g), kind, 64, seed) for g in (False, True))
        change = abs(worn - without).max(axis=2)
        assert change[~EYES].max() == 0
        assert (change[EYES] > 40).sum() > 100  # pixels, of 4096
        assert change[EYES].mean() > 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "value", "other", "pixels"),
    [
        ("hair_color", "black", "blond", 250),
        ("hair_color", "red", "brown", 200),
        ("beard", "full", "none", 60),
        ("beard", "stubble", "none", 25),
        ("hair_length", "long", "short", 150),
        ("skin", "porcelain", "dark", 300),
        ("expression", "smile", "neutral", 12),
    ],
)
def test_an_attribute_shows(kind: str, field: str, value: str, other: str, pixels: int) -> None:
    face = dataclasses.replace(random_face(rng(5), GROUPS[1]), hair_color="brown", hair_shape="side")
    change: list[dict[str, Any]] = [{field: value}, {field: other}]
    a, b = (paint(dataclasses.replace(face, **c), kind) for c in change)
    assert (abs(a - b).max(axis=2) > 30).sum() > pixels


@pytest.mark.parametrize("style", STYLES)
def test_heads_have_the_same_place_in_photos_and_drawings(style: str) -> None:
    """Where the picture changes with the colour of the skin is where the face is."""

    def middle_and_width(kind: str) -> np.ndarray:
        found = []
        for seed in range(6):
            face = dataclasses.replace(random_face(rng(seed), GROUPS[1]), beard="none")
            a, b = (paint(dataclasses.replace(face, skin=s), kind, 64, seed) for s in ("porcelain", "dark"))
            y, x = np.nonzero(abs(a - b).max(axis=2) > 25)
            found.append((x.mean(), y.mean(), 4 * x.std(), 4 * y.std()))
        return np.mean(found, axis=0)

    assert np.abs(middle_and_width("photo") - middle_and_width(style)).max() < 4  # pixels, of 64


def test_photos_and_drawings_differ_in_kind() -> None:
    """Photos are noisy everywhere; most neighbouring pixels of a drawing are equal or nearly so."""

    def busy(images: np.ndarray) -> float:
        step = abs(np.diff(images.astype(int), axis=2)).max(axis=3)
        return float((step > 1).mean())

    photos, _, _ = sample("photos", 8, 64)
    drawings, _, _ = sample("drawings", 8, 64)
    assert busy(photos) > 0.75
    assert busy(drawings) < 0.5


def test_a_reader_tells_glasses_at_64_pixels() -> None:
    """A linear reader of the gradients around the eyes, learned from 100 pictures, reads 60 others."""
    for side, style in (("photos", "flat"), ("drawings", "flat"), ("drawings", "ink")):
        images, faces, _ = sample(side, 160, 64, seed=11, style=style)
        grey = images[:, 20:46, 10:54].astype(np.float32).mean(axis=3) / 255
        edges = abs(np.diff(grey, axis=1))[:, :, 1:] + abs(np.diff(grey, axis=2))[:, 1:]
        cells = np.sqrt(edges[:, :24, :42].reshape(-1, 12, 2, 21, 2).mean(axis=(2, 4))).reshape(
            len(images), -1
        )
        x = np.concatenate([cells, np.ones((len(cells), 1), np.float32)], axis=1)
        y = np.array([1.0 if f.glasses else -1.0 for f in faces])
        weights = np.linalg.solve(x[:100].T @ x[:100] + 0.3 * np.eye(x.shape[1]), x[:100].T @ y[:100])
        assert ((x[100:] @ weights > 0) == (y[100:] > 0)).mean() > 0.97, (side, style)


def test_people_are_as_their_group_says() -> None:
    men = women = 0
    for seed in range(40):
        for group in GROUPS:
            face = random_face(rng(seed), group)
            assert face.group == group
            men += face.gender == "man" and face.beard != "none"
            women += face.gender == "woman" and face.beard != "none"
    assert men > 20
    assert women == 0


# ---- folders -----------------------------------------------------------------------------------------------


def test_the_tables_tell_what_is_in_the_folders(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = build(tmp_path / "w", photos=6, drawings=9, size=16, progress=lambda *p: seen.append(p))
    assert summary["made"]
    assert seen[-1] == (15, 15)
    for side, letter, n in (("photos", "p", 6), ("drawings", "d", 9)):
        with open(tmp_path / "w" / side / "truth.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        on_disk = {
            p.relative_to(tmp_path / "w" / side).as_posix() for p in (tmp_path / "w" / side).rglob("*.png")
        }
        assert {row["file"] for row in rows} == on_disk
        assert len(rows) == n
        for index, row in enumerate(rows):
            image, face = picture(side, index, 16)
            assert row["file"] == f"{face.group}/{letter}_{index:05d}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "w" / side / row["file"])), image)
            assert row["group"] == face.group == GROUPS[index % 4]
            assert row["glasses"] == str(int(face.glasses))
            names = ("gender", "hair_length", "hair_color", "beard", "skin", "expression")
            assert {name: row[name] for name in names} == {name: getattr(face, name) for name in names}


@pytest.mark.parametrize(
    ("n", "imbalance", "expected"),
    [
        (1386, "1050/249/49/38", [1050, 249, 49, 38]),
        (100, "1050/249/49/38", [76, 18, 3, 3]),
        (10, "1050/249/49/38", [7, 1, 1, 1]),
        (4, "1050/249/49/38", [1, 1, 1, 1]),
        (7, "1/1/1/1", None),
        (12, " 3/1 /1/1", [6, 2, 2, 2]),
    ],
)
def test_an_imbalance_is_scaled_to_the_number(n: int, imbalance: str, expected: list[int] | None) -> None:
    counts = world._counts("drawings", n, imbalance)
    assert sum(counts) == n
    assert min(counts) >= 1
    assert expected is None or counts == expected


def test_imbalance_is_for_the_drawings(tmp_path: Path) -> None:
    summary = build(tmp_path / "w", photos=8, drawings=12, size=16, imbalance="30/10/1/1")
    assert list(summary["counts"]["photos"].values()) == [2, 2, 2, 2]
    assert list(summary["counts"]["drawings"].values()) == [8, 2, 1, 1]
    for side in ("photos", "drawings"):
        found = {p.name: len(list(p.glob("*.png"))) for p in (tmp_path / "w" / side).iterdir() if p.is_dir()}
        assert found == summary["counts"][side]


def test_a_larger_world_holds_the_smaller_one(tmp_path: Path) -> None:
    build(tmp_path / "small", photos=4, drawings=5, size=16, style="ink")
    build(tmp_path / "large", photos=9, drawings=20, size=16, style="ink", imbalance="9/3/2/1")
    small, large = (
        {name: data for name, data in files(tmp_path / w).items() if name.endswith(".png")}
        for w in ("small", "large")
    )
    assert small.items() <= large.items()


def test_processes_draw_the_same_world(tmp_path: Path) -> None:
    build(tmp_path / "one", photos=20, drawings=14, size=16, workers=1)
    build(tmp_path / "two", photos=20, drawings=14, size=16, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_same_world_is_not_made_again(tmp_path: Path) -> None:
    out = tmp_path / "w"
    out.mkdir()  # an empty folder is welcome
    build(out, photos=4, drawings=4, size=16)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = build(out, photos=4, drawings=4, size=16)
    assert not again["made"]
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(Problem, match="another world"):
        build(out, photos=4, drawings=4, size=16, seed=1)
    next(out.glob("photos/*/*.png")).unlink()
    with pytest.raises(Problem, match="no longer holds"):
        build(out, photos=4, drawings=4, size=16)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(Problem, match="not empty"):
        build(tmp_path / "mine", photos=1, drawings=1, size=16)
    with pytest.raises(Problem, match="not a folder"):
        build(tmp_path / "mine" / "diary.txt", photos=1, drawings=1, size=16)
    assert files(tmp_path) == {"mine/diary.txt": b"dear"}


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "w", photos=40, drawings=1, size=16, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.os, "fsync", full)
    with pytest.raises(Problem, match="No space left on device"):
        build(tmp_path / "w", photos=2, drawings=1, size=16)
    assert list(tmp_path.iterdir()) == []


def _build_for_ever(out: str) -> None:
    build(out, photos=100_000, drawings=1, size=16, workers=1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_build_leaves_no_half_world(tmp_path: Path) -> None:
    out = tmp_path / "w"
    child = multiprocessing.get_context("spawn").Process(target=_build_for_ever, args=(str(out),))
    child.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".w.part-*/photos/*/*.png")):
        assert time.monotonic() < deadline
        assert child.is_alive()
        time.sleep(0.05)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert not out.exists()
    (left,) = tmp_path.iterdir()
    build(out, photos=1, drawings=1, size=16)
    assert left.exists()  # it might belong to a build that is still running
    long_ago = time.time() - 3600
    for path in [left, *left.rglob("*")]:
        os.utime(path, (long_ago, long_ago))
    build(tmp_path / "other", photos=1, drawings=1, size=16)
    assert left.exists()
    (out / "world.json").unlink()
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    build(out, photos=1, drawings=1, size=16)
    assert not left.exists()
    assert json.loads((out / "world.json").read_text())["size"] == 16


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"size": 15}, "size 15"),
        ({"size": 1025}, "size 1025"),
        ({"photos": 0}, "0 photos"),
        ({"drawings": -3}, "-3 drawings"),
        ({"seed": -1}, "seed -1"),
        ({"style": "oil"}, "'oil'"),
        ({"style": "flatt"}, "did you mean 'flat'"),
        ({"imbalance": "1/2/3"}, "'1/2/3'"),
        ({"imbalance": "1/2/3/0"}, "'1/2/3/0'"),
        ({"imbalance": "1/2/3/x"}, "'1/2/3/x'"),
        ({"imbalance": "1/2/-3/4"}, "'1/2/-3/4'"),
        ({"imbalance": ""}, "''"),
        ({"imbalance": "1/1/1/" + "9" * 5000}, "imbalance"),
        ({"imbalance": "1/1/1/1", "drawings": 3}, "3 drawings"),
        ({"photo_imbalance": "1/1/1"}, "'1/1/1'"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path: Path, bad: dict, said: str) -> None:
    with pytest.raises(Problem) as problem:
        build(tmp_path / "w", **{"photos": 1, "drawings": 4, "size": 16, **bad})
    assert said in str(problem.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"counts": (1, 1, 1)}, {"counts": (1, 1, 1, 2)}, {"counts": (5, -1, 0, 0)}, {"size": 8}]
)
def test_bad_samples(bad: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        sample("photos", **{"n": 4, "size": 16, **bad})


def test_an_unknown_side_is_a_problem() -> None:
    with pytest.raises(Problem, match="'photo'"):
        sample("photo", 1, 16)

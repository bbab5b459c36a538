"""prepare: from folders of good and bad pictures to a pack, and a word about every file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewtoon.data import doctor, labels
from fewtoon.data import pack as pack_module
from fewtoon.data import prepare as prepare_module
from fewtoon.data.doctor import Report
from fewtoon.data.pack import Pack, Row
from fewtoon.data.prepare import prepare
from fewtoon.errors import Problem
from fewtoon.io.images import save_png


def face(seed: int, size: int = 40) -> np.ndarray:
    """(S, S, 3) uint8: a smooth random picture, different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def folder_of(path: Path, groups: dict[str, int], size: int = 40) -> Path:
    seed = 0
    for group, count in groups.items():
        (path / group).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            save_png(path / group / f"{i:03d}.png", face(seed, size))
    return path


def run(pictures: Path, out: Path, **options: object) -> tuple[Report, Pack]:
    report = prepare([pictures], "drawings", out, **{"size": 32, "workers": 2, "framing": "as-is", **options})  # type: ignore[arg-type]
    return report, Pack.open(out)


def split_of(pack: Pack) -> dict[str, str]:
    return {row.file: row.split for row in pack.rows}


# The pack


def test_pictures_come_in_order_with_their_facts(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"b": 3, "a": 4, ".": 2})
    report, pack = run(source, tmp_path / "pack", note="drawn by a test, free to use")
    assert [row.file for row in pack.rows] == [
        *("000.png", "001.png", "a/000.png", "a/001.png", "a/002.png", "a/003.png"),
        *("b/000.png", "b/001.png", "b/002.png"),
    ]
    assert [row.group for row in pack.rows] == [None] * 2 + ["a"] * 4 + ["b"] * 3
    assert {row.note for row in pack.rows} == {"drawn by a test, free to use"}
    assert pack.images.shape == (9, 32, 32, 3)
    for row, image in zip(pack.rows, pack.images):
        original = np.asarray(Image.open(source / row.file))
        expected = np.asarray(Image.fromarray(original).resize((32, 32), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(image, expected)
        assert row.sha256 == hashlib.sha256((source / row.file).read_bytes()).hexdigest()
    assert report.accepted == 9
    assert report.hash == pack.hash == pack.compute_hash()
    assert report.groups["a"].total == 4
    assert sorted(os.listdir(tmp_path / "pack")) == ["doctor.json", "images.npy", "pack.json", "sources.json"]
    assert sorted(os.listdir(tmp_path)) == ["in", "pack"]
    assert json.loads((tmp_path / "pack" / "doctor.json").read_text())["accepted"] == 9


def test_nothing_depends_on_workers_or_place(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", {"a": 9, "b": 9})
    two = folder_of(tmp_path / "elsewhere" / "two", {"a": 9, "b": 9})
    packs = [
        run(one, tmp_path / "p1", workers=1)[1],
        run(one, tmp_path / "p2", workers=5)[1],
        run(two, tmp_path / "p3")[1],
    ]
    assert len({pack.hash for pack in packs}) == 1
    assert packs[0].rows == packs[1].rows == packs[2].rows


def test_large_photos_are_as_good_as_fully_decoded_ones(tmp_path: Path) -> None:
    big = face(3, 400)
    Image.fromarray(big).save(tmp_path / "big.jpg", quality=95)
    _, pack = run(tmp_path, tmp_path / "pack", size=64)
    full = np.asarray(Image.fromarray(big).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(pack.images[0].astype(int) - full).mean() < 1.5


def test_groups_from_nothing_and_from_a_table(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 3, "b": 3})
    assert run(source, tmp_path / "p1", groups="none")[1].groups == []
    table = tmp_path / "t.csv"
    table.write_text(
        "file,group,more\na/000.png,glasses,1\n./b/001.png,none,2\nunknown.png,x,3\n", "utf-8-sig"
    )
    pack = run(source, tmp_path / "p2", groups=table)[1]
    assert [row.group for row in pack.rows] == ["glasses", None, None, None, "none", None]
    for content, word in (
        ("name,group\n", "no column 'file'"),
        ("file,group\nx.png,a\n", "names none"),
        ("file,group\na/000.png,a\na/000.png,b\n", "two values"),
    ):
        table.write_text(content)
        with pytest.raises(Problem, match=word):
            run(source, tmp_path / "p3", groups=table)
    table.write_bytes(b"file,group\n\xff\xfe,\x81\n")
    with pytest.raises(Problem, match="cannot be read"):
        run(source, tmp_path / "p3", groups=table)
    with pytest.raises(Problem, match="by-folder"):
        run(source, tmp_path / "p3", groups="by-foldre")
    assert not (tmp_path / "p3").exists()


# The split


def test_split_is_stratified_and_follows_contents_not_names(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 40, "b": 20, "c": 2, "d": 1})
    _, pack = run(source, tmp_path / "p1", held_out=0.1)
    counts = {group: len(pack.where("held_out", group)) for group in pack.groups}
    assert counts == {"a": 4, "b": 2, "c": 1, "d": 0}
    held_out = {row.sha256 for row in pack.rows if row.split == "held_out"}
    for number, path in enumerate(sorted((source / "a").iterdir())):
        path.rename(path.with_name(f"renamed{99 - number}.png"))
    _, renamed = run(source, tmp_path / "p2", held_out=0.1)
    assert {row.sha256 for row in renamed.rows if row.split == "held_out"} == held_out
    _, other = run(source, tmp_path / "p3", held_out=0.1, seed=1)
    assert {row.sha256 for row in other.rows if row.split == "held_out"} != held_out


@pytest.mark.parametrize(
    ("held_out", "expected"), [(0, 0), (0.0, 0), (0.5, 15), (1, 3), (6, 6), (7.0, 7), (27, 27)]
)
def test_how_many_are_held_out(held_out: float, expected: int) -> None:
    sizes: dict[str | None, int] = {"a": 20, "b": 8, None: 2}
    quota = labels._quotas(sizes, held_out)
    assert sum(quota.values()) == expected
    assert all(0 <= quota[group] < sizes[group] for group in sizes)
    if held_out:
        assert all(quota.values())


def test_decided_splits_go_first(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 6})
    table = tmp_path / "split.csv"
    table.write_text("file,split\n000.png,held_out\n001.png,held_out\n002.png,train\n")
    _, pack = run(source, tmp_path / "p1", split=table, held_out=0)
    assert [row.split for row in pack.rows] == ["held_out"] * 2 + ["train"] * 4
    table.write_text("file,split\n000.png,helt_out\n")
    with pytest.raises(Problem, match="held_out"):
        run(source, tmp_path / "p2", split=table)


def rows_for(names: str) -> list[Row]:
    return [Row(file=f"{i}", sha256=name, group="a") for i, name in enumerate(names)]


def test_what_belongs_together_stays_together() -> None:
    # Rows 0 and 3 share a file, 3 and 5 the pixels, so 0, 3 and 5 are one; 7 and 8 share the pixels.
    rows = rows_for("ABCADEFGHI")
    pixels = list("abcdedfghg")
    pixels[3] = pixels[5] = "same"
    pixels[7] = pixels[8] = "twin"
    for seed in range(30):
        splits = labels.draw_splits(rows, pixels, [None] * 10, 0.4, seed)
        assert splits[0] == splits[3] == splits[5]
        assert splits[7] == splits[8]
    with pytest.raises(Problem, match="0 and 5"):
        labels.draw_splits(rows, pixels, ["train", *[None] * 4, "held_out", *[None] * 4], 0.4, 0)
    assert labels.draw_splits(rows, pixels, ["held_out", *[None] * 9], 0, 0)[5] == "held_out"


# Duplicates


def test_duplicates_are_found_by_bytes_and_by_pixels(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 5, "b": 5})
    (source / "b" / "copy.png").write_bytes((source / "a" / "001.png").read_bytes())
    Image.open(source / "a" / "002.png").save(source / "a" / "same_pixels.bmp")
    report, pack = run(source, tmp_path / "p1")
    assert report.accepted == len(pack) == 10
    assert [(d.file, d.same_as, d.dropped) for d in report.duplicates] == [
        ("a/same_pixels.bmp", "a/002.png", True),
        ("b/copy.png", "a/001.png", True),
    ]
    assert any("under two groups" in sentence for sentence in report.advice)
    for seed in range(6):
        report, pack = run(source, tmp_path / "p2", keep_duplicates=True, seed=seed, held_out=0.4)
        assert report.accepted == len(pack) == 12
        splits = split_of(pack)
        for twin in report.duplicates:
            assert not twin.dropped
            assert splits[twin.file] == splits[twin.same_as]


# Again


def no_reading(*_: object) -> None:
    raise AssertionError("it read a picture again")


def test_again_with_nothing_changed_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "in", {"a": 3, "b": 3})
    (source / "bad.jpg").write_text("no picture")
    first, _ = run(source, tmp_path / "pack")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "pack").iterdir()}
    os.utime(source / "a" / "000.png")  # another time, the same contents
    monkeypatch.setattr(prepare_module, "Reader", lambda *arguments: no_reading)
    again, _ = run(source, tmp_path / "pack")
    assert again.unchanged
    assert not first.unchanged
    assert again.model_dump() == first.model_dump()
    assert "nothing was done" in doctor.text(again)
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "pack").iterdir()}


def test_again_with_something_changed_builds_again(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 4, "b": 4})
    hashes = [run(source, tmp_path / "pack")[1].hash]

    def changed(**options: object) -> None:
        report, pack = run(source, tmp_path / "pack", **options)
        assert not report.unchanged
        assert pack.compute_hash() == pack.hash
        hashes.append(pack.hash)

    changed(size=36)
    changed(groups="none")
    changed(held_out=0.5)
    save_png(source / "a" / "new.png", face(77))
    changed()
    path = source / "a" / "new.png"
    content, status = path.read_bytes(), path.stat()
    save_png(path, face(78))
    changed()
    path.unlink()
    changed()
    assert len(set(hashes)) == len(hashes) - 1  # the last is the first again
    assert hashes[-1] == hashes[0]
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed()
    os.truncate(tmp_path / "pack" / "images.npy", 1000)
    changed()
    assert sorted(os.listdir(tmp_path)) == ["in", "pack"]


def test_again_with_another_table(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 4})
    table = tmp_path / "t.csv"
    table.write_text("file,group\n000.png,x\n")
    assert not run(source, tmp_path / "pack", groups=table)[0].unchanged
    assert run(source, tmp_path / "pack", groups=table)[0].unchanged
    table.write_text("file,group\n000.png,y\n")
    report, pack = run(source, tmp_path / "pack", groups=table)
    assert not report.unchanged
    assert pack.groups == ["y"]


# Bad input


def test_a_few_bad_files_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 3})
    Image.fromarray(face(1, 200)).save(source / "a" / "torn.jpg")
    os.truncate(source / "a" / "torn.jpg", 700)
    (source / "a" / "text.jpg").write_text("not a picture")
    (source / "a" / "empty.png").touch()
    (source / "a" / "phone.heic").write_bytes(b"x")
    save_png(source / "a" / "dot.png", face(1, 40)[:1, :1])
    save_png(source / "a" / "small.png", face(50, 20))
    save_png(source / "a" / "white.png", np.full((40, 40, 3), 250, np.uint8))
    (source / "a" / "up").symlink_to(source)
    report, pack = run(source, tmp_path / "pack")
    assert len(pack) == 5
    reasons = {entry.file: entry.reason for entry in report.refused}
    assert set(reasons) == {
        f"a/{name}" for name in ("torn.jpg", "text.jpg", "empty.png", "phone.heic", "dot.png", "up")
    }
    assert "cut short" in reasons["a/torn.jpg"]
    assert "not a picture" in reasons["a/text.jpg"]
    assert "empty" in reasons["a/empty.png"]
    assert "1 x 1" in reasons["a/dot.png"]
    assert [entry.file for entry in report.upscaled] == ["a/small.png"]
    assert report.blank == ["a/white.png"]
    words = doctor.text(report)
    for name in reasons:
        assert name in words
    assert "enlarged, such as a/small.png (20 x 20)" in words
    assert "nearly blank, such as a/white.png" in words
    assert "only 4 pictures to train on" in words


def test_nothing_readable_names_the_first_reasons(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    with pytest.raises(Problem, match="no picture in"):
        run(source, tmp_path / "pack")
    for i in range(5):
        (source / f"{i}.jpg").touch()
    with pytest.raises(Problem, match=r"none of the 5 pictures.*0\.jpg: the file is empty.*2 more"):
        run(source, tmp_path / "pack")
    with pytest.raises(Problem, match="does not exist"):
        run(tmp_path / "missing", tmp_path / "pack")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    "options",
    [
        *({"size": size} for size in (0, -4, 15, 33, 4096, 64.0, "64", True)),
        *({"held_out": share} for share in (-0.1, 1.5, float("nan"), float("inf"), "0.1", True, 100, -1)),
        *({"workers": workers} for workers in (0, -1, 1.5)),
        {"side": "paintings"},
        {"seed": 0.5},
        {"split": "missing.csv"},
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict) -> None:
    source = folder_of(tmp_path / "in", {"a": 3})
    side = options.pop("side", "photos")
    with pytest.raises(Problem) as caught:
        prepare([source], side, tmp_path / "pack", **{"size": 32, **options})
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["in"]


def test_something_else_in_the_way(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 3})
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", source, tmp_path / "file" / "below"):
        with pytest.raises(Problem, match=r"not a pack|cannot write"):
            run(source, out)
    assert (tmp_path / "file").read_text() == "precious"
    assert len(list((source / "a").iterdir())) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 3})
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(Problem, match="cannot write"):
        run(source, tmp_path / "closed" / "pack")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "in", {"a": 4})
    before = run(source, tmp_path / "pack")[1].hash

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    # While the pictures are written, when they are flushed, and while the facts are written.
    for module, name in (
        (prepare_module, "_write_header"),
        (prepare_module.os, "fsync"),
        (pack_module, "write_text"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(Problem, match=r"cannot write .*No space left"):
                run(source, tmp_path / "pack", size=36)
        assert Pack.open(tmp_path / "pack").hash == before
        assert sorted(os.listdir(tmp_path)) == ["in", "pack"]
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Problem, match="are free"):
        run(source, tmp_path / "pack", size=36)
    assert Pack.open(tmp_path / "pack").hash == before


def test_interrupted_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "in", {"a": 4})

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "draw_splits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "pack")
    assert os.listdir(tmp_path) == ["in"]


def test_killed_half_way_leaves_no_half_pack(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 30})
    script = (
        "import sys, time\n"
        "from fewtoon.data import prepare as module\n"
        "class Slow(module.Reader):\n"
        "    def __call__(self, file): time.sleep(0.1); return super().__call__(file)\n"
        "module.Reader = Slow\n"
        f"module.prepare([{str(source)!r}], 'photos', {str(tmp_path / 'pack')!r}, size=32, workers=1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".pack.*.new/images.npy")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -9
    assert not (tmp_path / "pack").exists()
    assert len(list(tmp_path.glob(".pack.*"))) == 1
    run(source, tmp_path / "pack")
    assert sorted(os.listdir(tmp_path)) == ["in", "pack"]


def test_again_sees_other_contents_of_the_same_length(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(3):
        Image.fromarray(face(i)).save(source / f"{i}.bmp")
    before = run(source, tmp_path / "pack")[1].hash
    status = (source / "1.bmp").stat()
    Image.fromarray(face(9)).save(source / "1.bmp")
    assert (source / "1.bmp").stat().st_size == status.st_size
    os.utime(source / "1.bmp", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    report, pack = run(source, tmp_path / "pack")
    assert not report.unchanged
    assert pack.hash != before

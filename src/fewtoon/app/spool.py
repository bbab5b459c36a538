"""The one folder for files that a client sent or is to fetch: private, bounded, and gone when the studio ends."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path, PurePath
from types import ModuleType
from typing import BinaryIO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PREFIX = "fewtoon-studio-"
AGE = 60.0  # seconds that a file may lie here: whoever asked for a drawing has fetched it by then
MOST = 500_000_000  # bytes in the folder; beyond that nobody may send any more
FILES = 20_000  # in the folder, likewise
EVERY = 5.0  # seconds between two looks


class Spool:
    """A temporary folder and the thread that keeps it small."""

    def __init__(self, age: float = AGE, most: int = MOST, files: int = FILES, every: float = EVERY) -> None:
        self.age, self.most, self.files, self.every = age, most, files, every
        _clear_the_dead()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()  # only for this user: mode 0700
        self._door = _locked(self.folder)
        self._held = self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self.every):
            self.sweep()

    def sweep(self) -> None:
        """Delete what has lain here for too long, a photo that nobody wanted drawn for instance, and count the rest."""
        now, held, count = time.time(), 0, 0
        for top, folders, files in os.walk(self.folder, topdown=False):  # others delete here at the same time
            for path in (Path(top, name) for name in (*files, *folders)):
                with suppress(OSError):
                    status = path.lstat()
                    folder = stat.S_ISDIR(status.st_mode)
                    if now - status.st_mtime > self.age:
                        path.rmdir() if folder else path.unlink()
                    else:
                        held, count = held + (0 if folder else status.st_size), count + 1
        self._held, self._count = held, count

    @property
    def full(self) -> bool:
        """Whether there was no room for one more file when somebody last looked, or since then."""
        return self._held >= self.most or self._count >= self.files

    def keep(self, file: BinaryIO, size: int) -> Path:
        """Write what a client sent, under a name of ours that nobody can guess."""
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        path = folder / "sent"
        with path.open("wb") as kept:
            shutil.copyfileobj(file, kept)
        self._held, self._count = self._held + size, self._count + 2
        return path

    def find(self, path: str) -> Path | None:
        """The file of ours that a client names; None for anything else, of which nothing is even looked at."""
        with suppress(OSError, ValueError):  # a null character, a name that is too long
            inside = PurePath(path).relative_to(self.folder)
            found = self.folder / inside
            if ".." not in inside.parts and found.resolve(strict=True) == found and found.is_file():
                return found
        return None

    def read(self, path: str) -> bytes | None:
        """What a file of ours holds; None where there is none, or none any more."""
        found = self.find(path)
        with suppress(OSError):
            return None if found is None else found.read_bytes()
        return None

    def close(self) -> None:
        self._ended.set()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._door is not None:
            os.close(self._door)
            self._door = None


def _clear_the_dead() -> None:
    """Delete the folders of studios that were killed: nobody holds their locks any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if fcntl is None or status.st_uid != os.getuid() or time.time() - status.st_mtime < 60:
                continue  # that of somebody else, or so young that it may not be locked yet
            door = _locked(folder)
            if door is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(door)


def _locked(folder: Path) -> int | None:
    """A lock on a folder that ends with this process; None where another one has it."""
    if fcntl is None:
        return None
    door = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(door)
        return None
    return door

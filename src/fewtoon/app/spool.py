"""The one folder for files that a client sent or is to fetch: private, bounded, and empty when the studio ends."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

AGE = 300.0  # seconds that a file may lie here: whoever asked for a drawing has fetched it by then
MOST = 500_000_000  # bytes in the folder; beyond that nobody may send any more
EVERY = 15.0  # seconds between two looks


class Spool:
    """A temporary folder and the thread that keeps it small."""

    def __init__(self, age: float = AGE, most: int = MOST, every: float = EVERY) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fewtoon-")).resolve()  # only for this user: mode 0700
        self.age, self.most, self.every = age, most, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self.every):
            self.sweep()

    def sweep(self) -> None:
        """Delete what has lain here for too long, half an upload of a connection that was cut for instance."""
        now = time.time()
        for path in sorted(self.folder.rglob("*"), reverse=True):  # what is in a folder comes before it
            with suppress(OSError):
                if now - path.lstat().st_mtime > self.age:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    @property
    def full(self) -> bool:
        """Whether there is no room for one more file."""
        total = 0
        for path in self.folder.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_size
        return total >= self.most

    def holds(self, path: str) -> bool:
        """Whether a path, as a client gave it, is that of a file in this folder, and not of a link out of it."""
        with suppress(OSError, ValueError):  # a null character, a name that is too long
            real = Path(path).resolve(strict=True)
            return real.is_file() and self.folder in real.parents
        return False

    def read(self, path: str) -> bytes | None:
        """What a file in this folder holds; None where there is none, or none any more."""
        with suppress(OSError):
            return Path(path).read_bytes() if self.holds(path) else None
        return None

    def close(self) -> None:
        self._ended.set()
        shutil.rmtree(self.folder, ignore_errors=True)

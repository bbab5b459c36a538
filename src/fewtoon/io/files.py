"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fewtoon.errors import Problem


def printable(name: str | os.PathLike[str]) -> str:
    r"""A file name as text that can be printed and stored: bytes that are not UTF-8 appear as \xff."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` whole or not at all: a temporary one, flushed, then renamed.

    Its folder is made where it is missing. Raises Problem when it cannot be written (no permission, disk
    full); nothing is left behind, and an older file stays as it was.
    """
    target = Path(path)
    if not target.name:
        raise Problem(f"{str(path)!r} names no file: give the name of the file to write")
    name = os.fsencode(target.name)  # a temporary name that is longer than the name itself may be too long
    short = target.name if len(name) <= 200 else hashlib.sha256(name).hexdigest()
    temporary = target.with_name(f".{short}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise Problem(
            f"cannot write {printable(target)!r}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace the file at `path` by `data` in one step, or leave it as it was and raise Problem."""
    with atomic(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write and flush a file in a folder that is not in its place yet. Raises OSError."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def file_hash(path: str | Path) -> str:
    """sha256 (hex) of a file."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def stamp(path: Path) -> str:
    """Changes whenever the file does."""
    try:
        status = path.stat()
    except OSError:
        return "0"
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"

"""The Pack: prepared pictures of one side, decoded once, square, labelled and split.

On disk a folder: `images.npy` (uint8, N x S x S x 3, memory-mapped) and `pack.json` (what is true of all
pictures, then one row per picture). A pack is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from fewtoon.errors import Problem
from fewtoon.io.files import write_text

VERSION = 1
Side = Literal["photos", "drawings"]
Split = Literal["train", "held_out"]


class Row(BaseModel):
    """One picture of a pack; boxes and landmarks are in pixels of the source, x before y."""

    model_config = ConfigDict(extra="forbid")

    file: str  # name of the source, relative to the folder that was given
    sha256: str  # of the source file's bytes
    group: str | None = None
    split: Split = "train"
    # The face as `fewtoon.faces.face.Face` has it; None: the picture was taken as it is.
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom, brows to chin
    roll: float | None = None  # degrees clockwise
    landmarks: list[tuple[float, float]] | None = None  # eyes, nose, corners of the mouth
    finder: str | None = None  # who found it, or "marked"
    score: float | None = None
    yaw: float | None = None  # degrees to the right of the picture
    side: float | None = None  # of the square that was cut out, in pixels of the source
    upscaled: str | None = None  # how a small one was brought to size, such as "carn_m x2"
    note: str | None = None  # consent or licence


class _Document(BaseModel):
    """pack.json."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    side: Side
    size: int
    framing: str
    pad: str = "reflect"
    whiten: str | None = None
    count: int
    groups: list[str]
    hash: str
    arguments: dict[str, Any] = {}
    rows: list[Row]


# Everything that `prepare` puts into a pack's folder.
FILES = {"images.npy", "pack.json", "doctor.json", "sources.json"}


class Pack:
    """Pictures of one side, with their rows.

    path: the folder, None for a pack in memory
    images: (N, S, S, 3) uint8 RGB, read-only and memory-mapped when it comes from disk
    framing: which face framing the pictures have (`fewtoon.faces.framing`); "as-is": whatever they showed
    pad: what stands where a face was too near to the edge, "reflect" or "white"
    whiten: name of the matte by which the background was made white; None: it was left
    hash: sha256 (hex) over the pictures and the facts that training depends on: side, size, framing, and each
        picture's group and split. File names, notes and paths do not enter: the same on every machine.
    arguments: how it was prepared
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: list[Row],
        side: Side,
        *,
        framing: str = "as-is",
        pad: str = "reflect",
        whiten: str | None = None,
        path: Path | None = None,
        hash: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.images, self.rows, self.side, self.path = images, rows, side, path
        self.framing, self.pad, self.whiten = framing, pad, whiten
        self.size = int(images.shape[1])
        self.arguments = arguments or {}
        self.hash = hash or self.compute_hash()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Pack({len(self)} {self.side} of {self.size} px, groups {self.groups}, {self.hash[:12]})"

    @property
    def groups(self) -> list[str]:
        """The sorted distinct names; [] when no picture has a group."""
        return sorted({row.group for row in self.rows if row.group is not None})

    def where(self, split: str | None = None, group: str | None = None) -> np.ndarray:
        """(n,) int64 indices, ascending, of the pictures of a split and a group (None: of all).
        Raises Problem for a split or a group that the pack does not know."""
        if split is not None and split not in get_args(Split):
            raise Problem(f"no split {split!r}: choose from {', '.join(get_args(Split))}")
        if group is not None and group not in self.groups:
            raise Problem(f"no group {group!r} in {self._name}: it has {', '.join(self.groups) or 'none'}")
        chosen = [
            index
            for index, row in enumerate(self.rows)
            if (split is None or row.split == split) and (group is None or row.group == group)
        ]
        return np.asarray(chosen, dtype=np.int64)

    @property
    def _name(self) -> str:
        return repr(str(self.path)) if self.path else "this pack"

    def compute_hash(self) -> str:
        """The hash from the pictures themselves (reads them all); `hash` holds the one that was stored."""
        return combined_hash(self.side, self.size, self.framing, self.rows, map(digest, self.images))

    @classmethod
    def open(cls, path: str | Path) -> Pack:
        """The pack in a folder; its pictures stay on disk. Raises Problem when it is missing, torn, or of
        another version."""
        path = Path(path)
        again = "prepare it again with `fewtoon prepare`"
        if not path.is_dir():
            raise Problem(f"no pack at {str(path)!r}: make one with `fewtoon prepare PICTURES --out {path}`")
        try:
            document = json.loads((path / "pack.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Problem(f"{str(path)!r} is not a pack (it has no pack.json): {again}") from None
        except (OSError, ValueError) as error:
            raise Problem(f"{str(path / 'pack.json')!r} cannot be read ({error}): {again}") from None
        version = document.get("version") if isinstance(document, dict) else None
        if version != VERSION:
            raise Problem(
                f"pack {str(path)!r} has version {version!r}, this fewtoon reads {VERSION}: {again}"
            )
        try:
            facts = _Document.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Problem(
                f"{str(path / 'pack.json')!r} is damaged at {where!r} ({first['msg']}): {again}"
            ) from None
        images = _map(path / "images.npy", again)
        expected = (len(facts.rows), facts.size, facts.size, 3)
        if images.shape != expected or images.dtype != np.uint8 or facts.count != len(facts.rows):
            found = f"{images.dtype} {images.shape}"
            raise Problem(
                f"images.npy of pack {str(path)!r} is {found}, pack.json says uint8 {expected}: {again}"
            )
        return cls(
            images,
            facts.rows,
            facts.side,
            framing=facts.framing,
            pad=facts.pad,
            whiten=facts.whiten,
            path=path,
            hash=facts.hash,
            arguments=facts.arguments,
        )

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        side: str,
        groups: Sequence[str | None] | None = None,
        splits: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        *,
        framing: str = "as-is",
    ) -> Pack:
        """A pack in memory from (N, S, S, 3) uint8 pictures; without `splits` all are for training.
        Raises Problem when shapes, lengths or names do not fit."""
        images = np.asarray(images)
        if (
            images.ndim != 4
            or images.dtype != np.uint8
            or images.shape[1] != images.shape[2]
            or images.shape[3] != 3
        ):
            raise Problem(f"pictures must be (N, S, S, 3) uint8, these are {images.shape} {images.dtype}")
        count = len(images)
        if not count:
            raise Problem("a pack needs at least one picture, there are 0")
        if side not in get_args(Side):
            raise Problem(f"no side {side!r}: choose from {', '.join(get_args(Side))}")
        for what, values in (("groups", groups), ("splits", splits), ("names", names)):
            if values is not None and len(values) != count:
                raise Problem(f"{count} pictures but {len(values)} {what}: give one each")
        try:
            rows = [
                Row(
                    file=names[i] if names is not None else f"{i:06d}",
                    sha256=digest(images[i]),
                    group=groups[i] if groups is not None else None,
                    split=cast(Split, splits[i] if splits is not None else "train"),
                )
                for i in range(count)
            ]
        except ValidationError as error:
            first = error.errors()[0]
            raise Problem(f"{first['loc'][-1]}: {first['msg']}, not {first.get('input')!r}") from None
        return cls(images, rows, cast(Side, side), framing=framing)

    def save(self, path: str | Path) -> None:
        """Write the folder, whole or not at all; an earlier pack of that name is replaced.
        Raises Problem when something else is there or the disk does not take it."""
        with new_folder(path) as folder:
            with open(folder / "images.npy", "wb") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(self.images), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            self.write_facts(folder)

    def write_facts(self, folder: Path) -> None:
        """pack.json, readable by people: the facts first, then one line per picture."""
        facts = {
            "version": VERSION,
            "side": self.side,
            "size": self.size,
            "framing": self.framing,
            "pad": self.pad,
            "whiten": self.whiten,
            "count": len(self.rows),
            "groups": self.groups,
            "hash": self.hash,
            "arguments": self.arguments,
        }
        lines = [json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False) for row in self.rows]
        head = json.dumps(facts, ensure_ascii=False, indent=1)[:-2]
        write_text(folder / "pack.json", head + ',\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n")


def digest(array: np.ndarray) -> str:
    """sha256 (hex) of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def combined_hash(side: str, size: int, framing: str, rows: Iterable[Row], digests: Iterable[str]) -> str:
    """Pack.hash from the sha256 of each picture's S x S x 3 bytes."""
    total = hashlib.sha256(json.dumps(["fewtoon pack", side, size, framing]).encode())
    for row, pixels in zip(rows, digests):
        total.update(json.dumps([row.group, row.split, pixels]).encode())
    return total.hexdigest()


def _map(path: Path, again: str) -> np.ndarray:
    """An .npy file as a read-only memory map: never unpickled, and exactly as long as its header says."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(images, np.memmap) or os.path.getsize(path) != images.offset + images.nbytes:
            raise ValueError("its length is not what its header says")
    except FileNotFoundError:
        raise Problem(f"{str(path)!r} is missing: {again}") from None
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, KeyError) as error:
        raise Problem(f"{str(path)!r} is damaged ({error}): {again}") from None
    return images


# ---------------------------------------------------------------------------------------------------------
# Folders that appear whole or not at all


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends without an exception.

    What a process that died left behind is cleaned up first. Raises Problem when `out` is there and is
    not a pack, or cannot be written.
    """
    out = Path(os.path.abspath(out))
    check_replaceable(out)
    temporary = out.with_name(f".{out.name}.{socket.gethostname()}.{os.getpid()}.new")
    previous = temporary.with_suffix(".old")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clean_up(out)
        temporary.mkdir()
        yield temporary
        # A folder cannot be replaced in one step. The old one is out of the way only between two renames;
        # whoever dies just there leaves it beside, and clean_up brings it back.
        if out.exists():
            os.rename(out, previous)
        os.rename(temporary, out)
    except OSError as error:
        if previous.exists() and not out.exists():
            os.rename(previous, out)
        raise Problem(f"cannot write {str(out)!r}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if out.exists():
            shutil.rmtree(previous, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Raises Problem unless `out` is free, an empty folder or a pack."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise Problem(f"{str(out)!r} exists and is not a pack: choose another --out")
    names = {path.name for path in out.iterdir()}
    if not names:
        return
    if not _is_ours(out / "pack.json") and not {"pack.json", "images.npy"} <= names:
        raise Problem(f"folder {str(out)!r} exists and is not a pack: choose another --out")
    if names - FILES:  # the folder will be replaced whole
        stray = sorted(names - FILES)[0]
        raise Problem(f"pack {str(out)!r} also holds {stray!r}, which is no part of it: move it away first")


def _is_ours(path: Path) -> bool:
    """Whether this is the pack.json of a pack, of any version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"version", "side", "size", "rows"} <= document.keys()


def clean_up(out: Path) -> None:
    """Remove the temporary folders of dead processes beside `out`; bring back a pack that one of them had
    just moved out of the way."""
    prefix = f".{out.name}.{socket.gethostname()}."
    for path in sorted(out.parent.glob(f".{glob.escape(out.name)}.*.*")):
        if path.suffix not in (".new", ".old") or not path.is_dir():
            continue
        pid = path.stem.rsplit(".", 1)[-1]
        here = path.name.startswith(prefix) and pid.isdigit()
        # On a shared disk the other machine's processes cannot be asked: a day without a change is enough.
        with contextlib.suppress(OSError):
            if not (here and not _alive(int(pid))) and time.time() - path.stat().st_mtime < 86400:
                continue
            if path.suffix == ".old" and not out.exists():
                os.rename(path, out)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # from an earlier life of this number: nothing of ours exists yet
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

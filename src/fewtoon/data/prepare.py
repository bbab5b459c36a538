"""prepare: folders of pictures -> a Pack. The only place where training meets picture files.

Pictures are read, squared and hashed by threads (Pillow's decoders run outside Python's lock, which measured
as fast as processes and needs nothing copied between them) and written in order by one, so that the pack is
the same for any number of workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fewtoon.data import doctor
from fewtoon.data.doctor import Duplicate, Refusal, Report, Small
from fewtoon.data.labels import csv_fact, decided_labels, draw_splits
from fewtoon.data.pack import (
    Pack,
    Row,
    Side,
    Split,
    check_replaceable,
    combined_hash,
    digest,
    new_folder,
)
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.files import write_text
from fewtoon.io.images import BadPicture, Found, Refused

# Goes into the arguments of a pack: raise it when the same pictures would give other pixels.
RECIPE = 1
FRAMING = "as-is"
MIN_SIZE, MAX_SIZE = 16, 2048  # pixels
SOURCES = "sources.json"  # what the pack was made from, to see whether anything has changed

Box = tuple[float, float, float, float]
Face = tuple[np.ndarray, "Box | None", "list[tuple[float, float]] | None"]
T = TypeVar("T")
R = TypeVar("R")


def frame(picture: np.ndarray) -> list[Face]:
    """The faces of one (H, W, 3) picture: (crop, box, landmarks), in pixels of the picture.

    As it is: the whole picture is the face, its centre square is taken when it is resized.
    """
    return [(picture, None, None)]


def prepare(
    pictures: Sequence[str | Path],
    side: str,
    out: str | Path,
    size: int = 256,
    groups: str | Path = "by-folder",
    held_out: float | int = 0.1,
    split: str | Path | None = None,
    seed: int = 0,
    note: str | None = None,
    keep_duplicates: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Make a pack of `pictures` (files, folders, patterns) and report on every file.

    side: "photos" or "drawings"
    size: side of the squares in pixels, a multiple of 4
    groups: "by-folder" (the first sub-folder below each given folder), "none", or a CSV with the columns
        file, group
    held_out: share of the pictures to hold out (below 1), or how many (1 and more); drawn per group from the
        contents of the files and `seed`, at least one of each group that has two
    split: a CSV with the columns file, split (train or held_out), which goes before the draw
    note: consent or licence, stored with each picture
    keep_duplicates: keep pictures that are there twice, always on the same side; otherwise the first one only

    Does nothing when the pack is there and neither pictures nor arguments have changed. The pack appears
    whole or not at all. Raises Problem for arguments that cannot be used, when no picture can be read, and
    when `out` cannot be written.
    """
    started = time.perf_counter()
    _check(side, size, held_out, seed, workers)
    out = Path(out)
    check_replaceable(out)
    given = [pictures] if isinstance(pictures, (str, Path)) else list(pictures)
    found, refused = images.find(given)
    if not found:
        why = f" ({refused[0].name}: {refused[0].reason})" if refused else ""
        where = ", ".join(map(images.printable, given)) or "nothing given"
        raise Problem(f"no picture in {where}{why}: give folders with {', '.join(images.FORMATS)} files")
    labels = decided_labels(found, groups, split)
    arguments = {
        "size": size,
        "groups": str(groups) if groups in ("by-folder", "none") else csv_fact(groups),
        "held_out": held_out,
        "split": None if split is None else csv_fact(split),
        "seed": seed,
        "note": None if note is None else images.printable(note),
        "keep_duplicates": bool(keep_duplicates),
        "recipe": RECIPE,
    }
    report = _unchanged(out, side, arguments, found, refused)
    if report is None:
        report = _build(
            cast(Side, side), out, found, refused, labels, arguments, workers or _cores(), progress
        )
    report.out = images.printable(out)
    report.seconds = time.perf_counter() - started
    return report


def _check(side: str, size: int, held_out: float, seed: int, workers: int | None) -> None:
    if side not in get_args(Side):
        raise Problem(f"no side {side!r}: choose from {', '.join(get_args(Side))}")
    if isinstance(size, bool) or not isinstance(size, int) or size % 4 or not MIN_SIZE <= size <= MAX_SIZE:
        raise Problem(f"size {size!r}: choose a multiple of 4 from {MIN_SIZE} to {MAX_SIZE}")
    whole = isinstance(held_out, int) and not isinstance(held_out, bool)
    share = isinstance(held_out, float) and held_out < 1  # 1.0 could mean either
    if not whole and not share:
        raise Problem(
            f"held_out {held_out!r}: choose a share from 0 to below 1, or a whole number of pictures"
        )
    if held_out < 0:
        raise Problem(f"held_out {held_out!r}: it cannot be negative")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise Problem(f"seed {seed!r}: choose a whole number")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise Problem(f"workers {workers!r}: choose a whole number from 1")


# ---------------------------------------------------------------------------------------------------------
# Has anything changed?


@dataclass(frozen=True)
class _Source:
    """A file as it was when it was read."""

    name: str
    bytes: int
    mtime_ns: int
    sha256: str | None  # None: it could not be read


def _unchanged(
    out: Path, side: str, arguments: dict[str, Any], found: list[Found], refused: list[Refused]
) -> Report | None:
    """The report of the pack in `out` if the same call would make it again, else None."""
    try:
        pack = Pack.open(out)
        if pack.side != side or pack.arguments != json.loads(json.dumps(arguments)):
            return None
        report = doctor.read_report(out)
        stored = json.loads((out / SOURCES).read_text(encoding="utf-8"))
        sources = [_Source(*entry) for entry in stored["files"]]
        skipped = [[entry.name, entry.reason] for entry in refused]
        if report.hash != pack.hash or stored["skipped"] != skipped or len(sources) != len(found):
            return None
        if not all(_same(file, source) for file, source in zip(found, sources)):
            return None
    except (Problem, OSError, ValueError, TypeError, KeyError):
        return None
    report.unchanged = True
    return report


def _same(file: Found, source: _Source) -> bool:
    """Same name, size and time, or, where only the time differs, same contents."""
    status = os.stat(file.path)
    if (file.name, status.st_size) != (source.name, source.bytes):
        return False
    if source.sha256 is None:
        return not os.access(file.path, os.R_OK)
    if status.st_mtime_ns == source.mtime_ns:
        return True
    return hashlib.sha256(images.read_bytes(file.path)).hexdigest() == source.sha256


# ---------------------------------------------------------------------------------------------------------
# Building


@dataclass(frozen=True)
class _Prepared:
    """One face, ready for the pack."""

    square: np.ndarray  # (S, S, 3) uint8
    pixels: str  # sha256 of `square`
    box: Box | None
    landmarks: list[tuple[float, float]] | None
    crop: tuple[int, int]  # width, height before resizing
    blank: bool


def _read(file: Found, size: int) -> tuple[_Source, list[_Prepared] | BadPicture]:
    """What a worker does with one file."""
    sha: str | None = None
    length, mtime = -1, -1
    try:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(file.path)
            length, mtime = status.st_size, status.st_mtime_ns
        content = images.read_bytes(file.path)
        sha = hashlib.sha256(content).hexdigest()
        prepared: list[_Prepared] | BadPicture = [
            _prepare_face(face, size) for face in frame(images.read(io.BytesIO(content), draft=2 * size))
        ]
    except BadPicture as bad:
        prepared = bad
    return _Source(file.name, length, mtime, sha), prepared


def _prepare_face(face: Face, size: int) -> _Prepared:
    crop, box, landmarks = face
    square = images.resize_square(crop, size)
    # A 32 x 32 sample is plenty to tell a blank sheet from a picture.
    step = max(1, size // 32)
    blank = bool(square[::step, ::step].std() < doctor.BLANK)
    return _Prepared(square, digest(square), box, landmarks, (crop.shape[1], crop.shape[0]), blank)


class _Collector:
    """What is known of the pictures taken so far; the caller writes the squares that `take` returns."""

    def __init__(self, refused: list[Refused], note: str | None, size: int, keep_duplicates: bool) -> None:
        self.note, self.size, self.keep_duplicates = note, size, keep_duplicates
        self.sources: list[_Source] = []
        self.refused = [Refusal(file=entry.name, reason=entry.reason) for entry in refused]
        self.rows: list[Row] = []
        self.pixels: list[str] = []  # sha256 of each row's square
        self.decided: list[Split | None] = []
        self.duplicates: list[Duplicate] = []
        self.upscaled: list[Small] = []
        self.blank: list[str] = []
        self._first: dict[str, int] = {}  # sha256 of a square -> its first row

    def take(
        self, source: _Source, prepared: list[_Prepared] | BadPicture, group: str | None, split: Split | None
    ) -> list[np.ndarray]:
        self.sources.append(source)
        if isinstance(prepared, BadPicture):
            self.refused.append(Refusal(file=source.name, reason=prepared.reason))
            return []
        return [face.square for face in prepared if self._take_face(face, source, group, split)]

    def _take_face(self, face: _Prepared, source: _Source, group: str | None, split: Split | None) -> bool:
        twin = self._first.setdefault(face.pixels, len(self.rows))
        if twin < len(self.rows):
            other = self.rows[twin]
            duplicate = Duplicate(
                file=source.name,
                same_as=other.file,
                dropped=not self.keep_duplicates,
                group=group,
                group_of_other=other.group,
            )
            self.duplicates.append(duplicate)
            if duplicate.dropped:
                self.decided[twin] = self.decided[twin] or split
                return False
        row = Row(
            file=source.name,
            sha256=source.sha256 or "",
            group=group,
            box=face.box,
            landmarks=face.landmarks,
            note=self.note,
        )
        self.rows.append(row)
        self.pixels.append(face.pixels)
        self.decided.append(split)
        if min(face.crop) < self.size:
            self.upscaled.append(Small(file=row.file, width=face.crop[0], height=face.crop[1]))
        if face.blank:
            self.blank.append(row.file)
        return True


def _build(
    side: Side,
    out: Path,
    found: list[Found],
    refused: list[Refused],
    labels: tuple[list[str | None], list[Split | None]],
    arguments: dict[str, Any],
    workers: int,
    progress: bool,
) -> Report:
    size: int = arguments["size"]
    known = _Collector(refused, arguments["note"], size, arguments["keep_duplicates"])
    with _quiet(), new_folder(out) as folder:
        _check_space(folder, len(found) * size * size * 3)
        with open(folder / "images.npy", "wb") as file:
            # Written rather than mapped: a full disk is then an error to report, not a killed process.
            _write_header(file, len(found), size)
            results = _in_order(lambda picture: _read(picture, size), found, workers)
            for result, group, split in zip(_bar(results, len(found), progress), *labels):
                for square in known.take(*result, group, split):
                    file.write(square.data)
            if not known.rows:
                raise Problem(
                    f"none of the {len(found)} pictures can be used: {_first_reasons(known.refused)}"
                )
            _write_header(file, len(known.rows), size)
            file.flush()
            os.fsync(file.fileno())
        splits = draw_splits(
            known.rows, known.pixels, known.decided, arguments["held_out"], arguments["seed"]
        )
        for row, value in zip(known.rows, splits):
            row.split = value
        pack = Pack(
            np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
            known.rows,
            side,
            framing=FRAMING,
            hash=combined_hash(side, size, FRAMING, known.rows, known.pixels),
            arguments=arguments,
        )
        report = Report(
            side=side,
            size=size,
            hash=pack.hash,
            accepted=len(pack),
            groups=doctor.counts(pack),
            refused=known.refused,
            duplicates=known.duplicates,
            upscaled=known.upscaled,
            blank=known.blank,
        )
        pack.write_facts(folder)
        write_text(folder / doctor.FILE, report.model_dump_json(indent=1) + "\n")
        files = [[source.name, source.bytes, source.mtime_ns, source.sha256] for source in known.sources]
        skipped = [[entry.name, entry.reason] for entry in refused]
        write_text(folder / SOURCES, json.dumps({"files": files, "skipped": skipped}, ensure_ascii=False))
    return report


def _first_reasons(refused: list[Refusal], shown: int = 3) -> str:
    reasons = "; ".join(f"{entry.file}: {entry.reason}" for entry in refused[:shown])
    return reasons + (f" (and {len(refused) - shown} more)" if len(refused) > shown else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns about odd metadata; what matters of it is in the report."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Problem(
            f"the pack needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free on the disk of --out"
        )


def _write_header(file: IO[bytes], count: int, size: int) -> None:
    """The .npy header at the beginning of `file`; numpy pads it so that `count` can change later."""
    position = file.tell()
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, cast(Any, header))
    file.seek(max(position, file.tell()))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work` of each item, in order, on `workers` threads, never more than a few pictures ahead of the
    writer: the memory does not grow with their number."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(executor.submit(work, item))
            if len(pending) > 8 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _bar(items: Iterator[T], total: int, wanted: bool) -> Iterator[T]:
    """`items`, with a progress bar on a terminal."""
    console = Console(stderr=True)
    if not wanted or not console.is_terminal or not sys.stderr.isatty():
        yield from items
        return
    rate = TextColumn("{task.fields[rate]:.0f} pictures/s")
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=total, rate=0.0)
        started = time.perf_counter()
        for number, item in enumerate(items, 1):
            yield item
            bar.update(task, completed=number, rate=number / max(time.perf_counter() - started, 1e-9))

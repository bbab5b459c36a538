"""prepare: folders of pictures -> a Pack. The only place where training meets picture files.

Pictures are read, framed and hashed by threads (the decoders and the networks run outside Python's lock, which
measured as fast as processes and needs nothing copied between them) and written in order by one, so that the
pack is the same for any number of workers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar, cast, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fewtoon.data import doctor, marks, sources
from fewtoon.data.collector import Collector
from fewtoon.data.doctor import Refusal, Report
from fewtoon.data.labels import RESERVED, csv_fact, decided_labels, draw_splits
from fewtoon.data.marks import Marks
from fewtoon.data.pack import Pack, Side, check_replaceable, combined_hash, new_folder
from fewtoon.data.reader import Reader
from fewtoon.errors import Problem, nearest
from fewtoon.faces import finders
from fewtoon.faces.cutter import Cutter
from fewtoon.faces.framing import Kind, Pad
from fewtoon.faces.matte import open_matte
from fewtoon.faces.panels import InPanels
from fewtoon.faces.upscale import open_upscaler
from fewtoon.io import images
from fewtoon.io.files import write_text
from fewtoon.io.images import Found, Refused

# Goes into the arguments of a pack: raise it when the same pictures would give other pixels.
RECIPE = 2
MIN_SIZE, MAX_SIZE = 16, 2048  # pixels
SMALLEST = 1 / 8  # of the size: what is enlarged more than eightfold shows nothing of a face

T = TypeVar("T")
R = TypeVar("R")


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
    framing: str = "auto",
    pad: str | None = None,
    whiten: bool = False,
    matte: str | None = None,
    find: Sequence[str] | str = (),
    faces: str | Path | None = None,
    upscale: str | None = None,
    only_largest: bool = False,
    smallest: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Make a pack of the faces in `pictures` (files, folders, patterns) and report on every file.

    side: "photos" or "drawings"
    size: side of the squares in pixels, a multiple of 4
    groups: "by-folder" (the first sub-folder below each given folder), "none", or a CSV with the columns
        file, group
    held_out: share of the pictures to hold out (below 1), or how many (1 and more); drawn per group from the
        contents of the files and `seed`, at least one of each group that has two
    split: a CSV with the columns file, split (train or held_out), which goes before the draw
    note: consent or licence, stored with each picture
    keep_duplicates: keep pictures that are there twice, always on the same side; otherwise the first one only
    framing: "portrait" or "ffhq" (every face is found, turned upright and cut out, see
        `fewtoon.faces.framing`), "as-is" (each picture is a face already), or "auto": as-is where all pictures
        are squares and no boxes were marked, portrait otherwise
    pad: "reflect" or "white", where a face is too near to the edge; None: white when whitening
    whiten: put a white background behind every person
    matte: what tells persons from backgrounds (`fewtoon.faces.matte`); to name one means to whiten
    find: finders to ask, in order (`fewtoon.faces.finders`); none: the best for this side that is there
    faces: a table of boxes and groups (`fewtoon.data.marks`), which goes before any finder and before `groups`;
        None: faces.csv in the given folders, where it is there
    upscale: a super-resolution file for small faces (`fewtoon.faces.upscale`); None: classical resampling
    only_largest: take one face per picture, the largest
    smallest: leave out faces that are framed by a smaller square than this, in pixels of the picture; None: an
        eighth of `size`

    Does nothing when the pack is there and neither pictures nor arguments have changed. The pack appears
    whole or not at all. Raises Problem for arguments that cannot be used, when no picture can be used, and
    when `out` cannot be written.
    """
    started = time.perf_counter()
    _check(side, size, held_out, seed, workers, framing, pad, smallest)
    whiten = whiten or matte is not None
    out = Path(out)
    check_replaceable(out)
    given = [pictures] if isinstance(pictures, (str, Path)) else list(pictures)
    found, refused = images.find(given)
    if not found:
        why = f" ({refused[0].name}: {refused[0].reason})" if refused else ""
        where = ", ".join(map(images.printable, given)) or "nothing given"
        raise Problem(f"no picture in {where}{why}: give folders with {', '.join(images.FORMATS)} files")
    labels = decided_labels(found, groups, split)
    marked, notes = _marked(faces, given, found)
    kind, why_kind = _framing(framing, marked, found)
    notes += why_kind
    named, finder = [find] if isinstance(find, str) else list(find), None
    if kind != "as-is":
        finder = finders.choose(named, side)
        if side == "drawings":  # pages and strips
            finder = InPanels(finder)
        notes += finders.notes(named)
    cutter = Cutter(
        size,
        kind,
        cast(Pad, pad or ("white" if whiten else "reflect")),
        finder,
        open_matte(matte or "mediapipe") if whiten else None,
        None if kind == "as-is" else open_upscaler(upscale),
    )
    least = round(SMALLEST * size) if smallest is None else smallest
    arguments = {
        "size": size,
        "groups": str(groups) if groups in ("by-folder", "none") else csv_fact(groups),
        "held_out": held_out,
        "split": None if split is None else csv_fact(split),
        "seed": seed,
        "note": None if note is None else images.printable(note),
        "keep_duplicates": bool(keep_duplicates),
        "framing": kind,
        "pad": cutter.pad,
        "finder": cutter.finder.identity if cutter.finder else None,
        "matte": cutter.matte.identity if cutter.matte else None,
        "upscaler": cutter.upscaler.identity if cutter.upscaler else None,
        "faces": marked.identity if marked else None,
        "only_largest": bool(only_largest),
        "smallest": least,
        "recipe": RECIPE,
    }
    report = sources.unchanged(out, side, arguments, found, refused)
    if report is None:
        job = _Job(cast(Side, side), out, found, refused, labels, arguments, notes)
        report = _build(job, Reader(cutter, marked, only_largest, least), workers or _cores(), progress)
    report.out = images.printable(out)
    report.seconds = time.perf_counter() - started
    return report


def _check(
    side: str,
    size: int,
    held_out: float,
    seed: int,
    workers: int | None,
    framing: str,
    pad: str | None,
    smallest: int | None,
) -> None:
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
    kinds = ("auto", *get_args(Kind))
    if framing not in kinds:
        raise Problem(f"no framing {framing!r}: {nearest(framing, kinds)}")
    if pad is not None and pad not in get_args(Pad):
        raise Problem(f"no padding {pad!r}: choose from {', '.join(get_args(Pad))}")
    if smallest is not None and (isinstance(smallest, bool) or not isinstance(smallest, int) or smallest < 0):
        raise Problem(f"smallest {smallest!r}: choose a whole number of pixels from 0")


# ---------------------------------------------------------------------------------------------------------
# How faces are found


def _marked(
    faces: str | Path | None, given: Sequence[str | Path], found: list[Found]
) -> tuple[Marks | None, list[str]]:
    """The boxes that persons drew, if there are any, and what is worth a sentence about them."""
    names = [file.name for file in found]
    tables = [(Path(faces), "")] if faces is not None else _tables(given)
    if not tables:
        return None, []
    rows, notes = [], []
    for path, prefix in tables:
        below = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        table = Marks.read(path).settled(below)
        unknown = table.unknown(below)
        if unknown and len(unknown) == len(table.files):
            raise Problem(
                f"{str(path)!r} names none of the {len(below)} pictures, such as {names[0]!r}: its column 'file' "
                "must hold their names"
            )
        if unknown:
            notes.append(
                f"{path.name} also names what is not here, such as {unknown[0]} ({len(unknown)} in all)"
            )
        for group in RESERVED & set(table.groups):
            raise Problem(
                f"no group can be called {group!r}, a row of every report: rename it in {str(path)!r}"
            )
        rows += [replace(mark, file=prefix + mark.file) for mark in table.rows()]
    return Marks(rows, strict=True), notes


def _tables(given: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """The tables that lie in the given folders, each with what the names of its pictures start with: as
    `images.find` names them."""
    folders = [path for path in given if os.path.isdir(path)]
    prefix = lambda folder: os.path.basename(os.path.abspath(folder)) + "/" if len(given) > 1 else ""
    tables = [(Path(folder) / marks.NAME, images.printable(prefix(folder))) for folder in folders]
    return [(table, prefix) for table, prefix in tables if table.is_file()]


def _framing(framing: str, marked: Marks | None, found: list[Found]) -> tuple[Kind, list[str]]:
    """What "auto" means for these pictures, in a sentence."""
    if framing != "auto":
        return cast(Kind, framing), []
    if marked is not None:
        return "portrait", []
    if all(images.is_square(file.path) for file in found):
        told = "all pictures are squares, so they were taken as they are: for faces within them say --framing"
        return "as-is", [f"{told} portrait"]
    return "portrait", []


# ---------------------------------------------------------------------------------------------------------
# Building


@dataclass(frozen=True)
class _Job:
    """What is to be made of what."""

    side: Side
    out: Path
    found: list[Found]
    refused: list[Refused]
    labels: tuple[list[str | None], list[Any]]
    arguments: dict[str, Any]
    notes: list[str]


def _build(job: _Job, reader: Reader, workers: int, progress: bool) -> Report:
    size: int = job.arguments["size"]
    known = Collector(job.refused, job.arguments["note"], size, job.arguments["keep_duplicates"])
    with _quiet(), new_folder(job.out) as folder:
        _check_space(folder, len(job.found) * size * size * 3)
        with open(folder / "images.npy", "wb") as file:
            # Written rather than mapped: a full disk is then an error to report, not a killed process.
            _write_header(file, len(job.found), size)
            results = _in_order(reader, job.found, workers)
            for read, group, split in zip(_bar(results, len(job.found), progress), *job.labels):
                for square in known.take(read, group, split):
                    file.write(square.data)
            if not known.rows:
                raise Problem(
                    f"none of the {len(job.found)} pictures can be used: {_first_reasons(known.refused)}"
                )
            _write_header(file, len(known.rows), size)
            file.flush()
            os.fsync(file.fileno())
        splits = draw_splits(
            known.rows, known.pixels, known.decided, job.arguments["held_out"], job.arguments["seed"]
        )
        for row, value in zip(known.rows, splits):
            row.split = value
        cutter = reader.cutter
        pack = Pack(
            np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
            known.rows,
            job.side,
            framing=cutter.kind,
            pad=cutter.pad,
            whiten=cutter.matte.name if cutter.matte else None,
            hash=combined_hash(job.side, size, cutter.kind, known.rows, known.pixels),
            arguments=job.arguments,
        )
        report = Report(
            side=job.side,
            size=size,
            hash=pack.hash,
            accepted=len(pack),
            groups=doctor.counts(pack),
            refused=known.refused,
            duplicates=known.duplicates,
            upscaled=known.upscaled,
            blank=known.blank,
            notes=job.notes,
        )
        pack.write_facts(folder)
        write_text(folder / doctor.FILE, report.model_dump_json(indent=1) + "\n")
        sources.write(folder, known.sources, job.refused)
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

"""The drawn world: synthetic photos and drawings of people whose attributes are known.

It is the data of `fewtoon demo` and of the tests: nothing is downloaded, and every picture is a function of
(seed, side, index). The picture with index 4 j + g is the j-th one of group g, so a world with more pictures,
or with other proportions between its groups, holds the same pictures and more.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewtoon.data.world_drawing import STYLES, drawing
from fewtoon.data.world_face import GROUPS, Face, random_face
from fewtoon.data.world_photo import photo
from fewtoon.errors import Problem, nearest
from fewtoon.io.files import write_text

__all__ = [
    "GROUPS",
    "SIDES",
    "STYLES",
    "Face",
    "build",
    "drawing",
    "photo",
    "picture",
    "random_face",
    "sample",
]

SIDES = ("photos", "drawings")
VERSION = (
    1  # raise it whenever the painters paint otherwise: an older world is then not taken for the same one
)
Progress = Callable[[int, int], object]  # (pictures written so far, pictures in all)


def picture(
    side: str, index: int, size: int, seed: int = 0, style: str = "flat"
) -> tuple[NDArray[np.uint8], Face]:
    """One picture of a world and who is in it; its group is `GROUPS[index % 4]`.

    Args:
        side: "photos" | "drawings".
        index: which picture, 0 or more.
        size: pixels per side, 16 .. 1024.
        seed: which world, 0 or more.
        style: the artist of the drawings, one of `STYLES`.

    Returns:
        (size, size, 3) uint8 RGB, and the face.

    Raises:
        Problem: an argument is out of its range.
    """
    _check(size, seed, style)
    if side not in SIDES:
        raise Problem(f"unknown side {side!r}: {nearest(side, SIDES)}")
    seeds = np.random.SeedSequence([seed, SIDES.index(side), index])
    who, how = (np.random.Generator(np.random.PCG64(s)) for s in seeds.spawn(2))
    face = random_face(who, GROUPS[index % len(GROUPS)])
    return photo(face, size, how) if side == "photos" else drawing(face, size, style, how), face


def sample(
    side: str, n: int, size: int, seed: int = 0, style: str = "flat", counts: Sequence[int] | None = None
) -> tuple[NDArray[np.uint8], list[Face], list[str]]:
    """The first `n` pictures of one side, in memory.

    Args:
        side, size, seed, style: as in `picture`.
        n: how many pictures; the groups take turns.
        counts: instead, how many of each group (zeros allowed); they must add up to `n`.

    Returns:
        images (n, size, size, 3) uint8; n faces; n names of groups. By rising index: groups alternate.

    Raises:
        Problem: an argument is out of its range.
    """
    per_group = _balanced(n) if counts is None else [int(c) for c in counts]
    if n < 1 or len(per_group) != len(GROUPS) or min(per_group) < 0 or sum(per_group) != n:
        raise Problem(
            f"counts {counts!r} for {n} pictures: give {len(GROUPS)} counts >= 0 that add up to n >= 1"
        )
    drawn = [picture(side, index, size, seed, style) for index in _indices(per_group)]
    faces = [face for _, face in drawn]
    return np.stack([image for image, _ in drawn]), faces, [face.group for face in faces]


def build(
    out: str | os.PathLike[str],
    photos: int = 200,
    drawings: int = 200,
    size: int = 128,
    seed: int = 0,
    imbalance: str | None = None,
    style: str = "flat",
    progress: Progress | None = None,
    *,
    photo_imbalance: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write a world: `out/{photos,drawings}/GROUP/{p,d}_INDEX.png`, a `truth.csv` per side, and `world.json`.

    The world appears all at once, by the renaming of a finished folder. Where the very same world already
    lies, nothing is done.

    Args:
        out: the folder to make; it may exist if it is empty.
        photos, drawings: how many pictures of each side.
        size: pixels per side, 16 .. 1024.
        seed: which world, 0 or more.
        imbalance: proportions of the drawings' groups, as "a/b/c/d" in the order of `GROUPS`; they are scaled
            to `drawings`, at least one each. Without it the groups take turns.
        style: the artist, one of `STYLES`.
        progress: called with (pictures written, pictures in all).
        photo_imbalance: the same proportions for the photos.
        workers: processes that draw; by default one per core when there is enough to draw, else none.

    Returns:
        {"out", "made": False where the same world was there already, "seconds", "counts": {side: {group: n}},
        and the arguments}.

    Raises:
        Problem: an argument is out of its range, `out` holds something else, or the disk refuses.
    """
    started = time.monotonic()
    _check(size, seed, style)
    per_group = {
        "photos": _counts("photos", photos, photo_imbalance),
        "drawings": _counts("drawings", drawings, imbalance),
    }
    counts = {side: dict(zip(GROUPS, numbers, strict=True)) for side, numbers in per_group.items()}
    what = {"version": VERSION, "size": size, "seed": seed, "style": style, "counts": counts}
    summary = {"out": str(out), "made": True, "seconds": 0.0, "photos": photos, "drawings": drawings, **what}
    out = Path(os.path.realpath(out))
    try:
        if _already_there(out, what):
            return {**summary, "made": False}
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.part-", dir=out.parent))
        try:
            _write(part, per_group, size, seed, style, progress, workers)
            write_text(part / "world.json", json.dumps(what, indent=2) + "\n")
            part.chmod(0o755)  # mkdtemp makes private folders
            if out.exists():
                out.rmdir()  # empty, or this fails and nothing is lost
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise Problem(f"cannot write the world to {str(out)!r}: {error.strerror or error}") from error
    return {**summary, "seconds": round(time.monotonic() - started, 3)}


# ---- what to draw ------------------------------------------------------------------------------------------


def _check(size: int, seed: int, style: str) -> None:
    if not 16 <= size <= 1024:
        raise Problem(f"size {size}: give 16 to 1024 pixels")
    if seed < 0:
        raise Problem(f"seed {seed}: give 0 or more")
    if style not in STYLES:
        raise Problem(f"unknown style of drawing {style!r}: {nearest(style, STYLES)}")


def _balanced(n: int) -> list[int]:
    return [(n + len(GROUPS) - 1 - g) // len(GROUPS) for g in range(len(GROUPS))]


def _counts(side: str, n: int, imbalance: str | None) -> list[int]:
    """How many pictures of each group, `n` in all."""
    if n < 1:
        raise Problem(f"{n} {side}: give 1 or more")
    if imbalance is None:
        return _balanced(n)
    parts = imbalance.split("/")
    if len(parts) != len(GROUPS) or not all(p.strip().isdecimal() and len(p) < 10 and int(p) for p in parts):
        raise Problem(
            f"imbalance {imbalance!r}: give {len(GROUPS)} positive whole numbers as in 1050/249/49/38"
        )
    if n < len(GROUPS):
        raise Problem(
            f"{n} {side} cannot have an imbalance of {len(GROUPS)} groups: give {len(GROUPS)} or more"
        )
    weights = [int(p) for p in parts]
    exact = [n * w / sum(weights) for w in weights]
    counts = [max(1, int(e)) for e in exact]
    while sum(counts) != n:  # largest remainder first; the least hurt gives back what the ones were owed
        up = 1 if sum(counts) < n else -1
        open_to_change = [g for g in range(len(GROUPS)) if up > 0 or counts[g] > 1]
        g = max(open_to_change, key=lambda g: up * (exact[g] - counts[g]))
        counts[g] += up
    return counts


def _indices(per_group: Sequence[int]) -> list[int]:
    return sorted(len(GROUPS) * j + g for g, count in enumerate(per_group) for j in range(count))


# ---- folders -----------------------------------------------------------------------------------------------


def _already_there(out: Path, what: dict[str, Any]) -> bool:
    """Whether `out` is this very world. A Problem if it is anything else that would be lost."""
    if not os.path.lexists(out):
        return False
    if not out.is_dir():
        raise Problem(f"{str(out)!r} is not a folder: name a new one")
    if not any(out.iterdir()):
        return False
    try:
        there = json.loads((out / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Problem(
            f"{str(out)!r} is not empty and holds no world: name a new folder, or empty it"
        ) from None
    if there != what:
        raise Problem(
            f"{str(out)!r} holds another world (see its world.json): name a new folder, or remove it"
        )
    for side, counts in what["counts"].items():
        for group, count in counts.items():
            if sum(1 for _ in (out / side / group).glob("*.png")) != count:
                raise Problem(
                    f"{str(out / side / group)!r} no longer holds its {count} pictures: remove {str(out)!r}"
                )
    return True


def _remove_abandoned(out: Path) -> None:
    """Remove what a killed build of `out` left behind: unfinished folders untouched for ten minutes."""
    for part in out.parent.glob(f".{glob.escape(out.name)}.part-*"):
        try:
            latest = max(path.lstat().st_mtime for path in [part, *part.rglob("*")])
        except OSError:
            continue  # it changes as we look: somebody is at work there
        if time.time() - latest > 600:
            shutil.rmtree(part, ignore_errors=True)


def _write(
    part: Path,
    per_group: dict[str, list[int]],
    size: int,
    seed: int,
    style: str,
    progress: Progress | None,
    workers: int | None,
) -> None:
    """Draw all the pictures and both truth tables into the folder `part`."""
    jobs = [(side, index) for side in SIDES for index in _indices(per_group[side])]
    for side in SIDES:
        for group, count in zip(GROUPS, per_group[side], strict=True):
            if count:
                (part / side / group).mkdir(parents=True)
    chunk = 16
    chunks = [(part, jobs[k : k + chunk], size, seed, style) for k in range(0, len(jobs), chunk)]
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    done = 0
    for written in _map(chunks, workers, effort=len(jobs) * max(size, 64) ** 2):
        for side, row in written:
            rows[side].append(row)
        done += len(written)
        if progress is not None:
            progress(done, len(jobs))
    for side in SIDES:
        lines: list[str] = []
        table = csv.DictWriter(_Lines(lines), fieldnames=list(rows[side][0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows[side])
        write_text(part / side / "truth.csv", "".join(lines))


class _Lines:
    """What csv needs of a file, over a list."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _map(chunks: list[tuple], workers: int | None, effort: int) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """`_draw_chunk` over all chunks, in order, on as many processes as are worth their start."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 16) if effort > 300 * 128**2 else 1
    done = 0
    if workers > 1 and len(chunks) > 1:
        # "spawn" works on every system, and beside the threads of torch.
        pool = ProcessPoolExecutor(
            min(workers, len(chunks)), multiprocessing.get_context("spawn"), initializer=_begin_worker
        )
        try:
            for written in pool.map(_draw_chunk, chunks):
                yield written
                done += 1
        except BrokenProcessPool:
            pass  # a program that cannot be imported again, or too little memory: go on alone
        finally:
            pool.shutdown(cancel_futures=True)
    for chunk in chunks[done:]:
        yield _draw_chunk(chunk)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _draw_chunk(chunk: tuple[Path, list[tuple[str, int]], int, int, str]) -> list[tuple[str, dict[str, Any]]]:
    """Draw and write some pictures; returns (side, row of the truth table) for each."""
    part, jobs, size, seed, style = chunk
    written = []
    for side, index in jobs:
        image, face = picture(side, index, size, seed, style)
        file = f"{face.group}/{side[0]}_{index:05d}.png"
        with open(part / side / file, "wb") as stream:
            Image.fromarray(image).save(stream, "PNG", compress_level=3)
            stream.flush()
            os.fsync(stream.fileno())
        written.append((side, {"file": file, "group": face.group, **_row(face)}))
    return written


def _row(face: Face) -> dict[str, Any]:
    """A face as the truth table has it: truth as 1 or 0, numbers to four places."""
    row: dict[str, Any] = {}
    for name, value in dataclasses.asdict(face).items():
        row[name] = (
            int(value) if isinstance(value, bool) else round(value, 4) if isinstance(value, float) else value
        )
    return row

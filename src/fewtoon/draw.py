"""Photos on disk to drawings on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.style import Style

AHEAD = 16  # photos decoded ahead of the network


def translate(
    style: Style | str | Path,
    pictures: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    group: str | None = None,
    side_by_side: bool = False,
    batch: int = 8,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw every picture of `pictures` (files, folders, patterns) into the folder `out`, as PNG.

    style: a Style, or the path of one or of a run. side_by_side: photo left, drawing right. batch: photos
    handed to the network together; the drawings do not depend on it.
    Returns {"drawn": [names below out], "refused": [{"file", "reason"}]}. A photo that cannot be read is
    reported and the rest go on. Raises Problem when there is nothing to read at all, for an unknown group,
    and when `out` cannot be written.
    """
    if not isinstance(style, Style):
        style = styles.load(style)
    if batch < 1:
        raise Problem(f"batch {batch}: at least 1")
    style.check_group(group)
    given = [pictures] if isinstance(pictures, (str, Path)) else list(pictures)
    found, unreadable = images.find(given)
    refused = [{"file": r.name, "reason": r.reason} for r in unreadable]
    if not found:
        why = f" ({refused[0]['file']}: {refused[0]['reason']})" if refused else ""
        raise Problem(f"no picture in {', '.join(map(images.printable, given))}{why}; name photos or folders")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise Problem(f"{str(out)!r} is a file; name a folder for the drawings")
    found = [
        file for file in found if folder.resolve() not in file.path.resolve().parents
    ]  # not our own work
    if not found:
        raise Problem(f"all pictures lie in {str(out)!r}, where the drawings go; name another folder")
    targets = _targets(found)
    sources = {file.path.resolve() for file in found}
    for target in targets:
        if (folder / target).resolve() in sources:
            raise Problem(
                f"drawing into {str(out)!r} would replace the photo {target!r}; name another folder"
            )
    drawn: list[str] = []
    saving: list[Future] = []
    size = style.size
    with ThreadPoolExecutor() as pool:
        readings = _ahead(pool, ((target, file.path) for target, file in zip(targets, found)), size)
        for part in _batches(_bar(readings, len(found), progress), batch):
            photos: list[np.ndarray] = []
            names: list[str] = []
            for target, file, reading in part:
                try:
                    photos.append(reading.result())
                    names.append(target)
                except images.BadPicture as error:
                    refused.append({"file": images.printable(file), "reason": error.reason})
            if not photos:
                continue
            drawings = styles.to_pixels(style.translate(styles.to_tensor(np.stack(photos)), group))
            for name, photo, drawing in zip(names, photos, drawings):
                picture = np.concatenate([photo, drawing], 1) if side_by_side else drawing
                saving.append(pool.submit(images.save_png, folder / name, picture))
                drawn.append(name)
            while saving and saving[0].done():  # a full disk is told at once
                saving.pop(0).result()
        for saved in saving:
            saved.result()
    if not drawn:
        raise Problem(
            f"none of {len(found)} pictures could be read; the first: {refused[0]['file']}: {refused[0]['reason']}"
        )
    return {"drawn": drawn, "refused": refused}


def _targets(found: Sequence[images.Found]) -> list[str]:
    """A .png name for each picture, sub-folders kept; where two would share one, both keep their suffix."""
    plain = [str(Path(f.name).with_suffix(".png")) for f in found]
    taken: dict[str, int] = {}
    for name in plain:
        taken[name] = taken.get(name, 0) + 1
    names, used = [], set()
    for file, name in zip(found, plain):
        unique = name if taken[name] == 1 else f"{file.name}.png"
        number = 2
        while unique in used:
            unique, number = f"{Path(file.name).with_suffix('')}-{number}.png", number + 1
        used.add(unique)
        names.append(unique)
    return names


def _read(path: Path, size: int) -> np.ndarray:
    return images.resize_square(images.read(path, draft=2 * size), size)


Reading = tuple[str, Path, "Future[np.ndarray]"]


def _ahead(pool: ThreadPoolExecutor, files: Iterable[tuple[str, Path]], size: int) -> Iterator[Reading]:
    """The files in order, each being decoded while the network draws the ones before."""
    waiting: list[Reading] = []
    for target, path in files:
        waiting.append((target, path, pool.submit(_read, path, size)))
        if len(waiting) > AHEAD:
            yield waiting.pop(0)
    yield from waiting


def _batches(readings: Iterable[Reading], batch: int) -> Iterator[list[Reading]]:
    part: list[Reading] = []
    for reading in readings:
        part.append(reading)
        if len(part) == batch:
            yield part
            part = []
    if part:
        yield part


def _bar(items: Iterable[Reading], total: int, wanted: bool) -> Iterable[Reading]:
    if not wanted:
        return items
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return (
        track(items, "draw", total=total, console=console, transient=True) if console.is_terminal else items
    )

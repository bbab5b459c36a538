"""Photos on disk to drawings on disk: every face is found, drawn, and put back where that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.faces import coach, models
from fewtoon.faces import framing as framings
from fewtoon.faces.cutter import Cutout, Cutter, whitened
from fewtoon.faces.face import Matte
from fewtoon.faces.framing import Square
from fewtoon.faces.matte import open_matte
from fewtoon.io import images
from fewtoon.style import Style

AHEAD = 16  # photos decoded ahead of the network
AHEAD_WHOLE = 3  # the same where whole photos are kept until their faces are back


def translate(
    style: Style | str | Path,
    pictures: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    group: str | None = None,
    side_by_side: bool = False,
    paste: bool = False,
    framing: str | None = None,
    find: Sequence[str] | str = (),
    matte: str | None = None,
    only_largest: bool = False,
    batch: int = 8,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw every face in `pictures` (files, folders, patterns) into the folder `out`, as PNG.

    style: a Style, or the path of one or of a run. side_by_side: photo left, drawing right. paste: the whole
    photo, upright, with every person's head in it drawn (where there is no matte: the squares, their edges
    faded), rather than a square for each face. group: one of the style's, or "auto", which is also what None
    means where the style has groups: each face as it is read. framing, matte: others than the style's own
    (`fewtoon.faces.framing`, `fewtoon.faces.matte`). find: finders to ask
    (`fewtoon.faces.finders`). only_largest: one face per photo. batch: faces handed to the network together;
    the drawings do not depend on it.

    A photo with one face becomes NAME.png, one with several NAME-1.png, NAME-2.png ... from left to right. No
    metadata of the photos (place, camera) goes into the drawings.
    Returns {"drawn": [names below out], "refused": [{"file", "reason"}], "faces": [{"file", "drawing", "box",
    "roll"}], "advice": [{"file", "drawing", "advice"}], "notes": [...], "read_as": {group: faces that
    were read as it}}. A photo that cannot be read or shows
    no face is reported and the rest go on. Raises Problem when there is nothing to read at all, for an unknown
    group, and when `out` cannot be written.
    """
    if not isinstance(style, Style):
        style = styles.load(style)
    if batch < 1:
        raise Problem(f"batch {batch}: at least 1")
    style.check_group(group)
    translator = Translator(style, framing=framing, find=find, matte=matte)
    if paste and translator.cutter.kind == "as-is":
        raise Problem(
            "this style takes photos as they are, so there is nothing to paste back; add --framing portrait"
        )
    found, refused = _found(pictures, Path(out))
    targets = _targets(found)
    _check_targets(Path(out), found, targets)
    taken = set(targets)
    person = _person_matte(translator.cutter) if paste else None
    work = _Work(translator, group, Path(out), side_by_side, paste, person, only_largest, taken, refused)
    with ThreadPoolExecutor() as pool:
        readings = _ahead(pool, work, zip(targets, found))
        for part in _batches(_bar(readings, len(found), progress), batch):
            work.draw(part, pool)
        work.finish()
    if not work.drawn:
        raise Problem(
            f"none of {len(found)} pictures could be drawn; the first: {refused[0]['file']}: {refused[0]['reason']}"
        )
    return {
        "drawn": work.drawn,
        "refused": refused,
        "faces": work.faces,
        "advice": work.advice,
        "notes": translator.notes,
        "read_as": dict(sorted(work.groups.items())),
    }


@dataclass(frozen=True)
class Seen:
    """One face of a photo as a style sees it.

    advice: sentences about what will spoil its drawing (`fewtoon.faces.coach`), mostly none
    """

    cutout: Cutout
    advice: list[str]


@dataclass(frozen=True)
class Drawn:
    """The drawing of a face: (S, S, 3) uint8, and the group that it was read as; None where nothing was read."""

    pixels: np.ndarray
    read_as: str | None


class Translator:
    """A style with all that it needs to draw photos open: what finds, cuts and whitens faces.

    `look` may be called from several threads at once. framing, find, matte: as in `translate`. `notes` says what is
    worth a sentence about them. Raises Problem for what is not known or does not open.
    """

    def __init__(
        self,
        style: Style,
        *,
        framing: str | None = None,
        find: Sequence[str] | str = (),
        matte: str | None = None,
    ) -> None:
        self.style = style
        self.cutter, self.notes = style.cutter(framing, find, matte)

    def look(self, picture: np.ndarray, name: str = "photo", *, only_largest: bool = False) -> list[Seen]:
        """The faces of an (H, W, 3) uint8 photo from left to right; of "as-is" the whole of it.

        Raises BadPicture, with `name` and what to do, when there is nothing to draw in it.
        """
        faces = sorted(self.cutter.find(picture), key=lambda face: face.centre)
        if self.cutter.kind != "as-is" and not faces:
            raise images.BadPicture(name, coach.no_face(picture))
        if only_largest and faces:
            faces = [max(faces, key=lambda face: face.area)]
        cutouts = self.cutter.cut(picture, faces)
        return [Seen(cutout, coach.advice(picture, cutout, self.style.size)) for cutout in cutouts]

    def draw(self, faces: Sequence[Seen], group: str | None = None) -> list[Drawn]:
        """Draw faces, of one photo or of several: a drawing does not depend on its neighbours.

        group: as in `translate`. Raises Problem for an unknown one.
        """
        if not faces:
            return []
        self.style.check_group(group)
        tensor = styles.to_tensor(np.stack([face.cutout.pixels for face in faces]))
        read = self.style.guess(tensor) if self.style.groups and group in (None, styles.AUTO) else None
        drawings = styles.to_pixels(self.style.translate(tensor, read or group))
        names: Sequence[str | None] = read or [None] * len(faces)
        return [
            Drawn(whitened(face.cutout, pixels), name) for face, pixels, name in zip(faces, drawings, names)
        ]


def _person_matte(cutter: Cutter) -> Matte | None:
    """What tells where in a square a drawing may stand when it is put back; None: everywhere."""
    if cutter.matte is not None:
        return cutter.matte
    return open_matte("mediapipe") if models.available() else None


# ---------------------------------------------------------------------------------------------------------
# What is read and where it goes


def _found(
    pictures: Sequence[str | Path] | str | Path, folder: Path
) -> tuple[list[images.Found], list[dict[str, str]]]:
    given = [pictures] if isinstance(pictures, (str, Path)) else list(pictures)
    found, unreadable = images.find(given)
    refused = [{"file": r.name, "reason": r.reason} for r in unreadable]
    if not found:
        why = f" ({refused[0]['file']}: {refused[0]['reason']})" if refused else ""
        raise Problem(f"no picture in {', '.join(map(images.printable, given))}{why}; name photos or folders")
    if folder.exists() and not folder.is_dir():
        raise Problem(f"{str(folder)!r} is a file; name a folder for the drawings")
    # Not our own work.
    found = [file for file in found if folder.resolve() not in file.path.resolve().parents]
    if not found:
        raise Problem(f"all pictures lie in {str(folder)!r}, where the drawings go; name another folder")
    return found, refused


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


def _check_targets(folder: Path, found: Sequence[images.Found], targets: Sequence[str]) -> None:
    sources = {file.path.resolve() for file in found}
    for target in targets:
        if (folder / target).resolve() in sources:
            raise Problem(
                f"drawing into {str(folder)!r} would replace the photo {target!r}; name another folder"
            )


# ---------------------------------------------------------------------------------------------------------
# Reading ahead, drawing in batches, saving behind


@dataclass
class _Photo:
    """One photo on its way: where its drawing goes, and its faces."""

    target: str
    file: images.Found
    whole: np.ndarray | None  # (H, W, 3), kept for pasting
    faces: list[Seen]
    persons: list[np.ndarray | None]  # for each face (S, S) uint8: where its drawing may stand in `whole`


Reading = tuple[images.Found, "Future[_Photo]"]


@dataclass
class _Work:
    """One call of `translate`."""

    translator: Translator
    group: str | None
    folder: Path
    side_by_side: bool
    paste: bool
    person: Matte | None
    only_largest: bool
    taken: set[str]  # names below `folder` that are spoken for
    refused: list[dict[str, str]]
    drawn: list[str] = field(default_factory=list)
    faces: list[dict[str, Any]] = field(default_factory=list)
    advice: list[dict[str, str]] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)  # what the faces were read as
    saving: list[Future] = field(default_factory=list)

    def read(self, target: str, file: images.Found) -> _Photo:
        """Raises BadPicture when there is nothing in the photo to draw."""
        picture = images.read(file.path, draft=self.translator.cutter.draft)
        faces = self.translator.look(picture, file.name, only_largest=self.only_largest)
        persons = [self._where(face.cutout) for face in faces]
        return _Photo(target, file, picture if self.paste else None, faces, persons)

    def _where(self, cutout: Cutout) -> np.ndarray | None:
        """Where the drawing of a cutout may stand in its photo."""
        if cutout.alpha is not None or self.person is None:
            return cutout.alpha
        return self.person(cutout.pixels)

    def draw(self, part: list[Reading], pool: ThreadPoolExecutor) -> None:
        """Draw the photos of a batch and hand them to the pool to be saved."""
        photos: list[_Photo] = []
        for file, reading in part:
            try:
                photos.append(reading.result())
            except images.BadPicture as error:
                self.refused.append({"file": images.printable(file.path), "reason": error.reason})
        drawings = self.translator.draw([face for photo in photos for face in photo.faces], self.group)
        self.groups.update(one.read_as for one in drawings if one.read_as is not None)
        ahead = iter(drawings)
        for photo in photos:
            self._keep(photo, [next(ahead).pixels for _ in photo.faces], pool)
        while self.saving and self.saving[0].done():  # a full disk is told at once
            self.saving.pop(0).result()

    def finish(self) -> None:
        for saved in self.saving:
            saved.result()

    def _keep(self, photo: _Photo, drawings: list[np.ndarray], pool: ThreadPoolExecutor) -> None:
        names = [photo.target] * len(drawings) if self.paste else self._numbered(photo.target, len(drawings))
        several = self.paste and len(drawings) > 1  # then the name alone does not say which face is meant
        for number, (face, name) in enumerate(zip(photo.faces, names), 1):
            which = f"face {number} of {len(drawings)} from the left: " if several else ""
            source = images.printable(photo.file.path)
            found = face.cutout.face
            if found is not None:
                box = [round(value, 1) for value in found.box]
                roll = round(found.roll, 1)
                self.faces.append({"file": source, "drawing": name, "box": box, "roll": roll})
            self.advice += [{"file": source, "drawing": name, "advice": which + one} for one in face.advice]
        if self.paste:
            self.drawn.append(photo.target)
            self.saving.append(pool.submit(self._save_pasted, photo, drawings))
            return
        for face, drawing, name in zip(photo.faces, drawings, names):
            picture = np.concatenate([face.cutout.pixels, drawing], 1) if self.side_by_side else drawing
            self.drawn.append(name)
            self.saving.append(pool.submit(images.save_png, self.folder / name, picture))

    def _numbered(self, target: str, count: int) -> list[str]:
        """The target for one face; for several one each, beside those of other photos."""
        if count == 1:
            return [target]
        stem, names = target.removesuffix(".png"), []
        for number in range(1, count + 1):
            name, again = f"{stem}-{number}.png", 2
            while name in self.taken:
                name, again = f"{stem}-{number}-{again}.png", again + 1
            self.taken.add(name)
            names.append(name)
        return names

    def _save_pasted(self, photo: _Photo, drawings: list[np.ndarray]) -> None:
        assert photo.whole is not None
        picture = photo.whole.copy() if self.side_by_side else photo.whole
        # The largest first: it stands in front of nobody.
        order = sorted(range(len(drawings)), key=lambda i: -_at(photo.faces[i].cutout).side)
        for index in order:
            cutout = photo.faces[index].cutout
            framings.paste(picture, drawings[index], _at(cutout), photo.persons[index])
        if self.side_by_side:
            picture = np.concatenate([photo.whole, picture], 1)
        images.save_png(self.folder / photo.target, picture)


def _at(cutout: Cutout) -> Square:
    assert cutout.at is not None  # of all framings but as-is
    return cutout.at


def _ahead(
    pool: ThreadPoolExecutor, work: _Work, files: Iterable[tuple[str, images.Found]]
) -> Iterator[Reading]:
    """The files in order, each being read while the network draws the ones before."""
    waiting: list[Reading] = []
    for target, file in files:
        waiting.append((file, pool.submit(work.read, target, file)))
        if len(waiting) > (AHEAD_WHOLE if work.paste else AHEAD):
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

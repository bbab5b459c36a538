"""What the studio was given on the command line, under a name each. A client names things by these names alone.

style      a Style file
run        a folder of a training; its best Style draws, too
study      a folder of `fewtoon study`: each of its runs, and its page
pack       a prepared folder: its doctor's page
page       an HTML page that fewtoon wrote, or a folder that holds some
directions a file of `fewtoon explore directions`
pictures   a folder of pictures: to be marked
"""

from __future__ import annotations

import itertools
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fewtoon import methods
from fewtoon import style as styles
from fewtoon.data.pack import Pack
from fewtoon.draw import Translator
from fewtoon.errors import Problem, nearest
from fewtoon.io import clip as clips
from fewtoon.io import images
from fewtoon.io.files import file_hash, printable, stamp
from fewtoon.latent import named
from fewtoon.latent.sources import Source, check_kind
from fewtoon.run import Run
from fewtoon.style import Style

Kind = Literal["style", "run", "pack", "page", "directions", "pictures"]
KNOWN = "name styles, runs, studies, packs, pages, files of directions, or folders of pictures"
IMPORTED = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".tar")  # checkpoints of others
LONGEST = 80  # letters of the name of a file
OPEN = 4  # Styles that are kept in memory at once


@dataclass
class _Open:
    """A Style in memory."""

    stamp: str  # of its file when it was read
    style: Style
    # By framing, from when somebody first sends a photo.
    translators: dict[str | None, Translator] = field(default_factory=dict)
    source: Source | None = None  # when somebody first explores it


@dataclass(frozen=True)
class Thing:
    """One thing on the shelf. `name` is unique among those of its kind."""

    kind: Kind
    name: str
    path: Path


class Shelf:
    """All that a page may show or draw with.

    Raises Problem for a path that does not exist, or that is nothing the studio knows.
    """

    def __init__(
        self,
        paths: Sequence[str | Path] = (),
        *,
        device: str | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        save: str | Path | None = None,
        clip: str | Path | None = None,
        keep: int = OPEN,
    ) -> None:
        """save: the only folder that the studio writes Styles and pictures into; None: it saves nothing.
        clip: a file of weights of CLIP, looked into now and loaded when somebody first edits by text. keep: Styles in
        memory at once, the ones used last."""
        if clip is not None:
            clips.check(clip)
        self.device, self.precision, self.keep = device, precision, keep
        self.clip = Path(clip) if clip is not None else None
        self.folder = Path(save) if save is not None else None
        if self.folder is not None:
            there = next(one for one in (self.folder, *self.folder.absolute().parents) if one.exists())
            try:
                tempfile.TemporaryDirectory(prefix=".fewtoon-", dir=there).cleanup()
            except OSError:
                raise Problem(
                    f"--save {printable(self.folder)!r}: nothing can be saved there, choose another folder"
                ) from None
        self._things: dict[Kind, dict[str, Thing]] = {kind: {} for kind in get_args(Kind)}
        self._open: OrderedDict[str, _Open] = OrderedDict()  # by name, the one used last at the end
        self._headers: dict[
            str, tuple[str, dict[str, Any]]
        ] = {}  # path -> stamp of the file, and what it says
        self._lock = threading.Lock()
        for path in paths:
            self.add(path)

    # --- what there is -----------------------------------------------------------------------------------

    def add(self, path: str | Path) -> list[Thing]:
        """Put what lies at a path on the shelf; several things for a study."""
        if not str(path):
            raise Problem(f"'' names nothing: {KNOWN}")
        path = Path(path)
        if not path.exists():
            raise Problem(f"{printable(path)!r} does not exist: {KNOWN}")
        return [self._put(kind, found) for kind, found in _recognised(path)]

    def _put(self, kind: Kind, path: Path) -> Thing:
        taken = self._things[kind]
        for thing in taken.values():
            if thing.path.resolve() == path.resolve():
                return thing
        name, folder = map(printable, _called(kind, path))
        more = (f"{name} ({folder}, {number})" for number in itertools.count(2))
        name = next(one for one in itertools.chain((name, f"{name} ({folder})"), more) if one not in taken)
        taken[name] = thing = Thing(kind, name, path)
        return thing

    def names(self, kind: Kind) -> list[str]:
        """Names of one kind, in the order in which they were given. Runs that have a best Style by now are
        among the names of "style"."""
        if kind == "style":
            runs = [name for name, run in self._things["run"].items() if Run(run.path).best.is_file()]
            return [*self._things["style"], *(name for name in runs if name not in self._things["style"])]
        return list(self._things[kind])

    def path(self, kind: Kind, name: str) -> Path:
        """Where a thing lies; of a run that is named as a style, its best Style. Raises Problem for a name that
        is not on the shelf."""
        name = str(name)  # whatever a client has sent
        if name in self._things[kind]:
            return self._things[kind][name].path
        if kind == "style" and name in self._things["run"]:
            best = Run(self._things["run"][name].path).best
            if best.is_file():
                return best
            raise Problem(f"{name!r} has no style: its training has not come so far, or its folder is gone")
        names = self.names(kind)
        known = nearest(name, names) if names else "there is none"
        raise Problem(f"no {kind} {printable(name)[:80]!r} here: {known}")

    def damaged(self) -> list[str]:
        """What is wrong with runs, packs and directions: there may be other things that are worth a look."""
        reads: dict[Kind, Callable[[Path], Any]] = {
            "run": lambda path: Run(path).config(), "pack": Pack.open, "directions": named.load,
        }  # fmt: skip
        problems = []
        for kind, read in reads.items():
            for thing in self._things[kind].values():
                try:
                    read(thing.path)
                except Problem as problem:
                    problems.append(str(problem))
        return problems

    def said(self, problem: Problem | str) -> str:
        """What is wrong, in words for a page: quoted paths of what lies here begin with its name instead."""
        text = str(problem)
        things = (thing for of_kind in self._things.values() for thing in of_kind.values())
        for thing in sorted(things, key=lambda thing: -len(str(thing.path))):
            path, name = repr(printable(thing.path)), repr(thing.name)
            text = re.sub(rf"{re.escape(path[:-1])}(?=[{path[-1]}/\\])", name[:-1].replace("\\", r"\\"), text)
        return text

    # --- Styles, ready to draw ---------------------------------------------------------------------------

    def style(self, name: str) -> Style:
        """A Style by its name, read when it is first asked for, and again when its file has changed.

        Raises Problem for a name that is not on the shelf, and as `fewtoon.load` does.
        """
        with self._lock:
            return self._opened(name).style

    def translator(self, name: str, framing: str | None = None) -> Translator:
        """A Style by its name with what finds and cuts faces for it, framed as it was trained with (None) or otherwise.
        Raises Problem as `style` does, for one that draws no photos and for a framing that there is not."""
        with self._lock:
            found = self._opened(name)
            if found.style.method.generates:
                raise Problem(f"{printable(name)!r} draws random numbers, not photos: see the tab Explore")
            if framing not in found.translators:
                found.translators[framing] = Translator(found.style, framing=framing)
            return found.translators[framing]

    def source(self, name: str) -> Source:
        """A Style by its name as the latent tools take it. Raises Problem as `style` does, and for one that draws no
        random numbers."""
        with self._lock:
            found = self._opened(name)
            check_kind(found.style, name)
            if found.source is None:
                path = self.path("style", name)
                found.source = Source(name, found.style, str(path), path, file_hash(path))
            return found.source

    def _opened(self, name: str) -> _Open:
        name = str(name)  # whatever a client has sent
        path = self.path("style", name)
        if not path.exists():
            raise Problem(f"the file of {name!r} is gone: put it back, or start the studio without it")
        now = stamp(path)
        found = self._open.get(name)
        if found is None or found.stamp != now:
            self._open.pop(name, None)
            while len(self._open) >= self.keep:
                self._open.popitem(last=False)
            found = self._open[name] = _Open(now, styles.load(path, self.device, self.precision))
        self._open.move_to_end(name)
        return found

    def headers(self, generates: bool) -> dict[str, dict[str, Any]]:
        """What the files of the Styles that draw random numbers, or of those that draw photos, say of themselves,
        without their weights; a damaged one is left out. "groups" are those that it draws in ways of their own."""
        found = {}
        for name in self.names("style"):
            with suppress(Problem):
                path = self.path("style", name)
                key, now = str(path), stamp(path)
                if self._headers.get(key, ("", {}))[0] != now:
                    header = styles.read_header(path)
                    self._headers[key] = now, {**header, "groups": styles.groups_of(header)}
                header = self._headers[key][1]
                if methods.find(header["method"]).generates == generates:
                    found[name] = header
        return found

    def saving(self, name: str, suffix: str) -> Path:
        """The file that something may be saved as, in the one folder for that, which is made.

        name: of letters, digits, and spaces, "-", "_" and "." between them; with the suffix or without. Raises Problem
        for another, for one that is taken, and where the studio saves nothing.
        """
        if self.folder is None:
            raise Problem("this studio saves nothing: start it with --save FOLDER")
        name = name.removesuffix(suffix)
        fine = name and len(name) <= LONGEST and name[0].isalnum() and name[-1].isalnum()
        if not fine or not all(letter.isalnum() or letter in " -_." for letter in name) or ".." in name:
            raise Problem(
                f"the name {printable(name)[:LONGEST]!r}: use up to {LONGEST} letters and digits, and spaces, '-', '_' "
                "and '.' between them"
            )
        path = self.folder / f"{name}{suffix}"
        if path.exists():
            raise Problem(f"there is a {path.name!r} already: choose another name")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = printable(self.folder)
            raise Problem(f"cannot write into {told!r} ({error.strerror}): choose another --save") from None
        return path


def _called(kind: Kind, path: Path) -> tuple[str, str]:
    """What somebody would call a thing that lies at a path, and the folder that tells it from others."""
    path = path.resolve()
    name = path.name.removesuffix(named.ENDING) if kind == "directions" else path.stem
    if path.is_dir():
        name = path.name
    elif kind == "page" and path.name in ("report.html", "study.html"):  # called like their folders
        path = path.parent.parent if path.parent.name == "report" else path.parent
        name = path.name
    elif kind == "style" and name in ("best", "last") and Run(path.parent).started:
        path = path.parent
        name = f"{path.name} ({name})"
    return name, path.parent.name


def _recognised(path: Path) -> list[tuple[Kind, Path]]:
    """What lies at a path that exists. Raises Problem for what the studio does not know."""
    found: list[tuple[Kind, Path]]
    if path.is_file():
        if path.suffix.lower() in (".html", ".htm"):
            return [("page", path)]
        if path.name.endswith(named.ENDING):
            return [("directions", path)]
        if path.suffix.lower() in images.SUFFIXES:
            raise Problem(
                f"{printable(path)!r} is a picture: name the folder that it lies in, to mark it there"
            )
        try:
            styles.read_header(path)
        except Problem:
            if path.suffix.lower() in (".safetensors", *IMPORTED):
                raise
            raise Problem(f"{printable(path)!r} is nothing that the studio knows: {KNOWN}") from None
        return [("style", path)]
    if not path.is_dir():
        raise Problem(f"{printable(path)!r} is neither a file nor a folder: {KNOWN}")
    if Run(path).started:
        found, page = [("run", path)], path / "report" / "report.html"
    elif (path / "pack.json").is_file():
        return [("pack", path)]
    elif (path / "plan.json").is_file():
        runs = [run for run in sorted((path / "runs").glob("*")) if Run(run).started]
        found, page = [one for run in runs for one in _recognised(run)], path / "study.html"
    else:
        pages = sorted(path.glob("*.html"))
        return [("page", one) for one in pages] if pages else [("pictures", path)]
    return [*found, ("page", page)] if page.is_file() else found

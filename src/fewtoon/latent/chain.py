"""A generator of faces and a style that translates photos, one after the other: drawings of people who do not exist.

After Bryan Lee's malnyun_faces (github.com/bryandlee/malnyun_faces), which put samples of StyleGAN2 through U-GAT-IT.
Each sample is what a photo would be: eight bits per colour, framed as the translator was trained, then drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.faces.cutter import whitened
from fewtoon.faces.framing import Square, cut, square
from fewtoon.io import images
from fewtoon.io.files import printable
from fewtoon.latent.codes import of_file, of_seeds
from fewtoon.latent.progress import bar
from fewtoon.latent.record import all_or_none, check_out, latents_told, record
from fewtoon.latent.seeds import check_seeds, check_truncations, latents, seeds_told
from fewtoon.latent.sheet import cell, enlarged, sheet, sheet_size
from fewtoon.latent.sources import Source, check_group, open_sources, open_styles
from fewtoon.latent.video import FPS, FRAMES_PER_SEED, check_size, check_video, check_walk, save_video, walk
from fewtoon.style import AUTO, Style

PART = 8  # samples on their way together

Pixels = np.ndarray  # (S, S, 3) uint8


class Link:
    """A style that translates photos, and what it takes to hand it the pictures of a generator.

    style: it. framing: another than its own. source_framing: of the generator's pictures. Where both are framed alike,
    and where the style takes photos as they are, a picture is resized; otherwise its largest face is framed anew.
    Raises Problem for a style that generates, and for a framing that there is not.
    """

    def __init__(self, style: Style, source_framing: str = "as-is", framing: str | None = None) -> None:
        if style.method.generates:
            raise Problem(
                f"a style of {style.method.name} translates no photos; after the first one, name styles of U-GAT-IT or "
                "another method that does"
            )
        self.style = style
        self.cutter, self.notes = style.cutter(framing)
        self.whole = self.cutter  # resizes, and whitens where the style wants it
        self.reframes = self.cutter.kind not in ("as-is", source_framing)
        if self.cutter.kind != "as-is":
            self.whole, _ = style.cutter("as-is")
        elif source_framing != "as-is":
            self.notes.append(f"takes pictures as they are: those framed {source_framing} are only resized")

    def place(self, picture: Pixels) -> Square | None:
        """Where in a picture the square of the largest face lies, in its pixels; None where no face is found."""
        faces = self.cutter.find(picture)
        return square(max(faces, key=lambda face: face.area), self.cutter.kind) if faces else None

    def groups(self, seen: Sequence[Pixels], group: str | None) -> list[str | None]:
        """Which group each of the pictures that it sees is drawn as: `group`, or as it is read."""
        if not self.style.groups:
            return [None] * len(seen)
        if group not in (None, AUTO) or not seen:
            return [group] * len(seen)
        return list(self.style.guess(styles.to_tensor(np.stack(seen))))

    def draw(
        self,
        pictures: Sequence[Pixels],
        places: Sequence[Square | None],
        groups: Sequence[str | None] | str | None = None,
    ) -> list[Drawn | None]:
        """What becomes of pictures, cut out at `places`; None: whole, or nothing, where it frames faces.

        groups: of each picture, or one for all; AUTO or None: as each is read. Pictures and drawings: (S, S, 3) uint8.
        """
        wanted = [k for k, place in enumerate(places) if place is not None or not self.reframes]
        if not wanted:
            return [None] * len(pictures)
        cutouts = [self.whole.cut(self._framed(pictures[k], places[k]), [])[0] for k in wanted]
        seen = [cutout.pixels for cutout in cutouts]
        if isinstance(groups, (str, type(None))):
            named = self.groups(seen, groups)
        else:
            named = [groups[k] for k in wanted]
        asked: Any = named if self.style.groups else None
        drawings = styles.to_pixels(self.style.translate(styles.to_tensor(np.stack(seen)), asked))
        found: list[Drawn | None] = [None] * len(pictures)
        for k, cutout, drawing, name in zip(wanted, cutouts, drawings, named, strict=True):
            found[k] = Drawn(cutout.pixels, whitened(cutout, drawing), name)
        return found

    def _framed(self, picture: Pixels, place: Square | None) -> Pixels:
        return picture if place is None else cut(picture, place, self.style.size, self.cutter.pad)


class Drawn(NamedTuple):
    """What a translator was given and what it made of it: (S, S, 3) uint8 each, and the group it took it for."""

    seen: Pixels
    drawing: Pixels
    group: str | None


def chain(
    path: str | Path,
    translators: Sequence[str | Path],
    out: str | Path,
    *,
    seeds: Sequence[int] = tuple(range(8)),
    latents_file: str | Path | None = None,
    truncation: float = 1.0,
    group: str | None = None,
    source_group: str | None = None,
    framing: str | None = None,
    columns: int = 8,
    single: bool = False,
    video: str | Path | None = None,
    frames: int | None = None,
    fps: float = FPS,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw the pictures of a StyleGAN style with styles that translate photos.

    path: the StyleGAN style. seeds, or latents_file: a column each. group: of translators with groups, None or "auto":
    as each picture is read. source_group: of a StyleGAN style with groups. framing: another than the translators' own.
    columns: side by side. single: also a PNG per picture and drawing. video: a walk through the columns (`walk`) as
    .webp or .mp4, `frames` in all, 25 per column where that is not said.

    A face is looked for in the pictures of the sheet alone. In the video its square goes from one column's to the
    next as the style codes do, so it neither trembles nor jumps, and meets the sheet's pictures; a column without a
    face takes what lies between its neighbours. The group of a frame is that of the nearer column.

    In `out`: sheet.png: the pictures, and for each translator what it sees, where it frames faces or whitens, and
    its drawings; latents.safetensors; chain.json: styles with sha256, every argument, and the command. Returns what
    was written, per translator the columns without a face ("missing") and the groups ("read_as"), and notes to be
    read. Raises Problem for bad input, before anything is drawn.
    """
    out = Path(out)
    check_truncations([truncation])
    if type(columns) is not int or not 1 <= columns <= 1000:
        raise Problem(f"columns {columns!r}: a whole number from 1 to 1000")
    if not translators:
        raise Problem("no translator: name at least one style that translates photos")
    if video is not None:
        check_video(video)
    elif frames is not None:
        raise Problem(f"{frames} frames of no video: say --video NAME.webp or NAME.mp4")
    source, others, links = _opened(path, translators, framing, device)
    check_group([source.style], source_group)
    check_group([other.style for other in others], group)
    read = [] if latents_file is None else [Path(latents_file)]
    check_out(out, "chain", [*(one.file for one in (source, *others)), *read], video)

    asked = check_seeds(seeds) if latents_file is None else Path(latents_file)
    codes = of_seeds(source, asked, source_group) if isinstance(asked, list) else of_file(source, asked)
    count, size = len(codes.w), max(one.style.size for one in (source, *others))
    labels = [source.name]
    for name, link in links.items():
        labels += [f"{name} sees"] * _changes(link) + [name]
    if video is not None:
        frames = FRAMES_PER_SEED * count if frames is None else frames
        check_walk(count, frames, fps)
        check_size(video, frames, cell(size), len(labels) * cell(size))
    columns = min(columns, count)
    band = math.prod(sheet_size(labels, size, columns, columns))  # pixels
    shown = min(count, images.MAX_PIXELS // band * columns)
    notes = [f"{name}: {note}" for name, link in links.items() for note in link.notes]
    if shown < count:
        told = f"the first {shown}" if shown else "none"
        notes.append(
            f"{count} pictures are too many for one sheet, which shows {told}: take --single or fewer"
        )

    w = source.method.truncated(codes.w, truncation)
    seeded = isinstance(asked, list)
    stems = [f"seed{int(k):04d}" for k in codes.names] if seeded else [f"code{k:04d}" for k in range(count)]
    made = _stills(source, links, w, group, stems, out if single else None, shown, size, progress)
    if shown:
        longest = cell(size) // 8
        titles = [name[:longest] for name in codes.names[:shown]]
        rows = {label: np.stack(made.kept[label]) for label in labels}
        images.save_png(out / "sheet.png", sheet(rows, titles, columns))
    missing = {
        name: [codes.names[k] for k, one in enumerate(of) if not one] for name, of in made.found.items()
    }
    notes += [_lost_told(name, lost, count) for name, lost in missing.items() if lost]
    if video is not None and frames is not None:
        ways = {name: _way(made.places[name], frames) for name in links}
        nearer = [(2 * i * count + frames) // (2 * frames) % count for i in range(frames)]
        groups = {name: [_nearest(made.groups[name], k) for k in nearer] for name in links}
        shots = _shots(source.style, walk(w, frames), links, ways, groups, size, progress)
        save_video(video, shots, fps)

    command = ["fewtoon", "explore", "chain", *(one.given for one in (source, *others))]
    command += ["--seeds", seeds_told(asked)] if isinstance(asked, list) else ["--latents", str(asked)]
    command += [f"--truncation={float(truncation)!r}", "--columns", str(columns)] + ["--single"] * single
    for option, value in (("--group", group), ("--source-group", source_group), ("--framing", framing)):
        command += [] if value is None else [option, value]
    if video is not None:
        command += ["--video", str(video), "--frames", str(frames), "--fps", repr(float(fps))]
    command += ["--device", str(source.style.device), "--out", str(out)]
    facts = {
        **(
            {"seeds": asked}
            if isinstance(asked, list)
            else {"latents": latents_told(asked), "names": codes.names}
        ),
        "truncation": truncation,
        "group": group,
        "source_group": source_group,
        "framing": {name: link.cutter.kind for name, link in links.items()},
        "missing": missing,
        "read_as": {name: made.groups[name] for name, link in links.items() if link.style.groups},
        "columns": columns,
        "single": single,
        "video": None if video is None else {"file": str(video), "frames": frames, "fps": fps},
        "device": str(source.style.device),
    }
    tensors = {f"{source.name}.w": codes.w}
    if isinstance(asked, list):
        tensors[f"{source.name}.z"] = latents(source.style, asked)
    record(out / "chain.json", out / "latents.safetensors", [source, *others], command, facts, tensors)
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png") if shown else None,
        "pictures": [str(path) for path in made.written],
        "video": None if video is None else str(video),
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "chain.json"),
        "missing": missing,
        "read_as": facts["read_as"],
        "notes": notes,
    }


def _opened(
    path: str | Path, translators: Sequence[str | Path], framing: str | None, device: str | None
) -> tuple[Source, list[Source], dict[str, Link]]:
    """The generator, the translators, and by name what each of these takes."""
    (source,) = open_sources([path], device)
    others = open_styles(translators, device, {source.name})
    links: dict[str, Link] = {}
    for other in others:
        try:
            links[other.name] = Link(other.style, source.style.framing, framing)
        except Problem as problem:
            raise Problem(f"{printable(other.given)!r}: {problem}") from None
    return source, others, links


def _changes(link: Link) -> bool:
    """Whether what the style sees is more than the picture in its size."""
    return link.reframes or link.whole.matte is not None


def _parts(count: int) -> list[range]:
    return [range(k, min(k + PART, count)) for k in range(0, count, PART)]


def _pictures(style: Style, w: Tensor) -> list[Pixels]:
    return list(styles.to_pixels(style.synthesis(w)))


def fitted(picture: Pixels, size: int) -> Pixels:
    """(S, S, 3) -> (size, size, 3), to be shown: enlarged by whole pixels where that is possible."""
    times, rest = divmod(size, picture.shape[0])
    return images.resize_square(picture, size) if rest else picture.repeat(times, 0).repeat(times, 1)


@dataclass
class _Stills:
    """What becomes of each picture; of a translator by its name, of a row of the sheet by its label."""

    kept: dict[str, list[Pixels]]  # what the sheet shows
    places: dict[str, list[Square | None]]
    groups: dict[str, list[str | None]]
    found: dict[str, list[bool]]  # whether there is a drawing
    written: list[Path]


def _stills(
    source: Source,
    links: dict[str, Link],
    w: Tensor,
    group: str | None,
    stems: Sequence[str],
    folder: Path | None,
    shown: int,
    size: int,
    progress: bool,
) -> _Stills:
    """Draw the style codes w (N, codes, W); keep `shown` of them for the sheet, write all where there is a folder."""
    made = _Stills(
        {}, {name: [] for name in links}, {name: [] for name in links}, {name: [] for name in links}, []
    )

    def keep(label: str, picture: Pixels | None) -> None:
        row = made.kept.setdefault(label, [])
        if len(row) < shown:
            row.append(_blank(size) if picture is None else fitted(picture, size))

    def save(name: str, picture: Pixels) -> None:
        if folder is not None:
            made.written.append(folder / name)
            images.save_png(made.written[-1], picture)

    with all_or_none(made.written):
        for part in bar(_parts(len(w)), "draw", progress):
            pictures = _pictures(source.style, w[part[0] : part[-1] + 1])
            for k, picture in zip(part, pictures, strict=True):
                keep(source.name, picture)
                save(f"{stems[k]}.png", picture)
            for name, link in links.items():
                places = [link.place(picture) if link.reframes else None for picture in pictures]
                made.places[name] += places
                for k, drawn in zip(part, link.draw(pictures, places, group), strict=True):
                    made.groups[name].append(drawn.group if drawn else None)
                    made.found[name].append(drawn is not None)
                    keep(f"{name} sees", drawn.seen if drawn else None)
                    keep(name, drawn.drawing if drawn else None)
                    if drawn:
                        save(f"{stems[k]}-{name}.png", drawn.drawing)
    return made


def _lost_told(name: str, lost: Sequence[str], count: int) -> str:
    told = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
    return (
        f"{name}: no face was found in {len(lost)} of {count} pictures ({told}), so nothing is drawn there; take a "
        "truncation nearer to 0, or --framing as-is where the pictures are faces already"
    )


def _blank(size: int) -> Pixels:
    return np.full((size, size, 3), 255, np.uint8)


def _way(places: Sequence[Square | None], frames: int) -> list[Square | None]:
    """The square in each frame of a closed walk through columns with these: eased as `walk`, gaps bridged."""
    found = [k for k, place in enumerate(places) if place is not None]
    if not found:
        return [None] * frames
    known = np.array([places[k] for k in found], np.float64)  # (n, 4)
    known[:, 3] = np.rad2deg(np.unwrap(np.deg2rad(known[:, 3])))  # the shorter way round
    turn = np.arange(len(places))
    whole = [np.interp(turn, found, values, period=len(places)) for values in known.T]
    way = walk(torch.from_numpy(np.stack(whole, 1)), frames)
    return [Square(*row) for row in way.tolist()]


def _nearest(groups: Sequence[str | None], column: int) -> str | None:
    """The group of the column, or of the next one, in either direction, that has one."""
    count = len(groups)
    for away in range(count):
        for k in (column + away, column - away):
            if groups[k % count] is not None:
                return groups[k % count]
    return None


def _shots(
    style: Style,
    w: Tensor,
    links: dict[str, Link],
    ways: dict[str, list[Square | None]],
    groups: dict[str, list[str | None]],
    size: int,
    progress: bool,
) -> Iterator[np.ndarray]:
    """The frames of the video, the rows of the sheet side by side: (H, W, 3) uint8."""
    blank = _blank(size)
    for part in bar(_parts(len(w)), "video", progress):
        pictures = _pictures(style, w[part[0] : part[-1] + 1])
        shown = [[picture] for picture in pictures]
        for name, link in links.items():
            drawn = link.draw(pictures, [ways[name][k] for k in part], [groups[name][k] for k in part])
            for line, one in zip(shown, drawn, strict=True):
                line += [one.seen if one else blank] * _changes(link) + [one.drawing if one else blank]
        for line in shown:
            yield np.concatenate([enlarged(fitted(picture, size)) for picture in line], axis=1)

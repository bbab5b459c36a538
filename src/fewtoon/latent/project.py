"""Photos of faces to style codes of a generator, and from these codes to drawings by every generator of its family.

Each style truncates towards its own average w, never another's, and never while a code is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewtoon import style as styles
from fewtoon.engine.progress import Watch
from fewtoon.errors import Problem
from fewtoon.faces import coach
from fewtoon.io import images
from fewtoon.io.files import printable
from fewtoon.latent import encoder as encoders
from fewtoon.latent.inversion import Inversion, Settings, invert
from fewtoon.latent.record import all_or_none, check_out, record
from fewtoon.latent.seeds import check_truncations
from fewtoon.latent.sheet import cell, enlarged, sheet, sheet_size
from fewtoon.latent.sources import Source, check_family, open_sources
from fewtoon.latent.video import FPS, check_size, check_video, check_walk, save_video
from fewtoon.losses.perceptual import open_likeness

# Defaults of a start from the average w, and from an encoder's guess: that is near, so noise would only lose it.
FROM_AVERAGE: dict[str, Any] = {"steps": 500, "jitter": 0.05}
FROM_ENCODER: dict[str, Any] = {"steps": 200, "jitter": 0.0}
FRAMES = 75  # of a video


class Drawer(NamedTuple):
    """A column of the sheet: a style at a truncation."""

    title: str  # also the folder of its single pictures
    source: Source
    truncation: float


@dataclass(frozen=True)
class Photo:
    """A face to be projected."""

    name: str  # of its file, without suffix where that is clear
    file: str
    pixels: np.ndarray  # (S, S, 3) uint8, framed as the style was trained


def settings_for(encoder: bool, **given: Any) -> Settings:
    """Settings with the defaults of a start from the average w or from an encoder; None stands for them."""
    said = {name: value for name, value in given.items() if value is not None}
    settings = Settings(**((FROM_ENCODER if encoder else FROM_AVERAGE) | said))
    if not settings.steps and not encoder:
        raise Problem(
            "0 steps from the average w would draw the same average face of everybody: add --encoder FILE"
        )
    return settings


def project(
    style: str | Path,
    pictures: Sequence[str | Path],
    out: str | Path,
    *,
    draw: Sequence[str | Path] = (),
    truncation: Sequence[float] = (1.0,),
    encoder: str | Path | None = None,
    backbone: str | Path | None = None,
    heads: str | Path | None = None,
    space: str | None = None,
    steps: int | None = None,
    rate: float | None = None,
    jitter: float | None = None,
    pixel: float | None = None,
    perceptual: float | None = None,
    pull: float | None = None,
    noise: str | None = None,
    patience: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    framing: str | None = None,
    find: Sequence[str] | str = (),
    matte: str | None = None,
    single: bool = False,
    video: str | Path | None = None,
    frames: int | None = None,
    fps: float = FPS,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Find the codes by which `style` draws the largest face of each photo, and draw them.

    style: a StyleGAN style or run, of photos. pictures: files, folders, patterns. draw: styles that were fine-tuned or
    swapped from it, which draw the same codes, each at every `truncation`. encoder: a file of `fewtoon explore
    encoder` whose guess is the start. backbone, heads: files of LPIPS; without them `SSIM`. space to seed: see
    `Settings`; None: its defaults, those of `FROM_AVERAGE` or `FROM_ENCODER`, and 8 photos at a time on a GPU.
    framing, find, matte: as in `fewtoon.draw.translate`; the framing is the style's own. single: also a PNG per
    picture. video: the way to the codes, as .webp or .mp4 of `frames` pictures.

    In `out`: sheet.png, a row per photo; latents.safetensors, w of all photos under their names, (N, codes, W), or
    (N, W) in W, and optimised noise maps; project.json: what was done, and the command. Returns what was written, the
    photos with their figures, those refused, and notes. Raises Problem for bad input, before anything is written, and
    when no photo can be used.
    """
    truncation, out = check_truncations(truncation), Path(out)
    given = {"space": space, "steps": steps, "rate": rate, "jitter": jitter, "pixel": pixel}
    given |= {"perceptual": perceptual, "pull": pull, "noise": noise, "patience": patience, "batch": batch}
    settings = settings_for(encoder is not None, **given, seed=seed)
    if video is not None:
        check_video(video)
        frames = FRAMES if frames is None else frames
        check_walk(2, frames, fps)
    elif frames is not None:
        raise Problem(f"{frames} frames of no video: say --video NAME.webp or NAME.mp4")
    sources = open_sources([style, *draw], device)
    check_out(out, "project", [*(one.file for one in sources), *pictures], video)
    encoders.check_place(out)
    source = sources[0]
    if batch is None and source.style.device.type != "cpu":
        settings = replace(settings, batch=styles.GPU_CHUNK)
    check_family(sources)
    likeness = open_likeness(backbone, heads, source.style.device)
    opened = None if encoder is None else encoders.open_encoder(encoder, source)
    photos, refused, notes = _photos(source, pictures, out, framing, find, matte)
    notes = (opened.notes if opened else []) + notes
    titles = [photo.name for photo in photos]
    drawers = [Drawer(source.name, source, 1.0)]
    for one in sources[1:]:
        several = len(truncation) > 1 or truncation[0] != 1
        drawers += [Drawer(one.name + f" {value:g}" * several, one, value) for value in truncation]
    columns = ["photo", *(drawer.title for drawer in drawers)]
    size, height, width = source.style.size, cell(source.style.size), cell(source.style.size) * len(columns)
    if video is not None and frames is not None:
        check_size(video, frames, height * len(photos), width)

    x = styles.to_tensor(np.stack([photo.pixels for photo in photos]))
    start = None if opened is None else opened.guess(x)
    watch = Watch(len(photos) * (settings.steps + 1), quiet=not progress)
    watch.start(0)
    try:
        found = invert(
            source, x, likeness, settings, start, lambda n: watch.step(watch.done + n, {}), frames or 0
        )
    finally:
        watch.close()

    made = [_draw(drawer, found.w, found.noise if not k else []) for k, drawer in enumerate(drawers)]
    pixels = [styles.to_pixels(one) for one in made]
    ratios = encoders.peak_ratio(made[0], x).tolist()
    written: list[Path] = []
    if single:
        with all_or_none(written):
            for drawer, some in zip(drawers, pixels):
                for name, picture in zip(titles, some):
                    written.append(out / f"{drawer.title.replace(' ', '-truncation')}/{name}.png")
                    images.save_png(written[-1], picture)
    rows = _rows(titles, columns, size)
    if len(rows) < len(titles):
        notes.append(
            f"{len(titles)} photos are too many for one sheet, which shows {len(rows)}: take --single too"
        )
    cells = {row: np.stack([photos[k].pixels, *(some[k] for some in pixels)]) for k, row in enumerate(rows)}
    if rows:
        images.save_png(out / "sheet.png", sheet(cells, [_fitting(c, size) for c in columns], len(columns)))
    if video is not None:
        save_video(video, (_frame(photos, drawers, codes) for codes in found.trace), fps)

    command = ["fewtoon", "explore", "project", source.given, *map(str, pictures)]
    command += [word for one in sources[1:] for word in ("--draw", one.given)]
    command += [f"--truncation={','.join(repr(v) for v in truncation)}"]
    for name, value in asdict(settings).items():
        command += [f"--{name}", value if isinstance(value, str) else repr(value)]
    files = {"encoder": encoder, "backbone": backbone, "heads": heads}
    for name, path in [*files.items(), ("framing", framing), ("matte", matte)]:
        command += [f"--{name}", str(path)] if path is not None else []
    command += [word for one in ([find] if isinstance(find, str) else find) for word in ("--find", one)]
    command += ["--single"] * single
    if video is not None:
        command += ["--video", str(video), "--frames", str(frames), "--fps", repr(float(fps))]
    command += ["--device", str(source.style.device), "--out", str(out)]
    figures = _figures(photos, found, ratios)
    facts = {
        "names": titles,
        "settings": asdict(settings),
        "start": "average" if encoder is None else "encoder",
        "encoder": None if opened is None else opened.facts(),
        "likeness": likeness.facts(),
        "truncation": truncation,
        "framing": framing or source.style.framing,
        "single": single,
        "video": None if video is None else {"file": str(video), "frames": frames, "fps": fps},
        "device": str(source.style.device),
        "photos": figures,
        "refused": refused,
    }
    tensors = {f"{source.name}.w": found.w}
    tensors |= {f"{source.name}.noise.{k}": one for k, one in enumerate(found.noise)}
    record(out / "project.json", out / "latents.safetensors", sources, command, facts, tensors)
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png") if rows else None,
        "pictures": [str(path) for path in written],
        "video": None if video is None else str(video),
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "project.json"),
        "likeness": likeness.facts(),
        "photos": figures,
        "refused": refused,
        "notes": notes,
    }


# --- photos ------------------------------------------------------------------------------------------------


def _photos(
    source: Source,
    pictures: Sequence[str | Path],
    out: Path,
    framing: str | None,
    find: Sequence[str] | str,
    matte: str | None,
) -> tuple[list[Photo], list[dict[str, str]], list[str]]:
    """The largest face of each picture, framed; what was refused; what is worth a sentence."""
    cutter, notes = source.style.cutter(framing, find, matte)
    found, unreadable = images.find(list(pictures))
    refused = [{"file": one.name, "reason": one.reason} for one in unreadable]
    found = [file for file in found if out.resolve() not in file.path.resolve().parents]  # not our own work
    if not found:
        given = ", ".join(map(printable, pictures)) or "nothing"
        raise Problem(
            f"no picture in {given} outside of --out {printable(out)!r}; name photos, or another --out"
        )
    stems = [str(Path(file.name).with_suffix("")) for file in found]
    photos: list[Photo] = []
    for file, stem in zip(found, stems):
        name = stem if stems.count(stem) == 1 else file.name
        taken = {photo.name for photo in photos}
        name = next(
            one for one in (name, *(f"{name}-{k}" for k in range(2, len(found) + 2))) if one not in taken
        )
        try:
            picture = images.read(file.path, draft=cutter.draft)
        except images.BadPicture as error:
            refused.append({"file": printable(file.path), "reason": error.reason})
            continue
        faces = sorted(cutter.find(picture), key=lambda face: -face.area)
        if cutter.kind != "as-is" and not faces:
            refused.append({"file": printable(file.path), "reason": coach.no_face(picture)})
            continue
        if len(faces) > 1:
            notes.append(
                f"{file.name}: the largest of {len(faces)} faces is taken; crop the photo to take another"
            )
        (cutout,) = cutter.cut(picture, faces[:1])
        notes += [f"{file.name}: {advice}" for advice in coach.advice(picture, cutout, source.style.size)]
        photos.append(Photo(name, printable(file.path), cutout.pixels))
    if not photos:
        raise Problem(
            f"none of {len(found)} pictures could be projected; the first: {refused[0]['file']}: {refused[0]['reason']}"
        )
    return photos, refused, notes


def _figures(photos: Sequence[Photo], found: Inversion, ratios: Sequence[float]) -> list[dict[str, Any]]:
    names = ("name", "file", "psnr", "loss", "loss_at_start", "steps", "distance")
    columns = (found.loss, found.start, found.steps, found.far)
    return [
        dict(zip(names, (photo.name, photo.file, ratio, *values)))
        for photo, ratio, *values in zip(photos, ratios, *columns)
    ]


# --- pictures ----------------------------------------------------------------------------------------------


def _draw(drawer: Drawer, w: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
    """What a style makes of the codes, with its own noise or that of the photos: (N, 3, S, S) in [-1, 1]."""
    codes = drawer.source.method.truncated(w, drawer.truncation)
    if not noise:
        return drawer.source.style.synthesis(codes)
    device, synthesis = drawer.source.style.device, drawer.source.method.generator.synthesis
    with torch.inference_mode():
        made = [
            synthesis(codes[k : k + 1].to(device), [one[k : k + 1].to(device) for one in noise])
            for k in range(len(w))
        ]
    return torch.cat(made).clamp(-1, 1).cpu()


def _rows(names: Sequence[str], columns: Sequence[str], size: int) -> list[str]:
    """The labels of as many photos as one sheet can show, each different."""
    shown = len(names)
    while (
        shown and math.prod(sheet_size(names[:shown], size, len(columns), len(columns))) > images.MAX_PIXELS
    ):
        shown -= 1
    return list(names[:shown])


def _fitting(title: str, size: int) -> str:
    """As much of a title as has room above a column; a character takes about 8 px."""
    most = cell(size) // 8
    return title if len(title) <= most else title[: most - 2] + ".."


def _frame(photos: Sequence[Photo], drawers: Sequence[Drawer], codes: Tensor) -> np.ndarray:
    """A row per photo, (H, W, 3) uint8."""
    drawn = [styles.to_pixels(_draw(drawer, codes)) for drawer in drawers]
    rows = [
        np.concatenate([enlarged(photo.pixels), *(enlarged(some[k]) for some in drawn)], axis=1)
        for k, photo in enumerate(photos)
    ]
    return np.concatenate(rows)

"""Pictures of StyleGAN styles: sheets by seeds, single files, and walks from seed to seed as a video.

Each style truncates towards its own average w, never another's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.latent.progress import bar
from fewtoon.latent.record import all_or_none, check_out, record
from fewtoon.latent.seeds import check_seeds, check_truncations, latents, seeds_told
from fewtoon.latent.sheet import cell, enlarged, sheet, sheet_size
from fewtoon.latent.sources import Source, check_group, group_for, open_sources
from fewtoon.latent.video import FPS, FRAMES_PER_SEED, check_size, check_video, check_walk, save_video, walk


def sample(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    seeds: Sequence[int] = tuple(range(16)),
    truncation: Sequence[float] = (1.0,),
    group: str | None = None,
    columns: int = 8,
    single: bool = False,
    video: str | Path | None = None,
    frames: int | None = None,
    fps: float = FPS,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw seeds with styles, and write a folder that says how to do it again.

    paths: StyleGAN styles or runs, all of one size. seeds: a column each. truncation: a row for each value and style,
    the styles of a value below one another. group: of the styles that have groups. columns: seeds beside one another.
    single: also a PNG per picture. video: a walk through the seeds (`walk`) as .webp or .mp4, `frames` in all, 25 per
    seed where that is not said.

    In `out`: sheet.png; latents.safetensors, per style its z (N, Z) and w before truncation, (N, W) or (N, codes, W);
    sample.json: styles with sha256, every argument, and the command. Returns what was written. Raises Problem for bad
    input, before anything is drawn.
    """
    seeds, truncation, out = check_seeds(seeds), check_truncations(truncation), Path(out)
    if type(columns) is not int or not 1 <= columns <= 1000:
        raise Problem(f"columns {columns!r}: a whole number from 1 to 1000")
    if not paths:
        raise Problem("no styles: name at least one")
    if video is not None:
        check_video(video)
        frames = FRAMES_PER_SEED * len(seeds) if frames is None else frames
        check_walk(len(seeds), frames, fps)
    elif frames is not None:
        raise Problem(f"{frames} frames of no video: say --video NAME.webp or NAME.mp4")
    sources = open_sources(paths, device)
    check_out(out, "sample", [one.file for one in sources], video)
    size = sources[0].style.size
    for source in sources:
        if source.style.size != size:
            raise Problem(
                f"styles of {size} and {source.style.size} px ({source.name}) do not fit together: sample each alone"
            )
    check_group([source.style for source in sources], group)

    rows = [(value, source) for value in truncation for source in sources]
    labels = [_label(source, value, len(sources), len(truncation)) for value, source in rows]
    if video is not None and frames is not None:
        check_size(video, frames, len(truncation) * cell(size), len(sources) * cell(size))
    columns = min(columns, len(seeds))
    band = math.prod(sheet_size(labels, size, columns, columns))  # pixels
    shown = min(len(seeds), images.MAX_PIXELS // band * columns)
    notes = []
    if shown < len(seeds):
        told = f"the first {shown}" if shown else "none"
        notes.append(
            f"{len(seeds)} seeds are too many for one sheet, which shows {told}: take --single or fewer"
        )

    z = {source.name: latents(source.style, seeds) for source in sources}
    w = {
        source.name: source.style.mapping(z[source.name], group_for(source.style, group))
        for source in sources
    }
    written: list[Path] = []

    def pictures(value: float, source: Source, label: str) -> np.ndarray:
        """Of all seeds that the sheet shows, (N, S, S, 3); single files of all seeds are written on the way."""
        kept = []
        codes = source.method.truncated(w[source.name], value)
        for number, seed in enumerate(bar(seeds, label or source.name, progress)):
            if number >= shown and not single:
                break
            pixels = styles.to_pixels(source.style.synthesis(codes[number : number + 1]))[0]
            if number < shown:
                kept.append(pixels)
            if single:
                parts = [source.name] * (len(sources) > 1)
                parts += [f"seed{seed:04d}"] + [f"truncation{value:g}"] * (len(truncation) > 1)
                written.append(out / ("-".join(parts) + ".png"))
                images.save_png(written[-1], pixels)
        return np.stack(kept) if kept else np.empty((0, size, size, 3), np.uint8)

    with all_or_none(written):
        drawn = {
            label: pictures(value, source, label) for (value, source), label in zip(rows, labels, strict=True)
        }
    if shown:
        titles = [str(seed) for seed in seeds[:shown]]
        images.save_png(out / "sheet.png", sheet(drawn, titles, columns))
    if video is not None and frames is not None:
        walked = [
            (source, walk(source.method.truncated(w[source.name], value), frames)) for value, source in rows
        ]
        shots = bar(range(frames), "video", progress)
        save_video(video, (_frame(walked, number, len(sources)) for number in shots), fps)

    command = ["fewtoon", "explore", "sample", *(source.given for source in sources)]
    command += ["--seeds", seeds_told(seeds), f"--truncation={','.join(f'{v!r}' for v in truncation)}"]
    command += ["--columns", str(columns)] + ["--single"] * single
    command += ["--group", group] if group is not None else []
    if video is not None:
        command += ["--video", str(video), "--frames", str(frames), "--fps", repr(float(fps))]
    command += ["--device", str(sources[0].style.device), "--out", str(out)]
    facts = {
        "seeds": seeds,
        "truncation": truncation,
        "group": group,
        "columns": columns,
        "single": single,
        "video": None if video is None else {"file": str(video), "frames": frames, "fps": fps},
        "device": str(sources[0].style.device),
    }
    tensors = {f"{name}.z": z[name] for name in z} | {f"{name}.w": w[name] for name in w}
    record(out / "sample.json", out / "latents.safetensors", sources, command, facts, tensors)
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png") if shown else None,
        "pictures": [str(path) for path in written],
        "video": None if video is None else str(video),
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "sample.json"),
        "notes": notes,
    }


def _label(source: Source, value: float, sources: int, values: int) -> str:
    """The words at the left of a row; different for each."""
    parts = [source.name] * (sources > 1) + [f"{value!r}"] * (values > 1)
    if len(parts) == 2:
        return f"{parts[1]} {parts[0]}"
    return parts[0] if parts else ("" if value == 1 else f"{value!r}")


def _frame(walked: Sequence[tuple[Source, Tensor]], number: int, across: int) -> np.ndarray:
    """Styles beside one another, truncations below: (H, W, 3) uint8."""
    shown = [
        enlarged(styles.to_pixels(source.style.synthesis(codes[number : number + 1]))[0])
        for source, codes in walked
    ]
    lines = [np.concatenate(shown[k : k + across], axis=1) for k in range(0, len(shown), across)]
    return np.concatenate(lines)

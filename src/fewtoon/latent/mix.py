"""Style mixing: a table of pictures that have some style codes of one and the others of another.

Karras, Laine, Aila: A Style-Based Generator Architecture for Generative Adversarial Networks, CVPR 2019,
arXiv:1812.04948, section 3.1 and figure 3. Mixing channels of w: Back, Fine-Tuning StyleGAN2 for Cartoon Face
Generation, 2021, arXiv:2106.12445 (its code).

Each style maps, mixes and truncates for itself, towards its own average w and once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.latent.codes import Codes, of_file, of_seeds
from fewtoon.latent.direction import check_layers, layers_of
from fewtoon.latent.progress import bar
from fewtoon.latent.record import all_or_none, check_out, latents_told, record
from fewtoon.latent.seeds import check_seeds, check_truncations, seeds_told
from fewtoon.latent.sheet import cell, sheet, sheet_size
from fewtoon.latent.sources import Source, check_group, open_sources


def mixed(w_a: Tensor, w_b: Tensor, layers: Sequence[int], channels: Sequence[int] | None = None) -> Tensor:
    """Style codes of `w_a`, those of the chosen layers and channels of `w_b`: (..., codes, W) each, that broadcast.

    layers: numbers of style codes. channels: numbers from 0 to W - 1; None: all. What is not chosen is w_a's to the
    last bit. Raises Problem for codes of another size, and for layers and channels that there are not.
    """
    if w_a.ndim < 2 or w_a.shape[-2:] != w_b.shape[-2:]:
        raise Problem(
            f"style codes of shape {tuple(w_a.shape)} and {tuple(w_b.shape)}: both must be (..., codes, W) of one size"
        )
    codes, width = w_a.shape[-2:]
    check_layers(layers, codes)
    chosen = range(width) if channels is None else channels
    _check_channels(chosen, width)
    theirs = torch.zeros(codes, width, dtype=torch.bool, device=w_a.device)
    theirs[torch.tensor(list(layers))[:, None], torch.tensor(list(chosen))] = True
    return torch.where(theirs, w_b, w_a)


def channels_of(text: str) -> range:
    """'0-255' or '7' -> the numbers of channels. Raises Problem for anything else."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", text, flags=re.ASCII)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if last < first:
        raise Problem(f"--channels {text!r}: write the first and the last one, as 0-255")
    return range(first, last + 1)


def _check_channels(channels: Sequence[int], width: int) -> None:
    if not channels or min(channels) < 0 or max(channels) >= width:
        told = f"{min(channels)}-{max(channels)}" if channels else "none"
        raise Problem(f"channels {told}: w has the channels 0 to {width - 1}")


def mix(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    rows: Sequence[int] | str | Path = (0, 1, 2, 3),
    columns: Sequence[int] | str | Path = (4, 5, 6, 7, 8, 9),
    layers: str | Sequence[int] | None = None,
    start: int | None = None,
    channels: str | range | None = None,
    truncation: float = 1.0,
    group: str | None = None,
    single: bool = False,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw a table for each style: the chosen codes are of the column's parent, the others of the row's.

    paths: StyleGAN styles or runs, all of one size. rows, columns: seeds, or a file of latents. layers: as
    '8-13', '16px-64px', 'all' (`layers_of`), or numbers of codes; start: all codes from this one on. channels: of w,
    as '0-255'; with them alone the layers are all. group: of seeds, for styles that have groups. single: also a PNG
    per mixture.

    In `out`: sheet.png (of several styles sheet-NAME.png), whose first row and column are the parents;
    latents.safetensors, before truncation: NAME.w, the mixtures (rows x columns, codes, W) row by row, NAME.rows and
    NAME.columns; mix.json: styles with sha256, every argument, and the command. Returns what was written. Raises
    Problem for bad input, before anything is drawn.
    """
    out = Path(out)
    check_truncations([truncation])
    if layers is not None and start is not None:
        raise Problem(f"--layers {layers} and --from {start}: name one of them")
    if layers is None and start is None and channels is None:
        raise Problem(
            "nothing to mix: say what is of the columns, as --layers 8-13, --from 4 or --channels 0-255"
        )
    given = {"rows": rows, "columns": columns}
    asked = {side: v if isinstance(v, (str, Path)) else check_seeds(v) for side, v in given.items()}
    files = {side: Path(value) for side, value in asked.items() if isinstance(value, (str, Path))}
    if not paths:
        raise Problem("no styles: name at least one")
    sources = open_sources(paths, device)
    size = sources[0].style.size
    for source in sources:
        if source.style.size != size:
            raise Problem(
                f"styles of {size} and {source.style.size} px ({source.name}) do not fit together: mix each alone"
            )
    check_group([source.style for source in sources], group)
    check_out(out, "mix", [*(source.file for source in sources), *files.values()])

    count = sources[0].method.generator.codes
    if start is not None:
        if not 0 <= start < count:
            raise Problem(f"--from {start}: pictures of {size} px have the style codes 0 to {count - 1}")
        layers = f"{start}-{count - 1}"
    chosen = (
        layers_of("all" if layers is None else layers, size)
        if isinstance(layers, (str, type(None)))
        else list(layers)
    )
    chosen = sorted(chosen)
    wanted = channels_of(channels) if isinstance(channels, str) else channels
    parents = {
        source.name: {side: _codes(source, value, group) for side, value in asked.items()}
        for source in sources
    }
    names = {side: parents[sources[0].name][side].names for side in asked}
    across = len(names["columns"]) + 1
    labels = ["", *_unlike(names["rows"])]
    if math.prod(sheet_size(labels, size, across, across)) > images.MAX_PIXELS:
        raise Problem(
            f"a table of {len(names['rows'])} rows and {across - 1} columns of {size} px is too large for one picture: "
            "name fewer"
        )

    mixtures = {
        name: mixed(own["rows"].w[:, None], own["columns"].w[None], chosen, wanted).flatten(0, 1)
        for name, own in parents.items()
    }
    written: dict[str, str] = {}
    pictures: list[Path] = []
    with all_or_none(pictures):
        for source in sources:
            w = {side: codes.w for side, codes in parents[source.name].items()} | {
                "mixed": mixtures[source.name]
            }
            drawn = {part: _draw(source, codes, truncation, progress) for part, codes in w.items()}
            table = drawn["mixed"].reshape(-1, across - 1, size, size, 3)
            corner = np.full_like(drawn["rows"][:1], 255)
            bands = {"": np.concatenate([corner, drawn["columns"]])}
            for label, parent, row in zip(labels[1:], drawn["rows"], table, strict=True):
                bands[label] = np.concatenate([parent[None], row])
            longest = cell(size) // 8
            titles = [one[:longest] for one in (f"codes {seeds_told(chosen)}", *names["columns"])]
            written[source.name] = f"sheet-{source.name}.png" if len(sources) > 1 else "sheet.png"
            images.save_png(out / written[source.name], sheet(bands, titles, across))
            if single:
                for number, pixels in enumerate(drawn["mixed"]):
                    row_number, column = divmod(number, across - 1)
                    start_of = f"{source.name}-" if len(sources) > 1 else ""
                    pictures.append(out / f"{start_of}row{row_number:04d}-column{column:04d}.png")
                    images.save_png(pictures[-1], pixels)

    command = ["fewtoon", "explore", "mix", *(source.given for source in sources)]
    for side, value in asked.items():
        one = side.removesuffix("s")
        command += [f"--{one}-latents", str(value)] if side in files else [f"--{side}", seeds_told(value)]  # type: ignore[arg-type]
    command += ["--layers", seeds_told(chosen)]
    command += [] if wanted is None else ["--channels", f"{min(wanted)}-{max(wanted)}"]
    command += [f"--truncation={float(truncation)!r}"] + ["--single"] * single
    command += ["--group", group] if group is not None else []
    command += ["--device", str(sources[0].style.device), "--out", str(out)]
    facts = {
        **{side: latents_told(asked[side]) for side in asked},
        "names": [f"{a} + {b}" for a in names["rows"] for b in names["columns"]],
        "layers": chosen,
        "channels": None if wanted is None else [min(wanted), max(wanted)],
        "truncation": truncation,
        "group": group,
        "single": single,
        "device": str(sources[0].style.device),
    }
    tensors = {f"{name}.w": w for name, w in mixtures.items()}
    for name, own in parents.items():
        tensors |= {f"{name}.{side}": codes.w for side, codes in own.items()}
    record(out / "mix.json", out / "latents.safetensors", sources, command, facts, tensors)
    return {
        "out": str(out),
        "sheets": {name: str(out / file) for name, file in written.items()},
        "pictures": [str(path) for path in pictures],
        "layers": chosen,
        "channels": facts["channels"],
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "mix.json"),
    }


def _codes(source: Source, asked: Sequence[int] | str | Path, group: str | None) -> Codes:
    if isinstance(asked, (str, Path)):
        return of_file(source, asked)
    return of_seeds(source, asked, group)


def _draw(source: Source, w: Tensor, truncation: float, progress: bool) -> np.ndarray:
    """(N, codes, W) before truncation -> (N, S, S, 3) uint8."""
    codes = source.method.truncated(w, truncation)
    parts = bar(range(len(codes)), source.name, progress)
    return np.concatenate([styles.to_pixels(source.style.synthesis(codes[k : k + 1])) for k in parts])


def _unlike(names: Sequence[str]) -> list[str]:
    """The names, where two are alike with a number behind."""
    found: list[str] = []
    for name in names:
        taken = ("", *found)
        found.append(
            next(n for n in (name, *(f"{name} ({k})" for k in range(2, len(names) + 3))) if n not in taken)
        )
    return found

"""The verb that swaps layers of two StyleGAN styles: a new style file, or a sheet to look at, or both.

The mathematics is in `fewtoon.latent.blend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.files import printable
from fewtoon.latent.blend import (
    CHOICES,
    SIDES,
    FeatureSwap,
    Recipe,
    advice,
    blend,
    distance,
    method_of,
    shares,
)
from fewtoon.latent.record import check_own, record
from fewtoon.latent.seeds import check_seeds, check_truncations, latents, seeds_told
from fewtoon.latent.sheet import sheet
from fewtoon.latent.sources import Source, check_group, open_sources
from fewtoon.style import Style


def swap(
    low: str | Path,
    high: str | Path,
    resolution: int,
    *,
    out: str | Path | None = None,
    features: bool = False,
    width: float = 0.0,
    mapping: str | None = None,
    constant: str | None = None,
    noise: str | None = None,
    rgb: str | None = None,
    sheet_to: str | Path | None = None,
    seeds: Sequence[int] = tuple(range(8)),
    truncation: float = 1.0,
    group: str | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Swap layers of two style files or runs: write the new style to `out`, or look at it on a sheet, or both.

    features: swap in the forward pass (`FeatureSwap`), which only a sheet can show. The other settings are those of
    `Recipe`; None: its default, and for features each parent's own mapping. The sheet has LOW, HIGH and the swap in
    rows and the seeds in columns; beside it are its latents (.safetensors) and a .json that repeats the command.
    Returns what was written, `distance`, and notes to be read. Raises Problem for bad input, before anything is
    written.
    """
    if out is None and sheet_to is None:
        raise Problem("nothing to write: name --out STYLE, --sheet PNG, or both")
    if features:
        given = {"constant": constant, "noise": noise, "rgb": rgb, "width": width or None}
        for name, value in given.items():
            if value is not None:
                raise Problem(f"--{name} {value} is of a swap of weights: leave it or --features out")
        if out is not None:
            raise Problem(
                f"--out {printable(out)!r}: a swap of features happens while drawing and is no file; leave --out or "
                "--features out"
            )
    if sheet_to is not None and Path(sheet_to).suffix.lower() != ".png":
        raise Problem(f"--sheet {printable(sheet_to)!r}: its name must end in .png")
    if out is not None and Path(out).suffix.lower() != ".safetensors":
        raise Problem(f"--out {printable(out)!r}: its name must end in .safetensors")
    seeds = check_seeds(seeds)
    check_truncations([truncation])
    sources = open_sources([low, high], device)
    beside = [] if sheet_to is None else [Path(sheet_to), *_beside(Path(sheet_to))]
    for path in [*([] if out is None else [Path(out)]), *beside]:
        if any(path.resolve() == source.file.resolve() for source in sources):
            raise Problem(
                f"{printable(path)!r} would be written, and is one of the parents: choose another name"
            )
    if out is not None and Path(out).resolve() in [path.resolve() for path in beside]:
        raise Problem(f"--out {printable(out)!r} is the name of the sheet's latents too: choose another name")
    if out is not None:
        check_own(Path(out), "swapped style")
    for path, kind in zip(beside[1:], ("record", "latents")):
        check_own(path, kind)
    one, other = (source.style for source in sources)
    named: dict[str, Any] = {"mapping": mapping, "constant": constant, "noise": noise, "rgb": rgb}
    recipe = Recipe(resolution, width, **{name: value for name, value in named.items() if value is not None})
    made: Style | FeatureSwap
    if features:
        made = FeatureSwap(one, other, resolution, cast(Any, mapping or "own"))
        told = [one, other] if mapping is None else [one if mapping == "low" else other]
    else:
        made = blend(one, other, recipe)
        told = [made]
        for side, source in zip(SIDES, sources):
            made.header["made_of"][side] = {**source.facts(), **made.header["made_of"][side]}
    check_group(told, group)
    apart = distance(one, other, cast(Any, made.mapping if isinstance(made, FeatureSwap) else recipe.mapping))
    notes = advice(one, other, resolution, apart)

    if out is not None and isinstance(made, Style):
        made.save(out)
    if sheet_to is not None:
        command = ["fewtoon", "explore", "swap", str(low), str(high), "--resolution", str(resolution)]
        if features:
            command += ["--features"] + ([] if mapping is None else ["--mapping", mapping])
        else:
            command += ["--width", repr(float(width))]
            command += [word for name in CHOICES for word in (f"--{name}", getattr(recipe, name))]
        command += ["--seeds", seeds_told(seeds), f"--truncation={float(truncation)!r}"]
        command += ["--group", group] if group is not None else []
        command += ["--device", str(one.device)] + ([] if out is None else ["--out", str(out)])
        facts = {
            "by": "features" if features else "weights",
            **({"resolution": resolution, "mapping": mapping or "own"} if features else asdict(recipe)),
            "distance": apart,
            "seeds": seeds,
            "truncation": truncation,
            "group": group,
            "device": str(one.device),
        }
        _sheet(Path(sheet_to), sources, made, seeds, truncation, group)
        z = latents(one, seeds)
        tensors = {
            f"{source.name}.w": source.style.mapping(z, _known(source.style, group)) for source in sources
        }
        told_at, latents_at = _beside(Path(sheet_to))
        command += ["--sheet", str(sheet_to)]
        record(told_at, latents_at, sources, command, facts, {"z": z, **tensors})
    return {
        "out": None if out is None else str(out),
        "sheet": None if sheet_to is None else str(sheet_to),
        "by": "features" if features else "weights",
        "distance": apart,
        "shares": None if features else shares(method_of(one).sizes, resolution, width),
        "notes": notes,
    }


def _sheet(
    path: Path,
    sources: Sequence[Source],
    made: Style | FeatureSwap,
    seeds: Sequence[int],
    truncation: float,
    group: str | None,
) -> None:
    """LOW, HIGH and the swap in rows, the seeds in columns."""
    z = latents(sources[0].style, seeds)
    drawn = {
        f"{source.name} ({side})": source.style.sample(z, truncation, _known(source.style, group))
        for side, source in zip(SIDES, sources)
    }
    drawn["swap"] = made.sample(z, truncation, group)
    shown = {label: styles.to_pixels(pictures) for label, pictures in drawn.items()}
    images.save_png(path, sheet(shown, [str(seed) for seed in seeds], 8))


def _beside(path: Path) -> tuple[Path, Path]:
    """The record and the latents of a sheet."""
    return path.with_suffix(".json"), path.with_suffix(".latents.safetensors")


def _known(style: Style, group: str | None) -> str | None:
    """The group, or None for a parent that does not know it: the other one is asked for it."""
    return group if group in style.groups else None

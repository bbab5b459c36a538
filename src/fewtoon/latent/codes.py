"""Style codes to start from: of seeds, or from the latents that another tool has left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import printable
from fewtoon.latent.seeds import check_seeds, latents
from fewtoon.latent.sources import Source, group_for

FORMAT, VERSION = "fewtoon-latents", 1


class Codes(NamedTuple):
    """Style codes, and what each is called."""

    names: list[str]  # of seeds their numbers, of photos the names of their files
    w: Tensor  # (N, codes, W) float32 on the CPU


def of_seeds(source: Source, seeds: Sequence[int], group: str | None = None) -> Codes:
    """What the style's own mapping makes of the seeds."""
    z = latents(source.style, check_seeds(seeds))
    w = source.style.mapping(z, group_for(source.style, group))
    return Codes([str(seed) for seed in seeds], spread(source, w))


def of_file(source: Source, path: str | Path) -> Codes:
    """The codes in a file of latents that `sample`, `project` or another tool wrote: those of the style of this name,
    or the only ones there are.

    Raises Problem for a file that is none, for codes that do not fit the style, and where it is not clear which.
    """
    facts, tensors = read(path)
    told = f"latents {printable(path)!r}"
    found = {name.removesuffix(".w"): w for name, w in tensors.items() if name.endswith(".w")}
    name = source.name if source.name in found else next(iter(found), "")
    if not found or (len(found) > 1 and source.name not in found):
        held = ", ".join(sorted(found)) or "none"
        raise Problem(
            f"{told} hold no codes of {source.name!r} but of: {held}; name the style that they are of"
        )
    w = spread(source, found[name], told)
    names = facts.get("names") or [str(seed) for seed in facts.get("seeds") or []]
    if not isinstance(names, list) or len(names) != len(w):
        names = [str(number) for number in range(len(w))]
    return Codes([str(one) for one in names], w)


def spread(source: Source, w: Tensor, told: str = "style codes") -> Tensor:
    """(N, W) or (N, codes, W) -> (N, codes, W) float32. Raises Problem for what the style cannot draw."""
    generator = source.method.generator
    shape = (generator.codes, generator.mapping.average.shape[0])
    if w.ndim == 2:
        w = w[:, None].expand(-1, shape[0], -1)
    if w.ndim != 3 or not len(w) or tuple(w.shape[1:]) != shape:
        raise Problem(
            f"{told} are of shape {tuple(w.shape)}, of a style of another size; {source.name} takes (N, {shape[1]}) or "
            f"(N, {shape[0]}, {shape[1]})"
        )
    if not torch.isfinite(w).all():
        raise Problem(f"{told} are not all finite numbers: make them anew")
    return w.detach().float().cpu().contiguous()


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says of itself, and its tensors. Raises Problem for a file that is none of `fewtoon explore`."""
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("fewtoon")
        facts = json.loads(text or "null")
    except FileNotFoundError:
        raise Problem(
            f"latents {printable(path)!r} do not exist; 'fewtoon explore sample' or 'project' writes them"
        ) from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Problem(f"latents {printable(path)!r} cannot be read ({error}); make them anew") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise Problem(
            f"{printable(path)!r} is a safetensors file but holds no latents; name the latents.safetensors of "
            "'fewtoon explore sample' or 'project'"
        )
    if facts.get("version") != VERSION:
        raise Problem(
            f"latents {printable(path)!r} have version {facts.get('version')!r}, this fewtoon reads {VERSION}; update "
            "fewtoon"
        )
    return facts, weights.read(path)

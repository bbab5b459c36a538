"""Directions that have a name, kept in a file beside the style: NAME.directions.safetensors.

A style that was fine-tuned from another has nearly its latent space, so the file of one serves the other too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fewtoon.errors import Problem, nearest
from fewtoon.io import weights
from fewtoon.io.files import printable
from fewtoon.latent.direction import Direction
from fewtoon.latent.sources import Source, open_sources

FORMAT, VERSION = "fewtoon-directions", 1
ENDING = ".directions.safetensors"
FOUND = f"found{ENDING}"  # in the folder that 'explore directions' writes
NAME = re.compile(r"[^\W\d_][\w-]{0,39}")


def place(path: str | Path) -> Path:
    """Where the directions of a style file, a run or an --out of `explore directions` are; or the file itself."""
    path = Path(path)
    if path.is_dir():
        return path / FOUND if (path / FOUND).is_file() else path / f"best{ENDING}"
    return path if path.name.endswith(ENDING) else path.with_suffix(ENDING)


def check_name(name: str) -> str:
    """Raises Problem for what cannot be the name of a direction."""
    if not NAME.fullmatch(name):
        raise Problem(
            f"{name[:60]!r} is no name: a letter, then letters, digits, - or _, at most 40, as 'hair' or 'mouth-open'"
        )
    return name


def pick(directions: Mapping[str, Direction], name: str, told: str) -> Direction:
    """The direction of this name. Raises Problem, with the nearest names, where there is none."""
    if name not in directions:
        raise Problem(f"{told} has no direction {name[:60]!r}; {nearest(name, directions)}")
    return directions[name]


def save(path: str | Path, directions: Mapping[str, Direction]) -> None:
    """Write a file of directions, in the order given, atomically. Raises Problem for a name that is none."""
    told = {
        check_name(name): {
            "unit": one.unit,
            "layers": list(one.layers),
            "codes": one.codes,
            "range": list(one.range),
            "facts": dict(one.facts),
        }
        for name, one in directions.items()
    }
    text = json.dumps({"format": FORMAT, "version": VERSION, "directions": told})
    vectors = {
        name: one.vector.clone() for name, one in directions.items()
    }  # one direction may have two names
    weights.write(path, vectors, {"fewtoon": text})


def load(path: str | Path) -> dict[str, Direction]:
    """The directions in a file, in the order they were named. Raises Problem for a file that is none or damaged."""
    told = printable(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("fewtoon")
        header = json.loads(text or "null")
    except FileNotFoundError:
        raise Problem(
            f"{told!r} does not exist: name directions with 'fewtoon explore directions STYLE --by sefa --name hair=3'"
        ) from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Problem(
            f"directions {told!r} cannot be read ({error}); copy the file again, or delete it"
        ) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Problem(
            f"{told!r} is a safetensors file but holds no directions of 'fewtoon explore directions'"
        )
    if header.get("version") != VERSION:
        raise Problem(
            f"directions {told!r} have version {header.get('version')!r}, this fewtoon reads {VERSION}; update fewtoon"
        )
    tensors, entries = weights.read(path), header.get("directions")
    found = {}
    for name, entry in entries.items() if isinstance(entries, dict) else [("", None)]:
        found[name] = _direction(name, entry, tensors.get(name), told)
    if tensors.keys() - found.keys():
        raise _damaged(told, min(tensors.keys() - found.keys()))
    return found


def _direction(name: str, entry: Any, vector: torch.Tensor | None, told: str) -> Direction:
    """Raises Problem for an entry that no `save` has written."""
    if not isinstance(entry, dict) or not NAME.fullmatch(name) or vector is None:
        raise _damaged(told, name)
    unit: Any = entry.get("unit")
    layers: Any = entry.get("layers")
    codes: Any = entry.get("codes")
    between: Any = entry.get("range")
    numbers: Any = [unit, *between] if isinstance(between, list) and len(between) == 2 else [None]
    sound = (
        all(isinstance(one, (int, float)) and math.isfinite(one) for one in numbers)
        and numbers[0] > 0
        and numbers[1] < numbers[2]
        and type(codes) is int
        and isinstance(layers, list)
        and all(type(layer) is int and 0 <= layer < codes for layer in layers)
        and layers == sorted(set(layers))
        and bool(layers)
        and isinstance(entry.get("facts"), dict)
        and vector.dtype == torch.float32
        and vector.ndim == 1
        and bool((vector.double().norm() - 1).abs() < 1e-3)  # nan fails too
    )
    if not sound:
        raise _damaged(told, name)
    return Direction(
        vector.clone(),
        float(unit),
        tuple(layers),
        codes,
        (float(numbers[1]), float(numbers[2])),
        entry["facts"],
    )


def _damaged(told: str, name: str) -> Problem:
    return Problem(f"directions {told!r} are damaged at {name[:60]!r}; copy the file again, or delete it")


def check_fits(direction: Direction, source: Source, name: str) -> None:
    """Raises Problem for a direction of a latent space of another size."""
    generator = source.method.generator
    have = (len(direction.vector), direction.codes)
    want = (generator.mapping.average.shape[0], generator.codes)
    if have != want:
        raise Problem(
            f"direction {name!r} is of a style with {have[1]} codes of {have[0]} numbers; {source.name} has {want[1]} "
            f"of {want[0]}: find it anew"
        )


# --- a style's own ---------------------------------------------------------------------------------------


def of_source(source: Source) -> dict[str, Direction]:
    """The style's named directions; {} where it has none yet."""
    path = place(source.file)
    return load(path) if path.exists() else {}


def merged(
    source: Source,
    new: Mapping[str, Direction],
    replaced: bool = False,
    held: Mapping[str, Direction] | None = None,
) -> dict[str, Direction]:
    """The style's named directions, or `held`, with new ones, to be saved: these then say which style they are of.

    Raises Problem for a name that is taken by another direction, unless `replaced`, and for one of another size.
    """
    held = dict(of_source(source) if held is None else held)
    for name, direction in new.items():
        check_fits(direction, source, check_name(name))
        known = held.get(name)
        same = known is not None and _alike(known, direction)
        if known is not None and not same and not replaced:
            raise Problem(
                f"{source.name} has a direction {name!r} already: choose another name, or say --replace"
            )
        facts = {**direction.facts, "style": {"file": source.file.name, "sha256": source.sha256}}
        held[name] = replace(direction, facts=facts)
    return held


def _alike(one: Direction, other: Direction) -> bool:
    return torch.equal(one.vector, other.vector) and (one.unit, one.layers) == (other.unit, other.layers)


def renamed(directions: Mapping[str, Direction], old: str, new: str, told: str) -> dict[str, Direction]:
    """The same with another name in the same place. Raises Problem for a name that is not there or is taken."""
    pick(directions, old, told)
    if check_name(new) in directions:
        raise Problem(f"{told} has a direction {new!r} already: choose another name, or delete it first")
    return {new if name == old else name: one for name, one in directions.items()}


def change(path: Path, directions: Mapping[str, Direction]) -> None:
    """Write a style's file of directions, or remove it where none is left."""
    if directions:
        save(path, directions)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Problem(f"cannot delete {printable(path)!r}: {error.strerror or error}") from error


def edit(
    path: str | Path,
    *,
    given: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    replaced: bool = False,
    renames: Mapping[str, str] | None = None,
    deletes: Sequence[str] = (),
    device: str | None = None,
) -> dict[str, Any]:
    """Change the named directions of a style or run: delete, then rename, then take over; returns what it then has.

    given, names: new name -> the one in the file of directions of `given`, another style for example. renames: new name
    -> old name. Raises Problem for a name that is not there or taken; then nothing has changed.
    """
    if bool(names) != (given is not None):
        raise Problem("--from and --name go together: whose directions, and which, as --name hair=sefa-3")
    (source,) = open_sources([path], device)
    held = before = of_source(source)
    for name in deletes:
        pick(held, name, source.name)
        held = {other: one for other, one in held.items() if other != name}
    for new, old in (renames or {}).items():
        held = renamed(held, old, new, source.name)
    if given is not None:
        others = load(place(given))
        taken = {new: pick(others, old, printable(given)) for new, old in (names or {}).items()}
        held = merged(source, taken, replaced, held)
    if list(held) != list(before) or names:
        change(place(source.file), held)
    return {
        "file": str(place(source.file)),
        "directions": {
            name: {**one.facts, "unit": one.unit, "layers": list(one.layers), "range": list(one.range)}
            for name, one in held.items()
        },
    }

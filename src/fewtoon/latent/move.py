"""Move pictures along directions that have a name: strips by strength, of several styles from the same style codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.files import printable
from fewtoon.latent import named
from fewtoon.latent.codes import of_file, of_seeds, spread
from fewtoon.latent.direction import Direction, layers_of, moved
from fewtoon.latent.directions import check_sheet, draw, range_of, strengths_of
from fewtoon.latent.progress import bar
from fewtoon.latent.record import check_out, record
from fewtoon.latent.seeds import check_seeds, check_truncations, seeds_told
from fewtoon.latent.sheet import cell, enlarged, sheet
from fewtoon.latent.sources import Source, check_family, check_group, open_sources
from fewtoon.latent.video import FPS, check_size, check_video, save_video

FRAMES = 50  # of a video, there and back
MOST_FRAMES = 10_000


class Move(NamedTuple):
    """A direction by name, and from which strength to which; None: as far as was looked at when it was named."""

    name: str
    between: tuple[float, float] | None


def move_of(text: str) -> Move:
    """'hair', 'hair=2' or 'hair=-3..3' -> Move. Raises Problem for anything else."""
    name, sign, far = text.partition("=")
    return Move(named.check_name(name), range_of(far, f"--by {name}", alone=True) if sign else None)


def along(w: Tensor, moves: Sequence[tuple[Direction, float]], layers: Sequence[int] | None = None) -> Tensor:
    """Style codes (N, W) or (N, codes, W) moved along several directions, each with its strength: (N, codes, W)."""
    for direction, strength in moves:
        w = moved(w, direction, strength, layers)
    return w


def move(
    paths: Sequence[str | Path],
    out: str | Path,
    moves: Sequence[Move],
    *,
    seeds: Sequence[int] = tuple(range(4)),
    latents: str | Path | None = None,
    directions: str | Path | None = None,
    layers: str | None = None,
    steps: int = 7,
    truncation: float | None = None,
    group: str | None = None,
    video: str | Path | None = None,
    frames: int = FRAMES,
    fps: float = FPS,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw style codes moved along directions, and write a folder that says how to do it again.

    paths: StyleGAN styles or runs of one layout. The first maps the seeds, or owns the codes in the file `latents`;
    all draw the same codes, below one another. moves: those from one strength to another go there together, in
    `steps`; those of one strength are added everywhere. Where none has a range, all go from 0 to their strength.
    directions: whose names these are, a style, a run, a file or an --out of `explore directions`; None: the first
    style's. layers: other style codes than those that the directions move, as `layers_of` reads them. truncation:
    before moving, towards the first style's average; None: 0.7 of seeds, 1 of a file. video: there and back, a column
    for each seed and a row for each style.

    In `out`: sheet.png, a row for each seed and style; latents.safetensors, the codes drawn, row by row, as the first
    style's w; move.json. Returns what was written. Raises Problem for bad input, before anything is drawn.
    """
    out = Path(out)
    truncation = (1.0 if latents is not None else 0.7) if truncation is None else float(truncation)
    check_truncations([truncation])
    if not paths or not moves:
        raise Problem("nothing to move: name at least one style, and --by a direction")
    if len({one.name for one in moves}) < len(moves):
        raise Problem("--by names a direction twice: leave one out")
    if video is not None:
        check_video(video)
        if type(frames) is not int or not 2 <= frames <= MOST_FRAMES or not 0.1 <= fps <= 120:
            raise Problem(f"{frames!r} frames at {fps:g} per second: from 2 to {MOST_FRAMES}, at 0.1 to 120")
    sources = open_sources(paths, device)
    read = [*(one.file for one in sources), *([] if latents is None else [latents])]
    check_out(out, "move", read, video)
    if directions is not None and Path(directions).resolve() == out.resolve():
        raise Problem(
            f"--out {printable(out)!r} holds the directions, and would be written over: choose another"
        )
    leader = sources[0]
    check_group([leader.style], group)
    check_family(sources)
    chosen, notes = _directions(leader, moves, directions)
    other = None if layers is None else layers_of(layers, leader.style.size)
    ways = {one.name: _way(one, chosen[one.name], moves) for one in moves}
    places = {name: strengths_of(way, steps) for name, way in ways.items()}

    size, codes = leader.style.size, None if latents is None else of_file(leader, latents)
    names = [str(seed) for seed in check_seeds(seeds)] if codes is None else codes.names
    labels = [" ".join([told] + [one.name] * (len(sources) > 1)) for told in names for one in sources]
    check_sheet(labels, size, steps)
    if video is not None:
        check_size(video, frames, len(sources) * cell(size), len(names) * cell(size))
    codes = codes or of_seeds(leader, seeds, group)
    start = spread(leader, leader.method.truncated(codes.w, truncation))

    def at(strengths: Mapping[str, float]) -> Tensor:
        return along(start, [(chosen[name], strength) for name, strength in strengths.items()], other)

    drawn_codes = [at({name: far[k] for name, far in places.items()}) for k in range(steps)]
    rows: dict[str, np.ndarray] = {}
    for number, label in enumerate(bar(labels, "pictures", progress)):
        seed, which = divmod(number, len(sources))
        pictures = draw(sources[which], [w[seed : seed + 1] for w in drawn_codes])
        rows[label if label not in rows else f"{label} ({seed})"] = pictures
    images.save_png(out / "sheet.png", sheet(rows, _titles(places, ways), steps))
    if video is not None:
        shares = [(1 - math.cos(2 * math.pi * k / frames)) / 2 for k in range(frames)]
        shots = (
            _frame(sources, at({name: low + (high - low) * share for name, (low, high) in ways.items()}))
            for share in bar(shares, "video", progress)
        )
        save_video(video, shots, fps)

    command = ["fewtoon", "explore", "move", *(source.given for source in sources), "--by"]
    command += [f"{name}={way[0]!r}..{way[1]!r}" for name, way in ways.items()]
    command += ["--latents", str(latents)] if latents is not None else ["--seeds", seeds_told(seeds)]
    command += ["--directions", str(directions)] if directions is not None else []
    command += ["--layers", layers] if layers is not None else []
    command += ["--steps", str(steps), f"--truncation={truncation!r}"]
    command += ["--group", group] if group is not None else []
    if video is not None:
        command += ["--video", str(video), "--frames", str(frames), "--fps", repr(float(fps))]
    command += ["--device", str(leader.style.device), "--out", str(out)]
    facts = {
        "names": [_told(name, k, places, ways) for name in codes.names for k in range(steps)],
        "strengths": places,
        "directions": {
            name: {**one.facts, "unit": one.unit, "layers": list(other or one.layers)}
            for name, one in chosen.items()
        },
        "truncation": truncation,
        "group": group,
        "video": None if video is None else {"file": str(video), "frames": frames, "fps": fps},
        "device": str(leader.style.device),
    }
    row_by_row = torch.stack(drawn_codes, 1).flatten(0, 1)
    record(
        out / "move.json",
        out / "latents.safetensors",
        sources,
        command,
        facts,
        {f"{leader.name}.w": row_by_row},
    )
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png"),
        "video": None if video is None else str(video),
        "strengths": places,
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "move.json"),
        "notes": notes,
    }


def _directions(
    leader: Source, moves: Sequence[Move], given: str | Path | None
) -> tuple[dict[str, Direction], list[str]]:
    path = named.place(leader.file if given is None else given)
    if given is None and not path.exists():
        raise Problem(
            f"{leader.name} has no named directions: name some with 'fewtoon explore directions STYLE "
            "--by sefa --name hair=3', or say with --directions whose it should use, such as its source's"
        )
    known = named.load(path)
    found = {one.name: named.pick(known, one.name, printable(path)) for one in moves}
    notes = []
    for name, direction in found.items():
        named.check_fits(direction, leader, name)
        origin = direction.facts.get("style")
        if given is None and isinstance(origin, dict) and origin.get("sha256") != leader.sha256:
            notes.append(
                f"{name} was named when {leader.name} was another file: look whether it still means the same"
            )
    return found, notes


def _way(one: Move, direction: Direction, moves: Sequence[Move]) -> tuple[float, float]:
    """From which strength to which."""
    low, high = one.between or direction.range
    ranged = any(other.between is None or other.between[0] != other.between[1] for other in moves)
    return (low, high) if ranged else (0.0, high)


def _titles(places: Mapping[str, Sequence[float]], ways: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of the columns: the strengths of what changes, in short."""
    changing = [name for name, (low, high) in ways.items() if low != high] or list(ways)
    count = len(next(iter(places.values())))
    short = len(changing) == 1
    return [
        " ".join(f"{'' if short and k else name + ' '}{places[name][k]:.3g}" for name in changing)
        for k in range(count)
    ]


def _told(
    seed: str, k: int, places: Mapping[str, Sequence[float]], ways: Mapping[str, tuple[float, float]]
) -> str:
    return " ".join([seed, *(f"{name}={places[name][k]:.4g}" for name in ways)])


def _frame(sources: Sequence[Source], codes: Tensor) -> np.ndarray:
    """Codes beside one another, styles below: (H, W, 3) uint8."""
    lines = [
        np.concatenate([enlarged(one) for one in draw(source, list(codes.split(1)))], axis=1)
        for source in sources
    ]
    return np.concatenate(lines)

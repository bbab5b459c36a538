"""Preview grids: the same held-out faces each time, a row each, a column per picture that a method shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fewtoon import style
from fewtoon.engine import seed
from fewtoon.engine.trainee import Trainee
from fewtoon.io import images

SMALLEST_CELL = 128  # pixels; smaller pictures are shown magnified
GAP, TITLE = 4, 20  # pixels between cells, and above the columns


def choose(groups: list[str | None], count: int, run_seed: int) -> list[int]:
    """Positions of `count` of the pictures whose groups are given: in turn from every group, by lot.

    A larger count gives the same pictures first.
    """
    lot = torch.randperm(len(groups), generator=seed.generator(run_seed, 0, 0, "preview")).tolist()
    queues: dict[str, list[int]] = {}
    for place in lot:
        queues.setdefault(groups[place] or "", []).append(place)
    turns = [(turn, name, place) for name, queue in queues.items() for turn, place in enumerate(queue)]
    return [place for _, _, place in sorted(turns)[:count]]


def columns(trainee: Trainee, shown: Tensor) -> dict[str, np.ndarray]:
    """The columns of the grid, drawn with the averaged weights: title -> (B, S, S, 3) uint8.

    shown: what the method translates, photos (B, 3, S, S) in [-1, 1] or latents (B, Z).
    """
    found: dict[str, list[np.ndarray]] = {}
    with torch.no_grad(), trainee.autocast():
        for one in shown.to(trainee.device).split(1):
            if one.ndim == 4:
                one = one.contiguous(memory_format=torch.channels_last)
            for title, picture in trainee.artist.method.preview(one).items():
                found.setdefault(title, []).append(style.to_pixels(picture))
    return {title: np.concatenate(parts) for title, parts in found.items()}


def save(path: Path, shown: dict[str, np.ndarray]) -> np.ndarray:
    """Write the grid as a PNG and return it, (H, W, 3) uint8. Raises Problem when it cannot be written."""
    rows, size = next(iter(shown.values())).shape[:2]
    cell = size * max(1, -(-SMALLEST_CELL // size))
    grid = Image.new("RGB", (len(shown) * (cell + GAP) + GAP, rows * (cell + GAP) + TITLE), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(14)
    for column, (title, pictures) in enumerate(shown.items()):
        left = GAP + column * (cell + GAP)
        pen.text((left, 1), title, fill="black", font=font)
        for row, picture in enumerate(pictures):
            shape = (cell, cell)
            resized = Image.fromarray(picture).resize(shape, Image.Resampling.NEAREST)
            grid.paste(resized, (left, TITLE + row * (cell + GAP)))
    array = np.asarray(grid)
    images.save_png(path, array)
    return array

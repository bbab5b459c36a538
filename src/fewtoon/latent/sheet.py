"""Pictures of one size in rows and columns, with words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewtoon.engine.preview import GAP, SMALLEST_CELL, TITLE

LONGEST_LABEL = 32  # characters at the left of a row


def sheet(rows: Mapping[str, np.ndarray], titles: Sequence[str], columns: int) -> np.ndarray:
    """Pictures as one, (H, W, 3) uint8: bands of `columns`, in each band a row per entry of `rows`.

    rows: label -> (N, S, S, 3) uint8. titles: N words, above the columns. Small pictures are shown magnified.
    """
    size = next(iter(rows.values())).shape[1]
    step, font = cell(size) + GAP, ImageFont.load_default(14)
    height, width = sheet_size(list(rows), size, len(titles), columns)
    left = width - min(columns, len(titles)) * step
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, title in enumerate(titles):
        band, column = divmod(number, columns)
        x, y = left + column * step, band * (TITLE + len(rows) * step)
        pen.text((x, y + 1), title, fill="black", font=font)
        for row, pictures in enumerate(rows.values()):
            canvas.paste(Image.fromarray(enlarged(pictures[number])), (x, y + TITLE + row * step))
    for band in range(-(-len(titles) // columns)):
        for row, label in enumerate(rows):
            y = band * (TITLE + len(rows) * step) + TITLE + row * step + step // 2 - 10
            pen.text((GAP, y), label[:LONGEST_LABEL], fill="black", font=font)
    return np.asarray(canvas)


def sheet_size(labels: Sequence[str], size: int, count: int, columns: int) -> tuple[int, int]:
    """Height and width of a `sheet` of `count` columns of pictures of `size` pixels."""
    step, font = cell(size) + GAP, ImageFont.load_default(14)
    left = 2 * GAP + math.ceil(max(font.getlength(label[:LONGEST_LABEL]) for label in labels))
    bands = -(-count // columns)
    return bands * (TITLE + len(labels) * step), left + min(columns, count) * step


def cell(size: int) -> int:
    return size * max(1, -(-SMALLEST_CELL // size))


def enlarged(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3), enlarged by whole pixels to be seen."""
    times = cell(picture.shape[0]) // picture.shape[0]
    return picture.repeat(times, 0).repeat(times, 1)

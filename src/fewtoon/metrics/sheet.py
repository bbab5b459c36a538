"""Pictures in the evaluation report: which are shown, how they stand in a page, and sheet.png."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fewtoon.metrics.page import data_uri

if TYPE_CHECKING:
    from fewtoon.metrics.evaluate import Pictures

SHOWN = 8  # photos of one group in the report
SHOWN_ALONE = 24  # the same, where there are no groups
SMALL = 128  # pictures below this side are shown with their pixels


def choose(shown: Pictures) -> dict[str, list[int]]:
    """{group: indices of the photos to show}, evenly spread: nobody picked the best ones."""
    names = sorted({group for group in shown.photo_groups if group is not None})
    if not names:
        return {"": spread(range(len(shown.fakes)), SHOWN_ALONE)}
    rows = {name: [i for i, group in enumerate(shown.photo_groups) if group == name] for name in names}
    rest = [i for i, group in enumerate(shown.photo_groups) if group is None]
    if rest:
        rows["no group"] = rest
    return {name: spread(found, SHOWN) for name, found in rows.items()}


def spread(items: Any, count: int) -> list[int]:
    items = list(items)
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def figure(pixels: NDArray[np.uint8], caption: str, alternative: str) -> str:
    """HTML of a picture (H, W, 3) with plain text below it; `alternative` stands where pictures do not."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image(pixels, alternative)}{below}</figure>"


def pair(left: NDArray[np.uint8], right: NDArray[np.uint8], caption: str, alternative: str) -> str:
    """Two pictures (S, S, 3) side by side, as one figure."""
    return figure(np.concatenate([left, right], 1), caption, alternative)


def image(pixels: NDArray[np.uint8], alternative: str) -> str:
    height, width = pixels.shape[:2]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=90, method=4)
    small = ' class="small"' if height < SMALL else ""
    data = data_uri(buffer.getvalue(), "image/webp")
    return (
        f'<img{small} width="{width}" height="{height}" alt="{escape(alternative)}" loading="lazy" '
        f'src="{data}">'
    )


def sheet(shown: Pictures, groups: dict[str, list[int]]) -> NDArray[np.uint8]:
    """All shown photos above their drawings, group after group, as one picture (H, W, 3) uint8; pictures of
    random numbers alone."""
    above = [shown.photos, shown.fakes] if len(shown.photos) else [shown.fakes]
    size = shown.fakes.shape[1]
    side = size * max(1, SMALL // size)
    gap, title = max(4, side // 16), 22
    lines = [
        (name if start == 0 else "", rows[start : start + SHOWN])
        for name, rows in groups.items()
        for start in range(0, len(rows), SHOWN)
    ]
    columns = max(len(rows) for _, rows in lines)
    deep = len(above) * (side + gap)
    height = gap + sum((title if name else 0) + deep for name, rows in lines)
    canvas = Image.new("RGB", (gap + columns * (side + gap), height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    y = gap
    for name, rows in lines:
        if name:
            draw.text((gap, y), name, fill=(90, 88, 82), font=font)
            y += title
        for column, i in enumerate(rows):
            for row, images in enumerate(above):
                picture = Image.fromarray(images[i]).resize((side, side), Image.Resampling.NEAREST)
                canvas.paste(picture, (gap + column * (side + gap), y + row * (side + gap // 2)))
        y += deep
    return np.asarray(canvas)

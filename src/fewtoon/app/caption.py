"""Words over and under a picture, white with a dark outline: for whoever wants to make a joke of it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewtoon.errors import Problem

LONGEST = 200  # characters above, and below
LINES = 4
SMALLEST = 10  # points, even if that takes more lines
SMALLEST_SIDE = 512  # pixels: smaller pictures are enlarged, so that words can be read


def captioned(picture: np.ndarray, above: str = "", below: str = "") -> np.ndarray:
    """An (H, W, 3) uint8 picture with words; the picture itself where there are none.

    Words are wrapped into at most four lines, as large as they fit; into more where they would become too small to
    read. A picture with a side below 512 pixels is enlarged by a whole factor, pixel by pixel. Raises Problem for more
    than 200 characters.
    """
    words = [" ".join(text.split()) for text in (above, below)]
    for text in words:
        if len(text) > LONGEST:
            raise Problem(f"a caption of {len(text)} characters: at most {LONGEST}")
    if not any(words):
        return picture
    factor = max(1, -(-SMALLEST_SIDE // min(picture.shape[:2])))
    image = Image.fromarray(picture.repeat(factor, 0).repeat(factor, 1))
    draw = ImageDraw.Draw(image)
    for text, at_top in zip(words, (True, False)):
        if text:
            _write(draw, image.size, text, at_top)
    return np.array(image)


def _write(draw: ImageDraw.ImageDraw, size: tuple[int, int], text: str, at_top: bool) -> None:
    width, height = size
    edge = round(height * 0.03)
    points = height // 9
    while True:
        font = ImageFont.load_default(points)
        lines = _wrapped(draw, text, font, width - 2 * edge)
        if len(lines) <= LINES or points <= SMALLEST:
            break
        points = max(SMALLEST, points * 9 // 10)
    line = points * 1.15
    top = edge if at_top else height - edge - line * len(lines)
    for number, one in enumerate(lines):
        place = (width / 2, top + line * (number + 0.5))
        stroke = max(1, points // 12)
        draw.text(place, one, "white", font, anchor="mm", stroke_width=stroke, stroke_fill="black")


def _wrapped(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> list[str]:
    """Lines that fit: words go whole onto the next one, unless a word alone is too long."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and draw.textlength(lines[-1] + letter, font) > width:
                lines.append("")
            lines[-1] += letter
    return lines

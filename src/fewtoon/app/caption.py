"""Words over and under a picture, white with a dark outline: for whoever wants to make a joke of it."""

from __future__ import annotations

import functools
import unicodedata
from contextlib import suppress

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewtoon.errors import Problem

LONGEST = 200  # characters above, and below
LINES = 4
SMALLEST = 10  # points, even if that takes more lines
SMALLEST_SIDE = 512  # pixels: smaller pictures are enlarged, so that words can be read
# What is asked for letters that Pillow's own font lacks: fonts of the systems that people have.
FONTS = (
    "NotoSans-Regular.ttf", "DejaVuSans.ttf", "segoeui.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc",
    "NanumGothic.ttf", "malgun.ttf", "AppleSDGothicNeo.ttc", "msyh.ttc", "PingFang.ttc", "YuGothM.ttc",
    "DroidSansFallbackFull.ttf", "wqy-zenhei.ttc", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "seguiemj.ttf",
)  # fmt: skip
JOINERS = "\u200c\u200d"  # not to be seen: how the letters beside them are written
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def captioned(picture: np.ndarray, above: str = "", below: str = "") -> np.ndarray:
    """An (H, W, 3) uint8 picture with words; the picture itself where there are none.

    Words are wrapped into at most four lines, as large as they fit; into more where they would become too small to
    read. A picture with a side below 512 pixels is enlarged by a whole factor, pixel by pixel. Raises Problem for more
    than 200 characters, and for letters that no font of this machine has.
    """
    words = [_readable(text) for text in (above, below)]
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
    points, name = height // 9, _font_for(text)
    while True:
        font = _font(name, points)
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


def _readable(text: str) -> str:
    """In one line, with accents joined to their letters, and without signs that only say how others are written."""
    letters = (" " if letter.isspace() else letter for letter in unicodedata.normalize("NFC", text))
    return " ".join("".join(letter for letter in letters if letter in JOINERS or not _unseen(letter)).split())


def _unseen(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf") or "\ufe00" <= letter <= "\ufe0f"


@functools.lru_cache(maxsize=64)
def _font_for(text: str) -> str | None:
    """The name of a font that has all letters; None: Pillow's own. Raises Problem where no font has them."""
    lacking = _lacking(text, None)
    if not lacking:
        return None
    for name in FONTS:
        with suppress(OSError):  # it is not on this machine
            if not _lacking(text, name):
                return name
    raise Problem(
        f"no font of this machine has {lacking[:20]!r}: leave it out of the caption, or install a font that has it"
    )


def _font(name: str | None, points: int) -> Font:
    return ImageFont.load_default(points) if name is None else ImageFont.truetype(name, points)


def _lacking(text: str, name: str | None) -> str:
    """The letters that a font draws as it draws what no font has. Raises OSError where there is no such font."""
    font = _font(name, 40)

    def shape(letter: str) -> tuple[tuple[int, int], bytes]:
        mask = font.getmask(letter)
        return mask.size, bytes(mask)

    nothing = shape("\U0010ffff")
    return "".join(one for one in dict.fromkeys(text) if one not in " " + JOINERS and shape(one) == nothing)


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> list[str]:
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

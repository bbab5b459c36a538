"""The artists of the drawn world: `flat` (clean outlines, flat colour) and `ink` (pen, hatching, washes).

Both paint on a sheet a few times as large as the picture, which is averaged down at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw

from fewtoon.data import world_face as shapes
from fewtoon.data.world_face import Colour, Face, Placement, Points
from fewtoon.errors import Problem, nearest

STYLES = ("flat", "ink")

PASTELS: dict[str, Colour] = {
    "sky": (190, 222, 246),
    "sage": (206, 228, 196),
    "sand": (246, 230, 196),
    "lilac": (222, 208, 244),
    "peach": (252, 214, 196),
    "slate": (198, 208, 222),
    "mint": (196, 238, 224),
    "wall": (236, 232, 226),
}
FLAT_HAIR: dict[str, Colour] = {
    "black": (48, 42, 58),
    "brown": (132, 82, 54),
    "blond": (250, 214, 120),
    "red": (226, 92, 50),
    "silver": (206, 212, 226),
    "blue": (74, 124, 224),
}
FLAT_SKIN: dict[str, Colour] = {
    "porcelain": (255, 236, 224),
    "light": (255, 220, 194),
    "olive": (240, 200, 160),
    "tan": (214, 164, 122),
    "brown": (172, 120, 86),
    "dark": (128, 86, 64),
}


class Sheet:
    """A large sheet of paper with a head's placement, and the strokes that both artists use."""

    def __init__(self, face: Face, size: int, ground: Colour, rng: np.random.Generator) -> None:
        self.factor = max(192 // size, 4 if size <= 128 else 3 if size <= 256 else 2)
        self.pixels = size * self.factor
        centre = (0.5 + rng.normal(0, 0.005), 0.495 + rng.normal(0, 0.005))
        self.place = Placement(face, self.pixels, centre, scale=float(rng.uniform(1.04, 1.08)))
        self.image = Image.new("RGB", (self.pixels, self.pixels), ground)
        self.draw = ImageDraw.Draw(self.image)

    def fill(self, points: ArrayLike, colour: Colour, depth: float = 0.0) -> None:
        self.draw.polygon(self.place(points, depth).ravel().tolist(), fill=colour)

    def outlined(self, points: Points, colour: Colour, ink: Colour, width: float, depth: float = 0.0) -> None:
        """A filled shape with a line of `width` around it."""
        pixels = self.place(points, depth)
        half = width * self.pixels / 2
        self.draw.polygon(shapes.offset(pixels, half).ravel().tolist(), fill=ink)
        self.draw.polygon(shapes.offset(pixels, -half).ravel().tolist(), fill=colour)

    def line(
        self,
        points: ArrayLike,
        ink: Colour,
        width: float,
        start: float = 1.0,
        end: float = 1.0,
        swell: float = 0.0,
        depth: float = 0.0,
    ) -> None:
        """A pen stroke through `points`."""
        curve = shapes.smooth(points, closed=False, steps=5)
        self.fill(shapes.stroke(curve, width, start, end, swell), ink, depth)

    def mask(self, *outlines: ArrayLike, depth: float = 0.0) -> Image.Image:
        """Where the outlines lie, as an "L" picture."""
        image = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(image)
        for points in outlines:
            draw.polygon(self.place(points, depth).ravel().tolist(), fill=255)
        return image

    def tint(self, colour: Colour, mask: Image.Image, opacity: float = 1.0) -> None:
        """Lay a wash of `colour` over the sheet where `mask` allows."""
        if opacity < 1:
            mask = mask.point(lambda v: int(v * opacity))
        self.image.paste(colour, mask=mask)

    def finish(self) -> NDArray[np.uint8]:
        return np.asarray(self.image.reduce(self.factor))


def drawing(face: Face, size: int, style: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A drawing of `face` by one of the artists in `STYLES`.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        Problem: the style is unknown.
    """
    if style == "flat":
        return _flat(face, size, rng)
    if style == "ink":
        return _ink(face, size, rng)
    raise Problem(f"unknown style of drawing {style!r}: {nearest(style, STYLES)}")


def _mix(a: Sequence[float], b: Sequence[float], share: float) -> Colour:
    r, g, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return (r, g, blue)


# ---- flat --------------------------------------------------------------------------------------------------


def _flat(face: Face, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    ground = PASTELS[face.background]
    sheet = Sheet(face, size, ground, rng)
    ink, pen = (46, 32, 44), 0.0125
    skin, hair = FLAT_SKIN[face.skin], FLAT_HAIR[face.hair_color]
    skin_shadow = _mix(skin, (170, 70, 90), 0.3)
    hair_shadow, hair_light = _mix(hair, (30, 10, 50), 0.32), _mix(hair, (255, 255, 255), 0.38)
    cloth = shapes.SHIRT_COLOURS[face.shirt_color]
    cloth = _mix(cloth, (255, 255, 255), 0.18)
    sheet.fill(shapes.ellipse(0, 0.0, 0.44, 0.44), _mix(ground, (255, 255, 255), 0.45))

    behind = shapes.hair_back(face)
    if behind is not None:
        sheet.outlined(behind, hair_shadow, ink, pen)
    sheet.outlined(shapes.neck(face), skin, ink, pen)
    sheet.tint(
        skin_shadow,
        ImageChops.multiply(
            sheet.mask(shapes.neck(face)), sheet.mask(shapes.head(face) * (0.9, 1) + (0, 0.05))
        ),
    )
    sheet.outlined(shapes.shirt(face), cloth, ink, pen)
    for ear in (shapes.ear(face), shapes.mirror(shapes.ear(face))):
        sheet.outlined(ear, skin, ink, pen, -0.03)
        sheet.fill(ear * 0.55 + 0.45 * ear.mean(axis=0), skin_shadow, -0.03)
    sheet.outlined(shapes.head(face), skin, ink, pen)
    inside = sheet.mask(shapes.offset(shapes.head(face), -pen / 2))
    shade = ImageChops.multiply(inside, sheet.mask(shapes.shift(shapes.hair_front(face), 0.012, 0.032)))
    sheet.tint(skin_shadow, shade)
    woman = face.gender == "woman"
    for sign in (1, -1):
        cheek = sheet.mask(shapes.ellipse(sign * 0.15, 0.125, 0.042, 0.024))
        sheet.tint(_mix(skin, (255, 90, 110), 0.55), cheek, 0.75 if woman else 0.3)

    if face.beard == "full":
        sheet.outlined(shapes.beard(face), hair, ink, pen * 0.7, 0.02)
    elif face.beard == "stubble":
        grey = _mix(skin, _mix(hair, (60, 50, 60), 0.6), 0.42)
        sheet.tint(grey, ImageChops.multiply(inside, sheet.mask(shapes.beard(face), depth=0.02)))

    nose = 0.02 * face.nose
    sheet.line(
        [(-nose * 0.2, 0.085), (nose, 0.116), (-nose * 0.5, 0.124)],
        _mix(skin, (110, 40, 50), 0.7),
        0.011,
        0.5,
        0.5,
        0.4,
        0.08,
    )
    _cartoon_mouth(sheet, face, ink, 0.012, lip=(206, 66, 84) if woman else _mix(skin, (150, 50, 50), 0.6))
    for sign in (1, -1):
        _cartoon_eye(sheet, face, sign, ink)

    front = shapes.hair_front(face)
    sheet.outlined(front, hair, ink, pen)
    within = sheet.mask(shapes.offset(front, -pen / 2))
    _strands(sheet, face, within, 0.13, hair_shadow)
    band = np.linspace(-0.19, 0.19, 25)
    arc = -0.265 + 0.5 * band**2
    zigzag = 0.012 * np.abs(((band * 30) % 2) - 1)
    shine = np.concatenate([np.stack([band, arc - 0.004], 1), np.stack([band, arc + 0.02 + zigzag], 1)[::-1]])
    sheet.tint(hair_light, ImageChops.multiply(within, sheet.mask(shine)))
    for sign in (1, -1):
        dark = _mix(hair_shadow, ink, 0.5)
        sheet.line(shapes.brow(face, 0.012)[::4] * (sign, 1), dark, 0.019 * face.brow, 0.9, 0.3, 0.2, 0.05)
    if face.glasses:
        _flat_glasses(sheet, face)
    return sheet.finish()


def _cartoon_eye(sheet: Sheet, face: Face, sign: int, ink: Colour) -> None:
    w, h = 0.06 * face.eye_size, 0.046 * face.eye_size
    if face.expression == "smile":
        h *= 0.92
    x, y = face.eye_spacing, 0.012
    woman = face.gender == "woman"

    def put(points: ArrayLike) -> Points:
        return shapes.shift(points, x, y) * (sign, 1)

    outline = shapes.smooth(
        [
            (-w, 0.1 * h),
            (-0.5 * w, -0.85 * h),
            (0.3 * w, -h),
            (w, -0.2 * h),
            (0.55 * w, 0.85 * h),
            (-0.5 * w, 0.85 * h),
        ]
    )
    sheet.fill(put(outline), (255, 255, 255), 0.05)
    white = sheet.mask(put(outline), depth=0.05)
    iris = _mix(shapes.EYE_COLOURS[face.eye_color], (255, 255, 255), 0.1)
    parts = (
        (shapes.ellipse(0, 0, 0.036, 0.043), _mix(iris, ink, 0.55)),
        (shapes.ellipse(0, 0.008, 0.028, 0.03), iris),
        (shapes.ellipse(0, 0, 0.016, 0.022), ink),
    )
    for disc, colour in parts:
        sheet.tint(colour, ImageChops.multiply(white, sheet.mask(put(disc * face.eye_size), depth=0.05)))
    sheet.fill(put(shapes.ellipse(-0.012 * sign, -0.016, 0.0105, 0.0125)), (255, 255, 255), 0.05)
    lid = [(-w, 0.12 * h), (-0.5 * w, -0.85 * h), (0.3 * w, -h), (w, -0.15 * h)]
    if woman:
        lid.append((1.28 * w, -0.5 * h))
    sheet.line(put(lid), ink, 0.021 if woman else 0.016, 0.5, 0.7, 0.45, 0.05)
    sheet.line(
        put([(0.8 * w, 0.5 * h), (0.3 * w, 0.95 * h), (-0.4 * w, 0.9 * h)]), ink, 0.006, 1, 0.5, 0, 0.05
    )


def _cartoon_mouth(sheet: Sheet, face: Face, ink: Colour, pen: float, lip: Colour | None) -> None:
    y = 0.198

    def put(points: ArrayLike) -> Points:
        return shapes.shift(points, 0, y)

    if face.expression == "smile":
        inside = shapes.smooth(
            [(-0.085, -0.018), (0, 0.0), (0.085, -0.018), (0.05, 0.028), (0, 0.038), (-0.05, 0.028)]
        )
        sheet.outlined(put(inside), (150, 40, 56), ink, pen, 0.06)
        teeth = ImageChops.multiply(
            sheet.mask(put(inside), depth=0.06),
            sheet.mask(put(shapes.ellipse(0, -0.016, 0.08, 0.027)), depth=0.06),
        )
        sheet.tint((255, 255, 255), teeth)
        sheet.line(put([(-0.088, -0.019), (0, 0.0), (0.088, -0.019)]), ink, pen, 0.8, 0.8, 0.1, 0.06)
    elif face.expression == "open":
        hole = shapes.ellipse(0, 0.012, 0.046, 0.044)
        sheet.outlined(put(hole), (130, 34, 50), ink, pen, 0.06)
        tongue = ImageChops.multiply(
            sheet.mask(put(hole), depth=0.06),
            sheet.mask(put(shapes.ellipse(0, 0.05, 0.04, 0.026)), depth=0.06),
        )
        sheet.tint((232, 110, 118), tongue)
    else:
        bend = 0.02 if face.expression == "sad" else -0.002
        w = 0.056 if face.expression == "sad" else 0.062
        if lip is not None:
            sheet.fill(put(shapes.ellipse(0, 0.008, 0.75 * w, 0.017)), lip, 0.06)
        sheet.line(put([(-w, bend), (0, 0), (w, bend)]), ink, pen, 0.8, 0.8, 0.3, 0.06)


def _spectacles(face: Face) -> tuple[list[Points], list[Points]]:
    """The right and left lens, and bridge and temples as open lines."""
    right = shapes.lens(face)
    inner, outer = float(right[:, 0].min()), float(right[:, 0].max())
    temple = np.array([(outer, -0.012), (face.width - 0.008, -0.01)])
    arch = np.array([(-inner - 0.002, 0.0), (0, -0.014), (inner + 0.002, 0.0)])
    return [right, shapes.mirror(right)], [arch, temple, shapes.mirror(temple)]


def _flat_glasses(sheet: Sheet, face: Face) -> None:
    colour = shapes.FRAME_COLOURS[face.frame_color]
    lenses, lines = _spectacles(face)
    glass = sheet.mask(*lenses, depth=0.07)
    sheet.tint((214, 238, 255), glass, 0.32)
    for pane in lenses:
        x0, w = pane[:, 0].min(), np.ptp(pane[:, 0])
        glare = [(x0 + 0.08 * w, 0.03), (x0 + 0.42 * w, -0.08), (x0 + 0.62 * w, -0.08), (x0 + 0.22 * w, 0.05)]
        sheet.tint((255, 255, 255), ImageChops.multiply(glass, sheet.mask(glare, depth=0.07)), 0.6)
    _frames(sheet, lenses, lines, colour, 0.021)


def _frames(sheet: Sheet, lenses: list[Points], lines: list[Points], colour: Colour, width: float) -> None:
    rim = sheet.mask(*[shapes.offset(p, width / 2) for p in lenses], depth=0.07)
    hole = sheet.mask(*[shapes.offset(p, -width / 2) for p in lenses], depth=0.07)
    sheet.tint(colour, ImageChops.subtract(rim, hole))
    for line in lines:
        sheet.line(line, colour, width * 0.8, depth=0.07)


# ---- ink ---------------------------------------------------------------------------------------------------

INK: Colour = (26, 22, 30)
PAPER: Colour = (246, 240, 226)
# Hair in ink: the wash, and how far apart the strokes over it are.
INK_HAIR: dict[str, tuple[Colour, float]] = {
    "black": ((44, 38, 48), 0.09),
    "brown": ((150, 104, 72), 0.036),
    "blond": ((250, 216, 110), 0.085),
    "red": ((226, 96, 56), 0.058),
    "silver": ((226, 226, 228), 0.062),
    "blue": ((96, 146, 226), 0.06),
}


def _ink(face: Face, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    sheet = Sheet(face, size, PAPER, rng)
    pen = 0.012
    wobble = rng.normal(0, 1, (64, 2))

    def hand(points: Points, amount: float = 0.0016) -> Points:
        """The same outline by a hand that is not a machine."""
        t = np.linspace(0, 64, len(points), endpoint=False)
        xs = np.arange(65)
        shake = np.stack([np.interp(t, xs, np.append(wobble[:, k], wobble[0, k])) for k in (0, 1)], 1)
        return points + amount * shake

    skin = _mix(PAPER, FLAT_SKIN[face.skin], 0.75)
    wash, gap = INK_HAIR[face.hair_color]
    dark_hair = face.hair_color == "black"
    strand = (150, 146, 160) if dark_hair else INK
    accent = _mix(PAPER, PASTELS[face.background], 0.8)
    spot = shapes.ellipse(0.06 * face.parting, 0.02, 0.43, 0.4)
    sheet.fill(hand(spot, 0.006), accent)

    front, behind = hand(shapes.hair_front(face)), shapes.hair_back(face)
    if behind is not None:
        back = hand(behind)
        sheet.outlined(back, _mix(wash, INK, 0.12), INK, pen)
        _strands(sheet, face, sheet.mask(back), gap, strand)
    neck = hand(shapes.neck(face))
    sheet.outlined(neck, skin, INK, pen)
    shadow = ImageChops.multiply(sheet.mask(neck), sheet.mask(shapes.head(face) * (0.9, 1) + (0, 0.055)))
    _hatch(sheet, shadow, 0.024, 0.009, 0.6)
    shirt = hand(shapes.shirt(face))
    tone = sum(shapes.SHIRT_COLOURS[face.shirt_color]) / 765
    sheet.outlined(shirt, PAPER if tone > 0.3 else INK, INK, pen)
    if 0.3 < tone < 0.8:
        _hatch(sheet, sheet.mask(shirt), 0.03, 0.011, -0.7)
    for ear in (shapes.ear(face), shapes.mirror(shapes.ear(face))):
        sheet.outlined(ear, skin, INK, pen, -0.03)
    outline = hand(shapes.head(face))
    sheet.outlined(outline, skin, INK, pen)
    inside = sheet.mask(shapes.offset(outline, -pen / 2))
    far = ImageChops.subtract(
        inside, sheet.mask(shapes.head(face) * 0.97 - (0.05 * np.sign(face.parting), 0.03))
    )
    _hatch(sheet, far, 0.022, 0.007, 0.8)
    woman = face.gender == "woman"
    if woman:
        for sign in (1, -1):
            sheet.tint((238, 120, 110), sheet.mask(shapes.ellipse(sign * 0.15, 0.125, 0.04, 0.024)), 0.45)

    if face.beard == "full":
        sheet.outlined(hand(shapes.beard(face), 0.003), wash, INK, pen * 0.8, 0.02)
        whiskers = sheet.mask(shapes.beard(face), depth=0.02)
        _hatch(sheet, whiskers, 0.022, 0.008, 1.45, (120, 112, 120) if dark_hair else INK)
    elif face.beard == "stubble":
        region = ImageChops.multiply(inside, sheet.mask(shapes.beard(face), depth=0.02))
        _hatch(sheet, region, 0.02, 0.007, 1.2)

    nose = 0.024 * face.nose
    sheet.line([(nose * 0.2, 0.05), (nose, 0.112), (-nose * 0.5, 0.124)], INK, 0.01, 0.3, 0.7, 0.3, 0.08)
    _cartoon_mouth(sheet, face, INK, 0.013, lip=(206, 60, 66) if woman else None)
    for sign in (1, -1):
        _ink_eye(sheet, face, sign)
    # The wash does not quite keep to the lines.
    sheet.outlined(front, PAPER, INK, pen)
    within = sheet.mask(shapes.offset(front, -pen / 2))
    sheet.tint(
        wash,
        within if dark_hair else ImageChops.multiply(within, sheet.mask(shapes.shift(front, 0.006, -0.005))),
    )
    _strands(sheet, face, within, gap, strand)
    for sign in (1, -1):
        sheet.line(shapes.brow(face, 0.008)[::4] * (sign, 1), INK, 0.018 * face.brow, 0.9, 0.2, 0.3, 0.05)
    if face.glasses:
        lenses, lines = _spectacles(face)
        glass = sheet.mask(*lenses, depth=0.07)
        sheet.tint((255, 255, 255), glass, 0.3)
        _frames(sheet, [hand(p, 0.0007) for p in lenses], lines, INK, 0.022)
        for pane in lenses:
            x, w = float(pane[:, 0].min()), float(np.ptp(pane[:, 0]))
            for k in (0.2, 0.34):
                sheet.line(
                    [(x + k * w, 0.022), (x + (k + 0.16) * w, -0.026)], (255, 255, 255), 0.009, depth=0.07
                )
    return sheet.finish()


def _ink_eye(sheet: Sheet, face: Face, sign: int) -> None:
    w, h = 0.055 * face.eye_size, 0.034 * face.eye_size
    woman = face.gender == "woman"

    def put(points: ArrayLike) -> Points:
        return shapes.shift(points, face.eye_spacing, 0.006) * (sign, 1)

    outline = shapes.smooth(
        [
            (-w, 0.004),
            (-0.4 * w, -0.9 * h),
            (0.3 * w, -h),
            (w, -0.004),
            (0.4 * w, 0.85 * h),
            (-0.4 * w, 0.85 * h),
        ]
    )
    sheet.fill(put(outline), (255, 253, 246), 0.05)
    white = sheet.mask(put(outline), depth=0.05)
    iris = ImageChops.multiply(white, sheet.mask(put(shapes.ellipse(0, 0, 0.0265, 0.031)), depth=0.05))
    sheet.tint(INK, iris)
    sheet.fill(put(shapes.ellipse(-0.01 * sign, -0.011, 0.009, 0.01)), (255, 255, 255), 0.05)
    lid = [(-w, 0.006), (-0.4 * w, -0.9 * h), (0.3 * w, -h), (w, -0.006)]
    if woman:
        lid.append((1.3 * w, -0.5 * h))
        sheet.line(put([(0.75 * w, -0.7 * h), (1.1 * w, -1.3 * h)]), INK, 0.01, 1, 0.3, 0, 0.05)
    sheet.line(put(lid), INK, 0.018 if woman else 0.014, 0.5, 0.6, 0.5, 0.05)
    sheet.line(put([(0.6 * w, 0.75 * h), (-0.3 * w, 0.95 * h)]), INK, 0.006, 1, 0.4, 0, 0.05)


def _hatch(
    sheet: Sheet, mask: Image.Image, step: float, width: float, angle: float, ink: Colour = INK
) -> None:
    """Parallel lines `step` apart, in sides of the picture, where `mask` allows."""
    lines = Image.new("L", sheet.image.size)
    draw = ImageDraw.Draw(lines)
    n = sheet.pixels
    along = np.array([np.cos(angle), np.sin(angle)]) * n
    across = np.array([-np.sin(angle), np.cos(angle)]) * n
    pen = max(1, round(width * n))
    for k in np.arange(-0.72, 0.72, step):
        a, b = n / 2 + across * k - along, n / 2 + across * k + along
        draw.line((*a, *b), fill=255, width=pen)
    sheet.tint(ink, ImageChops.multiply(lines, mask))


def _strands(sheet: Sheet, face: Face, mask: Image.Image, gap: float, ink: Colour) -> None:
    """Pen strokes along the fall of the hair, about `gap` apart; light ones are short, like a shine."""
    start = 0.1 * face.parting if face.hair_shape in ("side", "parted") else 0.0
    lines = Image.new("L", sheet.image.size)
    draw = ImageDraw.Draw(lines)
    y = np.linspace(-0.4, 0.5, 16)
    y = y[4:8] if sum(ink) > 400 and gap > 0.08 else y
    for k, q in enumerate(np.arange(gap / 2, 0.63, gap)):
        for sign in (1, -1):
            x = start + sign * q * (y + 0.42) ** 0.35
            if face.hair_shape == "curly":
                x = x + 0.012 * np.sin(y * 60 + q * 20)
            # Every second stroke stops early: hair that is drawn from end to end looks like a comb.
            curve = np.stack([x, y], axis=1)[: None if k % 2 else 10]
            draw.polygon(sheet.place(shapes.stroke(curve, 0.009, 0.6, 1.0)).ravel().tolist(), fill=255)
    sheet.tint(ink, ImageChops.multiply(lines, mask))

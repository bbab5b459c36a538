"""The photographer of the drawn world: a face becomes a small shaded, textured, noisy portrait.

The head is a height field (half an ellipsoid with nose, sockets, cheeks and lips as Gaussian bumps); its
normals are lit by one soft key light with wrapped Lambert shading and a Blinn highlight. Hair takes its
strands from a one-dimensional noise that runs along the fall of the hair. All of it is painted on a grid of
up to four times as many pixels, which is averaged down to the size asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from fewtoon.data import world_face as shapes
from fewtoon.data.world_face import Face, Placement, Points

Plane = NDArray[np.floating]  # float32 (n, n), or (n, n, 3) for colours
Window = tuple[slice, slice]


class Canvas:
    """A picture under way: colours in 0 .. 1 and the means to lay soft-edged shapes over it."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.colour: Plane = np.zeros((pixels, pixels, 3), np.float32)

    def mask(
        self, *outlines: Points, soft: float = 0.004, holes: tuple[Points, ...] = ()
    ) -> tuple[Window, Plane]:
        """How much each pixel is covered, 0 .. 1, within the smallest window that holds it all.

        `outlines` and `holes` are in pixels; `soft` is the blur of the edge, in sides of the picture.
        """
        radius = soft * self.pixels
        pad = int(3 * radius) + 2
        corners = np.concatenate(outlines)
        x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - pad, 0, self.pixels - 1)
        x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + pad, 1, self.pixels)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        fine = (
            3 if (x1 - x0) * (y1 - y0) < self.pixels**2 / 4 else 2
        )  # sub-pixels per side: more for small parts
        image = Image.new("L", ((x1 - x0) * fine, (y1 - y0) * fine))
        draw = ImageDraw.Draw(image)
        for points, value in [(p, 255) for p in outlines] + [(p, 0) for p in holes]:
            draw.polygon(((points - (x0, y0)) * fine).ravel().tolist(), fill=value)
        image = image.reduce(fine)
        if radius > 0.3:
            image = image.filter(ImageFilter.GaussianBlur(radius))
        return (slice(y0, y1), slice(x0, x1)), np.asarray(image, np.float32) / 255

    def lay(self, colour: ArrayLike, shape: tuple[Window, Plane], opacity: float | Plane = 1.0) -> None:
        """Lay `colour` ((3,) or a whole (n, n, 3) plane) over the picture where `shape` covers it."""
        window, cover = shape
        paint = np.asarray(colour, np.float32)
        if paint.ndim == 3:
            paint = paint[window]
        strength = opacity[window] if isinstance(opacity, np.ndarray) else opacity
        under = self.colour[window]
        under += (paint - under) * (cover * strength)[..., None]

    def shade(self, factor: ArrayLike, shape: tuple[Window, Plane]) -> None:
        """Multiply the picture by `factor` ((3,)) where `shape` covers it."""
        window, cover = shape
        self.colour[window] *= 1 + (np.asarray(factor, np.float32) - 1) * cover[..., None]

    def whole(self, shape: tuple[Window, Plane]) -> Plane:
        """The cover of a shape for the whole picture, (n, n)."""
        plane: Plane = np.zeros((self.pixels, self.pixels), np.float32)
        plane[shape[0]] = shape[1]
        return plane


def photo(face: Face, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A photo-like portrait of `face`.

    Pose, light, background and noise come from `rng`; the same face and the same state of `rng` give the same
    picture, and glasses change nothing but the region around the eyes.

    Returns:
        (size, size, 3) uint8, RGB.
    """
    n = size * (4 if size <= 32 else 2 if size <= 128 else 1)
    # Draws that decide what the picture shows come before the first whose number depends on the size.
    centre = (0.5 + rng.normal(0, 0.008), 0.495 + rng.normal(0, 0.008))
    place = Placement(face, n, centre, scale=float(rng.uniform(1.02, 1.1)))
    side = float(rng.choice([-1.0, 1.0]))
    light = np.array([side * rng.uniform(0.25, 0.75), -rng.uniform(0.35, 0.75), 0.8])
    light /= np.linalg.norm(light)
    warm = rng.normal(0, 0.045)
    cast = np.array([1 + warm, 1.0, 1 - warm], np.float32)
    ambient, key = rng.uniform(0.44, 0.56), rng.uniform(0.58, 0.72)
    exposure, gain = rng.uniform(0.94, 1.06), rng.uniform(0.004, 0.015)
    focus = rng.uniform(0.0015, 0.0045)
    gaze = np.clip(rng.normal(0, 0.004, 2), -0.008, 0.008)
    strands = rng.standard_normal(1024).astype(np.float32)
    blotches = rng.standard_normal((12, 12)).astype(np.float32)

    canvas = Canvas(n)
    x, y = place.grid()
    _background(canvas, face, rng)
    grain: Plane = rng.standard_normal((n, n), np.float32)

    skin = np.array(shapes.SKINS[face.skin], np.float32) / 255
    hair = np.array(shapes.HAIR_COLOURS[face.hair_color], np.float32) / 255
    hair_plane, loose = _hair_colours(face, hair, x, y, light, ambient, key, strands)
    head_shape = canvas.mask(place(shapes.head(face)), soft=0.004)

    behind = shapes.hair_back(face)
    if behind is not None:
        back = _frayed(canvas.mask(place(behind), soft=0.012), loose)
        depth = 0.5 + 0.5 * np.clip((abs(x) - 0.12) / (face.width - 0.06), 0, 1)
        canvas.lay(hair_plane * depth[..., None], back)

    # Neck and shirt: cylinders, in the shadow of the head.
    lit_neck = ambient + key * np.clip(0.55 + 0.45 * light[0] * x / 0.12, 0, 1) * 0.85
    canvas.lay(_lit(skin, lit_neck), canvas.mask(place(shapes.neck(face))))
    cloth = np.array(shapes.SHIRT_COLOURS[face.shirt_color], np.float32) / 255
    folds = 0.06 * np.sin(x * 26 + 9 * y + strands[0]) * np.sin(17 * x - 30 * y + strands[1])
    lit_cloth = ambient + key * np.clip(0.6 + light[0] * x, 0, 1) * 0.85 + folds + 0.02 * grain
    canvas.lay(cloth * np.clip(lit_cloth, 0, 1.2)[..., None], canvas.mask(place(shapes.shirt(face))))
    under_chin = shapes.head(face) * (0.86, 1) + (-0.02 * light[0], 0.05)
    canvas.shade((0.62, 0.54, 0.52), canvas.mask(place(under_chin), soft=0.016))

    # Skin.
    normal = _face_normals(face, x - 0.3 * face.yaw * 0.05, y)
    lit = np.clip((normal @ light.astype(np.float32) + 0.3) / 1.3, 0, 1)
    blush = np.exp(-(((abs(x) - 0.13) / 0.05) ** 2) - ((y - 0.105) / 0.04) ** 2)
    tone = skin * (1 - blush[..., None] * np.array([0.0, 0.11, 0.09], np.float32))
    tone = tone * (1 + 0.02 * _enlarge(blotches, n)[..., None] * np.array([0.3, 1, 1], np.float32))
    half = light + np.array((0, 0, 1))
    shine = np.clip(normal @ (half / np.linalg.norm(half)).astype(np.float32), 0, 1) ** 26
    flesh = (
        _lit(tone, ambient + key * lit + 0.012 * grain)
        + 0.16 * (shine * (0.6 + 0.4 * skin.mean()))[..., None]
    )
    for ear in (shapes.ear(face), shapes.mirror(shapes.ear(face))):
        canvas.lay(flesh * 0.9, canvas.mask(place(ear, -0.03)))
        inner = ear * 0.6 + 0.4 * ear.mean(axis=0)
        canvas.shade((0.8, 0.68, 0.64), canvas.mask(place(inner, -0.03), soft=0.008))
    canvas.lay(flesh, head_shape)
    nostril = shapes.ellipse(0.02 * face.nose, 0.128, 0.009, 0.0045)
    for points in (nostril, shapes.mirror(nostril)):
        canvas.shade((0.5, 0.4, 0.38), canvas.mask(place(points, 0.08), soft=0.004))

    if face.beard != "none":
        region = canvas.mask(place(shapes.beard(face), 0.02), soft=0.012)
        whiskers = hair * 0.8 if face.hair_color != "blue" else hair * 0.6
        speckle = 0.82 + 0.22 * np.clip(grain, -2, 2)
        shaded = (0.45 + 0.55 * lit) * (0.9 + 0.16 * np.clip(grain, -2, 2))
        if face.beard == "full":
            canvas.lay(_lit(whiskers, shaded) + 0.03, region, 0.95)
        else:
            dark = np.minimum(whiskers, skin * 0.45)
            canvas.lay(np.broadcast_to(dark, flesh.shape), region, 0.42 * speckle)
    _mouth(canvas, face, place, skin)

    # The hair throws a shadow away from the light.
    shadow = shapes.shift(shapes.hair_front(face), -0.025 * light[0], 0.03)
    window, cover = canvas.mask(place(shadow), soft=0.014)
    canvas.shade((0.72, 0.62, 0.6), (window, cover * canvas.whole(head_shape)[window]))
    for right in (True, False):
        _eye(canvas, face, place, right, gaze, skin, hair)
    canvas.lay(hair_plane, _frayed(canvas.mask(place(shapes.hair_front(face)), soft=0.011), loose))
    if face.glasses:
        _glasses(canvas, face, place, light)

    # Camera: vignette, colour cast, soft highlights, focus, sensor noise.
    radius = ((np.arange(n) + 0.5) / n - 0.5) ** 2
    vignette = 1 - 0.35 * (radius[:, None] + radius[None, :])
    developed = canvas.colour * (vignette[..., None] * exposure * cast).astype(np.float32)
    glare = np.maximum(developed - 0.7, 0)
    developed += glare * (0.3 / (0.3 + glare) - 1)  # highlights roll off instead of burning out
    image = Image.fromarray(np.rint(np.clip(developed, 0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(focus * n))
    if n != size:
        image = image.reduce(n // size)
    noise = rng.standard_normal((size, size, 3), np.float32)
    noise = 0.5 * noise + 0.8 * noise.mean(axis=2, keepdims=True)
    return np.clip(np.rint(np.asarray(image, np.float32) + 255 * gain * noise), 0, 255).astype(np.uint8)


def _lit(colour: Plane, light: Plane) -> Plane:
    """Skin under light: its shadows stay red, because light that entered the skin comes out red."""
    light = np.clip(light, 0.02, 1.3)[..., None]
    return colour * light ** np.array([0.85, 1.05, 1.15], np.float32)


def _frayed(shape: tuple[Window, Plane], loose: Plane) -> tuple[Window, Plane]:
    """The cover of a mass of hair, its blurred edge broken up into strands."""
    window, cover = shape
    return window, np.clip(3 * (cover - 0.5) + 0.5 + 0.5 * loose[window], 0, 1) * np.clip(6 * cover, 0, 1)


def _enlarge(values: Plane, n: int) -> Plane:
    """A coarse plane, smoothly enlarged to (n, n)."""
    return np.asarray(Image.fromarray(values).resize((n, n), Image.Resampling.BICUBIC))


def _background(canvas: Canvas, face: Face, rng: np.random.Generator) -> None:
    """A gradient with a few shapes out of focus."""
    base = np.array(shapes.BACKGROUNDS[face.background], np.float32) / 255
    n, small = canvas.pixels, 64
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, small)
    ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    plane = np.clip(base * (1 + rng.uniform(0.2, 0.7) * ramp[..., None]), 0, 1)
    image = Image.fromarray((plane * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 7))):
        x, y, w, h = rng.uniform((-10, -10, 6, 6), (64, 64, 26, 40))
        colour = np.clip(base * rng.uniform(0.55, 1.4) + rng.normal(0, 0.06, 3), 0, 1)
        fill = tuple(int(c) for c in colour * 255)
        (draw.ellipse if rng.random() < 0.6 else draw.rectangle)((x, y, x + w, y + h), fill=fill)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(2, 6))))
    canvas.colour = np.asarray(image.resize((n, n), Image.Resampling.BICUBIC), np.float32) / 255


def _face_normals(face: Face, x: Plane, y: Plane) -> Plane:
    """Unit normals (n, n, 3) of the head: half an ellipsoid with bumps (x, y, width, height, rise)."""
    z = 0.26 * np.sqrt(np.clip(1 - (x / (face.width * 1.06)) ** 2 - (y / 0.37) ** 2, 0.01, 1))
    e, size = face.eye_spacing, face.nose
    aside = abs(x)  # the face is symmetric: one bump serves both sides
    for middle, height, wide, high, rise in (
        (0.0, 0.045, 0.016 * size, 0.05, 0.02 * size),  # bridge of the nose
        (0.0, 0.108, 0.024 * size, 0.022, 0.034 * size),  # its tip
        (0.028 * size, 0.116, 0.012, 0.012, 0.01 * size),  # its wings
        (e, -0.004, 0.05, 0.028, -0.02),  # eye sockets
        (e, -0.07, 0.055, 0.016, 0.006),  # brow ridge
        (0.14, 0.1, 0.05, 0.04, 0.012),  # cheeks
        (0.0, 0.193, 0.05, 0.014, 0.01),  # lips
        (0.0, 0.232, 0.05, 0.012, -0.008),  # the hollow below them
        (0.0, 0.278, 0.045, 0.026, 0.014),  # chin
    ):
        z += rise * np.exp(-0.5 * (((aside - middle) / wide) ** 2 + ((y - height) / high) ** 2))
    # Slopes along the rows and columns of the picture; the small tilt of the head is left to the light.
    n = len(z)
    dy, dx = np.gradient(z, np.float32(1 / n))
    normal = np.stack([-dx, -dy, np.ones_like(z)], axis=-1)
    return normal / np.sqrt((normal * normal).sum(-1, keepdims=True))


def _hair_colours(
    face: Face, hair: Plane, x: Plane, y: Plane, light: NDArray, ambient: float, key: float, strands: Plane
) -> tuple[Plane, Plane]:
    """Colours (n, n, 3) of hair, were it everywhere, and how its strands stand out (n, n), about -1 .. 1.

    Strands fall from the parting, and a band of shine lies across them.
    """
    start = 0.1 * face.parting if face.hair_shape in ("side", "parted") else 0.0
    fall = (x - start) / np.clip(y + 0.42, 0.03, None) ** 0.35
    if face.hair_shape == "curly":
        fall = fall + 0.035 * np.sin(y * 70 + 6 * np.sin(x * 30))
    fine = strands[(fall * 260).astype(np.int32) & 1023]
    coarse = np.convolve(np.tile(strands, 2), np.ones(5) / 5, "same").astype(np.float32)[:1024]
    coarse = coarse[(fall * 150 + 300).astype(np.int32) & 1023]
    nx, ny = x / 0.33, (y + 0.02) / 0.42
    nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0.04, 1))
    lit = np.clip((nx * light[0] + ny * light[1] + nz * light[2] + 0.25) / 1.25, 0, 1)
    band = np.exp(-(((ny + 0.42 + 0.08 * coarse - 0.25 * nx * light[0]) / 0.13) ** 2)) * nz * nz
    tone = (ambient + key * lit) * (1 + 0.1 * np.clip(fine, -2, 2) + 0.2 * np.clip(coarse, -1.2, 1.2))
    shine = (0.1 + 0.22 * hair.mean()) * band * (1 + 0.4 * fine)
    warm = np.array([0.94, 1.0, 1.08], np.float32)
    out = hair * np.clip(tone, 0.05, None)[..., None] ** warm + shine[..., None] * (0.5 + 0.5 * hair)
    return np.clip(out, 0, 1.2).astype(np.float32), 0.7 * coarse + 0.3 * fine


def _eye(
    canvas: Canvas,
    face: Face,
    place: Placement,
    right: bool,
    gaze: NDArray,
    skin: Plane,
    hair: Plane,
) -> None:
    w, h = 0.05 * face.eye_size, 0.0225 * face.eye_size
    if face.expression == "smile":
        h *= 0.86
    elif face.expression == "open":
        h *= 1.15
    sign = 1 if right else -1
    outline = shapes.smooth(
        [
            (-w, 0.005),
            (-0.45 * w, -0.85 * h),
            (0.25 * w, -h),
            (w, -0.003),
            (0.35 * w, 0.8 * h),
            (-0.45 * w, 0.75 * h),
        ]
    )

    def put(points: ArrayLike) -> Points:
        return place(shapes.shift(points, face.eye_spacing, 0) * (sign, 1), 0.05)

    woman = face.gender == "woman"
    canvas.shade((0.78, 0.68, 0.66), canvas.mask(put(outline * (1.15, 1.5) + (0, -0.006)), soft=0.01))
    white = canvas.mask(put(outline), soft=0.0025)
    canvas.lay((0.9, 0.88, 0.86), white)
    window, cover = white
    look = (gaze[0] * sign, gaze[1] - 0.002)
    iris = np.array(shapes.EYE_COLOURS[face.eye_color], np.float32) / 255
    for radius, colour in ((0.0245, iris * 0.55), (0.02, iris * 1.1), (0.0105, (0.04, 0.03, 0.03))):
        disc = shapes.ellipse(*look, radius * face.eye_size, radius * face.eye_size)
        canvas.lay(colour, (window, canvas.whole(canvas.mask(put(disc), soft=0.002))[window] * cover))
    glint = shapes.ellipse(look[0] - 0.007 * sign, look[1] - 0.008, 0.0052, 0.0052, n=12)
    canvas.lay((1, 1, 1), canvas.mask(put(glint), soft=0.0015), 0.9)
    lid = shapes.smooth([(-w, 0.005), (-0.45 * w, -0.85 * h), (0.25 * w, -h), (w, -0.003)], closed=False)
    if woman:  # lashes
        lid = np.concatenate([lid, [(w * 1.18, -0.01)]])
    dark = (0.09, 0.06, 0.06) if woman else skin * 0.28
    canvas.lay(
        dark, canvas.mask(put(shapes.stroke(lid, 0.014 if woman else 0.009, 0.6, 0.9, 0.3)), soft=0.002)
    )
    crease = lid[:-1] * (1.05, 1) + (0, -0.013)
    canvas.shade((0.72, 0.6, 0.58), canvas.mask(put(shapes.stroke(crease, 0.006)), soft=0.003))
    hue = (
        np.minimum(hair * 0.62, skin * 0.55) if face.hair_color in ("blond", "silver", "blue") else hair * 0.7
    )
    arch = shapes.stroke(shapes.brow(face), 0.021 * face.brow, 0.8, 0.3, 0.3)
    canvas.lay(hue, canvas.mask(place(arch * (sign, 1), 0.05), soft=0.004), 0.9)


def _mouth(canvas: Canvas, face: Face, place: Placement, skin: Plane) -> None:
    woman = face.gender == "woman"
    lip = skin * np.array([0.86, 0.52, 0.52]) if woman else skin * np.array([0.84, 0.64, 0.6])
    if woman:
        lip = 0.7 * lip + 0.3 * np.array([0.72, 0.16, 0.22])
    thick = 1.15 if woman else 0.85
    w, corner, gap = {
        "smile": (0.088, -0.02, 0.017),
        "neutral": (0.068, 0.0, 0.0),
        "open": (0.05, 0.0, 0.034),
        "sad": (0.064, 0.014, 0.0),
    }[face.expression]
    y = 0.19

    def shape(points: ArrayLike, soft: float = 0.003) -> tuple[Window, Plane]:
        return canvas.mask(place(shapes.shift(points, 0, y), 0.06), soft=soft)

    top, bottom = -0.018 * thick - 0.4 * gap, 0.022 * thick + 0.9 * gap
    half = [(0.0, top + 0.004), (0.3 * w, top), (w, corner), (0.45 * w, bottom * 0.88), (0.0, bottom)]
    outline = shapes.smooth(shapes.both_sides(half[1:-1]))
    canvas.lay(lip, shape(outline))
    canvas.shade((1.12, 1.1, 1.1), shape(shapes.ellipse(0, bottom * 0.72, 0.5 * w, 0.006), 0.005))
    if gap:
        inside = shapes.smooth(
            shapes.both_sides(
                [(0.3 * w, -0.4 * gap - 0.001), (0.84 * w, 0.8 * corner), (0.42 * w, 0.85 * gap)]
            )
        )
        hole = shape(inside, 0.002)
        canvas.lay((0.24, 0.07, 0.08), hole)
        teeth = inside * (1.0, 0.8) if face.expression == "smile" else inside * (0.8, 0.42) + (0, -0.1 * gap)
        window, cover = shape(teeth, 0.002)
        canvas.lay((0.93, 0.91, 0.88), (window, cover * canvas.whole(hole)[window]))
    else:
        line = shapes.smooth(
            [(-w, corner), (-0.4 * w, 0.1 * corner), (0.4 * w, 0.1 * corner), (w, corner)], False
        )
        canvas.lay(lip * 0.42, shape(shapes.stroke(line, 0.006, 1, 1, 0.4), 0.002))


def _glasses(canvas: Canvas, face: Face, place: Placement, light: NDArray) -> None:
    """Frame, bridge, temples, tinted lenses with a reflection, and the shadow of it all."""
    colour = np.array(shapes.FRAME_COLOURS[face.frame_color], np.float32) / 255
    rim = 0.0175
    right = shapes.lens(face)
    left = shapes.mirror(right)
    inner = float(right[:, 0].min())
    outer = float(right[:, 0].max())
    arch = shapes.smooth([(-inner - 0.004, 0.0), (0, -0.014), (inner + 0.004, 0.0)], closed=False)
    bridge = shapes.stroke(arch, 0.013)
    temple = np.array(
        [(outer - 0.004, -0.022), (face.width - 0.01, -0.016), (face.width - 0.01, 0.0), (outer, 0.0)]
    )

    def put(points: Points, shift: float = 0.0) -> Points:
        return place(shapes.shift(points, -0.3 * shift * light[0], shift), 0.07)

    rims = [shapes.offset(p, rim / 2) for p in (right, left)]
    holes = [shapes.offset(p, -rim / 2) for p in (right, left)]
    parts = [*rims, bridge, temple, shapes.mirror(temple)]
    shadow = canvas.mask(
        *[put(p, 0.016) for p in parts], holes=tuple(put(p, 0.016) for p in holes), soft=0.007
    )
    canvas.shade((0.7, 0.62, 0.6), shadow)
    for pane in holes:
        glass = canvas.mask(put(pane), soft=0.002)
        canvas.lay((0.86, 0.93, 1.0), glass, 0.13)
        x0, x1 = pane[:, 0].min(), pane[:, 0].max()
        w = x1 - x0
        streak = np.array(
            [(x0 + 0.12 * w, 0.04), (x0 + 0.5 * w, -0.07), (x0 + 0.72 * w, -0.07), (x0 + 0.3 * w, 0.05)]
        )
        window, cover = canvas.mask(put(streak), soft=0.004)
        canvas.lay((1, 1, 1), (window, cover * canvas.whole(glass)[window]), 0.28)
    frame = canvas.mask(*[put(p) for p in parts], holes=tuple(put(p) for p in holes), soft=0.002)
    canvas.lay(colour, frame)
    glow = canvas.mask(*[put(p, -0.003) for p in rims], holes=tuple(put(p, 0.003) for p in rims), soft=0.001)
    canvas.lay((0.75, 0.75, 0.78), (glow[0], glow[1] * canvas.whole(frame)[glow[0]]), 0.35)

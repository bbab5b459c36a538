"""The people of the drawn world: what a face is, how one is drawn by lot, and where its parts lie.

Both painters (`world_photo`, `world_drawing`) take the same shapes from here, so that a head has the same
place and size in photos and drawings, as in aligned face crops. Shapes are (n, 2) arrays of (x, y) points in
*face coordinates*: the side of the picture is 1, the origin lies between the eyes, x goes right, y goes down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # (n, 2)
Colour = tuple[int, int, int]

GROUPS = ("0_woman_no_glasses", "1_man_no_glasses", "2_man_glasses", "3_woman_glasses")

HAIR_COLOURS: dict[str, Colour] = {
    "black": (32, 28, 32),
    "brown": (104, 64, 38),
    "blond": (226, 178, 106),
    "red": (178, 66, 30),
    "silver": (188, 192, 200),
    "blue": (52, 92, 176),
}
SKINS: dict[str, Colour] = {
    "porcelain": (240, 204, 186),
    "light": (230, 184, 154),
    "olive": (212, 164, 126),
    "tan": (190, 138, 100),
    "brown": (146, 98, 68),
    "dark": (102, 66, 48),
}
EYE_COLOURS: dict[str, Colour] = {
    "brown": (92, 56, 30),
    "dark": (46, 32, 28),
    "blue": (70, 122, 178),
    "green": (84, 128, 76),
}
SHIRT_COLOURS: dict[str, Colour] = {
    "navy": (44, 58, 102),
    "white": (232, 232, 230),
    "rose": (206, 104, 124),
    "green": (74, 128, 92),
    "mustard": (214, 166, 62),
    "charcoal": (62, 62, 70),
    "teal": (52, 134, 146),
    "brick": (172, 72, 58),
}
BACKGROUNDS: dict[str, Colour] = {
    "sky": (142, 184, 220),
    "sage": (150, 178, 142),
    "sand": (208, 188, 152),
    "lilac": (172, 158, 204),
    "peach": (226, 172, 146),
    "slate": (104, 118, 136),
    "mint": (158, 208, 190),
    "wall": (196, 190, 184),
}
FRAME_COLOURS: dict[str, Colour] = {
    "black": (22, 20, 24),
    "tortoise": (70, 36, 20),
    "wine": (96, 16, 34),
    "navy": (20, 30, 78),
}
HAIR_SHAPES = ("bangs", "side", "parted", "back", "curly")
HAIR_LENGTHS = ("short", "long")
BEARDS = ("none", "stubble", "full")
EXPRESSIONS = ("smile", "neutral", "open", "sad")
FRAME_SHAPES = ("round", "square")


@dataclass(frozen=True)
class Face:
    """One person, as the truth tables tell of them. Numbers are in face coordinates unless said otherwise."""

    glasses: bool
    gender: str  # presentation: "woman" | "man"
    hair_length: str  # HAIR_LENGTHS
    hair_color: str  # HAIR_COLOURS
    hair_shape: str  # HAIR_SHAPES
    beard: str  # BEARDS; only men have one
    skin: str  # SKINS
    expression: str  # EXPRESSIONS
    eye_color: str  # EYE_COLOURS
    shirt_color: str  # SHIRT_COLOURS
    background: str  # BACKGROUNDS
    frame_shape: str  # FRAME_SHAPES: the glasses this person wears, or would wear
    frame_color: str  # FRAME_COLOURS
    width: float  # half the width of the head, 0.225 .. 0.262
    jaw: float  # 0 narrow .. 1 square
    chin: float  # from the eye line down to the chin, 0.295 .. 0.33
    eye_spacing: float  # from the nose to the middle of an eye, 0.096 .. 0.112
    eye_size: float  # factor, 0.88 .. 1.14
    brow: float  # thickness factor, 0.7 .. 1.4
    nose: float  # size factor, 0.8 .. 1.25
    parting: float  # -1 left .. 1 right: where a parting lies, and which way a fringe falls
    volume: float  # how far the hair stands off the head, 0.03 .. 0.06
    tilt: float  # radians, clockwise
    yaw: float  # -1 looks to the left .. 1 looks to the right, a few degrees

    @property
    def group(self) -> str:
        """One of `GROUPS`."""
        return GROUPS[{(0, 0): 0, (1, 0): 1, (1, 1): 2, (0, 1): 3}[self.gender == "man", self.glasses]]


def random_face(rng: np.random.Generator, group: str) -> Face:
    """A person of one of `GROUPS`, drawn by lot. Glasses are independent of all but the group."""
    gender = "man" if "_man_" in group else "woman"
    man = gender == "man"

    def pick(names: ArrayLike, weights: ArrayLike | None = None) -> str:
        return str(rng.choice(np.asarray(names), p=None if weights is None else np.asarray(weights, float)))

    return Face(
        glasses=not group.endswith("no_glasses"),
        gender=gender,
        hair_length=pick(HAIR_LENGTHS, [0.88, 0.12] if man else [0.2, 0.8]),
        hair_color=pick(list(HAIR_COLOURS), [0.22, 0.22, 0.18, 0.15, 0.12, 0.11]),
        hair_shape=pick(HAIR_SHAPES, [0.12, 0.3, 0.14, 0.26, 0.18] if man else [0.28, 0.26, 0.2, 0.1, 0.16]),
        beard=pick(BEARDS, [0.45, 0.2, 0.35] if man else [1, 0, 0]),
        skin=pick(list(SKINS), [0.2, 0.22, 0.18, 0.15, 0.14, 0.11]),
        expression=pick(EXPRESSIONS, [0.38, 0.27, 0.2, 0.15]),
        eye_color=pick(list(EYE_COLOURS), [0.35, 0.25, 0.22, 0.18]),
        shirt_color=pick(list(SHIRT_COLOURS)),
        background=pick(list(BACKGROUNDS)),
        frame_shape=pick(FRAME_SHAPES),
        frame_color=pick(list(FRAME_COLOURS), [0.55, 0.2, 0.13, 0.12]),
        width=float(rng.uniform(0.235, 0.262) if man else rng.uniform(0.225, 0.25)),
        jaw=float(rng.uniform(0.45, 1.0) if man else rng.uniform(0.0, 0.45)),
        chin=float(rng.uniform(0.305, 0.33) if man else rng.uniform(0.295, 0.318)),
        eye_spacing=float(rng.uniform(0.096, 0.112)),
        eye_size=float(rng.uniform(0.88, 1.04) if man else rng.uniform(0.96, 1.14)),
        brow=float(rng.uniform(1.0, 1.4) if man else rng.uniform(0.7, 1.0)),
        nose=float(rng.uniform(0.95, 1.25) if man else rng.uniform(0.8, 1.05)),
        parting=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0)),
        volume=float(rng.uniform(0.03, 0.06)),
        tilt=float(np.clip(rng.normal(0, 0.035), -0.09, 0.09)),
        yaw=float(np.clip(rng.normal(0, 0.4), -1, 1)),
    )


# ---- curves ------------------------------------------------------------------------------------------------


def smooth(points: ArrayLike, closed: bool = True, steps: int = 8) -> Points:
    """A Catmull-Rom curve through `points`, with `steps` points per span."""
    p = np.asarray(points, float)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = (np.arange(steps) / steps)[:, None]
    basis = np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1
    )
    spans = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)  # (spans, 4, 2)
    curve = np.einsum("tk,skd->std", basis / 2, spans).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def ellipse(x: float, y: float, rx: float, ry: float, power: float = 2.0, n: int = 40) -> Points:
    """A superellipse: `power` 2 is an ellipse, larger is squarer."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    e = 2 / power
    return np.stack([x + rx * np.sign(c) * abs(c) ** e, y + ry * np.sign(s) * abs(s) ** e], axis=1)


def shift(points: ArrayLike, x: float, y: float) -> Points:
    """The shape moved by (x, y)."""
    return np.asarray(points, float) + np.array((x, y))


def mirror(points: ArrayLike) -> Points:
    """The same shape on the other side of the nose."""
    return np.asarray(points, float) * (-1, 1)


def both_sides(right: ArrayLike) -> Points:
    """A closed outline from its right half, given from top to bottom."""
    right = np.asarray(right, float)
    return np.concatenate([right, mirror(right)[::-1]])


def offset(points: Points, distance: float, closed: bool = True) -> Points:
    """The curve moved sideways along its normals; a closed one outwards, whichever way it runs."""
    if closed:
        after, before = np.roll(points, -1, axis=0), np.roll(points, 1, axis=0)
        along = after - before
        distance *= np.sign(np.sum(points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]))
    else:
        along = np.gradient(points, axis=0)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    return points + distance * normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)


def stroke(points: Points, width: float, start: float = 1.0, end: float = 1.0, swell: float = 0.0) -> Points:
    """The outline of a pen stroke along an open curve: `start` and `end` scale the width at the two ends,
    `swell` adds to it in the middle."""
    t = np.linspace(0, 1, len(points))
    half = (width / 2 * (start + (end - start) * t + swell * np.sin(np.pi * t)))[:, None]
    side = offset(points, 1.0, closed=False) - points
    return np.concatenate([points + half * side, (points - half * side)[::-1]])


# ---- the parts of a face -----------------------------------------------------------------------------------


def head(face: Face) -> Points:
    """The outline of skull and jaw. It runs from the right ear over the chin."""
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    e = np.where(s > 0, 2 / (2.1 + 0.5 * face.jaw), 1.0)
    x, y = np.sign(c) * abs(c) ** e, np.sign(s) * abs(s) ** e
    x = x * np.where(y > 0, 1 - (0.26 - 0.16 * face.jaw) * np.maximum(y, 0) ** 1.6, 1)
    return np.stack([face.width * x, np.where(y > 0, face.chin, 0.31) * y], axis=1)


def ear(face: Face) -> Points:
    """The right ear."""
    return ellipse(face.width + 0.006, 0.045, 0.03, 0.056, n=24)


def neck(face: Face) -> Points:
    w = 0.098 + 0.035 * face.jaw
    return smooth(both_sides([(w, 0.16), (w, 0.34), (w + 0.012, 0.39), (w + 0.05, 0.43), (0.06, 0.47)]))


def shirt(face: Face) -> Points:
    w = 0.098 + 0.035 * face.jaw
    wide = 0.3 + 0.09 * face.jaw
    return smooth(
        both_sides(
            [(0.02, 0.445), (w, 0.42), (w + 0.03, 0.385), (wide, 0.43), (wide + 0.1, 0.5), (0.6, 0.75)]
        )
    )


def hair_outline(face: Face, bottom: float, flare: float) -> Points:
    """The outer edge of the hair from the lower right end over the crown to the lower left end (open)."""
    a = face.width
    t = np.linspace(0.0, np.pi, 34)
    x = (a + 0.8 * face.volume) * np.cos(t)
    y = -(0.305 + face.volume) * np.sin(t) ** 0.9
    if face.hair_shape in ("side", "back"):  # more hair on the side it was combed to
        y = y - 0.022 * np.exp(-(((x + 0.08 * face.parting) / 0.18) ** 2)) * np.sin(t)
    if face.hair_shape == "curly":
        bump = 1 + 0.04 * abs(np.sin(t * 5.5)) * np.sin(t) ** 0.2
        x, y = x * bump, y * bump
    down = np.linspace(bottom, 0.02, 12)
    side = (a + 0.8 * face.volume) + flare * np.clip(down / 0.45, 0, 1) ** 0.8
    if face.hair_shape == "curly":
        side = side + 0.014 * np.sin(down * 55)
    right = np.stack([side, down], axis=1)
    return np.concatenate([right, np.stack([x, y], axis=1), mirror(right)[::-1]])


def hairline(face: Face) -> Points:
    """The lower edge of the front hair from the left temple to the right one (open)."""
    a = face.width / 0.25
    side = 1.0 if face.parting > 0 else -1.0
    if face.hair_shape == "bangs":
        xs = np.linspace(-0.205, 0.205, 21)
        ys = -0.112 + 0.014 * abs(np.sin(xs * 45)) - 0.02 * (1 - (xs / 0.2) ** 2)
        line = np.concatenate([[(-0.222, 0.0)], np.stack([xs, ys], axis=1), [(0.222, 0.0)]])
        return line * (a, 1)
    if face.hair_shape == "side":
        right = [(-0.225, 0.0), (-0.205, -0.075), (-0.14, -0.118), (-0.04, -0.15), (0.07, -0.235)]
        line = np.array([*right, (0.14, -0.16), (0.2, -0.09), (0.225, 0.0)])
        return smooth((line * (a * side, 1))[:: int(side)], closed=False)
    if face.hair_shape == "parted":
        peak = 0.035 * face.parting
        line = np.array([(-0.222, 0.02), (-0.195, -0.06), (-0.13, -0.145), (peak - 0.012, -0.255)])
        other = np.array([(peak + 0.012, -0.255), (0.13, -0.145), (0.195, -0.06), (0.222, 0.02)])
        return smooth(np.concatenate([line, other]) * (a, 1), closed=False)
    if face.hair_shape == "curly":
        xs = np.linspace(-0.2, 0.2, 25)
        ys = -0.15 + 0.022 * abs(np.sin(xs * 38 + face.parting)) - 0.03 * (1 - (xs / 0.2) ** 2)
        line = np.concatenate([[(-0.225, 0.01)], np.stack([xs, ys], axis=1), [(0.225, 0.01)]])
        return line * (a, 1)
    line = np.array([(-0.228, 0.0), (-0.205, -0.1), (-0.15, -0.178), (0.0, -0.208)])
    return smooth(np.concatenate([line, mirror(line[:-1])[::-1]]) * (a, 1), closed=False)


def hair_front(face: Face) -> Points:
    """The hair before the face: crown, fringe and, if long, the locks beside the cheeks."""
    line = hairline(face)
    if face.hair_length == "short" and face.gender == "man":
        outer = hair_outline(face, 0.055, 0.0)
        ends = np.array([(face.width - 0.012, 0.05)])
    elif face.hair_length == "short":  # a bob over the ears
        outer = hair_outline(face, 0.19, 0.012)
        ends = np.array([(face.width + 0.004, 0.215), (face.width - 0.022, 0.19), (face.width - 0.02, 0.08)])
    else:
        outer = hair_outline(face, 0.46, 0.055)
        ends = shift([(0.06, 0.43), (0.03, 0.36), (0.002, 0.28), (-0.02, 0.19), (-0.026, 0.1)], face.width, 0)
    return np.concatenate([outer, mirror(ends), line, ends[::-1]])


def hair_back(face: Face) -> Points | None:
    """The hair behind the neck, where there is any."""
    if face.hair_length == "short" and face.gender == "man":
        return None
    bottom = 0.48 if face.hair_length == "long" else 0.21
    outer = hair_outline(face, bottom, 0.055 if face.hair_length == "long" else 0.012)
    xs = np.linspace(outer[-1, 0], outer[0, 0], 24)[1:-1]
    ends = bottom + 0.01 + 0.015 * np.sin(xs * 60) - 0.04 * (xs / 0.3) ** 2
    return np.concatenate([outer, np.stack([xs, ends], axis=1)])


def beard(face: Face) -> Points:
    """The region a beard grows in, a little wider than the jaw; the lips lie inside."""
    jaw = head(face)
    low = jaw[jaw[:, 1] > 0.06]  # from the right ear over the chin to the left ear
    full = 0.02 if face.beard == "full" else 0.0
    outer = np.stack([low[:, 0] * (1 + 0.3 * full), low[:, 1] * (1 + full / 0.3)], axis=1)
    a = face.width / 0.25
    cheek = np.array([(-0.225, 0.05), (-0.2, 0.13), (-0.145, 0.165), (-0.075, 0.152), (-0.03, 0.138)])
    line = np.concatenate([cheek, mirror(cheek)[::-1]]) * (a, 1)
    return np.concatenate([outer, smooth(line, closed=False, steps=4)])


def lens(face: Face) -> Points:
    """The outline of the right lens of the glasses."""
    x = face.eye_spacing + 0.004
    if face.frame_shape == "round":
        return ellipse(x, 0.012, 0.079, 0.074)
    return ellipse(x, 0.012, 0.085, 0.06, power=4.5)


def brow(face: Face, lift: float = 0.0) -> Points:
    """The middle line of the right brow from its inner end outwards (open)."""
    x, inner, outer = face.eye_spacing, 0.0, 0.0
    if face.expression == "sad":
        inner, outer = -0.022, 0.012
    elif face.expression == "open":
        inner = outer = -0.014
    y = -0.077 - lift
    points = [(x - 0.056, y + 0.008 + inner), (x - 0.01, y - 0.008 + inner / 2), (x + 0.06, y + 0.01 + outer)]
    return smooth(points, closed=False)


class Placement:
    """Where a head sits in a picture of `pixels` x `pixels`: face coordinates to pixels and back."""

    def __init__(self, face: Face, pixels: int, centre: tuple[float, float], scale: float) -> None:
        self.pixels, self.centre, self.scale = pixels, np.array(centre), scale
        self.yaw = face.yaw
        c, s = np.cos(face.tilt), np.sin(face.tilt)
        self.rotation = np.array([(c, -s), (s, c)])

    def __call__(self, points: ArrayLike, depth: float = 0.0) -> Points:
        """Pixels of `points`; what lies `depth` before the head's middle moves with the turn of the head."""
        p = shift(points, 0.3 * self.yaw * depth, 0)
        return (self.scale * p @ self.rotation.T + self.centre) * self.pixels

    def grid(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Face coordinates (x, y) of every pixel's middle, each (pixels, pixels)."""
        axis = (np.arange(self.pixels) + 0.5) / self.pixels
        dx, dy = (axis - self.centre[0])[None, :], (axis - self.centre[1])[:, None]
        (c, s), _ = self.rotation.T / self.scale
        return (c * dx + s * dy).astype(np.float32), (c * dy - s * dx).astype(np.float32)

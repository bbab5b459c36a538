"""A finder that learns one artist's faces from the boxes that a person marked, in seconds, on one core.

Two stages, both on oriented gradients normalised by their surroundings (after Dalal and Triggs, CVPR 2005),
where colours hardly matter and outlines do:

1. One template for all places and scales: the mean marked face, whitened by the statistics of everything else
   on the marked pages (Hariharan, Malik, Ramanan, "Discriminative decorrelation for clustering and
   classification", ECCV 2012). Two correlations per scale (the template and its mirror image) leave a hundred
   or so places per page, the faces among them.
2. Small convolutional networks judge these places and set the box right. They are trained on the marked faces
   (moved, scaled, mirrored) against the places where the template errs on the marked pages. Each has seen only
   a part of the boxes; how it judges the rest tells what its scores are worth.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, distinct, overlap, turn

Pixels = NDArray[np.uint8]
Example = tuple[Pixels, Sequence[Face]]

VERSION = 1  # raise it when the same boxes teach something else: part of the identity
CELL = 4  # pixels of one cell of features
DIRECTIONS = 8  # of gradients, over 180 degrees
CHANNELS = DIRECTIONS + 3  # and brightness, and two of colour
FACE_CELLS = 6.0  # side of a face in the template (the geometric mean of both)
MARGIN = 2  # cells around the face, of the template
STEP = 2**0.25  # between the scales that are looked at
BEYOND = (0.75, 1.4)  # sizes that are looked for, as shares of the smallest and of the largest marked one
CROP = 16  # cells of a judged place; the face takes CROP_FACE of them
CROP_FACE = 8.5
PLACES = 200  # of a page that are judged
BACKGROUND = 0.35  # overlap with every face below which a place is none
BAND = 4_000_000  # pixels of a scaled page that are looked at in one piece
GROUNDS = 0.4  # share of crops that are put on another ground
TONES = 200  # crops of invented screentone
NETWORKS = 3
LEAST = 0.05  # score below which a place is not worth a proposal
CLAMP = 0.4
WIDE = 32
OTHERW = 0.25
STEPS = 300
BATCH = (16, 48)  # faces and others
POSITIVES = 1200  # crops of marked faces, moved and mirrored
NEGATIVES = 4000
PAGES = 24  # on which the template's errors are looked for


# ---- features ----------------------------------------------------------------------------------------------


def _features(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> (B, CHANNELS, H // 4, W // 4), each value about -1 .. 3.

    The direction of a gradient is kept as its double angle, summed over the colours: ink on paper and paper on
    ink are alike, and no colour has to win.
    """
    x = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across, down = x[:, :, 1:-1, 2:] - x[:, :, 1:-1, :-2], x[:, :, 2:, 1:-1] - x[:, :, :-2, 1:-1]
    cos = (across.square() - down.square()).sum(1, keepdim=True)
    sin = 2 * (across * down).sum(1, keepdim=True)
    length = torch.hypot(cos, sin) + 1e-6
    strength = length.sqrt().clamp(max=CLAMP) / length  # of strong outlines all are alike
    angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
    turned = torch.cat([(cos * math.cos(a) + sin * math.sin(a)) * strength for a in angles.tolist()], 1)
    edges = F.avg_pool2d(turned.relu_(), CELL)
    edges = edges / (_around(edges.sum(1, keepdim=True), 5) + 0.04)
    colour = F.avg_pool2d(pictures, CELL)
    bright = colour.mean(1, keepdim=True)
    tint = 3 * torch.cat([colour[:, :1] - bright, colour[:, 2:] - bright], 1)
    centred = bright - _around(bright, 9)
    spread = _around(centred.square(), 9).sqrt()
    return torch.cat([4 * edges - 0.5, centred / (spread + 0.1), tint - _around(tint, 9)], 1)


def _around(x: Tensor, cells: int) -> Tensor:
    """The mean over a square of cells around each one."""
    return F.avg_pool2d(x, cells, 1, cells // 2, count_include_pad=False)


def _tensor(pictures: Pixels) -> Tensor:
    """(..., H, W, 3) uint8 -> (B, 3, H, W) in 0..1."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).float().div_(255)
    return x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2).contiguous()


def _crop(picture: Pixels, face: Face, pixels: tuple[int, int], inner: tuple[float, float], mirror: bool) -> Pixels:
    """The upright face stretched to `inner` (width, height) in the middle of a crop of `pixels`."""
    scale = (inner[0] / face.width, inner[1] / face.height)
    reduce = max(1, int(1 / max(scale)))  # drawn larger first, then averaged: thin lines stay
    sx, sy = (s * reduce for s in scale)
    width, height = (n * reduce for n in pixels)
    cos, sin = math.cos(math.radians(face.roll)), math.sin(math.radians(face.roll))
    (x, y), flip = face.centre, -1 if mirror else 1
    a, b, c, d = flip * sx * cos, flip * sx * sin, -sy * sin, sy * cos
    matrix = np.array([[a, b, width / 2 - 0.5 - a * (x - 0.5) - b * (y - 0.5)],
                       [c, d, height / 2 - 0.5 - c * (x - 0.5) - d * (y - 0.5)]])  # fmt: skip
    crop = cv2.warpAffine(
        picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return crop if reduce == 1 else cv2.resize(crop, pixels, interpolation=cv2.INTER_AREA)


def _judged(picture: Pixels, face: Face, mirror: bool = False) -> Pixels:
    """The crop that the networks judge, (64, 64, 3)."""
    return _crop(picture, face, (CROP * CELL,) * 2, (CROP_FACE * CELL,) * 2, mirror)


# ---- the template ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Template:
    """kernel: (2, CHANNELS, rows, columns), the template and its mirror image; bias: what both add
    face: width and height of the face in cells; sizes: of the faces to look for, pixels, smallest and largest
    """

    kernel: Tensor
    bias: float
    face: tuple[float, float]
    sizes: tuple[float, float]

    @property
    def cells(self) -> tuple[int, int]:
        return _cells(self.face)


def _cells(face: tuple[float, float]) -> tuple[int, int]:
    """Columns and rows of a template."""
    return math.ceil(face[0]) + 2 * MARGIN, math.ceil(face[1]) + 2 * MARGIN


def _levels(picture: Pixels, sizes: tuple[float, float], cells: tuple[int, int]) -> Iterator[tuple[float, float, Tensor]]:
    """(scale, first row in pixels of the picture, features (1, CHANNELS, h, w)) at every scale, in bands, with
    a margin around the picture in which a template at its edge ends."""
    height, width = picture.shape[:2]
    pad = MARGIN * CELL
    scale, last = FACE_CELLS * CELL / sizes[0], FACE_CELLS * CELL / sizes[1]
    while scale >= last / STEP**0.5:
        rows = max(cells[1] * CELL * 4, int(BAND / (width * scale)))  # of the scaled picture, in one band
        shared = cells[1] * CELL
        for begin in range(0, max(1, math.ceil(height * scale) - shared), rows - shared):
            top, bottom = int(begin / scale), min(height, math.ceil((begin + rows) / scale))
            part = picture[top:bottom]
            size = (round(width * scale), round((bottom - top) * scale))
            if min(size) + 2 * pad >= max(cells) * CELL and min(size) > 0:
                how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
                part = cv2.resize(part, size, interpolation=how)
                part = cv2.copyMakeBorder(part, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
                yield scale, top, _features(_tensor(part))
        scale /= STEP


def _place(column: float, row: float, scale: float, top: float, face: tuple[float, float]) -> Box:
    """The box in the picture where the template lies at (column, row)."""
    columns, rows = _cells(face)
    x, y = ((column + columns / 2 - MARGIN) * CELL / scale, (row + rows / 2 - MARGIN) * CELL / scale + top)
    half_width, half_height = (n * CELL / scale / 2 for n in face)
    return x - half_width, y - half_height, x + half_width, y + half_height


def _most(box: Box, faces: Sequence[Face]) -> float:
    return max((overlap(box, face.box) for face in faces), default=0.0)


def _learn_template(examples: Sequence[Example], rng: np.random.Generator) -> _Template:
    marked = [face for _, faces in examples for face in faces]
    aspect = math.exp(float(np.mean([math.log(face.width / face.height) for face in marked])))
    face = (FACE_CELLS * math.sqrt(aspect), FACE_CELLS / math.sqrt(aspect))
    sides = [math.sqrt(f.width * f.height) for f in marked]
    sizes = (BEYOND[0] * min(sides), BEYOND[1] * max(sides))
    mean, covariance = _background(examples, face, sizes, rng)
    columns, rows = _cells(face)

    both = []  # of each marked face its features as it is, and mirrored
    for picture, faces in examples:
        for one in faces:
            inner, air = (face[0] * CELL, face[1] * CELL), 3  # air: cells around, so that edges are seen
            pixels = ((columns + 2 * air) * CELL, (rows + 2 * air) * CELL)
            crops = np.stack([_crop(picture, one, pixels, inner, mirror) for mirror in (False, True)])
            both.append(_features(_tensor(crops))[:, :, air:-air, air:-air].flatten(1))
    found = torch.stack(both).double() - mean  # (faces, 2, D)
    lower = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(lower, found.flatten(0, 1).T, upper=False).T.reshape(found.shape)
    # All turned to look the same way: whichever of the two agrees with the mean of the others.
    way = torch.zeros(len(white), dtype=torch.long)
    each = torch.arange(len(white))
    towards = white[0, 0]
    for _ in range(10):
        way = (white @ towards).argmax(1)
        towards = white[each, way].mean(0)
    weights = torch.cholesky_solve(found[each, way].mean(0)[:, None], lower)[:, 0]
    weights = weights / (weights @ covariance @ weights).sqrt()  # the background's scores have a spread of 1
    kernel = weights.reshape(CHANNELS, rows, columns)
    turned = [-k % DIRECTIONS for k in range(DIRECTIONS)]  # a mirrored direction
    mirrored = kernel[[*turned, *range(DIRECTIONS, CHANNELS)]].flip(2)
    return _Template(torch.stack([kernel, mirrored]).float(), -float(weights @ mean), face, sizes)


def _background(
    examples: Sequence[Example], face: tuple[float, float], sizes: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of what the template meets away from the faces."""
    columns, rows = _cells(face)
    levels = len(examples) * max(1.0, math.log(sizes[1] / sizes[0], STEP))
    each = max(20, int(16_000 / levels))
    seen = []
    for picture, faces in examples:
        for scale, top, features in _levels(picture, sizes, (columns, rows)):
            high, wide = features.shape[2] - rows + 1, features.shape[3] - columns + 1
            for k in rng.choice(high * wide, min(high * wide, each), replace=False).tolist():
                row, column = divmod(k, wide)
                if _most(_place(column, row, scale, top, face), faces) < BACKGROUND:
                    seen.append(features[0, :, row : row + rows, column : column + columns].flatten())
    if not seen:
        raise Problem("the marked pages show nothing but faces: mark pages with some background too")
    x = torch.stack(seen)
    mean = x.mean(0)
    x -= mean
    covariance = ((x.T @ x) / len(x)).double()
    return mean.double(), covariance + 0.05 * covariance.diagonal().mean() * torch.eye(len(mean)).double()


def _places(template: _Template, picture: Pixels, most: int, apart: float = 0.6) -> list[Face]:
    """Where the template fits best, at most `most` places, the best first."""
    found: list[tuple[float, Box]] = []
    for scale, top, features in _levels(picture, template.sizes, template.cells):
        scores = F.conv2d(features, template.kernel)[0].amax(0)
        peaks = scores == F.max_pool2d(scores[None], 3, 1, 1)[0]
        rows, columns = torch.nonzero(peaks, as_tuple=True)
        values = scores[rows, columns]
        best = values.argsort(descending=True, stable=True)[: 2 * most]
        for value, row, column in zip(values[best].tolist(), rows[best].tolist(), columns[best].tolist()):
            found.append((value + template.bias, _place(column, row, scale, top, template.face)))
    found.sort(key=lambda pair: -pair[0])
    return distinct([Face(box, score=score) for score, box in found[: 3 * most]], apart)[:most]


# ---- the judges --------------------------------------------------------------------------------------------


class _Judge(nn.Module):
    """(B, CHANNELS, 16, 16) -> (B, 4): log odds of a face, and how far the face lies to the right, down (in
    shares of the box), and how much larger it is (logarithm), all three times 10."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(CHANNELS, WIDE, 3, 1, 1), nn.Conv2d(WIDE, 2 * WIDE, 3, 1, 1)
        self.norm1, self.norm2 = nn.GroupNorm(4, WIDE), nn.GroupNorm(4, 2 * WIDE)
        self.third, self.last = nn.Linear(2 * WIDE * (CROP // 4) ** 2, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(x, 0.15, self.training)
        x = F.max_pool2d(F.relu(self.norm1(self.first(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.second(x))), 2)
        x = F.dropout(x.flatten(1), 0.3, self.training)
        return self.last(F.relu(self.third(x)))


@dataclass(frozen=True)
class _Crops:
    """What the judges learn from: features of crops of faces, of which marked face each is, where in the crop
    the face really lies (as _Judge says it), and features of crops without one."""

    faces: Tensor
    owner: Tensor
    offsets: Tensor
    others: Tensor


def _moved(face: Face, rng: np.random.Generator, far: float, larger: float) -> tuple[Face, tuple[float, float, float]]:
    """The face's box moved and scaled by lot, and the way back (as _Judge says it, but not times 10)."""
    x, y, size = (float(v) for v in rng.uniform(-1, 1, 3) * (far, far, larger))
    grown = math.exp(size)
    dx, dy = turn(x * face.width, y * face.height, face.roll)
    (cx, cy), width, height = face.centre, face.width * grown / 2, face.height * grown / 2
    box = (cx + dx - width, cy + dy - height, cx + dx + width, cy + dy + height)
    return replace(face, box=box, points=None), (-x / grown, -y / grown, -size)


def _collect(examples: Sequence[Example], template: _Template, rng: np.random.Generator) -> _Crops:
    """Crops of the marked faces, moved a little; of where the template errs; of faces that are missed."""
    count = sum(len(faces) for _, faces in examples)
    copies = int(np.clip(POSITIVES // count, 2, 40))
    misses = int(np.clip(NEGATIVES // 4 // count, 1, 16))
    with_errors = set(rng.permutation(len(examples))[:PAGES].tolist())
    most = min(600, NEGATIVES // (2 * len(with_errors)))
    crops, owner, offsets, others = list[Pixels](), list[int](), list[tuple[float, float, float]](), list[Pixels]()
    for index, (picture, faces) in enumerate(examples):
        for face in faces:
            number = owner[-1] + 1 if owner else 0
            for k in range(copies):
                moved, (x, y, size) = _moved(face, rng, 0.08, 0.12)
                crops.append(_judged(picture, moved, mirror=k % 2 == 1))
                owner.append(number)
                offsets.append((-x if k % 2 else x, y, size))
            for k in range(misses):
                missed, _ = _moved(face, rng, 0.8, 0.9)
                if _most(missed.box, faces) < BACKGROUND:
                    others.append(_judged(picture, missed, mirror=k % 2 == 1))
        for place in _places(template, picture, most, 0.5) if index in with_errors else ():
            if _most(place.box, faces) < BACKGROUND:
                others.append(_judged(picture, place))
                others.append(_judged(picture, _moved(place, rng, 0.08, 0.12)[0], mirror=True))
    tones = [_tone(rng) for _ in range(TONES)]
    grounds = [others or tones, tones]
    for some in (crops, others):  # both kinds alike, or the seam itself would tell them apart
        for k in np.flatnonzero(rng.random(len(some)) < GROUNDS).tolist():
            pool = grounds[int(rng.random() < 1 / 3)]
            some[k] = _elsewhere(some[k], pool[int(rng.integers(len(pool)))], rng)
    others += tones
    return _Crops(_stacked(crops), torch.tensor(owner), 10 * torch.tensor(offsets), _stacked(others))


def _elsewhere(crop: Pixels, ground: Pixels, rng: np.random.Generator) -> Pixels:
    """The middle of a crop on another ground, so that a face is known on grounds where none was marked."""
    rows, columns = np.mgrid[: CROP * CELL, : CROP * CELL] - (CROP * CELL - 1) / 2
    radii = rng.uniform(1.0, 1.7, 2) * CROP_FACE * CELL / 2
    power = rng.uniform(2, 5)  # from an ellipse to nearly a box
    away = (np.abs(columns) / radii[0]) ** power + (np.abs(rows) / radii[1]) ** power
    inside = np.clip((1.1 - away) / 0.2, 0, 1)[..., None]
    return np.rint(crop * inside + ground * (1 - inside)).astype(np.uint8)


def _tone(rng: np.random.Generator) -> Pixels:
    """A crop of screentone or hatching: most comics have some, and perhaps none of the marked pages."""
    rows, columns = np.mgrid[: CROP * CELL, : CROP * CELL]
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(2.5, 20)
    along = math.cos(angle) * columns + math.sin(angle) * rows
    across = math.cos(angle) * rows - math.sin(angle) * columns
    waves = np.cos(2 * math.pi * (along / pitch + rng.random()))
    if rng.random() < 0.7:  # dots; else lines
        waves = (waves + np.cos(2 * math.pi * (across / pitch + rng.random()))) / 2
    ink = np.clip((waves - rng.uniform(-0.5, 0.7)) * pitch / 3 + 0.5, 0, 1)[..., None]
    dark, light = rng.uniform(0, 200, 3), rng.uniform(120, 255, 3)
    return np.rint(light + (dark - light) * ink).astype(np.uint8)


def _stacked(crops: Sequence[Pixels]) -> Tensor:
    """Features of many crops, (N, CHANNELS, 16, 16)."""
    parts = [_features(_tensor(np.stack(crops[k : k + 128]))) for k in range(0, len(crops), 128)]
    return torch.cat(parts) if parts else torch.zeros(0, CHANNELS, CROP, CROP)


def _train(crops: _Crops, seed: int) -> _Judge:
    """One judge; the others that it takes for faces come back more often."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = _Judge()
        optimiser = torch.optim.AdamW(judge.parameters(), 3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
        hard = torch.ones(len(crops.others))
        faces, others = BATCH
        truth = torch.cat([torch.ones(faces), torch.zeros(others)])
        for _ in range(STEPS):
            these = torch.randint(len(crops.faces), (faces,))
            those = torch.multinomial(hard, others, replacement=len(hard) < others)
            out = judge(torch.cat([crops.faces[these], crops.others[those]]))
            loss = F.binary_cross_entropy_with_logits(out[:, 0], truth)
            loss = loss + 0.6 * F.smooth_l1_loss(out[:faces, 1:], crops.offsets[these], beta=0.5)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            hard[those] = 0.5 * hard[those] + 0.5 * (out[faces:, 0].detach().sigmoid() + 0.05)
    return judge.eval()


def _calibrate(judges: Sequence[_Judge], crops: _Crops) -> tuple[float, float]:
    """(a, b) so that sigmoid(a x + b) is the share of faces among places with log odds x: Platt's scaling on
    what each judge says of the faces and places it has not seen, drawn to (1, 0) where there are few."""
    values, truth, weight = list[Tensor](), list[Tensor](), list[Tensor]()
    copies = len(crops.owner) / (int(crops.owner[-1]) + 1)
    for k, judge in enumerate(judges):
        unseen, strange = _part(crops.owner, k), _part(_pairs(crops.others), k)
        for features, label, each in ((crops.faces[unseen], 1.0, 1 / copies), (crops.others[strange], 0.0, OTHERW)):
            values.append(_judge_all(judge, features)[:, 0])
            truth.append(torch.full((len(features),), label))
            weight.append(torch.full((len(features),), each))
    x, y, w = torch.cat(values).double(), torch.cat(truth).double(), torch.cat(weight).double()
    known, prior = torch.tensor([1.0, 0.0]).double(), torch.tensor([4.0, 1.0]).double()
    design, line = torch.stack([x, torch.ones_like(x)], 1), known.clone()
    for _ in range(20):  # Newton's method; the loss is convex
        p = (design @ line).sigmoid()
        slope = design.T @ (w * (p - y)) + prior * (line - known)
        curve = (design * (w * p * (1 - p))[:, None]).T @ design + prior.diag()
        line = line - torch.linalg.solve(curve, slope)
    return max(float(line[0]), 0.1), float(line[1])


def _part(numbers: Tensor, k: int) -> Tensor:
    """Which of them judge `k` never sees while it learns."""
    return numbers % NETWORKS == k


def _pairs(others: Tensor) -> Tensor:
    """A number for each other; the two crops of one place share it, or calibration would be too sure."""
    return torch.arange(len(others)) // 2


@torch.no_grad()
def _judge_all(judge: _Judge, features: Tensor) -> Tensor:
    return torch.cat([judge(part) for part in features.split(256)]) if len(features) else torch.zeros(0, 4)


# ---- the finder --------------------------------------------------------------------------------------------


class LearnedFinder:
    """A finder of the faces of one artist; `learn` makes it. Its boxes are upright (roll 0), without points;
    its scores are the chance that a box is a face, as far as the marked pages can tell."""

    name = "learned"

    def __init__(self, template: _Template, judges: Sequence[_Judge], line: tuple[float, float]) -> None:
        self._template, self._judges, self._line = template, list(judges), line
        digest = hashlib.sha256(struct.pack("<i7d", VERSION, template.bias, *template.face, *template.sizes, *line))
        for tensor in [template.kernel, *(t for judge in judges for t in judge.state_dict().values())]:
            digest.update(tensor.contiguous().numpy().tobytes())
        self.identity = f"learned sha256:{digest.hexdigest()}"

    def __call__(self, picture: Pixels) -> list[Face]:
        """The faces of one (H, W, 3) RGB picture with a score of `LEAST` or more, each once, the surest first;
        boxes lie within the picture. Raises Problem where the array is no such picture."""
        _check_picture(picture)
        height, width = picture.shape[:2]
        with torch.no_grad():
            most = math.ceil(PLACES * max(1.0, height * width / 1_400_000))
            places = _places(self._template, picture, most)
            if not places:
                return []
            features = _stacked([_judged(picture, place, m) for place in places for m in (False, True)])
            said = torch.stack([_judge_all(judge, features) for judge in self._judges]).mean(0)
        as_is, mirrored = said[0::2], said[1::2] * torch.tensor([1.0, -1.0, 1.0, 1.0])
        said = (as_is + mirrored) / 2
        scores = (self._line[0] * said[:, 0] + self._line[1]).sigmoid().tolist()
        found = []
        for place, score, (x, y, size) in zip(places, scores, (said[:, 1:] / 10).clamp(-0.3, 0.3).tolist()):
            if score >= LEAST:
                box = _within(_set_right(place, x, y, size), width, height)
                found.append(Face(box, score=score, finder=self.name))
        return distinct(face for face in found if face.width >= 4 and face.height >= 4)


def _set_right(place: Face, x: float, y: float, size: float) -> Box:
    (cx, cy), grown = place.centre, math.exp(size) / 2
    cx, cy = cx + x * place.width, cy + y * place.height
    half_width, half_height = place.width * grown, place.height * grown
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height


def _within(box: Box, width: int, height: int) -> Box:
    left, right = (min(max(value, 0.0), float(width)) for value in (box[0], box[2]))
    top, bottom = (min(max(value, 0.0), float(height)) for value in (box[1], box[3]))
    return left, top, right, bottom


def _check_picture(picture: Pixels) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise Problem(f"a picture of shape {picture.shape} and {picture.dtype}: give (H, W, 3) uint8")


def learn(examples: Iterable[Example], seed: int = 0) -> LearnedFinder:
    """Learn to find what was marked: seconds on one core, from a handful of boxes on.

    Args:
        examples: (picture (H, W, 3) uint8 RGB, its faces) of pages on which every face is marked: all else
            counts as background. Pages without a face are welcome. Boxes may cross the edge of the picture.
        seed: of all draws by lot; the same examples and seed teach the same.

    Raises:
        Problem: no box is marked, a box is empty, lies beside its picture or is no box of numbers, or there is
            nothing but faces on the pages.
    """
    pages = [(picture, list(faces)) for picture, faces in examples]
    for picture, faces in pages:
        _check_picture(picture)
        for face in faces:
            _check_box(face, picture)
    if not any(faces for _, faces in pages):
        raise Problem(f"no face is marked on {len(pages)} pages: mark some before proposals are learned")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        template = _learn_template(pages, rng)
        crops = _collect(pages, template, rng)
    if not len(crops.others):
        raise Problem("the marked pages show nothing but faces: mark pages with some background too")
    boxes, places = int(crops.owner[-1]) + 1, _pairs(crops.others)
    apart = boxes >= NETWORKS and int(places[-1]) >= NETWORKS  # else each judge learns from all there is
    judges = []
    for k in range(NETWORKS):
        known, met = ~_part(crops.owner, k), ~_part(places, k)
        seen = _Crops(crops.faces[known], crops.owner[known], crops.offsets[known], crops.others[met])
        judges.append(_train(seen if apart else crops, 1000 * seed + k))
    return LearnedFinder(template, judges, _calibrate(judges, crops) if apart else (1.0, 0.0))


def _check_box(face: Face, picture: Pixels) -> None:
    height, width = picture.shape[:2]
    left, top, right, bottom = face.box
    if not all(map(math.isfinite, (*face.box, face.roll))) or right - left < 4 or bottom - top < 4:
        raise Problem(f"the box {face.box} is no box of at least 4 x 4 pixels: mark the face again")
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise Problem(f"the box {face.box} lies beside its picture of {width} x {height}: mark the face again")

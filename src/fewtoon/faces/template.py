"""Where on a page something looks like the marked faces: one template for all places and scales.

The mean marked face in oriented gradients (after Dalal and Triggs, CVPR 2005), whitened by the statistics of
everything else on the marked pages (Hariharan, Malik, Ramanan, "Discriminative decorrelation for clustering
and classification", ECCV 2012). Two correlations per scale, the template and its mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.faces.face import Face

Pixels = NDArray[np.uint8]
Example = tuple[Pixels, Sequence[Face]]

CELL = 4  # pixels of one cell of features
DIRECTIONS = 8  # of gradients, over 180 degrees
CHANNELS = DIRECTIONS + 3  # and brightness, and two of colour
FACE_CELLS = 6.0  # side of a face in the template (the geometric mean of both)
MARGIN = 2  # cells around the face, of the template
STEP = 2**0.25  # between the scales that are looked at
BEYOND = (0.75, 1.4)  # sizes that are looked for, as shares of the smallest and of the largest marked one
LEAST_SIDE = 8.0  # pixels of the smallest face that is looked for
BACKGROUND = 0.35  # overlap with every face below which a place is none
WINDOWS = 16_000  # without a face, behind the template's statistics
PAGES = 24  # on which they are looked for
BAND = 2_500_000  # pixels of a scaled page that are looked at in one piece


# ---- features ----------------------------------------------------------------------------------------------


def features(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> (B, CHANNELS, H // 4, W // 4), each value about -1 .. 3.

    The direction of a gradient is kept as its double angle, summed over the colours: ink on paper and paper on
    ink are alike, and no colour has to win.
    """
    x = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across, down = x[:, :, 1:-1, 2:] - x[:, :, 1:-1, :-2], x[:, :, 2:, 1:-1] - x[:, :, :-2, 1:-1]
    cos = (across.square() - down.square()).sum(1, keepdim=True)
    sin = 2 * (across * down).sum(1, keepdim=True)
    length = torch.hypot(cos, sin) + 1e-6
    strength = length.sqrt().clamp(max=0.4) / length  # of strong outlines all are alike
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


def as_tensor(pictures: Pixels) -> Tensor:
    """(..., H, W, 3) uint8 -> (B, 3, H, W) in 0..1."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).float().div_(255)
    return x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2).contiguous()


def crop(
    picture: Pixels, face: Face, pixels: tuple[int, int], inner: tuple[float, float], mirror: bool
) -> Pixels:
    """The upright face stretched to `inner` (width, height) in the middle of a crop of `pixels`."""
    scale = (inner[0] / face.width, inner[1] / face.height)
    reduce = min(max(1, int(1 / max(scale))), 12)  # drawn larger first, then averaged: thin lines stay
    sx, sy = (s * reduce for s in scale)
    width, height = (n * reduce for n in pixels)
    cos, sin = math.cos(math.radians(face.roll)), math.sin(math.radians(face.roll))
    (x, y), flip = face.centre, -1 if mirror else 1
    a, b, c, d = flip * sx * cos, flip * sx * sin, -sy * sin, sy * cos
    matrix = np.array([[a, b, width / 2 - 0.5 - a * (x - 0.5) - b * (y - 0.5)],
                       [c, d, height / 2 - 0.5 - c * (x - 0.5) - d * (y - 0.5)]])  # fmt: skip
    found = cv2.warpAffine(
        picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if reduce > 1:
        found = cv2.resize(found, pixels, interpolation=cv2.INTER_AREA)
    return np.asarray(found, np.uint8)


# ---- the template ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """What is looked for, and how large.

    kernel: (2, CHANNELS, rows, columns), the template and its mirror image
    face: width and height of the face in cells; sizes: of the faces to look for, pixels, smallest and largest
    """

    kernel: Tensor
    face: tuple[float, float]
    sizes: tuple[float, float]

    @property
    def cells(self) -> tuple[int, int]:
        return _cells(self.face)


def _cells(face: tuple[float, float]) -> tuple[int, int]:
    """Columns and rows of a template."""
    return math.ceil(face[0]) + 2 * MARGIN, math.ceil(face[1]) + 2 * MARGIN


@dataclass(frozen=True)
class _Band:
    """A band of the picture at one scale, with a margin around it in which a template at its edge ends.

    top: its first row, in pixels of the picture; share: how much of the picture it holds
    features: (1, CHANNELS, h, w)
    """

    scale: float
    top: int
    share: float
    features: Tensor


def _bands(picture: Pixels, sizes: tuple[float, float], cells: tuple[int, int]) -> Iterator[_Band]:
    """The whole picture at every scale at which a face of one of the `sizes` has the template's size."""
    height, width = picture.shape[:2]
    pad, columns, rows = MARGIN * CELL, cells[0] * CELL, cells[1] * CELL
    scale, last = FACE_CELLS * CELL / sizes[0], FACE_CELLS * CELL / sizes[1]
    while scale >= last / STEP**0.5:
        high = max(4 * rows, int(BAND / (width * scale)))  # rows of one band, of the scaled picture
        for begin in range(0, max(1, math.ceil(height * scale) - rows), high - rows):
            top, bottom = int(begin / scale), min(height, math.ceil((begin + high) / scale))
            size = (round(width * scale), round((bottom - top) * scale))
            if min(size) > 0 and size[0] + 2 * pad >= columns and size[1] + 2 * pad >= rows:
                how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
                part = cv2.resize(picture[top:bottom], size, interpolation=how)
                part = cv2.copyMakeBorder(part, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
                yield _Band(
                    scale, top, (bottom - top) / height, features(as_tensor(np.asarray(part, np.uint8)))
                )
        scale /= STEP


def _boxes(column: Tensor, row: Tensor, band: _Band, face: tuple[float, float]) -> Tensor:
    """(n, 4) boxes in the picture where the template lies at `column`, `row` of a band."""
    columns, rows = _cells(face)
    cell = CELL / band.scale
    x, y = (column + columns / 2 - MARGIN) * cell, (row + rows / 2 - MARGIN) * cell + band.top
    half_width, half_height = (n * cell / 2 for n in face)
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1).double()


def _overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """(n, 4) and (4,) -> (n,): intersection over union."""
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clamp(min=0).prod(1)
    area, other = (boxes[:, 2:] - boxes[:, :2]).prod(1), (box[2:] - box[:2]).prod()
    return common / (area + other - common)


def away(boxes: Tensor, faces: Sequence[Face]) -> Tensor:
    """Which of the boxes (n, 4) are no face, as indices."""
    far = torch.ones(len(boxes), dtype=torch.bool)
    for face in faces:
        far &= _overlaps(boxes, torch.tensor(face.box).double()) < BACKGROUND
    return torch.nonzero(far)[:, 0]


def learn_template(examples: Sequence[Example], rng: np.random.Generator) -> Template:
    """The template of the faces on completely marked pages. Raises Problem where there is nothing beside them."""
    marked = [face for _, faces in examples for face in faces]
    aspect = math.exp(float(np.mean([math.log(face.width / face.height) for face in marked])))
    face = (FACE_CELLS * math.sqrt(aspect), FACE_CELLS / math.sqrt(aspect))
    sides = [math.sqrt(f.width * f.height) for f in marked]
    sizes = (max(LEAST_SIDE, BEYOND[0] * min(sides)), BEYOND[1] * max(sides))
    mean, covariance = _background(examples, face, sizes, rng)
    columns, rows = _cells(face)

    both = []  # of each marked face its features as it is, and mirrored
    for picture, faces in examples:
        for one in faces:
            inner, air = (face[0] * CELL, face[1] * CELL), 3  # air: cells around, so that edges are seen
            pixels = ((columns + 2 * air) * CELL, (rows + 2 * air) * CELL)
            crops = np.stack([crop(picture, one, pixels, inner, mirror) for mirror in (False, True)])
            both.append(features(as_tensor(crops))[:, :, air:-air, air:-air].flatten(1))
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
    weights = weights / (weights @ covariance @ weights).sqrt()  # the background's scores spread by 1
    kernel = weights.reshape(CHANNELS, rows, columns)
    turned = [-k % DIRECTIONS for k in range(DIRECTIONS)]  # a mirrored direction
    mirrored = kernel[[*turned, *range(DIRECTIONS, CHANNELS)]].flip(2)
    return Template(torch.stack([kernel, mirrored]).float(), face, sizes)


def _background(
    examples: Sequence[Example],
    face: tuple[float, float],
    sizes: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of what the template meets away from the faces."""
    columns, rows = _cells(face)
    pages = [examples[k] for k in rng.permutation(len(examples))[:PAGES].tolist()]
    each = WINDOWS / len(pages) / max(1.0, math.log(sizes[1] / sizes[0], STEP))
    seen = []
    for picture, faces in pages:
        for band in _bands(picture, sizes, (columns, rows)):
            high, wide = band.features.shape[2] - rows + 1, band.features.shape[3] - columns + 1
            count = min(high * wide, math.ceil(each * band.share))
            places = torch.from_numpy(rng.choice(high * wide, count, replace=False))
            boxes = _boxes(places % wide, places // wide, band, face)
            for k in away(boxes, faces).tolist():
                row, column = divmod(int(places[k]), wide)
                seen.append(band.features[0, :, row : row + rows, column : column + columns].flatten())
    if not seen:
        raise Problem("the marked pages show nothing but faces: mark pages with some background too")
    x = torch.stack(seen)
    mean = x.mean(0)
    x -= mean
    covariance = ((x.T @ x) / len(x)).double()
    ridge = 0.05 * covariance.diagonal().mean() + 1e-4  # blank pages have no variance at all
    return mean.double(), covariance + ridge * torch.eye(len(mean)).double()


def best_places(template: Template, picture: Pixels, most: int, apart: float = 0.6) -> list[Face]:
    """Where the template fits best, at most `most` places, the best first, none overlapping a better one by
    more than `apart`. Their scores have no scale: they are for comparison."""
    values, boxes = [torch.zeros(0)], [torch.zeros(0, 4).double()]
    for band in _bands(picture, template.sizes, template.cells):
        scores = F.conv2d(band.features, template.kernel)[0].amax(0)
        peaks = scores == F.max_pool2d(scores[None], 3, 1, 1)[0]
        rows, columns = torch.nonzero(peaks, as_tuple=True)
        best = scores[rows, columns].argsort(descending=True, stable=True)[: 2 * most]
        values.append(scores[rows, columns][best])
        boxes.append(_boxes(columns[best], rows[best], band, template.face))
    value, box = torch.cat(values), torch.cat(boxes)
    best = value.argsort(descending=True, stable=True)[: 3 * most]
    value, box = value[best], box[best]
    kept: list[Face] = []
    while len(value) and len(kept) < most:
        left, top, right, bottom = box[0].tolist()
        kept.append(Face((left, top, right, bottom), score=float(value[0])))
        rest = _overlaps(box, box[0]) <= apart
        value, box = value[rest], box[rest]
    return kept

"""A reader of labels: learns from pictures that have a class, says how probable each class is for others, and
how often it is right about pictures that it has not learned from.

The pictures must all be framed in the same way, because places are compared with places: edges by direction
and colours, each averaged over small cells (after Dalal and Triggs: Histograms of oriented gradients for human
detection, CVPR 2005), then logistic regression. Chosen by measurement on photos of faces in four uneven groups,
a fifth or half of 542 labelled: a small convolutional network with augmentation took a hundred times as long and
was not right more often, the two together gained 2 points at most; the same regression on the `tiny` features was
8 points behind. On flat drawings, a fifth of 1386 labelled, a short training of the network fell 7 points behind.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewtoon.errors import Problem

SIDE = 64  # pixels to which every picture is brought
CELLS = (16, 8)  # cells per side, of the edges at full and at half size
COLOUR_CELLS = 16
DIRECTIONS = 8
FAINT = 0.02  # edge energy is counted from about this amplitude on, of a range of 1
FOLDS = 10
MANY = 1000  # pictures from which on half as many folds tell as much
PENALTY = 3e-5  # half of it on the squared weights; less is better for clean labels, more for doubtful ones
STEPS = 100  # of L-BFGS at most; it rarely needs as many
CHUNK = 32  # pictures at once, so that memory does not grow with their number
MOST = 4000  # pictures that are learned from at most: a minute or two; of more, so many at random


@dataclass(frozen=True)
class Reader:
    """What `train_reader` learned.

    classes: names, in the order of the columns of all probabilities
    unseen: (N, C) of the pictures given to `train_reader`: their probabilities by readers that had not seen
        them (cross-validation, calibration included), so an honest sample of its work. Rows of NaN where
        there is none: without a label, the only picture of a class, and pictures beyond MOST.
    folds: of the cross-validation; 0: there was none, because no class has two different pictures
    """

    classes: tuple[str, ...]
    unseen: NDArray[np.float64]
    folds: int
    _model: _Linear
    _calibration: _Calibration

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, C), rows sum to 1, of pictures (N, S, S, 3) uint8 RGB, framed like those it learned from.

        Calibrated: of the pictures given 0.9, about nine in ten are right, if the classes are as frequent
        among them as among those it learned from. Raises Problem for arrays of another shape or kind.
        """
        _check(images)
        scores = [np.empty((0, len(self.classes)))]
        for start in range(0, len(images), CHUNK):
            scores.append(self._model(measure(images[start : start + CHUNK])))
        return self._calibration(np.concatenate(scores))


def train_reader(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer] | Sequence[int],
    classes: Sequence[str],
    seed: int = 0,
    *,
    mirror: bool = True,
) -> Reader:
    """Learn from pictures (N, S, S, 3) uint8 RGB with `labels` (N,): an index into `classes`, -1: not known.

    All classes weigh the same, however many pictures they have. mirror: the mirror image of a picture is of
    the same class. seed: decides the folds; the same arguments give the same reader.
    Stratified cross-validation: each class is spread over up to 10 folds, the same pixels twice always in
    one. A class of one picture (or copies of one) is learned, but cannot be validated.
    Raises Problem unless two classes have pictures, and for arguments that do not fit.
    """
    labels = np.asarray(labels)
    _check(images)
    _check_labels(images, labels, classes)
    rows = np.flatnonzero(labels >= 0)
    if len(rows) > MOST:
        rows = _drawn(rows, labels, seed)
    known = labels[rows]
    space = _space(_measured(images, rows, mirror))
    fold_of = _folds(images, rows, known, seed)
    folds = int(fold_of.max()) + 1
    scores = np.full((len(rows), len(classes)), np.nan)
    for fold in range(folds):
        model = _fit(space.places, known, fold_of != fold, len(classes))
        scores[fold_of == fold] = model(space.places[0, fold_of == fold])
    unseen = np.full((len(labels), len(classes)), np.nan)
    for fold in range(folds):  # calibrated by the other folds, so that this too is honest
        others = (fold_of >= 0) & (fold_of != fold)
        calibration = _calibrate(scores[others], known[others])
        unseen[rows[fold_of == fold]] = calibration(scores[fold_of == fold])
    calibration = _calibrate(scores[fold_of >= 0], known[fold_of >= 0])
    model = _fit(space.places, known, np.ones(len(rows), dtype=bool), len(classes))
    return Reader(tuple(classes), unseen, folds, space.lifted(model), calibration)


def _drawn(rows: NDArray[np.int64], labels: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """MOST of the rows at random, and small classes whole."""
    keys = np.random.default_rng(seed).random(len(rows))
    keys[np.bincount(labels[rows])[labels[rows]] <= 100] = -1.0
    return np.sort(rows[np.argsort(keys, kind="stable")[:MOST]])


def _check(images: NDArray[np.uint8]) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise Problem(
            f"a reader needs pictures (N, S, S, 3) of uint8, these are {images.shape} of {images.dtype}"
        )


def _check_labels(images: NDArray[np.uint8], labels: NDArray, classes: Sequence[str]) -> None:
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise Problem(
            f"{len(images)} pictures but labels {labels.shape} of {labels.dtype}: give one index each"
        )
    if len(labels) and not -1 <= labels.min() <= labels.max() < len(classes):
        raise Problem(
            f"labels {labels.min()} to {labels.max()} for {len(classes)} classes: give indices, -1 for not known"
        )
    found = len(np.unique(labels[labels >= 0]))
    if found < 2:
        raise Problem(f"{found} classes among {len(labels)} pictures: a reader needs two, label some of each")


# --------------------------------------------------------------------------------------------------------
# What is measured


def measure(images: NDArray[np.uint8]) -> Tensor:
    """(N, S, S, 3) uint8 RGB -> (N, D) float32: cell by cell how much edge of each direction, and the colour."""
    picture = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255.0
    if picture.shape[2:] != (SIDE, SIDE):
        picture = F.interpolate(picture, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    # Luminance, red against green, yellow against blue.
    opponent = torch.tensor([[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]])
    colour = torch.einsum("oc,nchw->nohw", opponent, picture)
    found = [_cells(colour, COLOUR_CELLS)]
    light = colour[:, :1]
    for cells in CELLS:
        even, odd = F.conv2d(F.pad(light, (3, 3, 3, 3), mode="reflect"), _gabor()).chunk(2, 1)
        # A logarithm, so that a faint line on a flat cheek counts beside a black outline.
        found.append(_cells(torch.log1p((even.square() + odd.square()) / FAINT**2), cells))
        light = F.avg_pool2d(light, 2)
    return torch.cat(found, 1)


def _cells(maps: Tensor, cells: int) -> Tensor:
    return F.avg_pool2d(maps, maps.shape[-1] // cells).flatten(1)


def _gabor(side: int = 7, wavelength: float = 4.0, sigma: float = 1.7) -> Tensor:
    """(2 * DIRECTIONS, 1, side, side): the even filters, then the odd ones; blind to a flat area, unit gain."""
    reach = torch.arange(side) - side // 2
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    window = torch.exp(-(x * x + y * y) / (2.0 * sigma * sigma))
    angles = torch.arange(DIRECTIONS)[:, None, None] * (math.pi / DIRECTIONS)
    phase = (x * torch.cos(angles) + y * torch.sin(angles)) * (2.0 * math.pi / wavelength)
    filters = torch.cat([torch.cos(phase), torch.sin(phase)]) * window
    filters -= window * (filters.sum((1, 2), keepdim=True) / window.sum())
    return (filters / filters.square().sum((1, 2), keepdim=True).sqrt())[:, None]


def _measured(images: NDArray[np.uint8], rows: NDArray[np.int64], mirror: bool) -> Tensor:
    """(1 or 2, N, D): of the pictures in `rows` and, if asked, of their mirror images."""
    views = [1, -1] if mirror else [1]
    dim = measure(images[rows[:1]]).shape[1]
    found = torch.empty(len(views), len(rows), dim)
    for start in range(0, len(rows), CHUNK):
        part = images[rows[start : start + CHUNK]]
        for view, step in enumerate(views):
            found[view, start : start + CHUNK] = measure(part[:, :, ::step])
    return found


# --------------------------------------------------------------------------------------------------------
# What is learned


@dataclass(frozen=True)
class _Linear:
    """Scores (N, C) of features (N, D)."""

    centre: Tensor  # (D,)
    weight: Tensor  # (D, C)
    bias: Tensor  # (C,)

    def __call__(self, features: Tensor) -> NDArray[np.float64]:
        return ((features - self.centre) @ self.weight + self.bias).double().numpy()


@dataclass(frozen=True)
class _Space:
    """Where the pictures that are learned from lie, all features on one scale.

    places: (views, N, K); a place is (features - centre) * scale @ basis. basis: (D, K), None: no change
    """

    places: Tensor
    centre: Tensor  # (D,)
    scale: Tensor  # (D,)
    basis: Tensor | None

    def lifted(self, model: _Linear) -> _Linear:
        """A model of places as one of features."""
        weight = model.weight if self.basis is None else self.basis @ model.weight
        return _Linear(self.centre, self.scale[:, None] * weight, model.bias)


def _space(features: Tensor) -> _Space:
    """The space of features (views, N, D), whose memory it takes. Labels have no part in it.

    Where pictures are fewer than features, K is their number: that spares time and changes nothing, because
    the weights that are learned lie in the span of the pictures. A smaller space, such as the largest principal
    components, would not be fair to pictures that are held out: their noise, to which it is fitted too, stays
    in, that of new pictures is left out.
    """
    x = features.flatten(0, 1)
    centre = x.mean(0)
    # Their joint length is about 1: the penalty then means the same for all.
    scale = 1.0 / ((x.std(0, correction=0) + 1e-3) * math.sqrt(x.shape[1]))
    x = x.sub_(centre).mul_(scale)
    basis = torch.linalg.qr(x.T).Q if len(x) < x.shape[1] else None
    places = x if basis is None else x @ basis
    return _Space(places.unflatten(0, features.shape[:2]), centre, scale, basis)


def _fit(places: Tensor, labels: NDArray[np.integer], chosen: NDArray[np.bool_], classes: int) -> _Linear:
    """Multinomial logistic regression on the `chosen` rows of places (views, N, K); all classes weigh the
    same."""
    x = places[:, chosen].flatten(0, 1)
    y = torch.from_numpy(np.tile(labels[chosen], places.shape[0])).long()
    counts = torch.bincount(y, minlength=classes).float()
    weights = (1.0 / counts[y]) / (counts > 0).sum()
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = F.cross_entropy(x @ weight + bias, y, reduction="none")
        total = (weights * error).sum() + PENALTY / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    return _Linear(torch.zeros(x.shape[1]), weight.detach(), bias.detach())


@dataclass(frozen=True)
class _Calibration:
    """Scores to probabilities that keep their word: softmax(slope * scores + bias)."""

    slope: float
    bias: NDArray[np.float64]

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        z = self.slope * scores + self.bias
        z = np.exp(z - z.max(1, keepdims=True))
        return z / z.sum(1, keepdims=True)


def _calibrate(scores: NDArray[np.float64], labels: NDArray[np.integer]) -> _Calibration:
    """The slope and biases that make validated scores (N, C) most probable.

    Platt: Probabilistic outputs for support vector machines, 1999, for several classes; with his targets,
    that leave a doubt even where nothing was wrong. The biases bring back how frequent the classes are.
    """
    count, classes = scores.shape
    if not count:
        return _Calibration(1.0, np.zeros(classes))
    spread = max(float((scores - scores.mean(1, keepdims=True)).std()), 1e-6)
    z = torch.from_numpy(scores / spread)
    target = torch.full((count, classes), 1.0 / (count + classes), dtype=torch.float64)
    target[torch.arange(count), torch.from_numpy(labels).long()] += count / (count + classes)
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)  # the logarithm of the slope
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([slope, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = F.cross_entropy(slope.exp() * z + bias, target, reduction="sum")
        total = error + 0.5 * (slope / 3).square() + 0.5 * (bias / 3).square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    return _Calibration(float(slope.detach().exp()) / spread, bias.detach().numpy())


# --------------------------------------------------------------------------------------------------------
# Cross-validation


def _folds(
    images: NDArray[np.uint8], rows: NDArray[np.int64], labels: NDArray[np.integer], seed: int
) -> NDArray[np.int64]:
    """The fold of each row, -1 for the classes that have one picture. A class is in two folds or more, so that
    the others always know it; equal pixels are in the same fold."""
    random = np.random.default_rng(seed)
    fold_of = np.full(len(rows), -1, dtype=np.int64)
    pixels = [hashlib.sha256(np.ascontiguousarray(images[row]).data).digest() for row in rows]
    bundles: dict[bytes, list[int]] = {}
    for i, key in enumerate(pixels):
        bundles.setdefault(key, []).append(i)
    by_class: dict[int, list[list[int]]] = {}
    for bundle in bundles.values():  # of twins of two classes, the first decides
        by_class.setdefault(int(labels[bundle[0]]), []).append(bundle)
    splittable = [stratum for _, stratum in sorted(by_class.items()) if len(stratum) > 1]
    if not splittable:
        return fold_of
    most = FOLDS if len(rows) < MANY else FOLDS // 2
    folds = min(most, max(len(stratum) for stratum in splittable))
    start = 0
    for stratum in splittable:
        for place, which in enumerate(random.permutation(len(stratum))):
            fold_of[stratum[which]] = (start + place) % folds
        start += len(stratum)  # so that the folds stay equally large
    return fold_of

"""Two readers of attributes in drawings, unlike in structure, that judge what a style drew.

Both learn from an artist's drawings, and are then shown a network's: a little blurred, shifted, in other
colours. So they learn from drawings that were varied in these ways. That matters. Of drawings in thin lines,
seen at 64 px and blurred with a sigma of one pixel, the reader of labels (`fewtoon.nets.reader`), which learns
from clean pictures and is right about 99 % of them, missed six pairs of glasses in ten; after varied drawings
the same kind of regression missed none of 120. The convolutional network costs more and is right as
often. It is there because it errs elsewhere: where the two agree, it is not for a weakness that they share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fewtoon.nets.reader import measure

SIDE = 64  # pixels to which every picture is brought
CHUNK = 64  # pictures at once, so that memory does not grow with their number
FOLDS = 3  # of the cross-validation; its models together judge new pictures
MOST = 3000  # drawings that are learned from at most, of all groups as evenly as can be
VARIED = 6000  # varied drawings that are learned from, if there are not very few to vary
EACH = 20  # varied drawings made of one, at most and on average
EVENNESS = 0.25  # a group has a part in them by this power of its size: 0 would be equal parts
PENALTY = 3e-5  # half of it on the squared weights of the regression
ITERATIONS = 60  # of L-BFGS at most
BATCH = 48
STEPS = 500  # of the network, fewer if there are few drawings
LEARNING_RATE = 6e-3
Model = Callable[[Tensor], Tensor]  # pictures (B, 3, SIDE, SIDE) uint8 -> logits (B, A)


@dataclass(frozen=True)
class Judge:
    """A trained reader of A attributes.

    kind: what it is, in a word
    unseen: (N, A) probabilities of value 1 of each attribute, for the drawings that it learned from, each by
        a model that had seen neither it nor its twins. NaN where there is none: of drawings beyond MOST, and
        where all drawings are twins.
    models: of the folds; a new picture is judged by the mean of their logits
    """

    kind: str
    unseen: NDArray[np.float64]
    models: Sequence[Model]

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(M, A) of pictures (M, S, S, 3) uint8 RGB. Both values are held to be equally frequent."""
        return _read(self.models, pictures(images))


def train_judges(known: Tensor, labels: NDArray, groups: NDArray, seed: int = 0) -> tuple[Judge, Judge]:
    """The regression on edges, and the convolutional network. The same arguments give the same judges.

    known: drawings (N, 3, SIDE, SIDE) uint8, as `pictures` makes them
    labels: (N, A) of 0 and 1, the value of each attribute
    groups: (N,) numbers from 0, of the groups among which no attribute differs
    """
    rows, fold_of = _folds(known, groups, seed)
    lessons = _lessons(known[rows], labels[rows], groups[rows], fold_of, seed)
    features, seen = _edges(lessons.pictures), _with_contrast(lessons.pictures)

    def regression(chosen: Tensor, fold: int) -> Model:
        return _regression(features[chosen], lessons.targets[chosen], lessons.weights[chosen])

    def network(chosen: Tensor, fold: int) -> Model:
        steps = min(60 + len(rows) // 2, STEPS)
        targets, weights = lessons.targets[chosen], lessons.weights[chosen]
        return _network(seen[chosen], targets, weights, steps, seed * FOLDS + fold)

    judges = []
    for kind, fit in (("edges", regression), ("convolutions", network)):
        models, unseen = [], np.full(labels.shape, np.nan)
        for fold in range(FOLDS):
            chosen = torch.from_numpy(np.flatnonzero(lessons.folds != fold))
            if len(chosen):
                models.append(fit(chosen, fold))
                held_out = rows[fold_of == fold]
                unseen[held_out] = _read(models[-1:], known[held_out])
        judges.append(Judge(kind, unseen, models))
    return judges[0], judges[1]


def _read(models: Sequence[Model], images: Tensor) -> NDArray[np.float64]:
    """Probabilities (M, A) of pictures (M, 3, SIDE, SIDE), each seen as it is and in the mirror."""
    read = []
    with torch.no_grad():
        for part in images.split(CHUNK):
            views = [part, part.flip(3)]
            logits = torch.stack([model(view) for model in models for view in views]).mean(0)
            read.append(torch.sigmoid(logits.double()))
    return torch.cat(read).numpy()


# --------------------------------------------------------------------------------------------------------
# What is learned from


@dataclass(frozen=True)
class _Lessons:
    """P varied drawings."""

    pictures: Tensor  # (P, 3, SIDE, SIDE) uint8
    targets: Tensor  # (P, A), 0 or 1
    weights: Tensor  # (P, A), 1 on average: both values of an attribute weigh the same
    folds: NDArray[np.int64]  # (P,) of the drawing that was varied


def pictures(images: NDArray[np.uint8], rows: NDArray[np.int64] | None = None) -> Tensor:
    """(N, S, S, 3) uint8 RGB, or some rows of them -> (n, 3, SIDE, SIDE) uint8."""
    rows = np.arange(len(images)) if rows is None else rows
    found = torch.empty(len(rows), 3, SIDE, SIDE, dtype=torch.uint8)
    for start in range(0, len(rows), CHUNK):
        part = torch.from_numpy(images[rows[start : start + CHUNK]]).permute(0, 3, 1, 2)
        if part.shape[-1] != SIDE:
            size = (SIDE, SIDE)
            part = F.interpolate(part.float(), size, mode="bilinear", antialias=True, align_corners=False)
            part = part.round().clamp(0, 255)
        found[start : start + CHUNK] = part
    return found


def _folds(known: Tensor, groups: NDArray, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which drawings are learned from, and the fold of each. Every group is spread over the folds; twins are
    in the same one."""
    random = np.random.default_rng(seed)
    place = np.empty(len(groups), dtype=np.int64)  # of a drawing among those of its group
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        place[random.permutation(members)] = np.arange(len(members))
    rows = np.sort(np.argsort(place, kind="stable")[:MOST])
    first: dict[bytes, int] = {}
    fold_of = np.empty(len(rows), dtype=np.int64)
    for i, row in enumerate(rows):
        twins = hashlib.sha256(known[row].numpy().data).digest()
        fold_of[i] = first.setdefault(twins, int(place[row] + groups[row]) % FOLDS)
    return rows, fold_of


def _lessons(known: Tensor, labels: NDArray, groups: NDArray, fold_of: NDArray, seed: int) -> _Lessons:
    """Varied drawings. Small groups have more of them than their part, because the judges are asked about
    all groups; not as many as the large ones, because what the few have in common by chance would be learned."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    present, counts = np.unique(groups, return_counts=True)
    total = min(max(VARIED, 2 * len(groups)), EACH * len(groups))
    parts = np.ceil(total * counts**EVENNESS / (counts**EVENNESS).sum()).astype(int)
    rows = np.concatenate(
        [
            np.resize(random.permutation(np.flatnonzero(groups == group)), part)
            for group, part in zip(present, parts)
        ]
    )
    varied = [vary(known[part] / 255.0, generator) for part in torch.from_numpy(rows).split(CHUNK)]
    targets = torch.from_numpy(labels[rows]).float()
    share = targets.mean(0)
    weights = 0.5 / torch.where(targets > 0, share, 1 - share)
    seen = torch.cat([(part * 255.0).round().to(torch.uint8) for part in varied])
    return _Lessons(seen, targets, weights, fold_of[rows])


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, S, S) in [0, 1] as a network might have drawn them: in the mirror or not, a little turned, moved,
    larger or smaller, often blurred, in other colours, with some noise. Each in its own way."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(images), *shape, generator=generator)

    angle, zoom, move = uniform(-0.14, 0.14), uniform(0.9, 1.1), uniform(-0.1, 0.1, 2)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    across = torch.stack([mirror * cos, -sin, move[:, 0]], 1)
    down = torch.stack([mirror * sin, cos, move[:, 1]], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    sharp = uniform(0, 1, 1, 1, 1) < 0.4
    seen = torch.where(sharp, moved, _blurred(moved, uniform(0.3, 1.8)))
    contrast, light = uniform(0.7, 1.3, 1, 1, 1), uniform(-0.12, 0.12, 3, 1, 1)
    seen = (seen - 0.5) * contrast + 0.5 + light
    noise = torch.randn(seen.shape, generator=generator)
    return (seen + noise * uniform(-0.05, 0.05, 1, 1, 1).clamp(min=0)).clamp(0, 1)


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Pictures (B, C, S, S), blurred by a Gaussian of their own sigma (B,) in pixels."""
    count, channels, side, _ = images.shape
    kernel = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    x = F.pad(images.reshape(1, count * channels, side, side), (4, 4, 4, 4), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None], groups=count * channels)
    return F.conv2d(x, kernel[:, :, :, None], groups=count * channels).reshape(images.shape)


# --------------------------------------------------------------------------------------------------------
# Edges


def _edges(images: Tensor) -> Tensor:
    """(N, D): edges by direction and colours, cell by cell, of pictures (N, 3, SIDE, SIDE) uint8."""
    return torch.cat([measure(part.permute(0, 2, 3, 1).numpy()) for part in images.split(CHUNK)])


def _regression(features: Tensor, targets: Tensor, weights: Tensor) -> Model:
    """Logistic regression of targets (P, A) on features (P, D)."""
    centre = features.mean(0)
    scale = 1.0 / ((features.std(0, correction=0) + 1e-3) * math.sqrt(features.shape[1]))
    x = (features - centre) * scale
    weight = torch.zeros(x.shape[1], targets.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = F.binary_cross_entropy_with_logits(x @ weight + bias, targets, weights, reduction="none")
        total = error.mean(0).sum() + PENALTY / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    lifted = (scale[:, None] * weight).detach()
    offset = bias.detach() - centre @ lifted
    return lambda images: _edges(images) @ lifted + offset


# --------------------------------------------------------------------------------------------------------
# Convolutions


class _Convolutions(nn.Sequential):
    """(B, 4, SIDE, SIDE) in [-0.5, 0.5] -> logits (B, A); where something lies counts."""

    def __init__(self, attributes: int) -> None:
        def layer(into: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
            return [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]

        super().__init__(
            *layer(4, 16, 5, 2),
            *layer(16, 32, 3, 2),
            *layer(32, 64, 3, 2),
            *layer(64, 64, 3, 1),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(64 * (SIDE // 16) ** 2, attributes),
        )


def _network(seen: Tensor, targets: Tensor, weights: Tensor, steps: int, seed: int) -> Model:
    """Trained on what `_with_contrast` gives of P drawings; targets (P, A)."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # the first weights, the batches, and what is dropped
        model = _Convolutions(targets.shape[1])
        optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(seen), (BATCH,))
            logits = model(_centred(seen[rows]))
            loss = F.binary_cross_entropy_with_logits(logits, targets[rows], weights[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
    return lambda images: model(_centred(_with_contrast(images)))


def _with_contrast(images: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 -> (B, 4, S, S) uint8: the fourth is lightness less its mean in a window, over its
    deviation there. Without it, dark frames on dark skin were missed more often than on light skin."""
    found = torch.empty(len(images), 4, *images.shape[2:], dtype=torch.uint8)
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        light = torch.einsum("c,nchw->nhw", torch.tensor([0.299, 0.587, 0.114]), part / 255.0)[:, None]
        mean = _averaged(light)
        deviation = (_averaged(light.square()) - mean.square()).clamp(min=0).sqrt()
        contrast = (light - mean) / (deviation + 0.03)
        found[start : start + CHUNK, :3] = part
        found[start : start + CHUNK, 3:] = ((0.5 + 0.2 * contrast) * 255.0).round().clamp(0, 255)
    return found


def _averaged(images: Tensor, window: int = 9) -> Tensor:
    around = F.pad(images, (window // 2,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(around, (window, 1), 1), (1, window), 1)


def _centred(images: Tensor) -> Tensor:
    return (images / 255.0 - 0.5).contiguous(memory_format=torch.channels_last)  # faster

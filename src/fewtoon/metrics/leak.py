"""Leaks: do a style's drawings show the augmentations that its discriminators saw?

A generator whose discriminators never see a picture as it is may come to draw augmented ones: turned, mirrored
or in false colours (Karras et al., arXiv:2006.06676, section 2.2 and appendix C). Two figures look for that, each
for every kind of augmentation that the style used: what a detector says that learned to tell the artist's
drawings from the same ones augmented, and how often plain statistics leave the range of the artist's.

A style's drawings differ from the artist's in ways that have nothing to do with augmentation: faces lie where
the photo has them, and lines are soft. The detector is therefore shown such drawings too, as not augmented, and
held-out drawings treated alike are the control. So that one kind is not taken for another, a part of all the
pictures, augmented or not, have what the other kinds do.

Neither is enough alone. Measured at 64 px on styles trained too briefly: of upright but smudged drawings the
detector called 16 % turned, of better ones 5 %, and of the artist's none; their statistics stayed within the
range of the artist's. Of the same drawings with a quarter of them turned by 90 degrees, upside down or in false
colours, both figures went up by about a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewtoon.augment import geometry
from fewtoon.augment.batch import Array, Dice
from fewtoon.augment.pipeline import Pipeline
from fewtoon.data.suggest import wilson
from fewtoon.errors import Problem
from fewtoon.nets.reader import Reader, train_reader
from fewtoon.style import to_pixels, to_tensor

Pictures = NDArray[np.uint8]
Measure = Callable[[Pictures, Array], Array]
VIEWS = 400  # pictures of either class that a detector learns from
CHECKS = 200  # held-out drawings, again and again where they are fewer, in the control
FEW = 10  # training drawings, or held-out ones, below which nothing can be said
ENOUGH = 0.75  # accuracy below which a detector that finds nothing says nothing
NUISANCE = 0.3  # probability of what the other kinds do
USUAL = 0.99  # share of the training drawings, as they are or posed, within the range of a statistic
RESAMPLES = 200  # of the bootstrap
CHUNK = 32  # pictures at once


def leak(
    fakes: Pictures,
    real: Pictures,
    training: Pictures,
    operations: Sequence[str],
    fill: str = "reflect",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """What `fakes` show of the augmentations that a style was trained with.

    fakes: translations of held-out photos; real: held-out drawings; training: those that the style learned
    from; (N, S, S, 3) uint8 RGB, N >= 1 fakes and 10 of the others. operations, fill: of `augment.Pipeline`.

    Returns for each kind in use of "geometry" (blit and geometry), "colour", "filter", "noise" and "cutout":
    share, real_share, control_share: of the fakes, of the held-out drawings, and of these shifted, tilted, scaled
        and blurred a little, what a detector calls augmented; each with its interval (Wilson's, 95 %)
    detector_accuracy: over held-out drawings, half of them augmented; it has learned from none of them
    towards_augmented, towards_interval: how often a statistic of the fakes is out of the training drawings'
        range: 0, as often as of held-out drawings and controls, to 1, as often as of augmented ones, with the
        95 % interval of a bootstrap; None, [None, None] where the statistics do not tell these two apart
    leaks: whether the share is above that of the held-out drawings and that of the controls, and
        towards_augmented, where there is one, above 0, each by more than chance; None where the detector is
        wrong too often to say no
    note: None, or why leaks is None

    Raises Problem for too few pictures, and for operations or a fill that there are not.
    """
    used = Pipeline(operations, fill).operations
    for name, pictures, least in (("fakes", fakes, 1), ("held-out", real, FEW), ("training", training, FEW)):
        if len(pictures) < least:
            raise Problem(
                f"{len(pictures)} {name} drawings, at least {least} are needed to look for leaking augmentations"
            )
    # torch's generator is used by every draw and left as it was found.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        learned = training[torch.randperm(len(training)).numpy()[: VIEWS // 2]]
        plain = np.concatenate([learned, _posed(learned, VIEWS - len(learned), fill)])
        control = _posed(real, CHECKS, fill)
        mean = learned.mean((0, 3))
        found = {}
        for kind, (names, measure) in KINDS.items():
            chosen = [name for name in used if name in names]
            others = [name for name in used if name not in names]
            if chosen:
                pipeline = Pipeline(chosen, fill)
                augmented = _augmented(control, pipeline)
                seen = _augmented(plain, Pipeline(others, fill), NUISANCE) if others else plain
                detector = _detector(seen, _augmented(seen, pipeline), seed)
                called = _called(detector, fakes, real, control, augmented)
                sets = (plain, fakes, np.concatenate([real, control]), augmented)
                towards = _towards([_measured(pictures, measure, mean) for pictures in sets], seed)
                found[kind] = {**called, **towards, **_verdict(called, towards)}
    return found


# --- the detector ----------------------------------------------------------------------------------------


def _detector(plain: Pictures, augmented: Pictures, seed: int) -> Reader:
    labels = np.repeat([0, 1], [len(plain), len(augmented)])
    classes = ("as drawn", "augmented")
    return train_reader(np.concatenate([plain, augmented]), labels, classes, seed, mirror=False)


def _called(
    detector: Reader, fakes: Pictures, real: Pictures, control: Pictures, augmented: Pictures
) -> dict[str, Any]:
    """The detector's figures."""
    found: dict[str, Any] = {}
    sets = {"": (fakes, len(fakes)), "real_": (real, len(real)), "control_": (control, len(real))}
    for prefix, (pictures, n) in sets.items():
        n = min(n, len(pictures))  # a drawing that was posed several times counts once
        share = float((detector.probabilities(pictures)[:, 1] > 0.5).mean())
        found |= {f"{prefix}share": share, f"{prefix}interval": list(wilson(round(share * n), n))}
    right = float((detector.probabilities(augmented)[:, 1] > 0.5).mean())
    return {**found, "detector_accuracy": (1 - found["control_share"] + right) / 2}


def _verdict(called: dict[str, Any], towards: dict[str, Any]) -> dict[str, Any]:
    """{"leaks", "note"}. That a share is above another one: the lower end of the difference's 95 % interval, after
    Newcombe: Interval estimation for the difference between independent proportions, 1998, method 10.
    """
    share, low = called["share"], called["interval"][0]
    above = [
        share - there - math.hypot(share - low, high - there) > 0
        for there, high in (
            (called[f"{name}_share"], called[f"{name}_interval"][1]) for name in ("real", "control")
        )
    ]
    leaks = all(above) and towards["towards_interval"][0] != 0.0
    accuracy = called["detector_accuracy"]
    if not leaks and accuracy < ENOUGH:
        return {"leaks": None, "note": f"the detector is right in {accuracy:.0%} only"}
    return {"leaks": leaks, "note": None}


# --- pictures ----------------------------------------------------------------------------------------------


def _augmented(pictures: Pictures, pipeline: Pipeline, p: float = 1.0) -> Pictures:
    return _chunkwise(pictures, lambda images: pipeline(images, p))


def _posed(pictures: Pictures, count: int, fill: str) -> Pictures:
    """`count` pictures, the same again and again where they are fewer, each as a translated photo may lie: facing
    either way, up to 8 % off, tilted by up to 10 degrees, up to 10 % larger or smaller, and soft."""

    def pose(images: Tensor) -> Tensor:
        dice, size = Dice(len(images), 1.0), images.shape[-1]
        soft = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        soft = F.interpolate(soft, images.shape[2:], mode="bilinear", align_corners=False)
        images = images.lerp(soft, torch.rand(len(images), 1, 1, 1))
        even, angle = dice.uniform(0.9, 1.1), np.radians(dice.uniform(-10, 10))
        shift = geometry.moved(*(size * dice.uniform(-0.08, 0.08) for _ in "xy"))
        facing = geometry.scaled(1 - 2 * dice.whole(2), 1.0)
        matrices = shift @ geometry.turned(angle) @ geometry.scaled(even, even) @ facing
        return geometry.transform(images, geometry.sources(matrices, size), fill)

    return _chunkwise(pictures[np.arange(count) % len(pictures)], pose)


def _chunkwise(pictures: Pictures, work: Callable[[Tensor], Tensor]) -> Pictures:
    return np.concatenate([to_pixels(work(to_tensor(part))) for part in _chunks(pictures)])


def _chunks(pictures: Pictures) -> list[Pictures]:
    return [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]


# --- statistics --------------------------------------------------------------------------------------------


def _measured(pictures: Pictures, measure: Measure, mean: Array) -> Array:
    return np.concatenate([measure(part, mean) for part in _chunks(pictures)])


def _uprightness(pictures: Pictures, mean: Array) -> Array:
    """(N, 3): how much more like the mean drawing (S, S) than like that turned by 90, 180 or 270 degrees;
    symmetry of left and right; edges of the upper half against those of the lower half. Dark for light
    changes none of them."""
    light = pictures.mean(3)
    turned = np.stack([_likeness(light, np.rot90(mean, k)) for k in (1, 2, 3)])
    rows = np.abs(np.diff(light, axis=2)).mean(2) + 1e-6
    half = rows.shape[1] // 2
    upper, lower = rows[:, :half].sum(1), rows[:, -half:].sum(1)
    upright = _likeness(light, mean) - turned.max(0)
    return np.stack([upright, _likeness(light, light[:, :, ::-1]), (upper - lower) / (upper + lower)], 1)


def _colours(pictures: Pictures, mean: Array) -> Array:
    """(N, 9): luma, saturation, red against green, yellow against blue, the means of the picture and of its
    middle, where the face is; deviation of luma."""
    x = pictures / 255.0
    luma, (red, green, blue) = x.mean(3), np.moveaxis(x, 3, 0)
    maps = np.stack([luma, x.max(3) - x.min(3), red - green, (red + green) / 2 - blue], 1)
    edge = maps.shape[-1] // 4
    middle = maps[:, :, edge:-edge, edge:-edge]
    means = [part.mean((2, 3)) for part in (maps, middle)]
    return np.concatenate([*means, luma.std((1, 2))[:, None]], 1)


def _texture(pictures: Pictures, mean: Array) -> Array:
    """(N, 3): logarithms of the energy between neighbours, and between those of the picture at half its size;
    share of pixels of mid-grey."""
    light = pictures.mean(3) / 255.0
    half = light.shape[1] // 2
    coarse = light[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2).mean((2, 4))
    energies = [np.log((np.diff(part, axis=2) ** 2).mean((1, 2)) + 1e-6) for part in (light, coarse)]
    return np.stack([*energies, (np.abs(pictures - 127.5) < 2).all(3).mean((1, 2))], 1)


# Operations of each kind, and the statistics (N, K) of pictures (N, S, S, 3) that they change.
KINDS: dict[str, tuple[tuple[str, ...], Measure]] = {
    "geometry": (("blit", "geometry"), _uprightness),
    "colour": (("color",), _colours),
    "filter": (("filter",), _texture),
    "noise": (("noise",), _texture),
    "cutout": (("cutout",), _texture),
}


def _likeness(a: Array, b: Array) -> Array:
    """(N,): correlation over the pixels, without its sign."""
    a, b = a - a.mean((-2, -1), keepdims=True), b - b.mean((-2, -1), keepdims=True)
    scale = np.sqrt((a * a).sum((-2, -1)) * (b * b).sum((-2, -1)))
    return np.abs((a * b).sum((-2, -1))) / np.maximum(scale, 1e-9)


def _towards(measured: Sequence[Array], seed: int) -> dict[str, Any]:
    """Of statistics (n, K) of what was learned from, of fakes, plain and augmented: the share of the fakes beyond
    the range of the first, on a scale where 0 is the share of the plain and 1 that of the augmented."""
    known, *others = measured
    low, high = np.quantile(known, [(1 - USUAL) / 2, (1 + USUAL) / 2], axis=0)
    beyond = [((part < low) | (part > high)).any(1) for part in others]
    if beyond[2].mean() - beyond[1].mean() < 0.2:
        return {"towards_augmented": None, "towards_interval": [None, None]}

    def place(parts: Sequence[NDArray[np.bool_]]) -> float:
        drawn, none, whole = (part.mean() for part in parts)
        return float(np.clip((drawn - none) / max(whole - none, 1e-9), 0, 1))

    random = np.random.default_rng(seed)
    again = [place([random.choice(part, len(part)) for part in beyond]) for _ in range(RESAMPLES)]
    return {
        "towards_augmented": place(beyond),
        "towards_interval": [float(edge) for edge in np.quantile(again, (0.025, 0.975))],
    }

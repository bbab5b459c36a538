"""A finder that learns one artist's faces from the boxes that a person marked, in seconds, on one core.

A template (faces/template.py) leaves two hundred places per page, the faces among them. Small convolutional
networks judge these places and set the box right. They are trained on the marked faces (moved, scaled,
put on other grounds, mirrored) against the places where the template errs on the marked pages. Each has seen
only a part of the boxes; how it judges the rest tells what its scores are worth.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.faces.face import Box, Face, distinct, turn
from fewtoon.faces.panels import covered
from fewtoon.faces.template import (
    CELL,
    CHANNELS,
    PAGES,
    Example,
    Pixels,
    Template,
    as_tensor,
    away,
    best_places,
    crop,
    features,
    learn_template,
)

VERSION = 1  # raise it when the same boxes teach something else: part of the identity
CROP = 16  # cells of a judged place; the face takes CROP_FACE of them
CROP_FACE = 8.5
PLACES = 200  # of a page of 1.4 megapixels that are judged
POSITIVES = 1200  # crops of marked faces, moved and mirrored
NEGATIVES = 4000
GROUNDS = 0.4  # share of crops that are put on another ground
TONES = 200  # crops of invented screentone
NETWORKS = 3
WIDE = 32  # channels of a network's first layer
STEPS = 300
BATCH = (16, 48)  # faces and others
LEAST = 0.05  # score below which a place is not worth a proposal
LEAST_BOX = 4  # pixels
ENOUGH = 60  # pixels of the smallest face; larger ones are looked at smaller


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
        x = F.dropout2d(x.contiguous(memory_format=torch.channels_last), 0.15, self.training)  # twice as fast
        x = F.max_pool2d(F.relu(self.norm1(self.first(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.second(x))), 2)
        x = F.dropout(x.flatten(1), 0.3, self.training)
        return self.last(F.relu(self.third(x)))


# ---- what the judges learn from ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Crops:
    """What the judges learn from: features of crops of faces, of which marked face each is, where in the crop
    the face really lies (as _Judge says it), and features of crops without one, of which place each is."""

    faces: Tensor
    owner: Tensor
    offsets: Tensor
    others: Tensor
    place: Tensor

    def without(self, k: int) -> _Crops:
        """Without the faces and places that judge `k` is tried on."""
        known, met = self.owner % NETWORKS != k, self.place % NETWORKS != k
        faces = (self.faces[known], self.owner[known], self.offsets[known])
        return _Crops(*faces, self.others[met], self.place[met])


def _judged(picture: Pixels, face: Face, mirror: bool = False) -> Pixels:
    """The crop that the networks judge, (64, 64, 3)."""
    return crop(picture, face, (CROP * CELL,) * 2, (CROP_FACE * CELL,) * 2, mirror)


def _moved(
    face: Face, rng: np.random.Generator, far: float, larger: float
) -> tuple[Face, tuple[float, float, float]]:
    """The face's box moved and scaled by lot, and the way back (as _Judge says it, but not times 10)."""
    x, y, size = (float(v) for v in rng.uniform(-1, 1, 3) * (far, far, larger))
    grown = math.exp(size)
    dx, dy = turn(x * face.width, y * face.height, face.roll)
    (cx, cy), width, height = face.centre, face.width * grown / 2, face.height * grown / 2
    box = (cx + dx - width, cy + dy - height, cx + dx + width, cy + dy + height)
    return replace(face, box=box, points=None), (-x / grown, -y / grown, -size)


def _collect(examples: Sequence[Example], template: Template, rng: np.random.Generator) -> _Crops:
    """Crops of the marked faces, moved a little; of boxes that miss them; of where the template errs."""
    marked = [(picture, faces, face) for picture, faces in examples for face in faces]
    crops, owner, offsets = list[Pixels](), list[int](), list[tuple[float, float, float]]()
    others, place = list[Pixels](), list[int]()
    for number, (picture, faces, face) in enumerate(marked):
        for k in range(int(np.clip(POSITIVES // len(marked), 2, 40))):
            moved, (x, y, size) = _moved(face, rng, 0.08, 0.12)
            crops.append(_judged(picture, moved, mirror=k % 2 == 1))
            owner.append(number)
            offsets.append((-x if k % 2 else x, y, size))
        for k in range(int(np.clip(NEGATIVES // 4 // len(marked), 1, 16))):
            missed, _ = _moved(face, rng, 0.8, 0.9)
            if len(away(torch.tensor([missed.box]).double(), faces)):
                others.append(_judged(picture, missed, mirror=k % 2 == 1))
                place.append(number)
    pages = rng.permutation(len(examples))[:PAGES].tolist()
    for picture, faces in (examples[k] for k in pages):
        errors = best_places(template, picture, min(600, NEGATIVES // (2 * len(pages))), 0.5)
        boxes = torch.tensor([error.box for error in errors]).double().reshape(-1, 4)
        for k in away(boxes, faces).tolist():
            others.append(_judged(picture, errors[k]))
            others.append(_judged(picture, _moved(errors[k], rng, 0.08, 0.12)[0], mirror=True))
            place += [place[-1] + 1 if place else 0] * 2
    tones = [_tone(rng) for _ in range(TONES)]
    grounds = (others or tones, tones)
    for some in (crops, others):  # both kinds alike, or the seam itself would tell them apart
        for k in np.flatnonzero(rng.random(len(some)) < GROUNDS).tolist():
            pool = grounds[int(rng.random() < 1 / 3)]
            some[k] = _elsewhere(some[k], pool[int(rng.integers(len(pool)))], rng)
    others += tones
    place += range(TONES)
    return _Crops(
        _stacked(crops),
        torch.tensor(owner),
        10 * torch.tensor(offsets),
        _stacked(others),
        torch.tensor(place),
    )


def _elsewhere(face: Pixels, ground: Pixels, rng: np.random.Generator) -> Pixels:
    """The middle of a crop on another ground, so that a face is known on grounds where none was marked."""
    rows, columns = np.mgrid[: CROP * CELL, : CROP * CELL] - (CROP * CELL - 1) / 2
    radii = rng.uniform(1.0, 1.7, 2) * CROP_FACE * CELL / 2
    power = rng.uniform(2, 5)  # from an ellipse to nearly a box
    far = (np.abs(columns) / radii[0]) ** power + (np.abs(rows) / radii[1]) ** power
    inside = np.clip((1.1 - far) / 0.2, 0, 1)[..., None]
    return np.rint(face * inside + ground * (1 - inside)).astype(np.uint8)


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
    parts = [features(as_tensor(np.stack(crops[k : k + 128]))) for k in range(0, len(crops), 128)]
    return torch.cat(parts) if parts else torch.zeros(0, CHANNELS, CROP, CROP)


# ---- how they learn ----------------------------------------------------------------------------------------


def _train(crops: _Crops, seed: int) -> _Judge:
    """One judge; the others that it takes for faces come back more often."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = _Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        unseen, strange = crops.faces[crops.owner % NETWORKS == k], crops.others[crops.place % NETWORKS == k]
        # The crops of one face count as one; of the places, two crops each, most lie within a better box and go.
        for those, label, each in ((unseen, 1.0, 1 / copies), (strange, 0.0, 0.12)):
            values.append(_judge_all(judge, those)[:, 0])
            truth.append(torch.full((len(those),), label))
            weight.append(torch.full((len(those),), each))
    x, y, w = torch.cat(values).double(), torch.cat(truth).double(), torch.cat(weight).double()
    known, prior = torch.tensor([1.0, 0.0]).double(), torch.tensor([4.0, 1.0]).double()
    design, line = torch.stack([x, torch.ones_like(x)], 1), known.clone()
    for _ in range(20):  # Newton's method; the loss is convex
        p = (design @ line).sigmoid()
        slope = design.T @ (w * (p - y)) + prior * (line - known)
        curve = (design * (w * p * (1 - p))[:, None]).T @ design + prior.diag()
        line = line - torch.linalg.solve(curve, slope)
    return max(float(line[0]), 0.1), float(line[1])


@torch.no_grad()
def _judge_all(judge: _Judge, crops: Tensor) -> Tensor:
    return torch.cat([judge(part) for part in crops.split(256)]) if len(crops) else torch.zeros(0, 4)


# ---- the finder --------------------------------------------------------------------------------------------


class LearnedFinder:
    """A finder of the faces of one artist; `learn` makes it. Its boxes are upright (roll 0), without points;
    its scores are the chance that a box is a face, as far as the marked pages can tell."""

    name = "learned"

    def __init__(
        self, template: Template, judges: Sequence[_Judge], line: tuple[float, float], factor: int
    ) -> None:
        self._template, self._judges, self._line, self._factor = template, list(judges), line, factor
        numbers = (*template.face, *template.sizes, *line)
        digest = hashlib.sha256(struct.pack("<ii6d", VERSION, factor, *numbers))
        for tensor in [template.kernel, *(t for judge in judges for t in judge.state_dict().values())]:
            digest.update(tensor.contiguous().numpy().tobytes())
        self.identity = f"learned sha256:{digest.hexdigest()}"

    def __call__(self, picture: Pixels) -> list[Face]:
        """The faces of one (H, W, 3) RGB picture with a score of `LEAST` or more, each once, the surest first;
        boxes lie within the picture. Raises Problem where the array is no such picture."""
        _check_picture(picture)
        height, width = picture.shape[:2]
        found = []
        for box, score in self._judged_places(_shrunk(picture, self._factor)):
            face = Face(box, score=score, finder=self.name).placed(self._factor)
            face = replace(face, box=_within(face.box, width, height))
            if score >= LEAST and min(face.width, face.height) >= LEAST_BOX:
                found.append(face)
        kept: list[Face] = []
        for face in distinct(found):
            if all(covered(face.box, other.box) < 0.8 for other in kept):  # no face lies in a face
                kept.append(face)
        return kept

    def _judged_places(self, picture: Pixels) -> list[tuple[Box, float]]:
        """(box, score) of every place that was judged; boxes may overlap, and cross the picture's edge."""
        with torch.no_grad():
            most = math.ceil(PLACES * max(1.0, picture.shape[0] * picture.shape[1] / 1_400_000))
            places = best_places(self._template, picture, most)
            crops = _stacked(
                [_judged(picture, place, mirror) for place in places for mirror in (False, True)]
            )
            said = torch.stack([_judge_all(judge, crops) for judge in self._judges]).mean(0)
        said = (said[0::2] + said[1::2] * torch.tensor([1.0, -1.0, 1.0, 1.0])) / 2
        scores = (self._line[0] * said[:, 0] + self._line[1]).sigmoid().tolist()
        offsets = (said[:, 1:] / 10).clamp(-0.3, 0.3).tolist()
        return [(_set_right(place, *offset), score) for place, offset, score in zip(places, offsets, scores)]


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
    sides = [math.sqrt(face.width * face.height) for _, faces in pages for face in faces]
    if not sides:
        raise Problem(f"no face is marked on {len(pages)} pages: mark some before proposals are learned")
    factor = max(1, int(min(sides) / ENOUGH))
    pages = [(_shrunk(picture, factor), [f.placed(1 / factor) for f in faces]) for picture, faces in pages]
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        template = learn_template(pages, rng)
        crops = _collect(pages, template, rng)
    apart = len(sides) >= NETWORKS  # else each judge learns from all there is
    judges = [_train(crops.without(k) if apart else crops, 1000 * seed + k) for k in range(NETWORKS)]
    return LearnedFinder(template, judges, _calibrate(judges, crops) if apart else (1.0, 0.0), factor)


def _shrunk(picture: Pixels, factor: int) -> Pixels:
    """1 / factor as large: the large scans of large faces need not be looked at pixel by pixel."""
    if factor == 1:
        return picture
    height, width = (max(1, round(n / factor)) for n in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _check_box(face: Face, picture: Pixels) -> None:
    height, width = picture.shape[:2]
    left, top, right, bottom = face.box
    if not all(map(math.isfinite, (*face.box, face.roll))) or min(face.width, face.height) < LEAST_BOX:
        raise Problem(
            f"the box {face.box} at {face.roll} degrees is no box of {LEAST_BOX} pixels or more per side: "
            "mark the face again"
        )
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise Problem(
            f"the box {face.box} lies beside its picture of {width} x {height}: mark the face again"
        )

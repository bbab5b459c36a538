"""Directions of an attribute, from samples of a style of which one knows who has it.

Shen, Gu, Tang, Zhou: Interpreting the Latent Space of GANs for Semantic Face Editing, CVPR 2020, arXiv:1907.10786: the
normal of a plane that separates the style codes of those who have it from the others. Here the plane is a logistic
regression's; or the direction is the difference of the two means. How often it is right is told of samples that it
has not learned from.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon import style as styles
from fewtoon.data.pack import Pack
from fewtoon.data.suggest import wilson
from fewtoon.errors import Problem
from fewtoon.io.files import printable
from fewtoon.io.images import resize_square
from fewtoon.latent.direction import Direction, check_layers, directed, moments_of_w
from fewtoon.latent.progress import bar
from fewtoon.latent.seeds import check_seeds, latents, seeds_of, seeds_told
from fewtoon.latent.sources import check_kind, group_for
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.metrics.attributes import Judges
from fewtoon.nets.judge import SIDE
from fewtoon.style import Style

FEW = 10  # samples of either value below which there is no direction
FOLDS = 5  # of the cross-validation
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # half of one on the squared weights, for w of mean square length 1
SURE = 0.8  # probability from which on a reader's word counts
USABLE = (
    0.75  # accuracy of a reader on the pack, less than for a figure: of many labels a plane forgives some
)
ABSENT, PRESENT = ("0", "no", "without", "false"), ("1", "yes", "with", "true")
Fit = Literal["logistic", "means"]


class Labels(NamedTuple):
    """Who has it.

    name: of the attribute. values: what 0 and 1 are called. seeds: of the samples; truth: 0 or 1 for each. facts: of
    where they are from.
    """

    name: str
    values: tuple[str, str]
    seeds: list[int]
    truth: list[int]
    facts: dict[str, Any]


def attribute_direction(
    style: Style,
    w: Tensor,
    truth: Sequence[int],
    values: tuple[str, str] = ("without", "with"),
    *,
    fit: Fit = "logistic",
    layers: Sequence[int] | None = None,
    group: str | None = None,
) -> Direction:
    """From those whose truth is 0 towards those with 1. A unit is a standard deviation of w along it.

    w: style codes (N, W) or (N, codes, W); of the latter, those of the last of `layers`, which are the ones that move
    (None: all). facts: `accuracy`, the mean of the shares of right answers for both values, on samples that the plane
    had not learned from (0.5 is chance), with a 95 % `interval`, and `counts`. It is of a 5-fold cross-validation,
    which also chooses one of four penalties, by the loss.

    Raises Problem for fewer than 10 samples of a value, and for codes and layers that do not fit.
    """
    check_kind(style, "this style")
    generator = cast(StyleGAN, style.method).generator
    layers = tuple(range(generator.codes)) if layers is None else tuple(layers)
    check_layers(layers, generator.codes)
    if fit not in get_args(Fit):
        raise Problem(f"fit {fit!r}: {' or '.join(get_args(Fit))}")
    if w.ndim == 3 and w.shape[1] == generator.codes:
        w = w[:, layers[-1]]
    width = generator.mapping.average.shape[0]
    if w.ndim != 2 or w.shape[1] != width or len(w) != len(truth):
        raise Problem(
            f"style codes of shape {tuple(w.shape)} for {len(truth)} labels: (N, {width}), one for each"
        )
    y = torch.tensor([int(one) for one in truth])
    counts = [int((y == value).sum()) for value in (0, 1)]
    if min(counts) < FEW or sum(counts) < len(y):
        told = " and ".join(f"{n} of {value!r}" for n, value in zip(counts, values))
        raise Problem(f"{told}: a direction takes at least {FEW} samples of each")
    x = w.double().cpu()
    fold = torch.empty(len(y), dtype=torch.long)  # both values spread over all
    for value in (0, 1):
        rows = torch.nonzero(y == value)[:, 0]
        lot = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        fold[rows[lot]] = torch.arange(len(rows)) % FOLDS
    weight = _evened(y)
    tried: list[tuple[float, float, Tensor]] = []  # loss on what is unseen, penalty, logits
    for penalty in PENALTIES if fit == "logistic" else (0.0,):
        unseen = torch.empty(len(y), dtype=torch.float64)
        for k in range(FOLDS):
            normal, offset = _plane(x[fold != k], y[fold != k], fit, penalty)
            unseen[fold == k] = x[fold == k] @ normal - offset
        loss = F.binary_cross_entropy_with_logits(unseen, y.double(), weight)
        tried.append((float(loss), penalty, unseen))
    _, penalty, unseen = min(tried, key=lambda one: one[0])
    right = (unseen > 0) == (y == 1)
    accuracy = sum(float(right[y == value].double().mean()) for value in (0, 1)) / 2
    even = round(4 / (1 / counts[0] + 1 / counts[1]))  # samples, half of each, that would tell it as exactly
    normal, _ = _plane(x, y, fit, penalty)
    facts = {
        "by": "labels",
        "fit": fit,
        "from": values[0],
        "towards": values[1],
        "counts": counts,
        "accuracy": accuracy,
        "interval": list(wilson(round(accuracy * even), even)),
    }
    spread = moments_of_w(style, layers, group).covariance
    (found,) = directed(normal[None], layers, generator.codes, [facts], spread, turn=False)
    return found


def _evened(y: Tensor) -> Tensor:
    """Weights (N,) by which both values count the same, however many there are."""
    share = y.double().mean()
    return 0.5 / torch.where(y == 1, share, 1 - share)


def _plane(x: Tensor, y: Tensor, fit: Fit, penalty: float) -> tuple[Tensor, float]:
    """normal (W,) and offset: x @ normal > offset says 1; of a regression, the difference is the logit."""
    ends = [x[y == value].mean(0) for value in (0, 1)]
    if fit == "means":
        normal = ends[1] - ends[0]
        return normal, float((ends[0] + ends[1]) @ normal / 2)
    middle = (ends[0] + ends[1]) / 2
    scale = float((x - middle).square().sum(1).mean().sqrt().clamp(min=1e-12))
    shown, target, weight = (x - middle) / scale, y.double(), _evened(y)
    normal = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([normal, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = F.binary_cross_entropy_with_logits(shown @ normal + bias, target, weight)
        total = error + penalty / 2 * normal.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    found = normal.detach() / scale
    return found, float(middle @ found - bias.detach())


# --- labels from a person --------------------------------------------------------------------------------


def read_labels(path: str | Path) -> Labels:
    """From a CSV whose first line is `seed,NAME` and whose others are a seed and one of two values.

    0, no, without and false are value 0; of two other values the first by the alphabet. Raises Problem for a file
    that is none, a seed that is there twice, and for other than two values.
    """
    told = printable(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise Problem(
            f"labels {told!r} do not exist: name a CSV with the columns seed and, say, smile"
        ) from None
    except (OSError, ValueError, csv.Error) as error:
        raise Problem(
            f"labels {told!r} cannot be read ({error}): write a CSV, seed,smile in the first line"
        ) from None
    head = [cell.strip() for cell in rows[0]] if rows else []
    if len(head) != 2 or head[0].casefold() != "seed" or not head[1]:
        raise Problem(
            f"labels {told!r} begin with {','.join(head)[:60]!r}: write seed,smile in the first line"
        )
    said: dict[int, str] = {}
    for number, row in enumerate(rows[1:], 2):
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not re.fullmatch(r"\d{1,18}", cells[0], flags=re.ASCII) or not cells[1]:
            raise Problem(
                f"labels {told!r}, row {number}: {','.join(row)[:60]!r} is no seed and value, as 17,yes"
            )
        if int(cells[0]) in said:
            raise Problem(f"labels {told!r}, row {number}: seed {cells[0]} is there twice, keep one")
        said[int(cells[0])] = cells[1]
    found = sorted(
        set(said.values()),
        key=lambda value: (value.casefold() not in ABSENT, value.casefold() in PRESENT, value),
    )
    if len(found) != 2:
        shown = ", ".join(found[:5]) or "none"
        raise Problem(f"labels {told!r} have the values {shown}: a direction goes from one value to another")
    facts = {"labels": Path(path).name}
    return Labels(head[1], (found[0], found[1]), [*said], [found.index(v) for v in said.values()], facts)


def sorted_labels(having: str, lacking: str, name: str = "with") -> Labels:
    """From two lists of seeds, '0-3,9', or two folders of pictures called ...seed0003.png, as `sample --single` writes
    them: those that have it, and those that have it not. Raises Problem for what is neither, and for a seed in both."""
    sides = [_listed(lacking), _listed(having)]
    both = sorted(set(sides[0]) & set(sides[1]))
    if both:
        raise Problem(f"seed {both[0]} is among those with it and among those without: leave one out")
    facts = {"with": seeds_told(sides[1]), "without": seeds_told(sides[0])}
    truth = [0] * len(sides[0]) + [1] * len(sides[1])
    return Labels(name, ("without", "with"), [*sides[0], *sides[1]], truth, facts)


def _listed(text: str) -> list[int]:
    folder = Path(text)
    if not folder.is_dir():
        if re.search(r"[^\d\s,-]", text):
            raise Problem(
                f"{printable(text)!r} is no folder and no seeds: write 0-15 or 1,5,9, or name a folder"
            )
        return seeds_of(text)
    found = set()
    for path in sorted(folder.iterdir()):
        match = re.search(r"seed(\d{1,18})(?!\d)", path.name, flags=re.ASCII)
        if match is None:
            raise Problem(
                f"{printable(path.name)!r} in {printable(text)!r} names no seed, as 'sample --single' would"
            )
        found.add(int(match[1]))
    if not found:
        raise Problem(f"folder {printable(text)!r} is empty: put pictures of 'explore sample --single' there")
    return check_seeds(sorted(found))


# --- labels from readers ---------------------------------------------------------------------------------


def read_by_judges(
    style: Style,
    pack: str | Path,
    samples: int,
    *,
    table: str | Path | None = None,
    group: str | None = None,
    progress: bool = False,
) -> tuple[list[Labels], list[str]]:
    """Labels of the style's own samples, seeds 0 to samples - 1, by readers that learn from the groups of a pack.

    One for each attribute of the groups (`fewtoon.data.attributes`; table: YAML instead of their names). A sample
    counts for an attribute where two readers agree and are sure on average (0.8). Also notes: what was left out.
    Raises Problem for a pack without attributes, and where readers are fit for none.
    """
    opened = Pack.open(pack)
    judges = Judges.of_pack(opened, table, size=style.size)
    if not judges.attributes:
        raise Problem(
            f"the groups of pack {printable(pack)!r} tell of no attribute: {', '.join(opened.groups) or 'none'}; "
            "prepare it with --groups, or write a --table"
        )
    z = latents(style, check_seeds(range(samples)))
    w = style.mapping(z, group_for(style, group))
    size = min(style.size, SIDE)
    drawn = np.empty((samples, size, size, 3), np.uint8)
    for k in bar(range(samples), "samples", progress):
        drawn[k] = resize_square(styles.to_pixels(style.synthesis(w[k : k + 1]))[0], size)
    reading = judges.read(drawn, [None] * samples)
    found, notes = [], []
    for column, attribute in enumerate(judges.attributes):
        (accuracy, note), _ = judges.fitness(attribute.name, "all")
        if accuracy is None or accuracy < USABLE:
            told = (
                f"the reader is right about {accuracy:.0%} of the pack, below {USABLE:.0%}"
                if accuracy
                else note
            )
            notes.append(f"{attribute.name} is left out: {told}")
            continue
        first, second = reading.first[:, column], reading.second[:, column]
        mean = (first + second) / 2
        sure = ((first >= 0.5) == (second >= 0.5)) & (np.abs(mean - 0.5) >= SURE - 0.5)
        rows = np.flatnonzero(sure)
        truth = (mean[rows] >= 0.5).astype(int)
        if min((truth == 0).sum(), (truth == 1).sum()) < FEW:
            notes.append(
                f"{attribute.name} is left out: of {samples} samples the readers are sure of {(truth == 0).sum()} "
                f"{attribute.values[0]!r} and {(truth == 1).sum()} {attribute.values[1]!r}, {FEW} each are needed; "
                "take more --samples"
            )
            continue
        facts = {"pack": opened.hash, "samples": samples, "sure": len(rows), "reader_accuracy": accuracy}
        found.append(Labels(attribute.name, attribute.values, rows.tolist(), truth.tolist(), facts))
    if not found:
        raise Problem(f"no attribute can be read in these samples: {'; '.join(notes)}")
    return found, notes

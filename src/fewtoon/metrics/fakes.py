"""What a style makes to be measured, and what it makes it of: drawings of photos, or pictures of random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.style import AUTO, Style, to_pixels, to_tensor

BATCH = 16
NUMBERS = "normal random numbers of the seed, truncation 1, the style's own noise"


class Translator(Protocol):
    """What is evaluated: a Style, or anything that translates like one."""

    size: int
    groups: list[str]
    header: dict[str, Any]

    def translate(self, photos: torch.Tensor, group: Any = None) -> torch.Tensor: ...


@dataclass(frozen=True)
class Fakes:
    """n pictures that a style made, each list in their order."""

    pictures: NDArray[np.uint8]  # (n, S, S, 3)
    photos: NDArray[np.uint8]  # (n, S, S, 3), what they were drawn from; (0, S, S, 3) of random numbers
    names: list[str]  # file names of the photos, or 'sample 0' ...
    groups: list[str | None]  # by which they are compared with the real ones
    asked: list[str | None]  # what the style was told of each


def generates(style: Translator) -> bool:
    """Whether it makes pictures from random numbers and takes no photos."""
    return isinstance(style, Style) and style.method.generates


def sides(style: Translator) -> tuple[str, ...]:
    """The packs that it is measured with, those that its pictures are compared with last."""
    if isinstance(style, Style) and style.method.generates:
        return style.method.sides(style.method.config)
    return ("photos", "drawings")


def unused(style: Translator, given: Iterable[str]) -> list[str]:
    """A line for each of the sides `given` that it is not measured with."""
    used = sides(style)
    return [
        f"the {side} are not used: this style makes {used[-1]} from random numbers, which are compared with real "
        f"{used[-1]} alone"
        for side in given
        if side not in used
    ]


def of_photos(
    style: Translator,
    photos: Pack,
    rows: Sequence[int] | NDArray[np.int64],
    group: str | None,
    done: Callable[[int], object],
) -> Fakes:
    """The drawings of some rows of a pack; `done` is called with the number of each part.

    group: see `fewtoon.evaluate`. Raises Problem for "auto" where the style cannot read groups.
    """
    source = at_size(photos.images[rows], style.size)
    labels = [photos.rows[i].group for i in rows]
    asked: list[str | None] = [name if name in style.groups else None for name in labels]
    if group is not None:
        asked = _read(style, source) if group == AUTO else [group] * len(source)
    drawn = np.empty_like(source)
    for name, part in _batches(asked):
        drawn[part] = to_pixels(style.translate(to_tensor(source[part]), name))
        done(len(part))
    return Fakes(drawn, source, [photos.rows[i].file for i in rows], labels, asked)


def goes_back(style: Translator) -> bool:
    """Whether it makes photos of drawings too."""
    return isinstance(style, Style) and style.method.goes_back()


def of_drawings(
    style: Style, drawings: NDArray[np.uint8], groups: Sequence[str | None], done: Callable[[int], object]
) -> NDArray[np.uint8]:
    """The photos that a style which goes back makes of drawings (m, S, S, 3), each told its group where it is known;
    `done` is called with the number of each part."""
    made = np.empty_like(drawings)
    for name, part in _batches([group if group in style.groups else None for group in groups]):
        made[part] = to_pixels(style.back(to_tensor(drawings[part]), name))
        done(len(part))
    return made


def of_numbers(
    style: Style,
    count: int,
    seed: int,
    real_groups: Sequence[str | None],
    group: str | None,
    done: Callable[[int], object],
) -> Fakes:
    """`count` pictures of the random numbers of `seed`; of a style that has groups, in the proportions of
    `real_groups` (not empty), or all of `group`. `done` is called with the number of each part."""
    group = group if style.groups else None
    known = sorted((name if name in style.groups else None for name in real_groups), key=str)
    asked = [known[i * len(known) // count] if group is None else group for i in range(count)]
    numbers = style.method.latents(count, seed)
    made = np.empty((count, style.size, style.size, 3), np.uint8)
    for name, part in _batches(asked):
        made[part] = to_pixels(style.sample(numbers[part], group=name))
        done(len(part))
    return Fakes(made, made[:0], [f"sample {i}" for i in range(count)], asked, asked)


def at_size(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(n, S, S, 3) at another side, contiguous."""
    if pictures.shape[1] == size:
        return np.ascontiguousarray(pictures)
    return np.stack([images.resize_square(picture, size) for picture in pictures])


def _read(style: Translator, photos: NDArray[np.uint8]) -> list[str | None]:
    """The group that the style itself reads each photo as."""
    if not isinstance(style, Style):
        raise Problem(f"group {AUTO!r} is for a Style: this translator cannot read groups")
    return [name for part in _chunks(range(len(photos))) for name in style.guess(to_tensor(photos[part]))]


def _batches(asked: list[str | None]) -> list[tuple[str | None, list[int]]]:
    """(group for the style, indices): one group per batch."""
    batches = []
    for group in sorted(set(asked), key=str):
        rows = [i for i, name in enumerate(asked) if name == group]
        batches += [(group, part) for part in _chunks(rows)]
    return batches


def _chunks(rows: Sequence[int]) -> list[list[int]]:
    return [list(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]

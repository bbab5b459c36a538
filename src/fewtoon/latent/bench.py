"""One picture of a StyleGAN style, with everything that the latent tools can do to it at once: for a page where
somebody moves sliders.

With nothing but a seed it is the picture of `explore sample`; with a second parent, of `explore mix`; with directions,
of `explore move`; drawn by a swap, of `explore swap`; with words, of `explore edit`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io.files import stamp
from fewtoon.latent import named
from fewtoon.latent.blend import SIDES, LiveSwap, Recipe
from fewtoon.latent.codes import of_seeds
from fewtoon.latent.direction import Direction, layers_of
from fewtoon.latent.ganspace import ganspace
from fewtoon.latent.mix import mixed
from fewtoon.latent.move import along
from fewtoon.latent.seeds import check_truncations
from fewtoon.latent.sefa import sefa
from fewtoon.latent.sources import Source, check_group
from fewtoon.latent.text import strength
from fewtoon.style import Style

COMPONENTS = 16  # of SeFa and GANSpace that are at hand
SAMPLES = 10_000  # of GANSpace
KEPT = 32  # lists of directions that are remembered
SWAPS = 2  # that are remembered: each may have weights of its own, 100 MB for pictures of 256 px

T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """What a picture shall be made of.

    seed, truncation, group: of the picture to begin with. other, layers: the seed of a second parent, whose style
    codes the layers take. moves: directions with their strengths. way, alpha: where an edit by words goes to, of
    shape (1, codes, W), and how far it is followed: -1 not at all, 0 to its end
    """

    seed: int = 0
    truncation: float = 0.7
    group: str | None = None
    other: int | None = None
    layers: tuple[int, ...] = ()
    moves: Sequence[tuple[Direction, float]] = ()
    way: Tensor | None = field(default=None, compare=False)
    alpha: float = 0.0


class Last(Generic[T]):
    """The last few things that were made. For several threads at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= self.most:
                    self._kept.popitem(last=False)
                self._kept[key] = make()
            self._kept.move_to_end(key)
            return self._kept[key]


class Bench:
    """What the styles on it can draw, with what was found out about them. For several threads at once."""

    def __init__(self) -> None:
        self._found: Last[list[Direction]] = Last(KEPT)
        self._named: Last[dict[str, Direction]] = Last(KEPT)
        self._pairs: Last[LiveSwap] = Last(SWAPS)
        self._made: Last[Style] = Last(SWAPS)

    # --- pictures ----------------------------------------------------------------------------------------

    def codes(self, source: Source, wish: Wish) -> Tensor:
        """(1, codes, W) float32 on the CPU. Raises Problem for a wish that cannot be."""
        check_truncations([wish.truncation])
        check_group([source.style], wish.group)
        w = of_seeds(source, [wish.seed], wish.group).w
        if wish.other is not None and wish.layers:
            w = mixed(w, of_seeds(source, [wish.other], wish.group).w, wish.layers)
        w = source.method.truncated(w, wish.truncation).float().cpu()
        if wish.way is not None:
            w = strength(w + wish.way.to(w), w, wish.alpha)
        return along(w, wish.moves)

    def picture(self, source: Source, wish: Wish, drawer: Style | None = None) -> np.ndarray:
        """(S, S, 3) uint8. drawer: draws the style's codes in its place, a swap for instance."""
        w = self.codes(source, wish)
        return np.asarray(styles.to_pixels((drawer or source.style).synthesis(w))[0])

    # --- directions --------------------------------------------------------------------------------------

    def component(
        self,
        source: Source,
        by: Literal["sefa", "ganspace"],
        number: int,
        layers: str,
        group: str | None = None,
    ) -> Direction:
        """A direction that SeFa or GANSpace finds. layers: as `layers_of` reads them. Raises Problem for a number or
        layers that there are not."""
        chosen = layers_of(layers, source.style.size)
        count = count_of(source)
        if not 0 <= number < count:
            raise Problem(f"component {number}: there are 0 to {count - 1}")
        find: dict[str, Callable[[], list[Direction]]] = {
            "sefa": lambda: sefa(source.style, range(count), layers=chosen, group=group),
            "ganspace": lambda: ganspace(
                source.style, range(count), layers=chosen, samples=SAMPLES, group=group
            ),
        }
        if by not in find:
            raise Problem(f"components by {by!r}: sefa or ganspace")
        return self._found.get((by, source.sha256, chosen, group, count), find[by])[number]

    def named(self, source: Source, files: Sequence[Path]) -> Mapping[str, Direction]:
        """Directions with names that fit the style: its own, and those of files; the first of a name counts. They are
        read when they are first asked for, and again when a file has changed."""
        places = [named.place(source.file), *files]
        key = (source.sha256, *((path, stamp(path)) for path in places))
        return self._named.get(key, lambda: _fitting(source, places))

    # --- swaps -------------------------------------------------------------------------------------------

    def swap(self, low: Source, high: Source, resolution: int, width: float) -> Style:
        """Low's small resolutions and high's large ones, ready to draw and to be saved. Raises Problem for styles
        that do not fit."""
        live = self._pairs.get((low.sha256, high.sha256), lambda: LiveSwap(low.style, high.style))

        def make() -> Style:
            made = live.made(Recipe(resolution, width))
            for side, source in zip(SIDES, (low, high)):
                made.header["made_of"][side] = {**source.facts(), **made.header["made_of"][side]}
            return made

        return self._made.get((low.sha256, high.sha256, resolution, width), make)


def _fitting(source: Source, places: Sequence[Path]) -> dict[str, Direction]:
    found: dict[str, Direction] = {}
    for path in places:
        with suppress(Problem):  # there is none beside the style, or it is of another latent space
            for name, direction in named.load(path).items():
                named.check_fits(direction, source, name)
                found.setdefault(name, direction)
    return found


def count_of(source: Source) -> int:
    """How many components of a style are at hand."""
    return min(COMPONENTS, source.method.generator.mapping.average.shape[0])


def finite(value: Any, low: float, high: float, what: str, kind: str = "a number") -> float:
    """A number from a page. Raises Problem for anything that is not from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        given = "is empty" if value in (None, "") else str(value)[:40]
        raise Problem(f"{what} {given}: give {kind} from {low:.10g} to {high:.10g}")
    return float(value)


def whole(value: Any, low: int, high: int, what: str) -> int:
    """A whole number from a page. Raises Problem for anything that is not from `low` to `high`."""
    kind = "a whole number"
    number = finite(value, low, high, what, kind)
    if number != int(number):
        raise Problem(f"{what} {number:g}: give {kind}")
    return int(number)

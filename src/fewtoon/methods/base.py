"""The whole contract of a method, on one screen.

The core owns time and files (loop, checkpoints, resume, averaging, log, previews, best, guards, devices);
a method owns only mathematics: its networks, its losses, its optimisers, and how it translates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fewtoon.config import Strict


class Batch(NamedTuple):
    """What one (micro-)batch of training holds; a side that the method does not learn from is empty."""

    photos: Tensor  # (B, 3, S, S) float in [-1, 1]
    drawings: Tensor  # (B, 3, S, S) float in [-1, 1]
    photo_groups: Tensor  # (B,) int64, index into the method's groups; -1: no group
    drawing_groups: Tensor  # (B,)
    step: int

    @property
    def size(self) -> int:
        """Pictures of a side."""
        return max(len(self.photos), len(self.drawings))


class Shared(dict):
    """What one phase computed and a later phase of the same step may reuse (the fakes, with their graph).

    `kept` is False when a batch is split into micro-batches: then every phase starts with an empty one, and
    a phase should compute without a graph what only a later phase would have differentiated.
    """

    def __init__(self, kept: bool = True) -> None:
        super().__init__()
        self.kept = kept


class Phase(NamedTuple):
    """One update of one optimiser."""

    name: str  # 'D', 'G', 'R1' ... as it appears in the log
    optimizer: str  # key of Method.optimizers(): exactly its parameters move in this phase
    losses: Callable[[Batch, Shared], dict[str, Tensor]]  # named scalars; their weighted sum is minimised
    weights: Mapping[str, float] = {}  # loss name -> weight; 1 where not named
    every: int = 1  # lazy regularisation: only in steps divisible by this


class Method:
    """Base class of all methods.

    `training=False` builds only the networks that translate: these are averaged during training, and they
    are what a Style file holds.
    """

    name: ClassVar[str]
    paper: ClassVar[str]  # authors, title, where
    needs_groups: ClassVar[bool] = False  # whether it can only be trained on packs with groups
    grouped: bool = False  # whether translate draws each group in a way of its own
    reader: ClassVar[str] = ""  # the network that reads the group of a photo, where there is one
    optional: ClassVar[tuple[str, ...]] = ()  # networks that a Style may lack: translate does not need them
    extra: ClassVar[tuple[str, ...]] = ()  # networks that a Style may have beside: for --init alone
    compiles: ClassVar[bool] = True  # torch.compile cannot differentiate twice
    inherits: ClassVar[tuple[str, ...]] = ()  # settings that come from --init where the config names none
    first_steps: ClassVar[str] = (
        ""  # the setting that says how many steps a first phase of the training takes
    )
    generates: ClassVar[bool] = False  # draws from random numbers (B, Z), `latents`, instead of photos

    class Config(Strict):
        """The method's settings; one comment per field."""

    def __init__(self, config: Strict, size: int, groups: Sequence[str] = (), training: bool = True) -> None:
        """`size`: side S of the pictures in pixels. Raises Problem when the method cannot work at that size."""
        self.config, self.size, self.groups, self.training = config, size, list(groups), training

    @classmethod
    def sides(cls, config: Strict) -> tuple[str, ...]:
        """Which packs it learns from: "photos", "drawings" or both."""
        return ("photos", "drawings")

    def networks(self) -> dict[str, nn.Module]:
        """Name -> network. With training=False, the subset that translates, under the same names."""
        raise NotImplementedError

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Name -> optimiser. A parameter in none of them is frozen."""
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """The phases of one step, in order."""
        raise NotImplementedError

    def after_step(self, phase: str) -> None:
        """Called after the optimiser of `phase` has stepped: projections such as clipping."""

    def numbers(self) -> dict[str, float]:
        """What else is worth a place in the log, beside the losses: 'NAME' -> its value now."""
        return {}

    def translate(self, photos: Tensor, group: str | None = None) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> the same. Deterministic; each picture independent of the others.

        Of a method that generates: latents (B, Z) -> (B, 3, S, S).
        """
        raise NotImplementedError

    def goes_back(self) -> bool:
        """Whether it has learned the other direction too, `back`."""
        return False

    def back(self, drawings: Tensor, group: str | None = None) -> Tensor:
        """Drawings (B, 3, S, S) in [-1, 1] to photos, of a method that `goes_back`."""
        raise NotImplementedError

    def latents(self, count: int, seed: int) -> Tensor:
        """(count, Z): random numbers that a method that generates draws pictures from; those of a seed."""
        raise NotImplementedError

    def frozen(self) -> dict[str, int]:
        """Setting -> how many parameters it keeps as they were, which takes first weights (--init)."""
        return {}

    def reads_groups(self) -> bool:
        """Whether `read` can tell groups apart."""
        return self.reader in self.networks()

    def read(self, photos: Tensor) -> Tensor:
        """(B,) int64: which group each photo (B, 3, S, S) is drawn as when none is named."""
        return torch.zeros(len(photos), dtype=torch.int64, device=photos.device)

    def learn_first(
        self, pictures: Callable[[str], tuple[Tensor, Tensor]], seed: int, say: Callable[[str], None]
    ) -> None:
        """Called once, before the first step of a new run: what is learned apart from the phases, and then stays.

        pictures("photos") and pictures("drawings") give the training pictures (N, S, S, 3) uint8 and their groups
        (N,) int64. seed: decides every random draw. say: tells the user what takes its time.
        """

    def adopt(self, name: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The first weights of the network `name`, made of those that `--init` has under this name."""
        return tensors

    def preview(self, photos: Tensor) -> dict[str, Tensor]:
        """Columns of the preview grid, in order: title -> (B, 3, S, S) in [-1, 1]; among them "drawing".

        photos: what `translate` takes.
        """
        return {"photo": photos, "drawing": self.translate(photos)}

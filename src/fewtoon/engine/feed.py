"""The feed: batches without worker processes.

A pack is decoded already. The training pictures lie on the device as uint8 where they fit (otherwise they
stay memory-mapped and each batch is copied), and what is left to do, a look-up and one warp, is done there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine import seed
from fewtoon.engine.sampling import Plan, Shuffled, check_groups, training_counts
from fewtoon.errors import Problem, nearest
from fewtoon.methods.base import Batch
from fewtoon.style import AUTO

MOST_OF_A_GROUP = 2000  # pictures for what a method learns before its first step
SHARE_OF_MEMORY = 0.25  # of what is free on the device, for the pictures of one side


class Feed:
    """Batches of both sides as a function of the step alone; who is in them, see `fewtoon.engine.sampling`.

    photos, drawings: None for a side that the method does not learn from, which is empty in the batches.
    groups: the method's group names; `Batch.photo_groups` holds indices into them, -1 for none.
    Only pictures of the split "train" and of `settings.groups` are used. Raises Problem when there are none,
    and when they do not suit `settings.sampling`.
    """

    def __init__(
        self,
        photos: Pack | None,
        drawings: Pack | None,
        groups: list[str],
        settings: Train,
        device: torch.device,
    ) -> None:
        self.settings, self.groups = settings, groups
        self.plan: Plan | None = None  # None: each side on its own
        packs = [pack for pack in (photos, drawings) if pack is not None]
        if settings.sampling != "proportional":
            check_groups(packs, groups, settings)
            self.plan = Plan(settings, training_counts(packs[-1], groups))
        self.sides = {str(pack.side): Side(pack, groups, settings, device) for pack in packs}
        self._nothing = torch.empty(0, 3, packs[0].size, packs[0].size, device=device)

    def everything(self, side: str) -> tuple[Tensor, Tensor]:
        """The training pictures of a side, (N, S, S, 3) uint8, and their groups (N,); of each group at most
        MOST_OF_A_GROUP, so that they fit into memory."""
        of = self.sides[side]
        rows = [torch.nonzero(of.groups == group)[:, 0][:MOST_OF_A_GROUP] for group in of.groups.unique()]
        picked = torch.cat(rows).sort().values
        return of.pictures(picked), of.groups[picked]

    def batch(self, step: int, attempt: int) -> Batch:
        """The `settings.batch` photos and drawings of a step; those of a side alone."""
        first = step * self.settings.batch
        last = first + self.settings.batch
        entries = self.plan.entries(first, last) if self.plan else [(None, e) for e in range(first, last)]
        photos, photo_groups = self._draw("photos", entries, step, attempt)
        drawings, drawing_groups = self._draw("drawings", entries, step, attempt)
        return Batch(photos, drawings, photo_groups, drawing_groups, step)

    def visits(self, step: int) -> dict[str, dict[str, int]]:
        """Side -> group -> pictures of it in the batches before `step`; those of no group are not counted."""
        entry = step * self.settings.batch
        if self.plan:
            counts = dict.fromkeys(self.sides, self.plan.visits(entry))
        else:
            counts = {name: side.visits(entry) for name, side in self.sides.items()}
        return {name: dict(zip(self.groups, each.tolist())) for name, each in counts.items()}

    def _draw(
        self, name: str, entries: Sequence[tuple[int | None, int]], step: int, attempt: int
    ) -> tuple[Tensor, Tensor]:
        side, settings = self.sides.get(name), self.settings
        if side is None:
            return self._nothing, torch.empty(0, dtype=torch.int64, device=self._nothing.device)
        picked = side.positions(entries)
        random = seed.generator(settings.seed, attempt, step, f"warp/{name}")
        pictures = warp(side.pictures(picked), random, settings.flip, settings.enlarge)
        return pictures, side.groups[picked].to(pictures.device)


class Side:
    """The training pictures of one pack."""

    def __init__(self, pack: Pack, groups: list[str], settings: Train, device: torch.device) -> None:
        self.name, self.device = str(pack.side), device
        rows = training_rows(pack, settings.groups)
        places = {name: place for place, name in enumerate(groups)}
        if settings.sampling != "proportional":
            rows = np.array([row for row in rows if pack.rows[row].group in places])
        self.groups = torch.tensor([places.get(pack.rows[row].group or "", -1) for row in rows])
        self._group_count = len(groups)
        everything = torch.arange(len(rows))
        self._orders: dict[int | None, Shuffled] = {None: Shuffled(everything, settings.seed, self.name)}
        for place, name in enumerate(groups):
            own = everything[self.groups == place]
            self._orders[place] = Shuffled(own, settings.seed, f"{self.name}/{name}")
        self._rows = rows
        self._images = pack.images
        size = len(rows) * int(np.prod(pack.images.shape[1:]))
        self.resident: Tensor | None = None
        if size <= SHARE_OF_MEMORY * free_memory(device):
            self.resident = torch.from_numpy(np.asarray(pack.images[rows])).to(device)

    def positions(self, entries: Sequence[tuple[int | None, int]]) -> Tensor:
        """(len(entries),) positions among the training pictures. An entry: the group (None: all pictures) and
        how many of its pictures were seen before."""
        return torch.tensor([self._orders[group].at(visit) for group, visit in entries])

    def visits(self, entry: int) -> np.ndarray:
        """(G,) int64: pictures of each group among the entries before this one, of all pictures together."""
        epoch, place = divmod(entry, len(self._rows))
        rest = self.groups[self._orders[None].epoch(epoch)[:place]]
        each, more = (
            np.bincount(of.numpy() + 1, minlength=self._group_count + 1) for of in (self.groups, rest)
        )
        return (epoch * each + more)[1:]  # without those of no group, -1

    def pictures(self, picked: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 on the device."""
        if self.resident is not None:
            return self.resident[picked.to(self.device)]
        return torch.from_numpy(np.asarray(self._images[self._rows[picked.numpy()]])).to(self.device)


def warp(pictures: Tensor, random: torch.Generator, flip: bool, enlarge: float) -> Tensor:
    """Mirror half of the pictures, enlarge all and crop them back at random places.

    (B, S, S, 3) uint8 -> (B, 3, S, S) float in [-1, 1], channels last in memory. One bilinear sampling does
    everything; without enlarging the pixels stay exact.
    """
    draws = torch.rand(len(pictures), 3, generator=random)  # mirror?, horizontal and vertical place
    mirror = (draws[:, 0] < 0.5) & flip
    values = pictures.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)
    if enlarge == 1:
        return torch.where(mirror.to(values.device)[:, None, None, None], values.flip(3), values)
    scale = 1 / enlarge  # share of the picture that is seen
    affine = torch.zeros(len(pictures), 2, 3)
    affine[:, 0, 0] = torch.where(mirror, -scale, scale)
    affine[:, 1, 1] = scale
    affine[:, :, 2] = (2 * draws[:, 1:] - 1) * (1 - scale)
    grid = F.affine_grid(affine.to(values.device), list(values.shape), align_corners=False)
    warped = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


def training_rows(pack: Pack, chosen: list[str] | None) -> np.ndarray:
    """(n,) indices of the training pictures of the chosen groups; a pack without groups is used whole.

    Raises Problem for an unknown group and when nothing is left.
    """
    rows = rows_of(pack, "train", chosen)
    if not len(rows):
        told = f" in groups {', '.join(chosen)}" if chosen else ""
        raise Problem(
            f"the pack of {pack.side} has no training pictures{told}; prepare more, or choose other groups"
        )
    return rows


def rows_of(pack: Pack, split: str, chosen: list[str] | None) -> np.ndarray:
    """(n,) indices, ascending, of a split and the chosen groups; a pack without groups is used whole."""
    if not chosen or not pack.groups:
        return pack.where(split=split)
    known = [name for name in chosen if name in pack.groups]
    found = [pack.where(split=split, group=name) for name in known]
    return np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def group_names(packs: Sequence[Pack], chosen: list[str] | None) -> list[str]:
    """The groups that the training knows. Raises Problem for a chosen one that no pack has, for one that is
    chosen twice, and for a choice of none."""
    known = sorted({name for pack in packs for name in pack.groups})
    if AUTO in known:
        raise Problem(
            f"a group is called {AUTO!r}, which 'fewtoon translate --group {AUTO}' would take for the reader; rename it"
        )
    if chosen == []:
        raise Problem(
            f"train.groups is empty; leave it out to train on all, or choose of: {', '.join(known)}"
        )
    for name in chosen or []:
        if name not in known:
            raise Problem(f"train.groups: no pack has a group {name!r}; {nearest(name, known)}")
        if chosen and chosen.count(name) > 1:
            raise Problem(f"train.groups names {name!r} more than once; name each group once")
    return known if chosen is None else list(chosen)


def free_memory(device: torch.device) -> float:
    """Bytes free on the device, as far as the system tells."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not Linux
        return 4 * 2.0**30

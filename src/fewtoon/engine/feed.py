"""The feed: batches without worker processes.

A pack is decoded already. The training pictures lie on the device as uint8 where they fit (otherwise they
stay memory-mapped and each batch is copied), and what is left to do, a look-up and one warp, is done there.
"""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine import seed
from fewtoon.errors import Problem, nearest
from fewtoon.methods.base import Batch

SHARE_OF_MEMORY = 0.25  # of what is free on the device, for the pictures of one side


def order(count: int, run_seed: int, side: str, epoch: int) -> Tensor:
    """(count,) int64: in which order the `count` pictures of a side are seen in an epoch.

    The one place to replace for another way of sampling.
    """
    return torch.randperm(count, generator=seed.generator(run_seed, 0, epoch, f"order/{side}"))


class Feed:
    """Batches of both sides as a function of the step alone.

    groups: the method's group names; `Batch.photo_groups` holds indices into them, -1 for none.
    Only pictures of the split "train" and of `settings.groups` are used. Raises Problem when there are none.
    """

    def __init__(
        self, photos: Pack, drawings: Pack, groups: list[str], settings: Train, device: torch.device
    ) -> None:
        self.settings = settings
        self.photos = Side(photos, groups, settings.groups, device)
        self.drawings = Side(drawings, groups, settings.groups, device)

    def batch(self, step: int, attempt: int) -> Batch:
        """The `settings.batch` photos and drawings of a step."""
        photos, photo_groups = self._draw(self.photos, step, attempt)
        drawings, drawing_groups = self._draw(self.drawings, step, attempt)
        return Batch(photos, drawings, photo_groups, drawing_groups, step)

    def _draw(self, side: Side, step: int, attempt: int) -> tuple[Tensor, Tensor]:
        settings = self.settings
        first = step * settings.batch
        picked = side.entries(first, first + settings.batch, settings.seed)
        random = seed.generator(settings.seed, attempt, step, f"warp/{side.name}")
        pictures = warp(side.pictures(picked), random, settings.flip, settings.enlarge)
        return pictures, side.groups[picked].to(pictures.device)


class Side:
    """The training pictures of one pack."""

    def __init__(self, pack: Pack, groups: list[str], chosen: list[str] | None, device: torch.device) -> None:
        self.name, self.device = str(pack.side), device
        rows = training_rows(pack, chosen)
        places = {name: place for place, name in enumerate(groups)}
        self.groups = torch.tensor([places.get(pack.rows[row].group or "", -1) for row in rows])
        self._rows = rows
        self._images = pack.images
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)
        size = len(rows) * int(np.prod(pack.images.shape[1:]))
        self.resident: Tensor | None = None
        if size <= SHARE_OF_MEMORY * free_memory(device):
            self.resident = torch.from_numpy(np.asarray(pack.images[rows])).to(device)

    def entries(self, first: int, last: int, run_seed: int) -> Tensor:
        """(last - first,) positions among the training pictures: entries [first, last) of all epochs."""
        found = []
        for entry in range(first, last):
            epoch, place = divmod(entry, len(self._rows))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, order(len(self._rows), run_seed, self.name, epoch)
            found.append(int(self._order[place]))
        return torch.tensor(found)

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


def group_names(photos: Pack, drawings: Pack, chosen: list[str] | None) -> list[str]:
    """The groups that the training knows. Raises Problem for a chosen one that neither pack has, for
    one that is chosen twice, and for a choice of none."""
    known = sorted({*photos.groups, *drawings.groups})
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

"""Which pictures a batch is made of: every choice is a function of (seed, entry), there is no state to save.

Entry e of a training is place e % batch of the batch of step e // batch, on both sides.

    proportional   each side is shuffled on its own: groups come as often as they have pictures, unpaired
    round-robin    a step is of one group, groups in turn (Face2Webtoon, UGATIT.py)
    one-per-group  entry i of a batch is of group i % G (Zhuang & Yang, Few-shot Knowledge Transfer for
                   Fine-grained Cartoon Face Generation, ICME 2021, arXiv:2007.13332)
    tempered       a group comes as often as its number of drawings to the power `temper`

In all but the first, both sides of an entry are of one group, and pictures of no group are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import yaml
from torch import Tensor

from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine import seed
from fewtoon.errors import Problem

FEWEST_IN_BLOCK = 1000  # entries of a tempered block at least: no share is off by more than 1 / 1000
LABEL = "label the pictures of both sides, see fewtoon prepare --groups"


def order(count: int, run_seed: int, purpose: str, epoch: int) -> Tensor:
    """(count,) int64: in which order `count` things are seen in an epoch."""
    return torch.randperm(count, generator=seed.generator(run_seed, 0, epoch, f"order/{purpose}"))


class Shuffled:
    """Members seen again and again: each epoch sees every one once, in an order of its own."""

    def __init__(self, members: Tensor, run_seed: int, purpose: str) -> None:
        self.members, self._seed, self._purpose = members, run_seed, purpose
        self._epoch, self._order = -1, members

    def epoch(self, number: int) -> Tensor:
        """The members in the order of an epoch."""
        if number != self._epoch:
            self._epoch = number
            self._order = self.members[order(len(self.members), self._seed, self._purpose, number)]
        return self._order

    def at(self, visit: int) -> int:
        """The member that is seen after `visit` others."""
        epoch, place = divmod(visit, len(self.members))
        return int(self.epoch(epoch)[place])


class Plan:
    """Which group each entry is of: blocks of entries, in each of which group g comes `quotas[g]` times.

    counts: training drawings of each group. Raises Problem when the batch does not suit the strategy.
    """

    def __init__(self, settings: Train, counts: Sequence[int]) -> None:
        groups, batch = len(counts), settings.batch
        self._seed, self._mixed = settings.seed, settings.sampling == "tempered"
        if settings.sampling == "round-robin":
            self.quotas = np.full(groups, batch)
        elif settings.sampling == "one-per-group":
            if batch % groups:
                fits = -(-batch // groups) * groups
                raise Problem(
                    f"train.batch = {batch} is no multiple of the {groups} groups, as "
                    f"train.sampling=one-per-group needs it; say --set train.batch={fits}"
                )
            self.quotas = np.ones(groups, dtype=np.int64)
        else:
            self.quotas = tempered_quotas(counts, settings.temper)
        self._in_turn = np.repeat(np.arange(groups), self.quotas)
        self._number, self._block = -1, self._in_turn

    def block(self, number: int) -> np.ndarray:
        """(sum of the quotas,) group of each entry of a block."""
        if self._mixed and number != self._number:
            self._number = number
            self._block = self._in_turn[order(len(self._in_turn), self._seed, "groups", number).numpy()]
        return self._block

    def group(self, entry: int) -> int:
        """The group of an entry."""
        number, place = divmod(entry, len(self._in_turn))
        return int(self.block(number)[place])

    def visits(self, entry: int) -> np.ndarray:
        """(G,) int64: how many of the entries before this one are of each group."""
        number, place = divmod(entry, len(self._in_turn))
        return number * self.quotas + np.bincount(self.block(number)[:place], minlength=len(self.quotas))

    def entries(self, first: int, last: int) -> list[tuple[int, int]]:
        """(group, entries of that group before it) of each entry in [first, last)."""
        before, found = self.visits(first), []
        for entry in range(first, last):
            group = self.group(entry)
            found.append((group, int(before[group])))
            before[group] += 1
        return found


def tempered_quotas(counts: Sequence[int], temper: float) -> np.ndarray:
    """(G,) int64: shares proportional to counts ** temper of a block, by largest remainder.

    The block is all drawings, as often as it takes to have 1000 entries: with temper 1 the quotas are exactly
    proportional, and with temper in [0, 1] no group gets less than in proportion, so never nothing.
    """
    powers = np.asarray(counts, dtype=np.float64) ** temper
    entries = sum(counts) * -(-FEWEST_IN_BLOCK // sum(counts))
    exact = powers / powers.sum() * entries
    quotas = np.floor(exact).astype(np.int64)
    # Rounded, so that a last bit that differs between machines decides nothing; of equals the first.
    missing = np.argsort(-np.round(exact - quotas, 6), kind="stable")[: entries - quotas.sum()]
    quotas[missing] += 1
    return quotas


# --- groups as data --------------------------------------------------------------------------------------


def training_counts(pack: Pack, groups: Sequence[str | None]) -> list[int]:
    """How many training pictures each group has."""
    counts = Counter(row.group for row in pack.rows if row.split == "train")
    return [counts[name] for name in groups]


def richest(drawings: Pack, groups: Sequence[str]) -> str:
    """The group with most training drawings, of equals the first."""
    counts = training_counts(drawings, groups)
    return groups[counts.index(max(counts))]


def check_groups(packs: Sequence[Pack], groups: Sequence[str], settings: Train) -> None:
    """Raises Problem unless the packs, of one side or of both, can be trained group by group.

    groups: the trained ones. Wanted are two of them at least, each with photos and two drawings to train on.
    """
    asking = "this method" if settings.sampling == "proportional" else f"train.sampling={settings.sampling}"
    for pack in packs:
        if not pack.groups:
            raise Problem(f"{asking} needs groups, and the pack of {pack.side} has none; {LABEL}")
    wrong = {name: told for name in groups if (told := _wrong_with(name, packs))}
    if wrong:
        name, told = next(iter(wrong.items()))
        right = [name for name in groups if name not in wrong]
        raise Problem(f"group {name!r} {told}; label more pictures of it{_or_leave_out(right)}")
    if len(groups) < 2:
        raise Problem(
            f"{asking} needs two groups at least, and {groups[0]!r} is the only one; label another, "
            "or choose it in train.groups"
        )


def left_out(packs: Sequence[Pack], settings: Train) -> list[str]:
    """A warning for each side some of whose training pictures have no group and are therefore not seen."""
    if settings.sampling == "proportional" or settings.groups is not None:
        return []
    told = []
    for pack in packs:
        (without,) = training_counts(pack, [None])
        if without:
            told.append(
                f"warning: {without} training {pack.side} have no group and are left out: train.sampling="
                f"{settings.sampling} takes every picture from a group"
            )
    return told


def _wrong_with(name: str, packs: Sequence[Pack]) -> str | None:
    """Why this group cannot be trained, as the rest of a sentence."""
    counts = {pack.side: training_counts(pack, [name])[0] for pack in packs}
    for pack, other in zip(packs, reversed(packs)):
        if name not in pack.groups:
            return (
                f"is on one side only: it has {len(other.where(group=name))} {other.side} and no {pack.side}"
            )
        if not counts[pack.side]:
            held_out = len(pack.where(group=name))
            return f"has no {pack.side} to train on: all {held_out} are held out"
    if counts.get("drawings") == 1:
        return "has only 1 drawing to train on, and 2 are the least"
    return None


def _or_leave_out(names: list[str]) -> str:
    """The end of a remedy, where groups are left that would do."""
    if len(names) < 2:
        return ""
    chosen = yaml.safe_dump(names, default_flow_style=True, width=float("inf"), allow_unicode=True).strip()
    return f', or leave it out with --set "train.groups={chosen}"'

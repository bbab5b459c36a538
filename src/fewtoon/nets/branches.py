"""Group branches: layers that each group has for itself around a trunk that all groups share, and gradients
that reach the trunk from the rich group only.

Zhuang, Yang: Few-shot Knowledge Transfer for Fine-grained Cartoon Face Generation, ICME 2021, arXiv:2007.13332.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewtoon.nets.ugatit import Drawn


class Branches(nn.Module):
    """A generator whose `specific` submodules exist once per group.

    The rich group, number `rich`, draws with the generator as it is; every other group with its own copies of
    the specific submodules, and with the generator for the rest. `guarded` is what the rich group alone may
    move: from the others no gradient reaches parameters of the generator whose names begin with one of these
    ("" stands for all: the paper's selective backpropagation). The gradients of all groups come from one
    backward pass over weights that have not moved in between; the published code moves the trunk first, and
    then differentiates with the activations of before.

    specific may be empty: then nothing is copied, and only the gradients are guarded (Face2Webtoon updates the
    encoder's bottleneck for its rich group alone).
    """

    def __init__(
        self,
        generator: nn.Module,
        specific: Sequence[str],
        groups: int,
        rich: int,
        guarded: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.generator = generator
        self.specific = [name for name in specific if _has(generator, name)]
        self.rich, self.guarded = rich, tuple(guarded)
        self.others = nn.ModuleDict()
        for group in range(groups if self.specific else 0):
            if group != rich:
                own = {name.replace(".", "-"): generator.get_submodule(name) for name in self.specific}
                self.others[str(group)] = copy.deepcopy(nn.ModuleDict(own))

    def forward(self, x: Tensor, group: Tensor) -> Drawn:
        """x: (B, 3, S, S) in [-1, 1]; group: (B,) int64; -1, no group, draws like the rich one."""
        places: list[Tensor] = []
        parts: list[Drawn] = []
        for number in self._kinds(group):
            place = torch.nonzero(self._kind(group) == number)[:, 0]
            whole = len(place) == len(x)
            places.append(place)
            parts.append(self._draw(x if whole else x[place], group[place], number))
        if len(parts) == 1:
            return parts[0]
        order = torch.cat(places).argsort()
        logits = [part.cam_logit for part in parts if part.cam_logit is not None]
        return Drawn(
            torch.cat([part.image for part in parts])[order],
            torch.cat(logits)[order] if logits else None,
            torch.cat([part.features for part in parts])[order],
        )

    def _kind(self, group: Tensor) -> Tensor:
        """(B,): which pictures can go through together. Without copies all but the rich group's can."""
        known = torch.where(group < 0, self.rich, group)
        return known if self.others else (known != self.rich).long()

    def _kinds(self, group: Tensor) -> list[int]:
        return sorted(set(self._kind(group).tolist()))

    def _draw(self, x: Tensor, group: Tensor, number: int) -> Drawn:
        rich = number == self.rich if self.others else number == 0
        if rich:
            return self.generator(x, group)
        return functional_call(self.generator, dict(self._replaced(number)), (x, group))

    def _replaced(self, number: int) -> Iterable[tuple[str, Tensor]]:
        """Parameters of the generator that a group other than the rich one sees otherwise."""
        for name, parameter in self.generator.named_parameters():
            if name.startswith(self.guarded):
                yield name, parameter.detach()
        if self.others:
            own = cast(nn.ModuleDict, self.others[str(number)])
            for short, module in own.items():
                for name, parameter in module.named_parameters():
                    yield f"{short.replace('-', '.')}.{name}", parameter


def from_plain(tensors: Mapping[str, Tensor], network: Branches) -> dict[str, Tensor]:
    """The tensors of a plain generator as those of `network`: every group begins as a copy of them."""
    grown = {f"generator.{name}": tensor for name, tensor in tensors.items()}
    for key in network.state_dict():
        if key.startswith("others."):
            _, _, short, name = key.split(".", 3)
            found = f"{short.replace('-', '.')}.{name}"
            if found in tensors:
                grown[key] = tensors[found]
    return grown


def _has(module: nn.Module, name: str) -> bool:
    for part in name.split("."):
        module = getattr(module, part, None)  # type: ignore[assignment]
        if module is None:
            return False
    return True

"""Averaged weights: what is drawn with, while the trained weights still swing."""

from __future__ import annotations

import torch
from torch import Tensor

from fewtoon.methods.base import Method


class Average:
    """Exponential moving average of the translating networks of `method`, kept in `drawer`.

    drawer: a second Method, built with training=False; its networks have the same names and shapes.
    decay: per update. It is ramped up as min(decay, (1 + step) / (10 + step)), so that the random weights of
    the start are soon forgotten. 0: the last weights.
    """

    def __init__(self, method: Method, drawer: Method, decay: float) -> None:
        self.decay = decay
        trained = method.networks()
        self._pairs = [(network, trained[name]) for name, network in drawer.networks().items()]

    @torch.no_grad()
    def start(self) -> None:
        """Begin with the trained weights as they are."""
        for averaged, network in self._pairs:
            averaged.load_state_dict(network.state_dict())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the trained weights; `step` counts from 0. Buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for averaged, network in self._pairs:
            own: list[Tensor] = list(averaged.parameters())
            other: list[Tensor] = list(network.parameters())
            if own:
                torch._foreach_lerp_(own, other, 1 - decay)
            for mine, theirs in zip(averaged.buffers(), network.buffers()):
                mine.copy_(theirs)

"""A history of pictures: the discriminator learns from fakes of the past, too.

Shrivastava et al.: Learning from Simulated and Unsupervised Images through Adversarial Training, CVPR 2017,
arXiv:1612.07828, section 2.3; with the 50 pictures of Zhu et al., CycleGAN, arXiv:1703.10593, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pool(nn.Module):
    """The last fakes of a generator, as buffers, so that they are part of the saved state.

    count: pictures it holds. shapes: of a picture, (3, S, S), and of each companion that belongs to it and comes
    back with it, such as a mask (1, S, S).
    """

    filled: Tensor  # int64 scalar: pictures held

    def __init__(self, count: int, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.count = count
        self.names = [f"held{number}" for number in range(len(shapes))]
        for name, shape in zip(self.names, shapes):
            self.register_buffer(name, torch.zeros(count, *shape))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """(B, ...) of each shape -> the same, some of them older ones.

        Until it is full every picture is kept and returned. From then on, one after the other, half of them change
        places with a random one of the pool, and the others are returned and forgotten. Random numbers come from
        torch's global generator. A picture that is not finite is never kept: it would stay in the saved state.
        """
        random = torch.rand(len(batch[0]), 2, device=self.filled.device)
        rows = [
            self._one([each[row].detach() for each in batch], *random[row]) for row in range(len(batch[0]))
        ]
        return tuple(torch.stack(column) for column in zip(*rows))

    def _one(self, new: list[Tensor], coin: Tensor, place: Tensor) -> list[Tensor]:
        """In tensors alone: a decision in Python would wait for the GPU."""
        full = self.filled >= self.count
        swap = full & (coin < 0.5)
        finite = torch.stack([each.isfinite().all() for each in new]).all()
        keep = finite & (swap | ~full)
        slot = torch.where(full, (place * self.count).long(), self.filled).clamp_max(self.count - 1)[None]
        given = []
        for name, each in zip(self.names, new):
            held = getattr(self, name)
            old = held.index_select(0, slot)[0]
            given.append(torch.where(swap, old, each.to(held.dtype)))
            held.index_copy_(0, slot, torch.where(keep, each.to(held.dtype), old)[None])
        self.filled += keep & ~full
        return given

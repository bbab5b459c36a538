"""What all operations share: draws for a batch, and work on some of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewtoon.errors import Problem, nearest

Array = NDArray[np.float64]
FILLS: dict[str, float | None] = {"reflect": None, "white": 1.0}  # what lies outside; None: its mirror image


class Dice:
    """Draws for `count` pictures, of which a share `p` is meant.

    They come from torch's default generator of the CPU, so that every device draws the same.
    """

    def __init__(self, count: int, p: float) -> None:
        self.count, self.p = count, p

    def uniform(self, low: float, high: float) -> Array:
        """(count,) in [low, high)."""
        return low + (high - low) * torch.rand(self.count, dtype=torch.float64).numpy()

    def normal(self, deviation: float) -> Array:
        """(count,) around 0."""
        return deviation * torch.randn(self.count, dtype=torch.float64).numpy()

    def whole(self, n: int) -> Array:
        """(count,) of 0 ... n - 1, all alike."""
        return np.floor(self.uniform(0, n))

    def maybe(self, values: Array, neutral: float, p: float | None = None) -> Array:
        """Each value with the probability p, otherwise the neutral one."""
        return np.where(self.uniform(0, 1) < (self.p if p is None else p), values, neutral)


def on_some(images: Tensor, chosen: NDArray[np.bool_], work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` on the chosen pictures of a batch; the others keep their very bytes.

    chosen: (B,). No work at all where none is chosen: the same tensor comes back.
    """
    if not chosen.any():
        return images
    if chosen.all():
        return work(images)
    at = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
    return images.index_copy(0, at, work(images.index_select(0, at)))


def in_full(images: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` in float32 (float64 where the pictures are), whatever autocast says; dtype and layout stay.

    Where `work` returns what it got, so does this.
    """
    precise = images if images.dtype == torch.float64 else images.float()
    with torch.autocast(images.device.type, enabled=False):
        out = work(precise)
    if out is precise:
        return images
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return out.to(images.dtype).contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def placed(values: Array, images: Tensor) -> Tensor:
    """Numbers of a draw as a tensor beside the pictures."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device, images.dtype)


def mirrored_place(index: Any, size: int) -> Any:
    """Places outside 0 ... size - 1, an int or an array of them, mirrored about both ends until they are inside."""
    period = max(2 * (size - 1), 1)
    return (size - 1) - abs(index % period - (size - 1))


def checked(operations: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """The operations in the order of `known`. Raises Problem for none, and for one that there is not."""
    given = [operations] if isinstance(operations, str) else list(operations)
    for name in given:
        if name not in known:
            raise Problem(f"{what} has no operation {name!r}: {nearest(name, known)}")
    if not given:
        raise Problem(
            f"{what} without operations does nothing; name some of {', '.join(known)}, or use 'none'"
        )
    return tuple(name for name in known if name in given)

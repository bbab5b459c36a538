"""How much pictures differ from one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(pictures: NDArray[np.uint8]) -> float:
    """(B, S, S, 3) uint8 -> the deviation over the pictures, values in [-1, 1], in the mean of pixels and colours."""
    return float((pictures.astype(np.float32) / 127.5 - 1).std(axis=0).mean())


def variety(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """The spread of pictures as a share of that of real ones: near 0 where all look alike."""
    return spread(made) / max(spread(real), 1e-6)

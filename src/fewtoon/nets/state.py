"""The tensors of somebody else's network file, under the names that the file gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import weights

PARALLEL = "module."  # what nn.DataParallel puts before every name


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file (.pth, .pt or .safetensors), on the CPU.

    Raises Problem for a missing, torn or hostile file, and for one that holds more than a state dict.
    """
    path = Path(path)
    tensors = weights.read(path) if path.suffix == ".safetensors" else weights.read_torch(path)
    if not isinstance(tensors, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise Problem(f"{str(path)!r} is not a state dict of tensors: save network.state_dict() alone")
    if tensors and all(key.startswith(PARALLEL) for key in tensors):
        return {key.removeprefix(PARALLEL): value for key, value in tensors.items()}
    return dict(tensors)

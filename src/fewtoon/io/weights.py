"""The only door for weights: safetensors, or a torch file read as tensors alone. Nothing is ever executed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.io.files import write_bytes

PARALLEL = "module."  # what nn.DataParallel puts before every name


def write(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically: a temporary file beside it, flushed, then renamed.

    Raises Problem when the disk is full or the folder cannot be written; an older file stays as it was.
    """
    write_bytes(path, save(dict(tensors), dict(metadata or {})))


def read(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises Problem for a missing or torn file."""
    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise Problem(f"weights file {str(path)!r} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise Problem(
            f"weights file {str(path)!r} is torn or not safetensors ({error}); copy it again"
        ) from None


def read_torch(path: str | Path) -> Any:
    """The content of a `torch.save` file, tensors and plain containers only, on the CPU.

    A file that asks for anything else (it could run code) is refused unread with a Problem.
    """
    path = Path(path)
    if not path.is_file():
        raise Problem(f"weights file {str(path)!r} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch's thoughts on odd files: what we raise says it in one line
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL " not in str(error):
            raise Problem(
                f"{str(path)!r} was refused: it is no torch file of tensors alone (torn, another kind of file, or "
                "one that could run code); copy it again, or save its state dict alone"
            ) from None
        wanted = str(error).split("GLOBAL ")[-1].split(" ")[0]
        raise Problem(
            f"{str(path)!r} was refused: it holds {wanted!r}, and only tensors are read because anything else "
            "could run code; save its state dict alone"
        ) from None
    except Exception as error:  # a damaged file may break any line of the reader
        told = str(error).split(". ")[0][:200]
        raise Problem(
            f"{str(path)!r} is torn or not a torch file ({type(error).__name__}: {told}); copy it again"
        ) from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file (.pth, .pt or .safetensors), on the CPU.

    Raises Problem for a missing, torn or hostile file, and for one that holds more than a state dict.
    """
    path = Path(path)
    tensors = read(path) if path.suffix == ".safetensors" else read_torch(path)
    if not isinstance(tensors, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise Problem(f"{str(path)!r} is not a state dict of tensors: save network.state_dict() alone")
    if tensors and all(key.startswith(PARALLEL) for key in tensors):
        return {key.removeprefix(PARALLEL): value for key, value in tensors.items()}
    return dict(tensors)


def whole(value: Any) -> bool:
    """Whether this is a plain tensor whose numbers are all in the file: a few bytes must not claim gigabytes."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.is_floating_point()
        and not value.is_meta
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def fill(network: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load `tensors` into `network`, every key and every shape, or raise Problem naming the first that differs.

    A network on the meta device takes the tensors for its own: so a file that claims an enormous network is
    found out before any memory is asked for.
    """
    expected = network.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        told = [f"lacks {key!r}" for key in missing[:1]] + [f"has unknown {key!r}" for key in unknown[:1]]
        raise Problem(f"{what} {' and '.join(told)} ({len(missing)} missing, {len(unknown)} unknown tensors)")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise Problem(
                f"{what}: {key!r} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise Problem(f"{what}: {key!r} holds {tensor.dtype} numbers, expected {expected[key].dtype}")
    # Half precision becomes whole. Copies, because in a file tensors lie at any address, and some products
    # round by how their factors are aligned in memory.
    fitting = {key: tensor.to(expected[key].dtype, copy=True) for key, tensor in tensors.items()}
    network.load_state_dict(fitting, assign=any(value.is_meta for value in expected.values()))

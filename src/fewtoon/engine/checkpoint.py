"""Saved states: one safetensors file per state, written in one step, with a checksum inside.

The file name says the step; its metadata holds the counters and a sha256 over them and every tensor. Because
checksum and content are one file that appears by one rename, there is no moment at which they disagree: a
state is either whole, or it is torn and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import weights

FORMAT = "fewtoon-state-1"


class States:
    """The folder `state/` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        """All states, the newest first, whole or torn."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
        """Write the state of a step; forget the torn ones beyond it and all but the newest `keep`.

        Raises Problem when it cannot be written; the earlier states stay.
        """
        text = json.dumps(facts)
        path = self.folder / f"step-{step:08d}.safetensors"
        header = json.dumps({"format": FORMAT, "facts": text, "sha256": _checksum(tensors, text)})
        # One key: the order of several in the file would be another one each time.
        weights.write(path, tensors, {"fewtoon": header})
        _sync_folder(self.folder)
        files = self.files()
        newer = files.index(path)  # of an abandoned future: a whole one would have been continued from
        for other in [*files[:newer], *files[newer + keep :]]:
            other.unlink(missing_ok=True)
        return path

    def newest(self, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the newest whole state; every torn one that is newer is reported to `say`.

        None when there is no state at all. Raises Problem when there are some and all are torn.
        """
        files = self.files()
        for number, path in enumerate(files):
            try:
                return read(path)
            except Problem as problem:
                rest = "using the one before" if number + 1 < len(files) else "and there is none before"
                say(f"{problem}; {rest}")
        if files:
            raise Problem(
                f"no state in {str(self.folder)!r} is whole ({len(files)} torn); delete it to start anew"
            )
        return None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and facts of a state. Raises Problem when it is torn or altered."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["fewtoon"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT or _checksum(tensors, header["facts"]) != header["sha256"]:
            raise ValueError("its checksum does not match")
        return tensors, json.loads(header["facts"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise Problem(f"state {path.name} is torn or altered ({error})") from None


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Not every system lets a folder be flushed; then there is nothing to do."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


# --- optimisers as flat tensors ---------------------------------------------------------------------------


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter: 'optimizer.NAME.INDEX.KEY' -> tensor."""
    found = {}
    for index, parameter in enumerate(parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            found[f"optimizer.{name}.{index}.{key}"] = tensor.detach().cpu().contiguous()
    return found


def fill_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse. Tensors get the memory layout of their parameter: fused optimisers walk both as one."""
    optimizer.state.clear()
    everything = parameters(optimizer)
    prefix = f"optimizer.{name}."
    for full, value in tensors.items():
        if not full.startswith(prefix):
            continue
        index, key = full[len(prefix) :].split(".", 1)
        parameter = everything[int(index)]
        if value.dtype == torch.float64 and value.ndim == 0:
            optimizer.state[parameter][key] = value.item()
        elif key != "step" and value.shape == parameter.shape:
            optimizer.state[parameter][key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:  # a step count: lives on the CPU unless the optimiser is fused or capturable on a GPU
            group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
            with_parameter = group.get("fused") or group.get("capturable")
            optimizer.state[parameter][key] = value.to(parameter.device if with_parameter else "cpu")


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """All parameters of an optimiser, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

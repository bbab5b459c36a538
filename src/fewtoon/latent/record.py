"""What a latent tool leaves behind: the JSON that repeats a command, and the latents."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fewtoon
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash, printable, write_bytes
from fewtoon.latent.codes import FORMAT, VERSION
from fewtoon.latent.sources import Source


def record(
    path: Path,
    beside: Path,
    sources: Sequence[Source],
    command: Sequence[str],
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write the JSON that repeats a command to `path`, and z and w to `beside`, with the same text inside."""
    told = {
        "fewtoon": fewtoon.__version__,
        "torch": torch.__version__,
        "command": shlex.join(command),
        "styles": [source.facts() for source in sources],
        **facts,
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    weights.write(beside, whole, {"fewtoon": json.dumps({"format": FORMAT, "version": VERSION, **told})})
    write_bytes(path, (json.dumps(told, indent=1) + "\n").encode())


def check_out(out: Path, inputs: Sequence[Path] = ()) -> None:
    """Raises Problem for an --out that is no folder, or whose latents would replace one of the inputs."""
    if out.exists() and not out.is_dir():
        raise Problem(f"{printable(out)!r} is a file: --out names a folder")
    target = out / "latents.safetensors"
    if any(target.resolve() == path.resolve() for path in inputs):
        raise Problem(f"{printable(target)!r} would be written, and is read too: choose another --out")


def latents_told(asked: Sequence[int] | str | Path) -> Any:
    """Seeds, or a file of latents, as a record keeps them."""
    if isinstance(asked, (str, Path)):
        return {"file": Path(asked).name, "sha256": file_hash(asked)}
    return list(asked)

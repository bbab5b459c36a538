"""What a latent tool leaves behind: the JSON that repeats a command, and the latents."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import fewtoon
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash, printable, write_bytes
from fewtoon.latent.codes import FORMAT, VERSION
from fewtoon.latent.sources import Source

ENCODER = "fewtoon-encoder"  # the format of `fewtoon.latent.encoder`


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


def check_out(
    out: Path, tool: str, inputs: Iterable[str | Path] = (), video: str | Path | None = None
) -> None:
    """Raises Problem for an --out that is no folder, and where what the tool writes would replace one of its inputs."""
    if out.exists() and not out.is_dir():
        raise Problem(f"{printable(out)!r} is a file: --out names a folder")
    read = {Path(path).resolve() for path in inputs}
    targets = [out / "latents.safetensors", out / "sheet.png", out / f"{tool}.json"]
    for target in [*targets, *([] if video is None else [Path(video)])]:
        if target.resolve() in read:
            raise Problem(
                f"{printable(target)!r} is read too, and would be written over: choose another place"
            )


@contextlib.contextmanager
def all_or_none(written: Sequence[Path]) -> Iterator[None]:
    """Takes the files in `written`, which grows meanwhile, away again when the block does not end well, Ctrl-C
    included: no half of the pictures stays."""
    try:
        yield
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def check_own(path: Path, kind: str) -> None:
    """Raises Problem where something lies at `path` that is not of this kind, as `kind_of` names it: no tool replaces
    what another one, or a training, has made."""
    if path.exists() and kind_of(path) != kind:
        raise Problem(
            f"{printable(path)!r} is there already, and is no {kind}: choose another name, or remove it"
        )


def kind_of(path: Path) -> str | None:
    """What of `fewtoon explore` a file is: "record", "latents", "encoder" or "swapped style"; None: something else."""
    try:
        if path.suffix.lower() == ".json":
            told = json.loads(path.read_text(encoding="utf-8"))
            return "record" if str(told["command"]).startswith("fewtoon explore ") else None
        with safe_open(str(path), framework="pt") as file:
            told = json.loads((file.metadata() or {})["fewtoon"])
        kinds = {FORMAT: "latents", ENCODER: "encoder"}
        return kinds.get(told["format"]) or ("swapped style" if told.get("made_of") else None)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def latents_told(asked: Sequence[int] | str | Path) -> Any:
    """Seeds, or a file of latents, as a record keeps them."""
    if isinstance(asked, (str, Path)):
        return {"file": Path(asked).name, "sha256": file_hash(asked)}
    return list(asked)

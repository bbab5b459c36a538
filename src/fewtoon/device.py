"""Where the numbers are crunched."""

from __future__ import annotations

import torch

from fewtoon.errors import Problem


def pick(name: str | None = None) -> torch.device:
    """The device called `name` ("cpu", "cuda", "cuda:1", "mps"); None: the best there is.

    Raises Problem for one that does not work here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise Problem(f"device {name!r} does not work here ({reason}); use 'cpu', or leave it out") from None
    return torch.device(name)

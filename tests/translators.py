"""Tiny random translators as Style files, for the tests of what one does with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewtoon import config, methods, style

TINY: dict[str, dict[str, Any]] = {
    "cyclegan": {"channels": 4, "blocks": 1},
    "groups": {"channels": 4, "blocks": 1, "discriminator_channels": 4},
}


def save(
    path: Path,
    seed: int = 0,
    name: str = "cyclegan",
    groups: tuple[str, ...] = (),
    size: int = 64,
    **header: Any,
) -> Path:
    """A Style of a method with random weights; `header` holds its facts, as framing."""
    kind = methods.find(name)
    torch.manual_seed(seed)
    method = kind(config.section(kind.Config, TINY[name], "model"), size, groups, training=False)
    for network in method.networks().values():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    style.write(path, method, header)
    return path

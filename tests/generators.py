"""Tiny random generators for the tests of what one does with one."""

from __future__ import annotations

from typing import Any

import torch

from fewtoon import config, methods

TINY = {"channel_base": 128, "channel_max": 8, "latent": 8, "style": 8, "mapping_layers": 2}
SIZE = 16


def make(seed: int, groups: tuple[str, ...] = (), size: int = SIZE, **settings: Any) -> Any:
    """A StyleGAN method with random weights that all do something."""
    kind = methods.find("stylegan")
    torch.manual_seed(seed)
    method = kind(config.section(kind.Config, {**TINY, **settings}, "model"), size, groups, training=False)
    with torch.no_grad():
        for network in method.networks().values():
            for name, tensor in network.state_dict().items():
                if name.endswith(("bias", "strength", "average")):
                    tensor.add_(torch.randn(tensor.shape) * 0.3)
    return method

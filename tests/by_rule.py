"""Weights made by a rule, so that a network has published numbers without a published file."""

from __future__ import annotations

import torch
from torch import nn


def by_rule(network: nn.Module) -> nn.Module:
    """Fill every tensor with a sine of its own phase, scaled so that the signal neither dies nor explodes."""
    with torch.no_grad():
        for index, (name, tensor) in enumerate(sorted(network.state_dict().items())):
            if not tensor.is_floating_point():
                continue
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + index).view_as(tensor)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + wave**2)
            elif tensor.ndim >= 2:
                tensor.copy_(2.0 * tensor[0].numel() ** -0.5 * wave)
            elif name.endswith("weight"):  # of batch norms and PReLUs
                tensor.copy_(1.0 + 0.5 * wave)
            else:
                tensor.copy_(0.1 * wave)
    return network.eval()

"""CARN-M: super-resolution by 2, 3 and 4 from 0.4 million parameters (Ahn, Kang, Sohn: Fast, Accurate, and
Lightweight Super-Resolution with Cascading Residual Network, ECCV 2018, arXiv 1803.08664).

The mobile one of the paper's networks: grouped convolutions in its residual blocks, and one such block shared
by the three steps of each cascade (section 3.3). One file serves all three factors. The attribute names of
the modules are the keys of the public checkpoint, therefore not ours to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fewtoon.io import weights

SCALES = (2, 3, 4)
CHANNELS = 64
GROUPS = 4
# How far, in pixels of the input, a pixel can have an influence: 1 for the entry, 2 for each of the 9 passes
# through a residual block, and less than 2 for the two convolutions that see enlarged pixels.
REACH = 21


def load(path: str | Path) -> CARN:
    """The network of a weights file (.pth, .pt or .safetensors), frozen and in eval mode, on the CPU.

    Raises Problem for a missing, torn or hostile file, and for tensors of another network.
    """
    network = CARN()
    weights.fill(network, weights.read_state(path), f"CARN-M {str(path)!r}")
    return network.eval().requires_grad_(False)


class Shift(nn.Module):
    """Adds a colour; a convolution in the public files, so here too."""

    def __init__(self) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shifter(x)


class Residual(nn.Module):
    """The efficient residual block: two grouped 3x3, a 1x1 that mixes the groups."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=GROUPS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=GROUPS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + x).relu()


class Mix(nn.Module):
    """A 1x1 from everything that a cascade has gathered to 64 channels."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(parts * CHANNELS, CHANNELS, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def cascade(x: Tensor, steps: Sequence[nn.Module], mixes: Sequence[nn.Module]) -> Tensor:
    """Each mix sees the input and what every step so far has made of it (figure 2 of the paper)."""
    gathered = x
    for step, mix in zip(steps, mixes):
        gathered = torch.cat([gathered, step(x)], 1)
        x = mix(gathered)
    return x


class Block(nn.Module):
    """A cascade of one residual block, three times the same."""

    def __init__(self) -> None:
        super().__init__()
        self.b1 = Residual()
        self.c1, self.c2, self.c3 = Mix(2), Mix(3), Mix(4)

    def forward(self, x: Tensor) -> Tensor:
        return cascade(x, (self.b1, self.b1, self.b1), (self.c1, self.c2, self.c3))


class Enlarge(nn.Module):
    """Channels become pixels, factor by factor."""

    def __init__(self, *factors: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in factors:
            layers += [
                nn.Conv2d(CHANNELS, factor**2 * CHANNELS, 3, padding=1, groups=GROUPS),
                nn.ReLU(),
                nn.PixelShuffle(factor),
            ]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Enlargements(nn.Module):
    """The one part that each factor has for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up2, self.up3, self.up4 = Enlarge(2), Enlarge(3), Enlarge(2, 2)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        return {2: self.up2, 3: self.up3, 4: self.up4}[scale](x)


class CARN(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] and 2, 3 or 4 -> (B, 3, scale H, scale W), about [0, 1], not clamped."""

    def __init__(self) -> None:
        super().__init__()
        self.sub_mean = Shift()
        self.add_mean = Shift()
        self.entry = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.b1, self.b2, self.b3 = Block(), Block(), Block()
        self.c1, self.c2, self.c3 = Mix(2), Mix(3), Mix(4)
        self.upsample = Enlargements()
        self.exit = nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, pictures: Tensor, scale: int) -> Tensor:
        x = self.entry(self.sub_mean(pictures))
        x = cascade(x, (self.b1, self.b2, self.b3), (self.c1, self.c2, self.c3))
        return self.add_mean(self.exit(self.upsample(x, scale)))

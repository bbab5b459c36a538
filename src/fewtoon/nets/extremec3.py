"""ExtremeC3Net: a portrait matte from 38 thousand parameters (Park, Sjosund, Yoo, Kwak: ExtremeC3Net: Extreme
Lightweight Portrait Segmentation Networks using Advanced C3-modules, arXiv 1908.03093).

A coarse network at 1/4 of the side, to which a single module at 1/2 adds the fine edges. Its modules look at
three distances at once through dilated kernels, each with a small filter before it that fills the holes of
the dilation (section 3.1). The attribute names of the modules are the keys of the public checkpoint, therefore
not ours to choose.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.io import weights
from fewtoon.nets.sinet import Conv, ConvNormAct, NormAct, Pictures, with_counters

INPUT_SIDE = 224  # of the training pictures; the network itself takes every multiple of 4


def load(path: str | Path) -> ExtremeC3:
    """The network of a weights file (.pth, .pt or .safetensors), frozen and in eval mode, on the CPU.

    Raises Problem for a missing, torn or hostile file, and for tensors of another network.
    """
    network = ExtremeC3()
    weights.fill(network, with_counters(weights.read_state(path), network), f"ExtremeC3Net {str(path)!r}")
    return network.eval().requires_grad_(False)


class Dilated(nn.Module):
    """The C3-block: 3x3 depthwise with holes of `dilation`, then 1x1; before it a (2 d - 1) x (2 d - 1) filter
    in two strokes, so that no pixel falls into a hole."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if dilation > 1:
            reach = dilation - 1
            layers = [
                nn.Conv2d(inputs, inputs, (2 * reach + 1, 1), padding=(reach, 0), groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.PReLU(inputs),
                nn.Conv2d(inputs, inputs, (1, 2 * reach + 1), padding=(0, reach), groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
            ]
        self.conv = nn.Sequential(
            *layers,
            nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Branches(nn.Module):
    """A convolution to a third of the channels, then three dilations side by side: (B, outputs, ...)."""

    def __init__(
        self, inputs: int, outputs: int, dilations: tuple[int, int, int], kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        third = outputs // 3
        self.c1 = Conv(inputs, third, kernel, stride)
        self.d1 = Dilated(third, outputs - 2 * third, dilations[0])
        self.d2 = Dilated(third, third, dilations[1])
        self.d3 = Dilated(third, third, dilations[2])

    def forward(self, x: Tensor) -> Tensor:
        shared = self.c1(x)
        return torch.cat([self.d1(shared), self.d2(shared), self.d3(shared)], 1)


class Halve(Branches):
    """The module with stride 2, then batch norm and PReLU."""

    def __init__(self, inputs: int, outputs: int, dilations: tuple[int, int, int]) -> None:
        super().__init__(inputs, outputs, dilations, kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(super().forward(x)))


class AdvancedC3(Branches):
    """The advanced C3-module: the branches, added to the input where it has as many channels."""

    def __init__(self, inputs: int, outputs: int, dilations: tuple[int, int, int] = (2, 4, 8)) -> None:
        super().__init__(inputs, outputs, dilations)
        self.bn = NormAct(outputs)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.bn(x + y if self.residual else y)


class Encoder(nn.Module):
    """(B, 3, S, S) -> (B, 112, S / 4, S / 4); the shrunken picture itself joins in at 1/2 and 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.level1 = ConvNormAct(3, 24, 3, stride=2)  # 1/2
        self.b1 = NormAct(27)
        self.level2_0 = Halve(27, 48, (1, 2, 3))  # 1/4
        self.level2 = nn.Sequential(AdvancedC3(48, 48, (1, 3, 4)))
        self.b2 = NormAct(99)
        self.level3_0 = AdvancedC3(99, 56, (1, 3, 5))
        self.level3 = nn.Sequential(*(AdvancedC3(56, 56) for _ in range(5)))
        self.b3 = NormAct(112)

    def forward(self, x: Tensor) -> Tensor:
        half = F.avg_pool2d(x, 2)
        quarter = F.avg_pool2d(half, 2)
        first = self.level2_0(self.b1(torch.cat([self.level1(x), half], 1)))
        second = self.level3_0(self.b2(torch.cat([self.level2(first), first, quarter], 1)))
        return self.b3(torch.cat([second, self.level3(second)], 1))


class ExtremeC3(nn.Module):
    """(B, 3, S, S) RGB in [0, 255], S a multiple of 4 -> (B, 1, S, S), the person's share of each pixel, 0 to 1.

    Trained with a hinge loss, its scores gather at -1 and 1: the share runs straight from the one to the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pictures = Pictures()
        self.encoder = Encoder()
        self.upsample = nn.Sequential(
            nn.Conv2d(112, 24, 1, bias=False), nn.BatchNorm2d(24), nn.UpsamplingBilinear2d(scale_factor=2)
        )
        self.Fine = nn.Sequential(Conv(3, 24, 3, stride=2), AdvancedC3(24, 24))
        self.classifier = nn.Sequential(
            NormAct(24), nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(24, 1, 1, bias=False)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.pictures(pictures)
        scores = self.classifier(self.upsample(self.encoder(x)) + self.Fine(x))
        return (0.5 * scores + 0.5).clamp(0.0, 1.0)

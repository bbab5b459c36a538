"""SINet: a portrait matte from 87 thousand parameters (Park, Sjosund, Yoo, Monet, Bang, Kwak: SINet: Extreme
Lightweight Portrait Segmentation Networks with Spatial Squeeze Modules and Information Blocking Decoder,
WACV 2020, arXiv 1911.09099).

Features are gathered at 1/8 of the picture's side by spatial squeeze modules (section 3.1). The decoder lets
the finer features of 1/4 speak only where the coarse answer is unsure: the information blocking of section
3.2. The attribute names of the modules are the keys of the public checkpoint, therefore not ours to choose.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.io import weights

INPUT_SIDE = 224  # of the training pictures; the network itself takes every multiple of 32

# (kernel, pooling) of the two branches of each module.
LEVEL2 = (((3, 1), (5, 1)), ((3, 1), (3, 1)))
LEVEL3 = (
    ((3, 1), (5, 1)),
    ((3, 1), (3, 1)),
    ((5, 1), (3, 2)),
    ((5, 2), (3, 4)),
    ((3, 1), (3, 1)),
    ((5, 1), (5, 1)),
    ((3, 2), (3, 4)),
    ((3, 1), (5, 2)),
)


def load(path: str | Path) -> SINet:
    """The network of a weights file (.pth, .pt or .safetensors), frozen and in eval mode, on the CPU.

    Raises Problem for a missing, torn or hostile file, and for tensors of another network.
    """
    network = SINet()
    weights.fill(network, with_counters(weights.read_state(path), network), f"SINet {str(path)!r}")
    return network.eval().requires_grad_(False)


def with_counters(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors, with a zero for each batch counter that files from before torch 0.4.1 lack. Nothing reads
    these counters after training."""
    counters = {
        key: value.clone()
        for key, value in network.state_dict().items()
        if key.endswith("num_batches_tracked")
    }
    return counters | tensors


class Pictures(nn.Module):
    """(B, 3, S, S) RGB in [0, 255] -> what the networks of this family were trained on.

    Blue, green, red; by the mean and deviation of the EG1800 portraits; and then divided by 255 once more,
    which the authors' code does and the weights therefore expect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        bgr_mean, bgr_std = (107.304565, 115.69884, 132.35703), (63.97182, 65.1337, 68.29726)
        self.register_buffer("mean", torch.tensor(bgr_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(bgr_std).view(3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures.flip(1) - self.mean) / (self.std * 255.0)


class NormAct(nn.Module):
    """Batch norm and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))


class Conv(nn.Module):
    """A convolution without bias; padding keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ConvNormAct(NormAct):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(outputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


def enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


class Excitation(nn.Module):
    """Weighs the channels by what their means say; unlike the usual kind it ends in a PReLU."""

    def __init__(self, channels: int, narrow: int | None) -> None:
        super().__init__()
        sides = [channels, channels] if narrow is None else [channels, narrow, channels]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sides):
            layers += [nn.Linear(inputs, outputs), nn.PReLU(outputs)]
        self.dense = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.dense(x.mean((2, 3)))[:, :, None, None]


class Halve(NormAct):
    """Half the side: 3x3 depthwise of stride 2, weighed channels, 1x1."""

    def __init__(self, inputs: int, outputs: int, narrow: int | None = None) -> None:
        super().__init__(outputs)
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False),
            Excitation(inputs, narrow),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class Branch(nn.Module):
    """The S2-block: pooled, filtered, and enlarged again; so a small kernel sees far for little."""

    def __init__(self, channels: int, kernel: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
            nn.BatchNorm2d(channels, eps=1e-3),
        )
        self.act_conv1x1 = nn.Sequential(nn.PReLU(channels), nn.Conv2d(channels, channels, 1, bias=False))
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        if self.pooling == 1:
            return self.bn(self.act_conv1x1(self.conv(x)))
        small = self.act_conv1x1(self.conv(F.avg_pool2d(x, self.pooling)))
        return self.bn(enlarged(small, self.pooling))


class SpatialSqueeze(nn.Module):
    """The S2-module: half the channels by a grouped 1x1, shuffled, through two branches side by side."""

    def __init__(self, inputs: int, outputs: int, branches: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        half = outputs // 2
        self.c1 = Conv(inputs, half, groups=2)
        self.d1 = Branch(half, *branches[0])
        self.d2 = Branch(half, *branches[1])
        self.BR = NormAct(outputs)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        shared = F.channel_shuffle(self.c1(x), 2)
        y = torch.cat([self.d1(shared), self.d2(shared)], 1)
        return self.BR(x + y if self.residual else y)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level1 = ConvNormAct(3, 12, 3, stride=2)  # 1/2
        self.level2_0 = Halve(12, 16)  # 1/4
        self.level2 = nn.Sequential(SpatialSqueeze(16, 48, LEVEL2[0]), SpatialSqueeze(48, 48, LEVEL2[1]))
        self.BR2 = NormAct(64)
        self.level3_0 = Halve(64, 48, narrow=32)  # 1/8
        self.level3 = nn.Sequential(
            *(SpatialSqueeze(96 if index else 48, 96, branches) for index, branches in enumerate(LEVEL3))
        )
        self.BR3 = NormAct(144)
        self.classifier = Conv(144, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features at 1/4 of the side, (B, 48, ...), and the scores at 1/8, (B, 2, ...)."""
        quarter = self.level2_0(self.level1(x))
        fine = self.level2(quarter)
        eighth = self.level3_0(self.BR2(torch.cat([quarter, fine], 1)))
        return fine, self.classifier(self.BR3(torch.cat([eighth, self.level3(eighth)], 1)))


class SINet(nn.Module):
    """(B, 3, S, S) RGB in [0, 255], S a multiple of 32 -> (B, 1, S, S), the person's share of each pixel, 0 to 1.

    The share is the softmax of `STEEPNESS` times the scores.
    """

    # As they stand the scores leave three percent of person all over the background, which is a visible haze.
    # Doubled they come closest to the mattes of 20 portraits (mean error 0.033 -> 0.031, more is no better).
    STEEPNESS = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.pictures = Pictures()
        self.encoder = Encoder()
        self.bn_3 = nn.BatchNorm2d(2, eps=1e-3)
        self.level2_C = ConvNormAct(48, 2)
        self.bn_2 = nn.BatchNorm2d(2, eps=1e-3)
        self.classifier = nn.Sequential(
            nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        fine, scores = self.encoder(self.pictures(pictures))
        coarse = self.bn_3(enlarged(scores, 2))  # 1/4
        unsure = 1.0 - coarse.softmax(1).amax(1, keepdim=True)
        merged = self.bn_2(enlarged(coarse + unsure * self.level2_C(fine), 2))  # 1/2
        return (self.STEEPNESS * self.classifier(merged)).softmax(1)[:, 1:]

"""The networks of U-GAT-IT (Kim, Kim, Kang, Lee: Unsupervised Generative Attentional Networks with Adaptive
Layer-Instance Normalization for Image-to-Image Translation, ICLR 2020, arXiv:1907.10830).

Shapes are written for S x S pictures and `channels` = C; feature maps are channels last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets.conv import SpectralNorm, attend, cast, conv_to_rgb, conv_upsampled, pools
from fewtoon.nets.norm import AdaptiveNorm, Norm, inside, norm_act, pad_edge


class Drawn(NamedTuple):
    """What a generator returns."""

    image: Tensor  # (B, 3, S, S) in [-1, 1]
    cam_logit: Tensor | None  # (B, 2): from average and from maximum pooling; None without CAM
    features: Tensor  # (B, 4C, S/4, S/4): what the CAM attended to; its channel sum is the heat map


class Judged(NamedTuple):
    """What a discriminator returns."""

    logit: Tensor  # (B, 1, h, w), one per patch
    cam_logit: Tensor | None  # (B, 2)
    features: Tensor  # (B, D, h + 1, w + 1)


def heatmap(output: Drawn | Judged) -> Tensor:
    """(B, 1, h, w): where the network looked, not scaled."""
    return output.features.float().sum(1, keepdim=True)


class Cam(nn.Module):
    """The auxiliary classifier whose weights become attention, and the 1x1 convolution that mixes both maps."""

    def __init__(self, channels: int, bias: bool = False) -> None:
        super().__init__()
        self.average = nn.Linear(channels, 1, bias=bias)
        self.maximum = nn.Linear(channels, 1, bias=bias)
        self.mix = nn.Linear(2 * channels, channels)  # the 1x1 convolution

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> attended features before the activation, same shape, and logits (B, 2)."""
        mean, top = pools(x)
        with torch.autocast(x.device.type, enabled=False):  # this loss is weighted by 1000
            logit = torch.cat([self.average(mean), self.maximum(top)], 1)
        return attend(
            x, self.average.weight[0], self.maximum.weight[0], self.mix.weight, self.mix.bias
        ), logit


class GroupVector(nn.Module):
    """A learned vector for each group, zero at first; the group -1 (unknown) is the mean of all."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(groups, channels))

    def forward(self, group: Tensor) -> Tensor:
        """(B,) int64 -> (B, channels)."""
        known = F.one_hot(group.clamp_min(0), len(self.weight)).to(self.weight.dtype)
        share = torch.where((group < 0)[:, None], torch.full_like(known, 1 / len(self.weight)), known)
        return share @ self.weight


class ResBlock(nn.Module):
    """x + IN(conv(relu(IN(conv(x))))), each convolution 3x3 with reflection padding.

    Takes and returns maps that are already padded by 1: each normalisation writes the padding of the next
    convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)

    def forward(self, padded: Tensor, pad: int = 1) -> Tensor:
        hidden = norm_act(self.conv1(padded), relu=True, pad=1)
        return norm_act(self.conv2(hidden), residual=inside(padded), pad=pad)


class AdaptiveResBlock(nn.Module):
    """A residual block whose two normalisations take gamma and beta from outside. Padded in, padded out."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm1 = AdaptiveNorm(channels, norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm2 = AdaptiveNorm(channels, norm)

    def forward(self, padded: Tensor, gamma: Tensor | None, beta: Tensor | None, pad: int = 1) -> Tensor:
        hidden = self.norm1(self.conv1(padded), gamma, beta, relu=True, pad=1)
        return self.norm2(self.conv2(hidden), gamma, beta, residual=inside(padded), pad=pad)


class Generator(nn.Module):
    """Photo to drawing, or drawing to photo.

    channels: width C of the first layer. blocks: residual blocks on each side of the attention.
    pool: side of the grid to which the attended features are averaged before the two layers that make gamma
    and beta; 1 is the published light model, None (no pooling) the full one, which is bound to `size`.
    norm: normalisation of the decoder, "adalin" as published, or "adain", "adaln", "instance", "layer" for
    the paper's ablation. cam: attention on or off.
    groups: more than 0 adds a learned vector per group to the one that gamma and beta are made from.
    """

    def __init__(
        self,
        size: int,
        channels: int = 64,
        blocks: int = 4,
        pool: int | None = 1,
        norm: str = "adalin",
        cam: bool = True,
        groups: int = 0,
    ) -> None:
        super().__init__()
        if size < 16 or size % 4:
            raise Problem(
                f"size {size}: U-GAT-IT needs a size of at least 16 that is a multiple of 4, such as 64, 128 or 256"
            )
        self.pool = pool
        c = channels
        self.stem = nn.Conv2d(3, c, 7, bias=False)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 3, stride=2, bias=False)
        self.encoder = nn.ModuleList(ResBlock(4 * c) for _ in range(blocks))
        self.cam = Cam(4 * c) if cam else None
        self.adaptive = norm.startswith("ada")
        if self.adaptive:
            grid = size // 4 if pool is None else pool
            self.style1 = nn.Linear(4 * c * grid * grid, 4 * c, bias=False)
            self.style2 = nn.Linear(4 * c, 4 * c, bias=False)
            self.gamma = nn.Linear(4 * c, 4 * c, bias=False)
            self.beta = nn.Linear(4 * c, 4 * c, bias=False)
        elif groups:
            raise Problem(
                f"norm {norm!r} has no gamma and beta that a group could change; use an 'ada...' norm"
            )
        self.group = GroupVector(groups, 4 * c) if groups else None
        self.decoder = nn.ModuleList(AdaptiveResBlock(4 * c, norm) for _ in range(blocks))
        up_norm = {"adain": "instance", "instance": "instance", "adaln": "layer", "layer": "layer"}.get(
            norm, "lin"
        )
        self.up1 = nn.Conv2d(4 * c, 2 * c, 3, bias=False)
        self.up1_norm = Norm(2 * c, up_norm)
        self.up2 = nn.Conv2d(2 * c, c, 3, bias=False)
        self.up2_norm = Norm(c, up_norm)
        self.head = nn.Conv2d(c, 3, 7, bias=False)

    def forward(self, x: Tensor, group: Tensor | None = None) -> Drawn:
        """x: (B, 3, S, S) in [-1, 1]; group: (B,) int64, where the generator was made with groups."""
        x = norm_act(self.stem(pad_edge(x, 3)), relu=True, pad=1)  # (B, C, S + 2, S + 2)
        x = norm_act(self.down1(x), relu=True, pad=1)  # (B, 2C, S/2 + 2, ...)
        x = norm_act(self.down2(x), relu=True, pad=1)  # (B, 4C, S/4 + 2, ...)
        for block in self.encoder:
            x = block(x)
        x = inside(x)

        cam_logit = None
        if self.cam is not None:
            x, cam_logit = self.cam(x)
            x = F.relu(x)
        features = x  # (B, 4C, S/4, S/4)

        gamma, beta = self._gamma_beta(features, group) if self.adaptive else (None, None)
        x = pad_edge(x, 1)
        for block in self.decoder[:-1]:
            x = block(x, gamma, beta)
        x = self.decoder[-1](x, gamma, beta, pad=0)

        x = self.up1_norm(conv_upsampled(x, self.up1.weight), relu=True)  # (B, 2C, S/2, S/2)
        x = self.up2_norm(conv_upsampled(x, self.up2.weight), relu=True, pad=3)  # (B, C, S + 6, S + 6)
        return Drawn(torch.tanh(conv_to_rgb(x, self.head.weight).float()), cam_logit, features)

    def _gamma_beta(self, features: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, 4C) each, from the attended features and the group."""
        if self.pool == 1:
            flat = features.mean((2, 3))
        elif self.pool is None:
            flat = features.flatten(1)  # channel by channel, as the published full weights expect
        else:
            flat = F.adaptive_avg_pool2d(features, self.pool).flatten(1)
        style = F.relu(self.style2(F.relu(self.style1(flat))))
        if self.group is not None and group is not None:
            style = style + self.group(group)
        return self.gamma(style), self.beta(style)


class Discriminator(nn.Module):
    """A patch discriminator with spectral normalisation and CAM.

    layers: the published 7 (global: each patch sees the whole picture) or 5 (local: 70 pixels).
    raw_attention: the published code multiplies the features by the CAM weights before spectral
    normalisation, although the logits use them after it; True repeats that for published weights.
    groups: more than 0 adds a classifier of the group on the pooled features; "features" pools them as they
    are and has a bias (Face2Webtoon), "padded" pools them after the reflection padding, without a bias
    (Zhuang & Yang, arXiv:2007.13332).
    told: more than 0 is how many groups there are, and the group of each picture is told: the logits then also have
    the inner product of the pooled features with a vector of that group (Miyato & Koyama, arXiv:1802.05637).
    """

    def __init__(
        self,
        channels: int = 64,
        layers: int = 7,
        cam: bool = True,
        raw_attention: bool = False,
        groups: int = 0,
        group_pooling: str = "features",
        told: int = 0,
    ) -> None:
        super().__init__()
        widths = [3, *(channels * 2**i for i in range(layers - 1))]
        strides = [2] * (layers - 2) + [1]
        self.convs = nn.ModuleList(
            SpectralNorm(nn.Conv2d(a, b, 4, stride=s)) for a, b, s in zip(widths, widths[1:], strides)
        )
        top = widths[-1]
        self.cam_average = SpectralNorm(nn.Linear(top, 1, bias=False)) if cam else None
        self.cam_maximum = SpectralNorm(nn.Linear(top, 1, bias=False)) if cam else None
        self.mix = nn.Linear(2 * top, top) if cam else None  # the 1x1 convolution
        self.raw_attention = raw_attention
        self.padded = group_pooling == "padded"
        self.group = SpectralNorm(nn.Linear(top, groups, bias=not self.padded)) if groups else None
        self.told = SpectralNorm(nn.Linear(2 * top, told, bias=False)) if told else None
        self.last = SpectralNorm(nn.Conv2d(top, 1, 4, bias=False))

    def forward(self, x: Tensor, update: bool = False, group: Tensor | None = None) -> Judged:
        """x: (B, 3, S, S) in [-1, 1]. update: run the power iteration of spectral normalisation. group: (B,) int64,
        of a discriminator that is told; -1: of no group."""
        x = cast(x)
        for conv in self.convs:
            x = F.leaky_relu(conv(pad_edge(x, 1), update)[0], 0.2)
        cam_logit = None
        if self.cam_average is not None and self.cam_maximum is not None and self.mix is not None:
            mean, top = pools(x)
            with torch.autocast(x.device.type, enabled=False):
                average, sigma_average = self.cam_average(mean, update)
                maximum, sigma_maximum = self.cam_maximum(top, update)
                cam_logit = torch.cat([average, maximum], 1)
                weights = self.cam_average.weight[0], self.cam_maximum.weight[0]
                if not self.raw_attention:
                    weights = weights[0] / sigma_average, weights[1] / sigma_maximum
            x = F.leaky_relu(attend(x, *weights, self.mix.weight, self.mix.bias), 0.2)
        features = x
        logit = self.last(pad_edge(x, 1), update)[0].float()
        if self.told is not None and group is not None:
            logit = logit + self._of_group(features, group, update)[:, None, None, None]
        return Judged(logit, cam_logit, features)

    def _of_group(self, features: Tensor, group: Tensor, update: bool) -> Tensor:
        """(B,): what the group of each picture adds to all its logits."""
        assert self.told is not None
        with torch.autocast(features.device.type, enabled=False):
            of_each = self.told(torch.cat(pools(features), 1), update)[0]  # (B, groups)
        picked = of_each.gather(1, group.clamp_min(0)[:, None])[:, 0]
        return torch.where(group >= 0, picked, 0.0)

    def classify(self, judged: Judged, update: bool = False) -> Tensor:
        """Group logits (B, groups), float32, from the average of the features."""
        assert self.group is not None, "made with groups=0"
        features = pad_edge(judged.features, 1) if self.padded else judged.features
        mean = features.mean((2, 3), dtype=torch.float32)
        with torch.autocast(mean.device.type, enabled=False):
            return self.group(mean, update)[0]


def discriminator_layers(size: int) -> tuple[int, int]:
    """Layers of the global and of the local discriminator: 7 and 5 from 128 px on, fewer for smaller pictures.

    With n layers the map is S / 2^(n - 2) before the last two convolutions, each of which takes one pixel;
    reflection padding needs two of them left.
    """
    deepest = int(math.log2(size))
    return min(7, deepest), min(5, deepest - 1)

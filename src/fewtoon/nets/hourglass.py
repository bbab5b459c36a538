"""The generator of photo2cartoon: U-GAT-IT between hourglass modules, with Soft-AdaLIN in the decoder.

Published by Minivision as photo2cartoon (2020). The hourglass and its three-way convolution block are those
of Bulat & Tzimiropoulos, arXiv:1703.07332.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets.conv import conv_to_rgb, conv_upsampled
from fewtoon.nets.norm import Norm, inside, norm_act, pad_edge
from fewtoon.nets.ugatit import Cam, Drawn, GroupVector, ResBlock

LEVELS = 4  # of each hourglass


class TripleConv(nn.Module):
    """x + cat(c1, c2, c3), each a pre-activated 3x3 convolution of the one before; widths C/2, C/4, C/4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.conv1 = nn.Conv2d(c, c // 2, 3, bias=False)
        self.conv2 = nn.Conv2d(c // 2, c // 4, 3, bias=False)
        self.conv3 = nn.Conv2d(c // 4, c // 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(norm_act(x, relu=True, pad=1))
        second = self.conv2(norm_act(first, relu=True, pad=1))
        third = self.conv3(norm_act(second, relu=True, pad=1))
        return x + torch.cat([first, second, third], 1)


class Hourglass(nn.Module):
    """Four levels down and up; adds its finding to x, or with `to_rgb` returns three channels instead."""

    def __init__(self, channels: int, to_rgb: bool = False) -> None:
        super().__init__()
        self.skips = nn.ModuleList(TripleConv(channels) for _ in range(LEVELS))
        self.downs = nn.ModuleList(TripleConv(channels) for _ in range(LEVELS))
        self.centre = TripleConv(channels)
        self.ups = nn.ModuleList(TripleConv(channels) for _ in range(LEVELS))
        self.after = TripleConv(channels)
        self.squeeze = nn.Conv2d(channels, channels, 1, bias=False)
        self.rgb = nn.Conv2d(channels, 3, 1)
        self.back = None if to_rgb else nn.Conv2d(channels, channels, 1)
        self.rgb_back = None if to_rgb else nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), H and W multiples of 16 -> the same, or (B, 3, H, W)."""
        kept, y = [], x
        for skip, down in zip(self.skips, self.downs):
            kept.append(skip(y))
            y = down(F.avg_pool2d(y, 2))
        y = self.centre(y)
        for up in self.ups:
            y = F.interpolate(up(y), scale_factor=2, mode="nearest") + kept.pop()
        found = norm_act(self.squeeze(self.after(y)), relu=True)
        rgb = self.rgb(found)
        if self.back is None or self.rgb_back is None:
            return rgb
        return x + self.back(found) + self.rgb_back(rgb)


class SoftAdaLIN(nn.Module):
    """AdaLIN whose gamma and beta are a learned mixture of the photo's own statistics and of the style.

    gamma = (1 - w_gamma) * style_gamma + w_gamma * content_gamma, and so for beta; both w start at 0, that is
    as plain AdaLIN.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.rho = nn.Parameter(torch.full((c,), 0.9))
        self.w_gamma = nn.Parameter(torch.zeros(c))
        self.w_beta = nn.Parameter(torch.zeros(c))
        self.content_gamma = nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))
        self.content_beta = nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))
        self.style_gamma = nn.Linear(c, c)
        self.style_beta = nn.Linear(c, c)

    def forward(
        self,
        x: Tensor,
        content: Tensor,
        style: Tensor,
        residual: Tensor | None = None,
        relu: bool = False,
        pad: int = 0,
    ) -> Tensor:
        """x: (B, C, H, W); content, style: (B, C)."""
        gamma = torch.lerp(self.style_gamma(style).float(), self.content_gamma(content).float(), self.w_gamma)
        beta = torch.lerp(self.style_beta(style).float(), self.content_beta(content).float(), self.w_beta)
        return norm_act(x, gamma, beta, self.rho, residual, relu, pad)


class SoftResBlock(nn.Module):
    """A residual block with Soft-AdaLIN. Padded in, padded out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm1 = SoftAdaLIN(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm2 = SoftAdaLIN(channels)

    def forward(self, padded: Tensor, content: Tensor, style: Tensor, pad: int = 1) -> Tensor:
        hidden = self.norm1(self.conv1(padded), content, style, relu=True, pad=1)
        return self.norm2(self.conv2(hidden), content, style, inside(padded), pad=pad)


class HourglassGenerator(nn.Module):
    """The photo2cartoon generator. channels: width C of the first layer (32 as published); pool as in
    `fewtoon.nets.ugatit.Generator`: 1 is the light model, None the full one. groups: as there."""

    def __init__(
        self, size: int, channels: int = 32, blocks: int = 4, pool: int | None = 1, groups: int = 0
    ) -> None:
        super().__init__()
        if size < 64 or size % 16:
            raise Problem(
                f"size {size}: the hourglass generator needs a size of at least 64 that is a multiple of 16, "
                "such as 64, 128 or 256"
            )
        if channels % 4:
            raise Problem(f"channels {channels}: the hourglass generator needs a multiple of 4, such as 32")
        self.pool = pool
        c = channels
        self.stem = nn.Conv2d(3, c, 7, bias=False)
        self.glass1, self.glass2 = Hourglass(c), Hourglass(c)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 3, stride=2, bias=False)
        self.encoder = nn.ModuleList(ResBlock(4 * c) for _ in range(blocks))
        self.cam = Cam(4 * c, bias=True)
        grid = size // 4 if pool is None else pool
        self.style1 = nn.Linear(4 * c * grid * grid, 4 * c)
        self.style2 = nn.Linear(4 * c, 4 * c)
        self.group = GroupVector(groups, 4 * c) if groups else None
        self.decoder = nn.ModuleList(SoftResBlock(4 * c) for _ in range(blocks))
        self.up1 = nn.Conv2d(4 * c, 2 * c, 3, bias=False)
        self.up1_norm = Norm(2 * c, "lin")
        self.up2 = nn.Conv2d(2 * c, c, 3, bias=False)
        self.up2_norm = Norm(c, "lin")
        self.glass3, self.glass4 = Hourglass(c), Hourglass(c, to_rgb=True)
        self.head = nn.Conv2d(3, 3, 7, bias=False)

    def forward(self, x: Tensor, group: Tensor | None = None) -> Drawn:
        """x: (B, 3, S, S) in [-1, 1]; group: (B,) int64, where the generator was made with groups."""
        x = norm_act(self.stem(pad_edge(x, 3)), relu=True)  # (B, C, S, S)
        x = self.glass2(self.glass1(x))
        x = norm_act(self.down1(pad_edge(x, 1)), relu=True, pad=1)  # (B, 2C, S/2 + 2, ...)
        x = norm_act(self.down2(x), relu=True, pad=1)  # (B, 4C, S/4 + 2, ...)
        contents = []
        for block in self.encoder:
            x = block(x)
            contents.append(inside(x).mean((2, 3)))
        x, cam_logit = self.cam(inside(x))
        features = x = F.relu(x)
        flat = (
            features.flatten(1)
            if self.pool is None
            else F.adaptive_avg_pool2d(features, self.pool).flatten(1)
        )
        style = F.relu(self.style2(F.relu(self.style1(flat))))
        if self.group is not None and group is not None:
            style = style + self.group(group)
        x = pad_edge(x, 1)
        last = len(self.decoder) - 1
        for i, block in enumerate(self.decoder):  # the deepest content first
            x = block(x, contents[last - i], style, pad=0 if i == last else 1)
        x = self.up1_norm(conv_upsampled(x, self.up1.weight), relu=True)
        x = self.up2_norm(conv_upsampled(x, self.up2.weight), relu=True)
        x = pad_edge(self.glass4(self.glass3(x)), 3)
        return Drawn(torch.tanh(conv_to_rgb(x, self.head.weight).float()), cam_logit, features)

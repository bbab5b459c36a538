"""A StyleGAN2 training step restated plainly after two published PyTorch formulations, to measure ours against.

Eager PyTorch in float32 and NCHW; resampling inserts zeros, pads, filters and picks as its definition says; real
and fake go through the discriminator apart; the generator runs anew in every phase. Facts from Karras et al.,
arXiv:1912.04958. Parameters have the names of fewtoon's networks, so that weights can be copied.

grouped    every picture gets convolution weights of its own and all go through one grouped convolution; the filter
           runs over single channels (the widest-used formulation)
shared     in training the feature map is scaled by the style before a convolution with shared weights, and by the
           demodulation after it; the filter is one depthwise convolution (that of the official code without its
           CUDA operations)
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
KERNEL = TAPS[:, None] * TAPS / 64


FORMULATION = "grouped"


@contextlib.contextmanager
def formulation(name: str) -> Iterator[None]:
    """Within it, "grouped" or "shared"."""
    global FORMULATION
    before, FORMULATION = FORMULATION, name
    try:
        yield
    finally:
        FORMULATION = before


def upfirdn(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Zeros between the samples, zeros around, the filter, every `down`th sample."""
    b, c, h, w = x.shape
    x = x.reshape(b * c, h, 1, w, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(b * c, 1, h * up, w * up)
    x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    flipped = torch.flip(kernel, (0, 1)).to(x.dtype)[None, None]
    if FORMULATION == "shared":
        x = F.conv2d(x.reshape(b, c, *x.shape[2:]), flipped.repeat(c, 1, 1, 1), groups=c)
    else:
        x = F.conv2d(x, flipped)
    x = x[:, :, ::down, ::down]
    return x.reshape(b, c, *x.shape[2:])


def act(x: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), 0.2) * math.sqrt(2)


class PlainLinear(nn.Module):
    def __init__(self, i: int, o: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i) / rate)
        self.bias = nn.Parameter(torch.full((o,), bias))
        self.rate = rate

    def forward(self, x: Tensor, active: bool = False) -> Tensor:
        weight = self.weight * (self.rate / math.sqrt(self.weight.shape[1]))
        if active:
            return act(F.linear(x, weight), self.bias * self.rate)
        return F.linear(x, weight, self.bias * self.rate)


class PlainConv(nn.Module):
    """Modulated convolution; `up`: transposed, then filtered."""

    def __init__(self, i: int, o: int, style: int, size: int, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.weight = nn.Parameter(torch.randn(o, i, 3, 3))
        self.bias, self.strength = nn.Parameter(torch.zeros(o)), nn.Parameter(torch.zeros(()))
        self.affine = PlainLinear(style, i, 1.0)
        self.register_buffer("noise", torch.randn(size, size))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        b, i, h, _ = x.shape
        o, style = len(self.weight), self.affine(w)
        weight = self.weight / math.sqrt(i * 9) * style.view(b, 1, i, 1, 1)
        if FORMULATION == "shared":
            scale = torch.rsqrt(weight.square().sum([2, 3, 4]) + 1e-8).view(b, o, 1, 1)
            x, weight = x * style.view(b, i, 1, 1), self.weight / math.sqrt(i * 9)
            if self.up:
                y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
                y = upfirdn(y, KERNEL * 4, pad=(1, 1))
            else:
                y = F.conv2d(x, weight, padding=1)
            return act(y * scale + self.strength * noise, self.bias)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8).view(b, o, 1, 1, 1)
        x = x.reshape(1, b * i, h, h)
        if self.up:
            weight = weight.transpose(1, 2).reshape(b * i, o, 3, 3)
            y = F.conv_transpose2d(x, weight, stride=2, groups=b)
            y = upfirdn(y.view(b, o, *y.shape[2:]), KERNEL * 4, pad=(1, 1))
        else:
            y = F.conv2d(x, weight.view(b * o, i, 3, 3), padding=1, groups=b).view(b, o, h, h)
        return act(y + self.strength * noise, self.bias)


class PlainRGB(nn.Module):
    def __init__(self, i: int, style: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, i, 1, 1)), nn.Parameter(torch.zeros(3))
        self.affine = PlainLinear(style, i, 1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        b, i, h, _ = x.shape
        style = self.affine(w)
        weight = self.weight / math.sqrt(i) * style.view(b, 1, i, 1, 1)
        if FORMULATION == "shared":
            y = F.conv2d(x * style.view(b, i, 1, 1), self.weight / math.sqrt(i))
            return y + self.bias.view(1, 3, 1, 1)
        y = F.conv2d(x.reshape(1, b * i, h, h), weight.view(b * 3, i, 1, 1), groups=b)
        return y.view(b, 3, h, h) + self.bias.view(1, 3, 1, 1)


class PlainBlock(nn.Module):
    def __init__(self, size: int, i: int | None, o: int, style: int) -> None:
        super().__init__()
        self.up = PlainConv(i, o, style, size, up=True) if i else None
        self.conv, self.rgb = PlainConv(o, o, style, size), PlainRGB(o, style)


class PlainSynthesis(nn.Module):
    def __init__(self, size: int, channels: list[int], style: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(channels[0], 4, 4))
        sizes = [4 * 2**k for k in range(len(channels))]
        before = [None, *channels[:-1]]
        self.blocks = nn.ModuleDict(
            {str(r): PlainBlock(r, a, b, style) for r, a, b in zip(sizes, before, channels)}
        )
        self.codes = 2 * len(channels)

    def forward(self, ws: Tensor, noise: list[Tensor]) -> Tensor:
        if ws.ndim == 2:
            ws = ws[:, None].repeat(1, self.codes, 1)
        x, image, maps = self.constant[None].repeat(len(ws), 1, 1, 1), None, iter(noise)
        for k, block in enumerate(self.blocks.values()):
            if block.up is not None:
                x = block.up(x, ws[:, 2 * k - 1], next(maps))
            x = block.conv(x, ws[:, 2 * k], next(maps))
            rgb = block.rgb(x, ws[:, 2 * k + 1])
            image = rgb if image is None else rgb + upfirdn(image, KERNEL * 4, up=2, pad=(2, 1))
        return image


class PlainMapping(nn.Module):
    def __init__(self, latent: int, style: int, layers: int) -> None:
        super().__init__()
        widths = [latent] + [style] * layers
        self.layers = nn.ModuleList(PlainLinear(a, b, rate=0.01) for a, b in itertools.pairwise(widths))
        self.register_buffer("average", torch.zeros(style))

    def forward(self, z: Tensor) -> Tensor:
        z = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            z = layer(z, active=True)
        return z


class PlainGenerator(nn.Module):
    def __init__(self, size: int, channels: list[int], latent: int, style: int, layers: int) -> None:
        super().__init__()
        self.mapping = PlainMapping(latent, style, layers)
        self.synthesis = PlainSynthesis(size, channels, style)

    def forward(self, z: Tensor, noise: list[Tensor]) -> Tensor:
        return self.synthesis(self.mapping(z), noise)


class PlainJudgeConv(nn.Module):
    def __init__(self, i: int, o: int, k: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i, k, k))
        self.bias = nn.Parameter(torch.zeros(o)) if bias else None

    def forward(self, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        y = F.conv2d(x, self.weight / math.sqrt(self.weight[0].numel()), stride=stride, padding=padding)
        return y if self.bias is None else act(y, self.bias)


class PlainResidual(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv, self.down = PlainJudgeConv(i, i, 3), PlainJudgeConv(i, o, 3)
        self.skip = PlainJudgeConv(i, o, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(upfirdn(self.conv(x, padding=1), KERNEL, pad=(2, 2)), stride=2)
        return (y + self.skip(upfirdn(x, KERNEL, pad=(1, 1)), stride=2)) / math.sqrt(2)


class PlainLast(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = PlainJudgeConv(c + 1, c, 3)
        self.hidden, self.out = PlainLinear(c * 16, c), PlainLinear(c, 1)


class PlainDiscriminator(nn.Module):
    def __init__(self, size: int, channels: list[int], group: int = 4) -> None:
        super().__init__()
        self.rgb, self.group = PlainJudgeConv(3, channels[-1], 1), group
        sizes = [4 * 2**k for k in range(len(channels))]
        steps = list(zip(sizes[1:], channels[1:], channels))[::-1]
        self.blocks = nn.ModuleDict({str(r): PlainResidual(a, b) for r, a, b in steps})
        self.last = PlainLast(channels[0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.rgb(x)
        for block in self.blocks.values():
            x = block(x)
        b, c, h, w = x.shape
        group = min(b, self.group)
        spread = x.view(group, -1, 1, c, h, w)
        spread = torch.sqrt(spread.var(0, unbiased=False) + 1e-8).mean([2, 3, 4], keepdim=True).squeeze(2)
        x = torch.cat([x, spread.repeat(group, 1, h, w)], 1)
        x = self.last.conv(x, padding=1)
        return self.last.out(self.last.hidden(x.view(b, -1), active=True))

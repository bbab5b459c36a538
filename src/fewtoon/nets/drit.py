"""The networks of DRIT (Lee, Tseng, Huang, Singh, Yang: Diverse Image-to-Image Translation via Disentangled
Representations, ECCV 2018, arXiv:1808.00948), those that append the attribute code to feature maps.

Shapes are written for S x S pictures and `channels` = C; feature maps are channels last. The discriminators of
pictures are those of `fewtoon.nets.munit`, with a slope of 0.01.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.nets.conv import cast, conv_to_rgb
from fewtoon.nets.norm import Norm, norm_act, pad_edge
from fewtoon.nets.ugatit import ResBlock

SLOPE = 0.01  # of the leaky ReLU of the content encoders and of all discriminators
ATTRIBUTE_SLOPE = 0.2


class Attributes(NamedTuple):
    """A normal distribution of attribute codes for each picture, float32."""

    mean: Tensor  # (B, attributes)
    log_variance: Tensor  # (B, attributes)

    def draw(self) -> Tensor:
        """(B, attributes): a code of each, drawn from torch's generator; differentiable."""
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.log_variance).exp()

    def divergence(self) -> Tensor:
        """From N(0, 1): summed over the code, mean over the batch (Kingma & Welling, arXiv:1312.6114, appendix B)."""
        each = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * each.sum(1).mean()


class ContentEncoder(nn.Module):
    """The part of the content encoder that a side has for itself: (B, 3, S, S) in [-1, 1] ->
    (B, 4C, S/4 + 2, S/4 + 2), padded for the part that both sides share, a residual block."""

    def __init__(self, channels: int = 64, blocks: int = 3) -> None:
        super().__init__()
        c = channels
        self.stem = nn.Conv2d(3, c, 7)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 3, stride=2, bias=False)
        self.blocks = nn.ModuleList(ResBlock(4 * c) for _ in range(blocks))
        gaussian(self)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_edge(F.leaky_relu_(self.stem(pad_edge(cast(x), 3)), SLOPE), 1)  # (B, C, S + 2, S + 2)
        x = norm_act(self.down1(x), relu=True, pad=1)  # (B, 2C, S/2 + 2, ...)
        x = norm_act(self.down2(x), relu=True, pad=1)  # (B, 4C, S/4 + 2, ...)
        for block in self.blocks:
            x = block(x)
        return x


class PoolingBlock(nn.Module):
    """A residual block without normalisation that halves the map: (B, I, h, w) -> (B, O, h // 2, w // 2)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, inside, 3)
        self.conv2 = nn.Conv2d(inside, outside, 3)
        self.shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(pad_edge(F.leaky_relu(x, ATTRIBUTE_SLOPE), 1))
        y = conv_pooled(pad_edge(F.leaky_relu_(y, ATTRIBUTE_SLOPE), 1), self.conv2.weight, self.conv2.bias)
        return y + self.shortcut(F.avg_pool2d(x, 2))


def conv_pooled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution followed by 2x2 average pooling: one 4x4 convolution of stride 2 with the mean of the kernel
    at its four places, 4/9 of the multiplications.

    x: (B, I, H, W), already padded; weight: (O, I, 3, 3); bias: (O,) -> (B, O, (H - 2) // 2, (W - 2) // 2).
    """
    moved = [F.pad(weight, (q, 1 - q, p, 1 - p)) for p in (0, 1) for q in (0, 1)]
    kernel = (torch.stack(moved).sum(0) / 4).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel.to(x.dtype), None if bias is None else bias.to(x.dtype), stride=2)


class AttributeEncoder(nn.Module):
    """What is not content: (B, 3, S, S) in [-1, 1] -> `Attributes`. Without normalisation."""

    def __init__(self, channels: int = 64, attributes: int = 8) -> None:
        super().__init__()
        c = channels
        self.stem = nn.Conv2d(3, c, 4, stride=2)
        self.blocks = nn.ModuleList(PoolingBlock(k * c, (k + 1) * c) for k in (1, 2, 3))
        self.mean = nn.Linear(4 * c, attributes)
        self.log_variance = nn.Linear(4 * c, attributes)
        gaussian(self)

    def forward(self, x: Tensor) -> Attributes:
        x = self.stem(pad_edge(cast(x), 1))
        for block in self.blocks:
            x = block(x)
        pooled = F.leaky_relu(x, ATTRIBUTE_SLOPE).mean((2, 3), dtype=torch.float32)
        with torch.autocast(pooled.device.type, enabled=False):
            return Attributes(self.mean(pooled), self.log_variance(pooled))


class Decoder(nn.Module):
    """The part of the generator that a side has for itself, after a residual block that both sides share. The
    attribute code is appended as maps of one value each, before the residual blocks and each upsampling."""

    def __init__(self, channels: int = 64, blocks: int = 3, attributes: int = 8) -> None:
        super().__init__()
        first = 4 * channels + attributes
        second = (first + attributes) // 2
        third = (second + attributes) // 2
        self.blocks = nn.ModuleList(ResBlock(first) for _ in range(blocks))
        self.up1 = nn.ConvTranspose2d(first + attributes, second, 3, stride=2, padding=1, output_padding=1)
        self.up1_norm = Norm(second, "layer")
        self.up2 = nn.ConvTranspose2d(second + attributes, third, 3, stride=2, padding=1, output_padding=1)
        self.up2_norm = Norm(third, "layer")
        self.head = nn.Conv2d(third + attributes, 3, 1)
        gaussian(self)

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        """features: (B, 4C, S/4, S/4), code: (B, attributes) -> (B, 3, S, S) float32 in [-1, 1]."""
        x = pad_edge(_with(features, code), 1)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, pad=0)
        x = self.up1_norm(self.up1(_with(x, code)), relu=True)  # (B, 2C + ..., S/2, S/2)
        x = self.up2_norm(self.up2(_with(x, code)), relu=True)  # (B, C + ..., S, S)
        assert self.head.bias is not None
        return torch.tanh(
            conv_to_rgb(_with(x, code), self.head.weight).float() + self.head.bias[:, None, None]
        )


def _with(x: Tensor, code: Tensor) -> Tensor:
    """x (B, C, h, w) and after its channels those of the code (B, attributes), the same at every place."""
    maps = code.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, maps], 1).contiguous(memory_format=torch.channels_last)


class ContentDiscriminator(nn.Module):
    """Which side a content code is of: (B, 4C, S/4, S/4) -> logits (B, 1, h, w) float32.

    Three convolutions of 7x7 and stride 2, or as many as leave 4x4 places of a small picture's code. norm: instance
    norm after each, as the paper has it; the published code asks for it by a comparison that is never true.
    """

    def __init__(self, size: int, channels: int = 64, norm: bool = True) -> None:
        super().__init__()
        self.norm = norm
        c, side, count = 4 * channels, size // 4, 0
        while count < 3 and (side - 5) // 2 + 1 >= 4:
            side, count = (side - 5) // 2 + 1, count + 1
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 7, stride=2, bias=not norm) for _ in range(count))
        self.top = nn.Conv2d(c, c, 4)
        self.head = nn.Conv2d(c, 1, 1)
        gaussian(self)

    def forward(self, content: Tensor) -> Tensor:
        x = content
        for conv in self.convs:
            x = conv(pad_edge(x, 1))
            x = F.leaky_relu_(norm_act(x) if self.norm else x, SLOPE)
        return self.head(F.leaky_relu_(self.top(x), SLOPE)).float()


def gaussian(network: nn.Module) -> None:
    """Kernels of convolutions N(0, 0.02^2); all else stays as torch begins: as published."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)

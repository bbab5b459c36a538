"""The networks of UNIT and MUNIT, and what DRIT has in common with them.

    Liu, Breuel, Kautz: Unsupervised Image-to-Image Translation Networks, NeurIPS 2017, arXiv:1703.00848
    Huang, Liu, Belongie, Kautz: Multimodal Unsupervised Image-to-Image Translation, ECCV 2018, arXiv:1804.04732

Shapes are written for S x S pictures and `channels` = C; feature maps are channels last.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets.conv import cast, conv_to_rgb
from fewtoon.nets.norm import Norm, inside, norm_act, pad_edge
from fewtoon.nets.ugatit import ResBlock

SMALLEST = 16  # px
LAYERS = 4  # of a discriminator, each of which halves the map

# Rows: taps of a 6-tap transposed kernel; columns: taps of the 5-tap kernel that they are sums of.
_UP = (
    (0.0, 0.0, 0.0, 0.0, 1.0),
    (0.0, 0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, 1.0, 0.0, 0.0),
    (1.0, 1.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.0, 0.0),
)


def check_size(size: int, method: str) -> None:
    """Raises Problem for a side that the encoders cannot halve twice, or that leaves the discriminators no map."""
    if size < SMALLEST or size % 4:
        raise Problem(
            f"size {size}: {method} needs a size of at least {SMALLEST} that is a multiple of 4, such as 64, 128 or 256"
        )


def conv_upsampled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest upsampling x2, padding by 2 and a 5x5 convolution, without ever building the large map.

    As `fewtoon.nets.conv.conv_upsampled` for kernels of three taps: one transposed convolution with a 6x6 kernel of
    summed weights, 9/25 of the multiplications. The padding repeats the edge of the upsampled map.
    x: (B, I, H, W), weight: (O, I, 5, 5), bias: (O,) -> (B, O, 2H, 2W).
    """
    sums = torch.tensor(_UP, dtype=weight.dtype, device=weight.device)
    o, i = weight.shape[:2]
    with torch.autocast(weight.device.type, enabled=False):
        kernel = (sums @ weight.reshape(o * i, 5, 5) @ sums.T).reshape(o, i, 6, 6).transpose(0, 1)
    kernel = kernel.to(x.dtype).contiguous(memory_format=torch.channels_last)
    padded = pad_edge(x, 1, mode="replicate")
    return F.conv_transpose2d(padded, kernel, None if bias is None else bias.to(x.dtype), stride=2, padding=4)


class ContentEncoder(nn.Module):
    """A picture to its content code h: (B, 3, S, S) in [-1, 1] -> (B, 4C, S/4, S/4)."""

    def __init__(self, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        c = channels
        self.stem = nn.Conv2d(3, c, 7, bias=False)
        self.down1 = nn.Conv2d(c, 2 * c, 4, stride=2, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 4, stride=2, bias=False)
        self.blocks = nn.ModuleList(ResBlock(4 * c) for _ in range(blocks))
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = norm_act(self.stem(pad_edge(x, 3)), relu=True, pad=1)  # (B, C, S + 2, S + 2)
        x = norm_act(self.down1(x), relu=True, pad=1)  # (B, 2C, S/2 + 2, ...)
        x = norm_act(self.down2(x), relu=True, pad=1)  # (B, 4C, S/4 + 2, ...)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.blocks[-1](x, pad=0)


class StyleEncoder(nn.Module):
    """A picture to its style code: (B, 3, S, S) in [-1, 1] -> (B, style) float32. Without normalisation, which would
    take away the means and deviations that are the style."""

    def __init__(self, channels: int = 64, style: int = 8) -> None:
        super().__init__()
        c = channels
        widths = (c, 2 * c, 4 * c, 4 * c, 4 * c)
        self.stem = nn.Conv2d(3, c, 7)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2) for a, b in pairwise(widths))
        self.head = nn.Linear(4 * c, style)  # the 1x1 convolution
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.stem(pad_edge(cast(x), 3)))
        for down in self.downs:
            x = F.relu_(down(pad_edge(x, 1)))
        mean = x.mean((2, 3), dtype=torch.float32)
        with torch.autocast(mean.device.type, enabled=False):
            return self.head(mean)


class StyledBlock(nn.Module):
    """A residual block whose two normalisations take gamma and beta from outside, each its own (AdaIN, Huang &
    Belongie, arXiv:1703.06868). Padded in, padded out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)

    def forward(self, padded: Tensor, numbers: Tensor, pad: int = 1) -> Tensor:
        """numbers: (B, 4, channels): beta and gamma of the first, beta and gamma of the second."""
        beta1, gamma1, beta2, gamma2 = numbers.unbind(1)
        hidden = norm_act(self.conv1(padded), gamma1, beta1, relu=True, pad=1)
        return norm_act(self.conv2(hidden), gamma2, beta2, residual=inside(padded), pad=pad)


class Decoder(nn.Module):
    """A content code, and in MUNIT a style code, to a picture.

    style: length of the style code, from which three layers make gamma and beta of every residual block; 0: no
    style, the blocks have plain instance norm (UNIT).
    """

    def __init__(self, channels: int = 64, blocks: int = 4, style: int = 0) -> None:
        super().__init__()
        c = channels
        kind = StyledBlock if style else ResBlock
        self.blocks = nn.ModuleList(kind(4 * c) for _ in range(blocks))
        self.up1, self.up1_norm = nn.Conv2d(4 * c, 2 * c, 5), Norm(2 * c, "layer")
        self.up2, self.up2_norm = nn.Conv2d(2 * c, c, 5), Norm(c, "layer")
        self.head = nn.Conv2d(c, 3, 7)
        self.mlp = None
        if style:
            wide = 4 * c
            self.mlp = nn.Sequential(
                nn.Linear(style, wide),
                nn.ReLU(),
                nn.Linear(wide, wide),
                nn.ReLU(),
                nn.Linear(wide, blocks * 4 * wide),
            )
        kaiming(self)
        for norm in (self.up1_norm, self.up2_norm):
            nn.init.uniform_(norm.gamma)  # as published; beta is 0

    def forward(self, content: Tensor, style: Tensor | None = None) -> Tensor:
        """content: (B, 4C, S/4, S/4), style: (B, style) -> (B, 3, S, S) float32 in [-1, 1]."""
        x = pad_edge(content, 1)
        numbers = self._numbers(style)
        last = len(self.blocks) - 1
        for place, block in enumerate(self.blocks):
            own = () if numbers is None else (numbers[:, place],)
            x = block(x, *own, pad=int(place < last))
        x = self.up1_norm(conv_upsampled(x, self.up1.weight, self.up1.bias), relu=True)  # (B, 2C, S/2, S/2)
        x = self.up2_norm(conv_upsampled(x, self.up2.weight, self.up2.bias), relu=True, pad=3)
        assert self.head.bias is not None
        return torch.tanh(conv_to_rgb(x, self.head.weight).float() + self.head.bias[:, None, None])

    def _numbers(self, style: Tensor | None) -> Tensor | None:
        """(B, blocks, 4, 4C), float32."""
        if self.mlp is None or style is None:
            return None
        with torch.autocast(style.device.type, enabled=False):
            return self.mlp(style.float()).unflatten(1, (len(self.blocks), 4, -1))


class MultiScaleDiscriminator(nn.Module):
    """Discriminators that do not know each other, for the picture, its half, its quarter ...; without normalisation.

    scales: at most so many, see `discriminator_scales`. slope: of the leaky ReLU.
    """

    def __init__(self, size: int, channels: int = 64, scales: int = 3, slope: float = 0.2) -> None:
        super().__init__()
        self.slope = slope
        widths = [3, *(channels * 2**k for k in range(LAYERS))]
        count = min(scales, discriminator_scales(size))
        self.convs = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 4, stride=2) for a, b in pairwise(widths)) for _ in range(count)
        )
        self.heads = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for _ in range(count))
        gaussian(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> logits (B, 1, h, w) float32 of each scale, the largest first."""
        x = cast(x)
        logits: list[Tensor] = []
        for convs, head in zip(self.convs, self.heads):
            if logits:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            y = x
            for conv in convs:  # type: ignore[attr-defined]
                y = F.leaky_relu_(conv(pad_edge(y, 1)), self.slope)
            logits.append(head(y).float())
        return logits


def discriminator_scales(size: int) -> int:
    """How many scales there are at most: each halves the picture, and 16 px are the least for four layers."""
    return 1 + int(math.log2(size // SMALLEST))


class AverageStyle(nn.Module):
    """What style the pictures of a side have on average: one code, learned by looking on, without a gradient.

    An exponential average of the codes of the real pictures; in the beginning a plain one, so that the codes of an
    encoder that has learned nothing are soon forgotten. Zero, the mean of the prior, before the first.
    """

    mean: Tensor  # (style,) float32
    newest: Tensor  # (style,): the code of the picture that was seen last, for previews
    seen: Tensor  # scalar: how often it was told codes

    def __init__(self, style: int = 8, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(style))
        self.register_buffer("newest", torch.zeros(style))
        self.register_buffer("seen", torch.tensor(0.0))

    @torch.no_grad()
    def observe(self, codes: Tensor) -> None:
        """codes: (B, style). Codes that are not finite, of a step that will be left out, are not looked at."""
        codes = codes.detach().float()
        good = torch.isfinite(codes).all()
        keep = ((1 + self.seen) / (10 + self.seen)).clamp_max(self.decay)
        keep = torch.where(self.seen == 0, 0.0, keep)
        self.mean.copy_(torch.where(good, torch.lerp(codes.mean(0), self.mean, keep), self.mean))
        self.newest.copy_(torch.where(good, codes[-1], self.newest))
        self.seen += good


# --- first weights ---------------------------------------------------------------------------------------


def kaiming(network: nn.Module) -> None:
    """Weights N(0, 2 / fan-in) (He et al., arXiv:1502.01852), biases 0: as published for encoders and decoders."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def gaussian(network: nn.Module) -> None:
    """Weights N(0, 0.02^2), biases 0: as published for discriminators."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

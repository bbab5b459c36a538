"""The networks of CartoonGAN, and the drawings with smoothed edges that its discriminator learns to refuse.

Chen, Lai, Liu: CartoonGAN: Generative Adversarial Networks for Photo Cartoonization, CVPR 2018.

Shapes are written for S x S pictures and `channels` = C; feature maps are channels last, all padding is by zeros.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets.conv import cast, conv_to_one, conv_to_rgb
from fewtoon.nets.norm import norm_act, pad_edge

DEVIATION = 0.02  # of the normal numbers that all kernels begin with


def begin(network: nn.Module) -> None:
    """The published first weights: kernels from N(0, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0, DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ResBlock(nn.Module):
    """x + IN(conv(relu(IN(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self.conv2(norm_act(self.conv1(x), relu=True)), residual=x)


class Generator(nn.Module):
    """Photo to drawing.

    channels: width C of the first layer. blocks: residual blocks at a quarter of the size.
    A convolution whose output is normalised has no bias, which the normalisation would take away again.
    Raises Problem for a size that cannot be halved twice.
    """

    def __init__(self, size: int, channels: int = 64, blocks: int = 8) -> None:
        super().__init__()
        if size < 16 or size % 4:
            raise Problem(
                f"size {size}: CartoonGAN needs a size of at least 16 that is a multiple of 4, such as 64, 128 or 256"
            )
        c = channels
        self.stem = nn.Conv2d(3, c, 7, padding=3, bias=False)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.down1_mix = nn.Conv2d(2 * c, 2 * c, 3, padding=1, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 3, stride=2, padding=1)
        self.down2_mix = nn.Conv2d(4 * c, 4 * c, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(ResBlock(4 * c) for _ in range(blocks))
        self.up1 = nn.ConvTranspose2d(4 * c, 2 * c, 3, stride=2, padding=1, output_padding=1)
        self.up1_mix = nn.Conv2d(2 * c, 2 * c, 3, padding=1, bias=False)
        self.up2 = nn.ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1)
        self.up2_mix = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.head = nn.Conv2d(c, 3, 7, padding=3)
        begin(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> the same, float32."""
        x = norm_act(self.stem(x), relu=True)  # (B, C, S, S)
        x = norm_act(self.down1_mix(self.down1(x)), relu=True)  # (B, 2C, S/2, S/2)
        x = norm_act(self.down2_mix(self.down2(x)), relu=True)  # (B, 4C, S/4, S/4)
        for block in self.blocks:
            x = block(x)
        x = norm_act(self.up1_mix(self.up1(x)), relu=True)
        x = norm_act(self.up2_mix(self.up2(x)), relu=True)
        bias = self.head.bias
        assert bias is not None
        return torch.tanh(conv_to_rgb(F.pad(x, [3] * 4), self.head.weight).float() + bias[:, None, None])


class Discriminator(nn.Module):
    """A patch discriminator that halves the picture twice: at 256 px 64 x 64 logits, each of which sees 37 px.

    channels: width C of the first layer, half of the generator's as published.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        c = channels
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.mix1 = nn.Conv2d(2 * c, 4 * c, 3, padding=1, bias=False)
        self.down2 = nn.Conv2d(4 * c, 4 * c, 3, stride=2, padding=1)
        self.mix2 = nn.Conv2d(4 * c, 8 * c, 3, padding=1, bias=False)
        self.mix3 = nn.Conv2d(8 * c, 8 * c, 3, padding=1, bias=False)
        self.last = nn.Conv2d(8 * c, 1, 3, padding=1)
        begin(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> logits (B, 1, S/4, S/4), float32."""
        x = cast(x)
        x = _leaky(self.down1(_leaky(self.stem(x))))  # (B, 2C, S/2, S/2)
        x = _leaky(norm_act(self.mix1(x)))  # (B, 4C, S/2, S/2)
        x = _leaky(self.down2(x))  # (B, 4C, S/4, S/4)
        x = _leaky(norm_act(self.mix3(_leaky(norm_act(self.mix2(x))))))  # (B, 8C, S/4, S/4)
        bias = self.last.bias
        assert bias is not None
        return conv_to_one(F.pad(x, [1] * 4), self.last.weight) + bias[:, None, None]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


# --- edge-smoothed drawings ------------------------------------------------------------------------------


@torch.no_grad()
def smooth_edges(drawings: Tensor, low: float = 100, high: float = 200, width: int = 5) -> Tensor:
    """Drawings whose edges are blurred and that are otherwise as they were; section 3.2.1 of the paper.

    Edges are found by `canny` in the grey picture, widened to `width` pixels (odd), and what lies under them is
    blurred by a binomial kernel of that width, in the whole picture mirrored at its border.
    drawings: (B, 3, S, S) in [-1, 1], S > width -> the same shape. Each picture by itself, nothing is drawn at random.
    """
    half = width // 2
    near = F.max_pool2d(canny(grey(drawings), low, high).float(), width, 1, half) > 0  # (B, 1, S, S)
    taps = [math.comb(width - 1, k) / 2 ** (width - 1) for k in range(width)]
    s = drawings.shape[-1]
    padded = pad_edge(drawings.float(), half)
    rows = sum(tap * padded[:, :, k : k + s] for k, tap in enumerate(taps))
    assert isinstance(rows, Tensor)
    blurred = sum(tap * rows[..., k : k + s] for k, tap in enumerate(taps))
    return torch.where(near, blurred, drawings.float()).to(drawings.dtype)


def grey(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> (B, 1, S, S) int32 in 0 ... 255, luma of BT.601 in OpenCV's fixed point."""
    red, green, blue = ((pictures.float() + 1) * 127.5).round().clamp(0, 255).int().split(1, 1)
    return (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15


def canny(levels: Tensor, low: float, high: float) -> Tensor:
    """Edges of grey pictures (B, 1, H, W) of integers in 0 ... 255, as a map of booleans (B, 1, H, W).

    Canny, A Computational Approach to Edge Detection, PAMI 1986, as `cv2.Canny(levels, low, high)` computes it, to the
    pixel: Sobel 3 x 3, sum of absolute derivatives, maxima along one of four directions, and of those above `low` the
    ones that hang together with one above `high`.
    """
    low, high = math.floor(min(low, high)), math.floor(max(low, high))
    h, w = levels.shape[2:]
    x = F.pad(levels.float(), [1] * 4, mode="replicate").int()
    smooth = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    dx = smooth[..., 2:] - smooth[..., :-2]
    smooth = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    dy = smooth[:, :, 2:] - smooth[:, :, :-2]
    across, along = dx.abs(), dy.abs()
    strength = F.pad(across + along, [1] * 4)  # nothing outside

    def beside(down: int, right: int) -> Tensor:
        return strength[:, :, 1 + down : 1 + down + h, 1 + right : 1 + right + w]

    middle = beside(0, 0)
    # Tangents of 22.5 and 67.5 degrees in 15 bits. A plateau counts once, except on the diagonals.
    slope, limit = along << 15, across * 13573
    diagonal = torch.where(
        (dx ^ dy) < 0,
        (middle > beside(-1, 1)) & (middle > beside(1, -1)),
        (middle > beside(-1, -1)) & (middle > beside(1, 1)),
    )
    upright = (middle > beside(-1, 0)) & (middle >= beside(1, 0))
    level = (middle > beside(0, -1)) & (middle >= beside(0, 1))
    top = torch.where(slope < limit, level, torch.where(slope > limit + (across << 16), upright, diagonal))
    maybe = (top & (middle > low)).float()
    found = maybe * (middle > high)
    while (
        True
    ):  # along the edges, pixel by pixel; most are short, and to look whether it ends is to wait for a GPU
        before = found
        for _ in range(8):
            found = F.max_pool2d(found, 3, 1, 1) * maybe
        if torch.equal(found, before):
            return found > 0

"""The residual translator and the 70 x 70 patch discriminator of CycleGAN and CUT.

    Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV
        2017, arXiv:1703.10593, appendix 7.2; the translator is that of Johnson et al., arXiv:1603.08155
    Park, Efros, Zhang, Zhu: Contrastive Learning for Unpaired Image-to-Image Translation, ECCV 2020,
        arXiv:2007.15651: the same networks with blurred sampling (Zhang, arXiv:1904.11486)

The published convolutions have a bias each. One that instance normalisation follows is subtracted again by the mean,
so only those that nothing normalises have one here.

Shapes are written for S x S pictures and `channels` = C; feature maps are channels last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets.conv import cast, conv_to_one, conv_to_rgb
from fewtoon.nets.norm import inside, norm_act, pad_edge
from fewtoon.nets.ugatit import ResBlock

SMALLEST = 24  # px: the discriminator has one patch left


class Translator(nn.Module):
    """Photo to drawing, or drawing to photo: two steps down, residual blocks, two steps up.

    channels: width C of the first layer. blocks: residual blocks; 9 are published for 256 px, 6 for 128.
    blur: sample up and down through a binomial filter instead of by strides.
    Raises Problem for a size that is no multiple of 4.
    """

    def __init__(self, size: int, channels: int = 64, blocks: int = 9, blur: bool = False) -> None:
        super().__init__()
        check_size(size)
        c, stride = channels, 1 if blur else 2
        self.blur = blur
        self.tapped = sorted({1, (blocks + 1) // 2})  # the blocks whose maps `features` gives
        self.stem = nn.Conv2d(3, c, 7, bias=False)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride, 1, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 3, stride, 1, bias=False)
        self.blocks = nn.ModuleList(ResBlock(4 * c) for _ in range(blocks))
        self.up1, self.up2 = self._up(4 * c, 2 * c), self._up(2 * c, c)
        self.head = nn.Conv2d(c, 3, 7)

    def _up(self, wide: int, narrow: int) -> nn.Module:
        if self.blur:
            return nn.Conv2d(wide, narrow, 3, 1, 1, bias=False)
        return nn.ConvTranspose2d(wide, narrow, 3, 2, 1, output_padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> the same, float32."""
        return self._decoded(self._encoded(x, None, len(self.blocks)))

    def features(self, x: Tensor) -> list[Tensor]:
        """What CUT compares pictures (B, 3, S, S) by: the picture with its padding, both convolutions that go down,
        before their normalisation, the first block and the middle one: the fifth of nine, one and the same of two."""
        found: list[Tensor] = []
        self._encoded(x, found, self.tapped[-1])
        return found

    def with_features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `features` in one pass."""
        found: list[Tensor] = []
        return self._decoded(self._encoded(x, found, len(self.blocks))), found

    def _encoded(self, x: Tensor, found: list[Tensor] | None, blocks: int) -> Tensor:
        """The map after so many blocks, (B, 4C, S/4 + 2, S/4 + 2), padded; `found` gets the features."""
        found = [] if found is None else found
        x = pad_edge(cast(x), 3)
        found.append(x)
        x = self.down1(norm_act(self.stem(x), relu=True))  # (B, 2C, S/2, S/2), or S with blur
        found.append(x)
        x = self.down2(self._normed_down(x))  # (B, 4C, S/4, S/4), or S/2 with blur
        found.append(x)
        x = self._normed_down(x, pad=1)
        for number, block in enumerate(self.blocks[:blocks], 1):
            x = block(x)
            if number in self.tapped:
                found.append(inside(x))
        return x

    def _normed_down(self, x: Tensor, pad: int = 0) -> Tensor:
        if not self.blur:
            return norm_act(x, relu=True, pad=pad)
        x = blurred_down(norm_act(x, relu=True, pad=1))
        return pad_edge(x, pad) if pad else x

    def _decoded(self, padded: Tensor) -> Tensor:
        x = norm_act(self._upped(self.up1, inside(padded)), relu=True)  # (B, 2C, S/2, S/2)
        x = norm_act(self._upped(self.up2, x), relu=True, pad=3)  # (B, C, S + 6, S + 6)
        assert self.head.bias is not None
        return torch.tanh(conv_to_rgb(x, self.head.weight).float() + self.head.bias[:, None, None])

    def _upped(self, up: nn.Module, x: Tensor) -> Tensor:
        # Twice as large by the filter (1, 3, 3, 1) / 4 in each direction, edges repeated, is bilinear.
        return up(F.interpolate(x, scale_factor=2.0, mode="bilinear") if self.blur else x)


class PatchDiscriminator(nn.Module):
    """A logit for each patch of 70 x 70 pixels.

    channels: width C of the first layer. blur: as of `Translator`.
    """

    def __init__(self, channels: int = 64, blur: bool = False) -> None:
        super().__init__()
        c, stride = channels, 1 if blur else 2
        self.blur = blur
        self.first = nn.Conv2d(3, c, 4, stride, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, s, 1, bias=False)
            for a, b, s in ((c, 2 * c, stride), (2 * c, 4 * c, stride), (4 * c, 8 * c, 1))
        )
        self.last = nn.Conv2d(8 * c, 1, 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> logits (B, 1, S/8 - 2, S/8 - 2), float32; 30 x 30 at 256 px."""
        x = F.leaky_relu(self.first(cast(x)), 0.2, inplace=True)
        for conv in self.convs:
            if self.blur:
                x = blurred_down(pad_edge(x, 1))
            x = F.leaky_relu(norm_act(conv(x)), 0.2, inplace=True)
        assert self.last.bias is not None
        return conv_to_one(F.pad(x, (1, 1, 1, 1)), self.last.weight) + self.last.bias


def blurred_down(padded: Tensor) -> Tensor:
    """Every second pixel of the map blurred by (1, 2, 1) / 4 in each direction; (B, C, H + 2, W + 2), padded by 1, ->
    (B, C, ceil(H / 2), ceil(W / 2))."""
    taps = torch.tensor((0.25, 0.5, 0.25), dtype=padded.dtype, device=padded.device)
    kernel = (taps[:, None] * taps).expand(padded.shape[1], 1, 3, 3)
    return F.conv2d(padded, kernel, stride=2, groups=padded.shape[1])


def check_size(size: int) -> None:
    """Raises Problem for pictures that these networks cannot take."""
    if size < SMALLEST or size % 4:
        raise Problem(
            f"size {size}: this method needs a size of at least {SMALLEST} that is a multiple of 4, such as 64, 128 "
            "or 256"
        )


@torch.no_grad()
def initialise(network: nn.Module, xavier: bool = False) -> None:
    """Published first weights: kernels from N(0, 0.02), biases 0. xavier: kernels from N(0, 0.02 times the deviation
    of Glorot & Bengio)."""
    for parameter in network.parameters():
        if parameter.ndim < 2:
            parameter.zero_()
        elif xavier:
            nn.init.xavier_normal_(parameter, 0.02)
        else:
            nn.init.normal_(parameter, 0.0, 0.02)


@contextlib.contextmanager
def held(*networks: nn.Module) -> Iterator[None]:
    """What is computed within passes gradients through these networks, but none to their weights."""
    moving = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)

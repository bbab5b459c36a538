"""Pictures to style codes in one pass: the trunk of StyleGAN2's discriminator with a code for each layer at its end.

Zhu, Shen, Zhao, Zhou: In-Domain GAN Inversion for Real Image Editing, ECCV 2020, arXiv:2004.00049.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.nets.stylegan2 import GAIN, SLOPE, Conv, Linear, Residual, codes, resolutions


class Encoder(nn.Module):
    """(B, 3, S, S) in [-1, 1] -> style codes (B, codes, W).

    channels: at 4, 8 ... size, as the generator's. style: length W of a code. It gives offsets from `middle`, the
    average codes, in units of `scale`, the deviation of w per coordinate; before it has learned, the offsets are 0. No
    layer mixes pictures: there is neither batch normalisation nor the discriminator's deviation over the batch.
    """

    middle: Tensor
    scale: Tensor

    def __init__(self, size: int, channels: Sequence[int], style: int) -> None:
        super().__init__()
        self.size, self.codes, self.style = size, codes(size), style
        self.rgb = Conv(3, channels[-1], 1)
        steps = list(zip(resolutions(size), channels, channels[1:]))[::-1]
        self.blocks = nn.ModuleDict({str(2 * r): Residual(b, a) for r, a, b in steps})
        self.conv = Conv(channels[0], channels[0], 3)
        self.out = Linear(channels[0] * 16, self.codes * style)
        nn.init.zeros_(self.out.weight)
        self.register_buffer("middle", torch.zeros(self.codes, style))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.leaky_relu(self.rgb(pictures.contiguous(memory_format=torch.channels_last), gain=GAIN), SLOPE)
        for block in self.blocks.values():
            x = block(x)
        x = F.leaky_relu(self.conv(x, gain=GAIN, padding=1), SLOPE)
        with torch.autocast(x.device.type, enabled=False):
            offsets = self.out(x.float().contiguous().flatten(1))
        return self.middle + self.scale * offsets.unflatten(1, (self.codes, self.style))

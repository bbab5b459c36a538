"""The networks of StyleGAN2 in pure PyTorch, differentiable twice.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila: Analyzing and Improving the Image Quality of StyleGAN, CVPR
2020, arXiv:1912.04958: generator with skip outputs, residual discriminator (configuration F).

What is computed is the published mathematics in an order that is cheaper:

- A modulated convolution scales the feature map by the style before one convolution that all pictures share,
  and by the demodulation after it; no picture has weights of its own. Demodulation is one small matrix
  product of squared styles and summed squared weights.
- Leaky ReLU is positively homogeneous, so its gain of sqrt(2) is multiplied into what is before it: into the
  demodulation, into biases, into the styles. The same goes for the scale of equalised learning rates, and
  for the 1 / sqrt(2) of the discriminator's residual blocks.
- Colours are a matrix product per picture, upsampled colours two.
- Convolutions are closed under differentiation, see `fewtoon.nets.twice`.

Weights are stored as published: standard normal (divided by the rate multiplier in the mapping), scaled when
used. Feature maps are (B, C, H, W) and channels last in memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping as Named
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets.conv import cast
from fewtoon.nets.twice import convolve, convolve_transposed, smooth, upsampled

SLOPE = 0.2  # of the leaky ReLUs
GAIN = math.sqrt(2)  # of the leaky ReLUs
MAPPING_RATE = 0.01  # the mapping learns slower by this factor
CLASS_LAYERS = 8  # of the discriminator's mapping, however deep the generator's is

Noise = Literal["random", "fixed", "none"] | Sequence[Tensor | None]


def resolutions(size: int) -> list[int]:
    """4, 8 ... size. Raises Problem for a size that is no power of two from 8 to 1024."""
    if size < 8 or size > 1024 or size & (size - 1):
        raise Problem(
            f"pictures of {size} px: StyleGAN2 works at 8, 16, 32 ... 1024; prepare them at one of these"
        )
    return [2**k for k in range(2, size.bit_length())]


def codes(size: int) -> int:
    """How many style codes pictures of `size` take: 14 at 256 px."""
    return 2 * (size.bit_length() - 1) - 2


def channel_plan(size: int, base: int = 16384, most: int = 512) -> list[int]:
    """Channels at 4, 8 ... size: min(base / resolution, most). base 16384 and 32768 are the published plans."""
    return [min(base // r, most) for r in resolutions(size)]


class Painted(NamedTuple):
    """What a synthesis network returns when asked for more than its picture."""

    image: Tensor  # (B, 3, S, S), about in [-1, 1], float32
    colours: dict[int, Tensor]  # resolution r -> (B, 3, r, r): the sum of colours up to there
    features: dict[int, Tensor]  # resolution r -> (B, C, r, r): the map after the block


# --- layers ------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A linear layer with an equalised learning rate (Karras et al., arXiv:1710.10196, section 4.1)."""

    def __init__(self, inside: int, outside: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside) / rate)
        self.bias = nn.Parameter(torch.full((outside,), bias))
        self.rate, self.scale = rate, rate / math.sqrt(inside)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, I) -> (B, O), multiplied by `gain`."""
        return F.linear(x * (self.scale * gain), self.weight, self.bias * (self.rate * gain))


class Mapping(nn.Module):
    """z to w: normalisation to unit length, then fully connected layers.

    average: the mean of w over all z, which truncation moves towards. classes: 0, or how many there are; a class
    then has a learned vector beside z.
    """

    average: Tensor

    def __init__(self, latent: int, style: int, layers: int, classes: int = 0) -> None:
        super().__init__()
        self.latent, self.style = latent, style
        self.embed = Linear(classes, style) if classes else None
        widths = [latent + (style if classes else 0)] + [style] * layers
        self.layers = nn.ModuleList(Linear(a, b, rate=MAPPING_RATE) for a, b in itertools.pairwise(widths))
        self.register_buffer("average", torch.zeros(style))

    def forward(self, z: Tensor, classes: Tensor | None = None) -> Tensor:
        """z: (B, Z); classes: (B,) int64 where the network has classes -> w: (B, W), float32."""
        with torch.autocast(z.device.type, enabled=False):
            x = _unit(_whole(z))
            if self.embed is not None:
                if classes is None:
                    raise Problem("this generator has classes: name one for each picture")
                one_hot = F.one_hot(classes, self.embed.weight.shape[1]).float()
                x = torch.cat([x, _unit(self.embed(one_hot))], 1)
            for layer in self.layers:
                x = F.leaky_relu(layer(x, gain=GAIN), SLOPE)
            return x

    @torch.no_grad()
    def measure(self, pictures: int = 10_000, seed: int = 0) -> Tensor:
        """(W,): the mean of w over so many random z."""
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(pictures, self.latent, generator=random)
        return self(z.to(self.average.device)).mean(0)


def _whole(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()


def _unit(x: Tensor) -> Tensor:
    """Rows of mean square 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class StyledConv(nn.Module):
    """Modulated convolution with demodulation, noise, bias and leaky ReLU; `up`: to twice the size.

    noise: the fixed noise, (r, r). clamp: largest absolute value of the result; None: any.
    """

    noise: Tensor

    def __init__(
        self, inside: int, outside: int, style: int, size: int, up: bool = False, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.weight = nn.Parameter(torch.randn(outside, inside, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outside))
        self.strength = nn.Parameter(torch.zeros(()))
        self.affine = Linear(style, inside, bias=1.0)
        self.register_buffer("noise", torch.randn(size, size))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x: (B, I, H, W), w: (B, W), noise: (B or 1, 1, r, r) or None -> (B, O, r, r)."""
        with torch.autocast(x.device.type, enabled=False):
            scale = self.affine(w) / math.sqrt(self.weight[0].numel())  # (B, I)
            if x.dtype == torch.float16:  # demodulation undoes it; half precision reaches to 65504
                scale = scale / scale.abs().amax(1, keepdim=True)
            power = self.weight.square().sum((2, 3))  # (O, I)
            demodulation = torch.rsqrt(scale.square() @ power.T + 1e-8) * GAIN  # (B, O)
        x, weight = cast(x), cast(self.weight)
        x = x * scale.to(x.dtype)[:, :, None, None]
        if self.up:
            x = smooth(convolve_transposed(x, weight.transpose(0, 1), stride=2), padding=1, gain=4.0)
        else:
            x = convolve(x, weight, padding=1)
        bias = (self.bias * GAIN).to(x.dtype)[:, None, None]
        x = torch.addcmul(bias, x, demodulation.to(x.dtype)[:, :, None, None])
        if noise is not None:
            x = x.add_((noise * (self.strength * GAIN)).to(x.dtype))
        x = F.leaky_relu_(x, SLOPE)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to colours, without demodulation."""

    def __init__(self, inside: int, style: int, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.weight = nn.Parameter(torch.randn(3, inside, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Linear(style, inside, bias=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: (B, I, H, W), w: (B, W) -> (B, 3, H, W), float32."""
        with torch.autocast(x.device.type, enabled=False):
            scale = self.affine(w) / math.sqrt(self.weight.shape[1])
            weight = (
                scale[:, :, None] * self.weight[:, :, 0, 0].T
            )  # (B, I, 3): one for each picture is small here
        b, _, height, width = x.shape
        flat = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, I)
        rgb = _whole(torch.bmm(flat, weight.to(x.dtype))) + self.bias
        if self.clamp is not None:
            rgb = rgb.clamp(-self.clamp, self.clamp)
        return rgb.view(b, height, width, 3).permute(0, 3, 1, 2)


# --- generator ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    """One resolution of the synthesis: convolution to it (not at 4 px), convolution, colours."""

    def __init__(self, size: int, inside: int | None, outside: int, style: int, clamp: float | None) -> None:
        super().__init__()
        self.size = size
        self.up = None if inside is None else StyledConv(inside, outside, style, size, up=True, clamp=clamp)
        self.conv = StyledConv(outside, outside, style, size, clamp=clamp)
        self.rgb = ToRGB(outside, style, clamp)

    def convs(self) -> list[StyledConv]:
        return [self.conv] if self.up is None else [self.up, self.conv]


class Synthesis(nn.Module):
    """Style codes to a picture.

    Code 0 goes to the convolution at 4 px and code 1 to its colours; the block at r = 8, 16 ... takes codes
    2k - 1, 2k and 2k + 1 for k = 1, 2 ...: the colours of a block share their code with the next block's first
    convolution.
    """

    def __init__(self, size: int, channels: Sequence[int], style: int, clamp: float | None = None) -> None:
        super().__init__()
        sizes = resolutions(size)
        if len(channels) != len(sizes):
            raise Problem(
                f"{len(channels)} numbers of channels for pictures of {size} px; name {len(sizes)}, for 4, 8 ... {size}"
            )
        self.size, self.codes, self.sizes = size, codes(size), sizes
        self.constant = nn.Parameter(torch.randn(channels[0], 4, 4))
        before: list[int | None] = [None, *channels[:-1]]
        self.blocks = nn.ModuleDict(
            {str(r): Block(r, a, b, style, clamp) for r, a, b in zip(sizes, before, channels)}
        )

    def block(self, size: int) -> Block:
        block = self.blocks[str(size)]
        assert isinstance(block, Block)
        return block

    def forward(self, ws: Tensor, noise: Noise = "random") -> Tensor:
        """ws: (B, W), or (B, codes, W); noise: random, the fixed one, none, or what `draw_noise` gave
        -> (B, 3, S, S), about in [-1, 1], float32."""
        return self.paint(ws, noise).image

    def paint(
        self,
        ws: Tensor,
        noise: Noise = "random",
        keep: Sequence[int] = (),
        replaced: Named[int, Tensor] | None = None,
        until: int | None = None,
    ) -> Painted:
        """As `forward`, with the colours and features of the resolutions in `keep`.

        until: the last resolution that is painted; None: all. The picture then is of that size.
        replaced: resolution -> features (B, C, r, r) that take the place of those after that block: another
        generator's, for layer swapping in the forward pass (Back, arXiv:2106.12445). The colours up to there stay.
        """
        if ws.ndim == 2:
            ws = ws[:, None].expand(-1, self.codes, -1)
        if ws.ndim != 3 or ws.shape[1] != self.codes:
            raise Problem(
                f"style codes of shape {tuple(ws.shape)}; this generator takes (B, W) or (B, {self.codes}, W)"
            )
        ws = _whole(ws)
        maps = iter(self.draw_noise(len(ws), noise))
        x = cast(self.constant).expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        colours, features = {}, {}
        for k, size in enumerate(self.sizes):
            if until is not None and size > until:
                break
            block = self.block(size)
            first = max(2 * k - 1, 0)
            for code, conv in enumerate(block.convs(), first):
                x = conv(x, ws[:, code], next(maps))
            if replaced is not None and size in replaced:
                x = replaced[size].to(x.dtype)
            rgb = block.rgb(x, ws[:, 2 * k + 1])
            if image is not None:
                with torch.autocast(rgb.device.type, enabled=False):
                    rgb = rgb + upsampled(image)
            image = rgb
            if size in keep:
                colours[size], features[size] = image, x
        assert image is not None
        return Painted(image, colours, features)

    def draw_noise(self, count: int, noise: Noise) -> list[Tensor | None]:
        """What each convolution adds, before its strength: (count or 1, 1, r, r), lowest resolution first."""
        convs = [conv for size in self.sizes for conv in self.block(size).convs()]
        if noise == "random":
            return [torch.randn(count, 1, *conv.noise.shape, device=conv.noise.device) for conv in convs]
        if noise == "fixed":
            return [conv.noise[None, None] for conv in convs]
        if noise == "none":
            return [None] * len(convs)
        if isinstance(noise, str):
            raise Problem(f"noise {noise!r}: 'random', 'fixed' or 'none'")
        if len(noise) != len(convs):
            raise Problem(f"{len(noise)} maps of noise; this generator takes {len(convs)}")
        return list(noise)


class Generator(nn.Module):
    """Mapping and synthesis.

    channels: at 4, 8 ... size, see `channel_plan`. latent, style: lengths of z and w. clamp: of feature maps and
    colours, for half precision; networks of NVIDIA's code have 256. Raises Problem for a size or a plan that will
    not do.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        latent: int = 512,
        style: int = 512,
        mapping_layers: int = 8,
        clamp: float | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.codes = size, codes(size)
        self.mapping = Mapping(latent, style, mapping_layers, classes)
        self.synthesis = Synthesis(size, channels, style, clamp)

    def forward(self, z: Tensor, truncation: float = 1.0, noise: Noise = "random") -> Tensor:
        """z: (B, Z) -> (B, 3, S, S). truncation: w is moved to the average, 1: not at all, 0: all the way."""
        return self.synthesis(self.truncated(self.mapping(z), truncation), noise)

    def truncated(self, w: Tensor, truncation: float) -> Tensor:
        """w, or (B, codes, W), moved towards the average (Karras et al., arXiv:1812.04948, section B)."""
        return w if truncation == 1 else torch.lerp(self.mapping.average.to(w), w, truncation)


# --- discriminator -----------------------------------------------------------------------------------------


class Conv(nn.Module):
    """Weights of a convolution with an equalised learning rate."""

    def __init__(self, inside: int, outside: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outside)) if bias else None

    def forward(self, x: Tensor, gain: float, stride: int = 1, padding: int = 0) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W'), the whole, bias included, multiplied by `gain`."""
        x = cast(x)
        scale = gain / math.sqrt(self.weight[0].numel())
        y = convolve(x, (self.weight * scale).to(x.dtype), stride, padding)
        return y if self.bias is None else y + (self.bias * gain).to(y.dtype)[:, None, None]


class Residual(nn.Module):
    """Half the size: two convolutions, and a 1x1 convolution beside them, their sum divided by sqrt(2)."""

    def __init__(self, inside: int, outside: int, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.conv = Conv(inside, inside, 3)
        self.down = Conv(inside, outside, 3)
        self.skip = Conv(inside, outside, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        beside = self.skip(smooth(cast(x), padding=1, stride=2), gain=math.sqrt(0.5))
        x = _active(self.conv(x, gain=GAIN, padding=1), self.clamp, GAIN)
        x = self.down(smooth(x, padding=2), gain=GAIN * math.sqrt(0.5), stride=2)
        return _active(x, self.clamp, GAIN * math.sqrt(0.5)) + beside


def _active(x: Tensor, clamp: float | None, gain: float) -> Tensor:
    """Leaky ReLU of what is multiplied by `gain` already; `clamp` holds for the published gain, GAIN."""
    x = F.leaky_relu(x, SLOPE)
    return x if clamp is None else x.clamp(-clamp * gain / GAIN, clamp * gain / GAIN)


class Last(nn.Module):
    """At 4 px: standard deviation over the batch as one more map, convolution, two linear layers."""

    def __init__(self, channels: int, outside: int, clamp: float | None, group: int) -> None:
        super().__init__()
        self.clamp, self.group = clamp, group
        self.conv = Conv(channels + 1, channels, 3)
        self.hidden = Linear(channels * 16, channels)
        self.out = Linear(channels, outside)

    def forward(self, x: Tensor, halves: int) -> Tensor:
        spread = torch.cat([deviation(part, self.group) for part in x.chunk(halves)])
        x = torch.cat([x, spread.to(x.dtype)], 1)
        x = _active(self.conv(x, gain=GAIN, padding=1), self.clamp, GAIN)
        with torch.autocast(x.device.type, enabled=False):
            x = F.leaky_relu(self.hidden(_whole(x).flatten(1), gain=GAIN), SLOPE)
            return self.out(x)


def deviation(x: Tensor, group: int) -> Tensor:
    """Minibatch standard deviation (Karras et al., arXiv:1710.10196, section 3): (B, C, H, W) -> (B, 1, H, W).

    Over groups of `group` pictures, or the largest smaller number that divides the batch; picture i is in one with
    i + B / group, i + 2 B / group ...
    """
    b = len(x)
    group = next(n for n in range(min(group, b), 0, -1) if b % n == 0)
    with torch.autocast(x.device.type, enabled=False):
        parts = _whole(x).unflatten(0, (group, b // group))
        spread = (parts.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # (B / group,)
    return spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])


class Discriminator(nn.Module):
    """Pictures to logits.

    channels: at 4, 8 ... size, as the generator's. deviation_group: pictures in a group of the minibatch standard
    deviation. classes: the logit is then an inner product with a mapped class (Miyato & Koyama, arXiv:1802.05637).
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        clamp: float | None = None,
        deviation_group: int = 4,
        classes: int = 0,
    ) -> None:
        super().__init__()
        sizes = resolutions(size)
        self.clamp = clamp
        self.rgb = Conv(3, channels[-1], 1)
        steps = list(zip(sizes, channels, channels[1:]))[::-1]
        self.blocks = nn.ModuleDict({str(2 * r): Residual(b, a, clamp) for r, a, b in steps})
        self.mapping = Mapping(0, channels[0], CLASS_LAYERS, classes) if classes else None
        self.last = Last(channels[0], channels[0] if classes else 1, clamp, deviation_group)

    def forward(self, images: Tensor, classes: Tensor | None = None, halves: int = 1) -> Tensor:
        """(B, 3, S, S) -> (B, 1), float32.

        halves: how many batches of equal size, each with its own minibatch standard deviation, `images` is made of.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        x = _active(self.rgb(images, gain=GAIN), self.clamp, GAIN)
        for block in self.blocks.values():
            x = block(x)
        x = self.last(x, halves)
        if self.mapping is None:
            return x
        aim = self.mapping(x.new_zeros(len(x), 0), classes)
        return (x * aim).sum(1, keepdim=True) / math.sqrt(aim.shape[1])

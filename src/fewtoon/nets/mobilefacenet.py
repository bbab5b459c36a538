"""MobileFaceNet: a small face recognition network (Chen, Liu, Gao, Han: MobileFaceNets: Efficient CNNs for
Accurate Real-Time Face Verification on Mobile Devices, arXiv 1804.07573, table 1).

Two layouts of its weights are in circulation, and `load` tells them apart by their tensors:

| layout       | embedding | blocks                              | input                        |
|--------------|-----------|-------------------------------------|------------------------------|
| InsightFace  | 512-d     | PReLU                               | RGB in [-1, 1]               |
| foamliu      | 128-d     | inverted residuals with ReLU6       | RGB, ImageNet mean and std   |

Both take pictures in [-1, 1] here and convert inside. Of foamliu, order and normalisation are measured
(`fewtoon.faces.identity` and its tests). Of InsightFace the order is photo2cartoon's; the authors' own
pipeline read pictures as BGR, so where such weights are at hand, compare both on photos of a few people with
`fewtoon.faces.identity.verification`.

The attribute names of the modules are the keys of the public checkpoints, therefore not ours to choose.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.io import weights

INPUT_SIDE = 112


def face_crop(images: Tensor) -> Tensor:
    """The face inside a head crop: (B, C, S, S) -> (B, C, 112, 112), differentiable.

    A head crop here is a landmark box of height h with 0.8 h above it, 0.3 h below it, so S = 2.1 h. Kept
    are the rows from 0.33 h above the box to its lower edge, and as many columns about the middle: at 256
    px the rows 57 to 219 and the columns 47 to 209. Bilinear with aligned corners.
    """
    height, width = images.shape[-2:]
    box = height / 2.1
    top, bottom = int(box * (0.8 - 0.33)), int(height - box * 0.3)
    side = bottom - top
    left = width // 2 - side // 2
    face = images[..., top:bottom, max(left, 0) : left + side]
    return F.interpolate(face, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=True)


class FaceNetwork(nn.Module):
    """What both layouts share: faces in, unit vectors out, whose cosine says whether it is one person."""

    dim: int

    def embed(self, images: Tensor) -> Tensor:
        """Head crops (B, 3, S, S) in [-1, 1] -> unit vectors (B, dim); differentiable."""
        return self(face_crop(images))

    def embed_pixels(self, images: Tensor) -> Tensor:
        """Head crops (B, 3, S, S) uint8 -> unit vectors (B, dim)."""
        return self.embed(images.float() / 127.5 - 1.0)


def load(path: str | Path) -> FaceNetwork:
    """The network of a weights file (.pth, .pt or .safetensors), frozen and in eval mode, on the CPU.

    Raises Problem for a missing, torn or hostile file, and for tensors of another network.
    """
    tensors = weights.read_state(path)
    network: FaceNetwork
    if "conv_6_sep.conv.weight" in tensors:
        network = InsightFaceLayout()
    elif "gdconv.depthwise.weight" in tensors:
        network = FoamliuLayout()
    else:
        raise Problem(f"{str(path)!r} holds no MobileFaceNet: neither conv_6_sep nor gdconv is in it")
    weights.fill(network, tensors, f"MobileFaceNet {str(path)!r}")
    return network.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------
# InsightFace


class ConvNorm(nn.Module):
    """Convolution, batch norm and (unless linear) PReLU; padding keeps the size at stride 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        padding = 0 if kernel == 7 else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 up to `middle` channels, 3x3 depthwise, 1x1 linear down; `residual` adds the input."""

    def __init__(self, inputs: int, outputs: int, middle: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, middle)
        self.conv_dw = ConvNorm(middle, middle, 3, stride, groups=middle)
        self.project = ConvNorm(middle, outputs, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class Stage(nn.Module):
    def __init__(self, channels: int, middle: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Bottleneck(channels, channels, middle, 1, True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class InsightFaceLayout(FaceNetwork):
    """(B, 3, 112, 112) RGB in [-1, 1] -> (B, 512), unit length."""

    dim = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 3, stride=2)  # 56 x 56
        self.conv2_dw = ConvNorm(64, 64, 3, groups=64)
        self.conv_23 = Bottleneck(64, 64, 128, 2, False)  # 28 x 28
        self.conv_3 = Stage(64, 128, 4)
        self.conv_34 = Bottleneck(64, 128, 256, 2, False)  # 14 x 14
        self.conv_4 = Stage(128, 256, 6)
        self.conv_45 = Bottleneck(128, 128, 512, 2, False)  # 7 x 7
        self.conv_5 = Stage(128, 256, 2)
        self.conv_6_sep = ConvNorm(128, 512)
        self.conv_6_dw = ConvNorm(512, 512, 7, groups=512, linear=True)  # 1 x 1
        self.linear = nn.Linear(512, 512, bias=False)
        self.bn = nn.BatchNorm1d(512)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.conv2_dw(self.conv1(faces))
        x = self.conv_3(self.conv_23(x))
        x = self.conv_4(self.conv_34(x))
        x = self.conv_5(self.conv_45(x))
        x = self.conv_6_dw(self.conv_6_sep(x)).flatten(1)
        return F.normalize(self.bn(self.linear(x)))


# ----------------------------------------------------------------------------------------------------
# foamliu


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class DepthwiseSeparable(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.pointwise(F.relu(self.bn1(self.depthwise(x))))))


class GlobalDepthwise(nn.Module):
    """(B, C, 7, 7) -> (B, C, 1, 1): a learned average for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.conv = nn.Sequential(
            _convolution(inputs, middle),
            _convolution(middle, middle, 3, stride, groups=middle),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class FoamliuLayout(FaceNetwork):
    """(B, 3, 112, 112) RGB in [-1, 1] -> (B, 128), unit length."""

    dim = 128
    STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
    # each: expansion, channels, blocks, stride of the first block

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64, 3, stride=2)  # 56 x 56
        self.dw_conv = DepthwiseSeparable(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for expand, channels, count, stride in self.STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(inputs, channels, expand, stride if index == 0 else 1))
                inputs = channels
        self.features = nn.Sequential(*blocks)  # 7 x 7
        self.conv2 = _convolution(128, 512)
        self.gdconv = GlobalDepthwise(512)  # 1 x 1
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        x = (0.5 * faces + 0.5 - self.mean) / self.std
        x = self.features(self.dw_conv(self.conv1(x)))
        x = self.bn(self.conv3(self.gdconv(self.conv2(x)))).flatten(1)
        return F.normalize(x)

"""How alike two pictures look: LPIPS, and what stands in where its backbone is not at hand.

A likeness describes pictures by lists of maps, one row for each picture, and compares two such lists row by row. So
the maps of a photo that hundreds of pictures are compared with are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash
from fewtoon.nets import vgg

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # of VGG16, that LPIPS looks at
LARGEST = 256  # px: larger pictures are averaged down to it first, as in the published projectors
Maps = Sequence[Tensor]


class Likeness(Protocol):
    """What `LPIPS` and `SSIM` have in common."""

    def facts(self) -> dict[str, str]:
        """Its name, and the hashes of its files: for logs and records."""
        ...

    def describe(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> maps of B rows each; differentiable."""
        ...

    def compare(self, made: Maps, wanted: Maps) -> Tensor:
        """Two descriptions -> (B,) float32: how unlike they are, 0 where they are the same."""
        ...


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1, on VGG16 (Zhang et al., arXiv:1801.03924, eq. 1):

        d(x, y) = sum_l mean_hw sum_c v_lc (x_lhwc - y_lhwc)^2

    where x_l are the activations of `LAYERS`, each place divided by its length over the channels, and v_l the learned
    weights of the heads, which are not negative.

    backbone: a VGG16 with torchvision's tensor names; heads: the published file for vgg (`lin0.model.1.weight` ...).
    Raises Problem for a missing, torn or hostile file, and for one of another network.
    """

    def __init__(self, backbone: str | Path, heads: str | Path) -> None:
        super().__init__()
        self.network = vgg.load(backbone, depth=16).until(LAYERS[-1])
        found = read_heads(heads)
        for k, head in enumerate(found):
            self.register_buffer(f"head{k}", head)
        self.hashes = {"backbone_sha256": file_hash(backbone), "heads_sha256": file_hash(heads)}

    def facts(self) -> dict[str, str]:
        return {"name": "LPIPS (VGG16, v0.1)", **self.hashes}

    def describe(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> five maps (B, C, h, w) whose places have length 1, or 0; of more than 256 px
        the halved picture's."""
        if min(pictures.shape[2:]) < 16:
            raise Problem(
                f"pictures of {tuple(pictures.shape[2:])} px are too small for VGG16, which halves them four times"
            )
        while pictures.shape[2] > LARGEST:
            pictures = F.avg_pool2d(pictures, 2)
        # The published code shifts and scales by [-.030, -.088, -.188] and [.458, .448, .450]: the mean and deviation
        # of ImageNet brought to [-1, 1] and rounded. They are kept to the digit.
        shift = pictures.new_tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        scale = pictures.new_tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        maps = self.network((pictures - shift) / scale, LAYERS)
        return [_directions(x.float()) for x in maps]

    def compare(self, made: Maps, wanted: Maps) -> Tensor:
        total: Tensor | float = 0.0
        for k, (x, y) in enumerate(zip(made, wanted, strict=True)):
            head: Tensor = getattr(self, f"head{k}")
            total = total + ((x - y).square() * head).sum(1).mean((1, 2))
        assert isinstance(total, Tensor)
        return total

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Both (B, 3, S, S) in [-1, 1] -> (B,)."""
        return self.compare(self.describe(made), self.describe(wanted))


def read_heads(path: str | Path) -> list[Tensor]:
    """The linear heads of LPIPS on VGG16: five tensors (1, C, 1, 1). Raises Problem for anything else."""
    tensors = weights.read_state(path)
    channels = {f"lin{k}.model.1.weight": (1, c, 1, 1) for k, c in enumerate(vgg.CHANNELS)}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if shapes != channels:
        told = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:2]) or "nothing"
        raise Problem(
            f"heads {str(path)!r} are not those of LPIPS v0.1 on VGG16 (they hold {told} ...): name the published "
            "vgg.pth, not alex.pth or squeeze.pth"
        )
    found = [tensors[key].float() for key in channels]
    if not all(torch.isfinite(t).all() and (t >= 0).all() for t in found):
        raise Problem(
            f"heads {str(path)!r} hold numbers that are negative or not finite: copy the file again"
        )
    return found


def _directions(x: Tensor) -> Tensor:
    """(B, C, H, W), each place divided by its length + 1e-10, which is how the published weights were learned.

    The root has no gradient at 0, so lengths below 1e-15 count as that: nothing of the value is lost, as all of the
    place's activations are 0.
    """
    return x / (x.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt() + 1e-10)


class SSIM:
    """What stands in for LPIPS where no backbone is at hand: 1 - SSIM, the mean over scales.

    Structural similarity of two pictures x and y, brought to [0, 1] (Wang, Bovik, Sheikh, Simoncelli: Image quality
    assessment, IEEE TIP 2004, eq. 13), for each colour and each window of 7 x 7 pixels within the picture:

        (2 mx my + c1) (2 vxy + c2) / ((mx^2 + my^2 + c1) (vx + vy + c2))

    m, v: mean, (co)variance in the window; c1 = 0.01^2, c2 = 0.03^2. The mean over windows, colours, and
    scales: the picture and its halvings down to 32 px. It sees edges where the squared error sees areas, and it is the
    best of what was compared on photos, see docs/project.md.
    """

    C1, C2 = 0.01**2, 0.03**2
    WINDOW, SMALLEST = 7, 32  # px

    def facts(self) -> dict[str, str]:
        return {"name": "SSIM (7 x 7, from the picture's size down to 32 px)"}

    def describe(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> for each scale the picture, and window means of it and of its square."""
        found, x = [], (pictures.float() + 1) / 2
        while True:
            moments = F.avg_pool2d(torch.cat([x, x * x], 1), self.WINDOW, 1)
            found += [x, moments]
            if x.shape[2] < 2 * self.SMALLEST:
                return found
            x = F.avg_pool2d(x, 2)

    def compare(self, made: Maps, wanted: Maps) -> Tensor:
        scales = []
        for k in range(0, len(made), 2):
            (x, of_x), (y, of_y) = made[k : k + 2], wanted[k : k + 2]
            (mx, xx), (my, yy) = of_x.chunk(2, 1), of_y.chunk(2, 1)
            vx, vy = xx - mx * mx, yy - my * my
            vxy = F.avg_pool2d(x * y, self.WINDOW, 1) - mx * my
            alike = (2 * mx * my + self.C1) / (mx * mx + my * my + self.C1)
            alike = alike * (2 * vxy + self.C2) / (vx + vy + self.C2)
            scales.append(1 - alike.mean((1, 2, 3)))
        return torch.stack(scales).mean(0)


def open_likeness(
    backbone: str | Path | None, heads: str | Path | None, device: torch.device | str = "cpu"
) -> Likeness:
    """LPIPS where both files are named, on `device`; `SSIM` where neither is. Raises Problem for one alone."""
    if (backbone is None) != (heads is None):
        missing = "--heads FILE, the published vgg.pth" if heads is None else "--backbone FILE, a VGG16"
        raise Problem(f"LPIPS takes two files, and one is missing: add {missing}")
    if backbone is None or heads is None:
        return SSIM()
    return LPIPS(backbone, heads).to(device)

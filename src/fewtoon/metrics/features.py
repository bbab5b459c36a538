"""Feature networks: pictures in, one vector per picture out, and a name and a hash for every number.

| spec                 | network                                                              | comparable |
|----------------------|----------------------------------------------------------------------|------------|
| `tiny`               | fixed filters of this file; nothing to download                      | no         |
| `inception:PATH`     | the FID Inception (TensorFlow 2015) from a local file                | yes        |
| `inception`          | the same, from the file that torch-fidelity has cached               | yes        |
| `mobilefacenet:PATH` | a face recognition network, see `fewtoon.nets.mobilefacenet`         | no         |

Comparable means: with figures in the literature. Numbers of different networks never mix.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fewtoon.errors import Problem, nearest
from fewtoon.io import torchvision, weights
from fewtoon.io.files import file_hash
from fewtoon.nets import mobilefacenet

KINDS = ("tiny", "inception", "inception:PATH", "mobilefacenet:PATH")
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
CHUNK = 8  # pictures per forward pass, always: kernels chosen by batch size would change the last digits


class Features:
    """A feature network as a function of uint8 pictures.

    Always in eval mode and without gradients; the same picture gives the same numbers in any company.
    """

    def __init__(
        self,
        name: str,
        weights_hash: str,
        dim: int,
        comparable: bool,
        network: Callable[[Tensor], Tensor],
        device: str,
    ) -> None:
        self.name = name
        self.hash = weights_hash  # sha256 of the weights, first 12 hexadecimal digits
        self.dim = dim
        self.comparable = comparable  # with figures in the literature
        self.device = torch.device(device)
        self._network = network

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, dim) float32 of `images` (N, S, S, 3) uint8 RGB; raises Problem for anything else."""
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise Problem(
                f"features need pictures (N, S, S, 3) of uint8, these are {images.shape} of {images.dtype}"
            )
        found = np.empty((len(images), self.dim), dtype=np.float32)
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            full = np.concatenate([part, np.zeros((CHUNK - len(part), *part.shape[1:]), np.uint8)])
            batch = torch.from_numpy(full).to(self.device).permute(0, 3, 1, 2).contiguous()
            with torch.inference_mode():
                found[start : start + CHUNK] = self._network(batch).float().cpu().numpy()[: len(part)]
        return found


def load(spec: str = "tiny", device: str = "cpu") -> Features:
    """The feature network that `spec` names (see the table above), on `device`.

    Raises Problem for an unknown name, a missing file or extra, and a file with other tensors inside.
    """
    kind, _, path = spec.partition(":")
    if kind == "tiny" and not path:
        return _tiny(device)
    if kind == "inception":
        return _inception(Path(path) if path else _cached_inception(), device)
    if kind == "mobilefacenet" and path:
        return _mobilefacenet(Path(path), device)
    raise Problem(f"unknown feature network {spec!r}: {nearest(spec, KINDS)}")


def _cached_inception() -> Path:
    """Where torch-fidelity keeps its download, if it is there; this library never downloads it."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise Problem(
            f"no Inception weights in {str(path.parent)!r}: name a local file with 'inception:PATH' "
            f"({INCEPTION_FILE} of torch-fidelity), or use 'tiny'"
        )
    return path


def _inception(path: Path, device: str) -> Features:
    """2048-d pool3 features of the FID Inception; resizing to 299 px happens inside, as TensorFlow did it."""
    weights.read_torch(path)  # refuses all but tensors, because torch-fidelity would unpickle anything
    torchvision.declare_operators()
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise Problem(
            f"the Inception network needs torch-fidelity ({error}): pip install 'fewtoon[inception]'"
        ) from None
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Problem(
            f"{str(path)!r} does not fit the FID Inception ({reason}); {INCEPTION_FILE} does"
        ) from None
    network = network.to(device).eval().requires_grad_(False)
    return Features("inception", file_hash(path)[:12], 2048, True, lambda images: network(images)[0], device)


def _mobilefacenet(path: Path, device: str) -> Features:
    network = mobilefacenet.load(path).to(device)
    return Features("mobilefacenet", file_hash(path)[:12], network.dim, False, network.embed_pixels, device)


# --------------------------------------------------------------------------------------------------------
# The built-in network: fixed filters, no training, no file.

SIDE = 64  # every picture is resized to this, so that numbers do not depend on the size of the pack
LEVELS = (64, 32, 16)  # sides of the pyramid
ORIENTATIONS = 8
RANDOM_FILTERS = 24
FAINT = 0.02  # edge energy is counted from about this amplitude on, of a range of 1
GRID = 8  # side of the layout maps


class TinyNetwork(nn.Module):
    """(B, 3, S, S) uint8 -> (B, DIM): what colours and edges there are, how they vary, and where they lie.

    On three octaves: opponent colours, the energy of edges and lines in eight directions (quadrature
    pairs, so a line counts once wherever its phase lies), and random orthogonal combinations of these,
    rectified. Of each channel the mean and the standard deviation over the picture; of colours and edges
    also a coarse map, because a face is a layout. Two fixed stages of this kind without training already
    separate textures and shapes (Bruna and Mallat: Invariant scattering convolution networks, arXiv
    1203.1513; Jarrett, Kavukcuoglu, Ranzato, LeCun: What is the best multi-stage architecture for object
    recognition?, ICCV 2009).

    Each feature is centred and scaled by its mean and spread on `_leaves`, abstract pictures made by
    rule, so that no feature drowns the others in the kernel. Nothing here has seen a face or a drawing.
    """

    def __init__(self) -> None:
        super().__init__()
        random = np.random.Generator(np.random.PCG64(2007))
        # Luminance, red against green, yellow against blue, from RGB in 0..1; each row of unit gain.
        opponent = [[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]]
        self.opponent = _constant(np.asarray(opponent)[:, :, None, None])  # (3, 3, 1, 1)
        pairs = _quadrature_pairs(ORIENTATIONS, side=7, wavelength=4.0, sigma=1.7)
        self.edges = _constant(pairs)  # (16, 1, 7, 7)
        seen = ORIENTATIONS + 3
        mix = [_orthogonal_rows(random, RANDOM_FILTERS, seen * 9) for _ in LEVELS]
        self.mix = _constant(np.stack(mix).reshape(len(LEVELS), RANDOM_FILTERS, seen, 3, 3))
        self.centre: Tensor
        self.scale: Tensor
        self.eval()
        leaves = torch.from_numpy(_leaves(random, 96))
        with torch.no_grad():
            raw = torch.cat([self._measure(part) for part in leaves.split(CHUNK)])
        self.register_buffer("centre", raw.mean(0))
        self.register_buffer("scale", raw.std(0).clamp_min(1e-3))

    def weights_hash(self) -> str:
        """Of the filters alone: the calibration follows from them, to within rounding."""
        parts = (self.opponent, self.edges, self.mix)
        return hashlib.sha256(b"tiny-1" + b"".join(p.numpy().tobytes() for p in parts)).hexdigest()[:12]

    def forward(self, images: Tensor) -> Tensor:
        # Bounded, or a few extreme pictures would rule the cubic kernel of KID.
        return torch.tanh(0.25 * (self._measure(images) - self.centre) / self.scale)

    def _measure(self, images: Tensor) -> Tensor:
        picture = images.float() / 255.0
        if picture.shape[-1] != SIDE or picture.shape[-2] != SIDE:
            picture = F.interpolate(
                picture, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
            )
        colour = F.conv2d(picture, self.opponent)  # (B, 3, 64, 64)
        found: list[Tensor] = []
        for level, side in enumerate(LEVELS):
            if side != SIDE:
                colour = F.avg_pool2d(colour, 2)
            light = F.pad(colour[:, :1], (3, 3, 3, 3), mode="reflect")
            pairs = F.conv2d(light, self.edges)
            even, odd = pairs.chunk(2, 1)
            # On a logarithmic scale, so that faint texture on a flat area counts beside a black outline.
            energy = torch.log1p((even.square() + odd.square()) / FAINT**2) / 8.0  # (B, 8, side, side)
            seen = torch.cat([colour, energy], 1)
            mixed = F.relu(F.conv2d(F.pad(seen, (1, 1, 1, 1), mode="reflect"), self.mix[level]))
            for maps in (colour, energy, mixed):
                flat = maps.flatten(2)
                found += [flat.mean(2), flat.std(2)]
            if side == 32:
                crossing = energy.unflatten(1, (ORIENTATIONS // 2, 2)).mean(2)  # four directions will do
                found.append(F.avg_pool2d(crossing, side // GRID).flatten(1))
            if side == 16:
                found.append(F.avg_pool2d(colour, side // GRID).flatten(1))
        return torch.cat(found, 1)


def _constant(values: NDArray) -> nn.Parameter:
    """Fixed filters, rounded so that the last bit of a machine's arithmetic cannot change their hash."""
    return nn.Parameter(torch.from_numpy(np.round(values, 5).astype(np.float32)), requires_grad=False)


def _quadrature_pairs(orientations: int, side: int, wavelength: float, sigma: float) -> NDArray[np.float64]:
    """(2 * orientations, 1, side, side): even Gabor filters, then odd ones; no response to a flat area."""
    reach = np.arange(side) - side // 2
    y, x = np.meshgrid(reach, reach, indexing="ij")
    window = np.exp(-(x * x + y * y) / (2.0 * sigma * sigma))
    filters = []
    for shape in (np.cos, np.sin):
        for index in range(orientations):
            angle = math.pi * index / orientations
            wave = shape(2.0 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle)))
            wave = window * (wave - (window * wave).sum() / window.sum())
            filters.append(wave / np.sqrt((wave * wave).sum()))
    return np.stack(filters)[:, None]


def _orthogonal_rows(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """`rows` random orthonormal vectors of length `columns`."""
    gaussian = _gaussian(random, columns * rows).reshape(columns, rows)
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).T  # the sign that makes the decomposition unique


def _gaussian(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Normal draws from uniform ones (Box and Muller, 1958): the stream of `random()` never changes."""
    u, v = random.random((2, count))
    return np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * math.pi * v)


def _leaves(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """(count, 3, SIDE, SIDE) abstract pictures: overlapping ellipses, shaded, some with texture.

    Occlusion makes them share the edge and colour statistics of pictures of things (Lee, Mumford, Huang:
    Occlusion models for natural images, IJCV 2001).
    """
    reach = (np.arange(SIDE) + 0.5) / SIDE
    y, x = np.meshgrid(reach, reach, indexing="ij")
    pictures = np.empty((count, 3, SIDE, SIDE))
    for picture in pictures:
        picture[:] = random.random((3, 1, 1))
        for _ in range(24):
            cx, cy, u, ratio, angle, shade, noise = random.random(7)
            colour = random.random((3, 1, 1)) * 0.5 + random.random() * 0.5
            radius = 0.04 * 10.0**u  # 0.04 to 0.4 of the side, small ones as frequent as large ones
            dx = (x - cx) * math.cos(math.pi * angle) + (y - cy) * math.sin(math.pi * angle)
            dy = (y - cy) * math.cos(math.pi * angle) - (x - cx) * math.sin(math.pi * angle)
            inside = (dx / radius) ** 2 + (dy / radius / (0.3 + 0.7 * ratio)) ** 2 < 1.0
            texture = 0.2 * noise * (noise > 0.5) * (random.random((SIDE, SIDE)) - 0.5)
            value = colour + (shade - 0.5) * dx / radius * 0.4 + texture
            picture[:, inside] = value[:, inside]
    return (np.clip(pictures, 0.0, 1.0) * 255.0).round().astype(np.uint8)


def _tiny(device: str) -> Features:
    network = TinyNetwork()
    weights_hash = network.weights_hash()
    dim = network.centre.numel()
    return Features("tiny", weights_hash, dim, False, network.to(device), device)

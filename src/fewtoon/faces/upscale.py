"""Small crops brought to size: by a classical resampler that needs no file, or by a super-resolution network
whose weights the user names.

The classical one is chosen for drawings. Lanczos is the sharpest of the usual filters, but it rings beside
outlines; so every pixel is held between the four source pixels around it. What holding and filtering lose is
then put back: the result is shrunk, compared with the source, and the difference added (iterative
back-projection, Irani and Peleg, Improving Resolution by Image Registration, 1991). Against Lanczos alone, at x2:
1.5 to 2 dB on drawings and 0.6 dB on photos; after JPEG 0.5 to 1.5 dB on drawings, and no less on photos.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewtoon.errors import Problem
from fewtoon.io.files import file_hash, printable
from fewtoon.io.images import resize_square

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

SLIGHT = 1.1  # up to this ratio a network has nothing to add: resampled
CORRECTIONS = 2  # back-projections: five gain another 0.5 dB on clean drawings, and lose on JPEG
PASSES = 2  # of a network, at most; what is still missing is resampled

# A network sees the picture in tiles, each with what lies around it, so that memory does not grow with it.
TILE = 512  # side of a tile's result, in pixels
HALO = 32  # around a tile, in pixels of the input; CARN-M needs 21
# Around the picture its own mirror image: the networks take nothing for black, which shows as a dark seam (19
# levels on flat colour). Of mirrors and repeats, this one is the truest in PSNR too.
MARGIN = 8


class Upscaler(Protocol):
    """Brings square crops to a size. May be called from several threads at once."""

    name: str  # for people: "lanczos", "carn_m", ...
    identity: str  # name and sha256 of the file behind it: other identity, other pixels

    def __call__(self, crop: Pixels, size: int) -> Pixels:
        """(n, n, 3) RGB of any n -> (size, size, 3)."""
        ...

    def describe(self, n: int, size: int) -> str:
        """What happens to a crop of n pixels, for a table: "lanczos x1.7", "carn_m x2", "carn_m x3 x2"."""
        ...


def open_upscaler(spec: str | None) -> Upscaler:
    """The upscaler that `spec` names.

    None: the classical resampler. "carn:PATH": CARN-M. "spandrel:PATH" or only "PATH": whatever
    super-resolution network the file holds, loaded by the library spandrel.
    Raises Problem for a file that is missing, damaged or no super-resolution, and without the library.
    """
    if spec is None:
        return Classical()
    kind, colon, path = spec.partition(":")
    if not colon or kind not in ("carn", "spandrel"):
        kind, path = "spandrel", spec
    if not Path(path).is_file():
        raise Problem(f"no upscaler {spec!r}: {path!r} is not a file; give carn:PATH, spandrel:PATH or PATH")
    return _carn(path) if kind == "carn" else _spandrel(path)


# ---------------------------------------------------------------------------------------------------------
# Without weights


class Classical:
    """Lanczos, held and corrected (see the head of this file); bicubic with antialiasing where a crop shrinks."""

    name = "lanczos"
    identity = f"lanczos held corrected {CORRECTIONS}"

    def __call__(self, crop: Pixels, size: int) -> Pixels:
        return resample(crop, size)

    def describe(self, n: int, size: int) -> str:
        if n == size:
            return "as it is"
        return f"{'lanczos' if size > n else 'bicubic'} x{_short(size / n)}"


def resample(crop: Pixels, size: int) -> Pixels:
    """(n, n, 3) -> (size, size, 3), up or down, without overshoot where up; a flat colour stays as it is."""
    if size <= len(crop):
        return resize_square(crop, size)
    source = crop.astype(np.float32)
    lowest, highest = _neighbours(source, size)
    large = _filtered(source, size, Image.Resampling.LANCZOS).clip(lowest, highest)
    for _ in range(CORRECTIONS):
        missing = source - _filtered(large, len(crop), Image.Resampling.BICUBIC)
        large += _filtered(missing, size, Image.Resampling.BICUBIC)
        large.clip(lowest, highest, out=large)
    return np.rint(large).astype(np.uint8)


def _filtered(picture: Floats, size: int, filter: Image.Resampling) -> Floats:
    """(n, n, C) -> (size, size, C), in floats: nothing is rounded or cut off at 0 and 255."""
    planes = [Image.fromarray(plane).resize((size, size), filter) for plane in np.moveaxis(picture, 2, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _neighbours(source: Floats, size: int) -> tuple[Floats, Floats]:
    """The darkest and the brightest of the 2 x 2 source pixels around each of size x size, channel by channel."""
    n = len(source)
    place = (np.arange(size) + 0.5) * (n / size) - 0.5
    before = np.floor(place).astype(np.intp)
    after = np.minimum(before + 1, n - 1)
    before = np.maximum(before, 0)
    lowest, highest = np.minimum(source[before], source[after]), np.maximum(source[before], source[after])
    return (
        np.minimum(lowest[:, before], lowest[:, after]),
        np.maximum(highest[:, before], highest[:, after]),
    )


# ---------------------------------------------------------------------------------------------------------
# With a network

Network = Callable[
    ["Tensor", int], "Tensor"
]  # (1, 3, H, W) in [0, 1] and a scale -> (1, 3, scale H, scale W)


class NetworkUpscaler:
    """A super-resolution network as an Upscaler: enlarged by it, then shrunk to size with antialiasing.

    scales: the factors that the network knows
    tiled: False for a network that must see a picture as a whole
    """

    def __init__(
        self, name: str, identity: str, network: Network, scales: tuple[int, ...], tiled: bool = True
    ) -> None:
        self.name, self.identity, self.scales = name, identity, scales
        self._network, self._tiled = network, tiled

    def __call__(self, crop: Pixels, size: int) -> Pixels:
        picture = crop.astype(np.float32) / 255.0
        passes = self._passes(len(crop), size)
        for scale in passes:
            picture = self._enlarged(picture, scale)
        return resample(np.rint(picture * 255.0).astype(np.uint8) if passes else crop, size)

    def describe(self, n: int, size: int) -> str:
        passes = self._passes(n, size)
        if not passes:
            return Classical().describe(n, size)
        return f"{self.name} {' '.join(f'x{scale}' for scale in passes)}"

    def _passes(self, n: int, size: int) -> tuple[int, ...]:
        """The factors whose product is the smallest that reaches the size, fewest first; () where the network is
        not needed; the largest factors where they do not reach it."""
        if size <= SLIGHT * n:
            return ()
        falling = sorted(self.scales, reverse=True)
        for count in range(1, PASSES + 1):
            enough = [
                factors
                for factors in itertools.combinations_with_replacement(falling, count)
                if n * math.prod(factors) >= size
            ]
            if enough:
                return min(enough, key=math.prod)
        return (falling[0],) * PASSES

    def _enlarged(self, picture: Floats, scale: int) -> Floats:
        """(H, W, 3) in [0, 1] -> (scale H, scale W, 3) in [0, 1]."""
        import torch

        height, width = picture.shape[:2]
        padded = np.pad(picture, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), "symmetric")
        source = torch.from_numpy(padded).permute(2, 0, 1)[None]  # (1, 3, H + 2 margins, W + 2 margins)
        result = np.empty((height * scale, width * scale, 3), np.float32)
        step = max(1, TILE // scale) if self._tiled else max(height, width)
        with torch.inference_mode():
            for y, x in itertools.product(range(0, height, step), range(0, width, step)):
                top, left = max(0, y + MARGIN - HALO), max(0, x + MARGIN - HALO)
                bottom, right = y + step + MARGIN + HALO, x + step + MARGIN + HALO
                tile = self._network(source[..., top:bottom, left:right].contiguous(), scale)
                down, across = (y + MARGIN - top) * scale, (x + MARGIN - left) * scale
                rows, columns = min(step, height - y) * scale, min(step, width - x) * scale
                inner = tile[0, :, down : down + rows, across : across + columns].clamp(0.0, 1.0)
                result[y * scale : y * scale + rows, x * scale : x * scale + columns] = inner.permute(1, 2, 0)
        return result


def _carn(path: str) -> NetworkUpscaler:
    from fewtoon.nets import carn

    network = carn.load(path)
    return NetworkUpscaler("carn_m", f"carn_m {file_hash(path)}", network, carn.SCALES)


def _spandrel(path: str) -> NetworkUpscaler:
    """Any of spandrel's architectures, recognised by its tensors, which are read by our own door for weights."""
    from fewtoon.io import weights

    state = weights.read(path) if path.endswith(".safetensors") else weights.read_torch(path)
    model = _recognised(state, path)
    lock = threading.Lock()  # some of these networks keep what they have computed in themselves

    def network(picture: Tensor, scale: int) -> Tensor:
        with lock:
            return model(picture)

    name = printable(Path(path).stem)
    tiled = model.tiling.name == "SUPPORTED"
    return NetworkUpscaler(name, f"{name} {file_hash(path)}", network, (model.scale,), tiled)


def _recognised(state: Any, path: str) -> Any:
    """spandrel's descriptor of a super-resolution network for RGB."""
    from fewtoon.io import torchvision

    shown = printable(path)
    if not isinstance(state, Mapping):
        raise Problem(f"{shown!r} holds {type(state).__name__}, not a network; give a super-resolution file")
    torchvision.declare_operators()
    try:
        import spandrel
    except (ImportError, OSError, RuntimeError) as error:  # or a torchvision that does not fit torch
        raise Problem(
            f"{shown!r} needs the library spandrel ({error}): pip install 'fewtoon[superres]', or give CARN-M's "
            "weights as carn:PATH"
        ) from None
    try:
        model = spandrel.ModelLoader("cpu").load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except spandrel.UnsupportedModelError:
        raise Problem(
            f"{shown!r} is no network that spandrel knows; give another file, or CARN-M's weights as carn:PATH"
        ) from None
    except Exception as error:  # it looks into tensors by name and shape: a wrong file may break any line
        told = str(error).split("\n")[0][:200]
        raise Problem(f"{shown!r} cannot be loaded by spandrel ({type(error).__name__}: {told})") from None
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.purpose != "SR" or model.scale < 2:
        raise Problem(
            f"{shown!r} is {model.architecture.name} for {model.purpose} x{getattr(model, 'scale', 1)}, no "
            "super-resolution; give a file that enlarges"
        )
    if (model.input_channels, model.output_channels) != (3, 3):
        raise Problem(
            f"{shown!r} makes {model.output_channels} channels from {model.input_channels}, but crops have 3; "
            "give a network for RGB"
        )
    model.eval()
    model.model.requires_grad_(False)
    return model


def _short(ratio: float) -> str:
    """1.70 -> "1.7", 2.00 -> "2"."""
    return f"{ratio:.2f}".rstrip("0").rstrip(".")

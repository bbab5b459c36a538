"""Mattes: which part of a crop is the person, by the default models or by a file that the user names; and the
white that takes the place of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewtoon.errors import Problem, nearest
from fewtoon.faces.face import Matte
from fewtoon.io.files import file_hash

if TYPE_CHECKING:
    from torch import nn

FROM_FILE = ("sinet", "extremec3")
KNOWN = ("mediapipe", *(f"{name}:PATH" for name in FROM_FILE))


def open_matte(spec: str) -> Matte:
    """The matte that `spec` names: "mediapipe", "sinet:PATH" or "extremec3:PATH".

    Raises Problem for an unknown name, and for a file that is missing, damaged or of another network.
    """
    name, _, path = spec.partition(":")
    if name == "mediapipe" and not path:
        from fewtoon.faces.mediapipe import MediapipeMatte

        return MediapipeMatte()
    if name not in FROM_FILE:
        raise Problem(f"no matte {spec!r}: {nearest(spec, KNOWN)}")
    if not path:
        raise Problem(f"the matte {name!r} needs a file: {name}:PATH")
    if name == "sinet":
        from fewtoon.nets import sinet

        return NetworkMatte(name, sinet.load(path), path, sinet.INPUT_SIDE)
    from fewtoon.nets import extremec3

    # Better than its 224 pixels, and with its mirror image better again: IoU 0.954, 0.962, 0.966 on 20 portraits
    # with mattes. SINet gains from neither.
    return NetworkMatte(name, extremec3.load(path), path, 256, mirrored=True)


class NetworkMatte:
    """A portrait network as a Matte; safe to call from several threads.

    name: of the network
    network: (B, 3, side, side) float RGB in [0, 255] -> (B, 1, side, side) in [0, 1], frozen, in eval mode
    path: its file, for the identity
    side: to which crops are squeezed for it, in pixels
    mirrored: whether to take the mean with the matte of the mirror image
    """

    def __init__(
        self, name: str, network: nn.Module, path: str | Path, side: int, mirrored: bool = False
    ) -> None:
        self.name, self.side, self.mirrored = name, side, mirrored
        self.identity = f"{name} {file_hash(path)}"
        self._network = network

    def __call__(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, a head and perhaps shoulders -> (H, W) alpha: 255 is person, 0 is background."""
        import torch

        height, width = crop.shape[:2]
        small = Image.fromarray(crop).resize((self.side, self.side), Image.Resampling.BILINEAR)
        pictures = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            if self.mirrored:
                alpha, other = self._network(torch.cat([pictures, pictures.flip(3)]))
                alpha = (alpha + other.flip(2)) / 2
            else:
                alpha = self._network(pictures)[0]
            levels = (255.0 * alpha[0]).round().to(torch.uint8).numpy()
        return np.array(Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR))


def composite(crop: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(S, S, 3) and (S, S), 255 for the crop -> the crop on white, (S, S, 3): crop a + 255 (1 - a), a = alpha / 255.

    Rounded to the nearest level without a float: x = 255 - crop and y = alpha give 255 - xy / 255, and the
    nearest integer to n / 255 is ((n + 128) + ((n + 128) >> 8)) >> 8 for all n up to 255 * 255 (Blinn, Three
    Wrongs Make a Right, 1995). There are no ties, because 255 is odd.
    """
    darkness = np.multiply(~crop, alpha[..., None], dtype=np.uint16)
    darkness += 128
    darkness += darkness >> 8
    darkness >>= 8
    return ~darkness.astype(np.uint8)

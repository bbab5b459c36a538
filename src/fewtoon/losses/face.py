"""Face-ID loss: a drawing shall be of the person in the photo."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.nets import mobilefacenet


class FaceId(nn.Module):
    """1 - cosine of the face vectors of two pictures, the mean over the batch.

    Zhuang, Yang: Few-shot Knowledge Transfer for Fine-grained Cartoon Face Generation, arXiv:2007.13332
    (L_faceid), with MobileFaceNet (arXiv:1804.07573) read from the file `path`. The network is frozen, and of
    the source, which is not to change, no graph is kept. Raises Problem for a file of another network.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.network = mobilefacenet.load(path)

    def forward(self, made: Tensor, source: Tensor) -> Tensor:
        """Both (B, 3, S, S) in [-1, 1], head crops; a float32 scalar between 0 and 2."""
        with torch.no_grad():
            wanted = self._vectors(source)
        return (1 - (self._vectors(made) * wanted).sum(1)).mean()

    def _vectors(self, pictures: Tensor) -> Tensor:
        """(B, d) float32 of length 1, which bf16 alone would miss by a percent."""
        return F.normalize(self.network.embed(pictures).float(), dim=1)

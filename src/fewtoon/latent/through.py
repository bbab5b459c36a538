"""A StyleGAN style as a translator of photos: each is projected into its source and drawn from the code.

So the same evaluation measures both families, on the same photos.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io.files import printable
from fewtoon.latent import encoder as encoders
from fewtoon.latent.inversion import Settings, invert
from fewtoon.latent.project import settings_for
from fewtoon.latent.sources import Source, check_family, open_sources
from fewtoon.losses.perceptual import Likeness, open_likeness


class Through:
    """Draws photos (B, 3, S, S) by way of the latent space of a source.

    Attributes as of a `fewtoon.style.Style`: size, groups (none: nobody is told them), header, framing, device.
    """

    def __init__(
        self,
        drawer: Source,
        source: Source,
        likeness: Likeness,
        settings: Settings,
        encoder: encoders.Opened | None = None,
    ) -> None:
        self.drawer, self.source, self.likeness = drawer, source, likeness
        self.settings, self.encoder = settings, encoder
        self.known: dict[bytes, Tensor] = {}  # photo -> its codes: none is looked for twice
        self.size, self.device, self.framing = source.style.size, source.style.device, source.style.framing
        self.groups: list[str] = []
        told: dict[str, Any] = {
            "source": source.facts(),
            "likeness": likeness.facts(),
            "settings": asdict(settings),
        }
        told["encoder"] = None if encoder is None else encoder.facts()
        self.header: dict[str, Any] = {**drawer.style.header, "groups": [], "through": told}

    def translate(self, photos: Tensor, group: Any = None) -> Tensor:
        """(B, 3, S, S) float in [-1, 1] -> the same. A photo's drawing does not depend on its neighbours."""
        if group is not None:
            raise Problem(f"this style is told no groups: leave group {group!r} out")
        if not len(photos):
            return photos.float()
        return self.drawer.style.synthesis(torch.cat([self._codes(one) for one in photos.cpu().split(1)]))

    def by(self, drawer: Source) -> Through:
        """The same, drawn by another style of the family. What one of them has projected, the other knows."""
        check_family([self.source, drawer])
        other = Through(drawer, self.source, self.likeness, self.settings, self.encoder)
        other.known = self.known
        return other

    def _codes(self, photo: Tensor) -> Tensor:
        key = photo.float().numpy().tobytes()
        if key not in self.known:
            start = None if self.encoder is None else self.encoder.guess(photo)
            self.known[key] = invert(self.source, photo, self.likeness, self.settings, start).w
        return self.known[key]


def open_through(
    drawer: str | Path,
    source: str | Path,
    encoder: str | Path | None = None,
    device: str | None = None,
    **settings: Any,
) -> Through:
    """The style `drawer` as a translator through `source`, the style of photos that it was fine-tuned from.

    encoder: a file of `fewtoon explore encoder`, whose guess is the start. settings: see
    `fewtoon.latent.project.settings_for`. Raises Problem for styles that are no StyleGANs or not of one family.
    """
    first, second = open_sources([source, drawer], device)
    check_family([first, second])
    if first.sha256 == second.sha256:
        raise Problem(
            f"--through {printable(source)!r} is the style itself: name its source, a style of photos"
        )
    opened = None if encoder is None else encoders.open_encoder(encoder, first)
    likeness = open_likeness(None, None, first.style.device)
    return Through(second, first, likeness, settings_for(encoder is not None, **settings), opened)

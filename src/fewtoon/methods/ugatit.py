"""U-GAT-IT: unpaired translation between photos and drawings with attention and AdaLIN.

Kim, Kim, Kang, Lee: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance Normalization
for Image-to-Image Translation, ICLR 2020, arXiv:1907.10830.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon.config import Strict
from fewtoon.losses.adversarial import classification, least_squares
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.nets.hourglass import HourglassGenerator
from fewtoon.nets.norm import clip_mixing
from fewtoon.nets.ugatit import Discriminator, Drawn, Generator, discriminator_layers, heatmap

GENERATORS = ("photo_to_drawing", "drawing_to_photo")
DISCRIMINATORS = ("photos_global", "photos_local", "drawings_global", "drawings_local")


class UGATIT(Method):
    """Two generators, and per side a global and a local discriminator.

    In one step every generator sees every picture once: the pass that makes the fakes also makes the identity
    pictures, the discriminators learn from those fakes, and the generators' losses reuse the same graph.
    """

    name = "ugatit"
    paper = "Kim et al., U-GAT-IT, ICLR 2020, arXiv:1907.10830"
    optional = ("drawing_to_photo",)

    class Config(Strict):
        """Settings of U-GAT-IT. The defaults are the published light model."""

        generator: Literal["resnet", "hourglass"] = "resnet"  # hourglass: photo2cartoon's, with Soft-AdaLIN
        channels: int = Field(64, ge=4, le=1024)  # width of the generators' first layer
        blocks: int = Field(4, ge=1, le=64)  # residual blocks before and after the attention
        pool: int | None = Field(
            1, ge=1, le=64
        )  # grid that gamma and beta are made from; 1: light, null: full
        norm: Literal["adalin", "adain", "adaln", "instance", "layer"] = "adalin"  # decoder (resnet only)
        cam_generator: bool = True  # attention in the generators (resnet only)
        cam_discriminator: bool = True  # attention in the discriminators
        discriminator_channels: int | None = Field(None, ge=4, le=1024)  # null: as the generators
        adversarial_weight: float = Field(1.0, ge=0)
        cycle_weight: float = Field(10.0, ge=0)
        identity_weight: float = Field(10.0, ge=0)
        cam_weight: float = Field(1000.0, ge=0)
        learning_rate: float = Field(1e-4, gt=0)  # of both Adam optimisers
        weight_decay: float = Field(1e-4, ge=0)  # L2 on kernels; biases and mixing factors are left alone
        published_attention: bool = False  # repeat the published code's attention by unnormalised weights

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        self._networks: dict[str, nn.Module] = {}
        for name in GENERATORS:
            if c.generator == "hourglass":
                self._networks[name] = HourglassGenerator(size, c.channels, c.blocks, c.pool)
            else:
                self._networks[name] = Generator(size, c.channels, c.blocks, c.pool, c.norm, c.cam_generator)
        if training:
            layers = discriminator_layers(size)
            for name in DISCRIMINATORS:
                self._networks[name] = Discriminator(
                    c.discriminator_channels or c.channels,
                    layers[0] if name.endswith("global") else layers[1],
                    c.cam_discriminator,
                    c.published_attention,
                )
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self):
        return self._networks

    def optimizers(self):
        return {"D": self._adam(DISCRIMINATORS), "G": self._adam(GENERATORS)}

    def _adam(self, names: Sequence[str]) -> torch.optim.Adam:
        parameters = [p for name in names for p in self._networks[name].parameters()]
        kernels: dict[str, Any] = {"params": [p for p in parameters if p.ndim > 1]}
        others: dict[str, Any] = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
        rate, decay = self.config.learning_rate, self.config.weight_decay
        return torch.optim.Adam([kernels, others], rate, (0.5, 0.999), weight_decay=decay, fused=True)

    def phases(self):
        c = self.config
        d = {f"{name}/adversarial": c.adversarial_weight for name in DISCRIMINATORS}
        d |= {f"{name}/cam": c.adversarial_weight for name in DISCRIMINATORS}
        g = dict(d)
        for side in ("photos", "drawings"):
            g |= {
                f"{side}/cycle": c.cycle_weight,
                f"{side}/identity": c.identity_weight,
                f"{side}/cam": c.cam_weight,
            }
        return [
            Phase("D", "D", self.discriminator_losses, d),
            Phase("G", "G", self.generator_losses, g),
        ]

    # --- losses: equations 2 to 5 of the paper ---------------------------------------------------------------

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """LSGAN on the patches and on the CAM logits, real 1 and fake 0, for all four discriminators."""
        with torch.set_grad_enabled(shared.kept):
            fakes = self._fakes(batch, shared)
        losses = {}
        for side, real in (("photos", batch.photos), ("drawings", batch.drawings)):
            pair = torch.cat([real, fakes[side].detach()])
            for reach in ("global", "local"):
                judged = self._networks[f"{side}_{reach}"](pair, update=True)
                n = len(real)
                for term, logit in (("adversarial", judged.logit), ("cam", judged.cam_logit)):
                    if logit is not None:
                        losses[f"{side}_{reach}/{term}"] = least_squares(logit[:n], 1) + least_squares(
                            logit[n:], 0
                        )
        return losses

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Adversarial, cycle, identity and CAM losses of both generators."""
        losses = {}
        fakes = self._fakes(batch, shared)
        other = {"photos": "drawings", "drawings": "photos"}
        for side, real in (("photos", batch.photos), ("drawings", batch.drawings)):
            fake, towards = fakes[side], self._towards(side)
            for reach in ("global", "local"):
                judged = self._networks[f"{side}_{reach}"](fake)
                losses[f"{side}_{reach}/adversarial"] = least_squares(judged.logit, 1)
                if judged.cam_logit is not None:
                    losses[f"{side}_{reach}/cam"] = least_squares(judged.cam_logit, 1)
            losses[f"{side}/cycle"] = F.l1_loss(towards(fakes[other[side]]).image, real)
            losses[f"{side}/identity"] = F.l1_loss(fakes[f"{side}/identity"], real)
            cam = fakes.get(f"{side}/cam")
            if cam is not None:
                n = len(fake)  # the generator's classifier tells the other side (1) from its own (0)
                losses[f"{side}/cam"] = classification(cam[:n], 1) + classification(cam[n:], 0)
        return losses

    def _fakes(self, batch: Batch, shared: Shared) -> Shared:
        """Fakes, identity pictures and CAM logits of both sides, in `shared`, one pass per generator."""
        if not shared:
            for side, source, own in (
                ("drawings", batch.photos, batch.drawings),
                ("photos", batch.drawings, batch.photos),
            ):
                if torch.is_grad_enabled():
                    drawn: Drawn = self._towards(side)(torch.cat([source, own]))
                    n = len(source)
                    shared[side], shared[f"{side}/identity"] = drawn.image[:n], drawn.image[n:]
                    shared[f"{side}/cam"] = drawn.cam_logit
                else:
                    shared[side] = self._towards(side)(source).image
        return shared

    def after_step(self, phase):
        if phase == "G":
            for name in GENERATORS:
                clip_mixing(self._networks[name])

    # --- translation -----------------------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self._networks["photo_to_drawing"](photos).image

    def preview(self, photos):
        drawn: Drawn = self._networks["photo_to_drawing"](photos)
        columns = {"photo": photos, "attention": _overlay(photos, heatmap(drawn)), "drawing": drawn.image}
        if "drawing_to_photo" in self._networks:
            columns["back again"] = self._networks["drawing_to_photo"](drawn.image).image
        return columns

    def _towards(self, side: str) -> nn.Module:
        return self._networks["photo_to_drawing" if side == "drawings" else "drawing_to_photo"]


def _overlay(photos: Tensor, heat: Tensor) -> Tensor:
    """The heat map, each scaled to its own range, in colours over the greyed photo."""
    heat = F.interpolate(heat, photos.shape[2:], mode="bilinear")
    low, high = heat.amin((1, 2, 3), keepdim=True), heat.amax((1, 2, 3), keepdim=True)
    level = (heat - low) / (high - low).clamp_min(1e-6)
    colours = torch.cat([(1.5 - (4 * level - peak).abs()).clamp(0, 1) for peak in (3, 2, 1)], 1)
    return 0.4 * photos.mean(1, keepdim=True) + 0.6 * (colours * 2 - 1)

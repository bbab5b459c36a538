"""U-GAT-IT: unpaired translation between photos and drawings with attention and AdaLIN.

Kim, Kim, Kang, Lee: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance Normalization
for Image-to-Image Translation, ICLR 2020, arXiv:1907.10830.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.config import local_file
from fewtoon.errors import Problem
from fewtoon.losses.adversarial import classification, least_squares
from fewtoon.losses.face import FaceId
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.nets.hourglass import HourglassGenerator
from fewtoon.nets.norm import clip_mixing
from fewtoon.nets.ugatit import Discriminator, Drawn, Generator, Judged, discriminator_layers, heatmap

GENERATORS = ("photo_to_drawing", "drawing_to_photo")
SIDES = ("photos", "drawings")
OTHER = {"photos": "drawings", "drawings": "photos"}
DISCRIMINATORS = ("photos_global", "photos_local", "drawings_global", "drawings_local")


class UGATIT(Method):
    """Two generators, and per side a global and a local discriminator.

    In one step every generator sees every picture once: the pass that makes the fakes also makes the identity
    pictures, the discriminators learn from those fakes, and the generators' losses reuse the same graph.
    """

    name = "ugatit"
    paper = "Kim et al., U-GAT-IT, ICLR 2020, arXiv:1907.10830"
    optional: ClassVar[tuple[str, ...]] = ("drawing_to_photo",)

    class Config(Augmented):
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
        face_id: str | None = local_file()  # of a MobileFaceNet: the drawing shall be of the same person
        face_id_weight: float = Field(1.0, ge=0)

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        self._networks: dict[str, nn.Module] = {name: self.make_generator() for name in GENERATORS}
        if training:
            layers = discriminator_layers(size)
            for name in DISCRIMINATORS:
                deep = layers[0] if name.endswith("global") else layers[1]
                self._networks[name] = self.make_discriminator(name, deep)
            self.hooks = {side: augment.asked_for(c) for side in SIDES}
            if c.augment != "none":  # in the state, which then knows how much is augmented
                self._networks |= {f"{side}_augment": hook for side, hook in self.hooks.items()}
            if c.face_id is not None:
                self._networks["face_id"] = _face_id(c.face_id)
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_generator(self) -> nn.Module:
        """A generator of either direction."""
        c = self.config
        if c.generator == "hourglass":
            return HourglassGenerator(self.size, c.channels, c.blocks, c.pool)
        return Generator(self.size, c.channels, c.blocks, c.pool, c.norm, c.cam_generator)

    def make_discriminator(self, name: str, layers: int) -> Discriminator:
        """The discriminator `name`, one of DISCRIMINATORS."""
        c = self.config
        width = c.discriminator_channels or c.channels
        return Discriminator(width, layers, c.cam_discriminator, c.published_attention)

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
        for side in SIDES:
            g |= {
                f"{side}/cycle": c.cycle_weight,
                f"{side}/identity": c.identity_weight,
                f"{side}/cam": c.cam_weight,
            }
            if c.face_id is not None:
                g[f"{side}/face"] = c.face_id_weight
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
        for side in SIDES:
            (real, own), (_, groups) = of_side(batch, side), of_side(batch, OTHER[side])
            n = len(real)
            pair = self.hooks[side](torch.cat([real, fakes[side].detach()]))
            seen = []
            for reach in ("global", "local"):
                name = f"{side}_{reach}"
                judged = self.judged(name, pair, torch.cat([own, groups]), update=True)
                for term, logit in (("adversarial", judged.logit), ("cam", judged.cam_logit)):
                    if logit is not None:
                        losses[f"{name}/{term}"] = least_squares(logit[:n], 1) + least_squares(logit[n:], 0)
                losses |= self.real_losses(name, judged, batch)
                seen.append(judged.logit[:n].detach())
            self.hooks[side].observe(*seen)
        return losses

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Adversarial, cycle, identity and CAM losses of both generators, and that of Face-ID."""
        losses = {}
        fakes = self._fakes(batch, shared)
        for side in SIDES:
            real, groups = of_side(batch, side)
            source, source_groups = of_side(batch, OTHER[side])
            fake = fakes[side]
            shown = self.hooks[side](fake)
            for reach in ("global", "local"):
                name = f"{side}_{reach}"
                judged = self.judged(name, shown, source_groups)
                losses[f"{name}/adversarial"] = least_squares(judged.logit, 1)
                if judged.cam_logit is not None:
                    losses[f"{name}/cam"] = least_squares(judged.cam_logit, 1)
                losses |= self.fake_losses(name, judged, batch)
            losses[f"{side}/cycle"] = F.l1_loss(self.drawn(side, fakes[OTHER[side]], groups).image, real)
            losses[f"{side}/identity"] = F.l1_loss(fakes[f"{side}/identity"], real)
            cam = fakes.get(f"{side}/cam")
            if cam is not None:
                n = len(fake)  # the generator's classifier tells the other side (1) from its own (0)
                losses[f"{side}/cam"] = classification(cam[:n], 1) + classification(cam[n:], 0)
            if "face_id" in self._networks:
                losses[f"{side}/face"] = self._networks["face_id"](fake, source)
        return losses

    def _fakes(self, batch: Batch, shared: Shared) -> Shared:
        """Fakes, identity pictures and CAM logits of both sides, in `shared`, one pass per generator."""
        if not shared:
            for side in SIDES:
                (own, own_groups), (source, groups) = of_side(batch, side), of_side(batch, OTHER[side])
                if torch.is_grad_enabled():
                    both = torch.cat([source, own]), torch.cat([groups, own_groups])
                    drawn = self.drawn(side, *both)
                    n = len(source)
                    shared[side], shared[f"{side}/identity"] = drawn.image[:n], drawn.image[n:]
                    shared[f"{side}/cam"] = drawn.cam_logit
                else:
                    shared[side] = self.drawn(side, source, groups).image
        return shared

    # What a method with groups does otherwise, see `fewtoon.methods.groups`.

    def drawn(self, side: str, pictures: Tensor, groups: Tensor) -> Drawn:
        """Pictures (B, 3, S, S) of `groups` (B,), drawn as those of `side`."""
        return self._networks["photo_to_drawing" if side == "drawings" else "drawing_to_photo"](pictures)

    def judged(self, name: str, pictures: Tensor, groups: Tensor, update: bool = False) -> Judged:
        """What the discriminator `name` says of pictures (B, 3, S, S) of `groups` (B,)."""
        return self._networks[name](pictures, update)

    def real_losses(self, name: str, judged: Judged, batch: Batch) -> dict[str, Tensor]:
        """Further losses of the discriminator `name` for the real pictures, the first half of `judged`."""
        return {}

    def fake_losses(self, name: str, judged: Judged, batch: Batch) -> dict[str, Tensor]:
        """Further losses of a generator, by what the discriminator `name` says of its pictures."""
        return {}

    def after_step(self, phase):
        if phase == "G":
            for name in GENERATORS:
                clip_mixing(self._networks[name])
        else:
            for hook in self.hooks.values():
                hook.tune()

    def numbers(self):
        hooks = self.hooks.items()
        return {f"{side}/augmented": float(hook.p) for side, hook in hooks if isinstance(hook, augment.Ada)}

    # --- translation -----------------------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self._networks["photo_to_drawing"](photos).image

    def goes_back(self):
        return "drawing_to_photo" in self._networks

    def back(self, drawings, group=None):
        return self._networks["drawing_to_photo"](drawings).image

    def preview(self, photos):
        drawn: Drawn = self._networks["photo_to_drawing"](photos)
        columns = preview_columns(photos, drawn)
        if "drawing_to_photo" in self._networks:
            columns["back again"] = self._networks["drawing_to_photo"](drawn.image).image
        return columns


def _face_id(path: str) -> FaceId:
    try:
        return FaceId(path)
    except Problem as problem:
        told = f"face_id = {path!r} is no MobileFaceNet that can be read: {problem}"
        raise Problem(
            f"{told}; name its weights file (.pth, .pt or .safetensors), or leave face_id out"
        ) from None


def preview_columns(photos: Tensor, drawn: Drawn) -> dict[str, Tensor]:
    """Photo, where the generator looked, and what it drew."""
    return {"photo": photos, "attention": _overlay(photos, heatmap(drawn)), "drawing": drawn.image}


def of_side(batch: Batch, side: str) -> tuple[Tensor, Tensor]:
    """Pictures and groups of a side."""
    if side == "photos":
        return batch.photos, batch.photo_groups
    return batch.drawings, batch.drawing_groups


def _overlay(photos: Tensor, heat: Tensor) -> Tensor:
    """The heat map, each scaled to its own range, in colours over the greyed photo."""
    heat = F.interpolate(heat, photos.shape[2:], mode="bilinear")
    low, high = heat.amin((1, 2, 3), keepdim=True), heat.amax((1, 2, 3), keepdim=True)
    level = (heat - low) / (high - low).clamp_min(1e-6)
    colours = torch.cat([(1.5 - (4 * level - peak).abs()).clamp(0, 1) for peak in (3, 2, 1)], 1)
    return 0.4 * photos.mean(1, keepdim=True) + 0.6 * (colours * 2 - 1)

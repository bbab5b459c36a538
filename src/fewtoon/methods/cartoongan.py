"""CartoonGAN: photos to drawings in one direction, with crisp edges, held to the photo by what is in it.

Chen, Lai, Liu: CartoonGAN: Generative Adversarial Networks for Photo Cartoonization, CVPR 2018.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.config import local_file
from fewtoon.errors import Problem
from fewtoon.losses.adversarial import classification
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.nets import vgg
from fewtoon.nets.cartoongan import Discriminator, Generator, smooth_edges

LAYER = "conv4_4"  # of VGG19, before its ReLU


class CartoonGAN(Method):
    """One generator and one discriminator.

    The discriminator refuses what the generator draws and drawings whose edges were smoothed, so that it is edges
    that it looks at. The generator's content loss compares the drawing with its photo. In the first `initial_steps`
    that loss is alone, and the generator learns to draw what it sees.
    """

    name = "cartoongan"
    paper = "Chen, Lai, Liu, CartoonGAN, CVPR 2018"
    first_steps = "initial_steps"

    class Config(Augmented):
        """Settings of CartoonGAN. The defaults are the published ones; for the rest see the preset."""

        channels: int = Field(64, ge=4, le=1024)  # width of the generator's first layer
        blocks: int = Field(8, ge=1, le=64)  # residual blocks
        discriminator_channels: int = Field(32, ge=1, le=1024)  # width of the discriminator's first layer
        vgg: str | None = local_file()  # of a VGG19: content is its conv4_4; null: `Structure` instead
        content_weight: float = Field(10.0, ge=0)
        initial_steps: int = Field(0, ge=0)  # first steps with the content loss alone; published: 10 epochs
        edge_low: int = Field(100, ge=0, le=2040)  # Canny: an edge goes on where it is stronger than this
        edge_high: int = Field(200, ge=0, le=2040)  # and somewhere it is stronger than this
        edge_width: int = Field(5, ge=3, le=15)  # pixels, odd: how wide edges are smoothed
        learning_rate: float = Field(2e-4, gt=0)  # of both Adam optimisers

        @field_validator("edge_width")
        @classmethod
        def _odd(cls, width: int) -> int:
            if width % 2 == 0:
                raise ValueError("must be odd, so that it lies around the edge: 3, 5, 7 ...")
            return width

        @field_validator("edge_high")
        @classmethod
        def _in_order(cls, high: int, info: Any) -> int:
            low = info.data.get("edge_low", 0)
            if high < low:
                raise ValueError(f"must not be below edge_low = {low}")
            return high

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        self.generator = Generator(size, c.channels, c.blocks)
        self._networks: dict[str, nn.Module] = {"generator": self.generator}
        if training:
            self.discriminator = Discriminator(c.discriminator_channels)
            self._networks["discriminator"] = self.discriminator
            self.hook = augment.asked_for(c, undecided=0)
            if c.augment != "none":  # in the state, which then knows how much is augmented
                self._networks["augment"] = self.hook
            self.content = Structure() if c.vgg is None else Features(c.vgg)
            if c.vgg is not None:
                self._networks["vgg"] = self.content
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self):
        return self._networks

    def optimizers(self):
        rate = self.config.learning_rate
        both = {"D": self.discriminator, "G": self.generator}
        return {
            name: torch.optim.Adam(network.parameters(), rate, (0.5, 0.999), fused=True)
            for name, network in both.items()
        }

    def phases(self):
        weights = {self.content.term: self.config.content_weight}
        return [
            Phase("D", "D", self.discriminator_losses),
            Phase("G", "G", self.generator_losses, weights),
        ]

    def learn_first(self, pictures, seed, say):
        """Nothing is learned; two things that a user should know are said."""
        if self.config.vgg is None:
            say(
                "no vgg is named, so the content loss compares structure, the lines and colours of drawing and photo; "
                "the published one compares features of a VGG19: --set model.vgg=FILE"
            )
        if self.config.initial_steps:
            say(
                f"the first {self.config.initial_steps} steps learn the content of the photos alone; a training that "
                "ends before never looks at a drawing (--set model.initial_steps=N)"
            )

    # --- losses: equations 2 to 4 of the paper ---------------------------------------------------------------

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Drawings are real; what the generator draws is not, nor are drawings with smoothed edges."""
        if batch.step < self.config.initial_steps:  # of no parameter, so none moves
            return {"waits": torch.zeros((), device=batch.photos.device, requires_grad=True)}
        with torch.set_grad_enabled(shared.kept):
            fakes = self._fakes(batch, shared)
        n, c = len(batch.drawings), self.config
        smoothed = smooth_edges(batch.drawings, c.edge_low, c.edge_high, c.edge_width)
        logit = self.discriminator(self.hook(torch.cat([batch.drawings, smoothed, fakes.detach()])))
        self.hook.observe(logit[:n])
        return {
            "real": classification(logit[:n], 1),
            "smoothed": classification(logit[n : 2 * n], 0),
            "fake": classification(logit[2 * n :], 0),
        }

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """The content of the photo, and, after the first steps, what the discriminator says of the drawing."""
        fakes = self._fakes(batch, shared)
        losses = {self.content.term: self.content(fakes, batch.photos)}
        if batch.step >= self.config.initial_steps:
            losses["adversarial"] = classification(self.discriminator(self.hook(fakes)), 1)
        return losses

    def _fakes(self, batch: Batch, shared: Shared) -> Tensor:
        if "fakes" not in shared:
            shared["fakes"] = self.generator(batch.photos)
        return shared["fakes"]

    def after_step(self, phase):
        if phase == "D":
            self.hook.tune()

    def numbers(self):
        return {"drawings/augmented": float(self.hook.p)} if isinstance(self.hook, augment.Ada) else {}

    def translate(self, photos, group=None):
        return self.generator(photos)


class Features(nn.Module):
    """mean |VGG19(made) - VGG19(photo)| at conv4_4, before its ReLU (equation 4), VGG19 read from the file `path`.

    The network is frozen, and of the photo no graph is kept. Raises Problem for a file of another network.
    """

    term = "content"  # name of the loss

    def __init__(self, path: str) -> None:
        super().__init__()
        try:
            self.network = vgg.load(path, depth=19).until(LAYER)
        except Problem as problem:
            raise Problem(
                f"vgg = {path!r} is no VGG19 that can be read: {problem}; name torchvision's vgg19 (.pth or "
                ".safetensors), or leave vgg out"
            ) from None

    def forward(self, made: Tensor, photo: Tensor) -> Tensor:
        """Both (B, 3, S, S) in [-1, 1]; a float32 scalar."""
        with torch.no_grad():
            wanted = self._map(photo)
        return (self._map(made) - wanted).abs().mean(dtype=torch.float32)

    def _map(self, pictures: Tensor) -> Tensor:
        """(B, 512, S/8, S/8)."""
        return self.network(vgg.imagenet(pictures), [LAYER])[0]


class Structure(nn.Module):
    """What stands in for VGG19 where no file is named: where lines run, and colours, both coarsely.

        3 mean |h(made) - h(photo)| + mean |t(made) - t(photo)|

    h are histograms of oriented gradients (Dalal, Triggs: Histograms of Oriented Gradients for Human Detection, CVPR
    2005): differences of neighbouring pixels along `DIRECTIONS` directions where they are positive, the mean over the
    colours and over cells of 4 x 4 pixels, divided by their length in the 3 x 3 cells around. t are the colours
    averaged in squares of 8 x 8 pixels. So lines may move a little, become stronger and be cleaned.
    """

    term = "structure"  # name of the loss
    DIRECTIONS, CELL, SQUARE = 8, 4, 8

    def forward(self, made: Tensor, photo: Tensor) -> Tensor:
        """Both (B, 3, S, S) in [-1, 1]; a float32 scalar."""
        with torch.autocast(made.device.type, enabled=False):
            colours, lines = self._described(made.float())
            with torch.no_grad():
                wanted_colours, wanted_lines = self._described(photo.float())
            return 3 * F.l1_loss(lines, wanted_lines) + F.l1_loss(colours, wanted_colours)

    def _described(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S/8, S/8) and (B, DIRECTIONS, S/4, S/4)."""
        padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
        across, down = padded[:, :, :-1, 1:] - x, padded[:, :, 1:, :-1] - x
        angles = [2 * math.pi * k / self.DIRECTIONS for k in range(self.DIRECTIONS)]
        along = [F.relu(math.cos(a) * across + math.sin(a) * down).mean(1) for a in angles]
        cells = F.avg_pool2d(torch.stack(along, 1), self.CELL)
        around = F.avg_pool2d(cells.square().sum(1, keepdim=True), 3, 1, 1, count_include_pad=False)
        return F.avg_pool2d(x, self.SQUARE), cells * torch.rsqrt(around + 0.0025)

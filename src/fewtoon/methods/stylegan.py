"""StyleGAN2: pictures from random numbers, and what makes a few hundred drawings enough to teach it a style.

    Karras et al.: Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, arXiv:1912.04958
    Karras et al.: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, arXiv:2006.06676: ADA
    Mo, Cho, Shin: Freeze the Discriminator, 2020, arXiv:2002.10964: FreezeD
    Lee et al.: FreezeG, 2020 (github.com/bryandlee/FreezeG): the generator's low resolutions stay
    Back: Fine-Tuning StyleGAN2 for Cartoon Face Generation, 2021, arXiv:2106.12445: FreezeSG, structure loss

It learns from one side alone: the photos, for a source to start from, or the drawings. The settings that freeze
name what they freeze, and take first weights (--init): those stay as they were.
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.config import Strict
from fewtoon.errors import Problem
from fewtoon.losses.adversarial import logistic
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.nets.stylegan2 import (
    Discriminator,
    Generator,
    Mapping,
    Synthesis,
    channel_plan,
    codes,
    resolutions,
)
from fewtoon.nets.twice import weights_aside

AVERAGE_RATE = 0.005  # of the average w, per step
BETAS, EPSILON = (0.0, 0.99), 1e-8  # of Adam


class PathLength(nn.Module):
    """The running mean of path lengths: part of the state of a training."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))


class StyleGAN(Method):
    """One generator, one discriminator. The pictures that the discriminator learned from in a step are those that
    the generator learns from."""

    name = "stylegan"
    paper = "Karras et al., StyleGAN2, CVPR 2020, arXiv:1912.04958"
    extra: ClassVar[tuple[str, ...]] = ("discriminator",)
    generates = True
    compiles = False
    inherits: ClassVar[tuple[str, ...]] = (
        "channels",
        "channel_base",
        "channel_max",
        "latent",
        "style",
        "mapping_layers",
        "clamp",
        "deviation_group",
    )

    class Config(Augmented):
        """Settings of StyleGAN2 and of its fine-tuning, see docs/stylegan.md."""

        side: Literal["drawings", "photos"] = "drawings"  # what it learns to make
        channels: list[int] | None = None  # at 4, 8 ... px; null: min(channel_base / px, channel_max)
        channel_base: int = Field(16384, ge=16)  # 32768: the published networks of 512 px and more
        channel_max: int = Field(512, ge=1, le=2048)
        latent: int = Field(512, ge=1, le=4096)  # length of z
        style: int = Field(512, ge=1, le=4096)  # length of w
        mapping_layers: int = Field(8, ge=1, le=64)
        clamp: float | None = Field(None, gt=0)  # largest value of a feature map; 256 in NVIDIA's networks
        conditional: bool = False  # whether the groups are classes that the generator is told
        deviation_group: int = Field(4, ge=1)  # pictures whose spread the discriminator sees
        mixing: float = Field(0.9, ge=0, le=1)  # how often a picture has two styles, from some layer on
        r1_weight: float = Field(10.0, ge=0)  # gradient penalty of the discriminator on real pictures
        r1_every: int = Field(16, ge=1)  # steps between two
        path_weight: float = Field(2.0, ge=0)  # path length regularisation of the generator
        path_every: int = Field(4, ge=1)
        path_decay: float = Field(0.01, gt=0, le=1)  # of the mean path length
        path_shrink: int = Field(2, ge=1)  # by which the batch is smaller there
        learning_rate: float = Field(0.002, gt=0)  # of both Adams, before the correction for laziness
        ada_every: int = Field(64, ge=1)  # pictures between two changes of p
        # What fine-tuning keeps of the first weights.
        freeze_discriminator_blocks: int = Field(0, ge=0)  # FreezeD: so many, from the picture's side
        freeze_generator_blocks: int = Field(0, ge=0)  # FreezeG: so many, from 4 px on
        freeze_styles: int = Field(0, ge=0)  # FreezeSG: so many style codes are the source's
        freeze_mapping: bool = False  # FreezeFC
        structure_weight: float = Field(0.0, ge=0)  # small pictures stay near the source's
        structure_sizes: list[int] = Field(default_factory=lambda: [4, 8, 16])  # px that this looks at
        structure_of: Literal["colours", "features"] = "colours"  # features: as the published code

        @field_validator("channels")
        @classmethod
        def _positive(cls, value: list[int] | None) -> list[int] | None:
            if value is not None and (not value or min(value) < 1):
                raise ValueError("channels must be at least 1 each")
            return value

    config: Config

    @classmethod
    def sides(cls, config: Strict) -> tuple[str, ...]:
        assert isinstance(config, StyleGAN.Config)
        return (config.side,)

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        self.sizes = resolutions(size)
        self.channels = c.channels or channel_plan(size, c.channel_base, c.channel_max)
        self._check()
        self.grouped = c.conditional
        classes = len(self.groups) if c.conditional else 0
        shape = (c.latent, c.style, c.mapping_layers, c.clamp, classes)
        self.generator = Generator(size, self.channels, *shape)
        self._networks: dict[str, nn.Module] = {"generator": self.generator}
        if c.freeze_styles:
            self._networks["source_mapping"] = copy.deepcopy(self.generator.mapping)
        if training:
            self.discriminator = Discriminator(size, self.channels, c.clamp, c.deviation_group, classes)
            self.hook = augment.asked_for(c, undecided=0.0)  # of a logistic loss
            self.path_length = PathLength()
            self._networks |= {"discriminator": self.discriminator, "path_length": self.path_length}
            if c.augment != "none":
                self._networks["augment"] = self.hook
            if c.structure_weight:
                self._networks["source_synthesis"] = copy.deepcopy(self.generator.synthesis)
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _check(self) -> None:
        """Raises Problem for settings that contradict each other or the size."""
        c, blocks = self.config, len(self.sizes)
        if c.conditional and len(self.groups) < 2:
            raise Problem(
                f"conditional = true with {len(self.groups)} groups: prepare the pack with --groups"
            )
        for name, most in (
            ("freeze_discriminator_blocks", blocks - 1),
            ("freeze_generator_blocks", blocks - 1),
            ("freeze_styles", codes(self.size)),
        ):
            if getattr(c, name) > most:
                raise Problem(f"{name} = {getattr(c, name)}: at {self.size} px there are {most} to freeze")
        if not c.structure_weight:
            return
        for size in c.structure_sizes:
            if size not in self.sizes:
                raise Problem(f"structure_sizes has {size}: choose of {', '.join(map(str, self.sizes))}")
        moving = self.sizes[c.freeze_generator_blocks :]
        if not c.structure_sizes or max(c.structure_sizes) < moving[0]:
            raise Problem(
                f"structure_weight = {c.structure_weight:g} at {c.structure_sizes} px, where freeze_generator_blocks = "
                f"{c.freeze_generator_blocks} lets nothing move: name sizes from {moving[0]} px on, or freeze fewer"
            )

    def networks(self):
        return self._networks

    # --- what moves ------------------------------------------------------------------------------------------

    def _kept(self) -> dict[str, list[nn.Parameter]]:
        """Setting -> the parameters that it freezes."""
        c, synthesis = self.config, self.generator.synthesis
        kept: dict[str, list[nn.Parameter]] = {}
        if c.freeze_mapping:
            kept["freeze_mapping"] = list(self.generator.mapping.parameters())
        if c.freeze_generator_blocks:
            low = [synthesis.block(size) for size in self.sizes[: c.freeze_generator_blocks]]
            kept["freeze_generator_blocks"] = [
                synthesis.constant,
                *(p for block in low for p in block.parameters()),
            ]
        if c.freeze_discriminator_blocks and self.training:
            first = list(self.discriminator.blocks.values())[: c.freeze_discriminator_blocks]
            kept["freeze_discriminator_blocks"] = [
                *self.discriminator.rgb.parameters(),
                *(p for block in first for p in block.parameters()),
            ]
        return kept

    def frozen(self):
        counts = {name: sum(p.numel() for p in some) for name, some in self._kept().items()}
        c = self.config
        if c.freeze_styles:
            counts["freeze_styles"] = sum(p.numel() for p in self._networks["source_mapping"].parameters())
        if c.structure_weight and self.training:
            source = self._networks["source_synthesis"]
            counts["structure_weight"] = sum(p.numel() for p in source.parameters())
        return counts

    def optimizers(self):
        c = self.config
        path_every = c.path_every if c.path_weight else 0
        r1_every = c.r1_every if c.r1_weight else 0
        return {
            "D": self._adam(self.discriminator, r1_every),
            "G": self._adam(self.generator, path_every),
        }

    def _adam(self, network: nn.Module, every: int) -> torch.optim.Adam:
        """Adam for a network that takes `every` + 1 steps where it would have taken `every`: with its rate and its
        memory per step shortened accordingly (Karras et al., arXiv:1912.04958, appendix B, lazy regularisation)."""
        kept = {id(p) for some in self._kept().values() for p in some}
        moving = [p for p in network.parameters() if id(p) not in kept]
        share = every / (every + 1) if every else 1.0
        betas = (BETAS[0] ** share, BETAS[1] ** share)
        return torch.optim.Adam(moving, self.config.learning_rate * share, betas, EPSILON, fused=True)

    def learn_first(self, pictures, seed, say):
        """The source is a frozen copy of the first weights."""
        for name, part in (
            ("source_mapping", self.generator.mapping),
            ("source_synthesis", self.generator.synthesis),
        ):
            if name in self._networks:
                self._networks[name].load_state_dict(part.state_dict())

    def phases(self):
        c = self.config
        found = [Phase("D", "D", self.discriminator_losses)]
        if c.r1_weight:
            weights = {"penalty": c.r1_weight / 2 * c.r1_every}
            found.append(Phase("R1", "D", self.gradient_penalty, weights, c.r1_every))
        found.append(Phase("G", "G", self.generator_losses, {"structure": c.structure_weight}))
        if c.path_weight:
            weights = {"penalty": c.path_weight * c.path_every}
            found.append(Phase("path", "G", self.path_penalty, weights, c.path_every))
        return found

    # --- losses ----------------------------------------------------------------------------------------------

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Non-saturating logistic loss (Goodfellow et al., arXiv:1406.2661), real and fake in one pass."""
        with torch.set_grad_enabled(shared.kept):
            fakes = self._fakes(batch, shared)
        real, groups = self._real(batch)
        seen = self.hook(torch.cat([real, fakes["image"].detach()]))
        logit = self.discriminator(seen, self._classes(torch.cat([groups, groups])), halves=2)
        n = len(real)
        self.hook.observe(logit[:n].detach())
        return {"real": logistic(logit[:n], True), "fake": logistic(logit[n:], False)}

    def gradient_penalty(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """R1: E |grad D(x)|^2 over real x, which are augmented within (Mescheder et al., arXiv:1801.04406, eq. 9)."""
        real, groups = self._real(batch)
        real = real.detach().requires_grad_()
        logit = self.discriminator(self.hook(real), self._classes(groups))
        with weights_aside():
            (gradient,) = torch.autograd.grad(logit.sum(), real, create_graph=True)
        return {"penalty": gradient.float().square().sum((1, 2, 3)).mean()}

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Non-saturating logistic loss, and how far the small pictures are from the source's.

        Structure loss: the mean over r of MSE(G_r(w), S_r(w)), the colours, or features, of the generator and of the
        source S at r x r pixels for the same w and noise (Back, arXiv:2106.12445, section 3.2).
        """
        fakes = self._fakes(batch, shared)
        groups = self._real(batch)[1]
        logit = self.discriminator(self.hook(fakes["image"]), self._classes(groups))
        losses = {"adversarial": logistic(logit, True)}
        if self.config.structure_weight:
            losses["structure"] = self._structure(fakes)
        return losses

    def _structure(self, fakes: Shared) -> Tensor:
        sizes = self.config.structure_sizes
        source = cast(Synthesis, self._networks["source_synthesis"])
        with torch.no_grad():
            theirs = source.paint(fakes["ws"].detach(), fakes["noise"], keep=sizes, until=max(sizes))
        of = self.config.structure_of
        pairs = [(getattr(fakes["painted"], of)[size], getattr(theirs, of)[size]) for size in sizes]
        return torch.stack([F.mse_loss(mine.float(), his.float()) for mine, his in pairs]).mean()

    def path_penalty(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """E (|J_w^T y| - a)^2, y normal noise over the picture, a the running mean of the lengths (Karras et al.,
        arXiv:1912.04958, eq. 4)."""
        groups = self._real(batch)[1]
        count = max(1, batch.size // self.config.path_shrink)
        ws = self._codes(groups[:count])[0]
        if not ws.requires_grad:  # where the mapping is frozen
            ws.requires_grad_()
        image = self.generator.synthesis(ws)
        noise = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
        with weights_aside():
            (gradient,) = torch.autograd.grad((image * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        mean = torch.lerp(self.path_length.mean, lengths.mean(), self.config.path_decay)
        if torch.isfinite(mean):
            self.path_length.mean.copy_(mean.detach())
        return {"penalty": (lengths - mean).square().mean()}

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.config.side == "photos":
            return batch.photos, batch.photo_groups
        return batch.drawings, batch.drawing_groups

    def _classes(self, groups: Tensor) -> Tensor | None:
        return groups.clamp_min(0) if self.config.conditional else None

    def _fakes(self, batch: Batch, shared: Shared) -> Shared:
        """Pictures, and what they were made of, in `shared`."""
        if not shared:
            groups = self._real(batch)[1]
            ws, w = self._codes(groups)
            keep = self.config.structure_sizes if self.config.structure_weight else ()
            noise = self.generator.synthesis.draw_noise(len(ws), "random")
            painted = self.generator.synthesis.paint(ws, noise, keep)
            shared |= {"ws": ws, "noise": noise, "painted": painted, "image": painted.image}
            with torch.no_grad():
                self.generator.mapping.average.lerp_(w.detach().mean(0), AVERAGE_RATE)
        return shared

    def _codes(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Style codes (B, codes, W) of random z, mixed with a second one from some layer on, and w (B, W)."""
        count, classes, device = len(groups), self._classes(groups), groups.device
        z = torch.randn(2, count, self.config.latent).to(device)
        ws, w = self._told(z[0], classes)
        if self.config.mixing:
            first = torch.randint(1, self.generator.codes, (count,)).to(device)
            first = torch.where(
                torch.rand(count).to(device) < self.config.mixing, first, self.generator.codes
            )
            other, _ = self._told(z[1], classes)
            after = torch.arange(self.generator.codes, device=device) >= first[:, None]
            ws = torch.where(after[:, :, None], other, ws)
        return ws, w

    def _told(self, z: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Style codes (B, codes, W), the first ones the source's where they are frozen, and w (B, W)."""
        w = self.generator.mapping(z, classes)
        ws = w[:, None].expand(-1, self.generator.codes, -1)
        frozen = self.config.freeze_styles
        if frozen:
            with torch.no_grad():
                source = self._source_mapping()(z, classes)
            ws = torch.cat([source[:, None].expand(-1, frozen, -1), ws[:, frozen:]], 1)
        return ws, w

    def _source_mapping(self) -> Mapping:
        return cast(Mapping, self._networks["source_mapping"])

    def after_step(self, phase):
        if phase == "D":
            self.hook.tune()

    def numbers(self):
        found = {"path_length": float(self.path_length.mean)}
        if isinstance(self.hook, augment.Ada):
            found["augmented"] = float(self.hook.p)
        return found

    # --- pictures --------------------------------------------------------------------------------------------

    def latents(self, count: int, seed: int) -> Tensor:
        return torch.randn(count, self.config.latent, generator=torch.Generator().manual_seed(seed))

    def mapping(self, z: Tensor, group: str | None = None) -> Tensor:
        """z (B, Z) to w (B, W), or to (B, codes, W) where the first codes are the source's.

        group: of a conditional generator; None: one of them, by the first number of z, each as often.
        """
        classes = None
        if self.config.conditional and group is not None:
            classes = torch.full((len(z),), self.groups.index(group), device=z.device)
        elif self.config.conditional:
            share = torch.special.ndtr(z[:, 0].float())
            classes = (share * len(self.groups)).long().clamp_max(len(self.groups) - 1)
        ws, w = self._told(z, classes)
        return ws if self.config.freeze_styles else w

    def synthesis(self, w: Tensor, noise: Literal["random", "fixed"] = "fixed") -> Tensor:
        """w to pictures, not clipped."""
        return self.generator.synthesis(w, noise)

    def truncated(self, w: Tensor, truncation: float) -> Tensor:
        """w, moved towards the average, the source's codes towards the source's."""
        if truncation == 1:
            return w
        average = self.generator.mapping.average.to(w)
        frozen = self.config.freeze_styles
        if frozen:
            source = self._source_mapping().average.to(w)
            average = torch.cat(
                [source.expand(frozen, -1), average.expand(self.generator.codes - frozen, -1)]
            )
        return torch.lerp(average, w, truncation)

    def translate(self, photos, group=None):
        return self.synthesis(self.mapping(photos, group)).clamp(-1, 1)

    def preview(self, photos):
        ws = self.mapping(photos)
        columns = {"drawing": self.synthesis(ws).clamp(-1, 1)}
        columns["truncated 0.7"] = self.synthesis(self.truncated(ws, 0.7)).clamp(-1, 1)
        return columns

"""AGGAN: CycleGAN that looks for what to change, and leaves the rest of the picture as it is.

Mejjati, Richardt, Tompkin, Cosker, Kim: Unsupervised Attention-guided Image-to-Image Translation, NeurIPS 2018,
arXiv:1806.02311. (Not to be taken for AttentionGAN, Tang et al., arXiv:1911.11897, which is called AGGAN as well.)
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.losses.adversarial import least_squares
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.methods.cyclegan import DISCRIMINATORS, GENERATORS, POOLS
from fewtoon.methods.ugatit import OTHER, SIDES, of_side
from fewtoon.nets.conv import cast, conv_to_one, conv_to_rgb, conv_upsampled
from fewtoon.nets.norm import norm_act, pad_edge
from fewtoon.nets.pool import Pool
from fewtoon.nets.resnet import check_size, held

ATTENTION = {side: f"{side}_attention" for side in SIDES}  # by the side of the pictures that it looks at


# --- networks: of the authors' code, which the paper describes in short ----------------------------------------


class Normed(nn.Module):
    """A convolution, instance normalisation with a scale and an offset of each channel, and what `norm_act` adds."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv
        self.scale = nn.Parameter(torch.ones(conv.out_channels))
        self.offset = nn.Parameter(torch.zeros(conv.out_channels))

    def forward(
        self, x: Tensor, residual: Tensor | None = None, relu: bool = True, pad: int = 0, off: bool = False
    ) -> Tensor:
        """(B, I, H, W), padded where the convolution does not pad itself, -> (B, O, h + 2 pad, w + 2 pad).

        off: the convolution alone.
        """
        x = self.conv(x)
        return x if off else self.norm(x, residual, relu, pad)

    def norm(self, x: Tensor, residual: Tensor | None = None, relu: bool = True, pad: int = 0) -> Tensor:
        """The part after the convolution."""
        return norm_act(x, self.scale[None], self.offset[None], 1.0, residual, relu, pad)


class Block(nn.Module):
    """relu(x + IN(conv(relu(IN(conv(x)))))), each convolution 3x3 with zeros around, or mirrored edges."""

    def __init__(self, channels: int, mirrored: bool = False) -> None:
        super().__init__()
        self.pad = int(mirrored)
        self.one, self.two = (
            Normed(nn.Conv2d(channels, channels, 3, 1, 1 - self.pad, bias=False)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = pad_edge(x, 1) if self.pad else x
        return F.relu(self.two(self.one(inner, pad=self.pad), residual=x, relu=False))


class Translator(nn.Module):
    """What a picture (B, 3, S, S) would look like if all of it were changed; CycleGAN's with half the channels."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        c = channels
        self.stem = Normed(nn.Conv2d(3, c, 7, 1, 3, bias=False))
        self.down1 = Normed(nn.Conv2d(c, 2 * c, 3, 2, 1, bias=False))
        self.down2 = Normed(nn.Conv2d(2 * c, 4 * c, 3, 2, 1, bias=False))
        self.blocks = nn.Sequential(*(Block(4 * c) for _ in range(blocks)))
        self.up1 = Normed(nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, output_padding=1, bias=False))
        self.up2 = Normed(nn.ConvTranspose2d(2 * c, c, 3, 2, 1, output_padding=1, bias=False))
        self.head = nn.Conv2d(c, 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down2(self.down1(self.stem(cast(x))))  # (B, 4C, S/4, S/4)
        x = self.up2(self.up1(self.blocks(x)))  # (B, C, S, S)
        assert self.head.bias is not None
        rgb = conv_to_rgb(F.pad(x, (3, 3, 3, 3)), self.head.weight).float()
        return torch.tanh(rgb + self.head.bias[:, None, None])


class Attention(nn.Module):
    """Where a picture should change: (B, 3, S, S) -> (B, 1, S, S) in [0, 1], float32.

    published: the kernels of the last three convolutions are 1x1 instead of 3x3, 3x3 and 7x7. Nothing then mixes
    positions after the enlargements, so that they can be done at the end, as one.
    """

    def __init__(self, channels: int, published: bool) -> None:
        super().__init__()
        c = channels
        self.published = published
        self.stem = Normed(nn.Conv2d(3, c, 7, 2, bias=False))
        self.down = Normed(nn.Conv2d(c, 2 * c, 3, 2, 1, bias=False))
        self.block = Block(2 * c, mirrored=True)
        self.up1 = Normed(nn.Conv2d(2 * c, 2 * c, 1 if published else 3, bias=False))
        self.up2 = Normed(nn.Conv2d(2 * c, c, 1 if published else 3, bias=False))
        self.head = nn.Conv2d(c, 1, 1 if published else 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.down(self.stem(pad_edge(cast(x), 3))))  # (B, 2C, S/4, S/4)
        assert self.head.bias is not None
        if self.published:
            mask = torch.sigmoid(conv_to_one(self.up2(self.up1(x)), self.head.weight) + self.head.bias)
            return F.interpolate(mask, scale_factor=4.0, mode="nearest")
        x = self.up1.norm(conv_upsampled(x, self.up1.conv.weight))
        x = self.up2.norm(conv_upsampled(x, self.up2.conv.weight), pad=3)  # (B, C, S + 6, S + 6)
        return torch.sigmoid(conv_to_rgb(x, self.head.weight) + self.head.bias)


class Discriminator(nn.Module):
    """A logit for each patch of 70 x 70 pixels, of pictures that may be cut out by a mask."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        plan = ((3, c, 2), (c, 2 * c, 2), (2 * c, 4 * c, 2), (4 * c, 8 * c, 1))
        self.convs = nn.ModuleList(Normed(nn.Conv2d(a, b, 4, s, 2)) for a, b, s in plan)
        self.last = nn.Conv2d(8 * c, 1, 4)

    def forward(self, x: Tensor, norm: bool) -> Tensor:
        """(B, 3, S, S) -> (B, 1, S/8 + 3, S/8 + 3), float32. norm: whether maps are normalised."""
        x = cast(x)
        for conv in self.convs:
            x = conv(x, relu=False, off=not norm)
            x = F.leaky_relu(x, 0.2, inplace=True)
        assert self.last.bias is not None
        return conv_to_one(F.pad(x, (2, 2, 2, 2)), self.last.weight) + self.last.bias


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Published first weights: kernels from N(0, 0.02) and scales from N(1, 0.02), both cut off at two deviations;
    biases and offsets 0."""
    for name, parameter in network.named_parameters():
        if name.endswith("scale"):
            nn.init.trunc_normal_(parameter, 1.0, 0.02, 0.96, 1.04)
        elif parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, 0.0, 0.02, -0.04, 0.04)
        else:
            parameter.zero_()


# --- the method ----------------------------------------------------------------------------------------------


class Changed(NamedTuple):
    """A picture of the other side."""

    image: Tensor  # (B, 3, S, S): the mask times what the generator drew, and the rest of the source
    mask: Tensor  # (B, 1, S, S) in [0, 1], of the source


class AGGAN(Method):
    """Two generators, and for each side an attention network, a discriminator and a pool of fakes and masks.

    In the first `attention_steps` the attention networks learn with the generators, and the discriminators see whole
    pictures. From then on the attention is frozen, and the discriminators see what it picks out, unnormalised.
    """

    name = "aggan"
    paper = "Mejjati et al., Unsupervised Attention-guided Image-to-Image Translation, NeurIPS 2018, arXiv:1806.02311"
    optional: ClassVar[tuple[str, ...]] = (GENERATORS["photos"], ATTENTION["drawings"])
    first_steps = "attention_steps"

    class Config(Augmented):
        """Settings of AGGAN. The defaults are the published ones for 256 px, except for the kernels of the mask."""

        channels: int = Field(
            32, ge=4, le=1024
        )  # width of the generators' and attention networks' first layer
        blocks: int = Field(9, ge=1, le=64)  # residual blocks
        discriminator_channels: int = Field(64, ge=4, le=1024)
        attention_steps: int | None = Field(30_000, ge=1)  # then it is frozen; null: never. 30 of 100 epochs
        threshold: float = Field(
            0.1, ge=0, le=1
        )  # the discriminators then see where the mask is at least this
        published_attention: bool = False  # 1x1 kernels in the masks' last layers, as in the published code
        adversarial_weight: float = Field(1.0, ge=0)
        cycle_weight: float = Field(10.0, ge=0)
        pool: int = Field(50, ge=0, le=10_000)  # fakes of the past that a discriminator may see again
        learning_rate: float = Field(1e-4, gt=0)  # of both Adam optimisers

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        check_size(size)
        self._networks: dict[str, nn.Module] = {}
        for side in reversed(SIDES):
            self._networks[GENERATORS[side]] = Translator(c.channels, c.blocks)
            self._networks[ATTENTION[OTHER[side]]] = Attention(c.channels, c.published_attention)
        if training:
            for name in DISCRIMINATORS.values():
                self._networks[name] = Discriminator(c.discriminator_channels)
        for network in self._networks.values():
            initialise(network)
        if training:
            self.hooks = {side: augment.asked_for(c) for side in SIDES}
            if c.augment != "none":
                self._networks |= {f"{side}_augment": hook for side, hook in self.hooks.items()}
            if c.pool:
                shapes = (3, size, size), (1, size, size)
                self._networks |= {name: Pool(c.pool, *shapes) for name in POOLS.values()}
        self._attended: dict[str, Tensor] = {}  # side -> mean of the masks of the last step
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self):
        return self._networks

    def optimizers(self):
        return {
            "G": self._adam([*GENERATORS.values(), *ATTENTION.values()]),
            "D": self._adam(DISCRIMINATORS.values()),
        }

    def _adam(self, names) -> torch.optim.Adam:
        moving = [p for name in names for p in self._networks[name].parameters()]
        return torch.optim.Adam(moving, self.config.learning_rate, (0.5, 0.999), fused=True)

    def phases(self):
        c = self.config
        g: dict[str, float] = {}
        d: dict[str, float] = {}
        for side in SIDES:
            g |= {f"{side}/adversarial": c.adversarial_weight, f"{side}/cycle": c.cycle_weight}
            d |= {f"{side}/real": 0.5, f"{side}/fake": 0.5}  # slows the discriminators down
        return [Phase("G", "G", self.generator_losses, g), Phase("D", "D", self.discriminator_losses, d)]

    def attending(self, step: int) -> bool:
        """Whether the attention still learns in this step. A function of the step: there is no state to save."""
        return self.config.attention_steps is None or step < self.config.attention_steps

    # --- losses: section 3 of the paper ----------------------------------------------------------------------

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares against both discriminators, and cycle.

        Frozen attention still passes gradients on to the fakes it looks at. Its weights get none at all, not zeros,
        by which Adam would go on moving them from memory.
        """
        first = self.attending(batch.step)
        still = [self._networks[name] for name in DISCRIMINATORS.values()]
        still += [] if first else [self._networks[name] for name in ATTENTION.values()]
        losses = {}
        with held(*still):
            fakes = {side: self.changed(side, of_side(batch, OTHER[side])[0]) for side in SIDES}
            for side, fake in fakes.items():
                logit = self.judged(side, self._cut_out(*fake, first), first)
                losses[f"{side}/adversarial"] = least_squares(logit, 1)
                again = self.changed(side, fakes[OTHER[side]].image)
                losses[f"{side}/cycle"] = F.l1_loss(again.image, of_side(batch, side)[0])
                shared[side] = Changed(fake.image.detach(), fake.mask.detach())
                self._attended[OTHER[side]] = shared[side].mask.mean()
        return losses

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares, real 1 and fake 0; the fakes come with their masks through the pool."""
        first, losses = self.attending(batch.step), {}
        with torch.no_grad():
            for side in SIDES:
                if side not in shared:
                    shared[side] = self.changed(side, of_side(batch, OTHER[side])[0])
        for side in SIDES:
            real, n = of_side(batch, side)[0], batch.size
            mask = shared[
                OTHER[side]
            ].mask  # of these real pictures: the other side's fakes were made of them
            fake = shared[side]
            if self.config.pool:
                fake = self._networks[POOLS[side]](*fake)
            seen = [self._cut_out(real, mask, first), self._cut_out(fake[0], fake[1], first)]
            logit = self.judged(side, torch.cat(seen), first)
            losses[f"{side}/real"] = least_squares(logit[:n], 1)
            losses[f"{side}/fake"] = least_squares(logit[n:], 0)
            self.hooks[side].observe(logit[:n].detach())
        return losses

    def changed(self, side: str, pictures: Tensor) -> Changed:
        """Pictures (B, 3, S, S) of the other side, changed to `side` where their attention says."""
        mask = self._networks[ATTENTION[OTHER[side]]](pictures)
        return Changed(torch.lerp(pictures, self._networks[GENERATORS[side]](pictures), mask), mask)

    def judged(self, side: str, pictures: Tensor, norm: bool) -> Tensor:
        """Logits of pictures (B, 3, S, S) that are shown to the discriminator of `side`."""
        return self._networks[DISCRIMINATORS[side]](self.hooks[side](pictures), norm)

    def _cut_out(self, pictures: Tensor, mask: Tensor, whole: bool) -> Tensor:
        """What the discriminators see of pictures; no gradient goes through a threshold."""
        return pictures if whole else torch.where(mask.detach() >= self.config.threshold, pictures, 0.0)

    def after_step(self, phase):
        if phase == "D":
            for hook in self.hooks.values():
                hook.tune()

    def numbers(self):
        found = {f"{side}/attended": float(mean) for side, mean in self._attended.items()}
        hooks = self.hooks.items()
        return found | {f"{side}/augmented": float(h.p) for side, h in hooks if isinstance(h, augment.Ada)}

    def adopt(self, name, tensors):
        """First weights come without the pictures that another training has drawn."""
        network = self._networks[name]
        return network.state_dict() if isinstance(network, Pool) else tensors

    # --- translation -----------------------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self.changed("drawings", photos).image

    def goes_back(self):
        return GENERATORS["photos"] in self._networks and ATTENTION["drawings"] in self._networks

    def back(self, drawings, group=None):
        return self.changed("photos", drawings).image

    def preview(self, photos):
        drawn = self.changed("drawings", photos)
        attention = (2 * drawn.mask - 1).expand_as(photos)
        columns = {"photo": photos, "attention": attention, "drawing": drawn.image}
        return columns | ({"back again": self.back(drawn.image)} if self.goes_back() else {})

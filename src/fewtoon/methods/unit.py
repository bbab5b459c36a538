"""UNIT: both sides share one space of codes, in which a photo and its drawing are the same point.

Liu, Breuel, Kautz: Unsupervised Image-to-Image Translation Networks, NeurIPS 2017, arXiv:1703.00848, with the
networks and weights that its authors published later, beside MUNIT.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.config import local_file
from fewtoon.errors import Problem
from fewtoon.losses.adversarial import least_squares
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.methods.ugatit import OTHER, SIDES, of_side
from fewtoon.nets.munit import ContentEncoder, Decoder, MultiScaleDiscriminator, check_size
from fewtoon.nets.norm import norm_act

PERCEPTUAL = "relu5_3"  # the layer of VGG16 whose features are compared
SMALLEST_SEEN = 32  # px: below, that layer has one position, and instance norm leaves nothing of it


class Common(Augmented):
    """What UNIT and MUNIT have in common."""

    channels: int = Field(64, ge=4, le=1024)  # width of the first layer
    blocks: int = Field(4, ge=1, le=64)  # residual blocks of an encoder, and of a decoder
    discriminator_channels: int | None = Field(None, ge=4, le=1024)  # null: as `channels`
    scales: int = Field(3, ge=1, le=8)  # of the discriminators, at most: small pictures have room for fewer
    adversarial_weight: float = Field(1.0, ge=0)
    reconstruction_weight: float = Field(10.0, ge=0)  # the picture from its own code
    vgg: str | None = local_file()  # file of a VGG16: the drawing shall have what the photo has
    vgg_weight: float = Field(1.0, ge=0)
    learning_rate: float = Field(1e-4, gt=0)  # of both Adam optimisers
    weight_decay: float = Field(1e-4, ge=0)  # L2 on kernels


class UNIT(Method):
    """An encoder, a decoder and a discriminator of each side.

    In one step every encoder and decoder sees every picture once, and once more in the cycle: one pass of a decoder
    makes the fakes and the reconstructions, the discriminators learn from those fakes, and the losses of encoders
    and decoders reuse the same graph.
    """

    name = "unit"
    paper = "Liu et al., UNIT, NeurIPS 2017, arXiv:1703.00848"
    optional: ClassVar[tuple[str, ...]] = ("drawings_encoder", "photos_decoder")

    class Config(Common):
        """Settings of UNIT. The defaults are the published ones."""

        cycle_weight: float = Field(10.0, ge=0)  # the picture by way of the other side
        kl_weight: float = Field(0.01, ge=0)  # how large codes may be beside noise of deviation 1
        cycle_kl_weight: float = Field(0.01, ge=0)  # the same of the codes of fakes

    config: Any

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        check_size(size, type(self).__name__)
        c = config
        self._networks: dict[str, nn.Module] = self.generators()
        self._generators = list(self._networks)
        self.hooks: dict[str, augment.Hook] = {}
        if training:
            width = c.discriminator_channels or c.channels
            for side in SIDES:
                self._networks[f"{side}_discriminator"] = MultiScaleDiscriminator(size, width, c.scales)
                self.hooks[side] = augment.asked_for(c)
            if c.augment != "none":  # in the state, which then knows how much is augmented
                self._networks |= {f"{side}_augment": hook for side, hook in self.hooks.items()}
            if c.vgg is not None:
                self._networks["vgg"] = _vgg(c.vgg, size)
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def generators(self) -> dict[str, nn.Module]:
        """The networks that translate, in either direction."""
        c = self.config
        encoders: dict[str, nn.Module] = {
            f"{side}_encoder": ContentEncoder(c.channels, c.blocks) for side in SIDES
        }
        return encoders | {f"{side}_decoder": Decoder(c.channels, c.blocks) for side in SIDES}

    def networks(self):
        return self._networks

    def optimizers(self):
        c = self.config
        judges = [self._networks[f"{side}_discriminator"] for side in SIDES]
        makers = [self._networks[name] for name in self._generators]
        return {
            "D": adam(judges, c.learning_rate, c.weight_decay),
            "G": adam(makers, c.learning_rate, c.weight_decay),
        }

    def phases(self):
        weights = self.weights()
        both = {f"{side}/{term}": weight for side in SIDES for term, weight in weights.items()}
        adversarial = {key: weight for key, weight in both.items() if key.endswith("/adversarial")}
        return [
            Phase("D", "D", self.discriminator_losses, adversarial),
            Phase("G", "G", self.generator_losses, both),
        ]

    def weights(self) -> dict[str, float]:
        """Weight of each loss of a side."""
        c = self.config
        return {
            "adversarial": c.adversarial_weight,
            "reconstruction": c.reconstruction_weight,
            "cycle": c.cycle_weight,
            "kl": c.kl_weight,
            "cycle_kl": c.cycle_kl_weight,
            "perceptual": c.vgg_weight,
        }

    def learn_first(self, pictures, seed, say):
        """Nothing is learned; whether there is a perceptual loss is told."""
        if self.config.vgg is None:
            say("vgg = null: no perceptual loss; for one, name a VGG16 with --set vgg=FILE")

    # --- losses ----------------------------------------------------------------------------------------------

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares, real 1 and fake 0, summed over the scales (arXiv:1611.04076, eq. 2)."""
        with torch.set_grad_enabled(shared.kept):
            fakes = self._fakes(batch, shared)
        losses = {}
        for side in SIDES:
            real = of_side(batch, side)[0]
            n = len(real)
            logits = self._judged(side, torch.cat([real, fakes[side].detach()]))
            each = [least_squares(logit[:n], 1) + least_squares(logit[n:], 0) for logit in logits]
            losses[f"{side}/adversarial"] = torch.stack(each).sum()
            self.hooks[side].observe(*(logit[:n].detach() for logit in logits))
        return losses

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Section 3 of the paper: adversarial, reconstruction and KL, cycle and its KL; and the perceptual loss.

        A code's distribution is N(h, 1), so its divergence from the prior N(0, 1) is h^2 / 2; as in the published
        code the mean of h^2 is taken.
        """
        losses = {}
        fakes = self._fakes(batch, shared)
        for side in SIDES:
            real, source = of_side(batch, side)[0], of_side(batch, OTHER[side])[0]
            fake, code = fakes[side], fakes[f"{side}/code"]
            losses[f"{side}/adversarial"] = self._fooled(side, fake)
            losses[f"{side}/reconstruction"] = F.l1_loss(fakes[f"{side}/reconstruction"], real)
            losses[f"{side}/kl"] = _square(code)
            other = OTHER[side]
            again = self._networks[f"{side}_encoder"](fake)
            back = self._networks[f"{other}_decoder"](again + noise_like(again))
            losses[f"{other}/cycle"] = F.l1_loss(back, source)
            losses[f"{other}/cycle_kl"] = _square(again)
            losses |= self._perceptual(side, fake, source)
        return losses

    def _judged(self, side: str, pictures: Tensor) -> list[Tensor]:
        """Logits of each scale, of augmented pictures."""
        return self._networks[f"{side}_discriminator"](self.hooks[side](pictures))

    def _fooled(self, side: str, fake: Tensor) -> Tensor:
        """How far a discriminator is from taking the fakes for real, summed over the scales."""
        return torch.stack([least_squares(logit, 1) for logit in self._judged(side, fake)]).sum()

    def _perceptual(self, side: str, fake: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Mean squared difference of VGG features, each channel normalised over the picture, which takes colours and
        contrast away (arXiv:1804.04732, section 5.1)."""
        if "vgg" not in self._networks:
            return {}
        with torch.no_grad():
            wanted = self._features(source)
        return {f"{side}/perceptual": F.mse_loss(self._features(fake), wanted)}

    def _features(self, pictures: Tensor) -> Tensor:
        from fewtoon.nets import vgg

        return norm_act(self._networks["vgg"](vgg.imagenet(pictures), [PERCEPTUAL])[0]).float()

    def _fakes(self, batch: Batch, shared: Shared) -> Shared:
        """Codes, fakes and reconstructions of both sides, in `shared`: one pass per encoder and decoder."""
        if not shared:
            noisy = {}
            for side in SIDES:
                code = self._networks[f"{side}_encoder"](of_side(batch, side)[0])
                shared[f"{side}/code"], noisy[side] = code, code + noise_like(code)
            for side in SIDES:
                decode, source = self._networks[f"{side}_decoder"], noisy[OTHER[side]]
                if torch.is_grad_enabled():
                    made = decode(torch.cat([source, noisy[side]]))
                    n = len(source)
                    shared[side], shared[f"{side}/reconstruction"] = made[:n], made[n:]
                else:
                    shared[side] = decode(source)
        return shared

    def after_step(self, phase):
        if phase == "D":
            for hook in self.hooks.values():
                hook.tune()

    def numbers(self):
        hooks = self.hooks.items()
        return {f"{side}/augmented": float(hook.p) for side, hook in hooks if isinstance(hook, augment.Ada)}

    # --- translation: without noise ----------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self._networks["drawings_decoder"](self._networks["photos_encoder"](photos))

    def goes_back(self):
        return self._networks.keys() >= {"drawings_encoder", "photos_decoder"}

    def back(self, drawings, group=None):
        return self._networks["photos_decoder"](self._networks["drawings_encoder"](drawings))

    def preview(self, photos):
        drawing = self.translate(photos)
        columns = {"photo": photos, "drawing": drawing}
        if self.goes_back():
            columns["back again"] = self.back(drawing)
        return columns


def adam(networks: Iterable[nn.Module], rate: float, decay: float) -> torch.optim.Adam:
    """Adam with betas 0.5 and 0.999; L2 on kernels, and none on biases and on what normalises."""
    parameters = [p for network in networks for p in network.parameters()]
    kernels: dict[str, Any] = {"params": [p for p in parameters if p.ndim > 1]}
    others: dict[str, Any] = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.Adam([kernels, others], rate, (0.5, 0.999), weight_decay=decay, fused=True)


def noise_like(x: Tensor) -> Tensor:
    """Normal noise (B, C, H, W) in the dtype of x, channels last; the same numbers in every precision."""
    b, c, h, w = x.shape
    return torch.randn(b, h, w, c, device=x.device).permute(0, 3, 1, 2).to(x.dtype)


def _square(code: Tensor) -> Tensor:
    return code.float().square().mean()


def _vgg(path: str, size: int) -> nn.Module:
    from fewtoon.nets import vgg

    if size < SMALLEST_SEEN:
        raise Problem(
            f"vgg = {path!r} at size {size}: it needs at least {SMALLEST_SEEN} px; leave vgg out, or train larger"
        )
    try:
        return vgg.load(path, depth=16).until(PERCEPTUAL)
    except Problem as problem:
        raise Problem(f"vgg = {path!r}: {problem}; name torchvision's VGG16, or leave vgg out") from None

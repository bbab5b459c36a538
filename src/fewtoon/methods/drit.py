"""DRIT: content that a discriminator cannot tell the side of, and attributes that each side has of its own.

Lee, Tseng, Huang, Singh, Yang: Diverse Image-to-Image Translation via Disentangled Representations, ECCV 2018,
arXiv:1808.00948. Mode seeking: Mao, Lee, Tseng, Ma, Yang: Mode Seeking Generative Adversarial Networks for Diverse
Image Synthesis, CVPR 2019, arXiv:1903.05628.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.errors import Problem
from fewtoon.losses.adversarial import classification, logistic
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.methods.munit import spread, styles_shown
from fewtoon.methods.ugatit import OTHER, SIDES, of_side
from fewtoon.methods.unit import adam, noise_like
from fewtoon.nets.drit import (
    SLOPE,
    AttributeEncoder,
    Attributes,
    ContentDiscriminator,
    ContentEncoder,
    Decoder,
    gaussian,
)
from fewtoon.nets.munit import AverageStyle, MultiScaleDiscriminator, check_size
from fewtoon.nets.norm import pad_edge
from fewtoon.nets.ugatit import ResBlock

SMALLEST_CHANGE = 1e-5  # of the mode seeking term, against division by 0


class DRIT(Method):
    """Of each side a content and an attribute encoder, a decoder, and two discriminators of pictures: of those with
    the attributes of another picture, and of those with random ones. One discriminator of contents for both sides.

    Only every `content_steps`-th step moves encoders and decoders; in the others the content discriminator learns.
    """

    name = "drit"
    paper = "Lee et al., DRIT, ECCV 2018, arXiv:1808.00948"
    optional: ClassVar[tuple[str, ...]] = (
        "drawings_content",
        "photos_decoder",
        "photos_attribute",
        "drawings_attribute",
        "photos_average",
    )

    class Config(Augmented):
        """Settings of DRIT. The defaults are the published ones."""

        channels: int = Field(64, ge=4, le=1024)  # width of the first layer
        blocks: int = Field(
            3, ge=1, le=64
        )  # residual blocks of a content encoder, and of a decoder, of its own
        attributes: int = Field(8, ge=1, le=1024)  # length of an attribute code
        # What `translate` draws with. mean: the average of the training drawings; zero: the middle of random codes.
        default_style: Literal["mean", "zero"] = "mean"
        discriminator_channels: int | None = Field(None, ge=4, le=1024)  # null: as `channels`
        scales: int = Field(
            3, ge=1, le=8
        )  # of the discriminators, at most: small pictures have room for fewer
        content_norm: bool = (
            True  # instance norm in the content discriminator; false: as the published code runs
        )
        content_steps: int = Field(
            3, ge=1
        )  # all but each so-many-th step is the content discriminator's alone
        content_noise: float = Field(1.0, ge=0)  # deviation of the noise on content codes, in training only
        content_clip: float = Field(5.0, gt=0)  # longest gradient of the content discriminator
        adversarial_weight: float = Field(1.0, ge=0)  # pictures with the attributes of another picture
        random_adversarial_weight: float = Field(1.0, ge=0)  # pictures with random attributes
        content_adversarial_weight: float = Field(1.0, ge=0)  # contents of which the side cannot be told
        cycle_weight: float = Field(10.0, ge=0)  # cross-cycle: contents and attributes swapped twice
        reconstruction_weight: float = Field(10.0, ge=0)  # the picture from its own codes
        latent_weight: float = Field(10.0, ge=0)  # the random attributes, read from the picture
        kl_weight: float = Field(0.01, ge=0)  # of attributes, from the normal distribution
        content_weight: float = Field(0.01, ge=0)  # mean square of contents
        mode_seeking_weight: float = Field(
            0.0, ge=0
        )  # other attributes shall make another picture; 1 in DRIT++
        learning_rate: float = Field(1e-4, gt=0)  # of all Adam optimisers but the next
        content_learning_rate: float = Field(4e-5, gt=0)  # of the content discriminator's
        weight_decay: float = Field(1e-4, ge=0)  # L2 on kernels

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        check_size(size, "DRIT")
        c = config
        self._networks: dict[str, nn.Module] = {
            "shared_content": ResBlock(4 * c.channels),
            "shared_decoder": ResBlock(4 * c.channels),
        }
        for network in self._networks.values():
            gaussian(network)
        for side in SIDES:
            self._networks[f"{side}_content"] = ContentEncoder(c.channels, c.blocks)
            self._networks[f"{side}_attribute"] = AttributeEncoder(c.channels, c.attributes)
            self._networks[f"{side}_decoder"] = Decoder(c.channels, c.blocks, c.attributes)
            self._networks[f"{side}_average"] = AverageStyle(c.attributes)
        self._generators = list(self._networks)
        self.hooks: dict[str, augment.Hook] = {}
        if training:
            width = c.discriminator_channels or c.channels
            for side in SIDES:
                for kind in ("", "_random"):
                    judge = MultiScaleDiscriminator(size, width, c.scales, SLOPE)
                    self._networks[f"{side}{kind}_discriminator"] = judge
                self.hooks[side] = augment.asked_for(c, undecided=0.0)  # of a logistic loss
            self._networks["content_discriminator"] = ContentDiscriminator(size, c.channels, c.content_norm)
            if c.augment != "none":  # in the state, which then knows how much is augmented
                self._networks |= {f"{side}_augment": hook for side, hook in self.hooks.items()}
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self):
        return self._networks

    def optimizers(self):
        c, n = self.config, self._networks
        judges = [n[f"{side}{kind}_discriminator"] for side in SIDES for kind in ("", "_random")]
        content = adam([n["content_discriminator"]], c.content_learning_rate, c.weight_decay)
        content.register_step_pre_hook(self._clip)
        return {
            "D": adam(judges, c.learning_rate, c.weight_decay),
            "content": content,
            "G": adam([n[name] for name in self._generators], c.learning_rate, c.weight_decay),
        }

    def _clip(self, *_: Any) -> None:
        own = self._networks["content_discriminator"].parameters()
        nn.utils.clip_grad_norm_(own, self.config.content_clip)

    def phases(self):
        c = self.config
        terms = {
            "adversarial": c.adversarial_weight,
            "random_adversarial": c.random_adversarial_weight,
            "content_adversarial": c.content_adversarial_weight,
            "cycle": c.cycle_weight,
            "reconstruction": c.reconstruction_weight,
            "latent": c.latent_weight,
            "kl": c.kl_weight,
            "content": c.content_weight,
            "mode_seeking": c.mode_seeking_weight,
        }
        weights = {f"{side}/{term}": weight for side in SIDES for term, weight in terms.items()}
        of_pictures = {
            key: weights[key] for key in weights if key.split("/")[1] in ("adversarial", "random_adversarial")
        }
        return [
            Phase("D", "D", self.discriminator_losses, of_pictures, c.content_steps),
            Phase("content", "content", self.content_losses),
            Phase("G", "G", self.generator_losses, weights, c.content_steps),
        ]

    # --- losses ----------------------------------------------------------------------------------------------

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Logistic loss (Goodfellow et al., arXiv:1406.2661), summed over the scales, of four discriminators."""
        with torch.set_grad_enabled(shared.kept):
            fakes = self._fakes(batch, shared)
        losses = {}
        for side in SIDES:
            real = of_side(batch, side)[0]
            n, seen = len(real), []
            for kind in ("", "_random"):
                shown = self.hooks[side](torch.cat([real, fakes[f"{side}{kind}"].detach()]))
                logits = self._networks[f"{side}{kind}_discriminator"](shown)
                each = [logistic(logit[:n], True) + logistic(logit[n:], False) for logit in logits]
                losses[f"{side}/{kind[1:] + '_' if kind else ''}adversarial"] = torch.stack(each).sum()
                seen += [logit[:n].detach() for logit in logits]
            self.hooks[side].observe(*seen)
        return losses

    def content_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Logistic loss of the content discriminator: drawings 1, photos 0 (section 3.1 of the paper)."""
        if shared:
            codes = {side: shared[f"{side}/content"].detach() for side in SIDES}
        else:
            with torch.no_grad():
                codes = {side: self._content(side, of_side(batch, side)[0], noise=True) for side in SIDES}
        logits = {side: self._networks["content_discriminator"](codes[side]) for side in SIDES}
        return {"adversarial": logistic(logits["drawings"], True) + logistic(logits["photos"], False)}

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """The losses of section 3 of the paper, and that of mode seeking (arXiv:1903.05628, section 3).

        What pictures with random attributes are judged by does not move the attribute encoders: else these and the
        decoders could agree on a code that nobody sees.
        """
        c, n = self.config, self._networks
        losses = {}
        fakes = self._fakes(batch, shared)
        again, drawn_again = {}, {}
        for side in SIDES:
            again[OTHER[side]] = self._content(side, fakes[side], noise=True)
            drawn_again[side] = n[f"{side}_attribute"](fakes[side]).draw()
        for side in SIDES:
            real, random = of_side(batch, side)[0], fakes[f"{side}_random"]
            content, attributes = fakes[f"{side}/content"], fakes[f"{side}/attributes"]
            losses[f"{side}/adversarial"] = self._fooled(side, "", fakes[side])
            losses[f"{side}/random_adversarial"] = self._fooled(side, "_random", random)
            losses[f"{side}/content_adversarial"] = classification(n["content_discriminator"](content), 0.5)
            losses[f"{side}/cycle"] = F.l1_loss(self._decoded(side, again[side], drawn_again[side]), real)
            losses[f"{side}/reconstruction"] = F.l1_loss(fakes[f"{side}/reconstruction"], real)
            read = self._read_frozen(side, random)
            losses[f"{side}/latent"] = F.l1_loss(read.mean, fakes["random"])
            losses[f"{side}/kl"] = attributes.divergence()
            losses[f"{side}/content"] = content.float().square().mean()
            if c.mode_seeking_weight:
                apart = (random - fakes[f"{side}/other"]).abs().mean((1, 2, 3))
                codes_apart = (fakes["random"] - fakes["other"]).abs().mean(1)
                losses[f"{side}/mode_seeking"] = (1 / (apart / codes_apart + SMALLEST_CHANGE)).mean()
            cast(AverageStyle, n[f"{side}_average"]).observe(attributes.mean)
        return losses

    def _fooled(self, side: str, kind: str, fake: Tensor) -> Tensor:
        """How far a discriminator is from taking the fakes for real, summed over the scales."""
        logits = self._networks[f"{side}{kind}_discriminator"](self.hooks[side](fake))
        return torch.stack([logistic(logit, True) for logit in logits]).sum()

    def _read_frozen(self, side: str, pictures: Tensor) -> Attributes:
        """Attributes of pictures, with a gradient to these and none to the encoder."""
        encoder = self._networks[f"{side}_attribute"]
        still = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
        return functional_call(encoder, still, (pictures,))

    def _fakes(self, batch: Batch, shared: Shared) -> Shared:
        """Codes of both sides and what is drawn of them, in `shared`, one pass per network.

        A decoder draws the other side's content with the attributes of a picture of its own, and with random ones;
        with a graph also its own content, and for mode seeking further random attributes.
        """
        if not shared:
            for side in SIDES:
                real = of_side(batch, side)[0]
                content = shared[f"{side}/content"] = self._content(side, real, noise=True)
                shared[f"{side}/features"] = self._features(content)
                shared[f"{side}/attributes"] = self._networks[f"{side}_attribute"](real)
                shared[f"{side}/code"] = shared[f"{side}/attributes"].draw()
            for name in ("random", "other"):  # the same for both sides
                shared[name] = torch.randn_like(shared["photos/code"])
            for side in SIDES:
                foreign, code = shared[f"{OTHER[side]}/features"], shared[f"{side}/code"]
                drawn = {side: (foreign, code), f"{side}_random": (foreign, shared["random"])}
                if torch.is_grad_enabled():
                    drawn[f"{side}/reconstruction"] = shared[f"{side}/features"], code
                    if self.config.mode_seeking_weight:
                        drawn[f"{side}/other"] = foreign, shared["other"]
                features, codes = (torch.cat(parts) for parts in zip(*drawn.values()))
                made = self._networks[f"{side}_decoder"](features, codes)
                shared.update(zip(drawn, made.split(len(code))))
        return shared

    def _content(self, side: str, pictures: Tensor, noise: bool = False) -> Tensor:
        """(B, 4C, S/4, S/4)."""
        code = self._networks["shared_content"](self._networks[f"{side}_content"](pictures), pad=0)
        return code + self.config.content_noise * noise_like(code) if noise else code

    def _features(self, content: Tensor) -> Tensor:
        """(B, 4C, S/4, S/4): what both decoders make of a content code first."""
        return self._networks["shared_decoder"](pad_edge(content, 1), pad=0)

    def _decoded(self, side: str, content: Tensor, code: Tensor) -> Tensor:
        return self._networks[f"{side}_decoder"](self._features(content), code)

    def after_step(self, phase):
        if phase == "D":
            for hook in self.hooks.values():
                hook.tune()

    def numbers(self):
        hooks = self.hooks.items()
        return {f"{side}/augmented": float(hook.p) for side, hook in hooks if isinstance(hook, augment.Ada)}

    # --- translation: without noise ----------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self._decoded(
            "drawings", self._content("photos", photos), self._default("drawings", len(photos))
        )

    def goes_back(self):
        return self._networks.keys() >= {"drawings_content", "photos_decoder", "photos_average"}

    def back(self, drawings, group=None):
        return self._decoded(
            "photos", self._content("drawings", drawings), self._default("photos", len(drawings))
        )

    def styled(self, photos: Tensor, style: Tensor) -> Tensor:
        """Photos (B, 3, S, S) in [-1, 1] as drawings of an attribute code, (attributes,) for all or (B, attributes):
        each its own.

        Codes are those of drawings (`style_of`), random ones, normal of deviation 1, or anything between. Raises
        Problem for a code of another shape.
        """
        code = spread(style, len(photos), self.config.attributes)
        return self._decoded("drawings", self._content("photos", photos), code)

    def style_of(self, drawings: Tensor) -> Tensor:
        """The attribute codes (B, attributes) float32 of drawings (B, 3, S, S) in [-1, 1], the mean of each.

        Raises Problem for a Style file that was saved without what reads them.
        """
        if "drawings_attribute" not in self._networks:
            raise Problem(
                "this style was saved without its attribute encoder, so it cannot read those of a drawing"
            )
        return self._networks["drawings_attribute"](drawings).mean

    def _default(self, side: str, count: int) -> Tensor:
        mean = cast(AverageStyle, self._networks[f"{side}_average"]).mean
        return (mean if self.config.default_style == "mean" else torch.zeros_like(mean)).expand(count, -1)

    def preview(self, photos):
        return styles_shown(
            photos,
            self._features(self._content("photos", photos)),
            self._networks["drawings_decoder"],
            self._default("drawings", 1)[0],
            cast(AverageStyle, self._networks["drawings_average"]).newest,
        )

"""MUNIT: a picture is content, which both sides share, and style, of which each side has its own.

Huang, Liu, Belongie, Kautz: Multimodal Unsupervised Image-to-Image Translation, ECCV 2018, arXiv:1804.04732.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.ugatit import OTHER, SIDES, of_side
from fewtoon.methods.unit import UNIT, Common
from fewtoon.nets.munit import AverageStyle, ContentEncoder, Decoder, StyleEncoder

SHOWN = 2  # random styles in a preview


class MUNIT(UNIT):
    """A content encoder, a style encoder, a decoder and a discriminator of each side.

    A photo has many drawings, one for each style code. `translate` draws with one of them, see `default_style`;
    `styled` draws with any, and `style_of` reads those of drawings.
    """

    name = "munit"
    paper = "Huang et al., MUNIT, ECCV 2018, arXiv:1804.04732"
    optional: ClassVar[tuple[str, ...]] = (
        "drawings_content",
        "photos_decoder",
        "photos_style",
        "drawings_style",
        "photos_average",
    )

    class Config(Common):
        """Settings of MUNIT. The defaults are the published ones."""

        style: int = Field(8, ge=1, le=1024)  # length of a style code
        # What `translate` draws with. mean: the average of the training drawings; zero: the middle of random styles.
        default_style: Literal["mean", "zero"] = "mean"
        style_weight: float = Field(1.0, ge=0)  # the random style, read from the fake
        content_weight: float = Field(1.0, ge=0)  # the content, read from the fake
        cycle_weight: float = Field(
            0.0, ge=0
        )  # the picture by way of the other side; 10 in two published settings

    def generators(self):
        c = self.config
        found: dict[str, nn.Module] = {}
        for side in SIDES:
            found[f"{side}_content"] = ContentEncoder(c.channels, c.blocks)
            found[f"{side}_style"] = StyleEncoder(c.channels, c.style)
            found[f"{side}_decoder"] = Decoder(c.channels, c.blocks, c.style)
            found[f"{side}_average"] = AverageStyle(c.style)
        return found

    def weights(self):
        c = self.config
        return {
            "adversarial": c.adversarial_weight,
            "reconstruction": c.reconstruction_weight,
            "style": c.style_weight,
            "content": c.content_weight,
            "cycle": c.cycle_weight,
            "perceptual": c.vgg_weight,
        }

    # --- losses ----------------------------------------------------------------------------------------------

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Equations 1 to 5 of the paper, of both sides; and the cycle and the perceptual loss, where asked for."""
        losses = {}
        fakes = self._fakes(batch, shared)
        for side in SIDES:
            other = OTHER[side]
            real, source, fake = of_side(batch, side)[0], of_side(batch, other)[0], fakes[side]
            content = self._networks[f"{side}_content"](fake)
            style = self._networks[f"{side}_style"](fake)
            losses[f"{side}/adversarial"] = self._fooled(side, fake)
            losses[f"{side}/reconstruction"] = F.l1_loss(fakes[f"{side}/reconstruction"], real)
            losses[f"{side}/style"] = F.l1_loss(style, fakes[f"{side}/random"])
            losses[f"{side}/content"] = F.l1_loss(content.float(), fakes[f"{other}/content"].float())
            if self.config.cycle_weight:
                back = self._networks[f"{other}_decoder"](content, fakes[f"{other}/style"])
                losses[f"{side}/cycle"] = F.l1_loss(back, source)
            losses |= self._perceptual(side, fake, source)
            cast(AverageStyle, self._networks[f"{side}_average"]).observe(fakes[f"{side}/style"])
        return losses

    def _fakes(self, batch: Batch, shared: Shared) -> Shared:
        """Content and style codes, random styles, fakes and reconstructions, in `shared`, one pass per network."""
        if not shared:
            for side in SIDES:
                real = of_side(batch, side)[0]
                shared[f"{side}/content"] = self._networks[f"{side}_content"](real)
                shared[f"{side}/random"] = torch.randn(len(real), self.config.style, device=real.device)
            for side in SIDES:
                decode, other = self._networks[f"{side}_decoder"], OTHER[side]
                content, random = shared[f"{other}/content"], shared[f"{side}/random"]
                if torch.is_grad_enabled():
                    own = shared[f"{side}/style"] = self._networks[f"{side}_style"](of_side(batch, side)[0])
                    made = decode(torch.cat([content, shared[f"{side}/content"]]), torch.cat([random, own]))
                    n = len(content)
                    shared[side], shared[f"{side}/reconstruction"] = made[:n], made[n:]
                else:
                    shared[side] = decode(content, random)
        return shared

    # --- translation -----------------------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self._drawn(photos, "drawings", self._default("drawings", len(photos)))

    def goes_back(self):
        return self._networks.keys() >= {"drawings_content", "photos_decoder", "photos_average"}

    def back(self, drawings, group=None):
        return self._drawn(drawings, "photos", self._default("photos", len(drawings)))

    def styled(self, photos: Tensor, style: Tensor) -> Tensor:
        """Photos (B, 3, S, S) in [-1, 1] as drawings of a style code, (style,) for all or (B, style): each its own.

        Codes are those of drawings (`style_of`), random ones, normal of deviation 1, or anything between. Raises
        Problem for a code of another shape.
        """
        return self._drawn(photos, "drawings", spread(style, len(photos), self.config.style))

    def style_of(self, drawings: Tensor) -> Tensor:
        """The style codes (B, style) float32 of drawings (B, 3, S, S) in [-1, 1].

        Raises Problem for a Style file that was saved without what reads them.
        """
        if "drawings_style" not in self._networks:
            raise Problem(
                "this style was saved without its style encoder, so it cannot read the style of a drawing"
            )
        return self._networks["drawings_style"](drawings)

    def _default(self, side: str, count: int) -> Tensor:
        mean = cast(AverageStyle, self._networks[f"{side}_average"]).mean
        return (mean if self.config.default_style == "mean" else torch.zeros_like(mean)).expand(count, -1)

    def _drawn(self, pictures: Tensor, side: str, style: Tensor) -> Tensor:
        return self._networks[f"{side}_decoder"](self._networks[f"{OTHER[side]}_content"](pictures), style)

    def preview(self, photos):
        return styles_shown(
            photos,
            self._networks["photos_content"](photos),
            self._networks["drawings_decoder"],
            self._default("drawings", 1)[0],
            cast(AverageStyle, self._networks["drawings_average"]).newest,
        )


def spread(style: Tensor, count: int, length: int) -> Tensor:
    """(length,), (1, length) or (count, length) -> (count, length). Raises Problem for another shape."""
    if (
        style.ndim not in (1, 2)
        or style.shape[-1] != length
        or (style.ndim == 2 and len(style) not in (1, count))
    ):
        raise Problem(
            f"a style code of shape {tuple(style.shape)} for {count} photos: give ({length},) for all of them, or "
            f"({count}, {length}), one for each"
        )
    return style.expand(count, length)


def styles_shown(
    photos: Tensor,
    content: Tensor,
    decode: nn.Module,
    default: Tensor,
    newest: Tensor,
) -> dict[str, Tensor]:
    """Columns of a preview: the photo, drawn with the default style, with the same random styles in every preview,
    and with the style of the training drawing that was seen last."""
    random = torch.randn(SHOWN, len(default), generator=torch.Generator().manual_seed(0)).to(default.device)
    named = {"drawing": default}
    named |= {f"random style {k}": style for k, style in enumerate(random, 1)}
    named["style of a drawing"] = newest
    n = len(photos)
    styles = torch.stack(list(named.values())).repeat_interleave(n, 0)
    drawn = decode(content.repeat(len(named), 1, 1, 1), styles).split(n)
    return {"photo": photos, **dict(zip(named, drawn))}

"""CycleGAN: unpaired translation in both directions, held together by going there and back.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017,
arXiv:1703.10593.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.losses.adversarial import least_squares
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.methods.ugatit import OTHER, SIDES, of_side
from fewtoon.nets.pool import Pool
from fewtoon.nets.resnet import PatchDiscriminator, Translator, held, initialise

GENERATORS = {"drawings": "photo_to_drawing", "photos": "drawing_to_photo"}  # by the side that they make
DISCRIMINATORS = {side: f"{side}_discriminator" for side in SIDES}
POOLS = {side: f"{side}_pool" for side in SIDES}


class CycleGAN(Method):
    """Two generators, a discriminator for each side, and a pool of the fakes that each has seen.

    As published the generators step first, and the discriminators then learn from the fakes of before that step.
    """

    name = "cyclegan"
    paper = "Zhu et al., CycleGAN, ICCV 2017, arXiv:1703.10593"
    optional: ClassVar[tuple[str, ...]] = ("drawing_to_photo",)

    class Config(Augmented):
        """Settings of CycleGAN. The defaults are the published ones for 256 px."""

        channels: int = Field(64, ge=4, le=1024)  # width of the generators' first layer
        blocks: int = Field(9, ge=1, le=64)  # residual blocks; published: 6 at 128 px
        discriminator_channels: int | None = Field(None, ge=4, le=1024)  # null: as the generators
        adversarial_weight: float = Field(1.0, ge=0)
        cycle_weight: float = Field(10.0, ge=0)
        identity_weight: float = Field(5.0, ge=0)  # half of cycle_weight; 0: no such pass
        pool: int = Field(50, ge=0, le=10_000)  # fakes of the past that a discriminator may see again
        learning_rate: float = Field(2e-4, gt=0)  # of both Adam optimisers

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        self._networks: dict[str, nn.Module] = {
            name: Translator(size, c.channels, c.blocks) for name in GENERATORS.values()
        }
        if training:
            for name in DISCRIMINATORS.values():
                self._networks[name] = PatchDiscriminator(c.discriminator_channels or c.channels)
        for network in self._networks.values():
            initialise(network)
        if training:
            self.hooks = {side: augment.asked_for(c) for side in SIDES}
            if c.augment != "none":
                self._networks |= {f"{side}_augment": hook for side, hook in self.hooks.items()}
            if c.pool:
                self._networks |= {name: Pool(c.pool, (3, size, size)) for name in POOLS.values()}
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self):
        return self._networks

    def optimizers(self):
        return {"G": self._adam(GENERATORS), "D": self._adam(DISCRIMINATORS)}

    def _adam(self, names: dict[str, str]) -> torch.optim.Adam:
        moving = [p for name in names.values() for p in self._networks[name].parameters()]
        return torch.optim.Adam(moving, self.config.learning_rate, (0.5, 0.999), fused=True)

    def phases(self):
        c = self.config
        g: dict[str, float] = {}
        d: dict[str, float] = {}
        for side in SIDES:
            g |= {
                f"{side}/adversarial": c.adversarial_weight,
                f"{side}/cycle": c.cycle_weight,
                f"{side}/identity": c.identity_weight,
            }
            d |= {f"{side}/real": 0.5, f"{side}/fake": 0.5}  # slows the discriminators down
        return [Phase("G", "G", self.generator_losses, g), Phase("D", "D", self.discriminator_losses, d)]

    # --- losses: equations 1 to 3 of the paper, and that of its section 5.2 for the identity ------------------

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares against both discriminators, cycle and identity."""
        losses, fakes, same = {}, {}, {}
        for side in SIDES:
            source, own = of_side(batch, OTHER[side])[0], of_side(batch, side)[0]
            if self.config.identity_weight:
                drawn = self.drawn(side, torch.cat([source, own]))
                fakes[side], same[side] = drawn[: len(source)], drawn[len(source) :]
            else:
                fakes[side] = self.drawn(side, source)
        for side in SIDES:
            own, judge = of_side(batch, side)[0], self._networks[DISCRIMINATORS[side]]
            with held(judge):
                losses[f"{side}/adversarial"] = least_squares(judge(self.hooks[side](fakes[side])), 1)
            losses[f"{side}/cycle"] = F.l1_loss(self.drawn(side, fakes[OTHER[side]]), own)
            if same:
                losses[f"{side}/identity"] = F.l1_loss(same[side], own)
            shared[side] = fakes[side].detach()
        return losses

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares, real 1 and fake 0; the fakes come through the pool."""
        losses = {}
        for side in SIDES:
            real = of_side(batch, side)[0]
            if side not in shared:
                with torch.no_grad():
                    shared[side] = self.drawn(side, of_side(batch, OTHER[side])[0])
            fake = shared[side]
            if self.config.pool:
                (fake,) = self._networks[POOLS[side]](fake)
            logit = self._networks[DISCRIMINATORS[side]](self.hooks[side](torch.cat([real, fake])))
            n = len(real)
            losses[f"{side}/real"] = least_squares(logit[:n], 1)
            losses[f"{side}/fake"] = least_squares(logit[n:], 0)
            self.hooks[side].observe(logit[:n].detach())
        return losses

    def drawn(self, side: str, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, S, S), drawn as those of `side`."""
        return self._networks[GENERATORS[side]](pictures)

    def after_step(self, phase):
        if phase == "D":
            for hook in self.hooks.values():
                hook.tune()

    def numbers(self):
        hooks = self.hooks.items()
        return {f"{side}/augmented": float(hook.p) for side, hook in hooks if isinstance(hook, augment.Ada)}

    def adopt(self, name, tensors):
        """First weights come without the pictures that another training has drawn."""
        network = self._networks[name]
        return network.state_dict() if isinstance(network, Pool) else tensors

    # --- translation -----------------------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self.drawn("drawings", photos)

    def goes_back(self):
        return GENERATORS["photos"] in self._networks

    def back(self, drawings, group=None):
        return self.drawn("photos", drawings)

    def preview(self, photos):
        drawn = self.translate(photos)
        columns = {"photo": photos, "drawing": drawn}
        return columns | ({"back again": self.back(drawn)} if self.goes_back() else {})

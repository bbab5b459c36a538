"""CUT: one direction only; each patch of a drawing should tell which patch of its photo it was made of.

Park, Efros, Zhang, Zhu: Contrastive Learning for Unpaired Image-to-Image Translation, ECCV 2020, arXiv:2007.15651.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewtoon import augment
from fewtoon.augment.settings import Augmented
from fewtoon.losses.adversarial import least_squares
from fewtoon.methods.base import Batch, Method, Phase, Shared
from fewtoon.nets.resnet import PatchDiscriminator, Translator, initialise


class Projections(nn.Module):
    """Features at some positions of each map, through a small network for each map, as vectors of length 1."""

    def __init__(self, widths: Sequence[int], length: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, length), nn.ReLU(), nn.Linear(length, length)) for width in widths
        )

    def forward(self, maps: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W), and of each the places (P,) int64 in rows -> (B, P, length) float32 of each map."""
        found = []
        for head, each, at in zip(self.heads, maps, places, strict=True):
            rows = each.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, at)
            found.append(F.normalize(head(rows).float(), dim=2))
        return found


def patch_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """mean over p of -log softmax_q(queries_p . keys_q / temperature) at q = p: PatchNCE, section 3
    of Park et al., arXiv:2007.15651.

    queries, keys: (B, P, D) of length 1; the other places of the same picture are the negatives, and no gradient goes
    to the keys. Returns a float32 scalar.
    """
    with torch.autocast(queries.device.type, enabled=False):
        alike = queries.float() @ keys.detach().float().transpose(1, 2) / temperature  # (B, P, P)
    return -alike.log_softmax(2).diagonal(dim1=1, dim2=2).mean()


class CUT(Method):
    """One generator, one discriminator, and projections of what the generator's own encoder sees.

    The pass that draws the photos also draws the drawings (identity), and encodes both for the comparison.
    """

    name = "cut"
    paper = "Park et al., CUT, ECCV 2020, arXiv:2007.15651"

    class Config(Augmented):
        """Settings of CUT. The defaults are the published ones for 256 px."""

        channels: int = Field(64, ge=4, le=1024)  # width of the generator's first layer
        blocks: int = Field(9, ge=1, le=64)  # residual blocks
        discriminator_channels: int | None = Field(None, ge=4, le=1024)  # null: as the generator
        blur: bool = True  # sample up and down through a filter; false: by strides, as CycleGAN
        adversarial_weight: float = Field(1.0, ge=0)
        nce_weight: float = Field(1.0, ge=0)  # FastCUT: 10
        nce_identity: bool = True  # drawings through the generator stay the same, patch by patch
        patches: int = Field(256, ge=2, le=65_536)  # places of each map that are compared
        projection: int = Field(256, ge=1, le=4096)  # length of the vectors that are compared
        temperature: float = Field(0.07, gt=0)
        learning_rate: float = Field(2e-4, gt=0)  # of both Adam optimisers

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        super().__init__(config, size, groups, training)
        c = config
        self.generator = Translator(size, c.channels, c.blocks, c.blur)
        initialise(self.generator, xavier=True)
        self._networks: dict[str, nn.Module] = {"generator": self.generator}
        if training:
            self.discriminator = PatchDiscriminator(c.discriminator_channels or c.channels, c.blur)
            initialise(self.discriminator, xavier=True)
            deep = 4 * c.channels
            widths = (3, deep // 2, deep, *(deep for _ in self.generator.tapped))
            self.projections = Projections(widths, c.projection)
            initialise(self.projections)
            self._networks |= {"discriminator": self.discriminator, "projections": self.projections}
            self.hook = augment.asked_for(c)
            if c.augment != "none":
                self._networks["augment"] = self.hook
        for network in self._networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self):
        return self._networks

    def optimizers(self):
        rate = self.config.learning_rate
        both = [*self.generator.parameters(), *self.projections.parameters()]
        return {
            "D": torch.optim.Adam(self.discriminator.parameters(), rate, (0.5, 0.999), fused=True),
            "G": torch.optim.Adam(both, rate, (0.5, 0.999), fused=True),
        }

    def phases(self):
        c = self.config
        share = c.nce_weight / 2 if c.nce_identity else c.nce_weight  # the mean of both
        g = {"adversarial": c.adversarial_weight, "nce": share, "identity": share}
        return [
            Phase("D", "D", self.discriminator_losses, {"real": 0.5, "fake": 0.5}),
            Phase("G", "G", self.generator_losses, g),
        ]

    # --- losses: section 3 of the paper ----------------------------------------------------------------------

    def discriminator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares, real 1 and fake 0."""
        if shared.kept:
            fakes = self._drawn(batch, shared)["fakes"]
        else:
            with torch.no_grad():
                fakes = self.generator(batch.photos)
        n = len(batch.drawings)
        logit = self.discriminator(self.hook(torch.cat([batch.drawings, fakes.detach()])))
        self.hook.observe(logit[:n].detach())
        return {"real": least_squares(logit[:n], 1), "fake": least_squares(logit[n:], 0)}

    def generator_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Least squares against the discriminator, and PatchNCE between each source and what was drawn of it."""
        drawn = self._drawn(batch, shared)
        n = len(batch.photos)
        losses = {"adversarial": least_squares(self.discriminator(self.hook(drawn["fakes"])), 1)}
        maps = self.generator.features(drawn["all"])
        places = self._places(maps)
        queries = self.projections(maps, places)
        with torch.no_grad():
            keys = self.projections(drawn["features"], places)
        pairs = list(zip(queries, keys))
        losses["nce"] = self._nce([(q[:n], k[:n]) for q, k in pairs])
        if self.config.nce_identity:
            losses["identity"] = self._nce([(q[n:], k[n:]) for q, k in pairs])
        return losses

    def _nce(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([patch_nce(*pair, self.config.temperature) for pair in pairs]).mean()

    def _drawn(self, batch: Batch, shared: Shared) -> Shared:
        """What was drawn of the photos and, with `nce_identity`, of the drawings, and the features of these sources."""
        if not shared:
            identity = self.config.nce_identity
            sources = torch.cat([batch.photos, batch.drawings]) if identity else batch.photos
            shared["all"], features = self.generator.with_features(sources)
            shared["fakes"] = shared["all"][: len(batch.photos)]
            shared["features"] = [each.detach() for each in features]
        return shared

    def _places(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of each map up to `patches` random places, the same for all pictures of a batch, and for its parts where a
        batch is split: the seed is that of the phase."""
        random = torch.Generator().manual_seed(torch.initial_seed())
        counts = [each.shape[2] * each.shape[3] for each in maps]
        drawn = [torch.randperm(count, generator=random)[: self.config.patches] for count in counts]
        return [places.to(maps[0].device, non_blocking=True) for places in drawn]

    def after_step(self, phase):
        if phase == "D":
            self.hook.tune()

    def numbers(self):
        return {"drawings/augmented": float(self.hook.p)} if isinstance(self.hook, augment.Ada) else {}

    # --- translation -----------------------------------------------------------------------------------------

    def translate(self, photos, group=None):
        return self.generator(photos)

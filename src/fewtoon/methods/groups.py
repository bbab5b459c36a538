"""U-GAT-IT for groups of very different sizes: what it takes that the few drawings of a group are enough, and
that nobody's glasses are lost.

    Zhuang, Yang: Few-shot Knowledge Transfer for Fine-grained Cartoon Face Generation, ICME 2021,
        arXiv:2007.13332: group branches, selective backpropagation, group classification, Face-ID loss
    Face2Webtoon: group classification on the discriminators of the drawings, a bottleneck that the rich group
        alone moves, ADA
    Ours: before the first step a small network learns on each side to read the group from the real pictures.
        It is frozen then, and the generators are told what it reads in their pictures. The generators know
        the group by a learned vector beside the one that AdaLIN's gamma and beta are made from, and the
        discriminators are told it, too: a drawing must be one that this group could have.

Where a generator knows the group ("vector", "branches") and nobody names that of a photo, the reader of the
photos, which is part of the Style, does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from fewtoon.errors import Problem, nearest
from fewtoon.losses.adversarial import group_classification
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.ugatit import OTHER, SIDES, UGATIT, of_side, preview_columns
from fewtoon.nets.branches import Branches, from_plain
from fewtoon.nets.classifier import GroupClassifier, learn, varied
from fewtoon.nets.hourglass import HourglassGenerator
from fewtoon.nets.ugatit import Discriminator, Drawn, Generator, Judged

# What each group has for itself with "branches": the layers nearest to the pictures, and the row of the CAM.
SPECIFIC = {
    "resnet": ("stem", "down1", "cam.average", "cam.maximum", "up2", "up2_norm", "head"),
    "hourglass": ("stem", "glass1", "cam.average", "cam.maximum", "glass4", "head"),
}
# What, of the generator, the rich group alone may move.
GUARDED: dict[str, tuple[str, ...]] = {"all": (), "routed": ("",), "frozen-bottleneck": ("encoder.",)}
READERS = {"photos": "photos_reader", "drawings": "drawings_reader"}


class Groups(UGATIT):
    """U-GAT-IT whose generators, discriminators and gradients may know the groups."""

    name = "groups"
    paper = "Zhuang & Yang, ICME 2021, arXiv:2007.13332; Face2Webtoon; Kim et al., U-GAT-IT, arXiv:1907.10830"
    reader = "photos_reader"
    optional = ("drawing_to_photo", reader)
    needs_groups = True

    class Config(UGATIT.Config):
        """Settings beside those of U-GAT-IT, see docs/groups.md; the preset `groups` is what kept attributes best."""

        base: str | None = None  # the rich group; null: the one with most training drawings
        generator_groups: Literal["none", "vector", "branches"] = "vector"  # how a generator knows the group
        gradients: Literal["all", "routed", "frozen-bottleneck"] = "all"  # what the other groups may move
        group_loss: Literal["none", "cross-entropy", "squared-error"] = "none"  # discriminators tell groups
        group_sides: Literal["drawings", "both"] = "drawings"  # whose discriminators do
        group_pooling: Literal["features", "padded"] = "features"  # of which map they are told
        group_told: Literal["none", "drawings", "both"] = "none"  # whose discriminators are told the group
        group_weight: float = Field(1.0, ge=0)  # of that loss for the discriminators
        group_generator_weight: float = Field(1.0, ge=0)  # of that loss for the generators
        reader_weight: float = Field(1.0, ge=0)  # of what the frozen readers say to the generators
        reader_steps: int = Field(
            1500, ge=2
        )  # in which a reader learns, before the first step of the training

    config: Config

    def __init__(self, config, size, groups=(), training=True):
        if len(groups) < 2:
            raise Problem(
                f"{len(groups)} groups: this method needs at least 2; prepare both packs with --groups, or train "
                "a ugatit preset"
            )
        if config.base is not None and config.base not in groups:
            raise Problem(
                f"base = {config.base!r} is no group of this training; {nearest(config.base, groups)}"
            )
        if config.gradients == "routed" and config.generator_groups != "branches":
            raise Problem(
                "gradients = 'routed' needs generator_groups = 'branches': without, few groups teach nothing"
            )
        self.base = list(groups).index(config.base) if config.base is not None else 0
        self.grouped = config.generator_groups != "none"
        super().__init__(config, size, groups, training)
        teach = training and config.reader_weight > 0
        for name in READERS.values():
            if teach or (self.grouped and name == self.reader):
                self._networks[name] = GroupClassifier(len(groups))

    def learn_first(self, pictures, seed, say):
        for side, name in READERS.items():
            if name in self._networks:
                seen, groups = pictures(side)
                say(
                    f"a reader learns the groups from {len(seen)} {side}, {self.config.reader_steps} small steps"
                )
                learn(
                    cast(GroupClassifier, self._networks[name]), seen, groups, self.config.reader_steps, seed
                )

    def make_generator(self):
        c, groups = self.config, len(self.groups)
        told = groups if c.generator_groups == "vector" else 0
        generator: nn.Module
        if c.generator == "hourglass":
            generator = HourglassGenerator(self.size, c.channels, c.blocks, c.pool, told)
        else:
            generator = Generator(self.size, c.channels, c.blocks, c.pool, c.norm, c.cam_generator, told)
        specific = SPECIFIC[c.generator] if c.generator_groups == "branches" else ()
        if not specific and c.gradients == "all":
            return generator
        return Branches(generator, specific, groups, self.base, GUARDED[c.gradients])

    def make_discriminator(self, name, layers):
        c = self.config
        asked = c.group_loss != "none" and (c.group_sides == "both" or name.startswith("drawings"))
        width = c.discriminator_channels or c.channels
        return Discriminator(
            width,
            layers,
            c.cam_discriminator,
            c.published_attention,
            len(self.groups) if asked else 0,
            c.group_pooling,
            len(self.groups) if c.group_told == "both" or name.startswith(c.group_told) else 0,
        )

    def phases(self):
        c = self.config
        d, g = super().phases()
        told = [f"{side}_{reach}/group" for side in SIDES for reach in ("global", "local")]
        more_d = dict.fromkeys(told, c.group_weight)
        more_g = dict.fromkeys(told, c.group_generator_weight)
        more_g |= {f"{side}/reader": c.reader_weight for side in SIDES}
        return [d._replace(weights={**d.weights, **more_d}), g._replace(weights={**g.weights, **more_g})]

    # --- losses ----------------------------------------------------------------------------------------------

    def judged(self, name, pictures, groups, update=False) -> Judged:
        return self._networks[name](pictures, update, groups)

    def real_losses(self, name, judged: Judged, batch: Batch):
        network = cast(Discriminator, self._networks[name])
        if network.group is None:
            return {}
        groups = of_side(batch, name.split("_")[0])[1]
        real = judged._replace(features=judged.features[: len(groups)])
        return {f"{name}/group": self._told(network.classify(real, update=True), groups)}

    def fake_losses(self, name, judged: Judged, batch: Batch):
        network = cast(Discriminator, self._networks[name])
        if network.group is None:
            return {}
        groups = of_side(batch, OTHER[name.split("_")[0]])[1]
        return {f"{name}/group": self._told(network.classify(judged), groups)}

    def _told(self, logit: Tensor, groups: Tensor) -> Tensor:
        return group_classification(logit, groups, squared=self.config.group_loss == "squared-error")

    def generator_losses(self, batch: Batch, shared: Shared):
        losses = super().generator_losses(batch, shared)
        if self.config.reader_weight:
            for side in SIDES:
                groups = of_side(batch, OTHER[side])[1]
                logit = self._networks[READERS[side]](varied(shared[side]))
                losses[f"{side}/reader"] = group_classification(logit, groups)
        return losses

    def drawn(self, side, pictures, groups) -> Drawn:
        name = "photo_to_drawing" if side == "drawings" else "drawing_to_photo"
        return self._networks[name](pictures, groups)

    # --- translation -----------------------------------------------------------------------------------------

    def read(self, photos):
        if not self.reads_groups():
            return torch.full((len(photos),), self.base, device=photos.device)
        reader = self._networks[self.reader]
        return (reader(photos) + reader(photos.flip(3))).argmax(1)

    def translate(self, photos, group=None):
        return self.drawn("drawings", photos, self._numbers(photos, group)).image

    def back(self, drawings, group=None):
        number = self.groups.index(group) if group is not None else 0  # nobody reads the groups of drawings
        groups = torch.full((len(drawings),), number, device=drawings.device)
        return self.drawn("photos", drawings, groups).image

    def preview(self, photos):
        groups = self._numbers(photos, None)
        drawn = self.drawn("drawings", photos, groups)
        columns = preview_columns(photos, drawn)
        if "drawing_to_photo" in self._networks:
            columns["back again"] = self.drawn("photos", drawn.image, groups).image
        return columns

    def _numbers(self, photos: Tensor, group: str | None) -> Tensor:
        if group is not None:
            return torch.full((len(photos),), self.groups.index(group), device=photos.device)
        return self.read(photos)

    def adopt(self, name: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What knew no groups becomes what does: branches are copied, a vector or a classifier begins anew."""
        network = self._networks[name]
        if isinstance(network, Branches) and not any(key.startswith("generator.") for key in tensors):
            return from_plain(tensors, network)
        own = {key: tensor for key, tensor in network.state_dict().items() if key.startswith("group.")}
        return {**own, **tensors}

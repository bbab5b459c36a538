"""Two StyleGAN styles in one: the low resolutions of one parent, the high resolutions of the other.

By weights: Pinkney & Adler, Resolution Dependent GAN Interpolation, 2020, arXiv:2010.05334. By features, in the
forward pass: Back, Fine-Tuning StyleGAN2 for Cartoon Face Generation, 2021, arXiv:2106.12445.

Both make sense for parents that were fine-tuned from one source: only then do the channels of one mean something to
the layers of the other. `distance` measures it. The command that writes a swap: `fewtoon.latent.swap`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.latent.seeds import latents
from fewtoon.latent.sources import check_group, check_kind, group_for
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.style import Style

Side = Literal["low", "high"]
SIDES = ("low", "high")
FAR = 0.75  # `distance` from which on there is a warning, see there
LOOKED_AT = (4, 8, 16)  # px: where `distance` looks
CHOICES: dict[str, tuple[str, ...]] = {
    "mapping": SIDES,
    "constant": SIDES,
    "noise": SIDES,
    "rgb": ("blocks", *SIDES),
}


@dataclass(frozen=True)
class Recipe:
    """What comes from which parent.

    resolution: blocks up to and with this one, in px, are low's, those above high's. width: 0 for a hard switch, or
    that of a logistic one in positions, of which a block has two (see `shares`). mapping (with its average w, its
    classes and, of FreezeSG, its source), constant and noise (the fixed maps; how strong they are belongs to the
    blocks): a parent. rgb: the layers that make colours go with their blocks, or are all of one parent.
    """

    resolution: int
    width: float = 0.0
    mapping: Side = "low"
    constant: Side = "low"
    noise: Side = "low"
    rgb: Literal["blocks", "low", "high"] = "blocks"


def shares(sizes: Sequence[int], resolution: int, width: float = 0.0) -> dict[str, float]:
    """'8.up', '8.conv' ... -> how much of it is high's, from 0 to 1. Colours have the share of their 'conv'.

    Position 2 k is the first convolution, up, of block k (4 px is block 0 and has none) and 2 k + 1 its second. The
    switch is at m = 2 k + 1.5, between the last layer of the block at `resolution` and the first of the next one, and

        share(p) = 1 / (1 + exp(-(p - m) / width)),    hard: 0 below m, 1 above: its limit for width -> 0.

    The published code (github.com/justinpinkney/stylegan2, blend_models.py) takes m = 2 k for the logistic, but where
    it is hard gives high's weights only to p > m + 1. So its "32" keeps 32 px from low when hard, as here, and has
    them half from either parent when smooth. Here both switch at the same place, and it is the place that is named.
    """
    middle = 2 * list(sizes).index(resolution) + 1.5
    found = {}
    for k, size in enumerate(sizes):
        for level, layer in enumerate(("up", "conv")):
            if k or level:
                away = 2 * k + level - middle
                found[f"{size}.{layer}"] = _logistic(away / width) if width else float(away > 0)
    return found


def _logistic(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)  # the same as 1 / (1 + exp(-x)), for any x


# --- by weights ------------------------------------------------------------------------------------------


def blend(low: Style, high: Style, recipe: Recipe) -> Style:
    """A style with weights of both parents, as `recipe` says; it is low's in framing.

    A smooth switch takes (1 - share) low + share high of each weight. Raises Problem for parents that do not fit
    (`check_parents`) and for a recipe that cannot be.
    """
    made = LiveSwap(low, high).made(recipe)
    for network in made.method.networks().values():
        own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(own, assign=True)
    return made


class LiveSwap:
    """Swaps of the same parents by weights, one after another: for a page where somebody moves a slider.

    What `at` gives draws as what `blend` gives, bit by bit. It shares with its parents the weights that are one
    parent's alone, and only those that are of both are made anew; so use it, save it, and do not change it. Raises
    Problem for parents that do not fit.
    """

    def __init__(self, low: Style, high: Style) -> None:
        check_parents(low, high)
        self.low, self.high = low, high
        parents = {"low": low, "high": high}
        self._states = {
            side: {name: t.to(low.device) for name, t in method_of(one).generator.state_dict().items()}
            for side, one in parents.items()
        }

    def at(
        self,
        resolution: int,
        width: float = 0.0,
        mapping: Side = "low",
        constant: Side = "low",
        noise: Side = "low",
        rgb: Literal["blocks", "low", "high"] = "blocks",
    ) -> Style:
        """The swap at `resolution`, see `Recipe`. Raises Problem for what cannot be."""
        return self.made(Recipe(resolution, width, mapping, constant, noise, rgb))

    def made(self, recipe: Recipe) -> Style:
        """The swap that `recipe` says. Raises Problem for what cannot be."""
        low, high = self.low, self.high
        check_recipe(low, recipe)
        told = method_of(low if recipe.mapping == "low" else high)
        table = shares(method_of(low).sizes, recipe.resolution, recipe.width)
        tensors: dict[str, Tensor] = {}
        for name in self._states[recipe.mapping]:
            share = _share(name, recipe, table)
            if share in (0.0, 1.0):
                tensors[name] = self._states["high" if share else "low"][name]
            else:
                tensors[name] = torch.lerp(self._states["low"][name], self._states["high"][name], share)

        clamps = [method_of(one).config.clamp for one in (low, high)]
        wide = None if None in clamps else max(clamp for clamp in clamps if clamp is not None)
        with torch.device("meta"):
            config = told.config.model_copy(update={"clamp": wide})
            method = StyleGAN(config, low.size, told.groups, training=False)
        method.generator.load_state_dict(tensors, assign=True)
        for name, network in method.networks().items():
            if name != "generator":  # the source's mapping, of FreezeSG
                state = told.networks()[name].state_dict()
                network.load_state_dict({key: t.to(low.device) for key, t in state.items()}, assign=True)
        header = {
            **{key: low.header.get(key) for key in ("framing", "pad", "whiten")},
            "method": method.name,
            "size": low.size,
            "groups": told.groups,
            "networks": sorted(method.networks()),
            "licence": _licences(low.header, high.header),
            "packs": _packs(low.header, high.header),
            "made_of": {"by": "weights", **asdict(recipe), "low": _origin(low), "high": _origin(high)},
        }
        return Style(method, header, str(low.device), low.precision)


def _share(name: str, recipe: Recipe, table: Mapping[str, float]) -> float:
    """How much of the tensor `name` of a generator is high's."""
    parts = name.split(".")
    if parts[0] == "mapping":
        return float(recipe.mapping == "high")
    if parts[1] == "constant":
        return float(recipe.constant == "high")
    size, layer = parts[2:4]  # synthesis.blocks.SIZE.LAYER...
    if parts[-1] == "noise":
        return float(recipe.noise == "high")
    if layer != "rgb":
        return table[f"{size}.{layer}"]
    return table[f"{size}.conv"] if recipe.rgb == "blocks" else float(recipe.rgb == "high")


def method_of(style: Style) -> StyleGAN:
    return cast(StyleGAN, style.method)


def _origin(style: Style) -> dict[str, Any]:
    """What a header says of where a parent comes from."""
    kept = ("step", "packs", "licence", "source", "made_of")
    return {key: style.header[key] for key in kept if style.header.get(key) is not None}


def _licences(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The notes of both parents on consent and licence: side -> each note once."""
    found: dict[str, list[Any]] = {}
    for header in (low, high):
        for side, notes in (header.get("licence") or {}).items():
            kept = found.setdefault(side, [])
            kept += [note for note in (notes if isinstance(notes, list) else [notes]) if note not in kept]
    return found or None


def _packs(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any] | None:
    """The hashes of all training packs of both parents, each once: side -> hash, 'SIDE of high' for a second one."""
    found = dict(low.get("packs") or {})
    for side, digest in (high.get("packs") or {}).items():
        if digest not in found.values():
            while side in found:
                side += " of high"
            found[side] = digest
    return found or None


# --- by features -----------------------------------------------------------------------------------------


class FeatureSwap:
    """High, with the feature map of low after the block at `resolution` in the place of its own.

    Colours of the resolutions below stay high's, and so do all layers above. mapping: whose mapping, and average w,
    makes the style codes of both; "own": each parent makes and truncates its own of the same z. Raises Problem for
    parents that do not fit and a resolution that they do not have.
    """

    def __init__(
        self, low: Style, high: Style, resolution: int, mapping: Literal["own", "low", "high"] = "own"
    ) -> None:
        check_parents(low, high)
        check_recipe(low, Recipe(resolution))
        if mapping not in ("own", *SIDES):
            raise Problem(f"mapping {mapping!r}: own, low or high")
        self.low, self.high, self.resolution, self.mapping = low, high, resolution, mapping

    def sample(self, z: Tensor, truncation: float = 1.0, group: str | None = None) -> Tensor:
        """z (B, Z) to pictures (B, 3, S, S) float in [-1, 1]; each depends on its own z alone."""
        codes = _codes(self.low, self.high, self.mapping, z, truncation, group)
        return self.synthesis(*codes)

    def synthesis(self, low_w: Tensor, high_w: Tensor, noise: Literal["fixed", "random"] = "fixed") -> Tensor:
        """The style codes of either parent, (B, W) or (B, codes, W), to pictures (B, 3, S, S) float in [-1, 1]."""
        if noise not in ("fixed", "random"):
            raise Problem(f"noise {noise!r}: 'fixed' or 'random'")
        if len(low_w) != len(high_w):
            raise Problem(f"style codes of {len(low_w)} and {len(high_w)} pictures: give as many of either")
        low, high, r = (
            method_of(self.low).generator.synthesis,
            method_of(self.high).generator.synthesis,
            self.resolution,
        )
        device, half = self.high.device, self.high.precision == "bf16"
        made = []
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for mine, other in zip(low_w.split(1), high_w.split(1)):
                below = low.paint(mine.to(self.low.device), noise, keep=[r], until=r).features[r]
                picture = high.paint(other.to(device), noise, replaced={r: below.to(device)}).image
                made.append(picture.clamp(-1, 1).to(high_w.device))
        return torch.cat(made)


def _codes(
    low: Style, high: Style, mapping: str, z: Tensor, truncation: float, group: str | None
) -> tuple[Tensor, Tensor]:
    """The truncated style codes of either parent."""
    wanted = [low, high] if mapping == "own" else [low if mapping == "low" else high]
    check_group(wanted, group)
    codes = [
        method_of(one).truncated(one.mapping(z, group_for(one, group)).to(one.device), truncation)
        for one in wanted
    ]
    return codes[0], codes[-1]


# --- do they fit -----------------------------------------------------------------------------------------


def check_parents(low: Style, high: Style) -> None:
    """Raises Problem, naming what differs, for styles that are no StyleGANs of one layout."""
    for side, style in zip(SIDES, (low, high)):
        check_kind(style, side.upper())
    one, other = method_of(low), method_of(high)
    for what, mine, his in (
        ("the size in px", one.size, other.size),
        ("channels", one.channels, other.channels),
        ("layers of the mapping", one.config.mapping_layers, other.config.mapping_layers),
        ("the length of w", one.config.style, other.config.style),
        ("the length of z", one.config.latent, other.config.latent),
    ):
        if mine != his:
            raise Problem(
                f"styles of different layout: {what} {mine} in LOW, {his} in HIGH; swap styles that were fine-tuned "
                "from one source"
            )


def check_recipe(low: Style, recipe: Recipe) -> None:
    """Raises Problem for what cannot be."""
    sizes = method_of(low).sizes[:-1]  # at the last one nothing would be left for high
    if recipe.resolution not in sizes:
        raise Problem(
            f"resolution {recipe.resolution!r}: of pictures of {low.size} px, one of {', '.join(map(str, sizes))}"
        )
    if not 0 <= recipe.width <= 100:  # nan fails too
        raise Problem(f"width {recipe.width:g}: 0 for a hard switch, or up to 100; 1 is usual")
    for name, known in CHOICES.items():
        if getattr(recipe, name) not in known:
            raise Problem(f"{name} {getattr(recipe, name)!r}: one of {', '.join(known)}")


def distance(
    low: Style, high: Style, mapping: Literal["own", "low", "high"] = "low", pictures: int = 32
) -> float:
    """How far apart the geometries are: 0, the same, to about 1, unrelated (at most 2, opposite).

    Of seeds 0 to `pictures` - 1, both parents paint the colours c_r at r = 4, 8 and 16 px, where a face's place,
    pose and outline are. Each parent's mean over the seeds is taken off: a palette or a background that is always
    another is no difference of geometry. The distance is the mean over r of

        d_r = sum |low c_r - high c_r|^2 / (sum |low c_r|^2 + sum |high c_r|^2),

    sums over seeds, pixels and colours. Where the seed tells of high's picture nothing that it tells of low's, the
    cross term vanishes and d_r = 1, whatever the contrast: two pictures of one seed are then as unlike as two of
    different seeds. Measured on a 64 px source of faces and what 20,000 pictures of 500 drawings made of it: 0.17
    with FreezeSG, 0.40 with a structure loss, 0.53 plainly, 0.55 with FreezeD and ADA, and all of them swap well; 0.95
    to 1.0 for two networks that draw the same and do not share their codes. FAR lies between.
    mapping: as of the swap that is meant. Raises Problem for parents that do not fit.
    """
    check_parents(low, high)
    sizes = [r for r in LOOKED_AT if r <= low.size]
    codes = _codes(low, high, mapping, latents(low, range(pictures)), 1.0, None)
    centred: list[dict[int, Tensor]] = []
    for one, w in zip((low, high), codes):
        synthesis = method_of(one).generator.synthesis
        painted: dict[int, list[Tensor]] = {r: [] for r in sizes}
        with torch.inference_mode():
            for code in w.split(1):
                colours = synthesis.paint(code.to(one.device), "fixed", keep=sizes, until=sizes[-1]).colours
                for r in sizes:
                    painted[r].append(colours[r].double().cpu())
        stacked = {r: torch.cat(parts) for r, parts in painted.items()}
        centred.append({r: c - c.mean(0) for r, c in stacked.items()})
    ours, theirs = centred
    found = []
    for r in sizes:
        both = float(ours[r].square().sum() + theirs[r].square().sum())
        found.append(float((ours[r] - theirs[r]).square().sum()) / both if both > 1e-12 else 0.0)
    return sum(found) / len(found)


def advice(low: Style, high: Style, resolution: int, apart: float) -> list[str]:
    """What is worth a sentence before one looks at the swap: `apart` is `distance`."""
    notes = []
    if apart > FAR:
        notes.append(
            f"the geometries are far apart: {apart:.2f}, where 0 is the same, 1 unrelated and more than {FAR:g} too "
            "far; expect broken faces, and swap styles that were fine-tuned from one source"
        )
    states = [method_of(one).generator.synthesis.state_dict() for one in (low, high)]
    below = [f"blocks.{r}." for r in method_of(low).sizes if r <= resolution]
    above = [f"blocks.{r}." for r in method_of(low).sizes if r > resolution]
    for told, starts in ((f"up to {resolution} px", below), (f"above {resolution} px", above)):
        names = [name for name in states[0] if name.startswith(tuple(starts)) and not name.endswith(".noise")]
        if all(torch.equal(states[0][name].cpu(), states[1][name].cpu()) for name in names):
            notes.append(f"the blocks {told} are the same in both styles, so there is nothing to swap there")
    if low.framing != high.framing:
        notes.append(
            f"LOW draws faces framed {low.framing}, HIGH {high.framing}; the swap is told to be LOW's"
        )
    return notes

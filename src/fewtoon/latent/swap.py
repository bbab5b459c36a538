"""Two StyleGAN styles in one: the low resolutions of one parent, the high resolutions of the other.

By weights: Pinkney & Adler, Resolution Dependent GAN Interpolation, 2020, arXiv:2010.05334. By features, in the
forward pass: Back, Fine-Tuning StyleGAN2 for Cartoon Face Generation, 2021, arXiv:2106.12445.

Both make sense for parents that were fine-tuned from one source: only then do the channels of one mean something to
the layers of the other. `distance` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import images, weights
from fewtoon.io.files import printable
from fewtoon.latent.record import record
from fewtoon.latent.seeds import check_seeds, check_truncations, latents, seeds_told
from fewtoon.latent.sheet import sheet
from fewtoon.latent.sources import Source, check_group, check_kind, group_for, open_sources
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.style import Style

Side = Literal["low", "high"]
SIDES = ("low", "high")
FAR = 0.5  # `distance` from which on there is a warning, see there
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
    check_parents(low, high)
    check_recipe(low, recipe)
    parents = {"low": low, "high": high}
    told = parents[recipe.mapping]
    states = {
        side: {name: t.to(low.device) for name, t in _method(one).generator.state_dict().items()}
        for side, one in parents.items()
    }
    table = shares(_method(low).sizes, recipe.resolution, recipe.width)
    tensors: dict[str, Tensor] = {}
    for name in states[recipe.mapping]:
        share = _share(name, recipe, table)
        if share in (0.0, 1.0):
            tensors[name] = states["high" if share else "low"][name]
        else:
            tensors[name] = torch.lerp(states["low"][name], states["high"][name], share)

    clamps = [_method(one).config.clamp for one in (low, high)]
    wide = None if None in clamps else max(clamp for clamp in clamps if clamp is not None)
    config = _method(told).config.model_copy(update={"clamp": wide})
    groups = _method(told).groups
    with torch.device("meta"):
        method = StyleGAN(config, low.size, groups, training=False)
    weights.fill(method.generator, tensors, "the swapped style")
    for name, network in method.networks().items():
        if name != "generator":  # the source's mapping, of FreezeSG
            state = _method(told).networks()[name].state_dict()
            weights.fill(network, state, f"the swapped style, network {name!r}")
    header = {
        **{key: low.header.get(key) for key in ("framing", "pad", "whiten")},
        "method": method.name,
        "size": low.size,
        "groups": groups,
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


def _method(style: Style) -> StyleGAN:
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
            _method(self.low).generator.synthesis,
            _method(self.high).generator.synthesis,
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
        _method(one).truncated(one.mapping(z, group_for(one, group)).to(one.device), truncation)
        for one in wanted
    ]
    return codes[0], codes[-1]


# --- do they fit -----------------------------------------------------------------------------------------


def check_parents(low: Style, high: Style) -> None:
    """Raises Problem, naming what differs, for styles that are no StyleGANs of one layout."""
    for side, style in zip(SIDES, (low, high)):
        check_kind(style, side.upper())
    one, other = _method(low), _method(high)
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
    sizes = _method(low).sizes[:-1]  # at the last one nothing would be left for high
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
    different seeds. FAR = 0.5 is half of the way there, where as much of what the seeds change is different as is
    common. For scale, of untrained networks of 32 px: 0.9 to 1.1 for two that have nothing in common; 0.03, 0.22, 0.45
    and 0.83 for a network and its copy with normal noise of 0.1, 0.3, 0.5 and 1 times their spread on all weights.
    mapping: as of the swap that is meant. Raises Problem for parents that do not fit.
    """
    check_parents(low, high)
    sizes = [r for r in LOOKED_AT if r <= low.size]
    codes = _codes(low, high, mapping, latents(low, range(pictures)), 1.0, None)
    centred: list[dict[int, Tensor]] = []
    for one, w in zip((low, high), codes):
        synthesis = _method(one).generator.synthesis
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
    states = [_method(one).generator.synthesis.state_dict() for one in (low, high)]
    below = [f"blocks.{r}." for r in _method(low).sizes if r <= resolution]
    above = [f"blocks.{r}." for r in _method(low).sizes if r > resolution]
    for told, starts in ((f"up to {resolution} px", below), (f"above {resolution} px", above)):
        names = [name for name in states[0] if name.startswith(tuple(starts)) and not name.endswith(".noise")]
        if all(torch.equal(states[0][name].cpu(), states[1][name].cpu()) for name in names):
            notes.append(f"the blocks {told} are the same in both styles, so there is nothing to swap there")
    if low.framing != high.framing:
        notes.append(
            f"LOW draws faces framed {low.framing}, HIGH {high.framing}; the swap is told to be LOW's"
        )
    return notes


# --- the verb --------------------------------------------------------------------------------------------


def swap(
    low: str | Path,
    high: str | Path,
    resolution: int,
    *,
    out: str | Path | None = None,
    features: bool = False,
    width: float = 0.0,
    mapping: str | None = None,
    constant: str | None = None,
    noise: str | None = None,
    rgb: str | None = None,
    sheet_to: str | Path | None = None,
    seeds: Sequence[int] = tuple(range(8)),
    truncation: float = 1.0,
    group: str | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Swap layers of two style files or runs: write the new style to `out`, or look at it on a sheet, or both.

    features: swap in the forward pass (`FeatureSwap`), which only a sheet can show. The other settings are those of
    `Recipe`; None: its default, and for features each parent's own mapping. The sheet has LOW, HIGH and the swap in
    rows and the seeds in columns; beside it are its latents (.safetensors) and a .json that repeats the command.
    Returns what was written, `distance`, and notes to be read. Raises Problem for bad input, before anything is
    written.
    """
    if out is None and sheet_to is None:
        raise Problem("nothing to write: name --out STYLE, --sheet PNG, or both")
    if features:
        given = {"constant": constant, "noise": noise, "rgb": rgb, "width": width or None}
        for name, value in given.items():
            if value is not None:
                raise Problem(f"--{name} {value} is of a swap of weights: leave it or --features out")
        if out is not None:
            raise Problem(
                f"--out {printable(out)!r}: a swap of features happens while drawing and is no file; leave --out or "
                "--features out"
            )
    if sheet_to is not None and Path(sheet_to).suffix.lower() != ".png":
        raise Problem(f"--sheet {printable(sheet_to)!r}: its name must end in .png")
    if out is not None and Path(out).suffix.lower() != ".safetensors":
        raise Problem(f"--out {printable(out)!r}: its name must end in .safetensors")
    seeds = check_seeds(seeds)
    check_truncations([truncation])
    sources = open_sources([low, high], device)
    beside = [] if sheet_to is None else [Path(sheet_to), *_beside(Path(sheet_to))]
    for path in [*([] if out is None else [Path(out)]), *beside]:
        if any(path.resolve() == source.file.resolve() for source in sources):
            raise Problem(
                f"{printable(path)!r} would be written, and is one of the parents: choose another name"
            )
    if out is not None and Path(out).resolve() in [path.resolve() for path in beside]:
        raise Problem(f"--out {printable(out)!r} is the name of the sheet's latents too: choose another name")
    one, other = (source.style for source in sources)
    named: dict[str, Any] = {"mapping": mapping, "constant": constant, "noise": noise, "rgb": rgb}
    recipe = Recipe(resolution, width, **{name: value for name, value in named.items() if value is not None})
    made: Style | FeatureSwap
    if features:
        made = FeatureSwap(one, other, resolution, cast(Any, mapping or "own"))
        told = [one, other] if mapping is None else [one if mapping == "low" else other]
    else:
        made = blend(one, other, recipe)
        told = [made]
        for side, source in zip(SIDES, sources):
            made.header["made_of"][side] = {**source.facts(), **made.header["made_of"][side]}
    check_group(told, group)
    apart = distance(one, other, cast(Any, made.mapping if isinstance(made, FeatureSwap) else recipe.mapping))
    notes = advice(one, other, resolution, apart)

    if out is not None and isinstance(made, Style):
        made.save(out)
    if sheet_to is not None:
        command = ["fewtoon", "explore", "swap", str(low), str(high), "--resolution", str(resolution)]
        if features:
            command += ["--features"] + ([] if mapping is None else ["--mapping", mapping])
        else:
            command += ["--width", repr(float(width))]
            command += [word for name in CHOICES for word in (f"--{name}", getattr(recipe, name))]
        command += ["--seeds", seeds_told(seeds), f"--truncation={float(truncation)!r}"]
        command += ["--group", group] if group is not None else []
        command += ["--device", str(one.device)] + ([] if out is None else ["--out", str(out)])
        facts = {
            "by": "features" if features else "weights",
            **({"resolution": resolution, "mapping": mapping or "own"} if features else asdict(recipe)),
            "distance": apart,
            "seeds": seeds,
            "truncation": truncation,
            "group": group,
            "device": str(one.device),
        }
        _sheet(Path(sheet_to), sources, made, seeds, truncation, group)
        z = latents(one, seeds)
        tensors = {
            f"{source.name}.w": source.style.mapping(z, _known(source.style, group)) for source in sources
        }
        told_at, latents_at = _beside(Path(sheet_to))
        command += ["--sheet", str(sheet_to)]
        record(told_at, latents_at, sources, command, facts, {"z": z, **tensors})
    return {
        "out": None if out is None else str(out),
        "sheet": None if sheet_to is None else str(sheet_to),
        "by": "features" if features else "weights",
        "distance": apart,
        "shares": None if features else shares(_method(one).sizes, resolution, width),
        "notes": notes,
    }


def _sheet(
    path: Path,
    sources: Sequence[Source],
    made: Style | FeatureSwap,
    seeds: Sequence[int],
    truncation: float,
    group: str | None,
) -> None:
    """LOW, HIGH and the swap in rows, the seeds in columns."""
    z = latents(sources[0].style, seeds)
    drawn = {
        f"{source.name} ({side})": source.style.sample(z, truncation, _known(source.style, group))
        for side, source in zip(SIDES, sources)
    }
    drawn["swap"] = made.sample(z, truncation, group)
    shown = {label: styles.to_pixels(pictures) for label, pictures in drawn.items()}
    images.save_png(path, sheet(shown, [str(seed) for seed in seeds], 8))


def _beside(path: Path) -> tuple[Path, Path]:
    """The record and the latents of a sheet."""
    return path.with_suffix(".json"), path.with_suffix(".latents.safetensors")


def _known(style: Style, group: str | None) -> str | None:
    """The group, or None for a parent that does not know it: the other one is asked for it."""
    return group if group in style.groups else None

"""StyleGAN2 checkpoints: rosinality's `.pt` (FreezeG's and Cartoon-StyleGAN's are the same) and NVIDIA's `.pkl`.

Sizes and settings are detected from the shapes, every tensor must find its place, and nothing is executed. Values
stay as they are published; only dimensions of length 1 come and go, so that a file can be written back.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.io import pickled, stylegan_plain, weights
from fewtoon.io.files import write_bytes
from fewtoon.io.stylegan_names import (
    Place,
    Places,
    discriminator_places,
    filters_of,
    generator_places,
    shapes,
    sizes,
)

ROSINALITY = "rosinality StyleGAN2"
NVIDIA = "NVIDIA StyleGAN2-ADA"
DEVIATION_GROUP = 4  # pictures in a group of the minibatch standard deviation, unless a file says otherwise
TOLERANCE = 1e-3  # the largest difference of two drawings that are called the same

# Beside the networks in rosinality's files, and of no use for drawing.
_IGNORED = ("g_optim", "d_optim", "args", "ada_aug_p", "latent_avg")
_TORCH_MAGIC = (
    b"l\xfc\x9cF\xf9 j\xa8P\x19"  # near the start of what torch.save wrote before there were zip files
)
_NOISE = re.compile(r"noises\.noise_\d+")
_FILTER = (1.0, 3.0, 3.0, 1.0)
# Arguments of NVIDIA's constructors that change the mathematics, and the values that our networks have.
_FIXED: dict[str, Any] = {
    "img_channels": 3,
    "activation": "lrelu",
    "lr_multiplier": 0.01,
    "resample_filter": [1, 3, 3, 1],
    "use_noise": True,
    "mbstd_num_channels": 1,
}
# Those that show in the shapes or settings, or change nothing.
_FREE = (
    "z_dim", "c_dim", "w_dim", "cmap_dim", "img_resolution", "num_layers", "embed_features", "layer_features",
    "w_avg_beta", "channel_base", "channel_max", "num_fp16_res", "fp16_channels_last", "freeze_layers",
    "conv_clamp", "mbstd_group_size",
)  # fmt: skip


class Found(NamedTuple):
    """What a StyleGAN2 checkpoint holds, in fewtoon's terms."""

    system: str  # ROSINALITY or NVIDIA
    model: dict[str, Any]  # channels, latent, style, mapping_layers, clamp, deviation_group, classes
    size: int
    networks: dict[
        str, dict[str, Tensor]
    ]  # 'generator' and, where there is one, 'discriminator': our key -> tensor
    lacks: tuple[
        str, ...
    ]  # of 'average' (then 'mapping.average' is to be computed) and 'noise' (then it was drawn)
    theirs: dict[str, Tensor]  # the generator under the file's own names, for `verify`

    def describe(self) -> str:
        model = self.model
        count = sum(t.numel() for tensors in self.networks.values() for t in tensors.values())
        classes = f", {model['classes']} classes" if model["classes"] else ""
        clamp = f", clamped at {model['clamp']:g}" if model["clamp"] else ""
        lacks = "".join(f", without its {name}" for name in self.lacks)
        return (
            f"{self.system}, {self.size} px, channels {'/'.join(map(str, model['channels']))}, latent "
            f"{model['latent']}, style {model['style']}, {model['mapping_layers']} mapping layers{classes}{clamp}, "
            f"{count / 1e6:.2f} M numbers in {', '.join(sorted(self.networks))}{lacks}"
        )


def read(path: str | Path) -> Found:
    """Detect and read a StyleGAN2 checkpoint. Raises Problem for anything else, and for a hostile or torn file.

    The averaged generator ('g_ema', 'G_ema') is the one that counts; 'g' or 'G' only where there is none.
    """
    what = repr(str(path))
    tree = _tree(Path(path))
    if "style.1.weight" in tree:  # the state dict of a generator alone
        tree = {"g_ema": tree}
    for system, names in ((ROSINALITY, ("g_ema", "g", "d")), (NVIDIA, ("G_ema", "G", "D"))):
        generator = next((tree[name] for name in names[:2] if tree.get(name) is not None), None)
        if generator is not None:
            if system == ROSINALITY:
                _check_extras(tree, what)
            return _found(system, generator, tree.get(names[2]), tree.get("latent_avg"), what)
    keys = ", ".join(repr(name[:40]) for name in list(tree)[:5])
    raise Problem(
        f"{what} is no StyleGAN2 checkpoint that fewtoon knows (it holds {keys}); known: rosinality's .pt with "
        "'g_ema', NVIDIA's .pkl with 'G_ema'"
    )


def looks_like_one(path: str | Path) -> bool:
    """Whether a file is a StyleGAN2 checkpoint rather than a translator's, by its first megabyte: names of tensors
    come first in every format. False for a file that is not there."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(2**20)
    torch_file = start.startswith(b"PK") or _TORCH_MAGIC in start[:32]
    names = (b"style.1.weight", b"convs.0.0.weight", b"g_ema", b"G_ema")
    return any(name in start for name in names) if torch_file else start.startswith(b"\x80")


def to_rosinality(
    networks: Mapping[str, Mapping[str, Tensor]], model: Mapping[str, Any], size: int
) -> dict[str, Any]:
    """The checkpoint that rosinality's code loads strictly: g_ema, latent_avg, and g and d where they are known.

    networks: 'generator' (what draws), and if known 'discriminator' and 'live' (the generator that is trained, of
    which the other is the average). Their code has no clamp, and 4 pictures in a group of the minibatch standard
    deviation, whatever `model` says: both matter for training on, not for drawing. Raises Problem for a network
    that their code cannot build.
    """
    if model["classes"] or model["latent"] != model["style"]:
        raise Problem(
            f"rosinality's StyleGAN2 has no classes and z as long as w; this one has {model['classes']} classes, z "
            f"{model['latent']} and w {model['style']}: it cannot be written for it"
        )
    out: dict[str, Any] = {}
    for theirs, ours in (("g", "live"), ("d", "discriminator"), ("g_ema", "generator")):
        if ours in networks:
            drawer = theirs != "d"
            places = (generator_places if drawer else discriminator_places)(size, model, nvidia=False)
            state = {key: tensor for key, tensor in networks[ours].items() if key != "mapping.average"}
            out[theirs] = {name: _filter() * gain for name, gain in filters_of(size, False, drawer).items()}
            for key, tensor in _complete(state, places.keys(), f"network {ours!r}").items():
                place, own = places[key], tensor.detach().cpu().clone()
                out[theirs][place.name] = own.reshape(place.shape(tuple(own.shape)))
    average = networks["generator"].get("mapping.average")
    if average is not None:
        out["latent_avg"] = average.detach().cpu().clone()
    return out


def write_rosinality(
    path: str | Path, networks: Mapping[str, Mapping[str, Tensor]], model: Mapping[str, Any], size: int
) -> None:
    """Write `to_rosinality` as a torch file, atomically. Raises Problem as it does, and for a full disk."""
    buffer = io.BytesIO()
    torch.save(to_rosinality(networks, model, size), buffer)
    write_bytes(path, buffer.getvalue())


def export_style(path: str | Path, out: str | Path) -> str:
    """Write a StyleGAN Style, and the discriminator where its file has one, in rosinality's layout; returns one line.

    Raises Problem for another style, and for what that layout has no place for.
    """
    from fewtoon import style

    if Path(out).suffix != ".pt":
        raise Problem(
            f"--out {str(out)!r}: StyleGAN styles are exported as rosinality's .pt; name a .pt file"
        )
    opened = style.load(path, "cpu")
    if not opened.method.generates:
        raise Problem(
            f"style {str(path)!r} ({opened.method.name}) is no StyleGAN; only these are exported so far"
        )
    settings = opened.method.config
    if getattr(settings, "freeze_styles", 0):
        raise Problem(
            f"style {str(path)!r} has styles of its source (freeze_styles), for which rosinality's code has no place"
        )
    generator: Any = opened.method.networks()["generator"]
    networks = {"generator": generator.state_dict()}
    file = Path(path) / "best.safetensors" if Path(path).is_dir() else Path(path)
    judge = {
        key.removeprefix("discriminator."): tensor
        for key, tensor in weights.read(file).items()
        if key.startswith("discriminator.")
    }
    if judge:
        networks["discriminator"] = judge
    synthesis = generator.synthesis
    model = {
        "channels": [synthesis.block(r).conv.weight.shape[0] for r in synthesis.sizes],
        "latent": generator.mapping.latent,
        "style": generator.mapping.style,
        "mapping_layers": len(generator.mapping.layers),
        "clamp": settings.clamp,  # type: ignore[attr-defined]
        "deviation_group": settings.deviation_group,  # type: ignore[attr-defined]
        "classes": 0 if generator.mapping.embed is None else generator.mapping.embed.weight.shape[1],
    }
    write_rosinality(out, networks, model, opened.size)
    return f"{', '.join(sorted(networks))} of {opened.size} px, in rosinality's layout"


def verify(found: Found, generator: nn.Module, seed: int = 0) -> tuple[float, float]:
    """Draw two pictures with our network and plainly with the file's own tensors: the largest differences of w and
    of the pictures, with constant noise.

    generator: a `fewtoon.nets.stylegan2.Generator` on the CPU that holds found.networks['generator']. Raises
    Problem where they differ by TOLERANCE or more.
    """
    nvidia, classes = found.system == NVIDIA, found.model["classes"]
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(2, found.model["latent"], generator=random)
    named = torch.arange(2) % classes if classes else None
    one_hot = None if named is None else nn.functional.one_hot(named, classes)
    with torch.no_grad():
        theirs = stylegan_plain.mapping(found.theirs, z, nvidia, one_hot)
        ours = generator.mapping(z) if named is None else generator.mapping(z, named)  # type: ignore[operator]
        # The codes take turns, so that a code at the wrong layer shows.
        codes = torch.stack([theirs.roll(k, 0) for k in range(2 * len(sizes(found.size)))], 1)
        image = generator.synthesis(codes, noise="fixed")  # type: ignore[operator]
        plain = stylegan_plain.synthesis(found.theirs, codes, nvidia, found.model["clamp"])
    w, picture = float((ours - theirs).abs().max()), float((image - plain).abs().max())
    if not (w < TOLERANCE and picture < TOLERANCE):  # not a number is no agreement either
        raise Problem(
            f"{found.system}: our network differs from the file's own tensors by {w:.2g} in w and {picture:.2g} in "
            f"the picture, more than {TOLERANCE:g}: it was trained by code that fewtoon does not know"
        )
    return w, picture


# --- the file ------------------------------------------------------------------------------------------------


class _Arguments:
    """Stands for argparse.Namespace, in which rosinality's files keep their command line; keeps nothing of it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _tree(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Problem(f"weights file {str(path)!r} does not exist")
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(b"PK") or _TORCH_MAGIC in start:
        with torch.serialization.safe_globals([(_Arguments, "argparse.Namespace")]):
            tree = weights.read_torch(path)
    else:
        tree = pickled.read(path)
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise Problem(
            f"{str(path)!r} is no StyleGAN2 checkpoint (it holds a {type(tree).__name__}); name another file"
        )
    return tree


def _check_extras(tree: Mapping[str, Any], what: str) -> None:
    for name, value in tree.items():
        known = name in ("g_ema", "g", "d", *_IGNORED)
        if not known and not isinstance(value, (int, float, str, type(None))):
            raise Problem(
                f"{what} holds {name[:80]!r}, which no known version has; known: g_ema, g, d and latent_avg"
            )


def _state(network: Any, name: str, what: str) -> dict[str, Tensor]:
    """The tensors of a network under their own names, all numbers of which are in the file."""
    if isinstance(network, pickled.Record):
        network = pickled.tensors(network, f"{what}, {name}")
    if not isinstance(network, Mapping) or not network or not all(map(weights.whole, network.values())):
        raise Problem(f"{what}: the {name} is not a state dict of tensors; save its state_dict() alone")
    state = {str(key): tensor for key, tensor in network.items()}
    if all(key.startswith(weights.PARALLEL) for key in state):
        return {key.removeprefix(weights.PARALLEL): tensor for key, tensor in state.items()}
    return state


def _found(system: str, generator: Any, discriminator: Any, average: Any, what: str) -> Found:
    nvidia = system == NVIDIA
    drawer, judge = f"{what}, the generator", f"{what}, the discriminator"
    state = _state(generator, "generator", what)
    size, model = _detected(state, nvidia, drawer)
    model["clamp"] = _clamp(_arguments(generator, "skip", drawer), drawer)
    lacks = []
    places = generator_places(size, model, nvidia)
    if not nvidia and average is not None:
        if not weights.whole(average):
            raise Problem(f"{what}: 'latent_avg' is no tensor of numbers; copy the file again")
        state["latent_avg"] = average.flatten() if average.ndim == 2 and len(average) == 1 else average
    place = Place("mapping.w_avg" if nvidia else "latent_avg")
    if place.name in state:
        places["mapping.average"] = place
    else:
        lacks.append("average")
    if not nvidia and not any(map(_NOISE.fullmatch, state)):  # the first version had no constant noise
        lacks.append("noise")
        state |= _drawn_noise(size)
    filters = filters_of(size, nvidia, True)
    networks = {"generator": _placed(state, places, shapes(size, model, True), filters, drawer)}
    if discriminator is not None:
        if isinstance(discriminator, pickled.Record):
            arguments = _arguments(discriminator, "resnet", judge)
            if (clamp := _clamp(arguments, judge)) != model["clamp"]:
                raise Problem(
                    f"{judge} has conv_clamp {clamp}, the generator {model['clamp']}; fewtoon has one for both"
                )
            model["deviation_group"] = _deviation_group(arguments, judge)
        own = _state(discriminator, "discriminator", what)
        places, filters = discriminator_places(size, model, nvidia), filters_of(size, nvidia, False)
        networks["discriminator"] = _placed(own, places, shapes(size, model, False), filters, judge)
        if model["classes"]:  # our mapping has an average, which nothing asks for in a discriminator
            networks["discriminator"]["mapping.average"] = torch.zeros(model["channels"][0])
    return Found(system, model, size, networks, tuple(lacks), state)


def _detected(state: Mapping[str, Tensor], nvidia: bool, what: str) -> tuple[int, dict[str, Any]]:
    """Picture size and settings, from the shapes of a generator."""
    layer = r"mapping\.fc\d+\.weight" if nvidia else r"style\.\d+\.weight"
    rgb = r"synthesis\.b\d+\.torgb\.bias" if nvidia else r"to_rgbs?\d*(\.\d+)?\.bias"
    layers = sum(re.fullmatch(layer, key) is not None for key in state)
    size = 2 ** (1 + sum(re.fullmatch(rgb, key) is not None for key in state))
    if not 8 <= size <= 1024 or not 1 <= layers <= 64:
        raise Problem(
            f"{what} is not StyleGAN2's: {layers} mapping layers and colours up to {size} px; name another file"
        )
    probe = generator_places(size, {"mapping_layers": layers, "classes": 0}, nvidia)

    def length(ours: str, dimension: int) -> int:
        tensor = state.get(probe[ours].name)
        if tensor is None or tensor.ndim < 2:
            raise Problem(f"{what} lacks a proper {probe[ours].name!r}; name another file, or copy it again")
        return tensor.shape[dimension]

    style = length(f"mapping.layers.{layers - 1}.weight", 0)
    embed = state.get("mapping.embed.weight") if nvidia else None
    classes = embed.shape[-1] if embed is not None and embed.ndim == 2 else 0
    model = {
        "channels": [length(f"synthesis.blocks.{r}.conv.weight", -4) for r in sizes(size)],
        "latent": length("mapping.layers.0.weight", 1) - (style if classes else 0),
        "style": style,
        "mapping_layers": layers,
        "clamp": None,
        "deviation_group": DEVIATION_GROUP,
        "classes": classes,
    }
    return size, model


def _placed(
    state: Mapping[str, Tensor],
    places: Places,
    shapes: Mapping[str, tuple[int, ...]],
    filters: Mapping[str, float],
    what: str,
) -> dict[str, Tensor]:
    """The tensors under our names, each in its place. Raises Problem for the first that is missing, unknown or of
    another shape, and for another filter than StyleGAN2's."""
    for name in filters.keys() & state.keys():
        if state[name].shape != (4, 4) or not torch.allclose(
            state[name].float(), _filter() * filters[name], atol=1e-5
        ):
            raise Problem(
                f"{what}: {name!r} is not the filter [1, 3, 3, 1] of StyleGAN2; fewtoon has no other"
            )
    rest = {name: tensor for name, tensor in state.items() if name not in filters}
    _complete(rest, {place.name for place in places.values()}, what)
    out = {}
    for key, place in places.items():
        tensor, expected = rest[place.name], place.shape(shapes[key])
        if tensor.shape != expected:
            raise Problem(f"{what}: {place.name!r} has shape {tuple(tensor.shape)}, expected {expected}")
        out[key] = tensor.float().reshape(shapes[key]).clone(memory_format=torch.contiguous_format)
    return out


def _complete(state: Mapping[str, Tensor], expected: Set[str], what: str) -> Mapping[str, Tensor]:
    missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or unknown:
        told = [f"lacks {name!r}" for name in missing[:1]] + [
            f"has unknown {name[:80]!r}" for name in unknown[:1]
        ]
        raise Problem(f"{what} {' and '.join(told)} ({len(missing)} missing, {len(unknown)} unknown tensors)")
    return state


def _filter() -> Tensor:
    row = torch.tensor(_FILTER)
    return torch.outer(row, row) / row.sum() ** 2


def _drawn_noise(size: int) -> dict[str, Tensor]:
    """Constant noise for a file that has none, the same each time it is read."""
    random = torch.Generator().manual_seed(0)
    counts = {number: 2 ** ((number + 5) // 2) for number in range(2 * len(sizes(size)) - 1)}
    return {f"noises.noise_{k}": torch.randn(1, 1, r, r, generator=random) for k, r in counts.items()}


# --- NVIDIA's constructor arguments --------------------------------------------------------------------------


def _arguments(network: Any, architecture: str, what: str) -> dict[str, Any]:
    """What a network was built with, its parts too; {} for one that comes as a state dict.

    Raises Problem for arguments that make it another network than ours.
    """
    if not isinstance(network, pickled.Record):
        return {}
    own = network.state.get("_init_kwargs", {})
    if not isinstance(own, dict) or network.state.get("_init_args", ()) != ():
        raise Problem(
            f"{what} was built with arguments that have no names; save it again with NVIDIA's train.py"
        )
    pairs: list[tuple[Any, Any]] = []
    for name, value in own.items():
        parts = str(name).endswith("_kwargs") and isinstance(value, dict)
        pairs += value.items() if parts else [(name, value)]
    fixed = {**_FIXED, "architecture": architecture}
    for name, value in pairs:
        items = value if isinstance(value, (list, tuple)) else [value]
        if name not in fixed and name not in _FREE:
            raise Problem(
                f"{what} was built with {str(name)[:80]!r}, which StyleGAN2-ADA has not; name another file"
            )
        if not all(isinstance(item, (int, float, str, type(None))) for item in items):
            raise Problem(f"{what} was built with a damaged {name!r}; copy the file again")
        if name in fixed and value != fixed[name]:
            raise Problem(
                f"{what} was built with {name} {value!r:.80}; fewtoon's networks have {fixed[name]!r} alone"
            )
    return dict(pairs)


def _clamp(arguments: Mapping[str, Any], what: str) -> float | None:
    """The bound of the feature maps."""
    clamp = arguments.get("conv_clamp")
    if clamp is None:
        return None
    if not isinstance(clamp, (int, float)) or not 0 < clamp < math.inf:
        raise Problem(
            f"{what} was built with conv_clamp {clamp!r:.80}; fewtoon needs a number above 0 or None"
        )
    return float(clamp)


def _deviation_group(arguments: Mapping[str, Any], what: str) -> int:
    group = arguments.get("mbstd_group_size", DEVIATION_GROUP)
    if type(group) is not int or group < 1:
        raise Problem(
            f"{what} was built with mbstd_group_size {group!r:.80}; fewtoon needs a whole number above 0"
        )
    return group

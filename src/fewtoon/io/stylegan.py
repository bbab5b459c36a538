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

ROSINALITY = "rosinality StyleGAN2"
NVIDIA = "NVIDIA StyleGAN2-ADA"
DEVIATION_GROUP = 4  # pictures in a group of the minibatch standard deviation, unless a file says otherwise
CLASS_LAYERS = 8  # of the mapping of classes in NVIDIA's discriminator, which no preset of theirs changes
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


class Place(NamedTuple):
    """Where a file keeps a tensor of ours, and how many dimensions of length 1 it puts around it."""

    name: str
    before: int = 0
    after: int = 0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        return (*[1] * self.before, *ours, *[1] * self.after)


Places = dict[str, Place]

# Our names within a layer -> theirs.
_ROSINALITY_LAYER = {
    "weight": Place("conv.weight", 1),
    "bias": Place("activate.bias"),
    "strength": Place("noise.weight", 1),
    "affine.weight": Place("conv.modulation.weight"),
    "affine.bias": Place("conv.modulation.bias"),
}
_ROSINALITY_RGB = {
    "weight": Place("conv.weight", 1),
    "bias": Place("bias", 1, 2),
    "affine.weight": Place("conv.modulation.weight"),
    "affine.bias": Place("conv.modulation.bias"),
}
_NVIDIA_RGB = {name: Place(name) for name in ("weight", "bias", "affine.weight", "affine.bias")}
_NVIDIA_LAYER = _NVIDIA_RGB | {"strength": Place("noise_strength"), "noise": Place("noise_const")}


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
            places = (_generator_places if drawer else _discriminator_places)(size, model, nvidia=False)
            state = {key: tensor for key, tensor in networks[ours].items() if key != "mapping.average"}
            out[theirs] = {name: _filter() * gain for name, gain in _filters(size, False, drawer).items()}
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
        codes = torch.stack([theirs.roll(k, 0) for k in range(2 * len(_sizes(found.size)))], 1)
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
    if not isinstance(network, Mapping) or not network or not all(map(_whole, network.values())):
        raise Problem(f"{what}: the {name} is not a state dict of tensors; save its state_dict() alone")
    state = {str(key): tensor for key, tensor in network.items()}
    if all(key.startswith(weights.PARALLEL) for key in state):
        return {key.removeprefix(weights.PARALLEL): tensor for key, tensor in state.items()}
    return state


def _whole(value: Any) -> bool:
    """Whether this is a plain tensor whose numbers are all in the file: a few bytes must not claim gigabytes."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.is_floating_point()
        and not value.is_meta
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _found(system: str, generator: Any, discriminator: Any, average: Any, what: str) -> Found:
    nvidia = system == NVIDIA
    drawer, judge = f"{what}, the generator", f"{what}, the discriminator"
    state = _state(generator, "generator", what)
    size, model = _detected(state, nvidia, drawer)
    model["clamp"] = _clamp(_arguments(generator, "skip", drawer), drawer)
    lacks = []
    places = _generator_places(size, model, nvidia)
    if not nvidia and average is not None:
        if not _whole(average):
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
    filters = _filters(size, nvidia, True)
    networks = {"generator": _placed(state, places, _shapes(size, model, True), filters, drawer)}
    if discriminator is not None:
        if isinstance(discriminator, pickled.Record):
            arguments = _arguments(discriminator, "resnet", judge)
            if (clamp := _clamp(arguments, judge)) != model["clamp"]:
                raise Problem(
                    f"{judge} has conv_clamp {clamp}, the generator {model['clamp']}; fewtoon has one for both"
                )
            model["deviation_group"] = _deviation_group(arguments, judge)
        own = _state(discriminator, "discriminator", what)
        places, filters = _discriminator_places(size, model, nvidia), _filters(size, nvidia, False)
        networks["discriminator"] = _placed(own, places, _shapes(size, model, False), filters, judge)
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
    probe = _generator_places(size, {"mapping_layers": layers, "classes": 0}, nvidia)

    def length(ours: str, dimension: int) -> int:
        tensor = state.get(probe[ours].name)
        if tensor is None or tensor.ndim < 2:
            raise Problem(f"{what} lacks a proper {probe[ours].name!r}; name another file, or copy it again")
        return tensor.shape[dimension]

    style = length(f"mapping.layers.{layers - 1}.weight", 0)
    embed = state.get("mapping.embed.weight") if nvidia else None
    classes = embed.shape[-1] if embed is not None and embed.ndim == 2 else 0
    model = {
        "channels": [length(f"synthesis.blocks.{r}.conv.weight", -4) for r in _sizes(size)],
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
    counts = {number: 2 ** ((number + 5) // 2) for number in range(2 * len(_sizes(size)) - 1)}
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


# --- names and shapes ------------------------------------------------------------------------------------------


def _sizes(size: int) -> list[int]:
    return [2**k for k in range(2, size.bit_length())]


def _generator_places(size: int, model: Mapping[str, Any], nvidia: bool) -> Places:
    """Our keys of a generator, without its average -> where they are in the file."""
    places: Places = {
        "synthesis.constant": Place("synthesis.b4.const") if nvidia else Place("input.input", 1)
    }
    for i in range(model["mapping_layers"]):
        places |= _linear(f"mapping.layers.{i}", f"mapping.fc{i}" if nvidia else f"style.{i + 1}")
    if model["classes"]:
        places |= _linear("mapping.embed", "mapping.embed")
    for b, r in enumerate(_sizes(size)):
        ours = f"synthesis.blocks.{r}"
        if nvidia:
            if b:
                places |= _layer(f"{ours}.up", f"synthesis.b{r}.conv0", _NVIDIA_LAYER)
            places |= _layer(f"{ours}.conv", f"synthesis.b{r}.conv1", _NVIDIA_LAYER)
            places |= _layer(f"{ours}.rgb", f"synthesis.b{r}.torgb", _NVIDIA_RGB)
        else:
            if b:
                places |= _layer(f"{ours}.up", f"convs.{2 * b - 2}", _ROSINALITY_LAYER)
                places[f"{ours}.up.noise"] = Place(f"noises.noise_{2 * b - 1}", 2)
            places |= _layer(f"{ours}.conv", f"convs.{2 * b - 1}" if b else "conv1", _ROSINALITY_LAYER)
            places[f"{ours}.conv.noise"] = Place(f"noises.noise_{2 * b}", 2)
            places |= _layer(f"{ours}.rgb", f"to_rgbs.{b - 1}" if b else "to_rgb1", _ROSINALITY_RGB)
    return places


def _discriminator_places(size: int, model: Mapping[str, Any], nvidia: bool) -> Places:
    places = _linear("rgb", f"b{size}.fromrgb") if nvidia else _conv("rgb", "convs.0", 0)
    for i, r in enumerate(_sizes(size)[:0:-1], 1):
        ours, theirs = f"blocks.{r}", f"b{r}" if nvidia else f"convs.{i}"
        if nvidia:
            places |= _linear(f"{ours}.conv", f"{theirs}.conv0") | _linear(f"{ours}.down", f"{theirs}.conv1")
        else:  # theirs counts the filter before a convolution as a layer
            places |= _conv(f"{ours}.conv", f"{theirs}.conv1", 0) | _conv(
                f"{ours}.down", f"{theirs}.conv2", 1
            )
        places[f"{ours}.skip.weight"] = Place(
            f"{theirs}.skip.weight" if nvidia else f"{theirs}.skip.1.weight"
        )
    places |= _linear("last.conv", "b4.conv") if nvidia else _conv("last.conv", "final_conv", 0)
    places |= _linear("last.hidden", "b4.fc" if nvidia else "final_linear.0")
    places |= _linear("last.out", "b4.out" if nvidia else "final_linear.1")
    if model["classes"]:
        places |= _linear("mapping.embed", "mapping.embed")
        for i in range(CLASS_LAYERS):
            places |= _linear(f"mapping.layers.{i}", f"mapping.fc{i}")
    return places


def _linear(ours: str, theirs: str) -> Places:
    return {f"{ours}.{kind}": Place(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _conv(ours: str, theirs: str, number: int) -> Places:
    """A convolution whose bias is in the activation after it."""
    return {
        f"{ours}.weight": Place(f"{theirs}.{number}.weight"),
        f"{ours}.bias": Place(f"{theirs}.{number + 1}.bias"),
    }


def _layer(ours: str, theirs: str, parts: Mapping[str, Place]) -> Places:
    return {f"{ours}.{key}": place._replace(name=f"{theirs}.{place.name}") for key, place in parts.items()}


def _filters(size: int, nvidia: bool, drawer: bool) -> dict[str, float]:
    """The filters in a file, which are the same everywhere -> the gain that they contain."""
    above = _sizes(size)[1:]
    if nvidia:
        layers = (
            ["conv0.", "conv1.", "torgb.", ""]
            if drawer
            else ["fromrgb.", "conv0.", "conv1.", "skip.", "conv.", ""]
        )
        stem = "synthesis.b" if drawer else "b"
        return {f"{stem}{r}.{layer}resample_filter": 1.0 for r in (4, *above) for layer in layers}
    if drawer:  # 4: for the zeros that upsampling puts between
        names = [f"convs.{2 * b}.conv.blur" for b in range(len(above))] + [
            f"to_rgbs.{b}.upsample" for b in range(len(above))
        ]
        return {f"{name}.kernel": 4.0 for name in names}
    return {f"convs.{i}.{part}.0.kernel": 1.0 for i in range(1, len(above) + 1) for part in ("conv2", "skip")}


def _shapes(size: int, model: Mapping[str, Any], drawer: bool) -> dict[str, tuple[int, ...]]:
    """Our keys of a generator or a discriminator -> the shapes that our networks have."""
    from fewtoon.nets.stylegan2 import Discriminator, Generator

    channels, clamp, classes = model["channels"], model["clamp"], model["classes"]
    with torch.device("meta"):  # no memory: the file may claim an enormous network
        network = (
            Generator(
                size, channels, model["latent"], model["style"], model["mapping_layers"], clamp, classes
            )
            if drawer
            else Discriminator(size, channels, clamp, model["deviation_group"], classes, CLASS_LAYERS)
        )
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}

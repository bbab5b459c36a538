"""Where StyleGAN2 checkpoints keep what our networks have: names, shapes and filters of both published layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from fewtoon.nets.stylegan2 import CLASS_LAYERS, Discriminator, Generator


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


def sizes(size: int) -> list[int]:
    return [2**k for k in range(2, size.bit_length())]


def generator_places(size: int, model: Mapping[str, Any], nvidia: bool) -> Places:
    """Our keys of a generator, without its average -> where they are in the file."""
    places: Places = {
        "synthesis.constant": Place("synthesis.b4.const") if nvidia else Place("input.input", 1)
    }
    for i in range(model["mapping_layers"]):
        places |= _linear(f"mapping.layers.{i}", f"mapping.fc{i}" if nvidia else f"style.{i + 1}")
    if model["classes"]:
        places |= _linear("mapping.embed", "mapping.embed")
    for b, r in enumerate(sizes(size)):
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


def discriminator_places(size: int, model: Mapping[str, Any], nvidia: bool) -> Places:
    places = _linear("rgb", f"b{size}.fromrgb") if nvidia else _conv("rgb", "convs.0", 0)
    for i, r in enumerate(sizes(size)[:0:-1], 1):
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


def filters_of(size: int, nvidia: bool, drawer: bool) -> dict[str, float]:
    """The filters in a file, which are the same everywhere -> the gain that they contain."""
    above = sizes(size)[1:]
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


def shapes(size: int, model: Mapping[str, Any], drawer: bool) -> dict[str, tuple[int, ...]]:
    """Our keys of a generator or a discriminator -> the shapes that our networks have."""
    channels, clamp, classes = model["channels"], model["clamp"], model["classes"]
    with torch.device("meta"):  # no memory: the file may claim an enormous network
        network = (
            Generator(
                size, channels, model["latent"], model["style"], model["mapping_layers"], clamp, classes
            )
            if drawer
            else Discriminator(size, channels, clamp, model["deviation_group"], classes)
        )
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}

"""The generator of StyleGAN2 once more, plainly, over a file's own tensors: the oracle of the importer.

Written straight from the equations (Karras et al., arXiv:1912.04958: a weight for each picture, zeros inserted,
then filtered) and knowing only the names in the file, it shares no line with `fewtoon.nets.stylegan2` or with the
importer's tables. It is slow, and that is all right: it draws two pictures for each import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


class _Layer(NamedTuple):
    weight: str
    bias: str
    strength: str
    noise: str
    affine: str


def mapping(state: State, z: Tensor, nvidia: bool = False, classes: Tensor | None = None) -> Tensor:
    """z (B, Z) -> w (B, W), in z's precision. classes: (B, n), one-hot, for a network that has classes."""
    x = _unit(z)
    if classes is not None:
        weight, bias = (state[f"mapping.embed.{kind}"].to(z) for kind in ("weight", "bias"))
        x = torch.cat([x, _unit(F.linear(classes.to(z), weight / math.sqrt(weight.shape[1]), bias))], 1)
    number = 0
    while (name := f"mapping.fc{number}" if nvidia else f"style.{number + 1}") + ".weight" in state:
        weight, bias = state[name + ".weight"].to(z), state[name + ".bias"].to(z)
        x = _active(F.linear(x, weight * (0.01 / math.sqrt(weight.shape[1])), bias * 0.01))
        number += 1
    return x


def synthesis(state: State, ws: Tensor, nvidia: bool = False, clamp: float | None = None) -> Tensor:
    """ws (B, W) or (B, codes, W) -> image (B, 3, S, S), with the file's constant noise, in the precision of ws.

    Layer k, counted from 0 at 4 px with two for each size from 8 px on, takes code k; the colours after it code
    k + 1.
    """
    constant = state["synthesis.b4.const" if nvidia else "input.input"].to(ws)
    x = constant.reshape(1, -1, 4, 4).repeat(len(ws), 1, 1, 1)
    image: Tensor | None = None
    number = 0
    while (layer := _layer(number, nvidia)).weight in state:
        weight, strength, noise, bias = (
            state[name].to(ws) for name in (layer.weight, layer.strength, layer.noise, layer.bias)
        )
        style = _style(state, layer.affine, _code(ws, number))
        x = _modulated(x, weight.reshape(weight.shape[-4:]), style, demodulate=True, up=number % 2 == 1)
        x = x + noise.reshape(1, 1, *noise.shape[-2:]) * strength.reshape(())
        x = _clamped(_active(x + bias.reshape(1, -1, 1, 1)), clamp)
        if number % 2 == 0:
            name = _colours(number, nvidia)
            weight = state[name + (".weight" if nvidia else ".conv.weight")].to(ws)
            style = _style(state, name + (".affine" if nvidia else ".conv.modulation"), _code(ws, number + 1))
            rgb = _modulated(x, weight.reshape(weight.shape[-4:]), style, demodulate=False)
            rgb = _clamped(rgb + state[name + ".bias"].to(ws).reshape(1, 3, 1, 1), clamp)
            image = rgb if image is None else _doubled(image) + rgb
        number += 1
    assert image is not None
    return image


def _layer(number: int, nvidia: bool) -> _Layer:
    if nvidia:
        stem = f"synthesis.b{2 ** ((number + 5) // 2)}.conv{(number + 1) % 2}."
        kinds = ["weight", "bias", "noise_strength", "noise_const", "affine"]
    else:
        stem = f"convs.{number - 1}." if number else "conv1."
        kinds = ["conv.weight", "activate.bias", "noise.weight", "", "conv.modulation"]
    layer = _Layer._make(stem + kind for kind in kinds)
    return layer if nvidia else layer._replace(noise=f"noises.noise_{number}")


def _colours(number: int, nvidia: bool) -> str:
    if nvidia:
        return f"synthesis.b{2 ** ((number + 5) // 2)}.torgb"
    return f"to_rgbs.{number // 2 - 1}" if number else "to_rgb1"


def _code(ws: Tensor, number: int) -> Tensor:
    return ws if ws.ndim == 2 else ws[:, number]


def _style(state: State, name: str, w: Tensor) -> Tensor:
    weight, bias = state[name + ".weight"].to(w), state[name + ".bias"].to(w)
    return F.linear(w, weight / math.sqrt(weight.shape[1]), bias)


def _modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, up: bool = False) -> Tensor:
    """x (B, I, H, W), weight (O, I, k, k), style (B, I) -> (B, O, H, W), or twice the size (equations 1 and 3)."""
    out = []
    for picture, scale in zip(x, style):
        own = weight / math.sqrt(weight[0].numel()) * scale[None, :, None, None]
        if demodulate:
            own = own * torch.rsqrt(own.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if up:
            spread = _spread(picture[None])[:, :, :-1, :-1]
            out.append(_filtered(F.conv2d(F.pad(spread, [2] * 4), own.flip(2, 3)), (1, 1)))
        else:
            out.append(F.conv2d(picture[None], own, padding=weight.shape[-1] // 2))
    return torch.cat(out)


def _spread(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): a zero after every pixel."""
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


def _filtered(x: Tensor, pad: tuple[int, int]) -> Tensor:
    """The filter [1, 3, 3, 1] over both axes, times 4 for the zeros between; `pad` before and after."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 4
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [*pad, *pad]), kernel, groups=x.shape[1])


def _doubled(image: Tensor) -> Tensor:
    return _filtered(_spread(image), (2, 1))


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def _active(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def _clamped(x: Tensor, clamp: float | None) -> Tensor:
    return x if clamp is None else x.clamp(-clamp, clamp)

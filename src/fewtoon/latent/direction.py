"""Directions in the space of style codes: what one is, how far a step along it goes, which codes it moves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.latent.seeds import seeds_told
from fewtoon.latent.sources import check_kind
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.nets.stylegan2 import resolutions
from fewtoon.style import Style

SAMPLES = 10_000  # random z by which standard deviations are measured
CHUNK = 500  # of them at once
MOST_SAMPLES = 10_000_000
FARTHEST = 1000.0  # strength


@dataclass(frozen=True, eq=False)
class Direction:
    """A straight way through the style codes w of one latent space.

    vector: (W,) float32 on the CPU, of length 1
    unit: how far strength 1 goes; where nothing else was asked for, a standard deviation of w along the vector
    layers: the numbers of the style codes that move, rising; the others stay
    codes: how many style codes there are
    range: the strengths, lowest and highest, that somebody has looked at
    facts: how it was found; for JSON
    """

    vector: Tensor
    unit: float
    layers: tuple[int, ...]
    codes: int
    range: tuple[float, float] = (-3.0, 3.0)
    facts: Mapping[str, Any] = field(default_factory=dict)


def moved(w: Tensor, direction: Direction, strength: float, layers: Sequence[int] | None = None) -> Tensor:
    """Style codes w, (N, W) or (N, codes, W), moved: (N, codes, W), in which w_i + strength unit vector is code i.

    layers: other codes than the direction's own. Codes that do not move are the same to the last bit. Raises Problem
    for codes of another size, for layers that there are not, and for a strength beyond 1000.
    """
    chosen = list(direction.layers if layers is None else layers)
    check_layers(chosen, direction.codes)
    if not abs(strength) <= FARTHEST:  # nan fails too
        raise Problem(f"strength {strength}: from {-FARTHEST:g} to {FARTHEST:g}; 3 is far")
    width = len(direction.vector)
    if w.ndim == 2:
        w = w[:, None].expand(-1, direction.codes, -1)
    if w.ndim != 3 or tuple(w.shape[1:]) != (direction.codes, width):
        raise Problem(
            f"style codes of shape {tuple(w.shape)}; it moves (N, {width}) or (N, {direction.codes}, {width})"
        )
    result = w.clone(memory_format=torch.contiguous_format)
    if strength:
        result[:, chosen] += (strength * direction.unit) * direction.vector.to(w)
    return result


# --- layers ----------------------------------------------------------------------------------------------


def layers_of(text: str, size: int) -> tuple[int, ...]:
    """'all', code numbers as '0-3,8', or blocks by their pixels as '4px-16px' -> numbers of style codes, rising.

    size: of the pictures. A block has the codes of its convolutions, 0 at 4 px, 1 and 2 at 8 px ...; the last code,
    which only makes colours, belongs to the last block. Raises Problem for what is none of them.
    """
    sizes = resolutions(size)
    count = 2 * len(sizes)
    if text.strip() == "all":
        return tuple(range(count))
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(px)?\s*(?:-\s*(\d{1,6})(px)?\s*)?", part, flags=re.ASCII)
        if match is None or (match[3] and match[2] != match[4]):
            raise Problem(f"layers {text!r}: {part!r} is no layer; write 0-3,8 or 4px-16px or all")
        first, last = int(match[1]), int(match[3] or match[1])
        known = sizes if match[2] else list(range(count))
        if last < first:
            raise Problem(f"layers {text!r}: {part.strip()!r} goes down; write the lower one first")
        if first not in known or last not in known:
            told = ", ".join(f"{one}px" for one in sizes) if match[2] else f"0 to {count - 1}"
            raise Problem(f"layers {text!r}: {part.strip()!r} is not in this style, which has {told}")
        if match[2]:
            found |= {code for one in sizes if first <= one <= last for code in block_codes(one, size)}
        else:
            found |= set(range(first, last + 1))
    return tuple(sorted(found))


def block_codes(block: int, size: int) -> tuple[int, ...]:
    """The style codes of the block at `block` px, of pictures of `size` px: those of its convolutions."""
    k = resolutions(size).index(block)
    return (*((2 * k - 1, 2 * k) if k else (0,)), *((2 * k + 1,) if block == size else ()))


def check_layers(layers: Sequence[int], codes: int) -> None:
    for layer in layers:
        if type(layer) is not int or not 0 <= layer < codes:
            raise Problem(f"layer {layer!r}: there are the style codes 0 to {codes - 1}")
    if not layers or len(set(layers)) < len(layers):
        raise Problem(f"layers {seeds_told(layers) or 'none'}: name at least one, and none twice")


# --- statistics of w -------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D), float64 on the CPU, of so many vectors."""

    samples: int
    mean: Tensor
    covariance: Tensor


def moments(parts: Iterator[Tensor]) -> Moments:
    """Exact mean and covariance of vectors (n, D) that come in parts, by sums of squares about the running mean
    (Chan, Golub, LeVeque: Updating formulae, COMPSTAT 1982, eq. 2.1)."""
    first = next(parts).double().cpu()
    count, mean = len(first), first.mean(0)
    scatter = (first - mean).T @ (first - mean)
    for part in parts:
        x = part.double().cpu()
        apart = x.mean(0) - mean
        away = x - x.mean(0)
        share = len(x) / (count + len(x))
        scatter += away.T @ away + torch.outer(apart, apart) * (count * share)
        mean = mean + apart * share
        count += len(x)
    return Moments(count, mean, scatter / max(count - 1, 1))


def random_codes(style: Style, samples: int, seed: int = 0, group: str | None = None) -> Iterator[Tensor]:
    """Style codes (n, codes, W) float32, on the style's device, of `samples` random z, the same for the same seed.

    Raises Problem for less than 2 samples or more than 10 million, and for a style that is no StyleGAN.
    """
    check_kind(style, "this style")
    style.check_group(group)
    check_samples(samples)
    return _random_codes(cast(StyleGAN, style.method), style, samples, seed, group)


def check_samples(samples: int) -> None:
    if type(samples) is not int or not 2 <= samples <= MOST_SAMPLES:
        raise Problem(f"{samples!r} samples: from 2 to {MOST_SAMPLES}")


def _random_codes(
    method: StyleGAN, style: Style, samples: int, seed: int, group: str | None
) -> Iterator[Tensor]:
    random = torch.Generator().manual_seed(seed)
    for start in range(0, samples, CHUNK):
        z = torch.randn(min(CHUNK, samples - start), method.config.latent, generator=random)
        with torch.inference_mode():
            w = method.mapping(z.to(style.device), group)
        yield w if w.ndim == 3 else w[:, None].expand(-1, method.generator.codes, -1)


def moments_of_w(
    style: Style, layers: Sequence[int], group: str | None = None, samples: int = SAMPLES, seed: int = 0
) -> Moments:
    """Of the w that the last of `layers` gets: styles whose first codes are their source's have two kinds."""
    return moments(w[:, layers[-1]] for w in random_codes(style, samples, seed, group))


# --- making directions -----------------------------------------------------------------------------------


def directed(
    vectors: Tensor,
    layers: Sequence[int],
    codes: int,
    facts: Sequence[Mapping[str, Any]],
    spread: Tensor | None = None,
    units: Sequence[float] | None = None,
    turn: bool = True,
) -> list[Direction]:
    """Directions along vectors (K, W), with facts of each.

    spread: covariance (W, W) of w, by which a unit is a standard deviation; or the units. turn: to where the largest
    number of the vector is positive, because the sign of an eigenvector means nothing.
    """
    vectors = vectors.double().cpu()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    if turn:
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        vectors = vectors * largest.sign()
    if units is None:
        assert spread is not None
        units = torch.einsum("kw,wv,kv->k", vectors, spread, vectors).clamp(min=0).sqrt().tolist()
    found = []
    for vector, unit, told in zip(vectors, units, facts, strict=True):
        if not (torch.isfinite(vector).all() and math.isfinite(unit) and unit > 0):
            raise Problem(f"w does not vary along {told.get('component', 'this direction')}: nothing to move")
        found.append(Direction(vector.float(), float(unit), tuple(layers), codes, facts=dict(told)))
    return found


def orthogonal(direction: Direction, others: Sequence[Direction], spread: Tensor) -> Direction:
    """The direction without its parts along `others`, the conditional manipulation of InterFaceGAN (Shen et
    al., arXiv:1907.10786) for any number of them.

    spread: covariance (W, W) of w, which gives the new unit. Raises Problem where nothing remains.
    """
    for other in others:
        if other.vector.shape != direction.vector.shape:
            raise Problem(
                f"directions of {len(direction.vector)} and {len(other.vector)} numbers: of different latent spaces"
            )
    vector = direction.vector.double()
    if others:
        basis, _ = torch.linalg.qr(torch.stack([other.vector.double() for other in others], 1))
        vector = vector - basis @ (basis.T @ vector)
    if vector.norm() < 1e-3:
        raise Problem("a direction lies wholly along those that are to be kept: keep fewer")
    (found,) = directed(
        vector[None], direction.layers, direction.codes, [direction.facts], spread, turn=False
    )
    return replace(found, range=direction.range)

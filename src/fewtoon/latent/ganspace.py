"""GANSpace: directions along which a generator's w, or what it makes of w inside, varies most.

Härkönen, Hertzmann, Lehtinen, Paris: GANSpace: Discovering Interpretable GAN Controls, NeurIPS 2020, arXiv:2004.02546:
principal components of many random samples, of w itself, or of a feature map, with a linear regression back to the
latent codes (section 2).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io.files import printable
from fewtoon.latent.direction import (
    CHUNK,
    Direction,
    check_layers,
    check_samples,
    directed,
    moments,
    moments_of_w,
    random_codes,
)
from fewtoon.latent.progress import bar
from fewtoon.latent.sefa import check_components
from fewtoon.latent.sources import check_kind
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.style import Style

OF_W, OF_FEATURES = 50_000, 10_000  # samples by default
KEPT = 80  # components that the incremental analysis carries on, as published
BATCH_NUMBERS = 2**24  # of a batch of feature maps, 8 bytes each
MOST_NUMBERS = 2**27  # of the components that are carried on
MOST_BYTES = 2**26  # of the arrays that are read from a .npz


def ganspace(
    style: Style,
    components: Sequence[int] = tuple(range(8)),
    *,
    at: Literal["w"] | int = "w",
    layers: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    group: str | None = None,
    progress: bool = False,
) -> list[Direction]:
    """Principal directions of a StyleGAN style, that of the largest variance being component 0. A unit is a standard
    deviation of w along it.

    at: "w": principal components of w, from the exact covariance of `samples` (default 50,000). Or a resolution r: of
    the feature map (C, r, r) after that block, drawn with the fixed noise, by incremental analysis of `samples`
    (10,000); for each the direction in w by which least squares explains w from the coordinates, a w = a M^T + mean.
    layers: the style codes that the directions move; None: all. group: of a style that has groups. progress: a bar
    on the terminal. The same seed gives the same directions.

    facts: `share` of the variance, and of feature maps `follows`, the correlation of steps along the direction with
    the component: near 0 it does something else. Raises Problem for a style that is no StyleGAN, a resolution that
    it has not or whose maps are too large, and for layers or components that there are not.
    """
    check_kind(style, "this style")
    method = cast(StyleGAN, style.method)
    generator = method.generator
    layers = tuple(range(generator.codes)) if layers is None else tuple(layers)
    check_layers(layers, generator.codes)
    if samples is None:
        samples = OF_W if at == "w" else OF_FEATURES
    check_samples(samples)
    told = {"by": "ganspace", "at": at, "samples": samples, "seed": seed}
    if at == "w":
        check_components(components, generator.mapping.average.shape[0])
        found = moments_of_w(style, layers, group, samples, seed)
        values, vectors = torch.linalg.eigh(found.covariance)
        values, vectors = values.flip(0), vectors.flip(1)
        share = (values / values.sum()).tolist()
        facts = [{**told, "component": k, "share": share[k]} for k in components]
        return directed(vectors.T[list(components)], layers, generator.codes, facts, found.covariance)

    if at not in method.sizes:
        raise Problem(f"resolution {at!r}: 'w', or one of {', '.join(map(str, method.sizes))}")
    length = method.channels[method.sizes.index(at)] * at * at
    check_components(components, min(length, samples - 1))
    keep = min(max(KEPT, 2 * (max(components) + 1)), length)
    if keep * length > MOST_NUMBERS:
        raise Problem(
            f"feature maps at {at} px have {length} numbers, too many for {keep} components: choose a lower resolution"
        )

    def maps() -> Iterator[tuple[Tensor, Tensor]]:
        """Feature maps (n, C r r), and w (n, W)."""
        size = max(1, min(CHUNK, BATCH_NUMBERS // length))
        steps = bar(range(-(-samples // CHUNK)), f"{at} px", progress)
        for _, codes in zip(steps, random_codes(style, samples, seed, group)):
            for part in codes.split(size):
                with torch.inference_mode():
                    painted = generator.synthesis.paint(part, "fixed", keep=[at], until=at)
                yield painted.features[at].flatten(1).double().cpu(), part[:, layers[-1]].double().cpu()

    analysed = principal((x for x, _ in maps()), keep)
    spread = analysed.deviations
    floor = 1e-6 * torch.maximum(spread[0], analysed.mean.square().mean().sqrt())  # what rounding makes
    alive = int((spread > floor).sum())
    if max(components) >= alive:
        raise Problem(f"component {max(components)}: these feature maps have only {alive} that vary")
    axes, spread = analysed.components[:alive], spread[:alive]
    pairs = moments(
        torch.cat([(x - analysed.mean) @ axes.T / spread, w], 1) for x, w in maps()
    )  # coordinates and w side by side
    of_a, both, of_w = (
        pairs.covariance[:alive, :alive],
        pairs.covariance[:alive, alive:],
        pairs.covariance[alive:, alive:],
    )
    chosen = list(components)
    vectors = torch.linalg.lstsq(of_a, both, driver="gelsd").solution[chosen]
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    along = torch.einsum("kw,wv,kv->k", vectors, of_w, vectors).sqrt()
    follows = (both[chosen] * vectors).sum(1) / (along * of_a.diagonal()[chosen].sqrt())
    facts = [
        {
            **told,
            "component": k,
            "share": float(spread[k] ** 2 / analysed.variance),
            "follows": float(follow),
        }
        for k, follow in zip(chosen, follows)
    ]
    return directed(vectors, layers, generator.codes, facts, of_w)


class Principal(NamedTuple):
    """Mean (D,), components (K, D) of length 1 with standard deviations (K,), falling, and the variance in all."""

    mean: Tensor
    components: Tensor
    deviations: Tensor
    variance: float


def principal(parts: Iterator[Tensor], keep: int) -> Principal:
    """The first `keep` principal components of vectors (n, D) float64 that come in parts, in memory for one part.

    Incremental analysis (Ross et al.: Incremental Learning for Robust Visual Tracking, IJCV 2008, fig. 1): what is
    known, a part, and how far their means are apart are vectors of one small matrix, which is analysed anew by its
    Gram matrix. Exact as long as no more than `keep` components have any variance.
    """
    first = next(parts)
    count, mean = len(first), first.mean(0)
    known = _strongest(first - mean, keep)
    total = float((first - mean).square().sum())
    for part in parts:
        own, n = part.mean(0), len(part)
        apart = (own - mean) * math.sqrt(count * n / (count + n))
        away = part - own
        total += float(away.square().sum() + apart.square().sum())
        known = _strongest(torch.cat([known, away, apart[None]]), keep)
        mean = mean + (own - mean) * (n / (count + n))
        count += n
    lengths = known.norm(dim=1)
    return Principal(
        mean,
        known / lengths.clamp(min=1e-300)[:, None],
        lengths / math.sqrt(max(count - 1, 1)),
        max(total / max(count - 1, 1), 1e-300),
    )


def _strongest(rows: Tensor, keep: int) -> Tensor:
    """(n, D) -> (at most keep, D): singular vectors times their values, the largest first."""
    _, turned = torch.linalg.eigh(rows @ rows.T)
    return turned.flip(1)[:, :keep].T @ rows


# --- what the published code has found -------------------------------------------------------------------


def read_npz(
    style: Style,
    path: str | Path,
    components: Sequence[int] = tuple(range(8)),
    *,
    layers: Sequence[int] | None = None,
) -> list[Direction]:
    """Directions in a .npz of the published code (github.com/harskish/ganspace), found with --use_w: with its
    units, and turned as `ganspace` turns its own.

    Raises Problem for a file that is none, that would run code (nothing in it is run), or is of another latent space.
    """
    check_kind(style, "this style")
    generator = cast(StyleGAN, style.method).generator
    layers = tuple(range(generator.codes)) if layers is None else tuple(layers)
    check_layers(layers, generator.codes)
    told, width = printable(path), generator.mapping.average.shape[0]
    vectors, units = (_array(path, name) for name in ("lat_comp", "lat_stdev"))
    if vectors.shape != (len(vectors), 1, width) and vectors.shape != (len(vectors), width):
        raise Problem(
            f"{told!r} has directions of shape {vectors.shape}, of another generator: this style has w of {width}"
        )
    vectors = vectors.reshape(len(vectors), width)
    check_components(components, len(vectors))
    chosen = torch.from_numpy(vectors[list(components)].astype(np.float64))
    if units.shape != (len(vectors),) or not torch.isfinite(chosen).all() or not np.isfinite(units).all():
        raise Problem(f"{told!r} is damaged: its numbers are no directions; copy it again")
    if (units == 1).all():
        raise Problem(f"{told!r} was found in z, not in w: run the published code with --use_w")
    facts = [{"by": "ganspace", "file": Path(path).name, "component": k} for k in components]
    return directed(chosen, layers, generator.codes, facts, units=[float(units[k]) for k in components])


def _array(path: str | Path, name: str) -> np.ndarray:
    """An array of floating point numbers out of a .npz; no other one is read."""
    told = printable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(f"{name}.npy").file_size > MOST_BYTES:
                raise Problem(f"{told!r}: {name!r} is too large for a file of directions")
        with np.load(path, allow_pickle=False) as arrays:
            found = arrays[name]
    except FileNotFoundError:
        raise Problem(f"{told!r} does not exist: name a .npz of GANSpace") from None
    except KeyError:
        raise Problem(f"{told!r} has no {name!r}: name a .npz of GANSpace") from None
    except Problem:
        raise
    except Exception as error:  # a damaged file may break any line of the reader
        raise Problem(f"{told!r} is no .npz of numbers ({type(error).__name__}): copy it again") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or not found.ndim:
        raise Problem(f"{told!r}: {name!r} holds no numbers; name a .npz of GANSpace")
    return found

"""SeFa: directions that change the styles of chosen layers most, read from their weights in closed form.

Shen & Zhou: Closed-Form Factorization of Latent Semantics in GANs, CVPR 2021, arXiv:2007.06600, section 3. A
layer's style is A w + b. The unit vectors n that change it most, max |A n|^2, are the eigenvectors of A^T A with the
largest eigenvalues; of several layers, A is theirs above one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import printable
from fewtoon.latent.direction import Direction, check_layers, directed, moments_of_w
from fewtoon.latent.sources import check_kind
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.style import Style

Colours = Literal["last", "first", "all", "none"]
Unit = Literal["deviation", "length"]
# convention -> whether rows are normalised, which layers that make colours count
CONVENTIONS: dict[str, tuple[bool, Colours]] = {"official": (True, "last"), "rosinality": (False, "first")}


def sefa(
    style: Style,
    components: Sequence[int] = tuple(range(8)),
    *,
    layers: Sequence[int] | None = None,
    normalised: bool = True,
    colours: Colours = "last",
    unit: Unit = "deviation",
    group: str | None = None,
) -> list[Direction]:
    """Directions of a StyleGAN style, those of the largest eigenvalues being component 0, 1 ...

    layers: the style codes whose weights are looked at, and that move; None: all. normalised: each row of A has
    length 1 first, so that every channel counts the same. colours: which of the chosen layers that make colours count
    beside the convolutions: "last", that of the last code, which has no convolution; "first", that of 4 px; all; none.
    The defaults are the authors' code (github.com/genforce/sefa); normalised=False, colours="first" and all layers are
    closed_form_factorization.py of rosinality/stylegan2-pytorch. unit: a standard deviation of w, or "length": 1 as in
    both codes. Each direction's facts have `share`, its part of the sum of eigenvalues.

    Raises Problem for a style that is no StyleGAN, and for layers and components that there are not.
    """
    check_kind(style, "this style")
    method = cast(StyleGAN, style.method)
    codes = method.generator.codes
    layers = tuple(range(codes)) if layers is None else tuple(layers)
    check_layers(layers, codes)
    if colours not in get_args(Colours):
        raise Problem(f"colours {colours!r}: {', '.join(get_args(Colours))}")
    matrix = affine_weights(method, layers, colours).double()
    if normalised:
        matrix = matrix / matrix.norm(dim=1, keepdim=True).clamp(min=1e-12)
    check_components(components, matrix.shape[1])
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)  # rising
    values, vectors = values.flip(0), vectors.flip(1)
    share = (values / values.sum()).tolist()
    told = {"by": "sefa", "normalised": normalised, "colours": colours}
    facts = [{**told, "component": k, "share": share[k]} for k in components]
    return _with_units(style, vectors.T[list(components)], layers, codes, facts, unit, group)


def affine_weights(method: StyleGAN, layers: Sequence[int], colours: Colours) -> Tensor:
    """(sum of channels, W): the weights that make styles of the codes `layers`, below one another, as they act.

    Raises Problem where there are none.
    """
    synthesis = method.generator.synthesis
    found = []
    for k, size in enumerate(synthesis.sizes):
        block = synthesis.block(size)
        places = list(enumerate((conv.affine for conv in block.convs()), max(2 * k - 1, 0)))
        if colours == "all" or (colours == "first" and k == 0) or (colours == "last" and size == method.size):
            places.append((2 * k + 1, block.rgb.affine))
        found += [affine.weight.detach().cpu() * affine.scale for code, affine in places if code in layers]
    if not found:
        raise Problem(
            f"the last style code, {method.generator.codes - 1}, only makes colours: name other layers, or colours"
        )
    return torch.cat(found)


def read_factor(
    style: Style,
    path: str | Path,
    components: Sequence[int] = tuple(range(8)),
    *,
    layers: Sequence[int] | None = None,
    unit: Unit = "deviation",
    group: str | None = None,
) -> list[Direction]:
    """Directions in a factor.pt of rosinality/stylegan2-pytorch: {"ckpt": a name, not looked at, "eigvec": (W, K)}.

    Column k is component k, turned as `sefa` turns its own. Raises Problem for a file that is none, that holds
    anything but tensors and plain containers (nothing in it is run), or that is of another latent space.
    """
    check_kind(style, "this style")
    generator = cast(StyleGAN, style.method).generator
    layers = tuple(range(generator.codes)) if layers is None else tuple(layers)
    check_layers(layers, generator.codes)
    told, content = printable(path), weights.read_torch(path)
    vectors = content.get("eigvec") if isinstance(content, dict) else None
    if not isinstance(vectors, Tensor) or not weights.whole(vectors) or vectors.ndim != 2:
        raise Problem(f"{told!r} has no 'eigvec' as closed_form_factorization.py writes it: another file?")
    width = generator.mapping.average.shape[0]
    if vectors.shape[0] != width:
        raise Problem(
            f"{told!r} has directions of {vectors.shape[0]} numbers, of another generator: this style has {width}"
        )
    check_components(components, vectors.shape[1])
    chosen = vectors.double().T[list(components)]
    if not torch.isfinite(chosen).all() or (chosen.norm(dim=1) - 1).abs().max() > 1e-3:
        raise Problem(f"{told!r} has directions that are not of length 1: the file is damaged, copy it again")
    facts = [{"by": "sefa", "file": Path(path).name, "component": k} for k in components]
    return _with_units(style, chosen, layers, generator.codes, facts, unit, group)


def check_components(components: Sequence[int], count: int) -> None:
    """Raises Problem for numbers of components that are not from 0 to count - 1."""
    for component in components:
        if type(component) is not int or not 0 <= component < count:
            raise Problem(f"component {component!r}: there are 0 to {count - 1}")
    if not components or len(set(components)) < len(components):
        raise Problem(f"components {list(components)}: name at least one, and none twice")


def _with_units(
    style: Style,
    vectors: Tensor,
    layers: Sequence[int],
    codes: int,
    facts: Sequence[Mapping[str, Any]],
    unit: Unit,
    group: str | None,
) -> list[Direction]:
    if unit not in get_args(Unit):
        raise Problem(f"unit {unit!r}: {' or '.join(get_args(Unit))}")
    facts = [{**one, "strength_in": unit} for one in facts]
    if unit == "length":
        return directed(vectors, layers, codes, facts, units=[1.0] * len(vectors))
    return directed(vectors, layers, codes, facts, moments_of_w(style, layers, group).covariance)

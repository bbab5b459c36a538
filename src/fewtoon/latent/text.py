"""Style codes moved until CLIP finds a text in their picture, and then as far along that way as one likes.

Patashnik et al., StyleCLIP, ICCV 2021, arXiv:2103.17249, section 4: latent optimisation
Gal et al., StyleGAN-NADA, 2021, arXiv:2108.00946, eq. 2: the direction between two texts
Back, Fine-Tuning StyleGAN2 for Cartoon Face Generation, 2021, arXiv:2106.12445, eq. 5: the strength of an edit
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem
from fewtoon.nets import mobilefacenet

RAMP_DOWN, RAMP_UP = 0.25, 0.05  # shares of the steps
SOFT = 0.02  # of `towards`: a length that is small beside the distances between unit vectors
NEAR, NEAR_OF_WAYS = 0.008, 0.03  # published, and with a neutral text, whose loss goes on asking for more
SMALLEST_VIEW = 0.8  # side of a view, as a share of the picture's
FACE_SIDE, FACE_FROM = 146, 17  # of `Identity`


@dataclass(frozen=True)
class Recipe:
    """How codes are moved. The settings are those of the published code, except where it says so.

    neutral: what the picture shows already, as "a face": then the way from this text to the other is followed, instead
    of the other's place. steps, rate: of Adam. near: weight of the squared distance to the start. identity: weight of
    the person, where a recognition network is given (the published program has 0 there, its notebook this). space:
    "w+", a code for each layer, or "w", one way for all. layers: those that may move, by the number of their code;
    None: all. views: pictures that CLIP is shown in each step, the whole one and random parts of it (published: 1).
    """

    text: str
    neutral: str | None = None
    steps: int = 300
    rate: float = 0.1
    near: float = NEAR
    identity: float = 0.005
    space: Literal["w", "w+"] = "w+"
    layers: tuple[int, ...] | None = None
    views: int = 1


def check_recipe(recipe: Recipe, codes: int) -> None:
    """Raises Problem for what cannot be. codes: how many the generator takes."""
    r = recipe
    if type(r.steps) is not int or not 1 <= r.steps <= 100_000:
        raise Problem(f"steps {r.steps!r}: a whole number from 1 to 100000; 300 is usual")
    for name, value, most in (
        ("rate", r.rate, 10),
        ("near", r.near, 1000),
        ("identity weight", r.identity, 1000),
    ):
        if not 0 <= value <= most:  # nan fails too
            raise Problem(f"{name} {value:g}: from 0 to {most}")
    if r.space not in ("w", "w+"):
        raise Problem(f"space {r.space!r}: 'w' (one way for all layers) or 'w+' (each layer its own)")
    if type(r.views) is not int or not 1 <= r.views <= 64:
        raise Problem(f"views {r.views!r}: a whole number from 1 to 64")
    if r.layers is not None:
        for layer in r.layers:
            if type(layer) is not int or not 0 <= layer < codes:
                raise Problem(f"layer {layer!r}: this style has {codes}, 0 to {codes - 1}")
        if not r.layers or len(set(r.layers)) < len(r.layers):
            raise Problem(f"layers {list(r.layers)}: name at least one, and none twice")


# --- the way, and how far to go ----------------------------------------------------------------------------


def strength(w: Tensor, start: Tensor, alpha: float) -> Tensor:
    """w' = alpha (w - w_s) + w, w_s the start: the way that w has gone, gone alpha + 1 times (Back, eq. 5).

    -1 is the start, 0 is w, 2 lies three times as far. In the published code "strength" is alpha + 1.
    """
    return torch.lerp(start, w, alpha + 1)  # w_s + (alpha + 1) (w - w_s), exact at -1 and 0


def rate_at(step: int, steps: int, rate: float) -> float:
    """The learning rate in a step: up in the first 20th, down along a cosine in the last quarter."""
    t = step / steps
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / RAMP_DOWN))
    return rate * down * min(1.0, t / RAMP_UP)


# --- losses: one number for each picture -------------------------------------------------------------------


def apart(pictures: Tensor, text: Tensor) -> Tensor:
    """1 - cosine of the unit vectors (B, D) and (D,): (B,). The first term of StyleCLIP, eq. 1.

    Said with CLIP's logits it is 1 - logit / exp(logit scale); the published code takes 100 for that scale.
    """
    return 1 - pictures @ text


def towards(pictures: Tensor, before: Tensor, text: Tensor, neutral: Tensor) -> Tensor:
    """1 - cosine of the pictures' way from `before` and the way from `neutral` to `text`: (B,). StyleGAN-NADA, eq. 2.

    pictures, before: (B, D); text, neutral: (D,); unit vectors all. A picture that has not moved has no direction:
    its length l enters as sqrt(l^2 + SOFT^2), so that the loss is 1 there and its slope finite.
    """
    moved, way = pictures - before, text - neutral
    length = (moved.square().sum(1) + SOFT**2).sqrt()
    return 1 - moved @ F.normalize(way, dim=0) / length


class Identity(nn.Module):
    """1 - cosine of the face vectors of pictures and of their starts, by the network in a file (StyleCLIP, eq. 2).

    framing: how the style's faces are cut out. "portrait" is what MobileFaceNet's crop is made for. Otherwise the faces
    are as in FFHQ: there an upright aligned face, whose eyes and mouth are where recognition networks expect them, is
    112 of 146 px from side to side, and starts at 17 px. Raises Problem for a file of another network.
    """

    def __init__(self, path: str | Path, framing: str) -> None:
        super().__init__()
        self.network, self.framing = mobilefacenet.load(path), framing

    def vectors(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> unit vectors (B, D); differentiable."""
        if self.framing == "portrait":
            return self.network.embed(pictures)
        x = F.interpolate(
            pictures, (FACE_SIDE, FACE_SIDE), mode="bilinear", antialias=True, align_corners=False
        )
        end = FACE_FROM + mobilefacenet.INPUT_SIDE
        return self.network(x[..., FACE_FROM:end, FACE_FROM:end])

    def forward(self, pictures: Tensor, before: Tensor) -> Tensor:
        """Pictures (B, 3, S, S), and vectors (B, D) of their starts: (B,)."""
        return 1 - (self.vectors(pictures) * before).sum(1)


def views(pictures: Tensor, count: int, step: int) -> list[Tensor]:
    """The pictures (B, 3, S, S), and count - 1 times a square part of them: the same for all, and in each step others.

    An edit that survives them is in the picture, not in the pixels of one resizing.
    """
    side = pictures.shape[-1]
    draws = torch.rand(count - 1, 3, generator=torch.Generator().manual_seed(step))
    found = [pictures]
    for size, x, y in draws.tolist():
        part = max(1, round(side * (SMALLEST_VIEW + (1 - SMALLEST_VIEW) * size)))
        left, top = (round(place * (side - part)) for place in (x, y))
        found.append(pictures[..., top : top + part, left : left + part])
    return found


# --- the optimisation --------------------------------------------------------------------------------------


class Moved(NamedTuple):
    """Where codes have come to, and what the losses were."""

    w: Tensor  # (B, codes, W)
    losses: dict[
        str, list[list[float]]
    ]  # "text", "near", "identity": (steps + 1, B), before each step and at the end


def optimise(
    draw: Callable[[Tensor], Tensor],
    clip: Any,
    start: Tensor,
    recipe: Recipe,
    identity: Identity | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Moved:
    """Codes that minimise, picture by picture and from `start` on (StyleCLIP, eq. 1),

        L(w) = 1 - cos(E(G(w)), E(text)) + near |w - w_s|^2 + identity (1 - cos(R(G(w)), R(G(w_s)))).

    draw: G, codes (B, codes, W) to pictures (B, 3, S, S), differentiable, with its noise fixed. clip: E, a
    `fewtoon.io.clip.Clip`. start: w_s (B, codes, W), truncated if it is to be: nothing is truncated here. The squared
    distance is a sum over what moves: over one code in W. Adam goes element by element and no loss knows its
    neighbours, so the pictures of a batch do not depend on each other. Codes of other layers stay as they are, to the
    last bit. Raises Problem for a recipe that cannot be, and where the numbers overflow.
    """
    check_recipe(recipe, start.shape[1])
    aims = clip.texts([recipe.text] if recipe.neutral is None else [recipe.text, recipe.neutral])
    if recipe.neutral is not None and torch.allclose(aims[0], aims[1], atol=1e-6):
        raise Problem(f"{recipe.text!r} and {recipe.neutral!r} are one to CLIP: there is no way between them")
    start = start.detach().clone()
    with torch.no_grad():
        origin = draw(start).clamp(-1, 1)
        whole = clip.pictures(origin)
        person = identity.vectors(origin) if identity is not None else None

    free = torch.zeros(start.shape[1], 1, dtype=torch.bool, device=start.device)
    free[list(range(len(free)) if recipe.layers is None else recipe.layers)] = True
    wide = 1 if recipe.space == "w" else start.shape[1]
    moved = torch.zeros(len(start), wide, start.shape[2], dtype=start.dtype, device=start.device)
    moved.requires_grad_()

    def place() -> Tensor:
        return torch.where(free, start + moved, start)

    def seen(pictures: Tensor, step: int) -> Tensor:
        found = []
        for number, view in enumerate(views(pictures, recipe.views, step)):
            vectors = clip.pictures(view)
            if recipe.neutral is None:
                found.append(apart(vectors, aims[0]))
            else:
                with torch.no_grad():
                    before = clip.pictures(views(origin, recipe.views, step)[number]) if number else whole
                found.append(towards(vectors, before, aims[0], aims[1]))
        return torch.stack(found).mean(0)

    def losses(step: int) -> dict[str, Tensor]:
        pictures = draw(place()).clamp(-1, 1)  # CLIP sees what will be seen
        found = {"text": seen(pictures, step), "near": moved.square().sum((1, 2))}
        if identity is not None and person is not None:
            found["identity"] = identity(pictures, person)
        return found

    weights = {"text": 1.0, "near": recipe.near, "identity": recipe.identity}
    told: dict[str, list[list[float]]] = {}

    def note(found: dict[str, Tensor]) -> None:
        for name, values in found.items():
            told.setdefault(name, []).append(values.detach().cpu().tolist())

    adam = torch.optim.Adam([moved], lr=recipe.rate)
    for step in progress(range(recipe.steps)):
        adam.param_groups[0]["lr"] = rate_at(step, recipe.steps, recipe.rate)
        found = losses(step)
        note(found)
        total = torch.stack([weights[name] * values for name, values in found.items()]).sum()
        if not torch.isfinite(total):
            raise Problem(f"the loss is not a finite number in step {step}: lower --rate {recipe.rate:g}")
        adam.zero_grad()
        total.backward()
        adam.step()
    with torch.no_grad():
        note(losses(recipe.steps))
        w = place()
    if not torch.isfinite(w).all():
        raise Problem(f"the codes are not finite numbers at the end: lower --rate {recipe.rate:g}")
    return Moved(w, told)

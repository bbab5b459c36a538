"""Pictures to style codes, by descent: the mathematics of `fewtoon.latent.project`.

Karras et al., arXiv:1912.04958, appendix D (W, noise on w, noise maps and their regulariser); Abdal, Qin, Wonka:
Image2StyleGAN, arXiv:1904.03189 (W+).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon.errors import Problem, nearest
from fewtoon.latent.sources import Source
from fewtoon.losses.perceptual import Likeness

Space = Literal["w+", "w"]
RAMP_UP, RAMP_DOWN = 0.05, 0.25  # of all steps: where the learning rate rises, and where it falls
QUIET = 0.75  # of all steps: from here on nothing is added to w
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam
SAMPLES = 10_000  # random w, whose spread the noise on w is measured by
NOISE_WEIGHT = 1e5  # of the regulariser of noise maps
BETTER = 0.999  # a loss below this share of the best one is progress


@dataclass(frozen=True)
class Settings:
    """How a picture is projected. Raises Problem for values that will not do."""

    space: Space = "w+"  # a code for each layer, or one for all
    steps: int = 500
    rate: float = 0.1  # of Adam, at its highest
    jitter: float = 0.05  # noise on w at the first step, in units of the spread of w
    pixel: float = 1.0  # weight of the mean squared error of pictures in [-1, 1]
    perceptual: float = 1.0  # weight of the likeness
    pull: float = 0.1  # weight of the distance from the average w: what other styles can draw is near to it
    noise: Literal["fixed", "optimised"] = "fixed"  # the style's own noise maps, or maps for each photo
    patience: int = 50  # steps without progress after which a photo is done
    batch: int = 1  # photos at a time
    seed: int = 0  # of the noise on w

    def __post_init__(self) -> None:
        for name, known in (("space", get_args(Space)), ("noise", ("fixed", "optimised"))):
            if getattr(self, name) not in known:
                raise Problem(f"{name} {getattr(self, name)!r}: {nearest(getattr(self, name), known)}")
        for name, least in (("steps", 0), ("patience", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= 1_000_000:
                raise Problem(f"{name} {value!r}: a whole number from {least} to 1000000")
        for name in ("rate", "jitter", "pixel", "perceptual", "pull"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (name == "rate" and not value):  # nan fails too
                raise Problem(f"{name} {value!r}: a number {'above 0' if name == 'rate' else 'from 0 on'}")
        if not self.pixel and not self.perceptual:
            raise Problem("pixel and perceptual are both 0, so nothing says what to draw: leave one of them")


class Inversion(NamedTuple):
    """Codes of N photos, and how each came about."""

    w: Tensor  # (N, codes, W), or (N, W) in W, float32 on the CPU
    noise: list[Tensor]  # maps (N, 1, r, r), lowest resolution first, where they were optimised
    start: list[float]  # loss of the code that it began with
    loss: list[float]  # of the code that it ended with
    steps: list[int]  # that were taken
    far: list[float]  # distance from the average w, see `distance`
    trace: list[Tensor]  # codes on the way, (N, codes, W), where they were asked for


def average(source: Source) -> Tensor:
    """(codes, W): the average codes of a style, which its truncation moves towards."""
    generator = source.method.generator
    shape = (1, generator.codes, generator.mapping.average.shape[0])
    return source.method.truncated(generator.mapping.average.new_zeros(shape), 0.0)[0]


@torch.no_grad()
def spread(source: Source) -> float:
    """sqrt(E |w - mean w|^2) over `SAMPLES` random z of seed 0, all coordinates together, as the noise on w is
    published (the noise of each coordinate is in units of this)."""
    w = source.method.mapping(source.method.latents(SAMPLES, 0).to(source.style.device))
    return float((w - w.mean(0)).square().sum(-1).mean().sqrt())


def distance(w: Tensor, middle: Tensor, spread: float) -> Tensor:
    """(B, codes, W), (codes, W) -> (B,): mean over the codes of |w - middle|^2 / spread^2, which is about 1 for the
    codes of random pictures."""
    return (w - middle).square().sum(2).mean(1) / spread**2


def rate_at(t: float) -> float:
    """The share of the learning rate at t, 0 to 1, of the way: up in the first 5 % straight, down in the last 25 % as
    half a cosine."""
    down = min(1.0, (1 - t) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / RAMP_UP)


def jitter_at(t: float) -> float:
    """The share of the noise on w at t: max(0, 1 - t / 0.75)^2."""
    return max(0.0, 1 - t / QUIET) ** 2


def clipped(pictures: Tensor) -> Tensor:
    """Pictures as they are shown, in [-1, 1]; the gradient passes as if they were not clipped, so that a pixel that is
    too bright or too dark still finds its way back."""
    return pictures + (pictures.clamp(-1, 1) - pictures).detach()


def noise_penalty(maps: Sequence[Tensor]) -> Tensor:
    """How far noise maps are from white noise: (B, 1, r, r) each -> (B,).

    Sum over maps, and over their halvings down to 8 px, of (mean n(x, y) n(x - 1, y))^2 + (mean n(x, y) n(x, y - 1))^2
    (Karras et al., arXiv:1912.04958, appendix D). A halving is the mean of 2 x 2, doubled, so that white noise stays of
    deviation 1.
    """
    total = maps[0].new_zeros(len(maps[0]))
    for one in maps:
        x = one
        while True:
            for dim in (2, 3):
                total = total + (x * x.roll(1, dim)).mean((1, 2, 3)).square()
            if x.shape[2] <= 8:
                break
            x = F.avg_pool2d(x, 2) * 2
    return total


@dataclass
class _Moving:
    """The photos that still move: one row each in every tensor."""

    rows: list[int]
    photos: Tensor
    wanted: list[Tensor]  # their description by the likeness
    values: list[Tensor]  # what moves: offsets from the average w, then noise maps
    first: list[Tensor] = field(default_factory=list)  # Adam's moments
    second: list[Tensor] = field(default_factory=list)

    def keep(self, mask: list[bool]) -> None:
        at = [k for k, kept in enumerate(mask) if kept]
        self.rows = [self.rows[k] for k in at]
        self.photos = self.photos[at]
        for some in (self.wanted, self.values, self.first, self.second):
            some[:] = [one[at] for one in some]


def invert(
    source: Source,
    photos: Tensor,
    likeness: Likeness,
    settings: Settings,
    start: Tensor | None = None,
    tick: Callable[[int], None] = lambda steps: None,
    keep: int = 0,
) -> Inversion:
    """The codes by which `source` draws `photos`, (N, 3, S, S) in [-1, 1].

    Minimised for each photo x by Adam over w, from `start` (N, codes, W) or the average w:

        perceptual d(G(w + e), x) + pixel mean (G(w + e) - x)^2 + pull distance(w)

    where e is the falling noise on w. The code that is kept is the one of the least loss among those to which no noise
    was added, the start included where there is no noise from the beginning. A photo is done when `patience` such
    steps in a row have brought nothing. e is the same for all photos and each photo's loss is its own: no photo
    depends on its neighbours, to the last bit with a batch of 1, otherwise up to how the device rounds batches of
    other sizes. tick: told the steps that are done with, of N * (steps + 1). keep: how many codes on the way go into
    `trace`. Raises Problem when a loss is not finite.
    """
    parts = []
    middle, scale = average(source), spread(source)
    for first in range(0, len(photos), settings.batch):
        some = slice(first, first + settings.batch)
        begin = None if start is None else start[some]
        parts.append(_descend(source, photos[some], likeness, settings, begin, tick, keep, middle, scale))
    maps = [torch.cat(one) for one in zip(*(part.noise for part in parts))]
    trace = [torch.cat(one) for one in zip(*(part.trace for part in parts))]
    lists = {
        name: [v for part in parts for v in getattr(part, name)] for name in ("start", "loss", "steps", "far")
    }
    return Inversion(torch.cat([part.w for part in parts]), maps, trace=trace, **lists)


def _descend(
    source: Source,
    photos: Tensor,
    likeness: Likeness,
    settings: Settings,
    start: Tensor | None,
    tick: Callable[[int], None],
    keep: int,
    middle: Tensor,
    scale: float,
) -> Inversion:
    synthesis, device, count = source.method.generator.synthesis, source.style.device, len(photos)
    photos = photos.to(device, torch.float32)
    offsets = middle.new_zeros((count, *middle.shape)) if start is None else start.to(middle) - middle
    if settings.space == "w":
        offsets = offsets.mean(1, keepdim=True)
    values = [offsets]
    if settings.noise == "optimised":
        values += [
            torch.as_tensor(one).expand(count, -1, -1, -1).clone() for one in synthesis.draw_noise(1, "fixed")
        ]
    with torch.no_grad():
        wanted = likeness.describe(photos) if settings.perceptual else []
    moving = _Moving(list(range(count)), photos, wanted, values)
    moving.first = [torch.zeros_like(value) for value in values]
    moving.second = [torch.zeros_like(value) for value in values]
    best = [value.clone() for value in values]
    begun, least, progress = [math.nan] * count, [math.inf] * count, [math.inf] * count
    taken, waited = [0] * count, [0] * count
    trace: list[Tensor] = []
    shots = {round(k * settings.steps / max(1, keep - 1)) for k in range(keep)}
    random = torch.Generator().manual_seed(settings.seed)

    for step in range(settings.steps + 1):
        t = step / settings.steps if settings.steps else 1.0
        noisy = settings.jitter * scale * jitter_at(t)
        leaves = [value.detach().requires_grad_() for value in moving.values]
        w = middle + leaves[0]
        seen = w
        if noisy:
            seen = w + noisy * torch.randn(1, *leaves[0].shape[1:], generator=random).to(w)
        picture = clipped(synthesis(seen, leaves[1:] or "fixed"))
        loss = settings.pixel * (picture - moving.photos).square().mean((1, 2, 3))
        if settings.perceptual:
            loss = loss + settings.perceptual * likeness.compare(likeness.describe(picture), moving.wanted)
        if settings.pull:
            loss = loss + settings.pull * distance(w, middle, scale)
        told = loss.detach().tolist()
        whole = loss.sum()
        if leaves[1:]:
            whole = whole + NOISE_WEIGHT * noise_penalty(leaves[1:]).sum()

        for k, row in enumerate(moving.rows):
            if not math.isfinite(told[k]):
                raise Problem(
                    f"the loss of a photo is {told[k]} at step {step}: take a smaller --rate than {settings.rate:g}"
                )
            taken[row] = step
            if not step:
                begun[row] = told[k]
            if noisy:
                continue
            if told[k] < least[row]:
                least[row] = told[k]
                for kept, value in zip(best, moving.values):
                    kept[row] = value[k]
            if told[k] < BETTER * progress[row]:
                progress[row], waited[row] = told[k], 0
            else:
                waited[row] += 1
        if step in shots:
            now = best[0].clone()  # of those that have stopped
            now[moving.rows] = moving.values[0]
            trace.append((middle + now).cpu())
        tick(len(moving.rows))
        if step == settings.steps:
            break
        done = [waited[row] >= settings.patience for row in moving.rows]
        if any(done):
            tick(sum(done) * (settings.steps - step))
        if all(done):
            break
        gradients = torch.autograd.grad(whole, leaves)
        _adam(moving, gradients, step + 1, settings.rate * rate_at((step + 1) / settings.steps))
        if any(done):
            moving.keep([not one for one in done])

    while trace and len(trace) < keep:  # everybody stopped early
        trace.append((middle + best[0]).cpu())
    w = middle + best[0]
    if trace:
        trace[-1] = w.cpu()  # the way ends where the result is
    far = distance(w, middle, scale).tolist()
    one_for_all = settings.space == "w" and bool((middle == middle[0]).all())
    w = w[:, 0] if one_for_all else w
    maps = [one.cpu() for one in best[1:]]
    return Inversion(w.cpu().contiguous(), maps, begun, least, taken, far, trace)


def _adam(moving: _Moving, gradients: Sequence[Tensor], step: int, rate: float) -> None:
    """One step of Adam (Kingma & Ba, arXiv:1412.6980, algorithm 1), by hand because photos leave on the way; noise maps
    are then brought back to mean 0 and deviation 1."""
    slow, fast = (1 - beta**step for beta in BETAS)
    for k, gradient in enumerate(gradients):
        first = moving.first[k].lerp_(gradient, 1 - BETAS[0])
        second = moving.second[k].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        value = moving.values[k] - (rate / slow) * first / ((second / fast).sqrt_().add_(EPSILON))
        if k:
            value = value - value.mean((1, 2, 3), keepdim=True)
            value = value * value.square().mean((1, 2, 3), keepdim=True).rsqrt()
        moving.values[k] = value

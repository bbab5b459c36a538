"""Normalisation, activation, residual and padding as one operation, in the form that was measured to be fast.

Feature maps are (B, C, H, W) and channels last in memory. Everything works in the dtype of its input, so
under bf16 autocast the maps are bf16; statistics and the algebra on (B, C) numbers stay in float32.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-5


def pad_edge(x: Tensor, pad: int, mode: str = "reflect") -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 pad, W + 2 pad), in the dtype of x."""
    with torch.autocast(x.device.type, enabled=False):  # autocast would make it float32
        return F.pad(x, (pad, pad, pad, pad), mode=mode)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over positions, float32 (B, C), in two passes (safe for a large mean)."""
    b, c, h, w = x.shape
    count = h * w
    rows = x.permute(0, 2, 3, 1).reshape(b, count, c)
    mean = rows.sum(1, dtype=torch.float32) / count
    pivot = mean.to(x.dtype)
    squares = (rows - pivot[:, None]).square_().sum(1, dtype=torch.float32) / count
    return mean, (squares - (mean - pivot).square()).clamp_min_(0)  # the pivot is rounded in bf16


def _mixes(rho: Tensor | float) -> bool:
    """Whether the layer's moments take part, beside those of its channels."""
    return not (isinstance(rho, float) and rho == 1.0)


class _Algebra:
    """A normalisation as one scale and one shift per sample and channel, all float32 (B, C), and its gradient.

    Instance norm and layer norm differ only in whose moments they use, and the moments of the layer follow
    from those of its channels; so rho * instance + (1 - rho) * layer is again one affine map:
    scale = gamma * a and shift = gamma * b + beta, with a = rho s + (1 - rho) t, b = -rho s m - (1 - rho) t l,
    where m, s are mean and inverse deviation of a channel and l, t those of the layer.
    """

    def __init__(self, mean, var, gamma, beta, rho, count, correction):
        # `var` is over `count` = H * W positions; `correction` 1 makes both variances unbiased.
        self.mean, self.gamma, self.rho, self.count = mean, gamma, rho, count
        self.stretch = count / max(count - correction, 1)
        self.s = torch.rsqrt(var * self.stretch + EPS)
        a, b = self.s, -mean * self.s
        self.mixed = _mixes(rho)
        if self.mixed:
            self.rest = mean.shape[1] * count - correction
            self.l = mean.mean(1, keepdim=True)
            self.apart = mean - self.l
            total = count * (var + self.apart.square()).sum(1, keepdim=True)
            self.t = torch.rsqrt(total / self.rest + EPS)
            a = torch.lerp(self.t, a, rho) if isinstance(rho, Tensor) else self.t.expand_as(a)
            self.b_instance, self.b_layer = b, -self.l * self.t
            b = torch.lerp(self.b_layer, b, rho) if isinstance(rho, Tensor) else self.b_layer.expand_as(b)
        self.a, self.b = a, b
        self.scale: Tensor = a if gamma is None else a * gamma
        self.shift: Tensor = b if gamma is None else b * gamma
        if beta is not None:
            self.shift = self.shift + beta

    def backward(
        self, d_scale: Tensor, d_shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Gradients of mean, var, gamma and rho; that of beta is d_shift."""
        d_gamma = d_rho = None
        d_a, d_b = d_scale, d_shift
        if self.gamma is not None:
            d_gamma = d_scale * self.a + d_shift * self.b
            d_a, d_b = d_scale * self.gamma, d_shift * self.gamma
        if not self.mixed:
            return -d_b * self.s, (d_a - d_b * self.mean) * (-0.5 * self.stretch) * self.s**3, d_gamma, None
        rho = self.rho
        if isinstance(rho, Tensor):
            d_rho = (d_a * (self.s - self.t) + d_b * (self.b_instance - self.b_layer)).sum(0)
        d_s = rho * (d_a - d_b * self.mean)
        d_mean = -rho * d_b * self.s
        d_t = ((1 - rho) * (d_a - d_b * self.l)).sum(1, keepdim=True)
        d_l = -((1 - rho) * d_b).sum(1, keepdim=True) * self.t
        d_total = d_t * (-0.5 * self.count / self.rest) * self.t**3  # of the sum of squares, per position
        d_mean = d_mean + d_l / self.mean.shape[1] + 2 * d_total * self.apart
        return d_mean, d_s * (-0.5 * self.stretch) * self.s**3 + d_total, d_gamma, d_rho


class _NormAct(torch.autograd.Function):
    """See `norm_act`. By hand because autograd would keep and re-read five maps where two suffice."""

    @staticmethod
    def forward(ctx, x, gamma, beta, rho, residual, relu, pad, correction):
        assert not (relu and residual is not None)  # the output's sign tells where the ReLU was open
        mean, var = _moments(x)
        algebra = _Algebra(mean, var, gamma, beta, rho, x.shape[2] * x.shape[3], correction)
        out = torch.addcmul(_map(algebra.shift, x), x, _map(algebra.scale, x))
        if relu:
            out.clamp_min_(0)
        if residual is not None:
            out.add_(residual)
        if pad:
            out = pad_edge(out, pad)
        ctx.relu, ctx.pad, ctx.correction, ctx.fixed_rho = (
            relu,
            pad,
            correction,
            rho if isinstance(rho, float) else None,
        )
        ctx.sizes = tuple(None if t is None else t.shape for t in (gamma, beta))
        ctx.save_for_backward(
            x, mean, var, gamma, beta, None if isinstance(rho, float) else rho, out if relu else None
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, mean, var, gamma, beta, rho, out = ctx.saved_tensors
        h, w, pad = x.shape[2], x.shape[3], ctx.pad
        grad = grad.contiguous(memory_format=torch.channels_last)
        if pad:
            grad = torch.ops.aten.reflection_pad2d_backward(grad, x, [pad] * 4)
        if ctx.relu:
            inner = out[:, :, pad : pad + h, pad : pad + w]
            passed = torch.empty_like(x)
            grad = torch.ops.aten.threshold_backward.grad_input(grad, inner, 0, grad_input=passed)
        algebra = _Algebra(
            mean, var, gamma, beta, ctx.fixed_rho if rho is None else rho, h * w, ctx.correction
        )
        d_shift = grad.sum((2, 3), dtype=torch.float32)
        pivot = mean.to(x.dtype)
        d_scale = ((x - pivot[:, :, None, None]) * grad).sum((2, 3), dtype=torch.float32) + pivot * d_shift
        d_mean, d_var, d_gamma, d_rho = algebra.backward(d_scale, d_shift)
        d_x = None
        if ctx.needs_input_grad[0]:
            slope = 2 * d_var / (h * w)  # d var / d x = 2 (x - mean) / count
            offset = d_mean / (h * w) - slope * mean
            d_x = torch.addcmul(_map(offset, x), x, _map(slope, x))
            d_x.addcmul_(grad, _map(algebra.scale, x))
        if d_gamma is not None:
            d_gamma = d_gamma.sum_to_size(ctx.sizes[0])
        d_beta = None if beta is None else d_shift.sum_to_size(ctx.sizes[1])
        d_residual = grad if ctx.needs_input_grad[4] else None
        return d_x, d_gamma, d_beta, d_rho, d_residual, None, None, None


def _few_launches(x, gamma, beta, rho, residual, relu, pad, correction):
    """`_NormAct` by autograd, for a GPU, where a launch costs more than another pass over the map."""
    if gamma is None and beta is None and not _mixes(rho):
        with torch.autocast(x.device.type, enabled=False):
            out = F.instance_norm(x, eps=EPS)
    else:
        var, mean = torch.var_mean(x.float(), (2, 3), correction=0)
        algebra = _Algebra(mean, var, gamma, beta, rho, x.shape[2] * x.shape[3], correction)
        out = torch.addcmul(_map(algebra.shift, x), x, _map(algebra.scale, x))
    if relu:
        out = out.relu()
    if residual is not None:
        out = out + residual
    return pad_edge(out, pad) if pad else out


def _map(numbers: Tensor, like: Tensor) -> Tensor:
    """(B, C) numbers, to be spread over the map `like`."""
    return numbers.to(like.dtype)[:, :, None, None]


def norm_act(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    rho: Tensor | float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    pad: int = 0,
) -> Tensor:
    """[pad by reflection] of [residual +] [relu of] gamma * (rho * IN(x) + (1 - rho) * LN(x)) + beta.

    x: (B, C, H, W); gamma, beta: (B, C) or (1, C) or None; rho: (C,), or 1.0 for instance norm and 0.0 for
    layer norm; residual: (B, C, H, W), not together with relu; pad < min(H, W).
    Returns (B, C, H + 2 pad, W + 2 pad). AdaLIN of Kim et al., U-GAT-IT, arXiv:1907.10830, eq. 1; with
    rho = 1 it is AdaIN (Huang & Belongie, arXiv:1703.06868).

    As in the published code the variance is unbiased where there is a gamma, and biased in the plain instance
    norm (that of `torch.nn.InstanceNorm2d`) without one.
    """
    if gamma is not None:
        gamma = gamma.float()
    if beta is not None:
        beta = beta.float()
    x = x.contiguous(memory_format=torch.channels_last)
    apply = _few_launches if x.is_cuda else _NormAct.apply
    return apply(x, gamma, beta, rho, residual, relu, pad, 0 if gamma is None else 1)


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, padded, pad):
        ctx.pad = pad
        return padded[:, :, pad:-pad, pad:-pad]

    @staticmethod
    def backward(ctx, grad):
        return F.pad(grad, [ctx.pad] * 4), None  # one pass; two slices would take two


def inside(padded: Tensor, pad: int = 1) -> Tensor:
    """The unpadded part of what `norm_act` returned."""
    return _Inside.apply(padded, pad)


class Norm(nn.Module):
    """A normalisation with its own parameters, followed by what `norm_act` offers.

    kind: "lin" (layer-instance norm: rho starts at 0, that is layer norm), "instance" (no parameters),
    "layer" (gamma and beta per channel).
    """

    def __init__(self, channels: int, kind: str = "instance") -> None:
        super().__init__()
        self.kind = kind
        if kind in ("lin", "layer"):
            self.gamma = nn.Parameter(torch.ones(channels))
            self.beta = nn.Parameter(torch.zeros(channels))
        if kind == "lin":
            self.rho = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, relu: bool = False, pad: int = 0) -> Tensor:
        if self.kind == "instance":
            return norm_act(x, relu=relu, pad=pad)
        rho = self.rho if self.kind == "lin" else 0.0
        return norm_act(x, self.gamma[None], self.beta[None], rho, relu=relu, pad=pad)


class AdaptiveNorm(nn.Module):
    """A normalisation whose gamma and beta (B, C) come from outside.

    kind: "adalin" (rho starts at 0.9), "adain", "adaln"; or "instance", "layer", which take none.
    """

    FIXED_RHO: ClassVar[dict[str, float]] = {"adain": 1.0, "instance": 1.0, "adaln": 0.0, "layer": 0.0}

    def __init__(self, channels: int, kind: str = "adalin") -> None:
        super().__init__()
        self.kind = kind
        if kind not in self.FIXED_RHO:
            self.rho = nn.Parameter(torch.full((channels,), 0.9))

    def forward(
        self,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        residual: Tensor | None = None,
        relu: bool = False,
        pad: int = 0,
    ) -> Tensor:
        rho = self.FIXED_RHO.get(self.kind)
        return norm_act(x, gamma, beta, self.rho if rho is None else rho, residual, relu, pad)


@torch.no_grad()
def clip_mixing(network: nn.Module, low: float = 0.0, high: float = 1.0) -> None:
    """Clamp every `rho` (and Soft-AdaLIN's `w_gamma`, `w_beta`) to [low, high], after the optimiser's step."""
    for name, parameter in network.named_parameters():
        if name.rsplit(".", 1)[-1] in ("rho", "w_gamma", "w_beta"):
            parameter.clamp_(low, high)

"""Layers that the translators share, in the forms that were measured to be fast.

Feature maps are (B, C, H, W) and channels last in memory. Every layer works in the dtype of its input, so
under bf16 autocast the feature maps are bf16; statistics and the algebra on (B, C) numbers stay in float32.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-5


# --- normalisation, activation, residual and padding as one operation -----------------------------------


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
        self.mixed = not (isinstance(rho, float) and rho == 1.0)
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
    return _NormAct.apply(x, gamma, beta, rho, residual, relu, pad, 0 if gamma is None else 1)


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


def cast(x: Tensor) -> Tensor:
    """x in the dtype of the surrounding autocast, if there is one."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


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


# --- convolutions ----------------------------------------------------------------------------------------


# Rows: taps of a 4-tap transposed kernel; columns: taps of the 3-tap kernel that they are sums of.
_UP = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def conv_upsampled(x: Tensor, weight: Tensor) -> Tensor:
    """Nearest upsampling x2, reflection padding by 1 and a 3x3 convolution, without ever building the large map.

    Pixels of the upsampled map repeat, so each output pixel needs only a 2x2 neighbourhood of x with summed
    weights: one transposed convolution with a 4x4 kernel, 16/36 of the multiplications. Reflecting the
    upsampled map by one pixel repeats its edge, which is replicate padding of x.
    x: (B, I, H, W), weight: (O, I, 3, 3) -> (B, O, 2H, 2W).
    """
    sums = torch.tensor(_UP, dtype=weight.dtype, device=weight.device)
    o, i = weight.shape[:2]
    with torch.autocast(weight.device.type, enabled=False):
        kernel = (sums @ weight.reshape(o * i, 3, 3) @ sums.T).reshape(o, i, 4, 4).transpose(0, 1)
    kernel = kernel.to(x.dtype).contiguous(memory_format=torch.channels_last)
    padded = pad_edge(x, 1, mode="replicate")
    return F.conv_transpose2d(padded, kernel, stride=2, padding=3)


def conv_to_rgb(x: Tensor, weight: Tensor) -> Tensor:
    """A stride-1 convolution to few channels, two by two output pixels at a time.

    Three output channels leave most of a vector register empty. Regrouping 2x2 pixels into channels makes
    it a 12-channel convolution of half the size, about twice as fast on a CPU.
    x: (B, I, H, W) already padded, H and W even; weight: (O, I, K, K), K odd -> (B, O, H - K + 1, W - K + 1).
    """
    if x.device.type != "cpu":
        return F.conv2d(x, weight.to(x.dtype))
    o, i, k, _ = weight.shape
    b, _, h, w = x.shape
    n = (k + 1) // 2
    # The kernel of output phase (p, q) is the kernel moved by (p, q) on the full-size grid.
    moved = torch.stack([F.pad(weight, (q, 1 - q, p, 1 - p)) for p in (0, 1) for q in (0, 1)])
    kernel = moved.reshape(4 * o, i, n, 2, n, 2).permute(0, 3, 5, 1, 2, 4).reshape(4 * o, 4 * i, n, n)
    kernel = kernel.to(x.dtype).contiguous(memory_format=torch.channels_last)
    rows = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, i)
    grouped = rows.permute(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * i).permute(0, 3, 1, 2)
    y = F.conv2d(grouped, kernel).permute(0, 2, 3, 1)  # (B, h, w, 2 * 2 * O)
    hh, ww = y.shape[1:3]
    y = y.reshape(b, hh, ww, 2, 2, o).permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * hh, 2 * ww, o)
    return y.permute(0, 3, 1, 2)


def conv_to_one(x: Tensor, weight: Tensor) -> Tensor:
    """A stride-1 convolution to one channel: a product per pixel with all taps, then a sum of shifted maps.

    x: (B, I, H, W) already padded; weight: (1, I, K, K) -> (B, 1, H - K + 1, W - K + 1).
    """
    k, (height, width) = weight.shape[2], x.shape[2:]
    h, w = height - k + 1, width - k + 1
    taps = F.linear(
        x.permute(0, 2, 3, 1), weight[0].permute(1, 2, 0).flatten(0, 1).to(x.dtype)
    )  # (B, H, W, K K)
    shifted = [taps[:, a : a + h, b : b + w, a * k + b] for a in range(k) for b in range(k)]
    return torch.stack(shifted, 1).sum(1, dtype=torch.float32)[:, None]


def _as_matrix(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is fastest as one matrix product: its kernel is far larger than its map."""
    return x.device.type == "cpu" and weight.shape[1] >= 256 and x.shape[0] * x.shape[2] * x.shape[3] <= 256


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """(B, I, H, W) -> (B, h, w, K, K, I), a copy with every window's pixels in a row."""
    return x.unfold(2, kernel, stride).unfold(3, kernel, stride).permute(0, 2, 3, 4, 5, 1).contiguous()


def _rows(weight: Tensor) -> Tensor:
    """A convolution's (O, I, K, K) or a linear layer's (O, I) weight as a matrix; a view, if channels last."""
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)


class _SpectralConv(torch.autograd.Function):
    """conv(x, weight) / sigma + bias, with sigma = u^T W v differentiated through W.

    By hand so that the gradient through sigma, the outer product u v^T of the size of the weight, is added in
    place (or as one more row of the matrix product) instead of being built and summed.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, sigma, u, v, stride):
        ctx.matrix = _as_matrix(x, weight)
        if ctx.matrix:  # in float32: reading the weight is the cost, and casting it would read it twice
            windows = _windows(x, weight.shape[2], stride)
            rows = windows.flatten(3).flatten(0, 2).float()
            y = (rows @ _rows(weight).T).view(*windows.shape[:3], -1).permute(0, 3, 1, 2).to(x.dtype)
        else:
            y = F.conv2d(x, weight.to(x.dtype), stride=stride)
        y = y.div_(sigma.to(y.dtype))
        ctx.stride, ctx.biased = stride, bias is not None
        ctx.save_for_backward(x, weight, sigma, u, v, y)
        return y if bias is None else y + bias.to(y.dtype)[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, sigma, u, v, y = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad = grad.contiguous(memory_format=torch.channels_last)
        d_bias = grad.sum((0, 2, 3), dtype=torch.float32) if ctx.biased and ctx.needs_input_grad[2] else None
        d_sigma = -(grad * y).sum(dtype=torch.float32) / sigma
        grad = grad.to(x.dtype) / sigma.to(x.dtype)
        d_x = d_weight = None
        if ctx.matrix:
            o, i, k, _ = weight.shape
            rows_grad = grad.permute(0, 2, 3, 1).flatten(0, 2).float()  # (B h w, O)
            if need_x:
                d_windows = (rows_grad @ _rows(weight)).to(x.dtype)
                d_windows = d_windows.view(*(grad.shape[j] for j in (0, 2, 3)), k, k, i)
                d_x = torch.zeros_like(x)
                h, w = grad.shape[2:]
                for row in range(k):
                    for column in range(k):
                        part = d_x[
                            :,
                            :,
                            row : row + h * ctx.stride : ctx.stride,
                            column : column + w * ctx.stride : ctx.stride,
                        ]
                        part += d_windows[:, :, :, row, column].permute(0, 3, 1, 2)
            if need_weight:
                rows = _windows(x, k, ctx.stride).flatten(3).flatten(0, 2).float()
                rows_grad = torch.cat([rows_grad, (u * d_sigma)[None]])
                d_weight = rows_grad.T @ torch.cat([rows, v[None]])
                d_weight = d_weight.view(o, k, k, i).permute(0, 3, 1, 2)
        else:
            stride, zero, one = [ctx.stride] * 2, [0, 0], [1, 1]
            d_x, d_weight, _ = torch.ops.aten.convolution_backward(
                grad,
                x,
                weight.to(x.dtype),
                None,
                stride,
                zero,
                one,
                False,
                zero,
                1,
                [need_x, need_weight, False],
            )
            if need_weight:
                d_weight = d_weight.float().contiguous(memory_format=torch.channels_last)
                _rows(d_weight).addr_(u * d_sigma, v)
        return d_x, d_weight, d_bias, None, None, None, None


class SpectralNorm(nn.Module):
    """A convolution or linear layer under spectral normalisation (Miyato et al., arXiv:1802.05957).

    The layer is linear, so the largest singular value divides its output instead of its weight: the large
    weight is neither copied nor divided. sigma = u^T W v is differentiated through W, u and v are constants
    that one power iteration per training forward keeps up to date.
    """

    u: Tensor  # (O,) left singular vector of the weight as a matrix
    v: Tensor  # (K * K * I,), or (I,) of a linear layer: right singular vector, rows before columns before channels

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        self.register_buffer("u", F.normalize(torch.randn(self.weight.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(self.weight[0].numel()), dim=0))
        if not self.weight.is_meta:  # built without memory, to count or to compare shapes
            for _ in range(15):
                self.sigma(update=True)

    @torch.no_grad()
    def sigma(self, update: bool) -> Tensor:
        """The largest singular value as estimated by u and v, a float32 scalar; `update`: improve them first."""
        matrix = _rows(self.weight)
        with torch.autocast(matrix.device.type, enabled=False):
            if not update:
                return self.u @ (matrix @ self.v)
            # New tensors, so that the graph of an earlier forward keeps its own.
            self.v = F.normalize(self.u @ matrix, dim=0)
            left = matrix @ self.v
            length = left.norm().clamp_min(1e-12)
            self.u = left / length
            return length

    def forward(self, x: Tensor, update: bool = False) -> tuple[Tensor, Tensor]:
        """(B, I, H, W), already padded, or (B, I): the normalised output, and sigma."""
        sigma = self.sigma(update)
        if self.weight.shape[0] > 1 and self.weight.ndim == 4:
            return _SpectralConv.apply(x, self.weight, self.bias, sigma, self.u, self.v, self.stride), sigma
        if torch.is_grad_enabled() and self.weight.requires_grad:
            sigma = self.u @ (_rows(self.weight) @ self.v)  # small: autograd differentiates it
        if self.weight.ndim == 4:
            return conv_to_one(x, self.weight / sigma), sigma
        return F.linear(x, self.weight / sigma, self.bias), sigma


# --- class activation mapping ----------------------------------------------------------------------------


def attend(x: Tensor, average: Tensor, maximum: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """CAM attention followed by its 1x1 convolution: conv(cat(x * average, x * maximum)), as one C x C product.

    x: (B, C, H, W); average, maximum: (C,) attention weights; weight: (C, 2C); bias: (C,).
    Zhou et al., arXiv:1512.04150; Kim et al., arXiv:1907.10830, section 2.1.1.
    """
    c = x.shape[1]
    mixed = weight[:, :c] * average + weight[:, c:] * maximum  # (C, C)
    return F.linear(x.permute(0, 2, 3, 1), mixed, bias).permute(0, 3, 1, 2)


def pools(x: Tensor) -> tuple[Tensor, Tensor]:
    """Global average and maximum over positions, float32 (B, C) each."""
    flat = x.permute(0, 2, 3, 1).flatten(1, 2)
    return flat.mean(1, dtype=torch.float32), flat.amax(1).float()

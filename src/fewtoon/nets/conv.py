"""Convolutions in the forms that were measured to be fast, spectral normalisation, and CAM attention.

Feature maps are (B, C, H, W) and channels last in memory, in the dtype of the surrounding autocast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fewtoon.nets.norm import pad_edge


def cast(x: Tensor) -> Tensor:
    """x in the dtype of the surrounding autocast, if there is one."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


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

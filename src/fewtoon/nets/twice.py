"""Convolutions that stay fast when they are differentiated twice, as R1 and path length regularisation do, and
the up- and downsampling filter of StyleGAN.

A convolution is linear in its picture and in its weight, so its gradients are convolutions of the same kind:

    y = conv(x, w)        dx = transposed conv(dy, w)        dw = correlation(x, dy)

and each of these three has the other two as its gradients. So the second derivative needs no other operation
than the first; torch's own second derivative of a convolution builds a convolution with kernels as large as
the feature map.

Feature maps are (B, C, H, W), channels last in memory, in the dtype of the surrounding autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = (1.0, 3.0, 3.0, 1.0)  # of the filter, / 8 (Karras et al., arXiv:1912.04958)

_weights_aside = False


@contextlib.contextmanager
def weights_aside() -> Iterator[None]:
    """Within it, a backward pass computes no gradients of weights: for gradients with respect to pictures, of
    which torch does not tell a function that they are all that is asked for."""
    global _weights_aside
    before, _weights_aside = _weights_aside, True
    try:
        yield
    finally:
        _weights_aside = before


def convolve(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """(B, I, H, W), (O, I, K, K) -> (B, O, H', W'), differentiable any number of times."""
    return _Conv.apply(x, weight, stride, padding)


def convolve_transposed(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(B, O, H, W), (O, I, K, K) -> (B, I, (H - 1) * stride + K, ...): the transpose of `convolve` unpadded."""
    size = [(side - 1) * stride + weight.shape[2] for side in x.shape[2:]]
    return _ConvInput.apply(x, weight, size, stride, 0)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, which: tuple[bool, bool]
) -> Tensor:
    """One of the gradients of a convolution: with respect to x or to its weight."""
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [*which, False]
    )
    return found[0 if which[0] else 1]


class _Conv(torch.autograd.Function):
    """x, w -> y."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _ConvInput.apply(grad, weight, list(x.shape[2:]), *ctx.how)
        if ctx.needs_input_grad[1] and not _weights_aside:
            dw = _ConvWeight.apply(x, grad, weight.shape[2], *ctx.how)
        return dx, dw, None, None


class _ConvInput(torch.autograd.Function):
    """dy, w -> dx."""

    @staticmethod
    def forward(ctx, grad, weight, size, stride, padding):
        ctx.save_for_backward(grad, weight)
        ctx.how = stride, padding
        like = grad.new_empty((len(grad), weight.shape[1], *size)).contiguous(
            memory_format=torch.channels_last
        )
        return _backward(grad, like, weight, stride, padding, (True, False))

    @staticmethod
    def backward(ctx, dd):
        grad, weight = ctx.saved_tensors
        d_grad = d_weight = None
        if ctx.needs_input_grad[0]:
            d_grad = _Conv.apply(dd, weight, *ctx.how)
        if ctx.needs_input_grad[1] and not _weights_aside:
            d_weight = _ConvWeight.apply(dd, grad, weight.shape[2], *ctx.how)
        return d_grad, d_weight, None, None, None


class _ConvWeight(torch.autograd.Function):
    """x, dy -> dw."""

    @staticmethod
    def forward(ctx, x, grad, kernel, stride, padding):
        ctx.save_for_backward(x, grad)
        ctx.how = stride, padding
        like = x.new_empty((grad.shape[1], x.shape[1], kernel, kernel)).contiguous(
            memory_format=torch.channels_last
        )
        return _backward(grad, x, like, stride, padding, (False, True))

    @staticmethod
    def backward(ctx, dd):
        x, grad = ctx.saved_tensors
        dx = d_grad = None
        if ctx.needs_input_grad[0]:
            dx = _ConvInput.apply(grad, dd, list(x.shape[2:]), *ctx.how)
        if ctx.needs_input_grad[1]:
            d_grad = _Conv.apply(x, dd, *ctx.how)
        return dx, d_grad, None, None, None


# --- the filter --------------------------------------------------------------------------------------------


def smooth(x: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
    """Every channel through the filter [1, 3, 3, 1] x [1, 3, 3, 1] / 64, zeros outside.

    (B, C, H, W) -> (B, C, (H + 2 padding - 4) // stride + 1, ...).
    """
    return _Smooth.apply(x, padding, stride, gain)


def _kernel(channels: int, gain: float, like: Tensor) -> Tensor:
    taps = torch.tensor(TAPS, device=like.device)
    kernel = (taps[:, None] * taps * (gain / 64)).to(like.dtype)
    return kernel.expand(channels, 1, 4, 4)


class _Smooth(torch.autograd.Function):
    """The filter is its own mirror image, so its gradient is the transposed convolution with the same kernel."""

    @staticmethod
    def forward(ctx, x, padding, stride, gain):
        ctx.how, ctx.size = (padding, stride, gain), x.shape[2:]
        return F.conv2d(x, _kernel(x.shape[1], gain, x), stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, grad):
        return _SmoothBack.apply(grad, ctx.size, *ctx.how), None, None, None


class _SmoothBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, size, padding, stride, gain):
        ctx.how = padding, stride, gain
        channels = grad.shape[1]
        kernel = _kernel(channels, gain, grad)
        if stride == 1:
            return F.conv2d(grad, kernel, padding=3 - padding, groups=channels)
        rest = [side - ((had - 1) * stride + 4 - 2 * padding) for side, had in zip(size, grad.shape[2:])]
        return F.conv_transpose2d(
            grad, kernel, stride=stride, padding=padding, output_padding=rest, groups=channels
        )

    @staticmethod
    def backward(ctx, dd):
        return _Smooth.apply(dd, *ctx.how), None, None, None, None


def upsampled(x: Tensor) -> Tensor:
    """Twice the size by the same filter: (B, C, H, W) -> (B, C, 2H, 2W). For few channels: two matrix products."""
    rows, columns = (_up_matrix(side, x) for side in x.shape[2:])
    return rows @ x @ columns.T


def _up_matrix(side: int, like: Tensor) -> Tensor:
    """(2 side, side): zeros between the samples, then [1, 3, 3, 1] / 4, which is [1, 3, 3, 1] / 8 times two."""
    matrix = torch.zeros(2 * side, side, dtype=like.dtype, device=like.device)
    place = torch.arange(side, device=like.device)
    for offset, tap in zip((-1, 0, 1, 2), TAPS):
        row = 2 * place + offset
        inside = (row >= 0) & (row < 2 * side)
        matrix[row[inside], place[inside]] = tap / 4
    return matrix

"""The two forms of the normalisation: by hand for a CPU, by autograd for a GPU."""

import pytest
import torch

from fewtoon.nets import norm


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rho", [1.0, 0.0, "each"])
@pytest.mark.parametrize(("relu", "residual", "pad"), [(True, False, 1), (False, True, 0), (False, True, 1)])
def test_the_form_for_a_gpu_is_the_same_operation(affine, rho, relu, residual, pad):
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 6, 5) * 2 + 3).contiguous(memory_format=torch.channels_last)
    inputs = [
        x,
        *(torch.randn(2, 3) for _ in range(2 if affine else 0)),
        *([torch.rand(3)] if rho == "each" else []),
    ]
    results = []
    for form in (norm._NormAct.apply, norm.few_launches):
        own = [t.clone().requires_grad_() for t in inputs]
        gamma, beta = own[1:3] if affine else (None, None)
        mix = own[-1] if rho == "each" else rho
        out = form(own[0], gamma, beta, mix, x.flip(2) if residual else None, relu, pad, int(affine))
        weight = torch.arange(out.numel()).reshape(out.shape).cos()
        results.append([out, *torch.autograd.grad((out * weight).sum(), own)])
    for by_hand, by_autograd in zip(*results):
        torch.testing.assert_close(by_autograd, by_hand, rtol=1e-4, atol=1e-4)

"""The fast layers against plain restatements: values and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.nets import conv, norm
from fewtoon.nets.conv import SpectralNorm, attend, conv_to_one, conv_to_rgb, conv_upsampled, pools
from fewtoon.nets.norm import AdaptiveNorm, Norm, clip_mixing, inside, norm_act, pad_edge

B, C, H, W = 2, 5, 6, 7


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def doubled(tensor: Any) -> Any:
    """A float64 copy that collects its own gradient."""
    return tensor.detach().double().requires_grad_() if isinstance(tensor, Tensor) else tensor


def assert_same(
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    arguments: list[Tensor | float | None],
    tolerance: float = 2e-5,
) -> None:
    """ours(*arguments) in float32 and plain(*arguments) in float64: equal values and gradients of all tensors."""
    mine: list[Any] = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]
    theirs = [doubled(a) for a in arguments]
    out, expected = ours(*mine), plain(*theirs)
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    weighing = torch.randn(out.shape)
    (out * weighing).sum().backward()
    (expected * weighing.double()).sum().backward()
    for place, (a, b) in enumerate(zip(mine, theirs)):
        if isinstance(a, Tensor):
            assert (a.grad is None) == (b.grad is None), f"argument {place}"
            if a.grad is not None and b.grad is not None:
                scale = b.grad.abs().max().clamp_min(1).item()
                error = (a.grad.double() - b.grad).abs().max().item()
                assert error < 5 * tolerance * scale, f"gradient of argument {place}: off by {error}"


# --- normalisation ---------------------------------------------------------------------------------------


def plain_norm_act(x, gamma, beta, rho, residual, relu, pad):
    """The definition of AdaLIN, step by step."""
    unbiased = gamma is not None
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=unbiased)
    instance = (x - mean) / (var + 1e-5).sqrt()
    mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=unbiased)
    layer = (x - mean) / (var + 1e-5).sqrt()
    if isinstance(rho, Tensor):
        rho = rho[:, None, None]
    y = rho * instance + (1 - rho) * layer
    if gamma is not None:
        y = y * gamma[:, :, None, None]
    if beta is not None:
        y = y + beta[:, :, None, None]
    y = y.relu() if relu else y
    y = y if residual is None else y + residual
    return F.pad(y, [pad] * 4, mode="reflect") if pad else y


@pytest.fixture(params=["few passes", "few launches"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`norm_act` as it is on a CPU, and then as it is on a GPU."""
    if request.param == "few launches":
        monkeypatch.setattr(norm._NormAct, "apply", norm._few_launches)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("pad", range(4))
@pytest.mark.parametrize("after", ["nothing", "relu", "residual"])
@pytest.mark.parametrize("rows", [None, B, 1])
@pytest.mark.parametrize("rho", ["instance", "layer", "mixed"])
def test_norm_act(rho: str, rows: int | None, after: str, pad: int) -> None:
    # Channels of different mean and deviation: instance and layer norm are far apart.
    x = torch.randn(B, C, H, W) * torch.linspace(0.3, 3, C)[:, None, None] + torch.arange(C)[:, None, None]
    mixing: Any = {"instance": 1.0, "layer": 0.0, "mixed": torch.rand(C)}[rho]
    gamma = None if rows is None else torch.randn(rows, C)
    beta = None if rows is None else torch.randn(rows, C)
    residual = torch.randn(B, C, H, W) if after == "residual" else None
    assert_same(
        lambda x, g, b, m, r: norm_act(x, g, b, m, r, after == "relu", pad),
        lambda x, g, b, m, r: plain_norm_act(x, g, b, m, r, after == "relu", pad),
        [x, gamma, beta, mixing, residual],
    )


@pytest.mark.usefixtures("form")
def test_norm_act_survives_a_large_mean() -> None:
    """One pass over x^2 would lose all digits here."""
    x = 1000 + torch.randn(1, 2, 8, 8)
    expected = plain_norm_act(x.double(), None, None, 1.0, None, False, 0)
    torch.testing.assert_close(norm_act(x).double(), expected, atol=2e-3, rtol=0)


@pytest.mark.usefixtures("form")
def test_norm_act_of_a_constant_map_is_beta() -> None:
    gamma, beta = torch.ones(1, 2), torch.tensor([[0.5, -1.0]])
    x: Any = torch.full((1, 2, 4, 4), 3.0, requires_grad=True)
    y = norm_act(x, gamma, beta)
    y.sum().backward()
    torch.testing.assert_close(y[0, :, 0, 0], beta[0])
    assert torch.isfinite(x.grad).all()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("rho", [1.0, 0.0, None])
def test_norm_act_in_bf16_is_close(rho: float | None) -> None:
    x = (torch.randn(2, 8, 16, 16) + 2).bfloat16().float()  # the same picture for both
    gamma, beta = 1 + torch.rand(2, 8), torch.randn(2, 8)
    mixing = torch.rand(8) if rho is None else rho
    weighing = torch.randn(2, 8, 18, 18)
    results = []
    for kind in (torch.float32, torch.bfloat16):
        leaves: list[Any] = [
            t.clone().to(kind if t is x else torch.float32).requires_grad_() for t in (x, gamma, beta)
        ]
        y = norm_act(
            leaves[0], leaves[1], leaves[2], mixing, pad=1
        )  # no ReLU: it opens at other places after rounding
        assert y.dtype == kind
        (y.float() * weighing).sum().backward()
        assert leaves[1].grad.dtype == torch.float32
        results.append([y.float(), *(leaf.grad.float() for leaf in leaves)])
    for exact, rounded in zip(*results):
        scale = exact.abs().max()
        assert (exact - rounded).abs().max() < 0.03 * scale
        assert (exact - rounded).norm() < 0.02 * exact.norm()


@pytest.mark.usefixtures("form")
def test_norm_act_asks_only_for_the_gradients_that_are_needed() -> None:
    x, gamma = torch.randn(1, 3, 4, 4), torch.ones(1, 3, requires_grad=True)
    norm_act(x, gamma, None, 1.0).sum().backward()
    assert x.grad is None
    assert gamma.grad is not None
    x.requires_grad_()
    norm_act(x, gamma.detach(), None, torch.rand(3)).square().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("pad", [1, 3])
def test_inside_is_what_was_padded(pad: int) -> None:
    x = torch.randn(2, 3, 5, 6, requires_grad=True)
    torch.testing.assert_close(inside(pad_edge(x, pad), pad), x)
    assert_same(lambda t: inside(t, pad), lambda t: t[:, :, pad:-pad, pad:-pad], [torch.randn(2, 3, 9, 10)])


def test_norm_starts_as_layer_norm() -> None:
    """rho starts at 0: layer-instance norm is then layer norm over (C, H, W) without affine change (but for the
    unbiased variance)."""
    x = torch.randn(2, 4, 12, 12) * 3 + 1
    unbiased = (1 - 1 / x[0].numel()) ** 0.5
    torch.testing.assert_close(
        Norm(4, "lin")(x), F.layer_norm(x, x.shape[1:]) * unbiased, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(Norm(4, "layer")(x), Norm(4, "lin")(x))
    torch.testing.assert_close(Norm(4, "instance")(x), F.instance_norm(x), atol=1e-5, rtol=1e-5)


def test_adaptive_norm_kinds() -> None:
    x, gamma, beta = torch.randn(2, 4, 6, 6), torch.randn(2, 4), torch.randn(2, 4)
    norm = AdaptiveNorm(4)
    assert norm.rho.tolist() == pytest.approx([0.9] * 4)
    with torch.no_grad():
        norm.rho.fill_(1)
    torch.testing.assert_close(norm(x, gamma, beta), AdaptiveNorm(4, "adain")(x, gamma, beta))
    with torch.no_grad():
        norm.rho.fill_(0)
    torch.testing.assert_close(norm(x, gamma, beta), AdaptiveNorm(4, "adaln")(x, gamma, beta))
    torch.testing.assert_close(
        AdaptiveNorm(4, "instance")(x, None, None), F.instance_norm(x), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        AdaptiveNorm(4, "layer")(x, None, None), F.layer_norm(x, x.shape[1:]), atol=1e-5, rtol=1e-5
    )


def test_clip_mixing_clips_what_mixes_and_nothing_else() -> None:
    network: Any = nn.Module()
    for name in ("rho", "w_gamma", "w_beta", "gamma", "rhonda"):
        setattr(network, name, nn.Parameter(torch.tensor([-0.5, 0.25, 1.5])))
    network.below = AdaptiveNorm(1)
    network.below.rho.data.fill_(7)
    clip_mixing(network)
    for name in ("rho", "w_gamma", "w_beta"):
        assert getattr(network, name).tolist() == [0, 0.25, 1]
    assert network.gamma.tolist() == network.rhonda.tolist() == [-0.5, 0.25, 1.5]
    assert network.below.rho.tolist() == [1]


# --- convolutions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 2)])
def test_conv_upsampled(height: int, width: int) -> None:
    def plain(x: Tensor, weight: Tensor) -> Tensor:
        large = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.conv2d(F.pad(large, [1] * 4, mode="reflect"), weight)

    assert_same(conv_upsampled, plain, [torch.randn(2, 3, height, width), torch.randn(4, 3, 3, 3)])


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("out", [1, 3])
def test_conv_to_rgb(kernel: int, out: int) -> None:
    x = torch.randn(2, 5, 8 + kernel - 1, 10 + kernel - 1)
    assert_same(conv_to_rgb, F.conv2d, [x, torch.randn(out, 5, kernel, kernel)])


@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_conv_to_one(kernel: int) -> None:
    assert_same(conv_to_one, F.conv2d, [torch.randn(2, 6, 7, 5), torch.randn(1, 6, kernel, kernel)])


def test_attend() -> None:
    def plain(x: Tensor, average: Tensor, maximum: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        both = torch.cat([x * average[:, None, None], x * maximum[:, None, None]], 1)
        return F.conv2d(both, weight[:, :, None, None], bias)

    c = 6
    shapes = [(2, c, 4, 5), (c,), (c,), (c, 2 * c), (c,)]
    assert_same(attend, plain, [torch.randn(shape) for shape in shapes])


def test_pools() -> None:
    x = torch.randn(2, 3, 4, 5)
    mean, top = pools(x)
    torch.testing.assert_close(mean, F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0])
    torch.testing.assert_close(top, F.adaptive_max_pool2d(x, 1)[:, :, 0, 0])
    assert all(t.dtype == torch.float32 for t in pools(x.bfloat16()))


# --- spectral normalisation ------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...], bool | None]] = {
    # name: (layer, shape of its input, whether it is computed as a matrix product)
    "conv": (lambda: nn.Conv2d(3, 8, 4, stride=2), (2, 3, 12, 10), False),
    "conv, stride 1, no bias": (lambda: nn.Conv2d(8, 4, 4, bias=False), (2, 8, 7, 6), False),
    "matrix": (lambda: nn.Conv2d(256, 6, 4, stride=2), (2, 256, 8, 6), True),
    "matrix, stride 1, no bias": (lambda: nn.Conv2d(256, 6, 4, bias=False), (1, 256, 6, 5), True),
    "one channel": (lambda: nn.Conv2d(8, 1, 4, bias=False), (2, 8, 6, 6), None),
    "linear to one": (lambda: nn.Linear(9, 1, bias=False), (2, 9), None),
    "linear": (lambda: nn.Linear(9, 4), (2, 9), None),
}


def ours_and_torchs(name: str, rounds: int = 15) -> tuple[Any, Any, Tensor]:
    """The same layer under our spectral norm and under torch's, with the same u and v, and an input."""
    build, shape, matrix = LAYERS[name]
    layer = build()
    with torch.no_grad():
        layer.weight.mul_(3)  # a singular value far from 1
    x = torch.randn(shape)
    if matrix is not None:
        assert conv._as_matrix(x, layer.weight) == matrix
    theirs: Any = build()
    theirs.load_state_dict(layer.state_dict())
    theirs = torch.nn.utils.parametrizations.spectral_norm(theirs, n_power_iterations=1)
    ours = SpectralNorm(layer.to(memory_format=torch.channels_last) if len(shape) == 4 else layer)
    for _ in range(rounds):
        ours.sigma(update=True)
    state = theirs.parametrizations.weight[0]
    state._u.copy_(ours.u)
    v = ours.v
    if len(shape) == 4:  # ours runs over (row, column, input)
        i, kh, kw = layer.weight.shape[1:]
        v = v.reshape(kh, kw, i).permute(2, 0, 1).flatten()
    state._v.copy_(v)
    return ours, theirs.eval(), x


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_norm_gives_torchs_values_and_gradients(name: str) -> None:
    ours, theirs, x = ours_and_torchs(name)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, sigma = ours(mine)
    expected = theirs(other)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
    assert sigma.item() == pytest.approx(torch.linalg.matrix_norm(ours.weight.flatten(1), 2).item(), rel=0.02)
    weighing = torch.randn_like(expected)
    (y * weighing).sum().backward()
    (expected * weighing).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)
    original = theirs.parametrizations.weight.original
    torch.testing.assert_close(ours.weight.grad, original.grad, atol=1e-4, rtol=1e-4)
    if ours.bias is not None:
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_goes_through_sigma(name: str) -> None:
    """W -> a W changes nothing, so the gradient has no part along W. Without sigma's it would."""
    ours, _, x = ours_and_torchs(name)
    ours.bias = None
    y, _ = ours(x)
    y.square().sum().backward()
    along = (ours.weight.grad * ours.weight).sum().abs()
    assert along < 1e-4 * ours.weight.grad.norm() * ours.weight.norm()


@pytest.mark.parametrize("name", ["conv", "matrix", "one channel", "linear"])
def test_power_iteration_runs_only_when_asked(name: str) -> None:
    ours, _, x = ours_and_torchs(name, rounds=0)
    with torch.no_grad():  # away from convergence, so that an iteration changes something
        ours.weight.copy_(torch.randn_like(ours.weight))
    u, v = ours.u.clone(), ours.v.clone()
    still, sigma = ours(x)
    again, _ = ours(x, update=False)
    assert torch.equal(still, again)
    assert torch.equal(ours.u, u)
    assert torch.equal(ours.v, v)

    moved, larger = ours(x, update=True)
    matrix = conv._rows(ours.weight).detach()
    v = F.normalize(matrix.T @ u, dim=0)
    u = F.normalize(matrix @ v, dim=0)
    torch.testing.assert_close(ours.v, v)
    torch.testing.assert_close(ours.u, u)
    torch.testing.assert_close(larger.detach(), u @ matrix @ v)
    bias = 0 if ours.bias is None else ours.bias.reshape(-1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(moved, (still - bias) * sigma / larger + bias, atol=1e-5, rtol=1e-4)
    assert larger > sigma


def test_a_graph_keeps_its_own_u_and_v() -> None:
    """D judges twice before it learns: the second power iteration must not disturb the first one's gradient."""
    for name in LAYERS:
        ours, _, x = ours_and_torchs(name, rounds=0)
        y, _ = ours(x)
        alone = torch.autograd.grad(y.sum(), ours.weight)[0]
        y, _ = ours(x)
        ours(x, update=True)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), ours.weight)[0], alone)


@pytest.mark.parametrize("name", ["conv", "matrix", "one channel"])
def test_spectral_norm_in_bf16_is_close(name: str) -> None:
    ours, _, x = ours_and_torchs(name)
    exact, _ = ours(x)
    weighing = torch.randn_like(exact)
    (exact * weighing).sum().backward()
    gradient, ours.weight.grad = ours.weight.grad, None
    rounded, sigma = ours(x.bfloat16())
    assert sigma.dtype == torch.float32
    (rounded.float() * weighing).sum().backward()
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()
    assert ours.weight.grad.dtype == torch.float32
    assert (ours.weight.grad - gradient).norm() < 0.02 * gradient.norm()


def test_frozen_weights_get_no_gradient_and_pass_it_on() -> None:
    for name, (_, _, matrix) in LAYERS.items():
        ours, _, x = ours_and_torchs(name)
        x.requires_grad_()
        full = torch.autograd.grad(ours(x)[0].sum(), x)[0]
        ours.requires_grad_(False)
        ours(x)[0].sum().backward()
        torch.testing.assert_close(x.grad, full)
        assert ours.weight.grad is None, (name, matrix)


def test_norm_act_covers_what_the_networks_ask_for() -> None:
    """ReLU and a residual together are refused: the sign of the output would not tell where ReLU was open."""
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(AssertionError):
        norm_act(x, residual=x, relu=True)
    for relu, pad in itertools.product((True, False), (0, 1)):
        assert norm_act(x, relu=relu, pad=pad).shape == (1, 2, 4 + 2 * pad, 4 + 2 * pad)

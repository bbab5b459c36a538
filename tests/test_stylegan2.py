"""StyleGAN2's networks: the published numbers, and derivatives of first and second order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import stylegan, stylegan_plain
from fewtoon.nets import twice
from fewtoon.nets.stylegan2 import Discriminator, Generator, channel_plan, codes, deviation, resolutions

ROOT = (
    Path(os.environ.get("FEWTOON_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))
    / "stylegan2"
)
golden = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"no golden values at {ROOT}; set FEWTOON_REFERENCE to their folder"
)
CHANNELS = [8, 8, 6]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def networks(name: str) -> tuple[Generator, Discriminator, dict[str, Tensor]]:
    found = stylegan.read(ROOT / f"{name}.pt")
    m = found.model
    drawer = Generator(found.size, m["channels"], m["latent"], m["style"], m["mapping_layers"], m["clamp"])
    judge = Discriminator(found.size, m["channels"], m["clamp"], m["deviation_group"])
    state = found.networks["generator"]
    drawer.load_state_dict({"mapping.average": drawer.mapping.average, **state})
    judge.load_state_dict(found.networks["discriminator"])
    values = {key: torch.from_numpy(value) for key, value in np.load(ROOT / f"{name}.npz").items()}
    return drawer.requires_grad_(True), judge, values


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


# --- golden --------------------------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("name", ["rosinality_64", "nvidia_ada_64"])
def test_the_published_pictures_and_logits(name: str) -> None:
    drawer, judge, values = networks(name)
    with torch.no_grad():
        close(drawer.mapping(values["z"]), values["w"])
        close(drawer(values["z"], noise="fixed"), values["image"])
        close(drawer(values["z"], 0.7, "fixed"), values["image_truncation_0.7"])
        close(judge(values["real"]), values["real_logit"])
        again = judge(torch.cat([values["real"], values["image"]]), halves=2)
        close(again[:3], values["real_logit"])


@golden
def test_the_published_style_mixing() -> None:
    drawer, _, values = networks("rosinality_64")
    with torch.no_grad():
        first, second = (drawer.mapping(values[z])[:, None] for z in ("z", "z2"))
        ws = torch.cat([first.expand(-1, 4, -1), second.expand(-1, drawer.codes - 4, -1)], 1)
        close(drawer.synthesis(ws, "fixed"), values["image_mix_from_layer_4"])


@golden
def test_the_published_penalties() -> None:
    drawer, judge, values = networks("rosinality_64")
    told = json.loads((ROOT / "rosinality_64.json").read_text())
    real = values["real"].requires_grad_()
    logit = judge(real)
    assert F.softplus(-logit).mean().item() == pytest.approx(told["softplus_real"], rel=1e-3)
    (gradient,) = torch.autograd.grad(logit.sum(), real, create_graph=True)
    penalty = gradient.square().sum((1, 2, 3)).mean()
    assert penalty.item() == pytest.approx(told["r1_gradient_penalty"], rel=1e-3)
    ws = values["w"][:, None].repeat(1, drawer.codes, 1).requires_grad_()
    image = drawer.synthesis(ws, "fixed")
    (gradient,) = torch.autograd.grad((image * values["path_noise"]).sum() / 64, ws)
    torch.testing.assert_close(
        gradient.square().sum(2).mean(1).sqrt(), values["path_lengths"], rtol=1e-3, atol=0
    )


# --- derivatives ---------------------------------------------------------------------------------------------


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (1, 1, 0)])
def test_convolutions_are_differentiated_twice(kernel: int, stride: int, padding: int) -> None:
    x, weight = double(2, 2, 5, 5), double(3, 2, kernel, kernel)

    def work(a: Tensor, b: Tensor) -> Tensor:
        return twice.convolve(a, b, stride, padding)

    torch.testing.assert_close(work(x, weight), F.conv2d(x, weight, stride=stride, padding=padding))
    assert torch.autograd.gradcheck(work, (x, weight))
    assert torch.autograd.gradgradcheck(work, (x, weight))


def test_transposed_convolutions_are_differentiated_twice() -> None:
    x, weight = double(2, 3, 3, 3), double(3, 2, 3, 3)
    torch.testing.assert_close(
        twice.convolve_transposed(x, weight, 2), F.conv_transpose2d(x, weight, stride=2)
    )
    assert torch.autograd.gradcheck(lambda a, b: twice.convolve_transposed(a, b, 2), (x, weight))
    assert torch.autograd.gradgradcheck(lambda a, b: twice.convolve_transposed(a, b, 2), (x, weight))


@pytest.mark.parametrize(("size", "padding", "stride"), [(6, 1, 1), (6, 2, 1), (6, 1, 2), (7, 1, 2)])
def test_the_filter_and_its_derivatives(size: int, padding: int, stride: int) -> None:
    x = double(1, 2, size, size)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)
    kernel = (taps[:, None] * taps * 2 / 64).expand(2, 1, 4, 4)
    plain = F.conv2d(x, kernel, stride=stride, padding=padding, groups=2)
    torch.testing.assert_close(twice.smooth(x, padding, stride, 2.0), plain)
    assert torch.autograd.gradcheck(lambda a: twice.smooth(a, padding, stride, 2.0), (x,))
    assert torch.autograd.gradgradcheck(lambda a: twice.smooth(a, padding, stride, 2.0), (x,))


def test_upsampling_keeps_a_flat_picture_flat_inside() -> None:
    flat = twice.upsampled(torch.ones(1, 3, 8, 8))
    assert flat.shape == (1, 3, 16, 16)
    torch.testing.assert_close(flat[:, :, 2:-2, 2:-2], torch.ones(1, 3, 12, 12))


def test_no_gradients_of_weights_where_they_are_put_aside() -> None:
    x, weight = double(1, 2, 4, 4), double(2, 2, 3, 3)
    y = twice.convolve(x, weight, padding=1).square().sum()
    with twice.weights_aside():
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        assert torch.autograd.grad(y, weight, retain_graph=True, allow_unused=True) == (None,)
    (of_weight,) = torch.autograd.grad(dx.square().sum(), weight)  # outside, the second derivative has them
    assert of_weight.abs().sum() > 0


def test_gradients_are_those_of_the_plain_formula() -> None:
    """Of pictures and of path lengths, in float64, for every parameter of a generator."""
    drawer = Generator(16, CHANNELS, 5, 5, 2).double()
    for parameter in drawer.parameters():
        if parameter.ndim == 0:
            parameter.data.fill_(0.3)  # the strength of noise
    state = stylegan.to_rosinality(
        {"generator": drawer.state_dict()},
        {"channels": CHANNELS, "latent": 5, "style": 5, "mapping_layers": 2, "clamp": None, "classes": 0},
        16,
    )["g_ema"]
    plain = {key: tensor.double().requires_grad_() for key, tensor in state.items()}
    ws, direction = double(2, codes(16), 5), torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def lengths(image: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad((image * direction).sum(), ws, create_graph=True)
        return gradient.square().sum() + image.square().sum()

    ours = drawer.synthesis(ws, "fixed")
    theirs = stylegan_plain.synthesis(plain, ws)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    lengths(ours).backward()
    lengths(theirs).backward()
    for ours_name, place in stylegan.generator_places(16, {"mapping_layers": 2, "classes": 0}, False).items():
        if not ours_name.startswith("synthesis.") or ours_name.endswith("noise"):
            continue
        mine, his = drawer.get_parameter(ours_name).grad, plain[place.name].grad
        assert mine is not None, ours_name
        assert his is not None, ours_name
        torch.testing.assert_close(mine, his.view_as(mine), rtol=1e-8, atol=1e-8 * float(his.abs().max()))


# --- shapes and settings -------------------------------------------------------------------------------------


def test_the_published_counts() -> None:
    """Appendix values: 14 codes, 7 resolutions, 13 maps of noise at 256 px; channels of both published plans."""
    assert codes(256) == 14
    assert resolutions(256) == [4, 8, 16, 32, 64, 128, 256]
    assert channel_plan(256) == [512, 512, 512, 512, 256, 128, 64]
    assert channel_plan(256, 32768) == [512, 512, 512, 512, 512, 256, 128]
    with torch.device("meta"):
        drawer = Generator(256, channel_plan(256, 32768))
        judge = Discriminator(256, channel_plan(256, 32768))
    assert len([name for name, _ in drawer.named_buffers() if name.endswith("noise")]) == 13
    assert judge.last.hidden.weight.shape == (512, 8192)


@pytest.mark.parametrize("size", [4, 48, 2048])
def test_sizes_that_will_not_do(size: int) -> None:
    with pytest.raises(Problem, match=str(size)):
        resolutions(size)


def test_a_plan_of_the_wrong_length() -> None:
    with pytest.raises(Problem, match=r"2 numbers of channels.*16 px"):
        Generator(16, [8, 8])


def test_truncation_and_noise() -> None:
    drawer = Generator(16, CHANNELS, 4, 4, 2)
    drawer.mapping.average.copy_(drawer.mapping.measure(64))
    z = torch.randn(3, 4)
    with torch.no_grad():
        average = drawer.synthesis(drawer.mapping.average[None], "fixed")
        torch.testing.assert_close(drawer(z, 0.0, "fixed"), average.expand(3, -1, -1, -1))
        assert torch.equal(drawer(z, 1.0, "fixed"), drawer(z, 1.0, "none"))  # strengths begin at 0
        for name, parameter in drawer.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(1.0)
        assert not torch.equal(drawer(z, noise="random"), drawer(z, noise="random"))
        maps = drawer.synthesis.draw_noise(3, "random")
        w = drawer.mapping(z)
        assert torch.equal(drawer.synthesis(w, maps), drawer.synthesis(w, maps))
    with pytest.raises(Problem, match="'loud'"):
        drawer(z, noise="loud")  # type: ignore[arg-type]
    with pytest.raises(Problem, match=r"2 maps of noise.*takes 5"):
        drawer.synthesis(w, maps[:2])
    with pytest.raises(Problem, match=r"\(3, 2, 4\).*\(B, 6, W\)"):
        drawer.synthesis(torch.zeros(3, 2, 4))


def test_taps_and_replaced_features() -> None:
    one, other = (Generator(16, CHANNELS, 4, 4, 2).synthesis for _ in range(2))
    w = torch.randn(2, 4)
    with torch.no_grad():
        kept = one.paint(w, "fixed", keep=[4, 8, 16])
        assert {r: c.shape for r, c in kept.colours.items()} == {r: (2, 3, r, r) for r in (4, 8, 16)}
        assert kept.features[8].shape == (2, 8, 8, 8)
        assert torch.equal(kept.colours[16], kept.image)
        assert torch.equal(one.paint(w, "fixed", until=8).image, kept.colours[8])
        theirs = other.paint(w, "fixed", keep=[8]).features
        swapped = one.paint(w, "fixed", keep=[4], replaced=theirs)
        assert torch.equal(swapped.colours[4], kept.colours[4])  # what is below stays
        assert not torch.allclose(swapped.image, kept.image)
        same = one.paint(w, "fixed", replaced={8: kept.features[8]})
        torch.testing.assert_close(same.image, kept.image)


def test_clamped_maps_stay_within() -> None:
    drawer = Generator(16, CHANNELS, 4, 4, 2, clamp=0.5)
    features = drawer.synthesis.paint(torch.randn(2, 4), keep=[4, 8, 16]).features
    assert max(float(x.detach().abs().max()) for x in features.values()) == pytest.approx(0.5)


def test_deviation_within_groups() -> None:
    """Picture i shares a group with i + B / group ...; equal pictures have none."""
    x = torch.zeros(4, 2, 3, 3)
    x[2] = 2.0  # pictures 0 and 2 are one group of two: 0 and 2 deviate from their mean by 1
    spread = deviation(x, 2)
    assert spread.shape == (4, 1, 3, 3)
    torch.testing.assert_close(spread[:, 0, 0, 0], torch.tensor([1.0, 1e-4, 1.0, 1e-4]))
    alone = deviation(torch.randn(3, 2, 3, 3), 2)  # 2 does not divide 3: groups of one
    torch.testing.assert_close(alone, torch.full((3, 1, 3, 3), 1e-4))


def test_classes_are_told() -> None:
    drawer, judge = Generator(16, CHANNELS, 4, 4, 2, classes=3), Discriminator(16, CHANNELS, classes=3)
    z, classes = torch.randn(2, 4), torch.tensor([0, 2])
    w = drawer.mapping(z, classes)
    assert not torch.allclose(w, drawer.mapping(z, torch.tensor([1, 1])))
    x = torch.randn(2, 3, 16, 16)
    assert judge(x, classes).shape == (2, 1)
    assert not torch.allclose(judge(x, classes), judge(x, torch.tensor([1, 1])))
    with pytest.raises(Problem, match="has classes"):
        drawer.mapping(z)


def test_bf16_is_close() -> None:
    drawer, judge = Generator(16, CHANNELS, 4, 4, 2), Discriminator(16, CHANNELS)
    z = torch.randn(4, 4)
    exact = drawer(z, noise="fixed")
    logit = judge(exact)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = drawer(z, noise="fixed")
        assert rounded.dtype == torch.float32
        told = judge(rounded)
        assert told.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    assert (told - logit).abs().max() < 0.1

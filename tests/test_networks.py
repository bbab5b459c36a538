"""U-GAT-IT's and photo2cartoon's networks: sizes, shapes, options, and what is known of them before training."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.ugatit import DISCRIMINATORS, GENERATORS, UGATIT
from fewtoon.nets.hourglass import Hourglass, HourglassGenerator, SoftAdaLIN
from fewtoon.nets.norm import AdaptiveNorm, inside
from fewtoon.nets.ugatit import Discriminator, Drawn, Generator, Judged, discriminator_layers, heatmap


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def small(size: int = 16, training: bool = True, **settings: Any) -> Any:
    given = {"channels": 4, "blocks": 1, **settings}
    return UGATIT(UGATIT.Config(**given), size, training=training)


def batch(size: int, pictures: int = 1) -> Batch:
    none = torch.full((pictures,), -1)
    photos, drawings = torch.rand(2, pictures, 3, size, size) * 2 - 1
    return Batch(photos, drawings, none, none, 0)


# --- the published numbers of parameters -----------------------------------------------------------------

# photo2cartoon's blocks of equal widths carry a 1x1 shortcut that they never use; ours leave it out.
UNUSED = 14 * 32 * 32


@pytest.mark.parametrize(
    ("published", "build"),
    [
        (278_959_808, lambda: Generator(256, 64, 4, None)),
        (10_589_888, lambda: Generator(256, 64, 4, 1)),
        (77_633_216, lambda: Generator(128, 64, 4, None)),
        (69_745_504, lambda: Generator(256, 32, 4, None)),
        (2_653_024, lambda: Generator(256, 32, 4, 1)),
        (53_130_176, lambda: Discriminator(64, 7)),
        (3_290_560, lambda: Discriminator(64, 5)),
        (13_294_048, lambda: Discriminator(32, 7)),
        (826_080, lambda: Discriminator(32, 5)),
        (3_831_079 - 4 * UNUSED, lambda: HourglassGenerator(256, 32, 4, 1)),
        (70_923_559 - 4 * UNUSED, lambda: HourglassGenerator(256, 32, 4, None)),
        (105_347 - UNUSED, lambda: Hourglass(32)),
        (104_163 - UNUSED, lambda: Hourglass(32, to_rgb=True)),
    ],
)
def test_numbers_of_parameters(published: int, build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):  # no memory is taken
        assert sum(p.numel() for p in build().parameters()) == published


@pytest.mark.parametrize(("pool", "published"), [(None, 670_761_088), (1, 134_021_248)])
def test_all_six_networks(pool: int | None, published: int) -> None:
    with torch.device("meta"):
        networks = small(256, channels=64, blocks=4, pool=pool).networks()
    assert list(networks) == [*GENERATORS, *DISCRIMINATORS]
    assert sum(p.numel() for network in networks.values() for p in network.parameters()) == published


# --- shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1, 2, None])
@pytest.mark.parametrize("size", [16, 64, 100, 128, 256])
def test_generator_shapes(size: int, pool: int | None) -> None:
    c = 4
    with torch.no_grad():
        drawn: Any = Generator(size, c, blocks=1, pool=pool)(torch.rand(2, 3, size, size))
    assert drawn.image.shape == (2, 3, size, size)
    assert drawn.image.dtype == torch.float32
    assert drawn.image.abs().max() <= 1
    assert drawn.cam_logit.shape == (2, 2)
    assert drawn.features.shape == (2, 4 * c, size // 4, size // 4)
    assert heatmap(drawn).shape == (2, 1, size // 4, size // 4)


@pytest.mark.parametrize(
    ("size", "layers", "side"),
    [(256, 7, 6), (256, 5, 30), (128, 7, 2), (128, 5, 14), (64, 6, 2), (64, 5, 6), (100, 6, 4), (16, 4, 2)],
)
def test_discriminator_shapes(size: int, layers: int, side: int) -> None:
    assert layers in discriminator_layers(size)
    with torch.no_grad():
        judged: Any = Discriminator(4, layers)(torch.rand(2, 3, size, size))
    assert judged.logit.shape == (2, 1, side, side)
    assert judged.cam_logit.shape == (2, 2)
    assert judged.features.shape == (2, 4 * 2 ** (layers - 2), side + 1, side + 1)
    assert heatmap(judged).shape == (2, 1, side + 1, side + 1)


def test_the_discriminators_fit_every_size() -> None:
    for size in range(16, 300, 4):
        for layers in discriminator_layers(size):
            side = size // 2 ** (layers - 2)  # before the two convolutions that take a pixel each
            assert side >= 3, (size, layers)  # the last one pads what is left by reflection
    assert discriminator_layers(128) == discriminator_layers(1024) == (7, 5)
    with torch.no_grad():  # the smallest map of all
        for layers in discriminator_layers(28):
            assert Discriminator(4, layers)(torch.rand(1, 3, 28, 28)).logit.numel() >= 1


@pytest.mark.parametrize(("size", "pool"), [(64, 1), (64, None), (80, 1)])
def test_hourglass_shapes(size: int, pool: int | None) -> None:
    with torch.no_grad():
        drawn: Any = HourglassGenerator(size, 8, 1, pool)(torch.rand(1, 3, size, size))
    assert drawn.image.shape == (1, 3, size, size)
    assert drawn.cam_logit.shape == (1, 2)
    assert drawn.features.shape == (1, 32, size // 4, size // 4)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (62, {}),
        (65, {}),
        (12, {}),
        (0, {}),
        (-4, {}),
        (72, {"generator": "hourglass"}),
        (48, {"generator": "hourglass"}),
        (64, {"generator": "hourglass", "channels": 6}),
    ],
)
def test_sizes_that_do_not_work_are_refused(size: int, settings: dict[str, Any]) -> None:
    with pytest.raises(Problem, match=f"size {size}|channels 6") as told:
        small(size, **settings)
    assert "multiple of" in str(told.value)


def test_light_weights_draw_at_another_size() -> None:
    network = Generator(64, 4, 1, pool=1)
    with torch.no_grad():
        assert network(torch.rand(1, 3, 96, 96)).image.shape == (1, 3, 96, 96)


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pool": None},
        {"norm": "adain"},
        {"norm": "adaln"},
        {"norm": "instance"},
        {"norm": "layer"},
        {"cam_generator": False},
        {"cam_discriminator": False},
        {"cam_generator": False, "cam_discriminator": False},
        {"published_attention": True},
        {"discriminator_channels": 8},
        {"generator": "hourglass", "channels": 8},
    ],
    ids=str,
)
def test_every_ablation_trains(settings: dict[str, Any]) -> None:
    method = small(64 if "generator" in settings else 16, **settings)
    shared = Shared()
    for phase in method.phases():
        losses = phase.losses(batch(method.size), shared)
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
        assert losses.keys() <= phase.weights.keys()
        assert ("photos_local/cam" in losses) == method.config.cam_discriminator
        if phase.name == "G":
            assert ("photos/cam" in losses) == method.config.cam_generator
        total = torch.stack([phase.weights[key] * loss for key, loss in losses.items()]).sum()
        total.backward(retain_graph=phase.name == "D")
    for name, network in method.networks().items():
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        assert grads, name
        assert all(torch.isfinite(grad).all() for grad in grads), name


def test_the_ablation_changes_the_norms() -> None:
    assert not any("rho" in key for key in Generator(16, 4, 1, norm="adain").state_dict())
    plain = Generator(16, 4, 1, norm="instance").state_dict()
    assert not any("norm" in key for key in plain)
    assert sum("rho" in key for key in Generator(16, 4, 2, norm="adalin").state_dict()) == 2 * 2 + 2
    assert not any("cam" in key for key in Generator(16, 4, 1, cam=False).state_dict())


def test_published_attention_changes_the_map_and_not_the_cam_logits() -> None:
    raw, ours = Discriminator(4, 4, raw_attention=True), Discriminator(4, 4)
    ours.load_state_dict(raw.state_dict())
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        published, normalised = raw(x), ours(x)
    assert torch.equal(published.cam_logit, normalised.cam_logit)
    assert not torch.allclose(published.logit, normalised.logit)


def test_group_head() -> None:
    network = Discriminator(4, 4, groups=3)
    judged = network(torch.rand(2, 3, 16, 16))
    assert network.classify(judged).shape == (2, 3)


# --- identities before training --------------------------------------------------------------------------


def test_zero_logits_cost_what_they_should() -> None:
    """4 maps and 4 CAM logits off by one: 8 for D, 8 for G; 4 cross-entropies of ln 2, times 1000."""

    class Copier(nn.Module):
        def forward(self, x: torch.Tensor) -> Drawn:
            return Drawn(x, torch.zeros(len(x), 2), x)

    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor, update: bool = False) -> Judged:
            return Judged(torch.zeros(len(x), 1, 2, 2), torch.zeros(len(x), 2), x)

    method = small()
    for name in method.networks():
        method.networks()[name] = Copier() if name in GENERATORS else Undecided()
    shared, some = Shared(), batch(16)
    d, g = ({k: p.weights[k] * v.item() for k, v in p.losses(some, shared).items()} for p in method.phases())
    assert sum(d.values()) == pytest.approx(8)  # fakes at 0 are right already
    assert sum(v for k, v in g.items() if "_" in k) == pytest.approx(8)
    assert g["photos/cam"] + g["drawings/cam"] == pytest.approx(4000 * math.log(2))
    assert 4000 * math.log(2) == pytest.approx(2772.6, abs=0.05)
    # Generators that change nothing: identity pictures and cycles are perfect.
    assert g["photos/identity"] == g["photos/cycle"] == 0


def test_soft_adalin_starts_as_adalin() -> None:
    soft, plain = SoftAdaLIN(4), AdaptiveNorm(4)
    x, content, style = torch.randn(2, 4, 6, 6), torch.randn(2, 4), torch.randn(2, 4)
    expected = plain(x, soft.style_gamma(style), soft.style_beta(style))
    torch.testing.assert_close(soft(x, content, style), expected)
    with torch.no_grad():
        soft.w_gamma.fill_(1)
        soft.w_beta.fill_(1)
    expected = plain(x, soft.content_gamma(content), soft.content_beta(content))
    torch.testing.assert_close(soft(x, content, style), expected)


def test_the_decoder_sees_the_deepest_content_first() -> None:
    network = HourglassGenerator(64, 8, 3)
    made: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    for encoder, decoder in zip(network.encoder, network.decoder):
        encoder.register_forward_hook(lambda _, __, out: made.append(inside(out).mean((2, 3))))
        decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    with torch.no_grad():
        network(torch.rand(1, 3, 64, 64))
    assert len(made) == len(seen) == 3
    assert all(torch.equal(content, other) for content, other in zip(made[::-1], seen))


def test_the_published_weights_of_the_losses() -> None:
    d, g = (phase.weights for phase in small().phases())
    assert set(d.values()) == {1}
    assert {key for key, weight in g.items() if weight == 1} == d.keys()
    for side in ("photos", "drawings"):
        assert (g[f"{side}/cycle"], g[f"{side}/identity"], g[f"{side}/cam"]) == (10, 10, 1000)
    doubled = small(cycle_weight=20.0, adversarial_weight=2.0).phases()[1].weights
    assert (doubled["photos/cycle"], doubled["photos_local/cam"], doubled["photos/cam"]) == (20, 2, 1000)


def test_a_discriminator_is_patient() -> None:
    """Only update=True moves u and v; the generators' phase never does."""
    method = small()
    before = {k: v.clone() for n in DISCRIMINATORS for k, v in method.networks()[n].named_buffers(n)}
    phases = {phase.name: phase for phase in method.phases()}
    phases["G"].losses(batch(16), Shared())
    after = {k: v for n in DISCRIMINATORS for k, v in method.networks()[n].named_buffers(n)}
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    phases["D"].losses(batch(16), Shared())
    after = {k: v for n in DISCRIMINATORS for k, v in method.networks()[n].named_buffers(n)}
    assert any(not torch.equal(v, after[k]) for k, v in before.items())


def test_mixing_factors_stay_between_0_and_1() -> None:
    method = small()
    for name in GENERATORS:
        for key, parameter in method.networks()[name].named_parameters():
            if key.endswith("rho"):
                parameter.data.fill_(1.5)
    method.after_step("D")
    assert method.networks()["photo_to_drawing"].up1_norm.rho.max() == 1.5
    method.after_step("G")
    for name in GENERATORS:
        assert method.networks()[name].up1_norm.rho.max() == 1
        assert method.networks()[name].decoder[0].norm1.rho.max() == 1


def test_the_hourglass_adds_to_its_input() -> None:
    network: Any = Hourglass(8)
    for part in (network.back, network.rgb_back):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    x = torch.randn(1, 8, 32, 32)
    torch.testing.assert_close(network(x), x)
    rgb = Hourglass(8, to_rgb=True)
    assert rgb(x).shape == (1, 3, 32, 32)


def test_the_step_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All losses and gradient norms of both phases equal those of the plain restatement of the benchmark."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    ugatit_step = importlib.import_module("ugatit_step")
    worst = ugatit_step.compare(128, 4)
    assert worst["loss_difference"] < 1e-4
    assert worst["gradient_norm_difference"] < 1e-3


def test_attention_weights_come_from_the_classifier() -> None:
    """The CAM multiplies each channel by the weight that its classifier gives it."""
    network = Generator(16, 4, 1)
    cam: Any = network.cam
    x = torch.randn(1, 16, 4, 4)
    attended, logit = cam(x)
    both = [x * w.weight[0][:, None, None] for w in (cam.average, cam.maximum)]
    expected = F.conv2d(torch.cat(both, 1), cam.mix.weight[:, :, None, None], cam.mix.bias)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-4)
    pooled = torch.stack([cam.average(x.mean((2, 3)))[:, 0], cam.maximum(x.amax((2, 3)))[:, 0]], 1)
    torch.testing.assert_close(logit, pooled)

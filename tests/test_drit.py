"""DRIT: sizes of its networks, its losses restated plainly, its schedule, resuming, and that it learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.engine import loop
from fewtoon.engine.progress import Watch
from fewtoon.errors import Problem
from fewtoon.methods import drit
from fewtoon.methods.base import Shared
from fewtoon.methods.drit import DRIT
from fewtoon.nets.drit import (
    AttributeEncoder,
    Attributes,
    ContentDiscriminator,
    ContentEncoder,
    Decoder,
    conv_pooled,
)
from test_unit import (
    ONE_SCALE,
    SIDES,
    assert_learns_to_recolour,
    assert_resumes_exactly,
    batch,
    build,
    conv,
    count,
    fixed_noise,
    opinionated,
    padded,
    plain_block,
    plain_discriminator,
    trainee,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


# --- networks --------------------------------------------------------------------------------------------

# The layer lists, without the biases in front of an instance norm.
SHARED = 2 * conv(256, 256, 3, False)
CONTENT = conv(3, 64, 7) + conv(64, 128, 3, False) + conv(128, 256, 3, False) + 3 * SHARED
POOLING = [(64, 128), (128, 192), (192, 256)]
ATTRIBUTE = (
    conv(3, 64, 4)
    + sum(conv(a, a, 3) + conv(a, b, 3) + conv(a, b, 1) for a, b in POOLING)
    + 2 * conv(256, 8, 1)
)
UPS = conv(272, 136, 3) + 2 * 136 + conv(144, 72, 3) + 2 * 72
DECODER = 3 * 2 * conv(264, 264, 3, False) + UPS + conv(80, 3, 1)
CONTENT_JUDGE = 3 * conv(256, 256, 7, False) + conv(256, 256, 4) + conv(256, 1, 1)


def test_numbers_of_parameters() -> None:
    assert (SHARED, CONTENT, ATTRIBUTE, DECODER) == (1_179_648, 3_917_056, 1_344_080, 4_190_691)
    assert CONTENT_JUDGE == 10_682_881
    with torch.device("meta"):
        networks = DRIT(DRIT.Config(), 256).networks()
    own = {"content": CONTENT, "attribute": ATTRIBUTE, "decoder": DECODER, "average": 0}
    own |= {"discriminator": 3 * ONE_SCALE, "random_discriminator": 3 * ONE_SCALE}
    expected = {f"{side}_{kind}": number for side in SIDES for kind, number in own.items()}
    expected |= {"shared_content": SHARED, "shared_decoder": SHARED, "content_discriminator": CONTENT_JUDGE}
    assert {name: count(network) for name, network in networks.items()} == expected
    assert sum(expected.values()) == 65_030_515


@pytest.mark.parametrize("size", [16, 20, 64, 216])
def test_shapes(size: int) -> None:
    method = build("drit", size, attributes=5)
    photos = torch.rand(1, 3, size, size)
    with torch.no_grad():
        content = method._content("photos", photos)
        assert content.shape == (1, 16, size // 4, size // 4)
        assert method.style_of(photos).shape == (1, 5)
        assert method.styled(photos, torch.randn(5)).shape == photos.shape
        assert method.networks()["content_discriminator"](content).numel() >= 1


@pytest.mark.parametrize(
    ("size", "layers", "side"), [(256, 3, 2), (216, 3, 1), (128, 2, 2), (64, 1, 3), (32, 0, 5), (16, 0, 1)]
)
def test_the_content_discriminator_fits(size: int, layers: int, side: int) -> None:
    network = ContentDiscriminator(size, 4)
    assert len(network.convs) == layers
    assert network(torch.randn(2, 16, size // 4, size // 4)).shape == (2, 1, side, side)


def enlarge(network: nn.Module) -> None:
    """First weights are so small that what goes wrong in a layer would hardly show."""
    for parameter in network.parameters():
        parameter.data.mul_(5)


@pytest.mark.parametrize("norm", [True, False])
def test_the_content_discriminator_restated(norm: bool) -> None:
    network, x = ContentDiscriminator(128, 4, norm), torch.randn(2, 16, 32, 32)
    enlarge(network)
    y = x
    for layer in network.convs:
        y = layer(padded(y, 1))
        y = F.leaky_relu(F.instance_norm(y) if norm else y, 0.01)
    wanted = network.head(F.leaky_relu(network.top(y), 0.01))
    torch.testing.assert_close(network(x), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("side", [8, 9])
def test_pooling_is_folded_into_the_convolution(side: int) -> None:
    x, layer = torch.randn(2, 3, side, side), nn.Conv2d(3, 5, 3)
    wanted = F.avg_pool2d(layer(padded(x, 1)), 2)
    torch.testing.assert_close(
        conv_pooled(padded(x, 1), layer.weight, layer.bias), wanted, atol=1e-5, rtol=1e-5
    )


def test_the_encoders_restated() -> None:
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    content = ContentEncoder(4, 2)
    y = F.leaky_relu(content.stem(padded(x, 3)), 0.01)
    for down in (content.down1, content.down2):
        y = F.relu(F.instance_norm(down(padded(y, 1))))
    for block in content.blocks:
        y = plain_block(block, y)
    torch.testing.assert_close(content(x), padded(y, 1), atol=1e-4, rtol=1e-4)

    attribute = AttributeEncoder(4, 3)
    enlarge(attribute)
    y = attribute.stem(padded(x, 1))
    for block in attribute.blocks:
        z: Any = block
        inner = z.conv1(padded(F.leaky_relu(y, 0.2), 1))
        inner = F.avg_pool2d(z.conv2(padded(F.leaky_relu(inner, 0.2), 1)), 2)
        y = inner + z.shortcut(F.avg_pool2d(y, 2))
    pooled = F.leaky_relu(y, 0.2).mean((2, 3))
    found = attribute(x)
    torch.testing.assert_close(found.mean, attribute.mean(pooled), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.log_variance, attribute.log_variance(pooled), atol=1e-4, rtol=1e-3)


def test_the_decoder_restated() -> None:
    network, features, code = Decoder(4, 2, 3), torch.randn(2, 16, 6, 6), torch.randn(2, 3)

    def told(x: Tensor) -> Tensor:
        return torch.cat([x, code[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)

    y = told(features)
    for block in network.blocks:
        y = plain_block(block, y)
    for layer, norm in ((network.up1, network.up1_norm), (network.up2, network.up2_norm)):
        y = layer(told(y))
        y = F.relu(F.layer_norm(y, y.shape[1:]) * norm.gamma[:, None, None] + norm.beta[:, None, None])
    wanted = torch.tanh(network.head(told(y)))
    torch.testing.assert_close(
        network(features, code), wanted, atol=2e-3, rtol=1e-3
    )  # its variance is biased


def test_first_weights() -> None:
    networks = build("drit", 64, channels=16).networks()
    for layer in (
        networks["photos_content"].down2,
        networks["shared_content"].conv1,
        networks["drawings_decoder"].up1,
        networks["photos_attribute"].blocks[1].conv2,
        networks["drawings_random_discriminator"].convs[0][3],
        networks["content_discriminator"].top,
    ):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.04)
    norm = networks["photos_decoder"].up1_norm
    assert (norm.gamma == 1).all()
    assert not norm.beta.any()


# --- losses ----------------------------------------------------------------------------------------------


def cross_entropy(logits: list[Tensor], target: float) -> Tensor:
    """Of sigmoids, summed over scales."""
    total = torch.tensor(0.0)
    for logit in logits:
        p = logit.sigmoid()
        total = total - (target * p.log() + (1 - target) * (1 - p).log()).mean()
    return total


@pytest.mark.parametrize("seeking", [0, 1])
def test_losses_restated(seeking: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One network and one side at a time, as the equations of the papers."""
    monkeypatch.setattr(drit, "noise_like", fixed_noise)
    monkeypatch.setattr(Attributes, "draw", lambda self: self.mean + 0.3 * (0.5 * self.log_variance).exp())
    method, some = opinionated(build("drit", mode_seeking_weight=seeking)), batch(16)
    n, shared = method.networks(), Shared()
    found = {f"D/{key}": value for key, value in method.discriminator_losses(some, shared).items()}
    found |= {f"content/{key}": value for key, value in method.content_losses(some, shared).items()}
    found |= {f"G/{key}": value for key, value in method.generator_losses(some, shared).items()}
    random, other_random = shared["random"], shared["other"]

    def content_of(side: str, x: Tensor) -> Tensor:
        code = n["shared_content"](n[f"{side}_content"](x), pad=0)
        return code + fixed_noise(code)

    def picture(side: str, content: Tensor, code: Tensor) -> Tensor:
        return n[f"{side}_decoder"](n["shared_decoder"](padded(content, 1), pad=0), code)

    real = {"photos": some.photos, "drawings": some.drawings}
    content = {side: content_of(side, real[side]) for side in SIDES}
    attributes = {side: n[f"{side}_attribute"](real[side]) for side in SIDES}
    fake = {s: picture(s, content[o], attributes[s].draw()) for s, o in (SIDES, SIDES[::-1])}
    content_logits = {side: [n["content_discriminator"](content[side])] for side in SIDES}
    expected = {
        "content/adversarial": cross_entropy(content_logits["drawings"], 1)
        + cross_entropy(content_logits["photos"], 0)
    }
    for side, other in (SIDES, SIDES[::-1]):
        drawn = picture(side, content[other], random)
        for kind, made in (("", fake[side]), ("random_", drawn)):
            judge = n[f"{side}_{kind}discriminator"]
            real_logits, fake_logits = (plain_discriminator(judge, x, 0.01) for x in (real[side], made))
            expected[f"D/{side}/{kind}adversarial"] = cross_entropy(real_logits, 1) + cross_entropy(
                fake_logits, 0
            )
            expected[f"G/{side}/{kind}adversarial"] = cross_entropy(fake_logits, 1)
        expected[f"G/{side}/content_adversarial"] = cross_entropy(content_logits[side], 0.5)
        own = picture(side, content[side], attributes[side].draw())
        expected[f"G/{side}/reconstruction"] = (own - real[side]).abs().mean()
        crossed = picture(side, content_of(other, fake[other]), n[f"{side}_attribute"](fake[side]).draw())
        expected[f"G/{side}/cycle"] = (crossed - real[side]).abs().mean()
        expected[f"G/{side}/latent"] = (n[f"{side}_attribute"](drawn).mean - random).abs().mean()
        mean, log_variance = attributes[side]
        each = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
        expected[f"G/{side}/kl"] = each.mean()
        expected[f"G/{side}/content"] = (content[side] ** 2).mean()
        if seeking:
            apart = (drawn - picture(side, content[other], other_random)).abs().mean((1, 2, 3))
            expected[f"G/{side}/mode_seeking"] = (
                1 / (apart / (random - other_random).abs().mean(1) + 1e-5)
            ).mean()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-3, msg=key)


def test_the_divergence_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(3, 4), torch.randn(3, 4)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    wanted = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(Attributes(mean, log_variance).divergence(), wanted)
    many = Attributes(mean.repeat(5000, 1), log_variance.repeat(5000, 1)).draw().unflatten(0, (5000, 3))
    torch.testing.assert_close(many.std(0), (0.5 * log_variance).exp(), atol=0.02, rtol=0.05)
    torch.testing.assert_close(many.mean(0), mean, atol=0.1, rtol=0.05)


def test_weights_are_the_published_ones() -> None:
    found = {phase.name: phase for phase in DRIT(DRIT.Config(channels=4, blocks=1), 16).phases()}
    published = {
        "adversarial": 1,
        "random_adversarial": 1,
        "content_adversarial": 1,
        "cycle": 10,
        "reconstruction": 10,
        "latent": 10,
        "kl": 0.01,
        "content": 0.01,
        "mode_seeking": 0,
    }
    assert found["G"].weights == {
        f"{side}/{term}": weight for side in SIDES for term, weight in published.items()
    }
    assert {name: phase.every for name, phase in found.items()} == {"D": 3, "content": 1, "G": 3}
    rates = {name: o.defaults["lr"] for name, o in DRIT(DRIT.Config(channels=4), 16).optimizers().items()}
    assert rates == {"D": 1e-4, "content": 4e-5, "G": 1e-4}


def test_random_attributes_do_not_teach_the_attribute_encoders() -> None:
    method, some = build("drit"), batch(16)
    losses = method.generator_losses(some, Shared())
    (losses["drawings/latent"] + losses["drawings/random_adversarial"]).backward()
    moved = {
        name
        for name, n in method.networks().items()
        if any(p.grad is not None and p.grad.any() for p in n.parameters())
    }
    # It sees through the encoder, down to the picture and its content.
    assert moved >= {"drawings_decoder", "shared_decoder", "photos_content", "shared_content"}
    assert not moved & {"drawings_attribute", "photos_attribute"}


def test_only_every_third_step_moves_what_draws() -> None:
    one = trainee("drit", 16, {"channels": 4, "blocks": 1}, batch=1)
    phases = []
    for step in range(4):
        before = copy.deepcopy(one.tensors())
        result = loop.update(one, batch(16, 1, step), Watch(4, quiet=True))
        changed = {
            key.split(".")[1]
            for key, tensor in one.tensors().items()
            if key.startswith("network.") and not torch.equal(tensor, before[key])
        }
        phases.append({key.split("/")[0] for key in result.values} - {"gradient"})
        if step % 3:
            assert changed == {"content_discriminator"}
        else:
            assert changed == set(one.method.networks())
    assert phases == [{"D", "content", "G"}, {"content"}, {"content"}, {"D", "content", "G"}]


def test_gradients_of_the_content_discriminator_are_clipped() -> None:
    method = build("drit")
    optimizers = method.optimizers()
    for name, network in (("content", "content_discriminator"), ("D", "photos_discriminator")):
        parameters = list(method.networks()[network].parameters())
        for p in parameters:
            p.grad = torch.full_like(p, 3.0)
        optimizers[name].step()
        length = torch.nn.utils.get_total_norm([p.grad for p in parameters]).item()
        assert (length == pytest.approx(5, rel=1e-3)) == (name == "content")


def test_the_latter_halves_are_shared() -> None:
    """One residual block ends both content encoders, and one begins both decoders."""
    method, some = build("drit"), batch(16)
    method.generator_losses(some, Shared())["photos/reconstruction"].backward()
    alone = method.networks()["shared_content"].conv1.weight.grad.clone()
    method.generator_losses(some, Shared())["drawings/reconstruction"].backward()
    assert not torch.equal(alone, method.networks()["shared_content"].conv1.weight.grad)


# --- translation -----------------------------------------------------------------------------------------


def test_translation_has_no_noise_and_the_average_style() -> None:
    method, some = build("drit"), batch(16)
    for network in method.networks().values():
        network.train()
    codes = method.style_of(some.drawings)
    method.generator_losses(some, Shared())
    average = method.networks()["drawings_average"].mean
    torch.testing.assert_close(average, codes.mean(0))
    assert torch.equal(method.translate(some.photos), method.translate(some.photos))
    assert torch.equal(method.translate(some.photos), method.styled(some.photos, average))
    zero = build("drit", default_style="zero")
    zero.networks()["drawings_average"].mean.fill_(3)
    assert torch.equal(zero.translate(some.photos), zero.styled(some.photos, torch.zeros(8)))
    first, second = (method.generator_losses(some, Shared())["photos/reconstruction"] for _ in range(2))
    assert first != second


def test_previews_and_styles_without_the_way_back() -> None:
    method, photos = build("drit", training=False), torch.rand(2, 3, 16, 16)
    titles = ["photo", "drawing", "random style 1", "random style 2", "style of a drawing"]
    shown = method.preview(photos)
    assert list(shown) == titles
    torch.testing.assert_close(shown["drawing"], method.translate(photos), atol=1e-5, rtol=0)
    assert method.goes_back()
    assert method.back(photos).shape == photos.shape
    with pytest.raises(Problem, match=r"shape \(7,\) for 2 photos"):
        method.styled(photos, torch.zeros(7))
    for name in method.optional:
        del method.networks()[name]
    assert list(method.preview(photos)) == titles
    assert not method.goes_back()
    with pytest.raises(Problem, match="without its attribute encoder"):
        method.style_of(photos)


# --- settings, resuming, learning ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "settings", "told"),
    [
        (54, {}, "size 54"),
        (16, {"attributes": 0}, "attributes = 0"),
        (16, {"content_steps": 0}, "content_steps = 0"),
        (16, {"default_style": "random"}, "default_style = 'random'"),
        (16, {"mode_seeking": 1}, "unknown key 'model.mode_seeking'"),
    ],
)
def test_bad_settings_are_refused(size: int, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        build("drit", size, **settings)


def test_resumes_exactly() -> None:
    assert_resumes_exactly("drit")


def test_it_learns_to_recolour() -> None:
    assert_learns_to_recolour(
        "drit", {"channels": 16, "blocks": 1, "learning_rate": 0.002, "content_steps": 1}
    )

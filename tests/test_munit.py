"""MUNIT: sizes of its networks, its losses restated plainly, styles, resuming, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon import style
from fewtoon.errors import Problem
from fewtoon.methods.base import Shared
from fewtoon.methods.munit import MUNIT, spread
from fewtoon.nets.munit import AverageStyle, Decoder, StyledBlock, StyleEncoder
from test_unit import (
    DECODER,
    ENCODER,
    ONE_SCALE,
    SIDES,
    assert_learns_to_recolour,
    assert_resumes_exactly,
    batch,
    build,
    conv,
    count,
    least_squares,
    opinionated,
    padded,
    plain_discriminator,
    plain_ups,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


# --- networks --------------------------------------------------------------------------------------------

STYLE = conv(3, 64, 7) + conv(64, 128, 4) + conv(128, 256, 4) + 2 * conv(256, 256, 4) + conv(256, 8, 1)
NUMBERS = 4 * 2 * 2 * 256  # beta and gamma of both normalisations of four blocks
MLP = conv(8, 256, 1) + conv(256, 256, 1) + conv(256, NUMBERS, 1)


def test_numbers_of_parameters() -> None:
    assert (STYLE, MLP, DECODER + MLP) == (2_764_936, 1_120_768, 6_873_347)
    with torch.device("meta"):
        networks = MUNIT(MUNIT.Config(), 256).networks()
    each = {
        "content": ENCODER,
        "style": STYLE,
        "decoder": DECODER + MLP,
        "average": 0,
        "discriminator": 3 * ONE_SCALE,
    }
    assert {name: count(network) for name, network in networks.items()} == {
        f"{side}_{kind}": number for side in SIDES for kind, number in each.items()
    }
    assert sum(map(count, networks.values())) == 46_585_628


@pytest.mark.parametrize("size", [16, 20, 64])
def test_shapes(size: int) -> None:
    method = build("munit", size, style=5)
    photos = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert method.networks()["photos_content"](photos).shape == (2, 16, size // 4, size // 4)
        assert method.style_of(photos).shape == (2, 5)
        assert method.styled(photos, torch.randn(5)).shape == photos.shape


def test_the_style_encoder_restated() -> None:
    network, x = StyleEncoder(4, 8), torch.rand(2, 3, 32, 32) * 2 - 1
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    y = F.relu(F.conv2d(padded(x, 3), network.stem.weight, network.stem.bias))
    for down in network.downs:
        y = F.relu(F.conv2d(padded(y, 1), down.weight, down.bias, stride=2))  # type: ignore[arg-type]
    wanted = F.linear(y.mean((2, 3)), network.head.weight, network.head.bias)
    torch.testing.assert_close(network(x), wanted, atol=1e-5, rtol=1e-4)


def plain_adain(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True)
    return gamma[:, :, None, None] * (x - mean) / (variance + 1e-5).sqrt() + beta[:, :, None, None]


def test_the_decoder_restated() -> None:
    network, content, code = Decoder(4, 2, style=3), torch.randn(2, 16, 6, 6), torch.randn(2, 3)
    first, second, third = (network.mlp[k] for k in (0, 2, 4))  # type: ignore[index]
    numbers = third(F.relu(second(F.relu(first(code))))).split(16, 1)
    y = content
    for k, block in enumerate(network.blocks):
        assert isinstance(block, StyledBlock)
        z = F.relu(plain_adain(F.conv2d(padded(y, 1), block.conv1.weight), *numbers[4 * k : 4 * k + 2]))
        y = y + plain_adain(F.conv2d(padded(z, 1), block.conv2.weight), *numbers[4 * k + 2 : 4 * k + 4])
    torch.testing.assert_close(network(content, code), plain_ups(network, y), atol=1e-4, rtol=1e-4)


# --- losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle", [0, 10])
def test_losses_restated(cycle: int) -> None:
    """One network and one side at a time, as the equations of the paper."""
    method, some = opinionated(build("munit", cycle_weight=cycle)), batch(16)
    n, shared = method.networks(), Shared()
    found = {f"D/{key}": value for key, value in method.discriminator_losses(some, shared).items()}
    found |= {f"G/{key}": value for key, value in method.generator_losses(some, shared).items()}
    real = {"photos": some.photos, "drawings": some.drawings}
    content = {side: n[f"{side}_content"](real[side]) for side in SIDES}
    codes = {side: n[f"{side}_style"](real[side]) for side in SIDES}
    random = {side: shared[f"{side}/random"] for side in SIDES}
    assert not torch.equal(random["photos"], random["drawings"])
    expected: dict[str, Tensor] = {}
    for side, other in (SIDES, SIDES[::-1]):
        fake = n[f"{side}_decoder"](content[other], random[side])
        judge = n[f"{side}_discriminator"]
        real_logits, fake_logits = (plain_discriminator(judge, x, 0.2) for x in (real[side], fake))
        expected[f"D/{side}/adversarial"] = least_squares(real_logits, 1) + least_squares(fake_logits, 0)
        expected[f"G/{side}/adversarial"] = least_squares(fake_logits, 1)
        own = n[f"{side}_decoder"](content[side], codes[side])
        expected[f"G/{side}/reconstruction"] = (own - real[side]).abs().mean()
        expected[f"G/{side}/style"] = (n[f"{side}_style"](fake) - random[side]).abs().mean()
        again = n[f"{side}_content"](fake)
        expected[f"G/{side}/content"] = (again - content[other]).abs().mean()
        if cycle:
            back = n[f"{other}_decoder"](again, codes[other])
            expected[f"G/{side}/cycle"] = (back - real[other]).abs().mean()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_random_styles_are_normal_and_new_in_every_step() -> None:
    method, some = build("munit", style=512), batch(16)
    first, second = (method._fakes(some, Shared())["drawings/random"] for _ in range(2))
    assert not torch.equal(first, second)
    assert abs(first.mean()) < 0.1
    assert first.std().item() == pytest.approx(1, abs=0.1)


def test_weights_are_the_published_ones() -> None:
    phases = {phase.name: phase.weights for phase in MUNIT(MUNIT.Config(channels=4, blocks=1), 16).phases()}
    published = {
        "adversarial": 1,
        "reconstruction": 10,
        "style": 1,
        "content": 1,
        "cycle": 0,
        "perceptual": 1,
    }
    assert phases["G"] == {f"{side}/{term}": weight for side in SIDES for term, weight in published.items()}
    assert phases["D"] == {"photos/adversarial": 1, "drawings/adversarial": 1}


# --- styles ----------------------------------------------------------------------------------------------


def test_the_average_style() -> None:
    average = AverageStyle(2, decay=0.5)
    told = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    average.observe(told)
    assert average.mean.tolist() == [2, 4]  # the first counts whole
    average.observe(torch.tensor([[4.0, 0.0]]))
    keep = 2 / 11  # (1 + n) / (10 + n) until that is more than the decay
    torch.testing.assert_close(
        average.mean, keep * torch.tensor([2.0, 4.0]) + (1 - keep) * torch.tensor([4.0, 0.0])
    )
    assert average.newest.tolist() == [4, 0]
    before = {key: value.clone() for key, value in average.state_dict().items()}
    average.observe(torch.tensor([[float("nan"), 0.0]]))
    assert all(torch.equal(value, before[key]) for key, value in average.state_dict().items())
    for _ in range(60):
        average.observe(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(average.mean, torch.ones(2))


def test_training_learns_the_average_style_and_translate_draws_with_it() -> None:
    method, some = build("munit"), batch(16)
    codes = method.style_of(some.drawings)
    method.generator_losses(some, Shared())
    average = method.networks()["drawings_average"]
    torch.testing.assert_close(average.mean, codes.mean(0))
    torch.testing.assert_close(average.newest, codes[-1])
    assert torch.equal(method.translate(some.photos), method.styled(some.photos, average.mean))
    photos_mean = method.networks()["photos_average"].mean
    expected = method.networks()["photos_decoder"](
        method.networks()["drawings_content"](some.drawings), photos_mean.expand(2, -1)
    )
    assert torch.equal(method.back(some.drawings), expected)
    zero = build("munit", default_style="zero")
    zero.networks()["drawings_average"].mean.fill_(3)
    assert torch.equal(zero.translate(some.photos), zero.styled(some.photos, torch.zeros(8)))


def test_a_style_is_one_for_all_or_one_for_each() -> None:
    method, photos = build("munit"), torch.rand(3, 3, 16, 16)
    codes = torch.randn(3, 8)
    together = method.styled(photos, codes)
    for k in range(3):
        torch.testing.assert_close(together[k], method.styled(photos, codes[k])[k], atol=1e-5, rtol=0)
    assert (method.styled(photos, codes[0]) - method.styled(photos, codes[1])).abs().mean() > 1e-3
    for wrong in (torch.zeros(7), torch.zeros(2, 8), torch.zeros(1, 3, 8), torch.tensor(0.0)):
        with pytest.raises(Problem, match=r"style code of shape .* for 3 photos"):
            method.styled(photos, wrong)
    assert spread(torch.ones(1, 8), 3, 8).shape == (3, 8)


def test_a_style_file_keeps_the_average_and_may_lack_what_reads_styles(tmp_path: Path) -> None:
    method = build("munit", training=False)
    method.networks()["drawings_average"].mean.copy_(torch.randn(8))
    photos = torch.rand(2, 3, 16, 16) * 2 - 1
    style.write(tmp_path / "s.safetensors", method, {})
    loaded = style.load(tmp_path / "s.safetensors", "cpu")
    assert torch.equal(
        loaded.method.networks()["drawings_average"].mean, method.networks()["drawings_average"].mean
    )
    torch.testing.assert_close(loaded.translate(photos), method.translate(photos), atol=1e-5, rtol=0)
    for name in method.optional:
        del method.networks()[name]
    style.write(tmp_path / "less.safetensors", method, {})
    less: Any = style.load(tmp_path / "less.safetensors", "cpu")
    assert torch.equal(less.translate(photos), loaded.translate(photos))
    assert not less.method.goes_back()
    with pytest.raises(Problem, match="without its style encoder"):
        less.method.style_of(photos)


def test_previews_show_the_same_styles_each_time() -> None:
    method, photos = build("munit"), torch.rand(2, 3, 16, 16)
    method.networks()["drawings_average"].newest.fill_(2)
    shown = method.preview(photos)
    assert list(shown) == ["photo", "drawing", "random style 1", "random style 2", "style of a drawing"]
    torch.seed()
    again = method.preview(photos[1:])
    for title, column in shown.items():
        torch.testing.assert_close(column[1:], again[title], atol=1e-5, rtol=0)
    torch.testing.assert_close(shown["drawing"], method.translate(photos), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        shown["style of a drawing"], method.styled(photos, torch.full((8,), 2.0)), atol=1e-5, rtol=0
    )


# --- settings, resuming, learning ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "settings", "told"),
    [
        (50, {}, "size 50"),
        (16, {"style": 0}, "style = 0"),
        (16, {"default_style": "first"}, "default_style = 'first'"),
        (16, {"kl_weight": 0.01}, "unknown key 'model.kl_weight'"),  # UNIT's
    ],
)
def test_bad_settings_are_refused(size: int, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        build("munit", size, **settings)


def test_resumes_exactly() -> None:
    assert_resumes_exactly("munit")


def test_it_learns_to_recolour() -> None:
    assert_learns_to_recolour(
        "munit", {"channels": 16, "blocks": 1, "learning_rate": 0.002, "cycle_weight": 10}
    )

"""AGGAN: networks and losses against plain restatements, the switch, frozen attention, resuming, and that it learns."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon import config
from fewtoon.config import Config, Train
from fewtoon.engine import checkpoint, loop
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.methods import aggan
from fewtoon.methods.aggan import AGGAN, Attention, Discriminator, Translator, initialise
from fewtoon.methods.base import Shared
from test_cyclegan import assert_resumes, batch, count, distance_after, network, train

SMALL = {"channels": 4, "blocks": 1, "discriminator_channels": 4}
ATTENTION = ("photos_attention", "drawings_attention")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def small(**settings: Any) -> AGGAN:
    return AGGAN(AGGAN.Config(**{**SMALL, **settings}), 32)


# --- networks --------------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    """From the published layers; in front of a normalisation the generator and the attention have no bias here."""
    c, d = 32, 64
    residual = 18 * 9 * (4 * c) ** 2
    kernels = (
        49 * 3 * c + 9 * 2 * c * c + 9 * 8 * c * c + residual + 9 * 8 * c * c + 9 * 2 * c * c + 49 * 3 * c
    )
    normed = c + 2 * c + 4 * c + 18 * 4 * c + 2 * c + c
    generator = kernels + 2 * normed + 3
    assert generator == 2_853_187
    assert generator + normed == 2_855_811  # as published
    into = 49 * 3 * c + 9 * 2 * c * c + 2 * 9 * (2 * c) ** 2
    norms = 2 * (c + 2 * c + 2 * 2 * c + 2 * c + c)
    intended = into + 9 * (2 * c) ** 2 + 9 * 2 * c * c + 49 * c + norms + 1
    published = into + (2 * c) ** 2 + 2 * c * c + c + norms + 1
    judge = 16 * (3 * d + 2 * d * d + 8 * d * d + 32 * d * d + 8 * d) + 15 * d + 1 + 2 * 15 * d
    assert (intended, published, judge) == (154_369, 103_681, 2_766_657)
    with torch.device("meta"):
        assert count(Translator(32, 9)) == generator
        assert count(Attention(32, published=False)) == intended
        assert count(Attention(32, published=True)) == published
        assert count(Discriminator(64)) == judge
        networks = AGGAN(AGGAN.Config(), 256).networks()
    assert sum(map(count, networks.values())) == 2 * (generator + intended + judge)
    assert sum(b.numel() for n in networks.values() for b in n.buffers()) == 2 * (50 * 4 * 256 * 256 + 1)


@pytest.mark.parametrize(("size", "patches"), [(24, 6), (32, 7), (256, 35)])
def test_shapes(size: int, patches: int) -> None:
    pictures = torch.rand(1, 3, size, size) * 2 - 1
    with torch.no_grad():
        assert Translator(4, 1)(pictures).shape == pictures.shape
        for norm in (True, False):
            assert Discriminator(4)(pictures, norm).shape == (1, 1, patches, patches)
        for published in (True, False):
            mask = Attention(4, published)(pictures)
            assert mask.shape == (1, 1, size, size)
            assert mask.dtype == torch.float32
            assert 0 < mask.min() <= mask.max() < 1


@pytest.mark.parametrize("size", [20, 30, 0])
def test_sizes_that_do_not_work_are_refused(size: int) -> None:
    with pytest.raises(Problem, match=f"size {size}.*multiple of 4"):
        AGGAN(AGGAN.Config(**SMALL), size)


def plain_norm(of: Any, x: Tensor) -> Tensor:
    """Instance normalisation with scale and offset."""
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True)
    return of.scale[:, None, None] * (x - mean) / (var + 1e-5).sqrt() + of.offset[:, None, None]


def plain_block(block: Any, x: Tensor, mode: str) -> Tensor:
    y = x
    for layer in (block.one, block.two):
        y = F.pad(y, (1, 1, 1, 1), mode=mode)
        y = plain_norm(layer, F.conv2d(y, layer.conv.weight))
        y = F.relu(y) if layer is block.one else y
    return F.relu(x + y)


def plain_attention(net: Any, x: Tensor, pads: tuple[int, int, int]) -> Tensor:
    """As published, on maps of full size; pads: (1, 1, 3) with the intended kernels, (0, 0, 0) with 1x1."""
    x = F.relu(
        plain_norm(net.stem, F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), net.stem.conv.weight, stride=2))
    )
    x = F.relu(plain_norm(net.down, F.conv2d(x, net.down.conv.weight, stride=2, padding=1)))
    x = plain_block(net.block, x, "reflect")
    for layer, pad in zip((net.up1, net.up2), pads):
        x = F.pad(F.interpolate(x, scale_factor=2.0), (pad,) * 4, mode="reflect")
        x = F.relu(plain_norm(layer, F.conv2d(x, layer.conv.weight)))
    x = F.pad(x, (pads[2],) * 4, mode="reflect")
    return torch.sigmoid(F.conv2d(x, net.head.weight, net.head.bias))


def loud(net: nn.Module) -> Any:
    """With weights at which no layer is near to doing nothing."""
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, 1.0 if name.endswith("scale") else 0.0, 0.3 if parameter.ndim > 1 else 0.1)
    return net


def test_attention_is_the_published_one() -> None:
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    ours = loud(Attention(4, published=False))
    mask = ours(pictures)
    assert mask.std() > 0.01
    torch.testing.assert_close(mask, plain_attention(ours, pictures, (1, 1, 3)), atol=1e-4, rtol=1e-3)
    ours = loud(Attention(4, published=True))
    mask = ours(pictures)
    assert mask.std() > 0.01
    # The unbiased variance counts 256 places here and up to 4,096 there.
    torch.testing.assert_close(mask, plain_attention(ours, pictures, (0, 0, 0)), atol=3e-3, rtol=0)
    assert torch.equal(
        mask[:, :, ::4, ::4], mask[:, :, 3::4, 3::4]
    )  # what 1x1 kernels come to: blocks of 4 x 4


def test_generator_and_discriminator_are_the_published_ones() -> None:
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    net = loud(Translator(4, 2))
    y = F.relu(plain_norm(net.stem, F.conv2d(x, net.stem.conv.weight, padding=3)))
    for layer in (net.down1, net.down2):
        y = F.relu(plain_norm(layer, F.conv2d(y, layer.conv.weight, stride=2, padding=1)))
    for block in net.blocks:
        y = plain_block(block, y, "constant")
    for layer in (net.up1, net.up2):
        up = F.conv_transpose2d(y, layer.conv.weight, stride=2, padding=1, output_padding=1)
        y = F.relu(plain_norm(layer, up))
    y = torch.tanh(F.conv2d(y, net.head.weight, net.head.bias, padding=3))
    torch.testing.assert_close(net(x), y, atol=1e-4, rtol=1e-3)

    judge = loud(Discriminator(4))
    for norm in (True, False):
        y = x
        for layer in judge.convs:
            y = F.conv2d(F.pad(y, (2, 2, 2, 2)), layer.conv.weight, layer.conv.bias, layer.conv.stride)
            y = F.leaky_relu(plain_norm(layer, y) if norm else y, 0.2)
        y = F.conv2d(F.pad(y, (2, 2, 2, 2)), judge.last.weight, judge.last.bias)
        torch.testing.assert_close(judge(x, norm), y, atol=1e-4, rtol=1e-3)


def test_first_weights() -> None:
    """Normal, cut off at two deviations: kernels around 0, scales around 1; the rest 0."""
    net = Discriminator(32)
    initialise(net)
    for name, parameter in net.named_parameters():
        if name.endswith("scale"):
            assert 0.96 <= parameter.min() < 0.99 < 1.01 < parameter.max() <= 1.04
        elif parameter.ndim > 1:
            assert 0.038 < parameter.abs().max() <= 0.04
            assert parameter.std().item() == pytest.approx(0.02 * 0.8796, rel=0.05)  # of the cut-off normal
        else:
            assert not parameter.any()


# --- losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 7])
def test_losses_are_those_of_a_plain_restatement(step: int) -> None:
    """Before the switch, at step 5, and after it."""
    method = small(pool=0, attention_steps=5)
    nets = {name: loud(net) for name, net in method.networks().items()}
    some = batch(step=step)
    x, y = some.photos, some.drawings
    mask_x, mask_y = nets["photos_attention"](x), nets["drawings_attention"](y)
    method.config.threshold = threshold = mask_x.median().item()  # half of each photo is seen

    def seen(picture: Tensor, mask: Tensor) -> Tensor:
        return picture if step < 5 else picture * (mask >= threshold)

    def judged(side: str, picture: Tensor, mask: Tensor) -> Tensor:
        return nets[f"{side}_discriminator"](seen(picture, mask), step < 5)

    fake_y = mask_x * nets["photo_to_drawing"](x) + (1 - mask_x) * x
    fake_x = mask_y * nets["drawing_to_photo"](y) + (1 - mask_y) * y
    mask_fake_y, mask_fake_x = nets["drawings_attention"](fake_y), nets["photos_attention"](fake_x)
    cycle_x = mask_fake_y * nets["drawing_to_photo"](fake_y) + (1 - mask_fake_y) * fake_y
    cycle_y = mask_fake_x * nets["photo_to_drawing"](fake_x) + (1 - mask_fake_x) * fake_x
    expected = {
        "G": {
            "drawings/adversarial": ((judged("drawings", fake_y, mask_x) - 1) ** 2).mean(),
            "photos/adversarial": ((judged("photos", fake_x, mask_y) - 1) ** 2).mean(),
            "photos/cycle": (cycle_x - x).abs().mean(),
            "drawings/cycle": (cycle_y - y).abs().mean(),
        },
        "D": {
            "photos/real": ((judged("photos", x, mask_x) - 1) ** 2).mean(),
            "photos/fake": (judged("photos", fake_x, mask_y) ** 2).mean(),
            "drawings/real": ((judged("drawings", y, mask_y) - 1) ** 2).mean(),
            "drawings/fake": (judged("drawings", fake_y, mask_x) ** 2).mean(),
        },
    }
    weights = {"adversarial": 1, "cycle": 10, "real": 0.5, "fake": 0.5}
    shared = Shared()
    for phase in method.phases():
        losses = phase.losses(some, shared)
        assert losses.keys() == expected[phase.name].keys()
        for key, value in expected[phase.name].items():
            assert losses[key].item() == pytest.approx(value.item(), rel=1e-3), key
            assert phase.weights[key] == weights[key.split("/")[1]]
    assert method.numbers()["photos/attended"] == pytest.approx(mask_x.mean().item(), rel=1e-4)


def test_fakes_come_from_the_pool_with_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the switch an old fake is cut out by the mask that it was made with."""
    method = small(pool=1, attention_steps=1, threshold=0.5)
    pool: Any = method.networks()["drawings_pool"]
    mask = (torch.rand(1, 1, 32, 32) < 0.5).float()
    old = torch.rand(1, 3, 32, 32) + 1.5
    pool(old, mask)
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(
        method, "judged", lambda side, pictures, norm: (seen.update({side: pictures}), torch.zeros(2, 1))[1]
    )
    monkeypatch.setattr(torch, "rand", lambda *shape, **kind: torch.zeros(*shape))  # every coin says: swap
    method.discriminator_losses(batch(pictures=1, step=1), Shared())
    assert torch.equal(seen["drawings"][1:], old * mask)
    assert not torch.equal(pool.held0, old)


# --- frozen means frozen ---------------------------------------------------------------------------------


def trainee(**settings: Any) -> Trainee:
    model = config.section(AGGAN.Config, {**SMALL, **settings}, "model")
    return Trainee(Config(method="aggan", model=model, train=Train(batch=2)), 32, [], torch.device("cpu"))


def test_after_the_switch_the_attention_stays_byte_equal() -> None:
    """Its Adam remembers momentum from before, and must neither use nor change it."""
    one = trainee(attention_steps=2)

    def attention() -> dict[str, Tensor]:
        mine = {id(p): n for n in ATTENTION for p in one.method.networks()[n].parameters()}
        found = {
            f"{n}.{k}": v.clone() for n in ATTENTION for k, v in one.method.networks()[n].state_dict().items()
        }
        memory = checkpoint.optimizer_tensors("G", one.optimizers["G"])
        for place, parameter in enumerate(one.moving["G"]):
            if id(parameter) in mine:
                found |= {k: v.clone() for k, v in memory.items() if k.startswith(f"optimizer.G.{place}.")}
        return found

    def generator() -> Tensor:
        return one.method.networks()["photo_to_drawing"].head.weight.clone()  # type: ignore[union-attr, operator]

    states, heads = [], []
    for step in range(5):
        assert not loop.update(one, batch(step=step), Watch(5, quiet=True)).bad
        states.append(attention())
        heads.append(generator())
    assert any(key.endswith("exp_avg") and value.any() for key, value in states[1].items())
    key = "photos_attention.head.weight"
    assert not torch.equal(states[0][key], states[1][key])
    for later in states[2:]:
        assert later.keys() == states[1].keys()
        for key, value in states[1].items():
            assert torch.equal(value, later[key]), key
    assert not torch.equal(heads[2], heads[3])


def test_frozen_attention_passes_gradients_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generators learn from it as if it moved; its weights, and the discriminators', get no gradient at all."""

    def gradients() -> dict[str, Tensor | None]:
        method = small(attention_steps=1)
        for net in method.networks().values():
            if list(net.parameters()):
                torch.manual_seed(3)
                loud(net)
        torch.manual_seed(4)
        losses = method.generator_losses(batch(step=1), Shared())
        torch.stack(list(losses.values())).sum().backward()
        return {f"{n}.{k}": p.grad for n, net in method.networks().items() for k, p in net.named_parameters()}

    still = gradients()
    monkeypatch.setattr(aggan, "held", lambda *networks: contextlib.nullcontext())
    moving = gradients()
    for key, gradient in moving.items():
        if key.startswith(("photo_to_drawing", "drawing_to_photo")):
            torch.testing.assert_close(gradient, still[key], atol=1e-5, rtol=1e-3)
        else:
            assert still[key] is None, key
    assert moving["photos_attention.head.weight"] is not None
    assert moving["drawings_discriminator.last.weight"] is not None


def test_resumed_across_the_switch_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = assert_resumes(
        tmp_path, monkeypatch, "aggan", "attention_steps=3", "pool=3", "discriminator_channels=4"
    )
    held = network(run, "photos_pool")
    assert held["held0"].shape == (3, 3, 32, 32)
    assert held["held1"].shape == (3, 1, 32, 32)
    assert 0 < held["held1"].min() <= held["held1"].max() < 1


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("attention_steps=0", "model.attention_steps = 0"),
        ("threshold=1.5", "model.threshold = 1.5"),
        ("pool=-3", "model.pool = -3"),
        ("identity_weight=5", "unknown key 'identity_weight'"),
    ],
)
def test_bad_settings_are_refused(setting: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=told):
        train(tmp_path / "run", setting, preset="aggan")
    assert not (tmp_path / "run").exists()


def test_a_style_may_lack_the_way_back() -> None:
    method = AGGAN(AGGAN.Config(**SMALL), 32, training=False)
    assert method.goes_back()
    assert method.back(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    for name in method.optional:
        del method.networks()[name]
    assert not method.goes_back()
    assert list(method.preview(torch.zeros(1, 3, 32, 32))) == ["photo", "attention", "drawing"]


def test_it_learns_to_recolour() -> None:
    """Also after the switch. Measured at step 20, before one: 0.11."""
    settings = {"discriminator_channels": 8, "attention_steps": 20, "cycle_weight": 1, "learning_rate": 2e-3}
    before, after = distance_after("aggan", 30, **settings)
    assert before > 0.26  # half of the photo shows through
    assert after < 0.2

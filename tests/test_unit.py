"""UNIT: sizes and first weights of its networks, its losses restated plainly, resuming, and that it learns.

What `test_munit` and `test_drit` need too is here: a plain restatement of what both have in common, a training that
is interrupted, and the task that each method has to learn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon import config, methods
from fewtoon.config import Config, Train
from fewtoon.data import world
from fewtoon.engine import loop
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.methods import unit
from fewtoon.methods.base import Batch, Method, Shared
from fewtoon.methods.unit import UNIT
from fewtoon.nets import vgg
from fewtoon.nets.munit import ContentEncoder, Decoder, MultiScaleDiscriminator, conv_upsampled

SIDES = ("photos", "drawings")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


# --- for all three methods -------------------------------------------------------------------------------


def build(name: str, size: int = 16, training: bool = True, **settings: Any) -> Any:
    kind = methods.find(name)
    given = {"channels": 4, "blocks": 1, **settings}
    return kind(config.section(kind.Config, given, "model"), size, training=training)


def batch(size: int, pictures: int = 2, step: int = 0) -> Batch:
    none = torch.full((pictures,), -1)
    photos, drawings = torch.rand(2, pictures, 3, size, size) * 2 - 1
    return Batch(photos, drawings, none, none, step)


def opinionated(method: Any) -> Any:
    """With discriminators whose logits are not next to 0, as first weights make them."""
    for name, network in method.networks().items():
        if name.endswith("discriminator"):
            for parameter in network.parameters():
                parameter.data.mul_(6)
    return method


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(inside: int, outside: int, kernel: int, bias: bool = True) -> int:
    """Parameters of a convolution, from the layer list."""
    return inside * outside * kernel**2 + outside * bias


def padded(x: Tensor, pad: int) -> Tensor:
    return F.pad(x, (pad,) * 4, mode="reflect")


def plain_block(block: Any, x: Tensor) -> Tensor:
    y = F.relu(F.instance_norm(F.conv2d(padded(x, 1), block.conv1.weight)))
    return x + F.instance_norm(F.conv2d(padded(y, 1), block.conv2.weight))


def plain_layer_norm(norm: Any, x: Tensor) -> Tensor:
    """As published: over a sample's channels and places, unbiased, epsilon beside the deviation."""
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return (x - mean) / (deviation + 1e-5) * norm.gamma[:, None, None] + norm.beta[:, None, None]


def plain_discriminator(network: Any, x: Tensor, slope: float) -> list[Tensor]:
    logits = []
    for k, (convs, head) in enumerate(zip(network.convs, network.heads)):
        y = x
        for _ in range(k):
            y = F.avg_pool2d(y, 3, 2, 1, count_include_pad=False)
        for layer in convs:
            y = F.leaky_relu(F.conv2d(padded(y, 1), layer.weight, layer.bias, stride=2), slope)
        logits.append(F.conv2d(y, head.weight, head.bias))
    return logits


def trainee(name: str, size: int, model: dict[str, Any], **train: Any) -> Trainee:
    section = config.section(methods.find(name).Config, model, "model")
    return Trainee(Config(method=name, model=section, train=Train(**train)), size, [], torch.device("cpu"))


def states_after(name: str, model: dict[str, Any], stop: int | None) -> list[dict[str, Tensor]]:
    """All that is saved, at first and after each of four steps; of a training that was saved and loaded at `stop`."""
    one, states = trainee(name, 16, model, batch=2, seed=3, ema=0.9), []
    for step in range(4):
        states.append(one.tensors())
        if step == stop:
            facts = one.facts()
            one = trainee(name, 16, model, batch=2, seed=3, ema=0.9)
            one.load(states[-1], facts)
        torch.manual_seed(100 + step)
        some = batch(16, step=step)
        torch.seed()  # the engine alone decides what is drawn
        loop.update(one, some, Watch(4, quiet=True))
        one.average.update(step)
    return [*states, one.tensors()]


def assert_resumes_exactly(name: str, **model: Any) -> None:
    settings = {"channels": 4, "blocks": 1, "augment": "ada", "ada_start": 0.5, "ada_every": 2, **model}
    whole, resumed = (states_after(name, settings, stop) for stop in (None, 2))
    assert whole[-1].keys() == resumed[-1].keys()
    for key, tensor in whole[-1].items():
        assert torch.equal(tensor, resumed[-1][key]), key
    moved = {key.split(".")[1] for key, tensor in whole[-1].items() if not torch.equal(tensor, whole[2][key])}
    assert moved >= build(name, **settings).networks().keys()  # nothing stood still


class Score(NamedTuple):
    error: float  # mean absolute difference of colours, of cells of 4x4 pixels
    likeness: (
        float  # how what sets a picture apart from the others goes along with what should: a correlation
    )
    back_error: float  # the same of the way back
    back_likeness: float


class Recolouring:
    """The simplest task of the drawn world: drawings and, of other people, drawings in other colours.

    Every colour is turned (red to green to blue), made paler and tinted red. Nothing is paired in training; held-out
    pictures are, so that one can see how far a translation is from what it should be.
    """

    SIZE, PICTURES, HELD_OUT = 16, 64, 32

    def __init__(self) -> None:
        painted = [
            world.picture("drawings", k, self.SIZE)[0] for k in range(2 * self.PICTURES + self.HELD_OUT)
        ]
        pictures = torch.from_numpy(np.stack(painted)).permute(0, 3, 1, 2).float() / 127.5 - 1
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        self.photos, others, self.held_out = pictures.split((self.PICTURES, self.PICTURES, self.HELD_OUT))
        self.drawings, self.wanted = self.recoloured(others), self.recoloured(self.held_out)

    @staticmethod
    def recoloured(pictures: Tensor) -> Tensor:
        return 0.5 * pictures[:, [2, 0, 1]] + torch.tensor([0.4, -0.3, 0.1])[:, None, None]

    def train(self, name: str, steps: int, model: dict[str, Any], size: int = 4) -> Trainee:
        one = trainee(name, self.SIZE, model, batch=size, ema=0.98)
        lot = torch.Generator().manual_seed(0)
        none = torch.full((size,), -1)
        for step in range(steps):
            photos, drawings = (torch.randint(self.PICTURES, (size,), generator=lot) for _ in range(2))
            some = Batch(self.photos[photos], self.drawings[drawings], none, none, step)
            loop.update(one, some, Watch(steps, quiet=True))
            one.average.update(step)
        return one

    def score(self, method: Method) -> Score:
        """Of a method's translations of the held-out pictures, and of the way back."""
        with torch.inference_mode():
            there, back = method.translate(self.held_out), method.back(self.wanted)
        return Score(*self._compared(there, self.wanted), *self._compared(back, self.held_out))

    @staticmethod
    def _compared(made: Tensor, wanted: Tensor) -> tuple[float, float]:
        cells, right = (F.avg_pool2d(x, 4) for x in (made, wanted))
        own, right_own = ((x - x.mean(0)).flatten() for x in (cells, right))
        return (cells - right).abs().mean().item(), F.cosine_similarity(own, right_own, 0).item()


def assert_learns_to_recolour(name: str, model: dict[str, Any]) -> None:
    """After 100 steps the colours are right to a third of what they miss by in pictures that are left as they are
    (0.27), and what sets a picture apart is there: the mean of all right ones has a likeness of 0."""
    task = Recolouring()
    torch.manual_seed(0)
    untrained = task.score(trainee(name, task.SIZE, model).artist.method)
    assert min(untrained.error, untrained.back_error) > 0.25
    assert max(untrained.likeness, untrained.back_likeness) < 0.2
    learned = task.score(task.train(name, 100, model).artist.method)
    assert learned.error < 0.09
    assert learned.back_error < 0.18
    assert min(learned.likeness, learned.back_likeness) > 0.3


# --- networks --------------------------------------------------------------------------------------------

# The layer lists, without the biases in front of an instance norm, which takes them away again.
ENCODER = (
    conv(3, 64, 7, False) + conv(64, 128, 4, False) + conv(128, 256, 4, False) + 8 * conv(256, 256, 3, False)
)
DECODER = (
    8 * conv(256, 256, 3, False) + conv(256, 128, 5) + 2 * 128 + conv(128, 64, 5) + 2 * 64 + conv(64, 3, 7)
)
ONE_SCALE = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4) + conv(512, 1, 1)


def test_numbers_of_parameters() -> None:
    assert (ENCODER, DECODER, 3 * ONE_SCALE) == (5_383_360, 5_752_579, 8_271_171)
    with torch.device("meta"):
        networks = UNIT(UNIT.Config(), 256).networks()
    each = [ENCODER] * 2 + [DECODER] * 2 + [3 * ONE_SCALE] * 2
    assert [count(network) for network in networks.values()] == each
    assert sum(each) == 38_814_220


@pytest.mark.parametrize("size", [16, 20, 64, 100])
def test_shapes(size: int) -> None:
    method = build("unit", size)
    with torch.no_grad():
        code = method.networks()["photos_encoder"](torch.rand(2, 3, size, size))
        drawn = method.networks()["drawings_decoder"](code)
    assert code.shape == (2, 16, size // 4, size // 4)
    assert drawn.shape == (2, 3, size, size)
    assert drawn.dtype == torch.float32
    assert drawn.abs().max() <= 1


@pytest.mark.parametrize(
    ("size", "scales", "sides"),
    [
        (256, 3, [16, 8, 4]),
        (216, 3, [13, 6, 3]),
        (64, 3, [4, 2, 1]),
        (32, 3, [2, 1]),
        (60, 3, [3, 1]),
        (16, 3, [1]),
        (64, 1, [4]),
    ],
)
def test_maps_of_the_discriminators(size: int, scales: int, sides: list[int]) -> None:
    with torch.no_grad():
        logits = MultiScaleDiscriminator(size, 4, scales)(torch.rand(2, 3, size, size))
    assert [tuple(logit.shape) for logit in logits] == [(2, 1, side, side) for side in sides]


def test_every_size_has_room_for_its_discriminators() -> None:
    with torch.no_grad():
        for size in range(16, 130, 4):
            assert MultiScaleDiscriminator(size, 4)(torch.rand(1, 3, size, size))[-1].numel() >= 1


def test_the_encoder_restated() -> None:
    network, x = ContentEncoder(4, 2), torch.rand(2, 3, 24, 24) * 2 - 1
    y = F.relu(F.instance_norm(F.conv2d(padded(x, 3), network.stem.weight)))
    for down in (network.down1, network.down2):
        y = F.relu(F.instance_norm(F.conv2d(padded(y, 1), down.weight, stride=2)))
    for block in network.blocks:
        y = plain_block(block, y)
    torch.testing.assert_close(network(x), y, atol=1e-4, rtol=1e-4)


def plain_ups(network: Decoder, y: Tensor) -> Tensor:
    """From the last residual block to the picture."""
    for layer, norm in ((network.up1, network.up1_norm), (network.up2, network.up2_norm)):
        y = F.pad(F.interpolate(y, scale_factor=2, mode="nearest"), (2,) * 4, mode="replicate")
        y = F.relu(plain_layer_norm(norm, F.conv2d(y, layer.weight, layer.bias)))
    return torch.tanh(F.conv2d(padded(y, 3), network.head.weight, network.head.bias))


def test_the_decoder_restated() -> None:
    network, code = Decoder(4, 2), torch.randn(2, 16, 6, 6)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and "norm" not in name:
            nn.init.normal_(parameter)  # biases are 0 at first, and would hide
    y = code
    for block in network.blocks:
        y = plain_block(block, y)
    torch.testing.assert_close(network(code), plain_ups(network, y), atol=1e-4, rtol=1e-4)


def test_folded_upsampling_differs_from_reflection_at_the_edge_alone() -> None:
    x, layer = torch.randn(2, 5, 6, 6), nn.Conv2d(5, 4, 5)
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    ours = conv_upsampled(x, layer.weight, layer.bias)
    torch.testing.assert_close(ours, layer(F.pad(large, (2,) * 4, mode="replicate")), atol=1e-5, rtol=1e-5)
    published = layer(padded(large, 2))
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], published[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)
    assert (ours[..., 0, :] - published[..., 0, :]).abs().max() > 0.01


def test_the_discriminator_restated() -> None:
    network, x = MultiScaleDiscriminator(64, 4), torch.rand(2, 3, 64, 64) * 2 - 1
    for parameter in network.parameters():
        parameter.data.mul_(6)
    ours, plain = network(x), plain_discriminator(network, x, 0.2)
    assert len(ours) == len(plain) == 3
    for mine, wanted in zip(ours, plain):
        torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=1e-4)


def test_first_weights() -> None:
    """Kaiming where pictures are made, normal of deviation 0.02 where they are judged, uniform in layer norm."""
    networks = build("unit", 64, channels=16).networks()
    made = [networks["photos_encoder"].down2, networks["drawings_decoder"].up1]
    for layer in made:
        assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.03)
    for convs in networks["photos_discriminator"].convs:
        assert convs[3].weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert not convs[3].bias.any()
    norm = networks["photos_decoder"].up1_norm
    assert (norm.gamma >= 0).all()
    assert (norm.gamma <= 1).all()
    assert 0.2 < norm.gamma.std() < 0.4
    assert not norm.beta.any()


# --- losses ----------------------------------------------------------------------------------------------


def fixed_noise(x: Tensor) -> Tensor:
    """The same for every picture, so that batches may be cut."""
    one = torch.randn(1, *x.shape[1:], generator=torch.Generator().manual_seed(7))
    return one.expand_as(x).to(x.dtype)


def least_squares(logits: list[Tensor], target: float) -> Tensor:
    return sum(((logit - target) ** 2).mean() for logit in logits)  # type: ignore[return-value]


def test_losses_restated(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network at a time and one picture of a side at a time, as equations."""
    monkeypatch.setattr(unit, "noise_like", fixed_noise)
    method, some = opinionated(build("unit")), batch(16)
    n, shared = method.networks(), Shared()
    found = {f"D/{key}": value for key, value in method.discriminator_losses(some, shared).items()}
    found |= {f"G/{key}": value for key, value in method.generator_losses(some, shared).items()}
    real = {"photos": some.photos, "drawings": some.drawings}
    code = {side: n[f"{side}_encoder"](real[side]) for side in SIDES}
    expected: dict[str, Tensor] = {}
    for side, other in (SIDES, SIDES[::-1]):
        fake = n[f"{side}_decoder"](code[other] + fixed_noise(code[other]))
        judged = {
            what: plain_discriminator(n[f"{side}_discriminator"], x, 0.2)
            for what, x in (("real", real[side]), ("fake", fake))
        }
        expected[f"D/{side}/adversarial"] = least_squares(judged["real"], 1) + least_squares(
            judged["fake"], 0
        )
        expected[f"G/{side}/adversarial"] = least_squares(judged["fake"], 1)
        own = n[f"{side}_decoder"](code[side] + fixed_noise(code[side]))
        expected[f"G/{side}/reconstruction"] = (own - real[side]).abs().mean()
        expected[f"G/{side}/kl"] = (code[side] ** 2).mean()
        again = n[f"{side}_encoder"](fake)
        back = n[f"{other}_decoder"](again + fixed_noise(again))
        expected[f"G/{other}/cycle"] = (back - real[other]).abs().mean()
        expected[f"G/{other}/cycle_kl"] = (again**2).mean()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_weights_are_the_published_ones() -> None:
    phases = {phase.name: phase.weights for phase in UNIT(UNIT.Config(channels=4, blocks=1), 16).phases()}
    assert phases["D"] == {"photos/adversarial": 1, "drawings/adversarial": 1}
    published = {
        "adversarial": 1,
        "reconstruction": 10,
        "cycle": 10,
        "kl": 0.01,
        "cycle_kl": 0.01,
        "perceptual": 1,
    }
    assert phases["G"] == {f"{side}/{term}": weight for side in SIDES for term, weight in published.items()}


def test_noise_is_for_training_alone() -> None:
    method, some = build("unit"), batch(16)
    for network in method.networks().values():
        network.train()
    assert torch.equal(method.translate(some.photos), method.translate(some.photos))
    first, second = (method.generator_losses(some, Shared())["photos/reconstruction"] for _ in range(2))
    assert first != second
    rounded = torch.zeros(1, 2, 3, 3, dtype=torch.bfloat16)
    drawn = []
    for x in (rounded, rounded.float()):
        torch.manual_seed(5)
        drawn.append(unit.noise_like(x).float())
    torch.testing.assert_close(*drawn, atol=0.02, rtol=0.01)  # the same numbers in both precisions


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """VGG16 with random weights."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    weights.write(path, vgg.VGG(16).state_dict())
    return str(path)


def test_the_perceptual_loss(vgg_file: str) -> None:
    method, some = build("unit", 32, vgg=vgg_file), batch(32)
    losses = method.generator_losses(some, shared := Shared())
    network = vgg.load(vgg_file)
    for side, source in (("drawings", some.photos), ("photos", some.drawings)):
        both = [F.instance_norm(network(vgg.imagenet(x), ["relu5_3"])[0]) for x in (shared[side], source)]
        wanted = ((both[0] - both[1]) ** 2).mean()
        torch.testing.assert_close(losses[f"{side}/perceptual"], wanted, atol=1e-4, rtol=1e-3)
        assert wanted > 0
    assert not any(p.requires_grad for p in method.networks()["vgg"].parameters())
    losses["drawings/perceptual"].backward()
    assert method.networks()["drawings_decoder"].head.weight.grad.abs().max() > 0
    assert "vgg" not in build("unit", 32, training=False, vgg=vgg_file).networks()


def test_without_vgg_it_is_said() -> None:
    told: list[str] = []
    build("unit").learn_first(lambda side: None, 0, told.append)
    assert len(told) == 1
    assert "no perceptual loss" in told[0]


# --- settings, resuming, learning ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "settings", "told"),
    [
        (62, {}, "size 62"),
        (12, {}, "size 12"),
        (16, {"chanels": 8}, "did you mean 'channels'|channels"),
        (16, {"cycle_weight": -1}, "cycle_weight = -1"),
        (16, {"scales": 0}, "scales = 0"),
        (16, {"blocks": 0}, "blocks = 0"),
        (16, {"augment": "diffaugmnt"}, "augment"),
        (16, {"augment": "ada", "augment_operations": ["colour"]}, "colour"),
        (32, {"vgg": "nowhere.pth"}, "vgg = 'nowhere.pth'"),
        (16, {"vgg": "nowhere.pth"}, "at least 32 px"),
    ],
)
def test_bad_settings_are_refused(size: int, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        build("unit", size, **settings)


def test_a_style_without_the_way_back() -> None:
    method = build("unit", training=False)
    assert method.goes_back()
    for name in method.optional:
        del method.networks()[name]
    assert not method.goes_back()
    assert set(method.preview(torch.rand(1, 3, 16, 16))) == {"photo", "drawing"}


def test_resumes_exactly() -> None:
    assert_resumes_exactly("unit")


@pytest.mark.parametrize("name", ["unit", "munit", "drit"])
def test_preset_and_card_know_every_setting(name: str) -> None:
    fields = methods.find(name).Config.model_fields
    assert config.load(name).model == methods.find(name).Config()  # the preset is the published model
    card = (Path(__file__).parents[1] / "docs" / f"{name}.md").read_text(encoding="utf-8")
    table = re.search(r"(?:^\|.*\n)+", card.split("## Settings")[1], flags=re.MULTILINE)
    assert table is not None
    named = [key for line in table[0].splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert sorted(named) == sorted(fields)


def test_it_learns_to_recolour() -> None:
    assert_learns_to_recolour("unit", {"channels": 16, "blocks": 1, "learning_rate": 0.002})

"""CartoonGAN: its networks and first weights, the smoothed edges, its losses, its two parts, and that it learns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import toy_method
from fewtoon import config as configs
from fewtoon.config import Config, Train
from fewtoon.data import world
from fewtoon.engine import loop
from fewtoon.engine.progress import Watch
from fewtoon.engine.train import train
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.cartoongan import CartoonGAN, Structure
from fewtoon.nets import vgg
from fewtoon.nets.cartoongan import Discriminator, Generator, canny, grey, smooth_edges

TINY = {"channels": 4, "blocks": 1, "discriminator_channels": 4}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def tiny(size: int = 16, **settings: Any) -> CartoonGAN:
    return CartoonGAN(configs.section(CartoonGAN.Config, {**TINY, **settings}, "model"), size)


def batch(size: int = 16, count: int = 2, step: int = 0) -> Batch:
    none = torch.full((count,), -1)
    photos, drawings = (smooth(count, size, number) for number in (1, 2))
    return Batch(photos, drawings, none, none, step)


def smooth(count: int, size: int, number: int) -> Tensor:
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(number)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bilinear")


def as_tensor(pictures: Any) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- the published networks -------------------------------------------------------------------------------

# (kind, from, to, kernel, whether a normalisation follows, which takes a bias away again)
GENERATOR = [
    ("conv", 3, 64, 7, True),
    ("conv", 64, 128, 3, False),
    ("conv", 128, 128, 3, True),
    ("conv", 128, 256, 3, False),
    ("conv", 256, 256, 3, True),
    *[("conv", 256, 256, 3, True)] * 16,
    ("transposed", 256, 128, 3, False),
    ("conv", 128, 128, 3, True),
    ("transposed", 128, 64, 3, False),
    ("conv", 64, 64, 3, True),
    ("conv", 64, 3, 7, False),
]
DISCRIMINATOR = [
    ("conv", 3, 32, 3, False),
    ("conv", 32, 64, 3, False),
    ("conv", 64, 128, 3, True),
    ("conv", 128, 128, 3, False),
    ("conv", 128, 256, 3, True),
    ("conv", 256, 256, 3, True),
    ("conv", 256, 1, 3, False),
]


@pytest.mark.parametrize(
    ("layers", "build", "published", "ours"),
    [
        (GENERATOR, lambda: Generator(256), 11_120_195, 11_115_459),
        (DISCRIMINATOR, lambda: Discriminator(), 1_128_385, 1_127_745),
    ],
)
def test_the_published_layers(
    layers: list[Any], build: Callable[[], nn.Module], published: int, ours: int
) -> None:
    with torch.device("meta"):
        network = build()
    assert sum(i * o * k * k + o for _, i, o, k, _ in layers) == published
    assert sum(p.numel() for p in network.parameters()) == ours
    found = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    for module, (kind, i, o, k, normed) in zip(found, layers, strict=True):
        assert isinstance(module, nn.ConvTranspose2d) == (kind == "transposed")
        assert (module.in_channels, module.out_channels, module.kernel_size) == (i, o, (k, k))
        assert (module.bias is None) == normed


@pytest.mark.parametrize("size", [16, 20, 64])
def test_shapes(size: int) -> None:
    with torch.no_grad():
        drawn = Generator(size, 4, 1)(torch.rand(2, 3, size, size))
        logit = Discriminator(4)(torch.rand(2, 3, size, size))
    assert drawn.shape == (2, 3, size, size)
    assert drawn.abs().max() <= 1
    assert logit.shape == (2, 1, size // 4, size // 4)  # 64 x 64 at 256 px
    assert drawn.dtype == logit.dtype == torch.float32


def test_the_published_first_weights() -> None:
    for network in (Generator(16, 32, 2), Discriminator(32)):
        kernels = [p for p in network.parameters() if p.ndim > 1]
        for kernel in kernels:
            tolerance = 5 / math.sqrt(2 * kernel.numel())  # five deviations of a deviation
            assert kernel.std().item() == pytest.approx(0.02, rel=tolerance)
            assert abs(kernel.mean().item()) < 5 * 0.02 / math.sqrt(kernel.numel())
        assert all(not p.any() for p in network.parameters() if p.ndim == 1)


class Plain:
    """Both networks as published, with the weights of ours; the biases that ours leave out are 0."""

    def __init__(self, method: CartoonGAN) -> None:
        self.g = iter(m for m in method.generator.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)))
        self.layers = list(self.g)
        self.judges = [m for m in method.discriminator.modules() if isinstance(m, nn.Conv2d)]
        self.blocks = method.config.blocks

    def draw(self, x: Tensor) -> Tensor:
        w = iter(self.layers)

        def c(x: Tensor, stride: int = 1) -> Tensor:
            layer = next(w)
            return F.conv2d(x, layer.weight, layer.bias, stride, layer.kernel_size[0] // 2)

        def up(x: Tensor) -> Tensor:
            layer: Any = next(w)
            return F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1, 1)

        n = F.instance_norm
        x = F.relu(n(c(x)))
        x = F.relu(n(c(c(x, 2))))
        x = F.relu(n(c(c(x, 2))))
        for _ in range(self.blocks):
            x = x + n(c(F.relu(n(c(x)))))
        x = F.relu(n(c(up(x))))
        x = F.relu(n(c(up(x))))
        return torch.tanh(c(x))

    def judge(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.judges):
            x = F.conv2d(x, layer.weight, layer.bias, 2 if place in (1, 3) else 1, 1)
            x = F.instance_norm(x) if place in (2, 4, 5) else x
            x = F.leaky_relu(x, 0.2) if place < 6 else torch.sigmoid(x)
        return x


# --- edges ------------------------------------------------------------------------------------------------


def pictures_of_all_kinds() -> list[Any]:
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(20)]
    kinds = [*noise, *(cv2.GaussianBlur(picture, (0, 0), 1 + k / 10) for k, picture in enumerate(noise))]
    for side in ("photos", "drawings"):
        kinds += list(world.sample(side, 8, 48, seed=3)[0])
    spiral = np.zeros((48, 48, 3), np.uint8)  # one long edge that is strong only where it begins
    for turn, level in zip(range(2, 22, 4), (255, 110, 100, 90, 80)):
        cv2.rectangle(spiral, (turn, turn), (47 - turn, 47 - turn), (level,) * 3, 1)
    return [*kinds, spiral, np.full((48, 48, 3), 7, np.uint8)]


@pytest.mark.parametrize(("low", "high"), [(100, 200), (20, 300), (60, 60)])
def test_canny_is_that_of_opencv(low: int, high: int) -> None:
    pictures = pictures_of_all_kinds()
    ours = canny(grey(as_tensor(pictures)), low, high)
    some = 0
    for picture, found in zip(pictures, ours):
        theirs = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, high) > 0
        assert np.array_equal(found[0].numpy(), theirs)
        some += bool(theirs.any())
    assert some > 30


def test_a_long_edge_is_followed_to_its_end() -> None:
    """A grey band that winds through the picture, and whose edge is strong only where it begins."""
    level = np.zeros((64, 64), np.uint8)
    for turn, row in enumerate(range(4, 58, 8)):
        level[row : row + 4, 4:60] = 60
        side = 56 if turn % 2 == 0 else 4
        level[row : row + 12, side : side + 4] = 60
    level[60:] = 0
    level[4:8, 4:10] = 255
    theirs = cv2.Canny(level, 100, 600) > 0
    ours = canny(torch.from_numpy(level)[None, None].int(), 100, 600)[0, 0].numpy()
    assert theirs[40:].sum() > 200
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("width", [3, 5])
def test_edges_are_smoothed_as_published(width: int) -> None:
    """Canny, dilated, and the Gaussian kernel of OpenCV at those pixels alone, pixel by pixel."""
    pictures = world.sample("drawings", 4, 32, seed=5)[0]
    ours = smooth_edges(as_tensor(pictures), 100, 200, width)
    line = cv2.getGaussianKernel(width, 0)
    kernel, half = line @ line.T, width // 2
    for picture, found in zip(pictures, ours):
        edges = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 100, 200)
        near = cv2.dilate(edges, np.ones((width, width), np.uint8)) > 0
        padded = np.pad(picture.astype(float), ((half, half), (half, half), (0, 0)), mode="reflect")
        wanted = picture.astype(float)
        for y, x in zip(*np.nonzero(near)):
            for colour in range(3):
                wanted[y, x, colour] = (padded[y : y + width, x : x + width, colour] * kernel).sum()
        assert 50 < near.sum() < near.size
        np.testing.assert_allclose((found.permute(1, 2, 0).numpy() + 1) * 127.5, wanted, atol=1e-3)
        assert np.abs(wanted - picture).max() > 20


def test_each_picture_is_smoothed_by_itself_and_keeps_its_dtype() -> None:
    drawings = as_tensor(world.sample("drawings", 3, 32)[0])
    together = smooth_edges(drawings)
    assert torch.equal(together, torch.cat([smooth_edges(each[None]) for each in drawings]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(smooth_edges(drawings), together)
    assert smooth_edges(drawings.bfloat16()).dtype == torch.bfloat16
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert torch.equal(smooth_edges(flat), flat)


# --- losses -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG19 with random weights, in a file."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    network = vgg.VGG(19)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    save_file(network.state_dict(), path)
    return path


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_every_loss_against_a_plain_restatement(vgg19: Path) -> None:
    method, some, shared = tiny(vgg=str(vgg19)), batch(), Shared()
    plain = Plain(method)
    with torch.no_grad():
        for p in [*method.generator.parameters(), *method.discriminator.parameters()]:
            p.mul_(5)  # livelier than the first weights
        fake = plain.draw(some.photos)
        losses = method.discriminator_losses(some, shared)
        close(shared["fakes"], fake)
        losses |= method.generator_losses(some, shared)
    bce = F.binary_cross_entropy
    for name, picture, label in (
        ("real", some.drawings, 1.0),
        ("fake", fake, 0.0),
        ("smoothed", smooth_edges(some.drawings), 0.0),
        ("adversarial", fake, 1.0),
    ):
        said = plain.judge(picture)
        close(losses[name], bce(said, torch.full_like(said, label)))

    layers = nn.Sequential(*vgg.load(vgg19).features[:26])  # ... conv4_4, the twelfth convolution
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == 12
    assert isinstance(layers[-1], nn.Conv2d)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    maps = [layers(((x + 1) / 2 - mean) / deviation) for x in (fake, some.photos)]
    close(losses["content"], (maps[0] - maps[1]).abs().mean())
    assert method.phases()[1].weights == {"content": 10.0}
    assert not any(p.requires_grad for p in method.networks()["vgg"].parameters())


def test_structure_against_loops() -> None:
    made, photo = smooth(1, 16, 5), smooth(1, 16, 6)

    def described(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        p = x[0].double().numpy()
        colours = p.reshape(3, 2, 8, 2, 8).mean((2, 4))
        cells = np.zeros((8, 4, 4))
        for row in range(16):
            for column in range(16):
                across = p[:, row, min(column + 1, 15)] - p[:, row, column]
                down = p[:, min(row + 1, 15), column] - p[:, row, column]
                for k in range(8):
                    along = across * math.cos(k * math.pi / 4) + down * math.sin(k * math.pi / 4)
                    cells[k, row // 4, column // 4] += np.maximum(along, 0).mean() / 16
        lines = np.zeros_like(cells)
        energy = (cells**2).sum(0)
        for row in range(4):
            for column in range(4):
                around = energy[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].mean()
                lines[:, row, column] = cells[:, row, column] / math.sqrt(around + 0.0025)
        return colours, lines

    (t1, h1), (t2, h2) = described(made), described(photo)
    wanted = 3 * np.abs(h1 - h2).mean() + np.abs(t1 - t2).mean()
    assert Structure()(made, photo).item() == pytest.approx(wanted, rel=1e-4)


def test_structure_forgives_small_moves_and_stronger_lines() -> None:
    photos, structure = 0.5 * as_tensor(world.sample("photos", 4, 64)[0]), Structure()

    def far(made: Tensor) -> float:
        return structure(made, photos).item()

    assert far(photos) == 0
    assert far(photos.roll(1, 3)) < 0.6 * far(photos.roll(8, 3))
    assert far(1.2 * photos) < 0.3 * far(photos.flip(3))  # other contrast against another face
    checked = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(32, 32)
    assert far(photos + checked) > far(photos.roll(1, 3))  # patterns of two pixels are no lines


# --- two parts of a training ------------------------------------------------------------------------------


def trainee(**model: Any) -> Trainee:
    settings = configs.section(CartoonGAN.Config, {**TINY, **model}, "model")
    return Trainee(
        Config(method="cartoongan", model=settings, train=Train(batch=2)), 16, [], torch.device("cpu")
    )


def test_the_first_steps_learn_content_alone() -> None:
    one = trainee(initial_steps=2)
    networks = one.method.networks()
    before = [p.detach().clone() for p in networks["discriminator"].parameters()]
    for step in range(3):
        start = [p.detach().clone() for p in networks["generator"].parameters()]
        result = loop.update(one, batch(step=step), Watch(3, quiet=True))
        assert not result.bad
        assert not all(torch.equal(a, b) for a, b in zip(start, networks["generator"].parameters()))
        same = all(torch.equal(a, b) for a, b in zip(before, networks["discriminator"].parameters()))
        assert same == (step < 2)
        assert len(one.optimizers["D"].state) == (0 if step < 2 else len(before))  # its moments begin with it
        assert ("G/adversarial" in result.values) == (step >= 2)
        assert ("D/smoothed" in result.values) == (step >= 2)
        assert "G/structure" in result.values


def test_nothing_is_computed_twice() -> None:
    """One pass of the generator in a step, and one of the discriminator for real, smoothed and drawn pictures."""
    method, some, shared = tiny(), batch(), Shared()
    seen: dict[str, list[int]] = {"generator": [], "discriminator": []}
    for name, counts in seen.items():
        method.networks()[name].register_forward_pre_hook(
            lambda m, given, to=counts: to.append(len(given[0]))
        )
    method.discriminator_losses(some, shared)
    method.generator_losses(some, shared)
    assert seen == {"generator": [2], "discriminator": [6, 2]}


def test_what_is_said_before_the_first_step(vgg19: Path) -> None:
    for settings, words in (
        ({}, ["no vgg", "structure"]),
        ({"initial_steps": 7}, ["no vgg", "first 7 steps"]),
        ({"vgg": str(vgg19)}, []),
    ):
        told: list[str] = []
        tiny(**settings).learn_first(lambda side: (torch.empty(0), torch.empty(0)), 0, told.append)
        assert all(word in " ".join(told) for word in words)
        assert bool(told) == bool(words)
    assert "structure" in tiny().phases()[1].weights
    assert "content" in tiny(vgg=str(vgg19)).phases()[1].weights


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -4, 12, 18, 63])
def test_sizes_that_do_not_work_are_refused(size: int) -> None:
    with pytest.raises(Problem, match=rf"size {size}: .* multiple of 4"):
        tiny(size)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"edge_width": 4}, "edge_width = 4: must be odd"),
        ({"edge_width": 1}, "edge_width = 1"),
        ({"edge_low": 300}, "edge_high = 200: must not be below edge_low = 300"),
        ({"edge_high": 50}, "edge_high = 50: must not be below edge_low = 100"),
        ({"initial_steps": -1}, "initial_steps = -1"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"smooth": 5}, "unknown key 'model.smooth'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        tiny(**settings)


def test_files_that_are_no_vgg19_are_refused(tmp_path: Path) -> None:
    wrong, torn = tmp_path / "vgg16.safetensors", tmp_path / "torn.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, wrong)
    torn.write_bytes(b"torn")
    for path in (wrong, torn, tmp_path / "none.pth"):
        with pytest.raises(Problem, match=r"vgg = .*leave vgg out") as caught:
            tiny(vgg=str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_preset_is_the_published_model() -> None:
    settings = configs.load("cartoongan")
    with torch.device("meta"):
        method = CartoonGAN(settings.model, 256)
    assert sum(p.numel() for p in method.generator.parameters()) == 11_115_459
    assert settings.model.content_weight == 10
    assert settings.model.learning_rate == 2e-4
    assert 0 < settings.model.initial_steps < settings.train.steps
    assert settings.train.batch == 8


# --- whole trainings --------------------------------------------------------------------------------------


def test_resume_is_exact(tmp_path: Path) -> None:
    """Stopped in the first part and in the second one, with ADA: the bytes of a training that was not."""
    model = configs.section(
        CartoonGAN.Config,
        {**TINY, "initial_steps": 3, "augment": "ada", "ada_start": 0.5, "ada_every": 2},
        "model",
    )

    def go(out: str, steps: int) -> None:
        settings = Train(
            steps=steps, batch=2, log_every=1, state_every=2, preview_every=4, metric_every=8, decay_from=1
        )
        packs = toy_method.pack("photos", 1), toy_method.pack("drawings", 2)
        train(
            Config(method="cartoongan", model=model, train=settings),
            *packs,
            tmp_path / out,
            device="cpu",
            track=(),
            quiet=True,
        )

    go("whole", 8)
    for steps in (2, 5, 8):
        go("parts", steps)
    states = [sorted((tmp_path / out / "state").iterdir())[-1] for out in ("whole", "parts")]
    assert states[0].name == states[1].name
    tensors = [state.read_bytes() for state in states]
    assert len(tensors[0]) == len(tensors[1])
    assert same_tensors(*states)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any("drawings/augmented" in row for row in rows)


def same_tensors(one: Path, other: Path) -> bool:
    from fewtoon.engine.checkpoint import read

    a, b = read(one)[0], read(other)[0]
    assert a.keys() == b.keys()
    assert any(key.startswith("optimizer.D.") for key in a)
    return all(torch.equal(a[key], b[key]) for key in a)


TINT = torch.tensor([0.35, 0.0, -0.35]).view(3, 1, 1)


def recoloured(pictures: Tensor) -> Tensor:
    """Paler, and warmer by TINT."""
    return 0.6 * pictures + TINT


def learned(steps: int, **settings: Any) -> tuple[float, Tensor]:
    """How far drawings of photos that were not trained on are from the recoloured photos, and the drawings."""
    pictures = as_tensor(world.sample("photos", 112, 32, seed=1)[0])
    photos, others, fresh = pictures[:48], recoloured(pictures[48:96]), pictures[96:]
    given = {"channels": 8, "blocks": 1, "discriminator_channels": 8, "learning_rate": 2e-3, **settings}
    model = configs.section(CartoonGAN.Config, given, "model")
    config = Config(method="cartoongan", model=model, train=Train(batch=8, ema=0.95))
    one = Trainee(config, 32, [], torch.device("cpu"))
    random, none = torch.Generator().manual_seed(0), torch.full((8,), -1)
    for step in range(steps):
        rows = [torch.randint(48, (8,), generator=random) for _ in range(2)]
        some = Batch(photos[rows[0]], others[rows[1]], none, none, step)
        assert not loop.update(one, some, Watch(steps, quiet=True)).bad
        one.average.update(step)
    with torch.no_grad():
        drawn = one.artist.method.translate(fresh)
    return F.l1_loss(drawn, recoloured(fresh)).item(), drawn


def test_it_learns_to_recolour() -> None:
    """The photos themselves are 0.256 away from their recoloured selves; content alone keeps it there."""
    with_drawings, drawn = learned(100)
    content_alone, copied = learned(40, initial_steps=40)
    assert with_drawings < 0.2
    assert content_alone > 0.24
    nearer = drawn.mean((0, 2, 3)) - copied.mean((0, 2, 3))  # of red, green and blue
    assert nearer[0] > nearer[2] + 0.2

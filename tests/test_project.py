"""Photos to codes to drawings: likenesses, the descent, the encoder, the commands. Tiny random networks, 16 px."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import generators
from asking import one_line, refused
from fewtoon import cli, config, methods, style
from fewtoon.data.pack import Pack
from fewtoon.engine.preview import GAP, TITLE
from fewtoon.faces import finders
from fewtoon.io import images
from fewtoon.latent import codes
from fewtoon.latent import encoder as encoders
from fewtoon.latent.encoder import Settings as Learning
from fewtoon.latent.encoder import encoder, learn, open_encoder, peak_ratio, random_codes
from fewtoon.latent.inversion import (
    Settings,
    average,
    distance,
    invert,
    jitter_at,
    noise_penalty,
    rate_at,
    spread,
)
from fewtoon.latent.project import project, settings_for
from fewtoon.latent.sources import Source, open_sources
from fewtoon.losses import perceptual
from fewtoon.losses.perceptual import LAYERS, LPIPS, SSIM, Likeness, open_likeness
from fewtoon.nets import vgg
from generators import SIZE
from scripted import ScriptedFinder, person

# Where torchvision's `features` have their convolutions, with the channels they give.
VGG16 = {
    0: 64,
    2: 64,
    5: 128,
    7: 128,
    10: 256,
    12: 256,
    14: 256,
    17: 512,
    19: 512,
    21: 512,
    24: 512,
    26: 512,
    28: 512,
}
VGG19 = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make(seed: int, size: int = SIZE, **settings: Any) -> Any:
    """As `generators.make`, with the average w that its mapping has."""
    method = generators.make(seed, size=size, **settings)
    mapping = method.generator.mapping
    mapping.average.copy_(mapping.measure())
    return method


def moved(method: Any) -> Any:
    """A copy whose synthesis has changed a little and whose average is another, as by fine-tuning."""
    made = type(method)(method.config, method.size, method.groups, training=False)
    torch.manual_seed(7)
    for name, network in made.networks().items():
        state = method.networks()[name].state_dict()
        network.load_state_dict(
            {k: t if "layers" in k else t + 0.3 * torch.randn(t.shape) for k, t in state.items()}
        )
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a is the source and b was made from it, sg has codes of two mappings, framed wants faces; photos of a; a VGG16
    with heads, and what is not."""
    folder = tmp_path_factory.mktemp("files")
    torch.set_num_threads(1)
    a = make(1)
    style.write(folder / "a.safetensors", a, {})
    style.write(folder / "framed.safetensors", a, {"framing": "ffhq"})
    style.write(folder / "b.safetensors", moved(a), {})
    style.write(folder / "sg.safetensors", make(4, freeze_styles=3), {})
    style.write(folder / "big.safetensors", make(3, size=32), {})
    style.write(folder / "long.safetensors", make(3, style=6), {})
    kind = methods.find("ugatit")
    other = kind(config.section(kind.Config, {"channels": 4, "blocks": 1}, "model"), SIZE, [], training=False)
    style.write(folder / "translator.safetensors", other, {})
    opened = style.load(folder / "a.safetensors")
    (folder / "photos").mkdir()
    for seed in range(3):
        images.save_png(
            folder / "photos" / f"p{seed}.png",
            style.to_pixels(opened.sample(opened.method.latents(1, seed)))[0],
        )
    (folder / "photos" / "torn.png").write_bytes(b"no picture")

    torch.manual_seed(0)
    state, inside = {}, 3
    for place, outside in VGG16.items():
        state[f"features.{place}.weight"] = torch.randn(outside, inside, 3, 3) * math.sqrt(2 / (9 * inside))
        state[f"features.{place}.bias"] = torch.randn(outside) * 0.1
        inside = outside
    save_file(state, folder / "vgg16.safetensors")
    heads = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1) for k, c in enumerate((64, 128, 256, 512, 512))}
    torch.save(heads, folder / "heads.pth")
    torch.save({**heads, "lin1.model.1.weight": torch.rand(1, 192, 1, 1)}, folder / "alex.pth")
    return folder


@pytest.fixture
def a(files: Path) -> Source:
    return open_sources([files / "a.safetensors"], "cpu")[0]


def own(source: Source, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Codes of random pictures of a source, (N, codes, W), and the pictures."""
    w = random_codes(source, count, 0.0, torch.Generator().manual_seed(seed))
    return w, source.style.synthesis(w)


# --- VGG and LPIPS ---------------------------------------------------------------------------------------


def test_layers_are_where_torchvision_has_them() -> None:
    for depth, places in ((16, list(VGG16)), (19, VGG19)):
        with torch.device("meta"):
            network = vgg.VGG(depth)
        keys = [f"features.{place}.{kind}" for place in places for kind in ("weight", "bias")]
        assert list(network.state_dict()) == keys
    names = vgg.layer_names(19)
    assert (names[16], names[17], names[18], names[-1]) == ("conv3_4", "relu3_4", "pool3", "pool5")
    assert vgg.layer_names(16)[22] == "relu4_3"


def plainly(state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """VGG16 layer by layer, written down: relu1_1, relu1_2 ..."""
    found = {}
    places = iter(VGG16)
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        if stage > 1:
            x = F.max_pool2d(x, 2, 2)
        for k in range(1, count + 1):
            place = next(places)
            x = F.relu(
                F.conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1)
            )
            found[f"relu{stage}_{k}"] = x
    return found


def test_named_layers_are_those_of_the_network(files: Path) -> None:
    network = vgg.load(files / "vgg16.safetensors").until("relu3_3")
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    x = vgg.imagenet(pictures)
    red = (pictures[:, 0] + 1) / 2
    assert torch.allclose(x[:, 0], (red - 0.485) / 0.229, atol=1e-6)
    plain = plainly(load_file(files / "vgg16.safetensors"), x)
    found = network(x, ["relu3_3", "relu1_2"])
    assert torch.allclose(found[0], plain["relu3_3"], atol=1e-4)
    assert torch.allclose(found[1], plain["relu1_2"], atol=1e-4)
    assert not any(p.requires_grad for p in network.parameters())
    one_line(lambda: network(x, ["relu3_4"]), "relu3_4")
    one_line(lambda: network(x, ["relu4_1"]), "relu4_1")  # cut off


def test_lpips_is_the_published_formula(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against an independent restatement in float64, summed place by place."""
    lpips = LPIPS(files / "vgg16.safetensors", files / "heads.pth")
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    y[1] = x[1]
    state = {k: t.double() for k, t in load_file(files / "vgg16.safetensors").items()}
    heads = torch.load(files / "heads.pth", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(1, 3, 1, 1)
    one, other = (plainly(state, (p.double() - shift) / scale) for p in (x, y))
    wanted = torch.zeros(2).double()
    for k, name in enumerate(LAYERS):
        u, v = one[name], other[name]
        u = u / (torch.sqrt(torch.sum(u**2, 1, keepdim=True)) + 1e-10)
        v = v / (torch.sqrt(torch.sum(v**2, 1, keepdim=True)) + 1e-10)
        wanted += F.conv2d((u - v) ** 2, heads[f"lin{k}.model.1.weight"].double()).mean((1, 2, 3))
    with torch.no_grad():
        found = lpips(x, y)
    assert float(wanted[0]) > 0.05
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-6)
    assert float(found[1]) == 0
    assert torch.allclose(lpips(x[:1], y[:1]), found[:1], rtol=1e-5)
    monkeypatch.setattr(perceptual, "LARGEST", 16)
    halves = F.avg_pool2d(x, 2)
    assert all(torch.equal(p, q) for p, q in zip(lpips.describe(x), lpips.describe(halves), strict=True))
    assert lpips.facts()["backbone_sha256"] != lpips.facts()["heads_sha256"]


def test_lpips_has_a_gradient_where_nothing_is_active(files: Path) -> None:
    lpips = LPIPS(files / "vgg16.safetensors", files / "heads.pth")
    for layer in lpips.network.features:
        if isinstance(layer, torch.nn.Conv2d):
            layer.bias.data.fill_(-1)  # dead almost everywhere
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    lpips(x, torch.rand(1, 3, 32, 32)).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("what", ["vgg19", "bn", "lacking", "shape", "classifier", "empty", "nan"])
def test_other_backbones_are_refused(what: str, files: Path, tmp_path: Path) -> None:
    state = dict(load_file(files / "vgg16.safetensors"))
    if what == "vgg19":
        state = {f"features.{k}.{kind}": torch.zeros(1) for k in VGG19 for kind in ("weight", "bias")}
    elif what == "bn":
        state["features.1.running_mean"] = torch.zeros(64)
    elif what == "lacking":
        del state["features.28.bias"]
    elif what == "shape":
        state["features.7.weight"] = torch.zeros(128, 128, 1, 1)
    elif what == "classifier":
        state["classifier.0.weight"] = torch.zeros(5, 5)
    elif what == "empty":
        state = {}
    else:
        state["features.0.bias"] = torch.full((64,), math.nan)
    torch.save(state, tmp_path / "x.pth")
    one_line(lambda: LPIPS(tmp_path / "x.pth", files / "heads.pth"), "x.pth")


def test_a_whole_checkpoint_is_a_backbone(files: Path, tmp_path: Path) -> None:
    head = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}
    state = dict(load_file(files / "vgg16.safetensors"))
    for k, shape in head.items():  # one number each: the file stays small
        state |= {
            f"classifier.{k}.weight": torch.zeros(1).expand(shape),
            f"classifier.{k}.bias": torch.zeros(shape[0]),
        }
    torch.save(state, tmp_path / "vgg.pth")
    assert vgg.load(tmp_path / "vgg.pth", depth=16).depth == 16
    one_line(lambda: vgg.load(tmp_path / "vgg.pth", depth=19), "VGG16", "VGG19")


def test_likenesses_are_opened_by_their_files(files: Path) -> None:
    assert isinstance(open_likeness(None, None), SSIM)
    backbone, heads = files / "vgg16.safetensors", files / "heads.pth"
    assert isinstance(open_likeness(backbone, heads), LPIPS)
    one_line(lambda: open_likeness(backbone, None), "--heads")
    one_line(lambda: open_likeness(None, heads), "--backbone")
    one_line(lambda: open_likeness(backbone, files / "alex.pth"), "alex.pth", "vgg.pth")
    one_line(lambda: open_likeness(heads, heads), "heads.pth", "VGG16")
    one_line(lambda: open_likeness(files / "nowhere.pth", heads), "nowhere.pth")


# --- the descent -----------------------------------------------------------------------------------------


def test_the_published_schedules() -> None:
    assert [rate_at(t) for t in (0, 0.025, 0.05, 0.5, 0.75)] == pytest.approx([0, 0.5, 1, 1, 1])
    assert rate_at(0.875) == pytest.approx(0.5)
    assert rate_at(1) == pytest.approx(0)
    assert [jitter_at(t) for t in (0, 0.375, 0.75, 0.9)] == pytest.approx([1, 0.25, 0, 0])


def test_the_spread_and_the_distance_are_those_of_random_codes(a: Source) -> None:
    z = torch.randn(4000, 8, generator=torch.Generator().manual_seed(3))
    w = a.style.mapping(z)
    assert spread(a) == pytest.approx(float(w.var(0).sum().sqrt()), rel=0.05)
    far = distance(w[:, None].expand(-1, 6, -1), average(a), spread(a))
    assert far.shape == (4000,)
    assert float(far.mean()) == pytest.approx(1, rel=0.1)


def test_the_average_of_frozen_styles_is_the_sources(files: Path) -> None:
    (sg,) = open_sources([files / "sg.safetensors"], "cpu")
    middle = average(sg)
    networks = sg.method.networks()
    assert torch.equal(middle[2], networks["source_mapping"].average)  # type: ignore[arg-type]
    assert torch.equal(middle[3], sg.method.generator.mapping.average)


def test_the_noise_penalty_is_the_published_one() -> None:
    def slowly(x: np.ndarray) -> float:
        total = 0.0
        while True:
            side = len(x)
            across = sum(x[i][j] * x[i][j - 1] for i in range(side) for j in range(side)) / side**2
            down = sum(x[i][j] * x[i - 1][j] for i in range(side) for j in range(side)) / side**2
            total += across**2 + down**2
            if side <= 8:
                return total
            x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 2

    torch.manual_seed(0)
    maps = [torch.randn(2, 1, 4, 4), torch.randn(2, 1, 32, 32)]
    found = noise_penalty(maps)
    for row in range(2):
        assert float(found[row]) == pytest.approx(sum(slowly(m[row, 0].numpy()) for m in maps), rel=1e-4)
    assert float(noise_penalty([torch.ones(1, 1, 16, 16)])[0]) == pytest.approx(2 + 2 * 16)


STEPS = 200


def test_its_own_pictures_are_recovered(a: Source) -> None:
    """The figures of the trained source are in docs/project.md; these are of 16 px and random weights."""
    _, pictures = own(a, 4)
    ratios = {}
    for space in ("w+", "w"):
        found = invert(a, pictures, SSIM(), Settings(space=space, steps=STEPS, batch=4, pull=0))
        ratios[space] = peak_ratio(a.style.synthesis(found.w), pictures)
        assert found.w.shape == ((4, 6, 8) if space == "w+" else (4, 8))
        assert all(end < begin for end, begin in zip(found.loss, found.start))
    begin = peak_ratio(a.style.synthesis(average(a)[None]).expand(4, -1, -1, -1), pictures)
    # Random weights of 8 channels have hollows that a descent may end in, so not of every one.
    assert float(ratios["w+"].median()) > 25, ratios
    assert float(ratios["w"].median()) > 60, ratios
    assert float(begin.mean()) < 20, begin


def test_no_photo_depends_on_its_neighbours(a: Source) -> None:
    _, pictures = own(a, 3)
    alone = Settings(steps=40, batch=1)
    one = invert(a, pictures[1:2], SSIM(), alone)
    assert torch.equal(invert(a, pictures, SSIM(), alone).w[1:2], one.w)  # to the last bit
    together = invert(a, pictures.flip(0), SSIM(), Settings(steps=40, batch=3))
    assert torch.allclose(together.w[1:2], one.w, atol=1e-3)
    assert not torch.allclose(together.w[:1], one.w, atol=0.1)
    other = invert(a, pictures[1:2], SSIM(), Settings(steps=40, seed=1))
    assert not torch.allclose(other.w, one.w, atol=1e-3)


def test_a_photo_stops_when_nothing_improves_and_the_others_go_on(a: Source) -> None:
    w, pictures = own(a, 3)
    start = torch.stack([w[0], w[0], w[2]])  # the first and the last are there already
    settings = Settings(steps=60, jitter=0, pull=0, patience=15, batch=3)
    found = invert(a, pictures, SSIM(), settings, start)
    assert found.steps[0] == found.steps[2] == 15
    assert found.steps[1] > 30
    assert float(peak_ratio(a.style.synthesis(found.w[[0, 2]]), pictures[[0, 2]]).min()) > 50
    assert found.loss[1] < found.start[1]
    alone = invert(a, pictures[1:2], SSIM(), Settings(steps=60, jitter=0, pull=0, patience=15), start[1:2])
    assert torch.allclose(alone.w, found.w[1:2], atol=1e-3)
    assert alone.steps == found.steps[1:2]
    ticks: list[int] = []
    invert(a, pictures, SSIM(), settings, start, ticks.append)
    assert sum(ticks) == 3 * 61


def test_it_never_ends_worse_than_it_began(a: Source) -> None:
    _, pictures = own(a, 2)
    found = invert(a, pictures, SSIM(), Settings(steps=30, jitter=0, rate=50.0))
    assert all(end <= begin for end, begin in zip(found.loss, found.start))
    kept = invert(a, pictures, SSIM(), Settings(steps=0))
    assert torch.equal(kept.w[0], average(a))
    assert kept.steps == [0, 0]
    assert kept.loss == kept.start
    assert math.isfinite(kept.loss[0])


def test_the_pull_keeps_codes_near_the_average(a: Source) -> None:
    pictures = (
        torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )  # nothing it draws
    free, held = (invert(a, pictures, SSIM(), Settings(steps=80, batch=2, pull=pull)) for pull in (0.0, 1.0))
    assert sum(held.far) < 0.5 * sum(free.far)
    scale, middle = spread(a), average(a)
    assert free.far == pytest.approx(distance(free.w, middle, scale).tolist(), rel=1e-4)


def test_noise_maps_take_what_codes_cannot_say(a: Source) -> None:
    synthesis = a.method.generator.synthesis
    for one in synthesis.modules():
        if hasattr(one, "strength"):
            one.strength.data.mul_(3)
    w, _ = own(a, 1)
    torch.manual_seed(3)
    pictures = synthesis(w, "random").detach().clamp(-1, 1)
    fixed, free = (
        invert(a, pictures, SSIM(), Settings(steps=80, perceptual=0, pull=0, noise=n))
        for n in ("fixed", "optimised")
    )
    assert fixed.noise == []
    assert [one.shape[2] for one in free.noise] == [4, 8, 8, 16, 16]
    for one in free.noise:
        assert float(one.mean()) == pytest.approx(0, abs=1e-4)
        assert float(one.square().mean()) == pytest.approx(1, abs=1e-3)
    assert free.loss[0] < 0.97 * fixed.loss[0]


@pytest.mark.parametrize(
    "given",
    [
        {"steps": -1}, {"steps": 2.5}, {"rate": math.nan}, {"jitter": -1}, {"space": "z"}, {"noise": "none"},
        {"patience": 0}, {"batch": 0}, {"pixel": 0, "perceptual": 0},
    ],
)  # fmt: skip
def test_other_settings_are_refused(given: dict[str, Any]) -> None:
    one_line(lambda: Settings(**given), next(iter(given)))


def test_a_loss_that_breaks_is_told(a: Source) -> None:
    _, pictures = own(a, 1)
    one_line(lambda: invert(a, pictures, SSIM(), Settings(steps=9, rate=1e30)), "--rate", "a photo")


# --- the encoder -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An encoder of a, and what the command told."""
    out = tmp_path_factory.mktemp("encoder") / "e.safetensors"
    torch.set_num_threads(1)
    return out, encoder(files / "a.safetensors", out, settings=Learning(steps=250))


def test_an_encoder_learns_the_generators_pictures(taught: tuple[Path, dict[str, Any]], a: Source) -> None:
    out, told = taught
    w, pictures = own(a, 8, seed=99)
    network = open_encoder(out, a).network
    guess = network(pictures)
    assert guess.shape == (8, 6, 8)
    average_psnr = float(
        peak_ratio(a.style.synthesis(average(a)[None]).expand(8, -1, -1, -1), pictures).mean()
    )
    found = float(peak_ratio(a.style.synthesis(guess), pictures).mean())
    assert found > average_psnr + 4, (found, average_psnr)
    assert told["psnr_own"] == pytest.approx(found, abs=2)
    near, far = (distance(one - w, torch.zeros(6, 8), spread(a)).mean() for one in (guess, average(a)))
    assert float(near) < 0.75 * float(far)
    assert torch.allclose(network(pictures[2:3]), guess[2:3], atol=1e-5)


def test_an_untaught_encoder_says_the_average(a: Source) -> None:
    torch.manual_seed(0)
    network = encoders.Encoder(SIZE, a.method.channels, 8)
    network.middle.copy_(average(a))
    assert torch.equal(network(torch.rand(2, 3, SIZE, SIZE))[1], average(a))


def test_learning_repeats_and_photos_are_learned_too(files: Path, a: Source) -> None:
    photos = np.stack([images.read(files / "photos" / f"p{k}.png") for k in range(3)])
    heard: list[dict[str, float]] = []
    settings = Learning(steps=3, batch=4)
    one, other = (
        learn(a, SSIM(), settings, photos, lambda _, losses: heard.append(losses)) for _ in range(2)
    )
    assert all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), other.state_dict().values()))
    assert heard[0].keys() == {"code", "own", "photos"}
    third = learn(a, SSIM(), Learning(steps=3, batch=4, seed=1), photos)
    assert not torch.equal(one.out.weight, third.out.weight)
    before = learn(a, SSIM(), Learning(steps=150, batch=4, code=0), photos)
    pictures = style.to_tensor(photos)
    assert encoders.psnr(a, before, pictures) > encoders.psnr(a, one, pictures) + 1


def test_the_encoder_command(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.stack([images.read(files / "photos" / f"p{k % 3}.png") for k in range(4)])
    Pack.from_arrays(pixels, "photos", splits=["train"] * 3 + ["held_out"]).save(tmp_path / "pack")
    words = ["explore", "encoder", str(files / "a.safetensors"), "--photos", str(tmp_path / "pack")]
    words += [
        "--steps",
        "4",
        "--batch",
        "3",
        "--pull",
        "0.5",
        "--out",
        str(tmp_path / "e.safetensors"),
        "--json",
    ]
    assert cli.main([*words, "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["photos"], answer["likeness"]["name"].split()[0]) == (1, SSIM().facts()["name"].split()[0])
    first = Path(answer["out"]).read_bytes()
    told = json.loads(Path(answer["record"]).read_text())
    with safe_open(answer["out"], "pt") as file:
        assert json.loads(file.metadata()["fewtoon"]) == told
    assert told["settings"]["steps"] == 4
    assert told["metrics"]["psnr_own"] == answer["psnr_own"]
    Path(answer["out"]).unlink()
    assert cli.main(shlex.split(told["command"])[1:]) == 0
    assert Path(answer["out"]).read_bytes() == first


def test_an_encoder_is_opened_strictly(
    taught: tuple[Path, dict[str, Any]], files: Path, a: Source, tmp_path: Path
) -> None:
    out, _ = taught
    assert open_encoder(out, a).notes == []
    b, big, long = open_sources([files / f"{n}.safetensors" for n in ("b", "big", "long")], "cpu")
    (note,) = open_encoder(out, b).notes
    assert "a.safetensors" in note
    assert "another style" in note
    one_line(lambda: open_encoder(out, big), "size 16", "size 32")
    one_line(lambda: open_encoder(out, long), "w 8", "w 6")
    one_line(lambda: open_encoder(files / "a.safetensors", a), "a.safetensors", "no encoder")
    one_line(lambda: open_encoder(tmp_path / "none", a), "does not exist")
    (tmp_path / "torn").write_bytes(out.read_bytes()[:500])
    one_line(lambda: open_encoder(tmp_path / "torn", a), "torn")
    header = open_encoder(out, a).header
    tensors = load_file(out)
    for name, change in (
        ("lacking", lambda: tensors.pop("out.bias")),
        ("nan", lambda: tensors.update({"out.bias": torch.full((48,), math.nan)})),
        ("channels", lambda: (header.update(channels=[8, 8]), tensors.update({"out.bias": torch.zeros(48)}))),
        ("version", lambda: header.update(version=99)),
    ):
        change()
        save_file(tensors, tmp_path / name, {"fewtoon": json.dumps(header)})
        one_line(lambda name=name: open_encoder(tmp_path / name, a), name)  # type: ignore[misc]


# --- the verb --------------------------------------------------------------------------------------------


def test_photos_become_drawings(files: Path, tmp_path: Path) -> None:
    answer = project(
        files / "a.safetensors",
        [files / "photos"],
        tmp_path / "o",
        draw=[files / "b.safetensors"],
        truncation=[0.5, 1],
        steps=60,
        single=True,
        batch=2,
    )
    assert [one["name"] for one in answer["photos"]] == ["p0", "p1", "p2"]
    assert answer["refused"][0]["file"].endswith("torn.png")
    sheet, step = images.read(answer["sheet"]), 128 + GAP
    w = load_file(answer["latents"])["a.w"]
    a, b = open_sources([files / "a.safetensors", files / "b.safetensors"], "cpu")
    averages = b.method.generator.mapping.average
    drawn = [
        a.style.synthesis(w),
        b.style.synthesis(averages + 0.5 * (w - averages)),  # towards its own, not the source's
        b.style.synthesis(w),
    ]
    for row in range(3):
        photo = images.read(files / "photos" / f"p{row}.png")
        for column, wanted in enumerate([photo, *(style.to_pixels(some)[row] for some in drawn)]):
            x = sheet.shape[1] - (4 - column) * step
            shown = sheet[TITLE + row * step :, x:][:128:8, :128:8]
            assert abs(shown.astype(int) - wanted).max() <= 1, (row, column)
    assert sheet.shape[0] == TITLE + 3 * step
    for row, name in enumerate(("p0", "p1", "p2")):
        single = images.read(tmp_path / "o" / "b-truncation0.5" / f"{name}.png")
        assert abs(single.astype(int) - style.to_pixels(drawn[1])[row]).max() <= 1
    ratio = float(peak_ratio(drawn[0][:1], style.to_tensor(images.read(files / "photos" / "p0.png")[None])))
    assert answer["photos"][0]["psnr"] == pytest.approx(ratio, abs=0.01)


def test_the_latents_are_read_by_the_other_tools(files: Path, tmp_path: Path, a: Source) -> None:
    for space, shape in (("w+", (3, 6, 8)), ("w", (3, 8))):
        answer = project(files / "a.safetensors", [files / "photos"], tmp_path / space, space=space, steps=3)
        assert load_file(answer["latents"])["a.w"].shape == shape
        found = codes.of_file(a, answer["latents"])
        assert found.names == ["p0", "p1", "p2"]
        assert found.w.shape == (3, 6, 8)
        if space == "w":
            assert torch.equal(found.w[:, 0], found.w[:, 5])
    answer = project(
        files / "sg.safetensors", [files / "photos" / "p1.png"], tmp_path / "sg", space="w", steps=3
    )
    assert load_file(answer["latents"])["sg.w"].shape == (1, 6, 8)  # two averages, one offset


def test_an_encoder_is_the_start(
    files: Path, taught: tuple[Path, dict[str, Any]], tmp_path: Path, a: Source
) -> None:
    pictures = [files / "photos" / f"p{k}.png" for k in range(3)]
    fast = project(files / "a.safetensors", pictures, tmp_path / "fast", encoder=taught[0], steps=0)
    x = style.to_tensor(np.stack([images.read(path) for path in pictures]))
    guess = open_encoder(taught[0], a).network(x)
    assert torch.allclose(load_file(fast["latents"])["a.w"], guess, atol=1e-5)
    near = project(files / "a.safetensors", pictures, tmp_path / "near", encoder=taught[0], steps=30)
    for one, other in zip(fast["photos"], near["photos"]):
        assert other["loss_at_start"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["loss"] < one["loss"]
    assert settings_for(True).jitter == 0
    assert settings_for(False, steps=7).steps == 7
    one_line(lambda: settings_for(False, steps=0), "--encoder")
    other = project(files / "b.safetensors", pictures[:1], tmp_path / "b", encoder=taught[0], steps=0)
    assert "another style" in other["notes"][0]


def test_lpips_is_used_where_it_is_named(files: Path, tmp_path: Path) -> None:
    answer = project(
        files / "a.safetensors",
        [files / "photos" / "p0.png"],
        tmp_path / "o",
        backbone=files / "vgg16.safetensors",
        heads=files / "heads.pth",
        steps=3,
    )
    told = json.loads(Path(answer["record"]).read_text())["likeness"]
    assert told["name"].startswith("LPIPS")
    assert len(told["backbone_sha256"]) == 64


def test_noise_maps_are_kept_and_are_nobody_elses(files: Path, tmp_path: Path) -> None:
    answer = project(
        files / "a.safetensors",
        [files / "photos"],
        tmp_path / "o",
        draw=[files / "b.safetensors"],
        noise="optimised",
        steps=20,
        single=True,
    )
    saved = load_file(answer["latents"])
    a, b = open_sources([files / "a.safetensors", files / "b.safetensors"], "cpu")
    maps = [saved[f"a.noise.{k}"][1:2] for k in range(5)]
    with torch.no_grad():
        own = style.to_pixels(a.method.generator.synthesis(saved["a.w"][1:2], maps))[0]
    assert abs(images.read(tmp_path / "o" / "a" / "p1.png").astype(int) - own).max() <= 1
    plain = style.to_pixels(b.style.synthesis(saved["a.w"]))[1]
    assert np.array_equal(images.read(tmp_path / "o" / "b" / "p1.png"), plain)
    assert codes.of_file(a, answer["latents"]).names == ["p0", "p1", "p2"]


def test_the_record_repeats_the_command(
    files: Path,
    taught: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["explore", "project", str(files / "a.safetensors"), str(files / "photos"), "--out", "o ut"]
    words += [
        "--draw",
        str(files / "b.safetensors"),
        "--truncation=-0.25,0.7",
        "--space",
        "w",
        "--steps",
        "12",
    ]
    words += [
        "--rate",
        "0.05",
        "--jitter",
        "0.01",
        "--pull",
        "0.1",
        "--batch",
        "2",
        "--seed",
        "5",
        "--single",
    ]
    words += ["--encoder", str(taught[0]), "--video", "v.webp", "--frames", "6", "--device", "cpu", "--json"]
    assert cli.main(words) == 0
    out = capsys.readouterr()
    answer = json.loads(out.out)
    assert "compared by" in out.err
    assert "torn.png" in out.err
    told = json.loads(Path(answer["record"]).read_text())
    assert told["names"] == ["p0", "p1", "p2"]
    assert (told["settings"]["steps"], told["start"], told["truncation"]) == (12, "encoder", [-0.25, 0.7])
    paths = [p for p in [*Path("o ut").rglob("*"), Path("v.webp")] if p.is_file()]
    assert len(paths) == 3 + 3 * 3 + 1
    first = {path: path.read_bytes() for path in paths}
    with Image.open("v.webp") as film:
        assert film.n_frames == 6  # type: ignore[attr-defined]
        assert film.size == (4 * 128, 3 * 128)
    for path in paths:
        path.unlink()
    assert cli.main(shlex.split(told["command"])[1:]) == 0
    assert first == {path: path.read_bytes() for path in paths}


def test_faces_are_found_and_those_without_are_skipped(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
    picture = np.full((300, 600, 3), (150, 140, 130), np.uint8)
    person(picture, 180, 160, 40)
    person(picture, 400, 150, 80, roll=20)
    images.save_png(tmp_path / "in" / "us.png", picture)
    images.save_png(tmp_path / "in" / "wall.png", np.full((300, 300, 3), 150, np.uint8))
    answer = project(files / "framed.safetensors", [tmp_path / "in"], tmp_path / "o", steps=2)
    assert [one["name"] for one in answer["photos"]] == ["us"]
    assert "no face" in answer["refused"][0]["reason"]
    assert any("largest of 2" in note for note in answer["notes"])
    opened = style.load(files / "framed.safetensors")
    cutter, _ = opened.cutter()
    largest = max(cutter.find(picture), key=lambda face: face.area)
    (wanted,) = cutter.cut(picture, [largest])
    sheet, step = images.read(answer["sheet"]), 128 + GAP
    shown = sheet[TITLE:, sheet.shape[1] - 2 * step :][:128:8, :128:8]
    assert np.array_equal(shown, wanted.pixels)
    only = lambda: project(
        files / "framed.safetensors", [tmp_path / "in" / "wall.png"], tmp_path / "x", steps=2
    )
    one_line(only, "none of 1", "wall.png", "no face")
    assert not (tmp_path / "x").exists()
    taken = project(
        files / "framed.safetensors", [tmp_path / "in" / "wall.png"], tmp_path / "y", steps=2, framing="as-is"
    )
    assert len(taken["photos"]) == 1


def test_equal_names_are_told_apart(files: Path, tmp_path: Path) -> None:
    for folder, name in (("x", "p.png"), ("y", "p.png"), ("x", "p.bmp")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(images.read(files / "photos" / "p0.png")).save(tmp_path / folder / name)
    given = [tmp_path / "x" / "p.bmp", tmp_path / "x" / "p.png", tmp_path / "y" / "p.png"]
    answer = project(files / "a.safetensors", given, tmp_path / "o", steps=1, single=True)
    assert [one["name"] for one in answer["photos"]] == ["p.bmp", "p.png", "p.png-2"]
    assert len(set(answer["pictures"])) == 3


def test_too_many_photos_for_a_sheet(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", (TITLE + 2 * 132) * 330)
    answer = project(files / "a.safetensors", [files / "photos"], tmp_path / "o", steps=1)
    assert "3 photos" in answer["notes"][-1]
    assert images.read(answer["sheet"]).shape[0] == TITLE + 2 * (128 + GAP)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["translator.safetensors", "photos"], ("translator", "ugatit")),
        (["nowhere.safetensors", "photos"], ("nowhere",)),
        (["a.safetensors", "nothing"], ("nothing",)),
        (["a.safetensors", "photos/torn.png"], ("torn.png",)),
        (["a.safetensors"], ("PHOTO",)),
        (["a.safetensors", "photos", "--draw", "big.safetensors"], ("big", "32", "16")),
        (["a.safetensors", "photos", "--draw", "long.safetensors"], ("long", "6", "8")),
        (["a.safetensors", "photos", "--draw", "translator.safetensors"], ("translator",)),
        (["a.safetensors", "photos", "--encoder", "none.safetensors"], ("none.safetensors", "exist")),
        (["a.safetensors", "photos", "--encoder", "b.safetensors"], ("b.safetensors", "no encoder")),
        (["a.safetensors", "photos", "--backbone", "vgg16.safetensors"], ("--heads",)),
        (["a.safetensors", "photos", "--backbone", "heads.pth", "--heads", "heads.pth"], ("VGG16",)),
        (["a.safetensors", "photos", "--space", "z"], ("z",)),
        (["a.safetensors", "photos", "--steps", "0"], ("--encoder",)),
        (["a.safetensors", "photos", "--steps", "-3"], ("steps -3",)),
        (["a.safetensors", "photos", "--rate", "nan"], ("rate nan",)),
        (["a.safetensors", "photos", "--truncation", "7"], ("7",)),
        (["a.safetensors", "photos", "--framing", "square"], ("square",)),
        (["a.safetensors", "photos", "--frames", "9"], ("--video",)),
        (["a.safetensors", "photos", "--video", "v.gif"], ("v.gif",)),
        (["a.safetensors", "photos", "--video", "v.webp", "--frames", "1"], ("1",)),
        (["a.safetensors", "photos", "--device", "abacus"], ("abacus",)),
    ],
)
def test_project_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    refused(capsys, "project", *words, "--out", tmp_path / "o", told=told)
    assert not (tmp_path / "o").exists()
    assert not list(files.glob("v.*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["translator.safetensors"], ("translator", "ugatit")),
        (["a.safetensors", "--steps", "0"], ("steps 0",)),
        (["a.safetensors", "--mixed", "2"], ("mixed 2",)),
        (["a.safetensors", "--code", "0", "--pixel", "0", "--perceptual", "0"], ("nothing to learn",)),
        (["a.safetensors", "--rate", "1e30", "--steps", "9"], ("--rate",)),
        (["a.safetensors", "--photos", "photos"], ("not a pack",)),
        (["a.safetensors", "--heads", "heads.pth"], ("--backbone",)),
    ],
)
def test_encoder_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    refused(capsys, "encoder", *words, "--out", tmp_path / "e.safetensors", told=told)
    assert not list(tmp_path.iterdir())


def test_outputs_have_their_kind(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = files / "a.safetensors"
    refused(capsys, "project", a, files / "photos", "--out", a, told=("--out", "folder"))
    refused(capsys, "encoder", a, "--out", tmp_path / "e.pt", told=(".safetensors",))
    refused(capsys, "encoder", a, "--out", a, told=("the style itself",))
    refused(capsys, "encoder", a, "--out", a / "e.safetensors", told=("a.safetensors", "is a file"))
    refused(capsys, "project", a, files / "photos", "--out", a / "x", told=("a.safetensors", "is a file"))
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    Pack.from_arrays(pixels, "photos").save(tmp_path / "big")
    refused(
        capsys,
        "encoder",
        a,
        "--photos",
        tmp_path / "big",
        "--out",
        tmp_path / "e.safetensors",
        told=("32", "16"),
    )


def test_the_stand_in_is_structural_similarity() -> None:
    """Against a restatement window by window; and a blurred picture is further away than a darker one."""
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 12, 12) * 2 - 1
    likeness: Likeness = SSIM()
    found = likeness.compare(likeness.describe(x), likeness.describe(y))
    for row in range(2):
        total = []
        for c in range(3):
            for i in range(6):
                for j in range(6):
                    u, v = ((p[row, c, i : i + 7, j : j + 7].double().flatten() + 1) / 2 for p in (x, y))
                    cov = ((u - u.mean()) * (v - v.mean())).mean()
                    one = (2 * u.mean() * v.mean() + 1e-4) * (2 * cov + 9e-4)
                    other = (u.mean() ** 2 + v.mean() ** 2 + 1e-4) * (
                        u.var(correction=0) + v.var(correction=0) + 9e-4
                    )
                    total.append(float(one / other))
        assert float(found[row]) == pytest.approx(1 - np.mean(total), abs=1e-5)
    big = torch.rand(1, 3, 64, 64)
    assert len(likeness.describe(big)) == 4  # 64 and 32 px
    halves = F.avg_pool2d(big, 2)
    ones = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32)
    parts = [
        likeness.compare(likeness.describe(p), likeness.describe(q)) for p, q in zip((big, halves), ones)
    ]
    both = likeness.compare(likeness.describe(big), likeness.describe(ones[0]))
    alone = likeness.compare(likeness.describe(big)[:2], likeness.describe(ones[0])[:2])
    assert float(both) == pytest.approx((float(alone) + float(parts[1])) / 2, abs=1e-6)
    z = F.interpolate(torch.randn(1, 3, 16, 16), scale_factor=2) * 0.5
    blurred = F.interpolate(F.avg_pool2d(z, 4), scale_factor=4, mode="bilinear")
    darker = z - (blurred - z).square().mean().sqrt()  # of the same squared error
    far, near = (likeness.compare(likeness.describe(p), likeness.describe(z)) for p in (blurred, darker))
    assert float(far) > 2 * float(near) > 0
    assert float(likeness.compare(likeness.describe(z), likeness.describe(z))) == pytest.approx(0, abs=1e-6)

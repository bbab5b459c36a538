"""Edits by text: the way of StyleCLIP, its strength, and CLIP from a file. Tiny random networks."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import shlex
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asking import refused
from fewtoon import arguments, cli, config, methods, style
from fewtoon.engine.preview import GAP, TITLE
from fewtoon.errors import Problem
from fewtoon.explore import edit as tool
from fewtoon.faces import framing
from fewtoon.faces.face import Face
from fewtoon.faces.identity import SIDE, TEMPLATE
from fewtoon.io import clip as clips
from fewtoon.io import images
from fewtoon.io.torchvision import declare_operators
from fewtoon.latent import text as texts
from fewtoon.latent.codes import of_file, of_seeds
from fewtoon.latent.edit import edit, strengths_of
from fewtoon.latent.sources import open_sources
from fewtoon.latent.text import Identity, Recipe, apart, optimise, rate_at, strength, towards, views
from fewtoon.nets.mobilefacenet import FoamliuLayout
from generators import SIZE, make

declare_operators()
try:
    import open_clip
except (ImportError, RuntimeError):
    open_clip = None
needs_library = pytest.mark.skipif(open_clip is None, reason="needs the extra fewtoon[clip]")

CODES = 6
SMALL = {  # the real architecture, narrow
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Toy(nn.Module):
    """What `optimise` asks of CLIP, without the library: colours of a small picture, and a vector for each text."""

    size = 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("matrix", torch.randn(12, 3 * 8 * 8, generator=generator))

    def pictures(self, pictures: Tensor) -> Tensor:
        x = F.interpolate(pictures, (8, 8), mode="bicubic", antialias=True).flatten(1)
        return F.normalize(torch.tanh(x @ self.matrix.T / 4), dim=1)

    def texts(self, words: list[str]) -> Tensor:
        found = []
        for word in words:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            vector = torch.randn(12, generator=torch.Generator().manual_seed(seed)).to(self.matrix)
            found.append(F.normalize(vector, dim=0))
        return torch.stack(found)


@pytest.fixture(scope="module")
def source() -> style.Style:
    return style.Style(make(1), {}, "cpu", "fp32")


def draws(of: style.Style) -> Any:
    return partial(of.method.generator.synthesis, noise="fixed")  # type: ignore[attr-defined]


def starts(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, CODES, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    a = make(1)
    style.write(folder / "a.safetensors", a, {})
    moved = make(1)
    with torch.no_grad():
        for name, tensor in moved.generator.state_dict().items():
            if "layers" not in name:
                tensor.add_(0.3 * torch.randn(tensor.shape))
    style.write(folder / "b.safetensors", moved, {})
    style.write(folder / "big.safetensors", make(3, size=32), {})
    style.write(folder / "wide.safetensors", make(4, style=4), {})
    kind = methods.find("ugatit")
    other = kind(config.section(kind.Config, {"channels": 4, "blocks": 1}, "model"), SIZE, [], training=False)
    style.write(folder / "translator.safetensors", other, {})
    torch.save(recogniser().state_dict(), folder / "faces.pt")
    if open_clip is not None:
        small(folder / "clip")
    return folder


def recogniser() -> FoamliuLayout:
    """A face recognition network with random weights, whose norms are those of what goes through it: so that it tells
    pictures apart."""
    torch.manual_seed(8)
    network = FoamliuLayout().train()
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
            layer.momentum = 1.0
    with torch.no_grad():
        network(F.interpolate(torch.rand(8, 3, 8, 8) * 2 - 1, (SIDE, SIDE)))
    return network


def small(folder: Path, seed: int = 2, **more: Any) -> Path:
    """A random CLIP as in the repositories of open_clip's models: weights, and a config beside them."""
    torch.manual_seed(seed)
    network = open_clip.CLIP(**SMALL)
    with torch.no_grad():  # at first all pictures look nearly the same to it
        network.visual.conv1.weight.mul_(8)
    folder.mkdir()
    save_file(
        {name: t.contiguous() for name, t in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    told = {"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}, **more}
    (folder / clips.CONFIG).write_text(json.dumps(told))
    return folder / "open_clip_model.safetensors"


def clip_file(files: Path) -> Path:
    return files / "clip" / "open_clip_model.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the way, and how far to go --------------------------------------------------------------------------


def test_strength_is_the_equation() -> None:
    w, start = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    for alpha, expected in ((-1, [1, 2]), (0, [3, 1]), (0.5, [4, 0.5]), (1, [5, 0]), (2, [7, -1])):
        assert strength(w, start, alpha).tolist() == expected
    w, start = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(strength(w, start, -1), start)  # to the last bit
    assert torch.equal(strength(w, start, 0), w)
    assert torch.allclose(strength(w, start, 2) - start, 3 * (w - start), atol=1e-5)
    assert torch.allclose(strength(w, start, 1.7), 1.7 * (w - start) + w, atol=1e-5)


def test_the_rate_goes_up_and_down_as_published() -> None:
    rates = [rate_at(step, 300, 0.1) for step in range(301)]
    golden = {0: 0.0, 3: 0.02, 15: 0.1, 150: 0.1, 225: 0.1, 250: 0.075, 262.5: 0.05, 275: 0.025, 300: 0.0}
    for step, expected in golden.items():
        assert rate_at(step, 300, 0.1) == pytest.approx(expected, abs=1e-12), step  # type: ignore[arg-type]
    assert max(rates) == 0.1
    assert sorted(rates[225:], reverse=True) == rates[225:]


def test_losses_by_hand() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    halfway = F.normalize(x + y, dim=0)
    pictures = torch.stack([x, y, -x, halfway])
    assert torch.allclose(apart(pictures, x), torch.tensor([0, 1, 2, 1 - math.sqrt(0.5)]))
    # From x to y the way is (-1, 1): from x a picture at y has gone it, one at -y has gone across it.
    found = towards(torch.stack([y, -y, x]), torch.stack([x, x, x]), y, x)
    soft = math.sqrt(2) / math.sqrt(2 + texts.SOFT**2)
    assert torch.allclose(found, torch.tensor([1 - soft, 1.0, 1.0]), atol=1e-6)


def test_a_picture_that_has_not_moved_has_a_finite_slope_along_the_way() -> None:
    before = F.normalize(torch.tensor([[0.3, 0.5, -0.2]]), dim=1)
    at = before.clone().requires_grad_()
    text, neutral = torch.eye(3)[0], torch.eye(3)[1]
    towards(at, before, text, neutral).sum().backward()
    assert at.grad is not None
    way = F.normalize(text - neutral, dim=0)
    assert torch.allclose(at.grad[0], -way / texts.SOFT)


def test_views_are_parts_and_the_same_for_all() -> None:
    pictures = torch.arange(3 * 20 * 20).float().view(1, 3, 20, 20).expand(2, -1, -1, -1)
    found = views(pictures, 12, step=4)
    assert found[0] is pictures
    assert len(found) == 12
    whole = {tuple(row) for row in pictures[0].permute(1, 2, 0).flatten(0, 1).tolist()}
    for view in found[1:]:
        assert view.shape[2] == view.shape[3]
        assert 16 <= view.shape[2] <= 20
        assert torch.equal(view[0], view[1])
        assert {tuple(row) for row in view[0].permute(1, 2, 0).flatten(0, 1).tolist()} <= whole
    again, other = views(pictures, 12, step=4), views(pictures, 12, step=5)
    assert all(torch.equal(a, b) for a, b in zip(found, again))
    assert len({view.shape[2] for view in found[1:]}) > 2
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(found, other))


# --- the optimisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("neutral", [None, "a face"])
def test_the_text_is_found_and_better_than_by_chance(source: style.Style, neutral: str | None) -> None:
    draw, toy, start = draws(source), Toy(), starts(2)
    recipe = Recipe("a smile", neutral, steps=60, near=0.0)
    moved = optimise(draw, toy, start, recipe)
    first, last = (torch.tensor(moved.losses["text"][k]) for k in (0, -1))
    assert len(moved.losses["text"]) == 61
    assert (last < first - 0.2).all(), (first, last)
    aims = toy.texts(["a smile", "a face"])
    with torch.no_grad():
        before = toy.pictures(draw(start).clamp(-1, 1))

        def loss(w: Tensor) -> Tensor:
            seen = toy.pictures(draw(w).clamp(-1, 1))
            return apart(seen, aims[0]) if neutral is None else towards(seen, before, aims[0], aims[1])

        assert torch.allclose(loss(moved.w), last, atol=1e-5)  # the figure is of these codes
        length = (moved.w - start).flatten(1).norm(dim=1)[:, None, None]
        for seed in range(8):  # just as far, anywhere
            away = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
            away = away * length / away.flatten(1).norm(dim=1)[:, None, None]
            assert (loss(start + away) > last).all()


def test_the_gradient_is_right() -> None:
    """Finite differences through generator, resizing and both losses, in double precision."""
    synthesis = make(1).generator.synthesis.double().requires_grad_(False)
    toy, start = Toy().double(), starts(1).double()
    aims = toy.texts(["a smile", "a face"])
    with torch.no_grad():
        before = toy.pictures(synthesis(start, "fixed"))

    def both(some: Tensor) -> Tensor:
        w = torch.cat([some.view(1, 1, 8), start[:, 1:]], 1)
        seen = toy.pictures(synthesis(w, "fixed"))
        return torch.stack([apart(seen, aims[0]), towards(seen, before, aims[0], aims[1])])

    at = (start[0, 0] + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(both, at, eps=1e-6, atol=1e-6)


def test_only_the_layers_that_are_named_move(source: style.Style) -> None:
    start = starts(2)
    for space in ("w+", "w"):
        recipe = Recipe("a smile", steps=12, space=space, layers=(1, 4))  # type: ignore[arg-type]
        moved = optimise(draws(source), Toy(), start, recipe).w
        same = [torch.equal(moved[:, layer], start[:, layer]) for layer in range(CODES)]
        assert same == [True, False, True, True, False, True]
        one, other = (moved - start)[:, 1], (moved - start)[:, 4]
        assert torch.allclose(one, other, atol=1e-6) == (space == "w")


def test_a_picture_does_not_depend_on_its_neighbours(source: style.Style) -> None:
    start = starts(3)
    recipe = Recipe("a smile", steps=10, views=3)
    together = optimise(draws(source), Toy(), start, recipe).w
    for number in range(3):
        alone = optimise(draws(source), Toy(), start[number : number + 1], recipe).w
        assert torch.allclose(together[number], alone[0], atol=1e-4)


def test_near_keeps_codes_near(source: style.Style) -> None:
    start = starts(1)
    found = []
    for near in (0.0, 0.05, 5.0):
        moved = optimise(draws(source), Toy(), start, Recipe("a smile", steps=30, near=near))
        found.append(float((moved.w - start).square().sum()))
        assert moved.losses["near"][-1][0] == pytest.approx(found[-1], rel=1e-4)
        assert moved.losses["near"][0] == [0.0]
    assert found[0] > found[1] > 10 * found[2]


def test_the_identity_term_lowers_the_identity_loss(source: style.Style, files: Path) -> None:
    person = Identity(files / "faces.pt", "ffhq")
    start = starts(1)
    found = []
    for weight in (0.0, 20.0):
        recipe = Recipe("a smile", steps=12, rate=0.02, near=0.0, identity=weight)
        found.append(optimise(draws(source), Toy(), start, recipe, person).losses["identity"])
    without, within = (losses[-1][0] for losses in found)
    assert found[0][0][0] == pytest.approx(0, abs=1e-6)
    assert without > 1e-4
    assert within < 0.5 * without


def test_faces_of_ffhq_are_cut_as_recognition_networks_know_them() -> None:
    """An aligned face, framed as in FFHQ: its place in the frame is what `Identity` cuts out."""
    left, top = TEMPLATE.min(0) - 20
    width, height = TEMPLATE.max(0) + 20 - (left, top)
    face = Face((left, top, left + width, top + height), points=TEMPLATE.astype(np.float32))
    square = framing.square(face, "ffhq")
    scale = texts.FACE_SIDE / square.side
    assert abs(scale - 1) < 0.005
    for middle in (square.x, square.y):
        assert abs((0 - (middle - square.side / 2)) * scale - texts.FACE_FROM) < 0.5
    assert texts.FACE_FROM + SIDE < texts.FACE_SIDE


def test_the_crop_is_by_framing(files: Path) -> None:
    pictures = torch.rand(1, 3, 64, 64) * 2 - 1
    ffhq, portrait = (Identity(files / "faces.pt", kind) for kind in ("ffhq", "portrait"))
    assert torch.equal(portrait.vectors(pictures), portrait.network.embed(pictures))
    changed = pictures.clone()
    changed[..., :6, :] = changed[..., 58:, :] = 1  # outside of the face
    assert torch.allclose(ffhq.vectors(changed), ffhq.vectors(pictures), atol=1e-6)
    changed[..., 30:40, 30:40] = 1
    assert not torch.allclose(ffhq.vectors(changed), ffhq.vectors(pictures), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "steps 0"),
        ({"rate": float("nan")}, "rate nan"),
        ({"rate": -1.0}, "rate -1"),
        ({"near": -1.0}, "near -1"),
        ({"identity": float("inf")}, "identity weight inf"),
        ({"space": "z"}, "space 'z'"),
        ({"views": 0}, "views 0"),
        ({"layers": (6,)}, "layer 6"),
        ({"layers": ()}, "layers"),
        ({"layers": (1, 1)}, "none twice"),
        ({"neutral": "a smile"}, "no way between"),
    ],
)
def test_other_recipes_are_refused(source: style.Style, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        optimise(draws(source), Toy(), starts(1), Recipe("a smile", **settings))


def test_numbers_that_overflow_are_a_problem(source: style.Style) -> None:
    draw = draws(source)
    with pytest.raises(Problem, match="lower --rate"):
        optimise(lambda w: draw(w) * math.inf, Toy(), starts(1), Recipe("a smile", steps=3))


def test_words_of_the_command_line() -> None:
    assert strengths_of("0,1.5,-1") == [0.0, 1.5, -1.0]
    for text in ("", "x", "nan", "1,1", "21", "1;2"):
        with pytest.raises(Problem):
            strengths_of(text)


# --- CLIP from a file ------------------------------------------------------------------------------------


@needs_library
def test_a_file_in_the_public_layout(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **more: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    clip = clips.load(clip_file(files))
    network = open_clip.CLIP(**SMALL).eval()
    network.load_state_dict(load_file(clip_file(files)))
    assert (clip.size, clip.name) == (32, clips.CONFIG)
    assert clip.hash == hashlib.sha256(clip_file(files).read_bytes()).hexdigest()
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        expected = network.encode_image(((pictures + 1) / 2 - mean) / std, normalize=True)
        assert torch.allclose(clip.pictures(pictures), expected, atol=1e-6)
        said = ["a smiling face", "A  smiling face", "glasses"]
        assert torch.allclose(
            clip.texts(said), network.encode_text(open_clip.tokenize(said), normalize=True), atol=1e-6
        )
        small = F.interpolate(pictures, (16, 16), mode="area")
        level = small.mean((2, 3), keepdim=True).expand(-1, -1, 16, 16)
        assert torch.allclose(clip.pictures(level), clip.pictures(level[..., :1, :1].expand(-1, -1, 32, 32)))
    assert not any(p.requires_grad for p in clip.parameters())
    assert not clip.training
    assert (clip.texts(said)[0] - clip.texts(said)[2]).norm() > 0.1


@needs_library
def test_other_forms_of_the_same_file(files: Path, tmp_path: Path) -> None:
    state = load_file(clip_file(files))
    told = (files / "clip" / clips.CONFIG).read_text()
    (tmp_path / clips.CONFIG).write_text(told)
    whole = {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}
    torch.save(whole, tmp_path / "checkpoint.pt")
    torch.save(state, tmp_path / "plain.bin")
    numbers = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    openai = {**state, **{name: torch.tensor(value) for name, value in numbers.items()}}
    torch.save(openai, tmp_path / "openai.pt")
    save_file({name: t.half() for name, t in state.items()}, tmp_path / "half.safetensors")
    expected = clips.load(clip_file(files)).texts(["a face"])
    for name in ("checkpoint.pt", "plain.bin", "openai.pt"):
        assert torch.equal(clips.load(tmp_path / name).texts(["a face"]), expected), name
    half = clips.load(tmp_path / "half.safetensors").texts(["a face"])
    assert torch.allclose(half, expected, atol=1e-2)
    assert half.dtype == torch.float32


@needs_library
def test_the_architecture_is_read_from_the_shapes() -> None:
    def shapes(name: str) -> dict[str, Tensor]:
        with torch.device("meta"):
            return open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()

    for name, openai in (
        ("ViT-B-32-quickgelu", True),
        ("ViT-L-14-336-quickgelu", True),
        ("RN50-quickgelu", True),
        ("ViT-B-32-256", False),
        ("ViT-g-14", False),
    ):
        layout = clips._layout(shapes(name), "x")
        assert clips._architecture(layout, None, {}, openai, open_clip, "x") == (
            open_clip.get_model_config(name),
            name,
        )
    layout = clips._layout(shapes("ViT-B-32"), "x")
    with pytest.raises(Problem, match=r"activation.* ViT-B-32-quickgelu for .*OpenAI.* ViT-B-32 for .*LAION"):
        clips._architecture(layout, None, {}, False, open_clip, "x")
    assert clips._architecture(layout, "ViT-B-32", {}, False, open_clip, "x")[1] == "ViT-B-32"
    beside = {"model_cfg": open_clip.get_model_config("ViT-B-32-quickgelu")}
    assert clips._architecture(layout, None, beside, False, open_clip, "x")[1] == "ViT-B-32-quickgelu"
    with pytest.raises(Problem, match="seems to be ViT-B-32 or ViT-B-32-quickgelu"):
        clips._architecture(layout, "ViT-L-14", {}, False, open_clip, "x")
    with pytest.raises(Problem, match=r"no such CLIP; did you mean .*ViT-B-32"):
        clips._architecture(layout, "ViT-B32", {}, False, open_clip, "x")
    with pytest.raises(Problem, match="no such CLIP"):
        clips._architecture(layout, "hf-hub:somebody/something", {}, False, open_clip, "x")


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


@needs_library
def test_other_files_are_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = load_file(clip_file(files))
    towers = {
        "text": {k: t for k, t in state.items() if not k.startswith("visual.")},
        "image": {k: t for k, t in state.items() if k.startswith("visual.")},
        "lacking": {k: t for k, t in state.items() if k != "ln_final.bias"},
        "more": {**state, "surplus": torch.zeros(1)},
        "nan": {**state, "ln_final.bias": torch.full((32,), math.nan)},
        "transformers": {"text_model.embeddings.token_embedding.weight": torch.zeros(2, 2)},
        "siglip": {
            "visual.trunk.patch_embed.proj.weight": torch.zeros(2),
            "text.ln_final.bias": torch.zeros(2),
        },
        "faces": FoamliuLayout().state_dict(),
        "empty": {},
    }
    for name, tensors in towers.items():
        torch.save(tensors, f"{name}.pt")
    torch.save({"state_dict": {"a": 3}}, "numbers.pt")
    Path("bomb.pt").write_bytes(pickle.dumps(Bomb()))
    Path("torn.safetensors").write_bytes(clip_file(files).read_bytes()[:5000])
    Path("torn.pt").write_bytes(Path("more.pt").read_bytes()[:5000])
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "script.pt")
    config = (files / "clip" / clips.CONFIG).read_text()
    for name, told in {
        "text.pt": "text tower and no image tower",
        "image.pt": "image tower and no text tower",
        "lacking.pt": "lacks 'ln_final.bias'",
        "more.pt": "unknown 'surplus'",
        "nan.pt": "not finite",
        "transformers.pt": "library transformers.*open_clip_model.safetensors",
        "siglip.pt": "another kind",
        "faces.pt": "no CLIP",
        "empty.pt": "no CLIP",
        "numbers.pt": "no state dict",
        "bomb.pt": "refused",
        "torn.safetensors": "torn",
        "torn.pt": "torn",
        "script.pt": "TorchScript.*open_clip_model.safetensors",
        "nowhere.pt": "does not exist",
    }.items():
        Path(clips.CONFIG).write_text(config)
        with pytest.raises(Problem, match=told) as problem:
            clips.load(name)
        assert name in str(problem.value)
    assert not Path("executed").exists()


@needs_library
def test_other_configs_are_refused(files: Path, tmp_path: Path) -> None:
    state = load_file(clip_file(files))
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(Problem, match=r"no CLIP that open_clip knows: it is a ViT of 8 px patches, width 64"):
        clips.load(tmp_path / "w.safetensors")
    for told, expected in (
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"model_cfg": {}}), "of no CLIP"),
        (json.dumps({"model_cfg": {**SMALL, "custom_text": True}}), "of no CLIP"),
        (json.dumps({"model_cfg": {**SMALL, "embed_dim": 64}}), "other sizes"),
        (json.dumps({"model_cfg": SMALL, "preprocess_cfg": {"mean": "red"}}), "describes no network"),
        (
            json.dumps({"model_cfg": {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "head_width": 0}}}),  # type: ignore[dict-item]
            "describes no network",
        ),
        (
            json.dumps({"model_cfg": {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "mlp_ratio": 1e9}}}),  # type: ignore[dict-item]
            "shape",
        ),
    ):
        (tmp_path / clips.CONFIG).write_text(told)
        with pytest.raises(Problem, match=expected):
            clips.load(tmp_path / "w.safetensors")


def test_without_the_library_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)  # its import then fails
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(Problem, match=r"pip install 'fewtoon\[clip\]'"):
        clips.load(tmp_path / "w.safetensors")


@needs_library
def test_texts_that_clip_would_cut_are_refused(files: Path) -> None:
    clip = clips.load(clip_file(files))
    clip.texts(["face " * 75])
    with pytest.raises(Problem, match="76 tokens long, and this CLIP reads 75"):
        clip.texts(["face " * 76])
    for text in ("", "  \n"):
        with pytest.raises(Problem, match="says nothing"):
            clip.texts(["a face", text])


@needs_library
@pytest.mark.parametrize("neutral", [None, "a face"])
def test_the_loss_of_the_real_architecture_falls(
    files: Path, neutral: str | None, source: style.Style
) -> None:
    clip, start, draw = clips.load(clip_file(files)), starts(1), draws(source)
    recipe = Recipe("a smiling face", neutral, steps=40, rate=0.2, near=0.0)
    moved = optimise(draw, clip, start, recipe)
    first, last = moved.losses["text"][0][0], moved.losses["text"][-1][0]
    assert last < first - 0.05, (first, last)
    aims, length = clip.texts(["a smiling face", "a face"]), (moved.w - start).norm()
    with torch.no_grad():
        before = clip.pictures(draw(start).clamp(-1, 1))
        for seed in range(6):
            away = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
            seen = clip.pictures(draw(start + away * length / away.norm()).clamp(-1, 1))
            other = apart(seen, aims[0]) if neutral is None else towards(seen, before, aims[0], aims[1])
            assert float(other) > last


@needs_library
def test_the_gradient_through_the_real_architecture(files: Path) -> None:
    clip = clips.load(clip_file(files)).double()
    aim = clip.texts(["a smiling face"])[0]
    pictures = (
        torch.rand(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )
    way = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def along(t: Tensor) -> Tensor:
        return apart(clip.pictures(pictures + t * way), aim)

    assert torch.autograd.gradcheck(along, torch.zeros(1, dtype=torch.float64, requires_grad=True), atol=1e-7)


# --- the tool --------------------------------------------------------------------------------------------


@needs_library
def test_the_sheet_has_the_pictures_of_the_codes(files: Path, tmp_path: Path) -> None:
    a, b = files / "a.safetensors", files / "b.safetensors"
    recipe = Recipe("a smiling face", steps=6)
    answer = edit(
        a,
        recipe,
        clip_file(files),
        tmp_path,
        seeds=[4, 1],
        draw=[b],
        strengths=[0, 2],
        truncation=0.5,
        single=True,
    )
    saved = load_file(tmp_path / "latents.safetensors")
    sources = open_sources([a, b])
    w = of_seeds(sources[0], [4, 1]).w
    start = sources[0].method.truncated(w, 0.5)
    assert torch.equal(saved["a.start"], start)
    way = saved["a.w"] - start
    assert (way.abs() > 1e-4).any()
    drawn, step = images.read(answer["sheet"]), 128 + GAP
    left = drawn.shape[1] - 3 * step
    clip = clips.load(clip_file(files))
    aim = clip.texts(["a smiling face"])[0]
    for row, one in enumerate(sources):
        average = one.method.generator.mapping.average
        for band, seed in enumerate((4, 1)):
            for column, alpha in enumerate((-1, 0, 2)):
                # Each style's own average is where its truncation leads; the way is the source's.
                code = average + 0.5 * (w[band] - average) + (alpha + 1) * way[band]
                picture = one.style.synthesis(code[None])
                (expected,) = style.to_pixels(picture)
                top = band * (TITLE + 2 * step) + TITLE + row * step
                x = left + column * step
                shown = drawn[top : top + 128 : 8, x : x + 128 : 8].astype(int)
                assert np.abs(shown - expected).max() <= 1, (row, band, column)
                cosine = float(clip.pictures(picture) @ aim)
                assert answer["cosines"][one.name][band][column] == pytest.approx(cosine, abs=1e-4)
                name = f"{one.name}-{seed}-{['start', 'strength0', 'strength2'][column]}.png"
                assert np.array_equal(images.read(tmp_path / name), shown)
    assert len(answer["pictures"]) == 12
    assert [losses["text"][1] for losses in answer["losses"]] == [
        pytest.approx(1 - rows[1], abs=1e-4) for rows in answer["cosines"]["a"]
    ]


@needs_library
def test_neighbours_do_not_change_a_byte(files: Path, tmp_path: Path) -> None:
    a, recipe = files / "a.safetensors", Recipe("a smiling face", steps=5)
    edit(a, recipe, clip_file(files), tmp_path / "many", seeds=[2, 5, 3])
    edit(a, recipe, clip_file(files), tmp_path / "one", seeds=[5])
    many, one = (load_file(tmp_path / name / "latents.safetensors")["a.w"] for name in ("many", "one"))
    assert torch.equal(many[1], one[0])


@needs_library
def test_the_record_repeats_the_command(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = str(files / "a.safetensors"), str(files / "b.safetensors")
    words = ["explore", "edit", a, "--text", "it's a -smiling- face", "--clip", str(clip_file(files))]
    words += ["--neutral", "a face", "--seeds", "2-3", "--draw", b, b, "--strength=-0.5,1", "--steps", "4"]
    words += [
        "--rate",
        "0.3",
        "--identity",
        str(files / "faces.pt"),
        "--layers",
        "4px-8px,4",
    ]
    words += ["--space", "w", "--views", "2", "--truncation", "0.6", "--single", "--video", "v.webp"]
    words += ["--frames", "6", "--device", "cpu", "--json", "--out", "o ut"]
    assert cli.main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    told = json.loads(Path(answer["record"]).read_text())
    first = {**contents(Path("o ut")), "v": Path("v.webp").read_bytes()}
    assert len(first) == 3 + 3 * 2 * 3 + 1
    assert told["recipe"]["near"] == texts.NEAR_OF_WAYS
    assert (told["names"], told["recipe"]["layers"]) == (["2", "3"], [0, 1, 2, 4])
    assert told["clip"]["sha256"] == hashlib.sha256(clip_file(files).read_bytes()).hexdigest()
    assert told["identity"]["file"] == "faces.pt"
    assert set(told["losses"][0]) == {"text", "near", "identity"}
    assert [one["name"] for one in told["styles"]] == ["a", "b", "b-2"]
    with Image.open("v.webp") as film:
        assert film.size == (256, 384)
    program, *again = shlex.split(told["command"])
    assert program == "fewtoon"
    for path in [*Path("o ut").iterdir(), Path("v.webp")]:
        path.unlink()
    assert cli.main(again) == 0
    second = {**contents(Path("o ut")), "v": Path("v.webp").read_bytes()}
    assert first == second


@needs_library
def test_latents_are_taken_and_given(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = files / "a.safetensors"
    assert cli.main(["explore", "sample", str(a), "--seeds", "3,8", "--out", str(tmp_path / "s")]) == 0
    latents = tmp_path / "s" / "latents.safetensors"
    recipe = Recipe("a smiling face", steps=3)
    edit(a, recipe, clip_file(files), tmp_path / "e", latents=latents)
    (source,) = open_sources([a])
    start = of_file(source, latents)
    saved = load_file(tmp_path / "e" / "latents.safetensors")
    assert torch.equal(saved["a.start"], start.w)  # codes of a file are not truncated
    moved = of_file(source, tmp_path / "e" / "latents.safetensors")
    assert moved.names == ["3", "8"]
    assert torch.equal(moved.w, saved["a.w"])
    again = edit(
        a, recipe, clip_file(files), tmp_path / "again", latents=tmp_path / "e" / "latents.safetensors"
    )
    assert again["names"] == ["3", "8"]
    told = json.loads((tmp_path / "e" / "edit.json").read_text())
    assert (told["seeds"], told["truncation"]) == (None, 1.0)
    capsys.readouterr()
    words = [a, "--text", "x", "--clip", clip_file(files), "--latents", latents, "--out", tmp_path / "s"]
    refused(capsys, "edit", *words, told=("written over",))


@needs_library
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.safetensors", "--text", ""], ("text ''", "nothing")),
        (["a.safetensors", "--text", "face " * 80], ("80 tokens", "75")),
        (["a.safetensors", "--text", "x", "--neutral", " "], ("nothing",)),
        (["translator.safetensors", "--text", "x"], ("translator", "ugatit")),
        (["nowhere.safetensors", "--text", "x"], ("nowhere",)),
        (["a.safetensors", "--text", "x", "--draw", "big.safetensors"], ("big", "32 px", "16 px")),
        (["a.safetensors", "--text", "x", "--draw", "wide.safetensors"], ("wide", "another size")),
        (["a.safetensors", "--text", "x", "--clip", "nowhere.pt"], ("nowhere.pt", "docs/edit.md")),
        (["a.safetensors", "--text", "x", "--clip", "faces.pt"], ("faces.pt", "no CLIP")),
        (["a.safetensors", "--text", "x", "--clip-model", "ViT-B-32"], ("ViT-B-32", "other sizes")),
        (["a.safetensors", "--text", "x", "--seeds", "x"], ("seeds",)),
        (["a.safetensors", "--text", "x", "--seeds", "1", "--latents", "l"], ("--seeds", "--latents")),
        (["a.safetensors", "--text", "x", "--latents", "nowhere.safetensors"], ("nowhere",)),
        (["a.safetensors", "--text", "x", "--latents", "other.safetensors"], ("another size",)),
        (["a.safetensors", "--text", "x", "--group", "men"], ("men",)),
        (["a.safetensors", "--text", "x", "--strength", "x"], ("--strength 'x'",)),
        (["a.safetensors", "--text", "x", "--strength", "nan"], ("nan",)),
        (["a.safetensors", "--text", "x", "--layers", "6"], ("'6'", "0 to 5")),
        (["a.safetensors", "--text", "x", "--layers", "x"], ("layers 'x'",)),
        (["a.safetensors", "--text", "x", "--steps", "0"], ("steps 0",)),
        (["a.safetensors", "--text", "x", "--truncation", "9"], ("9",)),
        (["a.safetensors", "--text", "x", "--identity", "a.safetensors"], ("no MobileFaceNet",)),
        (["a.safetensors", "--text", "x", "--identity", "nowhere.pt"], ("nowhere.pt",)),
        (["a.safetensors", "--text", "x", "--video", "v.gif"], ("v.gif",)),
        (["a.safetensors", "--text", "x", "--frames", "9"], ("--video",)),
        (["a.safetensors", "--text", "x", "--device", "nonsense"], ("nonsense",)),
        (["a.safetensors"], ("--text",)),
    ],
)
def test_edit_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    if "other.safetensors" in words and not Path("other.safetensors").exists():
        facts = {"fewtoon": json.dumps({"format": "fewtoon-latents", "version": 1})}
        save_file({"a.w": torch.zeros(1, 4, 8)}, "other.safetensors", facts)
    clip = [] if "--clip" in words else ["--clip", str(clip_file(files))]
    before = contents(files)
    refused(capsys, "edit", *words, *clip, "--out", tmp_path / "o", told=told)
    assert list(tmp_path.iterdir()) == []
    assert contents(files) == before
    (tmp_path / "file").write_text("")
    refused(
        capsys, "edit", "a.safetensors", "--text", "x", "--clip", clip_file(files), "--out", tmp_path / "file"
    )


def test_the_examples_parse(capsys: pytest.CaptureFixture[str]) -> None:
    parser = arguments.parser(cli.VERBS)
    with pytest.raises(SystemExit) as stop:
        cli.main(["explore", "edit", "--help"])
    assert stop.value.code == 0
    capsys.readouterr()
    text = (Path(__file__).parents[1] / "docs" / "edit.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in "".join(blocks).splitlines() if line.startswith("fewtoon")]
    assert len(lines) >= 4
    for line in [tool.EXAMPLE, *lines]:
        args = parser.parse_args(shlex.split(line)[1:])
        assert callable(args.run)

"""Directions: planted ones are found, units and layers are right, names are kept. Tiny generators, 16 px."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from asking import refused
from fewtoon import arguments, cli, config, explore, methods, style
from fewtoon.data.attributes import Attribute
from fewtoon.engine.preview import GAP, TITLE
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.stylegan import to_rosinality
from fewtoon.latent import labels as labelling
from fewtoon.latent import named
from fewtoon.latent.codes import of_file, of_seeds
from fewtoon.latent.direction import (
    Direction,
    layers_of,
    moments,
    moments_of_w,
    moved,
    orthogonal,
    random_codes,
)
from fewtoon.latent.directions import How, find, names_of, range_of
from fewtoon.latent.ganspace import ganspace, principal, read_npz
from fewtoon.latent.labels import attribute_direction, read_by_judges, read_labels, sorted_labels
from fewtoon.latent.move import Move, move, move_of
from fewtoon.latent.seeds import latents
from fewtoon.latent.sefa import read_factor, sefa
from fewtoon.latent.sources import open_sources
from generators import SIZE, make

WIDTH, CODES = 8, 6
TENTHS = torch.linspace(0.1, 0.8, WIDTH, dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def live(method: Any) -> style.Style:
    return style.Style(method, {}, "cpu", "fp32")


def axes(seed: int) -> Tensor:
    """(W, W): an orthonormal basis, a vector in each row."""
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)))[0].T


def with_spectrum(basis: Tensor, deviations: Tensor, seed: int = 1) -> Any:
    """A style whose w has these standard deviations along the rows of `basis`: its mapping is linear, because a large
    bias keeps every leaky ReLU on its straight side; z of unit mean square has the covariance 1."""
    method = make(seed, mapping_layers=1)
    layer = method.generator.mapping.layers[0]
    with torch.no_grad():
        layer.weight.copy_(basis.T @ torch.diag(deviations.float()) / (layer.scale * 2**0.5))
        layer.bias.fill_(30 / layer.rate)
    return method


def cosine(direction: Direction, vector: Tensor) -> float:
    """Without its sign."""
    return abs(float(direction.vector.double() @ vector.double() / vector.double().norm()))


def along(direction: Direction, w: Tensor) -> float:
    """The standard deviation of w (N, W) along the direction."""
    return float((w.double() @ direction.vector.double()).std())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and tuned are of one origin; wide, big, translator, sg and grouped are of other kinds."""
    folder = tmp_path_factory.mktemp("styles")
    a, tuned = make(1), make(1)
    with torch.no_grad():
        for tensor in tuned.generator.synthesis.parameters():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)))
    style.write(folder / "a.safetensors", a, {})
    style.write(folder / "tuned.safetensors", tuned, {})
    style.write(folder / "wide.safetensors", make(3, style=12), {})
    style.write(folder / "big.safetensors", make(3, size=32), {})
    style.write(folder / "sg.safetensors", make(4, freeze_styles=3), {})
    style.write(folder / "grouped.safetensors", make(2, groups=("women", "men"), conditional=True), {})
    kind = methods.find("ugatit")
    other = kind(config.section(kind.Config, {"channels": 4, "blocks": 1}, "model"), SIZE, [], training=False)
    style.write(folder / "translator.safetensors", other, {})
    (folder / "run").mkdir()
    style.write(folder / "run" / "best.safetensors", a, {})
    return folder


@pytest.fixture
def home(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own, with copies of the styles."""
    for path in files.rglob("*.safetensors"):
        target = tmp_path / path.relative_to(files)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cells(path: Path | str, row: int, columns: int) -> list[np.ndarray]:
    """The pictures (16, 16, 3) in a row of a sheet."""
    whole, step = images.read(path), 128 + GAP
    top, left = TITLE + row * step, images.read(path).shape[1] - columns * step
    return [whole[top : top + 128 : 8, left + k * step : left + k * step + 128 : 8] for k in range(columns)]


def run(*words: str | Path) -> int:
    return cli.main(["explore", *(str(word) for word in words)])


# --- moving ----------------------------------------------------------------------------------------------


def test_one_direction_may_have_two_names(tmp_path: Path) -> None:
    one = Direction(torch.eye(8)[2], 0.5, (0, 1), 6)
    path = tmp_path / "a.directions.safetensors"
    named.save(path, {"hair": one, "beard": one})
    found = named.load(path)
    assert list(found) == ["hair", "beard"]
    assert torch.equal(found["hair"].vector, found["beard"].vector)


def test_moving_moves_its_layers_and_leaves_the_others_as_they_are() -> None:
    w = torch.randn(3, CODES, WIDTH, generator=torch.Generator().manual_seed(0))
    vector = axes(0)[0]
    direction = Direction(vector, 0.5, (1, 4), CODES)
    found = moved(w, direction, -3)
    expected = w.clone()
    expected[:, [1, 4]] -= 1.5 * vector
    assert torch.allclose(found[:, [1, 4]], expected[:, [1, 4]])
    assert found[:, [0, 2, 3, 5]].numpy().tobytes() == w[:, [0, 2, 3, 5]].numpy().tobytes()
    assert moved(w, direction, 0).numpy().tobytes() == w.numpy().tobytes()
    other = moved(w, direction, 1, layers=[0])
    assert torch.equal(other[:, 1:], w[:, 1:])
    assert not torch.equal(other[:, 0], w[:, 0])
    spread = moved(w[:, 0], direction, 2)
    assert spread.shape == (3, CODES, WIDTH)
    assert torch.equal(spread[:, 2], w[:, 0])
    assert torch.allclose(spread[:, 4], w[:, 0] + vector)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ("0-2,4", (0, 1, 2, 4)),
        ("4,1", (1, 4)),
        ("4px", (0,)),
        ("8px", (1, 2)),
        ("16px", (3, 4, 5)),  # the last code, of colours alone, goes with the last block
        ("4px-8px", (0, 1, 2)),
        ("4px,5", (0, 5)),
        (" 8px - 16px ", (1, 2, 3, 4, 5)),
    ],
)
def test_layers_are_read(text: str, expected: tuple[int, ...]) -> None:
    assert layers_of(text, SIZE) == expected


@pytest.mark.parametrize(
    "text", ["", "6", "-1", "2-1", "32px", "5px", "8px-16", "0-8px", "x", "1,,2", "16px-8px"]
)
def test_other_layers_are_refused(text: str) -> None:
    with pytest.raises(Problem, match=f"layers '{text}': "):
        layers_of(text, SIZE)


def test_layers_of_blocks_are_those_that_their_convolutions_take() -> None:
    method = make(2)
    synthesis = method.generator.synthesis
    ws = torch.randn(1, CODES, WIDTH)
    for size in (4, 8, 16):
        before = synthesis.paint(ws, "fixed", keep=[4, 8, 16]).features
        changed = ws.clone()
        changed[:, layers_of(f"{size}px", SIZE)] += 1
        after = synthesis.paint(changed, "fixed", keep=[4, 8, 16]).features
        for block in (4, 8, 16):
            assert torch.equal(before[block], after[block]) == (block < size), (size, block)


def test_moving_refuses() -> None:
    direction = Direction(axes(0)[0], 1.0, (0,), CODES)
    w = torch.zeros(1, CODES, WIDTH)
    for bad in (torch.zeros(1, 5, WIDTH), torch.zeros(1, 9), torch.zeros(WIDTH)):
        with pytest.raises(Problem, match="shape"):
            moved(bad, direction, 1)
    for strength in (float("nan"), float("inf"), 1e6):
        with pytest.raises(Problem, match="strength"):
            moved(w, direction, strength)
    for layers in ([], [6], [-1], [1, 1]):
        with pytest.raises(Problem, match="layer"):
            moved(w, direction, 1, layers)


# --- statistics ------------------------------------------------------------------------------------------


def test_moments_are_exact_far_from_zero_and_in_any_parts() -> None:
    x = np.random.default_rng(0).normal(1e5, 1, (1003, 5)) @ np.diag([1, 2, 3, 4, 5])
    for size in (1, 7, 400, 2000):
        found = moments(iter(torch.from_numpy(x).split(size)))
        assert found.samples == 1003
        assert np.allclose(found.mean, x.mean(0), rtol=1e-12)
        assert np.allclose(found.covariance, np.cov(x.T), rtol=1e-6, atol=1e-6)


def test_random_codes_are_the_mappings_and_repeat() -> None:
    opened = live(make(1))
    parts = list(random_codes(opened, 1203, seed=7))
    assert [len(part) for part in parts] == [500, 500, 203]
    random = torch.Generator().manual_seed(7)
    z = torch.cat([torch.randn(n, WIDTH, generator=random) for n in (500, 500, 203)])
    assert torch.allclose(torch.cat(parts)[:, 3], opened.mapping(z), atol=1e-5)
    assert torch.equal(torch.cat(parts), torch.cat(list(random_codes(opened, 1203, seed=7))))
    assert not torch.equal(parts[0], next(random_codes(opened, 1203, seed=8)))
    for samples in (1, 0, -5, 10**9):
        with pytest.raises(Problem, match="samples"):
            random_codes(opened, samples)


def test_incremental_analysis_is_the_whole_one() -> None:
    rng = np.random.default_rng(1)
    few = rng.normal(3, 1, (400, 6)) @ rng.normal(0, 1, (6, 40))  # six components in all
    falling = (
        rng.normal(3, 1, (900, 40))
        @ np.diag(0.7 ** np.arange(40))
        @ np.linalg.qr(rng.normal(size=(40, 40)))[0]
    )
    for x, keep, loose in ((few, 6, 1e-6), (few, 20, 1e-6), (falling, 12, 2e-3)):
        _, values, turned = np.linalg.svd(x - x.mean(0), full_matrices=False)
        for size in (x.shape[0], 100, 33):
            found = principal(iter(torch.from_numpy(x).split(size)), keep)
            assert np.allclose(found.mean, x.mean(0))
            deviations = values[:5] / np.sqrt(len(x) - 1)
            assert np.allclose(found.deviations[:5], deviations, rtol=loose)
            same = np.abs((found.components[:5].numpy() * turned[:5]).sum(1))
            assert (same > 1 - loose).all(), (keep, size, same)
            assert found.variance == pytest.approx(np.trace(np.cov(x.T)))


# --- SeFa ------------------------------------------------------------------------------------------------


def planted() -> tuple[Any, Tensor]:
    """Convolutions at 8 px that listen to n0, at 16 px to n1 and, half as much, n2; the colours of 16 px to n3, those
    of 4 px, very much, to n4; and one channel at 8 px that shouts of n5."""
    method, n = make(6), axes(3)
    synthesis = method.generator.synthesis
    with torch.no_grad():
        for size, listens in ((4, [(6, 8)]), (8, [(0, 8)]), (16, [(1, 6), (2, 2)])):
            for conv in synthesis.block(size).convs():
                rows = [n[k] * 3 for k, count in listens for _ in range(count)]
                noise = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(size)) * 0.3
                conv.affine.weight.copy_(torch.stack(rows) + noise)
        synthesis.block(8).conv.affine.weight[0] = n[5] * 100
        synthesis.block(16).rgb.affine.weight.copy_(n[3].expand(8, -1) * 50)
        synthesis.block(4).rgb.affine.weight.copy_(n[4].expand(8, -1) * 500)
    return method, n


def test_sefa_finds_what_the_chosen_layers_listen_to() -> None:
    method, n = planted()
    opened = live(method)
    (eight,) = sefa(opened, [0], layers=[1, 2])
    assert cosine(eight, n[0]) > 0.95
    first, second = sefa(opened, [0, 1], layers=[3, 4])
    assert cosine(first, n[1]) > 0.95
    assert cosine(second, n[2]) > 0.95
    assert 0.6 < first.facts["share"] < 0.9
    assert (first.layers, first.codes) == ((3, 4), CODES)
    (colours,) = sefa(opened, [0], layers=[5])  # colours alone listen to the last code
    assert cosine(colours, n[3]) > 0.95
    with pytest.raises(Problem, match="code, 5, only makes colours"):
        sefa(opened, [0], layers=[5], colours="none")
    # without normalisation, who shouts is heard
    (loud,) = sefa(opened, [0], layers=[1, 2], normalised=False)
    assert cosine(loud, n[5]) > 0.95
    (loudest,) = sefa(opened, [0], normalised=False, colours="first")
    assert cosine(loudest, n[4]) > 0.95
    (without,) = sefa(opened, [0], normalised=False, colours="none")
    assert cosine(without, n[4]) < 0.3
    (every,) = sefa(
        opened, [0], layers=[5, 1], normalised=False, colours="all"
    )  # code 1 makes colours at 4 px too
    assert cosine(every, n[4]) > 0.95


def test_sefa_by_the_published_formulas() -> None:
    """Written out with numpy: rows normalised, eigenvectors sorted here as the authors' code forgets to."""
    method = make(8)
    opened, synthesis = live(method), method.generator.synthesis
    convs = [conv for size in (4, 8, 16) for conv in synthesis.block(size).convs()]
    affines = [conv.affine.weight.numpy().T for conv in convs] + [
        synthesis.block(16).rgb.affine.weight.numpy().T
    ]
    for layers in ([0, 1, 2, 3, 4, 5], [0, 1], [2, 5]):
        matrix = np.concatenate([affines[k] for k in layers], axis=1).astype(np.float64)
        matrix = matrix / np.linalg.norm(matrix, axis=0, keepdims=True)
        values, vectors = np.linalg.eig(matrix @ matrix.T)
        order = np.argsort(-values.real)
        found = sefa(opened, range(WIDTH), layers=layers)
        for k, one in enumerate(found):
            assert cosine(one, torch.from_numpy(vectors.real[:, order[k]].copy())) > 1 - 1e-5, (layers, k)
            assert one.facts["share"] == pytest.approx(
                values.real[order[k]] / values.real.sum(), rel=1e-4, abs=1e-6
            )
            assert one.vector[one.vector.abs().argmax()] > 0
            assert float(one.vector.norm()) == pytest.approx(1, abs=1e-6)


def factor(method: Any) -> Tensor:
    """What closed_form_factorization.py makes of the checkpoint that rosinality's code would have of this style."""
    model = {"classes": 0, "latent": 8, "style": 8, "mapping_layers": 2, "channels": [8, 8, 8], "clamp": None}
    tree = to_rosinality({"generator": method.generator.state_dict()}, model, SIZE)
    chosen = [
        t
        for name, t in tree["g_ema"].items()
        if "modulation" in name and "to_rgbs" not in name and "weight" in name
    ]
    assert len(chosen) == 6  # five convolutions, and the colours of 4 px
    return torch.svd(torch.cat(chosen)).V


def test_a_factor_file_draws_what_the_rosinality_variant_draws(home: Path) -> None:
    vectors = factor(style.load("a.safetensors").method)
    torch.save({"ckpt": "/somewhere/else.pt", "eigvec": vectors}, "factor.pt")
    words = ["directions", "a.safetensors", "--by", "sefa", "--unit", "length", "--components", "0-3,7"]
    assert run(*words, "--convention", "rosinality", "--out", "ours") == 0
    assert run(*words, "--from", "factor.pt", "--out", "theirs") == 0
    found = named.load(Path("theirs") / named.FOUND)
    for name, one in named.load(Path("ours") / named.FOUND).items():
        assert cosine(one, vectors[:, int(name[5:])]) > 1 - 1e-5
        assert torch.allclose(found[name].vector, one.vector, atol=1e-5)
        assert (one.unit, one.layers) == (found[name].unit, found[name].layers) == (1.0, tuple(range(CODES)))
        mine, other = (images.read(Path(out) / f"{name}.png").astype(int) for out in ("ours", "theirs"))
        assert np.abs(mine - other).max() <= 1
        # and by the published application: every code moves by degree x vector
        z = latents(style.load("a.safetensors"), [0])
        opened: Any = style.load("a.safetensors")
        w = opened.method.truncated(opened.mapping(z), 0.7)
        drawn = style.to_pixels(opened.synthesis(w + 3 * one.vector))[0]
        assert np.abs(drawn.astype(int) - cells(Path("ours") / f"{name}.png", 0, 7)[6]).max() <= 1


def test_a_unit_is_a_standard_deviation_of_w() -> None:
    method = make(9)
    opened = live(method)
    z = torch.randn(20_000, WIDTH, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        w = method.mapping(z)
    for one in [
        *sefa(opened, range(4)),
        *ganspace(opened, range(4), samples=20_000),
        *ganspace(opened, [0], at=8),
    ]:
        assert one.unit == pytest.approx(along(one, w), rel=0.05)
    assert [one.unit for one in sefa(opened, [0, 1], unit="length")] == [1.0, 1.0]


def test_frozen_styles_are_measured_where_they_are_used() -> None:
    method = make(4, freeze_styles=3)
    with torch.no_grad():
        method.networks()["source_mapping"].layers[1].weight.mul_(5)
    opened = live(method)
    low, high = (sefa(opened, [0], layers=layers)[0] for layers in ([0, 1], [3, 4]))
    w = method.mapping(torch.randn(4000, WIDTH, generator=torch.Generator().manual_seed(1))).detach()
    assert low.unit == pytest.approx(along(low, w[:, 1]), rel=0.08)
    assert high.unit == pytest.approx(along(high, w[:, 4]), rel=0.08)


# --- GANSpace --------------------------------------------------------------------------------------------


def test_ganspace_finds_the_planted_spectrum() -> None:
    basis, deviations = axes(11), TENTHS.flip(0)
    opened = live(with_spectrum(basis, deviations))
    found = ganspace(opened, range(WIDTH), samples=30_000, layers=[2, 3])
    for k, one in enumerate(found):
        assert cosine(one, basis[k]) > 0.99, k
        assert one.unit == pytest.approx(float(deviations[k]), rel=0.03)
        assert one.facts["share"] == pytest.approx(
            float(deviations[k] ** 2 / deviations.square().sum()), rel=0.06
        )
        assert one.layers == (2, 3)
    again = ganspace(opened, [3], samples=30_000)
    assert torch.equal(again[0].vector, found[3].vector)


def test_ganspace_goes_back_from_feature_maps_to_w() -> None:
    """The map at 4 px changes only with n0, and less with n1: one channel each listens to them."""
    n = axes(12)
    method = with_spectrum(n, torch.full((WIDTH,), 0.5, dtype=torch.float64))
    conv = method.generator.synthesis.block(4).conv
    with torch.no_grad():
        conv.affine.weight.zero_()
        conv.affine.weight[0] = n[0] * 3
        conv.affine.weight[1] = n[1] * 1.2
        conv.affine.bias.copy_(
            1 - (conv.affine.weight * conv.affine.scale) @ method.mapping(torch.zeros(1, 8))[0]
        )
    opened = live(method)
    first, second = ganspace(opened, [0, 1], at=4, samples=4000)
    assert cosine(first, n[0]) > 0.95
    assert cosine(second, n[1]) > 0.95
    assert first.facts["follows"] > 0.9
    assert first.facts["share"] > 0.5 > second.facts["share"] > 0.02
    assert first.unit == pytest.approx(0.5, rel=0.06)
    again = ganspace(opened, [0, 1], at=4, samples=4000)
    assert torch.equal(again[1].vector, second.vector)


def test_steps_along_a_feature_direction_move_the_component() -> None:
    method = make(13)
    opened = live(method)
    (first,) = ganspace(opened, [0], at=8, samples=3000)
    with torch.no_grad():
        w = torch.cat(list(random_codes(opened, 400, seed=5)))
        maps = [
            method.generator.synthesis.paint(moved(w, first, s), "fixed", keep=[8], until=8)
            .features[8]
            .flatten(1)
            for s in (-1, 0, 1)
        ]
    _, _, axis = torch.linalg.svd(maps[1] - maps[1].mean(0), full_matrices=False)
    steps = torch.stack([(x @ axis[0]) for x in maps])
    deviation = steps[1].std()
    assert abs((steps[2] - steps[0]).mean()) > 1.0 * deviation  # of two units
    assert 0.5 < first.facts["follows"] <= 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"at": 5}, "resolution 5"),
        ({"at": 32}, "resolution 32"),
        ({"components": [8]}, "component 8: there are 0 to 7"),
        ({"components": [1, 1]}, "none twice"),
        ({"layers": [9]}, "layer 9"),
        ({"samples": 1}, "1 samples"),
        ({"samples": 1, "at": 8}, "1 samples"),
        ({"at": 4, "components": [40], "samples": 30}, "component 40: there are 0 to 28"),
    ],
)
def test_ganspace_refuses(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        ganspace(live(make(1)), settings.pop("components", [0]), **settings)


def test_maps_that_do_not_change_have_no_components() -> None:
    method = make(1)
    with torch.no_grad():
        method.generator.synthesis.block(4).conv.affine.weight.zero_()
    with pytest.raises(Problem, match="only 0 that vary"):
        ganspace(live(method), [0], at=4, samples=200)


def test_maps_that_are_too_large_are_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewtoon.latent.ganspace.MOST_NUMBERS", 1000)
    with pytest.raises(Problem, match="16 px have 2048 numbers"):
        ganspace(live(make(1)), [0], at=16)


def test_a_npz_of_the_published_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, n = live(make(1)), axes(5).numpy()
    path = tmp_path / "found.npz"
    units = np.linspace(2, 1, WIDTH).astype(np.float32)
    np.savez_compressed(path, lat_comp=n[:, None], lat_stdev=units, act_comp=np.array([print], dtype=object))
    two, five = read_npz(opened, path, [2, 5], layers=[1])
    assert cosine(five, torch.from_numpy(n[5])) > 1 - 1e-6
    assert (two.unit, two.layers) == (pytest.approx(float(units[2])), (1,))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"lat_comp": n[:, None, :4], "lat_stdev": units}, "shape"),
        ({"lat_comp": n[:, None]}, "lat_stdev"),
        ({"lat_comp": n[:, None], "lat_stdev": np.ones(WIDTH)}, "in z"),
        ({"lat_comp": n[:, None] * np.nan, "lat_stdev": units}, "damaged"),
        ({"lat_comp": np.array([[Evil(str(tmp_path / "ran"))]], dtype=object), "lat_stdev": units}, "npz"),
    ]
    for arrays, told in bad:
        np.savez(path, **arrays)
        with pytest.raises(Problem, match=told):
            read_npz(opened, path, [2])
    path.write_bytes(b"PK nothing")
    with pytest.raises(Problem, match="npz"):
        read_npz(opened, path, [2])
    np.savez_compressed(path, lat_comp=np.zeros((3000, 1, WIDTH)), lat_stdev=units)
    monkeypatch.setattr("fewtoon.latent.ganspace.MOST_BYTES", 10_000)
    with pytest.raises(Problem, match="too large"):
        read_npz(opened, path, [2])
    with pytest.raises(Problem, match="does not exist"):
        read_npz(opened, tmp_path / "no.npz", [2])
    assert not (tmp_path / "ran").exists()


# --- labels ----------------------------------------------------------------------------------------------


def labelled(method: Any, normal: Tensor, count: int, threshold: float = 0.0) -> tuple[Tensor, list[int]]:
    """w of seeds, and whether each lies beyond a plane across `normal`, about its mean."""
    w = live(method).mapping(latents(live(method), range(count)))
    away = (w - w.mean(0)) @ normal
    return w, (away > threshold * away.std()).int().tolist()


@pytest.mark.parametrize("threshold", [0.0, 1.2])
def test_labels_find_a_planted_attribute(threshold: float) -> None:
    basis = axes(21)
    method, normal = with_spectrum(basis, TENTHS), axes(22)[0]
    w, truth = labelled(method, normal, 600, threshold)
    one = attribute_direction(live(method), w, truth, ("old", "young"), layers=[0, 1])
    assert cosine(one, normal) > 0.95
    assert float(one.vector.double() @ normal.double()) > 0  # towards those who have it
    assert one.facts["accuracy"] > 0.93
    assert one.facts["interval"][0] > 0.88
    assert one.facts["counts"] == [truth.count(0), truth.count(1)]
    assert (one.facts["from"], one.facts["towards"], one.layers) == ("old", "young", (0, 1))
    assert one.unit == pytest.approx(along(one, w), rel=0.1)
    # the difference of means leans to where w varies anyway
    means = attribute_direction(live(method), w, truth, fit="means")
    covariance = basis.T.double() @ torch.diag(TENTHS.square()) @ basis.double()
    assert cosine(means, covariance @ normal.double()) > 0.95
    assert cosine(means, normal) < 0.9


def test_nothing_is_found_in_labels_by_lot() -> None:
    method = make(1)
    w, _ = labelled(method, axes(1)[0], 200)
    truth = torch.randint(2, (200,), generator=torch.Generator().manual_seed(3)).tolist()
    facts = attribute_direction(live(method), w, truth).facts
    assert facts["accuracy"] < 0.6
    assert facts["interval"][0] < 0.5


def test_a_plane_is_tried_on_samples_that_it_has_not_seen() -> None:
    """As many numbers as samples: what is learned by heart is all right, what is unseen is by lot."""
    method = make(1, style=64, latent=64)
    w, _ = labelled(method, torch.ones(64), 40)
    truth = [k % 2 for k in range(40)]
    one = attribute_direction(live(method), w, truth, fit="means")
    sides = (w.double() @ one.vector.double())[torch.tensor(truth) == 1].mean()
    assert sides > (w.double() @ one.vector.double())[torch.tensor(truth) == 0].mean()
    assert one.facts["accuracy"] < 0.75


def test_few_labels_are_refused() -> None:
    method = make(1)
    w, _ = labelled(method, axes(1)[0], 30)
    with pytest.raises(Problem, match="21 of 'no' and 9 of 'yes'"):
        attribute_direction(live(method), w, [0] * 21 + [1] * 9, ("no", "yes"))
    with pytest.raises(Problem, match=r"shape \(30, 8\) for 29"):
        attribute_direction(live(method), w, [0] * 29)


def test_what_is_kept_is_taken_out() -> None:
    basis = axes(30)
    spread = basis.T.double() @ torch.diag(TENTHS.square()) @ basis.double()
    mixed = basis[0] + basis[1] * 0.5 - basis[2]
    one = Direction(mixed / mixed.norm(), 1.0, (0,), CODES)
    others = [Direction(v / v.norm(), 1.0, (0,), CODES) for v in (basis[1], basis[1] + basis[2])]
    clean = orthogonal(one, others, spread)
    assert cosine(clean, basis[0]) > 1 - 1e-6
    assert clean.unit == pytest.approx(0.1, rel=1e-4)
    with pytest.raises(Problem, match="keep fewer"):
        orthogonal(others[0], others, spread)


def test_a_table_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufeffseed, smile\n4,yes\n2,no\n\n9,yes\n", encoding="utf-8")
    found = read_labels(path)
    assert (found.name, found.values) == ("smile", ("no", "yes"))
    assert (found.seeds, found.truth) == ([4, 2, 9], [1, 0, 1])
    path.write_text("seed,hair\n1,short\n2,long\n")
    assert read_labels(path).values == ("long", "short")
    path.write_text("seed,hair\n1,with\n2,bald\n")
    assert read_labels(path).values == ("bald", "with")
    for text, told in (
        ("", "first line"),
        ("file,smile\n1,1\n", "file,smile"),
        ("seed,smile\n1,1,1\n", "row 2"),
        ("seed,smile\n1,1\nx,0\n", "row 3"),
        ("seed,smile\n1,1\n1,0\n", "seed 1"),
        ("seed,smile\n1,1\n2,1\n", "values 1"),
        ("seed,smile\n1,1\n2,0\n3,maybe\n", "maybe"),
    ):
        path.write_text(text)
        with pytest.raises(Problem, match=told):
            read_labels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Problem, match="cannot be read"):
        read_labels(path)
    with pytest.raises(Problem, match="do not exist"):
        read_labels(tmp_path / "none.csv")


def test_pictures_sorted_into_two_folders(tmp_path: Path) -> None:
    for name, seeds in (("smiling", (3, 11)), ("serious", (4, 7, 8))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            (tmp_path / name / f"faces-seed{seed:04d}-truncation0.7.png").touch()
    found = sorted_labels(str(tmp_path / "smiling"), str(tmp_path / "serious"))
    assert (found.seeds, found.truth) == ([4, 7, 8, 3, 11], [0, 0, 0, 1, 1])
    assert found.facts == {"with": "3,11", "without": "4,7-8"}
    assert sorted_labels("0-2", "5,9").seeds == [5, 9, 0, 1, 2]
    with pytest.raises(Problem, match="seed 2 is among"):
        sorted_labels("0-2", "2-5")
    with pytest.raises(Problem, match="no folder"):
        sorted_labels("smilling", "2-5")
    (tmp_path / "smiling" / "holiday.jpg").touch()
    with pytest.raises(Problem, match="holiday"):
        sorted_labels(str(tmp_path / "smiling"), "5")


def test_an_attribute_may_be_called_anything(home: Path) -> None:
    for said, file in (("sheet", "sheet-2"), ("2 eyes/..", "is-2-eyes"), ("Brille?", "Brille")):
        rows = "\n".join(f"{k},{k % 2}" for k in range(24))
        Path("l.csv").write_text(f"seed,{said}\n{rows}\n")
        answer = find("a.safetensors", "o", How("labels", labels="l.csv"), seeds=[0], steps=2)
        assert list(answer["directions"]) == [file]
        assert answer["directions"][file]["attribute"] == said
        assert Path(f"o/{file}.png").is_file()


class Opinion:
    """Judges that see whether a picture is lighter than most, and doubt what is about the middle."""

    attributes = (
        Attribute("light hair", ("no", "yes"), {"g": 1, "h": 0}, True),
        Attribute("doubtful", ("no", "yes"), {"g": 1, "h": 0}, True),
    )

    def read(self, drawn: np.ndarray, groups: Sequence[Any]) -> Any:
        self.seen = drawn
        light = drawn.astype(float).mean((1, 2, 3))
        first = 1 / (1 + np.exp(-(light - np.median(light)) / 2))
        other = first.copy()
        other[:3] = 1 - other[:3]  # where the two disagree
        self.first = np.stack([first, first], 1)
        self.second = np.stack([other, other], 1)
        return self

    def fitness(self, attribute: str, name: str) -> list[tuple[float, str | None]]:
        return [(0.88, "below 90%") if attribute == "light hair" else (0.6, "below 90%")] * 2


def test_readers_label_the_samples(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    opinion = Opinion()
    monkeypatch.setattr(
        labelling.Pack, "open", lambda path: type("P", (), {"hash": "11", "groups": ["g", "h"]})()
    )
    monkeypatch.setattr(labelling.Judges, "of_pack", lambda *a, **k: opinion)
    found, notes = read_by_judges(style.load("a.safetensors"), "pack", 200)
    assert [one.name for one in found] == ["light hair"]
    assert notes == ["doubtful is left out: the reader is right about 60% of the pack, below 75%"]
    one = found[0]
    assert not {0, 1, 2} & {*one.seeds}
    assert 20 < len(one.seeds) < 197
    drawn = style.load("a.safetensors").sample(latents(style.load("a.safetensors"), one.seeds))
    assert np.array_equal(style.to_pixels(drawn), opinion.seen[one.seeds])
    assert ((opinion.first[one.seeds, 0] >= 0.8) == (np.array(one.truth) == 1)).all()
    words = ["directions", "a.safetensors", "--by", "labels", "--pack", "pack", "--samples", "200"]
    assert run(*words, "--name", "light=light-hair", "--out", "o") == 0
    assert "doubtful is left out" in capsys.readouterr().err
    light = named.load("a.directions.safetensors")["light"]
    assert (light.facts["attribute"], light.facts["reader_accuracy"]) == ("light hair", 0.88)
    strip = [picture.mean() for picture in cells("o/light-hair.png", 0, 7)]
    assert strip[6] > strip[3] > strip[0]
    monkeypatch.setattr(Opinion, "attributes", Opinion.attributes[1:])
    assert refused(capsys, *words, "--out", "p", told=("doubtful", "60%"))


# --- the side file ---------------------------------------------------------------------------------------


def some(seed: int = 0, **more: Any) -> Direction:
    return Direction(axes(seed)[0], 0.7, (0, 3), CODES, (-2.0, 4.0), {"by": "sefa", "component": 3}, **more)


def test_directions_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.directions.safetensors"
    named.save(path, {"tilt": some(1), "hår": some(2)})
    found = named.load(path)
    assert list(found) == ["tilt", "hår"]
    for one, seed in zip(found.values(), (1, 2)):
        assert torch.equal(one.vector, axes(seed)[0])
        assert (one.unit, one.layers, one.codes, one.range) == (0.7, (0, 3), CODES, (-2.0, 4.0))
        assert one.facts == {"by": "sefa", "component": 3}


@pytest.mark.parametrize("name", ["", "3", "a b", "a=b", "-x", "../x", "x/y", "é" * 41, "_x", "a.b", "a\n"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is no name"):
        named.save(tmp_path / "x", {name: some()})


def damage(path: Path, change: Any) -> None:
    """Write the file at `path` again, with another header or other tensors."""
    named.save(path, {"hair": some()})
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["fewtoon"])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, {"fewtoon": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda h, t: h.update(format="other"), "holds no directions"),
        (lambda h, t: h.update(version=9), "version 9"),
        (lambda h, t: h.update(directions=[]), "damaged"),
        (lambda h, t: h["directions"].update(hair=3), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].update(unit=-1), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].update(unit=float("nan")), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].update(layers=[7]), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].update(layers=[]), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].update(range=[3, -3]), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].update(range=[1]), "damaged at 'hair'"),
        (lambda h, t: h["directions"]["hair"].pop("codes"), "damaged at 'hair'"),
        (lambda h, t: h["directions"].update({"a b": h["directions"].pop("hair")}), "damaged at 'a b'"),
        (lambda h, t: t.update(hair=torch.full((8,), float("nan"))), "damaged at 'hair'"),
        (lambda h, t: t.update(hair=torch.zeros(8)), "damaged at 'hair'"),
        (lambda h, t: t.update(hair=torch.ones(8, dtype=torch.int32)), "damaged at 'hair'"),
        (lambda h, t: t.update(more=torch.ones(8)), "damaged at 'more'"),
        (lambda h, t: t.pop("hair") is t.update(other=torch.ones(8)), "damaged at 'hair'"),
    ],
)
def test_damaged_side_files_are_refused(change: Any, told: str, home: Path, capsys: Any) -> None:
    path = home / "a.directions.safetensors"
    damage(path, change)
    before = contents(home)
    refused(capsys, "move", "a.safetensors", "--by", "hair", "--out", "o", told=(told,))
    refused(capsys, "named", "a.safetensors", "--delete", "hair", told=(told,))
    assert contents(home) == before


def test_torn_side_files_are_refused(home: Path, capsys: Any) -> None:
    path = home / "a.directions.safetensors"
    named.save(path, {"hair": some()})
    for data in (path.read_bytes()[:60], b"", b"\x00" * 40):
        path.write_bytes(data)
        refused(capsys, "named", "a.safetensors", told=("a.directions.safetensors", "copy the file again"))


def test_names_are_listed_renamed_and_deleted(home: Path, capsys: Any) -> None:
    assert run("named", "a.safetensors") == 0
    assert "no directions have a name" in capsys.readouterr().out
    words = [
        "directions",
        "a.safetensors",
        "--by",
        "sefa",
        "--components",
        "0-2",
        "--steps",
        "3",
        "--seeds",
        "0",
    ]
    assert run(*words, "--name", "hair=2", "--name", "tilt=sefa-0", "--strengths=-2..4", "--out", "o") == 0
    side = home / "a.directions.safetensors"
    held = named.load(side)
    found = named.load(home / "o" / named.FOUND)
    assert list(held) == ["hair", "tilt"]
    assert torch.equal(held["hair"].vector, found["sefa-2"].vector)
    assert held["hair"].range == (-2.0, 4.0)
    assert held["tilt"].facts["style"] == {
        "file": "a.safetensors",
        "sha256": open_sources(["a.safetensors"])[0].sha256,
    }
    capsys.readouterr()
    assert run("named", "a.safetensors", "--rename", "fringe=hair", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["directions"]) == ["fringe", "tilt"]
    assert torch.equal(named.load(side)["fringe"].vector, found["sefa-2"].vector)
    before = side.read_bytes()
    for bad, told in (
        (["--rename", "tilt=fringe"], ("tilt", "already")),
        (["--rename", "x=fringle"], ("fringle", "'fringe'")),
        (["--rename", "1=fringe"], ("'1'", "no name")),
        (["--delete", "fring"], ("fring", "'fringe'")),
        (["--name", "x=sefa-1"], ("--from",)),
        (["--from", "o"], ("--name",)),
        (["--from", "o", "--name", "tilt=sefa-1"], ("tilt", "--replace")),
        (["--from", "o", "--name", "x=sefa-9"], ("sefa-9", "sefa-")),
        (
            ["--from", "tuned.safetensors", "--name", "x=y"],
            ("tuned.directions.safetensors", "does not exist"),
        ),
        (["--delete", "tilt", "--rename", "x=tilt"], ("tilt",)),
    ):
        refused(capsys, "named", "a.safetensors", *bad, told=told)
        assert side.read_bytes() == before
    assert (
        run(
            "named",
            "a.safetensors",
            "--from",
            "o",
            "--name",
            "tilt=sefa-1",
            "--replace",
            "--delete",
            "fringe",
        )
        == 0
    )
    assert list(named.load(side)) == ["tilt"]
    assert torch.equal(named.load(side)["tilt"].vector, found["sefa-1"].vector)
    assert run("named", "a.safetensors", "--delete", "tilt") == 0
    assert not side.exists()


def test_a_name_is_not_given_away_by_accident(home: Path, capsys: Any) -> None:
    words = ["directions", "a.safetensors", "--by", "sefa", "--seeds", "0", "--steps", "2"]
    assert run(*words, "--name", "hair=0", "--out", "o") == 0
    assert run(*words, "--name", "hair=0", "--out", "o") == 0  # the same again
    before = contents(home)
    refused(capsys, *words, "--name", "hair=1", "--out", "p", told=("hair", "--replace"))
    assert contents(home) == before
    assert run(*words, "--name", "hair=1", "--replace", "--out", "p") == 0
    assert torch.equal(
        named.load("a.directions.safetensors")["hair"].vector, named.load("o/" + named.FOUND)["sefa-1"].vector
    )


def test_a_run_keeps_its_directions_in_its_folder(home: Path) -> None:
    words = [
        "directions",
        "run",
        "--by",
        "ganspace",
        "--samples",
        "500",
        "--seeds",
        "0",
        "--steps",
        "2",
        "--out",
        "o",
    ]
    assert run(*words, "--name", "hair=1") == 0
    assert list(named.load("run/best.directions.safetensors")) == ["hair"]
    assert run("move", "run", "--by", "hair=1", "--out", "p") == 0


# --- the tools -------------------------------------------------------------------------------------------


def test_the_strips_are_what_they_say(home: Path) -> None:
    answer = find(
        "a.safetensors", "o", How("sefa", "8px"), components=[1, 4], seeds=[3, 5], steps=3, truncation=0.5
    )
    opened: Any = style.load("a.safetensors")
    found = named.load(answer["found"])
    assert list(found) == ["sefa-1", "sefa-4"]
    for row, seed in enumerate((3, 5)):
        w = opened.method.truncated(opened.mapping(latents(opened, [seed])), 0.5)
        for name, one in found.items():
            assert one.layers == (1, 2)
            for strength, cell in zip((-3, 0, 3), cells(f"o/{name}.png", row, 3)):
                ws = w[:, None].repeat(1, CODES, 1)
                ws[:, [1, 2]] += strength * one.unit * one.vector
                assert np.array_equal(style.to_pixels(opened.synthesis(ws))[0], cell), (name, seed, strength)
    first = [np.stack(cells("o/sheet.png", row, 3)) for row in range(2)]
    assert np.array_equal(first[0], np.stack(cells("o/sefa-1.png", 0, 3)))
    assert np.array_equal(first[1], np.stack(cells("o/sefa-4.png", 0, 3)))
    source = open_sources(["a.safetensors"])[0]
    assert torch.equal(of_file(source, "o/latents.safetensors").w, of_seeds(source, [3, 5]).w)
    assert of_file(source, "o/latents.safetensors").names == ["3", "5"]


def test_several_styles_draw_the_same_codes(home: Path, capsys: Any) -> None:
    named.save("a.directions.safetensors", {"hair": some(1), "tilt": some(2)})
    words = ["move", "a.safetensors", "tuned.safetensors", "--by", "hair=-2..2", "tilt=1.5", "--steps", "5"]
    assert run(*words, "--seeds", "4,6", "--truncation", "0.6", "--out", "o", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["strengths"] == {"hair": [-2, -1, 0, 1, 2], "tilt": [1.5] * 5}
    first: Any = style.load("a.safetensors")
    source = open_sources(["a.safetensors"])[0]
    kept = of_file(source, "o/latents.safetensors")
    assert kept.names[3] == "4 hair=1 tilt=1.5"
    for row, seed in enumerate((4, 6)):
        w = first.method.truncated(first.mapping(latents(first, [seed])), 0.6)
        for below, path in enumerate(("a.safetensors", "tuned.safetensors")):
            opened = style.load(path)
            for k, cell in enumerate(cells("o/sheet.png", 2 * row + below, 5)):
                ws = moved(moved(w, some(1), k - 2), some(2), 1.5)
                assert np.array_equal(style.to_pixels(opened.synthesis(ws))[0], cell), (seed, path, k)
                assert torch.equal(kept.w[5 * row + k], ws[0])
    assert not np.array_equal(cells("o/sheet.png", 0, 5)[0], cells("o/sheet.png", 1, 5)[0])


def test_moving_the_codes_of_a_file_by_a_sources_directions(home: Path, capsys: Any) -> None:
    named.save("a.directions.safetensors", {"hair": some(1)})
    assert run("sample", "tuned.safetensors", "--seeds", "7-8", "--out", "s") == 0
    words = [
        "move",
        "tuned.safetensors",
        "--latents",
        "s/latents.safetensors",
        "--layers",
        "4px",
        "--steps",
        "2",
    ]
    refused(capsys, *words, "--by", "hair", "--out", "o", told=("tuned", "--directions"))
    for given in ("a.safetensors", "a.directions.safetensors"):
        assert run(*words, "--by", "hair", "--directions", given, "--out", "o") == 0
    opened = style.load("tuned.safetensors")
    for row, seed in enumerate((7, 8)):
        w = opened.mapping(latents(opened, [seed]))
        for strength, cell in zip((-2, 4), cells("o/sheet.png", row, 2)):  # the range of its naming
            drawn = opened.synthesis(moved(w, some(1), strength, layers=[0]))
            assert np.array_equal(style.to_pixels(drawn)[0], cell)


def test_one_strength_is_shown_from_nothing_on(home: Path) -> None:
    named.save("a.directions.safetensors", {"hair": some(1)})
    answer = move(["a.safetensors"], "o", [Move("hair", (3.0, 3.0))], steps=4)
    assert answer["strengths"] == {"hair": [0, 1, 2, 3]}


def test_a_note_where_the_style_has_changed(home: Path, capsys: Any) -> None:
    words = ["directions", "a.safetensors", "--by", "sefa", "--seeds", "0", "--steps", "2", "--out", "o"]
    assert run(*words, "--name", "hair=0") == 0
    capsys.readouterr()
    move_it = ["move", "a.safetensors", "--by", "hair=1", "--out", "p"]
    assert run(*move_it) == 0
    assert capsys.readouterr().err == ""
    Path("a.safetensors").write_bytes(Path("tuned.safetensors").read_bytes())
    assert run(*move_it) == 0
    assert "hair was named when a was another file" in capsys.readouterr().err


def test_a_video_goes_there_and_back(home: Path) -> None:
    named.save("a.directions.safetensors", {"hair": some(1)})
    both = ["a.safetensors", "tuned.safetensors"]
    move(both, "o", [Move("hair", (-3, 3))], seeds=[1, 2, 3], steps=2, video="v.webp", frames=8, fps=20)
    with Image.open("v.webp") as film:
        assert film.n_frames == 8  # type: ignore[attr-defined]
        assert film.size == (3 * 128, 2 * 128)
        shots = []
        for number in range(8):
            film.seek(number)
            shots.append(np.asarray(film.convert("RGB")).astype(float))
    low, high = cells("o/sheet.png", 3, 2)  # of seed 2, the other style
    for number, still in ((0, low), (4, high)):
        assert abs(shots[number][128::8, 128:256:8] - still).mean() < 14
    assert abs(shots[1] - shots[7]).mean() < 5 < abs(shots[0] - shots[4]).mean()


@pytest.mark.parametrize(
    "words",
    [
        "directions run --by sefa --layers 0-2 --convention rosinality --name hair=1",
        "directions a.safetensors --by sefa --components 7,1 --name hat=7 --replace",
        "directions sg.safetensors --by ganspace --samples 900 --name one=ganspace-0 --keep ganspace-2",
        "directions a.safetensors --by ganspace --at 8px --samples 600 --truncation=-0.5 --keep hat",
        "directions a.safetensors --by labels --with 0-19 --without 30-49 --fit means",
        "directions a.safetensors --by labels --labels 'my labels.csv' --name s=smile",
        "directions grouped.safetensors --by sefa --group men --colours all --unit length",
        "move a.safetensors tuned.safetensors --by hat=-1..2.5 cap=0.00002 --video 'o ut/v.webp' --frames 4 --fps 12.5",
        "move sg.safetensors --by hat --directions a.safetensors --layers 4px,3",
    ],
)
def test_the_record_repeats_the_command(words: str, home: Path, capsys: Any) -> None:
    named.save("a.directions.safetensors", {"hat": some(1), "cap": some(2)})
    rows = "\n".join(f"{k},{'yes' if k % 3 else 'no'}" for k in range(60))
    Path("my labels.csv").write_text(f"seed,smile\n{rows}\n")
    before = contents(home)
    assert run(*shlex.split(words), "--seeds", "2,9", "--steps", "3", "--device", "cpu", "--out", "o ut") == 0
    first = contents(home)
    told = json.loads(Path(f"o ut/{words.split()[0]}.json").read_text())
    for name in first:
        if name in before:
            Path(name).write_bytes(before[name])
        else:
            Path(name).unlink()
    program, *again = shlex.split(told["command"])
    assert program == "fewtoon"
    assert cli.main(again) == 0
    second = contents(home)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_factor_does_nothing(home: Path, capsys: Any) -> None:
    ran = home / "ran"
    torch.save({"ckpt": Evil(str(ran)), "eigvec": axes(0)}, "factor.pt")
    words = ["directions", "a.safetensors", "--by", "sefa", "--from", "factor.pt", "--out", "o"]
    refused(capsys, *words, told=("factor.pt", "refused"))
    assert not ran.exists()
    for content, told in (
        ({"ckpt": "x"}, "eigvec"),
        ([axes(0)], "eigvec"),
        ({"eigvec": torch.randn(5, 5)}, "5 numbers"),
        ({"eigvec": axes(0) * 2}, "length 1"),
        ({"eigvec": axes(0) * float("nan")}, "length 1"),
        ({"eigvec": axes(0)[:, :3].contiguous()}, "component 3: there are 0 to 2"),
        ({"eigvec": axes(0).to_sparse()}, "eigvec"),
    ):
        torch.save(content, "factor.pt")
        refused(capsys, *words, told=(told,))
    Path("factor.pt").write_bytes(b"nothing")
    refused(capsys, *words, told=("factor.pt",))
    assert not Path("o").exists()
    with pytest.raises(Problem, match="does not exist"):
        read_factor(style.load("a.safetensors"), "no.pt")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("directions translator.safetensors --by sefa", ("translator", "ugatit")),
        ("directions nowhere.safetensors --by sefa", ("nowhere",)),
        ("directions a.safetensors", ("--by",)),
        ("directions a.safetensors --by pca", ("pca", "ganspace")),
        ("directions a.safetensors --by sefa --layers 9", ("layers '9'", "0 to 5")),
        ("directions a.safetensors --by sefa --layers 32px", ("32px", "16px")),
        ("directions a.safetensors --by sefa --components 9", ("component 9", "0 to 7")),
        ("directions a.safetensors --by sefa --components x", ("--components 'x'",)),
        ("directions a.safetensors --by sefa --components 1,1", ("none twice",)),
        ("directions a.safetensors --by sefa --seeds 4,4", ("seed 4",)),
        ("directions a.safetensors --by sefa --strengths 3", ("--strengths '3'", "-3..3")),
        ("directions a.safetensors --by sefa --strengths 3..1", ("3..1",)),
        ("directions a.safetensors --by sefa --strengths=-9999..1", ("-9999",)),
        ("directions a.safetensors --by sefa --steps 1", ("1 steps",)),
        ("directions a.safetensors --by sefa --steps 1000", ("1000 steps",)),
        ("directions a.safetensors --by sefa --truncation 9", ("9",)),
        ("directions a.safetensors --by sefa --group men", ("men",)),
        ("directions a.safetensors --by sefa --name hair", ("hair=3",)),
        ("directions a.safetensors --by sefa --name 3=hair", ("'3'",)),
        ("directions a.safetensors --by sefa --name hair=9", ("component 9", "--components")),
        ("directions a.safetensors --by sefa --name hair=sefa-11", ("sefa-1",)),
        ("directions a.safetensors --by sefa --name hair=1 --name hair=2", ("twice",)),
        ("directions a.safetensors --by sefa --keep hta", ("hta", "'hat'")),
        ("directions a.safetensors --by sefa --at 8px", ("--at 8px", "ganspace")),
        ("directions a.safetensors --by sefa --samples 9", ("--samples 9", "ganspace")),
        ("directions a.safetensors --by ganspace --unit length", ("--unit length", "sefa")),
        ("directions a.safetensors --by ganspace --at 7", ("7", "4, 8, 16")),
        ("directions a.safetensors --by ganspace --at x", ("--at x", "16px")),
        ("directions a.safetensors --by ganspace --samples 1", ("1 samples",)),
        ("directions a.safetensors --by ganspace --from no.npz", ("no.npz",)),
        ("directions a.safetensors --by ganspace --from no.npz --at w", ("--at w", "--from")),
        ("directions a.safetensors --by labels", ("--labels", "--pack")),
        ("directions a.safetensors --by labels --with 0-20", ("--without",)),
        ("directions a.safetensors --by labels --with 0-20 --without 30-40 --pack p", ("one of",)),
        ("directions a.safetensors --by labels --with 0-20 --without 30-33", ("4 of 'without'", "10")),
        (
            "directions a.safetensors --by labels --with 0-20 --without 30-40 --table t",
            ("--table t", "--pack"),
        ),
        ("directions a.safetensors --by labels --pack nowhere", ("nowhere",)),
        ("directions a.safetensors --by labels --from x.pt --labels y", ("--from x.pt",)),
        ("move a.safetensors --by hta=1", ("hta", "'hat'")),
        ("move a.safetensors --by hat=x", ("hat", "'x'")),
        ("move a.safetensors --by hat=1..", ("1..",)),
        ("move a.safetensors --by hat hat=2", ("twice",)),
        ("move a.safetensors --by hat=9999", ("9999",)),
        ("move a.safetensors --by hat=nan", ("nan",)),
        ("move a.safetensors", ("--by",)),
        ("move translator.safetensors --by hat", ("ugatit",)),
        ("move a.safetensors big.safetensors --by hat", ("16 px", "32 px", "big")),
        ("move a.safetensors wide.safetensors --by hat", ("wide", "12")),
        ("move wide.safetensors --by hat --directions a.safetensors", ("6 codes of 8", "of 12")),
        ("move big.safetensors --by hat --directions a.safetensors", ("6 codes", "8 of 8")),
        ("move tuned.safetensors --by hat", ("tuned", "--directions")),
        ("move tuned.safetensors --by hat --directions nowhere", ("nowhere",)),
        ("move a.safetensors --by hat --layers 7", ("'7'",)),
        ("move a.safetensors --by hat --latents nowhere.safetensors", ("nowhere",)),
        ("move a.safetensors --by hat --latents a.safetensors", ("holds no latents",)),
        ("move a.safetensors --by hat --steps 0", ("0 steps",)),
        ("move a.safetensors --by hat --truncation nan", ("nan",)),
        ("move a.safetensors --by hat --video v.gif", ("v.gif",)),
        ("move a.safetensors --by hat --video v.webp --frames 1", ("1 frames",)),
        ("move a.safetensors --by hat --video v.webp --fps 0", ("0",)),
        ("move a.safetensors --by hat --seeds 0-9999", ("too large",)),
        ("move a.safetensors --by hat --device abacus", ("abacus",)),
        ("named translator.safetensors", ("ugatit",)),
    ],
)
def test_refuses(words: str, told: tuple[str, ...], home: Path, capsys: Any) -> None:
    named.save("a.directions.safetensors", {"hat": some(1)})
    before = contents(home)
    tail = [] if words.startswith("named") else ["--out", "o"]
    refused(capsys, *words.split(), *tail, told=told)
    assert contents(home) == before


def test_out_is_a_folder_and_strengths_are_read(home: Path, capsys: Any) -> None:
    Path("o").write_text("mine")
    refused(capsys, "directions", "a.safetensors", "--by", "sefa", "--out", "o", told=("'o' is a file",))
    named.save("a.directions.safetensors", {"hat": some(1)})
    refused(capsys, "move", "a.safetensors", "--by", "hat", "--out", "o", told=("'o' is a file",))
    assert range_of("-3..3") == (-3, 3)
    assert range_of("-.5..1.25e1") == (-0.5, 12.5)
    assert move_of("hair=2") == Move("hair", (2, 2))
    assert move_of("hair=-1..+4") == Move("hair", (-1, 4))
    assert move_of("hair") == Move("hair", None)
    assert names_of(["a=1", "b=sefa-2"]) == {"a": "1", "b": "sefa-2"}


def test_measured_by_the_group_that_is_named(home: Path) -> None:
    opened = style.load("grouped.safetensors")
    units = [moments_of_w(opened, [0], group).covariance.trace() for group in ("women", "men", None)]
    assert len({round(float(unit), 6) for unit in units}) == 3


def test_the_examples_parse(capsys: Any) -> None:
    parser = arguments.parser(cli.VERBS)
    for tool in ("directions", "move", "named"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["explore", tool, "--help"])
        assert stop.value.code == 0
        example = capsys.readouterr().out.split("example:\n  fewtoon ")[1].split()
        assert parser.parse_args(example).run is explore.TOOLS[tool].run
    text = (Path(__file__).parents[1] / "docs" / "directions.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert len(lines) >= 10
    for line in lines:
        parser.parse_args(shlex.split(line)[1:])

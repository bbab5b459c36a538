"""What StyleGAN styles can draw: sheets, walks, and styles made of two. Tiny random networks, 16 px."""

from __future__ import annotations

import builtins
import hashlib
import json
import math
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import fewtoon
from asking import refused
from fewtoon import arguments, cli, config, explore, methods, style
from fewtoon.engine.preview import GAP, TITLE
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.latent.blend import (
    FAR,
    FeatureSwap,
    LiveSwap,
    Recipe,
    advice,
    blend,
    distance,
    shares,
)
from fewtoon.latent.sample import sample
from fewtoon.latent.seeds import latents, seeds_of, seeds_told, truncations_of
from fewtoon.latent.sources import open_sources
from fewtoon.latent.swap import swap
from fewtoon.latent.video import save_video, walk
from fewtoon.nets.twice import upsampled
from generators import SIZE, make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def near(method: Any, amount: float = 0.2, seed: int = 9) -> Any:
    """A copy that has moved a little, as by fine-tuning."""
    kind = type(method)
    made = kind(method.config, method.size, method.groups, training=False)
    torch.manual_seed(seed)
    for name, network in made.networks().items():
        state = method.networks()[name].state_dict()
        # The mapping's weights are stored 100 times as large as they act.
        moved = {
            key: t
            + amount * torch.randn(t.shape) * (100 if key.endswith("weight") and "layers" in key else 1)
            for key, t in state.items()
        }
        network.load_state_dict(moved)
    return made


def live(method: Any, **header: Any) -> style.Style:
    return style.Style(method, header, "cpu", "fp32")


def names(method: Any) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, network in method.networks().items()
        for key, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b are of one origin; grouped has groups; big, translator and sg are of other kinds."""
    folder = tmp_path_factory.mktemp("styles")
    a = make(1)
    facts = {"framing": "ffhq", "licence": {"photos": "CC BY"}, "packs": {"photos": "11"}}
    style.write(folder / "a.safetensors", a, facts)
    told = {"framing": "ffhq", "licence": {"photos": ["CC BY", "mine"], "drawings": "hers"}}
    style.write(folder / "b.safetensors", near(a), {**told, "packs": {"photos": "22", "drawings": "33"}})
    style.write(folder / "grouped.safetensors", make(2, ("women", "men"), conditional=True), {})
    style.write(folder / "big.safetensors", make(3, size=32), {})
    style.write(folder / "sg.safetensors", make(4, freeze_styles=3), {})
    kind = methods.find("ugatit")
    other = kind(config.section(kind.Config, {"channels": 4, "blocks": 1}, "model"), SIZE, [], training=False)
    style.write(folder / "translator.safetensors", other, {})
    (folder / "run").mkdir()
    style.write(folder / "run" / "best.safetensors", near(a, seed=5), {})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- what is asked for -----------------------------------------------------------------------------------


def test_seeds_are_read_and_told() -> None:
    assert seeds_of("0-3,9") == [0, 1, 2, 3, 9]
    assert seeds_of(" 5 , 1 - 2") == [5, 1, 2]
    for seeds in ([3], [0, 1, 2, 9], [9, 8, 7], [5, 6, 1, 2]):
        assert seeds_of(seeds_told(seeds)) == seeds
    assert seeds_told(range(16)) == "0-15"
    assert truncations_of("0.5,0.7,1") == [0.5, 0.7, 1.0]


@pytest.mark.parametrize(
    "text", ["", "x", "3-1", "-1", "1,,2", "1.5", "1,1", "0-3,2", "0-999999999", "９", "1" * 30]
)
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(Problem):
        seeds_of(text)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "3", "0.5,0.5", "0.5;1"])
def test_other_truncations_are_refused(text: str) -> None:
    with pytest.raises(Problem):
        truncations_of(text)


# --- sample ----------------------------------------------------------------------------------------------


def test_a_seed_is_the_same_picture_whatever_is_beside_it(files: Path, tmp_path: Path) -> None:
    a = files / "a.safetensors"
    sample([a], tmp_path / "many", seeds=[0, 7, 3], single=True)
    sample([a], tmp_path / "one", seeds=[7], single=True)
    sample([a], tmp_path / "again", seeds=[0, 7, 3], single=True)
    many = contents(tmp_path / "many")
    assert many["seed0007.png"] == contents(tmp_path / "one")["seed0007.png"]
    assert many["seed0007.png"] != many["seed0003.png"]
    again = contents(tmp_path / "again")
    assert all(many[name] == again[name] for name in many if name.endswith(".png"))
    one, other = (load_file(tmp_path / name / "latents.safetensors") for name in ("many", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    opened = style.load(a)
    z = torch.randn(1, 8, generator=torch.Generator().manual_seed(7))
    (expected,) = style.to_pixels(opened.sample(z))
    assert np.array_equal(images.read(tmp_path / "many" / "seed0007.png"), expected)


def test_the_latents_draw_the_pictures(files: Path, tmp_path: Path) -> None:
    sources = [files / "a.safetensors", files / "sg.safetensors"]
    sample(sources, tmp_path, seeds=[2, 4], truncation=[0.6], single=True)
    saved = load_file(tmp_path / "latents.safetensors")
    assert {name: tuple(t.shape) for name, t in saved.items()} == {
        "a.z": (2, 8),
        "a.w": (2, 8),
        "sg.z": (2, 8),
        "sg.w": (2, 6, 8),  # its first codes are of the source's mapping
    }
    for path in sources:
        opened = style.load(path)
        assert torch.equal(opened.mapping(saved[f"{path.stem}.z"]), saved[f"{path.stem}.w"])
        w = opened.method.truncated(saved[f"{path.stem}.w"], 0.6)  # type: ignore[attr-defined]
        for seed, expected in zip((2, 4), style.to_pixels(opened.synthesis(w))):
            drawn = images.read(tmp_path / f"{path.stem}-seed{seed:04d}.png")
            assert np.array_equal(drawn, expected)


def test_truncation_0_is_each_styles_own_average_picture(files: Path, tmp_path: Path) -> None:
    paths = [files / "a.safetensors", files / "b.safetensors", files / "sg.safetensors"]
    sample(paths, tmp_path, seeds=[1, 2], truncation=[0, 1], single=True)
    averages = []
    for path in paths:
        one, other = (images.read(tmp_path / f"{path.stem}-seed{s:04d}-truncation0.png") for s in (1, 2))
        assert np.array_equal(one, other)
        opened = style.load(path)
        generator = opened.method.generator  # type: ignore[attr-defined]
        average = generator.mapping.average.expand(1, 6, 8).clone()
        if path.stem == "sg":
            average[:, :3] = opened.method.networks()["source_mapping"].average
        (expected,) = style.to_pixels(opened.synthesis(average))
        assert np.array_equal(one, expected), path.stem
        averages.append(expected)
        full = images.read(tmp_path / f"{path.stem}-seed0001-truncation1.png")
        assert not np.array_equal(full, one)
    assert not np.array_equal(averages[0], averages[1])


def test_the_sheet_has_a_row_per_truncation_and_style(files: Path, tmp_path: Path) -> None:
    paths = [files / "a.safetensors", files / "run"]
    answer = sample(paths, tmp_path, seeds=range(5), truncation=[0.5, 1], columns=3, single=True)
    drawn = images.read(answer["sheet"])
    step = 128 + GAP
    height, left = 2 * (TITLE + 4 * step), drawn.shape[1] - 3 * step
    assert drawn.shape[0] == height
    assert 0 < left < 200
    places = [(t, name) for t in ("0.5", "1") for name in ("a", "run")]
    for seed in range(5):
        for row, (t, name) in enumerate(places):
            top = (seed // 3) * (TITLE + 4 * step) + TITLE + row * step
            x = left + seed % 3 * step
            cell = drawn[top : top + 128, x : x + 128]
            picture = images.read(tmp_path / f"{name}-seed{seed:04d}-truncation{t}.png")
            assert np.array_equal(cell[::8, ::8], picture), (seed, t, name)
    assert (drawn[-step:, left + 2 * step :] == 255).all()  # nobody's place
    assert (drawn[:, :left] < 255).any()  # words


def test_equal_names_are_told_apart(files: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("a", "a-2"):
        (tmp_path / "x" / f"{name}.safetensors").write_bytes((files / "b.safetensors").read_bytes())
    paths = [tmp_path / "x" / "a-2.safetensors", files / "a.safetensors", tmp_path / "x" / "a.safetensors"]
    assert [one.name for one in open_sources([*paths, files / "run"])] == ["a-2", "a", "a-3", "run"]


def test_too_many_seeds_for_a_sheet(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 2 * 152 * 280)
    answer = sample([files / "a.safetensors"], tmp_path, seeds=range(7), columns=2, single=True)
    assert "7 seeds" in answer["notes"][0]
    assert len(answer["pictures"]) == 7
    assert images.read(answer["sheet"]).shape[0] == 2 * (TITLE + 128 + GAP)  # 4 seeds
    assert sample([files / "a.safetensors"], tmp_path, seeds=range(2))["notes"] == []


def test_groups(files: Path, tmp_path: Path) -> None:
    paths = [files / "grouped.safetensors", files / "a.safetensors"]
    for group in ("women", "men"):
        sample(paths, tmp_path / group, seeds=[3], group=group, single=True)
    women, men = contents(tmp_path / "women"), contents(tmp_path / "men")
    assert women["grouped-seed0003.png"] != men["grouped-seed0003.png"]
    assert women["a-seed0003.png"] == men["a-seed0003.png"]
    opened = style.load(paths[0])
    z = latents(opened, [3])
    (expected,) = style.to_pixels(opened.sample(z, group="men"))
    assert np.array_equal(images.read(tmp_path / "men" / "grouped-seed0003.png"), expected)


def test_the_record_repeats_the_command(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["explore", "sample", str(files / "grouped.safetensors"), str(files / "run"), "--out", "o ut"]
    words += ["--seeds", "2-3,8", "--truncation=-0.25,0.7", "--group", "men", "--single", "--video", "v.webp"]
    words += ["--frames", "6", "--fps", "12.5", "--columns", "2", "--device", "cpu", "--json"]
    assert cli.main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    told = json.loads(Path(answer["record"]).read_text())
    first = {**contents(Path("o ut")), "v": Path("v.webp").read_bytes()}
    assert len(first) == 2 * 2 * 3 + 3 + 1
    assert told["fewtoon"] == fewtoon.__version__
    best = files / "run" / "best.safetensors"
    assert told["styles"][1] == {
        "name": "run",
        "file": "best.safetensors",
        "sha256": hashlib.sha256(best.read_bytes()).hexdigest(),
    }
    assert (told["seeds"], told["truncation"], told["group"]) == ([2, 3, 8], [-0.25, 0.7], "men")
    program, *again = shlex.split(told["command"])
    assert program == "fewtoon"
    for path in [*Path("o ut").iterdir(), Path("v.webp")]:
        path.unlink()
    assert cli.main(again) == 0
    second = {**contents(Path("o ut")), "v": Path("v.webp").read_bytes()}
    assert first == second


# --- video -----------------------------------------------------------------------------------------------


def test_the_walk_is_straight_closed_and_eased() -> None:
    w = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = walk(w, 12)
    assert path.shape == (12, 5)
    assert torch.equal(path[[0, 4, 8]], w)  # seeds are met
    for k in range(3):
        a, b = w[k], w[(k + 1) % 3]  # closed: the last goes to the first
        for j, share in enumerate((0.0, 0.15625, 0.5, 0.84375)):  # 3 u^2 - 2 u^3 at 0, 1/4, 1/2, 3/4
            assert torch.allclose(path[4 * k + j], a + share * (b - a))
    pace = (walk(w, 3000).roll(-1, 0) - walk(w, 3000)).norm(dim=1)
    assert pace[::1000].max() < 0.02 * pace.max()  # it rests at the seeds
    assert walk(torch.zeros(2, 6, 8), 5).shape == (5, 6, 8)


def test_a_webp_has_the_frames(files: Path, tmp_path: Path) -> None:
    paths = [files / "a.safetensors", files / "b.safetensors"]
    sample(
        paths, tmp_path / "o", seeds=[0, 1], truncation=[0.5, 1], video=tmp_path / "v.webp", frames=8, fps=30
    )
    with Image.open(tmp_path / "v.webp") as film:
        assert film.n_frames == 8  # type: ignore[attr-defined]
        assert film.size == (256, 256)
        assert film.info["loop"] == 0
        lengths = []
        for number in range(8):
            film.seek(number)
            film.load()
            lengths.append(film.info["duration"])
        assert sum(lengths) == 267  # 8 / 30 s
        film.seek(0)
        first = np.asarray(film.convert("RGB")).astype(float)
    sheet = images.read(tmp_path / "o" / "sheet.png").astype(float)
    step = 128 + GAP
    for place, row in (
        ((0, 0), 0),
        ((0, 1), 1),
        ((1, 0), 2),
        ((1, 1), 3),
    ):  # of seed 0: the start of the walk
        top, left = TITLE + row * step, sheet.shape[1] - 2 * step
        still = sheet[top : top + 128, left : left + 128]
        y, x = place
        moving = first[128 * y : 128 * y + 128, 128 * x : 128 * x + 128]
        assert abs(still - moving).mean() < 12, place  # lossy; other pictures are three times as far


def test_an_mp4_has_the_frames_and_colours(files: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    answer = sample(
        [files / "a.safetensors"], tmp_path / "o", seeds=[0, 1], video=tmp_path / "v.mp4", frames=9, fps=24
    )
    with av.open(answer["video"]) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 128, 24)
        assert len(list(film.decode(video=0))) == 9
    colours = [(255, 0, 0), (0, 255, 0), (30, 60, 250), (240, 200, 180)]
    save_video(tmp_path / "c.mp4", [np.full((64, 64, 3), c, np.uint8) for c in colours])
    with av.open(str(tmp_path / "c.mp4")) as film:
        assert film.streams.video[0].codec_context.colorspace == 1  # BT.709, which players would not guess
        for frame, colour in zip(film.decode(video=0), colours, strict=True):
            shown = frame.to_ndarray(format="rgb24")[32, 32].astype(int)
            assert abs(shown - colour).max() <= 4


def test_mp4_without_its_library(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any, **named: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", lacking)
    words = ["sample", files / "a.safetensors", "--out", tmp_path / "o", "--video", tmp_path / "v.mp4"]
    refused(capsys, *words, told=("v.mp4", "pip install 'fewtoon[video]'", ".webp"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.safetensors", "--seeds", "3-1"], ("3-1",)),
        (["a.safetensors", "--seeds", "4,4"], ("4",)),
        (["a.safetensors", "--truncation", "7"], ("7",)),
        (["a.safetensors", "--truncation", "much"], ("much", "0.7")),
        (["a.safetensors", "--columns", "0"], ("columns 0",)),
        (["a.safetensors", "--group", "men"], ("men",)),
        (["grouped.safetensors", "--group", "man"], ("man", "'men'")),
        (["a.safetensors", "big.safetensors"], ("16", "32", "big")),
        (["translator.safetensors"], ("translator", "ugatit")),
        (["nowhere.safetensors"], ("nowhere",)),
        (["a.safetensors", "--frames", "9"], ("--video",)),
        (["a.safetensors", "--video", "v.gif"], ("v.gif", ".webp")),
        (["a.safetensors", "--video", "v.webp", "--seeds", "3"], ("one seed",)),
        (["a.safetensors", "--video", "v.webp", "--frames", "15"], ("15", "16")),
        (["a.safetensors", "--video", "v.webp", "--fps", "0"], ("0",)),
        (["a.safetensors", "--video", "v.webp", "--frames", "99999"], ("99999", ".mp4")),
        (["a.safetensors", "--device", "abacus"], ("abacus",)),
        ([], ("STYLE",)),
    ],
)
def test_sample_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    refused(capsys, "sample", *words, "--out", tmp_path / "o", told=told)
    assert not (tmp_path / "o").exists()
    assert not list(files.glob("v.*"))


def test_out_must_be_a_folder(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = files / "a.safetensors"
    refused(capsys, "sample", a, "--out", a, told=("--out", "folder"))
    refused(capsys, "sample", a, told=("--out",))
    refused(capsys, told=("WHAT",))


# --- swap by weights -------------------------------------------------------------------------------------


def test_a_hard_switch_is_where_it_is_named() -> None:
    """Appendix: positions 4: 0, 1; 8: 2, 3; 16: 4, 5; 32: 6, 7; of 32 px, high's begins at position 8."""
    sizes = [4, 8, 16, 32, 64, 128]
    found = shares(sizes, 32)
    assert {name for name, share in found.items() if share == 1} == {"64.up", "64.conv", "128.up", "128.conv"}
    assert {name for name, share in found.items() if share == 0} == {
        *("4.conv", "8.up", "8.conv", "16.up", "16.conv", "32.up", "32.conv")
    }


def test_a_smooth_switch_by_numbers() -> None:
    found = shares([4, 8, 16, 32], 8, width=2.0)  # the switch is at 3.5
    for name, place in {"4.conv": 1, "8.up": 2, "8.conv": 3, "16.up": 4, "16.conv": 5, "32.conv": 7}.items():
        assert found[name] == pytest.approx(1 / (1 + math.exp(-(place - 3.5) / 2)), abs=1e-12)
    assert found["8.conv"] + found["16.up"] == pytest.approx(1)  # even about the switch, not about a layer
    narrow = shares([4, 8, 16, 32], 8, width=1e-3)
    assert narrow == shares([4, 8, 16, 32], 8)  # the hard one is its limit, and nothing overflows


def test_a_hard_swap_takes_exactly_the_named_tensors() -> None:
    a, b = make(1), make(2)
    made = names(blend(live(a), live(b), Recipe(8)).method)
    low, high = names(a), names(b)
    assert made.keys() == low.keys()
    start = "generator.synthesis.blocks.16."
    from_high = {name for name in made if name.startswith(start) and not name.endswith(".noise")}
    assert len(from_high) == 3 * 4 + 2  # weight and bias of layer and affine; strengths
    for name, tensor in made.items():
        expected, other = (high, low) if name in from_high else (low, high)
        assert torch.equal(tensor, expected[name]), name
        assert not torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    ("recipe", "pattern"),
    [
        (Recipe(4, mapping="high"), "generator.mapping."),
        (Recipe(4, constant="high"), "generator.synthesis.constant"),
        (Recipe(4, noise="high"), ".noise"),
        (Recipe(4, rgb="high"), ".rgb."),
    ],
)
def test_what_follows_which_parent(recipe: Recipe, pattern: str) -> None:
    a, b = make(1), make(2)
    plain = names(blend(live(a), live(b), Recipe(4)).method)
    made, high = names(blend(live(a), live(b), recipe).method), names(b)
    changed = {name for name in made if not torch.equal(made[name], plain[name])}
    expected = {name for name in made if pattern in name}
    if recipe.rgb == "high":
        expected = {name for name in expected if ".blocks.4." in name}  # the others were high's already
    assert changed == expected
    assert all(torch.equal(made[name], high[name]) for name in changed)


def test_all_colours_of_low() -> None:
    a, b = make(1), make(2)
    made = names(blend(live(a), live(b), Recipe(4, rgb="low")).method)
    assert all(torch.equal(made[name], names(a)[name]) for name in made if ".rgb." in name)
    up = "generator.synthesis.blocks.8.up.weight"
    assert torch.equal(made[up], names(b)[up])


def test_a_smooth_swap_mixes_weights() -> None:
    a, b = make(1), make(2)
    made, low, high = names(blend(live(a), live(b), Recipe(8, width=1.0)).method), names(a), names(b)
    table = shares([4, 8, 16], 8, 1.0)
    for layer, share in (
        ("8.up", "8.up"),
        ("16.conv", "16.conv"),
        ("16.rgb", "16.conv"),
        ("4.rgb", "4.conv"),
    ):
        for rest in ("weight", "bias", "affine.weight", "affine.bias"):
            name = f"generator.synthesis.blocks.{layer}.{rest}"
            expected = (1 - table[share]) * low[name] + table[share] * high[name]
            assert torch.allclose(made[name], expected, atol=1e-6), name
    for name in made:
        if name.startswith("generator.mapping") or name.endswith((".noise", "constant")):
            assert torch.equal(made[name], low[name]), name


def test_a_swap_changes_neither_parent_and_shares_nothing() -> None:
    a, b = make(1), make(2)
    before = (
        {name: t.clone() for name, t in names(a).items()},
        {name: t.clone() for name, t in names(b).items()},
    )
    made = blend(live(a), live(b), Recipe(8))
    for tensor in names(made.method).values():
        tensor.zero_()
    for method, kept in zip((a, b), before):
        assert all(torch.equal(names(method)[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(8),
        Recipe(4, 0.7),
        Recipe(8, 1.5, mapping="high", constant="high", noise="high", rgb="low"),
        Recipe(4, rgb="high"),
    ],
)
def test_a_live_swap_is_the_same_swap(recipe: Recipe) -> None:
    low, high = live(make(1, freeze_styles=2), framing="ffhq"), live(make(2))
    swaps = LiveSwap(low, high)
    swaps.at(4, 3.0)  # what was asked before does not matter
    made, alone = swaps.at(**asdict(recipe)), blend(low, high, recipe)
    assert made.header == alone.header
    assert names(made.method).keys() == names(alone.method).keys()
    assert all(torch.equal(tensor, names(alone.method)[name]) for name, tensor in names(made.method).items())
    z = latents(made, [0, 1])
    assert torch.equal(made.sample(z, 0.6), alone.sample(z, 0.6))


def test_a_live_swap_makes_only_what_is_mixed() -> None:
    a, b = make(1), make(2)
    swaps = LiveSwap(live(a), live(b))
    places = {t.data_ptr() for one in (a, b) for t in names(one).values()}
    before = {name: t.clone() for one in (a, b) for name, t in names(one).items()}
    hard = names(swaps.at(8).method)
    assert {t.data_ptr() for t in hard.values()} <= places
    smooth = names(swaps.at(8, 1.0).method)
    anew = {name for name, t in smooth.items() if t.data_ptr() not in places}
    mixed = ("bias", "weight", "strength")
    assert anew == {n for n in smooth if n.startswith("generator.synthesis.blocks") and n.endswith(mixed)}
    assert all(torch.equal(t, before[name]) for name, t in names(b).items())
    with pytest.raises(Problem, match="resolution 16"):
        swaps.at(16)


def test_what_is_saved_is_what_is_live(files: Path, tmp_path: Path) -> None:
    a, b = files / "a.safetensors", files / "b.safetensors"
    out = tmp_path / "swapped.safetensors"
    answer = swap(a, b, 8, out=out, width=0.7, rgb="high", sheet_to=tmp_path / "swapped.png")
    assert answer["distance"] == pytest.approx(distance(style.load(a), style.load(b)))
    saved, drawn = style.load(out), blend(style.load(a), style.load(b), Recipe(8, 0.7, rgb="high"))
    for name, tensor in names(drawn.method).items():
        assert torch.equal(tensor, names(saved.method)[name]), name
    z = latents(saved, range(3))
    assert torch.equal(saved.sample(z, 0.6), drawn.sample(z, 0.6))
    sheet = images.read(answer["sheet"])  # the third row is the swap
    step = 128 + GAP
    cell = sheet[TITLE + 2 * step :, sheet.shape[1] - 8 * step :][:128:8, :128:8]
    assert np.array_equal(cell, style.to_pixels(saved.sample(z[:1]))[0])


def test_the_header_says_what_it_was_made_of(files: Path, tmp_path: Path) -> None:
    a, b = files / "a.safetensors", files / "b.safetensors"
    swap(a, b, 4, out=tmp_path / "s.safetensors", noise="high")
    header = style.read_header(tmp_path / "s.safetensors")
    made = header["made_of"]
    assert made["low"]["sha256"] == hashlib.sha256(a.read_bytes()).hexdigest()
    assert (made["low"]["file"], made["high"]["file"]) == ("a.safetensors", "b.safetensors")
    assert {
        key: made[key] for key in ("by", "resolution", "width", "mapping", "constant", "noise", "rgb")
    } == {
        "by": "weights",
        "resolution": 4,
        "width": 0.0,
        "mapping": "low",
        "constant": "low",
        "noise": "high",
        "rgb": "blocks",
    }
    assert header["licence"] == {"photos": ["CC BY", "mine"], "drawings": ["hers"]}
    assert header["packs"] == {"photos": "11", "photos of high": "22", "drawings": "33"}
    assert header["framing"] == "ffhq"
    assert header["fewtoon"] == fewtoon.__version__
    assert "note on the drawings: hers" in style.describe(header)
    swap(tmp_path / "s.safetensors", b, 4, out=tmp_path / "t.safetensors")  # and of that again
    again = style.read_header(tmp_path / "t.safetensors")
    assert again["made_of"]["low"]["made_of"]["high"]["file"] == "b.safetensors"
    assert again["packs"] == header["packs"]


def test_frozen_styles_keep_their_source(files: Path, tmp_path: Path) -> None:
    """FreezeSG: mapping and source mapping come from the same parent, whichever it is."""
    sg, plain = style.load(files / "sg.safetensors"), style.load(files / "a.safetensors")
    swap(files / "sg.safetensors", files / "a.safetensors", 4, out=tmp_path / "s.safetensors")
    made = style.load(tmp_path / "s.safetensors")
    assert made.method.config.freeze_styles == 3  # type: ignore[attr-defined]
    z = latents(made, range(2))
    assert torch.equal(made.mapping(z), sg.mapping(z))
    codes = sg.method.truncated(sg.mapping(z), 0.5)  # type: ignore[attr-defined]
    assert torch.equal(made.sample(z, 0.5), made.synthesis(codes))
    other = blend(sg, plain, Recipe(4, mapping="high"))
    assert set(other.method.networks()) == {"generator"}
    assert torch.equal(other.mapping(z), plain.mapping(z))
    features = FeatureSwap(sg, plain, 4)
    assert features.sample(z).shape == (2, 3, SIZE, SIZE)
    swap(files / "a.safetensors", files / "sg.safetensors", 4, mapping="high", sheet_to=tmp_path / "s.png")


def test_groups_come_with_the_mapping(files: Path) -> None:
    grouped, plain = style.load(files / "grouped.safetensors"), style.load(files / "a.safetensors")
    made = blend(grouped, plain, Recipe(4))
    z = latents(made, [0])
    assert made.groups == ["women", "men"]
    assert not torch.equal(made.sample(z, group="women"), made.sample(z, group="men"))
    assert blend(grouped, plain, Recipe(4, mapping="high")).groups == []
    features = FeatureSwap(grouped, plain, 4)
    assert not torch.equal(features.sample(z, group="women"), features.sample(z, group="men"))
    with pytest.raises(Problem, match="alike"):
        FeatureSwap(grouped, plain, 4, mapping="high").sample(z, group="women")


def test_the_wider_clamp_is_kept() -> None:
    a, b = make(1, clamp=256.0), make(2, clamp=512.0)
    assert blend(live(a), live(b), Recipe(4)).method.generator.synthesis.blocks["4"].conv.clamp == 512  # type: ignore[attr-defined]
    assert blend(live(a), live(make(2)), Recipe(4)).method.config.clamp is None  # type: ignore[attr-defined]


# --- swap by features ------------------------------------------------------------------------------------


def by_hand(low: Any, high: Any, resolution: int, low_w: Tensor, high_w: Tensor) -> Tensor:
    """The forward pass, layer by layer: low's maps up to `resolution`, high's colours everywhere."""

    def through(synthesis: Any, block: Any, x: Tensor, w: Tensor) -> Tensor:
        for conv in block.convs():
            x = conv(x, w, conv.noise[None, None])
        return x

    below, above = low.generator.synthesis, high.generator.synthesis
    his = below.constant.expand(1, -1, -1, -1)
    mine = above.constant.expand(1, -1, -1, -1)
    image: Tensor | None = None
    for size in (4, 8, 16):
        his = through(below, below.block(size), his, low_w)
        mine = through(above, above.block(size), mine, high_w)
        if size == resolution:
            mine = his
        rgb = above.block(size).rgb(mine, high_w)
        image = rgb if image is None else rgb + upsampled(image)
    assert image is not None
    return image.clamp(-1, 1)


@pytest.mark.parametrize("resolution", [4, 8])
def test_features_are_swapped_as_by_hand(resolution: int) -> None:
    a, b = make(1), make(2)
    low, high = live(a), live(b)
    z = latents(low, [0, 1])
    drawn = FeatureSwap(low, high, resolution).sample(z, 0.7)
    for row in range(2):
        codes = [
            torch.lerp(one.generator.mapping.average, one.generator.mapping(z[row : row + 1]), 0.7)
            for one in (a, b)
        ]
        assert torch.allclose(drawn[row : row + 1], by_hand(a, b, resolution, *codes), atol=1e-5)
    assert not torch.allclose(drawn, high.sample(z, 0.7), atol=0.05)
    assert not torch.allclose(drawn, blend(low, high, Recipe(resolution)).sample(z, 0.7), atol=0.05)
    one = FeatureSwap(low, high, resolution).sample(z[1:], 0.7)
    assert torch.equal(one, drawn[1:])
    shared = FeatureSwap(low, high, resolution, mapping="low").sample(z, 0.7)
    w = low.method.truncated(low.mapping(z), 0.7)  # type: ignore[attr-defined]
    assert torch.equal(shared, FeatureSwap(low, high, resolution).synthesis(w, w))
    assert not torch.equal(shared, drawn)


def test_a_swap_with_itself_is_nothing() -> None:
    a = live(make(1))
    z = latents(a, [0, 1])
    assert torch.equal(FeatureSwap(a, a, 8).sample(z), a.sample(z))
    assert torch.equal(blend(a, a, Recipe(8, width=1.0)).sample(z), a.sample(z))


def test_the_command_swaps_features(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "explore",
        "swap",
        str(files / "a.safetensors"),
        str(files / "run"),
        "--resolution",
        "8",
        "--features",
    ]
    assert cli.main([*words, "--sheet", "s.png", "--seeds", "4,1", "--truncation", "0.5", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["by"], answer["out"], answer["shares"]) == ("features", None, None)
    sheet, step = images.read("s.png"), 128 + GAP
    low, high = style.load(files / "a.safetensors"), style.load(files / "run")
    z = latents(low, [4, 1])
    rows = [low.sample(z, 0.5), high.sample(z, 0.5), FeatureSwap(low, high, 8).sample(z, 0.5)]
    for row, pictures in enumerate(rows):
        for column, expected in enumerate(style.to_pixels(pictures)):
            x = sheet.shape[1] - (2 - column) * step
            cell = sheet[TITLE + row * step :, x:][:128:8, :128:8]
            assert np.array_equal(cell, expected), (row, column)
    told = json.loads(Path("s.json").read_text())
    assert told["styles"][1]["file"] == "best.safetensors"
    first = Path("s.png").read_bytes()
    Path("s.png").unlink()
    assert cli.main(shlex.split(told["command"])[1:]) == 0
    assert Path("s.png").read_bytes() == first
    assert load_file("s.latents.safetensors").keys() == {"z", "a.w", "run.w"}


def test_the_command_of_a_swap_of_weights_repeats(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "explore",
        "swap",
        str(files / "a.safetensors"),
        str(files / "b.safetensors"),
        "--resolution",
        "4",
    ]
    words += [
        "--width",
        "0.5",
        "--noise",
        "high",
        "--sheet",
        "s.png",
        "--out",
        "s.safetensors",
        "--seeds",
        "0-2",
    ]
    assert cli.main(words) == 0
    assert "geometries apart: 0." in capsys.readouterr().out
    first = Path("s.png").read_bytes(), load_file("s.safetensors")
    command = json.loads(Path("s.json").read_text())["command"]
    Path("s.safetensors").unlink()
    assert cli.main(shlex.split(command)[1:]) == 0
    second = load_file("s.safetensors")
    assert Path("s.png").read_bytes() == first[0]
    assert all(torch.equal(first[1][name], second[name]) for name in first[1])


# --- do they fit -----------------------------------------------------------------------------------------


def test_the_distance_is_0_for_the_same_and_about_1_for_strangers() -> None:
    a = make(1)
    low = live(a)
    assert distance(low, low) == 0
    small, more = (distance(low, live(near(a, amount))) for amount in (0.05, 0.2))
    assert 0 < small < 0.1 < more < FAR
    strangers = [distance(low, live(make(seed))) for seed in (11, 12, 13)]
    assert all(0.7 < found < 1.4 for found in strangers), strangers


def test_the_distance_by_its_formula() -> None:
    a, b = make(1), near(make(1), 0.4)
    z = latents(live(a), range(32))
    with torch.no_grad():
        w = a.generator.mapping(z)
        parts = []
        for size in (4, 8, 16):
            ours, theirs = (
                one.generator.synthesis.paint(w, "fixed", keep=[size]).colours[size].double()
                for one in (a, b)
            )
            ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
            parts.append((ours - theirs).square().sum() / (ours.square().sum() + theirs.square().sum()))
    assert distance(live(a), live(b)) == pytest.approx(float(sum(parts) / 3), rel=1e-4)


def test_another_palette_is_no_other_geometry() -> None:
    a, b = make(1), make(1)
    with torch.no_grad():
        b.generator.synthesis.block(4).rgb.bias.add_(torch.tensor([3.0, -2.0, 1.0]))
    assert distance(live(a), live(b)) == pytest.approx(0, abs=1e-6)


def test_warnings(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style.write(tmp_path / "stranger.safetensors", make(50), {"framing": "portrait"})
    a = files / "a.safetensors"
    words = ["explore", "swap", str(a), str(tmp_path / "stranger.safetensors"), "--resolution", "8"]
    assert cli.main([*words, "--out", str(tmp_path / "s.safetensors")]) == 0
    told = capsys.readouterr().err
    assert "warning: the geometries are far apart" in told
    assert "LOW draws faces framed ffhq, HIGH portrait" in told
    assert swap(a, files / "b.safetensors", 8, out=tmp_path / "s.safetensors")["notes"] == []
    frozen = near(style.load(a).method, 0.0)
    nn.init.normal_(frozen.generator.synthesis.block(16).conv.weight)
    notes = advice(style.load(a), live(frozen, framing="ffhq"), 8, 0.0)
    assert len(notes) == 1
    assert "up to 8 px are the same" in notes[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.safetensors", "big.safetensors"], ("size", "16", "32")),
        (["translator.safetensors", "a.safetensors"], ("LOW", "ugatit")),
        (["a.safetensors", "translator.safetensors"], ("translator", "ugatit")),
        (["a.safetensors", "nowhere.safetensors"], ("nowhere",)),
        (["a.safetensors", "b.safetensors", "--resolution", "16"], ("16", "4, 8")),
        (["a.safetensors", "b.safetensors", "--resolution", "7"], ("7", "4, 8")),
        (["a.safetensors", "b.safetensors", "--width", "-1"], ("width -1",)),
        (["a.safetensors", "b.safetensors", "--width", "nan"], ("width nan",)),
        (["a.safetensors", "b.safetensors", "--mapping", "both"], ("both",)),
        (["a.safetensors", "b.safetensors", "--features"], ("--features", "s.safetensors")),
        (["a.safetensors", "b.safetensors", "--group", "men"], ("men",)),
        (["a.safetensors", "b.safetensors", "--truncation", "9"], ("9",)),
        (["a.safetensors", "b.safetensors", "--seeds", "x"], ("x",)),
        (["a.safetensors", "b.safetensors", "--sheet", "s.jpg"], ("s.jpg", ".png")),
        (["a.safetensors"], ("HIGH",)),
    ],
)
def test_swap_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    if told[0] == "LOW":
        told = ("translator", *told[1:])
    more = [] if "--resolution" in words else ["--resolution", "4"]
    before = contents(files)
    refused(capsys, "swap", *words, *more, "--out", tmp_path / "s.safetensors", told=told)
    assert list(tmp_path.iterdir()) == []
    assert contents(files) == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mapping_layers": 3}, "layers of the mapping 2 in LOW, 3 in HIGH"),
        ({"style": 4}, "length of w 8 in LOW, 4 in HIGH"),
        ({"latent": 4}, "length of z 8 in LOW, 4 in HIGH"),
        ({"channel_max": 4}, r"channels \[8, 8, 8\] in LOW, \[4, 4, 4\] in HIGH"),
    ],
)
def test_other_layouts_are_refused(settings: dict[str, Any], told: str) -> None:
    low, high = live(make(1)), live(make(2, **settings))
    for attempt in (lambda: blend(low, high, Recipe(4)), lambda: FeatureSwap(low, high, 4)):
        with pytest.raises(Problem, match=told):
            attempt()
    with pytest.raises(Problem, match=told):
        distance(low, high)
    assert (
        blend(low, live(make(2, channels=[8, 8, 8])), Recipe(4)).size == SIZE
    )  # the same plan in other words


def test_swap_writes_over_no_parent(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes((files / f"{name}.safetensors").read_bytes())
    (tmp_path / "c.latents.safetensors").write_bytes((files / "a.safetensors").read_bytes())
    before = contents(tmp_path)
    a, b, c = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.latents.safetensors"))
    refused(capsys, "swap", a, b, "--resolution", "4", "--out", a, told=("parents",))
    refused(capsys, "swap", c, b, "--resolution", "4", "--sheet", tmp_path / "c.png", told=("parents",))
    d = tmp_path / "d.latents.safetensors"
    refused(
        capsys, "swap", a, b, "--resolution", "4", "--sheet", tmp_path / "d.png", "--out", d, told=("sheet",)
    )
    refused(capsys, "swap", a, b, "--resolution", "4", told=("--out", "--sheet"))
    refused(
        capsys, "swap", a, b, "--resolution", "4", "--out", tmp_path / "x.pt", told=("x.pt", ".safetensors")
    )
    for option in (["--width", "1"], ["--rgb", "low"], ["--noise", "low"], ["--constant", "low"]):
        words = ["swap", a, b, "--resolution", "4", "--features", "--sheet", tmp_path / "s.png", *option]
        refused(capsys, *words, told=(option[0], "--features"))
    refused(capsys, "swap", a, b, "--out", d, told=("--resolution",))
    assert contents(tmp_path) == before


def test_the_examples_parse(capsys: pytest.CaptureFixture[str]) -> None:
    parser = arguments.parser(cli.VERBS)
    for words in (["explore"], *(["explore", tool] for tool in ("sample", "mix", "chain", "swap"))):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--help"])
        assert stop.value.code == 0
        example = capsys.readouterr().out.split("example:\n  fewtoon ")[1].split()
        assert example[: len(words)] == words
        parser.parse_args(example)
    text = (Path(__file__).parents[1] / "docs" / "explore.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).splitlines()
    assert len(lines) >= 8
    for line in lines:
        args = parser.parse_args(shlex.split(line)[1:])
        assert args.run in [tool.run for tool in explore.TOOLS.values()]

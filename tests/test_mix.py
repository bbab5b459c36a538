"""Style mixing: the published picture, what is whose, tables, records. Tiny random networks, 16 px."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from asking import refused
from fewtoon import cli, style
from fewtoon.engine.preview import GAP, TITLE
from fewtoon.errors import Problem
from fewtoon.io import images, stylegan
from fewtoon.latent.mix import channels_of, mix, mixed
from fewtoon.latent.sample import sample
from fewtoon.latent.seeds import latents
from fewtoon.nets.stylegan2 import Generator
from generators import make
from test_latent import contents, near

REFERENCE = os.environ.get("FEWTOON_REFERENCE", Path(__file__).parents[2] / "shared" / "reference")
ROOT = Path(REFERENCE) / "stylegan2"
STEP = 128 + GAP  # of a sheet's cells


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b are of one origin; sg has source's codes first; grouped has groups; big, wide, translator do not fit."""
    folder = tmp_path_factory.mktemp("styles")
    a = make(1)
    for name, method in {
        "a": a,
        "b": near(a),
        "sg": make(4, freeze_styles=3),
        "grouped": make(2, ("women", "men"), conditional=True),
        "big": make(3, size=32, freeze_styles=2),
        "wide": make(3, style=12),
    }.items():
        style.write(folder / f"{name}.safetensors", method, {})
    from fewtoon import config, methods

    kind = methods.find("ugatit")
    settings = config.section(kind.Config, {"channels": 4, "blocks": 1}, "model")
    style.write(folder / "translator.safetensors", kind(settings, 16, [], training=False), {})
    sample([folder / "a.safetensors"], folder / "sampled", seeds=[5, 6])
    sample([folder / "big.safetensors"], folder / "of_big", seeds=[5])
    return folder


def cell(sheet: np.ndarray, row: int, column: int, columns: int) -> np.ndarray:
    """The 16 px picture in a cell of a table with so many columns in all."""
    top, left = TITLE + row * STEP, sheet.shape[1] - (columns - column) * STEP
    return sheet[top : top + 128, left : left + 128][::8, ::8]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the function ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not ROOT.is_dir(), reason=f"no golden values at {ROOT}; set FEWTOON_REFERENCE")
def test_the_published_mixture() -> None:
    found = stylegan.read(ROOT / "rosinality_64.pt")
    m = found.model
    drawer = Generator(found.size, m["channels"], m["latent"], m["style"], m["mapping_layers"], m["clamp"])
    state = found.networks["generator"]
    drawer.load_state_dict({"mapping.average": drawer.mapping.average, **state})
    values = {key: torch.from_numpy(value) for key, value in np.load(ROOT / "rosinality_64.npz").items()}
    with torch.no_grad():
        a, b = (drawer.mapping(values[z])[:, None].expand(-1, drawer.codes, -1) for z in ("z", "z2"))
        image = drawer.synthesis(mixed(a, b, range(4, drawer.codes)), "fixed")
        other = drawer.synthesis(mixed(a, b, range(3, drawer.codes)), "fixed")
    expected = values["image_mix_from_layer_4"]
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)
    assert (other - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    ("layers", "channels"),
    [([0], None), ([4, 5], None), ([1, 3], range(2, 5)), (range(6), range(7, 8)), (range(6), None)],
)
def test_what_is_chosen_is_the_others_and_the_rest_is_untouched(layers: Any, channels: Any) -> None:
    a, b = random(3, 6, 8), random(3, 6, 8, seed=1)
    made = mixed(a, b, layers, channels)
    for layer in range(6):
        for channel in range(8):
            chosen = layer in layers and (channels is None or channel in channels)
            expected = b if chosen else a
            assert torch.equal(made[:, layer, channel], expected[:, layer, channel]), (layer, channel)
    assert torch.equal(a, random(3, 6, 8))
    table = mixed(a[:, None], b[None], layers, channels)
    assert table.shape == (3, 3, 6, 8)
    assert torch.equal(table[2, 2], made[2])


@pytest.mark.parametrize(
    ("layers", "channels", "told"),
    [
        ([6], None, "0 to 5"),
        ([-1], None, "layer -1"),
        ([], None, "at least one"),
        ([2, 2], None, "twice"),
        ([0], range(4, 9), "channels 4-8"),
        ([0], range(0), "channels none"),
    ],
)
def test_what_there_is_not_is_not_mixed(layers: Any, channels: Any, told: str) -> None:
    with pytest.raises(Problem, match=told):
        mixed(random(1, 6, 8), random(1, 6, 8), layers, channels)


def test_codes_of_another_size_are_not_mixed() -> None:
    for other in (random(1, 6, 4), random(1, 8, 8), random(8)):
        with pytest.raises(Problem, match="of one size"):
            mixed(random(1, 6, 8), other, [0])


def test_channels_are_read() -> None:
    assert channels_of("0-255") == range(256)
    assert channels_of(" 7 ") == range(7, 8)
    for text in ("", "x", "5-3", "1,2", "-1", "1-"):
        with pytest.raises(Problem, match="--channels"):
            channels_of(text)


# --- the table -------------------------------------------------------------------------------------------


def test_the_table_has_parents_and_mixtures_of_each_style(files: Path, tmp_path: Path) -> None:
    """Each style maps with its own mapping and truncates towards its own average, once."""
    paths = [files / "a.safetensors", files / "b.safetensors", files / "sg.safetensors"]
    answer = mix(paths, tmp_path, rows=[3, 1], columns=[7, 8, 3], start=2, truncation=0.6, single=True)
    assert answer["layers"] == [2, 3, 4, 5]
    for path in paths:
        sheet = images.read(answer["sheets"][path.stem])
        opened = style.load(path)
        method: Any = opened.method
        average = method.generator.mapping.average.expand(6, 8).clone()
        if path.stem == "sg":
            average[:3] = method.networks()["source_mapping"].average
        w = {}
        for seed in (3, 1, 7, 8):
            mapped = opened.mapping(latents(opened, [seed]))
            mapped = mapped if mapped.ndim == 3 else mapped[:, None].expand(-1, 6, -1)
            w[seed] = average + 0.6 * (mapped - average)
        for row, low in enumerate((3, 1)):
            for column, high in enumerate((7, 8, 3)):
                both = torch.cat([w[low][:, :2], w[high][:, 2:]], 1)
                (expected,) = style.to_pixels(opened.synthesis(both)).astype(int)
                drawn = cell(sheet, row + 1, column + 1, 4).astype(int)
                assert abs(drawn - expected).max() <= 1, (path.stem, row, column)
                alone = images.read(tmp_path / f"{path.stem}-row{row:04d}-column{column:04d}.png")
                assert np.array_equal(alone, drawn)
        for place, seed in (((1, 0), 3), ((2, 0), 1), ((0, 1), 7), ((0, 2), 8), ((0, 3), 3)):
            (expected,) = style.to_pixels(opened.synthesis(w[seed])).astype(int)
            assert abs(cell(sheet, *place, 4).astype(int) - expected).max() <= 1, (path.stem, place)
        assert (cell(sheet, 0, 0, 4) == 255).all()
        assert np.array_equal(cell(sheet, 1, 3, 4), cell(sheet, 1, 0, 4))  # 3 mixed with itself


def test_the_mixtures_are_latents_for_other_tools(files: Path, tmp_path: Path) -> None:
    mix([files / "a.safetensors"], tmp_path / "m", rows=[1, 2], columns=[5, 6], layers="16px", single=True)
    saved = load_file(tmp_path / "m" / "latents.safetensors")
    assert {name: tuple(w.shape) for name, w in saved.items()} == {
        "a.w": (4, 6, 8),
        "a.rows": (2, 6, 8),
        "a.columns": (2, 6, 8),
    }
    file = tmp_path / "m" / "latents.safetensors"
    mix([files / "a.safetensors"], tmp_path / "n", rows=file, columns=[9], layers="all")
    sheet = images.read(tmp_path / "n" / "sheet.png")
    for row in range(4):
        alone = images.read(tmp_path / "m" / f"row{row // 2:04d}-column{row % 2:04d}.png")
        assert np.array_equal(cell(sheet, row + 1, 0, 2), alone)
    assert json.loads((tmp_path / "m" / "mix.json").read_text())["names"] == [
        "1 + 5",
        "1 + 6",
        "2 + 5",
        "2 + 6",
    ]


def test_blocks_are_their_codes_and_channels_alone_are_of_all(files: Path, tmp_path: Path) -> None:
    a = [files / "a.safetensors"]
    asked: list[tuple[dict[str, Any], list[int], slice]] = [
        ({"layers": "4px-8px"}, [0, 1, 2], slice(None)),
        ({"layers": "16px"}, [3, 4, 5], slice(None)),
        ({"layers": [4, 1]}, [1, 4], slice(None)),
        ({"channels": "2-4"}, list(range(6)), slice(2, 5)),
        ({"start": 5, "channels": "0"}, [5], slice(0, 1)),
    ]
    for number, (words, layers, channels) in enumerate(asked):
        out = tmp_path / str(number)
        assert mix(a, out, rows=[1], columns=[2], **words)["layers"] == layers
        saved = load_file(out / "latents.safetensors")
        expected = saved["a.rows"].clone()
        expected[:, layers, channels] = saved["a.columns"][:, layers, channels]
        assert torch.equal(saved["a.w"], expected), words
        assert not torch.equal(saved["a.w"], saved["a.rows"])


def test_groups(files: Path, tmp_path: Path) -> None:
    paths = [files / "grouped.safetensors", files / "a.safetensors"]
    for group in ("women", "men"):
        mix(paths, tmp_path / group, rows=[1], columns=[2], start=2, group=group)
    women, men = contents(tmp_path / "women"), contents(tmp_path / "men")
    assert women["sheet-grouped.png"] != men["sheet-grouped.png"]
    assert women["sheet-a.png"] == men["sheet-a.png"]


@pytest.mark.parametrize(
    "words", [["--from", "3"], ["--layers", "1,4-5", "--channels", "3-6"], ["--channels", "1"]]
)
def test_the_record_repeats_the_command(
    words: list[str],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["explore", "mix", str(files / "a.safetensors"), str(files / "b.safetensors"), "--out", "o ut"]
    given += ["--rows", "2,4-5", "--column-latents", str(files / "sampled" / "latents.safetensors"), *words]
    assert cli.main([*given, "--truncation=-0.5", "--single", "--device", "cpu", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    told = json.loads(Path(answer["record"]).read_text())
    assert told["rows"] == [2, 4, 5]
    assert told["columns"]["file"] == "latents.safetensors"
    first = contents(Path("o ut"))
    assert len(first) == 2 + 2 * 3 * 2 + 2
    for path in Path("o ut").iterdir():
        path.unlink()
    assert cli.main(shlex.split(told["command"])[1:]) == 0
    assert contents(Path("o ut")) == first


def test_names_that_are_alike_have_a_row_each(files: Path, tmp_path: Path) -> None:
    from fewtoon.latent.record import record
    from fewtoon.latent.sources import open_sources

    (source,) = open_sources([files / "a.safetensors"])
    facts = {"names": ["", "x", "x"]}
    record(tmp_path / "r.json", tmp_path / "l.safetensors", [source], [], facts, {"a.w": random(3, 8)})
    answer = mix(
        [files / "a.safetensors"], tmp_path / "o", rows=tmp_path / "l.safetensors", columns=[1], start=1
    )
    assert images.read(answer["sheets"]["a"]).shape[0] == TITLE + 4 * STEP


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.safetensors"], ("--layers", "--from")),
        (["a.safetensors", "--layers", "4-6"], ("4-6", "0 to 5")),
        (["a.safetensors", "--layers", "32px"], ("32px", "16px")),
        (["a.safetensors", "--layers", "x"], ("layers 'x'",)),
        (["a.safetensors", "--from", "6"], ("--from 6", "0 to 5")),
        (["a.safetensors", "--from", "-1"], ("--from -1",)),
        (["a.safetensors", "--from", "1", "--layers", "2"], ("--layers", "--from")),
        (["a.safetensors", "--channels", "4-8"], ("channels 4-8", "0 to 7")),
        (["a.safetensors", "--channels", "much"], ("--channels", "much")),
        (["a.safetensors", "--from", "1", "--rows", "3-1"], ("--rows", "3-1")),
        (["a.safetensors", "--from", "1", "--columns", "2,2"], ("2", "twice")),
        (["a.safetensors", "--from", "1", "--row-latents", ""], ("latents",)),
        (["a.safetensors", "--from", "1", "--rows", "1", "--row-latents", "x"], ("--row-latents",)),
        (["a.safetensors", "--from", "1", "--row-latents", "nowhere"], ("nowhere", "sample")),
        (["a.safetensors", "--from", "1", "--row-latents", "a.safetensors"], ("a.safetensors", "no latents")),
        (
            ["a.safetensors", "--from", "1", "--column-latents", "of_big/latents.safetensors"],
            ("another", "(N, 8)"),
        ),
        (
            ["wide.safetensors", "--from", "1", "--row-latents", "sampled/latents.safetensors"],
            ("another size",),
        ),
        (["a.safetensors", "--from", "1", "--truncation", "7"], ("7",)),
        (["a.safetensors", "--from", "1", "--group", "men"], ("men",)),
        (["a.safetensors", "--from", "1", "--rows", "0-999", "--columns", "0-999"], ("1000 rows", "fewer")),
        (["a.safetensors", "big.safetensors", "--from", "1"], ("16", "32", "big")),
        (["translator.safetensors", "--from", "1"], ("translator", "ugatit")),
        (["--from", "1"], ("STYLE",)),
    ],
)
def test_mix_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    refused(capsys, "mix", *words, "--out", tmp_path / "o", told=told)
    assert not (tmp_path / "o").exists()


def test_out_is_a_folder_that_replaces_nothing_that_is_read(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, kept = files / "a.safetensors", files / "sampled" / "latents.safetensors"
    before = kept.read_bytes()
    refused(capsys, "mix", a, "--from", "1", "--out", a, told=("--out", "folder"))
    refused(capsys, "mix", a, "--from", "1", "--row-latents", kept, "--out", kept.parent, told=("read too",))
    assert kept.read_bytes() == before

"""Samples of a StyleGAN style through styles that translate photos. Tiny random networks, and a scripted finder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from asking import refused
from fewtoon import cli, config, methods, style
from fewtoon.engine.preview import GAP, TITLE
from fewtoon.errors import Problem
from fewtoon.faces import finders, matte
from fewtoon.faces.face import Face
from fewtoon.faces.framing import Square
from fewtoon.io import images
from fewtoon.latent.chain import Link, _nearest, _way, chain, fitted
from fewtoon.latent.mix import mix
from fewtoon.latent.sample import sample
from fewtoon.latent.seeds import latents
from fewtoon.latent.video import walk
from generators import make
from test_latent import contents


class Seer:
    """Finds a face in every picture but those named, at a place that depends on the colours."""

    name, identity = "seer", "seer 1"

    def __init__(self) -> None:
        self.blind: list[np.ndarray] = []
        self.asked = 0

    def __call__(self, picture: np.ndarray) -> list[Face]:
        self.asked += 1
        if any(np.array_equal(picture, one) for one in self.blind):
            return []
        x, y, roll = picture.mean((0, 1)) / 255
        small = Face((1, 1, 3, 4))
        return [small, Face((2 + 4 * x, 3 + 4 * y, 8 + 4 * x, 9 + 4 * y), 40 * (roll - 0.5))]


@pytest.fixture(autouse=True)
def seer(monkeypatch: pytest.MonkeyPatch) -> Seer:
    torch.set_num_threads(1)
    found = Seer()
    monkeypatch.setattr(finders, "choose", lambda specs, side: found)
    monkeypatch.setattr(finders, "notes", lambda specs: [])
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faces, aligned and conditional generate; plain, larger, portrait, ffhq and grouped translate."""
    folder = tmp_path_factory.mktemp("styles")

    def translator(
        name: str, size: int = 16, groups: tuple[str, ...] = (), seed: int = 0, **header: Any
    ) -> None:
        kind = methods.find("groups" if groups else "ugatit")
        torch.manual_seed(seed)
        settings = config.section(kind.Config, {"channels": 4, "blocks": 1}, "model")
        method = kind(settings, size, groups, training=False)
        for tensor in [t for network in method.networks().values() for t in network.parameters()]:
            tensor.data.add_(
                torch.randn(tensor.shape) * 0.1
            )  # what begins at 0, as the vectors of groups, tells too
        style.write(folder / f"{name}.safetensors", method, header)

    style.write(folder / "faces.safetensors", make(1), {})
    style.write(folder / "aligned.safetensors", make(1), {"framing": "ffhq"})
    style.write(folder / "conditional.safetensors", make(2, ("women", "men"), conditional=True), {})
    style.write(folder / "big.safetensors", make(3, size=32, freeze_styles=2), {})
    translator("plain")
    translator("larger", size=24, seed=1)
    translator("portrait", seed=2, framing="portrait", pad="white")
    translator("ffhq", seed=3, framing="ffhq")
    translator("white", seed=3, framing="ffhq", whiten="mediapipe")
    translator("grouped", groups=("kids", "women", "men"), seed=7)
    sample([folder / "faces.safetensors"], folder / "sampled", seeds=[5, 6])
    sample([folder / "big.safetensors"], folder / "of_big", seeds=[5])
    return folder


def samples(path: Path, seeds: list[int], truncation: float = 1.0) -> np.ndarray:
    opened = style.load(path)
    return style.to_pixels(opened.sample(latents(opened, seeds), truncation))


def cell(sheet: np.ndarray, row: int, column: int, columns: int, size: int = 128) -> np.ndarray:
    top, left = TITLE + row * (size + GAP), sheet.shape[1] - (columns - column) * (size + GAP)
    return sheet[top : top + size, left : left + size]


def test_as_is_styles_draw_the_resized_samples(files: Path, tmp_path: Path, seer: Seer) -> None:
    names = ["plain", "larger"]
    paths = [files / f"{name}.safetensors" for name in names]
    answer = chain(files / "faces.safetensors", paths, tmp_path, seeds=[3, 8, 0], truncation=0.7, single=True)
    pictures = samples(files / "faces.safetensors", [3, 8, 0], 0.7)
    sheet = images.read(answer["sheet"])
    for column, (seed, picture) in enumerate(zip((3, 8, 0), pictures)):
        assert np.array_equal(images.read(tmp_path / f"seed{seed:04d}.png"), picture)
        whole = 24 * 6  # the size of all cells: 24 px, magnified
        assert np.array_equal(cell(sheet, 0, column, 3, whole)[::6, ::6], fitted(picture, 24))
        for row, path in enumerate(paths, 1):
            translator = style.load(path)
            photo = images.resize_square(picture, translator.size)
            (expected,) = style.to_pixels(translator.translate(style.to_tensor(photo[None])))
            drawn = images.read(tmp_path / f"seed{seed:04d}-{path.stem}.png")
            assert np.array_equal(drawn, expected), (seed, path.stem)
            assert np.array_equal(cell(sheet, row, column, 3, whole)[::6, ::6], fitted(drawn, 24))
    assert len(contents(tmp_path)) == 3 * 3 + 3
    assert seer.asked == 0
    assert answer["notes"] == []
    saved = load_file(tmp_path / "latents.safetensors")
    assert {name: tuple(t.shape) for name, t in saved.items()} == {"faces.w": (3, 6, 8), "faces.z": (3, 8)}


def test_faces_are_framed_as_the_translator_was_trained(files: Path, tmp_path: Path, seer: Seer) -> None:
    """Exactly what `draw` makes of the sample as a photo; where there is no face, nothing, and it goes on."""
    pictures = samples(files / "aligned.safetensors", [0, 1, 2])
    seer.blind = [pictures[1]]
    paths = [files / "portrait.safetensors", files / "ffhq.safetensors"]
    answer = chain(files / "aligned.safetensors", paths, tmp_path, seeds=[0, 1, 2], single=True)
    assert seer.asked == 3  # for portrait alone: the other's framing is that of the samples
    assert answer["missing"] == {"portrait": ["1"], "ffhq": []}
    assert answer["notes"][0].startswith("portrait: no face was found in 1 of 3 pictures (1)")
    sheet = images.read(answer["sheet"])
    portrait, ffhq = (style.load(path) for path in paths)
    for column in (0, 2):
        expected = np.asarray(portrait.draw(pictures[column]))
        assert np.array_equal(images.read(tmp_path / f"seed{column:04d}-portrait.png"), expected)
        assert np.array_equal(cell(sheet, 2, column, 3)[::8, ::8], expected)
        cutter = portrait.cutter()[0]
        seen = cutter.cut(pictures[column], [seer(pictures[column])[1]])[0].pixels
        assert np.array_equal(cell(sheet, 1, column, 3)[::8, ::8], seen)
        assert not np.array_equal(seen, pictures[column])
    assert (cell(sheet, 1, 1, 3) == 255).all()
    assert (cell(sheet, 2, 1, 3) == 255).all()
    assert not (tmp_path / "seed0001-portrait.png").exists()
    for column in range(3):
        (expected,) = style.to_pixels(ffhq.translate(style.to_tensor(pictures[column][None])))
        assert np.array_equal(cell(sheet, 3, column, 3)[::8, ::8], expected)


def test_another_framing(files: Path, tmp_path: Path, seer: Seer) -> None:
    faces, plain, portrait = (files / f"{name}.safetensors" for name in ("faces", "plain", "portrait"))
    chain(faces, [portrait], tmp_path / "whole", seeds=[0], framing="as-is", single=True)
    assert seer.asked == 0
    (picture,) = samples(faces, [0])
    (expected,) = style.to_pixels(style.load(portrait).translate(style.to_tensor(picture[None])))
    assert np.array_equal(images.read(tmp_path / "whole" / "seed0000-portrait.png"), expected)
    chain(faces, [plain], tmp_path / "framed", seeds=[0], framing="ffhq", single=True)
    assert seer.asked == 1
    expected = np.asarray(style.load(plain).draw(picture, framing="ffhq"))
    assert np.array_equal(images.read(tmp_path / "framed" / "seed0000-plain.png"), expected)
    answer = chain(files / "aligned.safetensors", [plain], tmp_path / "told", seeds=[0])
    assert answer["notes"] == ["plain: takes pictures as they are: those framed ffhq are only resized"]


def test_backgrounds_are_made_white_as_in_training(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left:
        name = identity = "left"

        def __call__(self, crop: np.ndarray) -> np.ndarray:
            alpha = np.zeros(crop.shape[:2], np.uint8)
            alpha[:, :8] = 255
            return alpha

    monkeypatch.setattr(matte, "open_matte", lambda spec: Left())
    aligned, white = files / "aligned.safetensors", files / "white.safetensors"
    answer = chain(aligned, [white], tmp_path, seeds=[4])
    sheet = images.read(answer["sheet"])
    (picture,) = samples(aligned, [4])
    expected = np.asarray(style.load(white).draw(picture, framing="as-is"))
    assert np.array_equal(cell(sheet, 2, 0, 1)[::8, ::8], expected)
    assert (expected[:, 9:] == 255).all()
    seen = cell(sheet, 1, 0, 1)[::8, ::8]
    assert np.array_equal(seen[:, :7], picture[:, :7])
    assert (seen[:, 9:] == 255).all()


def test_groups(files: Path, tmp_path: Path) -> None:
    faces, grouped, plain = (files / f"{name}.safetensors" for name in ("faces", "grouped", "plain"))
    translator = style.load(grouped)
    photos = style.to_tensor(samples(faces, [0, 1, 2, 3]))
    read = translator.guess(photos)
    assert len(set(read)) > 1
    auto = style.to_pixels(translator.translate(photos))
    for group in (None, "auto", "women", "men"):
        out = tmp_path / str(group)
        answer = chain(faces, [grouped, plain], out, seeds=range(4), group=group, single=True)
        own = group not in (None, "auto")
        expected = style.to_pixels(translator.translate(photos, group)) if own else auto
        for seed in range(4):
            assert np.array_equal(images.read(out / f"seed{seed:04d}-grouped.png"), expected[seed])
        assert answer["read_as"] == {"grouped": [group] * 4 if own else read}
    women, men = contents(tmp_path / "women"), contents(tmp_path / "men")
    assert women["seed0000-grouped.png"] != men["seed0000-grouped.png"]
    assert women["seed0000-plain.png"] == men["seed0000-plain.png"]


def test_the_groups_of_the_source(files: Path, tmp_path: Path) -> None:
    conditional, plain = files / "conditional.safetensors", files / "plain.safetensors"
    for group in ("women", "men"):
        chain(conditional, [plain], tmp_path / group, seeds=[1], source_group=group, single=True)
        opened = style.load(conditional)
        (expected,) = style.to_pixels(opened.sample(latents(opened, [1]), group=group))
        assert np.array_equal(images.read(tmp_path / group / "seed0001.png"), expected)


def test_latents_instead_of_seeds(files: Path, tmp_path: Path) -> None:
    faces, plain = files / "faces.safetensors", files / "plain.safetensors"
    mix([faces], tmp_path / "mixed", rows=[1], columns=[2, 3], start=3, truncation=0.6, single=True)
    file = tmp_path / "mixed" / "latents.safetensors"
    chain(faces, [plain], tmp_path / "o", latents_file=file, truncation=0.6, single=True)
    for number in range(2):
        expected = images.read(tmp_path / "mixed" / f"row0000-column{number:04d}.png")
        assert np.array_equal(images.read(tmp_path / "o" / f"code{number:04d}.png"), expected)
    assert json.loads((tmp_path / "o" / "chain.json").read_text())["names"] == ["1 + 2", "1 + 3"]


# --- video -----------------------------------------------------------------------------------------------


def test_the_square_goes_evenly_and_bridges_gaps() -> None:
    places = [Square(10, 4, 30, 170), None, Square(20, 8, 50, -170), None]
    way = _way(places, 16)
    assert way[0] == places[0]
    assert way[4] == pytest.approx(Square(15, 6, 40, 180))  # the shorter way round, through 180 degrees
    assert way[8] == pytest.approx(Square(20, 8, 50, 190))
    assert way[12] == way[4]
    assert way[6] == pytest.approx(Square(17.5, 7, 45, 185))
    assert _way([None, None], 5) == [None] * 5
    assert _way([None, places[0]], 4) == [places[0]] * 4
    assert [_nearest(["a", None, None, "b"], k) for k in range(4)] == ["a", "a", "b", "b"]
    assert _nearest([None, None], 1) is None


def test_the_video_meets_the_sheet(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seer: Seer
) -> None:
    """No face is looked for in frames; the group changes once between two columns."""
    shown: list[np.ndarray] = []
    monkeypatch.setattr("fewtoon.latent.chain.save_video", lambda path, frames, fps: shown.extend(frames))
    faces, portrait, grouped = (files / f"{name}.safetensors" for name in ("faces", "portrait", "grouped"))
    seer.blind = [samples(faces, [1])[0]]
    answer = chain(
        faces, [portrait, grouped], tmp_path / "o", seeds=[0, 1, 2], video=tmp_path / "v.webp", frames=12
    )
    assert seer.asked == 3
    assert len(shown) == 12
    sheet = images.read(answer["sheet"])
    for column, frame in ((0, shown[0]), (2, shown[8])):
        for row in range(4):
            still = cell(sheet, row, column, 3)
            assert np.array_equal(frame[:, 128 * row : 128 * (row + 1)], still), (row, column)
    assert (cell(sheet, 1, 1, 3) == 255).all()
    assert not (shown[4][:, 128:256] == 255).all()  # between the places of its neighbours
    translator, opened = style.load(grouped), style.load(faces)
    w = walk(opened.mapping(latents(opened, [0, 1, 2])), 12)
    photos = style.to_tensor(style.to_pixels(opened.synthesis(w)))
    read = answer["read_as"]["grouped"]
    assert read[0] != read[1]
    named = [read[k] for k in (0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0)]
    drawings = style.to_pixels(translator.translate(photos, named))
    for frame, drawing in zip(shown, drawings, strict=True):
        assert np.array_equal(frame[::8, 3 * 128 :: 8], drawing)


def test_no_face_at_all(files: Path, tmp_path: Path, seer: Seer) -> None:
    faces, portrait = files / "faces.safetensors", files / "portrait.safetensors"
    seer.blind = list(samples(faces, [0, 1]))
    answer = chain(faces, [portrait], tmp_path / "o", seeds=[0, 1], video=tmp_path / "v.webp", frames=4)
    assert answer["missing"] == {"portrait": ["0", "1"]}
    with Image.open(tmp_path / "v.webp") as film:
        assert film.n_frames == 4  # type: ignore[attr-defined]
        assert (np.asarray(film.convert("RGB"))[:, 136:] > 250).all()


def test_too_many_for_a_sheet(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 330 * 320)
    faces, plain = files / "faces.safetensors", files / "plain.safetensors"
    answer = chain(faces, [plain], tmp_path, seeds=range(5), columns=2, single=True)
    assert "the first 2" in answer["notes"][0]
    assert len(answer["pictures"]) == 10
    assert images.read(answer["sheet"]).shape[0] == TITLE + 2 * (128 + GAP)


# --- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_file", [False, True])
def test_the_record_repeats_the_command(
    from_file: bool,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "faces" if from_file else "conditional"
    kept = files / "sampled" / "latents.safetensors"
    which = ["--latents", str(kept)] if from_file else ["--seeds", "2-4", "--source-group", "men"]
    names = [source, "grouped", "portrait"]
    words = ["explore", "chain", *(str(files / f"{name}.safetensors") for name in names), *which]
    words += ["--out", "o ut", "--truncation=-0.5", "--group", "men", "--columns", "3", "--single"]
    words += ["--video", "v.webp", "--frames", "5", "--fps", "12", "--framing", "portrait", "--device", "cpu"]
    assert cli.main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    told = json.loads(Path(answer["record"]).read_text())
    assert [one["name"] for one in told["styles"]] == names
    first = {**contents(Path("o ut")), "v": Path("v.webp").read_bytes()}
    for path in [*Path("o ut").iterdir(), Path("v.webp")]:
        path.unlink()
    assert cli.main(shlex.split(told["command"])[1:]) == 0
    assert {**contents(Path("o ut")), "v": Path("v.webp").read_bytes()} == first


def test_notes_are_told(files: Path, tmp_path: Path, seer: Seer, capsys: pytest.CaptureFixture[str]) -> None:
    faces, portrait = files / "faces.safetensors", files / "portrait.safetensors"
    seer.blind = list(samples(faces, [1]))
    words = ["explore", "chain", faces, portrait, "--seeds", "0,1", "--out", tmp_path / "o"]
    assert cli.main([str(word) for word in words]) == 0
    assert "no face was found in 1 of 2 pictures (1)" in capsys.readouterr().err


def test_equal_names_are_told_apart(files: Path, tmp_path: Path) -> None:
    (tmp_path / "faces.safetensors").write_bytes((files / "plain.safetensors").read_bytes())
    twice = [tmp_path / "faces.safetensors"] * 2
    chain(files / "faces.safetensors", twice, tmp_path / "o", seeds=[0], single=True)
    assert {"seed0000.png", "seed0000-faces-2.png", "seed0000-faces-3.png"} <= contents(tmp_path / "o").keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plain.safetensors", "plain.safetensors"], ("plain", "ugatit", "stylegan")),
        (["faces.safetensors", "aligned.safetensors"], ("aligned", "translates no photos")),
        (["faces.safetensors", "plain.safetensors", "faces.safetensors"], ("faces", "translates no photos")),
        (["faces.safetensors"], ("TRANSLATOR",)),
        (["faces.safetensors", "nowhere"], ("nowhere",)),
        (["faces.safetensors", "plain.safetensors", "--latents", "nowhere"], ("nowhere",)),
        (
            ["faces.safetensors", "plain.safetensors", "--latents", "of_big/latents.safetensors"],
            ("another size",),
        ),
        (["faces.safetensors", "plain.safetensors", "--latents", "plain.safetensors"], ("no latents",)),
        (["faces.safetensors", "plain.safetensors", "--latents", "x", "--seeds", "1"], ("--latents",)),
        (["faces.safetensors", "plain.safetensors", "--seeds", "3-1"], ("3-1",)),
        (["faces.safetensors", "plain.safetensors", "--truncation", "nan"], ("nan",)),
        (["faces.safetensors", "plain.safetensors", "--group", "men"], ("men", "alike")),
        (["faces.safetensors", "grouped.safetensors", "--group", "mne"], ("mne", "'men'")),
        (["faces.safetensors", "plain.safetensors", "--source-group", "men"], ("men",)),
        (["faces.safetensors", "plain.safetensors", "--framing", "wide"], ("wide", "portrait")),
        (["faces.safetensors", "plain.safetensors", "--columns", "0"], ("columns 0",)),
        (["faces.safetensors", "plain.safetensors", "--frames", "9"], ("--video",)),
        (["faces.safetensors", "plain.safetensors", "--video", "v.gif"], ("v.gif",)),
        (["faces.safetensors", "plain.safetensors", "--video", "v.webp", "--seeds", "3"], ("one seed",)),
        (["faces.safetensors", "plain.safetensors", "--video", "v.webp", "--frames", "99999"], ("99999",)),
    ],
)
def test_chain_refuses(
    words: list[str],
    told: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    refused(capsys, "chain", *words, "--out", tmp_path / "o", told=told)
    assert not (tmp_path / "o").exists()
    assert not list(files.glob("v.*"))


def test_out_is_a_folder_that_replaces_nothing_that_is_read(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces, plain, kept = (files / name for name in ("faces.safetensors", "plain.safetensors", "sampled"))
    before = contents(kept)
    refused(capsys, "chain", faces, plain, "--out", plain, told=("--out", "folder"))
    latents_file = kept / "latents.safetensors"
    refused(capsys, "chain", faces, plain, "--latents", latents_file, "--out", kept, told=("read too",))
    assert contents(kept) == before


def test_a_link_of_a_style_that_generates() -> None:
    with pytest.raises(Problem, match="stylegan translates no photos"):
        Link(style.Style(make(1), {}, "cpu", "fp32"))

"""The Style file and what draws with it: one photo, many photos on disk, and every kind of damaged file."""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import fewtoon
from asking import one_line
from fewtoon import config, methods, style
from fewtoon.draw import translate
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash
from fewtoon.latent.swap import swap
from fewtoon.methods.base import Method
from fewtoon.methods.ugatit import UGATIT
from fewtoon.nets.stylegan2 import Discriminator
from fewtoon.style import Style

SIZE = 16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def method() -> Method:
    torch.manual_seed(0)
    kind = methods.find("ugatit")
    settings = config.section(kind.Config, {"channels": 4, "blocks": 1}, "model")
    return kind(settings, SIZE, ["a", "b"], training=False)


@pytest.fixture(scope="module")
def file(method: Method, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("style") / "style.safetensors"
    facts = {"step": 5, "licence": {"photos": ["with consent"]}, "metrics": {"kid": 1.5, "features": "tiny"}}
    style.write(path, method, facts)
    return path


@pytest.fixture(scope="module")
def artist(file: Path) -> Style:
    return fewtoon.load(file, device="cpu")


def photo(number: int = 0, width: int = 24, height: int = 20) -> Image.Image:
    """A smooth picture in colour."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


# --- one photo -------------------------------------------------------------------------------------------

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def in_mode(mode: str) -> Image.Image:
    if mode in DEEP:
        return Image.new(mode, (20, 24), 100)
    picture = photo()
    via = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "PA": "P"}.get(mode)
    return (
        (picture.convert(via) if via else picture).convert(mode)
        if mode != "LAB"
        else Image.new(mode, (20, 24))
    )


@pytest.mark.parametrize("mode", MODES + DEEP)
def test_every_mode_of_pillow_is_drawn(artist: Style, mode: str) -> None:
    drawn = artist.draw(in_mode(mode))
    assert drawn.mode == "RGB"
    assert drawn.size == (SIZE, SIZE)


def test_transparency_is_drawn_on_white(artist: Style) -> None:
    clear = Image.new("RGBA", (20, 20), (10, 200, 30, 0))
    assert artist.draw(clear).tobytes() == artist.draw(Image.new("RGB", (20, 20), "white")).tobytes()


def test_an_array_is_drawn_as_the_picture_it_holds(artist: Style) -> None:
    pixels = np.asarray(photo())
    expected = artist.draw(photo()).tobytes()
    assert artist.draw(pixels).tobytes() == expected
    assert artist.draw(pixels[:, ::-1][:, ::-1]).tobytes() == expected  # negative strides
    assert artist.draw(Image.fromarray(pixels)).tobytes() == expected
    assert not pixels.flags.writeable  # and was not needed to be


def test_the_middle_of_a_wide_photo_is_drawn(artist: Style) -> None:
    wide = np.zeros((SIZE, 3 * SIZE, 3), np.uint8)
    wide[:, SIZE : 2 * SIZE] = np.asarray(photo(1, SIZE, SIZE))
    assert artist.draw(wide).tobytes() == artist.draw(photo(1, SIZE, SIZE)).tobytes()


def test_a_photo_is_drawn_upright(artist: Style) -> None:
    turned = photo(2, SIZE, SIZE).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 270 degrees
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    assert artist.draw(Image.open(file)).tobytes() == artist.draw(photo(2, SIZE, SIZE)).tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "photo.png",
        [[1, 2], [3]],
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
        Image.new("RGB", (0, 5)),
        Image.fromarray(np.full((8, 8), np.nan, np.float32)),
        torch.zeros(8, 8, 3, requires_grad=True),
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_photo_is_refused(artist: Style, wrong: Any) -> None:
    one_line(lambda: artist.draw(wrong))


def test_a_photo_torn_or_closed_is_refused(artist: Style) -> None:
    file = io.BytesIO()
    photo(0, 200, 200).save(file, "JPEG")
    torn = Image.open(io.BytesIO(file.getvalue()[:900]))  # Pillow notices only when it decodes
    one_line(lambda: artist.draw(torn), "cannot be read")
    closed = Image.open(file)
    closed.close()
    one_line(lambda: artist.draw(closed), "cannot be read")


def test_tensors_of_the_wrong_kind_are_refused(artist: Style) -> None:
    right = torch.zeros(1, 3, SIZE, SIZE)
    wrong: Any
    for wrong in (right[0], right[:, :2], right[..., 1:], right.byte(), right.numpy(), None):
        one_line(partial(artist.translate, wrong), f"(B, 3, {SIZE}, {SIZE})")
    assert artist.translate(right[:0]).shape == (0, 3, SIZE, SIZE)
    for kind in (torch.float16, torch.float64):
        assert artist.translate(right.to(kind)).dtype == torch.float32


def test_groups(artist: Style, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that draws every group alike takes no group; one that does not takes those it knows."""
    assert artist.groups == []
    one_line(lambda: artist.draw(photo(), group="b"), "alike", "'b'")
    monkeypatch.setattr(UGATIT, "grouped", True)
    artist = fewtoon.load(file, "cpu")
    assert artist.groups == ["a", "b"]
    assert artist.draw(photo(), group="b").size == (SIZE, SIZE)
    one_line(lambda: artist.draw(photo(), group="bb"), "'bb'", "did you mean 'b'")
    one_line(lambda: artist.translate(torch.zeros(1, 3, SIZE, SIZE), "old"), "'old'", "known: a, b")


def test_the_network_always_sees_the_same_shape(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are chosen by shape, and round differently: a photo's neighbours must not change it."""
    loaded = fewtoon.load(file, "cpu")
    shapes: set[tuple[int, ...]] = set()
    draw = loaded.method.translate

    def watched(photos: Tensor, group: str | None) -> Tensor:
        shapes.add(tuple(photos.shape))
        return draw(photos, group)

    monkeypatch.setattr(loaded.method, "translate", watched)
    for count in (1, 3, 8, 9):
        assert len(loaded.translate(torch.zeros(count, 3, SIZE, SIZE))) == count
    assert len(shapes) == 1


def test_every_level_survives_the_way_to_a_tensor_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    tensor = style.to_tensor(levels)
    assert tensor.min() == -1
    assert tensor.max() == 1
    assert np.array_equal(style.to_pixels(tensor), levels)
    assert style.to_pixels(torch.tensor([-2.0, 2.0, 0.0]).view(1, 3, 1, 1)).ravel().tolist() == [0, 255, 128]


def test_bf16_is_close(file: Path) -> None:
    photos = style.to_tensor(np.asarray(photo(3, SIZE, SIZE))[None])
    exact = style.load(file, "cpu").translate(photos)
    rounded = style.load(file, "cpu", "bf16").translate(photos)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().mean() < 0.05


# --- photos on disk --------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub" / "deep").mkdir(parents=True)
    for number, name in enumerate(
        ["1.png", "2.png", "3.jpg", "sub/1.png", "sub/deep/1.bmp", "x.jpg", "x.png"]
    ):
        photo(number, 30, 24).save(folder / name)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_drawings_do_not_depend_on_the_batch(artist: Style, photos: Path, tmp_path: Path) -> None:
    trees = []
    for batch in (1, 3, 8):
        result = translate(artist, [photos], tmp_path / str(batch), batch=batch)
        assert result["refused"] == []
        trees.append(tree(tmp_path / str(batch)))
        assert set(result["drawn"]) == set(trees[-1])
    assert trees[0] == trees[1] == trees[2]
    assert len(set(trees[0].values())) == 7


def test_names_and_sub_folders_are_kept(artist: Style, photos: Path, tmp_path: Path) -> None:
    translate(artist, photos, tmp_path / "out")
    names = {"1.png", "2.png", "3.png", "sub/1.png", "sub/deep/1.png", "x.jpg.png", "x.png.png"}
    assert set(tree(tmp_path / "out")) == names
    drawn = Image.open(tmp_path / "out" / "x.png.png")
    assert drawn.tobytes() == artist.draw(Image.open(photos / "x.png")).tobytes()


def test_names_never_overwrite_each_other(artist: Style, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = ["a.jpg", "a.png", "a.jpg.png", "a-2.png", "A.png", "a.png.png"]
    for number, name in enumerate(names):
        photo(number).save(folder / name)
    result = translate(artist, folder, tmp_path / "out")
    assert len(set(result["drawn"])) == len(names) == len(tree(tmp_path / "out"))
    other = tmp_path / "other" / "photos"  # two folders of the same name
    other.mkdir(parents=True)
    photo(9).save(other / "a.png")
    result = translate(artist, [folder, other], tmp_path / "both")
    assert len(set(result["drawn"])) == len(names) + 1 == len(tree(tmp_path / "both"))


def test_side_by_side(artist: Style, photos: Path, tmp_path: Path) -> None:
    translate(artist, photos / "1.png", tmp_path / "out", side_by_side=True)
    pair = Image.open(tmp_path / "out" / "1.png")
    assert pair.size == (2 * SIZE, SIZE)
    drawn = pair.crop((SIZE, 0, 2 * SIZE, SIZE))
    assert drawn.tobytes() == artist.draw(Image.open(photos / "1.png")).tobytes()
    left = np.asarray(pair.crop((0, 0, SIZE, SIZE))).astype(int)
    plain = Image.open(photos / "1.png").crop((3, 0, 27, 24)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.abs(left - np.asarray(plain)).max() <= 1


def test_an_unreadable_photo_does_not_stop_the_rest(artist: Style, photos: Path, tmp_path: Path) -> None:
    (photos / "0-first.jpg").write_bytes(b"this is a text")
    (photos / "empty.png").write_bytes(b"")
    torn = (photos / "3.jpg").read_bytes()
    (photos / "torn.jpg").write_bytes(torn[: len(torn) // 2])
    (photos / "film.mp4").write_bytes(b"film")
    result = translate(artist, photos, tmp_path / "out", batch=1)
    assert len(result["drawn"]) == 7 == len(tree(tmp_path / "out"))
    refused = {Path(one["file"]).name: one["reason"] for one in result["refused"]}
    assert set(refused) == {"0-first.jpg", "empty.png", "torn.jpg", "film.mp4"}
    assert all(refused.values())


def test_nothing_to_draw_is_a_problem(artist: Style, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one_line(lambda: translate(artist, [tmp_path / "none"], out), "does not exist")
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "empty", str(tmp_path / "empty"), [tmp_path / "empty"]):
        one_line(partial(translate, artist, empty, out), f"no picture in {tmp_path / 'empty'};")
    (tmp_path / "bad.png").write_bytes(b"bad")
    one_line(lambda: translate(artist, tmp_path / "bad.png", out), "none of 1 pictures", "bad.png")
    one_line(lambda: translate(artist, photos, photos / "1.png"), "is a file")
    one_line(lambda: translate(artist, photos, photos / "1.png" / "below"), "1.png")
    one_line(lambda: translate(artist, photos, out, batch=0), "batch 0")
    one_line(lambda: translate(artist, photos, out, group="c"), "'c'")
    one_line(lambda: translate(tmp_path / "no.safetensors", photos, out), "does not exist")
    assert not out.exists()


def test_a_full_disk_leaves_no_half_drawing(
    artist: Style, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    one_line(lambda: translate(artist, photos, tmp_path / "out"), "No space left on device")
    assert tree(tmp_path / "out") == {}


# --- damaged and foreign files ---------------------------------------------------------------------------


def changed(file: Path, out: Path, tensors: dict[str, Tensor] | None = None, **header: Any) -> Path:
    """The file with other header entries ("gone": without it) and other tensors."""
    entries = {**style.read_header(file), **header}
    entries = {key: value for key, value in entries.items() if value != "gone"}
    held = weights.read(file) if tensors is None else tensors
    save_file(held, out, {"fewtoon": json.dumps(entries)})
    return out


def test_a_missing_file(tmp_path: Path) -> None:
    one_line(lambda: fewtoon.load(tmp_path / "none.safetensors"), "none.safetensors", "does not exist")
    one_line(lambda: fewtoon.load(tmp_path), "best.safetensors")
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.safetensors")
    one_line(lambda: fewtoon.load(name), "does not exist")


@pytest.mark.parametrize("share", [0, 1e-5, 6e-5, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.99999])
def test_a_torn_file(file: Path, tmp_path: Path, share: float) -> None:
    torn = tmp_path / "torn.safetensors"
    data = file.read_bytes()
    torn.write_bytes(data[: int(len(data) * share)])
    one_line(lambda: fewtoon.load(torn), "torn.safetensors", "not a style")


def test_files_that_are_no_styles(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for data in (np.random.default_rng(0).bytes(5000), file.read_bytes() + b"x", b"PK\3\4", b"\xff" * 64):
        path.write_bytes(data)
        one_line(lambda: fewtoon.load(path), "not a style")
    torch.save({"a": torch.zeros(1)}, path)
    one_line(lambda: fewtoon.load(path), "not a style", "fewtoon import")
    save_file({"a": torch.zeros(1)}, path)
    one_line(lambda: fewtoon.load(path), "not a style of fewtoon")
    for text in ("", "{", "[1]", '"x"', "null", "[" * 50_000, json.dumps({"format": "other"})):
        save_file({"a": torch.zeros(1)}, path, {"fewtoon": text})
        one_line(lambda: fewtoon.load(path), "not a style of fewtoon")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"version": 2}, ["version 2", "update fewtoon"]),
        ({"version": "gone"}, ["version None"]),
        ({"method": "ugatti"}, ["'ugatti'", "did you mean 'ugatit'"]),
        ({"method": "base"}, ["'base'"]),
        ({"method": 5}, ["'method'"]),
        ({"size": 3}, ["'size'"]),
        ({"size": 62}, ["size 62", "multiple of 4"]),
        ({"size": "16"}, ["'size'"]),
        ({"size": True}, ["'size'"]),
        ({"size": "gone"}, ["'size'"]),
        ({"groups": "ab"}, ["'groups'"]),
        ({"groups": [1, 2]}, ["'groups'"]),
        ({"groups": [["a"]]}, ["'groups'"]),
        ({"networks": []}, ["'networks'"]),
        ({"networks": [["a"]]}, ["'networks'"]),
        ({"networks": ["photo_to_drawing"]}, ["drawing_to_photo", "damaged"]),
        ({"networks": ["photo_to_drawing", "drawing_to_photo", "other"]}, ["'other'"]),
        ({"model": {"chanels": 4}}, ["model.chanels", "did you mean 'channels'"]),
        ({"model": [1]}, ["model"]),
        ({"model": {"channels": 8, "blocks": 1}}, ["shape"]),
        ({"model": {"channels": 10**6}}, ["model.channels"]),
        ({"model": {"channels": 4, "blocks": 1, "pool": None}, "size": 2048}, ["shape"]),
        ({"size": 400_000}, ["'size'"]),
        ({"source": "somewhere"}, ["'source'"]),
        ({"metrics": "good"}, ["'metrics'"]),
        ({"packs": [1]}, ["'packs'"]),
        ({"licence": 5}, ["'licence'"]),
    ],
    ids=str,
)
def test_a_tampered_header(file: Path, tmp_path: Path, header: dict[str, Any], words: list[str]) -> None:
    path = changed(file, tmp_path / "t.safetensors", **header)
    one_line(lambda: fewtoon.load(path, "cpu"), *words)


def test_tensors_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    tensors = weights.read(file)
    key = "photo_to_drawing.stem.weight"
    path = tmp_path / "t.safetensors"
    less = {k: v for k, v in tensors.items() if k != key}
    one_line(lambda: fewtoon.load(changed(file, path, less)), "'stem.weight'", "photo_to_drawing", "lacks")
    for stray in ("photo_to_drawing.extra", "extra.weight", "extra"):
        more = {**tensors, stray: torch.zeros(1)}
        one_line(partial(fewtoon.load, changed(file, path, more)), "extra")
    for other in (tensors[key][:1].clone(), tensors[key].flatten(1), tensors[key].int()):
        wrong = {**tensors, key: other}
        one_line(partial(fewtoon.load, changed(file, path, wrong)), "'stem.weight'")


def test_half_precision_weights_are_read_as_float32(file: Path, tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in weights.read(file).items()}
    loaded = fewtoon.load(changed(file, tmp_path / "half.safetensors", half), "cpu")
    assert all(p.dtype == torch.float32 for n in loaded.method.networks().values() for p in n.parameters())
    assert loaded.draw(photo()).size == (SIZE, SIZE)


def test_one_direction_is_enough(file: Path, tmp_path: Path, artist: Style) -> None:
    one = {key: value for key, value in weights.read(file).items() if key.startswith("photo_to_drawing.")}
    path = changed(file, tmp_path / "one.safetensors", one, networks=["photo_to_drawing"])
    loaded = fewtoon.load(path, "cpu")
    assert loaded.draw(photo()).tobytes() == artist.draw(photo()).tobytes()
    assert "back again" not in loaded.method.preview(torch.zeros(1, 3, SIZE, SIZE))


def test_devices_and_precisions_that_do_not_exist(file: Path) -> None:
    one_line(lambda: fewtoon.load(file, "cudaa"), "'cudaa'", "'cpu'")
    one_line(lambda: fewtoon.load(file, "meta"), "'meta'")
    one_line(lambda: fewtoon.load(file, "cpu", "fp16"), "'fp16'")
    if not torch.cuda.is_available():
        one_line(lambda: fewtoon.load(file, "cuda"), "'cuda'", "'cpu'")


def test_loading_leaves_the_random_numbers_alone(file: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fewtoon.load(file, "cpu")
    assert torch.equal(torch.rand(3), expected)


# --- the header ------------------------------------------------------------------------------------------


def test_the_header_says_what_it_is(file: Path) -> None:
    header = style.read_header(file)
    assert header["format"] == "fewtoon-style"
    assert (header["method"], header["size"], header["groups"]) == ("ugatit", SIZE, ["a", "b"])
    assert header["fewtoon"] == fewtoon.__version__
    assert header["model"]["channels"] == 4
    text = style.describe(header)
    for word in ("16 px", "ugatit", "Kim", "a, b", "5 steps", "1.50 (features tiny)", "photos: with consent"):
        assert word in text


def generator(seed: int, **settings: Any) -> Any:
    """A small StyleGAN."""
    tiny = {"channels": [8, 8, 4], "latent": 6, "style": 5, "mapping_layers": 2}
    kind = methods.find("stylegan")
    torch.manual_seed(seed)
    return kind(config.section(kind.Config, {**tiny, **settings}, "model"), SIZE, [], training=False)


def test_a_style_that_generates_says_how(tmp_path: Path) -> None:
    made = generator(1)
    style.write(tmp_path / "plain.safetensors", made, {})
    text = style.describe(style.read_header(tmp_path / "plain.safetensors"))
    assert "6 random numbers z" in text
    assert "style codes w: 6 of 5 numbers" in text
    assert f"{sum(p.numel() for p in made.generator.parameters()):,} parameters" in text
    assert "channels at 4, 8 ... 16 px: 8, 8, 4" in text
    assert "without its discriminator" in text
    assert "made of" not in text
    judge = Discriminator(SIZE, [8, 8, 4]).state_dict()
    style.write(tmp_path / "judged.safetensors", made, {}, {"discriminator": judge})
    text = style.describe(style.read_header(tmp_path / "judged.safetensors"))
    assert "with its discriminator" in text
    style.write(tmp_path / "frozen.safetensors", generator(1, freeze_styles=2), {})
    assert "first 2 style codes" in style.describe(style.read_header(tmp_path / "frozen.safetensors"))


def test_a_swapped_style_names_its_parents(tmp_path: Path) -> None:
    for seed, name in enumerate(("faces", "drawings"), 1):
        style.write(tmp_path / f"{name}.safetensors", generator(seed), {"step": 100 * seed})
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    swap(tmp_path / "faces.safetensors", tmp_path / "drawings.safetensors", 8, out=once, width=0.5)
    swap(once, tmp_path / "faces.safetensors", 4, out=twice, mapping="high")
    lines = style.describe(style.read_header(twice)).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("made of two"))
    digests = {p.stem: file_hash(p)[:12] for p in tmp_path.iterdir()}
    rest = "constant low, noise low, rgb blocks"
    assert lines[first : first + 6] == [
        f"made of two by weights: hard switch at 4 px; mapping high, {rest}",
        f"  low, up to there: once.safetensors, sha256 {digests['once']}",
        f"    made of two by weights: smooth switch of width 0.5 at 8 px; mapping low, {rest}",
        f"      low, up to there: faces.safetensors, sha256 {digests['faces']}, trained for 100 steps",
        f"      high, above: drawings.safetensors, sha256 {digests['drawings']}, trained for 200 steps",
        f"  high, above: faces.safetensors, sha256 {digests['faces']}, trained for 100 steps",
    ]


@pytest.mark.parametrize(
    "made_of", ["x", [], {}, {"low": 3, "width": "x"}, {"high": {"made_of": {"low": {}}}}]
)
def test_any_words_on_parents_are_survived(file: Path, made_of: Any) -> None:
    assert "16 px" in style.describe({**style.read_header(file), "made_of": made_of})


# --- saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["fsync", "replace", "open"])
def test_a_full_disk_keeps_the_older_style(
    artist: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "kept.safetensors"
    path.write_bytes(b"what was here")

    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if broken == "open" else f"os.{broken}", full)
        one_line(lambda: artist.save(path), "kept.safetensors", "No space left on device")
    assert tree(tmp_path) == {"kept.safetensors": b"what was here"}
    artist.save(path)
    assert fewtoon.load(path, "cpu").header == artist.header


def test_places_that_cannot_be_written(artist: Style, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    one_line(lambda: artist.save(tmp_path / "file" / "x.safetensors"), "cannot write")
    one_line(lambda: artist.save(tmp_path / ("x" * 300)), "cannot write")
    one_line(lambda: artist.save(tmp_path), "cannot write")
    assert set(tree(tmp_path)) == {"file"}
    artist.save(tmp_path / "new" / "folder" / "x.safetensors")
    assert (tmp_path / "new" / "folder" / "x.safetensors").is_file()


def test_a_style_without_the_network_that_draws_is_refused(tmp_path: Path) -> None:
    method = UGATIT(UGATIT.Config(channels=4, blocks=1), 32, training=False)
    del method.networks()["photo_to_drawing"]
    style.write(tmp_path / "s.safetensors", method, {})
    with pytest.raises(Problem, match="photo_to_drawing"):
        style.load(tmp_path / "s.safetensors", "cpu")


def test_translate_does_not_draw_its_own_drawings_again(tmp_path: Path) -> None:
    method = UGATIT(UGATIT.Config(channels=4, blocks=1), 32, training=False)
    drawer = style.Style(method, {}, "cpu", "fp32")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    for _ in range(2):
        assert fewtoon.translate(drawer, [tmp_path], tmp_path / "drawn")["drawn"] == ["a.png"]
    with pytest.raises(Problem, match="name another folder"):
        fewtoon.translate(drawer, [tmp_path / "drawn"], tmp_path / "drawn")


def test_translate_never_replaces_a_photo(tmp_path: Path) -> None:
    drawer = style.Style(UGATIT(UGATIT.Config(channels=4, blocks=1), 32, training=False), {}, "cpu", "fp32")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(Problem, match="another folder"):
        fewtoon.translate(drawer, [tmp_path / "a.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    method = UGATIT(UGATIT.Config(channels=4, blocks=1), 32, training=False)
    with torch.no_grad():
        next(method.networks()["photo_to_drawing"].parameters()).fill_(float("nan"))
    style.write(tmp_path / "s.safetensors", method, {})
    with pytest.raises(Problem, match="not finite"):
        style.load(tmp_path / "s.safetensors", "cpu")


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    drawer = style.Style(UGATIT(UGATIT.Config(channels=4, blocks=1), 32, training=False), {}, "cpu", "fp32")
    name = 251 * "n" + ".png"
    Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    assert fewtoon.translate(drawer, [tmp_path / name], tmp_path / "drawn")["drawn"] == [name]

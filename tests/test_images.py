"""The door for pictures: every colour mode comes out right, every bad file gets one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.images import BadPicture, find, read, resize_square, save_png, to_rgb


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """(H, W, 3) uint8, smooth, every corner different."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], -1).round().astype(np.uint8)


def encoded(array: np.ndarray, form: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> io.BytesIO:
    """A PNG written by hand: the header may promise anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + extra + data)


# Formats and colour modes


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(form: str) -> None:
    np.testing.assert_array_equal(read(encoded(gradient(), form)), gradient())


def test_webp_and_jpeg_come_back_closely() -> None:
    assert np.abs(read(encoded(gradient(), "JPEG", quality=95)).astype(int) - gradient()).max() < 16
    assert (read(encoded(gradient(), "WEBP", lossless=True)) == gradient()).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "RGBX"]
)
def test_every_mode_of_a_black_and_white_picture(mode: str) -> None:
    grey = np.where(gradient()[..., :1] > 128, 255, 0).repeat(3, -1).astype(np.uint8)
    image = Image.fromarray(grey)
    for step in {"RGBa": ["RGBA", "RGBa"], "La": ["LA", "La"], "PA": ["P", "PA"]}.get(mode, [mode]):
        image = image.convert(step)
    assert image.mode == mode
    result = to_rgb(image)
    assert result.mode == "RGB"
    assert np.abs(np.asarray(result).astype(int) - grey).max() <= 2


def test_lab_is_read_by_its_meaning() -> None:
    colours = np.array([[[255, 0, 0], [0, 128, 0], [40, 40, 200], [128, 128, 128]]] * 8, np.uint8).repeat(
        2, 1
    )
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = to_lab.apply(Image.fromarray(colours))
    file = io.BytesIO()
    lab.save(file, "TIFF")
    assert np.abs(read(file).astype(int) - colours).max() <= 6


def test_alpha_is_laid_on_white() -> None:
    array = np.zeros((16, 16, 4), np.uint8)
    array[..., 0] = 200
    array[:8, :, 3] = 255
    array[8:12, :, 3] = 128
    result = read(encoded(array, "PNG"))
    assert result[0, 0].tolist() == [200, 0, 0]
    assert np.abs(result[9, 0].astype(int) - [227, 127, 127]).max() <= 1
    assert result[15, 0].tolist() == [255, 255, 255]


def test_transparent_palette_entry_is_white() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 3, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=1)
    result = read(file)
    assert result[0, 0].tolist() == [255, 0, 0]
    assert result[0, 1].tolist() == [255, 255, 255]
    assert result[0, 2].tolist() == [0, 0, 255]


def test_transparent_colour_of_rgb_and_grey() -> None:
    grey = np.full((16, 16), 7, np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG", transparency=7)
    assert (read(file) == 255).all()


def test_sixteen_bit_png_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    result = read(encoded(values, "PNG"))
    np.testing.assert_array_equal(result[..., 0], np.rint(values / 257).astype(np.uint8))
    assert (result[..., 0] == result[..., 2]).all()
    # 2000 of 65535 is nearly black; a reader that clips makes it white.
    assert read(encoded(np.full((16, 16), 2000, np.uint16), "PNG")).max() == 8


def test_sixteen_bit_colour_png_and_big_endian_tiff() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x1234, 0x8000, 0xFFFF) * 8 for _ in range(8))
    assert read(png(8, 8, 16, 2, rows))[0, 0].tolist() == [0x12, 0x80, 0xFF]
    file = io.BytesIO()
    Image.frombytes("I;16B", (16, 16), struct.pack(">H", 0x8080) * 256).save(file, "TIFF")
    assert (read(file) == 128).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 100, 255], np.float32), [0, 100, 255]),
        (np.array([-5, 32896, 65535], np.float32), [0, 128, 255]),
        (np.array([0, 100, 255], np.int32), [0, 100, 255]),
        (np.array([0, 32896, 65535], np.int32), [0, 128, 255]),
        (np.array([0, 2**30, 2**31 - 1], np.int32), [0, 128, 255]),
    ],
)
def test_wide_grey_modes(values: np.ndarray, expected: list[int]) -> None:
    image = Image.fromarray(np.tile(values, (9, 4)))
    assert np.asarray(to_rgb(image))[0, :3, 0].tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_floats_without_a_known_white_are_refused(value: float) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16), value, np.float32)).save(file, "TIFF")
    with pytest.raises(BadPicture):
        read(file)


def test_cmyk_jpeg() -> None:
    image = Image.fromarray(gradient()).convert("CMYK")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    assert np.abs(read(file).astype(int) - gradient()).mean() < 4


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        result = read(file)
        assert result.shape == (20, 20, 3)
        assert np.abs(result[5, 5].astype(int) - [255, 0, 0]).max() <= 2, form


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, form: str) -> None:
    upright = gradient(64, 32)
    # What a camera held that way stores: the opposite of what makes it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    file = encoded(np.ascontiguousarray(stored), form, exif=exif)
    result = read(file)
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).max() < 24


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture() -> None:
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b""):
        assert read(encoded(gradient(), "JPEG", exif=exif)).shape == (32, 48, 3)


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow without LittleCMS")
def test_embedded_profile_becomes_srgb_and_a_damaged_one_is_ignored() -> None:
    plain = read(encoded(gradient(), "PNG"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read(encoded(gradient(), "PNG", icc_profile=srgb)) == plain).all()
    assert (read(encoded(gradient(), "PNG", icc_profile=b"not a profile" * 20)) == plain).all()
    # The sRGB profile with its red and green primaries exchanged: the colours must change places too.
    swapped = srgb.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    result = read(encoded(gradient(), "PNG", icc_profile=swapped))
    assert np.abs(result[..., [1, 0, 2]].astype(int) - plain).max() <= 3


def test_draft_is_never_smaller_than_asked() -> None:
    file = encoded(gradient(400, 300), "JPEG", quality=95)
    assert read(file, draft=300).shape == (300, 400, 3)
    assert read(file, draft=150).shape == (150, 200, 3)
    assert read(file, draft=140).shape == (150, 200, 3)
    assert read(file, draft=8).shape[0] == 38
    assert read(encoded(gradient(400, 300), "PNG"), draft=8).shape == (300, 400, 3)


# Bad files


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"this is not a picture, whatever its name says\n" * 20, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (encoded(gradient(), "JPEG").getvalue()[:500], "damaged"),
        (encoded(gradient(), "PNG").getvalue()[:200], "damaged"),
        (encoded(gradient(), "JPEG").getvalue()[:3], "not a picture"),
        (encoded(gradient(1, 1), "PNG").getvalue(), "1 x 1"),
        (encoded(gradient(100, 7), "PNG").getvalue(), "100 x 7"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "face.jpg"
    path.write_bytes(content)
    with pytest.raises(BadPicture) as caught:
        read(path)
    assert word in caught.value.reason
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [20_000, 2_000_000])
def test_enormous_header_is_refused_before_decoding(side: int) -> None:
    with pytest.raises(BadPicture, match="million"):
        read(png(side, side, 8, 2, b"\0" * 100))


def test_just_above_the_cap_is_refused_whatever_pillow_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadPicture, match="10001 x 10000"):
        read(png(10001, 10000, 8, 2, b"\0" * 100))


def test_pillow_warns_nobody_of_limits_that_are_ours(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(12_000, 12_000, 8, 2, b"\0" * 100).getvalue())
    code = "import sys; from fewtoon.io.images import *\ntry: read(sys.argv[1])\nexcept BadPicture as bad: print(bad)"
    words = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "12000 x 12000" in ended.stdout
    assert ended.stderr == ""


def test_decompression_bombs() -> None:
    # 400 megabytes of zeros in 400 kilobytes, behind a small header.
    bomb = png(64, 64, 8, 2, b"\0" * 400_000_000)
    with contextlib.suppress(BadPicture):
        assert read(bomb).shape == (64, 64, 3)  # what lies behind the last row is never unpacked
    text = zlib.compress(b"\0" * 100_000_000)
    chunk = b"zTXt" + b"Comment\0\0" + text
    extra = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(BadPicture):
        read(png(64, 64, 8, 2, b"\0" * 64 * 193, extra))


def test_missing_folder_pipe_and_null(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, word in (
        (tmp_path / "none.jpg", "does not exist"),
        (tmp_path, "not a file"),
        (tmp_path / "pipe.jpg", "not a file"),
        ("a\0b.jpg", "cannot be read"),
    ):
        with pytest.raises(BadPicture, match=word):
            read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    save_png(path, gradient())
    path.chmod(0)
    with pytest.raises(BadPicture, match="permission"):
        read(path)


def test_permission_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "face.png", gradient())

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadPicture, match="permission"):
        read(tmp_path / "face.png")


SEEDS = [
    encoded(gradient(), "JPEG").getvalue(),
    encoded(gradient(), "JPEG", progressive=True).getvalue(),
    encoded(gradient(), "PNG").getvalue(),
    encoded(gradient(), "GIF").getvalue(),
    encoded(gradient(), "TIFF", compression="tiff_lzw").getvalue(),
    encoded(gradient(), "WEBP").getvalue(),
    encoded(gradient(), "BMP").getvalue(),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_but_bad_picture(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content))) if data.draw(st.booleans()) else len(content)
    try:
        result = read(io.BytesIO(bytes(content[:cut])), draft=data.draw(st.sampled_from([None, 8])))
    except BadPicture:
        return
    assert result.ndim == 3
    assert result.shape[2] == 3
    assert result.dtype == np.uint8


# Size


def test_resize_takes_the_centre_square() -> None:
    array = np.zeros((30, 90, 3), np.uint8)
    array[:, 30:60] = 255
    assert (resize_square(array, 30) == 255).all()
    assert (resize_square(array.transpose(1, 0, 2), 16) == 255).all()
    assert resize_square(array, 64).shape == (64, 64, 3)


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    result = resize_square(stripes, 64)[8:-8, 8:-8].astype(int)
    assert np.abs(result - 128).max() <= 2  # a resize that picks pixels gives 0 or 255


def test_resize_keeps_the_place() -> None:
    spot = np.zeros((256, 256, 3), np.uint8)
    spot[64:96, 128:192] = 255
    weights = resize_square(spot, 64)[..., 0].astype(float)
    y, x = np.mgrid[:64, :64] + 0.5
    assert (weights * x).sum() / weights.sum() == pytest.approx(40, abs=0.05)
    assert (weights * y).sum() / weights.sum() == pytest.approx(20, abs=0.05)


# Finding


def test_find_walks_sorts_and_groups(tmp_path: Path) -> None:
    for name in (
        "b/2.png",
        "b/deep/1.png",
        "a/3.JPG",
        "z.png",
        ".hidden.png",
        ".dir/x.png",
        "a/t.csv",
        "README",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "a/face.heic").write_bytes(b"x")
    found, refused = find([tmp_path])
    assert [(f.name, f.folder) for f in found] == [
        ("z.png", None),
        ("a/3.JPG", "a"),
        ("b/2.png", "b"),
        ("b/deep/1.png", "b"),
    ]
    assert [r.name for r in refused] == ["a/face.heic"]
    assert ".heic" in refused[0].reason
    assert find([tmp_path]) == (found, refused)


def test_find_files_patterns_and_repeats(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c[1].png"):
        (tmp_path / name).write_bytes(b"x")
    assert [f.name for f in find([tmp_path / "b.png", tmp_path / "a.png", tmp_path / "b.png"])[0]] == [
        "b.png",
        "a.png",
    ]
    assert [f.name for f in find([f"{tmp_path}/*.png"])[0]] == ["a.png", "b.png", "c[1].png"]
    assert [f.name for f in find([f"{tmp_path}/c[1].png"])[0]] == ["c[1].png"]
    for bad in (tmp_path / "missing", f"{tmp_path}/*.gif"):
        with pytest.raises(Problem, match=r"does not exist|matches"):
            find([bad])


def test_find_several_folders_have_different_names(tmp_path: Path) -> None:
    for name in ("x/g/1.png", "y/g/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    found, _ = find([tmp_path / "x", tmp_path / "y"])
    assert [(f.name, f.folder) for f in found] == [("x/g/1.png", "g"), ("y/g/1.png", "g")]


@pytest.mark.timeout(20)
def test_find_survives_link_loops_and_dead_links(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.png").write_bytes(b"x")
    (tmp_path / "b/up").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "b")  # sorts before the folder that it leads to
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere.png")
    found, refused = find([tmp_path])
    assert [f.name for f in found] == ["b/1.png"]
    assert sorted(r.name for r in refused) == ["a", "b/up", "dead.png", "self"]


def test_find_follows_a_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.png").write_bytes(b"x")
    (tmp_path / "given").mkdir()
    (tmp_path / "given/group").symlink_to(tmp_path / "elsewhere")
    found, refused = find([tmp_path / "given"])
    assert [(f.name, f.folder) for f in found] == [("group/1.png", "group")]
    assert not refused


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/gr\xfcn"
    try:
        os.mkdir(folder)
        with open(folder + b"/caf\xe9\n.png", "wb") as file:
            file.write(encoded(gradient(), "PNG").getvalue())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (found,), _ = find([tmp_path])
    assert found.name == "gr\\xfcn/caf\\xe9\\n.png"
    assert found.folder == "gr\\xfcn"
    found.name.encode("utf-8")
    assert (read(found.path) == gradient()).all()


# Writing


def test_save_png_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "face.png"
    save_png(path, gradient())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(Problem, match="No space left"):
        save_png(path, gradient()[::-1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(Problem, match="cannot write"):
        save_png(tmp_path / "no/such/folder.png", gradient())

"""Small crops brought to size: what no resampler may do, CARN-M as published, and any file through spandrel."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from asking import one_line
from by_rule import by_rule
from fewtoon.faces import upscale
from fewtoon.faces.upscale import NetworkUpscaler, open_upscaler, resample
from fewtoon.io import images
from fewtoon.nets import carn
from fewtoon.nets.carn import CARN

DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))
PUBLISHED = DATA / "weights/superres/carn_m.pth"
FLAT = [(255, 255, 255), (0, 0, 0), (200, 120, 40), (1, 128, 254)]


def flat(colour: tuple[int, int, int], n: int) -> np.ndarray:
    return np.full((n, n, 3), colour, np.uint8)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, n, 3), np.uint8)


def shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    """With the antialiased bicubic filter, the usual protocol of super-resolution."""
    return np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def psnr(found: np.ndarray, true: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((found.astype(np.float64) - true) ** 2)))


def squares(picture: torch.Tensor, scale: int) -> torch.Tensor:
    """A network whose result is known: every pixel becomes a square of itself."""
    return picture.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


# ---------------------------------------------------------------------------------------------------------
# Without weights


@pytest.mark.parametrize("colour", FLAT)
def test_a_flat_colour_stays_exactly_what_it_is(colour):
    for n, size in ((8, 256), (100, 256), (233, 256), (256, 256), (300, 256), (1, 3), (7, 8)):
        np.testing.assert_array_equal(resample(flat(colour, n), size), flat(colour, size))


def test_no_pixel_leaves_the_range_of_the_four_around_it():
    for n, size in ((9, 31), (16, 64), (20, 23)):
        crop = noise(n)
        large = resample(crop, size)
        for row in range(size):
            for column in range(size):
                y, x = (row + 0.5) * n / size - 0.5, (column + 0.5) * n / size - 0.5
                rows = np.clip([np.floor(y), np.floor(y) + 1], 0, n - 1).astype(int)
                columns = np.clip([np.floor(x), np.floor(x) + 1], 0, n - 1).astype(int)
                around = crop[rows][:, columns].reshape(4, 3)
                assert (around.min(0) <= large[row, column]).all()
                assert (large[row, column] <= around.max(0)).all()


def drawing() -> np.ndarray:
    """256 px of outlines and flat colours, drawn at four times the size."""
    canvas = Image.new("RGB", (1024, 1024), "white")
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((180, 120, 840, 900), fill=(250, 214, 190), outline="black", width=20)
    pen.polygon([(180, 400), (300, 90), (760, 100), (850, 420), (500, 260)], fill=(60, 30, 20))
    for x in (360, 660):
        pen.ellipse((x - 60, 430, x + 60, 520), fill="white", outline="black", width=12)
        pen.ellipse((x - 25, 450, x + 25, 510), fill=(30, 90, 60))
    pen.arc((400, 620, 640, 760), 20, 160, fill=(180, 30, 40), width=16)
    return shrunk(np.array(canvas), 256)


@pytest.mark.parametrize("ratio", [1.5, 2, 4])
def test_a_drawing_comes_back_better_than_by_bicubic_or_lanczos(ratio):
    true = drawing()
    small = shrunk(true, round(256 / ratio))
    plain = {
        name: np.array(Image.fromarray(small).resize((256, 256), Image.Resampling[name]))
        for name in ("BICUBIC", "LANCZOS")
    }
    found = psnr(resample(small, 256), true)
    assert found > psnr(plain["LANCZOS"], true) + 0.5
    assert found > psnr(plain["BICUBIC"], true) + 1.0


def test_the_crop_is_not_changed_and_not_shared():
    upscaler = open_upscaler(None)
    crop = noise(40)
    before = crop.copy()
    for size in (40, 60, 20):
        result = upscaler(crop, size)
        result[:] = 0
        np.testing.assert_array_equal(crop, before)


def test_the_classical_one_says_what_it_does():
    upscaler = open_upscaler(None)
    assert (upscaler.name, upscaler.identity.split()[0]) == ("lanczos", "lanczos")
    told = [upscaler.describe(n, 256) for n in (128, 150, 250, 256, 512)]
    assert told == ["lanczos x2", "lanczos x1.71", "lanczos x1.02", "as it is", "bicubic x0.5"]


# ---------------------------------------------------------------------------------------------------------
# Networks, whichever they are


def test_the_smallest_factors_that_reach_the_size():
    upscaler = NetworkUpscaler("net", "net 0", squares, (2, 3, 4))
    for n, told in (
        *((256, "as it is"), (300, "bicubic x0.85"), (233, "lanczos x1.1"), (232, "net x2"), (128, "net x2")),
        *((127, "net x3"), (86, "net x3"), (85, "net x4"), (64, "net x4"), (63, "net x3 x2")),
        *((42, "net x4 x2"), (32, "net x4 x2"), (31, "net x3 x3"), (16, "net x4 x4"), (9, "net x4 x4")),
    ):
        assert upscaler.describe(n, 256) == told, n
    assert NetworkUpscaler("net", "net 0", squares, (4,)).describe(100, 1000) == "net x4 x4"


def test_enlarged_by_the_network_then_brought_to_size():
    upscaler = NetworkUpscaler("net", "net 0", squares, (2, 3, 4))
    for n, size in ((10, 20), (11, 30), (5, 60), (3, 100), (1, 7), (95, 100), (120, 100)):
        crop = noise(n)
        result = upscaler(crop, size)
        assert result.shape == (size, size, 3)
        assert result.dtype == np.uint8
        scale = {(10, 20): 2, (11, 30): 3, (5, 60): 12, (3, 100): 16, (1, 7): 8}.get((n, size), 1)
        np.testing.assert_array_equal(result, resample(crop.repeat(scale, 0).repeat(scale, 1), size))


@pytest.mark.parametrize("scale", carn.SCALES)
def test_tiles_leave_no_trace_and_bound_what_the_network_sees(scale, monkeypatch):
    network = by_rule(CARN())
    sides: list[int] = []

    def watched(picture: torch.Tensor, scale: int) -> torch.Tensor:
        sides.extend(picture.shape[2:])
        return network(picture, scale)

    picture = noise(70).astype(np.float32) / 255
    whole = NetworkUpscaler("net", "net 0", watched, carn.SCALES, tiled=False)._enlarged(picture, scale)
    assert max(sides) == 70 + 2 * upscale.MARGIN
    monkeypatch.setattr(upscale, "TILE", 24 * scale)
    sides.clear()
    tiled = NetworkUpscaler("net", "net 0", watched, carn.SCALES)._enlarged(picture, scale)
    assert len(sides) == 2 * 9
    assert max(sides) <= 24 + 2 * upscale.HALO
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------
# CARN-M


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (2, [0.17431, 0.16473, 0.1693, 0.04575, 0.0447, 0.04016, -0.24024, -0.23145, -0.23947]),
        (3, [-1.41762, -1.41734, -1.41843, -0.59878, -0.60209, -0.6037, 0.86445, 0.86166, 0.86154]),
        (4, [0.14014, 0.13907, 0.1351, 0.02274, 0.02062, 0.02998, -0.22347, -0.224, -0.21296]),
    ],
)
def test_values_with_weights_made_by_rule(scale, expected):
    """The numbers are those of the authors' own network with the same weights."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    picture = torch.stack([x, y, x * y])[None, :, ::3, ::3]
    with torch.no_grad():
        found = by_rule(CARN())(picture, scale)[0]
    assert found.shape == (3, 22 * scale, 22 * scale)
    sample = found[:, 3 * scale + 1 :: 8 * scale, 5 * scale :: 9 * scale].flatten()[::2]
    np.testing.assert_allclose(sample.numpy(), expected, atol=5e-5)


@pytest.mark.parametrize("scale", carn.SCALES)
def test_no_pixel_has_an_influence_beyond_the_halo(scale):
    network = by_rule(CARN()).double()
    one = torch.rand(1, 3, 65, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = one.clone()
    other[..., 32, 32] += 0.5
    with torch.no_grad():
        changed = (network(one, scale) - network(other, scale)).abs().amax((0, 1)).nonzero()
    first, last = int(changed.min()), int(changed.max())
    reach = max(32 - first // scale, last // scale - 32)
    assert reach == carn.REACH
    assert reach <= upscale.HALO


def test_a_file_is_loaded_strictly_and_frozen(tmp_path):
    file = tmp_path / "carn.pth"
    torch.save(by_rule(CARN()).state_dict(), file)
    network = carn.load(file)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    state = torch.load(file, weights_only=True)
    assert len(state) == 58
    for change, words in (
        (lambda s: s.pop("entry.bias"), ["lacks", "entry.bias"]),
        (lambda s: s.update(surplus=torch.zeros(1)), ["unknown", "surplus"]),
        (lambda s: s.update({"exit.bias": torch.zeros(4)}), ["exit.bias", "(4,)"]),
    ):
        changed = dict(state)
        change(changed)
        torch.save(changed, tmp_path / "changed.pth")
        one_line(lambda: open_upscaler(f"carn:{tmp_path / 'changed.pth'}"), "CARN-M", "changed.pth", *words)


def test_carn_from_several_threads(tmp_path):
    file = tmp_path / "carn.pth"
    torch.save(by_rule(CARN()).state_dict(), file)
    upscaler, threads = open_upscaler(f"carn:{file}"), torch.get_num_threads()
    assert (upscaler.name, upscaler.describe(100, 256)) == ("carn_m", "carn_m x3")
    crops = [noise(24, seed) for seed in range(4)]
    alone = [upscaler(crop, 48) for crop in crops]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(lambda crop: upscaler(crop, 48), crops), alone):
            np.testing.assert_array_equal(found, expected)
    assert torch.get_num_threads() == threads
    other = tmp_path / "other.pth"
    torch.save({key: value + 0.01 for key, value in torch.load(file, weights_only=True).items()}, other)
    assert (
        open_upscaler(f"carn:{other}").identity != upscaler.identity == open_upscaler(f"carn:{file}").identity
    )


@pytest.fixture(scope="module")
def published():
    if not PUBLISHED.is_file():
        pytest.skip(f"no published weights at {PUBLISHED}: set FEWTOON_DATA to the folder of the data")
    return open_upscaler(f"carn:{PUBLISHED}")


@pytest.mark.parametrize("colour", FLAT)
def test_published_weights_keep_a_flat_colour_up_to_its_edges(colour, published):
    for n, size in ((20, 40), (20, 60), (20, 80)):
        difference = np.abs(published(flat(colour, n), size).astype(int) - flat(colour, size))
        assert difference.max() <= 2


@pytest.mark.parametrize("scale", carn.SCALES)
@pytest.mark.parametrize(
    ("folder", "gain"),
    [
        ("photos/omi/0_woman_no_glasses", 1.5),
        ("drawings/avataaars/test", 6.0),
        ("drawings/lorelei/test", 5.0),
        ("drawings/open_peeps", 5.0),
    ],
)
def test_published_weights_beat_bicubic_clearly(folder, gain, scale, published):
    files = sorted(path for path in (DATA / folder).rglob("*") if path.suffix in (".jpg", ".png"))[:2]
    if not files:
        pytest.skip(f"no pictures in {DATA / folder}: set FEWTOON_DATA to the folder of the data")
    for file in files:
        side = 252  # a multiple of all three
        true = images.read(file)[:side, :side]
        small = shrunk(true, side // scale)
        bicubic = np.array(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
        assert psnr(published(small, side), true) > psnr(bicubic, true) + gain


# ---------------------------------------------------------------------------------------------------------
# Any other file


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_wrong_specs_and_files_end_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in ("", "carn", "carn:", "spandrel:", "lanczos4", "carn:nowhere.pth", "C:\\net.pth", "."):
        one_line(lambda spec=spec: open_upscaler(spec), f"no upscaler {spec!r}", "carn:PATH", "spandrel:PATH")
    Path("hostile.pth").write_bytes(pickle.dumps({"a": _Hostile()}))
    Path("text.pth").write_text("not weights\nat all\n")
    Path("text.safetensors").write_text("not weights\nat all\n")
    for kind in ("carn:", "spandrel:", ""):
        one_line(lambda kind=kind: open_upscaler(f"{kind}hostile.pth"), "hostile.pth", "refused")
        one_line(lambda kind=kind: open_upscaler(f"{kind}text.pth"), "text.pth")
        one_line(lambda kind=kind: open_upscaler(f"{kind}text.safetensors"), "text.safetensors")
    assert not Path("executed").exists()
    torch.save(torch.zeros(3), "tensor.pth")
    one_line(lambda: open_upscaler("tensor.pth"), "tensor.pth", "not a network")
    one_line(lambda: open_upscaler("carn:tensor.pth"), "tensor.pth", "not a state dict")


def test_without_the_library_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)  # its import then fails
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    one_line(lambda: open_upscaler(str(tmp_path / "net.pth")), "net.pth", "pip install 'fewtoon[superres]'")


@pytest.mark.skipif(importlib.util.find_spec("spandrel") is None, reason="spandrel is not installed")
def test_any_network_that_spandrel_knows(tmp_path, monkeypatch):
    from fewtoon.io import torchvision

    torchvision.declare_operators()
    from safetensors.torch import save_file
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = SRVGGNetCompact(num_feat=16, num_conv=4, upscale=4).eval()
    torch.save({"params_ema": network.state_dict()}, "x4 net.pth")
    save_file(network.state_dict(), "x4.safetensors")
    crop = noise(60)
    found = []
    for spec, name in (("spandrel:x4 net.pth", "x4 net"), ("x4 net.pth", "x4 net"), ("x4.safetensors", "x4")):
        upscaler = open_upscaler(spec)
        assert upscaler.name == name
        assert upscaler.identity.startswith(f"{name} ")
        assert upscaler.describe(100, 256) == f"{name} x4"
        assert upscaler.describe(60, 1000) == f"{name} x4 x4"
        found.append(upscaler(crop, 240))
    with torch.no_grad():
        direct = network(torch.from_numpy(crop).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    inner = np.s_[40:-40, 40:-40]  # away from the borders, where ours has the mirror image
    expected = np.rint(255 * direct.permute(1, 2, 0).numpy())[inner].astype(int)
    assert np.abs(found[0][inner].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])

    torch.save(SRVGGNetCompact(num_feat=16, num_conv=4, upscale=1).state_dict(), "x1.pth")
    one_line(lambda: open_upscaler("x1.pth"), "x1.pth", "Restoration", "no super-resolution")
    grey = SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=16, num_conv=4, upscale=2)
    torch.save(grey.state_dict(), "grey.pth")
    one_line(lambda: open_upscaler("grey.pth"), "grey.pth", "RGB")
    torch.save(by_rule(CARN()).state_dict(), "carn.pth")
    one_line(lambda: open_upscaler("carn.pth"), "carn.pth", "carn:PATH")
    torch.save(network.state_dict() | {"body.2.weight": torch.zeros(3, 3, 3, 3)}, "broken.pth")
    one_line(lambda: open_upscaler("broken.pth"), "broken.pth", "cannot be loaded")

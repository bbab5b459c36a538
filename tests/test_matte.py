"""Mattes: the arithmetic of compositing, strict loading, and the published weights on portraits with mattes."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from asking import one_line
from by_rule import by_rule
from fewtoon.faces.matte import composite, open_matte
from fewtoon.io import images
from fewtoon.nets import extremec3, sinet
from fewtoon.nets.extremec3 import ExtremeC3
from fewtoon.nets.sinet import SINet

DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))
PUBLISHED = {"sinet": DATA / "weights/segment/SINet.pth", "extremec3": DATA / "weights/segment/ExtremeC3.pth"}
LAYOUTS = [(sinet, SINet), (extremec3, ExtremeC3)]


def published(name: str) -> Path:
    if not PUBLISHED[name].is_file():
        pytest.skip(f"no published weights at {PUBLISHED[name]}: set FEWTOON_DATA to the folder of the data")
    return PUBLISHED[name]


def pattern(size: int = 64) -> torch.Tensor:
    """(1, 3, size, size) RGB in [0, 255], different in every channel."""
    y, x = torch.meshgrid(torch.linspace(0, 255, size), torch.linspace(0, 255, size), indexing="ij")
    return torch.stack([x, y, x * y / 255])[None]


@pytest.fixture
def weights_file(tmp_path):
    """A function that saves a network with weights made by rule and answers the file."""

    def make(network: torch.nn.Module, name: str = "net.pth") -> Path:
        torch.save(by_rule(network).state_dict(), tmp_path / name)
        return tmp_path / name

    return make


# ---------------------------------------------------------------------------------------------------------
# Compositing


def test_composite_is_the_formula_for_every_level_and_every_alpha():
    crop = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 256, axis=1).repeat(3, axis=2)
    crop[..., 1] = 255 - crop[..., 1]
    alpha = np.repeat(np.arange(256, dtype=np.uint8)[None], 256, axis=0)
    share = alpha[..., None] / 255.0
    expected = np.rint(crop * share + (1.0 - share) * 255.0)
    np.testing.assert_array_equal(composite(crop, alpha), expected.astype(np.uint8))


def test_composite_leaves_its_arguments_alone():
    rng = np.random.default_rng(0)
    crop, alpha = rng.integers(0, 256, (5, 7, 3), np.uint8), rng.integers(0, 256, (5, 7), np.uint8)
    before = crop.copy(), alpha.copy()
    result = composite(crop, alpha)
    assert result.dtype == np.uint8
    assert result.shape == crop.shape
    np.testing.assert_array_equal(crop, before[0])
    np.testing.assert_array_equal(alpha, before[1])
    np.testing.assert_array_equal(composite(crop, np.full((5, 7), 255, np.uint8)), crop)
    assert (composite(crop, np.zeros((5, 7), np.uint8)) == 255).all()


# ---------------------------------------------------------------------------------------------------------
# Networks and their files


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (SINet, [0.401432, 0.412308, 0.470783, 0.459382, 0.46275, 0.429597, 0.497168]),
        (ExtremeC3, [0.0, 0.0, 0.317738, 0.0, 0.0, 0.426209, 0.680936]),
    ],
)
def test_values_with_weights_made_by_rule(layout, expected):
    """The numbers are those of the authors' own networks with the same weights. Norms by the statistics of the
    batch, because with the made-up ones the signal would leave the range."""
    network = by_rule(layout()).train()
    with torch.no_grad():
        found = network(pattern())[0, 0, 10::11, 5::9].flatten()[::5]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("module", "layout"), LAYOUTS)
def test_a_file_is_loaded_strictly_and_frozen(module, layout, weights_file, tmp_path):
    file = weights_file(layout())
    state = torch.load(file, weights_only=True)
    network = module.load(file)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())

    parallel = {f"module.{key}": value for key, value in state.items()}  # as nn.DataParallel saves it
    torch.save(parallel, tmp_path / "parallel.pth")
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")  # as torch 0.4.0 saved it
    with torch.no_grad():
        expected = network(pattern())
        for name in ("parallel.pth", "old.pth"):
            assert torch.equal(module.load(tmp_path / name)(pattern()), expected)

    key = "encoder.level1.conv.weight"
    for change, words in (
        (lambda s: s.pop(key), ["lacks", key]),
        (lambda s: s.update(surplus=torch.zeros(1)), ["unknown", "surplus"]),
        (lambda s: s.update({key: torch.zeros(7, 3, 3, 3)}), [key, "(7, 3, 3, 3)"]),
        (lambda s: s.update({key: "text"}), ["state dict"]),
    ):
        changed = dict(state)
        change(changed)
        torch.save(changed, tmp_path / "changed.pth")
        one_line(lambda: module.load(tmp_path / "changed.pth"), "changed.pth", *words)


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_wrong_specs_and_files_end_in_one_line(weights_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(lambda: open_matte("modnet:net.pth"), "modnet", "sinet:PATH", "extremec3:PATH", "mediapipe")
    one_line(lambda: open_matte("mediapipe:net.pth"), "mediapipe:net.pth")
    one_line(lambda: open_matte(""), "no matte ''")
    for name in PUBLISHED:
        one_line(lambda name=name: open_matte(name), f"{name}:PATH")
        one_line(lambda name=name: open_matte(f"{name}:nowhere.pth"), "nowhere.pth", "does not exist")
    weights_file(SINet(), "sinet.pth")
    weights_file(ExtremeC3(), "c3.pth")
    one_line(lambda: open_matte("sinet:c3.pth"), "SINet", "c3.pth")
    one_line(lambda: open_matte("extremec3:sinet.pth"), "ExtremeC3Net", "sinet.pth")
    Path("hostile.pth").write_bytes(pickle.dumps({"a": _Hostile()}))
    one_line(lambda: open_matte("sinet:hostile.pth"), "refused")
    assert not Path("executed").exists()
    Path("torn.pth").write_bytes(Path("sinet.pth").read_bytes()[:5000])
    one_line(lambda: open_matte("sinet:torn.pth"), "torn.pth")


@pytest.mark.parametrize(("name", "layout"), [("sinet", SINet), ("extremec3", ExtremeC3)])
def test_a_matte_takes_any_size_from_any_thread(name, layout, weights_file):
    file = weights_file(layout())
    matte, threads = open_matte(f"{name}:{file}"), torch.get_num_threads()
    assert matte.name == name
    rng = np.random.default_rng(0)
    crops = [
        rng.integers(0, 256, (*size, 3), np.uint8) for size in ((256, 256), (40, 90), (301, 8), (224, 224))
    ]
    alone = [matte(crop) for crop in crops]
    for crop, alpha in zip(crops, alone):
        assert alpha.dtype == np.uint8
        assert alpha.shape == crop.shape[:2]
    with ThreadPoolExecutor(4) as pool:
        for crop_alpha, alpha in zip(pool.map(matte, crops * 2), alone * 2):
            np.testing.assert_array_equal(crop_alpha, alpha)
    assert torch.get_num_threads() == threads

    state = torch.load(file, weights_only=True)
    state["encoder.level1.bn.bias"] += 1.0
    other = file.with_name("other.pth")
    torch.save(state, other)
    again, changed = open_matte(f"{name}:{file}"), open_matte(f"{name}:{other}")
    assert again.identity == matte.identity
    assert changed.identity != matte.identity


def test_with_mirroring_the_matte_of_the_mirror_image_is_the_mirrored_matte(weights_file):
    matte = open_matte(f"extremec3:{weights_file(ExtremeC3())}")
    crop = np.random.default_rng(0).integers(0, 256, (matte.side, matte.side, 3), np.uint8)
    alpha, other = matte(crop), matte(np.ascontiguousarray(crop[:, ::-1]))
    assert alpha.std() > 1
    assert np.abs(alpha.astype(int) - other[:, ::-1]).max() <= 1


# ---------------------------------------------------------------------------------------------------------
# The published weights


@pytest.fixture(scope="module")
def portraits() -> list[tuple[np.ndarray, np.ndarray]]:
    folder = DATA / "photos/apdrawing"
    files = sorted(folder.glob("*_mask.png"))
    if not files:
        pytest.skip(f"no portraits with mattes in {folder}: set FEWTOON_DATA to the folder of the data")
    return [
        (images.read(str(file).replace("_mask.png", ".jpg")), images.read(file)[..., 0]) for file in files
    ]


def quality(matte, portraits, change=lambda crop: crop) -> tuple[float, float]:
    """The mean intersection over union at one half, and the mean error of alpha (0 to 1)."""
    unions, errors = [], []
    for crop, truth in portraits:
        alpha = matte(change(crop))
        person, true = alpha > 127, truth > 127
        unions.append((person & true).sum() / (person | true).sum())
        errors.append(np.abs(alpha / 255.0 - truth / 255.0).mean())
    return float(np.mean(unions)), float(np.mean(errors))


@pytest.mark.parametrize(
    ("name", "parameters", "union", "error"),
    [("sinet", 86_910, 0.955, 0.033), ("extremec3", 37_738, 0.962, 0.030)],
)
def test_published_weights_find_the_person(name, parameters, union, error, portraits):
    matte = open_matte(f"{name}:{published(name)}")
    assert sum(parameter.numel() for parameter in matte._network.parameters()) == parameters
    found_union, found_error = quality(matte, portraits)
    assert found_union > union
    assert found_error < error
    # Channel order: what is given as RGB is better than the same picture given as BGR.
    swapped_union, _ = quality(matte, portraits, lambda crop: np.ascontiguousarray(crop[..., ::-1]))
    assert found_union > swapped_union + 0.003

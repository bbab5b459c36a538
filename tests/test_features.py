"""Feature networks: the built-in one measures what it should, and files are refused for the right reasons."""

from __future__ import annotations

import importlib.util
import os
import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fewtoon.data import world
from fewtoon.errors import Problem
from fewtoon.io import torchvision
from fewtoon.metrics import features
from fewtoon.metrics.distance import kid
from fewtoon.nets.mobilefacenet import FoamliuLayout


@pytest.fixture(scope="module")
def tiny():
    return features.load("tiny")


@pytest.fixture(scope="module")
def drawn():
    """Drawings of people without glasses, shuffled; the same people's group with glasses; photos: 64 px."""
    random = np.random.default_rng(0)
    bare, _, _ = world.sample("drawings", 160, 64, seed=1, counts=[80, 80, 0, 0])
    glasses, _, _ = world.sample("drawings", 80, 64, seed=1, counts=[0, 0, 40, 40])
    photos, _, _ = world.sample("photos", 80, 64, seed=1, counts=[40, 40, 0, 0])
    return random.permutation(bare), random.permutation(glasses), random.permutation(photos)


def blurred(images, radius):
    return np.stack([np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius))) for x in images])


def noisy(images, sigma):
    noise = np.random.default_rng(1).normal(0, sigma, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


def test_name_and_hash_are_those_of_these_filters(tiny):
    """A change of this hash changes every number measured so far: raise the version in the name with it."""
    assert (tiny.name, tiny.hash, tiny.dim, tiny.comparable) == ("tiny", "bfb44d55d1f1", 658, False)


def test_known_values(tiny):
    """Small drift of the arithmetic is fine, another network is not."""
    y, x = np.mgrid[0:64, 0:64]
    picture = np.stack([x * 4, y * 4, 255 * ((x // 8 + y // 8) % 2)], 2).astype(np.uint8)
    found = tiny(picture[None])[0]
    np.testing.assert_allclose(found[::94], EXPECTED, atol=2e-3)


EXPECTED = [-0.0468, 0.1185, -0.1062, 0.0233, 0.1235, -0.4476, -0.2523]


def test_two_halves_of_one_set_are_alike(tiny, drawn):
    bare, _, photos = drawn
    halves = kid(tiny(bare[:80]), tiny(bare[80:]))
    assert halves.low < 0 < halves.high
    assert abs(halves.value) < 0.03 * kid(tiny(bare[:80]), tiny(photos)).value


@pytest.mark.parametrize("harm", ["blur", "noise", "photos"])
def test_kid_rises_with_the_harm(tiny, drawn, harm):
    bare, _, photos = drawn
    real, others = tiny(bare[:80]), bare[80:]
    if harm == "blur":
        sets = [blurred(others, radius) for radius in (0, 0.75, 1.5, 3)]
    elif harm == "noise":
        sets = [noisy(others, sigma) for sigma in (0, 8, 20, 50)]
    else:
        sets = [np.concatenate([others[n:], photos[:n]]) for n in (0, 24, 48, 80)]
    values = [kid(real, tiny(images)).value for images in sets]
    assert values == sorted(values)
    assert values[-1] > 20 * max(values[0], 1)


def test_kid_notices_glasses(tiny, drawn):
    bare, glasses, _ = drawn
    real, others = tiny(bare[:80]), bare[80:]
    values = [kid(real, tiny(np.concatenate([others[n:], glasses[:n]]))).value for n in (0, 40, 80)]
    assert values[0] < values[1] < values[2]


def test_a_picture_has_the_same_features_in_any_company(tiny, drawn):
    images = drawn[0][:19]
    whole = tiny(images)
    parts = np.concatenate([tiny(images[:1]), tiny(images[1:12]), tiny(images[12:])])
    assert np.array_equal(whole, parts)


def test_the_size_of_the_pack_hardly_matters(tiny):
    small, _, _ = world.sample("drawings", 8, 64, seed=2)
    large = np.stack(
        [np.asarray(Image.fromarray(x).resize((128, 128), Image.Resampling.BICUBIC)) for x in small]
    )
    other = tiny(np.roll(small, 1, 0))
    assert np.abs(tiny(large) - tiny(small)).mean() < 0.25 * np.abs(other - tiny(small)).mean()


def test_large_pictures_are_shrunk_with_antialiasing(tiny):
    """Stripes finer than the working size look like the grey that they average to."""
    stripes = np.where(np.isin(np.arange(256) % 4, (0, 3)), 255, 0).astype(np.uint8)
    stripes = np.broadcast_to(stripes[None, None, :, None], (1, 256, 256, 3))
    grey = np.full((1, 256, 256, 3), 128, np.uint8)
    to_black = np.abs(tiny(np.zeros_like(grey)) - tiny(grey)).mean()
    assert np.abs(tiny(stripes) - tiny(grey)).mean() < 0.3 * to_black


def test_fast_enough_for_training(tiny):
    images = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3)).astype(np.uint8)
    tiny(images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        tiny(images)
        assert (time.process_time() - started) / len(images) < 0.02  # 0.002 s on an idle core of 2026
    finally:
        torch.set_num_threads(threads)


def test_no_pictures(tiny):
    assert tiny(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 658)


@pytest.mark.parametrize("images", [np.zeros((2, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8)])
def test_wrong_pictures(tiny, images):
    with pytest.raises(Problem, match="uint8"):
        tiny(images)


@pytest.mark.parametrize(("spec", "says"), [("tinny", "'tiny'"), ("mobilefacenet", "PATH"), ("", "known")])
def test_unknown_network(spec, says):
    with pytest.raises(Problem, match=says):
        features.load(spec)


@pytest.mark.parametrize("kind", ["inception", "mobilefacenet"])
def test_missing_file(kind, tmp_path):
    with pytest.raises(Problem, match="does not exist"):
        features.load(f"{kind}:{tmp_path / 'none.pth'}")


def test_no_cached_inception(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(Problem, match="inception:PATH"):
        features.load("inception")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["inception", "mobilefacenet"])
def test_a_hostile_file_is_refused_unopened(kind, tmp_path):
    file, trace = tmp_path / "weights.pth", tmp_path / "was-here"
    with file.open("wb") as out:
        pickle.dump({"conv": Bomb(trace)}, out, protocol=2)
    with pytest.raises(Problem):
        features.load(f"{kind}:{file}")
    assert not trace.exists()


def test_inception_without_the_extra_or_with_another_file(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"conv": torch.zeros(1)}, file)
    there = importlib.util.find_spec("torch_fidelity") is not None
    says = "does not fit" if there else r"fewtoon\[inception\]"
    with pytest.raises(Problem, match=says):
        features.load(f"inception:{file}")


def test_inception_from_a_file_with_random_weights(tmp_path):
    torchvision.declare_operators()
    feature_extractor = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="needs the extra fewtoon[inception]"
    )
    file = tmp_path / "weights.pth"

    class Blank(feature_extractor.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):  # so that there is a network before there is a file
            pass

    torch.save({}, file)
    torch.manual_seed(0)
    blank = Blank("blank", ["2048"], feature_extractor_weights_path=str(file))
    torch.save(blank.state_dict(), file)
    net = features.load(f"inception:{file}")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    found = net(images)
    expected = blank(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy()
    assert (net.name, net.comparable, found.shape) == ("inception", True, (2, 2048))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_mobilefacenet_as_features(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "face.pt"
    torch.save(FoamliuLayout().state_dict(), file)
    net = features.load(f"mobilefacenet:{file}")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    found = net(images)
    assert (net.name, net.dim, net.comparable, len(net.hash)) == ("mobilefacenet", 128, False, 12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.array_equal(found[1:2], net(images[1:2]))

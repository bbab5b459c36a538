"""Leaks: turned drawings and false colours are found, shifted and soft ones are nobody's fault."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewtoon.augment import Pipeline, geometry, pixels
from fewtoon.data import world
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.metrics import leak as module
from fewtoon.metrics.evaluate import evaluate
from fewtoon.metrics.leak import leak
from fewtoon.style import to_pixels, to_tensor

SIZE = 32
OPERATIONS = ("blit", "geometry", "color")


def drawn(count, seed):
    return world.sample("drawings", count, SIZE, seed=seed)[0]


@pytest.fixture(scope="module")
def fakes():
    return drawn(144, 3)


@pytest.fixture(scope="module")
def real():
    return drawn(100, 2)


@pytest.fixture(scope="module")
def training():
    return drawn(60, 1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A detector that learns from fewer pictures, and therefore sooner."""
    monkeypatch.setattr(module, "VIEWS", 140)
    monkeypatch.setattr(module, "CHECKS", 100)


def a_quarter(fakes, change):
    """A copy whose every fourth picture is changed."""
    out = fakes.copy()
    out[::4] = change(out[::4])
    return out


def turned(images):
    return np.rot90(images, axes=(1, 2))


def upside_down(images):
    return images[:, ::-1]


def false_colours(images):
    """The hue a third of the circle further."""
    angles = np.full(len(images), 2 * np.pi / 3)
    return to_pixels(pixels.colour(to_tensor(images), pixels.hue(angles)))


def as_photos_lie(images):
    """Shifted by 6 %, tilted by 9 degrees, 8 % larger or smaller, and averaged over 3 x 3 pixels."""
    random = np.random.default_rng(0)
    side, larger = random.choice([-1, 1], (4, len(images))), random.uniform(0.92, 1.08, len(images))
    matrices = (
        geometry.moved(0.06 * SIZE * side[0], 0.06 * SIZE * side[1])
        @ geometry.turned(np.radians(9) * side[2])
        @ geometry.scaled(larger, larger)
    )
    out = geometry.transform(to_tensor(images), geometry.sources(matrices, SIZE), "reflect")
    return to_pixels(torch.nn.functional.avg_pool2d(out, 3, 1, 1, count_include_pad=False))


def test_the_artists_own_drawings_do_not_leak(fakes, real, training):
    found = leak(fakes, real, training, OPERATIONS)
    assert list(found) == ["geometry", "colour"]
    for entry in found.values():
        assert entry["leaks"] is False
        assert entry["note"] is None
        assert entry["share"] < 0.1
        assert entry["towards_augmented"] < 0.2
        assert entry["detector_accuracy"] > 0.8
        assert entry["interval"][0] <= entry["share"] <= entry["interval"][1]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_poses_of_photos_and_soft_lines_are_no_leak(fakes, real, training):
    for entry in leak(as_photos_lie(fakes), real, training, OPERATIONS).values():
        assert entry["leaks"] is False
        assert entry["share"] < 0.15


@pytest.mark.parametrize(
    ("change", "guilty", "innocent"),
    [
        (turned, "geometry", "colour"),
        (upside_down, "geometry", "colour"),
        (false_colours, "colour", "geometry"),
    ],
)
def test_a_quarter_is_found_and_of_its_kind(fakes, real, training, change, guilty, innocent):
    found = leak(a_quarter(fakes, change), real, training, OPERATIONS)
    assert found[guilty]["leaks"] is True
    assert 0.18 < found[guilty]["share"] < 0.32
    assert 0.1 < found[guilty]["towards_augmented"] < 0.45
    assert found[guilty]["towards_interval"][0] > 0
    assert found[innocent]["leaks"] is False


def test_all_augmented_is_the_other_end_of_the_scale(fakes, real, training):
    torch.manual_seed(0)
    augmented = to_pixels(Pipeline(("blit", "geometry"), "white")(to_tensor(fakes), 1.0))
    entry = leak(augmented, real, training, ("geometry", "blit"), "white")["geometry"]
    assert entry["share"] > 0.9
    assert entry["towards_augmented"] > 0.7


def test_the_same_call_gives_the_same_figures_and_draws_nothing(fakes, real, training):
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    found = leak(fakes[:10], real, training, ["color"])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert leak(fakes[:10], real, training, ["color"]) == found


def test_noise_is_found_and_only_kinds_in_use_are_looked_for(fakes, real, training):
    noise = np.random.default_rng(0).normal(0, 25, fakes.shape)
    noisy = np.clip(fakes + noise, 0, 255).astype(np.uint8)
    found = leak(noisy, real, training, ["noise"])
    assert list(found) == ["noise"]
    assert found["noise"]["leaks"] is True


def test_a_detector_that_knows_nothing_gives_no_verdict(real, training):
    """Nobody can tell augmented drawings where all drawings are one grey."""
    grey = np.full_like(training, 128)
    entry = leak(grey, grey, grey, ["blit"])["geometry"]
    assert entry["leaks"] is None
    assert "right in 50% only" in entry["note"]
    assert entry["towards_augmented"] is None


def test_bad_input(fakes, real, training):
    with pytest.raises(Problem, match="3 held-out drawings, at least 10"):
        leak(fakes, real[:3], training, OPERATIONS)
    with pytest.raises(Problem, match="0 training drawings"):
        leak(fakes, real, training[:0], OPERATIONS)
    with pytest.raises(Problem, match="'colour'"):
        leak(fakes, real, training, ["colour"])
    with pytest.raises(Problem, match="'mirror'"):
        leak(fakes, real, training, OPERATIONS, "mirror")


class Artist:
    """A style that draws one of some drawings after the other, whatever the photo."""

    size, groups = SIZE, []

    def __init__(self, drawings, model):
        self.header = {"method": "artist", "model": model}
        self.drawings, self.done = drawings, 0

    def translate(self, photos, group=None):
        part = self.drawings[self.done : self.done + len(photos)]
        self.done += len(photos)
        return to_tensor(part)


@pytest.fixture(scope="module")
def packs(real, training):
    photos = Pack.from_arrays(world.sample("photos", 72, SIZE)[0], "photos", splits=["held_out"] * 72)
    both = np.concatenate([real, training])
    splits = ["held_out"] * len(real) + ["train"] * len(training)
    return photos, Pack.from_arrays(both, "drawings", splits=splits)


def test_evaluate_looks_where_the_style_was_trained_with_ada(fakes, packs, tmp_path):
    model = {"augment": "ada", "augment_operations": ["blit", "geometry"], "augment_fill": "reflect"}
    found = evaluate(Artist(a_quarter(fakes, turned), model), *packs, out=tmp_path)
    assert list(found["augmentation"]) == ["geometry"]
    assert any(text.startswith("augmentations leak (geometry): 2") for text in found["warnings"])
    page = (tmp_path / "report.html").read_text()
    assert "Do augmentations leak?" in page
    assert "they leak" in page


def test_evaluate_does_not_look_elsewhere(fakes, packs, tmp_path):
    photos, drawings = packs
    found = evaluate(Artist(fakes, {"augment": "none"}), photos, drawings, out=tmp_path)
    assert found["augmentation"] is None
    assert "augmentations leak?" not in (tmp_path / "report.html").read_text()
    few = Pack.from_arrays(drawings.images[:12], "drawings", splits=["held_out"] * 4 + ["train"] * 8)
    found = evaluate(Artist(fakes, {"augment": "ada"}), photos, few)
    assert found["augmentation"] is None
    assert any("not looked at: 4 held-out drawings" in text for text in found["warnings"])

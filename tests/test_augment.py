"""Augmentation: identity at p = 0, the paper's distributions, exact moves, gradients, the controller."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewtoon.augment import Ada, DiffAugment, Nothing, Pipeline, diffaugment, geometry, make, pixels
from fewtoon.augment.batch import Dice
from fewtoon.augment.pipeline import OPERATIONS, Plan
from fewtoon.errors import Problem

MANY = 20_000
CLOSE = 0.015  # four standard deviations of a share among MANY


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def noise(count: int = 4, size: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, dtype=dtype) * 2 - 1


def smooth(size: int = 64) -> Tensor:
    """(1, 3, S, S) of slow waves, another one in each channel."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = [(x / 9).sin(), (y / 7).cos() * (x / 11).cos(), ((x + 2 * y) / 13).sin()]
    return torch.stack(waves)[None].double()


def about_centre(matrix: np.ndarray, size: int) -> np.ndarray:
    return geometry.sources(matrix, size)


# --- law: with p = 0 exactly the identity ----------------------------------------------------------------


@pytest.mark.parametrize("fill", ["reflect", "white"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_happens_and_nothing_is_drawn_at_p_0(fill, dtype):
    images = noise().to(dtype).contiguous(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    assert Pipeline(fill=fill)(images, 0.0) is images
    assert Pipeline(fill=fill)(images, torch.tensor(0.0)) is images
    assert Ada(fill=fill)(images) is images
    assert make(None)(images) is images
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_that_are_not_touched_keep_their_bytes():
    images, pipeline = noise(64), Pipeline()
    for dtype in (torch.float32, torch.bfloat16):
        given = images.to(dtype)
        out = pipeline(given, 0.03)
        same = (out == given).flatten(1).all(1)
        assert 20 < same.sum() < 60  # about (1 - p)^16 of them
        assert ((out != given).flatten(1).sum(1) > 30)[~same].all()


def test_an_empty_plan_returns_the_same_tensor():
    images = noise(2)
    plan = Pipeline().draw(2, 16, 1e-9)
    assert plan.origins is not None
    assert Pipeline().carry_out(images, plan) is images


# --- each operation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["reflect", "white"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_changes_pictures(operation, fill):
    images = noise(16, 32)
    out = Pipeline((operation,), fill)(images, 1.0)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert out.isfinite().all()
    assert out.abs().max() < 12
    assert ((out != images).flatten(1).any(1)).sum() >= 15


def test_operations_are_named_in_any_order_and_act_in_theirs():
    images = noise(4, 32)
    torch.manual_seed(5)
    one = Pipeline(["cutout", "color", "blit"])(images, 1.0)
    torch.manual_seed(5)
    assert torch.equal(Pipeline(("blit", "color", "cutout"))(images, 1.0), one)
    assert (one == 0).any()  # what was cut is grey to the end


def test_the_seed_decides():
    images, pipeline = noise(), Pipeline()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(pipeline(images, 0.7))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def part(plan: Plan, i: int) -> Plan:
    """What the plan of a batch has for its i-th picture."""
    deviations, noise = plan.noise  # type: ignore[misc]
    row = int((deviations[:i] > 0).sum())
    one = (deviations[i : i + 1], noise[row : row + int(deviations[i] > 0)])
    fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    return Plan(**{name: one if name == "noise" else value[i : i + 1] for name, value in fields.items()})


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_a_picture_does_not_depend_on_its_neighbours(p):
    images, pipeline = noise(6, 32), Pipeline()
    plan = pipeline.draw(6, 32, p)
    together = pipeline.carry_out(images, plan)
    for i in range(6):
        alone = pipeline.carry_out(images[i : i + 1], part(plan, i))
        torch.testing.assert_close(alone, together[i : i + 1], atol=2e-5, rtol=1e-5)


def test_autocast_and_layout_make_no_difference():
    images, pipeline = noise(4, 32), Pipeline()
    plan = pipeline.draw(4, 32, 0.8)
    plain = pipeline.carry_out(images, plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pipeline.carry_out(images, plan), plain)
    last = pipeline.carry_out(images.contiguous(memory_format=torch.channels_last), plan)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)
    halved = images.bfloat16()
    out = pipeline.carry_out(halved, plan)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, pipeline.carry_out(halved.float(), plan).bfloat16())


def test_inference_first_and_training_later():
    """The matrices that are kept may be used for gradients although they were made without."""
    for kept in (geometry._enlarge, geometry._shrink, pixels._bands):
        kept.cache_clear()
    with torch.inference_mode():
        Pipeline()(noise(), 1.0)
    images = noise().requires_grad_()
    Pipeline()(images, 1.0).sum().backward()
    assert images.grad is not None


# --- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["reflect", "white"])
def test_gradients_by_finite_differences(fill):
    pipeline = Pipeline(fill=fill)
    images = noise(3, 6, torch.float64).requires_grad_()
    plan = pipeline.draw(3, 6, 0.8)
    plan.origins[1] = about_centre(geometry.turned(math.pi / 2), 6)[0]  # one by index  # type: ignore[index]
    plan.origins[2] = about_centre(geometry.turned(0.4) @ geometry.scaled(0.3, 0.4), 6)[0]  # type: ignore[index]
    work = lambda x: pipeline.carry_out(x, plan)
    assert torch.autograd.gradcheck(work, (images,))
    assert torch.autograd.gradgradcheck(work, (images,), fast_mode=True)
    augment = DiffAugment()

    def seeded_twice(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return augment(x)

    assert torch.autograd.gradcheck(seeded_twice, (images,))


# --- distributions ---------------------------------------------------------------------------------------


def assert_share(happened: np.ndarray, expected: float) -> None:
    assert abs(float(np.mean(happened)) - expected) < CLOSE


def assert_deviation(values: np.ndarray, expected: float) -> None:
    assert abs(values.mean()) < 0.06 * expected
    assert abs(values.std() / expected - 1) < 0.05


def assert_even(values: np.ndarray, low: float, high: float) -> None:
    """Uniform from low to high: the largest distance of the distribution functions."""
    found = (np.sort(values) - low) / (high - low)
    assert np.abs(found - np.linspace(0, 1, len(found))).max() < 2 / math.sqrt(len(found))


@pytest.mark.parametrize("p", [0.6, 1.0])
def test_blits_are_drawn_as_published(p):
    m = geometry.draw_blit(Dice(MANY, p), 64)
    linear, shift = m[:, :2, :2], m[:, :2, 2]
    flipped = np.linalg.det(linear) < 0
    assert_share(flipped, p / 2)
    quarter = np.arctan2(linear[:, 0, 1], linear[:, 1, 1])  # a flip before the turn leaves the second column
    turns = np.round(quarter / (math.pi / 2)).astype(int) % 4
    for turn in (1, 2, 3):
        assert_share(turns == turn, p / 4)
    assert (shift == np.round(shift)).all()
    assert np.abs(shift).max() == 8  # an eighth
    still = (shift == 0).all(1)
    assert_share(still, 1 - p + p / 16**2)
    assert_share(shift[~still][:, 0] > 0, 7.5 / 16 * 256 / 255)
    assert abs(np.corrcoef(shift[~still].T)[0, 1]) < 0.04


@pytest.mark.parametrize("p", [0.6, 0.2])
def test_geometry_is_drawn_as_published(p):
    m = geometry.draw_geometry(Dice(MANY, p), 64)
    linear, shift = m[:, :2, :2], m[:, :2, 2] / 64
    even = np.log2(np.linalg.det(linear)) / 2
    assert_share(np.abs(even) > 1e-9, p)
    assert_deviation(even[np.abs(even) > 1e-9], 0.2)

    widths = np.linalg.svd(linear, compute_uv=False)
    stretch = np.log2(widths[:, 0] / widths[:, 1]) / 2
    stretched = stretch > 1e-7
    assert_share(stretched, p)
    assert abs(np.sqrt((stretch[stretched] ** 2).mean()) / 0.2 - 1) < 0.05

    either = 1 - math.sqrt(1 - p)
    gram = linear.transpose(0, 2, 1) @ linear
    assert_share(np.abs(gram[stretched, 0, 1]) > 1e-9, either)  # turned before
    assert_share(np.abs((linear @ linear.transpose(0, 2, 1))[stretched, 0, 1]) > 1e-9, either)  # and after
    angle = np.arctan2(linear[~stretched, 0, 1], linear[~stretched, 0, 0])
    assert_share(np.abs(angle) > 1e-9, p)  # at all
    assert_even(angle[np.abs(angle) > 1e-9], -math.pi, math.pi)

    moved = (shift != 0).any(1)
    assert_share(moved, p)
    assert_deviation(shift[moved][:, 0], 0.125)
    assert_deviation(shift[moved][:, 1], 0.125)


def test_the_reference_figure_of_turning():
    """Appendix A5 of the reference notes: at p = 0.6 each of the two turns happens with 0.3675."""
    either = 1 - math.sqrt(1 - 0.6)
    assert abs(either - 0.3675) < 1e-4
    assert abs(1 - (1 - either) ** 2 - 0.6) < 1e-12


@pytest.mark.parametrize("p", [0.6, 1.0])
def test_colours_are_drawn_as_published(p):
    m = pixels.draw_colour(Dice(MANY, p))
    grey = np.full(3, 1 / math.sqrt(3))
    luma = m[:, :3, :3] @ grey @ grey
    assert_share(luma < 0, p / 2)
    contrast = np.log2(np.abs(luma))
    assert_share(np.abs(contrast) > 1e-9, p)
    assert_deviation(contrast[np.abs(contrast) > 1e-9], 0.5)
    brightness = m[:, :3, 3] @ grey / math.sqrt(3) / luma
    assert_share(np.abs(brightness) > 1e-9, p)
    assert_deviation(brightness[np.abs(brightness) > 1e-9], 0.2)

    u, v = np.array([1, -1, 0]) / math.sqrt(2), np.array([1, 1, -2]) / math.sqrt(6)
    along, across = m[:, :3, :3] @ u @ u, m[:, :3, :3] @ u @ v
    saturation = np.log2(np.hypot(along, across) / np.abs(luma))
    assert_share(np.abs(saturation) > 1e-9, p)
    assert_deviation(saturation[np.abs(saturation) > 1e-9], 1.0)
    hue = np.arctan2(across, along)
    assert_share(np.abs(hue) > 1e-9, p)
    assert_even(hue[np.abs(hue) > 1e-9], -math.pi, math.pi)


def test_filters_noise_and_boxes_are_drawn_as_published():
    p = 0.6
    gains = pixels.draw_gains(Dice(MANY, p))
    assert_share((np.abs(gains - 1) < 1e-12).all(1), (1 - p) ** 4)
    for a, b in ((0, 1), (1, 2), (3, 0)):  # normalising divides all four: only ratios stay
        assert abs(np.log2(gains[:, a] / gains[:, b]).std() / math.sqrt(2 * p) - 1) < 0.03
    deviations, normal = pixels.draw_noise(Dice(2000, p), 2)
    assert abs((deviations > 0).mean() - p) < 0.05
    assert len(normal) == (deviations > 0).sum()
    assert abs(deviations[deviations > 0].mean() / (0.1 * math.sqrt(2 / math.pi)) - 1) < 0.1

    boxes = pixels.draw_boxes(Dice(MANY, p), 64)
    cut = (boxes != 0).any(1)
    assert_share(cut, p)
    assert (boxes[cut, 2:] - boxes[cut, :2] == 32).all()
    for axis in (0, 1):
        centre = boxes[cut, axis] + 16
        assert centre.min() == 0
        assert centre.max() == 64
        assert_even(centre + np.random.default_rng(0).uniform(-0.5, 0.5, len(centre)), -0.0, 64.0)


def test_a_gain_keeps_the_power_of_natural_pictures(monkeypatch):
    """One octave amplified by t: all four are divided by the root of the weighted mean of their squares."""
    monkeypatch.setattr(Dice, "normal", lambda self, deviation: np.full(self.count, deviation))
    gains = pixels.draw_gains(Dice(1, 1.0))[0]  # every octave by 2 in turn
    expected = np.prod([2 / math.sqrt((w * 3 + 13) / 13) for w in (10, 1, 1, 1)]) / 2**3
    assert gains[0] / gains[3] == pytest.approx(1)
    assert gains[1] == pytest.approx(expected)


# --- moves of whole pixels -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("fill", ["reflect", "white"])
def test_flips_and_quarter_turns_are_exact(size, fill):
    images = noise(1, size)
    for turns in range(4):
        for mirrored in (False, True):
            m = geometry.turned(math.pi / 2 * turns) @ geometry.scaled(-1.0 if mirrored else 1.0, 1.0)
            expected = torch.rot90(images.flip(3) if mirrored else images, turns, (2, 3))
            assert torch.equal(geometry.transform(images, about_centre(m, size), fill), expected)


@pytest.mark.parametrize("shift", [(3, 0), (0, -2), (-5, 7), (40, -33)])
def test_integer_translations_are_exact(shift):
    """The last one leaves the picture behind: numpy's own mirroring goes on, and so does ours."""
    x, y, size, most = *shift, 16, 40
    images = noise(1, size)
    origins = about_centre(geometry.moved(float(x), float(y)), size)
    at = (slice(most - y, most - y + size), slice(most - x, most - x + size))
    for fill, settings in (
        ("reflect", {"mode": "reflect"}),
        ("white", {"mode": "constant", "constant_values": 1}),
    ):
        wide = np.pad(images[0].numpy(), ((0, 0), (most, most), (most, most)), **settings)
        out = geometry.transform(images, origins, fill)
        assert np.array_equal(out[0].numpy(), wide[:, at[0], at[1]])


def test_what_comes_from_the_draw_of_blits_is_exact():
    """Every pixel of a blitted picture is one of the picture's own, whatever was drawn."""
    images = torch.arange(16 * 3 * 12 * 12).view(16, 3, 12, 12).float()
    out = Pipeline(("blit",))(images, 1.0)
    for picture, before in zip(out, images):
        assert torch.isin(picture, before).all()


def test_a_picture_of_one_pixel():
    image = noise(1, 1)
    assert torch.equal(geometry.move_pixels(image, geometry.moved(5.0, 2.0), None), image)
    out = geometry.warp(image, geometry.turned(0.3), None)
    torch.testing.assert_close(out, image, atol=1e-5, rtol=1e-5)


# --- the warp --------------------------------------------------------------------------------------------


def test_the_wavelet_is_sym6():
    """Orthonormal to its even shifts, six vanishing moments, and hardly skewed: there is one such filter."""
    h = geometry.SYM6
    assert abs(h.sum() - math.sqrt(2)) < 1e-14
    for shift in range(6):
        assert abs(h[2 * shift :] @ h[: 12 - 2 * shift] - (shift == 0)) < 1e-14
    k = np.arange(12) - 5.5
    for moment in range(6):
        assert abs(((-1.0) ** np.arange(12) * k**moment * h).sum()) < 1e-9
    frequency = np.linspace(0, math.pi, 100)
    response = np.exp(-1j * np.outer(frequency, np.arange(12))) @ h
    bent = np.unwrap(np.angle(response[:90])) + geometry.CENTRE * frequency[:90]
    assert np.abs(bent).max() < 1.3


@pytest.mark.parametrize("background", [None, 1.0])
@pytest.mark.parametrize("size", [4, 5, 33])
def test_a_warp_that_moves_nothing(size, background):
    images = noise(2, size, torch.float64)
    still = np.tile(np.eye(3), (2, 1, 1))
    torch.testing.assert_close(geometry.warp(images, still, background), images, atol=1e-12, rtol=0)
    out = geometry.warp(images.float(), still, background)
    torch.testing.assert_close(out, images.float(), atol=5e-5, rtol=0)


def slow_warp(image: np.ndarray, origin: np.ndarray, pad: int, background: float | None) -> np.ndarray:
    """One plane (S, S) by the definition: padded widely, zeros between, convolved, looked up, convolved."""
    size, h = len(image), geometry.SYM6
    image = np.pad(image, pad, "reflect") if background is None else np.pad(image - background, pad)
    large = np.zeros((2 * len(image), 2 * len(image)))
    large[::2, ::2] = image
    for axis in (0, 1):
        large = np.apply_along_axis(lambda line: np.convolve(line, h * math.sqrt(2)), axis, large)
    out = np.zeros((2 * size + 10, 2 * size + 10))
    for row in range(len(out)):
        for column in range(len(out)):
            place = np.array([(column - geometry.CENTRE) / 2, (row - geometry.CENTRE) / 2, 1])
            x, y = 2 * ((origin @ place)[:2] + pad) + geometry.CENTRE
            i, j = math.floor(y), math.floor(x)
            a, b = y - i, x - j
            four = large[i : i + 2, j : j + 2]
            out[row, column] = np.array([1 - a, a]) @ four @ np.array([1 - b, b])
    for axis in (0, 1):
        turned = lambda line: np.convolve(line, h[::-1] / math.sqrt(2))
        out = np.apply_along_axis(turned, axis, out)
        out = out[11 : 11 + 2 * size : 2] if axis == 0 else out[:, 11 : 11 + 2 * size : 2]
    return out if background is None else out + background


@pytest.mark.parametrize("background", [None, 1.0])
def test_the_warp_against_its_definition(background):
    size = 20
    images = noise(2, size, torch.float64)
    near = geometry.turned(0.3) @ geometry.scaled(1.5, 1.6)  # looks inside only
    far = geometry.moved(3.3, -5.2) @ geometry.turned(0.7) @ geometry.scaled(0.8, 1.2)
    for m, exact in ((near, True), (far, background is not None)):
        origins = about_centre(m, size)
        ours = geometry.warp(images, np.repeat(origins, 2, 0), background)
        slow = np.stack([[slow_warp(c, origins[0], 30, background) for c in one] for one in images.numpy()])
        difference = np.abs(ours.numpy() - slow)
        if exact:
            assert difference.max() < 1e-11
        else:  # a mirrored picture is sampled at other places: it differs where the edge's crease is seen
            assert (difference < 1e-11).mean() > 0.3
            assert np.corrcoef(ours.numpy().ravel(), slow.ravel())[0, 1] > 0.93


@pytest.mark.parametrize("size", [48, 49])
def test_quarter_turns_and_flips_through_the_warp(size):
    image = smooth(size)
    inside = (..., slice(6, -6), slice(6, -6))
    for turns in range(4):
        for mirrored in (False, True):
            m = geometry.turned(math.pi / 2 * turns) @ geometry.scaled(-1.0 if mirrored else 1.0, 1.0)
            expected = torch.rot90(image.flip(3) if mirrored else image, turns, (2, 3))
            out = geometry.warp(image, about_centre(m, size), None)
            assert (out - expected)[inside].abs().max() < 1e-3


def test_a_ramp_stays_a_ramp():
    """The warp moves by what it should to far below a thousandth of a pixel: the filter's centre is right."""
    line = torch.arange(40.0, dtype=torch.float64)
    image = (line + 0.5 * line[:, None]).expand(1, 3, 40, 40)
    angle, factor = 0.4, 1.3
    m = geometry.moved(1.25, -0.6) @ geometry.turned(angle) @ geometry.scaled(factor, factor)
    origin = about_centre(m, 40)[0]
    grid = np.stack(np.broadcast_arrays(np.arange(40), np.arange(40)[:, None], 1), -1)
    place = grid @ origin.T
    expected = place[..., 0] + 0.5 * place[..., 1]
    out = geometry.warp(image, origin[None], None)[0, 0].numpy()
    seen = ((place[..., :2] > 8) & (place[..., :2] < 31)).all(-1)
    assert seen.sum() > 500
    assert np.abs(out - expected)[seen].max() < 1e-8


def test_there_and_back():
    image = smooth()
    m = geometry.turned(0.5) @ geometry.scaled(1.1, 0.9)
    there = geometry.warp(image, about_centre(m, 64), None)
    back = geometry.warp(there, about_centre(np.linalg.inv(m), 64), None)
    inside = (..., slice(16, -16), slice(16, -16))
    assert (back - image)[inside].abs().max() < 5e-3
    assert (there - image)[inside].abs().max() > 0.3


def test_the_mirror_has_no_end():
    """A picture made eight times smaller: the margin is far beyond its size, and mirrored pictures fill it."""
    image = smooth(32)
    m = geometry.scaled(0.125, 0.125)
    out = geometry.warp(image, about_centre(m, 32), None)
    assert out.abs().min() < 0.9
    period = 2 * 31 / 8  # there and back, in pixels of the result
    line = torch.linspace(-1, 1, 32, dtype=torch.float64)
    later = line + 2 * period / 31
    y, x = torch.meshgrid(line, later, indexing="ij")
    shifted = F.grid_sample(out, torch.stack([x, y], -1)[None], align_corners=True)
    seen = (..., slice(2, -2), slice(2, 22))
    assert np.corrcoef(shifted[seen].flatten(), out[seen].flatten())[0, 1] > 0.95
    white = geometry.warp(image, about_centre(m, 32), 1.0)
    assert (white[..., :8, :] - 1).abs().max() < 1e-12


# --- colours, filters, noise, cutout ---------------------------------------------------------------------


def coloured(images: Tensor, matrix: np.ndarray) -> Tensor:
    return pixels.colour(images, np.repeat(matrix, len(images), 0))


def test_colours_against_their_formulas():
    x = noise(2, 8, torch.float64)
    grey = x.mean(1, keepdim=True)
    one = lambda value: np.array([value])
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    close(coloured(x, pixels.brightness(one(0.3))), x + 0.3)
    close(coloured(x, pixels.contrast(one(1.7))), 1.7 * x)
    close(coloured(x, pixels.luma_flip(one(1.0))), x - 2 * grey)
    close(coloured(x, pixels.saturation(one(0.0))), grey.expand_as(x))
    close(coloured(x, pixels.saturation(one(2.5))), grey + 2.5 * (x - grey))
    close(coloured(x, pixels.hue(one(2 * math.pi / 3))), x.roll(1, 1))  # red becomes green, green blue
    turned = coloured(x, pixels.hue(one(0.8)))
    close(turned.mean(1, keepdim=True), grey)
    close(turned.square().sum(1), x.square().sum(1))
    close(coloured(turned, pixels.hue(one(-0.8))), x)
    flipped = coloured(x, pixels.luma_flip(one(1.0)))
    assert (flipped - x).abs().max() > 0.5
    close(coloured(flipped, pixels.luma_flip(one(1.0))), x)


def test_the_order_of_the_colours(monkeypatch):
    """Brightness before contrast: what is added is multiplied too."""
    monkeypatch.setattr(Dice, "normal", lambda self, deviation: np.full(self.count, deviation))
    monkeypatch.setattr(Dice, "whole", lambda self, n: np.zeros(self.count))
    black = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    out = pixels.colour(black, pixels.draw_colour(Dice(1, 1.0)))
    torch.testing.assert_close(out, torch.full_like(out, 0.2 * 2**0.5))


@pytest.mark.parametrize("size", [2, 9, 64])
def test_the_filters_are_octaves_that_add_up(size):
    bands = pixels.filters()
    total = np.zeros(43)
    total[21] = 1
    assert np.abs(sum(bands) - total).max() < 1e-15
    frequency = np.linspace(0, math.pi, 2001)
    responses = [np.exp(-1j * np.outer(frequency, np.arange(-21, 22))) @ band for band in bands]
    for response, (low, high) in zip(responses, ((0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1))):
        assert np.abs(response.imag).max() < 1e-14
        assert response.real.min() > -1e-14
        octave = (frequency >= low * math.pi) & (frequency <= high * math.pi)
        assert response.real[octave].mean() > 0.55  # most of its own octave passes
        away = (frequency < low / 2 * math.pi) | (frequency > 2 * high * math.pi)
        assert not away.any() or response.real[away].mean() < 0.07  # and little beyond the next ones
    images = noise(2, size, torch.float64)
    bank = pixels._bands(size, images.dtype, images.device)
    torch.testing.assert_close(bank.sum(0), torch.eye(size, dtype=torch.float64), atol=1e-14, rtol=0)
    assert pixels.filtered(images, np.ones((2, 4))) is images


def test_filtering_against_a_convolution():
    images = noise(2, 50, torch.float64)
    gains = np.array([[1.0, 0.5, 2.0, 0.1], [1.0, 1.0, 1.0, 1.0]])
    taps = torch.from_numpy(sum(g * band for g, band in zip(gains[0], pixels.filters()))).expand(3, 1, 1, 43)
    wide = F.pad(images, [21] * 4, mode="reflect")
    expected = F.conv2d(F.conv2d(wide, taps, groups=3), taps.transpose(2, 3), groups=3)
    out = pixels.filtered(images, gains)
    torch.testing.assert_close(out[0], expected[0], atol=1e-12, rtol=0)
    assert torch.equal(out[1], images[1])


def test_noise_has_one_deviation_per_picture():
    images = torch.zeros(40, 3, 32, 32)
    deviations, normal = pixels.draw_noise(Dice(40, 0.5), 32)
    out = pixels.noisy(images, deviations, normal)
    assert np.allclose(out.flatten(1).std(1).numpy(), deviations, rtol=0.1)
    assert (deviations == 0).any()


def test_cutout_greys_its_box():
    images = noise(2, 16) + 3
    out = pixels.cut(images, np.array([[-4, 3, 4, 11], [0, 0, 0, 0]]))
    expected = images.clone()
    expected[0, :, 3:11, 0:4] = 0
    assert torch.equal(out, expected)


# --- the controller --------------------------------------------------------------------------------------


def sure(count: int, side: int, share: float = 1.0) -> Tensor:
    """Logits (B, 1, h, w) of which a share is on the side of real."""
    logit = torch.full((count, 1, side * side), -0.2)
    logit[:, :, : round(share * side * side)] = 1.1
    return logit.view(count, 1, side, side)


def test_the_reference_figures_of_one_change():
    """Appendix A5 of the reference notes."""
    for every, batch, pictures, step in (
        (256, 4, 500_000, 5.12e-4),
        (64, 16, 500_000, 1.28e-4),
        (64, 16, 100_000, 6.4e-4),
    ):
        ada = Ada(pictures=pictures, every=every, start=0.1)
        for seen in range(batch, every + 1, batch):
            ada.observe(sure(batch, 6))
            ada.tune()
            assert (ada.p.item() == pytest.approx(0.1)) == (seen < every)
        assert ada.p.item() - 0.1 == pytest.approx(step, rel=1e-3)
        assert ada.seen == 0
        assert ada.signs == 0


def test_a_batch_that_does_not_divide_counts_in_full():
    ada = Ada(every=10, pictures=1000)
    for _ in range(4):
        ada.observe(sure(3, 2))
        ada.tune()
    assert ada.p.item() == pytest.approx(12 / 1000)


def test_the_midpoint_of_least_squares_decides():
    """Logits between 0 and 0.5 are of pictures taken for fake, although they are above 0."""
    for value, target, direction in ((0.4, 0.0, -1), (0.6, 0.0, 1), (0.6, 1.0, 0), (0.5, 0.0, 0)):
        ada = Ada(target=target, every=2, pictures=100, start=0.5)
        ada.observe(torch.full((2, 1, 3, 3), value))
        ada.tune()
        assert ada.p.item() == pytest.approx(0.5 + direction * 0.02)


def test_pictures_count_not_patches():
    """One picture judged by 36 patches and one by 900 weigh alike; many patches do not push r beyond 1."""
    ada = Ada()
    ada.observe(sure(1, 6))
    ada.observe(sure(1, 30, share=0.0))
    assert ada.signs == 0
    assert ada.seen == 2
    ada = Ada()
    ada.observe(sure(2, 6, 1.0), sure(2, 30, 0.0))  # two discriminators, the same two pictures
    assert ada.signs == 0
    assert ada.seen == 2
    ada.observe(torch.tensor([0.9, 0.9, 0.1]))  # a number per picture
    assert ada.signs == 1
    assert ada.seen == 5
    ada = Ada(target=0.6, every=4, pictures=100, start=0.5)
    ada.observe(
        sure(4, 30, share=0.75)
    )  # r = 0.5: below the target although 2.3 times as many patches as pictures
    ada.tune()
    assert ada.p.item() == pytest.approx(0.46)


def test_p_stays_within_its_bounds():
    ada = Ada(every=1, pictures=3, limit=0.8)
    for _ in range(10):
        ada.observe(sure(1, 2))
        ada.tune()
    assert ada.p.item() == pytest.approx(0.8)
    for _ in range(10):
        ada.observe(sure(1, 2, 0.0))
        ada.tune()
    assert ada.p == 0


def test_a_logit_that_is_not_a_number_does_no_harm():
    ada = Ada(every=2, pictures=100, start=0.5)
    ada.observe(torch.full((2, 1, 3, 3), float("nan")))
    ada.tune()
    assert ada.p.item() == pytest.approx(0.48)


def test_what_was_observed_keeps_no_graph():
    logit = sure(2, 3).requires_grad_() * 1
    ada = Ada()
    ada.observe(logit)
    assert not ada.signs.requires_grad
    assert not list(ada.parameters())


def test_the_state_continues_exactly():
    logits = [torch.randn(3, 1, 4, 4) + 1.4 for _ in range(40)]
    whole = Ada(every=16, pictures=200)
    for logit in logits:
        whole.observe(logit)
        whole.tune()
    half = Ada(every=16, pictures=200)
    for logit in logits[:19]:
        half.observe(logit)
        half.tune()
    assert half.seen > 0  # in the middle of a count
    state = {name: value.clone() for name, value in half.state_dict().items()}
    assert set(state) == {"p", "signs", "seen"}
    rest = Ada(every=16, pictures=200)
    rest.load_state_dict(state)
    for logit in logits[19:]:
        rest.observe(logit)
        rest.tune()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    assert whole.p > 0


def test_ada_augments_at_its_p():
    images = noise(64, 8)
    ada = Ada(operations=("cutout",), start=0.25)
    changed = (ada(images) != images).flatten(1).any(1)
    assert 6 <= changed.sum() <= 28
    torch.manual_seed(1)
    one = ada(images)
    torch.manual_seed(1)
    assert torch.equal(Pipeline(("cutout",))(images, 0.25), one)


# --- DiffAugment -----------------------------------------------------------------------------------------


def test_colours_of_diffaugment_against_the_formula():
    x = noise(3, 8, torch.float64)
    add, colour, spread = np.array([0.2, -0.5, 0.0]), np.array([0.0, 2.0, 1.0]), np.array([0.5, 1.5, 1.0])
    out = diffaugment.recoloured(x, add, colour, spread)
    for i in range(3):
        y = x[i] + add[i]
        y = (y - y.mean(0)) * colour[i] + y.mean(0)
        y = (y - y.mean()) * spread[i] + y.mean()
        torch.testing.assert_close(out[i], y, atol=1e-12, rtol=0)
    drawn = DiffAugment(("color",))(torch.full((MANY, 3, 1, 1), 0.25))
    assert_even(drawn[:, 0, 0, 0].numpy() - 0.25, -0.5, 0.5)


def test_translations_of_diffaugment():
    """One of the 5 x 5 moves by whole pixels, zeros moving in; all of them happen about equally often."""
    image = noise(1, 16) + 3
    wide = F.pad(image, [2] * 4)
    moves = torch.cat([wide[..., y : y + 16, x : x + 16] for y in range(5) for x in range(5)])
    out = DiffAugment(("translation",))(image.repeat(2000, 1, 1, 1))
    matches = (out[:, None, 0, ::5, ::5] == moves[None, :, 0, ::5, ::5]).flatten(2).all(2)
    assert (matches.sum(1) == 1).all()
    which = matches.int().argmax(1)
    assert torch.equal(out, moves[which])
    counts = torch.bincount(which, minlength=25)
    assert counts.min() > 45
    assert counts.max() < 125


@pytest.mark.parametrize("size", [16, 15])
def test_cutouts_of_diffaugment(size):
    out = DiffAugment(("cutout",))(torch.ones(3000, 3, size, size))
    side = 8
    zero = out[:, 0] == 0
    assert torch.equal(out == 0, zero[:, None].expand_as(out))
    heights, widths = zero.any(2).sum(1), zero.any(1).sum(1)
    assert torch.equal(zero.sum((1, 2)), heights * widths)
    assert heights.max() == widths.max() == side
    assert heights.min() == widths.min() == 4  # centred at the edge
    boxes = diffaugment.draw_boxes(Dice(MANY, 1.0), size)
    places = size + 1 - side % 2
    assert_share(boxes[:, 0] == -4, 1 / places)
    assert_share(boxes[:, 1] == size - 4 if side % 2 == 0 else size - 5, 1 / places)


def test_diffaugment_always_and_on_the_same_hook():
    images = noise(8, 16).bfloat16()
    augment = DiffAugment()
    out = augment(images)
    assert out.shape == images.shape
    assert out.dtype == torch.bfloat16
    assert ((out != images).flatten(1).any(1)).all()
    augment.observe(sure(2, 3))
    augment.tune()
    assert not augment.state_dict()


# --- making, and bad settings ----------------------------------------------------------------------------


def test_make():
    assert isinstance(make(None), Nothing)
    assert isinstance(make("none"), Nothing)
    assert isinstance(make("diffaugment", operations=["color"]), DiffAugment)
    ada = make("ada", fill="white", target=0.5)
    assert isinstance(ada, Ada)
    assert ada.pipeline.fill == "white"
    assert ada.pipeline.operations == ("blit", "geometry", "color")
    for kind in (None, "diffaugment", "ada"):
        hook = make(kind)
        assert hook(noise(2)).shape == (2, 3, 16, 16)
        hook.observe(sure(2, 3), sure(2, 6))
        hook.tune()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "adda"}, "did you mean 'ada'"),
        ({"kind": "ada", "traget": 0.5}, "did you mean 'target'"),
        ({"kind": "none", "target": 0.5}, "'target'"),
        ({"kind": "ada", "operations": ["blitt"]}, "did you mean 'blit'"),
        ({"kind": "ada", "operations": "colour"}, "did you mean 'color'"),
        ({"kind": "ada", "operations": []}, "use 'none'"),
        ({"kind": "diffaugment", "operations": ["blit"]}, "translation"),
        ({"kind": "ada", "fill": "whit"}, "did you mean 'white'"),
        ({"kind": "ada", "target": 1.5}, "1.5"),
        ({"kind": "ada", "target": float("nan")}, "nan"),
        ({"kind": "ada", "pictures": 0}, "pictures is 0"),
        ({"kind": "ada", "every": 0}, "every is 0"),
        ({"kind": "ada", "limit": 1.2}, "1.2"),
        ({"kind": "ada", "limit": 0.5, "start": 0.6}, "from 0 to 0.5"),
        ({"kind": "ada", "start": "much"}, "'much'"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(Problem) as caught:
        make(**settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_bounds(p):
    with pytest.raises(Problem, match="from 0 to 1"):
        Pipeline()(noise(), p)

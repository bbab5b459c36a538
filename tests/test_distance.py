"""KID and FID against other implementations, closed forms, and repeated sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewtoon.errors import Problem
from fewtoon.metrics.distance import fid, kid

torchmetrics_kid = pytest.importorskip("torchmetrics.image.kid")
torchmetrics_fid = pytest.importorskip("torchmetrics.image.fid")


def two_sets(n=60, m=45, d=24, shift=0.4, seed=0):
    random = np.random.default_rng(seed)
    real = random.standard_normal((n, d)).astype(np.float32)
    fake = (1.2 * random.standard_normal((m, d)) + shift).astype(np.float32)
    return real, fake


def kid_of_gaussians(mean_x, var_x, mean_y, var_y):
    """The KID x1000 of two Gaussians with independent features: (d,) means and variances.

    E (x.y/d + 1)^3 from the first three cumulants of x.y.
    """
    d = len(mean_x)

    def expected(ma, va, mb, vb):
        first = (ma * mb).sum()
        second = (va * mb**2 + vb * ma**2 + va * vb).sum()
        third = 6.0 * (va * vb * ma * mb).sum()
        powers = (first, second + first**2, third + 3.0 * first * second + first**3)
        return 1.0 + 3.0 * powers[0] / d + 3.0 * powers[1] / d**2 + powers[2] / d**3

    within = expected(mean_x, var_x, mean_x, var_x) + expected(mean_y, var_y, mean_y, var_y)
    return 1000.0 * (within - 2.0 * expected(mean_x, var_x, mean_y, var_y))


def test_kid_equals_torchmetrics():
    real, _ = two_sets(n=50)
    _, fake = two_sets(m=50)
    theirs = torchmetrics_kid.poly_mmd(torch.from_numpy(real).double(), torch.from_numpy(fake).double())
    assert kid(real, fake).value == pytest.approx(1000.0 * float(theirs), rel=1e-4)


def test_kid_equals_the_plain_double_sum():
    real, fake = two_sets(n=7, m=5, d=3)

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within_real = np.mean([kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
    within_fake = np.mean([kernel(a, b) for i, a in enumerate(fake) for j, b in enumerate(fake) if i != j])
    between = np.mean([kernel(a, b) for a in real for b in fake])
    assert kid(real, fake).value == pytest.approx(1000 * (within_real + within_fake - 2 * between), rel=1e-5)


def test_kid_does_not_depend_on_how_the_rows_are_cut(monkeypatch):
    real, fake = two_sets(n=60, m=45)
    whole = kid(real, fake)
    monkeypatch.setattr("fewtoon.metrics.distance.ROWS", 7)
    cut = kid(real, fake)
    assert cut.value == pytest.approx(whole.value, rel=1e-5)
    assert cut.high == pytest.approx(whole.high, rel=1e-5)


def test_kid_is_unbiased_and_never_clamped():
    values = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        values.append(kid(random.standard_normal((20, 8)), random.standard_normal((20, 8)), subsets=2).value)
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


# n and m, and how far apart the two Gaussians are.
@pytest.mark.parametrize(("n", "m"), [(38, 38), (300, 300), (300, 38)])
@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_interval_covers_the_true_distance(n, m, shift):
    d, repetitions = 16, 100
    mean, variance = np.full(d, 0.3), np.ones(d)
    other_mean, other_variance = mean.copy(), variance.copy()
    other_mean[:4] += shift
    other_variance[8:] = 1.69
    true = kid_of_gaussians(mean, variance, other_mean, other_variance)
    random = np.random.default_rng(5)
    covered = 0
    for seed in range(repetitions):
        real = mean + np.sqrt(variance) * random.standard_normal((n, d))
        fake = other_mean + np.sqrt(other_variance) * random.standard_normal((m, d))
        found = kid(real.astype(np.float32), fake.astype(np.float32), seed=seed)
        covered += found.low <= true <= found.high
    assert covered >= 0.90 * repetitions, f"covered {covered} of {repetitions}"


def test_interval_is_not_simply_enormous():
    """Far apart, where the theory is exact: the half width is about twice the true spread of the estimate."""
    values, half_widths = [], []
    for seed in range(100):
        real, fake = two_sets(n=100, m=100, shift=1.0, seed=seed)
        found = kid(real, fake)
        values.append(found.value)
        half_widths.append((found.high - found.low) / 2)
    assert 1.5 < np.mean(half_widths) / np.std(values) < 2.6


def test_interval_of_equal_distributions_holds_zero():
    covered = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        found = kid(random.standard_normal((38, 16)), random.standard_normal((38, 16)))
        covered += found.low <= 0 <= found.high
    assert covered >= 46


def test_few_pictures():
    real, fake = two_sets(n=40, m=9)
    assert kid(real, fake).note.startswith("too few to say: 9 pictures")
    lonely = kid(real, fake[:3])
    assert math.isfinite(lonely.value)
    assert math.isnan(lonely.low)
    assert math.isnan(lonely.high)
    assert lonely.note.startswith("too few")


def test_the_yardstick_decides_what_is_too_few():
    random = np.random.default_rng(0)
    real, fake = random.standard_normal((12, 16)), random.standard_normal((12, 16))
    found = kid(real, fake)
    assert found.note is None
    assert "yardstick" in kid(real, fake, yardstick=found.high / 2).note
    assert kid(real, fake, yardstick=found.high * 2).note is None


def test_subsets_are_at_most_half_of_the_smaller_side():
    real, fake = two_sets(n=60, m=45)
    assert kid(real, fake).subset_size == 22
    assert kid(real, fake, subset_size=1000).subset_size == 22
    assert kid(real, fake, subset_size=10).subset_size == 10


def test_kid_is_deterministic():
    real, fake = two_sets()
    assert kid(real, fake, seed=3) == kid(real, fake, seed=3)
    assert kid(real, fake, seed=3).high != kid(real, fake, seed=4).high
    assert kid(real, fake, seed=3).value == kid(real, fake, seed=4).value


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 12), (30, 40, 64), (200, 30, 64)])
def test_fid_equals_torchmetrics(n, m, d):
    real, fake = (x.astype(np.float64) for x in two_sets(n, m, d))
    theirs = torchmetrics_fid._compute_fid(
        torch.from_numpy(real.mean(0)),
        torch.from_numpy(np.cov(real.T)),
        torch.from_numpy(fake.mean(0)),
        torch.from_numpy(np.cov(fake.T)),
    )
    assert fid(real, fake) == pytest.approx(float(theirs), rel=1e-4)


def test_fid_equals_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    real, fake = two_sets(300, 300, 10)
    cov_real, cov_fake = np.cov(real.T.astype(float)), np.cov(fake.T.astype(float))
    root = np.real(linalg.sqrtm(cov_real @ cov_fake))
    shift = real.mean(0) - fake.mean(0)
    expected = shift @ shift + np.trace(cov_real + cov_fake - 2 * root)
    assert fid(real, fake) == pytest.approx(expected, rel=1e-4)


def test_fid_of_gaussians_has_its_closed_form():
    random = np.random.default_rng(0)
    real = random.standard_normal((20000, 4))
    fake = random.standard_normal((20000, 4)) * np.array([1.0, 2.0, 0.5, 1.0]) + np.array([1.0, 0, 0, 0])
    # |shift|^2 + sum of (sigma - sigma')^2
    assert fid(real, fake) == pytest.approx(1.0 + 1.0 + 0.25, rel=0.03)
    assert fid(real, real) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("distance", [kid, fid])
def test_bad_features(distance):
    real, fake = two_sets()
    with pytest.raises(Problem, match="24 columns"):
        distance(real, fake[:, :5])
    with pytest.raises(Problem, match="1 fake pictures"):
        distance(real, fake[:1])
    with pytest.raises(Problem, match="not finite"):
        distance(real, np.where(fake > 1, np.nan, fake))
    with pytest.raises(Problem, match="shape"):
        distance(real[0], fake)


def test_bad_subsets():
    real, fake = two_sets()
    with pytest.raises(Problem, match="subsets is 1"):
        kid(real, fake, subsets=1)
    with pytest.raises(Problem, match="subset_size is 1"):
        kid(real, fake, subset_size=1)

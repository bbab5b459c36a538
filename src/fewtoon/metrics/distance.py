"""Distances between two sets of pictures, given their features: KID with an honest interval, and FID.

Only numpy: a feature vector may come from any network (see `fewtoon.metrics.features`), and a distance
means something only together with the name of that network and the numbers of pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem

FEW = 10  # below this number of pictures on either side an interval is a guess
ROWS = 512  # rows of the kernel matrix in memory at once: N pictures need ROWS x N x 4 bytes, never N x N


@dataclass(frozen=True)
class Distance:
    """A KID (x1000) with its 95 % interval; `low` and `high` are NaN where there is no interval."""

    value: float
    low: float
    high: float
    n_real: int
    n_fake: int
    subset_size: int  # pictures of the smaller side in one subset (the larger side gives the same share)
    subsets: int
    note: str | None = None


def kid(
    real: NDArray[np.floating],
    fake: NDArray[np.floating],
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
    yardstick: float | None = None,
) -> Distance:
    """Kernel Inception Distance x1000 between features `real` (n, d) and `fake` (m, d), n and m >= 2.

    The value is the unbiased estimate of the squared maximum mean discrepancy over *all* pictures, with the
    cubic kernel k(x, y) = (x.y / d + 1)^3 (Binkowski, Sutherland, Arbel, Gretton: Demystifying MMD GANs,
    arXiv 1801.01401, section 4). It can be negative when the sets agree, and is never clamped.

    The 95 % interval comes from `subsets` subsets drawn without replacement from both sides, so that both
    the drawings and the translations count as a sample. A subset that holds the share f of each side
    deviates from the full estimate with (1 - f) / f times the variance of the full estimate itself; the
    spread of the subsets is therefore scaled by sqrt(f / (1 - f)) (subsampling; Politis, Romano, Wolf,
    1999, section 2). The default share is one half, at most 1000 pictures of the smaller side:
    `subset_size` asks for smaller subsets, never for more than half, because subsets of nearly everything
    are all alike. Where both sets follow one distribution the interval is too wide rather than too
    narrow.

    yardstick: a distance that counts as bad (of the untranslated photos, say). The note says "too few to
    say" when the interval covers both zero and the yardstick, or when a side has fewer than ten pictures.
    Raises Problem for fewer than two pictures, unequal or non-finite features.
    """
    real, fake = _checked(real, fake)
    n, m = len(real), len(fake)
    if subsets < 2:
        raise Problem(f"subsets is {subsets}: an interval needs at least 2 subsets")
    smaller = min(n, m)
    size = min(smaller // 2, 1000)
    if subset_size is not None:
        if subset_size < 2:
            raise Problem(f"subset_size is {subset_size}: a subset needs at least 2 pictures")
        size = min(size, subset_size)
    share = size / smaller

    # Column 0 picks every picture, the other columns one subset each: one pass over the kernel serves
    # them all.
    random = np.random.Generator(np.random.PCG64(seed))
    columns = 1 + (subsets if size >= 2 else 0)
    pick_real = _picks(random, n, round(share * n), columns)
    pick_fake = _picks(random, m, round(share * m), columns)
    estimates = 1000.0 * _unbiased_mmd2(real, fake, pick_real, pick_fake)

    value = float(estimates[0])
    low = high = math.nan
    if size >= 2:
        scale = math.sqrt(share / (1.0 - share))
        spread = scale * float(np.sqrt(np.mean((estimates[1:] - value) ** 2)))
        reach = _student_975(smaller - 1) * spread
        low, high = value - reach, value + reach

    note = None
    if smaller < FEW:
        note = f"too few to say: {smaller} pictures on one side"
    elif yardstick is not None and low <= 0.0 and high >= yardstick:
        note = f"too few to say: the interval holds both zero and the yardstick {yardstick:.4g}"
    return Distance(value, low, high, n, m, size, columns - 1, note)


def subset_deviation(value: float, high: float, n_real: int, n_fake: int, subset_size: int) -> float:
    """The deviation that the literature gives with a KID: that of the subsets, not of the estimate.

    Recovered from the `value`, the upper end and the counts of a `Distance` with an interval: what `kid` has scaled
    to the size of the full sets is scaled back. It depends on the size of the subsets, here half of each side.
    """
    smaller = min(n_real, n_fake)
    share = subset_size / smaller
    return (high - value) / _student_975(smaller - 1) / math.sqrt(share / (1.0 - share))


def fid(real: NDArray[np.floating], fake: NDArray[np.floating]) -> float:
    """Frechet Inception Distance between features `real` (n, d) and `fake` (m, d), n and m >= 2.

    |mu_r - mu_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^(1/2)) (Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter:
    GANs trained by a two time-scale update rule, arXiv 1706.08500, equation 6), covariances with n - 1.
    With S_r = X'X / (n - 1) and S_f = Y'Y / (m - 1) the trace of the root is the nuclear norm of XY' over
    sqrt((n - 1)(m - 1)): exact also when there are fewer pictures than features, and no matrix root is
    taken. Biased upwards for few pictures: compare only numbers with the same n and m. Raises Problem as
    `kid` does.
    """
    real, fake = _checked(real, fake)
    shift = real.mean(0, dtype=np.float64) - fake.mean(0, dtype=np.float64)
    x = _deviations(real)  # (min(n, d), d) with x'x = S_r
    y = _deviations(fake)
    root_trace = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(shift @ shift + (x * x).sum() + (y * y).sum() - 2.0 * root_trace)


def _deviations(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """A matrix A with A'A = covariance of `features` (n, d), with min(n, d) rows."""
    centred = features - features.mean(0, dtype=np.float64)
    centred /= math.sqrt(len(features) - 1)
    n, d = centred.shape
    return centred if n <= d else np.asarray(np.linalg.qr(centred, mode="r"))


def _checked(
    real: NDArray[np.floating], fake: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    real, fake = np.asarray(real), np.asarray(fake)
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or features.shape[1] == 0:
            raise Problem(f"{name} features have shape {features.shape}: pass one row per picture")
        if len(features) < 2:
            raise Problem(f"{len(features)} {name} pictures: a distance needs at least 2 on each side")
        if not np.isfinite(features).all():
            raise Problem(f"{name} features are not finite: look for a network that returns NaN")
    if real.shape[1] != fake.shape[1]:
        raise Problem(
            f"real features have {real.shape[1]} columns, fake ones {fake.shape[1]}: use one network for both"
        )
    precision = np.result_type(real, fake, np.float32)
    return real.astype(precision, copy=False), fake.astype(precision, copy=False)


def _picks(random: np.random.Generator, n: int, size: int, columns: int) -> NDArray[np.float32]:
    """(n, columns) zeros and ones: column 0 picks all n, every other one `size` of them at random."""
    picks = np.zeros((n, columns), dtype=np.float32)
    picks[:, 0] = 1.0
    for column in range(1, columns):
        picks[random.permutation(n)[:size], column] = 1.0
    return picks


def _unbiased_mmd2(
    real: NDArray[np.floating],
    fake: NDArray[np.floating],
    pick_real: NDArray[np.float32],
    pick_fake: NDArray[np.float32],
) -> NDArray[np.float64]:
    """The unbiased estimate for each column of the picks: (n, c) and (m, c) zeros and ones -> (c,)."""

    def sums(a: NDArray, b: NDArray, pick_a: NDArray, pick_b: NDArray, same: bool) -> NDArray[np.float64]:
        """For each column the sum of k(a_i, b_j) over its picks; without i = j where a and b are one set."""
        total = np.zeros(pick_a.shape[1])
        for start in range(0, len(a), ROWS):
            rows = slice(start, start + ROWS)
            # The features carry float32 rounding already; the sums of many kernel values are kept in
            # float64.
            base = (a[rows] @ b.T) / a.shape[1] + 1.0
            kernel = base * base * base
            if same:
                np.fill_diagonal(kernel[:, rows], 0.0)
            total += (pick_a[rows] * (kernel @ pick_b)).sum(0, dtype=np.float64)
        return total

    n, m = pick_real.sum(0, dtype=np.float64), pick_fake.sum(0, dtype=np.float64)
    within_real = sums(real, real, pick_real, pick_real, same=True) / (n * (n - 1))
    within_fake = sums(fake, fake, pick_fake, pick_fake, same=True) / (m * (m - 1))
    between = sums(real, fake, pick_real, pick_fake, same=False) / (n * m)
    return within_real + within_fake - 2.0 * between


def _student_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by the expansion of Cornish and Fisher (within 1 % from 4 up)."""
    z, v = 1.959963985, float(max(freedom, 3))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / v ** (i + 1) for i, term in enumerate(terms))

"""How long KID takes, against the plain loop that computes each subset's kernels anew.

    python benchmarks/kid.py --json

Prints one JSON object: CPU seconds (median), and `ratio_fp32` = seconds of the loop / seconds of fewtoon.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from common.measure import machine
from fewtoon.metrics.distance import fid, kid


def plain_loop(real: np.ndarray, fake: np.ndarray, subsets: int, size: int, seed: int) -> float:
    """KID x1000 as the mean over subsets, three kernel matrices for each."""
    random = np.random.default_rng(seed)
    d = real.shape[1]
    values = []
    for _ in range(subsets):
        x = real[random.permutation(len(real))[:size]]
        y = fake[random.permutation(len(fake))[:size]]
        xx, yy, xy = (x @ x.T / d + 1) ** 3, (y @ y.T / d + 1) ** 3, (x @ y.T / d + 1) ** 3
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        values.append(within - 2 * xy.mean())
    return 1000 * float(np.mean(values))


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """(CPU seconds, wall seconds), medians over `repeats`."""
    cpu, wall = [], []
    for _ in range(repeats):
        started = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return statistics.median(cpu), statistics.median(wall)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2000, help="on each side")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--size", type=int, default=1000, help="pictures in a subset")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    options = parser.parse_args()

    random = np.random.default_rng(0)
    # Like Inception features: not negative, about 0.4 on average.
    shape = (options.pictures, options.dim)
    real = np.abs(random.standard_normal(shape)).astype(np.float32) * 0.5
    fake = np.abs(random.standard_normal(shape) + 0.5).astype(np.float32) * 0.5

    found = kid(real, fake, subsets=options.subsets, subset_size=options.size)
    ours_cpu, ours_wall = seconds(
        lambda: kid(real, fake, subsets=options.subsets, subset_size=options.size), options.repeats
    )
    # The loop costs the same for every subset: a tenth of them is measured and scaled.
    part = max(1, options.subsets // 10)
    loop_cpu, loop_wall = seconds(lambda: plain_loop(real, fake, part, options.size, 0), options.repeats)
    loop_cpu, loop_wall = (t * options.subsets / part for t in (loop_cpu, loop_wall))
    few_cpu, _ = seconds(lambda: fid(real[:300], fake[:300]), options.repeats)

    result = {
        "benchmark": "kid",
        "kid_seconds_cpu": round(ours_cpu, 3),
        "kid_seconds_wall": round(ours_wall, 3),
        "loop_seconds_cpu": round(loop_cpu, 3),
        "loop_seconds_wall": round(loop_wall, 3),
        "ratio_fp32": round(loop_cpu / ours_cpu, 2),
        "fid_300_pictures_seconds_cpu": round(few_cpu, 3),
        "kid": round(found.value, 4),
        "kid_by_loop": round(plain_loop(real, fake, part, options.size, 0), 4),
        "settings": {key: value for key, value in vars(options).items() if key != "json"},
        "machine": machine(),
    }
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()

"""Pictures per second of `prepare` beside the bare decoder's, over JPEGs that this file makes itself.

    python benchmarks/prepare.py --json

The bare decoder is Pillow opening and decoding the same files and throwing the pixels away; `prepare` also
hashes the files and the pixels, resizes, and writes the pack. The second baseline decodes and writes the
same number of bytes, which is the least that any such tool must do. All files come from the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, features

from common.measure import machine
from fewtoon.data.prepare import prepare

KINDS = {256: 400, 1024: 120, 3072: 16}  # side of the source in pixels: how many


def texture(side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8 whose spectrum falls like that of photographs (1 / frequency)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1
    grey = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency**1.2, (side, side))
    tint = rng.uniform(0.5, 1.0, 3)
    return np.clip(128 + 45 * (grey / grey.std())[..., None] * tint, 0, 255).astype(np.uint8)


def make(folder: Path, side: int, count: int) -> list[Path]:
    rng = np.random.default_rng(side)
    base = texture(side, rng)
    paths = []
    for i in range(count):
        shifted = np.roll(base, tuple(rng.integers(0, side, 2)), (0, 1))
        paths.append(folder / f"{i:04d}.jpg")
        Image.fromarray(shifted).save(paths[-1], quality=90)
    return paths


def decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def measure(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each, taken in turns so that a busy machine is busy for all."""
    walls: dict[str, list[float]] = {name: [] for name in works}
    cpus: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    return {name: (statistics.median(walls[name]), statistics.median(cpus[name])) for name in works}


def run(side: int, count: int, size: int, repeats: int, workers: int, scratch: Path) -> dict[str, float]:
    source = scratch / str(side)
    source.mkdir()
    paths = make(source, side, count)
    outs = (scratch / f"pack{side}_{i}" for i in range(repeats + 1))
    first = next(outs)
    square = np.zeros((size, size, 3), np.uint8)

    def ours(out: Path | None = None) -> None:
        report = prepare([source], "photos", out or next(outs), size=size, workers=workers, progress=False)
        assert report.accepted == count, report

    def loop() -> None:
        for path in paths:
            decode(path)

    def all_cores() -> None:
        with ThreadPoolExecutor(workers) as executor:
            list(executor.map(decode, paths))

    def with_write() -> None:
        with ThreadPoolExecutor(workers) as executor, tempfile.TemporaryFile(dir=scratch) as file:
            for _ in executor.map(decode, paths):
                file.write(square.data)
            file.flush()
            os.fsync(file.fileno())

    ours(first)
    figures = measure(
        {
            "prepare": ours,
            "loop": loop,
            "all_cores": all_cores,
            "with_write": with_write,
            "again": lambda: ours(first),
        },
        repeats,
    )
    for pack in scratch.glob("pack*"):
        shutil.rmtree(pack)
    wall, cpu = ({name: pair[i] for name, pair in figures.items()} for i in (0, 1))
    return {
        "pictures": count,
        "prepare_per_second": round(count / wall["prepare"], 1),
        "decoder_loop_per_second": round(count / wall["loop"], 1),
        "decoder_all_cores_per_second": round(count / wall["all_cores"], 1),
        "ratio_wall_to_decoder": round(wall["all_cores"] / wall["prepare"], 3),
        "ratio_cpu_to_decoder": round(cpu["all_cores"] / cpu["prepare"], 3),
        "ratio_wall_to_decoder_and_write": round(wall["with_write"] / wall["prepare"], 3),
        "ratio_cpu_to_decoder_and_write": round(cpu["with_write"] / cpu["prepare"], 3),
        "unchanged_seconds": round(wall["again"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--size", type=int, default=256, help="side of the pack's pictures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = {
            side: run(side, count, arguments.size, arguments.repeats, arguments.workers, Path(scratch))
            for side, count in KINDS.items()
        }
    result = {
        "benchmark": "prepare",
        **{
            f"ratio_prepare_vs_decoder_{side}": found["ratio_cpu_to_decoder"]
            for side, found in figures.items()
        },
        **{
            f"ratio_prepare_vs_decoder_and_write_{side}": found["ratio_cpu_to_decoder_and_write"]
            for side, found in figures.items()
        },
        "sources": figures,
        "settings": {
            "size": arguments.size,
            "workers": arguments.workers,
            "repeats": arguments.repeats,
            "statistic": "median; the ratios on top are of CPU seconds",
            "jpeg_quality": 90,
        },
        "machine": {**machine(), "libjpeg": features.version("jpg")},
    }
    if arguments.json:
        print(json.dumps(result))
        return
    for side, found in figures.items():
        print(
            f"{side:5d} px  prepare {found['prepare_per_second']:7.0f}/s  "
            f"bare decoder {found['decoder_all_cores_per_second']:7.0f}/s on {arguments.workers} cores, "
            f"{found['decoder_loop_per_second']:7.0f}/s in a loop  "
            f"CPU ratio {found['ratio_cpu_to_decoder']:.2f}, "
            f"{found['ratio_cpu_to_decoder_and_write']:.2f} to decoding and writing"
        )


if __name__ == "__main__":
    main()

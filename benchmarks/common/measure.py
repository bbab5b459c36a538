"""What the benchmarks share: the machine in words, medians of CPU seconds, one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores, versions of what is installed."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "pillow")}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def interleaved(works: dict[str, Callable[[], Any]], runs: int, warmup: int = 1) -> dict[str, list[float]]:
    """CPU seconds of each work in turn, A B C A B C ..., so that a drift of the machine meets all alike."""
    for _ in range(warmup):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            began = time.process_time()
            work()
            seconds[name].append(time.process_time() - began)
    return seconds


def median_ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over the runs of slow / fast, pair by pair; better than 1 is ours."""
    return round(statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast])), 2)


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def parser(text: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--json", action="store_true", help="one JSON object on one line")
    made.add_argument("--runs", type=int, default=5, help="counted runs (default 5)")
    return made


def tell(result: dict[str, Any], args: argparse.Namespace) -> None:
    print(json.dumps(result) if args.json else json.dumps(result, indent=2))

"""How much of a training step is spent on getting its batch: the pack is decoded, and lies in memory.

Milliseconds per batch of both sides (look-up, flip, enlarge and crop) beside those of the U-GAT-IT light step
that it feeds. `ratio_step_to_batch`: how many times longer the step takes. Then batches of four by each way of
sampling, with the groups of the webtoon literature (1050 / 249 / 49 / 38); `ratio_sampling`: milliseconds of
the proportional ones by those of the dearest other way.
"""

from __future__ import annotations

import numpy as np
import torch

from common.measure import interleaved, machine, medians, parser, tell
from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine.feed import Feed
from ugatit_step import OurStep

SAMPLINGS = ("proportional", "round-robin", "one-per-group", "tempered")
DRAWINGS = {"a": 1050, "b": 249, "c": 49, "d": 38}  # at 64 px 17 MB, at 128 px 68 MB


def samplings(size: int, runs: int) -> dict[str, float]:
    """Way of sampling -> milliseconds of a batch of four on both sides."""
    groups = [name for name, count in DRAWINGS.items() for _ in range(count)]
    pixels = np.random.default_rng(0).integers(0, 256, (len(groups), size, size, 3), dtype=np.uint8)
    packs = [Pack.from_arrays(pixels, side, groups) for side in ("photos", "drawings")]
    works = {}
    for sampling in SAMPLINGS:
        settings = Train(batch=4, sampling=sampling)
        feed, count = Feed(*packs, list(DRAWINGS), settings, torch.device("cpu")), iter(range(10**6))

        def hundred(feed: Feed = feed, count=count) -> None:
            for _ in range(100):
                feed.batch(next(count), 0)

        works[sampling] = hundred
    return {name: round(10 * seconds, 3) for name, seconds in medians(interleaved(works, runs)).items()}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--channels", type=int, default=32)
    args = p.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for size in (64, 128):
        pixels = np.random.default_rng(0).integers(0, 256, (200, size, size, 3), dtype=np.uint8)
        packs = [Pack.from_arrays(pixels, side) for side in ("photos", "drawings")]
        feed = Feed(*packs, [], Train(), torch.device("cpu"))
        step, count = OurStep(size, args.channels, "bf16"), iter(range(10**6))

        def twenty(feed: Feed = feed, count=count) -> None:
            for _ in range(20):
                feed.batch(next(count), 0)

        batch = feed.batch(0, 0)
        seconds = medians(
            interleaved({"twenty": twenty, "step": lambda s=step, b=batch: s(b[0], b[1])}, args.runs)
        )
        figures[size] = {
            "batch_ms": round(50 * seconds["twenty"], 3),
            "step_ms": round(1000 * seconds["step"], 1),
            "batch_of_4_ms": samplings(size, args.runs),
        }
    ratios = {f"ratio_step_to_batch_{s}": round(f["step_ms"] / f["batch_ms"], 1) for s, f in figures.items()}
    for size, found in figures.items():
        proportional, *others = found["batch_of_4_ms"].values()
        ratios[f"ratio_sampling_{size}"] = round(proportional / max(others), 2)
    settings = {"channels": args.channels, "batch": 1, "precision": "bf16", "threads": 1, "runs": args.runs}
    tell({"benchmark": "feed", **ratios, "sizes": figures, "settings": settings, "machine": machine()}, args)


if __name__ == "__main__":
    main()

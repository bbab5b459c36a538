"""How much of a training step is spent on getting its batch: the pack is decoded, and lies in memory.

Milliseconds per batch of both sides (look-up, flip, enlarge and crop) beside those of the U-GAT-IT light step
that it feeds. `ratio_step_to_batch`: how many times longer the step takes.
"""

from __future__ import annotations

import numpy as np
import torch

from common.measure import interleaved, machine, medians, parser, tell
from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine.feed import Feed
from ugatit_step import OurStep


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
        }
    ratios = {f"ratio_step_to_batch_{s}": round(f["step_ms"] / f["batch_ms"], 1) for s, f in figures.items()}
    settings = {"channels": args.channels, "batch": 1, "precision": "bf16", "threads": 1, "runs": args.runs}
    tell({"benchmark": "feed", **ratios, "sizes": figures, "settings": settings, "machine": machine()}, args)


if __name__ == "__main__":
    main()

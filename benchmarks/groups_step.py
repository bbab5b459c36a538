"""What groups, ADA and Face-ID cost: CPU seconds of a training step with each of them, over those of a plain one.

The engine's own step, bf16, one thread, batch 4 with one picture of each of four groups, ADA at p = 0.6. `cost` is
step / plain step; `ratio_all` is plain step / step with groups, ADA and Face-ID together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.measure import interleaved, machine, median_ratio, medians, parser, tell
from fewtoon import config
from fewtoon.engine import loop
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.methods.base import Batch
from ugatit_step import pictures

GROUPS = ["a", "b", "c", "d"]
ADA = ["augment=ada", "ada_start=0.6"]


def step(preset: str, sets: list[str], size: int, channels: int) -> Callable[[], Any]:
    shape = [f"channels={channels}", "batch=4", "precision=bf16", "train.framing=null"]
    trainee = Trainee(config.load(preset, [*shape, *sets]), size, GROUPS, torch.device("cpu"))
    photos, drawings = pictures(size, 4)
    batch = Batch(photos, drawings, torch.arange(4), torch.arange(4), 0)
    watch = Watch(1, quiet=True)
    return lambda: loop.update(trainee, batch, watch)


def main() -> None:
    p = parser(__doc__)
    here = Path(__file__).parents[2] / "shared" / "data"
    p.add_argument("--data", type=Path, default=here, help="folder with weights/face_id")
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--channels", type=int, default=32)
    args = p.parse_args()
    torch.set_num_threads(1)
    face = [f"face_id={args.data / 'weights' / 'face_id' / 'mobilefacenet_foamliu.pt'}"]
    routed = ["generator=resnet", "cam_weight=1000", "cycle_weight=10"]
    works = {
        "plain": ("ugatit-light", []),
        "ada": ("ugatit-light", ADA),
        "face-id": ("ugatit-light", face),
        "groups": ("groups", ["augment=none"]),
        "branches": ("group-branches", routed),
        "all": ("groups", [*ADA, *face]),
        "branches-all": ("group-branches", [*routed, *ADA, *face]),
    }
    made = {name: step(preset, sets, args.size, args.channels) for name, (preset, sets) in works.items()}
    seconds = interleaved(made, args.runs)
    tell(
        {
            "benchmark": "groups_step",
            "ratio_all": median_ratio(seconds, "plain", "all"),
            "ratio_branches_all": median_ratio(seconds, "plain", "branches-all"),
            "cost": {name: median_ratio(seconds, name, "plain") for name in works if name != "plain"},
            "cpu_seconds": medians(seconds),
            "settings": {
                "size": args.size,
                "channels": args.channels,
                "batch": 4,
                "threads": 1,
                "runs": args.runs,
            },
            "machine": machine(),
        },
        args,
    )


if __name__ == "__main__":
    main()

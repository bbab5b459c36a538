"""Projection of photos to W+: time per photo, and where it goes.

A step is the generator's forward and backward pass, the likeness's, and the rest: noise, Adam, bookkeeping. The first
two are timed alone on the same shapes and in turn with whole projections; the rest is what is left. Random weights and
random photos: the work is the same. With `--backbone` and `--heads` the likeness is LPIPS, otherwise SSIM.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.measure import machine, parser, tell
from fewtoon import config, methods
from fewtoon.latent.inversion import Settings, average, invert
from fewtoon.latent.sources import Source
from fewtoon.losses.perceptual import open_likeness
from fewtoon.style import Style


def made(size: int, base: int, most: int, device: str) -> Source:
    """A generator of random weights."""
    kind = methods.find("stylegan")
    torch.manual_seed(0)
    plan = {"channel_base": base, "channel_max": most, "latent": min(512, most), "style": min(512, most)}
    method = kind(config.section(kind.Config, plan, "model"), size, (), training=False)
    return Source("random", Style(method, {}, device, "fp32"), "random", Path("random"), "")


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--channel-base", type=int, default=2048)
    p.add_argument("--channel-max", type=int, default=128)
    p.add_argument("--photos", type=int, default=4, help="in one batch")
    p.add_argument("--steps", type=int, default=20, help="of a counted projection")
    p.add_argument("--backbone", help="VGG16 in torchvision's layout")
    p.add_argument("--heads", help="vgg.pth of LPIPS v0.1")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    torch.set_num_threads(1)
    source = made(args.size, args.channel_base, args.channel_max, args.device)
    likeness = open_likeness(args.backbone, args.heads, args.device)
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(args.photos, 3, args.size, args.size, generator=generator).to(args.device) * 2 - 1
    codes = average(source).expand(args.photos, -1, -1)
    synthesis = source.method.generator.synthesis
    steps = args.steps
    settings = Settings(steps=steps, batch=args.photos, patience=steps + 1)
    with torch.no_grad():
        wanted = likeness.describe(photos)
        picture = synthesis(codes, "fixed")
    ahead = torch.randn_like(picture)

    def drawing() -> None:
        for _ in range(steps):
            w = codes.detach().clone().requires_grad_()
            torch.autograd.grad(synthesis(w, "fixed"), w, ahead)

    def comparing() -> None:
        for _ in range(steps):
            x = picture.detach().clone().requires_grad_()
            loss = (x - photos).square().mean((1, 2, 3)) + likeness.compare(likeness.describe(x), wanted)
            torch.autograd.grad(loss.sum(), x)

    works: dict[str, Callable[[], Any]] = {
        "generator": drawing,
        "likeness": comparing,
        "whole": lambda: invert(source, photos, likeness, settings),
        # What is there once, whatever the number of steps: the spread of w, and one evaluation more than steps.
        "once": lambda: invert(source, photos, likeness, Settings(steps=0, batch=args.photos)),
    }
    on_gpu = args.device != "cpu"

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() if on_gpu else time.process_time()

    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(args.runs + 1):
        for name, work in works.items():
            began = clock()
            work()
            if run:  # the first warms up
                seconds[name].append(clock() - began)
    # Pairs of one run, because the machine drifts; then the median.
    each = [dict(zip(seconds, values)) for values in zip(*seconds.values())]
    moving = [one["whole"] - one["once"] for one in each]
    share = {
        name: statistics.median(one[name] / all_ for one, all_ in zip(each, moving))
        for name in ("generator", "likeness")
    }
    share["rest"] = 1 - share["generator"] - share["likeness"]
    step = statistics.median(moving) / steps
    default = Settings().steps
    tell(
        {
            "benchmark": "project",
            "settings": {
                "size": args.size,
                "channels": list(source.method.channels),
                "photos": args.photos,
                "likeness": likeness.facts()["name"],
                "steps": steps,
                "runs": args.runs,
                "threads": 1,
                "device": args.device,
            },
            "machine": machine(),
            "shares": {name: round(value, 3) for name, value in share.items()},
            # The whole of a step over what the generator alone needs: 1 would be no overhead at all.
            "ratio_generator_to_step": round(share["generator"], 3),
            "seconds_per_step": round(step, 5),
            "seconds_per_photo": round(
                (step * default + statistics.median(seconds["once"])) / args.photos, 3
            ),
            "seconds_per_photo_of_steps": default,
            "clock": "wall" if on_gpu else "cpu",
        },
        args,
    )


if __name__ == "__main__":
    main()

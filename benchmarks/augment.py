"""What the whole augmentation costs, beside the paper's way restated plainly: every operation, the whole batch.

Batches of four pictures at p = 0.6, all six operations, on one thread; both carry out the same plans, drawn
within the measured time. `ratio_SIZE`: CPU seconds of the plain way / ours, pictures only (a discriminator's
step); `ratio_SIZE_gradient`: with the gradient of the pictures (a generator's step); `ratio_SIZE_few`: pictures
only, at p = 0.05. `difference_SIZE`: the largest difference of a pixel between both where only the inside of
the pictures is seen: beyond its margin the plain way sees grey, where ours goes on mirroring.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.measure import interleaved, machine, median_ratio, medians, parser, tell
from fewtoon.augment.geometry import CENTRE, SYM6, TAPS, moved, scaled, sources, turned
from fewtoon.augment.pipeline import Pipeline, Plan
from fewtoon.augment.pixels import filters

BATCH, REPEATS = 4, 10


def plain(images: Tensor, plan: Plan) -> Tensor:
    """Karras et al., arXiv:2006.06676, appendix B: pad, enlarge, look up, shrink, crop; colours; octaves; ..."""
    b, channels, size, _ = images.shape
    for drawn in (plan.origins, plan.colours, plan.gains, plan.noise, plan.boxes):
        assert drawn is not None
    x = plain_warp(images, plan.origins)

    colours = torch.from_numpy(plan.colours).float()
    x = (colours[:, :3, :3] @ x.flatten(2) + colours[:, :3, 3:]).view(images.shape)

    taps = (torch.from_numpy(plan.gains) @ torch.from_numpy(np.stack(filters()))).float()
    taps = taps.repeat_interleave(channels, 0)[:, None]
    x = F.pad(x, [21] * 4, mode="reflect").reshape(1, b * channels, size + 42, size + 42)
    x = F.conv2d(F.conv2d(x, taps[:, :, None], groups=b * channels), taps[..., None], groups=b * channels)
    x = x.view(images.shape)

    deviations = torch.from_numpy(plan.noise[0]).float()
    noise = torch.zeros(images.shape)
    noise[deviations > 0] = plan.noise[1]
    x = x + noise * deviations.view(-1, 1, 1, 1)

    left, top, right, bottom = torch.from_numpy(plan.boxes).T[:, :, None, None]
    line = torch.arange(size)
    inside = (line >= left) & (line < right) & (line[:, None] >= top) & (line[:, None] < bottom)
    return x * (~inside[:, None]).float()


def plain_warp(images: Tensor, origins: np.ndarray) -> Tensor:
    """All pictures padded by what the furthest look-up of any of them needs, at most by their size less one."""
    b, channels, size, _ = images.shape
    corners = np.array([[-3, size + 2, -3, size + 2], [-3, -3, size + 2, size + 2], [1, 1, 1, 1]])
    reached = (origins @ corners)[:, :2]
    margin = int(np.ceil(max(-reached.min(), reached.max() - size + 1, 0))) + 6
    margin = min(margin, size - 1)
    x = F.pad(images, [margin] * 4, mode="reflect")
    wide = size + 2 * margin
    taps = torch.from_numpy(SYM6).float().expand(channels, 1, 1, -1)

    large = torch.zeros(b, channels, wide, 2, wide, 2)
    large[:, :, :, 0, :, 0] = x
    large = F.pad(large.view(b, channels, 2 * wide, 2 * wide), [TAPS - 1] * 4)
    turned = taps.flip(3) * 2**0.5  # conv2d does not turn its filter round
    large = F.conv2d(F.conv2d(large, turned, groups=channels), turned.transpose(2, 3), groups=channels)
    length = large.shape[-1]  # pixel x lies at 2 (x + margin) + CENTRE

    into = moved(2 * margin + CENTRE, 2 * margin + CENTRE) @ scaled(2.0, 2.0)
    back = scaled(0.5, 0.5) @ moved(-CENTRE, -CENTRE)
    normal = moved(-1.0, -1.0) @ scaled(2 / (length - 1), 2 / (length - 1))
    m = torch.from_numpy(normal @ into @ origins @ back).float()
    side = 2 * size - 2 + TAPS
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).float()
    places = torch.einsum("bij,hwj->bhwi", m[:, :2], places)
    out = F.grid_sample(large, places, align_corners=True)

    taps = taps / 2**0.5
    out = F.conv2d(out, taps, stride=(1, 2), groups=channels)
    return F.conv2d(out, taps.transpose(2, 3), stride=(2, 1), groups=channels)


def difference(pipeline: Pipeline, images: Tensor) -> float:
    """Of both ways on one plan, turned and enlarged so that nothing is looked up outside of the pictures."""
    plan = pipeline.draw(BATCH, images.shape[-1], 0.6)
    plan.origins = sources(np.repeat(turned(0.2) @ scaled(1.5, 1.4), BATCH, 0), images.shape[-1])
    return round((plain(images, plan) - pipeline.carry_out(images, plan)).abs().max().item(), 6)


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipeline, figures, ratios = Pipeline(), {}, {}
    for size in (64, 128):
        images = torch.rand(BATCH, 3, size, size) * 2 - 1

        def ours(p: float = 0.6, gradient: bool = False, images: Tensor = images) -> None:
            torch.manual_seed(0)
            for _ in range(REPEATS):
                x = images.clone().requires_grad_(gradient)
                out = pipeline(x, p)
                if gradient:
                    out.sum().backward()

        def theirs(p: float = 0.6, gradient: bool = False, images: Tensor = images) -> None:
            torch.manual_seed(0)
            for _ in range(REPEATS):
                x = images.clone().requires_grad_(gradient)
                out = plain(x, pipeline.draw(BATCH, images.shape[-1], p))
                if gradient:
                    out.sum().backward()

        for suffix, p, gradient in (("", 0.6, False), ("_gradient", 0.6, True), ("_few", 0.05, False)):
            works = {
                "ours": lambda f=ours, p=p, g=gradient: f(p, g),
                "plain": lambda f=theirs, p=p, g=gradient: f(p, g),
            }
            seconds = interleaved(works, args.runs)
            ratios[f"ratio_{size}{suffix}"] = median_ratio(seconds, "plain", "ours")
            figures[f"{size}{suffix}"] = {
                f"{name}_ms": round(1000 * value / REPEATS, 2) for name, value in medians(seconds).items()
            }
        ratios[f"difference_{size}"] = difference(pipeline, images)
    settings = {"batch": BATCH, "operations": list(pipeline.operations), "threads": 1, "runs": args.runs}
    tell(
        {"benchmark": "augment", **ratios, "batches": figures, "settings": settings, "machine": machine()},
        args,
    )


if __name__ == "__main__":
    main()

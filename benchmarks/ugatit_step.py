"""One U-GAT-IT light training step against the published schedule, restated plainly in common/plain.py.

Same weights, same pictures: first losses and gradients are compared, then CPU seconds of whole steps (both
optimisers included) are measured in turn, on one thread. `--memory` adds the peak memory of one step at
256 px, 64 channels, each in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

from common.measure import interleaved, machine, median_ratio, medians, parser, tell
from common.plain import PlainStep, norm
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.ugatit import DISCRIMINATORS, GENERATORS, UGATIT


def plain_name(ours: str) -> str:
    """Our parameter or buffer name -> its name in common/plain.py."""
    name = ours.removeprefix("cam.") if ours.startswith("cam.") else ours
    spectral = name.split(".")[0] in ("convs", "cam_average", "cam_maximum", "last")
    if spectral and not name.endswith("bias"):
        stem, last = name.rsplit(".", 1)
        name = f"{stem}.{ {'weight': 'weight_orig', 'u': 'weight_u', 'v': 'weight_v'}[last] }"
    return name


def to_plain(name: str, tensor: torch.Tensor, shape: torch.Size, weight: torch.Tensor | None) -> torch.Tensor:
    if name.endswith("weight_v") and weight is not None and weight.ndim == 4:
        _, i, k, _ = weight.shape
        return tensor.view(k, k, i).permute(2, 0, 1).flatten()
    return tensor.reshape(shape)


def copy_weights(ours: UGATIT, plain: PlainStep) -> None:
    for name, network in ours.networks().items():
        target, mine = plain.networks[name].state_dict(), network.state_dict()
        for key, tensor in mine.items():
            there = plain_name(key)
            weight = mine.get(key[:-1] + "weight") if key.endswith(".v") else None
            target[there].copy_(to_plain(there, tensor, target[there].shape, weight))


class OurStep:
    """The engine's step without its bookkeeping."""

    def __init__(
        self, size: int, channels: int, precision: str, update: bool = True, device: str = "cpu"
    ) -> None:
        torch.manual_seed(0)
        self.method = UGATIT(UGATIT.Config(channels=channels, published_attention=True), size)
        for network in self.method.networks().values():
            network.to(device)
        self.optimizers = self.method.optimizers()
        self.precision, self.update, self.device = precision, update, device
        self.norms: dict[str, float] = {}
        self.judges = [p for n in DISCRIMINATORS for p in self.method.networks()[n].parameters()]

    def __call__(self, photos: torch.Tensor, drawings: torch.Tensor):
        batch = Batch(photos, drawings, torch.empty(0), torch.empty(0), 0)
        shared, seen = Shared(), {}
        for phase in self.method.phases():
            for p in self.judges:
                p.requires_grad_(phase.name == "D")
            optimizer = self.optimizers[phase.optimizer]
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
                losses = phase.losses(batch, shared)
            torch.stack([phase.weights[k] * v for k, v in losses.items()]).sum().backward()
            if self.update:
                optimizer.step()
                self.method.after_step(phase.name)
            else:
                names = DISCRIMINATORS if phase.name == "D" else GENERATORS
                self.norms |= {name: norm(self.method.networks()[name]) for name in names}
            seen[phase.name] = losses
        return seen["D"], seen["G"]


def compare(size: int, channels: int) -> dict[str, float]:
    """The largest relative differences of the losses and of each network's gradient norm.

    Norms, because single entries differ by some 1e-3 between float32 and float64 of one and the same code
    already: the absolute values in the losses and the ReLUs have kinks.
    """
    ours, plain = OurStep(size, channels, "fp32", update=False), PlainStep(channels)
    for name in DISCRIMINATORS:
        for module in ours.method.networks()[name].modules():
            if hasattr(module, "sigma"):
                for _ in range(100):  # so that a further power iteration changes nothing
                    module.sigma(update=True)
    copy_weights(ours.method, plain)
    photos, drawings = pictures(size, 1)
    mine, theirs = ours(photos, drawings), plain(photos, drawings, update=False)
    loss = max(
        abs(a[k].item() - b[k].item()) / max(abs(b[k].item()), 1e-8) for a, b in zip(mine, theirs) for k in b
    )
    worst = max(abs(ours.norms[name] / value - 1) for name, value in plain.norms.items())
    return {"loss_difference": loss, "gradient_norm_difference": worst}


def pictures(size: int, batch: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    both = torch.rand(2, batch, 3, size, size, generator=generator) * 2 - 1
    return tuple(x.to(device).contiguous(memory_format=torch.channels_last) for x in both)


def peak(which: str, size: int, channels: int) -> float:
    """Peak memory in GB of one step, in a process of its own."""
    command = [sys.executable, __file__, "--peak", which, "--size", str(size), "--channels", str(channels)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def make(which: str, size: int, channels: int, batch: int):
    photos, drawings = pictures(size, batch)
    if which == "plain":
        torch.manual_seed(0)
        step = PlainStep(channels)
        photos, drawings = photos.contiguous(), drawings.contiguous()
    else:
        step = OurStep(size, channels, which)
    return lambda: step(photos, drawings)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--channels", type=int, default=32)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--memory", action="store_true", help="also measure peak memory at 256 px, 64 channels")
    p.add_argument(
        "--peak", choices=["plain", "fp32", "bf16"], help="print the peak memory of one kind and stop"
    )
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        work = make(args.peak, args.size, args.channels, args.batch)
        work()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return
    works = {which: make(which, args.size, args.channels, args.batch) for which in ("plain", "fp32", "bf16")}
    seconds = interleaved(works, args.runs)
    result = {
        "benchmark": "ugatit_step",
        "ratio_fp32": median_ratio(seconds, "plain", "fp32"),
        "ratio_bf16": median_ratio(seconds, "plain", "bf16"),
        "cpu_seconds": medians(seconds),
        **compare(args.size, args.channels),
        "settings": {
            "size": args.size,
            "channels": args.channels,
            "batch": args.batch,
            "threads": 1,
            "runs": args.runs,
        },
        "machine": machine(),
    }
    if args.memory:
        memory = {which: round(peak(which, 256, 64), 2) for which in ("plain", "fp32", "bf16")}
        result["peak_gb_256px_64ch"] = memory
        result["ratio_memory_fp32"] = round(memory["plain"] / memory["fp32"], 2)
        result["ratio_memory_bf16"] = round(memory["plain"] / memory["bf16"], 2)
    tell(result, args)


if __name__ == "__main__":
    main()

"""A method that trains in milliseconds, its packs, and a driver that kills its own trainings.

One network draws, one judges, one is frozen whole; the fakes of phase D are used again in phase G.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon import methods
from fewtoon.config import Config, Strict, Train
from fewtoon.data.pack import Pack
from fewtoon.methods.base import Batch, Method, Phase, Shared


class Remembers(nn.Module):
    """Passes pictures through and keeps a running mean: a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 2, 3)).float(), 0.1)
        return x


def net(last: int) -> nn.Sequential:
    layers = [Remembers(), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, last, 3, padding=1)]
    return nn.Sequential(*layers)


class Toy(Method):
    name = "toy"
    paper = "none"
    poisoned: ClassVar[list[tuple[str, int]]] = []  # (phase, step) whose loss is not a number, once each
    fits: ClassVar[int] = 1000  # pictures at once; more are out of memory
    drawn: ClassVar[int] = 0  # times that photos were drawn in training

    class Config(Strict):
        rate: float = 1e-3
        noise: float = 0.05  # drawn from torch's global generator

    def __init__(self, config: Strict, size: int, groups: Sequence[str] = (), training: bool = True) -> None:
        super().__init__(config, size, groups, training)
        self.drawer = net(3)
        if training:
            self.judge = net(1)
            self.fixed = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))

    def networks(self) -> dict[str, nn.Module]:
        if not self.training:
            return {"drawer": self.drawer}
        return {"drawer": self.drawer, "judge": self.judge, "fixed": self.fixed}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        rate = self.config.rate  # type: ignore[attr-defined]
        judged = [p for name, p in self.judge.named_parameters() if name != "1.weight"]
        return {
            "G": torch.optim.Adam(self.drawer.parameters(), rate, betas=(0.5, 0.99)),
            "D": torch.optim.Adam(judged, rate),
        }

    def phases(self) -> list[Phase]:
        return [
            Phase("D", "D", self.judge_losses),
            Phase("G", "G", self.drawer_losses, {"cycle": 10.0}),
            Phase("R", "D", self.penalty, every=2),
        ]

    def fakes(self, batch: Batch, shared: Shared) -> Tensor:
        if "fakes" not in shared:
            Toy.drawn += 1
            shared["fakes"] = self.drawer(batch.photos)
        return shared["fakes"]

    def check(self, phase: str, batch: Batch) -> float:
        if len(batch.photos) > Toy.fits:
            raise torch.OutOfMemoryError("the toy ran out of memory")
        if (phase, batch.step) in Toy.poisoned:
            Toy.poisoned.remove((phase, batch.step))
            return float("nan")
        return 1.0

    def judge_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        factor = self.check("D", batch)
        with torch.set_grad_enabled(shared.kept):
            fakes = self.fakes(batch, shared).detach()
        noise = self.config.noise * torch.randn_like(fakes)  # type: ignore[attr-defined]
        real, fake = self.judge(batch.drawings), self.judge(fakes + noise)
        return {"real": factor * (real - 1).square().mean(), "fake": fake.square().mean()}

    def drawer_losses(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        factor = self.check("G", batch)
        fakes = self.fakes(batch, shared)
        self.fixed(batch.photos)  # would move running statistics, were it not frozen whole
        cycle = factor * F.l1_loss(fakes, batch.photos)
        return {"adversarial": (self.judge(fakes) - 1).square().mean(), "cycle": cycle}

    def penalty(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        return {"size": self.judge(batch.drawings).square().mean()}

    def after_step(self, phase: str) -> None:
        if phase == "G":
            with torch.no_grad():
                self.drawer[3].bias.clamp_(-0.05, 0.05)

    def translate(self, photos: Tensor, group: str | None = None) -> Tensor:
        return torch.tanh(self.drawer(photos))


def pack(side: str, seed: int, count: int = 24, size: int = 16) -> Pack:
    """Random pictures in two groups, ten of them held out."""
    pictures = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    splits = ["held_out"] * 10 + ["train"] * (count - 10)
    return Pack.from_arrays(pictures, side, groups=["a", "b"] * (count // 2), splits=splits)


def config(rate: float = 1e-3, noise: float = 0.05, **train: Any) -> Config:
    short = {"log_every": 3, "state_every": 4, "preview_every": 8, "metric_every": 5, "preview_pictures": 2}
    settings = Train(**{"steps": 12, "batch": 2, **short, **train})
    return Config(method="toy", model=Toy.Config(rate=rate, noise=noise), train=settings)


def train(out: Path, **changes: Any) -> dict[str, Any]:
    from fewtoon.engine.train import train

    about = {
        key: changes.pop(key) for key in ("init", "track", "photos", "drawings", "quiet") if key in changes
    }
    about = {
        "photos": pack("photos", 1),
        "drawings": pack("drawings", 2),
        "track": (),
        "quiet": True,
        **about,
    }
    return train(config(**changes), out=out, device="cpu", **about)


# --- the driver: one process imports torch, its children are killed --------------------------------------


def arm(call: str, number: int, after: bool) -> None:
    """From here on the `number`th call of os.`call` ends this process as a power cut would."""
    real, left = getattr(os, call), [number]

    def deadly(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, call, deadly)


def drive(out: str, steps: int, moments: list[list[Any]]) -> list[int]:
    """Start the same training again and again, each time killed at a moment, at last not; how each ended."""
    import torch._dynamo  # what the children would import one by one

    import fewtoon.engine.train  # noqa: F401

    methods.find = lambda name: Toy  # type: ignore[assignment]
    torch.set_num_threads(1)
    ends = []
    for moment in [*moments, None]:
        child = os.fork()
        if child == 0:
            if moment and moment[0] == "seconds":
                threading.Timer(moment[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
            elif moment:
                arm(*moment)
            try:
                train(Path(out), steps=steps, quiet=moment is not None)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return ends


if __name__ == "__main__":
    print(json.dumps(drive(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))))

"""One StyleGAN2 training step against two published formulations, restated plainly in common/plain_stylegan.py.

Same weights, same random numbers: first losses and gradients are compared in float64, then CPU seconds of each phase
on one thread, in turn: D, R1, G and path length. A whole step has R1 every 16 and path length every 4 steps, as
published. `--sampling` measures pictures per second instead.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.measure import machine, parser, tell
from common.plain_stylegan import PlainDiscriminator, PlainGenerator, formulation
from fewtoon.nets.stylegan2 import Discriminator, Generator, channel_plan
from fewtoon.nets.twice import weights_aside

EVERY = {"D": 1, "R1": 16, "G": 1, "path": 4}
Phases = dict[str, Callable[[], Tensor]]


class Given:
    """Weights and random numbers of a step."""

    def __init__(
        self, size: int, base: int, most: int, batch: int, dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        self.size, self.batch = size, batch
        self.channels, self.latent = channel_plan(size, base, most), min(512, most)
        self.drawer = Generator(size, self.channels, self.latent, self.latent).to(dtype)
        self.judge = Discriminator(size, self.channels).to(dtype)
        for name, parameter in self.drawer.named_parameters():
            if name.endswith("strength"):
                parameter.data.fill_(0.1)
        synthesis = self.drawer.synthesis
        self.z = torch.randn(batch, self.latent, dtype=dtype)
        self.real = torch.randn(batch, 3, size, size, dtype=dtype).clamp(-1, 1)
        self.noise = [
            torch.randn(batch, 1, *conv.noise.shape, dtype=dtype)
            for r in synthesis.sizes
            for conv in synthesis.block(r).convs()
        ]
        self.few = max(1, batch // 2)
        self.direction = torch.randn(self.few, 3, size, size, dtype=dtype) / size

    def ours(self, precision: str) -> tuple[nn.Module, nn.Module, Phases]:
        drawer = self.drawer.to(memory_format=torch.channels_last)
        judge = self.judge.to(memory_format=torch.channels_last)
        shared: dict[str, Tensor] = {}

        def cast() -> Any:
            return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

        def d() -> Tensor:
            asked(drawer, True), asked(judge, True)
            with cast():
                shared["fakes"] = drawer.synthesis(drawer.mapping(self.z), self.noise)
                logit = judge(torch.cat([self.real, shared["fakes"].detach()]), halves=2)
            n = len(self.real)
            return done(F.softplus(-logit[:n]).mean() + F.softplus(logit[n:]).mean())

        def g() -> Tensor:
            asked(judge, False)
            with cast():
                loss = F.softplus(-judge(shared.pop("fakes"))).mean()
            return done(loss)

        def r1() -> Tensor:
            asked(judge, True)
            real = self.real.clone().requires_grad_()
            with cast():
                logit = judge(real)
                with weights_aside():
                    (gradient,) = torch.autograd.grad(logit.sum(), real, create_graph=True)
                return done(gradient.square().sum((1, 2, 3)).mean() * 5)

        def path() -> Tensor:
            asked(drawer, True)
            with cast():
                w = drawer.mapping(self.z[: self.few])
                ws = w[:, None].expand(-1, drawer.codes, -1)
                image = drawer.synthesis(ws, [n[: self.few] for n in self.noise])
                with weights_aside():
                    (gradient,) = torch.autograd.grad((image * self.direction).sum(), ws, create_graph=True)
                return done(lengthened(gradient))

        return drawer, judge, {"D": d, "R1": r1, "G": g, "path": path}

    def plain(self, kind: str) -> tuple[nn.Module, nn.Module, Phases]:
        dtype = self.z.dtype
        drawer = PlainGenerator(self.size, self.channels, self.latent, self.latent, 8).to(dtype)
        judge = PlainDiscriminator(self.size, self.channels).to(dtype)
        drawer.load_state_dict(self.drawer.state_dict())
        judge.load_state_dict(self.judge.state_dict())

        def d() -> Tensor:
            asked(drawer, False), asked(judge, True)
            fakes = drawer(self.z, self.noise)
            return done(F.softplus(-judge(self.real)).mean() + F.softplus(judge(fakes)).mean())

        def g() -> Tensor:
            asked(drawer, True), asked(judge, False)
            return done(F.softplus(-judge(drawer(self.z, self.noise))).mean())

        def r1() -> Tensor:
            asked(judge, True)
            real = self.real.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(judge(real).sum(), real, create_graph=True)
            return done(gradient.square().sum((1, 2, 3)).mean() * 5)

        def path() -> Tensor:
            asked(drawer, True)
            ws = drawer.mapping(self.z[: self.few])[:, None].repeat(1, 2 * len(self.channels), 1)
            image = drawer.synthesis(ws, [n[: self.few] for n in self.noise])
            (gradient,) = torch.autograd.grad((image * self.direction).sum(), ws, create_graph=True)
            return done(lengthened(gradient))

        def within(phase: Callable[[], Tensor]) -> Callable[[], Tensor]:
            def run() -> Tensor:
                with formulation(kind):
                    return phase()

            return run

        return (
            drawer,
            judge,
            {name: within(p) for name, p in {"D": d, "R1": r1, "G": g, "path": path}.items()},
        )


def asked(network: nn.Module, whether: bool) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(whether)


def done(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def lengthened(gradient: Tensor) -> Tensor:
    lengths = gradient.square().sum(2).mean(1).sqrt()
    return 2 * (lengths - 0.1).square().mean()


def clear(*networks: nn.Module) -> None:
    for network in networks:
        network.zero_grad(set_to_none=True)


def compare(batch: int) -> dict[str, float]:
    """The largest relative difference of losses, and of the gradient of any parameter, in float64 at 32 px.

    In float64, because leaky ReLUs have kinks: in float32 single gradients of one and the same code differ by some
    1e-3 when sums are added in another order.
    """
    given = Given(32, 512, 32, batch, torch.float64)
    ours, plain = given.ours("fp64"), given.plain("grouped")
    loss = gradient = 0.0
    for name in EVERY:
        clear(*ours[:2], *plain[:2])
        mine, theirs = ours[2][name](), plain[2][name]()
        loss = max(loss, abs(float(mine / theirs) - 1))
        for one, other in zip(ours[:2], plain[:2]):
            grads = dict(other.named_parameters())
            for key, parameter in one.named_parameters():
                if parameter.grad is not None and grads[key].grad is not None and grads[key].grad.any():
                    # Phase D leaves the fakes' graph to phase G, so a gradient is there in both or in neither.
                    far = (parameter.grad - grads[key].grad).norm() / grads[key].grad.norm()
                    gradient = max(gradient, float(far))
    return {"loss_difference": loss, "gradient_difference": gradient}


def measure(given: Given, runs: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each phase: median over runs, all kinds in turn."""
    kinds = {
        "grouped": given.plain("grouped"),
        "shared": given.plain("shared"),
        "fp32": given.ours("fp32"),
        "bf16": given.ours("bf16"),
    }
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in EVERY} for kind in kinds}
    for run in range(runs + 1):
        for kind, (drawer, judge, phases) in kinds.items():
            for name, phase in phases.items():
                clear(drawer, judge)
                began = time.process_time()
                phase()
                if run:  # the first warms up
                    seconds[kind][name].append(time.process_time() - began)
    return {
        kind: {name: statistics.median(times) for name, times in of.items()} for kind, of in seconds.items()
    }


def sampling(given: Given, runs: int) -> dict[str, float]:
    """CPU seconds per picture: ours draws one at a time, the plain formulations the whole batch."""
    plain = given.plain("grouped")[0]
    drawer = given.ours("fp32")[0]
    works: dict[str, Callable[[], Any]] = {
        "grouped": lambda: plain(given.z, given.noise),
        "fp32": lambda: [drawer(z[None]) for z in given.z],
    }

    def rounded() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            works["fp32"]()

    works["bf16"] = rounded
    found: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for run in range(runs + 1):
            for name, work in works.items():
                began = time.process_time()
                work()
                if run:
                    found[name].append((time.process_time() - began) / given.batch)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--channel-base", type=int, default=16384)
    p.add_argument("--channel-max", type=int, default=512)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--sampling", action="store_true", help="pictures per second instead of training steps")
    args = p.parse_args()
    torch.set_num_threads(1)
    given = Given(args.size, args.channel_base, args.channel_max, args.batch)
    settings = {
        "size": args.size,
        "channels": given.channels,
        "batch": args.batch,
        "threads": 1,
        "runs": args.runs,
    }
    result: dict[str, Any] = {"benchmark": "stylegan_step", "settings": settings, "machine": machine()}
    if args.sampling:
        each = sampling(given, args.runs)
        result |= {"benchmark": "stylegan_sampling", "cpu_seconds_per_picture": each}
        result |= {f"ratio_{kind}": round(each["grouped"] / each[kind], 2) for kind in ("fp32", "bf16")}
        tell(result, args)
        return
    result |= compare(args.batch)
    print("gradients compared", file=sys.stderr)
    parts = measure(given, args.runs)
    whole = {kind: math.fsum(of[name] / EVERY[name] for name in EVERY) for kind, of in parts.items()}
    for kind in ("fp32", "bf16"):
        result[f"ratio_{kind}"] = round(whole["grouped"] / whole[kind], 2)
        result[f"ratio_{kind}_to_shared"] = round(whole["shared"] / whole[kind], 2)
        result[f"ratio_{kind}_parts"] = {
            name: round(parts["grouped"][name] / parts[kind][name], 2) for name in EVERY
        }
    result["cpu_seconds_of_a_step"] = {kind: round(seconds, 4) for kind, seconds in whole.items()}
    result["cpu_seconds"] = {
        kind: {name: round(seconds, 4) for name, seconds in of.items()} for kind, of in parts.items()
    }
    tell(result, args)


if __name__ == "__main__":
    main()

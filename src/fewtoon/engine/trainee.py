"""Everything that a training changes, in one object: what is saved is this, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewtoon import methods, style
from fewtoon.config import Config
from fewtoon.engine import checkpoint, seed
from fewtoon.engine.average import Average
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash


@dataclasses.dataclass
class Counters:
    """The numbers of a state; all of them are saved."""

    step: int = 0  # updates done
    attempt: int = 0  # times the run went back to an earlier state: another sub-seed each time
    micro_batch: int = 1  # pictures of a side at once on the device
    skipped: int = 0  # optimiser steps left out because of a number that was not finite
    bad_in_a_row: int = 0  # steps with such a number, up to now without a break
    best_kid: float | None = None
    best_step: int = 0
    log_bytes: int = 0  # length of log.jsonl
    sums: dict[str, list[float]] = dataclasses.field(
        default_factory=dict
    )  # since the last line: [sum, count]


class Trainee:
    """Networks, optimisers, averaged weights and counters.

    method: with all networks, trained. artist: the Style with the averaged weights, which draws.
    """

    def __init__(self, config: Config, size: int, groups: list[str], device: torch.device) -> None:
        train = config.train
        kind = methods.find(config.method)
        seed.everywhere(train.seed, 0, 0, "networks")
        self.config, self.device = config, device
        self.method = kind(config.model, size, groups, training=True)
        for network in self.method.networks().values():
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = self.method.optimizers()
        self.phases = self.method.phases()
        self.moving = {name: checkpoint.parameters(o) for name, o in self.optimizers.items()}
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self._freeze()
        drawer = kind(config.model, size, groups, training=False)
        self.artist = style.Style(drawer, {}, str(device), train.precision)
        self.average = Average(self.method, drawer, train.ema)
        self.average.start()
        self.counters = Counters(micro_batch=train.micro_batch or train.batch)

    def _freeze(self) -> None:
        """What no optimiser moves is frozen for good; a network that is frozen whole is in eval mode, so that
        its running statistics stay too."""
        moving = {id(p) for group in self.moving.values() for p in group}
        for network in self.method.networks().values():
            own = list(network.parameters())
            for parameter in own:
                parameter.requires_grad_(id(parameter) in moving)
            network.train(any(id(parameter) in moving for parameter in own))

    def ask_for_gradients(self, optimizers: set[str]) -> None:
        """Only parameters of these optimisers collect gradients from here on."""
        wanted = {id(p) for name in optimizers for p in self.moving[name]}
        for parameters in self.moving.values():
            for parameter in parameters:
                parameter.requires_grad_(id(parameter) in wanted)

    def set_rate(self, factor: float) -> None:
        """Every learning rate: its value at the start times `factor`."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 where the config asks for it."""
        if self.config.train.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def what_moves(self) -> list[str]:
        """One line per optimiser: which networks, how many parameters, how many are frozen."""
        lines = []
        networks = self.method.networks()
        everything = {id(p) for group in self.moving.values() for p in group}
        for name, parameters in self.moving.items():
            own = {id(p) for p in parameters}
            told, frozen = [], 0
            for title, network in networks.items():
                if any(id(p) in own for p in network.parameters()):
                    told.append(title)
                    frozen += sum(p.numel() for p in network.parameters() if id(p) not in everything)
            moves = sum(p.numel() for p in parameters)
            lines.append(
                f"{name} moves {moves:,} parameters of {', '.join(told)}; {frozen:,} of theirs are frozen"
            )
        still = [
            title
            for title, network in networks.items()
            if not any(id(p) in everything for p in network.parameters())
        ]
        if still:
            lines.append(f"frozen whole: {', '.join(still)}")
        for name, count in self.method.frozen().items():
            lines.append(f"{name} = {getattr(self.config.model, name)} freezes {count:,} parameters")
        return lines

    # --- saving and loading ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All state as flat names: network.*, averaged.*, optimizer.*; contiguous, on the CPU."""
        found: dict[str, Tensor] = {}
        for prefix, method in (("network", self.method), ("averaged", self.artist.method)):
            for name, network in method.networks().items():
                for key, tensor in network.state_dict().items():
                    found[f"{prefix}.{name}.{key}"] = (
                        tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                    )
        for name, optimizer in self.optimizers.items():
            found.update(checkpoint.optimizer_tensors(name, optimizer))
        return found

    def facts(self) -> dict[str, Any]:
        """What goes beside the tensors."""
        return {"counters": dataclasses.asdict(self.counters), "config": self.config.dump()}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the saved state, exactly. Raises Problem when it does not fit the method."""
        for prefix, method in (("network", self.method), ("averaged", self.artist.method)):
            for name, network in method.networks().items():
                weights.fill(
                    network, _below(f"{prefix}.{name}.", tensors), f"the saved state, network {name!r}"
                )
        for name, optimizer in self.optimizers.items():
            checkpoint.fill_optimizer(name, optimizer, tensors)
        self.counters = Counters(**facts["counters"])

    def begin_with(self, init: str | Path) -> dict[str, str]:
        """Load the networks that `init` has: a Style file, or a run folder (its newest state, else its best).

        Trained and averaged copies alike; strictly, every tensor of a network that is there at all.
        Returns path, hash and networks. Raises Problem when nothing fits.
        """
        path = Path(init)
        states = checkpoint.States(path / "state").files() if path.is_dir() else []
        if states:
            path = states[0]
            tensors, _ = checkpoint.read(path)
            sources = (("network.", self.method), ("averaged.", self.artist.method))
        else:
            path = path / "best.safetensors" if path.is_dir() else path
            style.read_header(path)
            tensors = weights.read(path)
            sources = (("", self.method), ("", self.artist.method))
        loaded: set[str] = set()
        for prefix, method in sources:
            for name, network in method.networks().items():
                own = _below(f"{prefix}{name}.", tensors)
                if own and any(
                    True for _ in network.parameters()
                ):  # the others remember another training: p of ADA
                    weights.fill(network, method.adopt(name, own), f"init {str(init)!r}, network {name!r}")
                    loaded.add(name)
        if not loaded:
            names = ", ".join(self.method.networks())
            raise Problem(f"init {str(init)!r} has none of the networks of {self.method.name}: {names}")
        return {
            "path": str(init),
            "hash": file_hash(path),
            "networks": ", ".join(sorted(loaded)),
        }

    def learn_first(
        self, pictures: Callable[[str], tuple[Tensor, Tensor]], say: Callable[[str], None]
    ) -> None:
        """What the method learns before its first step, see `Method.learn_first`; the artist gets it too."""
        self.method.learn_first(pictures, self.config.train.seed, say)
        moving = {id(p) for parameters in self.moving.values() for p in parameters}
        networks = self.method.networks()
        for name, network in self.artist.method.networks().items():
            if not any(id(p) in moving for p in networks[name].parameters()):
                network.load_state_dict(networks[name].state_dict())

    def compile(self, say: Callable[[str], None]) -> None:
        """torch.compile every network; where that is not possible, one line, and on in eager mode."""
        if not self.method.compiles:
            say(
                f"train.compile: {self.method.name} differentiates gradients, which compiled networks cannot; going on "
                "in eager mode"
            )
            return
        try:
            probe = torch.compile(lambda x: torch.relu(x) * 2 + 1)
            probe(torch.ones(4, device=self.device))
        except Exception as error:  # whatever a missing or broken compiler raises
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            say(f"train.compile: no working compiler here ({reason}); going on in eager mode")
            return
        for network in self.method.networks().values():
            network.compile()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

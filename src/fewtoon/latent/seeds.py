"""Seeds and truncations, as they are written on the command line.

Seed s stands for the random numbers z that torch's generator on the CPU gives after `manual_seed(s)`: the same on every
device and beside any neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.style import Style

MOST_SEEDS = 100_000


def seeds_of(text: str) -> list[int]:
    """'0-3,9' -> [0, 1, 2, 3, 9]. Raises Problem for anything else, and for a seed that is named twice."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part, flags=re.ASCII)
        if match is None:
            raise Problem(f"--seeds {text!r}: {part!r} is no seed; write 0-15 or 1,5,9")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last - first >= MOST_SEEDS:
            raise Problem(
                f"--seeds {text!r}: {part.strip()!r} must rise, by less than {MOST_SEEDS}; write it as 0-15"
            )
        found += range(first, last + 1)
    return check_seeds(found)


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds as a list. Raises Problem for none, too many, one that is no number from 0 on, or one twice."""
    found = list(seeds)
    if not 1 <= len(found) <= MOST_SEEDS:
        raise Problem(f"{len(found)} seeds: name 1 to {MOST_SEEDS}, as --seeds 0-15")
    seen: set[int] = set()
    for seed in found:
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise Problem(f"seed {seed!r}: a whole number from 0 on")
        if seed in seen:
            raise Problem(f"seed {seed} is named twice: leave one out")
        seen.add(seed)
    return found


def seeds_told(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 9] -> '0-2,9': what `seeds_of` reads."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def truncations_of(text: str) -> list[float]:
    """'0.5,1' -> [0.5, 1.0]. Raises Problem for anything else."""
    try:
        return check_truncations(float(part) for part in text.split(","))
    except ValueError:
        raise Problem(f"--truncation {text!r}: write a number such as 0.7, or several: 0.5,0.7,1") from None


def check_truncations(values: Iterable[float]) -> list[float]:
    """The truncations as a list. Raises Problem for none, one twice, or one outside -2 to 2."""
    found = [float(value) for value in values]
    for value in found:
        if not -2 <= value <= 2:  # nan fails too
            raise Problem(
                f"truncation {value:g}: from 0 (the average picture) to 1 (as it is), at most -2 to 2"
            )
    if not found or len(set(found)) < len(found):
        raise Problem(f"truncations {found}: name at least one, and none twice")
    return found


def latents(style: Style, seeds: Iterable[int]) -> Tensor:
    """The random numbers z of the seeds: (N, Z) float32 on the CPU."""
    return torch.cat([style.method.latents(1, seed) for seed in seeds])

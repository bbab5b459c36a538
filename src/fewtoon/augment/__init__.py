"""Augmentation: one hook that sees real pictures and fake ones alike, before the discriminators do.

Every augmentation is an nn.Module without parameters: `forward(images)` of pictures (B, 3, S, S) in [-1, 1];
`observe(*logits)` of what the discriminators said of real ones; `tune()` after each of their steps.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from fewtoon.augment.adapt import Ada
from fewtoon.augment.diffaugment import DiffAugment
from fewtoon.augment.pipeline import Pipeline
from fewtoon.errors import Problem, nearest

__all__ = ["Ada", "DiffAugment", "Hook", "Nothing", "Pipeline", "make"]


class Nothing(nn.Module):
    """No augmentation."""

    def forward(self, images: Tensor) -> Tensor:
        """What came in."""
        return images

    def observe(self, *logits: Tensor) -> None:
        """Nothing is remembered."""

    def tune(self) -> None:
        """Nothing changes."""


Hook = Ada | DiffAugment | Nothing
KINDS: dict[str, type[Hook]] = {
    "none": Nothing,
    "ada": Ada,
    "diffaugment": DiffAugment,
}


def make(kind: str | None, **settings: Any) -> Hook:
    """The augmentation called "ada", "diffaugment" or "none" (or None), with the settings of its class.

    Raises Problem for a kind or a setting that there is not, and for values out of bounds.
    """
    name = "none" if kind is None else kind
    if name not in KINDS:
        raise Problem(f"there is no augmentation {name!r}: {nearest(name, KINDS)}")
    known = [] if name == "none" else list(inspect.signature(KINDS[name]).parameters)
    for setting in settings:
        if setting not in known:
            raise Problem(f"augmentation {name!r} has no setting {setting!r}: {nearest(setting, known)}")
    return KINDS[name](**settings)

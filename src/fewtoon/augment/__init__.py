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

__all__ = ["Ada", "DiffAugment", "Hook", "Nothing", "Pipeline", "asked_for", "make"]


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


def asked_for(config: Any, undecided: float = 0.5) -> Hook:
    """The augmentation that a method's settings ask for: augment, augment_operations, augment_fill, ada_...

    undecided: the logit between real and fake, see `Ada`.
    """
    settings: dict[str, Any] = {}
    if config.augment_operations is not None and config.augment != "none":
        settings["operations"] = config.augment_operations
    if config.augment == "ada":
        settings |= {
            "fill": config.augment_fill,
            "target": config.ada_target,
            "pictures": config.ada_pictures,
            "every": config.ada_every,
            "limit": config.ada_limit,
            "start": config.ada_start,
            "undecided": undecided,
        }
    return make(config.augment, **settings)

"""The settings of what discriminators see, as methods take them into their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fewtoon.config import Strict


class Augmented(Strict):
    """What the discriminators see, real and fake alike; ada: as much as keeps them from learning by heart."""

    augment: Literal["none", "ada", "diffaugment"] = "none"
    augment_operations: list[str] | None = None  # null: those that the paper recommends
    augment_fill: Literal["reflect", "white"] = "reflect"  # ada: what comes in at the edges
    ada_target: float = Field(0.6, ge=-1, le=1)  # sign of D on real pictures that p steers towards
    ada_pictures: int = Field(500_000, ge=1)  # pictures in which p can go from 0 to 1
    ada_every: int = Field(256, ge=1)  # pictures between two changes of p
    ada_limit: float = Field(0.8, ge=0, le=1)  # p is never larger
    ada_start: float = Field(0.0, ge=0, le=1)  # p at the first step

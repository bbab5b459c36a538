"""A bar on the terminal while pictures are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def bar(items: Sequence[T], told: str, wanted: bool) -> Iterator[T]:
    if wanted:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        if console.is_terminal:
            return iter(track(items, told, console=console, transient=True))
    return iter(items)

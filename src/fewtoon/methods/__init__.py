"""Methods: one file each. A file NAME.py here with a class whose `name` is NAME is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from fewtoon.errors import Problem, nearest

if TYPE_CHECKING:
    from fewtoon.methods.base import Method


def names() -> list[str]:
    """Names of all methods, without importing them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def find(name: str) -> type[Method]:
    """The method called `name`. Raises Problem with the nearest name for an unknown one."""
    from fewtoon.methods.base import Method

    if name not in names():
        raise Problem(f"unknown method {name!r}; {nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and getattr(value, "name", None) == name:
            return value
    raise Problem(f"methods/{name}.py defines no class with name = {name!r}")

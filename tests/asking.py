"""What several test files ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fewtoon.errors import Problem


def one_line(call: Callable[[], Any], *words: str) -> str:
    """The one-line Problem that a call ends with, which contains all the words."""
    with pytest.raises(Problem) as told:
        call()
    text = str(told.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text

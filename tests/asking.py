"""What several test files ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewtoon import cli
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


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path, told: tuple[str, ...] = ()) -> bool:
    """`fewtoon explore` with these words ends with exit code 2 and one line on stderr, which has the words `told`."""
    capsys.readouterr()
    try:
        code = cli.main(["explore", *(str(word) for word in words)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    answer = capsys.readouterr()
    assert code == 2, answer
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("fewtoon"), answer.err
    for word in told:
        assert word in answer.err, answer.err
    return True

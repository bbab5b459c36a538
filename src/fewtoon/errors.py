"""The one exception that a person at the keyboard can cause, and therefore mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Problem(Exception):
    """Bad input. Its text is one line: what is wrong, with which value, and what to do.

    The command line prints it and exits with code 2; nothing was half-written when it is raised.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown `name`: the closest known names, or all of them."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), known, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + (", ".join(known) if known else "none")

"""What a verb prints: words, or with --json one JSON object."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any


def answer(args: argparse.Namespace, facts: dict[str, Any], text: str) -> int:
    print(json.dumps(_finite(facts), default=str, allow_nan=False) if args.json else text)
    return 0


def drew(args: argparse.Namespace, result: dict[str, Any], lines: Sequence[str] = ()) -> int:
    """The answer of a tool of `explore`: its notes on stderr, and where it has written its pictures and its record."""
    for note in result["notes"]:
        print(f"fewtoon: {note}", file=sys.stderr)
    shown = [("sheet", result["sheet"]), ("video", result["video"]), ("again", result["record"])]
    return answer(args, result, "\n".join([*(f"{name}: {path}" for name, path in shown if path), *lines]))


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value

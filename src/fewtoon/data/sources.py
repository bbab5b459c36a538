"""What a pack was made from: enough to see that nothing has changed, so that nothing is done twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewtoon.data import doctor
from fewtoon.data.doctor import Report
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.files import write_text
from fewtoon.io.images import Found, Refused

FILE = "sources.json"


@dataclass(frozen=True)
class Source:
    """A file as it was when it was read."""

    name: str
    bytes: int
    mtime_ns: int
    sha256: str | None  # None: it could not be read


def write(folder: Path, sources: Sequence[Source], refused: Sequence[Refused]) -> None:
    """Write what a pack was made from into its folder."""
    files = [[source.name, source.bytes, source.mtime_ns, source.sha256] for source in sources]
    skipped = [[entry.name, entry.reason] for entry in refused]
    write_text(folder / FILE, json.dumps({"files": files, "skipped": skipped}, ensure_ascii=False))


def unchanged(
    out: Path, side: str, arguments: dict[str, Any], found: list[Found], refused: list[Refused]
) -> Report | None:
    """The report of the pack in `out` if the same call would make it again, else None."""
    try:
        pack = Pack.open(out)
        if pack.side != side or pack.arguments != json.loads(json.dumps(arguments)):
            return None
        report = doctor.read_report(out)
        stored = json.loads((out / FILE).read_text(encoding="utf-8"))
        sources = [Source(*entry) for entry in stored["files"]]
        skipped = [[entry.name, entry.reason] for entry in refused]
        if report.hash != pack.hash or stored["skipped"] != skipped or len(sources) != len(found):
            return None
        if not all(_same(file, source) for file, source in zip(found, sources)):
            return None
    except (Problem, OSError, ValueError, TypeError, KeyError):
        return None
    report.unchanged = True
    return report


def _same(file: Found, source: Source) -> bool:
    """Same name, size and time, or, where only the time differs, same contents."""
    status = os.stat(file.path)
    if (file.name, status.st_size) != (source.name, source.bytes):
        return False
    if source.sha256 is None:
        return not os.access(file.path, os.R_OK)
    if status.st_mtime_ns == source.mtime_ns:
        return True
    return hashlib.sha256(images.read_bytes(file.path)).hexdigest() == source.sha256

"""The Run: one training as a folder.

config.yaml         what is trained, as plain values
run.json            which packs (their hashes) and which first weights
state/              saved states, the newest few
log.jsonl           one line per `train.log_every` steps, per held-out KID and per event; no times
previews/           step-00001000.png ...
best.safetensors    the Style with the lowest held-out KID;  last.safetensors: the one at the end
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from fewtoon import config as configs
from fewtoon.errors import Problem

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no flock: two writers are not kept apart there
    fcntl = None


class Run:
    """Paths and records of a run folder; nothing here needs torch."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.facts_file = self.path / "run.json"
        self.states = self.path / "state"
        self.log_file = self.path / "log.jsonl"
        self.previews = self.path / "previews"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run. Raises Problem when the folder is none."""
        run = cls(path)
        if not run.config_file.is_file():
            raise Problem(
                f"{str(path)!r} is not a run (no config.yaml in it); start one with 'fewtoon train'"
            )
        return run

    # --- what was asked for ------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether a training has begun here."""
        return self.config_file.is_file()

    def config(self) -> dict[str, Any]:
        """config.yaml as plain values. Raises Problem when it is damaged."""
        try:
            tree = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Problem(
                f"{str(self.config_file)!r} cannot be read ({error}); put it back as it was"
            ) from None
        if not isinstance(tree, dict):
            raise Problem(f"{str(self.config_file)!r} holds no settings; put it back as it was")
        return tree

    def facts(self) -> dict[str, Any]:
        """run.json: hashes of the packs and of the first weights. Raises Problem when it is damaged."""
        try:
            facts = json.loads(self.facts_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Problem(
                f"{str(self.facts_file)!r} cannot be read ({error}); put it back as it was"
            ) from None
        if not isinstance(facts, dict):
            raise Problem(f"{str(self.facts_file)!r} holds no facts; put it back as it was")
        return facts

    def check(self, settings: dict[str, Any], packs: dict[str, Any], init: str | Path | None) -> None:
        """Check that a training with these settings and packs may begin here, or is the one that was begun.

        settings: the dumped config. packs: side -> facts, of which the hash counts.
        Raises Problem with every difference that is not a length or a cadence.
        """
        if not self.started:
            entries = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
            others = sorted(name for name in entries if not name.startswith(".") and name != "run.json")
            if others:
                raise Problem(
                    f"folder {str(self.path)!r} exists and is not a run (it holds {others[0]!r}); "
                    "choose another --out"
                )
            return
        changes = configs.differences(_plain(self.config()), _plain(settings))
        facts = self.facts()
        for side, pack in packs.items():
            old = str(facts.get("packs", {}).get(side, {}).get("hash"))
            if old != pack["hash"]:
                changes.append(f"pack of {side}: {old[:12]} -> {pack['hash'][:12]}")
        begun = facts.get("init") or {}
        if init is not None and not begun:
            changes.append(f"init: (none) -> {init}")
        elif init is not None and Path(init).is_file() and file_hash(init) != begun.get("hash"):
            changes.append(f"init: {begun.get('path')} -> {init}, another file")
        if changes:
            raise Problem(
                f"run {str(self.path)!r} was started with other settings: {'; '.join(changes)}; "
                "continue it as it was, or choose another --out"
            )

    def record(self, settings: dict[str, Any], facts: dict[str, Any] | None = None) -> None:
        """Write config.yaml where it changed, and, when the run begins, run.json before it."""
        from fewtoon.io.weights import write_bytes

        if facts is not None:
            write_bytes(self.facts_file, (json.dumps(facts, indent=1) + "\n").encode())
        text = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)
        if not self.started or self.config_file.read_text(encoding="utf-8") != text:
            write_bytes(self.config_file, text.encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here. Released when this process ends, however it ends.

        Raises Problem naming the process that holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise Problem(
                f"cannot write to {str(self.path)!r}: {error.strerror or error}; choose another --out"
            ) from None
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
                    raise Problem(
                        f"run {str(self.path)!r} is being written by process {holder}; wait for it, stop it, "
                        "or choose another --out"
                    ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            for folder in (self.path, self.states, self.previews):
                for left_over in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                    left_over.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)

    # --- what happened -----------------------------------------------------------------------------------

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; a torn last line is left out."""
        lines = []
        if self.log_file.is_file():
            for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    continue
        return lines

    def describe(self) -> str:
        """What this run is and how far it got, in plain words."""
        settings, facts, log = self.config(), self.facts(), self.log()
        train = settings.get("train", {})
        steps = max((line["step"] for line in log if "step" in line), default=0)
        kids = [line for line in log if "kid" in line]
        told = [
            f"run {self.path.name}: method {settings.get('method')}, step {steps} of {train.get('steps')}, "
            f"batch {train.get('batch')}, {train.get('precision')}, seed {train.get('seed')}",
            *(
                f"{side}: {pack.get('training')} training and {pack.get('held_out')} held-out pictures, "
                f"hash {str(pack.get('hash'))[:12]}"
                for side, pack in facts.get("packs", {}).items()
            ),
        ]
        if facts.get("init"):
            told.append(
                f"started from {facts['init'].get('path')} (sha256 {facts['init'].get('hash', '')[:12]})"
            )
        if kids:
            best = min(kids, key=lambda line: line["kid"] if line["kid"] is not None else math.inf)
            told.append(
                f"held-out KID x1000 ({train.get('features')}): {kids[-1]['kid']:.2f} at step "
                f"{kids[-1]['step']}; best {best['kid']:.2f} at step {best['step']}"
            )
        health = [line["health"] for line in log if "health" in line]
        if health:
            told.append(f"health: {health[-1]}")
        skipped = max((line["skipped"] for line in log if "skipped" in line), default=0)
        if skipped:
            told.append(f"{skipped} updates were skipped because a loss or gradient was not finite")
        told.append(f"best style: {self.best.name if self.best.is_file() else 'none yet'}")
        return "\n".join(told)


class Log:
    """log.jsonl, open for writing. Its length is part of every saved state, so a resumed run continues it
    exactly; it holds no times for the same reason."""

    def __init__(self, path: Path, length: int) -> None:
        """Continue the file from its first `length` bytes."""
        self.path = path
        try:
            self._file = open(path, "ab")  # noqa: SIM115
        except OSError as error:
            raise self._problem(error) from None
        self.truncate(length)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; a number that is not finite becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        try:
            self._file.write(json.dumps(clean, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._problem(error) from None

    def sync(self) -> int:
        """Make everything durable; the length in bytes."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._problem(error) from None

    def truncate(self, length: int) -> None:
        """Forget what lies beyond `length` bytes."""
        self._file.flush()
        os.ftruncate(self._file.fileno(), min(length, os.fstat(self._file.fileno()).st_size))

    def close(self) -> None:
        self._file.close()

    def _problem(self, error: OSError) -> Problem:
        return Problem(f"could not write {str(self.path)!r}: {error.strerror or error}; free some space")


def file_hash(path: str | Path) -> str:
    """sha256 (hex) of a file."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    """As JSON and YAML give it back: tuples are lists, keys are text."""
    plain: dict[str, Any] = json.loads(json.dumps(tree))
    return plain

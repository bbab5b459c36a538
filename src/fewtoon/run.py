"""The Run: one training as a folder.

config.yaml         what is trained, as plain values
run.json            which packs (their hashes) and which first weights
state/              saved states, the newest few
log.jsonl           one line per `train.log_every` steps, per held-out KID and per event; no times
previews/           step-00001000.png ...
best.safetensors    the Style with the lowest held-out KID;  last.safetensors: the one at the end
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from fewtoon import config as configs
from fewtoon.errors import Problem
from fewtoon.io.files import file_hash, write_bytes

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no flock: two writers are not kept apart there
    fcntl = None

# What a process that is killed while it writes here may leave behind.
TORN = re.compile(
    r"\.(config\.yaml|run\.json|(best|last)\.safetensors|step-\d+\.(safetensors|png))\.\d+\.tmp"
)
UNSTARTED = ("run.json", "tracking")  # what a first call that was killed may leave beside no config.yaml


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
            tree = _plain(yaml.safe_load(self.config_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise Problem(f"run {str(self.path)!r} is gone (no config.yaml in it); put it back") from None
        except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise Problem(
                f"{str(self.config_file)!r} cannot be read ({error}); put it back as it was"
            ) from None
        rooms = [tree.get(room) for room in ("model", "train")] if isinstance(tree, dict) else []
        if not rooms or not all(isinstance(room, dict) for room in rooms):
            raise Problem(f"{str(self.config_file)!r} holds no settings; put it back as it was")
        return tree

    def facts(self) -> dict[str, Any]:
        """run.json: hashes of the packs and of the first weights. Raises Problem when it is damaged."""
        try:
            facts = json.loads(self.facts_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise Problem(
                f"{str(self.facts_file)!r} cannot be read ({error}); put it back as it was"
            ) from None
        packs, init = (facts.get("packs"), facts.get("init")) if isinstance(facts, dict) else (None, None)
        whole = isinstance(packs, dict) and all(isinstance(pack, dict) for pack in packs.values())
        if init is not None:
            whole &= isinstance(init, dict) and all(isinstance(init.get(k), str) for k in ("path", "hash"))
        if not whole:
            raise Problem(f"{str(self.facts_file)!r} holds no facts of a run; put it back as it was")
        return facts

    def check(self, settings: dict[str, Any], packs: dict[str, Any], init: str | Path | None) -> None:
        """Check that a training with these settings and packs may begin here, or is the one that was begun.

        settings: the dumped config. packs: side -> facts, of which the hash counts.
        Raises Problem with every difference that is not a length or a cadence.
        """
        if not self.started:
            return
        changes = configs.differences(self.config(), _plain(settings))
        facts = self.facts()
        for side, pack in packs.items():
            old = str(facts["packs"].get(side, {}).get("hash"))
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
        if facts is not None:
            write_bytes(self.facts_file, (json.dumps(facts, indent=1) + "\n").encode())
        text = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)
        if not self.started or self.config_file.read_text(encoding="utf-8") != text:
            write_bytes(self.config_file, text.encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here. Released when this process ends, however it ends.

        A folder that is made for it is gone again when no training was recorded in it. Raises Problem naming
        the process that holds it, and for a folder of something else, in which nothing is touched.
        """
        try:
            entries = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
            others = sorted(name for name in entries if not name.startswith(".") and name not in UNSTARTED)
            if others and not self.started:
                raise Problem(
                    f"folder {str(self.path)!r} exists and is not a run (it holds {others[0]!r}); "
                    "choose another --out"
                )
            made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
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
                    if os.fstat(handle).st_nlink == 0:  # its last holder has just taken the folder away
                        raise BlockingIOError
                except OSError:
                    holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
                    raise Problem(
                        f"run {str(self.path)!r} is being written by process {holder}; wait for it, stop it, "
                        "or choose another --out"
                    ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                if made and not self.started:
                    self._take_away(made)
        finally:
            os.close(handle)

    def holder(self) -> int | None:
        """The process that writes here now; None where there is none, or where that cannot be told (Windows)."""
        try:
            handle = os.open(self.path / ".lock", os.O_RDONLY)
        except OSError:
            return None
        try:
            process = int(os.read(handle, 20))
            # Its lock is only tried where it lives, so as never to stand in the way of one that begins.
            if fcntl is None or not _lives(process):
                return None
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            return process
        except (OSError, ValueError):
            return None
        finally:
            os.close(handle)

    def _take_away(self, made: list[Path]) -> None:
        """Remove the folders that were made, from the inside out, unless somebody put something there."""
        shutil.rmtree(self.path / "tracking", ignore_errors=True)
        with suppress(OSError):
            for name in (".lock", "run.json"):
                (self.path / name).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()

    def clean(self) -> None:
        """Delete the torn files of a process that was killed while it wrote. To be called under the lock."""
        for folder in (self.path, self.states, self.previews):
            for entry in folder.glob(".*.tmp"):
                if TORN.fullmatch(entry.name) and entry.is_file():
                    entry.unlink(missing_ok=True)

    # --- what happened -----------------------------------------------------------------------------------

    def saved_step(self) -> int | None:
        """The step of the newest saved state, from which a training goes on; None where there is none."""
        steps = [path.stem.removeprefix("step-") for path in self.states.glob("step-*.safetensors")]
        return max((int(step) for step in steps if step.isdecimal()), default=None)

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, each with its step; a torn or damaged one is left out."""
        lines = []
        if self.log_file.is_file():
            for text in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
                line = line_of(text)
                if line is not None:
                    lines.append(line)
        return lines

    def describe(self) -> str:
        """What this run is and how far it got, in plain words."""
        settings, facts, log = self.config(), self.facts(), self.log()
        train = settings["train"]
        steps = max([self.saved_step() or 0, *(line["step"] for line in log)])
        kids = [line for line in log if isinstance(line.get("kid"), (int, float))]
        told = [
            f"run {self.path.name}: method {settings.get('method')}, step {steps} of {train.get('steps')}, "
            f"batch {train.get('batch')}, {train.get('precision')}, seed {train.get('seed')}",
            *(
                f"{side}: {pack.get('training')} training and {pack.get('held_out')} held-out pictures, "
                f"hash {str(pack.get('hash'))[:12]}"
                for side, pack in facts["packs"].items()
            ),
        ]
        if facts.get("init"):
            told.append(f"started from {facts['init']['path']} (sha256 {facts['init']['hash'][:12]})")
        if kids:
            best = min(kids, key=lambda line: line["kid"])
            told.append(
                f"held-out KID x1000 ({train.get('features')}): {kids[-1]['kid']:.2f} at step "
                f"{kids[-1]['step']}; best {best['kid']:.2f} at step {best['step']}"
            )
        health = [line["health"] for line in log if "health" in line]
        if health:
            told.append(f"health: {health[-1]}")
        skipped = max((line["skipped"] for line in log if isinstance(line.get("skipped"), int)), default=0)
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


def line_of(text: str | bytes) -> dict[str, Any] | None:
    """A line of log.jsonl, with its step; None for a torn or damaged one."""
    with suppress(ValueError, RecursionError):
        line = json.loads(text)
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            return line
    return None


def _lives(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return process > 1


def _plain(tree: Any) -> Any:
    """As JSON and YAML give it back: tuples are lists, keys are text."""
    return json.loads(json.dumps(tree))

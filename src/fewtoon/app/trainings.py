"""Trainings as one sees them from outside: how far they are, what they logged; stopped and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewtoon.app.curves import LARGEST
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.io.files import printable
from fewtoon.run import Run, line_of

OUTPUT = "train.log"  # in the run folder: what a resumed training says
NOT_LOSSES = ("gradient", "rate", "skipped", "visits", "step")
MOST_STEPS = 100_000_000


@dataclass(frozen=True)
class Seen:
    """What is to be seen of a training now.

    state: "running", "starting", "finished" or "stopped"; step: of the log, and of one that does not run the one that
    it would go on from; speed: steps per second, left: seconds, None where that is not known yet
    """

    name: str
    method: str
    state: str
    step: int
    steps: int
    speed: float | None
    left: float | None
    best: tuple[float, int] | None  # held-out KID x1000, and its step
    health: str | None
    skipped: int
    error: str | None  # why the training that was resumed here ended


class Training:
    """One run folder. Not for several threads at once."""

    def __init__(self, path: str | Path, name: str) -> None:
        self.run, self.name = Run.open(path), name
        self.lines: list[dict[str, Any]] = []
        self._read = 0  # bytes of the log
        # When the log was written to, and the step, at the first look.
        self._first: tuple[float, int] | None = None
        self._child: subprocess.Popen[bytes] | None = None  # the training that was resumed here,
        self._goal: int | None = None  # until which step,
        self._ran = False  # whether it was seen to hold the run,
        self._said = 0  # and where in OUTPUT its own words begin
        self._asked: tuple[int, float] | None = None  # the process that was asked to stop, and when it began

    # --- looking -----------------------------------------------------------------------------------------

    def look(self) -> Seen:
        """Read what is new. Raises Problem when the run is damaged."""
        self._read_log()
        config = self.run.config()
        asked = config["train"].get("steps")
        steps = asked if _number(asked) and isinstance(asked, int) else 0
        if self._goal is not None and self._lives():
            steps = self._goal  # it is written down when all is read
        running = self.run.holder() is not None
        logged = max((line["step"] for line in self.lines), default=0)
        saved = self.run.saved_step()  # less than what is logged after a kill, more after a stop
        if saved is None or (running and _changed(self.run.log_file) >= self._began()):
            step = max(logged, saved or 0)
        else:  # what a training that was killed had logged beyond it is forgotten when it goes on
            step = saved
        speed = self._speed(logged) if running else None
        kids = [(float(line["kid"]), int(line["step"])) for line in self.lines if _number(line.get("kid"))]
        healths = [line["health"] for line in self.lines if isinstance(line.get("health"), str)]
        skipped = [line["skipped"] for line in self.lines if _number(line.get("skipped"))]
        return Seen(
            name=self.name,
            method=str(config.get("method")),
            state=self._state(running, step >= steps),
            step=step,
            steps=steps,
            speed=speed,
            left=(steps - step) / speed if speed else None,
            best=min(kids, default=None),
            health=healths[-1] if healths else None,
            skipped=int(skipped[-1]) if skipped else 0,
            error=self._error(running),
        )

    def _read_log(self) -> None:
        """Whole lines that were added to the log; after a resumption some are written again."""
        with suppress(OSError):
            with open(self.run.log_file, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:
                    self.lines, self._read = [], 0
                file.seek(self._read)
                data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read += len(data)
            for text in data.splitlines():
                line = line_of(text)
                if line is not None and _number(line["step"]):
                    while self.lines and self.lines[-1]["step"] > line["step"]:
                        self.lines.pop()
                    self.lines.append(line)

    def _speed(self, step: int) -> float | None:
        """The log holds no times, so that it is the same after every resumption: when it was written tells them."""
        now, began = _changed(self.run.log_file), self._began()
        if self._first is None or self._first[1] > step or self._first[0] < began:
            self._first = None
            seen = [(path.stat().st_mtime, number) for number, path in self.previews()]
            marks = [mark for mark in seen if mark[0] >= began and mark[1] < step]
            self._first = min(marks, default=(now, step))
        then, before = self._first
        return (step - before) / (now - then) if step > before and now > then else None

    def _began(self) -> float:
        return _changed(self.run.path / ".lock")  # written by a training when it begins

    def kid(self) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
        """Held-out KID x1000 over the steps, and its 95 % interval."""
        found = [line for line in self.lines if _number(line.get("kid"))]
        band = [
            (line["step"], line["kid_low"], line["kid_high"])
            for line in found
            if _number(line.get("kid_low")) and _number(line.get("kid_high"))
        ]
        return [(line["step"], line["kid"]) for line in found], band

    def losses(self) -> dict[str, list[tuple[float, float]]]:
        """ "phase loss" -> (step, value): the mean over the networks of a phase that have this loss."""
        found: dict[str, list[tuple[float, float]]] = {}
        for line in self.lines:
            values: dict[str, list[float]] = {}
            for key, value in line.items():
                phase, _, rest = key.partition("/")
                loss = rest.rpartition("/")[2]
                if loss and phase not in NOT_LOSSES and _number(value):
                    values.setdefault(f"{phase} {loss}", []).append(value)
            for name, of_networks in values.items():
                found.setdefault(name, []).append((line["step"], sum(of_networks) / len(of_networks)))
        return found

    def previews(self) -> list[tuple[int, Path]]:
        """(step, file), in order."""
        found = []
        for path in self.run.previews.glob("step-*.png"):
            with suppress(ValueError):
                found.append((int(path.stem.removeprefix("step-")), path))
        return sorted(found)

    # --- stopping and resuming ---------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask it to end as Ctrl-C does: the step is finished and saved.

        Raises Problem when it does not run, when it was asked before (a second Ctrl-C would end it at once, without
        saving), and when the process that is named as its holder is another one.
        """
        process = self.run.holder()
        if process is None:
            raise Problem(f"{self.name!r} does not run, as far as this machine can tell")
        if process == os.getpid():
            raise Problem(f"{self.name!r} is trained by this very process: end that")
        if not _has_open(process, self.run.path / ".lock"):  # a number of another container, say
            raise Problem(
                f"{self.name!r} is not trained by the process {process} of this machine: stop it where it was started"
            )
        if self._asked == (process, self._began()):
            raise Problem(f"{self.name!r} was asked to stop already: it finishes its step and saves first")
        try:
            os.kill(process, signal.SIGINT)
        except OSError as error:
            raise Problem(f"process {process} cannot be asked to stop ({error.strerror})") from None
        self._asked = (process, self._began())

    def resume(self, packs: Sequence[Path], steps: int | None = None, device: str | None = None) -> None:
        """Start the training again in a process of its own, which outlives this one.

        packs: where the packs of the run may lie, beside the places that it remembers. steps: a new length.
        Raises Problem when it runs, is finished, has no saved state any more, or a pack is nowhere to be found.
        """
        seen = self.look()
        if seen.state in ("running", "starting"):
            raise Problem(f"{self.name!r} runs already")
        if steps is not None and steps <= seen.step:
            raise Problem(f"until step {steps}: it has done {seen.step}, so ask for more than that")
        if steps is not None and steps > MOST_STEPS:
            raise Problem(f"until step {steps}: no training takes more than {MOST_STEPS}, so ask for less")
        if seen.step and self.run.saved_step() is None:
            raise Problem(
                f"the saved states of {self.name!r} are gone, so that nothing can go on: put them back"
            )
        if steps is None and seen.step >= seen.steps:
            raise Problem(f"{self.name!r} is finished: to go on, say until which step")
        words = [
            sys.executable,
            "-m",
            "fewtoon.cli",
            "train",
            str(self.run.config_file),
            "--out",
            str(self.run.path),
        ]
        for side, path in self._packs(packs).items():
            words += [f"--{side}", str(path)]
        if steps is not None:
            words += ["--set", f"train.steps={steps}"]
        if device is not None:
            words += ["--device", device]
        try:
            with open(self.run.path / OUTPUT, "ab") as output:
                said = output.tell()
                self._child = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            self._goal, self._ran, self._said = steps, False, said
        except OSError as error:
            raise Problem(f"the training cannot be started ({error.strerror}): free some space") from None

    def _packs(self, offered: Sequence[Path]) -> dict[str, Path]:
        """Side -> pack, found by the hash that the run remembers."""
        found: dict[str, Path] = {}
        known: dict[str | None, Path] = {}
        for one in offered:
            with suppress(Problem):
                known[Pack.open(one).hash] = one
        for side, facts in self.run.facts()["packs"].items():
            path = known.get(facts.get("hash"))
            remembered = facts.get("path")
            if path is None and isinstance(remembered, str) and (Path(remembered) / "pack.json").is_file():
                path = Path(remembered)
            if path is None:
                told = f"{printable(Path(str(remembered)).name)}, hash {str(facts.get('hash'))[:12]}"
                raise Problem(
                    f"the pack of {side} of {self.name!r} ({told}) is not here: "
                    "name it when you start the studio, 'fewtoon serve RUN PACK PACK'"
                )
            found[side] = path
        return found

    def _error(self, running: bool) -> str | None:
        """The last words of a training that was resumed here and failed."""
        if running or self._child is None or self._child.poll() in (None, 0, 130):
            return None
        if self._child.returncode < 0:
            return f"it was ended by signal {-self._child.returncode}, without a word of its own"
        with suppress(OSError), open(self.run.path / OUTPUT, "rb") as file:
            file.seek(self._said)
            text = file.read().decode(errors="replace")
            words = [line for line in text.splitlines() if line.startswith("fewtoon")]
            if words:
                return words[-1].partition(": ")[2][:500]
        return f"it ended with code {self._child.returncode}; {OUTPUT} in its folder says more"

    def _lives(self) -> bool:
        """Whether there is a process that was started here."""
        return self._child is not None and self._child.poll() is None

    def _state(self, running: bool, done: bool) -> str:
        if running:
            self._ran = True
            return "running"
        if self._lives() and not self._ran:
            return "starting"
        return "finished" if done and self.run.last.is_file() else "stopped"


def _changed(path: Path) -> float:
    """When a file was written to, in seconds as `time.time`; 0 where there is none."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _number(value: Any) -> bool:
    """Whether it is a number that can be drawn: neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _has_open(process: int, file: Path) -> bool:
    """Whether a process has a file open. True where the system does not tell (macOS)."""
    if not Path("/proc/self/fd").is_dir():
        return True
    try:
        opened = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
    for one in opened:
        with suppress(OSError):
            if one.samefile(file):
                return True
    return False

"""What a person sees while it trains: a bar in a terminal, a line now and then anywhere else. On stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SECONDS_BETWEEN_LINES = 30.0


class Watch:
    """Progress of a training of `total` steps; quiet: nothing is shown."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.total, self.done = total, 0
        self.console = Console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._last_line = time.monotonic()
        self._marks = [(time.monotonic(), 0)]  # (when, steps done), the last few, for the speed

    def start(self, done: int) -> None:
        """The steps begin, after `done` that were done before."""
        self.done, self._marks = done, [(time.monotonic(), done)]
        if self.console.is_terminal and not self.console.quiet:
            columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
            self._bar = Progress(*columns, console=self.console, refresh_per_second=4)
            self._task = self._bar.add_task("train", total=self.total, completed=done, told="")
            self._bar.start()

    @property
    def speed(self) -> float:
        """Steps per second, over the last half minute or so; previews and metrics count as time spent."""
        (then, before), now = self._marks[0], time.monotonic()
        return (self.done - before) / (now - then) if now > then else 0.0

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        """A step is done. losses: the main ones, to be shown."""
        now = time.monotonic()
        if done < self.done:  # the run went back
            self._marks = [(now, done)]
        self.done = done
        if now - self._marks[-1][0] > 1:
            self._marks = [*self._marks[-30:], (now, done)]
        if self._bar is None and now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        left = (self.total - done) / self.speed if self.speed else 0.0
        shown = " ".join(f"{name} {value:.3g}" for name, value in losses.items())
        told = f"{self.speed:.2f} it/s, {duration(left)} left  {shown}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, told=told)
        else:
            self._last_line = now
            self.say(f"step {done}/{self.total}, {told}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

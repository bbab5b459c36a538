"""Guards: numbers that are not finite, memory that runs out, people who want to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor

BAD_STEPS = 5  # this many bad steps in a row, and the run goes back to its last good state
ROLLBACKS = 3  # this many times, then it stops


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved its state. The command line exits with code 130."""


class StopRequest:
    """Becomes true at the first Ctrl-C or SIGTERM: the step is finished and saved. The second quits now."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            os.write(2, b"stopped at once; the last saved state is intact\n")
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Listen to the signals; only possible, and only done, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def finite(tensors: dict[str, Tensor]) -> bool:
    """Whether every floating-point value is finite."""
    sums = [t.detach().abs().amax() for t in tensors.values() if t.is_floating_point() and t.numel()]
    return not sums or bool(torch.stack([s.float().cpu() for s in sums]).isfinite().all())


def smaller_micro_batch(batch: int, micro_batch: int) -> int:
    """The largest divisor of `batch` that is at most half of `micro_batch` (which is above 1)."""
    return max(size for size in range(1, micro_batch // 2 + 1) if batch % size == 0)

"""Networks in .tflite files, run by LiteRT on one core each."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem

_QUIET = threading.Lock()


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """LiteRT tells standard error, once per process, which kernels it uses, and has no switch for it: the few
    milliseconds in which an interpreter is made nobody hears it."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Network:
    """A .tflite file with one picture as its input, as a function of an (S, S, 3) uint8 picture, which it sees as
    picture * scale + offset: its outputs, float32, without their batch dimension.

    May be called from several threads at once: an interpreter cannot, so each thread gets its own (a few
    megabytes), on one core. Raises Problem when LiteRT is not installed or the file is not a network.
    """

    def __init__(self, path: Path, scale: float, offset: float = 0.0) -> None:
        self._path, self._scale, self._offset = path, np.float32(scale), np.float32(offset)
        self._local = threading.local()
        self._interpreter()

    def __call__(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        interpreter, source, results, seen = self._interpreter()
        np.multiply(image, self._scale, out=seen[0])
        if self._offset:
            seen += self._offset
        interpreter.set_tensor(source, seen)
        interpreter.invoke()
        return [interpreter.get_tensor(result)[0] for result in results]  # copies

    def _interpreter(self) -> tuple[Any, int, list[int], NDArray[np.float32]]:
        if not hasattr(self._local, "ready"):
            self._local.ready = self._open()
        return self._local.ready

    def _open(self) -> tuple[Any, int, list[int], NDArray[np.float32]]:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise Problem(
                f"the default face finder needs LiteRT ({error}): run 'pip install ai-edge-litert'"
            ) from None
        try:
            with _QUIET, _stderr_closed():
                interpreter = Interpreter(str(self._path), num_threads=1)
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            raise Problem(
                f"{str(self._path)!r} is not a network for LiteRT ({error}): run 'fewtoon models fetch'"
            ) from None
        source = interpreter.get_input_details()[0]
        results = [output["index"] for output in interpreter.get_output_details()]
        return interpreter, source["index"], results, np.empty(source["shape"], np.float32)

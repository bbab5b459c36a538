"""Tracking: scalars and previews for the tools people watch trainings with, each by its own library.

Nothing leaves the machine unless that library was told so before (a server address in its own variable).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fewtoon.errors import Problem, nearest


class Tracker(Protocol):
    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def image(self, step: int, title: str, picture: np.ndarray) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tracking/tensorboard; `tensorboard --logdir RUN` shows them."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], step: int) -> None:
        library = _library("torch.utils.tensorboard", "tensorboard", "tensorboard")
        # purge_step: what an interrupted run wrote after its last state is not shown twice.
        self._writer = library.SummaryWriter(str(folder / "tensorboard"), purge_step=step, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def image(self, step: int, title: str, picture: np.ndarray) -> None:
        self._writer.add_image(title, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A local database in RUN/tracking/trackio, or where TRACKIO_DIR says; `trackio show` shows it."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], step: int) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        self._library = _library("trackio", "trackio", "trackio")
        self._library.init(project="fewtoon", name=name, config=settings, resume="allow", embed=False)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._library.log(dict(values), step=step)

    def image(self, step: int, title: str, picture: np.ndarray) -> None:
        self._library.log({title: self._library.Image(picture)}, step=step)

    def close(self) -> None:
        self._library.finish()


class Wandb:
    """Files in RUN/tracking/wandb; `wandb sync` uploads them, or WANDB_MODE=online does at once."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], step: int) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        self._library = _library("wandb", "wandb", "wandb")
        self._run = self._library.init(
            project="fewtoon",
            name=name,
            dir=str(folder),
            config=settings,
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        self._run.define_metric("*", step_metric="step")  # its own counter cannot go back

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def image(self, step: int, title: str, picture: np.ndarray) -> None:
        self._run.log({title: self._library.Image(Image.fromarray(picture)), "step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Files in RUN/tracking/mlflow, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its databases need the full package
        self._library = _library("mlflow", "mlflow", "mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self._library.set_tracking_uri((folder / "mlflow").resolve().as_uri())
        self._library.set_experiment("fewtoon")
        self._library.start_run(run_name=name)
        if step == 0:
            flat = {
                f"{room}.{k}": v for room in ("model", "train") for k, v in settings.get(room, {}).items()
            }
            self._library.log_params(flat)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._library.log_metrics({key.replace("%", "percent"): v for key, v in values.items()}, step=step)

    def image(self, step: int, title: str, picture: np.ndarray) -> None:
        self._library.log_image(picture, f"{title}-{step:08d}.png")

    def close(self) -> None:
        self._library.end_run()


BACKENDS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": MLflow,
}


class Trackers:
    """Several backends as one."""

    def __init__(self, names: str | Sequence[str], run: Path, settings: dict[str, Any], step: int) -> None:
        """names: one or several; "none" alone, or none at all: nothing is tracked.

        Raises Problem for an unknown name, a library that is not there and a folder that cannot be written.
        """
        names = [names] if isinstance(names, str) else list(names)
        names = [] if names == ["none"] else names
        for name in names:
            if name not in BACKENDS:
                raise Problem(f"unknown tracker {name!r}; {nearest(name, BACKENDS)}")
        folder = run / "tracking"
        title = run.resolve().name
        self._all: list[Tracker] = []
        try:
            if names:
                folder.mkdir(parents=True, exist_ok=True)
            with redirect_stdout(sys.stderr):  # stdout is for results
                for name in dict.fromkeys(names):
                    self._all.append(BACKENDS[name](folder, title, settings, step))  # type: ignore[call-arg]
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            told = error.strerror or error
            raise Problem(
                f"tracking in {str(folder)!r} does not work ({told}); mend it, or use --track none"
            ) from None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._all:
            tracker.scalars(step, values)

    def image(self, step: int, title: str, picture: np.ndarray) -> None:
        for tracker in self._all:
            tracker.image(step, title, picture)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            for tracker in self._all:
                tracker.close()


def _library(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f"pip install 'fewtoon[{extra}]'" if extra != "tensorboard" else f"pip install {package}"
        raise Problem(f"--track {extra} needs {package} ({error}): {remedy}, or leave it out") from None

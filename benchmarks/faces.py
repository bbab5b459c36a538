"""Faces per second from picture files to framed, whitened squares, beside the library calls that this takes.

    python benchmarks/faces.py --data PHOTOS --json

PHOTOS is a folder of portraits (omi, say). They are read as they are, and composed into group photos of four.
The baseline is what no tool that uses these libraries can save: every call of Pillow's decoder, of the
networks and of OpenCV that the pipeline makes is recorded with its arguments, then made again alone, one after
the other. `ratio` is the CPU time of those calls over that of the pipeline: 1 would be no overhead at all.
"""

from __future__ import annotations

import contextlib
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from common.measure import interleaved, machine, median_ratio, medians, parser, tell
from fewtoon.data.prepare import prepare
from fewtoon.data.reader import Reader
from fewtoon.faces import finders, litert
from fewtoon.faces.cutter import Cutter
from fewtoon.faces.matte import open_matte
from fewtoon.faces.upscale import open_upscaler
from fewtoon.io import images

Call = Callable[[], object]
OPENCV = ("warpAffine", "resize", "cvtColor", "copyMakeBorder", "boxFilter", "blur", "GaussianBlur")
SIZE = 256


def group_photos(portraits: list[Path], folder: Path, count: int) -> None:
    """JPEGs of 1600 x 1000 pixels with four people each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        page = np.full((1000, 1600, 3), rng.integers(60, 200, 3), np.uint8)
        for place in range(4):
            side = int(rng.integers(200, 390))
            portrait = Image.fromarray(images.read(portraits[(4 * number + place) % len(portraits)]))
            x, y = place * 400 + int(rng.integers(0, 400 - side)), int(rng.integers(0, 1000 - side))
            page[y : y + side, x : x + side] = np.asarray(portrait.resize((side, side)))
        Image.fromarray(page).save(folder / f"{number:03d}.jpg", quality=90)


@contextlib.contextmanager
def recorded(calls: list[Call]) -> Iterator[None]:
    """Within, every call of a library is made as always, and kept."""
    import cv2

    def keeping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(lambda: function(*args, **options))
            return function(*args, **options)

        return call

    def run_network(network: litert.Network, image: np.ndarray) -> list[np.ndarray]:
        interpreter, source, results, _ = network._interpreter()
        seen = (image * network._scale + network._offset)[None]

        def bare() -> list[np.ndarray]:
            interpreter.set_tensor(source, seen)
            interpreter.invoke()
            return [interpreter.get_tensor(result)[0] for result in results]

        calls.append(bare)
        return bare()

    read = images.read

    def decode(file: Any, *, draft: int | None = None) -> np.ndarray:
        content = file.getvalue()

        def bare() -> np.ndarray:
            with Image.open(io.BytesIO(content)) as image:
                return np.array(image.convert("RGB"))

        calls.append(bare)
        return read(file, draft=draft)

    with contextlib.ExitStack() as stack:
        for name in OPENCV:
            stack.enter_context(mock.patch.object(cv2, name, keeping(getattr(cv2, name))))
        stack.enter_context(mock.patch.object(litert.Network, "__call__", run_network))
        stack.enter_context(mock.patch.object(images, "read", decode))
        yield


def measure(cutter: Cutter, folder: Path, runs: int) -> dict[str, Any]:
    contents = [file.path.read_bytes() for file in images.find([folder])[0]]

    def pipeline() -> int:
        faces = 0
        for content in contents:
            picture = images.read(io.BytesIO(content))
            faces += len(cutter.cut(picture, cutter.find(picture)))
        return faces

    pipeline()  # interpreters are opened once
    calls: list[Call] = []
    with recorded(calls):
        faces = pipeline()

    def bare() -> None:
        for call in calls:
            call()

    seconds = interleaved({"pipeline": pipeline, "bare_calls": bare}, runs)
    return {
        "pictures": len(contents),
        "faces": faces,
        "library_calls": len(calls),
        "cpu_seconds": medians(seconds),
        "faces_per_cpu_second": round(faces / medians(seconds)["pipeline"], 1),
        "ratio": median_ratio(seconds, "bare_calls", "pipeline"),
    }


def memory_of(folder: Path, times: int, reader: Reader) -> dict[str, float]:
    """Megabytes that the process has held at most, before and after many more pictures."""
    found, _ = images.find([folder])
    for file in found:
        reader(file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(times):
        for file in found:
            reader(file)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pictures": times * len(found), "before_mb": round(before), "after_mb": round(after)}


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--data", type=Path, default=Path("../shared/data/photos/omi"), metavar="PHOTOS")
    options.add_argument("--pictures", type=int, default=40)
    options.add_argument("--many", type=int, default=0, help="also read this many pictures for the memory")
    args = options.parse_args()
    if not args.data.is_dir():
        print(f"no folder {str(args.data)!r}: name a folder of portraits with --data", file=sys.stderr)
        raise SystemExit(2)
    portraits = [file.path for file in images.find([args.data])[0]]
    portraits = portraits[:: max(1, len(portraits) // args.pictures)][: args.pictures]
    cutter = Cutter(
        SIZE,
        "portrait",
        "white",
        finders.open_finder("mediapipe"),
        open_matte("mediapipe"),
        open_upscaler(None),
    )
    reader = Reader(cutter)
    result: dict[str, Any] = {"benchmark": "faces"}
    with tempfile.TemporaryDirectory() as scratch:
        singles, groups = Path(scratch) / "singles", Path(scratch) / "groups"
        for folder in (singles, groups):
            folder.mkdir()
        for number, path in enumerate(portraits):
            (singles / f"{number:03d}{path.suffix}").write_bytes(path.read_bytes())
        group_photos(portraits, groups, max(2, args.pictures // 5))
        for name, folder in (("portraits", singles), ("group_photos", groups)):
            result[name] = measure(cutter, folder, args.runs)
            result[f"ratio_{name}"] = result[name]["ratio"]
            began = time.perf_counter()
            report = prepare(
                [folder], "photos", Path(scratch) / f"pack-{name}", size=SIZE, framing="portrait",
                whiten=True, find="mediapipe", progress=False,
            )  # fmt: skip
            result[name]["prepare_faces_per_second_all_cores"] = round(
                report.accepted / (time.perf_counter() - began), 1
            )
        if args.many:
            result["memory"] = memory_of(singles, max(1, args.many // len(portraits)), reader)
    result["settings"] = {"size": SIZE, "framing": "portrait", "whiten": "mediapipe", "runs": args.runs}
    result["machine"] = machine()
    tell(result, args)


if __name__ == "__main__":
    main()

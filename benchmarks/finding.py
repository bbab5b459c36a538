"""How well the default finder and mattes do on portraits of which the truth is known.

    python benchmarks/finding.py --data DATA --json

DATA holds photos/apdrawing (20 portraits with five points and a mask of the person each) and photos/omi (662
portraits, here turned by 0 to 359 degrees). Roll is compared with the angle by which a photo was turned, plus the
roll that the same finder read before it was turned.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.measure import machine, parser, tell
from fewtoon.faces.face import Face
from fewtoon.faces.finders import open_finder
from fewtoon.faces.matte import open_matte
from fewtoon.io import images

NEAR = 2.0  # degrees


def portraits(folder: Path) -> dict[str, Any]:
    """Distance of the five points to those that a person set, in pixels and in distances of the eyes."""
    finder, pixels, relative, found = open_finder("mediapipe"), [], [], 0
    with open(folder / "landmarks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        # In this table "r" is the right of the person, which is the left of the picture.
        names = ("reye", "leye", "nose", "rmouth", "lmouth")
        truth = np.array([(float(row[f"{n}_x"]), float(row[f"{n}_y"])) for n in names])
        faces = finder(images.read(next(folder.rglob(row["file"]))))
        found += len(faces) == 1
        if faces and faces[0].points is not None:
            distance = np.hypot(*(faces[0].points - truth).T)
            pixels.append(distance)
            relative.append(distance / np.hypot(*(truth[1] - truth[0])))
    return {
        "pictures": len(rows),
        "found_once": found,
        "landmark_error_px": round(float(np.mean(pixels)), 2),
        "landmark_error_px_worst_picture": round(float(np.mean(pixels, 1).max()), 2),
        "landmark_error_interocular": round(float(np.mean(relative)), 4),
    }


def mattes(folder: Path, specs: list[str]) -> dict[str, Any]:
    """Intersection over union at one half, and mean error of alpha, of each matte."""
    result = {}
    photos = {path.stem: path for path in folder.rglob("*.jpg")}
    masks = {path.stem.removesuffix("_mask"): path for path in folder.rglob("*_mask.png")}
    for spec in specs:
        matte, unions, errors = open_matte(spec), [], []
        for stem in sorted(photos.keys() & masks.keys()):
            truth = images.read(masks[stem])[..., 0]
            alpha = matte(images.read(photos[stem]))
            a, b = alpha >= 128, truth >= 128
            unions.append((a & b).sum() / (a | b).sum())
            errors.append(np.abs(alpha.astype(float) - truth).mean() / 255)
        result[matte.name] = {
            "iou": round(float(np.mean(unions)), 4),
            "iou_worst": round(float(np.min(unions)), 4),
            "alpha_error": round(float(np.mean(errors)), 4),
        }
    return result


def turned(folder: Path, every: int, seed: int) -> dict[str, Any]:
    """Photos turned by a random angle about their middle, on a canvas that holds them whole."""
    finder, rng = open_finder("mediapipe"), np.random.default_rng(seed)
    paths = sorted(folder.rglob("*.jpg"))[::every]
    once, away, missed, extra = 0, [], 0, 0
    for path in paths:
        photo = images.read(path)
        upright = finder(photo)
        once += len(upright) == 1
        angle = float(rng.uniform(0, 360))
        faces = finder(_turn(photo, angle))
        missed += not faces
        extra += max(0, len(faces) - 1)
        if faces and upright:
            best = max(faces, key=lambda face: face.area)
            away.append(_away(best, upright[0].roll + angle))
    return {
        "pictures": len(paths),
        "upright_found_once": once,
        "turned_found": len(paths) - missed,
        "false_faces": extra,
        "within_2_degrees": sum(one <= NEAR for one in away),
        "worst_degrees": round(max(away), 2),
    }


def _turn(photo: np.ndarray, angle: float) -> np.ndarray:
    """The photo turned clockwise, its corners kept, on its own mirror image."""
    height, width = photo.shape[:2]
    side = int(np.ceil(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    return cv2.warpAffine(photo, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)  # type: ignore[return-value]


def _away(face: Face, roll: float) -> float:
    return abs((face.roll - roll + 180) % 360 - 180)


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DATA")
    options.add_argument("--every", type=int, default=1, help="take every n-th photo of omi")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    photos, segment = args.data / "photos", args.data / "weights" / "segment"
    if not (photos / "apdrawing").is_dir() or not (photos / "omi").is_dir():
        print(
            f"no photos/apdrawing and photos/omi in {str(args.data)!r}: name them with --data",
            file=sys.stderr,
        )
        raise SystemExit(2)
    cv2.setNumThreads(1)
    specs = ["mediapipe"]
    specs += [f"{kind}:{segment / file}" for kind, file in (("sinet", "SINet.pth"), ("extremec3", "ExtremeC3.pth"))
              if (segment / file).is_file()]  # fmt: skip
    began = time.perf_counter()
    result = {
        "benchmark": "finding",
        "apdrawing": portraits(photos / "apdrawing"),
        "mattes": mattes(photos / "apdrawing", specs),
        "omi_turned": turned(photos / "omi", args.every, args.seed),
        "seconds": round(time.perf_counter() - began, 1),
        "settings": {"seed": args.seed, "every": args.every},
        "machine": machine(),
    }
    tell(result, args)


if __name__ == "__main__":
    main()

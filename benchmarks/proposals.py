"""Recall and precision of proposed face boxes on composed pages of drawings, before and after boxes are marked.

    python benchmarks/proposals.py --json

A book is a row of pages in one style: several drawings per page at 60 to 260 px, a third of them mirrored, as
cut-outs or in frames of their own, among faceless distractors (lettering, balloons, shapes, gradients,
screentone, crops of hair and clothing). `before`: the default finders for drawings. `after_N`: what is learned
from the first pages, whose N boxes were marked completely by a slightly careless hand. Both are measured on
later pages, whose drawings are on no marked page. A proposal is right where it overlaps a face by IoU >= 0.5,
each face once; `precision` and `recall` are those of the proposals with a score >= 0.5.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from common.measure import machine, parser, tell
from fewtoon.errors import Problem
from fewtoon.faces import finders
from fewtoon.faces.face import Box, Face, overlap
from fewtoon.faces.learned import learn
from fewtoon.faces.panels import find_in_panels
from fewtoon.io import images

# Where the face lies in the 256 px pictures of each style, brows to chin and ear to ear: read off contact
# sheets of every head and hair part. Only the features inside vary.
FACES: dict[str, Box] = {
    "avataaars": (62, 86, 194, 199),
    "lorelei": (86, 86, 190, 193),
    "adventurer": (48, 98, 194, 205),
    "open_peeps": (92, 106, 209, 207),
}
MARKED = (5, 10, 20)
PER_MARKED_PAGE = 5
WIDTH, HEIGHT = 1000, 1400
SIDES = (60, 260)  # of a drawing on a page, pixels
Page = tuple[np.ndarray, list[Face]]


# ---- composing ---------------------------------------------------------------------------------------------


def shuffled(folder: Path, rng: np.random.Generator) -> list[Path]:
    """All drawings of one style, in an order by lot."""
    with open(folder / "attributes.csv", encoding="utf-8", newline="") as file:
        names = sorted(row["file"] for row in csv.DictReader(file))
    return [folder / names[i] for i in rng.permutation(len(names))]


def colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(low, high, 3))
    return r, g, b


def cut_out(drawing: np.ndarray) -> np.ndarray:
    """(H, W) float32 alpha: 0 where the plain background reaches in from the top corners."""
    height, width = drawing.shape[:2]
    mask = np.zeros((height + 2, width + 2), np.uint8)
    for corner in ((0, 0), (width - 1, 0)):
        cv2.floodFill(drawing.copy(), mask, corner, (0, 0, 0), (3,) * 3, (3,) * 3, 4 | (255 << 8))
    solid = cv2.erode((mask[1:-1, 1:-1] == 0).astype(np.uint8), np.ones((2, 2), np.uint8))
    return cv2.GaussianBlur(solid.astype(np.float32), (3, 3), 0)


def paste(page: np.ndarray, piece: np.ndarray, alpha: np.ndarray | None, x: int, y: int) -> None:
    height, width = piece.shape[:2]
    under = page[y : y + height, x : x + width]
    weight = 1.0 if alpha is None else alpha[..., None]
    under[:] = np.rint(under * (1 - weight) + piece * weight).astype(np.uint8)


def ground(rng: np.random.Generator) -> np.ndarray:
    """An empty page: plain, a gradient, screentone, or panels."""
    a, b = np.array(colour(rng, 150)), np.array(colour(rng, 150))
    kind = rng.integers(4)
    page = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    page[:] = 255 if kind == 0 else a
    if kind == 1:
        page[:] = (a + (b - a) * np.linspace(0, 1, HEIGHT)[:, None, None]).astype(np.uint8)
    elif kind == 2:
        tone(page, 0, 0, WIDTH, HEIGHT, rng)
    elif kind == 3:
        for top in range(20, HEIGHT - 200, 460):
            split = int(rng.integers(300, 700))
            for left, right in ((20, split - 8), (split + 8, WIDTH - 20)):
                cv2.rectangle(page, (left, top), (right, top + 440), colour(rng, 120), -1)
                cv2.rectangle(page, (left, top), (right, top + 440), (0, 0, 0), 3)
    return page


def tone(page: np.ndarray, x: int, y: int, width: int, height: int, rng: np.random.Generator) -> None:
    """Screentone: a lattice of dots."""
    step, ink = int(rng.integers(5, 12)), colour(rng, 0, 200)
    rows, columns = np.mgrid[y : y + height, x : x + width]
    u, v = (columns + rows) % step - step / 2, (columns - rows) % step - step / 2
    page[y : y + height, x : x + width][u**2 + v**2 < (rng.uniform(0.2, 0.4) * step) ** 2] = ink


def lettering(page: np.ndarray, x: int, y: int, width: int, height: int, rng: np.random.Generator) -> None:
    size = float(rng.uniform(0.35, 0.9))
    ink = colour(rng, 0, 90)
    for line in range(y + 16, y + height - 4, int(34 * size) + 4):
        text = "".join(rng.choice(list("AEIOUNRSTLomae gdx!?OO00.,"), max(2, int(width / (19 * size)))))
        cv2.putText(page, text, (x, line), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1 + (size > 0.6), cv2.LINE_AA)


def balloon(page: np.ndarray, x: int, y: int, width: int, height: int, rng: np.random.Generator) -> None:
    middle, radii = (x + width // 2, y + height // 2), (width // 2 - 4, height // 2 - 4)
    cv2.ellipse(page, middle, radii, 0, 0, 360, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.ellipse(page, middle, radii, 0, 0, 360, (0, 0, 0), 2, cv2.LINE_AA)
    lettering(page, x + width // 5, y + height // 4, 3 * width // 5, height // 2, rng)


def shapes(page: np.ndarray, x: int, y: int, width: int, height: int, rng: np.random.Generator) -> None:
    """Discs, rings, boxes and lines; some side by side as eyes are."""
    for _ in range(int(rng.integers(3, 9))):
        at = (int(rng.integers(x, x + width)), int(rng.integers(y, y + height)))
        radius, thick = int(rng.integers(4, max(6, min(width, height) // 4))), int(rng.choice([-1, 2, 4]))
        ink = colour(rng)
        if rng.random() < 0.6:
            cv2.circle(page, at, radius, ink, thick, cv2.LINE_AA)
            if rng.random() < 0.5:
                cv2.circle(page, (at[0] + 3 * radius, at[1]), radius, ink, thick, cv2.LINE_AA)
        else:
            other = (int(rng.integers(x, x + width)), int(rng.integers(y, y + height)))
            (cv2.rectangle if rng.random() < 0.5 else cv2.line)(page, at, other, ink, max(2, thick))


def gradient(page: np.ndarray, x: int, y: int, width: int, height: int, rng: np.random.Generator) -> None:
    a, b = np.array(colour(rng)), np.array(colour(rng))
    share = np.linspace(0, 1, height)[:, None, None]
    page[y : y + height, x : x + width] = (a + (b - a) * share).astype(np.uint8)


def faceless(drawing: np.ndarray, face: Box, rng: np.random.Generator) -> np.ndarray:
    """The hair above a face, or what is below it, at a size by lot."""
    rows = slice(0, int(face[1]) - 8) if rng.random() < 0.5 else slice(int(face[3]) + 6, 256)
    factor = rng.uniform(0.4, 1.1)
    return cv2.resize(drawing[rows], None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def free_place(
    taken: list[Box], width: int, height: int, rng: np.random.Generator, tries: int = 200
) -> tuple[int, int] | None:
    for _ in range(tries):
        x, y = int(rng.integers(0, WIDTH - width)), int(rng.integers(0, HEIGHT - height))
        box = (x, y, x + width, y + height)
        if all(overlap(box, other) == 0 for other in taken):
            taken.append(box)
            return x, y
    return None


def compose(
    drawings: list[Path], pieces: list[Path], face: Box, rng: np.random.Generator, jpeg_quality: int = 88
) -> Page:
    """A page that holds all the drawings, and distractors among which are faceless crops of `pieces`."""
    page, taken, faces = ground(rng), list[Box](), list[Face]()
    spread: list[Callable[..., None]] = [lettering, balloon, shapes, gradient, tone]
    places = []
    for path in drawings:  # the places first: distractors may lie beside, never over a face
        side = round(float(np.exp(rng.uniform(*np.log(SIDES)))))
        place = free_place(taken, side, side, rng)
        if place is not None:
            places.append((path, side, *place))
    for k in range(int(rng.integers(8, 14))):
        width, height = (int(v) for v in rng.integers(60, 300, 2))
        place = free_place(taken, width, height, rng)
        if place is not None:
            spread[k % len(spread)](page, *place, width, height, rng)
    for path in pieces:
        piece = faceless(images.read(path), face, rng)
        place = free_place(taken, piece.shape[1], piece.shape[0], rng)
        if place is not None:
            paste(page, piece, None, *place)
    for path, side, x, y in places:
        drawing = images.read(path)
        alpha = cut_out(drawing) if rng.random() < 0.5 else None
        left, top, right, bottom = face
        if rng.random() < 1 / 3:
            drawing, alpha = drawing[:, ::-1], None if alpha is None else alpha[:, ::-1]
            left, right = 256 - right, 256 - left
        size = (side, side)
        small = cv2.resize(drawing, size, interpolation=cv2.INTER_AREA)
        paste(
            page,
            small,
            None if alpha is None else cv2.resize(alpha, size, interpolation=cv2.INTER_AREA),
            x,
            y,
        )
        if alpha is None and rng.random() < 0.5:
            cv2.rectangle(page, (x, y), (x + side - 1, y + side - 1), (0, 0, 0), 2)
        faces.append(Face((left, top, right, bottom)).placed(side / 256, x, y))
    ok, coded = cv2.imencode(".jpg", page[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    assert ok
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]), faces


def book(folder: Path, pages: int, seed: int) -> tuple[list[Page], list[Page]]:
    """(pages to mark, pages to test on) of one style; no drawing is on two pages."""
    rng = np.random.default_rng([seed, *folder.name.encode()])
    paths = iter(shuffled(folder, rng))

    def page(count: int) -> Page:
        return compose(
            [next(paths) for _ in range(count)], [next(paths) for _ in range(4)], FACES[folder.name], rng
        )

    marked = [page(PER_MARKED_PAGE) for _ in range(max(MARKED) // PER_MARKED_PAGE)]
    return marked, [page(int(rng.integers(3, 9))) for _ in range(pages)]


def careless(face: Face, spread: float, rng: np.random.Generator) -> Face:
    """The face as a hand marks it: each edge off by a share of the size."""
    noise = rng.normal(0, spread, 4) * (face.width, face.height, face.width, face.height)
    left, top, right, bottom = (float(v + n) for v, n in zip(face.box, noise))
    return replace(face, box=(max(left, 0.0), max(top, 0.0), right, bottom))


# ---- measuring ---------------------------------------------------------------------------------------------


def right_ones(found: list[Face], truth: list[Face]) -> list[bool]:
    """For each proposal, the surest first, whether it is the first to overlap some face by IoU >= 0.5."""
    left = list(truth)
    right = []
    for proposal in sorted(found, key=lambda face: -face.score):
        best = max(left, key=lambda face: overlap(face.box, proposal.box), default=None)
        right.append(best is not None and overlap(best.box, proposal.box) >= 0.5)
        if best is not None and right[-1]:
            left.remove(best)
    return right


def measure(find: Callable[[np.ndarray], list[Face]], pages: list[Page], least: float) -> dict[str, float]:
    hits = proposals = faces = 0
    began = time.process_time()
    for picture, truth in pages:
        right = right_ones([face for face in find(picture) if face.score >= least], truth)
        hits, proposals, faces = hits + sum(right), proposals + len(right), faces + len(truth)
    return {
        "recall": round(hits / faces, 3),
        "precision": round(hits / proposals, 3) if proposals else 0.0,
        "faces": faces,
        "proposals": proposals,
        "cpu_seconds_per_page": round((time.process_time() - began) / len(pages), 3),
    }


def before(specs: list[str], pages: list[Page]) -> dict[str, Any]:
    """What a finder sees that has learned nothing here. It knows its own threshold: every face counts."""
    try:
        finder = finders.choose(specs, "drawings")
    except Problem as problem:
        return {"not_measured": str(problem)}
    return {"finder": finder.name, **measure(lambda page: find_in_panels(finder, page), pages, 0.0)}


def run(folder: Path, specs: list[str], pages: int, seed: int, spread: float) -> dict[str, Any]:
    to_mark, to_test = book(folder, pages, seed)
    rng = np.random.default_rng(seed)
    marked = [(page, [careless(face, spread, rng) for face in faces]) for page, faces in to_mark]
    figures: dict[str, Any] = {"before": before(specs, to_test)}
    for count in MARKED:
        examples = marked[: count // PER_MARKED_PAGE]
        began = time.process_time()
        finder = learn(examples)
        seconds = time.process_time() - began
        boxes = sum(len(faces) for _, faces in examples)
        figures[f"after_{count}"] = {
            "boxes": boxes,
            "learn_cpu_seconds": round(seconds, 2),
            **measure(finder, to_test, 0.5),
        }
    return figures


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    p.add_argument("--pages", type=int, default=16, help="pages to test on, per style (default 16)")
    p.add_argument("--finder", action="append", default=[], help="before: a finder, instead of the default")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--careless", type=float, default=0.03, help="spread of a marked edge, share of the size")
    args = p.parse_args()
    drawings = args.data / "drawings"
    missing = [name for name in FACES if not (drawings / name / "attributes.csv").is_file()]
    if missing:
        print(
            f"no drawings of {', '.join(missing)} in {str(drawings)!r}: name the data with --data",
            file=sys.stderr,
        )
        raise SystemExit(2)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    styles = {name: run(drawings / name, args.finder, args.pages, args.seed, args.careless) for name in FACES}
    last = f"after_{MARKED[-1]}"
    tell(
        {
            "benchmark": "proposals",
            "lowest_recall_after_20": min(found[last]["recall"] for found in styles.values()),
            "lowest_precision_after_20": min(found[last]["precision"] for found in styles.values()),
            "styles": styles,
            "settings": {
                "pages": args.pages,
                "page_pixels": [WIDTH, HEIGHT],
                "drawing_sides": SIDES,
                "iou": 0.5,
                "least_score": 0.5,
                "careless": args.careless,
                "seed": args.seed,
            },
            "machine": machine(),
        },
        args,
    )


if __name__ == "__main__":
    main()

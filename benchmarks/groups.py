"""Who keeps their glasses: the published ways to learn from groups of 1050 / 249 / 49 / 38 drawings, and ours.

Photos: omi, 220 of them never seen in training. Drawings: avataaars and lorelei, trained on `train`, compared with
`test`, which is balanced. `--styles world`: the same with photos and drawings of the drawn world, without any data.
Every way gets the same number of updates of the same networks; where a way begins with
a model of the rich group, that model has had half of them. What is measured is the last averaged weights, so
nothing is chosen by its figures. Both judges learn from the training drawings, once for all; no training sees them.

    python benchmarks/groups.py --data ../shared/data --out groups        # all, again to go on
    python benchmarks/groups.py --data ../shared/data --out groups --only plain ours --styles lorelei --seeds 0 1

The command that repeats one training by hand is printed before it. Each run folder holds a report with pictures, and
beside them lies a sheet of the same held-out photos as drawn by every way.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import fewtoon
from common.measure import machine, parser, tell
from fewtoon import config
from fewtoon.data.pack import Pack
from fewtoon.data.prepare import prepare
from fewtoon.data.world import build as world
from fewtoon.io.images import save_png
from fewtoon.metrics.attributes import Judges
from fewtoon.run import Run
from fewtoon.style import to_pixels, to_tensor

GROUPS = ("0_woman_no_glasses", "1_man_no_glasses", "2_man_glasses", "3_woman_glasses")
RICH = GROUPS[0]
UNSEEN = 220  # photos
NETWORKS = ["channels=16", "blocks=4", "learning_rate=0.0005"]
TRAINING = ["batch=4", "precision=bf16", "ema=0.995", "enlarge=1.1", "flip=true", "train.framing=null"]


class Way(NamedTuple):
    """A way to train: a preset, what is set on top, and whether it begins with the model of the rich group."""

    preset: str
    sets: tuple[str, ...] = ()
    from_rich: bool = False


# The published branches and weights, on the same networks as all others.
BRANCHES = ("generator=resnet", "cam_weight=1000", "cycle_weight=10", "batch=4")
WAYS = {
    "plain": Way("ugatit-light"),
    "rich": Way("ugatit-light", (f"train.groups=[{RICH}]",)),  # what the others begin with
    "fine-tune": Way("fine-tune", from_rich=True),
    "face2webtoon": Way("face2webtoon", ("augment=none",), from_rich=True),
    # Their p practically only rose, because a sum over patches was divided by pictures.
    "face2webtoon-ada": Way("face2webtoon", ("ada_target=-1",), from_rich=True),
    "branches": Way("group-branches", BRANCHES, from_rich=True),
    "branches-face-id": Way("group-branches", (*BRANCHES, "face_id={face_id}"), from_rich=True),
    "ours": Way("groups"),
    "ours, not told": Way("groups", ("group_told=none",)),
}


def packs(data: Path, out: Path, size: int, style: str) -> tuple[Pack, Pack]:
    """The pack of photos, and that of a style's drawings: `train` to train on, `test` held out."""
    drawn, taken, faces_name = data / "drawings" / style, data / "photos" / "omi", photos_of(style)
    tables = out / "packs"
    tables.mkdir(parents=True, exist_ok=True)
    if style == "world":
        built = out / f"world-{size}"
        drawn, taken = built / "drawings", built / "train" / "photos"
        world(built / "train", 542, 1386, size, 0, "1050/249/49/38", workers=1)
        world(built / "test", 4, 240, size, 1, workers=1)
        for part in ("train", "test"):
            shutil.copytree(built / part / "drawings", drawn / part, dirs_exist_ok=True)
    groups = [(f"{part}/{g}/{f.name}", g) for part in ("train", "test") for g in GROUPS
              for f in sorted((drawn / part / g).iterdir())]  # fmt: skip
    held = [(name, "held_out" if name.startswith("test") else "train") for name, _ in groups]
    _table(tables / f"{style}-groups.csv", ("file", "group"), groups)
    _table(tables / f"{style}-split.csv", ("file", "split"), held)
    faces = [(f"{g}/{f.name}", g) for g in GROUPS for f in sorted((taken / g).iterdir())]
    _table(tables / f"{faces_name}-groups.csv", ("file", "group"), faces)
    photos, drawings = tables / f"{faces_name}-{size}", tables / f"{style}-{size}"
    prepare([taken / g for g in GROUPS], "photos", photos, size, tables / f"{faces_name}-groups.csv", UNSEEN,
            progress=False)  # fmt: skip
    prepare([drawn], "drawings", drawings, size, tables / f"{style}-groups.csv",
            split=tables / f"{style}-split.csv", progress=False)  # fmt: skip
    return Pack.open(photos), Pack.open(drawings)


def photos_of(style: str) -> str:
    return "world-photos" if style == "world" else "omi"


def _table(path: Path, columns: tuple[str, str], rows: Iterable[tuple[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def train(way: str, seed: int, style: str, args: Any) -> Path:
    """Train one way, or go on with it; returns its run folder."""
    given = WAYS[way]
    init = train("rich", seed, style, args) if given.from_rich else None
    steps = args.steps // 2 if given.from_rich or way == "rich" else args.steps
    every = [f"{key}={steps}" for key in ("metric_every", "preview_every")]
    seen = (
        [f"ada_pictures={args.steps * 4}"] if "face2webtoon" in given.preset or way.startswith("ours") else []
    )
    local = [text.format(face_id=args.face_id) for text in given.sets]
    sets = [*NETWORKS, *TRAINING, *seen, *local, f"steps={steps}", f"seed={seed}", "state_every=250", *every]
    out = (
        args.out / f"{style}-{args.size}-{args.steps}" / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
    )
    photos, drawings = (args.out / "packs" / f"{name}-{args.size}" for name in (photos_of(style), style))
    if not (out / "last.safetensors").is_file():
        begin = ["--init", str(init)] if init else []
        told = [f"--set {text!r}" for text in sets]
        print("fewtoon train", given.preset, "--photos", photos, "--drawings", drawings, "--out", out, *begin,
              *told, file=sys.stderr)  # fmt: skip
    fewtoon.train(config.load(given.preset, sets), photos, drawings, out, init=init, track=(), quiet=True)
    return out


def measure(run: Path, photos: Pack, drawings: Pack, judges: Judges, args: Any) -> dict[str, Any]:
    """Figures of the last weights, as `fewtoon evaluate --json` has them: told the groups, and reading them."""
    file = run / "figures.json"
    if file.is_file():
        return json.loads(file.read_text())
    style = fewtoon.load(Run(run).last, "cpu", "bf16")
    nets = ["tiny"] + ([f"mobilefacenet:{args.face_id}"] if args.face_id else [])
    found = {
        "told": fewtoon.evaluate(style, photos, drawings, features=nets, out=run / "report", judges=judges)
    }
    if style.method.reads_groups():
        found["read"] = fewtoon.evaluate(
            style, photos, drawings, group="auto", features=nets, out=run / "report-read", judges=judges
        )
    file.write_text(json.dumps(found))
    return found


def row(name: str, result: dict[str, Any]) -> str:
    """One line of the table: shares of photos, kept by the first reader / by the second."""
    metrics = result["metrics"]

    def share(group: str, attribute: str, key: str) -> str:
        entry = metrics[group]["attributes"][attribute]
        both = [entry[key], (entry.get("second") or {}).get(key)]
        return " / ".join("-" if value is None else f"{100 * value:.0f}" for value in both)

    low, high = metrics["all"]["kid_interval"]
    who = metrics["all"].get("identity") or {}
    cells = [
        name,
        *(share(group, "glasses", "kept") for group in GROUPS[2:]),
        share("all", "glasses", "invented"),
        *(share(group, "presentation", "kept") for group in GROUPS),
        f"{metrics['all']['kid']:.1f} ({low:.1f} to {high:.1f})",
        f"{result['summary']['kid_mean_of_groups']:.1f}",
        f"{100 * who['rank1']:.1f}" if who else "-",
    ]
    return "| " + " | ".join(cells) + " |"


def sheet(runs: dict[str, Path], photos: Pack, each: int = 2) -> np.ndarray:
    """(H, W, 3) uint8, twice enlarged: the same held-out photos, `each` of every group, and below them a row for
    every way."""
    rows = [row for g in GROUPS for row in photos.where("held_out", g)[:each]]
    names = [photos.rows[row].group or "" for row in rows]
    pictures = np.array(photos.images[rows])
    lines = [pictures]
    for run in runs.values():
        drawer = fewtoon.load(Run(run).last, "cpu", "bf16")
        told = names if drawer.groups else None
        lines.append(to_pixels(drawer.translate(to_tensor(pictures), told)))
    whole = np.concatenate([np.concatenate(list(line), 1) for line in lines], 0)
    return whole.repeat(2, 0).repeat(2, 1)


HEAD = (
    "| way | glasses kept, men | women | invented | presentation kept, women | men | men, glasses | women, glasses "
    "| KID x1000 (95 %) | mean of groups | rank-1 |\n|---|" + "---:|" * 10
)


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--steps", type=int, default=2000, help="updates of four photos and four drawings")
    p.add_argument("--styles", nargs="+", default=["avataaars", "lorelei"])
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument(
        "--only", nargs="+", choices=WAYS, default=[w for w in WAYS if w != "rich" and "," not in w]
    )
    p.add_argument("--train-only", action="store_true", help="measure later")
    args = p.parse_args()
    torch.set_num_threads(1)
    face_id = args.data / "weights" / "face_id" / "mobilefacenet_foamliu.pt"
    args.face_id = face_id if face_id.is_file() else None  # then there is no figure of identity
    if args.face_id is None and "branches-face-id" in args.only:
        p.error(
            f"branches-face-id takes {face_id}; name its folder by --data, or leave that way out of --only"
        )
    result: dict[str, Any] = {"machine": machine(), "size": args.size, "steps": args.steps, "styles": {}}
    for style in args.styles:
        photos, drawings = packs(args.data, args.out, args.size, style)
        runs = {
            f"{way}, seed {seed}": train(way, seed, style, args) for seed in args.seeds for way in args.only
        }
        if args.train_only:
            continue
        save_png(args.out / f"{style}-{args.size}-{args.steps}.png", sheet(runs, photos))
        judges = Judges.of_pack(drawings)
        found = {name: measure(run, photos, drawings, judges, args) for name, run in runs.items()}
        lines = [row(name + ("" if told == "told" else ", groups read"), one)
                 for name, both in found.items() for told, one in both.items()]  # fmt: skip
        print(f"\n{style}\n{HEAD}", *lines, sep="\n", file=sys.stderr)
        result["styles"][style] = {
            name: {told: {"metrics": one["metrics"], "summary": one["summary"]} for told, one in both.items()}
            for name, both in found.items()
        }
    tell(result, args)


if __name__ == "__main__":
    main()

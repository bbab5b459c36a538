"""The whole road on the drawn world: pictures, packs, training, drawings, report. Run again, it goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

SIZE = 64
PHOTOS, DRAWINGS, HELD_OUT = 480, 320, 0.2
PRESET = "demo"


def demo(out: str | Path = "demo", sets: list[str] | None = None) -> dict[str, Any]:
    """Draw a world, prepare it, train on it, translate the held-out photos, evaluate.

    sets: settings on top of the preset, as in `fewtoon train --set`. What is done already is not done again.
    Returns the paths of the report, the contact sheet and the run, the held-out KID before and after, and the
    seconds that each part took. Raises Problem.
    """
    from fewtoon import style
    from fewtoon.data import world
    from fewtoon.data.pack import Pack
    from fewtoon.data.prepare import prepare
    from fewtoon.draw import translate
    from fewtoon.engine.train import train
    from fewtoon.metrics.evaluate import evaluate

    folder = Path(out)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def part(name: str, what: str) -> None:
        nonlocal began
        seconds[name] = round(time.monotonic() - began, 1)
        print(f"[{seconds[name]:6.1f} s] {what}", file=sys.stderr, flush=True)
        began = time.monotonic()

    world.build(folder / "world", photos=PHOTOS, drawings=DRAWINGS, size=SIZE)
    part("world", f"{PHOTOS} photos and {DRAWINGS} drawings of the drawn world in {folder / 'world'}")

    packs = {}
    for side in ("photos", "drawings"):
        prepare(
            [folder / "world" / side],
            side,
            folder / "packs" / side,
            size=SIZE,
            held_out=HELD_OUT,
            framing="as-is",
        )
        packs[side] = Pack.open(folder / "packs" / side)
    part("prepare", f"two packs in {folder / 'packs'}")

    run = folder / "run"
    train(PRESET, packs["photos"], packs["drawings"], run, sets=sets or [])
    part("train", f"a style in {run / 'best.safetensors'}")

    drawer = style.load(run)
    held_out = [
        folder / "world" / "photos" / packs["photos"].rows[i].file for i in packs["photos"].where("held_out")
    ]
    translate(drawer, held_out, folder / "drawn", side_by_side=True)
    part("translate", f"{len(held_out)} held-out photos drawn in {folder / 'drawn'}")

    result = evaluate(drawer, packs["photos"], packs["drawings"], out=run / "report")
    part("evaluate", f"the report in {run / 'report'}")
    before, after = result["untranslated"]["all"]["kid"], result["metrics"]["all"]["kid"]
    print(f"held-out KID x1000: {before:.1f} untranslated, {after:.1f} translated", file=sys.stderr)
    return {
        "report": str(run / "report" / "report.html"),
        "sheet": str(run / "report" / "sheet.png"),
        "run": str(run),
        "kid": after,
        "kid_untranslated": before,
        "seconds": seconds,
    }

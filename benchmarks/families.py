"""Two families on the same held-out photos: translators, and StyleGAN styles that draw by way of their source.

    python benchmarks/families.py --photos packs/photos --drawings packs/drawings --source runs/source \\
        --styles runs/drawn swapped.safetensors --translators runs/groups --face-id mobilefacenet.pt --out families

Both judges learn the attributes from the training drawings, once for all styles. Photos are compared with the held-out
drawings. Every style gets a report of its own in --out; the table is printed and lies there as families.md.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from common.measure import machine, parser, tell
from fewtoon.data.pack import Pack
from fewtoon.latent.sources import open_sources
from fewtoon.latent.through import open_through
from fewtoon.metrics.attributes import Judges
from fewtoon.metrics.evaluate import evaluate
from fewtoon.style import load


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--photos", required=True, metavar="PACK")
    arguments.add_argument("--drawings", required=True, metavar="PACK")
    arguments.add_argument("--source", required=True, metavar="STYLE|RUN", help="a StyleGAN style of photos")
    arguments.add_argument("--styles", nargs="*", default=[], metavar="STYLE|RUN", help="fine-tuned from it")
    arguments.add_argument("--translators", nargs="*", default=[], metavar="STYLE|RUN")
    arguments.add_argument("--encoder", metavar="FILE", help="where projections start")
    arguments.add_argument("--steps", type=int, metavar="N", help="of a projection")
    arguments.add_argument(
        "--face-id", metavar="FILE", help="a MobileFaceNet, for the rank of the right person"
    )
    arguments.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = arguments.parse_args()
    photos, drawings = Pack.open(args.photos), Pack.open(args.drawings)
    judges = Judges.of_pack(drawings, None, 0, size=photos.size, others=photos.groups)
    features = ["tiny"] + ([f"mobilefacenet:{args.face_id}"] if args.face_id else [])
    rows: dict[str, dict[str, Any]] = {}
    first: Any = None
    for path in [*args.translators, *args.styles]:
        through = path in args.styles
        drawer: Any
        if not through:
            drawer = load(path)
        elif first is None:
            drawer = first = open_through(path, args.source, args.encoder, steps=args.steps)
        else:
            drawer = first.by(open_sources([path])[0])  # each photo is projected once for all styles
        label = Path(path).absolute().name if Path(path).is_dir() else Path(path).stem
        label += ", through its source" if through else ""
        start = time.process_time()
        found = evaluate(
            drawer,
            photos,
            drawings,
            features=features,
            judges=judges,
            out=args.out / label.replace(", ", "-").replace(" ", "-"),
        )
        count = found["metrics"]["all"]["n_fake"]
        rows[label] = {
            "metrics": found["metrics"],
            "untranslated": found["untranslated"]["all"]["kid"],
            "kid_mean_of_groups": found["summary"]["kid_mean_of_groups"],
            "cpu_seconds_a_photo": round((time.process_time() - start) / count, 3),  # measuring it included
            "projected_anew": through and drawer is first,
        }
        print(f"{label}: done", file=sys.stderr, flush=True)
    text = table(rows)
    (args.out / "families.md").write_text(text)
    facts = {"benchmark": "families", "machine": machine(), "judges": judges.facts(), "rows": rows}
    (args.out / "families.json").write_text(json.dumps(facts, indent=1))
    if args.json:
        tell(facts, args)
    else:
        print(text)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A row per style; of attributes the share kept and, of those who lack it, invented, over all and per group."""
    first = next(iter(rows.values()))["metrics"]
    names = sorted(first["all"].get("attributes") or {})
    groups = [name for name in first if name != "all"]
    heads = ["style", "KID x1000 (95 %)", "mean of groups", "right person first (chance)"]
    heads += [f"{name} kept: {group}" for name in names for group in ("all", *groups)]
    heads += [*(f"{name} invented" for name in names), "CPU s a photo"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for label, row in rows.items():
        of, entry = row["metrics"], row["metrics"]["all"]
        low, high = entry["kid_interval"]
        who = entry.get("identity")
        cells = [label, f"{entry['kid']:.1f} ({low:.1f}-{high:.1f})", number(row["kid_mean_of_groups"])]
        cells.append(f"{who['rank1']:.0%} ({who['chance']:.0%})" if who else "-")
        read = {group: of[group].get("attributes") or {} for group in ("all", *groups)}
        cells += [
            share(read[group].get(name, {}).get("kept")) for name in names for group in ("all", *groups)
        ]
        cells += [share(read["all"].get(name, {}).get("invented")) for name in names]
        lines.append(f"| {' | '.join([*cells, number(row['cpu_seconds_a_photo'])])} |")
    return "\n".join(lines) + "\n"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()

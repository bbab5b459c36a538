"""`fewtoon explore swap`: its arguments. What it does: `fewtoon.latent.swap`."""

import argparse
import sys

from fewtoon.answer import answer

TEXT = "low resolutions of one StyleGAN style and high ones of another, fine-tuned from the same source"
EXAMPLE = (
    "fewtoon explore swap drawings.safetensors faces.safetensors --resolution 32 --out swapped.safetensors"
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("low", metavar="LOW", help="style or run whose blocks up to --resolution are taken")
    p.add_argument("high", metavar="HIGH", help="style or run whose blocks above are taken")
    p.add_argument(
        "--resolution", type=int, required=True, metavar="PX", help="the last one of LOW: 4, 8 ..."
    )
    p.add_argument("--out", metavar="STYLE", help="the new style, a .safetensors file")
    p.add_argument(
        "--width", type=float, default=0.0, help="0 (default): a hard switch; 1: smooth over about two blocks"
    )
    p.add_argument(
        "--features",
        action="store_true",
        help="put LOW's feature map at --resolution into HIGH while it draws, instead of its weights; for --sheet",
    )
    sides = ["low", "high"]
    p.add_argument(
        "--mapping", choices=sides, help="whose mapping (default low; with --features each its own)"
    )
    p.add_argument("--constant", choices=sides, help="whose constant input (default low)")
    p.add_argument("--noise", choices=sides, help="whose fixed noise (default low)")
    p.add_argument(
        "--rgb", choices=["blocks", *sides], help="whose layers that make colours (default: as the blocks)"
    )
    p.add_argument("--sheet", metavar="PNG", help="LOW, HIGH and the swap for the same seeds")
    p.add_argument("--seeds", default="0-7", help="of the sheet: 0-7 (default) or 1,5,9")
    p.add_argument("--truncation", type=float, default=1.0, metavar="T", help="of the sheet (default 1)")
    p.add_argument("--group", help="of the sheet, for styles that have groups")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.seeds import seeds_of
    from fewtoon.latent.swap import swap

    result = swap(
        args.low,
        args.high,
        args.resolution,
        out=args.out,
        features=args.features,
        width=args.width,
        mapping=args.mapping,
        constant=args.constant,
        noise=args.noise,
        rgb=args.rgb,
        sheet_to=args.sheet,
        seeds=seeds_of(args.seeds),
        truncation=args.truncation,
        group=args.group,
        device=args.device,
    )
    for note in result["notes"]:
        print(f"fewtoon: warning: {note}", file=sys.stderr)
    lines = [f"{name}: {result[name]}" for name in ("sheet", "out") if result[name]]
    return answer(args, result, "\n".join([*lines, f"geometries apart: {result['distance']:.2f}"]))

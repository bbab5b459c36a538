"""`fewtoon explore mix`: its arguments. What it does: `fewtoon.latent.mix`."""

import argparse

from fewtoon.answer import answer

TEXT = "style mixing: a table of pictures with some style codes of the row's face and some of the column's"
EXAMPLE = "fewtoon explore mix faces.safetensors runs/drawings --rows 0-3 --columns 4-9 --from 4 --out mixed"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("styles", nargs="+", metavar="STYLE|RUN", help="a table each, all of one size")
    p.add_argument("--out", required=True, metavar="DIR")
    rows, columns = p.add_mutually_exclusive_group(), p.add_mutually_exclusive_group()
    rows.add_argument(
        "--rows", default="0-3", metavar="SEEDS", help="who gives the other codes: 0-3 (default) or 1,5,9"
    )
    rows.add_argument("--row-latents", metavar="FILE", help="the same from a latents.safetensors")
    columns.add_argument(
        "--columns", default="4-9", metavar="SEEDS", help="who gives the chosen codes: 4-9 (default)"
    )
    columns.add_argument("--column-latents", metavar="FILE", help="the same from a latents.safetensors")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--layers", metavar="L", help="the chosen codes: 8-13, or by blocks: 16px-64px, or all"
    )
    which.add_argument("--from", dest="start", type=int, metavar="K", help="the chosen codes: from K on")
    p.add_argument(
        "--channels",
        metavar="A-B",
        help="only these numbers of each chosen code; without --layers of all codes",
    )
    p.add_argument(
        "--truncation", type=float, default=1.0, metavar="T", help="1 (default): as it draws, 0: average"
    )
    p.add_argument("--group", help="of seeds, for styles that have groups")
    p.add_argument("--single", action="store_true", help="also a PNG per mixture")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.mix import mix

    result = mix(
        args.styles,
        args.out,
        rows=_seeds(args.rows, "--rows") if args.row_latents is None else args.row_latents,
        columns=_seeds(args.columns, "--columns") if args.column_latents is None else args.column_latents,
        layers=args.layers,
        start=args.start,
        channels=args.channels,
        truncation=args.truncation,
        group=args.group,
        single=args.single,
        device=args.device,
        progress=True,
    )
    lines = [f"sheet: {path}" for path in result["sheets"].values()]
    return answer(args, result, "\n".join([*lines, f"again: {result['record']}"]))


def _seeds(text: str, option: str) -> list[int]:
    from fewtoon.errors import Problem
    from fewtoon.latent.seeds import seeds_of

    try:
        return seeds_of(text)
    except Problem as problem:
        raise Problem(str(problem).replace("--seeds", option)) from None

"""`fewtoon explore directions`: its arguments. What it does: `fewtoon.latent.directions`."""

import argparse
import sys

from fewtoon.answer import answer

TEXT = "directions in which a StyleGAN style's pictures change, each on a strip; those that mean something get a name"
EXAMPLE = (
    "fewtoon explore directions faces.safetensors --by sefa --layers 8px-16px --out found --name smile=2"
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument(
        "--by",
        required=True,
        choices=["sefa", "ganspace", "labels"],
        help="from the weights, from the spread of many samples, or from labels of samples",
    )
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument(
        "--layers", default="all", help="style codes that move, as 0-3,8 or 4px-16px (default all)"
    )
    p.add_argument("--components", metavar="N", help="0-7 (default) or 1,5,9; of labels all")
    p.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME=N",
        help="keep component N as NAME beside the style; may be repeated",
    )
    p.add_argument("--replace", action="store_true", help="a direction that has the name already")
    p.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="take what changes along this direction out of all others; may be repeated",
    )
    p.add_argument(
        "--from", dest="file", metavar="FILE", help="a factor.pt of rosinality's code, or a .npz of GANSpace"
    )
    sefa = p.add_argument_group("of sefa")
    sefa.add_argument("--convention", choices=["official", "rosinality"], help="default official")
    sefa.add_argument(
        "--colours",
        choices=["last", "first", "all", "none"],
        help="layers that make colours which count (default: by the convention, last or first)",
    )
    sefa.add_argument("--unit", choices=["deviation", "length"], help="of strengths (default deviation)")
    space = p.add_argument_group("of ganspace")
    space.add_argument(
        "--at", metavar="w|PX", help="w (default), or the feature map of this resolution, as 16px"
    )
    space.add_argument("--samples", type=int, metavar="N", help="default 50000 of w, 10000 of a feature map")
    labels = p.add_argument_group("of labels")
    labels.add_argument(
        "--labels", metavar="CSV", help="first line seed,NAME; then a seed and one of two values"
    )
    labels.add_argument(
        "--with",
        dest="having",
        metavar="SEEDS|DIR",
        help="samples that have it, or a folder of their pictures",
    )
    labels.add_argument("--without", dest="lacking", metavar="SEEDS|DIR", help="samples that have it not")
    labels.add_argument(
        "--pack",
        metavar="PACK",
        help="label the style's own --samples (1000) by readers that learn its groups",
    )
    labels.add_argument(
        "--table", metavar="YAML", help="what the groups of the pack mean, see docs/evaluation.md"
    )
    labels.add_argument("--fit", choices=["logistic", "means"], help="default logistic")
    shown = p.add_argument_group("of the strips")
    shown.add_argument("--seeds", default="0-3", help="0-3 (default) or 1,5,9: a row each")
    shown.add_argument(
        "--strengths", default="-3..3", metavar="A..B", help="-3..3 (default), in standard deviations"
    )
    shown.add_argument("--steps", type=int, default=7, metavar="N", help="columns (default 7)")
    shown.add_argument(
        "--truncation", type=float, default=0.7, metavar="T", help="before moving (default 0.7)"
    )
    p.add_argument("--group", help="of styles that have groups")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.directions import How, components_of, find, names_of, range_of, told
    from fewtoon.latent.seeds import seeds_of

    result = find(
        args.style,
        args.out,
        How(**{name: getattr(args, name) for name in How.__dataclass_fields__}),
        components=None if args.components is None else components_of(args.components),
        seeds=seeds_of(args.seeds),
        strengths=range_of(args.strengths),
        steps=args.steps,
        truncation=args.truncation,
        group=args.group,
        keep=args.keep,
        names=names_of(args.name),
        replaced=args.replace,
        device=args.device,
        progress=True,
    )
    for note in result["notes"]:
        print(f"fewtoon: {note}", file=sys.stderr)
    lines = [told(name, facts) for name, facts in result["directions"].items()]
    lines += [f"{name}: kept in {path}" for name, path in result["named"].items()]
    return answer(
        args, result, "\n".join([*lines, f"sheet: {result['sheet']}", f"again: {result['record']}"])
    )

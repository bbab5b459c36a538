"""`fewtoon explore named`: its arguments. What it does: `fewtoon.latent.named`."""

import argparse

from fewtoon.answer import answer

TEXT = "the named directions of a StyleGAN style: list, rename and delete them, take them over from another style"
EXAMPLE = "fewtoon explore named runs/drawings --from faces.safetensors --name smile=smile"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument(
        "--from",
        dest="given",
        metavar="STYLE|RUN|FILE|DIR",
        help="whose directions --name takes: its source's, or those in a DIR of 'explore directions'",
    )
    p.add_argument(
        "--name", action="append", default=[], metavar="NEW=OLD", help="take OLD over as NEW; may be repeated"
    )
    p.add_argument("--replace", action="store_true", help="a direction that has the name already")
    p.add_argument("--rename", action="append", default=[], metavar="NEW=OLD", help="may be repeated")
    p.add_argument("--delete", action="append", default=[], metavar="NAME", help="may be repeated")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.directions import names_of, told
    from fewtoon.latent.named import edit

    result = edit(
        args.style,
        given=args.given,
        names=names_of(args.name),
        replaced=args.replace,
        renames=names_of(args.rename, "--rename"),
        deletes=args.delete,
        device=args.device,
    )
    lines = [told(name, facts) for name, facts in result["directions"].items()]
    return answer(
        args, result, "\n".join(lines or ["no directions have a name yet: see 'fewtoon explore directions'"])
    )

"""`fewtoon explore chain`: its arguments. What it does: `fewtoon.latent.chain`."""

import argparse

from fewtoon.answer import drew

TEXT = "drawings of people who do not exist: samples of a StyleGAN style of faces through styles that translate photos"
EXAMPLE = "fewtoon explore chain faces.safetensors runs/toon --out chained --seeds 0-7 --truncation 0.7"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("style", metavar="STYLE|RUN", help="a StyleGAN style of faces")
    p.add_argument(
        "translators", nargs="+", metavar="TRANSLATOR", help="styles or runs that translate photos: rows each"
    )
    p.add_argument("--out", required=True, metavar="DIR")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--seeds", default="0-7", help="0-7 (default) or 1,5,9: a column each")
    which.add_argument("--latents", metavar="FILE", help="a latents.safetensors instead of seeds")
    p.add_argument(
        "--truncation", type=float, default=1.0, metavar="T", help="1 (default): as it draws, 0: average"
    )
    p.add_argument("--group", help="of translators with groups; auto (default): as each picture is read")
    p.add_argument("--source-group", metavar="GROUP", help="of a StyleGAN style that has groups")
    p.add_argument(
        "--framing",
        choices=["portrait", "ffhq", "as-is"],
        help="how faces are framed for the translators (default: as each was trained)",
    )
    p.add_argument("--columns", type=int, default=8, metavar="N", help="pictures side by side (default 8)")
    p.add_argument("--single", action="store_true", help="also a PNG per picture and drawing")
    p.add_argument("--video", metavar="FILE", help="a walk through the columns, as .webp or .mp4")
    p.add_argument("--frames", type=int, metavar="N", help="of the whole video (default 25 per column)")
    p.add_argument("--fps", type=float, default=25.0, help="frames per second (default 25)")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.chain import chain
    from fewtoon.latent.seeds import seeds_of

    result = chain(
        args.style,
        args.translators,
        args.out,
        seeds=seeds_of(args.seeds),
        latents_file=args.latents,
        truncation=args.truncation,
        group=args.group,
        source_group=args.source_group,
        framing=args.framing,
        columns=args.columns,
        single=args.single,
        video=args.video,
        frames=args.frames,
        fps=args.fps,
        device=args.device,
        progress=True,
    )
    return drew(args, result)

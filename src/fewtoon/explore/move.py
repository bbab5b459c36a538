"""`fewtoon explore move`: its arguments. What it does: `fewtoon.latent.move`."""

import argparse

from fewtoon.answer import drew

TEXT = "pictures moved along named directions, by strength, of several styles from the same style codes"
EXAMPLE = (
    "fewtoon explore move faces.safetensors runs/drawings --by smile=-3..3 tilt=1 --seeds 0-3 --out moved"
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "styles", nargs="+", metavar="STYLE|RUN", help="the first one maps the seeds, all draw them"
    )
    p.add_argument(
        "--by",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=A..B",
        help="from one strength to another; NAME=A: to that strength; NAME: as far as when it was named",
    )
    p.add_argument("--out", required=True, metavar="DIR")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--seeds", default="0-3", help="0-3 (default) or 1,5,9: a row each")
    what.add_argument("--latents", metavar="FILE", help="style codes of another tool instead of seeds")
    p.add_argument(
        "--directions",
        metavar="STYLE|RUN|FILE|DIR",
        help="whose directions (default the first style's): its source's, or a DIR of 'explore directions'",
    )
    p.add_argument("--layers", help="move other style codes than the direction's own, as 0-3,8 or 4px-16px")
    p.add_argument("--steps", type=int, default=7, metavar="N", help="columns (default 7)")
    p.add_argument(
        "--truncation", type=float, metavar="T", help="before moving (default 0.7; with --latents 1)"
    )
    p.add_argument("--group", help="of styles that have groups")
    p.add_argument("--video", metavar="FILE", help="there and back, as .webp or .mp4")
    p.add_argument("--frames", type=int, default=50, metavar="N", help="of the whole video (default 50)")
    p.add_argument("--fps", type=float, default=25.0, help="frames per second (default 25)")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.move import move, move_of
    from fewtoon.latent.seeds import seeds_of

    result = move(
        args.styles,
        args.out,
        [move_of(text) for text in args.by],
        seeds=seeds_of(args.seeds),
        latents=args.latents,
        directions=args.directions,
        layers=args.layers,
        steps=args.steps,
        truncation=args.truncation,
        group=args.group,
        video=args.video,
        frames=args.frames,
        fps=args.fps,
        device=args.device,
        progress=True,
    )
    return drew(args, result)

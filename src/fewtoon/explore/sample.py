"""`fewtoon explore sample`: its arguments. What it does: `fewtoon.latent.sample`."""

import argparse

from fewtoon.answer import drew

TEXT = "pictures of a StyleGAN style by seeds, of several styles for the same seeds, and walks between them"
EXAMPLE = (
    "fewtoon explore sample faces.safetensors runs/drawings --out sampled --seeds 0-15 --truncation 0.5,1"
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("styles", nargs="+", metavar="STYLE|RUN")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--seeds", default="0-15", help="0-15 (default) or 1,5,9: a column each")
    p.add_argument(
        "--truncation",
        default="1",
        metavar="T",
        help="1 (default): as the style draws, 0: its average picture; 0.5,0.7,1: a row each",
    )
    p.add_argument("--group", help="of styles that have groups")
    p.add_argument("--columns", type=int, default=8, metavar="N", help="seeds side by side (default 8)")
    p.add_argument("--single", action="store_true", help="also a PNG per picture")
    p.add_argument("--video", metavar="FILE", help="a walk through the seeds, as .webp or .mp4")
    p.add_argument("--frames", type=int, metavar="N", help="of the whole video (default 25 per seed)")
    p.add_argument("--fps", type=float, default=25.0, help="frames per second (default 25)")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.sample import sample
    from fewtoon.latent.seeds import seeds_of, truncations_of

    result = sample(
        args.styles,
        args.out,
        seeds=seeds_of(args.seeds),
        truncation=truncations_of(args.truncation),
        group=args.group,
        columns=args.columns,
        single=args.single,
        video=args.video,
        frames=args.frames,
        fps=args.fps,
        device=args.device,
        progress=True,
    )
    return drew(args, result)

"""`fewtoon explore edit`: its arguments. What it does: `fewtoon.latent.edit`."""

import argparse

from fewtoon.answer import drew

TEXT = (
    "faces edited by a text, with CLIP, at several strengths; drawn by the source and by styles made from it"
)
EXAMPLE = (
    "fewtoon explore edit faces.safetensors --text 'a smiling face' --clip open_clip_model.safetensors "
    "--seeds 0-3 --draw runs/drawings --out smiling"
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="STYLE|RUN", help="the style whose codes are moved: one of photos")
    p.add_argument("--text", required=True, help="what is to be seen, in English, as 'a smiling face'")
    p.add_argument(
        "--clip", required=True, metavar="FILE", help="CLIP's weights, a local file (docs/edit.md)"
    )
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--clip-model", metavar="NAME", help="its architecture, where the file does not tell")
    p.add_argument(
        "--neutral", metavar="TEXT", help="what is seen already, as 'a face': the way between both"
    )
    p.add_argument("--seeds", help="0-3 (default) or 1,5,9")
    p.add_argument("--latents", metavar="FILE", help="codes of 'sample' or 'project' instead of seeds")
    p.add_argument(
        "--draw",
        action="extend",
        nargs="+",
        default=[],
        metavar="STYLE",
        help="more styles that draw the edits: made from the source",
    )
    p.add_argument(
        "--strength",
        default="0,1,2",
        metavar="A",
        help="a column each: -1 is the start, 0 the edit, 2 three times as far (default 0,1,2)",
    )
    p.add_argument(
        "--truncation", type=float, metavar="T", help="of the start (default 0.7 for seeds, 1 for latents)"
    )
    p.add_argument("--group", help="of the seeds, where the style has groups")
    p.add_argument("--steps", type=int, default=300, metavar="N", help="of the optimisation (default 300)")
    p.add_argument("--rate", type=float, default=0.1, help="learning rate (default 0.1)")
    p.add_argument(
        "--near",
        type=float,
        metavar="X",
        help="weight of staying near the start (default 0.008, with --neutral 0.03)",
    )
    p.add_argument("--identity", metavar="FILE", help="MobileFaceNet's weights: keep the person")
    p.add_argument(
        "--identity-weight", type=float, default=0.005, metavar="X", help="of the person (default 0.005)"
    )
    p.add_argument(
        "--space",
        choices=["w", "w+"],
        default="w+",
        help="one way for all layers, or w+ (default): each its own",
    )
    p.add_argument(
        "--layers", metavar="L", help="only these move: 0-3,8 or 4px-16px; low ones are pose and shape"
    )
    p.add_argument(
        "--views", type=int, default=1, metavar="N", help="parts of the picture shown to CLIP a step"
    )
    p.add_argument("--single", action="store_true", help="also a PNG per picture")
    p.add_argument("--video", metavar="FILE", help="to the strongest and back, as .webp or .mp4")
    p.add_argument("--frames", type=int, metavar="N", help="of the video (default 50)")
    p.add_argument("--fps", type=float, default=25.0, help="frames per second (default 25)")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.edit import edit, strengths_of
    from fewtoon.latent.seeds import seeds_of
    from fewtoon.latent.text import NEAR, NEAR_OF_WAYS, Recipe

    usual = NEAR if args.neutral is None else NEAR_OF_WAYS

    result = edit(
        args.source,
        Recipe(
            text=args.text,
            neutral=args.neutral,
            steps=args.steps,
            rate=args.rate,
            near=usual if args.near is None else args.near,
            identity=args.identity_weight,
            space=args.space,
            views=args.views,
        ),
        args.clip,
        args.out,
        seeds=None if args.seeds is None else seeds_of(args.seeds),
        latents=args.latents,
        draw=args.draw,
        strengths=strengths_of(args.strength),
        layers=args.layers,
        truncation=args.truncation,
        group=args.group,
        clip_model=args.clip_model,
        identity=args.identity,
        single=args.single,
        video=args.video,
        frames=args.frames,
        fps=args.fps,
        device=args.device,
        progress=True,
    )
    lines = []
    for name, rows in result["cosines"].items():
        means = [sum(column) / len(column) for column in zip(*rows)]
        told = ", ".join(
            f"{a:g}: {mean:.3f}" for a, mean in zip(["start", *result["strengths"]][1:], means[1:])
        )
        lines.append(f"cosine with the text, {name}: start {means[0]:.3f}; strength {told}")
    return drew(args, result, lines)

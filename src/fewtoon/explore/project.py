"""`fewtoon explore project`: its arguments. What it does: `fewtoon.latent.project`."""

import argparse
import sys

from fewtoon.answer import answer

TEXT = "photos to codes of a StyleGAN style, and from these to drawings by styles that were made from it"
EXAMPLE = "fewtoon explore project faces.safetensors photos/ --draw drawings.safetensors --out projected"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("style", metavar="STYLE|RUN", help="of photos: whose codes are looked for")
    p.add_argument("pictures", nargs="+", metavar="PHOTO", help="files or folders")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument(
        "--draw",
        action="extend",
        nargs="+",
        default=[],
        metavar="STYLE",
        help="fine-tuned or swapped; may be repeated",
    )
    p.add_argument(
        "--truncation", default="1", metavar="T", help="of --draw: 1 (default), or 0.7,1: a column each"
    )
    p.add_argument("--encoder", metavar="FILE", help="its guess is the start; with --steps 0 the result")
    p.add_argument("--backbone", metavar="FILE", help="VGG16 in torchvision's layout, for LPIPS")
    p.add_argument("--heads", metavar="FILE", help="the linear heads of LPIPS v0.1, vgg.pth")
    p.add_argument("--space", choices=["w+", "w"], help="w+ (default): a code for each layer; w: one for all")
    p.add_argument("--steps", type=int, metavar="N", help="default 500, with --encoder 200")
    p.add_argument("--rate", type=float, metavar="R", help="of learning (default 0.1)")
    p.add_argument("--jitter", type=float, metavar="J", help="noise on w: default 0.05, with --encoder 0")
    p.add_argument("--pixel", type=float, metavar="WEIGHT", help="of the squared error (default 1)")
    p.add_argument(
        "--perceptual", type=float, metavar="WEIGHT", help="of LPIPS, or of SSIM in its place (default 1)"
    )
    p.add_argument(
        "--pull", type=float, metavar="WEIGHT", help="of the distance from the average w (default 0.1)"
    )
    p.add_argument(
        "--noise",
        choices=["fixed", "optimised"],
        help="optimised: noise maps for each photo, which other styles do not draw",
    )
    p.add_argument("--patience", type=int, metavar="N", help="steps without progress that end a photo")
    p.add_argument("--batch", type=int, metavar="N", help="photos at a time (default 1, on a GPU 8)")
    p.add_argument("--seed", type=int, metavar="K", help="of the noise on w (default 0)")
    p.add_argument("--framing", help="another than the style's own")
    p.add_argument(
        "--find", action="append", default=[], metavar="FINDER", help="who finds faces; may be repeated"
    )
    p.add_argument("--matte", metavar="MATTE", help="what makes backgrounds white, for styles that want it")
    p.add_argument("--single", action="store_true", help="also a PNG per picture")
    p.add_argument("--video", metavar="FILE", help="the way to the codes, as .webp or .mp4")
    p.add_argument("--frames", type=int, metavar="N", help="of the video (default 75)")
    p.add_argument("--fps", type=float, default=25.0, help="frames per second (default 25)")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.project import project
    from fewtoon.latent.seeds import truncations_of

    names = (
        "draw encoder backbone heads space steps rate jitter pixel perceptual pull noise patience batch seed"
    )
    names += " framing find matte single video frames fps device"
    given = {name: getattr(args, name) for name in names.split()}
    result = project(
        args.style,
        args.pictures,
        args.out,
        truncation=truncations_of(args.truncation),
        progress=True,
        **given,
    )
    print(f"fewtoon: pictures are compared by {result['likeness']['name']}", file=sys.stderr)
    for one in result["refused"]:
        print(f"fewtoon: skipped {one['file']}: {one['reason']}", file=sys.stderr)
    for note in result["notes"]:
        print(f"fewtoon: {note}", file=sys.stderr)
    lines = [
        f"{one['name']}: {one['psnr']:.1f} dB, {one['steps']} steps, distance {one['distance']:.2f}"
        for one in result["photos"]
    ]
    shown = [("sheet", result["sheet"]), ("video", result["video"]), ("latents", result["latents"])]
    lines += [f"{name}: {path}" for name, path in [*shown, ("again", result["record"])] if path]
    return answer(args, result, "\n".join(lines))

"""`fewtoon explore encoder`: its arguments. What it does: `fewtoon.latent.encoder`."""

import argparse
import sys

from fewtoon.answer import answer

TEXT = "a network that guesses the code of a photo in one pass, learned from the style's own pictures"
EXAMPLE = "fewtoon explore encoder faces.safetensors --photos packs/photos --out encoder.safetensors"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument("--out", required=True, metavar="FILE", help="the encoder, a .safetensors file")
    p.add_argument("--photos", metavar="PACK", help="its training photos are learned too")
    p.add_argument("--backbone", metavar="FILE", help="VGG16 in torchvision's layout, for LPIPS")
    p.add_argument("--heads", metavar="FILE", help="the linear heads of LPIPS v0.1, vgg.pth")
    p.add_argument("--steps", type=int, metavar="N", help="default 4000")
    p.add_argument("--batch", type=int, metavar="N", help="pictures per step (default 8)")
    p.add_argument("--rate", type=float, metavar="R", help="of learning (default 0.002)")
    p.add_argument("--code", type=float, metavar="WEIGHT", help="of the error of the code (default 1)")
    p.add_argument("--pixel", type=float, metavar="WEIGHT", help="of the squared error (default 1)")
    p.add_argument(
        "--perceptual", type=float, metavar="WEIGHT", help="of LPIPS, or of SSIM in its place (default 1)"
    )
    p.add_argument(
        "--pull", type=float, metavar="WEIGHT", help="of the distance of photos' codes from the average w"
    )
    p.add_argument(
        "--mixed", type=float, metavar="SHARE", help="of own pictures that are drawn from two codes"
    )
    p.add_argument("--seed", type=int, metavar="K", help="default 0")


def run(args: argparse.Namespace) -> int:
    from fewtoon.latent.encoder import Settings, encoder

    names = "steps batch rate code pixel perceptual pull mixed seed"
    given = {name: getattr(args, name) for name in names.split()}
    result = encoder(
        args.style,
        args.out,
        settings=Settings(**{name: value for name, value in given.items() if value is not None}),
        photos=args.photos,
        backbone=args.backbone,
        heads=args.heads,
        device=args.device,
        progress=True,
    )
    print(f"fewtoon: pictures are compared by {result['likeness']['name']}", file=sys.stderr)
    lines = [
        f"encoder: {result['out']}",
        f"PSNR of the style's own pictures, unseen: {result['psnr_own']:.2f} dB",
    ]
    if "psnr_photos" in result:
        lines.append(f"PSNR of {result['photos']} held-out photos: {result['psnr_photos']:.2f} dB")
    return answer(args, result, "\n".join(lines))

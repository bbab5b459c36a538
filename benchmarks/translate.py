"""Drawing photos with a light U-GAT-IT at 256 px, 64 channels, against plain eager float32 NCHW PyTorch.

Same weights, same photos, CPU seconds of whole calls in turn, one thread. The largest difference of the
drawings from the plain ones is stated in levels of 255.
"""

from __future__ import annotations

import torch

from common.measure import interleaved, machine, median_ratio, medians, parser, tell
from common.plain import PlainGenerator
from fewtoon.methods.ugatit import UGATIT
from fewtoon.style import Style
from ugatit_step import pictures, plain_name, to_plain


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--channels", type=int, default=64)
    p.add_argument("--photos", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = UGATIT(UGATIT.Config(channels=args.channels), args.size, training=False)
    plain = PlainGenerator(args.channels).eval()
    target = plain.state_dict()
    for key, tensor in method.networks()["photo_to_drawing"].state_dict().items():
        there = plain_name(key)
        target[there].copy_(to_plain(there, tensor, target[there].shape, None))
    photos = pictures(args.size, args.photos)[0].contiguous()

    def plainly() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([plain(photo[None])[0] for photo in photos])

    styles = {name: Style(method, {}, "cpu", name) for name in ("fp32", "bf16")}
    truth = plainly()
    works = {"plain": plainly} | {
        name: (lambda s=style: s.translate(photos)) for name, style in styles.items()
    }
    seconds = interleaved(works, args.runs)
    tell(
        {
            "benchmark": "translate",
            "ratio_fp32": median_ratio(seconds, "plain", "fp32"),
            "ratio_bf16": median_ratio(seconds, "plain", "bf16"),
            "cpu_seconds_per_photo": {
                name: round(s / args.photos, 4) for name, s in medians(seconds).items()
            },
            "largest_difference_levels": {
                name: round(127.5 * (style.translate(photos) - truth).abs().max().item(), 3)
                for name, style in styles.items()
            },
            "settings": {name: getattr(args, name) for name in ("size", "channels", "photos", "runs")}
            | {"threads": 1},
            "machine": machine(),
        },
        args,
    )


if __name__ == "__main__":
    main()

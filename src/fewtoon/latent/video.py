"""Walks through latent space as a video: animated WebP, or MP4 with the library PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io.files import atomic, printable

VIDEOS = (".webp", ".mp4")
LONGEST_SIDE = 16_383  # pixels of a video: WebP's limit, and about H.264's
WEBP_PIXELS = 500_000_000  # of all frames together: Pillow wants them in memory at once, 4 bytes each
FRAMES_PER_SEED, FPS = 25, 25.0


def walk(w: Tensor, frames: int) -> Tensor:
    """The style codes of a closed walk through `w`, (N, W) or (N, codes, W): (frames, ...).

    Between two codes, and from the last to the first, it goes straight, w = a + s(u) (b - a), where u runs evenly
    from 0 to 1 and s(u) = u^2 (3 - 2 u): slowest at the seeds, so that it turns there without a jerk. Frame i is at
    i N / frames; the frame after the last would be the first, so that the video can repeat.
    """
    count = len(w)
    places = [divmod(i * count, frames) for i in range(frames)]  # whole numbers: seeds are met exactly
    u = torch.tensor([rest / frames for _, rest in places], device=w.device, dtype=w.dtype)
    share = (u.square() * (3 - 2 * u)).view(-1, *[1] * (w.ndim - 1))
    before = [k for k, _ in places]
    after = [(k + 1) % count for k in before]
    return torch.lerp(w[before], w[after], share)


def check_video(path: str | Path) -> None:
    """Raises Problem for a file that cannot become a video: another ending, or the library is missing."""
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEOS:
        raise Problem(f"video {printable(path)!r}: its name must end in {' or '.join(VIDEOS)}")
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise Problem(
                f"video {printable(path)!r}: MP4 takes the library PyAV; pip install 'fewtoon[video]', or name a .webp"
            ) from None


def save_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = FPS) -> None:
    """Write frames, (H, W, 3) uint8 each, as an animated WebP that repeats, or as MP4 (H.264), by the name's ending.

    The sides of an MP4 must be even. A WebP holds neighbours that are equal as one frame, shown for as long. Raises
    Problem for another ending, where MP4's library is missing, and when the file cannot be written: then there is none.
    """
    check_video(path)
    with atomic(path) as file:
        if Path(path).suffix.lower() == ".mp4":
            _mp4(file, frames, fps)
        else:
            first, *others = [Image.fromarray(frame) for frame in frames]
            pace = {"duration": 1000 / fps, "loop": 0}
            first.save(file, "WEBP", save_all=True, append_images=others, quality=90, method=4, **pace)


def _mp4(file: Any, frames: Iterable[np.ndarray], fps: float) -> None:
    import av

    try:
        with av.open(file, "w", format="mp4") as container:
            stream: Any = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16"}
            )
            stream.pix_fmt = "yuv420p"  # what every player shows
            context = stream.codec_context
            # Said in the file, as players guess by the size of the picture otherwise: 1 is BT.709, or the video range.
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
            for number, pixels in enumerate(frames):
                if not number:
                    stream.height, stream.width = pixels.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise Problem(f"the MP4 cannot be written ({error}); name a .webp instead") from None


def check_walk(count: int, frames: int, fps: float) -> None:
    if count < 2:
        raise Problem("a video of one seed does not move: name at least two, as --seeds 0-3")
    if type(frames) is not int or not count <= frames <= 100_000:
        raise Problem(f"{frames!r} frames for {count} seeds: from one per seed, {count}, to 100000")
    if not 0.1 <= fps <= 120:
        raise Problem(f"{fps:g} frames per second: from 0.1 to 120")


def check_size(video: str | Path, frames: int, height: int, width: int) -> None:
    if max(height, width) > LONGEST_SIDE:
        raise Problem(
            f"a video of {width} x {height} pixels, more than {LONGEST_SIDE}: name fewer styles or truncations"
        )
    if Path(video).suffix.lower() == ".webp" and frames * height * width > WEBP_PIXELS:
        raise Problem(
            f"{frames} frames of {width} x {height} pixels are too many for a .webp: name a .mp4, or fewer frames"
        )

"""Pictures of StyleGAN styles: sheets by seeds, single files, and walks from seed to seed as a video.

Seed s stands for the random numbers z that torch's generator on the CPU gives after `manual_seed(s)`: the same on every
device and beside any neighbours. Each style truncates towards its own average w, never another's.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import fewtoon
from fewtoon import style as styles
from fewtoon.engine.preview import GAP, SMALLEST_CELL, TITLE
from fewtoon.errors import Problem
from fewtoon.io import images, weights
from fewtoon.io.files import atomic, file_hash, printable, write_bytes
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.style import Style

MOST_SEEDS = 100_000
LONGEST_LABEL = 32  # characters at the left of a row
VIDEOS = (".webp", ".mp4")
LONGEST_SIDE = 16_383  # pixels of a video: WebP's limit, and about H.264's
WEBP_PIXELS = 500_000_000  # of all frames together: Pillow wants them in memory at once, 4 bytes each
FRAMES_PER_SEED, FPS = 25, 25.0
T = TypeVar("T")


class Source(NamedTuple):
    """A style to draw from, and which file it is."""

    name: str  # short, and unlike that of the other sources: for labels and the names of files
    style: Style
    given: str  # the path as it was given
    file: Path
    sha256: str

    @property
    def method(self) -> StyleGAN:
        return cast(StyleGAN, self.style.method)

    def facts(self) -> dict[str, str]:
        return {"name": self.name, "file": self.file.name, "sha256": self.sha256}


def open_sources(paths: Sequence[str | Path], device: str | None = None) -> list[Source]:
    """The StyleGAN styles at `paths`: files, or folders of runs. Raises Problem for what is none."""
    found: list[Source] = []
    for path in paths:
        style = styles.load(path, device)
        check_kind(style, printable(path))
        folder = Path(path).is_dir()
        file = Path(path) / "best.safetensors" if folder else Path(path)
        stem = Path(path).absolute().name if folder else Path(path).stem
        name = re.sub(r"[^\w.-]+", "_", printable(stem)).strip("._") or "style"
        taken = {one.name for one in found}
        name = next(
            one for one in (name, *(f"{name}-{k}" for k in range(2, len(found) + 3))) if one not in taken
        )
        found.append(Source(name, style, str(path), file, file_hash(file)))
    return found


def check_kind(style: Style, told: str) -> None:
    """Raises Problem, with the name `told`, for a style that is no StyleGAN."""
    if not isinstance(style.method, StyleGAN):
        raise Problem(
            f"{told!r} is a style of {style.method.name}, which makes no pictures from random numbers; name one of "
            "'fewtoon train stylegan' or an imported StyleGAN2"
        )


def group_for(style: Style, group: str | None) -> str | None:
    """`group` where the style has groups, None where it has none."""
    return group if style.groups else None


def check_group(given: Sequence[Style], group: str | None) -> None:
    """Raises Problem for a group that one of the styles with groups lacks, or that none could have."""
    for style in [one for one in given if one.groups] or given[:1]:
        style.check_group(group)


# --- what is asked for -----------------------------------------------------------------------------------


def seeds_of(text: str) -> list[int]:
    """'0-3,9' -> [0, 1, 2, 3, 9]. Raises Problem for anything else, and for a seed that is named twice."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part, flags=re.ASCII)
        if match is None:
            raise Problem(f"--seeds {text!r}: {part!r} is no seed; write 0-15 or 1,5,9")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last - first >= MOST_SEEDS:
            raise Problem(
                f"--seeds {text!r}: {part.strip()!r} must rise, by less than {MOST_SEEDS}; write it as 0-15"
            )
        found += range(first, last + 1)
    return check_seeds(found)


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds as a list. Raises Problem for none, too many, one that is no number from 0 on, or one twice."""
    found = list(seeds)
    if not 1 <= len(found) <= MOST_SEEDS:
        raise Problem(f"{len(found)} seeds: name 1 to {MOST_SEEDS}, as --seeds 0-15")
    seen: set[int] = set()
    for seed in found:
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise Problem(f"seed {seed!r}: a whole number from 0 on")
        if seed in seen:
            raise Problem(f"seed {seed} is named twice: leave one out")
        seen.add(seed)
    return found


def seeds_told(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 9] -> '0-2,9': what `seeds_of` reads."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def truncations_of(text: str) -> list[float]:
    """'0.5,1' -> [0.5, 1.0]. Raises Problem for anything else."""
    try:
        return check_truncations(float(part) for part in text.split(","))
    except ValueError:
        raise Problem(f"--truncation {text!r}: write a number such as 0.7, or several: 0.5,0.7,1") from None


def check_truncations(values: Iterable[float]) -> list[float]:
    """The truncations as a list. Raises Problem for none, one twice, or one outside -2 to 2."""
    found = [float(value) for value in values]
    for value in found:
        if not -2 <= value <= 2:  # nan fails too
            raise Problem(
                f"truncation {value:g}: from 0 (the average picture) to 1 (as it is), at most -2 to 2"
            )
    if not found or len(set(found)) < len(found):
        raise Problem(f"truncations {found}: name at least one, and none twice")
    return found


# --- pictures --------------------------------------------------------------------------------------------


def latents(style: Style, seeds: Iterable[int]) -> Tensor:
    """The random numbers z of the seeds: (N, Z) float32 on the CPU."""
    return torch.cat([style.method.latents(1, seed) for seed in seeds])


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


def sheet(rows: Mapping[str, np.ndarray], titles: Sequence[str], columns: int) -> np.ndarray:
    """Pictures as one, (H, W, 3) uint8: bands of `columns`, in each band a row per entry of `rows`.

    rows: label -> (N, S, S, 3) uint8. titles: N words, above the columns. Small pictures are shown magnified.
    """
    size = next(iter(rows.values())).shape[1]
    step, font = _cell(size) + GAP, ImageFont.load_default(14)
    height, width = sheet_size(list(rows), size, len(titles), columns)
    left = width - min(columns, len(titles)) * step
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, title in enumerate(titles):
        band, column = divmod(number, columns)
        x, y = left + column * step, band * (TITLE + len(rows) * step)
        pen.text((x, y + 1), title, fill="black", font=font)
        for row, pictures in enumerate(rows.values()):
            canvas.paste(Image.fromarray(_enlarged(pictures[number])), (x, y + TITLE + row * step))
    for band in range(-(-len(titles) // columns)):
        for row, label in enumerate(rows):
            y = band * (TITLE + len(rows) * step) + TITLE + row * step + step // 2 - 10
            pen.text((GAP, y), label[:LONGEST_LABEL], fill="black", font=font)
    return np.asarray(canvas)


def sheet_size(labels: Sequence[str], size: int, count: int, columns: int) -> tuple[int, int]:
    """Height and width of a `sheet` of `count` columns of pictures of `size` pixels."""
    step, font = _cell(size) + GAP, ImageFont.load_default(14)
    left = 2 * GAP + math.ceil(max(font.getlength(label[:LONGEST_LABEL]) for label in labels))
    bands = -(-count // columns)
    return bands * (TITLE + len(labels) * step), left + min(columns, count) * step


def _cell(size: int) -> int:
    return size * max(1, -(-SMALLEST_CELL // size))


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3), enlarged by whole pixels to be seen."""
    times = _cell(picture.shape[0]) // picture.shape[0]
    return picture.repeat(times, 0).repeat(times, 1)


# --- video -----------------------------------------------------------------------------------------------


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


# --- the verb --------------------------------------------------------------------------------------------


def sample(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    seeds: Sequence[int] = tuple(range(16)),
    truncation: Sequence[float] = (1.0,),
    group: str | None = None,
    columns: int = 8,
    single: bool = False,
    video: str | Path | None = None,
    frames: int | None = None,
    fps: float = FPS,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw seeds with styles, and write a folder that says how to do it again.

    paths: StyleGAN styles or runs, all of one size. seeds: a column each. truncation: a row for each value and style,
    the styles of a value below one another. group: of the styles that have groups. columns: seeds beside one another.
    single: also a PNG per picture. video: a walk through the seeds (`walk`) as .webp or .mp4, `frames` in all, 25 per
    seed where that is not said.

    In `out`: sheet.png; latents.safetensors, per style its z (N, Z) and w before truncation, (N, W) or (N, codes, W);
    sample.json: styles with sha256, every argument, and the command. Returns what was written. Raises Problem for bad
    input, before anything is drawn.
    """
    seeds, truncation, out = check_seeds(seeds), check_truncations(truncation), Path(out)
    if type(columns) is not int or not 1 <= columns <= 1000:
        raise Problem(f"columns {columns!r}: a whole number from 1 to 1000")
    if out.exists() and not out.is_dir():
        raise Problem(f"{printable(out)!r} is a file: --out names a folder")
    if not paths:
        raise Problem("no styles: name at least one")
    if video is not None:
        check_video(video)
        frames = FRAMES_PER_SEED * len(seeds) if frames is None else frames
        _check_walk(len(seeds), frames, fps)
    elif frames is not None:
        raise Problem(f"{frames} frames of no video: say --video NAME.webp or NAME.mp4")
    sources = open_sources(paths, device)
    size = sources[0].style.size
    for source in sources:
        if source.style.size != size:
            raise Problem(
                f"styles of {size} and {source.style.size} px ({source.name}) do not fit together: sample each alone"
            )
    check_group([source.style for source in sources], group)

    rows = [(value, source) for value in truncation for source in sources]
    labels = [_label(source, value, len(sources), len(truncation)) for value, source in rows]
    if video is not None and frames is not None:
        _check_size(video, frames, len(truncation) * _cell(size), len(sources) * _cell(size))
    columns = min(columns, len(seeds))
    band = math.prod(sheet_size(labels, size, columns, columns))  # pixels
    shown = min(len(seeds), images.MAX_PIXELS // band * columns)
    notes = []
    if shown < len(seeds):
        told = f"the first {shown}" if shown else "none"
        notes.append(
            f"{len(seeds)} seeds are too many for one sheet, which shows {told}: take --single or fewer"
        )

    z = {source.name: latents(source.style, seeds) for source in sources}
    w = {
        source.name: source.style.mapping(z[source.name], group_for(source.style, group))
        for source in sources
    }
    written: list[str] = []

    def pictures(value: float, source: Source, label: str) -> np.ndarray:
        """Of all seeds that the sheet shows, (N, S, S, 3); single files of all seeds are written on the way."""
        kept = []
        codes = source.method.truncated(w[source.name], value)
        for number, seed in enumerate(_bar(seeds, label or source.name, progress)):
            if number >= shown and not single:
                break
            pixels = styles.to_pixels(source.style.synthesis(codes[number : number + 1]))[0]
            if number < shown:
                kept.append(pixels)
            if single:
                parts = [source.name] * (len(sources) > 1)
                parts += [f"seed{seed:04d}"] + [f"truncation{value:g}"] * (len(truncation) > 1)
                written.append("-".join(parts) + ".png")
                images.save_png(out / written[-1], pixels)
        return np.stack(kept) if kept else np.empty((0, size, size, 3), np.uint8)

    drawn = {
        label: pictures(value, source, label) for (value, source), label in zip(rows, labels, strict=True)
    }
    if shown:
        titles = [str(seed) for seed in seeds[:shown]]
        images.save_png(out / "sheet.png", sheet(drawn, titles, columns))
    if video is not None and frames is not None:
        walked = [
            (source, walk(source.method.truncated(w[source.name], value), frames)) for value, source in rows
        ]
        shots = _bar(range(frames), "video", progress)
        save_video(video, (_frame(walked, number, len(sources)) for number in shots), fps)

    command = ["fewtoon", "explore", "sample", *(source.given for source in sources)]
    command += ["--seeds", seeds_told(seeds), f"--truncation={','.join(f'{v!r}' for v in truncation)}"]
    command += ["--columns", str(columns)] + ["--single"] * single
    command += ["--group", group] if group is not None else []
    if video is not None:
        command += ["--video", str(video), "--frames", str(frames), "--fps", repr(float(fps))]
    command += ["--device", str(sources[0].style.device), "--out", str(out)]
    facts = {
        "seeds": seeds,
        "truncation": truncation,
        "group": group,
        "columns": columns,
        "single": single,
        "video": None if video is None else {"file": str(video), "frames": frames, "fps": fps},
        "device": str(sources[0].style.device),
    }
    tensors = {f"{name}.z": z[name] for name in z} | {f"{name}.w": w[name] for name in w}
    record(out / "sample.json", out / "latents.safetensors", sources, command, facts, tensors)
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png") if shown else None,
        "pictures": [str(out / name) for name in written],
        "video": None if video is None else str(video),
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "sample.json"),
        "notes": notes,
    }


def record(
    path: Path,
    beside: Path,
    sources: Sequence[Source],
    command: Sequence[str],
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write the JSON that repeats a command to `path`, and z and w to `beside`, with the same text inside."""
    told = {
        "fewtoon": fewtoon.__version__,
        "torch": torch.__version__,
        "command": shlex.join(command),
        "styles": [source.facts() for source in sources],
        **facts,
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    weights.write(beside, whole, {"fewtoon": json.dumps({"format": "fewtoon-latents", "version": 1, **told})})
    write_bytes(path, (json.dumps(told, indent=1) + "\n").encode())


def _label(source: Source, value: float, sources: int, values: int) -> str:
    """The words at the left of a row; different for each."""
    parts = [source.name] * (sources > 1) + [f"{value!r}"] * (values > 1)
    if len(parts) == 2:
        return f"{parts[1]} {parts[0]}"
    return parts[0] if parts else ("" if value == 1 else f"{value!r}")


def _check_walk(count: int, frames: int, fps: float) -> None:
    if count < 2:
        raise Problem("a video of one seed does not move: name at least two, as --seeds 0-3")
    if type(frames) is not int or not count <= frames <= 100_000:
        raise Problem(f"{frames!r} frames for {count} seeds: from one per seed, {count}, to 100000")
    if not 0.1 <= fps <= 120:
        raise Problem(f"{fps:g} frames per second: from 0.1 to 120")


def _check_size(video: str | Path, frames: int, height: int, width: int) -> None:
    if max(height, width) > LONGEST_SIDE:
        raise Problem(
            f"a video of {width} x {height} pixels, more than {LONGEST_SIDE}: name fewer styles or truncations"
        )
    if Path(video).suffix.lower() == ".webp" and frames * height * width > WEBP_PIXELS:
        raise Problem(
            f"{frames} frames of {width} x {height} pixels are too many for a .webp: name a .mp4, or fewer frames"
        )


def _frame(walked: Sequence[tuple[Source, Tensor]], number: int, across: int) -> np.ndarray:
    """Styles beside one another, truncations below: (H, W, 3) uint8."""
    shown = [
        _enlarged(styles.to_pixels(source.style.synthesis(codes[number : number + 1]))[0])
        for source, codes in walked
    ]
    lines = [np.concatenate(shown[k : k + across], axis=1) for k in range(0, len(shown), across)]
    return np.concatenate(lines)


def _bar(items: Sequence[T], told: str, wanted: bool) -> Iterator[T]:
    if wanted:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        if console.is_terminal:
            return iter(track(items, told, console=console, transient=True))
    return iter(items)

"""The only door for pictures: files in, square RGB arrays out, and PNG files written whole or not at all.

Everything awkward about picture files lives here (named formats, the pixel cap, EXIF orientation, colour
modes, transparency, colour profiles), so that no other module ever opens one. Whatever a file contains,
`read` answers with an array or with `BadPicture` and one sentence.
"""

from __future__ import annotations

import functools
import glob
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

from fewtoon.errors import Problem
from fewtoon.io.files import atomic, printable

# Only these decoders are ever tried, whatever the name of the file says: no PostScript, no PDF, no
# rarely exercised parsers. MPO (phone cameras) is a JPEG with appendices and comes with JPEG.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES: tuple[str, ...] = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Files that lie beside pictures and are nobody's mistake: skipped in folders without a word.
SIDE_FILES: tuple[str, ...] = (
    *(".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".rst", ".yaml", ".yml", ".xml", ".html", ".log"),
    *(".npy", ".npz", ".pkl", ".mat", ".pts", ".ini", ".db", ".py", ".sh", ".safetensors"),
)
SIDE_NAMES: tuple[str, ...] = ("license", "licence", "readme", "copying", "notice", "makefile")
MAX_PIXELS = 100_000_000  # compared with the size in the header, before a pixel is decoded
MAX_BYTES = 1_000_000_000  # of the file
MIN_SIDE = 8  # pixels; below that there is no face to see

Image.init()  # register the decoders once, before any thread opens a picture
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limits are ours: MAX_PIXELS


class BadPicture(Problem):
    """A picture that cannot be used; `reason` is one sentence without the name of the file."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = " ".join(str(reason).split())


@dataclass(frozen=True)
class Found:
    """A file that should be a picture."""

    path: Path
    name: str  # printable, relative to the folder that was given, "/" between folders
    folder: str | None  # the first sub-folder below the folder that was given; None directly in it


@dataclass(frozen=True)
class Refused:
    """Something that will not be used, and why."""

    name: str
    reason: str


# ---------------------------------------------------------------------------------------------------------
# Reading


def read(path: str | Path | IO[bytes], *, draft: int | None = None, most: int = MAX_PIXELS) -> np.ndarray:
    """One picture as (H, W, 3) uint8 RGB (sRGB), upright; of an animation the first frame.

    path: a file's name, or an open binary file that can seek (read from its beginning).
    draft: the sides that the caller needs, in pixels. A JPEG of at least twice that is then decoded at
        1/2, 1/4 or 1/8 (scaled inverse DCT, much cheaper for large photos), never smaller than `draft`.
        The scaled DCT is no better than a box filter: ask for twice the final size and resize the rest.
    most: pixels that its header may promise.
    Raises BadPicture for everything that can be wrong with a file.
    """
    if isinstance(path, (str, Path)):
        return _decode(io.BytesIO(read_bytes(path)), printable(path), draft, most)
    return _decode(path, printable(str(getattr(path, "name", "") or "picture")), draft, most)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a picture file. Raises BadPicture when it is missing, unreadable, or not a file."""
    name = printable(path)
    try:
        # Ask before opening: to open a pipe or a device could wait for ever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadPicture(name, "it is not a file")
        if status.st_size > MAX_BYTES:
            raise BadPicture(name, f"it has {status.st_size // 10**6} MB, more than {MAX_BYTES // 10**6}")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BadPicture(name, "the file does not exist") from None
    except PermissionError:
        raise BadPicture(name, "no permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadPicture(name, f"it cannot be read ({_words(error)})") from None


def is_square(path: str | Path) -> bool:
    """Whether a file's header promises as many rows as columns; True for what cannot be read, which `read`
    will refuse."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return True
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            return image.width == image.height
    except Exception:
        return True


def _decode(file: IO[bytes], name: str, draft: int | None, most: int) -> np.ndarray:
    """The picture in an open file. Pillow's decoders raise many kinds of exception on damaged files
    (OSError, SyntaxError, ValueError, struct.error, IndexError, ...): all of them are the file's fault."""
    try:
        file.seek(0)
        if not file.read(1):
            raise BadPicture(name, "the file is empty (0 bytes)")
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image, name, most)
            if draft is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (draft, draft))
            image.load()
            return np.array(_upright(to_rgb(image), _orientation(image)))  # np.asarray would be read-only
    except BadPicture as bad:
        raise BadPicture(name, bad.reason) from None
    except Image.UnidentifiedImageError:
        raise BadPicture(name, f"it is not a picture of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadPicture(
            name, f"its header promises more than {MAX_PIXELS // 10**6} million pixels"
        ) from None
    except MemoryError:
        raise BadPicture(name, "it is too large for the memory of this machine") from None
    except Exception as error:
        raise BadPicture(name, f"it is damaged or cut short ({_words(error)})") from None


def _check_size(image: Image.Image, name: str, most: int) -> None:
    width, height = image.size
    if width * height > most:
        raise BadPicture(
            name,
            f"its header promises {width} x {height} pixels, more than {most // 10**6} million",
        )
    if min(width, height) < MIN_SIDE:
        raise BadPicture(
            name, f"it has only {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed"
        )


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


# EXIF orientation (tag 274) -> what makes the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where it is missing or damaged: the pixels are good all the same."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation wants it seen."""
    return _upright(image, _orientation(image))


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


# ---------------------------------------------------------------------------------------------------------
# Colour


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as mode RGB: alpha and transparent palette entries on white, 16-bit and float scaled
    to 8 bits, an embedded RGB or CMYK profile converted to sRGB (grey profiles are close enough to leave).

    Raises BadPicture for float pictures whose white is not known.
    """
    profile = image.info.get("icc_profile")
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(image))
    elif image.mode == "CMYK":
        transform = _to_srgb(profile, "CMYK")
        image = transform.apply(image) if transform else image.convert("RGB")
        profile = None
    elif image.has_transparency_data:
        colour = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    image = image if image.mode == "RGB" else image.convert("RGB")
    transform = _to_srgb(profile, "RGB")
    return transform.apply(image) if transform else image


def _eight_bits(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 from a grey picture of 16 or 32 bits or of floats (Pillow's own conversion clips)."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif not values.size or not np.isfinite(values).all():
        raise BadPicture("picture", "it holds values that are not numbers")
    else:
        # Modes I and F do not say what white is: the smallest usual range that holds the brightest pixel.
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1)
        fits = [r for r in ranges if values.max() <= r]
        if not fits:
            raise BadPicture(
                "picture", f"its brightest value is {values.max():.4g}: convert it to 8 bits first"
            )
        white = fits[0]
    scaled = np.multiply(values, 255.0 / white, dtype=np.float32)
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from an embedded profile to sRGB; None where there is nothing to do or it is damaged."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != mode:
            return None
        if "srgb" in (ImageCms.getProfileDescription(source) or "").lower().replace(" ", ""):
            return None
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except Exception:  # an unusable profile does not make the picture unusable
        return None


# ---------------------------------------------------------------------------------------------------------
# Size


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8: the centred square of the short side, resized with
    antialiasing. Bicubic rather than Lanczos: less ringing beside the outlines of flat drawings."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    # Cropped first: given a box, Pillow's filters would still look across its edges.
    square = image[top : top + side, left : left + side]
    if side == size:
        return square.copy()
    # reducing_gap: a box filter first takes whole factors off very large pictures, bicubic does the rest.
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(resized)


# ---------------------------------------------------------------------------------------------------------
# Finding


def find(paths: Sequence[str | Path]) -> tuple[list[Found], list[Refused]]:
    """The pictures among files, folders (walked to the bottom) and glob patterns, in an order that depends
    on the names alone; and what was met and cannot be a picture.

    In folders, hidden files and known side files (tables, notes) are passed over in silence; a file that
    is named directly is always taken at its word. With several arguments the names start with the name of
    the given folder. Links are followed; each real folder is walked once.
    Raises Problem for an argument that does not exist or a pattern that matches nothing.
    """
    found: dict[str, Found] = {}  # by absolute path: the same file given twice is one file
    refused: list[Refused] = []
    given = [expanded for path in paths for expanded in _expand(path)]
    seen: set[tuple[int, int]] = set()  # (device, inode) of the folders walked so far
    for path in given:
        if not os.path.isdir(path):
            name = printable(os.path.basename(path))
            found.setdefault(os.path.abspath(path), Found(Path(path), name, None))
            continue
        prefix = os.path.basename(os.path.abspath(path)) + "/" if len(given) > 1 else ""
        for file, relative, reason in _walk(path, seen):
            name = printable(prefix + relative)
            if reason is not None:
                refused.append(Refused(name, reason))
            else:
                folder = printable(relative.split("/", 1)[0]) if "/" in relative else None
                found.setdefault(os.path.abspath(file), Found(Path(file), name, folder))
    return list(found.values()), refused


def _expand(path: str | Path) -> list[str]:
    text = os.fspath(path)
    if os.path.lexists(text):
        return [text]
    matches = sorted(glob.glob(text, recursive=True), key=os.fsencode) if glob.has_magic(text) else []
    if matches:
        return matches
    if glob.has_magic(text):
        raise Problem(f"no file matches {printable(text)!r}: check the pattern")
    raise Problem(f"{printable(text)!r} does not exist: give picture files, folders of pictures or a pattern")


def _walk(top: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, str, str | None]]:
    """(path, path relative to `top` with "/", None or the reason for a refusal), sorted within each folder.
    Links to folders wait until every real folder is done: so a link never takes the place of the folder."""
    waiting = [(top, "")]
    while waiting:
        links: list[tuple[str, str]] = []
        stack = waiting[::-1]
        while stack:
            folder, relative = stack.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in seen and status.st_ino:
                    yield folder, relative.rstrip("/") or ".", "it leads to a folder that was read already"
                    continue
                seen.add((status.st_dev, status.st_ino))
                entries = sorted(os.listdir(folder), key=os.fsencode)
            except OSError as error:
                yield folder, relative.rstrip("/") or ".", f"the folder cannot be read ({error.strerror})"
                continue
            below: list[tuple[str, str]] = []
            for entry in entries:
                path = os.path.join(folder, entry)
                if entry.startswith("."):
                    continue
                if os.path.isdir(path):
                    (links if os.path.islink(path) else below).append((path, relative + entry + "/"))
                    continue
                reason = _refusal(path, entry)
                if reason != "":
                    yield path, relative + entry, reason
            stack.extend(below[::-1])
        waiting = links


def _refusal(path: str, entry: str) -> str | None:
    """None: should be a picture; "": a side file; otherwise why it cannot be a picture."""
    stem, suffix = os.path.splitext(entry.lower())
    if suffix in SIDE_FILES or stem in SIDE_NAMES:
        return ""
    if not os.path.exists(path):
        return "it is a link that leads nowhere" if os.path.islink(path) else "the file has vanished"
    if suffix and suffix not in SUFFIXES:
        return f"{printable(suffix)} is not a picture format that is read ({', '.join(FORMATS)})"
    return None


# ---------------------------------------------------------------------------------------------------------
# Writing


def save_png(path: str | Path, array: np.ndarray, **options: Any) -> None:
    """Write (H, W, 3) or (H, W) uint8 as a PNG, whole or not at all; `options` are Pillow's (compress_level).
    Raises Problem when the file cannot be written."""
    data = png_bytes(array, **options)
    with atomic(path) as file:
        file.write(data)


def png_bytes(array: np.ndarray, **options: Any) -> bytes:
    """(H, W, 3) or (H, W) uint8 as the bytes of the file that `save_png` writes."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG", **options)
    return file.getvalue()

"""Pictures for the screen: cut into tiles that a browser can hold, and thumbnails; made when asked for."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fewtoon.io import images
from fewtoon.io.files import stamp

SHORT_SIDE = 2400  # pixels; a picture whose shorter side is longer is shown smaller
TILE = 2048
THUMBNAIL = 128
MAX_MEMORY = 160_000_000  # bytes of encoded pictures that are kept

Rectangle = tuple[int, int, int, int]  # left, top, width, height in pixels of the tiles' picture


@dataclass(frozen=True)
class Shown:
    """A picture as it is sent: its own size, the one it is shown in, and its tiles as JPEG files."""

    width: int
    height: int
    shown_width: int
    shown_height: int
    places: tuple[Rectangle, ...]
    tiles: tuple[bytes, ...]

    @property
    def memory(self) -> int:
        return sum(map(len, self.tiles))


class Tiles:
    """Shows pictures; keeps the last ones. May be called from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Shown] = OrderedDict()
        self._memory = 0  # of all that is kept, in bytes
        self._kept_lock = threading.Lock()
        # One picture at a time is decoded: a hundred megapixels take 300 MB.
        self._decoding = {"picture": threading.Lock(), "thumbnail": threading.Lock()}

    def picture(self, path: Path) -> Shown:
        """The whole picture, in tiles. Raises BadPicture."""
        return self._get("picture", path, lambda: _tiled(images.read(path)))

    def thumbnail(self, path: Path) -> bytes:
        """A JPEG file of at most THUMBNAIL pixels a side; of a strip, its beginning. Raises BadPicture."""
        return self._get("thumbnail", path, lambda: _thumbnail(path)).tiles[0]

    def _get(self, kind: str, path: Path, make: Callable[[], Shown]) -> Shown:
        key = (kind, path, stamp(path))
        with self._decoding[kind]:  # whoever asks for the next tile of a picture waits for the first
            with self._kept_lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            shown = make()
            with self._kept_lock:
                self._kept[key] = shown
                self._memory += shown.memory
                while self._memory > MAX_MEMORY and len(self._kept) > 1:
                    self._memory -= self._kept.popitem(last=False)[1].memory
            return shown


def _tiled(picture: np.ndarray) -> Shown:
    height, width = picture.shape[:2]
    scale = min(1.0, SHORT_SIDE / min(width, height))
    image = Image.fromarray(picture)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    places = tuple(
        (left, top, min(TILE, image.width - left), min(TILE, image.height - top))
        for top in range(0, image.height, TILE)
        for left in range(0, image.width, TILE)
    )
    tiles = tuple(_jpeg(image.crop((x, y, x + w, y + h)), 92) for x, y, w, h in places)
    return Shown(width, height, image.width, image.height, places, tiles)


def _thumbnail(path: Path) -> Shown:
    picture = images.read(path, draft=2 * THUMBNAIL)
    height, width = picture.shape[:2]
    side = 2 * min(height, width)
    image = Image.fromarray(picture[:side, :side])
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    return Shown(width, height, *image.size, ((0, 0, *image.size),), (_jpeg(image, 80),))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)  # thin coloured lines stay what they are
    return file.getvalue()

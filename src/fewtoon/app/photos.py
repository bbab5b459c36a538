"""Photos that were sent to the studio: in memory only, and only as many as fit.

A file is gone from the disk as soon as it was read; its bytes stay for as long as somebody is likely to want another
drawing of it, and are forgotten when newer photos need the room.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np

from fewtoon.errors import Problem
from fewtoon.io import images

ROOM = 200_000_000  # bytes of all photos, as they were sent
MOST = 40_000_000  # pixels of one: 120 MB once it is decoded
CHECKED = 512  # pixels: as small as a JPEG may be decoded to see that it is whole


class Photos:
    """Sent photos by a key that nobody can guess."""

    def __init__(self, room: int = ROOM, most: int = MOST) -> None:
        self.room, self.most = room, most
        self._sent: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, path: str | Path) -> str:
        """Read a file that was sent, delete it, and return the key of the photo. Raises BadPicture."""
        data = self.bytes_of(path)
        self.decoded(data, CHECKED)
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._sent[key] = data
            while sum(map(len, self._sent.values())) > self.room:
                self._sent.popitem(last=False)
        return key

    def bytes_of(self, path: str | Path) -> bytes:
        """What a file that was sent holds; the file is deleted."""
        try:
            return images.read_bytes(path)
        except images.BadPicture as bad:
            raise images.BadPicture("photo", bad.reason) from None
        finally:
            with suppress(OSError):
                Path(path).unlink(missing_ok=True)
                Path(path).parent.rmdir()  # it was made for this file

    def decoded(self, data: bytes, draft: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8, as `fewtoon.io.images.read`. Raises BadPicture."""
        try:
            return images.read(io.BytesIO(data), draft=draft, most=self.most)
        except images.BadPicture as bad:
            raise images.BadPicture("photo", bad.reason) from None

    def get(self, key: str, draft: int | None = None) -> np.ndarray:
        """A photo that was sent before. Raises Problem for one that is no longer here."""
        with self._lock:
            data = self._sent.get(str(key))
            if data is None:
                raise Problem("this photo is no longer here: choose it again")
            self._sent.move_to_end(str(key))
        return self.decoded(data, draft)

"""Held-out pictures: the KID that chooses the best weights, the health of the translation, the previews."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fewtoon import style
from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine import preview, seed
from fewtoon.engine.feed import rows_of
from fewtoon.errors import Problem
from fewtoon.metrics import distance, features

FEWEST = 8  # held-out pictures; with fewer the KID would be noise, and training pictures stand in
USABLE = 4  # pictures of a side; with fewer there is no KID to speak of
EARLY = 500  # steps before which an unchanged picture is no reason to worry
UNCHANGED = 0.03  # mean |drawing - photo| in a range of 2
COLLAPSED = 0.1  # spread of the drawings over that of the photos
CONSTANT = 0.02  # spread within a drawing, in a range of 2


class Health(NamedTuple):
    change: float  # mean |drawing - photo|, values in [-1, 1]
    diversity: float  # spread between drawings over spread between photos
    health: str  # in words


class HeldOut:
    """The held-out pictures of a run.

    photos, drawings: (N, S, S, 3) uint8, at most `settings.metric_pictures` each. Where a pack holds out
    fewer than eight, training pictures are used and `say` is told so. Raises Problem when there are fewer than
    four of these, too, and for an unknown feature network.
    """

    def __init__(
        self, photos: Pack, drawings: Pack, settings: Train, device: str, say: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.photos, groups, self.photo_split = _pick(photos, settings, say)
        self.drawings, _, self.drawing_split = _pick(drawings, settings, say)
        self.shown = self.photos[preview.choose(groups, settings.preview_pictures, settings.seed)]
        self._features = features.load(settings.features, device)
        self._real: np.ndarray | None = None
        self.protocol = {
            "features": self._features.name,
            "features_hash": self._features.hash,
            "photos_split": self.photo_split,
            "drawings_split": self.drawing_split,
        }

    def kid(self, artist: style.Style) -> distance.Distance:
        """KID x1000 between the held-out drawings and what `artist` draws of the held-out photos."""
        if self._real is None:
            self._real = self._features(self.drawings)
        fake = style.to_pixels(artist.translate(style.to_tensor(self.photos)))
        return distance.kid(self._real, self._features(fake))


def health(step: int, photos: np.ndarray, drawings: np.ndarray) -> Health:
    """Whether the translation does something, and not the same for everybody. Both (B, S, S, 3) uint8."""
    before, after = photos.astype(np.float32) / 127.5 - 1, drawings.astype(np.float32) / 127.5 - 1
    change = float(np.abs(after - before).mean())
    between = [float(x.std(axis=0).mean()) for x in (before, after)]
    diversity = between[1] / max(between[0], 1e-6) if len(photos) > 1 else 1.0
    within = float(np.median(after.std(axis=(1, 2)).max(axis=-1)))
    if within < CONSTANT:
        words = "the drawings are one flat colour: the training has collapsed"
    elif diversity < COLLAPSED and between[0] > CONSTANT:
        words = "all drawings look the same: the training has collapsed"
    elif change < UNCHANGED and step > EARLY:
        words = "the drawings are nearly the photos: nothing is being translated"
    else:
        words = "good"
    told = f"{words} (changed by {change:.3f} of 2, variety {diversity:.2f} of the photos')"
    return Health(change, diversity, told)


def _pick(
    pack: Pack, settings: Train, say: Callable[[str], None]
) -> tuple[np.ndarray, list[str | None], str]:
    """Pictures, their groups and the split they are from."""
    rows, split = rows_of(pack, "held_out", settings.groups), "held_out"
    if len(rows) < FEWEST:
        say(
            f"warning: only {len(rows)} {pack.side} are held out; the KID that chooses the best weights and "
            f"the previews use training {pack.side} instead"
        )
        rows, split = rows_of(pack, "train", settings.groups), "train"
    if len(rows) < USABLE:
        raise Problem(
            f"only {len(rows)} {pack.side} to train on, and fewer than {FEWEST} held out: the KID that chooses "
            f"the best weights needs at least {USABLE}; prepare more {pack.side}"
        )
    if len(rows) > settings.metric_pictures:
        random = seed.generator(settings.seed, 0, 0, f"held out/{pack.side}")
        lot = np.random.default_rng(random.initial_seed()).permutation(len(rows))
        rows = np.sort(rows[lot[: settings.metric_pictures]])
    return np.array(pack.images[rows]), [pack.rows[row].group for row in rows], split

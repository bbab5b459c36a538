"""Held-out pictures: the KID that chooses the best weights, the health of the translation, the previews."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fewtoon import style
from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine import preview, seed
from fewtoon.engine.feed import rows_of
from fewtoon.errors import Problem
from fewtoon.methods.base import Method
from fewtoon.metrics import distance, features
from fewtoon.metrics.variety import spread, variety

FEWEST = 8  # held-out pictures; with fewer the KID would be noise, and training pictures stand in
USABLE = 4  # pictures of a side; with fewer there is no KID to speak of
EARLY = 500  # steps before which an unchanged picture is no reason to worry
UNCHANGED = 0.03  # mean |drawing - photo| in a range of 2
COLLAPSED = 0.1  # spread of the drawings over that of the photos
CONSTANT = 0.02  # spread within a drawing, in a range of 2


class Health(NamedTuple):
    change: float | None  # mean |drawing - photo|, values in [-1, 1]; None where no photo is translated
    diversity: float  # spread between drawings over spread between photos, or real pictures
    health: str  # in words


class HeldOut:
    """The held-out pictures of a run, and what is drawn from.

    inputs: what the artist draws from, at most `settings.metric_pictures`: the held-out photos (N, 3, S, S) in
    [-1, 1], or the latents (N, Z) of a method that generates. real: the held-out pictures (N, S, S, 3) uint8 that
    the drawn ones are compared with: the drawings, or the photos where a method learns to make these. shown: the
    inputs of the preview. Where a pack holds out fewer than eight, training pictures are used and `say` is told
    so. Raises Problem when there are fewer than four of these, too, and for an unknown feature network.
    """

    def __init__(
        self, packs: Sequence[Pack], method: Method, settings: Train, device: str, say: Callable[[str], None]
    ) -> None:
        self.settings = settings
        picked = [_pick(pack, settings, say) for pack in packs]
        self.real, _, _ = picked[-1]
        if method.generates:
            self.inputs = method.latents(settings.metric_pictures, settings.seed)
            places = list(range(min(settings.preview_pictures, len(self.inputs))))
        else:
            photos, groups, _ = picked[0]
            self.inputs = style.to_tensor(photos)
            places = preview.choose(groups, settings.preview_pictures, settings.seed)
        self.shown = self.inputs[places]
        # What drawings in good health differ from each other as much as: photos, or the real pictures.
        self._before = self.real if method.generates else picked[0][0][places]
        self._translates = not method.generates
        self._features = features.load(settings.features, device)
        self._known: np.ndarray | None = None
        self.protocol = {
            "features": self._features.name,
            "features_hash": self._features.hash,
            **{f"{pack.side}_split": split for pack, (_, _, split) in zip(packs, picked)},
        }

    def kid(self, artist: style.Style) -> distance.Distance:
        """KID x1000 between the real pictures and what `artist` draws."""
        if self._known is None:
            self._known = self._features(self.real)
        return distance.kid(self._known, self._features(style.to_pixels(artist.drawn(self.inputs))))

    def health(self, step: int, drawings: np.ndarray) -> Health:
        """How the drawings (N, S, S, 3) uint8 of `shown` are doing."""
        return health(step, self._before, drawings, self._translates)


def health(step: int, before: np.ndarray, drawings: np.ndarray, translates: bool = True) -> Health:
    """Whether the drawings are not all the same, and a translation does something.

    before: the photos, in the same order, or real pictures where nothing is translated. Both (B, S, S, 3) uint8.
    """
    given, made = before.astype(np.float32) / 127.5 - 1, drawings.astype(np.float32) / 127.5 - 1
    change = float(np.abs(made - given).mean()) if translates else None
    diversity = variety(drawings, before) if len(made) > 1 else 1.0
    within = float(np.median(made.std(axis=(1, 2)).max(axis=-1)))
    if within < CONSTANT:
        words = "the drawings are one flat colour: the training has collapsed"
    elif diversity < COLLAPSED and spread(before) > CONSTANT:
        words = "all drawings look the same: the training has collapsed"
    elif change is not None and change < UNCHANGED and step > EARLY:
        words = "the drawings are nearly the photos: nothing is being translated"
    else:
        words = "good"
    told = f"variety {diversity:.2f} of the real pictures'"
    if change is not None:
        told = f"changed by {change:.3f} of 2, variety {diversity:.2f} of the photos'"
    return Health(change, diversity, f"{words} ({told})")


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

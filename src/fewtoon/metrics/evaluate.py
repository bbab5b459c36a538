"""How good is a style? Distances to the artist's drawings on held-out pictures, over all and per group,
and the protocol that gives each number its meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import fewtoon
from fewtoon.augment import Ada
from fewtoon.data.attributes import attributes_of
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem, nearest
from fewtoon.io import images as pictures_io
from fewtoon.metrics import features as networks
from fewtoon.metrics.attributes import Judges, Verdicts, attributes_in
from fewtoon.metrics.distance import FEW, Distance, fid, kid
from fewtoon.metrics.identity import identity
from fewtoon.metrics.leak import leak
from fewtoon.metrics.memory import Memory, memorisation
from fewtoon.style import AUTO, Style, to_pixels, to_tensor
from fewtoon.style import load as load_style

SPLITS = ("held_out", "train", "all")
BATCH = 16
FID_NEEDS = 2000  # pictures on each side below which the bias of FID is larger than most differences


class Translator(Protocol):
    """What is evaluated: a Style, or anything that translates like one."""

    size: int
    groups: list[str]
    header: dict[str, Any]

    def translate(self, photos: torch.Tensor, group: Any = None) -> torch.Tensor: ...


@dataclass(frozen=True)
class Pictures:
    """What the report shows: all uint8 RGB of the style's size; names are those of the sources."""

    photos: NDArray[np.uint8]  # (n, S, S, 3), in the order of `fakes`
    fakes: NDArray[np.uint8]
    photo_names: list[str]
    photo_groups: list[str | None]
    drawings: NDArray[np.uint8]  # (m, S, S, 3), the real ones that the fakes are compared with
    drawing_groups: list[str | None]
    train_drawings: NDArray[np.uint8]
    train_names: list[str]
    memory: Memory | None
    verdicts: Verdicts | None = None  # on the attributes of the fakes; None where none is known


def evaluate(
    style: Translator | str | Path,
    photos: Pack | str | Path,
    drawings: Pack | str | Path,
    *,
    features: str | Sequence[str] = "tiny",
    out: str | Path | None = None,
    split: str = "held_out",
    seed: int = 0,
    group: str | None = None,
    attributes: str | Path | Mapping[str, Any] | None = None,
    judges: Judges | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Translate the photos of `split`, and compare them with the drawings of `split`.

    style, photos, drawings: objects, or the paths of a Style or run and of two packs.
    features: one or more specs of `fewtoon.metrics.features.load`; the first gives the headline numbers,
        the others stand under "other_features". A MobileFaceNet among them also measures identity.
    out: a folder for report.json, report.html (self-contained) and sheet.png.
    group: None: a style that draws each group in its own way is told the photo's; "auto": it reads it from the
        photo, as it does for photos that nobody labelled; a name: everybody is drawn as that group.
    attributes: what the groups say of people, as `fewtoon.data.attributes` has it: a table or its file; None:
        by the groups' names. Where photos and training drawings have groups that differ in something,
        two judges learn it from the training drawings, and say whether each translation shows it.
    judges: these, already trained; `attributes` is then not looked at.
    split: "held_out"; "train" or "all" only to look at overfitting, and the result then says so.

    Returns {"style", "protocol", "metrics": {"all": {...}, GROUP: {...}}, "untranslated", "memorisation",
    "augmentation" (see `fewtoon.metrics.leak`; None of a style trained without ADA), "other_features", "summary",
    "warnings"}; numbers that cannot be given are None with a note. KID is
    x1000. Raises Problem for an empty split, an unknown split or feature network, or an unusable folder.
    """
    if split not in SPLITS:
        raise Problem(f"unknown split {split!r}: {nearest(split, SPLITS)}")
    if isinstance(style, (str, Path)):
        style = load_style(style)
    photos, drawings = (p if isinstance(p, Pack) else Pack.open(p) for p in (photos, drawings))
    if (photos.side, drawings.side) != ("photos", "drawings"):
        raise Problem(f"the packs hold {photos.side} and {drawings.side}: give photos, then drawings")
    chosen = None if split == "all" else split
    photo_rows, drawing_rows = photos.where(chosen), drawings.where(chosen)
    for pack, rows in ((photos, photo_rows), (drawings, drawing_rows)):
        if len(rows) < 2:
            raise Problem(
                f"{len(rows)} {pack.side} in the split {split!r}, at least 2 are needed: prepare the pack "
                "again with more held-out pictures, or name another split, which says little about new photos"
            )
    device = str(getattr(style, "device", "cpu"))
    specs = [features] if isinstance(features, str) else features
    nets = [networks.load(spec, device) for spec in specs]
    if not nets:
        raise Problem("no feature network given: name at least one, 'tiny' for instance")
    if group is not None and isinstance(style, Style):
        style.check_group(group)
    if judges is None:
        attributes_in(drawings, attributes, photos.groups)  # a bad table, before anything is made or done
    folder = _folder(out) if out is not None else None

    warnings = _warnings(style, photos, drawings, split, nets)
    photo_groups = [photos.rows[i].group for i in photo_rows]
    drawing_groups = [drawings.rows[i].group for i in drawing_rows]
    train_rows = drawings.where("train")
    held_out = [i for i, row in enumerate(drawing_rows) if drawings.rows[row].split == "held_out"]

    console = Console(stderr=True)  # stdout is for figures
    with Progress(console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
        if judges is None and any(photo_groups):
            job = bar.add_task("learn the attributes", total=None)
            judges = Judges.of_pack(drawings, attributes, seed, size=style.size, others=photos.groups)
            bar.remove_task(job)
        job = bar.add_task("translate", total=len(photo_rows))
        source = _at_size(photos.images[photo_rows], style.size)
        fakes = np.empty_like(source)
        asked: list[str | None] = [name if name in style.groups else None for name in photo_groups]
        if group is not None:
            asked = _read(style, source) if group == AUTO else [group] * len(source)
        for name, part in _batches(asked):
            fakes[part] = to_pixels(style.translate(to_tensor(source[part]), name))
            bar.advance(job, len(part))
        real = _at_size(drawings.images[drawing_rows], style.size)
        train = _at_size(drawings.images[train_rows], style.size)

        measured: list[dict[str, Any]] = []
        memory: Memory | None = None
        who: dict[str, dict[str, Any]] = {}
        job = bar.add_task("measure", total=4 * len(nets))
        for net in nets:
            of: dict[str, NDArray[np.float32]] = {}
            for name, images in (("photos", source), ("fakes", fakes), ("real", real), ("train", train)):
                wanted = name != "train" or (net is nets[0] and len(train_rows) > 0)
                of[name] = net(images) if wanted else np.empty((0, net.dim), np.float32)
                bar.advance(job)
            measured.append(_compare(of, photo_groups, drawing_groups, seed))
            if net is nets[0] and len(train_rows):
                memory = memorisation(of["fakes"], of["train"], of["real"][held_out])
            if net.name == "mobilefacenet" and not who:
                who = identity(source, of["photos"], of["fakes"], photo_groups, net)
        job = bar.add_task("look for augmentations", total=None)
        augmentation = _augmentation(style, fakes, real[held_out], train, seed, warnings)

    metrics, untranslated = measured[0]["metrics"], measured[0]["untranslated"]
    warnings += _unread(photos, drawings, style, judges)
    reading = judges.read(fakes, photo_groups) if judges is not None and judges.attributes else None
    for name, entries in reading.scores().items() if reading is not None else ():
        metrics[name]["attributes"] = entries
    for name, entry in who.items():
        metrics[name]["identity"] = entry
    for name, entry in metrics.items():
        if group == AUTO and style.groups:
            entry["read_right"] = _read_right(asked, photo_groups, style.groups, name)
        if entry["n_real"] < FEW and (len(metrics) > 2 or name == "all"):
            warnings.append(f"{name}: only {entry['n_real']} drawings to compare with, too few to say much")
    result = {
        "style": _facts(style),
        "protocol": {
            "split": split,
            "features": _named(nets[0]),
            "size": style.size,
            "n_photos": len(photo_rows),
            "n_drawings": len(drawing_rows),
            "n_train_drawings": len(train_rows),
            "groups": _told(style, group),
            "kid": "x1000, unbiased, kernel (x.y/d + 1)^3, over all pictures; 95 % interval from "
            f"{metrics['all']['subsets']} subsets of {metrics['all']['subset_size']} of the smaller side",
            "fid": "covariances with n - 1; biased upwards for few pictures",
            "seed": seed,
            "photos": photos.hash,
            "drawings": drawings.hash,
            **({"attributes": judges.facts()} if judges is not None and reading is not None else {}),
            "fewtoon": fewtoon.__version__,
        },
        "metrics": metrics,
        "untranslated": untranslated,
        "summary": _summary(metrics, untranslated),
        "memorisation": _memory_facts(memory, photos, photo_rows, drawings, train_rows, nets[0]),
        "augmentation": augmentation,
        "other_features": {
            f"{net.name} {net.hash}": {"features": _named(net), **numbers}
            for net, numbers in zip(nets[1:], measured[1:])
        },
        "warnings": warnings,
    }
    if folder is not None:
        from fewtoon.metrics import report

        shown = Pictures(
            source,
            fakes,
            [photos.rows[i].file for i in photo_rows],
            photo_groups,
            real,
            drawing_groups,
            train,
            [drawings.rows[i].file for i in train_rows],
            memory,
            reading.verdicts() if reading is not None else None,
        )
        report.write(result, shown, folder)
    return result


def _folder(out: str | Path) -> Path:
    """Make the folder before the work starts, not after it."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(
            f"cannot use {str(path)!r} as the report's folder ({error.strerror}): choose another"
        ) from None
    return path


def _at_size(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if images.shape[1] == size:
        return np.ascontiguousarray(images)
    return np.stack([pictures_io.resize_square(image, size) for image in images])


def _unread(photos: Pack, drawings: Pack, style: Translator, judges: Judges | None) -> list[str]:
    """What of the groups cannot be told or measured."""
    told = []
    strangers = [name for name in photos.groups if name not in style.groups] if style.groups else []
    if strangers:
        told.append(
            f"the style does not know the groups {', '.join(strangers)} of the photos: it drew them as what it read"
        )
    if photos.groups and drawings.groups and not {*photos.groups} & {*drawings.groups}:
        told.append("photos and drawings have no group in common: nothing is compared group by group")
    readable = {attribute.name for attribute in judges.attributes} if judges is not None else set()
    for attribute in attributes_of(photos.groups):
        if judges is not None and attribute.name not in readable:
            told.append(
                f"{attribute.name}: the photos differ in it and the training drawings do not, so no reader can learn it"
            )
    return told


def _told(style: Translator, group: str | None) -> str:
    """How the style came to know the groups of the photos, for the protocol."""
    if not style.groups:
        return "unknown to the style"
    if group is None:
        return "told to the style, as labelled, where it knows them"
    return "read by the style from the photos" if group == AUTO else f"everybody drawn as {group}"


def _read(style: Translator, photos: NDArray[np.uint8]) -> list[str | None]:
    """The group that the style itself reads each photo as."""
    if not isinstance(style, Style):
        raise Problem(f"group {AUTO!r} is for a Style: this translator cannot read groups")
    return [name for part in _chunks(range(len(photos))) for name in style.guess(to_tensor(photos[part]))]


def _batches(asked: list[str | None]) -> list[tuple[str | None, list[int]]]:
    """(group for `translate`, indices): one group per batch."""
    batches = []
    for group in sorted(set(asked), key=str):
        rows = [i for i, name in enumerate(asked) if name == group]
        batches += [(group, part) for part in _chunks(rows)]
    return batches


def _chunks(rows: Sequence[int]) -> list[list[int]]:
    return [list(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]


def _read_right(
    asked: list[str | None], photo_groups: list[str | None], known: list[str], name: str
) -> float | None:
    """Share of the photos of "all" or a group, of those the style knows, that were taken for their own group."""
    pairs = [(read, group) for read, group in zip(asked, photo_groups) if group in known]
    own = [read == group for read, group in pairs if name in ("all", group)]
    return float(np.mean(own)) if own else None


def _compare(
    of: dict[str, NDArray[np.float32]],
    photo_groups: list[str | None],
    drawing_groups: list[str | None],
    seed: int,
) -> dict[str, Any]:
    """{"metrics": ..., "untranslated": ...}, each for "all" and every group that a picture has."""
    names = sorted({group for group in photo_groups + drawing_groups if group is not None})
    metrics: dict[str, Any] = {}
    untranslated: dict[str, Any] = {}
    for name in ["all", *names]:
        fake_rows = [i for i, group in enumerate(photo_groups) if name in ("all", group)]
        real_rows = [i for i, group in enumerate(drawing_groups) if name in ("all", group)]
        real = of["real"][real_rows]
        untranslated[name] = _entry(real, of["photos"][fake_rows], seed, None)
        metrics[name] = _entry(real, of["fakes"][fake_rows], seed, untranslated[name]["kid"])
    return {"metrics": metrics, "untranslated": untranslated}


def _entry(
    real: NDArray[np.float32], fake: NDArray[np.float32], seed: int, yardstick: float | None
) -> dict[str, Any]:
    if len(real) < 2 or len(fake) < 2:
        few = f"{len(real)} drawings and {len(fake)} photos"
        found = Distance(math.nan, math.nan, math.nan, len(real), len(fake), 0, 0, f"too few to say: {few}")
    else:
        found = kid(real, fake, seed=seed, yardstick=yardstick)
    return {
        "kid": _finite(found.value),
        "kid_interval": [_finite(found.low), _finite(found.high)],
        "fid": fid(real, fake) if len(real) >= 2 and len(fake) >= 2 else None,
        "n_real": found.n_real,
        "n_fake": found.n_fake,
        "subset_size": found.subset_size,
        "subsets": found.subsets,
        "note": found.note,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _summary(metrics: dict[str, Any], untranslated: dict[str, Any]) -> dict[str, Any]:
    """Headline figures: how far KID fell from the untranslated photos', and its plain mean over groups."""
    now, before = metrics["all"]["kid"], untranslated["all"]["kid"]
    groups = [entry["kid"] for name, entry in metrics.items() if name != "all" and entry["kid"] is not None]
    return {
        "below_untranslated": 1.0 - now / before if now is not None and before and before > 0 else None,
        "kid_mean_of_groups": sum(groups) / len(groups) if groups else None,
    }


def _memory_facts(
    memory: Memory | None,
    photos: Pack,
    photo_rows: NDArray[np.int64],
    drawings: Pack,
    train_rows: NDArray[np.int64],
    net: networks.Features,
) -> dict[str, Any]:
    if memory is None:
        return {"ratio": None, "close": None, "suspects": [], "note": "no training drawings in the pack"}
    return {
        "ratio": memory.ratio,
        "close": memory.close,
        "features": _named(net),
        "suspects": [
            {
                "photo": photos.rows[photo_rows[i]].file,
                "training_drawing": drawings.rows[train_rows[memory.nearest[i]]].file,
                "distance": float(memory.distance[i]),
            }
            for i in memory.suspects
        ],
        "note": None if memory.ratio is not None else "no held-out drawings to compare with",
    }


def _augmentation(
    style: Translator,
    fakes: NDArray[np.uint8],
    real: NDArray[np.uint8],
    train: NDArray[np.uint8],
    seed: int,
    warnings: list[str],
) -> dict[str, Any] | None:
    """What the drawings of a style that was trained with ADA show of it; warnings are added."""
    model = style.header.get("model") or {}
    if model.get("augment") != "ada":
        return None
    operations = model.get("augment_operations") or Ada().pipeline.operations
    try:
        found = leak(fakes, real, train, operations, model.get("augment_fill") or "reflect", seed)
    except Problem as problem:
        warnings.append(f"whether augmentations leak was not looked at: {problem}")
        return None
    for kind, entry in found.items():
        if entry["leaks"]:
            warnings.append(
                f"augmentations leak ({kind}): {entry['share']:.0%} of the drawings look augmented, "
                f"{entry['real_share']:.0%} of the artist's; train again with a smaller ada_limit"
            )
    return found


def _warnings(
    style: Translator, photos: Pack, drawings: Pack, split: str, nets: list[networks.Features]
) -> list[str]:
    warnings = []
    if split != "held_out":
        warnings.append(
            f"measured on the split {split!r}, as asked: training pictures say nothing about new photos"
        )
    if not nets[0].comparable:
        warnings.append(f"feature network {nets[0].name!r}: not comparable with figures in the literature")
    count = min(len(pack.where(None if split == "all" else split)) for pack in (photos, drawings))
    if count < FID_NEEDS:
        warnings.append(
            f"FID of {count} pictures is biased upwards: compare it only with the same counts; trust KID"
        )
    for pack in (photos, drawings):
        if pack.size < style.size:
            warnings.append(f"the {pack.side} were enlarged from {pack.size} to {style.size} px")
    trained_on = str(style.header.get("packs") or "")
    if trained_on and drawings.hash not in trained_on:
        warnings.append(
            "the style was trained on another pack of drawings: it may have seen these, and memorisation is "
            "measured against drawings it may not have seen"
        )
    return warnings


def _facts(style: Translator) -> dict[str, Any]:
    header = style.header
    kept = ("method", "step", "framing", "licence", "source", "fewtoon")
    return {
        "size": style.size,
        "groups": list(style.groups),
        **{key: header[key] for key in kept if header.get(key) not in (None, "", [])},
    }


def _named(net: networks.Features) -> dict[str, Any]:
    return {"name": net.name, "hash": net.hash, "dim": net.dim, "comparable": net.comparable}

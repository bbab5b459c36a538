"""How good is a style? Distances to the artist's drawings on held-out pictures, over all and per group,
and the protocol that gives each number its meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import fewtoon
from fewtoon.augment import Ada
from fewtoon.data.attributes import attributes_of
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem, nearest
from fewtoon.metrics import fakes as making
from fewtoon.metrics import features as networks
from fewtoon.metrics.attributes import Judges, Verdicts, attributes_in
from fewtoon.metrics.distance import FEW, Distance, fid, kid
from fewtoon.metrics.fakes import Fakes, Translator, at_size
from fewtoon.metrics.identity import identity
from fewtoon.metrics.leak import leak
from fewtoon.metrics.memory import Memory, memorisation
from fewtoon.metrics.variety import variety
from fewtoon.style import AUTO, Style
from fewtoon.style import load as load_style

SPLITS = ("held_out", "train", "all")
SAMPLES = 1000  # pictures of a style that makes them from random numbers
ALIKE = 0.5  # share of the real drawings' variety below which a warning is given
FID_NEEDS = 2000  # pictures on each side below which the bias of FID is larger than most differences


@dataclass(frozen=True)
class Pictures:
    """What the report shows: all uint8 RGB of the style's size; names are those of the sources."""

    photos: NDArray[np.uint8]  # (n, S, S, 3), in the order of `fakes`; none where these are of random numbers
    fakes: NDArray[np.uint8]
    photo_names: list[str]  # or 'sample 0' ...
    photo_groups: list[str | None]
    drawings: NDArray[np.uint8]  # (m, S, S, 3), the real ones that the fakes are compared with; or photos
    drawing_groups: list[str | None]
    train_drawings: NDArray[np.uint8]
    train_names: list[str]
    memory: Memory | None
    verdicts: Verdicts | None = None  # on the attributes of the fakes; None where none is known


def evaluate(
    style: Translator | str | Path,
    photos: Pack | str | Path | None = None,
    drawings: Pack | str | Path | None = None,
    *,
    features: str | Sequence[str] = "tiny",
    out: str | Path | None = None,
    split: str = "held_out",
    seed: int = 0,
    group: str | None = None,
    attributes: str | Path | Mapping[str, Any] | None = None,
    judges: Judges | None = None,
    samples: int = SAMPLES,
    progress: bool = False,
) -> dict[str, Any]:
    """Translate the photos of `split`, and compare them with the drawings of `split`.

    A style that makes pictures from random numbers takes no photos: `samples` pictures of it are compared with
    the drawings, or with the photos where it has learned to make these; the other pack is not needed and not used.

    style, photos, drawings: objects, or the paths of a Style or run and of two packs.
    features: one or more specs of `fewtoon.metrics.features.load`; the first gives the headline numbers,
        the others stand under "other_features". A MobileFaceNet among them also measures identity.
    out: a folder for report.json, report.html (self-contained) and sheet.png.
    group: None: a style that draws each group in its own way is told the photo's; "auto": it reads it from the
        photo, as it does for photos that nobody labelled; a name: everybody is drawn as that group. Random
        numbers are told groups in the proportions of the real pictures, or a name.
    attributes: what the groups say of people, as `fewtoon.data.attributes` has it: a table or its file; None:
        by the groups' names. Where photos and training drawings have groups that differ in something,
        two judges learn it from the training drawings, and say whether each translation shows it.
    judges: these, already trained; `attributes` is then not looked at. Neither is without photos.
    samples: at least 2; only of a style that makes pictures from random numbers (those of `seed`).
    split: "held_out"; "train" or "all" only to look at overfitting, and the result then says so.

    Returns {"style", "protocol", "metrics": {"all": {...}, GROUP: {...}}, "untranslated", "back" (the distance of the
    photos that the style makes of the drawings to the photos, where it has learned that direction too),
    "memorisation", "augmentation" (see `fewtoon.metrics.leak`; None of a style trained without ADA),
    "other_features", "summary", "warnings"}; numbers that cannot be given are None with a note. KID is
    x1000. Without photos there is no "untranslated", attribute or identity, and groups only where the style is
    told them. Raises Problem for a missing pack, an empty split, an unknown split or feature network, fewer than
    2 samples, or an unusable folder.
    """
    if split not in SPLITS:
        raise Problem(f"unknown split {split!r}: {nearest(split, SPLITS)}")
    if isinstance(style, (str, Path)):
        style = load_style(style)
    packs, unused = _packs(style, {"photos": photos, "drawings": drawings})
    source, real_pack = (None if making.generates(style) else packs[0]), packs[-1]
    if source is None and samples < 2:
        raise Problem(f"samples is {samples}: a distance needs at least 2 pictures")
    chosen = None if split == "all" else split
    rows = [pack.where(chosen) for pack in packs]
    for pack, found in zip(packs, rows):
        if len(found) < 2:
            raise Problem(
                f"{len(found)} {pack.side} in the split {split!r}, at least 2 are needed: prepare the pack "
                "again with more held-out pictures, or name another split, which says little about new photos"
            )
    device = str(getattr(style, "device", "cpu"))
    specs = [features] if isinstance(features, str) else features
    nets = [networks.load(spec, device) for spec in specs]
    if not nets:
        raise Problem("no feature network given: name at least one, 'tiny' for instance")
    if group is not None and isinstance(style, Style):
        style.check_group(group)
    if judges is None and source is not None:
        attributes_in(real_pack, attributes, source.groups)  # a bad table, before anything is made or done
    folder = _folder(out) if out is not None else None

    counts: dict[str, int] = {} if source is not None else {"n_samples": samples}
    counts |= {f"n_{pack.side}": len(found) for pack, found in zip(packs, rows)}
    warnings = unused + _warnings(style, packs, split, nets, min(counts.values()))
    real_groups = [real_pack.rows[i].group for i in rows[-1]]
    train_rows = real_pack.where("train")
    held_out = [i for i, row in enumerate(rows[-1]) if real_pack.rows[row].split == "held_out"]

    console = Console(stderr=True)  # stdout is for figures
    with Progress(console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
        if judges is None and source is not None and any(source.rows[i].group for i in rows[0]):
            job = bar.add_task("learn the attributes", total=None)
            judges = Judges.of_pack(real_pack, attributes, seed, size=style.size, others=source.groups)
            bar.remove_task(job)
        job = bar.add_task("translate" if source is not None else "make", total=next(iter(counts.values())))

        def done(count: int) -> None:
            bar.advance(job, count)

        if source is not None:
            fakes = making.of_photos(style, source, rows[0], group, done)
        else:
            assert isinstance(style, Style)
            fakes = making.of_numbers(style, samples, seed, real_groups, group, done)
        real = at_size(real_pack.images[rows[-1]], style.size)
        back = real[:0]
        if making.goes_back(style):
            assert isinstance(style, Style)
            job = bar.add_task("translate back", total=len(real))
            back = making.of_drawings(style, real, real_groups, done)
        train = at_size(real_pack.images[train_rows], style.size)

        measured: list[dict[str, Any]] = []
        memory: Memory | None = None
        who: dict[str, dict[str, Any]] = {}
        sets = {"photos": fakes.photos, "fakes": fakes.pictures, "real": real, "train": train, "back": back}
        job = bar.add_task("measure", total=len(sets) * len(nets))
        for net in nets:
            of: dict[str, NDArray[np.float32]] = {}
            for name, images in sets.items():
                wanted = len(images) > 0 and (name != "train" or net is nets[0])
                of[name] = net(images) if wanted else np.empty((0, net.dim), np.float32)
                done(1)
            measured.append(_compare(of, fakes, real_groups, real_pack.side, seed))
            if len(back):
                yardstick = measured[-1]["untranslated"]["all"]["kid"]  # the same in both directions
                kinds = ("photos", "drawings")
                measured[-1]["back"] = _entry(of["photos"], of["back"], seed, yardstick, kinds)
            if net is nets[0] and len(train_rows):
                memory = memorisation(of["fakes"], of["train"], of["real"][held_out])
            if net.name == "mobilefacenet" and source is not None and not who:
                who = identity(fakes.photos, of["photos"], of["fakes"], fakes.groups, net)
        job = bar.add_task("look for augmentations", total=None)
        augmentation = _augmentation(style, fakes.pictures, real[held_out], train, seed, warnings)

    metrics = measured[0]["metrics"]
    warnings += _unread(packs, style, judges)
    if source is not None and len(fakes.pictures) > 1:
        share = variety(fakes.pictures, real)
        if share < ALIKE:
            warnings.append(
                f"the drawings look alike: they differ from each other by {share:.0%} of what the real ones do, so a "
                "small distance says little"
            )
    reading = None
    if judges is not None and judges.attributes and source is not None:
        reading = judges.read(fakes.pictures, fakes.groups)
        for name, entries in reading.scores().items():
            metrics[name]["attributes"] = entries
    for name, entry in who.items():
        metrics[name]["identity"] = entry
    for name, entry in metrics.items():
        if group == AUTO and style.groups:
            entry["read_right"] = _read_right(fakes.asked, fakes.groups, style.groups, name)
        if entry["n_real"] < FEW and (len(metrics) > 2 or name == "all"):
            warnings.append(
                f"{name}: only {entry['n_real']} {real_pack.side} to compare with, too few to say much"
            )
    protocol: dict[str, Any] = {
        "split": split,
        "features": _named(nets[0]),
        "size": style.size,
        **counts,
        f"n_train_{real_pack.side}": len(train_rows),
        "groups": _told(style, group),
        "kid": "x1000, unbiased, kernel (x.y/d + 1)^3, over all pictures; 95 % interval from "
        f"{metrics['all']['subsets']} subsets of {metrics['all']['subset_size']} of the smaller side",
        "fid": "covariances with n - 1; biased upwards for few pictures",
        "seed": seed,
        **({"made_of": making.NUMBERS} if source is None else {}),
        **{pack.side: pack.hash for pack in packs},
        **({"attributes": judges.facts()} if judges is not None and reading is not None else {}),
        "fewtoon": fewtoon.__version__,
    }
    result = {
        "style": _facts(style),
        "protocol": protocol,
        **measured[0],
        "summary": _summary(metrics, measured[0].get("untranslated")),
        "memorisation": _memory_facts(memory, fakes, real_pack, train_rows, nets[0]),
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
            fakes.photos,
            fakes.pictures,
            fakes.names,
            fakes.groups,
            real,
            real_groups,
            train,
            [real_pack.rows[i].file for i in train_rows],
            memory,
            reading.verdicts() if reading is not None else None,
        )
        report.write(result, shown, folder)
    return result


def _packs(style: Translator, given: Mapping[str, Pack | str | Path | None]) -> tuple[list[Pack], list[str]]:
    """The packs that the style is measured with, opened, and a line for one that it does not need."""
    sides = making.sides(style)
    for side in sides:
        if given[side] is None:
            raise Problem(f"this style is measured with {' and '.join(sides)}: name a pack with --{side}")
    unused = making.unused(style, [side for side, one in given.items() if one is not None])
    packs = [one if isinstance(one, Pack) else Pack.open(str(one)) for one in (given[side] for side in sides)]
    if tuple(pack.side for pack in packs) != sides:
        held = " and ".join(pack.side for pack in packs)
        told = "packs hold" if len(packs) > 1 else "pack holds"
        raise Problem(f"the {told} {held}: give {', then '.join(sides)}")
    return packs, unused


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


def _unread(packs: list[Pack], style: Translator, judges: Judges | None) -> list[str]:
    """What of the groups cannot be told or measured."""
    told = []
    photos, drawings = packs[0], packs[-1]
    if making.generates(style):
        strangers = [name for name in drawings.groups if name not in style.groups] if style.groups else []
        if strangers:
            told.append(
                f"the style does not know the groups {', '.join(strangers)} of the {drawings.side}: they count "
                "among all alone"
            )
        return told
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
    if making.generates(style):
        return f"every picture made as {group}" if group else "as often as among the real pictures"
    if group is None:
        return "told to the style, as labelled, where it knows them"
    return "read by the style from the photos" if group == AUTO else f"everybody drawn as {group}"


def _read_right(
    asked: list[str | None], photo_groups: list[str | None], known: list[str], name: str
) -> float | None:
    """Share of the photos of "all" or a group, of those the style knows, that were taken for their own group."""
    pairs = [(read, group) for read, group in zip(asked, photo_groups) if group in known]
    own = [read == group for read, group in pairs if name in ("all", group)]
    return float(np.mean(own)) if own else None


def _compare(
    of: dict[str, NDArray[np.float32]],
    fakes: Fakes,
    real_groups: list[str | None],
    side: str,
    seed: int,
) -> dict[str, Any]:
    """{"metrics": ...} for "all" and every group, and "untranslated" likewise where there are photos."""
    translated = len(fakes.photos) > 0
    named = fakes.groups + (real_groups if translated else [])
    found: dict[str, Any] = {"metrics": {}, **({"untranslated": {}} if translated else {})}
    for name in ["all", *sorted({group for group in named if group is not None})]:
        fake_rows = [i for i, group in enumerate(fakes.groups) if name in ("all", group)]
        real_rows = [i for i, group in enumerate(real_groups) if name in ("all", group)]
        real, yardstick = of["real"][real_rows], None
        kinds = (side, "photos" if translated else "samples")
        if translated:
            before = _entry(real, of["photos"][fake_rows], seed, None, kinds)
            found["untranslated"][name], yardstick = before, before["kid"]
        found["metrics"][name] = _entry(real, of["fakes"][fake_rows], seed, yardstick, kinds)
    return found


def _entry(
    real: NDArray[np.float32],
    fake: NDArray[np.float32],
    seed: int,
    yardstick: float | None,
    kinds: tuple[str, str],
) -> dict[str, Any]:
    if len(real) < 2 or len(fake) < 2:
        few = f"{len(real)} {kinds[0]} and {len(fake)} {kinds[1]}"
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


def _summary(metrics: dict[str, Any], untranslated: dict[str, Any] | None = None) -> dict[str, Any]:
    """Headline figures: how far KID fell from the untranslated photos', and its plain mean over groups."""
    groups = [entry["kid"] for name, entry in metrics.items() if name != "all" and entry["kid"] is not None]
    mean = {"kid_mean_of_groups": sum(groups) / len(groups) if groups else None}
    if untranslated is None:
        return mean if groups else {}
    now, before = metrics["all"]["kid"], untranslated["all"]["kid"]
    fall = 1.0 - now / before if now is not None and before and before > 0 else None
    return {"below_untranslated": fall, **mean}


def _memory_facts(
    memory: Memory | None,
    fakes: Fakes,
    real: Pack,
    train_rows: NDArray[np.int64],
    net: networks.Features,
) -> dict[str, Any]:
    if memory is None:
        return {"ratio": None, "close": None, "suspects": [], "note": f"no training {real.side} in the pack"}
    return {
        "ratio": memory.ratio,
        "close": memory.close,
        "features": _named(net),
        "suspects": [
            {
                "photo" if len(fakes.photos) else "sample": fakes.names[i] if len(fakes.photos) else i,
                f"training_{real.side[:-1]}": real.rows[train_rows[memory.nearest[i]]].file,
                "distance": float(memory.distance[i]),
            }
            for i in memory.suspects
        ],
        "note": None if memory.ratio is not None else f"no held-out {real.side} to compare with",
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
    style: Translator, packs: list[Pack], split: str, nets: list[networks.Features], count: int
) -> list[str]:
    warnings, real = [], packs[-1]
    if split != "held_out":
        new = "pictures" if making.generates(style) else "photos"
        warnings.append(
            f"measured on the split {split!r}, as asked: training pictures say nothing about new {new}"
        )
    if not nets[0].comparable:
        warnings.append(f"feature network {nets[0].name!r}: not comparable with figures in the literature")
    if count < FID_NEEDS:
        warnings.append(
            f"FID of {count} pictures is biased upwards: compare it only with the same counts; trust KID"
        )
    for pack in packs:
        if pack.size < style.size:
            warnings.append(f"the {pack.side} were enlarged from {pack.size} to {style.size} px")
    trained_on = str(style.header.get("packs") or "")
    if trained_on and real.hash not in trained_on:
        warnings.append(
            f"the style was trained on another pack of {real.side}: it may have seen these, and memorisation is "
            f"measured against {real.side} it may not have seen"
        )
    return warnings


def _facts(style: Translator) -> dict[str, Any]:
    header = style.header
    kept = ("method", "step", "framing", "licence", "source", "through", "fewtoon")
    return {
        "size": style.size,
        "groups": list(style.groups),
        **{key: header[key] for key in kept if header.get(key) not in (None, "", [])},
    }


def _named(net: networks.Features) -> dict[str, Any]:
    return {"name": net.name, "hash": net.hash, "dim": net.dim, "comparable": net.comparable}

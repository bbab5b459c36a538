"""Find directions of a StyleGAN style, look at them, and keep those that mean something under a name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.latent import named
from fewtoon.latent.codes import of_seeds
from fewtoon.latent.direction import SAMPLES, Direction, layers_of, moments_of_w, moved, orthogonal
from fewtoon.latent.ganspace import ganspace, read_npz
from fewtoon.latent.labels import Fit, Labels, attribute_direction, read_by_judges, read_labels, sorted_labels
from fewtoon.latent.progress import bar
from fewtoon.latent.record import check_out, record
from fewtoon.latent.seeds import check_seeds, check_truncations, seeds_told
from fewtoon.latent.sefa import CONVENTIONS, Colours, Unit, read_factor, sefa
from fewtoon.latent.sheet import sheet, sheet_size
from fewtoon.latent.sources import Source, check_group, open_sources

__all__ = ["Direction", "How", "attribute_direction", "find", "ganspace", "moved", "sefa", "strengths_of"]

By = Literal["sefa", "ganspace", "labels"]
MOST_STEPS = 101
NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
JUDGED = 1000  # samples that readers see, by default
# field of How -> the finder that it belongs to, where it is one's alone
OPTIONS = {
    "convention": "sefa",
    "colours": "sefa",
    "unit": "sefa",
    "at": "ganspace",
    "labels": "labels",
    "having": "labels",
    "lacking": "labels",
    "pack": "labels",
    "table": "labels",
    "fit": "labels",
}


@dataclass(frozen=True)
class How:
    """How directions are found. None: the finder's default.

    by: SeFa (`sefa`), GANSpace (`ganspace`), or labels of samples (`attribute_direction`)
    layers: the style codes that are looked at by SeFa, and that move; as `layers_of` reads them
    file: a factor.pt or .npz of the published codes, read instead of finding anything
    convention, colours, unit: of SeFa, see there; convention "rosinality" is not normalised, with colours "first"
    at: of GANSpace, "w" or pixels
    samples: of GANSpace, and those that readers label
    labels, or having and lacking, or pack and table: see `read_labels`, `sorted_labels`, `read_by_judges`
    fit: of labels, "logistic" or "means"
    """

    by: By = "sefa"
    layers: str = "all"
    file: str | None = None
    convention: str | None = None
    colours: str | None = None
    unit: str | None = None
    at: str | None = None
    samples: int | None = None
    labels: str | None = None
    having: str | None = None
    lacking: str | None = None
    pack: str | None = None
    table: str | None = None
    fit: str | None = None

    def check(self) -> None:
        """Raises Problem for settings that say nothing together."""
        if self.by not in ("sefa", "ganspace", "labels"):
            raise Problem(f"--by {self.by}: sefa, ganspace or labels")
        for name, finder in OPTIONS.items():
            if getattr(self, name) is not None and finder != self.by:
                raise Problem(f"{_option(name)} {getattr(self, name)} is of --by {finder}, not of {self.by}")
        if self.samples is not None and (self.by == "sefa" or (self.by == "labels" and self.pack is None)):
            raise Problem(f"--samples {self.samples} is of --by ganspace, or of labels with --pack")
        if self.file is not None:
            if self.by == "labels":
                raise Problem(f"--from {self.file} is of --by sefa or ganspace")
            for name in ("convention", "colours", "at", "samples"):
                if getattr(self, name) is not None:
                    raise Problem(
                        f"{_option(name)} {getattr(self, name)} says how to find, but --from names what is found"
                    )
        if self.convention is not None and self.convention not in CONVENTIONS:
            raise Problem(f"--convention {self.convention}: {' or '.join(CONVENTIONS)}")
        if (self.having is None) != (self.lacking is None):
            raise Problem(
                "--with and --without go together: the samples that have it, and those that have it not"
            )
        ways = [self.labels, self.having, self.pack]
        if self.by == "labels" and sum(way is not None for way in ways) != 1:
            raise Problem("--by labels takes one of: --labels CSV, --with and --without, --pack PACK")
        if self.table is not None and self.pack is None:
            raise Problem(f"--table {self.table} says what the groups of a --pack mean: name the pack")

    def words(self) -> list[str]:
        """The same on the command line."""
        said = [(name, value) for name, value in asdict(self).items() if value is not None]
        return [f"{_option(name)}={value}" for name, value in said]


def _option(name: str) -> str:
    return "--" + {"having": "with", "lacking": "without", "file": "from"}.get(name, name)


def directions_of(
    source: Source,
    how: How,
    components: Sequence[int] | None = None,
    group: str | None = None,
    progress: bool = False,
) -> tuple[dict[str, Direction], list[str]]:
    """What a finder finds, by name: 'sefa-0', 'ganspace-3', or of labels the attribute; and notes.

    components: which of them; None: the first 8, of labels all. Raises Problem for what cannot be found.
    """
    how.check()
    style = source.style
    layers = layers_of(how.layers, style.size)
    if how.by == "labels":
        labelled, notes = _labels(source, how, group, progress)
        found: dict[str, Direction] = {}
        for one in labelled:
            name = _slug(one.name, found)
            w = of_seeds(source, one.seeds, group).w
            fit = cast(Fit, how.fit or "logistic")
            made = attribute_direction(style, w, one.truth, one.values, fit=fit, layers=layers, group=group)
            found[name] = replace(made, facts={**made.facts, "attribute": one.name, **one.facts})
            low, accuracy = made.facts["interval"][0], made.facts["accuracy"]
            if low <= 0.5:
                notes.append(
                    f"{name}: right about {accuracy:.0%} of unseen samples, which is not told from chance; label more"
                )
        if components is not None:
            _check_among(components, found)
            found = {name: one for k, (name, one) in enumerate(found.items()) if k in components}
        return found, notes

    chosen = list(range(8)) if components is None else list(components)
    if components is None:
        chosen = chosen[: source.method.generator.mapping.average.shape[0]]
    if how.by == "sefa":
        unit = cast(Unit, how.unit or "deviation")
        if how.file is not None:
            made_of = read_factor(style, how.file, chosen, layers=layers, unit=unit, group=group)
        else:
            normalised, colours = CONVENTIONS[how.convention or "official"]
            colours = cast(Colours, how.colours or colours)
            made_of = sefa(
                style, chosen, layers=layers, normalised=normalised, colours=colours, unit=unit, group=group
            )
    elif how.file is not None:
        made_of = read_npz(style, how.file, chosen, layers=layers)
    else:
        made_of = ganspace(
            style, chosen, at=_at(how.at), layers=layers, samples=how.samples, group=group, progress=progress
        )
    return {f"{how.by}-{k}": one for k, one in zip(chosen, made_of)}, []


def _labels(source: Source, how: How, group: str | None, progress: bool) -> tuple[list[Labels], list[str]]:
    if how.labels is not None:
        return [read_labels(how.labels)], []
    if how.pack is None:
        return [sorted_labels(str(how.having), str(how.lacking))], []
    samples = JUDGED if how.samples is None else how.samples
    return read_by_judges(source.style, how.pack, samples, table=how.table, group=group, progress=progress)


def _at(text: str | None) -> Literal["w"] | int:
    if text in (None, "w"):
        return "w"
    match = re.fullmatch(r"(\d{1,6})(px)?", str(text), flags=re.ASCII)
    if match is None:
        raise Problem(f"--at {text}: w, or pixels as 16px")
    return int(match[1])


def _slug(text: str, taken: Mapping[str, Any]) -> str:
    """A name for a file and a direction: what a person has called an attribute, without spaces and the like."""
    name = re.sub(r"[^\w-]+", "-", text).strip("-_")[:36]
    name = name if named.NAME.fullmatch(name) else f"is-{name}".strip("-")
    used = {"sheet", *(one.casefold() for one in taken)}  # sheet.png is of all
    return next(one for one in (name, *(f"{name}-{k}" for k in range(2, 99))) if one.casefold() not in used)


def _check_among(components: Sequence[int], found: Mapping[str, Any]) -> None:
    for component in components:
        if not 0 <= component < len(found):
            raise Problem(f"component {component}: there are 0 to {len(found) - 1}: {', '.join(found)}")


# --- the verb --------------------------------------------------------------------------------------------


def find(
    path: str | Path,
    out: str | Path,
    how: How,
    *,
    components: Sequence[int] | None = None,
    seeds: Sequence[int] = tuple(range(4)),
    strengths: tuple[float, float] = (-3.0, 3.0),
    steps: int = 7,
    truncation: float = 0.7,
    group: str | None = None,
    keep: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    replaced: bool = False,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Find directions of a style or run, and draw each at `steps` strengths, evenly from one to the other.

    components: see `directions_of`. keep: names of directions that are to stay as they are, the style's own or, of
    labels, found beside it: each direction loses its part along them (`orthogonal`). names: new name -> component,
    its number or the name it was found under, kept beside the style (`fewtoon.latent.named`).

    In `out`: sheet.png, the first seed, a row for each direction; NAME.png for each, a row for each seed;
    found.directions.safetensors, all of them, which `move` reads; latents.safetensors, the seeds' w before truncation;
    directions.json, the facts and the command. Returns what was written. Raises Problem for bad input, before
    anything is written.
    """
    out, seeds = Path(out), check_seeds(seeds)
    check_truncations([truncation])
    scale = strengths_of(strengths, steps)
    if scale[0] >= scale[-1]:
        raise Problem(f"strengths {strengths[0]:g}..{strengths[1]:g}: from a lower to a higher one, as -3..3")
    how.check()
    for name, which in (names or {}).items():
        named.check_name(name)
        asked = range(8) if components is None else components
        if which.isdecimal() and how.by != "labels" and int(which) not in asked:  # before long work
            raise Problem(
                f"component {which}, to be called {name!r}, is not among --components: name it there too"
            )
    (source,) = open_sources([path], device)
    check_out(out, "directions", [source.file])
    check_group([source.style], group)
    check_sheet([str(seed) for seed in seeds], source.style.size, steps)
    own = named.of_source(source)
    found, notes = directions_of(source, how, components, group, progress)
    found = {name: replace(one, range=(scale[0], scale[-1])) for name, one in found.items()}
    found = _keeping(source, found, own, keep, group)
    chosen = {new: _component(found, which) for new, which in (names or {}).items()}
    saved = named.merged(source, chosen, replaced) if chosen else None
    check_sheet(list(found), source.style.size, steps)

    codes = of_seeds(source, seeds, group)
    start = source.method.truncated(codes.w, truncation)
    titles = [f"{strength:+.3g}" if strength else "0" for strength in scale]
    first: dict[str, np.ndarray] = {}
    for name in bar(list(found), "directions", progress):
        rows = {
            told: draw(source, [moved(start[k : k + 1], found[name], s) for s in scale])
            for k, told in enumerate(codes.names)
        }
        first[_label(name, found[name])] = rows[codes.names[0]]
        images.save_png(out / f"{name}.png", sheet(rows, titles, steps))
    images.save_png(out / "sheet.png", sheet(first, titles, steps))
    named.save(out / named.FOUND, found)
    if saved is not None:
        named.save(named.place(source.file), saved)

    command = ["fewtoon", "explore", "directions", source.given, *how.words()]
    command += [] if components is None else ["--components", seeds_told(components)]
    command += [
        "--seeds",
        seeds_told(seeds),
        f"--strengths={scale[0]!r}..{scale[-1]!r}",
        "--steps",
        str(steps),
        f"--truncation={float(truncation)!r}",
    ]
    command += ["--group", group] if group is not None else []
    command += [word for name in keep for word in ("--keep", name)]
    command += [word for new, which in (names or {}).items() for word in ("--name", f"{new}={which}")]
    command += ["--replace"] * replaced + ["--device", str(source.style.device), "--out", str(out)]
    said = {name: {**one.facts, "unit": one.unit, "layers": list(one.layers)} for name, one in found.items()}
    facts = {
        "seeds": seeds,
        "strengths": scale,
        "truncation": truncation,
        "group": group,
        "how": asdict(how),
        "keep": list(keep),
        "directions": said,
        "named": dict(names or {}),
        "device": str(source.style.device),
    }
    record(
        out / "directions.json",
        out / "latents.safetensors",
        [source],
        command,
        facts,
        {f"{source.name}.w": codes.w},
    )
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png"),
        "directions": said,
        "found": str(out / named.FOUND),
        "named": {name: str(named.place(source.file)) for name in names or {}},
        "record": str(out / "directions.json"),
        "notes": notes,
    }


def names_of(pairs: Sequence[str], option: str = "--name") -> dict[str, str]:
    """['hair=3'] -> {'hair': '3'}. Raises Problem for anything else, and for a name that is given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, which = pair.partition("=")
        if not sign or not which:
            raise Problem(f"{option} {pair!r}: write the new name and what it is of, as hair=3")
        if name in found:
            raise Problem(f"{option} {name!r} is given twice: leave one out")
        found[named.check_name(name)] = which
    return found


def range_of(text: str, option: str = "--strengths", alone: bool = False) -> tuple[float, float]:
    """'-3..3' -> (-3.0, 3.0); alone: also '2' -> (2.0, 2.0). Raises Problem for anything else."""
    match = re.fullmatch(rf"\s*({NUMBER})\s*(?:\.\.\s*({NUMBER})\s*)?", text, flags=re.ASCII)
    if match is None or not (match[2] or alone):
        raise Problem(f"{option} {text!r}: write from which strength to which, as -3..3")
    return float(match[1]), float(match[2] or match[1])


def components_of(text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]. Raises Problem for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part, flags=re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise Problem(f"--components {text!r}: {part!r} is none; write 0-7 or 1,5,9")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def strengths_of(between: tuple[float, float], steps: int) -> list[float]:
    """`steps` strengths, evenly from one to the other. Raises Problem for numbers that will not do."""
    low, high = (float(one) for one in between)
    if not (abs(low) <= 1000 and abs(high) <= 1000):  # nan fails too
        raise Problem(f"strengths {low:g}..{high:g}: from -1000 to 1000; -3..3 is far already")
    if type(steps) is not int or not 2 <= steps <= MOST_STEPS:
        raise Problem(f"{steps!r} steps: from 2 to {MOST_STEPS}")
    return [low + (high - low) * k / (steps - 1) for k in range(steps)]


def check_sheet(labels: Sequence[str], size: int, columns: int) -> None:
    height, width = sheet_size(labels, size, columns, columns)
    if height * width > images.MAX_PIXELS:
        raise Problem(f"a sheet of {len(labels)} rows and {columns} columns is too large: take fewer")


def draw(source: Source, codes: Sequence[Tensor]) -> np.ndarray:
    """Style codes (1, codes, W) each -> (N, S, S, 3) uint8."""
    return np.concatenate([styles.to_pixels(source.style.synthesis(one)) for one in codes])


def _keeping(
    source: Source,
    found: Mapping[str, Direction],
    own: Mapping[str, Direction],
    keep: Sequence[str],
    group: str | None,
) -> dict[str, Direction]:
    """The directions without their parts along those called `keep`; these themselves as they were."""
    if not keep:
        return dict(found)
    known = {**own, **found}
    others = [named.pick(known, name, source.name) for name in keep]
    for name, other in zip(keep, others):
        named.check_fits(other, source, name)
    made, layers = {}, next(iter(found.values())).layers  # all move the same
    spread = moments_of_w(source.style, layers, group, SAMPLES).covariance
    for name, one in found.items():
        if name in keep:
            made[name] = one
            continue
        clean = orthogonal(one, others, spread)
        unit = one.unit if one.facts.get("strength_in") == "length" else clean.unit
        made[name] = replace(clean, unit=unit, facts={**one.facts, "orthogonal_to": list(keep)})
    return made


def _component(found: Mapping[str, Direction], which: str) -> Direction:
    """By the name it was found under, or by its number."""
    numbered = {str(one.facts.get("component", k)): name for k, (name, one) in enumerate(found.items())}
    name = numbered.get(which, which)
    return named.pick(found, name, "what was found")


def told(name: str, facts: Mapping[str, Any]) -> str:
    """A direction in a line."""
    parts = []
    if "share" in facts:
        parts.append(f"{facts['share']:.1%} of the {'eigenvalues' if facts['by'] == 'sefa' else 'variance'}")
    if "follows" in facts:
        parts.append(f"steps in w follow the component by {facts['follows']:.2f}")
    if "accuracy" in facts:
        low, high = facts["interval"]
        parts.append(
            f"from {facts['from']} to {facts['towards']}, right about {facts['accuracy']:.0%} of unseen samples "
            f"({low:.0%} to {high:.0%})"
        )
    if "file" in facts:
        parts.append(f"from {facts['file']}")
    parts.append(f"codes {seeds_told(facts['layers'])}, a unit is {facts['unit']:.3g}")
    return f"{name}: {'; '.join(parts)}"


def _label(name: str, direction: Direction) -> str:
    """With what one wants to know of it first."""
    facts = direction.facts
    if "accuracy" in facts:
        return f"{name} ({facts['accuracy']:.0%} right)"
    return f"{name} ({facts['share']:.1%})" if "share" in facts else name

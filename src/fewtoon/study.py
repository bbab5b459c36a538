"""The study: several presets under one budget, one table. Run again, it goes on.

runs/PRESET-SEED    an ordinary run each, with its report
plan.json           the budget, the steps that it came to, and the seconds that each training took
study.html, .json, .md
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import fewtoon
from fewtoon import config as configs
from fewtoon import device as devices
from fewtoon import methods, style
from fewtoon.config import Config
from fewtoon.data.pack import Pack
from fewtoon.engine import loop, preview
from fewtoon.engine.feed import Feed, group_names
from fewtoon.engine.progress import Watch
from fewtoon.engine.sampling import check_groups
from fewtoon.engine.train import train
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.io.files import file_hash, write_bytes
from fewtoon.metrics import fakes, rows, table
from fewtoon.metrics import features as networks
from fewtoon.metrics.attributes import Judges
from fewtoon.metrics.evaluate import SAMPLES, evaluate
from fewtoon.run import Run

SHOWN = 8  # faces, or random numbers, in the columns of pictures
PROBE = 0.05, 60.0  # share of a budget in minutes, and seconds at most, in which the speed is measured
BUDGETS = ("steps", "pictures", "minutes")
OF_THE_STUDY = {
    "steps": "--steps, --pictures or --minutes",
    "seed": "--seeds",
}  # settings that --set may not change


@dataclass(frozen=True)
class Entry:
    """A preset, perhaps varied, under the label that stands in the table."""

    label: str
    preset: str
    sets: tuple[str, ...]

    def folder(self, seed: int) -> str:
        """The name of its run."""
        return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', self.label).strip('-')}-{seed}"


def study(
    presets: Sequence[str],
    photos: Pack | str | Path | None = None,
    drawings: Pack | str | Path | None = None,
    out: str | Path = "study",
    *,
    steps: int | None = None,
    pictures: int | None = None,
    minutes: float | None = None,
    init: str | Path | None = None,
    sets: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    features: str | Sequence[str] = "tiny",
    samples: int = SAMPLES,
    weights: Literal["last", "best"] = "last",
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train each preset under the same budget, evaluate each, and write one table into the folder `out`.

    presets: shipped names or YAML files; "NAME:key=value,key=value" varies settings of one.
    photos, drawings: packs or their paths; None for a side that no preset learns from.
    steps, pictures, minutes: the budget of each training, exactly one of them, above 0. Pictures are those of a
        side: steps x batch. Minutes are those of the training steps alone: how many fit in is measured before the
        first training of a preset, and kept.
    init: a Style or run as first weights, for the presets whose method is of its family.
    sets: "key=value" on top of every preset. seeds: of the trainings, each >= 0.
    features, samples: as in `fewtoon.evaluate`. weights: which Style of a run is evaluated; the last one was not
        chosen by the pictures that it is measured on.
    The same call goes on where it stopped.

    Returns what study.json holds: {"budget", "rows", "untranslated" (where photos are translated), ...}. A row has
    "failed" instead of figures, or beside those of other seeds, where a training or evaluation raised Problem; the
    others go on. KID is x1000, `kid_x100` as in the literature; means over seeds, "spread" their deviation (n - 1).
    Raises Problem for what is wrong before anything is trained: an unknown preset, key or feature network, a pack
    that is missing, no budget or two, a folder of another study.
    """
    budget = _budget(steps=steps, pictures=pictures, minutes=minutes)
    seeds = _seeds(seeds)
    entries = _entries(presets)
    given = {"photos": photos, "drawings": drawings}
    if weights not in ("last", "best"):
        raise Problem(f"weights {weights!r}: 'last' or 'best'")
    if samples < 2:
        raise Problem(f"samples is {samples}: a distance needs at least 2 pictures")
    _not_of_the_study([*sets, *(item for entry in entries for item in entry.sets)])
    plans = {entry.label: configs.load(entry.preset, [*sets, *entry.sets]) for entry in entries}
    packs = _packs(plans, given)
    where = str(devices.pick(device))
    specs = [features] if isinstance(features, str) else list(features)
    nets = [networks.load(spec, where) for spec in specs]
    if not nets:
        raise Problem("no feature network given: name at least one, 'tiny' for instance")
    begins = _begins(plans, init)
    plan = Plan(Path(out), budget)

    job = _Job(
        plan,
        packs,
        list(sets),
        specs,
        [f"{net.name} {net.hash}" for net in nets],
        samples,
        weights,
        where,
        quiet,
    )
    made: list[dict[str, Any]] = []
    drawers: dict[str, tuple[Path, Config]] = {}
    untranslated = None
    for entry in entries:
        config, first = plans[entry.label], init if entry.label in begins else None
        kind = methods.find(config.method)
        row: dict[str, Any] = {
            "preset": entry.label,
            "method": config.method,
            "generates": kind.generates,
            "against": kind.sides(config.model)[-1],
            "init": str(first) if first is not None else None,
        }
        results: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for seed in seeds:
            try:
                settings = job.settings(entry, config, seed)
                facts, result = job.measured(settings, plan.runs / entry.folder(seed), seed, first)
            except Problem as problem:
                row.setdefault("failed", f"seed {seed}: {problem}" if len(seeds) > 1 else str(problem))
                continue
            if not results:
                drawers[entry.label] = (plan.runs / entry.folder(seed), settings)
            results.append((facts, result))
            if not kind.generates:
                untranslated = untranslated or result["untranslated"]["all"]
        made.append({**row, **(rows.row(results) if results else {})})
    grids = _pictures(drawers, job, made)

    result = {
        "budget": budget,
        "rows": made,
        **({"untranslated": rows.figures([untranslated])} if untranslated else {}),
        "features": {
            "name": nets[0].name,
            "hash": nets[0].hash,
            "dim": nets[0].dim,
            "comparable": nets[0].comparable,
        },
        "samples": samples,
        "weights": weights,
        "seeds": seeds,
        "sets": list(sets),
        "init": str(init) if init is not None else None,
        "packs": {side: pack.hash for side, pack in packs.items()},
        "device": where,
        "fewtoon": fewtoon.__version__,
        "notes": _notes(made, budget, begins, init, nets[0].comparable),
        "page": str(plan.folder / "study.html"),
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    write_bytes(plan.folder / "study.json", f"{text}\n".encode())
    write_bytes(plan.folder / "study.md", table.markdown(result).encode())
    write_bytes(plan.folder / "study.html", table.html(result, grids).encode())
    return result


# --- what was asked for ---------------------------------------------------------------------------------------


def _budget(**given: float | None) -> dict[str, float]:
    found = {name: amount for name, amount in given.items() if amount is not None}
    if len(found) != 1:
        told = " and ".join(f"{name} = {amount:g}" for name, amount in found.items()) or "none"
        raise Problem(f"the budget is {told}: name exactly one of {', '.join(BUDGETS)}")
    ((name, amount),) = found.items()
    if not (math.isfinite(amount) and amount > 0):
        raise Problem(f"{name} = {amount:g}: a training needs more than 0")
    return found


def _seeds(seeds: Sequence[int]) -> list[int]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise Problem(f"seeds {' '.join(map(str, seeds)) or 'none'}: name whole numbers from 0, each once")
    return list(seeds)


def _entries(presets: Sequence[str]) -> list[Entry]:
    """Raises Problem for none, and for two that would have one label or run folder."""
    found: dict[str, Entry] = {}
    for text in map(str, presets):
        varied = re.fullmatch(r"(.+?):([\w.]+=.*)", text)
        preset, changes = varied.groups() if varied else (text, "")
        sets = tuple(re.split(r",(?=[\w.]+=)", changes)) if changes else ()
        name = Path(preset).stem if Path(preset).suffix in (".yaml", ".yml") else preset
        entry = Entry(" ".join([name, *sets]), preset, sets)
        other = found.setdefault(entry.folder(0).lower(), entry)
        if other is not entry:
            raise Problem(f"{text!r} would share a run with {other.label!r}: name each preset once")
    if not found:
        raise Problem("no preset given: name at least one; 'fewtoon train --list' lists them")
    return list(found.values())


def _not_of_the_study(sets: Sequence[str]) -> None:
    for item in sets:
        name = item.partition("=")[0].removeprefix("train.")
        if name in OF_THE_STUDY:
            raise Problem(f"{item!r} is the same for all presets of a study: use {OF_THE_STUDY[name]}")


def _packs(plans: Mapping[str, Config], given: Mapping[str, Pack | str | Path | None]) -> dict[str, Pack]:
    """Those that any preset learns from, opened."""
    needs: dict[str, str] = {}
    for label, config in plans.items():
        for side in methods.find(config.method).sides(config.model):
            needs.setdefault(side, label)
    packs = {}
    for side in ("photos", "drawings"):
        one = given[side]
        if side not in needs:
            continue
        if one is None:
            raise Problem(f"{needs[side]} learns from {side}: name a pack with --{side}")
        packs[side] = one if isinstance(one, Pack) else Pack.open(one)
        if packs[side].side != side:
            raise Problem(f"the pack given as {side} was prepared as {packs[side].side}: swap them")
        if len(packs[side].where("held_out")) < 2:
            raise Problem(f"fewer than 2 held-out {side}: prepare the pack again with a larger --held-out")
    return packs


def _begins(plans: Mapping[str, Config], init: str | Path | None) -> list[str]:
    """Labels of the presets that start from `init`: those of a method of its family."""
    if init is None:
        return []
    path = Path(init)
    name = Run.open(path).config().get("method") if path.is_dir() else style.read_header(path)["method"]
    own = methods.find(str(name))
    kinds = {label: methods.find(config.method) for label, config in plans.items()}
    found = [label for label, kind in kinds.items() if issubclass(kind, own) or issubclass(own, kind)]
    if not found:
        raise Problem(f"init {str(init)!r} is of the method {own.name}, and no preset is: leave it out")
    return found


class Plan:
    """plan.json: the budget, what it came to in steps, and what each run took."""

    def __init__(self, folder: Path, budget: Mapping[str, float]) -> None:
        """Begin a study in `folder`, or go on. Raises Problem for a folder of something else."""
        self.folder, self.file, self.runs = folder, folder / "plan.json", folder / "runs"
        self.steps: dict[str, int] = {}  # label -> of a budget in minutes
        self.took: dict[str, dict[str, Any]] = {}  # name of a run -> seconds, peak_memory, evaluated
        try:
            if self.file.is_file():
                self._read(budget)
            elif folder.is_dir() and any(folder.iterdir()):
                raise Problem(
                    f"folder {str(folder)!r} holds something else than a study: choose another --out"
                )
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(f"cannot use {str(folder)!r} ({error.strerror}): choose another --out") from None
        self.budget = dict(budget)
        self.write()

    def _read(self, budget: Mapping[str, float]) -> None:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            begun, self.steps, self.took = (dict(found[key]) for key in ("budget", "steps", "runs"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Problem(f"{str(self.file)!r} is damaged ({error}): put it back, or delete it") from None
        if begun != budget:
            told = [f"{name} = {amount:g}" for one in (begun, budget) for name, amount in one.items()]
            raise Problem(
                f"this study was begun with {told[0]}, not {told[1]}: go on so, or choose another --out"
            )

    def write(self) -> None:
        plan = {"budget": self.budget, "steps": self.steps, "runs": self.took}
        write_bytes(self.file, f"{json.dumps(plan, indent=1)}\n".encode())


# --- training and measuring ---------------------------------------------------------------------------------------


@dataclass
class _Job:
    """What all trainings of a study share."""

    plan: Plan
    packs: dict[str, Pack]
    sets: list[str]
    features: list[str]
    hashes: list[str]
    samples: int
    weights: str
    device: str
    quiet: bool
    judges: Judges | None = None

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"fewtoon: {text}", file=sys.stderr, flush=True)

    def sides(self, config: Config) -> dict[str, Pack]:
        return {side: self.packs[side] for side in methods.find(config.method).sides(config.model)}

    def settings(self, entry: Entry, config: Config, seed: int) -> Config:
        """The config of one training, with the steps that the budget comes to."""
        ((kind, amount),) = self.plan.budget.items()
        if kind == "steps":
            steps = int(amount)
        elif kind == "pictures":
            steps = math.ceil(amount / config.train.batch)
        else:
            if entry.label not in self.plan.steps:
                seconds = 60 * amount
                speed = steps_per_second(
                    config, self.sides(config), self.device, min(PROBE[0] * seconds, PROBE[1])
                )
                self.plan.steps[entry.label] = max(1, int(speed * seconds))
                self.plan.write()
                told = f"{speed:.3g} steps per second, {self.plan.steps[entry.label]} in {amount:g} minutes"
                self.say(f"{entry.label}: {told}")
            steps = self.plan.steps[entry.label]
        return of_length(config, steps, seed, [*self.sets, *entry.sets])

    def measured(
        self, config: Config, out: Path, seed: int, init: str | Path | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train one run to its end and evaluate it, or as much of both as is not done: (facts, result)."""
        took = self.plan.took.setdefault(out.name, {"seconds": 0.0})
        run, sides = Run(out), self.sides(config)
        self.say(f"{out.name}: {config.train.steps} steps")
        self._train(config, run, init, took)
        path = run.last if self.weights == "last" else run.best
        drawer = style.load(path, self.device)
        facts = {
            "seed": seed,
            "run": str(out),
            "report": str(out / "report" / "report.html"),
            "steps": config.train.steps,
            "pictures": config.train.steps * config.train.batch,
            "seconds": round(took["seconds"], 1),
            **({"peak_memory": took["peak_memory"]} if "peak_memory" in took else {}),
            "parameters": _parameters(config, drawer),
        }
        about = [file_hash(path), self.hashes, self.samples, [pack.hash for pack in sides.values()]]
        key = hashlib.sha256(json.dumps([*about, fewtoon.__version__]).encode()).hexdigest()
        report = out / "report" / "report.json"
        if took.get("evaluated") == key and report.is_file():
            return facts, json.loads(report.read_text(encoding="utf-8"))
        result = evaluate(
            drawer,
            sides.get("photos"),
            sides.get("drawings"),
            features=self.features,
            out=out / "report",
            judges=None if fakes.generates(drawer) else self._judges(drawer),
            samples=self.samples,
            progress=not self.quiet,
        )
        took["evaluated"] = key
        self.plan.write()
        return facts, result

    def _train(self, config: Config, run: Run, init: str | Path | None, took: dict[str, Any]) -> None:
        done = _steps_of(run.last) >= config.train.steps
        sides = self.sides(config)
        cuda = self.device.startswith("cuda")
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.monotonic()
        try:  # also when it is done: that the settings are the same is checked there
            train(
                config,
                sides.get("photos"),
                sides.get("drawings"),
                run.path,
                init=init,
                device=self.device,
                track=(),
                quiet=self.quiet or done,
            )
        finally:
            if not done and run.started:
                took["seconds"] += time.monotonic() - began
                if cuda:
                    peak = torch.cuda.max_memory_allocated(self.device)
                    took["peak_memory"] = max(peak, took.get("peak_memory", 0))
                self.plan.write()

    def _judges(self, drawer: style.Style) -> Judges | None:
        """The readers of attributes, learned once for all."""
        photos, drawings = self.packs["photos"], self.packs["drawings"]
        if self.judges is None and photos.groups:
            self.judges = Judges.of_pack(drawings, None, 0, size=drawer.size, others=photos.groups)
        return self.judges


def of_length(config: Config, steps: int, seed: int = 0, sets: Sequence[str] = ()) -> Config:
    """`config` with so many steps, of which a first phase keeps its share, unless `sets` says how long it is."""
    name, share = _first_phase(config)
    model = config.model
    if share and not any(item.partition("=")[0].removeprefix("model.") == name for item in sets):
        model = model.model_copy(update={name: max(1, round(share * steps))})
    train = config.train.model_copy(update={"steps": steps, "seed": seed})
    return config.model_copy(update={"model": model, "train": train})


def steps_per_second(config: Config, packs: Mapping[str, Pack], device: str, seconds: float) -> float:
    """How fast a training of `config` is, without previews, held-out KIDs and saved states.

    packs: side -> pack, those that the method learns from. Takes about `seconds`, and at least one cycle of the
    phases that are not due in every step; a first phase and what comes after it are measured one by one, and count
    for their share of the steps. Nothing is kept of it. Raises Problem as `fewtoon.train` does.
    """
    name, share = _first_phase(config)
    if not share:
        return _speed(config, packs, device, seconds)
    lengths = (config.train.steps + 1, 1)  # nothing but the first phase; all but the first step beyond it
    parts = [config.model_copy(update={"model": config.model.model_copy(update={name: n})}) for n in lengths]
    first, later = (_speed(part, packs, device, seconds / 2) for part in parts)
    return 1 / (share / first + (1 - share) / later)


def _first_phase(config: Config) -> tuple[str, float]:
    """The setting that says how long a first phase is, and which share of the steps that is; 0 where there is none."""
    name = methods.find(config.method).first_steps
    length = getattr(config.model, name) if name else None
    return name, min(1.0, (length or 0) / config.train.steps)


def _speed(config: Config, packs: Mapping[str, Pack], device: str, seconds: float) -> float:
    """Steps per second of the steps at the beginning of a training, without its very first."""
    kind, where = methods.find(config.method), devices.pick(device)
    groups = group_names(list(packs.values()), config.train.groups)
    if kind.needs_groups:
        check_groups(list(packs.values()), groups, config.train)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True  # as in a training
    feed = Feed(packs.get("photos"), packs.get("drawings"), groups, config.train, where)
    trainee = Trainee(config, next(iter(packs.values())).size, groups, where)
    watch = Watch(config.train.steps, quiet=True)
    if config.train.compile:
        trainee.compile(watch.say)
    cycle = math.lcm(*(phase.every for phase in trainee.phases))
    step, began = 0, 0.0
    while True:
        loop.update(trainee, feed.batch(step, 0), watch)
        trainee.average.update(step)
        step += 1
        if step == 1:  # it was the slowest: memory was asked for, kernels were chosen
            began = time.monotonic()
        elif (step - 1) % cycle == 0 and time.monotonic() - began >= seconds:
            return (step - 1) / (time.monotonic() - began)


def _steps_of(path: Path) -> int:
    """Steps of a finished training, 0 where there is none."""
    try:
        return int(style.read_header(path).get("step") or 0)
    except (Problem, ValueError, TypeError):
        return 0


def _parameters(config: Config, drawer: style.Style) -> dict[str, int]:
    """Of the networks that draw, and of all that take part in a training, frozen ones too."""
    own = drawer.method
    taken_over = {name: getattr(own.config, name) for name in own.inherits}  # from first weights
    model = config.model.model_copy(update=taken_over)
    whole = type(own)(model, drawer.size, own.groups, training=True).networks()
    needed = {name: network for name, network in own.networks().items() if name not in own.optional}
    counts = {}
    for title, some in (("drawing", needed), ("all", whole)):
        each = {id(p): p.numel() for network in some.values() for p in network.parameters()}
        counts[title] = sum(each.values())
    return counts


# --- what is shown -------------------------------------------------------------------------------------------


def _pictures(
    drawers: Mapping[str, tuple[Path, Config]], job: _Job, made: Sequence[dict[str, Any]]
) -> dict[str, table.Grid]:
    """Drawings of the same held-out faces, and pictures of the same random numbers, a column per preset."""
    faces: table.Grid = {}
    numbers: table.Grid = {}
    generating = {row["preset"] for row in made if row["generates"]}
    for label, (out, config) in drawers.items():
        run = Run(out)
        drawer = style.load(run.last if job.weights == "last" else run.best, job.device)
        if label in generating:
            pack = list(job.sides(config).values())[-1]
            groups = [pack.rows[i].group for i in pack.where("held_out")]
            numbers[label] = fakes.of_numbers(drawer, SHOWN, 0, groups, None, _nothing).pictures
        else:
            photos = job.packs["photos"]
            held_out = photos.where("held_out")
            places = preview.choose([photos.rows[i].group for i in held_out], SHOWN, 0)
            drawn = fakes.of_photos(drawer, photos, held_out[places], None, _nothing)
            faces.setdefault("photo", drawn.photos)
            faces[label] = drawn.pictures
    return {"The same faces": faces, "The same random numbers": numbers}


def _nothing(count: int) -> None:
    """Pictures were made, and nobody waits."""


def _notes(
    made: Sequence[dict[str, Any]],
    budget: Mapping[str, float],
    begins: Sequence[str],
    init: str | Path | None,
    comparable: bool,
) -> list[str]:
    """What must be known to read the table."""
    told = []
    if not comparable:
        told.append("KID and FID are of features that nobody else uses: compare them within this table alone")
    kinds = {row["generates"] for row in made if "kid" in row}
    if len(kinds) > 1:
        told.append(
            "translations and pictures of random numbers differ in their count, and FID depends on that: across "
            "these two compare KID alone"
        )
    if len({row["against"] for row in made if "kid" in row}) > 1:
        told.append("some presets make drawings, others photos: their distances are not of the same thing")
    if "minutes" in budget:
        told.append(
            "minutes are those of the training steps, at the speed measured before the first training of each preset; "
            "previews, held-out KIDs and saved states come on top, and are in the seconds shown"
        )
    others = [row["preset"] for row in made if init is not None and row["preset"] not in begins]
    if others:
        told.append(f"without first weights, because their method is another one: {', '.join(others)}")
    return told

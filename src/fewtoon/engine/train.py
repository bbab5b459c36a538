"""Before and after the loop: everything is built and checked before anything is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from fewtoon import config as configs
from fewtoon import device as devices
from fewtoon import methods, style
from fewtoon.config import Config
from fewtoon.data.pack import Pack
from fewtoon.engine import guard, seed
from fewtoon.engine.checkpoint import States
from fewtoon.engine.feed import Feed, group_names
from fewtoon.engine.heldout import HeldOut
from fewtoon.engine.loop import loop, save_state
from fewtoon.engine.progress import Watch, duration
from fewtoon.engine.sampling import check_groups, left_out, richest
from fewtoon.engine.track import Trackers
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.run import Log, Run


def train(
    preset: str | Path | Config,
    photos: Pack | str | Path | None,
    drawings: Pack | str | Path | None,
    out: str | Path,
    sets: Sequence[str] = (),
    init: str | Path | None = None,
    device: str | None = None,
    track: str | Sequence[str] = ("tensorboard",),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train the method of `preset` on two packs in the run folder `out`, or continue the training there.

    preset: a shipped preset, a YAML file or a Config; sets: "key=value" on top of a preset.
    photos, drawings: packs, objects or paths; None for a side that the method does not learn from.
    init: a Style file or run folder whose networks are the first weights.
    device: "cpu", "cuda", "mps"; None: the best there is.
    track: names of trackers, see `fewtoon.engine.track`; "none" or (): none.

    Returns steps, best_kid (x1000), best_step, best (path), last (path), seconds (of this call), skipped,
    generates (whether the style makes pictures from random numbers) and out. Raises Problem for bad input, a run
    with other settings, a run that another process writes, numbers that stay non-finite, no memory, no disk;
    guard.Interrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM, with the state saved.
    """
    began = time.monotonic()
    config = _config(preset, sets)
    kind = methods.find(config.method)
    packs, unused = _packs({"photos": photos, "drawings": drawings}, kind.sides(config.model), config)
    groups = group_names(packs, config.train.groups)
    if kind.needs_groups:
        check_groups(packs, groups, config.train)
    config = _with_base(config, packs[-1], groups)
    where = _device(device)
    run = Run(out)
    config = _inherited(config, run, init)
    settings = config.dump()
    of_packs: dict[str, Any] = {str(pack.side): _pack_facts(pack) for pack in packs}
    with run.lock(), _memory_told(where), ExitStack() as at_the_end:
        run.check(settings, of_packs, init)
        run.clean()
        watch = Watch(config.train.steps, quiet)
        at_the_end.callback(watch.close)
        states = States(run.states)

        # All that bad input can break comes before the run is recorded: the corrected command then finds
        # the folder as it was.
        sides = {pack.side: pack for pack in packs}
        feed = Feed(sides.get("photos"), sides.get("drawings"), groups, config.train, where)
        trainee = Trainee(config, packs[0].size, groups, where)
        saved, first_weights = states.newest(watch.say), None
        if saved is None:
            first_weights = _first_weights(trainee, run, init)
            if first_weights is None and trainee.method.frozen():
                raise Problem(f"{_frozen(trainee)}: that takes first weights to keep; name them with --init")
            trainee.learn_first(feed.everything, watch.say)
        else:
            trainee.load(*saved)
        counters = trainee.counters
        if counters.step >= config.train.steps:
            asked = config.train.steps
            watch.say(
                f"{counters.step} steps are done and {asked} were asked for; raise train.steps to go on"
            )
            return _summary(run, trainee, began)
        held_out = HeldOut(packs, trainee.method, config.train, str(where), watch.say)
        if saved is not None:
            _measure_best_again(trainee, held_out, run, watch)
        trackers = Trackers(track, run.path, settings, counters.step)
        at_the_end.callback(trackers.close)

        run.record(settings, None if run.started else {"packs": of_packs, "init": first_weights})
        log = Log(run.log_file, counters.log_bytes)
        at_the_end.callback(log.close)
        warnings = [*unused, *_unlike(packs), *left_out(packs, config.train)]
        unaware = not (kind.generates or kind.needs_groups)
        if unaware and len(groups) > 1 and config.train.sampling == "proportional":
            warnings.append(
                f"the packs have {len(groups)} groups, of which this method knows nothing: small ones may lose what "
                "sets them apart; the preset 'groups' keeps it"
            )
        for line in (*warnings, *trainee.what_moves()):
            watch.say(line)
        if saved is None:
            save_state(trainee, states, log)  # what a rollback before the first saved state goes back to
        else:
            watch.say(f"continuing at step {counters.step}")
        if config.train.compile:
            trainee.compile(watch.say)
        facts = _style_facts(packs)
        watch.start(counters.step)
        with guard.StopRequest().listening() as stop:
            loop(trainee, feed, held_out, run, states, log, trackers, watch, stop, facts)
    summary = _summary(run, trainee, began)
    best, took = f"{summary['best_kid']:.2f} at step {summary['best_step']}", duration(summary["seconds"])
    watch.say(f"done: {config.train.steps} steps, {took} this time; best held-out KID {best}")
    return summary


def _config(preset: str | Path | Config, sets: Sequence[str]) -> Config:
    if not isinstance(preset, Config):
        return configs.load(preset, sets)
    if sets:
        raise Problem(f"sets {list(sets)!r} go with the name of a preset; change the Config itself instead")
    return preset


def _with_base(config: Config, drawings: Pack, groups: Sequence[str]) -> Config:
    """Where the method wants a rich group and none is named: the one with most training drawings."""
    if groups and getattr(config.model, "base", "") is None:
        model = config.model.model_copy(update={"base": richest(drawings, groups)})
        return config.model_copy(update={"model": model})
    return config


def _inherited(config: Config, run: Run, init: str | Path | None) -> Config:
    """With the settings that the method takes over from the first weights, unless the config names one of them."""
    names = methods.find(config.method).inherits
    if not names or config.model.model_fields_set & set(names):
        return config
    if run.started:
        before = run.config()
    elif init is None:
        return config
    elif Path(init).is_dir():
        before = Run.open(init).config()
    else:
        before = style.read_header(init)
    if before["method"] != config.method:
        return config
    shared = {name: before["model"][name] for name in names if name in before["model"]}
    model = configs.section(type(config.model), {**config.model.model_dump(), **shared}, "model")
    return config.model_copy(update={"model": model})


def _packs(
    given: dict[str, Pack | str | Path | None], sides: Sequence[str], config: Config
) -> tuple[list[Pack], list[str]]:
    """The packs that the method learns from, opened, photos first; and a line for one that it does not need."""
    opened, unused, framing = [], [], config.train.framing
    for side in sides:
        if given[side] is None:
            raise Problem(f"{config.method} learns from {' and '.join(sides)}: name a pack with --{side}")
    for side, one in given.items():
        if one is None:
            continue
        if side not in sides:
            if not isinstance(one, Pack):
                Pack.open(one)  # a wrong path is a mistake, needed or not
            unused.append(f"the {side} are not used: {config.method} learns from {' and '.join(sides)} alone")
            continue
        pack = one if isinstance(one, Pack) else Pack.open(one)
        if pack.side != side:
            raise Problem(
                f"the pack given as {side} was prepared as {pack.side}; swap them, or prepare it again"
            )
        opened.append(pack)
    sizes = [pack.size for pack in opened]
    if sizes[0] != sizes[-1]:
        raise Problem(f"photos of {sizes[0]} px and drawings of {sizes[1]} px; prepare both with one --size")
    framings = {pack.framing for pack in opened} - {"as-is"}
    if len(framings) > 1:
        raise Problem(
            f"photos framed {opened[0].framing!r} and drawings framed {opened[1].framing!r}; prepare both with one "
            "--framing"
        )
    if framing is not None and framings - {framing}:
        raise Problem(
            f"the packs are framed {framings.pop()!r} and this preset wants {framing!r}; prepare them with "
            f"--framing {framing}, or say --set train.framing=null"
        )
    return opened, unused


def _frozen(trainee: Trainee) -> str:
    """What the settings keep of the first weights, in words."""
    return ", ".join(f"{name}={getattr(trainee.config.model, name)}" for name in trainee.method.frozen())


def _unlike(packs: Sequence[Pack]) -> list[str]:
    """What is worth a warning: whatever differs between the two sides, the style will learn to change."""
    told: list[str] = []
    if len(packs) < 2:
        return told
    photos, drawings = packs
    if photos.framing != drawings.framing:
        told.append(f"photos are framed {photos.framing!r} and drawings {drawings.framing!r}")
    if (photos.whiten is None) != (drawings.whiten is None):
        side = photos.side if photos.whiten else drawings.side
        told.append(f"only the {side} were put before a white background")
    return [f"warning: {one}: unless both look alike all the same, prepare them alike" for one in told]


def _device(name: str | None) -> torch.device:
    """The device, set up so that the same run gives the same numbers."""
    device = devices.pick(name)
    # benchmark would choose kernels by a race, another one in every process: no exact resume.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return device


@contextmanager
def _memory_told(where: torch.device) -> Iterator[None]:
    """Raises Problem when the memory runs out where no smaller micro-batch could help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not guard.is_out_of_memory(error):
            raise
        raise Problem(
            f"out of memory on {where}; train at a smaller size or with a smaller model; the same command goes "
            "on from the last saved state"
        ) from error


def _first_weights(trainee: Trainee, run: Run, init: str | Path | None) -> dict[str, str] | None:
    """Load the first weights, of a run that begins, or of one that was recorded and never saved a state."""
    recorded = run.facts().get("init") if run.started else None
    if recorded is not None and init is None:
        init = recorded["path"]
    if init is None:
        return None
    found = trainee.begin_with(init)
    if recorded is not None and found["hash"] != recorded["hash"]:
        raise Problem(
            f"run {str(run.path)!r} was started from {recorded['path']!r}, and {str(init)!r} is not that file "
            "any more; put it back, or choose another --out"
        )
    return found


def _measure_best_again(trainee: Trainee, held_out: HeldOut, run: Run, watch: Watch) -> None:
    """Compare like with like: a best style that was chosen at other steps or with other held-out pictures.

    It may be better than the saved state knows (it was found after that, and those steps are not measured
    again), and its KID may be of other pictures. With unchanged settings nothing is done: the steps since the
    saved state are trained and measured again, exactly.
    """
    settings, counters = trainee.config.train, trainee.counters
    if not run.best.is_file():
        return
    try:
        header = style.read_header(run.best)
        keys = ("steps", "metric_every", "metric_pictures")
        before = header["config"]["train"]
        if [before[key] for key in keys] == [getattr(settings, key) for key in keys]:
            return
        best, step = style.load(run.best, str(trainee.device), settings.precision), int(header["step"])
    except (Problem, KeyError, TypeError, ValueError):
        watch.say(f"warning: {run.best.name} is damaged or of another training; the best is chosen anew")
        counters.best_kid = None
        return
    seed.everywhere(settings.seed, counters.attempt, step, "metric")
    counters.best_kid, counters.best_step = held_out.kid(best).value, step
    watch.say(f"held-out KID of the best style so far, of step {step}: {counters.best_kid:.2f}")


def _pack_facts(pack: Pack) -> dict[str, Any]:
    return {
        "path": str(pack.path) if pack.path else None,
        "hash": pack.hash,
        "size": pack.size,
        "framing": pack.framing,
        "training": len(pack.where(split="train")),
        "held_out": len(pack.where(split="held_out")),
    }


def _style_facts(packs: Sequence[Pack]) -> dict[str, Any]:
    """What a Style says of where it comes from; how faces lie, by the photos where there are some."""
    notes = {pack.side: sorted({row.note for row in pack.rows if row.note}) for pack in packs}
    return {
        "packs": {pack.side: pack.hash for pack in packs},
        "framing": packs[0].framing,
        "pad": packs[0].pad,
        "whiten": packs[0].whiten,
        "licence": {side: found for side, found in notes.items() if found} or None,
    }


def _summary(run: Run, trainee: Trainee, began: float) -> dict[str, Any]:
    counters = trainee.counters
    return {
        "out": str(run.path),
        "steps": counters.step,
        "best_kid": counters.best_kid,
        "best_step": counters.best_step,
        "best": str(run.best),
        "last": str(run.last),
        "skipped": counters.skipped,
        "generates": trainee.method.generates,
        "seconds": time.monotonic() - began,
    }

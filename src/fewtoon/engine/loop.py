"""The training loop, the only one.

    train   sets everything up, or picks up where the run was left
    loop    steps, logs, previews, held-out KID, states
    update  one step: the phases of the method

Batches and random numbers are functions of (seed, step), all state is in one object (`Trainee`), so a run
that was killed continues from its last saved state to exactly the bytes it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewtoon import config as configs
from fewtoon import device as devices
from fewtoon import style
from fewtoon.config import Config
from fewtoon.data.pack import Pack
from fewtoon.engine import guard, heldout, preview, seed
from fewtoon.engine.checkpoint import States
from fewtoon.engine.feed import Feed, group_names
from fewtoon.engine.heldout import HeldOut
from fewtoon.engine.progress import Watch, duration
from fewtoon.engine.track import Trackers
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Phase, Shared
from fewtoon.run import Log, Run


def train(
    preset: str | Path | Config,
    photos: Pack | str | Path,
    drawings: Pack | str | Path,
    out: str | Path,
    sets: Sequence[str] = (),
    init: str | Path | None = None,
    device: str | None = None,
    track: str | Sequence[str] = ("tensorboard",),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train the method of `preset` on two packs in the run folder `out`, or continue the training there.

    preset: a shipped preset, a YAML file or a Config; sets: "key=value" on top of a preset.
    init: a Style file or run folder whose networks are the first weights.
    device: "cpu", "cuda", "mps"; None: the best there is.
    track: names of trackers, see `fewtoon.engine.track`; "none" or (): none.

    Returns steps, best_kid (x1000), best_step, best (path), last (path), seconds (of this call), skipped and
    out. Raises Problem for bad input, a run with other settings, a run that another process writes, numbers
    that stay non-finite, no memory, no disk; guard.Interrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM,
    with the state saved.
    """
    began = time.monotonic()
    config = _config(preset, sets)
    photos, drawings = _packs(photos, drawings)
    where = _device(device)
    run = Run(out)
    settings = config.dump()
    packs: dict[str, Any] = {pack.side: _pack_facts(pack) for pack in (photos, drawings)}
    with run.lock(), _memory_told(where), ExitStack() as at_the_end:
        run.check(settings, packs, init)
        run.clean()
        watch = Watch(config.train.steps, quiet)
        at_the_end.callback(watch.close)
        states = States(run.states)

        # All that bad input can break comes before the run is recorded: the corrected command then finds
        # the folder as it was.
        groups = group_names(photos, drawings, config.train.groups)
        feed = Feed(photos, drawings, groups, config.train, where)
        trainee = Trainee(config, photos.size, groups, where)
        saved, first_weights = states.newest(watch.say), None
        if saved is None:
            first_weights = _first_weights(trainee, run, init)
        else:
            trainee.load(*saved)
        counters = trainee.counters
        if counters.step >= config.train.steps:
            run.record(settings)
            watch.say(f"this run is finished: {counters.step} steps are done; raise train.steps to go on")
            return _summary(run, trainee, began)
        held_out = HeldOut(photos, drawings, config.train, str(where), watch.say)
        if saved is not None:
            _measure_best_again(trainee, held_out, run, watch)
        trackers = Trackers(track, run.path, settings, counters.step)
        at_the_end.callback(trackers.close)

        run.record(settings, None if run.started else {"packs": packs, "init": first_weights})
        log = Log(run.log_file, counters.log_bytes)
        at_the_end.callback(log.close)
        for line in trainee.what_moves():
            watch.say(line)
        if saved is None:
            _save(trainee, states, log)  # what a rollback before the first saved state goes back to
        else:
            watch.say(f"continuing at step {counters.step}")
        if config.train.compile:
            trainee.compile(watch.say)
        facts = _style_facts(photos, drawings)
        watch.start(counters.step)
        with guard.StopRequest().listening() as stop:
            loop(trainee, feed, held_out, run, states, log, trackers, watch, stop, facts)
    summary = _summary(run, trainee, began)
    best, took = f"{summary['best_kid']:.2f} at step {summary['best_step']}", duration(summary["seconds"])
    watch.say(f"done: {config.train.steps} steps, {took} this time; best held-out KID {best}")
    return summary


def loop(
    trainee: Trainee,
    feed: Feed,
    held_out: HeldOut,
    run: Run,
    states: States,
    log: Log,
    trackers: Trackers,
    watch: Watch,
    stop: guard.StopRequest,
    facts: dict[str, Any],
) -> None:
    """Step until `train.steps`. Whatever a cadence asks for happens after the step and before the state is
    saved: a state at step N holds the log, the best KID and the counters as they are after step N."""
    settings = trainee.config.train
    while trainee.counters.step < settings.steps:
        counters = trainee.counters
        rate = rate_factor(counters.step, settings.steps, settings.decay_from)
        trainee.set_rate(rate)
        result = update(trainee, feed.batch(counters.step, counters.attempt), watch)
        counters.step += 1
        step, last = counters.step, counters.step == settings.steps

        if result.bad:
            counters.skipped += len(result.bad)
            counters.bad_in_a_row += 1
            log.write({"step": step, "event": "skipped", "phases": result.bad})
            if counters.bad_in_a_row >= guard.BAD_STEPS:
                roll_back(trainee, states, log, watch, result.bad)
                continue
        else:
            counters.bad_in_a_row = 0
            trainee.average.update(step - 1)
        for name, value in result.values.items():
            total = counters.sums.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + value, total[1] + 1

        if step % settings.log_every == 0 or last:
            means = {name: total / count for name, (total, count) in counters.sums.items()}
            log.write({"step": step, "rate": rate, **means, "skipped": counters.skipped})
            trackers.scalars(step, {"rate": rate, **means, "skipped": counters.skipped, "speed": watch.speed})
            counters.sums = {}

        if step % settings.preview_every == 0 or last:
            seed.everywhere(settings.seed, counters.attempt, step, "preview")
            shown = preview.columns(trainee, held_out.shown)
            grid = preview.save(run.previews / f"step-{step:08d}.png", shown)
            trackers.image(step, "preview", grid)
            drawn = style.to_pixels(trainee.artist.translate(style.to_tensor(held_out.shown)))
            health = heldout.health(step, held_out.shown, drawn)
            log.write({"step": step, **health._asdict()})
            watch.say(f"step {step}: health: {health.health}")

        if step % settings.metric_every == 0 or last:
            seed.everywhere(settings.seed, counters.attempt, step, "metric")
            kid = held_out.kid(trainee.artist)
            metrics = {"kid": kid.value, "kid_low": kid.low, "kid_high": kid.high}
            if counters.best_kid is None or kid.value < counters.best_kid:
                counters.best_kid, counters.best_step = kid.value, step
                _write_style(run.best, trainee, held_out, facts, kid)
            log.write({"step": step, **metrics, "best": counters.best_kid})
            trackers.scalars(step, {"kid": kid.value, "best": counters.best_kid})
            watch.say(f"step {step}: held-out KID {kid.value:.2f}, best {counters.best_kid:.2f}")
            if last:
                _write_style(run.last, trainee, held_out, facts, kid)

        watch.step(step, result.totals)
        if step % settings.state_every == 0 or last or stop:
            saved = _save(trainee, states, log)
            if stop and not last:
                told = f"saved at step {step}" if saved else "with bad numbers, so the state before is kept"
                watch.say(f"stopped by {stop.name}, {told}; the same command goes on")
                raise guard.Interrupted(f"stopped by {stop.name} at step {step}")


class Result(NamedTuple):
    """What one step gave."""

    values: dict[str, float]  # 'PHASE/LOSS', 'gradient/PHASE'; only of phases that moved something
    totals: dict[str, float]  # phase -> weighted sum of its losses
    bad: dict[str, str]  # phase -> what was not finite in it


def update(trainee: Trainee, batch: Batch, watch: Watch) -> Result:
    """One step: every phase that is due, in order.

    With the whole batch at once, `shared` lives through all phases, so the fakes that D judged are the fakes
    that G learns from, with their graph. With micro-batches every phase starts with an empty one.
    """
    counters, step = trainee.counters, batch.step
    due = [phase for phase in trainee.phases if step % phase.every == 0]
    result = Result({}, {}, {})
    shared = Shared(kept=counters.micro_batch == len(batch.photos))
    for place, phase in enumerate(due):
        while True:
            # Gradients flow to what this phase moves and, through a kept graph, to what later phases move.
            later = {other.optimizer for other in due[place + 1 :]} if shared.kept else set()
            trainee.ask_for_gradients({phase.optimizer} | later)
            seed.everywhere(trainee.config.train.seed, counters.attempt, step, f"phase/{phase.name}")
            try:
                losses = accumulate(trainee, phase, batch, shared)
                break
            except (RuntimeError, MemoryError) as error:
                if not guard.is_out_of_memory(error):
                    raise
            # Here, outside of the except block, nothing holds the tensors of the failed attempt any more.
            shared = Shared(kept=False)
            _use_less_memory(trainee, phase, batch, watch)
        optimizer = trainee.optimizers[phase.optimizer]
        gradients = [p.grad for p in trainee.moving[phase.optimizer] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        numbers = torch.stack([*losses.values(), norm.float()]).tolist()  # the one wait for a GPU
        named = dict(zip([*losses, "gradient"], numbers))
        wrong = [name for name, value in named.items() if not abs(value) < float("inf")]
        if wrong:
            result.bad[phase.name] = wrong[0]
        else:
            optimizer.step()
            trainee.method.after_step(phase.name)
            gradient = named.pop("gradient")
            result.totals[phase.name] = sum(
                phase.weights.get(name, 1) * value for name, value in named.items()
            )
            result.values.update({f"{phase.name}/{name}": value for name, value in named.items()})
            result.values[f"gradient/{phase.name}"] = gradient
        optimizer.zero_grad(set_to_none=True)
    return result


def accumulate(trainee: Trainee, phase: Phase, batch: Batch, shared: Shared) -> dict[str, Tensor]:
    """Gradients of a phase over the batch, micro-batch by micro-batch; returns the mean of each loss."""
    for optimizer in trainee.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    size = trainee.counters.micro_batch
    parts = len(batch.photos) // size
    means: dict[str, Tensor] = {}
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        some = Batch(
            batch.photos[rows],
            batch.drawings[rows],
            batch.photo_groups[rows],
            batch.drawing_groups[rows],
            batch.step,
        )
        if not shared.kept:
            shared = Shared(kept=False)
        with trainee.autocast():
            losses = phase.losses(some, shared)
        total = torch.stack([phase.weights.get(k, 1) * loss.float() for k, loss in losses.items()]).sum()
        (total / parts).backward()
        for name, loss in losses.items():
            means[name] = means.get(name, 0) + loss.detach().float() / parts
    return means


def rate_factor(step: int, steps: int, decay_from: float) -> float:
    """What the learning rates are multiplied by: 1, then falling linearly to 0 at `steps`."""
    start = decay_from * steps
    return 1.0 if step < start or start >= steps else (steps - step) / (steps - start)


def roll_back(trainee: Trainee, states: States, log: Log, watch: Watch, bad: dict[str, str]) -> None:
    """Back to the last good state, with other random numbers from there. Raises Problem the fourth time."""
    now = trainee.counters
    phase, name = next(iter(bad.items()))
    what = "gradient" if name == "gradient" else f"loss {name!r}"
    told = (
        f"{what} of phase {phase!r} was not finite in {guard.BAD_STEPS} steps in a row, up to step {now.step}"
    )
    if now.attempt >= guard.ROLLBACKS:
        other = "" if trainee.config.train.precision == "fp32" else ", or use train.precision=fp32"
        raise Problem(f"{told}, for the {now.attempt + 1}th time; lower the learning rate{other}")
    saved = states.newest(watch.say)
    if saved is None:
        raise Problem(f"{told}, and the saved states are gone; start again with another --out")
    trainee.load(*saved)
    log.truncate(trainee.counters.log_bytes)
    trainee.counters.attempt = now.attempt + 1
    trainee.counters.skipped, trainee.counters.micro_batch = now.skipped, now.micro_batch
    trainee.counters.best_kid, trainee.counters.best_step = now.best_kid, now.best_step  # the file is there
    log.write({"step": trainee.counters.step, "event": "rolled back", "from": now.step, "because": told})
    watch.say(f"{told}: back to step {trainee.counters.step} with other random numbers")


def _use_less_memory(trainee: Trainee, phase: Phase, batch: Batch, watch: Watch) -> None:
    counters = trainee.counters
    if counters.micro_batch == 1:
        raise Problem(
            f"out of memory in phase {phase.name!r} with one picture at a time; train at a smaller size, "
            "with a smaller model (see the preset), or with train.precision=bf16"
        )
    counters.micro_batch = guard.smaller_micro_batch(len(batch.photos), counters.micro_batch)
    for optimizer in trainee.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    if trainee.device.type == "cuda":
        torch.cuda.empty_cache()
    watch.say(
        f"out of memory in phase {phase.name!r}: from here on {counters.micro_batch} of {len(batch.photos)} "
        "pictures at once, with the same effect"
    )


def _save(trainee: Trainee, states: States, log: Log) -> bool:
    """Save the state, unless its numbers are bad: then the one before stays the last good one."""
    counters, tensors = trainee.counters, trainee.tensors()
    going_bad = counters.bad_in_a_row > 0 and counters.step < trainee.config.train.steps
    if going_bad or not guard.finite(tensors):
        return False
    counters.log_bytes = log.sync()
    states.save(counters.step, tensors, trainee.facts(), trainee.config.train.keep_states)
    return True


# --- before and after -------------------------------------------------------------------------------------


def _config(preset: str | Path | Config, sets: Sequence[str]) -> Config:
    if not isinstance(preset, Config):
        return configs.load(preset, sets)
    if sets:
        raise Problem(f"sets {list(sets)!r} go with the name of a preset; change the Config itself instead")
    return preset


def _packs(photos: Pack | str | Path, drawings: Pack | str | Path) -> tuple[Pack, Pack]:
    opened = [pack if isinstance(pack, Pack) else Pack.open(pack) for pack in (photos, drawings)]
    for pack, side in zip(opened, ("photos", "drawings")):
        if pack.side != side:
            raise Problem(
                f"the pack given as {side} was prepared as {pack.side}; swap them, or prepare it again"
            )
    sizes = [pack.size for pack in opened]
    if sizes[0] != sizes[1]:
        raise Problem(f"photos of {sizes[0]} px and drawings of {sizes[1]} px; prepare both with one --size")
    return opened[0], opened[1]


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


def _style_facts(photos: Pack, drawings: Pack) -> dict[str, Any]:
    """What a Style says of where it comes from."""
    packs = (photos, drawings)
    notes = {pack.side: sorted({row.note for row in pack.rows if row.note}) for pack in packs}
    return {
        "packs": {pack.side: pack.hash for pack in packs},
        "framing": photos.framing,
        "licence": {side: found for side, found in notes.items() if found} or None,
    }


def _write_style(path: Path, trainee: Trainee, held_out: HeldOut, facts: dict[str, Any], kid: Any) -> None:
    metrics = {
        "kid": kid.value,
        "kid_interval": [kid.low, kid.high] if kid.low == kid.low else None,
        "n_real": kid.n_real,
        "n_fake": kid.n_fake,
        **held_out.protocol,
    }
    step = trainee.counters.step
    everything = {**facts, "step": step, "config": trainee.config.dump(), "metrics": metrics}
    style.write(path, trainee.artist.method, everything)


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
        "seconds": time.monotonic() - began,
    }

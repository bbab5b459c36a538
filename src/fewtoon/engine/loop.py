"""The training loop, the only one.

    loop    steps, logs, previews, held-out KID, states
    update  one step: the phases of the method

Batches and random numbers are functions of (seed, step), all state is in one object (`Trainee`), so a run
that was killed continues from its last saved state to exactly the bytes it would have had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewtoon import style
from fewtoon.config import portable
from fewtoon.engine import guard, preview, seed
from fewtoon.engine.checkpoint import States
from fewtoon.engine.feed import Feed
from fewtoon.engine.heldout import HeldOut
from fewtoon.engine.progress import Watch
from fewtoon.engine.track import Trackers
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Phase, Shared
from fewtoon.run import Log, Run


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
            means |= {**trainee.method.numbers(), "skipped": counters.skipped}
            seen = {"visits": feed.visits(step)} if feed.groups else {}
            log.write({"step": step, "rate": rate, **means, **seen})
            trackers.scalars(step, {"rate": rate, **means, "speed": watch.speed})
            counters.sums = {}

        if step % settings.preview_every == 0 or last:
            seed.everywhere(settings.seed, counters.attempt, step, "preview")
            shown = preview.columns(trainee, held_out.shown)
            grid = preview.save(run.previews / f"step-{step:08d}.png", shown)
            trackers.image(step, "preview", grid)
            health = held_out.health(step, shown["drawing"])
            log.write({"step": step, **health._asdict()})
            watch.say(f"step {step}: health: {health.health}")

        if step % settings.metric_every == 0 or last:
            seed.everywhere(settings.seed, counters.attempt, step, "metric")
            kid = held_out.kid(trainee.artist)
            metrics = {"kid": kid.value, "kid_low": kid.low, "kid_high": kid.high}
            if counters.best_kid is None or kid.value < counters.best_kid:
                counters.best_kid, counters.best_step = kid.value, step
                write_style(run.best, trainee, held_out, facts, kid)
            log.write({"step": step, **metrics, "best": counters.best_kid})
            trackers.scalars(step, {"kid": kid.value, "best": counters.best_kid})
            watch.say(f"step {step}: held-out KID {kid.value:.2f}, best {counters.best_kid:.2f}")
            if last:
                write_style(run.last, trainee, held_out, facts, kid)

        watch.step(step, result.totals)
        if step % settings.state_every == 0 or last or stop:
            saved = save_state(trainee, states, log)
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
    shared = Shared(kept=counters.micro_batch == batch.size)
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
        norm = norm.to(trainee.device, torch.float32)  # of no gradients at all it is on the CPU
        numbers = torch.stack([*losses.values(), norm]).tolist()  # the one wait for a GPU
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
    parts = batch.size // size
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
    counters.micro_batch = guard.smaller_micro_batch(batch.size, counters.micro_batch)
    for optimizer in trainee.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    if trainee.device.type == "cuda":
        torch.cuda.empty_cache()
    watch.say(
        f"out of memory in phase {phase.name!r}: from here on {counters.micro_batch} of {batch.size} "
        "pictures at once, with the same effect"
    )


def save_state(trainee: Trainee, states: States, log: Log) -> bool:
    """Save the state, unless its numbers are bad: then the one before stays the last good one."""
    counters, tensors = trainee.counters, trainee.tensors()
    going_bad = counters.bad_in_a_row > 0 and counters.step < trainee.config.train.steps
    if going_bad or not guard.finite(tensors):
        return False
    counters.log_bytes = log.sync()
    states.save(counters.step, tensors, trainee.facts(), trainee.config.train.keep_states)
    return True


def write_style(path: Path, trainee: Trainee, held_out: HeldOut, facts: dict[str, Any], kid: Any) -> None:
    metrics = {
        "kid": kid.value,
        "kid_interval": [kid.low, kid.high] if kid.low == kid.low else None,
        "n_real": kid.n_real,
        "n_fake": kid.n_fake,
        **held_out.protocol,
    }
    step = trainee.counters.step
    config = {**trainee.config.dump(), "model": portable(trainee.config.model)}
    everything = {**facts, "step": step, "config": config, "metrics": metrics}
    style.write(path, trainee.artist.method, everything)

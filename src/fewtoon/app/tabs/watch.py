"""Watch: trainings, running and finished; stopped, resumed and compared."""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from fewtoon.app import look
from fewtoon.app.curves import Points, chart
from fewtoon.app.shelf import Shelf
from fewtoon.app.trainings import Seen, Training
from fewtoon.engine.progress import duration
from fewtoon.errors import Problem
from fewtoon.io.files import printable

TITLE = "Watch"
SECONDS = 5.0  # between two looks
DIGITS = 30  # of a number of steps
AT_ONCE = 8  # runs in one comparison, losses in one picture
MOST_BYTES = 20_000_000  # of a preview
KID = "held-out KID"
STATES = {"running": "runs", "starting": "starts", "finished": "is finished", "stopped": "is stopped"}

CSS = """
.legend span { margin-right: 1.1em; white-space: nowrap; }
.preview { max-width: 40rem; }
@media (max-width: 36rem) { .sheet svg text { font-size: 20px; } }
.legend .key { border-radius: .2em; margin: 0 .35em 0 0; }
"""


def build(shelf: Shelf) -> None:
    names = shelf.names("run")
    if not names:
        gr.HTML(
            look.sheet(
                "<p>Here trainings are watched. Name their folders: <code>fewtoon serve runs/first</code>.</p>"
            )
        )
        return
    tower = Tower(shelf)
    run = gr.Dropdown(names, value=names[0], label="Training")
    facts = gr.HTML()
    with gr.Row():
        stop = gr.Button("Stop")
        resume = gr.Button("Resume", variant="primary")
        until = gr.Textbox(label="until step", placeholder="as it was asked for", max_length=DIGITS)
    kid = gr.HTML()
    chosen = gr.Dropdown([], value=[], multiselect=True, label="Losses")
    log = gr.Checkbox(False, label="logarithmic")
    losses = gr.HTML()
    number = gr.Slider(1, 2, value=1, step=1, label="Preview", interactive=True)
    preview = gr.HTML()
    with gr.Accordion("Compare trainings", open=False):
        several = gr.Dropdown(names, value=[], multiselect=True, max_choices=AT_ONCE, label="Trainings")
        what = gr.Dropdown([KID], value=KID, label="What")
        compared = gr.HTML()

    # The clock reads these alone: a widget may hold what belongs to the training that was chosen before.
    asked = gr.State(Asked(names[0]))
    latest = gr.State(())  # what the page shows, so that nothing is drawn twice
    all_of = [facts, kid, chosen, losses, number, preview, stop, resume, latest]
    gr.on(None, functools.partial(tower.choose, names[0]), None, [log, until, asked, *all_of], **look.LIVE)
    run.input(tower.choose, run, [log, until, asked, *all_of], **look.LIVE)
    gr.Timer(SECONDS).tick(tower.tick, [asked, latest], all_of, **look.QUIET)
    for widget in (chosen, log):
        widget.input(tower.choose_losses, [asked, chosen, log], [losses, asked], **look.LIVE)
    number.input(tower.choose_preview, [asked, number, latest], [preview, asked], **look.LIVE)
    stop.click(tower.stop, run, facts, **look.QUIET)
    resume.click(tower.resume, [run, until], facts, **look.QUIET)
    several.input(tower.choose_several, [several, what, log], [what, compared], **look.LIVE)
    what.input(tower.compare, [several, what, log], compared, **look.LIVE)


@dataclass(frozen=True)
class Asked:
    """What somebody wants to see. losses: None: the first ones. number: of the preview; None: always the latest."""

    name: str
    losses: tuple[str, ...] | None = None
    log: bool = False
    number: int | None = None


class Tower:
    """Everything there is to be seen, as HTML."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._trainings: dict[str, Training] = {}  # no more than the shelf has
        self._lock = threading.RLock()

    def _training(self, name: str) -> Training:
        if not isinstance(name, str):
            raise Problem("choose a training")
        with self._lock:
            if name not in self._trainings:
                self._trainings[name] = Training(self.shelf.path("run", name), name)
            return self._trainings[name]

    def _look(self, name: str) -> tuple[Training, Seen]:
        with self._lock:
            training = self._training(name)
            return training, training.look()

    # --- one training ------------------------------------------------------------------------------------

    def facts(self, name: str) -> str:
        """Cards, and a sentence where something is wrong."""
        return self._facts(self._look(name)[1])

    def _facts(self, seen: Seen) -> str:
        wrong = look.note(self.shelf.said(f"The training ended: {seen.error}")) if seen.error else ""
        return _cards(seen) + wrong

    def choices(self, name: str) -> list[str]:
        """The losses of a training."""
        return list(self._look(name)[0].losses())

    def losses(self, name: str, chosen: Sequence[str], log: bool) -> str:
        return _losses(self._look(name)[0].losses(), chosen, log)

    def choose(self, name: str) -> tuple[Any, ...]:
        """All of a training, its first losses and its latest preview."""
        asked = Asked(name)
        return False, "", asked, *self.tick(asked, ())

    def tick(self, asked: Asked, latest: tuple[Any, ...]) -> tuple[Any, ...]:
        """All that is asked for, but nothing where nothing has changed."""
        try:
            training, seen = self._look(asked.name)
            previews = training.previews()
        except Problem as problem:  # one that is damaged does not keep the others from being seen
            told = look.note(self.shelf.said(problem))
            none = gr.update(choices=[], value=[])
            return told, "", none, "", gr.skip(), "", *[gr.update(interactive=False)] * 2, ()
        count = len(previews)
        now = (seen.state, seen.step, seen.best, seen.health, seen.error, count)
        if now == tuple(latest):
            return (gr.skip(),) * 9
        found = training.losses()
        losses = list(found)[:AT_ONCE] if asked.losses is None else list(asked.losses)
        slider = gr.update(maximum=max(2, count))
        if asked.number is None:
            slider["value"] = max(1, count)
        runs = seen.state in ("running", "starting")
        return (
            self._facts(seen),
            _kid(training),
            gr.update(choices=list(found), value=losses),
            _losses(found, losses, asked.log),
            slider,
            _preview(previews, count) if asked.number is None else gr.skip(),
            gr.update(interactive=runs),
            gr.update(interactive=not runs),
            now,
        )

    def choose_losses(self, asked: Asked, losses: list[str] | None, log: bool) -> tuple[str, Asked]:
        names = tuple(losses or ())[:AT_ONCE]
        return self.losses(asked.name, names, log), replace(asked, losses=names, log=bool(log))

    def choose_preview(self, asked: Asked, number: float, latest: tuple[Any, ...] = ()) -> tuple[str, Asked]:
        """Another preview; the last one that the page knows of is followed by newer ones."""
        number = _whole(number)
        previews = self._training(asked.name).previews()
        known = min(latest[-1], len(previews)) if latest else len(previews)
        if number >= known:
            return _preview(previews, len(previews)), replace(asked, number=None)
        return _preview(previews, number), replace(asked, number=number)

    def stop(self, name: str) -> str:
        self._training(name).stop()
        gr.Info("It finishes its step, saves and ends.", title="")
        return self.facts(name)

    def resume(self, name: str, until: str) -> str:
        text = str(until or "").replace(",", "").strip()
        if text and not re.fullmatch(rf"-?[0-9]{{1,{DIGITS}}}", text):
            raise Problem(f"until step {printable(text)[:20]!r}: a whole number, or nothing")
        with self._lock:
            packs = [self.shelf.path("pack", pack) for pack in self.shelf.names("pack")]
            self._training(name).resume(packs, int(text) if text else None, self.shelf.device)
        gr.Info("It starts: the first sign of it takes some seconds.", title="")
        return self.facts(name)

    # --- several -----------------------------------------------------------------------------------------

    def choose_several(self, names: list[str] | None, what: str, log: bool) -> tuple[Any, str]:
        """The losses that can be compared, and the comparison."""
        chosen, what = list(names or ())[:AT_ONCE], str(what)
        losses = dict.fromkeys(loss for name in chosen for loss in self.choices(name))
        return gr.update(choices=list(dict.fromkeys([KID, *losses, what]))), self.compare(chosen, what, log)

    def compare(self, names: Sequence[str], what: str, log: bool) -> str:
        """One curve for each training, and a table."""
        names, what = list(names or ())[:AT_ONCE], str(what)  # whatever a client has sent
        if not names:
            return look.sheet('<p class="soft">Choose two or more.</p>')
        found = {name: self._look(name) for name in names}
        if what == KID:
            lines = {name: training.kid()[0] for name, (training, _) in found.items()}
        else:
            lines = {name: training.losses().get(what, []) for name, (training, _) in found.items()}
        rows = "".join(
            f"<tr><td>{escape(seen.name)}</td><td>{escape(seen.method)}</td><td>{escape(seen.state)}</td>"
            f'<td class="number">{seen.step:,} of {seen.steps:,}</td>'
            f'<td class="number">{f"{seen.best[0]:.1f}" if seen.best else "-"}</td></tr>'
            for _, seen in found.values()
        )
        head = "<th>training</th><th>method</th><th>state</th><th class=number>step</th><th class=number>best KID</th>"
        table = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
        return look.sheet(chart(lines, title=what[:80], log=bool(log)) + table)


# --- HTML ---------------------------------------------------------------------------------------------------


def _cards(seen: Seen) -> str:
    share = f"{min(1.0, seen.step / seen.steps):.0%}" if seen.steps else "-"
    left = duration(seen.left) if seen.left is not None else "not known yet"
    best, of = (
        (f"{seen.best[0]:.1f}", f"best held-out KID x1000, at step {seen.best[1]:,}")
        if seen.best
        else ("-", "no held-out KID yet")
    )
    cards = [(share, f"step {seen.step:,} of {seen.steps:,}; it {STATES[seen.state]}"), (best, of)]
    if seen.state == "running":
        speed = f"{seen.speed:.2f} steps per second" if seen.speed else "its speed is measured"
        cards.append((left, f"left; {speed}"))
    body = "".join(
        f'<div class="card"><b>{escape(b)}</b><span>{escape(text)}</span></div>' for b, text in cards
    )
    told = f"<p>{escape(seen.method)}; health: {escape(seen.health or 'not known yet')}</p>"
    if seen.skipped:
        told += f"<p>{seen.skipped} updates were skipped: a loss or gradient was not finite.</p>"
    return look.sheet(f'<div class="cards">{body}</div>{told}')


def _kid(training: Training) -> str:
    points, band = training.kid()
    title = f"{KID} x1000"
    return look.sheet(f"<h3>{title}</h3>" + chart({KID: points}, title=title, bands={KID: band}))


def _losses(found: Mapping[str, Points], chosen: Sequence[str], log: bool) -> str:
    lines = {loss: found[loss] for loss in list(chosen)[:AT_ONCE] if loss in found}
    return look.sheet(chart(lines, title="losses", log=bool(log)))


def _preview(found: Sequence[tuple[int, Path]], number: float | None) -> str:
    """The one of a number from 1, or the nearest to it."""
    if not found:
        return look.sheet('<p class="soft">No preview yet.</p>')
    step, path = found[min(max(_whole(number), 1), len(found)) - 1]
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        data = b""
    shown = look.figure(data, f"step {step:,}", f"preview of step {step}")
    return look.sheet(f'<div class="preview">{shown}</div>') if data else ""


def _whole(number: Any) -> int:
    """A number that a client sent, as a whole one; 1 for what is none."""
    return int(number) if isinstance(number, (int, float)) and math.isfinite(number) else 1

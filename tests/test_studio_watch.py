"""The tab Watch: a training is watched, stopped and resumed from the page, and comes to the same end."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from fewtoon import config
from fewtoon.app import curves
from fewtoon.app.shelf import Shelf
from fewtoon.app.tabs.watch import Asked, Tower, build
from fewtoon.app.trainings import Training
from fewtoon.engine.train import train
from fewtoon.errors import Problem
from fewtoon.run import Run
from marking import wait
from studios import Visitor, chromium, needs_browser, studio, world_packs

SETS = [
    "channels=4",
    "blocks=1",
    "discriminator_channels=4",
    "log_every=2",
    "preview_every=20",
    "metric_every=30",
]
STEPS = 60


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return world_packs(tmp_path_factory.mktemp("watch"), 12, held_out=4)


def trained(packs: dict[str, Path], run: Path, steps: int) -> Path:
    settings = config.load("demo", [*SETS, f"train.steps={steps}"])
    train(settings, *packs.values(), run, device="cpu", quiet=True, track=())
    return run


@pytest.fixture(scope="module")
def short(packs: dict[str, Path]) -> Path:
    return trained(packs, packs["photos"].parent / "short", 10)


@pytest.fixture
def stopped(short: Path, tmp_path: Path) -> Path:
    """A run of ten steps of our own, finished."""
    shutil.copytree(short, tmp_path / "short")
    return tmp_path / "short"


def begin(packs: dict[str, Path], out: Path) -> subprocess.Popen[bytes]:
    sets = [word for one in [*SETS, f"train.steps={STEPS}"] for word in ("--set", one)]
    words = ["train", "demo", "--photos", str(packs["photos"]), "--drawings", str(packs["drawings"])]
    return subprocess.Popen(
        [sys.executable, "-m", "fewtoon.cli", *words, "--out", str(out), "--device", "cpu", *sets],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@needs_browser
def test_a_training_is_watched_stopped_and_resumed(
    packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # bytes are the same with as many threads only
    torch.set_num_threads(1)
    out = tmp_path / "first"
    training = begin(packs, out)
    wait(lambda: training.poll() is not None or len(Run(out).log()) > 3, 90)
    training.send_signal(signal.SIGSTOP)  # it waits for us, on a fast machine too
    assert training.poll() is None
    with studio([out, *packs.values()]) as url, chromium() as browser:
        visitor = Visitor(browser, url)
        page = visitor.page
        visitor.tab("Watch")
        page.get_by_text("it runs").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("It finishes its step, saves and ends.").wait_for()
        training.send_signal(signal.SIGCONT)
        assert training.wait(60) == 130
        page.get_by_text("it is stopped").wait_for()
        done = Run(out).log()[-1]["step"]
        assert done < STEPS

        page.get_by_role("button", name="Resume").click()
        page.get_by_text("it is finished").wait_for(timeout=120_000)
        page.get_by_text("best held-out KID x1000, at step").wait_for()
        assert page.locator("svg[role=img] polyline").count() >= 2
        slider = page.get_by_role("slider", name=re.compile("Preview"))
        page.get_by_text("step 60", exact=True).wait_for()
        slider.press("ArrowLeft")
        page.get_by_text("step 40", exact=True).wait_for()

        page.get_by_role("textbox", name="until step").fill("20")
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("until step 20: it has done 60").wait_for()
        visitor.leave()
    whole = trained(packs, tmp_path / "whole", STEPS)
    assert Run(out).last.read_bytes() == Run(whole).last.read_bytes()
    assert Run(out).log_file.read_bytes() == Run(whole).log_file.read_bytes()


@needs_browser
def test_trainings_are_compared_on_a_phone(stopped: Path, packs: dict[str, Path], tmp_path: Path) -> None:
    other = trained(packs, tmp_path / "other", 5)
    with studio([stopped, other]) as url, chromium() as browser:
        visitor = Visitor(browser, url, 390, 844, color_scheme="dark")
        page = visitor.page
        visitor.tab("Watch")
        page.get_by_text("step 10 of 10; it is finished").wait_for()
        page.get_by_label("Training", exact=True).first.click()
        page.get_by_role("option", name="other").click()
        page.get_by_text("step 5 of 5; it is finished").wait_for()
        page.get_by_role("option").first.wait_for(state="detached")  # the list fades
        page.get_by_role("button", name="Compare trainings").click()
        box = page.get_by_label("Trainings")
        for name in ("short", "other"):
            box.click()
            page.get_by_role("option", name=name).click()
        page.locator("table td", has_text="short").wait_for()
        page.locator("table td", has_text="other").wait_for()
        assert page.locator(".legend").last.inner_text().startswith("short")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        visitor.leave()


def test_a_training_that_cannot_go_on_says_why(stopped: Path, packs: dict[str, Path]) -> None:
    training = Training(stopped, "short")
    with pytest.raises(Problem, match="finished: to go on, say until which step"):
        training.resume(list(packs.values()))
    with pytest.raises(Problem, match="does not run"):
        training.stop()
    facts = json.loads((stopped / "run.json").read_text())
    facts["packs"]["photos"]["path"] = "/nowhere"
    (stopped / "run.json").write_text(json.dumps(facts))
    with pytest.raises(Problem, match=r"the pack of photos of 'short' \(nowhere, hash .* is not here"):
        training.resume([packs["drawings"]], steps=20)
    # Its settings are changed behind our back: the training that is started says so, and the page too.
    text = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text(text.replace("method: ugatit", "method: ugatitt"))
    training.resume(list(packs.values()), steps=20)
    wait(lambda: training.look().state != "starting", 90)
    assert "ugatitt" in str(training.look().error)


def test_a_training_goes_on_from_what_is_saved(stopped: Path, packs: dict[str, Path]) -> None:
    """Stopped between two lines of its log, or killed after one: what counts is the saved state."""
    before = (stopped / "config.yaml").read_bytes()
    training = Training(stopped, "short")
    state = stopped / "state" / "step-00000010.safetensors"
    state = state.rename(state.with_name("step-00000013.safetensors"))
    assert (training.look().step, training.look().state) == (13, "finished")
    assert "step 13 of 10" in Run(stopped).describe()
    for steps, told in (
        (12, "until step 12: it has done 13, so ask for more"),
        (-5, "until step -5: it has done 13"),
        (10**20, "no training takes more than 100000000, so ask for less"),
    ):
        with pytest.raises(Problem, match=told):
            training.resume(list(packs.values()), steps=steps)
    state = state.rename(state.with_name("step-00000005.safetensors"))
    assert (training.look().step, training.look().state) == (5, "stopped")
    state.unlink()
    for other in state.parent.iterdir():
        other.unlink()
    with pytest.raises(Problem, match="the saved states of 'short' are gone"):
        training.resume(list(packs.values()), steps=20)
    assert (stopped / "config.yaml").read_bytes() == before
    assert not (stopped / "train.log").exists()  # nothing was started


class Child:
    """A training that was resumed, as its process is seen."""

    returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode


def test_a_training_that_was_resumed_is_told_of_from_its_start_to_its_end(
    stopped: Path, packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child()
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: child)
    state = stopped / "state" / "step-00000010.safetensors"
    state.rename(state.with_name("step-00000013.safetensors"))
    before = "fewtoon: of the day before\n"
    (stopped / "train.log").write_text(before)
    training = Training(stopped, "short")
    training.resume(list(packs.values()), steps=20)
    seen = training.look()
    assert (seen.state, seen.step, seen.steps) == ("starting", 13, 20)
    with Run(stopped).lock():  # before it has written down its new length, or a line of its log
        seen = training.look()
        assert (seen.state, seen.step, seen.steps) == ("running", 13, 20)
    # It has let go, and its process is about to end: it starts no more.
    assert training.look().state == "stopped"
    assert training.look().error is None
    (stopped / "train.log").write_text(f"{before}continuing at step 13\n")
    child.returncode = -9
    seen = training.look()
    assert (seen.state, seen.steps) == ("finished", 10)  # as its settings say, which it has not changed
    assert seen.error == "it was ended by signal 9, without a word of its own"
    child.returncode = 2
    assert training.look().error == "it ended with code 2; train.log in its folder says more"
    words = "fewtoon: could not write 'log.jsonl': free some space\n  File \"/usr/x.py\", line 1, in f\n"
    (stopped / "train.log").write_text(before + words)
    assert training.look().error == "could not write 'log.jsonl': free some space"


def test_a_killed_training_that_goes_on_is_where_it_was_saved(stopped: Path) -> None:
    state = stopped / "state" / "step-00000010.safetensors"
    state.rename(state.with_name("step-00000004.safetensors"))
    os.utime(stopped / "log.jsonl", (0, 0))
    training = Training(stopped, "short")
    with Run(stopped).lock():
        seen = training.look()
        assert (seen.state, seen.step, seen.speed) == ("running", 4, None)  # the log is not yet its own
        lines = (stopped / "log.jsonl").read_bytes().splitlines(keepends=True)
        (stopped / "log.jsonl").write_bytes(b"".join(line for line in lines if json.loads(line)["step"] <= 6))
        assert training.look().step == 6


def test_a_run_that_is_moved_away_is_told_to_be_gone(stopped: Path) -> None:
    tower = Tower(Shelf([stopped]))
    *_, asked, _facts, _kid, _box, _losses, _slider, _shown, _stop, _resume, latest = tower.choose("short")
    moved = stopped.rename(stopped.with_name("moved"))
    told, *_, stop, resume, latest = tower.tick(asked, latest)
    assert "run 'short' is gone (no config.yaml in it); put it back" in unescape(told)
    assert not stop["interactive"]
    assert not resume["interactive"]
    moved.rename(stopped)
    assert "step 10 of 10" in tower.tick(asked, latest)[0]


def test_nobody_is_signalled_who_does_not_hold_the_run(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    real = os.kill
    monkeypatch.setattr(
        os, "kill", lambda process, number: sent.append((process, number)) if number else real(process, 0)
    )
    (stopped / ".lock").write_text(f"{os.getppid()}\n")  # alive, and no training
    assert Run(stopped).holder() is None
    with pytest.raises(Problem, match="does not run"):
        Training(stopped, "short").stop()
    for text in ("", "-1\n", "0\n", "1\n", "x\n", "9" * 19):
        (stopped / ".lock").write_text(text)
        assert Run(stopped).holder() is None
    with Run(stopped).lock():
        assert Run(stopped).holder() == os.getpid()
        with pytest.raises(Problem, match="this very process"):
            Training(stopped, "short").stop()
    assert sent == []


def test_a_log_is_read_as_it_grows(stopped: Path) -> None:
    training = Training(stopped, "short")
    assert training.look().step == 10
    count = len(training.lines)
    with Run(stopped).lock(), open(stopped / "log.jsonl", "ab") as file:
        file.write(b'{"step": 11, "G/photos/cycle": 1.0, "G/drawings/cycle": 3.0}\n{"step": 12, "G/pho')
        file.flush()
        assert training.look().step == 11
        assert training.losses()["G cycle"][-1] == (11, 2.0)
        file.write(b'tos/cycle": 5.0}\nnot json\n[]\n{"step": "x"}\n{"step": 11, "G/photos/cycle": 7}\n')
        file.flush()
        assert training.look().step == 11
    assert len(training.lines) == count + 2  # step 12 was forgotten by whoever went back to 11
    assert training.losses()["G cycle"][-1] == (11, 7)
    (stopped / "log.jsonl").write_bytes(b"")
    training.look()
    assert training.lines == []
    assert training.losses() == {}


@pytest.mark.parametrize("number", [None, -3, 0, 1e9, 2, math.nan, math.inf, "x", [1]])
def test_any_number_is_some_preview(stopped: Path, number: Any) -> None:
    assert "step 10" in Tower(Shelf([stopped])).choose_preview(Asked("short"), number)[0]


def test_names_are_those_of_the_shelf(stopped: Path) -> None:
    tower = Tower(Shelf([stopped]))
    for name in ("../short", str(stopped), "<b>", ""):
        with pytest.raises(Problem, match="no run"):
            tower.facts(name)
    for text in ("1; rm", "1.5", "٣", "9" * 40, "--5"):
        with pytest.raises(Problem, match="a whole number"):
            tower.resume("short", text)
    with pytest.raises(Problem, match="until step -5: it has done 10"):
        tower.resume("short", "-5")
    assert "<script>" not in tower.compare(["short"], "<script>", False)
    assert "short" in tower.compare(["short"], [1], False)  # type: ignore[arg-type]  # no word at all


# --- curves -------------------------------------------------------------------------------------------------


def numbers(svg: str) -> list[float]:
    return [float(n) for points in re.findall(r'points="([^"]*)"', svg) for n in re.split(r"[ ,]", points)]


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0), (10, 2.0), (20, 0.5)],
        [(5, 3.0)],
        [(5, 3.0), (10, 3.0)],
        [(1, 0.0), (2, 0.0)],
        [(1, -1e308), (2, 1e308)],
        [(1, 1e-300), (2, 2e-300)],
        [(1, 5e-324), (2, 5e-324)],
        [(10**400, 1.0), (2, 2.0), (3, 10**400), (4, 1.0)],
        [(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)],
        [(i, math.sin(i)) for i in range(5000)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_curves_stay_within_their_frame(points: list[tuple[float, float]], log: bool) -> None:
    svg = curves.chart({"a": points}, title="t", log=log)
    found = numbers(svg)
    assert all(0 <= n <= curves.WIDTH for n in found), svg[:500]
    assert "nan" not in svg
    assert len(found) <= 2 * curves.POINTS


def test_nothing_to_draw_is_said() -> None:
    assert "nothing yet" in curves.chart({"a": []}, title="KID")
    assert "nothing yet" in curves.chart({"a": [(1, math.nan)]}, title="KID")
    assert "nothing yet" in curves.chart({"a": [(1, -1.0)]}, title="KID", log=True)


def test_a_curve_is_where_it_should_be_and_names_are_text() -> None:
    svg = curves.chart({"<a>": [(0, 0.0), (100, 10.0)], "b": [(0, 10.0), (100, 0.0)]}, title="t<")
    (x0, y0, x1, y1), (_, z0, _, z1) = (
        [float(n) for n in re.split(r"[ ,]", points)]
        for points in re.findall(r'polyline points="([^"]*)"', svg)
    )
    assert x0 == curves.LEFT
    assert x1 == curves.WIDTH - curves.RIGHT
    assert y0 > y1
    assert (z0, z1) == (y1, y0)
    assert "<a>" not in svg
    assert "&lt;a&gt; <b>10</b>" in svg


# --- what is damaged, or meant to do harm ---------------------------------------------------------------------


def test_a_second_stop_is_not_a_second_ctrl_c(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\nfrom fewtoon.run import Run\nwith Run(sys.argv[1]).lock(): print(1, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(stopped)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    sent: list[int] = []
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        real = os.kill
        monkeypatch.setattr(os, "kill", lambda one, number: sent.append(one) if number else real(one, 0))
        training = Training(stopped, "short")
        training.stop()
        with pytest.raises(Problem, match="was asked to stop already"):
            training.stop()
        assert sent == [holder.pid]
    finally:
        monkeypatch.undo()
        holder.kill()
        holder.wait()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_the_number_of_a_process_elsewhere_is_no_holder_here(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from another container: the lock is held, and the number is that of a process that has no part in it."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with Run(stopped).lock():
            (stopped / ".lock").write_text(f"{other.pid}\n")
            assert Run(stopped).holder() == other.pid
            with pytest.raises(Problem, match="not trained by the process"):
                Training(stopped, "short").stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_damaged_training_does_not_hide_the_others(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "bad")
    shelf = Shelf([tmp_path / "bad", stopped])
    (tmp_path / "bad" / "config.yaml").write_text("model: {")
    with gr.Blocks():
        build(shelf)
    tower = Tower(shelf)
    assert "'bad/config.yaml' cannot be read" in unescape(tower.choose("bad")[3])
    assert str(tmp_path) not in tower.choose("bad")[3]
    assert "step 10 of 10" in tower.choose("short")[3]
    assert "choose a training" in tower.choose([])[3]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "9" * 400, "true", '"x"', "null", "[1]", "1e-320"]
)
@pytest.mark.parametrize("log", [False, True])
def test_odd_values_in_a_log_are_not_drawn(stopped: Path, value: str, log: bool) -> None:
    with open(stopped / "log.jsonl", "a") as file:
        for key in ("step", "kid", "kid_low", "skipped", "health", "G/photos/cycle", "change"):
            file.write(json.dumps({"step": 11, key: None}).replace("null", value) + "\n")
    tower = Tower(Shelf([stopped]))
    shown = (
        tower.facts("short") + tower.choose("short")[4] + tower.losses("short", tower.choices("short"), log)
    )
    assert "nan" not in shown
    assert "polyline" in shown


def test_the_page_follows_the_latest_preview_until_somebody_goes_back(stopped: Path) -> None:
    tower = Tower(Shelf([stopped]))
    *_, asked, _facts, _kid, _box, _losses, slider, shown, stop, resume, latest = tower.choose("short")
    assert "step 10<" in shown
    assert not stop["interactive"]
    assert resume["interactive"]
    assert tower.tick(asked, latest)[0] == gr.skip()
    for step in (20, 30):
        name = f"step-{step:08d}.png"
        shutil.copy(stopped / "previews" / "step-00000010.png", stopped / "previews" / name)
    # At the end of a slider that knows of one alone: of the two that came meanwhile, the latest.
    shown, still = tower.choose_preview(asked, 1, latest)
    assert "step 30<" in shown
    assert still == asked
    *_, slider, shown, _stop, _resume, later = tower.tick(asked, latest)
    assert slider["value"] == 3
    assert "step 30<" in shown
    shown, back = tower.choose_preview(asked, 1, later)
    assert "step 10<" in shown
    *_, slider, shown, _stop, _resume, _latest = tower.tick(back, latest)
    assert "value" not in slider
    assert shown == gr.skip()
    assert tower.choose_preview(back, 3, later)[1] == asked
    with Run(stopped).lock():
        *_, stop, resume, _ = tower.tick(asked, latest)
    assert stop["interactive"]
    assert not resume["interactive"]

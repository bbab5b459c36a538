"""A training that was killed, stopped or torn ends in exactly the bytes of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import toy_method
from fewtoon import methods
from fewtoon.engine import guard, heldout
from fewtoon.engine.checkpoint import States, read
from fewtoon.errors import Problem
from fewtoon.run import Run
from toy_method import Toy, train


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda name: Toy)
    monkeypatch.setattr(Toy, "poisoned", [])
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 24 steps that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "find", lambda name: Toy)
        torch.set_num_threads(1)
        train(out, steps=24)
    return out


def assert_same(run: Path, other: Path) -> None:
    names = ["config.yaml", "run.json", "log.jsonl", "best.safetensors", "last.safetensors"]
    names += [
        str(p.relative_to(other)) for folder in ("state", "previews") for p in (other / folder).iterdir()
    ]
    found = {str(p.relative_to(run)) for folder in ("state", "previews") for p in (run / folder).iterdir()}
    assert found == {name for name in names if "/" in name}
    for name in names:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def drive(out: Path, moments: list[list[object]]) -> list[int]:
    done = subprocess.run(
        [sys.executable, toy_method.__file__, str(out), "24", json.dumps(moments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_anywhere_while_saving(tmp_path: Path, whole: Path) -> None:
    # Each training is killed at one of its next files: before it is flushed, before it gets its name, after.
    # (run.json, config.yaml, step 0; then states, previews, best; each killed training gets a bit further.)
    moments = [["replace", 1, False], ["replace", 2, False], ["replace", 3, False], ["fsync", 3, False]]
    moments += [
        ["replace", n, after] for n, after in ((2, True), (1, False), (1, True), (2, True), (3, False))
    ]
    moments += [["fsync", n, False] for n in (1, 2, 4, 3)]
    ends = drive(tmp_path / "run", moments)
    assert ends[-1] == 0
    assert ends[:-1].count(-signal.SIGKILL) >= 10
    assert_same(tmp_path / "run", whole)


def test_killed_at_any_time(tmp_path: Path, whole: Path) -> None:
    ends = drive(tmp_path / "run", [["seconds", 0.15 + 0.15 * n] for n in range(4)])
    assert ends[-1] == 0
    assert -signal.SIGKILL in ends
    assert_same(tmp_path / "run", whole)


def test_torn_state_falls_back(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    stop_after(run, 13)
    newest = States(run / "state").files()[0]
    assert newest.name == "step-00000013.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    train(run, steps=24, quiet=False)
    told = capsys.readouterr().err
    assert "step-00000013.safetensors is torn or altered" in told
    assert "using the one before" in told
    assert "continuing at step 12" in told
    assert_same(run, whole)


@pytest.mark.parametrize("place", [0.001, 0.3, 0.5, 0.9, 0.9999])
def test_one_altered_byte_is_found(tmp_path: Path, whole: Path, place: float) -> None:
    original = States(whole / "state").files()[0].read_bytes()
    changed = bytearray(original)
    changed[int(place * len(changed))] ^= 1
    path = tmp_path / "step-00000024.safetensors"
    path.write_bytes(changed)
    with pytest.raises(Problem, match="torn or altered"):
        read(path)


def test_all_states_torn(tmp_path: Path) -> None:
    train(tmp_path)
    for state in States(tmp_path / "state").files():
        state.write_bytes(b"torn")
    with pytest.raises(Problem, match=r"no state in .* is whole \(2 torn\)"):
        train(tmp_path, steps=20)


def stop_after(run: Path, steps: int, number: int = signal.SIGINT, total: int = 24) -> None:
    """Train, and send a signal in the middle of a step."""
    real = Toy.drawer_losses

    def losses(self: Toy, batch, shared):  # type: ignore[no-untyped-def]
        if batch.step == steps - 1:
            os.kill(os.getpid(), number)
        return real(self, batch, shared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Toy, "drawer_losses", losses)
        with pytest.raises(guard.Interrupted, match=f"at step {steps}"):
            train(run, steps=total)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_finishes_the_step_and_goes_on(tmp_path: Path, whole: Path, number: int) -> None:
    before = signal.getsignal(number)
    stop_after(tmp_path / "run", 7, number)
    assert signal.getsignal(number) is before
    assert States(tmp_path / "run" / "state").files()[0].name == "step-00000007.safetensors"
    train(tmp_path / "run", steps=24)
    assert_same(tmp_path / "run", whole)


def test_second_stop_is_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(self: Toy, batch, shared):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("never reached")

    monkeypatch.setattr(Toy, "penalty", impatient)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path)
    assert not isinstance(caught.value, guard.Interrupted)


def test_no_signals_outside_the_main_thread(tmp_path: Path) -> None:
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert found[0]["steps"] == 12


def test_longer_lengths_continue_and_finished_runs_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    summary = train(tmp_path, quiet=False)
    assert "12 steps are done and 12 were asked for" in capsys.readouterr().err
    assert summary["steps"] == 12
    assert summary["best_kid"] is not None
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert train(tmp_path, steps=16, log_every=2, keep_states=3)["steps"] == 16
    assert Run(tmp_path).config()["train"]["steps"] == 16
    assert train(tmp_path, steps=14, quiet=False)["steps"] == 16  # nothing is done, and nothing recorded
    assert "16 steps are done and 14 were asked for" in capsys.readouterr().err
    assert Run(tmp_path).config()["train"]["steps"] == 16


def test_changed_settings_are_refused_with_a_diff(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(
        Problem, match=r"model.rate: 0.001 -> 0.002; train.batch: 2 -> 4; continue it as it was"
    ):
        train(tmp_path, rate=2e-3, batch=4, steps=20)
    with pytest.raises(Problem, match=r"pack of photos: [0-9a-f]{12} -> [0-9a-f]{12}"):
        train(tmp_path, steps=20, photos=toy_method.pack("photos", 3))
    assert train(tmp_path)["steps"] == 12


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(Problem, match=r"not a run \(it holds 'thesis.txt'\)"):
        train(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.txt"]


def test_two_writers(tmp_path: Path) -> None:
    with Run(tmp_path).lock(), pytest.raises(Problem, match=f"being written by process {os.getpid()}"):
        train(tmp_path)
    train(tmp_path)


def test_full_disk(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real, calls = tmp_path / "run", os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == 20:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Problem, match=r"No space left on device.*free some space"):
        train(run, steps=24)
    monkeypatch.undo()
    monkeypatch.setattr(methods, "find", lambda name: Toy)
    states = States(run / "state").files()
    assert states
    for state in states:
        read(state)
    assert not list(run.rglob("*.tmp"))
    train(run, steps=24)
    assert_same(run, whole)


def test_log_holds_no_times_and_every_loss(whole: Path) -> None:
    lines = Run(whole).log()
    assert [line["step"] for line in lines if "rate" in line] == [3, 6, 9, 12, 15, 18, 21, 24]
    names = {"D/real", "D/fake", "G/adversarial", "G/cycle", "R/size"}
    first = next(line for line in lines if "rate" in line)
    others = {"step", "rate", "skipped", "visits", "gradient/D", "gradient/G", "gradient/R"}
    assert first.keys() == others | names
    kids = [line for line in lines if "kid" in line]
    assert [line["step"] for line in kids] == [5, 10, 15, 20, 24]
    assert kids[-1]["best"] == min(line["kid"] for line in kids)
    assert {key for line in kids for key in line} == {"step", "kid", "kid_low", "kid_high", "best"}
    rates = [line["rate"] for line in lines if "rate" in line]
    assert rates == pytest.approx([1, 1, 1, 1, 10 / 12, 7 / 12, 4 / 12, 1 / 12])


def test_log_lines_are_means_since_the_last_line(tmp_path: Path, whole: Path) -> None:
    train(tmp_path, steps=24, log_every=1)
    each = {line["step"]: line["G/cycle"] for line in Run(tmp_path).log() if "rate" in line}
    for line in Run(whole).log():
        if "rate" in line:
            mean = sum(each[line["step"] - back] for back in range(3)) / 3
            assert line["G/cycle"] == pytest.approx(mean)


def test_describe(whole: Path, tmp_path: Path) -> None:
    told = Run.open(whole).describe()
    assert "step 24 of 24" in told
    assert "14 training and 10 held-out pictures" in told
    assert "best style" in told
    with pytest.raises(Problem, match="is not a run"):
        Run.open(tmp_path)


def test_best_is_a_style_that_says_where_it_comes_from(whole: Path) -> None:
    from fewtoon import style

    header = style.read_header(whole / "best.safetensors")
    best = min((line for line in Run(whole).log() if "kid" in line), key=lambda line: line["kid"])
    assert header["step"] == best["step"]
    assert header["metrics"]["kid"] == best["kid"]
    assert header["packs"] == {
        "photos": toy_method.pack("photos", 1).hash,
        "drawings": toy_method.pack("drawings", 2).hash,
    }
    assert header["config"]["train"]["steps"] == 24
    assert header["framing"] == "as-is"
    assert header["metrics"]["features"] == "tiny"
    assert header["metrics"]["features_hash"]
    assert heldout.FEWEST <= header["metrics"]["n_fake"] <= 10

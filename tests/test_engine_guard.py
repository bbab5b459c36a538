"""What the loop guarantees about mathematics: phases, freezing, micro-batches, bad numbers, first weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toy_method
from fewtoon import methods
from fewtoon.engine import guard
from fewtoon.engine.checkpoint import States, read
from fewtoon.engine.feed import Feed
from fewtoon.engine.loop import accumulate, rate_factor, update
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Shared
from fewtoon.run import Run
from toy_method import Toy, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda name: Toy)
    for name, value in (("poisoned", []), ("fits", 1000), ("drawn", 0)):
        monkeypatch.setattr(Toy, name, value)
    torch.set_num_threads(1)


def trainee(**changes: Any) -> tuple[Trainee, Batch]:
    settings = toy_method.config(**changes)
    photos, drawings = toy_method.pack("photos", 1), toy_method.pack("drawings", 2)
    feed = Feed(photos, drawings, ["a", "b"], settings.train, CPU)
    return Trainee(settings, 16, ["a", "b"], CPU), feed.batch(0, 0)


def quiet() -> Watch:
    return Watch(10, quiet=True)


def network(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith(name)}


# --- phases -----------------------------------------------------------------------------------------------


def test_fakes_are_drawn_once_and_each_phase_moves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one, batch = trainee()
    seen: list[tuple[str, bool, bool]] = []
    for phase in ("judge_losses", "drawer_losses", "penalty"):
        real = getattr(Toy, phase)

        def spy(self: Toy, batch: Batch, shared: Shared, real=real, phase=phase):  # type: ignore[no-untyped-def]
            asked = [n[3].weight.requires_grad for n in (self.drawer, self.judge)]
            seen.append((phase, *asked))
            return real(self, batch, shared)

        monkeypatch.setattr(Toy, phase, spy)
    one.phases = one.method.phases()
    update(one, batch, quiet())
    assert Toy.drawn == 1
    # In step 0 phase R moves the judge after G; in step 1 it does not, and G asks nothing of the judge.
    assert seen == [("judge_losses", True, True), ("drawer_losses", True, True), ("penalty", False, True)]
    seen.clear()
    update(one, batch._replace(step=1), quiet())
    assert seen == [("judge_losses", True, True), ("drawer_losses", True, False)]


def test_micro_batches_draw_again_and_judge_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    one, batch = trainee(batch=4, micro_batch=2)
    asked: list[tuple[int, bool]] = []
    real = Toy.fakes
    monkeypatch.setattr(
        Toy, "fakes", lambda self, b, s: asked.append((len(b.photos), s.kept)) or real(self, b, s)
    )
    update(one, batch._replace(step=1), quiet())
    assert asked == [(2, False)] * 4
    assert Toy.drawn == 4


def gradients(one: Trainee, batch: Batch, kept: bool) -> dict[str, list[Tensor]]:
    found, shared = {}, Shared(kept)
    for phase in one.method.phases():
        one.ask_for_gradients({phase.optimizer} | ({"G"} if kept and phase.name == "D" else set()))
        accumulate(one, phase, batch, shared)
        found[phase.name] = [p.grad.clone() for p in one.moving[phase.optimizer] if p.grad is not None]
    return found


def test_micro_batches_give_the_gradients_of_the_batch() -> None:
    whole, batch = trainee(batch=4, noise=0)
    parts, _ = trainee(batch=4, noise=0, micro_batch=1)
    expected, found = gradients(whole, batch, True), gradients(parts, batch, False)
    for phase, values in expected.items():
        for a, b in zip(values, found[phase], strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
            assert a.abs().max() > 0


def test_out_of_memory_halves_the_micro_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, batch = trainee(batch=4, noise=0)
    expected = update(whole, batch, quiet()).values
    Toy.fits = 2
    halved, _ = trainee(batch=4, noise=0)
    found = update(halved, batch, quiet()).values
    assert halved.counters.micro_batch == 2
    assert found == pytest.approx(expected, rel=1e-3)  # G sees the judge after one Adam step, hence not 1e-6
    assert found["D/real"] == pytest.approx(expected["D/real"], abs=1e-6)

    train(tmp_path, batch=4, quiet=False)
    told = capsys.readouterr().err
    assert told.count("out of memory in phase 'D': from here on 2 of 4 pictures at once") == 1
    assert read(States(tmp_path / "state").files()[0])[1]["counters"]["micro_batch"] == 2


def test_out_of_memory_with_one_picture(tmp_path: Path) -> None:
    Toy.fits = 0
    with pytest.raises(
        Problem, match="out of memory in phase 'D' with one picture at a time; train at a smaller"
    ):
        train(tmp_path, batch=4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert guard.is_out_of_memory(error) is expected


def test_smaller_micro_batches_divide_the_batch() -> None:
    assert [guard.smaller_micro_batch(6, m) for m in (6, 3, 2)] == [3, 1, 1]
    assert guard.smaller_micro_batch(7, 7) == 1


def test_frozen_is_byte_equal_and_the_rest_moves(tmp_path: Path) -> None:
    train(tmp_path, steps=4, state_every=4, keep_states=9)
    last, first = (read(path)[0] for path in States(tmp_path / "state").files())
    for key in network(first, "network.fixed."):
        assert torch.equal(first[key], last[key]), key
    assert torch.equal(first["network.judge.1.weight"], last["network.judge.1.weight"])
    moved = [
        k
        for k in first
        if k.startswith(("network.drawer", "network.judge")) and k != "network.judge.1.weight"
    ]
    assert len(moved) == 9
    for key in moved:
        assert not torch.equal(first[key], last[key]), key


def test_says_what_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, quiet=False)
    told = capsys.readouterr().err
    assert "G moves 443 parameters of drawer; 0 of theirs are frozen" in told
    assert "D moves 81 parameters of judge; 216 of theirs are frozen" in told
    assert "frozen whole: fixed" in told


def test_rate_falls_linearly() -> None:
    assert [rate_factor(s, 10, 0.5) for s in (0, 4, 5, 6, 9)] == [1, 1, 1, 0.8, pytest.approx(0.2)]
    assert {rate_factor(s, 10, 1.0) for s in range(11)} == {1}
    assert rate_factor(0, 10, 0.0) == 1


def test_average_is_the_formula() -> None:
    one, batch = trainee(ema=0.5)
    expected = {k: v.clone() for k, v in one.method.networks()["drawer"].state_dict().items()}
    for step in range(20):
        update(one, batch._replace(step=step), quiet())
        one.average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for key, value in one.method.networks()["drawer"].state_dict().items():
            expected[key] = value.clone() if "mean" in key else decay * expected[key] + (1 - decay) * value
    for key, value in one.artist.method.networks()["drawer"].state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)


def test_bf16_computes_losses_in_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    one, batch = trainee(precision="bf16")
    kinds = []
    real = Toy.fakes
    monkeypatch.setattr(
        Toy, "fakes", lambda self, b, s: kinds.append(real(self, b, s).dtype) or real(self, b, s)
    )
    result = update(one, batch, quiet())
    assert set(kinds) == {torch.bfloat16}
    assert not result.bad
    assert {p.dtype for p in one.moving["G"]} == {torch.float32}


# --- numbers that are not finite --------------------------------------------------------------------------


def test_one_bad_step_is_skipped_and_counted(tmp_path: Path) -> None:
    Toy.poisoned = [("D", 5)]
    assert train(tmp_path)["skipped"] == 1
    assert {"step": 6, "event": "skipped", "phases": {"D": "real"}} in Run(tmp_path).log()
    tensors = read(States(tmp_path / "state").files()[0])[0]
    assert guard.finite(tensors)


def test_a_bad_phase_leaves_its_parameters_alone() -> None:
    Toy.poisoned = [("G", 0)]
    one, batch = trainee()
    before = {k: v.clone() for k, v in one.tensors().items()}
    result = update(one, batch, quiet())
    assert result.bad == {"G": "cycle"}
    after = one.tensors()
    for key in before:
        if key.startswith("network.drawer") and "mean" not in key:
            assert torch.equal(before[key], after[key])
    assert not torch.equal(before["network.judge.3.weight"], after["network.judge.3.weight"])


def test_five_bad_steps_go_back_and_draw_other_numbers(tmp_path: Path) -> None:
    Toy.poisoned = [("G", step) for step in range(6, 11)]
    summary = train(tmp_path, state_every=3)
    assert summary["steps"] == 12
    log = Run(tmp_path).log()
    event = next(line for line in log if line.get("event") == "rolled back")
    assert [line["step"] for line in log] == sorted(line["step"] for line in log)  # forgotten: the bad steps
    assert event["step"] == 6
    assert event["from"] == 11
    assert event["because"] == "loss 'cycle' of phase 'G' was not finite in 5 steps in a row, up to step 11"
    assert read(States(tmp_path / "state").files()[0])[1]["counters"]["attempt"] == 1
    assert summary["skipped"] == 5


def test_goes_back_to_the_start_when_nothing_was_saved(tmp_path: Path) -> None:
    Toy.poisoned = [("D", step) for step in range(5)]
    train(tmp_path, state_every=100)
    assert next(e for e in Run(tmp_path).log() if e.get("event") == "rolled back")["step"] == 0


def test_stops_after_three_attempts(tmp_path: Path) -> None:
    Toy.poisoned = [("D", step) for step in range(5)] * 4
    with pytest.raises(
        Problem, match=r"loss 'real' of phase 'D' was not finite in 5 steps in a row.*4th time; lower"
    ):
        train(tmp_path)
    assert Toy.poisoned == []
    assert train(tmp_path)["steps"] == 12


def test_a_bad_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # sqrt has an infinite derivative at 0: the loss is finite, its gradient is not.
    def losses(self: Toy, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        return {"adversarial": (self.drawer(batch.photos) * 0).abs().sum().sqrt()}

    monkeypatch.setattr(Toy, "drawer_losses", losses)
    one, batch = trainee()
    assert update(one, batch, quiet()).bad == {"G": "gradient"}


def test_without_a_compiler_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(function: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nin 17 places")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert train(tmp_path, compile=True, quiet=False)["steps"] == 12
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "no working compiler here (InvalidCxxCompiler: no working C++ compiler found); going on in eager"
        in told
    )


def test_a_bad_last_step_still_ends_the_run(tmp_path: Path) -> None:
    Toy.poisoned = [("D", 11)]
    train(tmp_path)
    assert States(tmp_path / "state").files()[0].name == "step-00000012.safetensors"


# --- first weights ----------------------------------------------------------------------------------------


def test_init_from_a_style_and_from_a_run(tmp_path: Path) -> None:
    train(tmp_path / "first")
    for init in (tmp_path / "first" / "last.safetensors", tmp_path / "first"):
        out = tmp_path / f"from {init.name}"
        train(out, init=init, steps=1, keep_states=9)
        start = read(States(out / "state").files()[-1])[0]
        end = read(States(tmp_path / "first" / "state").files()[0])[0]
        fresh = one.tensors() if (one := trainee()[0]) else {}
        for key, value in network(start, "averaged.").items():
            assert torch.equal(value, end[key])
        whole = init.is_dir()  # a state has the trained weights of all networks, a Style the averaged ones
        for key, value in network(start, "network.drawer.").items():
            assert torch.equal(value, end[key if whole else key.replace("network.", "averaged.")])
        for key, value in network(start, "network.judge.").items():
            assert torch.equal(value, (end if whole else fresh)[key])
        assert len(Run(out).facts()["init"]["hash"]) == 64
        assert train(out, init=init, steps=2)["steps"] == 2  # the same command goes on


def test_init_that_does_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    train(tmp_path / "first")
    with pytest.raises(Problem, match=r"init: .*first/last\.safetensors"):
        train(tmp_path / "first", init=tmp_path / "first" / "last.safetensors", steps=20)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    save_file({"drawer.x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for name in ("torn.safetensors", "foreign.safetensors", "missing.safetensors"):
        with pytest.raises(Problem, match=name):
            train(tmp_path / "second", init=tmp_path / name)
    assert train(tmp_path / "second")["steps"] == 12  # nothing of the failed ones is in the way


# --- bad input --------------------------------------------------------------------------------------------


def test_packs_that_do_not_fit(tmp_path: Path) -> None:
    photos, drawings = toy_method.pack("photos", 1), toy_method.pack("drawings", 2)
    with pytest.raises(Problem, match="given as photos was prepared as drawings; swap"):
        train(tmp_path, photos=drawings, drawings=photos)
    with pytest.raises(Problem, match="photos of 16 px and drawings of 32 px"):
        train(tmp_path, drawings=toy_method.pack("drawings", 2, size=32))
    with pytest.raises(Problem, match=r"no pack has a group 'c'; known: a, b"):
        train(tmp_path, groups=["c"])
    with pytest.raises(Problem, match="no pack at"):
        train(tmp_path, photos=tmp_path / "nowhere")
    with pytest.raises(Problem, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        train(tmp_path, track=["tensorbord"])
    with pytest.raises(Problem, match=r"--track wandb needs wandb .* pip install"):
        train(tmp_path, track=["wandb"])

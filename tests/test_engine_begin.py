"""How a run begins: a call that fails leaves nothing in the way of the corrected one; what is damaged or does
not fit is told in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import toy_method
from fewtoon import methods, style
from fewtoon.data.pack import Pack
from fewtoon.engine import guard, loop
from fewtoon.engine import train as train_module
from fewtoon.engine.checkpoint import States, read
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.run import Run
from toy_method import Toy, pack, train


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda name: Toy)
    monkeypatch.setattr(Toy, "poisoned", [])
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training."""
    out = tmp_path_factory.mktemp("done") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "find", lambda name: Toy)
        train(out)
    return out


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- first calls that fail --------------------------------------------------------------------------------


def few(side: str) -> Pack:
    """Two training pictures and two held-out ones."""
    return Pack.from_arrays(toy_method.pack(side, 2).images[:4], side, splits=["train", "held_out"] * 2)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"features": "inception:nope.pt"}, "nope.pt"),
        ({"drawings": few("drawings")}, "only 2 drawings to train on.*at least 4"),
        ({"photos": few("photos")}, "only 2 photos to train on.*at least 4"),
        ({"track": ["tensorboard", "wandb"]}, "--track wandb needs wandb"),
        ({"track": "tensorbord"}, "unknown tracker 'tensorbord'"),
        ({"groups": ["a", "a"]}, "names 'a' more than once"),
        ({"groups": []}, "train.groups is empty.*a, b"),
        ({"init": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_a_first_call_that_fails_leaves_nothing(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem, match=told):
        train(tmp_path / "runs" / "first", **wrong)
    assert names(tmp_path) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match=told):
        train(tmp_path / "empty", **wrong)
    assert train(tmp_path / "empty", steps=1)["steps"] == 1


def test_a_folder_that_was_made_stays_when_others_put_something_there(tmp_path: Path) -> None:
    run = Run(tmp_path / "a" / "b")
    with run.lock():
        (tmp_path / "a" / "b" / "thesis.txt").write_text("all my work")
    assert names(tmp_path / "a" / "b") == ["thesis.txt"]


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    (tmp_path / ".draft.tmp").write_text("more of it")
    (tmp_path / ".best.safetensors.1.tmp").write_text("and more")
    (tmp_path / ".cache.tmp").mkdir()
    before = names(tmp_path)
    with pytest.raises(Problem, match=r"not a run \(it holds 'thesis.txt'\)"):
        train(tmp_path)
    assert names(tmp_path) == before


def test_only_torn_files_of_a_run_are_cleaned(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.states.mkdir()
    torn = [tmp_path / ".config.yaml.12.tmp", run.states / ".step-00000004.safetensors.12.tmp"]
    others = [tmp_path / ".draft.tmp", tmp_path / ".my.best.safetensors.12.tmp"]
    for path in [*torn, *others]:
        path.write_text("x")
    (tmp_path / ".cache.tmp").mkdir()
    (tmp_path / ".last.safetensors.12.tmp").mkdir()
    run.clean()
    assert not any(path.exists() for path in torn)
    assert all(path.exists() for path in others)
    assert (tmp_path / ".cache.tmp").is_dir()
    assert (tmp_path / ".last.safetensors.12.tmp").is_dir()


# --- first weights ----------------------------------------------------------------------------------------


def die_before_the_first_state(run: Path, monkeypatch: pytest.MonkeyPatch, **about: Any) -> None:
    def die(*arguments: Any) -> bool:
        raise guard.Interrupted("killed")

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_state", die)
        with pytest.raises(guard.Interrupted):
            train(run, **about)
    assert Run(run).started
    assert not States(run / "state").files()


@pytest.mark.parametrize("again", [True, False])
def test_init_is_not_lost_before_the_first_state(
    again: bool, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = done / "last.safetensors"
    die_before_the_first_state(tmp_path / "run", monkeypatch, init=init)
    train(tmp_path / "run", keep_states=9, init=init if again else None)
    first = read(States(tmp_path / "run" / "state").files()[-1])[0]
    end = read(States(done / "state").files()[0])[0]
    for key in first:
        if key.startswith("averaged."):
            assert torch.equal(first[key], end[key]), key


def test_init_that_changed_before_the_first_state(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = tmp_path / "init.safetensors"
    init.write_bytes((done / "last.safetensors").read_bytes())
    die_before_the_first_state(tmp_path / "run", monkeypatch, init=init)
    train(tmp_path / "other", steps=1)
    init.write_bytes((tmp_path / "other" / "last.safetensors").read_bytes())
    with pytest.raises(Problem, match="is not that file any more"):
        train(tmp_path / "run")


# --- the best after a change of settings ------------------------------------------------------------------


def lose_the_last_states(run: Path) -> None:
    """As after a kill: best.safetensors is of a later step than the newest state."""
    for path in States(run / "state").files():
        if path.name > "step-00000004":
            path.unlink()


def low_at(monkeypatch: pytest.MonkeyPatch, best: int) -> list[int]:
    """KIDs are 1 at a step and for its style, 5 at all others; the counts of pictures that were asked for."""
    real, asked = loop.HeldOut.kid, []

    def kid(self: Any, artist: style.Style) -> Any:
        asked.append(len(self.inputs))
        step = artist.header.get("step") or loop_step[0]
        return dataclasses.replace(real(self, artist), value=1.0 if step == best else 5.0)

    loop_step = [0]
    everywhere = loop.seed.everywhere

    def spy(run_seed: int, attempt: int, step: int, purpose: str) -> None:
        loop_step[0] = step
        everywhere(run_seed, attempt, step, purpose)

    monkeypatch.setattr(loop.seed, "everywhere", spy)
    monkeypatch.setattr(loop.HeldOut, "kid", kid)
    return asked


@pytest.mark.parametrize("change", [{"metric_every": 7}, {"metric_pictures": 6, "metric_every": 7}])
def test_a_better_best_outlives_other_cadences(
    change: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = low_at(monkeypatch, 5)
    train(tmp_path, metric_every=5, keep_states=9)
    lose_the_last_states(tmp_path)
    asked.clear()
    summary = train(tmp_path, keep_states=9, **change)
    assert (summary["best_kid"], summary["best_step"]) == (1.0, 5)
    assert style.read_header(tmp_path / "best.safetensors")["step"] == 5
    assert asked == [change.get("metric_pictures", 10)] * 3  # of the best so far, at step 7, at step 12


def test_unchanged_settings_measure_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = low_at(monkeypatch, 5)
    train(tmp_path, keep_states=9)
    lose_the_last_states(tmp_path)
    asked.clear()
    assert train(tmp_path, keep_states=9)["best_step"] == 5
    assert len(asked) == 3  # steps 5, 10 and 12


def test_a_damaged_best_is_chosen_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path)
    (tmp_path / "best.safetensors").write_bytes(b"torn")
    summary = train(tmp_path, steps=16, quiet=False)
    assert "best.safetensors is damaged" in capsys.readouterr().err
    assert summary["best_step"] > 12
    assert style.read_header(tmp_path / "best.safetensors")["step"] == summary["best_step"]


# --- damaged records --------------------------------------------------------------------------------------

CONFIG = "method: toy\nmodel: {}\ntrain: {}\n"


@pytest.mark.parametrize(
    "text",
    [
        "train: 2020-13-45\n",
        CONFIG.replace("train: {}", "train: 3"),
        CONFIG.replace("model: {}", "model: []"),
        "- 1\n",
        "",
        "model: &a [*a]\n",
        "a: [\n",
        CONFIG + "? [1, 2]\n: 3\n",
        CONFIG + "when: 2020-01-01\n",
    ],
)
def test_damaged_config(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.config_file.write_text(text)
    run.facts_file.write_text('{"packs": {}, "init": null}')
    for damaged in (run.config, run.describe, lambda: train(tmp_path)):
        with pytest.raises(Problem, match=r"config.yaml' (cannot be read|holds no settings)"):
            damaged()


@pytest.mark.parametrize(
    "facts",
    [
        {"packs": []},
        {"packs": {"photos": 3}},
        {},
        [],
        None,
        {"packs": {}, "init": 3},
        {"packs": {}, "init": {"path": "x"}},
        {"packs": {}, "init": {"path": 1, "hash": "x"}},
    ],
)
def test_damaged_facts(tmp_path: Path, facts: Any) -> None:
    run = Run(tmp_path)
    run.config_file.write_text(CONFIG)
    run.facts_file.write_text(json.dumps(facts))
    for damaged in (run.facts, run.describe, lambda: train(tmp_path)):
        with pytest.raises(Problem, match=r"run.json' holds no facts"):
            damaged()


def test_damaged_log(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.config_file.write_text(CONFIG)
    run.facts_file.write_text('{"packs": {}, "init": null}')
    good = [{"step": 5, "kid": 2.5}, {"step": 10, "kid": None}]
    bad = ["5", "[]", '{"kid": 1}', '{"step": "x", "kid": 1}', "[" * 100_000, '{"step": 7, "ski']
    run.log_file.write_text("\n".join([*map(json.dumps, good), *bad]))
    assert run.log() == good
    told = run.describe()
    assert "2.50 at step 5; best 2.50 at step 5" in told
    assert "step 10 of" in told
    run.log_file.write_text('{"step": 1, "kid": null}\n{"step": 2, "kid": "x", "skipped": null}\n')
    assert "held-out KID" not in run.describe()


# --- what is in the way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["previews", "tracking", "state"])
def test_a_file_where_a_folder_should_be(name: str, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, steps=1)
    for path in [*(run / name).glob("*")] if (run / name).is_dir() else []:
        path.unlink()
    if (run / name).is_dir():
        (run / name).rmdir()
    (run / name).write_text("in the way")
    with pytest.raises(Problem, match=name):
        train(run, steps=9, track="tensorboard")


def test_tracking_by_name(tmp_path: Path) -> None:
    for number, nothing in enumerate(("none", ["none"], ())):
        train(tmp_path / str(number), steps=1, track=nothing)
        assert not (tmp_path / str(number) / "tracking").exists()
    train(tmp_path / "one", steps=1, track="tensorboard")
    assert names(tmp_path / "one" / "tracking") == ["tensorboard"]


def test_no_memory_for_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *arguments: Any) -> None:
        raise torch.OutOfMemoryError("the toy ran out of memory")

    monkeypatch.setattr(Trainee, "__init__", full)
    with pytest.raises(Problem, match="out of memory on cpu; train at a smaller size"):
        train(tmp_path / "run")
    assert names(tmp_path) == []


def test_a_device_that_computes_nothing(tmp_path: Path) -> None:
    packs = (toy_method.pack("photos", 1), toy_method.pack("drawings", 2))
    with pytest.raises(Problem, match="device 'meta' does not work here"):
        train_module.train(toy_method.config(), *packs, tmp_path / "run", device="meta", track=())
    assert names(tmp_path) == []


@pytest.mark.parametrize(("precision", "advised"), [("fp32", False), ("bf16", True)])
def test_advice_about_bad_numbers_fits(tmp_path: Path, precision: str, advised: bool) -> None:
    Toy.poisoned = [("D", step) for step in range(5)] * 4
    with pytest.raises(Problem, match="lower the learning rate") as caught:
        train(tmp_path, precision=precision)
    assert ("use train.precision=fp32" in str(caught.value)) is advised


def framed(side: str, framing: str, whiten: str | None = None) -> Pack:
    plain = pack(side, 1)
    return Pack(plain.images, plain.rows, plain.side, framing=framing, whiten=whiten)


def test_packs_must_be_framed_alike_and_as_the_preset_wants(tmp_path: Path) -> None:
    both = {side: framed(side, "ffhq") for side in ("photos", "drawings")}
    with pytest.raises(Problem, match=r"'portrait'.*'ffhq'.*--framing"):
        train(tmp_path / "run", photos=framed("photos", "portrait"), drawings=both["drawings"])
    with pytest.raises(Problem, match=r"framed 'ffhq'.*wants 'portrait'"):
        train(tmp_path / "run", framing="portrait", **both)
    assert names(tmp_path) == []
    train(tmp_path / "run", steps=1, framing="ffhq", **both)
    assert style.read_header(tmp_path / "run" / "best.safetensors")["framing"] == "ffhq"


def test_a_warning_where_only_one_side_is_as_it_is_or_whitened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = {"photos": framed("photos", "portrait", "sinet"), "drawings": framed("drawings", "as-is")}
    train(tmp_path / "run", steps=1, quiet=False, **sides)
    told = capsys.readouterr().err
    assert "warning: photos are framed 'portrait' and drawings 'as-is'" in told
    assert "warning: only the photos were put before a white background" in told
    header = style.read_header(tmp_path / "run" / "best.safetensors")
    assert (header["framing"], header["whiten"]) == ("portrait", "sinet")

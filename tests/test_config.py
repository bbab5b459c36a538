"""Presets, settings on top of them, and what a wrong one is answered with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asking import one_line
from fewtoon import config, methods
from fewtoon.config import Config, Train
from fewtoon.errors import Problem, nearest

PRESET = "ugatit-light"


def value(item: str) -> Any:
    """What `--set item` makes of its key."""
    loaded = config.load(PRESET, [item]).dump()
    name = item.split("=")[0].split(".")[-1]
    return {**loaded["model"], **loaded["train"]}[name]


# --- presets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", config.presets())
def test_every_shipped_preset_loads(preset: str) -> None:
    loaded = config.load(preset)
    assert loaded.method in methods.names()
    assert config.from_dict(loaded.dump()) == loaded
    assert config.differences(loaded.dump(), config.load(preset).dump()) == []


def test_presets_are_named() -> None:
    assert {"ugatit-light", "demo"} <= set(config.presets())


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: ugatit\nmodel: {channels: 8, learning_rate: 2e-4}\ntrain: {steps: '7'}\n")
    loaded = config.load(file, ["blocks=2"])
    assert (loaded.model.channels, loaded.model.blocks, loaded.train.steps) == (8, 2, 7)
    assert loaded.model.learning_rate == 2e-4  # which YAML 1.1 reads as text
    file.write_text("method: ugatit\ntrain:\n")
    assert config.load(file) == config.from_dict({"method": "ugatit"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ugatit-lite", ["unknown preset 'ugatit-lite'", "did you mean 'ugatit-light'"]),
        ("zzz", ["unknown preset 'zzz'", "known: aggan, cartoongan", "ugatit-small"]),
        ("", ["unknown preset ''"]),
        ("none.yaml", ["'none.yaml' does not exist", "ugatit-light"]),
    ],
)
def test_unknown_presets(name: str, words: list[str]) -> None:
    one_line(partial(config.load, name), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["must name its method"]),
        ("- a\n- b", ["must name its method"]),
        ("train: {steps: 5}", ["must name its method"]),
        ("method: [", ["not readable YAML"]),
        ("a:\tb\n\t- c", ["not readable YAML"]),
        ("[" * 3000, ["not readable YAML"]),
        ("method: ugatit\0", ["not readable YAML"]),
        ("method: !!python/object/apply:os.system [ls]", ["not readable YAML"]),
        ("method: ugatti", ["unknown method 'ugatti'", "did you mean 'ugatit'"]),
        ("method:", ["unknown method 'None'", "ugatit"]),
        ("method: base", ["unknown method 'base'"]),
        ("method: ugatit\ntrian: {steps: 5}", ["unknown key 'trian'", "did you mean 'train'"]),
        ("method: ugatit\n5: {}", ["unknown key 5"]),
        ("method: ugatit\ntrain: {stpes: 5}", ["unknown key 'train.stpes'", "did you mean 'steps'"]),
        ("method: ugatit\nmodel: {chanels: 5}", ["unknown key 'model.chanels'", "did you mean 'channels'"]),
        ("method: ugatit\ntrain: {5: 1}", ["train"]),
        ("method: ugatit\ntrain: {steps: {a: 1}}", ["train.steps = {'a': 1}"]),
        ("method: ugatit\ntrain: {steps: many}", ["train.steps = 'many'", "integer"]),
        ("method: ugatit\nmodel: [1]", ["model: expected keys and values, found [1]"]),
        ("method: ugatit\nmodel: light", ["model: expected keys and values, found 'light'"]),
        ("method: ugatit\ntrain: 5", ["train: expected keys and values, found 5"]),
    ],
)
def test_presets_that_are_wrong(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    one_line(partial(config.load, file), *words)
    one_line(partial(config.load, file, ["seed=5"]))


def test_a_preset_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes("# für Gesichter\nmethod: ugatit\n".encode("latin-1"))
    assert config.load(file).method == "ugatit"
    file.write_bytes("method: ugatit\n".encode("utf-16"))
    one_line(partial(config.load, file))


# --- --set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("steps=5", 5),
        ("train.steps=5", 5),
        ("steps=1e5", 100_000),
        ("learning_rate=1e-4", 1e-4),
        ("model.learning_rate=0.01", 0.01),
        ("pool=null", None),
        ("pool=~", None),
        ("micro_batch=null", None),
        ("groups=[woman, man]", ["woman", "man"]),
        ("groups=null", None),
        ("compile=true", True),
        ("flip=no", False),
        ("precision=fp32", "fp32"),
        ("features=inception:/models/a b=c.pth", "inception:/models/a b=c.pth"),
        ("norm=adain", "adain"),
    ],
)
def test_set(item: str, expected: Any) -> None:
    found = value(item)
    assert found == expected
    assert type(found) is type(expected)


def test_the_last_set_wins_and_the_preset_stays() -> None:
    assert config.load(PRESET, ["steps=5", "train.steps=6"]).train.steps == 6
    assert config.load(PRESET).train.steps == 1_000_000


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("steps", ["write key=value"]),
        ("", ["write key=value"]),
        ("=5", ["unknown key ''"]),
        ("stpes=5", ["unknown key 'stpes'", "did you mean 'steps'"]),
        ("train.stpes=5", ["unknown key 'train.stpes'", "'train.steps'"]),
        ("train.channels=5", ["unknown key 'train.channels'", "'model.channels'"]),
        ("method=ugatit", ["unknown key 'method'"]),
        ("steps=many", ["train.steps = 'many'"]),
        ("steps=", ["train.steps = None"]),
        ("steps=1.5", ["train.steps = 1.5"]),
        ("steps=0", ["train.steps = 0", "greater than or equal to 1"]),
        ("steps=[", ["'[' is not a YAML value"]),
        ("steps=" + "[" * 3000, ["is not a YAML value"]),
        ("steps=!!python/name:os.system x", ["is not a YAML value"]),
        ("precision=fp16", ["train.precision = 'fp16'", "'fp32' or 'bf16'"]),
        ("norm=adalinn", ["model.norm = 'adalinn'", "'adalin'"]),
        ("groups=woman", ["train.groups = 'woman'", "list"]),
        ("ema=1", ["train.ema = 1", "less than 1"]),
        ("learning_rate=inf", ["model.learning_rate = inf", "finite"]),
        ("learning_rate=nan", ["model.learning_rate = nan", "finite"]),
        ("cycle_weight=-1", ["model.cycle_weight = -1"]),
        ("micro_batch=3", ["micro_batch 3 does not divide batch 1"]),
    ],
)
def test_set_that_is_wrong(item: str, words: list[str]) -> None:
    one_line(partial(config.load, PRESET, [item]), *words)


def test_a_key_of_both_rooms_must_be_written_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fewtoon.methods.base import Method

    class Double(Method):
        name = "double"

        class Config(config.Strict):
            batch: int = 3

    monkeypatch.setattr(methods, "find", lambda name: Double)
    file = tmp_path / "double.yaml"
    file.write_text("method: double\n")
    one_line(partial(config.load, file, ["batch=2"]), "'batch' could be model.batch or train.batch")
    loaded = config.load(file, ["model.batch=5", "train.batch=2"])
    assert (loaded.model.batch, loaded.train.batch) == (5, 2)


# --- what may change -------------------------------------------------------------------------------------


def test_differences() -> None:
    old = config.load(PRESET).dump()
    new = config.load(PRESET, ["steps=5", "log_every=7", "seed=3", "channels=8", "groups=[a]"]).dump()
    expected = ["model.channels: 64 -> 8", "train.groups: None -> ['a']", "train.seed: 0 -> 3"]
    assert config.differences(old, new) == expected
    assert config.differences(old, old) == []


def test_lengths_and_cadences_may_change_and_nothing_else() -> None:
    free = {"steps", "log_every", "state_every", "keep_states", "preview_every", "preview_pictures"}
    free |= {"metric_every", "metric_pictures"}
    checks = {"framing": "ffhq"}  # not what is trained, but what is checked before
    other: dict[str, Any] = {"batch": 4, "micro_batch": 2, "seed": 9, "precision": "bf16", "compile": True}
    other |= {"ema": 0.5, "decay_from": 0.1, "flip": False, "enlarge": 1.5, "groups": ["a"]}
    other |= {"features": "inception:x", "sampling": "tempered", "temper": 0.2}
    assert free | checks.keys() | other.keys() == Train.model_fields.keys(), "may the new field change?"
    old = config.from_dict({"method": "ugatit"}).dump()
    changed = {**{key: old["train"][key] + 1 for key in free}, **checks}
    assert config.differences(old, {**old, "train": {**old["train"], **changed}}) == []
    for key in other.keys() - {"micro_batch"}:
        lines = config.differences(old, {**old, "train": {**old["train"], key: other[key]}})
        assert [line.split(":")[0] for line in lines] == [f"train.{key}"]


def test_a_setting_that_is_newer_than_the_run_counts_as_its_default() -> None:
    new = config.load(PRESET).dump()
    old = {**new, "train": {k: v for k, v in new["train"].items() if k != "flip"}}
    assert config.differences(old, new) == []
    other = {**new, "train": {**new["train"], "flip": False}}
    assert config.differences(old, other) == ["train.flip: True -> False"]


# --- Config and helpers ----------------------------------------------------------------------------------


def test_every_field_of_train_has_a_default_within_its_limits() -> None:
    assert config.section(Train, None, "train") == config.from_dict({"method": "ugatit"}).train
    assert all(not field.is_required() for field in Train.model_fields.values())


def test_dump_is_plain_values() -> None:
    import json

    loaded = config.load(PRESET)
    assert isinstance(loaded, Config)
    assert config.from_dict(json.loads(json.dumps(loaded.dump()))) == loaded


def test_nearest() -> None:
    assert nearest("womam", ["old", "woman"]) == "did you mean 'woman'?"
    assert nearest("step", ["seed", "stop", "steps"]) == "did you mean 'steps' or 'stop'?"
    assert nearest("x", ["woman", "man"]) == "known: woman, man"
    assert nearest("x", []) == "known: none"


def test_a_problem_is_one_line() -> None:
    assert str(Problem("a\n  b\tc")) == "a b c"

"""One config tree: a preset file plus `--set key=value`, checked field by field before anything starts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fewtoon.errors import Problem, nearest


class Strict(BaseModel):
    """A config section: unknown keys and values of the wrong type are errors."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def changeable(default: Any, **limits: Any) -> Any:
    """A field that may change between the start of a run and its continuation."""
    return Field(default, json_schema_extra={"changeable": True}, **limits)


def local_file() -> Any:
    """A field that names a file which only the training needs; what is sent to others does not mention it."""
    return Field(None, json_schema_extra={"local_file": True})


def portable(section: Strict) -> dict[str, Any]:
    """Plain values of a section, without the names of local files."""
    fields = type(section).model_fields
    hidden = {
        name
        for name, field in fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("local_file")
    }
    return {name: None if name in hidden else value for name, value in section.model_dump().items()}


class Train(Strict):
    """What the training loop does, whatever the method."""

    # Lengths and cadences: these may change when a run is continued.
    steps: int = changeable(100_000, ge=1)  # updates in all; each sees `batch` photos and `batch` drawings
    log_every: int = changeable(50, ge=1)  # steps between lines of log.jsonl
    state_every: int = changeable(1000, ge=1)  # steps between saved states
    keep_states: int = changeable(2, ge=1)  # newest states kept
    preview_every: int = changeable(1000, ge=1)  # steps between preview grids
    metric_every: int = changeable(1000, ge=1)  # steps between held-out KIDs, which choose best.safetensors
    metric_pictures: int = changeable(256, ge=2)  # held-out photos and drawings used for that KID, at most
    preview_pictures: int = changeable(6, ge=1)  # rows of the preview grid

    # How faces must lie in both packs, see `fewtoon prepare --help`; packs of "as-is" are taken on trust.
    framing: Literal["portrait", "ffhq"] | None = changeable(None)

    # What the training computes: these are fixed once a run has started.
    batch: int = Field(1, ge=1)  # photos, and drawings, per update
    micro_batch: int | None = Field(None, ge=1)  # at once on the device; None: the whole batch
    seed: int = Field(0, ge=0)  # every random draw is a function of (seed, step)
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; statistics and losses stay in fp32
    compile: bool = False  # torch.compile the networks (needs a C++ compiler on a CPU)
    ema: float = Field(0.999, ge=0, lt=1)  # decay of the averaged weights, per update; 0: the last weights
    decay_from: float = Field(0.5, ge=0, le=1)  # share of the steps after which the rate falls linearly to 0
    flip: bool = True  # mirror half of the pictures
    enlarge: float = Field(286 / 256, ge=1, le=2)  # enlarge by this and crop back at random; 1: no crop
    groups: list[str] | None = None  # train on these groups only; None: all
    # How often a group's turn comes, see fewtoon.engine.sampling; all but proportional need groups.
    sampling: Literal["proportional", "round-robin", "one-per-group", "tempered"] = "proportional"
    temper: float = Field(0.5, ge=0, le=1)  # of tempered: 0 all groups alike, 1 by their drawings
    features: str = "tiny"  # feature network of the held-out KID, see `fewtoon evaluate --help`

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> Train:
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {self.batch}")
        return self


class Config(BaseModel):
    """A run: which method with which settings, and how it is trained."""

    model_config = ConfigDict(extra="forbid")

    method: str
    model: Any  # the method's own Config
    train: Train

    def dump(self) -> dict[str, Any]:
        """Plain values, as written to config.yaml."""
        return {"method": self.method, "model": self.model.model_dump(), "train": self.train.model_dump()}


# --- presets and --set -----------------------------------------------------------------------------------


def presets() -> list[str]:
    """Names of the presets that ship with fewtoon."""
    folder = resources.files("fewtoon") / "presets"
    return sorted(p.name[: -len(".yaml")] for p in folder.iterdir() if p.name.endswith(".yaml"))


def load(preset: str | Path, sets: Sequence[str] = ()) -> Config:
    """The config of `preset` (a shipped name, or a YAML file) with `sets` ("key=value") on top.

    A key may be written in full (`train.steps`) or by its last part (`steps`) where that is unambiguous.
    Raises Problem for an unknown preset, key or value, naming the nearest known one.
    """
    return from_dict(_with_sets(_read(preset), sets))


def from_dict(tree: dict[str, Any]) -> Config:
    """A checked config from plain values. Raises Problem."""
    from fewtoon import methods

    for key in tree:
        if key not in ("method", "model", "train"):
            raise Problem(f"unknown key {key!r} in the config; {nearest(key, ['method', 'model', 'train'])}")
    method = methods.find(str(tree.get("method", "")))
    return Config(
        method=method.name,
        model=section(method.Config, tree.get("model"), "model"),
        train=section(Train, tree.get("train"), "train"),
    )


def section(kind: type[Strict], values: Any, where: str) -> Any:
    """`values` as a checked `kind`. Raises Problem with the key, the value and the remedy."""
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise Problem(f"{where}: expected keys and values, found {values!r}")
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Problem(f"unknown key '{where}.{name}'; {nearest(name, kind.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        told = f"{where}.{name} = {first['input']!r}: " if name else f"{where}: "
        raise Problem(told + message) from None
    except TypeError as error:  # keys that are not strings
        raise Problem(f"{where}: {error}") from None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines 'key: old -> new' for every key of two dumped configs that differs and may not change.

    A setting that did not exist yet when `old` was written counts as its default.
    """
    with contextlib.suppress(Problem):
        old = from_dict(old).dump()
    free = {
        f"train.{name}"
        for name, field in Train.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("changeable")
    }
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, '(none)')} -> {after.get(key, '(none)')}"
        for key in sorted(before.keys() | after.keys())
        if key not in free and before.get(key, math.nan) != after.get(key, math.nan)
    ]


def _read(preset: str | Path) -> dict[str, Any]:
    name = str(preset)
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise Problem(
                f"preset file {name!r} does not exist; name a YAML file or one of: {', '.join(presets())}"
            )
        text = path.read_text(encoding="utf-8", errors="replace")
    elif name in presets():
        text = (resources.files("fewtoon") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise Problem(f"unknown preset {name!r}; {nearest(name, presets())}")
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: 2020-13-45 is no date
        raise Problem(f"preset {name!r} is not readable YAML: {error}") from None
    if not isinstance(tree, dict) or "method" not in tree:
        raise Problem(f"preset {name!r} must name its method, for example 'method: ugatit'")
    return tree


def _with_sets(tree: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    from fewtoon import methods

    method = methods.find(str(tree.get("method", "")))
    known = [f"model.{k}" for k in method.Config.model_fields] + [f"train.{k}" for k in Train.model_fields]
    for room in ("model", "train"):
        if not isinstance(tree.get(room) or {}, dict):
            raise Problem(f"{room}: expected keys and values, found {tree[room]!r}")
    tree = {**tree, "model": dict(tree.get("model") or {}), "train": dict(tree.get("train") or {})}
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise Problem(f"setting {item!r}: write key=value, for example --set train.steps=20000")
        matches = [k for k in known if k == key] or [k for k in known if k.split(".", 1)[1] == key]
        if not matches:
            names = known if "." in key else [k.split(".", 1)[1] for k in known]
            raise Problem(f"setting {item!r}: unknown key {key!r}; {nearest(key, names)}")
        if len(matches) > 1:
            raise Problem(f"setting {item!r}: {key!r} could be {' or '.join(matches)}; write it in full")
        room, name = matches[0].split(".", 1)
        try:
            tree[room][name] = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            raise Problem(f"setting {item!r}: {text!r} is not a YAML value") from None
        if isinstance(tree[room][name], str):  # YAML 1.1 reads 1e-4 as text
            with contextlib.suppress(ValueError):
                tree[room][name] = float(text)
    return tree


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found

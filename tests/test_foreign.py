"""Importers: checkpoints in the original layouts, written by inverting our names, and files that mean harm."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pickle
import re
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewtoon
from asking import one_line
from fewtoon import cli
from fewtoon.errors import Problem
from fewtoon.io import foreign, weights
from fewtoon.methods.ugatit import UGATIT
from fewtoon.nets.ugatit import Discriminator, discriminator_layers

State = dict[str, Tensor]


pytestmark = pytest.mark.filterwarnings(
    "error::UserWarning"
)  # what a file makes torch say must not reach the user


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


# --- our weights under their names -----------------------------------------------------------------------


def small(size: int = 16, **settings: Any) -> Any:
    given = {"channels": 4, "blocks": 2, "published_attention": True, **settings}
    return UGATIT(UGATIT.Config(**given), size)


CAM = {
    "cam.average": "gap_fc",
    "cam.maximum": "gmp_fc",
    "cam.mix": "conv1x1",
    "style1": "FC.0",
    "style2": "FC.2",
}
RESNET = {**CAM, "stem": "DownBlock.1", "down1": "DownBlock.5", "down2": "DownBlock.9", "gamma": "gamma"}
RESNET |= {"beta": "beta", "up1": "UpBlock2.2", "up1_norm": "UpBlock2.3", "up2": "UpBlock2.7"}
RESNET |= {"up2_norm": "UpBlock2.8", "head": "UpBlock2.11"}
HOURGLASS = {**CAM, "stem": "ConvBlock1.1", "down1": "DownBlock1.1", "down2": "DownBlock2.1"}
HOURGLASS |= {"up1": "UpBlock1.2", "up1_norm": "UpBlock1.3", "up2": "UpBlock2.2", "up2_norm": "UpBlock2.3"}
HOURGLASS |= {"head": "ConvBlock2.1"}


def published_name(key: str, hourglass: bool) -> str:
    """Our name of a generator's tensor -> the published one."""
    stem, last = key.rsplit(".", 1)
    parts = key.split(".")
    if stem in (names := HOURGLASS if hourglass else RESNET):
        return f"{names[stem]}.{last}"
    if parts[0] == "encoder":
        number, place = int(parts[1]), {"conv1": 1, "conv2": 5}[parts[2]]
        block = f"EncodeBlock{number + 1}" if hourglass else f"DownBlock.{number + 12}"
        return f"{block}.conv_block.{place}.weight"
    if parts[0] == "decoder" and not hourglass:
        return f"UpBlock1_{int(parts[1]) + 1}.{'.'.join(parts[2:])}"
    if parts[0] == "decoder":
        rest = ".".join(parts[2:]).replace(".rho", ".norm.rho")
        rest = re.sub(r"content_(gamma|beta)", r"c_\1", re.sub(r"style_(gamma|beta)", r"s_\1", rest))
        return f"DecodeBlock{int(parts[1]) + 1}.{rest}"
    glass, part = f"HourGlass{parts[0][-1]}", parts[1]
    if part in ("rgb", "back", "rgb_back"):
        return f"{glass}.{ {'rgb': 'Conv1', 'back': 'Conv2', 'rgb_back': 'Conv3'}[part] }.{last}"
    if part == "squeeze":
        return f"{glass}.HG.2.weight"
    conv = f"ConvBlock{parts[-2][-1]}.3.weight"
    if part == "after":
        return f"{glass}.HG.1.{conv}"
    if part == "centre":
        return f"{glass}.HG.0.ConvBlock5.{conv}"
    number = int(parts[2])
    block = {"skips": f"{number + 1}_1", "downs": f"{number + 1}_2", "ups": f"{number + 6}"}[part]
    return f"{glass}.HG.0.ConvBlock{block}.{conv}"


def published_generator(network: Any, hourglass: bool = False) -> State:
    state: State = {}
    for key, tensor in network.state_dict().items():
        last = key.rsplit(".", 1)[-1]
        if last in ("rho",) or ("up" in key and last in ("gamma", "beta")):
            tensor = tensor.view(1, -1, 1, 1)
        elif last in ("w_gamma", "w_beta"):
            tensor = tensor[None]
        elif key.endswith("mix.weight"):
            tensor = tensor[:, :, None, None]
        state[published_name(key, hourglass)] = tensor.detach().clone(memory_format=torch.contiguous_format)
    if hourglass:  # a 1x1 shortcut that is in the file and never used
        state["HourGlass1.HG.0.ConvBlock1_1.ConvBlock4.2.weight"] = torch.rand(4, 4, 1, 1)
        state["HourGlass4.HG.1.ConvBlock4.2.weight"] = torch.rand(4, 4, 1, 1)
    return state


def published_discriminator(
    network: Any, parametrized: bool = False, group: str = "group_classfier"
) -> State:
    """As torch's older hook-based spectral norm names its tensors, or the newer parametrization."""
    names = {"cam_average": "gap_fc", "cam_maximum": "gmp_fc", "last": "conv", "group": group}
    ours, state = network.state_dict(), {}
    for key, tensor in ours.items():
        stem, last = key.rsplit(".", 1)
        if stem == "mix":
            state[f"conv1x1.{last}"] = tensor[:, :, None, None] if last == "weight" else tensor
            continue
        theirs = f"model.{3 * int(stem.split('.')[1]) + 1}" if stem.startswith("convs") else names[stem]
        if last == "v" and ours[f"{stem}.weight"].ndim == 4:
            i, kh, kw = ours[f"{stem}.weight"].shape[1:]
            tensor = tensor.view(kh, kw, i).permute(2, 0, 1).flatten()
        elif theirs == "conv_cls" and last == "weight":
            tensor = tensor[:, :, None, None]
        new = {"weight": "parametrizations.weight.original", "u": "parametrizations.weight.0._u"}
        new |= {"v": "parametrizations.weight.0._v", "bias": "bias"}
        old = {"weight": "weight_orig", "u": "weight_u", "v": "weight_v", "bias": "bias"}
        state[f"{theirs}.{(new if parametrized else old)[last]}"] = tensor.clone()
    return {key: tensor.contiguous() for key, tensor in state.items()}


def checkpoint(method: Any, parametrized: bool = False) -> dict[str, State]:
    hourglass = method.config.generator == "hourglass"
    tree = {}
    for theirs, ours in foreign.NETWORKS.items():
        network = method.networks()[ours]
        tree[theirs] = (
            published_generator(network, hourglass)
            if theirs.startswith("gen")
            else published_discriminator(network, parametrized)
        )
    return tree


def saved(tree: Any, path: Path, legacy: bool = False) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture(scope="module")
def good() -> dict[str, State]:
    """A light U-GAT-IT generator in its original layout."""
    torch.manual_seed(0)
    return {"genA2B": published_generator(small().networks()["photo_to_drawing"])}


# --- what is known ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrized", [False, True])
@pytest.mark.parametrize(
    ("size", "settings", "found"),
    [
        (16, {}, "U-GAT-IT, light, 4 channels, 2 residual blocks"),
        (32, {"pool": None, "blocks": 1}, "U-GAT-IT, full, 32 px, 4 channels, 1 residual blocks"),
        (64, {"generator": "hourglass"}, "photo2cartoon, light, 4 channels, 2 residual blocks"),
        (64, {"generator": "hourglass", "pool": None}, "photo2cartoon, full, 64 px, 4 channels"),
    ],
    ids=str,
)
def test_a_checkpoint_comes_back_as_it_was(
    tmp_path: Path, size: int, settings: dict[str, Any], found: str, parametrized: bool
) -> None:
    method = small(size, **settings)
    for network in method.networks().values():
        for parameter in network.parameters():  # norms and mixing factors too: not as they start
            parameter.data.uniform_(-0.3, 0.3)
    path = saved(checkpoint(method, parametrized), tmp_path / "theirs.pt")
    read = foreign.read(path)
    assert found in read.describe()
    assert set(read.networks) == set(method.networks())
    for name, network in method.networks().items():
        expected = network.state_dict()
        assert set(read.networks[name]) == set(expected), name
        for key, tensor in expected.items():
            assert torch.equal(read.networks[name][key], tensor), f"{name}.{key}"

    out = tmp_path / "ours.safetensors"
    full = settings.get("pool", 1) is None
    assert found in foreign.import_style(path, out, None if full else size)
    style = fewtoon.load(out, "cpu")
    assert style.size == size
    photos = torch.rand(1, 3, size, size) * 2 - 1
    torch.testing.assert_close(style.translate(photos), method.translate(photos).detach().clamp(-1, 1))
    source = style.header["source"]
    assert source["file"] == "theirs.pt"
    assert source["system"] in found
    assert len(source["sha256"]) == 64


def test_group_head(tmp_path: Path) -> None:
    tree = checkpoint(small())
    for theirs, layers in zip(("disGB", "disLB"), discriminator_layers(16)):
        network = Discriminator(4, layers, groups=4)
        tree[theirs] = published_discriminator(network)
    read = foreign.read(saved(tree, tmp_path / "groups.pt"))
    assert read.system == "Face2Webtoon"
    assert read.networks["drawings_global"]["group.weight"].shape[0] == 4
    assert "Face2Webtoon" in foreign.import_style(tmp_path / "groups.pt", tmp_path / "s.safetensors", 16)


def test_module_prefixes_and_ordered_dicts(good: dict[str, State], tmp_path: Path) -> None:
    plain = foreign.read(saved(good, tmp_path / "a.pt")).networks["photo_to_drawing"]
    wrapped = collections.OrderedDict((f"module.{k}", v) for k, v in good["genA2B"].items())
    other = foreign.read(saved({"genA2B": wrapped}, tmp_path / "b.pt")).networks["photo_to_drawing"]
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_older_files_half_precision_and_parameters(good: dict[str, State], tmp_path: Path) -> None:
    expected = foreign.read(saved(good, tmp_path / "a.pt")).networks["photo_to_drawing"]
    legacy = foreign.read(saved(good, tmp_path / "b.pt", legacy=True)).networks["photo_to_drawing"]
    assert all(torch.equal(expected[key], legacy[key]) for key in expected)
    half = {"genA2B": {k: torch.nn.Parameter(v.half()) for k, v in good["genA2B"].items()}}
    rounded = foreign.read(saved(half, tmp_path / "c.pt")).networks["photo_to_drawing"]
    assert all(rounded[key].dtype == torch.float32 for key in expected)
    assert fewtoon.load(imported(tmp_path / "c.pt"), "cpu").size == 256  # any size works: the published one


def imported(path: Path, size: int | None = None) -> Path:
    out = path.with_suffix(".safetensors")
    foreign.import_style(path, out, size)
    return out


def test_sizes(good: dict[str, State], tmp_path: Path) -> None:
    path = saved(good, tmp_path / "light.pt")
    assert fewtoon.load(imported(path, 64), "cpu").size == 64
    for size in (3, 66, 0, -64):
        one_line(partial(foreign.import_style, path, tmp_path / "x.safetensors", size), f"size {size}")
    assert not (tmp_path / "x.safetensors").exists()
    full = small(32, pool=None)
    tree = {"genA2B": published_generator(full.networks()["photo_to_drawing"])}
    path = saved(tree, tmp_path / "full.pt")
    assert fewtoon.load(imported(path, 32), "cpu").size == 32
    one_line(partial(foreign.import_style, path, tmp_path / "x.safetensors", 64), "--size 64", "32 px")


# --- branches for groups ---------------------------------------------------------------------------------

OWN = re.compile(r"(ConvBlock1|HourGlass1|HourGlass4|ConvBlock2)(\..*)")  # what each group has for itself
ROW = re.compile(r"(gap_fc|gmp_fc)(\..*)")


def photo2cartoons(count: int) -> list[State]:
    """Generators in photo2cartoon's layout that share their trunk, and nothing that a group has for itself."""
    method, states = small(64, generator="hourglass"), []
    for _ in range(count):
        for parameter in method.networks()["photo_to_drawing"].parameters():
            parameter.data.uniform_(-0.3, 0.3)
        own = published_generator(method.networks()["photo_to_drawing"], hourglass=True)
        trunk = states[0] if states else own
        states.append({k: own[k] if OWN.fullmatch(k) or ROW.fullmatch(k) else trunk[k] for k in own})
    return states


def with_branches(states: list[State]) -> State:
    """Those generators as one, in few_shot_face2cartoon's layout."""
    state = {}
    for key, tensor in states[0].items():
        if row := ROW.fullmatch(key):
            state[f"{row[1]}_new{row[2]}"] = torch.cat([own[key] for own in states])
            continue
        state[key] = tensor
        if branch := OWN.fullmatch(key):
            for number, own in enumerate(states[1:], 1):
                state[f"{branch[1]}_{number}{branch[2]}"] = own[key]
    return state


@pytest.fixture(scope="module")
def branched() -> State:
    torch.manual_seed(0)
    return with_branches(photo2cartoons(3))


@pytest.mark.parametrize("names", [["women", "men", "kids", "old"], ["b", "a"]], ids=len)
def test_each_group_draws_by_its_own_tensors(tmp_path: Path, names: list[str]) -> None:
    count = len(names)
    there, back = photo2cartoons(count), photo2cartoons(count)
    tree = {"genA2B": with_branches(there), "genB2A": with_branches(back)}
    path, out = saved(tree, tmp_path / "groups.pt"), tmp_path / "groups.safetensors"
    line = foreign.import_style(path, out, 64, names)
    assert f"few_shot_face2cartoon, light, {count} groups, 4 channels, 2 residual blocks" in line
    style = fewtoon.load(out, "cpu")
    assert style.groups == names
    assert style.header["method"] == "groups"
    assert style.header["model"]["base"] == names[0]
    assert style.framing == "portrait"
    photos = torch.rand(2, 3, 64, 64) * 2 - 1
    drawings = []
    for number, (name, one, other) in enumerate(zip(names, there, back)):
        plain = fewtoon.load(
            imported(saved({"genA2B": one, "genB2A": other}, tmp_path / "one.pt"), 64), "cpu"
        )
        drawings.append(style.translate(photos, name))
        torch.testing.assert_close(drawings[-1], plain.translate(photos), atol=1e-5, rtol=0)
        for network, told in style.method.networks().items():
            drawn = told(photos, torch.full((2,), number))
            expected = plain.method.networks()[network](photos)
            torch.testing.assert_close(drawn.cam_logit, expected.cam_logit, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(drawn.image, expected.image, atol=1e-5, rtol=0)
    for drawing in drawings[1:]:
        assert (drawing - drawings[0]).abs().mean() > 0.01
    assert torch.equal(style.translate(photos), drawings[0])  # no reader: everybody as the first group
    one_line(partial(style.translate, photos, "auto"), "cannot read", names[1])


def test_discriminators_that_tell_groups_by_a_convolution(branched: State, tmp_path: Path) -> None:
    network = Discriminator(4, discriminator_layers(64)[0], groups=3, group_pooling="padded")
    state = published_discriminator(network, group="conv_cls")
    assert state["conv_cls.weight_orig"].ndim == 4
    read = foreign.read(saved({"genA2B": branched, "disGA": state}, tmp_path / "x.pt"))
    for key, tensor in network.state_dict().items():
        assert torch.equal(read.networks["photos_global"][key], tensor), key


def test_names_of_groups(
    branched: State, good: dict[str, State], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = saved({"genA2B": branched}, tmp_path / "x.pt"), tmp_path / "s.safetensors"
    verb = ["import", str(path), "--out", str(out), "--size", "64"]
    for given, words in (
        ("women,men", ("3 names", "not 2", "women,men")),
        ("a,b,c,d", ("3 names", "not 4")),
        ("", ("3 names", "not 1")),
        ("a,b,b", ("a name of its own",)),
        ("a,,b", ("a name of its own",)),
        ("a,b,auto", ("'auto'",)),
        ("all,b,c", ("'all'",)),
    ):
        assert cli.main([*verb, "--groups", given]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert all(word in told for word in words), told
    assert not out.exists()
    assert cli.main(verb) == 0
    assert fewtoon.load(out, "cpu").groups == ["0", "1", "2"]
    assert cli.main([*verb, "--groups", "women, men,kids"]) == 0
    assert fewtoon.load(out, "cpu").groups == ["women", "men", "kids"]
    path = saved(good, tmp_path / "y.pt")
    one_line(
        partial(foreign.import_style, path, out, 64, ["a", "b"]), "y.pt", "no branches", "leave --groups"
    )


def test_branches_that_do_not_fit(branched: State, tmp_path: Path) -> None:
    path, one = tmp_path / "x.pt", torch.zeros(1)
    cases: list[tuple[dict[str, Tensor | None], str]] = [
        ({"HourGlass4_2.*": None}, "no branch 'HourGlass4_2'"),
        ({"ConvBlock1_1.1.weight": None}, "no branch 'ConvBlock1_1'"),
        ({"ConvBlock2_3.1.weight": branched["ConvBlock2.1.weight"]}, "extra branch 'ConvBlock2_3'"),
        ({"ConvBlock2_0.1.weight": one}, "'ConvBlock2_0.1.weight'"),
        ({"HourGlass2_1.Conv1.weight": one}, "'HourGlass2_1.Conv1.weight'"),
        ({"ConvBlock1_2.1.weight": torch.zeros(4, 3, 3, 3)}, "others.2.stem.weight"),
        ({"HourGlass1_1.Conv1.bias": None}, "others.1.glass1.rgb.bias"),
        ({"HourGlass1_1.extra": one}, "'HourGlass1.extra'"),
        ({"gap_fc.weight": torch.zeros(1, 16)}, "'gap_fc.weight'"),
        ({"gap_fc_new.weight": None}, "no 'gap_fc_new.weight'"),
        ({"gap_fc_new.weight": torch.zeros(1, 16)}, "at least 2 rows"),
        ({"gap_fc_new.weight": torch.tensor(1.0)}, "at least 2 rows"),
        ({"gap_fc_new.weight": torch.zeros(4, 16)}, "'ConvBlock1_3', but is made for 4 groups"),
        ({"gmp_fc_new.weight": torch.zeros(2, 16)}, "expected 3 rows"),
        ({"gmp_fc_new.bias": torch.tensor(1.0)}, "expected 3 rows"),
        ({"gmp_fc_new.bias": None}, "generator.cam.maximum.bias"),
    ]
    for changes, word in cases:
        state = dict(branched)
        for key, tensor in changes.items():
            state = {k: v for k, v in state.items() if not re.fullmatch(key, k)}
            state |= {} if tensor is None else {key: tensor}
        one_line(partial(imported, saved({"genA2B": state}, path), 64), word, "x.pt")
    plain = photo2cartoons(1)[0]
    one_line(
        partial(imported, saved({"genA2B": branched, "genB2A": plain}, path), 64), "genB2A has no branch"
    )
    one_line(partial(imported, saved({"genA2B": plain, "genB2A": branched}, path), 64), "genB2A has a tensor")
    assert not list(tmp_path.glob("*.safetensors"))


# --- what does not fit -----------------------------------------------------------------------------------


def test_trees_that_are_no_checkpoint(good: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    generator = good["genA2B"]
    cases: list[tuple[Any, str]] = [
        ({}, "no checkpoint"),
        ([], "list"),
        (torch.zeros(2), "Tensor"),
        (None, "NoneType"),
        (generator, "DownBlock.1.weight"),
        ({"state": good}, "'state'"),
        ({"genB2A": generator}, "'genB2A'"),
        ({**good, "genC2D": generator}, "'genC2D'"),
        ({**good, 3: generator}, "unknown network 3"),
        ({"genA2B": None}, "'genA2B'"),
        ({"genA2B": [1]}, "'genA2B'"),
        ({"genA2B": {}}, "genA2B"),
        ({"genA2B": {**generator, "step": 3}}, "'genA2B'"),
        ({**good, "genB2A": {"gamma.weight": generator["gamma.weight"]}}, "drawing_to_photo"),
    ]
    for tree, word in cases:
        one_line(partial(imported, saved(tree, path)), word, "x.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_tensors_that_do_not_fit(good: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    zeros, one = torch.zeros, torch.zeros(1)
    cases: list[tuple[str, Tensor | None, str]] = [
        ("gamma.weight", None, "lacks"),
        ("gamma.weight", zeros(2, 2), "shape (2, 2)"),
        ("gamma.weight", torch.tensor(1.0), "shape ()"),
        ("conv1x1.weight", torch.tensor(1.0), "shape ()"),
        ("UpBlock2.3.rho", torch.tensor(1.0), "shape"),
        ("DownBlock.1.weight", zeros(0, 3, 7, 7), "neither"),
        ("DownBlock.1.weight", zeros(4, 3), "neither"),
        ("DownBlock.1.weight", None, "neither"),
        ("FC.0.weight", None, "neither"),
        ("FC.0.weight", zeros(16, 17), "size"),
        ("FC.0.weight", zeros(0, 0), "shape (0, 0)"),
        ("extra.weight", one, "'extra.weight'"),
        ("gap_fc_new.weight", one, "few-shot"),
        ("UpBlock1_9.conv1.weight", one, "decoder.8"),
        ("DownBlock.3.conv_block.1.weight", one, "encoder.-9"),
        (f"DownBlock.{'9' * 5000}.conv_block.1.weight", one, "no known version"),
        ("DownBlock.²².conv_block.1.weight", one, "no known version"),
    ]
    for key, tensor, word in cases:
        state = {k: v for k, v in good["genA2B"].items() if k != key}
        state |= {} if tensor is None else {key: tensor}
        one_line(partial(imported, saved({"genA2B": state}, path)), word)


def test_tensors_whose_numbers_are_not_all_there(good: dict[str, State], tmp_path: Path) -> None:
    """A few bytes must not claim terabytes, and weights are numbers."""
    path = tmp_path / "x.pt"
    right = good["genA2B"]["gamma.weight"]
    cases: list[tuple[str, Any]] = [
        ("FC.0.weight", torch.zeros(1).expand(16, 10**12)),
        ("gamma.weight", torch.zeros(1).half().expand(10**7, 10**7)),
        ("gamma.weight", right.to_sparse()),
        ("gamma.weight", torch.zeros(16, 16, device="meta")),
        ("gamma.weight", right.to(torch.complex64)),
        ("gamma.weight", right.int()),
        ("gamma.weight", 1.0),
    ]
    for key, value in cases:
        tree = {"genA2B": {**good["genA2B"], key: value}}
        one_line(partial(imported, saved(tree, path)), "not a state dict of tensors")


def test_a_discriminator_must_be_known_too(good: dict[str, State], tmp_path: Path) -> None:
    tree: dict[str, Any] = {**good, "disGB": {"norm.weight": torch.zeros(1)}}
    one_line(partial(imported, saved(tree, tmp_path / "x.pt")), "disGB", "'norm.weight'")
    odd = {"model.1.weight_orig": torch.zeros(4, 3, 4, 4), "model.1.weight_v": torch.zeros(5)}
    assert "drawings_global" in foreign.read(saved({**good, "disGB": odd}, tmp_path / "x.pt")).networks


# --- files that are torn, or mean harm -------------------------------------------------------------------


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = str(path), how

    def __reduce__(self) -> tuple[Any, ...]:
        if self.how == "exec":
            return (exec, (f"open({self.path!r}, 'w')",))
        if self.how == "open":
            return (open, (self.path, "w"))
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.parametrize("how", ["system", "exec", "open"])
def test_nothing_in_a_file_is_executed(good: dict[str, State], tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "x.pt", tmp_path / "harm"
    harm = Harm(trace, how)
    pickle.loads(pickle.dumps(harm))
    assert trace.exists()  # it does harm when it is let
    trace.unlink()
    for tree in ({**good, "extra": harm}, {"genA2B": {**good["genA2B"], "x": harm}}, harm):
        for legacy in (False, True):
            saved(tree, path, legacy)
            one_line(partial(imported, path), "refused")
            one_line(partial(foreign.read, path), "refused")
            assert not trace.exists()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"genA2B": harm}, protocol))
        one_line(partial(imported, path), "refused")
        assert not trace.exists()
    # A harmful pickle in place of the one inside a good zip file.
    with zipfile.ZipFile(saved(good, path)) as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(harm, 2) if name.endswith("data.pkl") else old.read(name))
    one_line(partial(imported, tmp_path / "y.pt"), "refused")
    assert not trace.exists()
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_is_refused_is_named(good: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for extra, word in (
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float32(3), "scalar"),
        (np.zeros(3), "_reconstruct"),
        (torch.nn.Linear(2, 2), "Linear"),
    ):
        text = one_line(
            partial(imported, saved({**good, "args": extra}, path)), word, "save its state dict alone"
        )
        assert "weights_only" not in text


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torn_file(good: dict[str, State], tmp_path: Path, legacy: bool) -> None:
    path = saved({"genA2B": dict(list(good["genA2B"].items())[-4:])}, tmp_path / "x.pt", legacy)
    data = path.read_bytes()
    for length in sorted({*range(0, 400, 7), *range(0, len(data), len(data) // 60)}):
        path.write_bytes(data[:length])
        one_line(partial(foreign.read, path), "x.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file(good: dict[str, State], tmp_path: Path, legacy: bool) -> None:
    """Whatever bytes are wrong: a Problem, or weights of which some numbers are wrong; nothing else."""
    path = saved({"genA2B": dict(list(good["genA2B"].items())[-4:])}, tmp_path / "x.pt", legacy)
    data, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        wrong = bytearray(data)
        for place in random.integers(0, min(len(data), 1500), random.choice([1, 3, 20])):
            wrong[place] = random.integers(256)
        path.write_bytes(wrong)
        with contextlib.suppress(Problem):
            foreign.read(path)


def test_other_kinds_of_files(good: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    empty_zip = io.BytesIO()
    zipfile.ZipFile(empty_zip, "w").close()
    for data in (
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff" * 2000,
        struct.pack("<Q", 1 << 60),
        empty_zip.getvalue(),
        pickle.dumps(5),
        pickle.dumps({"genA2B": {}}),
        np.random.default_rng(1).bytes(3000),
    ):
        path.write_bytes(data)
        one_line(partial(imported, path), "x.pt")
    with zipfile.ZipFile(path, "w") as archive:  # as TorchScript begins
        for name in ("constants.pkl", "data.pkl"):
            archive.writestr(f"x/{name}", pickle.dumps((), 2))
        archive.writestr("x/version", "3\n")
    assert "weights_only=False" not in one_line(partial(imported, path), "x.pt", "TorchScript")
    weights.write(path, {"a": torch.zeros(2)})
    one_line(partial(imported, path), "x.pt")
    one_line(partial(foreign.import_style, tmp_path / "none.pt", path), "none.pt", "does not exist")
    one_line(partial(foreign.import_style, tmp_path, path), "does not exist")


def test_the_verb(good: dict[str, State], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = saved(good, tmp_path / "x.pt"), tmp_path / "s.safetensors"
    assert cli.main(["import", str(path), "--out", str(out), "--size", "32"]) == 0
    told = capsys.readouterr()
    assert "U-GAT-IT, light, 4 channels" in told.out
    assert out.is_file()
    before = out.read_bytes()
    path.write_bytes(path.read_bytes()[:1000])
    assert cli.main(["import", str(path), "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fewtoon: ")
    assert told.err.count("\n") == 1
    assert out.read_bytes() == before


def test_the_checkpoint_is_never_replaced(good: dict[str, State], tmp_path: Path) -> None:
    path = saved(good, tmp_path / "weights.pt")
    before = path.read_bytes()
    with pytest.raises(Problem, match="the checkpoint itself"):
        foreign.import_style(path, path)
    assert path.read_bytes() == before

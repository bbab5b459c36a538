"""StyleGAN2 checkpoints: each tensor finds its place, files come back byte for byte, hostile ones do nothing."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import os
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from fewtoon import config, methods
from fewtoon.errors import Problem
from fewtoon.io import pickled, stylegan, stylegan_plain, weights
from fewtoon.nets.stylegan2 import Discriminator, Generator

ROOT = (
    Path(os.environ.get("FEWTOON_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))
    / "stylegan2"
)
golden = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"no golden values at {ROOT}; set FEWTOON_REFERENCE to their folder"
)

SIZE, CHANNELS, STYLE, LAYERS = 16, [6, 5, 4], 7, 2
KERNEL = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


# --- files as the two systems write them, names spelled out once more -----------------------------------------


def nvidia_states(latent=STYLE, classes=0):
    """(generator, discriminator) as NVIDIA names them: name -> tensor."""
    random = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=random)

    def affine(name, inside):
        return {f"{name}.affine.weight": draw(inside, STYLE), f"{name}.affine.bias": draw(inside) + 1}

    g = {"mapping.w_avg": draw(STYLE), "synthesis.b4.const": draw(CHANNELS[0], 4, 4)}
    if classes:
        g |= {"mapping.embed.weight": draw(STYLE, classes), "mapping.embed.bias": draw(STYLE)}
    for i, inside in enumerate([latent + (STYLE if classes else 0), STYLE]):
        g |= {f"mapping.fc{i}.weight": draw(STYLE, inside) * 100, f"mapping.fc{i}.bias": draw(STYLE)}
    d = {
        "b16.fromrgb.weight": draw(4, 3, 1, 1),
        "b16.fromrgb.bias": draw(4),
        "b16.fromrgb.resample_filter": KERNEL,
    }
    before = None
    for r, c in zip((4, 8, 16), CHANNELS):
        block = f"synthesis.b{r}"
        g[f"{block}.resample_filter"] = KERNEL
        for name, inside in (("conv0", before), ("conv1", c)):
            if inside:
                layer = f"{block}.{name}"
                g |= {
                    f"{layer}.weight": draw(c, inside, 3, 3),
                    f"{layer}.bias": draw(c),
                    **affine(layer, inside),
                }
                g |= {f"{layer}.noise_strength": draw(), f"{layer}.noise_const": draw(r, r)}
                g[f"{layer}.resample_filter"] = KERNEL
        g |= {
            f"{block}.torgb.weight": draw(3, c, 1, 1),
            f"{block}.torgb.bias": draw(3),
            **affine(f"{block}.torgb", c),
        }
        if before:
            d[f"b{r}.resample_filter"] = KERNEL
            d |= {f"b{r}.conv0.weight": draw(c, c, 3, 3), f"b{r}.conv0.bias": draw(c)}
            d |= {f"b{r}.conv1.weight": draw(before, c, 3, 3), f"b{r}.conv1.bias": draw(before)}
            d[f"b{r}.skip.weight"] = draw(before, c, 1, 1)
            d |= {f"b{r}.{name}.resample_filter": KERNEL for name in ("conv0", "conv1", "skip")}
        before = c
    first, out = CHANNELS[0], CHANNELS[0] if classes else 1
    d |= {"b4.conv.weight": draw(first, first + 1, 3, 3), "b4.conv.bias": draw(first)}
    d |= {
        "b4.fc.weight": draw(first, 16 * first),
        "b4.fc.bias": draw(first),
        "b4.conv.resample_filter": KERNEL,
    }
    d |= {"b4.out.weight": draw(out, first), "b4.out.bias": draw(out)}
    if classes:
        d |= {"mapping.embed.weight": draw(first, classes), "mapping.embed.bias": draw(first)}
        for i in range(8):
            d |= {f"mapping.fc{i}.weight": draw(first, first), f"mapping.fc{i}.bias": draw(first)}
    return g, d


def rosinality_states():
    """The same numbers as rosinality names them, and latent_avg."""
    theirs, judge = nvidia_states()
    g = {"input.input": theirs["synthesis.b4.const"][None]}
    for i in range(LAYERS):
        g |= {f"style.{i + 1}.{kind}": theirs[f"mapping.fc{i}.{kind}"] for kind in ("weight", "bias")}
    for name, layer, noise in (
        ("conv1", "b4.conv1", 0),
        ("convs.0", "b8.conv0", 1),
        ("convs.1", "b8.conv1", 2),
        ("convs.2", "b16.conv0", 3),
        ("convs.3", "b16.conv1", 4),
    ):
        own = {
            key.split(f"synthesis.{layer}.")[-1]: value
            for key, value in theirs.items()
            if f".{layer}." in key
        }
        g |= {f"{name}.conv.weight": own["weight"][None], f"{name}.activate.bias": own["bias"]}
        g |= {f"{name}.conv.modulation.{kind}": own[f"affine.{kind}"] for kind in ("weight", "bias")}
        g[f"{name}.noise.weight"] = own["noise_strength"].reshape(1)
        g[f"noises.noise_{noise}"] = own["noise_const"][None, None]
    for name, block in (("to_rgb1", "b4"), ("to_rgbs.0", "b8"), ("to_rgbs.1", "b16")):
        own = {key.split(".torgb.")[-1]: value for key, value in theirs.items() if f".{block}.torgb." in key}
        g |= {f"{name}.conv.weight": own["weight"][None], f"{name}.bias": own["bias"].reshape(1, 3, 1, 1)}
        g |= {f"{name}.conv.modulation.{kind}": own[f"affine.{kind}"] for kind in ("weight", "bias")}
    g |= {f"convs.{n}.conv.blur.kernel": KERNEL * 4 for n in (0, 2)}
    g |= {f"to_rgbs.{n}.upsample.kernel": KERNEL * 4 for n in (0, 1)}
    d = {"convs.0.0.weight": judge["b16.fromrgb.weight"], "convs.0.1.bias": judge["b16.fromrgb.bias"]}
    for i, r in ((1, 16), (2, 8)):
        d |= {f"convs.{i}.conv1.0.weight": judge[f"b{r}.conv0.weight"], f"convs.{i}.conv2.0.kernel": KERNEL}
        d |= {f"convs.{i}.conv1.1.bias": judge[f"b{r}.conv0.bias"], f"convs.{i}.skip.0.kernel": KERNEL}
        d |= {f"convs.{i}.conv2.1.weight": judge[f"b{r}.conv1.weight"]}
        d |= {f"convs.{i}.conv2.2.bias": judge[f"b{r}.conv1.bias"]}
        d |= {f"convs.{i}.skip.1.weight": judge[f"b{r}.skip.weight"]}
    d |= {"final_conv.0.weight": judge["b4.conv.weight"], "final_conv.1.bias": judge["b4.conv.bias"]}
    for i, name in enumerate(("fc", "out")):
        d |= {f"final_linear.{i}.{kind}": judge[f"b4.{name}.{kind}"] for kind in ("weight", "bias")}
    return g, d, theirs["mapping.w_avg"]


def rosinality_file(path, change=lambda tree: None, **more):
    g, d, average = rosinality_states()
    tree = {"g_ema": g, "g": {k: v + 1 for k, v in g.items()}, "d": d, "latent_avg": average, **more}
    change(tree)
    torch.save(tree, path)
    return path


class Persistent:
    """An object that pickles itself as NVIDIA's persistent classes do."""

    def __init__(self, class_name, state):
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit",
            "class_name": self.class_name,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (
            {**meta, "state": self.state},
        )


@pytest.fixture
def nvidia_modules(monkeypatch):
    """Modules with the names that a pickle is to mention."""
    for name in (
        "dnnlib",
        "dnnlib.util",
        "dnnlib.tflib",
        "dnnlib.tflib.network",
        "torch_utils",
        "torch_utils.persistence",
    ):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("a pickle was executed")

    for place, thing in (
        ("torch_utils.persistence", _reconstruct_persistent_obj),
        ("dnnlib.util", type("EasyDict", (dict,), {})),
        ("dnnlib.tflib.network", type("Network", (), {})),
    ):
        thing.__module__, thing.__qualname__ = place, thing.__name__
        setattr(sys.modules[place], thing.__name__, thing)


def persistent(class_name, state, frozen=(), **kwargs):
    """A tree of modules that holds `state`; filters, noise, averages and what starts with `frozen` are buffers."""
    root = {"training": False, "_parameters": collections.OrderedDict(), "_buffers": {}, "_modules": {}}
    root |= {"_non_persistent_buffers_set": set(), "_backward_hooks": collections.OrderedDict()}
    top = copy.deepcopy(root)
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = top
        for part in path:
            inner = module["_modules"].setdefault(part, Persistent("Layer", copy.deepcopy(root)))
            module = inner.state
        buffer = last in ("resample_filter", "noise_const", "w_avg") or name.startswith(tuple(frozen))
        kept = tensor.clone() if buffer else torch.nn.Parameter(tensor.clone(), requires_grad=False)
        module["_buffers" if buffer else "_parameters"][last] = kept
    top["_parameters"]["bias"] = None
    top |= {"gain": np.float64(2.0), "kind": torch.float32, "shape": torch.Size([1]), "_init_args": ()}
    top["_init_kwargs"] = easy({name: easy(v) if isinstance(v, dict) else v for name, v in kwargs.items()})
    return Persistent(class_name, top)


def easy(entries):
    return sys.modules["dnnlib.util"].EasyDict(entries)


def nvidia_tree(latent=STYLE, classes=0, frozen=(), g=None, d=None):
    drawer, judge = nvidia_states(latent, classes)
    common = {"c_dim": classes, "img_resolution": SIZE, "img_channels": 3}
    synthesis = {"channel_base": 64, "channel_max": 6, "num_fp16_res": 4, "conv_clamp": 256}
    told = {
        "z_dim": latent,
        "w_dim": STYLE,
        "mapping_kwargs": {"num_layers": 2},
        "synthesis_kwargs": synthesis,
    }
    judged = {
        "conv_clamp": 256,
        "block_kwargs": {"freeze_layers": 3},
        "epilogue_kwargs": {"mbstd_group_size": 8},
    }
    generator = persistent("Generator", drawer, **common, **{**told, **(g or {})})
    discriminator = persistent("Discriminator", judge, frozen, **common, **{**judged, **(d or {})})
    return {"training_set_kwargs": {"path": "x.zip"}, "G": generator, "D": discriminator, "G_ema": generator}


def nvidia_file(path, protocol=4, change=lambda tree: None, **told):
    tree = nvidia_tree(**told)
    change(tree)
    path.write_bytes(pickle.dumps(tree, protocol))
    return path


def equal(a, b):
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype == torch.float32
        assert a[key].shape == b[key].shape
        assert a[key].numpy().tobytes() == b[key].numpy().tobytes(), key


def built(found):
    m = found.model
    drawer = Generator(
        found.size, m["channels"], m["latent"], m["style"], m["mapping_layers"], m["clamp"], m["classes"]
    )
    weights.fill(drawer, found.networks["generator"], "generator")
    judge = Discriminator(found.size, m["channels"], m["clamp"], m["deviation_group"], m["classes"])
    weights.fill(judge, found.networks["discriminator"], "discriminator")
    return drawer, judge


def refused(path, *words):
    with pytest.raises(Problem) as caught:
        stylegan.read(path)
    text = str(caught.value)
    assert len(text) < 500
    for word in words:
        assert word in text
    return text


# --- what is in them -------------------------------------------------------------------------------------------


MODEL = {
    "channels": CHANNELS,
    "latent": STYLE,
    "style": STYLE,
    "mapping_layers": LAYERS,
    "clamp": None,
    "deviation_group": 4,
    "classes": 0,
}


def test_both_systems_give_the_same_networks(tmp_path, nvidia_modules):
    theirs = stylegan.read(nvidia_file(tmp_path / "a.pkl"))
    found = stylegan.read(rosinality_file(tmp_path / "a.pt"))
    assert found.model == MODEL
    assert theirs.model == MODEL | {"clamp": 256.0, "deviation_group": 8}
    assert (found.size, found.lacks, theirs.size, theirs.lacks) == (SIZE, (), SIZE, ())
    for name in ("generator", "discriminator"):
        ours = found.networks[name]
        equal({key: theirs.networks[name][key] for key in ours}, ours)
        assert theirs.networks[name].keys() == ours.keys()
    assert "16 px, channels 6/5/4" in found.describe()
    assert "clamped at 256" in theirs.describe()


def test_every_tensor_is_where_it_belongs(tmp_path, nvidia_modules):
    g, d = nvidia_states()
    networks = stylegan.read(nvidia_file(tmp_path / "a.pkl")).networks
    for ours, theirs in (
        ("mapping.average", "mapping.w_avg"),
        ("mapping.layers.1.weight", "mapping.fc1.weight"),
        ("synthesis.blocks.4.conv.noise", "synthesis.b4.conv1.noise_const"),
        ("synthesis.blocks.16.up.weight", "synthesis.b16.conv0.weight"),
        ("synthesis.blocks.8.conv.strength", "synthesis.b8.conv1.noise_strength"),
        ("synthesis.blocks.16.rgb.affine.bias", "synthesis.b16.torgb.affine.bias"),
    ):
        assert torch.equal(networks["generator"][ours], g[theirs])
    for ours, theirs in (
        ("rgb.weight", "b16.fromrgb.weight"),
        ("blocks.8.down.bias", "b8.conv1.bias"),
        ("blocks.16.skip.weight", "b16.skip.weight"),
        ("last.hidden.weight", "b4.fc.weight"),
    ):
        assert torch.equal(networks["discriminator"][ours], d[theirs])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, nvidia_modules, protocol):
    path = nvidia_file(tmp_path / "a.pkl", protocol, frozen=("b16",))
    tree = pickled.read(path)
    for name, state in zip(("G_ema", "D"), nvidia_states()):
        read = pickled.tensors(tree[name], "it")
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)
    assert tree["training_set_kwargs"] == {"path": "x.zip"}
    assert tree["G"].class_name == "Generator"
    assert (tree["G"].state["gain"], tree["G"].state["kind"], tree["G"].state["shape"]) == (
        2.0,
        torch.float32,
        (1,),
    )


def test_frozen_layers_are_found(tmp_path, nvidia_modules):
    whole = stylegan.read(nvidia_file(tmp_path / "a.pkl")).networks["discriminator"]
    frozen = ("b16.fromrgb", "b16.conv0", "b16.conv1")
    equal(stylegan.read(nvidia_file(tmp_path / "b.pkl", frozen=frozen)).networks["discriminator"], whole)


def test_strided_tensors(tmp_path, nvidia_modules):
    """NVIDIA's half precision layers keep their weights channels last."""

    def change(tree):
        layer = (
            tree["G_ema"].state["_modules"]["synthesis"].state["_modules"]["b16"].state["_modules"]["conv0"]
        )
        kept = layer.state["_parameters"]
        kept["weight"] = kept["weight"].to(memory_format=torch.channels_last)

    found = stylegan.read(nvidia_file(tmp_path / "a.pkl", change=change))
    weight = found.networks["generator"]["synthesis.blocks.16.up.weight"]
    assert torch.equal(weight, nvidia_states()[0]["synthesis.b16.conv0.weight"])
    assert weight.is_contiguous()


def test_state_dicts_alone(tmp_path):
    g, d = nvidia_states()
    torch.save({"G_ema": g, "D": d}, tmp_path / "a.pt")
    found = stylegan.read(tmp_path / "a.pt")
    assert found.system == stylegan.NVIDIA
    assert found.model == MODEL
    torch.save(rosinality_states()[0], tmp_path / "b.pt")
    equal(
        {k: v for k, v in found.networks["generator"].items() if k != "mapping.average"},
        {
            k: stylegan.read(tmp_path / "b.pt").networks["generator"][k]
            for k in found.networks["generator"]
            if k != "mapping.average"
        },
    )


def test_classes(tmp_path, nvidia_modules):
    found = stylegan.read(nvidia_file(tmp_path / "a.pkl", latent=5, classes=3))
    assert (found.model["classes"], found.model["latent"]) == (3, 5)
    assert "3 classes" in found.describe()
    drawer, judge = built(found)
    stylegan.verify(found, drawer)
    assert torch.equal(judge.mapping.layers[7].weight, nvidia_states(5, 3)[1]["mapping.fc7.weight"])
    kind, kept = methods.find("stylegan"), ("channels", "latent", "style", "mapping_layers")
    settings = {name: found.model[name] for name in kept} | {"conditional": True}
    trained = kind(config.section(kind.Config, settings, "model"), found.size, ["a", "b", "c"])
    trained.discriminator.load_state_dict(found.networks["discriminator"])  # 8 layers, the generator has 2
    with pytest.raises(Problem, match="3 classes"):
        stylegan.to_rosinality(found.networks, found.model, found.size)


def test_variants_of_rosinality_files(tmp_path):
    plain = stylegan.read(rosinality_file(tmp_path / "a.pt")).networks

    def parallel(tree):
        tree["g_ema"] = {f"module.{key}": value for key, value in tree["g_ema"].items()}
        tree["latent_avg"] = tree["latent_avg"][None]

    extras = {"args": argparse.Namespace(batch=8, path="x"), "ada_aug_p": 0.0, "g_optim": {"state": {}}}
    equal(
        stylegan.read(rosinality_file(tmp_path / "b.pt", parallel, **extras)).networks["generator"],
        plain["generator"],
    )

    def live_only(tree):
        del tree["g_ema"], tree["d"]

    found = stylegan.read(rosinality_file(tmp_path / "c.pt", live_only, g=rosinality_states()[0]))
    assert list(found.networks) == ["generator"]
    equal(found.networks["generator"], plain["generator"])


def test_what_a_file_lacks_is_told(tmp_path):
    def old(tree):
        del tree["latent_avg"]
        tree["g_ema"] = {key: value for key, value in tree["g_ema"].items() if not key.startswith("noises")}

    found, again = (stylegan.read(rosinality_file(tmp_path / "a.pt", old)) for _ in range(2))
    assert found.lacks == ("average", "noise")
    assert "without its average, without its noise" in found.describe()
    assert "mapping.average" not in found.networks["generator"]
    assert found.networks["generator"]["synthesis.blocks.8.up.noise"].shape == (8, 8)
    equal(found.networks["generator"], again.networks["generator"])


# --- and back --------------------------------------------------------------------------------------------------


def test_rosinality_round_trip_is_byte_equal(tmp_path):
    found = stylegan.read(rosinality_file(tmp_path / "a.pt"))
    g, d, average = rosinality_states()
    out = stylegan.to_rosinality(found.networks, found.model, found.size)
    assert set(out) == {"g_ema", "d", "latent_avg"}
    for name, theirs in (("g_ema", g), ("d", d), ("latent_avg", {"": average})):
        ours = out[name] if name != "latent_avg" else {"": out[name]}
        assert ours.keys() == theirs.keys()
        equal({key: ours[key] for key in theirs}, theirs)
    stylegan.write_rosinality(tmp_path / "b.pt", found.networks, found.model, found.size)
    for name, tensors in stylegan.read(tmp_path / "b.pt").networks.items():
        equal(tensors, found.networks[name])


def test_nvidia_to_rosinality_and_back_is_byte_equal(tmp_path, nvidia_modules):
    found = stylegan.read(nvidia_file(tmp_path / "a.pkl"))
    live = {key: value + 1 for key, value in found.networks["generator"].items()}
    stylegan.write_rosinality(tmp_path / "b.pt", found.networks | {"live": live}, found.model, SIZE)
    again = stylegan.read(tmp_path / "b.pt")
    for name, tensors in found.networks.items():
        equal({key: again.networks[name][key] for key in tensors}, tensors)
    kept = torch.load(tmp_path / "b.pt", weights_only=True)
    assert torch.equal(kept["g"]["conv1.activate.bias"], kept["g_ema"]["conv1.activate.bias"] + 1)


def test_export_refuses_other_networks(tmp_path, nvidia_modules):
    found = stylegan.read(nvidia_file(tmp_path / "a.pkl", latent=5))
    with pytest.raises(Problem, match="z 5 and w 7"):
        stylegan.to_rosinality(found.networks, found.model, found.size)
    networks = {"generator": {"odd": torch.zeros(1)}}
    with pytest.raises(Problem, match="has unknown 'odd'"):
        stylegan.to_rosinality(networks, MODEL, SIZE)


# --- the numeric check -----------------------------------------------------------------------------------------


def test_verify(tmp_path, nvidia_modules):
    for path in (rosinality_file(tmp_path / "a.pt"), nvidia_file(tmp_path / "a.pkl")):
        found = stylegan.read(path)
        drawer, _ = built(found)
        assert max(stylegan.verify(found, drawer)) < 1e-4
        for change in (
            lambda it: it.synthesis.blocks["8"].up.noise.add_(0.1),
            lambda it: it.mapping.layers[1].bias.add_(2.0),
            lambda it: it.synthesis.constant.fill_(float("nan")),
        ):
            kept = copy.deepcopy(drawer.state_dict())
            with torch.no_grad():
                change(drawer)
            with pytest.raises(Problem, match="differs from the file's own tensors"):
                stylegan.verify(found, drawer)
            drawer.load_state_dict(kept)


def test_verify_sees_the_clamp(tmp_path, nvidia_modules):
    """Their bound is of what comes out of the activation and its gain, not of what goes in."""
    drawn = {"z_dim": STYLE, "synthesis_kwargs": {"conv_clamp": 0.25}}
    found = stylegan.read(nvidia_file(tmp_path / "a.pkl", g=drawn, d={"conv_clamp": 0.25}))
    assert found.model["clamp"] == 0.25
    drawer, _ = built(found)
    assert max(stylegan.verify(found, drawer)) < 1e-4


def test_plain_clamp_bounds_the_maps():
    g, _ = nvidia_states()
    w = torch.randn(2, STYLE, generator=torch.Generator().manual_seed(2))
    free, bound = (stylegan_plain.synthesis(g, w, True, clamp) for clamp in (None, 0.25))
    assert free.abs().max() > 1
    # three times the bound of the colours, of which the filter keeps the sum
    assert 0 < bound.abs().max() <= 0.75 + 1e-6


@golden
@pytest.mark.parametrize("name", ["rosinality_64", "nvidia_ada_64"])
def test_golden(name, tmp_path):
    found = stylegan.read(ROOT / f"{name}.pt")
    values = {key: torch.from_numpy(value) for key, value in np.load(ROOT / f"{name}.npz").items()}
    nvidia = found.system == stylegan.NVIDIA
    drawer, judge = built(found)
    stylegan.verify(found, drawer)
    average = found.networks["generator"]["mapping.average"]

    def close(ours, theirs):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

    with torch.no_grad():
        for mapped, painted in (
            (lambda z: stylegan_plain.mapping(found.theirs, z, nvidia),
             lambda w: stylegan_plain.synthesis(found.theirs, w, nvidia)),
            (drawer.mapping, lambda w: drawer.synthesis(w, noise="fixed")),
        ):  # fmt: skip
            w = mapped(values["z"])
            close(w, values["w"])
            close(painted(w), values["image"])
            close(painted(average + 0.7 * (w - average)), values["image_truncation_0.7"])
            if "z2" in values:
                mixed = torch.stack([w] * 4 + [mapped(values["z2"])] * 6, 1)
                close(painted(mixed), values["image_mix_from_layer_4"])
        close(judge(values["real"]), values["real_logit"])
    stylegan.write_rosinality(tmp_path / "out.pt", found.networks, found.model, found.size)
    for network, tensors in stylegan.read(tmp_path / "out.pt").networks.items():
        equal({key: tensors[key] for key in found.networks[network]}, found.networks[network])


@golden
def test_golden_file_comes_back_whole():
    theirs = torch.load(ROOT / "rosinality_64.pt", weights_only=True)
    found = stylegan.read(ROOT / "rosinality_64.pt")
    ours = stylegan.to_rosinality(found.networks, found.model, found.size)
    for name in ("g_ema", "d"):
        assert ours[name].keys() == theirs[name].keys()
        equal({key: ours[name][key] for key in theirs[name]}, theirs[name])
    assert torch.equal(ours["latent_avg"], theirs["latent_avg"])


# --- what is refused, each by one line -------------------------------------------------------------------------


def test_other_networks_are_refused(tmp_path):
    path = tmp_path / "a.pt"

    def with_(name, value, network="g_ema"):
        def change(tree):
            if value is None:
                del tree[network][name]
            else:
                tree[network][name] = value

        return rosinality_file(path, change)

    refused(with_("convs.1.activate.bias", None), "generator lacks 'convs.1.activate.bias'")
    refused(with_("noises.noise_1", None), "lacks 'noises.noise_1'")
    refused(with_("style.9.weight", torch.zeros(STYLE, STYLE)), "style.3.weight")
    refused(with_("attention.weight", torch.zeros(1)), "unknown 'attention.weight'")
    refused(with_("to_rgb1.bias", torch.zeros(3)), "'to_rgb1.bias' has shape (3,), expected (1, 3, 1, 1)")
    refused(with_("style.2.weight", torch.zeros(STYLE, 3)), "expected (7, 7)")
    refused(with_("convs.0.conv.blur.kernel", KERNEL), "not the filter [1, 3, 3, 1]")
    refused(with_("convs.1.skip.0.kernel", torch.ones(2, 2) / 4, "d"), "not the filter [1, 3, 3, 1]")
    refused(with_("final_linear.1.bias", None, "d"), "discriminator lacks 'final_linear.1.bias'")
    refused(with_("style.1.weight", torch.zeros(1).expand(10**6, 10**6)), "not a state dict")
    refused(with_("style.1.weight", torch.zeros(STYLE, STYLE).to_sparse()), "not a state dict")
    refused(rosinality_file(path, e={"x": torch.zeros(1)}), "holds 'e'")
    refused(rosinality_file(path, latent_avg=torch.zeros(3)), "'latent_avg' has shape (3,)")
    refused(rosinality_file(path, latent_avg=[1.0]), "'latent_avg' is no tensor")
    refused(tmp_path / "none.pt", "does not exist")
    for other in ({"genA2B": {}}, [1], {1: 2}, {"g_ema": {}}, {"g_ema": 3}, {"g_ema": {"style.1.weight": 3}}):
        torch.save(other, path)
        refused(path)


def test_other_nvidia_networks_are_refused(tmp_path, nvidia_modules):
    path = tmp_path / "a.pkl"
    for told, words in (
        ({"g": {"architecture": "resnet"}}, ["generator", "architecture 'resnet'", "'skip' alone"]),
        ({"d": {"architecture": "orig"}}, ["discriminator", "architecture 'orig'"]),
        ({"g": {"attention": True}}, ["'attention'"]),
        ({"d": {"conv_clamp": None}}, ["conv_clamp None, the generator 256.0"]),
        ({"d": {"epilogue_kwargs": {"mbstd_group_size": None}}}, ["mbstd_group_size None"]),
        ({"d": {"epilogue_kwargs": {"mbstd_num_channels": 2}}}, ["mbstd_num_channels 2"]),
        ({"d": {"block_kwargs": {"resample_filter": [1, 2, 1]}}}, ["resample_filter [1, 2, 1]"]),
        ({"g": {"lr_multiplier": [[1]]}}, ["a damaged 'lr_multiplier'"]),
    ):
        refused(nvidia_file(path, **told), *words)

    def change(tree):
        tree["G_ema"].state["_init_args"] = (512,)

    refused(nvidia_file(path, change=change), "arguments that have no names")

    def shared(tree, state):  # a few modules, and exponentially many ways to each
        module = Persistent("Layer", state)
        for _ in range(12):
            module = Persistent("Layer", {"_modules": {str(k): module for k in range(9)}})
        tree["G_ema"].state["_modules"]["more"] = module

    for inner in ({"_parameters": {"weight": torch.zeros(1)}}, {}):
        refused(
            nvidia_file(path, change=lambda tree, inner=inner: shared(tree, inner)), "more than 20000 parts"
        )


def test_tensorflow_pickles_are_told_how(tmp_path, nvidia_modules):
    network = sys.modules["dnnlib.tflib.network"].Network
    (tmp_path / "a.pkl").write_bytes(pickle.dumps((network(), network(), network())))
    refused(tmp_path / "a.pkl", "TensorFlow pickle", "legacy.py")


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Marker:
    ran: ClassVar[list[object]] = []

    def __init__(self, *arguments):
        Marker.ran.append(arguments)

    def __setstate__(self, state):
        Marker.ran.append(state)

    def __reduce__(self):
        return Marker, ("x",), {"y": 1}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["alone", "in the tree", "in a module", "in a storage"])
def test_nothing_is_executed(tmp_path, nvidia_modules, where, protocol):
    trace = tmp_path / "trace"
    Marker.ran.clear()
    for hostile in (
        Call(os.system, f"touch {trace}"),
        Call(eval, f"open({str(trace)!r}, 'w')"),
        Call(getattr, "", "join"),
        Call(torch.load, str(trace)),
        Call(torch.hub.load, "x"),
        Marker(),
    ):
        tree = nvidia_tree()
        if where == "in a module":
            tree["G_ema"].state["_modules"]["mapping"].state["_modules"]["fc0"] = hostile
        elif where == "in a storage":
            own = io.BytesIO()
            torch.save(hostile, own, _use_new_zipfile_serialization=False)
            tree["x"] = Call(torch.storage._load_from_bytes, own.getvalue())
        else:
            tree = hostile if where == "alone" else {"x": hostile, **tree}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(tree, protocol))
        Marker.ran.clear()  # pickling itself may make one
        refused(tmp_path / "a.pkl")
        assert not trace.exists()
        assert not Marker.ran


def test_nothing_is_executed_in_torch_files(tmp_path):
    trace = tmp_path / "trace"
    for zipped in (True, False):
        for hostile in (
            Call(os.system, f"touch {trace}"),
            Call(argparse.Namespace, 1),
            argparse.Namespace(x=Call(os.system, f"touch {trace}")),
            Call(argparse.FileType("w"), str(trace)),
        ):
            torch.save(
                {"g_ema": {}, "args": hostile}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped
            )
            refused(tmp_path / "a.pt")
            assert not trace.exists()


def legacy_storage(count=4, claimed=None, told=None, kind=b"FloatStorage", magic=0x1950A86A20F9469CFC6C):
    """The bytes of a storage as torch.save wrote them once, with claims that may be wrong."""
    claimed = count if claimed is None else claimed
    told = claimed if told is None else told
    key = b"X\x01\x00\x00\x000"
    id_ = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\n" + key + b"X\x03\x00\x00\x00cpu"
    return (
        pickle.dumps(magic, 2)
        + pickle.dumps(1001, 2)
        + pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
        + (b"\x80\x02" + id_ + b"\x8a\x08" + struct.pack("<q", claimed) + b"NtQ.")
        + (b"\x80\x02]" + key + b"a.")
        + struct.pack("<q", told)
        + bytes(4 * count)
    )


def pickled_tensor(storage, offset=0, size=(2, 2), stride=(2, 1)):
    rebuild = Call(torch.storage._load_from_bytes, storage)
    tensor = Call(
        torch._utils._rebuild_tensor_v2, rebuild, offset, size, stride, False, collections.OrderedDict()
    )
    return pickle.dumps(tensor, 4)


def test_claims_of_tensors(tmp_path):
    path = tmp_path / "a.pkl"

    def read(*arguments):
        path.write_bytes(pickled_tensor(*arguments))
        return pickled.read(path)

    assert torch.equal(read(legacy_storage()), torch.zeros(2, 2))
    assert read(legacy_storage(0), 0, (0,), (1,)).shape == (0,)
    assert read(legacy_storage(), 0, (2, 0), (1, 1)).shape == (2, 0)
    for bad in (
        (legacy_storage(), 0, (3, 2), (2, 1)),
        (legacy_storage(), 1),
        (legacy_storage(), -1),
        (legacy_storage(), 0, (2, 2), (2, -1)),
        (legacy_storage(), 0, (10**9, 10**9), (0, 0)),
        (legacy_storage(), 0, (8,), (0,)),
        (legacy_storage(), 0, (2, 2), (2,)),
        (legacy_storage(), 0, (1,) * 100, (1,) * 100),
        (legacy_storage(), 0, (2.0, 2), (2, 1)),
        (legacy_storage(), 0, (True, 2), (2, 1)),
        (legacy_storage(3), 0),
        (legacy_storage(4, claimed=10**15), 0),
        (legacy_storage(4, claimed=10**15, told=4), 0),
        (legacy_storage(4, claimed=4, told=-1), 0),
        (legacy_storage(4, claimed=-1), 0),
        (legacy_storage(4, kind=b"UntypedStorage"), 0),
        (legacy_storage(4, magic=1), 0),
        (legacy_storage()[:-1], 0),
        (legacy_storage() + b"x", 0),
        (legacy_storage()[:40], 0),
        (b"", 0),
        ("text", 0),
    ):
        with pytest.raises(Problem):
            read(*bad)


def bombs():
    """name -> a small file that asks for a lot."""
    short = b"\x8c\x01a"
    glob = lambda module, name: b"c" + module + b"\n" + name + b"\n"
    deep = b"\x80\x04)" + b"\x85" * 300_000
    yield "nested tuples as a key", b"\x80\x04}" + deep[2:] + b"K\x01s."
    yield "nested tuples in a set", b"\x80\x04\x8f(" + deep[2:] + b"\x90."
    yield "nested lists", b"\x80\x04" + b"](" * 300_000 + b"e" * 300_000 + b"."
    yield "nested tuples alone", deep + b"."
    laughs = b"]q\x00"  # forty lists, each twice in the next: a text of it would have 2^40 parts
    for k in range(1, 41):
        laughs = b"](" + laughs + b"h" + bytes([k - 1]) + b"eq" + bytes([k])
    for module, name, before, after in (
        (b"_codecs", b"encode", b"X\x01\x00\x00\x00a", b"\x86R"),
        (b"numpy", b"dtype", b"", b"\x85R"),
        (b"torch_utils.persistence", b"_reconstruct_persistent_obj", b"", b"\x85R"),
        (b"torch.storage", b"_load_from_bytes", b"", b"\x85R"),
        (b"torch._utils", b"_rebuild_tensor_v2", b"K\x01K\x01K\x01", b"tR"),
        (b"builtins", b"set", b"", b"\x85R"),
    ):
        start = b"(" if after == b"tR" else b""
        code = b"\x80\x04" + glob(module, name) + start + before + laughs + after + b"."
        yield f"an exponential text for {name.decode()}", code
    text = lambda words: b"X" + struct.pack("<I", len(words)) + words
    record = glob(b"torch_utils.persistence", b"_reconstruct_persistent_obj") + b"}("
    record += text(b"type") + text(b"class") + text(b"class_name") + text(b"Generator")
    record += text(b"state") + b"}" + text(b"_modules") + b"}q\x01su\x85Rq\x02"
    yield (
        "modules that go round",
        (b"\x80\x04}(" + text(b"G_ema") + record + text(b"x") + b"h\x01" + text(b"again") + b"h\x02su."),
    )
    yield "an exponential name", b"\x80\x04}" + laughs + b"K\x01s."
    yield "an exponential network", b"\x80\x04}" + text(b"g_ema") + laughs + b"s."
    yield "a memo index of four thousand millions", b"\x80\x02]r\xff\xff\xff\xff."
    yield "a text longer than the file", b"\x80\x04X\xff\xff\xff\x7fabc."
    yield "bytes longer than the file", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc."
    yield "a number of two thousand million bytes", b"\x80\x02\x8b\xff\xff\xff\x7f\x01."
    many = text(b"a" * 100_000)
    again = b"h\x00h\x01\x8c\x06latin1\x86R"
    yield (
        "the same text as bytes many times",
        (b"\x80\x04" + glob(b"_codecs", b"encode") + b"q\x00" + many + b"q\x01" + again * 20_000 + b"."),
    )
    storage = legacy_storage(30_000)
    told = b"B" + struct.pack("<I", len(storage)) + storage
    yield (
        "the same storage many times",
        (
            b"\x80\x04"
            + glob(b"torch.storage", b"_load_from_bytes")
            + b"q\x00"
            + told
            + b"q\x01"
            + b"h\x00h\x01\x85R" * 20_000
            + b"."
        ),
    )
    yield (
        "the same list as sets many times",
        (
            b"\x80\x04"
            + glob(b"builtins", b"set")
            + b"q\x00]("
            + b"K\x01" * 50_000
            + b"eq\x01"
            + b"h\x00h\x01\x85R" * 20_000
            + b"."
        ),
    )
    yield from {
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x02K\x01Q.",
        "an instance": b"(ios\nsystem\n.",
        "a buffer": b"\x80\x05\x97.",
        "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2) + b"ab.",
        "a state for a dict": b"\x80\x02}K\x01b.",
        "a mark that stays": b"\x80\x02(K\x01.",
        "nothing": b"\x80\x02.",
        "no mark": b"\x80\x02K\x01t.",
        "an unknown memo": b"\x80\x02h\x05.",
        "entries for a number": b"\x80\x02K\x01K\x01a.",
        "an odd number of entries": b"\x80\x02}(K\x01u.",
        "a call of a number": b"\x80\x02K\x01)R.",
        "a numpy object": b"\x80\x02" + glob(b"numpy", b"dtype") + short + b"\x85R.",
        "a name by numbers": b"\x80\x04K\x01K\x02\x93.",
    }.items()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("what", "code"), list(bombs()), ids=lambda v: v if isinstance(v, str) else "")
def test_bombs(tmp_path, what, code):
    (tmp_path / "a.pkl").write_bytes(code)
    refused(tmp_path / "a.pkl")


def test_torn_and_changed_files(tmp_path, nvidia_modules):
    path = nvidia_file(tmp_path / "a.pkl")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for end in (0, 1, 2, 10, *random.integers(0, len(whole), 20)):
        path.write_bytes(whole[:end])
        refused(path)
    for seed in range(120):
        random = np.random.default_rng(seed)
        changed = bytearray(whole)
        for at in random.integers(0, len(whole), 1 + seed % 20):
            changed[at] = random.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(Problem):  # a changed weight shows only in the picture
            stylegan.read(path)


def test_torn_torch_files(tmp_path):
    path = rosinality_file(tmp_path / "a.pt")
    whole = path.read_bytes()
    for end in (0, 5, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:end])
        refused(path)

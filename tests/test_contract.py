"""What every method promises (see methods/base.py), tested for each one that is found in methods/.

A new method is tested as soon as its file exists. Where its default settings are too slow for a test or it
cannot work at 32 px, give it a line in SMALL.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fewtoon import config, methods, style
from fewtoon.config import Config, Train
from fewtoon.engine import loop, seed
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.methods.base import Batch, Method, Shared

CPU = torch.device("cpu")
GROUPS = ["a", "b"]


class Small(NamedTuple):
    """The quickest settings at which a method still does everything."""

    size: int = 32
    model: dict[str, Any] | None = None
    bf16: float = 0.05  # how far a bf16 loss may be from the fp32 one, relative
    splits: bool = True  # whether a batch's losses are the means over its micro-batches
    again: bool = True  # whether what a later phase computes again is what an earlier one drew


VARIED: dict[str, Any] = {"splits": False, "bf16": 0.2}  # random draws differ between whole and parts
NO_READER = {"reader_weight": 0}
FACE2WEBTOON = {"generator_groups": "none", "gradients": "frozen-bottleneck", "group_loss": "cross-entropy"}
BRANCHES = {
    "generator_groups": "branches",
    "gradients": "routed",
    "group_loss": "squared-error",
    "group_sides": "both",
    "group_pooling": "padded",
}
SMALL: dict[str, list[Small]] = {
    "ugatit": [
        Small(16, {"channels": 4, "blocks": 1}),
        Small(64, {"generator": "hourglass", "channels": 8, "blocks": 1}),
        Small(
            16,
            {"channels": 4, "blocks": 1, "augment": "ada", "ada_start": 0.8, "ada_pictures": 300},
            **VARIED,
        ),
        Small(16, {"channels": 4, "blocks": 1, "augment": "diffaugment"}, **VARIED),
    ],
    "groups": [
        Small(32, {"channels": 4, "blocks": 1, **NO_READER}, **VARIED),
        Small(
            32,
            {"channels": 4, "blocks": 1, "augment": "ada", "ada_start": 0.5, "group_told": "both"},
            **VARIED,
        ),
        Small(32, {"channels": 4, "blocks": 1, **NO_READER, **FACE2WEBTOON}),
        Small(64, {"generator": "hourglass", "channels": 8, "blocks": 1, **NO_READER, **BRANCHES}, **VARIED),
    ],
}
TINY = {"channel_base": 128, "channel_max": 8, "latent": 8, "style": 8, "mapping_layers": 2}
DRAWN: dict[str, Any] = {"splits": False, "again": False, "bf16": 0.2}
SMALL["stylegan"] = [
    Small(16, TINY, **DRAWN),
    Small(16, {**TINY, "side": "photos", "augment": "ada", "ada_start": 0.8, "ada_pictures": 300}, **DRAWN),
    Small(16, {**TINY, "freeze_discriminator_blocks": 1, "freeze_mapping": True, "clamp": 256.0}, **DRAWN),
    Small(16, {**TINY, "freeze_generator_blocks": 1, "freeze_styles": 3}, **DRAWN),
    Small(16, {**TINY, "structure_weight": 1.0, "structure_of": "features"}, **DRAWN),
    Small(16, {**TINY, "conditional": True, "augment": "diffaugment"}, **DRAWN),
]
FEW = {"channels": 4, "blocks": 1}
ADA = {"augment": "ada", "ada_start": 0.8, "ada_pictures": 300}
SMALL["cyclegan"] = [
    Small(32, FEW),
    Small(32, {**FEW, "identity_weight": 0, "pool": 1, "augment": "diffaugment"}, **VARIED),
]
SMALL[
    "aggan"
] = [  # rounding decides at larger ones: an input moved by 1e-6 moves gradients more than the tolerance
    Small(32, {**FEW, "discriminator_channels": 4}),
    Small(
        32,
        {**FEW, "discriminator_channels": 4, "published_attention": True, "attention_steps": 2, "pool": 1},
        splits=False,
    ),
    Small(
        32,
        {"channels": 8, "blocks": 2, "discriminator_channels": 8, **ADA},
        **VARIED,
    ),
]
SMALL["cut"] = [Small(), Small(32, {"channels": 4, "blocks": 2, "nce_identity": False, "blur": False})]
SMALL["unit"] = [Small(16, FEW, **DRAWN), Small(32, {**FEW, **ADA}, **DRAWN)]
SMALL["munit"] = [
    Small(16, FEW, **DRAWN),
    Small(
        32,
        {"channels": 4, "blocks": 2, "cycle_weight": 10, "default_style": "zero", "augment": "diffaugment"},
        **DRAWN,
    ),
]
SMALL["drit"] = [
    Small(16, FEW, **DRAWN),
    Small(32, {**FEW, **ADA, "mode_seeking_weight": 1, "default_style": "zero"}, **DRAWN),
]
SMALL["cartoongan"] = [
    Small(16, {**FEW, "discriminator_channels": 4}),
    Small(16, {**FEW, "discriminator_channels": 4, **ADA}, **VARIED),
]
CASES = [
    pytest.param(name, small, id=f"{name}-{number}")
    for name in methods.names()
    for number, small in enumerate(SMALL.get(name, [Small()]))
]
every_method = pytest.mark.parametrize(("name", "small"), CASES)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def build(name: str, small: Small, training: bool = True) -> Method:
    kind = methods.find(name)
    torch.manual_seed(1)
    return kind(config.section(kind.Config, small.model, "model"), small.size, GROUPS, training=training)


def pictures(count: int, size: int, number: int = 2) -> Tensor:
    """Smooth random pictures in [-1, 1]: nearer to photos than noise."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(number)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def inputs(method: Method, count: int) -> Tensor:
    """What the method translates: photos, or random numbers."""
    return method.latents(count, 2) if method.generates else pictures(count, method.size)


def batch(size: int, count: int = 2, step: int = 0) -> Batch:
    groups = torch.arange(count) % len(GROUPS)
    return Batch(pictures(count, size, 3), pictures(count, size, 4), groups, groups, step)


def trainee(name: str, small: Small, **train: Any) -> Trainee:
    kind = methods.find(name)
    model = config.section(kind.Config, small.model, "model")
    settings = Config(method=name, model=model, train=Train(**{"batch": 2, "ema": 0.5, **train}))
    return Trainee(settings, small.size, GROUPS, CPU)


def tensors(method: Method) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, network in method.networks().items()
        for key, tensor in network.state_dict().items()
    }


# --- what there is ---------------------------------------------------------------------------------------


def test_every_method_is_found() -> None:
    assert "ugatit" in methods.names()
    assert SMALL.keys() <= set(methods.names())
    for name in methods.names():
        kind = methods.find(name)
        assert kind.name == name
        assert kind.paper
        assert issubclass(kind.Config, config.Strict)
        assert kind.Config.__doc__
        kind.Config()  # every setting has a default


@every_method
def test_the_translating_networks_are_a_subset(name: str, small: Small) -> None:
    """training=False builds networks of the same names with the same tensors."""
    whole, drawer = build(name, small), build(name, small, training=False)
    assert drawer.networks()
    for title, network in drawer.networks().items():
        mine, theirs = network.state_dict(), whole.networks()[title].state_dict()
        assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
        network.load_state_dict(theirs)
        network.eval()
        whole.networks()[title].eval()
    assert drawer.groups == GROUPS
    assert drawer.size == small.size
    photos = inputs(drawer, 1)
    with torch.inference_mode():
        assert torch.equal(drawer.translate(photos), whole.translate(photos))


@every_method
def test_optimisers_share_nothing_and_know_only_the_networks(name: str, small: Small) -> None:
    method = build(name, small)
    known = {id(p) for network in method.networks().values() for p in network.parameters()}
    moved: list[int] = []
    for optimizer in method.optimizers().values():
        own = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert own
        assert set(own) <= known
        moved += own
    assert len(moved) == len(set(moved))
    for phase in method.phases():
        assert phase.optimizer in method.optimizers()
    titles = [phase.name for phase in method.phases()]
    assert len(set(titles)) == len(titles) > 0


# --- one step --------------------------------------------------------------------------------------------


@every_method
def test_a_step_moves_what_it_should_and_nothing_else(
    name: str, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trained parameter gets a finite gradient; a phase moves only the parameters of its optimiser."""
    one = trainee(name, small)
    own = {
        title: {key for key, p in named(one.method) if any(p is q for q in parameters)}
        for title, parameters in one.moving.items()
    }
    alive: set[str] = set()

    def watched(title: str, step: Any) -> Any:
        def inner() -> None:
            before = {key: p.detach().clone() for key, p in named(one.method)}
            for key, p in named(one.method):
                if key in own[title] and p.grad is not None:
                    assert torch.isfinite(p.grad).all(), key
                    if p.grad.any():
                        alive.add(key)
            step()
            moved = {key for key, p in named(one.method) if not torch.equal(p, before[key])}
            assert moved
            assert moved <= own[title]

        return inner

    for title, optimizer in one.optimizers.items():
        monkeypatch.setattr(optimizer, "step", watched(title, optimizer.step))
    start = {key: p.detach().clone() for key, p in named(one.method)}
    every = math.lcm(*(phase.every for phase in one.phases))
    for step in (every, 2 * every):  # two: what a gate that starts at 0 holds back is alive in the second
        result = loop.update(one, batch(small.size, step=step), Watch(1, quiet=True))
        assert not result.bad
        assert {key.split("/")[0] for key in result.values} == {"gradient", *(p.name for p in one.phases)}
    trained = set().union(*own.values())
    assert trained == alive, f"never a gradient: {sorted(trained - alive)[:5]}"
    for key, p in named(one.method):
        assert key in trained or torch.equal(p, start[key]), f"{key} is frozen and moved"


def named(method: Method) -> list[tuple[str, Tensor]]:
    networks = method.networks().items()
    return [(f"{title}.{key}", p) for title, network in networks for key, p in network.named_parameters()]


@every_method
def test_steps_are_deterministic(name: str, small: Small) -> None:
    results = []
    for _ in range(2):
        torch.seed()  # the state of the global generator must not matter
        one = trainee(name, small)
        for step in range(2):
            loop.update(one, batch(small.size, step=step), Watch(2, quiet=True))
        results.append(tensors(one.method))
    assert results[0].keys() == results[1].keys()
    for key, tensor in results[0].items():
        assert torch.equal(tensor, results[1][key]), key


def gradients(one: Trainee, some: list[Batch], kept: bool) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Mean losses and gradients of every phase over the given micro-batches, without stepping. Buffers, such
    as those of a power iteration, start each micro-batch of a phase from the same values."""
    losses: dict[str, float] = {}
    found: dict[str, Tensor] = {}
    shared = Shared(kept)
    phases = [phase for phase in one.phases if some[0].step % phase.every == 0]
    for place, phase in enumerate(phases):
        later = {other.optimizer for other in phases[place + 1 :]} if kept else set()
        one.ask_for_gradients({phase.optimizer} | later)
        for optimizer in one.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        start = copy.deepcopy([dict(n.named_buffers()) for n in one.method.networks().values()])
        for part in some:
            for network, held in zip(one.method.networks().values(), start):
                for key, buffer in network.named_buffers():
                    buffer.copy_(held[key])
            seed.everywhere(0, 0, part.step, f"phase/{phase.name}")
            if not kept:
                shared = Shared(kept=False)
            with one.autocast():
                terms = phase.losses(part, shared)
            total = torch.stack([phase.weights.get(k, 1) * v.float() for k, v in terms.items()]).sum()
            (total / len(some)).backward(retain_graph=kept)
            for key, value in terms.items():
                key = f"{phase.name}/{key}"
                losses[key] = losses.get(key, 0.0) + value.item() / len(some)
        for key, parameter in named(one.method):
            if parameter.grad is not None and any(parameter is p for p in one.moving[phase.optimizer]):
                found[f"{phase.name}/{key}"] = parameter.grad.clone()
    return losses, found


def assert_same_gradients(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    scale = torch.stack([g.norm() for g in first.values()]).max()
    for key, gradient in first.items():
        assert (gradient - second[key]).norm() < 1e-3 * gradient.norm() + 1e-5 * scale


@every_method
def test_a_batch_without_shared_fakes_gives_the_same_gradients(name: str, small: Small) -> None:
    """Shared(kept=False), as under micro-batches, only computes again what kept=True remembers."""
    if not small.again:
        pytest.skip("each phase draws its own random numbers where nothing is kept")
    some = batch(small.size)
    losses, kept = gradients(trainee(name, small), [some], kept=True)
    again, fresh = gradients(trainee(name, small), [some], kept=False)
    assert again == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert_same_gradients(kept, fresh)


@every_method
def test_micro_batches_add_up_to_the_batch(name: str, small: Small) -> None:
    if not small.splits:
        pytest.skip("this method compares the pictures of a batch with each other")
    whole = batch(small.size)
    parts = [Batch._make([*(t[i : i + 1] for t in whole[:4]), 0]) for i in range(2)]
    losses, full = gradients(trainee(name, small), [whole], kept=False)
    split_losses, split = gradients(trainee(name, small), parts, kept=False)
    assert split_losses == pytest.approx(losses, rel=1e-3, abs=1e-6)
    assert_same_gradients(full, split)


@every_method
def test_bf16_losses_are_close_to_fp32(name: str, small: Small) -> None:
    some = batch(small.size)
    exact, _ = gradients(trainee(name, small), [some], kept=True)
    rounded, _ = gradients(trainee(name, small, precision="bf16"), [some], kept=True)
    assert rounded == pytest.approx(exact, rel=small.bf16, abs=0.02)


# --- translation -----------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("group", [None, *GROUPS])
def test_translation(name: str, small: Small, group: str | None) -> None:
    """Finite, in range, deterministic, and each picture independent of the others."""
    method = build(name, small, training=False)
    for network in method.networks().values():
        network.eval()
    photos = inputs(method, 3)
    with torch.inference_mode():
        drawn = method.translate(photos, group)
        again = method.translate(photos, group)
        alone = torch.cat([method.translate(photo[None], group) for photo in photos])
    assert drawn.shape == (3, 3, small.size, small.size)
    assert torch.isfinite(drawn).all()
    assert drawn.float().abs().max() <= 1
    assert torch.equal(drawn, again)
    torch.testing.assert_close(drawn, alone, atol=1e-4, rtol=0)
    assert not torch.equal(drawn[0], drawn[1])


@every_method
def test_a_style_draws_a_batch_exactly_as_single_photos(name: str, small: Small) -> None:
    drawer = style.Style(build(name, small, training=False), {}, "cpu", "fp32")
    photos = inputs(drawer.method, 3)
    together = drawer.drawn(photos)
    assert torch.equal(together, torch.cat([drawer.drawn(photo[None]) for photo in photos]))
    assert torch.equal(together.flip(0), drawer.drawn(photos.flip(0)))


@every_method
def test_preview(name: str, small: Small) -> None:
    method = build(name, small)
    photos = inputs(method, 2)
    with torch.inference_mode():
        columns = method.preview(photos)
    assert method.generates or next(iter(columns)) == "photo"
    assert "drawing" in columns
    for title, column in columns.items():
        assert column.shape == (2, 3, small.size, small.size), title
        assert torch.isfinite(column).all(), title
        assert column.min() >= -1.01, title
        assert column.max() <= 1.01, title
    assert set(build(name, small, training=False).preview(photos)) <= set(columns)


@every_method
def test_what_is_saved_is_what_is_loaded(name: str, small: Small, tmp_path: Path) -> None:
    method = build(name, small, training=False)
    path = tmp_path / "s.safetensors"
    style.write(path, method, {"step": 7})
    loaded = style.load(path, "cpu")
    assert loaded.header["step"] == 7
    assert (loaded.size, loaded.header["groups"]) == (small.size, GROUPS)
    assert loaded.groups == (GROUPS if method.grouped else [])
    before, after = tensors(method), tensors(loaded.method)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]), key
    photos = inputs(method, 2)
    drawer = style.Style(method, {}, "cpu", "fp32")
    assert torch.equal(loaded.drawn(photos), drawer.drawn(photos))
    loaded.save(tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert "step" in style.describe(loaded.header)

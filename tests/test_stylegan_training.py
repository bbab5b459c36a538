"""Trainings of StyleGAN2: from one side, resumed to the same bytes, and what each switch keeps of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewtoon
from fewtoon import config
from fewtoon.data.pack import Pack
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.methods.stylegan import StyleGAN

TINY = ["channel_base=128", "channel_max=8", "latent=8", "style=8", "mapping_layers=2", "deviation_group=2"]
SHORT = ["batch=4", "log_every=2", "state_every=2", "metric_every=3", "preview_every=6", "steps=6",
         "metric_pictures=8", "preview_pictures=2", "precision=fp32", "train.framing=null",
         "r1_every=2", "path_every=3"]  # fmt: skip
ADA = ["augment=ada", "ada_start=0.5", "ada_pictures=50", "ada_every=4"]


def pack(side: str, count: int = 32, size: int = 16) -> Pack:
    random = np.random.default_rng(len(side))
    pictures = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    splits = ["held_out" if i % 4 == 0 else "train" for i in range(count)]
    return Pack.from_arrays(
        pictures, side, [("a", "b")[i % 2] for i in range(count)], splits, [f"{i}.png" for i in range(count)]
    )


def train(out: Path, *sets: str, preset: str = "stylegan-plain", **more: Any) -> dict[str, Any]:
    given = {"photos": None, "drawings": pack("drawings"), "track": (), "quiet": True, **more}
    return fewtoon.train(config.load(preset, [*TINY, *SHORT, *sets]), out=out, **given)


def network(run: Path, name: str, step: int = 6) -> dict[str, Tensor]:
    state = weights.read(run / "state" / f"step-{step:08d}.safetensors")
    prefix = f"network.{name}."
    return {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}


@pytest.fixture(autouse=True)
def quick() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source generator of photos, and its run."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("source") / "run"
    train(run, "side=photos", photos=pack("photos"), drawings=None)
    return run


def test_a_source_learns_from_photos_alone(source: Path) -> None:
    style = fewtoon.load(source, "cpu")
    assert style.method.generates
    assert set(style.header["packs"]) == {"photos"}
    z = style.method.latents(3, 1)
    pictures = style.sample(z)
    assert pictures.shape == (3, 3, 16, 16)
    assert torch.equal(pictures, style.sample(z))
    assert torch.equal(pictures[1:2], style.sample(z[1:2]))
    assert torch.equal(style.synthesis(style.mapping(z)), pictures)
    assert style.sample(z, 0.0).std(0).max() < 1e-6  # all the average
    assert (source / "previews" / "step-00000006.png").is_file()
    with pytest.raises(Problem, match=r"translates no photos.*style.sample"):
        style.translate(torch.zeros(1, 3, 16, 16))
    with pytest.raises(Problem, match=r"\(3, 7\).*\(B, 8\)"):
        style.sample(torch.zeros(3, 7))
    with pytest.raises(Problem, match="'loud'"):
        style.synthesis(style.mapping(z), noise="loud")  # type: ignore[arg-type]


def test_translators_have_no_latents(tmp_path: Path) -> None:
    from fewtoon import methods
    from fewtoon.style import Style

    kind = methods.find("ugatit")
    style = Style(kind(kind.Config(channels=4, blocks=1), 16, training=False), {}, "cpu", "fp32")  # type: ignore[call-arg]
    for call in (style.mapping, style.sample):
        with pytest.raises(Problem, match=r"ugatit.*translates photos.*StyleGAN"):
            call(torch.zeros(1, 8))


@pytest.mark.parametrize(
    "sets",
    [ADA, ["augment=diffaugment"], ["freeze_styles=3", "structure_weight=1"]],
    ids=["ada", "diffaugment", "source"],
)
def test_resumed_is_the_same_bytes(sets: list[str], source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """ADA's p and the mean path length included, and the source that the first weights were."""
    train(tmp_path / "whole", *sets, init=source)
    stepped = Watch.step

    def killed(self: Any, step: int, *more: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return stepped(self, step, *more)

    monkeypatch.setattr(Watch, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "half", *sets, init=source)
    monkeypatch.undo()
    assert not (tmp_path / "half" / "last.safetensors").exists()
    train(tmp_path / "half", *sets)
    for name in ("last.safetensors", "log.jsonl", "state/step-00000006.safetensors"):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert network(tmp_path / "half", "path_length")["mean"] > 0
    if sets == ADA:
        assert network(tmp_path / "half", "augment")["p"] != 0.5


def test_first_weights_bring_no_memory_of_their_training(tmp_path: Path) -> None:
    """Neither p of ADA nor the mean path length, whatever augments now."""
    train(tmp_path / "source", *ADA)
    assert network(tmp_path / "source", "augment")["p"] != 0.5  # where it began
    assert network(tmp_path / "source", "path_length")["mean"] > 0
    train(tmp_path / "other", "augment=diffaugment", init=tmp_path / "source")
    settings = config.load("stylegan-plain", [*TINY, *SHORT, *ADA, "ada_start=0.25"])
    trainee = Trainee(settings, 16, ["a", "b"], torch.device("cpu"))
    loaded = trainee.begin_with(tmp_path / "source")["networks"]
    assert loaded == "discriminator, generator"
    assert trainee.method.networks()["augment"].p == 0.25
    assert trainee.method.networks()["path_length"].mean == 0


# --- what stays ----------------------------------------------------------------------------------------------

FROZEN = [
    (["freeze_discriminator_blocks=1"], "discriminator", ("rgb.", "blocks.16.")),
    (["freeze_generator_blocks=2"], "generator", ("synthesis.constant", "synthesis.blocks.4.", "synthesis.blocks.8.")),
    (["freeze_mapping=true"], "generator", ("mapping.layers.",)),
    (["freeze_mapping=true", "freeze_generator_blocks=1", "freeze_discriminator_blocks=2", "freeze_styles=2",
      "structure_weight=1", *ADA], "generator", ("synthesis.constant", "synthesis.blocks.4.", "mapping.layers.")),
]  # fmt: skip


@pytest.mark.parametrize(("sets", "name", "kept"), FROZEN, ids=["D", "G", "FC", "all"])
def test_what_is_frozen_stays_to_the_byte_and_the_rest_moves(
    sets: list[str], name: str, kept: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    train(tmp_path, *sets, init=source)
    before, after = network(source, name), network(tmp_path, name)
    noise = {key for key in before if key.endswith(".noise")}
    for key in before.keys() - noise:
        same = torch.equal(before[key], after[key])
        assert same == key.startswith(kept), key


def test_each_switch_tells_what_it_freezes(source: Path, tmp_path: Path, capsys: Any) -> None:
    train(tmp_path, *FROZEN[3][0], init=source, quiet=False)
    told = capsys.readouterr().err
    block = sum(
        tensor.numel()
        for key, tensor in network(source, "discriminator").items()
        if key.startswith(("rgb.", "blocks."))
    )
    assert f"freeze_discriminator_blocks = 2 freezes {block:,} parameters" in told
    for name in ("freeze_mapping", "freeze_generator_blocks", "freeze_styles", "structure_weight"):
        assert f"{name} = " in told


def made(source: Path, *sets: str) -> StyleGAN:
    """A method with the first weights of the source."""
    settings = config.load("stylegan-plain", [*TINY, *sets])
    method = StyleGAN(settings.model, 16, ["a", "b"])
    for name in ("generator", "discriminator"):
        method.networks()[name].load_state_dict(network(source, name))
    method.learn_first(lambda side: None, 0, print)
    return method


def batch(method: StyleGAN) -> Any:
    from fewtoon.methods.base import Batch

    drawings = torch.rand(4, 3, 16, 16) * 2 - 1
    groups = torch.zeros(4, dtype=torch.int64)
    return Batch(drawings[:0], drawings, groups[:0], groups, 0)


@pytest.mark.parametrize("of", ["colours", "features"])
def test_structure_loss_is_zero_at_the_start(source: Path, of: str) -> None:
    from fewtoon.methods.base import Shared

    method = made(source, "structure_weight=1", f"structure_of={of}")
    assert method.generator_losses(batch(method), Shared())["structure"] == 0
    with torch.no_grad():
        method.generator.synthesis.block(8).conv.weight.mul_(1.5).add_(0.3)
    loss = method.generator_losses(batch(method), Shared())["structure"]
    assert loss > 0
    loss.backward()
    assert method.generator.synthesis.block(4).conv.weight.grad is not None


def test_frozen_styles_are_the_sources(source: Path) -> None:
    method = made(source, "freeze_styles=3")
    z = method.latents(2, 0)
    with torch.no_grad():
        before = method.mapping(z)
        for parameter in method.generator.mapping.parameters():
            parameter.add_(0.5)
        after = method.mapping(z)
        assert torch.equal(after[:, :3], before[:, :3])  # in every picture, mixed or not
        assert (after[:, 3:] - before[:, 3:]).abs().min() > 0
        torch.manual_seed(0)
        mixed, _ = method._codes(torch.zeros(4, dtype=torch.int64))
        source_w = {tuple(row.tolist()) for row in mixed[:, 0]}
        assert all(tuple(row.tolist()) in source_w for row in mixed[:, :1].flatten(0, 1))
        zero = method.truncated(after, 0.0)
        assert torch.equal(zero[0, 0], method._source_mapping().average)
        assert torch.equal(zero[0, 5], method.generator.mapping.average)


def test_lazy_regularisation_corrects_adam(source: Path) -> None:
    """Rate and betas are those of the published table: c = k / (k + 1)."""
    settings = config.load("stylegan-plain", TINY)
    optimizers = StyleGAN(settings.model, 16).optimizers()
    d, g = (optimizers[name].param_groups[0] for name in "DG")
    assert d["lr"] == pytest.approx(0.0018824, rel=1e-4)
    assert g["lr"] == pytest.approx(0.0016)
    assert d["betas"] == pytest.approx((0.0, 0.99059), abs=1e-5)
    assert g["betas"] == pytest.approx((0.0, 0.99199), abs=1e-5)


def test_a_style_file_with_a_discriminator_begins_a_training(source: Path, tmp_path: Path) -> None:
    from fewtoon import style

    drawer = fewtoon.load(source, "cpu")
    judge = network(source, "discriminator")
    path = tmp_path / "whole.safetensors"
    style.write(path, drawer.method, drawer.header, {"discriminator": judge})
    assert set(style.read_header(path)["networks"]) == {"generator", "discriminator"}
    assert torch.equal(fewtoon.load(path, "cpu").sample(drawer.method.latents(1, 0)),
                       drawer.sample(drawer.method.latents(1, 0)))  # fmt: skip
    train(tmp_path / "run", "freeze_discriminator_blocks=1", init=path)
    assert torch.equal(network(tmp_path / "run", "discriminator")["rgb.weight"], judge["rgb.weight"])


def test_the_shape_of_the_networks_comes_from_the_first_weights(source: Path, tmp_path: Path) -> None:
    """So a preset that fine-tunes goes with any source; the run remembers it."""
    settings = config.load("freeze-d-ada", [*SHORT, "freeze_discriminator_blocks=1"])
    for _ in range(2):
        fewtoon.train(settings, None, pack("drawings"), tmp_path, init=source, track=(), quiet=True)
    fewtoon.train(settings, None, pack("drawings"), tmp_path, track=(), quiet=True)
    assert fewtoon.load(tmp_path, "cpu").method.config.channel_max == 8  # type: ignore[attr-defined]
    other = config.load("freeze-d-ada", [*SHORT, *TINY, "latent=4", "freeze_discriminator_blocks=1"])
    with pytest.raises(Problem, match=r"init.*network 'generator'.*shape"):
        fewtoon.train(other, None, pack("drawings"), tmp_path / "other", init=source, track=(), quiet=True)


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["freeze_discriminator_blocks=3"], "freeze_discriminator_blocks = 3: at 16 px there are 2"),
        (["freeze_styles=7"], "freeze_styles = 7: at 16 px there are 6"),
        (["structure_weight=1", "structure_sizes=[5]"], "structure_sizes has 5"),
        (["structure_weight=1", "structure_sizes=[4, 8]", "freeze_generator_blocks=2"], "lets nothing move"),
        (["freeze_mapping=true"], "freeze_mapping=True.*--init"),
        (["structure_weight=1"], "structure_weight=1.0.*--init"),
        (["channels=[8, 8]"], "2 numbers of channels"),
        (["channels=[8, 0, 8]"], "at least 1"),
    ],
)
def test_contradictions_leave_nothing(sets: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=told) as raised:
        train(tmp_path / "run", *sets)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_sides(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(Problem, match=r"stylegan learns from drawings: name a pack with --drawings"):
        train(tmp_path / "run", drawings=None)
    with pytest.raises(Problem, match=r"--photos"):
        train(tmp_path / "run", "side=photos")
    train(tmp_path / "run", "compile=true", photos=pack("photos"), quiet=False)
    told = capsys.readouterr().err
    assert "the photos are not used: stylegan learns from drawings alone" in told
    with pytest.raises(Problem, match="nowhere"):
        train(tmp_path / "other", photos="nowhere")
    assert "train.compile: stylegan differentiates gradients" in told


def test_sizes_that_are_no_power_of_two(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"24 px.*8, 16, 32"):
        train(tmp_path / "run", drawings=pack("drawings", size=24))


def test_classes_need_groups(tmp_path: Path) -> None:
    summary = train(tmp_path / "run", "conditional=true", "sampling=tempered")
    style = fewtoon.load(summary["last"], "cpu")
    assert style.groups == ["a", "b"]
    z = style.method.latents(2, 0)
    assert not torch.equal(style.sample(z, group="a"), style.sample(z, group="b"))
    with pytest.raises(Problem, match="no group 'c'"):
        style.sample(z, group="c")

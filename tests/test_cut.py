"""CUT: blurred networks, PatchNCE and whole losses against plain restatements, resuming, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fewtoon
from fewtoon.errors import Problem
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.cut import CUT, patch_nce
from fewtoon.nets.resnet import PatchDiscriminator, Translator, blurred_down, initialise
from test_cyclegan import assert_resumes, batch, copy_weights, count, distance_after, plain_translator, train

SMALL = {"channels": 4, "blocks": 3, "patches": 16, "projection": 8}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def small(**settings: Any) -> CUT:
    method = CUT(CUT.Config(**{**SMALL, **settings}), 32)
    for net in method.networks().values():  # so that every term matters
        for parameter in net.parameters():
            nn.init.normal_(parameter, 0.0, 0.2)
    return method


# --- networks --------------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    """11,378,179 and 2,764,737 are published, with the biases that the normalisation removes (5,248 and 896)."""
    with torch.device("meta"):
        networks = CUT(CUT.Config(), 256).networks()
    heads = sum(width * 256 + 256 + 256 * 256 + 256 for width in (3, 128, 256, 256, 256))
    assert {name: count(net) for name, net in networks.items()} == {
        "generator": 11_378_179 - 5_248,
        "discriminator": 2_764_737 - 896,
        "projections": heads,
    }
    assert heads == 560_384


def published_down(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 2.0, 1.0])
    kernel = (taps[:, None] * taps / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def published_up(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = (taps[:, None] * taps / 64 * 4).expand(x.shape[1], 1, 4, 4)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=x.shape[1])[:, :, 1:, 1:][
        :, :, :-1, :-1
    ]


@pytest.mark.parametrize("blur", [True, False])
def test_the_generator_and_its_features_are_the_published_ones(blur: bool) -> None:
    """With the filters where the published layers have them; features from layers 0, 4, 8, 12 and 16."""
    ours, plain = Translator(32, 4, 9, blur), list(plain_translator(4, 9))
    if blur:
        down = [nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 1, 1)]
        up = [nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 4, 3, 1, 1)]
        plain[4], plain[7], plain[19], plain[22] = *down, *up
    copy_weights(ours, nn.Sequential(*plain))
    x = picture = torch.rand(2, 3, 32, 32) * 2 - 1
    kept = []
    for place, layer in enumerate(plain):
        if blur and place in (19, 22):
            x = published_up(x)
        x = layer(x)
        if place in (0, 4, 7, 10, 14):  # without the filters as layers of their own: 0, 4, 8, 12, 16
            kept.append(x)
        if blur and place in (6, 9):
            x = published_down(x)
    drawn, features = ours.with_features(picture)
    torch.testing.assert_close(drawn, x, atol=1e-4, rtol=1e-3)
    assert torch.equal(drawn, ours(picture))
    alone = ours.features(picture)
    # The biases that ours leaves out are in the published maps before their normalisation.
    biases = [None, plain[4].bias, plain[7].bias, None, None]
    for mine, again, theirs, bias in zip(features, alone, kept, biases, strict=True):
        assert torch.equal(mine, again)
        shift = 0 if bias is None else bias[:, None, None]
        torch.testing.assert_close(mine, theirs - shift, atol=1e-4, rtol=1e-3)


def test_the_blurred_discriminator_is_the_published_one() -> None:
    ours = PatchDiscriminator(4, blur=True)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    y = F.leaky_relu(F.conv2d(x, ours.first.weight, ours.first.bias, padding=1), 0.2)
    for conv in ours.convs:
        y = F.conv2d(published_down(y), conv.weight, padding=1)  # type: ignore[arg-type]
        y = F.leaky_relu(F.instance_norm(y), 0.2)
    y = F.conv2d(y, ours.last.weight, ours.last.bias, padding=1)
    assert y.shape == (2, 1, 6, 6)
    torch.testing.assert_close(ours(x), y, atol=1e-5, rtol=1e-3)


def test_a_blur_keeps_what_is_even() -> None:
    assert torch.allclose(blurred_down(torch.full((1, 2, 9, 11), 3.0)), torch.full((1, 2, 4, 5), 3.0))


def test_first_weights() -> None:
    net = Translator(32, 16, 1)
    initialise(net, xavier=True)
    for key, parameter in net.named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any()
        elif parameter.numel() > 2000:
            fans = (parameter.shape[0] + parameter.shape[1]) * parameter.shape[2] ** 2
            assert parameter.std().item() == pytest.approx(0.02 * math.sqrt(2 / fans), rel=0.08), key


# --- losses ----------------------------------------------------------------------------------------------


def plain_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """As published: the positive first, the negatives with -10 in the place of the positive, cross-entropy with 0."""
    terms = []
    for query, key in zip(queries, keys):
        positive = (query * key).sum(1, keepdim=True)
        negative = (query @ key.T).masked_fill(torch.eye(len(query), dtype=torch.bool), -10)
        logits = torch.cat([positive, negative], 1) / temperature
        terms.append(F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64), reduction="none"))
    return torch.cat(terms).mean()


def test_patch_nce_is_the_published_loss() -> None:
    queries, keys = (F.normalize(torch.randn(2, 3, 20, 8), dim=3)).unbind(0)
    queries.requires_grad_()
    keys.requires_grad_()
    mine = patch_nce(queries, keys, 0.07)
    mine.backward()
    assert keys.grad is None
    gradient, queries.grad = queries.grad, None
    theirs = plain_nce(queries, keys.detach(), 0.07)
    theirs.backward()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(gradient, queries.grad)
    same = F.normalize(torch.randn(1, 20, 64), dim=2)
    assert patch_nce(same, same, 0.07) < 0.05  # each tells its own place
    assert patch_nce(same, same.flip(1), 0.07) > 5
    even = torch.ones(1, 20, 4) / 2
    assert patch_nce(even, even, 0.07).item() == pytest.approx(
        math.log(20), rel=1e-4
    )  # no place tells anything


@pytest.mark.parametrize("identity", [True, False])
def test_losses_are_those_of_a_plain_restatement(identity: bool) -> None:
    method = small(nce_identity=identity)
    some = batch()
    d, g = method.phases()
    assert (d.name, g.name) == ("D", "G")
    torch.manual_seed(11)
    shared = Shared()
    mine_d = d.losses(some, shared)
    torch.manual_seed(12)
    mine_g = g.losses(some, shared)

    generator, judge = method.generator, method.discriminator
    fake, same = generator(some.photos), generator(some.drawings)
    torch.manual_seed(12)
    counts = [each.shape[2] * each.shape[3] for each in generator.features(fake)]
    places = [torch.randperm(n)[:16] for n in counts]

    def nce(source: Tensor, target: Tensor) -> Tensor:
        terms = []
        rows = zip(generator.features(source), generator.features(target), places, method.projections.heads)
        for k, q, at, head in rows:
            k, q = (F.normalize(head(m.flatten(2)[:, :, at].transpose(1, 2)), dim=2) for m in (k, q))
            terms.append(plain_nce(q, k.detach(), 0.07))
        return torch.stack(terms).mean()

    expected = {"adversarial": ((judge(fake) - 1) ** 2).mean(), "nce": nce(some.photos, fake)}
    total = expected["adversarial"] + expected["nce"]
    if identity:
        expected["identity"] = nce(some.drawings, same)
        total = expected["adversarial"] + (expected["nce"] + expected["identity"]) / 2
    assert mine_g.keys() == expected.keys()
    for key, value in expected.items():
        assert mine_g[key].item() == pytest.approx(value.item(), rel=1e-3), key
    mine_total: Any = sum(g.weights[key] * value for key, value in mine_g.items())
    assert mine_total.item() == pytest.approx(total.item(), rel=1e-3)
    assert mine_d["real"].item() == pytest.approx(((judge(some.drawings) - 1) ** 2).mean().item(), rel=1e-4)
    assert mine_d["fake"].item() == pytest.approx((judge(fake) ** 2).mean().item(), rel=1e-4)
    assert d.weights == {"real": 0.5, "fake": 0.5}
    # The gradients too: nothing flows to the keys, everything else moves.
    kernels = [*generator.parameters(), *method.projections.parameters()]
    own = torch.autograd.grad(mine_total, kernels)
    for gradient, theirs in zip(own, torch.autograd.grad(total, kernels)):
        assert (gradient - theirs).norm() < 5e-3 * theirs.norm() + 1e-6


@pytest.mark.parametrize(("blocks", "maps"), [(1, 4), (2, 4), (3, 5), (9, 5)])
def test_every_map_has_a_head(blocks: int, maps: int) -> None:
    """Also of few blocks, where the first one is the middle one."""
    method = small(blocks=blocks)
    assert len(method.projections.heads) == len(method.generator.features(torch.zeros(1, 3, 32, 32))) == maps


def test_each_source_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    encoded = Translator._encoded

    def counted(self: Translator, x: Tensor, found: Any, blocks: int) -> Tensor:
        passes.append((len(x), blocks))
        return encoded(self, x, found, blocks)

    monkeypatch.setattr(Translator, "_encoded", counted)
    method, shared = small(blocks=3), Shared()
    for phase in method.phases():
        phase.losses(batch(), shared)
    assert passes == [
        (4, 3),
        (4, 2),
    ]  # photos and drawings whole, what was drawn of them up to the middle block


def test_the_parts_of_a_split_batch_compare_the_same_places() -> None:
    method, some = small(), batch()
    torch.manual_seed(5)
    whole = method.generator_losses(some, Shared(kept=False))
    torch.manual_seed(5)
    parts = [Batch(some.photos[i : i + 1], some.drawings[i : i + 1], *some[2:]) for i in range(2)]
    each = [method.generator_losses(part, Shared(kept=False)) for part in parts]
    for key, value in whole.items():
        assert value.item() == pytest.approx(sum(one[key].item() for one in each) / 2, rel=1e-4), key
    torch.manual_seed(6)
    assert method.generator_losses(some, Shared(kept=False))["nce"].item() != pytest.approx(
        whole["nce"].item()
    )


# --- trainings -------------------------------------------------------------------------------------------


def test_resumed_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("patches=16", "projection=8", "augment=ada", "ada_start=0.5", "ada_every=2", "ada_pictures=50")
    run = assert_resumes(tmp_path, monkeypatch, "cut", *sets)
    style = fewtoon.load(run, "cpu")
    assert not style.method.goes_back()
    assert list(style.method.networks()) == ["generator"]
    with pytest.raises(Problem, match="has not learned to make photos"):
        style.back(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("temperature=0", "model.temperature = 0"),
        ("patches=1", "model.patches = 1"),
        ("nce_identity=perhaps", "model.nce_identity = 'perhaps'"),
        ("pool=50", "unknown key 'pool'"),
    ],
)
def test_bad_settings_are_refused(setting: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=told):
        train(tmp_path / "run", setting, preset="cut")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [20, 30, 0])
def test_sizes_that_do_not_work_are_refused(size: int) -> None:
    with pytest.raises(Problem, match=f"size {size}.*multiple of 4"):
        CUT(CUT.Config(**SMALL), size)


def test_it_learns_to_recolour() -> None:
    """Measured at step 40: 0.13, with PatchNCE down from ln 32 = 3.5 to 2.1."""
    sizes = {"discriminator_channels": 16, "patches": 32, "projection": 16, "blur": False}
    before, after = distance_after("cut", 60, learning_rate=2e-3, nce_weight=0.5, **sizes)
    assert before > 0.36
    assert after < 0.2

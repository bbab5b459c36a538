"""U-GAT-IT for groups: whose gradients move what, what the networks are told, and how a training begins."""

from __future__ import annotations

import copy

import pytest
import torch

from fewtoon import draw, style
from fewtoon.config import Config, Train
from fewtoon.engine import loop
from fewtoon.engine.checkpoint import States
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.losses.adversarial import group_classification
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.groups import READERS, Groups
from fewtoon.methods.ugatit import DISCRIMINATORS, GENERATORS, UGATIT
from fewtoon.nets.branches import Branches, from_plain
from fewtoon.nets.ugatit import Discriminator, Generator

GROUPS = ["men", "women", "kids"]
SMALL = {"channels": 4, "blocks": 1}
ROUTED = {"generator_groups": "branches", "gradients": "routed", "base": "women", "reader_weight": 0}
FROZEN = {"generator_groups": "none", "gradients": "frozen-bottleneck", "base": "women", "reader_weight": 0}
TENTH = (torch.arange(10) == 0).long()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def batch(groups: list[int], size: int = 32) -> Batch:
    torch.manual_seed(5)
    photos, drawings = (torch.rand(len(groups), 3, size, size) * 2 - 1 for _ in range(2))
    return Batch(photos, drawings, torch.tensor(groups), torch.tensor(groups), 0)


def trainee(size: int = 32, groups: list[str] = GROUPS, batch: int = 2, **model) -> Trainee:
    config = Groups.Config(**{**SMALL, **model})
    return Trainee(
        Config(method="groups", model=config, train=Train(batch=batch)), size, groups, torch.device("cpu")
    )


def moved(subject: Trainee, some: Batch) -> set[str]:
    """Names of the generators' parameters that one step changes, byte for byte."""
    networks = {name: subject.method.networks()[name] for name in GENERATORS}
    before = {name: copy.deepcopy(network.state_dict()) for name, network in networks.items()}
    loop.update(subject, some, Watch(1, quiet=True))
    return {
        f"{name}.{key}"
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
        if not torch.equal(tensor, before[name][key])
    }


def names(subject: Trainee) -> set[str]:
    networks = subject.method.networks()
    return {f"{name}.{key}" for name in GENERATORS for key, _ in networks[name].named_parameters()}


# --- selective backpropagation ---------------------------------------------------------------------------


def test_routed_gradients_of_few_groups_move_their_own_branches_and_nothing_else():
    subject = trainee(**ROUTED)
    changed = moved(subject, batch([0, 2]))
    wanted = {name for name in names(subject) if ".others.0." in name or ".others.2." in name}
    assert changed == wanted
    assert any("cam-average" in name for name in wanted)


def test_the_rich_group_moves_trunk_and_own_branch_but_no_other():
    subject = trainee(**ROUTED)
    assert moved(subject, batch([1, 1])) == {name for name in names(subject) if ".generator." in name}


def test_one_few_shot_group_leaves_the_other_branches_alone():
    subject = trainee(**ROUTED)
    assert moved(subject, batch([2, 2])) == {name for name in names(subject) if ".others.2." in name}


def test_all_gradients_let_every_group_move_the_trunk():
    subject = trainee(**{**ROUTED, "gradients": "all"})
    changed = moved(subject, batch([0, 0]))
    assert any(".generator.encoder." in name for name in changed)
    assert any(".others.0." in name for name in changed)
    # The rich group's own layers belong to nobody else.
    assert not any(".generator.head" in name or ".generator.stem" in name for name in changed)


def test_the_bottleneck_moves_for_the_rich_group_only():
    subject = trainee(**FROZEN)
    encoder = {name for name in names(subject) if ".encoder." in name}
    assert moved(subject, batch([0, 2])) == names(subject) - encoder
    assert moved(subject, batch([1, 1])) == names(subject)


def test_after_the_rich_group_momentum_does_not_move_what_others_may_not():
    """Adam would move a parameter on without a gradient; none is not zero."""
    subject = trainee(**ROUTED)
    moved(subject, batch([1, 1]))
    assert not any(".generator." in name for name in moved(subject, batch([0, 2])))


def test_routed_gradients_are_those_of_the_two_losses_differentiated_one_by_one():
    """Zhuang & Yang: base loss to everything, few-shot loss to the branches; both before any step."""
    torch.manual_seed(3)
    routed = Branches(Generator(32, 4, 1), ("stem", "head"), 3, 1, ("",))
    plain = Branches(copy.deepcopy(routed.generator), ("stem", "head"), 3, 1)
    plain.load_state_dict(routed.state_dict())
    x, groups = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])

    def loss(network, rows):
        return network(x, groups).image[rows].square().sum()

    loss(routed, slice(None)).backward()
    rich, few = [1, 3], [0, 2]
    everything = dict(plain.named_parameters())
    base = torch.autograd.grad(loss(plain, rich), list(everything.values()), allow_unused=True)
    new = torch.autograd.grad(loss(plain, few), list(everything.values()), allow_unused=True)
    for (name, parameter), b, n in zip(routed.named_parameters(), base, new):
        own = n if name.startswith("others.") else b
        if own is None:
            own = torch.zeros_like(parameter)
        got = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(
            got, own, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_branches_draw_each_picture_by_its_own_group_in_any_order():
    network = Branches(Generator(32, 4, 1), ("stem", "head"), 3, 1).eval()
    with torch.no_grad():
        for branch in network.others.values():
            for parameter in branch.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    x, groups = torch.rand(5, 3, 32, 32), torch.tensor([2, 0, 1, 0, -1])
    with torch.no_grad():
        together = network(x, groups)
        for i, group in enumerate(groups):
            alone = network(x[i : i + 1], group[None])
            torch.testing.assert_close(together.image[i], alone.image[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.cam_logit[i], alone.cam_logit[0], atol=1e-5, rtol=0)
        as_rich = network(x[4:], torch.tensor([1])).image
        torch.testing.assert_close(together.image[4:], as_rich, atol=1e-5, rtol=0)
        assert (
            network(x[:1], torch.tensor([0])).image - network(x[:1], torch.tensor([2])).image
        ).abs().max() > 0.01


# --- how it begins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vector", "branches"])
def test_begins_with_a_plain_model_as_that_model(kind, tmp_path):
    plain = Trainee(
        Config(method="ugatit", model=UGATIT.Config(**SMALL), train=Train()), 32, [], torch.device("cpu")
    )
    plain.artist.save(tmp_path / "plain.safetensors")
    subject = trainee(generator_groups=kind, reader_weight=0)
    subject.begin_with(tmp_path / "plain.safetensors")
    photos = batch([0, 1, 2]).photos
    with torch.no_grad():
        wanted = plain.artist.method.translate(photos)
        for name in GROUPS:
            torch.testing.assert_close(subject.method.translate(photos, name), wanted, atol=1e-5, rtol=0)
            torch.testing.assert_close(
                subject.artist.method.translate(photos, name), wanted, atol=1e-5, rtol=0
            )


def test_discriminators_that_told_no_groups_get_a_new_classifier(tmp_path):
    config = Config(method="ugatit", model=UGATIT.Config(**SMALL), train=Train(steps=1))
    plain = Trainee(config, 32, [], torch.device("cpu"))
    (tmp_path / "state").mkdir()
    States(tmp_path / "state").save(1, plain.tensors(), plain.facts(), 1)
    subject = trainee(generator_groups="none", group_loss="cross-entropy", reader_weight=0)
    found = subject.begin_with(tmp_path)
    assert "drawings_global" in found["networks"]
    mine, theirs = (s.method.networks()["drawings_local"].state_dict() for s in (subject, plain))
    assert all(torch.equal(mine[key], tensor) for key, tensor in theirs.items())
    assert "group.weight" in mine


def test_grown_tensors_cover_every_branch():
    network = Branches(Generator(32, 4, 1), ("stem", "cam.average"), 3, 1)
    grown = from_plain(Generator(32, 4, 1).state_dict(), network)
    assert grown.keys() == network.state_dict().keys()


# --- what is told and read -------------------------------------------------------------------------------


def test_a_vector_changes_the_drawing_and_an_unknown_group_gets_the_mean():
    generator = Generator(32, 4, 1, groups=3).eval()
    with torch.no_grad():
        generator.group.weight.copy_(torch.randn_like(generator.group.weight))
    vectors = generator.group(torch.tensor([0, 2, -1]))
    torch.testing.assert_close(vectors[2], generator.group.weight.mean(0))
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        first, second = (generator(x, torch.tensor([g])).image for g in (0, 1))
    assert (first - second).abs().max() > 1e-3


def test_the_frozen_reader_teaches_each_generator():
    subject = trainee(generator_groups="vector", reader_weight=1.0)
    networks = subject.method.networks()
    readers = {name: copy.deepcopy(networks[name].state_dict()) for name in READERS.values()}
    subject.ask_for_gradients({"G"})
    losses = subject.method.generator_losses(batch([0, 1]), Shared())
    losses["drawings/reader"].backward()
    assert any(p.grad is not None for p in networks["photo_to_drawing"].parameters())
    assert all(p.grad is None for p in networks["drawing_to_photo"].parameters())
    assert all(p.grad is None for name in READERS.values() for p in networks[name].parameters())
    loop.update(subject, batch([0, 2]), Watch(1, quiet=True))
    for name in READERS.values():
        assert all(torch.equal(t, readers[name][key]) for key, t in networks[name].state_dict().items())


def marked(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey noise (count, 32, 32, 3) uint8; pictures of group 1, a tenth, have a bar where glasses would be."""
    pictures = torch.randint(90, 160, (count, 32, 32, 3), dtype=torch.uint8)
    groups = (torch.arange(count) % 10 == 0).long()
    pictures[groups == 1, 12:15, 6:26] = 0
    return pictures, groups


def test_readers_learn_before_the_first_step_and_styles_carry_that_of_the_photos(tmp_path):
    subject = trainee(groups=["without", "with"], generator_groups="vector", reader_steps=60)
    subject.method.learn_first(lambda side: marked(100), 3, print)
    subject.average.start()
    pictures, groups = marked(60)
    photos = style.to_tensor(pictures.numpy())
    assert (subject.method.read(photos) == groups).float().mean() > 0.95
    subject.artist.save(tmp_path / "s.safetensors")
    artist = style.load(tmp_path / "s.safetensors", "cpu")
    guessed = artist.guess(photos[:10])
    assert guessed == [["without", "with"][g] for g in groups[:10]]
    with torch.no_grad():
        artist.method.networks()["photo_to_drawing"].group.weight.normal_()
    read, told = artist.translate(photos[:10]), artist.translate(photos[:10], guessed)
    assert torch.equal(read, told)
    assert torch.equal(read, artist.translate(photos[:10], "auto"))
    assert torch.equal(read[:1], artist.translate(photos[:1], "with"))
    assert not torch.equal(read[:1], artist.translate(photos[:1], "without"))


def test_discriminators_that_are_told_judge_by_the_group():
    """What the group adds is the same at every patch; a picture of no group, and a discriminator that is not told,
    are judged as they are."""
    told, plain = Discriminator(4, 4, told=3), Discriminator(4, 4)
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("told.")})
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logit = told(x, group=torch.tensor([0, 1, -1])).logit
        other = told(x, group=torch.tensor([1, 1, 2])).logit
        bare = plain(x).logit
        assert torch.equal(told(x).logit, bare)
    assert torch.equal(plain(x, group=torch.tensor([0, 1, 2])).logit, bare)
    assert torch.equal(logit[1], other[1])
    assert torch.equal(logit[2], bare[2])
    for place in (0, 2):
        added = logit[place] - other[place]
        assert added.std() < 1e-6
        assert added.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("asked", "names"),
    [("none", []), ("drawings", ["drawings_global", "drawings_local"]), ("both", list(DISCRIMINATORS))],
)
def test_whose_discriminators_are_told(asked, names):
    networks = trainee(group_told=asked, reader_weight=0).method.networks()
    assert [name for name in DISCRIMINATORS if networks[name].told is not None] == [
        name for name in DISCRIMINATORS if name in names
    ]


def test_real_pictures_are_judged_by_their_own_group_and_fakes_by_that_of_their_source(monkeypatch):
    subject = trainee(group_told="both", reader_weight=0)
    seen = []
    network = subject.method.networks()["drawings_global"]
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x, update=False, group=None: (
        seen.append(group.tolist()), forward(x, update, group))[1])  # fmt: skip
    some = batch([0, 1])._replace(photo_groups=torch.tensor([1, 1]))
    subject.method.discriminator_losses(some, Shared())
    assert seen == [[*some.drawing_groups.tolist(), 1, 1]]


def test_what_is_learned_first_is_a_function_of_the_seed():
    found = []
    for seed in (1, 1, 2):
        subject = trainee(groups=["without", "with"], generator_groups="vector", reader_steps=3)
        torch.rand(seed)  # whatever was drawn before
        subject.method.learn_first(
            lambda side: (torch.arange(30720).reshape(10, 32, 32, 3).byte(), TENTH), seed, print
        )
        found.append(subject.method.networks()["photos_reader"].last.weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_style_without_a_reader_takes_everybody_for_the_rich_group(tmp_path):
    subject = trainee(**ROUTED)
    del subject.artist.method.networks()["photos_reader"]
    artist = subject.artist
    photos = batch([0]).photos
    assert artist.guess(photos) == ["women"]
    assert torch.equal(artist.translate(photos), artist.translate(photos, "women"))
    with pytest.raises(Problem, match="'auto'"):
        artist.translate(photos, "auto")
    with pytest.raises(Problem, match="2 groups for 1 photos"):
        artist.translate(photos, ["men", "men"])
    with pytest.raises(Problem, match="no group 'man'; did you mean 'men'"):
        artist.translate(photos, ["man"])


def test_group_classification_leaves_pictures_of_no_group_out():
    logit = torch.randn(3, 4)
    known = group_classification(logit[:2], torch.tensor([1, 3]))
    assert torch.equal(group_classification(logit, torch.tensor([1, 3, -1])), known)
    assert group_classification(logit, torch.tensor([-1, -1, -1])).item() != pytest.approx(float("nan"))
    one_hot = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 1]])
    squared = group_classification(logit[:2], torch.tensor([1, 3]), squared=True)
    assert squared.item() == pytest.approx((logit[:2] - one_hot).square().mean().item(), rel=1e-6)


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "model", "told"),
    [
        ([], {}, "0 groups"),
        (["a"], {}, "1 groups"),
        (GROUPS, {"base": "woman"}, "'woman' is no group"),
        (GROUPS, {"gradients": "routed"}, "branches"),
        (GROUPS, {"norm": "layer"}, "'layer'"),
    ],
)
def test_bad_settings(groups, model, told):
    with pytest.raises(Problem, match=told):
        Groups(Groups.Config(**SMALL, **model), 32, groups)


def test_translate_reads_each_photo_and_tells_as_what(tmp_path):
    subject = trainee(groups=["without", "with"], generator_groups="vector", reader_steps=60)
    subject.method.learn_first(lambda side: marked(100), 3, print)
    subject.average.start()
    subject.artist.save(tmp_path / "s.safetensors")
    pictures, _ = marked(20)
    for number, picture in enumerate(pictures):
        images.save_png(tmp_path / "photos" / f"{number:02}.png", picture.numpy())
    found = draw.translate(tmp_path / "s.safetensors", tmp_path / "photos", tmp_path / "drawn")
    guessed = style.load(tmp_path / "s.safetensors", "cpu").guess(style.to_tensor(pictures.numpy()))
    assert found["read_as"] == {"with": guessed.count("with"), "without": guessed.count("without")}
    assert guessed.count("with") in (1, 2, 3)
    named = draw.translate(tmp_path / "s.safetensors", tmp_path / "photos", tmp_path / "n", group="with")
    assert named["read_as"] == {}

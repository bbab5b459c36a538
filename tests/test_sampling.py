"""Ways of sampling: whose turn it is, that each picture gets its turn, and what is wrong with groups."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import toy_method
from fewtoon import config as configs
from fewtoon import methods
from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine.feed import Feed
from fewtoon.engine.sampling import Plan, check_groups, richest, tempered_quotas
from fewtoon.errors import Problem
from fewtoon.run import Run
from toy_method import Toy, train

CPU = torch.device("cpu")
STRATEGIES = ["proportional", "round-robin", "one-per-group", "tempered"]
WEBTOON = [1050, 249, 49, 38]  # drawings per group


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda name: Toy)
    torch.set_num_threads(1)


def pack(side: str, counts: dict[str | None, int], held_out: dict[str | None, int] | None = None) -> Pack:
    """Pictures whose value is their number, group after group; the held out ones come last."""
    groups = [name for some in (counts, held_out or {}) for name, count in some.items() for _ in range(count)]
    training = sum(counts.values())
    splits = ["train"] * training + ["held_out"] * (len(groups) - training)
    pictures = np.broadcast_to(
        np.arange(len(groups), dtype=np.uint8)[:, None, None, None], (len(groups), 2, 2, 3)
    )
    return Pack.from_arrays(pictures, side, groups, splits)


def feed_of(photos: Pack, drawings: Pack, names: list[str], **changes: Any) -> Feed:
    return Feed(photos, drawings, names, Train(**{"flip": False, "enlarge": 1, **changes}), CPU)


def numbers(pictures: torch.Tensor) -> list[int]:
    return ((pictures[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


# --- whose turn it is -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES[1:]),
    counts=st.lists(st.integers(2, 400), min_size=2, max_size=6),
    batch=st.integers(1, 5),
    temper=st.sampled_from([0, 0.3, 0.5, 1]),
    seed=st.integers(0, 9),
    start=st.integers(0, 3000),
)
def test_the_closed_form_is_what_counting_gives(
    strategy: str, counts: list[int], batch: int, temper: float, seed: int, start: int
) -> None:
    batch *= len(counts) if strategy == "one-per-group" else 1
    train = Train(sampling=strategy, batch=batch, temper=temper, seed=seed)
    plan = Plan(train, counts)
    groups = [plan.group(entry) for entry in range(start + 40)]
    counted = np.bincount(groups[:start], minlength=len(counts))
    assert plan.visits(start).tolist() == counted.tolist()
    for entry, (group, before) in enumerate(Plan(train, counts).entries(start, start + 40), start):
        assert group == groups[entry]
        assert before == groups[:entry].count(group)


def test_round_robin_gives_each_step_to_one_group_in_turn() -> None:
    plan = Plan(Train(sampling="round-robin", batch=3), [9, 2, 5])
    assert [plan.group(entry) for entry in range(18)] == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2
    assert plan.visits(3 * 300 + 4).tolist() == [303, 301, 300]


def test_one_per_group_gives_each_place_of_the_batch_to_a_group() -> None:
    plan = Plan(Train(sampling="one-per-group", batch=6), [9, 2, 5])
    assert [plan.group(entry) for entry in range(6, 12)] == [0, 1, 2, 0, 1, 2]
    with pytest.raises(Problem, match=r"train.batch = 4 is no multiple of the 3 groups.*train.batch=6$"):
        Plan(Train(sampling="one-per-group", batch=4), [9, 2, 5])


def test_tempered_gives_each_block_its_quotas_in_an_order_of_its_own() -> None:
    plan = Plan(Train(sampling="tempered", seed=3), WEBTOON)
    blocks = [plan.block(number) for number in range(3)]
    for block in blocks:
        assert np.bincount(block).tolist() == plan.quotas.tolist()
    assert not np.array_equal(blocks[0], blocks[1])
    assert np.array_equal(plan.block(0), blocks[0])  # back again
    assert not np.array_equal(blocks[0], Plan(Train(sampling="tempered", seed=4), WEBTOON).block(0))
    assert np.array_equal(blocks[2], Plan(Train(sampling="tempered", seed=3), WEBTOON).block(2))
    # well mixed: in every stretch of 100 entries about as many of the rich group as its share says
    share = plan.quotas[0] / plan.quotas.sum()
    assert np.abs(np.convolve(blocks[0] == 0, np.ones(100), "valid") / 100 - share).max() < 0.25


def test_quotas_of_the_webtoon_groups() -> None:
    assert tempered_quotas(WEBTOON, 1).tolist() == WEBTOON
    assert tempered_quotas(WEBTOON, 0).tolist() == [347, 347, 346, 346]
    roots = np.sqrt(WEBTOON)
    assert np.abs(tempered_quotas(WEBTOON, 0.5) / 1386 - roots / roots.sum()).max() < 1 / 1386


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(2, 20000), min_size=2, max_size=12), temper=st.floats(0, 1))
def test_quotas_are_the_shares_to_less_than_one_entry(counts: list[int], temper: float) -> None:
    quotas, powers = tempered_quotas(counts, temper), np.array(counts, dtype=float) ** temper
    assert quotas.sum() >= 1000
    assert quotas.sum() % sum(counts) == 0
    assert quotas.min() >= 1
    assert np.abs(quotas - powers / powers.sum() * quotas.sum()).max() < 1
    whole = quotas.sum() // sum(counts)
    assert tempered_quotas(counts, 1).tolist() == [count * whole for count in counts]
    equal = tempered_quotas(counts, 0)
    assert equal.max() - equal.min() <= 1


# --- who is in the batches ---------------------------------------------------------------------------------

NAMES = ["a", "b", "c"]
PHOTOS = pack("photos", {"a": 7, None: 3, "b": 5, "c": 1}, {"a": 2, "b": 2})
DRAWINGS = pack("drawings", {"b": 3, "a": 11, "c": 2, None: 4}, {"c": 3})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_log_counts_what_the_batches_hold(strategy: str) -> None:
    feed = feed_of(PHOTOS, DRAWINGS, NAMES, sampling=strategy, batch=6, seed=2)
    other = feed_of(PHOTOS, DRAWINGS, NAMES, sampling=strategy, batch=6, seed=2)
    counted = {"photos": Counter(dict.fromkeys(NAMES, 0)), "drawings": Counter(dict.fromkeys(NAMES, 0))}
    ungrouped = 0
    for step in range(60):
        assert other.visits(step) == counted
        batch = feed.batch(step, 0)
        for side, groups in (("photos", batch.photo_groups), ("drawings", batch.drawing_groups)):
            counted[side].update(NAMES[group] for group in groups.tolist() if group >= 0)
            ungrouped += int((groups < 0).sum())
    assert (ungrouped > 0) == (strategy == "proportional")
    assert feed.sides["photos"].resident is not None
    assert len(feed.sides["photos"].resident) == (
        16 if strategy == "proportional" else 13
    )  # what is not seen takes no memory


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("temper", [0, 1])
def test_both_sides_of_an_entry_are_of_one_group_and_every_picture_gets_its_turn(
    strategy: str, temper: float
) -> None:
    feed = feed_of(PHOTOS, DRAWINGS, NAMES, sampling=strategy, temper=temper, batch=3, seed=1)
    seen: dict[str, list[int]] = {"photos": [], "drawings": []}
    for step in range(90):
        batch = feed.batch(step, 0)
        assert batch.photo_groups.tolist() == batch.drawing_groups.tolist()
        for side, pictures, source in (
            ("photos", batch.photos, PHOTOS),
            ("drawings", batch.drawings, DRAWINGS),
        ):
            found = numbers(pictures)
            assert [source.rows[n].group for n in found] == [NAMES[g] for g in batch.photo_groups]
            seen[side] += found
    for side, source in (("photos", PHOTOS), ("drawings", DRAWINGS)):
        times = Counter(seen[side])
        for name in NAMES:
            own = source.where(split="train", group=name)
            of_group = [number for number in seen[side] if source.rows[number].group == name]
            assert set(of_group) == set(own)  # training pictures only
            assert max(times[n] for n in own) - min(times[n] for n in own) <= 1
            epochs = [of_group[at : at + len(own)] for at in range(0, len(of_group) - len(own) + 1, len(own))]
            assert all(sorted(epoch) == sorted(own) for epoch in epochs)
            assert len(own) < 5 or len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_does_not_depend_on_those_before(strategy: str) -> None:
    feed = feed_of(PHOTOS, DRAWINGS, NAMES, sampling=strategy, batch=3, flip=True, enlarge=1.2)
    whole = [feed.batch(step, 0) for step in range(30)]
    for step in (29, 0, 17, 18, 4):
        again = feed_of(PHOTOS, DRAWINGS, NAMES, sampling=strategy, batch=3, flip=True, enlarge=1.2)
        for came in (again.batch(step, 0), feed.batch(step, 0)):
            assert all(torch.equal(a, b) for a, b in zip(came[:4], whole[step][:4]))


def test_a_seed_shuffles_groups_and_sides_apart() -> None:
    own = {"a": 30, "b": 30}
    packs = [pack(side, own) for side in ("photos", "drawings")]  # type: ignore[arg-type]
    feed = feed_of(*packs, ["a", "b"], sampling="one-per-group", batch=2)
    batches = [feed.batch(step, 0) for step in range(30)]
    photos, drawings = ([numbers(batch[side]) for batch in batches] for side in (0, 1))
    orders = [[pair[0] for pair in photos], [pair[1] - 30 for pair in photos], [pair[0] for pair in drawings]]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_chosen_groups_take_turns_alone() -> None:
    feed = feed_of(PHOTOS, DRAWINGS, ["c", "a"], sampling="round-robin", batch=1, groups=["c", "a"])
    groups = [
        NAMES.index(PHOTOS.rows[number].group or "")
        for s in range(4)
        for number in numbers(feed.batch(s, 0)[0])
    ]
    assert groups == [2, 0, 2, 0]
    assert feed.visits(3) == {"photos": {"c": 2, "a": 1}, "drawings": {"c": 2, "a": 1}}


# --- a training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resumed_is_uninterrupted(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"sampling": strategy, "steps": 10, "log_every": 1, "metric_every": 10, "preview_every": 10}
    train(tmp_path / "whole", **changes)
    real = Feed.batch

    def dies(self: Feed, step: int, attempt: int) -> Any:
        if step == 6:
            raise KeyboardInterrupt
        return real(self, step, attempt)

    monkeypatch.setattr(Feed, "batch", dies)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "torn", **changes)
    monkeypatch.setattr(Feed, "batch", real)
    train(tmp_path / "torn", **changes)
    for name in ("log.jsonl", "last.safetensors"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    logged = [line["visits"] for line in Run(tmp_path / "torn").log() if "rate" in line]
    assert len(logged) == 10
    for step, visits in enumerate(logged, 1):
        assert {side: sum(groups.values()) for side, groups in visits.items()} == {
            "photos": 2 * step,
            "drawings": 2 * step,
        }
    if strategy == "round-robin":
        assert logged[4] == {"photos": {"a": 6, "b": 4}, "drawings": {"a": 6, "b": 4}}


def test_packs_without_groups_log_no_visits(tmp_path: Path) -> None:
    packs = {side: toy_method.pack(side, 1) for side in ("photos", "drawings")}
    for one in packs.values():
        for row in one.rows:
            row.group = None
    train(tmp_path, steps=1, **packs)
    assert not any("visits" in line for line in Run(tmp_path).log())


def test_pictures_of_no_group_are_told_where_they_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = toy_method.pack("photos", 1)
    for row in photos.rows[8:13]:  # two held out, three for training
        row.group = None
    train(tmp_path / "all", steps=1, photos=photos, quiet=False)
    assert "left out" not in capsys.readouterr().err
    train(tmp_path / "some", steps=1, photos=photos, quiet=False, sampling="tempered")
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("left out") == 1
    assert "warning: 3 training photos have no group and are left out: train.sampling=tempered" in told


def test_a_run_does_not_change_its_sampling(tmp_path: Path) -> None:
    train(tmp_path, steps=1)
    with pytest.raises(Problem, match=r"train\.sampling: proportional -> tempered"):
        train(tmp_path, steps=2, sampling="tempered")


# --- what is wrong with groups ---------------------------------------------------------------------------

FINE = {"a": 4, "b": 3, "c": 2}
WRONG = [
    ({None: 9}, FINE, {}, r"needs groups, and the pack of photos has none; label the pictures.*--groups$"),
    (FINE, {None: 9}, {}, "needs groups, and the pack of drawings has none; label the pictures"),
    ({"a": 4, "b": 3}, FINE, {}, r"group 'c' is on one side only: it has 2 drawings and no photos"),
    (
        {**FINE, "d": 5},
        FINE,
        {},
        r"group 'd' .* 5 photos and no drawings; label .*--set \"train.groups=\[a, b, c\]\"$",
    ),
    (FINE, {"a": 4, "b": 3, "c": 1}, {}, r"group 'c' has only 1 drawing to train on.*train.groups=\[a, b\]"),
    ({"a": 4}, {"a": 4}, {}, r"needs two groups at least, and 'a' is the only one; label another"),
    ({"a": 4, "b": 2}, {"a": 4, "b": 1}, {}, r"has only 1 drawing.*label more pictures of it$"),
    (
        {**FINE, "yes": 1, "0, 1": 2, "d": 1},
        {**FINE, "yes": 2, "0, 1": 2},
        {},
        r"=\[a, b, c, 'yes', '0, 1'\]",
    ),
]


@pytest.mark.parametrize(("photos", "drawings", "changes", "told"), WRONG)
@pytest.mark.parametrize("strategy", ["proportional", "round-robin"])
def test_what_cannot_be_trained_group_by_group(
    photos: Any, drawings: Any, changes: dict[str, Any], told: str, strategy: str
) -> None:
    packs = pack("photos", photos), pack("drawings", drawings)
    groups = changes.get("groups") or [name for name in {**photos, **drawings} if name]
    with pytest.raises(Problem, match=told) as raised:
        check_groups(packs, groups, Train(sampling=strategy, **changes))
    assert "\n" not in str(raised.value)
    asking = {"proportional": "this method", "round-robin": "train.sampling=round-robin"}[strategy]
    assert asking in str(raised.value) or " needs " not in str(raised.value)
    if strategy != "proportional":  # the feed asks by itself
        with pytest.raises(Problem, match=told):
            feed_of(*packs, groups, sampling=strategy, **changes)


@pytest.mark.parametrize("side", ["photos", "drawings"])
def test_a_group_that_is_held_out_whole(side: str) -> None:
    packs = {"photos": pack("photos", FINE), "drawings": pack("drawings", FINE)}
    packs[side] = pack(side, {"a": 4, "b": 3}, {"c": 6})  # type: ignore[arg-type]
    told = rf"group 'c' has no {side} to train on: all 6 are held out.*\[a, b\]"
    with pytest.raises(Problem, match=told):
        check_groups(list(packs.values()), NAMES, Train())
    check_groups(list(packs.values()), ["a", "b"], Train(groups=["a", "b"]))


def test_the_named_remedy_works(tmp_path: Path) -> None:
    packs = pack("photos", {**FINE, "no": 3}), pack("drawings", FINE)
    with pytest.raises(Problem) as raised:
        check_groups(packs, [*NAMES, "no"], Train())
    key, _, value = str(raised.value).split('--set "')[1].rstrip('"').partition("=")
    assert key == "train.groups"
    (tmp_path / "toy.yaml").write_text("method: toy")
    chosen = configs.load(tmp_path / "toy.yaml", [f"train.groups={value}", "sampling=tempered"]).train
    assert chosen.groups == NAMES
    check_groups(packs, NAMES, chosen)


def test_the_rich_group_is_that_with_most_training_drawings() -> None:
    drawings = pack("drawings", {"a": 2, "b": 5, "c": 5}, {"c": 9})
    assert richest(drawings, NAMES) == "b"
    assert richest(drawings, ["a", "c"]) == "c"


def test_a_method_of_groups_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = toy_method.pack("drawings", 2)
    for row in drawings.rows[11::2]:
        row.group = "a"
    train(tmp_path / "any", steps=1, drawings=drawings)
    monkeypatch.setattr(Toy, "needs_groups", True)
    with pytest.raises(Problem, match="group 'b' has no drawings to train on: all 5 are held out"):
        train(tmp_path / "grouped", steps=1, drawings=drawings)
    assert not (tmp_path / "grouped").exists()


def test_settings_of_sampling_are_checked(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("method: toy")
    for wrong, told in (("sampling=equal", "'equal'"), ("temper=1.5", r"1\.5"), ("temper=-1", "-1")):
        with pytest.raises(Problem, match=f"train.{wrong.split('=')[0]} = {told}"):
            configs.load(tmp_path / "toy.yaml", [wrong])
    assert Train().sampling == "proportional"

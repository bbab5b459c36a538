"""Groups by suggestion: the reader, its honesty about itself, and the table that people look through."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewtoon.data import labels, world
from fewtoon.data.marks import Marks
from fewtoon.data.pack import Pack
from fewtoon.data.suggest import suggest, wilson
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.io.images import Found
from fewtoon.nets import reader as reader_module
from fewtoon.nets.reader import train_reader

DATA = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def drawings():
    """(pictures, group of each, group of every second one and None of the others)."""
    pictures, _, groups = world.sample("drawings", 200, 48, seed=3)
    return pictures, groups, [group if i // 4 % 2 else None for i, group in enumerate(groups)]


@pytest.fixture(scope="module")
def suggestions(drawings):
    return suggest(drawings[0], drawings[2])


def dots(count, seed=0, noise=60.0):
    """(pictures, classes 0 to 2): noise, with a square at a place that tells the class."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, count)
    pictures = random.normal(128, noise, (count, 24, 24, 3))
    for picture, kind in zip(pictures, kinds):
        picture[8 * kind : 8 * kind + 8, 8:16] += 60
    return pictures.clip(0, 255).astype(np.uint8), kinds


# ---- proposals ---------------------------------------------------------------------------------------------


def test_groups_of_the_others_are_found(drawings, suggestions):
    _, groups, given = drawings
    rest = suggestions.unlabelled
    assert list(rest) == [i for i, group in enumerate(given) if group is None]
    right = np.mean([suggestions.proposed[i] == groups[i] for i in rest])
    assert right > 0.85  # guessing gives 0.25
    low, high = suggestions.interval
    assert low - 0.05 <= right <= high + 0.05  # as it said itself; the rest is a sample too
    assert suggestions.learned


def test_the_figures_are_those_of_the_confusions(drawings, suggestions):
    _, _, given = drawings
    table = np.zeros((4, 4), int)
    for i, group in enumerate(given):
        if group is not None:
            table[suggestions.known.index(group), suggestions.known.index(suggestions.proposed[i])] += 1
    np.testing.assert_array_equal(suggestions.confusion, table)
    assert suggestions.accuracy == np.trace(table) / 100
    assert suggestions.interval == wilson(int(np.trace(table)), 100)
    for i, group in enumerate(suggestions.per_group):
        assert (group.group, group.labelled, group.right) == (world.GROUPS[i], 25, table[i, i])
        assert group.accuracy == table[i, i] / 25
        assert group.precision == table[i, i] / table[:, i].sum()
        assert group.interval == wilson(int(table[i, i]), 25)
        wrong = [n for j, n in enumerate(table[i]) if j != i]
        assert (group.mistaken_for is None) == (max(wrong) == 0)
    assert suggestions.balanced_accuracy == pytest.approx(np.mean(table.diagonal() / 25))
    np.testing.assert_allclose(suggestions.probabilities.sum(1), 1)


def test_a_sure_proposal_is_right(drawings, suggestions):
    _, groups, _ = drawings
    sure = [i for i in suggestions.unlabelled if suggestions.probability[i] >= 0.9]
    assert len(sure) > 30
    assert np.mean([suggestions.proposed[i] == groups[i] for i in sure]) > 0.93
    count, tested, right = suggestions.trusted(0.9)
    assert count == len(sure)
    assert 0.9 < right / tested <= 1


def test_the_same_every_time(drawings, suggestions):
    pictures, _, given = drawings
    again = suggest(pictures, given)
    np.testing.assert_array_equal(again.probabilities, suggestions.probabilities)
    other = suggest(pictures, given, seed=1)  # other folds
    assert np.abs(other.probabilities - suggestions.probabilities).max() > 1e-3
    rest = suggestions.unlabelled
    alike = [other.proposed[i] == suggestions.proposed[i] for i in rest]
    assert np.mean(alike) > 0.95


def test_other_pictures_to_be_proposed_change_nothing(drawings, suggestions):
    pictures, _, given = drawings
    kept = [i for i, group in enumerate(given) if group is not None] + [0]
    fewer = suggest(pictures[kept], [given[i] for i in kept])
    np.testing.assert_allclose(fewer.probabilities[-1], suggestions.probabilities[0], atol=1e-3)


def test_packs_lists_and_arrays_are_one(drawings, suggestions, tmp_path):
    pictures, _, given = drawings
    Pack.from_arrays(pictures, "drawings", given).save(tmp_path / "pack")
    pack = suggest(Pack.open(tmp_path / "pack"))
    np.testing.assert_array_equal(pack.probabilities, suggestions.probabilities)
    assert pack.names[17] == "000017"
    doubled = [np.pad(np.kron(p, np.ones((2, 2, 1), np.uint8)), ((0, 0), (7, 7), (0, 0))) for p in pictures]
    found = suggest(doubled, given)
    assert np.mean([a == b for a, b in zip(found.proposed, suggestions.proposed)]) > 0.95


def test_a_group_that_cannot_be_told_is_named():
    """One group of the drawn ones is cut in two at random: these two are what the reader cannot tell."""
    pictures, kinds = dots(240)
    half = np.random.default_rng(1).random(240) < 0.5
    names = np.array(["left", "middle", "right a"])[kinds]
    names[(kinds == 2) & half] = "right b"
    found = suggest(pictures, [str(name) if i % 4 else None for i, name in enumerate(names)])
    assert found.learned
    for name, other in (("right a", "right b"), ("right b", "right a")):
        group = next(group for group in found.per_group if group.group == name)
        assert group.interval[0] < 0.6
        if group.accuracy < 0.6:
            assert f"group {name} only {round(100 * group.accuracy)} %" in found.verdict
            assert group.mistaken_for == other
    assert "group left only" not in found.verdict
    assert "look at these yourself" in found.verdict
    doubt = found.probability[[i for i in found.unlabelled if kinds[i] == 2]]
    assert np.median(doubt) < 0.75


def test_few_of_one_group_among_many(drawings):
    """Weighed alike, so the few are not drowned."""
    pictures, groups, _ = drawings
    counts = {world.GROUPS[0]: 40, world.GROUPS[1]: 40, world.GROUPS[2]: 8, world.GROUPS[3]: 8}
    given: list[str | None] = []
    for group in groups:
        counts[group] -= 1
        given.append(group if counts[group] >= 0 else None)
    found = suggest(pictures, given)
    rest = [i for i in found.unlabelled if groups[i] in world.GROUPS[2:]]
    assert np.mean([found.proposed[i] == groups[i] for i in rest]) > 0.6
    assert found.per_group[2].labelled == 8
    assert found.per_group[2].interval[1] - found.per_group[2].interval[0] > 0.3  # 8 pictures say little


def test_photos_of_four_uneven_groups():
    folder = DATA / "photos" / "omi"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}: set FEWTOON_DATA to the folder of real data")
    files = sorted(folder.glob("[0-3]_*/*.jpg"))
    pictures = [images.resize_square(images.read(file, draft=128), 64) for file in files]
    groups = [file.parent.name for file in files]
    found = suggest(pictures, [group if i % 2 else None for i, group in enumerate(groups)])
    right = np.mean([found.proposed[i] == groups[i] for i in found.unlabelled])
    assert right > 0.87
    assert found.interval[0] - 0.04 < right < found.interval[1] + 0.04
    assert found.per_group[3].labelled < 20
    assert found.per_group[3].accuracy < found.per_group[0].accuracy


# ---- honesty -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(0.25, 0.25, 0.25, 0.25), (0.7, 0.2, 0.06, 0.04)])
def test_shuffled_labels_teach_nothing(drawings, shares, tmp_path):
    pictures, _, given = drawings
    random = np.random.default_rng(0)
    shuffled = [None if group is None else str(random.choice(world.GROUPS, p=shares)) for group in given]
    for name in world.GROUPS:  # at least five of each
        for i in random.choice([i for i, g in enumerate(given) if g is not None], 5, replace=False):
            shuffled[i] = name
    found = suggest(pictures, shuffled)
    assert not found.learned
    assert found.balanced_accuracy == pytest.approx(0.25, abs=0.1)
    assert found.accuracy < found.largest + 0.1
    assert found.doubtful == []  # nothing that looks surely like another group
    assert "learned nothing" in found.verdict
    assert "do not use" in found.verdict
    with pytest.raises(Problem, match="learned nothing"):
        found.write_csv(tmp_path / "groups.csv", accept=0.5)
    assert not (tmp_path / "groups.csv").exists()
    assert found.write_csv(tmp_path / "groups.csv") == 0


def test_probabilities_keep_their_word():
    """A fifth of the labels is wrong: sure readings must not be."""
    pictures, kinds = dots(600, noise=40)
    random = np.random.default_rng(0)
    noisy = np.where(random.random(600) < 0.2, random.integers(0, 3, 600), kinds)
    reader = train_reader(pictures, np.where(np.arange(600) < 400, noisy, -1), ["a", "b", "c"])
    given = reader.probabilities(pictures[400:])
    right = given.argmax(1) == noisy[400:]
    assert right.mean() > 0.8
    # Never surer than right; scores as they come from the regression would be, by far.
    assert -0.15 < given.max(1).mean() - right.mean() < 0.03
    unseen = reader.unseen[:400]
    assert abs(unseen.max(1).mean() - (unseen.argmax(1) == noisy[:400]).mean()) < 0.08


def test_copies_are_never_on_both_sides():
    """Noise with labels by chance, each picture three times: who has seen a copy knows the answer."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8).repeat(3, 0)
    kinds = random.integers(0, 2, 40).repeat(3)
    reader = train_reader(pictures, kinds, ["a", "b"])
    assert (reader.probabilities(pictures).argmax(1) == kinds).mean() > 0.9  # it has seen them
    assert (reader.unseen.argmax(1) == kinds).mean() < 0.75


def test_wrong_labels_are_found():
    pictures, kinds = dots(300, noise=25)
    names = [str(kind) for kind in kinds]
    wrong = [7, 90, 222]
    for i in wrong:
        names[i] = str((kinds[i] + 1) % 3)
    found = suggest(pictures, names)
    assert sorted(found.doubtful) == wrong
    assert "3 labelled pictures surely look like another group" in found.verdict
    assert f"such as {found.doubtful[0]:06d}" in found.verdict


def test_wilson():
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(20, 20)[1] == 1
    assert 0.8 < wilson(20, 20)[0] < 0.9


# ---- the reader --------------------------------------------------------------------------------------------


def test_a_class_of_one_picture_is_learned_but_not_validated():
    pictures, kinds = dots(60, noise=25)
    known = np.where(kinds == 2, -1, kinds)
    single = int(np.flatnonzero(kinds == 2)[0])
    known[single] = 2
    reader = train_reader(pictures, known, ["a", "b", "c"])
    assert np.isnan(reader.unseen[single]).all()
    assert np.isnan(reader.unseen[known < 0]).all()
    assert np.isfinite(reader.unseen[(known >= 0) & (known < 2)]).all()
    assert reader.folds == 10
    pair = train_reader(pictures[:2], [0, 1], ["a", "b"])
    assert pair.folds == 0
    assert np.isnan(pair.unseen).all()
    assert pair.probabilities(pictures[:2]).argmax(1).tolist() == [0, 1]


def test_all_classes_weigh_the_same():
    """Two overlapping classes on a line, 300 and 20 of them: the border lies half-way, not at the few."""
    random = np.random.default_rng(0)
    places = np.concatenate([random.normal(-1, 1, 300), random.normal(1, 1, 20)])
    kinds = np.arange(320) // 300
    model = reader_module._fit(torch.from_numpy(places).float().view(1, 320, 1), kinds, np.ones(320, bool), 2)
    left, right = model(torch.tensor([[-0.6], [0.6]]))
    assert left.argmax() == 0
    assert right.argmax() == 1


@pytest.mark.parametrize("mirror", [True, False])
def test_left_and_right_are_classes_only_without_mirroring(mirror):
    random = np.random.default_rng(0)
    pictures = random.normal(100, 30, (80, 24, 24, 3))
    kinds = np.arange(80) % 2
    for picture, kind in zip(pictures, kinds):
        picture[8:16, 16 * kind : 16 * kind + 8] += 60
    reader = train_reader(pictures.clip(0, 255).astype(np.uint8), kinds, ["left", "right"], mirror=mirror)
    right = (reader.unseen.argmax(1) == kinds).mean()
    assert right < 0.7 if mirror else right > 0.95


def test_more_pictures_than_it_learns_from(monkeypatch):
    monkeypatch.setattr(reader_module, "MOST", 130)
    pictures, kinds = dots(400, noise=25)
    kinds = np.where(kinds == 2, np.where(np.arange(400) < 30, 2, 1), kinds)  # few of the last class
    reader = train_reader(pictures, kinds, ["a", "b", "c"])
    seen = np.isfinite(reader.unseen[:, 0])
    assert seen.sum() == 130
    assert seen[kinds == 2].all()
    assert (reader.probabilities(pictures[~seen]).argmax(1) == kinds[~seen])[kinds[~seen] == 0].mean() > 0.8


def test_training_leaves_the_generators_of_others_alone():
    pictures, kinds = dots(40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():  # nor does it mind where it is called
        train_reader(pictures, kinds, ["a", "b", "c"])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("images", "kinds", "told"),
    [
        (np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], "uint8"),
        (np.zeros((4, 8, 8, 3)), [0, 1, 0, 1], "float64"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 1], "give one index each"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 2, 1], "0 to 2 for 2 classes"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 0, -1, -1], "1 classes"),
    ],
)
def test_the_reader_refuses(images, kinds, told):
    with pytest.raises(Problem, match=told):
        train_reader(images, kinds, ["a", "b"])


def test_equal_pictures_teach_nothing_and_break_nothing():
    reader = train_reader(np.full((12, 20, 20, 3), 90, np.uint8), [0, 1] * 6, ["a", "b"])
    np.testing.assert_allclose(reader.probabilities(np.zeros((2, 20, 20, 3), np.uint8)).sum(1), 1)


# ---- tables ------------------------------------------------------------------------------------------------


def _rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_goes_back_into_prepare(drawings, tmp_path):
    pictures, _, given = drawings
    names = [f"sub, folder/ä {i}.png" for i in range(len(pictures))]
    found = suggest(pictures, given, names=names)
    files = [Found(Path(name), name, None) for name in names]

    assert found.write_csv(tmp_path / "groups.csv") == 0
    rows = _rows(tmp_path / "groups.csv")
    assert list(rows[0]) == ["file", "group", "suggested", "probability"]
    assert [row["file"] for row in rows] == names
    assert [row["group"] or None for row in rows] == given
    assert [row["suggested"] for row in rows] == found.proposed
    assert [float(row["probability"]) for row in rows] == pytest.approx(list(found.probability), abs=5e-5)
    assert labels.decided_labels(files, tmp_path / "groups.csv", None)[0] == given

    filled = found.write_csv(tmp_path / "groups.csv", accept=0.9)
    expected = [
        found.proposed[i] if group is None and found.probability[i] >= 0.9 else group
        for i, group in enumerate(given)
    ]
    assert 0 < filled == sum(a != b for a, b in zip(given, expected)) < len(found.unlabelled)
    assert labels.decided_labels(files, tmp_path / "groups.csv", None)[0] == expected
    for accept in (0, -1, 1.01, float("nan")):
        with pytest.raises(Problem, match="give a probability"):
            found.write_csv(tmp_path / "groups.csv", accept=accept)


def test_faces_of_one_picture_keep_their_boxes(drawings, tmp_path):
    pictures, _, given = drawings
    pack = Pack.from_arrays(pictures, "drawings", given, names=[f"page{i // 4}.png" for i in range(200)])
    for i, row in enumerate(pack.rows):
        row.box, row.roll = (100.0 * (i % 4), 10.0, 100.0 * (i % 4) + 80, 95.5), -3.5
    suggest(pack).write_csv(tmp_path / "faces.csv")
    marks = Marks.read(tmp_path / "faces.csv")
    assert len(marks) == 200
    for i in (0, 5, 199):
        mark = next(m for m in marks.of(f"page{i // 4}.png") or [] if m.box == pack.rows[i].box)
        assert (mark.group, mark.roll) == (given[i], -3.5)
        assert dict(mark.extra).keys() == {"suggested", "probability"}
    with pytest.raises(Problem, match=r"page0\.png"):
        suggest(pictures, given, names=[f"page{i // 4}.png" for i in range(200)])


def test_json_and_text(suggestions):
    found = json.loads(json.dumps(suggestions.to_json()))
    assert found["verdict"] == suggestions.verdict
    assert (found["labelled"], found["unlabelled"], len(found["suggestions"])) == (100, 100, 100)
    assert found["groups"][0]["group"] == world.GROUPS[0]
    assert found["suggestions"][0]["file"] == suggestions.names[suggestions.unlabelled[0]]
    lines = suggestions.text().splitlines()
    assert lines[0] == suggestions.verdict
    assert lines[0].startswith(f"the reader is right for {round(100 * suggestions.accuracy)} % (")
    assert all(lines[-4 + i].startswith(name) for i, name in enumerate(world.GROUPS))


def test_without_anything_to_propose(drawings):
    pictures, groups, _ = drawings
    assert "every picture has a group already" in suggest(pictures, groups).verdict


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (None, "no group among 20 pictures"),
        ([None] * 20, "no group among 20 pictures"),
        (["a"] * 15 + [""] * 5, "only the group 'a'"),
        (["a"] * 15 + ["b"] * 4 + [None], "'b' has 4"),
        (["a"] * 19, "20 pictures but 19 groups"),
    ],
)
def test_too_little_to_learn_from(groups, told):
    pictures, _ = dots(20)
    with pytest.raises(Problem, match=told):
        suggest(pictures, groups)


def test_copies_are_not_five_pictures():
    pictures, _ = dots(20)
    pictures[10:] = pictures[10]
    with pytest.raises(Problem, match="'b' are copies of one"):
        suggest(pictures, ["a"] * 10 + ["b"] * 10)


def test_odd_pictures_are_refused():
    with pytest.raises(Problem, match="uint8"):
        suggest([np.zeros((9, 9), np.uint8)] * 10, ["a", "b"] * 5)
    with pytest.raises(Problem, match="uint8"):
        suggest(np.zeros((10, 9, 9, 3)), ["a", "b"] * 5)
    with pytest.raises(Problem, match="20 pictures but 1 names"):
        suggest(dots(20)[0], ["a", "b"] * 10, names=["x"])

"""The metric of attributes: its figures, what it refuses, and that it catches styles that cheat.

The cheats live in the drawn world, whose painters can draw any face with glasses or without.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from fewtoon.data import world
from fewtoon.data.attributes import Attribute, attributes_of
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.metrics import attributes as metric
from fewtoon.metrics.attributes import Judges, Reading
from fewtoon.metrics.evaluate import evaluate
from fewtoon.nets import judge as nets
from fewtoon.nets.judge import Judge, pictures, train_judges, vary
from fewtoon.style import to_tensor

SIZE = 64
GLASSES = ("2_man_glasses", "3_woman_glasses")
OTHERS = ("0_woman_no_glasses", "1_man_no_glasses")


# ---- figures, from judges that say what they are told ------------------------------------------------------

HAT = Attribute("hat", ("no", "yes"), {"plain": 0, "hat": 1}, True)
KIND = Attribute("kind", ("cat", "dog"), {"plain": 0, "hat": 1}, False)


def saying(first, second=None, accuracy=1.0, second_accuracy=1.0, attribute=HAT):
    """Scores of pictures, 60 of the group "hat" and 40 of "plain" with the given probabilities of value 1."""
    first = np.asarray(first, dtype=float)[:, None]
    second = first if second is None else np.asarray(second, dtype=float)[:, None]
    names = ("all", "plain", "hat")
    trusted = tuple({attribute.name: dict.fromkeys(names, a)} for a in (accuracy, second_accuracy))
    judges = Judges((attribute,), {"plain": 9, "hat": 9}, (), trusted, 0)
    return Reading(judges, ["hat"] * 60 + ["plain"] * 40, first, second)


def test_kept_lost_and_invented_with_the_intervals_of_wilson():
    found = saying([0.9] * 57 + [0.2] * 3 + [0.7] * 2 + [0.1] * 38).scores()
    entry = found["all"]["hat"]
    assert (entry["kept"], entry["lost"], entry["invented"]) == pytest.approx((0.95, 0.05, 0.05))
    assert entry["interval"] == pytest.approx([0.8630, 0.9829], abs=1e-4)  # of 57 in 60
    assert entry["invented_interval"] == pytest.approx([0.0138, 0.1650], abs=1e-4)  # of 2 in 40
    assert (entry["n_with"], entry["n_without"], entry["agreement"], entry["note"]) == (60, 40, 1, None)
    assert (found["hat"]["hat"]["kept"], found["hat"]["hat"]["invented"]) == (0.95, None)
    assert found["hat"]["hat"]["invented_interval"] == [None, None]
    plain = found["plain"]["hat"]
    assert (plain["kept"], plain["lost"], plain["invented"]) == (None, None, 0.05)
    assert plain["interval"] == entry["invented_interval"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_two_kinds_all_can_be_lost_and_nothing_is_invented():
    found = saying([0.9] * 60 + [0.8] * 10 + [0.1] * 30, attribute=KIND).scores()
    assert (found["all"]["kind"]["kept"], found["all"]["kind"]["invented"]) == (0.9, None)
    assert (found["plain"]["kind"]["kept"], found["hat"]["kind"]["kept"]) == (0.75, 1)


def test_a_poor_reader_gives_no_figure():
    read = [0.9] * 60 + [0.1] * 40
    poor = saying(read, accuracy=0.89).scores()["all"]["hat"]
    assert poor["kept"] is poor["lost"] is poor["invented"] is poor["agreement"] is None
    assert poor["interval"] == poor["invented_interval"] == [None, None]
    assert "right about 89%" in poor["note"]
    assert poor["reader_accuracy"] == 0.89
    assert poor["second"]["kept"] == 1
    second = saying(read, second_accuracy=0.89).scores()["all"]["hat"]
    assert (second["kept"], second["note"]) == (1, None)
    assert second["second"]["kept"] is None
    assert "89%" in second["second"]["note"]
    assert "too few" in saying(read, accuracy=None).scores()["hat"]["hat"]["note"]
    assert saying(read, accuracy=0.89).verdicts().all == ()


def test_agreement_counts_the_drawings_that_both_read_alike():
    entry = saying([0.9] * 100, [0.9] * 75 + [0.4] * 25).scores()["all"]["hat"]
    assert entry["agreement"] == 0.75


def test_verdicts_come_worst_first():
    verdicts = saying([0.9] * 59 + [0.02] + [0.97] + [0.1] * 39).verdicts()
    assert len(verdicts.all) == 100
    worst = verdicts.worst("hat", 3)
    assert worst == [
        (59, "hat lost (read 0.02)"),
        (60, "hat invented (read 0.97)"),
        (0, "hat kept (read 0.90)"),
    ]
    assert [v.right for v in verdicts.all[:3]] == [False, False, True]
    assert verdicts.all[1].probability == pytest.approx(0.03)
    assert verdicts.worst("beard", 3) == []
    kinds = saying([0.9] * 59 + [0.02] + [0.1] * 40, attribute=KIND).verdicts()
    assert kinds.worst("kind", 1) == [(59, "cat drawn for dog (dog read 0.02)")]


def test_the_accuracy_is_of_both_values_alike_and_of_each_group():
    unseen = np.array([0.9] * 8 + [0.1] * 2 + [0.1] * 90 + [np.nan] * 3)
    values = np.array([1] * 10 + [0] * 90 + [1] * 3)
    found = metric._accuracy(unseen, values, ["hat"] * 10 + ["plain"] * 90 + ["rare"] * 3)
    assert found == {"all": pytest.approx(0.9), "hat": 0.8, "plain": 1, "rare": None}


# ---- the judges --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawings():
    images, _, groups = world.sample("drawings", 144, SIZE, seed=0)
    splits = ["held_out" if (i // 4) % 3 == 2 else "train" for i in range(len(images))]
    return Pack.from_arrays(images, "drawings", groups, splits)


@pytest.fixture(scope="module")
def judges(drawings):
    return Judges.of_pack(drawings)


def test_both_read_new_drawings_and_blurred_ones(judges, drawings):
    rows = drawings.where("held_out")
    groups = [drawings.rows[row].group for row in rows]
    sharp = torch.from_numpy(drawings.images[rows]).permute(0, 3, 1, 2) / 255.0
    blurred = nets._blurred(sharp, torch.ones(len(rows))).permute(0, 2, 3, 1)
    for images in (drawings.images[rows], (blurred * 255).round().byte().numpy()):
        entry = judges.score(images, groups)["all"]["glasses"]
        for read in (entry, entry["second"]):
            assert read["reader_accuracy"] > 0.93
            assert read["kept"] > 0.9
            assert read["invented"] < 0.1


def test_the_same_call_is_remembered_and_another_is_not(judges, drawings):
    assert Judges.of_pack(drawings) is judges
    assert Judges.of_pack(drawings, None, 0, size=128) is judges
    with pytest.raises(Problem, match="leaves out the group"):
        Judges.of_pack(drawings, {"glasses": {"yes": [GLASSES[0]], "no": list(OTHERS)}})


def test_the_facts_name_the_readers(judges):
    facts = judges.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert [reader["kind"] for reader in facts["readers"]] == ["edges", "convolutions"]
    assert facts["drawings"] == dict.fromkeys(world.GROUPS, 24)
    assert facts["values"]["glasses"]["groups"]["3_woman_glasses"] == 1


@pytest.fixture
def short(monkeypatch):
    """Training that is over before it is good."""
    for name, value in (("STEPS", 4), ("ITERATIONS", 4), ("VARIED", 40)):
        monkeypatch.setattr(nets, name, value)


def test_training_is_repeatable_and_leaves_the_global_generator_alone(short):
    images, _, names = world.sample("drawings", 24, 32, seed=1)
    numbers = np.unique(names, return_inverse=True)[1]
    labels = np.array([[name in GLASSES] for name in names]).astype(int)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again = (train_judges(pictures(images), labels, numbers, 3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one, again):
        np.testing.assert_array_equal(a.unseen, b.unseen)
        np.testing.assert_array_equal(a.probabilities(images), b.probabilities(images))


def test_twins_are_in_the_same_fold_and_every_group_in_all_of_them():
    images = torch.randint(0, 255, (40, 3, 64, 64), dtype=torch.uint8)
    images[7] = images[21] = images[3]
    groups = np.array([0] * 30 + [1] * 10)
    rows, fold_of = nets._folds(images, groups, 0)
    assert fold_of[3] == fold_of[7] == fold_of[21]
    np.testing.assert_array_equal(rows, np.arange(40))
    assert np.bincount(fold_of[groups == 1]).min() >= 3


def test_nobody_is_checked_by_a_model_that_has_seen_them(monkeypatch):
    """Drawings of noise, each with a label by lot, can only be told by having seen them."""
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (48, 64, 64, 3), dtype=np.uint8)
    labels = random.permutation([0, 1] * 24)[:, None]
    monkeypatch.setattr(nets, "STEPS", 20)
    edges, network = train_judges(pictures(images), labels, np.zeros(48, dtype=int))
    for judge in (edges, network):
        assert ((judge.unseen >= 0.5) == labels).mean() < 0.75
    assert ((edges.probabilities(images) >= 0.5) == labels).mean() > 0.85


def test_a_group_of_one_and_drawings_that_are_all_the_same(short):
    images, _, names = world.sample("drawings", 13, 32, seed=1, counts=(6, 6, 0, 1))
    found = Judges.of(images, names, attributes_of(names)).score(images, names)["3_woman_glasses"]
    assert found["glasses"]["kept"] is None
    assert "1 drawings of 3_woman_glasses: too few" in found["glasses"]["note"]
    same = np.repeat(images[:1], 8, 0)
    judges = Judges.of(same, ["plain", "hat"] * 4, [HAT])
    assert "too few" in judges.score(same, ["plain", "hat"] * 4)["all"]["hat"]["note"]


def test_varied_drawings_are_pictures_and_differ():
    images = torch.rand(8, 3, 64, 64)
    seen = vary(images, torch.Generator().manual_seed(0))
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    assert (seen - images).abs().mean((1, 2, 3)).min() > 0.01


def test_new_pictures_are_judged_by_the_mean_of_the_models_and_of_both_views():
    def left(images):
        return images[:, :1, 0, 0].float() - 4

    judge = Judge("left", np.empty((0, 1)), [left, lambda images: left(images) + 2])
    image = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    image[0, 0, 0] = 8
    logit = ((8 - 4) + (0 - 4) + (8 - 2) + (0 - 2)) / 4
    assert judge.probabilities(image) == pytest.approx(1 / (1 + np.exp(-logit)))
    assert judge.probabilities(image[:0]).shape == (0, 1)


# ---- the cheats --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people():
    """Photos, all held out, and who is in them."""
    images, faces, groups = world.sample("photos", 48, SIZE, seed=0)
    return Pack.from_arrays(images, "photos", groups, ["held_out"] * len(images)), faces


class Lookup:
    """A style that answers a photo with what stands for it in a list."""

    size, groups, header = SIZE, list(world.GROUPS), {"method": "lookup"}

    def __init__(self, photos, answers):
        self.answers = {image.tobytes(): answer for image, answer in zip(photos.images, answers)}

    def translate(self, photos, group=None):
        pixels = ((photos + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return to_tensor(np.stack([self.answers[p.tobytes()] for p in pixels]))


def drawn(faces, **changes):
    rng = np.random.default_rng(5)
    return [world.drawing(dataclasses.replace(face, **changes), SIZE, "flat", rng) for face in faces]


@pytest.fixture(scope="module")
def judged(people, drawings, judges):
    """Whoever it is that translates, its result."""
    photos, _ = people

    def of(answers, out=None):
        return evaluate(Lookup(photos, answers), photos, drawings, judges=judges, out=out)

    return of


def read(result, group, attribute, figure):
    """A figure by both readers."""
    entry = result["metrics"][group]["attributes"][attribute]
    return entry[figure], entry["second"][figure]


@pytest.fixture(scope="module")
def honest(people, judged):
    return judged(drawn(people[1]))


def test_an_honest_style_passes(honest):
    assert min(read(honest, "all", "glasses", "kept")) >= 0.95
    assert max(read(honest, "all", "glasses", "invented")) <= 0.1
    for group in world.GROUPS:
        assert min(read(honest, group, "presentation", "kept")) >= 0.7  # of 12
    assert honest["summary"]["below_untranslated"] > 0.9
    assert [reader["kind"] for reader in honest["protocol"]["attributes"]["readers"]] == [
        "edges",
        "convolutions",
    ]


def test_one_that_removes_glasses_is_caught_by_kept_of_glasses(people, judged, tmp_path):
    found = judged(drawn(people[1], glasses=False), tmp_path)
    for group in ("all", *GLASSES):
        assert max(read(found, group, "glasses", "kept")) <= 0.1
    assert max(read(found, "all", "glasses", "invented")) <= 0.1
    assert found["summary"]["below_untranslated"] > 0.8  # KID alone lets it pass
    assert "glasses lost (read 0.0" in (tmp_path / "report.html").read_text()


def test_one_that_puts_glasses_on_everybody_is_caught_by_invented_of_glasses(people, judged):
    found = judged(drawn(people[1], glasses=True))
    for group in ("all", *OTHERS):
        assert min(read(found, group, "glasses", "invented")) >= 0.95
    assert min(read(found, "all", "glasses", "kept")) >= 0.95
    assert found["summary"]["below_untranslated"] > 0.8


@pytest.mark.parametrize("group", [0, 2])
def test_one_perfect_drawing_for_all_is_caught_by_what_is_kept_in_the_other_groups(group, people, judged):
    face = people[1][group]
    found = judged(drawn([face] * len(people[1])))
    others = [name for name in world.GROUPS if ("_man_" in name) != (face.gender == "man")]
    for name in others:
        assert max(read(found, name, "presentation", "kept")) == 0
    if face.glasses:
        assert min(read(found, "all", "glasses", "invented")) == 1
    else:
        assert max(read(found, "all", "glasses", "kept")) == 0


def test_one_that_returns_the_photo_is_caught_by_kid(people, judged, honest):
    found = judged(people[0].images)
    assert found["summary"]["below_untranslated"] <= 0
    assert found["metrics"]["all"]["kid"] > 10 * honest["metrics"]["all"]["kid"]


# ---- evaluate ----------------------------------------------------------------------------------------------


def small(side, n=24, grouped=True, splits=("train", "held_out")):
    images, _, groups = world.sample(side, n, 32, seed=3)
    return Pack.from_arrays(images, side, groups if grouped else None, list(splits) * (n // len(splits)))


class Same:
    size, groups, header = 32, [], {}

    def translate(self, photos, group=None):
        return photos


@pytest.mark.parametrize(("photos", "drawings"), [(False, True), (True, False)])
def test_without_groups_nothing_is_read_and_nothing_learned(photos, drawings, monkeypatch):
    monkeypatch.setattr(metric, "train_judges", None)
    found = evaluate(Same(), small("photos", grouped=photos), small("drawings", grouped=drawings))
    assert not any("attributes" in entry for entry in found["metrics"].values())
    assert "attributes" not in found["protocol"]


def test_a_table_names_the_attributes_and_only_training_drawings_are_learned_from(monkeypatch, tmp_path):
    learned = []

    def train(known, labels, groups, seed):
        learned.append((len(known), labels.shape, seed))
        return tuple(Judge(kind, labels * 1.0, [lambda images: torch.ones(len(images), 1)]) for kind in "ab")

    monkeypatch.setattr(metric, "train_judges", train)
    file = tmp_path / "table.yaml"
    file.write_text(f"spectacles: {{yes: [{', '.join(GLASSES)}], no: [{', '.join(OTHERS)}]}}\n")
    photos = small("photos", splits=("held_out",))
    photos.rows[0] = photos.rows[0].model_copy(update={"group": None})
    photos.rows[4] = photos.rows[4].model_copy(update={"group": "4_dog"})
    drawings = small("drawings", splits=("train", "train", "held_out", "train"))
    with pytest.raises(Problem, match="'x', which the packs do not have"):
        evaluate(
            Same(), photos, drawings, attributes={"spectacles": {"yes": GLASSES[1:], "no": [*OTHERS, "x"]}}
        )
    drawings = small("drawings", splits=("train",) * 4 + ("held_out",) * 4)
    found = evaluate(Same(), photos, drawings, attributes=file, seed=7)
    assert learned == [(12, (12, 1), 7)]
    entry = found["metrics"]["all"]["attributes"]["spectacles"]
    assert (entry["n_with"], entry["n_without"]) == (12, 10)
    assert (entry["kept"], entry["invented"]) == (1, 1)
    assert "attributes" not in found["metrics"]["4_dog"] or not found["metrics"]["4_dog"]["attributes"]
    assert found["protocol"]["attributes"]["n_drawings"] == 12

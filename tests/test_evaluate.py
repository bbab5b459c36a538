"""evaluate: figures, groups, protocol, memorisation, and a report that stands alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fewtoon import cli, config, methods
from fewtoon.data import world
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.metrics import features
from fewtoon.metrics.distance import kid
from fewtoon.metrics.evaluate import evaluate
from fewtoon.metrics.memory import memorisation, nearest_neighbours
from fewtoon.nets.mobilefacenet import FoamliuLayout
from fewtoon.style import Style, to_pixels, to_tensor

SIZE = 32
TINY = {"channel_base": 128, "channel_max": 8, "latent": 8, "style": 8, "mapping_layers": 2}


def pack_of(side, per_group, seed=0, grouped=True):
    images, _, groups = world.sample(side, sum(per_group), SIZE, seed=seed, counts=per_group)
    splits = ["held_out" if (i // 4) % 2 else "train" for i in range(len(images))]
    names = [f"{side}_{i}.png" for i in range(len(images))]
    return Pack.from_arrays(images, side, groups if grouped else None, splits, names)


class Lookup:
    """A style that answers a photo with the drawing of the same place in a list."""

    def __init__(self, photos, answers):
        self.size, self.groups = SIZE, list(world.GROUPS)
        self.answers = {image.tobytes(): answer for image, answer in zip(photos.images, answers)}
        self.header = {"method": "lookup", "step": 7}
        self.asked = []

    def translate(self, photos, group=None):
        self.asked.append((group, len(photos)))
        pixels = ((photos + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return to_tensor(np.stack([self.answers[p.tobytes()] for p in pixels]))


@pytest.fixture(scope="module")
def photos():
    return pack_of("photos", [24, 24, 24, 24])


@pytest.fixture(scope="module")
def drawings():
    return pack_of("drawings", [24, 24, 24, 24])


@pytest.fixture(scope="module")
def good(photos):
    """Other drawings by the same artist, of the same group as the photo."""
    return Lookup(photos, world.sample("drawings", 96, SIZE, seed=9)[0])


@pytest.fixture(scope="module")
def result(good, photos, drawings, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "deep" / "report"
    return evaluate(good, photos, drawings, out=out), out


def test_every_figure_is_there(result):
    found, _ = result
    assert set(found["metrics"]) == {"all", *world.GROUPS} == set(found["untranslated"])
    for name, entry in found["metrics"].items():
        low, high = entry["kid_interval"]
        assert low < entry["kid"] < high
        assert entry["fid"] > 0
        assert entry["n_real"] == entry["n_fake"] == (48 if name == "all" else 12)
    protocol = found["protocol"]
    assert protocol["split"] == "held_out"
    assert protocol["features"]["name"] == "tiny"
    assert len(protocol["features"]["hash"]) == 12
    assert (protocol["n_photos"], protocol["n_drawings"], protocol["n_train_drawings"]) == (48, 48, 48)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_good_style_beats_no_translation(result):
    found, _ = result
    assert found["metrics"]["all"]["kid"] < 0.1 * found["untranslated"]["all"]["kid"]
    assert found["summary"]["below_untranslated"] > 0.9
    assert 0.7 < found["memorisation"]["ratio"] < 1.5


def test_a_style_that_does_nothing_gains_nothing(photos, drawings):
    found = evaluate(Lookup(photos, photos.images), photos, drawings)
    assert found["metrics"]["all"]["kid"] == found["untranslated"]["all"]["kid"]
    assert found["summary"]["below_untranslated"] == 0


def test_photos_are_translated_with_their_group_and_only_those_of_the_split(good, photos, drawings):
    good.asked.clear()
    evaluate(good, photos, drawings)
    counted = {group: sum(n for g, n in good.asked if g == group) for group in world.GROUPS}
    assert counted == dict.fromkeys(world.GROUPS, 12)


def test_the_same_call_gives_the_same_figures(good, photos, drawings, result):
    assert evaluate(good, photos, drawings) == result[0]


def test_a_style_that_draws_everybody_alike_is_named(good, photos, drawings):
    class Same:
        size, groups, header = good.size, [], {}

        def translate(self, some, group=None):
            return good.translate(to_tensor(photos.images[:1])).expand(len(some), -1, -1, -1)

    assert any("look alike" in warning for warning in evaluate(Same(), photos, drawings)["warnings"])
    assert not any("look alike" in warning for warning in evaluate(good, photos, drawings)["warnings"])


def test_a_style_that_copies_is_caught(photos, drawings):
    train = drawings.images[drawings.where("train")]
    copies = [train[i % len(train)] for i in range(len(photos))]
    found = evaluate(Lookup(photos, copies), photos, drawings)
    assert found["memorisation"]["ratio"] < 0.05
    assert found["memorisation"]["close"] == 1.0
    assert found["memorisation"]["suspects"][0]["distance"] == pytest.approx(0, abs=1e-4)
    assert found["memorisation"]["suspects"][0]["training_drawing"].startswith("drawings_")


def test_the_report_stands_alone(result):
    found, out = result
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "sheet.png"]
    assert json.loads((out / "report.json").read_text()) == found
    page = (out / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "url(" not in page
    assert "<script" not in page
    assert page.count("data:image/webp") >= 4 * 8 * 2
    for text in ("not comparable with the literature", *world.GROUPS, found["protocol"]["features"]["hash"]):
        assert text in page
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 8 * SIZE


def test_names_cannot_inject_html(good, photos, drawings, tmp_path):
    rows = [row.model_copy(update={"file": "<script>alert(1)</script>.png"}) for row in photos.rows]
    hostile = Pack(photos.images, rows, "photos")
    evaluate(good, hostile, drawings, out=tmp_path)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_small_groups_are_named(good, photos):
    few = pack_of("drawings", [24, 24, 24, 2])
    found = evaluate(good, photos, few)
    group = world.GROUPS[3]
    entry = found["metrics"][group]
    assert entry["n_real"] < 10
    assert entry["note"].startswith("too few to say")
    assert any(text.startswith(group) for text in found["warnings"])


def test_without_groups(photos):
    plain_photos, plain_drawings = (
        pack_of("photos", [8] * 4, 0, False),
        pack_of("drawings", [8] * 4, 0, False),
    )
    style = Lookup(plain_photos, world.sample("drawings", 32, SIZE, seed=9)[0])
    assert set(evaluate(style, plain_photos, plain_drawings)["metrics"]) == {"all"}
    assert {group for group, _ in style.asked} == {None}


def test_another_split_only_when_asked_and_said_so(good, photos, drawings):
    found = evaluate(good, photos, drawings, split="train")
    assert found["protocol"]["split"] == "train"
    assert "training pictures" in found["warnings"][0]
    assert evaluate(good, photos, drawings, split="all")["protocol"]["n_photos"] == 96


def test_foreign_training_pack_is_noticed(photos, drawings, good):
    style = Lookup(photos, world.sample("drawings", 96, SIZE, seed=9)[0])
    style.header["packs"] = {"drawings": drawings.hash}
    assert not any("another pack" in text for text in evaluate(style, photos, drawings)["warnings"])
    style.header["packs"] = {"drawings": "0" * 64}
    assert any("another pack" in text for text in evaluate(style, photos, drawings)["warnings"])


def test_identity_and_other_features(good, photos, drawings, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "face.pt"
    network = FoamliuLayout()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one look at the photos sets the statistics, so that people differ
    with torch.no_grad():
        network.embed(to_tensor(photos.images))
    torch.save(network.state_dict(), file)
    same = Lookup(photos, photos.images)
    found = evaluate(same, photos, drawings, features=["tiny", f"mobilefacenet:{file}"], out=tmp_path / "out")
    who = found["metrics"]["all"]["identity"]
    assert who["cosine"] == pytest.approx(1, abs=1e-4)
    assert who["rank1"] == 1
    assert who["chance"] == pytest.approx(1 / 48)
    assert found["metrics"][world.GROUPS[2]]["identity"]["n"] == 12
    assert [name.split()[0] for name in found["other_features"]] == ["mobilefacenet"]
    assert "mobilefacenet" in (tmp_path / "out" / "report.html").read_text()


def test_bad_input(good, photos, drawings, tmp_path):
    with pytest.raises(Problem, match="held_out"):
        evaluate(good, photos, drawings, split="test")
    with pytest.raises(Problem, match="packs hold"):
        evaluate(good, drawings, photos)
    all_train = Pack.from_arrays(photos.images, "photos")
    with pytest.raises(Problem, match="0 photos in the split"):
        evaluate(good, all_train, drawings)
    with pytest.raises(Problem, match="feature network"):
        evaluate(good, photos, drawings, features=[])
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="folder"):
        evaluate(good, photos, drawings, out=tmp_path / "file")


def test_nearest_neighbours():
    random = np.random.default_rng(0)
    queries, points = random.standard_normal((9, 5)), random.standard_normal((20, 5))
    distance, index = nearest_neighbours(queries, points)
    full = np.linalg.norm(queries[:, None] - points[None], axis=2)
    np.testing.assert_allclose(distance, full.min(1))
    np.testing.assert_array_equal(index, full.argmin(1))


def test_memorisation_without_held_out_or_training_drawings():
    points = np.eye(4)
    assert memorisation(points, points, points[:0]).ratio is None
    with pytest.raises(Problem, match="0 training drawings"):
        memorisation(points, points[:0], points)


# --- a style that has learned both directions ------------------------------------------------------------


def two_way(groups=()):
    """A small U-GAT-IT style that nobody has trained."""
    kind = methods.find("groups" if groups else "ugatit")
    model = config.section(kind.Config, {"channels": 4, "blocks": 1}, "model")
    torch.manual_seed(3)
    method = kind(model, SIZE, list(groups), training=False)
    return Style(method, {"method": method.name, "model": config.portable(model)}, "cpu", "fp32")


def test_the_way_back_is_measured_too(photos, drawings):
    style = two_way()
    found = evaluate(style, photos, drawings)["back"]
    real, given = photos.images[photos.where("held_out")], drawings.images[drawings.where("held_out")]
    assert (found["n_real"], found["n_fake"]) == (len(real), len(given))
    made = to_pixels(style.method.networks()["drawing_to_photo"](to_tensor(given)).image.clamp(-1, 1))
    net = features.load("tiny", "cpu")
    assert found["kid"] == pytest.approx(kid(net(real), net(made)).value, rel=1e-3)


def test_on_the_way_back_each_drawing_is_told_its_group(photos, drawings):
    style, asked = two_way(drawings.groups), []
    style.method.back, back = lambda part, group: asked.append(group) or back(part, group), style.method.back
    evaluate(style, photos, drawings, judges=None)
    told = sorted(drawings.rows[row].group for row in drawings.where("held_out"))
    assert asked == told


def test_a_style_of_one_direction_has_no_way_back(good, photos, drawings):
    assert "back" not in evaluate(good, photos, drawings)
    with pytest.raises(Problem, match="has not learned to make photos of drawings"):
        generator().back(torch.zeros(1, 3, SIZE, SIZE))
    style = two_way()
    assert style.back(torch.zeros(0, 3, SIZE, SIZE)).shape == (0, 3, SIZE, SIZE)
    for wrong in (torch.zeros(1, 3, SIZE, SIZE + 1), torch.zeros(1, 3, SIZE, SIZE, dtype=torch.int64)):
        with pytest.raises(Problem, match="this style takes a float tensor"):
            style.back(wrong)
    with pytest.raises(Problem, match="draws every group alike"):
        style.back(torch.zeros(1, 3, SIZE, SIZE), "women")


# --- a style that makes pictures from random numbers ----------------------------------------------------


def generator(groups=(), size=SIZE, **settings):
    """A small StyleGAN style that nobody has trained."""
    kind = methods.find("stylegan")
    model = config.section(kind.Config, {**TINY, **settings}, "model")
    torch.manual_seed(3)
    method = kind(model, size, list(groups), training=False)
    return Style(method, {"method": "stylegan", "model": config.portable(model)}, "cpu", "fp32")


@pytest.fixture(scope="module")
def made(drawings, tmp_path_factory):
    out = tmp_path_factory.mktemp("generator") / "report"
    return evaluate(generator(), drawings=drawings, samples=40, out=out), out


def test_pictures_of_random_numbers_are_compared_with_the_drawings(made, drawings):
    found, _ = made
    assert set(found["metrics"]) == {"all"}  # it knows no groups, though the drawings have some
    entry = found["metrics"]["all"]
    assert (entry["n_real"], entry["n_fake"]) == (48, 40)
    assert entry["kid_interval"][0] < entry["kid"] < entry["kid_interval"][1]
    own = generator()
    pictures = to_pixels(own.sample(own.method.latents(40, 0)))
    net = features.load("tiny", "cpu")
    expected = kid(net(drawings.images[drawings.where("held_out")]), net(pictures))
    assert entry["kid"] == pytest.approx(expected.value, rel=1e-4)
    suspect = found["memorisation"]["suspects"][0]
    assert suspect.keys() == {"sample", "training_drawing", "distance"}
    assert found["memorisation"]["ratio"] > 0


def test_what_makes_no_sense_without_photos_is_absent(made):
    found, _ = made
    assert "untranslated" not in found
    assert found["summary"] == {}
    assert not {"attributes", "identity", "read_right"} & found["metrics"]["all"].keys()
    protocol = found["protocol"]
    assert not {"photos", "n_photos", "attributes"} & protocol.keys()
    assert (protocol["n_samples"], protocol["n_drawings"], protocol["n_train_drawings"]) == (40, 48, 48)
    assert "random numbers of the seed" in protocol["made_of"]


def test_the_report_of_a_generator(made):
    found, out = made
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "sheet.png"]
    assert json.loads((out / "report.json").read_text()) == found
    page = (out / "report.html").read_text()
    assert "40 pictures of random numbers" in page
    assert "KID × 1000" in page
    for word in ("photo", "translat"):
        assert word not in page, word
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.height < 3 * (128 + 16)  # three rows of pictures, nothing above them


def test_photos_are_not_used_and_that_is_said(made, photos, drawings):
    found = evaluate(generator(), photos, drawings, samples=40)
    told = [text for text in found["warnings"] if "the photos are not used" in text]
    assert len(told) == 1
    assert {**found, "warnings": []} == {**made[0], "warnings": []}


def test_a_generator_of_photos_is_compared_with_photos(photos, tmp_path):
    own = generator(side="photos")
    found = evaluate(own, photos, samples=20, out=tmp_path)
    assert found["protocol"]["photos"] == photos.hash
    assert "drawings" not in found["protocol"]
    assert found["memorisation"]["suspects"][0]["training_photo"].startswith("photos_")
    assert "real photos" in (tmp_path / "report.html").read_text()


def test_a_conditional_generator_is_measured_group_by_group(drawings):
    few = pack_of("drawings", [24, 24, 24, 8])
    own = generator(world.GROUPS[:2], conditional=True)
    found = evaluate(own, drawings=few, samples=60)
    counts = {name: entry["n_fake"] for name, entry in found["metrics"].items()}
    assert counts == {"all": 60, **{name: counts[name] for name in world.GROUPS[:2]}}
    assert all(17 <= counts[name] <= 19 for name in world.GROUPS[:2])  # 12 of 40 held-out drawings each
    assert found["summary"].keys() == {"kid_mean_of_groups"}
    assert any("does not know the groups" in text for text in found["warnings"])
    alone = evaluate(own, drawings=few, samples=20, group=world.GROUPS[1])["metrics"]
    assert {name: entry["n_fake"] for name, entry in alone.items()} == {"all": 20, world.GROUPS[1]: 20}


def test_samples_are_those_of_the_seed(made, drawings):
    again = evaluate(generator(), drawings=drawings, samples=40)
    assert again == made[0]
    other = evaluate(generator(), drawings=drawings, samples=40, seed=1)
    assert other["metrics"]["all"]["fid"] != again["metrics"]["all"]["fid"]


def test_bad_input_for_a_generator(good, photos, drawings):
    with pytest.raises(Problem, match="--drawings"):
        evaluate(generator(), photos)
    with pytest.raises(Problem, match="--photos"):
        evaluate(good, drawings=drawings)
    with pytest.raises(Problem, match="samples is 1"):
        evaluate(generator(), drawings=drawings, samples=1)
    with pytest.raises(Problem, match="pack holds photos: give drawings"):
        evaluate(generator(), drawings=photos)
    with pytest.raises(Problem, match="draws every group alike"):
        evaluate(generator(), drawings=drawings, group="men")


def test_the_command_says_what_is_not_used(drawings, tmp_path, capsys):
    own = generator()
    own.save(tmp_path / "s.safetensors")
    drawings.save(tmp_path / "d")
    words = ["evaluate", tmp_path / "s.safetensors", "--drawings", tmp_path / "d", "--samples", "12"]
    words += ["--photos", tmp_path / "nowhere", "--device", "cpu", "--json"]
    assert cli.main([str(word) for word in words]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["metrics"]["all"]["n_fake"] == 12
    assert told.err.count("\n") == 1
    assert "the photos are not used" in told.err
    assert (tmp_path / "report" / "report.html").is_file()

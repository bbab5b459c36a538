"""Whole trainings with groups, ADA and Face-ID: resumed they are the same bytes, and bad input leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fewtoon
from fewtoon import config
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.losses.face import FaceId
from fewtoon.nets import mobilefacenet
from fewtoon.run import Run

NAMES = ["rich", "poor", "few"]
SMALL = [
    "channels=4",
    "blocks=1",
    "log_every=2",
    "metric_pictures=8",
    "preview_pictures=2",
    "train.framing=null",
]
LENGTH = ["steps=6", "state_every=2", "metric_every=3", "preview_every=6"]
ADA = ["augment=ada", "ada_start=0.5", "ada_pictures=50", "precision=fp32"]


def pack(side: str, counts: tuple[int, ...] = (20, 12, 8), names: list[str] = NAMES) -> Pack:
    random = np.random.default_rng(len(side))
    groups = [name for name, count in zip(names, counts) for _ in range(count)]
    pictures = random.integers(0, 256, (len(groups), 32, 32, 3), dtype=np.uint8)
    splits = ["held_out" if i % 4 == 0 else "train" for i in range(len(groups))]
    return Pack.from_arrays(pictures, side, groups, splits, [f"{i}.png" for i in range(len(groups))])


def train(
    out: Path, preset: str, *sets: str, photos: Pack | None = None, drawings: Pack | None = None, **more
):
    readers = ["reader_steps=2"] if preset in ("groups", "face2webtoon", "group-branches") else []
    settings = config.load(preset, [*SMALL, *LENGTH, *readers, *sets])
    return fewtoon.train(
        settings, photos or pack("photos"), drawings or pack("drawings"), out, track=(), quiet=True, **more
    )


@pytest.fixture(autouse=True)
def quick() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("preset", "sets"),
    [
        ("groups", ADA),
        ("face2webtoon", ADA),
        ("group-branches", [*ADA, "generator=resnet", "batch=3"]),
        ("ugatit-diffaugment", ["precision=fp32"]),
    ],
)
def test_resumed_is_the_same_bytes(preset, sets, tmp_path):
    sets = [*sets, "ada_every=2"] if "augment=ada" in sets else sets
    train(tmp_path / "whole", preset, *sets)
    half = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        killed(half, preset, sets)
    assert not (half / "last.safetensors").exists()
    train(half, preset, *sets)
    for name in ("last.safetensors", "log.jsonl", "state/step-00000006.safetensors"):
        assert (half / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def killed(out: Path, preset: str, sets: list[str]) -> None:
    """The same training, stopped by a crash in step 5, after the state of step 4."""
    from fewtoon.engine import loop

    update = loop.update

    def crash(trainee, batch, watch):
        if batch.step == 4:
            raise KeyboardInterrupt
        return update(trainee, batch, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", crash)
        train(out, preset, *sets)


def test_ada_moves_its_p_and_the_log_tells(tmp_path):
    train(tmp_path, "ugatit-ada", "ada_start=0.5", "ada_pictures=16", "ada_every=2")
    lines = [line for line in Run(tmp_path).log() if "rate" in line]
    for side in ("photos", "drawings"):
        ps = [line[f"{side}/augmented"] for line in lines]
        assert ps == pytest.approx([6 / 16, 4 / 16, 2 / 16])  # they know nothing yet: r < 0.6


def test_the_augmentation_of_a_preset_can_be_switched_off(tmp_path):
    train(tmp_path, "face2webtoon", "augment=none", "steps=2")
    assert not any("augmented" in key for line in Run(tmp_path).log() for key in line)


def test_the_rich_group_is_found_and_recorded(tmp_path):
    train(tmp_path, "groups", "steps=2")
    assert Run(tmp_path).config()["model"]["base"] == "rich"
    assert {g: n["drawings"][g] for line in Run(tmp_path).log() if (n := line.get("visits")) for g in NAMES}
    assert fewtoon.load(tmp_path, "cpu").groups == sorted(NAMES)


@pytest.fixture(scope="module")
def face_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("face") / "face.pth"
    torch.save(mobilefacenet.FoamliuLayout().state_dict(), path)
    return path


def test_face_id_is_the_mean_of_one_minus_cosine_and_keeps_no_graph_of_the_source(face_file):
    loss = FaceId(face_file)
    torch.manual_seed(1)
    made, source = (torch.rand(3, 3, 64, 64, requires_grad=True) for _ in range(2))
    value = loss(made, source)
    each = [
        1 - F.cosine_similarity(*(loss.network.embed(x[i : i + 1]) for x in (made, source))) for i in range(3)
    ]
    assert value.item() == pytest.approx(sum(each).item() / 3, abs=1e-6)
    assert loss(source, source).item() == pytest.approx(0, abs=1e-6)
    value.backward()
    assert made.grad.abs().sum() > 0
    assert source.grad is None
    assert all(p.grad is None for p in loss.parameters())


def test_face_id_is_a_loss_and_its_file_stays_unmentioned(tmp_path, face_file):
    train(tmp_path, "ugatit-light", f"face_id={face_file}", "steps=2")
    line = next(line for line in Run(tmp_path).log() if "rate" in line)
    assert -1e-6 < line["G/drawings/face"] < 2
    assert str(face_file.parent).encode() not in (tmp_path / "last.safetensors").read_bytes()
    assert Run(tmp_path).config()["model"]["face_id"] == str(face_file)
    assert set(fewtoon.load(tmp_path, "cpu").method.networks()) == {"photo_to_drawing", "drawing_to_photo"}


@pytest.mark.parametrize(
    ("preset", "sets", "packs", "told"),
    [
        ("groups", [], {"drawings": ("rich", "poor", "other")}, "group 'few' is on one side only"),
        ("groups", [], {"counts": (20, 12, 1)}, "'few'"),
        ("groups", ["base=men"], {}, "base = 'men' is no group"),
        ("groups", ["augment=ada", "augment_operations=[blur]"], {}, "'blur'"),
        ("ugatit-ada", ["ada_start=0.9"], {}, "start"),
        ("groups", ["face_id=nowhere.pth"], {}, "face_id = 'nowhere.pth'"),
        ("groups", [], {"drawings": ("rich", "poor", "auto")}, "a group is called 'auto'"),
        ("group-branches", ["generator=resnet"], {}, "batch = 4 is no multiple of the 3 groups"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(preset, sets, packs, told, tmp_path):
    drawings = pack("drawings", packs.get("counts", (20, 12, 8)), list(packs.get("drawings", NAMES)))
    with pytest.raises(Problem) as problem:
        train(tmp_path / "run", preset, *sets, drawings=drawings)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_file_of_another_network_is_no_face_network(tmp_path):
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match=r"other\.pth.*no MobileFaceNet"):
        train(tmp_path / "run", "ugatit-light", f"face_id={tmp_path / 'other.pth'}")
    assert not (tmp_path / "run" / "config.yaml").exists()

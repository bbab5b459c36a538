"""The feed, the seeds, and what a person sees: previews, health, progress, tracking."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import toy_method
from fewtoon import methods
from fewtoon.config import Train
from fewtoon.data.pack import Pack
from fewtoon.engine import feed as feeds
from fewtoon.engine import heldout, preview, seed
from fewtoon.engine.feed import Feed, warp
from fewtoon.engine.progress import duration
from fewtoon.engine.sampling import order
from fewtoon.engine.track import Trackers
from fewtoon.run import Run
from toy_method import Toy, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda name: Toy)
    torch.set_num_threads(1)


def numbered(count: int, side: str = "photos", groups: list[str | None] | None = None) -> Pack:
    """Pictures whose value is their number; the last three are held out."""
    pictures = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3))
    splits = ["train"] * (count - 3) + ["held_out"] * 3
    return Pack.from_arrays(pictures, side, groups=groups, splits=splits)


def seen(feed: Feed, steps: range, side: str = "photos") -> list[int]:
    """Numbers of the pictures of a side in the batches of some steps."""
    values = torch.cat([getattr(feed.batch(step, 0), side)[:, 0, 0, 0] for step in steps])
    return ((values + 1) * 127.5).round().int().tolist()


def test_numbers_differ_in_every_argument_and_stay_the_same() -> None:
    base = (1, 2, 3, "x")
    others = [
        (0, 2, 3, "x"),
        (1, 0, 3, "x"),
        (1, 2, 0, "x"),
        (1, 2, 3, "y"),
        (12, 3, 0, "x"),
        (1, 23, 0, "x"),
    ]
    assert len({seed.number(*arguments) for arguments in [base, *others]}) == 7  # type: ignore[arg-type]
    assert seed.number(*base) == 4084174771482517583
    draw = torch.rand(3, generator=seed.generator(*base))
    assert torch.equal(draw, torch.rand(3, generator=seed.generator(*base)))


def test_each_epoch_sees_every_training_picture_once() -> None:
    settings = Train(batch=4, flip=False, enlarge=1)
    feed = Feed(numbered(13), numbered(9, "drawings"), [], settings, CPU)
    entries = seen(feed, range(5))  # 20 entries: two epochs of 10
    assert sorted(entries[:10]) == sorted(entries[10:]) == list(range(10))
    assert entries[:10] != entries[10:]
    later = Feed(numbered(13), numbered(9, "drawings"), [], settings, CPU)
    assert seen(later, range(3, 5)) == entries[12:]  # a step does not depend on those before
    assert order(10, 0, "photos", 0).tolist() != order(10, 0, "drawings", 0).tolist()


def test_proportional_batches_are_those_of_the_first_version() -> None:
    # Recorded before there were other ways of sampling: runs that were started then go on as they began.
    photos = numbered(14, groups=["a"] * 6 + ["b"] * 7 + [None])
    drawings = numbered(10, "drawings", groups=["a"] * 3 + ["b"] * 7)
    feed = Feed(photos, drawings, ["a", "b"], Train(batch=3, seed=5, enlarge=1), CPU)
    first = [8, 3, 7, 4, 5, 6, 0, 1, 10, 9, 2, 9, 4, 1, 8, 0, 5, 6, 2, 10, 3, 7, 5, 7]
    assert seen(feed, range(8)) == first
    first = [1, 4, 5, 3, 2, 6, 0, 6, 5, 2, 4, 1, 0, 3, 2, 0, 5, 4, 6, 1, 3, 5, 0, 1]
    assert seen(feed, range(8), "drawings") == first

    packs = [
        Pack.from_arrays(
            np.random.default_rng(number).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), side
        )
        for side, count, number in (("photos", 11, 1), ("drawings", 7, 2))
    ]
    feed = Feed(packs[0], packs[1], [], Train(batch=3, seed=5, enlarge=1), CPU)
    pixels = hashlib.sha256()
    for step in range(10):
        for pictures in feed.batch(step, 1)[:2]:
            exact = ((pictures + 1) * 127.5).round().to(torch.uint8)
            pixels.update(exact.contiguous().numpy().tobytes())
    assert pixels.hexdigest() == "395baf93bb7588bfb4374476460fd4500525023cb31d95f16e11b3e9c21d689f"


def test_groups_choose_pictures_and_label_them() -> None:
    photos = numbered(13, groups=["a"] * 4 + ["b"] * 9)
    settings = Train(batch=4, flip=False, enlarge=1, groups=["b"])
    feed = Feed(photos, numbered(9, "drawings"), ["b"], settings, CPU)
    assert set(seen(feed, range(6))) == set(range(4, 10))
    batch = feed.batch(0, 0)
    assert batch.photo_groups.tolist() == [0] * 4
    assert batch.drawing_groups.tolist() == [-1] * 4


def test_memory_mapped_is_the_same_as_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side, number in (("photos", 1), ("drawings", 2)):
        toy_method.pack(side, number).save(tmp_path / side)
    photos, drawings = Pack.open(tmp_path / "photos"), Pack.open(tmp_path / "drawings")
    resident = Feed(photos, drawings, [], Train(batch=3), CPU)
    monkeypatch.setattr(feeds, "free_memory", lambda device: 0.0)
    mapped = Feed(photos, drawings, [], Train(batch=3), CPU)
    assert resident.sides["photos"].resident is not None
    assert mapped.sides["photos"].resident is None
    for step in range(8):
        for a, b in zip(resident.batch(step, 1)[:4], mapped.batch(step, 1)[:4]):
            assert torch.equal(a, b)


def test_warp_without_enlarging_is_exact() -> None:
    pictures = torch.from_numpy(np.array(toy_method.pack("photos", 1).images))
    same = warp(pictures, torch.Generator().manual_seed(0), flip=False, enlarge=1)
    assert torch.equal(((same + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1), pictures)
    assert same.is_contiguous(memory_format=torch.channels_last)
    mirrored = warp(pictures, torch.Generator().manual_seed(0), flip=True, enlarge=1)
    turned = [torch.equal(m, s.flip(2)) for m, s in zip(mirrored, same)]
    assert all(t or torch.equal(m, s) for t, m, s in zip(turned, mirrored, same))
    assert 4 < sum(turned) < 20


def test_warp_shows_a_window_of_the_enlarged_picture() -> None:
    # Horizontal and vertical ramps: the values at two pixels tell scale and place of the window.
    size, enlarge = 32, 1.25
    ramp = np.linspace(0, 248, size).astype(np.uint8)
    picture = np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.zeros((size, size))], -1
    )
    pictures = torch.from_numpy(np.stack([picture.astype(np.uint8)] * 64))
    warped = (warp(pictures, torch.Generator().manual_seed(0), True, enlarge) + 1) * 127.5
    # (x, y) of the source, in pixels, seen at the first and the last pixel of the result
    first, last = warped[:, :2, 2, 2] / 8, warped[:, :2, -3, -3] / 8
    span = (last - first).abs()
    assert torch.allclose(span, torch.full_like(span, (size - 5) / enlarge), atol=0.3)
    left = torch.minimum(first, last)[:, 0]
    assert left.min() >= 0
    assert torch.maximum(first, last).max() <= size - 1
    assert left.max() - left.min() > 0.7 * size * (1 - 1 / enlarge)
    assert (first[:, 1] < last[:, 1]).all()  # never upside down
    assert 16 < int((first[:, 0] > last[:, 0]).sum()) < 48  # mirrored


def test_attempts_draw_other_numbers_of_the_same_pictures() -> None:
    feed = Feed(toy_method.pack("photos", 1), toy_method.pack("drawings", 2), [], Train(batch=2), CPU)
    assert not torch.equal(feed.batch(0, 0).photos, feed.batch(0, 1).photos)


# --- what a person sees -----------------------------------------------------------------------------------


def test_previews_show_the_same_faces_of_all_groups(tmp_path: Path) -> None:
    groups: list[str | None] = ["a"] * 20 + ["b", "c"]
    chosen = preview.choose(groups, 6, 0)
    assert preview.choose(groups, 3, 0) == chosen[:3]
    assert {groups[place] for place in chosen[:3]} == {"a", "b", "c"}
    train(tmp_path, steps=16)
    grids = [np.asarray(Image.open(tmp_path / f"previews/step-{step:08d}.png")) for step in (8, 16)]
    cell = 128
    assert grids[0].shape == (
        2 * (cell + preview.GAP) + preview.TITLE,
        2 * (cell + preview.GAP) + preview.GAP,
        3,
    )
    photos = [grid[preview.TITLE :, : cell + preview.GAP] for grid in grids]
    drawings = [grid[preview.TITLE :, cell + 2 * preview.GAP :] for grid in grids]
    assert np.array_equal(*photos)
    assert not np.array_equal(*drawings)
    assert (grids[0][: preview.TITLE] == 0).any()  # titles


def test_health_tells_what_is_wrong() -> None:
    photos = np.array(toy_method.pack("photos", 1).images[:8])
    drawings = 255 - photos
    same = np.repeat(drawings[:1], 8, axis=0)
    nearly = np.clip(photos.astype(int) + 2, 0, 255).astype(np.uint8)
    assert heldout.health(1000, photos, drawings).health.startswith("good")
    assert "nothing is being translated" in heldout.health(1000, photos, nearly).health
    assert heldout.health(100, photos, nearly).health.startswith("good")
    assert "all drawings look the same" in heldout.health(1000, photos, same).health
    assert "one flat colour" in heldout.health(1000, photos, np.full_like(photos, 200)).health


def test_few_held_out_pictures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = toy_method.pack("drawings", 2)
    for row in few.rows[3:]:
        row.split = "train"
    train(tmp_path, drawings=few, quiet=False)
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: only 3 drawings are held out" in told
    from fewtoon import style

    metrics = style.read_header(tmp_path / "best.safetensors")["metrics"]
    assert metrics["drawings_split"] == "train"
    assert metrics["photos_split"] == "held_out"


def test_durations() -> None:
    assert [duration(s) for s in (12.4, 700, 12000)] == ["12 s", "12 min", "3 h 20 min"]


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, track=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard"))
    events.Reload()
    assert {"G/cycle", "gradient/D", "speed", "kid"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["preview"]
    logged = [line["G/cycle"] for line in Run(tmp_path).log() if "G/cycle" in line]
    assert [e.value for e in events.Scalars("G/cycle")] == pytest.approx(logged)


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_other_trackers_stay_on_this_machine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict]] = []

    def answer(called: str):  # type: ignore[no-untyped-def]
        return lambda *args, **keywords: (
            calls.append((called, keywords))
            or SimpleNamespace(
                log=answer("log"), finish=answer("finish"), define_metric=answer("define_metric")
            )
        )

    class Library:
        def __getattr__(self, called: str):  # type: ignore[no-untyped-def]
            return answer(called)

    monkeypatch.setitem(sys.modules, name, Library())  # type: ignore[arg-type]
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.setenv(variable, "x")  # so that what the backend sets is undone
        monkeypatch.delenv(variable)
    trackers = Trackers([name], tmp_path, {"model": {}, "train": {"steps": 3}}, 0)
    trackers.scalars(1, {"G/cycle": 1.0})
    trackers.image(1, "preview", np.zeros((4, 4, 3), np.uint8))
    trackers.close()
    said = dict(calls)
    if name == "wandb":
        assert said["init"]["mode"] == "offline"
    assert len(calls) >= 4

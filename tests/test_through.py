"""A StyleGAN style as a translator of photos. Tiny random networks, 16 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewtoon import cli, style
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.latent.inversion import Settings, invert
from fewtoon.latent.through import open_through
from fewtoon.losses.perceptual import open_likeness
from fewtoon.metrics.evaluate import evaluate
from test_project import make, moved

STEPS = 12


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("styles")
    source = make(1)
    style.write(folder / "faces.safetensors", source, {"framing": "ffhq"})
    style.write(folder / "drawn.safetensors", moved(source), {"framing": "ffhq", "step": 7})
    style.write(folder / "other.safetensors", make(1, size=32), {})
    return folder


@pytest.fixture(scope="module")
def packs() -> tuple[Pack, Pack]:
    lot = np.random.default_rng(0)
    made = []
    for side in ("photos", "drawings"):
        pictures = lot.integers(0, 256, (8, 16, 16, 3), np.uint8)
        made.append(Pack.from_arrays(pictures, side, splits=["train"] * 4 + ["held_out"] * 4, framing="ffhq"))
    return made[0], made[1]


def test_a_photo_is_projected_into_the_source_and_drawn_by_the_style(files: Path) -> None:
    through = open_through(
        files / "drawn.safetensors", files / "faces.safetensors", device="cpu", steps=STEPS
    )
    photos = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = through.translate(photos)
    settings = Settings(steps=STEPS)
    codes = invert(through.source, photos, open_likeness(None, None, torch.device("cpu")), settings).w
    assert torch.equal(drawn, style.load(files / "drawn.safetensors", "cpu").synthesis(codes))
    assert not torch.equal(drawn, style.load(files / "faces.safetensors", "cpu").synthesis(codes))
    assert torch.equal(drawn[1:2], through.translate(photos[1:2]))
    assert through.translate(photos[:0]).shape == (0, 3, 16, 16)
    other = through.by(through.source)
    assert torch.equal(other.translate(photos), through.source.style.synthesis(codes))
    assert other.known is through.known
    assert len(through.known) == 3


def test_it_is_evaluated_as_a_translator(files: Path, packs: tuple[Pack, Pack], tmp_path: Path) -> None:
    through = open_through(
        files / "drawn.safetensors", files / "faces.safetensors", device="cpu", steps=STEPS
    )
    found = evaluate(through, *packs, out=tmp_path)
    assert (found["metrics"]["all"]["n_fake"], found["metrics"]["all"]["n_real"]) == (4, 4)
    assert found["style"]["through"]["source"]["file"] == "faces.safetensors"
    assert found["style"]["through"]["settings"]["steps"] == STEPS
    assert found["style"]["step"] == 7
    assert "untranslated" in found
    assert "faces.safetensors" in (tmp_path / "report.html").read_text()


def test_bad_input(
    files: Path, packs: tuple[Pack, Pack], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Problem, match="32 px"):
        open_through(files / "other.safetensors", files / "faces.safetensors")
    with pytest.raises(Problem, match="told no groups"):
        open_through(files / "drawn.safetensors", files / "faces.safetensors").translate(
            torch.zeros(1, 3, 16, 16), "a"
        )
    for pack in packs:
        pack.save(tmp_path / pack.side)
    line = ["evaluate", str(files / "drawn.safetensors"), "--photos", str(tmp_path / "photos")]
    line += ["--drawings", str(tmp_path / "drawings"), "--out", str(tmp_path / "report"), "--device", "cpu"]
    assert cli.main([*line, "--steps", "5"]) == 2
    assert "--steps 5 goes with --through" in capsys.readouterr().err
    assert cli.main([*line, "--through", str(files / "faces.safetensors"), "--steps", "0"]) == 2
    assert "0 steps" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert cli.main([*line, "--through", str(files / "faces.safetensors"), "--steps", "2"]) == 0
    assert (tmp_path / "report" / "report.html").is_file()

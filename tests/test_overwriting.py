"""No tool of explore writes over what it reads, or over what another tool or a training has made. Tiny, 16 px."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fewtoon import cli, style
from fewtoon.io import images
from fewtoon.latent.record import kind_of
from fewtoon.latent.sample import sample
from test_project import make, moved


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a source, what was made of it, another style, a run's facts, latents and a photo."""
    monkeypatch.chdir(tmp_path)
    source = make(1)
    style.write("a.safetensors", source, {})
    style.write("b.safetensors", moved(source), {})
    shutil.copy("b.safetensors", "kept.safetensors")
    Path("run").mkdir()
    Path("run/run.json").write_text(json.dumps({"packs": {}}))
    sample(["a.safetensors"], "sampled", seeds=[0, 1], device="cpu")
    pixels = style.to_pixels(style.load("a.safetensors", "cpu").sample(torch.zeros(1, 8)))[0]
    images.save_png("photo.png", pixels)
    shutil.copy("photo.png", "photo.webp")
    return tmp_path


REFUSED = [
    ("move a.safetensors --by x=1 --latents sampled/latents.safetensors --out sampled", "is read too"),
    ("move a.safetensors --by x=1 --directions sampled --out sampled", "holds the directions"),
    (
        "edit a.safetensors --text t --clip c --latents sampled/latents.safetensors --out sampled",
        "written over",
    ),
    (
        "mix a.safetensors --row-latents sampled/latents.safetensors --columns 0 --from 1 --out sampled",
        "read too",
    ),
    ("project a.safetensors photo.webp --steps 2 --out p --video photo.webp", "is read too"),
    ("sample a.safetensors --out s --video a.safetensors", "must end in .webp"),
    ("swap a.safetensors b.safetensors --resolution 8 --sheet run/run.png", "run.json' is there already"),
    ("swap a.safetensors b.safetensors --resolution 8 --out kept.safetensors", "no swapped style"),
    ("encoder a.safetensors --steps 1 --out kept.safetensors", "no encoder"),
    ("encoder a.safetensors --steps 1 --out sampled/latents.safetensors", "no encoder"),
    ("encoder a.safetensors --steps 1 --out run/run.safetensors", "no record"),
    ("mix a.safetensors --rows 0 --columns 1 --layers= --out m", "no layer"),
    ("project a.safetensors photo.png --rate 0 --out p", "above 0"),
    ("mix a.safetensors --rows 0-9999 --columns 0-9999 --from 1 --out m", "name fewer"),
]


@pytest.mark.parametrize(("line", "told"), REFUSED)
def test_refused_in_one_line_and_nothing_is_lost(
    line: str, told: str, at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in at.rglob("*") if path.is_file()}
    assert cli.main(["explore", *line.split(), "--device", "cpu"]) == 2
    answer = capsys.readouterr().err
    assert told in answer, answer
    assert answer.count("\n") == 1
    assert {path: path.read_bytes() for path in at.rglob("*") if path.is_file()} == before


def test_a_stopped_sheet_leaves_no_single_pictures(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesis, drawn = style.Style.synthesis, []

    def stopped(self: style.Style, *given: object) -> torch.Tensor:
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return synthesis(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(style.Style, "synthesis", stopped)
    with pytest.raises(KeyboardInterrupt):
        sample(["a.safetensors"], "single", seeds=range(5), single=True, device="cpu")
    assert not list(Path("single").glob("*"))


@pytest.mark.parametrize(
    "line",
    ["mix a.safetensors --rows 0,1 --columns 2,3 --from 1", "project a.safetensors photo.png --steps 1"],
)
def test_no_half_of_single_pictures_stays(line: str, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = images.save_png, []

    def stopped(path: Path, pixels: object) -> None:
        save(path, pixels)  # type: ignore[arg-type]
        saved.append(Path(path))
        if Path(path).name != "sheet.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(images, "save_png", stopped)
    assert cli.main(["explore", *line.split(), "--single", "--out", "o", "--device", "cpu"]) != 0
    assert saved
    assert not [path for path in saved if path.exists() and path.name != "sheet.png"]


def test_its_own_work_is_replaced(at: Path) -> None:
    swap = ["explore", "swap", "a.safetensors", "b.safetensors", "--resolution", "8"]
    swap += ["--out", "s.safetensors", "--sheet", "s.png"]
    for _ in range(2):
        assert cli.main([*swap, "--seeds", "0", "--device", "cpu"]) == 0
    found = {name: kind_of(Path(name)) for name in ("s.safetensors", "s.json", "s.latents.safetensors")}
    assert list(found.values()) == ["swapped style", "record", "latents"]
    assert kind_of(Path("a.safetensors")) is None
    assert kind_of(Path("run/run.json")) is None


def test_a_style_is_not_evaluated_through_itself(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", "b.safetensors", "--through", "kept.safetensors", "--photos", "p", "--drawings", "d"]
    assert cli.main([*line, "--device", "cpu"]) == 2
    assert "is the style itself" in capsys.readouterr().err

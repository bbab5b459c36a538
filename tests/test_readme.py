"""The documents keep their word: their commands run in order, their example method works, their links lead
somewhere. Everything happens in small, on the drawn world, in a temporary folder."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fewtoon.demo
from fewtoon import arguments, cli, config, methods
from fewtoon.data import world
from fewtoon.nets import judge

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)

# What the README says -> what is run here. Each must occur, so that this table cannot rot.
SMALLER = {
    "--photos 480 --drawings 320": "--photos 48 --drawings 40",
    "--photos 400 --drawings 360": "--photos 40 --drawings 40",
    "--imbalance 1050/249/49/38": "--imbalance 4/3/2/2",
    "--set channels=16 --set blocks=3": "--set channels=8 --set blocks=1",
    "--set steps=200": "--set steps=2 --set reader_steps=3",
    "--set channel_base=1024 --set channel_max=64": "--set channel_base=512 --set channel_max=16",
    "train.steps=2000": "train.steps=2 --set metric_pictures=8",
    "--set batch=8 --set steps=600": "--set batch=8 --set train.steps=2 --set metric_pictures=8",
    "--out study --steps 600": "--out study --steps 2",
    "world/photos/3_woman_glasses --draw runs/drawn --out projected --steps 200": "world/photos/3_woman_glasses "
    "--draw runs/drawn --out projected --steps 2",
    "--seeds 0-3 --out moved": "--seeds 0-3 --frames 4 --out moved",
    "train.steps=600": "train.steps=2",
    "train.steps=900": "train.steps=3",
    "train ugatit-light": "train demo --set train.steps=2",
    "--size 128": "--size 64",
}
# Lines that are not ours to run: set-up, downloads, and servers that would never end.
NOT_RUN = (
    *("make ", ". .venv/bin/activate", "tensorboard --logdir"),
    *("fewtoon mark", "fewtoon serve", "fewtoon models fetch"),
)


def blocks(document: str, kind: str) -> list[str]:
    """The contents of the fenced blocks of a kind, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def foreign_checkpoint(path: Path) -> None:
    """A small random checkpoint in the layout of the published U-GAT-IT code, one generator, 4 channels."""
    c = 4
    shapes = {
        "DownBlock.1.weight": (c, 3, 7, 7),
        "DownBlock.5.weight": (2 * c, c, 3, 3),
        "DownBlock.9.weight": (4 * c, 2 * c, 3, 3),
        "DownBlock.12.conv_block.1.weight": (4 * c, 4 * c, 3, 3),
        "DownBlock.12.conv_block.5.weight": (4 * c, 4 * c, 3, 3),
        "gap_fc.weight": (1, 4 * c),
        "gmp_fc.weight": (1, 4 * c),
        "conv1x1.weight": (4 * c, 8 * c, 1, 1),
        "conv1x1.bias": (4 * c,),
        **{f"{name}.weight": (4 * c, 4 * c) for name in ("FC.0", "FC.2", "gamma", "beta")},
        **{f"UpBlock1_1.conv{i}.weight": (4 * c, 4 * c, 3, 3) for i in (1, 2)},
        **{f"UpBlock1_1.norm{i}.rho": (1, 4 * c, 1, 1) for i in (1, 2)},
        "UpBlock2.2.weight": (2 * c, 4 * c, 3, 3),
        "UpBlock2.7.weight": (c, 2 * c, 3, 3),
        **{f"UpBlock2.3.{name}": (1, 2 * c, 1, 1) for name in ("rho", "gamma", "beta")},
        **{f"UpBlock2.8.{name}": (1, c, 1, 1) for name in ("rho", "gamma", "beta")},
        "UpBlock2.11.weight": (3, c, 7, 7),
    }
    torch.save({"genA2B": {key: 0.1 * torch.randn(shape) for key, shape in shapes.items()}}, path)


def test_the_commands_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    # What a reader has before the first command: own pictures, and somebody's weights.
    world.build("my", photos=44, drawings=44, size=64, seed=5)
    foreign_checkpoint(tmp_path / "selfie2anime_params_latest.pt")
    monkeypatch.setattr(fewtoon.demo, "PHOTOS", 44)
    monkeypatch.setattr(fewtoon.demo, "DRAWINGS", 44)
    monkeypatch.setattr(fewtoon.demo, "PRESET", quick_demo(tmp_path))
    monkeypatch.setattr(judge, "STEPS", 3)

    whole = "".join(blocks("README.md", "sh"))
    for original in SMALLER:
        assert original in whole, f"{original!r} is no longer in the README"
    ran: set[str] = set()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        if kind == "python":
            exec(compile(block, "README.md", "exec"), {})
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split(" #")[0].strip()
            if not command or command.startswith(NOT_RUN):
                continue
            for original, smaller in SMALLER.items():
                command = command.replace(original, smaller)
            program, *arguments = shlex.split(command)
            assert program == "fewtoon", f"{line!r} is neither run nor named in NOT_RUN"
            code = cli.main(arguments)
            told = capsys.readouterr()
            assert code == 0, f"{command}: {told.err}"
            assert told.out.strip(), f"{command} says nothing"
            ran.add(arguments[0])
    assert ran >= {
        "world",
        "prepare",
        "train",
        "translate",
        "evaluate",
        "inspect",
        "suggest",
        "import",
        "explore",
        "export",
        "study",
        "demo",
    }


def quick_demo(folder: Path) -> str:
    """The demo's preset with two steps, as a file."""
    import yaml

    settings = config.load("demo", ["train.steps=2", "model.channels=8", "model.discriminator_channels=8"])
    path = folder / "quick.yaml"
    path.write_text(yaml.safe_dump(settings.dump()))
    return str(path)


def test_the_readme_shows_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    verbs = re.findall(r"^    (\w+)\b", capsys.readouterr().out, flags=re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(verbs) >= 8
    for verb in verbs:
        assert f"### `{verb}`" in readme, f"the README has no section on {verb}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        assert path.exists(), f"{document} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(path), (
                f"{document} links to {target}, but {path.name} has no such heading"
            )


def anchors(path: Path) -> set[str]:
    """The anchors that the headings of a Markdown file get."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_column(document: str, heading: str) -> set[str]:
    """What is set as code in the first column of the first table below a heading."""
    text = (ROOT / document).read_text(encoding="utf-8")
    table = re.search(r"(?:^\|.*\n)+", text.split(heading)[1], flags=re.MULTILINE)
    assert table is not None
    return {name for line in table[0].splitlines() for name in re.findall(r"`([\w-]+)`", line.split("|")[1])}


def test_the_method_cards_know_every_setting() -> None:
    plain, grouped = (set(methods.find(name).Config.model_fields) for name in ("ugatit", "groups"))
    assert first_column("docs/ugatit.md", "## Settings") == plain
    assert first_column("docs/groups.md", "### Settings") == grouped - plain
    for name in ("cyclegan", "unit", "munit", "drit", "aggan", "cartoongan", "cut"):
        own = set(methods.find(name).Config.model_fields)
        assert first_column(f"docs/{name}.md", "## Settings") == own, name
    assert first_column("docs/stylegan.md", "## Settings") == set(
        methods.find("stylegan").Config.model_fields
    )


def test_the_readme_knows_every_preset() -> None:
    assert first_column("README.md", "**Which preset?**") == set(config.presets())


CARDS = [("groups", 11), ("stylegan", 6), ("project", 4), ("directions", 5), ("study", 4), ("evaluation", 1)]


@pytest.mark.parametrize(("card", "least"), CARDS)
def test_the_commands_of_the_cards_are_taken(card: str, least: int) -> None:
    parser = arguments.parser(cli.VERBS)
    lines = "".join(blocks(f"docs/{card}.md", "sh")).replace("\\\n", " ").splitlines()
    for line in filter(None, lines):
        program, *given = shlex.split(line)
        args = parser.parse_args(given)
        assert program == "fewtoon"
        if args.run is cli.train:
            config.load(args.preset, args.set)
    assert len(lines) >= least


def test_pictures_are_small() -> None:
    for path in (ROOT / "docs" / "pictures").iterdir():
        assert path.stat().st_size < 300_000, f"{path.name} has {path.stat().st_size} bytes"


# --- the example method of CONTRIBUTING -----------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's file, found among the methods, and its preset, whose path is returned."""
    (code,) = blocks("CONTRIBUTING.md", "python")
    (preset,) = blocks("CONTRIBUTING.md", "yaml")
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "recolour.py").write_text(code)
    path = tmp_path / "recolour.yaml"
    path.write_text(preset)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "fewtoon.methods.recolour", raising=False)
    yield path
    sys.modules.pop("fewtoon.methods.recolour", None)


def contract() -> list[Any]:
    """The tests of the contract, except the one that counts the methods."""
    import test_contract

    tests = [f for title, f in vars(test_contract).items() if title.startswith("test_") and callable(f)]
    return [test for test in tests if "small" in inspect.signature(test).parameters]


@pytest.mark.parametrize("test", contract(), ids=lambda test: test.__name__)
def test_the_example_keeps_the_contract(
    test: Any, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import test_contract

    torch.manual_seed(0)
    torch.set_num_threads(1)
    known = {
        "name": "recolour",
        "small": test_contract.Small(),
        "group": "a",
        "tmp_path": tmp_path,
        "monkeypatch": monkeypatch,
    }
    test(**{key: known[key] for key in inspect.signature(test).parameters})


def test_the_example_trains(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    world.build("world", photos=48, drawings=48, size=32)
    for side in ("photos", "drawings"):
        packed = [
            "prepare",
            f"world/{side}",
            "--side",
            side,
            "--out",
            side,
            "--size",
            "32",
            "--held-out",
            "0.2",
        ]
        assert cli.main(packed) == 0
    command = ["train", str(example), "--photos", "photos", "--drawings", "drawings", "--out", "run"]
    assert cli.main([*command, "--set", "steps=3", "--track", "none"]) == 0
    assert cli.main(["translate", "run", "world/photos", "--out", "drawn"]) == 0
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 48

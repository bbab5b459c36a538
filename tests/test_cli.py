"""The command line: help with examples, exit codes, one line on stderr, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fewtoon
from fewtoon import arguments, cli, config, methods, style
from fewtoon.data.pack import Pack

SIZE = 16
VERBS = (
    *("prepare", "train", "translate", "evaluate", "import", "inspect", "mark", "serve", "suggest", "models"),
    *("export", "explore", "study", "world", "demo"),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Answer:
    """What a command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*words: str | Path) -> Answer:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # argparse ends the process itself
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return command


@pytest.fixture
def refused(run: Any) -> Any:
    """Run a command that must be refused: exit code 2, nothing on stdout, one line on stderr with the words."""

    def command(*words: str | Path, told: tuple[str, ...] = ()) -> str:
        answer = run(*words)
        assert answer.code == 2, answer.err
        assert answer.out == ""
        assert answer.err.count("\n") == 1, answer.err
        assert answer.err.startswith("fewtoon"), answer.err
        assert "Traceback" not in answer.err
        for word in told:
            assert word in answer.err, answer.err
        return answer.err

    return command


def pictures(folder: Path, count: int = 4, size: int = 20) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, two packs, a style and a short run."""
    top = tmp_path_factory.mktemp("cli")
    torch.set_num_threads(1)
    pictures(top / "photos")
    for number, side in enumerate(("photos", "drawings")):
        random = np.random.default_rng(number)
        arrays = random.integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)
        splits = ["train"] * 8 + ["held_out"] * 8
        Pack.from_arrays(arrays, side, groups=["a", "b"] * 8, splits=splits).save(top / side[0])
    kind = methods.find("ugatit")
    settings = config.section(kind.Config, {"channels": 4, "blocks": 1}, "model")
    style.write(top / "s.safetensors", kind(settings, SIZE, ["a"], training=False), {"step": 3})
    preset = "method: ugatit\nmodel: {channels: 4, blocks: 1}\ntrain: {steps: 2, metric_pictures: 8}\n"
    (top / "tiny.yaml").write_text(preset)
    words = ["train", top / "tiny.yaml", "--photos", top / "p", "--drawings", top / "d", "--out", top / "run"]
    assert cli.main([*map(str, words), "--track", "none", "--device", "cpu"]) == 0
    return top


# --- help ------------------------------------------------------------------------------------------------


def test_help_lists_the_verbs(run: Any) -> None:
    for words in ([], ["--help"], ["-h"]):
        answer = run(*words)
        assert answer.code == 0
        assert answer.err == ""
        for verb in VERBS:
            assert re.search(rf"^\s+{verb}\s", answer.out, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_that_parses(run: Any, verb: str) -> None:
    answer = run(verb, "--help")
    assert answer.code == 0
    example = re.search(r"example:\n  (fewtoon .*)", answer.out)
    assert example
    words = example[1].split()[1:]
    assert words[0] == verb
    arguments.parser(cli.VERBS).parse_args(words)


def test_version(run: Any) -> None:
    assert run("--version").out == f"fewtoon {fewtoon.__version__}\n"


def test_help_is_quick() -> None:
    """The first page needs neither torch nor numpy, nor does a misspelt verb."""
    probe = (
        "import sys; from fewtoon import cli\n"
        "for words in (['--help'], ['translate', '--help'], ['trian']):\n"
        "    try: cli.main(words)\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_presets_are_listed(run: Any) -> None:
    assert run("train", "--list").out.split() == config.presets()


# --- wrong words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], ["trian", "train"]),
        (["--nonsense"], ["--help"]),
        (["prepare"], ["PICTURES"]),
        (["prepare", "x", "--out", "y"], ["--side"]),
        (["prepare", "x", "--side", "left", "--out", "y"], ["left", "photos"]),
        (["prepare", "x", "--side", "photos", "--out", "y", "--size", "big"], ["big"]),
        (["prepare", "x", "--side", "photos", "--out", "y", "--held-out", "some"], ["'some'", "0.1"]),
        (["train"], ["PRESET"]),
        (["train", "demo", "--out", "r"], ["--photos"]),
        (["train", "demo", "--photos", "p", "--out", "r"], ["--drawings"]),
        (["train", "demo", "--photos", "p", "--drawings", "d"], ["--out"]),
        (["translate", "s"], ["PICTURES"]),
        (["translate", "s", "p"], ["--out"]),
        (["translate", "s", "p", "--out", "o", "--batch", "x"], ["--batch"]),
        (["translate", "s", "p", "--out", "o", "--precision", "fp16"], ["fp16", "bf16"]),
        (["evaluate", "s"], ["--photos"]),
        (["evaluate", "s", "--photos", "p", "--drawings", "d", "--split", "x"], ["held_out"]),
        (["import", "f"], ["--out"]),
        (["inspect"], ["PACK|RUN|STYLE"]),
        (["inspect", "a", "b", "c"], ["c"]),
        (["world"], ["--out"]),
    ],
    ids=" ".join,
)
def test_wrong_words(refused: Any, words: list[str], told: list[str]) -> None:
    refused(*words, told=told)


def test_missing_things(refused: Any, world: Path, tmp_path: Path) -> None:
    none, out, packs = (
        tmp_path / "none",
        tmp_path / "out",
        ["--photos", world / "p", "--drawings", world / "d"],
    )
    file = world / "s.safetensors"
    refused("prepare", none, "--side", "photos", "--out", out, told=("none", "does not exist"))
    refused("train", "demo", "--photos", none, "--drawings", none, "--out", out, told=("none", "prepare"))
    refused("train", "dema", *packs, "--out", out, told=("'dema'", "'demo'"))
    refused("train", "demo", *packs, "--out", out, "--set", "stpes=5", told=("'stpes'", "'steps'"))
    refused("train", "demo", *packs, "--out", out, "--device", "gpu", told=("'gpu'", "'cpu'"))
    refused("translate", none, world / "photos", "--out", out, told=("none", "does not exist"))
    refused("translate", file, none, "--out", out, told=("none", "does not exist"))
    refused("translate", file, world / "photos", "--out", out, "--group", "aa", told=("'aa'", "alike"))
    refused("translate", file, world / "photos", "--out", out, "--device", "gpu", told=("'gpu'", "'cpu'"))
    refused("translate", file, world / "photos", "--out", out, "--batch", "0", told=("batch 0",))
    refused("translate", file, world / "photos", "--out", file, told=("is a file",))
    refused("translate", world / "p", world / "photos", "--out", out, told=("best.safetensors",))
    refused("evaluate", none, *packs, "--out", out, told=("none", "does not exist"))
    refused("evaluate", file, "--photos", none, "--drawings", world / "d", "--out", out, told=("none",))
    refused("evaluate", file, *packs, "--out", out, "--features", "inceptoin", told=("inceptoin",))
    refused("evaluate", file, *packs, "--out", out, "--device", "gpu", told=("'gpu'",))
    refused("import", none, "--out", out, told=("none", "does not exist"))
    refused("import", file, "--out", out, told=("s.safetensors",))
    refused("inspect", none, told=("none", "does not exist"))
    refused("inspect", tmp_path, told=("not a run",))
    refused("inspect", world / "tiny.yaml", told=("not a style",))
    refused("world", "--out", out, "--imbalance", "a/b", told=("a/b",))
    refused("world", "--out", out, "--size", "-5", told=("-5",))
    assert not out.exists()


# --- verbs on small things -------------------------------------------------------------------------------


def test_translate(run: Any, world: Path, tmp_path: Path) -> None:
    answer = run("translate", world / "s.safetensors", world / "photos", "--out", tmp_path / "a")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"4 drawn into {tmp_path / 'a'}, 0 refused\n"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["0.png", "1.png", "2.png", "3.png"]
    answer = run("translate", world / "run", world / "photos" / "[01].png", "--out", tmp_path / "b", "--json")
    nothing = {"refused": [], "faces": [], "advice": [], "notes": [], "read_as": {}}
    assert json.loads(answer.out) == {"drawn": ["0.png", "1.png"], **nothing}


def test_translate_goes_on_and_says_so(run: Any, world: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", 2)
    (folder / "0.png").write_bytes(b"no picture")
    answer = run("translate", world / "s.safetensors", folder, "--out", tmp_path / "out", "--json")
    assert answer.code == 2
    assert json.loads(answer.out)["drawn"] == ["1.png"]
    assert re.fullmatch(r"fewtoon: not drawn: .*0\.png: .+\n", answer.err)
    assert (tmp_path / "out" / "1.png").is_file()


def test_inspect(run: Any, world: Path) -> None:
    kinds = {"p": "pack", "run": "run", "s.safetensors": "style", "run/best.safetensors": "style"}
    for name, kind in kinds.items():
        answer = run("inspect", world / name)
        assert (answer.code, answer.err) == (0, "")
        assert len(answer.out.splitlines()) >= 2
        facts = json.loads(run("inspect", world / name, "--json").out)
        assert facts["kind"] == kind
    assert "photos" in run("inspect", world / "p").out
    text = run("inspect", world / "run").out
    assert "step 2 of 2" in text
    assert "best.safetensors" in text
    assert "16 px, method ugatit" in run("inspect", world / "s.safetensors").out
    assert "held-out KID" in run("inspect", world / "run" / "best.safetensors").out


def test_evaluate_warns_of_photos_that_are_framed_otherwise(run: Any, world: Path, tmp_path: Path) -> None:
    portrait = style.load(world / "s.safetensors")
    portrait.header["framing"] = "portrait"
    portrait.save(tmp_path / "portrait.safetensors")
    packs = ("--photos", world / "p", "--drawings", world / "d", "--out", tmp_path / "report")
    answer = run("evaluate", tmp_path / "portrait.safetensors", *packs)
    assert answer.code == 0
    assert "warning: photos framed 'as-is', and the style learned from 'portrait'" in answer.err
    assert "warning" not in run("evaluate", world / "s.safetensors", *packs).err


def test_nothing_is_written_into_a_pack(refused: Any, world: Path) -> None:
    before = sorted(path.name for path in (world / "p").iterdir())
    refused("inspect", world / "p", "--out", world / "p" / "pack.json", told=("lies in a pack",))
    refused("suggest", world / "p", "--out", world / "p" / "groups.csv", told=("lies in a pack",))
    refused("inspect", world / "p", "--out", "", told=("names no file",))
    assert sorted(path.name for path in (world / "p").iterdir()) == before


def test_inspect_of_damaged_things(refused: Any, world: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((world / "s.safetensors").read_bytes()[:2000])
    refused("inspect", torn, told=("torn.safetensors",))
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "pack.json").write_text("{")
    refused("inspect", pack, told=("pack.json",))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("method: ugatit\nmodel: {}\ntrain: {}\n")
    refused("inspect", run, told=("run.json",))
    (run / "config.yaml").write_text("[")
    refused("inspect", run, told=("config.yaml",))


def test_evaluate_and_train_answer_in_json(run: Any, world: Path, tmp_path: Path) -> None:
    packs = ["--photos", world / "p", "--drawings", world / "d"]
    answer = run("evaluate", world / "run", *packs, "--out", tmp_path / "report", "--json")
    assert answer.code == 0
    assert "kid" in json.loads(answer.out)["metrics"]["all"]
    assert (tmp_path / "report" / "report.html").is_file()
    words = ["train", world / "tiny.yaml", *packs, "--out", world / "run", "--track", "none", "--json"]
    again = run(*words)  # the same command: there is nothing left to do
    assert again.code == 0
    assert json.loads(again.out)["steps"] == 2


def test_a_changed_config_is_refused_with_the_difference(refused_with_chatter: Any, world: Path) -> None:
    words = ["train", world / "tiny.yaml", "--photos", world / "p", "--drawings", world / "d"]
    line = refused_with_chatter(*words, "--out", world / "run", "--track", "none", "--set", "seed=7")
    assert "train.seed: 0 -> 7" in line


@pytest.fixture
def refused_with_chatter(run: Any) -> Any:
    """As `refused`, for verbs that report progress on stderr before: the last line counts."""

    def command(*words: str | Path) -> str:
        answer = run(*words)
        assert answer.code == 2
        assert answer.out == ""
        assert "Traceback" not in answer.err
        return answer.err.splitlines()[-1]

    return command


# --- the world around ------------------------------------------------------------------------------------


def test_a_full_disk(refused: Any, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    old = pictures(tmp_path / "out", 1) / "0.png"
    before = old.read_bytes()
    monkeypatch.setattr(os, "replace", full)
    refused(
        "translate", world / "s.safetensors", world / "photos", "--out", tmp_path / "out", told=("No space",)
    )
    assert old.read_bytes() == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0.png"]


def test_ctrl_c(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(style, "load", stopped)
    answer = run("translate", "s", "p", "--out", "o")
    assert (answer.code, answer.out, answer.err) == (130, "", "fewtoon: stopped\n")


def test_names_that_are_not_text(world: Path, tmp_path: Path) -> None:
    """File names that are not UTF-8, in and out, through a real terminal's pipes."""
    folder = os.fsencode(pictures(tmp_path / "photos", 1))
    os.rename(folder + b"/0.png", folder + b"/\xff.png")
    out = os.fsencode(tmp_path) + b"/\xfe-out"
    file = os.fsencode(world / "s.safetensors")
    command = [os.fsencode(sys.executable), b"-m", b"fewtoon.cli", b"translate", file, folder, b"--out", out]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert b"1 drawn into" in done.stdout
    assert len(os.listdir(out)) == 1


def test_a_closed_pipe(world: Path) -> None:
    """'fewtoon inspect ... | head' ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fewtoon.cli", "inspect", str(world / "s.safetensors"), "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("verb", ["serve", "explore move a --by b --out c", "train demo --out x"])
def test_what_a_verb_does_not_know_is_told_with_its_own_help(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*verb.split(), "--bogus"])
    assert ended.value.code == 2
    name = "explore move" if verb.startswith("explore") else verb.split()[0]
    assert (
        capsys.readouterr().err
        == f"fewtoon {name}: unrecognized arguments: --bogus; see 'fewtoon {name} --help'\n"
    )

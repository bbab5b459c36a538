"""study: several presets under one budget, one table; it goes on, it says what failed, and it fails early."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewtoon.study as module
from fewtoon import cli, methods
from fewtoon.data.pack import Pack
from fewtoon.engine import guard
from fewtoon.errors import Problem
from fewtoon.metrics import distance, rows, table
from fewtoon.run import Run
from fewtoon.study import Entry, steps_per_second, study
from toy_method import Toy, pack

TINY = "{channel_base: 128, channel_max: 8, latent: 8, style: 8, mapping_layers: 2}"
SHORT = "batch: 2, metric_pictures: 10, preview_pictures: 2"


@pytest.fixture(autouse=True, scope="module")
def toys():
    """The method 'toy', which trains in milliseconds, beside the real ones."""
    torch.set_num_threads(1)
    real = methods.find
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "find", lambda name: Toy if name == "toy" else real(name))
        yield


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("presets")
    texts = {
        "draws": f"method: toy\ntrain: {{{SHORT}}}\n",
        "makes": f"method: stylegan\nmodel: {TINY}\ntrain: {{{SHORT}}}\n",
        "groups": f"method: groups\nmodel: {{channels: 4, blocks: 1}}\ntrain: {{{SHORT}}}\n",
    }
    for name, text in texts.items():
        (top / f"{name}.yaml").write_text(text)
    return {name: str(top / f"{name}.yaml") for name in texts}


def plain(side: str, seed: int) -> Pack:
    """Packs without groups."""
    made = pack(side, seed)
    return Pack.from_arrays(made.images, side, splits=[row.split for row in made.rows])


PACKS: dict[str, Any] = {"photos": plain("photos", 1), "drawings": plain("drawings", 2)}
ABOUT: dict[str, Any] = {**PACKS, "device": "cpu", "quiet": True, "samples": 20}


@pytest.fixture(scope="module")
def done(presets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("study") / "deep" / "study"
    names = [presets["draws"], presets["makes"], presets["groups"]]
    return study(names, out=out, steps=3, seeds=(0, 1), **ABOUT), out


def by_name(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["preset"]: row for row in result["rows"]}


# --- the table ------------------------------------------------------------------------------------------------


def test_one_row_per_preset_in_their_order(done) -> None:
    found, out = done
    assert [row["preset"] for row in found["rows"]] == ["draws", "makes", "groups"]
    assert json.loads((out / "study.json").read_text()) == found
    for row in found["rows"][:2]:
        reports = [
            json.loads((out / "runs" / f"{row['preset']}-{seed}" / "report" / "report.json").read_text())
            for seed in (0, 1)
        ]
        kids = [report["metrics"]["all"]["kid"] for report in reports]
        assert row["kid"]["mean"] == pytest.approx(np.mean(kids))
        assert row["kid"]["spread"] == pytest.approx(np.std(kids, ddof=1))
        assert row["kid_x100"]["mean"] == pytest.approx(np.mean(kids) / 10)
        assert row["kid_x100"]["deviation"] > 0
        assert row["fid"]["mean"] == pytest.approx(np.mean([r["metrics"]["all"]["fid"] for r in reports]))
        assert (row["steps"], row["pictures"]) == (3, 6)
        assert row["seconds"]["mean"] > 0
        assert len(row["runs"]) == 2


def test_the_way_back_is_a_column_where_a_style_has_learned_it(done) -> None:
    entry = {
        "kid": 21.0,
        "kid_interval": [19.0, 23.0],
        "fid": 5.0,
        "n_real": 40,
        "n_fake": 50,
        "subset_size": 20,
    }
    found, _ = done
    result = json.loads(json.dumps(found))
    titles = table.markdown(result)
    assert "back to photos" not in titles
    result["rows"][0]["back"] = rows.figures([entry, {**entry, "kid": 23.0}])
    line = next(line for line in table.markdown(result).splitlines() if line.startswith("| draws"))
    heads = next(line for line in table.markdown(result).splitlines() if line.startswith("| preset"))
    cell = line.split("|")[heads.split("|").index(" back to photos, KID × 100 ")]
    assert cell.strip().startswith("2.2 ± ")


def test_what_a_kind_of_style_lacks_is_absent(done) -> None:
    found = by_name(done[0])
    assert (found["draws"]["generates"], found["makes"]["generates"]) == (False, True)
    assert (found["draws"]["n_fake"], found["makes"]["n_fake"]) == (10, 20)
    assert "attributes" not in found["draws"]
    assert "identity" not in found["makes"]
    assert done[0]["untranslated"]["kid"]["mean"] > 0
    assert any("compare KID alone" in note for note in done[0]["notes"])


def test_parameters_are_those_that_draw_and_those_of_the_whole_method(done) -> None:
    drawer = 3 * 8 * 9 + 8 + 8 * 3 * 9 + 3
    judge = 3 * 8 * 9 + 8 + 8 * 1 * 9 + 1
    fixed = 3 * 2 * 9 + 2 + 4
    counts = by_name(done[0])["draws"]["parameters"]
    assert counts == {"drawing": drawer, "all": drawer + judge + fixed}


def test_a_preset_that_fails_says_why_and_the_others_go_on(done) -> None:
    failed = by_name(done[0])["groups"]
    assert "needs groups" in failed["failed"]
    assert "kid" not in failed
    assert not (done[1] / "runs" / "groups-0").exists()
    assert "**groups** failed: seed 0: this method needs groups" in (done[1] / "study.md").read_text()


def test_runs_are_ordinary_runs(done) -> None:
    run = Run.open(done[1] / "runs" / "draws-1")
    assert run.config()["train"]["seed"] == 1
    assert run.config()["train"]["steps"] == 3
    assert run.last.is_file()


def test_the_markdown_is_a_table_with_dashes(done) -> None:
    text = (done[1] / "study.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == [
        "preset",
        "---",
        "photos, untranslated",
        "draws",
        "makes",
        "groups",
    ]
    assert len({line.count("|") for line in lines}) == 1
    assert "KID × 1000" in lines[0]
    assert "KID × 100 ± deviation" in lines[0]
    assert lines[-1].count(table.DASH) == lines[-1].count("|") - 2
    assert "memory" not in lines[0]  # nobody measured it on this device


def test_the_page_stands_alone_with_pictures_in_columns(done) -> None:
    page = (done[1] / "study.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "<script" not in page
    faces, numbers = page.split("<h2>")[1:3]
    assert faces.startswith("The same faces")
    assert re.findall(r'text-align:center">([^<]*)<', faces) == ["photo", "draws"]
    assert faces.count("<img") == 2 * module.SHOWN
    assert re.findall(r'text-align:center">([^<]*)<', numbers) == ["makes"]
    assert numbers.count("<img") == module.SHOWN


# --- going on ---------------------------------------------------------------------------------------------------


def test_the_same_call_trains_and_measures_nothing_again(done, presets, monkeypatch) -> None:
    found, out = done
    monkeypatch.setattr(module, "evaluate", None)
    names = [presets["draws"], presets["makes"], presets["groups"]]
    assert study(names, out=out, steps=3, seeds=(0, 1), **ABOUT) == found


def test_an_interrupted_study_goes_on_to_the_same_figures(done, presets, tmp_path, monkeypatch) -> None:
    calls: list[str] = []
    real = module.train

    def stopped(config, photos, drawings, out, **about):
        calls.append(out.name)
        if calls == ["draws-0", "draws-1"]:
            raise guard.Interrupted("stopped by a test")
        return real(config, photos, drawings, out, **about)

    monkeypatch.setattr(module, "train", stopped)
    names = [presets["draws"], presets["makes"]]
    with pytest.raises(KeyboardInterrupt):
        study(names, out=tmp_path / "s", steps=3, seeds=(0, 1), **ABOUT)
    assert not (tmp_path / "s" / "study.json").exists()
    again = by_name(study(names, out=tmp_path / "s", steps=3, seeds=(0, 1), **ABOUT))
    for name, row in by_name(done[0]).items():
        if name in again:
            assert again[name]["kid"] == row["kid"]
            assert again[name]["fid"] == row["fid"]


def test_another_budget_is_another_study(done, presets) -> None:
    with pytest.raises(Problem, match="begun with steps = 3, not steps = 4"):
        study([presets["draws"]], out=done[1], steps=4, **ABOUT)


def test_changed_settings_are_a_row_that_says_so(presets, tmp_path) -> None:
    study([presets["draws"]], out=tmp_path / "s", steps=1, **ABOUT)
    (row,) = study([presets["draws"]], out=tmp_path / "s", steps=1, sets=["rate=0.5"], **ABOUT)["rows"]
    assert "started with other settings: model.rate" in row["failed"]


# --- budgets ------------------------------------------------------------------------------------------------------


def test_pictures_are_steps_times_batch(presets, tmp_path) -> None:
    (row,) = study([presets["draws"]], out=tmp_path / "s", pictures=5, **ABOUT)["rows"]
    assert (row["steps"], row["pictures"]) == (3, 6)


def test_minutes_are_measured_once_and_kept(presets, tmp_path, monkeypatch) -> None:
    asked: list[float] = []

    def speed(config, packs, device, seconds):
        asked.append(seconds)
        return 4.0

    monkeypatch.setattr(module, "steps_per_second", speed)
    call = lambda: study([presets["draws"]], out=tmp_path / "s", minutes=0.02, seeds=(0, 1), **ABOUT)
    (row,) = call()["rows"]
    assert row["steps"] == 4  # of 1.2 seconds
    assert Run.open(tmp_path / "s" / "runs" / "draws-0").last.is_file()
    assert asked == [pytest.approx(0.05 * 1.2)]
    assert call()["rows"] == [row]
    assert len(asked) == 1


def test_the_speed_is_that_of_whole_cycles(presets, monkeypatch) -> None:
    steps: list[int] = []
    clock = iter(range(0, 1000, 10))
    real = module.loop.update

    def update(trainee, batch, watch):
        steps.append(batch.step)
        return real(trainee, batch, watch)

    monkeypatch.setattr(module.loop, "update", update)
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    settings = module.configs.load(presets["draws"], ["batch=2"])
    speed = steps_per_second(settings, PACKS, "cpu", 15.0)
    assert (len(steps) - 1) % 2 == 0  # phase R of the toy is due in every second step
    assert len(steps) > 1
    assert speed > 0


def test_a_first_phase_keeps_its_share_of_the_steps() -> None:
    settings = module.configs.load("aggan", ["steps=100"])
    assert settings.model.attention_steps == 30_000
    cut = module.configs.load("aggan")
    short = module.of_length(cut, 2000, 5)
    assert (short.train.steps, short.train.seed, short.model.attention_steps) == (2000, 5, 600)
    assert module.of_length(settings, 50).model.attention_steps == 50  # never anything else
    assert module.of_length(cut, 2000, sets=["model.attention_steps=30000"]).model.attention_steps == 30_000
    assert module.of_length(cut, 2000, sets=["attention_steps=30000"]).model.attention_steps == 30_000
    forever = module.configs.load("aggan", ["attention_steps=null"])
    assert module.of_length(forever, 2000).model.attention_steps is None
    assert module.of_length(module.configs.load("cartoongan"), 1100).model.initial_steps == 100


def test_the_speed_of_a_first_phase_counts_for_its_share(monkeypatch) -> None:
    asked: list[int] = []

    def speed(config, packs, device, seconds):
        asked.append(config.model.initial_steps)
        return 10.0 if config.model.initial_steps > 1 else 2.0

    monkeypatch.setattr(module, "_speed", speed)
    settings = module.configs.load("cartoongan", ["steps=100", "initial_steps=25"])
    assert steps_per_second(settings, {}, "cpu", 1.0) == pytest.approx(1 / (0.25 / 10 + 0.75 / 2))
    assert asked == [101, 1]
    plain = module.configs.load("cartoongan", ["steps=100", "initial_steps=0"])
    assert steps_per_second(plain, {}, "cpu", 1.0) == 2.0


# --- what was asked for ---------------------------------------------------------------------------------------------


def test_a_preset_can_be_varied_under_a_label(presets, tmp_path) -> None:
    entries = module._entries(["demo", "demo:channels=8,train.enlarge=1", presets["draws"]])
    assert entries[1] == Entry("demo channels=8 train.enlarge=1", "demo", ("channels=8", "train.enlarge=1"))
    assert [entry.folder(2) for entry in entries] == [
        "demo-2",
        "demo-channels-8-train.enlarge-1-2",
        "draws-2",
    ]
    lists = module._entries(["a:x=[1,2],y=3"])[0]
    assert lists.sets == ("x=[1,2]", "y=3")
    names = [presets["draws"], f"{presets['draws']}:rate=0.01"]
    found = study(names, out=tmp_path / "s", steps=1, **ABOUT)
    assert [row["preset"] for row in found["rows"]] == ["draws", "draws rate=0.01"]
    assert Run.open(tmp_path / "s" / "runs" / "draws-rate-0.01-0").config()["model"]["rate"] == 0.01


def test_first_weights_go_where_the_method_takes_them(done, presets, tmp_path) -> None:
    init = done[1] / "runs" / "makes-0" / "last.safetensors"
    found = study([presets["makes"], presets["draws"]], out=tmp_path / "s", steps=1, init=init, **ABOUT)
    assert [row["init"] for row in found["rows"]] == [str(init), None]
    assert Run.open(tmp_path / "s" / "runs" / "makes-0").facts()["init"]["path"] == str(init)
    assert Run.open(tmp_path / "s" / "runs" / "draws-0").facts()["init"] is None
    assert any("without first weights" in note and "draws" in note for note in found["notes"])
    shapeless = tmp_path / "shapeless.yaml"  # the shape comes with the first weights, and counts
    shapeless.write_text(f"method: stylegan\ntrain: {{{SHORT}}}\n")
    again = study([str(shapeless)], out=tmp_path / "u", steps=1, init=init, **ABOUT)
    assert again["rows"][0]["parameters"] == found["rows"][0]["parameters"]
    with pytest.raises(Problem, match="no preset is"):
        study([presets["draws"]], out=tmp_path / "t", steps=1, init=init, **ABOUT)


def test_generators_need_no_photos(presets, tmp_path) -> None:
    about = {**ABOUT, "photos": None}
    found = study([presets["makes"]], out=tmp_path / "s", steps=1, **about)
    assert "kid" in found["rows"][0]
    assert "untranslated" not in found


BAD: list[tuple[dict[str, Any], str]] = [
    ({"presets": []}, "no preset"),
    ({"presets": ["demi"]}, "unknown preset 'demi'"),
    ({"presets": ["demo", "demo"]}, "each preset once"),
    ({"presets": ["demo:chanels=3"]}, "unknown key 'chanels'"),
    ({"steps": None}, "the budget is none"),
    ({"pictures": 7}, "steps = 3 and pictures = 7"),
    ({"steps": 0}, "steps = 0"),
    ({"steps": None, "minutes": float("nan")}, "minutes = nan"),
    ({"seeds": ()}, "seeds none"),
    ({"seeds": (1, 1)}, "seeds 1 1"),
    ({"sets": ["steps=9"]}, "--steps, --pictures or --minutes"),
    ({"sets": ["train.seed=9"]}, "--seeds"),
    ({"photos": None}, "--photos"),
    ({"photos": PACKS["drawings"]}, "prepared as drawings"),
    ({"drawings": "nowhere"}, "nowhere"),
    ({"features": "tyni"}, "tyni"),
    ({"features": []}, "no feature network"),
    ({"weights": "first"}, "'first'"),
    ({"samples": 1}, "samples is 1"),
    ({"init": "nowhere.safetensors"}, "nowhere"),
    ({"device": "gpu"}, "'gpu'"),
]


@pytest.mark.parametrize(("wrong", "told"), BAD, ids=[told for _, told in BAD])
def test_bad_input_leaves_nothing_behind(wrong, told, tmp_path) -> None:
    about = {"presets": ["demo"], "steps": 3, "out": tmp_path / "s", **ABOUT, **wrong}
    with pytest.raises(Problem, match=re.escape(told)) as caught:
        study(**about)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Problem, match="something else than a study"):
        study(["demo"], out=tmp_path, steps=3, **ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(Problem, match="damaged"):
        study(["demo"], out=tmp_path, steps=3, **ABOUT)


def test_the_command(done, presets, tmp_path, capsys, monkeypatch) -> None:
    for side, made in PACKS.items():
        made.save(tmp_path / side)
    words = ["study", presets["draws"], presets["groups"], "--photos", tmp_path / "photos", "--drawings"]
    words += [
        tmp_path / "drawings",
        "--out",
        tmp_path / "s",
        "--steps",
        "1",
        "--device",
        "cpu",
        "--seeds",
        "0",
    ]
    assert cli.main([*map(str, words), "--json"]) == 2
    told = capsys.readouterr()
    assert [row["preset"] for row in json.loads(told.out)["rows"]] == ["draws", "groups"]
    assert "fewtoon: groups: this method needs groups" in told.err
    words.remove(presets["groups"])
    assert cli.main([*map(str, words)]) == 0
    assert "study.html" in capsys.readouterr().out
    for wrong in (["--minutes", "3"], ["--steps", "1", "--set", "seed=3"]):
        try:
            code = cli.main([*map(str, words), *wrong])
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        assert (code, told.out, told.err.count("\n")) == (2, "", 1)


# --- rows and words -------------------------------------------------------------------------------------------------


def test_the_deviation_is_that_of_the_subsets() -> None:
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(40, 6)), random.normal(0.3, 1, size=(60, 6))
    found = distance.kid(real, fake, seed=3, subset_size=10)
    generator = np.random.Generator(np.random.PCG64(3))
    picks = [distance._picks(generator, n, n // 4, 101) for n in (40, 60)]
    estimates = 1000 * distance._unbiased_mmd2(real, fake, *picks)
    expected = np.sqrt(np.mean((estimates[1:] - estimates[0]) ** 2))
    got = distance.subset_deviation(found.value, found.high, 40, 60, found.subset_size)
    assert got == pytest.approx(expected, rel=1e-6)


def entry(kid: float, **more: Any) -> dict[str, Any]:
    """What `evaluate` gives for all pictures, by hand."""
    ends = {"kid_interval": [kid - 2, kid + 2], "n_real": 40, "n_fake": 40, "subset_size": 20}
    return {"kid": kid, "fid": 3 * kid, **ends, **more}


def evaluated(kid: float, kept: float, rank1: float) -> dict[str, Any]:
    read = lambda share: {"attributes": {"glasses": {"kept": share}, "beard": {"kept": None}}}
    who = {"rank1": rank1, "chance": 0.1, "rank1_in_group": None, "chance_in_group": None}
    metrics = {"all": entry(kid, identity=who, **read(kept)), "a": read(kept + 0.1), "b": read(kept - 0.1)}
    facts = {"protocol": {"size": 16}, "summary": {"kid_mean_of_groups": kid + 1}}
    return {"metrics": metrics, **facts, "memorisation": {"ratio": 0.5}}


def test_a_row_has_means_and_spreads_over_seeds() -> None:
    facts = {"steps": 5, "pictures": 10, "seconds": 4.0, "parameters": {"drawing": 1, "all": 2}}
    results = [(facts, evaluated(10, 0.8, 0.2)), ({**facts, "peak_memory": 7}, evaluated(14, 0.4, 0.4))]
    row = rows.row(results)
    assert row["kid"] == {"mean": 12, "spread": pytest.approx(8**0.5), "interval": [10, 14]}
    assert row["kid_mean_of_groups"]["mean"] == 13
    assert row["attributes"] == {
        "glasses": {"kept": pytest.approx(0.6), "worst": {"group": "b", "kept": pytest.approx(0.5)}}
    }
    assert row["identity"]["rank1"] == pytest.approx(0.3)
    assert row["identity"]["rank1_in_group"] is None
    assert row["peak_memory"] == 7
    assert rows.row(results[:1])["kid"]["spread"] is None
    told = {column.title: column.cell({"preset": "x", **row}) for column in table._columns({"rows": [row]})}
    assert told["KID × 1000"] == ("12", "10 … 14; ± 2.83 over seeds")
    assert told["glasses kept"] == ("60 %", "50 % in b")
    assert told["right person first"] == ("30 %", "chance 10 %")


def shown(*kids: tuple[str, float, float]) -> dict[str, Any]:
    """A result with nothing but distances."""
    made = [
        {
            "preset": name,
            "against": "drawings",
            "kid": {"mean": kid, "spread": None, "interval": [kid - reach, kid + reach]},
        }
        for name, kid, reach in kids
    ]
    return {"rows": made}


def test_the_headline_does_not_name_a_winner_by_chance() -> None:
    assert table.headline(shown(("a", 5, 1), ("b", 9, 1))).endswith("by more than chance.")
    told = table.headline(shown(("a", 5, 3), ("b", 9, 3), ("c", 50, 1)))
    assert told.startswith("a is closest")
    assert "but b may be as close" in told
    assert "c" not in told.split("but", 1)[1].split("may")[0]
    assert table.headline({"rows": [{"preset": "a", "failed": "x"}]}) == "No preset has a figure."


def test_the_headline_praises_nothing_that_is_worse_than_doing_nothing() -> None:
    def row(name: str, kid: float) -> dict:
        told = {"mean": kid, "spread": None, "interval": [kid - 1, kid + 1]}
        return {"preset": name, "against": "drawings", "generates": False, "kid": told}

    rows = [row("a", 600.0), row("b", 900.0)]
    told = table.headline({"rows": rows, "untranslated": {"kid": {"mean": 159.0}}})
    assert told.startswith(
        "No preset is closer to the real drawings than the photos as they were (KID × 1000 159)"
    )
    assert "a is closest" in table.headline({"rows": rows, "untranslated": {"kid": {"mean": 700.0}}})


def test_names_cannot_inject_html_or_break_the_table(done) -> None:
    hostile = "<script>alert(1)</script> a|b"
    made = [{**row, "preset": hostile} for row in done[0]["rows"]]
    result = {**done[0], "rows": made}
    page = table.html(result, {"Faces": {hostile: np.zeros((1, 4, 4, 3), np.uint8)}})
    assert "<script" not in page
    text = table.markdown(result)
    assert "<script" not in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1

"""The tab Explore: what the sliders draw is what the command line draws."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import fewtoon
import translators
from fewtoon import style as styles
from fewtoon.app import caption
from fewtoon.app.caption import LONGEST, captioned
from fewtoon.app.shelf import Shelf
from fewtoon.app.tabs.explore import NAMED, NONE, Room, Settings
from fewtoon.errors import Problem
from fewtoon.latent import named
from fewtoon.latent.bench import KEPT, SWAPS, Bench, Last, Wish
from fewtoon.latent.blend import Recipe, blend
from fewtoon.latent.chain import Link
from fewtoon.latent.codes import of_seeds
from fewtoon.latent.direction import Direction
from fewtoon.latent.edit import edit
from fewtoon.latent.mix import mixed
from fewtoon.latent.move import Move, move
from fewtoon.latent.sample import sample
from fewtoon.latent.sefa import sefa
from fewtoon.latent.text import Recipe as Words
from generators import SIZE, make
from studios import Visitor, chromium, needs_browser, studio
from test_edit import needs_library, small


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with a direction called hair, another of its family, one with groups, and a translator."""
    top = tmp_path_factory.mktemp("explore")
    styles.write(top / "faces.safetensors", make(1), {})
    styles.write(top / "drawn.safetensors", make(2), {})
    styles.write(top / "grouped.safetensors", make(3, ("women", "men"), conditional=True), {})
    vector = torch.zeros(8)
    vector[3] = 1.0
    hair = Direction(vector, 0.7, (0, 1, 2), 6, (-2.0, 4.0))
    named.save(named.place(top / "faces.safetensors"), {"hair": hair})
    translators.save(top / "ink.safetensors", size=32, framing="as-is")
    return top


@pytest.fixture
def room(folder: Path, tmp_path: Path) -> Room:
    torch.set_num_threads(1)
    return Room(Shelf(sorted(folder.glob("*[a-z].safetensors")), device="cpu", save=tmp_path / "saved"))


def settings(**changes: Any) -> Settings:
    start = Settings(
        "faces", NONE, 0, 0.7, False, 1, "4px-8px", "sefa", 0, "all", 0, NONE, "8 px", 0, "", 0, NONE, "", "",
        (0.0,) * NAMED,
    )  # fmt: skip
    return start._replace(**changes)


def values(of: Settings) -> list[Any]:
    return [*of[:-1], *of.named]


def page(room: Room, of: Settings) -> str:
    """HTML of the picture. Raises Problem with what is told in its place."""
    found, told = room.draw(*values(of))
    if told:
        raise Problem(told)
    return str(found)


def pixels(found: str, number: int = -1) -> np.ndarray:
    """A picture on the page."""
    data = found.split("data:image/png;base64,")[1:]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data[number].split('"')[0]))))


def drawn(room: Room, **changes: Any) -> np.ndarray:
    return pixels(page(room, settings(**changes)))


# --- the same pictures as the command line's -----------------------------------------------------------------------


def test_a_seed_is_the_picture_of_sample(room: Room, folder: Path, tmp_path: Path) -> None:
    sample(
        [folder / "faces.safetensors"], tmp_path / "s", seeds=[5], truncation=[0.5], single=True, device="cpu"
    )
    (file,) = (path for path in (tmp_path / "s").rglob("*.png") if path.name != "sheet.png")
    found = page(room, settings(seed=5, truncation=0.5))
    assert base64.b64decode(found.split("base64,")[1].split('"')[0]) == file.read_bytes()
    assert not np.array_equal(drawn(room, seed=6, truncation=0.5), pixels(found))


def test_a_group_is_drawn(room: Room, folder: Path) -> None:
    style = fewtoon.load(folder / "grouped.safetensors", "cpu")
    z = style.method.latents(1, 3)
    own = styles.to_pixels(style.sample(z, 0.7, "men"))[0]
    assert np.array_equal(drawn(room, style="grouped", group="men", seed=3), own)


def test_named_sliders_are_those_of_move(room: Room, folder: Path, tmp_path: Path) -> None:
    update = room.choose("faces", "")[7]
    found = [update[key] for key in ("label", "minimum", "maximum", "visible")]
    assert found == ["hair", -2.0, 4.0, True]
    where = tmp_path / "m"
    move([folder / "faces.safetensors"], where, [Move("hair", (1.5, 1.5))], seeds=[4], steps=2, device="cpu")
    from safetensors.torch import load_file

    w = load_file(where / "latents.safetensors")["faces.w"][1:]
    own = styles.to_pixels(fewtoon.load(folder / "faces.safetensors", "cpu").synthesis(w))[0]
    assert np.array_equal(drawn(room, seed=4, named=(1.5, *(0.0,) * (NAMED - 1))), own)


@pytest.mark.parametrize("by", ["sefa", "ganspace"])
def test_components(room: Room, folder: Path, by: str) -> None:
    source = room.shelf.source("faces")
    still, far = (drawn(room, seed=2, by=by, component=1, strength=s, layers="4px-8px") for s in (0, 3))
    assert np.abs(still.astype(int) - far).max() > 2
    if by == "sefa":
        direction = sefa(source.style, range(8), layers=(0, 1, 2))[1]
        wish = Wish(2, moves=[(direction, 3.0)])
        assert np.array_equal(far, Bench().picture(source, wish))


def test_a_second_parent_gives_its_layers(room: Room) -> None:
    source = room.shelf.source("faces")
    w = mixed(of_seeds(source, [2]).w, of_seeds(source, [9]).w, (0, 1, 2))
    own = styles.to_pixels(source.style.synthesis(source.method.truncated(w, 0.7)))[0]
    assert np.array_equal(drawn(room, seed=2, parent=True, other=9), own)
    assert np.array_equal(drawn(room, seed=2, parent=False, other=9), drawn(room, seed=2))


def test_a_swap_is_drawn_and_saved_as_a_style(room: Room, folder: Path, tmp_path: Path) -> None:
    low, high = (fewtoon.load(folder / f"{name}.safetensors", "cpu") for name in ("faces", "drawn"))
    made = blend(low, high, Recipe(8, 0.5))
    own = styles.to_pixels(made.sample(low.method.latents(1, 7), 0.7))[0]
    wish = settings(seed=7, swap="drawn", resolution="8 px", width=0.5)
    assert np.array_equal(pixels(page(room, wish)), own)
    assert "saved as both.safetensors" in room.save_style("both", *values(wish))
    again = fewtoon.load(tmp_path / "saved" / "both.safetensors", "cpu")
    assert np.array_equal(styles.to_pixels(again.sample(low.method.latents(1, 7), 0.7))[0], own)
    assert again.header["made_of"]["high"]["file"] == "drawn.safetensors"
    assert "both" in room.generators()
    with pytest.raises(Problem, match=r"there is a 'both\.safetensors' already"):
        room.save_style("both", *values(wish))


def test_a_picture_goes_on_to_a_translator(room: Room, folder: Path) -> None:
    source = fewtoon.load(folder / "faces.safetensors", "cpu")
    picture = styles.to_pixels(source.sample(source.method.latents(1, 1), 0.7))[0]
    (own,) = Link(fewtoon.load(folder / "ink.safetensors", "cpu")).draw([picture], [None])
    found = page(room, settings(seed=1, translator="ink"))
    assert np.array_equal(pixels(found, 0), picture)
    assert own is not None
    assert np.array_equal(pixels(found, 1), own.drawing)


@needs_library
def test_words_are_those_of_edit(folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    clip = small(tmp_path / "clip")
    room = Room(Shelf([folder / "faces.safetensors"], device="cpu", clip=clip))
    key = room.edit("a smiling face", "", 10, *values(settings(seed=3)))
    recipe = Words("a smiling face", steps=10, identity=0)
    where = tmp_path / "e"
    edit(
        folder / "faces.safetensors",
        recipe,
        clip,
        where,
        seeds=[3],
        strengths=[1.0],
        device="cpu",
        single=True,
    )
    (own,) = (
        path for path in where.rglob("*.png") if path.name != "sheet.png" and "1" in path.stem.split("-")[-1]
    )
    found = drawn(room, seed=3, edit=key, alpha=1.0)
    assert np.abs(found.astype(int) - np.asarray(Image.open(own))).max() <= 1
    assert np.array_equal(drawn(room, seed=3, edit=key, alpha=-1), drawn(room, seed=3))
    with pytest.raises(Problem, match="this edit is no longer here"):
        drawn(room, edit="x")


# --- the widgets ---------------------------------------------------------------------------------------------------


def test_a_slider_can_rest(room: Room, tmp_path: Path) -> None:
    """A direction of which only strengths far from 0 were looked at."""
    styles.write(tmp_path / "other.safetensors", make(4), {})
    vector = torch.zeros(8)
    vector[0] = 1.0
    one = Direction(vector, 1.0, (0,), 6, (1.0, 3.0))
    named.save(
        named.place(tmp_path / "other.safetensors"),
        {"old": one, "young": replace(one, vector=-vector, range=(-3.0, -1.0))},
    )
    room.shelf.add(tmp_path / "other.safetensors")
    old, young = room.choose("other", "faces")[7:9]
    assert (old["minimum"], old["maximum"], young["minimum"], young["maximum"]) == (0.0, 3.0, -3.0, 0.0)
    still = drawn(room, style="other")
    assert not np.array_equal(still, drawn(room, style="other", named=(3.0, *(0.0,) * (NAMED - 1))))


def test_directions_without_a_slider_are_told(room: Room, tmp_path: Path) -> None:
    styles.write(tmp_path / "rich.safetensors", make(4), {})
    one = Direction(torch.eye(8)[0], 1.0, (0,), 6, (-1.0, 1.0))
    count = NAMED + 2
    named.save(named.place(tmp_path / "rich.safetensors"), {f"way{i:02}": one for i in range(count)})
    room.shelf.add(tmp_path / "rich.safetensors")
    chosen = room.choose("rich", "faces")
    assert [slider["label"] for slider in chosen[7:]] == [f"way{i:02}" for i in range(NAMED)]
    assert f"way{NAMED}, way{NAMED + 1}" in chosen[6]
    assert room.choose("faces", "rich")[6] == ""


def test_what_comes_later_is_found(folder: Path) -> None:
    room = Room(Shelf([folder / "ink.safetensors"], device="cpu"))
    missing, desk, style, translator = room.lists(None)
    assert (missing["visible"], desk["visible"], style["value"]) == (True, False, None)
    assert translator["choices"] == [NONE, "ink"]
    assert room.choose(None, "")[0] == ""
    assert room.draw(*values(settings(style=None)))[1] == ""
    room.shelf.add(folder / "faces.safetensors")
    room.shelf.add(folder / "drawn.safetensors")
    missing, desk, style, _ = room.lists(None)
    assert (missing["visible"], desk["visible"], style["value"]) == (False, True, "faces")
    assert room.lists("drawn")[2]["value"] == "drawn"
    chosen = room.choose("faces", "")
    assert (chosen[0], chosen[3]["choices"], chosen[3]["value"]) == ("faces", [NONE, "drawn"], NONE)
    again = room.choose("faces", "faces")
    assert again[3]["choices"] == [NONE, "drawn"]
    assert "value" not in again[3]
    assert len(again) == len(chosen)


def test_little_is_remembered(room: Room) -> None:
    for k in range(KEPT + 2):
        drawn(room, swap="drawn", width=k / 16)
        room.bench.component(room.shelf.source("faces"), "sefa", 0, f"0-{k % 6}", None)
    assert len(room.bench._made._kept) == SWAPS
    assert len(room.bench._pairs._kept) == 1
    assert len(room.bench._found._kept) == 6
    last: Last[int] = Last(2)
    assert [last.get(k, lambda k=k: k) for k in (1, 2, 1, 3)] == [1, 2, 1, 3]  # type: ignore[misc]
    assert last.get(1, lambda: 0) == 1
    assert last.get(2, lambda: 0) == 0


# --- captions ---------------------------------------------------------------------------------------------------


def test_captions_are_written_and_fit() -> None:
    picture = np.full((256, 256, 3), 90, np.uint8)
    assert captioned(picture) is picture
    assert captioned(picture, "  ", "") is picture
    for text in ("hello", "word " * 30, "w" * LONGEST, "ÄÖÜ ß ñ \u200b"):
        found = captioned(picture, text, "below")
        assert found.shape == (512, 512, 3)
        assert (found != 90).any(axis=(1, 2))[:256].any()
        assert (found != 90).any(axis=(1, 2))[256:].any()
        assert (found[:, :2] == 90).all(), "it touches the edge"
    with pytest.raises(Problem, match="201 characters: at most 200"):
        captioned(picture, "x" * 201)


def test_captions_are_written_in_a_font_that_has_their_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.full((512, 512, 3), 90, np.uint8)
    own = captioned(picture, "hello")
    assert np.array_equal(captioned(picture, "he\u202ello\u200b\ufe0f\a"), own)
    assert np.array_equal(captioned(picture, "u\u0308"), captioned(picture, "ü"))
    with pytest.raises(
        Problem, match=r"no font of this machine has '\\U0010fffd': leave it out of the caption"
    ):
        captioned(picture, "a \U0010fffd b")
    monkeypatch.setattr(caption, "FONTS", ())
    with pytest.raises(Problem, match="no font of this machine has 'שלום'"):
        captioned(picture, "a שלום", "b")
    # Whatever fonts this machine has: one that has the letters is taken, and one that lacks them is not.
    fonts = {
        None: ImageFont.load_default,
        "lacks": ImageFont.load_default,
        "has": lambda p: Letters(p, "שלום"),
    }
    asked: list[str | None] = []

    def opened(name: str | None, points: int) -> Any:
        asked.append(name)
        if name not in fonts:
            raise OSError("cannot open resource")
        return fonts[name](points)

    monkeypatch.setattr(caption, "FONTS", ("nowhere", "lacks", "has"))
    monkeypatch.setattr(caption, "_font", opened)
    assert not np.array_equal(captioned(picture, "a שלום"), captioned(picture, "a"))
    assert asked[:4] == [None, "nowhere", "lacks", "has"]


class Letters:
    """A font that draws the same for whatever letters it has besides those of Pillow's own."""

    def __init__(self, points: int, letters: str) -> None:
        self.font, self.table = ImageFont.load_default(points), str.maketrans(letters, "x" * len(letters))

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.font, name)
        if not callable(real):
            return real
        return lambda text, *args, **options: real(text.translate(self.table), *args, **options)


def test_a_picture_is_saved_where_it_may_be(room: Room, tmp_path: Path) -> None:
    shown = settings(seed=3, above="hi")
    assert "saved as funny.png" in room.save_picture("funny", *values(shown))
    saved = np.asarray(Image.open(tmp_path / "saved" / "funny.png"))
    assert np.array_equal(saved, pixels(page(room, shown)))
    for name in ("../x", "", "a/b", ".hidden", "a\0b", "x" * 81, "CON.", "a..b", str(tmp_path)):
        with pytest.raises(Problem, match=r"use up to 80 letters|choose another name"):
            room.save_picture(name, *values(shown))
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["funny.png"]


# --- what a page may not say --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"style": "../faces.safetensors"}, "no style"),
        ({"style": "ink"}, "ink"),
        ({"group": "men"}, "every group alike"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 0.5}, "seed 0.5: give a whole number"),
        ({"seed": None}, "seed is empty: give a whole number from 0"),
        ({"seed": 1e30}, "seed 1e+30: give a whole number from 0 to 2147483647"),
        ({"strength": None}, "strength is empty: give a number from -6 to 6"),
        ({"seed": "7"}, "seed 7"),
        ({"seed": True}, "seed True"),
        ({"truncation": float("nan")}, "truncation nan"),
        ({"truncation": 99}, "truncation 99"),
        ({"strength": 1e9}, "strength"),
        ({"strength": 1, "component": 99}, "component 99"),
        ({"strength": 1, "by": "evil"}, "sefa or ganspace"),
        ({"strength": 1, "layers": "1" * 5000}, "layers '111"),
        ({"parent": True, "mix_layers": "x"}, "layers 'x'"),
        ({"swap": "nobody"}, "no style 'nobody'"),
        ({"swap": "drawn", "resolution": "7 px"}, "resolution '7 px'"),
        ({"swap": "drawn", "width": -1}, "smoothness"),
        ({"swap": "nobody else"}, "no style"),
        ({"translator": "faces"}, "translates no photos"),
        ({"named": (5.0, *(0.0,) * (NAMED - 1))}, "hair 5"),
        ({"seed": 2**31}, "seed 2147483648: give a whole number from 0 to 2147483647"),
        ({"above": "x" * 201}, "201 characters"),
    ],
)
def test_values_of_an_enemy(room: Room, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem) as refused:
        drawn(room, **changes)
    assert told in html.unescape(str(refused.value))


# --- a person -----------------------------------------------------------------------------------------------------


@needs_browser
def test_a_person_explores(folder: Path, tmp_path: Path) -> None:
    paths = [folder / f"{name}.safetensors" for name in ("faces", "drawn", "ink")]
    with studio(paths, save=tmp_path / "saved") as url, chromium() as browser:
        visitor = Visitor(browser, url)
        page = visitor.page
        visitor.tab("Explore")
        shown = page.locator(".bench img").last

        def changed(before: str) -> str:
            page.wait_for_function(
                "before => [...document.querySelectorAll('.bench img')].pop()?.src !== before", arg=before
            )
            return str(shown.get_attribute("src"))

        shown.wait_for()
        first = str(shown.get_attribute("src"))
        page.get_by_label("Seed", exact=True).fill("5")
        now = changed(first)
        for wrong, told in (
            ("1.5", "seed 1.5: give a whole number"),
            ("", "seed is empty: give a whole number"),
        ):
            page.get_by_label("Seed", exact=True).fill(wrong)
            page.locator(".bench .notes").get_by_text(told).wait_for()
            assert shown.get_attribute("src") == now
        page.get_by_label("Seed", exact=True).fill("5")
        page.locator(".bench .notes").wait_for(state="hidden")
        page.get_by_role("slider", name="hair").press("ArrowRight")
        still, now = now, changed(now)
        page.get_by_role("button", name="Reset to default value").nth(1).click()
        assert changed(now) == still
        page.get_by_role("slider", name="hair").press("ArrowRight")
        assert changed(still) == now
        page.get_by_label("number input for Truncation").fill("99")
        page.locator(".bench .notes").get_by_text("truncation 99: give a number from 0 to 1.5").wait_for()
        page.keyboard.press("Tab")
        page.get_by_role("button", name="Reset to default value").first.click()
        page.locator(".bench .notes").wait_for(state="hidden")
        page.wait_for_function(
            "now => [...document.querySelectorAll('.bench img')].pop()?.src === now", arg=now
        )
        page.get_by_label("Style", exact=True).focus()
        page.get_by_role("option", name="faces").wait_for()
        page.keyboard.press("Tab")
        page.get_by_role("option", name="faces").wait_for(state="detached")
        page.get_by_role("button", name="Components").click()
        page.get_by_label("number input for Component").fill("1000000000")
        page.keyboard.press("Tab")
        assert page.get_by_label("number input for Component").input_value() == "7"
        page.wait_for_timeout(500)  # nobody presses a key while it opens: what is in it has just been made
        page.get_by_role("slider", name="Strength").press("ArrowRight")
        now = changed(now)
        page.get_by_role("button", name="Swap layers").click()
        page.get_by_label("Style above the resolution").click()
        page.get_by_role("option", name="drawn").click()
        now = changed(now)
        bare = now
        page.get_by_role("button", name="Caption").click()
        page.get_by_label("Above", exact=True).press_sequentially("Hello")
        now = changed(now)
        page.get_by_label("Above", exact=True).press("Backspace")
        now = changed(now)
        page.get_by_label("Above", exact=True).press("ControlOrMeta+a")
        page.keyboard.insert_text("as a whole")  # as when it is pasted
        changed(now)
        page.get_by_label("Above", exact=True).press("ControlOrMeta+a")
        page.keyboard.press("Delete")
        page.wait_for_function(
            "now => [...document.querySelectorAll('.bench img')].pop()?.src === now", arg=bare
        )
        page.get_by_role("button", name="Save").first.click()
        page.get_by_label("Name", exact=True).fill("my own")
        page.get_by_role("button", name="Save the swap as a style").click()
        page.get_by_text("saved as my own.safetensors").wait_for()
        assert fewtoon.load(tmp_path / "saved" / "my own.safetensors", "cpu").size == SIZE
        link = page.locator(".bench a.save")
        assert link.get_attribute("download") == "faces-5.png"
        assert link.get_attribute("href") == shown.get_attribute("src")
        before = str(shown.get_attribute("src"))
        page.get_by_role("button", name="Another", exact=True).click()
        changed(before)
        page.get_by_label("Style", exact=True).click()
        page.get_by_role("option", name="my own").wait_for()
        page.keyboard.press("Escape")

        layers = page.get_by_label("Layers").first
        layers.fill("7px")
        layers.press("Enter")
        page.locator(".bench .notes").get_by_text("'7px' is not in this style").wait_for()
        shown.wait_for()
        layers.fill("4px")
        layers.press("Enter")
        page.locator(".bench .notes").wait_for(state="hidden")

        page.evaluate("window.scrollTo(0, 1e6)")  # the picture stays in sight
        assert page.evaluate("scrollY > 300")
        assert 0 <= shown.bounding_box()["y"] < 100
        page.set_viewport_size({"width": 390, "height": 844})
        page.evaluate("window.scrollTo(0, 1e6)")
        assert 0 <= shown.bounding_box()["y"] < 100
        assert shown.bounding_box()["height"] < 422
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        visitor.leave()

"""The tab Translate, as a person and as a program use it."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import fewtoon
import generators
import translators
from fewtoon import style as styles
from fewtoon.app.server import addresses, listening
from fewtoon.app.shelf import Shelf
from fewtoon.app.studio import serve
from fewtoon.app.tabs.translate import FACES, SIDE_BY_SIDE, Easel
from fewtoon.draw import translate
from fewtoon.errors import Problem
from fewtoon.faces import finders, models
from fewtoon.io.images import save_png
from fewtoon.run import Run
from scripted import ScriptedFinder, person
from studios import Visitor, chromium, needs_browser, studio

GROUPS = ("women", "men")
needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Styles, one of them with groups, and photos."""
    top = tmp_path_factory.mktemp("translate")
    translators.save(top / "ink.safetensors", framing="portrait")
    translators.save(top / "flat.safetensors", 1, "groups", GROUPS, framing="portrait")
    wide = np.full((260, 620, 3), (150, 140, 130), np.uint8)
    for x, side in ((90, 14), (280, 64), (500, 60)):
        person(wide, x, 130, side)
    save_png(top / "us.png", wide)
    small = np.full((200, 200, 3), (150, 140, 130), np.uint8)
    person(small, 100, 100, 14)
    save_png(top / "small.png", small)
    save_png(top / "nobody.png", np.full((200, 200, 3), 150, np.uint8))
    return top


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
        patch.setattr(models, "available", lambda: False)
        with studio([folder / "ink.safetensors", folder / "flat.safetensors"]) as address:
            yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    client = Client(url, verbose=False)
    yield client
    client.close()


def sent() -> list[str]:
    """Files of clients that lie on the disk."""
    return [name for _, _, names in os.walk(os.environ["GRADIO_TEMP_DIR"]) for name in names]


def by_command(folder: Path, style: str, photo: str, out: Path, **options: Any) -> list[bytes]:
    result = translate(fewtoon.load(folder / style, "cpu"), folder / photo, out, **options)
    return [(out / name).read_bytes() for name in result["drawn"]]


PASTE = """async address => {
  const data = new DataTransfer();
  data.items.add(new File([await (await fetch(address)).blob()], "pasted.png", {type: "image/png"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""


@needs_browser
def test_a_person_draws(folder: Path, url: str, tmp_path: Path) -> None:
    with chromium() as browser:
        visitor = Visitor(browser, url)
        page = visitor.page
        page.locator("input[type=file]").first.set_input_files(folder / "us.png")
        page.locator(".compare").nth(2).wait_for()
        assert page.locator(".faces rect").count() == 3
        assert "3 faces found" in page.inner_text(".faces + p")
        assert "face 1: the face is small" in page.inner_text(".notes >> nth=0")
        looks = "e => [getComputedStyle(e).fill, getComputedStyle(e).fontSize]"
        assert page.locator(".faces text").nth(2).evaluate(looks) == [
            "rgb(255, 255, 255)",
            f"{620 / 22:.1f}px",
        ]
        links = page.locator("a.save")
        assert [links.nth(i).get_attribute("download") for i in range(3)] == [
            f"ink-{i}.png" for i in (1, 2, 3)
        ]
        drawn = [base64.b64decode(links.nth(i).get_attribute("href").split(",")[1]) for i in range(3)]
        assert drawn == by_command(folder, "ink.safetensors", "us.png", tmp_path / "ink")
        assert sent() == []

        slider = page.get_by_label("before and after of face 1, ink")
        slider.press("ArrowRight")
        slider.press("ArrowRight")
        assert page.locator(".compare").first.evaluate("e => e.style.getPropertyValue('--cut')") == "52%"

        page.get_by_label("flat").check()
        page.locator(".compare").nth(5).wait_for()
        page.get_by_label("ink", exact=True).uncheck()
        page.wait_for_function("document.querySelectorAll('.compare').length === 3")
        group = page.get_by_label("Group")
        group.click()
        page.get_by_role("option", name="men", exact=True).click()
        page.wait_for_function("!document.querySelector('figcaption').innerText.includes('read as')")
        href = page.locator("a.save").first.get_attribute("href")
        own = by_command(folder, "flat.safetensors", "us.png", tmp_path / "flat", group="men")
        assert base64.b64decode(href.split(",")[1]) == own[0]
        page.get_by_label("Framing").click()
        page.get_by_role("option", name="as-is").click()
        page.wait_for_function("document.querySelectorAll('.compare').length === 1")
        page.get_by_text("choose the framing 'portrait'").wait_for()
        href = page.locator("a.save").first.get_attribute("href")
        whole = by_command(
            folder, "flat.safetensors", "us.png", tmp_path / "whole", group="men", framing="as-is"
        )
        assert [base64.b64decode(href.split(",")[1])] == whole
        page.screenshot(path=tmp_path / "desktop.png", full_page=True)

        page.get_by_label("Capture from camera").click()
        page.get_by_text("Click to Access Webcam").wait_for()
        page.get_by_label("Upload file").click()  # what opens the camera does not lie over it
        page.get_by_text("Drop Image Here").wait_for()

        us, small = (
            base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in ("us", "small")
        )
        page.evaluate(PASTE, f"data:image/png;base64,{us}")  # keys that are held down: the last one counts
        page.evaluate(PASTE, f"data:image/png;base64,{us}")
        page.evaluate(PASTE, f"data:image/png;base64,{small}")
        page.get_by_text("choose the framing 'portrait'").wait_for(state="detached")
        href = page.locator("a.save").first.get_attribute("href")
        pasted = by_command(
            folder, "flat.safetensors", "small.png", tmp_path / "s", group="men", framing="as-is"
        )
        assert [base64.b64decode(href.split(",")[1])] == pasted
        visitor.leave()


@needs_browser
def test_on_a_phone_with_a_webcam_and_photos_that_will_not_work(folder: Path, url: str) -> None:
    with chromium() as browser:
        visitor = Visitor(browser, url, 390, 844, permissions=["camera"], color_scheme="dark", is_mobile=True)
        page = visitor.page
        picker = page.locator("input[type=file]").first
        picker.set_input_files(folder / "nobody.png")
        page.get_by_text("no face was found in it").wait_for()
        picker.set_input_files(folder / "small.png")
        page.get_by_text("the face is small").wait_for()
        visitor.hears("done")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_label("Capture from camera").click()
        page.get_by_text("Click to Access Webcam").click()
        page.wait_for_function("document.querySelector('video').videoWidth > 0")
        page.get_by_label("capture photo").click()
        page.get_by_text("no face was found in it").wait_for()
        assert sent() == []
        visitor.leave()


def test_a_program_draws(folder: Path, client: Client, tmp_path: Path) -> None:
    photo = handle_file(str(folder / "us.png"))
    files, facts = client.predict(photo, "ink", "auto", api_name="/translate")
    own = by_command(folder, "ink.safetensors", "us.png", tmp_path / "own")
    assert [Path(file).read_bytes() for file in files] == own
    assert len(facts["faces"]) == 3
    assert facts["read_as"] == [None] * 3
    assert "the face is small" in facts["advice"][0][0]

    files, facts = client.predict(photo, "flat", "", api_name="/translate")
    assert [Path(f).read_bytes() for f in files] == by_command(
        folder, "flat.safetensors", "us.png", tmp_path / "g"
    )
    assert set(facts["read_as"]) <= set(GROUPS)
    assert client.predict(api_name="/styles") == {
        "ink": {"size": 64, "groups": []},
        "flat": {"size": 64, "groups": list(GROUPS)},
    }
    assert "sent" not in sent()  # what every upload is called there


def test_a_program_chooses_the_framing(folder: Path, client: Client, tmp_path: Path) -> None:
    photo = handle_file(str(folder / "us.png"))
    files, facts = client.predict(photo, "ink", "auto", "as-is", api_name="/translate")
    whole = by_command(folder, "ink.safetensors", "us.png", tmp_path / "whole", framing="as-is")
    assert [Path(file).read_bytes() for file in files] == whole
    assert facts["faces"] == [None]
    with pytest.raises(AppError, match="framing 'head'"):
        client.predict(photo, "ink", "auto", "head", api_name="/translate")
    with pytest.raises(AppError, match="no photo came: send one with handle_file"):
        client.predict(str(folder / "us.png"), "ink", "auto", api_name="/translate")


@pytest.mark.parametrize(
    ("photo", "style", "group", "told"),
    [
        ("us.png", "inc", "auto", "no style 'inc' here: did you mean 'ink'?"),
        ("us.png", "../ink.safetensors", "auto", "no style '../ink.safetensors' here"),
        ("us.png", "flat", "mem", "no group 'mem'; did you mean 'men'"),
        ("us.png", "ink", "men", "draws every group alike"),
        ("nobody.png", "ink", "auto", "no face was found"),
        ("ink.safetensors", "ink", "auto", "not a picture of a known format"),
    ],
)
def test_what_a_program_may_get_wrong(
    folder: Path, client: Client, photo: str, style: str, group: str, told: str
) -> None:
    with pytest.raises(AppError) as refused:
        client.predict(handle_file(str(folder / photo)), style, group, api_name="/translate")
    assert told in str(refused.value)
    assert "sent" not in sent()  # what every upload is called there


def test_each_style_fails_by_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
    monkeypatch.setattr(models, "available", lambda: False)
    names = [f"style {i}" for i in range(SIDE_BY_SIDE + 2)]
    files = [shutil.copy(folder / "ink.safetensors", tmp_path / f"{name}.safetensors") for name in names]
    shutil.copy(folder / "us.png", tmp_path / "us.png")
    easel = Easel(Shelf(files, device="cpu"))
    Path(files[0]).write_bytes(b"xy")
    key = easel.photos.take(str(tmp_path / "us.png"))
    told, photo, drawings = easel.show(key, names[:2], "auto")
    assert "'style 0' is not a style, or torn" in unescape(told)
    assert "copy it again" in told
    assert str(tmp_path) not in told
    assert "3 faces found" in photo
    assert drawings.count("<figure>") == 3
    told, photo, drawings = easel.show(key, names[:1], "auto")
    assert "style 0" in told
    assert (photo, drawings) == ("", "")
    told, _, drawings = easel.show(key, names[1:], "auto")
    assert f"{SIDE_BY_SIDE} styles are drawn at once: untick one of them for style 5" in told
    assert drawings.count("<figure>") == 3 * SIDE_BY_SIDE
    Path(files[0]).unlink()
    told, _, drawings = easel.show(key, names[:2], "auto")
    assert "the file of 'style 0' is gone: put it back" in unescape(told)
    assert drawings.count("<figure>") == 3


def test_styles_that_look_for_faces_and_others_side_by_side(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
    monkeypatch.setattr(models, "available", lambda: False)
    translators.save(tmp_path / "whole.safetensors", framing="as-is")
    easel = Easel(Shelf([folder / "ink.safetensors", tmp_path / "whole.safetensors"], device="cpu"))
    shown = {}
    for name in ("us.png", "nobody.png"):
        shutil.copy(folder / name, tmp_path / name)
        shown[name] = easel.take(str(tmp_path / name))[0]
    told, photo, drawings = easel.show(shown["us.png"], ["whole", "ink"], "auto")
    assert "only the middle square was drawn" in told
    assert "face 1: the face is small" in told
    assert "3 faces found" in photo
    heads = re.findall("<h3>(.*?)</h3>", drawings)
    assert heads == ["Face 1", "Face 2", "Face 3", "The whole photo"]
    assert re.findall("<figcaption>(.*?)</figcaption>", drawings) == ["ink", "ink", "ink", "whole"]
    told, photo, drawings = easel.show(shown["nobody.png"], ["ink", "whole"], "auto")
    assert "no face was found" in told
    assert photo == ""
    assert re.findall("<figcaption>(.*?)</figcaption>", drawings) == ["whole"]
    assert "<h3>" not in drawings


def test_a_program_is_told_of_names_and_not_of_paths(folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(folder / "ink.safetensors", tmp_path / "torn.safetensors")
    with studio([path, folder / "ink.safetensors"]) as address:
        Path(path).write_bytes(b"xy")
        one = Client(address, verbose=False)
        with pytest.raises(AppError) as refused:
            one.predict(handle_file(str(folder / "us.png")), "torn", "auto", api_name="/translate")
        one.close()
    assert "'torn' is not a style, or torn" in str(refused.value)
    assert "copy it again" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_shelf_speaks_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/it's", "deep/deeper", "here"):
        Path(name).mkdir(parents=True)
        Path(name, "pack.json").write_text("{}")
    monkeypatch.chdir("here")
    shelf = Shelf(["../a/it's", "../deep", "../deep/deeper", "."])
    for said, told in (
        ('pack "../a/it\'s" is torn', 'pack "it\'s" is torn'),
        ("'../deep/deeper/pack.json' is torn", "'deeper/pack.json' is torn"),
        ("'../deep' and '../deep/other' are. 0.5", "'deep' and 'deep/other' are. 0.5"),
        ("'.' is torn, './x' too", "'here' is torn, 'here/x' too"),
        ("'../deepest' is not here", "'../deepest' is not here"),
    ):
        assert shelf.said(Problem(said)) == told


def test_groups_that_a_style_draws_alike_are_not_offered(tmp_path: Path) -> None:
    path = translators.save(tmp_path / "plain.safetensors", groups=GROUPS)
    assert fewtoon.load(path, "cpu").header["groups"] == list(GROUPS)
    assert Easel(Shelf([path])).told() == {"plain": {"size": 64, "groups": []}}


def test_a_page_shows_the_largest_faces_of_a_crowd(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
    monkeypatch.setattr(models, "available", lambda: False)
    crowd = np.full((260, 160 * (FACES + 3), 3), (150, 140, 130), np.uint8)
    for i in range(FACES + 3):
        person(crowd, 160 * i + 80, 130, 20 if i in (0, 5, 9) else 40)
    save_png(tmp_path / "crowd.png", crowd)
    easel = Easel(Shelf([folder / "ink.safetensors"], device="cpu"))
    _, photo, drawings = easel.show(easel.photos.take(str(tmp_path / "crowd.png")), ["ink"], "auto")
    assert f"{FACES + 3} faces found, the {FACES} largest are drawn" in photo
    assert photo.count("<rect") == drawings.count("<figure>") == FACES
    widths = [float(one.split('"')[0]) for one in photo.split(' width="')[1:]]
    assert max(widths) < 2 * min(widths)  # the small ones are those that are missing
    save_png(tmp_path / "crowd.png", crowd)  # whatever is sent is deleted at once
    files, _ = easel.translate(str(tmp_path / "crowd.png"), "ink", "auto")
    assert len(files) == FACES + 3  # a program gets all


def test_a_style_that_draws_no_photos_is_not_offered_to_a_program(folder: Path, tmp_path: Path) -> None:
    styles.write(tmp_path / "faces.safetensors", generators.make(1), {})
    shutil.copy(folder / "us.png", tmp_path / "us.png")  # whatever is sent is deleted
    easel = Easel(Shelf([tmp_path / "faces.safetensors", folder / "ink.safetensors"], device="cpu"))
    with pytest.raises(Problem, match=r"'faces' draws random numbers, not photos"):
        easel.translate(str(tmp_path / "us.png"), "faces", "auto")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "203.0.113.1"}, "host '203.0.113.1' is no address of this machine"),
        ({"host": "a" * 70 + ".org"}, "is no address of this machine"),
        ({"host": "no such host"}, "host 'no such host' is no address of this machine"),
        ({"port": 70000}, "there is no port 70000"),
        ({"clip": "FILE.safetensors"}, "is torn or not safetensors"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)
def test_a_studio_does_not_start_with_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE.safetensors").write_text("x")
    with pytest.raises(Problem, match=told):
        serve(**{"port": 0, **options}, open_browser=False)


def test_a_studio_for_others_has_an_address_for_them() -> None:
    assert addresses("127.0.0.1", 7) == ["http://127.0.0.1:7/"]
    assert addresses("localhost", 7) == ["http://127.0.0.1:7/"]
    assert addresses("::1", 7) == ["http://[::1]:7/"]
    assert addresses("192.0.2.7", 7) == ["http://192.0.2.7:7/"]
    here, *others = addresses("0.0.0.0", 7)
    assert here == "http://127.0.0.1:7/"
    for other in others:  # of a machine that is in a network
        listening(0, urlsplit(other).hostname or "").close()  # its own
        assert "127." not in other
    assert addresses("::", 7)[0] == "http://[::1]:7/"


def test_things_of_the_same_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    for place in ("a/first", "b/first", "c/b/first"):
        Run(tmp_path / place).record({"method": "toy", "model": {}, "train": {}}, {"packs": {}})
        shutil.copy(folder / "ink.safetensors", tmp_path / place / "best.safetensors")
    for place in ("a", "b"):
        shutil.copy(folder / "ink.safetensors", tmp_path / place / "ink.safetensors")
    runs = [tmp_path / place / "first" for place in ("a", "b", "c/b", "a")]
    shelf = Shelf(
        [*runs, runs[1] / "best.safetensors", tmp_path / "a/ink.safetensors", tmp_path / "b/ink.safetensors"]
    )
    assert shelf.names("run") == ["first", "first (b)", "first (b, 2)"]
    assert shelf.names("style")[:3] == ["first (best)", "ink", "ink (b)"]
    for run in runs[:2]:
        (run / "report").mkdir()
        (run / "report" / "report.html").write_text("<p>")
    assert Shelf(runs[:2]).names("page") == ["first", "first (b)"]
    (runs[1] / "best.safetensors").unlink()
    with pytest.raises(Problem, match=r"'first \(b\)' has no style: its training has not come so far"):
        Shelf(runs[:2]).path("style", "first (b)")


def test_a_shelf_tells_what_is_damaged(tmp_path: Path) -> None:
    pack, run = tmp_path / "pack", tmp_path / "run"
    pack.mkdir()
    run.mkdir()
    (pack / "pack.json").write_text("[]")
    (run / "config.yaml").write_text("[")
    (tmp_path / "faces.directions.safetensors").write_text("x")
    shelf = Shelf([pack, run, tmp_path / "faces.directions.safetensors"])
    assert len(shelf.damaged()) == 3
    assert "cannot be read" in shelf.damaged()[2]
    assert "config.yaml' cannot be read" in shelf.damaged()[0]
    assert "has version None" in shelf.damaged()[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"paths": ["FILE.png"]}, "is a picture: name the folder that it lies in"),
        ({"paths": [""]}, "names nothing"),
        ({"paths": [os.devnull]}, "is neither a file nor a folder"),
        ({"paths": ["FILE"]}, "'FILE' is nothing that the studio knows: name styles, runs"),
        ({"paths": ["FILE.pth"]}, "'FILE.pth' is not a style, or torn .* 'fewtoon import'"),
        ({"paths": ["nowhere"]}, "does not exist"),
        ({"save": "FILE"}, "nothing can be saved there"),
        ({"save": "FILE/below"}, "nothing can be saved there"),
        pytest.param({"save": "/proc/below"}, "nothing can be saved there", marks=needs_proc),
        ({"clip": "nowhere.pt"}, "does not exist"),
    ],
)
def test_a_shelf_says_at_once_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("x")
    Path("FILE.png").write_text("x")
    Path("FILE.pth").write_text("x")
    with pytest.raises(Problem, match=told):
        Shelf(**options)

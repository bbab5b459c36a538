"""The marking page in a real browser: what a person does with the mouse and the keys is in the table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

from playwright import sync_api

from fewtoon.data import world
from fewtoon.data.marks import NAME, Marks
from fewtoon.data.pack import Pack
from fewtoon.data.prepare import prepare
from fewtoon.faces import finders, models
from fewtoon.io.images import read, save_png
from marking import RED, SIDE, Painted, Site, drawings, entry, rows, served, wait
from scripted import ScriptedFinder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser named chromium on the PATH")
NEAR = 1.5  # pixels of the picture


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return drawings(tmp_path / "drawings")


class Person:
    """Somebody in front of the page."""

    def __init__(
        self, browser: Any, site: Site, width: int = 1280, height: int = 800, **options: Any
    ) -> None:
        self.site = site
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)
        self.look()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.errors.append(message.text)

    def look(self) -> None:
        """Open the page, or load it again."""
        self.page.goto(self.site.url)
        self.until("picture !== null && document.querySelector('#tiles img').complete")

    def until(self, condition: str) -> None:
        """Wait until an expression is true (the page forbids what Playwright itself would wait with)."""
        wait(lambda: self.page.evaluate(condition))

    def at(self, index: int) -> None:
        self.until(f"at === {index} && picture !== null && picture.index === at")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture is on the screen."""
        place = self.page.locator("#tiles").bounding_box()
        zoom = self.page.evaluate("zoom")
        return place["x"] + x * zoom, place["y"] + y * zoom

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """From one place to another, in pixels of the picture."""
        mouse = self.page.mouse
        mouse.move(*self.point(x0, y0))
        mouse.down()
        mouse.move(*self.point((x0 + x1) / 2, (y0 + y1) / 2))
        mouse.move(*self.point(x1, y1))
        mouse.up()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.point(x, y))

    def saved(self) -> None:
        self.until("unsaved.size === 0 && document.getElementById('saved').textContent === 'saved'")

    def leave(self) -> None:
        assert not self.errors
        assert {url.split("/")[2] for url in self.asked if not url.startswith("data:")} == {
            self.site.url.split("/")[2]
        }
        self.context.close()


def box_of(row: dict[str, str]) -> tuple[float, ...]:
    return tuple(float(row[side]) for side in ("left", "top", "right", "bottom"))


def near(row: dict[str, str], *box: float) -> bool:
    return bool(np.abs(np.subtract(box_of(row), box)).max() <= NEAR)


def test_a_box_and_its_group_are_there_after_a_reload(browser: Any, folder: Path) -> None:
    with served(folder, groups=["long hair", "short hair"]) as site:
        person = Person(browser, site)
        person.at(0)
        person.drag(80, 90, 170, 200)
        person.press("2")
        person.saved()
        (row,) = rows(folder)
        assert near(row, 80, 90, 170, 200), row
        assert (row["file"], row["group"], row["roll"]) == ("a.png", "short hair", "0")
        assert site.get("/state")["states"] == "d..."

        person.look()
        person.at(1)  # the first that is not done
        assert "1 of 4 done" in person.page.inner_text("#count")
        person.press("p")
        person.at(0)
        assert person.page.locator("#marks .box").count() == 1
        assert "short hair" in person.page.inner_text("#faces")

        # Its group again, moved, resized at the corner below right, turned, deleted; and all of it undone.
        person.press("0")
        person.drag(120, 140, 140, 130)
        person.drag(190, 190, 200, 210)
        person.press("]", "]", "]", "[")
        person.saved()
        (row,) = rows(folder)
        assert near(row, 100, 80, 200, 210), row
        assert (row["roll"], row["group"]) == ("2", "")
        person.press("Delete")
        person.saved()
        assert rows(folder) == []
        person.press("Control+z", "Control+z", "Control+z")
        person.saved()
        assert [row["roll"] for row in rows(folder)] == ["2"]
        for _ in range(9):
            person.press("Control+z")
        person.saved()
        (row,) = rows(folder)
        assert near(row, 80, 90, 170, 200)
        assert row["group"] == "short hair"
        person.press("Control+y")
        person.saved()
        assert rows(folder)[0]["group"] == ""
        person.leave()


def test_what_was_marked_is_what_prepare_takes(
    browser: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(folder, groups=["long hair", "short hair"]) as site:
        person = Person(browser, site)
        for index, (box, key) in enumerate((((80, 90, 170, 200), "2"), ((70, 80, 150, 190), "1"))):
            person.at(index)
            person.drag(*box)
            person.press(key)
            person.saved()
            person.press("n")
        person.at(2)
        person.press("x")  # no face here
        person.saved()
        person.look()
        person.leave()
    monkeypatch.setattr(finders, "choose", lambda specs, side: ScriptedFinder())
    monkeypatch.setattr(models, "available", lambda: True)
    report = prepare([folder], "drawings", tmp_path / "pack", groups="none", size=64, held_out=0)
    pack = Pack.open(tmp_path / "pack")
    assert [(row.file, row.group, row.finder) for row in pack.rows] == [
        ("a.png", "short hair", "marked"),
        ("b 1.png", "long hair", "marked"),
    ]
    assert np.abs(np.subtract(pack.rows[0].box, (80, 90, 170, 200))).max() <= NEAR
    refused = {entry.file: entry.reason for entry in report.refused}
    assert refused.keys() == {"ann/c.png", "ben/d.png"}
    assert "marked as a picture without a face" in refused["ann/c.png"]
    left, top = 125 - 2.1 * 110 / 2, 90 - 0.8 * 110  # of the portrait framing
    side = round(2.1 * 110)
    picture = read(folder / "a.png")
    assert pack.rows[0].side == pytest.approx(side, abs=2 * NEAR * 2.1)
    seen = pack.images[0][32, 32].astype(int)  # the middle of the square is the middle of its place
    place = picture[round(top + side / 2), round(left + side / 2)].astype(int)
    assert np.abs(seen - place).max() < 60


def test_a_turned_box_is_resized_in_its_own_frame(browser: Any, folder: Path) -> None:
    """At 90 degrees clockwise the top of the face is at the right: the handle of its roll lies there, and to
    pull the right edge on the screen makes the box higher."""
    with served(folder) as site:
        person = Person(browser, site)
        person.drag(80, 100, 160, 180)
        handle = 30 / person.page.evaluate("zoom")
        person.page.keyboard.down("Shift")
        person.drag(120, 100 - handle, 230, 140)
        person.page.keyboard.up("Shift")
        person.drag(160, 140, 180, 140)
        person.saved()
        (row,) = rows(folder)
        assert row["roll"] == "90"
        # 80 wide and 100 high about the middle of what is seen, (80..180, 100..180)
        assert near(row, 90, 90, 170, 190), row
        person.leave()


def test_proposals_are_accepted_dismissed_and_undone(browser: Any, folder: Path) -> None:
    with served(folder, finder=Painted()) as site:
        person = Person(browser, site)
        wait(lambda: site.get("/status")["states"][1] == "p")
        person.press("n")
        person.at(1)
        proposals = person.page.locator("#marks .proposal")
        person.page.wait_for_selector("#marks .proposal")
        assert "80 %" in person.page.inner_html("#marks")
        person.click((RED[0] + RED[2]) / 2, (RED[1] + RED[3]) / 2)
        person.saved()
        assert near(rows(folder)[0], *RED)
        assert proposals.count() == 0
        person.press("Control+z")
        person.saved()
        assert rows(folder) == []
        assert proposals.count() == 1
        person.press("a", "1")  # accepted, and alone: so it is chosen
        person.saved()
        assert [(row["group"], box_of(row)) for row in rows(folder)] == [("ann", RED)]
        person.press("Delete", "Tab", "Delete")  # the second time it is the proposal that goes
        person.saved()
        assert proposals.count() == 0
        person.press("x")  # no face here
        person.saved()
        assert [tuple(row.values()) for row in rows(folder)] == [("b 1.png", *[""] * 6)]
        person.press(" ")  # to the next that is not finished
        person.at(2)
        assert "1 of 4 done" in person.page.inner_text("#count")
        person.leave()


def test_a_change_by_hand_is_not_overwritten(browser: Any, folder: Path) -> None:
    with served(folder) as site:
        person = Person(browser, site)
        person.page.evaluate("poll = () => {}")  # it would notice by itself: here, too late
        time.sleep(0.8)
        hand = "file,left,top,right,bottom,roll,group\na.png,10,10,60,60,0,by hand\n"
        (folder / NAME).write_text(hand)
        person.drag(100, 100, 180, 190)
        person.page.wait_for_selector("#notice:not([hidden])")
        assert "changed elsewhere" in person.page.inner_text("#notice")
        assert (folder / NAME).read_text() == hand
        assert "by hand" in person.page.inner_text("#faces")
        person.press("Control+z")  # brings mine back, knowing theirs
        person.saved()
        (row,) = rows(folder)
        assert near(row, 100, 100, 180, 190)
        person.leave()


def test_two_pages_see_each_other(browser: Any, folder: Path) -> None:
    with served(folder) as site:
        person, other = Person(browser, site), Person(browser, site)
        person.drag(50, 60, 120, 130)
        person.saved()
        other.until("picture.boxes && picture.boxes.length === 1")
        other.drag(130, 140, 200, 210)
        other.saved()
        first, second = rows(folder)
        assert near(first, 50, 60, 120, 130)
        assert near(second, 130, 140, 200, 210)
        person.leave()
        other.leave()


def test_a_new_group_is_only_text(browser: Any, folder: Path) -> None:
    name = "<img src=x onerror=alert(1)>, \"& 'ünïcode"
    with served(folder) as site:
        person = Person(browser, site)
        person.drag(80, 90, 170, 200)
        person.page.fill("#new input", name)
        person.press("Enter")
        person.until("state.groups.length === 3")
        person.saved()
        assert rows(folder)[0]["group"] == name
        assert name in person.page.inner_text("#groups")
        person.page.fill("#new input", "all")
        person.press("Enter")
        person.page.wait_for_selector("#notice:not([hidden])")
        assert "no group can be called 'all'" in person.page.inner_text("#notice")
        person.leave()


def test_a_server_that_was_away_gets_what_was_kept(browser: Any, folder: Path) -> None:
    with served(folder) as site:
        person = Person(browser, site)
        person.page.route("**/pictures/0", lambda route: route.abort())
        person.drag(80, 90, 170, 200)
        person.page.wait_for_selector("#notice:not([hidden])")
        assert "does not answer" in person.page.inner_text("#notice")
        assert person.page.inner_text("#saved") == "not saved"
        assert not (folder / NAME).exists()
        person.page.unroute("**/pictures/0")
        person.saved()
        assert near(rows(folder)[0], 80, 90, 170, 200)
        person.errors = [error for error in person.errors if "ERR_FAILED" not in error]
        person.leave()


def test_a_long_strip_is_scrolled_and_marked(browser: Any, tmp_path: Path) -> None:
    strip = np.full((40_000, 300, 3), 255, np.uint8)
    strip[36_000:36_256, 20:276] = world.picture("drawings", 0, SIDE)[0]
    save_png(tmp_path / "strip.png", strip, compress_level=1)
    with served(tmp_path) as site:
        person = Person(browser, site)
        assert person.page.evaluate("view.scrollHeight / zoom") > 40_000
        assert person.page.locator("#rail").is_visible()
        person.page.evaluate("view.scrollTo(0, 35950 * zoom)")
        person.until(
            "[...document.querySelectorAll('#tiles img')].some((img, i) => i > 15 && img.complete && img.naturalWidth)"
        )
        person.drag(100, 36_090, 200, 36_210)
        person.press("Shift+ArrowRight", "Control+ArrowDown")
        person.saved()
        (row,) = rows(tmp_path)
        assert near(row, 101, 36_090, 201, 36_211), row
        person.leave()


def test_a_phone_has_room_for_it(browser: Any, folder: Path) -> None:
    with served(folder) as site:
        person = Person(browser, site, 390, 844)
        page = person.page
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        assert page.locator("#view").bounding_box()["height"] > 350
        for name in ("Accept", "No face here", "Next →"):
            button = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert button["x"] >= 0
            assert button["x"] + button["width"] <= 390
            assert button["y"] + button["height"] <= 844
            assert button["height"] >= 36
        person.drag(80, 90, 170, 200)
        person.saved()
        assert near(rows(folder)[0], 80, 90, 170, 200)
        page.get_by_role("button", name="Next →", exact=True).click()
        person.at(1)
        person.leave()


def test_it_can_be_used_without_a_mouse_and_says_what_it_is(browser: Any, folder: Path) -> None:
    with served(folder, finder=Painted()) as site:
        person = Person(browser, site)
        page = person.page
        nameless = page.evaluate(
            "[...document.querySelectorAll('button')].filter((b) => !(b.ariaLabel || b.textContent.trim())).length"
        )
        assert nameless == 0
        person.press("?")
        assert page.get_by_role("dialog").is_visible()
        person.press("Escape", "b", "1")
        person.saved()
        assert (rows(folder)[0]["file"], rows(folder)[0]["group"]) == ("a.png", "ann")
        person.press("n")
        person.at(1)
        page.wait_for_selector("#marks .proposal")
        person.press("Tab", "Enter")
        person.saved()
        assert Marks.read(folder / NAME).of("b 1.png")[0].box == RED  # type: ignore[index]
        person.leave()


def test_it_takes_up_what_was_learned(browser: Any, folder: Path) -> None:
    with served(folder, learn=lambda examples: Painted()) as site:
        for index in (2, 3):
            boxes = [entry(30 * i, 0, 30 * i + 25, 25) for i in range(3)]
            assert site.save(index, boxes)[0] == 200
        person = Person(browser, site)
        person.press("n")
        person.at(1)
        person.page.wait_for_selector("#marks .proposal", timeout=10_000)
        person.until("document.getElementById('told').textContent.includes('learned from 6 boxes')")
        person.leave()


def test_fingers_draw_and_pinch(browser: Any, folder: Path) -> None:
    with served(folder) as site:
        person = Person(browser, site, 390, 844, has_touch=True, is_mobile=True)
        hand = person.context.new_cdp_session(person.page)

        def touch(kind: str, *fingers: tuple[float, float]) -> None:
            points = [dict(zip("xy", person.point(*finger)), id=i) for i, finger in enumerate(fingers)]
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (80, 90))
        touch("touchMove", (120, 140))
        touch("touchMove", (170, 200))
        touch("touchEnd")
        person.saved()
        assert near(rows(folder)[0], 80, 90, 170, 200)
        before = person.page.evaluate("zoom")
        middle = person.point(128, 128)
        touch("touchStart", (110, 128))
        touch("touchStart", (110, 128), (146, 128))
        for spread in (30, 45, 60):
            points = [{"x": middle[0] + s * spread, "y": middle[1], "id": i} for i, s in enumerate((-1, 1))]
            hand.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        touch("touchEnd")
        person.until(f"zoom > 1.5 * {before} && drag === null")
        assert len(person.page.evaluate("picture.boxes")) == 1  # two fingers draw nothing
        assert np.hypot(*np.subtract(person.point(128, 128), middle)) < 25  # what is between them stays there
        person.leave()

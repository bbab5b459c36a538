"""The tabs Mark and Report, looked at closely: keys, a phone, pages that come, change and go, and hostile requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import marking
from fewtoon.app.shelf import Shelf
from fewtoon.app.tabs import report
from fewtoon.data import checkup as checkups
from fewtoon.run import Run
from studios import Visitor, ask, chromium, needs_browser, studio, world_packs

ODD = "a 'b' & <i>c\""  # the name of a folder


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return world_packs(tmp_path_factory.mktemp("packs"), 6, held_out=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without a report."""
    Run(tmp_path / "first").record({"method": "toy", "model": {}, "train": {}}, {"packs": {}})
    return tmp_path / "first"


def write(path: Path, text: str, when: float = 0) -> Path:
    """A page. when: seconds, of its last change; 0: now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><h1>{text}</h1>")
    if when:
        os.utime(path, (when, when))
    return path


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fewtoon _")]


# --- in a browser -------------------------------------------------------------------------------------------


@needs_browser
def test_keys_quick_hands_and_pages_that_come_and_go(
    tmp_path: Path, run: Path, packs: dict[str, Path]
) -> None:
    plain, odd = (marking.drawings(tmp_path / name) for name in ("drawings", ODD))
    with studio([plain, odd, run, *packs.values()]) as url, chromium() as browser:
        visitor = Visitor(browser, url, accept_downloads=True)
        page = visitor.page
        for _ in range(3):
            for title in ("Report", "Watch", "Mark", "Translate", "Mark"):
                visitor.tab(title)

        # Mark: the keys of the page, and a way out of it.
        frame = page.frame_locator("iframe[title='mark the faces in drawings']")
        frame.locator("#tiles img").first.wait_for()
        page.get_by_role("link", name="open alone").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "IFRAME"
        page.keyboard.press("b")
        marking.wait(lambda: (plain / "faces.csv").is_file() and marking.rows(plain)[0]["left"])
        page.keyboard.press("Escape")  # no box is chosen any more
        assert page.evaluate("document.activeElement.tagName") == "IFRAME"
        page.keyboard.press("?")
        page.keyboard.press("Escape")  # the help is closed
        assert page.evaluate("document.activeElement.tagName") == "IFRAME"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.innerText") == "open alone"

        # What was marked in the moment before another folder is chosen is kept.
        frame.locator("#view").press("n")
        frame.get_by_text("2 / 4").wait_for()
        frame.locator("#tiles img").first.wait_for()
        frame.locator("#view").press("b")
        page.get_by_label("Folder").click()
        page.get_by_role("option", name=ODD).click()
        other = page.frame_locator("iframe[src='mark/1/']")
        other.locator("#tiles img").first.wait_for()
        marking.wait(lambda: len(marking.rows(plain)) == 2)
        other.get_by_role("button", name="No face here").click()
        marking.wait((odd / "faces.csv").is_file)
        assert page.locator("iframe[src='mark/1/']").get_attribute("title") == f"mark the faces in {ODD}"

        # Report: a report that was written meanwhile is there, is read again when it has changed, and can be saved.
        write(run / "report" / "report.html", "first report", time.time() - 60)
        visitor.tab("Report")
        page.get_by_label("Page").click()
        page.get_by_role("option", name="first, ").click()
        shown = page.frame_locator("iframe[src='report/run/0']")
        shown.get_by_role("heading", name="first report").wait_for()
        path = write(run / "report" / "report.html", "second report")
        visitor.tab("Watch")
        visitor.tab("Report")
        shown.get_by_role("heading", name="second report").wait_for()
        with page.expect_download() as saved:
            page.get_by_role("link", name="download").click()
        assert Path(saved.value.path()).read_bytes() == path.read_bytes()
        assert saved.value.suggested_filename.startswith("first, ")
        path.unlink()
        page.get_by_role("button", name="Look for new reports").click()
        page.locator("iframe[title='doctor: photos']").wait_for()
        visitor.leave()
    assert threads() == []


@needs_browser
def test_on_a_phone(tmp_path: Path) -> None:
    folder = marking.drawings(tmp_path / "drawings")
    write(tmp_path / "page.html", "A page")
    with studio([folder, tmp_path / "page.html"]) as url, chromium() as browser:
        visitor = Visitor(browser, url, 390, 844, color_scheme="dark", has_touch=True, is_mobile=True)
        page = visitor.page
        assert not [address for address in visitor.asked if "/mark/" in address or "/report/" in address]
        visitor.tab("Mark")
        frame = page.frame_locator("iframe[title='mark the faces in drawings']")
        frame.get_by_role("button", name="No face here").tap()
        marking.wait(lambda: (folder / "faces.csv").is_file() and not marking.rows(folder)[0]["left"])
        visitor.tab("Report")
        page.frame_locator("iframe[src='report/page/0']").get_by_role("heading", name="A page").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        visitor.leave()


# --- what there is ------------------------------------------------------------------------------------------


def test_the_newest_is_first_and_none_is_there_twice(
    tmp_path: Path, run: Path, packs: dict[str, Path]
) -> None:
    other = tmp_path / "other"
    Run(other).record({"method": "toy", "model": {}, "train": {}}, {"packs": {}})
    write(other / "report" / "report.html", "old", 1_600_000_000)
    page = write(tmp_path / "page.html", "new", 1_700_000_000)
    shelf = Shelf([other, run, page, *packs.values()])
    labels = [entry.label.split(", ")[0] for entry in report.contents(shelf)]
    assert labels == ["page", "other", "doctor: photos", "doctor: drawings", "doctor: photos with drawings"]
    write(run / "report" / "report.html", "newest")
    page.unlink()
    assert [entry.label.split(", ")[0] for entry in report.contents(shelf)][:2] == ["first", "other"]


def test_a_folder_that_cannot_be_marked_yet_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with studio([tmp_path / "empty"]) as url:
        status, body, _ = ask(f"{url}mark/0/")
        assert status == 503
        assert b"<p>folder" in body
        assert b"holds no pictures" in body
        marking.drawings(tmp_path / "empty")
        status, body, _ = ask(f"{url}mark/0/")
        assert status == 200
        assert b'id="view"' in body


# --- hostile, damaged, or gone ------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    write(tmp_path / "page.html", "A page")
    with studio([tmp_path / "page.html"]) as url:
        yield lambda path: ask(url + path)[:2]


def test_only_a_page_is_sent(tmp_path: Path, pages: Callable[[str], tuple[int, bytes]]) -> None:
    path = tmp_path / "page.html"
    assert pages("report/page/0") == (200, path.read_bytes())
    for number in ("00000000", "9" * 5000, "%D9%A0", "+0", "0.0", "1e1", "0%00", "-0", "%27%22"):
        assert pages(f"report/page/{number}")[0] == 404, number
    os.truncate(path, report.MOST + 1)
    assert pages("report/page/0")[0] == 413
    path.unlink()
    assert pages("report/page/0")[0] == 404
    os.mkfifo(path)
    assert pages("report/page/0")[0] == 404


def test_a_damaged_pack_does_not_keep_the_others_away(tmp_path: Path, packs: dict[str, Path]) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "pack.json").write_text("[]")
    with studio([damaged, *packs.values()]) as url:
        status, body, _ = ask(f"{url}report/pack/0")
        assert status == 422
        assert b"has version None" in body
        status, body, _ = ask(f"{url}report/pack/1/2")
        assert status == 200
        assert str(packs["photos"]).encode() not in body


def test_a_pack_is_measured_once_and_nobody_else_waits(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    may = threading.Event()

    def slow(pack: Any) -> Any:
        measured.append(pack.side)
        may.wait(30)
        return real(pack)

    real = checkups.checkup
    monkeypatch.setattr(checkups, "checkup", slow)
    with studio(list(packs.values())) as url, ThreadPoolExecutor(60) as people:
        asked = [people.submit(ask, f"{url}report/pack/{place}") for place in ["0/1", "0", "1", "0/1"] * 15]
        marking.wait(lambda: measured, 30)
        assert ask(f"{url}health")[0] == 200
        assert not any(one.done() for one in asked)
        may.set()
        assert {one.result()[0] for one in asked} == {200}
        assert measured == ["photos", "drawings"]
        later = time.time() + 5
        os.utime(packs["photos"] / "pack.json", (later, later))  # as if it was prepared again
        ask(f"{url}report/pack/0/1")
        assert measured == ["photos", "drawings", "photos"]

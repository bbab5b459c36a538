"""The tabs Mark and Report: pages within the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import marking
from fewtoon.run import Run
from studios import Visitor, ask, chromium, needs_browser, studio, world_packs

EVIL = '<script>document.title = "evil"</script><img src="http://127.0.0.1:9/x.png">'


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawings, two packs, a run without a report, and a page that somebody has tampered with."""
    top = tmp_path_factory.mktemp("pages")
    marking.drawings(top / "drawings")
    for side, path in world_packs(top / "packs", 8, held_out=2).items():
        path.rename(top / f"pack {side}")
    (top / "tampered.html").write_text(f"<h1>Tampered</h1>{EVIL}")
    run = Run(top / "first")
    run.record({"method": "toy", "model": {}, "train": {}}, {"packs": {}})
    return top


@pytest.fixture(scope="module")
def url(top: Path) -> Iterator[str]:
    with studio(
        [top / n for n in ("drawings", "pack photos", "pack drawings", "first", "tampered.html")]
    ) as address:
        yield address


@needs_browser
def test_a_person_marks_and_reads(top: Path, url: str) -> None:
    with chromium() as browser:
        visitor = Visitor(browser, url)
        page = visitor.page
        failed: dict[str, str] = {}
        page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
        visitor.tab("Mark")
        frame = page.frame_locator("iframe[title='mark the faces in drawings']")
        frame.locator("#tiles img").first.wait_for()
        place = frame.locator("#tiles").bounding_box()
        page.mouse.move(place["x"] + 40, place["y"] + 40)
        page.mouse.down()
        page.mouse.move(place["x"] + 150, place["y"] + 160, steps=3)
        page.mouse.up()
        marking.wait(
            lambda: (top / "drawings" / "faces.csv").is_file() and len(marking.rows(top / "drawings")) == 1
        )
        page.keyboard.press("Delete")  # the frame has the keyboard
        marking.wait(lambda: not any(row["left"] for row in marking.rows(top / "drawings")))

        visitor.tab("Report")
        page.frame_locator("iframe[src='report/page/0']").get_by_role("heading", name="Tampered").wait_for()
        chooser = page.get_by_label("Page")
        chooser.click()
        page.get_by_role("option", name="doctor: pack photos with pack drawings").click()
        shown = page.frame_locator("iframe[src='report/pack/0/1']")
        shown.locator("h1").wait_for()
        assert "fewtoon doctor" in shown.locator(".over").first.inner_text()

        report = top / "first" / "report" / "report.html"
        report.parent.mkdir()
        report.write_text("<h1>Evaluated</h1>")
        page.get_by_role("button", name="Look for new reports").click()
        chooser.click()
        page.get_by_role("option", name="first, ").click()
        page.frame_locator("iframe[src='report/run/0']").get_by_role("heading", name="Evaluated").wait_for()
        assert page.title() == "fewtoon"
        # What the tampered page wanted was not done: neither its script nor its picture.
        assert [
            error for error in visitor.errors if "127.0.0.1:9" not in error and "sandboxed" not in error
        ] == []
        assert failed["http://127.0.0.1:9/x.png"] == "csp"
        visitor.context.close()


def test_a_page_cannot_run_anything(url: str) -> None:
    status, body, headers = ask(f"{url}report/page/0")
    assert status == 200
    assert EVIL.encode() in body
    policy = headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert b"unsafe-eval" not in ask(f"{url}mark/0/")[2]["Content-Security-Policy"].encode()


@pytest.mark.parametrize(
    "path",
    [
        "report/page/1", "report/page/-1", "report/page/99999999999999999999", "report/page/0x0", "report/page/",
        "report/run/7", "report/pack/2", "report/pack/0/9", "report/../../../../etc/passwd", "report/page/..%2f..%2f",
        "report/%2e%2e/%2e%2e/etc/passwd", "mark/1/", "mark/0/../1/", "mark/-1/", "mark/0/pictures/../../../etc/passwd",
        "mark/0/%2e%2e/%2e%2e/etc/passwd", "report/pack/<script>", "mark/",
        f"mark/0/pictures/{'9' * 5000}", f"report/page/{'9' * 5000}",
    ],
)  # fmt: skip
def test_there_is_nothing_else(url: str, path: str) -> None:
    status, body, _ = ask(url + path.replace("<", "%3C").replace(">", "%3E"))
    assert status == 404, body[:200]
    assert b"root:" not in body


def test_packs_of_one_side_are_no_pair(url: str) -> None:
    status, body, _ = ask(f"{url}report/pack/0/0")
    assert status == 422
    assert b"two packs of photos" in body or b"photos" in body

"""The studio, served in a thread, and somebody in front of it in a real browser: what several test files ask for."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fewtoon.app.server import listening, server_of
from fewtoon.app.shelf import Shelf
from fewtoon.app.studio import create_app
from fewtoon.data import world
from fewtoon.data.prepare import prepare

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser named chromium on the PATH")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),  # a webcam
]


LISTEN = """
new MutationObserver(() => {
  for (const region of document.querySelectorAll("[aria-live]")) {
    const text = region.textContent.trim();
    if (text && region.heard !== text) said(text);
    region.heard = text;
  }
}).observe(document, {subtree: true, childList: true, characterData: true});
"""


@contextlib.contextmanager
def studio(paths: Sequence[str | Path], token: str | None = None, **options: Any) -> Iterator[str]:
    """Its address, with a "/" at the end. token: to be asked for. options: of the shelf."""
    before = os.environ.get("GRADIO_TEMP_DIR", "")
    app = create_app(Shelf(paths, **{"device": "cpu", **options}), token)
    with listening(0) as door:
        server = server_of(app, lifespan="on", log_config=None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive()
            os.environ["GRADIO_TEMP_DIR"] = before  # of a studio around this one


def world_packs(top: Path, count: int, held_out: int) -> dict[str, Path]:
    """Side -> a pack of so many pictures of the drawn world, 32 px."""
    world.build(top / "world", photos=count, drawings=count, size=64)
    for side in ("photos", "drawings"):
        prepare(top / "world" / side, side, top / side, size=32, held_out=held_out)
    return {side: top / side for side in ("photos", "drawings")}


def ask(address: str) -> tuple[int, bytes, Any]:
    """The status, the body and the headers of an answer."""
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright import sync_api

    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """Somebody in front of the studio. Nothing is asked of any other machine, no script fails, and what is told to
    whoever does not see the page is a sentence and not the name of one."""

    def __init__(self, browser: Any, url: str, width: int = 1100, height: int = 900, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)  # of milliseconds: a busy machine is slow
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.said: list[str] = []  # to a screen reader
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)
        self.page.expose_function("said", lambda text: self.said.append(text))
        self.page.goto(url)
        self.page.evaluate(LISTEN)  # in this page alone: no script may run in the frames of reports

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def tab(self, title: str) -> None:
        tab = self.page.get_by_role("tab", name=title)
        if self.page.viewport_size["width"] < 600:  # not all tabs have room
            self.page.get_by_label("More tabs").wait_for()
            if not tab.is_visible():
                self.page.get_by_label("More tabs").click()
                tab = self.page.get_by_role("button", name=title).last
        tab.click()

    def hears(self, text: str, seconds: int = 60) -> None:
        """Waits until a screen reader is told this."""
        for _ in range(10 * seconds):
            if text in self.said:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{text!r} was not told, but {self.said}")

    def leave(self) -> None:
        elsewhere = [url for url in self.asked if not url.startswith(("data:", "blob:", self.url))]
        assert not elsewhere
        assert not self.errors
        assert not [text for text in self.said if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", text)]
        self.context.close()

"""Mark: the page of `fewtoon mark`, for the folders of pictures on the shelf."""

from __future__ import annotations

import threading
from html import escape
from pathlib import Path

import gradio as gr
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from fewtoon.app import look
from fewtoon.app.mark import create_app
from fewtoon.app.shelf import Shelf
from fewtoon.errors import Problem
from fewtoon.metrics.page import page

TITLE = "Mark"
CSS = "@media (pointer: coarse) { .keys { display: none; } }"  # a phone has none

# The frame keeps all keys to itself, and its Tab goes through every picture: Escape is the way out.
LEAVE = """
element.addEventListener("load", (event) => {
  const page = event.target.contentDocument;
  page?.addEventListener("keydown", (pressed) => {
    if (pressed.key !== "Escape" || pressed.target.tagName === "INPUT") return;
    if (!page.querySelector("#marks .chosen, dialog[open]")) element.querySelector("a").focus();
  }, true);
}, true);
"""


def build(shelf: Shelf) -> None:
    folders = shelf.names("pictures")
    if not folders:
        gr.HTML(
            look.sheet(
                "<p>Here faces and groups are marked by hand. Name a folder of pictures: "
                "<code>fewtoon serve my/drawings</code>.</p>"
            )
        )
        return
    if len(folders) > 1:
        chooser = gr.Dropdown(folders, value=folders[0], label="Folder")
    frame = gr.HTML(_frame(shelf, folders[0]), js_on_load=LEAVE)
    if len(folders) > 1:
        chooser.input(lambda name: _frame(shelf, name), chooser, frame, **look.LIVE)


def routes(shelf: Shelf) -> list[BaseRoute]:
    folders = [shelf.path("pictures", name) for name in shelf.names("pictures")]
    return [Mount(f"/mark/{number}", Marking(folder)) for number, folder in enumerate(folders)]


class Marking:
    """The marking page of one folder, which is looked into when somebody first opens it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._app: Starlette | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = self._app
            if app is None:
                app = await run_in_threadpool(self._opened)
        except Problem as problem:
            told = HTMLResponse(page("fewtoon mark", f"<p>{escape(str(problem))}</p>"), 503, _PLAIN)
            await told(scope, receive, send)
            return
        await app(scope, receive, send)

    def _opened(self) -> Starlette:
        with self._lock:
            if self._app is None:
                self._app = create_app(self.folder, door=False)  # the studio's own is in front
            return self._app

    def close(self) -> None:
        """End its threads."""
        if self._app is not None:
            self._app.state.proposals.close()


_PLAIN = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
}


def _frame(shelf: Shelf, name: str) -> str:
    """The page of a folder within ours. Raises Problem for a folder that is not on the shelf."""
    shelf.path("pictures", name)
    address = f"mark/{shelf.names('pictures').index(name)}/"
    return look.sheet(
        f'<p class="over"><a href="{address}" target="_blank">open alone</a>'
        '<span class="keys"> · Tab or a click goes into the page below, Esc leaves it</span></p>'
        f'<iframe src="{address}" title="mark the faces in {escape(name)}" loading="lazy"></iframe>'
    )

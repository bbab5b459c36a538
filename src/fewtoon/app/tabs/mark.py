"""Mark: the page of `fewtoon mark`, for the folders of pictures on the shelf."""

from __future__ import annotations

import threading
from pathlib import Path

import gradio as gr
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from fewtoon.app import look
from fewtoon.app.mark import create_app
from fewtoon.app.shelf import Shelf
from fewtoon.errors import Problem

TITLE = "Mark"


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
    page = gr.HTML(_frame(folders, folders[0]), render=False)
    if len(folders) > 1:
        chooser = gr.Dropdown(folders, value=folders[0], label="Folder")
        chooser.input(look.told(lambda name: _frame(folders, name)), chooser, page, api_visibility="private")
    page.render()


def routes(shelf: Shelf) -> list[BaseRoute]:
    return [
        Mount(f"/mark/{i}", Marking(shelf.path("pictures", n))) for i, n in enumerate(shelf.names("pictures"))
    ]


class Marking:
    """The marking page of one folder, which is looked into when somebody first opens it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._app: Starlette | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = await run_in_threadpool(self._opened)
        except Problem as problem:
            await JSONResponse({"error": str(problem)}, 503)(scope, receive, send)
            return
        await app(scope, receive, send)

    def _opened(self) -> Starlette:
        with self._lock:
            if self._app is None:
                self._app = create_app(self.folder)
            return self._app

    def close(self) -> None:
        """End its threads."""
        if self._app is not None:
            self._app.state.proposals.close()


def _frame(folders: list[str], name: str) -> str:
    if name not in folders:
        raise Problem(f"no folder {name!r} here")
    return look.frame(f"mark/{folders.index(name)}/", f"mark the faces in {name}")

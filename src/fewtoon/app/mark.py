"""The marking page: a person says where the faces are and to which groups they belong.

What is decided is kept in `faces.csv` in the folder itself (see `fewtoon.data.marks` and `fewtoon.app.desk`),
written at every change. The page is one file and asks nobody but this server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fewtoon.app.desk import Conflict, Desk, entry_of, marks_of, outside, proposal_of, version_of
from fewtoon.app.local import ADDRESS, HEADERS, Local, json_of
from fewtoon.app.proposals import Learn, Proposals
from fewtoon.app.server import listening, run
from fewtoon.app.tiles import Tiles
from fewtoon.data.marks import NAME, Mark, Marks
from fewtoon.errors import Problem
from fewtoon.faces.face import Finder
from fewtoon.io.files import printable, stamp
from fewtoon.io.images import BadPicture
from fewtoon.metrics.page import STYLE

# ---------------------------------------------------------------------------------------------------------
# The page and what it asks for


def create_app(
    folder: str | Path,
    groups: Sequence[str] | None = None,
    finder: Finder | None = None,
    learn: Learn | None = None,
    door: bool = True,
) -> Starlette:
    """The page for one folder, alone or mounted under a path that ends in "/".

    finder, learn: see `fewtoon.app.proposals.Proposals`. door: refuse what does not come from a page of ours on this
    machine; False for whoever mounts it behind a door of its own. `app.state.desk` and `app.state.proposals` are there
    for whoever mounts it, who should call `app.state.proposals.close()` at the end.
    Raises Problem as Desk does.
    """
    desk = Desk(folder, groups or ())
    proposals = Proposals(desk.found, desk.finished, finder, learn)
    page = Page(desk, proposals, Tiles())
    app = Starlette(
        routes=[
            Route("/", page.html),
            Route("/state", page.state),
            Route("/status", page.status),
            Route("/pictures/{index:int}", page.picture),
            Route("/pictures/{index:int}", page.save, methods=["POST"]),
            Route("/pictures/{index:int}/proposals", page.proposed),
            Route("/pictures/{index:int}/tiles/{tile:int}", page.tile),
            Route("/pictures/{index:int}/thumbnail", page.thumbnail),
            Route("/groups", page.group, methods=["POST"]),
        ],
        middleware=[Middleware(Local)] if door else [],
        exception_handlers={HTTPException: _told, Problem: _cannot, BadPicture: _unreadable},
    )
    app.state.desk, app.state.proposals = desk, proposals
    return app


class Page:
    """One method per address. Pictures are only ever named by their index in the list."""

    def __init__(self, desk: Desk, proposals: Proposals, tiles: Tiles) -> None:
        self.desk, self.proposals, self.tiles = desk, proposals, tiles
        self.text, self.policy = _page()

    def html(self, request: Request) -> Response:
        return HTMLResponse(self.text, headers={"Content-Security-Policy": self.policy, **_FRESH})

    def state(self, request: Request) -> Response:
        """All that does not change while the page is open, and where to begin."""
        self.proposals.start()
        desk, marks = self.desk, self.desk.marks()
        status = self._status(marks)
        waiting = (index for index, letter in enumerate(status["states"]) if letter in ".p")
        return _json(
            {
                "folder": printable(desk.folder.resolve().name),
                "table": NAME,
                "pictures": [file.name for file in desk.found],
                "stamps": [stamp(file.path) for file in desk.found],
                "refused": [{"name": file.name, "reason": file.reason} for file in desk.refused],
                "unknown": marks.unknown(desk.index),
                "first": next(waiting, 0),
                **status,
            }
        )

    def status(self, request: Request) -> Response:
        """What changes: asked for again and again, with `index` of the picture on the screen."""
        marks = self.desk.marks()
        index = request.query_params.get("index", "")
        if index.isascii() and index.isdigit() and int(index) < len(self.desk.found):
            version = version_of(marks.of(self.desk.found[int(index)].name))
            return _json({**self._status(marks), "version": version})
        return _json(self._status(marks))

    def _status(self, marks: Marks) -> dict[str, Any]:
        def letter(index: int, name: str) -> str:
            if self.proposals.reason(index) is not None:
                return "x"
            rows = marks.of(name)
            if rows is not None:
                return "d" if rows else "n"
            return "p" if self.proposals.some(index) else "."

        return {
            "states": "".join(letter(index, file.name) for index, file in enumerate(self.desk.found)),
            "faces": len(marks),
            "groups": list(dict.fromkeys([*self.desk.groups, *marks.groups])),
            "learned_from": self.proposals.learned_from,
            "round": self.proposals.round,
            "message": self.proposals.message,
        }

    def picture(self, request: Request) -> Response:
        """One picture's tiles, boxes and proposals; it is the one on the screen unless it is asked "ahead"."""
        index = self._index(request)
        if "ahead" not in request.query_params:
            self.proposals.look_at(index)
        file = self.desk.found[index]
        marks = self.desk.marks().of(file.name)
        shown = self.tiles.picture(file.path)
        return _json(
            {
                "index": index,
                "width": shown.width,
                "height": shown.height,
                "shown_width": shown.shown_width,
                "shown_height": shown.shown_height,
                "tiles": shown.places,
                "stamp": stamp(file.path),
                "boxes": None if marks is None else [entry_of(mark) for mark in marks],
                "version": version_of(marks),
                "notes": outside(marks or [], shown.width, shown.height),
                **self._proposed(index),
            }
        )

    def proposed(self, request: Request) -> Response:
        return _json(self._proposed(self._index(request)))

    def _proposed(self, index: int) -> dict[str, Any]:
        faces = self.proposals.of(index)
        return {
            "proposals": None if faces is None else [proposal_of(face) for face in faces],
            "round": self.proposals.round,
        }

    def tile(self, request: Request) -> Response:
        shown = self.tiles.picture(self.desk.found[self._index(request)].path)
        tile = request.path_params["tile"]
        if tile >= len(shown.tiles):
            raise HTTPException(404, f"no tile {tile}: the picture has {len(shown.tiles)}")
        return Response(shown.tiles[tile], media_type="image/jpeg", headers=_KEPT)

    def thumbnail(self, request: Request) -> Response:
        data = self.tiles.thumbnail(self.desk.found[self._index(request)].path)
        return Response(data, media_type="image/jpeg", headers=_KEPT)

    async def save(self, request: Request) -> Response:
        index, body = self._index(request), await json_of(request)
        try:
            faces = marks_of(self.desk.found[index].name, body.get("boxes"))
        except Problem as problem:
            raise HTTPException(400, str(problem)) from None
        return await run_in_threadpool(self._save, index, str(body.get("version")), faces)

    def _save(self, index: int, version: str, faces: list[Mark] | None) -> Response:
        try:
            version = self.desk.save(index, version, faces)
        except Conflict:
            words = f"{NAME} says something else about this picture by now: it was changed elsewhere"
            return _json({"error": words}, 409)
        self.proposals.marked()
        return _json({"version": version})

    async def group(self, request: Request) -> Response:
        name = (await json_of(request)).get("name")
        if not isinstance(name, str):
            raise HTTPException(400, "a group needs a name")
        try:
            self.desk.add_group(name)
        except Problem as problem:
            raise HTTPException(400, str(problem)) from None
        return _json({"groups": self.desk.groups})

    def _index(self, request: Request) -> int:
        index = int(request.path_params["index"])
        if index >= len(self.desk.found):
            raise HTTPException(404, f"no picture {index}: there are {len(self.desk.found)}")
        reason = self.proposals.reason(index)
        if reason is not None:
            raise BadPicture(self.desk.found[index].name, reason)
        return index


_FRESH = {"Cache-Control": "no-store"}
_KEPT = {"Cache-Control": "private, max-age=3600"}  # the address holds the stamp of the file


def _json(value: Any, status: int = 200) -> Response:
    return JSONResponse(value, status, headers=_FRESH)


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


def _cannot(request: Request, error: Exception) -> Response:
    """The table can be neither read nor written now: the page keeps what it has and asks again."""
    return _json({"error": str(error)}, 503)


def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadPicture)
    return _json({"error": error.reason}, 422)


def _page() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script and talk to us alone."""
    text = resources.files("fewtoon.app").joinpath("mark.html").read_text(encoding="utf-8")
    text = text.replace("/* the style of all pages */", STYLE)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = (
        f"{HEADERS['Content-Security-Policy']}; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    return text, policy


# ---------------------------------------------------------------------------------------------------------
# The server


def serve(
    folder: str | Path,
    port: int = 0,
    groups: Sequence[str] | None = None,
    finder: Finder | None = None,
    open_browser: bool = True,
) -> None:
    """Serve the page on the loopback address until Ctrl-C.

    port: 0 takes any that is free; groups: names that keys 1 to 9 stand for
    Raises Problem as Desk does, and when the port is taken.
    """
    app = create_app(folder, groups, finder)
    desk: Desk = app.state.desk
    with listening(port) as door:
        url = f"http://{ADDRESS}:{door.getsockname()[1]}/"
        print(f"{len(desk.found)} pictures: mark their faces at {url} (Ctrl-C ends it)", flush=True)
        try:
            run(app, door, url, open_browser)
        finally:
            app.state.proposals.close()
    done = desk.finished()
    faces = sum(map(len, done.values()))
    print(f"{len(done)} of {len(desk.found)} pictures are done, {faces} faces in {printable(desk.table)}")

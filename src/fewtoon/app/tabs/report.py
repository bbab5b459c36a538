"""Report: evaluation reports, studies, and the doctor's page of each pack."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime
from pathlib import Path

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from fewtoon.app import look
from fewtoon.app.shelf import Shelf
from fewtoon.data import checkup, doctor_page
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.run import Run

TITLE = "Report"
MOST = 200_000_000  # bytes of a page
KEPT = 4  # doctor's pages in memory
# Our pages have no script and bring their pictures along: whatever is in a file, nothing runs and nothing is asked for.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"


def build(shelf: Shelf) -> None:
    choices = contents(shelf)
    nothing = look.sheet(
        "<p>No report yet. <code>fewtoon evaluate RUN --photos PACK --drawings PACK</code> writes one into the folder "
        "of the run; packs have a doctor's page: <code>fewtoon serve RUN PACK</code>.</p>"
    )
    first = choices[0][1] if choices else None
    chooser = gr.Dropdown(choices, value=first, label="Page", visible=bool(choices), interactive=True)
    again = gr.Button("Look for new reports", size="sm")
    page = gr.HTML(look.frame(first, "report") if first else nothing)

    @look.told
    def show(address: str | None) -> str:
        known = {address: label for label, address in contents(shelf)}
        if address not in known:
            raise Problem("no such page: choose one from the list")
        return look.frame(address, known[address])

    def renewed(address: str | None) -> tuple[object, str]:
        found = contents(shelf)
        addresses = [one for _, one in found]
        value = address if address in addresses else next(iter(addresses), None)
        update = gr.update(choices=found, value=value, visible=bool(found))
        return update, look.frame(value, "report") if value else nothing

    chooser.input(show, chooser, page, api_visibility="private")
    again.click(renewed, chooser, [chooser, page], api_visibility="private")


def contents(shelf: Shelf) -> list[tuple[str, str]]:
    """(label, address) of all pages there are now: reports and studies, the newest first, then the packs."""
    found = []
    for kind, number, path, label in [
        *(("page", i, shelf.path("page", name), name) for i, name in enumerate(shelf.names("page"))),
        *(("run", i, _report(shelf, name), name) for i, name in enumerate(shelf.names("run"))),
    ]:
        if path.is_file():
            found.append((path.stat().st_mtime, path.resolve(), f"{label}", f"report/{kind}/{number}"))
    newest: dict[Path, tuple[str, str]] = {}
    for when, real, label, address in sorted(
        found, key=lambda one: -one[0]
    ):  # a run's report may be there twice
        newest.setdefault(real, (f"{label}, {datetime.fromtimestamp(when):%Y-%m-%d %H:%M}", address))
    packs = [Pack.open(shelf.path("pack", name)) for name in shelf.names("pack")]
    names = shelf.names("pack")
    doctors = [(f"doctor: {name}", f"report/pack/{i}") for i, name in enumerate(names)]
    for i, photos in enumerate(packs):
        for j, drawings in enumerate(packs):
            if (photos.side, drawings.side) == ("photos", "drawings"):
                doctors.append((f"doctor: {names[i]} with {names[j]}", f"report/pack/{i}/{j}"))
    return [*newest.values(), *doctors]


def routes(shelf: Shelf) -> list[BaseRoute]:
    pages = Pages(shelf)
    return [
        Route("/report/page/{number:int}", pages.page),
        Route("/report/run/{number:int}", pages.run),
        Route("/report/pack/{number:int}", pages.pack),
        Route("/report/pack/{number:int}/{other:int}", pages.pack),
    ]


class Pages:
    """One method per address. Pages are only ever named by their place on the shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._doctors: OrderedDict[tuple[str, ...], bytes] = OrderedDict()  # hashes of packs -> page
        self._lock = threading.Lock()

    def page(self, request: Request) -> Response:
        name = self._name("page", request)
        return _gone() if name is None else _file(self.shelf.path("page", name))

    def run(self, request: Request) -> Response:
        name = self._name("run", request)
        return _gone() if name is None else _file(_report(self.shelf, name))

    def pack(self, request: Request) -> Response:
        """The doctor's page of one pack, or of photos and drawings together; made when it is asked for."""
        asked = [key for key in ("number", "other") if key in request.path_params]
        names = [self._name("pack", request, key) for key in asked]
        if None in names:
            return _gone()
        try:
            packs = [Pack.open(self.shelf.path("pack", str(name))) for name in names]
            with self._lock:  # measuring every picture takes its time: nobody shall ask for the same twice
                key = tuple(pack.hash for pack in packs)
                if key not in self._doctors:
                    page = doctor_page.html(*(checkup.checkup(pack) for pack in packs))
                    self._doctors[key] = page.encode()
                    while len(self._doctors) > KEPT:
                        self._doctors.popitem(last=False)
                return _html(self._doctors[key])
        except Problem as problem:
            return PlainTextResponse(str(problem), 422)

    def _name(self, kind: object, request: Request, key: str = "number") -> str | None:
        names, number = self.shelf.names(kind), request.path_params[key]  # type: ignore[arg-type]
        return names[number] if number < len(names) else None


def _report(shelf: Shelf, name: str) -> Path:
    return Run(shelf.path("run", name)).path / "report" / "report.html"


def _gone() -> Response:
    return PlainTextResponse("there is no such page", 404)


def _file(path: Path) -> Response:
    try:
        if path.stat().st_size > MOST:
            return PlainTextResponse(f"{path.name} has more than {MOST // 10**6} MB: open it as a file", 413)
        return _html(path.read_bytes())
    except OSError:
        return _gone()


def _html(data: bytes) -> Response:
    return Response(
        data, media_type="text/html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    )

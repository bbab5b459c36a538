"""Report: evaluation reports, studies, and the doctor's page of each pack."""

from __future__ import annotations

import asyncio
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from fewtoon.app import look
from fewtoon.app.shelf import Kind, Shelf
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.io.files import stamp
from fewtoon.metrics.page import page as whole

if TYPE_CHECKING:
    from fewtoon.data.checkup import Checkup

TITLE = "Report"
MOST = 200_000_000  # bytes of a page
# Our pages have no script and bring their pictures along: whatever is in a file, nothing runs and nothing is asked for.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'; sandbox",
    "Cache-Control": "no-store",
}
NOTHING = (
    "<p>No report yet. <code>fewtoon evaluate RUN --photos PACK --drawings PACK</code> writes one into the folder "
    "of the run; packs have a doctor's page: <code>fewtoon serve RUN PACK</code>.</p>"
)
WAIT = "made when it is first opened: this may take a minute"

# Gradio changes attributes in place: a page that has the same address and was written anew must be asked for again.
LATEST = """
const stamp = () => element.querySelector("iframe")?.dataset.stamp;
let seen = stamp();
watch("value", () => {
  const frame = element.querySelector("iframe");
  if (frame && stamp() !== seen) frame.src = frame.getAttribute("src");
  seen = stamp();
});
"""


@dataclass(frozen=True)
class Entry:
    """A page that there is now."""

    label: str
    address: str  # on this server, the same as long as it runs
    stamp: str  # another one when the page has changed

    @property
    def doctors(self) -> bool:
        return self.address.startswith("report/pack/")


def build(shelf: Shelf) -> None:
    found = contents(shelf)
    first = found[0] if found else None
    value = first.address if first else None
    chooser = gr.Dropdown(_choices(found), value=value, label="Page", visible=bool(found), interactive=True)
    again = gr.Button("Look for new reports", size="sm")
    page = gr.HTML(_frame(first), js_on_load=LATEST)

    def show(address: str | None) -> str:
        for entry in contents(shelf):
            if entry.address == address:
                return _frame(entry)
        raise Problem("this page is there no longer: choose one from the list")

    def renew(address: str | None) -> tuple[Any, str]:
        found = contents(shelf)
        entry = next((entry for entry in found if entry.address == address), found[0] if found else None)
        update = gr.update(choices=_choices(found), value=entry and entry.address, visible=bool(found))
        return update, _frame(entry)

    chooser.input(show, chooser, page, **look.LIVE)
    again.click(renew, chooser, [chooser, page], **look.QUIET)
    tab = gr.context.Context.block  # the one that is open
    assert isinstance(tab, gr.Tab)
    tab.select(renew, chooser, [chooser, page], **look.QUIET)


def contents(shelf: Shelf) -> list[Entry]:
    """All pages that there are now: reports and studies, the newest first, then the packs, then their pairs."""
    files: dict[Path, tuple[float, Entry]] = {}
    kinds: tuple[Kind, ...] = ("page", "run")  # the report of a run may be both
    for kind in kinds:
        for number, name in enumerate(shelf.names(kind)):
            path = _file(shelf, kind, name)
            with suppress(OSError):
                when = path.stat().st_mtime
                label = f"{name}, {datetime.fromtimestamp(when):%Y-%m-%d %H:%M}"
                files.setdefault(path.resolve(), (when, Entry(label, f"report/{kind}/{number}", stamp(path))))
    newest = sorted(files.values(), key=lambda one: -one[0])

    names, sides, stamps = shelf.names("pack"), {}, []
    for number, name in enumerate(names):
        path = shelf.path("pack", name)
        stamps.append(stamp(path / "pack.json"))
        with suppress(Problem):  # of a damaged pack its own page says what is wrong
            sides[number] = Pack.open(path).side
    packs = [Entry(f"doctor: {name}", f"report/pack/{i}", stamps[i]) for i, name in enumerate(names)]
    pairs = [
        Entry(f"doctor: {names[i]} with {names[j]}", f"report/pack/{i}/{j}", f"{stamps[i]} {stamps[j]}")
        for i in sides
        for j in sides
        if (sides[i], sides[j]) == ("photos", "drawings")
    ]
    return [entry for _, entry in newest] + packs + pairs


def routes(shelf: Shelf) -> list[BaseRoute]:
    pages = Pages(shelf)
    return [
        Route("/report/page/{number}", pages.page),
        Route("/report/run/{number}", pages.run),
        Route("/report/pack/{number}", pages.pack),
        Route("/report/pack/{number}/{other}", pages.pack),
    ]


class Pages:
    """One method per address. Pages are only ever named by their place on the shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._checkups: dict[str, tuple[str, Checkup]] = {}  # name of a pack -> its stamp, and what was found
        self._turn = asyncio.Lock()  # whoever waits for a checkup holds no thread meanwhile

    def page(self, request: Request) -> Response:
        return self._sent("page", request)

    def run(self, request: Request) -> Response:
        return self._sent("run", request)

    async def pack(self, request: Request) -> Response:
        """The doctor's page of one pack, or of photos and drawings together; made when it is asked for."""
        names = [self._name("pack", request, key) for key in request.path_params]
        known = [name for name in names if name is not None]
        if len(known) < len(names):
            return _said("There is no such page.", 404)
        try:
            async with self._turn:
                return HTMLResponse(await run_in_threadpool(self._doctors, known), headers=HEADERS)
        except Problem as problem:
            return _said(self.shelf.said(problem), 422)

    def _doctors(self, names: list[str]) -> str:
        from fewtoon.data import doctor_page  # late: it brings OpenCV

        packs = [Pack.open(self.shelf.path("pack", name)) for name in names]
        if len(packs) == 2 and packs[0].side == packs[1].side:  # before the work starts
            raise Problem(f"two packs of {packs[0].side}: choose one of photos and one of drawings")
        return doctor_page.html(*map(self._checkup, names, packs))

    def _checkup(self, name: str, pack: Pack) -> Checkup:
        from fewtoon.data.checkup import checkup

        now = stamp(self.shelf.path("pack", name) / "pack.json")
        then, found = self._checkups.get(name, (None, None))
        if found is None or then != now:
            found = checkup(pack)
            found.path = name  # where it lies on this machine is nobody's business
            self._checkups[name] = now, found
        return found

    def _sent(self, kind: Kind, request: Request) -> Response:
        name = self._name(kind, request)
        if name is None:
            return _said("There is no such page.", 404)
        path = _file(self.shelf, kind, name)
        try:
            status = path.stat()
        except OSError:
            return _said("There is no such page any more.", 404)
        if not stat.S_ISREG(status.st_mode):
            return _said("This is no page.", 404)
        if status.st_size > MOST:
            return _said(f"{path.name} has more than {MOST // 10**6} MB: open it as a file.", 413)
        return FileResponse(path, media_type="text/html", headers=HEADERS, stat_result=status)

    def _name(self, kind: Kind, request: Request, key: str = "number") -> str | None:
        """What has this number on the shelf; None: nothing has, or it is no number."""
        names, text = self.shelf.names(kind), request.path_params[key]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else len(names)
        return names[number] if number < len(names) else None


def _file(shelf: Shelf, kind: Kind, name: str) -> Path:
    path = shelf.path(kind, name)
    return path / "report" / "report.html" if kind == "run" else path


def _said(text: str, status: int) -> Response:
    return HTMLResponse(whole("fewtoon", f"<p>{escape(text)}</p>"), status, headers=HEADERS)


def _choices(found: list[Entry]) -> list[tuple[str, str]]:
    return [(entry.label, entry.address) for entry in found]


def _frame(entry: Entry | None) -> str:
    """The page within ours, and links that open it alone or save it."""
    if entry is None:
        return look.sheet(NOTHING)
    address, label = escape(entry.address), escape(entry.label)
    return look.sheet(
        f'<p class="over"><a href="{address}" target="_blank">open alone</a> · '
        f'<a href="{address}" download="{label}.html">download</a>{f" · {WAIT}" if entry.doctors else ""}</p>'
        f'<iframe src="{address}" title="{label}" data-stamp="{escape(entry.stamp)}" loading="lazy" sandbox></iframe>'
    )

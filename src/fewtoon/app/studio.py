"""The studio: one local page for the whole road, built on Gradio. `fewtoon serve` opens it.

The page holds no logic: its tabs (`fewtoon.app.tabs`) call the rooms that the command line calls. What may be
shown is on the shelf (`fewtoon.app.shelf`); who may ask, and for how much, is for the guard (`fewtoon.app.guard`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

# Before Gradio is imported: it reports to nobody, and keeps no statistics of calls (at each of which it made a table of
# the last 10,000).
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_MCP_SERVER="False",
    GRADIO_ANALYTICS_CACHE_FREQUENCY="1000000000", GRADIO_ANALYTICS_MAX_EVENTS="1",
)  # fmt: skip

import gradio as gr
from fastapi import FastAPI
from gradio.state_holder import SessionState
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

import fewtoon
from fewtoon import device as devices
from fewtoon.app import look
from fewtoon.app.guard import MAX_UPLOAD, Guard
from fewtoon.app.local import ADDRESS, NAMES
from fewtoon.app.server import CONNECTIONS, addresses, listening, run
from fewtoon.app.shelf import Shelf
from fewtoon.app.spool import Spool
from fewtoon.app.tabs import explore, mark, report, translate, watch

TABS = (translate, explore, mark, watch, report)
OWN = ("mark", "report")  # first parts of the addresses that tabs serve themselves
WAITING = 64  # calls in the queue; more are told to come again
SESSIONS = 200  # pages whose state is remembered
WORDS = gr.I18n(en={"common.complete": "done"})  # Gradio has none for what it tells screen readers

# Gradio keeps what every page shows, for links to that; here there are no such links, and pictures are large.
SessionState._update_value_in_config = lambda self, key, value: None  # type: ignore[method-assign]


def create_app(shelf: Shelf, token: str | None = None) -> ASGIApp:
    """The whole studio, to be served with its lifespan: files and threads are gone when that ends.

    token: what whoever asks from another machine must bring; None: only this machine may ask.
    """
    spool = Spool()
    os.environ["GRADIO_TEMP_DIR"] = str(spool.folder)  # where Gradio puts what is sent
    routes = [route for tab in TABS for route in getattr(tab, "routes", lambda shelf: [])(shelf)]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        spool.start()
        try:
            yield
        finally:
            for route in routes:
                getattr(getattr(route, "app", None), "close", lambda: None)()
            spool.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.router.routes += [
        Route("/health", _health(shelf)),
        Route("/gradio_api/upload_progress", _progress),  # before Gradio's own, which answers 404 to a webcam
        *routes,
    ]
    page = _page(shelf)
    page.state_session_capacity = SESSIONS
    page.queue(max_size=WAITING, default_concurrency_limit=2, api_open=False)
    page._queue.pending_messages_per_session.max_size = SESSIONS
    styled, scripts = ("".join(getattr(tab, name, "") for tab in TABS) for name in ("CSS", "JS"))
    head = f"{look.HEAD}<style>{styled}</style><script>{scripts}</script>"
    gr.mount_gradio_app(
        app, page, "/", theme=look.theme(), head=head, footer_links=[],
        max_file_size=MAX_UPLOAD, run_history=False, enable_monitoring=False, mcp_server=False, ssr_mode=False,
        pwa=False, allowed_paths=[], i18n=WORDS, show_error=False,  # but for ours, gr.Error: others may tell of paths
    )  # fmt: skip
    page.config["connect_heartbeat"] = False  # one connection for ever, only to know when a page is closed
    return Guard(app, spool, page, OWN, token)


def _page(shelf: Shelf) -> gr.Blocks:
    with gr.Blocks(title="fewtoon", analytics_enabled=False) as page:
        gr.HTML(look.sheet("<h1>fewtoon</h1>"))
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.TITLE, id=tab.TITLE.lower()):
                    tab.build(shelf)
    for function in page.fns.values():
        if function.fn is not None:
            function.fn = look.told(function.fn, shelf.said)
    return page


def _health(shelf: Shelf) -> Any:
    def health(request: Request) -> Response:
        return JSONResponse(
            {"status": "ok", "fewtoon": fewtoon.__version__, "styles": len(shelf.names("style"))}
        )

    return health


def _progress(request: Request) -> Response:
    """How far an upload is: on one machine it is done before anybody could look."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def serve(
    paths: Sequence[str | Path] = (),
    *,
    host: str = ADDRESS,
    port: int = 7860,
    save: str | Path | None = None,
    clip: str | Path | None = None,
    device: str | None = None,
    precision: Any = "fp32",
    open_browser: bool = True,
) -> None:
    """Serve the studio until Ctrl-C.

    paths: what is put on the shelf. host: where to listen; beyond loopback a token is made and asked for. port: 0 takes
    any that is free. save: the only folder that is written into. clip: a file of weights of CLIP. device, precision:
    of the Styles.
    Raises Problem as Shelf does, and when the port is taken. What is damaged of the rest is warned of.
    """
    devices.pick(device)  # a wrong one is told now, not when somebody draws
    shelf = Shelf(paths, device=device, precision=precision, save=save, clip=clip)
    for problem in shelf.damaged():
        print(f"fewtoon: warning: {problem}", file=sys.stderr)
    token = None if host in NAMES else secrets.token_urlsafe(24)
    with listening(port, host) as door:
        app = create_app(shelf, token)
        url, *others = [
            f"{address}?token={token}" if token else address
            for address in addresses(host, door.getsockname()[1])
        ]
        if token is not None:
            print(
                f"fewtoon: warning: everybody who can reach {host} and has the token can use this studio, over a "
                "connection that is not encrypted: do this in a network that you trust",
                flush=True,
            )
        print(f"the studio is at {url} (Ctrl-C ends it)", flush=True)
        for other in others:
            print(f"from other machines it is at {other}", flush=True)
        run(app, door, url, open_browser, lifespan="on", limit_concurrency=CONNECTIONS)

"""The door of the studio, before Gradio: who may ask, for what, and how much of it.

Gradio is made for public demos and brings many addresses. Only those that the page and the Python client need are
open here. What a request brings is read by us first: an upload goes to a place and a name of our choice, a call is put
together anew (`fewtoon.app.calls`), so that no path of this machine and no address of another one gets past the door.
Beyond loopback a token is asked for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection
from functools import partial
from html import escape
from urllib.parse import parse_qs

import anyio
import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewtoon.app.calls import Calls, Refused
from fewtoon.app.local import HEADERS, MAX_PATH, NOT_HERE, NOT_JSON, foreign, is_json, is_local, too_long
from fewtoon.app.spool import Spool
from fewtoon.app.streams import Streams
from fewtoon.metrics.page import page as whole

MAX_UPLOAD = 20 * 2**20  # bytes of a picture; Gradio's page tells it in these units
AROUND = 10_000  # bytes of a form around it
MAX_CALL = 1_000_000  # bytes of any other request
UPLOADS = 32  # at once
WAIT = 10.0  # seconds that one more waits for its turn
SLOW = 120.0  # seconds in which a request must have come
COOKIE = "fewtoon-token"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'self'"
)  # Gradio's page is made of inline scripts and templates; nothing of it may talk to another machine

_GET = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|health|"
    r"(assets|static|svelte)(/[\w@+-][\w.@+-]*)+|"
    r"gradio_api/(info|app_id|upload_progress))/?",
    re.ASCII,
)
_FILE = "/gradio_api/file="
_ANSWERS = "/gradio_api/queue/data"
_UPLOAD = "/gradio_api/upload"
_JOIN = "/gradio_api/queue/join"
_CANCEL = "/gradio_api/cancel"
# Proxies say who asks: there is none here.
_DROPPED = re.compile(rb"content-length|transfer-encoding|forwarded|x-.*")


class Guard:
    """ASGI middleware: answers itself what Gradio shall not see.

    page: the one that Gradio serves. own: first parts of paths ("mark", "report") that have doors of their own.
    token: asked for where it is not None; without one only this machine may ask.
    """

    def __init__(
        self,
        app: ASGIApp,
        spool: Spool,
        page: gr.Blocks,
        own: Collection[str] = (),
        token: str | None = None,
    ) -> None:
        self.app, self.spool, self.own, self.token = app, spool, frozenset(own), token
        self.calls, self.streams = Calls(spool, page), Streams()
        self.uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks over a websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        own = scope["path"].removeprefix("/").split("/")[0] in self.own
        send = _marked(send, own)
        try:
            self._admit(scope)
            app = self.app if own else await self._answer(scope, receive)
        except Refused as refused:
            app = _told(refused, scope)
        except _Entered:
            app = self._welcome()
        except ClientDisconnect:
            return
        await app(scope, receive, send)

    # --- who ---------------------------------------------------------------------------------------------

    def _admit(self, scope: Scope) -> None:
        """Raises Refused for who may not ask, and _Entered for who has just shown the token."""
        headers, reads = Headers(scope=scope), scope["method"] in ("GET", "HEAD")
        if self.token is None:
            if not is_local(headers):
                raise Refused(403, NOT_HERE.format(headers.get("host", "")[:60]))
        elif scope["path"] != "/health":
            self._check_token(scope, headers)
        opened = reads and headers.get("sec-fetch-mode") == "navigate"  # a link to us, on whatever page
        if foreign(headers) and not opened:
            raise Refused(403, "another page asked for this: only our own may")
        # Our own doors, too: a number of thousands of digits is none to Python.
        if len(scope["path"]) > MAX_PATH:
            raise Refused(404, "there is nothing here")

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(given):
            return
        if self._right(cookie_parser(headers.get("cookie", "")).get(COOKIE, "")):
            return
        query = parse_qs(scope["query_string"].decode("latin-1")[:1000])
        if scope["method"] == "GET" and scope["path"] == "/" and self._right(query.get("token", [""])[0]):
            raise _Entered
        raise Refused(401, "this studio asks for its token: open the address that 'fewtoon serve' printed")

    def _right(self, token: str) -> bool:
        assert self.token is not None
        return secrets.compare_digest(token.encode(), self.token.encode())

    def _welcome(self) -> Response:
        """To the page, by an address without the token, which a cookie keeps."""
        assert self.token is not None
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return response

    # --- what --------------------------------------------------------------------------------------------

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp:
        """What answers a request that is not for one of our own doors. Raises Refused."""
        path, method, headers = scope["path"], scope["method"], Headers(scope=scope)
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                return self._file(path.removeprefix(_FILE), headers)
            if path == _ANSWERS:
                query = scope["query_string"].decode("latin-1")
                session = query.removeprefix("session_hash=")
                if session == query or not self.calls.knows(session):
                    raise Refused(404, "nothing was asked in this session")
                return self._passed(scope, query.encode(), sender=partial(self.streams.watched, session))
            if _GET.fullmatch(path):
                return self._passed(scope)
        elif method == "POST" and path == _UPLOAD:
            return await self._upload(scope, receive, headers)
        elif method == "POST" and path in (_JOIN, _CANCEL):
            if not is_json(headers):
                raise Refused(415, NOT_JSON)
            body = await _read(scope, receive, MAX_CALL)
            if path == _CANCEL:
                return self._passed(scope, body=self.calls.cancelled(body))
            session, body = self.calls.joined(body)
            return self._passed(scope, body=body, sender=partial(self.streams.after, session))
        raise Refused(404, "there is nothing here")

    def _passed(
        self,
        scope: Scope,
        query: bytes = b"",
        body: bytes | None = None,
        sender: Callable[[Send], Send] = lambda send: send,
    ) -> ASGIApp:
        """Gradio, asked by us: without what it believes of a proxy, and with the body that we wrote."""
        kept = [header for header in scope["headers"] if not _DROPPED.fullmatch(header[0])]
        if body is not None:
            kept.append((b"content-length", str(len(body)).encode()))
        asked = {**scope, "query_string": query, "headers": kept}

        async def passed(_: Scope, receive: Receive, send: Send) -> None:
            given = body is None

            async def read() -> Message:
                nonlocal given
                if given:
                    return await receive()
                given = True
                return {"type": "http.request", "body": body, "more_body": False}

            await self.app(asked, read, sender(send))

        return passed

    def _file(self, path: str, headers: Headers) -> Response:
        """A file of the spool, read at once: it may be deleted in the next moment."""
        data = self.spool.read(path)
        if data is not None:
            kind = "image/png" if path.endswith(".png") else "application/octet-stream"
            return Response(data, media_type=kind, headers={"Cache-Control": "no-store"})
        if (
            headers.get("sec-fetch-dest") == "image"
        ):  # the page would show the photo that we have taken already
            return Response(status_code=204)
        raise Refused(404, "no such file")

    # --- how much ----------------------------------------------------------------------------------------

    async def _upload(self, scope: Scope, receive: Receive, headers: Headers) -> Response:
        """Put the one file of a form into the spool, and tell its place, as Gradio's own upload does."""
        if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refused(415, "a file is sent as multipart/form-data")
        _check_length(headers, MAX_UPLOAD + AROUND)
        with anyio.move_on_after(WAIT):
            while self.uploading >= UPLOADS:
                await anyio.sleep(0.05)
        if self.uploading >= UPLOADS:
            raise Refused(503, "too many pictures are being sent: try again in a moment")
        if self.spool.full:
            raise Refused(503, "too many pictures wait to be drawn: try again in a minute")
        self.uploading += 1
        try:
            with anyio.fail_after(SLOW):
                asked = Request(scope, _at_most(receive, MAX_UPLOAD + AROUND))
                async with asked.form(max_files=1, max_fields=1) as form:
                    file = form.get("files")
                    if not isinstance(file, UploadFile) or file.size is None:
                        raise Refused(400, "no file came")
                    if file.size > MAX_UPLOAD:
                        raise Refused(413, f"the file is larger than {MAX_UPLOAD} bytes")
                    kept = await run_in_threadpool(self.spool.keep, file.file, file.size)
                    return JSONResponse([str(kept)])
        except TimeoutError:
            raise Refused(408, "the file came too slowly") from None
        except (MultiPartException, HTTPException):
            raise Refused(400, "the form is not understood: it holds one file, named files") from None
        finally:
            self.uploading -= 1


def _told(refused: Refused, scope: Scope) -> Response:
    """Why something is not answered, for whoever asked."""
    if scope["path"] == _UPLOAD:  # Gradio's page shows the body as it comes
        return PlainTextResponse(refused.why, refused.status)
    if Headers(scope=scope).get("sec-fetch-dest") == "document":  # a person, who has opened an address
        return HTMLResponse(whole("fewtoon", f"<p>{escape(refused.why)}</p>"), refused.status)
    return JSONResponse({"error": refused.why}, refused.status)


class _Entered(Exception):
    """The token stands in the address."""


def _check_length(headers: Headers, most: int) -> None:
    if too_long(headers, most):
        raise Refused(413, f"the request is larger than {most} bytes")


async def _read(scope: Scope, receive: Receive, most: int) -> bytes:
    """A whole body. Raises Refused, and ClientDisconnect where it was cut."""
    _check_length(Headers(scope=scope), most)
    try:
        with anyio.fail_after(SLOW):
            return await Request(scope, _at_most(receive, most)).body()
    except TimeoutError:
        raise Refused(408, "the request came too slowly") from None


def _at_most(receive: Receive, most: int) -> Receive:
    """A body that may come in pieces, without having told its length. Raises Refused where it grows too large."""
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise Refused(413, f"the request is larger than {most} bytes")
        return message

    return counted


def _marked(send: Send, own: bool) -> Send:
    """What every answer says: who may read it, and what its page may do."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]  # Gradio shares with all pages of this machine: not with us
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not own:
                headers["Content-Security-Policy"] = POLICY
        await send(message)

    return marked

"""The door of the studio, before Gradio: who may ask, for what, and how much of it.

Gradio is made for public demos and brings many addresses. Only those that the page and the Python client need are
open here; a request body is read by us first, so that no path of this machine and no address of another one gets
past it. Beyond loopback a token is asked for.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewtoon.app.local import HEADERS, NOT_HERE, foreign, is_local
from fewtoon.app.spool import Spool

MAX_UPLOAD = 20_000_000  # bytes of a picture
MAX_BODY = 1_000_000  # bytes of any other request
UPLOADS = 8  # at once
COOKIE = "fewtoon-token"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'self'"
)  # Gradio's page is made of inline scripts and templates; nothing of it may talk to another machine

_GET = re.compile(
    r"/(|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/[\w./@+-]*|health|"
    r"gradio_api/(info/?|app_id/?|startup-events|theme\.css|heartbeat/\w+|queue/(data|status)|upload_progress|"
    r"login_check/?|call/\w+/\w+))"
)
_FILE = "/gradio_api/file="
_POST = re.compile(r"/gradio_api/(queue/join|call/(v2/)?\w+/?|run/\w+/?|cancel|reset/?)")
_UPLOAD = "/gradio_api/upload"


class Guard:
    """ASGI middleware: answers itself what Gradio shall not see.

    own: first parts of paths ("mark", "report") that have doors of their own. token: asked for where it is not None;
    without one only this machine may ask.
    """

    def __init__(
        self, app: ASGIApp, spool: Spool, own: Collection[str] = (), token: str | None = None
    ) -> None:
        self.app, self.spool, self.own, self.token = app, spool, frozenset(own), token
        self.uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks over a websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        own = path.split("/")[1] in self.own
        answer = self._refused(scope, headers, own)
        if answer is not None:
            await answer(scope, receive, self._marked(send, own))
            return
        if own or method in ("GET", "HEAD"):
            await self.app(scope, receive, self._marked(send, own))
        elif path == _UPLOAD:
            await self._upload(scope, receive, self._marked(send, own))
        else:
            await self._call(scope, receive, self._marked(send, own))

    # --- who, and what -----------------------------------------------------------------------------------

    def _refused(self, scope: Scope, headers: Headers, own: bool) -> ASGIApp | None:
        """The answer to a request that goes no further."""
        path, method = scope["path"], scope["method"]
        if self.token is None:
            if not is_local(headers):
                return _no(403, NOT_HERE.format(headers.get("host", "")[:60]))
        elif path != "/health" and (entry := self._entry(scope, headers)) is not None:
            return entry
        if method not in ("GET", "HEAD") and foreign(headers):
            return _no(403, "another page asked for this: only our own may")
        if own:
            return None
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                return self._file(path.removeprefix(_FILE), headers)
            return None if _GET.fullmatch(path) and ".." not in path else _no(404, "there is nothing here")
        if method != "POST" or not (path == _UPLOAD or _POST.fullmatch(path)):
            return _no(404, "there is nothing here")
        if path == _UPLOAD:
            if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
                return _no(415, "a file is sent as multipart/form-data")
        elif headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return _no(415, "the content type must be application/json")
        most = MAX_UPLOAD + 10_000 if path == _UPLOAD else MAX_BODY
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return _no(413, f"the request is larger than {most} bytes")
        return None

    def _file(self, path: str, headers: Headers) -> ASGIApp:
        """A file of the spool, read at once: it may be deleted in the next moment."""
        data = self.spool.read(path)
        if data is not None:
            kind = "image/png" if path.endswith(".png") else "application/octet-stream"
            return Response(data, media_type=kind, headers={"Cache-Control": "no-store"})
        if (
            headers.get("sec-fetch-dest") == "image"
        ):  # a page wants to show the photo that we have taken already
            return Response(status_code=204)
        return _no(404, "no such file")

    def _entry(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        """None for whoever brings the token; a cookie for whoever brings it in the address, once."""
        assert self.token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(given):
            return None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and self._right(cookie.value):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1")[:1000])
        if scope["method"] == "GET" and scope["path"] == "/" and self._right(query.get("token", [""])[0]):
            response = RedirectResponse("/", 303)  # the token stands no longer in the address bar
            response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return response
        return _no(401, "this studio asks for its token: open the address that 'fewtoon serve' printed")

    def _right(self, token: str) -> bool:
        assert self.token is not None
        return secrets.compare_digest(token.encode(), self.token.encode())

    # --- how much ----------------------------------------------------------------------------------------

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.uploading >= UPLOADS:
            await _no(503, "too many pictures are being sent: try again in a moment")(scope, receive, send)
            return
        if self.spool.full:
            await _no(503, "too many pictures wait to be drawn: try again in a minute")(scope, receive, send)
            return
        self.uploading += 1
        try:
            await self.app(scope, _at_most(receive, MAX_UPLOAD + 10_000), send)
        finally:
            self.uploading -= 1

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A call of a function, read whole, and passed on only if the files that it names are uploads."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # it was cut
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                await _no(413, f"the request is larger than {MAX_BODY} bytes")(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        try:
            value = json.loads(bytes(body)) if body else None
            clean = json.dumps(self._cleaned(value), ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            told = str(error) if isinstance(error, _Outside) else "the request is not JSON"
            await _no(400, told)(scope, receive, send)
            return
        length = [(b"content-length", str(len(clean)).encode())]
        scope = {**scope, "headers": [h for h in scope["headers"] if h[0] not in _LENGTHS] + length}
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": clean, "more_body": False}

        await self.app(scope, replay, send)

    def _cleaned(self, value: Any) -> Any:
        """JSON of which every file is an upload, and no file an address. Raises _Outside for another file."""
        if isinstance(value, list):
            return [self._cleaned(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "path" in value or "meta" in value:
            if not (isinstance(value.get("path"), str) and self.spool.holds(value["path"])):
                raise _Outside("a picture is sent first, and then named as it was sent")
            value = {key: one for key, one in value.items() if key != "url"}
        return {key: self._cleaned(one) for key, one in value.items()}

    # --- what every answer says --------------------------------------------------------------------------

    def _marked(self, send: Send, own: bool) -> Send:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not own:
                    headers["Content-Security-Policy"] = POLICY
            await send(message)

        return marked


class _Outside(ValueError):
    """A request names a file that it did not send."""


_LENGTHS = (b"content-length", b"transfer-encoding")


def _no(status: int, why: str) -> ASGIApp:
    return JSONResponse({"error": why}, status)


def _at_most(receive: Receive, most: int) -> Receive:
    """A body that ends, as if its connection was cut, where it has more bytes than it may."""
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > most:
                return {"type": "http.disconnect"}
        return message

    return counted

"""The door of the local pages: whoever asks must be a page of ours in a browser of this machine.

The server listens on the loopback address alone, but any web page that the same person has open can send
requests there too. Three checks keep them out: the Host header must be a loopback name (else a name that is
made to point here would make foreign pages ours: DNS rebinding), what changes something must come as JSON
from our own page (another origin would need a permission that is never given), and no header ever shares an
answer with another origin.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS = "127.0.0.1"
NAMES = {"127.0.0.1", "localhost", "::1"}
NOT_HERE = f"this page is for this machine only: open it as {ADDRESS}, not as {{!r}}"
NOT_JSON = "the content type must be application/json"
MAX_PATH = 1000  # characters of an address
MAX_BODY = 1_000_000  # bytes of a request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Local:
    """ASGI middleware: answers 403, 413 or 415 for what is not a request of our own page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":  # "lifespan" passes; a websocket finds no route
            await self.app(scope, receive, send)
            return
        refusal = refused(scope["method"], Headers(scope=scope))
        if len(scope["path"]) > MAX_PATH:  # a number of thousands of digits is none to Python
            refusal = 404, "there is nothing here"
        app = JSONResponse({"error": refusal[1]}, refusal[0]) if refusal else self.app
        await app(scope, receive, send_with_headers)


def refused(method: str, headers: Headers) -> tuple[int, str] | None:
    """The status and the reason why a request is not answered; None where it is."""
    if not is_local(headers):
        return 403, NOT_HERE.format(headers.get("host", "")[:60])
    if method in ("GET", "HEAD"):
        return None
    if foreign(headers):
        return 403, "another page asked for this: only our own may"
    if not is_json(headers):
        return 415, NOT_JSON
    if too_long(headers, MAX_BODY):
        return 413, f"the request is larger than {MAX_BODY} bytes"
    return None


def is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"


def too_long(headers: Headers, most: int) -> bool:
    """Whether a request says that it has more bytes, or nothing that can be meant; it need not say anything."""
    length = headers.get("content-length", "0")
    return not length.isdecimal() or int(length) > most


def is_local(headers: Headers) -> bool:
    """Whether a request names this machine by a name of its own."""
    return _name(headers.get("host", "")) in NAMES


def foreign(headers: Headers) -> bool:
    """Whether a browser says that a page of somebody else asks."""
    origin, host = headers.get("origin"), headers.get("host", "")
    site = headers.get("sec-fetch-site", "same-origin")
    return (origin is not None and origin != f"http://{host}") or site not in ("same-origin", "none")


def _name(host: str) -> str | None:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname if host and "@" not in host and "/" not in host else None
    except ValueError:
        return None


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request. Raises HTTPException: too large, or no object."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:  # a request in chunks does not say its length before
            raise HTTPException(413, f"the request is larger than {MAX_BODY} bytes")
    try:
        value = json.loads(bytes(body))
        json.dumps(value, ensure_ascii=False).encode()  # no halves of characters: nothing could write them
    except (ValueError, RecursionError):
        raise HTTPException(400, "the request is not JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return value

"""The HTTP server under the local pages."""

from __future__ import annotations

import errno
import os
import socket
import threading
import webbrowser
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from fewtoon.app.local import ADDRESS
from fewtoon.app.patience import Patient
from fewtoon.errors import Problem

CONNECTIONS = 256  # open at once; more are told to come again


def server_of(app: ASGIApp, **options: Any) -> uvicorn.Server:
    """A quiet server that ends soon after it was asked to. options: of uvicorn.Config."""
    settings: dict[str, Any] = {
        "log_level": "warning", "access_log": False, "lifespan": "off", "ws": "none",
        "proxy_headers": False, "server_header": False, "timeout_graceful_shutdown": 3, "http": Patient,
    }  # fmt: skip
    return uvicorn.Server(uvicorn.Config(app, **{**settings, **options}))


def run(app: ASGIApp, door: socket.socket, url: str, open_browser: bool, **options: Any) -> None:
    """Serve until Ctrl-C, and show the page in a browser where that is asked for. options: as of `server_of`."""
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed the door
        server_of(app, **options).run(sockets=[door])


def addresses(host: str, port: int) -> list[str]:
    """Where a page is opened that listens there: on this machine; and by others, where it listens to all of them."""
    here = {"0.0.0.0": ADDRESS, "::": "::1", "localhost": ADDRESS}.get(host, host)
    names = [here, *_outward(host)] if host in ("0.0.0.0", "::") else [here]
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/" for name in names]


def _outward(host: str) -> list[str]:
    """The address that this machine has for others, as its routes say; none where it is in no network."""
    # Addresses that are kept for documentation: nobody is there.
    six = ":" in host
    family, somewhere = (socket.AF_INET6, "2001:db8::1") if six else (socket.AF_INET, "192.0.2.1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as line:
        line.connect((somewhere, 9))  # of a datagram: nothing is sent
        return [str(line.getsockname()[0])]
    return []


def listening(port: int, host: str = ADDRESS) -> socket.socket:
    """A listening socket. Raises Problem when the port is taken or not allowed, or the host is not ours."""
    if not 0 <= port <= 65535:
        raise Problem(f"there is no port {port}: choose one from 1024 to 65535, or 0 for any that is free")
    elsewhere = f"host {host!r} is no address of this machine: take {ADDRESS}, or 0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)
    except (socket.gaierror, UnicodeError):
        raise Problem(elsewhere) from None
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise Problem(elsewhere) from None
        raise Problem(
            f"port {port} cannot be used on {host} ({os.strerror(error.errno or 0)}): choose another, or 0 for any "
            "that is free"
        ) from None

"""A folder of drawings and its marking page, served in a thread: what several test files ask of it."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewtoon.app.mark import create_app
from fewtoon.app.server import listening, server_of
from fewtoon.data import world
from fewtoon.data.marks import NAME
from fewtoon.faces.face import Face
from fewtoon.io.images import save_png

SIDE = 256
RED = (70, 60, 190, 180)  # left, top, right, bottom


class Painted:
    """A finder: the box of red pixels on a picture, if there is one."""

    name, identity = "painted", "painted 1"

    def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
        rows, columns = np.nonzero((picture == (255, 0, 0)).all(2))
        if not len(rows):
            return []
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return [Face(box, score=0.8, finder=self.name)]


class Nothing:
    name, identity = "nothing", "nothing 1"

    def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
        return []


class Site:
    """The page of a folder, served in a thread."""

    def __init__(self, app: Any, door: Any) -> None:
        self.app, self.port = app, door.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def ask(
        self, path: str, body: Any = None, method: str | None = None, **headers: str | None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Headers are given as in host="...", content_type="..."; None leaves one out."""
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}"}
        data = body
        if body is not None:
            data = body if isinstance(body, (bytes, list)) else json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_host=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        chunked = isinstance(data, list)
        if data is not None and not chunked and "Content-Length" not in sent:
            connection.putheader("Content-Length", str(len(data)))
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it had heard enough
            connection.endheaders(iter(data) if chunked else data, encode_chunked=chunked)
        answer = connection.getresponse()
        result = answer.status, answer.read(), answer.headers
        connection.close()
        return result

    def get(self, path: str) -> Any:
        status, body, _ = self.ask(path)
        assert status == 200, (path, body)
        return json.loads(body)

    def save(self, index: int, boxes: Any, version: str | None = None) -> tuple[int, Any]:
        version = version or self.get(f"/pictures/{index}?ahead")["version"]
        status, body, _ = self.ask(f"/pictures/{index}", {"version": version, "boxes": boxes})
        return status, json.loads(body)


@contextlib.contextmanager
def served(folder: Path, **options: Any) -> Iterator[Site]:
    app = create_app(folder, **{"finder": Nothing(), "learn": lambda examples: Nothing(), **options})
    with listening(0) as door:
        server = server_of(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield Site(app, door)
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            app.state.proposals.close()
            assert not thread.is_alive()


def wait(question: Callable[[], Any], seconds: float = 10) -> Any:
    """What the question answers as soon as that is true."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return answer


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / NAME, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def entry(*box: float, roll: float = 0, group: str | None = None) -> dict[str, Any]:
    return {"box": list(box), "roll": roll, "group": group}


def drawings(top: Path) -> Path:
    """A folder of four drawings, two of them in folders below; the second has the square `RED`, which `Painted`
    finds."""
    for i, name in enumerate(["a.png", "b 1.png", "ann/c.png", "ben/d.png"]):
        picture = world.picture("drawings", i, SIDE)[0].copy()
        if i == 1:
            left, top_, right, bottom = RED
            picture[top_:bottom, left:right] = (255, 0, 0)
        save_png(top / name, picture)
    return top

"""Calls of functions as a client sends them: taken apart, and put together anew from what is understood.

Whatever else stands in a request never reaches Gradio: no file but an upload, no address, no wrong number of values.
"""

from __future__ import annotations

import json
import re
from typing import Any

import gradio as gr

from fewtoon.app.spool import Spool

DEEP = 20  # lists in lists in lists
UNREAD = 8  # results that a page may leave lying; they are kept in memory until it fetches them
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")  # of a session or of an event, both random


class Refused(Exception):
    """A request that goes no further, the status of HTTP for it, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Calls:
    """What the functions of a page take, and which files there are to name."""

    def __init__(self, spool: Spool, page: gr.Blocks) -> None:
        self.spool, self.page = spool, page

    def joined(self, body: bytes) -> tuple[str, bytes]:
        """The session and the body of a call that wants into the queue. Raises Refused."""
        asked = _object(body)
        number, data, session = asked.get("fn_index"), asked.get("data"), _name(asked, "session_hash")
        function = self.page.fns.get(number) if type(number) is int else None
        if function is None or function.fn is None:
            raise Refused(404, "there is no such function")
        if not isinstance(data, list) or len(data) != len(function.inputs):
            raise Refused(400, f"this function takes {len(function.inputs)} values")
        for place, (block, value) in enumerate(zip(function.inputs, data)):
            if isinstance(block, gr.Image) and not isinstance(value, (dict, type(None))):
                if not isinstance(value, str):
                    raise Refused(400, "a picture is sent first, and then named as it was sent")
                data[place] = None  # a path or an address: the function says that none came, and how one does
        if self.unread(session) >= UNREAD:
            raise Refused(429, "fetch the results that wait first")
        trigger = asked.get("trigger_id")
        clean = {
            "fn_index": number,
            "data": self._cleaned(data),
            "session_hash": session,
            "event_data": self._cleaned(asked.get("event_data")),
            "trigger_id": trigger if type(trigger) is int else None,
        }
        return session, _json(clean)

    def cancelled(self, body: bytes) -> bytes:
        """A call that is taken back. Raises Refused."""
        asked = _object(body)
        number = asked.get("fn_index")
        if type(number) is not int or number not in self.page.fns:
            raise Refused(404, "there is no such function")
        names = {key: _name(asked, key) for key in ("session_hash", "event_id")}
        return _json({"fn_index": number, **names})

    def knows(self, session: str) -> bool:
        """Whether a session has called anything yet."""
        return session in self.page._queue.pending_messages_per_session

    def unread(self, session: str) -> int:
        """How many results wait for a session."""
        waiting = self.page._queue.pending_messages_per_session.get(session)
        return 0 if waiting is None else sum(one.msg == "process_completed" for one in waiting._queue)

    def _cleaned(self, value: Any, depth: int = 0) -> Any:
        """JSON in which every file is an upload of which nothing but its place is told, and nothing has an address."""
        if depth > DEEP:
            raise Refused(400, "the request is not understood: it is too deep")
        if isinstance(value, list):
            return [self._cleaned(one, depth + 1) for one in value]
        if not isinstance(value, dict):
            return value
        if value.keys().isdisjoint(("path", "url", "meta")):
            return {key: self._cleaned(one, depth + 1) for key, one in value.items()}
        path = value.get("path")
        if not isinstance(path, str) or self.spool.find(path) is None:
            raise Refused(400, "a picture is sent first, and then named as it was sent")
        return {"path": path, "meta": {"_type": "gradio.FileData"}}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the request is not a JSON object")
    return value


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # no number, or half a character
        raise Refused(400, "the request is not JSON") from None


def _name(asked: dict[str, Any], key: str) -> str:
    name = asked.get(key)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(400, f"the request has no {key}")
    return name

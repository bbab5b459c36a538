"""The stream of answers of a page, and a race in its closing.

Gradio ends the stream of a session when nothing is asked any more. A call that is taken just then has its number
answered on another connection, and a page that reads this number first believes that its stream is still open:
it would never hear of the result. So the number of such a call is held back for a moment.
"""

from __future__ import annotations

import time

import anyio
from starlette.types import Message, Send

MOMENT = (
    0.1  # seconds, by which the page has read the end of its stream; what it asked for is computed meanwhile
)
_END = b'"close_stream"'


class Streams:
    """When the streams of sessions ended: of those of the last moment."""

    def __init__(self) -> None:
        self._ended: dict[str, float] = {}

    def watched(self, session: str, send: Send) -> Send:
        """Sends a stream of answers, and remembers its end."""

        async def watch(message: Message) -> None:
            if _END in message.get("body", b""):
                now = time.monotonic()
                self._ended = {one: at for one, at in self._ended.items() if now - at < MOMENT}
                self._ended[session] = now
            await send(message)

        return watch

    def after(self, session: str, send: Send) -> Send:
        """Sends an answer to a call, but not in the moment after the end of a stream."""

        async def wait(message: Message) -> None:
            if message["type"] == "http.response.start":
                left = self._ended.get(session, 0.0) + MOMENT - time.monotonic()
                if left > 0:
                    await anyio.sleep(left)
            await send(message)

        return wait

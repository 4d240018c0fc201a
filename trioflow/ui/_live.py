"""Streaming answers: server-sent events, one whenever the answer to a query has changed.

The browser reconnects by itself. An error is an event too, sent once, so the page recovers with the store.
"""

import json
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Self, final

import trio
from starlette.responses import StreamingResponse

from trioflow._text import describe_error, one_line
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError, ConfigError, TrioflowError
from trioflow.ui._access import HEADERS

__all__ = ("Events", "Question", "answered", "as_json_text", "described", "stay_open")

Question = Callable[[], Awaitable[dict[str, Any]]]
Query = Callable[[], Awaitable[tuple[int, str]]]

PERIOD = 1.0
"""Seconds between two looks at what may have changed."""

BEAT = 15.0
"""Seconds after which a comment line keeps the connection open."""


async def answered(question: Question) -> tuple[int, str]:
    """Return the HTTP status of the answer, and the answer as JSON.

    Cancellation: passes through.
    """
    try:
        status, found = 200, await question()
    except TrioflowError as error:
        status, found = described(error)
    # A large answer takes long to encode.
    return status, await trio.to_thread.run_sync(as_json_text, found)


def described(error: TrioflowError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the answer for an error."""
    kinds = ((CheckpointNotFoundError, 404), (CheckpointConflictError, 409), (ConfigError, 422))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 503)
    return status, {"error": one_line(describe_error(error))}


def as_json_text(found: Any) -> str:
    """Return `found` as a line of JSON."""
    return json.dumps(found, allow_nan=False)


@final
class Events:
    """An async iterator of events: one for each answer that differs from the previous one.

    Not a generator, which a disconnected client would leave suspended.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._last: tuple[int, str] | None = None
        self._quiet_since = -math.inf

    def __repr__(self) -> str:
        return "<Events>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next event, once there is one.

        Cancellation: passes through; the next one is not lost.
        """
        while True:
            if self._last is not None:
                await trio.sleep(PERIOD)
            latest = await self._query()
            now = trio.current_time()
            if latest != self._last:
                begins = "" if self._last is not None else "retry: 2000\n"
                self._last, self._quiet_since = latest, now
                status, text = latest
                return f"{begins}event: {'found' if status == HTTPStatus.OK else 'problem'}\ndata: {text}\n\n"
            if now - self._quiet_since >= BEAT:
                self._quiet_since = now
                return ": still here\n\n"


def stay_open(query: Query) -> StreamingResponse:
    """Return a streaming response that ends when the client disconnects."""
    return StreamingResponse(Events(query), media_type="text/event-stream", headers=HEADERS)

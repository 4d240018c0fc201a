"""Answers that stay open: server-sent events, one whenever what is asked for has changed.

The browser opens such an answer again by itself where it was cut off. What cannot be answered is an event too,
said once, so a store that comes back is seen again.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import trio
from starlette.responses import StreamingResponse

from trioflow._text import describe_error, one_line
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError, ConfigError, TrioflowError
from trioflow.ui._access import HEADERS

__all__ = ("Question", "answered", "as_events", "as_json_text", "described", "stay_open")

Question = Callable[[], Awaitable[dict[str, Any]]]

PERIOD = 1.0
"""Seconds between two looks at what may have changed."""

BEAT = 15.0
"""Seconds after which a line without meaning keeps the connection."""


async def answered(question: Question) -> tuple[int, str]:
    """Return the status of the answer, and the answer as JSON.

    Cancellation: passes through.
    """
    try:
        status, found = 200, await question()
    except TrioflowError as error:
        status, found = described(error)
    # A large answer takes long to write.
    return status, await trio.to_thread.run_sync(as_json_text, found)


def described(error: TrioflowError) -> tuple[int, dict[str, Any]]:
    """Return the status and the answer that say what went wrong."""
    kinds = ((CheckpointNotFoundError, 404), (CheckpointConflictError, 409), (ConfigError, 422))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 503)
    return status, {"error": one_line(describe_error(error))}


def as_json_text(found: Any) -> str:
    """Return `found` as a line of JSON."""
    return json.dumps(found, allow_nan=False)


async def as_events(ask: Callable[[], Awaitable[tuple[int, str]]]) -> AsyncIterator[str]:
    """Yield an event for each answer that differs from the one before.

    Cancellation: passes through.
    """
    yield "retry: 2000\n\n"
    last: tuple[int, str] | None = None
    quiet_since = trio.current_time()
    while True:
        latest = await ask()
        if latest != last:
            last = latest
            quiet_since = trio.current_time()
            status, text = latest
            yield f"event: {'found' if status == HTTPStatus.OK else 'problem'}\ndata: {text}\n\n"
        elif trio.current_time() - quiet_since >= BEAT:
            quiet_since = trio.current_time()
            yield ": still here\n\n"
        await trio.sleep(PERIOD)


def stay_open(ask: Callable[[], Awaitable[tuple[int, str]]]) -> StreamingResponse:
    """Return the answer that goes on until who asked goes away."""
    return StreamingResponse(as_events(ask), media_type="text/event-stream", headers=HEADERS)

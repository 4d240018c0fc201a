"""The page as an ASGI application: three files, queries answered with JSON, once or live, and two changes.

Without `changes` it is read-only. On loopback it accepts only this machine's own names, against DNS rebinding;
elsewhere it requires a token.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from importlib.resources import files
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trioflow._text import describe_error, one_line
from trioflow.errors import ConfigError, TrioflowError
from trioflow.ui._access import HEADERS, HostGate, TokenGate, is_from_page
from trioflow.ui._changes import Changes
from trioflow.ui._live import answered, as_json_text, described, stay_open
from trioflow.ui._views import Views

__all__ = ("OWN_NAMES", "make_app")

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_LONGEST_TEXT = 1_000
_LARGEST_CHANGE = 1 << 20
"""The most bytes of a change."""

OWN_NAMES = ("127.0.0.1", "localhost", "::1")
"""The host names of this machine only."""

Answer = Callable[[Mapping[str, str]], Awaitable[dict[str, Any]]]


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    """A change requested by the page."""

    id: str
    """The run."""
    step: int = -1
    """The step after which the page showed it paused."""
    update: dict[str, Any] | None = None
    """Values of its state by name."""


def make_app(
    views: Views,
    store: str,
    changes: Changes | None = None,
    *,
    token: str | None = None,
    port: int = 0,
    names: Collection[str] | None = OWN_NAMES,
) -> Starlette:
    """Return the application that shows `views`.

    Args:
        views: answers queries.
        store: the store's displayed name.
        changes: performs changes; None is read-only.
        token: the required token; None requires none.
        port: the port that it is served on.
        names: the accepted host names; None accepts any.
    """
    answers = _answers(views, one_line(store), changes)
    routes = [Route(path, _file(*named)) for path, named in _FILES.items()]
    for answer in answers:
        routes.append(Route(f"/api/{answer.__name__}", _once(answer)))
        routes.append(Route(f"/live/{answer.__name__}", _live(answer)))
    routes += [Route(f"/api/{what}", _changing(changes, what), methods=["POST"]) for what in ("answer", "cancel")]
    layers = [] if names is None else [Middleware(HostGate, names=names)]
    if token is not None:
        layers.append(Middleware(TokenGate, token=token, name=f"trioflow_{port}"))
    return Starlette(routes=routes, middleware=layers)


def _answers(views: Views, store: str, changes: Changes | None) -> tuple[Answer, ...]:
    secret = None if changes is None else changes.secret

    async def runs(query: Mapping[str, str]) -> dict[str, Any]:
        text = query.get("text", "")[:_LONGEST_TEXT]
        found = await views.runs(text=text, status=query.get("status", ""), offset=_offset(query))
        return {"store": store, **found}

    async def run(query: Mapping[str, str]) -> dict[str, Any]:
        run_id = query.get("id", "")
        found = await views.run(run_id)
        info = await views.find(run_id)
        allowed = None if changes is None or info is None else changes.allowed(info) | {"secret": secret}
        return {"store": store, **found, "changes": allowed}

    async def items(query: Mapping[str, str]) -> dict[str, Any]:
        return await views.items(query.get("id", ""), offset=_offset(query))

    return runs, run, items


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("trioflow.ui") / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return answer


def _once(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def responding(request: Request) -> Response:
        status, text = await answered(lambda: answer(request.query_params))
        return Response(text, status, media_type="application/json", headers=HEADERS)

    return responding


def _live(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def responding(request: Request) -> Response:
        query = request.query_params
        return stay_open(lambda: answered(lambda: answer(query)))

    return responding


def _changing(changes: Changes | None, what: str) -> Callable[[Request], Awaitable[Response]]:
    async def responding(request: Request) -> Response:
        if changes is None:
            return _said(403, error="the page is read-only: start it with --write to change runs")
        if not is_from_page(request, changes.secret):
            return _said(403, error="only the page itself may change runs: reload it")
        try:
            change = msgspec.json.decode(await _body(request), type=_Change)
            done = await (changes.cancel(change.id) if what == "cancel" else _answer(changes, change))
            return _said(200, done=done)
        except msgspec.MsgspecError as error:
            return _said(422, error=f"this is not a valid change: {one_line(describe_error(error))}")
        except TrioflowError as error:
            status, found = described(error)
            return _said(status, **found)

    return responding


async def _answer(changes: Changes, change: _Change) -> str:
    """Answer a pause.

    Raises:
        TrioflowError: it cannot be answered like this.

    Cancellation: as for `Changes.answer`.
    """
    if change.update is None:
        raise ConfigError("an answer is a JSON object: the values of the state by their names")
    return await changes.answer(change.id, change.step, change.update)


async def _body(request: Request) -> bytes:
    """Return the request's body, if it is not too large.

    Raises:
        ConfigError: it is.

    Cancellation: passes through.
    """
    body = b""
    length = request.headers.get("content-length", "0")
    size = int(length) if length.isascii() and length.isdecimal() and len(length) < 10 else _LARGEST_CHANGE + 1
    more = True
    while more:
        if max(size, len(body)) > _LARGEST_CHANGE:
            raise ConfigError(f"a change has {_LARGEST_CHANGE} bytes at most")
        message = await request.receive()
        body += message.get("body", b"")
        # A client that disconnects early has sent no change.
        more = message.get("more_body", False)
    return body


def _said(status: int, **what: str) -> Response:
    return Response(as_json_text(what), status, media_type="application/json", headers=HEADERS)


def _offset(query: Mapping[str, str]) -> int:
    text = query.get("offset", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0

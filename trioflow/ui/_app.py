"""The page as an ASGI application: three files, and three questions that are answered with JSON.

It can do nothing but read. It answers to this machine's own names alone, so that no other site's page can ask
through a name that it makes point here; and the browser is told to run nothing but the page's own script.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trioflow._text import describe_error, one_line
from trioflow.errors import CheckpointNotFoundError, TrioflowError
from trioflow.ui._views import Views

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_LONGEST_TEXT = 1_000


def make_app(views: Views, store: str) -> Starlette:
    """Return the application that shows what `views` answers.

    Args:
        views: what is shown.
        store: the store's name, as it is shown.
    """
    shown = one_line(store)

    async def runs(query: Mapping[str, str]) -> Any:
        text = query.get("text", "")[:_LONGEST_TEXT]
        found = await views.runs(text=text, status=query.get("status", ""), offset=_offset(query))
        return {"store": shown, **found}

    async def run(query: Mapping[str, str]) -> Any:
        return {"store": shown, **await views.run(query.get("id", ""))}

    async def items(query: Mapping[str, str]) -> Any:
        return await views.items(query.get("id", ""), offset=_offset(query))

    routes = [Route(path, _file(*named)) for path, named in _FILES.items()]
    routes += [Route(f"/api/{answer.__name__}", _answering(answer)) for answer in (runs, run, items)]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    return Starlette(routes=routes, middleware=[hosts])


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("trioflow.ui") / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return answer


def _answering(answer: Callable[[Mapping[str, str]], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        status = 200
        try:
            found = await answer(request.query_params)
        except TrioflowError as error:
            status = 404 if isinstance(error, CheckpointNotFoundError) else 503
            found = {"error": one_line(describe_error(error))}
        content = json.dumps(found, allow_nan=False)
        return Response(content, status, media_type="application/json", headers=_HEADERS)

    return answered


def _offset(query: Mapping[str, str]) -> int:
    text = query.get("offset", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0

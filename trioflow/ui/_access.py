"""Access control: who may read, and who may write.

Beyond this machine the page requires a token: the address of the first visit carries it, and a cookie that scripts
cannot read replaces it from then on. A change must come from the page itself: it carries a secret that only the
page's own script can read, and the browser must not report a cross-site request.
"""

import secrets
from collections.abc import Collection
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ("CHANGE_HEADER", "HEADERS", "HostGate", "TokenGate", "is_from_page")

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: the browser runs only the page's own script."""

CHANGE_HEADER = "X-Trioflow-Page"
"""Carries the page's secret with a change. A form cannot send it, and another site's script may not."""


@final
class HostGate:
    """Rejects requests whose `Host` is not one of these names, against DNS rebinding.

    Otherwise another site could resolve its own name to this address, and read the page as same-origin.

    Args:
        app: the application behind it.
        names: the host's names and addresses.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    def __repr__(self) -> str:
        return f"<HostGate {', '.join(sorted(self._names))}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request.

        Cancellation: passes through.
        """
        if scope["type"] == "lifespan" or _named(Headers(scope=scope).get("host", "")) in self._names:
            await self._app(scope, receive, send)
        else:
            text = "This page is not served by this name.\n"
            await Response(text, 400, media_type="text/plain", headers=HEADERS)(scope, receive, send)


def _named(host: str) -> str | None:
    """Return the name without the port, and without the brackets of an address."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


@final
class TokenGate:
    """Rejects requests without `token` in the address, or the cookie of an earlier visit.

    Args:
        app: the application behind it.
        token: the token.
        name: the cookie's name: one for each port, because browsers share cookies between ports.
    """

    def __init__(self, app: ASGIApp, token: str, name: str) -> None:
        self._app = app
        self._token = _digest(token)
        self._name = name
        # The cookie does not reveal the token.
        self._cookie = _digest(f"the cookie of {token}")

    def __repr__(self) -> str:
        return f"<TokenGate {self._name}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request.

        Cancellation: passes through.
        """
        if scope["type"] == "lifespan" or self._has_cookie(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif self._has_token(scope):
            await self._app(scope, receive, self._with_cookie(send))
        else:
            text = "This page needs its token: open it with ?token= and the token that it was started with.\n"
            await Response(text, 403, media_type="text/plain", headers=HEADERS)(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return any(_is_same(_digest(given), self._token) for given in query.get("token", ())[:1])

    def _has_cookie(self, headers: Headers) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._name)
        except CookieError:
            return False
        return cookie is not None and _is_same(cookie.value, self._cookie)

    def _with_cookie(self, send: Send) -> Send:
        cookie = f"{self._name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Set-Cookie", cookie)
            await send(message)

        return sending


def is_from_page(request: Request, secret: str) -> bool:
    """Whether the request comes from the page's own script, and not from another site."""
    origin = request.headers.get("origin")
    here = request.headers.get("host", "")
    own = origin is None or urlsplit(origin).netloc == here
    site = request.headers.get("sec-fetch-site", "same-origin")
    return own and site == "same-origin" and _is_same(request.headers.get(CHANGE_HEADER, ""), secret)


def _digest(text: str) -> str:
    """Return a digest of `text` for a comparison, which then does not reveal even its length."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())

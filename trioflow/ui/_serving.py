"""Serving the page, on loopback unless there is a token, until the caller has enough."""

import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, final
from urllib.parse import urlsplit

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_app

from trioflow.config.checks import check_flag, check_instance, check_text
from trioflow.errors import ConfigError
from trioflow.graph import StateGraph
from trioflow.ui._app import OWN_NAMES, make_app
from trioflow.ui._changes import Changes
from trioflow.ui._reader import Reader
from trioflow.ui._views import Views, list_whole

__all__ = ("Asked", "serve", "shown_url")

_LAST_ANSWERS = 0.5
"""Seconds that answers under way are given at the end."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """How the page is to be served; see `trioflow.ui.serve_page`."""

    url: str
    """The store."""
    host: str
    """The address."""
    port: int
    """The port; 0 is any."""
    graphs: tuple[StateGraph[Any], ...]
    """The graphs that are known."""
    show_data: bool
    """Whether values are shown."""
    write: bool
    """Whether runs may be changed."""
    token: str | None
    """What everybody must show."""


async def serve(asked: Asked, started: Callable[[str], None]) -> None:
    """Serve the page.

    Raises:
        ConfigError: it cannot be served so.

    Cancellation: the page is served no more; runs that were answered from it are cancelled, and kept.
    """
    _check(asked)
    reader = Reader(asked.url)
    await reader.ask("runs", list_whole)
    listening = await _bind(asked.host, asked.port)
    port = listening.getsockname()[1]
    config = Config()
    config.accesslog = None
    config.loglevel = "ERROR"
    config.graceful_timeout = _LAST_ANSWERS
    config.include_server_header = False
    config.bind = [f"fd://{listening.detach()}"]
    async with trio.open_nursery() as nursery:
        views = Views(reader, asked.graphs, show_data=asked.show_data)
        changes = Changes(asked.url, asked.graphs, nursery, show_data=asked.show_data) if asked.write else None
        names = (*OWN_NAMES, asked.host) if is_loopback(asked.host) else None
        app: Any = make_app(views, shown_url(asked.url), changes, token=asked.token, port=port, names=names)
        # Without a trigger of its own hypercorn would end at the first signal by itself.
        await serve_app(app, config, shutdown_trigger=trio.sleep_forever, task_status=_Address(started))


def _check(asked: Asked) -> None:
    check_text("host", asked.host)
    check_instance("port", asked.port, int)
    if not 0 <= asked.port < 1 << 16:
        raise ConfigError.refusing("port", asked.port, "from 0 (any that is free) to 65535")
    check_flag("show_data", asked.show_data)
    check_flag("write", asked.write)
    if asked.token is not None:
        check_text("token", asked.token, "a non-empty string or None")
    elif not is_loopback(asked.host):
        allowed = "an address of this machine alone, such as 127.0.0.1, where there is no token"
        raise ConfigError.refusing("host", asked.host, allowed)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
class _Address:
    """Passes on where hypercorn serves."""

    def __init__(self, started: Callable[[str], None]) -> None:
        self._started = started

    def started(self, value: Any = None) -> None:
        self._started(f"{value[0]}/")


async def _bind(host: str, port: int) -> socket.socket:
    """Return a socket at this address; hypercorn would leave one open where the port cannot be had.

    Raises:
        OSError: the address cannot be had.

    Cancellation: passes through.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # `localhost` is first what most programs take it for.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def shown_url(url: str) -> str:
    """Return `url` without who logs in, and how."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"

"""Serves the page, on loopback unless there is a token, until cancelled."""

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

__all__ = ("Serving", "serve", "shown_url")

_LAST_ANSWERS = 0.5
"""Seconds for open responses to finish at the end."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `trioflow.ui.serve_page`."""

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


async def serve(serving: Serving, started: Callable[[str], None]) -> None:
    """Serve the page.

    Raises:
        ConfigError: an argument is invalid.

    Cancellation: the page is no longer served; runs answered from it are cancelled, and can be resumed.
    """
    _check(serving)
    reader = Reader(serving.url)
    await reader.query("runs", list_whole)
    listening = await _bind(serving.host, serving.port)
    port = listening.getsockname()[1]
    config = Config()
    config.accesslog = None
    config.loglevel = "ERROR"
    config.graceful_timeout = _LAST_ANSWERS
    config.include_server_header = False
    config.bind = [f"fd://{listening.detach()}"]
    async with trio.open_nursery() as nursery:
        views = Views(reader, serving.graphs, show_data=serving.show_data)
        changes = None
        if serving.write:
            changes = Changes(serving.url, serving.graphs, nursery, show_data=serving.show_data)
        names = (*OWN_NAMES, serving.host) if is_loopback(serving.host) else None
        app: Any = make_app(views, shown_url(serving.url), changes, token=serving.token, port=port, names=names)
        # Without this trigger, hypercorn would end by itself at the first signal.
        await serve_app(app, config, shutdown_trigger=trio.sleep_forever, task_status=_Address(started))


def _check(serving: Serving) -> None:
    check_text("host", serving.host)
    check_instance("port", serving.port, int)
    if not 0 <= serving.port < 1 << 16:
        raise ConfigError.refusing("port", serving.port, "from 0 (any that is free) to 65535")
    check_flag("show_data", serving.show_data)
    check_flag("write", serving.write)
    if serving.token is not None:
        check_text("token", serving.token, "a non-empty string or None")
    elif not is_loopback(serving.host):
        allowed = "a loopback address, such as 127.0.0.1, unless there is a token"
        raise ConfigError.refusing("host", serving.host, allowed)


def is_loopback(host: str) -> bool:
    """Whether the address is a loopback address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
class _Address:
    """Reports the address that hypercorn serves."""

    def __init__(self, started: Callable[[str], None]) -> None:
        self._started = started

    def started(self, value: Any = None) -> None:
        self._started(f"{value[0]}/")


async def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to this address; hypercorn would leak one if the port is not available.

    Raises:
        OSError: the address is not available.

    Cancellation: passes through.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Of the addresses of `localhost`, first the one that most programs use.
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
    """Return `url` without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"

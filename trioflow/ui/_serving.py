"""Serving the page: on loopback only, until the caller has enough."""

import os
import socket
from collections.abc import Callable
from typing import Any, final
from urllib.parse import urlsplit

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_app

from trioflow.checkpoint.looking import all_runs
from trioflow.config.checks import check_instance
from trioflow.errors import ConfigError
from trioflow.graph import StateGraph
from trioflow.ui._app import make_app
from trioflow.ui._reader import Reader
from trioflow.ui._views import Views

_LAST_ANSWERS = 0.5
"""Seconds that answers under way are given at the end."""


async def serve(
    url: str,
    port: int,
    graphs: tuple[StateGraph[Any], ...],
    *,
    show_data: bool,
    started: Callable[[str], None],
) -> None:
    """Serve the page of the runs at `url`; see `trioflow.ui.serve_page`.

    Cancellation: the page is served no more.
    """
    check_instance("port", port, int)
    if not 0 <= port < 1 << 16:
        raise ConfigError.refusing("port", port, "from 0 (any that is free) to 65535")
    reader = Reader(url)
    await reader.ask("runs", all_runs)
    app: Any = make_app(Views(reader, graphs, show_data=show_data), shown_url(url))
    config = Config()
    config.accesslog = None
    config.loglevel = "ERROR"
    config.graceful_timeout = _LAST_ANSWERS
    config.include_server_header = False
    config.bind = [f"fd://{_bind(port)}"]
    # Without a trigger of its own hypercorn would end at the first signal by itself.
    await serve_app(app, config, shutdown_trigger=trio.sleep_forever, task_status=_Address(started))


@final
class _Address:
    """Passes on where hypercorn serves."""

    def __init__(self, started: Callable[[str], None]) -> None:
        self._started = started

    def started(self, value: Any = None) -> None:
        self._started(f"{value[0]}/")


def _bind(port: int) -> int:
    """Return a socket's number; hypercorn would leave one open where the port cannot be had."""
    with socket.socket() as bound:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        return bound.detach()


def shown_url(url: str) -> str:
    """Return `url` without who logs in, and how."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"

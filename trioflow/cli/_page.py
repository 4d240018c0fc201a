"""`trioflow ui`: the page of runs, served until Ctrl-C."""

import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import final

import trio

from trioflow._text import describe_error, one_line
from trioflow.cli._graphs import load_graph
from trioflow.cli._printing import CommandError
from trioflow.cli._runs import check_url
from trioflow.errors import leaves
from trioflow.ui import serve_page

_PORT = 8765
_ENDS = (signal.SIGINT, signal.SIGTERM)


def ui(
    *,
    store: str,
    host: str = "127.0.0.1",
    port: int = _PORT,
    graph: tuple[str, ...] = (),
    show_data: bool = False,
    write: bool = False,
    token: str | None = None,
) -> int:
    """Show the runs in a store in a browser, live; by default read-only and on this machine only.

    Args:
        store: the store's URL, such as sqlite:///runs.db.
        host: the address to listen on; one that other machines can reach needs a token.
        port: the port; 0 picks a free one.
        graph: a graph, as package.module:graph: its runs are drawn with the edges that they have not taken, and
            their pauses can be answered. May be given several times.
        show_data: also show states, results, payloads of pauses and error messages.
        write: allow answering pauses and cancelling runs.
        token: the token that opens the page, given as ?token= in its address. Other users of this machine can see
            a command's arguments; use the environment variable TRIOFLOW_UI_TOKEN instead.
    """
    check_url(store)
    token = os.environ.get("TRIOFLOW_UI_TOKEN") if token is None else token
    page = partial(
        serve_page,
        store,
        host=host,
        port=port,
        graphs=[load_graph(target) for target in graph],
        show_data=show_data,
        write=write,
        token=token,
    )
    try:
        return trio.run(_serve, page, "" if token is None else " with ?token= and the token at its end")
    except OSError as error:
        why = one_line(error.strerror or describe_error(error))
        where = f"on port {port}" if host == "127.0.0.1" else f"at {one_line(host)}, port {port}"
        raise CommandError(f"the page cannot be served {where}: {why}") from error


async def _serve(page: Callable[..., Awaitable[None]], how: str) -> int:
    """Serve the page until a signal arrives, and return the exit status that a shell expects then.

    Cancellation: the page is no longer served.
    """
    ended_by = 0

    async def watch() -> None:
        nonlocal ended_by
        async for number in signals:
            ended_by = number
            nursery.cancel_scope.cancel(reason="a signal arrived")

    with trio.open_signal_receiver(*_ENDS) as signals:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await page(task_status=_Announcement(how))
        except BaseExceptionGroup as group:
            # There is one task here, so there is one error.
            raise next(leaves(group)) from None
    return 128 + ended_by


@final
class _Announcement:
    """Prints the page's address, once it is served, and how to open it."""

    def __init__(self, how: str) -> None:
        self._how = how

    def started(self, value: str = "") -> None:
        print(f"the runs are shown at {value}{self._how} (Ctrl-C ends it)", flush=True)  # noqa: T201 - a command line prints

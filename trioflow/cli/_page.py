"""`trioflow ui`: the page of runs, served until Ctrl-C."""

import signal
from collections.abc import Sequence
from typing import Any, final

import trio

from trioflow._text import describe_error, one_line
from trioflow.cli._graphs import load_graph
from trioflow.cli._printing import CommandError
from trioflow.cli._runs import check_url
from trioflow.errors import leaves
from trioflow.graph import StateGraph
from trioflow.ui import serve_page

_PORT = 8765
_ENDS = (signal.SIGINT, signal.SIGTERM)


def ui(*, store: str, port: int = _PORT, graph: tuple[str, ...] = (), show_data: bool = False) -> int:
    """Show the runs in a store in a browser, live: on this machine only, without changing anything.

    Args:
        store: the store's URL, such as sqlite:///runs.db.
        port: where; 0 is any that is free.
        graph: a graph whose runs are drawn with the ways that they have not taken: package.module:graph. May be
            given several times.
        show_data: show states, results and what pauses ask for, too.
    """
    check_url(store)
    graphs = [load_graph(target) for target in graph]
    try:
        return trio.run(_serve, store, port, graphs, show_data)
    except OSError as error:
        why = one_line(error.strerror or describe_error(error))
        raise CommandError(f"the page cannot be served on port {port}: {why}") from error


async def _serve(store: str, port: int, graphs: Sequence[StateGraph[Any]], show_data: bool) -> int:  # noqa: FBT001
    """Serve the page until a signal comes, and return the status that a shell expects then.

    Cancellation: the page is served no more.
    """
    ended_by = 0

    async def watch() -> None:
        nonlocal ended_by
        async for number in signals:
            ended_by = number
            nursery.cancel_scope.cancel(reason="a signal came")

    with trio.open_signal_receiver(*_ENDS) as signals:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                shown = _Announcement()
                await serve_page(store, port=port, graphs=graphs, show_data=show_data, task_status=shown)
        except BaseExceptionGroup as group:
            # One thing is done here, so one thing went wrong.
            raise next(leaves(group)) from None
    return 128 + ended_by


@final
class _Announcement:
    """Says where the page is, once it is served."""

    def started(self, value: str = "") -> None:
        print(f"the runs are shown at {value} (Ctrl-C ends it)", flush=True)  # noqa: T201 - a command line prints

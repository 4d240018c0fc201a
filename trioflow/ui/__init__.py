"""The page of runs: what a store keeps, seen in a browser on this machine, while it changes.

`trioflow ui --store sqlite:///runs.db` serves it. Looking never writes, and what runs were given and returned is
not shown unless that is asked for. It needs the extra `ui` (starlette and hypercorn), imported when it is used.
"""

from collections.abc import Iterable
from typing import Any

import trio

from trioflow.graph import StateGraph

__all__ = ("serve_page",)


async def serve_page(  # noqa: ASYNC114, ASYNC128 - what serves calls `started`
    store: str,
    *,
    port: int = 0,
    graphs: Iterable[StateGraph[Any]] = (),
    show_data: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the page of the runs in a store on this machine alone, until it is cancelled.

    Args:
        store: the store's URL.
        port: where; 0 is any that is free.
        graphs: the graphs whose runs are drawn with the ways that they have not taken, too.
        show_data: show states, results and what pauses ask for.
        task_status: is told the page's address once it is served.

    Raises:
        ConfigError: `store` is no URL of a store, or `port` is no port.
        CheckpointError: the store cannot be read.
        OSError: the port cannot be had.
        ImportError: the extra `ui` is not installed.

    Cancellation: the page is served no more.
    """
    try:
        from trioflow.ui._serving import serve  # noqa: PLC0415 - the extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "hypercorn"}:
            raise
        message = "the page of runs needs the extra `ui`: pip install 'trioflow[ui]'"
        raise ImportError(message) from error
    await serve(store, port, tuple(graphs), show_data=show_data, started=task_status.started)

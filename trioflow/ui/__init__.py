"""The page of runs: what a store keeps, seen in a browser, while it changes.

`trioflow ui --store sqlite:///runs.db` serves it, on this machine only unless there is a token. Looking never
writes, and what runs were given and returned is not shown unless that is asked for; nor is anything changed. It
needs the extra `ui` (starlette and hypercorn), imported when it is used.
"""

from collections.abc import Iterable
from typing import Any

import trio

from trioflow.graph import StateGraph

__all__ = ("serve_page",)


async def serve_page(  # noqa: ASYNC114, ASYNC128 - what serves calls `started`
    store: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    graphs: Iterable[StateGraph[Any]] = (),
    show_data: bool = False,
    write: bool = False,
    token: str | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the page of the runs in a store, until it is cancelled.

    Args:
        store: the store's URL.
        host: the address to serve it at; one that others can reach needs a `token`.
        port: where; 0 is any that is free.
        graphs: the graphs whose runs are drawn with the ways that they have not taken, too, and whose pauses can
            be answered. To be answered, they must keep their runs in this store.
        show_data: show states, results, what pauses ask for and what errors say.
        write: let pauses be answered and runs be cancelled. A run that is answered goes on in this process.
        token: what everybody must show who opens the page: its address ends with `?token=` and this at the first
            visit.
        task_status: is told the page's address once it is served.

    Raises:
        ConfigError: `store` is no URL of a store, `port` is no port, or `host` needs a token.
        CheckpointError: the store cannot be read.
        OSError: the address cannot be had.
        ImportError: the extra `ui` is not installed.

    Cancellation: the page is served no more; runs that were answered from it are cancelled, and can be resumed.
    """
    try:
        from trioflow.ui._serving import Asked, serve  # noqa: PLC0415 - the extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "hypercorn"}:
            raise
        message = "the page of runs needs the extra `ui`: pip install 'trioflow[ui]'"
        raise ImportError(message) from error
    asked = Asked(
        url=store,
        host=host,
        port=port,
        graphs=tuple(graphs),
        show_data=show_data,
        write=write,
        token=token,
    )
    await serve(asked, task_status.started)

"""The web page of runs: the contents of a store in a browser, live.

`trioflow ui --store sqlite:///runs.db` serves it, on this machine only unless there is a token. By default it is
read-only, and hides states and results. Needs the extra `ui` (starlette and hypercorn), which is imported on use.
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
    """Serve the page of the runs in a store, until cancelled.

    Args:
        store: the store's URL.
        host: the address to listen on; one that other machines can reach needs a `token`.
        port: the port; 0 picks a free one.
        graphs: the graphs whose runs are drawn with the edges that they have not taken, and whose pauses can be
            answered. For answers, their runs must be in this store.
        show_data: whether to show states, results, payloads of pauses and error messages.
        write: whether to allow answering pauses and cancelling runs. An answered run continues in this process.
        token: the token that opens the page, given as `?token=` in its address at the first visit.
        task_status: receives the page's address once it is served.

    Raises:
        ConfigError: `store` is not the URL of a store, `port` is invalid, or `host` needs a token.
        CheckpointError: the store cannot be read.
        OSError: the address is not available.
        ImportError: the extra `ui` is not installed.

    Cancellation: the page is no longer served; runs that were answered from it are cancelled, and can be resumed.
    """
    try:
        from trioflow.ui._serving import Serving, serve  # noqa: PLC0415 - the extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "hypercorn"}:
            raise
        message = "the page of runs needs the extra `ui`: pip install 'trioflow[ui]'"
        raise ImportError(message) from error
    serving = Serving(
        url=store,
        host=host,
        port=port,
        graphs=tuple(graphs),
        show_data=show_data,
        write=write,
        token=token,
    )
    await serve(serving, task_status.started)

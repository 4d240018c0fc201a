"""Calls on any `concurrent.futures.Executor`: threads, processes, interpreters, loky, a Dask cluster.

`on_executor` makes a processor like any other: the run around it bounds, orders, repeats, reports and keeps its
calls as ever. What it adds is how calls get there: in chunks (`_chunks`), through a thread that may block
(`_sender`), packed so that what cannot travel fails alone (`_requests`).
"""

import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, overload

from trioflow.config.checks import check_count, check_number, is_async
from trioflow.errors import ConfigError
from trioflow.executors._chunks import ChunkedCaller
from trioflow.executors._lifetime import Lifetime
from trioflow.executors._requests import check_importable
from trioflow.executors._sender import OPEN

__all__ = ("on_executor",)

P = ParamSpec("P")
R = TypeVar("R")

_EXECUTOR = "a concurrent.futures.Executor, or a plain function that makes one"


@overload
def on_executor(
    executor: Executor | Callable[[], Executor],
    fn: Callable[P, Awaitable[R]],
    *,
    chunk: int = 1,
    max_wait: float = 0.01,
) -> Callable[P, Awaitable[R]]: ...
@overload
def on_executor(
    executor: Executor | Callable[[], Executor],
    fn: Callable[P, R],
    *,
    chunk: int = 1,
    max_wait: float = 0.01,
) -> Callable[P, Awaitable[R]]: ...
def on_executor(
    executor: Executor | Callable[[], Executor],
    fn: Callable[..., Any],
    *,
    chunk: int = 1,
    max_wait: float = 0.01,
) -> Callable[..., Awaitable[Any]]:
    """Return a processor that runs `fn` on an executor.

    ::

        parse = on_executor(lambda: ProcessPoolExecutor(4), parse_page, chunk=50)
        result = await process_parallel(pages, parse, config=ParallelConfig(max_workers=400))

    An error of `fn` comes back as itself; a note has the traceback that it had over there. `current_run` works in
    `fn`, all but `emit`.

    Args:
        executor: an executor, which stays yours to shut down; or a plain function that makes one. That is called
            when the first call is made, and again after each break, as when a worker process died; what it made is
            shut down when the run ends that made the calls. Calls outside of a run that overlap share one.
        fn: a function, plain or async; one that is async is run by `trio.run` over there. For processes and
            clusters it, its arguments, results and errors have to be picklable.
        chunk: how many calls that wait at the same time are sent together. There are never more than a run has
            workers, so `max_workers` should be `chunk` times what the executor runs at once, or more.
        max_wait: seconds after the first call of a chunk at which it is sent, full or not.

    Raises:
        ConfigError: an argument cannot work; by the returned function where that shows only then.
        TransferError: by the returned function, an argument, a result or an error cannot be pickled or unpickled.
        BrokenExecutor: by the returned function, a worker died with calls in flight, as `concurrent.futures` has
            it; `with_retry` repeats them.

    Cancellation: passes through the returned function. Calls that have not begun are not made; one that runs is
    abandoned, and what comes of it is dropped. Processes that a run has made are killed at its end if they are
    still busy.
    """
    _check_executor(executor)
    if not callable(fn):
        raise ConfigError.refusing("fn", fn, "a function, plain or async")
    check_count("chunk", chunk, minimum=1, allowed="1 or more")
    check_number("max_wait", max_wait, allowed="a number of seconds, 0 or more", least="zero")
    if _is_process_pool(executor):
        check_importable(fn)
    lifetime = Lifetime(partial(ChunkedCaller, fn, executor, chunk, max_wait))

    @wraps(fn)
    async def on_executor_call(*args: Any, **kwargs: Any) -> Any:
        caller = lifetime.caller()
        if caller is None:
            return await lifetime.call_outside(args, kwargs)
        return await caller.call(args, kwargs)

    return on_executor_call


def _check_executor(executor: object) -> None:
    # Of Dask's own: it is not loaded here, for who has one has loaded it.
    if type(executor).__module__.partition(".")[0] == "distributed":
        raise ConfigError.refusing("executor", executor, "dask_executor(client), which is made for this")
    if isinstance(executor, Executor):
        # There is no public way to ask; where these are missing, the first call shows it.
        if getattr(executor, "_shutdown", False) is True or getattr(executor, "_shutdown_thread", False) is True:
            raise ConfigError.refusing("executor", executor, OPEN)
    elif not callable(executor) or is_async(executor) or inspect.iscoroutine(executor):
        raise ConfigError.refusing("executor", executor, _EXECUTOR)


def _is_process_pool(executor: object) -> bool:
    """Whether it is the process pool of the standard library, which finds functions by their names."""
    kind: Any = executor if isinstance(executor, type) else type(executor)
    return any(base.__module__ == "concurrent.futures.process" for base in kind.__mro__)

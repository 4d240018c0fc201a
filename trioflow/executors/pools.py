"""Calls on any `concurrent.futures.Executor`: threads, processes, interpreters, loky, a Dask cluster.

`on_executor` returns an ordinary processor: the run limits, orders, retries, reports and stores its calls as
usual. It adds the transport of calls: in chunks (`_chunks`), through a thread that may block (`_sender`), packed
so that only the call that cannot be pickled fails (`_requests`).
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

_EXECUTOR = "a concurrent.futures.Executor, or a plain function that creates one"


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

    An error of `fn` is raised unchanged, with the remote traceback as a note. `current_run` works in `fn`, except
    for `emit`.

    Args:
        executor: an executor, which the caller shuts down; or a plain function that creates one. The function is
            called at the first call, and again if the executor breaks, as when a worker process dies; the executor
            is shut down when the run that made the calls ends. Overlapping calls outside a run share one.
        fn: a function, plain or async; an async one is run by `trio.run` in the worker. For processes and
            clusters, it and its arguments, results and errors must be picklable.
        chunk: the most calls that are sent together. A run never has more concurrent calls than workers, so
            `max_workers` should be at least `chunk` times the number of workers of the executor.
        max_wait: seconds after its first call at which a chunk is sent, full or not.

    Raises:
        ConfigError: an argument is invalid; from the processor, if that is only known then.
        TransferError: from the processor, an argument, a result or an error cannot be pickled or unpickled.
        BrokenExecutor: from the processor, a worker died with calls in flight, as in `concurrent.futures`;
            `with_retry` retries them.

    Cancellation: passes through the processor. Calls that have not started are not made; a running one is
    abandoned, and its outcome is dropped. Processes that were created for a run are killed at its end if they are
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
    # Dask's own executor: Dask is not imported here, because a program that has one has imported it.
    if type(executor).__module__.partition(".")[0] == "distributed":
        raise ConfigError.refusing("executor", executor, "dask_executor(client), which is made for this")
    if isinstance(executor, Executor):
        # There is no public API for this; if the attributes are missing, the first call fails.
        if getattr(executor, "_shutdown", False) is True or getattr(executor, "_shutdown_thread", False) is True:
            raise ConfigError.refusing("executor", executor, OPEN)
    elif not callable(executor) or is_async(executor) or inspect.iscoroutine(executor):
        raise ConfigError.refusing("executor", executor, _EXECUTOR)


def _is_process_pool(executor: object) -> bool:
    """Whether it is the process pool of the standard library, which pickles functions by name."""
    kind: Any = executor if isinstance(executor, type) else type(executor)
    return any(base.__module__ == "concurrent.futures.process" for base in kind.__mro__)

"""An executor for `on_executor` that runs calls on a Dask cluster.

Dask traverses the arguments of a task, and merges equal tasks. So only bytes are submitted here, and every call is
distinct (`pure=False`). If a worker dies, the cluster repeats its calls: each is made at least once.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from trioflow.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ("dask_executor",)

P = ParamSpec("P")
R = TypeVar("R")


def dask_executor(client: "Client") -> Executor:
    """Return an executor that runs calls on the cluster of a Dask client.

    ::

        with Client("tcp://scheduler:8786") as client:
            parse = on_executor(dask_executor(client), parse_page, chunk=100)

    Functions, arguments and results are pickled by cloudpickle, so lambdas and inner functions work too; modules,
    including trioflow, must be importable on the workers. A call is made at least once: the cluster repeats the
    calls of a dead worker, some of which may have completed, with the same `current_run().key`. A call whose
    workers die more often than the cluster allows (`allowed-failures`, 3) fails with Dask's `KilledWorker`.

    Args:
        client: a synchronous client; the caller closes it.

    Raises:
        ConfigError: `client` is not an open synchronous client.
        ImportError: the extra `dask` is not installed.
    """
    try:
        import cloudpickle  # noqa: F401, PLC0415 - needed at the first call
        from distributed import Client  # noqa: PLC0415 - only users of a cluster need it
    except ImportError as error:
        raise ImportError("dask_executor needs Dask: pip install 'trioflow[dask]'") from error
    allowed = "an open distributed.Client, not an asynchronous one: Client(address)"
    given: Any = client
    if not isinstance(given, Client) or given.asynchronous or given.status != "running":
        raise ConfigError.refusing("client", given, allowed)
    return _DaskExecutor(given)


@final
class _DaskExecutor(Executor):
    """Submits to a Dask client.

    Attributes:
        pickles_by_value: tells `Sender` that cloudpickle is used.
    """

    pickles_by_value = True

    def __init__(self, client: Any) -> None:
        self._client = client
        self._shutdown = False

    def __repr__(self) -> str:
        return f"<dask_executor: {'shut down' if self._shutdown else self._client.status}>"

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Submit a call, and return its future.

        Raises:
            RuntimeError: the executor was shut down, or the client closed.
        """
        import cloudpickle  # noqa: PLC0415 - only users of a cluster need it

        if self._shutdown or self._client.status in {"closing", "closed"}:
            raise RuntimeError("cannot schedule new futures after shutdown: the executor or its client was closed")
        data: bytes = cloudpickle.dumps((fn, args, kwargs))
        theirs = self._client.submit(_call_packed, data, pure=False)
        ours: Future[R] = Future()
        ours.add_done_callback(partial(_cancel_too, self._client, theirs))
        self._client.loop.add_callback(_cascade, self._client, theirs, ours)
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Accept no more calls; the client and its cluster stay open, and submitted calls continue."""
        del wait, cancel_futures
        self._shutdown = True


def _call_packed(data: bytes) -> bytes:
    """Make a call, in a worker of the cluster."""
    import cloudpickle  # noqa: PLC0415 - on a worker

    fn, args, kwargs = pickle.loads(data)  # noqa: S301 - from the program that uses this cluster
    packed: bytes = cloudpickle.dumps(fn(*args, **kwargs))
    return packed


async def _cascade(client: Any, theirs: Any, ours: "Future[Any]") -> None:
    """Copy the outcome of their future to ours; runs in the client's event loop, in its own thread."""
    try:
        data = await client.gather(theirs, asynchronous=True)
        result = pickle.loads(data)  # noqa: S301 - from the program that uses this cluster
    except BaseException as error:  # noqa: BLE001, ASYNC103 - set on our future
        with suppress(InvalidStateError):  # cancelled meanwhile
            ours.set_exception(error)
    else:
        with suppress(InvalidStateError):
            ours.set_result(result)
    finally:
        # An error's traceback holds this frame, and the cluster keeps a failed call as long as its future lives.
        theirs.release()
        del ours


def _cancel_too(client: Any, theirs: Any, ours: "Future[Any]") -> None:
    if ours.cancelled():
        client.loop.add_callback(partial(client.cancel, [theirs], asynchronous=True))

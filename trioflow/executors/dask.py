"""Calls on a Dask cluster, as an executor for `on_executor`.

Dask walks through the arguments of what it is given, and takes equal calls for one. So what is submitted here is
bytes and nothing else, and every call is its own (`pure=False`). Where a worker dies, the cluster makes its calls
again: each is made at least once.
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
    """Return an executor that makes calls on the cluster of a Dask client.

    ::

        with Client("tcp://scheduler:8786") as client:
            parse = on_executor(dask_executor(client), parse_page, chunk=100)

    Functions, arguments and results travel as bytes made by cloudpickle, so lambdas and inner functions do, too;
    modules have to be importable on the workers, trioflow among them. A call is made at least once: the cluster
    makes those of a dead worker again, some of which were complete, and `current_run().key` is the same for each
    of them. Calls that were with a worker at more deaths than the cluster allows (`allowed-failures`, 3) fail with
    Dask's `KilledWorker`.

    Args:
        client: a client that was not opened as asynchronous; it stays yours to close.

    Raises:
        ConfigError: it is none, or is closed.
        ImportError: Dask is not installed.
    """
    try:
        import cloudpickle  # noqa: F401, PLC0415 - needed at the first call
        from distributed import Client  # noqa: PLC0415 - only those who have a cluster pay for it
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
        pickles_by_value: says so to `Sender`.
    """

    pickles_by_value = True

    def __init__(self, client: Any) -> None:
        self._client = client
        self._shutdown = False

    def __repr__(self) -> str:
        return f"<dask_executor: {'shut down' if self._shutdown else self._client.status}>"

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Have a call made, and return its future.

        Raises:
            RuntimeError: it was shut down, or the client closed.
        """
        import cloudpickle  # noqa: PLC0415 - only those who have a cluster pay for it

        if self._shutdown or self._client.status in {"closing", "closed"}:
            raise RuntimeError("cannot schedule new futures after shutdown: the executor or its client was closed")
        data: bytes = cloudpickle.dumps((fn, args, kwargs))
        theirs = self._client.submit(_call_packed, data, pure=False)
        ours: Future[R] = Future()
        ours.add_done_callback(partial(_cancel_too, self._client, theirs))
        self._client.loop.add_callback(_cascade, self._client, theirs, ours)
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Take no more calls; the client and its cluster stay open, and calls under way go on."""
        del wait, cancel_futures
        self._shutdown = True


def _call_packed(data: bytes) -> bytes:
    """Make a call: what a worker of the cluster runs."""
    import cloudpickle  # noqa: PLC0415 - on a worker

    fn, args, kwargs = pickle.loads(data)  # noqa: S301 - from the program that uses this cluster
    packed: bytes = cloudpickle.dumps(fn(*args, **kwargs))
    return packed


async def _cascade(client: Any, theirs: Any, ours: "Future[Any]") -> None:
    """Give our future what theirs has come to; runs in the loop of the client, in a thread of its own."""
    try:
        data = await client.gather(theirs, asynchronous=True)
        result = pickle.loads(data)  # noqa: S301 - from the program that uses this cluster
    except BaseException as error:  # noqa: BLE001, ASYNC103 - somebody waits for it
        with suppress(InvalidStateError):  # cancelled meanwhile
            ours.set_exception(error)
    else:
        with suppress(InvalidStateError):
            ours.set_result(result)


def _cancel_too(client: Any, theirs: Any, ours: "Future[Any]") -> None:
    if ours.cancelled():
        client.loop.add_callback(partial(client.cancel, [theirs], asynchronous=True))

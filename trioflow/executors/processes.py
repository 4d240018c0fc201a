"""Calls in processes of their own, which are killed where nobody waits for the call any more.

A process pool cannot stop a call that runs, and a worker that dies takes the calls of all others with it. Here
each call in hand has a process to itself, at the other end of a pipe; one that is done serves the next call. What
goes through the pipe is what executors are given, too (`_requests`).

The pipe is read and written in threads, so the loop waits for nothing; killing a process ends the thread that
reads from it.
"""

import math
import pickle
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final, overload

import trio

from trioflow.errors import ConfigError
from trioflow.executors._lifetime import Lifetime
from trioflow.executors._requests import (
    PackedRequest,
    Request,
    Response,
    check_importable,
    origin_of_call,
)
from trioflow.executors._sender import GRACE

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

__all__ = ("on_process",)

P = ParamSpec("P")
R = TypeVar("R")


@overload
def on_process(fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]: ...
@overload
def on_process(fn: Callable[P, R]) -> Callable[P, Awaitable[R]]: ...
def on_process(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a processor that runs `fn` in a process of its own, which is killed when the call is cancelled.

    For what may hang, use up memory or crash: a time limit ends it, and a death fails that call alone. Processes
    are started as they are needed, one for each call in hand, are used again, and end with the run that made the
    calls. `current_run` works in `fn`, all but `emit`.

    Args:
        fn: a function, plain or async; one that is async is run by `trio.run` over there. It, its arguments,
            results and errors have to be picklable.

    Raises:
        ConfigError: `fn` is no function, or none that pickle finds by its name.
        TransferError: by the returned function, an argument, a result or an error cannot be pickled or unpickled.
        BrokenExecutor: by the returned function, the process of the call died.

    Cancellation: passes through the returned function; the process is killed, and gone when the call ends.
    """
    if not callable(fn):
        raise ConfigError.refusing("fn", fn, "a function, plain or async")
    check_importable(fn)
    lifetime = Lifetime(partial(_OwnProcesses, fn))

    @wraps(fn)
    async def on_process_call(*args: Any, **kwargs: Any) -> Any:
        caller = lifetime.caller()
        if caller is None:
            return await lifetime.call_outside(args, kwargs)
        return await caller.call(args, kwargs)

    return on_process_call


@final
class _OwnProcesses:
    """The processes of one run.

    Args:
        fn: what to call.
    """

    __slots__ = ("_fn", "_idle", "_threads")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._idle: list[_Process] = []
        # As many as there are calls, which the run bounds; Trio's own limiter is for everybody else.
        self._threads = trio.CapacityLimiter(math.inf)

    def __repr__(self) -> str:
        return f"<_OwnProcesses: {len(self._idle)} idle>"

    @trio.lowlevel.enable_ki_protection
    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call.

        Cancellation: passes through, when the process is gone.
        """
        request = Request(self._fn, [(args, kwargs, origin_of_call())], by_value=False)
        await trio.lowlevel.checkpoint_if_cancelled()
        process = self._idle.pop() if self._idle else await self._in_thread(_Process.start)
        try:
            # Left behind where it is cancelled: it ends when the process is killed.
            response = await self._in_thread(process.exchange, request, abandon=True)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._in_thread(process.kill)
            raise
        self._idle.append(process)
        result, error = response.outcomes[0]
        try:
            if error is not None:
                raise error
            return result
        finally:
            del error, response

    async def aclose(self) -> None:
        """Let the processes end, none of which has a call in hand.

        Cancellation: the caller shields it.
        """
        idle, self._idle = self._idle, []
        if idle:
            await self._in_thread(_end, idle)

    async def _in_thread(self, fn: Callable[..., Any], *args: object, abandon: bool = False) -> Any:
        return await trio.to_thread.run_sync(fn, *args, abandon_on_cancel=abandon, limiter=self._threads)


@final
class _Process:
    """A process, and our end of the pipe to it; all methods block."""

    __slots__ = ("_pipe", "_process")

    def __init__(self, process: "SpawnProcess", pipe: "Connection") -> None:
        self._process = process
        self._pipe = pipe

    def __repr__(self) -> str:
        return f"<_Process {self._process.pid}>"

    @classmethod
    def start(cls) -> "_Process":
        import multiprocessing  # noqa: PLC0415 - only those who use processes pay for it

        # A fork of a program with threads may hang for ever.
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        # A daemon has no processes of its own, which nobody would kill with it.
        process = context.Process(target=_serve, args=(theirs,), name="trioflow process", daemon=True)
        try:
            with _sigint_blocked():
                process.start()
        except BaseException:
            pipe.close()
            raise
        finally:
            theirs.close()
        return cls(process, pipe)

    def exchange(self, request: Request) -> Response:
        """Have the call made, and return what came of it.

        Raises:
            BrokenExecutor: the process died.
        """
        data = pickle.dumps(request)
        try:
            self._pipe.send_bytes(data)
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise BrokenExecutor(f"the process of this call died: {self._how()}") from error
        response: Response = pickle.loads(answer)  # noqa: S301 - from our own child
        return response

    def _how(self) -> str:
        self._process.join(GRACE)
        code = self._process.exitcode
        if code is None:
            return "it closed its pipe"
        try:
            return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with status {code}"
        except ValueError:
            return f"it was ended by signal {-code}"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process.close()

    def let_go(self) -> None:
        """Close the pipe: an idle process ends then."""
        self._pipe.close()

    def reap(self, deadline: float) -> None:
        """Wait until the process has ended, and kill it where that is not before `deadline`."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        self.kill()


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.let_go()
    deadline = time.monotonic() + GRACE
    for process in processes:
        process.reap(deadline)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Start processes that a Ctrl-C does not reach before they can ignore it: they inherit this thread's mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows
        return
    from multiprocessing import resource_tracker  # noqa: PLC0415 - only those who use processes pay for it

    resource_tracker.ensure_running()  # its start would unblock the signal again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(pipe: "Connection") -> None:
    """Make calls until the other end of the pipe is closed: what the process runs."""
    # Ctrl-C goes to all processes of a terminal; whoever started this one kills it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while True:
        try:
            request: PackedRequest = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own parent
        except (EOFError, OSError):
            return
        answer = pickle.dumps(request.perform())
        try:
            pipe.send_bytes(answer)
        except OSError:
            return

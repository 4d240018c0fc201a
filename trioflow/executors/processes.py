"""A process per concurrent call, which is killed when the call is cancelled.

A process pool cannot stop a running call, and a worker that dies breaks the calls of all others. Here each running
call has its own process at the other end of a pipe, which is then reused for the next call. Requests and responses
are those of executors (`_requests`).

The pipe is read and written in threads, so the event loop never blocks; killing a process ends the thread that
reads from it.
"""

import math
import pickle
import signal
import threading
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
    """Return a processor that runs each call of `fn` in its own process, which is killed on cancellation.

    For code that may hang, exhaust memory or crash: a timeout ends it, and a crash fails only that call. Processes
    are started on demand, one for each concurrent call, are reused, and end with the run that made the calls.
    `current_run` works in `fn`, except for `emit`.

    Args:
        fn: a function, plain or async; an async one is run by `trio.run` in the process. It and its arguments,
            results and errors must be picklable.

    Raises:
        ConfigError: `fn` is not a function that pickle can import by name.
        TransferError: from the processor, an argument, a result or an error cannot be pickled or unpickled.
        BrokenExecutor: from the processor, the process of the call died.

    Cancellation: passes through the processor; the process is killed, and has ended when the call ends.
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
        fn: the function to call.
    """

    __slots__ = ("_fn", "_idle", "_threads")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._idle: list[_Process] = []
        # A thread for each call, which the run limits; Trio's default limiter is left to other code.
        self._threads = trio.CapacityLimiter(math.inf)

    def __repr__(self) -> str:
        return f"<_OwnProcesses: {len(self._idle)} idle>"

    @trio.lowlevel.enable_ki_protection
    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call.

        Cancellation: passes through, after the process has ended.
        """
        request = Request(self._fn, [(args, kwargs, origin_of_call())], by_value=False)
        await trio.lowlevel.checkpoint_if_cancelled()
        process = self._idle.pop() if self._idle else await self._in_thread(_Process.start)
        try:
            # The thread is abandoned on cancellation: it ends when the process is killed.
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
        """End the processes, all of which are idle.

        Cancellation: the caller shields it.
        """
        idle, self._idle = self._idle, []
        if idle:
            await self._in_thread(_end, idle)

    async def _in_thread(self, fn: Callable[..., Any], *args: object, abandon: bool = False) -> Any:
        return await trio.to_thread.run_sync(fn, *args, abandon_on_cancel=abandon, limiter=self._threads)


@final
class _Process:
    """A process, and our end of the pipe to it; all methods block.

    An exchange that was abandoned may still be using the pipe when the process is killed. Closed under its hands,
    the descriptor could be another file's by its next read. So the last of the two closes it.
    """

    __slots__ = ("_exchanging", "_killed", "_lock", "_pipe", "_process")

    def __init__(self, process: "SpawnProcess", pipe: "Connection") -> None:
        self._process = process
        self._pipe = pipe
        self._lock = threading.Lock()
        self._exchanging = False
        self._killed = False

    def __repr__(self) -> str:
        return f"<_Process {self._process.pid}>"

    @classmethod
    def start(cls) -> "_Process":
        import multiprocessing  # noqa: PLC0415 - only users of processes need it

        # A fork of a program with threads may deadlock.
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        # A daemon cannot have child processes, which would not be killed with it.
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
        """Send a request, and return the response.

        Raises:
            BrokenExecutor: the process died.
        """
        data = pickle.dumps(request)
        with self._lock:
            self._exchanging = True
        try:
            self._pipe.send_bytes(data)
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise BrokenExecutor(f"the process of this call died: {self._how()}") from error
        finally:
            with self._lock:
                self._exchanging = False
                if self._killed:
                    self._pipe.close()
        response: Response = pickle.loads(answer)  # noqa: S301 - from our own child
        return response

    def _how(self) -> str:
        code = self._exit_code()
        if code is None:
            return "it closed its pipe"
        try:
            return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with status {code}"
        except ValueError:
            return f"it was ended by signal {-code}"

    def _exit_code(self) -> int | None:
        """Return the exit code, None if it is not known after `GRACE`.

        Another thread may be reaping the process too: the one that an abandoned exchange left behind, or one in
        which multiprocessing starts a process and reaps those that have ended. To the loser of that race the
        process seems to run until the winner has stored the code.
        """
        deadline = time.monotonic() + GRACE
        self._process.join(GRACE)
        while self._process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        with self._lock:
            self._killed = True
            if not self._exchanging:
                self._pipe.close()
        if self._exit_code() is not None:
            self._process.close()

    def close(self) -> None:
        """Close the pipe, upon which an idle process ends."""
        self._pipe.close()

    def reap(self, deadline: float) -> None:
        """Wait until the process has ended, and kill it at `deadline`."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        self.kill()


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.close()
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
    """Make calls until the other end of the pipe is closed: the main function of the process."""
    # Ctrl-C is sent to all processes of a terminal; the parent kills this one.
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

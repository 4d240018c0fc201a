"""The thread that manages the executor of one run: it creates it, submits to it, replaces it, and shuts it down.

Any of these may block: a factory connects to a cluster, `submit` starts processes or pickles, `shutdown` waits. So
the event loop sends commands through a queue, and one thread executes them in order. The thread starts with the
first chunk and ends with the run.
"""

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, final

import trio

from trioflow.errors import ConfigError
from trioflow.executors._requests import Outcome, Request, Response, perform

if TYPE_CHECKING:
    from trioflow.executors._chunks import Chunk

GRACE = 5.0
"""Seconds that idle worker processes have to exit at a shutdown, before they are killed."""

_FACTORY = "a function that returns a concurrent.futures.Executor"
OPEN = (
    "an executor that stays open during the run; or pass a function that creates one, such as "
    "lambda: ProcessPoolExecutor(4), which the run shuts down"
)


@final
class Sender:
    """Manages the executor of a run.

    Args:
        fn: the function to call.
        source: an executor, which its owner shuts down; or a factory of one, which the sender shuts down.
        deliver: called with the outcomes of a chunk, from any thread.
        on_end: called when the thread has ended.

    Attributes:
        failure: the error of the shutdown, if any.
    """

    __slots__ = (
        "_broken",
        "_deliver",
        "_executor",
        "_fn",
        "_in_flight",
        "_on_end",
        "_orders",
        "_source",
        "_started",
        "failure",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        source: Executor | Callable[[], Executor],
        *,
        deliver: "Callable[[Chunk, Sequence[Outcome]], None]",
        on_end: Callable[[], None],
    ) -> None:
        self._fn = fn
        self._source = source
        self._deliver = deliver
        self._on_end = on_end
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = False
        self._executor: Executor | None = source if isinstance(source, Executor) else None
        self._broken: Executor | None = None
        self._in_flight: dict[Chunk, Future[Response]] = {}
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Sender to {self._executor!r}: {len(self._in_flight)} chunks in flight>"

    # Called in the event loop.

    def send(self, chunk: "Chunk") -> None:
        """Submit the calls of `chunk`."""
        if not self._started:
            try:
                trio.lowlevel.start_thread_soon(self._work, self._ended, "trioflow executor")
            except RuntimeError as error:  # the system has no thread left; the next chunk tries again
                self._fail(chunk, error)
                return
            self._started = True
        self._orders.put(partial(self._submit, chunk))

    def cancel(self, chunk: "Chunk") -> None:
        """Cancel the calls of `chunk`, if they have not started."""
        self._orders.put(partial(self._cancel, chunk))

    def close(self) -> bool:
        """End the thread; return whether there is one to wait for."""
        self._orders.put(None)
        return self._started

    # Runs in the thread.

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            order()
            del order  # it has a chunk, whose arguments would live until the next order
        self._release()

    def _ended(self, outcome: object) -> None:
        self.failure = getattr(outcome, "error", None)
        self._on_end()

    def _submit(self, chunk: "Chunk") -> None:
        if not chunk.waited_for:
            return
        try:
            executor, future = self._begin(chunk)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - delivered to the waiting task as the outcome
            self._fail(chunk, error)
            return  # noqa: ASYNC104 - the same
        self._in_flight[chunk] = future
        future.add_done_callback(partial(self._settle, chunk, executor))

    def _begin(self, chunk: "Chunk") -> tuple[Executor, "Future[Response]"]:
        executor = self._usable()
        try:
            return executor, self._submit_to(executor, chunk)
        except BrokenExecutor:
            # It broke while it was idle: no call was lost.
            self._broken = executor
            replaced = self._usable()
            if replaced is executor:
                raise
            return replaced, self._submit_to(replaced, chunk)

    def _submit_to(self, executor: Executor, chunk: "Chunk") -> "Future[Response]":
        request = Request(self._fn, chunk.contents, by_value=_pickles_by_value(executor))
        try:
            return executor.submit(perform, request)
        except BrokenExecutor:
            raise
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise ConfigError.refusing("executor", executor, OPEN) from error

    def _usable(self) -> Executor:
        """Return the executor; at first, and after a break, the factory's new one."""
        if isinstance(self._source, Executor):
            return self._source
        executor = self._executor
        if executor is None or executor is self._broken:
            self._executor = None
            if executor is not None:
                shut_down(executor, at_once=True)
            executor = self._source()
            if not isinstance(executor, Executor):
                returned = f"{_FACTORY}, but it returned {type(executor).__name__}"
                raise ConfigError.refusing("executor", self._source, returned)
            self._executor = executor
        return executor

    def _cancel(self, chunk: "Chunk") -> None:
        future = self._in_flight.get(chunk)
        if future is not None:
            future.cancel()

    def _settle(self, chunk: "Chunk", executor: Executor, future: "Future[Response]") -> None:
        """Deliver the outcomes of a chunk; called in any thread, when its future is done."""
        self._in_flight.pop(chunk, None)
        if future.cancelled():
            if chunk.waited_for:
                self._fail(chunk, CancelledError("the executor cancelled the call: was it shut down?"))
            return
        try:
            outcomes = future.result().outcomes
        except BaseException as error:  # noqa: BLE001, ASYNC103 - the pool's error, delivered to the waiting task
            if isinstance(error, BrokenExecutor):
                self._broken = executor
            self._fail(chunk, error)
        else:
            self._deliver(chunk, outcomes)

    def _fail(self, chunk: "Chunk", error: BaseException) -> None:
        if isinstance(error, BrokenExecutor) and isinstance(self._source, Executor):
            error.add_note("this executor stays broken: pass on_executor a function that creates one")
        # Drop the frames of this thread.
        error.__traceback__ = None
        self._deliver(chunk, [(None, _copy_of(error)) for _ in chunk.calls])

    def _release(self) -> None:
        for future in tuple(self._in_flight.values()):
            future.cancel()
        if self._executor is not None and not isinstance(self._source, Executor):
            shut_down(self._executor, at_once=any(not future.done() for future in tuple(self._in_flight.values())))


def shut_down(executor: Executor, *, at_once: bool) -> None:
    """Shut down an executor that was created for a run.

    Args:
        executor: the executor.
        at_once: whether calls are running that no task waits for. Processes are then killed; threads, which cannot
            be killed, end with their calls.
    """
    processes = _processes_of(executor)
    # Of a process pool; a shutdown drops the reference.
    results = getattr(executor, "_result_queue", None)
    if at_once:
        _kill(executor, results)
    watchdog = threading.Timer(GRACE, _kill, [executor, results])
    watchdog.daemon = True
    if processes:
        watchdog.start()
    try:
        _shut_down(executor, wait=bool(processes) or not at_once)
    finally:
        watchdog.cancel()


def _shut_down(executor: Executor, *, wait: bool) -> None:
    try:
        executor.shutdown(wait=wait, cancel_futures=True)
    except TypeError:
        executor.shutdown(wait=wait)  # loky's has no `cancel_futures`; the futures were cancelled one by one


def _processes_of(executor: Executor) -> list[Any]:
    """Return the worker processes of a process pool, of the standard library or of loky.

    They have no public name before Python 3.14. If this finds none, a shutdown waits.
    """
    processes = getattr(executor, "_processes", None)
    return list(processes.values()) if isinstance(processes, dict) else []


def _kill(executor: Executor, results: Any) -> None:
    for process in _processes_of(executor):
        try:
            process.kill()
        except AttributeError:
            process.terminate()  # loky's processes have no `kill`
    # A worker killed in the middle of a result leaves half of it in the pipe. The pool's thread waits for the rest
    # while anyone may write it, and this process holds the pipe's other end too.
    writer = getattr(results, "_writer", None)
    if writer is not None:
        writer.close()


def _pickles_by_value(executor: Executor) -> bool:
    """Whether the executor uses cloudpickle, so that functions may be lambdas."""
    modules = {base.__module__.partition(".")[0] for base in type(executor).__mro__}
    return bool(modules & {"loky", "distributed"}) or bool(getattr(executor, "pickles_by_value", False))


def _copy_of(error: BaseException) -> BaseException:
    """Return a copy of `error` for one call: if several tasks raised it, it would collect all their tracebacks."""
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - a user's `__reduce__`
        return error
    if type(copied) is not type(error):
        return error
    copied.__cause__ = error.__cause__
    if hasattr(error, "__notes__"):
        copied.__notes__ = list(error.__notes__)
    return copied

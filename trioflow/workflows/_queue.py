"""A source that grows: a queue to which processing an item may add items, as in a crawler or a planner.

A plain source never blocks, and neither does this one: `put` itself hands out items while there is room, and the
task that makes room pulls the others. So the queue may be empty many times before it ends, and its end is a
decision: no item waits, no pulled item is in hand, and no task can be about to put one, because every loop over a
stream that took an outcome has come back for another. The feeder decides it (`_feeder`). From then on `put`
raises, so that no item is accepted that would not be processed.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.calls import call_plain
from trioflow.config.checks import check_callable
from trioflow.errors import ConfigError

__all__ = ("WorkQueue",)

T = TypeVar("T")

_kept_queues: ContextVar[tuple[Any, ...]] = ContextVar("trioflow_kept_queues", default=())
"""The queues of the durable runs in whose processors the current code is running."""


@final
class WorkQueue(Generic[T]):
    """A queue of items for `process_parallel` or `open_parallel` that may grow while it is processed.

    ::

        queue = WorkQueue([start], dedupe=str)

        async def visit(url):
            for link in await fetch_links(url):
                queue.put(link)

        result = await process_parallel(queue, visit)

    First in, first out. The run ends when no item waits and none is in hand; a stream, when in addition its body
    has taken every outcome and asks for another. Only one run at a time may use a queue; items that a run which
    was cut short leaves in it can be processed by another run.

    A durable run needs `key=`, and its items are put by the body of a stream: when the run is resumed, the body
    receives the outcomes of the stored items again, but the processor is not called for them again.

    Args:
        initial: the first items; iterated over at once.
        dedupe: a plain function that returns a hashable key of an item; an item whose key was put before is
            dropped. The keys of all items ever put are remembered in a set: some 100 bytes each, plus the key
            itself. None accepts every item.

    Raises:
        ConfigError: an argument is invalid.
    """

    __slots__ = ("_dedupe", "_ended", "_keys", "_source", "_waiting")

    def __init__(self, initial: Iterable[T] = (), *, dedupe: Callable[[T], Hashable] | None = None) -> None:
        if not isinstance(initial, Iterable):
            raise ConfigError.refusing("initial", initial, "iterable")
        check_callable("dedupe", dedupe, optional=True)
        self._dedupe = dedupe
        self._keys: set[Hashable] = set()
        self._waiting: deque[T] = deque()
        self._source: QueueSource[T] | None = None
        self._ended = False
        for item in initial:
            self._append(item)

    def __repr__(self) -> str:
        state = "in a run" if self._source is not None else "ended" if self._ended else "not begun"
        return f"<WorkQueue: {len(self._waiting)} waiting, {state}>"

    @property
    def waiting(self) -> int:
        """How many items were put and not pulled yet."""
        return len(self._waiting)

    @trio.lowlevel.enable_ki_protection
    def put(self, item: T) -> bool:
        """Add `item` at the end; return False if `dedupe` knows its key and it was dropped. Never blocks.

        Raises:
            ConfigError: `dedupe` returned a key that is not hashable.
            RuntimeError: the run has ended; or this was called outside the thread or the `trio.run` of the run, or
                in a processor of a durable run.
        """
        source = self._source
        if source is not None:
            source.check_put()
        elif self._ended:
            raise RuntimeError("put() came after the end of the queue's run: put while something is in hand")
        if not self._append(item):
            return False
        # Read again: `dedupe` is the user's, and may have done anything.
        if self._source is not None:
            self._source.on_put()
        return True

    def _append(self, item: T) -> bool:
        if self._dedupe is not None:
            key: object = call_plain(self._dedupe, item)
            try:
                if key in self._keys:
                    return False
                self._keys.add(key)
            except TypeError as error:
                raise ConfigError.refusing("what dedupe returned", key, "hashable") from error
        self._waiting.append(item)
        return True


@final
class QueueSource(Generic[T]):
    """A queue as the source of one run.

    Attributes:
        pulled: how many items were pulled.
        exhausted: whether the run has ended the queue.
        is_open: whether the run is using the queue.
        on_put: called when an item was put.
    """

    __slots__ = ("_kept", "_queue", "_token", "exhausted", "is_open", "on_put", "pulled")

    def __init__(self, queue: WorkQueue[T]) -> None:
        self.pulled = 0
        self.exhausted = self.is_open = False
        self.on_put: Callable[[], object] = _nothing
        self._queue = queue
        self._kept = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._check_free()

    def __repr__(self) -> str:
        return f"<QueueSource: {self.pulled} pulled, of {self._queue!r}>"

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._queue._waiting)  # noqa: SLF001 - the other half of this class

    def open(self) -> None:
        """Take the queue for this run.

        Raises:
            ConfigError: another run is using it.
        """
        self._check_free()
        self._token = trio.lowlevel.current_trio_token()
        self._queue._source, self._queue._ended = self, False  # noqa: SLF001
        self.is_open = True

    def refuse_puts_here(self) -> None:
        """Refuse `put` from now on in this task, a worker of a durable run, and in the tasks that it starts."""
        self._kept = True
        _kept_queues.set((*_kept_queues.get(), self._queue))

    def check_put(self) -> None:
        """Raise if `put` is not allowed here.

        Raises:
            RuntimeError: called from another thread or `trio.run`, or from a processor of a durable run.
        """
        try:
            here = trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            here = False
        if not here:
            raise RuntimeError("put() works in the trio.run of the queue's run: use trio.from_thread.run_sync")
        if self._kept and any(queue is self._queue for queue in _kept_queues.get()):
            message = (
                "put() in a processor of a run that is kept: resumed, it would not be called again; put items in "
                "the body of a stream, which sees the outcomes of kept items again"
            )
            raise RuntimeError(message)

    def pull(self, most: int, into: deque[T]) -> None:
        """Move up to `most` of the waiting items to `into`."""
        waiting = self._queue._waiting  # noqa: SLF001
        count = min(most, len(waiting))
        for _ in range(count):
            into.append(waiting.popleft())
        self.pulled += count

    def finish(self) -> None:
        """Mark the source as exhausted, and release the queue."""
        self.exhausted = True
        self.close()

    def close(self) -> None:
        """Release the queue; closing again does nothing."""
        if self.is_open:
            self.is_open = False
            self.on_put = _nothing
            self._queue._source, self._queue._ended = None, True  # noqa: SLF001

    def _check_free(self) -> None:
        if self._queue._source is not None:  # noqa: SLF001
            raise ConfigError.refusing("items", self._queue, "a WorkQueue that no other run pulls from")


def _nothing() -> None:
    pass

"""A source that grows: a queue of items that the work on items adds to, as a crawler's or a planner's does.

A plain source never blocks, and neither does this one: what waits is handed out by `put` itself where there is
room, and pulled by whoever makes room where there was none. So it is empty again and again, and its end is a
decision: nothing waits, nothing that was pulled is in hand, and nobody can be about to put something, for whoever
took an outcome of a stream has come back for another. The pool decides that (`_pool`); from then on `put` is an
error, so that no item is accepted that nobody will work on.
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
"""The queues in whose kept runs this code is a processor, or was called by one."""


@final
class WorkQueue(Generic[T]):
    """Items for `process_parallel` or `open_parallel` that grow in number while they are worked on.

    ::

        queue = WorkQueue([start], dedupe=str)

        async def visit(url):
            for link in await fetch_links(url):
                queue.put(link)

        result = await process_parallel(queue, visit)

    First in, first out. The run ends when nothing waits and nothing that was pulled is in hand; a stream's, when
    moreover its body has taken every outcome and asks for another. What a run that was cut short leaves waiting,
    another run may take; at one time only one run may.

    A run that is kept needs `key=`, and its items are put by the body of a stream: resumed, it sees the outcomes
    of the kept items again, where a processor is not called again.

    Args:
        initial: the first items; pulled at once.
        dedupe: a plain function that gives a hashable key of an item; an item whose key was there before is not
            taken. The keys of all items that were ever put are remembered, in a set: some 100 bytes each, beside
            the key itself. None takes every item.

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
        """How many items were put and not pulled."""
        return len(self._waiting)

    @trio.lowlevel.enable_ki_protection
    def put(self, item: T) -> bool:
        """Add `item` at the end; return whether it was taken, for `dedupe` may know it already. Never blocks.

        Raises:
            ConfigError: what `dedupe` returned is not hashable.
            RuntimeError: the run has ended; or this is called in another thread or another `trio.run` than that of
                the run, or in a processor of a run that is kept.
        """
        source = self._source
        if source is not None:
            source.check_put()
        elif self._ended:
            raise RuntimeError("put() came after the end of the queue's run: put while something is in hand")
        if not self._append(item):
            return False
        # Looked at again: `dedupe` is the user's, and may have done anything.
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
        exhausted: whether the run has decided that it is over.
        is_open: whether the run has the queue.
        on_put: called when an item waits.
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
        return len(self._queue._waiting)  # noqa: SLF001 - the other half of it

    def open(self) -> None:
        """Take the queue for this run.

        Raises:
            ConfigError: another run has it.
        """
        self._check_free()
        self._token = trio.lowlevel.current_trio_token()
        self._queue._source, self._queue._ended = self, False  # noqa: SLF001
        self.is_open = True

    def refuse_puts_here(self) -> None:
        """Refuse `put` from now on in this task, a worker's of a run that is kept, and in those that it starts."""
        self._kept = True
        _kept_queues.set((*_kept_queues.get(), self._queue))

    def check_put(self) -> None:
        """Refuse a `put` that cannot be right.

        Raises:
            RuntimeError: it comes from another thread or `trio.run`, or from a processor of a run that is kept.
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
        """Put up to `most` of the items that wait into `into`."""
        waiting = self._queue._waiting  # noqa: SLF001
        count = min(most, len(waiting))
        for _ in range(count):
            into.append(waiting.popleft())
        self.pulled += count

    def finish(self) -> None:
        """Note that the run has decided that nothing more will come."""
        self.exhausted = True
        self.close()

    def close(self) -> None:
        """Let go of the queue; closing again does nothing."""
        if self.is_open:
            self.is_open = False
            self.on_put = _nothing
            self._queue._source, self._queue._ended = None, True  # noqa: SLF001

    def _check_free(self) -> None:
        if self._queue._source is not None:  # noqa: SLF001
            raise ConfigError.refusing("items", self._queue, "a WorkQueue that no other run pulls from")


def _nothing() -> None:
    pass

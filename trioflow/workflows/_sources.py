"""The sources of items: plain and async iterables, pulled on demand; generators are closed.

A plain source is pulled in one context of its own, a copy of the caller's, whichever task pulls. So a generator
that holds a context manager across its `yield`s, such as `decimal.localcontext()`, sees the values that it set,
and no other code does. An async source is pulled and closed by one task, inside one scope that was opened before
it first ran, so that scopes and nurseries that it holds across a `yield` nest. A new shielded scope around its
closing would not nest with them, so the outer scope becomes the shield. A queue that grows is a plain source that
may be empty for a while (`_queue`).

An error that a source raises gets a note that says so, and how many items had been pulled.
"""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextvars import copy_context
from enum import Enum
from itertools import islice
from typing import Final, Generic, TypeVar, final

import trio

from trioflow._runtime.calls import (
    CLOSE_DEADLINE,
    await_next,
    call_plain,
    close_async,
    close_plain,
    extend,
    next_or,
)
from trioflow._runtime.context import leave_work
from trioflow.workflows._queue import QueueSource, WorkQueue

T = TypeVar("T")


class End(Enum):
    """The type of `END`, which an exhausted async source returns."""

    END = 0


END: Final = End.END


def open_source(items: Iterable[T] | AsyncIterable[T]) -> "SyncSource[T] | AsyncSource[T]":
    """Return a source for `items`; nothing is pulled yet."""
    return AsyncSource(items) if isinstance(items, AsyncIterable) else SyncSource(items)


def open_pool_source(items: Iterable[T] | AsyncIterable[T] | WorkQueue[T]) -> "Source[T]":
    """Return a source for `items`, which may be a queue that grows; nothing is pulled yet.

    Raises:
        ConfigError: another run pulls from the queue.
    """
    return QueueSource(items) if isinstance(items, WorkQueue) else open_source(items)


@final
class SyncSource(Generic[T]):
    """A plain iterable.

    Attributes:
        pulled: how many items were pulled.
        exhausted: whether it has no more items.
    """

    __slots__ = ("_context", "_items", "_iterator", "exhausted", "pulled")

    def __init__(self, items: Iterable[T]) -> None:
        self.pulled = 0
        self.exhausted = False
        self._items = items
        self._iterator: Iterator[T] | None = None
        self._context = copy_context()
        self._context.run(leave_work)

    def __repr__(self) -> str:
        return f"<SyncSource: {self.pulled} pulled{', exhausted' if self.exhausted else ''}>"

    def pull_one(self) -> T | End:
        """Return the next item, or `END`."""
        try:
            iterator = self._iterator
            if iterator is None:
                iterator = self._begin()
            item: T | End = self._context.run(next_or, iterator, END)
        except BaseException as error:
            _note(error, self)
            raise
        if item is END:
            self.exhausted = True
        else:
            self.pulled += 1
        return item

    def pull(self, most: int, into: deque[T]) -> None:
        """Pull up to `most` items into `into`, including those that came before an error."""
        before = len(into)
        try:
            iterator = self._iterator
            if iterator is None:
                iterator = self._begin()
            self._context.run(extend, into, islice(iterator, most))
        except BaseException as error:
            self.pulled += len(into) - before
            _note(error, self)
            raise
        fresh = len(into) - before
        self.pulled += fresh
        self.exhausted = fresh < most

    def _begin(self) -> Iterator[T]:
        self._iterator = self._context.run(_iterate, self._items)
        return self._iterator

    def close(self) -> None:
        """Close the iterator if it is a generator."""
        try:
            self._context.run(close_plain, self._items if self._iterator is None else self._iterator)
        except BaseException as error:
            _note(error, self)
            raise


@final
class AsyncSource(Generic[T]):
    """An async iterable.

    Attributes:
        pulled: how many items were pulled.
        exhausted: whether it has no more items.
        pulling: whether a `pull` is waiting for the next item.
        closed: whether `aclose` was called.
        scope: must enclose all use of the source, from the first pull to its closing.
    """

    __slots__ = ("_items", "_iterator", "closed", "exhausted", "pulled", "pulling", "scope")

    def __init__(self, items: AsyncIterable[T]) -> None:
        self.pulled = 0
        self.exhausted = False
        self.pulling = False
        self.closed = False
        self.scope = trio.CancelScope()
        self._items = items
        self._iterator: AsyncIterator[T] | None = None

    def __repr__(self) -> str:
        return f"<AsyncSource: {self.pulled} pulled{', exhausted' if self.exhausted else ''}>"

    async def pull(self) -> T | End:
        """Return the next item, or `END`.

        Cancellation: passes through the iterable.
        """
        self.pulling = True
        try:
            if self._iterator is None:
                self._iterator = call_plain(self._items.__aiter__)
            item = await await_next(self._iterator)
        except StopAsyncIteration:
            self.exhausted = True
            return END
        except BaseException as error:
            _note(error, self)
            raise
        finally:
            self.pulling = False
        self.pulled += 1
        return item

    def stop_pulling(self) -> None:
        """End a wait for the next item."""
        if self.pulling:
            self.scope.cancel(reason="the fan-out is drained")

    async def aclose(self) -> None:
        """Close the iterator if it is a generator; to be called inside `scope`.

        Cancellation: shielded, for at most `CLOSE_DEADLINE` seconds.
        """
        self.closed = True
        self.scope.shield = True
        self.scope.deadline = trio.current_time() + CLOSE_DEADLINE
        try:
            await close_async(self._items if self._iterator is None else self._iterator)
        except BaseException as error:
            _note(error, self)
            raise


def _iterate(items: Iterable[T]) -> Iterator[T]:
    return call_plain(iter, items)


Source = SyncSource[T] | AsyncSource[T] | QueueSource[T]


def note_pulled(error: BaseException, who: str, pulled: int) -> None:
    """Add a note to `error` that says what raised it, and how many items had been pulled."""
    if not isinstance(error, trio.Cancelled):
        error.add_note(f"raised by {who} after {pulled} items pulled")


def _note(error: BaseException, source: "SyncSource[T] | AsyncSource[T]") -> None:
    note_pulled(error, "the source of items", source.pulled)

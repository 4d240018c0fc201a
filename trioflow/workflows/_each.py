"""One item at a time, in the caller's task: pulled when the one before is done, closed on every way out.

What the source raises, being pulled or closed, is noted as the source's, and beats an `Exception` of a step.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final, Generic, TypeVar, final

import trio

from trioflow._runtime.calls import CLOSE_DEADLINE, await_next, call_plain, close_async, close_plain, pull_next
from trioflow._runtime.errors import ErrorCollector
from trioflow.workflows._source import note_pulled

__all__ = ("Each",)

T = TypeVar("T")


class _End(Enum):
    """What pulling gives where nothing is left."""

    END = 0


_END: Final = _End.END


@final
class Each(Generic[T]):
    """The items of one run.

    Args:
        items: the input, as the user gave it.
        step: awaited for each item.

    Attributes:
        pulled: how many items were pulled.
    """

    def __init__(self, items: Iterable[T] | AsyncIterable[T], step: Callable[[T], Awaitable[None]]) -> None:
        self.pulled = 0
        self._items = items
        self._step = step
        self._errors = ErrorCollector()
        self._closing = ErrorCollector()

    def __repr__(self) -> str:
        return f"<Each: {self.pulled} pulled>"

    async def run(self) -> None:
        """Pull each item and await the step for it.

        Cancellation: passes through, after the source is closed; closing an async generator is shielded, for at
        most `CLOSE_DEADLINE` seconds.
        """
        if isinstance(self._items, AsyncIterable):
            await self._run_async(self._items)
        else:
            await self._run_plain(self._items)
        self._closing.add(self._errors.worst())
        self._errors.replace(None)
        self._closing.raise_worst()

    async def _run_plain(self, items: Iterable[T]) -> None:
        source: object = items
        with self._errors.collecting():
            with self._blaming():
                iterator: Iterator[T] = call_plain(iter, items)
                source = iterator
            while (item := self._pull(iterator)) is not _END:
                self.pulled += 1
                await self._step(item)
        with self._closing.collecting(), self._blaming():
            close_plain(source)

    async def _run_async(self, items: AsyncIterable[T]) -> None:
        source: object = items
        # One scope around all that a generator does: scopes that it holds across a yield nest inside.
        with trio.CancelScope() as pulling:
            with self._errors.collecting():
                with self._blaming():
                    source = iterator = call_plain(items.__aiter__)
                while (item := await self._await_item(iterator)) is not _END:
                    self.pulled += 1
                    await self._step(item)
            pulling.shield = True
            pulling.deadline = trio.current_time() + CLOSE_DEADLINE
            with self._closing.collecting(), self._blaming():
                await close_async(source)

    def _pull(self, iterator: Iterator[T]) -> T | _End:
        try:
            return pull_next(iterator, _END)
        except Exception as error:
            note_pulled(error, "the source of items", self.pulled)
            raise

    async def _await_item(self, iterator: AsyncIterator[T]) -> T | _End:
        with self._blaming():
            try:
                return await await_next(iterator)
            except StopAsyncIteration:
                return _END

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            note_pulled(error, "the source of items", self.pulled)
            raise

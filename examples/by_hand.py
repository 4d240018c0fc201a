"""One fan-out, written twice: by hand in a nursery of Trio's, and with trioflow.

Both promise the same. At most so many calls run at once; the source, sync or async, is pulled no further than the
workers need, and closed. An attempt has a time limit, and one that fails is made again after a delay that doubles.
Every item ends as a result, an error or unfinished, in item order. The first failure ends the batch, or none does.
A cancellation from outside passes through, `KeyboardInterrupt` comes out bare, and so does what the source raises.

`tests/examples/test_by_hand.py` runs both on the same items and compares what comes of them. It counts the lines,
too. Run it with `python examples/by_hand.py`.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Sized
from contextlib import aclosing
from typing import Any, NamedTuple

import trio

from trioflow import ParallelConfig, ParallelError, RetryConfig, process_parallel


class Account(NamedTuple):
    """What became of each item."""

    results: list[Any]
    """What the processor returned, in item order."""
    errors: list[tuple[int, str, int]]
    """Of each item that failed its index, the type of the error and how many attempts were made."""
    unfinished: list[int]
    """The indexes of items that were cut short, or never begun."""


class BatchError(Exception):
    """The batch failed: the first failure ended it, or every item failed."""

    def __init__(self, account: Account) -> None:
        super().__init__(f"{len(account.errors)} items failed")
        self.account = account


Items = Iterable[Any] | AsyncIterable[Any]
Processor = Callable[[Any], Awaitable[Any]]


# The short way.


async def with_trioflow(
    items: Items, processor: Processor, *, workers: int, attempts: int, time_limit: float, fail_fast: bool
) -> Account:
    """Call `processor` for each item, by trioflow."""
    retry = RetryConfig(max_attempts=attempts, jitter=False)
    config = ParallelConfig(max_workers=workers, fail_fast=fail_fast, task_timeout=time_limit, retry=retry)
    try:
        result = await process_parallel(items, processor, config=config)
    except ParallelError as error:
        result = error.result
        raise BatchError(account_of(result)) from error
    return account_of(result)


# The long way.


async def by_hand(
    items: Items, processor: Processor, *, workers: int, attempts: int, time_limit: float, fail_fast: bool
) -> Account:
    """Call `processor` for each item, by hand."""
    return await _Batch(items, processor, attempts, time_limit, fail_fast=fail_fast).run(workers)


class _Batch:
    def __init__(
        self, items: Items, processor: Processor, attempts: int, time_limit: float, *, fail_fast: bool
    ) -> None:
        self.items = items
        self.processor = processor
        self.attempts = attempts
        self.time_limit = time_limit
        self.fail_fast = fail_fast
        self.results: dict[int, Any] = {}
        self.errors: dict[int, tuple[Exception, int]] = {}
        self.raised: list[BaseException] = []
        self.pulled = 0

    async def run(self, workers: int) -> Account:
        send, receive = trio.open_memory_channel[tuple[int, Any]](0)
        try:
            async with trio.open_nursery() as nursery:
                self.scope = nursery.cancel_scope
                nursery.start_soon(self.guard, self.feed, send)
                for _ in range(workers):
                    nursery.start_soon(self.guard, self.work, receive.clone())
                receive.close()
        except BaseException:  # noqa: ASYNC103 - a failure that came first beats the cancellation
            # The tasks let only `Cancelled` out. What ended the batch before that is worse.
            if not self.raised and not (self.fail_fast and self.errors):
                raise
        return self.conclude()

    async def feed(self, channel: trio.MemorySendChannel[tuple[int, Any]]) -> None:
        async with channel, aclosing(each_of(self.items)) as source:
            async for item in source:
                self.pulled += 1
                await channel.send((self.pulled - 1, item))

    async def work(self, channel: trio.MemoryReceiveChannel[tuple[int, Any]]) -> None:
        async with channel:
            async for index, item in channel:
                await self.handle(index, item)

    async def handle(self, index: int, item: Any) -> None:
        for number in range(1, self.attempts + 1):
            if number > 1:
                await trio.sleep(0.1 * 2 ** (number - 2))
            try:
                # No checkpoint between the processor's return and the account: what was paid for is kept.
                with trio.fail_after(self.time_limit):
                    self.results[index] = await self.processor(item)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the item's
                failure = error, number
            else:
                return
        self.errors[index] = failure
        if self.fail_fast:
            self.scope.cancel()

    async def guard(self, task: Callable[[Any], Awaitable[None]], channel: Any) -> None:
        try:
            await task(channel)
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - raised in the end, without the nursery's group around it
            self.raised.append(error)
            self.scope.cancel()

    def conclude(self) -> Account:
        if self.raised:
            raise next((error for error in self.raised if not isinstance(error, Exception)), self.raised[0])
        total = len(self.items) if isinstance(self.items, Sized) else self.pulled
        account = Account(
            [self.results[index] for index in sorted(self.results)],
            [(index, type(error).__name__, number) for index, (error, number) in sorted(self.errors.items())],
            [index for index in range(total) if index not in self.results and index not in self.errors],
        )
        if self.errors and (self.fail_fast or not self.results):
            raise BatchError(account) from ExceptionGroup("items", [error for error, _ in self.errors.values()])
        return account


async def each_of(items: Items) -> AsyncGenerator[Any, None]:  # noqa: ASYNC900 - closed by who iterates
    """Yield the items of any source; a generator among them is closed with this one."""
    if isinstance(items, AsyncIterable):
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                    await items.aclose()
        return
    try:
        for item in items:
            yield item
    finally:
        if isinstance(items, Generator):
            items.close()


# What both are asked.


def account_of(result: Any) -> Account:
    """Return the account of a `ParallelResult` in the form that both share."""
    errors = [(failed.index, type(failed.error).__name__, failed.attempts) for failed in result.errors]
    return Account(result.results, errors, list(result.unfinished))


async def main() -> None:
    """Show that both come to the same."""

    async def call(number: int) -> int:
        await trio.sleep(0.01)
        if number % 7 == 3:
            raise ConnectionError("connection refused")
        return number * number

    for way in (with_trioflow, by_hand):
        account = await way(range(20), call, workers=4, attempts=2, time_limit=1, fail_fast=False)
        print(f"{way.__name__}: {len(account.results)} results, {len(account.errors)} errors")


if __name__ == "__main__":
    trio.run(main)

"""What is there to compare with: the floor under any Trio pool, and the pools that one would use instead.

Each is `await pool(items, fn, workers)`, calls `fn` once for each item with at most `workers` calls at a time,
and returns the results: in item order, except the channel pools, which return them in order of completion. None
of them accounts for failures, so none pays for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import trio

__all__ = (
    "HAS_AIOMETER",
    "aiometer_run_all",
    "asyncio_semaphore",
    "bare_loop",
    "three_channel_pool",
    "three_channel_pool_nowait",
)

T = TypeVar("T")
R = TypeVar("R")

HAS_AIOMETER = find_spec("aiometer") is not None
"""Whether `aiometer_run_all` can run."""


async def bare_loop(
    items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int, *, checkpoint: bool = True
) -> list[R]:
    """The floor: tasks over a shared iterator. `checkpoint` adds one an item, where `fn` has none of its own."""
    shared = enumerate(items)
    results: list = [None] * len(items)
    worker = _checkpointing_worker if checkpoint else _bare_worker
    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(worker, shared, fn, results)
    return results


async def _bare_worker(shared: Iterator[tuple[int, T]], fn: Callable[[T], Awaitable[R]], results: list[R]) -> None:
    for index, item in shared:
        results[index] = await fn(item)


async def _checkpointing_worker(
    shared: Iterator[tuple[int, T]], fn: Callable[[T], Awaitable[R]], results: list[R]
) -> None:
    for index, item in shared:
        results[index] = await fn(item)
        await trio.lowlevel.checkpoint()


async def three_channel_pool(items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int) -> list[R]:
    """The textbook: feeder, bounded channel, workers, bounded channel, collector; every hand-over awaited."""
    send, receive = trio.MemorySendChannel.send, trio.MemoryReceiveChannel.receive
    return await _three_stages(items, fn, workers, send, receive)


async def three_channel_pool_nowait(
    items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int
) -> list[R]:
    """The same, tuned: it waits only where a hand-over would block."""
    return await _three_stages(items, fn, workers, _send, _receive)


async def _three_stages(
    items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int, send: Callable, receive: Callable
) -> list[R]:
    """Join the stages by two channels that each hold one value a worker."""
    results: list = []
    work_in, work_out = trio.open_memory_channel(workers)
    done_in, done_out = trio.open_memory_channel(workers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_feed, items, work_in, send)
        nursery.start_soon(_collect, done_out, results, receive)
        async with work_out, done_in:
            for _ in range(workers):
                nursery.start_soon(_process, fn, work_out.clone(), done_in.clone(), send, receive)
    return results


async def _feed(items: Sequence[T], work: trio.MemorySendChannel[T], send: Callable) -> None:
    async with work:
        for item in items:
            await send(work, item)


async def _process(
    fn: Callable[[T], Awaitable[R]],
    work: trio.MemoryReceiveChannel[T],
    done: trio.MemorySendChannel[R],
    send: Callable,
    receive: Callable,
) -> None:
    async with work, done:
        with suppress(trio.EndOfChannel):
            while True:
                await send(done, await fn(await receive(work)))


async def _collect(done: trio.MemoryReceiveChannel[R], results: list[R], receive: Callable) -> None:
    async with done:
        with suppress(trio.EndOfChannel):
            while True:
                results.append(await receive(done))


async def _send(channel: trio.MemorySendChannel[T], value: T) -> None:
    try:
        channel.send_nowait(value)
    except trio.WouldBlock:
        await channel.send(value)


async def _receive(channel: trio.MemoryReceiveChannel[T]) -> T:
    try:
        return channel.receive_nowait()
    except trio.WouldBlock:
        return await channel.receive()


async def aiometer_run_all(items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int) -> list[R]:
    """The nearest library: a task an item behind anyio's limiter."""
    import aiometer  # noqa: PLC0415 - optional: see HAS_AIOMETER

    return await aiometer.run_all([partial(fn, item) for item in items], max_at_once=workers)


async def asyncio_semaphore(items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int) -> list[R]:
    """The other event loop's idiom: a task an item behind a semaphore; for `asyncio.run`."""
    semaphore = asyncio.Semaphore(workers)

    async def process(item: T) -> R:
        async with semaphore:
            return await fn(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(process(item)) for item in items]
    return [task.result() for task in tasks]

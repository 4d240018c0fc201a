"""What is there to compare with: the floor under any Trio pool, and the pools that one would use instead.

Each pool is `await pool(items, fn, workers)`, calls `fn` once for each item with at most `workers` calls at a
time, and returns the results: in item order, except the channel pools and aiostream, which return them in order
of completion. None of them accounts for failures, so none pays for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import TypeVar

import trio
from measuring import Contender, Role

from trioflow import ParallelConfig, process_parallel

__all__ = (
    "HAS_AIOMETER",
    "HAS_AIOSTREAM",
    "aiometer_run_all",
    "aiostream_map",
    "anyio_limiter",
    "asyncio_gather",
    "asyncio_semaphore",
    "bare_loop",
    "collected",
    "nursery_limiter",
    "pools",
    "three_channel_pool",
    "three_channel_pool_nowait",
    "timed",
    "under_asyncio",
    "under_trio",
    "yielding",
    "yielding_asyncio",
)

T = TypeVar("T")
R = TypeVar("R")

Pool = Callable[[Sequence[int], Callable[[int], Awaitable[int]], int], Awaitable[Sequence[int]]]
Processor = Callable[[int], Awaitable[int]]

HAS_AIOMETER = find_spec("aiometer") is not None
"""Whether `aiometer_run_all` can run, and `anyio_limiter`, which it brings with it."""

HAS_AIOSTREAM = find_spec("aiostream") is not None
"""Whether `aiostream_map` can run."""


async def yielding(item: int) -> int:
    """A call that yields once."""
    await trio.lowlevel.checkpoint()
    return item


async def yielding_asyncio(item: int) -> int:
    """The same under asyncio."""
    await asyncio.sleep(0)
    return item


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


async def nursery_limiter(items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int) -> list[R]:
    """What Trio's users write first: a task an item behind a limiter."""
    limiter = trio.CapacityLimiter(workers)
    results: list = [None] * len(items)

    async def process(index: int, item: T) -> None:
        async with limiter:
            results[index] = await fn(item)

    async with trio.open_nursery() as nursery:
        for index, item in enumerate(items):
            nursery.start_soon(process, index, item)
    return results


async def anyio_limiter(items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int) -> list[R]:
    """The same in anyio, on whichever loop runs."""
    import anyio  # noqa: PLC0415 - optional: see HAS_AIOMETER

    limiter = anyio.CapacityLimiter(workers)
    results: list = [None] * len(items)

    async def process(index: int, item: T) -> None:
        async with limiter:
            results[index] = await fn(item)

    async with anyio.create_task_group() as group:
        for index, item in enumerate(items):
            group.start_soon(process, index, item)
    return results


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


async def asyncio_gather(items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int) -> list[R]:
    """The same without a task group: a failure leaves the other tasks running."""
    semaphore = asyncio.Semaphore(workers)

    async def process(item: T) -> R:
        async with semaphore:
            return await fn(item)

    return await asyncio.gather(*map(process, items))


async def aiostream_map(
    items: Sequence[T], fn: Callable[[T], Awaitable[R]], workers: int, *, ordered: bool = False
) -> list[R]:
    """asyncio's streams: operators over iterators; for `asyncio.run`."""
    from aiostream import async_, stream  # noqa: PLC0415 - optional: see HAS_AIOSTREAM

    mapped = stream.map(stream.iterate(items), async_(fn), ordered=ordered, task_limit=workers)
    async with mapped.stream() as results:
        return [result async for result in results]


async def collected(items: Sequence[int], fn: Processor, workers: int, **options: object) -> Sequence[int]:
    """`process_parallel` with the signature of a peer; `options` are further fields of its config."""
    config = ParallelConfig(**{"max_workers": workers, "observer": "noop", **options})
    return (await process_parallel(items, fn, config=config)).results


# How one contender is timed: inside the event loop, so that starting one does not count.


async def timed(pool: Pool, items: int, fn: Processor, workers: int) -> float:
    numbers = list(range(items))
    start = perf_counter()
    results = await pool(numbers, fn, workers)
    seconds = perf_counter() - start
    if sorted(item_of(result) for result in results) != numbers:
        raise RuntimeError(f"{pool} lost or made up results")
    return seconds


def item_of(result: int | ValueError) -> int:
    return result.args[0] if isinstance(result, ValueError) else result


def under_trio(pool: Pool, items: int, fn: Processor, workers: int) -> Callable[[], float]:
    return partial(trio.run, timed, pool, items, fn, workers)


def under_asyncio(pool: Pool, items: int, fn: Processor, workers: int) -> Callable[[], float]:
    return lambda: asyncio.run(timed(pool, items, fn, workers))


def pools(items: int, fn: Processor, theirs: Processor, workers: int) -> list[Contender]:
    """Return what one would use instead of `process_parallel`; `theirs` is `fn` for asyncio's loop."""
    here = partial(under_trio, items=items, fn=fn, workers=workers)
    there = partial(under_asyncio, items=items, fn=theirs, workers=workers)
    measures = {
        "nursery + CapacityLimiter": here(nursery_limiter),
        "anyio + CapacityLimiter, on Trio": here(anyio_limiter) if HAS_AIOMETER else None,
        "aiometer.run_all": here(aiometer_run_all) if HAS_AIOMETER else None,
        "asyncio TaskGroup + Semaphore": there(asyncio_semaphore),
        "asyncio gather + Semaphore": there(asyncio_gather),
        "aiostream.stream.map": there(aiostream_map) if HAS_AIOSTREAM else None,
    }
    return [Contender(name, measure, Role.PEER) for name, measure in measures.items()]

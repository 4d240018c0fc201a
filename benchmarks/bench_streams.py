"""What does an outcome cost that is handed out as it completes, or in order, and how soon is the first one there?

    python benchmarks/bench_streams.py [--full] [--repeat 5] [--json FILE] [--check]

One consumer takes the results of a stream one by one. Beside trioflow stand aiometer's `amap` and aiostream's
`map`, and what one writes by hand: tasks that send into a channel, or a queue. `--full` has more items.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

import peers
import trio
from measuring import About, Contender, Role, Row, add_arguments, compare, report
from peers import yielding, yielding_asyncio

from trioflow import ParallelConfig, TaskOutcome, open_parallel

ITEMS, FULL_ITEMS = 2_000, 5_000
WORKERS = 16
SOURCE = 20_000
LEGEND = "ratio: how much longer open_parallel takes than a floor, and a peer than open_parallel"
ABOUT = {
    "a": About(
        "what a result costs that a consumer takes as soon as it is there; the calls yield once to their loop.",
        "one consumer takes every result by `async for`, 16 calls at a time. The floor is the least that streams: "
        "tasks over a shared iterator that send into a channel.",
    ),
    "b": About(
        "the same in the order of the items: a result waits for those before it.",
        "only what keeps the order by itself takes part; the results are compared with the items.",
    ),
    "c": About(
        f"how long a consumer waits for its first result of {SOURCE:,} items, and stops there.",
        "each is asked for one result and then closed, which counts. The calls yield once.",
    ),
}

Stream = Callable[[Sequence[int]], AbstractAsyncContextManager[AsyncIterable[Any]]]


def ours(items: Sequence[int], *, ordered: bool = False) -> AbstractAsyncContextManager[AsyncIterable[Any]]:
    config = ParallelConfig(max_workers=WORKERS, observer="noop")
    return open_parallel(items, yielding, config=config, ordered=ordered, keep_results=False)


@asynccontextmanager
async def channel(items: Sequence[int]) -> AsyncIterator[AsyncIterable[int]]:
    """The floor: workers that send to the consumer, by which they are slowed."""
    shared = iter(items)
    send, receive = trio.open_memory_channel[int](WORKERS)

    async def work(mine: trio.MemorySendChannel[int]) -> None:
        async with mine:
            for item in shared:
                await mine.send(await yielding(item))

    async with trio.open_nursery() as nursery:
        async with send:
            for _ in range(WORKERS):
                nursery.start_soon(work, send.clone())
        yield receive
        nursery.cancel_scope.cancel()


def aiometer_amap(items: Sequence[int]) -> AbstractAsyncContextManager[AsyncIterable[int]]:
    import aiometer  # noqa: PLC0415 - optional

    return aiometer.amap(yielding, items, max_at_once=WORKERS)


def aiostream_map(
    items: Sequence[int], *, ordered: bool = False
) -> AbstractAsyncContextManager[AsyncIterable[int]]:
    from aiostream import async_, stream  # noqa: PLC0415 - optional

    source = stream.iterate(items)
    return stream.map(source, async_(yielding_asyncio), ordered=ordered, task_limit=WORKERS).stream()


@asynccontextmanager
async def queue(items: Sequence[int]) -> AsyncIterator[AsyncIterable[int]]:
    """asyncio's tasks over a shared iterator that put into a queue."""
    shared = iter(items)
    results: asyncio.Queue[int] = asyncio.Queue(WORKERS)

    async def work() -> None:
        for item in shared:
            await results.put(await yielding_asyncio(item))

    async def take() -> AsyncIterator[int]:
        for _ in items:
            yield await results.get()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for _ in range(WORKERS)]
        yield take()
        for task in tasks:
            task.cancel()


async def drained(stream: Stream, items: int, first: int, *, ordered: bool) -> float:
    """Return the seconds until `first` results are taken and the stream is closed."""
    numbers = list(range(items))
    taken: list[int] = []
    start = perf_counter()
    async with stream(numbers) as results:
        async for result in results:
            taken.append(result.unwrap() if isinstance(result, TaskOutcome) else result)
            if len(taken) == first:
                break
    seconds = perf_counter() - start
    if first == items and (taken if ordered else sorted(taken)) != numbers:
        raise RuntimeError(f"{stream} lost or made up results")
    return seconds


def ask(letter: str, what: str, items: int, first: int, repeat: int) -> list[Row]:
    ordered = letter == "b"

    def here(stream: Stream) -> Callable[[], float]:
        return lambda: trio.run(partial(drained, stream, items, first, ordered=ordered))

    def there(stream: Stream) -> Callable[[], float]:
        return lambda: asyncio.run(drained(stream, items, first, ordered=ordered))

    aiostream = partial(aiostream_map, ordered=ordered)
    contenders = [Contender("open_parallel", here(partial(ours, ordered=ordered)), Role.OURS)]
    if not ordered:
        aiometer = here(aiometer_amap) if peers.HAS_AIOMETER else None
        contenders += [
            Contender("workers and a channel", here(channel), Role.FLOOR),
            Contender("aiometer.amap", aiometer, Role.PEER),
            Contender("asyncio tasks and a queue", there(queue), Role.PEER),
        ]
    contenders.append(
        Contender("aiostream.stream.map", there(aiostream) if peers.HAS_AIOSTREAM else None, Role.PEER)
    )
    if first < items:
        return compare(f"{letter}. {what}", contenders, items=1_000, repeat=repeat, unit="ms")
    return compare(f"{letter}. {what}", contenders, items=first, repeat=repeat)


def ask_all(repeat: int, *, full: bool) -> Iterable[list[Row]]:
    items = FULL_ITEMS if full else ITEMS
    yield ask("a", f"a stream of {items:,} items as they complete: a result", items, items, repeat)
    yield ask("b", f"a stream of {items:,} items in order: a result", items, items, repeat)
    yield ask("c", f"the first result of {SOURCE:,} items", SOURCE, 1, repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    return report(arguments, ask_all(arguments.repeat, full=arguments.full), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

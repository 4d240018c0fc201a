"""What does `process_parallel` cost beside a bare Trio loop and beside the pools one would use instead?

    python benchmarks/bench_engine.py [--items 20000] [--repeat 5] [--json FILE] [--check]

Also: what memory a long stream takes, how soon a failure is out, and what the options cost. Contenders take
turns, so that noise of the machine hits all alike, and the best of each one's times counts. Ratios are what to
look at; microseconds are this machine's. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import peers
import trio
from measuring import MEBI, Contender, Limit, Role, Row, add_arguments, compare, peak_memory, positive, report

from trioflow import ParallelConfig, ParallelError, RetryConfig, TaskOutcome, open_parallel, process_parallel

WORKERS = 16
MANY_WORKERS = 1_000
NAP = 0.01
LONG_STREAM = 1_000_000
SHORT_STREAM = 20_000

OURS = "process_parallel"
LEGEND = """\
ratio: how much longer process_parallel takes than a floor, and
a peer or a variant than the first line of its table"""


# Processors and sources.


async def noop(item: int) -> int:
    return item


async def noop_checkpoint(item: int) -> int:
    await trio.lowlevel.checkpoint()
    return item


async def nap(item: int) -> int:
    await trio.sleep(NAP)
    return item


async def generate(count: int) -> AsyncIterator[int]:
    for item in range(count):
        yield item


# How one contender is timed: inside the event loop, so that starting one does not count.

Pool = Callable[[Sequence[int], Callable[[int], Awaitable[int]], int], Awaitable[Sequence[int]]]
Processor = Callable[[int], Awaitable[int]]


async def timed(pool: Pool, items: int, fn: Processor, workers: int) -> float:
    numbers = list(range(items))
    start = perf_counter()
    results = await pool(numbers, fn, workers)
    seconds = perf_counter() - start
    if sorted(results) != numbers:
        raise RuntimeError(f"{pool} lost or made up results")
    return seconds


def under_trio(pool: Pool, items: int, fn: Processor, workers: int) -> Callable[[], float]:
    return partial(trio.run, timed, pool, items, fn, workers)


def under_asyncio(pool: Pool, items: int, workers: int) -> Callable[[], float]:
    """Time `pool` with the cheapest no-op: it never yields to asyncio's loop, whatever Trio's does."""
    return lambda: asyncio.run(timed(pool, items, noop, workers))


async def collected(items: Sequence[int], fn: Processor, workers: int, **options: object) -> Sequence[int]:
    """`process_parallel` with the signature of a peer; `options` are further fields of its config."""
    config = ParallelConfig(**{"max_workers": workers, "observer": "noop", **options})
    return (await process_parallel(items, fn, config=config)).results


async def generated(items: Sequence[int], fn: Processor, workers: int) -> Sequence[int]:
    config = ParallelConfig(max_workers=workers, observer="noop")
    return (await process_parallel(generate(len(items)), fn, config=config)).results


async def streamed(
    items: Iterable[int], fn: Processor, workers: int, *, ordered: bool = False, keep_results: bool = True
) -> Sequence[int]:
    config = ParallelConfig(max_workers=workers, observer="noop")
    run = open_parallel(items, fn, config=config, ordered=ordered, keep_results=keep_results)
    async with run as outcomes:
        return [outcome.unwrap() async for outcome in outcomes]


# The questions.


def ask_noop(fn: Processor, items: int, repeat: int) -> list[Row]:
    """The overhead an item, all else being free.

    After a processor that has no checkpoint the loop takes one each time and `process_parallel` only now and
    then: there it can be faster than its floor, and the processor with a checkpoint shows the engine's own cost.
    """
    own_checkpoint = fn is noop_checkpoint
    floor = partial(peers.bare_loop, checkpoint=not own_checkpoint)
    aiometer = under_trio(peers.aiometer_run_all, items, fn, WORKERS) if peers.HAS_AIOMETER else None
    in_asyncio = under_asyncio(peers.asyncio_semaphore, items, WORKERS)
    nowait = under_trio(peers.three_channel_pool_nowait, items, fn, WORKERS)
    contenders = [
        Contender(OURS, under_trio(collected, items, fn, WORKERS), Role.OURS),
        Contender("bare loop", under_trio(floor, items, fn, WORKERS), Role.FLOOR, Limit(2)),
        Contender("aiometer.run_all", aiometer, Role.PEER, Limit(8, at_least=True)),
        Contender("asyncio TaskGroup + Semaphore", in_asyncio, Role.PEER, Limit(1, at_least=True)),
        Contender("three-channel pool", under_trio(peers.three_channel_pool, items, fn, WORKERS), Role.PEER),
        Contender("three-channel pool, nowait", nowait, Role.PEER),
    ]
    kind = "with a checkpoint of its own" if own_checkpoint else "without a checkpoint"
    question = f"a. {items:,} no-op items, {WORKERS} workers, processor {kind}"
    return compare(question, contenders, items=items, repeat=repeat)


def ask_nap(items: int, repeat: int) -> list[Row]:
    """The overhead where there is something to wait for, and many wait."""
    floor = partial(peers.bare_loop, checkpoint=False)
    contenders = [
        Contender(OURS, under_trio(collected, items, nap, MANY_WORKERS), Role.OURS),
        Contender("bare loop", under_trio(floor, items, nap, MANY_WORKERS), Role.FLOOR, Limit(1.25)),
    ]
    question = f"b. {items:,} items sleeping {NAP * 1000:g} ms, {MANY_WORKERS:,} workers"
    return compare(question, contenders, items=items, repeat=repeat)


def ask_memory() -> list[Row]:
    """Whether a stream that keeps nothing grows with its length."""
    question = "c. peak memory of a stream with keep_results=False, each in a process of its own"
    short, long = stream_peak_of_child(SHORT_STREAM), stream_peak_of_child(LONG_STREAM)
    return [
        Row(question, f"{SHORT_STREAM:,} items", short / MEBI, "MiB"),
        Row(question, f"{LONG_STREAM:,} items", long / MEBI, "MiB"),
        Row(question, "difference", round((long - short) / MEBI, 2) + 0.0, "MiB", limit=Limit(16)),
    ]


def stream_peak_of_child(count: int) -> int:
    command = [sys.executable, __file__, "--print-stream-peak", str(count)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def print_stream_peak(count: int) -> None:
    async def stream() -> None:
        config = ParallelConfig(max_workers=WORKERS, observer="noop")
        numbers = (number for number in range(count))
        async with open_parallel(numbers, noop, config=config, keep_results=False) as run:
            taken = 0
            async for _ in run:
                taken += 1
        if taken != count:
            raise RuntimeError(f"{taken} outcomes of {count} items")

    trio.run(stream)
    print(peak_memory())


def ask_fail_fast(repeat: int) -> list[Row]:
    """How long the caller waits for a failure that has happened."""
    question = f"d. fail-fast, {MANY_WORKERS:,} sleeping workers: from the failure to the caller"
    waits = []
    for _ in range(repeat):
        gc.collect()
        waits.append(trio.run(fail_fast_wait) * 1000)
    return [
        Row(question, f"best of {repeat}", min(waits), "ms"),
        Row(question, f"worst of {repeat}", max(waits), "ms", limit=Limit(50)),
    ]


async def fail_fast_wait() -> float:
    failed_at = 0.0

    async def processor(index: int) -> None:
        nonlocal failed_at
        if index < MANY_WORKERS - 1:
            await trio.sleep_forever()
        await trio.sleep(0.05)  # by now all the others sleep
        failed_at = perf_counter()
        raise ValueError("the failure")

    try:
        await process_parallel(
            range(MANY_WORKERS), processor, config=ParallelConfig(max_workers=MANY_WORKERS, observer="noop")
        )
    except ParallelError:
        return perf_counter() - failed_at
    raise RuntimeError("the failure got lost")


def ask_options(items: int, repeat: int) -> list[Row]:
    """What is paid for what `process_parallel` with a list and a silent observer does not do."""
    variants = {
        "observer loguru, sink at INFO": partial(collected, observer="loguru"),
        "retry set, nothing fails": partial(collected, retry=RetryConfig()),
        "task_timeout set": partial(collected, task_timeout=60.0),
        "async generator as source": generated,
        "open_parallel, async for": streamed,
        "open_parallel, ordered": partial(streamed, ordered=True),
        "open_parallel, keep_results=False": partial(streamed, keep_results=False),
    }
    limits = {"observer loguru, sink at INFO": Limit(2.5)}
    contenders = [Contender(OURS, under_trio(collected, items, noop, WORKERS), Role.OURS)]
    for name, pool in variants.items():
        measure = under_trio(pool, items, noop, WORKERS)
        contenders.append(Contender(name, measure, Role.VARIANT, limits.get(name)))
    question = f"e. options: {items:,} no-op items, {WORKERS} workers"
    with Path(os.devnull).open("w") as nowhere:
        log_to(nowhere)
        return compare(question, contenders, items=items, repeat=repeat)


def log_to(stream: object) -> None:
    from loguru import logger  # noqa: PLC0415 - not a part of what the other questions time

    logger.remove()
    logger.add(stream, level="INFO")


def ask_outcome(items: int, repeat: int) -> list[Row]:
    """Why the engine makes outcomes by position."""
    calls = (
        "TaskOutcome(1, 2, 3, None, 1, 0.5)",
        "TaskOutcome(index=1, item=2, result=3, error=None, attempts=1, duration=0.5)",
    )
    position, keyword = [
        partial(timeit.timeit, call, number=items, globals={"TaskOutcome": TaskOutcome}) for call in calls
    ]
    contenders = [
        Contender("by position", position, Role.OURS),
        Contender("by keyword", keyword, Role.VARIANT),
    ]
    return compare("f. making a TaskOutcome, for information", contenders, items=items, repeat=repeat)


# The program.


def ask_all(items: int, repeat: int) -> Iterable[list[Row]]:
    yield ask_noop(noop, items, repeat)
    yield ask_noop(noop_checkpoint, items, repeat)
    yield ask_nap(items, repeat)
    yield ask_memory()
    yield ask_fail_fast(repeat)
    yield ask_options(items, repeat)
    yield ask_outcome(items, repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, default=20_000, help="items of questions a, b, e and f")
    parser.add_argument("--print-stream-peak", type=positive, help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.print_stream_peak:
        print_stream_peak(arguments.print_stream_peak)
        return 0
    return report(arguments, ask_all(arguments.items, arguments.repeat), LEGEND)


if __name__ == "__main__":
    sys.exit(main())

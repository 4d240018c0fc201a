"""What does `process_parallel` cost beside a bare Trio loop and beside the pools one would use instead?

    python benchmarks/bench_engine.py [--items 20000] [--full] [--repeat 5] [--json FILE] [--check]

Also: what memory a long stream takes, how soon a failure is out, and what the options cost. Contenders take
turns, so that noise of the machine hits all alike, and the best of each one's times counts. Ratios are what to
look at; microseconds are this machine's. `--full` adds the pools that take tens of seconds, and items that fail.
With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
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
from measuring import (
    MEBI,
    About,
    Contender,
    Limit,
    Role,
    Row,
    add_arguments,
    compare,
    peak_memory,
    positive,
    report,
)
from peers import Processor, under_asyncio, under_trio, yielding, yielding_asyncio

from trioflow import ParallelConfig, ParallelError, RetryConfig, TaskOutcome, open_parallel, process_parallel

WORKERS = 16
MANY_WORKERS = 1_000
NAP = 0.01
ITEMS = 20_000
FULL_ITEMS = 5_000
"""Items with `--full`, which has more contenders."""
LONG_STREAM = 1_000_000
SHORT_STREAM = 20_000

OURS = "process_parallel"
LEGEND = """\
ratio: how much longer process_parallel takes than a floor, and
a peer or a variant than the first line of its table"""
ABOUT = {
    "a": About(
        "what a fan-out adds to an item whose processor does next to nothing: it returns at once, yields once, or "
        "fails, 1 % or 100 % of the time. The whole call is timed, inside a running event loop.",
        "each calls the same function for the same items, 16 at a time, and returns every result. For the peers "
        "failures are caught by hand around the call, as they would stop at the first. Only trioflow also keeps "
        "an account: the index, attempts and duration of each item. asyncio's processors yield to asyncio's loop, "
        "but in the line that says otherwise.",
    ),
    "b": About(
        "what a fan-out adds where a thousand calls wait at a time.",
        "the floor is a loop in each of a thousand tasks, with the same sleep.",
    ),
    "c": About(
        "whether the memory of a stream of which nothing is kept depends on its length.",
        "each stream runs in a fresh process; what is read is the operating system's peak for it.",
    ),
    "d": About(
        "how long the caller waits from the moment of a failure until it has the error, a thousand calls being "
        "cancelled in between.",
        "the clock starts in the line before the `raise`; the other calls sleep by then.",
    ),
    "e": About(
        "what each option adds to an item that does nothing.",
        "each variant is the first line with one thing changed, in turns with it.",
    ),
    "f": About("why the engine makes outcomes by position.", "the same object with the same fields."),
}


# Processors and sources.


async def noop(item: int) -> int:
    return item


async def fail_some(item: int) -> int:
    if item % 100 == 0:
        raise ValueError(item)
    return item


async def fail_all(item: int) -> int:
    raise ValueError(item)


async def nap(item: int) -> int:
    await trio.sleep(NAP)
    return item


async def generate(count: int) -> AsyncIterator[int]:
    for item in range(count):
        yield item


def caught(fn: Processor) -> Callable[[int], Awaitable[int | ValueError]]:
    """Return `fn` for a pool that a failure would stop: the error is its result."""

    async def call(item: int) -> int | ValueError:
        try:
            return await fn(item)
        except ValueError as error:
            return error

    return call


async def accounted(items: Sequence[int], fn: Processor, workers: int) -> Sequence[int | Exception]:
    """`process_parallel` where items fail."""
    config = ParallelConfig(max_workers=workers, observer="noop", fail_fast=False, raise_if_all_failed=False)
    result = await process_parallel(items, fn, config=config)
    return [*result.results, *(failure.error for failure in result.errors)]


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


def ask_noop(fn: Processor, items: int, repeat: int, *, full: bool) -> list[Row]:
    """The overhead an item, all else being free.

    After a processor that has no checkpoint the loop takes one each time and `process_parallel` only now and
    then: there it can be faster than its floor, and the processor with a checkpoint shows the engine's own cost.
    """
    own_checkpoint = fn is yielding
    floor = partial(peers.bare_loop, checkpoint=not own_checkpoint)
    aiometer = under_trio(peers.aiometer_run_all, items, fn, WORKERS) if peers.HAS_AIOMETER else None
    never_yielding = under_asyncio(peers.asyncio_semaphore, items, noop, WORKERS)
    nowait = under_trio(peers.three_channel_pool_nowait, items, fn, WORKERS)
    unlike = "asyncio TaskGroup, never yielding" if own_checkpoint else "asyncio TaskGroup + Semaphore"
    contenders = [
        Contender(OURS, under_trio(peers.collected, items, fn, WORKERS), Role.OURS),
        Contender("bare loop", under_trio(floor, items, fn, WORKERS), Role.FLOOR, Limit(2)),
        Contender("aiometer.run_all", aiometer, Role.PEER, Limit(8, at_least=True)),
        Contender(unlike, never_yielding, Role.PEER, Limit(1, at_least=True)),
        Contender("three-channel pool", under_trio(peers.three_channel_pool, items, fn, WORKERS), Role.PEER),
        Contender("three-channel pool, nowait", nowait, Role.PEER),
    ]
    if full:
        known = {contender.name for contender in contenders}
        theirs = yielding_asyncio if own_checkpoint else fn
        contenders += [peer for peer in peers.pools(items, fn, theirs, WORKERS) if peer.name not in known]
    kind = "with a checkpoint of its own" if own_checkpoint else "without a checkpoint"
    question = f"a. {items:,} no-op items, {WORKERS} workers, processor {kind}"
    return compare(question, contenders, items=items, repeat=repeat)


def ask_failing(fn: Processor, items: int, repeat: int) -> list[Row]:
    """The overhead an item where failures are collected."""
    contenders = [
        Contender(OURS, under_trio(accounted, items, fn, WORKERS), Role.OURS),
        Contender("bare loop", under_trio(peers.bare_loop, items, caught(fn), WORKERS), Role.FLOOR),
        *peers.pools(items, caught(fn), caught(fn), WORKERS),
    ]
    share = "1 %" if fn is fail_some else "100 %"
    question = f"a. {items:,} no-op items, {WORKERS} workers, {share} failing"
    return compare(question, contenders, items=items, repeat=repeat)


def ask_nap(items: int, repeat: int) -> list[Row]:
    """The overhead where there is something to wait for, and many wait."""
    floor = partial(peers.bare_loop, checkpoint=False)
    contenders = [
        Contender(OURS, under_trio(peers.collected, items, nap, MANY_WORKERS), Role.OURS),
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
        "observer loguru, sink at INFO": partial(peers.collected, observer="loguru"),
        "retry set, nothing fails": partial(peers.collected, retry=RetryConfig()),
        "task_timeout set": partial(peers.collected, task_timeout=60.0),
        "async generator as source": generated,
        "open_parallel, async for": streamed,
        "open_parallel, ordered": partial(streamed, ordered=True),
        "open_parallel, keep_results=False": partial(streamed, keep_results=False),
    }
    limits = {"observer loguru, sink at INFO": Limit(2.5)}
    contenders = [Contender(OURS, under_trio(peers.collected, items, noop, WORKERS), Role.OURS)]
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


def ask_all(items: int, repeat: int, *, full: bool) -> Iterable[list[Row]]:
    yield ask_noop(noop, items, repeat, full=full)
    yield ask_noop(yielding, items, repeat, full=full)
    if full:
        yield ask_failing(fail_some, items, repeat)
        yield ask_failing(fail_all, items, repeat)
    yield ask_nap(items, repeat)
    yield ask_memory()
    yield ask_fail_fast(repeat)
    yield ask_options(items, repeat)
    yield ask_outcome(items, repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, help="items of questions a, b, e and f")
    parser.add_argument("--print-stream-peak", type=positive, help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.print_stream_peak:
        print_stream_peak(arguments.print_stream_peak)
        return 0
    items = arguments.items or (FULL_ITEMS if arguments.full else ITEMS)
    return report(arguments, ask_all(items, arguments.repeat, full=arguments.full), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

"""Where does a small change of a size cost out of all proportion? Each question is one that once did.

    python benchmarks/bench_cliffs.py [--repeat 5] [--json FILE] [--check]

Each compares the same work in two sizes, or with and without what should cost next to nothing. With `--check` the
exit status is 1 if a limit is missed.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any

import trio
from measuring import MEBI, About, Contender, Limit, Role, Row, add_arguments, compare, peak_memory, report

from trioflow import ParallelConfig, ParallelError, RetryConfig, open_parallel, process_parallel

ITEMS = 8_000
HUGE = 10_000_000
LEGEND = "ratio: how much longer a variant takes than the first line of its table"
ABOUT = {
    "a": About("whether workers that nobody needs cost anything.", "the same ten items, in turns."),
    "b": About("what it costs to ask for the account at each outcome of a stream.", "the same stream, in turns."),
    "c": About(
        "whether an account of what was never begun depends on how much that is.",
        "the input is a `range`, which costs the same in any length.",
    ),
    "d": About("whether splitting a group of failures grows with their square.", "groups of the same make."),
    "e": About("whether items that are never begun take memory.", "the second of two equal runs is looked at."),
    "f": About(
        "whether failures that were tried again leave reference cycles behind.",
        "the collector is off during the run, and counts afterwards.",
    ),
}


async def noop(item: int) -> int:
    return item


async def fail(item: int) -> int:
    raise (ValueError if item % 2 else TypeError)(str(item))


def quiet(**fields: Any) -> ParallelConfig:
    return ParallelConfig(**({"observer": "noop", "max_workers": 16} | fields))


def timed(main: Callable[[], Any]) -> float:
    """Return the seconds that an async function takes in a loop of its own, failures of the run included."""

    async def clocked() -> float:
        start = perf_counter()
        with suppress(ParallelError):
            await main()
        return perf_counter() - start

    return trio.run(clocked)


# a. Workers that nobody needs.


def ten_items(workers: int) -> float:
    return timed(partial(process_parallel, range(10), noop, config=quiet(max_workers=workers)))


def ask_workers(repeat: int) -> list[Row]:
    return compare(
        "a. ten items: the run",
        [
            Contender("max_workers=16", partial(ten_items, 16), Role.OURS),
            Contender("max_workers=100,000", partial(ten_items, 100_000), Role.VARIANT, Limit(3)),
        ],
        items=1,
        repeat=repeat,
    )


# b. The result at each outcome.


async def stream(*, results: bool) -> None:
    async with open_parallel(range(ITEMS), noop, config=quiet()) as run:
        async for _ in run:
            if results:
                run.result()


def ask_results(repeat: int) -> list[Row]:
    return compare(
        f"b. a stream of {ITEMS:,} items: an item",
        [
            Contender("no result()", lambda: timed(partial(stream, results=False)), Role.OURS),
            Contender("result() at each", lambda: timed(partial(stream, results=True)), Role.VARIANT, Limit(6)),
        ],
        items=ITEMS,
        repeat=repeat,
    )


# c. What is left of a large input.


async def first_result(count: int) -> None:
    async with open_parallel(range(count), noop, config=quiet()) as run:
        await anext(run)
        run.result()


def ask_unfinished(repeat: int) -> Iterable[list[Row]]:
    for what, main in (
        ("result() after one item", first_result),
        ("a first item that fails", lambda count: process_parallel(range(count), fail, config=quiet())),
    ):
        yield compare(
            f"c. {what}",
            [
                Contender(f"of {ITEMS:,}", lambda main=main: timed(partial(main, ITEMS)), Role.OURS),
                Contender(f"of {HUGE:,}", lambda main=main: timed(partial(main, HUGE)), Role.VARIANT, Limit(3)),
            ],
            items=1,
            repeat=repeat,
        )


# d. Splitting a group of failures.


def failed(count: int) -> ParallelError:
    async def main() -> ParallelError:
        try:
            await process_parallel(range(count), fail, config=quiet(fail_fast=False))
        except ParallelError as error:
            return error
        raise RuntimeError("nothing failed")

    return trio.run(main)


def split(error: ParallelError) -> float:
    start = perf_counter()
    error.split(ValueError)
    return perf_counter() - start


def ask_split(repeat: int) -> list[Row]:
    return compare(
        "d. split() of a ParallelError",
        [
            Contender("of 2,000 failures", partial(split, failed(2_000)), Role.OURS),
            Contender("of 4,000", partial(split, failed(4_000)), Role.VARIANT, Limit(3)),
            Contender("of 8,000", partial(split, failed(8_000)), Role.VARIANT, Limit(6)),
        ],
        items=1,
        repeat=repeat,
    )


# e. Memory.


def growth(count: int) -> float:
    """Return by how many bytes the peak grows in a stream of which most is never begun in time."""

    async def slow(item: int) -> int:
        await trio.sleep_forever()
        return item

    async def main() -> None:
        config = quiet(timeout=0.01, fail_fast=False)
        async with open_parallel(range(count), slow, config=config, keep_results=False) as run:
            async for _ in run:
                pass

    trio.run(main)
    before = peak_memory()
    trio.run(main)
    return float(peak_memory() - before)


def leftover_objects(count: int) -> int:
    """Return how many objects only the garbage collector frees, after failures that were tried again."""
    retry = RetryConfig(max_attempts=3, initial_delay=1e-6)

    async def main() -> None:
        await process_parallel(
            range(count), fail, config=quiet(fail_fast=False, raise_if_all_failed=False, retry=retry)
        )

    trio.run(main)
    gc.collect()
    gc.disable()
    try:
        trio.run(main)
        return gc.collect()
    finally:
        gc.enable()


def ask_memory() -> Iterable[list[Row]]:
    count = 1_000_000
    question = f"e. a stream of {count:,} items whose time is up at once, keep_results=False"
    yield [Row(question, "growth of the peak", growth(count) / MEBI, "MiB", limit=Limit(1))]
    question = "f. cycles: objects that only the garbage collector frees, 200 items that fail three times"
    few, many = leftover_objects(20), leftover_objects(200)
    yield [
        Row(question, "20 items", float(few), "objects"),
        Row(question, "200 items", float(many), "objects", limit=Limit(few + 20.0)),
    ]


def ask_all(repeat: int) -> Iterable[list[Row]]:
    yield ask_workers(repeat)
    yield ask_results(repeat)
    yield from ask_unfinished(repeat)
    yield ask_split(repeat)
    yield from ask_memory()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    return report(arguments, ask_all(arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

"""What does a call cost that leaves the loop, and is it worth it?

    python benchmarks/bench_executors.py [--items 2000] [--repeat 5] [--json FILE] [--check]

The calls do nothing, so what is measured is the way there and back: by threads, by a pool of two processes, by
processes of their own and by a Dask cluster of two on loopback, one call or 100 at a time. Then calls that compute
for a known time, here and on two processes: where the second begins to win is the size at which a pool pays. Pools
are at work before the clock starts. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from time import perf_counter, sleep
from typing import Any

import trio
from measuring import MICRO, About, Contender, Limit, Role, Row, add_arguments, best_of, positive, report

from trioflow import ParallelConfig, dask_executor, on_executor, on_process, process_parallel

LEGEND = "every call is an item of a fan-out; wall time, divided by the items"
ABOUT = {
    "a": About(
        "what the way to another thread, process or machine and back costs.",
        "the call does nothing, the pools are at work before the clock starts, and all take turns.",
    ),
    "b": About(
        "from which size on a call is worth a process of its own pool.",
        "the same calls on the loop, on one process and on two, in turns; nothing is asked where cores are busy.",
    ),
}
SIZES = (0.0001, 0.001, 0.01, 0.1)
"""Seconds that a call computes."""

Processor = Callable[[Any], Awaitable[Any]]


def noop(item: int) -> int:
    return item


async def noop_here(item: int) -> int:
    return item


def compute(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += number * number
    return total


async def compute_here(rounds: int) -> int:
    return compute(rounds)


def fan_out(items: list[int], processor: Processor, workers: int) -> float:
    async def main() -> float:
        config = ParallelConfig(max_workers=workers, observer="noop")
        start = perf_counter()
        await process_parallel(items, processor, config=config)
        return perf_counter() - start

    return trio.run(main)


def warmed(pool: Executor, workers: int) -> Executor:
    """Return `pool` when all its workers have started."""
    for future in [pool.submit(sleep, 0.3) for _ in range(workers)]:
        future.result()
    return pool


def process_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def open_dask(stack: ExitStack) -> Executor | None:
    if importlib.util.find_spec("distributed") is None:
        return None
    from distributed import Client, LocalCluster  # noqa: PLC0415 - where it is installed

    options = {"processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, **options))
    executor = dask_executor(stack.enter_context(Client(cluster)))
    fan_out(list(range(20)), on_executor(executor, noop), 4)
    return executor


def ask_costs(count: int, repeat: int) -> list[Row]:
    """The way there and back of a call that does nothing."""
    question = "a. what a call costs that does nothing"
    limits = {"process pool, 100 at a time": Limit(20), "Dask, 100 at a time": Limit(150)}
    few, many = list(range(max(1, count // 20))), list(range(count))
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        pool = warmed(stack.enter_context(process_pool(2)), 2)
        dask = open_dask(stack)

        def runs(
            executor: Executor | None, items: list[int], chunk: int, workers: int
        ) -> Callable[[], float] | None:
            if executor is None:
                return None
            return partial(fan_out, items, on_executor(executor, noop, chunk=chunk), workers)

        contenders = {
            "on the loop": (partial(fan_out, many, noop_here, 600), many),
            "threads": (runs(threads, few, 1, 16), few),
            "threads, 100 at a time": (runs(threads, many, 100, 600), many),
            "process pool": (runs(pool, few, 1, 16), few),
            "process pool, 100 at a time": (runs(pool, many, 100, 600), many),
            "Dask": (runs(dask, few, 1, 16), few),
            "Dask, 100 at a time": (runs(dask, many, 100, 600), many),
        }
        timed = [Contender(name, measure, Role.OURS) for name, (measure, _) in contenders.items()]
        best = best_of(timed, repeat)
    rows = []
    for name, (_, items) in contenders.items():
        value = best[name] / len(items) * MICRO if name in best else None
        rows.append(Row(question, name, value, limit=limits.get(name)))
    return [*rows, *ask_starts(question)]


def ask_starts(question: str) -> Iterator[Row]:
    """What it takes until the first call is done, and a process of its own after that."""
    first = {
        "start of a process pool": on_executor(partial(process_pool, 2), noop),
        "start of a process of its own": on_process(noop),
    }
    for name, processor in first.items():
        yield Row(question, name, fan_out([1], processor, 1) * 1000, "ms")
    once = fan_out([1], on_process(noop), 1)
    items = list(range(500))
    seconds = (fan_out(items, on_process(noop), 1) - once) / len(items)
    yield Row(question, "a process of its own, used again", seconds * MICRO)


def ask_sizes(repeat: int) -> list[Row]:
    """How much faster calls that compute are on two processes, by what one of them takes."""
    question = "b. calls that compute, on two processes: how many times faster than on the loop, and than on one"
    rounds_a_second = calibrate()
    rows = []
    with process_pool(1) as one, process_pool(2) as two:
        warmed(one, 1)
        warmed(two, 2)
        for seconds in SIZES:
            count = max(20, min(1000, int(0.4 / seconds)))
            items = [max(1, int(seconds * rounds_a_second))] * count
            chunk = 20 if seconds < 0.001 else 1
            timed = [Contender("loop", partial(fan_out, items, compute_here, 2), Role.OURS)]
            for label, pool in (("one", one), ("two", two)):
                processor = on_executor(pool, compute, chunk=chunk)
                timed.append(Contender(label, partial(fan_out, items, processor, 8 * chunk), Role.OURS))
            best = best_of(timed, min(repeat, 3))
            name = f"{seconds * 1000:g} ms a call{', 20 at a time' if chunk > 1 else ''}"
            rows.append(Row(question, f"{name}: than on the loop", best["loop"] / best["two"], "times"))
            is_large = seconds == max(SIZES)
            limit = Limit(1.6, at_least=True) if is_large else None
            busy = is_large and cores_are_busy()
            ratio = None if busy else best["one"] / best["two"]
            rows.append(Row(question, f"{name}: than on one", ratio, "times", limit=limit))
            if busy:
                print("two processes are not compared with one: the cores are not free", file=sys.stderr)
    return rows


def calibrate() -> float:
    start = perf_counter()
    compute(1_000_000)
    return 1_000_000 / (perf_counter() - start)


def cores_are_busy() -> bool:
    """Whether two processes cannot have a core each: there is one, or a loop in each takes longer than in one."""
    if (os.cpu_count() or 1) < 2:
        return True
    with process_pool(2) as pool:
        warmed(pool, 2)
        start = perf_counter()
        pool.submit(compute, 3_000_000).result()
        alone = perf_counter() - start
        start = perf_counter()
        for future in [pool.submit(compute, 3_000_000) for _ in range(2)]:
            future.result()
        return perf_counter() - start > 1.25 * alone


def ask_all(items: int, repeat: int) -> Iterator[list[Row]]:
    yield ask_costs(items, repeat)
    yield ask_sizes(repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, default=10_000, help="calls in a round")
    add_arguments(parser)
    arguments = parser.parse_args()
    return report(arguments, ask_all(arguments.items, arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

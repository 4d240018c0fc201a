"""Does what an item costs, in time and memory, depend on how many items or workers there are?

    python benchmarks/bench_growth.py [--full] [--repeat 5] [--json FILE] [--check]

One size after the other, in tens: 10^3 to 10^6 items and 1 to 10^4 workers with `--full`, fewer without. What
begins a task an item is not asked for more than 10^5.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial

import peers
import trio
from measuring import MEBI, About, Contender, Role, Row, add_arguments, compare, peak_memory, report
from peers import under_asyncio, under_trio, yielding, yielding_asyncio

from trioflow import ParallelConfig, open_parallel

WORKERS = 16
ITEMS = 10_000
SIZES = (1_000, 10_000, 100_000, 1_000_000)
POOLS = (1, 10, 100, 1_000, 10_000)
MOST_TASKS = 100_000
LEGEND = "ratio: how much longer ours takes than a floor, and a peer than ours"
ABOUT = {
    "a": About(
        "what an item costs, by how many there are; the calls yield once to their loop.",
        f"each has the same items, {WORKERS} at a time, and returns every result; a flat line is what is wanted.",
    ),
    "b": About(
        f"what an item of {ITEMS:,} costs, by how many calls are made at a time.",
        "workers are begun within the time that counts.",
    ),
    "c": About(
        "the most memory that a process needs for a fan-out, by how many items there are.",
        "each runs in a fresh process that imports the same modules. All but the stream return a list of results; "
        "the items are integers, which the processor returns.",
    ),
}


def contenders(items: int, workers: int) -> list[Contender]:
    floor = partial(peers.bare_loop, checkpoint=False)
    limiter = under_trio(peers.nursery_limiter, items, yielding, workers)
    gather = under_asyncio(peers.asyncio_gather, items, yielding_asyncio, workers)
    aiometer = under_trio(peers.aiometer_run_all, items, yielding, workers) if peers.HAS_AIOMETER else None
    found = [
        Contender("process_parallel", under_trio(peers.collected, items, yielding, workers), Role.OURS),
        Contender("bare loop", under_trio(floor, items, yielding, workers), Role.FLOOR),
    ]
    peer = partial(Contender, role=Role.PEER)
    if items > MOST_TASKS:
        limiter = gather = None
        peer = partial(peer, skipped="not asked: it begins a task an item")
    if items > MOST_TASKS // 10:
        aiometer = None
    return [
        *found,
        peer("nursery + CapacityLimiter", limiter),
        peer("asyncio gather + Semaphore", gather),
        Contender("aiometer.run_all", aiometer, Role.PEER, skipped=skipped_aiometer(items)),
    ]


def skipped_aiometer(items: int) -> str:
    return "not asked: it takes minutes" if items > MOST_TASKS // 10 else "not installed"


def ask_items(items: int, repeat: int) -> list[Row]:
    question = f"a. {items:,} items, {WORKERS} workers"
    return compare(question, contenders(items, WORKERS), items=items, repeat=repeat, x=items)


def ask_workers(workers: int, repeat: int) -> list[Row]:
    question = f"b. {ITEMS:,} items, {workers:,} workers"
    return compare(question, contenders(ITEMS, workers), items=ITEMS, repeat=repeat, x=workers)


# Memory, each time in a fresh process.


async def streamed(items: int) -> None:
    config = ParallelConfig(max_workers=WORKERS, observer="noop")
    async with open_parallel(range(items), yielding, config=config, keep_results=False) as run:
        async for _ in run:
            pass


def runs(items: int) -> dict[str, Callable[[], object]]:
    numbers = range(items)
    return {
        "process_parallel": lambda: trio.run(peers.collected, numbers, yielding, WORKERS),
        "open_parallel, nothing kept": lambda: trio.run(streamed, items),
        "bare loop": lambda: trio.run(partial(peers.bare_loop, checkpoint=False), numbers, yielding, WORKERS),
        "nursery + CapacityLimiter": lambda: trio.run(peers.nursery_limiter, numbers, yielding, WORKERS),
        "asyncio gather + Semaphore": lambda: asyncio.run(
            peers.asyncio_gather(numbers, yielding_asyncio, WORKERS)
        ),
    }


def ask_memory(items: int) -> list[Row]:
    rows = []
    for name in runs(0):
        role = Role.OURS if "parallel" in name else Role.PEER
        question = f"c. peak memory of a process, {items:,} items"
        if role is Role.PEER and name != "bare loop" and items > MOST_TASKS:
            why = "not asked: it begins a task an item"
            rows.append(Row(question, name, None, "MiB", role, x=items, skipped=why))
            continue
        command = [sys.executable, __file__, "--print-peak", name, str(items)]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        rows.append(Row(question, name, int(done.stdout) / MEBI, "MiB", role, x=items))
    return rows


def ask_all(repeat: int, *, full: bool) -> Iterable[list[Row]]:
    for items in SIZES if full else SIZES[:2]:
        yield ask_items(items, repeat)
    for workers in POOLS if full else POOLS[1:4]:
        yield ask_workers(workers, repeat)
    for items in SIZES if full else SIZES[:2]:
        yield ask_memory(items)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print-peak", nargs=2, metavar=("NAME", "ITEMS"), help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.print_peak:
        name, items = arguments.print_peak
        runs(int(items))[name]()
        print(peak_memory())
        return 0
    return report(arguments, ask_all(arguments.repeat, full=arguments.full), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

"""How near does a fan-out of calls that wait come to the ideal, by the length of the wait and the workers?

    python benchmarks/bench_io.py [--full] [--repeat 5] [--json FILE] [--check]

Calls sleep for 1, 10 or 50 ms, 10 to 10,000 of them at a time. The ideal is the waits alone: the rounds that the
workers make, times the sleep. Without `--full` only 10 ms are asked for, with 10 and 1,000 workers.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import peers
import trio
from measuring import MICRO, About, Contender, Role, Row, add_arguments, compare, report
from peers import under_trio

NAPS = {"a": 0.001, "b": 0.01, "c": 0.05}
WORKERS = (10, 100, 1_000, 10_000)
WAITED = 0.05
"""Seconds that a run should wait in all, but at least twice, where that takes no more than `MOST_ITEMS`."""
MOST_ITEMS = 10_000
LEGEND = "how many times longer than the waits alone a run takes; ratio: of a floor to ours, of ours to a peer"
ABOUT = {
    letter: About(
        f"how many times longer a fan-out of calls that each sleep {1000 * nap:g} ms takes than the sleeps alone: "
        "1 is a fan-out that costs nothing.",
        "each has the same items and as many calls at a time, and sleeps on its own loop's timer. Tasks are begun "
        "within the time that counts, one a worker or one an item, as each contender does it.",
    )
    for letter, nap in NAPS.items()
}


def sleeper(sleep: Callable[[float], Awaitable[None]], nap: float) -> Callable[[int], Awaitable[int]]:
    async def call(item: int) -> int:
        await sleep(nap)
        return item

    return call


def ask(letter: str, workers: int, repeat: int) -> list[Row]:
    nap = NAPS[letter]
    rounds = min(max(2, round(WAITED / nap)), MOST_ITEMS // workers)
    items = rounds * workers
    here, there = sleeper(trio.sleep, nap), sleeper(asyncio.sleep, nap)
    floor = partial(peers.bare_loop, checkpoint=False)
    contenders = [
        Contender("process_parallel", under_trio(peers.collected, items, here, workers), Role.OURS),
        Contender("bare loop", under_trio(floor, items, here, workers), Role.FLOOR),
        *peers.pools(items, here, there, workers),
    ]
    question = f"{letter}. {items:,} calls of {1000 * nap:g} ms, {workers:,} at a time"
    # A value is then in times of the ideal.
    return compare(question, contenders, items=rounds * nap * MICRO, repeat=repeat, unit="times", x=workers)


def ask_all(repeat: int, *, full: bool) -> Iterable[list[Row]]:
    for letter in NAPS if full else "b":
        for workers in WORKERS if full else (10, 1_000):
            yield ask(letter, workers, repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    return report(arguments, ask_all(arguments.repeat, full=arguments.full), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

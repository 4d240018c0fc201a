"""What does a policy add to a call, and does a rate limiter let through what it promises on the real clock?

    python benchmarks/bench_policies.py [--items 20000] [--seconds 10] [--repeat 5] [--json FILE] [--check]

What a policy adds is the difference to calling the function itself. A turn of the scheduler stands beside it as a
measure of the machine. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter

import trio
from measuring import About, Contender, Limit, Role, Row, add_arguments, compare_added, positive, report

from trioflow import (
    Budget,
    RateLimiter,
    RetryConfig,
    with_budget,
    with_concurrency_limit,
    with_rate_limit,
    with_retry,
    with_timeout,
)

Call = Callable[[int], Awaitable[object]]

LEGEND = "what a call takes with the policy, less what it takes without"
ABOUT = {
    "a": About(
        "what each policy adds to a call that does nothing.",
        "it is the best of many short rounds, in turns, less the same for the bare call; a turn of Trio's "
        "scheduler stands beside it as a measure of the machine.",
    ),
    "b": About(
        "whether a rate limiter lets through what it promises, to one task and to a thousand that always want "
        "more.",
        "it is counted on the real clock, and 100 % is the rate that was asked for.",
    ),
}
PLENTY = 1e15
RATES = (10, 100, 600, 1_000)
ROUND = 200
"""Calls timed in one go: short, so that the best of them was not interrupted."""


async def noop(item: int) -> int:
    return item


async def turn(_: int) -> None:
    await trio.lowlevel.checkpoint()


def wrapped() -> dict[str, tuple[Call, Limit | None]]:
    """The calls to time, and what each may add."""
    budget = Budget({"usd": PLENTY})
    part = Budget({"usd": PLENTY, "tokens": PLENTY}, parent=budget)
    limiter = trio.CapacityLimiter(1_000)
    by_call = with_budget(noop, budget, estimate=lambda _: {"usd": 1}, actual=lambda _: {"usd": 0.5})
    return {
        "a turn of the scheduler": (turn, None),
        "with_budget": (with_budget(noop, budget, estimate={"usd": 1}), Limit(2)),
        "with_budget, estimate and actual": (by_call, None),
        "with_budget, a part of another": (with_budget(noop, part, estimate={"usd": 1, "tokens": 9}), None),
        "with_concurrency_limit": (with_concurrency_limit(noop, limiter), Limit(3)),
        "with_concurrency_limit, function": (with_concurrency_limit(noop, lambda _: limiter), None),
        "with_retry": (with_retry(noop), None),
        "with_retry, total_timeout": (with_retry(noop, RetryConfig(total_timeout=60)), None),
        "with_rate_limit": (with_rate_limit(noop, RateLimiter(PLENTY, burst=1_000_000)), None),
        "with_timeout": (with_timeout(noop, 60), None),
    }


async def best_time(call: Call, items: int) -> float:
    """Seconds for one call: the best round of those that make up `items`."""
    best = float("inf")
    for _ in range(max(1, items // ROUND)):
        start = perf_counter()
        for item in range(ROUND):
            await call(item)
        best = min(best, perf_counter() - start)
        await trio.lowlevel.checkpoint()
    return best / ROUND


def ask_calls(items: int, repeat: int) -> list[Row]:
    """What each wrapper adds to a call that does nothing."""
    question = "a. what a policy adds to a call"
    calls: dict[str, tuple[Call, Limit | None]] = {"bare": (noop, None), **wrapped()}
    contenders = [
        Contender(name, partial(trio.run, best_time, call, items), Role.PEER if call is turn else Role.OURS, limit)
        for name, (call, limit) in calls.items()
    ]
    return compare_added(question, contenders, items=1, repeat=repeat, unit="µs/call")


async def share_let_through(rate: float, tasks: int, seconds: float) -> float:
    """Per cent of `rate` that a limiter let through in `seconds`, to tasks that always want more."""
    limiter = RateLimiter(rate)
    count = 0

    async def ask() -> None:
        nonlocal count
        while True:
            await limiter.acquire()
            count += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(ask)
    return 100 * count / (rate * seconds)


def ask_rates(seconds: float) -> list[Row]:
    question = f"b. per cent of its rate that a limiter lets through in {seconds:g} s on the real clock, burst=1"
    rows = []
    for rate in RATES:
        for tasks in (1, 1_000):
            share = trio.run(share_let_through, rate, tasks, seconds)
            rows.append(Row(question, f"{rate:,}/s, {tasks:,} tasks", share, "%", limit=Limit(97, at_least=True)))
    return rows


def ask_all(items: int, seconds: float, repeat: int) -> Iterator[list[Row]]:
    yield ask_calls(items, repeat)
    yield ask_rates(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, default=20_000, help="calls of each kind in a round")
    parser.add_argument("--seconds", type=positive, default=10, help="how long each rate is asked for")
    add_arguments(parser)
    arguments = parser.parse_args()
    return report(arguments, ask_all(arguments.items, arguments.seconds, arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

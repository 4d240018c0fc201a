"""What do messages cost: a request and its answer, a publication, an idle hub, and many messages in memory?

    python benchmarks/bench_hub.py [--repeat 3] [--json FILE] [--check]

A request is compared with the same through two bare memory channels. With `--check` the exit status is 1 if a
limit is missed.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from time import perf_counter, process_time

import trio
from measuring import (
    MEBI,
    MICRO,
    About,
    Contender,
    Limit,
    Role,
    Row,
    add_arguments,
    compare,
    is_installed,
    peak_memory,
    report,
)

from trioflow import HubConfig, Message, open_hub

REQUESTS = 5_000
SUBSCRIBERS = 1_000
FEW, MANY = 1_000, 100_000
CONFIG = HubConfig(observer="noop")
LEGEND = "ratio: how much longer ours takes than the bare floor"
ABOUT = {
    "a": About(
        "what a request and its answer cost, one after the other.",
        "the floor is two bare memory channels and a task; Pykka's actor is asked from a thread, as it is meant "
        "to be, and so crosses threads twice. Each answers with what it was sent.",
    ),
    "b": About(
        "what a publication costs each of its subscribers.",
        "the second of two is timed, until it is sent and until every handler has run.",
    ),
    "c": About("what a hub costs that nobody uses.", "the processor time of one second, after all is quiet."),
    "d": About(
        "whether a hub's memory grows with the messages that it has carried.",
        "each count in a fresh process; what is read is the operating system's peak for it.",
    ),
}


async def echo(message: Message) -> object:
    return message.data


async def ask_hub() -> float:
    async with open_hub(CONFIG) as hub:
        hub.register("echo", echo)
        start = perf_counter()
        for number in range(REQUESTS):
            await hub.request("user", "echo", number)
        return perf_counter() - start


async def ask_channels() -> float:
    to_echo, questions = trio.open_memory_channel[int](1)
    from_echo, answers = trio.open_memory_channel[int](1)

    async def answer() -> None:
        async for number in questions:
            await from_echo.send(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        start = perf_counter()
        for number in range(REQUESTS):
            await to_echo.send(number)
            await answers.receive()
        seconds = perf_counter() - start
        nursery.cancel_scope.cancel()
    return seconds


def ask_pykka() -> float:
    import pykka  # noqa: PLC0415 - optional

    class Echo(pykka.ThreadingActor):
        def on_receive(self, message: object) -> object:
            return message

    actor = Echo.start()
    try:
        start = perf_counter()
        for number in range(REQUESTS):
            actor.ask(number)
        return perf_counter() - start
    finally:
        actor.stop()


def ask_requests(repeat: int) -> list[Row]:
    contenders = [
        Contender("request and answer", partial(trio.run, ask_hub), Role.OURS),
        Contender("two bare memory channels", partial(trio.run, ask_channels), Role.FLOOR, Limit(2.2)),
        Contender("Pykka, an actor in a thread", ask_pykka if is_installed("pykka") else None, Role.PEER),
    ]
    question = f"a. {REQUESTS:,} requests, one after the other: a request"
    return compare(question, contenders, items=REQUESTS, repeat=repeat)


async def publish() -> tuple[float, float]:
    async with open_hub(CONFIG) as hub:
        for number in range(SUBSCRIBERS):
            hub.register(f"agent {number}", echo)
            hub.subscribe(f"agent {number}", "news")
        await hub.publish("user", "news")
        await trio.sleep(0.1)
        start = perf_counter()
        await hub.publish("user", "news")
        published = perf_counter() - start
        while hub.metrics().handled < 2 * SUBSCRIBERS:
            await trio.lowlevel.checkpoint()
        return published, perf_counter() - start


def ask_publication(repeat: int) -> list[Row]:
    question = f"b. a publication to {SUBSCRIBERS:,} subscribers: each"
    measured = [trio.run(publish) for _ in range(repeat)]
    published, handled = (min(times) / SUBSCRIBERS * MICRO for times in zip(*measured, strict=True))
    return [
        Row(question, "published", published, limit=Limit(10)),
        Row(question, "and handled", handled),
    ]


async def idle() -> float:
    async with open_hub(CONFIG) as hub:
        for number in range(SUBSCRIBERS):
            hub.register(f"agent {number}", echo)
        await hub.broadcast("user")
        await trio.sleep(0.2)
        start = process_time()
        await trio.sleep(1)
        return process_time() - start


def ask_idle(repeat: int) -> list[Row]:
    used = min(trio.run(idle) for _ in range(repeat))
    question = f"c. an idle hub of {SUBSCRIBERS:,} agents: processor time in a second"
    return [Row(question, "used", 1e3 * used, "ms", limit=Limit(5))]


async def exchange(messages: int) -> None:
    async with open_hub(CONFIG) as hub:
        hub.register("echo", echo)
        for number in range(messages // 2):
            await hub.send("user", "echo", number)
            await hub.request("user", "echo", number)


def peak_after(messages: int) -> int:
    """Return the bytes that a fresh process has needed at most after so many messages."""
    done = subprocess.run(
        [sys.executable, __file__, "--print-peak", str(messages)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def ask_memory() -> list[Row]:
    question = "d. memory: peak of a process after so many messages"
    few, many = peak_after(FEW), peak_after(MANY)
    return [
        Row(question, f"{FEW:,}", few / MEBI, "MiB"),
        Row(question, f"{MANY:,}", many / MEBI, "MiB"),
        Row(question, "growth", (many - few) / MEBI, "MiB", limit=Limit(1)),
    ]


def ask_all(repeat: int) -> Iterable[list[Row]]:
    yield ask_requests(repeat)
    yield ask_publication(repeat)
    yield ask_idle(repeat)
    yield ask_memory()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--print-peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.print_peak:
        trio.run(exchange, arguments.print_peak)
        print(peak_memory())
        return 0
    return report(arguments, ask_all(arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

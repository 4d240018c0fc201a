"""What does `process_parallel` cost beside a bare Trio loop and beside the pools one would use instead?

    python benchmarks/bench_engine.py [--items 20000] [--repeat 5] [--json FILE] [--check]

Also: what memory a long stream takes, how soon a failure is out, and what the options cost. Contenders take
turns, so that noise of the machine hits all alike, and the best of each one's times counts. Ratios are what to
look at; microseconds are this machine's. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from time import perf_counter

import peers
import trio

from trioflow import ParallelConfig, ParallelError, RetryConfig, TaskOutcome, open_parallel, process_parallel

WORKERS = 16
MANY_WORKERS = 1_000
NAP = 0.01
LONG_STREAM = 1_000_000
SHORT_STREAM = 20_000
MICRO = 1e6
MEBI = 1 << 20

OURS = "process_parallel"
LEGEND = """\
ratio: how much longer process_parallel takes than a floor, and
a peer or a variant than the first line of its table"""


# Lines of the table.


class Role(StrEnum):
    """What a contender is to `process_parallel`, and so which way its ratio goes."""

    OURS = ""
    FLOOR = "floor"
    PEER = "peer"
    VARIANT = "variant"


@dataclass(frozen=True)
class Limit:
    """What a ratio or a value must keep to."""

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One line: a value, None where it could not be measured, and what it should keep to."""

    question: str
    name: str
    value: float | None
    unit: str = "µs/item"
    role: Role = Role.OURS
    ratio: float | None = None
    limit: Limit | None = None

    @property
    def missed(self) -> bool:
        measured = self.value if self.ratio is None else self.ratio
        return self.limit is not None and measured is not None and not self.limit.holds(measured)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not installed"
        if self.limit is None:
            return ""
        return "MISSED" if self.missed else "ok"

    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            self.role.value,
            "-" if self.value is None else f"{self.value:.2f} {self.unit}",
            "" if self.ratio is None else f"{self.ratio:.2f}x",
            "" if self.limit is None else str(self.limit),
            self.verdict,
        )


@dataclass(frozen=True)
class Contender:
    """Something to time: `measure` runs it once and returns seconds; None where it is not installed."""

    name: str
    measure: Callable[[], float] | None
    role: Role
    limit: Limit | None = None


def compare(question: str, contenders: Sequence[Contender], *, items: int, repeat: int) -> list[Row]:
    """Time the contenders in turns; the first one is what the others are compared with."""
    best = best_of(contenders, repeat)
    ours = best[contenders[0].name]
    rows = []
    for contender in contenders:
        seconds = best.get(contender.name)
        value = None if seconds is None else seconds / items * MICRO
        ratio = None
        if seconds is not None and contender.role is not Role.OURS:
            ratio = ours / seconds if contender.role is Role.FLOOR else seconds / ours
        limit = contender.limit
        rows.append(Row(question, contender.name, value, role=contender.role, ratio=ratio, limit=limit))
    return rows


def best_of(contenders: Sequence[Contender], repeat: int) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(repeat):
        for contender in contenders:
            if contender.measure is not None:
                gc.collect()
                best[contender.name] = min(contender.measure(), best.get(contender.name, float("inf")))
    return best


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


def peak_memory() -> int:
    """Return the most bytes that this process had resident.

    Linux hands the parent's peak on to a child in `ru_maxrss`, which would hide any smaller growth.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
    contenders = [Contender(OURS, under_trio(collected, items, noop, WORKERS), Role.OURS)]
    for name, pool in variants.items():
        contenders.append(Contender(name, under_trio(pool, items, noop, WORKERS), Role.VARIANT))
    question = f"e. options, for information: {items:,} no-op items, {WORKERS} workers"
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


def environment() -> dict[str, object]:
    names = ["trio", *(["aiometer", "anyio"] if peers.HAS_AIOMETER else [])]
    versions = {name: importlib.metadata.version(name) for name in names}
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"python": python, **versions, "machine": platform.machine(), "cpus": os.cpu_count()}


def print_table(rows: Sequence[Row]) -> None:
    print(f"\n{rows[0].question}")
    for row in rows:
        name, role, value, ratio, limit, verdict = row.cells()
        print(f"  {name:34}{role:8}{value:>18}{ratio:>10}{limit:>10}  {verdict}".rstrip())


def write_json(file: Path, rows: Sequence[Row]) -> None:
    told = [asdict(row) | {"verdict": row.verdict} for row in rows]
    file.write_text(json.dumps({"environment": environment(), "rows": told}, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, default=20_000, help="items of questions a, b, e and f")
    parser.add_argument("--repeat", type=positive, default=5, help="rounds; the best of each contender counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is missed")
    parser.add_argument("--print-stream-peak", type=positive, help=argparse.SUPPRESS)
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def main() -> int:
    arguments = parse_arguments()
    if arguments.print_stream_peak:
        print_stream_peak(arguments.print_stream_peak)
        return 0
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print(LEGEND)
    rows: list[Row] = []
    for answer in ask_all(arguments.items, arguments.repeat):
        print_table(answer)
        rows += answer
    if arguments.json:
        write_json(arguments.json, rows)
    limited = [row for row in rows if row.limit is not None and row.value is not None]
    missed = [row for row in limited if row.missed]
    print(f"\n{len(missed)} of the {len(limited)} limits that were measured are missed")
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

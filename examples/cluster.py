"""A CPU-heavy map over the documentation topics of Python: on the loop, on processes, or on a Dask cluster.

Run it (nothing but trioflow is needed for the first two; `pip install "trioflow[dask]"` for the third)::

    python examples/cluster.py --on loop
    python examples/cluster.py --on pool [--workers 4]
    python examples/cluster.py --on dask [--scheduler tcp://host:8786]

Every paragraph is compared with every other one: which of them uses words most like it does? The program is the
same each time, but for the one line that says where `nearest` is called. It is durable: stop it with Ctrl-C, or
kill it, and run it again with the same `--store`, on another engine if you like; only what is missing is computed.
"""

import argparse
import math
import multiprocessing
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

import trio

from trioflow import ParallelConfig, dask_executor, on_executor, open_parallel
from trioflow.checkpoint.sqlite import SqliteStore

RUN_ID = "nearest paragraphs"
CHUNK = 4
"""Calls that are sent together: one takes some milliseconds, so few are enough."""

SHORTEST = 200
"""Characters of a paragraph that is taken."""

Near = list[object]
"""The number of the nearest paragraph, and how near it is."""


# What is computed: plain functions at the top of a module, so that other processes find them.


@cache
def paragraphs() -> list[str]:
    """Return the paragraphs that are long enough to say something."""
    return [part for name in sorted(topics) for part in topics[name].split("\n\n") if len(part) > SHORTEST]


@cache
def vectors() -> list[dict[str, float]]:
    """Return for each paragraph how often it uses each word, scaled to length one; made once in each process."""
    made = []
    for text in paragraphs():
        counts = Counter(re.findall(r"[a-z_]{3,}", text.lower()))
        length = math.sqrt(sum(count * count for count in counts.values())) or 1.0
        made.append({word: count / length for word, count in counts.items()})
    return made


def nearest(number: int) -> Near:
    """Return which other paragraph is nearest to this one, and how near."""
    mine, best, score = vectors()[number], number, -1.0
    for other, words in enumerate(vectors()):
        likeness = sum(weight * words.get(word, 0.0) for word, weight in mine.items())
        if other != number and likeness > score:
            best, score = other, likeness
    return [best, round(score, 4)]


async def nearest_here(number: int) -> Near:
    """Do the same on the loop."""
    return nearest(number)


# Where it is computed.


@asynccontextmanager
async def open_engine(options: argparse.Namespace) -> AsyncIterator[Callable[[int], Awaitable[Near]]]:
    """Give the processor: the one line that differs."""
    stack = ExitStack()
    try:
        match options.on:
            case "loop":
                yield nearest_here
            case "pool":
                yield on_executor(partial(make_pool, options.workers), nearest, chunk=CHUNK)
            case _:
                client = await trio.to_thread.run_sync(open_client, stack, options)
                yield on_executor(dask_executor(client), nearest, chunk=CHUNK)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stack.close)


def make_pool(workers: int) -> ProcessPoolExecutor:
    """Make a process pool; the run shuts it down."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def open_client(stack: ExitStack, options: argparse.Namespace):  # type: ignore[no-untyped-def]  # noqa: ANN201 - of Dask
    """Connect to a cluster, or start one on this machine."""
    from distributed import Client, LocalCluster  # noqa: PLC0415 - only for `--on dask`

    address = options.scheduler
    if address is None:
        workers = {"n_workers": options.workers, "threads_per_worker": 1, "processes": True}
        # Port 0 is a free one: the usual one may be taken, by another cluster.
        address = stack.enter_context(LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **workers))
    client = Client(address, set_as_default=False)
    stack.callback(client.close)
    return client


# The run.


async def compute(options: argparse.Namespace, store: SqliteStore) -> int:
    """Compute what the store does not have yet, and print the account."""
    numbers = range(min(options.count, len(paragraphs())))
    config = ParallelConfig(max_workers=CHUNK * 2 * options.workers, fail_fast=False, observer="noop")
    async with open_engine(options) as processor:
        start = perf_counter()
        async with open_parallel(numbers, processor, config=config, store=store, run_id=RUN_ID) as run:
            computed = sum([outcome.attempts > 0 async for outcome in run])
        seconds = perf_counter() - start
    result = run.result()
    for number, (other, score) in list(zip(result.indices, result.results, strict=True))[:3]:
        print(f"paragraph {number} is most like {other} ({score})")
    kept = len(result.results) - computed
    print(f"{computed} computed on {options.on} in {seconds:.1f} s, {kept} kept, {len(result.errors)} failed")
    return 1 if result.errors else 0


async def main() -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description="Find nearest paragraphs, on various engines.")
    parser.add_argument("--on", choices=("loop", "pool", "dask"), default="pool", help="where to compute")
    parser.add_argument("--workers", type=int, default=2, help="processes of the pool, or of a local cluster")
    parser.add_argument("--scheduler", help="the address of a cluster; one is started on this machine by default")
    parser.add_argument("--count", type=int, default=1_000, help="how many paragraphs to find the nearest of")
    parser.add_argument("--store", type=Path, help="the file that keeps the run; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with SqliteStore(options.store or Path(folder) / "runs.db") as store:
            return await compute(options, store)


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(trio.run(main))
    except KeyboardInterrupt:
        print("interrupted: run it again with the same --store, and it goes on")
        sys.exit(130)

"""A fan-out that is killed half-way, on purpose, and goes on without paying for a call twice.

Run it (with the packages of the demo: `pip install h11 "openai>=1.63" rich` beside trioflow)::

    python examples/resume.py [--count N] [--store FILE]

It starts itself as a child process that summarises the language topics that ship with Python through the service
of `fan_out.py`, kills it with SIGKILL when half of the calls have succeeded, and starts it again: the second child
calls the service only for what is not in the store. Some texts fail for good, and stay out of it. Ctrl-C, or a
`kill -9` of your own, does no harm either: run it again with the same `--store`.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import trio
from fan_out import Chunk, build_processor, cut, open_client

from trioflow import CheckpointConfig, ParallelConfig, process_parallel
from trioflow.checkpoint.sqlite import SqliteStore

RUN_ID = "summaries"


def main() -> int:
    """Read the command line, run the two children, and return the exit status."""
    parser = argparse.ArgumentParser(description="Kill a fan-out half-way, and resume it.")
    parser.add_argument("--count", type=int, default=80, help="how many calls")
    parser.add_argument("--store", type=Path, help="the file that keeps the run; a temporary one by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.child:
            return trio.run(summarise, cut(topics)[: options.count], options.store)
        with tempfile.TemporaryDirectory() as folder:
            return show(options.store or Path(folder) / "runs.db", options.count)
    except KeyboardInterrupt:
        if not options.child:
            print("interrupted: run it again with the same --store, and it goes on")
        return 130


def show(store: Path, count: int) -> int:
    """Run a child and kill it half-way, run another one, and print what that saved."""
    before = trio.run(kept, store)
    if before:
        print(f"{before} calls are in {store} already")
    killed = run_child(store, count, kill_after=max(1, (count - before) // 2))
    saved = trio.run(kept, store)
    print(f"killed after {killed} calls had succeeded: {saved} of {count} are in the store", flush=True)
    called = run_child(store, count, kill_after=None)
    print(f"resumed: {called} calls succeeded, {saved} calls saved, {count - called - saved} failed")
    return 0 if trio.run(kept, store) == saved + called else 1


def run_child(store: Path, count: int, kill_after: int | None) -> int:
    """Run this program as a child, kill it after so many successes, and return how many there were."""
    command = [sys.executable, __file__, "--child", "--count", str(count), "--store", str(store)]
    succeeded = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - our own command
        for _ in child.stdout or ():
            succeeded += 1
            if succeeded == kill_after:
                child.kill()
    return succeeded


async def summarise(chunks: Sequence[Chunk], path: Path) -> int:
    """Summarise what is not in the store yet; print a line for each call that succeeds."""
    async with open_client(seed=1) as client, SqliteStore(path) as store:
        ask = build_processor(client, [])

        async def call(chunk: Chunk) -> str:
            summary = await ask(chunk)
            print("called", flush=True)
            return summary

        checkpoint = CheckpointConfig(flush_interval=0.05, preserve=True)
        config = ParallelConfig(fail_fast=False, max_workers=8, observer="noop", checkpoint=checkpoint)
        await process_parallel(chunks, call, config=config, store=store, run_id=RUN_ID)
    return 0


async def kept(path: Path) -> int:
    """Return how many results the store has."""
    if not await trio.Path(path).exists():
        return 0
    async with SqliteStore(os.fspath(path)) as store:
        return len(await store.load_items(RUN_ID))


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())

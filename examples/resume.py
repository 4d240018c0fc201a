"""A graph whose node fans out, killed half-way on purpose, goes on without paying for a call twice.

Run it (with the packages of the demo: `pip install h11 "openai>=1.63" rich` beside trioflow)::

    python examples/resume.py [--count N] [--store FILE]

It starts itself as a child process that runs a graph of two nodes: one has the language topics that ship with
Python summarised, many at once, by the service of `fan_out.py`; the other puts the summaries together. The parent
kills the child with SIGKILL when half of the summaries are paid for, and starts another, which calls the service
only for what is not in the store. Each call carries an `Idempotency-Key` that is the same whenever it is made, in
whatever process: a service that knows such keys does not charge twice for the few calls that were in hand at the
kill, either. Some texts fail for good, and stay out. Ctrl-C, or a `kill -9` of your own, does no harm: run it
again with the same `--store`.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import trio
from fan_out import PROMPT, RETRIED, Chunk, cut, open_client, retry_after

from trioflow import (
    CheckpointConfig,
    CheckpointNotFoundError,
    GraphConfig,
    ParallelConfig,
    ParallelResult,
    RetryConfig,
    State,
    StateGraph,
    current_run,
    parallel_node,
    with_retry,
)
from trioflow.checkpoint.sqlite import SqliteStore

try:
    import openai
except ImportError as missing:
    raise SystemExit(f"this example needs {missing.name}: pip install h11 'openai>=1.63'") from None

RUN_ID = "digest"


def main() -> int:
    """Read the command line, run the two children, and return the exit status."""
    parser = argparse.ArgumentParser(description="Kill a graph whose node fans out, half-way, and resume it.")
    parser.add_argument("--count", type=int, default=80, help="how many summaries")
    parser.add_argument("--store", type=Path, help="the file that keeps the run; a temporary one by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return trio.run(make_digest, cut(topics)[: options.count], options.store)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return trio.run(show, options.store or Path(folder) / "runs.db", options.count)
    except* KeyboardInterrupt:
        print("interrupted: run it again with the same --store, and it goes on")
    return 130


# The parent.


async def show(store: Path, count: int) -> int:
    """Run a child and kill it half-way, run another one, and print what that saved."""
    before = await count_kept(store)
    if before:
        print(f"{before} calls are in {store} already")
    first, _ = await run_child(store, count, kill_after=max(1, (count - before) // 2))
    saved = await count_kept(store)
    print(f"killed after {len(first)} calls had succeeded: {saved} of {count} are in the store", flush=True)
    if first:
        print(f"the first of them had the idempotency key {first[0]}", flush=True)
    second, status = await run_child(store, count, kill_after=None)
    again = len(set(first) & set(second))  # the kill came before they were written
    print(f"resumed: {len(second)} calls succeeded, {saved} calls saved, {count - len(second) - saved} failed")
    print(f"{again} of the calls before the kill were not written yet, and were made again, under the same keys")
    return status or (0 if await count_kept(store) == saved + len(second) else 1)


async def run_child(store: Path, count: int, kill_after: int | None) -> tuple[list[str], int]:
    """Run this program as a child, and kill it after so many summaries.

    Returns:
        The keys of the summaries that it paid for, and its exit status.
    """
    command = [sys.executable, __file__, "--child", "--count", str(count), "--store", str(store)]
    paid, rest = [], b""
    async with trio.open_nursery() as nursery:
        # In a session of its own: Ctrl-C is for the parent, and what leaves the nursery ends the child.
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False, start_new_session=True)
        child: trio.Process = await nursery.start(run)
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        async for data in child.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"paid "):
                    paid.append(line.split()[1].decode())
                else:
                    print(line.decode())
                if len(paid) == kill_after:
                    child.kill()
    return paid, child.returncode or 0


async def count_kept(path: Path) -> int:
    """Return how many summaries the store has, in the run inside the graph's run."""
    if not await trio.Path(path).exists():
        return 0
    async with SqliteStore(path, read_only=True) as store:
        return sum(run.items for run in await store.list_runs() if run.parent == RUN_ID)


# The child.


async def make_digest(chunks: Sequence[Chunk], path: Path) -> int:
    """Go on with the run, or begin it; print a line for each summary that is paid for."""
    async with open_client(seed=1) as client, SqliteStore(path) as store:
        graph = build_graph(client, chunks, store)
        try:
            result = await graph.resume(RUN_ID)
        except CheckpointNotFoundError:
            result = await graph.execute(State(), run_id=RUN_ID)
    length, count = len(result.state["digest"]), result.state["count"]
    print(f"the digest has {length} characters, from {count} summaries", flush=True)
    return 0


def build_graph(client: openai.AsyncOpenAI, chunks: Sequence[Chunk], store: SqliteStore) -> StateGraph[State]:
    """Return the graph: summarise all chunks, many at once, then put the summaries together."""
    # Kept when it is complete, so that the parent can count; by default a run is then forgotten.
    checkpoint = CheckpointConfig(preserve=True)
    graph = StateGraph(GraphConfig(name="digest", observer="noop", checkpoint=checkpoint), store=store)

    async def call(text: str) -> str:
        completion = await client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL") or "gpt-4o-mini",
            messages=[{"role": "system", "content": PROMPT}, {"role": "user", "content": text}],
            extra_headers={"Idempotency-Key": current_run().key},
        )
        return completion.choices[0].message.content or ""

    ask = with_retry(call, RetryConfig(max_attempts=3), on=RETRIED, delay=retry_after)

    async def summarise(chunk: Chunk) -> str:
        summary = await ask(chunk.text)
        print("paid", current_run().key, flush=True)
        return summary

    def collect(state: State, result: ParallelResult[Chunk, str]) -> State:
        return state.set("summaries", result.results)

    async def bind(state: State) -> State:
        return State(digest="\n\n".join(state["summaries"]), count=len(state["summaries"]))

    fan_out = ParallelConfig(fail_fast=False, max_workers=8, observer="noop")
    graph.add_node("summarise", parallel_node(summarise, items=chunks, aggregate=collect, config=fan_out))
    graph.add_node("bind", bind)
    graph.add_edge("summarise", "bind")
    graph.set_entry_point("summarise")
    graph.set_exit_point("bind")
    return graph


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())

"""What the fault tests run in processes of their own: `python workloads.py graph|fan_out|nested|backlog STORE LOG`.

Each call of a node, step or processor writes a line to LOG, down to the disk, before it does anything: the run that
it is made for and its place there. The process prints `ready` when it begins and `done` with its result at the end;
it resumes the run if there is one. `nested` fans out, chains and runs a graph, in a graph in a graph in a graph.
"""

import json
import os
import sys
import time
from itertools import pairwise

import trio

from trioflow import (
    ChainConfig,
    CheckpointConfig,
    CheckpointNotFoundError,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    chain_node,
    current_run,
    graph_node,
    open_parallel,
    parallel_node,
    process_parallel,
)
from trioflow.checkpoint.sqlite import SqliteStore

NODES = 200
ITEMS = 2_000
ROUNDS = 2
WIDTHS = {"outer": 60, "inner": 30, "deep": 15}
LENGTHS = {"outer": 20, "inner": 12, "deep": 8}
MODULUS = 1_000_003

BACKLOG_RATE = 600
BACKLOG_BYTES = 100_000
BACKLOG_INTERVAL = 0.2

KEEP = CheckpointConfig(interval=1, preserve=True)
FORGET = CheckpointConfig(interval=1)


def step(number, value):
    return (value * 31 + number) % MODULUS


def expected_graph():
    value = 1
    for number in range(NODES):
        value = step(number, value)
    return value


def expected_fan_out():
    return sum(step(item, item) for item in range(ITEMS))


def expected_nested(value=1, level="outer"):
    for _ in range(ROUNDS):
        value = step(0, value)
        value = sum(step(item, value) for item in range(WIDTHS[level]))
        for item in range(LENGTHS[level]):
            value = step(item, value)
        if level != "deep":
            value = expected_nested(value, "inner" if level == "outer" else "deep")
        value = step(1, value)
    return value


def count_nested(level="outer"):
    inside = 0 if level == "deep" else count_nested("inner" if level == "outer" else "deep")
    return ROUNDS * (2 + WIDTHS[level] + LENGTHS[level] + inside)


COUNTS = {"graph": NODES, "fan_out": ITEMS, "nested": count_nested()}
"""How many calls each makes."""

EXPECTED = {"graph": expected_graph, "fan_out": expected_fan_out, "nested": expected_nested}


class Log:
    """Appends a line for the piece of work in hand; with `sync`, it is on the disk before this returns."""

    def __init__(self, path, *, sync):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sync = sync

    def __call__(self):
        here = current_run()
        place = here.index if here.kind == "parallel" else here.step
        os.write(self._file, json.dumps([here.run_id, place, here.key]).encode() + b"\n")
        if self._sync:
            os.fdatasync(self._file)

    def time(self, index):
        os.write(self._file, f"{index} {time.monotonic()}\n".encode())


def build_graph(store, log, checkpoint):
    graph = StateGraph(GraphConfig(name="crashing", observer="noop", checkpoint=checkpoint), store=store)

    def node(number):
        async def fn(state):
            log()
            return state.set("value", step(number, state["value"]))

        return fn

    for number in range(NODES):
        graph.add_node(f"n{number}", node(number))
        if number:
            graph.add_edge(f"n{number - 1}", f"n{number}")
    graph.set_entry_point("n0")
    graph.set_exit_point(f"n{NODES - 1}")
    return graph


def build_nested(store, log, checkpoint, level="outer"):
    """Build a loop of five nodes: a plain one, a fan-out, a chain, the same graph one level deeper, a plain one."""
    graph = StateGraph(GraphConfig(name=level, observer="noop", checkpoint=checkpoint), store=store)
    fan_out = ParallelConfig(observer="noop", max_workers=6, checkpoint=CheckpointConfig(flush_interval=0.01))

    def plain(number):
        async def fn(state):
            log()
            await trio.sleep(0.001)
            return state.set("value", step(number, state["value"])).set("rounds", state["rounds"] + number)

        return fn

    async def work(item):
        log()
        await trio.sleep(0.001)
        return step(*item)

    async def fold(item, state):
        log()
        await trio.sleep(0.0005)
        return state.set("value", step(item, state["value"]))

    graph.add_node("first", plain(0))
    graph.add_node(
        "fan",
        parallel_node(
            work,
            items=lambda state: [[item, state["value"]] for item in range(WIDTHS[level])],
            aggregate=lambda state, result: state.set("value", sum(result.results)),
            config=fan_out,
        ),
    )
    graph.add_node("fold", chain_node(fold, items=range(LENGTHS[level]), config=ChainConfig(observer="noop")))
    nodes = ["first", "fan", "fold", "turn", "last"]
    if level != "deep":
        inner = build_nested(None, log, checkpoint, "inner" if level == "outer" else "deep")
        enter_inner = graph_node(
            inner,
            enter=lambda state: State(value=state["value"], rounds=0),
            leave=lambda state, inner: state.set("value", inner["value"]),
        )
        graph.add_node("inner", enter_inner)
        nodes.insert(3, "inner")
    graph.add_node("turn", plain(1))

    async def last(state):
        return state

    graph.add_node("last", last)
    graph.set_entry_point("first")
    graph.set_exit_point("last")
    graph.add_edge("turn", "first", lambda state: state["rounds"] < ROUNDS)
    for before, after in pairwise(nodes):
        graph.add_edge(before, after)
    return graph


async def resume_or_begin(graph, state):
    try:
        result = await graph.resume("run")
    except CheckpointNotFoundError:
        result = await graph.execute(state, run_id="run")
    return result.state["value"]


async def run_graph(store, log, checkpoint):
    return await resume_or_begin(build_graph(store, log, checkpoint), State(value=1))


async def run_nested(store, log, checkpoint):
    return await resume_or_begin(build_nested(store, log, checkpoint), State(value=1, rounds=0))


async def run_fan_out(store, log, checkpoint):
    async def work(item):
        log()
        await trio.sleep(0.0005)
        return step(item, item)

    kept = CheckpointConfig(flush_interval=0.01, preserve=checkpoint.preserve)
    config = ParallelConfig(observer="noop", max_workers=8, checkpoint=kept)
    result = await process_parallel(range(ITEMS), work, config=config, store=store, run_id="run")
    return sum(result.results)


async def run_backlog(store, log, checkpoint):
    """Make large results faster than a slow disk takes them, and note when each was made, until killed."""
    result = "x" * BACKLOG_BYTES

    async def work(item):
        await trio.sleep(16 / BACKLOG_RATE)
        log.time(item)
        return result

    kept = CheckpointConfig(flush_interval=BACKLOG_INTERVAL, preserve=checkpoint.preserve)
    config = ParallelConfig(observer="noop", max_workers=16, checkpoint=kept)
    count = 10_000_000
    async with open_parallel(
        range(count), work, config=config, keep_results=False, store=store, run_id="backlog"
    ) as run:
        async for outcome in run:
            outcome.unwrap()
    return count


RUN = {"graph": run_graph, "fan_out": run_fan_out, "nested": run_nested, "backlog": run_backlog}


def open_store(place):
    """Return the store in a file, or behind a URL."""
    if "://" in place:
        from trioflow.checkpoint.postgres import PostgresStore

        return PostgresStore(place)
    return SqliteStore(place)


async def main(what, path, log_path, *options):
    log = Log(log_path, sync=what == "nested")
    async with open_store(path) as store:
        print("ready", flush=True)
        result = await RUN[what](store, log, FORGET if "forget" in options else KEEP)
        print("done", result, flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])

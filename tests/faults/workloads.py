"""What the fault tests run in processes of their own: `python workloads.py graph|fan_out STORE LOG`.

Each call of a node or processor appends a line to LOG before it does anything. The process prints `ready` when it
begins and `done` with its result at the end; it resumes the run if there is one.
"""

import os
import sys

import trio

from trioflow import (
    CheckpointConfig,
    CheckpointNotFoundError,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    process_parallel,
)
from trioflow.checkpoint.sqlite import SqliteStore

NODES = 200
ITEMS = 2_000
MODULUS = 1_000_003


def step(number, value):
    return (value * 31 + number) % MODULUS


def expected_graph():
    value = 1
    for number in range(NODES):
        value = step(number, value)
    return value


def expected_fan_out():
    return sum(step(item, item) for item in range(ITEMS))


class Log:
    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, what):
        os.write(self._file, f"{what}\n".encode())


def build_graph(store, log):
    checkpoint = CheckpointConfig(interval=1, preserve=True)
    graph = StateGraph(GraphConfig(name="crashing", observer="noop", checkpoint=checkpoint), store=store)

    def node(number):
        async def fn(state):
            log(number)
            return state.set("value", step(number, state["value"]))

        return fn

    for number in range(NODES):
        graph.add_node(f"n{number}", node(number))
        if number:
            graph.add_edge(f"n{number - 1}", f"n{number}")
    graph.set_entry_point("n0")
    graph.set_exit_point(f"n{NODES - 1}")
    return graph


async def run_graph(store, log):
    graph = build_graph(store, log)
    try:
        result = await graph.resume("run")
    except CheckpointNotFoundError:
        result = await graph.execute(State(value=1), run_id="run")
    return result.state["value"]


async def run_fan_out(store, log):
    async def work(item):
        log(item)
        await trio.sleep(0.0005)
        return step(item, item)

    checkpoint = CheckpointConfig(flush_interval=0.01, preserve=True)
    config = ParallelConfig(observer="noop", max_workers=8, checkpoint=checkpoint)
    result = await process_parallel(range(ITEMS), work, config=config, store=store, run_id="run")
    return sum(result.results)


async def main(what, path, log_path):
    async with SqliteStore(path) as store:
        print("ready", flush=True)
        result = await {"graph": run_graph, "fan_out": run_fan_out}[what](store, Log(log_path))
        print("done", result, flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])

"""A process that serves the runs of the fault test; each step appends what it does to a log beside the store."""

import json
import os
import sys
import time

import trio

from trioflow import (
    GraphConfig,
    ServiceConfig,
    StateGraph,
    durable_sleep,
    get_checkpoint_store,
    open_service,
    wait_for_signal,
)

LEASE, POLL = 1.5, 0.05


def write(log, **what):
    # One write of less than a page, appended: lines of several processes do not mix.
    os.write(log, json.dumps({"at": time.time(), "pid": os.getpid(), **what}).encode() + b"\n")


def graph_of(name, log):
    graph = StateGraph(GraphConfig(name=name, observer="noop"))

    def step(number, wait):
        async def node(state):
            run = state["run"]
            write(log, run=run, graph=name, step=number, what="begin")
            got = await wait(state)
            write(log, run=run, graph=name, step=number, what="end", got=got)
            return state.set("steps", [*state["steps"], number]).set("got", [*state["got"], got])

        graph.add_node(f"step{number}", node)
        if number:
            graph.add_edge(f"step{number - 1}", f"step{number}")

    async def nothing(state):
        await trio.sleep(0.01)

    async def sleep(state):
        # Some stay in memory, some park.
        await durable_sleep(0.1 + state["seed"] % 3 * 0.1)

    async def signal(state):
        return await wait_for_signal("go")

    for number, wait in enumerate((nothing, sleep, signal, nothing, signal)):
        step(number, wait)
    graph.set_entry_point("step0")
    graph.set_exit_point("step4")
    return graph


async def main(url, path):
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    config = ServiceConfig(
        max_runs=8, limits={"limited": 3}, lease=LEASE, poll=POLL, park_after=0.15, observer="noop"
    )
    async with get_checkpoint_store(url) as store:
        async with open_service(store, [graph_of("free", log), graph_of("limited", log)], config=config):
            write(log, what="serves")
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])


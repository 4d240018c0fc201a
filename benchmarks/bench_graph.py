"""What does a step of a graph cost beside LangGraph's, and a step of a chain beside a bare loop?

    python benchmarks/bench_graph.py [--repeat 5] [--json FILE] [--check]

Also: whether the memory of a long run is flat. The loop is the same for both: two nodes that do next to nothing,
and an edge that leads back until a counter is full. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, TypedDict

import msgspec
import trio
from measuring import (
    MEBI,
    Contender,
    Limit,
    Role,
    Row,
    add_arguments,
    compare,
    is_installed,
    peak_memory,
    positive,
    report,
)

from trioflow import ChainConfig, GraphConfig, State, StateGraph, process_chain

STEPS = 1_000
CHAIN_STEPS = 20_000
LONG_RUN = 1_000_000
SHORT_RUN = 10_000

OURS = "trioflow"
LEGEND = "ratio: how much longer ours takes than a floor, and a peer or a variant than the first line of its table"


# The loop, in three kinds of state.


class Struct(msgspec.Struct, frozen=True):
    count: int = 0


@dataclass(frozen=True)
class Data:
    count: int = 0


async def more(state: State) -> State:
    return state.set("count", state["count"] + 1)


async def more_struct(state: Struct) -> Struct:
    return Struct(state.count + 1)


async def more_data(state: Data) -> Data:
    return replace(state, count=state.count + 1)


async def same(state: Any) -> Any:
    return state


def build(kind: type, first: Callable[[Any], Awaitable[Any]], again: Callable[[Any], bool]) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(GraphConfig(name="loop", observer="noop", max_iterations=10**9), kind)
    for name, fn in (("more", first), ("same", same), ("done", same)):
        graph.add_node(name, fn)
    graph.add_edge("more", "same")
    graph.add_edge("same", "more", again)
    graph.add_edge("same", "done")
    graph.set_entry_point("more")
    graph.set_exit_point("done")
    return graph


async def walked(graph: StateGraph[Any], initial: Any, steps: int) -> float:
    start = perf_counter()
    result = await graph.execute(initial)
    seconds = perf_counter() - start
    if result.iterations != steps + 1:
        raise RuntimeError(f"{result.iterations} steps instead of {steps + 1}")
    return seconds


def ours(kind: type, first: Callable[[Any], Awaitable[Any]], initial: Any) -> Callable[[], float]:
    half = STEPS // 2
    again = (lambda s: s["count"] < half) if kind is State else (lambda s: s.count < half)
    return partial(trio.run, walked, build(kind, first, again), initial, STEPS)


# LangGraph's.


class Counted(TypedDict):
    count: int


def langgraph() -> Callable[[], float]:
    from langgraph.graph import END  # noqa: PLC0415 - optional
    from langgraph.graph import StateGraph as TheirGraph  # noqa: PLC0415 - optional

    async def their_more(state: Counted) -> Counted:
        return {"count": state["count"] + 1}

    async def their_same(_: Counted) -> dict[str, int]:
        return {}

    graph = TheirGraph(Counted)
    graph.add_node("more", their_more)
    graph.add_node("same", their_same)
    graph.set_entry_point("more")
    graph.add_edge("more", "same")
    graph.add_conditional_edges("same", lambda state: "more" if state["count"] < STEPS // 2 else END)
    app = graph.compile()

    async def run() -> float:
        start = perf_counter()
        result = await app.ainvoke({"count": 0}, {"recursion_limit": 10 * STEPS})
        seconds = perf_counter() - start
        if result["count"] != STEPS // 2:
            raise RuntimeError("the loop was left too soon")
        return seconds

    return lambda: asyncio.run(run())


# The questions.


def ask_loop(repeat: int) -> list[Row]:
    peer = langgraph() if is_installed("langgraph") else None
    contenders = [
        Contender(OURS, ours(State, more, State(count=0)), Role.OURS),
        Contender("with a frozen msgspec.Struct", ours(Struct, more_struct, Struct()), Role.VARIANT),
        Contender("with a frozen dataclass", ours(Data, more_data, Data()), Role.VARIANT),
        Contender("LangGraph", peer, Role.PEER, Limit(30, at_least=True)),
    ]
    question = f"a. a loop of two trivial nodes, {STEPS:,} steps, observer noop: a step"
    return compare(question, contenders, items=STEPS, repeat=repeat)


async def add(item: int, state: int) -> int:
    return state + item


async def add_checkpoint(item: int, state: int) -> int:
    await trio.lowlevel.checkpoint()
    return state + item


Step = Callable[[int, int], Awaitable[int]]


async def chained(step: Step) -> float:
    config = ChainConfig(observer="noop")
    start = perf_counter()
    await process_chain(range(CHAIN_STEPS), 0, step, config=config)
    return perf_counter() - start


async def bare(step: Step, *, checkpoint: bool) -> float:
    start = perf_counter()
    state = 0
    for item in range(CHAIN_STEPS):
        state = await step(item, state)
        if checkpoint:
            await trio.lowlevel.checkpoint()
    return perf_counter() - start


def ask_chain(step: Step, what: str, repeat: int, *, checkpoint: bool) -> list[Row]:
    floor = partial(trio.run, partial(bare, step, checkpoint=checkpoint))
    contenders = [
        Contender("process_chain", partial(trio.run, chained, step), Role.OURS),
        Contender("bare await loop with a checkpoint", floor, Role.FLOOR, Limit(2)),
    ]
    return compare(f"b. a step of a chain, {what}", contenders, items=CHAIN_STEPS, repeat=repeat)


def peak_after(steps: int) -> int:
    """Return the bytes that a fresh process has needed at most after a run of `steps`."""
    done = subprocess.run(
        [sys.executable, __file__, "--print-peak", str(steps)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def print_peak(steps: int) -> None:
    graph = build(State, more, lambda state: state["count"] < steps // 2)
    trio.run(walked, graph, State(count=0), steps)
    print(peak_memory())


def ask_memory() -> list[Row]:
    short, long = peak_after(SHORT_RUN), peak_after(LONG_RUN)
    question = f"c. memory of a run: peak of a process, {SHORT_RUN:,} and {LONG_RUN:,} iterations"
    growth = (long - short) / MEBI
    return [
        Row(question, f"{SHORT_RUN:,} iterations", short / MEBI, "MiB"),
        Row(question, f"{LONG_RUN:,} iterations", long / MEBI, "MiB"),
        Row(question, "growth", growth, "MiB", limit=Limit(1)),
    ]


def ask_all(repeat: int) -> Iterable[list[Row]]:
    yield ask_loop(repeat)
    yield ask_chain(add_checkpoint, "the processor has the checkpoint", repeat, checkpoint=False)
    yield ask_chain(add, "the processor has none, the loop has", repeat, checkpoint=True)
    yield ask_memory()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print-peak", type=positive, help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.print_peak:
        print_peak(arguments.print_peak)
        return 0
    return report(arguments, ask_all(arguments.repeat), LEGEND)


if __name__ == "__main__":
    sys.exit(main())

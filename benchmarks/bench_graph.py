"""What does a step of a graph cost beside LangGraph's and pydantic-graph's, and a step of a chain beside a loop?

    python benchmarks/bench_graph.py [--full] [--repeat 5] [--json FILE] [--check]

Also: branches, and whether the memory of a long run is flat. The loop is the same for all: two nodes that do next
to nothing, and an edge that leads back until a counter is full. With `--check` the exit status is 1 if a limit is
missed; `--full` adds branches.
"""

import argparse
import asyncio
import operator
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Annotated, Any, TypedDict

import msgspec
import trio
from measuring import (
    MEBI,
    About,
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

from trioflow import ChainConfig, GraphConfig, State, StateGraph, branches_node, process_chain

STEPS = 1_000
CHAIN_STEPS = 20_000
LONG_RUN = 1_000_000
SHORT_RUN = 10_000

OURS = "trioflow"
BRANCHES = (2, 10, 100)
BRANCH_RUNS = 1_000
"""Branches in all that are run at least, and ten runs."""
LEGEND = "ratio: how much longer ours takes than a floor, and a peer or a variant than the first line of its table"
ABOUT = {
    "a": About(
        "what a step of a graph costs: two nodes that do next to nothing, and a condition that leads back to the "
        "first until a counter is full.",
        "the same nodes, the same condition and the same number of steps; graphs are built before the clock "
        "starts, nothing is kept and nobody looks on. LangGraph copies its state into channels and pydantic-graph "
        "changes its state in place; trioflow's states are immutable.",
    ),
    "b": About(
        "what a step of a chain costs, where the processor yields and where it does not.",
        "the floor is an `await` in a loop that yields as often.",
    ),
    "c": About(
        "whether the memory of a run depends on its length.",
        "each run is in a fresh process; what is read is the operating system's peak for it.",
    ),
    "d": About(
        "what one branch of several costs that begin together from one state, do nothing and are joined by a sum.",
        "each graph has one split and one join, is built before the clock starts and returns the same sum. The "
        "floor begins the same functions in a nursery and adds by hand.",
    ),
}


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


# pydantic-graph's.


@dataclass
class Counter:
    count: int = 0


def pydantic_graph() -> Callable[[], float]:
    from pydantic_graph import GraphBuilder, StepContext  # noqa: PLC0415 - optional

    builder = GraphBuilder(state_type=Counter, output_type=int, auto_instrument=False)

    async def their_more(context: StepContext[Counter, None, None]) -> None:
        context.state.count += 1

    async def their_same(context: StepContext[Counter, None, None]) -> int:
        return context.state.count

    more_step, same_step = builder.step(their_more), builder.step(their_same)
    again = builder.match(int, matches=lambda count: count < STEPS // 2).to(more_step)
    enough = builder.match(int, matches=lambda count: count >= STEPS // 2).to(builder.end_node)
    builder.add(
        builder.edge_from(builder.start_node).to(more_step),
        builder.edge_from(more_step).to(same_step),
        builder.edge_from(same_step).to(builder.decision().branch(again).branch(enough)),
    )
    graph = builder.build()

    async def run() -> float:
        start = perf_counter()
        count = await graph.run(state=Counter())
        seconds = perf_counter() - start
        if count != STEPS // 2:
            raise RuntimeError("the loop was left too soon")
        return seconds

    return lambda: asyncio.run(run())


# Branches.


async def one(state: State) -> State:
    return state.set("sum", 1)


def our_branches(count: int) -> Callable[[], float]:
    graph: StateGraph[State] = StateGraph(GraphConfig(name="branches", observer="noop"))
    branches = {f"branch {number}": one for number in range(count)}
    graph.add_node("split", branches_node(branches, reducers={"sum": lambda _, values: sum(values)}))
    graph.set_entry_point("split")
    graph.set_exit_point("split")

    async def run() -> int:
        return (await graph.execute(State(sum=0))).state["sum"]

    return lambda: trio.run(repeated, run, count)


def bare_branches(count: int) -> Callable[[], float]:
    async def run() -> int:
        states = [State(sum=0)] * count

        async def branch(number: int) -> None:
            states[number] = await one(states[number])

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(branch, number)
        return sum(state["sum"] for state in states)

    return lambda: trio.run(repeated, run, count)


class Summed(TypedDict):
    sum: Annotated[int, operator.add]


def langgraph_branches(count: int) -> Callable[[], float]:
    from langgraph.graph import END, START  # noqa: PLC0415 - optional
    from langgraph.graph import StateGraph as TheirGraph  # noqa: PLC0415 - optional

    async def their_one(_: Summed) -> Summed:
        return {"sum": 1}

    async def their_same(_: Summed) -> dict[str, int]:
        return {}

    graph = TheirGraph(Summed)
    graph.add_node("join", their_same)
    graph.add_edge("join", END)
    names = [f"branch {number}" for number in range(count)]
    for name in names:
        graph.add_node(name, their_one)
        graph.add_edge(START, name)
    graph.add_edge(names, "join")
    app = graph.compile()

    async def run() -> int:
        return (await app.ainvoke({"sum": 0}))["sum"]

    return lambda: asyncio.run(repeated(run, count))


def pydantic_graph_branches(count: int) -> Callable[[], float]:
    from pydantic_graph import GraphBuilder, StepContext, reduce_sum  # noqa: PLC0415 - optional

    builder = GraphBuilder(output_type=int, auto_instrument=False)

    async def their_one(_: StepContext[None, None, None]) -> int:
        return 1

    steps = [builder.step(their_one, node_id=f"branch {number}") for number in range(count)]
    join = builder.join(reduce_sum, initial=0)
    builder.add(
        builder.edge_from(builder.start_node).to(*steps),
        builder.edge_from(*steps).to(join),
        builder.edge_from(join).to(builder.end_node),
    )
    graph = builder.build()
    return lambda: asyncio.run(repeated(graph.run, count))


async def repeated(run: Callable[[], Awaitable[int]], branches: int) -> float:
    await run()
    runs = max(10, BRANCH_RUNS // branches)
    start = perf_counter()
    for _ in range(runs):
        if await run() != branches:
            raise RuntimeError("the branches were not joined")
    return (perf_counter() - start) / runs


# The questions.


def ask_branches(count: int, repeat: int) -> list[Row]:
    theirs = langgraph_branches(count) if is_installed("langgraph") else None
    pydantics = pydantic_graph_branches(count) if is_installed("pydantic-graph") else None
    contenders = [
        Contender(OURS, our_branches(count), Role.OURS),
        Contender("bare nursery", bare_branches(count), Role.FLOOR),
        Contender("LangGraph", theirs, Role.PEER),
        Contender("pydantic-graph", pydantics, Role.PEER),
    ]
    question = f"d. {count} branches and their join: a branch"
    return compare(question, contenders, items=count, repeat=repeat, x=count)


def ask_loop(repeat: int) -> list[Row]:
    peer = langgraph() if is_installed("langgraph") else None
    pydantics = pydantic_graph() if is_installed("pydantic-graph") else None
    contenders = [
        Contender(OURS, ours(State, more, State(count=0)), Role.OURS),
        Contender("with a frozen msgspec.Struct", ours(Struct, more_struct, Struct()), Role.VARIANT),
        Contender("with a frozen dataclass", ours(Data, more_data, Data()), Role.VARIANT),
        Contender("LangGraph", peer, Role.PEER, Limit(30, at_least=True)),
        Contender("pydantic-graph", pydantics, Role.PEER),
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


def ask_all(repeat: int, *, full: bool) -> Iterable[list[Row]]:
    yield ask_loop(repeat)
    yield ask_chain(add_checkpoint, "the processor has the checkpoint", repeat, checkpoint=False)
    yield ask_chain(add, "the processor has none, the loop has", repeat, checkpoint=True)
    yield ask_memory()
    for count in BRANCHES if full else ():
        yield ask_branches(count, repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print-peak", type=positive, help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.print_peak:
        print_peak(arguments.print_peak)
        return 0
    return report(arguments, ask_all(arguments.repeat, full=arguments.full), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

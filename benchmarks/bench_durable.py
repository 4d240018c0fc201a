"""What does it cost to keep a run: a step, an item, a state of 64 MiB or 1 MiB, a beginning, a run inside a run?

    python benchmarks/bench_durable.py [--repeat 3] [--only abcdefg] [--json FILE] [--check]

Beside LangGraph with its savers, and beside the same run that is not kept. SQLite commits with
`synchronous=FULL`, so its figures are this machine's disk as much as this library: what a commit takes is printed
beside them. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypedDict

import apsw
import trio
from measuring import About, Contender, Limit, Role, Row, add_arguments, compare, is_installed, report
from peers import yielding

from trioflow import (
    CheckpointConfig,
    CheckpointNotFoundError,
    CheckpointStore,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    ParallelResult,
    State,
    StateGraph,
    parallel_node,
    process_parallel,
)
from trioflow.checkpoint.session import Session, load_verified
from trioflow.checkpoint.sqlite import SqliteStore

SERVER = Path(__file__).parents[1] / "tests" / "postgres_server.py"
MEMORY_DISK = Path("/dev/shm")
STEPS = 1_000
DBOS_STEPS = 200
ITEMS = 20_000
MEMORY_MARGIN = 15.0
ITEM_BOUND = 60.0
BLOCK_BOUND = 100.0
LEGEND = (
    "ratio: how much longer a peer or a variant takes than the first line of its table, or that line than a floor"
)
ABOUT = {
    "a": About(
        "what a step costs that is on the disk before the next one begins: two nodes that do next to nothing, "
        "again and again.",
        "each commits every step to SQLite on the same disk. trioflow and the floor use `synchronous=FULL`, "
        "LangGraph's saver and DBOS their own settings. The floor is a commit of one row by SQLite alone; the "
        "disk in memory takes the disk's part away. DBOS runs its steps in one workflow, in a process of its "
        "own.",
    ),
    "b": About(
        "what an item of a fan-out costs that is kept.",
        "the same run without a store, in memory and in SQLite, where results are committed in batches.",
    ),
    "c": About(
        "for how long the event loop serves nobody while a state of 64 MiB is saved.",
        "a task beside the run sleeps for a millisecond again and again, and notes the longest gap.",
    ),
    "d": About(
        "what a step costs whose state is 1 MiB, of which a little has changed.",
        "each keeps every step in full, on the same disk or in memory, and changes the same few bytes.",
    ),
    "e": About("whether beginning a run depends on how many the file has.", "files of the same make, in turns."),
    "f": About(
        "what a kept fan-out costs more inside a graph's node than by itself.",
        "the same items in the same kind of store.",
    ),
    "g": About(
        "what an item of a kept fan-out costs in PostgreSQL, beside SQLite.",
        "the server runs on this machine and commits to its disk, as SQLite does.",
    ),
}

Folder = Path


def new_file(folder: Folder) -> str:
    return str(folder / f"{len(list(folder.iterdir()))}.db")


async def more(state: State) -> State:
    return state.set("count", state["count"] + 1)


async def same(state: State) -> State:
    return state


async def walk(store: CheckpointStore | None) -> float:
    graph = StateGraph(GraphConfig(name="loop", observer="noop", max_iterations=10 * STEPS), store=store)
    for name, fn in (("more", more), ("same", same), ("done", same)):
        graph.add_node(name, fn)
    graph.add_edge("more", "same")
    graph.add_edge("same", "more", lambda state: state["count"] < STEPS // 2)
    graph.add_edge("same", "done")
    graph.set_entry_point("more")
    graph.set_exit_point("done")
    start = perf_counter()
    await graph.execute(State(count=0), run_id="run")
    return perf_counter() - start


async def walk_sqlite(folder: Folder) -> float:
    async with SqliteStore(new_file(folder)) as store:
        return await walk(store)


def commit(folder: Folder) -> float:
    """Return the seconds that the disk alone takes: a row a step, in SQLite, in this thread."""
    db = apsw.Connection(new_file(folder))
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    db.execute("CREATE TABLE steps(number INTEGER PRIMARY KEY, state BLOB)")
    start = perf_counter()
    for number in range(STEPS):
        db.execute("INSERT INTO steps VALUES (?, ?)", (number, bytes(100)))
    seconds = perf_counter() - start
    db.close()
    return seconds


class Counted(TypedDict):
    count: int


def langgraph(folder: Folder) -> Callable[[], float]:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - optional
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

    async def run() -> float:
        async with AsyncSqliteSaver.from_conn_string(new_file(folder)) as saver:
            app = graph.compile(checkpointer=saver)
            options = {"recursion_limit": 10 * STEPS, "configurable": {"thread_id": "run"}}
            start = perf_counter()
            await app.ainvoke({"count": 0}, options)
            return perf_counter() - start

    return lambda: asyncio.run(run())


DBOS = """
import sys, time
from dbos import DBOS

DBOS(config={"name": "bench", "system_database_url": sys.argv[1], "log_level": "ERROR"})

@DBOS.step()
def step(count):
    return count + 1

@DBOS.workflow()
def workflow(steps):
    count = 0
    start = time.perf_counter()
    while count < steps:
        count = step(count)
    return time.perf_counter() - start

DBOS.launch()
DBOS.start_workflow(workflow, 1).get_result()
print(DBOS.start_workflow(workflow, int(sys.argv[2])).get_result(), flush=True)
DBOS.destroy()
"""


def dbos(folder: Folder) -> float:
    command = [sys.executable, "-c", DBOS, f"sqlite:///{new_file(folder)}", str(DBOS_STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return float(done.stdout.split()[-1]) * STEPS / DBOS_STEPS


def ask_graph(folder: Folder, repeat: int) -> Iterable[list[Row]]:
    """Ask on two disks: what a commit takes is the same for both, so the limit is for a disk in memory."""
    yield compare_loops(folder, repeat, "on the disk", None)
    if MEMORY_DISK.is_dir():
        with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as fast:
            yield compare_loops(Path(fast), repeat, "on a disk in memory", Limit(3, at_least=True))
    question = f"a. a loop of two trivial nodes, {STEPS:,} steps: a step, without a disk"
    contenders = [
        Contender("not kept", partial(trio.run, walk, None), Role.OURS),
        Contender("in memory", lambda: trio.run(walk, MemoryStore()), Role.VARIANT),
    ]
    rows = compare(question, contenders, items=STEPS, repeat=repeat)
    more = (rows[1].value or 0.0) - (rows[0].value or 0.0)
    yield [*rows, Row(question, "in memory, more than not kept", more, limit=Limit(MEMORY_MARGIN))]


def compare_loops(folder: Folder, repeat: int, where: str, limit: Limit | None) -> list[Row]:
    installed = is_installed("langgraph") and is_installed("langgraph-checkpoint-sqlite")
    contenders = [
        Contender("SQLite, each step", partial(trio.run, walk_sqlite, folder), Role.OURS),
        Contender("a commit of one row", partial(commit, folder), Role.FLOOR),
        Contender(
            "LangGraph, AsyncSqliteSaver", langgraph(folder) if installed else None, Role.PEER, limit
        ),
        Contender("DBOS", partial(dbos, folder) if is_installed("dbos") else None, Role.PEER),
    ]
    question = f"a. a loop of two trivial nodes, {STEPS:,} steps: a step, {where}"
    return compare(question, contenders, items=STEPS, repeat=repeat)


async def fan_out(store: CheckpointStore | None) -> float:
    checkpoint = None if store is None else CheckpointConfig(preserve=True)
    config = ParallelConfig(observer="noop", max_workers=16, checkpoint=checkpoint)
    start = perf_counter()
    run_id = None if store is None else "run"
    await process_parallel(range(ITEMS), yielding, config=config, store=store, run_id=run_id)
    return perf_counter() - start


async def fan_out_sqlite(folder: Folder) -> float:
    async with SqliteStore(new_file(folder)) as store:
        return await fan_out(store)


def ask_fan_out(folder: Folder, repeat: int) -> list[Row]:
    contenders = [
        Contender("not kept", partial(trio.run, fan_out, None), Role.OURS),
        Contender("in memory", lambda: trio.run(fan_out, MemoryStore()), Role.VARIANT),
        Contender("SQLite", partial(trio.run, fan_out_sqlite, folder), Role.VARIANT, Limit(6)),
    ]
    rows = compare(f"b. a fan-out of {ITEMS:,} items: an item", contenders, items=ITEMS, repeat=repeat)
    return [*rows, Row(rows[0].question, "SQLite, an item", rows[-1].value, limit=Limit(ITEM_BOUND))]


async def fan_out_postgres(url: str) -> float:
    from trioflow.checkpoint.postgres import PostgresStore  # noqa: PLC0415 - optional

    async with PostgresStore(url) as store:
        return await fan_out(store)


def ask_postgres(folder: Folder, repeat: int) -> Iterable[list[Row]]:
    """Ask a server of its own, which commits to the disk as SQLite does."""
    spec = importlib.util.spec_from_file_location("postgres_server", SERVER)
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    if (why := servers.why_not()) is not None:
        print(f"g. skipped: {why}")
        return
    server = servers.Server(settings=["fsync = on", "full_page_writes = on", "shared_buffers = 128MB"])
    try:
        server.make()
        server.start()
        contenders = [
            Contender("SQLite", partial(trio.run, fan_out_sqlite, folder), Role.OURS),
            Contender("PostgreSQL", lambda: trio.run(fan_out_postgres, server.url()), Role.VARIANT, Limit(3)),
        ]
        yield compare(f"g. a fan-out of {ITEMS:,} items: an item", contenders, items=ITEMS, repeat=repeat)
    finally:
        server.remove()


async def sleep_and_watch(longest: list[float]) -> None:
    last = perf_counter()
    while True:
        await trio.sleep(0.001)
        now = perf_counter()
        longest[0] = max(longest[0], now - last)
        last = now


async def longest_wait(path: str, values: object) -> float:
    """Return the seconds for which the loop served nobody while a run saved `values` twice, and was read back."""

    async def wait(state: State) -> State:
        await trio.sleep(0.01)
        return state.set("count", state["count"] + 1)

    config = GraphConfig(name="large", observer="noop", checkpoint=CheckpointConfig(interval=1, preserve=True))
    async with SqliteStore(path) as store, trio.open_nursery() as nursery:
        graph = StateGraph(config, store=store)
        graph.add_node("a", wait)
        graph.add_node("b", wait)
        graph.add_edge("a", "b")
        graph.set_entry_point("a")
        graph.set_exit_point("b")
        state = State(values=values, count=0)
        longest = [0.0]
        nursery.start_soon(sleep_and_watch, longest)
        await trio.sleep(0.01)
        await graph.execute(state, run_id="run")
        await graph.resume("run")
        nursery.cancel_scope.cancel()
    return longest[0]


def ask_large(folder: Folder, repeat: int) -> list[Row]:
    question = "c. a state of 64 MiB, saved in SQLite: the longest that the loop serves nobody"
    shapes: dict[str, Callable[[], object]] = {
        "one text": lambda: "x" * (64 << 20),
        "64 texts": lambda: ["x" * (1 << 20) for _ in range(64)],
        "65,536 texts": lambda: ["x" * 1_024 for _ in range(1 << 16)],
        "65,536 dicts of two": lambda: [{"role": "user", "content": "x" * 1_000} for _ in range(1 << 16)],
    }
    rows = []
    for name, make in shapes.items():
        longest = min(trio.run(longest_wait, new_file(folder), make()) for _ in range(repeat))
        rows.append(Row(question, name, 1e3 * longest, "ms", limit=Limit(BLOCK_BOUND)))
    return rows


MIB_STEPS = 20
MIB_SHAPES: dict[str, Callable[[int], object]] = {
    "one text": lambda step: f"{step:07}" + "x" * (1 << 20),
    "a thousand texts": lambda step: [f"{step:07}", *(f"{n:07}" + "x" * 1_017 for n in range(1_024))],
}


class Grown(TypedDict):
    count: int
    values: object


async def change(store: CheckpointStore, make: Callable[[int], object]) -> float:
    async def step(state: State) -> State:
        count = state["count"] + 1
        values = state["values"] if isinstance(state["values"], str) else list(state["values"])
        changed = f"{count:07}{values[7:]}" if isinstance(values, str) else [f"{count:07}", *values[1:]]
        return state.set("count", count).set("values", changed)

    config = GraphConfig(name="mib", observer="noop", checkpoint=CheckpointConfig(interval=1, preserve=True))
    graph = StateGraph(config, store=store)
    graph.add_node("step", step)
    graph.add_node("done", same)
    graph.add_edge("step", "step", lambda state: state["count"] < MIB_STEPS - 1)
    graph.add_edge("step", "done")
    graph.set_entry_point("step")
    graph.set_exit_point("done")
    state = State(count=0, values=make(0))
    start = perf_counter()
    await graph.execute(state, run_id="run")
    return perf_counter() - start


async def change_sqlite(folder: Folder, make: Callable[[int], object]) -> float:
    async with SqliteStore(new_file(folder)) as store:
        return await change(store, make)


def change_in_langgraph(saver: str, folder: Folder, make: Callable[[int], object]) -> float:
    from langgraph.checkpoint.memory import MemorySaver  # noqa: PLC0415 - optional
    from langgraph.checkpoint.sqlite import SqliteSaver  # noqa: PLC0415 - optional
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - optional
    from langgraph.graph import END  # noqa: PLC0415 - optional
    from langgraph.graph import StateGraph as TheirGraph  # noqa: PLC0415 - optional

    def step(state: Grown) -> Grown:
        count, values = state["count"] + 1, state["values"]
        changed = f"{count:07}{values[7:]}" if isinstance(values, str) else [f"{count:07}", *values[1:]]
        return {"count": count, "values": changed}

    async def async_step(state: Grown) -> Grown:
        return step(state)

    def build(node: Callable[[Grown], object]) -> TheirGraph:
        graph = TheirGraph(Grown)
        graph.add_node("step", node)
        graph.set_entry_point("step")
        graph.add_conditional_edges("step", lambda state: "step" if state["count"] < MIB_STEPS else END)
        return graph

    options = {"recursion_limit": 10 * MIB_STEPS, "configurable": {"thread_id": "run"}}
    state = {"count": 0, "values": make(0)}

    async def run_async(saver: object) -> float:
        app = build(async_step).compile(checkpointer=saver)
        start = perf_counter()
        await app.ainvoke(state, options)
        return perf_counter() - start

    async def run_async_sqlite() -> float:
        async with AsyncSqliteSaver.from_conn_string(new_file(folder)) as opened:
            return await run_async(opened)

    if saver == "AsyncSqliteSaver":
        return asyncio.run(run_async_sqlite())
    if saver == "MemorySaver":
        return asyncio.run(run_async(MemorySaver()))
    with SqliteSaver.from_conn_string(new_file(folder)) as opened:
        app = build(step).compile(checkpointer=opened)
        start = perf_counter()
        app.invoke(state, options)
        return perf_counter() - start


def ask_mib(folder: Folder, repeat: int) -> Iterable[list[Row]]:
    installed = is_installed("langgraph") and is_installed("langgraph-checkpoint-sqlite")
    no_slower = Limit(1, at_least=True)
    for name, make in MIB_SHAPES.items():

        def theirs(saver: str, make: Callable[[int], object] = make) -> Callable[[], float] | None:
            return partial(change_in_langgraph, saver, folder, make) if installed else None

        question = f"d. a state of 1 MiB, {name}, of which a little changes, {MIB_STEPS} steps: a step"
        yield compare(
            question,
            [
                Contender("SQLite", partial(trio.run, change_sqlite, folder, make), Role.OURS),
                Contender("LangGraph, SqliteSaver", theirs("SqliteSaver"), Role.PEER, no_slower),
                Contender("LangGraph, AsyncSqliteSaver", theirs("AsyncSqliteSaver"), Role.PEER, no_slower),
            ],
            items=MIB_STEPS,
            repeat=repeat,
        )
        yield compare(
            f"{question}, in memory",
            [
                Contender("in memory", lambda make=make: trio.run(change, MemoryStore(), make), Role.OURS),
                Contender("LangGraph, MemorySaver", theirs("MemorySaver"), Role.PEER, no_slower),
            ],
            items=MIB_STEPS,
            repeat=repeat,
        )


RUNS = 40_000
BEGINNINGS = 50


async def begin(path: str) -> float:
    """Return the seconds that the beginnings of some runs take, of which nothing else is done."""
    async with SqliteStore(path) as store:
        await store.list_runs(limit=1)
        start = perf_counter()
        for number in range(BEGINNINGS):
            try:
                await load_verified(store, f"new {perf_counter()}")
            except CheckpointNotFoundError:
                await Session.claim(store, f"new {number} {perf_counter()}")
        return perf_counter() - start


def ask_beginning(folder: Folder, repeat: int) -> list[Row]:
    async def fill(path: str) -> None:
        async with SqliteStore(path) as store:
            await store.claim("first")
        db = apsw.Connection(path)
        with db:
            rows = ((f"run {number}",) for number in range(RUNS))
            db.executemany("INSERT INTO runs SELECT NULL, ?, 0, 1, 0, 0.0, 0.0, x'', NULL", rows)
        db.close()

    full = new_file(folder)
    trio.run(fill, full)
    contenders = [
        Contender("an empty file", lambda: trio.run(begin, new_file(folder)), Role.OURS),
        Contender(f"a file of {RUNS:,} runs", lambda: trio.run(begin, full), Role.VARIANT, Limit(2)),
    ]
    return compare("e. beginning a run in SQLite", contenders, items=BEGINNINGS, repeat=repeat)


CHILD_ITEMS = 100
CHILD_RUNS = 20


async def fan_out_alone(store: CheckpointStore, run_id: str) -> None:
    config = ParallelConfig(observer="noop", max_workers=16)
    await process_parallel(range(CHILD_ITEMS), yielding, config=config, store=store, run_id=run_id)


async def fan_out_in_a_node(store: CheckpointStore, run_id: str) -> None:
    graph = StateGraph(GraphConfig(name="fan", observer="noop"), store=store)
    config = ParallelConfig(observer="noop", max_workers=16)

    def add_up(state: State, result: ParallelResult[int, int]) -> State:
        return state.set("sum", sum(result.results))

    node = parallel_node(yielding, items=range(CHILD_ITEMS), aggregate=add_up, config=config)
    graph.add_node("fan", node)
    graph.set_entry_point("fan")
    graph.set_exit_point("fan")
    await graph.execute(State(), run_id=run_id)


async def repeat_in_sqlite(folder: Folder, run: Callable[[CheckpointStore, str], Awaitable[None]]) -> float:
    async with SqliteStore(new_file(folder)) as store:
        await run(store, "before")
        start = perf_counter()
        for number in range(CHILD_RUNS):
            await run(store, f"run {number}")
        return perf_counter() - start


def ask_child(folder: Folder, repeat: int) -> list[Row]:
    contenders = [
        Contender("by itself", lambda: trio.run(repeat_in_sqlite, folder, fan_out_alone), Role.OURS),
        Contender(
            "in a node of a graph",
            lambda: trio.run(repeat_in_sqlite, folder, fan_out_in_a_node),
            Role.VARIANT,
            Limit(2),
        ),
    ]
    question = f"f. a fan-out of {CHILD_ITEMS} items in SQLite: the whole run"
    return compare(question, contenders, items=CHILD_RUNS, repeat=repeat)


QUESTIONS: dict[str, Callable[[Folder, int], Iterable[list[Row]]]] = {
    "a": ask_graph,
    "b": lambda folder, repeat: [ask_fan_out(folder, repeat)],
    "c": lambda folder, repeat: [ask_large(folder, repeat)],
    "d": ask_mib,
    "e": lambda folder, repeat: [ask_beginning(folder, repeat)],
    "f": lambda folder, repeat: [ask_child(folder, repeat)],
    "g": ask_postgres,
}


def ask_all(folder: Folder, repeat: int, questions: str) -> Iterable[list[Row]]:
    for question in questions:
        yield from QUESTIONS[question](folder, repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--only", default="".join(QUESTIONS), help="the letters of the questions to ask")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(arguments, ask_all(Path(folder), arguments.repeat, arguments.only), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

"""How many runs a second does a service make, how soon does it wake, and what do runs cost that wait?

    python benchmarks/bench_service.py [--repeat 3] [--json FILE] [--check]

Beside DBOS, which is asked in a process of its own, on the same disk: each run, or workflow, has one step that
does nothing; all are submitted by one client, and the clock stops when the last result is there. DBOS makes as
many at once as there are; the service makes 64, and in a line of its own 16, as it does where nothing is said.
With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import trio
from measuring import (
    About,
    Contender,
    Limit,
    Role,
    Row,
    add_arguments,
    allocated_memory,
    compare,
    is_installed,
    report,
)

from trioflow import (
    GraphConfig,
    ServiceConfig,
    State,
    StateGraph,
    get_checkpoint_store,
    open_service,
    service_client,
    wait_for_signal,
)

SERVER = Path(__file__).parents[1] / "tests" / "postgres_server.py"
RUNS = 200
AT_ONCE = 64
PARKED = 1_000
SIGNALS = 30
POLL = 0.5
LEGEND = "ratio: how much longer a peer takes than the first line of its table"
ABOUT = {
    "a": About(
        "how long a service takes for a run that is submitted to a store, and makes one step that does nothing.",
        "DBOS makes workflows of one step on the same disk, or server, in a process of its own; all are submitted "
        "by one client, and the clock stops when the last result is there.",
    ),
    "b": About(
        "how soon a run goes on that waits for a signal.",
        "the signal is sent over another connection; the clock stops when the result is there.",
    ),
    "c": About(
        "what runs cost that wait for a signal.",
        "processor time of five quiet seconds, and what the allocator has handed out.",
    ),
}

DBOS = """
import sys, time
from dbos import DBOS

DBOS(config={"name": "bench", "system_database_url": sys.argv[1], "log_level": "ERROR"})

@DBOS.step()
def step(number):
    return number

@DBOS.workflow()
def workflow(number):
    return step(number)

DBOS.launch()
DBOS.start_workflow(workflow, -1).get_result()
start = time.perf_counter()
handles = [DBOS.start_workflow(workflow, number) for number in range(int(sys.argv[2]))]
assert [handle.get_result() for handle in handles] == list(range(int(sys.argv[2])))
print(time.perf_counter() - start, flush=True)
DBOS.destroy()
"""


def graph_of(node: Any) -> StateGraph[State]:
    graph = StateGraph(GraphConfig(name="bench", observer="noop"))
    graph.add_node("node", node)
    graph.set_entry_point("node")
    graph.set_exit_point("node")
    return graph


async def same(state: State) -> State:
    return state


async def wait(state: State) -> State:
    return state.set("got", await wait_for_signal("go"))


def service_config(**fields: Any) -> ServiceConfig:
    return ServiceConfig(**({"poll": POLL, "park_after": 0.01, "observer": "noop"} | fields))


async def make_runs(url: str, at_once: int = AT_ONCE) -> float:
    async with get_checkpoint_store(url) as store:
        config = service_config(max_runs=at_once)
        async with open_service(store, [graph_of(same)], config=config) as service:
            await service.result(await service.submit("bench", State()))
            start = perf_counter()
            async with trio.open_nursery() as nursery:
                for number in range(RUNS):
                    nursery.start_soon(make_one, service, f"run {number}")
            return perf_counter() - start


async def make_one(service: Any, run_id: str) -> None:
    await service.submit("bench", State(), run_id=run_id)
    await service.result(run_id)


def make_workflows(url: str) -> float:
    command = [sys.executable, "-c", DBOS, url, str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
    return float(done.stdout.split()[-1])


def ask_runs(where: str, url: Callable[[], str], theirs: Callable[[], str], repeat: int) -> list[Row]:
    peer = (lambda: make_workflows(theirs())) if is_installed("dbos") else None
    rows = compare(
        f"a. {RUNS} runs of one step on {where}: a run",
        [
            Contender("a service", lambda: trio.run(make_runs, url()), Role.OURS),
            Contender("DBOS", peer, Role.PEER, Limit(5, at_least=True)),
            Contender(
                f"a service of {ServiceConfig().max_runs} runs at once",
                lambda: trio.run(make_runs, url(), ServiceConfig().max_runs),
                Role.VARIANT,
            ),
        ],
        items=RUNS,
        repeat=repeat,
    )
    return [*rows, Row(rows[0].question, "a service", 1e6 / (rows[0].value or 1.0), "runs/s")]


async def wake(url: str, seconds: list[float]) -> None:
    """Signal runs of a service that has another connection, and note how long the results take."""
    async with (
        get_checkpoint_store(url) as mine,
        get_checkpoint_store(url) as theirs,
        open_service(theirs, [graph_of(wait)], config=service_config()),
    ):
        client = service_client(mine)
        for number in range(SIGNALS):
            run_id = f"run {number}"
            await client.submit("bench", State(), run_id=run_id)
            while (await mine.look(run_id)).status != "parked":  # noqa: ASYNC110 - the store says it
                await trio.sleep(0.02)
            await trio.sleep(0.05)
            start = perf_counter()
            await client.signal(run_id, "go", 1)
            await client.result(run_id)
            seconds.append(perf_counter() - start)


def ask_wake_up(where: str, url: str, limit: float) -> list[Row]:
    seconds: list[float] = []
    trio.run(wake, url, seconds)
    question = f"b. from a signal to the result of the run that waited for it, on {where}"
    return [Row(question, "median", 1e3 * statistics.median(seconds), "ms", limit=Limit(limit))]


async def park(url: str) -> tuple[float, float]:
    """Return the share of a core that parked runs take, and the bytes that each of them keeps in memory."""
    async with (
        get_checkpoint_store(url) as store,
        open_service(store, [graph_of(wait)], config=service_config()) as service,
    ):
        await service.submit("bench", State())
        await trio.sleep(1.0)
        before = allocated_memory()
        for number in range(PARKED):
            await service.submit("bench", State(), run_id=f"run {number}")
        while (await store.look(f"run {PARKED - 1}")).status != "parked":  # noqa: ASYNC110 - the store says it
            await trio.sleep(0.1)
        await trio.sleep(1.0)
        kept = (allocated_memory() - before) / PARKED
        processor, wall = time.process_time(), perf_counter()
        await trio.sleep(5.0)
        return 100 * (time.process_time() - processor) / (perf_counter() - wall), kept


def ask_parked(url: str) -> list[Row]:
    share, kept = trio.run(park, url)
    question = f"c. {PARKED:,} parked runs, on SQLite"
    return [
        Row(question, "of a core", share, "%", limit=Limit(1)),
        Row(question, "each, in memory", kept, "bytes", limit=Limit(1_024)),
    ]


def ask_all(folder: Path, repeat: int) -> Iterable[list[Row]]:
    numbers = count()

    def new_file() -> str:
        return f"sqlite:///{folder / f'{next(numbers)}.db'}"

    yield ask_runs("SQLite", new_file, new_file, repeat)
    yield ask_wake_up("SQLite", new_file(), 1e3 * POLL + 50)
    yield ask_parked(new_file())
    yield from ask_on_postgres(repeat)


def ask_on_postgres(repeat: int) -> Iterable[list[Row]]:
    spec = importlib.util.spec_from_file_location("postgres_server", SERVER)
    server_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server_module)
    if (why := server_module.why_not()) is not None:
        print(f"\nPostgreSQL: {why}")
        return
    with ExitStack() as stack:
        server = server_module.Server(settings=("fsync = on", "full_page_writes = on"))
        stack.callback(server.remove)
        server.make()
        server.start()
        yield ask_runs("PostgreSQL", server.url, partial(their_database, server, count()), repeat)
        yield ask_wake_up("PostgreSQL", server.url(), 50)


def their_database(server: Any, numbers: "count[int]") -> str:
    """Return the URL of a new database for DBOS, which makes a schema of its own."""
    name = f"dbos_{next(numbers)}"
    server.ask(f"CREATE DATABASE {name}")
    return server.url("public").partition("/postgres?")[0] + f"/{name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(arguments, ask_all(Path(folder), arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

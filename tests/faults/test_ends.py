"""The disk fails, or is full, at any write of a run, its end above all: what was paid for is kept, or in the error.

`TRIOFLOW_FAILURES` is at how many writes of each run the disk fails; 0 is at each of them.
"""

import os
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise

import apsw
import pytest
import trio

from trioflow import (
    CheckpointConfig,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ExecutionError,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    chain_node,
    current_run,
    graph_node,
    parallel_node,
    process_chain,
    process_parallel,
)
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.config import ChainConfig

FAILURES = int(os.environ.get("TRIOFLOW_FAILURES", "6"))
ITEMS = 6


class Disk(apsw.VFS):
    """A disk on which, while `used`, the `failing_at`-th write or sync fails, and those after it if it `stays` so."""

    def __init__(self):
        super().__init__("failing", "")
        self.count, self.failing_at, self.stays, self.used = 0, 0, False, True

    @contextmanager
    def failing(self, failing_at, *, stays):
        self.count, self.failing_at, self.stays, self.used = 0, failing_at, stays, True
        yield
        self.used = False

    def xOpen(self, name, flags):
        return DiskFile(self, name, flags)

    def check(self):
        self.count += 1
        if self.used and 0 < self.failing_at <= self.count and (self.stays or self.count == self.failing_at):
            raise apsw.FullError("the disk is full") if self.stays else apsw.IOError("failed")


class DiskFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        super().__init__("", name, flags)  # of the default VFS
        self.disk = disk

    def xWrite(self, data, offset):
        self.disk.check()
        super().xWrite(data, offset)

    def xSync(self, flags):
        self.disk.check()
        super().xSync(flags)


@pytest.fixture
def disk(monkeypatch):
    disk, original = Disk(), apsw.Connection

    def connect(name, **options):
        return original(name, vfs="failing" if disk.used else None, **options)

    monkeypatch.setattr(apsw, "Connection", connect)
    yield disk
    disk.unregister()


class Calls(Counter):
    """How often each call returned, by its run and its place there."""

    async def note(self):
        await trio.lowlevel.checkpoint()
        here = current_run()
        self[here.run_id, here.index if here.kind == "parallel" else here.step] += 1

    async def number(self, item):
        await self.note()
        return item + 1

    async def fold(self, item, state):
        await self.note()
        return state.set("value", state["value"] * 3 + item)

    async def node(self, state):
        await self.note()
        return state.set("value", state["value"] * 5 + 1)


def graph_of(calls, checkpoint, store, level=0):
    graph = StateGraph(GraphConfig(name=f"level {level}", observer="noop", checkpoint=checkpoint), store=store)
    nodes = {
        "before": calls.node,
        "fan": parallel_node(
            calls.number,
            items=range(ITEMS),
            aggregate=lambda state, result: state.set("value", state["value"] + sum(result.results)),
            config=ParallelConfig(max_workers=2, observer="noop"),
        ),
        "fold": chain_node(calls.fold, items=range(3), config=ChainConfig(observer="noop")),
    }
    if not level:
        inner = graph_of(calls, checkpoint, None, 1)
        nodes["inner"] = graph_node(inner, lambda state: state, lambda _, inner: inner)
    names = [*nodes, "after"]
    for name, node in {**nodes, "after": calls.node}.items():
        graph.add_node(name, node)
    for name, following in pairwise(names):
        graph.add_edge(name, following)
    graph.set_entry_point(names[0])
    graph.set_exit_point(names[-1])
    return graph


async def run_graph(calls, checkpoint, store):
    graph = graph_of(calls, checkpoint, store)
    try:
        return (await graph.resume("run")).state
    except CheckpointNotFoundError:
        return (await graph.execute(State(value=1), run_id="run")).state


async def run_fan_out(calls, checkpoint, store):
    config = ParallelConfig(max_workers=2, observer="noop", checkpoint=checkpoint)
    result = await process_parallel(range(ITEMS), calls.number, config=config, store=store, run_id="run")
    return result.results


async def run_chain(calls, checkpoint, store):
    config = ChainConfig(observer="noop", checkpoint=checkpoint)
    result = await process_chain(range(3), State(value=1), calls.fold, config=config, store=store, run_id="run")
    return result.final


RUNS = {"graph": run_graph, "fan_out": run_fan_out, "chain": run_chain}


@asynccontextmanager
async def opened(path):
    store = SqliteStore(path)
    try:
        yield store
    finally:
        # SQLite closes silently when the disk is full; a VFS in Python makes it raise.
        with suppress(CheckpointStoreError):
            await store.aclose()


async def run_on(path, what, calls, preserve, count=lambda: 0):
    """Return the run's result, and the writes that it took."""
    checkpoint = CheckpointConfig(interval=1, flush_interval=0.01, preserve=preserve)
    async with opened(path) as store:
        return await RUNS[what](calls, checkpoint, store), count()


def spread(count):
    """Return the numbers of the writes to fail at: the last ones, which are the run's end, and some before."""
    if not FAILURES:
        return range(1, count + 1)
    return sorted({*range(max(1, count - 3), count + 1), *range(1, count, max(1, count // FAILURES))})


def store_error_of(error):
    """Return what the store said; where it said that to a run inside a node, the node failed of it."""
    error = error if isinstance(error, CheckpointStoreError) else error.__cause__
    return store_error_of(error) if isinstance(error, ExecutionError) else error


def check_paid(what, error, calls, kept):
    """Each result is in the store, or in the error."""
    if what == "fan_out":
        paid = {("run", index) for index in error.value.indices} if error.value else set()
        assert set(calls) <= kept | paid
    elif what == "chain" and set(calls) - kept:
        state = State(value=1)
        for item in range(len(calls)):
            state = state.set("value", state["value"] * 3 + item)
        assert error.value == state


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("preserve", [True, False], ids=["kept", "forgotten"])
@pytest.mark.parametrize("stays", [True, False], ids=["full", "once"])
@pytest.mark.parametrize("what", RUNS)
async def test_a_disk_that_fails_at_any_write_costs_nothing_paid(
    what, stays, preserve, disk, acknowledged, tmp_path
):
    whole, ends, lost = Calls(), Counter(), 0
    with disk.failing(0, stays=stays):
        expected, count = await run_on(tmp_path / "whole.db", what, whole, preserve, lambda: disk.count)
    for failing_at in spread(count):
        path, calls, again, error = tmp_path / f"{failing_at}.db", Calls(), Calls(), None
        with disk.failing(failing_at, stays=stays):
            try:
                assert (await run_on(path, what, calls, preserve))[0] == expected
            except (CheckpointStoreError, ExecutionError) as caught:
                error = store_error_of(caught)
        ends["with its result" if error is None else "with a CheckpointStoreError"] += 1
        if error is None:
            continue
        kept = await acknowledged(path)
        check_paid(what, error, calls, kept)
        assert (await run_on(path, what, again, preserve))[0] == expected
        assert not kept & set(again), "a call was made again whose result was written"
        assert set(calls) | set(again) == set(whole)
        lost += (calls & again).total()
    print(f"{what}: the disk failed at {ends.total()} of {count} writes, and the run ended {dict(ends)}; {lost} again")
    assert ends["with a CheckpointStoreError"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounting a small disk needs Linux")
@pytest.mark.parametrize("preserve", [True, False], ids=["kept", "forgotten"])
@pytest.mark.parametrize("what", RUNS)
async def test_a_disk_that_is_full_at_the_end_costs_nothing_paid(what, preserve, small_disk, acknowledged, tmp_path):
    whole = Calls()
    expected, _ = await run_on(tmp_path / "whole.db", what, whole, preserve)
    calls, again = FillingCalls(small_disk, whole.total()), Calls()
    with pytest.raises((CheckpointStoreError, ExecutionError), match="the disk is full|failed") as caught:
        await run_on(small_disk / "runs.db", what, calls, preserve)
    (small_disk / "ballast").unlink()
    kept = await acknowledged(small_disk / "runs.db")
    check_paid(what, store_error_of(caught.value), calls, kept)
    assert (await run_on(small_disk / "runs.db", what, again, preserve))[0] == expected
    assert not kept & set(again)
    # What a fan-out of two workers has in hand; a graph or chain has one call in hand.
    assert (calls & again).total() <= 2


class FillingCalls(Calls):
    """Fills the disk in the last call."""

    def __init__(self, disk, last):
        super().__init__()
        self.disk, self.last = disk, last

    async def note(self):
        await super().note()
        # Whatever was made before is written.
        await trio.sleep(0.03)
        if self.total() >= self.last:
            with suppress(OSError), (self.disk / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(1024))


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)

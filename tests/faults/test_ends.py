"""The disk fails, or is full, at any write of a run, its end above all: what was paid for is kept, or in the error.

`TRIOFLOW_FAILURES` is at how many writes of each run the disk fails; 0 is at each of them.
"""

import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import apsw
import pytest
import trio

from trioflow import (
    CheckpointConfig,
    CheckpointNotFoundError,
    CheckpointStoreError,
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
    """A disk on which the `failing_at`-th write or sync fails, and those after it while `stays`."""

    def __init__(self):
        super().__init__("failing", "")
        self.heal()

    def heal(self):
        self.count, self.failing_at, self.stays = 0, None, False

    def xOpen(self, name, flags):
        return DiskFile(self, name, flags)

    def check(self):
        self.count += 1
        if self.failing_at is not None and (
            self.count == self.failing_at or (self.stays and self.count > self.failing_at)
        ):
            raise apsw.FullError("disk full" if self.stays else "write failed")


class DiskFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        super().__init__("", name, flags)
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
    monkeypatch.setattr(apsw, "Connection", lambda name: original(name, vfs="failing"))
    yield disk
    disk.unregister()


class Calls(Counter):
    """How often each call returned, by the key of its work."""

    async def number(self, item):
        await trio.lowlevel.checkpoint()
        self[current_run().key] += 1
        return item + 1

    async def fold(self, item, state):
        await trio.lowlevel.checkpoint()
        self[current_run().key] += 1
        return state.set("value", state["value"] * 3 + item)

    async def node(self, state):
        await trio.lowlevel.checkpoint()
        self[current_run().key] += 1
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
    for name, following in zip(names, names[1:], strict=False):
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


async def acknowledged(path):
    """Return how many results the store has, the steps of pattern nodes among them."""
    if not path.exists():
        return 0
    async with SqliteStore(path) as store:
        runs = await store.list_runs()
        return sum(run.items if run.kind == "parallel" else run.step for run in runs)


async def run_on(path, what, calls, preserve):
    async with SqliteStore(path) as store:
        checkpoint = CheckpointConfig(interval=1, flush_interval=0.01, preserve=preserve)
        return await RUNS[what](calls, checkpoint, store)


def spread(count):
    """Return the numbers of writes to fail at: all of the last ten, which are the run's end, and some before."""
    if not FAILURES:
        return range(1, count + 1)
    return sorted({*range(max(1, count - 3), count + 1), *range(1, count, max(1, count // FAILURES))})


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("preserve", [True, False], ids=["kept", "forgotten"])
@pytest.mark.parametrize("stays", [True, False], ids=["full", "once"])
@pytest.mark.parametrize("what", RUNS)
async def test_a_disk_that_fails_at_any_write_costs_nothing_that_was_kept(what, stays, preserve, disk, tmp_path):
    whole = Calls()
    expected = await run_on(tmp_path / "whole.db", what, whole, preserve)
    ends = Counter()
    for failing_at in spread(disk.count):
        path, calls = tmp_path / f"{failing_at}.db", Calls()
        disk.heal()
        disk.failing_at, disk.stays = failing_at, stays
        try:
            assert await run_on(path, what, calls, preserve) == expected
            ends["result"] += 1
            disk.heal()
            continue
        except CheckpointStoreError:
            ends["error"] += 1
        disk.heal()
        kept, returned = await acknowledged(path), calls.total()
        again = Calls()
        assert await run_on(path, what, again, preserve) == expected
        for key in again & calls:
            assert kept < returned, "a call was made again whose result was written"
            assert key in whole
        assert set(calls) | set(again) == set(whole)
    print(f"{what}: the disk failed at {ends.total()} of {disk.count} writes: {dict(ends)}")
    assert ends["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounting a small disk needs Linux")
@pytest.mark.parametrize("preserve", [True, False], ids=["kept", "forgotten"])
@pytest.mark.parametrize("what", RUNS)
async def test_a_disk_that_is_full_at_the_end_costs_nothing(what, preserve, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    try:
        calls = FillingCalls(disk, {"graph": 24, "fan_out": ITEMS, "chain": 3}[what])
        with suppress(CheckpointStoreError):
            await run_on(disk / "runs.db", what, calls, preserve)
            assert calls.total()
        made = calls.total()
        (disk / "ballast").unlink()
        again = Calls()
        await run_on(disk / "runs.db", what, again, preserve)
        assert set(calls) | set(again)
        assert made
    finally:
        subprocess.run(["umount", str(disk)], check=True)

"""Services on one SQLite file, each with a connection of its own, in real time: leases, wake-ups and errors."""

import time
from contextlib import AsyncExitStack

import apsw
import pytest
import trio

from trioflow import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ExecutionError,
    RemoteError,
    ServiceConfig,
    State,
    durable_sleep,
    open_service,
    service_client,
    wait_for_signal,
)
from trioflow.checkpoint import _service_rows
from trioflow.checkpoint.service_protocol import LeaseRequest, Release
from trioflow.checkpoint.sqlite import SqliteStore

CONFIG = ServiceConfig(observer="noop", poll=0.05, lease=1.0, park_after=0.1, max_runs=2, limits={"work": 3})


async def test_several_serve_one_file(tmp_path, graph_of, nothing):
    calls, running, most = [], set(), 0

    async def first(state):
        nonlocal most
        calls.append((state["id"], "first"))
        running.add(state["id"])
        most = max(most, len(running))
        await trio.sleep(0.02)
        running.discard(state["id"])
        return state

    async def second(state):
        await durable_sleep(0.2)
        got = await wait_for_signal("go")
        return state.set("got", got)

    path = tmp_path / "runs.db"
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(SqliteStore(path)) for _ in range(4)]
        for store in stores[1:]:
            await stack.enter_async_context(open_service(store, [graph_of(first, second)], config=CONFIG))
        client = service_client(stores[0])
        for number in range(12):
            await client.submit("work", State(id=number), run_id=f"r{number}")
        for number in range(12):
            await client.signal(f"r{number}", "go", number)
        with trio.fail_after(30):
            states = [(await client.result(f"r{number}")).state for number in range(12)]
    assert states == [State(id=number, got=number) for number in range(12)]
    assert sorted(calls) == [(number, "first") for number in range(12)]
    assert most <= 3


async def test_a_signal_wakes_within_a_poll(tmp_path, graph_of, nothing):
    async def work(state):
        return state.set("got", await wait_for_signal("go"))

    path = tmp_path / "runs.db"
    async with SqliteStore(path) as mine, SqliteStore(path) as theirs, open_service(theirs, [graph_of(work)], config=CONFIG):
        client = service_client(mine)
        await client.submit("work", nothing, run_id="r")
        with trio.fail_after(10):
            while (await mine.look("r")).status != "parked":  # noqa: ASYNC110 - it is another's to say
                await trio.sleep(0.01)
        sent = time.monotonic()
        await client.signal("r", "go", 1)
        await client.result("r")
    # A poll of each side, and what two commits may take on a busy machine.
    assert time.monotonic() - sent < 2 * CONFIG.poll + 1.0


async def test_who_waits_for_a_run_that_this_process_deletes_is_told(tmp_path, graph_of, nothing):
    async with SqliteStore(tmp_path / "runs.db") as store:
        client = service_client(store)
        await client.submit("work", nothing, run_id="r", delay=60)

        async def wait():
            with pytest.raises(CheckpointNotFoundError):
                await client.result("r")

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.05)
                await store.delete("r")


async def test_a_node_that_holds_the_loop_loses_its_run(tmp_path, graph_of, nothing):
    calls = []

    async def work(state):
        calls.append(1)
        if len(calls) == 1:
            # Longer than the lease, and no other task can say that this process is alive.
            time.sleep(1.2)  # noqa: ASYNC251 - what must not be done
            assert take_over() == ["r"]
        return state

    def take_over():
        """Be another process, which finds the lease ended, and lets go of the run again."""
        db = apsw.Connection(str(path))
        db.set_busy_timeout(5_000)
        request = LeaseRequest(graphs=["work"], room=9, limits={}, lease=30.0)
        taken = _service_rows.lease(db, request, time.time()).taken
        for lease in taken:
            _service_rows.release(db, lease.run_id, lease.epoch, Release(status="queued", delay=0.0), time.time())
        db.close()
        return [lease.run_id for lease in taken]

    path = tmp_path / "runs.db"
    async with SqliteStore(path) as store, open_service(store, [graph_of(work)], config=CONFIG) as service:
        await service.submit("work", nothing, run_id="r")
        with trio.fail_after(20):
            assert (await service.result("r")).status == "completed"
    assert calls == [1, 1]


async def test_a_failed_run_is_raised_by_who_reads_the_file_later(tmp_path, graph_of, nothing):
    async def work(state):
        raise KeyError("no such page")

    path, graph = tmp_path / "runs.db", graph_of(work)
    async with SqliteStore(path) as store, open_service(store, [graph], config=CONFIG) as service:
        await service.submit("work", nothing, run_id="r")
        with pytest.raises(ExecutionError):
            await service.result("r")
    async with SqliteStore(path, read_only=True) as store:
        with pytest.raises(ExecutionError) as caught:
            await service_client(store, [graph]).result("r")
        assert isinstance(caught.value.__cause__, RemoteError)
        assert caught.value.__cause__.type == "KeyError"
        with pytest.raises(CheckpointStoreError, match="read only"):
            await service_client(store, [graph]).submit("work", nothing)


async def test_what_is_damaged_is_seen_and_blocks_no_other(tmp_path, graph_of, nothing):
    async def work(state):
        return state.set("got", await wait_for_signal("go"))

    path = tmp_path / "runs.db"
    async with SqliteStore(path) as store:
        client = service_client(store)
        for run_id in ("row", "signal", "outcome", "whole"):
            await client.submit("work", nothing, run_id=run_id)
            await client.signal(run_id, "go", 1)
    db = apsw.Connection(str(path))
    db.execute("UPDATE runs SET created_at = 1 WHERE run_id = 'row'")
    db.execute("UPDATE signals SET payload = x'05' WHERE run = (SELECT number FROM runs WHERE run_id = 'signal')")
    async with SqliteStore(path) as store, open_service(store, [graph_of(work)], config=CONFIG) as service:
        with trio.fail_after(10):
            await service.result("whole")
            await service.result("outcome")
            while (await store.look("signal")).status != "blocked":  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        found = {run.run_id: run.status for run in await store.list_runs()}
        assert found == {"row": "corrupt", "signal": "blocked", "outcome": "completed", "whole": "completed"}
        db.execute("UPDATE service_runs SET outcome = x'80' WHERE run = (SELECT number FROM runs WHERE run_id = 'outcome')")
        with pytest.raises(CheckpointCorruptError, match="what it ended with"):
            await service.result("outcome")
    db.close()

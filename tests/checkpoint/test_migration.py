"""A file of the released version: read as it was, made a newer one in one transaction, and gone on with.

`data/schema-1.db` was made by the code of schema 1: a graph that completed and is preserved, one that is paused, a
chain that failed at its third step, and a fan-out of five dicts whose fourth failed.
"""

import shutil
from pathlib import Path

import apsw
import pytest
import trio

from trioflow import (
    CheckpointConfig,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    pause,
    process_chain,
    process_parallel,
)
from trioflow.checkpoint import _schema
from trioflow.checkpoint.codec import is_marked
from trioflow.checkpoint.session import load_verified
from trioflow.checkpoint.sqlite import SqliteStore

RUNS = [("graph-1", "graph", "completed", 0), ("paused-1", "graph", "paused", 0), ("chain-1", "chain", "failed", 0), ("fan-1", "parallel", "failed", 3)]


@pytest.fixture
def path(tmp_path):
    return Path(shutil.copy(Path(__file__).parent / "data" / "schema-1.db", tmp_path / "runs.db"))


def version(path):
    db = apsw.Connection(str(path))
    try:
        return db.pragma("user_version")
    finally:
        db.close()


async def test_all_that_was_kept_is_there(path):
    assert version(path) == 1
    async with SqliteStore(path) as store:
        assert [(run.run_id, run.kind, run.status, run.items) for run in await store.list_runs()] == RUNS
        assert {(run.parent, run.forked_from) for run in await store.list_runs()} == {(None, None)}
        for run_id, kind, status, items in RUNS:
            found = await load_verified(store, run_id)
            assert (found.kind, found.status, found.version) == (kind, status, 1)
            assert len(await store.load_items(run_id)) == items
            for info in await store.history(run_id):
                assert (await load_verified(store, run_id, info.step)).step == info.step
    assert version(path) == len(_schema.MIGRATIONS)
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]


async def test_a_row_of_before_that_was_changed_is_seen(path):
    await SqliteStore(path).list_runs()
    db = apsw.Connection(str(path))
    db.execute("UPDATE checkpoints SET kind = 'graph' WHERE graph = 'a chain'")
    db.close()
    async with SqliteStore(path) as store:
        assert [run.status for run in await store.list_runs()] == ["completed", "paused", "corrupt", "failed"]


def test_a_migration_that_fails_leaves_the_file_as_it_was(path):
    broken = (*_schema.MIGRATIONS, "CREATE TABLE more(x); SELECT broken();")
    db = apsw.Connection(str(path))
    with pytest.raises(apsw.SQLError):
        _schema.prepare(db, str(path), broken)
    assert db.pragma("user_version") == 1
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables >= {"runs", "checkpoints", "items"}
    assert "more" not in tables
    assert "steps" not in tables
    db.close()


async def test_looking_at_an_older_file_leaves_it_as_it_is(path):
    before = path.read_bytes()
    async with SqliteStore(path, read_only=True) as store:
        assert [(run.run_id, run.kind, run.status, run.items) for run in await store.list_runs()] == RUNS
        assert (await load_verified(store, "chain-1")).step == 2
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]


async def test_marks_of_items_are_known(path):
    import msgspec

    async with SqliteStore(path) as store:
        items = await store.load_items("fan-1")
    for index, record in items.items():
        mark, _, _ = msgspec.msgpack.decode(record)
        assert is_marked({"n": int(index), "b": 0}, mark)


async def test_a_paused_graph_and_a_failed_chain_go_on(path):
    async with SqliteStore(path) as store:
        config = GraphConfig(name="asks", observer="noop", checkpoint=CheckpointConfig(interval=1, preserve=True))
        graph = StateGraph(config, store=store)

        @graph.node
        async def first(state):
            raise AssertionError("it ran before")

        @graph.node
        async def second(state):
            if "answer" not in state:
                pause(None)
            return state

        graph.add_edge("first", "second")
        graph.set_entry_point("first")
        graph.set_exit_point("second")
        result = await graph.resume("paused-1", update=lambda state: state.set("answer", 42))
        assert result.state == State(n=6, answer=42)

        async def add(item, total):
            assert item > 2
            return total + item

        assert (await process_chain([1, 2, 3, 4], 0, add, store=store, run_id="chain-1")).final == 10



async def test_a_fan_out_that_was_not_done_calls_only_what_had_not_succeeded(path):
    calls = []

    async def work(item):
        calls.append(item["n"])
        await trio.lowlevel.checkpoint()
        return item["n"]

    items = [{"n": number, "b": 0} for number in range(5)]
    async with SqliteStore(path) as store:
        kept = await store.load_items("fan-1")
        config = ParallelConfig(observer="noop", max_workers=1)
        result = await process_parallel(items, work, config=config, store=store, run_id="fan-1")
        assert calls == [number for number in range(5) if str(number) not in kept]
        assert len(result.results) == 5
        assert "fan-1" not in {run.run_id for run in await store.list_runs()}


KEPT_2 = [("graph-2", "completed", None, None), ("fork-2", "completed", None, "graph-2"), ("outer-2", "paused", None, None), ("outer-2..0/fan", "completed", "outer-2", None)]


async def test_a_file_of_schema_2_is_read_and_serves(tmp_path):
    from trioflow.checkpoint.service_protocol import LeaseRequest

    path = Path(shutil.copy(Path(__file__).parent / "data" / "schema-2.db", tmp_path / "runs.db"))
    assert version(path) == 2
    async with SqliteStore(path) as store:
        infos = await store.list_runs()
        assert [(run.run_id, run.status, run.parent, run.forked_from) for run in infos] == KEPT_2
        assert {run.reason for run in infos} == {None}
        # None of them was submitted, so none of them is given to a service.
        request = LeaseRequest(graphs=["kept", "outer"], room=9, limits={}, lease=30.0)
        assert (await store.lease(request)).taken == []
        await store.put_signal("outer-2", "go", b"1")
        assert len(await store.load_items("outer-2..0/fan")) == 3
    assert version(path) == len(_schema.MIGRATIONS) == 3

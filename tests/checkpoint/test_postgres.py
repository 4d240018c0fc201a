"""The PostgreSQL store: the conformance suite on a real server, damage, forms, secrets, bounds and cancellation."""

import logging
import math
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
import time
import traceback
from contextlib import asynccontextmanager

import pytest
import trio
from loguru import logger

from trioflow import (
    Checkpoint,
    CheckpointConfig,
    CheckpointConflictError,
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConfigError,
    get_checkpoint_store,
    process_parallel,
)
from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.registry import open_to_look
from trioflow.checkpoint.service_protocol import LeaseRequest
from trioflow.testing import CheckpointStoreConformance, ServiceStoreConformance

pytest.importorskip("psycopg", reason="psycopg is not installed")

from psycopg.sql import SQL

from trioflow.checkpoint import _postgres_rows, _postgres_schema, _postgres_service
from trioflow.checkpoint._postgres_link import Bounds, Patience
from trioflow.checkpoint.postgres import PostgresStore


class TestPostgresStore(CheckpointStoreConformance, ServiceStoreConformance):
    durable = True

    @pytest.fixture(autouse=True)
    def place(self, postgres_server):
        self.url = postgres_server.url()

    @asynccontextmanager
    async def open_store(self):
        async with PostgresStore(self.url) as store:
            yield store


@pytest.fixture
def schema(postgres_server):
    return postgres_server.new_schema()


@pytest.fixture
def url(postgres_server, schema):
    return postgres_server.url(schema)


@pytest.fixture
async def store(url):
    async with PostgresStore(url) as opened:
        yield opened


@pytest.fixture
def ask(postgres_server, schema):
    """Return what asks the database in the store's schema."""

    def ask_there(query, values=None):
        return postgres_server.ask(query, values, schema)

    return ask_there


@pytest.fixture
def bounds(monkeypatch):
    """Return what makes stores wait for less."""

    def set_bounds(**seconds):
        monkeypatch.setattr(PostgresStore, "_bounds", Bounds(**seconds))

    return set_bounds


def checkpoint(run_id="run", step=1, state=b"state", **fields):
    known = {
        "run_id": run_id, "graph": "g", "step": step, "node": f"n{step}", "next_node": f"n{step + 1}",
        "iterations": step, "state": state, "status": "running", "pause": None, "created_at": float(step),
    }
    return sealed(Checkpoint(**{**known, **fields}))


# Values


@pytest.mark.parametrize("name", ["a\0b", "x" * 1_001, "é" * 50_000, "", "\u00e9", "e\u0301"])
async def test_any_text_names_a_run_and_an_item(store, name):
    epoch = await store.claim(name)
    await store.save(checkpoint(name, graph=name, node=name, forked_from=name), epoch)
    await store.save_items(name, epoch, [(name, b"value"), ("other", b"")])
    await store.save_items(name, epoch, [(name, b"newer")])
    assert await store.load_items(name) == {name: b"newer", "other": b""}
    assert await store.load(name) == checkpoint(name, graph=name, node=name, forked_from=name)
    (run,) = await store.list_runs()
    assert (run.run_id, run.graph, run.items, run.forked_from) == (name, name, 2, name)


async def test_names_that_are_long_and_differ_at_their_end_are_two(store):
    epoch = await store.claim("run")
    await store.save_items("run", epoch, [("x" * 5_000 + end, end.encode()) for end in "ab"])
    assert await store.load_items("run") == {"x" * 5_000 + "a": b"a", "x" * 5_000 + "b": b"b"}


@pytest.mark.parametrize("created_at", [0.1, 1e-300, math.inf, 1_700_000_000.123456, 7])
async def test_times_come_back_as_they_were(store, created_at):
    await store.save(checkpoint(created_at=created_at), await store.claim("run"))
    assert (await store.load("run")).created_at == created_at
    assert [info.created_at for info in await store.history("run")] == [created_at]


@pytest.mark.parametrize("fields", [{"step": 2**63}, {"iterations": 2**70}, {"node": "\ud800"}])
async def test_what_no_column_holds_is_refused_and_nothing_is_half_written(store, fields):
    epoch = await store.claim("run")
    odd = Checkpoint(**{name: getattr(checkpoint(), name) for name in Checkpoint.__struct_fields__} | fields)
    with pytest.raises(CheckpointStoreError):
        await store.save(odd, epoch)
    assert await store.history("run") == []
    await store.save(checkpoint(), epoch)


async def test_a_step_that_no_column_holds_is_not_there(store):
    await store.save(checkpoint(), await store.claim("run"))
    with pytest.raises(CheckpointNotFoundError):
        await store.load("run", 2**70)


async def test_a_batch_is_one_round_trip(store, monkeypatch):
    epoch = await store.claim("run")
    waits = []
    session = store._link._session
    monkeypatch.setattr(session, "wait", lambda gen, *args, _wait=session.wait, **kw: waits.append(1) or _wait(gen, *args, **kw))
    await store.save_items("run", epoch, [(str(number), b"v") for number in range(1_000)])
    await store.save(checkpoint(), epoch)
    assert len(waits) == 2


async def test_items_that_are_saved_again_are_counted_once(store, ask):
    epoch = await store.claim("run")
    await store.save_items("run", epoch, [("a", b"1"), ("b", b"2")])
    await store.save_items("run", epoch, [("b", b"3"), ("c", b"4"), ("c", b"5")])
    await store.save_items("run", epoch, [])
    assert ask("SELECT items FROM trioflow_runs") == [(3,)]
    assert await store.load_items("run") == {"a": b"1", "b": b"3", "c": b"5"}


# Sessions


async def test_a_session_is_durable_and_bounded(postgres_server, schema, ask):
    # The server may have been told otherwise, and the user too.
    ask("CREATE ROLE hasty LOGIN SUPERUSER PASSWORD 'x'")
    for setting in ("synchronous_commit = off", "default_transaction_isolation = serializable", "default_transaction_read_only = on"):
        ask(f"SET default_transaction_read_only = off; ALTER ROLE hasty SET {setting}")
    url = f"postgresql://hasty:x@127.0.0.1:{postgres_server.port}/postgres?options=-csearch_path%3D{schema}"
    async with PostgresStore(url) as store:
        await store.claim("run")
        shown = {}
        for name in ("synchronous_commit", "lock_timeout", "statement_timeout", "transaction_isolation", "search_path"):
            shown[name] = store._link._session.execute(f"SHOW {name}").fetchone()[0]
    assert shown == {
        "synchronous_commit": "on", "lock_timeout": "10s", "statement_timeout": "30s",
        "transaction_isolation": "read committed", "search_path": schema,
    }


async def test_a_stronger_promise_is_kept(postgres_server, schema):
    url = postgres_server.url(schema) + "%20-csynchronous_commit%3Dremote_apply"
    async with PostgresStore(url) as store:
        await store.claim("run")
        assert store._link._session.execute("SHOW synchronous_commit").fetchone() == ("remote_apply",)


async def test_a_lock_that_another_session_has_is_waited_for_within_bounds(postgres_server, schema, bounds):
    bounds(lock=0.2)
    async with PostgresStore(postgres_server.url(schema)) as store:
        epoch = await store.claim("run")
        with postgres_server.connect(options=f"-csearch_path={schema}") as other, other.transaction():
            other.execute("SELECT 1 FROM trioflow_runs FOR UPDATE")
            with pytest.raises(CheckpointStoreError, match="is locked by another session for too long"):
                await store.save_items("run", epoch, [("a", b"1")])
        await store.save_items("run", epoch, [("a", b"1")])
        assert await store.load_items("run") == {"a": b"1"}


async def test_a_statement_takes_so_long_and_no_longer(store, bounds, url):
    bounds(statement=0.1)
    async with PostgresStore(url) as hasty:
        await hasty.claim("run")
        with pytest.raises(CheckpointStoreError, match="took too long"):
            await hasty._read(lambda db: db.execute("SELECT pg_sleep(5)"))
        await hasty.claim("run")


async def test_vacuum_gives_space_back_and_keeps_the_bounds(store, ask):
    epoch = await store.claim("run")
    await store.save_items("run", epoch, [(str(n), bytes(500)) for n in range(1_000)])
    keep = await store.claim("keep")
    await store.save_items("keep", keep, [("a", b"1")])
    size = "SELECT pg_total_relation_size('trioflow_items')"
    before = ask(size)
    await store.delete("run")
    await store.vacuum()
    assert ask(size)[0][0] < before[0][0] / 4
    assert await store.load_items("keep") == {"a": b"1"}
    assert store._link._session.execute("SHOW statement_timeout").fetchone() == ("30s",)


async def test_a_store_that_is_told_to_look_writes_nothing(url, ask):
    async with PostgresStore(url, read_only=True) as looking:
        with pytest.raises(CheckpointStoreError, match="no tables of trioflow"):
            await looking.list_runs()
    assert ask("SELECT to_regclass('trioflow_runs')::text") == [(None,)]
    async with PostgresStore(url) as store:
        await store.save(checkpoint(), await store.claim("run"))
    looking = open_to_look(url)
    try:
        assert [run.run_id for run in await looking.list_runs()] == ["run"]
        for write in (looking.claim("run"), looking.delete("run"), looking.vacuum()):
            with pytest.raises(CheckpointStoreError, match="read only"):
                await write
        with pytest.raises(CheckpointStoreError, match="is a standby, or is read-only"):
            await looking._read(lambda db: db.execute("DELETE FROM trioflow_runs"))
        assert (await looking.load("run")).step == 1
    finally:
        await looking.aclose()


# Forms


async def test_newer_tables_are_refused_untouched(store, url, ask):
    await store.claim("run")
    ask("UPDATE trioflow_schema SET version = 99")
    async with PostgresStore(url) as later:
        with pytest.raises(CheckpointStoreError, match="form 99.*upgrade trioflow"):
            await later.claim("run")
    assert ask("SELECT version FROM trioflow_schema") == [(99,)]
    assert ask("SELECT count(*) FROM trioflow_runs") == [(1,)]


def more_migrations(*scripts):
    return (*_postgres_schema.MIGRATIONS, *map(SQL, scripts))


async def test_older_tables_are_brought_up_to_date_in_one_transaction(store, postgres_server, schema, ask):
    await store.claim("run")
    now = len(_postgres_schema.MIGRATIONS)
    with postgres_server.connect(options=f"-csearch_path={schema}") as db:
        with pytest.raises(Exception, match="does not exist"):
            _postgres_schema.prepare(
                db, migrate=True, migrations=more_migrations("CREATE TABLE one(a int)", "DROP TABLE nothing_of_this_name")
            )
        assert ask("SELECT to_regclass('one')::text, (SELECT version FROM trioflow_schema)") == [(None, now)]
        newer = more_migrations("CREATE TABLE one(a int)")
        with pytest.raises(CheckpointStoreError, match=f"tables of form {now}"):
            _postgres_schema.prepare(db, migrate=False, migrations=newer)
        _postgres_schema.prepare(db, migrate=True, migrations=newer)
        _postgres_schema.prepare(db, migrate=True, migrations=newer)
    assert ask("SELECT to_regclass('one')::text, (SELECT version FROM trioflow_schema)") == [("one", now + 1)]


async def test_many_that_open_a_new_database_at_once_make_one_set_of_tables(url):
    epochs = []

    async def claim():
        async with PostgresStore(url) as store:
            epochs.append(await store.claim("run"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(claim)
    assert len(set(epochs)) == 8


async def test_an_old_server_is_refused(store, monkeypatch):
    monkeypatch.setattr("trioflow.checkpoint._postgres_link.OLDEST_SERVER", 99)
    with pytest.raises(CheckpointStoreError, match=r"is PostgreSQL 1\d: 99 or newer is needed"):
        await store.claim("run")


async def test_a_user_who_may_not_make_tables_is_told(postgres_server, schema, ask):
    ask("CREATE ROLE guest LOGIN PASSWORD 'x'; ALTER ROLE guest SET search_path = public; REVOKE CREATE ON SCHEMA public FROM public")
    started = time.monotonic()
    async with PostgresStore(f"postgresql://guest:x@127.0.0.1:{postgres_server.port}/postgres") as store:
        with pytest.raises(CheckpointStoreError, match="may not be used as it must be by this user"):
            await store.claim("run")
    assert time.monotonic() - started < 5


# Damage


async def fill(store):
    epoch = await store.claim("run")
    for step in (1, 2):
        await store.save(checkpoint(step=step), epoch)
    await store.save_items("run", epoch, [("a", b"1"), ("b", b"2")])
    await store.save(checkpoint("whole"), await store.claim("whole"))
    return epoch


@pytest.mark.parametrize(
    ("damage", "listed"),
    [
        ("UPDATE trioflow_runs SET epoch = epoch + 1 WHERE name = 'run'", True),
        ("UPDATE trioflow_runs SET last_step = 1 WHERE name = 'run'", True),
        ("UPDATE trioflow_runs SET run_id = '\\xff' WHERE name = 'run'", True),
        ("UPDATE trioflow_steps SET node = 'other' WHERE step = 2", True),
        ("UPDATE trioflow_steps SET node = '\\xff' WHERE step = 2", True),
        ("UPDATE trioflow_steps SET state = 'other' WHERE step = 2", True),
        ("DELETE FROM trioflow_steps WHERE step = 2", True),
        ("UPDATE trioflow_items SET value = 'other' WHERE key = 'a'", False),
        ("UPDATE trioflow_items SET key = '\\xff' WHERE key = 'a'", False),
        ("DELETE FROM trioflow_items WHERE key = 'a'", False),
    ],
)
async def test_damage_is_seen_and_keeps_nobody_from_the_others(store, ask, damage, listed):
    epoch = await fill(store)
    ask(damage)
    seen = {}
    for name, look in {"load": store.load, "items": store.load_items, "history": store.history}.items():
        try:
            seen[name] = await look("run")
        except CheckpointCorruptError as error:
            assert error.run_id == "run"
    assert len(seen) < 3
    if "load" in seen:
        assert seen["load"] == checkpoint(step=2)
    runs = await store.list_runs()
    assert [run.status for run in runs] == ["corrupt" if listed else "running", "running"]
    assert runs[1].run_id == "whole"
    if "trioflow_runs" in damage:
        for write in (store.save(checkpoint(step=3), epoch), store.save_items("run", epoch, [("c", b"3")]), store.claim("run")):
            with pytest.raises((CheckpointCorruptError, CheckpointConflictError)):
                await write
    await store.delete(runs[0].run_id)
    assert [run.run_id for run in await store.list_runs()] == ["whole"]
    await store.save(checkpoint(), await store.claim("run"))


async def test_a_damaged_run_inside_stays_damaged_and_is_taken_all_the_same(store, ask):
    epoch = await store.claim("outer")
    inner = await store.claim("inner", parent=("outer", epoch))
    ask("UPDATE trioflow_runs SET items = 7 WHERE name = 'inner'")
    await store.claim("outer")
    assert ask("SELECT epoch FROM trioflow_runs WHERE name = 'inner'") > [(inner,)]
    with pytest.raises(CheckpointCorruptError):
        await store.load_items("inner")


async def test_a_page_that_cannot_be_read_is_one_corrupt_run(store, postgres_server, schema, ask):
    await fill(store)
    await store.save(checkpoint("torn", state=random.Random(1).randbytes(20_000)), await store.claim("torn"))
    await store.save(checkpoint("after"), await store.claim("after"))
    (path,) = ask("SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'trioflow_steps'::regclass")[0]
    postgres_server.stop()
    os.truncate(postgres_server.data / path, 0)
    postgres_server.start()
    with pytest.raises(CheckpointCorruptError, match="is damaged"):
        await store.load("torn")
    runs = {run.run_id: run.status for run in await store.list_runs()}
    assert runs == {"run": "running", "whole": "running", "torn": "corrupt", "after": "running"}
    await store.delete("torn")
    assert "torn" not in {run.run_id for run in await store.list_runs()}


# Whoever loses the connection


class Lossy:
    """Loses the store's connection before, or after, what changes the database at a place."""

    def __init__(self, store, monkeypatch, name, *, after, meanwhile=None, module=_postgres_rows):
        real = getattr(module, name)
        self.attempts = 0

        def operation(db, *args, **kwargs):
            self.attempts += 1
            if self.attempts > 1:
                return real(db, *args, **kwargs)
            if after:
                real(db, *args, **kwargs)
            store._link.close()
            if meanwhile is not None:
                meanwhile()
            return db.execute("SELECT 1")

        monkeypatch.setattr(module, name, operation)


@pytest.mark.parametrize("after", [False, True])
async def test_a_save_of_unknown_fate_is_looked_up(store, monkeypatch, ask, after):
    epoch = await store.claim("run")
    lossy = Lossy(store, monkeypatch, "save", after=after)
    marks = ask("SELECT xmin::text FROM trioflow_runs")
    await store.save(checkpoint(), epoch)
    assert lossy.attempts == 2
    assert await store.load("run") == checkpoint()
    assert ask("SELECT xmin::text FROM trioflow_runs") != marks


@pytest.mark.parametrize("name", ["save", "save_items"])
async def test_what_was_kept_is_not_written_again(store, monkeypatch, ask, name):
    epoch = await store.claim("run")
    asked = []
    real = _postgres_rows.ask
    monkeypatch.setattr(_postgres_rows, "ask", lambda db, query, *args: asked.append(query) or real(db, query, *args))
    Lossy(store, monkeypatch, name, after=True)
    if name == "save":
        await store.save(checkpoint(), epoch)
        assert asked == [_postgres_rows._SAVE, _postgres_rows._IS_SAVED]
    else:
        await store.save_items("run", epoch, [("a", b"1"), ("b", b"2")])
        assert asked == [_postgres_rows._SAVE_ITEMS, _postgres_rows._COUNT_SAVED]
    assert len(await store.load_items("run")) == (0 if name == "save" else 2)


@pytest.mark.parametrize("after", [False, True])
async def test_items_of_unknown_fate_are_looked_up(store, monkeypatch, after):
    epoch = await store.claim("run")
    Lossy(store, monkeypatch, "save_items", after=after)
    await store.save_items("run", epoch, [("a", b"1"), ("b", b"2")])
    assert await store.load_items("run") == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("after", [False, True])
async def test_who_was_overtaken_meanwhile_is_refused(store, url, monkeypatch, after):
    epoch = await store.claim("run")

    def overtake():
        async def claim():
            async with PostgresStore(url) as other:
                await other.claim("run")

        trio.run(claim)

    Lossy(store, monkeypatch, "save_items", after=after, meanwhile=overtake)
    with pytest.raises(CheckpointConflictError):
        await store.save_items("run", epoch, [("a", b"1")])


@pytest.mark.parametrize("first", [False, True])
async def test_a_claim_of_unknown_fate_is_looked_up(store, monkeypatch, ask, first):
    if not first:
        await store.claim("run")
    Lossy(store, monkeypatch, "claim", after=True)
    epoch = await store.claim("run")
    assert ask("SELECT epoch FROM trioflow_runs") == [(epoch,)]
    assert ask("SELECT last_value FROM trioflow_epoch") == [(epoch,)]
    await store.save(checkpoint(), epoch)


async def test_a_claim_of_unknown_fate_does_not_take_the_run_from_who_came_after(store, url, monkeypatch):
    other = PostgresStore(url)
    later = []

    def overtake():
        async def claim():
            async with other:
                later.append(await other.claim("run"))

        trio.run(claim)

    Lossy(store, monkeypatch, "claim", after=True, meanwhile=overtake)
    epoch = await store.claim("run")
    assert epoch < later[0]
    with pytest.raises(CheckpointConflictError):
        await store.save(checkpoint(), epoch)
    await other.save(checkpoint(), later[0])
    await other.aclose()


async def test_a_delete_of_unknown_fate_spares_a_run_that_was_begun_since(store, url, monkeypatch):
    await store.claim("run")

    def begin():
        async def claim():
            async with PostgresStore(url) as other:
                await other.save(checkpoint(), await other.claim("run"))

        trio.run(claim)

    Lossy(store, monkeypatch, "delete", after=True, meanwhile=begin)
    await store.delete("run")
    assert await store.load("run") == checkpoint()


async def test_the_session_before_is_ended_when_only_the_way_to_it_was_lost(store, ask):
    await store.claim("run")
    lost = store._link._session
    before = lost.info.backend_pid
    # Nobody closes it: the server believes that it is still used.
    store._link._session = None
    await store.claim("run")
    assert ask("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (before,)) == []
    lost.close()


async def test_an_idle_connection_that_was_lost_is_made_again(store, ask):
    epoch = await store.claim("run")
    ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s", (store._link._session.info.backend_pid,))
    await store.save(checkpoint(), epoch)
    assert await store.load("run") == checkpoint()


async def test_a_user_without_privileges_is_enough(postgres_server, schema, ask):
    ask(f"CREATE ROLE plain LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA {schema} TO plain")
    url = f"postgresql://plain:x@127.0.0.1:{postgres_server.port}/postgres?options=-csearch_path%3D{schema}"
    async with PostgresStore(url) as store:
        epoch = await store.claim("run")
        lost, store._link._session = store._link._session, None
        await store.save(checkpoint(), epoch)
        await store.save_items("run", epoch, [("a", b"1")])
        await store.vacuum()
        assert await store.load("run") == checkpoint()
        await store.delete("run")
        lost.close()


# Calls that are made together


@pytest.fixture
def statements(monkeypatch):
    """Return the list of what is asked from now on."""
    asked = []
    real = _postgres_rows.ask

    def ask(db, query, *args):
        asked.append(query)
        return real(db, query, *args)

    for module in (_postgres_rows, _postgres_service):
        monkeypatch.setattr(module, "ask", ask)
    return asked


async def test_what_many_want_is_one_statement_and_who_is_refused_undoes_no_other(store, statements, together):
    mine, there = await store.claim("mine"), await store.claim("there")
    statements.clear()
    ends = await together(
        store.submit(checkpoint("a", 0), 0.0),
        store.submit(checkpoint("there", 0), 0.0),
        store.submit(checkpoint("a", 0), 0.0),
        store.save(checkpoint("mine"), mine),
        store.save(checkpoint("there"), mine),
        store.submit(checkpoint("b", 0), 0.0),
    )
    kinds = [type(end) for end in ends]
    # Of two of one name, either is the first.
    assert {kinds.pop(0), kinds.pop(1)} == {type(None), CheckpointMismatchError}
    assert kinds == [CheckpointMismatchError, type(None), CheckpointConflictError, type(None)]
    wanted = [_postgres_rows._SAVE, _postgres_service._DRAW, _postgres_service._SUBMIT]
    assert sorted(each for each in statements if each != _postgres_rows._SELECT_RUN) == sorted(wanted)
    assert {run.run_id: run.status for run in await store.list_runs()} == {"a": "queued", "b": "queued", "mine": "running"}
    await store.save(checkpoint("there"), there)


async def test_what_many_ask_for_is_one_statement_and_each_is_told(store, statements, ask, together):
    for name in ("a", "b", "odd"):
        await store.save(checkpoint(name), await store.claim(name))
    ask("UPDATE trioflow_steps SET node = 'x' WHERE run = (SELECT number FROM trioflow_runs WHERE name = 'odd')")
    statements.clear()
    ends = await together(store.load("a"), store.load("odd"), store.load("none"), store.load("b", 1), store.load("b", 2))
    assert [type(end) for end in ends[1:3]] == [CheckpointCorruptError, CheckpointNotFoundError]
    assert (ends[0], ends[3]) == (checkpoint("a"), checkpoint("b"))
    assert isinstance(ends[4], CheckpointNotFoundError)
    assert statements == [_postgres_rows._LOAD]


async def test_of_one_run_a_statement_saves_one_step(store, statements, together):
    epoch = await store.claim("run")
    statements.clear()
    assert await together(*(store.save(checkpoint(step=step), epoch) for step in (1, 2, 3))) == [None] * 3
    assert statements == [_postgres_rows._SAVE] * 3
    assert [info.step for info in await store.history("run")] == [1, 2, 3]


async def test_what_no_column_holds_leaves_those_that_are_saved_with_it(store, together):
    epochs = {name: await store.claim(name) for name in "abc"}
    odd = Checkpoint(**{name: getattr(checkpoint("b"), name) for name in Checkpoint.__struct_fields__} | {"step": 2**63})
    ends = await together(
        store.save(checkpoint("a"), epochs["a"]), store.save(odd, epochs["b"]), store.save(checkpoint("c"), epochs["c"])
    )
    assert [type(end) for end in ends] == [type(None), CheckpointStoreError, type(None)]
    assert {run.run_id for run in await store.list_runs()} == {"a", "c"}


@pytest.mark.parametrize("after", [False, True])
async def test_runs_of_unknown_fate_that_were_submitted_together_are_each_looked_up(store, monkeypatch, after, ask, together):
    await store.claim("there")
    lossy = Lossy(store, monkeypatch, "submit", after=after, module=_postgres_service)
    names = [f"run {number}" for number in range(5)]
    ends = await together(*(store.submit(checkpoint(name, 0), 0.0) for name in [*names, "there", "run 3"]))
    assert lossy.attempts == 2
    assert sorted(type(end) is CheckpointMismatchError for end in ends) == [False] * 5 + [True] * 2
    assert isinstance(ends[5], CheckpointMismatchError)
    assert sorted(run.run_id for run in await store.list_runs()) == names
    assert ask("SELECT count(*) FROM trioflow_service") == [(5,)]


async def test_a_submission_of_unknown_fate_is_refused_where_another_came_first(store, url, monkeypatch, together):
    def overtake():
        async def submit():
            async with PostgresStore(url) as other:
                await other.submit(checkpoint("b", 0, b"theirs"), 0.0)

        trio.run(submit)

    Lossy(store, monkeypatch, "submit", after=False, meanwhile=overtake, module=_postgres_service)
    ends = await together(*(store.submit(checkpoint(name, 0), 0.0) for name in "abc"))
    assert [type(end) for end in ends] == [type(None), CheckpointMismatchError, type(None)]
    assert (await store.load("b")).state == b"theirs"


@pytest.mark.parametrize("after", [False, True])
async def test_steps_of_unknown_fate_that_were_saved_together_are_each_looked_up(store, monkeypatch, after, together):
    epochs = {name: await store.claim(name) for name in "abc"}
    Lossy(store, monkeypatch, "save", after=after)
    calls = [store.save(checkpoint(name), epoch) for name, epoch in epochs.items()]
    ends = await together(*calls, store.save(checkpoint("a", 2), epochs["b"]))
    assert [type(end) for end in ends] == [type(None)] * 3 + [CheckpointConflictError]
    assert [[info.step for info in await store.history(name)] for name in "abc"] == [[1]] * 3


async def test_one_who_is_cancelled_leaves_a_group_that_hangs_and_the_others_have_what_they_want(
    url, bounds, postgres_server, schema
):
    bounds(cancelled=0.3)
    async with PostgresStore(url) as store:
        epochs = {name: await store.claim(name) for name in "abc"}
        scopes = {name: trio.CancelScope() for name in epochs}
        left = []

        async def save(name):
            with scopes[name]:
                await store.save(checkpoint(name), epochs[name])
            left.append((name, scopes[name].cancelled_caught))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                with postgres_server.connect(options=f"-csearch_path={schema}") as other, other.transaction():
                    other.execute("SELECT 1 FROM trioflow_runs FOR UPDATE")
                    for name in epochs:
                        nursery.start_soon(save, name)
                    await trio.sleep(0.3)
                    scopes["b"].cancel()
                    while not left:  # noqa: ASYNC110 - it is the thread that says so
                        await trio.sleep(0.02)
                    assert left == [("b", True)]
        assert sorted(left) == [("a", False), ("b", True), ("c", False)]
        assert [len(await store.history(name)) for name in "ac"] == [1, 1]
        await store.save(checkpoint("b"), epochs["b"])


async def test_a_change_of_this_process_wakes_who_waits_for_the_server(store):
    await store.claim("run")  # which makes the tables
    seen = await store.wait_for_change(None, 60.0)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.wait_for_change, seen, 60.0)
            await trio.sleep(0.3)
            # What the server notifies of it has come, and was read, before the change was noted here.
            store._note()


async def test_a_run_whose_step_cannot_be_read_is_given_out_with_the_others(store, ask, monkeypatch):
    asked = []
    real = _postgres_service.ask

    def damaged(db, query, *values):
        asked.append(query)
        if query is _postgres_service._TAKE and values[0]["most"] >= 0:
            return real(db, "DO $$ BEGIN RAISE EXCEPTION 'page is damaged' USING ERRCODE = 'XX001'; END $$")
        return real(db, query, *values)

    for name in "ab":
        await store.submit(checkpoint(name, 0), 0.0)
    monkeypatch.setattr(_postgres_service, "ask", damaged)
    grant = await store.lease(LeaseRequest(graphs=["g"], room=5, limits={}, lease=30.0))
    assert [(lease.run_id, lease.last) for lease in grant.taken] == [("a", None), ("b", None)]
    assert asked.count(_postgres_service._TAKE) == 2


async def test_who_waits_for_its_turn_to_take_runs_waits_within_bounds(postgres_server, schema, bounds):
    bounds(lock=0.2)
    request = LeaseRequest(graphs=["g"], room=5, limits={}, lease=30.0)
    async with PostgresStore(postgres_server.url(schema)) as store:
        await store.submit(checkpoint("a", 0), 0.0)
        with postgres_server.connect(options=f"-csearch_path={schema}") as other:
            with other.transaction():
                other.execute("SELECT pg_advisory_xact_lock(hashtextextended('trioflow.' || current_schema(), 0))")
                with pytest.raises(CheckpointStoreError, match="is locked by another session for too long"):
                    await store.lease(request)
            # Nothing of it is left: what comes next is kept.
            await store.submit(checkpoint("b", 0), 0.0)
            assert other.execute("SELECT count(*) FROM trioflow_service").fetchone() == (2,)
            store._link._session.execute("BEGIN")
            await store.submit(checkpoint("c", 0), 0.0)
            assert other.execute("SELECT count(*) FROM trioflow_service").fetchone() == (3,)
        assert [lease.run_id for lease in (await store.lease(request)).taken] == ["a", "b", "c"]


async def test_a_plan_is_made_once_and_reads_no_table_from_end_to_end(store):
    for number in range(2):
        await store.submit(checkpoint(f"run {number}", 0), 0.0)
    session = store._link._session
    plans = session.execute("SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements").fetchone()
    assert plans[0] == 0
    assert plans[1] > 0
    plan = session.execute("EXPLAIN SELECT 1 FROM trioflow_runs AS run JOIN unnest('{a,b}'::bytea[]) AS name USING (name)")
    assert "Seq Scan" not in " ".join(row[0] for row in plan)


# Several sessions


async def test_a_save_that_waited_for_a_claim_is_refused(store, postgres_server, schema):
    refused = []

    async def save(work):
        with pytest.raises(CheckpointConflictError):
            await work
        refused.append(work)

    async def claim_after_a_while():
        with postgres_server.connect(options=f"-csearch_path={schema}") as other, other.transaction():
            _postgres_rows.claim(other, "run", None, tried=_postgres_rows.Tried())
            await trio.sleep(0.3)
            assert not refused

    for what in ("items", "step"):
        epoch = await store.claim("run")
        work = store.save_items("run", epoch, [("b", b"2")]) if what == "items" else store.save(checkpoint(), epoch)
        async with trio.open_nursery() as nursery:
            refused.clear()
            nursery.start_soon(claim_after_a_while)
            nursery.start_soon(save, work)
        assert refused
    assert await store.load_items("run") == {}
    assert await store.history("run") == []


async def test_a_save_that_waited_for_another_change_counts_with_it(store, url, postgres_server, schema):
    epoch = await store.claim("run")
    await store.save_items("run", epoch, [("a", b"1")])
    with postgres_server.connect(options=f"-csearch_path={schema}") as other:
        async with trio.open_nursery() as nursery:
            with other.transaction():
                batch = [("a", b"2"), ("b", b"2")]
                _postgres_rows.save_items(other, "run", epoch, batch, tried=_postgres_rows.Tried())
                nursery.start_soon(store.save_items, "run", epoch, [("a", b"3"), ("c", b"3")])
                await trio.sleep(0.3)
    assert await store.load_items("run") == {"a": b"3", "b": b"2", "c": b"3"}


async def test_claims_and_deletes_of_a_tree_never_wait_for_each_other_for_ever(url, bounds):
    bounds(lock=5.0)
    random_ = random.Random(1)
    names = ["root", "left", "right", "leaf"]
    parents = {"left": "root", "right": "root", "leaf": "left"}

    async def work(number):
        async with PostgresStore(url) as store:
            for _ in range(40):
                try:
                    epochs = {}
                    for name in names[: random_.randrange(1, 5)]:
                        above = parents.get(name)
                        epochs[name] = await store.claim(name, parent=above and (above, epochs[above]))
                        await store.save_items(name, epochs[name], [(f"{number}", b"v")])
                    if random_.random() < 0.5:
                        await store.delete(random_.choice(names))
                except CheckpointConflictError:
                    continue

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(work, number)
    async with PostgresStore(url) as store:
        assert "corrupt" not in {run.status for run in await store.list_runs()}
        for run in await store.list_runs():
            assert len(await store.load_items(run.run_id)) == run.items


# A server that is not there


def nowhere():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"postgresql://me:Geheim@127.0.0.1:{probe.getsockname()[1]}/runs"


async def test_a_server_that_is_not_there_is_waited_for_within_bounds(bounds, autojump_clock):
    bounds(appearing=0.3)
    started = time.monotonic()
    async with PostgresStore(nowhere()) as store:
        with pytest.raises(CheckpointStoreError, match=r"has not been there for 0\.3 s.*refused"):
            await store.claim("run")
    assert 0.3 <= time.monotonic() - started < 5


async def test_who_is_cancelled_waits_no_longer_for_it():
    started = time.monotonic()
    async with PostgresStore(nowhere()) as store:
        with trio.move_on_after(0.2) as scope:
            await store.claim("run")
    assert scope.cancelled_caught
    assert time.monotonic() - started < 3


async def test_closing_ends_the_waiting_of_others():
    store = PostgresStore(nowhere())
    errors = []

    async def claim():
        with pytest.raises(CheckpointStoreError, match="was closed meanwhile") as caught:
            await store.claim("run")
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim)
        await trio.sleep(0.2)
        started = time.monotonic()
        await store.aclose()
    assert errors
    assert time.monotonic() - started < 3


async def test_a_wrong_password_is_told_at_once(postgres_server):
    started = time.monotonic()
    async with PostgresStore(f"postgresql://worker:Falsch@127.0.0.1:{postgres_server.port}/postgres") as store:
        with pytest.raises(CheckpointStoreError, match="password authentication failed") as caught:
            await store.claim("run")
    assert time.monotonic() - started < 5
    assert "Falsch" not in "".join(traceback.format_exception(caught.value))


# Cancellation


async def test_a_cancelled_call_that_hangs_lets_go_of_the_connection(store, url, ask, bounds, postgres_server, schema):
    bounds(cancelled=0.3)
    async with PostgresStore(url) as hanging:
        epoch = await hanging.claim("run")
        backend = hanging._link._session.info.backend_pid
        with postgres_server.connect(options=f"-csearch_path={schema}") as other, other.transaction():
            other.execute("SELECT 1 FROM trioflow_runs FOR UPDATE")
            started = time.monotonic()
            with trio.move_on_after(0.2) as scope:
                await hanging.save_items("run", epoch, [("a", b"1")])
            assert scope.cancelled_caught
            assert 0.4 < time.monotonic() - started < 3
            assert not hanging._link.is_open
        # What it was at is ended before anything else is done, and does nothing later.
        await hanging.save_items("run", epoch, [("a", b"2")])
        with postgres_server.connect(options=f"-csearch_path={schema}") as other, other.transaction():
            other.execute("SELECT 1 FROM trioflow_runs FOR UPDATE")
            with trio.move_on_after(0.2) as scope:
                await hanging.claim("run")
            assert scope.cancelled_caught
        await hanging.save_items("run", epoch, [("a", b"2")])
        assert ask("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (backend,)) == []
        assert await hanging.load_items("run") == {"a": b"2"}


async def test_a_cancelled_call_that_is_nearly_done_is_done(store):
    epoch = await store.claim("run")
    session = store._link._session
    with trio.CancelScope() as scope:
        scope.cancel()
        with trio.CancelScope(shield=True) as shield:

            async def unshield():
                await trio.sleep(0.1)
                shield.shield = False

            async with trio.open_nursery() as nursery:
                nursery.start_soon(unshield)
                await store._read(lambda db: db.execute("SELECT pg_sleep(0.6)"))
    assert store._link._session is session
    await store.save(checkpoint(), epoch)


async def test_who_waits_for_the_connection_is_cancelled_at_once(store):
    await store.claim("run")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._read, lambda db: db.execute("SELECT pg_sleep(1)"))
        await trio.sleep(0.1)
        started = time.monotonic()
        with trio.move_on_after(0.1) as scope:
            await store.save(checkpoint(), 1)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 3
    assert await store.history("run") == []


async def test_closing_is_shielded_and_comes_to_an_end(store, bounds, url):
    await store.claim("run")
    bounds(cancelled=0.2)
    hanging = PostgresStore(url)
    await hanging.claim("run")
    started = time.monotonic()
    async with trio.open_nursery() as nursery:

        async def hang():
            with pytest.raises(CheckpointStoreError, match="was closed meanwhile"):
                await hanging._read(lambda db: db.execute("SELECT pg_sleep(20)"))

        nursery.start_soon(hang)
        await trio.sleep(0.1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await hanging.aclose()
    assert scope.cancelled_caught
    assert not hanging._link.is_open
    assert time.monotonic() - started < 5
    await hanging.claim("run")
    await hanging.aclose()
    await hanging.aclose()


async def test_a_clock_that_jumps_makes_no_difference(store, autojump_clock):
    async def double(number):
        return 2 * number

    result = await process_parallel(range(50), double, store=store, run_id="run")
    assert list(result.results) == [2 * number for number in range(50)]


@pytest.fixture(scope="module")
def tls(postgres_servers):
    """Return a server that has a certificate, and the file of whoever vouches for it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    server = postgres_servers.Server(settings=["ssl = on"])
    try:
        server.make()
        key, certificate = server.data / "server.key", server.data / "server.crt"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        if os.geteuid() == 0:
            for file in (key, certificate):
                shutil.chown(file, server.data.owner())
        key.chmod(0o600)
        server.start()
        yield server, certificate
    finally:
        server.remove()


async def test_tls_is_libpqs(tls):
    server, certificate = tls
    schema = server.new_schema()
    url = server.url(schema, sslmode="verify-full", sslrootcert=certificate)
    async with PostgresStore(url) as store:
        await store.save(checkpoint(), await store.claim("run"))
        assert store._link._session.pgconn.ssl_in_use
        assert await store.load("run") == checkpoint()


async def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(tls, tmp_path):
    server, _ = tls
    other = tmp_path / "other.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-out", str(other)]
    await trio.run_process([*command, "-keyout", str(tmp_path / "key")], capture_stdout=True, capture_stderr=True)
    started = time.monotonic()
    async with PostgresStore(server.url(sslmode="verify-full", sslrootcert=other)) as store:
        with pytest.raises(CheckpointStoreError, match=r"cannot be opened: .*certificate verify failed"):
            await store.claim("run")
    assert time.monotonic() - started < 5


# Secrets and URLs


URLS = [
    "postgresql://me:Geheim:7@127.0.0.1:1/runs",
    "postgresql://me:Geheim%3A7@127.0.0.1:1/runs?sslmode=disable",
    "postgresql://127.0.0.1:1/runs?user=me&password=Geheim%3A7",
    "postgresql://me@127.0.0.1:1/runs?sslpassword=Geheim%3A7&password=Geheim",
]


@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
async def test_no_secret_is_shown(url, bounds, log, caplog):
    bounds(appearing=0.0)
    caplog.set_level(logging.DEBUG)
    store = get_checkpoint_store(url)
    texts = [repr(store), repr(store._link), repr(CheckpointConfig(store=url))]
    lines = []
    sink = logger.add(lines.append, diagnose=True, backtrace=False)
    try:
        with pytest.raises(CheckpointStoreError) as caught:
            await store.claim("run")
        try:
            raise caught.value
        except CheckpointStoreError:
            logger.exception("failed")
    finally:
        logger.remove(sink)
    error = caught.value
    texts += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error)), str(pickle.dumps(error))]
    texts += [*lines, *(message for _, message in log), caplog.text]
    assert not [text for text in texts if "Geheim" in text]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:Geheim@host/runs",
        "postgresql://me:Geh/Geheim@host:1/runs",
        "postgresql://me:Geheim@host:port/runs",
        "postgresql://me:12/Geheim@host/runs",
        "postgresql://me:Geheim@host/runs?nothing=1",
        "postgresql://me:Geheim@host/runs\0",
        "oracle://x?password=Geheim",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_secret(url):
    with pytest.raises(ConfigError) as caught:
        get_checkpoint_store(url)
    assert "Geheim" not in "".join(traceback.format_exception(caught.value))
    assert "Geheim" not in repr(vars(caught.value))


def test_a_store_shows_where_it_is():
    url = "postgresql://me:x@one:5432,two:5433/runs?sslmode=verify-full"
    assert repr(PostgresStore(url)) == "<PostgresStore postgresql://me@one,two:5432,5433/runs>"
    assert repr(PostgresStore("postgresql://")) == "<PostgresStore postgresql:///>"


def test_the_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "trioflow.checkpoint.postgres", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'trioflow\[postgres\]'"):
        get_checkpoint_store("postgresql://host/runs")


def test_patience_ends():
    patience = Patience(0.05, lambda: None)
    started = time.monotonic()
    with pytest.raises(CheckpointStoreError, match="has not been there for 0.05 s: gone"):
        while time.monotonic() < started + 5:
            patience.wait(OSError("gone"), "server")
    assert time.monotonic() - started < 4

"""The SQLite store: durable, careful with files that are not its own, and never wrong about what it kept."""

import os
import stat

import apsw
import pytest
import trio

from trioflow import (
    Checkpoint,
    CheckpointConfig,
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConfigError,
    GraphConfig,
    MemoryStore,
    State,
    StateGraph,
    get_checkpoint_store,
    register_checkpoint_store,
)
from trioflow.checkpoint import _schema
from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.session import load_verified
from trioflow.checkpoint.sqlite import SqliteStore


def checkpoint(step=1, run_id="r", **changes):
    fields = {
        "graph": "g", "node": "a", "next_node": "b", "iterations": step, "state": b"state", "status": "running",
        "pause": None, "created_at": 1.5,
    }  # fmt: skip
    return sealed(Checkpoint(run_id=run_id, step=step, **{**fields, **changes}))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


async def fill(path, steps=3):
    async with SqliteStore(path) as store:
        epoch = await store.claim("r")
        for step in range(1, steps + 1):
            await store.save(checkpoint(step), epoch)
        await store.save_items("r", epoch, [("a", b"1"), ("b", b"2")])


async def test_commits_are_durable_and_the_file_is_ours(path):
    store = SqliteStore(path)
    await store.claim("r")
    assert store._db.pragma("synchronous") == 2
    assert store._db.pragma("journal_mode") == "wal"
    assert store._db.pragma("user_version") == len(_schema.MIGRATIONS)
    assert store._db.pragma("application_id") == _schema.APPLICATION_ID
    assert repr(store) == f"<SqliteStore {path}, open>"
    await store.aclose()
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]


async def test_a_store_that_was_closed_is_opened_again_by_its_next_use(path):
    await fill(path)
    store = SqliteStore(path)
    for _ in range(2):
        assert (await store.load("r")).step == 3
        await store.aclose()


def test_a_store_may_be_used_by_one_trio_run_after_the_other(path):
    store = SqliteStore(path)
    first = trio.run(store.claim, "r")
    second = trio.run(store.claim, "r")
    trio.run(store.aclose)
    assert second > first


async def test_epochs_and_runs_are_shared_between_connections(path):
    async with SqliteStore(path) as first, SqliteStore(path) as second:
        old = await first.claim("r")
        new = await second.claim("r")
        assert new > old
        await second.save(checkpoint(), new)
        assert await first.load("r") == checkpoint()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("UPDATE checkpoints SET state = 'x' WHERE step = 3", "step 3 is not what was saved"),
        ("UPDATE checkpoints SET next_node = 'z' WHERE step = 3", "step 3 is not what was saved"),
        ("UPDATE checkpoints SET seal = x'00' WHERE step = 3", "step 3 is not what was saved"),
        ("DELETE FROM checkpoints WHERE step = 3", "its last step, 3, is missing"),
        ("UPDATE runs SET last_step = 2", "its entry is not what was saved"),
        ("UPDATE runs SET run_id = 'q'", None),
        ("UPDATE runs SET epoch = 99", "its entry is not what was saved"),
    ],
)
async def test_a_row_that_was_changed_is_never_given_out(path, spoil, message):
    await fill(path)
    db = apsw.Connection(str(path))
    db.execute(spoil)
    db.close()
    async with SqliteStore(path) as store:
        if message is None:
            with pytest.raises(CheckpointCorruptError):
                await store.load("q")
            return
        with pytest.raises(CheckpointCorruptError, match=message) as caught:
            await store.load("r")
        assert caught.value.run_id == "r"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("UPDATE items SET value = 'x' WHERE key = 'a'", "item 'a' is not what was saved"),
        ("UPDATE items SET key = 'z' WHERE key = 'a'", "item 'z' is not what was saved"),
        ("DELETE FROM items WHERE key = 'a'", "1 of its 2 items are missing"),
    ],
)
async def test_an_item_that_was_changed_is_never_given_out(path, spoil, message):
    await fill(path)
    db = apsw.Connection(str(path))
    db.execute(spoil)
    db.close()
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointCorruptError, match=message):
            await store.load_items("r")


@pytest.mark.parametrize("spoil", ["UPDATE checkpoints SET node = 'z' WHERE step = 3", "DELETE FROM checkpoints WHERE step = 3"])
async def test_histories_and_lists_are_checked_too(path, spoil):
    await fill(path)
    db = apsw.Connection(str(path))
    db.execute(spoil)
    db.close()
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointCorruptError):
            await store.history("r")
        assert [(run.run_id, run.status) for run in await store.list_runs()] == [("r", "corrupt")]


SPOILING = [
    "UPDATE checkpoints SET state = 'x' WHERE run = 2", "UPDATE checkpoints SET node = x'ff' WHERE run = 2", "DELETE FROM checkpoints WHERE run = 2",
    "UPDATE runs SET epoch = 99 WHERE number = 2", "UPDATE runs SET last_step = 'x', created_at = 'y', items = x'00' WHERE number = 2",
    "UPDATE runs SET run_id = CAST('two' AS BLOB) WHERE number = 2", "UPDATE runs SET parent = 77 WHERE number = 2",
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILING)
async def test_one_damaged_run_hides_and_blocks_no_other(path, spoil):
    async with SqliteStore(path) as store:
        for run_id in ("one", "two", "three"):
            await store.save(checkpoint(run_id=run_id), await store.claim(run_id))
        db = apsw.Connection(str(path))
        db.execute(spoil)
        db.close()
        runs = await store.list_runs()
        assert [run.status for run in runs] == ["running", "corrupt", "running"]
        assert [run.run_id for run in runs][::2] == ["one", "three"]
        assert (await load_verified(store, "three")).step == 1
        await store.delete(str(runs[1].run_id))
        assert [run.run_id for run in await store.list_runs()] == ["one", "three"]


async def test_a_run_whose_child_is_damaged_can_be_claimed_and_deleted(path):
    async with SqliteStore(path) as store:
        epoch = await store.claim("parent")
        await store.save(checkpoint(run_id="parent"), epoch)
        child = await store.claim("child", parent=("parent", epoch))
        await store.save(checkpoint(run_id="child"), child)
        db = apsw.Connection(str(path))
        db.execute("UPDATE runs SET items = 7 WHERE run_id = 'child'")
        db.close()
        await store.claim("parent")
        with pytest.raises(CheckpointCorruptError):
            await store.save(checkpoint(run_id="child"), child)
        assert [run.status for run in await store.list_runs()] == ["running", "corrupt"]
        await store.delete("parent")
        assert list(await store.list_runs()) == []


async def test_a_step_that_is_not_there_is_named_among_those_that_are(path):
    await fill(path)
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointNotFoundError, match=r"there is no step 9 of run 'r' in this store$"):
            await load_verified(store, "r", 9)
        with pytest.raises(CheckpointNotFoundError, match=r"no step 9 of run 'r' \(known: 1, 2, 3\)"):
            await load_verified(store, "r", 9, suggest=True)
        with pytest.raises(CheckpointNotFoundError, match=r"no run 'q' in this store \(known: 'r'\)"):
            await load_verified(store, "q", suggest=True)


async def test_the_digest_is_checked_whatever_the_store():
    store = MemoryStore()
    epoch = await store.claim("r")
    await store.save(Checkpoint(**{**{n: getattr(checkpoint(), n) for n in Checkpoint.__struct_fields__}, "state": b"other"}), epoch)
    with pytest.raises(CheckpointCorruptError, match="step 1 of run 'r' is damaged"):
        await load_verified(store, "r")


async def test_a_checkpoint_of_a_newer_form_is_refused():
    store = MemoryStore()
    await store.save(checkpoint(version=3), await store.claim("r"))
    with pytest.raises(CheckpointMismatchError, match="newer version of trioflow"):
        await load_verified(store, "r")


async def test_a_newer_schema_is_refused_and_left_as_it_is(path):
    await fill(path)
    db = apsw.Connection(str(path))
    db.pragma("user_version", 99)
    db.close()
    before = path.read_bytes()
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointStoreError, match="has schema 99, and this version of trioflow knows up to 3: upgrade"):
            await store.load("r")
    assert path.read_bytes() == before


async def test_another_programs_database_is_refused_and_left_as_it_is(path):
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE theirs(x)")
    db.close()
    before = path.read_bytes()
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointStoreError, match="is another program.s SQLite database"):
            await store.claim("r")
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path):
    path.write_bytes(b"not a database, but long enough to look at " * 50)
    before = path.read_bytes()
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointStoreError, match="is not a SQLite database: name another file"):
            await store.claim("r")
    assert path.read_bytes() == before


async def test_a_folder_that_is_not_there_is_named(tmp_path):
    async with SqliteStore(tmp_path / "nowhere" / "runs.db") as store:
        with pytest.raises(CheckpointStoreError, match=r"the folder '.*nowhere' of the store is not there: make it first"):
            await store.claim("r")
    async with SqliteStore(tmp_path) as store:
        with pytest.raises(CheckpointStoreError, match="cannot be opened"):
            await store.claim("r")


async def test_a_read_only_file_is_named(path, monkeypatch):
    await fill(path)
    original = apsw.Connection
    monkeypatch.setattr(apsw, "Connection", lambda name: original(name, flags=apsw.SQLITE_OPEN_READONLY))
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointStoreError, match="cannot be written: it is read-only"):
            await store.claim("r")
    if os.geteuid():
        path.chmod(stat.S_IREAD)


async def test_a_file_that_others_hold_locked_is_named(path, monkeypatch):
    await fill(path)
    monkeypatch.setattr(_schema, "BUSY_TIMEOUT", 10)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointStoreError, match="is locked by another process for too long"):
            await store.claim("r")
        other.execute("ROLLBACK")
        other.close()
        await store.claim("r")


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE; CREATE TABLE x(y)", "BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM sqlite_schema"])
async def test_opening_waits_for_others(path, lock):
    """SQLite itself waits for nobody where it sets the journal's mode."""
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE theirs(x); DROP TABLE theirs")
    other.execute(lock).fetchall()

    async def release():
        await trio.sleep(0.1)
        other.execute("ROLLBACK")

    async with SqliteStore(path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(release)
        assert await store.claim("r") == 1
    other.close()


async def test_what_cannot_be_written_at_all_is_named(path):
    async with SqliteStore(path) as store:
        with pytest.raises(CheckpointStoreError, match="cannot take or give this value|failed"):
            await store.claim("\ud800")


@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_a_path_that_is_none_is_refused(name):
    with pytest.raises(ConfigError):
        SqliteStore(name)


# Migrations.

OLD = ("CREATE TABLE first(x);",)
NEW = (*OLD, "ALTER TABLE first ADD COLUMN y; CREATE TABLE second(x); INSERT INTO second VALUES (1);")


def test_an_older_schema_becomes_the_newer_in_one_transaction(path):
    db = apsw.Connection(str(path))
    _schema.prepare(db, str(path), OLD)
    db.execute("INSERT INTO first VALUES (5)")
    assert db.pragma("user_version") == 1
    broken = (*OLD, "CREATE TABLE second(x); SELECT broken();")
    with pytest.raises(apsw.SQLError):
        _schema.prepare(db, str(path), broken)
    assert db.pragma("user_version") == 1
    assert db.execute("SELECT count(*) FROM sqlite_schema").get == 1
    _schema.prepare(db, str(path), NEW)
    assert db.execute("SELECT x, y FROM first").fetchall() == [(5, None)]
    assert db.pragma("user_version") == 2
    db.close()


def test_a_commit_that_would_not_be_durable_is_refused(path):
    class Forgetful:
        def __init__(self, db):
            self._db = db

        def __getattr__(self, name):
            return getattr(self._db, name)

        def pragma(self, name, *value):
            return 1 if name == "synchronous" and not value else self._db.pragma(name, *value)

    db = apsw.Connection(str(path))
    with pytest.raises(CheckpointStoreError, match="cannot be made durable"):
        _schema.prepare(Forgetful(db), str(path))
    db.close()


# Names and URLs.


async def test_stores_have_names_and_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = get_checkpoint_store("sqlite:///runs.db")
    await store.claim("r")
    await store.aclose()
    assert (tmp_path / "runs.db").is_file()
    absolute = get_checkpoint_store(f"sqlite:///{tmp_path}/other.db")
    await absolute.claim("r")
    await absolute.aclose()
    assert (tmp_path / "other.db").is_file()
    assert get_checkpoint_store("memory") is get_checkpoint_store("memory")
    mine = MemoryStore()
    register_checkpoint_store("mine", mine)
    assert get_checkpoint_store("mine") is mine
    config = GraphConfig(name="x", observer="noop", checkpoint=CheckpointConfig(store="mine", interval=1, preserve=True))
    graph = StateGraph(config)

    @graph.node
    async def only(state):
        return state

    graph.set_entry_point("only")
    graph.set_exit_point("only")
    await graph.execute(State(), run_id="r")
    assert len(await mine.list_runs()) == 1
    assert repr(mine) == "<MemoryStore: 1 runs>"


@pytest.mark.parametrize("name", ["memroy", "", "ftp://x/y", "sqlite://x.db", "sqlite:///", "mysql://host/db", 5])
def test_unknown_names_and_urls_are_refused(name):
    with pytest.raises(ConfigError) as caught:
        get_checkpoint_store(name)
    assert caught.value.field == "store"


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'memory'\? known: 'memory'"):
        get_checkpoint_store("memroy")


@pytest.mark.parametrize("arguments", [("", MemoryStore()), ("a://b", MemoryStore()), ("x", object()), ("x", MemoryStore)])
def test_what_cannot_be_registered_is_refused(arguments):
    with pytest.raises(ConfigError):
        register_checkpoint_store(*arguments)

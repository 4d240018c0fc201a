"""One claimed run: its end, its clean-up, its transactions, and how long a save may take."""

import threading
import time
from contextlib import contextmanager

import pytest
import trio

from trioflow import (
    Checkpoint,
    CheckpointConflictError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConfigError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    RecordingObserver,
    State,
    StateGraph,
    process_chain,
    process_parallel,
)
from trioflow.checkpoint import session as session_module
from trioflow.checkpoint.session import Session, in_transactions, load_verified, shielded_save
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.testing import FaultyStore


def checkpoint(run_id="r", step=1, **changes):
    fields = {
        "graph": "g", "node": "a", "next_node": "b", "iterations": step, "state": b"state", "status": "running",
        "pause": None, "created_at": 1.5,
    }  # fmt: skip
    return Checkpoint(run_id=run_id, step=step, **{**fields, **changes})


class Wrapped:
    """A store around a `MemoryStore`, which is not known to bound its waiting."""

    def __init__(self):
        self.inner = MemoryStore()
        self.calls = []

    def __getattr__(self, name):
        async def call(*args, **keywords):
            self.calls.append((name, *args))
            return await getattr(self.inner, name)(*args, **keywords)

        return call


async def fan_out(store, paid, observer=None):
    async def pay(item):
        paid.append(item)
        return item

    return await process_parallel(range(3), pay, store=store, run_id="r", observer=observer)


async def chain(store, paid, observer=None):
    async def pay(item, state):
        paid.append(item)
        return [*state, item]

    return await process_chain(range(3), [], pay, store=store, run_id="r", observer=observer)


async def graph(store, paid, observer=None):
    async def pay(state):
        paid.append(state["item"])
        return state

    line = StateGraph(GraphConfig(name="line"), store=store, observer=observer)
    line.add_node("pay", pay)
    line.set_entry_point("pay")
    line.set_exit_point("pay")
    if paid:
        return await line.resume("r")
    return await line.execute(State(item=1), run_id="r")


@pytest.mark.parametrize("run", [fan_out, chain, graph])
async def test_an_end_is_saved_before_the_run_is_cleaned_up(run):
    store = Wrapped()
    await run(store, [], RecordingObserver())
    (save, saved, _), (delete, *_) = store.calls[-2:]
    assert (save, saved.status, delete) == ("save", "completed", "delete")
    assert list(await store.list_runs()) == []


@pytest.mark.parametrize("run", [fan_out, chain, graph])
async def test_a_run_whose_end_an_observer_stops_the_program_at_is_not_forgotten(store, run):
    class Stopping(RecordingObserver):
        def on_event(self, event):
            super().on_event(event)
            if event.type in {"parallel.complete", "chain.complete", "graph.complete"}:
                raise SystemExit(3)

    paid, stopping = [], Stopping()
    with pytest.raises(SystemExit):
        await run(store, paid, stopping)
    assert (await load_verified(store, "r")).status == "completed"
    assert [event.data["status"] for event in stopping.events if event.type.endswith(".complete")][-1] == "ok"
    calls = list(paid)
    await run(store, paid, RecordingObserver())
    assert paid == calls


async def test_who_lost_the_run_ends_and_deletes_nothing_of_it(store):
    loser = await Session.claim(store, "r")
    winner = await Session.claim(store, "r")
    await winner.save(checkpoint())
    with pytest.raises(CheckpointConflictError):
        await loser.save(checkpoint(status="completed"))
    assert await loser.forget() is None
    assert repr(loser) == f"<Session of r, epoch {loser.epoch}>"
    assert (await load_verified(store, "r")).status == "running"
    await winner.save(checkpoint(step=2))


@pytest.mark.parametrize("error", [CheckpointStoreError("the disk is gone"), OSError("the disk is gone")])
async def test_a_clean_up_that_fails_costs_nothing(error):
    class Undeletable(Wrapped):
        async def delete(self, run_id, epoch=None):
            raise error

    store = Undeletable()
    session = await Session.claim(store, "r")
    await session.save(checkpoint(status="completed"))
    problem = await session.forget()
    assert isinstance(problem, CheckpointStoreError)
    assert "the disk is gone" in str(problem)
    assert (await load_verified(store, "r")).status == "completed"


async def test_a_child_is_claimed_with_the_session_of_its_parent(store):
    parent = await Session.claim(store, "parent")
    child = await Session.claim(store, "child", parent)
    assert child.epoch > parent.epoch
    await child.save(checkpoint("child"))
    assert [(run.run_id, run.parent) for run in await store.list_runs()] == [("child", "parent")]
    again = await Session.claim(store, "parent")
    with pytest.raises(CheckpointConflictError):
        await child.save(checkpoint("child", step=2))
    with pytest.raises(CheckpointConflictError):
        await Session.claim(store, "child", parent)
    child = await Session.claim(store, "child", (again.run_id, again.epoch))
    await child.save(checkpoint("child", step=2))
    assert await again.forget() is None
    assert list(await store.list_runs()) == []


async def test_items_are_saved_in_transactions_of_bounded_size():
    store = Wrapped()
    session = await Session.claim(store, "r")
    batch = [(f"{number}", b"x") for number in range(2_500)]
    large = [(f"large {number}", b"x" * (3 << 20)) for number in range(3)]
    for part in in_transactions([*batch, *large, ("last", b"")]):
        await session.save_items(part)
    assert await session.load_items() == dict([*batch, *large, ("last", b"")])
    saved = [call[3] for call in store.calls if call[0] == "save_items"]
    assert [len(part) for part in saved] == [1_000, 1_000, 501, 1, 2]
    assert [item for part in saved for item in part] == [*batch, *large, ("last", b"")]
    assert max(sum(len(value) for _, value in part) for part in saved) <= 4 << 20


async def test_an_empty_batch_is_fenced_too(store):
    session = await Session.claim(store, "r")
    await session.save_items([])
    await Session.claim(store, "r")
    with pytest.raises(CheckpointConflictError):
        await session.save_items([])


async def test_beginning_a_run_compares_its_id_with_no_other(store, monkeypatch):
    for number in range(20):
        await (await Session.claim(store, f"run-{number}")).save(checkpoint(f"run-{number}"))
    monkeypatch.setattr("difflib.get_close_matches", None)
    with pytest.raises(CheckpointNotFoundError, match=r"there is no run 'run-20' in this store$"):
        await load_verified(store, "run-20")


async def test_a_page_needs_a_limit_that_is_one(store):
    for limit in (0, -1, 1.5, True):
        with pytest.raises(ConfigError) as caught:
            await store.list_runs(limit=limit)
        assert caught.value.field == "limit"


# How long a save may take.


async def test_a_save_is_shielded(store):
    session = await Session.claim(store, "r")
    with trio.CancelScope() as scope:
        scope.cancel()
        await shielded_save(store, lambda: session.save(checkpoint()))
    assert (await load_verified(store, "r")).step == 1
    with pytest.raises(ZeroDivisionError):
        await shielded_save(store, lambda: failing())


async def failing():
    raise ZeroDivisionError


@pytest.mark.parametrize("bounded", [True, False])
async def test_the_tests_clock_ends_no_save(autojump_clock, tmp_path, bounded, monkeypatch):
    """A thread that works is no reason to wait for autojump: the clock goes on to any deadline meanwhile."""
    monkeypatch.setattr(session_module, "SAVE_DEADLINE", 30.0)

    class Slow:
        bounds_waiting = bounded

    started = trio.current_time()
    assert await shielded_save(Slow(), lambda: trio.to_thread.run_sync(lambda: time.sleep(0.05) or "saved")) == "saved"
    async with SqliteStore(tmp_path / "runs.db") as store:
        session = await Session.claim(store, "r")
        for step in range(1, 6):
            await shielded_save(store, lambda step=step: session.save(checkpoint(step=step)))
    assert trio.current_time() == started


async def test_a_store_that_hangs_is_given_up(autojump_clock, monkeypatch):
    monkeypatch.setattr(session_module, "SAVE_DEADLINE", 0.05)
    before = threading.active_count()
    with pytest.raises(CheckpointStoreError, match=r"did not save within 0.05 s"):
        await shielded_save(Wrapped(), trio.sleep_forever)
    assert threading.active_count() == before


# One `trio.run` at a time.


@contextmanager
def run_elsewhere(main):
    """Run `main` in another thread's `trio.run` while the block runs."""
    ready, done = threading.Event(), threading.Event()

    async def wait():
        await main()
        ready.set()
        await trio.to_thread.run_sync(done.wait, 10)

    thread = threading.Thread(target=trio.run, args=[wait])
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        done.set()
        thread.join(10)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_store_in_two_trio_runs_at_once_says_so(tmp_path, kind):
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "runs.db")

    async def use():
        await store.claim("r")

    with run_elsewhere(use):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="is in use by another trio.run: open a store for each"):
                trio.run(use)
    trio.run(use)
    trio.run(store.aclose)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_store_that_was_closed_is_free_for_another_trio_run(tmp_path, kind):
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "runs.db")

    async def use():
        await store.claim("r")
        await store.aclose()

    with run_elsewhere(use):
        trio.run(use)


@pytest.mark.parametrize("name", ["claim", "save_items", "save", "load_items", "load"])
async def test_whatever_a_store_raises_is_a_store_error_with_what_was_paid_for(name, autojump_clock):
    store = FaultyStore(MemoryStore(), fail={name: 1}, error=OSError("no space"))
    paid = []

    async def pay(item):
        await trio.lowlevel.checkpoint()
        paid.append(item)
        return item

    with pytest.raises(CheckpointStoreError, match="no space") as caught:
        await process_parallel(range(5), pay, store=store, run_id="r", config=ParallelConfig(observer="noop"))
    assert isinstance(caught.value.__cause__, OSError)
    assert sorted(paid) == (sorted(caught.value.value.results) if paid else [])


async def test_a_name_where_a_store_is_wanted_is_told_where_it_belongs():
    with pytest.raises(ConfigError, match="CheckpointConfig takes either"):
        await process_parallel([1], pay_nothing, store="sqlite:///runs.db", run_id="r")


async def pay_nothing(item):
    return item

"""Calls that wait for the thread of a store are made together, and each of them ends by itself."""

import threading
import time

import apsw
import msgspec
import pytest
import trio
import trio.testing

from trioflow import (
    CheckpointConflictError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
)
from trioflow.checkpoint import _schema
from trioflow.checkpoint._turns import MOST, Call, Turns
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.testing._cases._support import checkpoint


class Thread:
    """Makes calls, and notes which were made together; it can be held up in the middle of a group."""

    def __init__(self):
        self.groups = []
        self.held_up = threading.Event()
        self.go_on = threading.Event()
        self.holds = False
        self.turns = Turns(self.make)

    def make(self, calls):
        self.groups.append([call.args[0] for call in calls])
        if self.holds:
            self.held_up.set()
            assert self.go_on.wait(20)
        if any(call.is_given_up for call in calls):
            return
        for call in calls:
            try:
                call.succeed(call.operation(*call.args))
            except ValueError as error:
                call.fail(error)

    async def take(self, number, got=None, operation=abs):
        result = await self.turns.take(Call(operation, number))
        if got is not None:
            got.append(result)

    async def until_held_up(self):
        await trio.to_thread.run_sync(self.held_up.wait, 20)

    def let_go(self):
        self.holds = False
        self.go_on.set()


@pytest.fixture
def thread():
    made = Thread()
    yield made
    made.let_go()


async def test_callers_that_come_together_are_made_together(thread):
    got = []
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(thread.take, -number, got)
    assert [sorted(group) for group in thread.groups] == [[-4, -3, -2, -1, 0]]
    assert sorted(got) == [0, 1, 2, 3, 4]


async def test_those_who_come_meanwhile_are_made_next(thread):
    thread.holds = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.take, 1)
        await thread.until_held_up()
        for number in (2, 3):
            nursery.start_soon(thread.take, number)
        await trio.testing.wait_all_tasks_blocked()
        thread.let_go()
    assert thread.groups[0] == [1]
    assert sorted(thread.groups[1]) == [2, 3]


async def test_no_group_is_larger_than_what_others_may_wait_for(thread):
    async with trio.open_nursery() as nursery:
        for number in range(MOST + 1):
            nursery.start_soon(thread.take, number)
    assert [len(group) for group in thread.groups] == [MOST, 1]


async def test_an_error_of_one_is_not_the_others(thread):
    def fail(number):
        raise ValueError(f"no {number}")

    got = []

    async def failing():
        with pytest.raises(ValueError, match="no 1"):
            await thread.take(1, operation=fail)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing)
        nursery.start_soon(thread.take, -2, got)
    assert got == [2]
    assert len(thread.groups) == 1


async def test_what_breaks_the_thread_is_raised_by_each_and_nobody_is_forgotten():
    def make(calls):
        raise ZeroDivisionError

    turns = Turns(make)
    errors = []

    async def take():
        with pytest.raises(ZeroDivisionError):
            await turns.take(Call(abs, 1))
        errors.append(1)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take)
    assert len(errors) == 3


async def test_who_is_cancelled_before_its_turn_leaves_at_once_and_nothing_is_done(thread):
    thread.holds = True
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.take, 1)
            await thread.until_held_up()
            with trio.CancelScope() as scope:
                nursery.start_soon(trio.testing.wait_all_tasks_blocked)
                scope.deadline = trio.current_time() + 0.05
                await thread.take(2)
            assert scope.cancelled_caught
            assert not thread.go_on.is_set()
            thread.let_go()
    assert thread.groups == [[1]]


@pytest.mark.parametrize("cancelled", [1, 2], ids=["who waits for the thread", "who waits for that one"])
async def test_what_one_gives_up_is_made_again_for_the_others(thread, cancelled):
    thread.holds = True
    scopes = {number: trio.CancelScope() for number in (1, 2, 3)}
    got = []

    async def take(number):
        with scopes[number]:
            await thread.take(-number, got)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in scopes:
                nursery.start_soon(take, number)
            await thread.until_held_up()
            # The first of a group is the one who has called the thread.
            leader, *others = (-number for number in thread.groups[0])
            lost = leader if cancelled == 1 else others[0]
            scopes[lost].cancel()
            await trio.testing.wait_all_tasks_blocked()
            thread.let_go()
    assert scopes[lost].cancelled_caught
    assert sorted(got) == [number for number in (1, 2, 3) if number != lost]
    assert sorted(map(sorted, thread.groups[1:])) == [sorted(-number for number in scopes if number != lost)]


async def test_who_calls_the_thread_ahead_of_a_crowd_can_give_up(thread):
    scope, again = trio.CancelScope(), trio.Event()

    async def take_twice():
        await thread.take(0)
        thread.held_up.clear()
        thread.go_on.clear()
        again.set()
        with scope:
            # In the same tick: none of the crowd has been woken yet.
            await thread.take(-1)

    thread.holds = True
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_twice)
            await thread.until_held_up()
            for number in range(MOST):
                nursery.start_soon(thread.take, number)
            await trio.testing.wait_all_tasks_blocked()
            thread.go_on.set()
            await again.wait()
            await thread.until_held_up()
            scope.cancel()
            thread.let_go()
    assert scope.cancelled_caught
    first, given_up, *made = thread.groups
    assert (first, given_up[-1], len(given_up)) == ([0], -1, MOST)
    assert sorted(number for group in made for number in group) == list(range(MOST))


async def test_what_was_done_for_one_who_is_cancelled_is_done(thread):
    waiting = threading.Event()

    def make(calls):
        thread.held_up.set()
        assert waiting.wait(20)
        for call in calls:
            call.succeed(7)

    turns = Turns(make)
    got = []
    async with trio.open_nursery() as nursery:

        async def take(scope):
            with scope:
                got.append(await turns.take(Call(abs, 1)))

        scopes = [trio.CancelScope(), trio.CancelScope()]
        for scope in scopes:
            nursery.start_soon(take, scope)
        await thread.until_held_up()
        for scope in scopes:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        waiting.set()
    assert got == [7, 7]
    assert not any(scope.cancelled_caught for scope in scopes)


# In SQLite: one transaction


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "runs.db") as opened:
        await opened.claim("there")
        yield opened


@pytest.fixture
def commits(store):
    """Return the list to which each commit appends, and of what is popped to refuse it."""
    counted, refused = [], []

    def on_commit():
        counted.append(1)
        return bool(refused and refused.pop())

    store._db.set_commit_hook(on_commit)
    return counted, refused


def new_run(name):
    return checkpoint(name, step=0)


async def test_one_commit_is_enough_for_all_and_who_is_refused_undoes_no_other(store, commits, together):
    epoch = await store.claim("mine")
    commits[0].clear()
    ends = await together(
        store.submit(new_run("a"), 0.0),
        store.submit(new_run("there"), 0.0),
        store.save(checkpoint("mine"), epoch),
        store.save(checkpoint("there"), epoch),
        store.submit(new_run("b"), 0.0),
        store.submit(new_run("a"), 0.0),
    )
    kinds = [type(end) for end in ends]
    assert kinds[1:5] == [CheckpointMismatchError, type(None), CheckpointConflictError, type(None)]
    # Of two of one name, either is the first.
    assert {kinds[0], kinds[5]} == {type(None), CheckpointMismatchError}
    assert len(commits[0]) == 1
    assert {run.run_id for run in await store.list_runs()} == {"a", "b", "mine"}


async def test_a_transaction_of_many_writes_is_bounded(store, commits, together):
    epochs = {name: await store.claim(name) for name in "abcdef"}
    commits[0].clear()
    large = [("large", b"x" * (1 << 20))]
    assert await together(*(store.save_items(name, epoch, large) for name, epoch in epochs.items())) == [None] * 6
    assert len(commits[0]) == 2
    commits[0].clear()
    many = [(str(number), b"") for number in range(500)]
    assert await together(*(store.save_items(name, epoch, many) for name, epoch in epochs.items())) == [None] * 6
    assert len(commits[0]) == 3
    for name in epochs:
        assert await store.load_items(name) == dict(large + many)


async def test_where_all_fail_together_each_is_made_by_itself(store, commits, together):
    commits[1].append(True)
    ends = await together(*(store.submit(new_run(name), 0.0) for name in "abc"))
    assert ends == [None, None, None]
    assert len(commits[0]) == 1 + 3
    assert {run.run_id for run in await store.list_runs()} == set("abc")


async def test_where_one_fails_by_itself_the_others_are_kept(store, commits, together):
    # One is of a type that SQLite knows no form for.
    odd = new_run("odd")
    msgspec.structs.force_setattr(odd, "node", object())
    ends = await together(store.submit(new_run("a"), 0.0), store.submit(odd, 0.0), store.submit(new_run("b"), 0.0))
    assert [type(end) for end in ends] == [type(None), CheckpointStoreError, type(None)]
    assert {run.run_id for run in await store.list_runs()} == {"a", "b"}


async def test_nobody_reads_what_is_not_kept(store, commits, together):
    commits[1].extend([True] * 3)
    ends = await together(store.submit(new_run("a"), 0.0), store.load("a"), store.submit(new_run("b"), 0.0))
    assert [type(end) for end in ends] == [CheckpointStoreError, CheckpointNotFoundError, CheckpointStoreError]


async def test_other_processes_are_waited_for_once_and_not_by_each(store, tmp_path, monkeypatch, together):
    monkeypatch.setattr(_schema, "BUSY_TIMEOUT", 300)
    store._db.set_busy_timeout(300)
    other = apsw.Connection(str(tmp_path / "runs.db"))
    with other:
        other.execute("UPDATE epochs SET last = last")
        started = time.monotonic()
        ends = await together(*(store.submit(new_run(f"run {number}"), 0.0) for number in range(8)))
        assert time.monotonic() - started < 8 * 0.3
    assert all("is locked by another process for too long" in str(end) for end in ends)
    assert len(set(map(id, ends))) == 8
    other.close()
    assert await store.list_runs() == []


async def test_who_is_cancelled_in_a_group_has_done_what_it_wanted(store):
    scopes = [trio.CancelScope() for _ in range(3)]
    held_up, go_on = threading.Event(), threading.Event()

    async def submit(number):
        with scopes[number]:
            await store.submit(new_run(f"run {number}"), 0.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._call, lambda db: held_up.set() or go_on.wait(20))
        await trio.to_thread.run_sync(held_up.wait, 20)
        for number in range(3):
            nursery.start_soon(submit, number)
        await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert {run.run_id for run in await store.list_runs()} == {"run 0", "run 1", "run 2"}


async def test_a_transaction_that_was_left_open_takes_nothing_with_it(store, tmp_path, together):
    store._db.execute("BEGIN IMMEDIATE")
    await together(*(store.submit(new_run(name), 0.0) for name in "ab"))
    store._db.execute("BEGIN IMMEDIATE")
    await store.submit(new_run("c"), 0.0)
    async with SqliteStore(tmp_path / "runs.db") as other:
        assert {run.run_id for run in await other.list_runs()} == {"a", "b", "c"}


async def test_closing_comes_after_those_who_wait(tmp_path, together):
    store = SqliteStore(tmp_path / "runs.db")
    await together(*(store.submit(new_run(name), 0.0) for name in "abc"), store.aclose())
    assert store._db is None
    assert len(await store.list_runs()) == 3
    await store.aclose()

"""The failed items of a fan-out, summed up in its own row: how many, why, and which was the first."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio

import trioflow
from trioflow import (
    CheckpointConfig,
    CheckpointConflictError,
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ExecutionError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    ParallelError,
    State,
    StateGraph,
    branches_node,
    open_parallel,
    parallel_node,
    process_parallel,
)
from trioflow._durable import items as journal_module
from trioflow.checkpoint.codec import fingerprint
from trioflow.checkpoint.fan_outs import LONGEST_TEXT, MOST_CATEGORIES, FanOut, count_unfinished, read_fan_out
from trioflow.checkpoint.session import Session, load_verified
from trioflow.checkpoint.sqlite import SqliteStore

LENIENT = ParallelConfig(observer="noop", fail_fast=False, raise_if_all_failed=False, max_workers=4)


async def failures_in(store, run_id="r"):
    return read_fan_out((await load_verified(store, run_id)).state).failures


def grouped(failures):
    return [(each.message, each.type, each.count, each.first_index) for each in failures.categories]


def reported(result):
    return [(each.message, each.type, each.count, each.first_index) for each in result.report.categories]


async def down(item):
    await trio.lowlevel.checkpoint()
    if item % 2:
        raise (OSError if item % 3 else ValueError)("odd" if item < 7 else "odd and large")
    return item


class Watched:
    """A store of a user's own: what it keeps are bytes, and it knows how often it was asked to save."""

    def __init__(self):
        self._store = MemoryStore()
        self.saved = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def save(self, checkpoint, epoch):
        self.saved.append((trio.current_time(), checkpoint.status, read_fan_out(checkpoint.state).failed))
        copied = msgspec.msgpack.decode(msgspec.msgpack.encode(checkpoint), type=type(checkpoint))
        await self._store.save(copied, epoch)


async def test_failed_items_are_stored_as_the_report_groups_them(store):
    result = await process_parallel(range(20), down, config=LENIENT, store=store, run_id="r")
    failures = await failures_in(store)
    assert (failures.failed, failures.other) == (10, 0)
    assert grouped(failures) == reported(result)
    assert {each.first_key for each in failures.categories} == {None}


async def test_a_store_of_ones_own_has_them_too():
    store = Watched()
    result = await process_parallel(range(20), down, config=LENIENT, store=store, run_id="r")
    assert grouped(await failures_in(store)) == reported(result)


async def test_the_type_and_the_key_are_those_of_the_first_item_in_the_order_of_the_input(store, autojump_clock):
    async def say_the_same(item):
        await trio.sleep(10 - item)
        raise [LookupError, ValueError, OSError][item]("same")

    await process_parallel(range(3), say_the_same, config=LENIENT, store=store, run_id="r", key=lambda item: f"k{item}")
    (category,) = (await failures_in(store)).categories
    assert (category.type, category.count, category.first_index, category.first_key) == ("LookupError", 3, 0, "k0")


async def test_a_key_that_cannot_be_had_is_not_that_of_the_item_before(store):
    def key(item):
        if item == 1:
            raise ValueError("no key")
        return f"k{item}"

    config = ParallelConfig(observer="noop", fail_fast=False, max_workers=1)
    await process_parallel(range(3), down, config=config, store=store, run_id="r", key=key)
    (category,) = (await failures_in(store)).categories
    assert (category.message, category.first_index, category.first_key) == ("no key", 1, None)


async def test_cancelled_siblings_are_no_failed_items(store, autojump_clock):
    async def work(item):
        if item == 2:
            raise OSError("down")
        await trio.sleep_forever()

    with pytest.raises(ParallelError):
        await process_parallel(range(10), work, config=ParallelConfig(observer="noop", max_workers=4), store=store, run_id="r")
    checkpoint = await store.load("r")
    assert checkpoint.status == "failed"
    assert grouped(await failures_in(store)) == [("down", "OSError", 1, 2)]
    assert count_unfinished(read_fan_out(checkpoint.state), 0) == 9


async def test_a_cancelled_run_has_what_had_failed(store):
    async def work(item):
        if item == 3:
            scope.cancel()
            await trio.sleep_forever()
        await down(item)

    with trio.CancelScope() as scope:
        await process_parallel(range(10), work, config=ParallelConfig(observer="noop", fail_fast=False, max_workers=1), store=store, run_id="r")
    assert scope.cancelled_caught
    assert grouped(await failures_in(store)) == [("odd", "OSError", 1, 1)]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("plain", [False, True])
async def test_items_that_ran_out_of_time_have_failed(store, autojump_clock, streamed, plain):
    async def work(item):
        if item == 1:
            raise OSError("down")
        await trio.sleep(0 if not item else 100)

    config = ParallelConfig(observer="noop", fail_fast=False, max_workers=2, timeout=1)
    items = list(range(50)) if plain else iter(range(50))
    async with open_parallel(
        items, work, config=config, store=store, run_id="r", keep_results=not streamed, key=str
    ) as run:
        errors = [outcome async for outcome in run if not outcome.ok]
    failures = await failures_in(store)
    assert failures.failed == len(errors) >= 3
    late = [outcome.index for outcome in errors if isinstance(outcome.error, trio.TooSlowError)]
    assert grouped(failures) == [("run timed out after 1 s", "TooSlowError", len(late), min(late)), ("down", "OSError", 1, 1)]
    assert failures.categories[0].first_key == str(min(late))
    assert not plain or failures.failed == 49


async def test_items_that_never_began_in_time_have_failed(store, autojump_clock):
    config = ParallelConfig(observer="noop", fail_fast=False, raise_if_all_failed=False, max_workers=1, timeout=1)
    held = False

    async def items():
        nonlocal held
        yield 0
        held = True
        await trio.sleep(100)
        yield 1

    result = await process_parallel(items(), down, config=config, store=store, run_id="r", key=str)
    assert held
    (category,) = (await failures_in(store)).categories
    assert (category.type, category.count, category.first_index, category.first_key) == ("TooSlowError", 1, 1, None)
    assert reported(result) == grouped(await failures_in(store))


@pytest.mark.parametrize(("count", "late"), [(2, []), (10, [("run timed out after 1 s", "TooSlowError", 8, 2)])])
async def test_items_that_finish_after_the_time_limit_have_not_failed(store, autojump_clock, count, late):
    async def work(item):
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        if not item:
            raise OSError("down")

    config = ParallelConfig(observer="noop", fail_fast=False, max_workers=2, timeout=1)
    result = await process_parallel(range(count), work, config=config, store=store, run_id="r")
    assert result.indices == [1]
    assert grouped(await failures_in(store)) == [*late, ("down", "OSError", 1, 0)] == reported(result)


async def test_failures_before_the_first_call_are_saved_with_it(store, autojump_clock):
    def key(item):
        if item == 3:
            raise ValueError("no key")
        return str(item)

    async def items():
        yield 3
        await trio.sleep(10)
        unclaimed.append((await store.load("r")).status)
        yield 4

    async def work(item):
        seen.append(await failures_in(store))

    unclaimed, seen = [], []
    await process_parallel([0, 1], down, config=LENIENT, store=store, run_id="r", key=key)
    await process_parallel(items(), work, config=LENIENT, store=store, run_id="r", key=key)
    assert unclaimed == ["failed"], "the run is claimed for a call, and not for a failure"
    assert grouped(seen[0]) == [("no key", "ValueError", 1, 0)]


async def test_categories_are_bounded_and_the_rest_is_counted(store):
    async def work(item):
        raise ValueError(f"{item} is down")

    await process_parallel(range(MOST_CATEGORIES + 50), work, config=LENIENT, store=store, run_id="r")
    failures = await failures_in(store)
    assert (failures.failed, failures.other, len(failures.categories)) == (MOST_CATEGORIES + 50, 50, MOST_CATEGORIES)


async def test_a_message_that_is_known_is_counted_however_many_there_are(store):
    async def work(item):
        raise ValueError(f"{item} is down" if item % 2 else "down")

    await process_parallel(range(3 * MOST_CATEGORIES), work, config=LENIENT, store=store, run_id="r")
    failures = await failures_in(store)
    assert (failures.categories[0].message, failures.categories[0].count) == ("down", 1.5 * MOST_CATEGORIES)
    assert failures.failed == failures.other + sum(each.count for each in failures.categories)


async def test_texts_are_clipped(store):
    kind = type("E" * 2_000, (Exception,), {})

    async def work(item):
        raise kind("é" * 5_000 + str(item))

    await process_parallel("ab", work, config=LENIENT, store=store, run_id="r", key=lambda item: item * 3_000)
    (category,) = (await failures_in(store)).categories
    assert category.count == 2, "they differ only after what is stored"
    assert {len(category.message), len(category.type), len(category.first_key)} == {LONGEST_TEXT}
    assert category.message == "é" * (LONGEST_TEXT - 1) + "…"
    assert len((await store.load("r")).state) < 10 * LONGEST_TEXT


class Odd(str):
    __slots__ = ()

    def __len__(self):
        return 1

    def __getitem__(self, place):
        raise RuntimeError

    def __hash__(self):
        raise RuntimeError

    def __format__(self, spec):
        raise RuntimeError


class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError


class Says(Exception):
    def __str__(self):
        return Odd("odd")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("a lone \ud800 surrogate"), "a lone \\ud800 surrogate"),
        (OSError(""), "OSError"),
        (Unsayable(), "Unsayable"),
        (Says(), "odd"),
        (OSError("\ud800" * 5_000), "\\ud800" * (LONGEST_TEXT // 6) + "\\ud…"),
    ],
)
async def test_no_message_can_fail_a_run(store, error, message):
    async def work(item):
        if item == "b":
            raise error
        return item

    result = await process_parallel("abc", work, config=LENIENT, store=store, run_id="r")
    assert (result.results, [failure.error for failure in result.errors]) == (["a", "c"], [error])
    assert [each.message for each in (await failures_in(store)).categories] == [message]


async def test_no_key_can_fail_a_run():
    class Key(str):
        __slots__ = ()

    store = MemoryStore()
    await process_parallel([1], down, config=LENIENT, store=store, run_id="r", key=lambda item: Key("\ud800"))
    (category,) = (await failures_in(store)).categories
    assert category.first_key == "\\ud800"


async def test_a_later_call_forgets_what_failed_in_an_earlier_one(store):
    preserved = msgspec.structs.replace(LENIENT, checkpoint=CheckpointConfig(preserve=True))
    await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r")
    assert (await failures_in(store)).failed == 3
    seen = []

    async def less_down(item):
        seen.append(await failures_in(store))
        if item == 3:
            raise OSError("still")
        return item

    await process_parallel(range(6), less_down, config=msgspec.structs.replace(preserved, max_workers=1), store=store, run_id="r")
    assert seen[0] is None, "from its start on"
    assert grouped(await failures_in(store)) == [("still", "OSError", 1, 3)]

    async def up(item):
        return item

    await process_parallel(range(6), up, config=preserved, store=store, run_id="r")
    assert (await store.load("r")).status == "completed"
    assert await failures_in(store) is None


async def test_a_call_that_completes_the_run_without_calling_anything_forgets_them(store):
    await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r", key=str)
    assert (await failures_in(store)).failed == 3
    preserved = msgspec.structs.replace(LENIENT, checkpoint=CheckpointConfig(preserve=True))
    await process_parallel([0], down, config=preserved, store=store, run_id="r", key=str)
    assert (await store.load("r")).status == "completed"
    assert await failures_in(store) is None


async def test_failures_are_seen_while_the_run_is_going_at_most_once_a_second(autojump_clock):
    store = Watched()
    seen = []

    async def slow(item):
        await trio.sleep(0.1)
        await down(item)

    async def look():
        while True:
            await trio.sleep(0.5)
            seen.append((await failures_in(store)).failed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await process_parallel(range(100), slow, config=msgspec.structs.replace(LENIENT, max_workers=1), store=store, run_id="r")
        nursery.cancel_scope.cancel()
    # Five items fail in a second, and one look is half a second after the other.
    assert len(seen) >= 19
    assert all(0 < 2.5 * number - count <= 6 or count == 50 for number, count in enumerate(seen, start=1)), seen
    saved = [at for at, status, failed in store.saved if status == "running" and failed]
    assert 8 <= len(saved) <= 11
    assert all(later - earlier > journal_module.SHOW_FAILURES - 1e-6 for earlier, later in pairwise(saved))
    assert store.saved[-1][1:] == ("failed", 50)


async def test_saving_them_makes_no_history(store, autojump_clock):
    async def slow(item):
        await trio.sleep(1)
        await down(item)

    await process_parallel(range(40), slow, config=msgspec.structs.replace(LENIENT, max_workers=1), store=store, run_id="r")
    assert [(step.step, step.status) for step in await store.history("r")] == [(0, "running"), (20, "failed")]


async def test_a_run_without_failures_saves_nothing_more(autojump_clock):
    store = Watched()

    async def slow(item):
        await trio.sleep(1)
        return item

    await process_parallel(range(40), slow, config=LENIENT, store=store, run_id="r")
    assert [status for _, status, _ in store.saved] == ["running", "completed"]


async def test_no_new_failure_is_no_new_save(autojump_clock):
    store = Watched()

    async def slow(item):
        await trio.sleep(1)
        if not item:
            raise OSError("down")

    await process_parallel(range(40), slow, config=LENIENT, store=store, run_id="r")
    assert [(status, failed) for _, status, failed in store.saved] == [("running", 0), ("running", 1), ("failed", 1)]


@pytest.mark.parametrize("error", [CheckpointStoreError("disk full"), CheckpointConflictError("lost"), OSError("gone")])
async def test_a_store_that_refuses_them_does_not_fail_the_run(autojump_clock, error):
    class Refusing(Watched):
        refused = 0

        async def save(self, checkpoint, epoch):
            if checkpoint.status == "running" and read_fan_out(checkpoint.state).failures is not None:
                self.refused += 1
                raise error
            await super().save(checkpoint, epoch)

    async def slow(item):
        await trio.sleep(1)
        return await down(item)

    store = Refusing()
    result = await process_parallel(range(40), slow, config=LENIENT, store=store, run_id="r")
    assert store.refused > 3, "it is tried again"
    assert (len(result.results), len(result.errors), result.status) == (20, 20, "complete")
    assert (await failures_in(store)).failed == 20


async def test_they_are_a_part_of_what_is_verified():
    store = MemoryStore()
    await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r")
    run = store._runs["r"]
    checkpoint = await store.load("r")
    assert b"odd" in checkpoint.state
    run.steps[run.last] = msgspec.structs.replace(checkpoint, state=checkpoint.state.replace(b"odd", b"eve"))
    with pytest.raises(CheckpointCorruptError):
        await load_verified(store, "r")


class OldHeader(msgspec.Struct, array_like=True):
    total: int | None
    named: bool
    first: bytes


async def put(store, state):
    """Replace the state of the run by `state`."""
    checkpoint = await store.load("r")
    session = await Session.claim(store, "r")
    await session.save(msgspec.structs.replace(checkpoint, state=state, digest=""))


@pytest.mark.parametrize("rest", [[], [None], [{"of": "a newer form"}], [[1, 2]], [[1, 0, [["m", "T", "many", 0, None]]], "and more"]])
async def test_rows_without_them_or_with_others_are_resumed_and_checked(store, rest):
    await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r")
    await put(store, msgspec.msgpack.encode([6, False, fingerprint(0), *rest]))
    assert await failures_in(store) is None
    for items, why in ((range(7), "there were 6, and now there are 7"), ([9, 1, 2, 3, 4, 5], "item 0 differs")):
        with pytest.raises(CheckpointMismatchError, match=why):
            await process_parallel(items, down, config=LENIENT, store=store, run_id="r")
    with pytest.raises(CheckpointMismatchError, match="started without key="):
        await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r", key=str)
    again = []

    async def up(item):
        again.append(item)
        return item

    result = await process_parallel(range(6), up, config=LENIENT, store=store, run_id="r")
    assert (result.results, sorted(again)) == (list(range(6)), [1, 3, 5])


async def test_what_read_the_rows_before_still_does(store):
    await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r")
    header = msgspec.msgpack.decode((await store.load("r")).state, type=OldHeader)
    assert (header.total, header.named, header.first) == (6, False, fingerprint(0))


@pytest.mark.parametrize("state", [b"", b"\xc1", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode([1]), b"\x93\xc0\xc2\xa1\xff"])
def test_a_state_of_something_else_shows_nothing(state):
    assert read_fan_out(state) == FanOut()


async def test_wrong_calls_are_refused_as_before_where_items_have_failed(store):
    await process_parallel(range(6), down, config=LENIENT, store=store, run_id="r")
    for items in (range(5), range(7), [9, 1, 2, 3, 4, 5]):
        with pytest.raises(CheckpointMismatchError):
            await process_parallel(items, down, config=LENIENT, store=store, run_id="r")
    assert (await failures_in(store)).failed == 3, "what is refused changes nothing"


async def test_fan_outs_in_nodes_have_them_too(store):
    graph = StateGraph(GraphConfig(name="g", observer="noop"), store=store)
    graph.add_node("fan", parallel_node(down, items=range(6), aggregate=lambda state, result: state, config=ParallelConfig(observer="noop", max_failures=2)))
    graph.set_entry_point("fan")
    graph.set_exit_point("fan")
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="g")
    assert (await failures_in(store, "g..0/fan")).failed == 3


async def test_branches_have_them_too(store):
    async def fine(state):
        return state

    async def broken(state):
        raise OSError("down")

    graph = StateGraph(GraphConfig(name="g", observer="noop"), store=store)
    graph.add_node("both", branches_node({"fine": fine, "broken": broken}, config=ParallelConfig(fail_fast=False)))
    graph.set_entry_point("both")
    graph.set_exit_point("both")
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="g")
    (category,) = (await failures_in(store, "g..0/both")).categories
    assert (category.message, category.type, category.first_key) == ("down", "OSError", "broken")


def test_unfinished_items_are_counted_where_the_results_are_known_to_be_of_the_call():
    assert count_unfinished(FanOut(total=10), 4) == 6
    assert count_unfinished(FanOut(total=None), 4) is None
    assert count_unfinished(FanOut(total=10, named=True), 4) is None
    assert count_unfinished(FanOut(total=3), 4) == 0


PROGRAM = """
import trio
from trioflow import ParallelConfig, process_parallel
from trioflow.checkpoint.sqlite import SqliteStore

async def work(item):
    if item < 3:
        raise OSError("down")
    await trio.sleep_forever()

async def run():
    async with SqliteStore("runs.db") as store:
        config = ParallelConfig(observer="noop", fail_fast=False, max_workers=4)
        await process_parallel(range(10), work, config=config, store=store, run_id="r")

trio.run(run)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_what_was_saved_of_them_survives_a_kill(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(trioflow.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-P", "-c", PROGRAM], cwd=tmp_path, env=environment) as process:
        try:
            trio.run(wait_for_failures, tmp_path / "runs.db")
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    status, categories = trio.run(wait_for_failures, tmp_path / "runs.db")
    assert (status, categories) == ("running", [("down", "OSError", 3, 0)])


async def wait_for_failures(path):
    async with SqliteStore(path) as store:
        with trio.fail_after(30):
            while True:
                with suppress(CheckpointNotFoundError):
                    failures = await failures_in(store)
                    if failures is not None and failures.failed == 3:
                        return (await store.load("r")).status, grouped(failures)
                await trio.sleep(0.05)

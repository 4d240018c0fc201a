"""A source that grows: what is put is worked on, in order, and the run ends when nobody can put any more."""

import sys
import threading

import pytest
import trio

from trioflow import (
    ConfigError,
    MemoryStore,
    ParallelConfig,
    ParallelError,
    WorkQueue,
    open_parallel,
    process_chain,
    process_parallel,
)

ONE = ParallelConfig(max_workers=1, observer="noop")
FEW = ParallelConfig(max_workers=3, observer="noop")
COLLECT_ALL = ParallelConfig(max_workers=3, fail_fast=False, observer="noop")


def tree(queue, depth):
    """Return a processor that puts two children for each node above `depth`."""

    async def visit(node):
        await trio.sleep(len(node) % 3)
        if len(node) < depth:
            queue.put(node + "l")
            queue.put(node + "r")
        return node

    return visit


def nodes(depth):
    return sorted(f"{n:b}".replace("0", "l").replace("1", "r")[1:] for n in range(1, 2 ** (depth + 1)))


# --- growing


async def test_what_a_processor_puts_is_worked_on(autojump_clock):
    queue = WorkQueue([""])
    result = await process_parallel(queue, tree(queue, 5), config=FEW)
    assert sorted(result.results) == nodes(5)
    assert result.total == 63
    assert result.status == "complete"
    assert queue.waiting == 0


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_the_body_of_a_stream_puts_is_worked_on(autojump_clock, ordered):
    queue = WorkQueue([""])
    seen = []
    async with open_parallel(queue, tree(queue, 0), config=FEW, ordered=ordered) as run:
        async for outcome in run:
            await trio.sleep(1)
            seen.append(outcome)
            if len(outcome.result) < 4:
                queue.put(outcome.result + "l")
                queue.put(outcome.result + "r")
    assert sorted(outcome.result for outcome in seen) == nodes(4)
    assert not ordered or [outcome.index for outcome in seen] == list(range(31))
    assert run.result().status == "complete"


async def test_items_are_pulled_in_the_order_in_which_they_were_put():
    queue = WorkQueue(range(50))

    async def work(item):
        await trio.lowlevel.checkpoint()
        if item < 50:
            queue.put(item + 100)
        return item

    result = await process_parallel(queue, work, config=ONE)
    assert result.results == [*range(50), *range(100, 150)]


async def test_an_empty_queue_is_an_empty_run():
    assert (await process_parallel(WorkQueue(), tree(None, 0), config=FEW)).total == 0
    async with open_parallel(WorkQueue(), tree(None, 0), config=FEW) as run:
        assert [outcome async for outcome in run] == []


async def test_a_stream_does_not_end_before_its_body_asks(autojump_clock):
    queue = WorkQueue()
    async with open_parallel(queue, tree(queue, 0), config=FEW) as run:
        await trio.sleep(5)
        queue.put("")
        outcome = await anext(run)
        await trio.sleep(5)
        queue.put("l")
        assert [outcome.result async for outcome in run] == ["l"]
    assert outcome.result == ""


async def test_items_may_come_from_any_task_while_something_is_in_hand(autojump_clock):
    queue = WorkQueue(["slow"])

    async def work(item):
        await trio.sleep(10 if item == "slow" else 0)
        return item

    async def put_some():
        for number in range(5):
            await trio.sleep(1)
            queue.put(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put_some)
        result = await process_parallel(queue, work, config=ParallelConfig(max_workers=2, observer="noop"))
    assert result.results == ["slow", 0, 1, 2, 3, 4]
    assert trio.current_time() == 10


async def test_progress_and_on_outcome_may_put():
    for name in ("progress", "on_outcome"):
        queue = WorkQueue([0])

        def put_next(*call, queue=queue, name=name):
            last = call[2] if name == "progress" else call[0].result
            if last < 40:
                queue.put(last + 1)

        async def work(item):
            await trio.lowlevel.checkpoint()
            return item

        result = await process_parallel(queue, work, config=FEW, **{name: put_next})
        assert result.results == list(range(41))


async def test_several_loops_may_iterate_and_put(autojump_clock):
    queue = WorkQueue([""])
    seen = []

    async def consume(run, pause):
        async for outcome in run:
            seen.append(outcome.result)
            await trio.sleep(pause)
            if len(outcome.result) < 5:
                queue.put(outcome.result + "l")
                queue.put(outcome.result + "r")

    async with open_parallel(queue, tree(queue, 0), config=FEW) as run, trio.open_nursery() as nursery:
        for pause in (0, 3, 7):
            nursery.start_soon(consume, run, pause)
    assert sorted(seen) == nodes(5)


async def test_a_loop_that_is_left_early_keeps_nobody_waiting(autojump_clock):
    queue = WorkQueue(range(3))

    async def take_one(run, task_status):
        async for _ in run:
            task_status.started()
            await trio.sleep(3)
            return

    async def take_rest(run):
        return [outcome.result async for outcome in run]

    async def work(item):
        await trio.lowlevel.checkpoint()
        return item

    with trio.fail_after(10):
        async with open_parallel(queue, work, config=ONE) as run, trio.open_nursery() as nursery:
            await nursery.start(take_one, run)
            nursery.start_soon(take_rest, run)
    assert trio.current_time() == 3


async def test_never_more_is_held_than_the_window(autojump_clock):
    queue = WorkQueue(range(40))
    held = most = 0

    async def work(item):
        nonlocal held, most
        held += 1
        most = max(most, held)
        await trio.sleep(1)
        return item

    config = ParallelConfig(max_workers=2, buffer=3, observer="noop")
    async with open_parallel(queue, work, config=config) as run:
        await trio.sleep(100)
        assert held == 5
        assert queue.waiting == 35
        queue.put(40)
        async for _ in run:
            held -= 1
    assert most == 5
    assert run.result().total == 41


async def test_what_is_put_where_there_is_no_room_begins_when_there_is_some(autojump_clock):
    queue = WorkQueue(range(5))
    begun = []

    async def work(item):
        begun.append(item)
        await trio.sleep(1)
        return item

    config = ParallelConfig(max_workers=2, buffer=3, observer="noop")
    async with open_parallel(queue, work, config=config) as run:
        await trio.sleep(10)
        queue.put(5)
        queue.put(6)
        await trio.sleep(10)
        assert begun == [0, 1, 2, 3, 4]
        for _ in range(3):
            await anext(run)
        # The body does not ask for more meanwhile.
        await trio.sleep(10)
        assert begun == [0, 1, 2, 3, 4, 5, 6]
        assert len([outcome async for outcome in run]) == 4


# --- ending


async def test_put_after_the_end_is_an_error(autojump_clock):
    queue = WorkQueue(["a"])
    await process_parallel(queue, tree(queue, 1), config=FEW)
    with pytest.raises(RuntimeError, match=r"put\(\) came after the end of the queue's run"):
        queue.put("b")
    assert queue.waiting == 0


async def test_put_after_the_stream_has_decided_to_end_is_an_error_before_the_block_is_left(autojump_clock):
    queue = WorkQueue([""])
    async with open_parallel(queue, tree(queue, 1), config=FEW) as run:
        async for _ in run:
            pass
        with pytest.raises(RuntimeError, match="after the end"):
            queue.put("b")


async def test_a_failure_that_ends_the_run_leaves_the_rest_to_another(autojump_clock):
    queue = WorkQueue(range(20))

    async def work(item):
        await trio.sleep(1)
        if item == 2:
            raise ValueError(item)
        return item

    with pytest.raises(ParallelError) as caught:
        await process_parallel(queue, work, config=FEW)
    result = caught.value.result
    assert sorted([*result.indices, 2, *result.unfinished]) == list(range(result.total))
    assert queue.waiting == 20 - result.total
    rest = await process_parallel(queue, work, config=FEW)
    assert rest.results == list(range(result.total, 20))


async def test_a_drained_run_takes_puts_and_leaves_them(autojump_clock):
    queue = WorkQueue([""])
    async with open_parallel(queue, tree(queue, 9), config=FEW) as run:
        outcomes = []
        async for outcome in run:
            outcomes.append(outcome)
            if len(outcomes) == 5:
                run.drain()
    result = run.result()
    assert result.status == "drained"
    assert len(result.results) + len(result.unfinished) == result.total
    # Every node that was visited has put two; the first one was there before.
    assert queue.waiting == 2 * len(result.results) + 1 - result.total
    assert not result.errors


async def test_a_cancelled_stream_lets_go_of_the_queue(autojump_clock):
    queue = WorkQueue([""])
    with trio.move_on_after(5):
        await process_parallel(queue, tree(queue, 30), config=FEW)
    with pytest.raises(RuntimeError, match="after the end"):
        queue.put("x")
    assert queue.waiting > 0
    async with open_parallel(queue, tree(queue, 0), config=FEW) as run:
        run.cancel()
    assert run.result().status == "cancelled"


async def test_a_timeout_fails_what_was_pulled_and_leaves_what_was_not(autojump_clock):
    queue = WorkQueue(range(20))
    config = ParallelConfig(max_workers=2, fail_fast=False, timeout=2.5, observer="noop")

    async def work(item):
        await trio.sleep(1)
        return item

    result = await process_parallel(queue, work, config=config)
    assert result.results == [0, 1, 2, 3]
    assert {type(failure.error) for failure in result.errors} == {trio.TooSlowError}
    assert len(result.errors) + 4 == result.total == 20 - queue.waiting
    assert result.status == "timeout"


async def test_failures_of_a_collecting_run_do_not_end_it(autojump_clock):
    queue = WorkQueue([8])

    async def count_down(item):
        await trio.lowlevel.checkpoint()
        if item:
            queue.put(item - 1)
        if item % 2:
            raise ValueError(item)

    result = await process_parallel(queue, count_down, config=COLLECT_ALL)
    assert [failure.item for failure in result.errors] == [7, 5, 3, 1]
    assert result.total == 9


async def test_an_item_that_leaves_a_scope_open_does_not_keep_the_run():
    queue = WorkQueue([3])

    async def leak(item):
        if item:
            queue.put(item - 1)
        trio.CancelScope().__enter__().cancel()
        await trio.lowlevel.checkpoint()

    config = ParallelConfig(max_workers=1, fail_fast=False, observer="noop", raise_if_all_failed=False)
    result = await process_parallel(queue, leak, config=config)
    assert len(result.errors) == 4


# --- one run at a time, one thread


async def test_two_runs_at_a_time_are_refused(autojump_clock):
    queue = WorkQueue([""])

    async def work(item):
        with pytest.raises(ConfigError, match="items must be a WorkQueue that no other run pulls from"):
            await process_parallel(queue, tree(queue, 0), config=FEW)
        with pytest.raises(ConfigError, match="no other run"):
            open_parallel(queue, tree(queue, 0), config=FEW)
        return item

    assert (await process_parallel(queue, work, config=FEW)).total == 1


async def test_of_two_streams_opened_at_once_the_second_entered_is_refused(autojump_clock):
    queue = WorkQueue(["", "l"])
    first, second = (open_parallel(queue, tree(queue, 0), config=FEW) for _ in range(2))
    async with first as run:
        await anext(run)
        with pytest.raises(ConfigError, match="no other run"):
            async with second as other:
                assert [outcome async for outcome in other] == []
        queue.put("r")
        assert len([outcome async for outcome in run]) == 2


async def test_put_from_another_thread_is_refused_and_changes_nothing():
    queue = WorkQueue([""])

    async def work(item):
        with pytest.raises(RuntimeError, match="use trio.from_thread.run_sync"):
            await trio.to_thread.run_sync(queue.put, "x")
        caught = []

        def elsewhere():
            async def main():
                try:
                    queue.put("y")
                except RuntimeError as error:
                    caught.append(error)

            trio.run(main)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert len(caught) == 1
        if not item:
            await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(queue.put, "z"))
        return item

    assert (await process_parallel(queue, work, config=FEW)).results == ["", "z"]


# --- dedupe


async def test_dedupe_takes_each_key_once():
    queue = WorkQueue(["a", "b", "A"], dedupe=str.lower)
    assert queue.waiting == 2
    assert not queue.put("B")
    assert queue.put("c")
    taken = []

    async def work(item):
        await trio.lowlevel.checkpoint()
        taken.append(queue.put("D"))
        return item

    assert (await process_parallel(queue, work, config=FEW)).results == ["a", "b", "c", "D"]
    assert taken.count(True) == 1


def test_bad_arguments_are_refused():
    async def later(item):
        return item

    for arguments, field in [
        ({"initial": 3}, "initial"),
        ({"initial": None}, "initial"),
        ({"dedupe": 3}, "dedupe"),
        ({"dedupe": later}, "dedupe"),
    ]:
        with pytest.raises(ConfigError) as caught:
            WorkQueue(**arguments)
        assert caught.value.field == field
    with pytest.raises(ConfigError, match="what dedupe returned must be hashable"):
        WorkQueue([[1]], dedupe=lambda item: item)
    queue = WorkQueue(dedupe=lambda item: item)
    with pytest.raises(ConfigError, match="hashable"):
        queue.put([])
    assert queue.waiting == 0


async def test_a_chain_does_not_take_a_queue():
    async def step(item, state):
        return state

    with pytest.raises(ConfigError, match="items"):
        await process_chain(WorkQueue([1]), 0, step)


def test_a_repr_shows_no_items():
    assert repr(WorkQueue(["secret"])) == "<WorkQueue: 1 waiting, not begun>"


def test_an_item_that_waits_costs_little():
    queue = WorkQueue(range(100_000))
    assert sys.getsizeof(queue._waiting) / 100_000 < 10


# --- kept


def by_name(node):
    return f"node {node}"


async def test_a_kept_run_needs_a_key():
    with pytest.raises(ConfigError, match="key must be a plain function that names an item, where a WorkQueue is kept"):
        await process_parallel(WorkQueue([""]), tree(None, 0), store=MemoryStore(), run_id="crawl")


async def test_put_in_a_processor_of_a_kept_run_is_an_error(autojump_clock):
    queue = WorkQueue([""])
    inner = WorkQueue(["inner"])
    refused = []

    async def put(item):
        try:
            queue.put(item)
        except RuntimeError as error:
            refused.append(str(error))
        await trio.lowlevel.checkpoint()

    async def visit(item):
        await put(item)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, item)
        await process_parallel(["inner"], put, config=FEW)
        await process_parallel(inner, put, config=FEW, store=MemoryStore(), run_id="inner", key=by_name)

    result = await process_parallel(queue, visit, config=FEW, store=MemoryStore(), run_id="crawl", key=by_name)
    assert result.total == 1
    assert len(refused) == 4
    assert "put items in the body of a stream" in refused[0]


async def test_a_kept_crawl_goes_on_where_it_was(autojump_clock):
    store = MemoryStore()
    calls = []

    async def visit(node):
        await trio.sleep(1)
        calls.append(node)
        return node

    async def crawl(give_up_after):
        queue = WorkQueue([""], dedupe=by_name)
        taken = []
        with trio.move_on_after(give_up_after):
            async with open_parallel(queue, visit, config=FEW, store=store, run_id="crawl", key=by_name) as run:
                async for outcome in run:
                    taken.append(outcome.result)
                    if len(outcome.result) < 5:
                        queue.put(outcome.result + "l")
                        queue.put(outcome.result + "r")
        return taken

    first = await crawl(5.5)
    assert 5 <= len(first) < 63
    assert sorted(await crawl(1000)) == nodes(5)
    assert sorted(calls) == nodes(5)
    assert list(await store.list_runs()) == []

"""Values to watch: computed when nobody listens, published once somebody does."""

from contextlib import aclosing

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow._live import Live


class Box:
    def __init__(self):
        self.value = 0
        self.live = Live(lambda: self.value)

    def set(self, value):
        self.value = value
        self.live.publish()


async def test_the_value_is_current_without_listeners():
    box = Box()
    box.set(3)
    assert box.live.value == 3
    assert repr(box.live) == "<Live 3>"


async def test_wait_for_a_value_or_a_predicate():
    box = Box()
    seen = []

    async def wait(what):
        seen.append(await box.live.wait_value(what))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 2)
        nursery.start_soon(wait, lambda value: value > 2)
        for value in (1, 2, 3):
            await wait_all_tasks_blocked()
            box.set(value)
    assert seen == [2, 3]
    with assert_checkpoints():
        assert await box.live.wait_value(3) == 3


async def test_a_value_can_be_asked_to_hold(autojump_clock):
    box = Box()

    async def flicker():
        await trio.sleep(1)
        box.set(1)
        await trio.sleep(1)
        box.set(0)
        await trio.sleep(1)
        box.set(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flicker)
        await box.live.wait_value(1, held_for=2)
    assert trio.current_time() == pytest.approx(5)


@pytest.mark.parametrize(("what", "expected"), [((), [0, 2, 3]), ((lambda value: value > 1,), [2, 3]), ((3,), [3])])
async def test_eventual_values_skip_what_changed_meanwhile_and_end_with_the_latest(what, expected):
    box = Box()
    seen = []

    async def watch():
        async for value in box.live.eventual_values(*what):
            seen.append(value)
            if value == 3:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        box.set(1)
        box.set(2)
        await wait_all_tasks_blocked()
        box.set(3)
    assert seen == expected


async def test_eventual_values_need_no_closing():
    box = Box()
    async for _ in box.live.eventual_values():
        break
    async with aclosing(box.live.eventual_values()) as values:
        with assert_checkpoints():
            await anext(values)


async def test_eventual_values_end_with_the_run_after_the_last_value():
    box = Box()
    seen, late = [], []

    async def watch(into):
        async for value in box.live.eventual_values():
            into.append(value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, seen)
        await wait_all_tasks_blocked()
        box.set(1)
        box.live.end()
        nursery.start_soon(watch, late)
    assert seen == [0, 1]
    assert late == [1]
    with assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(box.live.eventual_values(99))

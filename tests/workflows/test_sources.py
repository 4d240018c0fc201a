"""Where items come from: pulled lazily, closed on every way out, and their errors come out as they are."""

import decimal
from contextlib import suppress
from contextvars import ContextVar

import pytest
import trio
import trio.testing

from trioflow import ParallelConfig, ParallelError, open_parallel, process_parallel

CONFIG = ParallelConfig(max_workers=2, buffer=1, observer="noop")


async def same(item):
    await trio.lowlevel.checkpoint()
    return item


async def fail(item):
    await trio.lowlevel.checkpoint()
    raise ValueError("boom")


class Numbers:
    """A sync or async source that notes how far it was pulled and whether it was closed."""

    def __init__(self, stop=10, error=None):
        self.stop, self.error = stop, error
        self.pulled, self.closed = 0, False

    def _more(self):
        return self.stop is None or self.pulled < self.stop

    def sync(self):
        try:
            while self._more():
                self.pulled += 1
                yield self.pulled - 1
            if self.error:
                raise self.error
        finally:
            self.closed = True

    async def async_(self):
        try:
            while self._more():
                await trio.lowlevel.checkpoint()
                self.pulled += 1
                yield self.pulled - 1
            if self.error:
                raise self.error
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.closed = True


@pytest.fixture(params=["sync", "async_"])
def kind(request):
    return request.param


def start(numbers, kind):
    return getattr(numbers, kind)()


async def test_lists_generators_and_async_generators_give_the_same(kind):
    result = await process_parallel(start(Numbers(20), kind), same, config=CONFIG)
    assert result.results == list(range(20))
    assert result.total == 20


async def test_a_generator_is_closed_at_the_normal_end(kind):
    numbers = Numbers()
    await process_parallel(start(numbers, kind), same, config=CONFIG)
    assert numbers.closed


async def test_a_generator_is_closed_after_a_failure(kind):
    numbers = Numbers(None)
    with pytest.raises(ParallelError):
        await process_parallel(start(numbers, kind), fail, config=CONFIG)
    assert numbers.closed


async def test_a_generator_is_closed_under_an_outer_cancellation(kind, autojump_clock):
    numbers = Numbers(None)

    async def slow(item):
        await trio.sleep(10)

    with trio.move_on_after(1):
        await process_parallel(start(numbers, kind), slow, config=CONFIG)
    assert numbers.closed


async def test_a_generator_is_closed_when_the_run_is_cancelled_before_it_begins(kind):
    numbers = Numbers(None)
    generator = start(numbers, kind)
    with trio.CancelScope() as scope:
        scope.cancel()
        await process_parallel(generator, same, config=CONFIG)
    assert numbers.pulled == 0
    if kind == "sync":
        assert generator.gi_frame is None
    else:
        assert generator.ag_frame is None


async def test_a_generator_is_closed_when_a_stream_is_left_early(kind):
    numbers = Numbers(None)
    async with open_parallel(start(numbers, kind), same, config=CONFIG) as run:
        async for _ in run:
            break
    assert numbers.closed


async def test_an_idle_async_generator_can_await_while_it_is_closed(autojump_clock):
    cleaned = []

    async def source():
        try:
            for item in range(100):
                yield item
        finally:
            await trio.sleep(1)
            cleaned.append("up")

    async def forever(item):
        await trio.sleep_forever()

    with trio.move_on_after(10):
        await process_parallel(source(), forever, config=CONFIG)
    assert cleaned == ["up"]


async def test_an_async_generator_may_hold_scopes_and_nurseries_open():
    async def source():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            with trio.fail_after(100):
                for item in range(100):
                    yield item
            nursery.cancel_scope.cancel()

    result = await process_parallel(source(), same, config=CONFIG)
    assert len(result.results) == 100
    async with open_parallel(source(), same, config=CONFIG) as run:
        async for _ in run:
            break
    assert run.result().errors == []


async def test_the_generator_of_an_iterable_is_closed(kind):
    numbers = Numbers(None)

    class Iterable:
        def __iter__(self):
            return numbers.sync()

    class AsyncIterable:
        def __aiter__(self):
            return numbers.async_()

    items = Iterable() if kind == "sync" else AsyncIterable()
    with pytest.raises(ParallelError):
        await process_parallel(items, fail, config=CONFIG)
    assert numbers.closed


async def test_an_iterator_that_is_no_generator_is_left_alone():
    class Closable:
        closed = False

        def __init__(self):
            self.items = iter(range(100))

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.items)

        def close(self):
            self.closed = True

    items = Closable()
    with pytest.raises(ParallelError):
        await process_parallel(items, fail, config=CONFIG)
    assert not items.closed
    assert next(items) > 0


async def test_a_receive_channel_is_a_source_and_is_left_open():
    send, receive = trio.open_memory_channel(10)
    for item in range(5):
        send.send_nowait(item)
    async with open_parallel(receive, same, config=CONFIG) as run:
        async for outcome in run:
            if outcome.index == 4:
                break
    send.send_nowait("still open")
    assert receive.receive_nowait() == "still open"


async def test_a_generator_that_will_not_close_in_time_is_abandoned(autojump_clock):
    async def clinging():
        try:
            while True:
                yield 1
        finally:
            await trio.sleep(1000)

    with pytest.raises(ParallelError):
        await process_parallel(clinging(), fail, config=CONFIG)
    assert trio.current_time() == pytest.approx(5, abs=0.5)


async def test_a_source_that_raises_stops_the_run_with_a_note(kind, autojump_clock):
    numbers = Numbers(3, LookupError("source broke"))

    async def slow(item):
        await trio.sleep(100)

    config = ParallelConfig(max_workers=5, observer="noop")
    with pytest.raises(LookupError, match="source broke") as caught:
        await process_parallel(start(numbers, kind), slow, config=config)
    assert any("after 3 items pulled" in note for note in caught.value.__notes__)
    assert trio.current_time() < 50
    assert numbers.closed


async def test_no_item_begins_after_a_worker_that_has_just_begun_found_that_the_source_broke():
    class Breaks:
        """Raises once, and has more."""

        def __init__(self):
            self.pulled = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.pulled += 1
            if self.pulled == 5:
                raise LookupError("source broke")
            return self.pulled

    async def cling(item):
        began.append(item)
        if item == 4:
            # The other worker begins meanwhile, and pulls for those after it.
            with suppress(trio.Cancelled):
                await trio.sleep_forever()

    began = []
    with pytest.raises(LookupError, match="source broke"):
        await process_parallel(Breaks(), cling, config=ParallelConfig(max_workers=2, buffer=2, observer="noop"))
    assert began == [1, 2, 3, 4]


async def test_a_source_that_raises_a_non_exception_stops_the_run(kind):
    numbers = Numbers(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        await process_parallel(start(numbers, kind), same, config=CONFIG)


async def test_a_source_that_raises_a_group_is_not_taken_apart(kind):
    group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    with pytest.raises(ExceptionGroup) as caught:
        await process_parallel(start(Numbers(3, group), kind), same, config=CONFIG)
    assert caught.value is group


async def test_a_source_error_beats_an_item_error(autojump_clock):
    def source():
        yield 0
        yield 1
        raise LookupError("source broke")

    async def fail_when_cancelled(item):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("less grave")

    with pytest.raises(LookupError):
        await process_parallel(source(), fail_when_cancelled, config=ParallelConfig(max_workers=3, observer="noop"))


async def test_a_source_that_fails_to_close_stops_the_run_with_its_error(kind):
    def sync():
        try:
            yield 0
            yield 1
            yield 2
        finally:
            raise OSError("cannot close")

    async def async_():
        try:
            yield 0
            yield 1
            yield 2
        finally:
            raise OSError("cannot close")

    items = sync() if kind == "sync" else async_()
    with pytest.raises(OSError, match="cannot close"):
        async with open_parallel(items, same, config=ParallelConfig(max_workers=1, observer="noop")) as run:
            async for _ in run:
                break


async def test_a_source_whose_iter_raises_stops_the_run():
    class Broken:
        def __iter__(self):
            raise LookupError("no iterator")

    class AsyncBroken:
        def __aiter__(self):
            raise LookupError("no iterator")

    for items in (Broken(), AsyncBroken()):
        with pytest.raises(LookupError) as caught:
            await process_parallel(items, same, config=CONFIG)
        assert any("after 0 items pulled" in note for note in caught.value.__notes__)


async def test_a_source_that_raises_a_stale_cancelled_fails_the_run(stale):
    def source():
        yield 0
        raise stale

    async def async_source():
        yield 0
        raise stale

    for items in (source(), async_source()):
        with pytest.raises(RuntimeError) as caught:
            await process_parallel(items, same, config=CONFIG)
        assert caught.value.__cause__ is stale


@pytest.mark.parametrize("ordered", [False, True])
async def test_never_more_than_workers_plus_buffer_pulled_and_not_yielded(kind, ordered):
    numbers = Numbers(200)
    config = ParallelConfig(max_workers=3, buffer=2, observer="noop")
    yielded, most = 0, 0
    import random

    rng = random.Random(5)

    async def jittery(item):
        for _ in range(rng.randrange(6)):
            await trio.lowlevel.checkpoint()
        return item

    async def watch():
        nonlocal most
        while True:
            most = max(most, numbers.pulled - yielded)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async with open_parallel(start(numbers, kind), jittery, config=config, ordered=ordered) as run:
            async for _ in run:
                yielded += 1
                most = max(most, numbers.pulled - yielded)
                for _ in range(rng.randrange(4)):
                    await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert yielded == 200
    assert 3 < most <= 5


async def test_an_async_source_is_pulled_at_most_workers_plus_buffer_ahead(autojump_clock):
    numbers = Numbers(None)

    async def forever(item):
        await trio.sleep_forever()

    with trio.move_on_after(1):
        await process_parallel(
            numbers.async_(), forever, config=ParallelConfig(max_workers=3, buffer=2, observer="noop")
        )
    assert numbers.pulled == 5


async def test_a_sync_source_is_pulled_ahead_by_at_most_the_window(autojump_clock):
    numbers = Numbers(None)

    async def forever(item):
        await trio.sleep_forever()

    with trio.move_on_after(1):
        config = ParallelConfig(max_workers=3, buffer=2, observer="noop")
        await process_parallel(numbers.sync(), forever, config=config)
    assert 3 <= numbers.pulled <= 5


async def test_the_source_is_pulled_ahead_while_every_worker_is_busy(autojump_clock):
    pulled = []
    free = trio.Event()

    def items():
        for number in range(20):
            pulled.append(number)
            yield number

    async def last_ones_block(item):
        if item >= 4:
            await free.wait()
        return item

    config = ParallelConfig(max_workers=2, buffer=4, observer="noop")
    async with open_parallel(items(), last_ones_block, config=config) as run:
        for _ in range(4):
            await anext(run)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pulled) >= 9  # of which four are done and two are in hand; room for one may be left
        free.set()
        assert len([outcome async for outcome in run]) == 16


async def test_a_slow_async_source_feeds_idle_workers_as_it_gives(autojump_clock):
    async def source():
        for item in range(5):
            await trio.sleep(1)
            yield item

    finished = []

    async def note(item):
        await trio.sleep(0.5)
        finished.append((item, trio.current_time()))

    await process_parallel(source(), note, config=CONFIG)
    assert [round(when, 3) for _, when in finished] == [1.5, 2.5, 3.5, 4.5, 5.5]


async def test_a_plain_generator_finds_its_context_again_and_no_processor_sees_it():
    color = ContextVar("color", default="none")
    precisions, colors, inside = [], [], []

    def source():
        token = color.set("red")
        with decimal.localcontext() as context:
            context.prec = 5
            for item in range(20):
                yield item
                inside.append((decimal.getcontext().prec, color.get()))
        color.reset(token)

    async def work(item):
        await trio.lowlevel.checkpoint()
        precisions.append(decimal.getcontext().prec)
        colors.append(color.get())

    outside = decimal.getcontext().prec
    await process_parallel(source(), work, config=CONFIG)
    assert inside == [(5, "red")] * 20
    assert (set(precisions), set(colors)) == ({outside}, {"none"})


async def test_an_infinite_source_can_be_streamed():
    numbers = Numbers(None)
    seen = []
    async with open_parallel(numbers.sync(), same, config=CONFIG, ordered=True) as run:
        async for outcome in run:
            seen.append(outcome.result)
            if len(seen) == 50:
                break
    assert seen == list(range(50))


@pytest.mark.parametrize("fail_fast", [False, True])
async def test_a_timeout_before_the_first_item_of_an_async_source_fails_the_item_waited_for(fail_fast, autojump_clock):
    async def source():
        await trio.sleep(5)
        yield 1

    config = ParallelConfig(max_workers=2, fail_fast=fail_fast, timeout=1, observer="noop")
    items = source()
    with pytest.raises(ParallelError) as caught:
        await process_parallel(items, same, config=config)
    assert [(failure.index, type(failure.error)) for failure in caught.value.errors] == [(0, trio.TooSlowError)]
    assert caught.value.result.status == "timeout"
    assert items.ag_frame is None


@pytest.mark.parametrize("face", ["process", "stream"])
async def test_an_async_generator_that_will_not_be_cancelled_is_pulled_no_further(face, autojump_clock):
    pulled = []

    async def stubborn():
        for item in range(1000):
            try:
                await trio.sleep(1)
            except trio.Cancelled:
                pass
            pulled.append(item)
            yield item

    items = stubborn()
    with trio.move_on_after(3.5) as scope:
        if face == "process":
            await process_parallel(items, same, config=CONFIG)
        else:
            async with open_parallel(items, same, config=CONFIG) as run:
                async for _ in run:
                    pass
            assert run.result().total == 4
    assert scope.cancelled_caught
    assert pulled == [0, 1, 2, 3]
    assert items.ag_frame is None


@pytest.mark.parametrize("length", [0, 1, 3, 10, 2**40])
async def test_a_length_that_lies_is_not_believed(length):
    class Lying(list):
        def __len__(self):
            return length

    result = await process_parallel(Lying(range(5)), same, config=CONFIG)
    assert (result.results, result.total, result.unfinished) == ([0, 1, 2, 3, 4], 5, [])
    assert result.status == "complete"

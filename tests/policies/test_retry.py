"""`with_retry`: what is repeated, how often, and how long it waits."""

import gc
import weakref

import msgspec
import pytest
import trio

from trioflow import ConfigError, ParallelConfig, RetryConfig, process_parallel, with_retry

STEADY = RetryConfig(max_attempts=4, initial_delay=1, multiplier=2, max_delay=3, jitter=False)


class Boom(Exception):
    """Unlike most built-in exceptions, one that can be watched by a weak reference."""


class Flaky:
    """Fails as often as told and notes when it was called."""

    def __init__(self, *errors):
        self.errors, self.times = list(errors), []

    async def __call__(self, *args, **kwargs):
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return args, kwargs

    @property
    def gaps(self):
        return [round(b - a, 6) for a, b in zip(self.times, self.times[1:], strict=False)]


async def call(fn, *args, **kwargs):
    return await fn(*args, **kwargs)


def wrapped(flaky, *args, **kwargs):
    async def fn(*a, **k):
        return await flaky(*a, **k)

    return with_retry(fn, *args, **kwargs)


async def test_success_needs_one_attempt():
    flaky = Flaky()
    assert await wrapped(flaky, STEADY)(1, key=2) == ((1,), {"key": 2})
    assert len(flaky.times) == 1


async def test_delays_grow_by_the_multiplier_up_to_the_cap(autojump_clock):
    flaky = Flaky(OSError(), OSError(), OSError())
    await wrapped(flaky, STEADY)()
    assert flaky.gaps == [1, 2, 3]


async def test_the_last_error_comes_out_as_it_is(autojump_clock):
    errors = [OSError(number) for number in range(4)]
    flaky = Flaky(*errors)
    with pytest.raises(OSError) as caught:
        await wrapped(flaky, STEADY)()
    assert caught.value is errors[-1]
    assert len(flaky.times) == 4


async def test_one_attempt_is_no_retry():
    flaky = Flaky(OSError("once"))
    with pytest.raises(OSError, match="once"):
        await wrapped(flaky, RetryConfig(max_attempts=1))()
    assert len(flaky.times) == 1


async def test_only_the_given_errors_are_retried(autojump_clock):
    for on in (OSError, (OSError, KeyError)):
        flaky = Flaky(OSError(), ValueError("not this"))
        with pytest.raises(ValueError, match="not this"):
            await wrapped(flaky, STEADY, on=on)()
        assert len(flaky.times) == 2


async def test_a_predicate_says_which_errors_are_retried(autojump_clock):
    asked = []

    def busy(error):
        asked.append(error)
        return getattr(error, "status", 0) >= 500

    gone, unavailable = OSError("404"), Boom("503")
    unavailable.status = 503
    flaky = Flaky(unavailable, unavailable, gone, unavailable)
    with pytest.raises(OSError, match="404"):
        await wrapped(flaky, STEADY, on=busy)()
    assert len(flaky.times) == 3
    assert [error for error in asked if error is gone] == [gone]
    assert await wrapped(Flaky(unavailable), STEADY, on=busy)(1) == ((1,), {})


async def test_a_predicate_hears_of_exceptions_only(autojump_clock):
    for error in (KeyboardInterrupt(), SystemExit(3)):
        flaky = Flaky(OSError(), error)
        with pytest.raises(type(error)):
            await wrapped(flaky, STEADY, on=lambda error: isinstance(error, Exception) or 1 / 0)()
        assert len(flaky.times) == 2


async def test_what_a_predicate_raises_comes_from_the_error_it_was_asked_about(autojump_clock):
    failures = [Boom("first"), Boom("second")]
    for position, failure in enumerate(failures):
        asked = []

        def broken(error, asked=asked, position=position):
            asked.append(error)
            return len(asked) <= position or 1 / 0

        with pytest.raises(ZeroDivisionError) as caught:
            await wrapped(Flaky(*failures), STEADY, on=broken)()
        assert caught.value.__cause__ is failure


async def test_a_predicate_that_gives_an_awaitable_is_refused(autojump_clock):
    async def busy(error):
        return False

    flaky = Flaky(Boom(), Boom())
    with pytest.raises(ConfigError, match="on must be a plain function"):
        await wrapped(flaky, STEADY, on=lambda error: busy(error))()
    assert len(flaky.times) == 1


@pytest.mark.parametrize(
    ("total_timeout", "attempts"), [(0.5, 1), (1, 1), (1.5, 2), (3, 2), (3.1, 3), (5.9, 3), (6.1, 4), (99, 4)]
)
async def test_nothing_begins_that_would_pass_the_total_timeout(autojump_clock, total_timeout, attempts):
    errors = [OSError(number) for number in range(4)]  # at 0, 1, 3 and 6 s
    flaky = Flaky(*errors)
    begun = trio.current_time()
    with pytest.raises(OSError) as caught:
        await wrapped(flaky, msgspec.structs.replace(STEADY, total_timeout=total_timeout))()
    assert caught.value is errors[attempts - 1]
    assert len(flaky.times) == attempts
    assert trio.current_time() - begun == sum([0, 1, 2, 3][:attempts])


async def test_the_total_timeout_counts_attempts_and_does_not_cut_them(autojump_clock):
    async def slow(calls=[]):  # noqa: B006 - remembers
        calls.append(None)
        await trio.sleep(5)
        if len(calls) < 2:
            raise OSError
        return len(calls)

    assert await with_retry(slow, RetryConfig(initial_delay=1, jitter=False, total_timeout=7))() == 2
    with pytest.raises(OSError):
        await wrapped(Flaky(OSError("kept")), RetryConfig(initial_delay=1, jitter=False, total_timeout=1))()


def test_a_wait_that_ends_too_late_begins_no_attempt(late_clock):
    flaky = Flaky(OSError("first"), OSError("second"))

    async def main():
        with pytest.raises(OSError, match="first"):
            await wrapped(flaky, RetryConfig(initial_delay=1, jitter=False, total_timeout=1.5))()

    trio.run(main, clock=late_clock(1.0))
    assert len(flaky.times) == 1


async def test_cancelled_is_never_retried(autojump_clock):
    calls = 0

    async def forever():
        nonlocal calls
        calls += 1
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await with_retry(forever, STEADY)()
    assert scope.cancelled_caught
    assert calls == 1


async def test_a_cancellation_ends_the_wait_between_attempts(autojump_clock):
    flaky = Flaky(OSError(), OSError())
    with trio.move_on_after(0.5) as scope:
        await wrapped(flaky, STEADY)()
    assert scope.cancelled_caught
    assert len(flaky.times) == 1


async def test_a_cancellation_that_cuts_a_wait_is_raised_from_the_last_failure(autojump_clock):
    causes = []

    async def watched(call):
        try:
            await call()
        except trio.Cancelled as cancelled:
            causes.append(cancelled.__cause__)
            raise

    errors = [OSError(1), OSError(2)]
    with trio.move_on_after(2):
        await watched(wrapped(Flaky(*errors), STEADY))

    async def fail_then_hang(calls=[]):  # noqa: B006 - remembers
        calls.append(None)
        if len(calls) == 1:
            raise OSError("then an attempt is cut, no wait")
        await trio.sleep_forever()

    with trio.move_on_after(2):
        await watched(with_retry(fail_then_hang, STEADY))
    assert causes == [errors[1], None]


@pytest.mark.parametrize("how", ["succeeds", "fails", "gives up", "is cut in a wait", "is cut in an attempt"])
def test_what_was_retried_is_let_go_of(how):
    errors = []

    async def attempt(calls):
        calls.append(None)
        await trio.lowlevel.checkpoint()
        if how == "succeeds" and len(calls) == 3:
            return
        if how == "gives up" and len(calls) == 3:
            raise ValueError
        if how == "is cut in an attempt" and len(calls) == 3:
            await trio.sleep_forever()
        error = Boom()
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def one():
        with trio.move_on_after(2.5 if how == "is cut in a wait" else 60):
            try:
                await with_retry(attempt, STEADY, on=Boom)([])
            except (Boom, ValueError):
                pass

    async def main():
        await one()
        gc.collect()
        gc.freeze()  # what other tests leave is not looked at
        gc.disable()
        try:
            for _ in range(3):
                await one()
            # Trio holds what a task was last sent until it is sent something else.
            await trio.lowlevel.checkpoint()
            alive = [error() for error in errors if error() is not None]
            unreachable = gc.collect()
        finally:
            gc.enable()
            gc.unfreeze()
        assert not alive
        assert unreachable == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_the_errors_of_a_run_go_with_its_result(autojump_clock):
    errors = []

    async def fail(item):
        error = Boom(item)
        errors.append(weakref.ref(error))
        await trio.lowlevel.checkpoint()
        try:
            if item:
                raise error
        finally:
            del error

    config = ParallelConfig(retry=STEADY, fail_fast=False, observer="noop")
    gc.disable()
    try:
        result = await process_parallel(range(50), fail, config=config)
        assert len(result.errors) == 49
        del result
        assert not [error for error in errors if error() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_no_exception_is_never_retried(error):
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await wrapped(flaky, STEADY)()
    assert len(flaky.times) == 1


async def test_jitter_is_between_half_the_delay_and_all_of_it(autojump_clock):
    gaps = []
    for _ in range(50):
        flaky = Flaky(OSError(), OSError(), OSError())
        await wrapped(flaky, RetryConfig(max_attempts=4, initial_delay=1, max_delay=3))()
        gaps.append(flaky.gaps)
    for attempt, top in enumerate((1, 2, 3)):
        column = [row[attempt] for row in gaps]
        assert all(top / 2 <= gap <= top for gap in column)
        assert max(column) - min(column) > top / 8


async def test_what_delay_returns_replaces_the_back_off_uncapped(autojump_clock):
    class Busy(Exception):
        def __init__(self, retry_after):
            self.retry_after = retry_after

    flaky = Flaky(Busy(40), Busy(None), Busy(-5))
    await wrapped(flaky, STEADY, delay=lambda error: error.retry_after)()
    assert flaky.gaps == [40, 2, 0]


@pytest.mark.parametrize("wanted", [float("inf"), float("nan"), "3", b"3", True, [1]])
async def test_what_delay_must_not_give_is_refused_from_the_failure(autojump_clock, wanted):
    failure = OSError("busy")
    flaky = Flaky(failure, OSError())
    with pytest.raises(ConfigError, match="delay must be a function that returns a finite number of seconds") as caught:
        await wrapped(flaky, STEADY, delay=lambda _: wanted)()
    assert caught.value.__cause__ is failure
    assert len(flaky.times) == 1


async def test_what_delay_raises_comes_from_the_failure_it_was_asked_about(autojump_clock):
    failures = [OSError(1), OSError(2)]

    def delay(error):
        return {1: 1.0}[error.args[0]]

    with pytest.raises(KeyError) as caught:
        await wrapped(Flaky(*failures), STEADY, delay=delay)()
    assert caught.value.__cause__ is failures[1]

    def raise_it_again(error):
        raise error

    with pytest.raises(OSError) as caught:
        await wrapped(Flaky(failures[0]), STEADY, delay=raise_it_again)()
    assert caught.value is failures[0]
    assert caught.value.__cause__ is None


async def test_delay_is_not_asked_about_the_last_attempt(autojump_clock):
    asked = []
    errors = [OSError(number) for number in range(4)]
    with pytest.raises(OSError):
        await wrapped(Flaky(*errors), STEADY, delay=asked.append)()
    assert asked == errors[:3]


async def test_endless_growth_ends_at_the_cap(autojump_clock):
    config = RetryConfig(max_attempts=1200, initial_delay=1, max_delay=2, multiplier=10, jitter=False)
    flaky = Flaky(*[OSError()] * 1199)
    await wrapped(flaky, config)()
    assert flaky.gaps[0] == 1
    assert set(flaky.gaps[1:]) == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": print}, "fn must be an async function"),
        ({"config": {}}, "config must be a RetryConfig"),
        ({"on": BaseException}, "on must be a subclass of Exception"),
        ({"on": ()}, "on must be a subclass of Exception"),
        ({"on": "OSError"}, "on must be a subclass of Exception"),
        ({"on": (OSError, KeyboardInterrupt)}, "on must be a subclass of Exception"),
        ({"on": (OSError, lambda error: True)}, "on must be a subclass of Exception"),
        ({"on": str}, "on must be a subclass of Exception"),
        ({"on": None}, "on must be a subclass of Exception"),
        ({"on": OSError()}, "on must be a subclass of Exception"),
        ({"on": call}, "on must be .* or a plain function of the error"),
        ({"delay": 3}, "delay must be a plain function"),
        ({"delay": call}, "delay must be a plain function"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        with_retry(**{"fn": call} | arguments)

"""A rate limit that several runs can share.

`RateLimiter` is a token bucket that stores one instant instead of a token count: the time at which the bucket was,
or will be, empty. The tokens it holds are then a subtraction, debt is an instant in the future, and a waiter knows
the exact time to sleep until. (This is the generic cell rate algorithm, ITU-T I.371.)

Timers fire late: by a millisecond with a coarse system timer, by more on a busy machine. A small bucket overflows
meanwhile, and a rate of 600 per second drops to 450. So a grant counts from the time at which it was due, not from
the time at which its timer fired; and its lateness is remembered, so that the task that it delayed is not mistaken
for one that had been idle. By their due times, the grants in any interval are at most rate × time + burst. By the
clock, they may be closer together, by at most `MAX_LATENESS`, but since the first of them there are never more.
"""

import math
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar, final

import trio

from trioflow.config.checks import check_async, check_in_trio, check_instance, check_number

__all__ = ("RateLimiter", "with_rate_limit")

P = ParamSpec("P")
R = TypeVar("R")

MAX_LATENESS = 0.5
"""Seconds of lateness that are made up for. A longer delay comes from a blocked event loop, and making up for it
would send a burst that the rate-limited service may refuse."""


@final
class RateLimiter:
    """Lets `rate` units start per `per` seconds, and up to `burst` at once after a pause.

    First come, first served. The bucket starts full. A cost above `burst` waits for a full bucket and leaves it
    in debt, which later callers wait out. Pass the same object to several runs to share the rate. In another
    `trio.run` the limiter starts over with a full bucket, because Trio's clock does; concurrent `trio.run` calls
    in different threads cannot share it.

    Args:
        rate: units per `per` seconds.
        per: the period of `rate`, in seconds.
        burst: units that may start at once.

    Raises:
        ConfigError: an argument is not a positive number.
    """

    def __init__(self, rate: float, per: float = 1.0, burst: float = 1) -> None:
        for field, value in (("rate", rate), ("per", per), ("burst", burst)):
            check_number(field, value, allowed="a positive number")
        self._seconds_per_unit = per / rate
        self._burst = burst
        self._token: trio.lowlevel.TrioToken | None = None
        self._empty_at = -math.inf
        self._paused_until = -math.inf
        # When the last grant was due, how late it was, and when the next one is due while a task waits for it.
        self._granted_at = -math.inf
        self._lateness = 0.0
        self._due: float | None = None
        self._queue = trio.StrictFIFOLock()
        self._changed = trio.Event()

    def __repr__(self) -> str:
        rate = 1 / self._seconds_per_unit
        waiting = self._queue.statistics().tasks_waiting + self._queue.locked()
        return f"<RateLimiter {rate:g}/s, burst {self._burst:g}, {waiting} waiting>"

    @property
    def expected_wait(self) -> float:
        """Seconds that `acquire()` would wait if called now, if each caller already waiting acquires one unit."""
        if trio.lowlevel.current_trio_token() is not self._token:
            return 0.0
        waiting = self._queue.statistics().tasks_waiting + self._queue.locked()
        now = trio.current_time()
        filled_at = self._emptied_at(now) + (waiting + min(1, self._burst)) * self._seconds_per_unit
        return max(0.0, max(filled_at, self._paused_until) - now)

    async def acquire(self, cost: float = 1) -> None:
        """Wait until `cost` units may start, and take them.

        Raises:
            ConfigError: `cost` is negative or not a number.

        Cancellation: a cancelled call has taken nothing.
        """
        check_in_trio()
        check_number("cost", cost, allowed="0 or more", least="zero")
        self._follow_the_clock()
        asked_at = self._now()
        async with self._queue:
            while (ready_at := self._ready_at(cost)) > trio.current_time():
                asked_at = max(asked_at, await self._wait_until(ready_at))
            now = trio.current_time()
            self._granted_at = max(self._granted_at, asked_at, ready_at, now - MAX_LATENESS)
            self._lateness = now - self._granted_at
            self._empty_at = self._emptied_at(self._granted_at) + cost * self._seconds_per_unit

    def adjust(self, delta: float) -> None:
        """Correct an earlier cost by `delta` units: positive charges more, negative pays back.

        Raises:
            ConfigError: `delta` is not a finite number.
        """
        check_number("delta", delta, allowed="a finite number", least="any")
        self._follow_the_clock()
        now = self._now()
        charged = self._emptied_at(now) + delta * self._seconds_per_unit
        # A full bucket takes nothing back.
        self._empty_at = max(charged, now - self._burst * self._seconds_per_unit)
        self._changed.set()

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds`; of several pauses the one that ends last counts.

        Raises:
            ConfigError: `seconds` is negative or not a number.
        """
        check_number("seconds", seconds, allowed="0 or more seconds", least="zero")
        self._follow_the_clock()
        self._paused_until = max(self._paused_until, trio.current_time() + seconds)

    def _follow_the_clock(self) -> None:
        token = trio.lowlevel.current_trio_token()
        if token is not self._token:
            self._token = token
            self._empty_at = self._paused_until = self._granted_at = -math.inf
            self._lateness = 0.0
            self._due = None

    def _ready_at(self, cost: float) -> float:
        filled_at = self._empty_at + min(cost, self._burst) * self._seconds_per_unit
        return max(filled_at, self._paused_until)

    def _emptied_at(self, now: float) -> float:
        """Return when the bucket was or will be empty, as of `now`: it holds at most `burst` units."""
        return max(self._empty_at, now - self._burst * self._seconds_per_unit)

    def _now(self) -> float:
        """Return the current time, corrected for timers that fired late."""
        now = trio.current_time()
        if self._due is not None:
            return max(min(now, self._due), now - MAX_LATENESS)
        then = now - self._lateness
        # If the bucket was full by then, the limiter was idle: the lateness of the last grant no longer matters.
        return then if then <= self._empty_at + self._burst * self._seconds_per_unit else now

    async def _wait_until(self, ready_at: float) -> float:
        """Wait until `ready_at`, or until an earlier change, and return the time by `_now`.

        Cancellation: nothing has been taken, and no grant is due.
        """
        self._changed = trio.Event()
        self._due = ready_at
        try:
            with trio.move_on_at(ready_at):
                await self._changed.wait()
            return self._now()
        finally:
            self._due = None


def with_rate_limit(
    fn: Callable[P, Awaitable[R]],
    limiter: RateLimiter,
    cost: float | Callable[..., float] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Wrap `fn` so that each call first waits for `limiter`.

    Args:
        fn: an async function.
        limiter: the limiter; pass the same object to several functions or runs to share the rate.
        cost: units of one call, or a plain function of the call's arguments that returns them; None is 1.

    Raises:
        ConfigError: `fn` is not async, or another argument is of the wrong kind; from the wrapper, if `cost`
            returns something other than a number of 0 or more.

    Cancellation: passes through; a waiting call has taken nothing.
    """
    check_async("fn", fn)
    check_instance("limiter", limiter, RateLimiter)
    price = _price(cost)

    @wraps(fn)
    async def paced(*args: P.args, **kwargs: P.kwargs) -> R:
        await limiter.acquire(price(*args, **kwargs))
        return await fn(*args, **kwargs)

    return paced


def _price(cost: float | Callable[..., float] | None) -> Callable[..., float]:
    if callable(cost):
        return cost
    fixed = 1 if cost is None else cost
    allowed = "0 or more, a function of the call's arguments, or None (1)"
    check_number("cost", fixed, allowed=allowed, least="zero")
    return lambda *_args, **_kwargs: fixed

"""One call with its policies around it: retry around rate around time limit, each attempt counted."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, TypeVarTuple, cast, final

import trio

from trioflow._runtime.calls import Counter, awaiting, call_user
from trioflow.config import RetryConfig
from trioflow.policies import RateLimiter, with_rate_limit, with_timeout
from trioflow.policies.retry import OnRetry, RetryPlan, retry_of

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


LONG_WAIT = 0.5
"""Seconds from which a wait for the rate limit is announced."""


@final
class Policies(Generic[*Ts, R]):
    """The user's `fn`, and the policies that a config sets for it.

    A function that `with_retry` returned is unwrapped, so that each of its attempts is counted and reported.

    Args:
        fn: the function to call.
        task_timeout: seconds for one attempt; None is no limit.
        retry: when to repeat a failed attempt; None is never.
        limiter: limits the rate of attempts; None is no limit.
        prepare: converts the argument before each attempt; None leaves it as it is.
    """

    def __init__(
        self,
        fn: Callable[[*Ts], Awaitable[R]],
        *,
        task_timeout: float | None,
        retry: RetryConfig | None,
        limiter: RateLimiter | None = None,
        prepare: Callable[[Any], Awaitable[Any]] | None = None,
    ) -> None:
        own = retry_of(fn)
        self._called: Callable[[*Ts], Awaitable[R]] = awaiting(fn if own is None else cast("Any", own[0]))
        self._own_plan = None if own is None else own[1]
        self._task_timeout = task_timeout
        self._plan = None if retry is None else RetryPlan(retry)
        self._limiter = limiter
        self._prepare = prepare

    def around(
        self,
        counter: Counter,
        on_retry: OnRetry,
        *,
        on_admitted: Callable[[], object] | None = None,
        on_wait: Callable[[float], object] | None = None,
    ) -> Callable[[*Ts], Awaitable[R]]:
        """Return the function with its policies around it, for one task that calls it.

        Args:
            counter: counts the calls.
            on_retry: called before each retry.
            on_admitted: called when an attempt has waited for the limiter; None is not called.
            on_wait: called with the seconds that an attempt will wait for the limiter, if those are `LONG_WAIT` or
                more; None is not called.
        """
        call = call_user(self._called, counter, self._prepare)
        if self._own_plan is not None:
            call = _retried(call, self._own_plan, on_retry)
        if self._task_timeout is not None:
            call = with_timeout(call, self._task_timeout)
        limiter = self._limiter
        if limiter is not None:
            call = with_rate_limit(call if on_admitted is None else _admitted(call, on_admitted), limiter)
            call = call if on_wait is None else _announced(call, limiter, on_wait)
        return call if self._plan is None else _retried(call, self._plan, on_retry)


def _admitted(
    call: Callable[[*Ts], Awaitable[R]], on_admitted: Callable[[], object]
) -> Callable[[*Ts], Awaitable[R]]:
    async def admitted(*args: *Ts) -> R:
        # A wait that ends at the instant of a cancellation does not see it, but nothing may begin after that.
        await trio.lowlevel.checkpoint_if_cancelled()
        on_admitted()
        return await call(*args)

    return admitted


def _announced(
    call: Callable[[*Ts], Awaitable[R]], limiter: RateLimiter, on_wait: Callable[[float], object]
) -> Callable[[*Ts], Awaitable[R]]:
    async def announced(*args: *Ts) -> R:
        wait = limiter.expected_wait
        if wait >= LONG_WAIT:
            on_wait(wait)
        return await call(*args)

    return announced


def _retried(
    call: Callable[[*Ts], Awaitable[R]], plan: RetryPlan, on_retry: OnRetry
) -> Callable[[*Ts], Awaitable[R]]:
    async def retried(*args: *Ts) -> R:
        return await plan.run(lambda: call(*args), on_retry)

    return retried

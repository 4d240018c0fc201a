"""A failed call repeated, with growing delays; tenacity runs the loop.

The first attempt runs without tenacity: its loop costs more than the rest of an item, and most calls succeed.
"""

import math
import random
from collections.abc import Awaitable, Callable
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import msgspec
import trio

from trioflow.config.checks import check_async, check_callable, check_instance
from trioflow.config.structs import RetryConfig
from trioflow.errors import ConfigError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ("OnRetry", "RetryPlan", "retry_of", "with_retry")

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT = RetryConfig()

OnRetry = Callable[[int, float, Exception], None]
"""Called with the number of the attempt that failed, the seconds until the next one, and the error."""

_plans: WeakKeyDictionary[Callable[..., Any], "RetryPlan"] = WeakKeyDictionary()


def with_retry(
    fn: Callable[P, Awaitable[R]],
    config: RetryConfig = _DEFAULT,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    delay: Callable[[Exception], float | None] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Return `fn` repeated until it succeeds, fails with something else than `on`, or has had its attempts.

    The last error comes out as it is. Where a run's processor was made by this function, each of its attempts
    counts as one of the item, and each retry is told as a `task.retry` event.

    Args:
        fn: an async function.
        config: how many attempts, and how the delays grow.
        on: the exception type or types to retry.
        delay: a function of the error that says how many seconds to wait, such as a server's `Retry-After`;
            it replaces the back-off, without the cap. None, or its None, leaves the back-off.

    Raises:
        ConfigError: `fn` is not async, or an argument is of the wrong kind.

    Cancellation: passes through; `trio.Cancelled` is never retried.
    """
    check_async("fn", fn)
    check_instance("config", config, RetryConfig)
    check_callable("delay", delay, optional=True)
    _check_exception_types(on)
    plan = RetryPlan(config, on, delay)

    @wraps(fn)
    async def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        return await plan.run(lambda: fn(*args, **kwargs), None)

    _plans[retried] = plan
    return retried


class RetryPlan(msgspec.Struct, frozen=True):
    """What is retried, how often and after which delays; see `with_retry`."""

    config: RetryConfig
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    delay: Callable[[Exception], float | None] | None = None

    async def run(self, attempt: Callable[[], Awaitable[R]], on_retry: OnRetry | None) -> R:
        """Call `attempt` by this plan, and tell `on_retry` of each retry.

        Cancellation: passes through.
        """
        replay: list[Exception] = []
        try:
            return await attempt()
        except self.on as error:
            replay.append(error)

        async def first_from_memory() -> R:
            if replay:
                raise replay.pop()
            return await attempt()

        def tell(state: "RetryCallState") -> None:
            if on_retry is not None:
                on_retry(state.attempt_number, state.upcoming_sleep, _error_of(state))

        import tenacity  # noqa: PLC0415 - only those who retry pay for it

        loop = tenacity.AsyncRetrying(
            sleep=trio.sleep,
            stop=tenacity.stop_after_attempt(self.config.max_attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(self.on),
            before_sleep=tell,
            reraise=True,
        )
        return await loop(first_from_memory)

    def _wait(self, state: "RetryCallState") -> float:
        config, attempt = self.config, state.attempt_number
        wanted = None if self.delay is None else self.delay(_error_of(state))
        if wanted is not None:
            return max(0.0, wanted)
        try:
            grown = config.initial_delay * math.pow(config.multiplier, attempt - 1)
        except OverflowError:
            grown = config.max_delay
        backoff = min(grown, config.max_delay)
        return backoff * random.uniform(0.5, 1.0) if config.jitter else backoff  # noqa: S311 - spread, not secrecy


def retry_of(fn: Callable[..., Any]) -> tuple[Callable[..., Awaitable[Any]], RetryPlan] | None:
    """Return what `with_retry` made `fn` of, if it did: so a run can count and tell the attempts."""
    plan = _plans.get(fn) if isinstance(fn, FunctionType) else None
    return None if plan is None else (vars(fn)["__wrapped__"], plan)


def _error_of(state: "RetryCallState") -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Exception):
        raise TypeError(f"tenacity waits after an attempt that did not fail: {state}")
    return error


def _check_exception_types(on: object) -> None:
    types = on if isinstance(on, tuple) else (on,)
    if not types or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        raise ConfigError.refusing("on", on, "a subclass of Exception or a tuple of such")

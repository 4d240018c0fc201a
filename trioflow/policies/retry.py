"""A failed call repeated, with growing delays; tenacity runs the loop.

The first attempt runs without tenacity: its loop costs more than the rest of an item, and most calls succeed.
"""

import math
import random
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from trioflow.config.checks import check_async, check_callable, check_instance
from trioflow.config.structs import RetryConfig
from trioflow.errors import ConfigError
from trioflow.policies._attempts import OnRetry, current_on_retry

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ("retrying", "with_retry")

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT = RetryConfig()


def with_retry(
    fn: Callable[P, Awaitable[R]],
    config: RetryConfig = _DEFAULT,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    delay: Callable[[Exception], float | None] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Return `fn` repeated until it succeeds, fails with something else than `on`, or has had its attempts.

    The last error comes out as it is. In a run, each retry counts as an attempt of the item and is told as a
    `task.retry` event.

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

    @wraps(fn)
    async def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        return await retrying(lambda: fn(*args, **kwargs), config, on, delay, current_on_retry.get())

    return retried


async def retrying(
    attempt: Callable[[], Awaitable[R]],
    config: RetryConfig,
    on: type[Exception] | tuple[type[Exception], ...],
    delay: Callable[[Exception], float | None] | None,
    on_retry: OnRetry | None,
) -> R:
    """Call `attempt` as `with_retry` says, and tell `on_retry` of each retry.

    Cancellation: passes through.
    """
    first_error: Exception
    try:
        return await attempt()
    except on as error:
        first_error = error
    replay: list[Exception] = [first_error]

    async def first_from_memory() -> R:
        if replay:
            raise replay.pop()
        return await attempt()

    def wait(state: "RetryCallState") -> float:
        return _delay(config, state.attempt_number, _error_of(state), delay)

    def tell(state: "RetryCallState") -> None:
        if on_retry is not None:
            on_retry(state.attempt_number, state.upcoming_sleep, _error_of(state))

    import tenacity  # noqa: PLC0415 - only those who retry pay for it

    loop = tenacity.AsyncRetrying(
        sleep=trio.sleep,
        stop=tenacity.stop_after_attempt(config.max_attempts),
        wait=wait,
        retry=tenacity.retry_if_exception_type(on),
        before_sleep=tell,
        reraise=True,
    )
    return await loop(first_from_memory)


def _delay(
    config: RetryConfig,
    attempt: int,
    error: Exception,
    delay: Callable[[Exception], float | None] | None,
) -> float:
    wanted = delay(error) if delay is not None else None
    if wanted is not None:
        return max(0.0, wanted)
    try:
        grown = config.initial_delay * math.pow(config.multiplier, attempt - 1)
    except OverflowError:
        grown = config.max_delay
    backoff = min(grown, config.max_delay)
    return backoff * random.uniform(0.5, 1.0) if config.jitter else backoff  # noqa: S311 - spread, not secrecy


def _error_of(state: "RetryCallState") -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Exception):
        raise TypeError(f"tenacity waits after an attempt that did not fail: {state}")
    return error


def _check_exception_types(on: object) -> None:
    types = on if isinstance(on, tuple) else (on,)
    if not types or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        raise ConfigError.refusing("on", on, "a subclass of Exception or a tuple of such")

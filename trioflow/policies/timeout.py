"""A limit on the time of one call."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import trio

from trioflow.config.checks import check_async, check_seconds

__all__ = ("with_timeout",)

P = ParamSpec("P")
R = TypeVar("R")


def with_timeout(fn: Callable[P, Awaitable[R]], seconds: float) -> Callable[P, Awaitable[R]]:
    """Return `fn` with at most `seconds` for each call.

    A call that returns is never too slow: what it returned counts, even past the limit.

    Args:
        fn: an async function.
        seconds: the limit, by Trio's clock.

    Raises:
        ConfigError: `fn` is not async, or `seconds` is not positive.
        trio.TooSlowError: by the returned function, when the time is up.

    Cancellation: passes through to `fn`.
    """
    check_async("fn", fn)
    check_seconds("seconds", seconds, optional=False)

    @wraps(fn)
    async def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        with trio.move_on_after(seconds):
            return await fn(*args, **kwargs)
        raise trio.TooSlowError(f"timed out after {seconds:g} s")

    return timed

"""A time limit for one call.

Trio raises a `RuntimeError` when a cancel scope exits while an inner one is still open, after restoring the task's
scope. If the call has already returned a result, the result takes precedence over that error.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import trio

from trioflow.config.checks import check_async, check_in_trio, check_seconds

__all__ = ("with_timeout",)

P = ParamSpec("P")
R = TypeVar("R")


def with_timeout(fn: Callable[P, Awaitable[R]], seconds: float) -> Callable[P, Awaitable[R]]:
    """Wrap `fn` so that each call takes at most `seconds`.

    A call that returns is never too slow: its result counts, even past the limit, and even if the call left a
    cancel scope open, for which Trio raises a `RuntimeError`.

    Args:
        fn: an async function.
        seconds: the limit, by Trio's clock.

    Raises:
        ConfigError: `fn` is not async, or `seconds` is not positive.
        trio.TooSlowError: from the wrapper, when the time is up; from the last failure, where `fn` is one of
            `with_retry` that waited for another attempt.

    Cancellation: passes through to `fn`.
    """
    check_async("fn", fn)
    check_seconds("seconds", seconds, optional=False)

    @wraps(fn)
    async def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        check_in_trio()
        returned: list[R] = []
        cause = None
        try:
            with trio.move_on_after(seconds):
                try:
                    returned.append(await fn(*args, **kwargs))
                except trio.Cancelled as cancelled:
                    cause = cancelled.__cause__  # the failure after which it waited for another attempt
                    raise
        except RuntimeError:
            # Once `fn` has returned, only the scope can raise, about inner scopes that `fn` left open.
            if not returned:
                raise
        if returned:
            return returned.pop()
        raise trio.TooSlowError(f"timed out after {seconds:g} s") from cause

    return timed

"""A limit on the time of one call.

Trio ends a scope that was left with an inner one still open by a `RuntimeError`, after it has put the task back
where it was. A result that the call had returned by then is worth more than that complaint, so it is kept.
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
    """Return `fn` with at most `seconds` for each call.

    A call that returns is never too slow: what it returned counts, even past the limit, and also where the call
    left a cancel scope open, which Trio otherwise makes a `RuntimeError` of.

    Args:
        fn: an async function.
        seconds: the limit, by Trio's clock.

    Raises:
        ConfigError: `fn` is not async, or `seconds` is not positive.
        trio.TooSlowError: by the returned function, when the time is up; from the last failure, where `fn` is one
            of `with_retry` that waited for another attempt.

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
            # After the return only the scope can raise: about scopes that `fn` left open, which it abandons.
            if not returned:
                raise
        if returned:
            return returned.pop()
        raise trio.TooSlowError(f"timed out after {seconds:g} s") from cause

    return timed

"""A limit on concurrent calls that several runs can share.

Trio's `CapacityLimiter` does the work. The borrower is the call, not its task, so a limited call may make another
one under the same limiter; Trio does not let a task borrow twice.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar, final

import trio

from trioflow.config.checks import check_async, check_callable, check_in_trio
from trioflow.errors import ConfigError

__all__ = ("with_concurrency_limit",)

P = ParamSpec("P")
R = TypeVar("R")

_ALLOWED = "a trio.CapacityLimiter, or a plain function of the call's arguments that returns one"


def with_concurrency_limit(
    fn: Callable[P, Awaitable[R]],
    limiter: trio.CapacityLimiter | Callable[..., trio.CapacityLimiter],
) -> Callable[P, Awaitable[R]]:
    """Wrap `fn` so that at most as many calls run concurrently as `limiter` has tokens.

    First come, first served. A limited call that makes another one under the same limiter holds a token for each:
    with too few tokens, such calls deadlock.

    Args:
        fn: an async function.
        limiter: the limiter; pass the same object to several functions or runs to share it. Or a plain function of
            the call's arguments that returns one, such as one limiter per host.

    Raises:
        ConfigError: `fn` is not async, or `limiter` is of the wrong kind; from the wrapper, if the function
            returns something other than a limiter.

    Cancellation: passes through; a waiting call holds no token, and a running one releases its token.
    """
    check_async("fn", fn)
    find = _finder(limiter)

    @wraps(fn)
    async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        check_in_trio()
        chosen = find(*args, **kwargs)
        borrower = _Borrower()
        try:
            # A free token costs no task switch; waiting calls are not overtaken.
            chosen.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            await chosen.acquire_on_behalf_of(borrower)
        try:
            return await fn(*args, **kwargs)
        finally:
            chosen.release_on_behalf_of(borrower)

    return limited


@final
class _Borrower:
    """One call, as the limiter's borrower."""

    __slots__ = ("__weakref__",)


def _finder(
    limiter: trio.CapacityLimiter | Callable[..., trio.CapacityLimiter],
) -> Callable[..., trio.CapacityLimiter]:
    if isinstance(limiter, trio.CapacityLimiter):
        return lambda *_args, **_kwargs: limiter
    if isinstance(limiter, type) or not callable(limiter):
        raise ConfigError.refusing("limiter", limiter, _ALLOWED)
    check_callable("limiter", limiter)

    def find(*args: object, **kwargs: object) -> trio.CapacityLimiter:
        chosen: object = limiter(*args, **kwargs)
        if not isinstance(chosen, trio.CapacityLimiter):
            raise ConfigError.refusing("limiter", chosen, _ALLOWED)
        return chosen

    return find

"""At most so many calls at once, where several runs share what they call.

Trio's `CapacityLimiter` does the work. Who borrows is the call, not its task: so a call that is limited may make
another one under the same limiter, which a task that borrows for itself is refused.
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

_ALLOWED = "a trio.CapacityLimiter, or a plain function of the call's arguments that gives one"


def with_concurrency_limit(
    fn: Callable[P, Awaitable[R]],
    limiter: trio.CapacityLimiter | Callable[..., trio.CapacityLimiter],
) -> Callable[P, Awaitable[R]]:
    """Return `fn` of which at most as many calls run at once as `limiter` has tokens.

    First come, first served. A limited call that makes another one under the same limiter holds a token for each:
    with too few of them, such calls wait for each other for ever.

    Args:
        fn: an async function.
        limiter: what bounds it; give several functions or runs the same object to share the bound. Or a plain
            function of the call's arguments that gives one, such as one limiter a host.

    Raises:
        ConfigError: `fn` is not async, or `limiter` is none of Trio's; by the returned function where the
            function gives something else.

    Cancellation: passes through; a call that waits has nothing, and the token goes back when a call ends.
    """
    check_async("fn", fn)
    find = _finder(limiter)

    @wraps(fn)
    async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        check_in_trio()
        chosen = find(*args, **kwargs)
        borrower = _Borrower()
        try:
            # A free token costs no turn of the scheduler; nobody who waits is overtaken.
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
    """One call, to the limiter's books."""

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

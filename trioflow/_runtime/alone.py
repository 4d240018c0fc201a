"""One task for the user's code of one run, and the account of what it ended with.

A scope that the user's code leaves open corrupts the task it runs in: so that is never the caller's. The caller's
task also judges a `Cancelled`: around it are only the scopes that may rightly cancel the run.
"""

from collections.abc import Awaitable, Callable

import trio

from trioflow._runtime.calls import is_cancelled
from trioflow._runtime.groups import holding, most_grave
from trioflow.errors import leaves

__all__ = ("run_alone",)


@trio.lowlevel.enable_ki_protection
async def run_alone(
    work: Callable[[], Awaitable[None]], on_stray: Callable[[BaseException], BaseException], name: str
) -> BaseException | None:
    """Run `work` in a task of its own and return what it ended with, bare; None where it just returned.

    Args:
        work: what to run.
        on_stray: gives the error to return for a `Cancelled` that nobody cancelled for.
        name: the task's name.

    Cancellation: comes back as the `Cancelled` to raise; where `work` returned all the same, it is not seen here.
    """
    faults: list[BaseException] = []
    wrapped: list[BaseException] = []
    with holding(wrapped):
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - a task of its own is the point
            nursery.start_soon(_record, work, faults, name=name)
    faults.extend(leaf for fault in wrapped for leaf in leaves(fault))
    fault = most_grave(faults)
    if isinstance(fault, trio.Cancelled) and not is_cancelled():
        return on_stray(fault)
    return fault


@trio.lowlevel.enable_ki_protection
async def _record(work: Callable[[], Awaitable[None]], faults: list[BaseException]) -> None:
    with holding(faults):
        await work()

"""Ties the lifetime of a caller to the run that uses it.

Outside a run, overlapping calls share a caller, and the last of them closes it.
"""

from collections.abc import Callable
from typing import Any, Protocol, final

import trio

from trioflow._runtime.resources import Resource, current_resources
from trioflow.config.checks import check_in_trio


class Caller(Resource, Protocol):
    """Makes calls elsewhere."""

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call; raise its error."""
        ...


@final
class Lifetime:
    """Opens a caller for each run, and closes it.

    Args:
        open: creates a caller.
    """

    __slots__ = ("_open", "_outside")

    def __init__(self, open: Callable[[], Caller]) -> None:
        self._open = open
        # For each `trio.run`, because a caller is bound to its loop: the caller, and the number of calls that use
        # it.
        self._outside: dict[trio.lowlevel.TrioToken, list[Any]] = {}

    def __repr__(self) -> str:
        return f"<Lifetime: {len(self._outside)} outside runs>"

    def caller(self) -> Caller | None:
        """Return the caller of the current run; None outside a run."""
        resources = current_resources()
        return None if resources is None else resources.find(self, self._open)

    @trio.lowlevel.enable_ki_protection
    async def call_outside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call outside a run.

        Cancellation: passes through.
        """
        check_in_trio()
        token = trio.lowlevel.current_trio_token()
        if token not in self._outside:
            self._outside[token] = [self._open(), 0]
        shared = self._outside[token]
        shared[1] += 1
        try:
            return await shared[0].call(args, kwargs)
        finally:
            shared[1] -= 1
            if not shared[1]:
                del self._outside[token]
                with trio.CancelScope(shield=True):
                    await shared[0].aclose()

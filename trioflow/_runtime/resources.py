"""Resources that code opens for the run that calls it, such as a process pool: closed when the run ends.

A processor is a function, and is not notified when its run ends. So each pattern opens a `Resources` around the
tasks that call user code, and that code finds it with `current_resources`. Its contents are closed when the last
of these tasks has ended, with or without an error, and before the run ends.

It belongs to the innermost run. A resource that should outlive that run is opened by the caller, and passed in.
"""

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Protocol, Self, TypeVar, final

import trio

from trioflow._text import describe_error, one_line


class Resource(Protocol):
    """Can be closed."""

    async def aclose(self) -> None:
        """Close it; called once, shielded, when no task uses it any more."""
        ...


V = TypeVar("V", bound=Resource)


@final
class Resources:
    """The resources opened for one run, by owner."""

    __slots__ = ("_closed", "_opened", "_token")

    def __init__(self) -> None:
        self._opened: dict[object, Any] = {}
        self._closed = False
        self._token: Token[Resources] | None = None

    def __repr__(self) -> str:
        return f"<Resources: {'closed' if self._closed else len(self._opened)}>"

    @property
    def closed(self) -> bool:
        """Whether the run has ended: a task that its code started in another nursery may still ask."""
        return self._closed

    def find(self, owner: object, open: Callable[[], V]) -> V:
        """Return the resource that `owner` has opened for this run; the first time, call `open` for it."""
        if owner not in self._opened:
            self._opened[owner] = open()
        found: V = self._opened[owner]
        return found

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        self._token = opened_in.set(self)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(self, *details: object) -> None:
        # A chain or graph gives its task a new context between steps. That task ends here, so nothing stays set.
        with suppress(ValueError):
            opened_in.reset(self._token)  # type: ignore[arg-type]  # set on the way in
        self._token = None  # it refers to a context that has this object
        await self.aclose()

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close everything; an error is only logged, because the run has its result.

        Cancellation: shielded; not a checkpoint if nothing was opened.
        """
        self._closed = True
        opened, self._opened = list(self._opened.values()), {}
        for resource in opened:
            try:
                with trio.CancelScope(shield=True):
                    await resource.aclose()
            except Exception as error:  # noqa: BLE001 - a failed cleanup loses no result
                _warn(error)


opened_in: ContextVar[Resources] = ContextVar("trioflow_resources")
"""Set in the tasks in which a run calls user code, and inherited by those that this code starts."""


def current_resources() -> Resources | None:
    """Return the resources of the run that this code is called for; None outside a run."""
    resources = opened_in.get(None)
    return None if resources is None or resources.closed else resources


def _warn(error: Exception) -> None:
    from loguru import logger  # noqa: PLC0415 - loaded on first use

    with suppress(Exception):
        logger.warning("what was opened for a run could not be closed: {}", one_line(describe_error(error)))

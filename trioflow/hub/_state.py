"""What the agents of one hub share, made when it opens."""

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import final

import trio

from trioflow._runtime.errors import ErrorCollector
from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.errors import HubClosedError
from trioflow.hub._ledger import MessageLedger


@final
class HubState:
    """The state of one hub beside its agents.

    Args:
        config: the hub's.
        ledger: the hub's.

    Attributes:
        closed: whether it is over: no handler is called any more.
        errors: what ends the hub.
        nursery: where the handlers run.
    """

    __slots__ = ("_context", "closed", "config", "errors", "ledger", "nursery")

    nursery: trio.Nursery

    def __init__(self, config: HubConfig, ledger: MessageLedger) -> None:
        self.config = config
        self.ledger = ledger
        self.errors = ErrorCollector()
        self.closed = False
        self._context = copy_context()

    def __repr__(self) -> str:
        return f"<HubState of {self.config.name}: {'closed' if self.closed else 'open'}, {self.ledger!r}>"

    def new_context(self) -> Context:
        """Return the context for a handler: as it was for who opened the hub, not for who sends."""
        return self._context.copy()

    def spawn(self, fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task, in a context of its own."""
        self._context.run(lambda: self.nursery.start_soon(fn, *args, name=name))

    def crash(self, error: BaseException) -> None:
        """Stop everything; `error` is what the hub ends with."""
        self.errors.add(error)
        self.nursery.cancel_scope.cancel()

    def closed_error(self) -> HubClosedError:
        """Return what whoever calls the hub now is told."""
        return HubClosedError(f"hub {quote(self.config.name)} is closed: its block has been left")

"""The state that the agents of one hub share."""

from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import final

import trio

from trioflow._runtime.context import WorkInHand, id_of, working
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.errors import ErrorCollector
from trioflow._runtime.resources import Resources, opened_in
from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.errors import HubClosedError
from trioflow.events import EventType
from trioflow.hub._ledger import MessageLedger
from trioflow.hub._reaper import IdleReaper
from trioflow.hub._timer import Timer
from trioflow.hub.message import AWAITED, Message

_deadline: ContextVar[tuple[trio.abc.Clock, float] | None] = ContextVar("trioflow_hub_deadline", default=None)
"""The clock and deadline of the request that this task handles; in another `trio.run` the clock differs."""


@final
class HubState:
    """The state of one hub, except its agents.

    Args:
        config: the hub's.
        ledger: the hub's.

    Attributes:
        closed: whether the hub is closed: no handler is called any more.
        errors: the errors that end the hub.
        nursery: runs the handlers.
        reaper: ends idle tasks.
        resources: resources that handlers have opened.
        spawned: tasks started so far.
        timer: enforces deadlines.
    """

    __slots__ = (
        "_clock",
        "_context",
        "closed",
        "config",
        "errors",
        "ledger",
        "nursery",
        "reaper",
        "resources",
        "spawned",
        "timer",
        "token",
    )

    token: trio.lowlevel.TrioToken
    nursery: trio.Nursery
    _clock: trio.abc.Clock

    def __init__(self, config: HubConfig, ledger: MessageLedger) -> None:
        self.config = config
        self.ledger = ledger
        self.errors = ErrorCollector()
        self.timer = Timer()
        self.reaper = IdleReaper(self.timer)
        self.closed = False
        self.spawned = 0
        self.resources = Resources()
        self._context = copy_context()
        self._context.run(opened_in.set, self.resources)

    def __repr__(self) -> str:
        return f"<HubState of {self.config.name}: {'closed' if self.closed else 'open'}, {self.ledger!r}>"

    def open(self, nursery: trio.Nursery, dismiss: Callable[[], Awaitable[None]]) -> None:
        """Start the tasks of the hub itself.

        Args:
            nursery: runs its tasks.
            dismiss: rejects everything that waits, when the hub is closed.
        """
        self.nursery = nursery
        self.token = trio.lowlevel.current_trio_token()
        self._clock = trio.lowlevel.current_clock()
        self.spawn(self._close_when_cancelled, dismiss, name="trioflow hub: closer")
        self.spawn(self.timer.run, name="trioflow hub: timer")

    def close(self) -> None:
        """Close the hub at once: from now on no handler is called."""
        self.closed = True
        self.nursery.cancel_scope.cancel(reason=f"hub {quote(self.config.name)} is closed")

    def crash(self, error: BaseException) -> None:
        """Close the hub at once with `error`."""
        self.errors.add(error)
        self.close()

    def closed_error(self) -> HubClosedError:
        """Return the error of calls to a closed hub."""
        return HubClosedError(f"hub {quote(self.config.name)} is closed: its block has been left")

    def spawn(self, fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task in the context in which the hub was opened."""
        self._context.run(self._spawn, fn, args, name)

    def spawn_for(self, message: Message, fn: Callable[[Message], Awaitable[object]], name: str) -> None:
        """Start a task that handles `message` first."""
        self.context_for(message).run(self._spawn, fn, (message,), name)

    def context_for(self, message: Message) -> Context:
        """Return the context in which `message` is handled: a copy of the one in which the hub was opened.

        The handler's own requests inherit the deadline of `message`.
        """
        context = self._context.copy()
        context.run(working.set, _Handling(self.ledger.emitter, message))
        until = AWAITED.get(message.id)
        if until is not None:
            context.run(_deadline.set, (self._clock, until))
        if self.ledger.emitter.announces:
            context.run(self.ledger.announce, EventType.MESSAGE_HANDLED, message)
        return context

    def limit(self, until: float) -> float:
        """Return the deadline of a request: `until`, or an earlier one of the request that its sender handles."""
        inherited = _deadline.get()
        if inherited is None or inherited[0] is not self._clock:
            return until
        return min(until, inherited[1])

    def _spawn(self, fn: Callable[..., Awaitable[object]], args: tuple[object, ...], name: str) -> None:
        self.spawned += 1
        self.nursery.start_soon(fn, *args, name=name)

    @trio.lowlevel.enable_ki_protection
    async def _close_when_cancelled(self, dismiss: Callable[[], Awaitable[None]]) -> None:
        """Close the hub as soon as it is cancelled, even from outside while its body is shielded."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self.closed = True
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            with trio.CancelScope(shield=True):
                await dismiss()


@final
class _Handling:
    """The source of `current_run` in a handler: the message that it handles."""

    __slots__ = ("_message", "emitter")

    def __init__(self, emitter: Emitter, message: Message) -> None:
        self.emitter = emitter
        self._message = message

    @property
    def run_id(self) -> str:
        """The id of the hub's run."""
        return id_of(self.emitter)

    @property
    def worker(self) -> None:
        """None: a hub has no workers."""

    def in_hand(self) -> WorkInHand:
        """Return the message, for `current_run`."""
        message = self._message
        return WorkInHand(self.run_id, "hub", 1, name=message.recipient, identity=message.id)

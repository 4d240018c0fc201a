"""What became of every message: counted, told, and added up, so that leaving the hub can wait for all of them."""

from collections.abc import Callable
from typing import Any, final

import msgspec
import trio

from trioflow._live import Live
from trioflow._runtime.emitter import Emitter, status_of, told
from trioflow.events import EventType, Observer
from trioflow.hub.message import Message

__all__ = ("Account", "HubMetrics")


class HubMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of a hub so far: `sent = handled + failed + dropped`, and what waits or is in hand."""

    agents: int
    """Agents that are registered now."""
    sent: int
    """Messages for agents: requests and those that want no answer, one for each recipient."""
    handled: int
    """Those whose handler returned."""
    failed: int
    """Those whose handler raised, or was cancelled."""
    dropped: int
    """Those that no handler was given: the mailbox was full, the agent gone, or the hub closed."""
    pending: int
    """Requests that wait for their answer now."""


@final
class Account:
    """The account of one hub.

    Args:
        hub: its name.
        observer: who is told.
        agents: says how many agents there are.

    Attributes:
        live: the metrics, to be watched.
        open: messages that were neither handled nor dropped yet.
        pending: requests that wait for their answer.
    """

    __slots__ = (
        "_agents",
        "_dropped",
        "_emitter",
        "_failed",
        "_handled",
        "_hub",
        "_quiet",
        "_sent",
        "_telling",
        "live",
        "open",
        "pending",
    )

    def __init__(self, hub: str, observer: Observer, agents: Callable[[], int]) -> None:
        self._hub = hub
        self._agents = agents
        self._emitter = Emitter(observer, "hub")
        self._telling = self._emitter.active
        self._sent = self._handled = self._failed = self._dropped = 0
        self._quiet: trio.Event | None = None
        self.live: Live[HubMetrics] = Live(self.metrics)
        self.open = 0
        self.pending = 0

    def __repr__(self) -> str:
        return f"<Account of {self._hub}: {self.open} open of {self._sent}>"

    def metrics(self) -> HubMetrics:
        """Return the counts as they stand."""
        return HubMetrics(
            agents=self._agents(),
            sent=self._sent,
            handled=self._handled,
            failed=self._failed,
            dropped=self._dropped,
            pending=self.pending,
        )

    async def wait_until_quiet(self) -> None:
        """Wait until there is no open message.

        Cancellation: passes through.
        """
        while self.open:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def begin(self) -> None:
        """Take note of a message that somebody wants delivered."""
        self._sent += 1
        self.open += 1

    def delivered(self, message: Message, since: float) -> None:
        """Take note that `message` is in the mailbox, or with a handler."""
        if self._telling:
            self._tell(EventType.MESSAGE_SENT, message, "ok", None, since)
        self.live.publish()

    def undelivered(self, message: Message, error: BaseException | None, since: float) -> None:
        """Take note that `message` was not let into the mailbox; without an error, its sender gave up."""
        self._dropped += 1
        if self._telling:
            self._tell(EventType.MESSAGE_SENT, message, "cancelled" if error is None else "error", error, since)
        self._close_one()

    def discarded(self, message: Message) -> None:
        """Take note that `message` was in the mailbox, and nobody will handle it."""
        self._dropped += 1
        if self._telling:
            self._tell(EventType.MESSAGE_HANDLED, message, "cancelled", None, trio.current_time())
        self._close_one()

    def handled(self, message: Message, fault: BaseException | None, since: float) -> None:
        """Take note of how a handler ended that was given `message`."""
        if fault is None:
            self._handled += 1
        else:
            self._failed += 1
        if self._telling:
            self._tell(EventType.MESSAGE_HANDLED, message, status_of(fault), fault, since)
        self._close_one()

    def _close_one(self) -> None:
        self.open -= 1
        if not self.open and self._quiet is not None:
            self._quiet.set()
        self.live.publish()

    def _tell(
        self, type: EventType, message: Message, status: str, error: BaseException | None, since: float
    ) -> None:
        data: dict[str, Any] = {
            "hub": self._hub,
            "message_id": message.id,
            "sender": message.sender,
            "recipient": message.recipient,
            "message_type": message.type.value,
            "topic": message.topic,
            "status": status,
            "error": status == "error",
            **told(error if status == "error" else None),
            "duration": trio.current_time() - since,
        }
        self._emitter.emit(type, data, {"message": message})

"""Counts the outcome of every message, and emits the events of messages.

`sent = handled + failed + dropped + open` holds after every call here, so leaving the hub only has to wait for
`open` to become 0.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, final

import msgspec
import trio

from trioflow._live import Live
from trioflow._runtime.emitter import Emitter, error_fields, status_of
from trioflow._text import quote
from trioflow.events import EventType, Observer
from trioflow.hub.message import Message


class HubMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a hub's messages: `sent` is `handled + failed + dropped` plus those queued or running."""

    agents: int
    """Agents registered now."""
    sent: int
    """Messages sent to agents, requests included, counted once per recipient."""
    handled: int
    """Messages whose handler returned."""
    failed: int
    """Messages whose handler raised, or was cancelled."""
    dropped: int
    """Messages that reached no handler: the mailbox was full, the sender gave up, the agent left, or the hub
    closed."""
    pending: int
    """Requests waiting for their answer now."""


@final
class MessageLedger:
    """The messages of one hub.

    Args:
        hub: the hub's name.
        observer: receives the events.
        count_agents: returns the number of agents.

    Attributes:
        emitter: emits the hub's events.
        live: the metrics, to wait on.
        open: messages neither handled nor dropped yet.
        pending: requests waiting for their answer.
    """

    __slots__ = (
        "_count_agents",
        "_dropped",
        "_failed",
        "_handled",
        "_hub",
        "_quiet",
        "_sent",
        "emitter",
        "live",
        "open",
        "pending",
    )

    def __init__(self, hub: str, observer: Observer, count_agents: Callable[[], int]) -> None:
        self._hub = hub
        self._count_agents = count_agents
        self.emitter = Emitter(observer, "hub")
        self._sent = self._handled = self._failed = self._dropped = 0
        self._quiet: trio.Event | None = None
        self.live: Live[HubMetrics] = Live(self.metrics)
        self.open = 0
        self.pending = 0

    def __repr__(self) -> str:
        return f"<MessageLedger of {self._hub}: {self.open} open of {self._sent}>"

    def metrics(self) -> HubMetrics:
        """Return the current counts."""
        return HubMetrics(
            agents=self._count_agents(),
            sent=self._sent,
            handled=self._handled,
            failed=self._failed,
            dropped=self._dropped,
            pending=self.pending,
        )

    def now(self) -> float:
        """Return the time if an observer is active, else 0.0: reading the clock costs as much as counting."""
        return trio.current_time() if self.emitter.active else 0.0

    async def wait_until_quiet(self) -> None:
        """Wait until there is no open message.

        Cancellation: passes through.
        """
        while self.open:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def announce(self, type: EventType, message: Message) -> None:
        """Emit that `message` is about to be sent, or handled: in the sender's task, or the handler's context."""
        if self.emitter.announces:
            self.emitter.announce(type, self._describe(message), {"message": message})

    # The life of a message: accepted, or waiting and then admitted or not; then handled or discarded.

    def accepted(self, message: Message) -> None:
        """Count a message delivered at once, to a handler or into the mailbox."""
        self._sent += 1
        self.open += 1
        if self.emitter.active:
            self._emit(EventType.MESSAGE_SENT, message, "ok", None, 0.0)
        self.live.publish()

    def refused(self, message: Message, error: BaseException) -> None:
        """Count a message refused for lack of room."""
        self.waiting()
        self.not_admitted(message, error, 0.0)

    def waiting(self) -> None:
        """Count a message that waits for room."""
        self._sent += 1
        self.open += 1

    def admitted(self, message: Message, waited: float) -> None:
        """Emit that a message was admitted after `waited` seconds; it was counted when it started to wait."""
        if self.emitter.active:
            self._emit(EventType.MESSAGE_SENT, message, "ok", None, waited)
        self.live.publish()

    def not_admitted(self, message: Message, error: BaseException | None, waited: float) -> None:
        """Count a message that was not admitted; without an error, its sender gave up."""
        self._dropped += 1
        status = "cancelled" if error is None else "error"
        self._close_one(EventType.MESSAGE_SENT, message, status, error, waited)

    def discarded(self, message: Message) -> None:
        """Count an admitted message that will not be handled."""
        self._dropped += 1
        self._close_one(EventType.MESSAGE_HANDLED, message, "cancelled", None, 0.0)

    def handled(self, message: Message, error: BaseException | None, since: float) -> None:
        """Count a message whose handler, called at `since`, ended with `error`, or returned if that is None."""
        if error is None:
            self._handled += 1
        else:
            self._failed += 1
        self._close_one(EventType.MESSAGE_HANDLED, message, None, error, self.now() - since)

    def warn(self, running: int, seconds: float) -> None:
        """Log what is dropped after the drain timeout: `running` handlers, and the queued messages."""
        from loguru import logger  # noqa: PLC0415 - loaded on first use

        text = "hub {} was not quiet after {:g} s (drain_timeout): {} handlers are cancelled, {} messages dropped"
        # If logging fails, the metrics still have the counts.
        with suppress(Exception):
            logger.warning(text, quote(self._hub), seconds, running, self.open - running)

    def _close_one(
        self,
        type: EventType,
        message: Message,
        status: str | None,
        error: BaseException | None,
        seconds: float,
    ) -> None:
        self.open -= 1
        if not self.open and self._quiet is not None:
            self._quiet.set()
        # An observer may raise a non-Exception, so the event comes after all counting.
        if self.emitter.active:
            self._emit(type, message, status or status_of(error), error, seconds)
        self.live.publish()

    def _emit(
        self, type: EventType, message: Message, status: str, error: BaseException | None, seconds: float
    ) -> None:
        data = self._describe(message)
        data["status"] = status
        data["error"] = status == "error"
        data.update(error_fields(error if status == "error" else None))
        data["duration"] = seconds
        self.emitter.emit(type, data, {"message": message})

    def _describe(self, message: Message) -> dict[str, Any]:
        return {
            "hub": self._hub,
            "message_id": message.id,
            "sender": message.sender,
            "recipient": message.recipient,
            "message_type": message.type.value,
            "topic": message.topic,
        }

"""How a message gets to an agent: at once, after a wait for room, or not at all, as the hub's `overflow` says."""

from collections.abc import Iterable, Mapping
from typing import Any, final

import msgspec
import trio

from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.config.checks import check_instance, check_text
from trioflow.errors import MailboxFullError, RequestTimeoutError
from trioflow.hub._account import Account
from trioflow.hub._agent import Agent
from trioflow.hub.message import Message, MessageType, Priority

__all__ = ("Delivery", "Draft")


@final
class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What is said, before it is addressed."""

    hub: str
    sender: str
    type: MessageType
    data: Any
    priority: Priority
    headers: Mapping[str, str] | None
    topic: str | None = None

    def __post_init__(self) -> None:
        check_text("sender", self.sender)
        check_instance("priority", self.priority, Priority)
        check_instance("headers", self.headers, Mapping, optional=True)

    def to(self, recipient: str) -> Message:
        """Return the message for `recipient`."""
        return Message(
            hub=self.hub,
            sender=self.sender,
            recipient=recipient,
            type=self.type,
            data=self.data,
            topic=self.topic,
            priority=self.priority,
            headers={} if self.headers is None else dict(self.headers),
        )


@final
class Delivery:
    """Delivers the messages of one hub.

    Args:
        config: the hub's.
        account: the hub's.
    """

    __slots__ = ("_account", "_config")

    def __init__(self, config: HubConfig, account: Account) -> None:
        self._config = config
        self._account = account

    def __repr__(self) -> str:
        return f"<Delivery: {self._account!r}>"

    async def send(self, agent: Agent, message: Message) -> bool:
        """Deliver `message`; return whether it was.

        Cancellation: not delivered.
        """
        since = trio.current_time()
        if self._offer(agent, message, since):
            return True
        if self._config.overflow == "wait":
            await self._wait_for_room(agent, message, since)
            return True
        error = self._full(agent)
        self._account.undelivered(message, error, since)
        if self._config.overflow == "error":
            raise error
        return False

    async def request(self, agent: Agent, message: Message, seconds: float) -> Message:
        """Deliver `message`, and return the answer.

        Cancellation: the answer is dropped.
        """
        since = trio.current_time()
        answer = agent.expect(message)
        try:
            if not self._offer(agent, message, since):
                if self._config.overflow != "wait":
                    error = self._full(agent)
                    self._account.undelivered(message, error, since)
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    raise error
                agent.stand_in_line(message, since)
            with trio.move_on_after(seconds):
                return await answer.wait()
            late = f"no answer from {quote(agent.name)} within {seconds:g} s"
            raise RequestTimeoutError(late, agent=agent.name, timeout=seconds)
        finally:
            agent.forget(message)
            if agent.mailbox.leave_line(message):
                self._account.undelivered(message, None, since)

    def spread(self, agents: Iterable[Agent], draft: Draft) -> int:
        """Deliver to all of `agents` but the sender that have room; return how many they were."""
        delivered = 0
        since = trio.current_time()
        for agent in agents:
            if agent.name == draft.sender:
                continue
            message = draft.to(agent.name)
            if self._offer(agent, message, since):
                delivered += 1
            else:
                self._account.undelivered(message, self._full(agent), since)
        return delivered

    def _offer(self, agent: Agent, message: Message, since: float) -> bool:
        self._account.begin()
        if not agent.accept(message):
            return False
        self._account.delivered(message, since)
        return True

    async def _wait_for_room(self, agent: Agent, message: Message, since: float) -> None:
        """Stand in line.

        Cancellation: not delivered.
        """
        room = agent.stand_in_line(message, since)
        error: MailboxFullError | None = None
        try:
            with trio.move_on_after(self._config.timeout):
                return await room.wait()
            error = self._full(agent, f" after {self._config.timeout:g} s")
            raise error
        finally:
            if agent.mailbox.leave_line(message):
                self._account.undelivered(message, error, since)

    def _full(self, agent: Agent, after: str = "") -> MailboxFullError:
        size = self._config.buffer
        message = f"the mailbox of {quote(agent.name)} is full{after}: it holds {size} messages (buffer)"
        return MailboxFullError(message, agent=agent.name)

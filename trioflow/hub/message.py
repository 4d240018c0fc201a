"""Messages between agents, and their ids."""

import os
import time
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from itertools import count
from threading import RLock
from typing import Any, Self, final

import msgspec

from trioflow.errors import ConfigError

__all__ = ("AWAITED", "Message", "MessageType", "Priority", "check_headers", "new_id")


AWAITED: dict[str, float] = {}
"""The deadlines of this process's pending requests by message id, on the clock of their `trio.run`."""


class MessageType(StrEnum):
    """The kinds of messages."""

    REQUEST = "request"
    """Expects an answer."""
    RESPONSE = "response"
    """Answers a request."""
    NOTIFICATION = "notification"
    """Sent to one agent, or published to the subscribers of a topic."""
    BROADCAST = "broadcast"
    """Sent to all agents."""


class Priority(IntEnum):
    """The priority of a message in a mailbox; messages of equal priority are handled in order of arrival."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class _Ids:
    """Generates ids: a prefix for the current millisecond, and a counter for the rest.

    The random bits are drawn once per millisecond and incremented within it: RFC 9562, section 6.2, method 2.
    Threads share the counter, which is atomic, so ids are ordered across them too.
    """

    current = (0, "", count())
    lock = RLock()

    @classmethod
    def renew(cls, now: int) -> None:
        """Start a new millisecond, unless another thread has."""
        with cls.lock:
            if now > cls.current[0]:
                random = int.from_bytes(os.urandom(10))
                digits = f"{now:012x}7{random >> 68:03x}"
                # The highest of the 62 bits is left zero, as room for the counter.
                counter = count(1 << 63 | random & (1 << 61) - 1)
                # One tuple, so that no thread sees a prefix with another millisecond's counter.
                cls.current = (now, f"{digits[:8]}-{digits[8:12]}-{digits[12:]}-", counter)

    @classmethod
    def forget(cls) -> None:
        """Start over: a forked process must not continue the ids of its parent."""
        cls.lock = RLock()
        cls.current = (0, "", count())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Ids.forget)


def new_id() -> str:
    """Return a UUID of version 7: it sorts by time, and by order of creation within a millisecond."""
    now = time.time_ns() // 1_000_000
    if now > _Ids.current[0]:
        _Ids.renew(now)
    _, prefix, counter = _Ids.current
    low = next(counter)
    return f"{prefix}{low >> 48:04x}-{low & 0xFFFF_FFFF_FFFF:012x}"


@final
class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message to an agent; msgspec encodes it to JSON and MessagePack, if it can encode the data."""

    id: str = msgspec.field(default_factory=new_id)
    """A UUID of version 7."""
    hub: str = ""
    """The name of its hub."""
    sender: str
    """The sender's name; it need not be an agent."""
    recipient: str
    """The name of the agent that receives it."""
    type: MessageType = MessageType.NOTIFICATION
    """Its kind."""
    data: Any = None
    """Its payload."""
    reply_to: str | None = None
    """The id of the request that it answers."""
    topic: str | None = None
    """The topic that it was published to."""
    timestamp: float = msgspec.field(default_factory=time.time)
    """When it was created, in seconds since the epoch."""
    priority: Priority = Priority.NORMAL
    """Its priority in the mailbox."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Metadata beside the payload, such as a trace context."""
    deadline: float | None = None
    """When the sender stops waiting for the answer, in seconds since the epoch; None if it does not wait."""

    @property
    def expects_answer(self) -> bool:
        """Whether a task in this process still waits for the answer; a long-running handler may check it."""
        return self.id in AWAITED

    def reply(self, data: Any = None, *, headers: dict[str, str] | None = None) -> Self:
        """Return an answer to this message, from its recipient to its sender."""
        return type(self)(
            hub=self.hub,
            sender=self.recipient,
            recipient=self.sender,
            type=MessageType.RESPONSE,
            data=data,
            reply_to=self.id,
            priority=self.priority,
            headers=dict(headers or {}),
        )


def check_headers(headers: object) -> None:
    """Require a mapping of strings to strings."""
    if not isinstance(headers, Mapping) or not all(
        isinstance(text, str) for pair in headers.items() for text in pair
    ):
        raise ConfigError.refusing("headers", headers, "a mapping of strings to strings")

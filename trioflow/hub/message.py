"""Messages: what agents say to each other, and by which name each one is known."""

import os
import time
from enum import IntEnum, StrEnum
from typing import Any, Self, final

import msgspec

__all__ = ("Message", "MessageType", "Priority", "new_id")


class MessageType(StrEnum):
    """What a message is."""

    REQUEST = "request"
    """It wants an answer."""
    RESPONSE = "response"
    """It is one."""
    NOTIFICATION = "notification"
    """It was sent to one agent, or published to those who subscribed to its topic."""
    BROADCAST = "broadcast"
    """It was sent to everybody."""


class Priority(IntEnum):
    """Which messages of a mailbox are handled first; those of one priority in the order of their arrival."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class _Ids:
    """The last id, as the number that its bits are without version and variant."""

    last = 0

    @classmethod
    def forget(cls) -> None:
        """Begin anew: a forked process must not go on with the ids of its parent."""
        cls.last = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Ids.forget)

_RANDOM_BITS = 74


def new_id() -> str:
    """Return a UUID of version 7: it sorts by time, and by order of creation within a millisecond.

    The random bits are drawn once a millisecond and counted up in it: RFC 9562, section 6.2, method 2.
    """
    now = time.time_ns() // 1_000_000
    if now > _Ids.last >> _RANDOM_BITS:
        # The highest bit stays free for the counting.
        _Ids.last = now << _RANDOM_BITS | int.from_bytes(os.urandom(10)) >> 7
    else:
        _Ids.last += 1
    last = _Ids.last
    digits = f"{last >> 74:012x}7{last >> 62 & 0xFFF:03x}{1 << 63 | last & (1 << 62) - 1:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@final
class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent says to another; it encodes to JSON and MessagePack by msgspec, if its data does."""

    id: str = msgspec.field(default_factory=new_id)
    """A UUID of version 7."""
    hub: str = ""
    """The name of the hub that carries it."""
    sender: str
    """Who says it: an agent, or anybody else."""
    recipient: str
    """The agent that it is for."""
    type: MessageType = MessageType.NOTIFICATION
    """What it is."""
    data: Any = None
    """What it says."""
    reply_to: str | None = None
    """The id of the request that it answers."""
    topic: str | None = None
    """What it was published under."""
    timestamp: float = msgspec.field(default_factory=time.time)
    """When it was made, in seconds since the epoch."""
    priority: Priority = Priority.NORMAL
    """Whether it is handled before others."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """What is said beside the data, such as a trace's id."""

    def reply(self, data: Any = None, *, headers: dict[str, str] | None = None) -> Self:
        """Return the answer to this message, as its recipient gives it."""
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

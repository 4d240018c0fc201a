"""Messages: what agents say to each other, and by which name each one is known."""

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
"""The requests of this process that wait for their answers: until when, by the clock of their `trio.run`."""


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
    """Where ids come from: what those of this millisecond begin with, and a counter for the rest.

    The random bits are drawn once a millisecond and counted up in it: RFC 9562, section 6.2, method 2. Threads
    share the counter, which is atomic, so the order of creation holds between them too.
    """

    current = (0, "", count())
    lock = RLock()

    @classmethod
    def renew(cls, now: int) -> None:
        """Begin a millisecond, unless another thread has."""
        with cls.lock:
            if now > cls.current[0]:
                random = int.from_bytes(os.urandom(10))
                digits = f"{now:012x}7{random >> 68:03x}"
                # The highest of the 62 bits stays free for the counting.
                counter = count(1 << 63 | random & (1 << 61) - 1)
                # One tuple, so that no thread sees the one without the other.
                cls.current = (now, f"{digits[:8]}-{digits[8:12]}-{digits[12:]}-", counter)

    @classmethod
    def forget(cls) -> None:
        """Begin anew: a forked process must not go on with the ids of its parent."""
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
    deadline: float | None = None
    """Until when the sender waits for the answer, in seconds since the epoch; None where it does not wait."""

    @property
    def expects_answer(self) -> bool:
        """Whether somebody in this process still waits for the answer: long work may look before it goes on."""
        return self.id in AWAITED

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


def check_headers(headers: object) -> None:
    """Refuse what is not a mapping of strings to strings."""
    if not isinstance(headers, Mapping) or not all(
        isinstance(text, str) for pair in headers.items() for text in pair
    ):
        raise ConfigError.refusing("headers", headers, "a mapping of strings to strings")

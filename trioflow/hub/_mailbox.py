"""The messages that wait for an agent, and the senders that wait for room."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, final

import trio

from trioflow.errors import HubError
from trioflow.hub._ledger import MessageLedger
from trioflow.hub._promise import Promise
from trioflow.hub.message import Message, Priority


@final
class Mailbox:
    """At most `size` messages, of which the first of the highest priority is taken; and a line in front of it.

    The line is served in the order of coming, whatever the priority, and nobody gets in past it.

    Attributes:
        depth: messages in it.
    """

    __slots__ = ("_lanes", "_ledger", "_line", "_size", "depth")

    def __init__(self, size: int, ledger: MessageLedger) -> None:
        self._size = size
        self._ledger = ledger
        self._lanes: dict[Priority, OrderedDict[str, Message]] = {}
        self._line: OrderedDict[str, tuple[Message, Promise[None] | None, float]] = OrderedDict()
        self.depth = 0

    def __repr__(self) -> str:
        return f"<Mailbox: {self.depth} of {self._size}, {len(self._line)} in line>"

    def put(self, message: Message) -> bool:
        """Put `message` in, if there is room and no line; return whether it went."""
        if self.depth >= self._size or self._line:
            return False
        self._insert(message)
        return True

    def take(self) -> Message | None:
        """Take the next message out, and let in who waits for the room."""
        if not self.depth:
            return None
        lane = self._lanes[max(self._lanes)]
        message = lane.popitem(last=False)[1]
        self._shrink(message.priority)
        self.admit()
        return message

    def wait_in_line(self, message: Message, room: Promise[None] | None) -> None:
        """Let `message` in as soon as there is room, and resolve `room` then."""
        self._line[message.id] = message, room, trio.current_time()

    def admit(self) -> None:
        """Let messages in from the line, as many as there is room for."""
        while self._line and self.depth < self._size:
            _, (message, room, since) = self._line.popitem(last=False)
            self._insert(message)
            if room is not None:
                room.resolve(None)
            self._ledger.admitted(message, trio.current_time() - since)

    def withdraw(self, message: Message) -> Literal["line", "mailbox"] | None:
        """Take `message` out, wherever it is; return where it was.

        Nothing else happens here, for Trio may be the caller: whoever waits for the room is let in by `admit`.
        """
        if self._line.pop(message.id, None) is not None:
            return "line"
        lane = self._lanes.get(message.priority)
        if lane is None or lane.pop(message.id, None) is None:
            return None
        self._shrink(message.priority)
        return "mailbox"

    def clear(self) -> list[Message]:
        """Take out every message that was let in."""
        messages = [
            message for priority in sorted(self._lanes, reverse=True) for message in self._lanes[priority].values()
        ]
        self._lanes.clear()
        self.depth = 0
        return messages

    def dismiss_line(self, why: Callable[[], HubError]) -> None:
        """Tell everybody in line that they will not be let in."""
        while self._line:
            _, (message, room, since) = self._line.popitem(last=False)
            error = why()
            if room is not None:
                room.reject(error)
            self._ledger.not_admitted(message, error, trio.current_time() - since)

    def _insert(self, message: Message) -> None:
        self._lanes.setdefault(message.priority, OrderedDict())[message.id] = message
        self.depth += 1

    def _shrink(self, priority: Priority) -> None:
        """Take note that a message of this priority is out."""
        self.depth -= 1
        if not self._lanes[priority]:
            del self._lanes[priority]

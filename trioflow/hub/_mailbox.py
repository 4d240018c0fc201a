"""The messages that wait for an agent, and the senders that wait for room.

Age raises priority, so that no message starves: a message gains one priority for each `size` messages taken out
since it arrived, up to the highest. So a mailbox that is only drained follows priorities strictly, and under any
load at most `4 * size` messages are taken out before one that is in it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, final

import trio

from trioflow.errors import HubError
from trioflow.hub._ledger import MessageLedger
from trioflow.hub.message import Message, Priority

Place = Literal["line", "mailbox"]
"""Where a message waits before it is handled."""

OnEnd = Callable[[HubError | None], object]
"""Called when a sender's wait for room ends: with None if the message was admitted, else with the error."""


@final
class Mailbox:
    """A bounded priority queue of messages, with a line of messages that wait for room.

    The line is first in, first out, whatever the priority, and cannot be bypassed.

    Attributes:
        depth: messages in it.
        size: messages that it can hold.
    """

    __slots__ = ("_lanes", "_ledger", "_line", "_taken", "depth", "size")

    def __init__(self, size: int, ledger: MessageLedger) -> None:
        self.size = size
        self.depth = 0
        self._ledger = ledger
        # Each message with the number of messages taken out before it arrived. Lanes are created on demand: most
        # agents of a large hub never need one.
        self._lanes: dict[Priority, OrderedDict[str, tuple[int, Message]]] = {}
        self._line: OrderedDict[str, tuple[Message, OnEnd | None, float]] = OrderedDict()
        self._taken = 0

    def __repr__(self) -> str:
        return f"<Mailbox: {self.depth} of {self.size}, {len(self._line)} in line>"

    def put(self, message: Message) -> bool:
        """Add `message`, if there is room and no line; return whether it was added."""
        if self.depth >= self.size or self._line:
            return False
        self._insert(message)
        return True

    def take(self) -> Message | None:
        """Take out the next message, and admit one from the line in its place."""
        if not self.depth:
            return None
        priority = next(iter(self._lanes)) if len(self._lanes) == 1 else max(self._lanes, key=self._rank)
        _, message = self._lanes[priority].popitem(last=False)[1]
        self._taken += 1
        self._shrink(priority)
        self.admit()
        return message

    def wait_in_line(self, message: Message, on_end: OnEnd | None) -> None:
        """Append `message` to the line: it is admitted when there is room, and `on_end` is called then."""
        self._line[message.id] = message, on_end, trio.current_time()

    def admit(self) -> None:
        """Admit as many messages from the line as there is room for."""
        while self._line and self.depth < self.size:
            _, (message, on_end, since) = self._line.popitem(last=False)
            self._insert(message)
            if on_end is not None:
                on_end(None)
            self._ledger.admitted(message, trio.current_time() - since)

    def withdraw(self, message: Message) -> Place | None:
        """Remove `message`, wherever it is; return where it was.

        Does nothing else, because Trio may be the caller: `admit` then fills the room.
        """
        if self._line.pop(message.id, None) is not None:
            return "line"
        lane = self._lanes.get(message.priority)
        if lane is None or lane.pop(message.id, None) is None:
            return None
        self._shrink(message.priority)
        return "mailbox"

    def clear(self) -> list[Message]:
        """Remove and return all admitted messages."""
        lanes = [self._lanes[priority] for priority in sorted(self._lanes, reverse=True)]
        self._lanes = {}
        self.depth = 0
        return [message for lane in lanes for _, message in lane.values()]

    def dismiss_line(self, why: Callable[[], HubError]) -> None:
        """Remove all messages from the line, and end their waits with `why()`."""
        line, self._line = self._line, OrderedDict()
        now = trio.current_time()
        ends = [(message, on_end, why(), now - since) for message, on_end, since in line.values()]
        for _, on_end, error, _ in ends:
            if on_end is not None:
                on_end(error)
        for message, _, error, waited in ends:
            self._ledger.not_admitted(message, error, waited)

    def _insert(self, message: Message) -> None:
        lane = self._lanes.get(message.priority)
        if lane is None:
            lane = self._lanes[message.priority] = OrderedDict()
        lane[message.id] = self._taken, message
        self.depth += 1

    def _shrink(self, priority: Priority) -> None:
        """Count one message of this priority less."""
        self.depth -= 1
        if not self._lanes[priority]:
            del self._lanes[priority]

    def _rank(self, priority: Priority) -> tuple[int, int, int]:
        """Return the rank of the first message of a lane; those behind it arrived later, and rank lower."""
        before, _ = next(iter(self._lanes[priority].values()))
        age = (self._taken - before) // self.size
        return min(priority + age, Priority.CRITICAL), -before, priority

"""The messages that wait for an agent, and the senders that wait for room.

Age raises priority, so that nothing waits for ever: a message counts as one priority higher for each `size`
messages that were handed out since it came, up to the highest. So a mailbox that is only emptied keeps strictly to
the priorities, and under any load at most `4 * size` messages are handed out before one that was let in.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, final

import trio

from trioflow.errors import HubError
from trioflow.hub._ledger import MessageLedger
from trioflow.hub.message import Message, Priority

Place = Literal["line", "mailbox"]
"""Where a message is before a handler has it."""

OnEnd = Callable[[HubError | None], object]
"""Called when a sender's wait for room is over: with None where the message was let in, else with the reason."""


@final
class Mailbox:
    """At most `size` messages, of which the first of the highest priority is taken; and a line in front of it.

    The line is served in the order of coming, whatever the priority, and nobody gets in past it.

    Attributes:
        depth: messages in it.
        size: messages that it can hold.
    """

    __slots__ = ("_lanes", "_ledger", "_line", "_taken", "depth", "size")

    def __init__(self, size: int, ledger: MessageLedger) -> None:
        self.size = size
        self.depth = 0
        self._ledger = ledger
        # Each message with how many were handed out before it came. Lanes are made on demand, for most agents of a
        # large hub never have one.
        self._lanes: dict[Priority, OrderedDict[str, tuple[int, Message]]] = {}
        self._line: OrderedDict[str, tuple[Message, OnEnd | None, float]] = OrderedDict()
        self._taken = 0

    def __repr__(self) -> str:
        return f"<Mailbox: {self.depth} of {self.size}, {len(self._line)} in line>"

    def put(self, message: Message) -> bool:
        """Put `message` in, if there is room and no line; return whether it went."""
        if self.depth >= self.size or self._line:
            return False
        self._insert(message)
        return True

    def take(self) -> Message | None:
        """Take the next message out, and let in who waits for the room."""
        if not self.depth:
            return None
        priority = next(iter(self._lanes)) if len(self._lanes) == 1 else max(self._lanes, key=self._rank)
        _, message = self._lanes[priority].popitem(last=False)[1]
        self._taken += 1
        self._shrink(priority)
        self.admit()
        return message

    def wait_in_line(self, message: Message, on_end: OnEnd | None) -> None:
        """Let `message` in as soon as there is room, and call `on_end` then."""
        self._line[message.id] = message, on_end, trio.current_time()

    def admit(self) -> None:
        """Let messages in from the line, as many as there is room for."""
        while self._line and self.depth < self.size:
            _, (message, on_end, since) = self._line.popitem(last=False)
            self._insert(message)
            if on_end is not None:
                on_end(None)
            self._ledger.admitted(message, trio.current_time() - since)

    def withdraw(self, message: Message) -> Place | None:
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
        lanes = [self._lanes[priority] for priority in sorted(self._lanes, reverse=True)]
        self._lanes = {}
        self.depth = 0
        return [message for lane in lanes for _, message in lane.values()]

    def dismiss_line(self, why: Callable[[], HubError]) -> None:
        """Tell everybody in line that they will not be let in."""
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
        """Take note that a message of this priority is out."""
        self.depth -= 1
        if not self._lanes[priority]:
            del self._lanes[priority]

    def _rank(self, priority: Priority) -> tuple[int, int, int]:
        """Return how urgent the first message of a lane is; those behind it are less, for they came later."""
        before, _ = next(iter(self._lanes[priority].values()))
        age = (self._taken - before) // self.size
        return min(priority + age, Priority.CRITICAL), -before, priority

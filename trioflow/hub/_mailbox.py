"""The messages that wait for an agent, and the senders that wait for room."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import final

from trioflow.errors import HubError
from trioflow.hub.message import Message, Priority

__all__ = ("Mailbox",)

OnEnd = Callable[[HubError | None], object]
"""Told how a message's wait in line ended: None where it was let in, else why it never will be."""


@final
class Mailbox:
    """At most `size` messages, of which the first of the highest priority is taken; and a line in front of it."""

    __slots__ = ("_lanes", "_line", "_size", "depth")

    def __init__(self, size: int) -> None:
        self._size = size
        self._lanes: tuple[deque[Message], ...] = tuple(deque() for _ in Priority)
        self._line: OrderedDict[str, tuple[Message, OnEnd]] = OrderedDict()
        self.depth = 0

    def __repr__(self) -> str:
        return f"<Mailbox: {self.depth} of {self._size}, {len(self._line)} in line>"

    def put(self, message: Message) -> bool:
        """Put `message` in, if there is room; return whether there was."""
        if self.depth >= self._size:
            return False
        self._lanes[message.priority].append(message)
        self.depth += 1
        return True

    def take(self) -> Message | None:
        """Take the next message out, and let the first of the line in."""
        if not self.depth:
            return None
        lane = next(lane for lane in reversed(self._lanes) if lane)
        message = lane.popleft()
        self.depth -= 1
        if self._line:
            _, (first, on_end) = self._line.popitem(last=False)
            self.put(first)
            on_end(None)
        return message

    def stand_in_line(self, message: Message, on_end: OnEnd) -> None:
        """Let `message` in as soon as there is room, and tell `on_end`."""
        self._line[message.id] = (message, on_end)

    def leave_line(self, message: Message) -> bool:
        """Take `message` out of the line; return whether it was still there."""
        return self._line.pop(message.id, None) is not None

    def empty(self) -> Iterator[Message]:
        """Take out every message that was let in."""
        for lane in reversed(self._lanes):
            while lane:
                self.depth -= 1
                yield lane.popleft()

    def dismiss_line(self, why: Callable[[], HubError]) -> None:
        """Tell everybody in line that they will not be let in."""
        while self._line:
            self._line.popitem(last=False)[1][1](why())

"""What ends the tasks that a burst left behind: those of each agent that were not needed for a while."""

from collections import deque
from typing import Protocol, final

import trio

from trioflow.hub._timer import AT_ONCE, Timer

IDLE_SECONDS = 5.0
"""A task that was not needed for so long ends, after twice the time at most."""


class Idle(Protocol):
    """Who has idle tasks."""

    watched: bool
    """Whether the reaper looks after them."""

    def end_spare(self) -> bool:
        """End those that were not needed since the last time; return whether there are others."""
        ...


@final
class IdleReaper:
    """Ends the tasks that a burst left behind: those of each agent that were not needed for a period."""

    __slots__ = ("__weakref__", "_later", "_now", "_timer", "_waits")

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._now: deque[Idle] = deque()
        self._later: deque[Idle] = deque()
        self._waits = False

    def __repr__(self) -> str:
        return f"<IdleReaper of {len(self._now) + len(self._later)} agents>"

    def watch(self, tasks: Idle) -> None:
        """Look after `tasks`, of which one has become idle."""
        tasks.watched = True
        self._later.append(tasks)
        self._wait()

    def expire(self) -> None:
        """Go through some agents; those that still have idle tasks are looked at again after the next period."""
        if not self._now:
            self._now, self._later = self._later, self._now
        for _ in range(min(AT_ONCE, len(self._now))):
            tasks = self._now.popleft()
            tasks.watched = tasks.end_spare()
            if tasks.watched:
                self._later.append(tasks)
        self._waits = False
        self._wait()

    def _wait(self) -> None:
        if not self._waits and (self._now or self._later):
            self._waits = True
            pause = 0.0 if self._now else IDLE_SECONDS
            self._timer.add(trio.current_time() + pause, self)

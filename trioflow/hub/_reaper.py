"""Ends tasks left over from a burst: each agent's tasks that have been idle for a while."""

from collections import deque
from typing import Protocol, final

import trio

from trioflow.hub._timer import AT_ONCE, Timer

IDLE_SECONDS = 5.0
"""Seconds after which an idle task ends, or up to twice as many."""


class Idle(Protocol):
    """An owner of idle tasks."""

    watched: bool
    """Whether the reaper watches them."""

    def end_spare(self) -> bool:
        """End the tasks that have been idle since the last call; return whether idle ones are left."""
        ...


@final
class IdleReaper:
    """Ends each agent's tasks that have been idle for a period."""

    __slots__ = ("__weakref__", "_later", "_now", "_timer", "_waits")

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._now: deque[Idle] = deque()
        self._later: deque[Idle] = deque()
        self._waits = False

    def __repr__(self) -> str:
        return f"<IdleReaper of {len(self._now) + len(self._later)} agents>"

    def watch(self, tasks: Idle) -> None:
        """Watch `tasks`, one of which has become idle."""
        tasks.watched = True
        self._later.append(tasks)
        self._wait()

    def expire(self) -> None:
        """Check some of the agents; those that still have idle tasks are checked again after the next period."""
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

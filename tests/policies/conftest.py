"""A clock whose timers wake late, as those of a loaded machine do."""

import math
from collections.abc import Callable

import pytest
import trio


class LateClock(trio.abc.Clock):
    """Jumps to the next deadline when all tasks wait, and `delay()` seconds past it.

    Trio asks for the seconds until the next deadline, sleeps so long at most, and asks again: so this clock says
    more than there are, as the system does that lets a process wait for its turn.
    """

    def __init__(self, delay: Callable[[], float]) -> None:
        self._delay = delay
        self._now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if self._now < deadline < math.inf:
            self._now = deadline + self._delay()
        return 0.0 if deadline < math.inf else 999.0


@pytest.fixture
def late_clock() -> Callable[[float], LateClock]:
    return lambda delay: LateClock(lambda: delay)

"""The time that a store's timers go by: the wall's, or that of a test's clock.

Under a clock that is not Trio's own it is the wall's time at the run's first look and what the clock has gone
since, so leases, waits and delays can be tested without waiting for them.
"""

import time

import trio

__all__ = ("store_time",)

_base: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("trioflow_clock_base")


def store_time() -> float:
    """Return the time now."""
    if _is_the_walls():
        return time.time()
    now = trio.current_time()
    try:
        base = _base.get()
    except LookupError:
        # Whole seconds: what is left of a float's precision is for what the clock goes.
        base = time.time() // 1 - now // 1
        _base.set(base)
    return base + now


def _is_the_walls() -> bool:
    """Whether the running clock is Trio's own, which has no public name."""
    return type(trio.lowlevel.current_clock()).__name__ == "SystemClock"

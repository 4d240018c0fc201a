"""The time of a store's timers: wall time, or that of a test clock.

Under a clock other than Trio's own, it is the wall time at the first call plus the time of that clock since then,
so that leases, waits and delays can be tested without waiting.
"""

import time

import trio

__all__ = ("store_time",)

_base: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("trioflow_clock_base")


def store_time() -> float:
    """Return the current time, in seconds since the epoch."""
    if _is_the_walls():
        return time.time()
    now = trio.current_time()
    try:
        base = _base.get()
    except LookupError:
        # Whole seconds, to leave the precision of the float to the clock's time.
        base = time.time() // 1 - now // 1
        _base.set(base)
    return base + now


def _is_the_walls() -> bool:
    """Whether the running clock is Trio's own, which has no public name."""
    return type(trio.lowlevel.current_clock()).__name__ == "SystemClock"

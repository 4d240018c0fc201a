"""The time that a store's timers go by: wall time, carried on by Trio's clock within a `trio.run`.

With Trio's own clock that is the wall's, whatever sets it. With a test's clock it is that of the run's first
moment and what the clock has gone since, so leases, waits and delays can be tested without waiting for them.
"""

import time

import trio

__all__ = ("clock_offset", "store_time")

_base: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("trioflow_clock_base")


def clock_offset() -> float:
    """Return what to add to the wall's time: nothing worth mentioning, except under a test's clock."""
    ahead = trio.current_time() - time.perf_counter()
    try:
        base = _base.get()
    except LookupError:
        base = ahead
        _base.set(base)
    return ahead - base


def store_time() -> float:
    """Return the time now."""
    return time.time() + clock_offset()

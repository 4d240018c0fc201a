"""Notifies tasks in this process of changes in a store."""

from typing import final

import trio

__all__ = ("Changes",)


@final
class Changes:
    """Counts changes, and wakes the tasks that wait for one.

    Attributes:
        count: the number of changes.
    """

    __slots__ = ("_lot", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Changes: {self.count}>"

    def note(self) -> None:
        """Record a change, and wake the waiting tasks."""
        self.count += 1
        self._lot.unpark_all()

    async def wait(self) -> None:
        """Wait for the next change.

        Cancellation: passes through.
        """
        await self._lot.park()

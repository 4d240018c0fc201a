"""What a store says of its changes to those who wait for one in this process: a number, and a wake-up."""

from typing import final

import trio

__all__ = ("Changes",)


@final
class Changes:
    """Counts changes, and wakes who waits for one.

    Attributes:
        count: how many changes there were.
    """

    __slots__ = ("_lot", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Changes: {self.count}>"

    def note(self) -> None:
        """Take note of a change."""
        self.count += 1
        self._lot.unpark_all()

    async def wait(self) -> None:
        """Wait for the next change.

        Cancellation: passes through.
        """
        await self._lot.park()

"""What many tests share: a loguru sink to read back, and a `Cancelled` that is over."""

from collections.abc import Iterator

import pytest
import trio
from loguru import logger


class Log(list[tuple[str, str]]):
    """The lines that were logged: (level, message)."""

    def at(self, level: str) -> list[str]:
        return [message for logged, message in self if logged == level]


@pytest.fixture
def log() -> Iterator[Log]:
    lines = Log()
    sink = logger.add(
        lambda message: lines.append((message.record["level"].name, message.record["message"])),
        level="TRACE",
        format="{message}",
    )
    yield lines
    logger.remove(sink)


@pytest.fixture
async def stale() -> trio.Cancelled:
    """A `Cancelled` of a scope that is over."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            return cancelled
    raise AssertionError("the scope was not cancelled")

"""What many tests share: a loguru sink to read back."""

from collections.abc import Iterator

import pytest
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

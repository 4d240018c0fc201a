"""The lines of the default observer, for programs that use the standard library's `logging`.

`logging` has no TRACE: it is level 5 here, and gets that name unless it already has one.
"""

import logging
from typing import final

from trioflow.config.checks import check_flag, check_text
from trioflow.events import Event, EventType
from trioflow.observers._lines import BOUNDARIES, INFO, TRACE, WARNING, Lines

__all__ = ("LoggingObserver",)

_LEVELS = {INFO: logging.INFO, WARNING: logging.WARNING, TRACE: 5}
# What `logging` itself reports if it cannot find the caller.
_UNKNOWN = ("(unknown file)", 0, "(unknown function)")


@final
class LoggingObserver:
    """Writes events to `logging`: a run's start and end at INFO, errors at WARNING, the rest at level 5, TRACE.

    The first ten errors of a run with one message are logged as they come; if there are more, their count is
    logged before the run's end. The location in a record is the line of the user's code that started the run.

    Args:
        logger: the name of the logger.
        include_data: whether TRACE lines show items and results.

    Raises:
        ConfigError: `logger` is empty or not a string.
    """

    def __init__(self, logger: str = "trioflow", *, include_data: bool = False) -> None:
        check_text("logger", logger)
        check_flag("include_data", include_data)
        self.include_data = include_data
        self._logger = logging.getLogger(logger)
        self._lines = Lines()
        if logging.getLevelName(_LEVELS[TRACE]) == f"Level {_LEVELS[TRACE]}":
            logging.addLevelName(_LEVELS[TRACE], TRACE)

    def __repr__(self) -> str:
        return f"LoggingObserver({self._logger.name!r}, include_data={self.include_data})"

    def wants(self, type: EventType) -> bool:
        """Return whether the logger is enabled for the level of such an event, if it reports no error."""
        return type in BOUNDARIES or self._logger.isEnabledFor(_LEVELS[TRACE])

    def on_event(self, event: Event) -> None:
        """Log `event`, usually as one line."""
        for line in self._lines.of(event):
            level = _LEVELS[line.level]
            if not self._logger.isEnabledFor(level):
                continue
            place = line.place
            file, number, function = _UNKNOWN if place is None else (place.file, place.line, place.function)
            name = self._logger.name
            record = self._logger.makeRecord(name, level, file, number, str(line), (), None, function)
            self._logger.handle(record)

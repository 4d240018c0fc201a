"""The default observer: writes a run's lines to loguru.

Loguru drops TRACE lines unless a sink has that level. While none has, a run may skip most TRACE events: every
sixteenth is tried, and the first that a sink takes brings back all, so that a sink added during a run soon gets
them. loguru is imported at the first event, because the import takes a fifth to a quarter as long as Trio's
(`benchmarks/bench_import.py`).
"""

import os
from typing import TYPE_CHECKING, Any, final

from trioflow.config.checks import check_flag
from trioflow.events import Event, EventType
from trioflow.observers._lines import BOUNDARIES, INFO, TRACE, Line, Lines

if TYPE_CHECKING:
    from loguru import Logger, Record

__all__ = ("LoguruObserver",)

_TRIED = 16
"""While no sink takes TRACE lines, one event in this many is tried."""


@final
class LoguruObserver:
    """Writes events to loguru: a run's start and end at INFO, errors at WARNING, the rest at TRACE.

    The first ten errors of a run with one message are logged as they come; if there are more, their count is
    logged before the run's end. The location in a record is the line of the user's code that started the run.

    Args:
        include_data: whether TRACE lines show items and results.
    """

    def __init__(self, *, include_data: bool = False) -> None:
        check_flag("include_data", include_data)
        self.include_data = include_data
        self._lines = Lines()
        self._logger: Logger | None = None
        self._traced = False
        self._untried = 0

    def __repr__(self) -> str:
        return f"LoguruObserver(include_data={self.include_data})"

    def wants(self, type: EventType) -> bool:
        """Return whether a sink takes lines of the level of such an event, as of the last one tried."""
        if self._traced or type in BOUNDARIES:
            return True
        if self._untried:
            self._untried -= 1
            return False
        self._untried = _TRIED - 1
        return True

    def on_event(self, event: Event) -> None:
        """Log `event`, usually as one line."""
        logger = self._logger
        if logger is None:
            from loguru import logger as root  # noqa: PLC0415 - on first use: see the module's docstring

            logger = self._logger = root.patch(_locate)
        for line in self._lines.of(event):
            # As an argument the line is formatted only if a sink takes it, and the patcher can find it.
            logger.log(line.level, "{trioflow_line}", trioflow_line=line)
            if line.level == TRACE:
                self._traced = line.taken
            elif line.level == INFO:
                # A new run tries again, so that a TRACE sink gets it from its first item.
                self._untried = 0


def _locate(record: "Record") -> None:
    """Set the record's location to the place in the user's code instead of ours."""
    line: Line = record["extra"].pop("trioflow_line")
    place = line.place
    if place is None:
        return
    name = os.path.basename(place.file)  # noqa: PTH119 - as loguru does it, for each line
    file: Any = type(record["file"])
    record["file"] = file(name, place.file)
    record["name"], record["function"], record["line"] = place.module, place.function, place.line
    record["module"] = os.path.splitext(name)[0]  # noqa: PTH122 - the same

"""The default observer: a run's lines, written to loguru.

Loguru drops what goes to TRACE unless a sink asks for it. While no sink does, a run may leave out most of it;
each sixteenth line is tried, and the first that is taken brings back all, so that a sink that is added in the
middle of a run is served soon. loguru is imported when the first event comes, because that costs a fifth to a
quarter of what Trio does (`benchmarks/bench_import.py`).
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
"""One of so many events is asked for while no sink takes TRACE lines."""


@final
class LoguruObserver:
    """Writes events to loguru: a run's start and end at INFO, failures at WARNING, the rest at TRACE.

    Of the failures of a run with one message ten are shown as they come, and their number before the run's end. A
    line names the place in the user's code that started the run.

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
        """Return whether a sink takes the line of such an event, as far as the last one that was tried shows."""
        if self._traced or type in BOUNDARIES:
            return True
        if self._untried:
            self._untried -= 1
            return False
        self._untried = _TRIED - 1
        return True

    def on_event(self, event: Event) -> None:
        """Write what `event` gives, a line as a rule."""
        logger = self._logger
        if logger is None:
            from loguru import logger as root  # noqa: PLC0415 - on first use: see the module's docstring

            logger = self._logger = root.patch(_locate)
        for line in self._lines.of(event):
            # As an argument it becomes text only where a sink takes it, and the patcher finds it.
            logger.log(line.level, "{trioflow_line}", trioflow_line=line)
            if line.level == TRACE:
                self._traced = line.taken
            elif line.level == INFO:
                # A run that begins has a sink that takes TRACE lines served from its first item.
                self._untried = 0


def _locate(record: "Record") -> None:
    """Let the record name the place in the user's code instead of ours."""
    line: Line = record["extra"].pop("trioflow_line")
    place = line.place
    if place is None:
        return
    name = os.path.basename(place.file)  # noqa: PTH119 - as loguru does it, for each line
    file: Any = type(record["file"])
    record["file"] = file(name, place.file)
    record["name"], record["function"], record["line"] = place.module, place.function, place.line
    record["module"] = os.path.splitext(name)[0]  # noqa: PTH122 - the same

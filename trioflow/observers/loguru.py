"""The default observer: one log line for a run's start, one for its end, one warning a failure.

Everything else goes to TRACE, which loguru drops unless a sink asks for it. While no sink does, a run may leave
out most of what would go there; each sixteenth line is tried, and the first that is taken brings back all, so
that a sink that is added in the middle of a run is served soon. loguru is imported when the first event comes,
because that costs a fifth to a quarter of what Trio does (`benchmarks/bench_import.py`).
"""

from collections.abc import Mapping
from typing import Any, final

from trioflow._text import one_line
from trioflow.config.checks import check_flag
from trioflow.events import Event, EventType

__all__ = ("LoguruObserver",)

_INFO = frozenset(
    {
        EventType.PARALLEL_START,
        EventType.PARALLEL_COMPLETE,
        EventType.CHAIN_START,
        EventType.CHAIN_COMPLETE,
        EventType.GRAPH_START,
        EventType.GRAPH_COMPLETE,
    }
)
_TRIED = 16
"""One of so many lines is tried while no sink takes them."""

_HIDDEN = frozenset({"error", "status"})


@final
class LoguruObserver:
    """Writes events to loguru: a run's start and end at INFO, failures at WARNING, the rest at TRACE.

    Args:
        include_data: whether TRACE lines show items and results.
    """

    def __init__(self, *, include_data: bool = False) -> None:
        check_flag("include_data", include_data)
        self.include_data = include_data
        self._logger: Any = None
        self._traced = False
        self._untried = 0

    def __repr__(self) -> str:
        return f"LoguruObserver(include_data={self.include_data})"

    def wants(self, type: EventType) -> bool:
        """Return whether a sink takes the line of such an event, as far as the last one that was tried tells."""
        if self._traced or type in _INFO:
            return True
        if self._untried:
            self._untried -= 1
            return False
        self._untried = _TRIED - 1
        return True

    def on_event(self, event: Event) -> None:
        """Write `event` as one line."""
        if self._logger is None:
            from loguru import logger  # noqa: PLC0415 - on first use: see the module's docstring

            self._logger = logger
        if event.type in _INFO:
            self._untried = 0  # a run that begins has a sink that takes its lines served from the first
            self._logger.info("{}", _Line(event))  # noqa: PLE1205 - loguru formats with braces
        elif event.data.get("error"):
            self._logger.warning("{}", _Line(event))  # noqa: PLE1205 - the same
        else:
            line = _Line(event)
            self._logger.trace("{}", line)
            self._traced = line.taken


@final
class _Line:
    """An event as text, put together only where a sink takes the line."""

    __slots__ = ("_event", "taken")

    def __init__(self, event: Event) -> None:
        self._event = event
        self.taken = False

    def __str__(self) -> str:
        self.taken = True
        return _line(self._event)


def _line(event: Event) -> str:
    status = event.data.get("status")
    words = [event.type.value, f"[{one_line(event.run_id)}]"]
    if status is not None:
        words.append(f"{status}:")
    words.append(_fields(event.data))
    return " ".join(word for word in words if word)


def _fields(data: Mapping[str, Any]) -> str:
    shown = ((name, value) for name, value in data.items() if name not in _HIDDEN and value is not None)
    return ", ".join(f"{name}={_shown(value)}" for name, value in shown)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return one_line(value if isinstance(value, str) else repr(value))

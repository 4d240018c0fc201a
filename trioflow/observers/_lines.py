"""The log lines of a run, for any logger: their text, level, and place in the user's code.

A run's start and end are INFO, errors WARNING, the rest TRACE. A hundred thousand items can fail for one reason:
the first ten errors with one message are logged as they come, and if there are more, a line before the run's last
one has their count. Up to a limit, each message has its own count; the rest share one. The state of a run is
dropped with its last event.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar, final

from trioflow._text import LINE_LIMIT, one_line, show
from trioflow.events import Event, EventType, Place

K = TypeVar("K")
V = TypeVar("V")

INFO: Final = "INFO"
WARNING: Final = "WARNING"
TRACE: Final = "TRACE"

LINES_A_MESSAGE = 10
"""Errors with one message that are logged as they come."""
MESSAGES_A_RUN = 50
"""Messages of one run that are counted separately."""
RUNS = 10_000
"""Runs whose state is stored; for an observer that misses the ends of runs, the oldest are dropped."""

_STARTS = frozenset({EventType.PARALLEL_START, EventType.CHAIN_START, EventType.GRAPH_START})
_ENDS = frozenset({EventType.PARALLEL_COMPLETE, EventType.CHAIN_COMPLETE, EventType.GRAPH_COMPLETE})
BOUNDARIES = _STARTS | _ENDS
"""The starts and ends of runs, which are logged at INFO."""
_COLLAPSED = frozenset({"parallel", "chain", "graph"})
"""Sources whose runs have a last event; the errors of others are all logged, for lack of a place for a count."""
_HIDDEN = frozenset({"error", "status", "items_unfinished"})


@final
class Line:
    """One log line; its text is formatted only when a logger needs it.

    Attributes:
        level: `INFO`, `WARNING` or `TRACE`.
        place: where in the user's code the run was started; None if unknown.
        taken: whether the text was formatted.
    """

    __slots__ = ("_text", "level", "place", "taken")

    def __init__(self, level: str, text: Event | str, place: Place | None) -> None:
        self._text = text
        self.level = level
        self.place = place
        self.taken = False

    def __repr__(self) -> str:
        return f"<Line {self.level}: {self}>"

    def __str__(self) -> str:
        self.taken = True
        return self._text if isinstance(self._text, str) else _describe(self._text)


@final
class Lines:
    """Turns the events of runs into lines; stores counts of errors, and places."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._places: dict[str, Place] = {}

    def __repr__(self) -> str:
        return f"<Lines of {len(self._tallies)} runs with failures>"

    def of(self, event: Event) -> Iterable[Line]:
        """Return the lines of `event`: none, one or several."""
        if event.type in BOUNDARIES:
            return self._boundary(event)
        level = WARNING if event.data.get("error") else TRACE
        if level == WARNING and event.source in _COLLAPSED and not self._is_early(event):
            return ()
        return (Line(level, event, self._place(event)),)

    def _boundary(self, event: Event) -> Iterator[Line]:
        """Yield the line of a run's start or end; before the end, the counts of errors not shown."""
        if event.type in _STARTS:
            if event.place is not None:
                _keep(self._places, event.run_id, event.place)
            yield Line(INFO, event, self._place(event))
            return
        place = self._place(event)
        tally = self._tallies.pop((event.source, event.run_id), None)
        for text in () if tally is None else tally.sums():
            yield Line(WARNING, f"{event.source} [{one_line(event.run_id)}] error: {text}", place)
        if event.place is not None:
            self._places.pop(event.run_id, None)
        yield Line(INFO, event, place)

    def _is_early(self, event: Event) -> bool:
        """Count an error, and return whether it is one of the first with its message."""
        run = (event.source, event.run_id)
        tally = self._tallies.get(run)
        if tally is None:
            tally = _keep(self._tallies, run, _Tally())
        return tally.count(str(event.data.get("error_message"))[:LINE_LIMIT]) <= LINES_A_MESSAGE

    def _place(self, event: Event) -> Place | None:
        """Return where the user's code started the run, or its parent."""
        if event.place is not None:
            return event.place
        return self._places.get(event.run_id) or self._places.get(event.parent or "")


@final
class _Tally:
    """Counts the errors of one run by message."""

    __slots__ = ("_counts", "_others")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._others = 0

    def count(self, message: str) -> int:
        """Count an error with `message`, and return the new count."""
        if message not in self._counts and len(self._counts) == MESSAGES_A_RUN:
            self._others += 1
            return self._others
        self._counts[message] = self._counts.get(message, 0) + 1
        return self._counts[message]

    def sums(self) -> Iterator[str]:
        """Yield a summary of each message that had more errors than lines."""
        for message, count in self._counts.items():
            if count > LINES_A_MESSAGE:
                yield f"{_hidden(count)}: {one_line(message)}"
        if self._others > LINES_A_MESSAGE:
            yield f"{_hidden(self._others)}: other messages"


def _hidden(count: int) -> str:
    return f"{count} failures, {count - LINES_A_MESSAGE} of them not shown"


def _keep(kept: dict[K, V], key: K, value: V) -> V:
    if len(kept) >= RUNS:
        del kept[next(iter(kept))]
    kept[key] = value
    return value


def _describe(event: Event) -> str:
    words = [event.type.value, f"[{one_line(event.run_id)}]"]
    status = event.data.get("status")
    if status is not None:
        unfinished = event.data.get("items_unfinished")
        words.append(f"{status}, {unfinished} unfinished:" if unfinished else f"{status}:")
    shown = ((name, value) for name, value in event.data.items() if name not in _HIDDEN and value is not None)
    words.append(", ".join(f"{name}={_show(value)}" for name, value in shown))
    return " ".join(word for word in words if word)


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return one_line(value) if isinstance(value, str) else show(value)

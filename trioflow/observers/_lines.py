"""What a log says of a run, whatever the log: which lines, at which level, of which place in the user's code.

A run's start and end are INFO, failures WARNING, the rest TRACE. A hundred thousand items can fail of one
thing: of the failures with one message the first ten are lines as they come, and where there were more, one
line before the run's last one says how many. Messages are counted apart up to a limit; the rest share one count.
What is kept of a run goes with its last event.
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
"""Failures of one message that are lines as they come."""
MESSAGES_A_RUN = 50
"""Messages of one run that are counted apart."""
RUNS = 10_000
"""Runs of which something is kept; an observer that does not see the ends of runs forgets the oldest."""

_STARTS = frozenset({EventType.PARALLEL_START, EventType.CHAIN_START, EventType.GRAPH_START})
_ENDS = frozenset({EventType.PARALLEL_COMPLETE, EventType.CHAIN_COMPLETE, EventType.GRAPH_COMPLETE})
BOUNDARIES = _STARTS | _ENDS
"""The starts and ends of runs, which INFO lines show."""
_COLLAPSED = frozenset({"parallel", "chain", "graph"})
"""Sources whose runs have a last event; failures of others are all lines, since nothing could show their count."""
_HIDDEN = frozenset({"error", "status", "items_unfinished"})


@final
class Line:
    """One line: its level, its place, and its text, which is put together only where a log takes it.

    Attributes:
        level: `INFO`, `WARNING` or `TRACE`.
        place: where in the user's code the run was started; None where that is not known.
        taken: whether the text was asked for.
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
    """Turns the events of runs into lines, and keeps what that takes: counts of failures, and places."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._places: dict[str, Place] = {}

    def __repr__(self) -> str:
        return f"<Lines of {len(self._tallies)} runs with failures>"

    def of(self, event: Event) -> Iterable[Line]:
        """Return the lines that `event` gives, none, one or several."""
        if event.type in BOUNDARIES:
            return self._boundary(event)
        level = WARNING if event.data.get("error") else TRACE
        if level == WARNING and event.source in _COLLAPSED and not self._is_early(event):
            return ()
        return (Line(level, event, self._place(event)),)

    def _boundary(self, event: Event) -> Iterator[Line]:
        """Give the line of a run's start or end; what there is to add to the failures comes before the end."""
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
        """Count a failure, and return whether it is one of the first of its message."""
        run = (event.source, event.run_id)
        tally = self._tallies.get(run)
        if tally is None:
            tally = _keep(self._tallies, run, _Tally())
        return tally.count(str(event.data.get("error_message"))[:LINE_LIMIT]) <= LINES_A_MESSAGE

    def _place(self, event: Event) -> Place | None:
        """Return where the user's code started the run, or the run that it is a part of."""
        if event.place is not None:
            return event.place
        return self._places.get(event.run_id) or self._places.get(event.parent or "")


@final
class _Tally:
    """How often one run failed of which message."""

    __slots__ = ("_counts", "_others")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._others = 0

    def count(self, message: str) -> int:
        """Count one more failure of `message`, and return how many that makes."""
        if message not in self._counts and len(self._counts) == MESSAGES_A_RUN:
            self._others += 1
            return self._others
        self._counts[message] = self._counts.get(message, 0) + 1
        return self._counts[message]

    def sums(self) -> Iterator[str]:
        """Give what is to be said of each message that had more failures than lines."""
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

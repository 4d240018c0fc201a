"""A fan-out read from a trace: the duration and the outcome of each attempt at each item.

An item without slices of attempts had one. Items that were interrupted are left out, because their durations are
unknown; they are counted.
"""

import math
from typing import final

import msgspec

from trioflow._text import list_known, quote
from trioflow.cli._printing import CommandError
from trioflow.cli._tracefile import ATTEMPT, Entry, read_trace

_KIND = "parallel "


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt; times are in seconds."""

    duration: float
    error_type: str | None = None
    """The type of its error; None if it succeeded."""
    delay: float | None = None
    """The delay before the next attempt; None for the last one."""


@final
class RecordedRun:
    """A fan-out.

    Attributes:
        name: the id of the run.
        items: the attempts at each item, by the items' indexes.
        cut_short: the number of items that had not ended.
        worker_count: the number of workers.
        duration: the duration in seconds.
    """

    def __init__(self) -> None:
        self.name = ""
        self.worker_count = 0
        self.cut_short = 0
        self.duration = 0.0
        self.items: list[tuple[Attempt, ...]] = []
        self._ends: list[tuple[int, tuple[Attempt, ...]]] = []
        self._attempts: dict[int, list[Attempt]] = {}
        self._began = math.inf
        self._ended = 0.0

    def __repr__(self) -> str:
        return f"<RecordedRun {self.name} of {len(self.items)} items>"

    @property
    def failed(self) -> int:
        """The number of failed items."""
        return sum(attempts[-1].error_type is not None for attempts in self.items)

    @property
    def most_attempts(self) -> int:
        """The largest number of attempts at an item."""
        return max(map(len, self.items))

    @property
    def work(self) -> float:
        """The total duration of all attempts, in seconds."""
        return math.fsum(attempt.duration for attempts in self.items for attempt in attempts)

    def take(self, entry: Entry) -> None:
        """Add an entry of this run."""
        if entry.ph == "M":
            if entry.name == "process_name":
                self.name = entry.word("name").removeprefix(_KIND)
            return
        self._began = min(self._began, entry.ts / 1e6)
        self._ended = max(self._ended, (entry.ts + entry.dur) / 1e6)
        if entry.ph == "B":
            self.worker_count = max(self.worker_count, int(entry.number("worker_count", 0)))
        elif entry.ph == "X" and entry.in_lane:
            if entry.cat == ATTEMPT:
                self._attempts.setdefault(entry.tid, []).append(_attempt(entry, entry.dur / 1e6))
            elif entry.is_call:
                self._end_item(entry)

    def finish(self) -> None:
        """Sort the items by the order in which they started."""
        self.duration = max(0.0, self._ended - self._began)
        self._ends.sort(key=lambda end: end[0])
        self.items = [attempts for _, attempts in self._ends]
        self._ends = []

    def _end_item(self, entry: Entry) -> None:
        attempts = self._attempts.pop(entry.tid, [])
        if entry.word("status", "ok") == "cancelled":
            self.cut_short += 1
            return
        if not attempts:
            attempts = [_attempt(entry, entry.number("duration", entry.dur / 1e6))]
        index = entry.name.removeprefix("item ")
        self._ends.append((int(index) if index.isdecimal() else 0, tuple(attempts)))


def _attempt(entry: Entry, duration: float) -> Attempt:
    failed = "error_type" in entry.args
    delay = entry.number("delay", 0.0) if "delay" in entry.args else None
    return Attempt(duration, entry.word("error_type", "Exception") if failed else None, delay)


def read_recorded(path: str, run: str | None) -> RecordedRun:
    """Return the fan-out named `run` in a trace, or by default the largest one.

    Raises:
        CommandError: the file does not exist, is damaged, or has no such fan-out.
    """
    processes: dict[int, RecordedRun] = {}

    def take(entry: Entry) -> None:
        process = processes.get(entry.pid)
        if process is None:
            # A process is named before its first entry.
            process = processes[entry.pid] = RecordedRun() if _is_fan_out(entry) else _NOTHING
        if process is not _NOTHING:
            process.take(entry)

    read_trace(path, take)
    found = [process for process in processes.values() if process is not _NOTHING]
    for each in found:
        each.finish()
    usable = [each for each in found if each.items]
    if not usable:
        raise CommandError(f"the trace {quote(path)} has no fan-out with items that ended")
    named = usable if run is None else [each for each in usable if each.name == run]
    if not named:
        known = list_known(run, dict.fromkeys(each.name for each in usable))
        raise CommandError(f"the trace {quote(path)} has no fan-out {quote(run)} {known}")
    return max(named, key=lambda each: each.work)


_NOTHING = RecordedRun()
"""Stands for a process that is not a fan-out."""


def _is_fan_out(entry: Entry) -> bool:
    return entry.name == "process_name" and entry.word("name").startswith(_KIND)

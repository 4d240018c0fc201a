"""A fan-out as a trace has it: what each attempt at each item took, and how it ended.

Of an item whose attempts are not slices of their own there was one. What was cut short is left out, because nobody
knows how long it would have taken; it is counted.
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
    """What it failed with; None for one that succeeded."""
    delay: float | None = None
    """How long the next one was waited for; None for the last."""


@final
class RecordedRun:
    """A fan-out.

    Attributes:
        name: the id of the run.
        items: the attempts at each item, by the items' indexes.
        cut_short: how many items had not ended.
        worker_count: how many workers it had.
        duration: how long it took, in seconds.
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
        """How many items failed."""
        return sum(attempts[-1].error_type is not None for attempts in self.items)

    @property
    def most_attempts(self) -> int:
        """How many attempts the item had that had most."""
        return max(map(len, self.items))

    @property
    def work(self) -> float:
        """How long all attempts took, in seconds."""
        return math.fsum(attempt.duration for attempts in self.items for attempt in attempts)

    def take(self, entry: Entry) -> None:
        """Take an entry of this run."""
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
        """Put the items into the order in which they were handed out."""
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
    """Return the fan-out of that name in a trace, or the one that had most to do.

    Raises:
        CommandError: the file is not there, is damaged, or has no such fan-out.
    """
    processes: dict[int, RecordedRun] = {}

    def take(entry: Entry) -> None:
        process = processes.get(entry.pid)
        if process is None:
            # A process is named before anything is in it.
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
"""What is no fan-out."""


def _is_fan_out(entry: Entry) -> bool:
    return entry.name == "process_name" and entry.word("name").startswith(_KIND)

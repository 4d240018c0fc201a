"""`trioflow trace summary`: summarises a trace written by `TraceObserver`.

Only the durations are held in memory.
"""

import heapq
import math
from array import array
from collections.abc import Iterator
from itertools import count
from typing import final

import msgspec

from trioflow._text import one_line
from trioflow.cli._printing import print_json, print_table, say, show_time
from trioflow.cli._tracefile import Entry, read_trace

_SLOWEST = 10
_RUNS_SHOWN = 50
_BAR = 10


def summary(file: str, *, json: bool = False) -> int:
    """Summarise a trace: the durations of the calls of each run, the slowest ones, and the errors.

    Args:
        file: a file written by `TraceObserver`; it may be truncated by a crash.
        json: print JSON instead of tables; durations are in seconds.
    """
    found = _Trace()
    shown = found.summary(whole=read_trace(file, found.take))
    if json:
        print_json(msgspec.to_builtins(shown))
    else:
        _print(shown)
    return 0


class _Group(msgspec.Struct, frozen=True):
    """Calls that are counted together: of one lane, or of one name."""

    name: str
    calls: int
    failed: int
    p50: float
    p95: float
    p99: float
    longest: float
    busy: float | None
    """The fraction of the run's time in which a call was running; None for calls without their own lane."""


class _Run(msgspec.Struct, frozen=True):
    """A run, a hub, or all routings."""

    name: str
    status: str
    duration: float
    calls: int
    failed: int
    retries: int
    groups: list[_Group]


class _Call(msgspec.Struct, frozen=True):
    """One call."""

    run: str
    name: str
    duration: float
    status: str


class _Failure(msgspec.Struct):
    """Errors of one type, and the first of them."""

    error_type: str
    count: int
    run: str
    name: str
    error_message: str


class _Summary(msgspec.Struct, frozen=True):
    """The summary of a trace."""

    whole: bool
    runs: list[_Run]
    slowest: list[_Call]
    failures: list[_Failure]


@final
class _Durations:
    """The durations of a group, in seconds."""

    def __init__(self, *, in_lane: bool) -> None:
        self.in_lane = in_lane
        self.failed = 0
        self.all = array("d")

    def grouped(self, name: str, around: float) -> _Group:
        ordered = sorted(self.all)
        p50, p95, p99 = (ordered[math.ceil(len(ordered) * share) - 1] for share in (0.50, 0.95, 0.99))
        busy = min(1.0, math.fsum(ordered) / around) if self.in_lane and around > 0 else None
        return _Group(name, len(ordered), self.failed, p50, p95, p99, ordered[-1], busy)


@final
class _Process:
    """The entries of a run, summed up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = "unfinished"
        self.retries = 0
        self.lanes: dict[int, str] = {}
        self.groups: dict[str, _Durations] = {}
        self.depth = 0
        self.began = math.inf
        self.ended = 0.0

    def mark(self, entry: Entry) -> None:
        """Add an entry that is not a call: a start or end of the run, which may be nested, or a retry arrow."""
        if entry.ph == "s" and entry.cat == "retry":
            self.retries += 1
        elif entry.ph == "B":
            self.depth += 1
        elif entry.ph == "E":
            self.depth -= 1
            if self.depth == 0:
                self.status = entry.word("status", "ok")

    def summary(self) -> _Run:
        duration = max(0.0, self.ended - self.began)
        groups = [group.grouped(name, duration) for name, group in self.groups.items()]
        groups.sort(key=lambda group: (group.busy is None, _natural(group.name) if group.busy is not None else ()))
        calls, failed = sum(group.calls for group in groups), sum(group.failed for group in groups)
        return _Run(self.name, self.status, duration, calls, failed, self.retries, groups)


def _natural(name: str) -> tuple[int, str]:
    """Return a sort key that orders `worker 10` after `worker 9`."""
    return len(name), name


@final
class _Trace:
    """The entries of a file, summed up."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._slowest: list[tuple[float, int, _Call]] = []
        self._failures: dict[str, _Failure] = {}
        self._order = count()

    def take(self, entry: Entry) -> None:
        """Count `entry`."""
        process = self._processes.get(entry.pid)
        if process is None:
            process = self._processes[entry.pid] = _Process(f"process {entry.pid}")
        if entry.ph == "M":
            self._label(process, entry)
            return
        process.began = min(process.began, entry.ts / 1e6)
        process.ended = max(process.ended, (entry.ts + entry.dur) / 1e6)
        if entry.is_call:
            self._slice(process, entry)
        elif entry.ph == "b":
            self._overlapping(process, entry)
        else:
            process.mark(entry)

    def _label(self, process: _Process, entry: Entry) -> None:
        name = entry.word("name")
        if entry.name == "process_name":
            process.name = name
        elif entry.name == "thread_name":
            process.lanes[entry.tid] = name

    def _slice(self, process: _Process, entry: Entry) -> None:
        in_lane = entry.in_lane
        name = process.lanes.get(entry.tid, f"lane {entry.tid}") if in_lane else entry.name
        self._count(process, entry, name, entry.dur / 1e6, in_lane=in_lane)

    def _overlapping(self, process: _Process, entry: Entry) -> None:
        process.status = "ok"  # hubs and routings have no end
        self._count(process, entry, entry.name, entry.number("duration", 0.0), in_lane=False)

    def _count(self, process: _Process, entry: Entry, name: str, duration: float, *, in_lane: bool) -> None:
        group = process.groups.get(name)
        if group is None:
            group = process.groups[name] = _Durations(in_lane=in_lane)
        group.all.append(duration)
        status = entry.word("status", "ok")
        if status == "error":
            group.failed += 1
            self._fail(process, entry)
        if len(self._slowest) < _SLOWEST or duration > self._slowest[0][0]:
            call = _Call(process.name, entry.name, duration, status)
            heapq.heappush(self._slowest, (duration, -next(self._order), call))
            if len(self._slowest) > _SLOWEST:
                heapq.heappop(self._slowest)

    def _fail(self, process: _Process, entry: Entry) -> None:
        kind = entry.word("error_type")
        failure = self._failures.get(kind)
        if failure is None:
            message = entry.word("error_message")
            failure = self._failures[kind] = _Failure(kind, 0, process.name, entry.name, message)
        failure.count += 1

    def summary(self, *, whole: bool) -> _Summary:
        """Return the summary."""
        failures = sorted(self._failures.values(), key=lambda failure: -failure.count)
        slowest = [call for *_, call in sorted(self._slowest, reverse=True)]
        return _Summary(whole, [process.summary() for process in self._processes.values()], slowest, failures)


def _print(shown: _Summary) -> None:
    rows = [row for run in shown.runs[:_RUNS_SHOWN] for row in _rows(run)]
    print_table(("run", "status", "calls", "failed", "retries", "p50", "p95", "p99", "longest", "busy"), rows)
    if len(shown.runs) > _RUNS_SHOWN:
        say(f"and {len(shown.runs) - _RUNS_SHOWN} more runs: --json has them all")
    if shown.slowest:
        say("\nslowest")
        slowest = (
            [show_time(each.duration), *map(one_line, (each.run, each.name, each.status))]
            for each in shown.slowest
        )
        print_table(("duration", "run", "call", "status"), slowest)
    if shown.failures:
        say("\nfailures")
        failures = (
            [str(each.count), *map(one_line, (each.error_type, each.run, each.name, each.error_message))]
            for each in shown.failures
        )
        print_table(("count", "type", "first in", "call", "message"), failures)
    if not shown.whole:
        say("\nthe file is truncated: later entries are missing")


def _rows(run: _Run) -> Iterator[list[str]]:
    """Yield a row for the run, and one for each of its groups."""
    counts = [str(each) for each in (run.calls, run.failed, run.retries)]
    yield [one_line(run.name), one_line(run.status), *counts, "", "", "", show_time(run.duration), ""]
    for group in run.groups[:_RUNS_SHOWN]:
        times = [show_time(each) for each in (group.p50, group.p95, group.p99, group.longest)]
        busy = "" if group.busy is None else _bar(group.busy)
        yield [f"  {one_line(group.name)}", "", str(group.calls), str(group.failed), "", *times, busy]


def _bar(share: float) -> str:
    full = round(share * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {share:4.0%}"

"""`trioflow trace summary`: where the time went in a file that `TraceObserver` wrote.

The file is read entry by entry, so a long one takes no more memory than its durations. An entry is one line; the
last one may be cut off, which is what a crash leaves. Anything else that cannot be read is damage.
"""

import heapq
import math
from array import array
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, BinaryIO, final

import msgspec

from trioflow._text import describe_error, one_line, quote
from trioflow.cli._printing import CommandError, print_json, print_table, say

_LONGEST_LINE = 1 << 20
_SLOWEST = 10
_RUNS_SHOWN = 50
_BAR = 10
_RUN_LANE = 0


def summary(file: str, *, json: bool = False) -> int:
    """Sum a trace up: how long the calls of each run took, the slowest of them, and what failed.

    Args:
        file: what `TraceObserver` wrote; one that a crash cut off serves too.
        json: print JSON instead of tables; durations are in seconds.
    """
    found = _read(file)
    shown = found.summary()
    if json:
        print_json(msgspec.to_builtins(shown))
    else:
        _print(shown)
    return 0


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of the file; times are in microseconds."""

    ph: str
    pid: int
    tid: int
    ts: float = 0.0
    dur: float = 0.0
    name: str = ""
    args: dict[str, Any] = {}


class _Group(msgspec.Struct, frozen=True):
    """Calls that are counted together: those of a lane, or those of a name."""

    name: str
    calls: int
    failed: int
    p50: float
    p95: float
    p99: float
    longest: float
    busy: float | None
    """The share of the run's time in which there was a call; None for calls that have no lane of their own."""


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
    """Failures of one type, and the first of them."""

    error_type: str
    count: int
    run: str
    name: str
    error_message: str


class _Summary(msgspec.Struct, frozen=True):
    """What is to be told of a trace."""

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
    """What was read of a run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = "unfinished"
        self.retries = 0
        self.lanes: dict[int, str] = {}
        self.groups: dict[str, _Durations] = {}
        self.depth = 0
        self.began = math.inf
        self.ended = 0.0

    def mark(self, entry: _Entry) -> None:
        """Take what is no call: the run's begin and end, which may be nested, and the arrows of its retries."""
        if entry.ph == "s":
            self.retries += 1
        elif entry.ph == "B":
            self.depth += 1
        elif entry.ph == "E":
            self.depth -= 1
            if self.depth == 0:
                self.status = _word(entry, "status", "ok")

    def summary(self) -> _Run:
        duration = max(0.0, self.ended - self.began)
        groups = [group.grouped(name, duration) for name, group in self.groups.items()]
        groups.sort(key=lambda group: (group.busy is None, _natural(group.name) if group.busy is not None else ()))
        calls, failed = sum(group.calls for group in groups), sum(group.failed for group in groups)
        return _Run(self.name, self.status, duration, calls, failed, self.retries, groups)


def _natural(name: str) -> tuple[int, str]:
    """Return what sorts `worker 10` behind `worker 9`."""
    return len(name), name


@final
class _Trace:
    """What was read of a file."""

    def __init__(self) -> None:
        self.whole = False
        self._processes: dict[int, _Process] = {}
        self._slowest: list[tuple[float, int, _Call]] = []
        self._failures: dict[str, _Failure] = {}
        self._order = count()

    def take(self, entry: _Entry) -> None:
        """Count `entry`."""
        process = self._processes.get(entry.pid)
        if process is None:
            process = self._processes[entry.pid] = _Process(f"process {entry.pid}")
        if entry.ph == "M":
            self._label(process, entry)
            return
        process.began = min(process.began, entry.ts / 1e6)
        process.ended = max(process.ended, (entry.ts + entry.dur) / 1e6)
        if entry.ph == "X":
            self._slice(process, entry)
        elif entry.ph == "b":
            self._overlapping(process, entry)
        else:
            process.mark(entry)

    def _label(self, process: _Process, entry: _Entry) -> None:
        name = _word(entry, "name", "")
        if entry.name == "process_name":
            process.name = name
        else:
            process.lanes[entry.tid] = name

    def _slice(self, process: _Process, entry: _Entry) -> None:
        # An attempt lies within the slice of its call; a node may have any name, and says so.
        if entry.name.startswith("attempt ") and _word(entry, "node", "") != entry.name:
            return
        in_lane = entry.tid != _RUN_LANE
        name = process.lanes.get(entry.tid, f"lane {entry.tid}") if in_lane else entry.name
        self._count(process, entry, name, entry.dur / 1e6, in_lane=in_lane)

    def _overlapping(self, process: _Process, entry: _Entry) -> None:
        process.status = "ok"  # hubs and routings have no end
        duration = entry.args.get("duration")
        taken = duration if isinstance(duration, int | float) and math.isfinite(duration) else 0.0
        self._count(process, entry, entry.name, float(taken), in_lane=False)

    def _count(self, process: _Process, entry: _Entry, name: str, duration: float, *, in_lane: bool) -> None:
        group = process.groups.get(name)
        if group is None:
            group = process.groups[name] = _Durations(in_lane=in_lane)
        group.all.append(duration)
        status = _word(entry, "status", "ok")
        if status == "error":
            group.failed += 1
            self._fail(process, entry)
        if len(self._slowest) < _SLOWEST or duration > self._slowest[0][0]:
            call = _Call(process.name, entry.name, duration, status)
            heapq.heappush(self._slowest, (duration, -next(self._order), call))
            if len(self._slowest) > _SLOWEST:
                heapq.heappop(self._slowest)

    def _fail(self, process: _Process, entry: _Entry) -> None:
        kind = _word(entry, "error_type", "")
        failure = self._failures.get(kind)
        if failure is None:
            message = _word(entry, "error_message", "")
            failure = self._failures[kind] = _Failure(kind, 0, process.name, entry.name, message)
        failure.count += 1

    def summary(self) -> _Summary:
        """Return what is to be told."""
        failures = sorted(self._failures.values(), key=lambda failure: -failure.count)
        slowest = [call for *_, call in sorted(self._slowest, reverse=True)]
        return _Summary(self.whole, [process.summary() for process in self._processes.values()], slowest, failures)


def _word(entry: _Entry, name: str, otherwise: str) -> str:
    value = entry.args.get(name)
    return value if isinstance(value, str) else otherwise


def _read(path: str) -> _Trace:
    """Return what the file has.

    Raises:
        CommandError: it is not there, or is damaged.
    """
    trace = _Trace()
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a name with a NUL is refused here too
            _take_lines(trace, path, file)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else describe_error(error)
        raise CommandError(f"the trace {quote(path)} cannot be read: {one_line(why)}") from error
    return trace


def _take_lines(trace: _Trace, path: str, file: BinaryIO) -> None:
    decode = msgspec.json.Decoder(_Entry).decode
    lines = _with_next(enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1))
    begun = False
    for (number, line), is_last in lines:
        text = line.strip()
        if not begun:
            begun = text == b"["
        elif text == b"]" and is_last:
            trace.whole = True
        else:
            try:
                trace.take(decode(text.removesuffix(b",")))
            except (msgspec.MsgspecError, UnicodeError) as error:
                if not is_last or line.endswith(b"\n"):
                    raise _damaged(path, number, describe_error(error)) from error
            continue
        if not begun:
            raise _damaged(path, number, "it is no trace that TraceObserver wrote")
    if not begun:
        raise CommandError(f"the trace {quote(path)} is empty")


def _with_next(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[tuple[int, bytes], bool]]:
    """Yield each line, and whether it is the last."""
    rest = iter(lines)
    line = next(rest, None)
    while line is not None:
        following = next(rest, None)
        yield line, following is None
        line = following


def _damaged(path: str, number: int, why: str) -> CommandError:
    return CommandError(f"the trace {quote(path)} is damaged in line {number}: {one_line(why)}")


def _print(shown: _Summary) -> None:
    rows = [row for run in shown.runs[:_RUNS_SHOWN] for row in _rows(run)]
    print_table(("run", "status", "calls", "failed", "retries", "p50", "p95", "p99", "longest", "busy"), rows)
    if len(shown.runs) > _RUNS_SHOWN:
        say(f"and {len(shown.runs) - _RUNS_SHOWN} more runs: --json has them all")
    if shown.slowest:
        say("\nslowest")
        slowest = (
            [_time(each.duration), *map(one_line, (each.run, each.name, each.status))] for each in shown.slowest
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
        say("\nthe file was cut off: what came after is not in it")


def _rows(run: _Run) -> Iterator[list[str]]:
    """Yield a row for the run, and one for each of its groups."""
    counts = [str(each) for each in (run.calls, run.failed, run.retries)]
    yield [one_line(run.name), one_line(run.status), *counts, "", "", "", _time(run.duration), ""]
    for group in run.groups[:_RUNS_SHOWN]:
        times = [_time(each) for each in (group.p50, group.p95, group.p99, group.longest)]
        busy = "" if group.busy is None else _bar(group.busy)
        yield [f"  {one_line(group.name)}", "", str(group.calls), str(group.failed), "", *times, busy]


def _bar(share: float) -> str:
    full = round(share * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {share:4.0%}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds:.0f} s"
    return f"{seconds / 1e-6:.3g} µs"

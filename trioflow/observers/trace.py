"""Timelines of runs in Chrome's Trace Event JSON, which Perfetto opens.

A run is a process in the trace, and a worker is a thread of it, called a lane here; items, steps, nodes and
attempts are slices, and a retry is an arrow to the next attempt. A child run is a slice in the lane of the call
that started it, with an arrow to its own process. Messages of hubs and routings overlap, so they are async slices.

The file is an array that grows: its closing bracket, which the format allows to be missing, is written at the end
of each run and overwritten by later entries. So the file is valid JSON after every run, and loads after a crash.
Buffered entries are limited in number and in age.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Any, Self, final

from trioflow._text import one_line, show
from trioflow.config.checks import check_instance
from trioflow.errors import ConfigError
from trioflow.events import Event, EventType
from trioflow.observers._array import GrowingArray

__all__ = ("TraceObserver",)

_RUN_STARTS = frozenset({EventType.PARALLEL_START, EventType.CHAIN_START, EventType.GRAPH_START})
_RUN_ENDS = frozenset({EventType.PARALLEL_COMPLETE, EventType.CHAIN_COMPLETE, EventType.GRAPH_COMPLETE})
_CALL_STARTS = frozenset({EventType.WORKER_START, EventType.STEP_START, EventType.NODE_START})
_CALL_ENDS = frozenset({EventType.WORKER_COMPLETE, EventType.STEP_COMPLETE, EventType.NODE_COMPLETE})
_OVERLAPPING = frozenset({"hub", "conditional"})
_HOSTS = ("parallel", "chain", "graph")

_RUN_LANE = -1
"""The lane of what no worker does, in place of a worker's number."""
_CLOCKS_DIFFER = 0.001
"""Seconds by which wall time may deviate from Trio's clock before a slice also records its duration."""


@final
class TraceObserver:
    """Writes runs to a file that opens in https://ui.perfetto.dev or `chrome://tracing`.

    ::

        with TraceObserver("run.json") as trace:
            await process_parallel(urls, fetch, observer=trace)

    The first event overwrites an existing file. If the file cannot be written, the usual warning of a failed
    observer is logged once, and nothing more is traced; no run fails. Not thread-safe.

    Args:
        path: the file to write.

    Raises:
        ConfigError: `path` is not a path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str):
            check_instance("path", path, os.PathLike)
        if not os.fspath(path):
            raise ConfigError.refusing("path", path, "the path of a file")
        self._path = os.fspath(path)
        self._file = GrowingArray(self._path)
        self._runs: dict[tuple[str, str], _Run] = {}
        self._began = 0.0
        self._numbers = count(1)
        self._flows = 0
        self._takers: dict[EventType, Callable[[_Run, Event], None]] = {
            **dict.fromkeys(_RUN_STARTS, self._begin_run),
            **dict.fromkeys(_RUN_ENDS, self._end_run),
            **dict.fromkeys(_CALL_STARTS, self._begin_call),
            **dict.fromkeys(_CALL_ENDS, self._end_call),
            EventType.TASK_RETRY: self._retry,
        }
        self._closed = False

    def __repr__(self) -> str:
        return f"<TraceObserver to {show(self._path)}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def on_event(self, event: Event) -> None:
        """Add `event` to the trace; does nothing after `close`.

        Raises:
            OSError: the file cannot be written; from then on nothing is written.
        """
        if self._closed or self._file.broken:
            return
        run = self._run_of(event)
        if event.source in _OVERLAPPING:
            self._overlap(run, event)
        else:
            self._takers.get(event.type, self._mark)(run, event)
        self._file.flush_old(event.timestamp)

    def on_items(self, event: Event) -> None:
        """Add successful items to the trace.

        Raises:
            OSError: the file cannot be written; from then on nothing is written.
        """
        if self._closed or self._file.broken:
            return
        run = self._run_of(event)
        texts = self._items(run, event.data["items"])
        self._file.add_text(",\n".join(texts), len(texts))
        self._file.flush_old(event.timestamp)

    def close(self) -> None:
        """Write the buffer and close the file; never fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._runs.clear()
        with suppress(OSError):
            self._file.close()

    # Runs.

    def _run_of(self, event: Event) -> "_Run":
        key = _process_key(event)
        run = self._runs.get(key)
        if run is None:
            name = " ".join(one_line(word) for word in key if word)
            run = self._runs[key] = _Run(self._numbers, self._file, name)
            if run.process == 1:
                self._began = event.timestamp
        return run

    def _begin_run(self, run: "_Run", event: Event) -> None:
        run.depth += 1
        around = {} if event.parent is None else {"parent": one_line(event.parent)}
        arguments = {"timestamp": event.timestamp, **_arguments(event), **around}
        name = _name(event) if event.source == "graph" else run.name
        self._write(event, run, "B", name=name, args=arguments)
        if event.parent is not None:
            self._enter_host(run, event)

    def _end_run(self, run: "_Run", event: Event) -> None:
        self._write(event, run, "E", args=_arguments(event))
        self._leave_host(run, event)
        run.depth -= 1
        if run.depth <= 0:
            del self._runs[_process_key(event)]
        self._file.finish(event.timestamp)

    def _mark(self, run: "_Run", event: Event) -> None:
        self._write(event, run, "i", name=_name(event), s="t", args=_arguments(event))

    # Runs inside runs.

    def _enter_host(self, run: "_Run", event: Event) -> None:
        """Draw an arrow from the lane of the call that starts `run`, and reserve the lane if it is free."""
        hosts = (self._runs.get((source, event.parent or "")) for source in _HOSTS)
        host = next((each for each in hosts if each is not None and each is not run), None)
        if host is None:
            return
        lane = host.lane(event.parent_worker, event.timestamp)
        # The call and its attempt started before, whatever the clocks say.
        lane.attempted = min(lane.attempted, event.timestamp)
        lane.first_inside = min(lane.first_inside, event.timestamp)
        self._flows += 1
        arrow: dict[str, Any] = {"name": "run", "cat": "run", "id": self._flows}
        self._write(event, host, "s", tid=lane.number, **arrow)
        self._write(event, run, "f", bp="e", **arrow)
        if lane.run is None and run.depth == 1:
            lane.run, run.inside, run.began = run, (host, lane), event.timestamp

    def _leave_host(self, run: "_Run", event: Event) -> None:
        """Write the slice of `run` into the lane of the call that started it, if that is still running."""
        if run.inside is None:
            return
        host, lane = run.inside
        run.inside = None
        if lane.run is run:
            lane.run = None
            name = one_line(event.data.get("graph") or run.name)
            self._slice(host, lane, event, run.began, name=name, cat="run", args={"run": one_line(event.run_id)})

    # Calls.

    def _begin_call(self, run: "_Run", event: Event) -> None:
        lane = run.lane(event.data.get("worker_id"), event.timestamp)
        # The start event of an item may come after its end, with a timestamp computed from two clocks.
        lane.begin(min(max(lane.free_at, event.timestamp), lane.first_inside))

    def _items(self, run: "_Run", items: Sequence[tuple[int, int, float, float]]) -> list[str]:
        """Return the slices of items that succeeded at their first attempt, in order.

        Formats them in one loop, which is faster than a general encoder: they contain only numbers.
        """
        texts: list[str] = []
        lanes, origin, most = run.lanes, self._began, _CLOCKS_DIFFER
        for worker, index, ended, duration in items:
            lane = lanes.get(worker) or run.lane(worker, ended)
            started = ended - duration
            if started < lane.free_at or lane.first_inside < math.inf:
                started = min(max(lane.free_at, started), lane.first_inside)
                lane.end(ended)
            lane.free_at = ended
            if not -most < ended - started - duration < most:
                texts.append(self._item_of_another_clock(lane, index, started, ended, duration))
                continue
            at = max(0, int((started - origin) * 1e9))
            length = int((ended - origin) * 1e9) - at
            texts.append(
                f'{lane.head}{at / 1000},"dur":{length / 1000},"name":"item {index}",'
                '"args":{"status":"ok","attempts":1}}'
            )
        return texts

    def _item_of_another_clock(
        self, lane: "_Lane", index: int, started: float, ended: float, duration: float
    ) -> str:
        at, length = self._at(started) / 1000, max(0, self._at(ended) - self._at(started)) / 1000
        arguments = self._file.encode({"status": "ok", "attempts": 1, "duration": duration}).decode()
        return f'{lane.head}{at},"dur":{length},"name":"item {index}","args":{arguments}}}'

    def _end_call(self, run: "_Run", event: Event) -> None:
        lane = run.lane(event.data.get("worker_id"), event.timestamp)
        if lane.attempts:
            self._end_attempt(run, lane, event)
        self._slice(run, lane, event, lane.started, name=_name(event), args=_arguments(event))
        lane.end(event.timestamp)

    def _retry(self, run: "_Run", event: Event) -> None:
        lane = run.lane(event.data.get("worker_id"), event.timestamp)
        self._end_attempt(run, lane, event)
        self._flows += 1
        lane.flow = self._flows
        self._arrow(run, lane, event, "s")
        lane.attempted = event.timestamp + event.data.get("delay", 0.0)

    def _end_attempt(self, run: "_Run", lane: "_Lane", event: Event) -> None:
        # Delays are in Trio's time, which may jump in a test: no attempt may start after its end.
        lane.attempted = min(lane.attempted, event.timestamp)
        lane.attempts += 1
        name, arguments = f"attempt {lane.attempts}", _arguments(event)
        self._slice(run, lane, event, lane.attempted, name=name, cat="attempt", args=arguments)
        if lane.flow:
            self._arrow(run, lane, event, "f", bp="e")
            lane.flow = 0

    def _arrow(self, run: "_Run", lane: "_Lane", event: Event, phase: str, **more: Any) -> None:
        more |= {"name": "retry", "cat": "retry", "id": lane.flow}
        self._write(event, run, phase, tid=lane.number, ts=lane.attempted, **more)

    def _slice(self, run: "_Run", lane: "_Lane", event: Event, started: float, **more: Any) -> None:
        duration = max(0, self._at(event.timestamp) - self._at(started))
        self._write(event, run, "X", tid=lane.number, ts=started, dur=duration / 1000, **more)

    def _overlap(self, run: "_Run", event: Event) -> None:
        name, duration = _name(event), event.data.get("duration") or 0.0
        own = f"{event.type.value} {event.data.get('message_id', event.run_id)}"
        shared: dict[str, Any] = {"name": name, "cat": event.source, "id": one_line(own)}
        self._write(event, run, "b", ts=event.timestamp - duration, args=_arguments(event), **shared)
        self._write(event, run, "e", **shared)

    def _at(self, timestamp: float) -> int:
        """Return the nanoseconds since the start of the trace: floats of epoch seconds are too coarse to add."""
        return max(0, round((timestamp - self._began) * 1e9))

    def _write(
        self,
        event: Event,
        run: "_Run",
        phase: str,
        *,
        tid: int | None = None,
        ts: float | None = None,
        **more: Any,
    ) -> None:
        at = self._at(event.timestamp if ts is None else ts) / 1000
        lane = run.process if tid is None else tid
        self._file.add({"ph": phase, "pid": run.process, "tid": lane, "ts": at, **more})


@final
class _Run:
    """One process in the trace.

    Perfetto wants the number of a lane to be unique in the file, and takes the lane with the number of its process
    for the main thread: here that of the run.
    """

    __slots__ = ("_file", "_numbers", "began", "depth", "inside", "lanes", "name", "process")

    def __init__(self, numbers: Iterator[int], file: GrowingArray, name: str) -> None:
        self.process = next(numbers)
        self.name = name
        self.depth = 0
        self.lanes: dict[int, _Lane] = {}
        self.inside: tuple[_Run, _Lane] | None = None
        """The lane of the parent run that contains its slice, from `began` on."""
        self.began = 0.0
        self._file = file
        self._numbers = numbers
        self.label("process_name", self.process, name=name)
        self.label("process_sort_index", self.process, sort_index=self.process)
        self.label("thread_name", self.process, name="run")

    def lane(self, worker: int | None, now: float) -> "_Lane":
        """Return the lane of a worker, or that of the run for None."""
        key = _RUN_LANE if worker is None else worker
        lane = self.lanes.get(key)
        if lane is None:
            number = self.process if worker is None else next(self._numbers)
            lane = self.lanes[key] = _Lane(self.process, number, now)
            if worker is not None:
                self.label("thread_name", number, name=f"worker {worker}")
                self.label("thread_sort_index", number, sort_index=worker + 1)
        return lane

    def label(self, kind: str, lane: int, **what: str | int) -> None:
        """Set the name or the sort order of the process or one of its lanes."""
        self._file.add({"ph": "M", "pid": self.process, "tid": lane, "name": kind, "args": what})


@final
class _Lane:
    """The state of one lane: the current call, its attempts, and the run that it has started."""

    __slots__ = ("attempted", "attempts", "first_inside", "flow", "free_at", "head", "number", "run", "started")

    def __init__(self, process: int, number: int, started: float) -> None:
        self.number = number
        self.head = f'{{"ph":"X","pid":{process},"tid":{number},"ts":'
        """The beginning of the text of its slices."""
        self.started = self.attempted = started
        self.free_at = -math.inf
        """When the last call ended."""
        self.first_inside = math.inf
        """When the first run was started in the current call."""
        self.run: _Run | None = None
        """The run whose slice is within the current call."""
        self.attempts = 0
        """Attempts that were followed by another."""
        self.flow = 0
        """The id of the arrow to the current attempt; 0 is none."""

    def begin(self, at: float) -> None:
        self.started = self.attempted = at
        self.attempts = self.flow = 0

    def end(self, at: float) -> None:
        self.free_at = at
        self.first_inside = math.inf
        self.run = None
        self.attempts = 0


def _process_key(event: Event) -> tuple[str, str]:
    """Return the key of a process in the trace: a run, a hub, or all routings, which have no last event."""
    if event.source == "hub":
        return "hub", str(event.data.get("hub"))
    return event.source, "" if event.source == "conditional" else event.run_id


def _name(event: Event) -> str:
    data = event.data
    if event.type is EventType.WORKER_COMPLETE:
        return f"item {data['item_index']}"
    if event.type is EventType.STEP_COMPLETE:
        return f"step {data['step_index']}"
    if event.type is EventType.NODE_COMPLETE:
        return one_line(f"{data['node']}")
    if event.type is EventType.GRAPH_START:
        return one_line(f"graph {data['graph']}")
    if event.source == "hub":
        return f"{event.type.value} {one_line(str(data.get('recipient') or data.get('topic')))}"
    return event.type.value


def _arguments(event: Event) -> dict[str, Any]:
    """Return the data of `event`, with text clipped and encodable."""
    return {name: _argument(value) for name, value in event.data.items() if value is not None}


def _argument(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, int) and not -(2**53) <= value <= 2**53:
        return str(value)
    return value if isinstance(value, bool | int | float) else show(value)

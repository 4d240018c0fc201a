"""A picture of where the time went: Chrome's Trace Event JSON, which Perfetto opens.

A run is a process in the picture and a worker a lane in it; items, steps, nodes and attempts are slices, and a
retry is an arrow to the attempt that follows. Messages of hubs and routings overlap, so they are async slices.
The file is an array that grows: its closing bracket, which the format lets be missing, is written at the end of
each run and is overwritten by what comes after it. So the file is valid JSON after every run, and loads after a
crash. What is not written yet is bounded, by its number and by its age.
"""

import os
from collections.abc import Callable
from contextlib import suppress
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

_ITEM = '{"ph":"X","pid":%d,"tid":%d,"ts":%.3f,"dur":%.3f,"name":"item %d","args":{"status":"%s","attempts":%d}}'

_RUN_LANE = 0
_OWN_LANES = 1
"""The lane of worker 0."""


@final
class TraceObserver:
    """Writes runs to a file that opens in https://ui.perfetto.dev or `chrome://tracing`.

    ::

        with TraceObserver("run.json") as trace:
            await process_parallel(urls, fetch, observer=trace)

    A file that is there is overwritten, when the first event comes. Where it cannot be written, the warning of an
    observer that failed says so once, and nothing more is traced; no run fails of it. It serves one thread.

    Args:
        path: the file.

    Raises:
        ConfigError: `path` is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str):
            check_instance("path", path, os.PathLike)
        if not os.fspath(path):
            raise ConfigError.refusing("path", path, "a path of a file")
        self._path = os.fspath(path)
        self._file = GrowingArray(self._path)
        self._runs: dict[tuple[str, str], _Run] = {}
        self._began = 0.0
        self._processes = 0
        self._flows = 0
        self._takers: dict[EventType, Callable[[_Run, Event], None]] = {
            **dict.fromkeys(_RUN_STARTS, self._begin_run),
            **dict.fromkeys(_RUN_ENDS, self._end_run),
            **dict.fromkeys(_CALL_STARTS, self._begin_call),
            **dict.fromkeys(_CALL_ENDS, self._end_call),
            EventType.WORKER_COMPLETE: self._end_item,
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
        """Take `event` into the picture; nothing is taken after `close`.

        Raises:
            OSError: the file cannot be written; from then on nothing is written.
        """
        if self._closed or self._file.broken:
            return
        if not self._processes:
            self._began = event.timestamp
        key = _process_key(event)
        run = self._runs.get(key)
        if run is None:
            self._processes += 1
            name = " ".join(one_line(word) for word in key if word)
            run = self._runs[key] = _Run(self._processes, self._file, name)
        if event.source in _OVERLAPPING:
            self._overlap(run, event)
        else:
            self._takers.get(event.type, self._mark)(run, event)
        self._file.flush_old(event.timestamp)

    def close(self) -> None:
        """Write what is not written yet; never fails, and may be called again."""
        if self._closed:
            return
        self._closed = True
        self._runs.clear()
        with suppress(OSError):
            self._file.close()

    # Runs.

    def _begin_run(self, run: "_Run", event: Event) -> None:
        run.depth += 1
        around = {} if event.parent is None else {"parent": one_line(event.parent)}
        arguments = {"timestamp": event.timestamp, **_arguments(event), **around}
        self._write(event, run, "B", name=_name(event), args=arguments)

    def _end_run(self, run: "_Run", event: Event) -> None:
        self._write(event, run, "E", args=_arguments(event))
        run.depth -= 1
        if run.depth <= 0:
            del self._runs[_process_key(event)]
        self._file.finish(event.timestamp)

    def _mark(self, run: "_Run", event: Event) -> None:
        self._write(event, run, "i", name=_name(event), s="t", args=_arguments(event))

    # Calls.

    def _begin_call(self, run: "_Run", event: Event) -> None:
        run.lane(event).begin(event)

    def _end_item(self, run: "_Run", event: Event) -> None:
        data, lane = event.data, run.lane(event)
        if lane.attempts or data["error"]:
            self._end_call(run, event)
            return
        # The common case, without what a general encoder costs: there are only numbers in it, and a word of ours.
        began = self._at(lane.started)
        duration = max(0, self._at(event.timestamp) - began)
        numbers = (run.process, lane.number, began / 1000, duration / 1000, data["item_index"])
        self._file.add_text(_ITEM % (*numbers, data["status"], data["attempts"]))

    def _end_call(self, run: "_Run", event: Event) -> None:
        lane = run.lane(event)
        if lane.attempts:
            self._end_attempt(run, lane, event)
        self._slice(run, lane, event, lane.started, name=_name(event), args=_arguments(event))
        lane.attempts = 0

    def _retry(self, run: "_Run", event: Event) -> None:
        lane = run.lane(event)
        self._end_attempt(run, lane, event)
        self._flows += 1
        lane.flow = self._flows
        self._arrow(run, lane, event, "s")
        lane.attempted = event.timestamp + event.data.get("delay", 0.0)

    def _end_attempt(self, run: "_Run", lane: "_Lane", event: Event) -> None:
        # Waits are given in Trio's time, which a test may make jump: no attempt begins after its end.
        lane.attempted = min(lane.attempted, event.timestamp)
        lane.attempts += 1
        name = f"attempt {lane.attempts}"
        self._slice(run, lane, event, lane.attempted, name=name, args=_arguments(event))
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
        """Return the nanoseconds since the trace began: seconds since the epoch are too coarse to add up."""
        return max(0, round((timestamp - self._began) * 1e9))

    def _write(
        self, event: Event, run: "_Run", phase: str, *, tid: int = _RUN_LANE, ts: float | None = None, **more: Any
    ) -> None:
        at = self._at(event.timestamp if ts is None else ts) / 1000
        self._file.add({"ph": phase, "pid": run.process, "tid": tid, "ts": at, **more})


@final
class _Run:
    """One process in the picture."""

    __slots__ = ("_file", "_lanes", "depth", "process")

    def __init__(self, process: int, file: GrowingArray, name: str) -> None:
        self.process = process
        self.depth = 0
        self._file = file
        self._lanes: dict[int, _Lane] = {}
        self.label("process_name", _RUN_LANE, name)
        self.label("thread_name", _RUN_LANE, "run")

    def lane(self, event: Event) -> "_Lane":
        """Return the lane on which the call of `event` is: a worker's own, or that of the run."""
        worker = event.data.get("worker_id")
        number = _RUN_LANE if worker is None else worker + _OWN_LANES
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane(number, event.timestamp)
            if worker is not None:
                self.label("thread_name", number, f"worker {worker}")
        return lane

    def label(self, kind: str, lane: int, name: str) -> None:
        """Name the process or one of its lanes."""
        self._file.add({"ph": "M", "pid": self.process, "tid": lane, "name": kind, "args": {"name": name}})


@final
class _Lane:
    """What goes on in one lane: the call in hand, and its attempts."""

    __slots__ = ("attempted", "attempts", "flow", "number", "started")

    def __init__(self, number: int, started: float) -> None:
        self.number = number
        self.started = self.attempted = started
        self.attempts = 0
        """Attempts that have ended and were followed by another."""
        self.flow = 0
        """The arrow that leads to the attempt under way; 0 is none."""

    def begin(self, event: Event) -> None:
        self.started = self.attempted = event.timestamp
        self.attempts = self.flow = 0


def _process_key(event: Event) -> tuple[str, str]:
    """Return what has one process in the picture: a run, a hub, or all routings, which have no last event."""
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
    """Return the data of `event`, with its text bounded and encodable."""
    return {name: _argument(value) for name, value in event.data.items() if value is not None}


def _argument(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, int) and not -(2**53) <= value <= 2**53:
        return str(value)
    return value if isinstance(value, bool | int | float) else show(value)

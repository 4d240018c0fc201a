"""Progress of runs: bars on a terminal, occasional plain lines elsewhere.

Events trigger drawing, so there is no thread; an event less than an interval after the last drawing only updates
the counts. Successful items come in batches and are only counted; errors come one by one.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from trioflow._text import clip, one_line
from trioflow.config.checks import check_seconds
from trioflow.errors import ConfigError
from trioflow.events import RATE_WAIT, Event, EventType

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

__all__ = ("ProgressObserver",)

_ROWS = 12
"""Runs shown at once; of the rest, only the number is shown."""
_NAME = 40
"""The most characters of a name."""

_SHORTEST_WAIT = 0.5
"""The shortest wait that is shown, in seconds."""

_MADE_UP = re.compile(r"[0-9a-f]{32}")


@final
class ProgressObserver:
    """Shows the progress of runs; needs the extra `progress`.

    ::

        await process_parallel(urls, fetch, observer=ProgressObserver())

    Each run has a line with the number of items done and in total, errors, retries and waits, the rate, and the
    estimated time left. Running child runs are below it; a graph shows its current node. Without a terminal there
    is at most one line per `line_interval`, and one at the end of each outer run. Nothing is drawn between events;
    call `refresh` to draw. Not thread-safe.

    Args:
        console: the console; None is standard error.
        interval: seconds between two drawings.
        line_interval: seconds between two lines, without a terminal.

    Raises:
        ImportError: the extra `progress` is not installed.
        ConfigError: an argument is invalid.
    """

    def __init__(
        self, console: "Console | None" = None, *, interval: float = 0.1, line_interval: float = 5.0
    ) -> None:
        try:
            import rich.console  # noqa: PLC0415 - the extra
            import rich.live  # noqa: PLC0415 - the same
            import rich.progress_bar  # noqa: PLC0415 - the same
            import rich.table  # noqa: PLC0415 - the same
            import rich.text  # noqa: PLC0415 - the same
        except ImportError as error:
            message = "ProgressObserver needs the extra 'progress': pip install 'trioflow[progress]'"
            raise ImportError(message) from error
        if console is not None and not isinstance(console, rich.console.Console):
            raise ConfigError.refusing("console", console, "a rich.console.Console, or None (standard error)")
        check_seconds("interval", interval, optional=False)
        check_seconds("line_interval", line_interval, optional=False)
        self._rich = rich
        self._console = rich.console.Console(stderr=True) if console is None else console
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._interval = interval if self._draws else line_interval
        self._live: Live | None = None
        self._open: dict[tuple[str, str], list[_Run]] = {}
        self._ended: list[_Run] = []
        self._shown = 0.0
        self._closed = False
        self._takers: dict[EventType, Callable[[_Run, Event], None]] = {
            EventType.WORKER_COMPLETE: _Run.item_ended,
            EventType.STEP_START: _Run.step_began,
            EventType.STEP_COMPLETE: _Run.step_ended,
            EventType.NODE_START: _Run.node_began,
            EventType.NODE_COMPLETE: _Run.node_ended,
            EventType.TASK_RETRY: _Run.retried,
            EventType.CHECKPOINT_LOAD: _Run.loaded,
        }

    def __repr__(self) -> str:
        return f"<ProgressObserver of {self.runs} runs{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def runs(self) -> int:
        """The number of running runs."""
        return sum(map(len, self._open.values()))

    def on_begin(self, event: Event) -> None:
        """Record that an attempt waits for the rate limit of its run."""
        if event.type is EventType.CUSTOM and event.data["name"] == RATE_WAIT:
            same = self._open.get((event.source, event.run_id))
            if not self._closed and same:
                same[-1].waits_for_rate(event.timestamp, event.data["data"]["delay"])

    def on_items(self, event: Event) -> None:
        """Count successful items, and draw if it is time."""
        same = self._open.get((event.source, event.run_id))
        if self._closed or not same:
            return
        same[-1].done += len(event.data["items"])
        if abs(event.timestamp - self._shown) >= self._interval:
            self._show(event.timestamp)

    def on_event(self, event: Event) -> None:
        """Record `event`, and draw if it is time; does nothing after `close`, or after drawing has failed."""
        if self._closed:
            return
        key = event.source, event.run_id
        if event.type in _STARTS:
            self._begin(key, event)
        elif event.type in _ENDS:
            self._end(key, event)
        else:
            take, same = self._takers.get(event.type), self._open.get(key)
            if take is None or not same:
                return
            take(same[-1], event)
            if event.type in _QUIET:
                return
        # In both directions: the clock may be adjusted.
        if abs(event.timestamp - self._shown) >= self._interval:
            self._show(event.timestamp)

    def refresh(self) -> None:
        """Draw now, to update the times between events."""
        if not self._closed and self._open:
            self._show(time.time())

    def close(self) -> None:
        """Restore the terminal; nothing is drawn afterwards. Idempotent."""
        self._closed = True
        self._open.clear()
        self._stop()

    def _begin(self, key: tuple[str, str], event: Event) -> None:
        if not self._open and not self._draws:
            self._shown = event.timestamp
        depth = 0
        if event.parent is not None:
            around = [run for same in self._open.values() for run in same if run.run_id == event.parent]
            depth = around[-1].depth + 1 if around else 0
        self._open.setdefault(key, []).append(_Run(event, depth))

    def _end(self, key: tuple[str, str], event: Event) -> None:
        same = self._open.get(key)
        if not same:
            return
        run = same.pop()
        if not same:
            del self._open[key]
        run.end(event)
        if not run.depth:
            if self._draws:
                self._ended = [*self._ended, run][-_ROWS:]
            else:
                self._write(run, event.timestamp)
        if not self._open:
            if self._live is not None:
                # Stopping draws it once more.
                self._live.update(self._picture(event.timestamp))
            self._ended.clear()
            self._stop()

    # Drawing. A console that has failed is not used again; the emitter logs one warning.

    def _show(self, now: float) -> None:
        self._shown = now
        if not self._draws:
            for run in [run for same in self._open.values() for run in same if not run.depth][:_ROWS]:
                self._write(run, now)
            return
        try:
            if self._live is None:
                self._live = self._rich.live.Live(
                    console=self._console,
                    auto_refresh=False,
                    redirect_stdout=_is_terminal(sys.stdout),
                    redirect_stderr=_is_terminal(sys.stderr),
                )
                self._live.start()
            self._live.update(self._picture(now), refresh=True)
        except Exception:
            self._closed = True
            raise

    def _write(self, run: "_Run", now: float) -> None:
        try:
            self._console.print(self._rich.text.Text(f"{run.name}: {run.describe(now)}"), soft_wrap=True)
        except Exception:
            self._closed = True
            raise

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _picture(self, now: float) -> "Table":
        text, bar = self._rich.text.Text, self._rich.progress_bar.ProgressBar
        table = self._rich.table.Table.grid(padding=(0, 1))
        for _ in range(3):
            table.add_column(no_wrap=True)
        runs = [*self._ended, *_below(self._open.values())]
        for run in runs[:_ROWS]:
            done = bar(run.total or 1, run.done if run.total else float(bool(run.status)), width=20)
            table.add_row(text("  " * min(run.depth, 5) + run.name), done, text(run.describe(now)))
        if len(runs) > _ROWS:
            table.add_row(text(f"and {len(runs) - _ROWS} more runs"))
        return table


_STARTS = frozenset({EventType.PARALLEL_START, EventType.CHAIN_START, EventType.GRAPH_START})
_ENDS = frozenset({EventType.PARALLEL_COMPLETE, EventType.CHAIN_COMPLETE, EventType.GRAPH_COMPLETE})
_QUIET = frozenset({EventType.STEP_START})
"""The events that end a unit of progress."""


@final
class _Run:
    """The progress of one run."""

    __slots__ = (
        "_before",
        "_seconds",
        "_wait",
        "_why",
        "depth",
        "done",
        "failed",
        "name",
        "node",
        "parent",
        "retries",
        "run_id",
        "started",
        "status",
        "total",
    )

    def __init__(self, event: Event, depth: int) -> None:
        data = event.data
        self.run_id = event.run_id
        self.parent = event.parent
        self.depth = depth
        self.name = _name(event)
        self.total: int | None = data.get("item_count")
        self.started = event.timestamp
        self.done = self._before = data.get("iterations", 0)
        self.failed = self.retries = 0
        self.node = self.status = self._why = ""
        self._wait = self._seconds = 0.0

    def item_ended(self, event: Event) -> None:
        status = event.data.get("status")
        self.failed += status == "error"
        self.done += status != "cancelled"

    def step_began(self, event: Event) -> None:
        if not self.done:
            self.done = self._before = event.data["step_index"]

    def step_ended(self, event: Event) -> None:
        self.failed += event.data["status"] == "error"
        self.done += event.data["status"] == "ok"

    def node_began(self, event: Event) -> None:
        self.node = clip(one_line(event.data["node"]), _NAME)

    def node_ended(self, event: Event) -> None:
        self.failed += event.data["status"] == "error"
        self.done += event.data["status"] == "ok"

    def retried(self, event: Event) -> None:
        self.retries += 1
        why = clip(one_line(str(event.data["error_type"])), _NAME)
        self._wait_until(event.timestamp + event.data["delay"], f"after {why}")

    def waits_for_rate(self, now: float, seconds: float) -> None:
        self._wait_until(now + seconds, "for the rate")

    def _wait_until(self, until: float, why: str) -> None:
        if until > self._wait:
            self._wait, self._why = until, why

    def loaded(self, event: Event) -> None:
        self._before = event.data.get("items", 0)
        self.done = max(self.done, self._before)

    def end(self, event: Event) -> None:
        data = event.data
        if "items_processed" in data:
            self.done, self.failed = data["items_processed"] + data["items_failed"], data["items_failed"]
        self.status = data["status"]
        self.node = ""
        self._seconds = max(0.0, event.timestamp - self.started)

    def describe(self, now: float) -> str:
        """Return the progress as text."""
        return ", ".join(word for word in self._words(now) if word)

    def _words(self, now: float) -> Iterator[str]:
        yield f"{self.done} done" if self.total is None else f"{self.done}/{self.total}"
        yield f"{self.failed} failed" if self.failed else ""
        if self.status:
            yield _clock(self._seconds) if self._seconds >= 60 else f"{self._seconds:.1f} s"
            yield "" if self.status == "ok" else self.status
        else:
            yield f"in {self.node}" if self.node else self._pace(now)
        yield f"{self.retries} {'retry' if self.retries == 1 else 'retries'}" if self.retries else ""
        wait = 0.0 if self.status else self._wait - now
        yield f"waits {wait:.0f} s {self._why}" if wait >= _SHORTEST_WAIT else ""

    def _pace(self, now: float) -> str:
        made, elapsed = self.done - self._before, now - self.started
        if made <= 0 or elapsed <= 0:
            return ""
        rate = _rate(made / elapsed)
        if self.total is None:
            return rate
        return f"{rate}, {_clock(max(0, self.total - self.done) * elapsed / made)} left"


def _below(groups: Iterable[list[_Run]]) -> Iterator[_Run]:
    """Yield the runs, each followed by its child runs."""
    inside: dict[str | None, list[_Run]] = {}
    for run in (run for group in groups for run in group):
        inside.setdefault(run.parent if run.depth else None, []).append(run)
    stack = list(reversed(inside.pop(None, [])))
    while stack:
        run = stack.pop()
        yield run
        stack.extend(reversed(inside.pop(run.run_id, [])))


def _name(event: Event) -> str:
    words: list[Any] = [event.source]
    if "graph" in event.data:
        words.append(event.data["graph"])
    elif not _MADE_UP.fullmatch(event.run_id):
        words.append(event.run_id)
    return " ".join(clip(one_line(word), _NAME) for word in words)


def _rate(each_second: float) -> str:
    if each_second >= 10:
        return f"{each_second:.0f}/s"
    if each_second >= 0.1:
        return f"{each_second:.1f}".removesuffix(".0") + "/s"
    return f"{each_second * 60:.1f}/min"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_terminal(stream: Any) -> bool:
    """Whether `stream` is a terminal, so that printing to it has to be kept apart from the bars."""
    return stream is not None and stream.isatty()
